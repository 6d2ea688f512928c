//! `lockgate approvals`: what waits for people, and their word on it.
//!
//! Everything is asked of the agent on its unix socket; who asks is the kernel's word, and what they may is
//! `api.local_approvers`.

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::{Agent, CallError, query},
    failure,
    output::{self, Table},
    rehearse,
    sessions::{ago, rough},
    show, text, watch,
};
use clap::{Args, Subcommand, ValueEnum};
use lockgate_model::{
    BundleId, RequestId, Timestamp,
    time::{format_duration, parse_duration},
};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How often a waiting verb looks. A person's decision is slower by orders of magnitude.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// List, show, approve and deny requests for approval
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate approvals list
  lockgate approvals show \"$(lockgate approvals list -o json | jq -r '.approvals[0].id')\"
  lockgate approvals approve req_01JD4Z0000000000000000000A --reason 'change 4711'
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
    /// List requests, the newest first
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate approvals list
  lockgate approvals list --state all --output json
")]
    List {
        /// Which ones
        #[arg(long, value_enum, default_value_t = State::Pending)]
        state: State,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Print the list again whenever it changes, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Show one request: what it does, the exact text, who asks and how sure that is, who may decide
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate approvals show \"$(lockgate approvals list -o json | jq -r '.approvals[0].id')\"
  lockgate approvals show req_01JD4Z0000000000000000000A --wait 10m && echo approved
")]
    Show {
        /// req_…
        request: RequestId,
        /// Wait until it is decided: exit code 0 approved, 3 denied or withdrawn, 4 expired or still open
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        wait: Option<Duration>,
    },
    /// Approve one request or bundle, once; or give a grant with it
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate approvals approve req_01JD4Z0000000000000000000A --reason 'change 4711'
  lockgate approvals approve req_01JD4Z0000000000000000000A --for 15m --uses 5 --reason 'backfill 4711'
  lockgate approvals approve req_01JD4Z0000000000000000000A --for 15m --bundle --reason 'release 12'
  lockgate approvals approve req_01JD4Z0000000000000000000A --reason reviewed --output json
")]
    Approve(Approve),
    /// Watch requests as they come, and decide on them here
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate approvals watch
  lockgate approvals watch --once --output json | jq -r .request_id
", after_help = "\
On a terminal each request is shown with its statement, and `a` approves it, `d` denies it, `s` leaves it to others.
--approve and --deny decide on everything that comes, until Ctrl-C or --once: for tests and demonstrations.")]
    Watch(watch::Arguments),
    /// Ask a rule's people for a decision on nothing, through every channel, and wait for the deny
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate approvals rehearse --rule ddl-needs-dba
  lockgate approvals rehearse --rule ddl-needs-dba --within 2m --output json
", after_help = "\
Nothing waits for it and nothing runs. Exit code 0: every channel delivered and somebody denied it; 1: a channel did not
deliver, or it was approved; 4: nobody decided in time.")]
    Rehearse(rehearse::Arguments),
    /// Deny one request; the reason reaches the job
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate approvals deny req_01JD4Z0000000000000000000A --reason 'not during business hours'
  lockgate approvals deny req_01JD4Z0000000000000000000A --reason 'wrong table' --output json
")]
    Deny(Word),
}

#[derive(Debug, Args)]
struct Approve {
    #[command(flatten)]
    word: Word,
    /// Also let statements of the same shape pass for this long, by the same identity on the same target
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasts: Option<Duration>,
    /// With --for: this often at most
    #[arg(long, value_name = "N", requires = "lasts")]
    uses: Option<u32>,
    /// With --for: not only this shape, but what else the rules' `coalesce` would bundle with it (the rest of a migration)
    #[arg(long, requires = "lasts")]
    bundle: bool,
    /// With --bundle: kinds of statements that may follow; by default those that wait now
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', requires = "bundle")]
    kinds: Vec<String>,
    /// With --bundle: the highest risk that may follow (low, medium, high, critical)
    #[arg(long, value_name = "RISK", requires = "bundle")]
    risk: Option<String>,
}

impl Approve {
    fn grant(&self) -> Option<Value> {
        let mut grant = json!({ "for": format_duration(self.lasts?), "uses": self.uses });
        if self.bundle {
            grant["covers"] = "bundle".into();
            grant["kinds"] = json!(self.kinds);
            grant["risk"] = json!(self.risk);
        }
        Some(grant)
    }
}

#[derive(Debug, Args)]
struct Word {
    /// req_…, or bnd_… for all of a bundle
    #[arg(value_parser = decidable)]
    request: String,
    /// Why; kept in the record and told to the job
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Refuse unless the request is about exactly this command (command_digest of `show`)
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    Pending,
    Resolved,
    Approved,
    Denied,
    Expired,
    Cancelled,
    All,
}

