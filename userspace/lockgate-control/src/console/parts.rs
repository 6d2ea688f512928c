//! Small pieces that pages are made of. Everything that strangers wrote goes through here: made visible, isolated from the
//! text around it, folded with a count.

use crate::text::{clip, is_deceptive, visible};
use lockgate_model::{Timestamp, operation::Parameter};
use maud::{Markup, html};
use serde_json::Value;
use std::fmt::Write as _;

/// Lines of a text that stand open; the rest folds.
const OPEN_LINES: usize = 40;
/// Bytes of a text that stand open.
const OPEN_BYTES: usize = 6_000;

/// A stranger's words in a line: nothing hidden, nothing that reorders what stands beside them.
pub(super) fn word(text: &str) -> Markup {
    html! { bdi { (marked(text)) } }
}

/// A field of a JSON answer, as words.
pub(super) fn said(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A list of a JSON answer, as words.
pub(super) fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(said).collect()
}

/// The text, with what cannot be seen in a frame of its own, so that nobody mistakes it for text that spells the same.
pub(super) fn marked(text: &str) -> Markup {
    let mut parts: Vec<(bool, String)> = Vec::new();
    for c in text.chars() {
        let hidden = is_deceptive(c);
        match parts.last_mut() {
            Some((false, plain)) if !hidden => plain.push(c),
            _ if hidden => parts.push((true, visible(c.encode_utf8(&mut [0; 4])).into_owned())),
            _ => parts.push((false, c.to_string())),
        }
    }
    html! {
        @for (hidden, part) in &parts {
            @if *hidden { mark.hidden title="A character that cannot be seen" { (part) } } @else { (part) }
        }
    }
}

/// A statement as it is, whole: in logical order whatever scripts are in it, its beginning open and the rest folded.
pub(super) fn statement(text: &str) -> Markup {
    let (open, rest) = fold(text);
    let foreign = text.chars().filter(|c| !c.is_ascii()).count();
    let hidden = text.chars().filter(|c| is_deceptive(*c)).count();
    html! {
        pre.sql tabindex="0" aria-label="The exact text" { (marked(open)) }
        @if !rest.is_empty() {
            details {
                summary { "Show " (rest.lines().count()) " more lines, " (bytes(rest.len())) " (" (bytes(text.len())) " in all)" }
                pre.sql tabindex="0" aria-label="The rest of the text" { (marked(rest)) }
            }
        }
        @if hidden > 0 {
            p.note.warn { strong { "Look closely:" } " "
                (hidden) " " (plural(hidden, "character", "characters"))
                " cannot be seen or change the order of others; each is spelled out in a frame." }
        } @else if foreign > 0 {
            p.small.muted { (foreign) " " (plural(foreign, "character is", "characters are")) " not ASCII; shown in the order in which the server reads them." }
        }
    }
}

fn fold(text: &str) -> (&str, &str) {
    let by_lines = text.match_indices('\n').nth(OPEN_LINES - 1).map_or(text.len(), |(at, _)| at + 1);
    let at = clip(text, by_lines.min(OPEN_BYTES)).len();
    // What is nearly all of it needs no folding.
    if text.len() - at < OPEN_BYTES / 10 && by_lines == text.len() { (text, "") } else { text.split_at(at) }
}

/// One line of a statement, for lists.
pub(super) fn one_line(text: &str, most: usize) -> Markup {
    let shown = clip(text, most);
    let cut = shown.len() < text.len();
    let line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    html! { (marked(&line)) @if cut { " …" } }
}

/// When, relative for people, absolute for everything else.
pub(super) fn time(at: Timestamp, now: Timestamp) -> Markup {
    let seconds = now.duration_since(at).as_secs();
    let text = match seconds {
        ..-1 => format!("in {}", rough(seconds.unsigned_abs())),
        -1..5 => "just now".to_owned(),
        5.. => format!("{} ago", rough(seconds.unsigned_abs())),
    };
    html! { time datetime=(at) title=(exact(at)) data-ago { (text) } }
}

