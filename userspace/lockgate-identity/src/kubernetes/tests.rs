//! A scripted API server: what Kubernetes documents it may say, in the order in which it hurts. The real one is in the
//! `cluster` suite.

use crate::{
    BoundTokenSettings, IdentitySettings, Kubernetes,
    jwt::testing::Signer,
    testing::{Clock, World, in_pod, plain},
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::Request,
    response::Response,
};
use lockgate_model::{
    principal::Principal,
    workload::{Assurance, Container, PodAssurance, Workload},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::mpsc;

const NOW: u64 = Clock::START;
const A: &str = "0f3c1d2e-4b5a-6978-8765-43210fedcba9";
const B: &str = "1f3c1d2e-4b5a-6978-8765-43210fedcba9";
const CONTAINER: &str = "3f2a1b4c5d6e7f80112233445566778899aabbccddeeff00112233445566aabb";

fn pod(uid: &str, name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "uid": uid, "name": name, "namespace": "prod", "resourceVersion": version.to_string(),
            "labels": { "app": "billing" }, "managedFields": [{ "manager": "x" }],
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "Other", "name": "x", "uid": "y" },
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "billing-6f7", "uid": "z", "controller": true }] },
        "spec": { "serviceAccountName": "billing", "nodeName": "node-1", "containers": [] },
        "status": { "phase": "Running", "containerStatuses": [
            { "name": "app", "containerID": format!("containerd://{CONTAINER}"), "imageID": "registry.example.com/app@sha256:aa" }] },
    })
}

/// What the server does next, by what it is asked.
#[derive(Default)]
struct Script {
    /// Pages of lists, in order; the last one again and again.
    lists: Vec<Value>,
    watches: Vec<Option<mpsc::UnboundedReceiver<Bytes>>>,
    asked: Vec<String>,
    others: HashMap<String, Value>,
}

type Shared = Arc<Mutex<Script>>;

async fn serve(State(script): State<Shared>, request: Request<Body>) -> Response {
    let uri = request.uri().clone();
    let mut script = script.lock().unwrap();
    script.asked.push(uri.to_string());
    let status = |code: u16, body: Body| Response::builder().status(code).body(body).unwrap();
    if let Some(other) = script.others.get(uri.path()) {
        return status(200, Body::from(other.to_string()));
    }
    if !uri.query().unwrap_or_default().contains("watch=true") {
        let page = if script.lists.len() > 1 { script.lists.remove(0) } else { script.lists[0].clone() };
        return match page.as_u64() {
            Some(code) => status(code.try_into().unwrap(), Body::empty()),
            None => status(200, Body::from(page.to_string())),
        };
    }
    let next = if script.watches.is_empty() { None } else { script.watches.remove(0) };
    match next {
        Some(lines) => {
            let stream = futures(lines);
            status(200, Body::from_stream(stream))
        }
        None => status(410, Body::empty()),
    }
}

fn futures(
    mut lines: mpsc::UnboundedReceiver<Bytes>,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    futures_util::stream::poll_fn(move |context| lines.poll_recv(context).map(|line| line.map(Ok)))
}

struct Cluster {
    script: Shared,
    world: World,
    task: tokio::task::AbortHandle,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One watch of the server: what is sent becomes events.
struct Watch(mpsc::UnboundedSender<Bytes>);

impl Watch {
    fn say(&self, kind: &str, object: Value) {
        let line = format!("{}\n", json!({ "type": kind, "object": object }));
        // In two pieces: lines do not keep to chunks.
        let (first, second) = line.split_at(line.len() / 2);
        for piece in [first, second] {
            self.0.send(Bytes::copy_from_slice(piece.as_bytes())).unwrap();
        }
    }

    fn raw(&self, text: &str) {
        self.0.send(Bytes::copy_from_slice(text.as_bytes())).unwrap();
    }
}

fn list(pods: &[Value], version: u32, next: &str) -> Value {
    json!({ "kind": "PodList", "metadata": { "resourceVersion": version.to_string(), "continue": next }, "items": pods })
}

async fn cluster(
    lists: Vec<Value>,
    watches: usize,
    bound: Option<BoundTokenSettings>,
) -> (Cluster, Vec<Watch>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..watches).map(|_| mpsc::unbounded_channel()).unzip();
    let watches = receivers.into_iter().map(Some).collect();
    let script = Arc::new(Mutex::new(Script { lists, watches, ..Script::default() }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(serve).with_state(script.clone());
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }).abort_handle();
    let kubernetes = Kubernetes {
        server,
        ca_pem: None,
        token: None,
        node: "node-1".to_owned(),
        wait: Duration::from_millis(700),
        bound_tokens: bound,
    };
    let world = World::new(IdentitySettings { kubernetes: Some(kubernetes), ..IdentitySettings::default() });
    (Cluster { script, world, task }, senders.into_iter().map(Watch).collect())
}

impl Cluster {
    async fn confirm(&self, workload: Workload) -> Workload {
        self.world.confirm(workload).await
    }

    fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.clone()
    }
}

fn nothing() -> Value {
    list(&[], 5, "")
}

