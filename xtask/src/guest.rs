//! `cargo xtask e2e --kernel VERSION`: the capture suite under another kernel, booted as a guest from Debian's kernel
//! packages in software emulation.
//!
//! The guest's root is this machine's own file system, read-only over 9p with a writable layer in memory, so the built
//! test binaries run as they are. Its own tests (LSM, SCTP, DCCP, SMC) run nowhere else.

use crate::{setup, shell, test};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What boots a guest and makes its initial file system.
const PACKAGES: &[&str] = &["qemu-system-x86", "busybox-static", "cpio", "kmod", "xz-utils", "zstd"];
/// Fifteen minutes on a quiet machine; emulated, and several times as long on a busy one.
const WITHIN: Duration = Duration::from_secs(100 * 60);
/// What tests wait is this many times as long in there.
const SLOWNESS: u32 = 4;
/// The oldest kernel on which lockgate captures; on an older one it has to refuse to start.
const FLOOR: (u32, u32) = (5, 15);

/// Programs that the suites start, at the paths where they were built.
const HELPERS: &[&str] =
    &["capture_agent", "capture_client", "capture_evader", "capture_matrix", "capture_storm"];

/// Where Debian keeps a kernel: its version and the release.
const RELEASES: &[(&str, &str)] = &[
    ("5.10", "bullseye"),
    ("6.1", "bookworm"),
    ("6.12", "trixie"),
    ("6.16", "trixie-backports"),
    ("6.17", "trixie-backports"),
    ("6.18", "trixie-backports"),
    ("6.19", "trixie-backports"),
    ("7.2", "trixie-backports"),
];

/// Modules that the guest needs before it has a root, about in the order of their needs.
const EARLY_MODULES: &[&str] = &[
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "netfs",
    "fscache",
    "9pnet",
    "9pnet_virtio",
    "9p",
    "overlay",
];

/// A kernel that was fetched and unpacked.
struct Kernel {
    release: String,
    image: PathBuf,
    /// `lib/modules/RELEASE`; none for a kernel that has all it needs built in.
    modules: Option<PathBuf>,
}

/// Which kernel to boot.
pub(crate) enum Wanted {
    /// Debian's newest of this version.
    Debian(String),
    /// One that is at hand: its bzImage, and perhaps its modules.
    Image { image: PathBuf, modules: Option<PathBuf> },
}

pub(crate) fn run(wanted: &Wanted, filter: Option<&str>) -> Result<()> {
    setup::setup(setup::For::Tests)?;
    setup::install(PACKAGES)?;
    let version = match wanted {
        Wanted::Debian(version) => version.clone(),
        Wanted::Image { image, .. } => release_of(image)?,
    };
    let directory = shell::target().join("guest").join(&version);
    fs::create_dir_all(&directory)?;
    let kernel = match wanted {
        Wanted::Debian(version) => fetch(version, &directory)?,
        Wanted::Image { image, modules } => {
            Kernel { release: version, image: fs::canonicalize(image)?, modules: modules.clone() }
        }
    };
    let suites = set_aside(&build()?, &directory)?;
    let initrd = initial_file_system(&kernel, &directory)?;
    let script = directory.join("run.sh");
    fs::write(&script, guest_script(&kernel, &directory, &suites, filter)?)?;
    shell::step(&format!("guest with Linux {}", kernel.release));
    boot(&kernel, &initrd, &script)
}

/// What a bzImage says that it is (Documentation/arch/x86/boot.rst: `kernel_version`).
fn release_of(image: &Path) -> Result<String> {
    let bytes = fs::read(image).with_context(|| image.display().to_string())?;
    let text = || {
        (bytes.get(0x202..0x206)? == b"HdrS").then_some(())?;
        let pointer = u16::from_le_bytes(*bytes.get(0x20e..)?.first_chunk()?);
        let text = bytes.get(usize::from(pointer) + 0x200..)?;
        let end = text.iter().position(|byte| *byte == b' ' || *byte == 0)?;
        String::from_utf8(text.get(..end)?.to_vec()).ok().filter(|text| !text.is_empty())
    };
    text().with_context(|| format!("{} is not a bzImage (/boot/vmlinuz-RELEASE is one)", image.display()))
}

