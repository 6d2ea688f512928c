//! io_uring: operations that worker threads of the kernel do for the job.

use crate::{
    sent,
    tcp::{EARLY, answer, at, raw},
    udp::datagrams,
};
use anyhow::{Context as _, Result, bail};
use io_uring::{IoUring, opcode, squeue, types::Fd};
use lockgate_tests::matrix::{TARGET_V4, patience};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io::Error,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

pub(crate) fn attempt(name: &str, mark: &str) -> Result<String> {
    let to = raw(at(TARGET_V4));
    match name {
        "io-uring-connect" => connect(&mut IoUring::new(8)?, stream()?, &to, squeue::Flags::empty()),
        "io-uring-connect-async" => connect(&mut IoUring::new(8)?, stream()?, &to, squeue::Flags::ASYNC),
        "io-uring-connect-sqpoll" => {
            let mut ring = IoUring::builder().setup_sqpoll(1000).build(8)?;
            connect(&mut ring, stream()?, &to, squeue::Flags::empty())
        }
        "io-uring-socket-and-connect" => {
            let mut ring = IoUring::new(8)?;
            let made = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
            let fd = done(&mut ring, &made)?;
            // SAFETY: the kernel has just put it into this process.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            bounded(&socket)?;
            connect(&mut ring, socket, &to, squeue::Flags::empty())
        }
        "io-uring-fast-open" => {
            let socket = stream()?;
            message(&socket, &to, EARLY, libc::MSG_FASTOPEN as u32)?;
            answer(socket)
        }
        "io-uring-sendmsg" => {
            message(&datagrams(Domain::IPV4)?, &to, mark.as_bytes(), 0)?;
            sent()
        }
        "io-uring-connected-send" => {
            let mut ring = IoUring::new(8)?;
            let socket = datagrams(Domain::IPV4)?;
            let fd = Fd(socket.as_raw_fd());
            done(&mut ring, &opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build())?;
            done(&mut ring, &opcode::Send::new(fd, mark.as_ptr(), mark.len() as u32).build())?;
            sent()
        }
        other => bail!("nobody tries {other}"),
    }
}

fn stream() -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    bounded(&socket)?;
    Ok(socket)
}

fn bounded(socket: &Socket) -> std::io::Result<()> {
    // How long the kernel goes on asking, also where no system call waits.
    socket.set_tcp_user_timeout(Some(patience()))?;
    crate::set(socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, &1i32)
}

fn connect(ring: &mut IoUring, socket: Socket, to: &SockAddr, flags: squeue::Flags) -> Result<String> {
    let connect = opcode::Connect::new(Fd(socket.as_raw_fd()), to.as_ptr().cast(), to.len());
    done(ring, &connect.build().flags(flags))?;
    answer(socket)
}

fn message(socket: &Socket, to: &SockAddr, bytes: &[u8], flags: u32) -> Result<()> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeroes is a valid header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    let send = opcode::SendMsg::new(Fd(socket.as_raw_fd()), &raw const header).flags(flags).build();
    done(&mut IoUring::new(8)?, &send)?;
    Ok(())
}

/// One operation, to its end: what it names lives in the caller's frame meanwhile.
fn done(ring: &mut IoUring, entry: &squeue::Entry) -> Result<i32> {
    // SAFETY: the caller waits here until the operation has ended.
    unsafe { ring.submission().push(entry) }.context("the ring is full")?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().context("no completion")?.result();
    if result < 0 { Err(Error::from_raw_os_error(-result).into()) } else { Ok(result) }
}
