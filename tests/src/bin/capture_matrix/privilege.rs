//! Giving privileges up, as a container engine or a runner does before the job starts.

use anyhow::{Context as _, Result};
use lockgate_tests::matrix::{Mode, USER};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// What docker, containerd and podman leave to root in a container unless told otherwise.
const CONTAINER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// For the whole process; before any other thread.
pub(crate) fn reduce(mode: Mode) -> Result<()> {
    match mode {
        Mode::Root => Ok(()),
        Mode::Container => {
            for capability in CapabilitySet::all().difference(CONTAINER).iter() {
                // One that this kernel does not know is in no set.
                if capability_is_in_bounding_set(capability).unwrap_or(false) {
                    remove_capability_from_bounding_set(capability)
                        .with_context(|| format!("drop {capability:?}"))?;
                }
            }
            let sets = CapabilitySets {
                effective: CONTAINER,
                permitted: CONTAINER,
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, sets).context("set capabilities")
        }
        Mode::User => {
            setgroups(&[])?;
            let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
            setresgid(gid, gid, gid)?;
            setresuid(uid, uid, uid).context("become a user")
        }
    }
}
