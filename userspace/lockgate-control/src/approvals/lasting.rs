//! Attacks on what outlives a restart: an older copy of the shelf put back, an edited one, a missing one. The log is not
//! touched: whoever can rewrite that is found by its signed heads.

use crate::{
    Control, Lasting,
    testing::{Ask, Clock, Log, Stage, settings},
};
use lockgate_model::{
    GrantId, RequestId,
    approval::{Resolution, Vote, VoteDecision},
    event::EventKind,
    grant::{Basis, GrantTerms, ReuseTerms, Same},
    operation::Digest,
    port::{Ambient, Approvals, PendingApproval, Shelf},
    principal::Approver,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

use super::case::Ballot;

/// A shelf in memory, with a copy of what anybody ever saw of it.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Shelf for Memory {
    fn put(&self, name: &str, value: &[u8]) -> io::Result<()> {
        self.0.lock().insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().remove(name);
        Ok(())
    }

    fn all(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        Ok(self.0.lock().clone().into_iter().collect())
    }
}

/// A control plane that is stopped and started over one log and one shelf.
struct House {
    log: Arc<Log>,
    clock: Arc<Clock>,
    shelf: Arc<Memory>,
    control: Arc<Control>,
}

impl House {
    fn new() -> Self {
        let (log, clock, shelf) =
            (Arc::new(Log::default()), Arc::new(Clock::new()), Arc::new(Memory::default()));
        let control = Self::start(&log, &clock, &shelf);
        Self { log, clock, shelf, control }
    }

    fn start(log: &Arc<Log>, clock: &Arc<Clock>, shelf: &Arc<Memory>) -> Arc<Control> {
        let lasting = Lasting {
            shelf: Some(shelf.clone()),
            shelved: Some(shelved(log)),
            left_open: left_open(log),
            ..Lasting::default()
        };
        Control::start_with(settings(Vec::new()), log.clone(), clock.clone(), &lasting).unwrap()
    }

    /// What a crash leaves, with `attack` done to the shelf meanwhile.
    async fn restart(&mut self, attack: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        settled().await;
        attack(&mut self.shelf.0.lock());
        self.control = Self::start(&self.log, &self.clock, &self.shelf);
        settled().await;
    }

    fn copy(&self) -> BTreeMap<String, Vec<u8>> {
        self.shelf.0.lock().clone()
    }

    async fn ask(&self) -> (RequestId, Box<dyn PendingApproval>) {
        let stage = Stage { control: self.control.clone(), log: self.log.clone(), clock: self.clock.clone() };
        let mut request = stage.request(Ask::default());
        let reuse = ReuseTerms {
            same: BTreeSet::from([Same::Digest, Same::Principal]),
            duration: Duration::from_secs(900),
            uses: 1,
        };
        request.spec.requirements[0].terms.reuse = Some(reuse);
        let id = request.id;
        (id, self.control.open(request).await.unwrap())
    }

    async fn approve(&self, id: RequestId, grant: Option<GrantTerms>) {
        let case = self.control.desk.registry.find(id).unwrap();
        let by = Approver {
            id: "webhook:a:ana".into(),
            groups: vec!["dba".into()],
            via: "test".into(),
            also: Vec::new(),
        };
        let vote = Vote { by, decision: VoteDecision::Approve, reason: None, at: self.clock.now(), grant };
        let (reply, answer) = oneshot::channel();
        assert!(case.ballots.send(Ballot { vote, reply }).await.is_ok());
        answer.await.unwrap().unwrap();
    }

    fn alarms(&self) -> Vec<String> {
        self.log.pick(|kind| match kind {
            EventKind::Gap { stage, detail, .. } if stage == "shelf" => Some(detail.clone()),
            _ => None,
        })
    }

    fn grants(&self) -> Vec<GrantId> {
        self.control.desk.keep.ledger.lock().grants().map(|grant| grant.id).collect()
    }
}

/// What the real log's index says of the shelf.
fn shelved(log: &Log) -> BTreeMap<String, Digest> {
    let mut shelved = BTreeMap::new();
    for (name, digest) in log.pick(|kind| match kind {
        EventKind::Shelved { name, digest } => Some((name.clone(), *digest)),
        _ => None,
    }) {
        match digest {
            Some(digest) => drop(shelved.insert(name, digest)),
            None => drop(shelved.remove(&name)),
        }
    }
    shelved
}

fn left_open(log: &Log) -> BTreeSet<RequestId> {
    let asked = log.pick(|kind| match kind {
        EventKind::ApprovalRequested { request, .. } => Some(*request),
        _ => None,
    });
    let ended: BTreeSet<RequestId> = log
        .pick(|kind| match kind {
            EventKind::ApprovalResolved { request, .. } => Some(*request),
            _ => None,
        })
        .into_iter()
        .collect();
    asked.into_iter().filter(|request| !ended.contains(request)).collect()
}

