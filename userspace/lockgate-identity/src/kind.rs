//! What kind of actor a workload is, where the operator says so: which units, pods and repositories are agents.
//!
//! Only facts that the workload could not have written count.

use crate::{KindRule, SetUpError};
use globset::{Glob, GlobSet, GlobSetBuilder};
use lockgate_model::workload::{IdentityKind, Workload};

#[derive(Debug, Default)]
pub(crate) struct Kinds(Vec<Compiled>);

#[derive(Debug)]
struct Compiled {
    kind: IdentityKind,
    uids: Vec<u32>,
    globs: Vec<(Subject, GlobSet)>,
}

#[derive(Clone, Copy, Debug)]
enum Subject {
    Unit,
    Cgroup,
    Namespace,
    ServiceAccount,
    Repository,
    Actor,
}

impl Kinds {
    pub(crate) fn compile(rules: &[KindRule]) -> Result<Self, SetUpError> {
        rules.iter().map(Compiled::of).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn apply(&self, workload: &mut Workload) {
        if let Some(rule) = self.0.iter().find(|rule| rule.matches(workload)) {
            workload.kind = rule.kind;
        }
    }
}

impl Compiled {
    fn of(rule: &KindRule) -> Result<Self, SetUpError> {
        let listed = [
            (Subject::Unit, &rule.units),
            (Subject::Cgroup, &rule.cgroups),
            (Subject::Namespace, &rule.namespaces),
            (Subject::ServiceAccount, &rule.service_accounts),
            (Subject::Repository, &rule.repositories),
            (Subject::Actor, &rule.actors),
        ];
        let globs = listed.into_iter().filter(|(_, globs)| !globs.is_empty());
        let globs = globs.map(|(subject, globs)| Ok((subject, compile(globs)?))).collect::<Result<_, _>>()?;
        Ok(Self { kind: rule.kind, uids: rule.uids.clone(), globs })
    }

    /// A rule that names nothing matches nothing.
    fn matches(&self, workload: &Workload) -> bool {
        let uid = self.uids.is_empty() || self.uids.contains(&workload.process.uid);
        let says_something = !self.uids.is_empty() || !self.globs.is_empty();
        says_something && uid && self.globs.iter().all(|(subject, globs)| subject.matches(workload, globs))
    }
}

impl Subject {
    fn matches(self, workload: &Workload, globs: &GlobSet) -> bool {
        let pod = workload.pod.as_ref().filter(|pod| pod.is_named());
        let ci = workload.ci.as_ref().filter(|ci| ci.is_confirmed());
        let is = |text: Option<&str>| text.is_some_and(|text| globs.is_match(text));
        match self {
            Self::Unit => {
                let unit = workload.unit.as_ref().filter(|unit| !unit.user_unit);
                is(unit.map(|unit| unit.name.as_str()))
            }
            Self::Cgroup => is(workload.cgroup.as_deref()),
            Self::Namespace => is(pod.and_then(|pod| pod.namespace.as_deref())),
            Self::ServiceAccount => is(pod.and_then(|pod| pod.service_account.as_deref())),
            Self::Repository => is(ci.and_then(|ci| ci.repository.as_deref())),
            Self::Actor => {
                is(ci.and_then(|ci| ci.actor.as_deref()))
                    || is(ci.and_then(|ci| ci.triggering_actor.as_deref()))
            }
        }
    }
}

/// `*` crosses `/`, as in policies.
pub(crate) fn compile(globs: &[String]) -> Result<GlobSet, SetUpError> {
    let bad = |glob: &str, error: globset::Error| SetUpError::Glob(glob.to_owned(), error.kind().to_string());
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(Glob::new(glob).map_err(|error| bad(glob, error))?);
    }
    set.build().map_err(|error| bad("", error))
}
