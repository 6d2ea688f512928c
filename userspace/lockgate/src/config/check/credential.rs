//! How lockgate shows itself to clients, logs in on targets, and asks a vault: which keys go together, and what is missing.

use super::{Checker, raw};
use crate::config::{ClientTls, UpstreamTls, VaultConfig};
use lockgate_model::SecretRef;
use lockgate_policy::yaml::{Position, Spanned};
use lockgate_proxy::{
    credential::{CertificateSource, CredentialSettings, DEFAULT_VALIDITY, VaultAuth},
    tls::SERVER_VALIDITY,
};
use raw::{Certificate, DurationText, PathOrSecret};
use std::{collections::HashSet, time::Duration};

/// A client certificate is looked at when a connection opens; this long is for clocks that differ and slow servers.
const CLIENT_VALIDITY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
/// Clients look at a server's certificate when they connect. A year is what people put into configurations by mistake.
const SERVER_VALIDITIES: (Duration, Duration) =
    (Duration::from_secs(5 * 60), Duration::from_secs(30 * 24 * 3600));
/// A rotated password is in force after this long at the latest.
const CACHE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5 * 60));
/// A login waits for the vault.
const VAULT_TIME: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Unless configuration says otherwise.
const DEFAULT_VAULT_TIME: Duration = Duration::from_secs(5);
/// Where a pod finds its service account's token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Words that are wrong together or alone.
const PAIRS: &str = "write { certificate: PATH, key: PATH }, or { ca: PATH, ca_key: PATH }";
const CLIENT_PAIRS: &str =
    "write { certificate: PATH, key: PATH }, { ca: PATH, ca_key: PATH }, or { vault: pki/sign/ROLE }";

impl Checker {
    pub(super) fn client_tls(&mut self, raw: &raw::Target) -> Option<ClientTls> {
        let spanned = raw.client_tls.as_ref()?;
        let at = spanned.at;
        let raw::ClientTls::Terminate(given) = &spanned.value else { return None };
        if let Some(vault) = &given.vault {
            let help = "the vault's PKI engine signs client certificates only; put the CA's key into its key-value engine";
            self.error(vault.at, "client_tls cannot be issued by the vault", Some(help));
        }
        match self.pair(at, "client_tls", given, PAIRS)? {
            Pair::Given(chain, key) => {
                if let Some(names) = given.names.as_ref().and_then(|names| names.first()) {
                    let help = "names are for a CA that issues; a certificate has its own";
                    self.error(
                        names.at,
                        "client_tls.names means nothing with client_tls.certificate",
                        Some(help),
                    );
                }
                self.no_validity("client_tls", given);
                Some(ClientTls::Certificate { chain, key })
            }
            Pair::Issued(ca, key) => {
                let names = given.names.iter().flatten();
                let names: Vec<String> = names.filter_map(|name| self.dns_name(name)).collect();
                let validity =
                    self.bounded("client_tls.validity", given.validity.as_ref(), SERVER_VALIDITIES);
                Some(ClientTls::Issue { ca, key, names, validity: validity.unwrap_or(SERVER_VALIDITY) })
            }
        }
    }

    pub(super) fn client_auth(&mut self, raw: &[Spanned<raw::ClientAuth>]) -> Vec<(String, SecretRef)> {
        let mut users = HashSet::new();
        let mut verifiers = Vec::new();
        for raw::ClientAuth { user, verifier } in raw.iter().map(|spanned| &spanned.value) {
            if user.value.is_empty() {
                self.error(user.at, "the user is empty", Some("it is the name that the client asks for"));
            }
            if !users.insert(user.value.as_str()) {
                self.error(user.at, format!("two verifiers are for the user {:?}", user.value), None);
            }
            if let Some(reference) = self.secret("client_auth.verifier", verifier) {
                verifiers.push((user.value.clone(), reference));
            }
        }
        verifiers
    }

    pub(super) fn direct(&mut self, upstream: &raw::Upstream) -> bool {
        let Some(negotiation) = &upstream.tls_negotiation else { return false };
        let direct = match negotiation.value {
            raw::Negotiation::Postgres => false,
            raw::Negotiation::Direct => true,
        };
        if direct && upstream.tls == UpstreamTls::Disable {
            self.error(
                negotiation.at,
                "tls_negotiation: direct means nothing with tls: disable",
                Some("use tls: verify-full"),
            );
        }
        direct
    }

