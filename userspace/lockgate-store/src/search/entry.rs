//! What of a record is searched: made by one function, for the index, for what it does not hold yet, and for hits.

use super::{Decided, Hit, known::Known};
use crate::layout::At;
use lockgate_audit::Record;
use lockgate_model::{
    OperationId, RequestId, SessionId,
    approval::{Resolution, Vote},
    custody::Custody,
    event::{EventKind, RecordedOperation},
    grant::{Grant, GrantEnd},
    operation::Facts,
    principal::Approver,
    session::Session,
    verdict::{Denial, Effect, Verdict},
};
use serde::Deserialize;
use std::{borrow::Cow, sync::Arc};

/// How much of a record's text is searched: statements are longer than this when a program made them, and are found by
/// their beginning.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// How much of it a hit shows.
const SHOWN_CHARS: usize = 400;

/// A record, cut to what is searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What is shown, its text not cut yet.
    pub(super) hit: Hit,
    /// Further words: bound values, ids, names.
    pub(super) more: String,
    /// Where the record rests.
    pub(super) at: At,
}

/// What a session's records inherit from its first.
#[derive(Clone, Debug, Default)]
pub(super) struct OfSession {
    pub(super) identity: String,
    pub(super) display: String,
    pub(super) repository: Option<String>,
    pub(super) target: String,
}

/// What the records about an operation inherit from its decision.
#[derive(Clone, Debug, Default)]
pub(super) struct OfOperation {
    pub(super) operation: Option<OperationId>,
    pub(super) session: Option<SessionId>,
    pub(super) class: String,
    pub(super) tables: Vec<String>,
    pub(super) digest: String,
}

impl OfSession {
    pub(super) fn of(session: &Session) -> Self {
        let ci = session.workload.ci.as_ref().filter(|ci| ci.is_confirmed());
        Self {
            identity: session.principal.id.clone(),
            display: session.principal.display.clone(),
            repository: ci.and_then(|ci| ci.repository.clone()),
            target: session.target.name.to_string(),
        }
    }
}

impl OfSession {
    /// The same from what an entry of the session shows.
    pub(super) fn shown(hit: &Hit) -> Self {
        Self {
            identity: hit.identity.clone().unwrap_or_default(),
            display: hit.display.clone().unwrap_or_default(),
            repository: hit.repository.clone(),
            target: hit.target.clone().unwrap_or_default(),
        }
    }
}

impl OfOperation {
    /// The same from what an entry about the operation shows.
    pub(super) fn shown(hit: &Hit) -> Self {
        Self {
            operation: hit.operation,
            session: hit.session,
            class: hit.class.clone().unwrap_or_default(),
            tables: hit.tables.clone(),
            digest: hit.digest.clone().unwrap_or_default(),
        }
    }

    pub(super) fn of(operation: &RecordedOperation, session: Option<SessionId>) -> Self {
        let mut tables: Vec<_> = match &*operation.facts {
            Facts::Sql(facts) => {
                facts.tables_read.iter().chain(&facts.tables_written).map(ToString::to_string).collect()
            }
            Facts::Http(_) => Vec::new(),
        };
        tables.sort();
        tables.dedup();
        Self {
            operation: Some(operation.id),
            session,
            class: operation.facts.class().to_owned(),
            tables,
            digest: operation.digest.to_string(),
        }
    }
}

/// The kind of a line's record, read without the rest of it.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    seq: u64,
}

/// The number of a line's record, and its kind when records of the kind are searched. Most are not: what was forwarded and
/// answered says nothing that its decision does not.
pub(super) fn peek(line: &[u8]) -> Result<(u64, Option<String>), serde_json::Error> {
    let Kind { event, seq } = serde_json::from_slice(line)?;
    let searched =
        !matches!(&*event, "forwarded" | "responded" | "result_rows" | "masked_columns" | "coverage");
    Ok((seq, searched.then(|| event.into_owned())))
}

impl Entry {
    /// What of a record is searched. Contexts come from `known`, which learns what this record tells.
    pub(super) fn of(record: &Record, kind: String, at: At, known: &mut Known<'_>) -> Self {
        let hit = Hit {
            seq: record.seq,
            at: record.event.at,
            event: kind,
            session: record.event.session,
            ..Hit::default()
        };
        let mut making = Making { hit, more: String::new() };
        making.fill(&record.event.kind, known);
        if let Some(session) = making.hit.session
            && making.hit.identity.is_none()
            && let Some(of) = known.session(session)
        {
            making.session(&of);
        }
        Self { hit: making.hit, more: making.more, at }
    }

