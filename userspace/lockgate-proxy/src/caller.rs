//! Explicit mode: who dials lockgate itself, where no hook can see the socket.
//!
//! A caller is identified by a token that an agent of lockgate issued, or by a client certificate of a CA that the target
//! names. A token is short-lived, is for one target, and is bound to addresses that it may be shown from: in the hands of
//! somebody else it is worth nothing. What is known of a caller is what token or certificate say, and no process: nothing of
//! `uid`, `unit` or `exe` in a rule fits it. It neither listens nor asks; the protocol does.
//!
//! A token is `lgt_` and two parts in base64url with a dot between: claims as JSON, and HMAC-SHA-256 of the first part as it
//! is written. One algorithm, so that nobody can ask for another.

use crate::{target::contains, tls::ClientTls};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use lockgate_model::{
    Secret, Timestamp,
    addr::{ClientAddr, OriginalDst},
    flow::{Capture, Flow, ProcessFacts},
    id::TargetName,
    principal::Principal,
    workload::{Assurance, IdentityKind, Workload},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The longest life of a token: it outlives a job, and not a day.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Longer is no token of ours; a password message may be longer.
const MAX_TOKEN_BYTES: usize = 4 * 1024;
/// Networks that one token may be shown from.
const MAX_NETWORKS: usize = 16;
/// A clock of the issuing agent may be ahead of ours by this much.
const SKEW: Duration = Duration::from_secs(5);
/// What a token begins with, so that secret scanners find one.
const PREFIX: &str = "lgt_";
/// No user has it (`(uid_t) -1`): a caller without a process has no uid that a rule could name by accident.
const NOBODY: u32 = u32::MAX;

/// How a target is served to those who dial lockgate itself.
#[derive(Clone, Debug)]
pub struct Explicit {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS, which asks for a certificate where one may identify; None only on loopback.
    pub tls: Option<ClientTls>,
    /// What tokens are signed with; None: only certificates identify.
    pub tokens: Option<Arc<TokenKey>>,
}

/// What tokens are signed with.
pub struct TokenKey(Secret<[u8; 32]>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

/// A network that a token may be shown from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Any address of it.
    pub base: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The token's own name, for records.
    pub id: String,
    /// Who carries it.
    pub caller: String,
    /// What kind of actor that is.
    pub kind: IdentityKind,
    /// The one target it is for.
    pub target: TargetName,
    /// Where it may be shown from. Never empty.
    pub from: Vec<Network>,
    /// From when.
    pub not_before: Timestamp,
    /// Until when.
    pub expires: Timestamp,
}

/// Why a token is not issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// Of the name.
    #[error("{0:?} is no name of a caller: use 1 to 128 letters, digits, `.`, `_`, `-`, `:` or `/`")]
    Caller(String),
    /// Of the networks.
    #[error("a token is bound to 1 to {MAX_NETWORKS} networks that it may be shown from, got {0}")]
    Networks(usize),
    /// Of a prefix.
    #[error("{0} has no prefix of {1} bits")]
    Prefix(IpAddr, u8),
    /// Of the length of its life.
    #[error("a token lives for 1 second to {} hours, got {} seconds", MAX_TOKEN_LIFE.as_secs() / 3600, .0.as_secs())]
    Life(Duration),
    /// It cannot be written.
    #[error("the token cannot be written: {0}")]
    Written(String),
}

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// Neither token nor certificate.
    #[error("no token was shown, and no client certificate")]
    Nothing,
    /// Tokens are not taken here.
    #[error("this target takes client certificates and no tokens")]
    NoTokens,
    /// Not a token.
    #[error("what was shown is no token of lockgate")]
    NoToken,
    /// Signed with another key, or changed.
    #[error("the token's signature is not this agent's")]
    Signature,
    /// For another target.
    #[error("the token {id} is for the target {got}, not for this one")]
    Target {
        /// The token.
        id: String,
        /// Its target.
        got: TargetName,
    },
    /// Shown from elsewhere: borrowed.
    #[error("the token {id} was issued to another address than {from}")]
    Borrowed {
        /// The token.
        id: String,
        /// Where it was shown from.
        from: IpAddr,
    },
    /// Too early.
    #[error("the token {id} counts from {from} on")]
    Early {
        /// The token.
        id: String,
        /// From when.
        from: Timestamp,
    },
    /// Too late.
    #[error("the token {id} expired at {at}")]
    Expired {
        /// The token.
        id: String,
        /// When.
        at: Timestamp,
    },
    /// A certificate that names nobody.
    #[error(
        "the client certificate names nobody: it has neither a URI or DNS name nor a common name that can be used"
    )]
    Nameless,
}

/// A caller who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) kind: IdentityKind,
    /// In words for an approver.
    pub(crate) established_by: String,
}

