//! Logins that last: who holds a cookie. Kept in memory alone, by the hash of the cookie; a restart of the agent ends all.
//!
//! Here stands when the provider has to be asked anew whether somebody still is who they were ([`super::renew`] asks).

use super::{
    person::Person,
    secret::{self, Hashed, NoRandomness},
};
use lockgate_model::{Secret, Timestamp};
use parking_lot::Mutex;
use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Logins at a time, some kilobytes each; the one that was idle longest makes room.
const SESSIONS_MAX: usize = 10_000;

/// Logins of one person; the oldest makes room.
const PER_PERSON_MAX: usize = 20;

/// A provider that did not answer is asked again after this long; each try makes somebody wait.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(15);

/// One login.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// `lgn_…`; names it in lists and opens nothing.
    pub(crate) id: String,
    pub(crate) person: Person,
    pub(crate) csrf: String,
    pub(crate) began: Timestamp,
    /// When the person last proved who they are, where the provider says.
    pub(crate) proved: Option<Timestamp>,
    pub(crate) source: Option<IpAddr>,
    /// What the provider is told at logout.
    pub(crate) id_token: Option<Secret<String>>,
    /// What the provider calls this login (`sid`), by which it ends it.
    pub(crate) sid: Option<String>,
    /// What of the login's beginning its later tokens must fit.
    pub(crate) nonce: String,
    /// What the provider is asked anew with.
    pub(crate) refresh: Option<Secret<String>>,
    /// When it ends at the provider, where that says so.
    pub(crate) until: Option<Timestamp>,
}

struct Kept {
    session: Arc<Session>,
    began: Instant,
    seen: Instant,
    /// When the provider last vouched for it.
    vouched: Instant,
    /// When the provider was last asked in vain.
    tried: Option<Instant>,
    turn: Arc<Turn>,
}

/// One request asks the provider, those beside it wait for the answer.
type Turn = tokio::sync::Mutex<()>;

/// A login in force.
pub(crate) struct Found {
    pub(crate) session: Arc<Session>,
    /// The provider has to be asked before it counts.
    pub(crate) due: bool,
    /// For how long the provider could not be asked, since it was due.
    pub(crate) overdue: Duration,
    pub(crate) turn: Arc<Turn>,
}

/// How long logins last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) idle: Duration,
    pub(crate) lasts: Duration,
    /// After this long the provider is asked anew.
    pub(crate) vouched: Duration,
}

/// All of them.
pub(crate) struct Sessions {
    kept: Mutex<HashMap<Hashed, Kept>>,
    terms: Mutex<Terms>,
    most: usize,
}

impl Sessions {
    pub(crate) fn new(terms: Terms) -> Self {
        Self { kept: Mutex::default(), terms: Mutex::new(terms), most: SESSIONS_MAX }
    }

    /// From now on logins last like this, those in force too.
    pub(crate) fn last(&self, terms: Terms) {
        *self.terms.lock() = terms;
    }

    /// Begins a login: its cookie, and the logins that had to make room.
    pub(crate) fn begin(
        &self,
        session: Session,
        now: Instant,
    ) -> Result<(Secret<String>, Vec<Arc<Session>>), NoRandomness> {
        let cookie = secret::random()?;
        let mut kept = self.kept.lock();
        self.sweep(&mut kept, now);
        let mut ended = Vec::new();
        let own = kept.iter().filter(|(_, other)| other.session.person.id == session.person.id);
        let own: Vec<(Hashed, Instant)> = own.map(|(key, other)| (*key, other.began)).collect();
        if own.len() >= PER_PERSON_MAX
            && let Some((oldest, _)) = own.iter().min_by_key(|(_, began)| *began)
        {
            ended.extend(kept.remove(oldest).map(|kept| kept.session));
        }
        if kept.len() >= self.most
            && let Some(idlest) = kept.iter().min_by_key(|(_, kept)| kept.seen).map(|(key, _)| *key)
        {
            ended.extend(kept.remove(&idlest).map(|kept| kept.session));
        }
        let session = Arc::new(session);
        let (vouched, turn) = (now, Arc::default());
        kept.insert(Hashed::of(&cookie), Kept { session, began: now, seen: now, vouched, tried: None, turn });
        Ok((Secret::new(cookie), ended))
    }

