//! Against a real kube-apiserver and etcd: pods listed and watched with the rights of the shipped role alone, tokens signed by
//! the cluster and bound to real pod objects, and an API server that dies and comes back. No kubelet: pods are placed on the
//! node by name, which is all that is asked about.
//!
//! `cargo xtask cluster` builds the servers once and runs this; LOCKGATE_KUBERNETES names where they are.

use lockgate_identity::{BoundTokenSettings, Identity, IdentitySettings, Kubernetes};
use lockgate_model::{
    Secret, Timestamp,
    addr::{ClientAddr, OriginalDst},
    flow::{Capture, Flow, ProcessFacts},
    port::{Ambient, Confirmer as _, Witness},
    principal::Principal,
    workload::{Assurance, Pod, PodAssurance, Workload},
};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const ISSUER: &str = "https://kubernetes.default.svc";
const ADMIN: &str = "admin-of-the-test";
/// A cold start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Servers and their directory; both go with it.
struct Cluster {
    bin: PathBuf,
    dir: tempfile::TempDir,
    api: Option<Child>,
    etcd: Child,
    ports: [u16; 3],
    client: Client,
    ca: String,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.api.iter_mut().chain([&mut self.etcd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Cluster {
    async fn start() -> Self {
        let bin =
            std::env::var_os("LOCKGATE_KUBERNETES").expect("LOCKGATE_KUBERNETES: run cargo xtask cluster");
        let bin = PathBuf::from(bin);
        let dir = tempfile::tempdir().unwrap();
        let ca = certificates(dir.path());
        fs::write(dir.path().join("tokens.csv"), format!("{ADMIN},admin,1,\"system:masters\"\n")).unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let etcd = etcd(&bin, dir.path(), ports);
        let client = client(&ca);
        let mut cluster = Self { bin, dir, api: None, etcd, ports, client, ca };
        cluster.up().await;
        cluster
    }

    fn server(&self) -> String {
        format!("https://localhost:{}", self.ports[2])
    }

    async fn up(&mut self) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let log = fs::File::options().create(true).append(true).open(path("api.log")).unwrap();
        let api = Command::new(self.bin.join("kube-apiserver"))
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.ports[0]))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={}", self.ports[2]))
            .arg(format!("--tls-cert-file={}", path("api.crt")))
            .arg(format!("--tls-private-key-file={}", path("api.key")))
            .arg(format!("--service-account-issuer={ISSUER}"))
            .arg(format!("--service-account-key-file={}", path("sa.key")))
            .arg(format!("--service-account-signing-key-file={}", path("sa.key")))
            .arg(format!("--token-auth-file={}", path("tokens.csv")))
            .args(["--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=Node,RBAC"])
            .args(["--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.api = Some(api);
        let started = Instant::now();
        while self.ask(Method::GET, "/readyz", None).await.is_none() {
            let log = || fs::read_to_string(path("api.log")).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "the API server is not ready:\n{}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn down(&mut self) {
        if let Some(mut api) = self.api.take() {
            api.kill().unwrap();
            api.wait().unwrap();
        }
    }

    /// As the cluster's admin; None unless the answer is a success.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Option<Value> {
        let patch = method == Method::PATCH;
        let mut request = self.client.request(method, format!("{}{path}", self.server())).bearer_auth(ADMIN);
        if let Some(body) = body {
            let kind = if patch { "application/merge-patch+json" } else { "application/json" };
            request = request.header("content-type", kind).body(body.to_string());
        }
        let answer = request.send().await.ok()?;
        let good = answer.status().is_success();
        let text = answer.text().await.ok()?;
        if !good {
            eprintln!("{path}: {text}");
        }
        good.then(|| serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn make(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, Some(body)).await.expect("it can be made")
    }

    /// A pod on a node; its uid.
    async fn pod(&self, name: &str, node: &str) -> String {
        let pod = json!({
            "metadata": { "name": name, "labels": { "app": "billing" } },
            "spec": { "nodeName": node, "serviceAccountName": "billing",
                      "containers": [{ "name": "app", "image": "app" }] } });
        let made = self.make("/api/v1/namespaces/prod/pods", pod).await;
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// A token of an account, bound to a pod or to nothing.
    async fn token(&self, namespace: &str, account: &str, pod: Option<(&str, &str)>) -> String {
        let bound =
            pod.map(|(name, uid)| json!({ "kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid }));
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "audiences": [ISSUER], "expirationSeconds": 3600, "boundObjectRef": bound } });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        self.make(&path, request).await["status"]["token"].as_str().unwrap().to_owned()
    }

    /// What the shipped role allows: pods, to be read.
    async fn lockgates_own_account(&self) {
        for namespace in ["prod", "lockgate"] {
            self.make("/api/v1/namespaces", json!({ "metadata": { "name": namespace } })).await;
        }
        for (namespace, name) in [("prod", "billing"), ("lockgate", "lockgate")] {
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            self.make(&path, json!({ "metadata": { "name": name } })).await;
        }
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"] }]);
        self.make(
            &format!("{rbac}/clusterroles"),
            json!({ "metadata": { "name": "lockgate" }, "rules": rules }),
        )
        .await;
        let binding = json!({
            "metadata": { "name": "lockgate" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "lockgate" },
            "subjects": [{ "kind": "ServiceAccount", "name": "lockgate", "namespace": "lockgate" }] });
        self.make(&format!("{rbac}/clusterrolebindings"), binding).await;
    }
}

fn etcd(bin: &Path, dir: &Path, ports: [u16; 3]) -> Child {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let log = fs::File::create(dir.join("etcd.log")).unwrap();
    Command::new(bin.join("etcd"))
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &url(ports[0]), "--advertise-client-urls", &url(ports[0])])
        .args(["--listen-peer-urls", &url(ports[1]), "--initial-advertise-peer-urls", &url(ports[1])])
        .args(["--initial-cluster", &format!("default={}", url(ports[1])), "--unsafe-no-fsync"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The API server's certificate and the key that signs tokens; gives the CA.
fn certificates(dir: &Path) -> String {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    fs::write(dir.join("api.crt"), certificate.pem()).unwrap();
    fs::write(dir.join("api.key"), key.serialize_pem()).unwrap();
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let signing = STANDARD.encode(include_bytes!("../src/jwt/rsa-for-tests.pk8"));
    let lines: Vec<&str> =
        signing.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    fs::write(dir.join("sa.key"), pem).unwrap();
    ca.pem()
}

fn client(ca: &str) -> Client {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

/// A process that carries one pod token.
#[derive(Default)]
struct Carrier(Mutex<Option<String>>);

impl Witness for Carrier {
    fn variables(&self, _: &Flow, _: &[&str]) -> HashMap<String, Secret<String>> {
        HashMap::new()
    }

    fn service_account_token(&self, _: &Flow) -> Option<Secret<String>> {
        self.0.lock().unwrap().clone().map(Secret::new)
    }

    fn age(&self, _: &Flow) -> Option<Duration> {
        None
    }
}

struct Clock;

impl Ambient for Clock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn random(&self) -> u128 {
        4
    }
}

async fn confirm(identity: &Identity, uid: &str) -> Workload {
    let address = "127.0.0.1:5432".parse().unwrap();
    let flow = Flow {
        client: ClientAddr(address),
        original_dst: OriginalDst::new(address),
        socket_cookie: 1,
        netns_cookie: 1,
        process: ProcessFacts {
            tgid: 1,
            tid: 1,
            start_boottime_ns: 1,
            uid: 1001,
            gid: 1001,
            cgroup_id: 1,
            comm: "psql".to_owned(),
            creator_tgid: 0,
        },
        capture: Capture::Transparent,
    };
    let pod = Pod { uid: uid.to_owned(), ..Pod::default() };
    let workload = Workload { pod: Some(pod), ..Workload::noted(&flow.process, "a test") };
    identity.confirm(&flow, workload).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_cluster_names_its_pods_and_signs_for_them() {
    let mut cluster = Cluster::start().await;
    cluster.lockgates_own_account().await;
    let token_file = cluster.dir.path().join("lockgate.token");
    fs::write(&token_file, cluster.token("lockgate", "lockgate", None).await).unwrap();
    let first = cluster.pod("first", "node-1").await;
    let carrier = Arc::new(Carrier::default());
    let settings = IdentitySettings {
        wait: Duration::from_secs(20),
        skew: Duration::from_secs(30),
        kubernetes: Some(Kubernetes {
            server: cluster.server(),
            ca_pem: Some(cluster.ca.clone().into_bytes()),
            token: Some(token_file),
            node: "node-1".to_owned(),
            wait: Duration::from_secs(3),
            bound_tokens: Some(BoundTokenSettings { issuer: ISSUER.to_owned(), audience: ISSUER.to_owned() }),
        }),
        ..IdentitySettings::default()
    };
    let identity = Identity::start(settings, carrier.clone(), Arc::new(Clock), None).unwrap();

    // One that was there, one that comes while it is waited for, one of another node.
    let workload = confirm(&identity, &first).await;
    assert_eq!(Principal::of(&workload).id, "kubernetes:prod/billing", "{workload:?}");
    let pod = workload.pod.unwrap();
    assert_eq!((pod.name.as_deref(), pod.node.as_deref()), (Some("first"), Some("node-1")));
    assert_eq!((pod.assurance, pod.unconfirmed), (PodAssurance(Assurance::Platform), None));
    let second = cluster.pod("second", "node-1").await;
    assert!(confirm(&identity, &second).await.pod.unwrap().is_named());
    let elsewhere = cluster.pod("elsewhere", "node-2").await;
    let pod = confirm(&identity, &elsewhere).await.pod.unwrap();
    assert!(!pod.is_named() && pod.unconfirmed.unwrap().contains("lists no such pod"));

    // What changes is followed.
    let change = json!({ "metadata": { "labels": { "tier": "gold" } } });
    cluster.ask(Method::PATCH, "/api/v1/namespaces/prod/pods/first", Some(change)).await.unwrap();
    let started = Instant::now();
    while confirm(&identity, &first).await.pod.unwrap().labels.get("tier").is_none_or(|tier| tier != "gold") {
        assert!(started.elapsed() < PATIENCE, "the label is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // The cluster's own signature, on the pod it was made for and on no other.
    let show = |token: String| *carrier.0.lock().unwrap() = Some(token);
    show(cluster.token("prod", "billing", Some(("first", &first))).await);
    let pod = confirm(&identity, &first).await.pod.unwrap();
    assert_eq!(pod.assurance, PodAssurance(Assurance::Attested), "{:?}", pod.unconfirmed);
    let pod = confirm(&identity, &second).await.pod.unwrap();
    assert_eq!(pod.assurance, PodAssurance(Assurance::Platform));
    assert!(pod.unconfirmed.unwrap().contains("bound to pod"));
    show(cluster.token("prod", "billing", None).await);
    let pod = confirm(&identity, &first).await.pod.unwrap();
    assert!(pod.unconfirmed.unwrap().contains("bound to pod \"\""));
    show(cluster.token("lockgate", "lockgate", None).await);
    assert_eq!(confirm(&identity, &first).await.pod.unwrap().assurance, PodAssurance(Assurance::Platform));
    *carrier.0.lock().unwrap() = None;

    // The API server goes: what is known stays known, what is not stays a uid. It comes back: all is known.
    cluster.down();
    assert!(confirm(&identity, &first).await.pod.unwrap().is_named());
    let stranger = confirm(&identity, "00000000-0000-0000-0000-000000000000").await;
    assert!(!stranger.pod.as_ref().unwrap().is_named());
    assert_eq!(Principal::of(&stranger).assurance, Assurance::Kernel);
    cluster.up().await;
    let third = cluster.pod("third", "node-1").await;
    let started = Instant::now();
    while !confirm(&identity, &third).await.pod.unwrap().is_named() {
        assert!(started.elapsed() < PATIENCE, "the watch does not come back");
    }
}
