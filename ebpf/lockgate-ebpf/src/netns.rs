//! The network namespace cookie, where the kernel gives one.

use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use core::ffi::c_void;

/// 1 when sock_ops programs may ask for it (5.15); written before load. Without it all flows have
/// namespace 0, which is right as long as the only listeners live in one namespace: connects of
/// another one are refused by the listener check.
#[unsafe(no_mangle)]
static HAVE_NETNS_COOKIE: u8 = 1;

/// The cookie of the context's namespace, or 0.
///
/// # Safety
/// `context` is the program's own sock_addr or sock_ops context.
#[inline(always)]
pub unsafe fn cookie(context: *mut c_void) -> u64 {
    // SAFETY: a read-only static that the loader sets; volatile keeps the compiler from folding it.
    if unsafe { core::ptr::read_volatile(&raw const HAVE_NETNS_COOKIE) } == 1 {
        // SAFETY: the caller's promise.
        unsafe { bpf_get_netns_cookie(context.cast()) }
    } else {
        0
    }
}
