//! The embedded eBPF object: loading it, and finding out by loading what this kernel allows.

use crate::{
    abi::Raw,
    btf::kernel_offsets,
    error::{InterceptError, chain},
};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Program, ProgramFd},
};
use lockgate_ebpf_common::map;
use rustix::fd::{AsFd as _, OwnedFd};
use std::{collections::HashMap, path::Path};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lockgate.bpf.o"));

/// One program: its name in the object, the attach type of its link, what it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    /// `enum bpf_attach_type` (linux/bpf.h).
    pub(crate) attach_type: u32,
    pub(crate) job: &'static str,
}

/// In the order of attachment: redirection starts when everything it needs is in place.
pub(crate) const PROGRAMS: [Spec; 10] = [
    Spec { name: "lg_sock_ops", attach_type: 3, job: "carries the flow to the accepted socket" },
    Spec { name: "lg_getpeername4", attach_type: 29, job: "shows the client its real peer (IPv4)" },
    Spec { name: "lg_getpeername6", attach_type: 30, job: "shows the client its real peer (IPv6)" },
    Spec { name: "lg_bind4", attach_type: 8, job: "keeps the listener's port (IPv4)" },
    Spec { name: "lg_bind6", attach_type: 9, job: "keeps the listener's port (IPv6)" },
    Spec { name: "lg_sock_create", attach_type: 2, job: "tags sockets, refuses raw ones" },
    Spec { name: "lg_sendmsg4", attach_type: 14, job: "refuses datagrams to protected targets (IPv4)" },
    Spec { name: "lg_sendmsg6", attach_type: 15, job: "refuses datagrams to protected targets (IPv6)" },
    Spec { name: "lg_connect4", attach_type: 10, job: "redirects connect() (IPv4)" },
    Spec { name: "lg_connect6", attach_type: 11, job: "redirects connect() (IPv6)" },
];

/// A program that a kernel may refuse without capture being lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Belt {
    pub(crate) name: &'static str,
    /// The LSM hook, of a program of that kind.
    hook: Option<&'static str>,
}

pub(crate) const PACKET: Belt = Belt { name: "lg_egress", hook: None };
pub(crate) const ANSWERS: Belt = Belt { name: "lg_answers", hook: None };
pub(crate) const INTERFACE: Belt = Belt { name: "lg_interface", hook: None };
pub(crate) const INTERFACE_L3: Belt = Belt { name: "lg_interface_l3", hook: None };
pub(crate) const LSM: [Belt; 5] = [
    Belt { name: "lg_lsm_create", hook: Some("socket_create") },
    Belt { name: "lg_lsm_send", hook: Some("socket_sendmsg") },
    Belt { name: "lg_lsm_receive", hook: Some("file_receive") },
    Belt { name: "lg_lsm_tun_create", hook: Some("tun_dev_create") },
    Belt { name: "lg_lsm_tun_open", hook: Some("tun_dev_open") },
];

/// All of them.
const BELTS: [Belt; 9] = [PACKET, ANSWERS, INTERFACE, INTERFACE_L3, LSM[0], LSM[1], LSM[2], LSM[3], LSM[4]];

/// What the programs may use on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// `bpf_set_retval` in these programs (5.18).
    pub(crate) set_retval: bool,
    /// The network namespace cookie in sock_ops (5.15).
    pub(crate) netns_cookie: bool,
}

impl Features {
    /// From the newest kernel down; the first set that loads is used.
    const LADDER: [Self; 3] = [
        Self { set_retval: true, netns_cookie: true },
        Self { set_retval: false, netns_cookie: true },
        Self { set_retval: false, netns_cookie: false },
    ];
}

/// The loaded object.
pub(crate) struct Object {
    pub(crate) ebpf: Ebpf,
    pub(crate) features: Features,
    /// Why a belt is not loaded.
    refused: HashMap<&'static str, String>,
}

