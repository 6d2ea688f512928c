//! The policy in force: loaded from files, watched, taken over when it is good.
//!
//! A changed file is in force within about a second, without a restart; a broken one changes nothing but what
//! `lockgate doctor`, the log and the record say. Files are read again and compared, not watched by inotify:
//! that sees editors, `kubectl`'s symlink swaps, bind mounts and network file systems alike.

use arc_swap::ArcSwap;
use lockgate_inspect::mask::MaskKeys;
use lockgate_model::{
    SecretRef, Timestamp,
    event::{Event, EventKind},
    id::PolicyVersion,
    port::Recorder,
};
use lockgate_policy::{CompiledPolicy, Diagnostic, Loaded, SourceFile};
use serde::Serialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often files are compared. Two equal readings are taken over, so that a file half written is not.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Files of policy; a directory with more holds something else.
const MAX_FILES: usize = 1000;
/// Policy that is larger than this was not written by people; reading it every time would cost.
const MAX_TOTAL_BYTES: u64 = 16 * 1024 * 1024;
/// Errors that are recorded of one broken reading; the first ones say what is wrong.
const RECORDED_ERRORS: usize = 20;

/// Everything about the policy that others share.
pub(crate) struct Policy {
    paths: Vec<PathBuf>,
    /// Relative `file:` references of mask keys are read from here.
    base: PathBuf,
    pub(crate) in_force: Arc<ArcSwap<CompiledPolicy>>,
    pub(crate) mask_keys: Arc<ArcSwap<MaskKeys>>,
    status: Mutex<PolicyStatus>,
    /// The files that the one in force was made of.
    sources: Mutex<Vec<SourceFile>>,
    watched: Mutex<Watched>,
}

/// What `lockgate doctor` says of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PolicyStatus {
    /// Which one is in force.
    pub(crate) version: PolicyVersion,
    /// Since when.
    pub(crate) loaded_at: Timestamp,
    /// Made of these.
    pub(crate) files: Vec<String>,
    /// What is odd about it.
    pub(crate) warnings: Vec<String>,
    /// The last reading that was not taken over, until one is.
    pub(crate) rejected: Option<Rejected>,
}

/// A reading that was not taken over.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rejected {
    pub(crate) at: Timestamp,
    pub(crate) errors: Vec<String>,
}

/// What the watcher has seen.
struct Watched {
    /// The reading that is in force or was rejected.
    settled: Reading,
    /// A reading that differs, seen once.
    fresh: Option<Reading>,
}

/// Files, or why they cannot be read.
type Reading = Result<Vec<SourceFile>, String>;

impl Policy {
    /// Loads it for the first time.
    pub(crate) async fn load(paths: Vec<PathBuf>, base: PathBuf) -> Result<Self, Vec<Diagnostic>> {
        let reading = read(&paths);
        let (loaded, keys) = compile(&reading, &base).await?;
        let status = PolicyStatus::of(&reading, &loaded);
        Ok(Self {
            paths,
            base,
            in_force: Arc::new(ArcSwap::from_pointee(loaded.policy)),
            mask_keys: Arc::new(ArcSwap::from_pointee(keys)),
            status: Mutex::new(status),
            sources: Mutex::new(reading.clone().unwrap_or_default()),
            watched: Mutex::new(Watched { settled: reading, fresh: None }),
        })
    }

    /// Where it stands.
    pub(crate) fn status(&self) -> PolicyStatus {
        lock(&self.status).clone()
    }

    /// What it was made of.
    pub(crate) fn sources(&self) -> Vec<SourceFile> {
        lock(&self.sources).clone()
    }

