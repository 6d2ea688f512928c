//! `lockgate policy`: check, test and explain policy files; works without an agent and without root.

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::{Agent, CallError},
    grants, history, inspect,
    output::{self, Style, Table, render_diagnostics, styled},
    sessions::field,
    text,
};
use crate::{
    agent::policy,
    config::{Client, ConfigError},
};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use lockgate_inspect::{
    http,
    sql::{DumpWatch, Inspector, SessionState},
};
use lockgate_model::{
    DecisionId, Timestamp,
    event::EventKind,
    operation::{Facts, Operation},
    session::Session,
    verdict::Effect,
};
use lockgate_policy::{
    CompiledPolicy, Diagnostic, Explanation, HttpAsks, Loaded, TestOutcome, document::Given,
    replay::reconstructed,
};
use lockgate_store::Record;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Check, test and explain policies
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate policy check policies/
  lockgate policy test policies/
  lockgate policy schema > lockgate-policy.schema.json
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
    /// Load policies and say what is wrong with them, where, and what was probably meant
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate policy check policies/
  lockgate policy check                   those of the configuration
")]
    Check(Files),
    /// Run the tests that the files carry
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate policy test policies/
  lockgate policy test --output json policies/ | jq '.tests[] | select(.failures != [])'
")]
    Test(Files),
    /// Say of every rule why it matches an event, or does not, and what comes of it
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  echo '{\"target\": {\"name\": \"orders-db\"}, \"statement\": \"DROP TABLE t\"}' > e.json
  lockgate policy explain --event e.json policies/
  lockgate sessions show -o json ses_01JD4Z0000000000000000000A | lockgate policy explain --event -
", after_help = "\
An event is what a policy test says under `given` (JSON or YAML); or what `lockgate sessions show
--output json` prints (each decided operation is explained anew); or one object
{\"session\": …, \"operation\": …} in the same shapes.")]
    Explain {
        /// The event; `-` is standard input
        #[arg(long, value_name = "FILE", required_unless_present = "session")]
        event: Option<PathBuf>,
        /// Ask the running agent, whose policy is the one in force
        #[arg(long)]
        agent: bool,
        /// With --agent: every decided operation of this recorded session (ses_…, or req_…)
        #[arg(long, value_name = "ID", requires = "agent", conflicts_with = "event")]
        session: Option<String>,
        #[command(flatten)]
        files: Files,
    },
    /// Write the rules that allow what was recorded, and nothing else, for people to edit
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate policy draft --since 7d --write draft.yaml
  lockgate policy draft --target orders-db --since 24h | less
", after_help = "\
Operations come of targets in shadow, or of those that allow everything; what was only observed is told in
comments, as targets to add. The draft is replayed against the same log: exit code 1 when it does not allow
what it was made of.")]
    Draft(history::DraftArguments),
    /// Say which recorded decisions a change of policy would change; exit code 1 when there are any
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate policy diff --replay /etc/lockgate/policies new/ --since 7d
  lockgate policy diff --replay old.yaml new.yaml --from /backup/lockgate --output json | jq .totals
", after_help = "\
Each recorded operation is decided twice, with its identity, target, time and facts as they were recorded. What
rests on more than that is counted and said: values that were not kept, and facts that only the target's
catalogue tells. Approvals, grants and what a mask refuses by a statement's columns are not replayed.")]
    Diff(history::DiffArguments),
    /// Print the GRANT statements that take masked columns from an upstream role
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate policy grants --target orders-db --database shop
  lockgate policy grants --target orders-db --database shop --role app > grants.sql
", after_help = "\
A role that may not SELECT what policy masks cannot be made to show it, whatever the statement. The
target's catalogue is read with the configuration's credential; nothing is changed there.")]
    Grants(grants::Arguments),
    /// Print the reference of every key of a policy file, as Markdown
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate policy reference > policy-reference.md
  lockgate policy reference | less
")]
    Reference,
    /// Print the JSON schema of a policy file, for editors
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate policy schema > lockgate-policy.schema.json
  lockgate policy schema | jq '.properties | keys'
")]
    Schema,
}