    pub(super) fn credential(&mut self, at: Position, upstream: &raw::Upstream) -> CredentialSettings {
        let raw = &upstream.credential;
        let key = "upstream.credential";
        let password =
            raw.password.as_ref().and_then(|password| self.secret(&format!("{key}.password"), password));
        let certificate = raw.client_certificate.as_ref().and_then(|given| self.client_certificate(given));
        if let Some(given) = raw.client_certificate.as_ref().filter(|_| upstream.tls == UpstreamTls::Disable)
        {
            self.error(
                given.at,
                format!("{key}.client_certificate means nothing with tls: disable"),
                Some("client certificates belong to TLS: use tls: verify-full"),
            );
        }
        if let Some(path) = &raw.vault {
            self.engine_path(path, &format!("{key}.vault"), "database/creds/ROLE");
            if raw.user.is_some() || raw.password.is_some() {
                let message = format!("{key}.vault makes user and password; neither may stand beside it");
                self.error(path.at, message, Some("remove credential.user and credential.password"));
            }
        }
        match (&raw.user, &raw.vault) {
            (Some(user), _) if user.value.is_empty() => {
                self.error(user.at, "the role to log in as is empty", None);
            }
            (Some(_), _) | (None, Some(_)) => {}
            (None, None) => {
                let help = Some("set credential.user, or credential.vault: database/creds/ROLE");
                self.error(at, "upstream.credential does not say whom to log in as", help);
            }
        }
        let cache = self.bounded(&format!("{key}.cache"), raw.cache.as_ref(), CACHE);
        CredentialSettings {
            user: raw.user.as_ref().map(|user| user.value.clone()).unwrap_or_default(),
            password,
            certificate,
            database: raw.vault.as_ref().map(|path| path.value.clone()),
            cache,
        }
    }

    pub(super) fn client_certificate(&mut self, given: &Spanned<Certificate>) -> Option<CertificateSource> {
        let key = "upstream.credential.client_certificate";
        if let Some(names) = given.value.names.as_ref().and_then(|names| names.first()) {
            let help = "its common name is the role that lockgate logs in as";
            self.error(names.at, format!("{key}.names: a client certificate has no names"), Some(help));
        }
        let wanted = given.value.validity.as_ref();
        if let Some(path) = &given.value.vault {
            let Certificate { certificate, key: own, ca, ca_key, .. } = &given.value;
            if [certificate, own, ca, ca_key].iter().any(|part| part.is_some()) {
                self.error(path.at, format!("{key}: the vault signs, or somebody else"), Some(CLIENT_PAIRS));
            }
            self.engine_path(path, &format!("{key}.vault"), "pki/sign/ROLE");
            let validity = self.bounded(&format!("{key}.validity"), wanted, CLIENT_VALIDITY);
            let validity = validity.unwrap_or(DEFAULT_VALIDITY);
            return Some(CertificateSource::Vault { path: path.value.clone(), validity });
        }
        match self.pair(given.at, key, &given.value, CLIENT_PAIRS)? {
            Pair::Given(certificate, own) => {
                self.no_validity(key, &given.value);
                Some(CertificateSource::Given { certificate, key: own })
            }
            Pair::Issued(ca, ca_key) => {
                let validity = self.bounded(&format!("{key}.validity"), wanted, CLIENT_VALIDITY);
                let validity = validity.unwrap_or(DEFAULT_VALIDITY);
                Some(CertificateSource::Issued { ca, key: ca_key, validity })
            }
        }
    }

    pub(super) fn vault(&mut self, raw: &Spanned<raw::Vault>) -> Option<VaultConfig> {
        let raw::Vault { address, ca, namespace, auth, timeout } = &raw.value;
        if !super::is_http(&address.value) {
            let message = format!("vault.address: {:?} is not an http:// or https:// URL", address.value);
            self.error(address.at, message, Some("such as https://vault.internal:8200"));
        }
        if let Some(name) = namespace.as_ref().filter(|name| !is_path(&name.value)) {
            self.error(name.at, format!("vault.namespace: {:?} is not a namespace", name.value), None);
        }
        let timeout = self.bounded("vault.timeout", timeout.as_ref(), VAULT_TIME);
        let ca = ca.as_ref().map(|ca| self.file_or_secret(address.at, "vault.ca", ca));
        let auth = match &auth.value {
            raw::VaultAuth::Token(token) => VaultAuth::Token(self.own("token", token)?),
            raw::VaultAuth::Approle(raw::AppRole { mount, role_id, secret_id }) => {
                let (role_id, secret_id) = (self.own("role_id", role_id), self.own("secret_id", secret_id));
                VaultAuth::AppRole {
                    mount: self.mount(mount.as_ref(), "approle"),
                    role_id: role_id?,
                    secret_id: secret_id?,
                }
            }
            raw::VaultAuth::Kubernetes(raw::Kubernetes { mount, role, jwt }) => VaultAuth::Kubernetes {
                mount: self.mount(mount.as_ref(), "kubernetes"),
                role: role.value.clone(),
                jwt: match jwt {
                    Some(jwt) => self.own("jwt", jwt)?,
                    None => SecretRef::File(SERVICE_ACCOUNT.to_owned()),
                },
            },
        };
        Some(VaultConfig {
            address: address.value.clone(),
            ca: ca.flatten(),
            namespace: namespace.as_ref().map(|name| name.value.clone()),
            auth,
            timeout: timeout.unwrap_or(DEFAULT_VAULT_TIME),
        })
    }

