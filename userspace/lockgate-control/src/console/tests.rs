//! Pages attacked: hostile text in every place that strangers fill, forms without what they must carry, addresses that want
//! too much; and what the frame promises of every page.

use super::*;
use crate::{
    PeerCred,
    auth::{Caller, Role, caller::Known},
    house::*,
    testing::{Ask, Stage},
};
use axum::{
    Extension,
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt;
use lockgate_model::{
    SessionId,
    approval::ApprovalRequest,
    coverage::Coverage,
    event::{Event, EventKind},
    id::{NodeName, TargetName},
    port::{Approvals, PendingApproval},
    session::{DefaultEffect, Mode},
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use tower::ServiceExt;

/// What a stranger may put wherever a name or a statement goes.
const HOSTILE: &str = "</code></pre><script>alert('x')</script><img src=x onerror=alert(1)>\" onmouseover=\"x\u{202e}evil\u{1b}[2J\0{{7*7}}";

/// Answers with hostile text wherever text goes.
struct Den {
    stage_session: SessionId,
    records: Vec<EventKind>,
    /// A verification of the log goes on until it is stopped; otherwise it fails at once.
    endless: bool,
}

impl Den {
    fn summary(&self) -> SessionSummary {
        serde_json::from_value(json!({
            "id": self.stage_session, "node": "build-7", "started": "2026-11-21T09:00:00Z",
            "principal": { "kind": "ci_job", "id": HOSTILE, "display": HOSTILE, "assurance": "claimed" },
            "target": HOSTILE, "protocol": "postgres", "database": HOSTILE, "upstream_user": HOSTILE,
            "operations": 3, "denied": 1, "held": 1, "bytes_from_client": 0, "bytes_to_client": 0, "first_seq": 1, "last_seq": 9,
        }))
        .unwrap()
    }

    fn record(&self, seq: u64, kind: EventKind) -> Record {
        let event =
            Event { at: "2026-11-21T09:00:01Z".parse().unwrap(), session: Some(self.stage_session), kind };
        serde_json::from_value({
            let mut value = serde_json::to_value(&event).unwrap();
            let hash = "00".repeat(32);
            let fields = value.as_object_mut().unwrap();
            fields.insert("v".into(), json!(1));
            fields.insert("node".into(), json!("build-7"));
            fields.insert("seq".into(), json!(seq));
            fields.insert("prev".into(), json!(hash));
            value
        })
        .unwrap()
    }
}

fn ready<'a, T: Send + 'a>(answer: T) -> Answer<'a, T> {
    Box::pin(async move { Ok(answer) })
}

struct Quiet;

impl Tail for Quiet {
    fn more(&mut self, _: usize) -> Answer<'_, Vec<Record>> {
        ready(Vec::new())
    }
}

