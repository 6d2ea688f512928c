//! Why a store cannot be opened or read.

use lockgate_audit::NoteError;
use std::{io, path::PathBuf};

/// Why a store cannot be opened or read. What happens to single records while it is open is
/// [`lockgate_model::port::RecordError`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process writes to it.
    #[error(
        "the store {dir} is in use by process {pid}; one agent a store: stop that one, or set another `store:`"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that has it, as it wrote down itself.
        pid: String,
    },
    /// A file or directory failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// A verb phrase.
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no log here.
    #[error("no audit log at {0}: expected a directory that an agent's `store:` names")]
    NotALog(PathBuf),
    /// The log does not hold what its signed head covers, or is damaged where no crash can have done it.
    #[error(
        "the log in {dir} is damaged: {what}. Run `lockgate audit verify`, keep the directory as evidence, and \
         start with another `store:`"
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The key pair or the head cannot be used.
    #[error("cannot use {path}: {source}")]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// The operating system gives no randomness for a key.
    #[error("cannot make a signing key: {0}")]
    Random(String),
    /// A proof that cannot be given.
    #[error("{0}")]
    NotProven(String),
    /// The shared database failed, or refused.
    #[error("cannot {action} {what}: {why}")]
    Database {
        /// A verb phrase.
        action: &'static str,
        /// What.
        what: String,
        /// SQLSTATE, when the server spoke.
        code: Option<String>,
        /// Why.
        why: String,
    },
    /// The shared database's schema is not the one that this binary works with.
    #[error("the database's schema: {0}")]
    Schema(String),
    /// The shared database holds another chain under this node's name.
    #[error(
        "the database holds another log of node {node} than this one: {why}. Two agents may not share a node's name, and a          store that was set back goes on under another `node.name`"
    )]
    OtherChain {
        /// The node.
        node: String,
        /// Where they part.
        why: String,
    },
}

/// Adds what was tried, and on what, to an IO error.
pub(crate) trait During<T> {
    fn during(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, StoreError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { action, path: path.into(), source })
    }
}
