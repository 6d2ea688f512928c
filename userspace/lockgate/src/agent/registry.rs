//! Targets that come and go while the agent runs: one file each in a directory, whoever puts it there.
//!
//! An editor, the command line, the API and the console all end in the same file, the same checks and the same record; a
//! file is in force within about a second, without a restart. What cannot be used changes nothing but what the log and the
//! answer say. The configuration's own targets are not changed here.

use super::{
    Agent, names,
    targets::{self, Live},
};
use crate::config::{Config, ConfigError, TargetConfig};
use lockgate_control::house::{Actor, HouseError, Registration};
use lockgate_model::{
    DecisionId, Timestamp,
    administration::{Action, Administration},
    event::{Event, EventKind},
    id::TargetName,
    port::{Ambient as _, Durability, Recorder as _},
};
use lockgate_policy::SourceFile;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Mutex, MutexGuard};

/// How often the directory is looked at. Two equal readings are taken over, so that a file half written is not.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Targets that are registered at most; each costs the kernel's tables entries.
const MAX_FILES: usize = 1_000;
/// A definition is written by people.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// What stands in the directory, and what of it is in force.
pub(super) struct Registry {
    /// Held while a change is made: one at a time.
    settled: Mutex<Settled>,
}

/// A reading of the directory, checked.
pub(super) struct Settled {
    files: Files,
    pub(super) targets: Vec<TargetConfig>,
}

/// The definitions by the names of their files, or why they cannot be read.
type Files = Result<BTreeMap<PathBuf, String>, String>;

impl Registry {
    pub(super) fn new(settled: Settled) -> Self {
        Self { settled: Mutex::new(settled) }
    }
}

/// Reads and checks what is registered, for the first time: what cannot be used keeps the agent from starting, like a
/// target of the configuration.
pub(super) fn read(config: &Config) -> anyhow::Result<Settled> {
    let files = list(&config.targets_dir);
    let texts = files.clone().map_err(anyhow::Error::msg)?;
    let targets = check(config, &texts)?;
    Ok(Settled { files, targets })
}

fn check(config: &Config, files: &BTreeMap<PathBuf, String>) -> Result<Vec<TargetConfig>, ConfigError> {
    let source = |(path, text): (&PathBuf, &String)| SourceFile {
        path: path.display().to_string(),
        text: text.clone(),
    };
    let sources: Vec<SourceFile> = files.iter().map(source).collect();
    config.registered(&sources).map_err(|diagnostics| ConfigError::Invalid { text: None, diagnostics })
}

/// The definitions there are; none without the directory.
fn list(dir: &Path) -> Files {
    fn failed(path: &Path) -> impl Fn(io::Error) -> String {
        move |error| format!("{}: {error}", path.display())
    }
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(failed(dir))?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(failed(dir))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden || path.extension().is_none_or(|extension| extension != "yaml") || !path.is_file() {
            continue;
        }
        if files.len() >= MAX_FILES {
            return Err(format!("{}: more than {MAX_FILES} targets", dir.display()));
        }
        if fs::metadata(&path).map_err(failed(&path))?.len() > MAX_FILE_BYTES {
            return Err(format!("{}: larger than {MAX_FILE_BYTES} bytes", path.display()));
        }
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        files.insert(path, text);
    }
    Ok(files)
}

/// Takes over what is put into the directory by hand, for ever.
pub(super) async fn follow(agent: Arc<Agent>) {
    let mut fresh: Option<Files> = None;
    let mut refused: Option<Files> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let dir = agent.config.targets_dir.clone();
        let Ok(reading) = tokio::task::spawn_blocking(move || list(&dir)).await else { continue };
        let mut settled = agent.registry.settled.lock().await;
        if reading == settled.files || refused.as_ref() == Some(&reading) {
            fresh = None;
            continue;
        }
        if fresh.as_ref() != Some(&reading) {
            fresh = Some(reading);
            continue;
        }
        fresh = None;
        let by = Actor { id: "file".to_owned(), name: agent.config.targets_dir.display().to_string() };
        let taken = match &reading {
            Ok(files) => take_over(&agent, &mut settled, files.clone(), &by, None).await,
            Err(why) => Err(HouseError::Unavailable(why.clone())),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "registered targets have changed and cannot be used; the last good ones stay in force");
            refused = Some(reading);
        }
    }
}