impl House for Den {
    fn node(&self) -> NodeName {
        "build-7".into()
    }
    fn governs(&self, _: &crate::PeerCred) -> bool {
        false
    }
    fn newest(&self) -> Answer<'_, u64> {
        ready(9)
    }
    fn status(&self) -> Answer<'_, serde_json::Value> {
        ready(json!({}))
    }
    fn sessions(&self, _: SessionFilter) -> Answer<'_, Vec<SessionSummary>> {
        ready(vec![self.summary()])
    }
    fn session(&self, id: SessionRef, _: u64, _: usize, _: Sight) -> Answer<'_, SessionView> {
        if !matches!(id, SessionRef::Session(id) if id == self.stage_session) {
            return Box::pin(async { Err(HouseError::NotFound("no such session".into())) });
        }
        let records = self.records.iter().cloned().zip(1..).map(|(kind, seq)| self.record(seq, kind));
        ready(SessionView { session: self.summary(), records: records.collect(), more: true })
    }
    fn tail(&self, _: Option<u64>) -> Answer<'_, Box<dyn Tail>> {
        ready(Box::new(Quiet) as Box<dyn Tail>)
    }
    fn seen(&self, record: Record, _: Sight) -> Record {
        record
    }
    fn kill(&self, session: SessionId, _: Actor, _: String) -> Answer<'_, Killed> {
        ready(Killed { session, decision_id: "dec_1".into() })
    }
    fn search(&self, query: SearchQuery, _: Sight) -> Answer<'_, Found> {
        assert!(query.limit.is_some_and(|limit| limit <= 100));
        let hit = Hit {
            seq: 7,
            event: HOSTILE.into(),
            session: Some(self.stage_session),
            identity: Some(HOSTILE.into()),
            repository: Some(HOSTILE.into()),
            target: Some(HOSTILE.into()),
            tables: vec![HOSTILE.into()],
            decision: Some(HOSTILE.into()),
            approvers: vec![HOSTILE.into()],
            rules: vec![HOSTILE.into()],
            text: HOSTILE.into(),
            ..Hit::default()
        };
        ready(Found { items: vec![hit], next: Some(HOSTILE.into()), complete: false, elapsed_micros: 1_500 })
    }
    fn targets(&self, _: bool) -> Answer<'_, Vec<TargetView>> {
        ready(vec![TargetView {
            name: HOSTILE.into(),
            protocol: HOSTILE.into(),
            mode: Mode::Enforce,
            default: DefaultEffect::Deny,
            tags: BTreeMap::from([(HOSTILE.into(), HOSTILE.into())]),
            addresses: vec![HOSTILE.into()],
            resolved: BTreeMap::new(),
            listen: Some(HOSTILE.into()),
            origin: Origin::Registered,
            etag: "0123".into(),
            definition: Some(json!({ "name": HOSTILE })),
            health: Some(TargetHealth {
                reachable: false,
                asked_at: "2026-11-21T09:00:00Z".parse().unwrap(),
                detail: Some(HOSTILE.into()),
            }),
            open_sessions: 2,
        }])
    }
    fn register(&self, _: Registration, _: Actor) -> Answer<'_, TargetView> {
        Box::pin(async { Err(HouseError::Invalid(HOSTILE.into())) })
    }
    fn unregister(&self, _: TargetName, _: Option<String>, _: Actor) -> Answer<'_, ()> {
        ready(())
    }
    fn governed(&self) -> Answer<'_, Governed> {
        let coverage: Coverage = serde_json::from_value(json!({
            "since": "2026-11-21T09:00:00Z", "redirected": 1_234, "bypassed": 1, "not_governed": 0, "untold": 0, "hooks": 9,
            "hooks_lost": [HOSTILE],
        }))
        .unwrap();
        let set = GovernedView {
            by: "cgroup".into(),
            value: HOSTILE.into(),
            mode: HOSTILE.into(),
            unregistered: HOSTILE.into(),
        };
        ready(Governed { items: vec![set], coverage, whole: false })
    }
    fn policy(&self) -> Answer<'_, PolicyView> {
        ready(PolicyView {
            version: "0123abcd".into(),
            loaded_at: "2026-11-21T09:00:00Z".parse().unwrap(),
            files: vec![PolicyFile { path: HOSTILE.into(), text: HOSTILE.into() }],
            rules: vec![HOSTILE.into()],
            warnings: vec![HOSTILE.into()],
            rejected: vec![HOSTILE.into()],
        })
    }
    fn explain(&self, _: ExplainQuery) -> Answer<'_, Vec<Explained>> {
        let condition = json!({ "key": HOSTILE, "wanted": HOSTILE, "got": HOSTILE, "holds": false });
        let rule = json!({ "rule": HOSTILE, "file": HOSTILE, "line": 1, "effect": HOSTILE, "mode": HOSTILE, "matched": true, "conditions": [condition] });
        ready(vec![Explained {
            statement: HOSTILE.into(),
            effect: HOSTILE.into(),
            explanation: json!({ "rules": [rule] }),
        }])
    }
    fn test(&self) -> Answer<'_, Vec<PolicyTest>> {
        ready(vec![PolicyTest {
            name: HOSTILE.into(),
            file: HOSTILE.into(),
            line: 1,
            passed: false,
            failures: vec![HOSTILE.into()],
        }])
    }
    fn verify(&self, watched: Arc<Watched>) -> Answer<'_, Option<VerifyReport>> {
        Box::pin(async move {
            if !self.endless {
                return Err(HouseError::Unavailable(HOSTILE.into()));
            }
            while watched.note(500, 50_000, 100_000) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(None)
        })
    }
    fn prove(&self, _: ProofQuery) -> Answer<'_, Proof> {
        ready(Proof { text: HOSTILE.into(), public_key: Some(HOSTILE.into()) })
    }
}

