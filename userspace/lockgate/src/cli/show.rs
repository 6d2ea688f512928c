//! One request, one screen: what would happen in a sentence, what could hurt, the exact text, who asks and how
//! sure that is, what holds it and who may decide.
//!
//! The sentence is made from the parsed operation, never from the client's text.

use super::{
    output::{Style, styled},
    sessions::{ago, field, rough, to_second},
    text,
};
use lockgate_model::Timestamp;
use serde_json::Value;
use std::fmt::Write as _;

/// Lines of a statement that are shown; the rest is counted. `--output json` has all of it.
const SHOWN_LINES: usize = 60;
/// Width of the bar of time left.
const BAR: u64 = 20;

/// The screen.
pub(super) fn screen(request: &Value, now: Timestamp) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}\n", sentence(request));
    out.push_str(&effects(request));
    out.push('\n');
    out.push_str(&statement(&request["operation"]));
    out.push('\n');
    out.push_str(&identity(request));
    out.push('\n');
    out.push_str(&decision(request, now));
    out
}

/// `1 of 2 dba`, per requirement.
pub(super) fn have(need: &Value) -> String {
    let one = |requirement: &Value| {
        format!(
            "{} of {} {}",
            requirement["have"],
            requirement["need"],
            words(&requirement["any_of"]).replace(", ", "|")
        )
    };
    need.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}

/// The control plane's summary, made from the parsed operation; and the run, which only some requests have.
fn sentence(request: &Value) -> String {
    let ci = &request["identity"]["ci"];
    let mut out = styled(Style::Bold, &word(&request["summary"]));
    if let Some(run) = ci["run_id"].as_str() {
        let _ = write!(out, ", run {}", text::line(run));
    }
    if let Some(actor) = ci["triggering_actor"].as_str().or(ci["actor"].as_str()) {
        let _ = write!(out, ", triggered by {}", text::line(actor));
    }
    out
}

fn effects(request: &Value) -> String {
    let operation = &request["operation"];
    let mut out = String::new();
    let mut put = |label: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&field(label, &value));
        }
    };
    put("class", format!("{}, risk {}", word(&operation["class"]), word(&operation["risk"])));
    put("effects", words(&operation["effects"]).replace('_', " "));
    put("reads", words(&operation["tables_read"]));
    put("writes", words(&operation["tables_written"]));
    put("columns", text::short(&words(&operation["columns"]), 200));
    if operation["bounded"] == false {
        put("unbounded", "touches every row: no WHERE, or one that is always true".to_owned());
    }
    if request["in_transaction"] == true {
        put("transaction", "open; its locks are held while this waits".to_owned());
    }
    if operation["literals"] == "masked" {
        put("masked", "touches masked columns; literals and bound values are not shown".to_owned());
    }
    put("opaque", word(&operation["opaque_reason"]));
    put("second", word(&operation["second_opinion"]));
    put("database", format!("{} as {}", word(&request["database"]), word(&request["role"])));
    put("search_path", word(&request["search_path"]));
    out
}

fn statement(operation: &Value) -> String {
    let whole = operation["statement"].as_str().unwrap_or_default();
    let visible = text::block(whole);
    let mut out = String::new();
    let lines: Vec<&str> = visible.lines().collect();
    for line in lines.iter().take(SHOWN_LINES) {
        let _ = writeln!(out, "  {} {line}", styled(Style::Dim, "│"));
    }
    if lines.len() > SHOWN_LINES {
        let _ = writeln!(
            out,
            "  {} … {} more lines, {} bytes in all (--output json)",
            styled(Style::Dim, "│"),
            lines.len() - SHOWN_LINES,
            whole.len()
        );
    }
    for value in operation["bound_values"].as_array().into_iter().flatten() {
        let shown = match (&value["masked"], &value["value"]) {
            (Value::Bool(true), _) => "masked".to_owned(),
            (_, Value::Null) => "NULL".to_owned(),
            (_, value) => word(value),
        };
        let _ = writeln!(
            out,
            "    ${} = {shown}  {}",
            value["position"],
            styled(Style::Dim, &word(&value["type"]))
        );
    }
    out
}

