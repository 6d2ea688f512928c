//! What somebody's mount namespace sees at a path, changed from outside: a file or a directory laid over the one that is
//! there.
//!
//! Containers trust what lies in their image. A cover gives them lockgate's CA and leaves the image as it is; only who lives
//! in the namespace sees it, and it goes with the namespace. What is covered is found through `/proc/PID/root`, by a
//! descriptor that stays the same object whatever the container does to its paths meanwhile. Entering happens in a thread
//! of its own, as with network namespaces.

use crate::sys;
use rustix::{
    fd::{AsFd as _, BorrowedFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
    },
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    thread,
};

/// Bytes of a file that is read to be covered: the biggest bundles have some 250 KiB.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// Entries of a directory that is read to be covered, those below it included: the biggest have some 450.
const MAX_ENTRIES: usize = 10_000;
/// Bytes of all its files: what is in there may be the container's own making.
const MAX_DIRECTORY: u64 = 4 * MAX_FILE;
/// How far below it directories are followed: Java keeps its store one below.
const MAX_DEPTH: usize = 3;
/// Where a file is for the moment until it is laid over another one.
const STAGING: &str = "/run";
/// Covers are looked at and nothing else.
const LOOK_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
/// What everybody may read, whatever the caller's umask.
const READABLE: Mode = Mode::from_raw_mode(0o444);

/// The mount namespace of a process.
#[derive(Debug)]
pub struct MountNamespace {
    namespace: OwnedFd,
    /// The process' root directory.
    root: OwnedFd,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file: what it says.
    File(Vec<u8>),
    /// A symbolic link: where to.
    Link(PathBuf),
    /// A directory: what is in it.
    Directory(Entries),
}

/// A directory's entries by name; devices, sockets and the like are left out.
pub type Entries = std::collections::BTreeMap<std::ffi::OsString, Entry>;

