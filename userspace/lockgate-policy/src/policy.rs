//! A loaded policy: what the rest of lockgate holds, shares and swaps.
//!
//! [`CompiledPolicy::load`] can fail and says everything that is wrong; evaluating what it gave cannot. Whoever
//! reads files, watches them and swaps policies is outside; so is whoever parses the statements of tests.

use crate::{
    Diagnostic,
    approval::glass::GlassBlock,
    case::{self, Inspect, TestOutcome},
    compile,
    document::{Document, Given, RuleMode},
    eval,
    explain::{self, Explanation},
    judged::Judged,
    lint,
    matcher::{HttpTest, OperationTest},
    rule::Rule,
    yaml::Spanned,
};
use lockgate_model::{
    DecisionId, SecretRef, Timestamp,
    grant::{Lift, Lifts},
    http::JsonPath,
    id::{GroupName, PolicyVersion, RuleId},
    operation::Operation,
    session::{Mode, Session},
    verdict::{ApprovalSpec, MaskMethod, MaskSpec, RuleHit, Verdict},
};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, sync::Arc};

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
    /// What is odd about it, in the order of the files.
    pub warnings: Vec<Diagnostic>,
}

/// Rules that name different roles for one session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rules {} and {} name different roles to log in as; let only one of them match", .rules[0], .rules[1])]
pub struct LoginConflict {
    /// Two of them.
    pub rules: [RuleId; 2],
}

/// A compiled policy.
#[derive(Debug)]
pub struct CompiledPolicy {
    version: PolicyVersion,
    group_names: Vec<GroupName>,
    claimed_groups: Vec<(GroupName, String)>,
    rules: Vec<Rule>,
    glass: Vec<GlassBlock>,
    cases: Vec<(String, Spanned<crate::document::Case>)>,
}

impl CompiledPolicy {
    /// Loads files into one policy. Their order does not matter, nor do their names for what the policy says.
    ///
    /// # Errors
    /// Everything that is wrong, with file, line, column and the nearest right word.
    pub fn load(files: Vec<SourceFile>) -> Result<Loaded, Vec<Diagnostic>> {
        let compiled = compile::compile(&files)?;
        let mut warnings = lint::lint(&compiled);
        warnings.extend(compiled.warnings);
        warnings.sort();
        warnings.dedup();
        let policy = Self {
            version: version(&files),
            claimed_groups: compiled
                .groups
                .iter()
                .filter_map(|(name, entry)| Some((name.clone(), entry.group.oidc.clone()?)))
                .collect(),
            group_names: compiled.groups.keys().cloned().collect(),
            rules: compiled.rules,
            glass: compiled.glass,
            cases: compiled.cases,
        };
        Ok(Loaded { policy, warnings })
    }

    /// A policy without rules: every target's default decides, and the opaque is denied.
    pub fn empty() -> Self {
        Self {
            version: version(&[]),
            group_names: Vec::new(),
            claimed_groups: Vec::new(),
            rules: Vec::new(),
            glass: Vec::new(),
            cases: Vec::new(),
        }
    }

    /// SHA-256 over all files, whatever their order: which policy was in force.
    pub fn version(&self) -> &PolicyVersion {
        &self.version
    }

    /// The groups whose members an identity provider tells, and how: `claim:value`.
    pub fn claimed_groups(&self) -> impl Iterator<Item = (&GroupName, &str)> {
        self.claimed_groups.iter().map(|(group, member)| (group, member.as_str()))
    }

    /// Every group the policy defines, sorted.
    pub fn groups(&self) -> &[GroupName] {
        &self.group_names
    }

    /// Every rule's id, in the order of the files.
    pub fn rules(&self) -> impl Iterator<Item = &RuleId> {
        self.rules.iter().map(|rule| &rule.id)
    }

    /// What a `require_approval` rule asks of people; None when there is no such rule.
    pub fn approval_of(&self, rule: &RuleId) -> Option<ApprovalSpec> {
        let hold = self.rules.iter().find(|found| found.id == *rule)?.requirement.as_ref()?;
        Some(ApprovalSpec {
            requirements: vec![hold.requirement.clone()],
            timeout: hold.timeout,
            max_wait_in_transaction: hold.max_wait_in_transaction,
        })
    }

    /// The `break_glass:` blocks, in the order of the files.
    pub fn glass(&self) -> &[GlassBlock] {
        &self.glass
    }

    /// Keys of hash masks, each once: the binary loads them before the policy is taken over.
    pub fn mask_keys(&self) -> Vec<SecretRef> {
        let keys: BTreeSet<&SecretRef> = self
            .rules
            .iter()
            .filter_map(|rule| rule.mask.as_ref())
            .flat_map(|mask| &mask.columns)
            .filter_map(|column| match &column.method {
                MaskMethod::Hash { key } => Some(key),
                MaskMethod::Redact | MaskMethod::Partial { .. } | MaskMethod::Null => None,
            })
            .collect();
        keys.into_iter().cloned().collect()
    }