/// An id that can be decided on.
fn decidable(text: &str) -> Result<String, String> {
    let request = text.parse::<RequestId>().map(|_| ()).map_err(|error| format!("{error}, or bnd_…"));
    request.or_else(|error| text.parse::<BundleId>().map(|_| ()).map_err(|_| error))?;
    Ok(text.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let agent = Agent::reach(config)?;
    let format = arguments.output.output;
    match arguments.verb {
        Verb::List { state, limit, watch } => list(&agent, state, limit, watch, format),
        Verb::Show { request, wait } => show_one(&agent, request, wait, format),
        Verb::Approve(approve) => vote(&agent, "approve", &approve.word, approve.grant(), format),
        Verb::Watch(arguments) => watch::run(&agent, &arguments, format),
        Verb::Rehearse(arguments) => rehearse::run(&agent, &arguments, format),
        Verb::Deny(word) => vote(&agent, "deny", &word, None, format),
    }
}

fn list(agent: &Agent, state: State, limit: usize, watch: bool, format: Output) -> anyhow::Result<Exit> {
    let state = state.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let path = format!("/v1/approvals?{}", query(&json!({ "state": state, "limit": limit })));
    let mut seen = None;
    loop {
        let mut answer = agent.get(&path).map_err(CallError::into_failure)?;
        let items = answer["items"].take();
        let ids: Vec<String> =
            items.as_array().into_iter().flatten().map(|item| item["id"].to_string()).collect();
        if seen.as_ref() != Some(&ids) {
            match format {
                Output::Json if watch => output::print(&format!("{}\n", json!({ "approvals": items })))?,
                Output::Json => output::print_json(&json!({ "approvals": items, "next": answer["next"] }))?,
                Output::Text => output::print(&table(&items, &state))?,
            }
            seen = Some(ids);
        }
        if !watch {
            return Ok(Exit::Done);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn table(items: &Value, state: &str) -> String {
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        return match state {
            "pending" => "Nothing waits for approval.\n".to_owned(),
            state => format!("No requests ({state}). `lockgate sessions list` reaches further back.\n"),
        };
    }
    let now = Timestamp::now();
    let mut table =
        Table::new(&["REQUEST", "STATE", "WHAT", "TARGET", "WHO", "HAVE", "ASKED", "LEFT", "STATEMENT"]);
    for item in items {
        let field = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let time = |name: &str| item[name].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let left = time("expires_at").map(|end| end.duration_since(now)).filter(|left| left.is_positive());
        let pending = item["state"] == "pending";
        table.row(vec![
            field("id"),
            field("state"),
            field("kind").replace('_', " "),
            field("target"),
            text::short(&field("display"), 32),
            show::have(&item["need"]),
            time("created_at").map(|then| ago(now, then)).unwrap_or_default(),
            left.filter(|_| pending).map(|left| rough(left.unsigned_abs())).unwrap_or_default(),
            text::short(&field("statement"), 60),
        ]);
    }
    table.render()
}

fn show_one(
    agent: &Agent,
    request: RequestId,
    wait: Option<Duration>,
    format: Output,
) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let request = loop {
        let answer = agent.get(&format!("/v1/approvals/{request}")).map_err(CallError::into_failure)?;
        let over = wait.is_none_or(|wait| started.elapsed() >= wait);
        if over || answer["state"] != "pending" {
            break answer;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    match format {
        Output::Json => output::print_json(&request)?,
        Output::Text => output::print(&show::screen(&request, Timestamp::now()))?,
    }
    Ok(match (wait, request["state"].as_str().unwrap_or_default()) {
        (None, _) | (Some(_), "approved") => Exit::Done,
        (Some(_), "pending" | "expired") => Exit::TimedOut,
        (Some(_), _) => Exit::Denied,
    })
}

fn vote(
    agent: &Agent,
    decision: &str,
    word: &Word,
    grant: Option<Value>,
    format: Output,
) -> anyhow::Result<Exit> {
    let Word { request, reason, digest } = word;
    let mut body = json!({ "reason": reason, "command_digest": digest });
    if let Some(grant) = grant {
        body["grant"] = grant;
    }
    let kind = if request.starts_with(BundleId::PREFIX) { "bundles" } else { "approvals" };
    let answer =
        agent.post(&format!("/v1/{kind}/{request}/{decision}"), &body).map_err(|error| match error {
            CallError::Refused { code, detail, .. } if code == "reason_required" => {
                failure(Exit::Usage, format!("{detail}; say why with --reason"))
            }
            other => other.into_failure(),
        })?;
    match format {
        Output::Json => output::print_json(&answer)?,
        Output::Text => {
            let state = answer["state"].as_str().unwrap_or_default();
            let outcome = match state {
                "pending" => format!("counted; it still waits: {}", show::have(&answer["need"])),
                state => format!("it is {state}"),
            };
            output::print(&format!("{request}: {outcome}\n"))?;
        }
    }
    Ok(Exit::Done)
}