fn assert_uid_only(workload: &Workload, uid: &str) -> String {
    let pod = workload.pod.as_ref().unwrap();
    assert_eq!((pod.uid.as_str(), pod.namespace.as_deref(), pod.is_named()), (uid, None, false));
    let principal = Principal::of(workload);
    assert_eq!((principal.id, principal.assurance), (format!("pod:{uid}"), Assurance::Kernel));
    pod.unconfirmed.clone().unwrap()
}

#[tokio::test]
async fn a_listed_pod_is_named_with_its_container() {
    let (cluster, _watches) = cluster(vec![list(&[pod(A, "billing-1", 3)], 5, "")], 1, None).await;
    let container = Container {
        id: CONTAINER.to_owned(),
        runtime: "unknown".to_owned(),
        pod_uid: Some(A.to_owned()),
        claimed: false,
    };
    let workload = cluster.confirm(Workload { container: Some(container), ..in_pod(A) }).await;
    let pod = workload.pod.as_ref().unwrap();
    assert_eq!(pod.assurance, PodAssurance(Assurance::Platform));
    assert_eq!((pod.namespace.as_deref(), pod.name.as_deref()), (Some("prod"), Some("billing-1")));
    assert_eq!(pod.owner.as_deref(), Some("ReplicaSet/billing-6f7"));
    assert_eq!(pod.labels["app"], "billing");
    assert_eq!(pod.image.as_deref(), Some("registry.example.com/app@sha256:aa"));
    assert_eq!(workload.container.as_ref().unwrap().runtime, "containerd");
    assert_eq!(Principal::of(&workload).id, "kubernetes:prod/billing");
    let asked = cluster.asked();
    assert!(asked.iter().all(|asked| asked.contains("fieldSelector=spec.nodeName%3Dnode-1")), "{asked:?}");
}

