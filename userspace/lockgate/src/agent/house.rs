//! The agent and its store, as the control plane shows them: the implementation of [`House`].
//!
//! Thin: it finds, reads and hands on. What blocks on files or on the kernel runs on blocking threads. Who may ask is not
//! judged here; how much of a statement they may see is applied here, on every record that leaves.

use super::{Agent, registry};
use crate::{
    cli::{facts_of, shapes_of},
    config::{Address, TargetConfig},
};
use lockgate_audit::ChainHash;
use lockgate_control::{
    PeerCred,
    house::{
        Actor, Answer, ExplainQuery, Explained, Found, Governed, GovernedView, Hit, House, HouseError,
        Killed, Origin, PolicyFile, PolicyTest, PolicyView, Proof, ProofQuery, Record, Registration,
        SearchQuery, SessionFilter, SessionRef, SessionSummary, SessionView, Sight, Tail, TargetHealth,
        TargetView, VerifyReport, Watched,
    },
};
use lockgate_intercept::{Egress, Governed as Who};
use lockgate_model::{
    DecisionId, SessionId, Timestamp,
    administration::{Action, Administration},
    event::{Event, EventKind, RecordedOperation},
    http::{HttpClass, HttpFacts},
    id::{NodeName, TargetName},
    operation::{Digest, Facts},
    port::{Ambient as _, Durability, Recorder as _},
    session::Session,
    verdict::{Denial, DenialCause, Effect, RuleHit, Verdict},
};
use lockgate_policy::{CompiledPolicy, Explanation, replay::reconstructed};
use lockgate_store::{Reader, Records, StoreError, VerifyProgress, search};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

/// An address that takes no connection by then does not answer.
const PROBE_WITHIN: Duration = Duration::from_secs(1);
/// Addresses of a name that are asked: one that answers is enough to know.
const PROBED_PER_NAME: usize = 4;
/// Targets that are asked at the same time.
const PROBES_AT_A_TIME: usize = 64;
/// Operations of a session that are explained at once.
const EXPLAINED_MAX: usize = 200;
/// Statements longer than this are shown to nobody without their literals: taking them out parses.
const SHAPED_BYTES: usize = 256 << 10;

/// What stands for a digest, and for a text, that would tell a viewer a value.
const WITHHELD: Digest = Digest([0; 32]);
const WITHHELD_TEXT: &str = "withheld";

/// The agent behind the port. The agent keeps the control plane, which keeps this.
pub(super) struct Rooms(Weak<Agent>);

impl Rooms {
    pub(super) fn of(agent: &Arc<Agent>) -> Arc<dyn House> {
        Arc::new(Self(Arc::downgrade(agent)))
    }

    fn agent(&self) -> Result<Arc<Agent>, HouseError> {
        self.0.upgrade().ok_or_else(|| HouseError::Unavailable("the agent is stopping".to_owned()))
    }

    /// Asks the agent on a thread that may block.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Agent) -> Result<T, HouseError> + Send + 'static,
    ) -> Answer<'_, T> {
        let agent = self.agent();
        Box::pin(async move {
            let agent = agent?;
            let done = tokio::task::spawn_blocking(move || work(&agent)).await;
            done.map_err(|_| HouseError::Unavailable("the agent could not finish this".to_owned()))?
        })
    }
}

fn unreadable(error: StoreError) -> HouseError {
    match error {
        StoreError::NotProven(why) => HouseError::NotFound(why),
        error => {
            tracing::error!(%error, "reading the log");
            HouseError::Unavailable(format!("the log cannot be read: {error}"))
        }
    }
}

impl House for Rooms {
    fn node(&self) -> NodeName {
        self.agent().map_or_else(|_| "".into(), |agent| agent.config.node.clone())
    }

    fn governs(&self, peer: &PeerCred) -> bool {
        let Ok(agent) = self.agent() else { return true };
        let group = peer.pid.and_then(cgroup_of).unwrap_or_default();
        let sets = agent.config.governed.iter().any(|set| match &set.who {
            Who::Uid(uid) => *uid == peer.uid,
            Who::Cgroup(path) => below(&group, path),
            Who::Unit(pattern) => group.split('/').any(|part| looks_like(part, pattern)),
            Who::UnitWithin { parent, .. } => below(&group, parent),
        });
        sets || below(&group, &agent.config.run_cgroup)
    }

