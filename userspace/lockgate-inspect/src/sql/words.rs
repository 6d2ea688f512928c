//! PL/pgSQL, word by word: whether a body does nothing but read, and which texts it puts together and runs.
//!
//! A body only reads when it holds no keyword that could begin or be a command that changes something, and every name in
//! it that is a function, relation, type or operator stands for a harmless one. EXECUTE is let through here; what it runs
//! is kept as an expression, for [`super::fold`] to work out when the arguments of a call are known. The words of that
//! expression count like all others, so a word that only looks like the statement EXECUTE hides nothing.

use super::{
    SearchPath, SessionState,
    catalogue::{CatalogueSnapshot, Lookup, Resolution},
    fold::{self, Fold},
    function, parse,
    routine::{IMPLICIT_OPERATORS, MAX_BODY_BYTES, Routine},
};
use pg_query::protobuf::{KeywordKind, ScanToken, Token};
use std::ops::Range;

/// Longer names are cut off by the server (NAMEDATALEN), and stand for something else than they say.
const MAX_NAME_BYTES: usize = 63;

/// EXECUTEs in one body whose texts are worked out.
const MAX_TEXTS: usize = 8;

/// What a body that only reads runs besides what is written in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    /// What each EXECUTE runs.
    pub(super) texts: Vec<Fold>,
}

/// One word of a body.
struct Word<'a> {
    text: &'a str,
    token: Token,
    keyword: KeywordKind,
    at: Range<usize>,
}

impl CatalogueSnapshot {
    /// What is in the body of a function in PL/pgSQL; None when it may do more than read, whatever its arguments are.
    pub(super) fn body(&self, routine: &Routine, trail: &[u32]) -> Option<Body> {
        let body = routine.body.as_str();
        if body.len() > MAX_BODY_BYTES || body.contains('\0') || parse::is_slow_to_scan(body) {
            return None;
        }
        let words = words(body, &parse::tokens(body).ok()?)?;
        let executes = words.iter().any(|word| word.token == Token::Execute);
        let mut state = SessionState::of_code(trail.to_vec());
        state.search_path = SearchPath::Unknown;
        if executes {
            // What calls itself does more than the rest of it does, when it runs texts: it must not be taken for the
            // innermost of what is being judged.
            state.trail.push(0);
        }
        // BETWEEN, IN, CASE, USING and the like look for these.
        if IMPLICIT_OPERATORS.iter().any(|name| self.operators_harmless(None, name, &state) == Some(false)) {
            return None;
        }
        let reads = |(index, word): (usize, &Word<'_>)| {
            let called = words.get(index + 1).is_some_and(|next| next.token == Token::Ascii40);
            self.word_reads(word, called, &state)
        };
        if !words.iter().enumerate().all(reads) {
            return None;
        }
        match executes {
            true => self.texts(routine, &words, &state),
            false => Some(Body::default()),
        }
    }

