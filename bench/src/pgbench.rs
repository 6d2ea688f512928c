//! `pgbench -S` on every route, interleaved in rounds.

use crate::{
    ground::{Ground, Route},
    statistics::median,
};
use anyhow::{Context, Result, ensure};
use lockgate_tests::job;
use std::{collections::BTreeMap, fmt::Write as _};

const MODES: [&str; 3] = ["simple", "extended", "prepared"];
const CLIENTS: [u32; 3] = [1, 8, 32];

/// How often a measurement that failed is repeated, each time a second longer, before the last one counts.
const ATTEMPTS: u32 = 2;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    mode: &'static str,
    clients: u32,
    /// Every transaction connects anew (`-C`).
    reconnect: bool,
}

impl Load {
    /// The table's lines whose name contains `filter`.
    pub fn all(filter: &str) -> Vec<Self> {
        let kept =
            MODES.iter().flat_map(|&mode| CLIENTS.map(|clients| Self { mode, clients, reconnect: false }));
        let connecting = Self { mode: "simple", clients: 1, reconnect: true };
        kept.chain([connecting]).filter(|load| load.name().contains(filter)).collect()
    }

    fn name(self) -> String {
        let Self { mode, clients, reconnect } = self;
        let plural = if clients == 1 { "" } else { "s" };
        let connecting = if reconnect { ", new connection each (-C)" } else { "" };
        format!("{mode}, {clients} client{plural}{connecting}")
    }
}

/// Transactions per second by load and route, one value a round.
#[derive(Default)]
pub struct Rates(BTreeMap<(Load, Route), Vec<f64>>);

impl Rates {
    /// Measures one round; the order of the routes turns around every other round.
    pub async fn round(&mut self, ground: &Ground, loads: &[Load], round: u32, seconds: u32) -> Result<()> {
        for load in loads {
            let mut routes = Route::ALL;
            if round.is_multiple_of(2) {
                routes.reverse();
            }
            for route in routes {
                let tps = tried(ground, route, *load, seconds).await?;
                eprintln!("round {round}: {:<45} {:<18} {tps:.0}/s", load.name(), route.title());
                self.0.entry((*load, route)).or_default().push(tps);
            }
        }
        Ok(())
    }

    /// The table: medians, and lockgate's ratio to each of the others.
    pub fn table(&self, loads: &[Load]) -> Result<String> {
        let others = &Route::ALL[..Route::ALL.len() - 1];
        let mut out = String::from("| load |");
        Route::ALL.iter().for_each(|route| out.push_str(&format!(" {} |", route.title())));
        others.iter().for_each(|route| out.push_str(&format!(" ÷ {} |", route.title())));
        writeln!(out, "\n|---|{}", "---:|".repeat(Route::ALL.len() + others.len()))?;
        for load in loads {
            let of = |route| self.0.get(&(*load, route)).map_or(f64::NAN, |values| median(values));
            write!(out, "| {} |", load.name())?;
            Route::ALL.iter().try_for_each(|route| write!(out, " {:.0} |", of(*route)))?;
            others.iter().try_for_each(|route| write!(out, " {:.2} |", of(Route::Lockgate) / of(*route)))?;
            writeln!(out)?;
        }
        Ok(out)
    }
}

/// Runs it again when it made no transaction at all: on a busy machine connecting can outlast a short measurement.
async fn tried(ground: &Ground, route: Route, load: Load, seconds: u32) -> Result<f64> {
    for longer in 0..ATTEMPTS {
        match run(ground, route, load, seconds + longer).await {
            Err(error) => eprintln!("{}, {}: once more: {error:#}", load.name(), route.title()),
            measured => return measured,
        }
    }
    run(ground, route, load, seconds + ATTEMPTS).await
}

/// Transactions per second.
async fn run(ground: &Ground, route: Route, load: Load, seconds: u32) -> Result<f64> {
    let pgbench = ground.pg.program("pgbench").display().to_string();
    let (port, clients, seconds) =
        (ground.port(route).to_string(), load.clients.to_string(), seconds.to_string());
    let mut command = vec![pgbench.as_str(), "-n", "-S", "-M", load.mode, "-c", &clients, "-j", "1"];
    command.extend(["-T", &seconds, "-h", "127.0.0.1", "-p", &port, "-U", "app"]);
    if load.reconnect {
        command.push("-C");
    }
    command.push("postgres");
    let done = job::run(ground.client(route, &command)).await?;
    ensure!(done.code == Some(0), "{route:?}: {done:?}");
    done.stdout
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .with_context(|| format!("{route:?}: {done:?}"))
}