    /// Whose cookie it is; using it keeps the login.
    pub(crate) fn find(&self, cookie: &str, now: Instant) -> Option<Found> {
        let key = Hashed::of(cookie);
        let terms = *self.terms.lock();
        let mut kept = self.kept.lock();
        let found = kept.get_mut(&key)?;
        if terms.is_over(found, now) {
            kept.remove(&key);
            return None;
        }
        found.seen = now;
        let age = now.saturating_duration_since(found.vouched);
        let again = found.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= ASK_AGAIN);
        Some(Found {
            session: found.session.clone(),
            due: age >= terms.vouched && again,
            overdue: age.saturating_sub(terms.vouched),
            turn: found.turn.clone(),
        })
    }

    /// The provider vouched for it anew. False: it was ended meanwhile, and stays so.
    pub(crate) fn vouched(&self, session: Session, now: Instant) -> bool {
        let mut kept = self.kept.lock();
        let Some(found) = kept.values_mut().find(|kept| kept.session.id == session.id) else { return false };
        found.session = Arc::new(session);
        (found.vouched, found.tried) = (now, None);
        true
    }

    /// The provider could not be asked.
    pub(crate) fn tried(&self, id: &str, now: Instant) {
        let mut kept = self.kept.lock();
        if let Some(found) = kept.values_mut().find(|kept| kept.session.id == id) {
            found.tried = Some(now);
        }
    }

    /// A login that is in force, without using it.
    pub(crate) fn standing(&self, id: &str, now: Instant) -> Option<Arc<Session>> {
        let terms = *self.terms.lock();
        let kept = self.kept.lock();
        let mut own = kept.values().filter(|kept| kept.session.id == id && !terms.is_over(kept, now));
        own.next().map(|kept| kept.session.clone())
    }

    /// Ends the login of a cookie.
    pub(crate) fn end(&self, cookie: &str) -> Option<Arc<Session>> {
        self.kept.lock().remove(&Hashed::of(cookie)).map(|kept| kept.session)
    }

    /// Ends logins by what they are.
    pub(crate) fn end_where(&self, ends: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut kept = self.kept.lock();
        let gone: Vec<Hashed> =
            kept.iter().filter(|(_, kept)| ends(&kept.session)).map(|(key, _)| *key).collect();
        gone.iter().filter_map(|key| kept.remove(key)).map(|kept| kept.session).collect()
    }

    /// Those in force, newest first, and how long each was idle.
    pub(crate) fn list(&self, now: Instant) -> Vec<(Arc<Session>, Duration)> {
        let mut kept = self.kept.lock();
        self.sweep(&mut kept, now);
        let mut list: Vec<_> = kept
            .values()
            .map(|kept| (kept.session.clone(), now.saturating_duration_since(kept.seen)))
            .collect();
        list.sort_by(|(one, _), (other, _)| other.began.cmp(&one.began).then(one.id.cmp(&other.id)));
        list
    }

    fn sweep(&self, kept: &mut HashMap<Hashed, Kept>, now: Instant) {
        let terms = *self.terms.lock();
        kept.retain(|_, one| !terms.is_over(one, now));
    }
}

