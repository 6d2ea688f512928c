//! Every message that a client sends after startup (§55.7, those marked "F").
//!
//! Decoding shares the frame's buffer. It does not judge: whether a message is in order is the automaton's business,
//! whether it is allowed is policy's.

use super::error::{Side, WireError};
use super::frame::Frame;
use super::reader::Reader;
use super::value::{Format, PgString, Target};
use super::writer::Writer;
use bytes::{Bytes, BytesMut};

/// Type bytes of client messages (§55.7).
pub mod tag {
    /// Bind.
    pub const BIND: u8 = b'B';
    /// Close.
    pub const CLOSE: u8 = b'C';
    /// CopyData (also sent by the server).
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone (also sent by the server).
    pub const COPY_DONE: u8 = b'c';
    /// CopyFail.
    pub const COPY_FAIL: u8 = b'f';
    /// Describe.
    pub const DESCRIBE: u8 = b'D';
    /// Execute.
    pub const EXECUTE: u8 = b'E';
    /// Flush.
    pub const FLUSH: u8 = b'H';
    /// FunctionCall.
    pub const FUNCTION_CALL: u8 = b'F';
    /// Parse.
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse: the context tells which.
    pub const PASSWORD: u8 = b'p';
    /// Query.
    pub const QUERY: u8 = b'Q';
    /// Sync.
    pub const SYNC: u8 = b'S';
    /// Terminate.
    pub const TERMINATE: u8 = b'X';
}

/// A client message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frontend {
    /// Binds parameter values to a prepared statement, making a portal.
    Bind(Bind),
    /// Forgets a prepared statement or a portal.
    Close(Target),
    /// A piece of COPY data.
    CopyData(Bytes),
    /// The end of COPY data.
    CopyDone,
    /// Ends COPY with a failure, with the client's reason.
    CopyFail(PgString),
    /// Asks for the description of a prepared statement or a portal.
    Describe(Target),
    /// Runs a portal.
    Execute(Execute),
    /// Asks the server to send what it has.
    Flush,
    /// Calls a function by OID, without any statement.
    FunctionCall(FunctionCall),
    /// Prepares a statement.
    Parse(Parse),
    /// A message of the authentication exchange.
    Password(PasswordFamily),
    /// The simple protocol: one string with any number of statements.
    Query(PgString),
    /// Ends a batch of the extended protocol.
    Sync,
    /// Ends the session.
    Terminate,
}

/// Prepares a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parse {
    /// The prepared statement's name; empty is the unnamed one.
    pub statement: PgString,
    /// The text of exactly one statement.
    pub sql: PgString,
    /// OIDs of parameter types; 0 leaves it to the server, and so does a list shorter than the parameters.
    pub parameter_types: Vec<u32>,
}

/// Makes a portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The portal's name; empty is the unnamed one.
    pub portal: PgString,
    /// The prepared statement's name.
    pub statement: PgString,
    /// Formats of the parameters: none (all text), one (for all), or one each.
    pub parameter_formats: Vec<Format>,
    /// The values; `None` is NULL.
    pub parameters: Vec<Option<Bytes>>,
    /// Formats of the result columns, in the same manner.
    pub result_formats: Vec<Format>,
}

/// Runs a portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    /// The portal's name; empty is the unnamed one.
    pub portal: PgString,
    /// Rows to return at most; 0 (or less) is no limit.
    pub max_rows: i32,
}

/// Calls a function by OID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionCall {
    /// OID of the function.
    pub function: u32,
    /// Formats of the arguments, as in Bind.
    pub argument_formats: Vec<Format>,
    /// The arguments; `None` is NULL.
    pub arguments: Vec<Option<Bytes>>,
    /// Format of the result.
    pub result_format: Format,
}

/// The body of a message of type 'p'. Which of the four it is only the running exchange knows (§55.7 says so itself).
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordFamily(Bytes);

impl PasswordFamily {
    /// A body that is made elsewhere (GSSResponse, SASLResponse).
    pub fn raw(body: Bytes) -> Self {
        PasswordFamily(body)
    }

    /// A PasswordMessage.
    pub fn password(password: &PgString) -> Self {
        PasswordFamily([password.as_bytes(), b"\0"].concat().into())
    }

