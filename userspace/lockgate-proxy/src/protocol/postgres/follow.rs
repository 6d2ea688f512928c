//! What is known of the session's settings, followed through every way a transaction takes them back.
//!
//! A setting that lockgate believes in and the server does not have (or the other way round) changes what a statement
//! means: `search_path` decides which function a name calls. So a setting counts only when its statement succeeded, and is
//! taken back where the server takes it back: when the message fails outside a transaction block, at ROLLBACK, at the end
//! of what SET LOCAL was for. Where that cannot be told, it is unknown, and the stricter reading holds.

use lockgate_inspect::sql::{Control, SessionState, Statement};
use lockgate_wire::postgres::TransactionStatus;

/// One session's settings.
#[derive(Debug)]
pub(crate) struct Followed {
    /// What is known.
    pub(crate) state: SessionState,
    /// What an error or ROLLBACK goes back to, while no transaction block keeps the score: statements outside a block are
    /// kept or dropped together, up to the end of their message or segment.
    before: Option<SessionState>,
    /// A transaction block is open.
    block: bool,
    /// A setting was changed inside the open block: ROLLBACK TO SAVEPOINT may take it back.
    changed: bool,
    /// SET LOCAL ran outside a block: it holds for an unknown while.
    local: Option<Statement>,
}

impl Followed {
    pub(crate) fn new(state: SessionState) -> Self {
        Self { state, before: None, block: false, changed: false, local: None }
    }

    /// A statement succeeded; `tag` is the server's word for it.
    pub(crate) fn succeeded(&mut self, statement: &Statement, tag: &str) {
        match &statement.control {
            Control::None if statement.unsettles => {
                self.remember();
                self.state.apply(statement);
            }
            Control::None => self.state.apply(statement),
            Control::Begin => {
                self.block = true;
                self.changed = false;
                self.state.apply(statement);
            }
            // COMMIT of a failed transaction is a ROLLBACK, and the server says so.
            Control::Commit { chain } if tag == "ROLLBACK" => {
                let rollback = with_control(statement, Control::Rollback { chain: *chain });
                self.rolled_back(&rollback, *chain);
            }
            Control::Commit { chain } => {
                self.block = *chain;
                self.before = None;
                self.state.apply(statement);
            }
            Control::Rollback { chain } => self.rolled_back(statement, *chain),
            Control::Set { local, .. } => {
                self.remember();
                if *local && !self.block {
                    self.local = Some(statement.clone());
                }
                self.state.apply(statement);
            }
            Control::ResetAll | Control::DiscardAll | Control::Anything => {
                self.remember();
                self.state.apply(statement);
            }
            // Nothing was set, so nothing is taken back.
            Control::RollbackTo if !self.changed => {}
            // Names of statements and cursors; a name too many or too few makes the server fail, or is not known here.
            Control::Savepoint
            | Control::RollbackTo
            | Control::Prepare { .. }
            | Control::Execute { .. }
            | Control::Deallocate { .. }
            | Control::Declare { .. }
            | Control::Fetch { .. }
            | Control::Close { .. } => self.state.apply(statement),
        }
    }

    /// The server refused a statement: outside a block all of its message is taken back.
    pub(crate) fn failed(&mut self, statement: Option<&Statement>) {
        if let Some(before) = self.before.take() {
            self.state = before;
        }
        // A procedure may have set and committed something before it failed.
        if let Some(statement) = statement
            && matches!(statement.control, Control::Anything)
        {
            self.state.apply(statement);
        }
    }

    /// The message or segment is over.
    pub(crate) fn ready(&mut self, status: TransactionStatus) {
        self.block = status != TransactionStatus::Idle;
        self.before = None;
        if !self.block {
            // What was made is committed or gone, and the catalogue is read anew.
            self.state.made_is_known();
        }
        if let Some(local) = self.local.take() {
            self.state.apply(&with_control(&local, Control::Anything));
        }
    }

    fn rolled_back(&mut self, rollback: &Statement, chain: bool) {
        if let Some(before) = self.before.take() {
            self.state = before;
        }
        self.block = chain;
        self.state.apply(rollback);
    }

    fn remember(&mut self) {
        self.changed = true;
        if !self.block {
            self.before.get_or_insert_with(|| self.state.clone());
        }
    }
}

