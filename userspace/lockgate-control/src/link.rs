//! The addresses that messages carry. A link to a request shows it to whoever holds the link: it carries a
//! token that cannot be guessed and is good for that request alone. Nothing is decided by opening a link.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use lockgate_model::{BundleId, RequestId, Secret, port::Ambient};
use sha2::Sha256;
use std::fmt::Display;

/// Makes and checks links.
pub(crate) struct Links {
    base: Option<String>,
    /// Lives as long as the process; what waits on over a restart is told again, with new links.
    key: Secret<Vec<u8>>,
}

impl Links {
    pub(crate) fn new(base: Option<String>, ambient: &dyn Ambient) -> Self {
        let mut key = ambient.random().to_le_bytes().to_vec();
        key.extend(ambient.random().to_le_bytes());
        Self { base, key: Secret::new(key) }
    }

    /// Where a decision is sent; empty when this node has no address.
    pub(crate) fn decision(&self, id: RequestId) -> String {
        self.to(id).map(|url| format!("{url}/decision")).unwrap_or_default()
    }

    /// Where the request can be read in full, by whoever holds this address; empty without an address.
    pub(crate) fn view(&self, id: RequestId) -> String {
        self.to(id).map(|url| format!("{url}?token={}", self.token(id))).unwrap_or_default()
    }

    /// Where a decision on a whole bundle is sent.
    pub(crate) fn bundle_decision(&self, id: BundleId) -> String {
        self.to_bundle(id).map(|url| format!("{url}/decision")).unwrap_or_default()
    }

    /// Where a whole bundle can be read.
    pub(crate) fn bundle_view(&self, id: BundleId) -> String {
        self.to_bundle(id).map(|url| format!("{url}?token={}", self.token(id))).unwrap_or_default()
    }

    /// Where people look at it and decide, once they are logged in; empty without an address. Holds no token.
    pub(crate) fn console(&self, id: RequestId) -> String {
        self.base.as_ref().map(|base| format!("{base}/approvals/{id}")).unwrap_or_default()
    }

    /// The same of a bundle.
    pub(crate) fn bundle_console(&self, id: BundleId) -> String {
        self.base.as_ref().map(|base| format!("{base}/bundles/{id}")).unwrap_or_default()
    }

    /// What the waiting job is told. It ends in build logs that many can read, so it holds no token: the
    /// page says what to do next.
    pub(crate) fn person(&self, id: RequestId) -> String {
        self.to(id).unwrap_or_else(|| format!("lockgate approvals show {id}"))
    }

    /// Whether `token` is the one in this request's link. Constant time.
    pub(crate) fn admits(&self, id: impl Display, token: &str) -> bool {
        let Ok(token) = URL_SAFE_NO_PAD.decode(token) else { return false };
        self.mac(id).is_some_and(|mac| mac.verify_slice(&token).is_ok())
    }

    fn token(&self, id: impl Display) -> String {
        self.mac(id).map(|mac| URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())).unwrap_or_default()
    }

    fn to(&self, id: RequestId) -> Option<String> {
        self.base.as_ref().map(|base| format!("{base}/v1/approvals/{id}"))
    }

    fn to_bundle(&self, id: BundleId) -> Option<String> {
        self.base.as_ref().map(|base| format!("{base}/v1/bundles/{id}"))
    }

    fn mac(&self, id: impl Display) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of any length; the error type exists for other MACs.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.expose()).ok()?;
        mac.update(b"lockgate view ");
        mac.update(id.to_string().as_bytes());
        Some(mac)
    }
}
