//! Texts that were understood before: drivers and ORMs send the same few again and again, and many write their values
//! into them.
//!
//! What a text means depends on the session's settings and the catalogue ([`Basis`]). Sessions that stand on the same
//! basis share a shelf of texts; one whose basis changes goes to another shelf. On a shelf are texts as they are, and
//! templates that stand for all texts that differ in harmless literals ([`lockgate_inspect::sql::Template`] says which are).
//! Texts that name prepared statements or cursors are never kept. A hit gives exactly what a miss would.

use crate::limits::{
    CACHED_SCRIPT_BYTES, CACHED_SCRIPTS, LONG_TEXT_BYTES, SCRIPT_SHELVES, TEMPLATE_VARIANTS,
};
use lockgate_inspect::sql::{
    self, Inspector, Script, SessionState, Shape, Template, catalogue::CatalogueSnapshot,
};
use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Words of the commands whose meaning lies in a name: EXECUTE (also inside EXPLAIN and CREATE TABLE AS), FETCH, MOVE.
const NAMING: [&str; 3] = ["execute", "fetch", "move"];

/// What the meaning of a text depends on, besides the text.
#[derive(Clone, Debug)]
struct Basis {
    state: sql::Basis,
    /// Weak: a catalogue that nobody else uses any more is not kept for this.
    catalogue: Option<Weak<CatalogueSnapshot>>,
}

impl Basis {
    fn of(state: &SessionState, catalogue: Option<&Arc<CatalogueSnapshot>>) -> Self {
        Self { state: state.basis(), catalogue: catalogue.map(Arc::downgrade) }
    }

    fn holds(&self, state: &SessionState, catalogue: Option<&Arc<CatalogueSnapshot>>) -> bool {
        let same_catalogue = match (&self.catalogue, catalogue) {
            (None, None) => true,
            // The allocation cannot have been given to another catalogue while the weak reference exists.
            (Some(ours), Some(theirs)) => ours.as_ptr() == Arc::as_ptr(theirs),
            (None, Some(_)) | (Some(_), None) => false,
        };
        same_catalogue && state.stands_on(&self.state)
    }
}

/// All sessions' texts, by what their meaning depends on.
#[derive(Default)]
pub(crate) struct ScriptCache(Mutex<VecDeque<Arc<Shelf>>>);

impl ScriptCache {
    /// The shelf of a basis; a new one takes the place of the one that was made first.
    fn shelf(&self, state: &SessionState, catalogue: Option<&Arc<CatalogueSnapshot>>) -> Arc<Shelf> {
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shelf) = shelves.iter().find(|shelf| shelf.basis.holds(state, catalogue)) {
            return shelf.clone();
        }
        // Nobody will ever stand on the basis of a catalogue that is gone.
        shelves.retain(|shelf| shelf.basis.catalogue.as_ref().is_none_or(|weak| weak.strong_count() > 0));
        if shelves.len() >= SCRIPT_SHELVES {
            shelves.pop_front();
        }
        let shelf = Arc::new(Shelf { basis: Basis::of(state, catalogue), texts: Mutex::default() });
        shelves.push_back(shelf.clone());
        shelf
    }
}

/// The texts of one basis.
pub(crate) struct Shelf {
    basis: Basis,
    texts: Mutex<Texts>,
}

#[derive(Default)]
struct Texts {
    exact: Fifo<Box<str>, Script>,
    templates: Fifo<Box<[u8]>, Vec<Template>>,
}

impl Shelf {
    /// Held for a look-up or an insertion, never while a text is parsed.
    fn texts(&self) -> MutexGuard<'_, Texts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bounded map; what came first goes first.
struct Fifo<K, V> {
    known: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Fifo<K, V> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Hash + Eq + Clone, V> Fifo<K, V> {
    fn insert(&mut self, key: K, value: V) {
        if self.known.insert(key.clone(), value).is_some() {
            return;
        }
        if self.order.len() >= CACHED_SCRIPTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(key);
    }
}

/// One session's way to the texts.
#[derive(Default)]
pub(crate) struct Scripts {
    cache: Arc<ScriptCache>,
    shelf: Option<Arc<Shelf>>,
    /// Counts changes of the basis.
    generation: u64,
    /// Kept for its memory.
    shape: Shape,
    /// Long texts of the message at hand, understood on another thread.
    aside: Vec<(Box<str>, Arc<Shelf>, Script)>,
}

/// A long text that is to be understood elsewhere.
pub(crate) struct Aside {
    text: Box<str>,
    shelf: Arc<Shelf>,
    state: SessionState,
    catalogue: Option<Arc<CatalogueSnapshot>>,
}

impl Aside {
    /// Does the work; for a thread that may take its time.
    pub(crate) fn understand(self) -> (Box<str>, Arc<Shelf>, Script) {
        let script = Inspector.script(&self.text, &self.state, self.catalogue.as_deref());
        (self.text, self.shelf, script)
    }
}

impl Scripts {
    /// A session that shares its texts.
    pub(crate) fn on(cache: Arc<ScriptCache>) -> Self {
        Self { cache, ..Self::default() }
    }

