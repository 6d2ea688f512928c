//! `Idempotency-Key`: a POST that is sent again (a timeout, a retry) has its effect once, and the same answer twice.
//!
//! A key is one caller's. The same key with another request is 422, while the first is under way 409. Kept for a day in
//! memory, within bounds; over a restart it is forgotten, and what cannot be done twice says so by itself (a request that is
//! resolved, a name that is taken).

use super::{decision, problem::Problem};
use crate::{auth::Caller, desk::Desk};
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// How long an answer is kept.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Answers that are kept; the oldest make room.
const ANSWERS_MAX: usize = 10_000;
/// Answers that are kept of one caller.
const PER_CALLER_MAX: usize = 1_000;
/// Bytes of a kept answer; larger ones are given once, and their key then says so.
const ANSWER_MAX: usize = 64 << 10;
/// Bytes of all kept answers.
const ALL_MAX: usize = 64 << 20;
/// Bytes of a key; a UUID has 36.
const KEY_MAX: usize = 255;
/// Bytes of a request with a key.
const BODY_MAX: usize = 1 << 20;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The answers that are kept.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Store>);

#[derive(Default)]
struct Store {
    entries: HashMap<(String, String), Entry>,
    order: VecDeque<(Instant, (String, String))>,
    by_caller: HashMap<String, usize>,
    bytes: usize,
}

