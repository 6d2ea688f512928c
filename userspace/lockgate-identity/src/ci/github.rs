//! A GitHub job, by GitHub's answer to "what runs on this runner now?".
//!
//! The environment says which run to look at; the runner's own name comes from what the job cannot write: the unit of
//! a self-hosted runner, the pod of an ephemeral one (ARC names the pod like the runner), or configuration. GitHub must
//! have a job of that run in progress on exactly that runner. A process that is older than the job belongs to another, and
//! so does one that is younger than the answer: a runner has one job after the other, a second apart.

use super::{Found, Vouched, one_line};
use crate::{
    CiProvider, Provider, SetUpError,
    http::{self, Http, HttpError},
    memo::Memo,
};
use lockgate_model::{
    Secret,
    workload::{Assurance, CiJob, Workload},
};
use reqwest::Url;
use serde::Deserialize;
use std::time::Duration;

/// How long an answer holds: a job that has ended is refused after at most this.
const REMEMBER: Duration = Duration::from_secs(30);
/// How long a refusal holds. GitHub shows a job as in progress a moment after it began.
const REMEMBER_NO: Duration = Duration::from_secs(2);
/// A job's own bound is five days on a self-hosted runner.
const LIFETIME: u64 = 5 * 24 * 3600;
/// GitHub's `started_at` and this host's clock.
const CLOCKS: u64 = 60;
/// Jobs of one run are asked for in pages of 100; a matrix has at most 256.
const PAGES: u32 = 3;

/// One GitHub.
pub(super) struct Github {
    http: Http,
    base: Url,
    token: Option<Secret<String>>,
    runners: Vec<String>,
    namespaces: Vec<String>,
    known: Memo<(String, String), Result<Answer, String>>,
}

/// A job in progress, since when, and until when at least.
#[derive(Clone, Debug)]
struct Answer {
    vouched: Vouched,
    started: u64,
    asked: u64,
    /// When another job of the run ended on this runner last.
    other_ended: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
enum GithubError {
    #[error("GitHub: {0}")]
    Http(#[from] HttpError),
    #[error(
        "the runner's name cannot be told from unit or pod; name it, or the runners' namespace, under identity.providers"
    )]
    NoRunner,
    #[error("the environment names no run that GitHub could have")]
    NoRun,
    #[error("GitHub has no job of run {run} in progress on runner {runner}")]
    NotThere { run: String, runner: String },
    #[error("GitHub says that the run is {0}'s")]
    Repository(String),
}

#[derive(Deserialize)]
struct Page {
    jobs: Vec<Job>,
}

/// <https://docs.github.com/en/rest/actions/workflow-jobs>
#[derive(Clone, Deserialize)]
struct Job {
    id: u64,
    name: String,
    status: String,
    #[serde(default)]
    started_at: Option<String>,
    #[serde(default)]
    completed_at: Option<String>,
    #[serde(default)]
    runner_name: Option<String>,
}

/// <https://docs.github.com/en/rest/actions/workflow-runs>
#[derive(Deserialize)]
struct Run {
    id: u64,
    path: String,
    run_attempt: u64,
    event: String,
    head_sha: String,
    #[serde(default)]
    head_branch: Option<String>,
    #[serde(default)]
    display_title: Option<String>,
    html_url: String,
    #[serde(default)]
    actor: Option<Account>,
    #[serde(default)]
    triggering_actor: Option<Account>,
    repository: Repository,
    #[serde(default)]
    head_commit: Option<HeadCommit>,
}

#[derive(Deserialize)]
struct Account {
    login: String,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

#[derive(Deserialize)]
struct HeadCommit {
    #[serde(default)]
    author: Option<Author>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct Author {
    name: String,
    email: String,
}

impl Github {
    pub(super) fn new(settings: &Provider) -> Result<Self, SetUpError> {
        let fail = |error| SetUpError::Provider(settings.url.clone(), error);
        Ok(Self {
            http: Http::new(settings.ca_pem.as_deref()).map_err(fail)?,
            base: http::address(&settings.url).map_err(fail)?,
            token: settings.token.as_ref().map(http::bearer),
            runners: settings.runners.clone(),
            namespaces: settings.namespaces.clone(),
            known: Memo::default(),
        })
    }