    /// The texts that the EXECUTEs of a body run.
    fn texts(&self, routine: &Routine, words: &[Word<'_>], state: &SessionState) -> Option<Body> {
        // Upper and lower case of other alphabets are the server's affair.
        if !self.defaults_read(routine, &state.trail) || !routine.body.is_ascii() {
            return None;
        }
        let ranges = expressions(words)?;
        if ranges.len() > MAX_TEXTS {
            return None;
        }
        let scope = fold::Scope {
            catalogue: self,
            parameters: &routine.arguments,
            changed: changed(routine, words, &ranges),
        };
        let compiled = ranges.iter().map(|range| {
            let first = words.get(range.start)?;
            let last = words.get(range.end.checked_sub(1)?)?;
            let text = routine.body.get(first.at.start..last.at.end)?;
            // Two readings of a backslash are two texts.
            (!text.contains('\\')).then(|| scope.compile_text(text)).flatten()
        });
        Some(Body { texts: compiled.collect::<Option<_>>()? })
    }

    fn word_reads(&self, word: &Word<'_>, called: bool, state: &SessionState) -> bool {
        match (word.token, word.keyword) {
            (Token::Uident | Token::Usconst, _) => false,
            (Token::Execute, _) => true,
            (Token::Ident, _) => self.name_reads(&unquoted(word.text), called, state),
            (_, kind) if kind != KeywordKind::NoKeyword => {
                let name = word.text.to_ascii_lowercase();
                // What is a keyword here may be a name on an older server.
                let construct = matches!(kind, KeywordKind::ReservedKeyword | KeywordKind::ColNameKeyword);
                KEYWORDS.contains(&name.as_str()) && self.name_reads(&name, called && !construct, state)
            }
            _ if word.text.starts_with(|c: char| "+-*/<>=~!@#%^&|`?".contains(c)) => {
                self.operators_harmless(None, word.text, state).unwrap_or(true)
            }
            _ => true,
        }
    }

    /// Whether a name can stand in code that only reads, whatever it names.
    fn name_reads(&self, name: &str, called: bool, state: &SessionState) -> bool {
        if name.len() > MAX_NAME_BYTES {
            return false;
        }
        let relations_read = match self.resolve(None, name, &Lookup::Anywhere) {
            Resolution::Unknown => true,
            found => found.candidates().iter().all(|one| self.reads_harmlessly(one, &state.trail)),
        };
        let routines = self.routines_harmless(None, name, state);
        let types = self.types_harmless(None, name, state);
        relations_read
            && routines != Some(false)
            && types != Some(false)
            // What is called and is not the database's own must be known to be built in.
            && (!called
                || routines == Some(true)
                || types == Some(true)
                || function::is_listed(name)
                || BEFORE_BRACKETS.contains(&name))
    }
}

/// The words of a body without its comments. None when it can be read in two ways: where strings end must not hang on
/// standard_conforming_strings, which can be another one when the body is compiled than when it is judged.
fn words<'a>(body: &'a str, tokens: &[ScanToken]) -> Option<Vec<Word<'a>>> {
    let mut words = Vec::with_capacity(tokens.len());
    for token in tokens {
        let kind = Token::try_from(token.token).ok()?;
        if matches!(kind, Token::SqlComment | Token::CComment) {
            continue;
        }
        let at = usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?;
        let text = body.get(at.clone())?;
        let plain = !text.starts_with(['$', 'e', 'E']);
        if plain && (text.contains("\\'") || text.contains("\\\\")) {
            return None;
        }
        let keyword = KeywordKind::try_from(token.keyword_kind).ok()?;
        words.push(Word { text, token: kind, keyword, at });
    }
    Some(words)
}

/// The words behind each EXECUTE that make its text: up to INTO, USING, LOOP or a semicolon outside brackets
/// (read_sql_construct in pl_gram.y). None when an expression has no end.
fn expressions(words: &[Word<'_>]) -> Option<Vec<Range<usize>>> {
    let executes = words.iter().enumerate().filter(|(_, word)| word.token == Token::Execute);
    executes
        .map(|(index, _)| {
            let mut open = 0_usize;
            for (end, word) in words.iter().enumerate().skip(index + 1) {
                match word.token {
                    Token::Ascii40 | Token::Ascii91 => open += 1,
                    Token::Ascii41 | Token::Ascii93 => open = open.checked_sub(1)?,
                    Token::Ascii59 | Token::Into | Token::Using if open == 0 => return Some(index + 1..end),
                    Token::Ident if open == 0 && word.text.eq_ignore_ascii_case("loop") => {
                        return Some(index + 1..end);
                    }
                    _ => {}
                }
            }
            None
        })
        .collect()
}

/// Which arguments may be changed, or be hidden by another variable: those whose name or number stands anywhere but in
/// an EXECUTE's expression. Arguments keep their values otherwise.
fn changed(routine: &Routine, words: &[Word<'_>], read_only: &[Range<usize>]) -> Vec<bool> {
    let mut changed: Vec<bool> =
        routine.arguments.iter().map(|argument| SET_BY_ITSELF.contains(&argument.name.as_str())).collect();
    for (index, word) in words.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| words.get(before));
        // RETURN QUERY is no mention of an argument of that name.
        let returns = before.is_some_and(|before| before.text.eq_ignore_ascii_case("return"));
        if returns || read_only.iter().any(|range| range.contains(&index)) {
            continue;
        }
        let name = unquoted(word.text);
        let number = word.text.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        for (at, argument) in routine.arguments.iter().enumerate() {
            if argument.name == name || number == Some(at + 1) {
                changed.get_mut(at).into_iter().for_each(|changed| *changed = true);
            }
        }
    }
    changed
}