    /// As long as this number stays the same, what was understood still holds (unless it [`names_something`]).
    pub(crate) fn generation(
        &mut self,
        state: &SessionState,
        catalogue: Option<&Arc<CatalogueSnapshot>>,
    ) -> u64 {
        self.shelf(state, catalogue);
        self.generation
    }

    fn shelf(&mut self, state: &SessionState, catalogue: Option<&Arc<CatalogueSnapshot>>) -> Arc<Shelf> {
        match &self.shelf {
            Some(shelf) if shelf.basis.holds(state, catalogue) => shelf.clone(),
            Some(_) | None => {
                self.generation += 1;
                self.shelf.insert(self.cache.shelf(state, catalogue)).clone()
            }
        }
    }

    /// The work of understanding a long text; None when it is done at once.
    pub(crate) fn aside(
        &mut self,
        text: &str,
        state: &SessionState,
        catalogue: Option<&Arc<CatalogueSnapshot>>,
    ) -> Option<Aside> {
        if text.len() <= LONG_TEXT_BYTES || names_something(text) {
            return None;
        }
        let shelf = self.shelf(state, catalogue);
        Some(Aside { text: text.into(), shelf, state: state.clone(), catalogue: catalogue.cloned() })
    }

    /// Takes over what was understood elsewhere, for the message at hand.
    pub(crate) fn put_aside(&mut self, understood: (Box<str>, Arc<Shelf>, Script)) {
        self.aside.push(understood);
    }

    /// The next message.
    pub(crate) fn forget_aside(&mut self) {
        self.aside.clear();
    }

