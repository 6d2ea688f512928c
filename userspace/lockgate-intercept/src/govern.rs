//! Whose egress is redirected: from configuration to the kernel's sets of cgroup ids and uids.

use crate::{
    cgroup::{CgroupId, Tree, path_of_process},
    error::InterceptError,
};
use aya::maps::{HashMap, MapData};
use globset::{GlobBuilder, GlobMatcher};
use lockgate_ebpf_common::{capacity, map};
use std::{collections::BTreeSet, path::PathBuf};

/// cgroups that are looked at when unit globs are resolved; a host with more needs a more exact rule.
const WALKED_CGROUPS: usize = 65_536;

/// One entry of `govern:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Governed {
    /// A cgroup-v2 path relative to the mount, with all its descendants; created when missing.
    Cgroup(String),
    /// A user, wherever their processes run (host uid).
    Uid(u32),
    /// A glob over systemd unit names (`actions.runner.*.service`); each unit with its descendants.
    Unit(String),
}

/// `govern:` with its globs compiled.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    cgroups: Vec<String>,
    uids: BTreeSet<u32>,
    units: Vec<GlobMatcher>,
}

impl Rules {
    /// `run` is the cgroup of `lockgate run`, which is governed whatever the configuration says.
    pub(crate) fn compile(governed: &[Governed], run: Option<&str>) -> Result<Self, InterceptError> {
        let mut rules = Self::default();
        rules.cgroups.extend(run.map(str::to_owned));
        for entry in governed {
            match entry {
                Governed::Cgroup(path) => rules.cgroups.push(path.clone()),
                Governed::Uid(uid) => drop(rules.uids.insert(*uid)),
                Governed::Unit(pattern) => rules.units.push(glob(pattern)?),
            }
        }
        Ok(rules)
    }

    /// Whether the answer can change while the configuration does not.
    pub(crate) fn has_globs(&self) -> bool {
        !self.units.is_empty()
    }

    /// The first governed cgroup: where a probe may put a child.
    pub(crate) fn first_cgroup(&self) -> Option<&str> {
        self.cgroups.first().map(String::as_str)
    }

    /// Whether a cgroup is governed by itself or through an ancestor.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let ancestors = std::iter::successors(Some(path), |path| {
            path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
        });
        ancestors.into_iter().any(|ancestor| {
            let unit = ancestor.rsplit('/').next().unwrap_or_default();
            self.cgroups.iter().any(|path| path.trim_matches('/') == ancestor.trim_matches('/'))
                || self.units.iter().any(|glob| glob.is_match(unit))
        })
    }

    /// The directories of governed cgroups, ancestors first, at most `bound` of them.
    pub(crate) fn directories(&self, tree: &Tree, bound: usize) -> Vec<PathBuf> {
        let named = self.cgroups.iter().filter_map(|path| tree.directory(path).ok());
        let mut found = tree.below(named.collect(), bound);
        if self.has_globs() {
            let units = tree.walk(WALKED_CGROUPS).into_iter().filter(|(path, _)| self.covers(path));
            found.extend(units.map(|(_, directory)| directory).take(bound.saturating_sub(found.len())));
        }
        found
    }

    /// Whether this process is governed by its cgroup or its user; no when it is gone.
    pub(crate) fn governs(&self, pid: u32) -> bool {
        let by_cgroup = || matches!(path_of_process(pid), Ok(Some(path)) if self.covers(&path));
        let by_uid = || uid_of_process(pid).is_some_and(|uid| self.uids.contains(&uid));
        by_cgroup() || (!self.uids.is_empty() && by_uid())
    }

    /// What is governed now; missing cgroups of `Governed::Cgroup` are made.
    pub(crate) fn resolve(&self, tree: &Tree) -> Result<Resolved, InterceptError> {
        let mut cgroups = BTreeSet::new();
        for path in &self.cgroups {
            cgroups.insert(tree.create(path)?);
        }
        if self.has_globs() {
            for (path, directory) in tree.walk(WALKED_CGROUPS) {
                let unit = path.rsplit('/').next().unwrap_or_default();
                // Gone between the walk and now: nothing to govern.
                if self.units.iter().any(|glob| glob.is_match(unit))
                    && let Ok(id) = tree.id_of(&directory)
                {
                    cgroups.insert(id);
                }
            }
        }
        Ok(Resolved { cgroups, uids: self.uids.clone() })
    }
}

