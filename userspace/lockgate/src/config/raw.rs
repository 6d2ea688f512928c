//! The configuration file as it is written: serde shapes with positions, nothing judged.
//!
//! [`super::check`] turns this into a [`super::Config`]. The command line's client verbs read only this form,
//! since a job's user may run `lockgate run` without being allowed to read policies and secrets.

pub(crate) mod channels;
pub(crate) mod evidence;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod login;

use lockgate_model::SecretRef;
pub(crate) use lockgate_policy::{document::DurationText, yaml::Spanned};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use std::{collections::BTreeMap, fmt};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    #[serde(default)]
    pub(crate) node: Node,
    #[serde(default)]
    pub(crate) govern: Vec<Spanned<Govern>>,
    #[serde(default)]
    pub(crate) targets: Vec<Spanned<Target>>,
    /// Where targets are registered while the agent runs.
    #[serde(default)]
    pub(crate) targets_dir: Option<String>,
    #[serde(default)]
    pub(crate) policies: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) store: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) store_head: Option<String>,
    /// Of a store that nodes share.
    #[serde(default)]
    pub(crate) store_password: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) store_ca: Option<Spanned<PathOrSecret>>,
    /// Where this node keeps what waits for it, and what is its own.
    #[serde(default)]
    pub(crate) store_dir: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) store_spool_bytes: Option<Spanned<u64>>,
    #[serde(default)]
    pub(crate) webhooks: Vec<Spanned<Webhook>>,
    #[serde(default)]
    pub(crate) channels: Vec<Spanned<channels::Channel>>,
    #[serde(default)]
    pub(crate) people: Vec<Spanned<Person>>,
    #[serde(default)]
    pub(crate) api: Api,
    #[serde(default)]
    pub(crate) login: Option<Spanned<login::Login>>,
    #[serde(default)]
    pub(crate) run: Run,
    #[serde(default)]
    pub(crate) vault: Option<Spanned<Vault>>,
    #[serde(default)]
    pub(crate) identity: identity::Identity,
    #[serde(default)]
    pub(crate) guard: Guard,
    #[serde(default)]
    pub(crate) data_plane: DataPlane,
    /// The most that is done anywhere: caps every set's and every target's mode.
    #[serde(default)]
    pub(crate) mode: Option<Spanned<lockgate_model::session::Mode>>,
    #[serde(default)]
    pub(crate) observe: Observe,
    #[serde(default)]
    pub(crate) evidence: evidence::Evidence,
    #[serde(default)]
    pub(crate) telemetry: evidence::Telemetry,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataPlane {
    #[serde(default)]
    pub(crate) threads: Option<Spanned<usize>>,
}

/// Interfaces by which only the proxy sends to targets.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guard {
    #[serde(default)]
    pub(crate) interfaces: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) pods: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    #[serde(default)]
    pub(crate) name: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) instance: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) restart_grace: Option<DurationText>,
}

/// Who, by exactly one of the first three; and what they may reach besides targets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Govern {
    #[serde(default)]
    pub(crate) cgroup: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) systemd_unit: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) within: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) uid: Option<Uids>,
    #[serde(default)]
    pub(crate) capture: Capture,
    #[serde(default)]
    pub(crate) unregistered: Option<Spanned<lockgate_model::session::DefaultEffect>>,
    /// `observe`: nothing is redirected, who talks to what is recorded.
    #[serde(default)]
    pub(crate) mode: Option<Spanned<GovernMode>>,
    #[serde(default)]
    pub(crate) allow: Vec<Spanned<String>>,
}

/// What is done with connections of a set; what of a target, its own `mode` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GovernMode {
    Observe,
    Enforce,
}

/// How observations are recorded.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Observe {
    #[serde(default)]
    pub(crate) every: Option<DurationText>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Capture {
    #[default]
    Registered,
    All,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) name: Spanned<String>,
    pub(crate) protocol: lockgate_model::session::Protocol,
    pub(crate) addresses: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, Tag>,
    #[serde(default)]
    pub(crate) mode: Option<Spanned<lockgate_model::session::Mode>>,
    #[serde(default)]
    pub(crate) default: Option<lockgate_model::session::DefaultEffect>,
    #[serde(default)]
    pub(crate) client_tls: Option<Spanned<ClientTls>>,
    #[serde(default)]
    pub(crate) client_auth: Vec<Spanned<ClientAuth>>,
    #[serde(default)]
    pub(crate) session_in_application_name: bool,
    /// Where it is also served to those who dial lockgate itself.
    #[serde(default)]
    pub(crate) listen: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) callers: Option<Spanned<Callers>>,
    pub(crate) upstream: Upstream,
}

