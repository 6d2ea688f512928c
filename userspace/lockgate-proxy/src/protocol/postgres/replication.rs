//! Replication connections (§55.4): a startup parameter turns a session into one that takes commands of its own and
//! streams whole databases. Opening one is an operation, denied unless a rule names it; so is each of its commands.
//!
//! What is streamed is not looked at and cannot be masked: where masks are in force there is no replication.

use super::words;
use crate::gate::Gate;
use lockgate_inspect::sql::{Control, DigestParts, Script, Statement, digest};
use lockgate_model::{
    operation::{Facts, Operation, SqlContext},
    port::Durability,
    session::Mode,
    sql::{REPLICATION, Risk, SqlClass, SqlEffect, SqlFacts},
    verdict::{Denial, DenialCause, Effect, MaskSpec},
};
use lockgate_wire::postgres::backend::ReportFields;
use std::{collections::BTreeSet, sync::Arc};

/// First words of the commands (repl_gram.y, PostgreSQL 15 to 18), and what policy calls them. SHOW is left out: it is
/// judged as the statement it also is.
const COMMANDS: [(&str, &str); 9] = [
    ("IDENTIFY_SYSTEM", "replication_identify"),
    ("READ_REPLICATION_SLOT", "replication_read_slot"),
    ("BASE_BACKUP", "replication_base_backup"),
    ("CREATE_REPLICATION_SLOT", "replication_create_slot"),
    ("DROP_REPLICATION_SLOT", "replication_drop_slot"),
    ("ALTER_REPLICATION_SLOT", "replication_alter_slot"),
    ("START_REPLICATION", "replication_start"),
    ("TIMELINE_HISTORY", "replication_history"),
    ("UPLOAD_MANIFEST", "replication_upload"),
];

/// The value that goes upstream for what a client asks: `true` or `database`; None when it asks for an ordinary session,
/// an error when nobody could tell (walsender's own reading: anything but `database` is a boolean).
pub(super) fn wanted(value: &str) -> Result<Option<&'static str>, ()> {
    let folded = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| folded.len() >= least && word.starts_with(&folded);
    match folded.as_str() {
        "database" => Ok(Some("database")),
        "1" | "on" => Ok(Some("true")),
        "0" => Ok(None),
        _ if begins("true", 1) || begins("yes", 1) => Ok(Some("true")),
        _ if begins("false", 1) || begins("no", 1) || begins("off", 2) => Ok(None),
        _ => Err(()),
    }
}

/// Decides and records that a session may be one. A policy that asks people lets it open: it asks for each command.
pub(super) async fn admit(gate: &mut Gate, database: &str, value: &str) -> Result<(), ReportFields> {
    let text: Arc<str> = format!("replication={value}").into();
    let session = gate.session.clone();
    let operation = Arc::new(Operation {
        id: gate.operation_id(),
        session: session.id,
        facts: Arc::new(Facts::Sql(facts(REPLICATION))),
        text: text.clone(),
        normalized: text.clone(),
        parameters: Arc::default(),
        digest: digest(&DigestParts {
            statement: &text,
            parameters: &[],
            role: &session.upstream_user,
            database,
            search_path: None,
            target: session.target.name.as_str(),
            principal: &session.principal.id,
        }),
        context: Arc::new(SqlContext {
            role: session.upstream_user.clone(),
            database: database.to_owned(),
            search_path: None,
            in_transaction: false,
        }),
        touches_masked: false,
    });
    let verdict = gate.evaluate(&operation);
    let acts = match session.target.mode {
        Mode::Enforce => true,
        Mode::Shadow | Mode::Observe => false,
    };
    let masked = gate.masks().filter(|_| acts).map(unmaskable);
    let verdict = match (masked, &verdict.effect) {
        (Some(denial), Effect::Allow | Effect::Hold(_)) => verdict.refused(denial),
        (Some(_), Effect::Deny(_)) | (None, _) => verdict,
    };
    let (denial, allowed) = match &verdict.effect {
        Effect::Deny(denial) => (Some(denial.clone()), false),
        Effect::Allow => (None, true),
        Effect::Hold(_) => return Ok(()),
    };
    let decision = verdict.decision;
    let events = gate.decided(&operation, verdict, denial.clone());
    let recorded = gate.ports.recorder.record(events, Durability::Synced).await;
    match (denial, recorded) {
        (Some(denial), _) => Err(words::denied(&operation, decision, &denial)),
        (None, Ok(_)) if allowed => Ok(()),
        (None, recorded) => {
            let reason = recorded.err().map(|error| error.to_string()).unwrap_or_default();
            let denial = Denial { rule: None, cause: DenialCause::RecordFailed, reason, remedy: None };
            Err(words::denied(&operation, decision, &denial))
        }
    }
}

