//! Every message that a server sends (§55.7, those marked "B").
//!
//! Decoding shares the frame's buffer; rows are walked, not collected. Masking, and what belongs to which request, are
//! not decided here.

mod authentication;
mod report;
mod row;

pub use authentication::Authentication;
pub use report::{ReportFields, Severity, field, sqlstate};
pub use row::{Column, DataRow, DataRowWriter, Fields};

use super::error::{Side, WireError};
use super::frame::Frame;
use super::reader::Reader;
use super::startup::check_cancel_key;
use super::value::{Format, PgString, TransactionStatus};
use super::writer::Writer;
use bytes::{Bytes, BytesMut};

/// Type bytes of server messages (§55.7).
pub mod tag {
    /// All Authentication messages; the Int32 that follows tells which.
    pub const AUTHENTICATION: u8 = b'R';
    /// BackendKeyData.
    pub const BACKEND_KEY_DATA: u8 = b'K';
    /// BindComplete.
    pub const BIND_COMPLETE: u8 = b'2';
    /// CloseComplete.
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// CommandComplete.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// CopyBothResponse.
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    /// CopyData (also sent by the client).
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone (also sent by the client).
    pub const COPY_DONE: u8 = b'c';
    /// CopyInResponse.
    pub const COPY_IN_RESPONSE: u8 = b'G';
    /// CopyOutResponse.
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    /// DataRow.
    pub const DATA_ROW: u8 = b'D';
    /// EmptyQueryResponse.
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    /// ErrorResponse.
    pub const ERROR_RESPONSE: u8 = b'E';
    /// FunctionCallResponse.
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    /// NegotiateProtocolVersion.
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    /// NoData.
    pub const NO_DATA: u8 = b'n';
    /// NoticeResponse.
    pub const NOTICE_RESPONSE: u8 = b'N';
    /// NotificationResponse.
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    /// ParameterDescription.
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    /// ParameterStatus.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// ParseComplete.
    pub const PARSE_COMPLETE: u8 = b'1';
    /// PortalSuspended.
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// ReadyForQuery.
    pub const READY_FOR_QUERY: u8 = b'Z';
    /// RowDescription.
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// A server message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A step of the authentication exchange.
    Authentication(Authentication),
    /// What a CancelRequest for this session must carry.
    BackendKeyData(BackendKeyData),
    /// Bind succeeded.
    BindComplete,
    /// Close succeeded.
    CloseComplete,
    /// A command ended; the text is its tag, such as `SELECT 3`.
    CommandComplete(PgString),
    /// Replication streaming begins.
    CopyBothResponse(CopyResponse),
    /// A piece of COPY data.
    CopyData(Bytes),
    /// The end of COPY data.
    CopyDone,
    /// The server waits for COPY data.
    CopyInResponse(CopyResponse),
    /// The server is about to send COPY data.
    CopyOutResponse(CopyResponse),
    /// One row.
    DataRow(DataRow),
    /// The statement was empty.
    EmptyQueryResponse,
    /// A failure.
    ErrorResponse(ReportFields),
    /// The result of a FunctionCall.
    FunctionCallResponse(Option<Bytes>),
    /// The server speaks an older minor version, or does not know an extension.
    NegotiateProtocolVersion(NegotiateProtocolVersion),
    /// What was described returns no rows.
    NoData,
    /// A warning or information.
    NoticeResponse(ReportFields),
    /// A NOTIFY of some session.
    NotificationResponse(Notification),
    /// OIDs of a prepared statement's parameter types.
    ParameterDescription(Vec<u32>),
    /// A run-time parameter has this value now.
    ParameterStatus {
        /// The parameter.
        name: PgString,
        /// Its value.
        value: PgString,
    },
    /// Parse succeeded.
    ParseComplete,
    /// Execute reached its row limit.
    PortalSuspended,
    /// The server waits for the next request.
    ReadyForQuery(TransactionStatus),
    /// The columns of the rows to come.
    RowDescription(Vec<Column>),
}

/// What a CancelRequest for this session must carry.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendKeyData {
    /// Process id of the backend.
    pub process_id: u32,
    /// Its secret key, 4 to 256 bytes.
    pub key: Bytes,
}

