//! Bulk results: `COPY … TO STDOUT` on every route, read by a client that throws it away.
//!
//! Masking is measured on a COPY and on a SELECT of the same volume, beside the same statement through haproxy.

use crate::{
    ground::{Ground, Route},
    statistics::median,
};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write as _, process::Stdio, time::Duration};

/// Bytes that one reading of a table gives (its rows times their length, roughly).
const TABLE_BYTES: u64 = 105_000_000;

/// A bulk result that does not end within this has stalled: 10 GB at 20 MB/s.
const WITHIN: Duration = Duration::from_secs(500);

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bulk {
    /// A table without masked columns.
    Plain,
    /// A COPY of a table with two masked columns out of five.
    MaskedCopy,
    /// A SELECT of the same.
    Masked,
}

impl Bulk {
    /// A result of about so many bytes.
    pub fn statement(self, bytes: u64) -> String {
        let times = bytes.div_ceil(TABLE_BYTES);
        match self {
            Self::Plain => {
                format!("COPY (SELECT t.* FROM generate_series(1, {times}), readings t) TO STDOUT")
            }
            Self::MaskedCopy => {
                format!("COPY (SELECT t.* FROM generate_series(1, {times}), people t) TO STDOUT")
            }
            Self::Masked => format!("SELECT t.* FROM generate_series(1, {times}), people t"),
        }
    }
}

/// What one result was.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Drained {
    /// Bytes of its rows.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    micros: u64,
}

impl Drained {
    /// Megabytes a second.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub fn rate(self) -> f64 {
        self.bytes as f64 / self.micros as f64
    }
}

/// Runs one statement and throws its answer away.
pub async fn drain(ground: &Ground, route: Route, statement: &str) -> Result<Drained> {
    let mut client = ground.raw_client(route, &["drain", statement]);
    let client = client.stdout(Stdio::piped()).spawn()?.wait_with_output();
    let done = tokio::time::timeout(WITHIN, client).await.context("the result stalled")??;
    ensure!(done.status.success(), "{route:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).with_context(|| format!("{route:?}: {done:?}"))
}

/// Megabytes a second, one value a round.
#[derive(Default)]
pub struct Throughput(BTreeMap<(Bulk, Route), Vec<f64>>);

/// Who copies what. pgbouncer is left out: it promises nothing here.
const RUNS: [(Bulk, Route); 8] = [
    (Bulk::Plain, Route::Direct),
    (Bulk::Plain, Route::Haproxy),
    (Bulk::Plain, Route::Relay),
    (Bulk::Plain, Route::Lockgate),
    (Bulk::MaskedCopy, Route::Haproxy),
    (Bulk::MaskedCopy, Route::Lockgate),
    (Bulk::Masked, Route::Haproxy),
    (Bulk::Masked, Route::Lockgate),
];

impl Throughput {
    /// Measures one round.
    pub async fn round(&mut self, ground: &Ground, round: u32, bytes: u64) -> Result<()> {
        for (bulk, route) in RUNS {
            let drained = drain(ground, route, &bulk.statement(bytes)).await?;
            if drained.bytes < bytes * 9 / 10 {
                bail!("expected about {bytes} bytes, got {drained:?}");
            }
            eprintln!("round {round}: bulk {bulk:?} {:<18} {:.0} MB/s", route.title(), drained.rate());
            self.0.entry((bulk, route)).or_default().push(drained.rate());
        }
        Ok(())
    }

    /// The table.
    pub fn table(&self) -> Result<String> {
        let of = |bulk, route| self.0.get(&(bulk, route)).map_or(f64::NAN, |values| median(values));
        let mut out = String::from("| result | route | MB/s | ÷ haproxy |\n|---|---|---:|---:|\n");
        for (bulk, route) in RUNS {
            let name = match (bulk, route) {
                (Bulk::Plain, _) => "COPY",
                (Bulk::MaskedCopy, Route::Lockgate) => "COPY, two of five columns masked",
                (Bulk::MaskedCopy, _) => "the same COPY, unmasked",
                (Bulk::Masked, Route::Lockgate) => "SELECT, two of five columns masked",
                (Bulk::Masked, _) => "the same SELECT, unmasked",
            };
            let rate = of(bulk, route);
            writeln!(
                out,
                "| {name} | {} | {rate:.0} | {:.2} |",
                route.title(),
                rate / of(bulk, Route::Haproxy)
            )?;
        }
        Ok(out)
    }
}
