//! `lockgate targets`: what lockgate stands in front of, and registering more while it runs.
//!
//! A definition is the same document as an entry of `targets:` in the configuration. Everything is asked of the agent, which
//! checks it, records who did it and puts it in force.

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::{Agent, CallError},
    output::{self, Style, Table, styled},
    text,
};
use crate::config::ConfigError;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// List targets, and register more while lockgate runs
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate targets list --probe
  lockgate targets add reports-db 10.20.0.9:5432 --user app --password-file /etc/lockgate/reports.password
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
    /// List targets
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate targets list
  lockgate targets list --probe --output json
")]
    List {
        /// Ask every target now whether it answers
        #[arg(long)]
        probe: bool,
    },
    /// Register a target; new connections to it are governed when this returns
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate targets add reports-db 10.20.0.9:5432 --user app --password-file /etc/lockgate/reports.password
  lockgate targets add --file reports-db.yaml
")]
    Add(Box<Add>),
    /// Take a registered target away; new connections to it are not governed any more
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate targets remove reports-db
  lockgate targets remove reports-db --output json
")]
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// Its name
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// Where it is: HOST:PORT, IP:PORT or NETWORK/PREFIX:PORT
    #[arg(required_unless_present = "file")]
    addresses: Vec<String>,
    /// The whole definition, as under `targets:` in the configuration; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "addresses", "user", "password_file", "tls", "upstream_ca", "mode", "tags"])]
    file: Option<PathBuf>,
    /// What it speaks
    #[arg(long, default_value = "postgres")]
    protocol: String,
    /// The role that lockgate logs in as
    #[arg(long, value_name = "ROLE", required_unless_present = "file")]
    user: Option<String>,
    /// The file with its password, on the agent's host
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// How lockgate connects: verify-full, verify-ca or disable
    #[arg(long, value_name = "MODE", default_value = "verify-full")]
    tls: String,
    /// Certificates to trust for it, on the agent's host
    #[arg(long, value_name = "FILE")]
    upstream_ca: Option<String>,
    /// observe, shadow or enforce
    #[arg(long)]
    mode: Option<String>,
    /// A tag for rules to match, such as env=production
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
    /// Change the target of this name, if there is one
    #[arg(long)]
    replace: bool,
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let agent = Agent::reach(config)?;
    let format = arguments.output.output;
    match arguments.verb {
        Verb::List { probe } => {
            let path = if probe { "/v1/targets?probe=true" } else { "/v1/targets" };
            let answer = agent.get(path).map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&json!({ "targets": answer["items"] }))?,
                Output::Text => output::print(&table(answer["items"].as_array(), probe))?,
            }
        }
        Verb::Add(add) => {
            let replace = add.replace;
            let registered = put(&agent, &add.definition()?, replace)?;
            match format {
                Output::Json => output::print_json(&registered)?,
                Output::Text => {
                    let word = |name: &str| registered[name].as_str().unwrap_or_default();
                    output::print(&format!("{}: registered, {}\n", word("name"), word("mode")))?;
                }
            }
        }
        Verb::Remove { name } => {
            agent.delete(&format!("/v1/targets/{name}")).map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&json!({ "name": name, "removed": true }))?,
                Output::Text => output::print(&format!(
                    "{name}: not registered any more; sessions that are open go on (`lockgate sessions list --open --target {name}`)\n"
                ))?,
            }
        }
    }
    Ok(Exit::Done)
}

fn put(agent: &Agent, definition: &Value, replace: bool) -> anyhow::Result<Value> {
    let name = definition["name"].as_str().unwrap_or_default();
    if replace {
        match agent.get(&format!("/v1/targets/{name}")) {
            Ok(now) => {
                let etag = now["etag"].as_str().unwrap_or_default();
                let path = format!("/v1/targets/{name}");
                return agent.put(&path, definition, etag).map_err(CallError::into_failure);
            }
            Err(CallError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error.into_failure()),
        }
    }
    agent.post("/v1/targets", definition).map_err(CallError::into_failure)
}

impl Add {
    fn definition(self) -> anyhow::Result<Value> {
        if let Some(file) = self.file {
            let name = file.display().to_string();
            let source = match file == Path::new("-") {
                true => std::io::read_to_string(std::io::stdin())?,
                false => fs::read_to_string(&file).with_context(|| name.clone())?,
            };
            let read = lockgate_policy::yaml::parse::<Value>(&name, &source);
            return read
                .map_err(|diagnostics| ConfigError::Invalid { text: Some(source), diagnostics }.into());
        }
        let mut credential = json!({ "user": self.user });
        if let Some(password) = self.password_file {
            credential["password"] = json!({ "file": password });
        }
        let mut upstream = json!({ "tls": self.tls, "credential": credential });
        if let Some(ca) = self.upstream_ca {
            upstream["ca"] = json!(ca);
        }
        let mut definition = json!({
            "name": self.name, "protocol": self.protocol, "addresses": self.addresses, "upstream": upstream,
        });
        if let Some(mode) = self.mode {
            definition["mode"] = json!(mode);
        }
        let mut tags = Map::new();
        for tag in self.tags {
            let (name, value) =
                tag.split_once('=').with_context(|| format!("expected NAME=VALUE, got {tag:?}"))?;
            tags.insert(name.to_owned(), json!(value));
        }
        if !tags.is_empty() {
            definition["tags"] = Value::Object(tags);
        }
        Ok(definition)
    }
}

fn table(items: Option<&Vec<Value>>, probed: bool) -> String {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return "No target is registered: nothing is redirected. Add one with `lockgate targets add`.\n"
            .to_owned();
    };
    let mut table = Table::new(&["NAME", "PROTOCOL", "MODE", "FROM", "OPEN", "ANSWERS", "ADDRESSES", "TAGS"]);
    for item in items {
        let field = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let addresses: Vec<&str> =
            item["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let tags = item["tags"].as_object().into_iter().flatten();
        let tags: Vec<String> =
            tags.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
        let answers = match (&item["health"], probed) {
            (Value::Null, _) => "-".to_owned(),
            (health, _) if health["reachable"] == json!(true) => styled(Style::Green, "yes"),
            (health, _) => format!("no: {}", text::short(health["detail"].as_str().unwrap_or_default(), 60)),
        };
        table.row(vec![
            field("name"),
            field("protocol"),
            field("mode"),
            field("origin"),
            item["open_sessions"].to_string(),
            answers,
            text::short(&addresses.join(", "), 60),
            text::short(&tags.join(", "), 40),
        ]);
    }
    table.render()
}
