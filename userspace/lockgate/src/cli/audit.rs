//! `lockgate audit`: was the log touched, and what does it prove? Proofs are in `proofs`.

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::Agent,
    export,
    output::{self, Style, styled},
    proofs, sessions, text,
};
use crate::config::Client;
use clap::{Args, Subcommand};
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
",
)]
struct Verify {
    /// The public key to trust; by default the one in the store
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let verify = match arguments.verb {
        Verb::Verify(verify) => verify,
        Verb::Checkpoint => return proofs::checkpoint(config),
        Verb::Prove(prove) => return proofs::prove(config, &prove),
        Verb::Grown(grown) => return proofs::grown(config, &grown),
        Verb::Export(wanted) => return export::run(config, &wanted),
        Verb::Check(check) => return proofs::check(&check, arguments.output.output),
    };
    let report = match &verify.key {
        // The caller brought a key because the host is not to be taken at its word; neither is its agent.
        Some(path) => {
            let key = proofs::public_key(path)?;
            serde_json::to_value(sessions::reader(&Client::read(config)?)?.verify(Some(key))?)?
        }
        None => match Agent::reach(config)?.get_slow("/v1/audit/verify") {
            Ok(report) => report,
            Err(error) if error.is_no_agent() => {
                serde_json::to_value(sessions::reader(&Client::read(config)?)?.verify(None)?)?
            }
            Err(error) => return Err(error.into_failure()),
        },
    };
    match arguments.output.output {
        Output::Json => output::print_json(&report)?,
        Output::Text => output::print(&describe(&report))?,
    }
    Ok(if report["integrity"] == json!("intact") { Exit::Done } else { Exit::Failed })
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
    for note in report["notes"].as_array().into_iter().flatten() {
        out.push_str(&sessions::field("note", note.as_str().unwrap_or_default()));
    }
    out
}
