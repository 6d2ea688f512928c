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
use lockgate_control::draft::{Kept, Login, TargetDraft};
use lockgate_model::session::Protocol;
use serde_json::{Value, json};
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
  lockgate targets add shop-api shop.internal:443 --protocol http --bearer-file /etc/lockgate/shop.token
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
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "name", "addresses", "user", "password_file", "bearer_file", "header", "remove_headers", "tls", "upstream_ca", "mode",
        "default", "tags", "client_ca",
    ])]
    file: Option<PathBuf>,
    /// What it speaks: postgres or http
    #[arg(long, default_value = "postgres")]
    protocol: String,
    /// The role or user that lockgate logs in as
    #[arg(long, value_name = "ROLE")]
    user: Option<String>,
    /// The file with its password, on the agent's host
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<String>,
    /// HTTP: the file with a bearer token, on the agent's host
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "header"])]
    bearer_file: Option<String>,
    /// HTTP: a header and the file with its value, such as x-api-key=/etc/lockgate/shop.key
    #[arg(long, value_name = "NAME=FILE", conflicts_with = "user")]
    header: Option<String>,
    /// HTTP: a header of the client that does not go on
    #[arg(long = "remove-header", value_name = "NAME")]
    remove_headers: Vec<String>,
    /// How lockgate connects: verify-full, verify-ca or disable
    #[arg(long, value_name = "MODE", default_value = "verify-full")]
    tls: String,
    /// Certificates to trust for it, on the agent's host
    #[arg(long, value_name = "FILE")]
    upstream_ca: Option<String>,
    /// The CA that issues what clients see, certificate and key, on the agent's host
    #[arg(long, value_names = ["CERTIFICATE", "KEY"], num_args = 2)]
    client_ca: Option<Vec<String>>,
    /// observe, shadow or enforce
    #[arg(long)]
    mode: Option<String>,
    /// Where no rule decides: deny or allow
    #[arg(long, value_name = "EFFECT")]
    default: Option<String>,
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
        Ok(self.draft()?.entry())
    }

    fn draft(self) -> anyhow::Result<TargetDraft> {
        let pair = |text: &str, form: &str| {
            let (name, value) =
                text.split_once('=').with_context(|| format!("expected {form}, got {text:?}"))?;
            anyhow::Ok((name.to_owned(), value.to_owned()))
        };
        let credential = match (self.user, self.bearer_file, self.header) {
            (Some(user), _, _) => Some(Login::User(user, self.password_file.map(Kept::File))),
            (None, Some(file), _) => Some(Login::Bearer(Kept::File(file))),
            (None, None, Some(header)) => {
                let (name, file) = pair(&header, "NAME=FILE")?;
                Some(Login::Header(name, Kept::File(file)))
            }
            (None, None, None) => None,
        };
        let protocol: Protocol = named("protocol", &self.protocol)?;
        if protocol == Protocol::Postgres && credential.is_none() {
            anyhow::bail!("--user says as which role lockgate logs in there");
        }
        let client_ca = self.client_ca.unwrap_or_default();
        Ok(TargetDraft {
            name: self.name.unwrap_or_default(),
            protocol,
            addresses: self.addresses,
            tags: self.tags.iter().map(|tag| pair(tag, "NAME=VALUE")).collect::<anyhow::Result<_>>()?,
            mode: self.mode.map(|mode| named("mode", &mode)).transpose()?,
            default: self.default.map(|default| named("default", &default)).transpose()?,
            tls: Some(self.tls),
            ca: self.upstream_ca,
            credential,
            remove_headers: self.remove_headers,
            client_ca: match client_ca.as_slice() {
                [certificate, key] => Some((certificate.clone(), key.clone())),
                _ => None,
            },
        })
    }
}

/// One of a few names of the model.
fn named<T: serde::de::DeserializeOwned>(flag: &str, text: &str) -> anyhow::Result<T> {
    serde_json::from_value(json!(text)).with_context(|| format!("--{flag}"))
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
