//! Which message may follow which: one automaton for each leg of a session (§55.2 "Message Flow").
//!
//! [`ClientLeg`] follows what the client sends and says what each message means now. [`ServerLeg`] follows what was sent
//! upstream and says which request each server message answers. Neither holds bytes, waits, or decides policy; the
//! proxy's session drives both and connects them.

mod client;
mod server;

pub use client::{ClientLeg, ClientPhase, ClientStep, StartupStep};
pub use server::{CopyFate, MAX_OUTSTANDING, Reply, ReplyRole, RequestFate, ServerLeg, Ticket};

use super::backend::tag as backend_tag;
use super::error::{Side, WireError};
use super::frame::Frame;
use super::frontend::Frontend;
use super::value::{Target, TransactionStatus};

/// A client message that the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Query: any number of results, then ReadyForQuery.
    Query,
    /// Parse: ParseComplete.
    Parse,
    /// Bind: BindComplete.
    Bind,
    /// Describe of a prepared statement: ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// Describe of a portal: RowDescription or NoData.
    DescribePortal,
    /// Execute: rows or COPY, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete.
    Close,
    /// Sync: ReadyForQuery.
    Sync,
    /// FunctionCall: FunctionCallResponse, then ReadyForQuery.
    FunctionCall,
}

impl Request {
    /// The request that a client message makes, if the server answers it.
    pub fn of(message: &Frontend) -> Option<Request> {
        match message {
            Frontend::Query(_) => Some(Request::Query),
            Frontend::Parse(_) => Some(Request::Parse),
            Frontend::Bind(_) => Some(Request::Bind),
            Frontend::Describe(Target::Statement(_)) => Some(Request::DescribeStatement),
            Frontend::Describe(Target::Portal(_)) => Some(Request::DescribePortal),
            Frontend::Execute(_) => Some(Request::Execute),
            Frontend::Close(_) => Some(Request::Close),
            Frontend::Sync => Some(Request::Sync),
            Frontend::FunctionCall(_) => Some(Request::FunctionCall),
            Frontend::CopyData(_)
            | Frontend::CopyDone
            | Frontend::CopyFail(_)
            | Frontend::Flush
            | Frontend::Password(_)
            | Frontend::Terminate => None,
        }
    }

    /// The protocol's name of the message.
    pub const fn name(self) -> &'static str {
        match self {
            Request::Query => "Query",
            Request::Parse => "Parse",
            Request::Bind => "Bind",
            Request::DescribeStatement | Request::DescribePortal => "Describe",
            Request::Execute => "Execute",
            Request::Close => "Close",
            Request::Sync => "Sync",
            Request::FunctionCall => "FunctionCall",
        }
    }

    /// Whether the message belongs to a batch that Sync ends.
    pub const fn is_extended(self) -> bool {
        match self {
            Request::Parse
            | Request::Bind
            | Request::DescribeStatement
            | Request::DescribePortal
            | Request::Execute
            | Request::Close => true,
            Request::Query | Request::Sync | Request::FunctionCall => false,
        }
    }
}

/// A client message of COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyInput {
    /// CopyData.
    Data,
    /// CopyDone.
    Done,
    /// CopyFail.
    Fail,
}

impl CopyInput {
    const fn name(self) -> &'static str {
        match self {
            CopyInput::Data => "CopyData",
            CopyInput::Done => "CopyDone",
            CopyInput::Fail => "CopyFail",
        }
    }
}

/// What a server message is, without its body: enough to follow a message that is relayed by header alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the protocol's own; Backend documents each")]
pub enum ReplyKind {
    Authentication,
    BackendKeyData,
    BindComplete,
    CloseComplete,
    CommandComplete,
    CopyBothResponse,
    CopyData,
    CopyDone,
    CopyInResponse,
    CopyOutResponse,
    DataRow,
    EmptyQueryResponse,
    ErrorResponse,
    FunctionCallResponse,
    NegotiateProtocolVersion,
    NoData,
    NoticeResponse,
    NotificationResponse,
    ParameterDescription,
    ParameterStatus,
    ParseComplete,
    PortalSuspended,
    /// The one message whose body matters: it says in what state the transaction is.
    ReadyForQuery(TransactionStatus),
    RowDescription,
}