/// Variables that PL/pgSQL sets.
const SET_BY_ITSELF: [&str; 3] = ["found", "sqlstate", "sqlerrm"];

/// An identifier as the server keeps it.
fn unquoted(text: &str) -> String {
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_lowercase(),
    }
}

/// Words that stand before a bracket and call nothing: of PL/pgSQL, and types with a modifier.
const BEFORE_BRACKETS: [&str; 15] = [
    "if",
    "elsif",
    "elseif",
    "while",
    "return",
    "assert",
    "perform",
    "by",
    "varbit",
    "bpchar",
    "timestamptz",
    "timetz",
    "numeric",
    "varchar",
    "text",
];

/// Words of PL/pgSQL and of queries that neither begin nor are a command that changes something. What is missing here makes
/// code count as doing anything, so words that nobody writes are left out.
const KEYWORDS: &[&str] = &[
    "alias",
    "all",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "at",
    "begin",
    "between",
    "bigint",
    "bit",
    "boolean",
    "both",
    "by",
    "case",
    "cast",
    "char",
    "character",
    "coalesce",
    "collate",
    "column",
    "constraint",
    "continue",
    "cross",
    "current",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "cursor",
    "data",
    "date",
    "day",
    "dec",
    "decimal",
    "declare",
    "default",
    "desc",
    "distinct",
    "double",
    "each",
    "else",
    "end",
    "error",
    "escape",
    "except",
    "exists",
    "extract",
    "false",
    "filter",
    "first",
    "float",
    "following",
    "for",
    "format",
    "from",
    "full",
    "greatest",
    "group",
    "grouping",
    "groups",
    "having",
    "hour",
    "if",
    "ilike",
    "in",
    "index",
    "inner",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "json",
    "key",
    "keys",
    "label",
    "last",
    "lateral",
    "leading",
    "least",
    "left",
    "level",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "match",
    "materialized",
    "minute",
    "month",
    "name",
    "names",
    "national",
    "natural",
    "nchar",
    "new",
    "next",
    "no",
    "none",
    "not",
    "notnull",
    "null",
    "nullif",
    "nulls",
    "numeric",
    "of",
    "off",
    "offset",
    "old",
    "on",
    "only",
    "option",
    "or",
    "order",
    "ordinality",
    "others",
    "out",
    "outer",
    "over",
    "overlaps",
    "overlay",
    "owner",
    "partition",
    "path",
    "position",
    "preceding",
    "precision",
    "prior",
    "query",
    "range",
    "real",
    "recursive",
    "ref",
    "return",
    "returns",
    "right",
    "row",
    "rows",
    "schema",
    "scroll",
    "search",
    "second",
    "select",
    "session_user",
    "setof",
    "similar",
    "simple",
    "smallint",
    "some",
    "source",
    "strict",
    "string",
    "substring",
    "symmetric",
    "system_user",
    "table",
    "target",
    "text",
    "then",
    "ties",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "type",
    "unbounded",
    "union",
    "unknown",
    "user",
    "using",
    "value",
    "values",
    "varchar",
    "variadic",
    "varying",
    "version",
    "when",
    "where",
    "window",
    "with",
    "within",
    "without",
    "year",
    "zone",
];