/// Downloads the newest package of that version with apt, from the release that has it, into a cache of its own.
fn fetch(version: &str, directory: &Path) -> Result<Kernel> {
    let root = directory.join("root");
    if let Ok(kernel) = unpacked(&root) {
        return Ok(kernel);
    }
    let (_, release) = RELEASES.iter().find(|(known, _)| version == *known).with_context(|| {
        format!(
            "no Debian release has Linux {version} (there are {}); to run it all the same, name its image: \
                 cargo xtask e2e --kernel-image FILE [--kernel-modules DIRECTORY]",
            known()
        )
    })?;
    shell::step(&format!("Linux {version} from Debian {release}"));
    let apt = directory.join("apt");
    let configuration = apt_root(&apt, release)?;
    let tool = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).env("APT_CONFIG", &configuration).current_dir(&apt);
        command
    };
    shell::run(&mut tool("apt-get", &["update", "--quiet"]))?;
    let pattern = format!("^linux-image-{}.*amd64$", version.replace('.', "\\."));
    let found = tool("apt-cache", &["search", "--names-only", &pattern]).output()?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    let mut names: Vec<&str> = found
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.contains("cloud") && !name.contains("-rt-") && !name.contains("dbg"))
        .collect();
    names.sort_by_key(|name| {
        name.split(|character: char| !character.is_ascii_digit())
            .map(|part| part.parse().unwrap_or(0))
            .collect::<Vec<u64>>()
    });
    let name = names.pop().with_context(|| format!("Debian {release} has no package {pattern}"))?;
    // From Linux 7 on the kernel and its modules have packages of their own, and the one of the old name needs them.
    let known = tool("apt-cache", &["pkgnames", "linux-"]).output()?;
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    let parts =
        ["image", "binary", "modules"].map(|part| name.replacen("linux-image", &format!("linux-{part}"), 1));
    let parts = parts.iter().map(String::as_str).filter(|part| known.lines().any(|known| known == *part));
    let download: Vec<&str> = ["download", "--quiet"].into_iter().chain(parts).collect();
    shell::run(&mut tool("apt-get", &download))?;
    for entry in fs::read_dir(&apt)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(&root))?;
            fs::remove_file(path)?;
        }
    }
    let kernel = unpacked(&root)?;
    // Here it takes a second, in the guest a minute. The base is what lies above lib/modules/RELEASE.
    let modules = kernel.modules.as_ref().context("the package has no modules")?;
    let base = modules.ancestors().nth(3).context("a directory above lib/modules")?;
    shell::run(Command::new("depmod").arg("--basedir").arg(base).arg(&kernel.release))?;
    Ok(kernel)
}

fn known() -> String {
    RELEASES.iter().map(|(version, _)| *version).collect::<Vec<_>>().join(", ")
}

/// An apt of its own: the machine's sources stay as they are.
pub(crate) fn apt_root(directory: &Path, release: &str) -> Result<PathBuf> {
    const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    for part in [
        "etc/apt.conf.d",
        "etc/preferences.d",
        "etc/sources.list.d",
        "state/lists/partial",
        "cache/archives/partial",
    ] {
        fs::create_dir_all(directory.join(part))?;
    }
    fs::write(directory.join("status"), "")?;
    let sites = Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]).output()?;
    let sites = String::from_utf8_lossy(&sites.stdout).into_owned();
    let mirror =
        sites.lines().find(|site| !site.contains("security")).unwrap_or("http://deb.debian.org/debian");
    let source = format!("deb [check-valid-until=no signed-by={KEYRING}] {mirror} {release} main\n");
    fs::write(directory.join("etc/sources.list"), source)?;
    let at = directory.display();
    let configuration = format!(
        "Dir::Etc \"{at}/etc\";\nDir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
         APT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n"
    );
    let path = directory.join("apt.conf");
    fs::write(&path, configuration)?;
    Ok(path)
}

fn unpacked(root: &Path) -> Result<Kernel> {
    let modules =
        ["lib/modules", "usr/lib/modules"].into_iter().find_map(|at| only_child(&root.join(at), "").ok());
    let modules = modules.context("the package has no modules")?;
    // From Linux 7 on it lies beside its modules.
    let image = only_child(&root.join("boot"), "vmlinuz-").or_else(|_| only_child(&modules, "vmlinuz"))?;
    let release = modules.file_name().context("a release")?.to_string_lossy().into_owned();
    Ok(Kernel { release, image, modules: Some(modules) })
}

