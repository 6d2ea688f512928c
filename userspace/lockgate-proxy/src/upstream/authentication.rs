//! Answers the target's authentication requests with the injected credential.
//!
//! Supported: trust, cleartext password (over TLS only), md5, SCRAM-SHA-256 and, over TLS, SCRAM-SHA-256-PLUS. The
//! cryptography is `postgres-protocol`'s; here is which exchange is acceptable, and in which order.

use super::UpstreamError;
use super::login::Credential;
use crate::credential::{self, SecretBytes};
use lockgate_wire::postgres::backend::Authentication;
use lockgate_wire::postgres::frontend::{Frontend, PasswordFamily, tag};
use lockgate_wire::postgres::{PgString, WireError};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use zeroize::Zeroizing;

/// One login's side of the exchange.
pub(super) struct Authenticator<'a> {
    credential: &'a Credential,
    encrypted: bool,
    binding: Option<Vec<u8>>,
    state: State,
}

enum State {
    /// Nothing was asked yet.
    Start,
    /// A password was sent; the target's word is all that can come.
    Answered,
    /// SCRAM: the first message was sent.
    ScramFirst(Box<ScramSha256>),
    /// SCRAM: the proof was sent; the target has to prove itself in turn.
    ScramFinal(Box<ScramSha256>),
    /// SCRAM: the target has proved that it knows the password.
    ScramProved,
    /// AuthenticationOk came.
    Done,
}

impl<'a> Authenticator<'a> {
    pub(super) fn new(credential: &'a Credential, encrypted: bool, binding: Option<Vec<u8>>) -> Self {
        Self { credential, encrypted, binding, state: State::Start }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The message that answers one step; `None` when there is nothing to say.
    pub(super) async fn answer(&mut self, step: Authentication) -> Result<Option<Answer>, UpstreamError> {
        let name = step.name();
        match (std::mem::replace(&mut self.state, State::Answered), step) {
            // In the middle of SCRAM the target may not skip its own proof.
            (State::Start | State::Answered | State::ScramProved, Authentication::Ok) => {
                self.state = State::Done;
                Ok(None)
            }
            (State::Start, Authentication::CleartextPassword) => self.cleartext().await.map(Some),
            (State::Start, Authentication::Md5Password { salt }) => self.md5(salt).await.map(Some),
            (State::Start, Authentication::Sasl(mechanisms)) => self.scram(&mechanisms).await.map(Some),
            (State::ScramFirst(scram), Authentication::SaslContinue(data)) => {
                let (scram, answer) = prove(scram, data).await?;
                self.state = State::ScramFinal(scram);
                Ok(Some(answer))
            }
            (State::ScramFinal(mut scram), Authentication::SaslFinal(data)) => {
                scram.finish(&data).map_err(scram_failed)?;
                self.state = State::ScramProved;
                Ok(None)
            }
            (
                State::Start,
                Authentication::KerberosV5
                | Authentication::Gss
                | Authentication::GssContinue(_)
                | Authentication::Sspi,
            ) => Err(UpstreamError::Method { method: name.to_owned() }),
            (state, _) => Err(UpstreamError::Unexpected { got: name, expected: state.expects() }),
        }
    }

    async fn cleartext(&self) -> Result<Answer, UpstreamError> {
        if !self.encrypted {
            return Err(UpstreamError::CleartextWithoutTls);
        }
        let password = self.password("password").await?;
        Ok(Answer::password(password.expose())?)
    }

    async fn md5(&self, salt: [u8; 4]) -> Result<Answer, UpstreamError> {
        let password = self.password("md5").await?;
        let hash = md5_hash(self.credential.user.as_bytes(), password.expose(), salt);
        Ok(Answer::password(hash.as_bytes())?)
    }

    async fn scram(&mut self, mechanisms: &[PgString]) -> Result<Answer, UpstreamError> {
        let offers = |wanted: &str| mechanisms.iter().any(|offered| *offered == wanted);
        let (mechanism, binding) = match self.binding.take() {
            Some(binding) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(binding))
            }
            // "I could have, had you offered it": a target that did offer it sees that somebody took the offer away
            // (RFC 5802 §6).
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            Some(_) | None => {
                let offered: Vec<_> = mechanisms.iter().map(PgString::to_string_lossy).collect();
                return Err(UpstreamError::Method { method: format!("SASL with {}", offered.join(", ")) });
            }
        };
        let password = self.password("scram-sha-256").await?;
        let scram = Box::new(ScramSha256::new(password.expose(), binding));
        let first = PasswordFamily::sasl_initial(&PgString::lossy(mechanism), scram.message())?;
        self.state = State::ScramFirst(scram);
        Ok(Answer::of(first)?)
    }

    async fn password(&self, method: &'static str) -> Result<SecretBytes, UpstreamError> {
        match &self.credential.password {
            None => Err(UpstreamError::NoPassword { method }),
            Some(reference) => Ok(credential::resolve(reference).await?),
        }
    }
}

