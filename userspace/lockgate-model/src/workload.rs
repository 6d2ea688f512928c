//! Who a flow comes from, and how sure that is.

use crate::flow::ProcessFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How an identity was established; ordered from weakest to strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assurance {
    /// Text that the job could have written.
    Claimed,
    /// uid, unit, cgroup, executable: what the kernel says.
    Kernel,
    /// A Kubernetes or CI object says so.
    Platform,
    /// Issuer-signed or provider-confirmed, and bound to this pod or runner.
    Attested,
}

impl Assurance {
    /// The name used in policy and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Kernel => "kernel",
            Self::Platform => "platform",
            Self::Attested => "attested",
        }
    }
}

/// What kind of actor an identity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// A human at a keyboard.
    Person,
    /// A service account or daemon.
    ServiceAccount,
    /// A job of a CI system.
    CiJob,
    /// An autonomous agent.
    Agent,
    /// Not known.
    Unknown,
}

impl IdentityKind {
    /// The name used in policy and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::ServiceAccount => "service_account",
            Self::CiJob => "ci_job",
            Self::Agent => "agent",
            Self::Unknown => "unknown",
        }
    }
}

/// The identity behind a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Kind of actor.
    pub kind: IdentityKind,
    /// Assurance of the kernel-level facts below (`ci` has its own).
    pub assurance: Assurance,
    /// How `assurance` was established, in words for an approver.
    pub established_by: String,
    /// The process.
    pub process: Process,
    /// cgroup-v2 path, relative to the mount, when it could be resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// The Kubernetes pod, with an assurance of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// CI job facts, with an assurance of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<CiJob>,
    /// Change tickets that its surroundings name, bounded. Shown to approvers; nothing is decided by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tickets: Vec<Ticket>,
}

impl Workload {
    /// A workload of which only the kernel's word at `connect()` is known.
    pub fn noted(facts: &ProcessFacts, established_by: &str) -> Self {
        Self {
            kind: IdentityKind::Unknown,
            assurance: Assurance::Kernel,
            established_by: established_by.to_owned(),
            process: Process::noted(facts),
            cgroup: None,
            unit: None,
            container: None,
            pod: None,
            ci: None,
            tickets: Vec::new(),
        }
    }
}

impl Process {
    /// A process of which only the kernel's word at `connect()` is known.
    pub fn noted(facts: &ProcessFacts) -> Self {
        Self {
            pid: facts.tgid,
            start_boottime_ns: facts.start_boottime_ns,
            uid: facts.uid,
            gid: facts.gid,
            user: None,
            exe: None,
            exe_sha256: None,
            argv: Vec::new(),
            cwd: None,
            ancestry: Vec::new(),
            exited: false,
        }
    }
}

/// The connecting process. Fields are empty when it had exited before it could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Thread group id.
    pub pid: u32,
    /// Start time, nanoseconds on CLOCK_BOOTTIME.
    #[serde(with = "crate::wide")]
    pub start_boottime_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// User name, when the host knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Executable path as the process's own mount namespace shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// SHA-256 of the executable, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<String>,
    /// Arguments, bounded; written by the process, so `claimed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Parents, nearest first, bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestry: Vec<Ancestor>,
    /// True when the process had exited (or its pid was reused) before it could be read.
    #[serde(default)]
    pub exited: bool,
}

/// One parent process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// A systemd unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `actions.runner.acme.service`
    pub name: String,
    /// systemd's InvocationID, when it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// True for a unit of a user manager (`--user`), which the user can make.
    #[serde(default)]
    pub user_unit: bool,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// `docker`, `containerd`, `podman`, `cri-o`, or `unknown`.
    pub runtime: String,
    /// Kubernetes pod UID from the cgroup path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// True when the cgroup lies where the workload itself may make cgroups (below a unit that is no
    /// runtime, or a user manager): then this is a name, not an identity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
}