    /// What is shown of it.
    pub(super) fn into_hit(self) -> Hit {
        let mut hit = self.hit;
        if let Some((end, _)) = hit.text.char_indices().nth(SHOWN_CHARS) {
            hit.text.truncate(end);
        }
        hit
    }

    /// Bytes that it takes in memory, roughly.
    pub(super) fn weight(&self) -> usize {
        1024 + self.hit.text.len() + self.more.len()
    }
}

struct Making {
    hit: Hit,
    more: String,
}

impl Making {
    /// Spells every kind: a new one is either searched or left out on purpose.
    fn fill(&mut self, kind: &EventKind, known: &mut Known<'_>) {
        match kind {
            EventKind::SessionStarted(session) => {
                let of = Arc::new(OfSession::of(session));
                self.hit.session = Some(session.id);
                self.session(&of);
                known.learn_session(session.id, of);
                self.session_words(session);
            }
            EventKind::OperationDecided { operation, verdict, denial } => {
                let of = Arc::new(OfOperation::of(operation, self.hit.session));
                self.operation(&of);
                known.learn_operation(operation.id, of);
                self.hit.decision = Some(decided(verdict, denial.as_ref()));
                self.verdict(verdict);
                self.text(&operation.text);
                operation
                    .parameters
                    .iter()
                    .filter_map(|value| value.value.as_deref())
                    .for_each(|v| self.word(v));
                self.word(&operation.id.to_string());
                self.denial(denial.as_ref());
            }
            EventKind::OperationPart { operation, parameter: _, offset: _, data } => {
                self.of_operation(*operation, known);
                self.text(data);
            }
            EventKind::ApprovalRequested { request, operation, command_digest, .. } => {
                self.request(*request);
                self.of_operation(*operation, known);
                if let Some(of) = known.operation(*operation) {
                    known.learn_request(*request, of);
                }
                self.hit.digest = Some(command_digest.to_string());
                self.text("approval requested");
            }
            EventKind::ApprovalLeft { request, reason } => {
                self.of_request(*request, known);
                self.text(&format!("the client is gone: {reason:?}"));
            }
            EventKind::ApprovalsBundled { bundle, digest, requests } => {
                if let Some(first) = requests.first() {
                    self.of_request(*first, known);
                }
                requests.iter().for_each(|request| self.word(&request.to_string()));
                self.hit.digest = Some(digest.to_string());
                self.text(&format!("{} requests in one bundle {bundle}", requests.len()));
            }
            EventKind::Shelved { name, .. } => self.text(&format!("kept over a restart: {name}")),
            EventKind::VoteCast { request, vote } => {
                self.of_request(*request, known);
                self.vote(vote);
                self.text(&format!("{:?}", vote.decision).to_lowercase());
                self.text(vote.reason.as_deref().unwrap_or_default());
            }
            EventKind::DecisionRefused { request, channel, by, code, detail } => {
                if let Some(request) = request {
                    self.of_request(*request, known);
                }
                self.word(by.as_deref().unwrap_or_default());
                self.text(&format!("{channel}: {code}: {detail}"));
            }
            EventKind::ApprovalResolved { request, resolution } => {
                self.of_request(*request, known);
                self.resolution(resolution);
            }
            EventKind::Refused { operation, decision, denial } => {
                self.of_operation(*operation, known);
                self.hit.decision = Some(Decided::Denied);
                self.word(&decision.to_string());
                self.denial(Some(denial));
            }
            EventKind::ResultCut { operation, decision, denial, .. } => {
                self.of_operation(*operation, known);
                self.hit.decision = Some(Decided::Denied);
                self.word(&decision.to_string());
                self.denial(Some(denial));
            }
            EventKind::GrantMade(grant) => self.grant(grant, known),
            EventKind::GrantEnded { grant, used, end } => {
                self.word(&grant.to_string());
                self.text(&format!("grant {}, used {used} times", end.as_str()));
                if let GrantEnd::Revoked { by, reason } = end {
                    self.approver(by);
                    self.text(reason.as_deref().unwrap_or_default());
                }
            }
            EventKind::GlassBroken(glass) => {
                self.word(&glass.id.to_string());
                self.approver(&glass.by);
                self.hit.rules.push(glass.rule.to_string());
                self.hit.target = glass.target.as_ref().map(ToString::to_string);
                self.hit.identity = glass.principal.clone();
                self.text("emergency override");
                self.text(glass.reason.as_deref().unwrap_or_default());
                self.text(glass.ticket.as_deref().unwrap_or_default());
            }
            EventKind::GlassEnded { glass, by } => {
                self.word(&glass.to_string());
                by.iter().for_each(|by| self.approver(by));
                self.text("emergency override ended");
            }
            EventKind::GlassReviewed { glass, review } => {
                self.word(&glass.to_string());
                self.approver(&review.by);
                self.text("emergency override reviewed");
                self.text(review.note.as_deref().unwrap_or_default());
            }
            EventKind::Alerted { about, channel, error, .. } => {
                self.text(&format!("{about} {channel} {}", error.as_deref().unwrap_or("delivered")));
            }
            EventKind::Notified { request, channel, error, .. } => {
                self.of_request(*request, known);
                self.text(&format!("{channel} {}", error.as_deref().unwrap_or("delivered")));
            }
            EventKind::SessionEnded(closing) => {
                self.text(closing.reason.as_str());
                self.text(closing.detail.as_deref().unwrap_or_default());
            }
            EventKind::FlowRefused { detail, closing, target, .. } => {
                self.hit.target = target.as_ref().map(ToString::to_string);
                self.text(closing.reason.as_str());
                self.text(detail);
            }
            EventKind::Observed(seen) => {
                self.hit.identity = Some(seen.principal.id.clone());
                self.hit.display = Some(seen.principal.display.clone());
                self.hit.target = seen.target.as_ref().map(ToString::to_string);
                self.text(&format!("{} {}", seen.destination, seen.name.as_deref().unwrap_or_default()));
            }
            EventKind::TokenIssued { token, caller, target, by, .. } => {
                self.hit.target = Some(target.to_string());
                self.text(&format!("token {token} for {caller} asked by {by}"));
            }
            EventKind::Access(access) => {
                self.hit.identity = access.by.clone();
                let (subject, code) = (access.subject.as_deref(), access.code.as_deref());
                let (subject, code) = (subject.unwrap_or_default(), code.unwrap_or_default());
                self.text(&format!(
                    "{} {} {subject} {code} {}",
                    access.action.as_str(),
                    access.via,
                    access.detail
                ));
            }
            EventKind::Administered(done) => {
                self.hit.approvers.push(done.by.clone());
                let why = done.reason.as_deref().unwrap_or_default();
                self.text(&format!("{} {} by {} {why}", done.action.as_str(), done.subject, done.name));
            }
            EventKind::AgentStarted { node, version, .. } => {
                self.text(&format!("agent {version} started on {node}"))
            }
            EventKind::AgentStopped { node } => self.text(&format!("agent stopped on {node}")),
            EventKind::PolicyLoaded { version, files, warnings } => {
                self.text(&format!("policy {version} {} {}", files.join(" "), warnings.join(" ")));
            }
            EventKind::PolicyRejected { errors, .. } => {
                self.text(&format!("policy rejected {}", errors.join(" ")))
            }
            EventKind::Custody(custody) => {
                if let Custody::RecordingStored(stored) = &**custody {
                    self.hit.session = Some(stored.session);
                }
                self.text(&custody.sentence());
            }
            EventKind::Gap { stage, detail, .. } => self.text(&format!("{stage}: {detail}")),
            EventKind::Forwarded { .. }
            | EventKind::Responded { .. }
            | EventKind::ResultRows { .. }
            | EventKind::MaskedColumns { .. }
            | EventKind::Coverage(_) => {}
        }
    }

