//! Globs, compiled: one text against one or many patterns, and relation names against `schema.table`.
//!
//! Knows nothing of rules: who must be strict about an unqualified name says so with [`Strictness`].

use globset::{GlobBuilder, GlobMatcher};
use lockgate_model::sql::RelationName;

/// One glob. Most are plain words or `prefix*`, and cost a comparison.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    /// Compare without regard to case: for rules that restrict, where a different spelling must not slip by.
    fold: bool,
    kind: PatternKind,
}

#[derive(Clone, Debug)]
enum PatternKind {
    Any,
    Exact,
    Prefix,
    Suffix,
    Glob(Box<GlobMatcher>),
}

impl Pattern {
    /// Compiles `*`, `?`, `[a-z]`, `{a,b}`; `*` crosses `/`.
    ///
    /// # Errors
    /// What is wrong with the glob, in words.
    pub(crate) fn new(text: &str, strictness: Strictness) -> Result<Self, String> {
        let fold = strictness == Strictness::Restricts;
        let special = |text: &str| text.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let kind = if text.is_empty() {
            return Err("an empty pattern matches nothing".to_owned());
        } else if text == "*" {
            PatternKind::Any
        } else if !special(text) {
            PatternKind::Exact
        } else if text.strip_suffix('*').is_some_and(|rest| !special(rest)) {
            PatternKind::Prefix
        } else if text.strip_prefix('*').is_some_and(|rest| !special(rest)) {
            PatternKind::Suffix
        } else {
            let glob = GlobBuilder::new(text)
                .literal_separator(false)
                .backslash_escape(true)
                .case_insensitive(fold)
                .build()
                .map_err(|error| format!("`{text}` is not a glob: {}", error.kind()))?;
            PatternKind::Glob(Box::new(glob.compile_matcher()))
        };
        Ok(Self { text: if fold { text.to_lowercase() } else { text.to_owned() }, fold, kind })
    }

    /// Matches the empty text alone.
    pub(crate) fn empty() -> Self {
        Self { text: String::new(), fold: false, kind: PatternKind::Exact }
    }

    pub(crate) fn matches(&self, got: &str) -> bool {
        let folded;
        let got = if self.fold && got.chars().any(char::is_uppercase) {
            folded = got.to_lowercase();
            folded.as_str()
        } else {
            got
        };
        match &self.kind {
            PatternKind::Any => true,
            PatternKind::Exact => got == self.text,
            PatternKind::Prefix => self.text.strip_suffix('*').is_some_and(|prefix| got.starts_with(prefix)),
            PatternKind::Suffix => self.text.strip_prefix('*').is_some_and(|suffix| got.ends_with(suffix)),
            PatternKind::Glob(glob) => glob.is_match(got),
        }
    }

    fn is_any(&self) -> bool {
        matches!(self.kind, PatternKind::Any)
    }
}

/// Whether a rule lets pass or restricts: in doubt, the first does not match and the second does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// allow
    Permits,
    /// deny, require_approval, none
    Restricts,
}

/// Any of these.
#[derive(Clone, Debug)]
pub(crate) struct Patterns(pub(crate) Vec<Pattern>);

impl Patterns {
    pub(crate) fn matches(&self, got: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(got))
    }

    /// The whole text, or what stands after its last dot (`pg_catalog.lower`, `customers.ssn`).
    pub(crate) fn matches_last_part(&self, got: &str) -> bool {
        self.matches(got) || got.rsplit_once('.').is_some_and(|(_, last)| self.matches(last))
    }
}

/// `schema.table`, or `table` in any schema.
#[derive(Clone, Debug)]
pub(crate) struct TablePattern {
    schema: Option<Pattern>,
    table: Pattern,
    strictness: Strictness,
}

impl TablePattern {
    pub(crate) fn new(text: &str, strictness: Strictness) -> Result<Self, String> {
        let (schema, table) = match text.split_once('.') {
            Some((schema, table)) => (Some(Pattern::new(schema, strictness)?), table),
            None => (None, text),
        };
        Ok(Self { schema, table: Pattern::new(table, strictness)?, strictness })
    }

    /// A name written without its schema could be in any: that restricts, and never permits, unless the
    /// pattern does not care for the schema either.
    pub(crate) fn matches(&self, got: &RelationName) -> bool {
        let schema = match (&self.schema, got.schema.as_deref()) {
            (None, _) => true,
            (Some(pattern), Some(schema)) => pattern.matches(schema),
            (Some(pattern), None) => match self.strictness {
                Strictness::Permits => pattern.is_any(),
                Strictness::Restricts => true,
            },
        };
        schema && self.table.matches(&got.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_documented() {
        for (pattern, got, permits, restricts) in [
            ("acme/*", "acme/billing", true, true),
            ("acme/*", "acme/sub/billing", true, true),
            ("acme/*", "acme-evil/billing", false, false),
            ("acme/*", "ACME/billing", false, true),
            ("*.service", "backup.service", true, true),
            ("actions.runner.*.service", "actions.runner.acme.service", true, true),
            ("actions.runner.*.service", "actions.runner.acme.service.evil", false, false),
            ("{push,schedule}", "schedule", true, true),
            ("v[0-9].?", "v1.2", true, true),
            ("*", "", true, true),
            ("main", "maintenance", false, false),
            ("*a*", "bab", true, true),
        ] {
            let check = |strictness| Pattern::new(pattern, strictness).unwrap().matches(got);
            assert_eq!(check(Strictness::Permits), permits, "{pattern} {got}");
            assert_eq!(check(Strictness::Restricts), restricts, "{pattern} {got}");
        }
        assert!(Pattern::new("a[", Strictness::Permits).is_err());
        assert!(Pattern::new("", Strictness::Permits).is_err());
    }

    #[test]
    fn an_unqualified_table_restricts_and_never_permits() {
        for (pattern, got, permits, restricts) in [
            ("reporting.daily", "reporting.daily", true, true),
            ("reporting.daily", "daily", false, true),
            ("reporting.daily", "other.daily", false, false),
            ("reporting.daily", "Reporting.Daily", false, true),
            ("*.daily", "daily", true, true),
            ("daily", "daily", true, true),
            ("daily", "other.daily", true, true),
            ("reporting.*", "reporting.x", true, true),
            ("reporting.*", "x", false, true),
            ("report*.d?ily", "reporting.daily", true, true),
        ] {
            let name = RelationName::from(got.to_owned());
            let check = |strictness| TablePattern::new(pattern, strictness).unwrap().matches(&name);
            assert_eq!(check(Strictness::Permits), permits, "{pattern} {got}");
            assert_eq!(check(Strictness::Restricts), restricts, "{pattern} {got}");
        }
    }

    proptest::proptest! {
        /// The shortcuts for plain words, `prefix*` and `*suffix` say what the glob says.
        #[test]
        fn shortcuts_are_globs(pattern in "[abA/.*?]{1,6}", got in "[abA/.]{0,8}", permits in proptest::bool::ANY) {
            let strictness = if permits { Strictness::Permits } else { Strictness::Restricts };
            let glob = GlobBuilder::new(&pattern).case_insensitive(!permits).build().unwrap().compile_matcher();
            let pattern = Pattern::new(&pattern, strictness).unwrap();
            proptest::prop_assert_eq!(pattern.matches(&got), glob.is_match(&got));
        }
    }
}