/// The real uid, which is the one that the programs ask for.
fn uid_of_process(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().next()?.parse().ok()
}

fn glob(pattern: &str) -> Result<GlobMatcher, InterceptError> {
    let invalid = |reason: String| InterceptError::Glob { pattern: pattern.to_owned(), reason };
    if pattern.is_empty() || pattern.contains('/') {
        return Err(invalid("expected a unit name such as actions.runner.*.service".to_owned()));
    }
    // systemd escapes with backslashes (`dev-disk-by\x2duuid`): they are part of the name here.
    let glob = GlobBuilder::new(pattern)
        .backslash_escape(false)
        .build()
        .map_err(|error| invalid(error.to_string()))?;
    Ok(glob.compile_matcher())
}

/// What the kernel shall govern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) cgroups: BTreeSet<CgroupId>,
    pub(crate) uids: BTreeSet<u32>,
}

/// The kernel's `CAPTURE_CG` and `CAPTURE_UID`.
pub(crate) struct GovernMaps {
    pub(crate) cgroups: HashMap<MapData, u64, u32>,
    pub(crate) uids: HashMap<MapData, u32, u32>,
}

impl GovernMaps {
    /// Makes the maps hold exactly what was resolved: new entries first.
    pub(crate) fn set(&mut self, resolved: &Resolved) -> Result<(), InterceptError> {
        let cgroups: BTreeSet<u64> = resolved.cgroups.iter().map(|id| id.0).collect();
        sync(&mut self.cgroups, &cgroups, map::CAPTURE_CG, "governed cgroups", capacity::CGROUPS)?;
        sync(&mut self.uids, &resolved.uids, map::CAPTURE_UID, "governed uids", capacity::UIDS)
    }
}

fn sync<K: aya::Pod + Ord>(
    map: &mut HashMap<MapData, K, u32>,
    wanted: &BTreeSet<K>,
    name: &'static str,
    what: &'static str,
    max: u32,
) -> Result<(), InterceptError> {
    if wanted.len() > max as usize {
        return Err(InterceptError::TooMany { what, got: wanted.len(), max });
    }
    let present: BTreeSet<K> = map.keys().flatten().collect();
    for key in wanted.difference(&present) {
        map.insert(*key, 1, 0).map_err(InterceptError::map(name))?;
    }
    for key in present.difference(wanted) {
        map.remove(key).map_err(InterceptError::map(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_governed_with_their_ancestors() {
        let rules = Rules::compile(
            &[Governed::Cgroup("/lockgate/run".to_owned()), Governed::Unit("runner-*.service".to_owned())],
            None,
        )
        .unwrap();
        for (path, expected) in [
            ("/lockgate/run", true),
            ("/lockgate/run/run-7-8", true),
            ("/lockgate/running", false),
            ("/lockgate", false),
            ("/", false),
            ("/system.slice/runner-1.service", true),
            ("/system.slice/runner-1.service/job/step", true),
            ("/system.slice/cron.service", false),
        ] {
            assert_eq!(rules.covers(path), expected, "{path}");
        }
    }

    #[test]
    fn unit_globs_match_names_as_systemd_writes_them() {
        for (pattern, unit, expected) in [
            ("actions.runner.*.service", "actions.runner.acme-billing.box.service", true),
            ("actions.runner.*.service", "actions.runner.service", false),
            ("gitlab-runner.service", "gitlab-runner.service", true),
            ("buildkite-agent@*.service", "buildkite-agent@1.service", true),
            ("job-\\x2d*.scope", "job-\\x2da.scope", true),
        ] {
            assert_eq!(glob(pattern).unwrap().is_match(unit), expected, "{pattern} {unit}");
        }
        for bad in ["", "a/b", "[", "{a"] {
            assert!(glob(bad).is_err(), "{bad}");
        }
    }
}
