//! What a vault needs to be told, and what can go wrong with it.

use lockgate_model::{Secret, SecretRef};
use std::time::Duration;

/// Where the vault is, and who lockgate is there.
#[derive(Clone, Debug)]
pub struct VaultSettings {
    /// `https://vault.internal:8200`.
    pub address: String,
    /// Trusted instead of the public roots, PEM.
    pub ca: Option<Secret<Vec<u8>>>,
    /// Sent as `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// How lockgate logs in.
    pub auth: VaultAuth,
    /// For one request, from dialling to the last byte.
    pub timeout: Duration,
}

/// How lockgate logs in. Secrets are references to this host: a vault cannot keep its own key.
#[derive(Clone, Debug)]
pub enum VaultAuth {
    /// A token that somebody else keeps fresh (an agent's sink file). Read anew for every request.
    Token(SecretRef),
    /// `auth/MOUNT/login` with a role id and a secret id.
    AppRole {
        /// Usually `approle`.
        mount: String,
        /// Which role.
        role_id: SecretRef,
        /// Its secret.
        secret_id: SecretRef,
    },
    /// `auth/MOUNT/login` with the service account's token.
    Kubernetes {
        /// Usually `kubernetes`.
        mount: String,
        /// Which role.
        role: String,
        /// Usually `/var/run/secrets/kubernetes.io/serviceaccount/token`.
        jwt: SecretRef,
    },
}

/// Why the vault did not give what was asked for. Paths and field names stand here, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The address is none.
    #[error("vault.address: expected https://HOST:PORT, got {0:?}")]
    Address(String),
    /// Plain HTTP to another host shows every secret to the network.
    #[error("vault.address: {0:?} is plain HTTP to another host; use https")]
    Plain(String),
    /// The CA or the client cannot be used.
    #[error("{0}")]
    Client(String),
    /// A reference that does not say which field.
    #[error("{0:?} is no reference into the vault, expected PATH#FIELD such as secret/data/orders#password")]
    Reference(String),
    /// lockgate's own key to the vault cannot be had.
    #[error("its own login: {0}")]
    Own(String),
    /// It is not there.
    #[error("{address} cannot be reached: {detail}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        detail: String,
    },
    /// It took too long.
    #[error("{address} did not answer within {limit:?}")]
    Slow {
        /// Where.
        address: String,
        /// The bound.
        limit: Duration,
    },
    /// It sent lockgate elsewhere.
    #[error(
        "{path}: it redirects, and redirects are not followed; let vault.address be the active node or its load balancer"
    )]
    Redirect {
        /// What was asked for.
        path: String,
    },
    /// It is sealed, standing by, or being started.
    #[error("{path}: it is sealed, uninitialized or standing by (HTTP {status})")]
    NotReady {
        /// What was asked for.
        path: String,
        /// The status.
        status: u16,
    },
    /// It does not let lockgate do that.
    #[error("{path}: permission denied; give lockgate's vault policy `read` on it (`update` for pki/sign)")]
    Denied {
        /// What was asked for.
        path: String,
    },
    /// There is nothing.
    #[error(
        "{path}: there is nothing; a key-value engine of version 2 has data/ in its paths (secret/data/NAME)"
    )]
    NotFound {
        /// What was asked for.
        path: String,
    },
    /// Another status.
    #[error("{path}: HTTP {status}, expected 200")]
    Status {
        /// What was asked for.
        path: String,
        /// The status.
        status: u16,
    },
    /// The answer is longer than any is.
    #[error("{path}: the answer is longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        path: String,
        /// The bound.
        limit: usize,
    },
    /// The answer is of another form.
    #[error("{path}: the answer is not {expected}; is it a vault?")]
    Answer {
        /// What was asked for.
        path: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The secret has no such field.
    #[error("{path}: there is no field {field:?}, it has: {fields}")]
    NoField {
        /// What was asked for.
        path: String,
        /// The field.
        field: String,
        /// Those that it has.
        fields: String,
    },
    /// The field is something else.
    #[error("{path}: the field {field:?} is not a text")]
    NotText {
        /// What was asked for.
        path: String,
        /// The field.
        field: String,
    },
}

impl VaultError {
    /// A stable label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Address(_) | Self::Plain(_) | Self::Client(_) | Self::Reference(_) => "vault_settings",
            Self::Own(_) => "vault_login",
            Self::Unreachable { .. } => "vault_unreachable",
            Self::Slow { .. } => "vault_slow",
            Self::Redirect { .. } => "vault_redirect",
            Self::NotReady { .. } => "vault_not_ready",
            Self::Denied { .. } => "vault_denied",
            Self::NotFound { .. } => "vault_not_found",
            Self::Status { .. } => "vault_status",
            Self::TooLong { .. } => "vault_too_long",
            Self::Answer { .. } => "vault_answer",
            Self::NoField { .. } | Self::NotText { .. } => "vault_field",
        }
    }
}
