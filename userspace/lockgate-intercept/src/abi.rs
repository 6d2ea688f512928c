//! The kernel ABI's types as aya wants them: plain old data in a local wrapper.

use lockgate_ebpf_common::{
    Config, EgressKey, Flow, Heard, HeardKey, KernelOffsets, Name, Seen, Sightings, TargetKey,
};

/// A value that is copied to and from the kernel byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Raw<T>(pub(crate) T);

// SAFETY: repr(C) integers without padding (lockgate-ebpf-common asserts the sizes); any bits are valid.
unsafe impl aya::Pod for Raw<Config> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Flow> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<TargetKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<KernelOffsets> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<EgressKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Seen> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Sightings> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Name> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<HeardKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Heard> {}
