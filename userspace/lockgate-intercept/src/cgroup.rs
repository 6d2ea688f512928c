//! The cgroup-v2 tree: making and joining cgroups, their ids, and the way back from an id to a path.
//!
//! No controller is ever enabled here; lockgate uses cgroups as names for groups of processes.

use crate::{
    error::{Doing as _, InterceptError},
    mount, sys,
};
use lockgate_ebpf_common::MAX_CGROUP_LEVEL;
use rustix::fd::{AsFd as _, OwnedFd};
use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Paths remembered for cgroups that may be gone when their flow is attributed.
const REMEMBERED_PATHS: usize = 8192;

/// Bytes of `/proc/<pid>/cgroup`, as a rule.
const PROC_CGROUP_BYTES: usize = 1024;

/// Slices that are watched for new units; inotify's own limit per user is of the same order.
const FOLLOWED_SLICES: usize = 4096;

/// A cgroup-v2 id: the inode of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CgroupId(pub(crate) u64);

/// The hierarchy.
#[derive(Debug)]
pub(crate) struct Tree {
    mount: PathBuf,
    root: OwnedFd,
    known: Mutex<HashMap<CgroupId, String>>,
}

impl Tree {
    pub(crate) fn open() -> Result<Self, InterceptError> {
        let mount = mount::cgroup2_root()?;
        let root = fs::File::open(&mount).doing(|| format!("open {}", mount.display()))?.into();
        Ok(Self { mount, root, known: Mutex::default() })
    }

    /// Where programs are attached.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(crate) fn mount(&self) -> &Path {
        &self.mount
    }

    /// The directory of a path that is relative to the mount (`/lockgate/run`).
    pub(crate) fn directory(&self, path: &str) -> Result<PathBuf, InterceptError> {
        let invalid = || InterceptError::CgroupPath(path.to_owned());
        let relative = Path::new(path.trim_start_matches('/'));
        let levels = relative.components().count();
        if levels == 0 || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(invalid());
        }
        if levels > MAX_CGROUP_LEVEL as usize {
            return Err(InterceptError::TooDeep {
                path: path.to_owned(),
                level: levels,
                max: MAX_CGROUP_LEVEL,
            });
        }
        Ok(self.mount.join(relative))
    }

    /// Makes a cgroup if it is missing.
    pub(crate) fn create(&self, path: &str) -> Result<CgroupId, InterceptError> {
        let directory = self.directory(path)?;
        fs::create_dir_all(&directory).doing(|| format!("create cgroup {}", directory.display()))?;
        self.id_of(&directory).doing(|| format!("read cgroup {}", directory.display()))
    }

    /// The id of an existing cgroup; its path is remembered.
    pub(crate) fn id_of(&self, directory: &Path) -> io::Result<CgroupId> {
        let id = CgroupId(fs::metadata(directory)?.ino());
        self.remember(id, self.relative(directory));
        Ok(id)
    }

    /// Moves a process (all its threads) into a cgroup. `0` is the caller.
    pub(crate) fn join(&self, directory: &Path, pid: u32) -> io::Result<()> {
        fs::write(directory.join("cgroup.procs"), pid.to_string())
    }

    /// The path of a cgroup, relative to the mount; known ones also when they are gone. A cgroup of the
    /// v2 hierarchy is never renamed, so what is known stays true.
    pub(crate) fn path(&self, id: CgroupId) -> Option<String> {
        if let Some(path) = self.known().get(&id) {
            return Some(path.clone());
        }
        let directory = sys::cgroup_path(self.root.as_fd(), id.0).ok()?;
        // A path elsewhere belongs to another mount of the hierarchy; its part below ours is unknown.
        let path = directory.starts_with(&self.mount).then(|| self.relative(&directory))?;
        self.remember(id, path.clone());
        Some(path)
    }

    /// How many of the outermost names of a path were given by root: each lies in a directory that root alone
    /// can write to. One whose directory is gone counts as given by anybody.
    pub(crate) fn root_owned_levels(&self, path: &str) -> usize {
        let mut directory = self.mount.clone();
        let mut levels = 0;
        for part in Path::new(path.trim_start_matches('/')).components() {
            if !fs::symlink_metadata(&directory).is_ok_and(|data| data.uid() == 0 && data.mode() & 0o022 == 0)
            {
                break;
            }
            levels += 1;
            directory.push(part);
        }
        levels
    }

    /// An existing cgroup; ESTALE when it is gone.
    pub(crate) fn open_by_id(&self, id: CgroupId) -> io::Result<OwnedFd> {
        let directory = sys::cgroup_path(self.root.as_fd(), id.0)?;
        Ok(fs::File::open(directory)?.into())
    }

    /// Whether it is still there.
    pub(crate) fn exists(&self, id: CgroupId) -> bool {
        sys::cgroup_path(self.root.as_fd(), id.0).is_ok_and(|directory| directory.exists())
    }

    /// All cgroups below the root, as (relative path, directory), at most `bound` of them.
    pub(crate) fn walk(&self, bound: usize) -> Vec<(String, PathBuf)> {
        let mut found = Vec::new();
        let mut open = vec![self.mount.clone()];
        while let Some(directory) = open.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                if found.len() >= bound {
                    return found;
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.push((self.relative(&entry.path()), entry.path()));
                    open.push(entry.path());
                }
            }
        }
        found
    }

    /// The cgroups directly below one.
    pub(crate) fn children(&self, path: &str) -> Result<Vec<PathBuf>, InterceptError> {
        let directory = self.directory(path)?;
        let entries = fs::read_dir(&directory).doing(|| format!("read cgroup {}", directory.display()))?;
        let cgroups = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(cgroups.map(|entry| entry.path()).collect())
    }

    /// The root and every slice, at most [`FOLLOWED_SLICES`].
    pub(crate) fn slices(&self) -> Vec<PathBuf> {
        let mut found = vec![self.mount.clone()];
        let mut next = 0;
        while let Some(directory) = found.get(next).cloned() {
            next += 1;
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let slices = entries
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|kind| kind == "slice"));
            let room = FOLLOWED_SLICES.saturating_sub(found.len());
            found.extend(slices.take(room));
        }
        found
    }

    /// These directories and all below them, at most `bound`.
    pub(crate) fn below(&self, mut found: Vec<PathBuf>, bound: usize) -> Vec<PathBuf> {
        let mut next = 0;
        while let Some(directory) = found.get(next).cloned() {
            next += 1;
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let cgroups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let room = bound.saturating_sub(found.len());
            found.extend(cgroups.map(|entry| entry.path()).take(room));
        }
        found
    }

    fn relative(&self, directory: &Path) -> String {
        let below = directory.strip_prefix(&self.mount).unwrap_or(directory);
        format!("/{}", below.display())
    }

    fn remember(&self, id: CgroupId, path: String) {
        let mut known = self.known();
        // Ids are inodes that are not soon reused; starting over is cheaper than tracking age.
        if known.len() >= REMEMBERED_PATHS {
            known.clear();
        }
        known.insert(id, path);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<CgroupId, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The v2 path of a process, as `/proc/<pid>/cgroup` shows it (`0::/path`).
pub(crate) fn path_of_process(pid: u32) -> io::Result<Option<String>> {
    // With room for it: files of /proc say that they are empty, and would be read in many small pieces.
    let mut text = String::with_capacity(PROC_CGROUP_BYTES);
    fs::File::open(format!("/proc/{pid}/cgroup"))?.read_to_string(&mut text)?;
    Ok(text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned))
}
