//! What code in the database stores: the INSERT, UPDATE and MERGE in the text of a function, and what the function of a
//! trigger puts into the row that is being written.
//!
//! It says which expressions go where, in the words of [`super::usage`]; whether something masked is in them is
//! [`crate::mask`]'s business. Statements are found word by word and understood by the grammar; one that the grammar does not
//! take by itself (PL/pgSQL has words of its own in some) stores anything. Texts that are put together while they run are
//! not looked for here.

use super::{
    Inspector, SearchPath, SessionState,
    catalogue::CatalogueSnapshot,
    parse,
    routine::MAX_BODY_BYTES,
    usage::{Change, Lineage, Query},
};
use lockgate_model::sql::RelationName;
use pg_query::protobuf::Token;
use std::ops::Range;

/// What the rows of a trigger are called in what is found: RETURNING has an OLD and a NEW of its own.
pub(crate) const NEW_ROW: &str = "lockgate_new_row";
pub(crate) const OLD_ROW: &str = "lockgate_old_row";

/// One thing that is stored.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    /// A statement that was understood.
    Change(Box<Change>),
    /// One that was not: anything may go into this relation.
    Anything(RelationName),
    /// A column of the row that a trigger is run for gets a value: that of a query with one output, or anything.
    New(String, Option<Box<Query>>),
}

/// What a text stores; None when it cannot be read.
pub(crate) fn stores(text: &str, catalogue: &CatalogueSnapshot) -> Option<Vec<Store>> {
    if text.len() > MAX_BODY_BYTES || text.contains('\0') || parse::is_slow_to_scan(text) {
        return None;
    }
    let body = Body { text, words: words(text)?, catalogue };
    Some((0..body.words.len()).filter_map(|index| body.store(index)).collect())
}

struct Word {
    token: Token,
    at: Range<usize>,
}

struct Body<'a> {
    text: &'a str,
    words: Vec<Word>,
    catalogue: &'a CatalogueSnapshot,
}

fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    for token in parse::tokens(text).ok()? {
        let kind = Token::try_from(token.token).ok()?;
        let at = usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?;
        text.get(at.clone())?;
        if !matches!(kind, Token::SqlComment | Token::CComment) {
            words.push(Word { token: kind, at });
        }
    }
    Some(words)
}