struct Entry {
    since: Instant,
    request: [u8; 32],
    answer: Option<Answer>,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

/// What a key means now.
enum Claim {
    /// Nobody has used it: go on.
    Fresh,
    /// This was the answer.
    Answered(Answer),
    UnderWay,
    AnotherRequest,
}

/// Answers a repeated request as the first was.
pub(crate) async fn keep(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let Some(key) = request.headers().get(KEY).cloned() else { return next.run(request).await };
    let Some(caller) = request.extensions().get::<Caller>().map(|caller| caller.id().to_owned()) else {
        return next.run(request).await;
    };
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    match kept(&desk.bounds.kept, request, next, caller, &key).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn kept(
    store: &Arc<Kept>,
    request: Request,
    next: Next,
    caller: String,
    key: &HeaderValue,
) -> Result<Response, Problem> {
    let key = key.to_str().ok().map(str::trim).filter(|key| !key.is_empty() && key.len() <= KEY_MAX);
    let key = key.ok_or_else(|| {
        Problem::malformed(format!("Idempotency-Key: expected 1 to {KEY_MAX} visible characters"))
    })?;
    let (parts, body) = request.into_parts();
    let body = decision::read_body(body, BODY_MAX, decision::BODY_TIMEOUT).await?;
    let mut hash = Sha256::new();
    hash.update(parts.uri.to_string().as_bytes());
    hash.update([0]);
    hash.update(&body);
    let asked: [u8; 32] = hash.finalize().into();
    let name = (caller, key.to_owned());
    let claim = store.0.lock().claim(&name, asked, Instant::now());
    match claim {
        Claim::Answered(answer) => return Ok(answer.again()),
        Claim::UnderWay => {
            let detail = "the first request with this Idempotency-Key is still under way";
            return Err(Problem::new(StatusCode::CONFLICT, "under_way", "Still under way", detail).after(1));
        }
        Claim::AnotherRequest => {
            let detail = "this Idempotency-Key came with another request before; take a new one";
            let title = "The key belongs to another request";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", title, detail));
        }
        Claim::Fresh => {}
    }
    // Whoever hangs up meanwhile finds the answer when they come again.
    let pending = Pending { store: store.clone(), name: Some(name) };
    let work = tokio::spawn(async move {
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        pending.done(response).await
    });
    work.await.map_err(|_| Problem::unavailable("the agent could not finish this"))
}

/// Gives the key back when there is no answer to keep.
struct Pending {
    store: Arc<Kept>,
    name: Option<(String, String)>,
}

impl Pending {
    async fn done(mut self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        // What failed on our side may be tried again with the same key.
        if parts.status.is_server_error() || parts.status == StatusCode::TOO_MANY_REQUESTS {
            return Response::from_parts(parts, body);
        }
        let Ok(bytes) = to_bytes(body, ANSWER_MAX).await else {
            let detail = "it was done, and its answer is too long to be kept with an Idempotency-Key";
            return Problem::unavailable(detail).into_response();
        };
        let keep = [header::CONTENT_TYPE, header::ETAG, header::LOCATION];
        let headers = keep.iter().filter_map(|name| Some((name.clone(), parts.headers.get(name)?.clone())));
        let answer = Answer { status: parts.status, headers: headers.collect(), body: bytes.clone() };
        if let Some(name) = self.name.take() {
            self.store.0.lock().answer(&name, answer);
        }
        Response::from_parts(parts, Body::from(bytes))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.store.0.lock().forget(&name);
        }
    }
}

impl Answer {
    fn again(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let headers = response.headers_mut();
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

impl Store {
    fn claim(&mut self, name: &(String, String), request: [u8; 32], now: Instant) -> Claim {
        self.sweep(now);
        if let Some(entry) = self.entries.get(name) {
            return match &entry.answer {
                _ if entry.request != request => Claim::AnotherRequest,
                Some(answer) => Claim::Answered(answer.clone()),
                None => Claim::UnderWay,
            };
        }
        let own = self.by_caller.get(&name.0).copied().unwrap_or(0);
        if own >= PER_CALLER_MAX
            && let Some(at) = self.order.iter().position(|(_, other)| other.0 == name.0)
            && let Some((_, oldest)) = self.order.remove(at)
        {
            self.drop_entry(&oldest);
        }
        while self.entries.len() >= ANSWERS_MAX || self.bytes > ALL_MAX {
            let Some((_, oldest)) = self.order.pop_front() else { break };
            self.drop_entry(&oldest);
        }
        self.entries.insert(name.clone(), Entry { since: now, request, answer: None });
        self.order.push_back((now, name.clone()));
        *self.by_caller.entry(name.0.clone()).or_default() += 1;
        Claim::Fresh
    }

    fn sweep(&mut self, now: Instant) {
        while let Some((since, name)) = self.order.front()
            && now.saturating_duration_since(*since) >= KEPT
        {
            let name = name.clone();
            self.order.pop_front();
            self.drop_entry(&name);
        }
    }

    fn answer(&mut self, name: &(String, String), answer: Answer) {
        if let Some(entry) = self.entries.get_mut(name) {
            self.bytes += answer.body.len();
            entry.answer = Some(answer);
        }
    }

    fn forget(&mut self, name: &(String, String)) {
        if let Some(entry) = self.entries.get(name) {
            let since = entry.since;
            self.order.retain(|(at, other)| *at != since || other != name);
            self.drop_entry(name);
        }
    }

    fn drop_entry(&mut self, name: &(String, String)) {
        let Some(entry) = self.entries.remove(name) else { return };
        self.bytes -= entry.answer.map_or(0, |answer| answer.body.len());
        if let Some(count) = self.by_caller.get_mut(&name.0) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_caller.remove(&name.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(caller: &str, key: &str) -> (String, String) {
        (caller.to_owned(), key.to_owned())
    }

    fn answer(bytes: usize) -> Answer {
        Answer { status: StatusCode::OK, headers: Vec::new(), body: vec![b'x'; bytes].into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_one_caller_s_one_request_s_and_one_day_s() {
        let mut store = Store::default();
        let now = Instant::now();
        assert!(matches!(store.claim(&name("a", "k"), [1; 32], now), Claim::Fresh));
        assert!(matches!(store.claim(&name("a", "k"), [1; 32], now), Claim::UnderWay));
        assert!(matches!(store.claim(&name("a", "k"), [2; 32], now), Claim::AnotherRequest));
        assert!(matches!(store.claim(&name("b", "k"), [2; 32], now), Claim::Fresh));
        store.answer(&name("a", "k"), answer(3));
        assert!(matches!(store.claim(&name("a", "k"), [1; 32], now), Claim::Answered(_)));
        let almost = now + KEPT - Duration::from_secs(1);
        assert!(matches!(store.claim(&name("a", "k"), [1; 32], almost), Claim::Answered(_)));
        assert!(matches!(store.claim(&name("a", "k"), [2; 32], now + KEPT), Claim::Fresh));
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_pushes_out_only_their_own() {
        let mut store = Store::default();
        let now = Instant::now();
        assert!(matches!(store.claim(&name("quiet", "k"), [1; 32], now), Claim::Fresh));
        store.answer(&name("quiet", "k"), answer(1));
        for number in 0..3 * PER_CALLER_MAX {
            let name = name("loud", &number.to_string());
            assert!(matches!(store.claim(&name, [1; 32], now), Claim::Fresh));
            store.answer(&name, answer(100));
        }
        assert_eq!(store.entries.len(), PER_CALLER_MAX + 1);
        assert_eq!(store.order.len(), store.entries.len());
        assert_eq!(store.bytes, 1 + 100 * PER_CALLER_MAX);
        assert!(matches!(store.claim(&name("quiet", "k"), [1; 32], now), Claim::Answered(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_may_be_tried_again() {
        let mut store = Store::default();
        let now = Instant::now();
        assert!(matches!(store.claim(&name("a", "k"), [1; 32], now), Claim::Fresh));
        store.forget(&name("a", "k"));
        assert!(matches!(store.claim(&name("a", "k"), [2; 32], now), Claim::Fresh));
        assert_eq!((store.entries.len(), store.order.len(), store.by_caller.len()), (1, 1, 1));
    }
}
