//! `lockgate audit`: was the log touched, and what does it prove? Proofs are in `proofs`.

mod offline;

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::Agent,
    custody, export,
    output::{self, Style, styled},
    proofs::{self, Place},
    recording, sessions, text,
};
use crate::config::Client;
use clap::{Args, Subcommand};
use lockgate_store::Reader;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Verify the audit log
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate audit verify
  lockgate audit verify --output json | jq .integrity
  lockgate audit prove dec_01J9Z3 --out evidence/
  lockgate audit check evidence/1042.tlog-proof --key log.pub
",
)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: OutputArgument,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Verify(Verify),
    /// Print the newest signed head: keep one off this host, and `audit grown` proves later that the log went on from it
    Checkpoint,
    Prove(proofs::Prove),
    Grown(proofs::Grown),
    Check(proofs::Check),
    Export(export::Export),
    Retain(custody::Retain),
    Hold(custody::Hold),
    Release(custody::Release),
    /// List the holds in force
    Holds,
}

/// Check every record, every link and the signed head; exit code 1 when anything was edited, deleted,
/// reordered, truncated or written anew
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate audit verify
  lockgate audit verify --key /root/log.pub     trust this copy of the key, not the one beside the log
  lockgate audit verify --recording ses_01JD4Z-001-5f2b.jsonl
",
)]
struct Verify {
    /// The public key to trust; by default the one in the store
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Signed heads that were kept off this host, as `evidence.checkpoints` sends them: the log must hold what they sign
    #[arg(long, value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// A copy of a store's directory, instead of this host's store: needs no agent and no configuration
    #[arg(long, value_name = "DIR", requires = "key")]
    log: Option<PathBuf>,
    /// Records as `audit export --format jsonl` wrote them, with at least one signed head: needs no agent and no configuration
    #[arg(long, value_name = "FILE", requires_all = ["key", "checkpoints"], conflicts_with = "log")]
    export: Option<PathBuf>,
    /// An object that `evidence.recordings` stored: its hash must be the one that the log keeps (may be repeated)
    #[arg(long, value_name = "FILE", conflicts_with = "export")]
    recording: Vec<PathBuf>,
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let verify = match arguments.verb {
        Verb::Verify(verify) => verify,
        Verb::Checkpoint => return proofs::checkpoint(config),
        Verb::Prove(prove) => return proofs::prove(config, &prove),
        Verb::Grown(grown) => return proofs::grown(config, &grown),
        Verb::Export(wanted) => return export::run(config, &wanted),
        Verb::Retain(wanted) => return custody::retain(config, &wanted, arguments.output.output),
        Verb::Hold(wanted) => return custody::hold(config, &wanted, arguments.output.output),
        Verb::Release(wanted) => return custody::release(config, &wanted),
        Verb::Holds => return custody::holds(config, arguments.output.output),
        Verb::Check(check) => return proofs::check(&check, arguments.output.output),
    };
    let mut report = report(config, &verify)?;
    let unknown = recordings(config, &verify, &mut report)?;
    match arguments.output.output {
        Output::Json => output::print_json(&report)?,
        Output::Text => output::print(&describe(&report))?,
    }
    let intact = report["integrity"] == json!("intact") && unknown == 0;
    Ok(if intact { Exit::Done } else { Exit::Failed })
}

/// Holds recordings against the log; how many of them it does not know.
fn recordings(config: &Path, verify: &Verify, report: &mut Value) -> anyhow::Result<usize> {
    if verify.recording.is_empty() {
        report["recordings"] = json!([]);
        return Ok(0);
    }
    let key = recording::key(verify.key.as_deref(), report)?;
    let place = match &verify.log {
        Some(log) => Place::Copy(Box::new(Reader::open(log)?)),
        None => Place::Host(config),
    };
    let held = verify.recording.iter().map(|file| recording::held(&place, &key, file));
    let held = held.collect::<anyhow::Result<Vec<_>>>()?;
    let unknown = held.iter().filter(|held| held.record.is_none()).count();
    report["recordings"] = serde_json::to_value(held)?;
    Ok(unknown)
}

fn report(config: &Path, verify: &Verify) -> anyhow::Result<Value> {
    let heads = verify
        .checkpoints
        .iter()
        .map(|path| offline::heads(path))
        .collect::<anyhow::Result<Vec<_>>>()?
        .concat();
    let key = verify.key.as_deref().map(proofs::public_key).transpose()?;
    if let (Some(export), Some(key)) = (&verify.export, &key) {
        return Ok(serde_json::to_value(offline::export(export, key.clone(), &heads)?)?);
    }
    if let Some(log) = &verify.log {
        return Ok(serde_json::to_value(Reader::open(log)?.verify_with(key, &heads)?)?);
    }
    // The caller brought a key, or heads, because the host is not to be taken at its word; neither is its agent.
    if key.is_some() || !heads.is_empty() {
        let report = sessions::reader(&Client::read(config)?)?.verify_with(key, &heads)?;
        return Ok(serde_json::to_value(report)?);
    }
    match Agent::reach(config)?.get_slow("/v1/audit/verify") {
        Ok(report) => Ok(report),
        Err(error) if error.is_no_agent() => {
            Ok(serde_json::to_value(sessions::reader(&Client::read(config)?)?.verify(None)?)?)
        }
        Err(error) => Err(error.into_failure()),
    }
}

fn describe(report: &Value) -> String {
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    let mut out = String::new();
    if report["integrity"] == json!("intact") {
        out.push_str(&format!(
            "{}: {} records, none edited, missing or moved\n",
            styled(Style::Green, "intact"),
            number("records")
        ));
    } else {
        out.push_str(&format!(
            "{}: {} findings in {} records\n",
            styled(Style::Red, "BROKEN"),
            number("findings_total"),
            number("records")
        ));
    }
    for finding in report["findings"].as_array().into_iter().flatten() {
        let place = &finding["place"];
        let place = match place["segment"].as_str() {
            Some(segment) => format!("{}:{}: ", text::line(segment), place["line"]),
            None => String::new(),
        };
        out.push_str(&format!("  {place}{}\n", text::line(finding["text"].as_str().unwrap_or_default())));
    }
    if let Some(head) = report["head"].as_object() {
        let field = |name: &str| {
            head.get(name)
                .map(|value| value.as_str().map_or(value.to_string(), str::to_owned))
                .unwrap_or_default()
        };
        out.push_str(&sessions::field(
            "signed",
            &format!(
                "{} records at {}; {} after it are linked, not signed yet",
                field("size"),
                field("signed_at"),
                field("records_after")
            ),
        ));
    }
    if let Some(key) = report["public_key"].as_str() {
        out.push_str(&sessions::field("key", key));
    }
    for range in report["removed"].as_array().into_iter().flatten() {
        let told = format!(
            "records {} to {} by {}, as record {} says; their hashes hold",
            range["from"],
            range["to"],
            text::line(range["policy"].as_str().unwrap_or_default()),
            range["announced"]
        );
        out.push_str(&sessions::field("removed", &told));
    }
    for held in report["recordings"].as_array().into_iter().flatten() {
        let file = text::line(held["file"].as_str().unwrap_or_default());
        let told = match held["record"].as_u64() {
            Some(record) => format!("{file} is what record {record} keeps the hash of"),
            None => {
                format!("{file}: {}: no record keeps its hash", styled(Style::Red, "NOT WHAT WAS STORED"))
            }
        };
        out.push_str(&sessions::field("recording", &told));
    }
    for note in report["notes"].as_array().into_iter().flatten() {
        out.push_str(&sessions::field("note", note.as_str().unwrap_or_default()));
    }
    out
}
