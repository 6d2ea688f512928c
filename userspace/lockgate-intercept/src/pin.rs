//! The pinned set of one instance: `<bpffs>/lockgate/v1[-instance]/{links,maps}`.
//!
//! Links outlive the agent, so that a dead agent means refused connections and not direct ones.

use crate::{
    abi::Raw,
    cgroup::CgroupId,
    error::{Doing as _, InterceptError, chain},
    mount,
    object::{Object, PROGRAMS, Spec},
    sys,
};
use aya::maps::{Array, MapData};
use lockgate_ebpf_common::{ABI_VERSION, Config, map};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Tells apart several agents on one host, as tests need it; empty for the one that operators run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Instance(String);

impl Instance {
    /// At most 32 of a-z, 0-9 and '-'; the empty name is the default instance.
    pub fn new(name: &str) -> Result<Self, InterceptError> {
        let fits =
            name.len() <= 32 && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if fits {
            Ok(Self(name.to_owned()))
        } else {
            Err(InterceptError::Instance(name.chars().take(64).collect()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn suffixed(&self, stem: &str) -> String {
        if self.0.is_empty() { stem.to_owned() } else { format!("{stem}-{}", self.0) }
    }

    /// The agent's own cgroup.
    pub(crate) fn agent_cgroup(&self) -> String {
        self.suffixed("/lockgate/agent")
    }
}

/// Where the set is, and the bpffs it is on.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    parent: PathBuf,
    base: PathBuf,
    /// Whether bpffs had to be mounted.
    pub(crate) mounted_bpffs: bool,
}

impl Pins {
    /// On the given, the mounted, or a newly mounted bpffs.
    pub(crate) fn open(instance: &Instance, bpffs: Option<&Path>) -> Result<Self, InterceptError> {
        let (bpffs, mounted_bpffs) = match bpffs {
            Some(path) => (path.to_owned(), false),
            None => match mount::bpffs()? {
                Some(path) => (path, false),
                None => (mount::mount_bpffs()?, true),
            },
        };
        Ok(Self::on(instance, &bpffs, mounted_bpffs))
    }

    /// On a bpffs that is there already; `None` when there is none, and so no pins.
    pub(crate) fn find(instance: &Instance, bpffs: Option<&Path>) -> Result<Option<Self>, InterceptError> {
        let bpffs = match bpffs {
            Some(path) => Some(path.to_owned()),
            None => mount::bpffs()?,
        };
        Ok(bpffs.map(|bpffs| Self::on(instance, &bpffs, false)).filter(|pins| pins.base.exists()))
    }

    fn on(instance: &Instance, bpffs: &Path, mounted_bpffs: bool) -> Self {
        let parent = bpffs.join("lockgate");
        Self { base: parent.join(instance.suffixed("v1")), parent, mounted_bpffs }
    }

    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.base.join("maps")
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.base.join("links").join(name)
    }

    /// Packet filters, by cgroup id.
    pub(crate) fn egress_directory(&self) -> PathBuf {
        self.base.join("egress")
    }

    pub(crate) fn egress(&self, id: CgroupId) -> PathBuf {
        self.egress_directory().join(id.0.to_string())
    }

    /// Those that hear answers of name servers, by cgroup id.
    pub(crate) fn answers_directory(&self) -> PathBuf {
        self.base.join("answers")
    }

    pub(crate) fn answers(&self, id: CgroupId) -> PathBuf {
        self.answers_directory().join(id.0.to_string())
    }

    /// LSM programs.
    pub(crate) fn lsm(&self) -> PathBuf {
        self.base.join("lsm")
    }

    /// Packet filters of interfaces.
    pub(crate) fn interfaces(&self) -> PathBuf {
        self.base.join("interfaces")
    }

    pub(crate) fn interface(&self, name: &str) -> PathBuf {
        self.interfaces().join(name)
    }

    /// Makes the directories.
    pub(crate) fn create(&self) -> Result<(), InterceptError> {
        for directory in [self.maps(), self.base.join("links")] {
            fs::create_dir_all(&directory)
                .doing(|| format!("create {} (is it on bpffs?)", directory.display()))?;
        }
        Ok(())
    }

    /// The pinned configuration, when there is one that this build understands.
    pub(crate) fn config(&self) -> Result<Option<Config>, InterceptError> {
        let path = self.maps().join(map::CFG);
        if !path.exists() {
            return Ok(None);
        }
        let incompatible = |found: String| InterceptError::IncompatiblePins {
            path: self.base.clone(),
            found,
            expected: ABI_VERSION,
        };
        let data = MapData::from_pin(&path).map_err(InterceptError::map(map::CFG))?;
        let array: Array<_, Raw<Config>> = aya::maps::Map::Array(data)
            .try_into()
            .map_err(|error| incompatible(format!("of another shape ({})", chain(&error))))?;
        let Raw(config) = array.get(&0, 0).map_err(InterceptError::map(map::CFG))?;
        match config.abi {
            ABI_VERSION => Ok(Some(config)),
            // Pinned but never written: an agent died between creating the maps and using them.
            0 => Ok(None),
            other => Err(incompatible(other.to_string())),
        }
    }

    /// Attaches every program, in place of a pinned one where there is one. Returns the links.
    pub(crate) fn attach(&self, object: &Object, root: BorrowedFd<'_>) -> Result<Vec<Link>, InterceptError> {
        let links = PROGRAMS
            .iter()
            .map(|spec| self.attach_one(object, *spec, root))
            .collect::<Result<Vec<_>, _>>()?;
        self.remove_foreign_links();
        Ok(links)
    }

    fn attach_one(&self, object: &Object, spec: Spec, root: BorrowedFd<'_>) -> Result<Link, InterceptError> {
        let path = self.link(spec.name);
        let program = object.program(spec)?.as_fd();
        let pinned = match sys::open_pinned(&path) {
            Ok(fd) if sys::link_target(fd.as_fd()).is_ok_and(|cgroup| cgroup != 0) => Some(fd),
            // Somebody detached it: what is left is only a name.
            Ok(_) => {
                fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).doing(|| format!("open {}", path.display())),
        };
        let fd = match pinned {
            Some(fd) => {
                sys::link_update(fd.as_fd(), program).doing(|| format!("update {}", path.display()))?;
                fd
            }
            None => {
                let fd = sys::link_create(program, root, spec.attach_type)
                    .doing(|| format!("attach {}", spec.name))?;
                sys::pin(fd.as_fd(), &path).doing(|| format!("pin {}", path.display()))?;
                fd
            }
        };
        Ok(Link { spec, fd })
    }

    /// Links of programs that this build no longer has.
    fn remove_foreign_links(&self) {
        let Ok(entries) = fs::read_dir(self.base.join("links")) else { return };
        for entry in entries.flatten() {
            if !PROGRAMS.iter().any(|spec| entry.file_name() == *spec.name) {
                detach_pinned(&entry.path());
            }
        }
    }

    /// Detaches all links, whoever holds them, and removes every pin.
    pub(crate) fn remove(&self) -> Result<(), InterceptError> {
        // connect first: while the others go, connections are direct and not half redirected.
        for spec in PROGRAMS.iter().rev() {
            detach_pinned(&self.link(spec.name));
        }
        self.remove_foreign_links();
        for directory in [self.egress_directory(), self.answers_directory(), self.interfaces()] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                detach_pinned(&entry.path());
            }
        }
        remove_tree(&self.base).doing(|| format!("remove {}", self.base.display()))?;
        // Shared with other instances: only the last one removes it.
        let _ = fs::remove_dir(&self.parent);
        Ok(())
    }
}

