//! What the steps stand on: a cluster, a database behind three kinds of addresses, whoever is asked for approval, and pods.

use crate::node::{CLUSTER_IP, Cluster, DATABASE, NODE, Place, output};
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::{DECISION_SECRET, Receiver, SECRET},
};
use serde_json::{Value, json};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Where everything of lockgate's is.
pub(crate) const LOCKGATE: &str = "lockgate";
/// Where the jobs are.
pub(crate) const SHOP: &str = "shop";

pub(crate) const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: cluster }
groups: { dba: { oidc: "groups:dba" } }
rules:
- id: billing-reads
  match: { identity: { namespace: [shop], service_account: [billing] }, sql: { class: [read, session, transaction] } }
  effect: allow
- id: schema-change
  match: { identity: { namespace: [shop] }, sql: { class: ddl } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 2m }
- id: nobody-deletes
  match: { sql: { kinds: [delete] } }
  effect: deny
  message: "nothing is deleted here"
"#;

/// Fields drop in order: pods and agents first, then what they speak to.
pub(crate) struct Shop {
    pub(crate) cluster: Cluster,
    pub(crate) receiver: Receiver,
    pub(crate) pg: TestPostgres,
}

impl Shop {
    /// Must be called on a runtime.
    pub(crate) fn open() -> Result<Self> {
        let cluster = Cluster::start(Place::of_environment()?)?;
        let receiver =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(Receiver::start()))?;
        let pg = Self::server(5432)?;
        pg.psql("CREATE ROLE app LOGIN PASSWORD 'app-secret'")?;
        pg.psql("CREATE DATABASE shop OWNER app")?;
        pg.psql_in(
            "shop",
            "SET ROLE app; CREATE TABLE orders (id int, note text); INSERT INTO orders VALUES (1, 'first')",
        )?;
        let shop = Self { cluster, receiver, pg };
        shop.furnish()?;
        Ok(shop)
    }

    /// A server at the database's addresses that wants passwords and logs who comes.
    pub(crate) fn server(port: u16) -> Result<TestPostgres> {
        let options = PostgresOptions::new()
            .auth(HostAuth::Scram)
            .port(port)
            .setting("listen_addresses", &format!("127.0.0.1,{}", DATABASE.join(",")))
            .setting("log_statement", "all")
            .setting("log_connections", "on")
            .setting("log_line_prefix", "%h %u %a: ")
            .hba("host all all 10.231.0.0/16 scram-sha-256");
        TestPostgres::start(options)
    }

    /// The namespace with its account, and services that lead to the database.
    fn furnish(&self) -> Result<()> {
        let named = |name: &str| json!({ "name": name, "namespace": SHOP });
        let service = |name: &str, address: &str| {
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": named(name),
                    "spec": { "clusterIP": address, "ports": [{ "port": 5432, "targetPort": 5432 }] } })
        };
        let endpoints = |name: &str, address: &str| {
            json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": named(name),
                    "subsets": [{ "addresses": [{ "ip": address }], "ports": [{ "port": 5432 }] }] })
        };
        self.cluster.apply(&[
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SHOP } }),
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": named("billing") }),
            service("orders", CLUSTER_IP),
            endpoints("orders", DATABASE[2]),
            service("orders-headless", "None"),
            endpoints("orders-headless", DATABASE[1]),
        ])
    }

    /// The agents' configuration, for the manifests' ConfigMaps and Secret or for the chart's values.
    pub(crate) fn config(&self) -> Value {
        let target = |name: &str, address: &str| {
            json!({ "name": name, "protocol": "postgres", "addresses": [address], "tags": { "env": "production" },
                    "upstream": { "tls": "disable",
                                  "credential": { "user": "app", "password": { "file": "secrets/orders-db" } } } })
        };
        json!({
            "node": { "restart_grace": "0s" },
            "govern": [{ "cgroup": "/kubepods" }],
            "targets": [
                target("orders-external", &format!("{}:5432", DATABASE[0])),
                target("orders-headless", "orders-headless.shop.svc.cluster.local:5432"),
                target("orders-service", "orders.shop.svc.cluster.local:5432"),
            ],
            "policies": ["policies/"],
            "store": "sled:/var/lib/lockgate",
            "webhooks": [{ "name": "approvals", "url": self.receiver.url(), "secret": { "file": "secrets/webhook" },
                           "decision_secret": { "file": "secrets/decisions" }, "speaks_for": ["dba"] }],
            "api": { "listen": "127.0.0.1:8420", "socket": "/run/lockgate/lockgate.sock", "local_approvers": { "0": ["dba"] } },
            "identity": { "kubernetes": { "bound_tokens": {} } },
        })
    }

    pub(crate) fn secret(&self) -> Value {
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "lockgate-secrets", "namespace": LOCKGATE },
                "stringData": { "orders-db": "app-secret\n", "webhook": SECRET, "decisions": DECISION_SECRET } })
    }

    /// A pod that waits to be told what to do.
    pub(crate) fn pod(&self, name: &str) -> Result<()> {
        self.pod_running(name, &["/bin/sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1; done"])
    }

    /// A pod that runs a command.
    pub(crate) fn pod_running(&self, name: &str, command: &[&str]) -> Result<()> {
        self.cluster.apply(&[json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": SHOP, "labels": { "app": "billing", "tier": name } },
            "spec": {
                "serviceAccountName": "billing",
                // As kubelets since 1.22 mount it by themselves.
                "automountServiceAccountToken": false,
                "volumes": [{ "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } }] } }], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "job", "image": "localhost/lockgate-test/job:1", "imagePullPolicy": "Never",
                                 "volumeMounts": [{ "name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true }],
                                 "command": command,
                                 "securityContext": { "runAsUser": 1001, "runAsGroup": 1001 },
                                 "env": [{ "name": "PGPASSWORD", "value": "of-no-use" }, { "name": "PGCONNECT_TIMEOUT", "value": "20" }] }],
            } })])
    }

    pub(crate) fn runs(&mut self, pod: &str) -> Result<()> {
        self.phase(pod, "Running")
    }

    pub(crate) fn phase(&mut self, pod: &str, phase: &str) -> Result<()> {
        let what = format!("pod {pod} is {phase}");
        self.cluster.wait(&what, |cluster| {
            Ok(cluster
                .json(&["--namespace", SHOP, "get", "pod", pod])
                .is_ok_and(|pod| pod["status"]["phase"] == phase))
        })
    }

    /// psql in a pod, begun.
    pub(crate) fn psql(&self, pod: &str, host: &str, statement: &str) -> Result<Running> {
        self.psql_to(pod, &format!("host={host} port=5432 user=job dbname=shop sslmode=prefer"), statement)
    }

    /// The same, with the whole connection.
    pub(crate) fn psql_to(&self, pod: &str, connection: &str, statement: &str) -> Result<Running> {
        let child = self
            .cluster
            .kubectl_command()
            .args([
                "--namespace",
                SHOP,
                "exec",
                pod,
                "--",
                "/usr/bin/psql",
                "-X",
                "-A",
                "-t",
                "-d",
                connection,
                "-c",
                statement,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl exec")?;
        Ok(Running(child))
    }

    /// A verb of lockgate's in the agent's pod.
    pub(crate) fn lockgate(&self, arguments: &[&str]) -> Result<String> {
        output(
            self.cluster
                .kubectl_command()
                .args(["--namespace", LOCKGATE, "exec", "daemonset/lockgate", "--", "/usr/bin/lockgate"])
                .args(arguments),
        )
    }

    /// helm, as whoever installs lockgate runs it.
    pub(crate) fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.cluster.place.helm);
        command
            .args(arguments)
            .args(["--namespace", LOCKGATE, "--kubeconfig"])
            .arg(self.cluster.path("kubeconfig"));
        for (name, directory) in [
            ("HELM_CACHE_HOME", "helm-cache"),
            ("HELM_CONFIG_HOME", "helm-config"),
            ("HELM_DATA_HOME", "helm-data"),
        ] {
            command.env(name, self.cluster.path(directory));
        }
        output(&mut command)
    }

    pub(crate) fn lockgate_json(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.lockgate(&[arguments, &["--output", "json"]].concat())?)?)
    }

    /// What the agent recorded, oldest first, from the node's disk.
    pub(crate) fn events(&self) -> Result<Vec<Value>> {
        let mut segments: Vec<_> = std::fs::read_dir("/var/lib/lockgate/segments")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
            .collect();
        segments.sort();
        let mut events = Vec::new();
        for segment in segments {
            events.extend(
                std::fs::read_to_string(segment)?.lines().filter_map(|line| serde_json::from_str(line).ok()),
            );
        }
        Ok(events)
    }

    /// Waits for a recorded event that fits: records follow answers by a moment.
    pub(crate) fn recorded(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(event) = self.events()?.into_iter().rev().find(|event| fits(event)) {
                return Ok(event);
            }
            ensure!(Instant::now() < until, "not recorded: {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The address that a pod has.
    pub(crate) fn address(&self, pod: &str) -> Result<String> {
        let pod = self.cluster.json(&["--namespace", SHOP, "get", "pod", pod])?;
        pod["status"]["podIP"].as_str().map(str::to_owned).context("no address")
    }

    /// Of the one agent.
    pub(crate) fn agent_pid(&self) -> Result<u32> {
        let mount = lockgate_tests::agent::cgroup_mount()?;
        let pids = std::fs::read_to_string(mount.join("lockgate/agent/cgroup.procs"))?;
        pids.lines().next().context("no agent runs")?.parse().context("a pid")
    }

    pub(crate) fn agent_is_ready(&mut self) -> Result<()> {
        self.cluster.wait("the agent is ready on every node", |cluster| {
            let Ok(set) = cluster.json(&["--namespace", LOCKGATE, "get", "daemonset", "lockgate"]) else {
                return Ok(false);
            };
            let status = &set["status"];
            Ok(status["observedGeneration"] == set["metadata"]["generation"]
                && status["updatedNumberScheduled"] == 1
                && status["numberReady"] == 1
                && status["desiredNumberScheduled"] == 1)
        })
    }

    /// For whoever looks at a failure.
    pub(crate) fn state(&self) -> String {
        let mut text = String::new();
        for arguments in [
            &["get", "pods", "-A", "-o", "wide"][..],
            &["get", "events", "-A"],
            &["--namespace", LOCKGATE, "logs", "daemonset/lockgate", "--tail=60"],
            &["--namespace", LOCKGATE, "logs", "daemonset/lockgate", "--tail=40", "--previous"],
        ] {
            let said = self.cluster.try_kubectl(arguments).unwrap_or_else(|error| format!("{error:#}"));
            text.push_str(&format!("── kubectl {}\n{said}\n", arguments.join(" ")));
        }
        for server in ["kubelet", "kube-proxy", "kube-controller-manager"] {
            text.push_str(&format!("── {server}\n{}\n", self.cluster.log(server, 12)));
        }
        text.push_str(&format!("node {NODE}\n"));
        text
    }
}

/// A command in a pod.
pub(crate) struct Running(Child);

/// How it ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn done(self) -> Result<Done> {
        let output = self.0.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Done {
            success: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }
}

/// The string at `key`, at any depth.
pub(crate) fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) => {
            object.get(key).or_else(|| object.values().find_map(|inner| find(inner, key)))
        }
        Value::Array(items) => items.iter().find_map(|inner| find(inner, key)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A command on the node.
pub(crate) fn on_the_node(program: &str, arguments: &[&str]) -> Result<String> {
    output(Command::new(program).args(arguments))
}
