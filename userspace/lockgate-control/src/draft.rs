//! A target as somebody describes it in a form or by flags, and the entry of `targets:` that it means. Console and command line
//! fill one of these; whether the entry can be used is judged where files are read.

use lockgate_model::session::{DefaultEffect, Mode, Protocol};
use serde_json::{Map, Value, json};

/// What a target can speak, the first by default.
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Postgres, Protocol::Http];

/// A target, before it is one.
#[derive(Clone, Debug)]
pub struct TargetDraft {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// `HOST:PORT`, `IP:PORT` or `NETWORK/PREFIX:PORT`.
    pub addresses: Vec<String>,
    /// For rules to match.
    pub tags: Vec<(String, String)>,
    /// What lockgate does there; None is the configuration's default.
    pub mode: Option<Mode>,
    /// What happens where no rule decides; None is the configuration's default.
    pub default: Option<DefaultEffect>,
    /// `verify-full`, `verify-ca` or `disable`
    pub tls: Option<String>,
    /// Certificates to trust for it, on the agent's host.
    pub ca: Option<String>,
    /// What lockgate presents; None: for HTTP, the client's own goes on.
    pub credential: Option<Login>,
    /// For HTTP: headers of the client that do not go on.
    pub remove_headers: Vec<String>,
    /// A CA that issues what clients see, certificate and key, on the agent's host.
    pub client_ca: Option<(String, String)>,
}

/// What lockgate presents to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A user, with a password where the target asks for one.
    User(String, Option<Kept>),
    /// PostgreSQL: made by the vault's database engine at this path.
    Engine(String),
    /// HTTP: `Authorization: Bearer`.
    Bearer(Kept),
    /// HTTP: another header, by name.
    Header(String, Kept),
}

/// Where a secret rests. Never the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In a file on the agent's host.
    File(String),
    /// In the vault, at this path.
    Vault(String),
}

impl Kept {
    fn reference(&self) -> Value {
        match self {
            Self::File(path) => json!({ "file": path }),
            Self::Vault(path) => json!({ "vault": path }),
        }
    }
}

impl Login {
    fn entry(&self) -> Value {
        match self {
            Self::User(user, None) => json!({ "user": user }),
            Self::User(user, Some(password)) => json!({ "user": user, "password": password.reference() }),
            Self::Engine(path) => json!({ "vault": path }),
            Self::Bearer(token) => json!({ "bearer": token.reference() }),
            Self::Header(name, value) => json!({ "header": { "name": name, "value": value.reference() } }),
        }
    }
}

impl TargetDraft {
    /// The entry of `targets:`, with nothing in it that was not said.
    pub fn entry(&self) -> Value {
        let mut upstream = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                upstream.insert(name.to_owned(), value);
            }
        };
        put("tls", self.tls.as_ref().map(|tls| json!(tls)));
        put("ca", self.ca.as_ref().map(|ca| json!(ca)));
        put("credential", self.credential.as_ref().map(Login::entry));
        put("remove_headers", (!self.remove_headers.is_empty()).then(|| json!(self.remove_headers)));
        let mut entry = json!({
            "name": self.name,
            "protocol": self.protocol,
            "addresses": self.addresses,
            "upstream": upstream,
        });
        if !self.tags.is_empty() {
            let tags: Map<String, Value> =
                self.tags.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            entry["tags"] = Value::Object(tags);
        }
        if let Some(mode) = self.mode {
            entry["mode"] = json!(mode);
        }
        if let Some(default) = self.default {
            entry["default"] = json!(default);
        }
        if let Some((ca, key)) = &self.client_ca {
            entry["client_tls"] = json!({ "ca": ca, "ca_key": key });
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_that_the_configuration_reads_can_be_chosen() {
        let known = serde_json::from_value::<Protocol>(json!("nonsense")).unwrap_err().to_string();
        for protocol in PROTOCOLS {
            assert!(known.contains(&format!("`{protocol}`")), "{known}");
        }
        assert_eq!(known.matches('`').count(), 2 * (1 + PROTOCOLS.len()), "{known}");
    }
}