    /// What a text means now.
    pub(crate) fn understand(
        &mut self,
        inspector: Inspector,
        text: &str,
        state: &SessionState,
        catalogue: Option<&Arc<CatalogueSnapshot>>,
    ) -> Script {
        let snapshot = catalogue.map(|catalogue| &**catalogue);
        let shelf = self.shelf(state, catalogue);
        if text.len() > CACHED_SCRIPT_BYTES {
            // Understood on the same basis, or not used.
            let same = |(theirs, basis, _): &(Box<str>, Arc<Shelf>, Script)| {
                Arc::ptr_eq(basis, &shelf) && **theirs == *text
            };
            return match self.aside.iter().find(|understood| same(understood)) {
                Some((.., script)) => script.clone(),
                None => inspector.script(text, state, snapshot),
            };
        }
        let shape = self.shape.read(text).then_some(&self.shape);
        // Making a template costs as much as three texts: it is made when a shape comes for the second time.
        let mut variants = None;
        {
            let texts = shelf.texts();
            if let Some(shape) = shape
                && let Some(templates) = texts.templates.known.get(shape.key())
            {
                variants = Some(templates.len());
                if let Some(statement) = templates.iter().find_map(|template| template.fill(text, shape)) {
                    return Script { statements: vec![statement] };
                }
            }
            if let Some(script) = texts.exact.known.get(text) {
                return script.clone();
            }
        }
        let script = inspector.script(text, state, snapshot);
        let template = shape
            .filter(|_| variants.is_some_and(|variants| variants < TEMPLATE_VARIANTS))
            .and_then(|shape| Some((shape, inspector.template(text, shape, &script, state, snapshot)?)))
            .filter(|(shape, template)| template.is_open(shape));
        if let Some(shape) = shape
            && variants.is_none()
        {
            shelf.texts().templates.insert(shape.key().into(), Vec::new());
        }
        match template {
            Some((shape, template)) => {
                let mut texts = shelf.texts();
                match texts.templates.known.get_mut(shape.key()) {
                    Some(templates) => templates.push(template),
                    None => texts.templates.insert(shape.key().into(), vec![template]),
                }
            }
            None if names_something(text) => {}
            None => shelf.texts().exact.insert(text.into(), script.clone()),
        }
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

    const TEXTS: [&str; 24] = [
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
        "SELECT a FROM t WHERE id = 1",
        "SELECT a FROM t WHERE id = 22",
        "SELECT a FROM t WHERE id = 1 OR id <> 2",
        "SELECT a FROM t WHERE id = 1 OR id <> 1",
        "SELECT nextval('a') FROM t WHERE id = 1",
        "DELETE FROM t WHERE n = 'x'",
        "DELETE FROM t WHERE n = 'y'",
        "CREATE FUNCTION t(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
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
        let state = SessionState::default();
        for number in 0..CACHED_SCRIPTS * 3 {
            scripts.understand(Inspector, &format!("SELECT {number}"), &state, None);
            scripts.understand(Inspector, &format!("SELECT a FROM t{number} WHERE b = 1"), &state, None);
            scripts.understand(
                Inspector,
                &format!("SELECT a FROM t WHERE b = 1 LIMIT {number}"),
                &state,
                None,
            );
        }
        let shelf = scripts.shelf(&state, None);
        let texts = shelf.texts();
        assert_eq!((texts.exact.known.len(), texts.exact.order.len()), (CACHED_SCRIPTS, CACHED_SCRIPTS));
        assert_eq!(
            (texts.templates.known.len(), texts.templates.order.len()),
            (CACHED_SCRIPTS, CACHED_SCRIPTS)
        );
        assert!(texts.templates.known.values().all(|templates| templates.len() <= TEMPLATE_VARIANTS));
    }

    #[test]
    fn what_was_understood_elsewhere_holds_on_the_same_basis_only() {
        let mut scripts = Scripts::default();
        let mut state = SessionState::default();
        let long = format!("SELECT a FROM t WHERE b = '{}'", "x".repeat(LONG_TEXT_BYTES));
        assert!(scripts.aside("SELECT 1", &state, None).is_none());
        assert!(scripts.aside(&format!("EXECUTE p; {long}"), &state, None).is_none());
        let work = scripts.aside(&long, &state, None).unwrap();
        let understood = std::thread::spawn(|| work.understand()).join().unwrap();
        let facts = understood.2.statements[0].facts.clone();
        scripts.put_aside(understood);
        let now = |scripts: &mut Scripts, state: &SessionState| {
            scripts.understand(Inspector, &long, state, None).statements[0].facts.clone()
        };
        assert!(Arc::ptr_eq(&facts, &now(&mut scripts, &state)));
        state.role = Some("other".to_owned());
        assert!(!Arc::ptr_eq(&facts, &now(&mut scripts, &state)));
        state.role = None;
        assert!(Arc::ptr_eq(&facts, &now(&mut scripts, &state)));
        scripts.forget_aside();
        assert!(!Arc::ptr_eq(&facts, &now(&mut scripts, &state)));
    }

    #[test]
    fn sessions_on_one_basis_share_and_others_do_not() {
        let cache = Arc::new(ScriptCache::default());
        let (mut one, mut two) = (Scripts::on(cache.clone()), Scripts::on(cache.clone()));
        let mut state = SessionState::default();
        let understood = |scripts: &mut Scripts, text: &str, state: &SessionState| {
            scripts.understand(Inspector, text, state, None).statements[0].facts.clone()
        };
        understood(&mut one, "SELECT a FROM t WHERE id = 4", &state);
        let first = understood(&mut one, "SELECT a FROM t WHERE id = 5", &state);
        assert!(Arc::ptr_eq(&first, &understood(&mut two, "SELECT a FROM t WHERE id = 60", &state)));
        state.role = Some("other".to_owned());
        assert!(!Arc::ptr_eq(&first, &understood(&mut two, "SELECT a FROM t WHERE id = 60", &state)));
        for number in 0..SCRIPT_SHELVES * 2 {
            state.role = Some(number.to_string());
            understood(&mut two, "SELECT 1", &state);
        }
        assert_eq!(cache.0.lock().unwrap().len(), SCRIPT_SHELVES);
    }
}
