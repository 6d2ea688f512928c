//! Who talks to what without being redirected: from the kernel's sightings to records, one for each identity and
//! destination and period.
//!
//! Sightings come of observed sets, of targets in observe mode, and of what is governed and goes elsewhere. It looks every
//! second, while most processes can still be read, adds up, and records when the period is over and at the end. What it
//! could not tell apart or name is counted in a `gap` record, never dropped unsaid. It decides nothing.

use super::{Agent, telemetry};
use crate::config::Address;
use lockgate_intercept::Sighting;
use lockgate_model::{
    Timestamp,
    addr::OriginalDst,
    event::{Event, EventKind},
    id::TargetName,
    observation::Observation,
    port::Attributor as _,
    principal::Principal,
    workload::{Assurance, Workload},
};
use lockgate_proxy::TargetTable;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::task::JoinSet;

/// How often the kernel is asked. A process that lives shorter is known by what the kernel noted of it alone.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Identities and destinations that are told apart in one period: a port scan must not fill the log.
const MAX_OBSERVED: usize = 2_048;
/// Processes whose identity is remembered in one period, and looked at in one go.
const MAX_PROCESSES: usize = 8_192;
/// Questions to issuers and platforms at a time.
const CONFIRMED_AT_A_TIME: usize = 32;

/// A process: thread group and start time.
type ProcessKey = (u32, u64);

/// What was seen in the current period.
#[derive(Debug)]
pub(super) struct Tally {
    since: Timestamp,
    seen: BTreeMap<(String, Assurance, SocketAddr, u32), Entry>,
    workloads: HashMap<ProcessKey, Arc<Workload>>,
    /// Connections that found no room in `seen`.
    beyond: u64,
    /// All that was ever taken out of the kernel's map; None before the first look.
    taken: Option<u64>,
    /// What the kernel counted and the map did not hold any more, as far as it was told.
    lost: u64,
}

#[derive(Debug)]
struct Entry {
    observation: Observation,
    processes: HashSet<ProcessKey>,
}

impl Tally {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { since: now, seen: BTreeMap::new(), workloads: HashMap::new(), beyond: 0, taken: None, lost: 0 }
    }

    /// Compares what the kernel counted before a look with what the look brought.
    fn account(&mut self, counted: u64, brought: u64) {
        let taken = match self.taken {
            // What was counted before the first look, and is in the map no more, was an earlier agent's to tell.
            None => counted.max(brought),
            Some(taken) => taken.saturating_add(brought),
        };
        let missing = counted.saturating_sub(taken);
        self.lost = self.lost.saturating_add(missing);
        self.taken = Some(taken.saturating_add(missing));
    }

    fn add(&mut self, sighting: &Sighting, workload: &Workload, place: Place) {
        let principal = Principal::of(workload);
        let key = (principal.id.clone(), principal.assurance, sighting.destination, sighting.protocol);
        if self.seen.len() >= MAX_OBSERVED && !self.seen.contains_key(&key) {
            self.beyond = self.beyond.saturating_add(sighting.times);
            return;
        }
        let entry = self.seen.entry(key).or_insert_with(|| Entry {
            observation: Observation {
                principal,
                workload: discreet(workload),
                destination: sighting.destination,
                protocol: protocol_name(sighting.protocol),
                target: place.target,
                name: place.name,
                connections: 0,
                bytes_sent: 0,
                bytes_received: 0,
                processes: 0,
                since: self.since,
                until: self.since,
            },
            processes: HashSet::new(),
        });
        let observation = &mut entry.observation;
        observation.connections = observation.connections.saturating_add(sighting.times);
        observation.bytes_sent = observation.bytes_sent.saturating_add(sighting.sent);
        observation.bytes_received = observation.bytes_received.saturating_add(sighting.received);
        if entry.processes.len() < MAX_PROCESSES {
            entry.processes.insert((sighting.process.tgid, sighting.process.start_boottime_ns));
        }
    }

    /// The events of the period that ends now; the next one begins.
    fn finish(&mut self, now: Timestamp) -> Vec<Event> {
        let seen = std::mem::take(&mut self.seen);
        let mut kinds: Vec<EventKind> = seen
            .into_values()
            .map(|Entry { mut observation, processes }| {
                observation.until = now;
                observation.processes = processes.len() as u64;
                EventKind::Observed(Box::new(observation))
            })
            .collect();
        let mut gap = |count: u64, detail: &str| {
            if count > 0 {
                let (stage, detail) = ("observe".to_owned(), detail.to_owned());
                kinds.push(EventKind::Gap { stage, count: Some(count), detail });
            }
        };
        gap(
            std::mem::take(&mut self.beyond),
            "connections were seen of more identities and to more destinations than are told apart in one period",
        );
        gap(
            std::mem::take(&mut self.lost),
            "connections were counted in the kernel, and who made them was not known any more",
        );
        self.workloads.clear();
        self.since = now;
        kinds.into_iter().map(|kind| Event { at: now, session: None, kind }).collect()
    }
}

