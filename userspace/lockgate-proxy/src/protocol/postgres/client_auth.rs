//! What a client may ask of lockgate as a server: SCRAM-SHA-256(-PLUS), for users whose verifier is configured.
//!
//! It is for the client's sake: one that insists (`channel_binding=require`, `require_auth=scram-sha-256`) learns that it
//! talks to somebody who knows its verifier, over this very TLS connection. Who the job is, the kernel says; its password
//! goes nowhere. Users without a verifier are let in without being asked.

use super::{leg::Leg, words};
use crate::{
    limits::Limits,
    scram::{self, Offer, ScramError, Verifier},
};
use lockgate_wire::postgres::{
    PgString, WireError,
    automaton::ClientLeg,
    backend::{Authentication, Backend, sqlstate},
    frame::{FrameDecoder, Limits as FrameLimits},
    frontend::{Frontend, PasswordFamily},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

/// Bytes of one message of the exchange: libpq and the drivers send a few hundred.
const MAX_MESSAGE: usize = 8 * 1024;

/// Why a client is not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientAuthError {
    /// The exchange failed.
    #[error(transparent)]
    Scram(#[from] ScramError),
    /// Not the protocol.
    #[error("the client broke the protocol while it was asked for SCRAM: {0}")]
    Wire(#[from] WireError),
    /// Another message came.
    #[error("the client sent {got} when it was asked for SCRAM")]
    Unexpected {
        /// What came.
        got: &'static str,
    },
    /// It left.
    #[error("the client left when it was asked for SCRAM: it has no password, or wants to be let in without")]
    Left,
    /// It took too long.
    #[error("the client did not answer within {0} s when it was asked for SCRAM")]
    Slow(u64),
}

impl ClientAuthError {
    /// SQLSTATE and text for the client; never says what of the proof was wrong.
    pub(super) fn client_text(&self, user: &str) -> (&'static str, String) {
        let failed = format!("lockgate: password authentication failed for user {user:?} (client_auth)");
        match self {
            Self::Scram(ScramError::Downgrade | ScramError::Binding | ScramError::Mechanism { .. }) => {
                (sqlstate::PROTOCOL_VIOLATION, format!("lockgate: {self}"))
            }
            Self::Scram(_) => (INVALID_PASSWORD, failed),
            Self::Wire(_) | Self::Unexpected { .. } => {
                (sqlstate::PROTOCOL_VIOLATION, "lockgate: expected an answer to SCRAM".to_owned())
            }
            Self::Left | Self::Slow(_) => (INVALID_PASSWORD, failed),
        }
    }
}

/// invalid_password (Appendix A).
const INVALID_PASSWORD: &str = "28P01";

/// Runs the exchange, within the handshake's time.
pub(super) async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
    leg: &mut Leg<S>,
    client_leg: &mut ClientLeg,
    verifier: &Verifier,
    offer: &Offer,
    limits: &Limits,
) -> Result<(), ClientAuthError> {
    match timeout(limits.handshake_time, exchange(leg, client_leg, verifier, offer)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientAuthError::Slow(limits.handshake_time.as_secs())),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    leg: &mut Leg<S>,
    client_leg: &mut ClientLeg,
    verifier: &Verifier,
    offer: &Offer,
) -> Result<(), ClientAuthError> {
    let mechanisms = offer.mechanisms().iter().map(|name| PgString::from_static(name)).collect();
    let chosen = ask(leg, client_leg, Authentication::Sasl(mechanisms)).await?;
    let (mechanism, first) = chosen.as_sasl_initial()?;
    let mechanism = mechanism.to_string_lossy();
    // A client that sends its first message only when asked to: nobody does, PostgreSQL's server can't either.
    let first = first.unwrap_or_default();
    let (answer, challenge) = scram::begin(verifier, offer, &mechanism, &first)?;
    let proof = ask(leg, client_leg, Authentication::SaslContinue(answer.into_bytes().into())).await?;
    let last = challenge.finish(proof.as_sasl_response())?;
    words::say(
        leg.output.tail(),
        &Backend::Authentication(Authentication::SaslFinal(last.into_bytes().into())),
    );
    Ok(())
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    leg: &mut Leg<S>,
    client_leg: &mut ClientLeg,
    step: Authentication,
) -> Result<PasswordFamily, ClientAuthError> {
    words::say(leg.output.tail(), &Backend::Authentication(step));
    client_leg.handle_password_asked();
    leg.drain().await.map_err(|_| ClientAuthError::Left)?;
    let decoder = FrameDecoder::new(FrameLimits { max_message: MAX_MESSAGE, ..FrameLimits::CLIENT });
    loop {
        if let Some(frame) = decoder.next(&mut leg.input)? {
            let message = Frontend::decode(&frame)?;
            client_leg.handle_frontend(&message)?;
            return match message {
                Frontend::Password(answer) => Ok(answer),
                Frontend::Terminate => Err(ClientAuthError::Left),
                other => Err(ClientAuthError::Unexpected { got: other.name() }),
            };
        }
        if leg.ended {
            return Err(ClientAuthError::Left);
        }
        leg.fill().await.map_err(|_| ClientAuthError::Left)?;
    }
}
