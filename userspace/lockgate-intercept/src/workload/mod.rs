//! From a flow to the workload behind it.
//!
//! The kernel's facts (uid, cgroup, start time) hold whether the process still lives or not. What
//! /proc adds is believed only if the process that was read is the one that connected: a pidfd is
//! opened, the start time compared before and after, and anything read in between is dropped when
//! they differ. Nothing of the environment becomes identity; CI variables stay `claimed`.

mod ci;
mod exe;
mod placement;
mod process;
mod unit;
mod user;
mod witness;

use crate::cgroup::{CgroupId, Tree};
use lockgate_model::{
    flow::Flow,
    workload::{Assurance, IdentityKind, Process, Unit, Workload},
};
use placement::Placement;
pub(crate) use process::stat_start_ticks;
use process::{Live, Processes};
use user::Users;
pub use witness::ProcWitness;

/// Reads workloads. What it remembers is checked against the process each time.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    processes: Processes,
    users: Users,
}

impl Reader {
    /// The workload behind a flow; never fails: what cannot be read is absent.
    pub(crate) fn read(&self, tree: &Tree, flow: &Flow) -> Workload {
        let facts = &flow.process;
        let cgroup = tree.path(CgroupId(facts.cgroup_id));
        let place = |path: &str| Placement::of_path(path, tree.root_owned_levels(path));
        let mut placement = cgroup.as_deref().map(place).unwrap_or_default();
        // On a hybrid host the container may be visible in a version-1 hierarchy only.
        let live = self.processes.read(facts, cgroup.is_some() && placement.leaves_open());
        if let Some(live) = &live {
            placement = placement.or_from_v1(&live.v1_cgroups);
        }
        if let Some(unit) = placement.unit.as_mut().filter(|unit| !unit.user_unit) {
            unit.invocation_id = unit::invocation_id(&unit.name);
        }
        let Placement { unit, container, pod, .. } = placement;
        let in_container = container.as_ref().is_some_and(|container| !container.claimed) || pod.is_some();
        Workload {
            kind: kind(unit.as_ref(), in_container),
            assurance: Assurance::Kernel,
            established_by: established_by(flow, live.is_some(), cgroup.is_some()),
            process: process(flow, live.as_ref(), self.users.name_of(facts.uid)),
            cgroup,
            unit,
            container,
            pod,
            ci: live.and_then(|live| live.image.ci.clone()),
            tickets: Vec::new(),
        }
    }
}

fn process(flow: &Flow, live: Option<&Live>, user: Option<String>) -> Process {
    let facts = &flow.process;
    let mut process = Process {
        pid: facts.tgid,
        start_boottime_ns: facts.start_boottime_ns,
        uid: facts.uid,
        gid: facts.gid,
        user,
        exe: None,
        exe_sha256: None,
        argv: Vec::new(),
        cwd: None,
        ancestry: Vec::new(),
        exited: live.is_none(),
    };
    if let Some(live) = live {
        process.exe.clone_from(&live.image.exe);
        process.exe_sha256.clone_from(&live.image.exe_sha256);
        process.argv.clone_from(&live.image.argv);
        process.cwd.clone_from(&live.cwd);
        process.ancestry.clone_from(&live.image.ancestry);
    }
    process
}

/// From what the kernel says alone. An environment that looks like CI changes nothing here: a job could
/// have written it. A runner's own unit could not have been.
fn kind(unit: Option<&Unit>, in_container: bool) -> IdentityKind {
    const RUNNERS: [&str; 4] = ["actions.runner.", "gitlab-runner", "buildkite-agent", "circleci-runner"];
    match unit {
        Some(unit) if unit.user_unit => IdentityKind::Unknown,
        Some(unit) if RUNNERS.iter().any(|runner| unit.name.starts_with(runner)) => IdentityKind::CiJob,
        Some(unit) if unit.name.starts_with("session-") && unit.name.ends_with(".scope") => {
            IdentityKind::Person
        }
        Some(unit) if unit.name.ends_with(".service") => IdentityKind::ServiceAccount,
        Some(_) | None if in_container => IdentityKind::ServiceAccount,
        Some(_) | None => IdentityKind::Unknown,
    }
}

fn established_by(flow: &Flow, live: bool, cgroup: bool) -> String {
    let mut words = vec!["the kernel recorded uid, cgroup and process at connect()".to_owned()];
    words.push(match live {
        true => "the process was read through a pidfd with the same start time".to_owned(),
        false => "the process had exited, or moved to another cgroup, before it could be read".to_owned(),
    });
    if !cgroup {
        words.push("its cgroup is gone".to_owned());
    }
    if flow.process.creator_tgid != 0 {
        words.push(format!(
            "the socket was made by governed process {} and connected by this one",
            flow.process.creator_tgid
        ));
    }
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_units_and_containers_only() {
        let unit = |name: &str, user_unit| Unit { name: name.to_owned(), invocation_id: None, user_unit };
        for (unit, container, expected) in [
            (Some(unit("actions.runner.acme.box.service", false)), false, IdentityKind::CiJob),
            (Some(unit("actions.runner.acme.box.service", true)), false, IdentityKind::Unknown),
            (Some(unit("backup.service", false)), false, IdentityKind::ServiceAccount),
            (Some(unit("session-3.scope", false)), false, IdentityKind::Person),
            (None, true, IdentityKind::ServiceAccount),
            (None, false, IdentityKind::Unknown),
        ] {
            assert_eq!(kind(unit.as_ref(), container), expected);
        }
    }
}
