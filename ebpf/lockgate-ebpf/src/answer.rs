//! `cgroup_skb` ingress: the addresses in a name server's answer about a target's name are protected, for the cgroup that
//! asked, before the answer is heard.
//!
//! For that cgroup alone: a job may have made the answer up, and must not send others where they did not mean to go. Only
//! what the socket asked for counts, or somebody else could send it. The program sits on governed cgroups, and on the root
//! where users are governed; whoever is not governed hears what he hears.

use crate::{
    dns::{self, MAX_MESSAGES, MAX_RECORDS, Question, Record},
    filter::{Fate, Skb},
    maps::{ASKED, CAPTURE_CG, CAPTURE_UID, HEARD, KNOWN, NAMES, count, registered, stored},
    report,
};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_get_socket_uid, bpf_ktime_get_boot_ns, bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id},
};
use core::ptr::read_volatile;
use lockgate_ebpf_common::{
    Address, Heard, HeardKey, MAX_CGROUP_LEVEL, MAX_NAME_PORTS, Name, Refusal, V4_MAPPED,
    capture::{EXEMPT, PENDING, REGISTERED},
    heard, stat, target,
};

/// Learns what there is to learn; an answer of which that is not possible is lost on its way.
#[inline(always)]
pub fn heard(skb: &Skb) -> Fate {
    let Some(envelope) = dns::envelope(skb) else { return Fate::Pass };
    let messages = dns::messages(skb, &envelope);
    let mut place = 0;
    while place < MAX_MESSAGES {
        if let Some(at) = messages[place]
            && lg_learn(skb.0, at) == LOST
        {
            report::dropped(Refusal::Answer, skb.cgroup(), &envelope.source, heard::NAME_SERVER);
            return Fate::Drop;
        }
        place += 1;
    }
    Fate::Pass
}

/// What [`lg_learn`] says of a message that must not be heard.
const LOST: u32 = 1;

/// Learns from the message at `at`. A global function: the verifier looks at it once, not once for each of its callers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lg_learn(context: *mut __sk_buff, at: u32) -> u32 {
    let skb = &Skb(context);
    let Some(question) = dns::question(skb, at) else { return 0 };
    let Some(name) = NAMES.get_ptr(&question.hash) else { return 0 };
    let Some(envelope) = dns::envelope(skb) else { return 0 };
    if !skb.is_governed() {
        return 0;
    }
    if !skb.asked(&envelope.source, envelope.stream) {
        count(stat::UNASKED);
        return 0;
    }
    // SAFETY: a value of the map; one that is being replaced is old or new in each of its words.
    learn_all(skb, &question, unsafe { &*name })
}

#[inline(always)]
fn learn_all(skb: &Skb, question: &Question, name: &Name) -> u32 {
    let cgroup = skb.cgroup();
    let mut at = question.at;
    let mut number = 0;
    while number < MAX_RECORDS {
        if number >= question.records {
            return 0;
        }
        let Some(Record { address, ttl, next }) = dns::record(skb, at) else { break };
        if let Some(address) = address
            && !protect(cgroup, question.hash, name, &address, ttl)
        {
            break;
        }
        at = next;
        number += 1;
    }
    LOST
}

/// On every port on which the name is a target's; false when there is no room.
#[inline(always)]
fn protect(cgroup: u64, hash: u64, name: &Name, address: &Address, ttl: u32) -> bool {
    let minutes = (ttl / 60 + 1).min(heard::MAX_TTL_MINUTES);
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_boot_ns() } / 60_000_000_000;
    let fact = Heard { name: hash, minute: now + u64::from(minutes) };
    let mut place = 0;
    while place < MAX_NAME_PORTS {
        let port = name.ports[place];
        if port == 0 {
            return true;
        }
        if !learn(&HeardKey { cgroup, address: *address, port, reserved: 0 }, fact) {
            return false;
        }
        place += 1;
    }
    true
}