    /// What policy says of one operation, for tools: it lets nothing pass. Never fails; the data plane asks
    /// [`CompiledPolicy::for_session`].
    pub fn evaluate(
        &self,
        session: &Session,
        operation: &Operation,
        now: Timestamp,
        decision: DecisionId,
    ) -> Verdict {
        let candidates = self.active().filter(|rule| rule.fits_session(session));
        eval::evaluate(candidates, &self.version, session, operation, now, decision)
    }

    /// The rules that could match this session's operations, found once.
    pub fn for_session(self: &Arc<Self>, session: &Session) -> SessionPolicy {
        let fits = |(index, rule): (usize, &Rule)| {
            (rule.mode != RuleMode::Off && rule.fits_session(session)).then_some(index)
        };
        let candidates: Vec<usize> = self.rules.iter().enumerate().filter_map(fits).collect();
        let facts_alone =
            candidates.iter().filter_map(|index| self.rules.get(*index)).all(Rule::judges_facts_alone);
        SessionPolicy { policy: self.clone(), candidates, facts_alone }
    }

    /// Every mask that could apply to this session, for building its plan: rules with conditions on the
    /// statement count as applying. None where nothing is masked, as in shadow.
    pub fn masks_for(&self, session: &Session) -> Option<MaskSpec> {
        match session.target.mode {
            Mode::Enforce => {}
            Mode::Shadow | Mode::Observe => return None,
        }
        let fits = |rule: &&Rule| rule.mode == RuleMode::Enforce && rule.fits_session(session);
        eval::masks(self.rules.iter().filter(fits), session)
    }

    /// Whether rules for this session ask what is behind the names in a statement, or how large tables are: then the
    /// target's catalogue is needed to judge it.
    pub fn wants_catalogue(&self, session: &Session) -> bool {
        // What is recorded in shadow is what other policies are tried on: it is to hold all they could ask for.
        if session.target.mode == Mode::Shadow {
            return true;
        }
        self.active().filter(|rule| rule.fits_session(session)).any(|rule| {
            rule.when.is_some()
                || rule.operation_tests.iter().any(|condition| condition.test.wants_catalogue())
        })
    }

    /// Whom this session logs in as, when a rule says so; known before its first statement.
    ///
    /// # Errors
    /// When rules that match name different roles: which one is meant, nobody can say.
    pub fn login_as(&self, session: &Session) -> Result<Option<&str>, LoginConflict> {
        match session.target.mode {
            Mode::Enforce => {}
            Mode::Shadow | Mode::Observe => return Ok(None),
        }
        let mut chosen: Option<(&RuleId, &str)> = None;
        let named = self.active().filter(|rule| rule.mode == RuleMode::Enforce && rule.fits_session(session));
        for rule in named {
            let Some(role) = rule.login_as.as_deref() else { continue };
            match chosen {
                Some((first, other)) if other != role => {
                    return Err(LoginConflict { rules: [first.clone(), rule.id.clone()] });
                }
                Some(_) => {}
                None => chosen = Some((&rule.id, role)),
            }
        }
        Ok(chosen.map(|(_, role)| role))
    }

    /// The same for whoever does what a test's `given:` describes.
    pub fn masks_for_given(&self, given: &Given) -> Option<MaskSpec> {
        self.masks_for(&case::session(given, Timestamp::UNIX_EPOCH))
    }

    /// Runs the tests of all files.
    pub fn run_tests(&self, inspect: &Inspect<'_>) -> Vec<TestOutcome> {
        self.cases.iter().map(|(file, case)| case::run(self, file, case, inspect)).collect()
    }

    /// Says of every rule whether it matches this operation, key by key, and what comes of it.
    pub fn explain(
        &self,
        session: &Session,
        operation: &Operation,
        now: Timestamp,
        decision: DecisionId,
    ) -> Explanation {
        explain::explain(self, session, operation, now, decision)
    }

    /// The same for what a test's `given:` describes: one explanation for each statement in it.
    ///
    /// # Errors
    /// What cannot be used in it, in words.
    pub fn explain_given(&self, given: &Given, inspect: &Inspect<'_>) -> Result<Vec<Explanation>, String> {
        case::explain(self, given, inspect)
    }

    /// Groups whose vote some rule needs and nobody can give: `spoken_for` are the groups that integrations and
    /// local approvers vote for, by configuration.
    pub fn unreachable_groups(&self, spoken_for: &BTreeSet<GroupName>) -> Vec<Diagnostic> {
        lint::unreachable_groups(&self.rules, spoken_for)
    }

    /// The JSON schema of a policy file, for editors.
    pub fn schema() -> serde_json::Value {
        let settings = schemars::generate::SchemaSettings::draft2020_12();
        let mut schema = settings.into_generator().into_root_schema_for::<Document>().to_value();
        crate::schema::close(&mut schema);
        schema
    }