    /// A SASLInitialResponse with its first message.
    pub fn sasl_initial(mechanism: &PgString, response: &[u8]) -> Result<Self, WireError> {
        let what = "SASLInitialResponse";
        let length = i32::try_from(response.len()).map_err(|_| WireError::LengthTooLarge {
            what,
            limit: i32::MAX as usize,
            got: response.len(),
        })?;
        Ok(PasswordFamily([mechanism.as_bytes(), b"\0", &length.to_be_bytes(), response].concat().into()))
    }

    /// Reads it as a PasswordMessage.
    pub fn as_password(&self) -> Result<PgString, WireError> {
        let mut body = Reader::new("PasswordMessage", self.0.clone());
        let password = body.string("password")?;
        body.finish()?;
        Ok(password)
    }

    /// Reads it as a SASLInitialResponse: mechanism and optional first message.
    pub fn as_sasl_initial(&self) -> Result<(PgString, Option<Bytes>), WireError> {
        let mut body = Reader::new("SASLInitialResponse", self.0.clone());
        let mechanism = body.string("SASL mechanism")?;
        let response = body.value("SASL initial response")?;
        body.finish()?;
        Ok((mechanism, response))
    }

    /// Reads it as a SASLResponse or GSSResponse: all of it is mechanism data.
    pub fn as_sasl_response(&self) -> &Bytes {
        &self.0
    }
}

/// It may be a password: it stays out of logs.
impl std::fmt::Debug for PasswordFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PasswordFamily({} bytes)", self.0.len())
    }
}

impl Frontend {
    /// Decodes a whole client message.
    pub fn decode(frame: &Frame) -> Result<Frontend, WireError> {
        let body = frame.body();
        match frame.tag() {
            tag::BIND => Bind::decode(body).map(Frontend::Bind),
            tag::CLOSE => decode_target("Close", body).map(Frontend::Close),
            tag::COPY_DATA => Ok(Frontend::CopyData(body)),
            tag::COPY_DONE => empty("CopyDone", body, Frontend::CopyDone),
            tag::COPY_FAIL => one_string("CopyFail", body).map(Frontend::CopyFail),
            tag::DESCRIBE => decode_target("Describe", body).map(Frontend::Describe),
            tag::EXECUTE => Execute::decode(body).map(Frontend::Execute),
            tag::FLUSH => empty("Flush", body, Frontend::Flush),
            tag::FUNCTION_CALL => FunctionCall::decode(body).map(Frontend::FunctionCall),
            tag::PARSE => Parse::decode(body).map(Frontend::Parse),
            tag::PASSWORD => Ok(Frontend::Password(PasswordFamily(body))),
            tag::QUERY => one_string("Query", body).map(Frontend::Query),
            tag::SYNC => empty("Sync", body, Frontend::Sync),
            tag::TERMINATE => empty("Terminate", body, Frontend::Terminate),
            tag => Err(WireError::UnknownTag { side: Side::Client, tag }),
        }
    }

    /// The protocol's name of the message.
    pub fn name(&self) -> &'static str {
        match self {
            Frontend::Bind(_) => "Bind",
            Frontend::Close(_) => "Close",
            Frontend::CopyData(_) => "CopyData",
            Frontend::CopyDone => "CopyDone",
            Frontend::CopyFail(_) => "CopyFail",
            Frontend::Describe(_) => "Describe",
            Frontend::Execute(_) => "Execute",
            Frontend::Flush => "Flush",
            Frontend::FunctionCall(_) => "FunctionCall",
            Frontend::Parse(_) => "Parse",
            Frontend::Password(_) => "PasswordMessage",
            Frontend::Query(_) => "Query",
            Frontend::Sync => "Sync",
            Frontend::Terminate => "Terminate",
        }
    }

    /// Appends the message to `out`; on an error `out` is unchanged.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Frontend::Bind(bind) => bind.encode(out),
            Frontend::Close(target) => encode_target(out, tag::CLOSE, target),
            Frontend::CopyData(data) => Writer::tagged(out, tag::COPY_DATA).raw(data).finish(),
            Frontend::CopyDone => Writer::tagged(out, tag::COPY_DONE).finish(),
            Frontend::CopyFail(reason) => Writer::tagged(out, tag::COPY_FAIL).string(reason).finish(),
            Frontend::Describe(target) => encode_target(out, tag::DESCRIBE, target),
            Frontend::Execute(execute) => execute.encode(out),
            Frontend::Flush => Writer::tagged(out, tag::FLUSH).finish(),
            Frontend::FunctionCall(call) => call.encode(out),
            Frontend::Parse(parse) => parse.encode(out),
            Frontend::Password(body) => Writer::tagged(out, tag::PASSWORD).raw(&body.0).finish(),
            Frontend::Query(sql) => Writer::tagged(out, tag::QUERY).string(sql).finish(),
            Frontend::Sync => Writer::tagged(out, tag::SYNC).finish(),
            Frontend::Terminate => Writer::tagged(out, tag::TERMINATE).finish(),
        }
    }

    /// The message alone in a buffer of its own.
    pub fn to_bytes(&self) -> Result<Bytes, WireError> {
        let mut out = BytesMut::new();
        self.encode(&mut out)?;
        Ok(out.freeze())
    }
}

