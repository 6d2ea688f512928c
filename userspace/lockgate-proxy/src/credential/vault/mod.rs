//! A HashiCorp Vault or OpenBao server, by its HTTP API version 1: key-value secrets, accounts of the database engine with
//! their leases, and certificates of the PKI engine.
//!
//! It logs in by a token file, AppRole or a Kubernetes service account, keeps the token in memory for as long as the
//! server says, and follows no redirect. Answers are bounded and read as what they have to be; nothing else in them counts.

mod client;
mod lease;
mod settings;
mod token;

pub use lease::Lease;
pub use settings::{VaultAuth, VaultError, VaultSettings};

use super::{MAX_SECRET, SecretBytes};
use client::{Client, Method};
use lease::Given;
use lockgate_model::Secret;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// One server, and who lockgate is there.
#[derive(Clone)]
pub struct Vault(Arc<Client>);

impl Vault {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub fn new(settings: VaultSettings) -> Result<Self, VaultError> {
        Ok(Self(Arc::new(Client::new(settings)?)))
    }

    /// Waits until every account is given back, at the end of the process and not for ever: what is left ends by itself.
    pub async fn given_back(&self, limit: Duration) {
        self.0.leases.close();
        if tokio::time::timeout(limit, self.0.leases.wait()).await.is_err() {
            tracing::warn!(
                left = self.0.leases.len(),
                "accounts of the vault are not given back; they end by themselves"
            );
        }
    }

    /// A field of a key-value secret: `secret/data/orders#password` (version 2), or `kv/orders#password` (version 1).
    pub(super) async fn read(&self, reference: &str) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (path, field) =
            reference.split_once('#').ok_or_else(|| VaultError::Reference(reference.to_owned()))?;
        let body = self.0.ask(Method::Get, path, None).await?;
        let answer: KeyValue = parse(path, &body)?;
        // Version 2 wraps the fields once more, beside their metadata.
        let fields = match (answer.data.get("data"), answer.data.get("metadata")) {
            (Some(Value::Fields(fields)), Some(Value::Fields(_))) => fields,
            _ => &answer.data,
        };
        let (path, field) = (path.to_owned(), field.to_owned());
        match fields.get(&field) {
            Some(Value::Text(value)) => Ok(Zeroizing::new(value.as_bytes().to_vec())),
            Some(Value::Fields(_) | Value::Other) => Err(VaultError::NotText { path, field }),
            None => {
                let mut names: Vec<_> = fields.keys().map(String::as_str).collect();
                names.sort_unstable();
                Err(VaultError::NoField { path, field, fields: names.join(", ") })
            }
        }
    }

    /// An account of the database engine: user, password, and the lease on both.
    ///
    /// Cancel-safe: whoever stops waiting leaves no account behind. It is made all the same, and given back.
    pub(super) async fn database(&self, path: &str) -> Result<(String, SecretBytes, Lease), VaultError> {
        let (vault, path) = (self.clone(), path.to_owned());
        let made = self.0.leases.spawn(async move { vault.make_account(&path).await });
        made.await.unwrap_or_else(|_| Err(VaultError::Client("the agent is ending".to_owned())))
    }

    async fn make_account(&self, path: &str) -> Result<(String, SecretBytes, Lease), VaultError> {
        #[derive(Deserialize)]
        struct Account {
            username: String,
            password: Zeroizing<String>,
        }
        #[derive(Deserialize)]
        struct Answer {
            lease_id: String,
            #[serde(default)]
            lease_duration: u64,
            #[serde(default)]
            renewable: bool,
            data: Account,
        }
        let (body, token) = self.0.ask_by(Method::Get, path, None).await?;
        let answer: Answer = parse(path, &body)?;
        let given = Given {
            id: answer.lease_id,
            length: Duration::from_secs(answer.lease_duration),
            renewable: answer.renewable,
        };
        let lease = Lease::keep(self.0.clone(), token, given);
        let Account { username, password } = answer.data;
        if username.is_empty() || password.is_empty() || password.len() > MAX_SECRET {
            let expected = "a user name and a password";
            return Err(VaultError::Answer { path: path.to_owned(), expected });
        }
        Ok((username, Secret::new(password.as_bytes().to_vec()), lease))
    }

    /// A certificate of the PKI engine for a request that lockgate made, with its chain, PEM.
    pub(super) async fn sign(
        &self,
        path: &str,
        common_name: &str,
        request: String,
        validity: Duration,
    ) -> Result<String, VaultError> {
        #[derive(Deserialize)]
        struct Data {
            certificate: String,
            #[serde(default)]
            ca_chain: Vec<String>,
        }
        #[derive(Deserialize)]
        struct Answer {
            data: Data,
        }
        let asked = serde_json::json!({
            "csr": request,
            "common_name": common_name,
            "ttl": format!("{}s", validity.as_secs()),
            "format": "pem",
        });
        let body = self.0.ask(Method::Post, path, Some(&asked)).await?;
        let Answer { data } = parse(path, &body)?;
        Ok(std::iter::once(data.certificate).chain(data.ca_chain).collect::<Vec<_>>().join("\n"))
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Vault").field(&self.0.address()).finish()
    }
}

fn parse<'a, T: Deserialize<'a>>(path: &str, body: &'a [u8]) -> Result<T, VaultError> {
    // serde's own words may quote the answer, and with it a secret.
    serde_json::from_slice(body).map_err(|_| VaultError::Answer {
        path: path.to_owned(),
        expected: "the JSON of Vault's API, version 1",
    })
}

/// Answer to reading a key-value secret, of both versions.
#[derive(Deserialize)]
struct KeyValue {
    data: HashMap<String, Value>,
}

/// A field, as far as it can be a secret or hold some.
enum Value {
    Text(Zeroizing<String>),
    Fields(HashMap<String, Value>),
    Other,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(Zeroizing::new(text.to_owned())))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
                Ok(Value::Text(Zeroizing::new(text)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut fields = HashMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    fields.insert(name, value);
                }
                Ok(Value::Fields(fields))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                while list.next_element::<Value>()?.is_some() {}
                Ok(Value::Other)
            }
            fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
                Ok(Value::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests;