fn identity(request: &Value) -> String {
    let identity = &request["identity"];
    let process = &identity["process"];
    let mut out = String::new();
    let mut put = |label: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&field(label, &value));
        }
    };
    put(
        "who",
        format!(
            "{} [{}: {}]",
            word(&identity["principal"]),
            word(&identity["assurance"]),
            word(&identity["established_by"])
        ),
    );
    let exited = if process["exited"] == true { ", has exited" } else { "" };
    put(
        "process",
        format!("pid {}, uid {}, {}{exited}", process["pid"], process["uid"], word(&process["exe"])),
    );
    let parents = process["ancestry"].as_array().into_iter().flatten().map(|parent| word(&parent["name"]));
    put("started by", parents.collect::<Vec<_>>().join(" ← "));
    put("unit", word(&identity["unit"]["name"]));
    put("container", word(&identity["container"]["id"]));
    put("cgroup", word(&identity["cgroup"]));
    let ci = &identity["ci"];
    if ci.is_object() {
        let parts = ["repository", "workflow", "job", "run_id", "ref", "commit", "event_name"];
        let facts: Vec<String> =
            parts.iter().map(|part| word(&ci[*part])).filter(|fact| !fact.is_empty()).collect();
        put("ci", format!("{} {} [{}]", word(&ci["provider"]), facts.join(" › "), word(&ci["assurance"])));
        put("run", word(&ci["run_url"]));
        put("message", word(&ci["commit_message"]));
    }
    for ticket in identity["tickets"].as_array().into_iter().flatten() {
        let (id, standing, url) = (word(&ticket["id"]), word(&ticket["standing"]), word(&ticket["url"]));
        put("ticket", format!("{id} ({standing}) {url}").trim_end().to_owned());
    }
    put("claims", claims(&identity["client_claims"]));
    out
}

fn claims(claims: &Value) -> String {
    let application = word(&claims["application_name"]);
    let user = word(&claims["user"]);
    if application.is_empty() {
        format!("user {user} (unverified)")
    } else {
        format!("user {user}, application {application} (unverified)")
    }
}

fn decision(request: &Value, now: Timestamp) -> String {
    let mut out = String::new();
    for rule in request["rules"].as_array().into_iter().flatten() {
        let description = word(&rule["description"]);
        let description = if description.is_empty() { String::new() } else { format!(": {description}") };
        out.push_str(&field("rule", &format!("{}{description}", word(&rule["id"]))));
    }
    out.push_str(&field("votes", &have(&request["need"])));
    for vote in request["votes"].as_array().into_iter().flatten() {
        let reason = word(&vote["reason"]);
        out.push_str(&field(
            "",
            &format!(
                "{} by {} at {} {reason}",
                word(&vote["decision"]),
                word(&vote["by"]["id"]),
                time_of(&vote["at"])
            ),
        ));
    }
    for earlier in request["earlier"].as_array().into_iter().flatten() {
        let (id, state) = (word(&earlier["request_id"]), word(&earlier["state"]));
        out.push_str(&field(
            "earlier",
            &format!("the same command was {state} at {}, {id}", time_of(&earlier["created_at"])),
        ));
    }
    let time = |name: &str| request[name].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let state = word(&request["state"]);
    if let (Some(created), Some(expires)) = (time("created_at"), time("expires_at")) {
        if state == "pending" {
            out.push_str(&field("asked", &ago(now, created)));
            out.push_str(&field("time left", &bar(created, expires, now)));
        } else {
            out.push_str(&field("state", &format!("{state} {}", time_of(&request["resolved_at"]))));
        }
    }
    out.push_str(&field("digest", &word(&request["command_digest"])));
    if state == "pending" {
        let id = word(&request["id"]);
        let what = word(&request["operation"]["kind"]).replace('_', " ").to_uppercase();
        let _ = write!(
            out,
            "\nApprove this {what} once:\n  lockgate approvals approve {id} --reason '…'\nRefuse it:\n  lockgate approvals deny {id} --reason '…'\n"
        );
    }
    out
}

