//! `lockgate audit checkpoint|prove|grown|check`: what the log proves to somebody who has neither it nor this host's word.
//!
//! Proofs are asked of the agent, this host's or the one that `LOCKGATE_URL` names; without one they are made from the
//! store. Checking them takes the public key and nothing else: no configuration, no store, no network.

use super::{
    Exit, Output, TEMPLATE,
    client::{Agent, CallError},
    output::{self, Style, styled},
    sessions, text,
};
use crate::config::Client;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use lockgate_store::{Growth, Inclusion, PublicKey, Reader, StoreError};
use serde_json::{Value, json};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Records proven by one call at most: a session's id can be in millions.
const MAX_PROVEN: usize = 1000;
/// What is read as a note or proof at most; the largest record in base64 is smaller.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// Prove that records are in the log: by number, or all that mention an id
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate audit prove 1042 > 1042.tlog-proof
  lockgate audit prove dec_01J9Z3 --out evidence/      the decision, and what became of it
  lockgate audit check 1042.tlog-proof --key log.pub   on any machine
",
)]
pub(super) struct Prove {
    /// A record's number, or an id: of a session, operation, decision or request
    #[arg(value_name = "RECORD|ID")]
    what: String,
    /// Write each proof to a file of its own here, NUMBER.tlog-proof
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prove that the log went on from an earlier signed head of it
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate audit checkpoint > monday.checkpoint
  lockgate audit grown monday.checkpoint > week.growth
  lockgate audit check week.growth --key log.pub
",
)]
pub(super) struct Grown {
    /// The earlier head, as `audit checkpoint` printed it; - is standard input
    #[arg(value_name = "CHECKPOINT")]
    old: PathBuf,
}

/// Check a proof with the public key alone; exit code 1 when it proves nothing
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate audit check 1042.tlog-proof --key log.pub
  lockgate audit check week.growth --key log.pub --output json
",
)]
pub(super) struct Check {
    /// What `audit prove` or `audit grown` printed; - is standard input
    #[arg(value_name = "PROOF")]
    proof: PathBuf,
    /// The log's public key: a copy that was kept off the host
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

pub(super) fn public_key(path: &Path) -> anyhow::Result<PublicKey> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.trim().parse().with_context(|| format!("{} is not a public key", path.display()))
}

pub(super) fn checkpoint(config: &Path) -> anyhow::Result<Exit> {
    let place = Place::Host(config);
    output::print(
        &place.text(|agent| agent.get_slow("/v1/audit/checkpoint"), |reader| reader.checkpoint())?,
    )?;
    Ok(Exit::Done)
}

/// The log that proves: this host's, or a copy.
pub(super) enum Place<'a> {
    /// The agent is asked; without one the store is read.
    Host(&'a Path),
    /// A directory.
    Copy(Box<Reader>),
}

impl Place<'_> {
    /// What the agent answers; from the store when none does.
    fn asked<T>(
        &self,
        ask: impl FnOnce(&Agent) -> Result<Value, CallError>,
        answer: impl FnOnce(Value) -> Option<T>,
        read: impl FnOnce(&Reader) -> Result<T, StoreError>,
    ) -> anyhow::Result<T> {
        let config = match self {
            Self::Host(config) => config,
            Self::Copy(reader) => return Ok(read(reader)?),
        };
        match ask(&Agent::reach(config)?) {
            Ok(value) => answer(value).context("the agent's answer cannot be read: is it another version?"),
            Err(error) if error.is_no_agent() => Ok(read(&sessions::reader(&Client::read(config)?)?)?),
            Err(error) => Err(error.into_failure()),
        }
    }

    fn text(
        &self,
        ask: impl FnOnce(&Agent) -> Result<Value, CallError>,
        read: impl FnOnce(&Reader) -> Result<String, StoreError>,
    ) -> anyhow::Result<String> {
        self.asked(ask, |answer| Some(answer["text"].as_str()?.to_owned()), read)
    }

    /// That a record is in the log.
    pub(super) fn proof(&self, seq: u64) -> anyhow::Result<String> {
        self.text(
            |agent| agent.get_slow(&format!("/v1/audit/proofs/{seq}")),
            |reader| Ok(reader.prove(seq)?.to_string()),
        )
    }

    /// Which records mention an id or a hash.
    pub(super) fn mentions(&self, id: &str) -> anyhow::Result<Vec<u64>> {
        self.asked(
            |agent| agent.get_slow(&format!("/v1/audit/mentions/{id}")),
            |answer| answer["records"].as_array()?.iter().map(Value::as_u64).collect(),
            |reader| reader.mentions(id, MAX_PROVEN),
        )
    }
}