impl Parse {
    fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("Parse", body);
        let statement = body.string("statement name")?;
        let sql = body.string("statement text")?;
        let count = body.count("parameter types", 4)?;
        let parameter_types = (0..count).map(|_| body.u32("parameter type")).collect::<Result<_, _>>()?;
        body.finish()?;
        Ok(Parse { statement, sql, parameter_types })
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        Writer::tagged(out, tag::PARSE)
            .string(&self.statement)
            .string(&self.sql)
            .count("parameter types", self.parameter_types.len())
            .each(&self.parameter_types, |w, oid| w.u32(*oid))
            .finish()
    }
}

impl Bind {
    fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("Bind", body);
        let portal = body.string("portal name")?;
        let statement = body.string("statement name")?;
        let parameter_formats = body.formats("parameter formats")?;
        let parameters = decode_values(&mut body, "parameter value")?;
        let result_formats = body.formats("result formats")?;
        body.finish()?;
        Ok(Bind { portal, statement, parameter_formats, parameters, result_formats })
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        Writer::tagged(out, tag::BIND)
            .string(&self.portal)
            .string(&self.statement)
            .formats("parameter formats", &self.parameter_formats)
            .count("parameters", self.parameters.len())
            .each(&self.parameters, |w, value| w.value("parameter value", value.as_deref()))
            .formats("result formats", &self.result_formats)
            .finish()
    }
}

impl Execute {
    fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("Execute", body);
        let portal = body.string("portal name")?;
        let max_rows = body.i32("row limit")?;
        body.finish()?;
        Ok(Execute { portal, max_rows })
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        Writer::tagged(out, tag::EXECUTE).string(&self.portal).i32(self.max_rows).finish()
    }
}

impl FunctionCall {
    fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("FunctionCall", body);
        let function = body.u32("function OID")?;
        let argument_formats = body.formats("argument formats")?;
        let arguments = decode_values(&mut body, "argument value")?;
        let result_format = Format::from_code("result format", body.u16("result format")?)?;
        body.finish()?;
        Ok(FunctionCall { function, argument_formats, arguments, result_format })
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        Writer::tagged(out, tag::FUNCTION_CALL)
            .u32(self.function)
            .formats("argument formats", &self.argument_formats)
            .count("arguments", self.arguments.len())
            .each(&self.arguments, |w, value| w.value("argument value", value.as_deref()))
            .u16(self.result_format.code())
            .finish()
    }
}

fn decode_values(body: &mut Reader, what: &'static str) -> Result<Vec<Option<Bytes>>, WireError> {
    let count = body.count(what, 4)?;
    (0..count).map(|_| body.value(what)).collect()
}

fn decode_target(message: &'static str, body: Bytes) -> Result<Target, WireError> {
    let mut body = Reader::new(message, body);
    let kind = body.u8("target kind")?;
    let name = body.string("target name")?;
    body.finish()?;
    match kind {
        b'S' => Ok(Target::Statement(name)),
        b'P' => Ok(Target::Portal(name)),
        got => Err(WireError::BadValue {
            what: "target kind",
            expected: "'S' (statement) or 'P' (portal)",
            got: i64::from(got),
        }),
    }
}

fn encode_target(out: &mut BytesMut, tag: u8, target: &Target) -> Result<(), WireError> {
    Writer::tagged(out, tag).u8(target.code()).string(target.name()).finish()
}

fn one_string(message: &'static str, body: Bytes) -> Result<PgString, WireError> {
    let mut body = Reader::new(message, body);
    let text = body.string(message)?;
    body.finish()?;
    Ok(text)
}

fn empty(message: &'static str, body: Bytes, decoded: Frontend) -> Result<Frontend, WireError> {
    Reader::new(message, body).finish().map(|()| decoded)
}
