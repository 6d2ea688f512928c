//! A machine with systemd as PID 1: this machine's files below a layer in memory, process, mount and host-name namespaces
//! of its own, and the network namespace of the test, whose loopback it shares.
//!
//! The cgroup hierarchy is the real one, as the agent needs it; systemd's part of it is a slice that is removed at the end.

use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    agent::{cgroup_mount, remove_cgroup},
    namespace::is_apart,
    scratch::Scratch,
};
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Below it systemd makes its slices; the name is that of a slice, so that names of units below it are believed.
pub(crate) const SLICE: &str = "/lockgatetest.slice";
/// Booting, starting and stopping on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Run in the new namespaces, with the new root as `$0`. PID 1 of the container becomes systemd.
const BOOT: &str = r#"
set -e
cd "$0"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 none sys/fs/cgroup
mount -t bpf -o mode=700 bpf sys/fs/bpf
mount -t securityfs securityfs sys/kernel/security || true
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 dev/${node%:*} c 1 ${node#*:}; done
mknod -m 666 dev/tty c 5 0
mkdir dev/net
mknod -m 666 dev/net/tun c 10 200
ln -s /proc/self/fd dev/fd
mkdir -p dev/shm dev/pts mnt
pivot_root . mnt
umount -l /mnt
# As container managers leave it to the systemd inside: what it mounts for one service, others see.
mount --make-rshared /
exec env -i container=lockgate-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=boot-of-the-test.target --show-status=no
"#;

/// A booted one; it goes with it.
pub(crate) struct Container {
    unshare: Child,
    init: u32,
    pub(crate) scratch: Scratch,
    _alone: File,
}

impl Container {
    pub(crate) fn boot() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "needs root");
        // Cgroups are the machine's: two at once would end each other.
        let alone = File::open(std::env::current_exe()?)?;
        ensure!(alone.try_lock().is_ok(), "this suite runs already");
        ensure!(
            is_apart("net")? && is_apart("mnt")?,
            "not in namespaces of its own: run cargo xtask systemd"
        );
        remove_cgroup(SLICE);
        run("ip", &["link", "set", "lo", "up"])?;
        let scratch = Scratch::new("systemd")?;
        let root = overlay(scratch.path())?;
        furnish(&root)?;
        let cgroup = cgroup_mount()?.join(SLICE.trim_start_matches('/'));
        fs::create_dir_all(&cgroup)?;
        let log = File::create(scratch.path().join("console.log"))?;
        let mut unshare = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(cgroup.join("cgroup.procs"))
            .args(["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--pid", "--fork", "--kill-child"])
            .args(["--mount", "--uts", "--ipc", "--propagation", "private", "sh", "-c", BOOT])
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let init = match child_of(&mut unshare) {
            Ok(init) => init,
            Err(error) => {
                let _ = unshare.kill();
                let _ = unshare.wait();
                return Err(error);
            }
        };
        let container = Self { unshare, init, scratch, _alone: alone };
        container.wait("systemd has booted", || {
            let state = container.command("systemctl", &["is-system-running"]).output()?;
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            Ok(state == "running" || state == "degraded")
        })?;
        Ok(container)
    }

    /// A command in it.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.init.to_string();
        command.args([
            "--target", &target, "--mount", "--pid", "--uts", "--ipc", "--root", "--wd", "--", program,
        ]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// What it prints; its words when it fails.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        checked(&mut self.command(program, arguments))
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.run("systemctl", &["show", "--value", "--property", name, unit])?.trim().to_owned())
    }

    /// A file of its own.
    pub(crate) fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let at = Path::new(&format!("/proc/{}/root", self.init)).join(path.trim_start_matches('/'));
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&at, text)?;
        Ok(fs::set_permissions(at, fs::Permissions::from_mode(mode))?)
    }

    pub(crate) fn read(&self, path: &str) -> Result<String> {
        self.run("cat", &[path])
    }

    pub(crate) fn wait(&self, what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !is()? {
            ensure!(Instant::now() < until, "not within {PATIENCE:?}: {what}\n{}", self.console());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What PID 1 printed.
    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.scratch.path().join("console.log")).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Its PID 1 dies with it, and everything in the PID namespace with that.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        clear_cgroups();
        let _ = run("umount", &["-l", &self.scratch.path().join("root").display().to_string()]);
        let _ = run("umount", &["-l", &self.scratch.path().join("layer").display().to_string()]);
    }
}

/// Of systemd, and of the agent that ran under it.
fn clear_cgroups() {
    for cgroup in [SLICE, "/lockgate/agent", "/lockgate/run"] {
        remove_cgroup(cgroup);
    }
}

/// This machine's root, with what is written on top of it in memory.
fn overlay(scratch: &Path) -> Result<std::path::PathBuf> {
    let (layer, root) = (scratch.join("layer"), scratch.join("root"));
    fs::create_dir_all(&layer)?;
    fs::create_dir_all(&root)?;
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", &layer.display().to_string()])?;
    for part in ["upper", "work"] {
        fs::create_dir_all(layer.join(part))?;
    }
    let options = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", layer.display());
    run("mount", &["-t", "overlay", "-o", &options, "overlay", &root.display().to_string()])?;
    Ok(root)
}

/// A target that boots the basics and none of the services that happen to be installed here.
fn furnish(root: &Path) -> Result<()> {
    let target = "[Unit]\nDescription=Basics\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n";
    fs::write(root.join("etc/systemd/system/boot-of-the-test.target"), target)?;
    fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n")?;
    for (file, line) in
        [("etc/passwd", "lockgate-job:x:1001:1001::/:/bin/sh\n"), ("etc/group", "lockgate-job:x:1001:\n")]
    {
        let mut text = fs::read_to_string(root.join(file))?;
        text.push_str(line);
        fs::write(root.join(file), text)?;
    }
    Ok(())
}

/// PID 1 of the container, as the host numbers it.
fn child_of(unshare: &mut Child) -> Result<u32> {
    let until = Instant::now() + PATIENCE;
    loop {
        let pid = unshare.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next() {
            return Ok(child.parse()?);
        }
        ensure!(unshare.try_wait()?.is_none() && Instant::now() < until, "nothing was booted");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    checked(Command::new(program).args(arguments))
}

/// Runs to the end: what it prints.
pub(crate) fn checked(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{:?}: {}\n{}{}",
        command.get_args().collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