/// The key opens this session's cancellation: it stays out of logs.
impl std::fmt::Debug for BackendKeyData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendKeyData").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

/// How COPY data will look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyResponse {
    /// Text (rows by newlines) or binary.
    pub format: Format,
    /// The format of each column.
    pub columns: Vec<Format>,
}

/// The server's answer to a minor version or extension that it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiateProtocolVersion {
    /// The newest minor version it speaks. Servers send the whole version number here (`0x30000`), not the minor alone.
    pub newest: u32,
    /// The `_pq_.` options that it does not know.
    pub unknown_options: Vec<PgString>,
}

/// A NOTIFY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Process id of the backend that notified.
    pub process_id: u32,
    /// The channel.
    pub channel: PgString,
    /// The payload.
    pub payload: PgString,
}

impl Backend {
    /// Decodes a whole server message.
    pub fn decode(frame: &Frame) -> Result<Backend, WireError> {
        let body = frame.body();
        match frame.tag() {
            tag::AUTHENTICATION => Authentication::decode(body).map(Backend::Authentication),
            tag::BACKEND_KEY_DATA => BackendKeyData::decode(body).map(Backend::BackendKeyData),
            tag::BIND_COMPLETE => empty("BindComplete", body, Backend::BindComplete),
            tag::CLOSE_COMPLETE => empty("CloseComplete", body, Backend::CloseComplete),
            tag::COMMAND_COMPLETE => one_string("CommandComplete", body).map(Backend::CommandComplete),
            tag::COPY_BOTH_RESPONSE => CopyResponse::decode(body).map(Backend::CopyBothResponse),
            tag::COPY_DATA => Ok(Backend::CopyData(body)),
            tag::COPY_DONE => empty("CopyDone", body, Backend::CopyDone),
            tag::COPY_IN_RESPONSE => CopyResponse::decode(body).map(Backend::CopyInResponse),
            tag::COPY_OUT_RESPONSE => CopyResponse::decode(body).map(Backend::CopyOutResponse),
            tag::DATA_ROW => DataRow::decode(body).map(Backend::DataRow),
            tag::EMPTY_QUERY_RESPONSE => empty("EmptyQueryResponse", body, Backend::EmptyQueryResponse),
            tag::ERROR_RESPONSE => ReportFields::decode("ErrorResponse", body).map(Backend::ErrorResponse),
            tag::FUNCTION_CALL_RESPONSE => decode_function_result(body).map(Backend::FunctionCallResponse),
            tag::NEGOTIATE_PROTOCOL_VERSION => {
                NegotiateProtocolVersion::decode(body).map(Backend::NegotiateProtocolVersion)
            }
            tag::NO_DATA => empty("NoData", body, Backend::NoData),
            tag::NOTICE_RESPONSE => ReportFields::decode("NoticeResponse", body).map(Backend::NoticeResponse),
            tag::NOTIFICATION_RESPONSE => Notification::decode(body).map(Backend::NotificationResponse),
            tag::PARAMETER_DESCRIPTION => decode_parameter_types(body).map(Backend::ParameterDescription),
            tag::PARAMETER_STATUS => decode_parameter_status(body),
            tag::PARSE_COMPLETE => empty("ParseComplete", body, Backend::ParseComplete),
            tag::PORTAL_SUSPENDED => empty("PortalSuspended", body, Backend::PortalSuspended),
            tag::READY_FOR_QUERY => decode_ready(body).map(Backend::ReadyForQuery),
            tag::ROW_DESCRIPTION => row::decode_description(body).map(Backend::RowDescription),
            tag => Err(WireError::UnknownTag { side: Side::Server, tag }),
        }
    }