fn only_child(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let mut entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?.flatten();
    let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    Ok(found.with_context(|| format!("nothing in {}", directory.display()))?.path())
}

/// Builds the suites; gives their binaries.
fn build() -> Result<Vec<PathBuf>> {
    shell::step("suites");
    shell::run(&mut shell::cargo(&["build", "--package", "lockgate-tests", "--bins"]))?;
    let arguments = [
        "test",
        "--package",
        "lockgate-tests",
        "--no-run",
        "--message-format",
        "json",
        "--test",
        "capture",
        "--test",
        "guest",
    ];
    let output = shell::cargo(&arguments).stderr(Stdio::inherit()).output()?;
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let binaries = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"] == true && message["target"]["kind"][0] == "test";
        let name = message["target"]["name"].as_str()?;
        (is_test && matches!(name, "capture" | "guest"))
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    let binaries: Vec<PathBuf> = binaries.collect();
    if binaries.len() != 2 || !output.status.success() {
        bail!("the suites were not built ({}): {binaries:?}", output.status);
    }
    Ok(binaries)
}

/// Copies of what runs in the guest: a build on this side must not change it meanwhile.
fn set_aside(suites: &[PathBuf], directory: &Path) -> Result<Vec<PathBuf>> {
    let into = directory.join("bin");
    fs::create_dir_all(&into)?;
    let copy = |from: &Path, name: &str| -> Result<PathBuf> {
        let to = into.join(name);
        let _ = fs::remove_file(&to);
        fs::copy(from, &to).with_context(|| from.display().to_string())?;
        Ok(to)
    };
    for name in HELPERS {
        copy(&shell::target().join("debug").join(name), name)?;
    }
    let name = |suite: &Path| suite.file_name().map(|name| name.to_string_lossy().into_owned());
    suites.iter().map(|suite| copy(suite, &name(suite).context("a name")?)).collect()
}

/// busybox, the modules for 9p and overlay, and a script that makes this machine's files the guest's root.
fn initial_file_system(kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("initrd");
    let _ = fs::remove_dir_all(&tree);
    for part in ["bin", "proc", "sys", "dev", "mnt", "lower", "rw", "modules"] {
        fs::create_dir_all(tree.join(part))?;
    }
    fs::copy("/usr/bin/busybox", tree.join("bin/busybox"))
        .or_else(|_| fs::copy("/bin/busybox", tree.join("bin/busybox")))?;
    let mut load = String::new();
    for module in EARLY_MODULES {
        // What is not there is built in.
        let Some(modules) = &kernel.modules else { continue };
        let found =
            shell::output(Command::new("find").arg(modules).args(["-name", &format!("{module}.ko*")]))?;
        let Some(path) = found.lines().next() else { continue };
        let unpack = match Path::new(path).extension().and_then(|extension| extension.to_str()) {
            Some("xz") => "xz --decompress --stdout",
            Some("zst") => "zstd --decompress --stdout",
            _ => "cat",
        };
        let into = tree.join(format!("modules/{module}.ko"));
        shell::run(Command::new("sh").args(["-c", &format!("{unpack} '{path}' > '{}'", into.display())]))?;
        load.push_str(&format!("insmod /modules/{module}.ko 2> /dev/null\n"));
    }
    // Which of two needs the other has changed between kernels: what failed the first time finds it the second.
    let load = load.repeat(2);
    let init = format!(
        "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\n\
         mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev\n{load}\
         mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose root /lower || exec sh\n\
         mount -t tmpfs t /rw; mkdir -p /rw/u /rw/w\n\
         mount -t overlay -o lowerdir=/lower,upperdir=/rw/u,workdir=/rw/w o /mnt || exec sh\n\
         mount --move /proc /mnt/proc; mount --move /sys /mnt/sys; mount --move /dev /mnt/dev\n\
         exec switch_root /mnt /bin/bash {}\n",
        directory.join("run.sh").display()
    );
    fs::write(tree.join("init"), init)?;
    shell::run(Command::new("chmod").arg("+x").arg(tree.join("init")))?;
    let image = directory.join("initrd.gz");
    let pack =
        format!("cd '{}' && find . | cpio --quiet -o -H newc | gzip > '{}'", tree.display(), image.display());
    shell::run(Command::new("sh").args(["-c", &pack]))?;
    Ok(image)
}

