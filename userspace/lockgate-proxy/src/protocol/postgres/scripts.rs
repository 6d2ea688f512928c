//! Texts that were understood before: drivers and ORMs send the same few again and again.
//!
//! A text means the same as long as nothing that its meaning depends on has changed; when something has, everything is
//! forgotten. Texts that name prepared statements or cursors are never kept. A hit gives exactly what a miss would.

use crate::limits::{CACHED_SCRIPT_BYTES, CACHED_SCRIPTS};
use lockgate_inspect::sql::{Inspector, Script, SearchPath, SessionState, catalogue::CatalogueSnapshot};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
};

/// Words of the commands whose meaning lies in a name: EXECUTE (also inside EXPLAIN and CREATE TABLE AS), FETCH, MOVE.
const NAMING: [&str; 3] = ["execute", "fetch", "move"];

/// What the meaning of a text depends on, besides the text.
#[derive(Clone, Debug)]
struct Basis {
    standard_conforming_strings: Option<bool>,
    client_encoding_utf8: bool,
    search_path: SearchPath,
    role: Option<String>,
    server_major: Option<u32>,
    /// Weak: a catalogue that nobody else uses any more is not kept for this.
    catalogue: Option<Weak<CatalogueSnapshot>>,
}

impl Basis {
    fn of(state: &SessionState, catalogue: Option<&Arc<CatalogueSnapshot>>) -> Self {
        Self {
            standard_conforming_strings: state.standard_conforming_strings,
            client_encoding_utf8: state.client_encoding_utf8,
            search_path: state.search_path.clone(),
            role: state.role.clone(),
            server_major: state.server_major,
            catalogue: catalogue.map(Arc::downgrade),
        }
    }

    fn holds(&self, state: &SessionState, catalogue: Option<&Arc<CatalogueSnapshot>>) -> bool {
        let same_catalogue = match (&self.catalogue, catalogue) {
            (None, None) => true,
            // The allocation cannot have been given to another catalogue while the weak reference exists.
            (Some(ours), Some(theirs)) => ours.as_ptr() == Arc::as_ptr(theirs),
            (None, Some(_)) | (Some(_), None) => false,
        };
        same_catalogue
            && self.standard_conforming_strings == state.standard_conforming_strings
            && self.client_encoding_utf8 == state.client_encoding_utf8
            && self.server_major == state.server_major
            && self.search_path == state.search_path
            && self.role == state.role
    }
}

/// One session's texts.
#[derive(Default)]
pub(crate) struct Scripts {
    basis: Option<Basis>,
    /// Counts changes of the basis.
    generation: u64,
    known: HashMap<Arc<str>, Script>,
    /// The oldest first.
    order: VecDeque<Arc<str>>,
}

impl Scripts {
    /// As long as this number stays the same, what was understood still holds (unless it [`names_something`]).
    pub(crate) fn generation(
        &mut self,
        state: &SessionState,
        catalogue: Option<&Arc<CatalogueSnapshot>>,
    ) -> u64 {
        if !self.basis.as_ref().is_some_and(|basis| basis.holds(state, catalogue)) {
            self.basis = Some(Basis::of(state, catalogue));
            self.generation += 1;
            self.known.clear();
            self.order.clear();
        }
        self.generation
    }

    /// What a text means now.
    pub(crate) fn understand(
        &mut self,
        inspector: Inspector,
        text: &str,
        state: &SessionState,
        catalogue: Option<&Arc<CatalogueSnapshot>>,
    ) -> Script {
        if text.len() > CACHED_SCRIPT_BYTES || names_something(text) {
            return inspector.script(text, state, catalogue.map(|catalogue| &**catalogue));
        }
        self.generation(state, catalogue);
        if let Some(script) = self.known.get(text) {
            return script.clone();
        }
        let script = inspector.script(text, state, catalogue.map(|catalogue| &**catalogue));
        if self.order.len() >= CACHED_SCRIPTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        let text: Arc<str> = text.into();
        self.order.push_back(text.clone());
        self.known.insert(text, script.clone());
        script
    }
}

/// Whether the meaning of the text lies in a name that it mentions. It only ever says so too often.
pub(crate) fn names_something(text: &str) -> bool {
    let text = text.as_bytes();
    NAMING
        .iter()
        .any(|word| text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const TEXTS: [&str; 16] = [
        "SELECT 1",
        "SELECT lower('a')",
        "SELECT f(1) FROM t",
        r"SELECT 'a\'; DELETE FROM t; --'",
        "SET search_path = evil, pg_catalog",
        "SET search_path TO DEFAULT",
        "SET standard_conforming_strings = off",
        "RESET ALL",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "PREPARE p AS DELETE FROM t",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "explain analyze Execute p",
        "DEALLOCATE p",
    ];

    proptest! {
        #[test]
        fn a_hit_gives_what_a_miss_gives(picks in vec((prop::sample::select(&TEXTS[..]), any::<bool>()), 1..60)) {
            let mut scripts = Scripts::default();
            let mut state = SessionState::default();
            for (text, runs) in picks {
                let kept = scripts.understand(Inspector, text, &state, None);
                let fresh = Inspector.script(text, &state, None);
                prop_assert_eq!(format!("{kept:?}"), format!("{fresh:?}"), "{}", text);
                if runs {
                    fresh.statements.iter().for_each(|statement| state.apply(statement));
                }
            }
        }
    }

    #[test]
    fn the_number_of_texts_is_bounded() {
        let mut scripts = Scripts::default();
        for number in 0..CACHED_SCRIPTS * 3 {
            scripts.understand(Inspector, &format!("SELECT {number}"), &SessionState::default(), None);
        }
        assert_eq!((scripts.known.len(), scripts.order.len()), (CACHED_SCRIPTS, CACHED_SCRIPTS));
    }
}
