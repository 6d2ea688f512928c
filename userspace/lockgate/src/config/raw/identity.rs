//! `identity:` as it is written.

use super::{DurationText, PathOrSecret, SecretText, Spanned};
use serde::Deserialize;

/// Who is asked about workloads.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    #[serde(default)]
    pub(crate) wait: Option<DurationText>,
    #[serde(default)]
    pub(crate) skew: Option<DurationText>,
    #[serde(default)]
    pub(crate) kubernetes: Option<Spanned<Cluster>>,
    #[serde(default)]
    pub(crate) issuers: Vec<Spanned<Issuer>>,
    #[serde(default)]
    pub(crate) providers: Vec<Spanned<Provider>>,
    #[serde(default)]
    pub(crate) kinds: Vec<Spanned<KindRule>>,
    #[serde(default)]
    pub(crate) tickets: Vec<Spanned<TicketRule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TicketRule {
    pub(crate) pattern: Spanned<String>,
    #[serde(default)]
    pub(crate) url: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) from: Vec<TicketPlace>,
    #[serde(default)]
    pub(crate) annotation: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TicketPlace {
    Branch,
    CommitMessage,
    MergeRequest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    #[serde(default)]
    pub(crate) server: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) token_file: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) node: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) wait: Option<DurationText>,
    #[serde(default)]
    pub(crate) bound_tokens: Option<BoundTokens>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoundTokens {
    #[serde(default)]
    pub(crate) issuer: Option<String>,
    #[serde(default)]
    pub(crate) audience: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CiProvider {
    GithubActions,
    Gitlab,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issuer {
    pub(crate) provider: CiProvider,
    pub(crate) issuer: Spanned<String>,
    pub(crate) audience: Spanned<String>,
    #[serde(default)]
    pub(crate) jwks: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) max_lifetime: Option<DurationText>,
    #[serde(default)]
    pub(crate) variable: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) request_hosts: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    pub(crate) provider: CiProvider,
    pub(crate) url: Spanned<String>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) token: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) runners: Vec<String>,
    #[serde(default)]
    pub(crate) namespaces: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KindRule {
    pub(crate) kind: lockgate_model::workload::IdentityKind,
    #[serde(default)]
    pub(crate) units: Vec<String>,
    #[serde(default)]
    pub(crate) cgroups: Vec<String>,
    #[serde(default)]
    pub(crate) uids: Vec<u32>,
    #[serde(default)]
    pub(crate) namespaces: Vec<String>,
    #[serde(default)]
    pub(crate) service_accounts: Vec<String>,
    #[serde(default)]
    pub(crate) repositories: Vec<String>,
    #[serde(default)]
    pub(crate) actors: Vec<String>,
}