    /// Every key of a policy file, as a Markdown document made from that schema.
    pub fn reference() -> String {
        crate::reference::markdown(&crate::reference::inline(&Self::schema()))
    }

    /// What all rules ask of requests, for tools.
    pub(crate) fn http_asks(&self) -> HttpAsks {
        HttpAsks::of(self.rules.iter())
    }

    pub(crate) fn all_rules(&self) -> &[Rule] {
        &self.rules
    }

    fn active(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.mode != RuleMode::Off)
    }
}

/// What rules ask of requests beyond their line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpAsks {
    /// Headers, in lower case.
    pub headers: BTreeSet<String>,
    /// Fields of JSON bodies.
    pub json: BTreeSet<JsonPath>,
}

impl HttpAsks {
    fn of<'r>(rules: impl Iterator<Item = &'r Rule>) -> Self {
        let mut asks = Self::default();
        for condition in rules.flat_map(|rule| &rule.operation_tests) {
            match &condition.test {
                OperationTest::Http(HttpTest::Header(name, ..)) => drop(asks.headers.insert(name.clone())),
                OperationTest::Http(HttpTest::Json(path, ..)) => drop(asks.json.insert(path.clone())),
                _of_something_else => {}
            }
        }
        asks
    }
}

/// The rules that could match one session: made once a session and policy version, cheap to evaluate.
#[derive(Clone, Debug)]
pub struct SessionPolicy {
    policy: Arc<CompiledPolicy>,
    candidates: Vec<usize>,
    facts_alone: bool,
}

impl SessionPolicy {
    /// The policy it was cut from; compare versions to see whether a newer one is in force.
    pub fn policy(&self) -> &Arc<CompiledPolicy> {
        &self.policy
    }

    /// The headers and the JSON fields that rules for this session ask for: what the inspector has to put into facts.
    pub fn http_asks(&self) -> HttpAsks {
        HttpAsks::of(self.rules())
    }

    /// Whether a rule that would match otherwise asks what a request's body says. The operation's body is not read yet.
    pub fn asks_body(&self, operation: &Operation) -> bool {
        self.rules().any(|rule| rule.asks_body(operation))
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.candidates.iter().filter_map(|index| self.policy.rules.get(*index))
    }

    /// Whether two operations of this session with the same facts always get the same verdict (but for its id), whatever
    /// their texts and values, and whenever they are asked: no rule that could match has a `when`.
    pub fn judges_facts_alone(&self) -> bool {
        self.facts_alone
    }

    /// Decides one operation of that session, as [`CompiledPolicy::evaluate`] would, in the form that can let it pass.
    pub fn evaluate(
        &self,
        session: &Session,
        operation: &Operation,
        now: Timestamp,
        decision: DecisionId,
    ) -> Judged {
        let candidates = self.candidates.iter().filter_map(|index| self.policy.rules.get(*index));
        let verdict = eval::evaluate(candidates, &self.policy.version, session, operation, now, decision);
        Judged::new(operation.id, verdict)
    }

    /// Decides it while the glass is broken: what these uses lift is lifted, as far as their blocks in this policy say so.
    /// A final deny stays, and so do masks, what was not understood, and replication.
    pub fn evaluate_lifted(
        &self,
        session: &Session,
        operation: &Operation,
        now: Timestamp,
        decision: DecisionId,
        lifts: &[Lift],
    ) -> Judged {
        let known = |lift: &Lift| self.policy.glass.iter().find(|block| block.id == lift.rule);
        let blocks: Vec<&GlassBlock> = lifts.iter().filter_map(known).collect();
        let lifted: BTreeSet<Lifts> = blocks.iter().flat_map(|block| block.lifts.iter().copied()).collect();
        let candidates = self.candidates.iter().filter_map(|index| self.policy.rules.get(*index));
        let mut verdict =
            eval::evaluate_with(candidates, &self.policy.version, session, operation, now, decision, &lifted);
        let hits = blocks.iter().map(|block| RuleHit {
            rule: block.id.clone(),
            effect: "break_glass".to_owned(),
            shadow: false,
            error: None,
        });
        verdict.rules = verdict.rules.iter().cloned().chain(hits).collect();
        Judged::new(operation.id, verdict).lifted()
    }
}

/// Paths and texts, each with its length in front so that none can pretend to be another's end. Line ends and
/// a byte-order mark do not change what a policy says, but they change its text: the version names the text.
fn version(files: &[SourceFile]) -> PolicyVersion {
    let mut files: Vec<&SourceFile> = files.iter().collect();
    files.sort_by(|a, b| (&a.path, &a.text).cmp(&(&b.path, &b.text)));
    let mut hash = Sha256::new();
    for file in files {
        for part in [&file.path, &file.text] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
    }
    PolicyVersion::from(hex::encode(hash.finalize()).as_str())
}
