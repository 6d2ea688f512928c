//! What only HTTP targets have.

use super::{SecretText, Spanned};
use serde::Deserialize;

/// `credential.header`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) name: Spanned<String>,
    pub(crate) value: Spanned<SecretText>,
}
