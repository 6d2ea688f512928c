//! AF_XDP: frames that go from a ring of the job's memory to the device, past all of the host's network code.

use crate::{checked, raw::frame, sent, set, socket};
use anyhow::{Context as _, Result};
use lockgate_tests::matrix::{POD_INTERFACE, patience};
use std::{
    io::Error,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::null_mut,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

const FRAME: usize = 4096;
const FRAMES: usize = 16;
const RING: u32 = 16;

pub(crate) fn attempt(mark: &str) -> Result<String> {
    let frame = frame(mark)?;
    let socket = socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
    let memory = map(None, FRAME * FRAMES, 0)?;
    // SAFETY: the mapping is FRAME bytes and more, and nobody else has it yet.
    unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), memory.cast(), frame.len().min(FRAME)) };
    // SAFETY: all zeroes is a valid registration.
    let mut registration: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
    registration.addr = memory as u64;
    registration.len = (FRAME * FRAMES) as u64;
    registration.chunk_size = FRAME as u32;
    set(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration).context("XDP_UMEM_REG")?;
    for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_TX_RING] {
        set(&socket, libc::SOL_XDP, ring, &RING).context("a ring")?;
    }
    let offsets = offsets(&socket)?;
    let size = offsets.tx.desc as usize + RING as usize * size_of::<libc::xdp_desc>();
    let ring = map(Some(&socket), size, libc::XDP_PGOFF_TX_RING)?;
    bind(&socket)?;
    // SAFETY: the kernel says where in the ring that it has mapped its parts are.
    unsafe {
        let descriptor: *mut libc::xdp_desc = ring.byte_add(offsets.tx.desc as usize).cast();
        (*descriptor).addr = 0;
        (*descriptor).len = frame.len() as u32;
        (*descriptor).options = 0;
        let producer: *const AtomicU32 = ring.byte_add(offsets.tx.producer as usize).cast();
        (*producer).store(1, Ordering::Release);
        checked(libc::sendto(socket.as_raw_fd(), null_mut(), 0, libc::MSG_DONTWAIT, null_mut(), 0) as i64)?;
    }
    // Copied by the kernel during the call. A mapped ring holds the socket, and that the device's queue.
    // SAFETY: nothing refers to the mappings any more.
    unsafe {
        libc::munmap(ring, size);
        libc::munmap(memory, FRAME * FRAMES);
    }
    sent()
}

fn map(of: Option<&OwnedFd>, length: usize, offset: libc::off_t) -> Result<*mut libc::c_void> {
    let (fd, flags) = match of {
        Some(fd) => (fd.as_raw_fd(), libc::MAP_SHARED | libc::MAP_POPULATE),
        None => (-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
    };
    // SAFETY: a new mapping at an address of the kernel's choice.
    let memory =
        unsafe { libc::mmap(null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
    if memory == libc::MAP_FAILED { Err(Error::last_os_error()).context("mmap") } else { Ok(memory) }
}

fn offsets(socket: &OwnedFd) -> Result<libc::xdp_mmap_offsets> {
    // SAFETY: all zeroes is a valid value, which the kernel overwrites.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&offsets) as u32;
    // SAFETY: the value lives through the call, with its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        )
    };
    checked(result).context("XDP_MMAP_OFFSETS")?;
    Ok(offsets)
}

fn bind(socket: &OwnedFd) -> Result<()> {
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_xdp = unsafe { std::mem::zeroed() };
    address.sxdp_family = libc::AF_XDP as u16;
    address.sxdp_flags = libc::XDP_COPY;
    address.sxdp_ifindex = nix::net::if_::if_nametoindex(POD_INTERFACE)?;
    let until = Instant::now() + patience();
    loop {
        // SAFETY: the address lives through the call, with its size.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_xdp>() as u32,
            )
        };
        match checked(result) {
            // The queue of the device is another job's for this moment.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result.context("bind").map(drop),
        }
    }
}
