//! What the proxy is told: its node, its targets, its bounds. Already checked and resolved by whoever reads the
//! configuration; nothing here reads files or names.

use crate::{
    caller::Explicit,
    credential::Credential,
    limits::Limits,
    scram::Verifier,
    target::TargetAddr,
    tls::{ClientTls, UpstreamTls},
};
use lockgate_model::{id::NodeName, session::Target};
use std::{collections::HashMap, sync::Arc};

/// One registered target with everything it takes to serve it.
#[derive(Clone, Debug)]
pub struct TargetSettings {
    /// The target as policy and records see it.
    pub target: Arc<Target>,
    /// Destinations that belong to it.
    pub addresses: Vec<TargetAddr>,
    /// TLS for clients; None answers 'N' to SSLRequest.
    pub client_tls: Option<ClientTls>,
    /// Users that are asked for SCRAM, and how they prove themselves. Others are let in without.
    pub client_verifiers: Arc<HashMap<String, Verifier>>,
    /// Whether the target's `application_name` begins with the session's id.
    pub session_in_application_name: bool,
    /// How the target is verified.
    pub upstream_tls: UpstreamTls,
    /// The name its certificate must be for under `verify-full`; None: the host name of the address that matched, or the
    /// IP address that the client dialled.
    pub upstream_host: Option<String>,
    /// Who logs in there.
    pub credential: Credential,
    /// From which network namespace it is dialled.
    pub dial_from: DialFrom,
    /// For those whom no hook sees: where they dial lockgate itself, and what identifies them.
    pub explicit: Option<Explicit>,
}

impl TargetSettings {
    /// A target of which nothing else is said: no TLS on either leg, and clients that are asked for nothing.
    pub fn plain(target: Target, addresses: Vec<TargetAddr>, credential: Credential) -> Self {
        Self {
            target: Arc::new(target),
            addresses,
            client_tls: None,
            client_verifiers: Arc::default(),
            session_in_application_name: false,
            upstream_tls: UpstreamTls::disable(),
            upstream_host: None,
            credential,
            dial_from: DialFrom::default(),
            explicit: None,
        }
    }
}

/// From where a target is dialled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialFrom {
    /// From the client's network namespace: its source address, its routes, its network policy.
    #[default]
    Client,
    /// From lockgate's own.
    Host,
}

/// What the proxy is made with.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// `node.name`.
    pub node: NodeName,
    /// The registered targets.
    pub targets: Vec<TargetSettings>,
    /// Bounds.
    pub limits: Limits,
}
