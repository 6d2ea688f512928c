//! `lockgate policy draft` and `lockgate policy diff --replay`: policies from what was recorded, and changes of policies tried
//! on it.
//!
//! Both read the log itself, beside a running agent or without one, and need no more than to read it. Deciding and writing
//! rules is lockgate-policy's; here is who was let pass, what is counted, and how it is printed.

use super::{
    Exit, Output, inspect,
    output::{self, Style, Table, styled},
    policy::{load, rejected},
    sessions::{self, moment, to_second},
    text,
};
use crate::config::Client;
use anyhow::Context as _;
use clap::Args;
use lockgate_model::{
    DecisionId, SessionId, Timestamp,
    event::{EventKind, RecordedOperation},
    session::{Mode, Session},
    verdict::{Effect, Verdict},
};
use lockgate_policy::{
    CompiledPolicy, SourceFile,
    draft::Drafting,
    replay::{Compared, Difference, Doubt, Replay, compare},
};
use lockgate_store::{Reader, Records};
use serde::Serialize;
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Changes that are told apart; more are only counted.
const MAX_GROUPS: usize = 1_000;

/// Which part of which log.
#[derive(Debug, Args)]
pub(super) struct Period {
    /// Only since: a duration ago (90m, 7d) or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only before
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<Timestamp>,
    /// The store to read, in place of the configuration's
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Only on this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

impl Period {
    pub(super) fn reader(&self, config: &Path) -> anyhow::Result<Reader> {
        match &self.from {
            Some(directory) => Ok(Reader::open(directory)?),
            None => sessions::reader(&Client::read(config)?),
        }
    }

    pub(super) fn holds(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }

    pub(super) fn is_about(&self, target: Option<&str>) -> bool {
        self.target.is_none() || self.target.as_deref() == target
    }

    fn words(&self) -> String {
        let since = self.since.map_or_else(|| "the beginning of the log".to_owned(), to_second);
        let until = self.until.map_or_else(|| to_second(Timestamp::now()), to_second);
        match &self.target {
            Some(target) => format!("{since} to {until}, on {target}"),
            None => format!("{since} to {until}"),
        }
    }
}

/// One decided operation, as it rests.
struct Decided<'a> {
    session: &'a Session,
    /// It was judged with the target's catalogue at hand, whatever the policy asked.
    with_catalogue: bool,
    operation: &'a RecordedOperation,
    verdict: &'a Verdict,
    /// Refused at once, by policy or by lockgate.
    denied: bool,
    at: Timestamp,
}