    fn session(&mut self, of: &OfSession) {
        self.hit.identity = Some(of.identity.clone());
        self.hit.display = Some(of.display.clone());
        self.hit.repository = of.repository.clone();
        self.hit.target = Some(of.target.clone());
    }

    fn session_words(&mut self, session: &Session) {
        self.text(&format!("{} as {}", session.client.database, session.upstream_user));
        for word in [&session.client.application_name, &session.workload.process.exe].into_iter().flatten() {
            self.text(word);
        }
        let Some(ci) = &session.workload.ci else { return };
        for word in [&ci.repository, &ci.workflow, &ci.job, &ci.run_id, &ci.git_ref, &ci.commit, &ci.actor] {
            self.word(word.as_deref().unwrap_or_default());
        }
    }

    fn operation(&mut self, of: &OfOperation) {
        self.hit.operation = of.operation;
        self.hit.session = self.hit.session.or(of.session);
        self.hit.class = Some(of.class.clone());
        self.hit.tables.clone_from(&of.tables);
        self.hit.digest = Some(of.digest.clone());
    }

    fn of_operation(&mut self, id: OperationId, known: &mut Known<'_>) {
        self.hit.operation = Some(id);
        if let Some(of) = known.operation(id) {
            self.operation(&of);
        }
    }

