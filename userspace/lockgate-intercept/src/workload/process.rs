//! What /proc says about a living process, verified to be the one that connected.

use super::{
    ci,
    exe::{self, Hashes, Identity},
};
use crate::sys;
use lockgate_model::{
    flow::ProcessFacts,
    workload::{Ancestor, CiJob},
};
use rustix::{
    fd::AsFd as _,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Bytes of arguments that are shown.
const ARGV_BYTES: u64 = 16 * 1024;
/// Arguments that are shown.
const ARGV_ITEMS: usize = 256;
/// Parents that are shown; CI jobs are rarely nested deeper.
const ANCESTORS: usize = 16;
/// Bytes of environment that are searched for CI variables; execve allows a few times more.
pub(super) const ENVIRON_BYTES: u64 = 256 * 1024;
/// `/proc/<pid>/stat` and cgroup are short; anything longer is not them.
const SMALL_FILE_BYTES: u64 = 64 * 1024;

/// Room at first: `stat` and `cgroup` are some hundred bytes.
const ROOM_BYTES: usize = 2048;

/// Processes whose image is remembered; CI jobs that reconnect all the time are few at a time.
const REMEMBERED: usize = 4096;

/// A process that was alive, and the same, before and after it was read.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) image: Arc<Image>,
    pub(super) cwd: Option<String>,
    /// Its places in version-1 hierarchies (controllers, path), when they were asked for.
    pub(super) v1_cgroups: Vec<(String, String)>,
}

/// What stays the same until the process executes another program.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) exe: Option<String>,
    pub(super) exe_sha256: Option<String>,
    pub(super) argv: Vec<String>,
    pub(super) ancestry: Vec<Ancestor>,
    pub(super) ci: Option<CiJob>,
}

/// Reads processes; remembers images, so that a client that connects again and again costs a few system calls.
#[derive(Debug, Default)]
pub(super) struct Processes {
    hashes: Hashes,
    images: Mutex<Images>,
}

/// By thread group and start time.
type Images = HashMap<(u32, u64), (Stamp, Arc<Image>)>;

/// Changes with every exec: the executable, and where its code, arguments and environment lie in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    exe: exe::Key,
    layout: Vec<u64>,
}

impl Processes {
    /// `None` when the process has exited or its pid belongs to another one by now.
    pub(super) fn read(&self, facts: &ProcessFacts, v1: bool) -> Option<Live> {
        verified(facts, |stat| {
            // A process changes its cgroup without executing anything: never remembered.
            let content = v1.then(|| bounded(&format!("/proc/{}/cgroup", facts.tgid), SMALL_FILE_BYTES));
            Live {
                image: self.image(facts, stat),
                cwd: link(&format!("/proc/{}/cwd", facts.tgid)),
                v1_cgroups: content
                    .and_then(Result::ok)
                    .map(|content| v1_cgroups(&content))
                    .unwrap_or_default(),
            }
        })
    }

    fn image(&self, facts: &ProcessFacts, stat: Stat) -> Arc<Image> {
        let key = (facts.tgid, facts.start_boottime_ns);
        let exe = exe::key_of(&format!("/proc/{}/exe", facts.tgid));
        let stamp = exe.ok().map(|exe| Stamp { exe, layout: stat.layout });
        if let Some((known, image)) = self.images().get(&key)
            && Some(known) == stamp.as_ref()
        {
            return Arc::clone(image);
        }
        let image = Arc::new(Image::read(facts.tgid, stat.parent, &self.hashes));
        if let Some(stamp) = stamp {
            let mut images = self.images();
            if images.len() >= REMEMBERED {
                images.clear();
            }
            images.insert(key, (stamp, Arc::clone(&image)));
        }
        image
    }