/// What comes out of a log.
enum Entry<'a> {
    Decided(Decided<'a>),
    Observed(&'a lockgate_model::observation::Observation),
    Ended(SessionId),
}

/// Walks through the log. Sessions are known while they run; operations of one whose start is not in the log are counted.
fn walk(records: Records, period: &Period, mut take: impl FnMut(Entry<'_>)) -> anyhow::Result<u64> {
    let mut running: HashMap<SessionId, (Session, bool)> = HashMap::new();
    let mut orphans = 0;
    for record in records {
        let event = record.context("reading the log")?.event;
        match &event.kind {
            EventKind::SessionStarted(session) if period.is_about(Some(session.target.name.as_str())) => {
                let with_catalogue = session.target.mode == Mode::Shadow;
                running.insert(session.id, (session.as_ref().clone(), with_catalogue));
            }
            EventKind::MaskedColumns { .. } => {
                if let Some((_, with_catalogue)) = event.session.and_then(|id| running.get_mut(&id)) {
                    *with_catalogue = true;
                }
            }
            EventKind::OperationDecided { operation, verdict, denial } if period.holds(event.at) => {
                match event.session.and_then(|id| running.get(&id)) {
                    Some((session, with_catalogue)) => take(Entry::Decided(Decided {
                        session,
                        with_catalogue: *with_catalogue,
                        operation,
                        verdict,
                        denied: denial.is_some(),
                        at: event.at,
                    })),
                    None => orphans += u64::from(period.target.is_none()),
                }
            }
            EventKind::Observed(observation) if period.holds(event.at) => take(Entry::Observed(observation)),
            EventKind::SessionEnded(_) => {
                if let Some(id) = event.session.filter(|id| running.remove(id).is_some()) {
                    take(Entry::Ended(id));
                }
            }
            _ => {}
        }
    }
    Ok(orphans)
}

/// What `draft` is told.
#[derive(Debug, Args)]
pub(super) struct DraftArguments {
    #[command(flatten)]
    period: Period,
    /// Write here instead of standard output; nothing is overwritten
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

pub(super) fn draft(config: &Path, arguments: DraftArguments, format: Output) -> anyhow::Result<Exit> {
    let reader = arguments.period.reader(config)?;
    inspect::on_deep_stack(move || draft_from(&reader, &arguments, format))
}

fn draft_from(reader: &Reader, arguments: &DraftArguments, format: Output) -> anyhow::Result<Exit> {
    let period = &arguments.period;
    let mut drafting = Drafting::default();
    walk(reader.records(), period, |entry| match entry {
        Entry::Decided(decided) if passed(&decided) => drafting.operation(decided.session, decided.operation),
        Entry::Observed(observation) => {
            if period.is_about(observation.target.as_ref().map(|target| target.as_str())) {
                drafting.observation(observation);
            }
        }
        Entry::Decided(_) | Entry::Ended(_) => {}
    })?;
    let draft = drafting.finish(&period.words());
    let file = SourceFile { path: "draft".to_owned(), text: draft.text.clone() };
    let loaded = match CompiledPolicy::load(vec![file]) {
        Ok(loaded) => loaded,
        Err(errors) => return rejected(&errors, format),
    };
    let allowed = allowed_by(reader, period, &Arc::new(loaded.policy))?;
    match (&arguments.write, format) {
        (Some(path), _) => {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(path)
                .with_context(|| format!("writing {}", path.display()))?;
            file.write_all(draft.text.as_bytes()).with_context(|| path.display().to_string())?;
        }
        (None, Output::Text) => output::print(&draft.text)?,
        (None, Output::Json) => {}
    }
    if format == Output::Json {
        let policy = arguments.write.is_none().then_some(&draft.text);
        output::print_json(&json!({
            "rules": draft.rules, "operations": draft.operations, "left_out": draft.left_out,
            "allowed": allowed, "policy": policy,
        }))?;
    } else {
        eprintln!(
            "{} rules; replayed, they allow {allowed} of {} operations, {} are left out",
            draft.rules, draft.operations, draft.left_out
        );
    }
    // What was recorded while this ran is not in the draft, and no fault of it.
    Ok(if allowed >= draft.operations.saturating_sub(draft.left_out) { Exit::Done } else { Exit::Failed })
}

/// An operation that went on without anybody being asked: in shadow whatever was decided.
fn passed(decided: &Decided<'_>) -> bool {
    decided.verdict.effect == Effect::Allow && !decided.denied
}

fn allowed_by(reader: &Reader, period: &Period, policy: &Arc<CompiledPolicy>) -> anyhow::Result<u64> {
    let mut allowed = 0;
    let mut replays: HashMap<SessionId, Replay> = HashMap::new();
    walk(reader.records(), period, |entry| match entry {
        Entry::Decided(decided) if passed(&decided) => {
            let session = decided.session;
            let replay = replays.entry(session.id).or_insert_with(|| Replay::new(policy, session));
            let compared = compare(replay, replay, session, decided.operation, decided.at, true);
            allowed += u64::from(compared.after.effect == Effect::Allow.as_str());
        }
        Entry::Ended(id) => {
            replays.remove(&id);
        }
        Entry::Decided(_) | Entry::Observed(_) => {}
    })?;
    Ok(allowed)
}

/// What `diff` is told.
#[derive(Debug, Args)]
pub(super) struct DiffArguments {
    /// Replay recorded operations through both (the one way of comparing there is)
    #[arg(long, required = true)]
    replay: bool,
    /// A file or directory of policy: what is in force
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// A file or directory of policy: the change
    #[arg(value_name = "NEW")]
    new: PathBuf,
    #[command(flatten)]
    period: Period,
    /// Show at most this many kinds of changes
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Everything that was compared.
#[derive(Debug, Default, Serialize)]
struct Totals {
    operations: u64,
    sessions: u64,
    changed: u64,
    /// Changed operations by what changed.
    by: BTreeMap<&'static str, u64>,
    /// Operations of which the record holds less than a rule looks at, by what is missing.
    not_replayed: BTreeMap<&'static str, u64>,
    /// Operations whose session's start is not in the log.
    without_session: u64,
    /// Operations that OLD does not decide as it was recorded: another policy was in force then, or people decided.
    recorded_otherwise: u64,
    /// Changes beyond those that are listed one by one.
    not_listed: u64,
}

/// Operations that change in the same way.
#[derive(Debug, Serialize)]
struct Group {
    count: u64,
    #[serde(flatten)]
    compared: Compared,
    what: String,
    target: String,
    principal: String,
    /// The first of them.
    example: DecisionId,
    session: SessionId,
}

pub(super) fn diff(config: &Path, arguments: DiffArguments, format: Output) -> anyhow::Result<Exit> {
    let mut policies = Vec::new();
    for path in [&arguments.old, &arguments.new] {
        match load(std::slice::from_ref(path))? {
            Ok(loaded) => policies.push(Arc::new(loaded.policy)),
            Err(errors) => return rejected(&errors, format),
        }
    }
    let [old, new] = <[_; 2]>::try_from(policies).unwrap_or_else(|_| unreachable!("two were loaded"));
    let reader = arguments.period.reader(config)?;
    let period = arguments.period;
    let (totals, groups) = inspect::on_deep_stack(move || replayed(&reader, &period, &old, &new))?;
    match format {
        Output::Json => output::print_json(&json!({
            "totals": totals, "changes": groups.iter().take(arguments.limit).collect::<Vec<_>>(),
        }))?,
        Output::Text => output::print(&diff_text(&totals, &groups, arguments.limit))?,
    }
    Ok(if totals.changed == 0 { Exit::Done } else { Exit::Failed })
}

fn replayed(
    reader: &Reader,
    period: &Period,
    old: &Arc<CompiledPolicy>,
    new: &Arc<CompiledPolicy>,
) -> anyhow::Result<(Totals, Vec<Group>)> {
    let mut totals = Totals::default();
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut replays: HashMap<SessionId, [Replay; 2]> = HashMap::new();
    let mut met: HashSet<SessionId> = HashSet::new();
    let orphans = walk(reader.records(), period, |entry| {
        let decided = match entry {
            Entry::Decided(decided) => decided,
            Entry::Ended(id) => {
                replays.remove(&id);
                totals.sessions += u64::from(met.remove(&id));
                return;
            }
            Entry::Observed(_) => return,
        };
        let Decided { session, operation, verdict, at, .. } = decided;
        met.insert(session.id);
        let [before, after] = replays
            .entry(session.id)
            .or_insert_with(|| [Replay::new(old, session), Replay::new(new, session)]);
        // Which policy asked for the catalogue then, is known only of these two.
        let asked = [old, new]
            .into_iter()
            .any(|policy| *policy.version() == verdict.policy && policy.wants_catalogue(session));
        let compared = compare(before, after, session, operation, at, decided.with_catalogue || asked);
        totals.operations += 1;
        totals.recorded_otherwise += u64::from(compared.before.effect != recorded_effect(session, verdict));
        if let Some(doubt) = compared.doubt {
            *totals.not_replayed.entry(Doubt::as_str(doubt)).or_default() += 1;
        }
        if compared.differences.is_empty() {
            return;
        }
        totals.changed += 1;
        for difference in &compared.differences {
            *totals.by.entry(Difference::as_str(*difference)).or_default() += 1;
        }
        let facts = operation.facts.as_ref();
        let what = format!("{} ({})", facts.kind().replace('_', " "), facts.class());
        let (target, principal) = (session.target.name.to_string(), session.principal.id.clone());
        let key = json!([compared, what, target, principal]).to_string();
        if let Some(group) = places.get(&key).and_then(|place| groups.get_mut(*place)) {
            group.count += 1;
            return;
        }
        if groups.len() >= MAX_GROUPS {
            totals.not_listed += 1;
            return;
        }
        places.insert(key, groups.len());
        let (example, session) = (verdict.decision, session.id);
        groups.push(Group { count: 1, compared, what, target, principal, example, session });
    })?;
    totals.sessions += met.len() as u64;
    totals.without_session = orphans;
    groups.sort_by_key(|group| (group.compared.differences.first().copied(), std::cmp::Reverse(group.count)));
    Ok((totals, groups))
}

fn recorded_effect(session: &Session, verdict: &Verdict) -> &'static str {
    match (session.target.mode, &verdict.would) {
        (Mode::Shadow | Mode::Observe, Some(would)) => would.as_str(),
        (Mode::Shadow | Mode::Observe, None) | (Mode::Enforce, _) => verdict.effect.as_str(),
    }
}

fn diff_text(totals: &Totals, groups: &[Group], limit: usize) -> String {
    let mut out = format!("{} operations of {} sessions were replayed\n", totals.operations, totals.sessions);
    let counts = |counts: &BTreeMap<&'static str, u64>| {
        counts.iter().map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
    };
    out.push_str(&match totals.changed {
        0 => format!("{}\n", styled(Style::Green, "no decision would change")),
        changed => {
            let word = styled(Style::Yellow, &format!("{changed} decisions would change"));
            format!("{word}: {}\n", counts(&totals.by))
        }
    });
    if !totals.not_replayed.is_empty() {
        out.push_str(&format!(
            "not certain, since the record holds less than a rule looks at: {}\n",
            counts(&totals.not_replayed)
        ));
    }
    if totals.without_session > 0 {
        out.push_str(&format!(
            "not replayed, since their session began before the log: {}\n",
            totals.without_session
        ));
    }
    if totals.recorded_otherwise > 0 {
        out.push_str(&format!(
            "decided otherwise at the time than OLD does (another policy, masks, a grant): {}\n",
            totals.recorded_otherwise
        ));
    }
    if groups.is_empty() {
        return out;
    }
    out.push('\n');
    let mut table =
        Table::new(&["COUNT", "CHANGE", "FROM", "TO", "WHAT", "TARGET", "WHO", "RULES NOW", "FOR EXAMPLE"]);
    for group in groups.iter().take(limit) {
        let Compared { before, after, differences, .. } = &group.compared;
        let words: Vec<&str> = differences.iter().map(|difference| difference.as_str()).collect();
        let rules: Vec<String> = after.rules.iter().map(ToString::to_string).collect();
        table.row(vec![
            group.count.to_string(),
            words.join(", "),
            before.effect.to_owned(),
            after.effect.to_owned(),
            text::short(&group.what, 40),
            text::short(&group.target, 24),
            text::short(&group.principal, 40),
            text::short(&if rules.is_empty() { "none".to_owned() } else { rules.join(", ") }, 40),
            group.example.to_string(),
        ]);
    }
    out.push_str(&table.render());
    let more = groups.len().saturating_sub(limit) as u64 + totals.not_listed;
    if more > 0 {
        out.push_str(&format!("{more} more; --limit shows them\n"));
    }
    out
}