/// Where masks are in force nothing of replication passes, whatever the rules say.
pub(super) fn unmaskable(spec: &MaskSpec) -> Denial {
    Denial {
        rule: spec.rules.first().cloned(),
        cause: DenialCause::Masking,
        reason: "masks are in force, and what replication streams cannot be masked".to_owned(),
        remedy: Some("use a role and a rule without masks for replication".to_owned()),
    }
}

/// A text sent on a replication connection, as the server takes it there: a command of replication, or a statement.
pub(super) fn read(script: Script) -> Script {
    let [one] = script.statements.as_slice() else { return script };
    let first = one.text.trim_start().split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
    let first = first.unwrap_or_default().to_ascii_uppercase();
    let named = COMMANDS.iter().find(|(word, _)| *word == first).map(|(_, kind)| *kind);
    let kind = match (named, one.class()) {
        (Some(kind), _) => kind,
        // A comment before it, or a command of a later server.
        (None, SqlClass::Opaque) => REPLICATION,
        (None, _) => return script,
    };
    let command = Statement {
        normalized: one.text.clone(),
        facts: Arc::new(Facts::Sql(facts(kind))),
        control: Control::None,
        ..Statement::clone(one)
    };
    Script { statements: vec![Arc::new(command)] }
}

fn facts(kind: &str) -> SqlFacts {
    SqlFacts {
        class: SqlClass::Admin,
        kind: kind.to_owned(),
        tables_read: Vec::new(),
        tables_written: Vec::new(),
        columns: Vec::new(),
        functions: Vec::new(),
        bounded: None,
        risk: Risk::Critical,
        fingerprint: String::new(),
        effects: BTreeSet::from([SqlEffect::Exports, SqlEffect::Imports]),
        opaque_reason: None,
        reach: Default::default(),
        second_opinion: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_inspect::sql::{Inspector, SessionState};

    #[test]
    fn the_startup_parameter_is_read_as_the_server_reads_it() {
        for (value, expected) in [
            ("database", Ok(Some("database"))),
            ("DataBase", Ok(Some("database"))),
            ("true", Ok(Some("true"))),
            ("on", Ok(Some("true"))),
            ("y", Ok(Some("true"))),
            ("T", Ok(Some("true"))),
            ("1", Ok(Some("true"))),
            ("false", Ok(None)),
            ("off", Ok(None)),
            ("of", Ok(None)),
            ("n", Ok(None)),
            ("0", Ok(None)),
            ("o", Err(())),
            ("", Err(())),
            ("postgres", Err(())),
        ] {
            assert_eq!(wanted(value), expected, "{value}");
        }
    }

    #[test]
    fn commands_of_replication_are_told_from_statements() {
        for (text, expected) in [
            ("IDENTIFY_SYSTEM", "replication_identify"),
            (" start_replication SLOT \"s\" LOGICAL 0/0", "replication_start"),
            ("BASE_BACKUP ( LABEL 'x' )", "replication_base_backup"),
            ("/* hi */ IDENTIFY_SYSTEM", "replication"),
            ("UNHEARD_OF COMMAND", "replication"),
            ("SELECT 1", "select"),
            ("SHOW wal_level", "show"),
        ] {
            let script = read(Inspector.script(text, &SessionState::default(), None));
            assert_eq!(script.statements[0].sql().kind, expected, "{text}");
        }
    }
}