    /// The protocol's name of the message.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Authentication(step) => step.name(),
            Backend::BackendKeyData(_) => "BackendKeyData",
            Backend::BindComplete => "BindComplete",
            Backend::CloseComplete => "CloseComplete",
            Backend::CommandComplete(_) => "CommandComplete",
            Backend::CopyBothResponse(_) => "CopyBothResponse",
            Backend::CopyData(_) => "CopyData",
            Backend::CopyDone => "CopyDone",
            Backend::CopyInResponse(_) => "CopyInResponse",
            Backend::CopyOutResponse(_) => "CopyOutResponse",
            Backend::DataRow(_) => "DataRow",
            Backend::EmptyQueryResponse => "EmptyQueryResponse",
            Backend::ErrorResponse(_) => "ErrorResponse",
            Backend::FunctionCallResponse(_) => "FunctionCallResponse",
            Backend::NegotiateProtocolVersion(_) => "NegotiateProtocolVersion",
            Backend::NoData => "NoData",
            Backend::NoticeResponse(_) => "NoticeResponse",
            Backend::NotificationResponse(_) => "NotificationResponse",
            Backend::ParameterDescription(_) => "ParameterDescription",
            Backend::ParameterStatus { .. } => "ParameterStatus",
            Backend::ParseComplete => "ParseComplete",
            Backend::PortalSuspended => "PortalSuspended",
            Backend::ReadyForQuery(_) => "ReadyForQuery",
            Backend::RowDescription(_) => "RowDescription",
        }
    }

    /// Appends the message to `out`; on an error `out` is unchanged.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Backend::Authentication(step) => step.encode(out),
            Backend::BackendKeyData(data) => data.encode(out),
            Backend::BindComplete => Writer::tagged(out, tag::BIND_COMPLETE).finish(),
            Backend::CloseComplete => Writer::tagged(out, tag::CLOSE_COMPLETE).finish(),
            Backend::CommandComplete(text) => {
                Writer::tagged(out, tag::COMMAND_COMPLETE).string(text).finish()
            }
            Backend::CopyBothResponse(copy) => copy.encode(out, tag::COPY_BOTH_RESPONSE),
            Backend::CopyData(data) => Writer::tagged(out, tag::COPY_DATA).raw(data).finish(),
            Backend::CopyDone => Writer::tagged(out, tag::COPY_DONE).finish(),
            Backend::CopyInResponse(copy) => copy.encode(out, tag::COPY_IN_RESPONSE),
            Backend::CopyOutResponse(copy) => copy.encode(out, tag::COPY_OUT_RESPONSE),
            Backend::DataRow(row) => row.encode(out),
            Backend::EmptyQueryResponse => Writer::tagged(out, tag::EMPTY_QUERY_RESPONSE).finish(),
            Backend::ErrorResponse(fields) => fields.encode(out, tag::ERROR_RESPONSE),
            Backend::FunctionCallResponse(result) => Writer::tagged(out, tag::FUNCTION_CALL_RESPONSE)
                .value("function result", result.as_deref())
                .finish(),
            Backend::NegotiateProtocolVersion(answer) => answer.encode(out),
            Backend::NoData => Writer::tagged(out, tag::NO_DATA).finish(),
            Backend::NoticeResponse(fields) => fields.encode(out, tag::NOTICE_RESPONSE),
            Backend::NotificationResponse(notification) => notification.encode(out),
            Backend::ParameterDescription(types) => Writer::tagged(out, tag::PARAMETER_DESCRIPTION)
                .count("parameter types", types.len())
                .each(types, |w, oid| w.u32(*oid))
                .finish(),
            Backend::ParameterStatus { name, value } => {
                Writer::tagged(out, tag::PARAMETER_STATUS).string(name).string(value).finish()
            }
            Backend::ParseComplete => Writer::tagged(out, tag::PARSE_COMPLETE).finish(),
            Backend::PortalSuspended => Writer::tagged(out, tag::PORTAL_SUSPENDED).finish(),
            Backend::ReadyForQuery(status) => {
                Writer::tagged(out, tag::READY_FOR_QUERY).u8(status.code()).finish()
            }
            Backend::RowDescription(columns) => row::encode_description(out, columns),
        }
    }

    /// The message alone in a buffer of its own.
    pub fn to_bytes(&self) -> Result<Bytes, WireError> {
        let mut out = BytesMut::new();
        self.encode(&mut out)?;
        Ok(out.freeze())
    }
}

