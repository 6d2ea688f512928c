//! From references to what a login on a target takes: passwords, client certificates, accounts that a vault makes.
//!
//! Read anew for every session and, unless the target asks for a short cache, kept nowhere, so that a rotated secret is in
//! force at once and a stolen core of an idle agent holds none. It does not decide who may use a secret; the upstream
//! connector asks, once per login.
//!
//! ```text
//! Credential ─ account() ─▶ Account (user, password, lease) ─ identity() ─▶ a client certificate, for one session
//!   Secrets: reference (file, env, command)  vault (key-value, database, pki)
//! ```

mod account;
mod reference;
pub mod vault;

pub use account::{Account, CertificateSource, Credential, CredentialSettings, DEFAULT_VALIDITY};
pub use vault::{Vault, VaultAuth, VaultError, VaultSettings};

use crate::tls::TlsError;
use lockgate_model::{Secret, SecretRef};
use std::{io, sync::Arc, time::Duration};

/// A secret longer than this is a mistaken path. Tokens and keys are a few KiB at most.
pub const MAX_SECRET: usize = 64 * 1024;
/// A command that asks a vault answers in a second or two; a session waits for it, so it may not hang.
pub const COMMAND_TIME: Duration = Duration::from_secs(10);

/// Bytes of a secret. Passwords need not be UTF-8.
pub type SecretBytes = Secret<Vec<u8>>;

/// Where secrets come from: this host, and the vault if there is one.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    vault: Option<Arc<Vault>>,
}

impl Secrets {
    /// With a vault.
    pub fn with_vault(vault: Arc<Vault>) -> Self {
        Self { vault: Some(vault) }
    }

    /// Reads the secret that `reference` names. One trailing newline is cut.
    ///
    /// # Errors
    /// When it cannot be had, within the bounds of this module.
    pub async fn resolve(&self, reference: &SecretRef) -> Result<SecretBytes, CredentialError> {
        match reference {
            SecretRef::File(_) | SecretRef::Env(_) | SecretRef::Command(_) => {
                reference::resolve(reference).await
            }
            SecretRef::Vault(path) => {
                let value = self.vault()?.read(path).await?;
                reference::finish(value, || reference::describe(reference))
            }
        }
    }

    /// Waits until what a vault made for sessions is given back; see [`Vault::given_back`].
    pub async fn given_back(&self, limit: Duration) {
        if let Some(vault) = &self.vault {
            vault.given_back(limit).await;
        }
    }

    fn vault(&self) -> Result<&Arc<Vault>, CredentialError> {
        self.vault.as_ref().ok_or(CredentialError::NoVault)
    }
}

/// Reads a secret that rests on this host; a vault is not known here.
///
/// # Errors
/// When it cannot be had.
pub async fn resolve(reference: &SecretRef) -> Result<SecretBytes, CredentialError> {
    Secrets::default().resolve(reference).await
}

/// Why a secret cannot be had. Never carries any part of it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {kind}")]
    File {
        /// Its path.
        path: String,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// The variable is not set.
    #[error("the environment variable {name} is not set for the agent")]
    Variable {
        /// Its name.
        name: String,
    },
    /// The reference names no program.
    #[error("the secret's command is empty, expected a program and its arguments")]
    NoProgram,
    /// The command cannot be run.
    #[error("cannot run the secret's command {program}: {kind}")]
    Command {
        /// The program.
        program: String,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// The command failed.
    #[error("the secret's command {program} ended with {status}, expected success")]
    CommandFailed {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
    },
    /// The command took too long and was killed.
    #[error("the secret's command {program} did not end within {limit:?}")]
    CommandSlow {
        /// The program.
        program: String,
        /// The bound.
        limit: Duration,
    },
    /// The secret is longer than any secret is.
    #[error("the secret in {whence} is longer than {limit} bytes")]
    TooLong {
        /// Where it rests.
        whence: String,
        /// The bound.
        limit: usize,
    },
    /// A reference to a vault, and no vault is configured.
    #[error(
        "a secret rests in a vault, and none is configured here; add `vault:` to the configuration (policies cannot use it)"
    )]
    NoVault,
    /// The vault did not give it.
    #[error("vault: {0}")]
    Vault(#[from] VaultError),
    /// The client certificate cannot be used or issued.
    #[error("the client certificate: {0}")]
    Certificate(#[from] TlsError),
    /// A role was named for a credential that belongs to one role.
    #[error(
        "policy names the role {role}, and this target's credential is {user}'s alone; let it issue client certificates (credential.client_certificate with ca and ca_key)"
    )]
    Role {
        /// The role that policy names.
        role: String,
        /// Whose the credential is.
        user: String,
    },
    /// A secret that cannot stand in a field of a request.
    #[error(
        "the secret for the field {name} has a character that no field of HTTP may have; is it one line?"
    )]
    NotAField {
        /// The field.
        name: String,
    },
    /// There is nothing.
    #[error("the secret in {whence} is empty")]
    Empty {
        /// Where it rests.
        whence: String,
    },
}

impl CredentialError {
    /// A stable label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "secret_file",
            Self::Variable { .. } => "secret_variable",
            Self::NoProgram | Self::Command { .. } | Self::CommandFailed { .. } => "secret_command",
            Self::CommandSlow { .. } => "secret_command_slow",
            Self::TooLong { .. } => "secret_too_long",
            Self::Empty { .. } => "secret_empty",
            Self::NotAField { .. } => "secret_not_a_field",
            Self::NoVault => "secret_no_vault",
            Self::Vault(error) => error.kind(),
            Self::Certificate(error) => error.kind(),
            Self::Role { .. } => "credential_role",
        }
    }
}