    pub(super) async fn ask(&self, workload: &Workload, started: Option<u64>, now: u64) -> Found {
        let claimed = workload.ci.as_ref().filter(|ci| ci.provider == CiProvider::GithubActions.as_str());
        let Some(claimed) = claimed else { return Found::Nothing };
        match self.confirmed(workload, claimed, started, now).await {
            Err(why) => Found::Refused(why),
            Ok(answer) => match started {
                Some(started) if answer.other_ended.is_some_and(|ended| started <= ended) => Found::Refused(
                    "the process began while another job of the run was on its runner".to_owned(),
                ),
                // Left behind by an earlier job of the same runner.
                Some(started) if started.saturating_add(CLOCKS) < answer.started => Found::Refused(
                    "the process is older than the job that GitHub has on its runner".to_owned(),
                ),
                None => Found::Refused("the process ended before its age could be read".to_owned()),
                Some(_) => Found::Vouched(Box::new(answer.vouched)),
            },
        }
    }

    async fn confirmed(
        &self,
        workload: &Workload,
        claimed: &CiJob,
        started: Option<u64>,
        now: u64,
    ) -> Result<Answer, String> {
        let run = Wanted::of(claimed).ok_or_else(|| GithubError::NoRun.to_string())?;
        let runner = self.runner(workload, &run).ok_or_else(|| GithubError::NoRunner.to_string())?;
        let key = (run.path(), runner.clone());
        // Who began after the question may be the next job's.
        let is_of_then = |answer: &Result<Answer, String>| match (answer, started) {
            (Ok(answer), Some(started)) => started < answer.asked,
            (Ok(_) | Err(_), _) => true,
        };
        if let Some(answer) = self.known.known(&key).filter(is_of_then) {
            return answer;
        }
        let answer = self.look(&run, &runner, now).await.map_err(|error| error.to_string());
        let time = if answer.is_ok() { REMEMBER } else { REMEMBER_NO };
        self.known.keep(key, answer.clone(), time);
        answer
    }

    /// The runner this workload belongs to, by what it cannot write.
    fn runner(&self, workload: &Workload, run: &Wanted) -> Option<String> {
        if let Some(pod) = &workload.pod {
            let in_runners = pod.namespace.as_ref().is_some_and(|name| self.namespaces.contains(name));
            return pod.name.clone().filter(|_| pod.is_named() && in_runners);
        }
        let unit = workload.unit.as_ref().filter(|unit| !unit.user_unit).map(|unit| unit.name.as_str());
        // `actions.runner.OWNER[-REPOSITORY].NAME.service`, made by the runner's svc.sh
        let rest = unit.and_then(|unit| unit.strip_prefix("actions.runner.")?.strip_suffix(".service"));
        let scopes = [run.owner.clone(), format!("{}-{}", run.owner, run.name)];
        let named = rest.and_then(|rest| {
            scopes
                .iter()
                .find_map(|scope| rest.strip_prefix(scope.as_str())?.strip_prefix('.').map(str::to_owned))
        });
        // With one runner on the host there is nothing to confuse it with.
        named.or_else(|| match self.runners.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        })
    }

    async fn look(&self, wanted: &Wanted, runner: &str, now: u64) -> Result<Answer, GithubError> {
        let run: Run = self.get(&wanted.path(), &[]).await?;
        let full_name = format!("{}/{}", wanted.owner, wanted.name);
        if !run.repository.full_name.eq_ignore_ascii_case(&full_name) || run.id.to_string() != wanted.run {
            return Err(GithubError::Repository(run.repository.full_name.chars().take(120).collect()));
        }
        let jobs = self.jobs(wanted, run.run_attempt, runner).await?;
        let other_ended = jobs.iter().filter_map(|job| seconds(job.completed_at.as_deref())).max();
        let job = jobs.into_iter().find(|job| job.status == "in_progress");
        let job =
            job.ok_or_else(|| GithubError::NotThere { run: wanted.run.clone(), runner: runner.to_owned() })?;
        Ok(Answer {
            started: seconds(job.started_at.as_deref()).unwrap_or(u64::MAX),
            asked: now,
            other_ended,
            vouched: Vouched {
                key: format!("{} job {}", self.base, job.id),
                expires: now.saturating_add(LIFETIME),
                assurance: Assurance::Attested,
                job: facts(run, job, runner, &http::host(&self.base)),
            },
        })
    }

