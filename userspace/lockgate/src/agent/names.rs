//! What the host names of targets mean, looked up again and again while the agent runs.
//!
//! Asked as every program of this host asks (the system's resolver, with /etc/hosts and search domains), and of the name
//! servers in /etc/resolv.conf, whose answers say how long they hold. A job may use an answer it got a while ago, so
//! addresses stay protected for a time after a name has stopped leading to them. A look-up that fails changes nothing.

use super::{Agent, targets};
use crate::config::{Address, TargetConfig};
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
};
use lockgate_intercept::Learned;
use lockgate_proxy::Told;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How often it is looked whether jobs were told something new; until then a connection there waits.
const HEAR_EVERY: Duration = Duration::from_millis(100);
/// How often what jobs were told is looked through for what is over.
const FORGET_EVERY: Duration = Duration::from_secs(5);
/// A name whose answer says nothing of its time (from /etc/hosts), or that gave none, is looked up again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// An answer that holds for less is believed for this long: a name server is not asked in a loop.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// One that holds for longer is asked for again all the same: records are changed before their time, too.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(300);
/// A resolver that has not answered by then will not.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// How long an address stays protected after its name was last seen to lead to it.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// Addresses of one name; the kernel's table is shared by all.
const MAX_ADDRESSES: usize = 64;

/// Names and what they mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    known: BTreeMap<String, Known>,
    /// What jobs were told, by whomever; the kernel keeps and bounds it.
    told: BTreeMap<String, BTreeSet<Told>>,
}

/// What is known of one name.
#[derive(Clone, Debug, Default)]
struct Known {
    /// When each address was last seen.
    addresses: BTreeMap<IpAddr, Instant>,
    /// When it is looked up next; at once at first.
    due: Option<Instant>,
}

/// What a name means, and for how long.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    addresses: BTreeSet<IpAddr>,
    holds: Option<Duration>,
}

impl Names {
    /// The names in these targets, not looked up yet.
    pub(crate) fn of(targets: &[TargetConfig]) -> Self {
        let addresses = targets.iter().flat_map(|target| &target.addresses);
        let names = addresses.filter_map(|address| match address {
            Address::Host { name, .. } => Some((name.clone(), Known::default())),
            Address::Net { .. } => None,
        });
        Self { known: names.collect(), told: BTreeMap::new() }
    }

    /// Is there anything to look up?
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The same for these targets: what is known of a name stays known, and what nobody names any more is forgotten.
    pub(crate) fn covering(&self, targets: &[TargetConfig]) -> Self {
        let mut wanted = Self::of(targets);
        for (name, known) in &mut wanted.known {
            known.clone_from(self.known.get(name).unwrap_or(&Known::default()));
        }
        wanted.told = self.told.clone();
        wanted
    }

    /// The names that lead nowhere yet.
    pub(crate) fn unknown(&self) -> Vec<String> {
        let empty = self.known.iter().filter(|(_, known)| known.addresses.is_empty());
        empty.map(|(name, _)| name.clone()).collect()
    }

    /// What a name means now.
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.known.get(name).into_iter().flat_map(|known| known.addresses.keys()).copied().collect()
    }

    /// What jobs were told a name means.
    pub(crate) fn told(&self, name: &str) -> Vec<IpAddr> {
        let all: BTreeSet<IpAddr> = self.told_to(name).into_iter().map(|told| told.address).collect();
        all.into_iter().collect()
    }

    /// The same, with whom.
    pub(crate) fn told_to(&self, name: &str) -> Vec<Told> {
        self.told.get(name).into_iter().flatten().copied().collect()
    }

    /// Takes what jobs were told in place of what they had been; true when something changed.
    fn hear(&mut self, learned: impl IntoIterator<Item = Learned>) -> bool {
        let mut told: BTreeMap<String, BTreeSet<Told>> = BTreeMap::new();
        for Learned { cgroup_id, name, address } in learned {
            told.entry(name).or_default().insert(Told { cgroup_id, address });
        }
        let changed = told != self.told;
        self.told = told;
        changed
    }

    /// Looks up those whose time has come; true when something changed. Names that gave no answer are returned with why.
    pub(crate) async fn look_up(&mut self) -> (bool, Vec<(String, String)>) {
        let answers = ask_all(self.due()).await;
        self.take(answers)
    }

    fn due(&self) -> Vec<String> {
        let now = Instant::now();
        let due = self.known.iter().filter(|(_, known)| known.due.is_none_or(|due| due <= now));
        due.map(|(name, _)| name.clone()).collect()
    }

    fn take(&mut self, answers: Vec<(String, Result<Answer, String>)>) -> (bool, Vec<(String, String)>) {
        let (mut changed, mut failed) = (false, Vec::new());
        for (name, answer) in answers {
            match answer {
                Ok(answer) => changed |= self.found(&name, &answer, Instant::now()),
                Err(why) => {
                    if let Some(known) = self.known.get_mut(&name) {
                        known.due = Some(Instant::now() + LOOK_AGAIN);
                    }
                    failed.push((name, why));
                }
            }
        }
        (changed, failed)
    }

    fn found(&mut self, name: &str, answer: &Answer, now: Instant) -> bool {
        let Some(Known { addresses, due }) = self.known.get_mut(name) else { return false };
        let next = answer.holds.map(|holds| holds.clamp(LOOK_AT_MOST_EVERY, LOOK_AT_LEAST_EVERY));
        *due = Some(now + next.unwrap_or(LOOK_AGAIN));
        let before: Vec<IpAddr> = addresses.keys().copied().collect();
        addresses.extend(answer.addresses.iter().take(MAX_ADDRESSES).map(|ip| (*ip, now)));
        addresses.retain(|_, seen| now.duration_since(*seen) < KEPT_FOR);
        while addresses.len() > MAX_ADDRESSES
            && let Some(oldest) = addresses.iter().min_by_key(|(_, seen)| **seen).map(|(ip, _)| *ip)
        {
            addresses.remove(&oldest);
        }
        !addresses.keys().copied().eq(before)
    }
}

