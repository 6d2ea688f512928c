use super::*;
use crate::house::{
    Actor, Answer, ExplainQuery, Explained, Found, Governed, Killed, PolicyTest, PolicyView, Proof,
    ProofQuery, Registration, SearchQuery, SessionFilter, SessionRef, SessionSummary, SessionView, Sight,
    TargetView, VerifyReport, Watched,
};
use lockgate_model::{
    SessionId,
    id::{NodeName, TargetName},
};
use serde_json::{Value, json};

/// A log that grows when a test says so, and nothing else.
#[derive(Default)]
struct Written(Mutex<Vec<Record>>);

impl Written {
    fn grow(&self, count: u64) {
        let mut records = self.0.lock();
        for _ in 0..count {
            let seq = records.len() as u64 + 1;
            let line = json!({
                "v": 1, "node": "n", "seq": seq, "prev": "00".repeat(32), "at": "2026-11-21T10:00:00Z",
                "event": "agent_stopped", "data": { "node": "n" },
            });
            records.push(serde_json::from_value(line).unwrap());
        }
    }
}

struct Reading {
    log: Arc<Written>,
    at: usize,
}

impl Tail for Reading {
    fn more(&mut self, most: usize) -> Answer<'_, Vec<Record>> {
        let records: Vec<Record> = self.log.0.lock().iter().skip(self.at).take(most).cloned().collect();
        self.at += records.len();
        Box::pin(async move { Ok(records) })
    }
}

fn none<'a, T: Send + 'a>() -> Answer<'a, T> {
    Box::pin(async { Err(HouseError::Unavailable("not in this test".into())) })
}

struct Only(Arc<Written>);

impl House for Only {
    fn governs(&self, _: &crate::PeerCred) -> bool {
        false
    }
    fn newest(&self) -> Answer<'_, u64> {
        let newest = self.0.0.lock().len() as u64;
        Box::pin(async move { Ok(newest) })
    }
    fn tail(&self, after: Option<u64>) -> Answer<'_, Box<dyn Tail>> {
        let at = after.map_or(self.0.0.lock().len(), |after| usize::try_from(after).unwrap());
        let reading: Box<dyn Tail> = Box::new(Reading { log: self.0.clone(), at });
        Box::pin(async move { Ok(reading) })
    }
    fn node(&self) -> NodeName {
        "n".into()
    }
    fn seen(&self, record: Record, _: Sight) -> Record {
        record
    }
    fn status(&self) -> Answer<'_, Value> {
        none()
    }
    fn sessions(&self, _: SessionFilter) -> Answer<'_, Vec<SessionSummary>> {
        none()
    }
    fn session(&self, _: SessionRef, _: u64, _: usize, _: Sight) -> Answer<'_, SessionView> {
        none()
    }
    fn kill(&self, _: SessionId, _: Actor, _: String) -> Answer<'_, Killed> {
        none()
    }
    fn search(&self, _: SearchQuery, _: Sight) -> Answer<'_, Found> {
        none()
    }
    fn targets(&self, _: bool) -> Answer<'_, Vec<TargetView>> {
        none()
    }
    fn register(&self, _: Registration, _: Actor) -> Answer<'_, TargetView> {
        none()
    }
    fn unregister(&self, _: TargetName, _: Option<String>, _: Actor) -> Answer<'_, ()> {
        none()
    }
    fn governed(&self) -> Answer<'_, Governed> {
        none()
    }
    fn policy(&self) -> Answer<'_, PolicyView> {
        none()
    }
    fn explain(&self, _: ExplainQuery) -> Answer<'_, Vec<Explained>> {
        none()
    }
    fn test(&self) -> Answer<'_, Vec<PolicyTest>> {
        none()
    }
    fn verify(&self, _: Arc<Watched>) -> Answer<'_, Option<VerifyReport>> {
        none()
    }
    fn prove(&self, _: ProofQuery) -> Answer<'_, Proof> {
        none()
    }
}

