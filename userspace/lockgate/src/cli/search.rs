//! `lockgate sessions search`: everything that was recorded, by words and filters, the newest first.

use super::{
    Exit, Output,
    client::{Agent, CallError, query},
    output::{self, Table},
    sessions::{ago, moment},
    text,
};
use clap::Args;
use lockgate_model::Timestamp;
use serde_json::{Value, json};

/// Hits of one answer.
const PAGE: usize = 500;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Words of statements, reasons and names; all of them, in any order. "In quotes" they stand next to each other
    text: Option<String>,
    /// Who asked: words of the principal's id or name
    #[arg(long, value_name = "TEXT")]
    identity: Option<String>,
    /// The repository of a CI job
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Option<String>,
    /// On this target
    #[arg(long)]
    target: Option<String>,
    /// Reading or writing this table
    #[arg(long)]
    table: Option<String>,
    /// Of this class: read, write, ddl, …
    #[arg(long)]
    class: Option<String>,
    /// allowed, denied, held, approved, rejected, expired or cancelled
    #[arg(long)]
    decision: Option<String>,
    /// Somebody's vote
    #[arg(long, value_name = "ID")]
    approver: Option<String>,
    /// Of this kind: session_started, operation_decided, vote_cast, …
    #[arg(long, value_name = "KIND")]
    event: Option<String>,
    /// Decided by this rule
    #[arg(long)]
    rule: Option<String>,
    /// Only since: a duration ago (90m, 7d) or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only before
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<Timestamp>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

pub(super) fn run(agent: &Agent, arguments: Arguments, format: Output) -> anyhow::Result<Exit> {
    let mut items: Vec<Value> = Vec::new();
    let mut next = Value::Null;
    let mut complete = true;
    while items.len() < arguments.limit {
        let mut asked = json!({
            "text": arguments.text, "identity": arguments.identity, "repository": arguments.repository,
            "target": arguments.target, "table": arguments.table, "class": arguments.class,
            "decision": arguments.decision, "approver": arguments.approver, "event": arguments.event,
            "rule": arguments.rule, "since": arguments.since, "until": arguments.until,
            "limit": (arguments.limit - items.len()).min(PAGE), "before": next,
        });
        if let Some(fields) = asked.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        let mut answer =
            agent.get_slow(&format!("/v1/search?{}", query(&asked))).map_err(CallError::into_failure)?;
        complete &= answer["complete"] != json!(false);
        next = answer["next"].take();
        items.extend(answer["items"].as_array_mut().map(std::mem::take).unwrap_or_default());
        if next.is_null() {
            break;
        }
    }
    match format {
        Output::Json => {
            output::print_json(&json!({ "items": items, "next": next, "complete": complete }))?;
        }
        Output::Text => output::print(&table(&items))?,
    }
    if !complete && format == Output::Text {
        eprintln!("the newest records are not in the index yet; ask again in a moment");
    }
    Ok(Exit::Done)
}

fn table(items: &[Value]) -> String {
    if items.is_empty() {
        return "Nothing that was recorded fits.\n".to_owned();
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["RECORD", "WHEN", "WHAT", "DECISION", "TARGET", "WHO", "SESSION", "TEXT"]);
    for item in items {
        let field = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let at = item["at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        table.row(vec![
            item["seq"].to_string(),
            at.map(|at| ago(now, at)).unwrap_or_default(),
            field("event").replace('_', " "),
            field("decision"),
            field("target"),
            text::short(&field("display"), 32),
            field("session"),
            text::short(&field("text"), 60),
        ]);
    }
    table.render()
}
