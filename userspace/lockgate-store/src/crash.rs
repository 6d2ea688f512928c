//! What a crash left open, and the records that close it.

use crate::{
    error::StoreError,
    fact::{Fact, FactKind},
    layout::Layout,
    reader::Reader,
    recover::Recovered,
    session::SessionSummary,
};
use lockgate_model::{
    RequestId, SessionId, Timestamp,
    approval::{Resolution, WithdrawReason},
    event::{Event, EventKind},
    outcome::{CloseReason, Closing},
};
use std::collections::BTreeMap;

/// Sessions without a closing, requests without a resolution.
#[derive(Default)]
pub(crate) struct Open {
    pub(crate) sessions: BTreeMap<SessionId, SessionSummary>,
    pub(crate) requests: BTreeMap<RequestId, Option<SessionId>>,
}

impl Open {
    pub(crate) fn apply(&mut self, seq: u64, fact: &Fact) {
        match (&fact.kind, fact.session) {
            (FactKind::Started(_), Some(id)) => {
                if let Some(session) = SessionSummary::begin(seq, fact) {
                    self.sessions.insert(id, session);
                }
            }
            (FactKind::Ended(_), Some(id)) => drop(self.sessions.remove(&id)),
            (FactKind::Held(request), session) => {
                self.requests.insert(*request, session);
                self.count(seq, fact);
            }
            (FactKind::Resolved(request), _) => {
                self.requests.remove(request);
                self.count(seq, fact);
            }
            _ => self.count(seq, fact),
        }
    }

    fn count(&mut self, seq: u64, fact: &Fact) {
        if let Some(session) = fact.session.and_then(|id| self.sessions.get_mut(&id)) {
            session.apply(seq, fact);
        }
    }
}

/// The records that close everything, and one that says why they were needed.
pub(crate) fn closings(
    layout: &Layout,
    recovered: &Recovered,
    left_open: bool,
    now: Timestamp,
) -> Result<Vec<Event>, StoreError> {
    let mut open = Open::default();
    for record in Reader::of(layout.clone()).records() {
        let record = record?;
        open.apply(record.seq, &Fact::of(&record.event));
    }
    let disorderly = recovered.tip.seq > 0 && left_open;
    if !disorderly && recovered.torn.is_none() && open.sessions.is_empty() && open.requests.is_empty() {
        return Ok(Vec::new());
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
    events.extend(open.sessions.into_values().map(|session| {
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
    Ok(events)
}

fn event(at: Timestamp, session: Option<SessionId>, kind: EventKind) -> Event {
    Event { at, session, kind }
}
