//! A letter: fixed headers, a bounded subject, the same facts as text and as HTML. No stranger's text reaches a header
//! but the subject's, and there no line feed; in the text each line of a statement is marked, in the HTML all is escaped.

use crate::{
    notify::{brief::Brief, channel::Message, event::EventType, rehearsal},
    text::clip,
};
use lettre::{
    Address,
    message::{Mailbox, MultiPart, header},
};
use serde_json::Value;
use std::fmt::Write;

/// Bytes of a subject.
const SUBJECT_MAX: usize = 150;

/// Bytes of a statement; the link has all of it.
const STATEMENT_MAX: usize = 12_000;

/// A letter, ready to be sent.
pub(crate) struct Letter {
    pub(super) to: Vec<Address>,
    pub(super) bytes: Vec<u8>,
}

/// Marks letters of machines, so that none answers another (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl header::Header for AutoSubmitted {
    fn name() -> header::HeaderName {
        header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> header::HeaderValue {
        header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

impl Letter {
    pub(super) fn new(
        message: &Message,
        event: &Value,
        from: &Mailbox,
        to: Vec<Mailbox>,
    ) -> Result<Self, String> {
        let brief = Brief::of(message.kind, event);
        let thread = thread(event, from);
        let own = format!("<{}@{}>", message.id, from.email.domain());
        let first = message.kind == EventType::Requested;
        let mut letter = lettre::Message::builder()
            .from(from.clone())
            .subject(subject(&brief))
            .date(message.at.into())
            .message_id(Some(if first { thread.clone() } else { own }))
            .header(AutoSubmitted);
        if !first {
            letter = letter.in_reply_to(thread.clone()).references(thread);
        }
        let addresses = to.iter().map(|mailbox| mailbox.email.clone()).collect();
        for mailbox in to {
            letter = letter.to(mailbox);
        }
        let letter = letter
            .multipart(MultiPart::alternative_plain_html(plain(&brief), html(&brief)))
            .map_err(|error| format!("the letter cannot be made: {error}"))?;
        Ok(Self { to: addresses, bytes: letter.formatted() })
    }
}

/// The id of the letter that began it, which every later one replies to.
fn thread(event: &Value, from: &Mailbox) -> String {
    let subject = event["subject"].as_str().or_else(|| event["id"].as_str()).unwrap_or("lockgate");
    let safe: String = subject.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
    format!("<{safe}.lockgate@{}>", from.email.domain())
}

fn subject(brief: &Brief) -> String {
    let mark = if brief.rehearsal { rehearsal::MARK } else { "" };
    let text = format!("[lockgate] {mark}{}: {}", brief.heading, brief.summary);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let kept = clip(&text, SUBJECT_MAX);
    if kept.len() == text.len() { text } else { format!("{kept}…") }
}

fn statement(brief: &Brief) -> (String, Vec<String>) {
    let kept = clip(&brief.statement, STATEMENT_MAX);
    let mut notes = Vec::new();
    if brief.statement_cut || kept.len() < brief.statement.len() {
        notes.push(format!(
            "CUT: the statement has {} bytes; look at the whole before you decide.",
            brief.statement_bytes
        ));
    }
    if brief.masked {
        notes.push("Literals are left out: it touches a masked table.".to_owned());
    }
    (kept.into_owned(), notes)
}

/// Both parts of a letter, for tests that look at what is said.
#[cfg(test)]
pub(in crate::notify) fn parts(brief: &Brief) -> [String; 2] {
    [plain(brief), html(brief)]
}

fn plain(brief: &Brief) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    if brief.rehearsal {
        line("REHEARSAL. Nothing will run, whatever you decide.\n");
    }
    line(&format!("{}: {}\n", brief.heading, brief.summary));
    for outcome in &brief.outcome {
        line(&format!("Outcome: {outcome}"));
    }
    if !brief.statement.is_empty() {
        let (statement, notes) = statement(brief);
        line("\nStatement (each line begins with |):");
        // Marked, so that no line of it looks like one of ours.
        statement.split('\n').for_each(|part| line(&format!("  | {part}")));
        notes.iter().for_each(|note| line(note));
    }
    if !brief.bundle.is_empty() {
        line("\nDecided together:");
        brief.bundle.iter().for_each(|part| line(&format!("  | {part}")));
    }
    line("");
    brief.facts.iter().for_each(|(label, text)| line(&format!("{label}: {text}")));
    if !brief.link.is_empty() {
        line(&format!("\nLook and decide (log in there; opening it decides nothing):\n{}", brief.link));
    }
    out
}

fn html(brief: &Brief) -> String {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>lockgate</title></head>\n\
         <body style=\"font-family:sans-serif;max-width:46em\">\n",
    );
    // Writing to a String cannot fail.
    let mut put = |text: std::fmt::Arguments<'_>| {
        let _ = out.write_fmt(text);
    };
    if brief.rehearsal {
        put(format_args!("<p><strong>REHEARSAL. Nothing will run, whatever you decide.</strong></p>\n"));
    }
    put(format_args!("<h1 style=\"font-size:1.2em\">{}</h1>\n", escaped(brief.heading)));
    put(format_args!("<p>{}</p>\n", escaped(&brief.summary)));
    for outcome in &brief.outcome {
        put(format_args!("<p><strong>Outcome:</strong> {}</p>\n", escaped(outcome)));
    }
    if !brief.statement.is_empty() {
        let (statement, notes) = statement(brief);
        put(format_args!("{}", block(&statement)));
        for note in notes {
            put(format_args!("<p><strong>{}</strong></p>\n", escaped(&note)));
        }
    }
    if !brief.bundle.is_empty() {
        put(format_args!("<p>Decided together:</p>\n{}", block(&brief.bundle.join("\n"))));
    }
    put(format_args!("<table style=\"border-collapse:collapse\">\n"));
    for (label, text) in &brief.facts {
        put(format_args!(
            "<tr><th style=\"text-align:left;vertical-align:top;padding-right:1em\">{}</th><td>{}</td></tr>\n",
            escaped(label),
            escaped(text)
        ));
    }
    put(format_args!("</table>\n"));
    if !brief.link.is_empty() {
        put(format_args!(
            "<p><a href=\"{}\">Look and decide</a> (log in there; opening it decides nothing)</p>\n",
            escaped(&brief.link)
        ));
    }
    put(format_args!("</body></html>\n"));
    out
}

fn block(text: &str) -> String {
    format!("<pre style=\"background:#f2f2f2;padding:0.7em;white-space:pre-wrap\">{}</pre>\n", escaped(text))
}

/// Text in HTML, in elements and in quoted attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
