//! Whose egress is redirected: from configuration to the kernel's sets of cgroup ids and uids.

use crate::{
    cgroup::{CgroupId, Tree, path_of_process},
    egress::{Egress, EgressMap, EgressNet},
    error::InterceptError,
};
use aya::maps::{HashMap, MapData};
use globset::{GlobBuilder, GlobMatcher};
use lockgate_ebpf_common::{capacity, capture, map};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

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
    /// The same for units directly below one cgroup, such as a slice. A new cgroup there reaches no target until its
    /// name has been looked at, so that none gets by in its first moments.
    UnitWithin {
        /// Path of the parent, relative to the mount; created when missing.
        parent: String,
        /// The glob over names.
        pattern: String,
    },
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
    units: Vec<Units>,
    /// What sets with a default of deny may reach; a set's number is its place, from 1.
    lists: Vec<Vec<EgressNet>>,
}

/// Those that a glob names.
#[derive(Debug)]
struct Units {
    glob: GlobMatcher,
    /// Only directly below this cgroup, where what is new waits.
    parent: Option<String>,
    value: u32,
}

impl Units {
    /// Whether a cgroup itself, not one above it, is meant.
    fn match_path(&self, path: &str) -> bool {
        let (above, unit) = path.rsplit_once('/').unwrap_or(("", path));
        let within = |parent: &String| parent.trim_matches('/') == above.trim_matches('/');
        self.parent.as_ref().is_none_or(within) && self.glob.is_match(unit)
    }
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
                Governed::Unit(pattern) => {
                    rules.units.push(Units { glob: glob(pattern)?, parent: None, value });
                }
                Governed::UnitWithin { parent, pattern } => {
                    rules.units.push(Units { glob: glob(pattern)?, parent: Some(parent.clone()), value });
                }
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
        let list = match egress {
            Egress::Allow => return Ok(capture::REGISTERED),
            Egress::Observe => return Ok(capture::OBSERVE),
            Egress::Deny(list) => list,
        };
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

    /// The first cgroup whose connections are redirected: where a probe may put a child.
    pub(crate) fn first_cgroup(&self) -> Option<&str> {
        let redirected = self.cgroups.iter().find(|(_, value)| is_redirected(*value));
        redirected.map(|(path, _)| path.as_str())
    }

