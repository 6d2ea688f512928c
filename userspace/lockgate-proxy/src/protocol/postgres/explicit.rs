//! How somebody who dials lockgate itself says who it is: a client certificate in the TLS handshake, or else a token in place
//! of the password. Inside TLS, or on loopback.
//!
//! What comes after is the same as for captured connections. It decides nothing.

use super::{leg::Leg, startup::Greeted, words};
use crate::{
    caller::{Caller, CallerError, Explicit},
    limits::Limits,
};
use lockgate_model::{Timestamp, addr::ClientAddr, id::TargetName};
use lockgate_wire::postgres::{
    WireError,
    automaton::ClientLeg,
    backend::{Authentication, Backend, sqlstate},
    frame::{FrameDecoder, Limits as FrameLimits},
    frontend::Frontend,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

/// Bytes of the message with the token.
const MAX_MESSAGE: usize = 8 * 1024;
/// invalid_password (Appendix A).
const INVALID_PASSWORD: &str = "28P01";

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplicitError {
    /// For what was shown, or was not.
    #[error(transparent)]
    Caller(#[from] CallerError),
    /// In the clear over a network a token would be everybody's.
    #[error("the client does not use TLS; a token is asked for inside TLS alone")]
    Clear,
    /// Not the protocol.
    #[error("the client broke the protocol while it was asked for a token: {0}")]
    Wire(#[from] WireError),
    /// Another message came.
    #[error("the client sent {got} when it was asked for a token")]
    Unexpected {
        /// What came.
        got: &'static str,
    },
    /// It left: psql does so to ask for the password.
    #[error("the client left when it was asked for a token: it has none, or asks somebody for it")]
    Left,
    /// It took too long.
    #[error("the client did not answer within {0} s when it was asked for a token")]
    Slow(u64),
}

impl ExplicitError {
    /// SQLSTATE and text for the client. Of a token no more is said than that it does not do: whoever guesses learns nothing.
    pub(super) fn client_text(&self) -> (&'static str, String) {
        match self {
            Self::Caller(CallerError::Expired { .. }) => {
                (INVALID_PASSWORD, "lockgate: the token has expired; ask for a new one".to_owned())
            }
            Self::Caller(CallerError::NoTokens | CallerError::Nameless) => {
                (sqlstate::INVALID_AUTHORIZATION, format!("lockgate: {self}"))
            }
            Self::Caller(_) | Self::Left | Self::Slow(_) => (
                INVALID_PASSWORD,
                "lockgate: expected a token of this agent as the password, or a client certificate"
                    .to_owned(),
            ),
            Self::Clear => (
                sqlstate::INVALID_AUTHORIZATION,
                "lockgate: this address takes TLS only; use sslmode=require or stricter".to_owned(),
            ),
            Self::Wire(_) | Self::Unexpected { .. } => (
                sqlstate::PROTOCOL_VIOLATION,
                "lockgate: expected a password message with a token".to_owned(),
            ),
        }
    }
}

/// Who it is, within the handshake's time.
pub(super) async fn identify<S: AsyncRead + AsyncWrite + Unpin>(
    greeted: &mut Greeted<S>,
    explicit: &Explicit,
    target: &TargetName,
    client: ClientAddr,
    now: impl Fn() -> Timestamp,
    limits: &Limits,
) -> Result<Caller, ExplicitError> {
    if !greeted.tls && explicit.tls.is_some() {
        return Err(ExplicitError::Clear);
    }
    if let Some(certificate) = greeted.leg.stream_ref().peer_certificate() {
        return Ok(Caller::by_certificate(certificate)?);
    }
    let Some(key) = &explicit.tokens else { return Err(CallerError::NoTokens.into()) };
    let asked = timeout(limits.handshake_time, ask(&mut greeted.leg, &mut greeted.client_leg)).await;
    let token = asked.map_err(|_| ExplicitError::Slow(limits.handshake_time.as_secs()))??;
    let claims = key.check(&token, target, client.0.ip(), now())?;
    Ok(Caller::by_token(&claims))
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    leg: &mut Leg<S>,
    client_leg: &mut ClientLeg,
) -> Result<zeroize::Zeroizing<String>, ExplicitError> {
    words::say(leg.output.tail(), &Backend::Authentication(Authentication::CleartextPassword));
    client_leg.handle_password_asked();
    leg.drain().await.map_err(|_| ExplicitError::Left)?;
    let decoder = FrameDecoder::new(FrameLimits { max_message: MAX_MESSAGE, ..FrameLimits::CLIENT });
    loop {
        if let Some(frame) = decoder.next(&mut leg.input)? {
            let message = Frontend::decode(&frame)?;
            client_leg.handle_frontend(&message)?;
            return match message {
                Frontend::Password(answer) => {
                    let text = answer.as_password()?.to_str("the token")?.to_owned();
                    Ok(zeroize::Zeroizing::new(text))
                }
                Frontend::Terminate => Err(ExplicitError::Left),
                other => Err(ExplicitError::Unexpected { got: other.name() }),
            };
        }
        if leg.ended {
            return Err(ExplicitError::Left);
        }
        leg.fill().await.map_err(|_| ExplicitError::Left)?;
    }
}