    fn status(&self) -> Answer<'_, Value> {
        self.blocking(|agent| Ok(json!(agent.status())))
    }

    fn sessions(&self, filter: SessionFilter) -> Answer<'_, Vec<SessionSummary>> {
        self.blocking(move |agent| agent.log.reader().sessions(&filter).map_err(unreadable))
    }

    fn session(&self, id: SessionRef, after: u64, most: usize, sight: Sight) -> Answer<'_, SessionView> {
        self.blocking(move |agent| {
            let found = records_of(&agent.log.reader(), id).map_err(unreadable)?;
            let (session, records) =
                found.ok_or_else(|| HouseError::NotFound(format!("{id} is not recorded here")))?;
            let summary = SessionSummary::of(&records).ok_or_else(|| {
                HouseError::NotFound(format!("the beginning of {session} is not recorded here"))
            })?;
            let mut left = records.into_iter().filter(|record| record.seq > after);
            let records: Vec<Record> = left.by_ref().take(most).map(|record| shown(record, sight)).collect();
            Ok(SessionView { session: summary, records, more: left.next().is_some() })
        })
    }

    fn newest(&self) -> Answer<'_, u64> {
        self.blocking(|agent| {
            let note = agent.log.reader().checkpoint().map_err(unreadable)?;
            lockgate_store::Checkpoint::covers(&note)
                .map_err(|error| HouseError::Unavailable(format!("the signed head: {error}")))
        })
    }

    fn tail(&self, after: Option<u64>) -> Answer<'_, Box<dyn Tail>> {
        self.blocking(move |agent| {
            let reader = agent.log.reader();
            let records = match after {
                Some(after) => reader.records_from(after.saturating_add(1)),
                None => reader.records_to_come().map_err(unreadable)?,
            };
            Ok(Box::new(Follow(Some(records))) as Box<dyn Tail>)
        })
    }

    fn seen(&self, record: Record, sight: Sight) -> Record {
        shown(record, sight)
    }

    fn kill(&self, id: SessionId, by: Actor, reason: String) -> Answer<'_, Killed> {
        let agent = self.agent();
        Box::pin(async move { kill(&*agent?, id, by, reason).await })
    }

    fn search(&self, query: SearchQuery, sight: Sight) -> Answer<'_, Found> {
        self.blocking(move |agent| {
            let query = asked(query)?;
            let found = agent.log.reader().search(&query).map_err(unreadable)?;
            Ok(Found {
                items: found.hits.into_iter().map(|found| hit(found, sight)).collect(),
                next: found.next.map(|next| next.to_string()),
                complete: found.complete,
                elapsed_micros: found.elapsed_micros,
            })
        })
    }

    fn targets(&self, probe: bool) -> Answer<'_, Vec<TargetView>> {
        let agent = self.agent();
        Box::pin(async move { targets(agent?, probe, None).await })
    }

    fn register(&self, registration: Registration, by: Actor) -> Answer<'_, TargetView> {
        let agent = self.agent();
        Box::pin(async move {
            let agent = agent?;
            let name = agent.register(registration, &by).await?;
            let mut found = targets(agent, false, Some(&name)).await?;
            found.pop().ok_or_else(|| HouseError::Conflict(format!("{name} was taken away meanwhile")))
        })
    }

    fn unregister(&self, name: TargetName, etag: Option<String>, by: Actor) -> Answer<'_, ()> {
        let agent = self.agent();
        Box::pin(async move { agent?.unregister(&name, etag, &by).await })
    }

    fn governed(&self) -> Answer<'_, Governed> {
        self.blocking(|agent| {
            let coverage = agent.coverage();
            let items = agent.config.governed.iter().map(governed).collect();
            Ok(Governed { items, whole: !coverage.has_holes(), coverage })
        })
    }

    fn policy(&self) -> Answer<'_, PolicyView> {
        self.blocking(|agent| {
            let status = agent.policy.status();
            let policy = agent.policy.in_force.load_full();
            let files = agent.policy.sources().into_iter();
            Ok(PolicyView {
                version: status.version,
                loaded_at: status.loaded_at,
                files: files.map(|file| PolicyFile { path: file.path, text: file.text }).collect(),
                rules: policy.rules().map(ToString::to_string).collect(),
                warnings: status.warnings,
                rejected: status.rejected.map(|rejected| rejected.errors).unwrap_or_default(),
            })
        })
    }

    fn explain(&self, query: ExplainQuery) -> Answer<'_, Vec<Explained>> {
        self.blocking(move |agent| {
            let policy = agent.policy.in_force.load_full();
            let reader = agent.log.reader();
            match query {
                ExplainQuery::Given(given) => explain_given(&policy, &given),
                ExplainQuery::Session(id) => explain_session(&policy, &reader, &id),
            }
        })
    }

    fn test(&self) -> Answer<'_, Vec<PolicyTest>> {
        self.blocking(|agent| {
            let outcomes = agent.policy.in_force.load_full().run_tests(&facts_of);
            let test = |outcome: lockgate_policy::TestOutcome| PolicyTest {
                passed: outcome.passed(),
                name: outcome.name,
                file: outcome.file,
                line: outcome.line,
                failures: outcome.failures,
            };
            Ok(outcomes.into_iter().map(test).collect())
        })
    }

    fn verify(&self, watched: Arc<Watched>) -> Answer<'_, Option<VerifyReport>> {
        self.blocking(move |agent| {
            let mut told = |now: VerifyProgress| watched.note(now.records, now.bytes, now.bytes_total);
            agent.log.reader().verify_watched(None, &[], &mut told).map_err(unreadable)
        })
    }

    fn prove(&self, query: ProofQuery) -> Answer<'_, Proof> {
        self.blocking(move |agent| {
            let reader = agent.log.reader();
            let text = match &query {
                ProofQuery::Checkpoint => reader.checkpoint(),
                ProofQuery::Record(seq) => reader.prove(*seq).map(|proof| proof.to_string()),
                ProofQuery::Growth(old) => reader.prove_growth(old).map(|proof| proof.to_string()),
            };
            let public_key = reader.public_key().map_err(unreadable)?.map(|key| key.to_string());
            Ok(Proof { text: text.map_err(unreadable)?, public_key })
        })
    }
}