impl MountNamespace {
    /// Of a living process.
    ///
    /// # Errors
    /// When there is none of that number, or the caller may not look at it (`CAP_SYS_PTRACE`).
    pub fn of(pid: u32) -> io::Result<Self> {
        // Everything by this descriptor: a reused pid would be another process.
        let process = openat(
            CWD,
            format!("/proc/{pid}"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let namespace = openat(&process, "ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let root =
            openat(&process, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { namespace, root })
    }

    /// Which one it is: the inode of its nsfs file.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn id(&self) -> io::Result<u64> {
        Ok(fstat(&self.namespace)?.st_ino)
    }

    /// Whether the caller lives in it as well.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn is_own(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(fs::metadata("/proc/self/ns/mnt")?.ino() == self.id()?)
    }

    /// A file in there: None when there is none.
    ///
    /// # Errors
    /// When it is no regular file, too long, or cannot be read.
    pub fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match self.find(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => contents(file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A directory in there: None when there is none.
    ///
    /// # Errors
    /// When it is no directory, too big, or something in it cannot be read.
    pub fn list(&self, path: &Path) -> io::Result<Option<Entries>> {
        let directory = match self.find(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        listed(&directory, MAX_DEPTH, &mut Room::default()).map(Some)
    }

    /// Lays a read-only file over the one at `path`.
    ///
    /// # Errors
    /// When there is none, or the caller may not mount (`CAP_SYS_ADMIN`).
    pub fn cover_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let target = self.find(path, OFlags::PATH)?;
        let staged = Staged::new(content)?;
        let tree =
            open_tree(CWD, &staged.0, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        sys::mount_attributes(tree.as_fd(), LOOK_ONLY.bits())?;
        self.lay(tree.as_fd(), target.as_fd())
    }

    /// Lays a read-only directory over the one at `path`.
    ///
    /// # Errors
    /// As for [`Self::cover_file`].
    pub fn cover_directory(&self, path: &Path, entries: &Entries) -> io::Result<()> {
        let target = self.find(path, OFlags::PATH | OFlags::DIRECTORY)?;
        let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&filesystem, "mode", "0755")?;
        fsconfig_create(&filesystem)?;
        let tree = fsmount(
            &filesystem,
            FsMountFlags::FSMOUNT_CLOEXEC,
            LOOK_ONLY - MountAttrFlags::MOUNT_ATTR_RDONLY,
        )?;
        fill(tree.as_fd(), entries)?;
        sys::mount_attributes(tree.as_fd(), LOOK_ONLY.bits())?;
        self.lay(tree.as_fd(), target.as_fd())
    }

    /// Takes the uppermost cover at `path` away.
    ///
    /// # Errors
    /// When nothing is mounted there.
    pub fn uncover(&self, path: &Path) -> io::Result<()> {
        self.inside(|| {
            // Links resolved by hand: the last step must not follow one that appears meanwhile.
            let path = fs::canonicalize(path)?;
            Ok(unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
        })
    }

    fn lay(&self, tree: BorrowedFd<'_>, over: BorrowedFd<'_>) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        self.inside(|| Ok(move_mount(tree, "", over, "", flags)?))
    }

    /// Opens a path as the process would.
    fn find(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// Runs `call` in the namespace.
    fn inside<T: Send>(&self, call: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let enter = || {
            // SAFETY: FS gives this thread a root and a working directory of its own; descriptors stay shared.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
            call()
        };
        thread::scope(|scope| {
            let thread =
                thread::Builder::new().name("lockgate-mount".to_owned()).spawn_scoped(scope, enter)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("panicked in a mount namespace")))
        })
    }
}

/// How much more of a directory is read.
struct Room {
    entries: usize,
    bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { entries: MAX_ENTRIES, bytes: MAX_DIRECTORY }
    }
}

fn listed(directory: &OwnedFd, depth: usize, room: &mut Room) -> io::Result<Entries> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut entries = Entries::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        room.entries = room
            .entries
            .checked_sub(1)
            .ok_or_else(|| io::Error::other(format!("more than {MAX_ENTRIES} entries")))?;
        let status = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let entry = match FileType::from_raw_mode(status.st_mode) {
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(directory, name, Vec::new())?;
                Entry::Link(OsStr::from_bytes(to.to_bytes()).into())
            }
            FileType::RegularFile => {
                let content = contents(openat(directory, name, flags, Mode::empty())?)?;
                room.bytes = room
                    .bytes
                    .checked_sub(content.len() as u64)
                    .ok_or_else(|| io::Error::other(format!("more than {MAX_DIRECTORY} bytes")))?;
                Entry::File(content)
            }
            FileType::Directory if depth > 0 => {
                let below = openat(directory, name, flags | OFlags::DIRECTORY, Mode::empty())?;
                Entry::Directory(listed(&below, depth - 1, room)?)
            }
            _another => continue,
        };
        entries.insert(name.to_owned(), entry);
    }
    Ok(entries)
}

/// Writes entries into an empty directory.
fn fill(directory: BorrowedFd<'_>, entries: &Entries) -> io::Result<()> {
    for (name, entry) in entries {
        match entry {
            Entry::Link(to) => rustix::fs::symlinkat(to, directory, name)?,
            Entry::File(content) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut file = File::from(openat(directory, name, flags, READABLE)?);
                file.write_all(content)?;
                rustix::fs::fchmod(&file, READABLE)?;
            }
            Entry::Directory(entries) => {
                rustix::fs::mkdirat(directory, name, Mode::RWXU)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let below = openat(directory, name, flags, Mode::empty())?;
                fill(below.as_fd(), entries)?;
                rustix::fs::fchmod(&below, Mode::from_raw_mode(0o755))?;
            }
        }
    }
    Ok(())
}

fn contents(file: OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    if file.take(MAX_FILE + 1).read_to_end(&mut content)? as u64 > MAX_FILE {
        return Err(io::Error::other(format!("longer than {MAX_FILE} bytes")));
    }
    Ok(content)
}

/// A file of the host for as long as it takes to mount it; the mount keeps it afterwards.
struct Staged(PathBuf);

