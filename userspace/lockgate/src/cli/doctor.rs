//! `lockgate doctor`: can this host do it, is everything in order, and does capture work?
//!
//! Works with and without a running agent, and changes nothing that outlives it.

mod channels;
mod evidence;

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::{Agent, CallError},
    grants, inspect,
    output::{self, Style, styled},
    text,
};
use crate::{
    agent::{policy, targets},
    config::{Client, Config, ConfigError, TargetConfig},
};
use clap::Args;
use lockgate_intercept::{Check, Instance, Status};
use lockgate_model::{SecretRef, session::Protocol};
use lockgate_policy::{CompiledPolicy, Diagnostic};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// Check this host, the configuration and the running agent, and prove that capture works
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate doctor
  lockgate doctor --config /etc/lockgate/lockgate.yaml
  lockgate doctor --database shop          may the upstream roles read what is masked there?
  lockgate doctor --output json | jq '.checks[] | select(.status != \"ok\")'
",
    after_help = "Run it as root: it loads programs and sends a probe. Exit code 1 when something is broken.",
)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: OutputArgument,
    /// Whether the upstream roles can read, by themselves, what policy masks in this database (may be repeated)
    #[arg(long, value_name = "NAME")]
    database: Vec<String>,
}

/// A check and what it is about.
#[derive(Debug, Serialize)]
struct Finding {
    section: &'static str,
    #[serde(flatten)]
    check: Check,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        section: &'static str,
        status: Status,
        name: &str,
        detail: impl Into<String>,
        remedy: Option<&str>,
    ) {
        let remedy = remedy.map(str::to_owned);
        let check = Check { name: name.to_owned(), status, detail: detail.into(), remedy };
        self.0.push(Finding { section, check });
    }

    fn is_broken(&self) -> bool {
        self.0.iter().any(|finding| finding.check.status == Status::Failed)
    }
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let mut findings = Findings::default();
    let parsed = configuration(config, &mut findings);
    if let Some(config) = &parsed {
        secrets(config, &mut findings);
        channels::configured(config, &mut findings);
        evidence::buckets(config, &mut findings);
    }
    let client = Client::read(config).ok();
    let instance = client.as_ref().map_or_else(Instance::default, |client| client.instance.clone());
    let host = lockgate_intercept::probe(&instance).into_iter();
    findings.0.extend(host.map(|check| Finding { section: "host", check }));
    let status = client.as_ref().and_then(|client| agent(client, &mut findings));
    if status.is_none() {
        // Without an agent: what it would stumble over, and whether capture would work.
        if let Some(config) = &parsed {
            policies(config, &mut findings);
        }
        let proof = lockgate_intercept::prove().into_iter();
        findings.0.extend(proof.map(|check| Finding { section: "capture", check }));
    }
    if let Some(config) = parsed.filter(|_| !arguments.database.is_empty()) {
        let databases = arguments.database;
        // Views are parsed, which recurses.
        let masked = inspect::on_deep_stack(move || {
            let mut findings = Findings::default();
            masks(&config, &databases, &mut findings);
            Ok(findings)
        })?;
        findings.0.extend(masked.0);
    }
    let broken = findings.is_broken();
    match arguments.output.output {
        Output::Json => output::print_json(&json!({ "ok": !broken, "checks": findings.0, "agent": status }))?,
        Output::Text => output::print(&describe(&findings.0, status.as_ref()))?,
    }
    Ok(if broken { Exit::Failed } else { Exit::Done })
}

fn configuration(path: &Path, findings: &mut Findings) -> Option<Config> {
    const SECTION: &str = "configuration";
    match Config::read(path) {
        Ok(config) => {
            let targets = config.targets.len();
            findings.add(SECTION, Status::Ok, "file", format!("{}, {targets} targets", path.display()), None);
            for warning in &config.warnings {
                add_diagnostic(SECTION, Status::Warning, warning, findings);
            }
            Some(config)
        }
        Err(ConfigError::Invalid { diagnostics, .. }) => {
            for error in &diagnostics {
                add_diagnostic(SECTION, Status::Failed, error, findings);
            }
            None
        }
        Err(error @ (ConfigError::Missing(_) | ConfigError::Unreadable { .. })) => {
            findings.add(SECTION, Status::Failed, "file", error.to_string(), None);
            None
        }
    }
}

fn add_diagnostic(section: &'static str, status: Status, diagnostic: &Diagnostic, findings: &mut Findings) {
    let place = Diagnostic { help: None, ..diagnostic.clone() };
    findings.add(section, status, "line", place.to_string(), diagnostic.help.as_deref());
}