impl Terms {
    fn is_over(&self, kept: &Kept, now: Instant) -> bool {
        now.saturating_duration_since(kept.seen) >= self.idle
            || now.saturating_duration_since(kept.began) >= self.lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::person::tests::person;

    fn sessions() -> Sessions {
        let seconds = Duration::from_secs;
        Sessions::new(Terms { idle: seconds(60), lasts: seconds(300), vouched: seconds(1_000) })
    }

    fn session(number: usize, who: &str) -> Session {
        Session {
            id: format!("lgn_{number}"),
            person: Person { id: format!("oidc:corp:{who}"), ..person("corp", &[]) },
            csrf: "c".into(),
            began: "2026-11-21T10:00:00Z".parse().unwrap(),
            proved: None,
            source: None,
            id_token: None,
            sid: None,
            nonce: String::new(),
            refresh: None,
            until: None,
        }
    }

    #[test]
    fn a_login_falls_due_until_it_is_vouched_for_and_is_not_asked_for_without_end() {
        let (sessions, start) = (sessions(), Instant::now());
        let seconds = Duration::from_secs;
        sessions.last(Terms { idle: seconds(900), lasts: seconds(900), vouched: seconds(100) });
        let (cookie, _) = sessions.begin(session(1, "ana"), start).unwrap();
        let at = |after| sessions.find(cookie.expose(), start + seconds(after)).unwrap();
        assert!(!at(99).due);
        assert!(at(100).due && at(101).due, "until somebody has an answer");
        sessions.tried("lgn_1", start + seconds(101));
        assert!(!at(102).due, "it was asked a moment ago");
        let again = at(120);
        assert!(again.due && again.overdue == seconds(20));
        assert!(sessions.vouched(session(1, "ana"), start + seconds(120)));
        assert!(!at(219).due && at(220).due);
        sessions.end(cookie.expose());
        assert!(!sessions.vouched(session(1, "ana"), start + seconds(221)), "what was ended stays so");
        assert!(sessions.standing("lgn_1", start + seconds(221)).is_none());
    }

    #[test]
    fn new_terms_hold_for_logins_in_force() {
        let (sessions, start) = (sessions(), Instant::now());
        let (cookie, _) = sessions.begin(session(1, "ana"), start).unwrap();
        let second = Duration::from_secs(1);
        sessions.last(Terms { idle: second, lasts: second, vouched: second });
        assert!(sessions.find(cookie.expose(), start + second).is_none());
    }

    #[test]
    fn a_login_ends_idle_and_ends_however_it_is_used() {
        let (sessions, start) = (sessions(), Instant::now());
        let (cookie, _) = sessions.begin(session(1, "ana"), start).unwrap();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(sessions.find("other", at(0)).is_none());
        for seconds in [59, 118, 177, 236, 290] {
            assert!(sessions.find(cookie.expose(), at(seconds)).is_some(), "{seconds}");
        }
        assert!(sessions.find(cookie.expose(), at(300)).is_none());
        assert!(sessions.find(cookie.expose(), at(10)).is_none(), "it is gone for good");
        let (cookie, _) = sessions.begin(session(2, "ana"), start).unwrap();
        assert!(sessions.find(cookie.expose(), at(60)).is_none());
    }

    #[test]
    fn a_cookie_opens_nothing_after_its_logout() {
        let (sessions, now) = (sessions(), Instant::now());
        let (cookie, _) = sessions.begin(session(1, "ana"), now).unwrap();
        assert_eq!(sessions.end(cookie.expose()).unwrap().id, "lgn_1");
        assert!(sessions.find(cookie.expose(), now).is_none());
        assert!(sessions.end(cookie.expose()).is_none());
    }

    #[test]
    fn logins_are_bounded_for_a_person_and_for_all() {
        let (mut sessions, now) = (sessions(), Instant::now());
        sessions.most = 100;
        let mut ended = Vec::new();
        for number in 0..25 {
            let began = now + Duration::from_millis(number);
            let (_, gone) = sessions.begin(session(number as usize, "ana"), began).unwrap();
            ended.extend(gone.into_iter().map(|session| session.id.clone()));
        }
        assert_eq!(ended, ["lgn_0", "lgn_1", "lgn_2", "lgn_3", "lgn_4"]);
        for number in 0..150 {
            sessions.begin(session(number, &format!("p{number}")), now).unwrap();
        }
        assert_eq!(sessions.kept.lock().len(), 100);
    }

    #[test]
    fn everything_of_one_person_ends_at_once() {
        let (sessions, now) = (sessions(), Instant::now());
        let (cookie, _) = sessions.begin(session(1, "ana"), now).unwrap();
        sessions.begin(session(2, "ana"), now).unwrap();
        let (other, _) = sessions.begin(session(3, "bob"), now).unwrap();
        assert_eq!(sessions.end_where(|session| session.person.id == "oidc:corp:ana").len(), 2);
        assert!(sessions.find(cookie.expose(), now).is_none());
        assert!(sessions.find(other.expose(), now).is_some());
        assert_eq!(sessions.list(now).len(), 1);
    }
}
