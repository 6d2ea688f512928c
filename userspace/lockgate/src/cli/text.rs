//! Text of strangers on a terminal: what a job or an approver wrote may move the cursor, hide itself or
//! reverse its order. [`lockgate_control::text`] spells that out; this fits it into lines.

use lockgate_control::text::visible;

/// One line: line breaks and tabs are spelled out too.
pub(crate) fn line(text: &str) -> String {
    visible(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Lines: line feeds stay, and tabs are spaces, so that columns cannot be faked.
pub(crate) fn block(text: &str) -> String {
    visible(text).replace('\t', "    ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_deceive_a_reader_is_spelled_out() {
        for (text, expected) in [
            ("select 1", "select 1"),
            ("a\nb\tc\r", "a\\nb\\tc⟨U+000D⟩"),
            ("\u{1b}[2Jx", "⟨U+001B⟩[2Jx"),
            ("drop\u{202e}elbat", "drop⟨U+202E⟩elbat"),
            ("größe 数 🙂", "größe 数 🙂"),
        ] {
            assert_eq!(line(text), expected);
        }
        assert_eq!(block("a\n\u{7}\tb"), "a\n⟨U+0007⟩    b");
        assert_eq!(short("select\n  1", 20), "select 1");
        assert_eq!(short("abcdef", 4), "abc…");
    }
}