/// What identifies those who dial lockgate itself.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Callers {
    #[serde(default)]
    pub(crate) tokens: Option<bool>,
    #[serde(default)]
    pub(crate) client_ca: Option<PathOrSecret>,
}

/// A user that may insist on SCRAM.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientAuth {
    pub(crate) user: Spanned<String>,
    pub(crate) verifier: Spanned<SecretText>,
}

#[derive(Debug)]
pub(crate) enum ClientTls {
    Refuse,
    Terminate(Box<Certificate>),
}

/// A certificate that is there (`certificate`, `key`), or a CA that issues some (`ca`, `ca_key`). For the client's leg and
/// for a login alike; which keys belong together is judged where it is known which.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    #[serde(default)]
    pub(crate) certificate: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) key: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) ca_key: Option<PathOrSecret>,
    /// A path of the vault's PKI engine.
    #[serde(default)]
    pub(crate) vault: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) validity: Option<DurationText>,
    #[serde(default)]
    pub(crate) names: Option<Vec<Spanned<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    #[serde(default)]
    pub(crate) tls: UpstreamTls,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) server_name: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) tls_negotiation: Option<Spanned<Negotiation>>,
    #[serde(default)]
    pub(crate) dial_from: DialFrom,
    #[serde(default)]
    pub(crate) credential: Credential,
    /// For http: headers of the client that do not go on.
    #[serde(default)]
    pub(crate) remove_headers: Vec<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DialFrom {
    #[default]
    Client,
    Host,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Negotiation {
    #[default]
    Postgres,
    Direct,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UpstreamTls {
    Disable,
    VerifyCa,
    #[default]
    VerifyFull,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credential {
    #[serde(default)]
    pub(crate) user: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) password: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) client_certificate: Option<Spanned<Certificate>>,
    /// A path of the vault's database engine.
    #[serde(default)]
    pub(crate) vault: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) cache: Option<DurationText>,
    /// For http: `Authorization: Bearer`.
    #[serde(default)]
    pub(crate) bearer: Option<Spanned<SecretText>>,
    /// For http: another header.
    #[serde(default)]
    pub(crate) header: Option<Spanned<http::Header>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vault {
    pub(crate) address: Spanned<String>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) namespace: Option<Spanned<String>>,
    pub(crate) auth: Spanned<VaultAuth>,
    #[serde(default)]
    pub(crate) timeout: Option<DurationText>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VaultAuth {
    Token(Spanned<SecretText>),
    Approle(AppRole),
    Kubernetes(Kubernetes),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppRole {
    #[serde(default)]
    pub(crate) mount: Option<Spanned<String>>,
    pub(crate) role_id: Spanned<SecretText>,
    pub(crate) secret_id: Spanned<SecretText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kubernetes {
    #[serde(default)]
    pub(crate) mount: Option<Spanned<String>>,
    pub(crate) role: Spanned<String>,
    #[serde(default)]
    pub(crate) jwt: Option<Spanned<SecretText>>,
}

/// Somebody with several ids, and the bots they own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Person {
    pub(crate) name: Spanned<String>,
    #[serde(default)]
    pub(crate) ids: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) owns: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webhook {
    pub(crate) name: Spanned<String>,
    pub(crate) url: Spanned<String>,
    pub(crate) secret: Spanned<SecretText>,
    #[serde(default)]
    pub(crate) decision_secret: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) speaks_for: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) allow_private: bool,
    #[serde(default)]
    pub(crate) follow_ups: Option<bool>,
    #[serde(default)]
    pub(crate) events: Option<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Api {
    #[serde(default)]
    pub(crate) listen: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) public_url: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) socket: Option<String>,
    #[serde(default)]
    pub(crate) local_approvers: BTreeMap<Uid, Vec<Spanned<String>>>,
    /// The certificate that people see.
    #[serde(default)]
    pub(crate) tls: Option<Spanned<login::Tls>>,
    /// TLS ends in a proxy in front.
    #[serde(default)]
    pub(crate) behind_proxy: bool,
    /// Where that proxy asks from.
    #[serde(default)]
    pub(crate) proxies: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    #[serde(default)]
    pub(crate) allow_uids: Vec<u32>,
    #[serde(default)]
    pub(crate) cgroup: Option<Spanned<String>>,
}

