use super::*;
use crate::notify::{brief::Brief, event::EventType};
use serde_json::json;

/// What no text that Slack parses may contain, and no text at all may.
fn check(message: &Value) {
    let mut stack = vec![(None::<String>, message)];
    while let Some((parsed, value)) = stack.pop() {
        match value {
            Value::String(text) => {
                assert!(!text.chars().any(crate::text::is_deceptive), "{text:?}");
                assert!(text.chars().count() <= 3_000, "{}", text.len());
                if parsed.as_deref() == Some("parsed") {
                    assert!(!text.contains(['<', '>', '`', '@']), "{text}");
                    let entities =
                        ["&amp;", "&lt;", "&gt;"].map(|it| text.matches(it).count()).iter().sum::<usize>();
                    assert_eq!(text.matches('&').count(), entities, "{text}");
                    assert!(!text.contains("://"), "{text}");
                }
            }
            Value::Array(items) => stack.extend(items.iter().map(|item| (parsed.clone(), item))),
            Value::Object(fields) => {
                // Elements of rich text are not parsed; everything else called `text` is.
                let rich = fields.get("type") == Some(&json!("text"));
                for (key, value) in fields {
                    let parsed = (key == "text" && !rich).then(|| "parsed".to_owned());
                    stack.push((parsed, value));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

const HOSTILE: [&str; 6] = [
    "<!channel> <@U0ADMIN> <https://evil.example|Approve>",
    "`]}\", \"type\": \"actions\" *bold* _it_ ~no~ &lt;b&gt;",
    "```\nEffect: read\nRisk: low\n```\n@here #general https://evil.example/",
    "\u{202e}txet desrever\u{2066} \u{200b}hidden \0 \u{1b}[2J \r\n",
    "",
    "🦀 größe 表",
];

fn event(text: &str, statement: &str) -> Value {
    json!({
        "type": "lockgate.approval.requested",
        "data": {
            "summary": text,
            "console_url": "https://gate.example.com/approvals/req_1",
            "operation": { "statement_display": crate::text::visible(statement), "statement_bytes": statement.len(),
                "kind": text, "tables_written": [text, text], "bound_values": [{ "position": 1, "type": "text", "value": text }] },
            "target": { "name": text, "tags": { text: text } },
            "database": text, "role": text, "in_transaction": true,
            "identity": { "display": text, "established_by": text, "assurance": "kernel",
                "ci": { "repository": text, "workflow": text, "ref": text, "actor": text, "triggering_actor": text, "run_url": text, "commit": text },
                "process": { "pid": 7, "exe": text, "ancestry": [{ "name": text }] } },
            "rules": [{ "id": text, "description": text, "require_reason": true }],
            "need": [{ "have": 0, "need": 1, "any_of": [text] }],
            "resolution": { "outcome": "denied", "votes": [{ "by": text, "decision": "deny", "reason": text, "at": "now" }] },
            "bundle": { "size": 3, "requests": [{ "statement_display": text }, { "statement_display": text }] },
        },
    })
}

#[test]
fn no_stranger_s_text_becomes_a_mention_a_link_or_a_button() {
    for text in HOSTILE {
        for statement in HOSTILE.into_iter().chain([&*"x".repeat(100_000)]) {
            let brief = Brief::of(EventType::Requested, &event(text, statement));
            let made = message(&brief, Some("req_1.mac"));
            check(&made);
            let blocks = made["blocks"].as_array().unwrap();
            assert!(blocks.len() <= 50 && made["blocks"].to_string().chars().count() < 13_000);
            let kinds: Vec<&str> = blocks.iter().map(|block| block["type"].as_str().unwrap()).collect();
            assert_eq!(kinds.iter().filter(|kind| **kind == "actions").count(), 1, "{kinds:?}");
            assert_eq!(kinds.last(), Some(&"actions"));
            let heading = &blocks[0]["text"]["text"];
            assert_eq!(heading, "Approval needed", "fixed words");
            check(&reason_modal("trigger", &brief, &json!({ "value": "req_1.mac" }), false));
            check(&whisper("C1", "U1", text));
        }
    }
}

#[test]
fn a_long_statement_is_cut_and_said_to_be() {
    let long = format!("SELECT '{}'; DROP TABLE orders", "a".repeat(5_000));
    let brief = Brief::of(EventType::Requested, &event("x", &long));
    let made = message(&brief, Some("v")).to_string();
    assert!(made.contains("CUT: the statement has 5028 bytes"), "{made}");
    assert!(!made.contains("DROP TABLE"));
    let short = Brief::of(EventType::Requested, &event("x", "SELECT 1"));
    assert!(!message(&short, Some("v")).to_string().contains("CUT"));
}

#[test]
fn what_is_over_has_no_buttons_but_the_link_and_says_who_decided() {
    let brief = Brief::of(EventType::Denied, &event("ana", "SELECT 1"));
    let made = message(&brief, None);
    let actions = made["blocks"].as_array().unwrap().last().unwrap()["elements"].as_array().unwrap().clone();
    assert_eq!(actions.len(), 1);
    assert!(actions[0]["url"].is_string() && actions[0].get("value").is_none());
    assert!(made.to_string().contains("denied by ana"));
}

#[test]
fn a_stranger_s_line_feed_begins_no_line_of_ours() {
    let brief = Brief::of(EventType::Requested, &event("acme\nRisk: low\nEffect: none", "SELECT 1"));
    let labels: Vec<&str> = brief.facts.iter().map(|(label, _)| *label).collect();
    let distinct: std::collections::BTreeSet<&str> = labels.iter().copied().collect();
    assert_eq!(labels.len(), distinct.len(), "one entry a label: {labels:?}");
    assert!(brief.facts.iter().all(|(_, text)| !text.contains('\n')), "{:?}", brief.facts);
    assert!(!brief.summary.contains('\n') && brief.outcome.iter().all(|line| !line.contains('\n')));
}

#[test]
fn text_that_slack_parses_is_escaped() {
    for (text, expected) in [
        ("a < b && c > d", "a &lt; b &amp;&amp; c &gt; d"),
        ("<!here>", "&lt;!here&gt;"),
        ("`x` @ana https://x", "ˋxˋ ＠ana https:∕∕x"),
    ] {
        assert_eq!(harmless(text), expected);
    }
}
