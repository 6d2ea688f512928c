//! Telling a service manager how we are: sd_notify(3) is one datagram to the socket in `NOTIFY_SOCKET`.

use lockgate_proxy::Lanes;
use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// Sends a state such as `READY=1`. Without a service manager it does nothing.
pub(crate) fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "telling the service manager");
    }
}

/// Feeds the watchdog that the service manager set (`WatchdogSec=`), as long as every lane of the data plane answers:
/// one that is stuck is worth a restart. Without a watchdog it returns.
pub(super) async fn feed_watchdog(lanes: Lanes) {
    let Some(limit) = watchdog(|name| std::env::var(name).ok(), std::process::id()) else { return };
    // Half of the limit, as sd_watchdog_enabled(3) has it.
    let every = limit / 2;
    loop {
        let mut stuck = false;
        let answers: Vec<_> = lanes.iter().map(|lane| lane.spawn(async {})).collect();
        for (lane, answer) in answers.into_iter().enumerate() {
            // Unfed meanwhile, the watchdog bites by itself.
            if tokio::time::timeout(every, answer).await.is_err() {
                tracing::error!(lane, "a thread of the data plane does not answer");
                stuck = true;
            }
        }
        if !stuck {
            notify("WATCHDOG=1");
        }
        tokio::time::sleep(every).await;
    }
}

/// `WATCHDOG_USEC`, when `WATCHDOG_PID` is this process or nobody.
fn watchdog(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    let meant = variable("WATCHDOG_PID").is_none_or(|text| text.parse() == Ok(pid));
    let limit: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    (meant && limit > 0).then(|| Duration::from_micros(limit))
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    // A leading `@` names a socket in the abstract namespace.
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    datagram.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_only_by_the_process_it_is_for() {
        for (usec, pid, expected) in [
            (Some("20000000"), None, Some(Duration::from_secs(20))),
            (Some("20000000"), Some("7"), Some(Duration::from_secs(20))),
            (Some("20000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, None, None),
        ] {
            let variable = |name: &str| if name == "WATCHDOG_PID" { pid } else { usec }.map(str::to_owned);
            assert_eq!(watchdog(variable, 7), expected, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn states_reach_the_manager_s_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        let mut buffer = [0; 32];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        assert!(send(OsStr::new("/nonexistent/notify"), "READY=1").is_err());
    }
}
