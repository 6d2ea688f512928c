//! Logins that last: who holds a cookie. Kept in memory alone, by the hash of the cookie; a restart of the agent ends all.

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

/// One login.
#[derive(Debug)]
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
}

struct Kept {
    session: Arc<Session>,
    began: Instant,
    seen: Instant,
}

/// All of them.
pub(crate) struct Sessions {
    kept: Mutex<HashMap<Hashed, Kept>>,
    idle: Duration,
    lasts: Duration,
    most: usize,
}

impl Sessions {
    pub(crate) fn new(idle: Duration, lasts: Duration) -> Self {
        Self { kept: Mutex::default(), idle, lasts, most: SESSIONS_MAX }
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
        kept.insert(Hashed::of(&cookie), Kept { session: Arc::new(session), began: now, seen: now });
        Ok((Secret::new(cookie), ended))
    }

    /// Whose cookie it is; using it keeps the login.
    pub(crate) fn find(&self, cookie: &str, now: Instant) -> Option<Arc<Session>> {
        let key = Hashed::of(cookie);
        let mut kept = self.kept.lock();
        let found = kept.get_mut(&key)?;
        if self.is_over(found, now) {
            kept.remove(&key);
            return None;
        }
        found.seen = now;
        Some(found.session.clone())
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

    fn is_over(&self, kept: &Kept, now: Instant) -> bool {
        now.saturating_duration_since(kept.seen) >= self.idle
            || now.saturating_duration_since(kept.began) >= self.lasts
    }

    fn sweep(&self, kept: &mut HashMap<Hashed, Kept>, now: Instant) {
        kept.retain(|_, one| !self.is_over(one, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::person::tests::person;

    fn sessions() -> Sessions {
        Sessions::new(Duration::from_secs(60), Duration::from_secs(300))
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
        }
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