fn feed() -> (Arc<Written>, Arc<Feed>) {
    let log = Arc::new(Written::default());
    let feed = Arc::new(Feed::new(Handle::current(), CancellationToken::new()));
    feed.attach(Arc::new(Only(log.clone())));
    (log, feed)
}

/// The numbers of the next so many records.
async fn numbers(watcher: &mut Watcher, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        match watcher.next().await.unwrap() {
            Seen::Record(record) => numbers.push(record.seq),
            Seen::Gap(first, last) => panic!("a gap from {first} to {last}"),
        }
    }
    numbers
}

#[tokio::test(start_paused = true)]
async fn watchers_see_what_comes_and_everything_once() {
    let (log, feed) = feed();
    log.grow(5);
    let mut first = feed.watch(None).await.unwrap().unwrap();
    log.grow(3);
    assert_eq!(numbers(&mut first, 3).await, [6, 7, 8]);
    // Who comes later sees what comes later.
    let mut second = feed.watch(None).await.unwrap().unwrap();
    log.grow(2);
    assert_eq!(numbers(&mut second, 2).await, [9, 10]);
    assert_eq!(numbers(&mut first, 2).await, [9, 10]);
}

#[tokio::test(start_paused = true)]
async fn whoever_was_away_goes_on_where_they_were_from_ring_and_log() {
    let (log, feed) = feed();
    log.grow(700);
    let mut live = feed.watch(None).await.unwrap().unwrap();
    log.grow(10);
    numbers(&mut live, 10).await;
    for after in [0, 1, 300, 699, 700, 705, 709] {
        let mut back = feed.watch(Some(after)).await.unwrap().unwrap();
        let expected: Vec<u64> = (after + 1..=710).collect();
        assert_eq!(numbers(&mut back, expected.len()).await, expected, "after {after}");
    }
    let mut back = feed.watch(Some(710)).await.unwrap().unwrap();
    log.grow(1);
    assert_eq!(numbers(&mut back, 1).await, [711]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_told_what_it_missed_and_holds_nobody_up() {
    let (log, feed) = feed();
    let mut slow = feed.watch(None).await.unwrap().unwrap();
    let mut quick = feed.watch(None).await.unwrap().unwrap();
    log.grow(1);
    assert_eq!(numbers(&mut slow, 1).await, [1]);
    assert_eq!(numbers(&mut quick, 1).await, [1]);
    let many = RING_RECORDS as u64 + 500;
    for _ in 0..many / 100 {
        log.grow(100);
        numbers(&mut quick, 100).await;
    }
    let Some(Seen::Gap(first, last)) = slow.next().await else { panic!("no gap") };
    assert_eq!(first, 2);
    assert!(last >= 100, "{last}");
    assert!(slow.next().await.is_none(), "its stream ends");
}

#[tokio::test(start_paused = true)]
async fn catching_up_is_bounded_and_made_up_places_are_refused() {
    let (log, feed) = feed();
    log.grow(BACKFILL_MAX + 100);
    let mut back = feed.watch(Some(3)).await.unwrap().unwrap();
    let Some(Seen::Gap(4, 100)) = back.next().await else { panic!("no gap") };
    assert_eq!(numbers(&mut back, 2).await, [101, 102]);
    assert!(matches!(feed.watch(Some(u64::MAX)).await, Err(HouseError::Invalid(_))));
}

#[tokio::test(start_paused = true)]
async fn places_are_bounded_and_come_back() {
    let (_log, feed) = feed();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS_MAX {
        watchers.push(feed.watch(None).await.unwrap().unwrap());
    }
    assert!(feed.watch(None).await.unwrap().is_none());
    watchers.pop();
    assert!(feed.watch(None).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn nobody_reads_when_nobody_watches_and_reading_begins_again() {
    let (log, feed) = feed();
    let watcher = feed.watch(None).await.unwrap().unwrap();
    log.grow(1);
    drop(watcher);
    tokio::time::sleep(IDLE * 3).await;
    assert!(!*feed.reading.lock());
    log.grow(5);
    let mut again = feed.watch(None).await.unwrap().unwrap();
    log.grow(1);
    assert_eq!(numbers(&mut again, 1).await, [7]);
}