async fn ask_all(names: Vec<String>) -> Vec<(String, Result<Answer, String>)> {
    let mut lookups = JoinSet::new();
    for name in names {
        lookups.spawn(async move {
            let answer = ask(&name).await;
            (name, answer)
        });
    }
    lookups.join_all().await
}

async fn ask(name: &str) -> Result<Answer, String> {
    let both = async { tokio::join!(ask_system(name), ask_servers(name)) };
    let (system, servers) = tokio::time::timeout(ANSWER_WITHIN, both)
        .await
        .map_err(|_| format!("no answer within {ANSWER_WITHIN:?}"))?;
    match (system, servers) {
        (Ok(addresses), None) => Ok(Answer { addresses, holds: None }),
        (Ok(mut addresses), Some(answer)) => {
            addresses.extend(answer.addresses);
            Ok(Answer { addresses, holds: answer.holds })
        }
        (Err(_), Some(answer)) => Ok(answer),
        (Err(why), None) => Err(why),
    }
}

async fn ask_system(name: &str) -> Result<BTreeSet<IpAddr>, String> {
    let found = tokio::net::lookup_host((name, 0)).await.map_err(|error| error.to_string())?;
    Ok(found.map(|found| found.ip().to_canonical()).collect())
}

/// With EDNS, over TCP where an answer is truncated, through aliases. `None` when they do not know the name: it may stand
/// in /etc/hosts alone.
async fn ask_servers(name: &str) -> Option<Answer> {
    let mut builder = TokioResolver::builder_tokio().ok()?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    options.edns0 = true;
    let found = builder.build().ok()?.lookup_ip(name).await.ok()?;
    let holds = found.as_lookup().answers().iter().map(|record| record.ttl).min();
    Some(Answer {
        addresses: found.iter().map(|ip| ip.to_canonical()).collect(),
        holds: holds.map(|seconds| Duration::from_secs(seconds.into())),
    })
}

/// Keeps the protected addresses what the targets' names mean, and what jobs are told that they mean.
pub(super) async fn follow(agent: Arc<Agent>) {
    if let Some(why) = agent.interceptor.deaf().filter(|_| !agent.names().is_empty()) {
        tracing::warn!(
            why,
            "answers of name servers to jobs are not heard: targets given by name are protected at the addresses that lockgate itself resolves"
        );
    }
    let mut names = agent.names();
    let mut targets = agent.targets.live();
    let (mut heard, mut forgotten) = (None, Instant::now());
    // Beside the hearing: a name server that does not answer must not hold up what jobs are told.
    let mut looking = JoinSet::new();
    loop {
        let now = Some(agent.interceptor.counters().learned);
        let mut changed = false;
        let live = agent.targets.live();
        if !Arc::ptr_eq(&live, &targets) {
            // Whoever registered a target has looked its names up already.
            names = agent.names().covering(&live.configs);
            (targets, heard) = (live, None);
        }
        if now != heard || forgotten.elapsed() >= FORGET_EVERY {
            changed |= names.hear(agent.interceptor.learned());
            (heard, forgotten) = (now, Instant::now());
        }
        if let Some(Ok(answers)) = looking.try_join_next() {
            let (moved, failed) = names.take(answers);
            changed |= moved;
            failed.iter().for_each(|(name, why)| warn_unknown(name, why));
        }
        if changed {
            apply(&agent, &names);
        }
        if looking.is_empty() {
            let due = names.due();
            if !due.is_empty() {
                looking.spawn(ask_all(due));
            }
        }
        tokio::time::sleep(HEAR_EVERY).await;
    }
}