/// A console with one hostile request that waits.
struct Room {
    stage: Stage,
    request: ApprovalRequest,
    _pending: Box<dyn PendingApproval>,
}

impl Room {
    async fn new() -> Self {
        Self::with(Ask { statement: HOSTILE.into(), values: vec![HOSTILE.into()], ..Ask::default() }).await
    }

    async fn with(ask: Ask) -> Self {
        Self::made(ask, false).await
    }

    async fn made(ask: Ask, endless: bool) -> Self {
        let stage = Stage::new(Vec::new());
        let mut request = stage.request(ask);
        let mut session = (*request.session).clone();
        session.principal.display = HOSTILE.into();
        session.client.user = HOSTILE.into();
        session.client.application_name = Some(HOSTILE.into());
        let mut workload = (*session.workload).clone();
        workload.established_by = HOSTILE.into();
        workload.process.argv = vec![HOSTILE.into()];
        workload.process.exe = Some(HOSTILE.into());
        if let Some(ci) = &mut workload.ci {
            ci.repository = Some(HOSTILE.into());
            ci.run_url = Some(format!("javascript:{HOSTILE}"));
            ci.git_ref = Some(HOSTILE.into());
            ci.triggering_actor = Some(HOSTILE.into());
        }
        session.workload = workload.into();
        request.session = session.clone().into();
        let started = EventKind::SessionStarted(Box::new(session));
        let decided = EventKind::OperationDecided {
            operation: lockgate_model::event::RecordedOperation::of(
                &request.operation,
                lockgate_model::verdict::RecordStatements::Full,
            ),
            verdict: Box::new(request.verdict.clone()),
            denial: None,
        };
        let rows = EventKind::ResultRows {
            operation: request.operation.id,
            columns: vec![HOSTILE.into()],
            rows: vec![vec![Some(HOSTILE.into()), None]],
            truncated: true,
        };
        let refused = EventKind::DecisionRefused {
            request: Some(request.id),
            channel: HOSTILE.into(),
            by: Some(HOSTILE.into()),
            code: HOSTILE.into(),
            detail: HOSTILE.into(),
        };
        let gap = EventKind::Gap { stage: HOSTILE.into(), count: None, detail: HOSTILE.into() };
        let house = Den {
            stage_session: request.session.id,
            records: vec![started, decided, rows, refused, gap],
            endless,
        };
        stage.control.attach_house(Arc::new(house));
        let pending = stage.control.open(request.clone()).await.unwrap();
        Self { stage, request, _pending: pending }
    }

    async fn ask(
        &self,
        caller: &Caller,
        request: Request<Body>,
    ) -> (StatusCode, axum::http::HeaderMap, String) {
        let router = self.stage.control.authenticated(crate::finish(self.stage.control.console()));
        let response = router.layer(Extension(caller.clone())).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(5), body.collect()).await;
        let body = body.map_or_else(|_| Vec::new(), |body| body.unwrap().to_bytes().to_vec());
        (parts.status, parts.headers, String::from_utf8(body).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, axum::http::HeaderMap, String) {
        self.seen_by(&dba(), path).await
    }