impl BackendKeyData {
    fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("BackendKeyData", body);
        let process_id = body.u32("backend process id")?;
        let key = body.take_rest();
        check_cancel_key(key.len())?;
        Ok(BackendKeyData { process_id, key })
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        check_cancel_key(self.key.len())?;
        Writer::tagged(out, tag::BACKEND_KEY_DATA).u32(self.process_id).raw(&self.key).finish()
    }
}

impl CopyResponse {
    fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("Copy response", body);
        let format = Format::from_code("COPY format", u16::from(body.u8("COPY format")?))?;
        let columns = body.formats("COPY column formats")?;
        body.finish()?;
        Ok(CopyResponse { format, columns })
    }

    fn encode(&self, out: &mut BytesMut, tag: u8) -> Result<(), WireError> {
        let format = match self.format {
            Format::Text => 0,
            Format::Binary => 1,
        };
        Writer::tagged(out, tag).u8(format).formats("COPY column formats", &self.columns).finish()
    }
}

impl NegotiateProtocolVersion {
    fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("NegotiateProtocolVersion", body);
        let newest = body.u32("newest minor version")?;
        let what = "unknown option count";
        let count = body.u32(what)? as usize;
        // Each name has at least its zero byte: a count that cannot fit is refused before anything is allocated for it.
        if count > body.remaining() {
            return Err(WireError::Truncated { what, expected: count, got: body.remaining() });
        }
        let unknown_options = (0..count).map(|_| body.string("unknown option")).collect::<Result<_, _>>()?;
        body.finish()?;
        Ok(NegotiateProtocolVersion { newest, unknown_options })
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        let count = u32::try_from(self.unknown_options.len()).map_err(|_| WireError::TooMany {
            what: "unknown options",
            limit: u32::MAX as usize,
            got: self.unknown_options.len(),
        })?;
        Writer::tagged(out, tag::NEGOTIATE_PROTOCOL_VERSION)
            .u32(self.newest)
            .u32(count)
            .each(&self.unknown_options, |w, name| w.string(name))
            .finish()
    }
}

impl Notification {
    fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("NotificationResponse", body);
        let process_id = body.u32("notifying process id")?;
        let channel = body.string("channel")?;
        let payload = body.string("payload")?;
        body.finish()?;
        Ok(Notification { process_id, channel, payload })
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        Writer::tagged(out, tag::NOTIFICATION_RESPONSE)
            .u32(self.process_id)
            .string(&self.channel)
            .string(&self.payload)
            .finish()
    }
}

fn decode_function_result(body: Bytes) -> Result<Option<Bytes>, WireError> {
    let mut body = Reader::new("FunctionCallResponse", body);
    let result = body.value("function result")?;
    body.finish()?;
    Ok(result)
}

fn decode_parameter_types(body: Bytes) -> Result<Vec<u32>, WireError> {
    let mut body = Reader::new("ParameterDescription", body);
    let count = body.count("parameter types", 4)?;
    let types = (0..count).map(|_| body.u32("parameter type")).collect::<Result<_, _>>()?;
    body.finish()?;
    Ok(types)
}

fn decode_parameter_status(body: Bytes) -> Result<Backend, WireError> {
    let mut body = Reader::new("ParameterStatus", body);
    let name = body.string("parameter name")?;
    let value = body.string("parameter value")?;
    body.finish()?;
    Ok(Backend::ParameterStatus { name, value })
}

fn decode_ready(body: Bytes) -> Result<TransactionStatus, WireError> {
    let mut body = Reader::new("ReadyForQuery", body);
    let status = TransactionStatus::from_code(body.u8("transaction status")?)?;
    body.finish()?;
    Ok(status)
}

fn one_string(message: &'static str, body: Bytes) -> Result<PgString, WireError> {
    let mut body = Reader::new(message, body);
    let text = body.string(message)?;
    body.finish()?;
    Ok(text)
}

fn empty(message: &'static str, body: Bytes, decoded: Backend) -> Result<Backend, WireError> {
    Reader::new(message, body).finish().map(|()| decoded)
}
