//! Sessions as listings show them, folded from the facts of the log.

use crate::fact::{Fact, FactKind};
use lockgate_audit::Record;
use lockgate_model::{
    SessionId, Timestamp,
    id::{NodeName, TargetName},
    outcome::CloseReason,
    principal::Principal,
    session::Protocol,
};
use serde::{Deserialize, Serialize};

/// How many sessions a listing shows unless it asks for another number.
pub(crate) const DEFAULT_LIMIT: usize = 1000;

/// One session, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Its id.
    pub id: SessionId,
    /// The node it ran on.
    pub node: NodeName,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; None while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<CloseReason>,
    /// Who it came from.
    pub principal: Principal,
    /// Where it went.
    pub target: TargetName,
    /// In which protocol.
    pub protocol: Protocol,
    /// The database the client asked for.
    pub database: String,
    /// The role lockgate logged in as.
    pub upstream_user: String,
    /// Operations decided.
    pub operations: u64,
    /// Operations refused, at once or after waiting.
    pub denied: u64,
    /// Operations that waited for people.
    pub held: u64,
    /// Bytes from the client; known when it has ended.
    pub bytes_from_client: u64,
    /// Bytes to the client; known when it has ended.
    pub bytes_to_client: u64,
    /// Number of its first record.
    pub first_seq: u64,
    /// Number of its last record so far.
    pub last_seq: u64,
}

impl SessionSummary {
    /// The session that a fact begins, when it does.
    pub(crate) fn begin(seq: u64, fact: &Fact) -> Option<Self> {
        let (Some(id), FactKind::Started(opening)) = (fact.session, &fact.kind) else { return None };
        Some(Self {
            id,
            node: opening.node.clone(),
            started: fact.at,
            ended: None,
            closing: None,
            principal: opening.principal.clone(),
            target: opening.target.clone(),
            protocol: opening.protocol,
            database: opening.database.clone(),
            upstream_user: opening.upstream_user.clone(),
            operations: 0,
            denied: 0,
            held: 0,
            bytes_from_client: 0,
            bytes_to_client: 0,
            first_seq: seq,
            last_seq: seq,
        })
    }

    /// The session that these records tell of, oldest first; None without its beginning.
    pub fn of(records: &[Record]) -> Option<Self> {
        let mut records = records.iter();
        let mut session = records.find_map(|record| Self::begin(record.seq, &Fact::of(&record.event)))?;
        records.for_each(|record| session.apply(record.seq, &Fact::of(&record.event)));
        Some(session)
    }

    /// Counts a fact of this session; one that was counted before is not counted again.
    pub(crate) fn apply(&mut self, seq: u64, fact: &Fact) {
        if seq <= self.last_seq {
            return;
        }
        self.last_seq = seq;
        match &fact.kind {
            FactKind::Decided { denied } => {
                self.operations += 1;
                self.denied += u64::from(*denied);
            }
            FactKind::Held(_) => self.held += 1,
            FactKind::Refused => self.denied += 1,
            FactKind::Ended(ending) => {
                self.ended = Some(fact.at);
                self.closing = Some(ending.reason);
                self.bytes_from_client = ending.bytes_from_client;
                self.bytes_to_client = ending.bytes_to_client;
            }
            FactKind::Started(_) | FactKind::Resolved(_) | FactKind::Shelved(_) | FactKind::Other => {}
        }
    }
}

/// Which sessions a listing shows. The default shows the newest 1000.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionFilter {
    /// Begun at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Begun before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// On this target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// Text in the principal's id or display name, case ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Only running (true) or only ended (false) ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
    /// The newest this many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl SessionFilter {
    /// How many at most.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT)
    }

    /// What a session's beginning decides.
    pub(crate) fn admits_start(&self, session: &SessionSummary) -> bool {
        let in_principal = |text: &String| {
            let text = text.to_lowercase();
            [&session.principal.id, &session.principal.display]
                .iter()
                .any(|name| name.to_lowercase().contains(&text))
        };
        self.since.is_none_or(|since| session.started >= since)
            && self.until.is_none_or(|until| session.started < until)
            && self.target.as_ref().is_none_or(|target| session.target == *target)
            && self.principal.as_ref().is_none_or(in_principal)
    }

    /// What only its end, or the lack of one, decides.
    pub(crate) fn admits_state(&self, session: &SessionSummary) -> bool {
        self.open.is_none_or(|open| session.ended.is_none() == open)
    }
}