    async fn seen_by(&self, caller: &Caller, path: &str) -> (StatusCode, axum::http::HeaderMap, String) {
        self.ask(caller, Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: &str) -> (StatusCode, axum::http::HeaderMap, String) {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(body.to_owned()))
            .unwrap();
        self.ask(&dba(), request).await
    }

    fn pages(&self) -> Vec<String> {
        let (request, session) = (self.request.id, self.request.session.id);
        let hostile = form::escaped(HOSTILE);
        [
            "/approvals".into(),
            "/approvals?state=resolved".into(),
            format!("/approvals?q={hostile}&who={hostile}&target={hostile}&class={hostile}"),
            format!("/approvals/{request}"),
            format!("/approvals/{hostile}"),
            format!("/bundles/{hostile}"),
            "/grants".into(),
            "/breakglass".into(),
            "/sessions".into(),
            format!("/sessions?who={hostile}&target={hostile}"),
            format!("/sessions?since={hostile}"),
            format!("/sessions/{session}"),
            "/search".into(),
            format!("/search?q={hostile}&table={hostile}&before={hostile}"),
            "/targets".into(),
            "/targets?health=ask".into(),
            "/governed".into(),
            "/policies".into(),
            format!("/policies?statement={hostile}&target={hostile}&tags={hostile}:{hostile}"),
            "/policies?tests=run".into(),
            "/audit".into(),
            format!("/audit?record={hostile}"),
            format!("/audit/proof?record={hostile}"),
            "/me".into(),
        ]
        .into()
    }
}

fn caller(id: &str, roles: &[Role], groups: &[&str]) -> Caller {
    Caller::new(Known {
        id: id.into(),
        name: HOSTILE.into(),
        via: "console",
        groups: groups.iter().map(|group| (*group).into()).collect(),
        roles: roles.iter().copied().collect(),
        csrf: Some("csrf-word".into()),
        ..Known::default()
    })
}

fn dba() -> Caller {
    caller("oidc:corp:dora", &Role::ALL, &["dba"])
}

fn viewer() -> Caller {
    caller("oidc:corp:vera", &[Role::Viewer], &[])
}

fn assert_tame(path: &str, body: &str) {
    for bad in [
        "<script>",
        "<img",
        "onerror=alert(1)>",
        "\" onmouseover=\"x",
        "\u{202e}",
        "\u{1b}",
        "\0",
        "javascript:alert",
        "style=",
    ] {
        assert!(!body.contains(bad), "{path}: {bad:?} came through:\n{body}");
    }
    assert!(!body.contains("href=\"javascript:"), "{path}");
    for inline in ["<style", " onclick=", " onload="] {
        assert!(!body.contains(inline), "{path}: {inline}");
    }
}