/// When, to the second, UTC.
pub(super) fn exact(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A time of a JSON answer.
pub(super) fn time_of(value: &Value, now: Timestamp) -> Option<Markup> {
    value.as_str().and_then(|text| text.parse().ok()).map(|at| time(at, now))
}

/// `4 min`, `2 h 5 min`; the script says the same.
pub(super) fn rough(seconds: u64) -> String {
    let (minutes, rest) = (seconds / 60, seconds % 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..600 if rest > 0 => format!("{minutes} min {rest} s"),
        60..3_600 => format!("{minutes} min"),
        3_600..86_400 if minutes % 60 > 0 => format!("{} h {} min", minutes / 60, minutes % 60),
        3_600..86_400 => format!("{} h", minutes / 60),
        86_400.. => format!("{} d", seconds / 86_400),
    }
}

/// How much time is left, as words and as a bar.
pub(super) fn time_left(created: Timestamp, expires: Timestamp, now: Timestamp) -> Markup {
    let left = expires.duration_since(now).as_secs_f64();
    let whole = expires.duration_since(created).as_secs_f64().max(1.0);
    let share = (left / whole).clamp(0.0, 1.0);
    let text = if left > 0.0 {
        format!("{} left", rough(expires.duration_since(now).as_secs().unsigned_abs()))
    } else {
        "time is over".to_owned()
    };
    html! {
        div.left {
            span data-left title={ "until " (exact(expires)) } { (text) }
            progress.low[share < 0.2] max="1" value=(format!("{share:.3}")) data-created=(created) data-expires=(expires)
                aria-label="Time left to decide" {}
        }
    }
}

/// `1,234`
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `4.2 kB`
pub(super) fn bytes(count: usize) -> String {
    match count {
        0..1_000 => format!("{count} bytes"),
        1_000..1_000_000 => format!("{}.{} kB", count / 1_000, count % 1_000 / 100),
        1_000_000.. => format!("{}.{} MB", count / 1_000_000, count % 1_000_000 / 100_000),
    }
}

pub(super) fn plural(count: usize, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}

/// The state of a request: a word, a sign, and a colour that only repeats them.
pub(super) fn state(state: &str) -> Markup {
    let (class, sign) = match state {
        "pending" => ("chip info", "◷"),
        "approved" => ("chip good", "✓"),
        "denied" => ("chip bad", "✕"),
        "expired" => ("chip warn", "⌛"),
        _ => ("chip", "–"),
    };
    html! { span class=(class) { span aria-hidden="true" { (sign) } (state) } }
}

pub(super) fn risk(risk: &str) -> Markup {
    let (class, sign) = match risk {
        "low" => ("chip", "▁"),
        "medium" => ("chip warn", "▃"),
        _ => ("chip bad", "▆"),
    };
    html! { span class=(class) { span aria-hidden="true" { (sign) } (risk) " risk" } }
}

/// How sure a fact is.
pub(super) fn assurance(assurance: &str) -> Markup {
    let (class, sign, means) = match assurance {
        "attested" => ("chip good", "✓", "proved by its issuer's signature"),
        "platform" => ("chip good", "✓", "confirmed by the platform"),
        "kernel" => ("chip info", "✓", "seen by this host's kernel"),
        _ => ("chip warn", "?", "only said by the job itself; could be anything"),
    };
    html! { span class=(class) title=(means) { span aria-hidden="true" { (sign) } (assurance) } }
}

/// One line of facts; nothing for nothing.
pub(super) fn fact(name: &str, value: &str) -> Markup {
    html! { @if !value.is_empty() { dt { (name) } dd { (word(value)) } } }
}

/// Bound values, with nothing hidden in them.
pub(super) fn bound_values(values: &[Parameter]) -> Markup {
    html! {
        p.small { span.muted { "Bound: " } @for (at, value) in values.iter().enumerate() {
            @if at > 0 { ", " }
            span.muted.mono { "$" (at + 1) " = " }
            @match &value.value { Some(text) => code.sql { (one_line(text, 500)) }, None => code { "NULL" } }
        } }
    }
}

/// What would be here, and what makes it so.
pub(super) fn empty(title: &str, text: &str, command: &str) -> Markup {
    html! {
        div.empty {
            h2 { (title) }
            p { (text) }
            @if !command.is_empty() { pre { code { (command) } } }
        }
    }
}

/// A link that opens elsewhere, only if it is one for browsers; else its text.
pub(super) fn link(url: &str) -> Markup {
    let lower = url.to_ascii_lowercase();
    let safe =
        (lower.starts_with("https://") || lower.starts_with("http://")) && !url.chars().any(is_deceptive);
    html! {
        @if safe { a href=(url) rel="noopener noreferrer" target="_blank" { bdi { (url) } } } @else { (word(url)) }
    }
}

/// A shell command that does the same.
pub(super) fn command(parts: &[&str]) -> String {
    parts.iter().fold(String::new(), |mut out, part| {
        let _ = write!(out, "{}{part}", if out.is_empty() { "" } else { " " });
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_stands_in_a_frame_and_what_spells_the_same_does_not() {
        let shown = marked("a\u{202e}b⟨U+202E⟩<script>").into_string();
        assert_eq!(shown.matches("<mark").count(), 1, "{shown}");
        assert!(!shown.contains('\u{202e}') && !shown.contains("<script>"), "{shown}");
    }

    #[test]
    fn long_texts_fold_with_a_count_and_lose_nothing() {
        let long: String = (0..100).map(|line| format!("select {line};\n")).collect();
        let (open, rest) = fold(&long);
        assert_eq!(format!("{open}{rest}"), long);
        assert_eq!(open.lines().count(), OPEN_LINES);
        assert!(statement(&long).into_string().contains("Show 60 more lines"));
        let wide = "ä".repeat(50_000);
        let (open, rest) = fold(&wide);
        assert!(open.len() <= OPEN_BYTES && format!("{open}{rest}") == wide);
        assert_eq!(fold("select 1"), ("select 1", ""));
    }

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!(
            (number(0), number(1_234), number(1_234_567)),
            ("0".into(), "1,234".into(), "1,234,567".into())
        );
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (600, "10 min"),
            (3_700, "1 h 1 min"),
            (200_000, "2 d"),
        ] {
            assert_eq!(rough(seconds), text);
        }
    }

    #[test]
    fn only_web_addresses_become_links() {
        for (url, is_link) in [
            ("https://ci.example.com/1", true),
            ("HTTP://x", true),
            ("javascript:alert(1)", false),
            ("data:text/html,x", false),
            ("https://x\u{202e}", false),
        ] {
            assert_eq!(link(url).into_string().contains("<a "), is_link, "{url}");
        }
    }
}