/// A Kubernetes pod. The uid is the kernel's word; everything else is the API server's, or absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its UID, from the cgroup path.
    pub uid: String,
    /// `guaranteed`, `burstable` or `best_effort`, from the cgroup path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
    /// Kernel while only the cgroup names it; platform when the API does; attested with a bound token.
    pub assurance: PodAssurance,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The service account it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// The controller that owns it: `ReplicaSet/api-6f7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The node the API server placed it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The image the container was started from, by digest where the runtime reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its labels, bounded. Whoever may patch the pod may write them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Why it is not surer than it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

impl Pod {
    /// Whether the API server has said which pod this is.
    pub fn is_named(&self) -> bool {
        self.assurance.0 >= Assurance::Platform
    }
}

/// Assurance of a pod; a newtype so that its default is what a cgroup alone gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodAssurance(pub Assurance);

impl Default for PodAssurance {
    fn default() -> Self {
        Self(Assurance::Kernel)
    }
}

/// Facts of a CI job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CiJob {
    /// `github_actions`, `gitlab`, `buildkite`, `circleci`, `jenkins`.
    pub provider: String,
    /// How sure these facts are; from the environment alone: claimed.
    pub assurance: CiAssurance,
    /// `acme/billing`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// `deploy.yml`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// Job name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Run id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Attempt of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_attempt: Option<String>,
    /// Where a person can look at the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_url: Option<String>,
    /// Full ref (`refs/heads/main`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<String>,
    /// Whether the provider protects that ref.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_protected: Option<bool>,
    /// Commit id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Who wrote that commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_author: Option<String>,
    /// What that commit says it does, bounded, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_message: Option<String>,
    /// The branch that a pull or merge request wants to merge, or that was pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_branch: Option<String>,
    /// The title of the pull or merge request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_request: Option<String>,
    /// `push`, `pull_request`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_name: Option<String>,
    /// Who owns the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Who triggered this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triggering_actor: Option<String>,
    /// The provider's id of the job, unique for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Name of the runner the provider gave the job to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
    /// How the facts were established, in words for an approver; absent for mere claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub established_by: Option<String>,
    /// Why the facts are not confirmed, when something was there to confirm them with: a token that was
    /// refused, a provider that did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

impl CiJob {
    /// Whether a provider or an issuer vouches for these facts.
    pub fn is_confirmed(&self) -> bool {
        self.assurance.0 >= Assurance::Platform
    }
}

/// Assurance of CI facts; a newtype so that its default is the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CiAssurance(pub Assurance);

impl Default for CiAssurance {
    fn default() -> Self {
        Self(Assurance::Claimed)
    }
}

/// A change ticket that something around a workload names: a label for people, never a reason to allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// `OPS-42`
    pub id: String,
    /// Where a person can look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What names it.
    pub source: TicketSource,
    /// How sure it is that this source says so; whether the ticket is about this change, nobody vouches for.
    pub assurance: Assurance,
}

/// Where a ticket was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketSource {
    /// The ref or source branch of the job.
    Branch,
    /// The message of its commit.
    CommitMessage,
    /// The title of its pull or merge request.
    MergeRequest,
    /// An annotation of its pod.
    Annotation,
}

impl TicketSource {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Branch, Self::CommitMessage, Self::MergeRequest, Self::Annotation];

    /// In words for an approver: "in the branch".
    pub fn words(self) -> &'static str {
        match self {
            Self::Branch => "in the branch",
            Self::CommitMessage => "in the commit message",
            Self::MergeRequest => "in the merge request's title",
            Self::Annotation => "in the pod's annotation",
        }
    }
}

impl Ticket {
    /// How sure it is, in words for an approver.
    pub fn vouched(&self) -> &'static str {
        match self.assurance {
            Assurance::Claimed => "claimed, not confirmed",
            Assurance::Kernel => "as the kernel says",
            Assurance::Platform => "as the platform says",
            Assurance::Attested => "as its issuer or provider confirms",
        }
    }
}
