//! Cards in Block Kit. What strangers wrote stands in rich text, whose text elements are not parsed: no mentions, links or
//! formatting come of it. Where Slack parses all the same (the text that phones show, whispers), it is escaped.
//!
//! Limits (docs.slack.dev, Block Kit): 50 blocks, 3,000 characters a text, 150 a header, 24 a modal's title, 2,000 a
//! button's value; all blocks together some 13,000, says `msg_blocks_too_long`.

use crate::{
    notify::{brief::Brief, rehearsal},
    text::{clip, visible},
};
use serde_json::{Value, json};

/// Bytes of a statement on a card; the link has all of it.
const STATEMENT_MAX: usize = 2_000;

/// Bytes of all facts together, each with what Block Kit puts around it.
const FACTS_MAX: usize = 5_000;
const AROUND_FACT: usize = 120;

/// Bytes of one fact.
const FACT_MAX: usize = 300;

/// Bytes of a summary, an outcome, a bundle's lines.
const LINES_MAX: usize = 1_000;

/// Bytes of what phones and screen readers get instead of blocks.
const TEXT_MAX: usize = 500;

/// Bytes of a whisper.
const WHISPER_MAX: usize = 1_500;

/// The action ids of the buttons.
pub(crate) const APPROVE: &str = "lockgate_approve";
pub(crate) const DENY: &str = "lockgate_deny";
const OPEN: &str = "lockgate_open";

/// The callback id of the modal that asks for a reason, and where the reason stands in it.
pub(crate) const REASON: &str = "lockgate_reason";
pub(crate) const REASON_BLOCK: &str = "reason";
pub(crate) const REASON_INPUT: &str = "text";

/// A whole message but its channel. `value` makes its buttons.
pub(super) fn message(brief: &Brief, value: Option<&str>) -> Value {
    let mark = if brief.rehearsal { rehearsal::MARK } else { "" };
    json!({
        "text": harmless(&cut(&format!("{mark}{}: {}", brief.heading, brief.summary), TEXT_MAX)),
        "blocks": blocks(brief, value),
        "parse": "none",
        "link_names": false,
    })
}

fn blocks(brief: &Brief, value: Option<&str>) -> Vec<Value> {
    let heading = match (brief.rehearsal, brief.heading) {
        (true, heading) => format!("Rehearsal: {heading}"),
        (false, heading) => heading.to_owned(),
    };
    let mut blocks = vec![json!({ "type": "header", "text": { "type": "plain_text", "text": heading } })];
    blocks.push(rich(vec![section(vec![plain(&brief.summary, LINES_MAX)])]));
    if !brief.statement.is_empty() {
        blocks.push(rich(statement(brief)));
    }
    if !brief.bundle.is_empty() {
        blocks.push(rich(vec![preformatted(&brief.bundle.join("\n"), LINES_MAX)]));
    }
    if !brief.outcome.is_empty() {
        blocks
            .push(rich(vec![section(vec![bold("Outcome: "), plain(&brief.outcome.join("\n"), LINES_MAX)])]));
    }
    if !brief.facts.is_empty() {
        blocks.push(rich(vec![section(facts(brief))]));
    }
    let actions = actions(brief, value);
    if !actions.is_empty() {
        blocks.push(json!({ "type": "actions", "block_id": "lockgate", "elements": actions }));
    }
    blocks
}

fn statement(brief: &Brief) -> Vec<Value> {
    let mut elements = vec![preformatted(&brief.statement, STATEMENT_MAX)];
    let mut notes = Vec::new();
    if brief.statement_cut || brief.statement.len() > STATEMENT_MAX {
        notes.push(format!(
            "CUT: the statement has {} bytes; look at the whole before you decide.",
            brief.statement_bytes
        ));
    }
    if brief.masked {
        notes.push("Literals are left out: it touches a masked table.".to_owned());
    }
    if !notes.is_empty() {
        elements.push(section(vec![bold(&notes.join(" "))]));
    }
    elements
}

