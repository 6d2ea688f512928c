//! A job that tries every way around capture at once, and the service that it tries to reach. Driven by
//! `tests/capture/matrix.rs`; speaks JSON lines.
//!
//! `capture_matrix serve` listens on every address of its namespace and tells on `heard` which datagrams came.
//! `capture_matrix try CGROUP MODE` joins a cgroup, gives privileges up, and for each line of its input (a mark that
//! its datagrams carry) tries what `lockgate_tests::matrix` lists for its mode, all at the same time.

#![allow(unsafe_code, reason = "raw sockets, rings and devices have no safe wrapper")]

mod privilege;
mod raw;
mod server;
mod tcp;
mod udp;
mod uring;
mod xdp;

use anyhow::{Context as _, Result, bail};
use lockgate_tests::matrix::{ATTEMPTS, Attempt, Mode};
use serde_json::{Map, Value, json};
use std::{
    io::{BufRead as _, Error, ErrorKind},
    os::fd::{FromRawFd as _, OwnedFd},
    sync::mpsc,
    thread,
};

/// linux/socket.h
const AF_SMC: i32 = 43;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => server::serve(),
        ["try", cgroup, mode] => attempts(cgroup, Mode::of(mode).context("a mode")?),
        other => bail!("expected serve, or try CGROUP MODE, not {other:?}"),
    }
}

fn attempts(cgroup: &str, mode: Mode) -> Result<()> {
    std::fs::write(format!("{cgroup}/cgroup.procs"), "0").with_context(|| cgroup.to_owned())?;
    privilege::reduce(mode)?;
    println!("{}", json!({ "event": "ready" }));
    for mark in std::io::stdin().lock().lines() {
        let mark = mark?;
        println!("{}", json!({ "event": "tried", "outcomes": all(&mark, mode) }));
    }
    Ok(())
}

/// Each in a thread of its own: what is dropped on the way costs one wait, not one for each.
fn all(mark: &str, mode: Mode) -> Map<String, Value> {
    let (tell, told) = mpsc::channel();
    for attempt in ATTEMPTS.iter().filter(|attempt| attempt.modes.contains(&mode)) {
        let (tell, mark) = (tell.clone(), format!("{mark}/{}/{}", mode.as_str(), attempt.name));
        thread::spawn(move || {
            let outcome = attempt_one(attempt, &mark).unwrap_or_else(|error| {
                error.downcast_ref::<Error>().map_or_else(|| format!("{error:#}"), name)
            });
            // The receiver waits for all of them.
            let _ = tell.send((attempt.name, outcome));
        });
    }
    drop(tell);
    told.iter().map(|(name, outcome)| (name.to_owned(), Value::String(outcome))).collect()
}

fn attempt_one(attempt: &Attempt, mark: &str) -> Result<String> {
    let family = attempt.name.split('-').next().unwrap_or_default();
    match family {
        "tcp" | "mptcp" | "sctp" | "smc" => tcp::attempt(attempt.name),
        "udp" => udp::attempt(attempt.name, mark),
        "io" => uring::attempt(attempt.name, mark),
        "raw" | "packet" | "tun" => raw::attempt(attempt.name, mark),
        "xdp" => xdp::attempt(mark),
        _ => bail!("nobody tries {}", attempt.name),
    }
}

fn sent() -> Result<String> {
    Ok("sent".to_owned())
}

fn checked(result: impl Into<i64>) -> std::io::Result<i32> {
    let result = result.into();
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result as i32) }
}

fn socket(family: i32, kind: i32, protocol: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: socket(2) takes three numbers.
    let fd = checked(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: just returned, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option that is one plain value.
fn set<T>(socket: &impl std::os::fd::AsRawFd, level: i32, option: i32, value: &T) -> std::io::Result<()> {
    // SAFETY: the value lives through the call, with its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    checked(result).map(drop)
}

/// What a test compares, and reads when it fails.
fn name(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timed out".to_owned(),
        _ => error.to_string(),
    }
}
