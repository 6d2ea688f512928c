//! Explicit mode in the agent: where targets listen themselves, what tokens are signed with, and who is given one.

use super::Agent;
use crate::config::Config;
use anyhow::Context as _;
use lockgate_model::{
    Secret, Timestamp,
    event::{Event, EventKind},
    id::TargetName,
    port::{Ambient as _, Durability, Recorder as _},
    workload::IdentityKind,
};
use lockgate_proxy::caller::{Network, TokenKey};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

/// What a token is asked for with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    pub(crate) target: TargetName,
    pub(crate) caller: String,
    pub(crate) kind: IdentityKind,
    pub(crate) from: Vec<Network>,
    pub(crate) seconds: u64,
}

/// The key of callers' tokens, made when it is not there; None while no target takes tokens.
pub(super) fn key(config: &Config) -> anyhow::Result<Option<Arc<TokenKey>>> {
    let takes = |target: &crate::config::TargetConfig| {
        target.explicit.as_ref().is_some_and(|explicit| explicit.tokens)
    };
    if !config.targets.iter().any(takes) {
        return Ok(None);
    }
    let path = config.store.caller_key();
    let key = match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path),
        read => read,
    };
    Ok(Some(Arc::new(TokenKey::new(key.with_context(|| path.display().to_string())?))))
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    let mut file = fs::File::open(path)?;
    file.read_exact(&mut key)?;
    match file.read(&mut [0])? {
        0 => Ok(key),
        _ => Err(io::Error::other("expected 32 bytes, got more; remove it and all tokens end")),
    }
}

fn make(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}

/// The listeners of targets that have one, each with its target.
pub(super) fn listeners(config: &Config) -> anyhow::Result<Vec<(TargetName, TcpListener)>> {
    let explicit = config.targets.iter().filter_map(|target| Some((target, target.explicit.as_ref()?)));
    let bound = explicit.map(|(target, explicit)| {
        let name = &target.target.name;
        let listener = TcpListener::bind(explicit.listen)
            .with_context(|| format!("targets: {name}: listen: {}", explicit.listen))?;
        Ok((name.clone(), listener))
    });
    bound.collect()
}

impl Agent {
    /// Gives somebody a token, recorded before it is handed out.
    pub(super) async fn issue_token(
        &self,
        request: TokenRequest,
        by: String,
    ) -> anyhow::Result<(String, Secret<String>, Timestamp)> {
        let TokenRequest { target, caller, kind, from, seconds } = request;
        let taken = self.config.targets.iter().any(|known| {
            known.target.name == target && known.explicit.as_ref().is_some_and(|explicit| explicit.tokens)
        });
        anyhow::ensure!(taken, "no target {target} listens for callers with tokens");
        let key = self.targets.tokens().context("no target takes tokens")?;
        let ambient = super::ambient::System;
        let life = (ambient.now(), Duration::from_secs(seconds));
        let (claims, token) = key.issue(&caller, kind, target, from, life, ambient.random())?;
        let kind = EventKind::TokenIssued {
            token: claims.id.clone(),
            caller: claims.caller,
            target: claims.target,
            from: claims.from.iter().map(|network| format!("{}/{}", network.base, network.prefix)).collect(),
            expires: claims.expires,
            by,
        };
        let event = Event { at: ambient.now(), session: None, kind };
        let _receipt = self.log.record(vec![event], Durability::Synced).await?;
        Ok((claims.id, token, claims.expires))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/callers.key");
        let key = make(&path).unwrap();
        assert_eq!(read(&path).unwrap(), key);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make(&path).is_err());
        fs::write(&path, [0; 33]).unwrap();
        assert!(read(&path).is_err());
        fs::write(&path, [0; 31]).unwrap();
        assert!(read(&path).is_err());
    }
}
