//! What a crash left open, and the records that close it.

use crate::{
    error::StoreError,
    fact::{Fact, FactKind},
    index::Index,
    layout::Layout,
    reader::Reader,
    recover::Recovered,
    session::SessionSummary,
};
use lockgate_model::{
    RequestId, SessionId, Timestamp,
    approval::{Resolution, WithdrawReason},
    event::{Event, EventKind},
    operation::Digest,
    outcome::{CloseReason, Closing},
};
use std::collections::{BTreeMap, BTreeSet};

/// Sessions without a closing, requests without a resolution.
pub(crate) struct Open {
    pub(crate) sessions: Vec<SessionSummary>,
    pub(crate) requests: Vec<(RequestId, Option<SessionId>)>,
    /// What must rest on the shelf.
    pub(crate) shelved: BTreeMap<String, Digest>,
}

impl Open {
    /// As the index knows it.
    pub(crate) fn of_index(index: &Index) -> Self {
        Self {
            sessions: index.open_sessions(),
            requests: index.open_requests(),
            shelved: index.shelved().clone(),
        }
    }

    /// Takes out the requests that go on; answers which of them are open.
    pub(crate) fn keep(&mut self, kept: &BTreeSet<RequestId>) -> BTreeSet<RequestId> {
        let (left, closed) = std::mem::take(&mut self.requests)
            .into_iter()
            .partition::<Vec<_>, _>(|(id, _)| kept.contains(id));
        self.requests = closed;
        left.into_iter().map(|(request, _)| request).collect()
    }

    /// From the whole log, when there is no index.
    pub(crate) fn of_log(layout: &Layout) -> Result<Self, StoreError> {
        let mut sessions: BTreeMap<SessionId, SessionSummary> = BTreeMap::new();
        let mut requests = BTreeMap::new();
        let mut shelved = BTreeMap::new();
        for record in Reader::of(layout.clone()).records() {
            let record = record?;
            let fact = Fact::of(&record.event);
            match &fact.kind {
                FactKind::Held(request) => drop(requests.insert(*request, fact.session)),
                FactKind::Resolved(request) => drop(requests.remove(request)),
                FactKind::Shelved(what) => match what.1 {
                    Some(digest) => drop(shelved.insert(what.0.clone(), digest)),
                    None => drop(shelved.remove(&what.0)),
                },
                _ => {}
            }
            let Some(id) = fact.session else { continue };
            match (&fact.kind, SessionSummary::begin(record.seq, &fact)) {
                (FactKind::Ended(_), _) => drop(sessions.remove(&id)),
                (_, Some(session)) => drop(sessions.insert(id, session)),
                (_, None) => {
                    if let Some(session) = sessions.get_mut(&id) {
                        session.apply(record.seq, &fact);
                    }
                }
            }
        }
        let (sessions, requests) = (sessions.into_values().collect(), requests.into_iter().collect());
        Ok(Self { sessions, requests, shelved })
    }
}

/// The records that close everything, and one that says why they were needed.
pub(crate) fn closings(open: Open, recovered: &Recovered, left_open: bool, now: Timestamp) -> Vec<Event> {
    let disorderly = recovered.tip.seq > 0 && left_open;
    if !disorderly && recovered.torn.is_none() && open.sessions.is_empty() && open.requests.is_empty() {
        return Vec::new();
    }
    let mut detail = format!(
        "lockgate was not closed in order: {} session(s) and {} request(s) were left open",
        open.sessions.len(),
        open.requests.len()
    );
    if let Some(torn) = &recovered.torn {
        detail.push_str(&format!(
            "; {} torn bytes that nobody relied on were moved to {}",
            torn.bytes,
            torn.kept.display()
        ));
    }
    let mut events = vec![event(now, None, EventKind::Gap { stage: "crash".into(), count: None, detail })];
    events.extend(open.requests.into_iter().map(|(request, session)| {
        let resolution = Resolution::Withdrawn { reason: WithdrawReason::Crash };
        event(now, session, EventKind::ApprovalResolved { request, resolution })
    }));
    events.extend(open.sessions.into_iter().map(|session| {
        let elapsed = now.duration_since(session.started).as_micros();
        let closing = Closing {
            reason: CloseReason::Crash,
            detail: Some("lockgate ended before the session did; bytes are not known".into()),
            operations: session.operations,
            bytes_from_client: 0,
            bytes_to_client: 0,
            elapsed_micros: u64::try_from(elapsed).unwrap_or(0),
        };
        event(now, Some(session.id), EventKind::SessionEnded(closing))
    }));
    events
}

fn event(at: Timestamp, session: Option<SessionId>, kind: EventKind) -> Event {
    Event { at, session, kind }
}
