//! What a process carries that may prove who it is: variables of its environment, its pod's own token.
//!
//! Read only while it is still the process that connected. Both are text that the process could have chosen; whoever
//! asks for them verifies what they say. Values go nowhere else, and no other variable is kept.

use super::process::{ENVIRON_BYTES, bounded, verified};
use lockgate_model::{Secret, flow::Flow, port::Witness};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use std::{collections::HashMap, fs::File, io::Read as _, time::Duration};

/// Where the kubelet mounts it, as the pod sees it.
const TOKEN: &str = "var/run/secrets/kubernetes.io/serviceaccount/token";
/// A token is 1 to 2 KiB; a longer file is something else.
const MAX_TOKEN: u64 = 16 * 1024;

/// Reads /proc of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcWitness;

impl Witness for ProcWitness {
    fn variables(&self, flow: &Flow, names: &[&str]) -> HashMap<String, Secret<String>> {
        let path = format!("/proc/{}/environ", flow.process.tgid);
        let content = verified(&flow.process, |_| bounded(&path, ENVIRON_BYTES)).and_then(Result::ok);
        let content = content.map(Secret::new);
        content.map(|content| pick(content.expose(), names)).unwrap_or_default()
    }

    fn service_account_token(&self, flow: &Flow) -> Option<Secret<String>> {
        let root = format!("/proc/{}/root", flow.process.tgid);
        verified(&flow.process, |_| token_below(&root)).flatten()
    }

    fn age(&self, flow: &Flow) -> Option<Duration> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
        now.checked_sub(Duration::from_nanos(flow.process.start_boottime_ns))
    }
}

/// The first value of each name, as `getenv` finds it.
fn pick(content: &[u8], names: &[&str]) -> HashMap<String, Secret<String>> {
    let mut found = HashMap::new();
    for entry in content.split(|byte| *byte == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else { continue };
        if let Some((name, value)) = entry.split_once('=')
            && names.contains(&name)
            && !value.is_empty()
        {
            found.entry(name.to_owned()).or_insert_with(|| Secret::new(value.to_owned()));
        }
    }
    found
}

/// The kubelet's file is a link behind a link, so links are followed, but only below the process's own root; whatever it
/// leads to is opened without waiting and read only if it is an ordinary, small file.
fn token_below(root: &str) -> Option<Secret<String>> {
    let root = File::open(root).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(root, TOKEN, flags, Mode::empty(), resolve).ok()?;
    let stat = fstat(&file).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || u64::try_from(stat.st_size).ok()? > MAX_TOKEN {
        return None;
    }
    let mut text = String::new();
    File::from(file).take(MAX_TOKEN).read_to_string(&mut text).ok()?;
    let text = Secret::new(text);
    let trimmed = text.expose().trim();
    (!trimmed.is_empty()).then(|| Secret::new(trimmed.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, path::Path};

    #[test]
    fn only_named_variables_are_picked_and_the_first_value_counts() {
        let content =
            b"PATH=/bin\0CI_JOB_TOKEN=one\0PGPASSWORD=hunter2\0CI_JOB_TOKEN=two\0EMPTY=\0CI_JOB_TOKENX=x\0";
        let found = pick(content, &["CI_JOB_TOKEN", "EMPTY", "NONE"]);
        let shown: Vec<_> =
            found.iter().map(|(name, value)| (name.as_str(), value.expose().as_str())).collect();
        assert_eq!(shown, [("CI_JOB_TOKEN", "one")]);
    }

    fn root(make: impl FnOnce(&Path)) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(TOKEN).parent().unwrap().to_owned();
        fs::create_dir_all(&directory).unwrap();
        make(&directory);
        token_below(root.path().to_str().unwrap()).map(|token| token.expose().clone())
    }

    #[test]
    fn a_token_is_read_as_the_kubelet_mounts_it_and_nothing_outside_the_root_is() {
        // ..data → ..2026_11_21, token → ..data/token
        let mounted = root(|directory| {
            fs::create_dir(directory.join("..2026")).unwrap();
            fs::write(directory.join("..2026/token"), "a.b.c\n").unwrap();
            symlink("..2026", directory.join("..data")).unwrap();
            symlink("..data/token", directory.join("token")).unwrap();
        });
        assert_eq!(mounted.as_deref(), Some("a.b.c"));
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "the host's").unwrap();
        let absolute = root(|directory| symlink(outside.path(), directory.join("token")).unwrap());
        assert_eq!(absolute, None, "an absolute link is one below the root");
        let climbing = format!("{}{}", "../".repeat(30), outside.path().display());
        assert_eq!(root(|directory| symlink(&climbing, directory.join("token")).unwrap()), None);
        let magic = "/proc/self/environ";
        assert_eq!(root(|directory| symlink(magic, directory.join("token")).unwrap()), None);
    }

    #[test]
    fn what_would_block_or_is_too_large_is_not_read() {
        let fifo = root(|directory| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                directory.join("token"),
                FileType::Fifo,
                Mode::from_raw_mode(0o600),
                0,
            )
            .unwrap();
        });
        assert_eq!(fifo, None);
        let large = vec![b'a'; usize::try_from(MAX_TOKEN).unwrap() + 1];
        assert_eq!(root(|directory| fs::write(directory.join("token"), large).unwrap()), None);
        assert_eq!(root(|directory| fs::create_dir(directory.join("token")).unwrap()), None);
        assert_eq!(root(|_| ()), None);
    }
}