pub(super) fn prove(config: &Path, Prove { what, out }: &Prove) -> anyhow::Result<Exit> {
    let place = Place::Host(config);
    let records = match what.parse() {
        Ok(seq) => vec![seq],
        Err(_) => {
            let id = what.split_once('_').is_some_and(|(kind, id)| {
                !kind.is_empty() && id.len() > 5 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
            });
            ensure!(id, "expected a record's number or an id like dec_01J9Z3…, got {what:?}");
            place.mentions(what)?
        }
    };
    match (&records[..], out) {
        ([], _) => bail!("no record mentions {what}; `lockgate sessions` lists what is recorded"),
        ([seq], None) => output::print(&place.proof(*seq)?)?,
        (many, None) => bail!(
            "{} records mention {what}: say where their proofs go with --out DIR, or take one: {}",
            many.len(),
            many.iter().take(10).map(u64::to_string).collect::<Vec<_>>().join(", ")
        ),
        (records, Some(dir)) => {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            for seq in records {
                let path = dir.join(format!("{seq}.tlog-proof"));
                fs::write(&path, place.proof(*seq)?).with_context(|| path.display().to_string())?;
                output::print(&format!("{}\n", path.display()))?;
            }
            if records.len() == MAX_PROVEN {
                eprintln!("lockgate: only the first {MAX_PROVEN} records that mention {what} are proven");
            }
        }
    }
    Ok(Exit::Done)
}

pub(super) fn grown(config: &Path, Grown { old }: &Grown) -> anyhow::Result<Exit> {
    let old = read(old)?;
    output::print(&Place::Host(config).text(
        |agent| agent.post("/v1/audit/growth", &json!({ "checkpoint": old })),
        |reader| Ok(reader.prove_growth(&old)?.to_string()),
    )?)?;
    Ok(Exit::Done)
}

pub(super) fn check(Check { proof, key }: &Check, output: Output) -> anyhow::Result<Exit> {
    let key = public_key(key)?;
    let text = read(proof)?;
    let checked = match (text.parse::<Inclusion>(), text.parse::<Growth>()) {
        (Ok(proof), _) => proof.check(&key).map(|(record, checkpoint)| {
            let line = json!({ "proven": "record", "size": checkpoint.tip.seq, "origin": checkpoint.origin,
                "signed_at": checkpoint.signed_at, "seq": record.seq, "record": record });
            (line, format!("record {} of {}", record.seq, text::line(&checkpoint.origin)), checkpoint)
        }),
        (_, Ok(proof)) => proof.check(&key).map(|(old, checkpoint)| {
            let line = json!({ "proven": "growth", "size": checkpoint.tip.seq, "origin": checkpoint.origin,
                "signed_at": checkpoint.signed_at, "from": old.tip.seq, "from_signed_at": old.signed_at });
            let what = format!(
                "{} went on from {} records, signed at {}",
                text::line(&checkpoint.origin),
                old.tip.seq,
                old.signed_at
            );
            (line, what, checkpoint)
        }),
        (Err(error), Err(_)) => Err(error),
    };
    match (checked, output) {
        (Ok((line, ..)), Output::Json) => output::print_json(&line)?,
        (Ok((line, what, checkpoint)), Output::Text) => {
            let mut out = format!("{}: {what}\n", styled(Style::Green, "proven"));
            let signed = format!("{} records at {}", checkpoint.tip.seq, checkpoint.signed_at);
            out.push_str(&sessions::field("signed", &signed));
            if let Some(record) = line.get("record") {
                out.push_str(&sessions::field("record", &text::line(&record.to_string())));
            }
            output::print(&out)?;
        }
        (Err(error), Output::Json) => {
            output::print_json(&json!({ "proven": null, "error": error.to_string() }))?;
            return Ok(Exit::Failed);
        }
        (Err(error), Output::Text) => {
            output::print(&format!(
                "{}: {}\n",
                styled(Style::Red, "NOT PROVEN"),
                text::line(&error.to_string())
            ))?;
            return Ok(Exit::Failed);
        }
    }
    Ok(Exit::Done)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let name = || path.display().to_string();
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_FILE_BYTES).read_to_string(&mut text)
    } else {
        fs::File::open(path).with_context(name)?.take(MAX_FILE_BYTES).read_to_string(&mut text)
    };
    read.with_context(name)?;
    Ok(text)
}
