//! Whose egress is redirected: from configuration to the kernel's sets of cgroup ids and uids.

use crate::{
    cgroup::{CgroupId, Tree, path_of_process},
    egress::{Egress, EgressMap, EgressNet},
    error::InterceptError,
};
use aya::maps::{HashMap, MapData};
use globset::{GlobBuilder, GlobMatcher};
use lockgate_ebpf_common::{capacity, capture, map};
use std::{collections::BTreeMap, path::PathBuf};

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

/// Some of those who are governed, and what they may reach besides targets. Where several fit, the nearest cgroup
/// counts, and cgroups before users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GovernedSet {
    /// Who.
    pub who: Governed,
    /// What.
    pub egress: Egress,
}

impl From<Governed> for GovernedSet {
    fn from(who: Governed) -> Self {
        Self { who, egress: Egress::Allow }
    }
}

/// `govern:` with its globs compiled; each entry with its value in the kernel's maps.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    cgroups: Vec<(String, u32)>,
    uids: BTreeMap<u32, u32>,
    units: Vec<(GlobMatcher, u32)>,
    /// What sets with a default of deny may reach; a set's number is its place, from 1.
    lists: Vec<Vec<EgressNet>>,
}

impl Rules {
    /// `run` is the cgroup of `lockgate run`, which is governed whatever the configuration says.
    pub(crate) fn compile(governed: &[GovernedSet], run: Option<&str>) -> Result<Self, InterceptError> {
        let mut rules = Self::default();
        for GovernedSet { who, egress } in governed {
            let value = rules.value(egress)?;
            match who {
                Governed::Cgroup(path) => rules.cgroups.push((path.clone(), value)),
                Governed::Uid(uid) => *rules.uids.entry(*uid).or_default() |= value,
                Governed::Unit(pattern) => rules.units.push((glob(pattern)?, value)),
            }
        }
        // One below a governed cgroup is governed as that one is.
        if let Some(run) = run.filter(|run| !rules.covers(run)) {
            rules.cgroups.push((run.to_owned(), capture::REGISTERED));
        }
        Ok(rules)
    }

    /// The value of [`capture`] for a set; sets with the same list share a number.
    fn value(&mut self, egress: &Egress) -> Result<u32, InterceptError> {
        let Egress::Deny(list) = egress else { return Ok(capture::REGISTERED) };
        let place = self.lists.iter().position(|known| known == list).unwrap_or_else(|| {
            self.lists.push(list.clone());
            self.lists.len() - 1
        });
        let set = u16::try_from(place + 1).map_err(|_| InterceptError::TooMany {
            what: "lists of allowed destinations",
            got: place + 1,
            max: u32::from(u16::MAX),
        })?;
        Ok(capture::REGISTERED | capture::DENY | u32::from(set) << capture::SET_SHIFT)
    }

    /// The lists with the numbers of their sets.
    pub(crate) fn lists(&self) -> Vec<(u16, &[EgressNet])> {
        (1..).zip(self.lists.iter().map(Vec::as_slice)).collect()
    }

    /// Whether the answer can change while the configuration does not.
    pub(crate) fn has_globs(&self) -> bool {
        !self.units.is_empty()
    }

    /// The first governed cgroup: where a probe may put a child.
    pub(crate) fn first_cgroup(&self) -> Option<&str> {
        self.cgroups.first().map(|(path, _)| path.as_str())
    }

