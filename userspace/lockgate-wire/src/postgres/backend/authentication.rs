//! The Authentication messages: one type byte, told apart by the Int32 that follows (§55.7).

use super::tag;
use crate::postgres::error::WireError;
use crate::postgres::reader::Reader;
use crate::postgres::value::PgString;
use crate::postgres::writer::Writer;
use bytes::{Bytes, BytesMut};

/// Codes of the Authentication messages (§55.7).
mod code {
    pub(super) const OK: u32 = 0;
    pub(super) const KERBEROS_V5: u32 = 2;
    pub(super) const CLEARTEXT_PASSWORD: u32 = 3;
    pub(super) const MD5_PASSWORD: u32 = 5;
    pub(super) const GSS: u32 = 7;
    pub(super) const GSS_CONTINUE: u32 = 8;
    pub(super) const SSPI: u32 = 9;
    pub(super) const SASL: u32 = 10;
    pub(super) const SASL_CONTINUE: u32 = 11;
    pub(super) const SASL_FINAL: u32 = 12;
}

/// A step of the authentication exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// AuthenticationOk.
    Ok,
    /// AuthenticationKerberosV5 (no longer sent by any server).
    KerberosV5,
    /// AuthenticationCleartextPassword.
    CleartextPassword,
    /// AuthenticationMD5Password.
    Md5Password {
        /// The salt for the hash.
        salt: [u8; 4],
    },
    /// AuthenticationGSS.
    Gss,
    /// AuthenticationGSSContinue with its data.
    GssContinue(Bytes),
    /// AuthenticationSSPI.
    Sspi,
    /// AuthenticationSASL with the mechanisms in the server's order of preference.
    Sasl(Vec<PgString>),
    /// AuthenticationSASLContinue with its data.
    SaslContinue(Bytes),
    /// AuthenticationSASLFinal with its data.
    SaslFinal(Bytes),
}

impl Authentication {
    /// The protocol's name of the message.
    pub fn name(&self) -> &'static str {
        match self {
            Authentication::Ok => "AuthenticationOk",
            Authentication::KerberosV5 => "AuthenticationKerberosV5",
            Authentication::CleartextPassword => "AuthenticationCleartextPassword",
            Authentication::Md5Password { .. } => "AuthenticationMD5Password",
            Authentication::Gss => "AuthenticationGSS",
            Authentication::GssContinue(_) => "AuthenticationGSSContinue",
            Authentication::Sspi => "AuthenticationSSPI",
            Authentication::Sasl(_) => "AuthenticationSASL",
            Authentication::SaslContinue(_) => "AuthenticationSASLContinue",
            Authentication::SaslFinal(_) => "AuthenticationSASLFinal",
        }
    }

    pub(super) fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut body = Reader::new("Authentication", body);
        let step = match body.u32("authentication code")? {
            code::OK => Authentication::Ok,
            code::KERBEROS_V5 => Authentication::KerberosV5,
            code::CLEARTEXT_PASSWORD => Authentication::CleartextPassword,
            code::MD5_PASSWORD => Authentication::Md5Password { salt: body.u32("md5 salt")?.to_be_bytes() },
            code::GSS => Authentication::Gss,
            code::GSS_CONTINUE => Authentication::GssContinue(body.take_rest()),
            code::SSPI => Authentication::Sspi,
            code::SASL => Authentication::Sasl(decode_mechanisms(&mut body)?),
            code::SASL_CONTINUE => Authentication::SaslContinue(body.take_rest()),
            code::SASL_FINAL => Authentication::SaslFinal(body.take_rest()),
            got => {
                return Err(WireError::BadValue {
                    what: "authentication code",
                    expected: "0, 2, 3, 5 or 7 to 12",
                    got: i64::from(got),
                });
            }
        };
        body.finish()?;
        Ok(step)
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        let message = Writer::tagged(out, tag::AUTHENTICATION);
        match self {
            Authentication::Ok => message.u32(code::OK),
            Authentication::KerberosV5 => message.u32(code::KERBEROS_V5),
            Authentication::CleartextPassword => message.u32(code::CLEARTEXT_PASSWORD),
            Authentication::Md5Password { salt } => message.u32(code::MD5_PASSWORD).raw(salt),
            Authentication::Gss => message.u32(code::GSS),
            Authentication::GssContinue(data) => message.u32(code::GSS_CONTINUE).raw(data),
            Authentication::Sspi => message.u32(code::SSPI),
            Authentication::Sasl(mechanisms) => {
                message.u32(code::SASL).each(mechanisms, |w, name| w.string(name)).u8(0)
            }
            Authentication::SaslContinue(data) => message.u32(code::SASL_CONTINUE).raw(data),
            Authentication::SaslFinal(data) => message.u32(code::SASL_FINAL).raw(data),
        }
        .finish()
    }
}

/// Names until the empty one.
fn decode_mechanisms(body: &mut Reader) -> Result<Vec<PgString>, WireError> {
    let mut mechanisms = Vec::new();
    loop {
        let name = body.string("SASL mechanism")?;
        if name.is_empty() {
            return Ok(mechanisms);
        }
        mechanisms.push(name);
    }
}
