//! Which CI job it is: by its issuer's signature, else by its provider's answer.
//!
//! The environment's own words stay `claimed`. Confirmed facts replace them as a whole, never fact by fact: a claim
//! must not ride along with proof. A token that is there and refused ends the matter: who shows a bad one is not asked
//! for another.

mod claims;
mod github;
mod gitlab;
mod oidc;

use crate::{
    CiProvider, IdentitySettings, SetUpError, TokenCarrier,
    binding::{FirstSeen, Place},
};
use github::Github;
use gitlab::Gitlab;
use lockgate_model::{
    Secret,
    workload::{Assurance, CiAssurance, CiJob, IdentityKind, Workload},
};
use oidc::Oidc;
use std::collections::HashMap;

/// Values of variables, by name.
pub(crate) type Carried = HashMap<String, Secret<String>>;

/// How jobs are confirmed.
pub(crate) struct Jobs {
    issuers: Vec<Oidc>,
    github: Vec<Github>,
    gitlab: Vec<Gitlab>,
    seen: FirstSeen,
}

/// A job that somebody vouches for.
#[derive(Clone, Debug)]
pub(crate) struct Vouched {
    pub(crate) job: CiJob,
    /// The provider's name for the job, for the first-seen binding.
    pub(crate) key: String,
    /// Seconds since the epoch.
    pub(crate) expires: u64,
    pub(crate) assurance: Assurance,
}

/// What one way of asking found.
pub(crate) enum Found {
    /// Somebody vouches.
    Vouched(Box<Vouched>),
    /// There was something to ask with, and the answer is no.
    Refused(String),
    /// Nothing to ask with.
    Nothing,
}

impl Jobs {
    pub(crate) fn new(settings: &IdentitySettings, seen: FirstSeen) -> Result<Self, SetUpError> {
        let of = |wanted| settings.providers.iter().filter(move |provider| provider.provider == wanted);
        let issuers = settings.issuers.iter().map(|issuer| Oidc::new(issuer, settings.skew));
        Ok(Self {
            issuers: issuers.collect::<Result<_, _>>()?,
            github: of(CiProvider::GithubActions).map(Github::new).collect::<Result<_, _>>()?,
            gitlab: of(CiProvider::Gitlab).map(Gitlab::new).collect::<Result<_, _>>()?,
            seen,
        })
    }

    pub(crate) fn is_needed(&self) -> bool {
        !(self.issuers.is_empty() && self.github.is_empty() && self.gitlab.is_empty())
    }

    /// The variables that may carry proof; nothing else of an environment is looked at for it.
    pub(crate) fn variables(&self) -> Vec<&'static str> {
        // Names are few and live as long as the agent; owned copies would be made for each connection.
        let mut names: Vec<&'static str> = self.issuers.iter().flat_map(Oidc::variables).collect();
        if !self.gitlab.is_empty() {
            names.push(gitlab::TOKEN);
        }
        names
    }

    /// Replaces the workload's claims by what is confirmed, or says why not.
    pub(crate) async fn confirm(
        &self,
        workload: &mut Workload,
        carried: &Carried,
        place: &Place,
        started: Option<u64>,
        now: u64,
    ) {
        let (provider, found) = self.ask(workload, carried, started, now).await;
        let refused = match found {
            Found::Nothing => return,
            Found::Refused(why) => why,
            Found::Vouched(vouched) => {
                match self.seen.bind(&vouched.key, place, vouched.expires, now).await {
                    Ok(()) => {
                        let mut job = vouched.job;
                        job.assurance = CiAssurance(vouched.assurance);
                        workload.kind = IdentityKind::CiJob;
                        workload.ci = Some(job);
                        return;
                    }
                    Err(borrowed) => borrowed.to_string(),
                }
            }
        };
        crate::telemetry::unconfirmed("ci_job");
        tracing::warn!(provider = provider.as_str(), reason = %refused, "a CI job is not confirmed");
        let claimed = workload
            .ci
            .get_or_insert_with(|| CiJob { provider: provider.as_str().to_owned(), ..CiJob::default() });
        claimed.unconfirmed = Some(refused);
    }

    async fn ask(
        &self,
        workload: &Workload,
        carried: &Carried,
        started: Option<u64>,
        now: u64,
    ) -> (CiProvider, Found) {
        for issuer in &self.issuers {
            match issuer.ask(carried, now).await {
                Found::Nothing => {}
                found => return (issuer.provider(), found),
            }
        }
        for gitlab in &self.gitlab {
            match gitlab.ask(carried, now).await {
                Found::Nothing => {}
                found => return (CiProvider::Gitlab, found),
            }
        }
        for github in &self.github {
            match github.ask(workload, started, now).await {
                Found::Nothing => {}
                found => return (CiProvider::GithubActions, found),
            }
        }
        (CiProvider::GithubActions, Found::Nothing)
    }
}

/// Characters of a text that somebody else wrote.
const TEXT_CHARS: usize = 512;

/// Of several lines one, bounded; None for nothing.
fn one_line(text: &str) -> Option<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then(|| text.chars().take(TEXT_CHARS).collect())
}

/// Configuration's names, for as long as the process lives: one per issuer, made once.
fn leaked(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}

fn names(carrier: &TokenCarrier) -> Vec<&'static str> {
    match carrier {
        TokenCarrier::Variable(name) => vec![leaked(name)],
        TokenCarrier::Request { .. } => vec![oidc::REQUEST_URL, oidc::REQUEST_TOKEN],
    }
}
