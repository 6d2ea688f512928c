//! An origin behind lockgate, and who talks to it.

use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::{Agent, AgentOptions},
    job::{self, Done, JOB_UID, Running},
    origin::{Origin, Speaks},
    receiver::{Decision, Delivery, Receiver},
};
use std::time::{Duration, Instant};

/// Reads pass, changes of orders wait, deletions are refused, customers are masked.
pub(crate) const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: http }
groups: { sre: {} }
rules:
- id: read
  match: { target: { name: shop }, http: { class: read } }
  effect: allow
- id: sockets
  match: { target: { name: shop }, http: { class: upgrade, paths: "/socket" } }
  effect: allow
- id: echo
  match: { target: { name: shop }, http: { methods: POST, paths: ["/echo", "/grpc.Echo/*"] } }
  effect: allow
- id: change-order
  description: Changing an order needs an engineer
  match: { target: { name: shop }, http: { methods: [POST, PUT], paths: "/orders/{id}" } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: sre }, need: 1 }], timeout: 60s }
- id: small-scale
  match: { target: { name: shop }, http: { methods: PATCH, paths: "/scale", json: { "spec.replicas": ["0", "1", "2", "3"] } } }
  effect: allow
- id: no-delete
  match: { target: { name: shop }, http: { methods: DELETE } }
  effect: deny
  message: nothing is deleted here
  remedy_url: https://wiki.example.com/delete
- id: mask-customers
  match: { target: { name: shop }, http: { paths: ["/customers/{id}", "/packed/{id}", "/binary", "/events"] } }
  effect: none
  mask:
    json:
    - { path: "**.ssn", method: redact }
    - { path: "items.*.card", method: partial, keep_last: 4 }
    detectors: [email]
"#;

/// An origin behind lockgate.
pub(crate) struct World {
    // Fields drop in order: first the agent with its hooks, then the origin.
    pub(crate) agent: Agent,
    pub(crate) receiver: Receiver,
    pub(crate) origin: Origin,
}

impl World {
    pub(crate) async fn new(speaks: Speaks) -> Result<Self> {
        let origin = Origin::start(speaks, None).await?;
        let target = target("127.0.0.1", origin.port(), "", "tls: disable");
        Self::on(origin, POLICY, target, |_| Ok(())).await
    }

    pub(crate) async fn on(
        origin: Origin,
        policy: &str,
        target: String,
        prepare: impl FnOnce(&Agent) -> Result<()>,
    ) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the suite needs root: sudo -E cargo xtask e2e");
        let receiver = Receiver::start().await?;
        let options = AgentOptions {
            run_uids: vec![JOB_UID],
            policy: policy.to_owned(),
            targets: vec![target],
            ..Default::default()
        };
        let mut agent = Agent::prepare(&options.webhook(&receiver, &["sre"]))?;
        prepare(&agent)?;
        agent.launch().await?;
        Ok(Self { agent, receiver, origin })
    }

    /// The origin's address as clients know it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.origin.port())
    }

    /// A governed command.
    pub(crate) fn start(&self, command: &[&str]) -> Result<Running> {
        job::start(job::governed(&self.agent, JOB_UID, &[], command))
    }

    /// A governed curl; its output ends with the status.
    pub(crate) async fn curl(&self, arguments: &[&str]) -> Result<Done> {
        self.start_curl(arguments)?.done().await
    }

    pub(crate) fn start_curl(&self, arguments: &[&str]) -> Result<Running> {
        let mut command = vec!["curl", "-sS", "--noproxy", "*", "--max-time", "90", "-w", "\n%{http_code}"];
        command.extend(arguments);
        self.start(&command)
    }

    /// Sends raw bytes from a governed process, and gives what came back.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.raw_bytes(bytes).await?).into_owned())
    }

    /// The same, as bytes.
    pub(crate) async fn raw_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let client = lockgate_tests::agent::built_binary("lockgate-raw-client")?;
        let copy = self.agent.scratch().path().join("raw-client");
        if !copy.exists() {
            std::fs::hard_link(&client, &copy).or_else(|_| std::fs::copy(&client, &copy).map(drop))?;
        }
        let address = format!("127.0.0.1:{}", self.origin.port());
        let done = self.start(&[&copy.display().to_string(), &address, &hex::encode(bytes)])?.done().await?;
        ensure!(done.code == Some(0), "{done:?}");
        Ok(hex::decode(done.stdout.trim())?)
    }

    /// Waits for the request for approval of what contains this.
    pub(crate) async fn asked(&self, text: &str) -> Result<Delivery> {
        self.receiver
            .wait_for(Duration::from_secs(60), |delivery| {
                delivery.kind() == "lockgate.approval.requested" && delivery.data().to_string().contains(text)
            })
            .await
    }

    /// Somebody decides.
    pub(crate) async fn decide(&self, request: &Delivery, decision: &str) -> Result<()> {
        let (status, answer) = Decision::on(request, decision, "oidc:alice", &["sre"]).send().await?;
        ensure!((200..300).contains(&status), "the decision was answered with {status}: {answer}");
        Ok(())
    }

    /// Waits until a record fits.
    pub(crate) async fn recorded(&self, what: &str, fits: impl Fn(&str) -> bool) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.agent.events()?.iter().map(ToString::to_string).find(|event| fits(event));
            match found {
                Some(event) => return Ok(event),
                None if Instant::now() > until => {
                    return Err(anyhow::anyhow!("{}", self.agent.log_text()?)).context(what.to_owned());
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// A `targets:` item; `more` stands at its level, `upstream` in its `upstream:`.
pub(crate) fn target(host: &str, port: u16, more: &str, upstream: &str) -> String {
    format!(
        "- name: shop\n  protocol: http\n  addresses: [\"{host}:{port}\"]\n  tags: {{ env: production }}\n{more}  \
         upstream: {{ {upstream} }}\n"
    )
}

/// Body and status of a curl.
pub(crate) fn parts(done: &Done) -> (&str, &str) {
    done.stdout.rsplit_once('\n').unwrap_or((&done.stdout, ""))
}