/// What the guest does: the suites on a kernel that lockgate supports, the refusal on an older one.
fn guest_script(
    kernel: &Kernel,
    directory: &Path,
    suites: &[PathBuf],
    filter: Option<&str>,
) -> Result<String> {
    let over = |name: &&str| {
        let (from, to) = (directory.join("bin").join(name), shell::target().join("debug").join(name));
        format!("mount --bind '{}' '{}'\n", from.display(), to.display())
    };
    let binds: String = HELPERS.iter().map(over).collect();
    let release = &kernel.release;
    let link = kernel.modules.as_ref().map_or_else(String::new, |modules| {
        format!("mkdir -p /lib/modules; ln -sfn '{}' /lib/modules/{release}\n", modules.display())
    });
    let agent = shell::target().join("debug/capture_agent");
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    let version = (numbers.next().context("a version")??, numbers.next().context("a version")??);
    let work: String = if version < FLOOR {
        format!(
            "if '{}' '{{\"instance\":\"floor\",\"cgroups\":[\"/floor\"],\"targets\":[]}}' > /tmp/refusal < /dev/null; then echo GUEST-FAILED; fi\n\
             cat /tmp/refusal\ngrep -q '5.15' /tmp/refusal && echo 'test result: ok. 1 passed; 0 failed; 0 ignored'\n\
             [ ! -e /sys/fs/bpf/lockgate ] || echo GUEST-FAILED\n",
            agent.display()
        )
    } else {
        let one = |suite: &PathBuf| {
            format!(
                "'{}' --test-threads=2 --color=never {} || echo GUEST-FAILED\n",
                suite.display(),
                filter.unwrap_or_default()
            )
        };
        suites.iter().map(one).collect()
    };
    Ok(format!(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=0\n\
         mount -t tmpfs r /run; mount -t tmpfs t /tmp; mount -t bpf b /sys/fs/bpf; mount -t securityfs s /sys/kernel/security\n\
         mkdir -p /dev/pts /dev/shm; mount -t devpts p /dev/pts\n\
         mount -t cgroup2 c /sys/fs/cgroup; mkdir -p /run/netns; ulimit -l unlimited; ulimit -n 20000\n\
         export LOCKGATE_TEST_SLOWNESS={SLOWNESS}\n\
         {link}\
         hostname guest; ip link set lo up\n\
         for module in sctp dccp dccp_ipv4 dccp_ipv6 smc vsock vsock_loopback tun veth sch_tbf tcp_diag udp_diag inet_diag; do modprobe -q $module; done\n\
         echo \"GUEST $(uname -r) lsm=$(cat /sys/kernel/security/lsm)\"\n\
         {binds}cd '{}'\n{work}\
         echo GUEST-DONE\nsync; echo o > /proc/sysrq-trigger; sleep 5\n",
        shell::root().join("tests").display()
    ))
}

/// Boots, passes the guest's output on, and sums what its suites reported.
fn boot(kernel: &Kernel, initrd: &Path, script: &Path) -> Result<()> {
    // Emulated even where there is a /dev/kvm: half of those in virtual machines do not work, and slow is certain.
    let acceleration = "tcg,thread=multi";
    let append = format!(
        "console=ttyS0 panic=-1 quiet loglevel=3 lsm=landlock,lockdown,yama,bpf script={}",
        script.display()
    );
    let mut qemu = Command::new("timeout");
    qemu.arg(WITHIN.as_secs().to_string())
        .args([
            "nice",
            "qemu-system-x86_64",
            "-accel",
            acceleration,
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1536",
        ])
        .args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"])
        .args(["-append", &append])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = qemu.spawn().context("cannot start qemu-system-x86_64")?;
    let output = child.stdout.take().context("the guest's console")?;
    let (mut sum, mut done, mut failed) = (test::Summary::default(), false, false);
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        println!("{line}");
        sum.add(&line);
        done |= line == "GUEST-DONE";
        failed |= line == "GUEST-FAILED";
    }
    let status = child.wait()?;
    println!(
        "Linux {}: {} passed, {} failed, {} skipped, {} s in the guest",
        kernel.release,
        sum.passed,
        sum.failed,
        sum.ignored,
        start.elapsed().as_secs()
    );
    if !done {
        bail!("the guest did not come to its end within {} s ({status})", WITHIN.as_secs());
    }
    if sum.passed == 0 || sum.failed > 0 || failed {
        bail!("tests failed under Linux {}", kernel.release);
    }
    Ok(())
}
