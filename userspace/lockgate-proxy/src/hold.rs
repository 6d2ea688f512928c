//! What a waiting client is told, when, and what a hold's end means. The same words in every protocol.
//!
//! The machine that counts votes is lockgate-policy's, behind the [`Approvals`](lockgate_model::port::Approvals) port;
//! the loop that waits belongs to each protocol, because only it knows how to keep its client waiting.

use crate::limits::NOTICE_SCHEDULE;
use lockgate_model::{
    Timestamp,
    approval::{Progress, Resolution, Vote, WithdrawReason},
    grant::Basis,
    id::RuleId,
    operation::{Facts, Operation},
    session::Session,
    verdict::{Denial, DenialCause},
};
use std::time::Duration;

/// When the client is told again: at once, then at growing intervals.
#[derive(Debug, Default)]
pub(crate) struct NoticeSchedule {
    told: usize,
}

impl NoticeSchedule {
    /// How long to stay silent after the notice that was just sent.
    pub(crate) fn next(&mut self) -> Duration {
        let index = self.told.min(NOTICE_SCHEDULE.len() - 1);
        self.told += 1;
        NOTICE_SCHEDULE.get(index).copied().unwrap_or(Duration::from_secs(60))
    }
}

/// `ALTER TABLE on orders`, made from the parsed operation, never from the client's text.
pub(crate) fn title(operation: &Operation) -> String {
    match operation.facts.as_ref() {
        Facts::Sql(facts) => {
            let verb = facts.kind.replace('_', " ").to_uppercase();
            let tables =
                if facts.tables_written.is_empty() { &facts.tables_read } else { &facts.tables_written };
            match tables.as_slice() {
                [] => verb,
                [one] => format!("{verb} on {one}"),
                [one, two] => format!("{verb} on {one}, {two}"),
                [one, two, rest @ ..] => format!("{verb} on {one}, {two} and {} more", rest.len()),
            }
        }
        Facts::Http(facts) => format!("{} {}{}", facts.method, facts.host, facts.route),
    }
}

/// `orders-db (production)`: the target, with its `env` tag when it has one.
pub(crate) fn place(session: &Session) -> String {
    match session.target.tags.get("env") {
        Some(env) => format!("{} ({env})", session.target.name),
        None => session.target.name.to_string(),
    }
}

/// One line for a client that waits.
pub(crate) fn waiting(session: &Session, operation: &Operation, progress: &Progress) -> String {
    let needs: Vec<String> = progress
        .requirements
        .iter()
        .map(|r| {
            let groups: Vec<&str> = r.any_of.iter().map(|group| group.as_str()).collect();
            format!("{} of {} from {}, rule {}", r.have, r.need, groups.join(" or "), r.rule)
        })
        .collect();
    format!(
        "lockgate: waiting for approval of {} at {}: {}, until {}, {}; press Ctrl-C to give up",
        title(operation),
        place(session),
        needs.join("; "),
        clock(progress.expires_at),
        progress.url,
    )
}

/// One line for a client whose statement goes on.
pub(crate) fn approved(operation: &Operation, votes: &[Vote], basis: Option<&Basis>) -> String {
    let who: Vec<String> = votes
        .iter()
        .map(|vote| match &vote.reason {
            Some(reason) => format!("{} ({reason})", vote.by.id),
            None => vote.by.id.clone(),
        })
        .collect();
    let basis = match basis {
        None => String::new(),
        Some(Basis::Reuse { of }) => format!("; their approval {of} is used again"),
        Some(Basis::TakenUp { of }) => format!("; they decided on {of} while its client was gone"),
        Some(Basis::Grant { grant, left: None }) => format!("; under their grant {grant}"),
        Some(Basis::Grant { grant, left: Some(left) }) => {
            format!("; under their grant {grant}, {left} uses left")
        }
    };
    format!("lockgate: {} approved by {}{basis}", title(operation), who.join(", "))
}

/// What a hold that did not end well means for the client; None when it was approved.
pub(crate) fn refusal(resolution: &Resolution, rule: Option<RuleId>) -> Option<Denial> {
    let (cause, reason, remedy) = match resolution {
        Resolution::Approved { .. } => return None,
        Resolution::Denied { vote } => {
            let reason = match &vote.reason {
                Some(reason) => format!("{} denied it: {reason}", vote.by.id),
                None => format!("{} denied it and gave no reason", vote.by.id),
            };
            (DenialCause::ApprovalDenied, reason, "ask the approver, change the statement, and run it again")
        }
        Resolution::Expired => (
            DenialCause::ApprovalTimeout,
            "nobody decided in time".to_owned(),
            "tell the approvers that you need them, then run it again",
        ),
        Resolution::Withdrawn { reason } => {
            (DenialCause::Withdrawn, withdrawn(*reason).to_owned(), "run it again to ask again")
        }
    };
    Some(Denial { rule, cause, reason, remedy: Some(remedy.to_owned()) })
}

fn withdrawn(reason: WithdrawReason) -> &'static str {
    match reason {
        WithdrawReason::Cancelled => "the request for approval was cancelled by the client",
        WithdrawReason::Disconnected => "the client went away while the request for approval was open",
        WithdrawReason::UpstreamLost => {
            "the target closed the connection while the request for approval was open"
        }
        WithdrawReason::Drained => "lockgate stops; the request waits on, run it again to take it up",
        WithdrawReason::TakenUp => "another request for the same statement took this one up",
        WithdrawReason::Crash => "lockgate was stopped while the request for approval was open",
    }
}

/// `12:34:56Z`
fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_come_at_growing_intervals_without_end() {
        let mut schedule = NoticeSchedule::default();
        let seconds: Vec<u64> = (0..6).map(|_| schedule.next().as_secs()).collect();
        assert_eq!(seconds, [10, 30, 60, 120, 120, 120]);
    }
}
