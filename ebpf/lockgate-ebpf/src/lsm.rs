//! BPF LSM: what only a security hook sees of a governed task, where the kernel has them.
//!
//! Kernel structures are read at offsets that the loader took from the running kernel's BTF.

use crate::{
    decide::{self, Found, World as _},
    sock_create::Maker,
};
use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, programs::LsmContext};
use core::{mem::offset_of, ptr::read_volatile};
use lockgate_ebpf_common::{Address, KernelOffsets, LSM_PROBE_PROTOCOL, Refusal, V4_MAPPED, family};

/// Written before load.
#[unsafe(no_mangle)]
static KERNEL_OFFSETS: KernelOffsets = KernelOffsets {
    file_inode: 0,
    file_private: 0,
    inode_mode: 0,
    inode_device: 0,
    socket_sk: 0,
    sk_type: 0,
    sk_protocol: 0,
    sk_family: 0,
    sk_dport: 0,
    sk_daddr: 0,
    sk_daddr6: 0,
};

/// A refusal and what it is about.
pub struct Refused {
    pub refusal: Refusal,
    pub address: Address,
    pub port: u32,
    pub protocol: u32,
}

/// `socket_create(family, type, protocol, kern)`.
#[inline(always)]
pub fn create(context: &LsmContext) -> Result<(), Refused> {
    let (family, protocol, kernel): (u32, u32, u32) = (context.arg(0), context.arg(2), context.arg(3));
    if kernel != 0 {
        return Ok(());
    }
    decide::open(&Maker, family).map_err(|refusal| plain(refusal, protocol))
}

/// The agent asks whether it is called.
#[inline(always)]
pub fn is_probe(context: &LsmContext) -> bool {
    let (family, protocol): (u32, u32) = (context.arg(0), context.arg(2));
    family == family::UNIX
        && protocol == LSM_PROBE_PROTOCOL
        && Maker.config().is_some_and(|config| Maker.in_cgroup(config.proxy_cgroup))
}

/// `socket_sendmsg(sock, msg, size)`.
#[inline(always)]
pub fn send(context: &LsmContext) -> Result<(), Refused> {
    let socket: u64 = context.arg(0);
    carry(socket)
}

/// `file_receive(file)`: by SCM_RIGHTS, pidfd_getfd and the like.
#[inline(always)]
pub fn receive(context: &LsmContext) -> Result<(), Refused> {
    const S_IFMT: u16 = 0o170_000;
    const S_IFSOCK: u16 = 0o140_000;
    const S_IFCHR: u16 = 0o020_000;
    /// Major 10, minor 200 (Documentation/admin-guide/devices.txt), as the kernel keeps device numbers.
    const TUN: u32 = (10 << 20) | 200;
    let file: u64 = context.arg(0);
    let inode: u64 = load(file, at(offset_of!(KernelOffsets, file_inode)));
    let mode: u16 = load(inode, at(offset_of!(KernelOffsets, inode_mode)));
    match mode & S_IFMT {
        S_IFSOCK => carry(load(file, at(offset_of!(KernelOffsets, file_private)))),
        S_IFCHR if load::<u32>(inode, at(offset_of!(KernelOffsets, inode_device))) == TUN => tunnel(),
        _ => Ok(()),
    }
}

/// `tun_dev_create()` and `tun_dev_open(security)`.
#[inline(always)]
pub fn tunnel() -> Result<(), Refused> {
    decide::tunnel(&Maker).map_err(|refusal| plain(refusal, 0))
}

#[inline(always)]
fn carry(socket: u64) -> Result<(), Refused> {
    let sk: u64 = load(socket, at(offset_of!(KernelOffsets, socket_sk)));
    if sk == 0 {
        return Ok(());
    }
    let family = u32::from(load::<u16>(sk, at(offset_of!(KernelOffsets, sk_family))));
    // By far most of what is sent.
    if family == family::UNIX {
        return Ok(());
    }
    let port = u32::from(u16::from_be(load(sk, at(offset_of!(KernelOffsets, sk_dport)))));
    let address: Address = match family {
        family::INET => [0, 0, V4_MAPPED, load(sk, at(offset_of!(KernelOffsets, sk_daddr)))],
        family::INET6 => load(sk, at(offset_of!(KernelOffsets, sk_daddr6))),
        _ => [0; 4],
    };
    let kind = u32::from(load::<u16>(sk, at(offset_of!(KernelOffsets, sk_type))));
    let protocol = u32::from(load::<u16>(sk, at(offset_of!(KernelOffsets, sk_protocol))));
    let found = Found { family, kind, protocol, address, port };
    decide::carry(&Maker, &found).map_err(|refusal| Refused { refusal, address, port, protocol })
}

#[inline(always)]
fn plain(refusal: Refusal, protocol: u32) -> Refused {
    Refused { refusal, address: [0; 4], port: 0, protocol }
}

/// One of [`KERNEL_OFFSETS`]; volatile keeps the compiler from folding the zeroes that stand in the source.
#[inline(always)]
fn at(member: usize) -> u32 {
    // SAFETY: `member` is the offset of one of the read-only static's u32 members.
    unsafe { read_volatile((&raw const KERNEL_OFFSETS).byte_add(member).cast()) }
}

/// A value of the kernel's memory; zeroes where it cannot be read.
#[inline(always)]
fn load<T: Copy + Default>(base: u64, offset: u32) -> T {
    let mut value = T::default();
    let from = base.wrapping_add(u64::from(offset)) as *const _;
    // SAFETY: the destination is one T of this frame, plain integers; the helper checks the source.
    let result = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from) };
    if result == 0 { value } else { T::default() }
}