impl Agent {
    /// Registers a target or changes a registered one; in force when it returns.
    pub(super) async fn register(
        &self,
        registration: Registration,
        by: &Actor,
    ) -> Result<TargetName, HouseError> {
        let name = registration.target.get("name").and_then(|name| name.as_str()).unwrap_or_default();
        // The name becomes a file's: what is no name must not become a path.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(HouseError::Invalid(format!(
                "expected `name` of 1 to 64 letters, digits, `.`, `_` or `-`, got {name:?}"
            )));
        }
        let text = serde_json::to_string_pretty(&registration.target)
            .map_err(|error| HouseError::Invalid(error.to_string()))?;
        let path = self.config.targets_dir.join(format!("{name}.yaml"));
        let mut settled = self.registry.settled.lock().await;
        let mut files = settled.files.clone().map_err(HouseError::Unavailable)?;
        if self.config.targets.iter().any(|target| target.target.name.as_str() == name) {
            return Err(HouseError::NotOurs(format!(
                "{name} is a target of the configuration file {}; change it there",
                self.config.path.display()
            )));
        }
        match (files.get(&path), &registration.replaces) {
            (None, None) => {}
            (Some(_), None) => {
                return Err(HouseError::Conflict(format!("there is a target {name} already")));
            }
            (Some(now), Some(etag)) if etag_of(now) == *etag => {}
            (Some(_), Some(_)) => {
                return Err(HouseError::Conflict(format!(
                    "{name} was changed meanwhile: read it again, then change what you read"
                )));
            }
            (None, Some(_)) => return Err(HouseError::NotFound(format!("there is no target {name}"))),
        }
        files.insert(path.clone(), format!("{text}\n"));
        take_over(self, &mut settled, files, by, Some(&path)).await?;
        Ok(name.into())
    }

    /// Takes a registered target away.
    pub(super) async fn unregister(
        &self,
        name: &TargetName,
        etag: Option<String>,
        by: &Actor,
    ) -> Result<(), HouseError> {
        let path = self.config.targets_dir.join(format!("{name}.yaml"));
        let mut settled = self.registry.settled.lock().await;
        let mut files = settled.files.clone().map_err(HouseError::Unavailable)?;
        if self.config.targets.iter().any(|target| target.target.name == *name) {
            return Err(HouseError::NotOurs(format!(
                "{name} is a target of the configuration file {}; take it out there",
                self.config.path.display()
            )));
        }
        let Some(text) = files.remove(&path) else {
            return Err(HouseError::NotFound(format!("there is no target {name}")));
        };
        if etag.is_some_and(|etag| etag != etag_of(&text)) {
            return Err(HouseError::Conflict(format!("{name} was changed meanwhile: read it again")));
        }
        take_over(self, &mut settled, files, by, Some(&path)).await
    }

    /// The text that a registered target is made of.
    pub(super) async fn definitions(&self) -> BTreeMap<String, String> {
        let settled = self.registry.settled.lock().await;
        let named =
            |(path, text): (&PathBuf, &String)| Some((path.file_stem()?.to_str()?.to_owned(), text.clone()));
        settled.files.iter().flatten().filter_map(named).collect()
    }
}

/// Changes with the text.
pub(super) fn etag_of(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()).get(..8).unwrap_or_default())
}

/// Checks, prepares, records, writes and puts in force; in this order, so that a refusal changes nothing. `file` is the one
/// that is to be written or removed, where it does not stand in the directory yet.
async fn take_over(
    agent: &Agent,
    settled: &mut MutexGuard<'_, Settled>,
    files: BTreeMap<PathBuf, String>,
    by: &Actor,
    file: Option<&Path>,
) -> Result<(), HouseError> {
    let invalid = |error: &dyn std::fmt::Display| HouseError::Invalid(error.to_string());
    let targets = check(&agent.config, &files).map_err(|error| invalid(&error))?;
    let live = agent.targets.with(targets.clone()).await.map_err(|error| invalid(&format!("{error:#}")))?;
    let before = settled.files.clone().unwrap_or_default();
    let changed = |target: &&TargetConfig| {
        let path = agent.config.targets_dir.join(format!("{}.yaml", target.target.name));
        before.get(&path) != files.get(&path)
    };
    for target in targets.iter().filter(changed) {
        agent.targets.try_secrets(target).await.map_err(|error| invalid(&format!("{error:#}")))?;
    }
    let mut names = agent.names().covering(&live.configs);
    let (_, failed) = names.look_up().await;
    let unknown = names.unknown();
    if let Some((name, why)) = failed.iter().find(|(name, _)| unknown.contains(name)) {
        return Err(HouseError::Invalid(format!(
            "{name} cannot be looked up ({why}); it cannot be protected without an address"
        )));
    }
    let staged = match file {
        Some(file) => stage(&agent.config.targets_dir, file, files.get(file)).map_err(|error| {
            HouseError::Unavailable(format!("{}: {error}", agent.config.targets_dir.display()))
        })?,
        None => None,
    };
    record(agent, &before, &files, by).await?;
    if let Some(file) = file {
        let placed = match staged {
            Some(staged) => fs::rename(staged, file),
            None => fs::remove_file(file),
        };
        placed.map_err(|error| HouseError::Unavailable(format!("{}: {error}", file.display())))?;
    }
    let gone = put_in_force(agent, live, &names)?;
    gone.iter().for_each(|name| tracing::info!(target = %name, "a target is not registered any more"));
    **settled = Settled { files: Ok(files), targets };
    Ok(())
}

