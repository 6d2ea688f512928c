//! What was decided before about the same statement: policy's verdict, its mask, whether its literals may rest in a record.
//!
//! Texts that mean the same share their facts ([`super::scripts`]), so a statement is known by them: by identity, not by
//! comparing. Only what cannot come out otherwise is kept: allowed operations of plain statements, under a policy that
//! judges facts alone for this session. Every use gets a decision of its own. When the policy, the catalogue or the keys
//! of masks are others, what was known is not used.

use lockgate_inspect::{
    mask::{MaskKeys, StatementMask},
    sql::{ColumnUsage, Control, Statement, catalogue::CatalogueSnapshot},
};
use lockgate_model::{operation::Facts, sql::SqlClass, verdict::Effect};
use lockgate_policy::Judged;
use std::sync::Arc;

/// Statements that a session knows. Looked through one by one, the last used first; a few kilobytes.
const KNOWN: usize = 32;

/// One session's.
#[derive(Default)]
pub(crate) struct Known(Vec<Entry>);

/// One statement.
pub(crate) struct Entry {
    facts: Arc<Facts>,
    usage: Arc<ColumnUsage>,
    catalogue: Option<Arc<CatalogueSnapshot>>,
    keys: Arc<MaskKeys>,
    /// Whether it touches what is masked for the session.
    pub(crate) touches: Option<bool>,
    /// An allowing verdict and what the masks make of the rows.
    pub(crate) allowed: Option<(Judged, Option<Arc<StatementMask>>)>,
}

impl Known {
    /// What is known of a statement, or room for it. None for statements that mean something new each time.
    pub(crate) fn of(
        &mut self,
        statement: &Statement,
        catalogue: Option<&Arc<CatalogueSnapshot>>,
        keys: &Arc<MaskKeys>,
    ) -> Option<&mut Entry> {
        if !is_plain(statement) {
            return None;
        }
        let same = |entry: &Entry| {
            Arc::ptr_eq(&entry.facts, &statement.facts)
                && Arc::ptr_eq(&entry.usage, &statement.usage)
                && Arc::ptr_eq(&entry.keys, keys)
                && match (&entry.catalogue, catalogue) {
                    (None, None) => true,
                    (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                    (None, Some(_)) | (Some(_), None) => false,
                }
        };
        match self.0.iter().position(same) {
            Some(at) => self.0.swap(0, at),
            None => {
                self.0.truncate(KNOWN - 1);
                let entry = Entry {
                    facts: statement.facts.clone(),
                    usage: statement.usage.clone(),
                    catalogue: catalogue.cloned(),
                    keys: keys.clone(),
                    touches: None,
                    allowed: None,
                };
                self.0.insert(0, entry);
            }
        }
        self.0.first_mut()
    }

    /// The policy is another one.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

impl Entry {
    /// Keeps a verdict that lets pass.
    pub(crate) fn keep(&mut self, verdict: &Judged, mask: Option<&Arc<StatementMask>>) {
        if verdict.is_lifted() {
            return;
        }
        match verdict.effect {
            Effect::Allow => self.allowed = Some((verdict.clone(), mask.cloned())),
            Effect::Deny(_) | Effect::Hold(_) => {}
        }
    }
}

/// Queries and changes whose judgement lies in their facts and their use of columns, not in their text.
fn is_plain(statement: &Statement) -> bool {
    let facts = statement.sql();
    matches!(statement.control, Control::None)
        && matches!(facts.class, SqlClass::Read | SqlClass::Write)
        && matches!(facts.kind.as_str(), "select" | "insert" | "update" | "delete")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_inspect::sql::{Inspector, SessionState};

    fn statement(text: &str) -> Arc<Statement> {
        Inspector.script(text, &SessionState::default(), None).statements[0].clone()
    }

    #[test]
    fn a_statement_is_known_by_its_facts_under_the_same_catalogue_and_keys() {
        let mut known = Known::default();
        let (keys, others) = (Arc::new(MaskKeys::default()), Arc::new(MaskKeys::default()));
        let (one, two) = (statement("SELECT a FROM t"), statement("SELECT a FROM t"));
        let catalogue = Arc::new(CatalogueSnapshot::default());
        known.of(&one, None, &keys).unwrap().touches = Some(true);
        assert_eq!(known.of(&one, None, &keys).unwrap().touches, Some(true));
        assert_eq!(known.of(&two, None, &keys).unwrap().touches, None);
        assert_eq!(known.of(&one, None, &others).unwrap().touches, None);
        assert_eq!(known.of(&one, Some(&catalogue), &keys).unwrap().touches, None);
        for number in 0..KNOWN * 2 {
            known.of(&statement(&format!("SELECT {number}")), None, &keys).unwrap();
        }
        assert_eq!(known.0.len(), KNOWN);
        assert_eq!(known.of(&one, None, &keys).unwrap().touches, None);
    }

    #[test]
    fn what_means_something_new_each_time_is_not_known() {
        let keys = Arc::new(MaskKeys::default());
        for text in [
            "BEGIN",
            "EXECUTE p",
            "FETCH c",
            "SET a.b = 1",
            "CREATE TABLE t ()",
            "CALL f()",
            "nonsense",
            "SHOW x",
        ] {
            assert!(Known::default().of(&statement(text), None, &keys).is_none(), "{text}");
        }
    }
}
