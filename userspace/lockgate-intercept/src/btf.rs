//! Offsets of members of kernel structures in the running kernel, from its BTF.
//!
//! rustc emits no CO-RE relocations and aya shows no members, so the numbers that the programs
//! need are looked up here. Format: Documentation/bpf/btf.rst of the kernel.

use crate::error::InterceptError;
use lockgate_ebpf_common::{Config, KernelOffsets};
use std::sync::OnceLock;

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
        Self::read(&vmlinux()?).ok_or_else(|| InterceptError::Btf {
            what: "task_struct has no readable start_boottime and group_leader in BTF".to_owned(),
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

fn vmlinux() -> Result<Vec<u8>, InterceptError> {
    let missing = |what: String| InterceptError::Btf { what };
    let size = std::fs::metadata(VMLINUX).map_err(|error| missing(format!("{VMLINUX}: {error}")))?.len();
    if size > MAX_BYTES {
        return Err(missing(format!("{VMLINUX} has {size} bytes")));
    }
    std::fs::read(VMLINUX).map_err(|error| missing(format!("{VMLINUX}: {error}")))
}

/// What the LSM programs read of sockets and files; the name of what is missing otherwise.
pub(crate) fn kernel_offsets() -> Result<KernelOffsets, String> {
    // The running kernel's stay what they are, and BTF is megabytes.
    static OFFSETS: OnceLock<Result<KernelOffsets, String>> = OnceLock::new();
    OFFSETS.get_or_init(read_kernel_offsets).clone()
}

fn read_kernel_offsets() -> Result<KernelOffsets, String> {
    let bytes = vmlinux().map_err(|error| error.to_string())?;
    let btf = Btf::parse(&bytes).ok_or_else(|| format!("{VMLINUX} cannot be read"))?;
    let of = |record: &str, member: &str| {
        btf.member(record, &[member]).ok_or_else(|| format!("{record} has no {member} in BTF"))
    };
    Ok(KernelOffsets {
        file_inode: of("file", "f_inode")?,
        file_private: of("file", "private_data")?,
        inode_mode: of("inode", "i_mode")?,
        inode_device: of("inode", "i_rdev")?,
        socket_sk: of("socket", "sk")?,
        sk_type: of("sock", "sk_type")?,
        sk_protocol: of("sock", "sk_protocol")?,
        // sock_common is the first member of sock.
        sk_family: of("sock_common", "skc_family")?,
        sk_dport: of("sock_common", "skc_dport")?,
        sk_daddr: of("sock_common", "skc_daddr")?,
        sk_daddr6: of("sock_common", "skc_v6_daddr")?,
    })
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; the first has number 1.
    places: Vec<usize>,
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
        let mut btf = Self { types: section(8)?, strings: section(16)?, places: Vec::new() };
        let mut at = 0;
        while at < btf.types.len() {
            btf.places.push(at);
            let (kind, count, _) = btf.info(at)?;
            at += 12 + body_size(kind, count);
        }
        Some(btf)
    }

    /// Kind, number of members, and whether offsets carry the size of bit fields.
    fn info(&self, at: usize) -> Option<(u32, usize, bool)> {
        let info = u32_at(self.types, at + 4)?;
        Some(((info >> 24) & 0x1f, (info & 0xffff) as usize, info >> 31 == 1))
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.get(..rest.iter().position(|byte| *byte == 0)?)
    }

    /// Byte offset of the first member of `record` that bears one of `names`, also inside anonymous members.
    fn member(&self, record: &str, names: &[&str]) -> Option<u32> {
        /// Anonymous members within anonymous members; the kernel's deepest are three.
        const DEPTH: u32 = 6;
        let is_it = |at: &&usize| {
            matches!(self.info(**at), Some((kind::STRUCT, ..)))
                && u32_at(self.types, **at).and_then(|name| self.name(name)) == Some(record.as_bytes())
        };
        let at = *self.places.iter().find(is_it)?;
        self.member_bits(at, names, DEPTH).map(|bits| bits / 8)
    }

    fn member_bits(&self, at: usize, names: &[&str], depth: u32) -> Option<u32> {
        let (kind::STRUCT | kind::UNION, count, bitfields) = self.info(at)? else { return None };
        (0..count).find_map(|index| {
            let member = at + 12 + index * 12;
            let bits = u32_at(self.types, member + 8)?;
            let bits = if bitfields { bits & 0x00ff_ffff } else { bits };
            match self.name(u32_at(self.types, member)?)? {
                [] if depth > 0 => {
                    let inner =
                        *self.places.get((u32_at(self.types, member + 4)? as usize).checked_sub(1)?)?;
                    Some(bits + self.member_bits(inner, names, depth - 1)?)
                }
                name => names.iter().any(|wanted| wanted.as_bytes() == name).then_some(bits),
            }
        })
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
    fn members_are_found_inside_anonymous_ones() {
        let strings = b"\0sock\0first\0inner\0";
        // An int, then `struct { int inner @ 32 }`, then `struct sock { int first; struct {…} @ 64 }`.
        let mut types: Vec<u32> = vec![0, 1 << 24, 4, 32];
        types.extend([0, (4 << 24) | 1, 8, 12, 1, 32]);
        types.extend([1, (4 << 24) | 2, 16, 6, 1, 0, 0, 2, 64]);
        let bytes: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut all = 0xeb9fu16.to_ne_bytes().to_vec();
        all.extend([1, 0]);
        for word in [24, 0, bytes.len() as u32, bytes.len() as u32, strings.len() as u32] {
            all.extend(word.to_ne_bytes());
        }
        all.extend(bytes);
        all.extend(strings);
        let btf = Btf::parse(&all).unwrap();
        assert_eq!(btf.member("sock", &["first"]), Some(0));
        assert_eq!(btf.member("sock", &["inner"]), Some(12));
        assert_eq!(btf.member("sock", &["other"]), None);
    }

    #[test]
    fn the_running_kernel_tells_every_offset() {
        let offsets = kernel_offsets().unwrap();
        assert!(
            offsets.sk_dport < offsets.sk_daddr6 && offsets.sk_type != offsets.sk_protocol,
            "{offsets:?}"
        );
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
