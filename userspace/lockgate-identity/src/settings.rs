//! What configuration says, read and checked by whoever reads configuration.

use lockgate_model::{Secret, workload::IdentityKind};
use std::{path::PathBuf, time::Duration};

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct IdentitySettings {
    /// The longest that a connection waits for confirmation.
    pub wait: Duration,
    /// How far apart clocks may be.
    pub skew: Duration,
    /// The cluster this node is in.
    pub kubernetes: Option<Kubernetes>,
    /// Whose signatures count.
    pub issuers: Vec<Issuer>,
    /// Whose word counts.
    pub providers: Vec<Provider>,
    /// What kind of actor a workload is, first match first.
    pub kinds: Vec<KindRule>,
    /// What change tickets look like.
    pub tickets: Vec<TicketRule>,
}

/// One entry of `identity.tickets`.
#[derive(Clone, Debug, Default)]
pub struct TicketRule {
    /// A regular expression; its first group is the ticket, or all of it when it has none.
    pub pattern: String,
    /// Where a person can look at it; `{ticket}` stands for its id.
    pub url: Option<String>,
    /// Where to look; empty: everywhere.
    pub from: Vec<lockgate_model::workload::TicketSource>,
    /// The pods' annotation that may name one.
    pub annotation: Option<String>,
}

/// `identity.kubernetes`
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// The API server.
    pub server: String,
    /// Its CA; the public roots when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// Holds the token to ask with; read again each time, since the kubelet renews it.
    pub token: Option<PathBuf>,
    /// The node's name in the cluster.
    pub node: String,
    /// How long a connection waits for its pod to be listed.
    pub wait: Duration,
    /// Whether and how pods' own tokens are taken as proof.
    pub bound_tokens: Option<BoundTokenSettings>,
}

/// How pods' own tokens are checked, against the keys of that API server.
#[derive(Clone, Debug)]
pub struct BoundTokenSettings {
    /// The API server's `--service-account-issuer`.
    pub issuer: String,
    /// What the token is for: the API server itself, unless it is projected for lockgate.
    pub audience: String,
}

/// A CI system whose shapes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CiProvider {
    /// GitHub Actions, also of a GitHub Enterprise Server.
    GithubActions,
    /// GitLab CI.
    Gitlab,
}

impl CiProvider {
    /// As in policies and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GithubActions => "github_actions",
            Self::Gitlab => "gitlab",
        }
    }
}

/// One entry of `identity.issuers`.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Whose claims these are.
    pub provider: CiProvider,
    /// `iss`, and where its keys are looked up.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// Where its keys are, when discovery does not say.
    pub jwks: Option<String>,
    /// The CA of issuer and token endpoint; the public roots when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// From `iat` to `exp`.
    pub max_lifetime: Duration,
    /// How a job shows its token.
    pub carrier: TokenCarrier,
}

/// How a job shows its token.
#[derive(Clone, Debug)]
pub enum TokenCarrier {
    /// It is the value of this variable (GitLab's `id_tokens:`).
    Variable(String),
    /// It is asked for at ACTIONS_ID_TOKEN_REQUEST_URL, if that is on one of these hosts (globs; with `:PORT` where it is
    /// not 443).
    Request {
        /// The hosts.
        hosts: Vec<String>,
    },
}

/// One entry of `identity.providers`.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Whose API this is.
    pub provider: CiProvider,
    /// `https://api.github.com`, `https://gitlab.example.com`.
    pub url: String,
    /// Its CA; the public roots when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// What to ask GitHub with: a token that may read Actions.
    pub token: Option<Secret<String>>,
    /// Ids of the runners that run on this host, for GitLab; names, for GitHub where unit and pod do not tell.
    pub runners: Vec<String>,
    /// Namespaces in which a pod is named like the GitHub runner in it, as the Actions Runner Controller does. Whoever may
    /// make pods there may claim to be a runner.
    pub namespaces: Vec<String>,
}

/// One entry of `identity.kinds`. All that is named must match; globs, of which one must.
#[derive(Clone, Debug)]
pub struct KindRule {
    /// What it then is.
    pub kind: IdentityKind,
    /// Units of the system manager.
    pub units: Vec<String>,
    /// cgroup paths.
    pub cgroups: Vec<String>,
    /// User ids.
    pub uids: Vec<u32>,
    /// Namespaces of confirmed pods.
    pub namespaces: Vec<String>,
    /// Service accounts of confirmed pods.
    pub service_accounts: Vec<String>,
    /// Repositories of confirmed jobs.
    pub repositories: Vec<String>,
    /// Accounts that own or triggered confirmed jobs (`dependabot[bot]`).
    pub actors: Vec<String>,
}

impl TicketRule {
    /// Whether pattern and address can be used.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), crate::SetUpError> {
        crate::tickets::Tickets::compile(std::slice::from_ref(self)).map(drop)
    }
}