/// A secret as the file may (a reference) or may not (the secret itself) hold it. The text of an inline
/// one is dropped while reading: it must not reach an error message.
#[derive(Debug)]
pub(crate) enum SecretText {
    Reference(SecretRef),
    Inline,
}

/// A path, or a reference like any secret's.
#[derive(Debug)]
pub(crate) enum PathOrSecret {
    Path(String),
    Reference(SecretRef),
    /// PEM text pasted into the file.
    Inline,
}

/// A uid that is the key of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Uid(pub(crate) u32);

/// `[1001, 1002]` or `1001`.
#[derive(Debug)]
pub(crate) struct Uids(pub(crate) Vec<u32>);

/// A tag's value; YAML reads `true` and `1` as other things than text.
#[derive(Debug)]
pub(crate) struct Tag(pub(crate) String);

/// Implements `Deserialize` by a visitor, for shapes that are a scalar or something else.
macro_rules! scalar_or {
    ($name:ident, $expecting:literal, { $($visit:item)* }) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;
                impl<'de> Visitor<'de> for Either {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    $($visit)*
                }
                deserializer.deserialize_any(Either)
            }
        }
    };
}

scalar_or!(ClientTls, "`refuse`, or a mapping with `certificate` and `key`, or with `ca` and `ca_key`", {
    fn visit_str<E: de::Error>(self, text: &str) -> Result<ClientTls, E> {
        if text == "refuse" {
            Ok(ClientTls::Refuse)
        } else {
            Err(E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClientTls, A::Error> {
        Certificate::deserialize(MapAccessDeserializer::new(map))
            .map(|given| ClientTls::Terminate(Box::new(given)))
    }
});

scalar_or!(
    SecretText,
    "a reference: `{ file: PATH }`, `{ env: NAME }`, `{ command: [PROGRAM, ARGUMENT] }` or `{ vault: PATH#FIELD }`",
    {
        fn visit_str<E: de::Error>(self, _: &str) -> Result<SecretText, E> {
            Ok(SecretText::Inline)
        }
        fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretText, E> {
            Ok(SecretText::Inline)
        }
        fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretText, E> {
            Ok(SecretText::Inline)
        }
        fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretText, E> {
            Ok(SecretText::Inline)
        }
        fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretText, E> {
            Ok(SecretText::Inline)
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretText, A::Error> {
            SecretRef::deserialize(MapAccessDeserializer::new(map)).map(SecretText::Reference)
        }
    }
);

scalar_or!(
    PathOrSecret,
    "a path, or a reference: `{ file: PATH }`, `{ env: NAME }`, `{ command: [PROGRAM] }` or `{ vault: PATH#FIELD }`",
    {
        fn visit_str<E: de::Error>(self, text: &str) -> Result<PathOrSecret, E> {
            if text.contains("-----BEGIN") {
                Ok(PathOrSecret::Inline)
            } else {
                Ok(PathOrSecret::Path(text.to_owned()))
            }
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PathOrSecret, A::Error> {
            SecretRef::deserialize(MapAccessDeserializer::new(map)).map(PathOrSecret::Reference)
        }
    }
);

scalar_or!(Uids, "a user id or a list of user ids", {
    fn visit_u64<E: de::Error>(self, uid: u64) -> Result<Uids, E> {
        u32::try_from(uid)
            .map(|uid| Uids(vec![uid]))
            .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(uid), &self))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Uids, A::Error> {
        let mut uids = Vec::new();
        while let Some(uid) = list.next_element()? {
            uids.push(uid);
        }
        Ok(Uids(uids))
    }
});

scalar_or!(Tag, "a text", {
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Tag, E> {
        Ok(Tag(text.to_owned()))
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tag, E> {
        Ok(Tag(value.to_string()))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tag, E> {
        Ok(Tag(value.to_string()))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tag, E> {
        Ok(Tag(value.to_string()))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tag, E> {
        Ok(Tag(value.to_string()))
    }
});

scalar_or!(Uid, "a user id", {
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uid, E> {
        text.parse().map(Uid).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
    fn visit_u64<E: de::Error>(self, uid: u64) -> Result<Uid, E> {
        u32::try_from(uid).map(Uid).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(uid), &self))
    }
});