/// Arguments and directories may hold anything, and nobody asked for them here.
fn discreet(workload: &Workload) -> Workload {
    let mut workload = workload.clone();
    workload.process.argv.truncate(1);
    workload
}

/// What a destination is known as.
#[derive(Debug, Default)]
struct Place {
    target: Option<TargetName>,
    name: Option<String>,
}

/// Looks for ever.
pub(super) async fn follow(agent: Arc<Agent>) {
    let every = agent.config.observe_every;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = tokio::time::Instant::now() + every;
    loop {
        looks.tick().await;
        look(&agent).await;
        if tokio::time::Instant::now() >= due {
            due += every;
            finish(&agent);
        }
    }
}

/// Looks once more and records what there is: for the agent's end.
pub(super) async fn flush(agent: &Arc<Agent>) {
    look(agent).await;
    finish(agent);
}

fn finish(agent: &Agent) {
    let events = tally(agent).finish(Timestamp::now());
    if !events.is_empty() {
        agent.alarms.submit(events);
    }
}

fn tally(agent: &Agent) -> std::sync::MutexGuard<'_, Tally> {
    agent.observed.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(agent: &Arc<Agent>) {
    let asked = agent.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let counted = asked.interceptor.counters().unregistered;
        let sightings = asked.interceptor.sightings()?;
        let mut new: HashMap<ProcessKey, (usize, Workload)> = HashMap::new();
        for (index, sighting) in sightings.iter().enumerate() {
            let key = key_of(sighting);
            let known = new.contains_key(&key) || tally(&asked).workloads.contains_key(&key);
            if !known {
                let workload = match new.len() < MAX_PROCESSES {
                    true => asked.interceptor.attribute(&sighting.flow()),
                    false => Workload::noted(&sighting.process, "the kernel recorded it at connect()"),
                };
                new.insert(key, (index, workload));
            }
        }
        Ok::<_, lockgate_intercept::InterceptError>((counted, sightings, new))
    });
    let (counted, sightings, new) = match looked.await {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => {
            tracing::warn!(%error, "who talks to what cannot be read from the kernel; trying on");
            return;
        }
        Err(error) => {
            tracing::error!(%error, "looking at who talks to what ended early");
            return;
        }
    };
    let confirmed = confirm(agent, &sightings, new).await;
    let names = agent.names();
    let table = match sightings.is_empty() {
        true => TargetTable::default(),
        false => agent.targets.table(&names),
    };
    let mut tally = tally(agent);
    if tally.workloads.len() < MAX_PROCESSES {
        tally.workloads.extend(confirmed.iter().map(|(key, workload)| (*key, workload.clone())));
    }
    tally.account(counted, sightings.iter().map(|sighting| sighting.times).sum());
    for sighting in &sightings {
        let key = key_of(sighting);
        let Some(workload) = confirmed.get(&key).or_else(|| tally.workloads.get(&key)).cloned() else {
            continue;
        };
        let place = place(agent, &table, &names, (sighting.destination, sighting.process.cgroup_id));
        let target = place.target.as_ref().map_or_else(String::new, ToString::to_string);
        metrics::counter!(telemetry::OBSERVED, "target" => target).increment(sighting.times);
        tally.add(sighting, &workload, place);
    }
}

/// Asks whoever can confirm new processes, a bounded number at a time.
async fn confirm(
    agent: &Agent,
    sightings: &[Sighting],
    new: HashMap<ProcessKey, (usize, Workload)>,
) -> HashMap<ProcessKey, Arc<Workload>> {
    let Some(confirmer) = &agent.confirmer else {
        return new.into_iter().map(|(key, (_, workload))| (key, Arc::new(workload))).collect();
    };
    let mut confirmed = HashMap::new();
    let mut asked = JoinSet::new();
    for (key, (index, workload)) in new {
        let Some(flow) = sightings.get(index).map(Sighting::flow) else { continue };
        if asked.len() >= CONFIRMED_AT_A_TIME
            && let Some(Ok((key, workload))) = asked.join_next().await
        {
            confirmed.insert(key, Arc::new(workload));
        }
        let confirmer = confirmer.clone();
        asked.spawn(async move { (key, confirmer.confirm(&flow, workload).await) });
    }
    while let Some(done) = asked.join_next().await {
        if let Ok((key, workload)) = done {
            confirmed.insert(key, Arc::new(workload));
        }
    }
    confirmed
}

