//! What lockgate itself says to a PostgreSQL client: errors and notices in the protocol's own form.

use crate::{hold, limits::NAME_BYTES};
use bytes::BytesMut;
use lockgate_inspect::sql::SessionState;
use lockgate_model::{
    DecisionId, SessionId,
    operation::Operation,
    verdict::{Denial, DenialCause},
};
use lockgate_wire::postgres::{
    PgString, TransactionStatus, WireError,
    backend::{Backend, ReportFields, Severity, field, sqlstate},
};
use std::borrow::Cow;

/// A statement's text. In another encoding than UTF-8 each byte that is not ASCII becomes a character of its own (as in
/// LATIN1): no two statements get one text, and all of them are opaque anyway.
pub(crate) fn statement<'a>(sql: &'a PgString, state: &SessionState) -> Result<Cow<'a, str>, WireError> {
    let bytes = sql.as_bytes();
    if state.client_encoding_utf8 || bytes.is_ascii() {
        return sql.to_str("the statement").map(Cow::Borrowed);
    }
    Ok(bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into())
}

/// Quoted when a message of the target is withheld because it could carry masked values.
pub(crate) fn withheld(decision: DecisionId) -> String {
    format!("lockgate: the target's message is withheld, it could carry masked values (decision {decision})")
}

/// The denial of one operation, fitted to PostgreSQL: what, by which rule, why, what to do instead, the id to quote.
pub(crate) fn denied(operation: &Operation, decision: DecisionId, denial: &Denial) -> ReportFields {
    let title = hold::title(operation);
    let by = match &denial.rule {
        Some(rule) => format!(" by rule {rule}"),
        None => String::new(),
    };
    let (code, verb) = match denial.cause {
        DenialCause::Rule
        | DenialCause::NoRuleMatched
        | DenialCause::Opaque
        | DenialCause::ApprovalDenied
        | DenialCause::ApprovalTimeout
        | DenialCause::Masking
        | DenialCause::Unavailable => (sqlstate::INSUFFICIENT_PRIVILEGE, "denied"),
        DenialCause::Limit => (sqlstate::LIMIT_EXCEEDED, "cut"),
        DenialCause::Withdrawn => (sqlstate::QUERY_CANCELED, "withdrew"),
        DenialCause::RecordFailed => (sqlstate::IO_ERROR, "denied"),
        DenialCause::Unsupported => (sqlstate::FEATURE_NOT_SUPPORTED, "denied"),
    };
    let message = format!("lockgate: {verb} {title}{by} (decision {decision})");
    let fields = ReportFields::new(Severity::Error, code, &message).detail(&denial.reason);
    match &denial.remedy {
        Some(remedy) => fields.hint(remedy),
        None => fields,
    }
}

/// A result that is cut at a limit: the same words as a denial, without the statement's text.
pub(crate) fn cut(kind: &str, decision: DecisionId, denial: &Denial) -> ReportFields {
    let by = denial.rule.as_ref().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
    let message = format!(
        "lockgate: cut the result of {}{by} (decision {decision})",
        kind.replace('_', " ").to_uppercase()
    );
    let fields =
        ReportFields::new(Severity::Error, sqlstate::LIMIT_EXCEEDED, &message).detail(&denial.reason);
    match &denial.remedy {
        Some(remedy) => fields.hint(remedy),
        None => fields,
    }
}

/// The same where the target had finished before it was told to cancel, outside a transaction: the result is withheld, the
/// change is made.
pub(crate) fn kept(cut: &ReportFields) -> ReportFields {
    let text = |code| cut.field(code).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    let sqlstate = String::from_utf8_lossy(cut.sqlstate()).into_owned();
    let detail = format!(
        "{}; the target had finished by then: what the statement changed is in force, its result alone is withheld",
        text(field::DETAIL)
    );
    let fields = ReportFields::new(Severity::Error, &sqlstate, &cut.message()).detail(&detail);
    match cut.field(field::HINT) {
        Some(hint) => fields.hint(&hint.to_string_lossy()),
        None => fields,
    }
}

/// `lockgate:SESSION psql`, for a target that is to show lockgate's session in its log. The client's own name stays
/// readable as far as there is room.
pub(crate) fn application_name(session: SessionId, claimed: &str) -> String {
    let mut name = format!("lockgate:{session} {claimed}");
    let mut end = name.len().min(NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name.truncate(name.trim_end().len());
    name
}

/// A notice.
pub(crate) fn notice(text: &str) -> Backend {
    Backend::NoticeResponse(ReportFields::new(Severity::Notice, sqlstate::SUCCESS, text))
}

/// An error that ends the session.
pub(crate) fn fatal(code: &str, text: &str) -> Backend {
    Backend::ErrorResponse(ReportFields::new(Severity::Fatal, code, text))
}

/// Appends a message of our own. What lockgate says always fits a message; if it ever did not, nothing is said.
pub(crate) fn say(out: &mut BytesMut, message: &Backend) {
    if let Err(error) = message.encode(out) {
        tracing::error!(%error, message = message.name(), "a message of lockgate's own cannot be encoded");
    }
}

/// Appends ReadyForQuery.
pub(crate) fn ready(out: &mut BytesMut, status: TransactionStatus) {
    say(out, &Backend::ReadyForQuery(status));
}
