//! Recording: what one decided SELECT costs where it is made (encode), at the log's one writer (link), and from
//! asking to being answered, written or synced, for one recorder and for many.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lockgate_audit::{Chain, Encoded, Tip, canonical};
use lockgate_model::port::{Durability, Recorder};
use lockgate_store::{Log, LogSettings, contract::sample};
use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

const STATEMENT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 42";

/// Recorders at once in the crowded case: pgbench's 32 clients.
const CROWD: u64 = 32;

fn encode(c: &mut Criterion) {
    let event = sample::decided(&sample::session(1), STATEMENT);
    let encoded = Encoded::of(&event).expect("encodes");
    let mut line = Vec::new();
    Chain::resume(&"build-7".into(), Tip::EMPTY).append(&encoded, &mut line);
    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Bytes(line.len() as u64));
    group.bench_function("encode", |b| b.iter(|| Encoded::of(black_box(&event)).expect("encodes")));
    group.bench_function("link", |b| {
        let mut chain = Chain::resume(&"build-7".into(), Tip::EMPTY);
        b.iter_batched_ref(
            || Vec::with_capacity(4096),
            |out| chain.append(black_box(&encoded), out),
            BatchSize::SmallInput,
        );
    });
    line.pop();
    group.bench_function("check", |b| b.iter(|| canonical::check(black_box(&line)).expect("canonical")));
    group.finish();
}

fn record(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = LogSettings::new(directory.path().join("store"), "build-7".into());
    let log = Arc::new(Log::open(settings, Arc::new(sample::FixedAmbient::default())).expect("opens"));
    let event = sample::decided(&sample::session(1), STATEMENT);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");

    let mut group = c.benchmark_group("record");
    for (name, durability) in [("written", Durability::Written), ("synced", Durability::Synced)] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{name}, one recorder"), |b| {
            b.iter_custom(|rounds| {
                let (log, event) = (log.clone(), event.clone());
                let work = runtime.spawn(async move {
                    let begin = Instant::now();
                    for _ in 0..rounds {
                        let _ = log.record(vec![event.clone()], durability).await.expect("recorded");
                    }
                    begin.elapsed()
                });
                runtime.block_on(work).expect("the task ends")
            });
        });
        group.throughput(Throughput::Elements(CROWD));
        group.bench_function(format!("{name}, {CROWD} recorders"), |b| {
            b.iter_custom(|rounds| runtime.block_on(crowd(&log, &event, durability, rounds)));
        });
    }
    group.finish();
    log.close().expect("closes");
}

/// Every recorder records `rounds` times.
async fn crowd(
    log: &Arc<Log>,
    event: &lockgate_model::event::Event,
    durability: Durability,
    rounds: u64,
) -> Duration {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..CROWD)
        .map(|_| {
            let (log, event) = (log.clone(), event.clone());
            tokio::spawn(async move {
                for _ in 0..rounds {
                    let _ = log.record(vec![event.clone()], durability).await.expect("recorded");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the task ends");
    }
    begin.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = encode, record
}
criterion_main!(benches);