impl TokenKey {
    /// From the key's bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Secret::new(key))
    }

    /// A token. `random` makes its name.
    ///
    /// # Errors
    /// When it could not be let in later.
    pub fn issue(
        &self,
        caller: &str,
        kind: IdentityKind,
        target: TargetName,
        from: Vec<Network>,
        (now, life): (Timestamp, Duration),
        random: u128,
    ) -> Result<(Claims, Secret<String>), IssueError> {
        if !is_caller(caller) {
            return Err(IssueError::Caller(caller.to_owned()));
        }
        if !(1..=MAX_NETWORKS).contains(&from.len()) {
            return Err(IssueError::Networks(from.len()));
        }
        if let Some(wrong) = from.iter().find(|network| network.prefix > longest(network.base)) {
            return Err(IssueError::Prefix(wrong.base, wrong.prefix));
        }
        if life < Duration::from_secs(1) || life > MAX_TOKEN_LIFE {
            return Err(IssueError::Life(life));
        }
        let expires = now.checked_add(life).map_err(|error| IssueError::Written(error.to_string()))?;
        let claims = Claims {
            id: format!("tok_{:020x}", random >> 48),
            caller: caller.to_owned(),
            kind,
            target,
            from,
            not_before: now,
            expires,
        };
        let json = serde_json::to_vec(&claims).map_err(|error| IssueError::Written(error.to_string()))?;
        let body = URL_SAFE_NO_PAD.encode(json);
        let signature = URL_SAFE_NO_PAD.encode(self.mac(&body).finalize().into_bytes());
        Ok((claims, Secret::new(format!("{PREFIX}{body}.{signature}"))))
    }

    fn mac(&self, body: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose())
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(body.as_bytes());
        mac
    }

    /// The claims of a token that is this key's, for this target, shown from there, now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(
        &self,
        token: &str,
        target: &TargetName,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<Claims, CallerError> {
        let text = token.strip_prefix(PREFIX).filter(|text| text.len() <= MAX_TOKEN_BYTES);
        let (body, signature) = text.and_then(|text| text.split_once('.')).ok_or(CallerError::NoToken)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| CallerError::NoToken)?;
        // In constant time, and before anything inside is looked at.
        self.mac(body).verify_slice(&signature).map_err(|_| CallerError::Signature)?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| CallerError::NoToken)?;
        let claims: Claims = serde_json::from_slice(&json).map_err(|_| CallerError::NoToken)?;
        let id = || claims.id.clone();
        if claims.target != *target {
            return Err(CallerError::Target { id: id(), got: claims.target.clone() });
        }
        if !claims.from.iter().any(|network| contains(network.base, network.prefix, from.to_canonical())) {
            return Err(CallerError::Borrowed { id: id(), from });
        }
        if now.checked_add(SKEW).is_ok_and(|now| now < claims.not_before) {
            return Err(CallerError::Early { id: id(), from: claims.not_before });
        }
        if now >= claims.expires {
            return Err(CallerError::Expired { id: id(), at: claims.expires });
        }
        Ok(claims)
    }
}

impl Caller {
    pub(crate) fn by_token(claims: &Claims) -> Self {
        Self {
            name: claims.caller.clone(),
            kind: claims.kind,
            established_by: format!(
                "token {} of this agent, shown from the address it is bound to",
                claims.id
            ),
        }
    }

    /// Of a certificate that TLS has verified against the target's CA, with the key in the client's hand: the first URI name
    /// (a SPIFFE id), else the first DNS name, else the common name.
    pub(crate) fn by_certificate(certificate: &[u8]) -> Result<Self, CallerError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CallerError::Nameless)?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let uri = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let dns = names.iter().find_map(|name| match name {
            GeneralName::DNSName(dns) => Some(*dns),
            _ => None,
        });
        let common = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = uri.or(dns).or(common).filter(|name| is_caller(name)).ok_or(CallerError::Nameless)?;
        let digest = hex::encode(Sha256::digest(certificate));
        Ok(Self {
            name: name.to_owned(),
            kind: IdentityKind::Unknown,
            established_by: format!("client certificate with SHA-256 {digest}, of the target's CA"),
        })
    }

    /// Who it is, as rules and people name it. Every place that shows a principal says that its session was not captured.
    pub(crate) fn principal(&self) -> Principal {
        Principal {
            kind: self.kind,
            id: format!("caller:{}", self.name),
            display: format!("{} (not transparent: dialled lockgate itself)", self.name),
            assurance: Assurance::Platform,
        }
    }

    /// What is known of its process: nothing.
    pub(crate) fn workload(&self, flow: &Flow) -> Workload {
        let mut workload =
            Workload::noted(&flow.process, &format!("{}; its process was not seen", self.established_by));
        workload.kind = self.kind;
        workload.assurance = Assurance::Claimed;
        workload.process.exited = true;
        workload
    }
}

/// The flow of a connection that nobody redirected.
pub(crate) fn flow(client: ClientAddr, listen: SocketAddr) -> Flow {
    Flow {
        client,
        original_dst: OriginalDst::new(listen),
        socket_cookie: 0,
        netns_cookie: 0,
        process: ProcessFacts {
            tgid: 0,
            tid: 0,
            start_boottime_ns: 0,
            uid: NOBODY,
            gid: NOBODY,
            cgroup_id: 0,
            comm: String::new(),
            creator_tgid: 0,
        },
        capture: Capture::Explicit,
    }
}

