//! netlink, as far as it is spoken here: one request, and the messages of its answer (linux/netlink.h).
//!
//! Acts on the network namespace of the calling thread. What a message says is the caller's to read.

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use std::{io, time::Duration};

/// The kernel answers at once; a lost answer must not stop the watch.
const PATIENCE: Duration = Duration::from_secs(2);
/// The kernel writes dumps in pieces of at most this.
const BUFFER: usize = 64 << 10;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

/// What kind of answer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One message of what was asked.
    One,
    /// "Done", or why not.
    Acknowledgement,
    /// As many as there are.
    Dump,
}

impl Answer {
    fn flags(self) -> u16 {
        match self {
            Self::One => 0,
            Self::Acknowledgement => 4,
            Self::Dump => 0x300,
        }
    }
}

/// NETLINK_ROUTE, which is 0: what a socket of no protocol speaks.
pub(crate) const ROUTE: Option<Protocol> = None;

/// Asks, and hands each message that is no end and no error to `each`.
pub(crate) fn ask(
    protocol: Option<Protocol>,
    kind: u16,
    answer: Answer,
    body: &[u8],
    mut each: impl FnMut(&Message<'_>),
) -> io::Result<()> {
    let socket = open(protocol)?;
    send(&socket, &request(kind, answer, body), SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for message in messages(buffer.get(..length).unwrap_or_default()) {
            match message.kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return message.error(),
                _ => each(&message),
            }
            if answer == Answer::One {
                return Ok(());
            }
        }
    }
}

fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// `struct nlmsghdr`, then the body.
fn request(kind: u16, answer: Answer, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | answer.flags()).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// One message.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// `struct nlmsgerr`: 0 is an acknowledgement.
    fn error(&self) -> io::Result<()> {
        match self.body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)) {
            Some(0) => Ok(()),
            Some(negative) => Err(io::Error::from_raw_os_error(negative.saturating_neg())),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// The attributes behind a message's fixed part: type (without its flags) and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER: usize = 4;
    const TYPE_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & TYPE_MASK;
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_answers_end_without_a_panic() {
        for length in 0..40 {
            let bytes = vec![7; length];
            assert!(messages(&bytes).count() <= 1 && attributes(&bytes).count() <= 6);
        }
        let looping = [0u8; 64];
        assert_eq!((messages(&looping).count(), attributes(&looping).count()), (0, 0));
    }

    #[test]
    fn attributes_are_aligned_to_four() {
        let bytes = [5, 0, 3, 0x80, 9, 0, 0, 0, 8, 0, 4, 0, 1, 2, 3, 4];
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(3, &[9][..]), (4, &[1, 2, 3, 4][..])]);
    }
}