impl ReplyKind {
    /// The kind of a whole message; of its body only ReadyForQuery's status is read.
    pub fn of(frame: &Frame) -> Result<ReplyKind, WireError> {
        match ReplyKind::of_tag(frame.tag())? {
            Some(kind) => Ok(kind),
            None => match &frame.body()[..] {
                [status] => TransactionStatus::from_code(*status).map(ReplyKind::ReadyForQuery),
                [] => Err(WireError::Truncated { what: "ReadyForQuery", expected: 1, got: 0 }),
                [_, rest @ ..] => Err(WireError::TrailingBytes { what: "ReadyForQuery", extra: rest.len() }),
            },
        }
    }

    /// The kind that a type byte tells; `None` for ReadyForQuery, which has to be read whole.
    pub fn of_tag(tag: u8) -> Result<Option<ReplyKind>, WireError> {
        Ok(Some(match tag {
            backend_tag::AUTHENTICATION => ReplyKind::Authentication,
            backend_tag::BACKEND_KEY_DATA => ReplyKind::BackendKeyData,
            backend_tag::BIND_COMPLETE => ReplyKind::BindComplete,
            backend_tag::CLOSE_COMPLETE => ReplyKind::CloseComplete,
            backend_tag::COMMAND_COMPLETE => ReplyKind::CommandComplete,
            backend_tag::COPY_BOTH_RESPONSE => ReplyKind::CopyBothResponse,
            backend_tag::COPY_DATA => ReplyKind::CopyData,
            backend_tag::COPY_DONE => ReplyKind::CopyDone,
            backend_tag::COPY_IN_RESPONSE => ReplyKind::CopyInResponse,
            backend_tag::COPY_OUT_RESPONSE => ReplyKind::CopyOutResponse,
            backend_tag::DATA_ROW => ReplyKind::DataRow,
            backend_tag::EMPTY_QUERY_RESPONSE => ReplyKind::EmptyQueryResponse,
            backend_tag::ERROR_RESPONSE => ReplyKind::ErrorResponse,
            backend_tag::FUNCTION_CALL_RESPONSE => ReplyKind::FunctionCallResponse,
            backend_tag::NEGOTIATE_PROTOCOL_VERSION => ReplyKind::NegotiateProtocolVersion,
            backend_tag::NO_DATA => ReplyKind::NoData,
            backend_tag::NOTICE_RESPONSE => ReplyKind::NoticeResponse,
            backend_tag::NOTIFICATION_RESPONSE => ReplyKind::NotificationResponse,
            backend_tag::PARAMETER_DESCRIPTION => ReplyKind::ParameterDescription,
            backend_tag::PARAMETER_STATUS => ReplyKind::ParameterStatus,
            backend_tag::PARSE_COMPLETE => ReplyKind::ParseComplete,
            backend_tag::PORTAL_SUSPENDED => ReplyKind::PortalSuspended,
            backend_tag::READY_FOR_QUERY => return Ok(None),
            backend_tag::ROW_DESCRIPTION => ReplyKind::RowDescription,
            tag => return Err(WireError::UnknownTag { side: Side::Server, tag }),
        }))
    }

    /// The protocol's name of the message.
    pub const fn name(self) -> &'static str {
        match self {
            ReplyKind::Authentication => "Authentication",
            ReplyKind::BackendKeyData => "BackendKeyData",
            ReplyKind::BindComplete => "BindComplete",
            ReplyKind::CloseComplete => "CloseComplete",
            ReplyKind::CommandComplete => "CommandComplete",
            ReplyKind::CopyBothResponse => "CopyBothResponse",
            ReplyKind::CopyData => "CopyData",
            ReplyKind::CopyDone => "CopyDone",
            ReplyKind::CopyInResponse => "CopyInResponse",
            ReplyKind::CopyOutResponse => "CopyOutResponse",
            ReplyKind::DataRow => "DataRow",
            ReplyKind::EmptyQueryResponse => "EmptyQueryResponse",
            ReplyKind::ErrorResponse => "ErrorResponse",
            ReplyKind::FunctionCallResponse => "FunctionCallResponse",
            ReplyKind::NegotiateProtocolVersion => "NegotiateProtocolVersion",
            ReplyKind::NoData => "NoData",
            ReplyKind::NoticeResponse => "NoticeResponse",
            ReplyKind::NotificationResponse => "NotificationResponse",
            ReplyKind::ParameterDescription => "ParameterDescription",
            ReplyKind::ParameterStatus => "ParameterStatus",
            ReplyKind::ParseComplete => "ParseComplete",
            ReplyKind::PortalSuspended => "PortalSuspended",
            ReplyKind::ReadyForQuery(_) => "ReadyForQuery",
            ReplyKind::RowDescription => "RowDescription",
        }
    }
}

#[cfg(test)]
mod tests;
