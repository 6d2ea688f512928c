//! Two jobs whose short-lived processes all have the same few pids: each is born by clone3(2) with the pid it is told, in
//! its job's cgroup and directory, dials, and is gone. One JSON line for each: from which port it dialled, and whose it was.
//!
//! `capture_storm ADDRESS COUNT CGROUP-DIRECTORY CGROUP-DIRECTORY`

#![allow(unsafe_code, reason = "clone3 has no safe wrapper")]

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Pids that are used again and again; high, so that the machine's own processes are not near.
const PIDS: [libc::pid_t; 2] = [3_900_001, 3_900_002];
/// On a machine that allows no such pids.
const LOW_PIDS: [libc::pid_t; 2] = [32_001, 32_002];
/// include/uapi/linux/sched.h; libc's constant of this name is a C int, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// A pid is free a moment after its process was waited for, and the agent answers at once; emulated machines take their time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A job: where its processes live and stand.
struct Job {
    cgroup: File,
    directory: PathBuf,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, count, first, second] = arguments.as_slice() else {
        anyhow::bail!("expected ADDRESS COUNT CGROUP CGROUP")
    };
    let address: SocketAddr = address.parse()?;
    let jobs = [job(first)?, job(second)?];
    let limit: libc::pid_t = std::fs::read_to_string("/proc/sys/kernel/pid_max")?.trim().parse()?;
    let pids = if limit > PIDS[1] { PIDS } else { LOW_PIDS };
    for index in 0..count.parse::<usize>()? {
        // Jobs alternate on one pid, then on the other: neighbours in time are the other job's.
        let pid = pids[(index / 64) % 2];
        let owner = index % 2;
        // Every fourth is still there when it is looked at.
        one(pid, &jobs[owner], owner, address, index % 4 >= 2)?;
    }
    Ok(())
}

fn job(directory: &str) -> Result<Job> {
    let cgroup = File::open(directory).with_context(|| directory.to_owned())?;
    Ok(Job { cgroup, directory: PathBuf::from(directory) })
}

fn one(pid: libc::pid_t, job: &Job, owner: usize, address: SocketAddr, stays: bool) -> Result<()> {
    let started = Instant::now();
    // Inherited: a client stands in its job's directory from its first moment on.
    std::env::set_current_dir(&job.directory)?;
    loop {
        match born(pid, job)? {
            Some(0) => {
                let told = dial(owner, address, stays);
                std::process::exit(i32::from(told.is_err()));
            }
            Some(child) => {
                let mut status = 0;
                // SAFETY: waits for a child of this process, into a local.
                let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
                ensure!(waited == child && status == 0, "a client ended with {status}");
                return Ok(());
            }
            None => ensure!(started.elapsed() < PATIENCE, "pid {pid} is not to be had"),
        }
    }
}

/// 0 in the child; None while somebody has that pid.
fn born(pid: libc::pid_t, job: &Job) -> Result<Option<libc::pid_t>> {
    let wanted = [pid];
    // SAFETY: all-zero is a valid clone_args.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = CLONE_INTO_CGROUP;
    how.exit_signal = u64::try_from(libc::SIGCHLD)?;
    how.set_tid = wanted.as_ptr() as u64;
    how.set_tid_size = 1;
    how.cgroup = u64::try_from(job.cgroup.as_raw_fd())?;
    // SAFETY: without CLONE_VM this is a fork; the process has one thread, and `how` outlives the call.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw mut how, size_of::<libc::clone_args>()) };
    if child < 0 {
        let error = std::io::Error::last_os_error();
        ensure!(error.raw_os_error() == Some(libc::EEXIST), "clone3: {error}");
        return Ok(None);
    }
    Ok(Some(libc::pid_t::try_from(child)?))
}

fn dial(owner: usize, address: SocketAddr, stays: bool) -> Result<()> {
    let mut connection = TcpStream::connect(address)?;
    let line =
        json!({ "local": connection.local_addr()?.to_string(), "owner": owner, "pid": std::process::id() });
    writeln!(std::io::stdout(), "{line}")?;
    if stays {
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}
