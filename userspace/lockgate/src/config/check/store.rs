//! What is wrong with `store:` and what stands beside it, as far as that needs no server.

use super::{Checker, raw};
use crate::config::{DEFAULT_STORE, SharedStore, Store};
use lockgate_store::postgres::PostgresSettings;
use raw::Spanned;
use std::path::PathBuf;

/// What waits for the database when it is away: at a thousand records a second, a quarter of an hour and more.
const SPOOL_BYTES: u64 = 1 << 30;
/// Less would refuse operations at every hiccup; more is a disk's worth.
const SPOOL_RANGE: (u64, u64) = (16 << 20, 1 << 40);

const HELP: &str =
    "write \"sled:/var/lib/lockgate\", or \"postgres://ROLE@HOST/DATABASE\" for a store that nodes share";

impl Checker {
    pub(super) fn store(&mut self, raw: &raw::Raw) -> Store {
        let head = raw.store_head.as_ref().map(|path| self.resolve(path));
        let Some(store) = &raw.store else {
            self.alone(raw);
            return Store { dir: PathBuf::from(DEFAULT_STORE), head, shared: None };
        };
        if store.value.starts_with("postgres") {
            let shared = self.shared(raw, store);
            let dir = raw
                .store_dir
                .as_ref()
                .map_or_else(|| PathBuf::from(DEFAULT_STORE), |dir| self.resolve(&dir.value));
            return Store { dir, head, shared };
        }
        self.alone(raw);
        let dir = match store.value.strip_prefix("sled:") {
            Some(path) if !path.is_empty() => self.resolve(path),
            _ => {
                self.error(
                    store.at,
                    format!("expected \"sled:PATH\" or \"postgres://…\", got {:?}", store.value),
                    Some(HELP),
                );
                PathBuf::new()
            }
        };
        Store { dir, head, shared: None }
    }

    /// Keys that only a shared store has.
    fn alone(&mut self, raw: &raw::Raw) {
        let at = [
            raw.store_password.as_ref().map(|key| ("store_password", key.at)),
            raw.store_ca.as_ref().map(|key| ("store_ca", key.at)),
            raw.store_dir.as_ref().map(|key| ("store_dir", key.at)),
            raw.store_spool_bytes.as_ref().map(|key| ("store_spool_bytes", key.at)),
        ];
        for (key, at) in at.into_iter().flatten() {
            self.error(at, format!("{key} belongs to a store that nodes share"), Some(HELP));
        }
    }

    fn shared(&mut self, raw: &raw::Raw, store: &Spanned<String>) -> Option<SharedStore> {
        let password = raw.store_password.as_ref().and_then(|secret| self.secret("store_password", secret));
        let ca = raw.store_ca.as_ref().and_then(|ca| self.file_or_secret(ca.at, "store_ca", &ca.value));
        let spool_bytes = match &raw.store_spool_bytes {
            Some(bytes) if !(SPOOL_RANGE.0..=SPOOL_RANGE.1).contains(&bytes.value) => {
                let (least, most) = SPOOL_RANGE;
                let what = format!("expected store_spool_bytes from {least} to {most}, got {}", bytes.value);
                self.error(bytes.at, what, None);
                SPOOL_BYTES
            }
            Some(bytes) => bytes.value,
            None => SPOOL_BYTES,
        };
        match PostgresSettings::parse(&store.value) {
            Ok(settings) => {
                if settings.is_plain() {
                    let what = "records go to the store unencrypted, and the server is not verified";
                    self.warn(
                        store.at,
                        what,
                        Some("leave sslmode=disable out, and name the CA with store_ca"),
                    );
                }
                Some(SharedStore { url: store.value.clone(), password, ca, spool_bytes })
            }
            Err(error) => {
                self.error(
                    store.at,
                    error.to_string(),
                    Some("the password goes into store_password: { file: … }"),
                );
                None
            }
        }
    }
}
