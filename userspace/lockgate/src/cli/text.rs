//! Text of strangers on a terminal: what a job or an approver wrote may move the cursor, hide itself or
//! reverse its order. Everything that is not plain is shown as an escape.

use std::fmt::Write as _;

/// One line: line breaks and tabs are escaped too.
pub(crate) fn line(text: &str) -> String {
    escape(text, |_| false)
}

/// Lines: line feeds stay.
pub(crate) fn block(text: &str) -> String {
    escape(text, |c| c == '\n')
}

/// One line of at most `width` characters; what is cut is marked.
pub(crate) fn short(text: &str, width: usize) -> String {
    let text = line(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if text.chars().count() <= width {
        return text;
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if keep(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Characters that change how their neighbours are read, or are not seen at all (Unicode TR 36 and 39:
/// bidirectional controls, zero-width and joiner characters, tags, variation selectors, odd separators).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_deceive_a_reader_is_escaped() {
        for (text, expected) in [
            ("select 1", "select 1"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{1b}[2Jx", "\\u{1b}[2Jx"),
            ("drop\u{202e}elbat", "drop\\u{202e}elbat"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("größe 数 🙂", "größe 数 🙂"),
            ("\u{9b}31m", "\\u{9b}31m"),
        ] {
            assert_eq!(line(text), expected);
        }
        assert_eq!(block("a\n\u{7}b"), "a\n\\u{7}b");
        assert_eq!(short("select\n  1", 20), "select 1");
        assert_eq!(short("abcdef", 4), "abc…");
    }
}
