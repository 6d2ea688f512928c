//! ErrorResponse and NoticeResponse: the same list of fields under two type bytes (§55.8).

use crate::postgres::error::WireError;
use crate::postgres::reader::Reader;
use crate::postgres::value::PgString;
use crate::postgres::writer::Writer;
use bytes::{Bytes, BytesMut};

/// Field codes (§55.8 "Error and Notice Message Fields").
pub mod field {
    /// Severity, possibly localised.
    pub const SEVERITY: u8 = b'S';
    /// Severity, never localised.
    pub const SEVERITY_CODE: u8 = b'V';
    /// SQLSTATE.
    pub const SQLSTATE: u8 = b'C';
    /// The primary message.
    pub const MESSAGE: u8 = b'M';
    /// Detail.
    pub const DETAIL: u8 = b'D';
    /// Hint.
    pub const HINT: u8 = b'H';
    /// Position in the query string, in characters, from 1.
    pub const POSITION: u8 = b'P';
    /// Position in an internally generated command.
    pub const INTERNAL_POSITION: u8 = b'p';
    /// Text of an internally generated command.
    pub const INTERNAL_QUERY: u8 = b'q';
    /// Where: a call stack.
    pub const WHERE: u8 = b'W';
    /// Schema name.
    pub const SCHEMA: u8 = b's';
    /// Table name.
    pub const TABLE: u8 = b't';
    /// Column name.
    pub const COLUMN: u8 = b'c';
    /// Data type name.
    pub const DATA_TYPE: u8 = b'd';
    /// Constraint name.
    pub const CONSTRAINT: u8 = b'n';
    /// Source file.
    pub const FILE: u8 = b'F';
    /// Source line.
    pub const LINE: u8 = b'L';
    /// Source routine.
    pub const ROUTINE: u8 = b'R';
}

/// The SQLSTATEs that lockgate itself sends (PostgreSQL Appendix A).
pub mod sqlstate {
    /// successful_completion: for notices.
    pub const SUCCESS: &str = "00000";
    /// connection_failure.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// sqlserver_rejected_establishment_of_sqlconnection.
    pub const CONNECTION_REJECTED: &str = "08004";
    /// protocol_violation.
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    /// feature_not_supported.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// in_failed_sql_transaction.
    pub const IN_FAILED_TRANSACTION: &str = "25P02";
    /// invalid_authorization_specification.
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// insufficient_privilege.
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// program_limit_exceeded.
    pub const LIMIT_EXCEEDED: &str = "54000";
    /// query_canceled.
    pub const QUERY_CANCELED: &str = "57014";
    /// admin_shutdown.
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    /// cannot_connect_now.
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    /// io_error.
    pub const IO_ERROR: &str = "58030";
}

/// Severity of a report (§55.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The session ends.
    Fatal,
    /// All sessions end.
    Panic,
    /// Something the client should look at.
    Warning,
    /// Something the client should know.
    Notice,
    /// For developers.
    Debug,
    /// What the client asked for.
    Info,
    /// For the server's log.
    Log,
}

impl Severity {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Panic => "PANIC",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
            Severity::Debug => "DEBUG",
            Severity::Info => "INFO",
            Severity::Log => "LOG",
        }
    }
}

/// The fields of an error or notice in the order sent. A code may come that no manual names: it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportFields {
    fields: Vec<(u8, PgString)>,
}

impl ReportFields {
    /// A report of our own: severity (localised and not), SQLSTATE and message.
    pub fn new(severity: Severity, sqlstate: &str, message: &str) -> Self {
        let word = PgString::from_static(severity.as_str());
        ReportFields {
            fields: vec![
                (field::SEVERITY, word.clone()),
                (field::SEVERITY_CODE, word),
                (field::SQLSTATE, PgString::lossy(sqlstate)),
                (field::MESSAGE, PgString::lossy(message)),
            ],
        }
    }

    /// With a DETAIL.
    #[must_use]
    pub fn detail(self, text: &str) -> Self {
        self.with(field::DETAIL, text)
    }

    /// With a HINT.
    #[must_use]
    pub fn hint(self, text: &str) -> Self {
        self.with(field::HINT, text)
    }

    /// With any further field. A zero code would end the list and is left out.
    #[must_use]
    pub fn with(mut self, code: u8, text: &str) -> Self {
        if code != 0 {
            self.fields.push((code, PgString::lossy(text)));
        }
        self
    }

    /// The value of a field.
    pub fn field(&self, code: u8) -> Option<&PgString> {
        self.fields.iter().find(|(c, _)| *c == code).map(|(_, value)| value)
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &PgString)> {
        self.fields.iter().map(|(code, value)| (*code, value))
    }

    /// The SQLSTATE, empty when the server sent none.
    pub fn sqlstate(&self) -> &[u8] {
        self.field(field::SQLSTATE).map(PgString::as_bytes).unwrap_or_default()
    }

    /// The primary message for people, undecodable bytes replaced.
    pub fn message(&self) -> std::borrow::Cow<'_, str> {
        self.field(field::MESSAGE).map(PgString::to_string_lossy).unwrap_or_default()
    }

    /// Whether the session ends with this report.
    pub fn is_fatal(&self) -> bool {
        let severity = self.field(field::SEVERITY_CODE).or_else(|| self.field(field::SEVERITY));
        severity.is_some_and(|word| *word == "FATAL" || *word == "PANIC")
    }

    /// The same report, ending the session.
    #[must_use]
    pub fn into_fatal(mut self) -> Self {
        let word = PgString::from_static(Severity::Fatal.as_str());
        for (_, value) in
            self.fields.iter_mut().filter(|(code, _)| [field::SEVERITY, field::SEVERITY_CODE].contains(code))
        {
            *value = word.clone();
        }
        self
    }

    /// The same report with nothing in it that could carry data: severity and SQLSTATE stay, the message becomes `message`.
    #[must_use]
    pub fn redacted(&self, message: &str) -> Self {
        let kept = [field::SEVERITY, field::SEVERITY_CODE, field::SQLSTATE];
        let mut fields: Vec<_> =
            self.fields.iter().filter(|(code, _)| kept.contains(code)).cloned().collect();
        fields.push((field::MESSAGE, PgString::lossy(message)));
        ReportFields { fields }
    }

    pub(super) fn decode(message: &'static str, body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new(message, body);
        let mut fields = Vec::new();
        loop {
            match body.u8("report field code")? {
                0 => break,
                code => fields.push((code, body.string("report field")?)),
            }
        }
        body.finish()?;
        Ok(ReportFields { fields })
    }

    pub(super) fn encode(&self, out: &mut BytesMut, tag: u8) -> Result<(), WireError> {
        Writer::tagged(out, tag)
            .each(&self.fields, |w, (code, value)| w.u8(*code).string(value))
            .u8(0)
            .finish()
    }
}