#[tokio::test]
async fn hostile_text_is_only_text_on_every_page() {
    let room = Room::new().await;
    for path in room.pages() {
        let (status, headers, body) = room.get(&path).await;
        assert!(status.is_success() || status.is_client_error() || status == 503, "{path}: {status}");
        assert_tame(&path, &body);
        let policy = headers.get(header::CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        for name in ["x-content-type-options", "x-frame-options", "referrer-policy", "cache-control"] {
            assert!(headers.contains_key(name), "{path}: {name}");
        }
        assert_eq!(body.matches("<h1").count(), 1, "{path}: one heading of the first rank");
        assert_eq!(body.matches("<main").count(), 1, "{path}");
        assert!(body.contains("class=\"skip\"") && body.contains("lang=\"en\""), "{path}");
    }
}

#[tokio::test]
async fn what_hides_is_spelled_out_where_people_decide() {
    let room = Room::new().await;
    let (_, _, body) = room.get(&format!("/approvals/{}", room.request.id)).await;
    assert!(
        body.contains("⟨U+202E⟩") && body.contains("⟨U+001B⟩") && body.contains("Look closely"),
        "{body}"
    );
    for part in [
        "What could hurt",
        "The exact statement",
        "Who asks, and how sure",
        "Approve this ALTER TABLE once",
        "Deny this ALTER TABLE",
        "Inside a transaction",
    ] {
        assert!(body.contains(part), "{part}");
    }
    let decide = body.split("id=\"decide\"").nth(1).unwrap();
    let first = decide.find("<button").and_then(|at| decide.get(at..)).unwrap();
    assert!(first.starts_with("<button type=\"submit\" disabled hidden>"), "Enter in a field would decide");
    let order: Vec<usize> = [
        "class=\"sentence\"",
        "id=\"hurt\"",
        "id=\"text\"",
        "id=\"who\"",
        "id=\"history\"",
        "id=\"decide-title\"",
    ]
    .iter()
    .map(|part| body.find(part).unwrap())
    .collect();
    assert!(order.is_sorted(), "{order:?}");
}

#[tokio::test]
async fn masked_values_are_on_no_page() {
    let ask = Ask {
        statement: "ALTER TABLE people ADD COLUMN s text DEFAULT 'topsecret'".into(),
        values: vec!["topvalue".into()],
        touches_masked: true,
        ..Ask::default()
    };
    let room = Room::with(ask).await;
    for path in room.pages() {
        let (_, _, body) = room.get(&path).await;
        for secret in ["topsecret", "topvalue"] {
            assert!(!body.contains(secret), "{path}: {secret}");
        }
    }
    let (_, _, body) = room.get(&format!("/approvals/{}", room.request.id)).await;
    assert!(body.contains("masked columns") && body.contains("literals replaced"), "{body}");
    let (_, _, found) = room.get("/approvals?q=topsecret").await;
    assert!(found.contains("Nothing fits these filters"), "a filter answers what is masked");
}

#[tokio::test]
async fn viewers_see_shapes_and_cannot_find_out_values_by_guessing() {
    let ask = Ask {
        statement: "ALTER TABLE people ADD COLUMN s text DEFAULT 'topsecret'".into(),
        values: vec!["topvalue".into()],
        ..Ask::default()
    };
    let room = Room::with(ask).await;
    let (id, digest) = (room.request.id, room.request.operation.digest.to_string());
    let (_, _, approver) = room.get(&format!("/approvals/{id}")).await;
    for value in ["topsecret", "topvalue", digest.as_str()] {
        assert!(approver.contains(value), "an approver needs {value}");
    }
    let api = ["/v1/approvals".to_owned(), format!("/v1/approvals/{id}")];
    // The fake house gives records whole: what viewers see of them is the house's to say.
    let recorded = |path: &str| path.starts_with("/sessions/") || path.starts_with("/search");
    for path in room.pages().into_iter().filter(|path| !recorded(path)) {
        let (_, _, body) = room.seen_by(&viewer(), &path).await;
        for secret in ["topsecret", "topvalue", digest.as_str()] {
            assert!(!body.contains(secret), "{path}: {secret}:\n{body}");
        }
    }
    for path in api {
        let router = room.stage.control.authenticated(crate::finish(room.stage.control.router()));
        let request = Request::get(&path).body(Body::empty()).unwrap();
        let response = router.layer(Extension(viewer())).oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("alter_table"), "{path}: {body}");
        for secret in ["topsecret", "topvalue", digest.as_str()] {
            assert!(!body.contains(secret), "{path}: {secret}: {body}");
        }
    }
    let (_, _, page) = room.seen_by(&viewer(), &format!("/approvals/{id}")).await;
    assert!(page.contains("literals and bound values are for approvers"), "{page}");
    let (_, _, found) = room.seen_by(&viewer(), "/approvals?q=topsecret").await;
    assert!(found.contains("Nothing fits these filters"), "a filter answers what is not shown");
    let (_, _, found) = room.get("/approvals?q=topsecret").await;
    assert!(found.contains(&id.to_string()), "an approver finds it");
}

