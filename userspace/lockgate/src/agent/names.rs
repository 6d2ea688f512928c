//! What the host names of targets mean, looked up again and again while the agent runs.
//!
//! A job may use an answer it got a while ago, so addresses stay protected for a time after a name has
//! stopped leading to them. A look-up that fails changes nothing.

use crate::config::{Address, TargetConfig};
use lockgate_intercept::Learned;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// How often names are looked up. A job that sees a new answer before lockgate does would connect directly.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether jobs were told something new; until then a connection there waits.
pub(crate) const HEAR_EVERY: Duration = Duration::from_millis(100);
/// A resolver that has not answered by then will not.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// How long an address stays protected after its name was last seen to lead to it.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// Addresses of one name; the kernel's table is shared by all.
const MAX_ADDRESSES: usize = 64;

/// Names and what they mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    known: BTreeMap<String, BTreeMap<IpAddr, Instant>>,
    /// What jobs were told, by whomever; the kernel keeps and bounds it.
    told: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Names {
    /// The names in these targets, not looked up yet.
    pub(crate) fn of(targets: &[TargetConfig]) -> Self {
        let addresses = targets.iter().flat_map(|target| &target.addresses);
        let names = addresses.filter_map(|address| match address {
            Address::Host { name, .. } => Some((name.clone(), BTreeMap::new())),
            Address::Net { .. } => None,
        });
        Self { known: names.collect(), told: BTreeMap::new() }
    }

    /// Is there anything to look up?
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What a name means now.
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.known.get(name).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// What jobs were told a name means.
    pub(crate) fn told(&self, name: &str) -> Vec<IpAddr> {
        self.told.get(name).into_iter().flatten().copied().collect()
    }

    /// Takes what jobs were told in place of what they had been; true when something changed.
    pub(crate) fn hear(&mut self, learned: impl IntoIterator<Item = Learned>) -> bool {
        let mut told: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for Learned { name, address } in learned {
            told.entry(name).or_default().insert(address);
        }
        let changed = told != self.told;
        self.told = told;
        changed
    }

    /// Looks all of them up; true when something changed. Names that gave no answer are returned with why.
    pub(crate) async fn look_up(&mut self) -> (bool, Vec<(String, String)>) {
        let mut lookups = tokio::task::JoinSet::new();
        for name in self.known.keys().cloned() {
            lookups.spawn(async move {
                let answer = ask(&name).await;
                (name, answer)
            });
        }
        let mut changed = false;
        let mut failed = Vec::new();
        while let Some(done) = lookups.join_next().await {
            match done {
                Ok((name, Ok(found))) => changed |= self.found(&name, &found, Instant::now()),
                Ok((name, Err(why))) => failed.push((name, why)),
                Err(_) => {}
            }
        }
        (changed, failed)
    }

    fn found(&mut self, name: &str, found: &BTreeSet<IpAddr>, now: Instant) -> bool {
        let Some(known) = self.known.get_mut(name) else { return false };
        let before: Vec<IpAddr> = known.keys().copied().collect();
        known.extend(found.iter().take(MAX_ADDRESSES).map(|ip| (*ip, now)));
        known.retain(|_, seen| now.duration_since(*seen) < KEPT_FOR);
        while known.len() > MAX_ADDRESSES
            && let Some(oldest) = known.iter().min_by_key(|(_, seen)| **seen).map(|(ip, _)| *ip)
        {
            known.remove(&oldest);
        }
        !known.keys().copied().eq(before)
    }
}

async fn ask(name: &str) -> Result<BTreeSet<IpAddr>, String> {
    match tokio::time::timeout(ANSWER_WITHIN, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => Ok(found.map(|found| found.ip().to_canonical()).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_stays_protected_for_a_while_after_its_name_moved() {
        let mut names = Names { known: [("db".to_owned(), BTreeMap::new())].into(), ..Names::default() };
        let start = Instant::now();
        assert!(names.found("db", &ips(&["10.0.0.1"]), start));
        assert!(!names.found("db", &ips(&["10.0.0.1"]), start));
        assert!(names.found("db", &ips(&["10.0.0.2"]), start + Duration::from_secs(5)));
        assert_eq!(names.addresses("db"), ips(&["10.0.0.1", "10.0.0.2"]).into_iter().collect::<Vec<_>>());
        assert!(names.found("db", &ips(&["10.0.0.2"]), start + KEPT_FOR));
        assert_eq!(names.addresses("db"), ips(&["10.0.0.2"]).into_iter().collect::<Vec<_>>());
        assert!(names.addresses("other").is_empty());
    }

    #[test]
    fn what_jobs_are_told_is_kept_apart_from_what_is_resolved() {
        let mut names = Names { known: [("db".to_owned(), BTreeMap::new())].into(), ..Names::default() };
        let learned = |ip: &str| Learned { name: "db".to_owned(), address: ip.parse().unwrap() };
        assert!(names.hear([learned("10.0.0.9")]) && !names.hear([learned("10.0.0.9")]));
        assert_eq!(names.told("db"), ips(&["10.0.0.9"]).into_iter().collect::<Vec<_>>());
        assert!(names.addresses("db").is_empty() && names.told("other").is_empty());
        assert!(names.hear([]) && names.told("db").is_empty());
    }

    #[test]
    fn a_name_with_many_addresses_is_bounded() {
        let mut names = Names { known: [("db".to_owned(), BTreeMap::new())].into(), ..Names::default() };
        let many: BTreeSet<IpAddr> = (0..200u8).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        names.found("db", &many, Instant::now());
        assert_eq!(names.addresses("db").len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn localhost_is_found_and_nonsense_says_why() {
        let mut names = Names {
            known: [
                ("localhost".to_owned(), BTreeMap::new()),
                ("no-such.invalid".to_owned(), BTreeMap::new()),
            ]
            .into(),
            ..Names::default()
        };
        let (changed, failed) = names.look_up().await;
        assert!(changed && names.addresses("localhost").iter().any(IpAddr::is_loopback));
        assert_eq!(failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["no-such.invalid"]);
    }
}
