//! `lockgate store`: the database that nodes share: its schema, its nodes, and logs that move there and back.

use super::{Exit, Output, OutputArgument, TEMPLATE, output, sessions};
use crate::{
    agent::shared,
    config::{Client, SharedStore},
};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use lockgate_model::SecretRef;
use lockgate_store::postgres::{self, Chain, Copied, PostgresSettings, SCHEMA_VERSION, Schema, Shared};
use serde_json::json;
use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

/// The database that nodes share: its schema, its nodes, logs that move there and back
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate store migrate --url postgres://keeper@db.internal/lockgate --password-file keeper.password --dry-run
  lockgate store enrol web-1 --role lockgate-web-1 --url postgres://keeper@db.internal/lockgate --password-file keeper.password
  lockgate store status
",
)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: OutputArgument,
    #[command(flatten)]
    database: DatabaseArguments,
    #[command(subcommand)]
    verb: Verb,
}

/// Which database, as whom.
#[derive(Debug, Args)]
struct DatabaseArguments {
    /// The database, and the role to be: by default the configuration's `store`
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// A file with the role's password
    #[arg(long, global = true, value_name = "FILE", requires = "url")]
    password_file: Option<String>,
    /// Certificates to trust (PEM), instead of the public ones
    #[arg(long, global = true, value_name = "FILE", requires = "url")]
    ca_file: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring the schema to this release's version, as the role that owns it
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate store migrate --url postgres://keeper@db.internal/lockgate --password-file keeper.password
  lockgate store migrate --dry-run
")]
    Migrate {
        /// Only say what would be applied
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the schema's version, and how far each node's log is there
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate store status
  lockgate store status --output json
")]
    Status,
    /// Let a login role write as a node, as the role that owns the schema
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate store enrol web-1 --role lockgate-web-1 --url postgres://keeper@db.internal/lockgate --password-file keeper.password
")]
    Enrol {
        /// The node: its agent's `node.name`
        node: String,
        /// Its login role; made before, and a member of nothing
        #[arg(long, value_name = "ROLE")]
        role: String,
    },
    /// Move a host's log there, as the role that owns the schema; called again, it goes on where it ended
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate store copy --from /var/lib/lockgate --url postgres://keeper@db.internal/lockgate --password-file keeper.password
")]
    Copy {
        /// The directory of the embedded store; by default this host's
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
    /// Write a node's log as files that `lockgate audit verify --log DIR --key FILE` checks without the database
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate store export web-1 --out evidence
")]
    Export {
        /// The node
        node: String,
        /// A directory that is not there yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { output, database, verb } = arguments;
    let settings = settings(config, &database)?;
    match verb {
        Verb::Migrate { dry_run } => {
            let schema = match dry_run {
                true => postgres::schema(&settings)?,
                false => postgres::migrate(&settings, SCHEMA_VERSION)?,
            };
            show(output.output, &schema, &describe(&schema, dry_run))?;
        }
        Verb::Status => {
            let schema = postgres::schema(&settings)?;
            let chains = if schema.pending.is_empty() { Shared::new(settings).chains()? } else { Vec::new() };
            let text = describe(&schema, true) + &chains.iter().map(line).collect::<String>();
            show(output.output, &json!({ "schema": schema, "chains": chains }), &text)?;
        }
        Verb::Enrol { node, role } => {
            postgres::enrol(&settings, &node.as_str().into(), &role)?;
            let text = format!("{role} writes as node {node}\n");
            show(output.output, &json!({ "node": node, "role": role }), &text)?;
        }
        Verb::Copy { from } => {
            let (dir, head) = match from {
                Some(dir) => (dir, None),
                None => {
                    let store = Client::read(config)?.store;
                    (store.dir, store.head)
                }
            };
            let copied = postgres::copy(&dir, head.as_deref(), &settings, &mut Progress::default().told())?;
            show(output.output, &copied, &moved(&copied))?;
        }
        Verb::Export { node, out } => {
            let shared = Shared::new(settings);
            let copied =
                postgres::export(&shared, &node.as_str().into(), &out, &mut Progress::default().told())?;
            let text = format!("{} records of node {node} are in {}\n", copied.records, out.display());
            show(output.output, &copied, &text)?;
        }
    }
    Ok(Exit::Done)
}

/// What the command line says, or else the configuration.
fn settings(config: &Path, arguments: &DatabaseArguments) -> anyhow::Result<PostgresSettings> {
    let file = |path: &Option<String>| path.clone().map(SecretRef::File);
    let shared = match &arguments.url {
        Some(url) => SharedStore {
            url: url.clone(),
            password: file(&arguments.password_file),
            ca: file(&arguments.ca_file),
            spool_bytes: 0,
        },
        None => match Client::read(config)?.store.shared {
            Some(shared) => shared,
            None => bail!(
                "this host's store is its own: name the database with --url postgres://ROLE@HOST/DATABASE"
            ),
        },
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(shared::settings(&shared))
}

fn show(output: Output, value: &impl serde::Serialize, text: &str) -> anyhow::Result<()> {
    match output {
        Output::Json => output::print_json(&serde_json::to_value(value)?),
        Output::Text => output::print(text),
    }
}

fn describe(schema: &Schema, only_told: bool) -> String {
    let mut text = sessions::field("schema", &format!("version {} of {}", schema.version, schema.expected));
    for applied in &schema.applied {
        let told = format!(
            "{:04} {} at {} by {}, release {}",
            applied.version, applied.name, applied.at, applied.by, applied.release
        );
        text += &sessions::field("applied", &told);
    }
    for pending in &schema.pending {
        text += &sessions::field(if only_told { "to apply" } else { "left out" }, pending);
    }
    text
}

fn line(chain: &Chain) -> String {
    let told = format!(
        "{}: {} records, {} of them signed, the last came at {}",
        chain.node, chain.records, chain.signed, chain.moved_at
    );
    sessions::field("node", &told)
}

fn moved(copied: &Copied) -> String {
    format!(
        "{} records of node {} went to the database, which has {} now; {} signed heads and {} holds went with them\n",
        copied.records, copied.node, copied.through, copied.heads, copied.holds
    )
}

/// How far it is, on a terminal.
#[derive(Default)]
struct Progress {
    shown: Option<u64>,
}

impl Progress {
    fn told(mut self) -> impl FnMut(u64, u64) {
        move |there, of| {
            let percent = (there * 100).checked_div(of).unwrap_or(100);
            if self.shown == Some(percent) || !std::io::stderr().is_terminal() {
                return;
            }
            self.shown = Some(percent);
            // Who does not read it misses nothing.
            let _ = write!(
                std::io::stderr(),
                "\r{there} of {of} records ({percent} %){}",
                if there >= of { "\n" } else { "" }
            );
        }
    }
}