impl Object {
    /// Loads all programs with their maps pinned in (or taken from) `maps`.
    pub(crate) fn load(maps: &Path) -> Result<Self, InterceptError> {
        raise_memlock();
        let mut first_error = None;
        for features in Features::LADDER {
            match try_load(Some(maps), features) {
                Ok(mut ebpf) => {
                    let refused = load_belts(&mut ebpf);
                    return Ok(Self { ebpf, features, refused });
                }
                // The newest set's refusal is the one worth telling.
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        Err(InterceptError::Load { reason: first_error.unwrap_or_default() })
    }

    /// The descriptor of a belt's program, or why there is none.
    pub(crate) fn belt(&self, belt: Belt) -> Result<OwnedFd, String> {
        if let Some(why) = self.refused.get(belt.name) {
            return Err(format!("{}: {why}", belt.name));
        }
        let program =
            self.ebpf.program(belt.name).ok_or_else(|| format!("{} is not in the object", belt.name))?;
        let fd = program_fd(program).map_err(|error| chain(&error))?;
        fd.as_fd().try_clone_to_owned().map_err(|error| error.to_string())
    }

    /// The descriptor of one loaded program.
    pub(crate) fn program(&self, spec: Spec) -> Result<&ProgramFd, InterceptError> {
        let missing = |reason: String| InterceptError::Load { reason: format!("{}: {reason}", spec.name) };
        let program = self.ebpf.program(spec.name).ok_or_else(|| missing("not in the object".to_owned()))?;
        program_fd(program).map_err(|error| missing(chain(&error)))
    }
}

/// Before 5.11 maps count as locked memory. Where the limit cannot be raised, loading says so itself.
fn raise_memlock() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

fn program_fd(program: &Program) -> Result<&ProgramFd, aya::programs::ProgramError> {
    program.fd()
}

fn load_belts(ebpf: &mut Ebpf) -> HashMap<&'static str, String> {
    let btf = Btf::from_sys_fs().map_err(|error| chain(&error));
    let offsets = kernel_offsets().map(drop);
    let mut load = |belt: &Belt| {
        let program = ebpf.program_mut(belt.name).ok_or_else(|| "not in the object".to_owned())?;
        match (program, belt.hook) {
            (Program::Lsm(program), Some(hook)) => {
                offsets.clone()?;
                program.load(hook, btf.as_ref().map_err(Clone::clone)?).map_err(|error| brief(&error))
            }
            (program, _) => load_program(program),
        }
    };
    BELTS.into_iter().filter_map(|belt| Some((belt.name, load(&belt).err()?))).collect()
}

/// An error without the verifier's log, which can be as long as the program.
fn brief(error: &dyn std::error::Error) -> String {
    chain(error).split(". Verifier output").next().unwrap_or_default().to_owned()
}

fn try_load(maps: Option<&Path>, features: Features) -> Result<Ebpf, String> {
    let (retval, cookie) = (u8::from(features.set_retval), u8::from(features.netns_cookie));
    // Zeroes where the kernel does not tell: then the programs that use them are not loaded.
    let offsets = Raw(kernel_offsets().unwrap_or_default());
    let mut loader = EbpfLoader::new();
    loader.override_global("KERNEL_OFFSETS", &offsets, true);
    loader.override_global("HAVE_SET_RETVAL", &retval, true).override_global(
        "HAVE_NETNS_COOKIE",
        &cookie,
        true,
    );
    if let Some(maps) = maps {
        for name in map::ALL {
            loader.map_pin_path(name, maps.join(name));
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| chain(&error))?;
    for spec in PROGRAMS {
        let program =
            ebpf.program_mut(spec.name).ok_or_else(|| format!("{} is not in the object", spec.name))?;
        load_program(program).map_err(|error| format!("{}: {error}", spec.name))?;
    }
    Ok(ebpf)
}

fn load_program(program: &mut Program) -> Result<(), String> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        other => return Err(format!("unexpected program type {:?}", other.prog_type())),
    }
    .map_err(|error| chain(&error))
}

/// Loads every program on its own, without pins and without attaching: what `doctor` reports.
pub(crate) fn try_programs() -> Vec<(Spec, Result<Features, String>)> {
    raise_memlock();
    PROGRAMS.iter().map(|spec| (*spec, try_program(*spec))).collect()
}

/// What loading one program cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its name in the object.
    pub program: &'static str,
    /// Instructions that the verifier walked, over all paths; none where the kernel does not tell (before 5.16).
    pub instructions: Option<u32>,
}

/// Loads all programs, without pins and without attaching: what that cost the verifier, of those that this kernel takes.
///
/// Every start of an agent pays it, and a kernel refuses a program of more than a million.
pub fn verified() -> Result<Vec<Verified>, InterceptError> {
    raise_memlock();
    let mut first_error = None;
    for features in Features::LADDER {
        match try_load(None, features) {
            Ok(mut ebpf) => {
                let refused = load_belts(&mut ebpf);
                let belts = BELTS.into_iter().map(|belt| belt.name);
                let names = PROGRAMS.iter().map(|spec| spec.name).chain(belts);
                let loaded = names.filter(|name| !refused.contains_key(name));
                return loaded.map(|name| verified_one(&ebpf, name)).collect();
            }
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    Err(InterceptError::Load { reason: first_error.unwrap_or_default() })
}

fn verified_one(ebpf: &Ebpf, name: &'static str) -> Result<Verified, InterceptError> {
    let failed = |reason: String| InterceptError::Load { reason: format!("{name}: {reason}") };
    let program = ebpf.program(name).ok_or_else(|| failed("not in the object".to_owned()))?;
    let info = program.info().map_err(|error| failed(chain(&error)))?;
    Ok(Verified { program: name, instructions: info.verified_instruction_count() })
}

fn try_program(spec: Spec) -> Result<Features, String> {
    let mut first_error = None;
    for features in Features::LADDER {
        let (retval, cookie) = (u8::from(features.set_retval), u8::from(features.netns_cookie));
        let result = EbpfLoader::new()
            .override_global("HAVE_SET_RETVAL", &retval, true)
            .override_global("HAVE_NETNS_COOKIE", &cookie, true)
            .load(OBJECT)
            .map_err(|error| chain(&error))
            .and_then(|mut ebpf| {
                let program = ebpf.program_mut(spec.name).ok_or_else(|| "not in the object".to_owned())?;
                load_program(program)
            });
        match result {
            Ok(()) => return Ok(features),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    Err(first_error.unwrap_or_default())
}
