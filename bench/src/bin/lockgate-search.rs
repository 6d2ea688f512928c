//! A million searchable events, and how long questions about them take. `cargo xtask bench --search` drives it.

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lockgate_bench::results::{self, Section};
use lockgate_model::{
    OperationId, RequestId, SessionId, Timestamp,
    approval::{Resolution, Vote, VoteDecision},
    event::{Event, EventKind},
    operation::{Digest, Facts},
    port::Recorder as _,
    principal::Approver,
    sql::SqlClass,
};
use lockgate_store::{
    Log, LogSettings, Reader,
    contract::sample,
    search::{Decided, Query},
};
use nix::sys::resource::{UsageWho, getrusage};
use std::{
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// What is promised: over a million events, any question.
const PROMISED: Duration = Duration::from_millis(200);

/// Each question is asked so often.
const ROUNDS: usize = 200;

/// Small commits after the index is whole, each of so many records: what an agent does on an ordinary day.
const COMMITS: usize = 20;
const RECORDS: usize = 40;

/// As the agent has it: memory is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Events that are handed to the log at once.
const BATCH: usize = 256;

#[derive(Parser)]
struct Wanted {
    /// How many events
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Where they rest meanwhile: some 2 GB
    #[arg(long, default_value = "target")]
    dir: std::path::PathBuf,
    /// Leave bench/RESULTS.md as it is
    #[arg(long)]
    dry: bool,
}

fn main() -> Result<()> {
    let wanted = Wanted::parse();
    let temporary = tempfile::Builder::new().prefix("search-bench-").tempdir_in(&wanted.dir)?;
    let dir = temporary.path().join("store");
    fill(&dir, wanted.events)?;
    let log_bytes = bytes_in(&dir.join("segments"))?;
    let (log, built) = build(&dir)?;
    let reader = log.reader();
    let answers: Vec<_> =
        questions().into_iter().map(|(name, query)| ask(&reader, name, &query)).collect::<Result<_>>()?;
    let index_bytes = bytes_in(&dir.join("search"))?;
    let commits = commits(&log)?;
    let report = Report { events: wanted.events, log_bytes, index_bytes, built, answers, commits };
    println!("{}", report.text());
    if !wanted.dry {
        results::store(Section::Search, &report.text())?;
    }
    log.close()?;
    let slow = report.answers.iter().find(|answer| answer.p99 > PROMISED);
    ensure!(
        slow.is_none(),
        "slower than {PROMISED:?}: {}",
        slow.map(|answer| answer.name).unwrap_or_default()
    );
    Ok(())
}

/// Sessions of 50 statements each; one statement in 25 is held and decided by somebody.
fn fill(dir: &Path, events: u64) -> Result<()> {
    let log = open(dir, false)?;
    let mut batch = Vec::new();
    let mut made = 0;
    for n in 0_u64.. {
        let session = {
            let mut session = sample::session(u32::try_from(n % 5_000)?);
            session.id = SessionId::from_parts(1_000_000 + n, 7);
            session
        };
        let mut day = vec![sample::started(&session)];
        for k in 0..50 {
            statement(&mut day, &session, n * 50 + k);
        }
        day.push(sample::ended(&session));
        for event in day {
            batch.push(event);
            made += 1;
            if batch.len() == BATCH || made == events {
                log.submit(std::mem::take(&mut batch));
                // What nobody waits for is lost past a bound.
                if made % (BATCH as u64 * 16) == 0 {
                    lockgate_store::contract::record(
                        &log,
                        vec![sample::mark("pace", made)],
                        lockgate_model::port::Durability::Written,
                    )
                    .map_err(|error| anyhow::anyhow!("{error}"))?;
                    made += 1;
                }
            }
            if made >= events {
                log.submit(std::mem::take(&mut batch));
                log.close()?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn statement(day: &mut Vec<Event>, session: &lockgate_model::session::Session, n: u64) {
    const WORDS: [&str; 8] =
        ["invoice", "refund", "settlement", "address", "coupon", "ledger", "batch", "customer"];
    let (table, class) = match n % 25 {
        0 => ("public.orders", SqlClass::Ddl),
        1..=4 => ("public.payments", SqlClass::Write),
        5 => ("reporting.daily_sales", SqlClass::Read),
        _ => ("public.orders", SqlClass::Read),
    };
    let word = WORDS[(n.wrapping_mul(2_654_435_761) >> 7) as usize % WORDS.len()];
    let text =
        format!("SELECT {word}_note, amount FROM {table} WHERE id = {n} AND state = 'open' -- {}", n % 9_973);
    let mut event =
        if n % 40 == 7 { sample::denied(session, &text) } else { sample::decided(session, &text) };
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&n.to_le_bytes());
    let at = sample::at((n / 20).cast_signed());
    event.at = at;
    if let EventKind::OperationDecided { operation, .. } = &mut event.kind {
        operation.id = OperationId::from_parts(n, 1);
        operation.digest = Digest(digest);
        if let Facts::Sql(facts) = Arc::make_mut(&mut operation.facts) {
            facts.class = class;
            facts.tables_read = vec![table.to_owned().into()];
        }
    }
    day.push(event);
    if !n.is_multiple_of(25) {
        return;
    }
    let request = RequestId::from_parts(n, 1);
    let (asked, resolved) = decided(n, request, Digest(digest), at);
    day.extend([asked, resolved].map(|kind| Event { at, session: Some(session.id), kind }));
}

fn decided(n: u64, request: RequestId, command_digest: Digest, at: Timestamp) -> (EventKind, EventKind) {
    let operation = OperationId::from_parts(n, 1);
    let asked =
        EventKind::ApprovalRequested { request, operation, command_digest, expires_at: at, takes_up: None };
    let by = Approver {
        id: format!("oidc:corp:dba{}@example.com", n % 12),
        groups: vec!["dba".into()],
        via: "console".into(),
        also: Vec::new(),
    };
    let vote = Vote {
        by,
        decision: VoteDecision::Approve,
        reason: Some(format!("change {}", n % 4_000)),
        at,
        grant: None,
    };
    (
        asked,
        EventKind::ApprovalResolved {
            request,
            resolution: Resolution::Approved { votes: vec![vote], basis: None },
        },
    )
}

fn open(dir: &Path, search: bool) -> Result<Log> {
    let settings = LogSettings { search, ..LogSettings::new(dir, "bench".into()) };
    Ok(Log::open(settings, Arc::new(sample::FixedAmbient::default()))?)
}

/// What making the index anew costs.
struct Built {
    records: u64,
    wall: Duration,
    cpu: Duration,
    resident_mib: u64,
}

fn build(dir: &Path) -> Result<(Log, Built)> {
    let before = cpu()?;
    let began = Instant::now();
    let log = open(dir, true)?;
    let reader = log.reader();
    let records = loop {
        let found = reader.search(&Query { limit: Some(1), before: Some(1), ..Query::default() })?;
        if found.indexed == found.last {
            break found.last;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let built = Built { records, wall: began.elapsed(), cpu: cpu()? - before, resident_mib: resident_mib() };
    // Merging goes on for a moment: questions are asked of an index at rest.
    let mut last = cpu()?;
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = cpu()?;
        if now - last < Duration::from_millis(100) {
            return Ok((log, Built { cpu: now - before, ..built }));
        }
        last = now;
    }
}

fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).cast_unsigned())
    };
    Ok(of(usage.user_time()) + of(usage.system_time()))
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn questions() -> Vec<(&'static str, Query)> {
    let text = |text: &str| Query { text: Some(text.into()), ..Query::default() };
    vec![
        ("everything, newest first", Query::default()),
        ("a page deep in it", Query { before: Some(400_000), ..Query::default() }),
        ("the most common words", text("select amount from where")),
        ("a rare word", text("9972")),
        ("two words and a table", Query { table: Some("payments".into()), ..text("refund open") }),
        ("a phrase", text("\"invoice_note amount\"")),
        ("a phrase that nothing holds", text("\"amount invoice_note\"")),
        ("an identity", Query { identity: Some("uid:1042".into()), ..Query::default() }),
        ("a target", Query { target: Some("orders-1".into()), ..Query::default() }),
        (
            "a class and a decision",
            Query { class: Some("write".into()), decision: Some(Decided::Denied), ..Query::default() },
        ),
        (
            "who approved what",
            Query { approver: Some("dba3".into()), decision: Some(Decided::Approved), ..Query::default() },
        ),
        (
            "an hour",
            Query { since: Some(sample::at(10_000)), until: Some(sample::at(13_600)), ..Query::default() },
        ),
        (
            "everything at once",
            Query {
                identity: Some("uid:1042".into()),
                target: Some("orders-0".into()),
                table: Some("orders".into()),
                since: Some(sample::at(0)),
                until: Some(sample::at(40_000)),
                ..text("open")
            },
        ),
        ("a page of 500", Query { limit: Some(500), ..text("ledger") }),
        ("nothing", text("unicorn")),
    ]
}

struct Answer {
    name: &'static str,
    hits: usize,
    median: Duration,
    p99: Duration,
    slowest: Duration,
}

fn ask(reader: &Reader, name: &'static str, query: &Query) -> Result<Answer> {
    let mut times = Vec::with_capacity(ROUNDS);
    let mut hits = 0;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let found = reader.search(query)?;
        times.push(began.elapsed());
        hits = found.hits.len();
        ensure!(found.complete, "{name}: the answer is not complete");
    }
    times.sort();
    let slowest = times.last().copied().context("no round")?;
    Ok(Answer { name, hits, median: times[times.len() / 2], p99: times[times.len() * 99 / 100], slowest })
}

/// Resident MiB before, and the most and the last after small commits.
struct Commits {
    before: u64,
    most: u64,
    after: u64,
}

/// What commits of a few records cost, one after the other.
fn commits(log: &Log) -> Result<Commits> {
    let reader = log.reader();
    let session = sample::session(1);
    let before = resident_mib();
    let mut most = before;
    for number in 0..COMMITS {
        let events = (0..RECORDS).map(|n| sample::decided(&session, &format!("select {number}, {n}")));
        log.submit(events.collect());
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            std::thread::sleep(Duration::from_millis(50));
            most = most.max(resident_mib());
            let found = reader.search(&Query { limit: Some(1), before: Some(1), ..Query::default() })?;
            if found.indexed == found.last {
                break;
            }
            ensure!(Instant::now() < end, "the index does not catch up: {} of {}", found.indexed, found.last);
        }
    }
    std::thread::sleep(Duration::from_secs(5));
    Ok(Commits { before, most, after: resident_mib() })
}