/// The cgroup-v2 path of a process.
fn cgroup_of(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

fn below(group: &str, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    group.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a name could be meant by a glob: it begins like it. Who is refused too much asks from somewhere else.
fn looks_like(name: &str, pattern: &str) -> bool {
    let special = |c| matches!(c, '*' | '?' | '[' | '{' | '\\');
    let begin = pattern.split(special).next().unwrap_or_default();
    match pattern.contains(special) {
        true => name.starts_with(begin),
        false => name == pattern,
    }
}

/// A session's records, oldest first, by its own id or by that of a request made in it; None when there is none.
pub(crate) fn records_of(
    reader: &Reader,
    id: SessionRef,
) -> Result<Option<(SessionId, Vec<Record>)>, StoreError> {
    let session = match id {
        SessionRef::Session(session) => Some(session),
        SessionRef::Request(request) => reader.session_of(request)?,
    };
    let Some(session) = session else { return Ok(None) };
    let records = reader.session(session)?;
    Ok((!records.is_empty()).then_some((session, records)))
}

/// The log, followed.
struct Follow(Option<Records>);

impl Tail for Follow {
    fn more(&mut self, most: usize) -> Answer<'_, Vec<Record>> {
        let records = self.0.take();
        Box::pin(async move {
            let lost = || HouseError::Unavailable("reading the log was interrupted".to_owned());
            let mut records = records.ok_or_else(lost)?;
            let read = tokio::task::spawn_blocking(move || {
                let found: Result<Vec<Record>, StoreError> = records.by_ref().take(most).collect();
                (records, found)
            });
            let (records, found) = read.await.map_err(|_| lost())?;
            self.0 = Some(records);
            found.map_err(unreadable)
        })
    }
}

/// Ends a session: recorded first, so that nobody ends one unseen.
async fn kill(agent: &Agent, id: SessionId, by: Actor, reason: String) -> Result<Killed, HouseError> {
    if !agent.proxy.is_open(id) {
        return Err(HouseError::NotFound(format!("{id} is not open on this node")));
    }
    let ambient = super::ambient::System;
    let at = ambient.now();
    let decision = registry::decision(at, ambient.random());
    let words = format!("{} ended this session: {reason} (decision {decision})", by.name);
    let kind = EventKind::Administered(Box::new(Administration {
        decision,
        action: Action::SessionKilled,
        subject: id.to_string(),
        by: by.id,
        name: by.name,
        reason: Some(reason),
        definition: None,
    }));
    let event = Event { at, session: Some(id), kind };
    let recorded = agent.log.record(vec![event], Durability::Synced).await;
    let _receipt =
        recorded.map_err(|error| HouseError::Unavailable(format!("it cannot be recorded: {error}")))?;
    if !agent.proxy.kill(id, words) {
        return Err(HouseError::NotFound(format!("{id} has just ended by itself")));
    }
    Ok(Killed { session: id, decision_id: decision.to_string() })
}

/// A record, as somebody with this sight may see it.
fn shown(mut record: Record, sight: Sight) -> Record {
    match sight {
        Sight::Recorded => record,
        Sight::Shapes => {
            // A hash over a short value gives it away to whoever tries all of them.
            record.prev = ChainHash::GENESIS;
            match &mut record.event.kind {
                EventKind::OperationDecided { operation, verdict, denial } => {
                    shape(operation);
                    understated(verdict);
                    denial.iter_mut().for_each(without_quotes);
                }
                EventKind::Refused { denial, .. } | EventKind::ResultCut { denial, .. } => {
                    without_quotes(denial)
                }
                // What follows a statement's beginning, and rows as the client got them, are values.
                EventKind::OperationPart { data, .. } => data.clear(),
                EventKind::ResultRows { rows, .. } => rows.clear(),
                EventKind::ApprovalRequested { command_digest: digest, .. }
                | EventKind::ApprovalsBundled { digest, .. }
                | EventKind::Shelved { digest: Some(digest), .. } => *digest = WITHHELD,
                EventKind::SessionStarted(session) => {
                    Arc::make_mut(&mut session.workload).process.argv.truncate(1);
                }
                _ => {}
            }
            record
        }
    }
}

/// What a verdict quotes of the statement.
fn understated(verdict: &mut Verdict) {
    let quotes = [Some(&mut verdict.effect), verdict.would.as_deref_mut()];
    for effect in quotes.into_iter().flatten() {
        match effect {
            Effect::Deny(denial) => without_quotes(denial),
            Effect::Allow | Effect::Hold(_) => {}
        }
    }
    if verdict.rules.iter().any(|hit| hit.error.is_some()) {
        // An expression that fails names the value it fails on.
        let hits = verdict
            .rules
            .iter()
            .cloned()
            .map(|hit| RuleHit { error: hit.error.map(|_| WITHHELD_TEXT.to_owned()), ..hit });
        verdict.rules = hits.collect();
    }
}

/// Takes literals and bound values out, and what they could be found from by trying.
fn shape(operation: &mut RecordedOperation) {
    if !operation.normalized {
        let text = match operation.text.len() <= SHAPED_BYTES && operation.text_bytes.is_none() {
            true => shapes_of(&operation.text),
            false => None,
        };
        operation.text = text.unwrap_or_default().into();
        operation.normalized = true;
    }
    operation.parameters = Arc::default();
    operation.digest = WITHHELD;
    match Arc::make_mut(&mut operation.facts) {
        // A parser's complaint quotes the text it stumbled over.
        Facts::Sql(facts) => {
            facts.opaque_reason = facts.opaque_reason.take().map(|_| WITHHELD_TEXT.to_owned())
        }
        Facts::Http(facts) => {
            without_values(facts);
            operation.text =
                format!("{} {}://{}{}", facts.method, facts.scheme, facts.host, facts.route).into();
        }
    }
}

/// The route and the names of what a request carries. Of a path that was not understood nobody can say what in it is a value.
fn without_values(facts: &mut HttpFacts) {
    if facts.class == HttpClass::Opaque {
        facts.route = "/".to_owned();
    }
    facts.path.clone_from(&facts.route);
    facts.query.iter_mut().chain(&mut facts.headers).for_each(|field| field.value.clear());
    facts.json.values_mut().for_each(Vec::clear);
    facts.opaque_reason = facts.opaque_reason.take().map(|_| WITHHELD_TEXT.to_owned());
}

/// What a refusal says of a statement that was not understood quotes it.
fn without_quotes(denial: &mut Denial) {
    if matches!(denial.cause, DenialCause::Opaque | DenialCause::Unsupported) {
        denial.reason =
            format!("{}: the reason quotes the text, which is not for viewers", denial.cause.as_str());
    }
}

fn asked(query: SearchQuery) -> Result<search::Query, HouseError> {
    let SearchQuery { text, identity, repository, target, table, class, decision, approver, .. } = query;
    let decision = decision
        .map(|decision| serde_json::from_value(Value::String(decision)))
        .transpose()
        .map_err(|error| HouseError::Invalid(format!("decision: {error}")))?;
    let before = query.before.map(|before| before.parse()).transpose();
    let before =
        before.map_err(|_| HouseError::Invalid("before: expected `next` of an answer".to_owned()))?;
    Ok(search::Query {
        text,
        identity,
        repository,
        target,
        table,
        class,
        decision,
        approver,
        event: query.event,
        session: query.session,
        request: query.request,
        digest: query.digest,
        rule: query.rule,
        since: query.since,
        until: query.until,
        limit: query.limit,
        before,
    })
}

fn hit(found: search::Hit, sight: Sight) -> Hit {
    let text = match (sight, found.event.as_str()) {
        (Sight::Recorded, _) => found.text,
        // A request over HTTP is no SQL: its address is made of values.
        (Sight::Shapes, "operation_decided") if found.text.contains("://") => String::new(),
        (Sight::Shapes, "operation_decided") => shapes_of(&found.text).unwrap_or_default(),
        // A piece may begin inside of a literal; a refusal may quote the text.
        (Sight::Shapes, "operation_part" | "refused" | "result_cut") => String::new(),
        (Sight::Shapes, _) => found.text,
    };
    Hit {
        seq: found.seq,
        at: Some(found.at),
        event: found.event,
        session: found.session,
        request: found.request,
        identity: found.identity,
        display: found.display,
        repository: found.repository,
        target: found.target,
        class: found.class,
        tables: found.tables,
        decision: found.decision.map(|decision| decision.as_str().to_owned()),
        approvers: found.approvers,
        rules: found.rules,
        digest: found.digest.filter(|_| sight == Sight::Recorded),
        text,
    }
}

async fn targets(
    agent: Arc<Agent>,
    probe: bool,
    only: Option<&TargetName>,
) -> Result<Vec<TargetView>, HouseError> {
    let definitions = agent.definitions().await;
    let live = agent.targets.live();
    let names = agent.names();
    let mut open = open_sessions(&agent).await?;
    let mut answered = if probe { probed(&live.configs, &names, only).await } else { BTreeMap::new() };
    let mut views = Vec::new();
    for (index, config) in live.configs.iter().enumerate() {
        let name = &config.target.name;
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let origin = if index < live.fixed { Origin::Configuration } else { Origin::Registered };
        let definition = definitions.get(name.as_str()).filter(|_| origin == Origin::Registered);
        let hosts = config.addresses.iter().filter_map(|address| match address {
            Address::Host { name, .. } => Some((name.clone(), names.addresses(name))),
            Address::Net { .. } => None,
        });
        let etag = definition
            .map_or_else(|| registry::etag_of(&format!("{config:?}")), |text| registry::etag_of(text));
        let definition = definition.map(|text| parsed(text));
        views.push(TargetView {
            name: name.clone(),
            protocol: config.target.protocol.as_str().to_owned(),
            mode: config.target.mode,
            default: config.target.default,
            tags: config.target.tags.clone(),
            addresses: config.addresses.iter().map(ToString::to_string).collect(),
            resolved: hosts.collect(),
            listen: config.explicit.as_ref().map(|explicit| explicit.listen.to_string()),
            origin,
            etag,
            definition,
            health: answered.remove(name),
            open_sessions: open.remove(name).unwrap_or(0),
        });
    }
    Ok(views)
}

/// YAML is told as JSON; what somebody wrote by hand with more than that, as its text.
fn parsed(text: &str) -> Value {
    lockgate_policy::yaml::parse::<Value>("target", text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

async fn open_sessions(agent: &Arc<Agent>) -> Result<BTreeMap<TargetName, u64>, HouseError> {
    let reader = agent.log.reader();
    let read = tokio::task::spawn_blocking(move || {
        reader.sessions(&SessionFilter { open: Some(true), limit: Some(100_000), ..SessionFilter::default() })
    });
    let open = read.await.map_err(|_| HouseError::Unavailable("the log could not be read".to_owned()))?;
    let mut counted = BTreeMap::new();
    for session in open.map_err(unreadable)? {
        *counted.entry(session.target).or_default() += 1;
    }
    Ok(counted)
}

/// Asks all of them beside one another, so many at a time.
async fn probed(
    configs: &[TargetConfig],
    names: &super::names::Names,
    only: Option<&TargetName>,
) -> BTreeMap<TargetName, TargetHealth> {
    let mut answered = BTreeMap::new();
    let mut asking = tokio::task::JoinSet::new();
    for config in configs.iter().filter(|config| only.is_none_or(|only| config.target.name == *only)) {
        if asking.len() >= PROBES_AT_A_TIME
            && let Some(Ok((name, Some(health)))) = asking.join_next().await
        {
            answered.insert(name, health);
        }
        let (config, names) = (config.clone(), names.clone());
        asking.spawn(async move { (config.target.name.clone(), health(&config, &names).await) });
    }
    while let Some(done) = asking.join_next().await {
        if let Ok((name, Some(health))) = done {
            answered.insert(name, health);
        }
    }
    answered
}

/// Whether its hosts take connections; None where it names networks alone. This process's own connections are not
/// redirected.
async fn health(config: &TargetConfig, names: &super::names::Names) -> Option<TargetHealth> {
    let mut places: Vec<(String, Vec<SocketAddr>)> = Vec::new();
    for address in &config.addresses {
        match address {
            Address::Host { name, port } => {
                let ips = names.addresses(name).into_iter().take(PROBED_PER_NAME);
                places.push((address.to_string(), ips.map(|ip| SocketAddr::new(ip, *port)).collect()));
            }
            Address::Net { ip, prefix, port } if *prefix == if ip.is_ipv4() { 32 } else { 128 } => {
                places.push((address.to_string(), vec![SocketAddr::new(*ip, *port)]));
            }
            Address::Net { .. } => {}
        }
    }
    if places.is_empty() {
        return None;
    }
    let mut wrong = Vec::new();
    for (place, addresses) in places {
        if let Err(why) = answers(&addresses).await {
            wrong.push(format!("{place}: {why}"));
        }
    }
    let detail = (!wrong.is_empty()).then(|| wrong.join("; "));
    Some(TargetHealth { reachable: wrong.is_empty(), asked_at: Timestamp::now(), detail })
}

async fn answers(addresses: &[SocketAddr]) -> Result<(), String> {
    let mut why = "it has no address now".to_owned();
    for address in addresses {
        match tokio::time::timeout(PROBE_WITHIN, tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {PROBE_WITHIN:?}"),
        }
    }
    Err(why)
}

fn governed(set: &lockgate_intercept::GovernedSet) -> GovernedView {
    let (by, value) = match &set.who {
        Who::Cgroup(path) => ("cgroup", path.clone()),
        Who::Uid(uid) => ("uid", uid.to_string()),
        Who::Unit(pattern) => ("systemd_unit", pattern.clone()),
        Who::UnitWithin { parent, pattern } => ("systemd_unit", format!("{pattern} within {parent}")),
    };
    let (mode, unregistered) = match &set.egress {
        Egress::Allow => ("enforce", "allow"),
        Egress::Deny(_) => ("enforce", "deny"),
        Egress::Observe => ("observe", "allow"),
    };
    GovernedView { by: by.to_owned(), value, mode: mode.to_owned(), unregistered: unregistered.to_owned() }
}

fn explain_given(policy: &CompiledPolicy, given: &Value) -> Result<Vec<Explained>, HouseError> {
    let text = given.to_string();
    let given: lockgate_policy::document::Given =
        lockgate_policy::yaml::parse("given", &text).map_err(|found| {
            let all: Vec<String> = found.iter().map(ToString::to_string).collect();
            HouseError::Invalid(all.join("; "))
        })?;
    let explained = policy.explain_given(&given, &facts_of).map_err(HouseError::Invalid)?;
    Ok(explained.into_iter().map(|one| explained_as(given.statement.clone(), &one)).collect())
}

fn explain_session(policy: &CompiledPolicy, reader: &Reader, id: &str) -> Result<Vec<Explained>, HouseError> {
    let id: SessionRef = id.parse().map_err(HouseError::Invalid)?;
    let unknown = || HouseError::NotFound(format!("{id} is not recorded here"));
    let (_, records) = records_of(reader, id).map_err(unreadable)?.ok_or_else(unknown)?;
    let session: &Session = records
        .iter()
        .find_map(|record| match &record.event.kind {
            EventKind::SessionStarted(session) => Some(session.as_ref()),
            _ => None,
        })
        .ok_or_else(unknown)?;
    let decided = records.iter().filter_map(|record| match &record.event.kind {
        EventKind::OperationDecided { operation, .. } => Some((operation, record.event.at)),
        _ => None,
    });
    let explain = |(operation, at): (&RecordedOperation, Timestamp)| {
        let again = reconstructed(session, operation);
        let explanation = policy.explain(session, &again, at, DecisionId::from_parts(0, 0));
        explained_as(operation.text.to_string(), &explanation)
    };
    Ok(decided.take(EXPLAINED_MAX).map(explain).collect())
}

fn explained_as(statement: String, explanation: &Explanation) -> Explained {
    let effect = match &explanation.verdict.effect {
        Effect::Allow => "allow",
        Effect::Deny(_) => "deny",
        Effect::Hold(_) => "require_approval",
    };
    Explained { statement, effect: effect.to_owned(), explanation: json!(explanation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_over_http_shows_viewers_no_value() {
        let field = |name: &str| json!({ "name": name, "value": "4711-secret" });
        let mut facts: HttpFacts = serde_json::from_value(json!({
            "class": "read", "method": "GET", "scheme": "https", "host": "shop", "path": "/users/4711-secret",
            "route": "/users/{id}", "query": [field("card")], "headers": [field("x-note")],
            "body": { "state": "none" }, "json": { "card.number": ["4711-secret"] }, "risk": "low",
        }))
        .unwrap();
        without_values(&mut facts);
        let shown = serde_json::to_string(&facts).unwrap();
        assert!(!shown.contains("4711-secret"), "{shown}");
        for name in ["/users/{id}", "card", "x-note", "card.number"] {
            assert!(shown.contains(name), "{name}: {shown}");
        }
        facts.class = HttpClass::Opaque;
        facts.route = "/users/4711-secret/..".to_owned();
        facts.opaque_reason = Some("a dot segment in /users/4711-secret/..".to_owned());
        without_values(&mut facts);
        let shown = serde_json::to_string(&facts).unwrap();
        assert!(!shown.contains("4711-secret"), "{shown}");
    }

    /// Statements with a secret in every place where one can stand.
    #[test]
    fn shapes_of_statements_hold_no_value() {
        for text in [
            "select 'sesame'",
            "select E'ses\\u0061me', 'sesame'",
            "select $$sesame$$, $x$sesame$x$",
            "select 1 -- sesame",
            "/* sesame */ select 1",
            "create role r login password 'sesame'",
            "alter table t alter column c set default 'sesame'",
            "create function f() returns text language sql as 'select \"sesame\"'",
            "do $$ begin raise notice 'sesame'; end $$",
            "comment on table t is 'sesame'",
            "copy t from program 'sesame'",
            "set application_name = 'sesame'",
            "insert into t values ('sesame'), (B'1'), (X'ff')",
            "select u&'sesame'",
            "selekt 'sesame'",
            "select 'sesame",
            "select 1; select 'sesame'",
        ] {
            let shape = shapes_of(text).unwrap_or_default();
            assert!(!shape.to_lowercase().contains("sesame"), "{text}: {shape}");
        }
    }

    #[test]
    fn a_glob_of_units_and_a_cgroup_are_told_from_others() {
        for (name, pattern, is) in [
            ("runner-1.service", "runner-*.service", true),
            ("runner.service", "runner.service", true),
            ("session-1.scope", "runner-*.service", false),
            ("ssh.service", "runner.service", false),
        ] {
            assert_eq!(looks_like(name, pattern), is, "{name} {pattern}");
        }
        assert!(below("/lockgate/run/7", "/lockgate/run") && below("/lockgate/run", "/lockgate/run/"));
        assert!(!below("/lockgate/runner", "/lockgate/run") && !below("", "/lockgate/run"));
    }
}
