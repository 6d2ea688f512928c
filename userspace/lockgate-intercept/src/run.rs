//! `lockgate run`: a governed cgroup for one command.
//!
//! The agent places the process of the asking `lockgate run`, which then becomes the command by
//! exec; so the command is governed before its first instruction and needs no privilege.

use crate::{
    cgroup::{CgroupId, Tree, path_of_process},
    error::{Doing as _, InterceptError},
    sys,
    workload::stat_start_ticks,
};
use rustix::{
    fd::AsFd as _,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    collections::HashSet,
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The cgroups of `lockgate run`.
#[derive(Debug)]
pub(crate) struct Runs {
    directory: PathBuf,
    path: String,
    /// Being filled right now: not to be swept although empty.
    filling: Mutex<HashSet<String>>,
}

/// Name prefix of the cgroups made here; others under the same parent are not ours to remove.
const PREFIX: &str = "run-";

/// A cgroup made for one command. It is removed by the agent once it is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunCgroup {
    /// Path relative to the cgroup-v2 mount.
    pub path: String,
    /// Its id, as flows carry it.
    pub id: u64,
}

impl Runs {
    pub(crate) fn new(tree: &Tree, path: &str) -> Result<Self, InterceptError> {
        tree.create(path)?;
        Ok(Self {
            directory: tree.directory(path)?,
            path: path.trim_end_matches('/').to_owned(),
            filling: Mutex::default(),
        })
    }

    /// The parent of all of them, relative to the mount.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Moves a process into a new cgroup. A pidfd is held over the move and the start time compared
    /// before and after, so that a reused pid is never reported as placed.
    pub(crate) fn place(&self, tree: &Tree, pid: u32, start_ticks: u64) -> Result<RunCgroup, InterceptError> {
        let failed = |reason: String| InterceptError::Place { pid, reason };
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| failed("not a process id".to_owned()))?;
        let pidfd =
            pidfd_open(raw, PidfdFlags::empty()).map_err(|error| failed(format!("it is gone ({error})")))?;
        let check = || match stat_start_ticks(pid) {
            Ok(ticks) if ticks == start_ticks => Ok(()),
            Ok(ticks) => Err(failed(format!(
                "it started at tick {ticks}, the asking one at {start_ticks}: the pid was reused"
            ))),
            Err(error) => Err(failed(format!("it is gone ({error})"))),
        };
        check()?;
        let name = format!("{PREFIX}{pid}-{start_ticks}");
        let filling = Filling::new(self, &name);
        let path = format!("{}/{name}", self.path);
        let id: CgroupId = tree.create(&path)?;
        tree.join(&self.directory.join(&name), pid).doing(|| format!("move process {pid} to {path}"))?;
        check()?;
        match sys::has_exited(pidfd.as_fd()) {
            Ok(false) => {}
            Ok(true) => return Err(failed("it exited meanwhile".to_owned())),
            Err(error) => return Err(failed(format!("its pidfd cannot be polled ({error})"))),
        }
        match path_of_process(pid) {
            Ok(Some(now)) if now == path => {}
            Ok(now) => return Err(failed(format!("it is in {now:?} and not in {path}"))),
            Err(error) => return Err(failed(format!("its cgroup cannot be read ({error})"))),
        }
        drop(filling);
        Ok(RunCgroup { path, id: id.0 })
    }

    /// Removes cgroups whose command and descendants are gone; one that is in use answers EBUSY.
    pub(crate) fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Under the lock: `place` marks before it makes.
            let filling = self.filling();
            if name.starts_with(PREFIX) && !filling.contains(&name) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    fn filling(&self) -> MutexGuard<'_, HashSet<String>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Filling<'a> {
    runs: &'a Runs,
    name: String,
}

impl<'a> Filling<'a> {
    fn new(runs: &'a Runs, name: &str) -> Self {
        runs.filling().insert(name.to_owned());
        Self { runs, name: name.to_owned() }
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.runs.filling().remove(&self.name);
    }
}