/// `█████░░░░░ 4m10s, until 2026-…`
fn bar(created: Timestamp, expires: Timestamp, now: Timestamp) -> String {
    let left = expires.duration_since(now);
    if !left.is_positive() {
        return "none".to_owned();
    }
    let whole = expires.duration_since(created).as_secs_f64().max(1.0);
    let share = (left.as_secs_f64() / whole).clamp(0.0, 1.0);
    // Both factors are small and positive.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ share ≤ 1")]
    let full = (share * BAR as f64).round() as usize;
    let empty = usize::try_from(BAR).unwrap_or_default() - full;
    format!(
        "{}{} {}, until {}",
        "█".repeat(full),
        "░".repeat(empty),
        rough(left.unsigned_abs()),
        to_second(expires)
    )
}

fn time_of(value: &Value) -> String {
    value.as_str().and_then(|text| text.parse().ok()).map(to_second).unwrap_or_default()
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text::line(text),
        other => text::line(&other.to_string()),
    }
}

fn words(value: &Value) -> String {
    value.as_array().into_iter().flatten().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request() -> Value {
        json!({
            "summary": "Alter table orders on orders-db (env production), asked by ci (uid 1001)",
            "earlier": [{ "request_id": "req_0", "created_at": "2026-11-21T09:00:00Z", "state": "denied" }],
            "id": "req_1", "state": "pending", "command_digest": "ab",
            "created_at": "2026-11-21T10:00:00Z", "expires_at": "2026-11-21T10:10:00Z",
            "operation": {
                "kind": "alter_table", "class": "ddl", "risk": "high", "opaque": false,
                "tables_read": [], "tables_written": ["orders"], "columns": [], "effects": ["changes_schema"],
                "statement": "alter table orders\n add \u{202e}x int\u{1b}[2J", "literals": "shown",
                "bound_values": [{ "position": 1, "type": "text", "value": "a\u{7}" }],
            },
            "in_transaction": true, "database": "shop", "role": "app",
            "target": { "name": "orders-db", "tags": { "env": "production" } },
            "identity": {
                "principal": "uid:1001", "display": "ci (uid 1001)", "assurance": "kernel", "established_by": "connect()",
                "process": { "pid": 7, "uid": 1001, "exe": "/usr/bin/psql", "ancestry": [{ "pid": 1, "name": "sh" }] },
                "ci": { "provider": "github_actions", "assurance": "claimed", "repository": "acme/billing", "run_id": "4711", "triggering_actor": "ana" },
                "client_claims": { "user": "whoever" },
            },
            "rules": [{ "id": "schema-change-dba", "description": "Schema changes need a DBA" }],
            "need": [{ "rule": "schema-change-dba", "have": 0, "need": 2, "any_of": ["dba", "oncall"] }],
            "votes": [],
        })
    }

    #[test]
    fn a_request_fits_one_screen_and_hides_nothing() {
        let screen = screen(&request(), "2026-11-21T10:05:00Z".parse().unwrap());
        for part in [
            "Alter table orders on orders-db (env production), asked by ci (uid 1001), run 4711, triggered by ana\n",
            "class       ddl, risk high\n",
            "transaction open; its locks are held while this waits\n",
            "  │ alter table orders\n  │  add ⟨U+202E⟩x int⟨U+001B⟩[2J\n",
            "$1 = a⟨U+0007⟩  text\n",
            "[kernel: connect()]",
            "rule        schema-change-dba: Schema changes need a DBA\n",
            "votes       0 of 2 dba|oncall\n",
            "earlier     the same command was denied at 2026-11-21T09:00:00Z, req_0\n",
            "██████████░░░░░░░░░░ 5m, until 2026-11-21T10:10:00Z\n",
            "Approve this ALTER TABLE once:\n  lockgate approvals approve req_1 --reason",
        ] {
            assert!(screen.contains(part), "{part:?} is missing:\n{screen}");
        }
        assert!(screen.lines().count() < 50);
        assert!(!screen.contains('\u{1b}') && !screen.contains('\u{202e}'));
    }
}