    /// Whether a cgroup is governed by itself or through an ancestor.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let ancestors = std::iter::successors(Some(path), |path| {
            path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
        });
        ancestors.into_iter().any(|ancestor| {
            let unit = ancestor.rsplit('/').next().unwrap_or_default();
            self.cgroups.iter().any(|(path, _)| path.trim_matches('/') == ancestor.trim_matches('/'))
                || self.units.iter().any(|(glob, _)| glob.is_match(unit))
        })
    }

    /// The directories of governed cgroups, ancestors first, at most `bound` of them.
    pub(crate) fn directories(&self, tree: &Tree, bound: usize) -> Vec<PathBuf> {
        let named = self.cgroups.iter().filter_map(|(path, _)| tree.directory(path).ok());
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
        let by_uid = || uid_of_process(pid).is_some_and(|uid| self.uids.contains_key(&uid));
        by_cgroup() || (!self.uids.is_empty() && by_uid())
    }

    /// What is governed now; missing cgroups of `Governed::Cgroup` are made.
    pub(crate) fn resolve(&self, tree: &Tree) -> Result<Resolved, InterceptError> {
        let mut cgroups = BTreeMap::new();
        for (path, value) in &self.cgroups {
            // Named twice: a list that refuses counts before none.
            let known: &mut u32 = cgroups.entry(tree.create(path)?).or_default();
            *known = (*known).max(*value);
        }
        if self.has_globs() {
            for (path, directory) in tree.walk(WALKED_CGROUPS) {
                let unit = path.rsplit('/').next().unwrap_or_default();
                let value = self.units.iter().find(|(glob, _)| glob.is_match(unit)).map(|(_, value)| *value);
                // Gone between the walk and now: nothing to govern.
                if let Some(value) = value
                    && let Ok(id) = tree.id_of(&directory)
                {
                    cgroups.entry(id).or_insert(value);
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

/// What the kernel shall govern, each with its value of [`capture`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) cgroups: BTreeMap<CgroupId, u32>,
    pub(crate) uids: BTreeMap<u32, u32>,
}

/// The kernel's `CAPTURE_CG`, `CAPTURE_UID` and `EGRESS`.
pub(crate) struct GovernMaps {
    pub(crate) cgroups: HashMap<MapData, u64, u32>,
    pub(crate) uids: HashMap<MapData, u32, u32>,
    pub(crate) egress: EgressMap,
}

impl GovernMaps {
    /// Makes the maps hold exactly what was resolved: new entries first.
    pub(crate) fn set(
        &mut self,
        resolved: &Resolved,
        lists: &[(u16, &[EgressNet])],
    ) -> Result<(), InterceptError> {
        let cgroups: BTreeMap<u64, u32> = resolved.cgroups.iter().map(|(id, value)| (id.0, *value)).collect();
        self.egress.set(lists)?;
        sync(&mut self.cgroups, &cgroups, map::CAPTURE_CG, "governed cgroups", capacity::CGROUPS)?;
        sync(&mut self.uids, &resolved.uids, map::CAPTURE_UID, "governed uids", capacity::UIDS)
    }
}

fn sync<K: aya::Pod + Ord>(
    map: &mut HashMap<MapData, K, u32>,
    wanted: &BTreeMap<K, u32>,
    name: &'static str,
    what: &'static str,
    max: u32,
) -> Result<(), InterceptError> {
    if wanted.len() > max as usize {
        return Err(InterceptError::TooMany { what, got: wanted.len(), max });
    }
    let mut stale: BTreeMap<K, u32> = map.iter().flatten().collect();
    for (key, value) in wanted {
        if stale.remove(key) != Some(*value) {
            map.insert(*key, *value, 0).map_err(InterceptError::map(name))?;
        }
    }
    for key in stale.into_keys() {
        map.remove(&key).map_err(InterceptError::map(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_governed_with_their_ancestors() {
        let rules = Rules::compile(
            &[
                Governed::Cgroup("/lockgate/run".to_owned()).into(),
                Governed::Unit("runner-*.service".to_owned()).into(),
            ],
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
    fn sets_with_the_same_list_share_a_number_and_the_run_cgroup_weakens_none() {
        let net = EgressNet::new("10.0.0.0".parse().unwrap(), 8, None).unwrap();
        let deny = |nets: &[EgressNet]| Egress::Deny(nets.to_vec());
        let set = |path: &str, egress| GovernedSet { who: Governed::Cgroup(path.to_owned()), egress };
        let governed =
            [set("/a", Egress::Allow), set("/b", deny(&[])), set("/c", deny(&[net])), set("/d", deny(&[]))];
        let rules = Rules::compile(&governed, Some("/b/run")).unwrap();
        let denying = capture::REGISTERED | capture::DENY;
        let values: Vec<u32> = rules.cgroups.iter().map(|(_, value)| *value).collect();
        assert_eq!(values, [capture::REGISTERED, denying | 1 << 16, denying | 2 << 16, denying | 1 << 16]);
        assert_eq!(rules.lists(), [(1, &[][..]), (2, &[net][..])]);
        assert_eq!(Rules::compile(&governed, Some("/run")).unwrap().cgroups.len(), 5);
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
