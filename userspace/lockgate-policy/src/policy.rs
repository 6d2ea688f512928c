//! A loaded policy.
use crate::Diagnostic;
use lockgate_model::{
    DecisionId, SecretRef, Timestamp,
    id::{GroupName, PolicyVersion},
    operation::Operation,
    session::Session,
    verdict::{Denial, DenialCause, Effect, MaskSpec, Obligations, Verdict},
};
use std::sync::Arc;

/// One file of policy, already read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// How diagnostics name it.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What loading gives.
#[derive(Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: CompiledPolicy,
    /// What is odd about it.
    pub warnings: Vec<Diagnostic>,
}

/// A test of a policy file, run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TestOutcome {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub file: String,
    /// Where it stands.
    pub line: u64,
    /// Empty when it passed: what was expected and what came.
    pub failures: Vec<String>,
}

/// A compiled policy.
#[derive(Debug)]
pub struct CompiledPolicy {
    version: PolicyVersion,
    groups: Vec<GroupName>,
}

impl CompiledPolicy {
    /// Loads files into one policy.
    pub fn load(_files: Vec<SourceFile>) -> Result<Loaded, Vec<Diagnostic>> {
        Ok(Loaded { policy: Self { version: "unfinished".into(), groups: Vec::new() }, warnings: Vec::new() })
    }
    /// Which policy this is.
    pub fn version(&self) -> &PolicyVersion {
        &self.version
    }
    /// Every group the policy names.
    pub fn groups(&self) -> &[GroupName] {
        &self.groups
    }
    /// Keys of hash masks.
    pub fn mask_keys(&self) -> Vec<SecretRef> {
        Vec::new()
    }
    /// The candidate rules of one session.
    pub fn for_session(self: &Arc<Self>, _session: &Session) -> SessionPolicy {
        SessionPolicy { policy: self.clone() }
    }
    /// Decides one operation.
    pub fn evaluate(
        &self,
        session: &Session,
        operation: &Operation,
        now: Timestamp,
        decision: DecisionId,
    ) -> Verdict {
        let _ = (session, operation, now);
        let denial = Denial {
            rule: None,
            cause: DenialCause::NoRuleMatched,
            reason: "no rule matches".into(),
            remedy: None,
        };
        Verdict {
            decision,
            effect: Effect::Deny(denial),
            rules: Vec::new(),
            obligations: Obligations::default(),
            policy: self.version.clone(),
            would: None,
        }
    }
    /// The masks that could apply to this session.
    pub fn masks_for(&self, _session: &Session) -> Option<MaskSpec> {
        None
    }
    /// Runs the tests of all files.
    pub fn run_tests(&self) -> Vec<TestOutcome> {
        Vec::new()
    }
}

/// The rules that could match one session: made once a session and policy version, cheap to evaluate.
#[derive(Clone, Debug)]
pub struct SessionPolicy {
    policy: Arc<CompiledPolicy>,
}

impl SessionPolicy {
    /// The policy it was cut from; compare versions to see whether a newer one is in force.
    pub fn policy(&self) -> &Arc<CompiledPolicy> {
        &self.policy
    }
    /// Decides one operation of that session.
    pub fn evaluate(
        &self,
        session: &Session,
        operation: &Operation,
        now: Timestamp,
        decision: DecisionId,
    ) -> Verdict {
        self.policy.evaluate(session, operation, now, decision)
    }
}
