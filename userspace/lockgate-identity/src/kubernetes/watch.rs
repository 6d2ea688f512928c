//! The pods of this node, followed: list, then watch from there, again and again.
//!
//! One resource with one verb pair, over lockgate's own HTTPS client, so that what is held in memory is a few
//! hundred bytes a pod and every line has a bound. Kubernetes' own rules for such clients are kept: a list in
//! pages, `resourceVersion` and bookmarks, a fresh list after 410 Gone, growing pauses with a ceiling
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).

use super::pod::{Facts, Object};
use crate::{
    TokenFile,
    http::{self, Http, HttpError, MAX_ANSWER, host},
};
use reqwest::Url;
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Pods in one answer: 50 at their usual 10 KiB are well below [`MAX_ANSWER`].
const PAGE: usize = 50;
/// The kubelet's own limit is 110 pods; whoever raises it stays below this.
const MAX_PODS: usize = 4096;
/// The server ends a watch after this; then it is begun again where it ended.
const WATCH_SECONDS: u32 = 290;
/// Without even a bookmark for this long, the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 30);
/// Pauses after failures: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// How long a deleted pod is remembered: its last connections may still be on their way here.
const GRACE: Duration = Duration::from_secs(30);

/// The pods of one node. Cloning shares.
#[derive(Clone, Debug)]
pub(super) struct Pods {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pods: Mutex<HashMap<String, Known>>,
    /// Counts changes, to be waited for.
    changed: watch::Sender<u64>,
    trouble: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Known {
    facts: Arc<Facts>,
    deleted: Option<Instant>,
}

/// Where the API server is and who asks it.
#[derive(Clone, Debug)]
pub(super) struct Api {
    pub(super) http: Http,
    pub(super) server: Url,
    pub(super) token: Option<TokenFile>,
    pub(super) node: String,
    /// The annotations that are kept.
    pub(super) annotations: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the API server's token: {0}")]
    Token(String),
    /// What is known is too old to go on from.
    #[error("the resource version is too old (410)")]
    Gone,
    #[error("the watch says: {0}")]
    Status(String),
    #[error("a line of the watch is longer than {MAX_ANSWER} bytes")]
    LongLine,
    #[error("the watch is silent for {} s", SILENCE.as_secs())]
    Silent,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

impl Pods {
    pub(super) fn new() -> Self {
        let shared = Shared {
            pods: Mutex::default(),
            changed: watch::Sender::new(0),
            trouble: Mutex::new(Some("the API server has not answered yet".to_owned())),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The pod with that uid; waits for it until `deadline`. `Err` says why it is not known.
    pub(super) async fn wait_for(&self, uid: &str, deadline: Instant) -> Result<Arc<Facts>, String> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(facts) = self.known(uid) {
                return Ok(facts);
            }
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                let trouble = self.trouble().clone();
                return Err(
                    trouble.unwrap_or_else(|| "the API server lists no such pod on this node".to_owned())
                );
            }
        }
    }