struct Report {
    events: u64,
    log_bytes: u64,
    index_bytes: u64,
    built: Built,
    answers: Vec<Answer>,
    commits: Commits,
}

impl Report {
    fn text(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let Built { records, wall, cpu, resident_mib } = &self.built;
        let per = cpu.as_secs_f64() * 100_000.0 / *records as f64;
        let mut text = format!(
            "Machine: {}. Command: `cargo xtask bench --search`.\n\n{} events in {} MiB of log; the index takes {} MiB. Made anew from the log \
             it took {:.0} s and {per:.2} s of CPU per 100,000 records, by threads of the lowest priority; the process \
             then held {resident_mib} MiB. Each question {ROUNDS} times, a page of 50 hits, every hit read from the log \
             again; promised are {} ms.\n\n| question | hits | p50 ms | p99 ms | slowest ms |\n|---|---:|---:|---:|---:|\n",
            results::machine(),
            self.events,
            mib(self.log_bytes),
            mib(self.index_bytes),
            wall.as_secs_f64(),
            PROMISED.as_millis(),
        );
        for Answer { name, hits, median, p99, slowest } in &self.answers {
            let [median, p99, slowest] = [median, p99, slowest].map(|time| time.as_secs_f64() * 1_000.0);
            let _ = writeln!(text, "| {name} | {hits} | {median:.1} | {p99:.1} | {slowest:.1} |");
        }
        let Commits { before, most, after } = self.commits;
        let _ = write!(
            text,
            "\n{COMMITS} commits of {RECORDS} records each, one after the other: {before} MiB resident before, {most} MiB \
             at most meanwhile, {after} MiB 5 s after the last.\n"
        );
        text
    }
}

fn bytes_in(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
