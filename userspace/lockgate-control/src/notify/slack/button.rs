//! What a button means: the request or bundle, bound to what is approved. It is signed with the app's signing secret, so
//! that it outlives a restart, and says nothing of the statement.

use super::Slack;
use crate::{
    approvals::{bundle::BundleCase, case::Case},
    desk::Desk,
    notify::channel::About,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use lockgate_model::{Secret, operation::Digest};
use serde_json::Value;
use sha2::Sha256;
use std::sync::Arc;

/// Bytes of a value at most: longer ones are not ours.
const VALUE_MAX: usize = 200;

/// What a click is about.
pub(crate) enum Meant {
    Case(Arc<Case>),
    /// A bundle, and its requests that the card showed.
    Bundle(Arc<BundleCase>, Vec<Arc<Case>>),
}

impl Meant {
    pub(crate) fn about(&self) -> About {
        match self {
            Self::Case(case) => About::Case(case.clone()),
            Self::Bundle(bundle, _) => About::Bundle(bundle.clone()),
        }
    }

    /// Every request that it is about.
    pub(crate) fn cases(&self) -> Vec<Arc<Case>> {
        match self {
            Self::Case(case) => vec![case.clone()],
            Self::Bundle(_, cases) => cases.clone(),
        }
    }
}

impl Slack {
    /// The value of a button on a card that shows this event: about what it shows and nothing else.
    pub(super) fn value_of(&self, event: &Value) -> Option<String> {
        let id = event["subject"].as_str()?;
        let digest = event["data"]["command_digest"].as_str()?.parse().ok()?;
        let mac = self.mac(self.signing.first()?, id, digest)?;
        Some(format!("{id}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
    }

    /// What a value that came back means now; None when it is not one of ours, or is about something else than what it
    /// showed.
    pub(crate) fn meant_by(&self, desk: &Desk, value: &str) -> Option<Meant> {
        let (id, mac) = value.split_once('.').filter(|_| value.len() <= VALUE_MAX)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let fits = |digest: Digest| {
            let made = |key: &Secret<String>| {
                self.mac(key, id, digest).is_some_and(|expected| expected.verify_slice(&mac).is_ok())
            };
            self.signing.iter().any(made)
        };
        if let Some(case) = id.parse().ok().and_then(|id| desk.registry.find(id)) {
            return fits(case.request.operation.digest).then_some(Meant::Case(case));
        }
        let bundle = id.parse().ok().and_then(|id| desk.registry.find_bundle(id))?;
        let digest = bundle.digest();
        let shown = bundle.shown_as(digest).filter(|_| fits(digest))?;
        Some(Meant::Bundle(bundle, shown))
    }

    fn mac(&self, key: &Secret<String>, id: &str, digest: Digest) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of any length; the error type exists for other MACs.
        let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()).ok()?;
        // Slack's own signatures begin with `v0:`, so neither can stand for the other.
        mac.update(format!("lockgate button\n{}\n{id}\n{digest}", self.name()).as_bytes());
        Some(mac)
    }
}
