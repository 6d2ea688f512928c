//! Where the cgroup-v2 hierarchy and bpffs are mounted. Nothing is assumed: /proc/self/mountinfo says it.

use crate::error::{Doing as _, InterceptError};
use std::{
    io,
    path::{Path, PathBuf},
};

/// One line of mountinfo, as far as it matters here (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    point: PathBuf,
    filesystem: String,
    super_options: String,
}

/// The usual place of bpffs.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// The mount point of the whole cgroup-v2 hierarchy.
///
/// # Errors
/// When there is none, or only a part of it.
pub fn cgroup2_root() -> Result<PathBuf, InterceptError> {
    let mount = mounts()?
        .into_iter()
        .find(|mount| mount.filesystem == "cgroup2" && mount.root == "/")
        .ok_or(InterceptError::NoCgroup2)?;
    // Every cgroup but the real root has a type.
    if mount.point.join("cgroup.type").exists() {
        return Err(InterceptError::NotCgroupRoot(mount.point));
    }
    Ok(mount.point)
}

/// Version-1 controllers whose per-socket data displaces the v2 cgroup before 5.15.
pub(crate) fn legacy_socket_controllers() -> Result<Vec<String>, InterceptError> {
    Ok(mounts()?
        .into_iter()
        .filter(|mount| mount.filesystem == "cgroup")
        .flat_map(|mount| mount.super_options.split(',').map(str::to_owned).collect::<Vec<_>>())
        .filter(|option| option == "net_cls" || option == "net_prio")
        .collect())
}

/// Hierarchies of version 1 that are mounted whole: the options that name each, and where it is.
pub(crate) fn legacy_hierarchies() -> io::Result<Vec<(Vec<String>, PathBuf)>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let whole = |mount: &Mount| mount.filesystem == "cgroup" && mount.root == "/";
    let named =
        |mount: Mount| (mount.super_options.split(',').map(str::to_owned).collect::<Vec<_>>(), mount.point);
    Ok(text.lines().filter_map(parse).filter(whole).map(named).collect())
}

/// Where bpffs is mounted, if it is.
pub(crate) fn bpffs() -> Result<Option<PathBuf>, InterceptError> {
    let all = mounts()?;
    let usual = all.iter().rev().find(|mount| mount.filesystem == "bpf" && mount.point == Path::new(BPFFS));
    let any = all.iter().find(|mount| mount.filesystem == "bpf" && mount.root == "/");
    Ok(usual.or(any).map(|mount| mount.point.clone()))
}

/// Mounts bpffs where it belongs.
pub(crate) fn mount_bpffs() -> Result<PathBuf, InterceptError> {
    use rustix::mount::{MountFlags, mount};
    let point = PathBuf::from(BPFFS);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RELATIME;
    mount("bpf", &point, "bpf", flags, Some(c"mode=0700"))
        .doing(|| format!("mount bpffs at {}", point.display()))?;
    Ok(point)
}

fn mounts() -> Result<Vec<Mount>, InterceptError> {
    let text =
        std::fs::read_to_string("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo".to_owned())?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `36 35 98:0 /root /point options [optional…] - type source super-options`
fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let filesystem = right.next()?.to_owned();
    let super_options = right.nth(1).unwrap_or_default().to_owned();
    Some(Mount { root: unescape(root), point: unescape(point).into(), filesystem, super_options })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_read_with_and_without_optional_fields() {
        for (line, root, point, filesystem) in [
            (
                "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
                "/",
                "/sys/fs/cgroup/unified",
                "cgroup2",
            ),
            (
                "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
                "/",
                "/sys/fs/cgroup",
                "cgroup2",
            ),
            (
                "99 23 0:26 /docker/ab /mnt/a\\040b rw shared:4 master:2 - cgroup2 none rw",
                "/docker/ab",
                "/mnt/a b",
                "cgroup2",
            ),
            ("50 23 0:40 / /sys/fs/bpf rw - bpf bpf rw,mode=700", "/", "/sys/fs/bpf", "bpf"),
        ] {
            let mount = parse(line).expect(line);
            assert_eq!(
                (mount.root.as_str(), mount.point.to_str().unwrap(), mount.filesystem.as_str()),
                (root, point, filesystem)
            );
        }
        assert_eq!(parse("garbage"), None);
        assert_eq!(parse(""), None);
    }
}
