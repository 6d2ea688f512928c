use super::{event::BODY_MAX, http::ATTEMPT_TIMEOUT, retry::Answer};
use crate::testing::{
    Ask, DECISION_SECRET, Receiver, SECRET, Script, Stage, reference_signature, webhook, webhook_to,
};
use lockgate_model::port::{Approvals, PendingApproval};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

fn refused() -> Answer {
    Answer::Failed("connection refused".into())
}

fn status(code: u16) -> Answer {
    Answer::Status { code, retry_after: None }
}

async fn open(stage: &Stage, ask: Ask) -> Box<dyn PendingApproval> {
    stage.control.open(stage.request(ask)).await.unwrap()
}

fn types(script: &Script) -> Vec<String> {
    script.sent.lock().iter().map(|(_, _, body)| parse(body)["type"].as_str().unwrap().to_owned()).collect()
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_is_tried_until_it_expires_at_most_thirty_seconds_apart() {
    let after = [Duration::from_millis(1), ATTEMPT_TIMEOUT];
    for after in after {
        let script = Script::always(after, refused());
        let stage = Stage::scripted(vec![("approvals", script.clone())]);
        let began = Instant::now();
        let pending = open(&stage, Ask { timeout: Duration::from_secs(600), ..Ask::default() }).await;
        tokio::time::sleep(Duration::from_secs(599)).await;
        let sent = script.sent.lock().clone();
        assert!(sent[0].0 - began < Duration::from_millis(10), "the first at once");
        let second = sent[1].0 - sent[0].0;
        assert!(second <= Duration::from_secs(5).max(after) + Duration::from_millis(10), "{second:?}");
        for pair in sent.windows(2) {
            assert!(pair[1].0 - pair[0].0 <= Duration::from_secs(30) + Duration::from_millis(10));
            assert_eq!(pair[0].1, pair[1].1, "one message keeps its id");
            assert_eq!(pair[0].2, pair[1].2, "and its body");
        }
        assert!(sent.last().unwrap().0 - began > Duration::from_secs(565));
        // Every attempt that has an answer is recorded.
        let attempts = stage.log.attempts();
        assert!(attempts.len() + 1 >= sent.len());
        for (number, attempt) in (1..).zip(&attempts) {
            assert_eq!((&*attempt.0, attempt.1), ("webhook:approvals", number));
            assert_eq!(attempt.3.as_deref(), Some("connection refused"));
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let calls = types(&script).iter().filter(|kind| kind.ends_with("requested")).count();
        assert_eq!(calls, sent.len(), "nobody is asked after the expiry");
        drop(pending);
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_tells_the_end_is_given_up_after_the_standard_schedule() {
    let script = Script::always(Duration::ZERO, refused());
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    drop(open(&stage, Ask::default()).await);
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    let cancelled = types(&script).iter().filter(|kind| kind.ends_with("cancelled")).count();
    assert_eq!(cancelled, 4);
}

#[tokio::test(start_paused = true)]
async fn each_turn_of_a_request_is_told_once() {
    let script = Script::always(Duration::ZERO, status(204));
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let later = Some((Duration::from_secs(60), vec!["platform-oncall".into()], 1));
    let pending = open(&stage, Ask { timeout: Duration::from_secs(120), later, ..Ask::default() }).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(
        types(&script),
        ["lockgate.approval.requested", "lockgate.approval.escalated", "lockgate.approval.expired"]
    );
    let bodies: Vec<Value> = script.sent.lock().iter().map(|(_, _, body)| parse(body)).collect();
    assert_eq!(bodies[0]["data"]["need"][0]["any_of"], json!(["dba"]));
    assert_eq!(bodies[1]["data"]["need"][0]["any_of"], json!(["platform-oncall"]));
    assert_eq!(bodies[2]["data"]["resolution"], json!({ "outcome": "expired", "actor": "system" }));
    let ids: std::collections::BTreeSet<_> = script.sent.lock().iter().map(|(_, id, _)| id.clone()).collect();
    assert_eq!(ids.len(), 3, "each message has an id of its own");
    drop(pending);
}

#[tokio::test(start_paused = true)]
async fn gone_disables_one_channel_until_it_is_enabled_again() {
    let gone = Script::always(Duration::ZERO, status(410));
    let well = Script::always(Duration::ZERO, status(200));
    let stage = Stage::scripted(vec![("gone", gone.clone()), ("well", well.clone())]);
    let mut waiting = vec![open(&stage, Ask::default()).await];
    tokio::time::sleep(Duration::from_secs(60)).await;
    waiting.push(open(&stage, Ask::default()).await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((gone.sent.lock().len(), well.sent.lock().len()), (1, 2));
    let disabled: Vec<_> =
        stage.log.attempts().into_iter().filter(|attempt| attempt.0 == "webhook:gone").collect();
    assert_eq!((disabled[0].1, disabled[0].2), (1, Some(410)));
    assert!(disabled[1].3.as_deref().unwrap().contains("disabled"), "what is not sent is recorded too");
    stage.control.enable_webhooks();
    waiting.push(open(&stage, Ask::default()).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gone.sent.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_channel_delays_neither_another_nor_a_request() {
    let dead = Script::always(ATTEMPT_TIMEOUT, Answer::Failed("timed out".into()));
    let well = Script::always(Duration::from_millis(5), status(200));
    let stage = Stage::scripted(vec![("dead", dead.clone()), ("well", well.clone())]);
    let mut waiting = Vec::new();
    for _ in 0..1_000 {
        waiting.push(open(&stage, Ask::default()).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(well.sent.lock().len(), 1_000);
    assert_eq!(dead.sent.lock().len(), 64, "attempts under way are bounded");
    let began = Instant::now();
    waiting.pop().unwrap().withdraw(lockgate_model::approval::WithdrawReason::Cancelled).await;
    assert!(began.elapsed() < Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn stopping_still_tells_that_requests_were_withdrawn() {
    let script = Script::always(Duration::from_millis(10), status(200));
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let pending = open(&stage, Ask::default()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    pending.withdraw(lockgate_model::approval::WithdrawReason::Cancelled).await;
    stage.control.stop(Duration::from_secs(3)).await;
    assert_eq!(types(&script), ["lockgate.approval.requested", "lockgate.approval.cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn the_body_says_everything_an_approver_needs() {
    let script = Script::always(Duration::ZERO, status(200));
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let ask =
        Ask { statement: "ALTER TABLE o\u{202e}rders".into(), values: vec!["42".into()], ..Ask::default() };
    let request = stage.request(ask);
    let id = request.id.to_string();
    let expires_at = request.expires_at.to_string();
    let pending = stage.control.open(request).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, message, body) = script.sent.lock()[0].clone();
    let event = parse(&body);
    let data = &event["data"];
    let (base, op) = (format!("http://127.0.0.1:8420/v1/approvals/{id}"), &data["operation"]);
    for (found, expected) in [
        (&event["specversion"], json!("1.0")),
        (&event["id"], json!(message)),
        (&event["source"], json!("/lockgate/build-7")),
        (&event["type"], json!("lockgate.approval.requested")),
        (&event["subject"], json!(id)),
        (&event["time"], json!("2026-11-21T10:00:00Z")),
        (&event["datacontenttype"], json!("application/json")),
        (&event["dataschema"], json!("urn:lockgate:schema:approval:1")),
        (&data["request_id"], json!(id)),
        (&data["command_digest"], json!("ab".repeat(32))),
        (&data["decision_url"], json!(format!("{base}/decision"))),
        (&data["expires_at"], json!(expires_at)),
        (&data["truncated"], json!(false)),
        (
            &data["summary"],
            json!(
                "Alter table public.orders on orders-db (env production), asked by acme/billing › deploy.yml"
            ),
        ),
        (&data["earlier"], json!([])),
        (&op["statement"], json!("ALTER TABLE o\u{202e}rders")),
        (&op["statement_display"], json!("ALTER TABLE o⟨U+202E⟩rders")),
        (&op["class"], json!("ddl")),
        (&op["kind"], json!("alter_table")),
        (&op["tables_written"], json!(["public.orders"])),
        (&op["tables_read"], json!([])),
        (&op["columns"], json!(["note"])),
        (&op["bounded"], Value::Null),
        (&op["risk"], json!("high")),
        (&op["effects"], json!(["changes_schema"])),
        (&op["opaque"], json!(false)),
        (&op["literals"], json!("shown")),
        (
            &op["bound_values"],
            json!([{ "position": 1, "type": "int4", "type_oid": 23, "format": "text", "value": "42" }]),
        ),
        (&data["in_transaction"], json!(true)),
        (&data["database"], json!("orders")),
        (&data["role"], json!("app")),
        (
            &data["target"],
            json!({ "name": "orders-db", "protocol": "postgres", "tags": { "env": "production" }, "mode": "enforce" }),
        ),
        (&data["identity"]["principal"], json!("unit:actions.runner.acme.service")),
        (&data["identity"]["assurance"], json!("kernel")),
        (&data["identity"]["established_by"], json!("cgroup of a system unit")),
        (&data["identity"]["process"]["uid"], json!(1001)),
        (&data["identity"]["process"]["exe"], json!("/usr/bin/psql")),
        (&data["identity"]["process"]["argv"][0], json!("psql")),
        (&data["identity"]["process"]["ancestry"], json!([{ "pid": 4710, "name": "bash" }])),
        (&data["identity"]["ci"]["assurance"], json!("platform")),
        (&data["identity"]["ci"]["run_url"], json!("https://ci.example.com/acme/billing/runs/4711")),
        (&data["identity"]["ci"]["commit"], json!("6d734b7")),
        (&data["identity"]["ci"]["commit_message"], json!("OPS-42: note what was agreed")),
        (&data["identity"]["ci"]["source_branch"], json!("ops-42-notes")),
        (&data["identity"]["ci"]["merge_request"], json!("Notes on orders")),
        (
            &data["identity"]["tickets"],
            json!([{
                "id": "OPS-42", "url": "https://tickets.example.com/browse/OPS-42", "source": "commit_message",
                "assurance": "claimed", "standing": "in the commit message; claimed, not confirmed",
            }]),
        ),
        (&data["identity"]["ci"]["ref"], json!("refs/heads/main")),
        (&data["identity"]["ci"]["actor"], json!("bert")),
        (&data["identity"]["ci"]["triggering_actor"], json!("carla")),
        (&data["rule"], json!("schema-change-dba")),
        (&data["rules"][0]["description"], json!("Schema-changing SQL on production needs a DBA")),
        (&data["need"], json!([{ "rule": "schema-change-dba", "have": 0, "need": 1, "any_of": ["dba"] }])),
        (&data["node"], json!("build-7")),
    ] {
        assert_eq!(*found, expected);
    }
    assert!(data["decision_id"].as_str().unwrap().starts_with("dec_"));
    assert!(data["url"].as_str().unwrap().starts_with(&format!("{base}?token=")));
    drop(pending);
}

#[tokio::test(start_paused = true)]
async fn earlier_requests_for_the_same_command_are_shown_with_what_became_of_them() {
    let script = Script::always(Duration::ZERO, status(200));
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let mut ids = Vec::new();
    for _ in 0..7 {
        let request = stage.request(Ask::default());
        ids.push(request.id);
        drop(stage.control.open(request).await.unwrap());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut other = stage.request(Ask::default());
    other.operation.digest = lockgate_model::operation::Digest([1; 32]);
    drop(stage.control.open(other).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked: Vec<Value> = {
        let sent = script.sent.lock();
        let bodies = sent.iter().map(|(_, _, body)| parse(body));
        bodies.filter(|body| body["type"] == json!("lockgate.approval.requested")).collect()
    };
    let earlier = asked[6]["data"]["earlier"].as_array().unwrap();
    let shown: Vec<&str> = earlier.iter().map(|earlier| earlier["request_id"].as_str().unwrap()).collect();
    let expected: Vec<String> = ids[1..6].iter().rev().map(ToString::to_string).collect();
    assert_eq!(shown, expected);
    assert!(earlier.iter().all(|earlier| earlier["state"] == json!("cancelled")));
    assert_eq!(asked[7]["data"]["earlier"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn names_made_by_the_client_hide_nothing() {
    use lockgate_model::operation::Facts;
    let script = Script::always(Duration::ZERO, status(200));
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let mut request = stage.request(Ask::default());
    let Facts::Sql(mut facts) = (*request.operation.facts).clone() else { panic!("SQL") };
    facts.tables_written[0].name = "srs\u{202e}edro".into();
    facts.columns = vec!["no\u{200b}te".into()];
    request.operation.facts = Facts::Sql(facts).into();
    std::sync::Arc::make_mut(&mut request.operation.context).role = "ap\u{7}p".into();
    let pending = stage.control.open(request).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let data = &parse(&script.sent.lock()[0].2)["data"];
    assert_eq!(data["operation"]["tables_written"], json!(["public.srs⟨U+202E⟩edro"]));
    assert_eq!(data["operation"]["columns"], json!(["no⟨U+200B⟩te"]));
    assert_eq!(data["role"], json!("ap⟨U+0007⟩p"));
    assert!(data["summary"].as_str().unwrap().contains("srs⟨U+202E⟩edro"));
    drop(pending);
}

#[tokio::test(start_paused = true)]
async fn no_literal_of_a_masked_statement_leaves() {
    let script = Script::always(Duration::ZERO, status(200));
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let ask = Ask {
        statement: "ALTER TABLE orders ADD COLUMN note text DEFAULT '078-05-1120'".into(),
        values: vec!["219-09-9999".into()],
        touches_masked: true,
        ..Ask::default()
    };
    let pending = open(&stage, ask).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let body = String::from_utf8(script.sent.lock()[0].2.clone()).unwrap();
    for leak in ["078-05-1120", "219-09-9999", "ALTER TABLE orders ADD COLUMN note text\""] {
        assert!(!body.contains(leak), "{leak}");
    }
    let operation = &parse(body.as_bytes())["data"]["operation"];
    assert_eq!(operation["literals"], json!("masked"));
    assert_eq!(operation["statement"], json!("ALTER TABLE orders ADD COLUMN note text /* $1 */"));
    assert_eq!(operation["bound_values"][0]["masked"], json!(true));
    assert_eq!(operation["bound_value_count"], json!(1));
    drop(pending);
}

#[tokio::test(start_paused = true)]
async fn long_bodies_are_cut_counted_and_linked() {
    let script = Script::always(Duration::ZERO, status(200));
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let long = |text: &str, bytes: usize| text.repeat(bytes / text.len() + 1);
    let mut waiting = Vec::new();
    for statement in [
        long("SELECT 1; ", 19_000),
        long("SELECT 1; ", 1 << 20),
        long("\u{202e}", 200_000),
        long("\0\u{1}\"\\", 200_000),
        long("🦀", 200_000),
    ] {
        let ask =
            Ask { statement: statement.clone(), values: vec![long("v", 50_000); 300], ..Ask::default() };
        let mut request = stage.request(ask);
        request.session = {
            let mut session = (*request.session).clone();
            let mut workload = (*session.workload).clone();
            workload.process.argv = vec![long("-", 4_000); 500];
            workload.cgroup = Some(long("/x", 100_000));
            session.workload = workload.into();
            let mut target = (*session.target).clone();
            target.tags = (0..2_000).map(|n| (format!("{n}{}", long("k", 500)), long("t", 500))).collect();
            session.target = target.into();
            session.into()
        };
        let began = std::time::Instant::now();
        waiting.push(stage.control.open(request).await.unwrap());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(20));
        let (_, _, body) = script.sent.lock().last().unwrap().clone();
        assert!(body.len() < BODY_MAX, "{}", body.len());
        let data = &parse(&body)["data"];
        assert_eq!(data["truncated"], json!(true));
        assert_eq!(data["operation"]["statement_bytes"], json!(statement.len()));
        assert_eq!(data["operation"]["bound_value_count"], json!(300));
        assert!(
            statement.starts_with(data["operation"]["statement"].as_str().unwrap().trim_end_matches('…'))
        );
        assert!(!data["cut"].as_object().unwrap().is_empty());
        assert!(data["url"].as_str().unwrap().contains("?token="));
        assert_eq!(data["operation"]["tables_written"], json!(["public.orders"]));
    }
    // What is merely long keeps most of itself.
    let ask = Ask { statement: long("SELECT 1; ", 60_000), ..Ask::default() };
    waiting.push(open(&stage, ask).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, _, body) = script.sent.lock().last().unwrap().clone();
    assert!(body.len() > BODY_MAX / 2, "{}", body.len());
}

/// Real HTTP from here on.
#[tokio::test]
async fn two_receivers_get_what_the_reference_verifies_each_with_its_own_keys() {
    let (first, second) = (Receiver::new(|_| 200).await, Receiver::new(|_| 204).await);
    let mut other = webhook_to("chat", &second.url());
    let rotated = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
    other.secret = Some(lockgate_model::Secret::new(format!("{rotated} {SECRET}")));
    let stage = Stage::new(vec![webhook("approvals", &first.url(), DECISION_SECRET, &["dba"]), other]);
    let pending = open(&stage, Ask::default()).await;
    for (receiver, secrets) in [(&first, vec![SECRET]), (&second, vec![rotated, SECRET])] {
        let got = receiver.next().await;
        assert_eq!(got.header("content-type"), "application/cloudevents+json");
        let (id, timestamp) = (got.header("webhook-id"), got.header("webhook-timestamp"));
        assert!(timestamp.parse::<i64>().unwrap().abs_diff(stage.now().as_second()) < 60);
        let expected: Vec<String> =
            secrets.iter().map(|secret| reference_signature(secret, id, timestamp, &got.body)).collect();
        assert_eq!(got.header("webhook-signature"), expected.join(" "));
        assert_eq!(parse(&got.body)["id"], json!(id));
    }
    drop(pending);
}

#[tokio::test]
async fn redirects_are_not_followed_and_failures_are_described() {
    let inside = Receiver::new(|_| 200).await;
    let target = inside.url();
    let receiver = Receiver::redirecting(&target).await;
    let nobody = Receiver::nobody();
    let stage = Stage::new(vec![
        webhook_to("redirects", &receiver.url()),
        webhook_to("nobody", &nobody),
        webhook_to("named", &nobody.replace("127.0.0.1", "localhost")),
    ]);
    let pending = open(&stage, Ask::default()).await;
    let attempts = loop {
        let attempts = stage.log.attempts();
        if attempts.iter().map(|attempt| &attempt.0).collect::<std::collections::BTreeSet<_>>().len() == 3 {
            break attempts;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let of = |channel: &str| attempts.iter().find(|attempt| attempt.0 == channel).unwrap();
    assert_eq!(of("webhook:redirects").2, Some(302));
    assert!(of("webhook:nobody").3.as_deref().unwrap().contains("refused"), "{:?}", of("webhook:nobody"));
    assert!(of("webhook:named").3.as_deref().unwrap().contains("refused"), "localhost is dialled");
    assert!(inside.is_untouched());
    drop(pending);
}

#[tokio::test]
async fn https_is_verified_against_the_configured_authority_and_no_other() {
    let (receiver, ca_pem) = Receiver::tls().await;
    let mut trusting = webhook_to("trusting", &receiver.url());
    trusting.ca_pem = Some(ca_pem.into_bytes());
    let wary = webhook_to("wary", &receiver.url());
    let stage = Stage::new(vec![trusting, wary]);
    let pending = open(&stage, Ask::default()).await;
    let got = receiver.next().await;
    assert!(parse(&got.body)["data"]["request_id"].is_string());
    let wary = loop {
        let wary = stage.log.attempts().into_iter().find(|attempt| attempt.0 == "webhook:wary");
        match wary {
            Some(wary) => break wary,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert!(wary.3.as_deref().unwrap().to_lowercase().contains("certificate"), "{wary:?}");
    drop(pending);
}

/// Signs and verifies by the crate itself, not by ours: seeds of RFC 8032's first and second test.
#[tokio::test]
async fn ed25519_both_ways_with_rotation() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use ed25519_dalek::{Signature, Signer, SigningKey};
    use tower::ServiceExt;
    let seed = |text: &str| SigningKey::from_bytes(&hex::decode(text).unwrap().try_into().unwrap());
    let old = seed("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let new = seed("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
    let private = |key: &SigningKey| format!("whsk_{}", STANDARD.encode(key.to_bytes()));
    let public = |key: &SigningKey| format!("whpk_{}", STANDARD.encode(key.verifying_key().to_bytes()));
    let receiver = Receiver::new(|_| 200).await;
    let mut hook =
        webhook("approvals", &receiver.url(), &format!("{} {}", public(&old), public(&new)), &["dba"]);
    hook.secret = Some(lockgate_model::Secret::new(format!("{} {} {SECRET}", private(&old), private(&new))));
    let stage = Stage::new(vec![hook]);
    let mut pending = open(&stage, Ask { need: 2, ..Ask::default() }).await;
    // Outwards: one signature a key, each verified by whoever has its public half, or the symmetric one.
    let got = receiver.next().await;
    let (id, stamp) = (got.header("webhook-id"), got.header("webhook-timestamp"));
    let signed = [format!("{id}.{stamp}.").as_bytes(), &got.body].concat();
    let signatures: Vec<&str> = got.header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), 3, "{signatures:?}");
    for (signature, key) in signatures.iter().zip([&old, &new]) {
        let bytes = STANDARD.decode(signature.strip_prefix("v1a,").unwrap()).unwrap();
        let signature = Signature::from_slice(&bytes).unwrap();
        key.verifying_key().verify_strict(&signed, &signature).unwrap();
    }
    assert_eq!(signatures[2], reference_signature(SECRET, id, stamp, &got.body));
    // Inwards: with either key of the rotation, and with no other.
    let event = parse(&got.body);
    let decide = async |key: &SigningKey, message: &str, person: &str| {
        let body = json!({
            "type": "lockgate.decision",
            "timestamp": stage.now().to_string(),
            "data": {
                "request_id": event["data"]["request_id"], "command_digest": event["data"]["command_digest"],
                "decision": "approve", "reason": "planned", "decided_by": { "id": person, "groups": ["dba"] },
            },
        })
        .to_string();
        let stamp = stage.now().as_second().to_string();
        let signature = key.sign(format!("{message}.{stamp}.{body}").as_bytes());
        let request = axum::http::Request::post(format!(
            "/v1/approvals/{}/decision",
            event["data"]["request_id"].as_str().unwrap()
        ))
        .header("webhook-id", message)
        .header("webhook-timestamp", stamp)
        .header("webhook-signature", format!("v1a,{}", STANDARD.encode(signature.to_bytes())))
        .body(axum::body::Body::from(body))
        .unwrap();
        let router = crate::finish(stage.control.public_router());
        router.oneshot(request).await.unwrap().status().as_u16()
    };
    let stranger = SigningKey::from_bytes(&[7; 32]);
    assert_eq!(decide(&stranger, "msg_0", "ana@example.com").await, 401);
    assert_eq!(decide(&old, "msg_1", "ana@example.com").await, 200);
    assert_eq!(decide(&old, "msg_1", "ana@example.com").await, 409, "a repeat has no effect");
    assert_eq!(decide(&new, "msg_2", "bo@example.com").await, 200);
    while pending.changed().await.resolution.is_none() {}
    assert_eq!(stage.log.resolutions(), ["approved"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_with_a_dead_channel_is_seen_and_when_it_is_tried() {
    let dead = Script::always(Duration::ZERO, Answer::Failed("Connection refused (os error 111)".into()));
    let well = Script::always(Duration::ZERO, status(200));
    let stage = Stage::scripted(vec![("dead", dead), ("well", well)]);
    assert!(
        stage.control.channels().iter().all(|channel| channel.attempted_at.is_none() && channel.queued == 0)
    );
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(open(&stage, Ask::default()).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let health = stage.control.channels();
    let (dead, well) = (&health[0], &health[1]);
    assert_eq!((dead.name.as_str(), dead.state, dead.failures), ("webhook:dead", "failing", 20));
    assert_eq!((dead.queued, dead.delivered_at, dead.given_up), (20, None, 0));
    let next = dead.next_attempt_at.unwrap();
    let within = stage.now()..=(stage.now() + Duration::from_secs(5));
    assert!(within.contains(&next), "{next}");
    assert!(dead.remedy.unwrap().contains("is the receiver running"));
    assert_eq!((well.state, well.queued, well.delivered, well.remedy), ("ok", 0, 20, None));
    assert!(well.delivered_at.is_some() && well.next_attempt_at.is_none());
    drop(waiting);
    // How it ended is told on a schedule that ends: then the messages are given up, and that is seen, too.
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    let dead = &stage.control.channels()[0];
    assert_eq!((dead.queued, dead.given_up, dead.next_attempt_at), (0, 20, None));
}

/// What `event` is in every channel: its name, and all that people get to read there.
fn everywhere(kind: super::event::EventType, event: &Value) -> Vec<(&'static str, String)> {
    use super::{
        brief::Brief,
        settings::{TemplateSettings, TemplateSource},
        template::Template,
    };
    let brief = Brief::of(kind, event);
    let mut all = vec![("webhook", event.to_string()), ("slack", super::slack::card_of(&brief).to_string())];
    let [plain, html] = super::email::parts(&brief);
    all.extend([("mail, text", plain), ("mail, HTML", html)]);
    for name in ["pagerduty", "teams", "mattermost"] {
        let vars = [("routing_key".to_owned(), lockgate_model::Secret::new("R0UT1NG".to_owned()))];
        let settings = TemplateSettings { source: TemplateSource::Named(name.into()), vars: vars.into() };
        let made = Template::new(&settings).unwrap().render(event).unwrap();
        all.push((name, String::from_utf8(made).unwrap()));
    }
    all
}

/// A request of a job of which everything is known.
fn of_everybody_s_knowledge(stage: &Stage, ask: Ask) -> lockgate_model::approval::ApprovalRequest {
    use lockgate_model::workload::{Assurance, Pod, PodAssurance};
    let mut request = stage.request(ask);
    let mut session = (*request.session).clone();
    let mut workload = (*session.workload).clone();
    if let Some(ci) = &mut workload.ci {
        ci.job = Some("migrate".into());
        ci.run_attempt = Some("37".into());
        ci.ref_protected = Some(false);
        ci.commit_author = Some("Cleo".into());
        ci.event_name = Some("workflow_dispatch".into());
        ci.established_by = Some("api.github.com says that job 8 runs here".into());
    }
    workload.pod = Some(Pod {
        uid: "6c1f".into(),
        assurance: PodAssurance(Assurance::Platform),
        name: Some("runner-x1".into()),
        namespace: Some("builds".into()),
        service_account: Some("deployer".into()),
        ..Pod::default()
    });
    session.workload = workload.into();
    request.session = session.into();
    request
}

/// The list is identity.md's, "what an approver must see, the same in every channel".
#[tokio::test(start_paused = true)]
async fn every_channel_shows_all_that_an_approver_must_see() {
    use super::{
        channel::{About, Message},
        event::{self, EventType},
    };
    let stage = Stage::scripted(Vec::new());
    drop(stage.control.open(of_everybody_s_knowledge(&stage, Ask::default())).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let request = of_everybody_s_knowledge(&stage, Ask { values: vec!["4242".into()], ..Ask::default() });
    let (id, expires) = (request.id, request.expires_at.to_string());
    let pending = stage.control.open(request).await.unwrap();
    let desk = &stage.control.desk;
    let about = About::Case(desk.registry.find(id).unwrap());
    let event = event::value(desk, &Message::new(desk, EventType::Requested, about));
    for (channel, said) in everywhere(EventType::Requested, &event) {
        for (what, marker) in [
            ("the exact command", "ALTER TABLE orders ADD COLUMN note text"),
            ("bound values", "4242"),
            ("effects", "ddl"),
            ("tables", "public.orders"),
            ("risk", "high"),
            ("target", "orders-db"),
            ("tags", "production"),
            ("repository", "acme/billing"),
            ("workflow", "deploy.yml"),
            ("commit", "6d734b7"),
            ("commit's author", "Cleo"),
            ("commit's message", "note what was agreed"),
            ("ticket", "OPS-42"),
            ("ticket's standing", "claimed, not confirmed"),
            ("ref", "refs/heads/main"),
            ("event", "workflow_dispatch"),
            ("actor", "bert"),
            ("triggering actor", "carla"),
            ("run", "https://ci.example.com/acme/billing/runs/4711"),
            ("attempt", "37"),
            ("pod", "runner-x1"),
            ("namespace", "builds"),
            ("service account", "deployer"),
            ("node", "build-7"),
            ("executable", "/usr/bin/psql"),
            ("ancestry", "bash"),
            ("assurance", "platform"),
            ("how it was established", "cgroup of a system unit"),
            ("how CI facts were", "api.github.com says that job 8 runs here"),
            ("rule", "schema-change-dba"),
            ("why it is held", "needs a DBA"),
            ("who decides", "dba"),
            ("expiry", &expires),
            ("the same before", "cancelled"),
            ("where to decide", "/approvals/req_"),
        ] {
            // HTML escapes what a browser would read; markers have nothing of it.
            assert!(said.contains(marker), "{channel} does not show {what} ({marker}): {said}");
        }
        let transaction = if channel == "webhook" { "\"in_transaction\":true" } else { "OPEN" };
        let unprotected = if channel == "webhook" { "\"ref_protected\":false" } else { "NOT protected" };
        assert!(said.contains(transaction) && said.contains(unprotected), "{channel}: {said}");
    }
    drop(pending);
}

/// Where a mask applies: the shape of the statement, and neither literal, bound value nor the command line that has them.
#[tokio::test(start_paused = true)]
async fn no_channel_shows_what_a_mask_hides() {
    use super::{
        channel::{About, Message},
        event::{self, EventType},
    };
    let stage = Stage::scripted(Vec::new());
    let mut request = of_everybody_s_knowledge(
        &stage,
        Ask {
            statement: "ALTER TABLE orders ADD COLUMN note text DEFAULT '078-05-1120'".into(),
            values: vec!["219-09-9999".into()],
            touches_masked: true,
            ..Ask::default()
        },
    );
    let mut session = (*request.session).clone();
    let mut workload = (*session.workload).clone();
    workload.process.argv = vec!["psql".into(), "-c".into(), "… DEFAULT '078-05-1120'".into()];
    session.workload = workload.into();
    request.session = session.into();
    let id = request.id;
    let pending = stage.control.open(request).await.unwrap();
    let desk = &stage.control.desk;
    for kind in [EventType::Requested, EventType::Escalated, EventType::Denied] {
        let about = About::Case(desk.registry.find(id).unwrap());
        let event = event::value(desk, &Message::new(desk, kind, about));
        for (channel, said) in everywhere(kind, &event) {
            for leak in ["078-05-1120", "219-09-9999", "DEFAULT '"] {
                assert!(!said.contains(leak), "{channel} shows {leak}: {said}");
            }
        }
    }
    drop(pending);
}