fn warn_unknown(name: &str, why: &str) {
    tracing::warn!(name, why, "a target's name cannot be looked up; its last addresses stay protected");
}

/// Puts the targets and these meanings of their names in force.
pub(super) fn apply(agent: &Agent, names: &Names) {
    let live = agent.targets.live();
    // Served before redirected: a connection never arrives at an address that nobody knows.
    agent.proxy.replace_targets(agent.targets.table(names));
    let nets = targets::nets(&live.configs, names);
    if let Err(error) = agent.interceptor.set_targets(nets) {
        tracing::error!(%error, "new addresses of a target cannot be protected; the last ones stay");
    }
    let governed = targets::governed(&agent.config, &live.configs, names);
    if governed != agent.config.governed
        && let Err(error) = agent.interceptor.set_governed(&governed)
    {
        tracing::error!(%error, "new addresses of an observed target cannot be let through");
    }
    *agent.names.lock().unwrap_or_else(PoisonError::into_inner) = names.clone();
    tracing::info!("targets or their addresses have changed");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn answer(addresses: BTreeSet<IpAddr>) -> Answer {
        Answer { addresses, holds: None }
    }

    fn of(names: &[&str]) -> Names {
        let known = names.iter().map(|name| ((*name).to_owned(), Known::default()));
        Names { known: known.collect(), ..Names::default() }
    }

    #[test]
    fn an_address_stays_protected_for_a_while_after_its_name_moved() {
        let mut names = of(&["db"]);
        let start = Instant::now();
        assert!(names.found("db", &answer(ips(&["10.0.0.1"])), start));
        assert!(!names.found("db", &answer(ips(&["10.0.0.1"])), start));
        assert!(names.found("db", &answer(ips(&["10.0.0.2"])), start + Duration::from_secs(5)));
        assert_eq!(names.addresses("db"), ips(&["10.0.0.1", "10.0.0.2"]).into_iter().collect::<Vec<_>>());
        assert!(names.found("db", &answer(ips(&["10.0.0.2"])), start + KEPT_FOR));
        assert_eq!(names.addresses("db"), ips(&["10.0.0.2"]).into_iter().collect::<Vec<_>>());
        assert!(names.addresses("other").is_empty());
    }

    #[test]
    fn what_jobs_are_told_is_kept_apart_from_what_is_resolved() {
        let mut names = of(&["db"]);
        let learned =
            |ip: &str| Learned { cgroup_id: 7, name: "db".to_owned(), address: ip.parse().unwrap() };
        assert!(names.hear([learned("10.0.0.9")]) && !names.hear([learned("10.0.0.9")]));
        assert_eq!(names.told("db"), ips(&["10.0.0.9"]).into_iter().collect::<Vec<_>>());
        assert!(names.addresses("db").is_empty() && names.told("other").is_empty());
        assert!(names.hear([]) && names.told("db").is_empty());
    }

    #[test]
    fn a_name_is_looked_up_again_when_its_answer_is_over_within_bounds() {
        let seconds = Duration::from_secs;
        for (holds, next) in [
            (None, LOOK_AGAIN),
            (Some(seconds(0)), LOOK_AT_MOST_EVERY),
            (Some(seconds(30)), seconds(30)),
            (Some(seconds(86_400)), LOOK_AT_LEAST_EVERY),
        ] {
            let (mut names, now) = (of(&["db"]), Instant::now());
            names.found("db", &Answer { addresses: ips(&["10.0.0.1"]), holds }, now);
            assert_eq!(names.known["db"].due, Some(now + next), "{holds:?}");
        }
    }

    #[test]
    fn a_name_with_many_addresses_is_bounded() {
        let mut names = of(&["db"]);
        let many: BTreeSet<IpAddr> = (0..200u8).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        names.found("db", &answer(many), Instant::now());
        assert_eq!(names.addresses("db").len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn localhost_is_found_and_nonsense_says_why() {
        let mut names = of(&["localhost", "no-such.invalid"]);
        let (changed, failed) = names.look_up().await;
        assert!(changed && names.addresses("localhost").iter().any(IpAddr::is_loopback));
        assert_eq!(failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["no-such.invalid"]);
    }
}
