//! `login:` read anew while the agent runs. What is there at once: new providers, certificates, roles and groups, for whoever is
//! logged in too. Logins of a provider that is gone, or is another one now, end.

use super::{
    Auth, Ways,
    settings::{LoginError, LoginSettings},
};
use crate::{Control, desk::Desk};
use std::sync::Arc;

/// What became of a reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Providers that are there now.
    pub providers: Vec<String>,
    /// Logins that ended by it.
    pub ended: usize,
}

impl Control {
    /// Puts another `login:` into force.
    ///
    /// # Errors
    /// [`LoginError`], and then everything stays as it was.
    pub fn reload_login(&self, settings: Option<LoginSettings>) -> Result<Reloaded, LoginError> {
        self.desk.auth.reload(&self.desk, settings)
    }
}

impl Auth {
    fn reload(&self, desk: &Arc<Desk>, settings: Option<LoginSettings>) -> Result<Reloaded, LoginError> {
        let before = self.ways();
        let ways = Arc::new(Ways::new(settings, self.base.as_deref(), Some(&before))?);
        self.sessions.last(ways.terms());
        self.ways.store(ways.clone());
        let bootstrap = ways.settings.as_ref().is_some_and(|settings| settings.bootstrap.is_some());
        let ended = self.sessions.end_where(|session| {
            let person = &session.person;
            match ways.find(&person.provider) {
                Some(provider) => provider.authority != person.authority,
                None => person.provider != super::person::BOOTSTRAP || !bootstrap,
            }
        });
        for session in &ended {
            self.note_ended(desk, session, None, "its provider is not configured any more");
        }
        Ok(Reloaded {
            providers: ways.providers.iter().map(|provider| provider.name.clone()).collect(),
            ended: ended.len(),
        })
    }
}