fn place(
    agent: &Agent,
    table: &TargetTable,
    names: &super::names::Names,
    (destination, cgroup): (SocketAddr, u64),
) -> Place {
    let target = table.lookup(OriginalDst::new(destination), cgroup).map(|found| found.target.name.clone());
    let live = agent.targets.live();
    let addresses = live.configs.iter().flat_map(|target| &target.addresses);
    let named = addresses.filter_map(|address| match address {
        Address::Host { name, port } if *port == destination.port() => Some(name),
        Address::Host { .. } | Address::Net { .. } => None,
    });
    let name = named
        .into_iter()
        .find(|name| {
            let known = names.addresses(name).into_iter().chain(names.told(name));
            known.into_iter().any(|ip| ip == destination.ip())
        })
        .cloned();
    Place { target, name }
}

fn key_of(sighting: &Sighting) -> ProcessKey {
    (sighting.process.tgid, sighting.process.start_boottime_ns)
}

/// IANA protocol numbers.
fn protocol_name(number: u32) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        1 | 58 => "icmp".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_model::flow::ProcessFacts;

    fn sighting(tgid: u32, uid: u32, port: u16, times: u64) -> Sighting {
        let process = ProcessFacts {
            tgid,
            tid: tgid,
            start_boottime_ns: 1,
            uid,
            gid: uid,
            cgroup_id: 1,
            comm: "psql".to_owned(),
            creator_tgid: 0,
        };
        let destination = ([10, 0, 0, 1], port).into();
        Sighting { process, netns_cookie: 0, destination, protocol: 6, times, sent: 10, received: 20 }
    }

    fn add(tally: &mut Tally, sighting: &Sighting) {
        let mut workload = Workload::noted(&sighting.process, "test");
        workload.process.argv = vec!["psql".to_owned(), "secret".to_owned()];
        tally.add(sighting, &workload, Place::default());
    }

    fn observed(events: &[Event]) -> Vec<&Observation> {
        let of = |event: &Event| matches!(event.kind, EventKind::Observed(_));
        let observed = events.iter().filter(|event| of(event)).filter_map(|event| match &event.kind {
            EventKind::Observed(observation) => Some(observation.as_ref()),
            _ => None,
        });
        observed.collect()
    }

    fn gaps(events: &[Event]) -> Vec<u64> {
        let gap = |event: &Event| match &event.kind {
            EventKind::Gap { count, .. } => *count,
            _ => None,
        };
        events.iter().filter_map(gap).collect()
    }

    #[test]
    fn a_period_has_one_record_for_each_identity_and_destination() {
        let mut tally = Tally::new(Timestamp::UNIX_EPOCH);
        for seen in [sighting(1, 1000, 5432, 2), sighting(2, 1000, 5432, 1), sighting(3, 1001, 5432, 1)] {
            add(&mut tally, &seen);
        }
        add(&mut tally, &sighting(1, 1000, 80, 1));
        let now = Timestamp::from_second(60).unwrap();
        let events = tally.finish(now);
        let seen = observed(&events);
        assert_eq!(seen.len(), 3);
        let psql =
            seen.iter().find(|o| o.principal.id == "uid:1000" && o.destination.port() == 5432).unwrap();
        assert_eq!((psql.connections, psql.processes, psql.bytes_sent, psql.bytes_received), (3, 2, 20, 40));
        assert_eq!((psql.since, psql.until), (Timestamp::UNIX_EPOCH, now));
        assert_eq!(psql.workload.process.argv, ["psql"], "arguments may hold secrets");
        assert!(tally.finish(now).is_empty(), "a period without anything has no record");
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let mut tally = Tally::new(Timestamp::UNIX_EPOCH);
        for port in 0..3_000 {
            add(&mut tally, &sighting(1, 1000, port, 2));
        }
        let events = tally.finish(Timestamp::UNIX_EPOCH);
        assert_eq!(observed(&events).len(), MAX_OBSERVED);
        assert_eq!(gaps(&events), [2 * (3_000 - MAX_OBSERVED as u64)]);
    }

    #[test]
    fn what_the_kernel_counted_and_lost_is_told_once() {
        let mut tally = Tally::new(Timestamp::UNIX_EPOCH);
        // What an earlier agent left uncounted is not this one's.
        tally.account(100, 7);
        tally.account(110, 10);
        assert!(gaps(&tally.finish(Timestamp::UNIX_EPOCH)).is_empty());
        // Twenty more were counted, of which the map still held five.
        tally.account(130, 5);
        // Seen before they were counted: no debt, and no credit either.
        tally.account(130, 3);
        tally.account(133, 0);
        assert_eq!(gaps(&tally.finish(Timestamp::UNIX_EPOCH)), [15]);
    }
}
