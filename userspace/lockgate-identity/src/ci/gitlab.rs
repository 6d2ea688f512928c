//! A GitLab job, by the configured GitLab's answer to the job's own token.
//!
//! `GET /api/v4/job` names the job that a CI_JOB_TOKEN belongs to (<https://docs.gitlab.com/api/jobs/#get-a-jobs-details>).
//! The token goes to the configured server alone, whatever CI_API_V4_URL says.

use super::{Carried, Found, Vouched, one_line};
use crate::{
    CiProvider, Provider, SetUpError,
    http::{self, Http, HttpError},
    memo::Memo,
};
use lockgate_model::{
    Secret,
    workload::{Assurance, CiJob},
};
use reqwest::Url;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

pub(super) const TOKEN: &str = "CI_JOB_TOKEN";
/// How long an answer holds: a job that has ended is refused after at most this.
const REMEMBER: Duration = Duration::from_secs(30);
/// How long a refusal holds.
const REMEMBER_NO: Duration = Duration::from_secs(5);
/// GitLab's own bound on a job's time is a month; a token ends with its job.
const LIFETIME: u64 = 31 * 24 * 3600;

/// One GitLab.
pub(super) struct Gitlab {
    http: Http,
    base: Url,
    runners: Vec<String>,
    known: Memo<[u8; 32], Result<Vouched, String>>,
}

#[derive(Debug, thiserror::Error)]
enum GitlabError {
    #[error("GitLab does not know the job's token (401)")]
    Unknown,
    #[error("GitLab: {0}")]
    Http(#[from] HttpError),
    #[error("GitLab says that the job's state is {0:?}, expected \"running\"")]
    NotRunning(String),
    #[error("GitLab runs the job on runner {got}, which is none of this host's ({expected})")]
    Runner { expected: String, got: String },
    #[error("GitLab's answer names no project under {0}")]
    Project(String),
}

#[derive(Deserialize)]
struct Job {
    id: u64,
    name: String,
    status: String,
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    #[serde(default)]
    tag: bool,
    web_url: String,
    #[serde(default)]
    source: Option<String>,
    user: Option<User>,
    commit: Option<Commit>,
    pipeline: Pipeline,
    runner: Option<Runner>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct Commit {
    id: String,
    author_name: Option<String>,
    author_email: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct Pipeline {
    id: u64,
    sha: Option<String>,
}

#[derive(Deserialize)]
struct Runner {
    id: u64,
    description: Option<String>,
}

impl Gitlab {
    pub(super) fn new(settings: &Provider) -> Result<Self, SetUpError> {
        let fail = |error| SetUpError::Provider(settings.url.clone(), error);
        Ok(Self {
            http: Http::new(settings.ca_pem.as_deref()).map_err(fail)?,
            base: http::address(&settings.url).map_err(fail)?,
            runners: settings.runners.clone(),
            known: Memo::default(),
        })
    }

    pub(super) async fn ask(&self, carried: &Carried, now: u64) -> Found {
        let Some(token) = carried.get(TOKEN) else { return Found::Nothing };
        let key: [u8; 32] = Sha256::digest(token.expose()).into();
        let answer = match self.known.known(&key) {
            Some(answer) => answer,
            None => {
                let answer = self.job(token, now).await.map_err(|error| error.to_string());
                let time = if answer.is_ok() { REMEMBER } else { REMEMBER_NO };
                self.known.keep(key, answer.clone(), time);
                answer
            }
        };
        match answer {
            Ok(vouched) => Found::Vouched(Box::new(vouched)),
            Err(why) => Found::Refused(why),
        }
    }

    async fn job(&self, token: &Secret<String>, now: u64) -> Result<Vouched, GitlabError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/api/v4/job", self.base.path().trim_end_matches('/')));
        let job: Job = match self.http.json(&url, Some(("job-token", token))).await {
            Err(HttpError::Status { status: 401, .. }) => return Err(GitlabError::Unknown),
            answer => answer?,
        };
        if job.status != "running" {
            return Err(GitlabError::NotRunning(job.status.chars().take(40).collect()));
        }
        let runner = job.runner.as_ref().map(|runner| runner.id.to_string());
        let is_local = runner.as_ref().is_some_and(|runner| self.runners.contains(runner));
        if !self.runners.is_empty() && !is_local {
            let got = runner.unwrap_or_else(|| "none".to_owned());
            return Err(GitlabError::Runner { expected: self.runners.join(", "), got });
        }
        let repository = self.project(&job.web_url)?;
        Ok(Vouched {
            key: format!("{} job {}", self.base, job.id),
            expires: now.saturating_add(LIFETIME),
            // Bound to a runner of this host, or only the provider's word.
            assurance: if is_local { Assurance::Attested } else { Assurance::Platform },
            job: facts(job, repository, is_local, http::host(&self.base)),
        })
    }

    /// `https://gitlab.example.com/acme/billing/-/jobs/8` → `acme/billing`
    fn project(&self, web_url: &str) -> Result<String, GitlabError> {
        let fail = || GitlabError::Project(self.base.to_string());
        let url = Url::parse(web_url).map_err(|_| fail())?;
        let path = url.path().strip_prefix(self.base.path().trim_end_matches('/')).ok_or_else(fail)?;
        let (project, _) = path.split_once("/-/").ok_or_else(fail)?;
        let project = project.trim_matches('/');
        let fits = url.host_str() == self.base.host_str() && project.contains('/');
        fits.then(|| project.to_owned()).ok_or_else(fail)
    }
}

fn facts(job: Job, repository: String, is_local: bool, host: String) -> CiJob {
    let git_ref = job.git_ref.map(|name| match job.tag {
        true => format!("refs/tags/{name}"),
        false if name.starts_with("refs/") => name,
        false => format!("refs/heads/{name}"),
    });
    let author = job.commit.as_ref().and_then(|commit| {
        let name = commit.author_name.as_deref()?;
        Some(match &commit.author_email {
            Some(email) => format!("{name} <{email}>"),
            None => name.to_owned(),
        })
    });
    let place = if is_local { "on a runner of this host" } else { "on a runner that is not checked" };
    let id = job.id.to_string();
    CiJob {
        provider: CiProvider::Gitlab.as_str().to_owned(),
        repository: Some(repository),
        job: Some(job.name),
        run_id: Some(job.pipeline.id.to_string()),
        run_url: Some(job.web_url),
        git_ref,
        commit_message: job.commit.as_ref().and_then(|commit| one_line(commit.message.as_deref()?)),
        commit: job.commit.map(|commit| commit.id).or(job.pipeline.sha),
        commit_author: author,
        event_name: job.source,
        // Who started the pipeline or this job: for GitLab the same account.
        triggering_actor: job.user.as_ref().map(|user| user.username.clone()),
        actor: job.user.map(|user| user.username),
        runner: job.runner.map(|runner| runner.description.unwrap_or_else(|| runner.id.to_string())),
        established_by: Some(format!("{host} says that this token's job {id} is running {place}")),
        job_id: Some(id),
        ..CiJob::default()
    }
}
