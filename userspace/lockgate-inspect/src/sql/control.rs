//! What a statement changes in the session itself, for the proxy to follow: transactions, settings, names of prepared
//! statements and cursors. Only what the text says; whether the server did it is the session's to learn.

use super::Statement;
use std::sync::Arc;

/// How a statement moves the session.
#[derive(Clone, Debug)]
pub enum Control {
    /// Not at all.
    None,
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END, PREPARE TRANSACTION.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint,
    /// ROLLBACK TO SAVEPOINT.
    RollbackTo,
    /// SET, RESET, and set_config() with literal arguments.
    Set {
        /// Lower-case name of the setting; SET ROLE is `role`.
        name: String,
        /// What it is set to.
        value: Setting,
        /// SET LOCAL: until the transaction ends.
        local: bool,
    },
    /// RESET ALL.
    ResetAll,
    /// DISCARD ALL.
    DiscardAll,
    /// PREPARE name AS …
    Prepare {
        /// Its name.
        name: String,
        /// What EXECUTE of that name runs.
        inner: Arc<Statement>,
    },
    /// EXECUTE name.
    Execute {
        /// Its name.
        name: String,
    },
    /// DEALLOCATE name, or ALL.
    Deallocate {
        /// Its name; None is ALL.
        name: Option<String>,
    },
    /// DECLARE name CURSOR FOR …
    Declare {
        /// Its name.
        name: String,
        /// The query that FETCH of that name reads.
        inner: Arc<Statement>,
    },
    /// FETCH or MOVE.
    Fetch {
        /// The cursor's name.
        name: String,
    },
    /// CLOSE name, or ALL.
    Close {
        /// Its name; None is ALL.
        name: Option<String>,
    },
    /// It runs code that could change any setting (DO, set_config with computed arguments).
    Anything,
}

/// What a setting is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The session's default (SET … TO DEFAULT, RESET).
    Default,
    /// These values, as written (`search_path` has several).
    Values(Vec<String>),
    /// Not a literal.
    Unknown,
}