    fn images(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `read` finds, if all of it was read from the process that connected: it holds a pidfd, and the start
/// time fits before and after.
pub(super) fn verified<T>(facts: &ProcessFacts, read: impl FnOnce(Stat) -> T) -> Option<T> {
    if facts.start_boottime_ns == 0 {
        return None;
    }
    let started = ticks(facts.start_boottime_ns);
    let pid = i32::try_from(facts.tgid).ok().and_then(Pid::from_raw)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let same = || read_stat(facts.tgid).ok().flatten().filter(|stat| stat.start_ticks == started);
    let stat = same()?;
    // Within one tick of the clock a pid can be used twice; but not by the same job unless it is the same job.
    if is_in_cgroup(facts.tgid, facts.cgroup_id) == Some(false) {
        return None;
    }
    let found = read(stat);
    // Alive until now means that the pid was never free in between. One that has ended may have been followed by another
    // within the same tick, and what was read may be the other's.
    sys::has_exited(pidfd.as_fd()).is_ok_and(|exited| !exited).then_some(found)
}

/// Whether a process is in that cgroup of the v2 hierarchy now. `None` where that cannot be said: its path leads out of
/// this cgroup namespace.
fn is_in_cgroup(pid: u32, id: u64) -> Option<bool> {
    static MOUNT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let mount = MOUNT.get_or_init(|| crate::mount::cgroup2_root().ok()).as_ref()?;
    let path = crate::cgroup::path_of_process(pid).ok().flatten()?;
    let relative = Path::new(path.trim_start_matches('/'));
    if id == 0 || relative.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    // Gone (`/x (deleted)`) is another one.
    Some(fs::metadata(mount.join(relative)).is_ok_and(|data| data.ino() == id))
}

impl Image {
    fn read(pid: u32, parent: u32, hashes: &Hashes) -> Self {
        let directory = format!("/proc/{pid}");
        let identity = File::open(format!("{directory}/exe")).ok().and_then(|file| Identity::of(file).ok());
        Self {
            exe: link(&format!("{directory}/exe")),
            exe_sha256: identity.and_then(|identity| hashes.hash(identity)),
            argv: argv(&bounded(&format!("{directory}/cmdline"), ARGV_BYTES).unwrap_or_default()),
            ancestry: ancestry(parent),
            ci: ci::from_environ(
                &bounded(&format!("{directory}/environ"), ENVIRON_BYTES).unwrap_or_default(),
            ),
        }
    }
}

/// Nanoseconds on CLOCK_BOOTTIME as `/proc/<pid>/stat` counts them.
pub(super) fn ticks(nanoseconds: u64) -> u64 {
    static PER_SECOND: OnceLock<u64> = OnceLock::new();
    let per_second = *PER_SECOND.get_or_init(|| {
        let value = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        // Linux has shown 100 to userspace on every architecture but one since 2.6.
        value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(100)
    });
    nanoseconds / (1_000_000_000 / per_second)
}

/// Field 22 of `/proc/<pid>/stat`: when the process started, in clock ticks since boot.
pub(crate) fn stat_start_ticks(pid: u32) -> io::Result<u64> {
    read_stat(pid)?.map(|stat| stat.start_ticks).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    name: String,
    parent: u32,
    start_ticks: u64,
    layout: Vec<u64>,
}

fn read_stat(pid: u32) -> io::Result<Option<Stat>> {
    Ok(parse_stat(&String::from_utf8_lossy(&bounded(&format!("/proc/{pid}/stat"), SMALL_FILE_BYTES)?)))
}

/// `pid (comm) state ppid …`; comm may hold spaces and parentheses (proc_pid_stat(5)).
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, rest) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    // ppid is field 4 and starttime field 22: seventeen lie between.
    let start_ticks = fields.nth(17)?.parse().ok()?;
    // startcode, endcode, startstack are fields 26 to 28; start_data to env_end are 45 to 51.
    let tail: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    let layout = tail
        .iter()
        .enumerate()
        .filter(|(at, _)| matches!(at + 23, 26..=28 | 45..=51))
        .map(|(_, field)| *field);
    Some(Stat { name, parent, start_ticks, layout: layout.collect() })
}

fn ancestry(parent: u32) -> Vec<Ancestor> {
    let mut parents = Vec::new();
    let mut next = Some(parent);
    while let Some(pid) = next.filter(|pid| *pid != 0)
        && parents.len() < ANCESTORS
        && let Ok(Some(stat)) = read_stat(pid)
    {
        parents.push(Ancestor { pid, name: printable(&stat.name) });
        next = Some(stat.parent);
    }
    parents
}

/// Reads a file of /proc, which says that it is empty: with room for what most of them hold, so that it is there in one read.
pub(super) fn bounded(path: &str, bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(ROOM_BYTES);
    File::open(path)?.take(bytes).read_to_end(&mut content)?;
    Ok(content)
}

fn link(path: &str) -> Option<String> {
    fs::read_link(path).ok().map(|target| printable(&target.to_string_lossy()))
}

/// Arguments without the passwords that people put there.
fn argv(content: &[u8]) -> Vec<String> {
    let content = content.strip_suffix(b"\0").unwrap_or(content);
    if content.is_empty() {
        return Vec::new();
    }
    let arguments = content.split(|byte| *byte == 0).take(ARGV_ITEMS);
    let mut secret_follows = false;
    arguments
        .map(|argument| {
            let text = printable(&String::from_utf8_lossy(argument).replace(['\n', '\t'], " "));
            let hidden = std::mem::replace(&mut secret_follows, is_secret_flag(&text));
            if hidden { HIDDEN.to_owned() } else { without_password(&text) }
        })
        .collect()
}

