//! Offsets of `struct task_struct` members in the running kernel, from its BTF.
//!
//! rustc emits no CO-RE relocations and aya shows no members, so the two numbers that the programs
//! need are looked up here. Format: Documentation/bpf/btf.rst of the kernel.

use crate::error::InterceptError;
use lockgate_ebpf_common::Config;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// A distribution kernel's BTF is 5 to 15 MB; more is not BTF.
const MAX_BYTES: u64 = 128 << 20;

/// Where the start time is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskOffsets {
    pub(crate) start_boottime: u32,
    pub(crate) group_leader: u32,
}

impl TaskOffsets {
    /// Of the running kernel.
    pub(crate) fn of_running_kernel() -> Result<Self, InterceptError> {
        let missing = |what: String| InterceptError::Btf { what };
        let size = std::fs::metadata(VMLINUX).map_err(|error| missing(format!("{VMLINUX}: {error}")))?.len();
        if size > MAX_BYTES {
            return Err(missing(format!("{VMLINUX} has {size} bytes")));
        }
        let bytes = std::fs::read(VMLINUX).map_err(|error| missing(format!("{VMLINUX}: {error}")))?;
        Self::read(&bytes).ok_or_else(|| {
            missing("task_struct has no readable start_boottime and group_leader in BTF".to_owned())
        })
    }

    /// From BTF bytes; `None` when they are not what the kernel documents.
    fn read(bytes: &[u8]) -> Option<Self> {
        let btf = Btf::parse(bytes)?;
        // Before 5.5 the member was called real_start_time.
        let start = btf.member("task_struct", &["start_boottime", "real_start_time"])?;
        let leader = btf.member("task_struct", &["group_leader"])?;
        Some(Self { start_boottime: start, group_leader: leader })
    }

    /// Writes them into the configuration.
    pub(crate) fn put_into(self, config: &mut Config) {
        config.start_boottime_offset = self.start_boottime;
        config.group_leader_offset = self.group_leader;
    }
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// `BTF_KIND_*`.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        const MAGIC: u16 = 0xeb9f;
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = u32_at(bytes, 4)? as usize;
        let section = |offset: usize| {
            let start = header.checked_add(u32_at(bytes, offset)? as usize)?;
            bytes.get(start..start.checked_add(u32_at(bytes, offset + 4)? as usize)?)
        };
        Some(Self { types: section(8)?, strings: section(16)? })
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.get(..rest.iter().position(|byte| *byte == 0)?)
    }

    /// Byte offset of the first member of `record` that bears one of `names`.
    fn member(&self, record: &str, names: &[&str]) -> Option<u32> {
        let mut at = 0;
        while at < self.types.len() {
            let info = u32_at(self.types, at + 4)?;
            let (kind, count, bitfields) = ((info >> 24) & 0x1f, (info & 0xffff) as usize, info >> 31 == 1);
            let body = at + 12;
            if kind == kind::STRUCT && self.name(u32_at(self.types, at)?)? == record.as_bytes() {
                return (0..count)
                    .find_map(|index| self.matching_member(body + index * 12, names, bitfields));
            }
            at = body + body_size(kind, count);
        }
        None
    }

    fn matching_member(&self, at: usize, names: &[&str], bitfields: bool) -> Option<u32> {
        let name = self.name(u32_at(self.types, at)?)?;
        let bits = u32_at(self.types, at + 8)?;
        let bits = if bitfields { bits & 0x00ff_ffff } else { bits };
        names.iter().any(|wanted| wanted.as_bytes() == name).then_some(bits / 8)
    }
}

/// Bytes that follow the 12 common ones.
fn body_size(kind: u32, count: usize) -> usize {
    match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => count * 12,
        kind::ENUM | kind::FUNC_PROTO => count * 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two types: an int, then `struct task_struct { group_leader @ 64 bits; start_boottime @ 256 bits }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0task_struct\0group_leader\0start_boottime\0";
        let mut types: Vec<u32> = vec![1, 1 << 24, 8, 64];
        types.extend([5, (4 << 24) | 2, 40]);
        types.extend([17, 1, 64]);
        types.extend([30, 1, 256]);
        let type_bytes: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = 0xeb9fu16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, type_bytes.len() as u32, type_bytes.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(type_bytes);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_behind_other_types() {
        assert_eq!(TaskOffsets::read(&sample()), Some(TaskOffsets { start_boottime: 32, group_leader: 8 }));
    }

    #[test]
    fn truncated_or_foreign_bytes_are_refused_without_a_panic() {
        let whole = sample();
        for length in 0..whole.len() {
            assert_eq!(TaskOffsets::read(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(TaskOffsets::read(b"not btf at all, but long enough"), None);
    }
}