#[derive(Debug, Args)]
pub(super) struct Files {
    /// Files and directories of policy; by default those of the configuration
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let format = arguments.output.output;
    match arguments.verb {
        Verb::Check(files) => check(&files.of(config)?, format),
        Verb::Test(files) => test(&files.of(config)?, format),
        Verb::Explain { event, agent: true, session, .. } => {
            explain_there(&Agent::reach(config)?, event.as_deref(), session, format)
        }
        Verb::Explain { event, files, .. } => {
            explain(&event.unwrap_or_else(|| PathBuf::from("-")), &files.of(config)?, format)
        }
        Verb::Draft(arguments) => history::draft(config, arguments, format),
        Verb::Diff(arguments) => history::diff(config, arguments, format),
        Verb::Grants(arguments) => grants::run(config, arguments, format),
        Verb::Schema => output::print_json(&CompiledPolicy::schema()).map(|()| Exit::Done),
        Verb::Reference => output::print(&CompiledPolicy::reference()).map(|()| Exit::Done),
    }
}

impl Files {
    pub(super) fn of(self, config: &Path) -> anyhow::Result<Vec<PathBuf>> {
        if !self.files.is_empty() {
            return Ok(self.files);
        }
        let policies = Client::read(config)
            .context("no files were given, so the configuration's are looked for")?
            .policies;
        anyhow::ensure!(!policies.is_empty(), "{} names no policies; give files", config.display());
        Ok(policies)
    }
}

pub(super) fn load(paths: &[PathBuf]) -> anyhow::Result<Result<Loaded, Vec<Diagnostic>>> {
    let files = policy::read(paths).map_err(anyhow::Error::msg)?;
    if files.is_empty() {
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        bail!("there is no *.yaml in {}", paths.join(", "));
    }
    Ok(CompiledPolicy::load(files))
}

fn check(paths: &[PathBuf], format: Output) -> anyhow::Result<Exit> {
    let loaded = load(paths)?;
    let (errors, warnings, version) = match &loaded {
        Ok(loaded) => (&[][..], &loaded.warnings[..], Some(loaded.policy.version())),
        Err(errors) => (&errors[..], &[][..], None),
    };
    match format {
        Output::Json => output::print_json(
            &json!({ "ok": errors.is_empty(), "version": version, "errors": errors, "warnings": warnings }),
        )?,
        Output::Text => {
            output::print(&list(errors, &styled(Style::Red, "error")))?;
            output::print(&list(warnings, &styled(Style::Yellow, "warning")))?;
            if let Ok(loaded) = &loaded {
                let rules = loaded.policy.rules().count();
                output::print(&format!(
                    "{}: {rules} rules, version {}\n",
                    styled(Style::Green, "ok"),
                    loaded.policy.version()
                ))?;
            }
        }
    }
    Ok(if loaded.is_ok() { Exit::Done } else { Exit::Failed })
}

/// Says what is wrong with policies that something else was asked of.
pub(super) fn rejected(errors: &[Diagnostic], format: Output) -> anyhow::Result<Exit> {
    match format {
        Output::Json => output::print_json(&json!({ "ok": false, "errors": errors }))?,
        Output::Text => output::print(&list(errors, &styled(Style::Red, "error")))?,
    }
    Ok(Exit::Failed)
}

fn list(diagnostics: &[Diagnostic], word: &str) -> String {
    render_diagnostics(diagnostics, |file| std::fs::read_to_string(file).ok(), word)
}

