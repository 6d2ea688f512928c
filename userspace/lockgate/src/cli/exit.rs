//! How a verb ends: its exit code, and errors that carry one.

use std::process::ExitCode;

/// The published exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Did what was asked.
    Done,
    /// Could not, or found something wrong.
    Failed,
    /// Asked in a way that means nothing (clap's own code too).
    Usage,
    /// Refused: by policy, by an approver, or for lack of the right.
    Denied,
    /// Waited for something that did not come.
    TimedOut,
    /// `lockgate run` did not start its command, for this reason.
    Run(RunFailure),
}

/// Why `lockgate run` did not become its command; the codes of `env`, `nice` and container runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunFailure {
    /// It could not be governed.
    Ungoverned,
    /// It cannot be executed.
    NotExecutable,
    /// It was not found.
    NotFound,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Denied => 3,
            Exit::TimedOut => 4,
            Exit::Run(RunFailure::Ungoverned) => 125,
            Exit::Run(RunFailure::NotExecutable) => 126,
            Exit::Run(RunFailure::NotFound) => 127,
        })
    }
}

/// An error that ends with another code than 1.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

/// An error that ends with `exit`.
pub(crate) fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure { exit, message: message.into() }.into()
}