/// A whole message of type 'p', wiped when it was sent.
pub(super) struct Answer(Zeroizing<Vec<u8>>);

impl Answer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn of(body: PasswordFamily) -> Result<Self, WireError> {
        Ok(Self(Zeroizing::new(Frontend::Password(body).to_bytes()?.to_vec())))
    }

    /// A PasswordMessage, written where it can be wiped: the codec's buffers are not.
    fn password(secret: &[u8]) -> Result<Self, WireError> {
        if let Some(at) = secret.iter().position(|byte| *byte == 0) {
            return Err(WireError::InteriorNul { what: "password", at });
        }
        let what = "password";
        let length = u32::try_from(secret.len() + 5).map_err(|_| WireError::LengthTooLarge {
            what,
            limit: u32::MAX as usize,
            got: secret.len(),
        })?;
        let mut message = Zeroizing::new(Vec::with_capacity(secret.len() + 6));
        message.push(tag::PASSWORD);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(secret);
        message.push(0);
        Ok(Self(message))
    }
}

impl State {
    fn expects(&self) -> &'static str {
        match self {
            State::Start => "a request for authentication",
            State::Answered => "AuthenticationOk",
            State::ScramFirst(_) => "AuthenticationSASLContinue",
            State::ScramFinal(_) => "AuthenticationSASLFinal",
            State::ScramProved => "AuthenticationOk",
            State::Done => "no more authentication",
        }
    }
}

/// The proof costs thousands of hashes, as many as the target asks for: not on a worker that serves sessions.
async fn prove(
    mut scram: Box<ScramSha256>,
    data: bytes::Bytes,
) -> Result<(Box<ScramSha256>, Answer), UpstreamError> {
    let work = move || {
        scram.update(&data)?;
        Ok(scram)
    };
    let outcome: std::io::Result<Box<ScramSha256>> = match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(std::io::Error::other(error)),
    };
    let scram = outcome.map_err(scram_failed)?;
    let proof = PasswordFamily::raw(bytes::Bytes::copy_from_slice(scram.message()));
    let answer = Answer::of(proof)?;
    Ok((scram, answer))
}

/// What `postgres-protocol` says is about the exchange, never about the password.
fn scram_failed(error: std::io::Error) -> UpstreamError {
    UpstreamError::Scram { detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_model::SecretRef;

    /// Mechanism and GS2 header (RFC 5802 §6) that answer an offer.
    async fn choice(binding: Option<Vec<u8>>, offered: &[&str]) -> Result<(String, String), &'static str> {
        // PATH is a secret that every test process has.
        let credential = Credential { user: "app".into(), password: Some(SecretRef::Env("PATH".into())) };
        let encrypted = binding.is_some();
        let mut authenticator = Authenticator::new(&credential, encrypted, binding);
        let offered = offered.iter().map(|name| PgString::lossy(name)).collect();
        match authenticator.answer(Authentication::Sasl(offered)).await {
            Err(error) => Err(error.kind()),
            Ok(None) => panic!("an offer needs an answer"),
            Ok(Some(answer)) => {
                let Frontend::Password(first) = decoded(&answer) else { panic!("another message") };
                let (mechanism, response) = first.as_sasl_initial().unwrap();
                let response = String::from_utf8(response.unwrap().to_vec()).unwrap();
                let header = response.split_inclusive(',').take(2).collect();
                Ok((mechanism.to_string_lossy().into_owned(), header))
            }
        }
    }

    fn decoded(answer: &Answer) -> Frontend {
        let bytes = bytes::Bytes::copy_from_slice(answer.bytes());
        Frontend::decode(&lockgate_wire::postgres::frame::Frame::from_bytes(bytes).unwrap()).unwrap()
    }

    #[test]
    fn a_password_message_is_the_protocol_s() {
        let answer = Answer::password(b"p\xe4ss").unwrap();
        let Frontend::Password(body) = decoded(&answer) else { panic!("another message") };
        assert_eq!(body.as_password().unwrap().as_bytes(), b"p\xe4ss");
        assert_eq!(Answer::password(b"a\0b").map(drop).map_err(|e| e.kind()), Err("interior_nul"));
    }

    #[tokio::test]
    async fn the_strongest_mechanism_is_chosen_and_a_stolen_offer_shows() {
        let tls = || Some(vec![1; 32]);
        for (binding, offered, expected) in [
            (
                tls(),
                &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"][..],
                Ok(("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,")),
            ),
            (tls(), &["SCRAM-SHA-256"], Ok(("SCRAM-SHA-256", "y,,"))),
            (None, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], Ok(("SCRAM-SHA-256", "n,,"))),
            (None, &["SCRAM-SHA-256-PLUS"], Err("auth_method")),
            (tls(), &["OAUTHBEARER"], Err("auth_method")),
            (tls(), &[], Err("auth_method")),
        ] {
            let got = choice(binding, offered).await;
            let got = got.as_ref().map(|(name, header)| (name.as_str(), header.as_str()));
            assert_eq!(got.map_err(|kind| *kind), expected, "{offered:?}");
        }
    }
}