fn test(paths: &[PathBuf], format: Output) -> anyhow::Result<Exit> {
    let loaded = match load(paths)? {
        Ok(loaded) => loaded,
        Err(errors) => {
            match format {
                Output::Json => output::print_json(&json!({ "ok": false, "errors": errors, "tests": [] }))?,
                Output::Text => output::print(&list(&errors, &styled(Style::Red, "error")))?,
            }
            return Ok(Exit::Failed);
        }
    };
    let outcomes = inspect::on_deep_stack(move || Ok(loaded.policy.run_tests(&facts_of)))?;
    let ok = outcomes.iter().all(TestOutcome::passed);
    match format {
        Output::Json => output::print_json(&json!({ "ok": ok, "errors": [], "tests": outcomes }))?,
        Output::Text => output::print(&outcomes_text(&outcomes))?,
    }
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

/// What the inspector makes of a test's statement, or request.
pub(crate) fn facts_of(given: &Given, asks: &HttpAsks) -> Vec<Facts> {
    if let Some(request) = &given.request {
        let given = http::Given { request, headers: &given.headers, body: given.body.as_deref() };
        return vec![Facts::Http(given.facts(&asks.headers, &asks.json))];
    }
    // A session as psql opens it: the server says so before the first statement.
    let mut state = SessionState::from_startup(&[]);
    state.parameter_status("standard_conforming_strings", "on");
    let facts = DumpWatch::default().facts(&Inspector.script(&given.statement, &state, None));
    facts.into_iter().map(Facts::Sql).collect()
}

/// A text without its literals, statement by statement; None where nothing of it was understood.
pub(crate) fn shapes_of(text: &str) -> Option<String> {
    let mut state = SessionState::from_startup(&[]);
    state.parameter_status("standard_conforming_strings", "on");
    let statements = Inspector.script(text, &state, None).statements;
    let shapes: Vec<&str> = statements.iter().map(|statement| &*statement.normalized).collect();
    let known = !shapes.is_empty() && shapes.iter().all(|shape| !shape.is_empty());
    known.then(|| shapes.join("; "))
}

fn outcomes_text(outcomes: &[TestOutcome]) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        let place = format!("{}:{}", outcome.file, outcome.line);
        if outcome.passed() {
            out.push_str(&format!("{}  {}\n", styled(Style::Green, "ok    "), text::line(&outcome.name)));
            continue;
        }
        out.push_str(&format!(
            "{}  {}  {}\n",
            styled(Style::Red, "FAILED"),
            text::line(&outcome.name),
            styled(Style::Dim, &place)
        ));
        for failure in &outcome.failures {
            out.push_str(&format!("        {}\n", text::line(failure)));
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    let passed = outcomes.len() - failed;
    out.push_str(&match (passed, failed) {
        (0, 0) => "no tests: add `tests:` to the files\n".to_owned(),
        (passed, failed) => format!("{passed} passed, {failed} failed\n"),
    });
    out
}

/// What `--event` holds.
enum Event {
    /// Operations as they were recorded, or written out in the same shapes.
    Recorded(Vec<(Session, Operation, Timestamp)>),
    /// What a policy test's `given:` says.
    Given(Box<Given>),
}

fn explain(event: &Path, paths: &[PathBuf], format: Output) -> anyhow::Result<Exit> {
    let name = event.display().to_string();
    let source = match event == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin())?,
        false => std::fs::read_to_string(event).with_context(|| name.clone())?,
    };
    let event = read_event(&name, source)?;
    let loaded = match load(paths)? {
        Ok(loaded) => loaded,
        Err(errors) => {
            output::print(&list(&errors, &styled(Style::Red, "error")))?;
            return Ok(Exit::Failed);
        }
    };
    let explained = inspect::on_deep_stack(move || explanations(&loaded.policy, event))?;
    anyhow::ensure!(!explained.is_empty(), "{name}: no operation is in it");
    match format {
        Output::Json => {
            let one = |(statement, explanation): &(String, Explanation)| json!({ "statement": statement, "explanation": explanation });
            output::print_json(&json!({ "explanations": explained.iter().map(one).collect::<Vec<_>>() }))?;
        }
        Output::Text => {
            for (statement, explanation) in &explained {
                output::print(&explanation_text(statement, explanation))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Asks the running agent what its policy makes of it.
fn explain_there(
    agent: &Agent,
    event: Option<&Path>,
    session: Option<String>,
    format: Output,
) -> anyhow::Result<Exit> {
    let asked = match session {
        Some(session) => json!({ "session": session }),
        None => {
            let event = event.unwrap_or(Path::new("-"));
            let name = event.display().to_string();
            let source = match event == Path::new("-") {
                true => std::io::read_to_string(std::io::stdin())?,
                false => std::fs::read_to_string(event).with_context(|| name.clone())?,
            };
            let given = lockgate_policy::yaml::parse::<Value>(&name, &source);
            json!({ "given": given.map_err(|diagnostics| ConfigError::Invalid { text: Some(source), diagnostics })? })
        }
    };
    let answer = agent.post("/v1/policy/explain", &asked).map_err(CallError::into_failure)?;
    if format == Output::Json {
        return output::print_json(&json!({ "explanations": answer["items"] })).map(|()| Exit::Done);
    }
    for one in answer["items"].as_array().into_iter().flatten() {
        let word = |name: &str| one[name].as_str().unwrap_or_default();
        let statement = text::short(word("statement"), 100);
        output::print(&format!("{}\n  verdict    {}\n", styled(Style::Bold, &statement), word("effect")))?;
        let mut table = Table::new(&["RULE", "EFFECT", "MODE", "MATCHES", "BECAUSE"]);
        for rule in one["explanation"]["rules"].as_array().into_iter().flatten() {
            let field = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
            let failed =
                rule["conditions"].as_array().into_iter().flatten().filter(|it| it["holds"] == json!(false));
            let because: Vec<String> = failed
                .map(|it| {
                    let part = |name: &str| it[name].as_str().unwrap_or_default().to_owned();
                    format!("{}: wants {}, is {}", part("key"), part("wanted"), part("got"))
                })
                .collect();
            let because =
                if because.is_empty() { "every condition holds".to_owned() } else { because.join("; ") };
            let matches = if rule["matched"] == json!(true) { "yes" } else { "no" };
            table.row(vec![
                field("rule"),
                field("effect"),
                field("mode"),
                matches.to_owned(),
                text::short(&because, 160),
            ]);
        }
        output::print(&format!("{}\n", table.render()))?;
    }
    Ok(Exit::Done)
}

fn explanations(policy: &CompiledPolicy, event: Event) -> anyhow::Result<Vec<(String, Explanation)>> {
    match event {
        Event::Recorded(operations) => Ok(operations
            .into_iter()
            .map(|(session, operation, at)| {
                let decision = DecisionId::from_parts(0, 0);
                (operation.text.to_string(), policy.explain(&session, &operation, at, decision))
            })
            .collect()),
        Event::Given(given) => {
            let explanations = policy.explain_given(&given, &facts_of).map_err(anyhow::Error::msg)?;
            Ok(explanations
                .into_iter()
                .map(|explanation| {
                    (given.request.clone().unwrap_or_else(|| given.statement.clone()), explanation)
                })
                .collect())
        }
    }
}

fn read_event(name: &str, source: String) -> anyhow::Result<Event> {
    let shape = || {
        format!(
            "{name}: expected a policy test's `given`, the output of `lockgate sessions show --output json`, \
             or {{\"session\": …, \"operation\": …}}"
        )
    };
    // YAML holds JSON; only recorded events are always JSON.
    let json = serde_json::from_str::<Value>(&source).unwrap_or_default();
    if let Some(records) = json.get("records") {
        let records = serde_json::from_value::<Vec<Record>>(records.clone()).with_context(shape)?;
        return Ok(Event::Recorded(decided(&records)));
    }
    if let (Some(session), Some(operation)) = (json.get("session"), json.get("operation")) {
        let session = serde_json::from_value(session.clone()).with_context(shape)?;
        let operation = serde_json::from_value(operation.clone()).with_context(shape)?;
        return Ok(Event::Recorded(vec![(session, operation, Timestamp::now())]));
    }
    match lockgate_policy::yaml::parse::<Given>(name, &source) {
        Ok(given) => Ok(Event::Given(Box::new(given))),
        Err(diagnostics) => Err(ConfigError::Invalid { text: Some(source), diagnostics }).with_context(shape),
    }
}

/// The operations of a session's records, as policy saw them.
fn decided(records: &[Record]) -> Vec<(Session, Operation, Timestamp)> {
    let session = records.iter().find_map(|record| match &record.event.kind {
        EventKind::SessionStarted(session) => Some(session.as_ref().clone()),
        _ => None,
    });
    let Some(session) = session else { return Vec::new() };
    let operations = records.iter().filter_map(|record| match &record.event.kind {
        EventKind::OperationDecided { operation, .. } => Some((operation, record.event.at)),
        _ => None,
    });
    operations.map(|(operation, at)| (session.clone(), reconstructed(&session, operation), at)).collect()
}

fn explanation_text(statement: &str, explanation: &Explanation) -> String {
    let mut out = format!("{}\n", styled(Style::Bold, &text::short(statement, 100)));
    let verdict = &explanation.verdict;
    let effect = match &verdict.effect {
        Effect::Allow => styled(Style::Green, "allow"),
        Effect::Deny(denial) => format!("{}: {}", styled(Style::Red, "deny"), text::line(&denial.reason)),
        Effect::Hold(_) => styled(Style::Yellow, "require_approval"),
    };
    out.push_str(&format!("  verdict    {effect}\n"));
    if let Some(would) = &verdict.would {
        out.push_str(&field("shadow", &format!("enforce would say {}", would.as_str())));
    }
    let mut table = Table::new(&["RULE", "EFFECT", "MODE", "MATCHES", "BECAUSE"]);
    for rule in &explanation.rules {
        let because: Vec<String> = rule
            .conditions
            .iter()
            .filter(|condition| !condition.holds)
            .map(|condition| format!("{}: wants {}, is {}", condition.key, condition.wanted, condition.got))
            .collect();
        let because =
            if because.is_empty() { "every condition holds".to_owned() } else { because.join("; ") };
        let matches = if rule.matched { "yes" } else { "no" };
        table.row(vec![
            rule.rule.to_string(),
            rule.effect.to_owned(),
            rule.mode.to_owned(),
            matches.to_owned(),
            text::short(&because, 160),
        ]);
    }
    out.push_str(&table.render());
    out.push('\n');
    out
}