#[tokio::test]
async fn how_a_target_is_reached_is_for_administrators() {
    let room = Room::new().await;
    let (_, _, admin) = room.get("/targets").await;
    assert!(admin.contains("Definition"), "{admin}");
    let (_, _, page) = room.seen_by(&viewer(), "/targets").await;
    assert!(!page.contains("Definition"), "{page}");
}

#[tokio::test]
async fn a_verification_shows_how_far_it_is_and_is_stopped() {
    let room = Room::made(Ask::default(), true).await;
    let (status, _, _) = room.get("/audit/verify").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "no GET begins one");
    let (_, _, before) = room.get("/audit").await;
    assert!(before.contains("Check the whole log") && !before.contains("<progress"), "{before}");
    let (status, headers, _) = room.post("/audit/verify", "csrf=csrf-word").await;
    assert_eq!(
        (status, headers.get("location").unwrap().to_str().unwrap()),
        (StatusCode::SEE_OTHER, "/audit")
    );
    let running = async || {
        let (_, _, page) = room.get("/audit").await;
        page.contains("50 %").then_some(page)
    };
    let page = until(running).await;
    for part in [
        "<progress max=\"100\" value=\"50\"",
        "http-equiv=\"refresh\"",
        "data-stream=\"/audit/live\"",
        "500 records",
        "Stop it",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // Who asks again is shown the one that runs; whoever wants a turn of their own waits.
    room.post("/audit/verify", "csrf=csrf-word").await;
    let router = room.stage.control.authenticated(crate::finish(room.stage.control.router()));
    let request = Request::get("/v1/audit/verify").body(Body::empty()).unwrap();
    let refused = router.layer(Extension(dba())).oneshot(request).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let stop = Request::post("/audit/verify/stop").body(Body::from("csrf=csrf-word")).unwrap();
    assert_eq!(room.ask(&viewer(), stop).await.0, StatusCode::FORBIDDEN);
    room.post("/audit/verify/stop", "csrf=csrf-word").await;
    let page = until(async || {
        let (_, _, page) = room.get("/audit").await;
        page.contains("Stopped").then_some(page)
    })
    .await;
    assert!(page.contains("Check it again") && !page.contains("http-equiv=\"refresh\""), "{page}");
}

/// What `look` sees at last.
async fn until<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let seen = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("it comes")
}