    /// The jobs of that run that are or were on that runner.
    async fn jobs(&self, wanted: &Wanted, attempt: u64, runner: &str) -> Result<Vec<Job>, GithubError> {
        let mut jobs = Vec::new();
        for page in 1..=PAGES {
            let path = format!("{}/attempts/{attempt}/jobs", wanted.path());
            let query = [("per_page", "100".to_owned()), ("page", page.to_string())];
            let found: Page = self.get(&path, &query).await?;
            let full = found.jobs.len() == 100;
            jobs.extend(found.jobs.into_iter().filter(|job| job.runner_name.as_deref() == Some(runner)));
            if !full {
                break;
            }
        }
        Ok(jobs)
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, GithubError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let header = self.token.as_ref().map(|token| ("authorization", token));
        Ok(self.http.json(&url, header).await?)
    }
}

/// GitHub's times, since the epoch.
fn seconds(text: Option<&str>) -> Option<u64> {
    u64::try_from(text?.parse::<jiff::Timestamp>().ok()?.as_second()).ok()
}

/// The run that the environment names; each part is put into a path, so only what GitHub's own names hold is taken.
struct Wanted {
    owner: String,
    name: String,
    run: String,
}

impl Wanted {
    fn of(claimed: &CiJob) -> Option<Self> {
        let (owner, name) = claimed.repository.as_deref()?.split_once('/')?;
        let run = claimed.run_id.as_deref()?;
        let is_name = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !text.is_empty()
                && text.len() <= 100
                && text.bytes().all(fits)
                && !text.bytes().all(|b| b == b'.')
        };
        let is_number = !run.is_empty() && run.len() <= 20 && run.bytes().all(|byte| byte.is_ascii_digit());
        (is_name(owner) && is_name(name) && is_number).then(|| Self {
            owner: owner.to_owned(),
            name: name.to_owned(),
            run: run.to_owned(),
        })
    }

    fn path(&self) -> String {
        format!("repos/{}/{}/actions/runs/{}", self.owner, self.name, self.run)
    }
}

fn facts(run: Run, job: Job, runner: &str, host: &str) -> CiJob {
    let login = |account: Option<Account>| account.map(|account| account.login);
    // `.github/workflows/deploy.yml`, and with `@REF` behind for one that is called.
    let file = run.path.split('@').next().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
    let (author, message) = run.head_commit.map_or((None, None), |commit| (commit.author, commit.message));
    // For other events it is the commit's first line again.
    let of_request = matches!(run.event.as_str(), "pull_request" | "pull_request_target");
    let merge_request = run.display_title.filter(|_| of_request);
    let id = job.id.to_string();
    CiJob {
        provider: CiProvider::GithubActions.as_str().to_owned(),
        repository: Some(run.repository.full_name),
        workflow: file,
        job: Some(job.name),
        run_id: Some(run.id.to_string()),
        run_attempt: Some(run.run_attempt.to_string()),
        run_url: Some(run.html_url),
        // `head_branch` is a tag's name as well as a branch's: a tag called `main` must not become refs/heads/main.
        git_ref: None,
        source_branch: run.head_branch.and_then(|branch| one_line(&branch)),
        commit_message: message.and_then(|message| one_line(&message)),
        merge_request: merge_request.and_then(|title| one_line(&title)),
        commit: Some(run.head_sha),
        commit_author: author.map(|author| format!("{} <{}>", author.name, author.email)),
        event_name: Some(run.event),
        actor: login(run.actor),
        triggering_actor: login(run.triggering_actor),
        runner: Some(runner.to_owned()),
        established_by: Some(format!("{host} says that job {id} is in progress on runner {runner}")),
        job_id: Some(id),
        ..CiJob::default()
    }
}
