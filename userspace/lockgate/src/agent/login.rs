//! Whether a person has just logged in to the process that asks on the unix socket: for the emergency override alone.
//!
//! What is looked at: a controlling terminal, a login session that began a quarter of an hour ago at most, and the login uid
//! that the kernel's audit system notes at login and lets nobody change (proc(5), loginuid), where there is one. A service or a
//! CI job has neither terminal nor login uid.

use lockgate_control::{FRESH_LOGIN, PeerCred};
use std::time::Duration;

/// Nobody logged in (`(uid_t) -1`): services and their children, or a kernel without audit.
const NO_LOGIN: u32 = u32::MAX;

/// How it is known that a person has just logged in; None when it is not.
pub(super) fn fresh(peer: &PeerCred) -> Option<String> {
    let pid = peer.pid.filter(|pid| *pid > 0)?;
    let stat = Stat::read(pid)?;
    if stat.terminal == 0 {
        return None;
    }
    let login = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok();
    let login = login.and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(NO_LOGIN);
    if login != NO_LOGIN && login != peer.uid {
        return None;
    }
    let leader = Stat::read(stat.session)?;
    let age = age(leader.started_ticks)?;
    if age > FRESH_LOGIN {
        return None;
    }
    let noted = if login == NO_LOGIN { "the kernel notes no logins" } else { "noted by the kernel" };
    Some(format!("uid {} at a terminal, logged in {} s ago ({noted})", peer.uid, age.as_secs()))
}

/// The fields of /proc/PID/stat that say where a process belongs (proc(5)).
struct Stat {
    /// Field 6.
    session: i32,
    /// Field 7; 0 is none.
    terminal: i64,
    /// Field 22.
    started_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name before the fields may hold anything but ends with the last `)`.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        // The first of them is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            session: field(6)?.parse().ok()?,
            terminal: field(7)?.parse().ok()?,
            started_ticks: field(22)?.parse().ok()?,
        })
    }
}

/// How long ago something began that began this long after the boot.
fn age(started_ticks: u64) -> Option<Duration> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let per_second = u64::try_from(per_second).ok().filter(|ticks| *ticks > 0)?;
    let up = std::fs::read_to_string("/proc/uptime").ok()?;
    let up: f64 = up.split(' ').next()?.parse().ok()?;
    let started = Duration::from_millis(started_ticks.saturating_mul(1000) / per_second);
    Some(Duration::try_from_secs_f64(up).ok()?.saturating_sub(started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_the_terminal_and_the_start_are_found_behind_any_name() {
        let rest: Vec<String> = (4..=40).map(|number| number.to_string()).collect();
        let stat = Stat::parse(&format!("7 (a) b (c) S {}", rest.join(" "))).unwrap();
        assert_eq!((stat.session, stat.terminal, stat.started_ticks), (6, 7, 22));
        assert!(Stat::parse("7 (x").is_none());
    }

    #[test]
    fn this_process_is_younger_than_the_machine() {
        let own = Stat::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(age(own.started_ticks).unwrap() < age(0).unwrap());
    }

    #[test]
    fn a_process_without_a_terminal_is_no_login() {
        assert_eq!(fresh(&PeerCred { pid: None, uid: 0, gid: 0 }), None);
        assert_eq!(fresh(&PeerCred { pid: Some(1), uid: 0, gid: 0 }), None, "init has none");
    }
}
