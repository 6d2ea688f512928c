//! The key that signs the head: made once, kept by the agent's user alone, its public half beside it.

use crate::{
    error::{During, StoreError},
    layout::Layout,
};
use lockgate_audit::{PublicKey, SigningKey};
use lockgate_model::Secret;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

fn private_path(layout: &Layout) -> PathBuf {
    layout.keys().join("log.key")
}

fn public_path(layout: &Layout) -> PathBuf {
    layout.keys().join("log.pub")
}

/// Reads the signing key, or makes one on a store's first start.
pub(crate) fn load_or_create(layout: &Layout, name: String) -> Result<SigningKey, StoreError> {
    let path = private_path(layout);
    let key = match fs::read_to_string(&path) {
        Ok(text) => {
            SigningKey::parse(&text).map_err(|source| StoreError::Note { path: path.clone(), source })?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|error| StoreError::Random(error.to_string()))?;
            let key = SigningKey::from_seed(name, &Secret::new(seed));
            install(&path, 0o600, key.to_text().expose())?;
            key
        }
        Err(error) => return Err(error).during("read", path),
    };
    let public = public_path(layout);
    if !public.exists() {
        install(&public, 0o644, &key.public().to_string())?;
    }
    Ok(key)
}

/// The public key beside the log, when there is one.
pub(crate) fn public(layout: &Layout) -> Result<Option<PublicKey>, StoreError> {
    let path = public_path(layout);
    match fs::read_to_string(&path) {
        Ok(text) => text.parse().map(Some).map_err(|source| StoreError::Note { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).during("read", path),
    }
}

/// Whole or not at all: a crash leaves no half key.
fn install(path: &Path, mode: u32, text: &str) -> Result<(), StoreError> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().during("write", path)
}
