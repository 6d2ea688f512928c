//! What records inherit from earlier ones: a vote from the operation that it is about, an operation from its session.
//! Kept in memory within a bound; what fell out of it is found by the index and read from the log again.

use super::{
    entry::{Entry, OfOperation, OfSession},
    table::Table,
};
use crate::{layout::Layout, lines::line_at};
use lockgate_audit::Record;
use lockgate_model::{OperationId, RequestId, SessionId, event::EventKind};
use std::{collections::HashMap, hash::Hash, sync::Arc};

/// Contexts kept for sure, of each kind. More than records are gathered before a commit ([`super::keep`]), so that what
/// falls out of here stands in the index by then.
const KEPT: usize = 20_000;

/// The last [`KEPT`] entries at least, twice as many at most.
struct Aged<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Copy, V: Clone> Aged<K, V> {
    fn new() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }

    fn put(&mut self, key: K, value: V) {
        if self.young.len() >= KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn find(&mut self, key: K) -> Option<V> {
        if let Some(value) = self.young.get(&key) {
            return Some(value.clone());
        }
        let value = self.old.remove(&key)?;
        self.put(key, value.clone());
        Some(value)
    }
}

/// The memory. None: it was looked for, and there is none.
pub(super) struct Memory {
    sessions: Aged<SessionId, Option<Arc<OfSession>>>,
    operations: Aged<OperationId, Option<Arc<OfOperation>>>,
    requests: Aged<RequestId, Option<Arc<OfOperation>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { sessions: Aged::new(), operations: Aged::new(), requests: Aged::new() }
    }
}

impl Memory {
    /// Takes over what entries that are in no index yet tell.
    pub(super) fn learn(&mut self, entries: &[Arc<Entry>]) {
        for Entry { hit, .. } in entries.iter().map(|entry| &**entry) {
            match (hit.event.as_str(), hit.session, hit.operation) {
                ("session_started", Some(id), _) => {
                    self.sessions.put(id, Some(Arc::new(OfSession::shown(hit))));
                }
                ("operation_decided", _, Some(id)) => {
                    self.operations.put(id, Some(Arc::new(OfOperation::shown(hit))));
                }
                ("approval_requested", _, Some(_)) => {
                    let of = Some(Arc::new(OfOperation::shown(hit)));
                    hit.request.into_iter().for_each(|id| self.requests.put(id, of.clone()));
                }
                _ => {}
            }
        }
    }
}

/// The memory, and where to look for the rest.
pub(super) struct Known<'a> {
    pub(super) memory: &'a mut Memory,
    /// None where the log is read from its beginning: then everything was learnt.
    pub(super) index: Option<(&'a Table, &'a Layout)>,
}

impl Known<'_> {
    pub(super) fn learn_session(&mut self, id: SessionId, of: Arc<OfSession>) {
        self.memory.sessions.put(id, Some(of));
    }

    pub(super) fn learn_operation(&mut self, id: OperationId, of: Arc<OfOperation>) {
        self.memory.operations.put(id, Some(of));
    }

    pub(super) fn learn_request(&mut self, id: RequestId, of: Arc<OfOperation>) {
        self.memory.requests.put(id, Some(of));
    }

    pub(super) fn session(&mut self, id: SessionId) -> Option<Arc<OfSession>> {
        if let Some(known) = self.memory.sessions.find(id) {
            return known;
        }
        let found = self.read("session", &id.to_string(), "session_started").and_then(|record| match &record
            .event
            .kind
        {
            EventKind::SessionStarted(session) if session.id == id => Some(Arc::new(OfSession::of(session))),
            _ => None,
        });
        self.memory.sessions.put(id, found.clone());
        found
    }

    pub(super) fn operation(&mut self, id: OperationId) -> Option<Arc<OfOperation>> {
        if let Some(known) = self.memory.operations.find(id) {
            return known;
        }
        let found = self.read("operation", &id.to_string(), "operation_decided").and_then(|record| {
            match &record.event.kind {
                EventKind::OperationDecided { operation, .. } if operation.id == id => {
                    Some(Arc::new(OfOperation::of(operation, record.event.session)))
                }
                _ => None,
            }
        });
        self.memory.operations.put(id, found.clone());
        found
    }

    pub(super) fn request(&mut self, id: RequestId) -> Option<Arc<OfOperation>> {
        if let Some(known) = self.memory.requests.find(id) {
            return known;
        }
        let asked = self.read("request", &id.to_string(), "approval_requested").and_then(|record| {
            match &record.event.kind {
                EventKind::ApprovalRequested { request, operation, .. } if *request == id => Some(*operation),
                _ => None,
            }
        });
        let found = asked.and_then(|operation| self.operation(operation));
        self.memory.requests.put(id, found.clone());
        found
    }

    fn read(&self, field: &str, value: &str, event: &str) -> Option<Record> {
        let (table, layout) = self.index?;
        let at = table
            .first(field, value, event)
            .inspect_err(
                |error| tracing::debug!(%error, field, "a context was not found in the search index"),
            )
            .ok()??;
        Record::decode(&line_at(layout, at).ok()??).ok()
    }
}