fn facts(brief: &Brief) -> Vec<Value> {
    let mut elements = Vec::new();
    let mut spent = 0;
    for (label, text) in &brief.facts {
        let text = cut(text, FACT_MAX);
        spent += label.len() + text.len() + AROUND_FACT;
        if spent > FACTS_MAX {
            elements.push(plain("More is behind the link.", FACT_MAX));
            break;
        }
        elements.push(bold(&format!("{label}: ")));
        elements.push(plain(&format!("{text}\n"), FACT_MAX + 8));
    }
    elements
}

fn actions(brief: &Brief, value: Option<&str>) -> Vec<Value> {
    let mut actions = Vec::new();
    if let Some(value) = value {
        for (id, style, text) in [(APPROVE, "primary", "Approve"), (DENY, "danger", "Deny")] {
            actions.push(json!({
                "type": "button",
                "action_id": id,
                "style": style,
                "text": { "type": "plain_text", "text": text },
                "value": value,
            }));
        }
    }
    if !brief.link.is_empty() {
        actions.push(json!({
            "type": "button",
            "action_id": OPEN,
            "text": { "type": "plain_text", "text": "Open in lockgate" },
            "url": brief.link,
        }));
    }
    actions
}

/// `views.open`: what is decided, and a place for the reason. `click` comes back with it.
pub(super) fn reason_modal(trigger: &str, brief: &Brief, click: &Value, approve: bool) -> Value {
    let (title, submit) = if approve { ("Approve", "Approve") } else { ("Deny", "Deny") };
    let mut blocks = vec![rich(vec![section(vec![plain(&brief.summary, LINES_MAX)])])];
    if !brief.statement.is_empty() {
        blocks.push(rich(statement(brief)));
    }
    blocks.push(json!({
        "type": "input",
        "block_id": REASON_BLOCK,
        "label": { "type": "plain_text", "text": "Reason" },
        "element": {
            "type": "plain_text_input",
            "action_id": REASON_INPUT,
            "multiline": true,
            "min_length": 1,
            "max_length": 3000,
        },
    }));
    json!({
        "trigger_id": trigger,
        "view": {
            "type": "modal",
            "callback_id": REASON,
            "private_metadata": click.to_string(),
            "title": { "type": "plain_text", "text": title },
            "submit": { "type": "plain_text", "text": submit },
            "close": { "type": "plain_text", "text": "Cancel" },
            "blocks": blocks,
        },
    })
}

/// `chat.postEphemeral`
pub(super) fn whisper(channel: &str, user: &str, text: &str) -> Value {
    json!({
        "channel": channel,
        "user": user,
        "text": harmless(&cut(&visible(text), WHISPER_MAX)),
        "parse": "none",
        "link_names": false,
    })
}

fn rich(elements: Vec<Value>) -> Value {
    json!({ "type": "rich_text", "elements": elements })
}

fn section(elements: Vec<Value>) -> Value {
    json!({ "type": "rich_text_section", "elements": elements })
}

fn preformatted(text: &str, max: usize) -> Value {
    json!({ "type": "rich_text_preformatted", "elements": [plain(text, max)] })
}

fn plain(text: &str, max: usize) -> Value {
    json!({ "type": "text", "text": filled(&cut(text, max)) })
}

fn bold(text: &str) -> Value {
    json!({ "type": "text", "text": text, "style": { "bold": true } })
}

/// Slack refuses empty texts.
fn filled(text: &str) -> &str {
    if text.is_empty() { " " } else { text }
}

fn cut(text: &str, bytes: usize) -> String {
    let kept = clip(text, bytes);
    if kept.len() == text.len() { text.to_owned() } else { format!("{kept}…") }
}

/// Text where Slack parses: its control characters escaped, backquotes exchanged, and nothing left that becomes a mention
/// or a link by itself.
pub(super) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '`' => out.push('ˋ'),
            '@' => out.push('＠'),
            '*' => out.push('∗'),
            '~' => out.push('∼'),
            other => out.push(other),
        }
    }
    out.replace("://", ":∕∕")
}

#[cfg(test)]
mod tests;
