//! What the proxy is told: its node, its targets, its bounds. Already checked and resolved by whoever reads the
//! configuration; nothing here reads files or names.

use crate::{
    caller::Explicit,
    credential::{Credential, CredentialError, Secrets},
    limits::Limits,
    scram::Verifier,
    target::TargetAddr,
    tls::{ClientTls, UpstreamTls},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use lockgate_model::{SecretRef, id::NodeName, session::Target};
use std::{collections::HashMap, sync::Arc};
use zeroize::Zeroizing;

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
    /// How requests are changed on their way, for HTTP.
    pub http: Arc<HttpSettings>,
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
            http: Arc::default(),
            explicit: None,
        }
    }
}

/// How requests to an HTTP target are changed on their way.
#[derive(Clone, Debug, Default)]
pub struct HttpSettings {
    /// The target's credential, in place of the client's own.
    pub injections: Vec<Injection>,
    /// Fields of the client that do not go on.
    pub remove: Vec<HeaderName>,
    /// Where secrets come from.
    pub secrets: Secrets,
}

/// A credential, as a field of every request.
#[derive(Clone, Debug)]
pub enum Injection {
    /// `NAME: secret`
    Header {
        /// Its name.
        name: HeaderName,
        /// Its value.
        value: SecretRef,
    },
    /// `Authorization: Bearer secret` (RFC 6750).
    Bearer(SecretRef),
    /// `Authorization: Basic …` (RFC 7617).
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: SecretRef,
    },
}

impl HttpSettings {
    /// The fields, their secrets read now.
    ///
    /// # Errors
    /// When one cannot be had, or cannot stand in a field.
    pub(crate) async fn fields(&self) -> Result<Vec<(HeaderName, HeaderValue)>, CredentialError> {
        let mut fields = Vec::with_capacity(self.injections.len());
        for injection in &self.injections {
            let (name, reference) = match injection {
                Injection::Header { name, value } => (name.clone(), value),
                Injection::Bearer(token) => (AUTHORIZATION, token),
                Injection::Basic { password, .. } => (AUTHORIZATION, password),
            };
            let secret = self.secrets.resolve(reference).await?;
            let text = match injection {
                Injection::Header { .. } => Zeroizing::new(secret.expose().clone()),
                Injection::Bearer(_) => Zeroizing::new([b"Bearer ".as_slice(), secret.expose()].concat()),
                Injection::Basic { user, .. } => {
                    let pair = Zeroizing::new([user.as_bytes(), b":", secret.expose()].concat());
                    Zeroizing::new(format!("Basic {}", BASE64.encode(&*pair)).into_bytes())
                }
            };
            let mut value = HeaderValue::from_bytes(&text)
                .map_err(|_| CredentialError::NotAField { name: name.to_string() })?;
            value.set_sensitive(true);
            fields.push((name, value));
        }
        Ok(fields)
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