    /// Follows the API server for ever; whoever owns the task ends it.
    pub(super) async fn follow(self, api: Api) {
        let mut pause = PAUSE.0;
        let mut from = None;
        loop {
            match self.round(&api, from.take()).await {
                Ok(version) => {
                    from = Some(version);
                    pause = PAUSE.0;
                }
                Err((error, reached)) => {
                    metrics::counter!(crate::telemetry::WATCH_FAILURES).increment(1);
                    tracing::warn!(%error, "the pods of this node cannot be followed for now");
                    *self.trouble() = Some(error.to_string());
                    // Where it stood stays good unless the server says otherwise.
                    from = if matches!(error, WatchError::Gone) { None } else { reached };
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// One list (unless there is a version to go on from) and one watch.
    async fn round(&self, api: &Api, from: Option<String>) -> Result<String, (WatchError, Option<String>)> {
        let mut version = match from {
            Some(version) => version,
            None => self.list(api).await.map_err(|error| (error, None))?,
        };
        match self.watch(api, &mut version).await {
            Ok(()) => Ok(version),
            Err(error) => Err((error, Some(version))),
        }
    }

    async fn list(&self, api: &Api) -> Result<String, WatchError> {
        let mut found = HashMap::new();
        let mut next: Option<String> = None;
        loop {
            let mut query = vec![("limit", PAGE.to_string())];
            query.extend(next.take().map(|token| ("continue", token)));
            let url = api.url(&query);
            let token = api.bearer().await?;
            let header = token.as_ref().map(|token| ("authorization", token));
            let list: List = match api.http.json(&url, header).await {
                // The list took longer than the server remembers.
                Err(HttpError::Status { status: 410, .. }) => return Err(WatchError::Gone),
                answer => answer?,
            };
            for object in list.items {
                if found.len() < MAX_PODS && object.node() == api.node && !object.uid().is_empty() {
                    found.insert(object.uid().to_owned(), object.into_facts(&api.annotations));
                }
            }
            match list.metadata.next.filter(|token| !token.is_empty()) {
                Some(token) if found.len() < MAX_PODS => next = Some(token),
                Some(_) | None => {
                    self.replace(found);
                    return Ok(list.metadata.resource_version);
                }
            }
        }
    }

    async fn watch(&self, api: &Api, version: &mut String) -> Result<(), WatchError> {
        let url = api.url(&[
            ("watch", "true".to_owned()),
            ("allowWatchBookmarks", "true".to_owned()),
            ("timeoutSeconds", WATCH_SECONDS.to_string()),
            ("resourceVersion", version.clone()),
        ]);
        let token = api.bearer().await?;
        let header = token.as_ref().map(|token| ("authorization", token));
        let mut answer = match api.http.open(&url, header, None).await {
            Err(HttpError::Status { status: 410, .. }) => return Err(WatchError::Gone),
            answer => answer?,
        };
        *self.trouble() = None;
        let mut line = Vec::new();
        loop {
            let chunk =
                tokio::time::timeout(SILENCE, answer.chunk()).await.map_err(|_| WatchError::Silent)?;
            let broken = |error: reqwest::Error| HttpError::Unreachable {
                host: host(&url),
                cause: if error.is_body() { "the watch broke off".to_owned() } else { error.to_string() },
            };
            let Some(chunk) = chunk.map_err(broken)? else { return Ok(()) };
            for part in chunk.split_inclusive(|byte| *byte == b'\n') {
                if line.len() + part.len() > MAX_ANSWER {
                    return Err(WatchError::LongLine);
                }
                line.extend_from_slice(part);
                if line.last() == Some(&b'\n') {
                    self.event(&line, version, api, &url)?;
                    line.clear();
                }
            }
        }
    }

    fn event(&self, line: &[u8], version: &mut String, api: &Api, url: &Url) -> Result<(), WatchError> {
        let shape = |error: serde_json::Error| HttpError::Shape { host: host(url), cause: error.to_string() };
        let event: Event = serde_json::from_slice(line).map_err(shape)?;
        if event.kind == "ERROR" {
            // A `Status` object; 410 is how an expired version is said inside a watch.
            let code = event.object.get("code").and_then(serde_json::Value::as_u64);
            let text =
                event.object.get("message").and_then(serde_json::Value::as_str).unwrap_or("no message");
            return Err(match code {
                Some(410) => WatchError::Gone,
                Some(_) | None => WatchError::Status(text.chars().take(200).collect()),
            });
        }
        let object: Object = serde_json::from_value(event.object).map_err(shape)?;
        if !object.resource_version().is_empty() {
            object.resource_version().clone_into(version);
        }
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" if object.node() == api.node && !object.uid().is_empty() => {
                self.put(object, &api.annotations);
            }
            "DELETED" => self.delete(object.uid()),
            // BOOKMARK moves the version alone; what is not known yet changes nothing.
            _ => {}
        }
        Ok(())
    }

    fn put(&self, object: Object, annotations: &[String]) {
        let uid = object.uid().to_owned();
        let mut pods = self.pods();
        if pods.len() >= MAX_PODS && !pods.contains_key(&uid) {
            tracing::warn!(MAX_PODS, "more pods than are followed; this one stays unnamed");
            return;
        }
        pods.insert(uid, Known { facts: Arc::new(object.into_facts(annotations)), deleted: None });
        drop(pods);
        self.tell();
    }

    fn delete(&self, uid: &str) {
        let now = Instant::now();
        let mut pods = self.pods();
        if let Some(known) = pods.get_mut(uid) {
            known.deleted = Some(now);
        }
        pods.retain(|_, known| known.deleted.is_none_or(|at| now - at < GRACE));
    }

    fn replace(&self, found: HashMap<String, Facts>) {
        let now = Instant::now();
        let mut pods = self.pods();
        for (uid, known) in pods.iter_mut() {
            if !found.contains_key(uid) {
                known.deleted.get_or_insert(now);
            }
        }
        pods.retain(|_, known| known.deleted.is_none_or(|at| now - at < GRACE));
        pods.extend(
            found.into_iter().map(|(uid, facts)| (uid, Known { facts: Arc::new(facts), deleted: None })),
        );
        drop(pods);
        self.tell();
    }

    fn tell(&self) {
        metrics::gauge!(crate::telemetry::PODS).set(self.pods().len() as f64);
        self.shared.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn known(&self, uid: &str) -> Option<Arc<Facts>> {
        let pods = self.pods();
        let known = pods.get(uid)?;
        known.deleted.is_none_or(|at| at.elapsed() < GRACE).then(|| known.facts.clone())
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// The pods of this node alone; anything wider is neither asked for nor allowed by the shipped role.
    fn url(&self, query: &[(&str, String)]) -> Url {
        let mut url = self.server.clone();
        url.set_path(&format!("{}/api/v1/pods", self.server.path().trim_end_matches('/')));
        url.query_pairs_mut()
            .append_pair("fieldSelector", &format!("spec.nodeName={}", self.node))
            .extend_pairs(query);
        url
    }

    async fn bearer(&self) -> Result<Option<lockgate_model::Secret<String>>, WatchError> {
        match &self.token {
            Some(file) => Ok(Some(http::bearer(&file.read().await.map_err(WatchError::Token)?))),
            None => Ok(None),
        }
    }
}
