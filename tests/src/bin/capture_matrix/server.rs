//! The service: answers `direct` to whoever connects, and remembers the datagrams that came.

use crate::{AF_SMC, checked, socket};
use anyhow::Result;
use lockgate_tests::matrix::{FREE_PORT, PORT, patience};
use serde_json::json;
use socket2::{Domain, SockAddr, Socket};
use std::{
    collections::BTreeSet,
    io::{BufRead as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Datagrams by their marks.
type Heard = Arc<Mutex<BTreeSet<String>>>;

pub(crate) fn serve() -> Result<()> {
    let heard = Heard::default();
    for port in [PORT, FREE_PORT] {
        answer(listening(socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?, port)?.into());
    }
    // Where the kernel has them.
    for (family, protocol) in [(libc::AF_INET6, libc::IPPROTO_SCTP), (AF_SMC, 0)] {
        if let Ok(listener) = socket(family, libc::SOCK_STREAM, protocol).and_then(|fd| listening(fd, PORT)) {
            answer(listener.into());
        }
    }
    hear(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?, &heard);
    let lite = bound(socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?, PORT)?;
    hear(UdpSocket::from(OwnedFd::from(lite)), &heard);
    println!("{}", json!({ "event": "ready" }));
    for line in std::io::stdin().lock().lines() {
        let prefix = line?;
        let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let marks: Vec<&String> = heard.iter().filter(|mark| mark.starts_with(&prefix)).collect();
        println!("{}", json!({ "event": "heard", "marks": marks }));
    }
    Ok(())
}

fn bound(fd: OwnedFd, port: u16) -> std::io::Result<Socket> {
    let socket = Socket::from(fd);
    // AF_SMC's protocol 0 is over IPv4.
    let is_v6 = socket.domain()? == Domain::IPV6;
    let any: IpAddr = if is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let address = SockAddr::from(SocketAddr::from((any, port)));
    if is_v6 {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address)?;
    Ok(socket)
}

fn listening(fd: OwnedFd, port: u16) -> std::io::Result<Socket> {
    let socket = bound(fd, port)?;
    if socket.domain().is_ok_and(|domain| domain == Domain::IPV6) {
        // Data in the SYN, from whoever sends it: otherwise only those with a cookie are tried.
        let queue = 16i32;
        let _ = crate::set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &queue);
    }
    // SAFETY: two numbers.
    checked(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&socket), 128) })?;
    Ok(socket)
}

fn answer(listener: TcpListener) {
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || {
                // A client that is gone wanted no answer.
                let _ = (&connection).write_all(b"direct\n");
                let _ = connection.shutdown(Shutdown::Write);
                // Closing with data unread resets the connection, and the answer may go with it.
                let _ = connection.set_read_timeout(Some(patience()));
                let _ = std::io::copy(&mut &connection, &mut std::io::sink());
            });
        }
    });
}

fn hear(socket: UdpSocket, heard: &Heard) {
    let heard = Arc::clone(heard);
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let mark = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            heard.lock().unwrap_or_else(PoisonError::into_inner).insert(mark);
        }
    });
}