#[tokio::test]
async fn a_pod_that_comes_later_is_waited_for_and_one_that_does_not_stays_a_uid() {
    let (cluster, watches) = cluster(vec![nothing()], 1, None).await;
    let waiting = cluster.confirm(in_pod(A));
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        watches[0].say("ADDED", pod(A, "billing-1", 6));
    };
    let (workload, ()) = tokio::join!(waiting, later);
    assert!(workload.pod.unwrap().is_named());
    let begun = std::time::Instant::now();
    let why = assert_uid_only(&cluster.confirm(in_pod(B)).await, B);
    assert!(why.contains("lists no such pod"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(cluster.confirm(plain(1)).await, plain(1), "no pod, nothing to ask");
}

#[tokio::test]
async fn pages_are_joined_bookmarks_move_on_and_a_lost_watch_goes_on_where_it_was() {
    let pages = vec![list(&[pod(A, "a", 1)], 5, "more"), list(&[pod(B, "b", 2)], 5, "")];
    let (cluster, mut watches) = cluster(pages, 3, None).await;
    assert!(cluster.confirm(in_pod(B)).await.pod.unwrap().is_named());
    assert!(cluster.confirm(in_pod(A)).await.pod.unwrap().is_named());
    let first = watches.remove(0);
    first.say("BOOKMARK", json!({ "kind": "Pod", "metadata": { "resourceVersion": "77" } }));
    first.say("SOMETHING_NEW", json!({ "metadata": {} }));
    drop(first);
    until(|| cluster.asked().iter().any(|asked| asked.contains("resourceVersion=77"))).await;
    let lists = cluster.asked().iter().filter(|asked| !asked.contains("watch")).count();
    assert_eq!(lists, 2, "no third list");
    assert!(cluster.asked()[1].contains("continue=more"));
}

#[tokio::test]
async fn an_expired_version_is_listed_anew() {
    let second = list(&[pod(B, "b", 90)], 91, "");
    let (cluster, mut watches) = cluster(vec![list(&[pod(A, "a", 1)], 5, ""), second], 2, None).await;
    assert!(cluster.confirm(in_pod(A)).await.pod.unwrap().is_named());
    let status =
        json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version" });
    watches.remove(0).say("ERROR", status);
    assert!(cluster.confirm(in_pod(B)).await.pod.unwrap().is_named());
    until(|| cluster.asked().iter().any(|asked| asked.contains("resourceVersion=91"))).await;
}

#[tokio::test]
async fn failures_pause_and_a_pod_is_known_again_afterwards() {
    let lists = vec![json!(503), json!(401), json!({ "items": 7 }), list(&[pod(A, "a", 1)], 5, "")];
    let (cluster, _watches) = cluster(lists, 1, None).await;
    let why = assert_uid_only(&cluster.confirm(in_pod(A)).await, A);
    assert!(why.contains("127.0.0.1"), "{why}");
    until(|| cluster.asked().len() >= 4).await;
    assert!(cluster.confirm(in_pod(A)).await.pod.unwrap().is_named());
}

#[tokio::test]
async fn what_a_watch_should_not_say_is_survived() {
    for line in ["{}\n", "null\n", "{\"type\":1}\n", "\n", "{\"type\":\"ADDED\",\"object\":7}\n", "\u{0}\n"] {
        let (cluster, mut watches) = cluster(vec![nothing(), list(&[pod(A, "a", 9)], 9, "")], 1, None).await;
        until(|| cluster.asked().iter().any(|asked| asked.contains("watch"))).await;
        watches.remove(0).raw(line);
        until(|| cluster.asked().len() >= 3).await;
    }
    // Pods of other nodes and without a uid are nobody here, should a server send them all the same.
    let mut foreign = pod(B, "b", 1);
    foreign["spec"]["nodeName"] = json!("node-2");
    let (cluster, _watches) = cluster(vec![list(&[foreign, pod("", "c", 1)], 5, "")], 1, None).await;
    assert_uid_only(&cluster.confirm(in_pod(B)).await, B);
    assert_uid_only(&cluster.confirm(in_pod("")).await, "");
}

#[tokio::test]
async fn a_deleted_pods_last_connections_are_still_named_for_a_moment() {
    let (cluster, watches) = cluster(vec![list(&[pod(A, "a", 1)], 5, "")], 1, None).await;
    assert!(cluster.confirm(in_pod(A)).await.pod.unwrap().is_named());
    watches[0].say("DELETED", pod(A, "a", 8));
    watches[0].say("ADDED", pod(B, "b", 9));
    assert!(cluster.confirm(in_pod(B)).await.pod.unwrap().is_named());
    assert!(cluster.confirm(in_pod(A)).await.pod.unwrap().is_named());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert_uid_only(&cluster.confirm(in_pod(A)).await, A);
}

const ISSUER: &str = "https://kubernetes.default.svc";

/// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>
fn bound(uid: &str) -> Value {
    json!({
        "aud": [ISSUER], "exp": NOW + 3600, "iat": NOW, "nbf": NOW, "iss": ISSUER, "jti": "x",
        "kubernetes.io": {
            "namespace": "prod", "node": { "name": "node-1", "uid": "n" },
            "pod": { "name": "billing-1", "uid": uid },
            "serviceaccount": { "name": "billing", "uid": "s" }, "warnafter": NOW + 3000
        },
        "sub": "system:serviceaccount:prod:billing"
    })
}

#[tokio::test]
async fn a_pods_own_token_attests_it_and_every_other_token_does_not() {
    let signer = Signer::rsa("cluster");
    let settings = BoundTokenSettings { issuer: ISSUER.to_owned(), audience: ISSUER.to_owned() };
    let lists = vec![list(&[pod(A, "billing-1", 3), pod(B, "billing-2", 3)], 5, "")];
    let (cluster, _watches) = cluster(lists, 1, Some(settings)).await;
    let jwks = json!({ "keys": [signer.jwk()] });
    cluster.script.lock().unwrap().others.insert("/openid/v1/jwks".to_owned(), jwks);
    let with = |pointer: &str, value: Value| {
        let mut claims = bound(A);
        *claims.pointer_mut(pointer).unwrap() = value;
        signer.token(&claims)
    };
    let show = |token: Option<String>| *cluster.world.carrier.token.lock().unwrap() = token;
    show(Some(signer.token(&bound(A))));
    let workload = cluster.confirm(in_pod(A)).await;
    assert_eq!(workload.pod.as_ref().unwrap().assurance, PodAssurance(Assurance::Attested));
    assert_eq!(Principal::of(&workload).assurance, Assurance::Attested);
    let mut legacy = bound(A);
    legacy.as_object_mut().unwrap().remove("exp");
    let mut unbound = bound(A);
    unbound["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    for (name, token, why) in [
        ("of another pod of the same account", signer.token(&bound(B)), "bound to pod"),
        (
            "of another account",
            with("/kubernetes.io/serviceaccount/name", json!("admin")),
            "bound to service account",
        ),
        ("of another namespace", with("/kubernetes.io/namespace", json!("dev")), "bound to namespace"),
        ("of another node", with("/kubernetes.io/node/name", json!("node-2")), "bound to node"),
        ("for another audience", with("/aud", json!(["vault"])), "it is for"),
        ("of another cluster", with("/iss", json!("https://evil.example.com")), "its issuer is"),
        ("that expired", with("/exp", json!(NOW - 31)), "expired"),
        ("that never ends", signer.token(&legacy), "claim exp"),
        ("bound to no pod", signer.token(&unbound), "bound to pod \"\""),
        ("signed by somebody", Signer::ec("cluster").token(&bound(A)), "says ES256"),
        ("with an unknown key", Signer::ec("x").token(&bound(A)), "publishes no key"),
        ("no token", "garbage".to_owned(), "three parts"),
    ] {
        show(Some(token));
        let pod = cluster.confirm(in_pod(A)).await.pod.unwrap();
        assert_eq!(pod.assurance, PodAssurance(Assurance::Platform), "{name}");
        assert!(
            pod.unconfirmed.as_deref().is_some_and(|text| text.contains(why)),
            "{name}: {:?}",
            pod.unconfirmed
        );
    }
    show(None);
    let pod = cluster.confirm(in_pod(A)).await.pod.unwrap();
    assert_eq!((pod.assurance, pod.unconfirmed), (PodAssurance(Assurance::Platform), None));
}

async fn until(done: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it did not come to that");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
