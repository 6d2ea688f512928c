//! The style sheet and the script, in the binary. Their addresses hold a hash of their text, so that browsers keep them for
//! good and never show an old one.

use axum::{
    Router,
    http::{HeaderValue, header},
    response::IntoResponse,
    routing::get,
};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// Digits of the hash in an address.
const HASH_DIGITS: usize = 16;

/// One file.
pub(super) struct Asset {
    /// Where it is served.
    pub(super) path: String,
    text: &'static str,
    kind: &'static str,
}

pub(super) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("console.css", include_str!("assets/console.css"), "text/css; charset=utf-8")
});
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("console.js", include_str!("assets/console.js"), "text/javascript; charset=utf-8")
});

impl Asset {
    fn new(name: &str, text: &'static str, kind: &'static str) -> Self {
        let hash = hex::encode(Sha256::digest(text));
        let hash = hash.get(..HASH_DIGITS).unwrap_or(&hash);
        Self { path: format!("/assets/{hash}/{name}"), text, kind }
    }
}

/// Served to everybody: there is nothing in them but the looks, and the page to log in needs them.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    [&STYLE, &SCRIPT]
        .into_iter()
        .fold(Router::new(), |router, asset| router.route(&asset.path, get(async move || serve(asset))))
}

fn serve(asset: &'static Asset) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, asset.text)
}
