//! From text to the grammar's trees, within bounds, and split into statements by the grammar itself.

use super::depth;
use pg_query::{NodeEnum, ParserOptions, protobuf::ScanToken};

/// The longest text that is parsed: bulk inserts and dumps as INSERT run to some megabytes. What is longer is opaque. A tree takes
/// some forty times its text.
pub const MAX_TEXT_BYTES: usize = 8 << 20;

/// The most statements that one text may hold: each costs a walk, a fingerprint and a record.
pub const MAX_STATEMENTS: usize = 10_000;

/// The longest run of mixed operator characters. The server's own operators end at 63 (NAMEDATALEN); its scanner rescans
/// longer runs from each `/*` and each trailing sign on, which is quadratic and worse.
const MAX_OPERATOR_RUN: usize = 64;

/// How backslashes in plain quotes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// standard_conforming_strings = on: as ordinary characters.
    Standard,
    /// standard_conforming_strings = off: as escapes.
    Escapes,
}

impl Reading {
    pub(super) fn options(self) -> ParserOptions {
        match self {
            Self::Standard => ParserOptions::DEFAULT,
            Self::Escapes => ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS,
        }
    }
}

/// One statement: its exact text and its tree.
pub(super) struct Parsed<'a> {
    pub(super) text: &'a str,
    pub(super) node: NodeEnum,
}

/// Why a text is opaque. Safe to record: it quotes nothing of the text.
pub(super) type Opaque = String;

/// Parses and splits a text that is shallow enough for the thread's stack.
pub(super) fn parse(text: &str, reading: Reading) -> Result<Vec<Parsed<'_>>, Opaque> {
    if !depth::has_room(depth::levels(text, reading)) {
        return Err("it nests deeper than there is room for here".to_owned());
    }
    parse_with_room(text, reading)
}

/// Parses and splits a text, where [`depth::with_room`] made room for it.
pub(super) fn parse_with_room(text: &str, reading: Reading) -> Result<Vec<Parsed<'_>>, Opaque> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(format!("the text has {} bytes, and at most {MAX_TEXT_BYTES} are inspected", text.len()));
    }
    if text.contains('\0') {
        return Err("the text holds a zero byte".to_owned());
    }
    if has_long_operator(text) {
        return Err(format!("a run of more than {MAX_OPERATOR_RUN} operator characters"));
    }
    let result = pg_query::parse(text, reading.options()).map_err(|error| reason(&error))?;
    let statements = result.protobuf.stmts;
    if statements.len() > MAX_STATEMENTS {
        return Err(format!(
            "the text has {} statements, and at most {MAX_STATEMENTS} are inspected",
            statements.len()
        ));
    }
    statements
        .into_iter()
        .map(|raw| {
            let start = usize::try_from(raw.stmt_location).ok();
            let length = usize::try_from(raw.stmt_len).ok();
            // A length of nought is the rest of the text.
            let slice = match (start, length) {
                (Some(start), Some(0)) => text.get(start..),
                (Some(start), Some(length)) => start.checked_add(length).and_then(|end| text.get(start..end)),
                _ => None,
            };
            let node = raw.stmt.and_then(|node| node.node);
            match (slice, node) {
                (Some(slice), Some(node)) => Ok(Parsed { text: slice.trim(), node }),
                _ => Err("the grammar's statement boundaries do not fit the text".to_owned()),
            }
        })
        .collect()
}

/// What went wrong, without the piece of text that the grammar quotes.
fn reason(error: &pg_query::Error) -> Opaque {
    match error {
        pg_query::Error::Parse(message) => {
            let message = message.split(" at or near").next().unwrap_or_default();
            let message = message.split('"').next().unwrap_or_default().trim_end_matches([':', ' ']);
            format!("PostgreSQL's grammar does not accept it: {message}")
        }
        pg_query::Error::Decode(_) => "it nests deeper than is inspected".to_owned(),
        _ => "PostgreSQL's grammar does not accept it".to_owned(),
    }
}

/// Whether the scanner would take long over it.
pub(super) fn is_slow_to_scan(text: &str) -> bool {
    has_long_operator(text)
}

/// The words of a text, as the server's scanner sees them.
pub(super) fn tokens(text: &str) -> Result<Vec<ScanToken>, pg_query::Error> {
    // For a text without any, pg_query makes a slice of a null pointer, which aborts where that is checked.
    if text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)) {
        return Ok(Vec::new());
    }
    pg_query::scan_tokens(text)
}

/// Finds a long run of operator characters, wherever it stands. Rulers in comments (one character over and over, with or
/// without the slash of a comment's end) are cheap to scan and common.
fn has_long_operator(text: &str) -> bool {
    text.as_bytes()
        .split(|byte| !b"~!@#^&|`?+-*/%<>=".contains(byte))
        .filter(|run| run.len() > MAX_OPERATOR_RUN)
        .any(|run| {
            let run = run.strip_prefix(b"/").unwrap_or(run);
            let run = run.strip_suffix(b"/").unwrap_or(run);
            match run.first() {
                Some(b'+') | None => true,
                Some(first) => run.iter().any(|byte| byte != first),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_words_has_none() {
        for text in ["", " ", "\t\r\n\u{b}\u{c} "] {
            assert!(tokens(text).is_ok_and(|tokens| tokens.is_empty()), "{text:?}");
        }
        assert!(tokens("--").is_ok_and(|tokens| tokens.len() == 1));
    }

    #[test]
    fn long_operators_are_refused_and_rulers_are_not() {
        for (piece, expected) in [
            ("+", true),
            ("+-", true),
            ("/*", true),
            ("/**/", true),
            ("-+", true),
            ("-", false),
            ("=", false),
            ("*", false),
        ] {
            assert_eq!(has_long_operator(&piece.repeat(70)), expected, "{piece}");
            assert!(!has_long_operator(&piece.repeat(10)), "{piece}");
        }
        assert!(!has_long_operator(&format!("/{}/", "*".repeat(100))));
    }
}
