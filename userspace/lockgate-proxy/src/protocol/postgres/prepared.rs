//! Prepared statements and portals of one session, by the names the server knows them by.
//!
//! A name is entered when the server said that it took it, never before: a Parse that fails leaves what was there. What
//! this registry does not know is not executed. The SQL-level commands PREPARE, EXECUTE, DECLARE and FETCH share the
//! names; lockgate-inspect follows those, and is told of these.

use super::judge::Granted;
use crate::limits::{NAME_BYTES, PORTALS, PREPARED_BYTES, PREPARED_STATEMENTS};
use lockgate_inspect::sql::Statement;
use lockgate_model::{DecisionId, operation::Parameter};
use lockgate_wire::postgres::PgString;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// A statement that Parse prepared.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What it was when it was parsed; None for an empty text.
    pub(crate) statement: Option<Arc<Statement>>,
    /// Its meaning lies in a name of the moment, EXECUTE's for example.
    pub(crate) names_something: bool,
    /// How long that holds: the server reads the text anew when its search_path or the schema changed.
    pub(crate) generation: u64,
    /// Parameter types as Parse gave them.
    pub(crate) declared: Vec<u32>,
    /// Parameter types as the server described them.
    pub(crate) described: OnceLock<Vec<u32>>,
    /// Set when messages about it could carry masked values.
    pub(crate) strip: OnceLock<DecisionId>,
    /// An approval given when it was parsed: good for one run, taken by the first Bind or Execute.
    pub(crate) approval: Mutex<Option<Granted>>,
}

/// A portal that Bind made.
#[derive(Clone, Debug)]
pub(crate) struct Portal {
    /// What it runs.
    pub(crate) prepared: Arc<Prepared>,
    /// Its bound values.
    pub(crate) parameters: Arc<[Parameter]>,
    /// An approval that its Bind or its first Execute got: running on after a row limit asks nobody again.
    pub(crate) approval: Option<Granted>,
}

/// Why a name cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// The server would cut it.
    #[error("the name of a {what} has {got} bytes, at most {NAME_BYTES} are told apart by the server")]
    TooLong { what: &'static str, got: usize },
    /// Too many are kept.
    #[error("the session keeps {got} {what}s, at most {limit} are allowed; close some")]
    TooMany { what: &'static str, got: usize, limit: usize },
}

/// All names of one session.
#[derive(Debug, Default)]
pub(crate) struct Names {
    prepared: HashMap<PgString, Arc<Prepared>>,
    prepared_bytes: usize,
    portals: HashMap<PgString, Portal>,
}

impl Names {
    /// The prepared statement of this name.
    pub(crate) fn prepared(&self, name: &PgString) -> Option<&Arc<Prepared>> {
        self.prepared.get(name)
    }

    /// The portal of this name.
    pub(crate) fn portal(&self, name: &PgString) -> Option<&Portal> {
        self.portals.get(name)
    }

    /// Whether a new prepared statement of this name has room.
    pub(crate) fn admit_prepared(&self, name: &PgString, text_bytes: usize) -> Result<(), NameError> {
        let what = "prepared statement";
        check_length(what, name)?;
        let (got, limit) = (self.prepared.len(), PREPARED_STATEMENTS);
        if got >= limit && !self.prepared.contains_key(name) {
            return Err(NameError::TooMany { what, got, limit });
        }
        if self.prepared_bytes + text_bytes > PREPARED_BYTES {
            let what = "prepared byte";
            return Err(NameError::TooMany { what, got: self.prepared_bytes, limit: PREPARED_BYTES });
        }
        Ok(())
    }

    /// Whether a new portal of this name has room.
    pub(crate) fn admit_portal(&self, name: &PgString) -> Result<(), NameError> {
        let what = "portal";
        check_length(what, name)?;
        let (got, limit) = (self.portals.len(), PORTALS);
        if got >= limit && !self.portals.contains_key(name) {
            return Err(NameError::TooMany { what, got, limit });
        }
        Ok(())
    }

    /// The server took a Parse.
    pub(crate) fn enter_prepared(&mut self, name: PgString, prepared: Arc<Prepared>) {
        self.prepared_bytes += prepared.bytes();
        if let Some(old) = self.prepared.insert(name, prepared) {
            self.prepared_bytes -= old.bytes();
        }
    }

    /// The server took a Bind.
    pub(crate) fn enter_portal(&mut self, name: PgString, portal: Portal) {
        self.portals.insert(name, portal);
    }

    /// The portal ran under this approval.
    pub(crate) fn approve_portal(&mut self, name: &PgString, granted: Granted) {
        if let Some(portal) = self.portals.get_mut(name) {
            portal.approval = Some(granted);
        }
    }

    /// The server closed a prepared statement.
    pub(crate) fn forget_prepared(&mut self, name: &PgString) {
        if let Some(old) = self.prepared.remove(name) {
            self.prepared_bytes -= old.bytes();
        }
    }

    /// The server closed a portal.
    pub(crate) fn forget_portal(&mut self, name: &PgString) {
        self.portals.remove(name);
    }

    /// DEALLOCATE ALL, DISCARD ALL.
    pub(crate) fn forget_all_prepared(&mut self) {
        // The unnamed one is no entry of the server's table of names, which is what DISCARD and DEALLOCATE empty.
        self.prepared.retain(|name, _| name.is_empty());
        self.prepared_bytes = self.prepared.values().map(|prepared| prepared.bytes()).sum();
    }

    /// The transaction ended: portals made by Bind end with it. Their names, for whoever else keeps them.
    pub(crate) fn forget_portals(&mut self) -> impl Iterator<Item = PgString> {
        std::mem::take(&mut self.portals).into_keys()
    }
}

impl Prepared {
    /// Messages about it could carry masked values.
    pub(crate) fn learn(&self, strip: Option<DecisionId>) {
        if let Some(decision) = strip {
            self.strip.get_or_init(|| decision);
        }
    }

    /// Parameter types, as far as they are known.
    pub(crate) fn types(&self) -> &[u32] {
        self.described.get().unwrap_or(&self.declared)
    }

    /// It was approved when it was parsed.
    pub(crate) fn grant(&self, granted: Granted) {
        *self.approval() = Some(granted);
    }

    /// The approval, used up.
    pub(crate) fn take_approval(&self) -> Option<Granted> {
        self.approval().take()
    }

    fn approval(&self) -> MutexGuard<'_, Option<Granted>> {
        self.approval.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self) -> usize {
        self.statement.as_ref().map_or(0, |statement| statement.text.len())
    }
}

fn check_length(what: &'static str, name: &PgString) -> Result<(), NameError> {
    if name.len() > NAME_BYTES {
        return Err(NameError::TooLong { what, got: name.len() });
    }
    Ok(())
}
