//! Slack's signature of what it sends: `X-Slack-Signature: v0=hex(HMAC-SHA256(signing secret, "v0:{timestamp}:{body}"))`
//! (api.slack.com/authentication/verifying-requests-from-slack).

use super::Slack;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

impl Slack {
    /// Whether one of the signing secrets made it. Constant time.
    pub(crate) fn signed(&self, timestamp: &str, body: &[u8], signature: &str) -> bool {
        let Some(Ok(signature)) = signature.strip_prefix("v0=").map(hex::decode) else { return false };
        self.signing.iter().any(|key| {
            Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()).is_ok_and(|mut mac| {
                mac.update(b"v0:");
                mac.update(timestamp.as_bytes());
                mac.update(b":");
                mac.update(body);
                mac.verify_slice(&signature).is_ok()
            })
        })
    }
}
