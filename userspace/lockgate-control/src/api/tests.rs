use super::{decision, peer::PeerCred, refusal};
use crate::testing::{Ask, CHAT_SECRET, DECISION_SECRET, SECRET, Stage, reference_signature, webhook};
use axum::{Extension, Router, body::Body, http::Request, response::Response};
use http_body_util::BodyExt;
use lockgate_model::{
    RequestId,
    approval::{Resolution, WithdrawReason},
    event::EventKind,
    port::{Approvals, PendingApproval},
};
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;

/// Two integrations that may decide: `approvals` for the DBAs, `chat` for DBAs and security.
fn stage() -> Stage {
    let nobody = "http://127.0.0.1:9/";
    let mut hooks = vec![
        webhook("approvals", nobody, DECISION_SECRET, &["dba"]),
        webhook("chat", nobody, CHAT_SECRET, &["dba", "security"]),
    ];
    // What is notified is not looked at here.
    hooks.iter_mut().for_each(|hook| hook.follow_ups = false);
    Stage::new(hooks)
}

async fn open(stage: &Stage, ask: Ask) -> (RequestId, Box<dyn PendingApproval>) {
    let request = stage.request(ask);
    (request.id, stage.control.open(request).await.unwrap())
}

/// A decision as a test sends it; every part can be wrong.
#[derive(Clone)]
struct Sent {
    id: String,
    secret: &'static str,
    /// Seconds off the clock.
    skew: i64,
    path: String,
    body: Value,
    headers: Vec<(&'static str, Option<String>)>,
}

impl Sent {
    /// Ana, a DBA, approves.
    fn good(request: RequestId) -> Self {
        Self {
            id: "msg_1".into(),
            secret: DECISION_SECRET,
            skew: 0,
            path: request.to_string(),
            body: json!({
                "type": "lockgate.decision",
                "timestamp": "2026-11-21T10:00:00Z",
                "data": {
                    "request_id": request,
                    "command_digest": "ab".repeat(32),
                    "decision": "approve",
                    "reason": "planned",
                    "decided_by": { "id": "ana@example.com", "groups": ["dba"] },
                },
            }),
            headers: Vec::new(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn by(self, who: &str) -> Self {
        let id = format!("msg_{who}");
        self.with(|sent| {
            sent.body["data"]["decided_by"]["id"] = json!(who);
            sent.id = id;
        })
    }

    fn request(&self, stage: &Stage) -> Request<Body> {
        let body = self.body.to_string();
        let timestamp = (stage.now().as_second() + self.skew).to_string();
        let signature = reference_signature(self.secret, &self.id, &timestamp, body.as_bytes());
        let mut request =
            Request::post(format!("/v1/approvals/{}/decision", self.path)).body(Body::from(body)).unwrap();
        let headers = [
            ("webhook-id", self.id.clone()),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signature),
        ];
        for (name, value) in headers {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        for (name, value) in &self.headers {
            match value {
                Some(value) => request.headers_mut().insert(*name, value.parse().unwrap()),
                None => request.headers_mut().remove(*name),
            };
        }
        request
    }

    async fn send(&self, stage: &Stage) -> (u16, Value) {
        answer(public(stage).oneshot(self.request(stage)).await.unwrap()).await
    }
}

fn public(stage: &Stage) -> Router {
    super::finish(stage.control.public_router())
}

async fn answer(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if status >= 400 {
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{body:?}");
        assert_eq!(value["status"], json!(status));
        assert_eq!(value["type"], json!(format!("urn:lockgate:problem:{}", value["code"].as_str().unwrap())));
        assert!(
            !value["title"].as_str().unwrap().is_empty() && !value["detail"].as_str().unwrap().is_empty()
        );
    }
    (status, value)
}

#[tokio::test(start_paused = true)]
async fn every_refusal_has_its_own_problem_is_recorded_and_locks_nobody_out() {
    type Change = Box<dyn FnOnce(&mut Sent)>;
    let change = |change: fn(&mut Sent)| -> Change { Box::new(change) };
    let cases: Vec<(&str, u16, Change)> = vec![
        ("bad_signature", 401, change(|sent| sent.secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        ("bad_signature", 401, change(|sent| sent.secret = SECRET)),
        ("bad_signature", 401, change(|sent| sent.headers = vec![("webhook-signature", None)])),
        ("bad_signature", 401, change(|sent| sent.headers = vec![("webhook-id", None)])),
        ("bad_signature", 401, change(|sent| sent.headers = vec![("webhook-timestamp", None)])),
        ("bad_signature", 401, change(|sent| sent.headers = vec![("webhook-id", Some("msg_2".into()))])),
        ("bad_signature", 401, change(|sent| sent.headers = vec![("webhook-id", Some("x".repeat(300)))])),
        ("bad_signature", 401, change(|sent| sent.headers = vec![("webhook-timestamp", Some("1".into()))])),
        (
            "bad_signature",
            401,
            change(|sent| sent.headers = vec![("webhook-signature", Some("v1,AAAA".into()))]),
        ),
        ("stale", 401, change(|sent| sent.skew = -301)),
        ("stale", 401, change(|sent| sent.skew = 301)),
        ("malformed", 400, change(|sent| sent.body = json!({}))),
        ("malformed", 400, change(|sent| sent.body = json!([1, 2]))),
        ("malformed", 400, change(|sent| sent.body["type"] = json!("lockgate.approval.requested"))),
        ("malformed", 400, change(|sent| sent.body["timestamp"] = json!("yesterday"))),
        ("malformed", 400, change(|sent| sent.body["data"]["decision"] = json!("maybe"))),
        ("malformed", 400, change(|sent| sent.body["data"]["decided_by"]["id"] = json!(" "))),
        ("malformed", 400, change(|sent| sent.body["data"]["decided_by"]["id"] = json!("ana\u{202e}"))),
        ("malformed", 400, change(|sent| sent.body["data"]["decided_by"]["id"] = json!("x".repeat(257)))),
        ("malformed", 400, change(|sent| sent.body["data"]["reason"] = json!("x".repeat(5_000)))),
        (
            "malformed",
            400,
            change(|sent| sent.body["data"]["decided_by"]["groups"] = json!(vec!["dba"; 300])),
        ),
        ("too_large", 413, change(|sent| sent.body["padding"] = json!("x".repeat(decision::BODY_MAX)))),
        ("unknown_request", 404, change(|sent| sent.path = "req_nonsense".into())),
        ("unknown_request", 404, change(|sent| sent.path = RequestId::from_parts(1, 1).to_string())),
        ("unknown_request", 404, change(|sent| sent.body["data"]["request_id"] = json!("req_nonsense"))),
        ("digest_mismatch", 409, change(|sent| sent.body["data"]["command_digest"] = json!("cd".repeat(32)))),
        ("digest_mismatch", 409, change(|sent| sent.body["data"]["command_digest"] = json!("AB".repeat(32)))),
        ("digest_mismatch", 409, change(|sent| sent.body["data"]["command_digest"] = json!(""))),
        (
            "group_not_spoken_for",
            403,
            change(|sent| sent.body["data"]["decided_by"]["groups"] = json!(["security"])),
        ),
        ("group_not_spoken_for", 403, change(|sent| sent.body["data"]["decided_by"]["groups"] = json!([]))),
        (
            "group_not_spoken_for",
            403,
            change(|sent| sent.body["data"]["decided_by"] = json!({ "id": "ana" })),
        ),
        (
            "not_authorized",
            403,
            change(|sent| {
                sent.secret = CHAT_SECRET;
                sent.body["data"]["decided_by"]["groups"] = json!(["security"]);
            }),
        ),
        ("requester", 403, change(|sent| sent.body["data"]["decided_by"]["id"] = json!("bert"))),
        ("requester", 403, change(|sent| sent.body["data"]["decided_by"]["id"] = json!("Build"))),
        ("requester", 403, change(|sent| sent.body["data"]["decided_by"]["id"] = json!("uid:1001"))),
        ("requester", 403, change(|sent| sent.body["data"]["decided_by"]["id"] = json!("local:1001"))),
        ("excluded", 403, change(|sent| sent.body["data"]["decided_by"]["id"] = json!("carla@example.com"))),
        ("reason_required", 422, change(|sent| sent.body["data"]["reason"] = json!(" \n"))),
        ("reason_required", 422, change(|sent| sent.body["data"]["reason"] = Value::Null)),
    ];
    for (number, (code, status, change)) in cases.into_iter().enumerate() {
        let stage = stage();
        let (id, pending) = open(&stage, Ask { require_reason: true, ..Ask::default() }).await;
        let (got, problem) = Sent::good(id).with(change).send(&stage).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "case {number}: {problem}");
        assert_eq!(stage.log.refusals(), [code], "case {number}");
        assert!(include_str!("../../api.md").contains(&format!("`{code}`")), "{code} is documented");
        assert_eq!(pending.progress().requirements[0].have, 0);
        // The same message id, now right: refused decisions lock nobody out.
        let (got, answer) = Sent::good(id).send(&stage).await;
        assert_eq!((got, &answer["state"]), (200, &json!("approved")), "case {number}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn path_and_body_must_name_the_same_request() {
    let stage = stage();
    let (first, _first) = open(&stage, Ask::default()).await;
    let (second, _second) = open(&stage, Ask::default()).await;
    let (status, problem) = Sent::good(first).with(|sent| sent.path = second.to_string()).send(&stage).await;
    assert_eq!((status, &problem["code"]), (422, &json!("request_mismatch")));
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_over() {
    for (code, status, end) in
        [("expired", 410, "time"), ("already_resolved", 409, "vote"), ("already_resolved", 409, "withdrawal")]
    {
        let stage = stage();
        let (id, mut pending) =
            open(&stage, Ask { timeout: Duration::from_secs(60), ..Ask::default() }).await;
        match end {
            "time" => tokio::time::sleep(Duration::from_secs(61)).await,
            "vote" => assert_eq!(Sent::good(id).by("bob").send(&stage).await.0, 200),
            _ => {
                pending.withdraw(WithdrawReason::Cancelled).await;
                (_, pending) = open(&stage, Ask::default()).await;
            }
        }
        let (got, problem) = Sent::good(id).send(&stage).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{end}");
        assert_eq!(stage.log.refusals(), [code]);
        assert_eq!(stage.log.resolutions().len(), 1);
        drop(pending);
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_at_the_very_moment_of_expiry_is_refused_and_expires_the_request() {
    let stage = stage();
    let (id, mut pending) = open(&stage, Ask { timeout: Duration::from_secs(60), ..Ask::default() }).await;
    // Past the expiry, before the request's task has been scheduled again.
    tokio::time::advance(Duration::from_secs(60)).await;
    let (status, problem) = Sent::good(id).send(&stage).await;
    assert_eq!((status, &problem["code"]), (410, &json!("expired")));
    assert_eq!(pending.changed().await.resolution, Some(Resolution::Expired));
    assert_eq!(stage.log.votes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_message_gets_409_and_has_no_effect() {
    let stage = stage();
    let (id, pending) = open(&stage, Ask { need: 2, ..Ask::default() }).await;
    let sent = Sent::good(id);
    assert_eq!(sent.send(&stage).await.0, 200);
    for repeat in [
        sent.clone(),
        // Signed anew, and about somebody else: the id alone says that it is the same message.
        sent.clone().with(|sent| sent.skew = 5),
        sent.clone().with(|sent| sent.body["data"]["decided_by"]["id"] = json!("bob")),
        sent.clone().with(|sent| sent.body["data"]["decision"] = json!("deny")),
    ] {
        let (status, problem) = repeat.send(&stage).await;
        assert_eq!((status, &problem["code"]), (409, &json!("replayed")));
    }
    assert_eq!((pending.progress().requirements[0].have, stage.log.votes()), (1, 1));
    assert_eq!(stage.log.refusals(), ["replayed"; 4]);
}

#[tokio::test(start_paused = true)]
async fn copies_of_one_message_that_race_count_once() {
    let stage = stage();
    let (id, pending) = open(&stage, Ask { need: 2, ..Ask::default() }).await;
    *stage.log.slow.lock() = Duration::from_secs(1);
    let sent = Sent::good(id);
    let ((one, _), (two, problem)) = tokio::join!(sent.send(&stage), sent.send(&stage));
    assert_eq!((one, two, &problem["code"]), (200, 409, &json!("replayed")));
    assert_eq!(pending.progress().requirements[0].have, 1);
}

#[tokio::test(start_paused = true)]
async fn one_person_counts_once_however_often_they_are_named() {
    let stage = stage();
    let (id, pending) = open(&stage, Ask { need: 2, ..Ask::default() }).await;
    assert_eq!(Sent::good(id).send(&stage).await.0, 200);
    for (number, (secret, name)) in [
        (DECISION_SECRET, "ana@example.com"),
        (DECISION_SECRET, " Ana@Example.COM "),
        (CHAT_SECRET, "ana@example.com"),
        (CHAT_SECRET, "ＡＮＡ@example.com"),
    ]
    .into_iter()
    .enumerate()
    {
        let again = Sent::good(id).with(|sent| {
            sent.id = format!("msg_again_{number}");
            sent.secret = secret;
            sent.body["data"]["decided_by"]["id"] = json!(name);
        });
        let (status, problem) = again.send(&stage).await;
        assert_eq!((status, &problem["code"]), (409, &json!("duplicate_vote")), "{name}");
    }
    assert_eq!(pending.progress().requirements[0].have, 1);
    let (_, answer) = Sent::good(id).by("bob").with(|sent| sent.secret = CHAT_SECRET).send(&stage).await;
    assert_eq!(answer["state"], json!("approved"));
    let voters = stage.log.pick(|kind| match kind {
        EventKind::VoteCast { vote, .. } => Some((vote.by.id.clone(), vote.by.via.clone())),
        _ => None,
    });
    let expected =
        [("webhook:approvals:ana@example.com", "webhook:approvals"), ("webhook:chat:bob", "webhook:chat")];
    assert_eq!(voters, expected.map(|(id, via)| (id.to_owned(), via.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn votes_of_one_request_are_bounded() {
    let stage = stage();
    let (id, pending) = open(&stage, Ask { need: 1_000, ..Ask::default() }).await;
    for number in 0..300 {
        let (status, answer) = Sent::good(id).by(&format!("person-{number}")).send(&stage).await;
        let expected = if number < 256 { (200, Value::Null) } else { (409, json!("too_many_votes")) };
        assert_eq!((status, answer["code"].clone()), expected, "{number}");
    }
    assert_eq!(pending.progress().requirements[0].have, 256);
}

#[tokio::test(start_paused = true)]
async fn an_integration_speaks_for_its_groups_and_no_more() {
    let stage = stage();
    let (id, _pending) = open(&stage, Ask { need: 2, ..Ask::default() }).await;
    let sent = Sent::good(id).with(|sent| {
        sent.body["data"]["decided_by"]["groups"] = json!(["security", "dba", "root"]);
        sent.body["unknown"] = json!("is passed over");
    });
    assert_eq!(sent.send(&stage).await.0, 200);
    let groups = stage.log.pick(|kind| match kind {
        EventKind::VoteCast { vote, .. } => Some(vote.by.groups.clone()),
        _ => None,
    });
    assert_eq!(groups, [vec!["dba".into()]]);
}

#[tokio::test(start_paused = true)]
async fn a_denial_carries_its_reason_with_nothing_hidden_in_it() {
    let stage = stage();
    let (id, mut pending) = open(&stage, Ask::default()).await;
    let sent = Sent::good(id).with(|sent| {
        sent.body["data"]["decision"] = json!("deny");
        sent.body["data"]["reason"] = json!(" not today\u{1b}[2J ");
    });
    let (status, answer) = sent.send(&stage).await;
    assert_eq!((status, &answer["state"]), (200, &json!("denied")));
    let Some(Resolution::Denied { vote }) = pending.changed().await.resolution else { panic!("not denied") };
    assert_eq!(vote.reason.as_deref(), Some("not today⟨U+001B⟩[2J"));
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_cannot_be_recorded_can_be_sent_again() {
    let stage = stage();
    let (id, pending) = open(&stage, Ask::default()).await;
    stage.log.fail(true);
    let (status, problem) = Sent::good(id).send(&stage).await;
    assert_eq!((status, &problem["code"]), (503, &json!("record_failed")));
    assert_eq!(pending.progress().resolution, None);
    stage.log.fail(false);
    assert_eq!(Sent::good(id).send(&stage).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_bad_decisions_later_a_valid_one_passes() {
    let stage = stage();
    let (id, pending) =
        open(&stage, Ask { need: 2, timeout: Duration::from_secs(7_200), ..Ask::default() }).await;
    assert_eq!(Sent::good(id).send(&stage).await.0, 200);
    for number in 0..10_000 {
        let bad = Sent::good(id).with(|sent| {
            sent.id = format!("msg_bad_{number}");
            sent.headers = vec![("webhook-signature", Some("v1,AAAA".into()))];
        });
        assert_eq!(bad.send(&stage).await.0, 401);
    }
    // The memory of what was accepted is as it was, and so is the way in.
    assert_eq!(Sent::good(id).send(&stage).await.1["code"], json!("replayed"));
    assert_eq!(Sent::good(id).by("bob").send(&stage).await.0, 200);
    assert!(pending.progress().resolution.is_some());
    // The log was not flooded, and says how much it left out.
    assert_eq!(stage.log.refusals().iter().filter(|code| *code == "bad_signature").count(), 1_000);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let left_out = stage.log.pick(|kind| match kind {
        EventKind::Gap { stage, count, .. } => Some((stage.clone(), *count)),
        _ => None,
    });
    assert_eq!(left_out, [("refused_decisions".to_owned(), Some(9_000))]);
}

/// Real time and real HTTP: from the first byte of the decision to the woken waiter, 2,000 others waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_wakes_its_waiter_within_milliseconds_among_two_thousand() {
    let stage = stage();
    let mut waiting = Vec::new();
    for number in 0..2_000 {
        waiting.push(open(&stage, Ask { principal: format!("uid:{}", number % 50), ..Ask::default() }).await);
    }
    assert_eq!(stage.control.pending(), 2_000);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), tokio_util::sync::CancellationToken::new());
    // As it is served, without the check of answers that stands before this crate's other tests.
    let router = stage.control.public_router();
    let served = tokio::spawn(crate::serve_tcp(listener, router, None, shutdown.clone()));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut waits = Vec::new();
    for (id, mut pending) in waiting.drain(..100) {
        let waiter = tokio::spawn(async move {
            while pending.changed().await.resolution.is_none() {}
            std::time::Instant::now()
        });
        let (parts, body) = Sent::good(id).by(&format!("ana{id}")).request(&stage).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let url = format!("http://{address}{}", parts.uri);
        let decided = std::time::Instant::now();
        let answer = client.post(url).headers(parts.headers).body(body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        waits.push(waiter.await.unwrap().saturating_duration_since(decided));
    }
    waits.sort_unstable();
    println!("decision to wake-up: median {:?}, slowest {:?}", waits[50], waits[99]);
    assert!(waits[95] < Duration::from_millis(100), "{waits:?}");
    shutdown.cancel();
    served.await.unwrap();
}

/// A body that never ends.
struct Stuck;

impl hyper::body::Body for Stuck {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let stage = stage();
    let (id, _pending) = open(&stage, Ask::default()).await;
    let began = tokio::time::Instant::now();
    let request = Sent::good(id).request(&stage).map(|_| Body::new(Stuck));
    let (status, problem) = answer(public(&stage).oneshot(request).await.unwrap()).await;
    assert_eq!((status, &problem["code"]), (408, &json!("too_slow")));
    assert_eq!(began.elapsed(), decision::BODY_TIMEOUT);
}

/// Signed rubbish: every prefix of a good body, single-byte changes and random JSON, none of which may count.
#[tokio::test(start_paused = true)]
async fn rubbish_never_counts_and_never_breaks_anything() {
    use proptest::{
        prelude::*,
        strategy::ValueTree,
        test_runner::{Config, TestRunner},
    };
    let stage = stage();
    let (id, pending) = open(&stage, Ask::default()).await;
    let router = public(&stage);
    let good = Sent::good(id).body.to_string().into_bytes();
    let mut bodies: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let any_bytes = proptest::collection::vec(any::<u8>(), 0..200);
    for _ in 0..1_000 {
        bodies.push(any_bytes.new_tree(&mut runner).unwrap().current());
    }
    for place in 0..good.len() {
        let mut broken = good.clone();
        broken[place] = 0xff;
        bodies.push(broken);
    }
    bodies.push("[".repeat(60_000).into_bytes());
    for (number, body) in bodies.into_iter().enumerate() {
        let (id_, timestamp) = (format!("msg_{number}"), stage.now().as_second().to_string());
        let signature = reference_signature(DECISION_SECRET, &id_, &timestamp, &body);
        let request = Request::post(format!("/v1/approvals/{id}/decision"))
            .header("webhook-id", id_)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(Body::from(body))
            .unwrap();
        let (status, problem) = answer(router.clone().oneshot(request).await.unwrap()).await;
        assert!((400..500).contains(&status), "{number} {status} {problem}");
    }
    assert_eq!((pending.progress().resolution, stage.log.votes()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn the_link_of_a_notification_shows_its_request_while_it_waits_and_no_other() {
    let stage = stage();
    let (id, pending) = open(&stage, Ask::default()).await;
    let (other, _other) = open(&stage, Ask::default()).await;
    let link = stage.control.desk.links.view(id);
    let path = link.strip_prefix("http://127.0.0.1:8420").unwrap().to_owned();
    let get = async |path: String| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        answer(public(&stage).oneshot(request).await.unwrap()).await
    };
    let (status, page) = get(path.clone()).await;
    assert_eq!((status, &page["id"], &page["state"]), (200, &json!(id), &json!("pending")));
    assert_eq!(page["operation"]["statement"], json!("ALTER TABLE orders ADD COLUMN note text"));
    for path in [
        format!("/v1/approvals/{id}"),
        format!("/v1/approvals/{id}?token="),
        format!("/v1/approvals/{id}?token=AAAA"),
        path.replace(&id.to_string(), &other.to_string()),
        path.replace(&id.to_string(), "req_nonsense"),
    ] {
        assert_eq!(get(path.clone()).await.1["code"], json!("link_required"), "{path}");
    }
    for path in ["/v1/approvals", "/v1/approvals/x/approve", "/metrics", "/v1/approvals/%ff/decision/x"] {
        assert_eq!(get(path.into()).await.0, 404, "{path}");
    }
    assert_eq!(get(format!("/v1/approvals/{id}/decision")).await.0, 405, "a GET never decides");
    pending.withdraw(WithdrawReason::Cancelled).await;
    assert_eq!(get(path).await.1["code"], json!("link_expired"));
}

#[tokio::test(start_paused = true)]
async fn health_and_readiness_are_told_apart() {
    let stage = stage();
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        public(&stage).oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!((get("/healthz").await, get("/readyz").await), (200, 503));
    stage.control.set_ready(true);
    assert_eq!((get("/healthz").await, get("/readyz").await), (200, 200));
    stage.control.stop(Duration::from_secs(1)).await;
    assert_eq!((get("/healthz").await, get("/readyz").await), (200, 503));
}

/// The host's API as a uid sees it.
async fn host(stage: &Stage, uid: u32, method: &str, path: &str, body: &str) -> (u16, Value) {
    let router: Router = stage
        .control
        .authenticated(super::finish(stage.control.router()))
        .layer(Extension(PeerCred { pid: Some(1), uid, gid: uid }));
    let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
    answer(router.oneshot(request).await.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_listed_uid_decides_for_its_groups_and_nobody_else_does() {
    for (uid, word, path, body, status, code) in [
        (0, "approve", "", "", 403, "not_authorized"),
        (1001, "approve", "", "", 403, "requester"),
        (1003, "approve", "", "", 403, "not_authorized"),
        (1004, "approve", "", "", 403, "not_authorized"),
        (1002, "approve", "", "{\"reason\"", 400, "malformed"),
        (1002, "approve", "", "{\"raeson\": \"x\"}", 400, "malformed"),
        (1002, "approve", "", "{\"command_digest\": \"cd\"}", 409, "digest_mismatch"),
        (1002, "deny", "req_nonsense", "", 404, "unknown_request"),
    ] {
        let stage = stage();
        let (id, pending) = open(&stage, Ask::default()).await;
        let id = if path.is_empty() { id.to_string() } else { path.to_owned() };
        let (got, problem) = host(&stage, uid, "POST", &format!("/v1/approvals/{id}/{word}"), body).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{uid} {body}");
        let refusals = stage.log.pick(|kind| match kind {
            EventKind::DecisionRefused { channel, by, .. } => Some((channel.clone(), by.clone())),
            _ => None,
        });
        assert_eq!(refusals, [(format!("local:{uid}"), Some(format!("local:{uid}")))]);
        assert_eq!(pending.progress().resolution, None);
    }
    let stage = stage();
    let (id, mut pending) = open(&stage, Ask::default()).await;
    let body = json!({ "reason": "planned", "command_digest": "ab".repeat(32) }).to_string();
    let (status, answer) = host(&stage, 1002, "POST", &format!("/v1/approvals/{id}/approve"), &body).await;
    assert_eq!((status, &answer["state"]), (200, &json!("approved")));
    let Some(Resolution::Approved { votes, .. }) = pending.changed().await.resolution else {
        panic!("not approved")
    };
    assert_eq!((&*votes[0].by.id, &*votes[0].by.via), ("local:1002", "cli"));
    assert_eq!(votes[0].reason.as_deref(), Some("planned"));
}

#[tokio::test(start_paused = true)]
async fn who_may_see_a_request_is_root_approvers_and_its_own_uid() {
    let stage = stage();
    let (id, _pending) = open(&stage, Ask::default()).await;
    for (uid, sees) in [(0, true), (1001, true), (1002, true), (1003, true), (1004, false)] {
        let (status, page) = host(&stage, uid, "GET", &format!("/v1/approvals/{id}"), "").await;
        assert_eq!(status, if sees { 200 } else { 404 }, "{uid} {page}");
        let (_, list) = host(&stage, uid, "GET", "/v1/approvals", "").await;
        assert_eq!(list["items"].as_array().unwrap().len(), usize::from(sees), "{uid}");
    }
    let without_socket = Request::get("/v1/approvals").body(Body::empty()).unwrap();
    let router = stage.control.authenticated(stage.control.router());
    let (status, _) = answer(router.oneshot(without_socket).await.unwrap()).await;
    assert_eq!(status, 401);
}

#[tokio::test(start_paused = true)]
async fn lists_have_states_limits_and_a_next_page() {
    let stage = stage();
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(open(&stage, Ask::default()).await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let first = waiting.remove(0);
    first.1.withdraw(WithdrawReason::Cancelled).await;
    let ids = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let newest: Vec<String> = waiting.iter().rev().map(|(id, _)| id.to_string()).collect();
    let (_, pending) = host(&stage, 0, "GET", "/v1/approvals?state=pending", "").await;
    assert_eq!((ids(&pending), &pending["next"]), (newest.clone(), &Value::Null));
    for state in ["cancelled", "resolved"] {
        let (_, over) = host(&stage, 0, "GET", &format!("/v1/approvals?state={state}"), "").await;
        assert_eq!(ids(&over), [first.0.to_string()], "{state}");
    }
    let (_, page) = host(&stage, 0, "GET", "/v1/approvals?limit=2", "").await;
    assert_eq!(ids(&page), newest[..2]);
    let next = page["next"].as_str().unwrap();
    let (_, page) = host(&stage, 0, "GET", &format!("/v1/approvals?limit=3&before={next}"), "").await;
    assert_eq!(ids(&page), [newest[2].clone(), newest[3].clone(), first.0.to_string()]);
    assert_eq!(page["next"], Value::Null);
    let item = &pending["items"][0];
    for (field, expected) in [
        ("state", json!("pending")),
        ("statement", json!("ALTER TABLE orders ADD COLUMN note text")),
        ("class", json!("ddl")),
        ("risk", json!("high")),
        ("target", json!("orders-db")),
        ("uid", json!(1001)),
        ("rules", json!(["schema-change-dba"])),
    ] {
        assert_eq!(item[field], expected, "{field}");
    }
    for bad in ["state=open", "limit=x", "before=1", "stat=pending"] {
        let (status, problem) = host(&stage, 0, "GET", &format!("/v1/approvals?{bad}"), "").await;
        assert_eq!((status, &problem["code"]), (400, &json!("malformed")), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_masked_request_is_shown_without_its_literals_everywhere() {
    let stage = stage();
    let ask = Ask {
        statement: "SELECT '078-05-1120'".into(),
        values: vec!["219-09-9999".into()],
        touches_masked: true,
        ..Ask::default()
    };
    let (id, _pending) = open(&stage, ask).await;
    for path in [format!("/v1/approvals/{id}"), "/v1/approvals".into()] {
        let text = host(&stage, 0, "GET", &path, "").await.1.to_string();
        assert!(!text.contains("078-05-1120") && !text.contains("219-09-9999"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_host_cannot_flood_the_log_either() {
    let stage = stage();
    let (id, _pending) = open(&stage, Ask::default()).await;
    for _ in 0..1_200 {
        host(&stage, 1004, "POST", &format!("/v1/approvals/{id}/approve"), "").await;
    }
    assert_eq!(stage.log.refusals().len(), 1_000);
    // An integration's refusals are still recorded one by one.
    Sent::good(id).with(|sent| sent.skew = 900).send(&stage).await;
    assert_eq!(stage.log.refusals().last().map(String::as_str), Some("stale"));
    assert!(matches!(refusal::Caller::Local(1), refusal::Caller::Local(_)));
}
