//! How a value is masked.

use lockgate_model::secret::{Secret, SecretRef};
use std::collections::HashMap;

/// The keys of `hash` masks, by where they rest; loaded by the binary.
#[derive(Clone, Debug, Default)]
pub struct MaskKeys {
    keys: HashMap<SecretRef, Secret<Vec<u8>>>,
}

impl MaskKeys {
    /// Nothing loaded: every hash mask redacts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key.
    pub fn insert(&mut self, reference: SecretRef, key: Secret<Vec<u8>>) {
        self.keys.insert(reference, key);
    }

    /// The key that rests there, when it was loaded.
    pub fn key(&self, reference: &SecretRef) -> Option<&Secret<Vec<u8>>> {
        self.keys.get(reference)
    }
}