    /// A secret of lockgate's own login: a vault cannot keep the key to itself.
    fn own(&mut self, key: &str, secret: &Spanned<raw::SecretText>) -> Option<SecretRef> {
        let key = format!("vault.auth.{key}");
        match self.secret(&key, secret)? {
            SecretRef::Vault(_) => {
                let help = "use a file, a variable or a command of this host";
                self.error(secret.at, format!("{key}: the vault cannot keep the key to itself"), Some(help));
                None
            }
            reference @ (SecretRef::File(_) | SecretRef::Env(_) | SecretRef::Command(_)) => Some(reference),
        }
    }

    fn mount(&mut self, mount: Option<&Spanned<String>>, usual: &str) -> String {
        let Some(mount) = mount else { return usual.to_owned() };
        if !is_path(&mount.value) {
            let help = format!("it is what stands between auth/ and /login, usually {usual}");
            self.error(
                mount.at,
                format!("{:?} is not the mount of an auth method", mount.value),
                Some(&help),
            );
        }
        mount.value.clone()
    }

    /// Whether a reference into the key-value store can lead anywhere.
    pub(super) fn vault_reference(&mut self, at: Position, key: &str, reference: &str) -> bool {
        let good = reference.split_once('#').is_some_and(|(path, field)| is_path(path) && !field.is_empty());
        if !good {
            let message = format!("{key}: {reference:?} is not PATH#FIELD");
            self.error(at, message, Some("such as { vault: \"secret/data/orders#password\" }"));
        } else if !self.has_vault {
            self.no_vault(at, key);
        }
        good && self.has_vault
    }

    fn engine_path(&mut self, path: &Spanned<String>, key: &str, example: &str) {
        if !is_path(&path.value) {
            let message = format!("{key}: {:?} is not a path of the vault", path.value);
            self.error(path.at, message, Some(&format!("such as {example}")));
        } else if !self.has_vault {
            self.no_vault(path.at, key);
        }
    }

    fn no_vault(&mut self, at: Position, key: &str) {
        let help = "add vault: { address: https://…, auth: { token: { file: PATH } } }";
        self.error(at, format!("{key} rests in a vault, and `vault:` does not say which"), Some(help));
    }

    fn pair(&mut self, at: Position, key: &str, given: &Certificate, help: &str) -> Option<Pair> {
        let Certificate { certificate, key: own, ca, ca_key, .. } = given;
        let mut part =
            |name: &str, part: &PathOrSecret| self.file_or_secret(at, &format!("{key}.{name}"), part);
        match (certificate, own, ca, ca_key) {
            (Some(certificate), Some(own), None, None) => {
                let (certificate, own) = (part("certificate", certificate), part("key", own));
                certificate.zip(own).map(|(certificate, own)| Pair::Given(certificate, own))
            }
            (None, None, Some(ca), Some(ca_key)) => {
                let (ca, ca_key) = (part("ca", ca), part("ca_key", ca_key));
                ca.zip(ca_key).map(|(ca, ca_key)| Pair::Issued(ca, ca_key))
            }
            _ => {
                self.error(at, format!("{key}: the keys do not go together"), Some(help));
                None
            }
        }
    }

    fn no_validity(&mut self, key: &str, given: &Certificate) {
        if let Some(validity) = &given.validity {
            let help = "it is for certificates that lockgate or the vault issues";
            self.error(validity.at, format!("{key}.validity: a given certificate has its own"), Some(help));
        }
    }

    fn dns_name(&mut self, name: &Spanned<String>) -> Option<String> {
        let text = name.value.trim_end_matches('.');
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let good =
            text.len() <= 253 && text.split('.').all(label) && text.parse::<std::net::IpAddr>().is_err();
        if !good {
            let help =
                "addresses that clients dial need not be listed; write names such as db or db.internal";
            self.error(name.at, format!("{:?} is not a DNS name", name.value), Some(help));
        }
        good.then(|| text.to_ascii_lowercase())
    }

    pub(super) fn bounded(
        &mut self,
        key: &str,
        given: Option<&DurationText>,
        (least, most): (Duration, Duration),
    ) -> Option<Duration> {
        let given = given?;
        if !(least..=most).contains(&given.value) {
            let (least, most) =
                (lockgate_model::time::format_duration(least), lockgate_model::time::format_duration(most));
            self.error(given.at, format!("{key}: expected {least} to {most}"), None);
        }
        Some(given.value)
    }
}

/// A certificate and its key, or a CA and its.
enum Pair {
    Given(SecretRef, SecretRef),
    Issued(SecretRef, SecretRef),
}

/// A path of the vault's API: no query, no way up, nothing that is not printable.
fn is_path(path: &str) -> bool {
    path.len() <= 512
        && path.split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%' | b'\\'))
        })
}
