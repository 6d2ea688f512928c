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

/// raise_exception: what a function raises that names no SQLSTATE.
const RAISED: &str = "P0001";

/// The SQLSTATEs that the server and its languages raise by themselves (errcodes.txt).
const STANDARD: &str = "\
    00000 01000 01003 01004 01006 01007 01008 0100C 01P01 02000 02001 03000 08000 08001 08003 08004 08006 08007 \
    08P01 08P02 09000 0A000 0B000 0F000 0F001 0L000 0LP01 0P000 0Z000 0Z002 20000 21000 22000 22001 22002 22003 \
    22004 22005 22007 22008 22009 2200B 2200C 2200D 2200F 2200G 2200H 2200L 2200M 2200N 2200S 2200T 22010 22011 \
    22012 22013 22014 22015 22016 22018 22019 2201B 2201E 2201F 2201G 2201W 2201X 22021 22022 22023 22024 22025 \
    22026 22027 2202E 2202G 2202H 22030 22031 22032 22033 22034 22035 22036 22037 22038 22039 2203A 2203B 2203C \
    2203D 2203E 2203F 2203G 22P01 22P02 22P03 22P04 22P05 22P06 22P07 23000 23001 23502 23503 23505 23514 23P01 \
    24000 25000 25001 25002 25003 25004 25005 25006 25007 25008 25P01 25P02 25P03 25P04 26000 27000 28000 28P01 \
    2B000 2BP01 2D000 2F000 2F002 2F003 2F004 2F005 34000 38000 38001 38002 38003 38004 39000 39001 39004 39P01 \
    39P02 39P03 3B000 3B001 3D000 3F000 40000 40001 40002 40003 40P01 42000 42501 42601 42602 42611 42622 42701 \
    42702 42703 42704 42710 42712 42723 42725 42803 42804 42809 42830 42846 42883 428C9 42939 42P01 42P02 42P03 \
    42P04 42P05 42P06 42P07 42P08 42P09 42P10 42P11 42P12 42P13 42P14 42P15 42P16 42P17 42P18 42P19 42P20 42P21 \
    42P22 44000 53000 53100 53200 53300 53400 54000 54001 54011 54023 55000 55006 55P02 55P03 55P04 57000 57014 \
    57P01 57P02 57P03 57P04 57P05 58000 58030 58P01 58P02 72000 F0000 F0001 HV000 HV001 HV002 HV004 HV005 HV006 \
    HV007 HV008 HV009 HV00A HV00B HV00C HV00D HV00J HV00K HV00L HV00M HV00N HV00P HV00Q HV00R HV010 HV014 HV021 \
    HV024 HV090 HV091 P0000 P0001 P0002 P0003 P0004 XX000 XX001 XX002";

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

    /// The same report with nothing in it that could carry data: severity stays, a SQLSTATE of the server's own stays, the
    /// message becomes `message`.
    #[must_use]
    pub fn redacted(&self, message: &str) -> Self {
        let kept = [field::SEVERITY, field::SEVERITY_CODE, field::SQLSTATE];
        let mut fields: Vec<_> =
            self.fields.iter().filter(|(code, _)| kept.contains(code)).cloned().collect();
        // A function can raise any five characters as one.
        for (_, value) in fields.iter_mut().filter(|(code, _)| *code == field::SQLSTATE) {
            if !STANDARD.split_ascii_whitespace().any(|known| known.as_bytes() == value.as_bytes()) {
                *value = PgString::lossy(RAISED);
            }
        }
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