/// Puts them in force; the names of those that went.
fn put_in_force(agent: &Agent, live: Live, names: &names::Names) -> Result<Vec<TargetName>, HouseError> {
    let kept = |name: &TargetName| live.configs.iter().any(|target| target.target.name == *name);
    let before = agent.targets.live();
    let gone = before.configs.iter().map(|target| target.target.name.clone()).filter(|name| !kept(name));
    let gone: Vec<TargetName> = gone.collect();
    agent
        .interceptor
        .set_names(&targets::named(&live.configs))
        .map_err(|error| HouseError::Unavailable(format!("the kernel side: {error}")))?;
    agent.targets.set(live);
    names::apply(agent, names);
    Ok(gone)
}

/// Writes a definition beside its place, or nothing when it is to go.
fn stage(dir: &Path, file: &Path, text: Option<&String>) -> io::Result<Option<PathBuf>> {
    let Some(text) = text else { return Ok(None) };
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let staged = dir.join(format!(".{name}.new"));
    let mut open = OpenOptions::new();
    let mut written = open.write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    Ok(Some(staged))
}

/// Records who changed what, before it is in force.
async fn record(
    agent: &Agent,
    before: &BTreeMap<PathBuf, String>,
    after: &BTreeMap<PathBuf, String>,
    by: &Actor,
) -> Result<(), HouseError> {
    let ambient = super::ambient::System;
    let at = ambient.now();
    let name =
        |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let event = |action: Action, path: &Path, definition: Option<&String>| Event {
        at,
        session: None,
        kind: EventKind::Administered(Box::new(Administration {
            decision: decision(at, ambient.random()),
            action,
            subject: name(path),
            by: by.id.clone(),
            name: by.name.clone(),
            reason: None,
            definition: definition.cloned(),
        })),
    };
    let mut events = Vec::new();
    for (path, text) in after {
        match before.get(path) {
            None => events.push(event(Action::TargetRegistered, path, Some(text))),
            Some(old) if old != text => events.push(event(Action::TargetChanged, path, Some(text))),
            Some(_) => {}
        }
    }
    let removed = before.keys().filter(|path| !after.contains_key(*path));
    events.extend(removed.map(|path| event(Action::TargetRemoved, path, None)));
    if events.is_empty() {
        return Ok(());
    }
    let recorded = agent.log.record(events, Durability::Synced).await;
    recorded.map(drop).map_err(|error| HouseError::Unavailable(format!("it cannot be recorded: {error}")))
}

/// An id for what an administrator does.
pub(super) fn decision(at: Timestamp, random: u128) -> DecisionId {
    let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
    DecisionId::from_parts(millis, random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_definitions_and_skips_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", ".b.yaml.new", "notes.txt", "c.yml"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("d.yaml")).unwrap();
        let files = list(dir.path()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), [&dir.path().join("a.yaml")]);
        assert!(list(&dir.path().join("missing")).unwrap().is_empty());
        fs::write(dir.path().join("big.yaml"), vec![b'x'; 65 << 10]).unwrap();
        assert!(list(dir.path()).unwrap_err().contains("big.yaml"));
    }

    #[test]
    fn etags_change_with_the_text() {
        assert_eq!(etag_of("a"), etag_of("a"));
        assert_ne!(etag_of("a"), etag_of("b"));
        assert_eq!(etag_of("a").len(), 16);
    }
}