#[tokio::test]
async fn a_form_decides_what_it_showed_and_says_so_on_the_next_page() {
    let room = Room::new().await;
    let (id, digest) = (room.request.id, room.request.operation.digest);
    let path = format!("/approvals/{id}/decide");
    for (form, status, words) in [
        ("decision=approve".to_owned(), 400, "command_digest"),
        (format!("decision=approve&command_digest={}", "00".repeat(32)), 409, "digest_mismatch"),
        (format!("decision=maybe&command_digest={digest}"), 400, "approve, grant or deny"),
        (format!("decision=grant&command_digest={digest}&for=15m&uses=many"), 400, "whole number"),
        (format!("decision=grant&command_digest={digest}&for=9d"), 422, "grant_not_allowed"),
    ] {
        let (got, _, body) = room.post(&path, &form).await;
        assert_eq!(got.as_u16(), status, "{form}: {body}");
        assert!(body.contains(words), "{form}: {body}");
        assert_tame(&form, &body);
    }
    assert_eq!(room.stage.log.votes(), 0);
    let reason = form::escaped(HOSTILE);
    let (status, headers, _) =
        room.post(&path, &format!("decision=deny&command_digest={digest}&reason={reason}")).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert_eq!(headers[header::LOCATION], format!("/approvals/{id}"));
    assert_eq!(room.stage.log.votes(), 1);
    let said = headers[header::SET_COOKIE].to_str().unwrap();
    let cookie = said.split(';').next().unwrap().to_owned();
    let request = Request::get(format!("/approvals/{id}")).header(header::COOKIE, cookie).body(Body::empty());
    let (_, headers, body) = room.ask(&dba(), request.unwrap()).await;
    assert!(body.contains("Your denial counted. It is denied, and the job is told why."), "{body}");
    assert!(headers[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"), "it is said once");
    assert_tame("reason", &body);
    let (status, _, body) = room.post(&path, &format!("decision=approve&command_digest={digest}")).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert!(
        body.contains("already_resolved") && body.contains(&room.request.decision().to_string()),
        "{body}"
    );
}

#[tokio::test]
async fn several_are_decided_each_by_its_own_digest() {
    let room = Room::new().await;
    let digest = room.request.operation.digest;
    let other = room.stage.request(Ask { principal: "unit:other".into(), ..Ask::default() });
    let other_id = other.id;
    let _other = room.stage.control.open(other).await.unwrap();
    let wrong = "00".repeat(32);
    let pick = |id: &dyn std::fmt::Display, digest: &dyn std::fmt::Display| format!("&pick={id}+{digest}");
    let form =
        format!("decision=approve&reason=fine{}{}", pick(&room.request.id, &digest), pick(&other_id, &wrong));
    let (status, _, body) = room.post("/approvals/decide", &form).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body.contains("Your approval counted for 1") && body.contains("digest_mismatch"), "{body}");
    assert_eq!(room.stage.log.votes(), 1);
    for (form, words) in [
        ("decision=approve".to_owned(), "select between 1 and 100"),
        (format!("decision=grant{}", pick(&other_id, &digest)), "one by one"),
        ("decision=deny&pick=../../me+x".to_owned(), "nothing of that id"),
        (format!("decision=deny{}", pick(&other_id, &digest).repeat(101)), "101 are selected"),
    ] {
        let (status, _, body) = room.post("/approvals/decide", &form).await;
        assert!(status.is_client_error() && body.contains(words), "{form}: {status} {body}");
    }
    let (status, headers, _) =
        room.post("/approvals/decide", &format!("decision=deny{}", pick(&other_id, &digest))).await;
    assert_eq!((status, headers[header::LOCATION].to_str().unwrap()), (StatusCode::SEE_OTHER, "/approvals"));
}

#[tokio::test]
async fn no_get_changes_anything() {
    let room = Room::new().await;
    let (id, session) = (room.request.id, room.request.session.id);
    let before = room.stage.log.events.lock().len();
    let forms = [
        format!("/approvals/{id}/decide?decision=deny&command_digest={}", room.request.operation.digest),
        "/approvals/decide?decision=deny".into(),
        "/grants/grt_1/revoke".into(),
        "/breakglass/brk_1/end".into(),
        format!("/sessions/{session}/kill?reason=x"),
        "/targets/x/remove?etag=1".into(),
    ];
    for path in room.pages().into_iter().chain(forms.clone()) {
        room.get(&path).await;
    }
    for path in forms {
        let (status, _, _) = room.get(&path).await;
        assert!(status.is_client_error(), "{path}: {status}");
    }
    let (_, _, body) = room.get(&format!("/approvals/{id}")).await;
    assert!(body.contains("data-state=\"pending\""), "{body}");
    let votes_and_more = room.stage.log.events.lock()[before..]
        .iter()
        .filter(|(kind, _)| {
            !matches!(
                kind,
                EventKind::Notified { .. } | EventKind::Access(_) | EventKind::DecisionRefused { .. }
            )
        })
        .count();
    assert_eq!(votes_and_more, 0);
}

#[tokio::test]
async fn roles_are_kept_to_on_pages_and_forms() {
    let room = Room::new().await;
    let (id, session) = (room.request.id, room.request.session.id);
    let digest = room.request.operation.digest;
    let get = |path: String| Request::get(path).body(Body::empty()).unwrap();
    let post = |path: String, body: String| {
        let kind = "application/x-www-form-urlencoded";
        Request::post(path).header(header::CONTENT_TYPE, kind).body(Body::from(body)).unwrap()
    };
    let (_, _, body) = room.ask(&viewer(), get(format!("/approvals/{id}"))).await;
    assert!(!body.contains("name=\"decision\""), "a viewer is offered no decision");
    let forms = [
        post(format!("/approvals/{id}/decide"), format!("decision=approve&command_digest={digest}")),
        post(format!("/sessions/{session}/kill"), "reason=x".into()),
        post("/targets".into(), "name=x&protocol=postgres&addresses=a:1".into()),
        post("/targets/x/remove".into(), "etag=1".into()),
        get("/audit".into()),
    ];
    for form in forms {
        let what = form.uri().clone();
        let (status, _, body) = room.ask(&viewer(), form).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{what}: {body}");
    }
    let nobody = caller("local:4242", &[], &[]);
    let (status, _, _) = room.ask(&nobody, get(format!("/approvals/{id}"))).await;
    assert!(status.is_client_error(), "{status}");
    assert_eq!(room.stage.log.votes(), 0);
}

#[tokio::test]
async fn who_is_not_known_is_sent_to_log_in() {
    let room = Room::new().await;
    let router = room.stage.control.authenticated(crate::finish(room.stage.control.console()));
    let page =
        Request::get("/approvals?q=x").header(header::ACCEPT, "text/html").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(page).await.unwrap();
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert!(response.headers()[header::LOCATION].to_str().unwrap().starts_with("/login?next=%2Fapprovals"));
    let asset = Request::get(&assets::STYLE.path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(asset).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "the page to log in needs its looks");
    assert!(response.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    // A user of this host with a role reads them by the socket, too.
    let host = router.layer(Extension(PeerCred { pid: None, uid: 1003, gid: 1003 }));
    let page = Request::get("/approvals").body(Body::empty()).unwrap();
    assert_eq!(host.oneshot(page).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_page_of_the_inbox_is_bounded_however_many_wait() {
    let room = Room::new().await;
    let mut open = Vec::new();
    for number in 0..400 {
        let ask = Ask { principal: format!("unit:{number}"), ..Ask::default() };
        open.push(room.stage.control.open(room.stage.request(ask)).await.unwrap());
    }
    let (_, _, body) = room.get("/approvals").await;
    assert_eq!(body.matches("<li class=\"item\"").count(), 50);
    assert!(body.contains("Page 1 of 9, 401 requests") && body.contains("(401)"), "{body}");
    assert!(body.len() < 200_000, "{}", body.len());
    let (_, _, last) = room.get("/approvals?page=99").await;
    assert!(last.contains("Page 9 of 9"));
}

#[tokio::test]
async fn news_come_as_events_when_something_comes_and_streams_are_bounded() {
    let room = Room::new().await;
    let router = room.stage.control.authenticated(crate::finish(room.stage.control.console()));
    let router = router.layer(Extension(dba()));
    let live = || Request::get("/approvals/live").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(live()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b":"), "{first:?}");
    let another = room.stage.request(Ask { principal: "unit:new".into(), ..Ask::default() });
    let _another = room.stage.control.open(another).await.unwrap();
    let news = tokio::time::timeout(Duration::from_secs(30), body.frame()).await.unwrap().unwrap().unwrap();
    let news = news.into_data().unwrap();
    assert!(news.starts_with(b"event: changed\ndata: "), "browsers pass over events without data: {news:?}");
    let mut streams = Vec::new();
    while streams.len() < STREAMS_MAX - 1 {
        let response = router.clone().oneshot(live()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", streams.len());
        streams.push(response);
        if streams.len() % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(2_100)).await;
        }
    }
    let refused = router.clone().oneshot(live()).await.unwrap().status();
    assert!(matches!(refused.as_u16(), 429 | 503), "{refused}");
    drop(streams);
    room.stage.control.stop(Duration::from_secs(5)).await;
    let end = tokio::time::timeout(Duration::from_secs(30), body.collect()).await;
    assert!(end.is_ok(), "a stream ends with the agent");
}
