//! System calls without a safe wrapper: bpf(2) on links and pins, socket cookies, file handles.
//!
//! aya 0.14 cannot update a cgroup link in place, which is what keeps a restart free of gaps.

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, path::Path};

/// bpf(2) commands (linux/bpf.h, `enum bpf_cmd`).
mod command {
    pub(super) const OBJ_PIN: i32 = 6;
    pub(super) const OBJ_GET: i32 = 7;
    pub(super) const OBJ_GET_INFO_BY_FD: i32 = 15;
    pub(super) const RAW_TRACEPOINT_OPEN: i32 = 17;
    pub(super) const LINK_CREATE: i32 = 28;
    pub(super) const LINK_UPDATE: i32 = 29;
    pub(super) const LINK_DETACH: i32 = 34;
}

/// Calls bpf(2) with one member of `union bpf_attr`.
fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a repr(C) prefix of union bpf_attr of the given size; the kernel reads missing bytes as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: bpf(2) has just returned this descriptor (O_CLOEXEC) and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[repr(C)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Pins a map, program or link.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(
        command::OBJ_PIN,
        &mut ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: object.as_raw_fd() as u32, file_flags: 0 },
    )?;
    Ok(())
}

/// Opens a pinned object.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf(command::OBJ_GET, &mut ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })
        .map(owned)
}

/// Attaches a program to a cgroup as a link. Links are always "multi": others' programs run as well.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    link_to(program, cgroup.as_raw_fd() as u32, attach_type)
}

/// Attaches a program to an interface (TCX, 6.6), beside others' programs.
pub(crate) fn link_create_on_interface(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    link_to(program, interface, attach_type)
}

/// Attaches an LSM program to the hook that it was loaded for.
pub(crate) fn raw_tracepoint_open(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        name: u64,
        prog_fd: u32,
        reserved: u32,
    }
    let mut attr = Attr { name: 0, prog_fd: program.as_raw_fd() as u32, reserved: 0 };
    bpf(command::RAW_TRACEPOINT_OPEN, &mut attr).map(owned)
}

/// `target` is a descriptor or an interface, as the attach type has it.
fn link_to(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = Attr { prog_fd: program.as_raw_fd() as u32, target_fd: target, attach_type, flags: 0 };
    bpf(command::LINK_CREATE, &mut attr).map(owned)
}

/// Replaces a link's program atomically: no connect() sees neither or both.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = Attr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(command::LINK_UPDATE, &mut attr)?;
    Ok(())
}

/// Takes a link off its cgroup, whoever still holds it.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
    }
    bpf(command::LINK_DETACH, &mut Attr { link_fd: link.as_raw_fd() as u32 })?;
    Ok(())
}

/// What a link is attached to (a cgroup's id, an interface's number); 0 once it was detached.
pub(crate) fn link_target(link: BorrowedFd<'_>) -> io::Result<u64> {
    const BPF_LINK_TYPE_TCX: u32 = 11;
    /// `struct bpf_link_info` with its cgroup member, or its tcx one.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        prog_id: u32,
        padding: u32,
        /// A cgroup's id, or an interface's number and the attach type.
        target: [u32; 2],
        attach_type: u32,
        reserved: u32,
    }
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut attr = Attr {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(command::OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [low, high] = info.target;
    match info.kind {
        BPF_LINK_TYPE_TCX => Ok(low.into()),
        _ => Ok(u64::from_ne_bytes(cast([low.to_ne_bytes(), high.to_ne_bytes()]))),
    }
}

fn cast([[a, b, c, d], [e, f, g, h]]: [[u8; 4]; 2]) -> [u8; 8] {
    [a, b, c, d, e, f, g, h]
}

/// Whether packets on this interface begin with an Ethernet header; a device that cannot be asked counts as one.
/// Asked by ioctl: /sys may show another network namespace.
pub(crate) fn has_link_layer(interface: u32) -> bool {
    let kind = interface_name(interface).ok_or(()).and_then(|name| hardware_type(&name).map_err(drop));
    kind.map_or(true, |kind| matches!(kind, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK))
}

/// `ARPHRD_*` (linux/if_arp.h).
fn hardware_type(name: &str) -> io::Result<u16> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (into, byte) in request.ifr_name.iter_mut().zip(name.bytes()).take(libc::IFNAMSIZ - 1) {
        *into = byte as libc::c_char;
    }
    // SAFETY: the request writes into the ifreq that it is given.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFHWADDR has filled this member.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

/// The number of an interface in the caller's network namespace.
pub fn interface_number(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The name of an interface in the caller's network namespace.
pub(crate) fn interface_name(interface: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(interface).ok()?;
    name.into_string().ok()
}

/// Whether LSM programs are called: the agent's own ask for a socket that cannot be is answered with
/// [`LSM_PROBE_ERRNO`](lockgate_ebpf_common::LSM_PROBE_ERRNO).
pub(crate) fn ask_lsm() -> Result<(), String> {
    use lockgate_ebpf_common::{LSM_PROBE_ERRNO, LSM_PROBE_PROTOCOL};
    // SAFETY: socket(2) takes three numbers; a descriptor that it should not have returned is closed.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_RAW, LSM_PROBE_PROTOCOL as i32) };
    if fd >= 0 {
        drop(owned(fd));
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(LSM_PROBE_ERRNO) if fd < 0 => Ok(()),
        _ => Err("attached, but never called: the kernel was booted without `bpf` in `lsm=`".to_owned()),
    }
}

/// `SO_NETNS_COOKIE` of a socket.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71; // asm-generic/socket.h, since 5.14
    let mut value = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes into `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// The path of a cgroup by its id, absolute below `mount`; ESTALE when it is gone.
pub(crate) fn cgroup_path(mount: BorrowedFd<'_>, id: u64) -> io::Result<std::path::PathBuf> {
    /// `struct file_handle` with the 8 bytes of a kernfs handle.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: u64,
    }
    const FILEID_KERNFS: i32 = 0xfe; // linux/exportfs.h
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id };
    // SAFETY: a file_handle with `bytes` bytes behind it, as the call asks.
    let fd = unsafe {
        libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), libc::O_PATH | libc::O_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let directory = owned(fd);
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// Is this process gone? A pidfd becomes readable at exit.
pub(crate) fn has_exited(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(pidfd, rustix::event::PollFlags::IN)];
    let ready = rustix::event::poll(&mut poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(ready > 0)
}

/// The network namespace that a socket lives in, as nsfs shows it (`SIOCGSKNS`, linux/sockios.h).
pub(crate) fn netns_of_socket(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894C;
    // SAFETY: the request takes no argument and returns a new descriptor (O_CLOEXEC).
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(owned(fd)) }
}

/// mount_setattr(2) on a mount that is not yet anywhere (5.12).
pub(crate) fn mount_attributes(tree: BorrowedFd<'_>, set: u32) -> io::Result<()> {
    /// `struct mount_attr` (linux/mount.h), its first version.
    #[repr(C)]
    struct Attr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attr = Attr { set: u64::from(set), clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: an empty path stands for the descriptor itself, and the structure lives through the call, with its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