    /// Looks at the files forever; `now_please` makes it look (and load, changed or not) at once.
    pub(crate) async fn watch(&self, recorder: &dyn Recorder, now_please: &tokio::sync::Notify) {
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => false,
                () = now_please.notified() => true,
            };
            if let Some(reading) = self.changed(asked).await {
                self.take_over(&reading, recorder).await;
                lock(&self.watched).settled = reading;
            }
        }
    }

    /// A reading that differs from the settled one and was seen twice.
    async fn changed(&self, asked: bool) -> Option<Reading> {
        let paths = self.paths.clone();
        // Files may be on a network; nobody else waits for them. None: the agent ends.
        let reading = tokio::task::spawn_blocking(move || read(&paths)).await.ok()?;
        if asked {
            return Some(reading);
        }
        let mut watched = lock(&self.watched);
        if reading == watched.settled {
            watched.fresh = None;
            return None;
        }
        if watched.fresh.as_ref() == Some(&reading) {
            return watched.fresh.take();
        }
        watched.fresh = Some(reading);
        None
    }

    async fn take_over(&self, reading: &Reading, recorder: &dyn Recorder) {
        let at = Timestamp::now();
        let kind = match compile(reading, &self.base).await {
            Ok((loaded, keys)) => {
                let status = PolicyStatus::of(reading, &loaded);
                for warning in &status.warnings {
                    tracing::warn!(%warning, "policy");
                }
                tracing::info!(policy = %status.version, files = status.files.len(), "a changed policy is in force");
                let kind = EventKind::PolicyLoaded {
                    version: status.version.clone(),
                    files: status.files.clone(),
                    warnings: status.warnings.clone(),
                };
                // Keys first: a policy in force never misses one.
                self.mask_keys.store(Arc::new(keys));
                self.in_force.store(Arc::new(loaded.policy));
                *lock(&self.status) = status;
                *lock(&self.sources) = reading.clone().unwrap_or_default();
                kind
            }
            Err(diagnostics) => {
                let errors: Vec<String> =
                    diagnostics.iter().take(RECORDED_ERRORS).map(Diagnostic::to_string).collect();
                let in_force = self.in_force.load().version().clone();
                for error in &errors {
                    tracing::warn!(%error, "policy");
                }
                tracing::warn!(policy = %in_force, errors = diagnostics.len(), "the changed policy is broken; the last good one stays in force");
                lock(&self.status).rejected = Some(Rejected { at, errors: errors.clone() });
                EventKind::PolicyRejected { in_force, errors }
            }
        };
        recorder.submit(vec![Event { at, session: None, kind }]);
    }
}

impl PolicyStatus {
    fn of(reading: &Reading, loaded: &Loaded) -> Self {
        let files = reading.iter().flatten().map(|file| file.path.clone()).collect();
        Self {
            version: loaded.policy.version().clone(),
            loaded_at: Timestamp::now(),
            files,
            warnings: loaded.warnings.iter().map(Diagnostic::to_string).collect(),
            rejected: None,
        }
    }
}

/// Compiles a reading and fetches the keys its masks need: without them it is not taken over.
async fn compile(reading: &Reading, base: &Path) -> Result<(Loaded, MaskKeys), Vec<Diagnostic>> {
    let whole = |message: String| {
        vec![Diagnostic { file: "policies".to_owned(), line: 0, column: 0, message, help: None }]
    };
    let files = reading.clone().map_err(whole)?;
    // CEL and nested patterns recurse; never on a worker's stack.
    let loaded = tokio::task::spawn_blocking(move || CompiledPolicy::load(files))
        .await
        .map_err(|_| whole("the policy compiler panicked".to_owned()))??;
    let mut keys = MaskKeys::new();
    for reference in loaded.policy.mask_keys() {
        let place = match &reference {
            SecretRef::File(path) => SecretRef::File(base.join(path).display().to_string()),
            SecretRef::Env(_) | SecretRef::Command(_) | SecretRef::Vault(_) => reference.clone(),
        };
        let key = lockgate_proxy::credential::resolve(&place).await;
        keys.insert(reference, key.map_err(|error| whole(format!("a mask's key: {error}")))?);
    }
    Ok((loaded, keys))
}

/// The files of all paths: a file as it is, a directory's `*.yaml` and `*.yml`, in order of their names.
/// Hidden ones are skipped (`..data` of a mounted ConfigMap).
pub(crate) fn read(paths: &[PathBuf]) -> Reading {
    let mut files = Vec::new();
    let mut bytes = 0;
    for path in paths {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let members = if path.is_dir() { members(path).map_err(failed)? } else { vec![path.clone()] };
        for member in members {
            let failed = |error: io::Error| format!("{}: {error}", member.display());
            bytes += fs::metadata(&member).map_err(failed)?.len();
            if files.len() >= MAX_FILES || bytes > MAX_TOTAL_BYTES {
                return Err(format!(
                    "{}: more than {MAX_FILES} files or {MAX_TOTAL_BYTES} bytes of policy",
                    member.display()
                ));
            }
            let text = fs::read_to_string(&member).map_err(failed)?;
            files.push(SourceFile { path: member.display().to_string(), text });
        }
    }
    Ok(files)
}

fn members(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut members = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && !hidden && path.is_file() {
            members.push(path);
        }
    }
    members.sort();
    Ok(members)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_give_their_policies_in_order_and_skip_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", ".hidden.yaml", "notes.txt"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("sub.yaml")).unwrap();
        std::os::unix::fs::symlink("b.yaml", dir.path().join("c.yaml")).unwrap();
        let files = read(&[dir.path().to_owned()]).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "c.yaml"]);
        assert!(read(&[dir.path().join("missing.yaml")]).unwrap_err().contains("missing.yaml"));
    }
}