/// What the policies on disk would do.
fn policies(config: &Config, findings: &mut Findings) {
    const SECTION: &str = "policy";
    let loaded = match policy::read(&config.policies) {
        Ok(files) => CompiledPolicy::load(files),
        Err(error) => return findings.add(SECTION, Status::Failed, "files", error, None),
    };
    match loaded {
        Ok(loaded) => {
            let rules = loaded.policy.rules().count();
            findings.add(SECTION, Status::Ok, "files", format!("{rules} rules"), None);
            let unreachable = loaded.policy.unreachable_groups(&config.spoken_for());
            for warning in loaded.warnings.iter().chain(&unreachable) {
                add_diagnostic(SECTION, Status::Warning, warning, findings);
            }
            for error in config.unknown_groups(loaded.policy.groups()) {
                add_diagnostic(SECTION, Status::Failed, &error, findings);
            }
        }
        Err(errors) => {
            for error in &errors {
                add_diagnostic(SECTION, Status::Failed, error, findings);
            }
        }
    }
}

/// Whether the server itself keeps masked columns from the upstream roles: the strongest defence there is.
fn masks(config: &Config, databases: &[String], findings: &mut Findings) {
    const SECTION: &str = "masks";
    /// Columns that are named; the rest are counted.
    const NAMED: usize = 8;
    let files = match policy::read(&config.policies) {
        Ok(files) => files,
        Err(error) => return findings.add(SECTION, Status::Failed, "policies", error, None),
    };
    // What is wrong with them another check says.
    let Ok(loaded) = CompiledPolicy::load(files) else { return };
    // What an HTTP service keeps from lockgate's credential, nobody can ask it.
    let databases_of = config.targets.iter().filter(|target| target.target.protocol == Protocol::Postgres);
    for target in databases_of {
        for database in databases {
            let name = format!("{}/{database}", target.target.name);
            let plan = match grants::plan(config, target, database, &loaded.policy) {
                Ok(Some(plan)) => plan,
                Ok(None) => {
                    findings.add(SECTION, Status::Ok, &name, "nothing is masked there", None);
                    continue;
                }
                Err(error) => {
                    let remedy =
                        Some("without the catalogue every statement that could show a mask is refused");
                    findings.add(SECTION, Status::Failed, &name, format!("{error:#}"), remedy);
                    continue;
                }
            };
            let role = targets::upstream_user(target);
            let readable = plan.readable();
            if readable.is_empty() {
                let detail = format!("the role {role} lacks SELECT on every masked column");
                findings.add(SECTION, Status::Ok, &name, detail, None);
                continue;
            }
            let more = readable.len().saturating_sub(NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let named: Vec<&str> = readable.iter().take(NAMED).map(String::as_str).collect();
            let detail = format!("the role {role} may SELECT what is masked: {}{more}", named.join(", "));
            let remedy = format!(
                "lockgate policy grants --target {} --database {database} prints the statements that end it",
                target.target.name
            );
            findings.add(SECTION, Status::Warning, &name, detail, Some(&remedy));
        }
    }
}

/// Whether every reference of a target leads to something; what it is stays unseen.
fn secrets(config: &Config, findings: &mut Findings) {
    const SECTION: &str = "configuration";
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let references: Vec<&SecretRef> = config.targets.iter().flat_map(TargetConfig::secrets).collect();
    let places = match runtime.block_on(targets::secrets(config)) {
        Ok(places) => places,
        Err(error) => {
            let remedy = Some("look at `vault:` in the configuration");
            findings.add(SECTION, Status::Failed, "vault", format!("{error:#}"), remedy);
            return;
        }
    };
    let mut fine = 0;
    for reference in &references {
        match runtime.block_on(places.resolve(reference)) {
            Ok(_) => fine += 1,
            Err(error) => findings.add(
                SECTION,
                Status::Failed,
                "secret",
                error.to_string(),
                Some("the agent fetches it by this reference"),
            ),
        }
    }
    if fine == references.len() {
        findings.add(SECTION, Status::Ok, "secrets", format!("{fine} references lead to a secret"), None);
    }
}

/// How the running agent is doing; None when there is none.
fn agent(client: &Client, findings: &mut Findings) -> Option<Value> {
    const SECTION: &str = "agent";
    let agent = Agent::of(client);
    let status = match agent.get("/v1/status") {
        Ok(status) => status,
        Err(CallError::NoAgent { socket, .. }) => {
            let detail = format!("none answers at {}", socket.display());
            let remedy = "start it: lockgate agent --config …; while hooks are attached, governed connections are refused";
            findings.add(SECTION, Status::Warning, "running", detail, Some(remedy));
            return None;
        }
        Err(CallError::Refused { status: 403, detail, .. }) => {
            findings.add(
                SECTION,
                Status::Warning,
                "running",
                format!("it runs; {detail}"),
                Some("run doctor as root"),
            );
            return Some(Value::Null);
        }
        Err(error) => {
            findings.add(SECTION, Status::Failed, "running", error.to_string(), None);
            return Some(Value::Null);
        }
    };
    let since = status["started_at"].as_str().unwrap_or_default();
    findings.add(SECTION, Status::Ok, "running", format!("pid {}, since {since}", status["pid"]), None);
    agent_hooks(&status["hooks"], findings);
    agent_policy(&status["policy"], findings);
    agent_evidence(&status["evidence"], findings);
    agent_shared(&status["shared"], findings);
    channels::running(&agent, findings);
    match agent.post("/v1/self-test", &json!({})) {
        Ok(answer) if answer["ok"] == true => {
            let detail = "a probe in a governed cgroup came in at the listener, attributed to its process";
            findings.add("capture", Status::Ok, "capture", detail, None);
        }
        Ok(answer) => {
            let detail = answer["error"].as_str().unwrap_or("the probe failed");
            findings.add(
                "capture",
                Status::Failed,
                "capture",
                detail,
                Some("restart the agent; the checks above may say why"),
            );
        }
        Err(CallError::Refused { status: 403, detail, .. }) => {
            findings.add("capture", Status::Warning, "capture", detail, Some("run doctor as root"));
        }
        Err(error) => findings.add("capture", Status::Failed, "capture", error.to_string(), None),
    }
    Some(status)
}

fn agent_policy(policy: &Value, findings: &mut Findings) {
    const SECTION: &str = "policy";
    let version = policy["version"].as_str().unwrap_or_default();
    let loaded = policy["loaded_at"].as_str().unwrap_or_default();
    findings.add(SECTION, Status::Ok, "in force", format!("{version}, loaded at {loaded}"), None);
    for warning in strings(&policy["warnings"]) {
        findings.add(SECTION, Status::Warning, "line", warning, None);
    }
    let rejected = &policy["rejected"];
    for error in strings(&rejected["errors"]) {
        let remedy = "the last good policy stays in force until the files are right";
        findings.add(SECTION, Status::Failed, "changed files", error, Some(remedy));
    }
}

/// What becomes of the log: only what is configured is there.
fn agent_evidence(evidence: &Value, findings: &mut Findings) {
    const SECTION: &str = "evidence";
    for place in evidence["checkpoints"].as_array().into_iter().flatten() {
        let to = place["to"].as_str().unwrap_or_default();
        let error = place["error"].as_str().unwrap_or("nothing arrived yet");
        let arrived = format!("{to} has the head of {} records", place["size"]);
        let (status, detail) = match (&place["late"], place["at"].as_str(), place["error"].as_str()) {
            (late, _, _) if *late == json!(true) => (Status::Failed, format!("{to}: {error}")),
            (_, Some(_), None) => (Status::Ok, arrived),
            _ => (Status::Warning, format!("{to}: {error}")),
        };
        let remedy = "what is cut off the log meanwhile leaves no trace off this host";
        findings.add(SECTION, status, "signed heads", detail, (status != Status::Ok).then_some(remedy));
    }
    let recordings = &evidence["recordings"];
    if let Some(to) = recordings["to"].as_str() {
        let waiting = &recordings["waiting"];
        match recordings["error"].as_str() {
            None => findings.add(
                SECTION,
                Status::Ok,
                "recordings",
                format!("stored in {to}, {waiting} wait"),
                None,
            ),
            Some(error) => {
                let blocked = recordings["blocked"] == json!(true);
                let status = if blocked { Status::Failed } else { Status::Warning };
                let remedy = "sessions on targets with the tag record: required are refused while recordings cannot be stored";
                findings.add(SECTION, status, "recordings", format!("{waiting} wait; {error}"), Some(remedy));
            }
        }
    }
    if let Some(error) = evidence["retention"]["error"].as_str() {
        findings.add(SECTION, Status::Failed, "retention", error, Some("nothing is removed; watch the disk"));
    }
    if let Some(error) = evidence["otlp"]["error"].as_str() {
        findings.add(
            SECTION,
            Status::Warning,
            "traces",
            error,
            Some("traces and logs are given up meanwhile"),
        );
    }
}

/// How the log goes to the store that nodes share.
fn agent_shared(shared: &Value, findings: &mut Findings) {
    let Some(to) = shared["to"].as_str() else { return };
    let (through, waiting) = (&shared["through"], &shared["waiting_bytes"]);
    let full = shared["full"] == json!(true);
    let (status, detail) = match shared["error"].as_str() {
        Some(error) => (
            if full { Status::Failed } else { Status::Warning },
            format!("{waiting} bytes wait for {to}: {error}"),
        ),
        None if full => {
            (Status::Failed, format!("{waiting} bytes wait for {to}: it is slower than this node"))
        }
        None => (Status::Ok, format!("{to} has {through} records, {waiting} bytes wait")),
    };
    let remedy = match full {
        true => "operations are refused until the database takes records again",
        false => "records wait in the spool; operations are refused once it is full (store_spool_bytes)",
    };
    findings.add("agent", status, "shared store", detail, (status != Status::Ok).then_some(remedy));
}

fn agent_hooks(hooks: &Value, findings: &mut Findings) {
    const SECTION: &str = "agent";
    for layer in hooks["layers"].as_array().into_iter().flatten() {
        // An older agent has none of these.
        if let Ok(check) = serde_json::from_value::<Check>(layer["check"].clone()) {
            findings.0.push(Finding { section: "capture", check });
        }
    }
    match hooks["bypassed"].as_u64() {
        Some(0) => findings.add("capture", Status::Ok, "coverage", "no connection went past lockgate", None),
        Some(count) => findings.add(
            "capture",
            Status::Warning,
            "coverage",
            format!(
                "{count} connections of governed processes went past lockgate since it started, and were cut"
            ),
            Some("the record says which: `lockgate audit`, stage bypass"),
        ),
        None => {}
    }
    if let Some(count) = hooks["not_governed"].as_u64().filter(|count| *count > 0) {
        findings.add(
            "capture",
            Status::Warning,
            "processes",
            format!("{count} processes asked to be governed and could not be; their command was not run"),
            Some("see lockgate_processes_not_governed_total for why, and run.allow_uids"),
        );
    }
    if let Some(why) = hooks["deaf"].as_str() {
        let text = format!("what jobs are told of targets' names is not heard: {why}");
        let remedy = "targets given by name are protected at the addresses that lockgate itself resolves, and no others";
        findings.add("capture", Status::Warning, "names", text, Some(remedy));
    }
    let detached = strings(&hooks["detached"]);
    let unknown = hooks["unknown"].as_array().map_or(0, Vec::len);
    if detached.is_empty() && unknown == 0 {
        let pins = hooks["pins"].as_str().unwrap_or_default();
        let detail = format!("{} attached, pinned in {pins}", hooks["whole"]);
        findings.add(SECTION, Status::Ok, "hooks", detail, None);
    } else {
        let detail = format!("detached: {}; {unknown} unknown", detached.join(", "));
        findings.add(
            SECTION,
            Status::Failed,
            "hooks",
            detail,
            Some("find out who removed them, then restart the agent"),
        );
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn describe(findings: &[Finding], status: Option<&Value>) -> String {
    let mut out = String::new();
    let mut section = "";
    for Finding { section: of, check } in findings {
        if section != *of {
            out.push_str(&format!(
                "{}{}\n",
                if section.is_empty() { "" } else { "\n" },
                styled(Style::Bold, of)
            ));
            section = of;
        }
        let mark = match check.status {
            Status::Ok => styled(Style::Green, "ok     "),
            Status::Warning => styled(Style::Yellow, "warning"),
            Status::Failed => styled(Style::Red, "FAILED "),
        };
        out.push_str(&format!("  {mark}  {:<22}{}\n", check.name, text::line(&check.detail)));
        if let Some(remedy) = &check.remedy {
            out.push_str(&format!("           {:<22}→ {}\n", "", text::line(remedy)));
        }
    }
    if let Some(governed) = status.and_then(|status| status["governed"].as_array()) {
        out.push_str(&format!("\n{}\n", styled(Style::Bold, "governed")));
        for entry in governed {
            out.push_str(&format!("  {}\n", text::line(&entry.to_string())));
        }
    }
    let failed = findings.iter().filter(|finding| finding.check.status == Status::Failed).count();
    out.push_str(&match failed {
        0 => "\nEverything that is needed is in order.\n".to_owned(),
        failed => format!("\n{failed} checks failed.\n"),
    });
    out
}