impl Staged {
    fn new(content: &[u8]) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = Path::new(STAGING).join(format!(".lockgate-cover-{}-{count}", std::process::id()));
        let _left_by_another_of_that_pid = fs::remove_file(&path);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        let staged = Self(path);
        file.write_all(content)?;
        rustix::fs::fchmod(&file, READABLE)?;
        Ok(staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A process in a mount namespace of its own.
    struct Elsewhere(Child);

    impl Elsewhere {
        fn start() -> Self {
            let child = Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-c", "echo in; exec sleep 60"])
                .stdout(Stdio::piped())
                .spawn();
            let mut child = child.unwrap();
            let mut said = [0; 3];
            child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
            Self(child)
        }

        fn sees(&self, path: &Path) -> String {
            let pid = self.0.id().to_string();
            let done = Command::new("nsenter")
                .args(["--mount", "--target", &pid, "cat"])
                .arg(path)
                .output()
                .unwrap();
            String::from_utf8(done.stdout).unwrap()
        }
    }

    impl Drop for Elsewhere {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_cover_is_seen_in_its_namespace_and_nowhere_else() {
        assert!(rustix::process::geteuid().is_root(), "mounting needs root: sudo -E cargo xtask test");
        let scratch = tempfile::tempdir().unwrap();
        let (file, link) = (scratch.path().join("bundle.pem"), scratch.path().join("link.pem"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let directory = scratch.path().join("certs");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("one.pem"), "one").unwrap();
        fs::create_dir(directory.join("java")).unwrap();
        fs::write(directory.join("java/cacerts"), "store").unwrap();
        std::os::unix::fs::symlink("one.pem", directory.join("1.0")).unwrap();

        let huge = scratch.path().join("huge");
        fs::create_dir(&huge).unwrap();
        for name in 0..5 {
            File::create(huge.join(name.to_string())).unwrap().set_len(MAX_FILE).unwrap();
        }

        let elsewhere = Elsewhere::start();
        let namespace = MountNamespace::of(elsewhere.0.id()).unwrap();
        assert!(!namespace.is_own().unwrap());
        assert!(MountNamespace::of(std::process::id()).unwrap().is_own().unwrap());
        assert_eq!(namespace.read(&link).unwrap().unwrap(), b"old");
        assert_eq!(namespace.read(&scratch.path().join("none")).unwrap(), None);
        assert!(namespace.read(scratch.path()).is_err());
        assert!(namespace.list(&huge).unwrap_err().to_string().contains("more than"));

        namespace.cover_file(&link, b"new").unwrap();
        assert_eq!(
            (elsewhere.sees(&file).as_str(), fs::read_to_string(&file).unwrap().as_str()),
            ("new", "old")
        );
        let mut entries = namespace.list(&directory).unwrap().unwrap();
        assert_eq!(entries["1.0".as_ref() as &std::ffi::OsStr], Entry::Link("one.pem".into()));
        entries.insert("two.pem".into(), Entry::File(b"two".to_vec()));
        namespace.cover_directory(&directory, &entries).unwrap();
        for (name, said) in [("two.pem", "two"), ("1.0", "one"), ("java/cacerts", "store")] {
            assert_eq!(elsewhere.sees(&directory.join(name)), said);
        }
        assert!(!directory.join("two.pem").exists());
        // Nobody in there writes what others read.
        let pid = elsewhere.0.id().to_string();
        for path in [&file, &directory.join("two.pem")] {
            let write = Command::new("nsenter")
                .args(["-m", "-t", &pid, "sh", "-c", "echo x > \"$0\""])
                .arg(path)
                .output();
            assert!(String::from_utf8(write.unwrap().stderr).unwrap().contains("Read-only"));
        }
        for covered in [&link, &directory] {
            namespace.uncover(covered).unwrap();
            assert!(namespace.uncover(covered).is_err(), "nothing is mounted any more");
        }
        assert_eq!(elsewhere.sees(&file), "old");
        let left = fs::read_dir(STAGING).unwrap().flatten().filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!(".lockgate-cover-{}-", std::process::id()))
        });
        assert_eq!(left.count(), 0);
    }
}