impl Body<'_> {
    fn token(&self, index: usize) -> Option<Token> {
        self.words.get(index).map(|word| word.token)
    }

    fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index).and_then(|word| self.text.get(word.at.clone()))
    }

    fn is(&self, index: usize, word: &str) -> bool {
        self.word(index).is_some_and(|text| text.eq_ignore_ascii_case(word))
    }

    /// What is stored by what begins at a word.
    fn store(&self, index: usize) -> Option<Store> {
        let before = index.checked_sub(1);
        match self.token(index)? {
            Token::Insert | Token::Merge if self.is(index + 1, "into") => Some(self.change(index, index + 2)),
            // FOR UPDATE, ON UPDATE, DO UPDATE SET and THEN UPDATE SET are parts of others.
            Token::Update
                if !self.is(index + 1, "set")
                    && !before.is_some_and(|at| self.is(at, "for") || self.is(at, "on")) =>
            {
                let only = usize::from(self.is(index + 1, "only"));
                Some(self.change(index, index + 1 + only))
            }
            _ if self.is(index, "new") && self.token(index + 1) == Some(Token::Ascii46) => {
                let column = unquoted(self.word(index + 2)?);
                if before.is_some_and(|at| self.is(at, "into") || self.is(at, "strict")) {
                    return Some(Store::New(column, None));
                }
                let begins = before.is_none_or(|at| {
                    self.token(at) == Some(Token::Ascii59)
                        || ["begin", "then", "else", "loop"].iter().any(|word| self.is(at, word))
                });
                let assigns = matches!(self.token(index + 3)?, Token::ColonEquals | Token::Ascii61);
                (begins && assigns).then(|| Store::New(column, self.query(index + 4)))
            }
            _ => None,
        }
    }

    fn change(&self, first: usize, target: usize) -> Store {
        let understood = match self.lineage(&self.slice(first..self.end(first))) {
            Some(Lineage::Change(change)) => Some(change),
            _ => None,
        };
        understood.map_or_else(|| Store::Anything(self.relation(target)), Store::Change)
    }

    fn query(&self, first: usize) -> Option<Box<Query>> {
        match self.lineage(&format!("SELECT ({})", self.slice(first..self.end(first))))? {
            Lineage::Rows(query) => Some(Box::new(query)),
            _ => None,
        }
    }

    /// A statement's lineage, with names looked up anywhere: which path the code runs with is not known.
    fn lineage(&self, text: &str) -> Option<Lineage> {
        let mut state = SessionState::default();
        state.search_path = SearchPath::Unknown;
        state.standard_conforming_strings = Some(true);
        let mut statements = Inspector.script(text, &state, Some(self.catalogue)).statements;
        let statement = statements.pop().filter(|_| statements.is_empty())?;
        Some(statement.usage.lineage.clone())
    }

    /// The relation named from a word on.
    fn relation(&self, index: usize) -> RelationName {
        let name = |index| self.word(index).map(unquoted).unwrap_or_default();
        match self.token(index + 1) {
            Some(Token::Ascii46) => RelationName { schema: Some(name(index)), name: name(index + 2) },
            _ => RelationName { schema: None, name: name(index) },
        }
    }

    /// Where a statement ends: before a semicolon, the end of the bracket that it stands in, RETURNING or LOOP.
    fn end(&self, first: usize) -> usize {
        let mut open = 0_usize;
        for index in first..self.words.len() {
            match self.token(index) {
                Some(Token::Ascii40 | Token::Ascii91) => open += 1,
                Some(Token::Ascii41 | Token::Ascii93) => match open.checked_sub(1) {
                    Some(left) => open = left,
                    None => return index,
                },
                Some(Token::Ascii59 | Token::Returning) if open == 0 => return index,
                _ if open == 0 && self.is(index, "loop") => return index,
                _ => {}
            }
        }
        self.words.len()
    }

    /// The text of some words, in which a trigger's rows have names of their own.
    fn slice(&self, range: Range<usize>) -> String {
        let mut out = String::new();
        let mut from = self.words.get(range.start).map_or(0, |word| word.at.start);
        for word in self.words.get(range).unwrap_or_default() {
            out.push_str(self.text.get(from..word.at.start).unwrap_or(" "));
            let text = self.text.get(word.at.clone()).unwrap_or_default();
            out.push_str(match text {
                row if row.eq_ignore_ascii_case("new") => NEW_ROW,
                row if row.eq_ignore_ascii_case("old") => OLD_ROW,
                other => other,
            });
            from = word.at.end;
        }
        out
    }
}

/// An identifier as the server keeps it.
fn unquoted(text: &str) -> String {
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_found() {
        for (text, expected) in [
            ("INSERT INTO a SELECT 1", "a"),
            ("begin insert into s.a values (new.id); update only b set x = 1 where true; end", "s.a b"),
            ("begin insert into a values (1) returning id into x; return new; end", "a"),
            ("with x as (insert into a values (1) returning *) select * from x", "a"),
            ("begin merge into a using b on true when matched then update set x = 1; end", "a"),
            (
                "begin insert into a values (1) on conflict do update set x = 2; perform 1 from c for update; end",
                "a",
            ),
            ("begin for r in update a set x = 1 loop end loop; end", "a"),
            ("begin insert into a strange words; end", "?a"),
            ("begin insert into \"A b\" strange words; end", "?A b"),
            (
                "begin new.x := 1; if true then NEW.y = (select 2); end if; select 1 into new.z; end",
                ".x .y .z?",
            ),
            ("begin if new.x = 1 then return new; end if; -- insert into a\n end", ""),
            ("select 'insert into a'", ""),
        ] {
            let found = stores(text, &CatalogueSnapshot::default()).unwrap_or_default();
            let shown: Vec<String> = found
                .iter()
                .map(|store| match store {
                    Store::Change(change) => change.target.to_string(),
                    Store::Anything(name) => format!("?{name}"),
                    Store::New(column, Some(_)) => format!(".{column}"),
                    Store::New(column, None) => format!(".{column}?"),
                })
                .collect();
            assert_eq!(shown.join(" "), expected, "{text}");
        }
    }
}
