//! `cgroup_skb` ingress of a governed cgroup: the addresses in a name server's answer about a target's name are protected
//! before the answer is heard.

use crate::{
    dns::{self, MAX_RECORDS, Record},
    filter::{Fate, Skb},
    maps::{KNOWN, NAMES, TARGETS, count, registered},
    report,
};
use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, maps::lpm_trie::Key};
use lockgate_ebpf_common::{
    Address, MAX_NAME_PORTS, Name, Refusal, TARGET_EXACT_BITS, TargetKey, learned, stat, target,
};

/// Learns what there is to learn; an answer of which that is not possible is lost on its way.
#[inline(always)]
pub fn heard(skb: &Skb) -> Fate {
    let Some(question) = dns::payload(skb).and_then(|at| dns::question(skb, at)) else { return Fate::Pass };
    let Some(name) = NAMES.get_ptr(&question.hash) else { return Fate::Pass };
    // SAFETY: a value of the map; one that is being replaced is old or new in each of its words.
    let name = unsafe { &*name };
    let mut at = question.at;
    let mut number = 0;
    while number < MAX_RECORDS {
        if number >= question.records {
            return Fate::Pass;
        }
        let Some(Record { address, ttl, next }) = dns::record(skb, at) else { break };
        if let Some(address) = address
            && !protect(name, &address, ttl)
        {
            break;
        }
        at = next;
        number += 1;
    }
    report::dropped(Refusal::Answer, 0, &[0; 4], 0);
    Fate::Drop
}

/// On every port on which the name is a target's; false when there is no room.
#[inline(always)]
fn protect(name: &Name, address: &Address, ttl: u32) -> bool {
    let minutes = (ttl / 60 + 1).min(learned::MAX_TTL_MINUTES);
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_boot_ns() } / 60_000_000_000;
    let value = learned::value(name.number, (now as u32).wrapping_add(minutes) as u16);
    let mut place = 0;
    while place < MAX_NAME_PORTS {
        let port = name.ports[place];
        if port == 0 {
            return true;
        }
        if !learn(address, port, value) {
            return false;
        }
        place += 1;
    }
    true
}

#[inline(always)]
fn learn(address: &Address, port: u32, value: u32) -> bool {
    let known = registered(address, port);
    // Configured: it stays, whoever says what.
    if known & target::EVERYWHERE != 0 && known & target::LEARNED == 0 {
        return true;
    }
    let fresh = known & target::LEARNED == 0;
    // Most answers come again within the same minute.
    if known == value {
        return true;
    }
    let Some(sum) = KNOWN.get_ptr_mut(0) else { return false };
    // SAFETY: a value of the map; two CPUs at once may let in one more than the bound.
    if fresh && unsafe { *sum } >= learned::MAX {
        return false;
    }
    let key = Key::new(TARGET_EXACT_BITS, TargetKey::new(address, port));
    if TARGETS.insert(&key, value, 0).is_err() {
        return false;
    }
    if fresh {
        // SAFETY: as above.
        unsafe { *sum += 1 };
    }
    count(stat::LEARNED);
    true
}