#[inline(always)]
fn learn(key: &HeardKey, fact: Heard) -> bool {
    // Configured: it is what it is, whoever says what.
    if registered(&key.address, key.port) & target::EVERYWHERE != 0 {
        return true;
    }
    if let Some(known) = HEARD.get_ptr_mut(key) {
        // SAFETY: a value of the map; two answers at once leave the words of either.
        unsafe {
            (*known).name = fact.name;
            // An answer with a short time to live takes nothing from an earlier one.
            (*known).minute = (*known).minute.max(fact.minute);
        }
        return true;
    }
    let sum = KNOWN.get_ptr_mut(&key.cgroup);
    // SAFETY: a value of the map; two CPUs at once may let in one more than the bound.
    if sum.is_some_and(|sum| unsafe { *sum } >= heard::MAX_PER_CGROUP) || HEARD.insert(key, &fact, 0).is_err() {
        return false;
    }
    match sum {
        // SAFETY: as above.
        Some(sum) => unsafe { *sum += 1 },
        // As large as HEARD: there is room.
        None => drop(KNOWN.insert(&key.cgroup, &1, 0)),
    }
    count(stat::LEARNED);
    true
}

impl Skb {
    /// Whether the socket's owner is governed, as `task::capture` says it of a task.
    #[inline(always)]
    fn is_governed(&self) -> bool {
        let nearest = self.nearest();
        let capture = if nearest == 0 || nearest & EXEMPT != 0 { self.of_uid() } else { nearest };
        capture & (REGISTERED | PENDING) != 0
    }

    /// What the nearest governed cgroup says; 0 when there is none.
    #[inline(always)]
    fn nearest(&self) -> u32 {
        let own = self.cgroup();
        let itself = of_cgroup(own);
        if itself != 0 {
            // Its children wait, not what has always lived in it.
            return if itself & PENDING != 0 { 0 } else { itself };
        }
        let mut nearest = 0;
        let mut level = 1;
        while level <= MAX_CGROUP_LEVEL {
            // SAFETY: the program's own context; 0 below the socket's cgroup.
            let id = unsafe { bpf_skb_ancestor_cgroup_id(self.0, level) };
            if id == 0 || id == own {
                return nearest;
            }
            let capture = of_cgroup(id);
            if capture != 0 {
                nearest = capture;
            }
            level += 1;
        }
        nearest
    }

    #[inline(always)]
    fn of_uid(&self) -> u32 {
        // SAFETY: the program's own context.
        let uid = unsafe { bpf_get_socket_uid(self.0) };
        // SAFETY: a value of the map, one word.
        CAPTURE_UID.get_ptr(&uid).map_or(0, |value| unsafe { *value })
    }

    /// Whether the socket has sent something to that server, or is connected to it. A stream has to have been begun here.
    #[inline(always)]
    fn asked(&self, server: &Address, stream: bool) -> bool {
        // SAFETY: readable in every cgroup_skb program.
        let sk: *mut bpf_sock = unsafe { read_volatile(&raw const (*self.0).__bindgen_anon_2.sk) };
        if sk.is_null() {
            return false;
        }
        // SAFETY: checked for null.
        let sk = unsafe { bpf_sk_fullsock(sk) };
        if sk.is_null() {
            return false;
        }
        // SAFETY: checked for null.
        if unsafe { stored(&ASKED, sk) }.is_some_and(|asked| asked.servers.contains(server)) {
            return true;
        }
        !stream && is_connected(sk, server)
    }
}

/// A socket that was connected before anybody was governed asked that server and no other.
#[inline(always)]
fn is_connected(sk: *mut bpf_sock, server: &Address) -> bool {
    const AF_INET: u32 = 2;
    // All before anything is decided: LLVM would otherwise choose between their offsets, which the verifier refuses.
    // SAFETY: a full socket; each field is readable by itself.
    let (port, family, v4, v6) = unsafe {
        (
            u32::from(u16::from_be(read_volatile(&raw const (*sk).dst_port))),
            read_volatile(&raw const (*sk).family),
            read_volatile(&raw const (*sk).dst_ip4),
            [
                read_volatile(&raw const (*sk).dst_ip6[0]),
                read_volatile(&raw const (*sk).dst_ip6[1]),
                read_volatile(&raw const (*sk).dst_ip6[2]),
                read_volatile(&raw const (*sk).dst_ip6[3]),
            ],
        )
    };
    let peer = if family == AF_INET { [0, 0, V4_MAPPED, v4] } else { v6 };
    port == heard::NAME_SERVER && peer == *server
}

#[inline(always)]
fn of_cgroup(cgroup: u64) -> u32 {
    // SAFETY: a value of the map, one word.
    CAPTURE_CG.get_ptr(&cgroup).map_or(0, |value| unsafe { *value })
}
