use crate::{
    ChannelSettings, Control, PersonSettings, SlackSettings,
    testing::{Ask, Clock, Log, settings},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::Path,
    http::Request,
    routing::post,
};
use hmac::{Hmac, KeyInit, Mac};
use lockgate_model::{
    Secret,
    port::{Ambient, Approvals, PendingApproval},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::Sha256;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tower::ServiceExt;

const SIGNING: &str = "8f742231b10e8888abcd99yyyzzz85a5";

/// A Slack that says yes, and what it was asked; tests/src/slack.rs is the strict one.
struct Workspace {
    control: Arc<Control>,
    log: Arc<Log>,
    clock: Arc<Clock>,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
    served: tokio::task::JoinHandle<()>,
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.served.abort();
    }
}

impl Workspace {
    async fn new(approvers: &[&str], member: Value) -> Self {
        let calls: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let seen = calls.clone();
        let answer = move |Path(method): Path<String>, body: Bytes| {
            let asked = serde_json::from_slice(&body).unwrap_or(Value::Null);
            seen.lock().push((method.clone(), asked));
            let answer = match method.as_str() {
                "users.info" => json!({ "ok": true, "user": member }),
                _ => json!({ "ok": true, "ts": "1.1", "channel": "C0DBA" }),
            };
            async move { Json(answer) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api_url = format!("http://{}/api", listener.local_addr().unwrap());
        let router = Router::new().route("/api/{method}", post(answer));
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let members: Vec<String> = approvers.iter().map(|member| (*member).to_owned()).collect();
        let slack = SlackSettings {
            name: "ops".into(),
            bot_token: Secret::new("xoxb-test".into()),
            signing_secret: Secret::new(SIGNING.into()),
            team: "T0ACME".into(),
            channel: "C0DBA".into(),
            group_channels: BTreeMap::new(),
            approvers: BTreeMap::from([("dba".into(), members)]),
            events: None,
            api_url: Some(api_url),
            allow_private: false,
            ca_pem: None,
        };
        let mut settings = settings(Vec::new());
        settings.channels = vec![ChannelSettings::Slack(slack)];
        settings.people = vec![PersonSettings {
            name: "ana@example.com".into(),
            ids: vec!["local:1002".into()],
            owns: Vec::new(),
        }];
        let (log, clock) = (Arc::new(Log::default()), Arc::new(Clock::new()));
        let control = Control::start(settings, log.clone(), clock.clone()).unwrap();
        Self { control, log, clock, calls, served }
    }

    async fn ask(&self, ask: Ask) -> Box<dyn PendingApproval> {
        let request = crate::testing::request(&*self.clock, ask);
        self.control.open(request).await.unwrap()
    }

    async fn call(&self, method: &str) -> Value {
        for _ in 0..400 {
            if let Some((_, body)) = self.calls.lock().iter().rev().find(|(called, _)| called == method) {
                return body.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{method} was not called: {:?}", self.calls.lock());
    }

    async fn value(&self) -> String {
        let message = self.call("chat.postMessage").await;
        let blocks = message["blocks"].as_array().unwrap();
        blocks.last().unwrap()["elements"][0]["value"].as_str().unwrap().to_owned()
    }

    /// What it answers to a payload, signed at `offset` seconds from now with `secret`.
    async fn post(&self, payload: &Value, secret: &str, offset: i64) -> u16 {
        let encoded: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("payload", &payload.to_string())
            .finish();
        let timestamp = (self.clock.now().as_second() + offset).to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("v0:{timestamp}:{encoded}").as_bytes());
        let signature = format!("v0={}", hex::encode(mac.finalize().into_bytes()));
        let request = Request::post("/v1/channels/ops/slack")
            .header("x-slack-request-timestamp", timestamp)
            .header("x-slack-signature", signature)
            .body(Body::from(encoded))
            .unwrap();
        self.control.public_router().oneshot(request).await.unwrap().status().as_u16()
    }

    async fn whisper(&self) -> String {
        self.call("chat.postEphemeral").await["text"].as_str().unwrap().to_owned()
    }
}

fn click(value: &str, user: &str, action: &str) -> Value {
    json!({
        "type": "block_actions",
        "team": { "id": "T0ACME" },
        "user": { "id": user, "team_id": "T0ACME" },
        "trigger_id": "trigger",
        "container": { "type": "message", "message_ts": "1.1", "channel_id": "C0DBA" },
        "actions": [{ "action_id": action, "value": value }],
    })
}

fn ana(change: Value) -> Value {
    let mut member = json!({ "id": "U0ANA", "team_id": "T0ACME", "is_email_confirmed": true,
        "profile": { "email": "Ana@example.com" } });
    member.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    member
}

/// The example of Slack's documentation ("Verifying requests from Slack").
#[test]
fn signatures_are_those_of_slack_s_documentation() {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let mut mac = Hmac::<Sha256>::new_from_slice(SIGNING.as_bytes()).unwrap();
    mac.update(format!("v0:1531420618:{body}").as_bytes());
    let expected = "a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    assert_eq!(hex::encode(mac.finalize().into_bytes()), expected);
}

#[tokio::test]
async fn a_click_by_an_approver_counts_and_the_card_says_who() {
    let workspace = Workspace::new(&["ana@example.com"], ana(json!({}))).await;
    let mut pending = workspace.ask(Ask { principal: "unit:other".into(), ..Ask::default() }).await;
    let value = workspace.value().await;
    assert_eq!(workspace.post(&click(&value, "U0ANA", "lockgate_deny"), SIGNING, 0).await, 200);
    while pending.changed().await.resolution.is_none() {}
    assert_eq!(workspace.log.resolutions(), ["denied"]);
    let edited = workspace.call("chat.update").await.to_string();
    assert!(edited.contains("Denied") && edited.contains("denied by slack:T0ACME:U0ANA"), "{edited}");
    assert!(!edited.contains("lockgate_approve"), "no buttons any more");
    // The person behind it counts by their one name.
    let names = workspace.log.pick(|kind| match kind {
        lockgate_model::event::EventKind::VoteCast { vote, .. } => Some(vote.by.name().to_owned()),
        _ => None,
    });
    assert_eq!(names, ["ana@example.com"]);
}

#[tokio::test]
async fn clicks_that_must_not_count_are_whispered_about_and_recorded() {
    for (approvers, member, bend, words) in [
        (&["U0BO"][..], ana(json!({})), None, "in none of this channel"),
        (&["ana@example.com"], ana(json!({ "is_email_confirmed": false })), None, "in none of this channel"),
        (&["ana@example.com"], ana(json!({ "team_id": "T0EVIL" })), None, "another workspace"),
        (&["ana@example.com"], ana(json!({ "is_restricted": true })), None, "is_restricted"),
        (&["ana@example.com"], ana(json!({ "deleted": true })), None, "deleted"),
        (&["ana@example.com"], ana(json!({ "id": "U0OTHER" })), None, "another workspace"),
        (
            &["stranger@example.com"],
            ana(json!({ "profile": { "email": "stranger@example.com" } })),
            None,
            "in none of",
        ),
        (&["U0ANA"], ana(json!({})), Some(("/team/id", "T0EVIL")), "configured workspace"),
        (&["U0ANA"], ana(json!({})), Some(("/user/team_id", "T0EVIL")), "configured workspace"),
        (
            &["U0ANA"],
            ana(json!({})),
            Some(("/actions/0/value", "req_01ARZ3NDEKTSV4RRFFQ69G5FAV.AAAA")),
            "no request",
        ),
    ] {
        let workspace = Workspace::new(approvers, member).await;
        let pending = workspace.ask(Ask::default()).await;
        let value = workspace.value().await;
        let mut payload = click(&value, "U0ANA", "lockgate_approve");
        if let Some((place, text)) = bend {
            *payload.pointer_mut(place).unwrap() = json!(text);
        }
        assert_eq!(workspace.post(&payload, SIGNING, 0).await, 200, "acknowledged");
        let whisper = workspace.whisper().await;
        assert!(whisper.contains(words), "{words}: {whisper}");
        assert_eq!((workspace.log.votes(), workspace.log.refusals().len()), (0, 1), "{words}");
        assert!(pending.progress().resolution.is_none());
    }
}

#[tokio::test]
async fn a_button_is_good_for_what_its_card_showed_alone() {
    let workspace = Workspace::new(&["U0ANA"], ana(json!({}))).await;
    let first = workspace.ask(Ask::default()).await;
    let one = workspace.value().await;
    workspace.calls.lock().clear();
    let second = workspace.ask(Ask { principal: "unit:second".into(), ..Ask::default() }).await;
    let two = workspace.value().await;
    let (id, _) = two.split_once('.').unwrap();
    let (_, mac) = one.split_once('.').unwrap();
    for value in [format!("{id}.{mac}"), id.to_owned(), format!("{id}."), format!("{two}A"), two.repeat(9)] {
        workspace.calls.lock().clear();
        assert_eq!(workspace.post(&click(&value, "U0ANA", "lockgate_approve"), SIGNING, 0).await, 200);
        assert!(workspace.whisper().await.contains("no request"), "{value}");
    }
    assert_eq!(workspace.log.votes(), 0);
    drop((first, second));
}

#[tokio::test]
async fn what_slack_did_not_sign_lately_and_once_does_nothing() {
    let workspace = Workspace::new(&["U0ANA"], ana(json!({}))).await;
    let _pending = workspace.ask(Ask { need: 2, ..Ask::default() }).await;
    let payload = click(&workspace.value().await, "U0ANA", "lockgate_approve");
    for (secret, offset, expected) in [
        ("other", 0, 401),
        ("", 0, 401),
        (SIGNING, -301, 401),
        (SIGNING, 301, 401),
        (SIGNING, 299, 200),
        (SIGNING, 299, 409),
    ] {
        assert_eq!(workspace.post(&payload, secret, offset).await, expected, "{secret} {offset}");
    }
    let unsigned = Request::post("/v1/channels/ops/slack").body(Body::from("payload={}")).unwrap();
    assert_eq!(workspace.control.public_router().oneshot(unsigned).await.unwrap().status().as_u16(), 401);
    let unknown = Request::post("/v1/channels/none/slack").body(Body::from("payload={}")).unwrap();
    assert_eq!(workspace.control.public_router().oneshot(unknown).await.unwrap().status().as_u16(), 404);
    assert_eq!(workspace.post(&json!({ "type": "shortcut" }), SIGNING, 0).await, 200, "not ours");
    assert!(workspace.log.votes() <= 1);
}

#[tokio::test]
async fn a_rule_that_wants_a_reason_asks_for_it() {
    let workspace = Workspace::new(&["U0ANA"], ana(json!({}))).await;
    let mut pending = workspace.ask(Ask { require_reason: true, ..Ask::default() }).await;
    let value = workspace.value().await;
    assert_eq!(workspace.post(&click(&value, "U0ANA", "lockgate_approve"), SIGNING, 0).await, 200);
    let modal = workspace.call("views.open").await;
    assert_eq!(modal["trigger_id"], "trigger");
    assert_eq!(workspace.log.votes(), 0);
    let submission = |reason: &str| {
        json!({
            "type": "view_submission",
            "team": { "id": "T0ACME" },
            "user": { "id": "U0ANA", "team_id": "T0ACME" },
            "view": { "callback_id": "lockgate_reason", "private_metadata": modal["view"]["private_metadata"],
                "state": { "values": { "reason": { "text": { "value": reason } } } } },
        })
    };
    assert_eq!(workspace.post(&submission("  "), SIGNING, 0).await, 200, "asks again in the modal");
    assert_eq!(workspace.log.votes(), 0);
    assert_eq!(workspace.post(&submission("change 4711"), SIGNING, 0).await, 200);
    while pending.changed().await.resolution.is_none() {}
    let reasons = workspace.log.pick(|kind| match kind {
        lockgate_model::event::EventKind::VoteCast { vote, .. } => vote.reason.clone(),
        _ => None,
    });
    assert_eq!(reasons, ["change 4711"]);
}
