//! One flow on one registered target, for one principal, in one protocol.

use crate::{
    flow::Flow,
    id::{NodeName, SessionId, TargetName},
    principal::Principal,
    time::Timestamp,
    workload::Workload,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Application protocols lockgate speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// PostgreSQL frontend/backend protocol 3.
    Postgres,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

impl Protocol {
    /// The name used in policy, configuration and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What lockgate does on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Seen, not redirected.
    Observe,
    /// Decided and recorded, not acted on.
    Shadow,
    /// Decided, recorded, acted on.
    Enforce,
}

/// What happens when no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultEffect {
    /// Let it pass, recorded.
    Allow,
    /// Refuse it.
    Deny,
}

/// A registered target, as policy and records see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its name in configuration.
    pub name: TargetName,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// observe, shadow or enforce.
    pub mode: Mode,
    /// When no rule matches.
    pub default: DefaultEffect,
}

/// What the client said about itself; free text of the job, shown and never trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientClaims {
    /// The user it asked for (not the one lockgate logs in as).
    pub user: String,
    /// The database it asked for.
    pub database: String,
    /// `application_name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_name: Option<String>,
}

/// One flow on one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The node it runs on.
    pub node: NodeName,
    /// The connection.
    pub flow: Flow,
    /// Who it comes from.
    pub workload: Arc<Workload>,
    /// Who it comes from, in one line.
    pub principal: Principal,
    /// Where it goes.
    pub target: Arc<Target>,
    /// What the client said about itself.
    pub client: ClientClaims,
    /// The role lockgate logs in as.
    pub upstream_user: String,
    /// Whether the client leg is encrypted.
    pub client_tls: bool,
    /// When it began.
    pub opened_at: Timestamp,
}