fn detach_pinned(path: &Path) {
    if let Ok(link) = sys::open_pinned(path) {
        let _ = sys::link_detach(link.as_fd());
    }
    let _ = fs::remove_file(path);
}

/// `fs::remove_dir_all` wants file types that bpffs does not give in readdir on every kernel.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() { remove_tree(&path)? } else { fs::remove_file(&path)? }
    }
    fs::remove_dir(directory)
}

/// An attached program. Dropping it does not detach: the pin holds it too.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) spec: Spec,
    pub(crate) fd: OwnedFd,
}

/// How a link is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Attached and pinned.
    Whole,
    /// Attached, but its pin was missing; it is pinned again.
    Repinned,
    /// Detached by an operator.
    Detached,
}

impl Link {
    /// Checks the link and puts back a pin that somebody removed: without it a dying agent would
    /// leave the targets open.
    pub(crate) fn check(&self, pins: &Pins) -> io::Result<LinkState> {
        if sys::link_target(self.fd.as_fd())? == 0 {
            return Ok(LinkState::Detached);
        }
        let path = pins.link(self.spec.name);
        if path.exists() {
            return Ok(LinkState::Whole);
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        sys::pin(self.fd.as_fd(), &path)?;
        Ok(LinkState::Repinned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names_are_directory_names() {
        for good in ["", "a", "test-42"] {
            assert!(Instance::new(good).is_ok(), "{good}");
        }
        for bad in ["A", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(Instance::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Instance::default().agent_cgroup(), "/lockgate/agent");
        assert_eq!(Instance::new("t1").unwrap().agent_cgroup(), "/lockgate/agent-t1");
    }
}
