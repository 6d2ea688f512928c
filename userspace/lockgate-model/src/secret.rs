//! Secrets: no `Debug` text, no `Serialize`, zeroized on drop; and references to where they rest.

use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret value in memory.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value; name every use, so that a reader can search for it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret rests. Exactly one of the four.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretRef {
    /// A file; one trailing newline is cut.
    File(String),
    /// An environment variable of the agent.
    Env(String),
    /// A command (argv) whose standard output is the secret; one trailing newline is cut.
    Command(Vec<String>),
    /// `PATH#FIELD` in the key-value store of the vault that the agent is configured with.
    Vault(String),
}
