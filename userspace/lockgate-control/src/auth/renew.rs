//! Keeping what is known of somebody who is logged in fresh: from time to time the provider is asked, before the next request of
//! theirs counts. Whoever left, or lost a group, is without it by then, however long the login would last.

use super::{
    Auth, Kind,
    oidc::{Arrived, NotRenewed},
    person::BOOTSTRAP,
    session::Session,
};
use crate::desk::Desk;
use lockgate_model::access::{Access, AccessAction};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// For how long a login stands while its provider does not answer: a restart of theirs, not a night.
const AWAY: Duration = Duration::from_secs(600);

/// Whose cookie it is, vouched for as freshly as configuration asks; None when it is nobody's any more.
pub(super) async fn current(desk: &Arc<Desk>, cookie: &str) -> Option<Arc<Session>> {
    let sessions = &desk.auth.sessions;
    let found = sessions.find(cookie, Instant::now())?;
    if found.session.until.is_some_and(|until| until <= desk.ambient.now()) {
        desk.auth.over(desk, &found.session, "its provider said that it ends now");
        return None;
    }
    // Nobody vouches for the administrator by one-time token; it ends by its time.
    if !found.due || found.session.person.provider == BOOTSTRAP {
        return Some(found.session);
    }
    // One asks; whoever waited finds the answer.
    let turn = found.turn.lock_owned().await;
    let found = sessions.find(cookie, Instant::now())?;
    if !found.due {
        return Some(found.session);
    }
    // What the provider gives for it is good once: it is taken in even when the browser has gone meanwhile.
    let (asking, session, overdue) = (desk.clone(), found.session.clone(), found.overdue);
    let asked = desk.runtime.spawn(async move {
        let _turn = turn;
        renew(&asking, &session, overdue).await;
    });
    // Only when the runtime ends; then nobody is answered.
    asked.await.ok()?;
    sessions.find(cookie, Instant::now()).map(|found| found.session)
}

async fn renew(desk: &Arc<Desk>, session: &Arc<Session>, overdue: Duration) {
    let ways = desk.auth.ways();
    let provider = ways.find(&session.person.provider);
    let renewed = match provider.map(|provider| &provider.kind) {
        Some(Kind::Oidc(oidc)) => oidc.renew(session, desk.ambient.now()).await,
        Some(Kind::Saml(_)) | None => {
            return desk.auth.over(
                desk,
                session,
                "its provider cannot be asked without the person; log in again",
            );
        }
    };
    match renewed {
        Ok(arrived) => desk.auth.renewed(desk, session, arrived),
        Err(NotRenewed::Over(refusal)) => {
            desk.auth.over(desk, session, &format!("{} ({})", refusal.detail, refusal.code));
        }
        Err(NotRenewed::Away(refusal)) if overdue >= AWAY => {
            desk.auth.over(desk, session, &format!("its provider does not answer: {}", refusal.detail));
        }
        Err(NotRenewed::Away(refusal)) => {
            tracing::warn!(
                provider = session.person.provider,
                why = refusal.detail,
                "a login cannot be renewed now; it stands for a while"
            );
            desk.auth.sessions.tried(&session.id, Instant::now());
        }
    }
}

impl Auth {
    fn over(&self, desk: &Arc<Desk>, session: &Session, why: &str) {
        for ended in self.sessions.end_where(|one| one.id == session.id) {
            self.note_ended(desk, &ended, None, why);
        }
    }

    fn renewed(&self, desk: &Arc<Desk>, session: &Session, arrived: Arrived) {
        let Arrived { person, proved, id_token, sid, nonce, refresh, until } = arrived;
        let changed = person.groups != session.person.groups;
        if changed {
            let access = Access {
                action: AccessAction::Renewed,
                by: Some(person.id.clone()),
                via: person.provider.clone(),
                subject: Some(session.id.clone()),
                source: None,
                groups: person.groups.values().flatten().cloned().collect(),
                expires: None,
                code: None,
                detail: "the provider tells of other groups".to_owned(),
            };
            self.record(desk, &crate::api::refusal::Caller::Anybody, access);
        }
        if person != session.person {
            for token in self.tokens.refresh(&person) {
                self.keep_use(desk, token);
            }
        }
        let newer = Session { person, proved, id_token, sid, nonce, refresh, until, ..session.clone() };
        self.sessions.vouched(newer, Instant::now());
    }
}
