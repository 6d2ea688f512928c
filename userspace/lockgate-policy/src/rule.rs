//! One compiled rule, and whether it matches.

use crate::{
    document::{RuleEffect, RuleMode},
    matcher::{Condition, HttpTest, OperationTest, SessionTest, Trust},
    when::{When, paths::Asked},
    yaml::Position,
};
use jiff::tz::TimeZone;
use lockgate_model::{
    Timestamp,
    id::RuleId,
    operation::{Facts, Operation},
    session::Session,
    verdict::{MaskSpec, Requirement, ResultLimit},
    workload::Assurance,
};
use std::{collections::BTreeSet, time::Duration};

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) effect: RuleEffect,
    pub(crate) mode: RuleMode,
    pub(crate) is_final: bool,
    pub(crate) description: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) remedy_url: Option<String>,
    pub(crate) trust: Trust,
    pub(crate) session_tests: Vec<Condition<SessionTest>>,
    pub(crate) operation_tests: Vec<Condition<OperationTest>>,
    /// It has a `sql:` block.
    pub(crate) has_sql: bool,
    /// It has an `http:` block.
    pub(crate) has_http: bool,
    /// That block says `opaque: true`.
    pub(crate) names_opaque: bool,
    /// Its `kinds:` name replication.
    pub(crate) names_replication: bool,
    pub(crate) when: Option<When>,
    pub(crate) requirement: Option<Hold>,
    pub(crate) mask: Option<MaskSpec>,
    /// Whose sessions that mask is not for.
    pub(crate) unmask: Option<Unmask>,
    pub(crate) record: Option<RecordRule>,
    pub(crate) limits: Vec<ResultLimit>,
    /// Whom sessions that it fits log in as.
    pub(crate) login_as: Option<String>,
    pub(crate) zone: TimeZone,
    /// File and place of its id.
    pub(crate) place: (String, Position),
    /// Its `match:` as written, for comparing rules.
    pub(crate) written: serde_json::Value,
}

/// Whose sessions see what a rule masks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unmask {
    /// Principals, spelled out.
    pub(crate) members: BTreeSet<String>,
    /// How sure they must be.
    pub(crate) least: Assurance,
}

impl Rule {
    /// Whether its mask is not for this session: who asks is a member, and somebody else than the job says who asks.
    pub(crate) fn unmasks(&self, session: &Session) -> bool {
        self.mask.is_some()
            && self.unmask.as_ref().is_some_and(|unmask| {
                let principal = &session.principal;
                principal.assurance > Assurance::Claimed
                    && principal.assurance >= unmask.least
                    && unmask.members.contains(&principal.id)
            })
    }
}

/// What a `require_approval` rule asks.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) requirement: Requirement,
    pub(crate) timeout: Duration,
    pub(crate) max_wait_in_transaction: Option<Duration>,
}

/// What a `record:` block asks; what it does not name is not asked.
#[derive(Clone, Debug)]
pub(crate) struct RecordRule {
    pub(crate) statements: Option<lockgate_model::verdict::RecordStatements>,
    pub(crate) results: Option<lockgate_model::verdict::RecordResults>,
    pub(crate) sync: bool,
    pub(crate) retain: Option<Duration>,
}

/// Whether a rule matches one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuleMatch {
    No,
    Yes,
    /// Its `when` failed at run time.
    Failed(String),
}

impl Rule {
    /// Whether what is constant for a session matches.
    pub(crate) fn fits_session(&self, session: &Session) -> bool {
        self.session_tests.iter().all(|condition| condition.test.holds(session, self.trust))
    }

    /// Whether the rest matches, for a session it fits.
    pub(crate) fn matches(&self, session: &Session, operation: &Operation, now: Timestamp) -> RuleMatch {
        if !self.is_about(&operation.facts)
            || !self.admits_opaqueness(operation.facts.is_opaque())
            || !self.operation_tests.iter().all(|condition| condition.test.holds(operation))
        {
            return RuleMatch::No;
        }
        let Some(when) = &self.when else { return RuleMatch::Yes };
        match when.holds(&self.asked(session, operation, now)) {
            Ok(true) => RuleMatch::Yes,
            Ok(false) => RuleMatch::No,
            Err(error) => RuleMatch::Failed(error),
        }
    }

    /// Whether its blocks are of the operation's protocol.
    pub(crate) fn is_about(&self, facts: &Facts) -> bool {
        match facts {
            Facts::Sql(_) => !self.has_http,
            Facts::Http(_) => !self.has_sql,
        }
    }

    /// Whether the rest of it matches but for what it asks of a request's body, which has not been read.
    pub(crate) fn asks_body(&self, operation: &Operation) -> bool {
        let json = |condition: &Condition<OperationTest>| {
            matches!(condition.test, OperationTest::Http(HttpTest::Json(..)))
        };
        self.is_about(&operation.facts)
            && self.operation_tests.iter().any(json)
            && self.operation_tests.iter().all(|condition| json(condition) || condition.test.holds(operation))
    }

    /// Whether nothing but an operation's facts decides whether it matches, for one session.
    pub(crate) fn judges_facts_alone(&self) -> bool {
        self.when.is_none() && self.operation_tests.iter().all(|condition| condition.test.asks_facts_alone())
    }

    /// What was not understood is the business of rules that name it, and of rules that restrict whatever the
    /// statement is.
    pub(crate) fn admits_opaqueness(&self, opaque: bool) -> bool {
        !opaque || self.names_opaque || (!self.has_sql && !self.has_http && self.effect != RuleEffect::Allow)
    }

    pub(crate) fn asked<'a>(
        &'a self,
        session: &'a Session,
        operation: &'a Operation,
        now: Timestamp,
    ) -> Asked<'a> {
        Asked {
            session,
            operation,
            now,
            zone: &self.zone,
            ci_trust: self.trust.ci,
            kernel_trust: self.trust.kernel,
        }
    }
}
