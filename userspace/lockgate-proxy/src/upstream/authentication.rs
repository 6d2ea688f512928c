//! Answers the target's authentication requests with the injected credential.
//!
//! Supported: trust, cleartext password (over TLS only), md5, SCRAM-SHA-256 and, over TLS, SCRAM-SHA-256-PLUS. Client
//! certificates belong to TLS. The messages of SCRAM are [`crate::scram`]'s; here is which exchange is acceptable, and in
//! which order.

use super::UpstreamError;
use crate::credential::{Account, SecretBytes};
use crate::scram::{Binding, ClientFinal, ClientFirst, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError};
use lockgate_wire::postgres::backend::Authentication;
use lockgate_wire::postgres::frontend::{Frontend, PasswordFamily, tag};
use lockgate_wire::postgres::{PgString, WireError};
use md5::{Digest, Md5};
use zeroize::Zeroizing;

/// One login's side of the exchange.
pub(super) struct Authenticator<'a> {
    account: &'a Account,
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
    ScramFirst(ClientFirst),
    /// SCRAM: the proof was sent; the target has to prove itself in turn.
    ScramFinal(ClientFinal),
    /// SCRAM: the target has proved that it knows the password.
    ScramProved,
    /// AuthenticationOk came.
    Done,
}

impl<'a> Authenticator<'a> {
    pub(super) fn new(account: &'a Account, encrypted: bool, binding: Option<Vec<u8>>) -> Self {
        Self { account, encrypted, binding, state: State::Start }
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
            (State::ScramFirst(first), Authentication::SaslContinue(data)) => {
                self.prove(first, &data).await.map(Some)
            }
            (State::ScramFinal(last), Authentication::SaslFinal(data)) => {
                last.verify(&data).map_err(scram_failed)?;
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
        let hash = md5_answer(self.account.user().as_bytes(), password.expose(), salt);
        Ok(Answer::password(hash.as_bytes())?)
    }

    async fn scram(&mut self, mechanisms: &[PgString]) -> Result<Answer, UpstreamError> {
        let offers = |wanted: &str| mechanisms.iter().any(|offered| *offered == wanted);
        let (mechanism, binding) = match self.binding.take() {
            Some(binding) if offers(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, Binding::EndPoint(binding)),
            // "I could have, had you offered it": a target that did offer it sees that somebody took the offer away
            // (RFC 5802 §6).
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, Binding::NotOffered),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, Binding::Unsupported),
            Some(_) | None => {
                let offered: Vec<_> = mechanisms.iter().map(PgString::to_string_lossy).collect();
                return Err(UpstreamError::Method { method: format!("SASL with {}", offered.join(", ")) });
            }
        };
        let first = ClientFirst::new(binding).map_err(scram_failed)?;
        let message = PasswordFamily::sasl_initial(&PgString::lossy(mechanism), first.message().as_bytes())?;
        self.state = State::ScramFirst(first);
        Ok(Answer::of(message)?)
    }

    async fn prove(&mut self, first: ClientFirst, data: &[u8]) -> Result<Answer, UpstreamError> {
        let challenge = first.challenged(data).map_err(scram_failed)?;
        let password = self.password("scram-sha-256").await?;
        let keys = self.account.keys().keys(password.expose(), &challenge.salt, challenge.iterations).await;
        let keys = keys.ok_or(UpstreamError::Scram { detail: "the agent is ending".to_owned() })?;
        let (proof, last) = challenge.prove(&keys);
        self.state = State::ScramFinal(last);
        Ok(Answer::of(PasswordFamily::raw(bytes::Bytes::copy_from_slice(proof.as_bytes())))?)
    }

    async fn password(&self, method: &'static str) -> Result<SecretBytes, UpstreamError> {
        self.account.password().await?.ok_or(UpstreamError::NoPassword { method })
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

/// What is said here is about the exchange, never about the password.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err calls")]
fn scram_failed(error: ScramError) -> UpstreamError {
    UpstreamError::Scram { detail: error.to_string() }
}

/// `md5` and the hash of the salted hash of password and user (§55.2.1 "AuthenticationMD5Password"). Both hashes are as
/// good as the password on a server that takes them.
fn md5_answer(user: &[u8], password: &[u8], salt: [u8; 4]) -> Zeroizing<String> {
    let hash = |parts: [&[u8]; 2]| {
        let digest: Zeroizing<[u8; 16]> = Zeroizing::new(
            parts.iter().fold(Md5::new(), |md5, part| md5.chain_update(part)).finalize().into(),
        );
        Zeroizing::new(hex::encode(*digest))
    };
    let inner = hash([password, user]);
    let outer = hash([inner.as_bytes(), &salt]);
    Zeroizing::new(format!("md5{}", *outer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Credential;
    use lockgate_model::SecretRef;

    /// Mechanism and GS2 header (RFC 5802 §6) that answer an offer.
    async fn choice(binding: Option<Vec<u8>>, offered: &[&str]) -> Result<(String, String), &'static str> {
        // PATH is a secret that every test process has.
        let credential = Credential::password("app", SecretRef::Env("PATH".into()));
        let account = credential.account().await.expect("nothing is read yet");
        let encrypted = binding.is_some();
        let mut authenticator = Authenticator::new(&account, encrypted, binding);
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

    #[test]
    fn md5_is_the_server_s() {
        // SELECT 'md5' || md5('md5-less hash of passworduser' || salt), by PostgreSQL itself.
        let inner = hex::encode(Md5::digest(b"passworduser"));
        let salted = [inner.as_bytes(), b"salt"].concat();
        let expected = format!("md5{}", hex::encode(Md5::digest(salted)));
        assert_eq!(*md5_answer(b"user", b"password", *b"salt"), expected);
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