    fn request(&mut self, id: RequestId) {
        self.hit.request = Some(id);
    }

    fn of_request(&mut self, id: RequestId, known: &mut Known<'_>) {
        self.request(id);
        if let Some(of) = known.request(id) {
            self.operation(&of);
        }
    }

    fn verdict(&mut self, verdict: &Verdict) {
        self.hit.rules.extend(verdict.rules.iter().map(|hit| hit.rule.to_string()));
        self.word(&verdict.decision.to_string());
    }

    fn denial(&mut self, denial: Option<&Denial>) {
        let Some(denial) = denial else { return };
        if let Some(rule) = &denial.rule
            && self.hit.rules.iter().all(|known| *known != rule.as_str())
        {
            self.hit.rules.push(rule.to_string());
        }
        if self.hit.text.is_empty() {
            self.text(&denial.reason);
        } else {
            self.word(&denial.reason);
        }
        self.word(denial.cause.as_str());
    }

    fn resolution(&mut self, resolution: &Resolution) {
        self.text(resolution.as_str());
        self.hit.decision = Some(match resolution {
            Resolution::Approved { votes, .. } => {
                votes.iter().for_each(|vote| self.reasoned(vote));
                Decided::Approved
            }
            Resolution::Denied { vote } => {
                self.reasoned(vote);
                Decided::Rejected
            }
            Resolution::Expired => Decided::Expired,
            Resolution::Withdrawn { .. } => Decided::Cancelled,
        });
    }

    fn reasoned(&mut self, vote: &Vote) {
        self.vote(vote);
        self.text(vote.reason.as_deref().unwrap_or_default());
    }

    fn vote(&mut self, vote: &Vote) {
        self.approver(&vote.by);
    }

    fn approver(&mut self, by: &Approver) {
        for name in std::iter::once(&by.id).chain(&by.also) {
            if !self.hit.approvers.contains(name) {
                self.hit.approvers.push(name.clone());
            }
        }
    }

    fn grant(&mut self, grant: &Grant, known: &mut Known<'_>) {
        self.of_request(grant.from, known);
        self.word(&grant.id.to_string());
        self.hit.identity = Some(grant.principal.clone());
        self.hit.target = Some(grant.target.to_string());
        self.hit.rules.extend(grant.rules.iter().map(ToString::to_string));
        grant.votes.iter().for_each(|vote| self.vote(vote));
        self.text(&grant.shape);
    }

    /// Adds to what is shown.
    fn text(&mut self, text: &str) {
        add(&mut self.hit.text, text);
    }

    /// Adds to what is found and not shown.
    fn word(&mut self, text: &str) {
        add(&mut self.more, text);
    }
}

fn add(to: &mut String, text: &str) {
    let mut room = MAX_TEXT_BYTES.saturating_sub(to.len());
    if text.is_empty() || room < 2 {
        return;
    }
    if !to.is_empty() {
        to.push(' ');
        room -= 1;
    }
    let mut end = room.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    to.push_str(text.get(..end).unwrap_or_default());
}

fn decided(verdict: &Verdict, denial: Option<&Denial>) -> Decided {
    if denial.is_some() {
        return Decided::Denied;
    }
    match &verdict.effect {
        Effect::Allow => Decided::Allowed,
        Effect::Deny(_) => Decided::Denied,
        Effect::Hold(_) => Decided::Held,
    }
}