    /// Whether a cgroup is governed or observed, by itself or through an ancestor.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.value_of(path).is_some()
    }

    /// The value of the nearest of a cgroup and its ancestors that has one.
    fn value_of(&self, path: &str) -> Option<u32> {
        let mut ancestors = std::iter::successors(Some(path), |path| {
            path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
        });
        ancestors.find_map(|ancestor| {
            let named =
                self.cgroups.iter().filter(|(path, _)| path.trim_matches('/') == ancestor.trim_matches('/'));
            let by_glob =
                || self.units.iter().find(|units| units.match_path(ancestor)).map(|units| units.value);
            named.map(|(_, value)| *value).reduce(stricter).or_else(by_glob)
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

    /// Whether connections of this process are redirected, for its cgroup or its user; no when it is gone.
    pub(crate) fn governs(&self, pid: u32) -> bool {
        let by_cgroup = match path_of_process(pid) {
            Ok(Some(path)) => self.value_of(&path),
            Ok(None) | Err(_) => None,
        };
        let by_uid = || match self.uids.is_empty() {
            true => None,
            false => uid_of_process(pid).and_then(|uid| self.uids.get(&uid).copied()),
        };
        by_cgroup.or_else(by_uid).is_some_and(is_redirected)
    }

    /// What is governed now; missing cgroups of `Governed::Cgroup` are made.
    pub(crate) fn resolve(&self, tree: &Tree) -> Result<Resolved, InterceptError> {
        let mut cgroups = BTreeMap::new();
        for (path, value) in &self.cgroups {
            let known: &mut u32 = cgroups.entry(tree.create(path)?).or_insert(*value);
            *known = stricter(*known, *value);
        }
        if self.has_globs() {
            for (path, directory) in tree.walk(WALKED_CGROUPS) {
                let value = self.by_name(&path);
                // Gone between the walk and now: nothing to govern.
                if let Some(value) = value
                    && let Ok(id) = tree.id_of(&directory)
                {
                    cgroups.entry(id).or_insert(value);
                }
            }
        }
        self.await_classification(tree, &mut cgroups)?;
        Ok(Resolved { cgroups, uids: self.uids.clone() })
    }

    /// What the name of a cgroup itself says.
    fn by_name(&self, path: &str) -> Option<u32> {
        self.units.iter().find(|units| units.match_path(path)).map(|units| units.value)
    }

    /// Parents below which what is new waits: the children that are there by now and not governed are exempt.
    fn await_classification(
        &self,
        tree: &Tree,
        cgroups: &mut BTreeMap<CgroupId, u32>,
    ) -> Result<(), InterceptError> {
        for (parent, denies) in self.waiting() {
            // Read after the parent waits would be too late for what is made in between: then it waits for the next look.
            let id = tree.create(&parent)?;
            for child in tree.children(&parent)? {
                // By its own name, and not by what an earlier look at the tree has found: it may be newer than that.
                let name = child.file_name().unwrap_or_default().to_string_lossy();
                let value = self.by_name(&format!("{parent}/{name}")).unwrap_or(capture::EXEMPT);
                // Gone meanwhile: nobody to classify.
                if let Ok(id) = tree.id_of(&child) {
                    cgroups.entry(id).or_insert(value);
                }
            }
            cgroups.insert(id, capture::REGISTERED | capture::PENDING | denies);
        }
        Ok(())
    }

    /// Cgroups whose new children wait, with what the strictest set below them denies meanwhile. Below one that is
    /// governed everything is governed at once, and nothing waits.
    pub(crate) fn waiting(&self) -> BTreeMap<String, u32> {
        let mut parents: BTreeMap<String, u32> = BTreeMap::new();
        // Those that are only observed need not wait.
        for units in self.units.iter().filter(|units| is_redirected(units.value)) {
            if let Some(parent) = units.parent.as_ref().filter(|parent| !self.covers(parent)) {
                let known = parents.entry(format!("/{}", parent.trim_matches('/'))).or_default();
                *known = (*known).max(units.value & !capture::REGISTERED);
            }
        }
        parents
    }
}

/// Whether a value of [`capture`] redirects.
fn is_redirected(value: u32) -> bool {
    value & capture::REGISTERED != 0
}

/// Of two values for one cgroup: what is redirected counts before what is only observed, and a list that refuses before
/// none.
fn stricter(one: u32, other: u32) -> u32 {
    match (is_redirected(one), is_redirected(other)) {
        (true, false) => one,
        (false, true) => other,
        (true, true) | (false, false) => one.max(other),
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

impl Resolved {
    /// Those whose packets are the business of a filter: not the exempt, nor the parents of what waits.
    pub(crate) fn governed(&self) -> BTreeSet<CgroupId> {
        let is_governed =
            |value: &u32| value & (capture::REGISTERED | capture::PENDING) == capture::REGISTERED;
        self.cgroups.iter().filter(|(_, value)| is_governed(value)).map(|(id, _)| *id).collect()
    }
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
    // What waits begins to wait after, and ends before, those that it has been classified for.
    let waits = |value: u32| value & capture::PENDING != 0;
    for late in [false, true] {
        for (key, value) in wanted.iter().filter(|(_, value)| waits(**value) == late) {
            if stale.remove(key) != Some(*value) {
                map.insert(*key, *value, 0).map_err(InterceptError::map(name))?;
            }
        }
    }
    for late in [false, true] {
        for key in stale.iter().filter(|(_, value)| waits(**value) != late).map(|(key, _)| key) {
            map.remove(key).map_err(InterceptError::map(name))?;
        }
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
    fn a_glob_within_a_slice_means_its_children_alone_and_makes_new_ones_wait() {
        let within = |parent: &str, pattern: &str| Governed::UnitWithin {
            parent: parent.to_owned(),
            pattern: pattern.to_owned(),
        };
        let rules = Rules::compile(
            &[
                within("/ci.slice", "job-*.service").into(),
                GovernedSet {
                    who: within("ci.slice/", "strict-*.service"),
                    egress: Egress::Deny(Vec::new()),
                },
                Governed::Cgroup("/all".to_owned()).into(),
                within("/all/below", "x").into(),
            ],
            None,
        )
        .unwrap();
        for (path, expected) in [
            ("/ci.slice/job-1.service", true),
            ("/ci.slice/job-1.service/step", true),
            ("/ci.slice/other.service", false),
            ("/ci.slice", false),
            ("/system.slice/job-1.service", false),
            ("/ci.slice/other.service/job-1.service", false),
            ("/all/below/y", true),
        ] {
            assert_eq!(rules.covers(path), expected, "{path}");
        }
        // Nothing waits below what is governed anyway.
        let parents = rules.waiting();
        assert!(!parents.contains_key("/all/below"), "{parents:?}");
        assert_eq!(
            parents.get("/ci.slice"),
            Some(&(capture::DENY | 1 << capture::SET_SHIFT)),
            "the strictest"
        );
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
