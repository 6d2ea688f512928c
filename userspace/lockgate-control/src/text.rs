//! Text of strangers, made safe to look at: control characters and marks that reorder or hide text become
//! visible, and long text is cut at a character.

use std::borrow::Cow;

/// The text with everything invisible or reordering spelled out as `⟨U+202E⟩`. Line feeds and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        if is_deceptive(c) {
            out.push_str(&format!("⟨U+{:04X}⟩", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The text, cut to at most `bytes` at a character boundary.
pub(crate) fn clip(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Cow::Borrowed(text.get(..end).unwrap_or_default())
}

/// Characters that change how text looks without being seen (Unicode TR 36 and TR 39, CVE-2021-42574).
pub(crate) fn is_deceptive(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        _ if c.is_control() => true,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' => true,
        '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' => true,
        '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_or_reorders_is_spelled_out() {
        for (text, expected) in [
            ("SELECT 1;\n\tSELECT 2", "SELECT 1;\n\tSELECT 2"),
            ("a\u{202e}b", "a⟨U+202E⟩b"),
            ("a\rb\u{1b}[2Jc\0", "a⟨U+000D⟩b⟨U+001B⟩[2Jc⟨U+0000⟩"),
            ("x\u{200b}y\u{feff}z", "x⟨U+200B⟩y⟨U+FEFF⟩z"),
            ("\u{e0041}", "⟨U+E0041⟩"),
            ("größe 表 🦀", "größe 表 🦀"),
        ] {
            assert_eq!(visible(text), expected);
        }
    }

    #[test]
    fn cuts_fall_between_characters() {
        for (text, bytes, expected) in [("abc", 5, "abc"), ("abc", 2, "ab"), ("aä", 2, "a"), ("🦀", 3, "")]
        {
            assert_eq!(clip(text, bytes), expected);
        }
    }
}
