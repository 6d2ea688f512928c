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
    /// Namespaced and stable: `github_actions:acme/billing`, `kubernetes:prod/billing` (namespace and service
    /// account), `unit:actions.runner.service`, `uid:1001`.
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
        let (id, name, assurance) = place(workload);
        let Some(ci) = &workload.ci else {
            return Self { kind: workload.kind, id, display: name, assurance };
        };
        let job = [ci.repository.as_deref(), ci.workflow.as_deref()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" › ");
        if ci.assurance.0 > Assurance::Claimed
            && let Some(repository) = &ci.repository
        {
            return Self {
                kind: workload.kind,
                id: format!("{}:{repository}", ci.provider),
                display: job,
                assurance: ci.assurance.0,
            };
        }
        let display = if job.is_empty() { name } else { format!("{name}, claims {job}") };
        Self { kind: workload.kind, id, display, assurance }
    }
}

/// Id, name and assurance by where the process runs: the pod as the API server knows it, else what the
/// kernel knows. What the workload could have named itself identifies nobody.
fn place(workload: &Workload) -> (String, String, Assurance) {
    if let Some(pod) = &workload.pod {
        let names = pod.namespace.as_deref().zip(pod.service_account.as_deref());
        if let (true, Some((namespace, account))) = (pod.is_named(), names) {
            let name = pod.name.as_deref().unwrap_or(&pod.uid);
            let display = format!("{namespace}/{name} (service account {account})");
            return (format!("kubernetes:{namespace}/{account}"), display, pod.assurance.0);
        }
        let display = format!("pod {} (not confirmed by the API server)", pod.uid);
        return (format!("pod:{}", pod.uid), display, workload.assurance);
    }
    let process = &workload.process;
    let (id, name) = match (&workload.unit, &workload.container) {
        (_, Some(container)) if !container.claimed => (
            format!("container:{}", container.id),
            format!("container {}", container.id.get(..12).unwrap_or(&container.id)),
        ),
        (Some(unit), _) if !unit.user_unit => (format!("unit:{}", unit.name), unit.name.clone()),
        _ => (
            format!("uid:{}", process.uid),
            match &process.user {
                Some(user) => format!("{user} (uid {})", process.uid),
                None => format!("uid {}", process.uid),
            },
        ),
    };
    (id, name, workload.assurance)
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
    /// The person behind `id`, where configuration knows one: their name, then every other id they have. Whoever counts
    /// people counts the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
}

impl Approver {
    /// The person's name where it is known, else the id the vote came with.
    pub fn name(&self) -> &str {
        self.also.first().map_or(&self.id, String::as_str)
    }
}
