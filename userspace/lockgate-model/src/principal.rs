//! Who asks, in one line: the workload as policy and people name it; and the people who decide.

use crate::{
    id::GroupName,
    workload::{Assurance, IdentityKind, Workload},
};
use serde::{Deserialize, Serialize};

/// The requester of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Kind of actor.
    pub kind: IdentityKind,
    /// Namespaced and stable: `github_actions:acme/billing`, `unit:actions.runner.service`, `uid:1001`.
    pub id: String,
    /// For people: `acme/billing › deploy.yml`, `backup (uid 1001)`.
    pub display: String,
    /// How sure `id` is.
    pub assurance: Assurance,
}

impl Principal {
    /// The strongest name the workload supports. CI facts name the principal only when they are
    /// more than claims; otherwise the kernel's facts do and the claim is only displayed.
    pub fn of(workload: &Workload) -> Self {
        let process = &workload.process;
        let (id, name) = match (&workload.unit, &workload.container) {
            (_, Some(container)) => (
                format!("container:{}", container.id),
                format!("container {}", container.id.get(..12).unwrap_or(&container.id)),
            ),
            (Some(unit), None) if !unit.user_unit => (format!("unit:{}", unit.name), unit.name.clone()),
            _ => (
                format!("uid:{}", process.uid),
                match &process.user {
                    Some(user) => format!("{user} (uid {})", process.uid),
                    None => format!("uid {}", process.uid),
                },
            ),
        };
        let Some(ci) = &workload.ci else {
            return Self { kind: workload.kind, id, display: name, assurance: workload.assurance };
        };
        let place = [ci.repository.as_deref(), ci.workflow.as_deref()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" › ");
        if ci.assurance.0 > Assurance::Claimed
            && let Some(repository) = &ci.repository
        {
            return Self {
                kind: IdentityKind::CiJob,
                id: format!("{}:{repository}", ci.provider),
                display: place,
                assurance: ci.assurance.0,
            };
        }
        let display = if place.is_empty() { name } else { format!("{name}, claims {place}") };
        Self { kind: workload.kind, id, display, assurance: workload.assurance }
    }
}

/// Somebody who decides on requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approver {
    /// Namespaced by where it comes from: `local:1000`, `webhook:approvals:ana@example.com`.
    pub id: String,
    /// The policy groups this vote may count for, already cut to what the channel may speak for.
    pub groups: Vec<GroupName>,
    /// How the vote came in: `cli`, `webhook:approvals`.
    pub via: String,
}