/// Names become parts of ids, records and messages.
fn is_caller(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'/'))
}

fn longest(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        let (base, prefix) = text.split_once('/').unwrap();
        Network { base: base.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }

    fn issue(key: &TokenKey) -> String {
        let now = Timestamp::from_second(1_000).unwrap();
        let from = vec![network("10.1.0.0/16"), network("2001:db8::/32")];
        let life = (now, Duration::from_secs(60));
        let (_, token) =
            key.issue("sandbox/17", IdentityKind::Agent, "orders-db".into(), from, life, 7 << 64).unwrap();
        token.expose().clone()
    }

    #[test]
    fn a_token_counts_for_its_target_its_address_and_its_time() {
        let key = TokenKey::new([7; 32]);
        let token = issue(&key);
        let check = |key: &TokenKey, token: &str, target: &str, from: &str, second: i64| {
            let now = Timestamp::from_second(second).unwrap();
            key.check(token, &target.into(), from.parse().unwrap(), now)
        };
        for from in ["10.1.255.1", "::ffff:10.1.0.1", "2001:db8::5"] {
            assert_eq!(check(&key, &token, "orders-db", from, 1_030).unwrap().caller, "sandbox/17", "{from}");
        }
        assert!(check(&key, &token, "orders-db", "10.1.0.1", 996).is_ok(), "clocks differ a little");
        let refused = |error: Result<Claims, CallerError>| error.unwrap_err();
        assert!(matches!(
            refused(check(&key, &token, "other", "10.1.0.1", 1_030)),
            CallerError::Target { .. }
        ));
        assert!(matches!(
            refused(check(&key, &token, "orders-db", "10.2.0.1", 1_030)),
            CallerError::Borrowed { .. }
        ));
        assert!(matches!(
            refused(check(&key, &token, "orders-db", "10.1.0.1", 994)),
            CallerError::Early { .. }
        ));
        assert!(matches!(
            refused(check(&key, &token, "orders-db", "10.1.0.1", 1_060)),
            CallerError::Expired { .. }
        ));
        let other = TokenKey::new([8; 32]);
        assert_eq!(refused(check(&other, &token, "orders-db", "10.1.0.1", 1_030)), CallerError::Signature);
    }

    #[test]
    fn a_changed_or_made_up_token_is_none() {
        let key = TokenKey::new([7; 32]);
        let token = issue(&key);
        let check = |token: &str| {
            let now = Timestamp::from_second(1_030).unwrap();
            key.check(token, &"orders-db".into(), "10.1.0.1".parse().unwrap(), now)
        };
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(check(&changed).is_err(), "byte {place}: {changed}");
        }
        let body = URL_SAFE_NO_PAD.encode(b"{}");
        for made_up in
            ["", "lgt_", "lgt_.", "lgt_a.b", &format!("lgt_{body}."), &token[4..], &format!("{token}A")]
        {
            assert!(check(made_up).is_err(), "{made_up:?}");
        }
        assert_eq!(check(&format!("lgt_{}.x", "A".repeat(8_000))), Err(CallerError::NoToken));
    }

    #[test]
    fn what_could_not_be_bound_is_not_issued() {
        let key = TokenKey::new([7; 32]);
        let issue = |caller: &str, from: Vec<Network>, seconds: u64| {
            let life = (Timestamp::UNIX_EPOCH, Duration::from_secs(seconds));
            key.issue(caller, IdentityKind::Unknown, "t".into(), from, life, 1).map(|_| ())
        };
        let here = || vec![network("10.0.0.1/32")];
        assert!(issue("a", here(), 60).is_ok());
        for caller in ["", "a b", "a\nb", &"x".repeat(129)] {
            assert!(matches!(issue(caller, here(), 60), Err(IssueError::Caller(_))), "{caller:?}");
        }
        assert_eq!(issue("a", Vec::new(), 60), Err(IssueError::Networks(0)));
        assert!(matches!(issue("a", vec![network("10.0.0.1/33")], 60), Err(IssueError::Prefix(..))));
        assert!(matches!(issue("a", here(), 0), Err(IssueError::Life(_))));
        assert!(matches!(issue("a", here(), 90_000), Err(IssueError::Life(_))));
    }

    #[test]
    fn a_caller_has_no_process_that_a_rule_could_mean() {
        let caller = Caller { name: "a".into(), kind: IdentityKind::Agent, established_by: "test".into() };
        let flow = flow(ClientAddr("10.0.0.1:1".parse().unwrap()), "10.0.0.2:6432".parse().unwrap());
        let workload = caller.workload(&flow);
        assert_eq!((workload.process.uid, workload.assurance), (u32::MAX, Assurance::Claimed));
        assert_eq!(caller.principal().id, "caller:a");
        assert!(caller.principal().display.contains("not transparent"));
    }
}