fn with_control(statement: &Statement, control: Control) -> Statement {
    Statement { control, ..statement.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_inspect::sql::{Inspector, SearchPath};

    const EVIL: &str = "SET search_path = evil, pg_catalog";

    /// Messages of statements; `!` before one: it fails, and the rest of its message with it.
    fn path_after(messages: &[&[&str]]) -> SearchPath {
        let mut followed = Followed::new(SessionState::default());
        let mut status = TransactionStatus::Idle;
        for message in messages {
            for text in *message {
                let (fails, text) = match text.strip_prefix('!') {
                    Some(text) => (true, text),
                    None => (false, *text),
                };
                let script = Inspector.script(text, &followed.state, None);
                let statement = script.statements.first().unwrap();
                if fails {
                    followed.failed(Some(statement));
                    if status == TransactionStatus::InTransaction {
                        status = TransactionStatus::Failed;
                    }
                    break;
                }
                let tag = match statement.control {
                    Control::Commit { .. } if status == TransactionStatus::Failed => "ROLLBACK",
                    _ => "OK",
                };
                match statement.control {
                    Control::Begin => status = TransactionStatus::InTransaction,
                    Control::Commit { .. } | Control::Rollback { .. } => status = TransactionStatus::Idle,
                    _ => {}
                }
                followed.succeeded(statement, tag);
            }
            followed.ready(status);
        }
        followed.state.search_path
    }

    #[test]
    fn settings_are_taken_back_where_the_server_takes_them_back() {
        let evil = SearchPath::Known(vec!["evil".into(), "pg_catalog".into()]);
        let default = SearchPath::Default;
        for (messages, expected) in [
            (&[&[EVIL][..]][..], evil.clone()),
            (&[&[EVIL, "!SELECT 1/0"]], default.clone()),
            (&[&[EVIL, "COMMIT", "!SELECT 1/0"]], evil.clone()),
            (&[&[EVIL, "ROLLBACK"]], default.clone()),
            (&[&[EVIL], &["SET search_path TO DEFAULT", "!SELECT 1/0"]], evil.clone()),
            (&[&[EVIL], &["SET search_path TO DEFAULT", "ROLLBACK"]], evil.clone()),
            (&[&["BEGIN"], &[EVIL], &["ROLLBACK"]], default.clone()),
            (&[&["BEGIN"], &[EVIL], &["COMMIT"]], evil.clone()),
            (&[&["BEGIN"], &[EVIL], &["!SELECT 1/0"], &["COMMIT"]], default.clone()),
            (&[&["BEGIN", EVIL, "!SELECT 1/0"], &["ROLLBACK"]], default.clone()),
            (&[&[EVIL, "BEGIN", "SET search_path TO DEFAULT", "ROLLBACK"]], default.clone()),
            (&[&[EVIL], &["BEGIN"], &["COMMIT", "SET search_path TO DEFAULT", "!SELECT 1/0"]], evil.clone()),
            (
                &[&[EVIL], &["BEGIN"], &["ROLLBACK", "SET search_path TO DEFAULT", "!SELECT 1/0"]],
                evil.clone(),
            ),
            (&[&[EVIL], &["SET LOCAL search_path TO DEFAULT"]], SearchPath::Unknown),
            (&[&[EVIL], &["BEGIN", "SET LOCAL search_path TO DEFAULT", "COMMIT"]], evil.clone()),
            (&[&[EVIL], &["BEGIN"], &["SET search_path TO DEFAULT"], &["!SELECT 1/0"], &["ROLLBACK"]], evil),
            (&[&["!DO 'x'"]], SearchPath::Unknown),
            (&[&["BEGIN"], &["SAVEPOINT a"], &["ROLLBACK TO a"]], SearchPath::Default),
            (&[&["BEGIN"], &["SAVEPOINT a"], &[EVIL], &["ROLLBACK TO a"]], SearchPath::Unknown),
            (
                &[&["BEGIN"], &["SAVEPOINT a"], &[EVIL], &["ROLLBACK TO a"], &["ROLLBACK"]],
                SearchPath::Default,
            ),
        ] {
            assert_eq!(path_after(messages), expected, "{messages:?}");
        }
    }
}