/// Everything that can go on has gone on.
async fn settled() {
    for _ in 0..50 {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        tokio::task::yield_now().await;
    }
}

fn how(pending: &dyn PendingApproval) -> Option<Resolution> {
    pending.progress().resolution
}

#[tokio::test]
async fn a_used_single_use_approval_stays_used_when_an_older_shelf_is_put_back() {
    let mut house = House::new();
    let (first, _waits) = house.ask().await;
    house.approve(first, None).await;
    settled().await;
    let older = house.copy();
    assert!(older.keys().any(|name| name.ends_with(".reuse")), "{:?}", older.keys());

    // It is good for one retry, also after an honest restart ...
    house.restart(|_| ()).await;
    assert!(house.alarms().is_empty(), "{:?}", house.alarms());
    let (_, retry) = house.ask().await;
    assert!(matches!(how(&*retry), Some(Resolution::Approved { basis: Some(Basis::Reuse { .. }), .. })));
    // ... and not for a second one, whatever lies on the shelf.
    house.restart(|shelf| *shelf = older).await;
    let (_, again) = house.ask().await;
    assert_eq!(how(&*again), None, "a used approval came back");
    assert_eq!(house.alarms().len(), 1, "{:?}", house.alarms());
    assert!(!house.copy().keys().any(|name| name.ends_with(".reuse")), "it is off the shelf");
}

#[tokio::test]
async fn a_revoked_or_changed_grant_is_none() {
    let grant = || Some(GrantTerms { duration: Duration::from_secs(900), uses: Some(3), ahead: None });
    let mut house = House::new();
    let (first, _waits) = house.ask().await;
    house.approve(first, grant()).await;
    settled().await;
    let older = house.copy();
    let [id] = house.grants()[..] else { panic!("no grant") };
    house.restart(|_| ()).await;
    assert_eq!(house.grants(), [id], "an honest restart keeps it");

    // More uses than were given.
    let edit = |shelf: &mut BTreeMap<String, Vec<u8>>| {
        let value = shelf.get_mut(&id.to_string()).unwrap();
        let text = String::from_utf8(value.clone()).unwrap();
        assert!(text.contains("\"uses\":3"), "{text}");
        *value = text.replace("\"uses\":3", "\"uses\":9999").into_bytes();
    };
    house.restart(edit).await;
    assert!(house.grants().is_empty());
    assert!(house.alarms().iter().any(|detail| detail.contains(&id.to_string())), "{:?}", house.alarms());

    // Taken back by hand, and the shelf of before put back.
    let mut house = House { shelf: Arc::new(Memory(Mutex::new(BTreeMap::new()))), ..House::new() };
    house.control = House::start(&house.log, &house.clock, &house.shelf);
    let (first, _waits) = house.ask().await;
    house.approve(first, grant()).await;
    settled().await;
    let copy = house.copy();
    let [id] = house.grants()[..] else { panic!("no grant") };
    assert!(house.control.desk.keep.ledger.lock().revoke(id).is_some());
    house.control.desk.keep.remove(id.to_string()).await.unwrap();
    house.restart(|shelf| *shelf = copy).await;
    assert!(house.grants().is_empty(), "a revoked grant came back");

    // Somebody else's, put there by hand.
    let name = "grt_06bvt4vfd4000000000000001r".to_owned();
    let stranger = older.get(&older.keys().find(|name| name.starts_with("grt_")).cloned().unwrap()).cloned();
    house.restart(|shelf| drop(shelf.insert(name, stranger.unwrap()))).await;
    assert!(house.grants().is_empty());
}

#[tokio::test]
async fn a_request_with_votes_that_nobody_cast_is_withdrawn_and_recorded() {
    let mut house = House::new();
    let (first, waits) = house.ask().await;
    settled().await;
    let name = first.to_string();
    let edit = |shelf: &mut BTreeMap<String, Vec<u8>>| {
        let value = shelf.get_mut(&name).unwrap();
        let text = String::from_utf8(value.clone()).unwrap();
        *value = text.replace("\"need\":1", "\"need\":0").into_bytes();
        assert_ne!(text.as_bytes(), value, "{text}");
    };
    // The process is gone at once: its clients with it, unrecorded.
    std::mem::forget(waits);
    house.restart(edit).await;
    assert!(left_open(&house.log).is_empty(), "a request that is not believed is still open");
    assert!(house.control.desk.registry.find(first).is_none());
    // What was not touched waits on.
    let (second, waits) = house.ask().await;
    std::mem::forget(waits);
    house.restart(|_| ()).await;
    assert!(house.control.desk.registry.find(second).is_some());
    assert_eq!(house.alarms().len(), 1);
}