const HIDDEN: &str = "***";
const SECRET_WORDS: [&str; 5] = ["password", "passwd", "token", "secret", "api-key"];

/// `--password VALUE`
fn is_secret_flag(argument: &str) -> bool {
    argument.strip_prefix("--").is_some_and(|name| SECRET_WORDS.contains(&name))
}

/// Hides the password of `scheme://user:password@host`, and the value of `…password=value`.
fn without_password(argument: &str) -> String {
    let mut text = argument.to_owned();
    if let Some((scheme, rest)) = argument.split_once("://")
        && let Some((authority, tail)) = rest.rsplit_once('@')
        && let Some((user, _)) = authority.split_once(':')
    {
        text = format!("{scheme}://{user}:{HIDDEN}@{tail}");
    }
    for word in SECRET_WORDS {
        let lower = text.to_ascii_lowercase();
        let key = format!("{word}=");
        if let Some(at) = lower.find(&key) {
            let start = at + key.len();
            let length = text[start..].find([' ', '&', ';']).unwrap_or(text.len() - start);
            text.replace_range(start..start + length, HIDDEN);
        }
    }
    text
}

/// Control characters would let a process write into an approver's terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// Lines of version-1 hierarchies, as controllers and path: `4:memory:/docker/…`.
fn v1_cgroups(content: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(content);
    text.lines()
        .filter(|line| !line.starts_with("0::"))
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        for name in ["psql", "a b", "x) S 9 (y", ")"] {
            let stat = parse_stat(&format!("77 ({name}) {tail}")).expect(name);
            assert_eq!(
                stat,
                Stat { name: name.to_owned(), parent: 1, start_ticks: 4242, layout: Vec::new() }
            );
        }
        for bad in ["", "77", "77 (psql", "77 (psql) S 1 2"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_layout_is_made_of_the_fields_that_exec_changes() {
        // Field n of this line holds n.
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = parse_stat(&format!("1 (x) S {}", fields.join(" "))).unwrap();
        assert_eq!((stat.parent, stat.start_ticks), (4, 22));
        assert_eq!(stat.layout, [26, 27, 28, 45, 46, 47, 48, 49, 50, 51]);
    }

    #[test]
    fn own_start_time_is_stable() {
        let pid = std::process::id();
        assert_eq!(stat_start_ticks(pid).unwrap(), stat_start_ticks(pid).unwrap());
    }

    #[test]
    fn a_process_with_another_start_time_is_not_read() {
        let facts = |start_boottime_ns| ProcessFacts {
            tgid: std::process::id(),
            tid: 0,
            start_boottime_ns,
            uid: 0,
            gid: 0,
            cgroup_id: 0,
            comm: String::new(),
            creator_tgid: 0,
        };
        let processes = Processes::default();
        assert!(processes.read(&facts(1), true).is_none());
        let own = stat_start_ticks(std::process::id()).unwrap() * 10_000_000;
        let live = processes.read(&facts(own), true).expect("this process is alive");
        assert!(live.image.exe.is_some() && !live.image.argv.is_empty() && live.cwd.is_some());
        let again = processes.read(&facts(own), true).expect("still alive");
        assert!(Arc::ptr_eq(&live.image, &again.image), "nothing was executed in between");
    }

    #[test]
    fn arguments_show_no_passwords() {
        for (given, shown) in [
            ("psql\0postgres://app:hunter2@db/orders\0", vec!["psql", "postgres://app:***@db/orders"]),
            ("psql\0host=db password=hunter2 user=app\0", vec!["psql", "host=db password=*** user=app"]),
            ("mysql\0--password=hunter2\0", vec!["mysql", "--password=***"]),
            ("tool\0--token\0hunter2\0next\0", vec!["tool", "--token", "***", "next"]),
            ("psql\0-c\0SELECT 1\0", vec!["psql", "-c", "SELECT 1"]),
            ("a\0\0b\0", vec!["a", "", "b"]),
            ("evil\x1b[2J\0", vec!["evil\u{fffd}[2J"]),
            ("", vec![]),
        ] {
            assert_eq!(argv(given.as_bytes()), shown, "{given:?}");
        }
    }

    #[test]
    fn version_one_paths_are_taken_without_the_v2_line() {
        let content = b"9:name=systemd:/a\n4:memory:/docker/ab:c\n0::/unified\n";
        let text = |text: &str| text.to_owned();
        assert_eq!(
            v1_cgroups(content),
            [(text("name=systemd"), text("/a")), (text("memory"), text("/docker/ab:c"))]
        );
    }
}
