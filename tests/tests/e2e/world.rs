//! What every test stands on: a shop's database, a receiver, an agent between them and the jobs.

use anyhow::{Result, ensure};
use lockgate_tests::{
    agent::{Agent, AgentOptions, target},
    job::{self, Done, JOB_UID, Running},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::Receiver,
};
use std::time::{Duration, Instant};

/// Reads, writes and transactions pass; schema changes wait; unbounded writes are refused; PII is masked.
pub(crate) const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: e2e }
groups:
  dba:    { oidc: "groups:dba" }
  oncall: { oidc: "groups:oncall" }
rules:
- id: everyday
  match: { target: { name: orders-db }, sql: { class: [read, session, transaction, write, copy_in, copy_out] } }
  effect: allow
- id: schema-change-dba
  description: Schema changes on production need a DBA
  match: { target: { tags: { env: production } }, sql: { class: ddl } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: dba }, need: 1 }]
    timeout: 25s
- id: no-unbounded-write
  match: { target: { tags: { env: production } }, sql: { kinds: [delete, update], bounded: false } }
  effect: deny
  final: true
  message: "an unbounded write on production is never right"
  remedy_url: https://wiki.example.com/unbounded
- id: short-fuse
  match: { target: { tags: { env: production } }, sql: { kinds: [truncate] } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: dba }, need: 1 }]
    timeout: 2s
- id: mask-pii
  match: { target: { tags: { pci: "true" } } }
  effect: none
  mask:
    columns:
    - { match: "*.*.ssn", method: redact }
    - { match: "*.*.card_number", method: partial, keep_last: 4 }
    on_unknown_lineage: redact
    in_predicate: deny
"#;

/// The raw values that may never reach a client or a record.
pub(crate) const SSN: &str = "123-45-6789";
pub(crate) const CARD: &str = "4111111111111111";

/// A shop's database behind lockgate.
pub(crate) struct World {
    // Fields drop in order: first the agent with its hooks, then the server.
    pub(crate) agent: Agent,
    pub(crate) receiver: Receiver,
    pub(crate) pg: TestPostgres,
}

impl World {
    pub(crate) async fn new() -> Result<Self> {
        Self::with(POLICY, |_, _| {}).await
    }

    /// With a policy and changed options.
    pub(crate) async fn with(
        policy: &str,
        change: impl FnOnce(&mut AgentOptions, &TestPostgres),
    ) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the end-to-end suite needs root: sudo -E cargo xtask e2e");
        let pg = database(PostgresOptions::new().auth(HostAuth::Scram).setting("log_statement", "all"))?;
        let receiver = Receiver::start().await?;
        let mut options = AgentOptions {
            run_uids: vec![JOB_UID, JOB_UID - 1],
            policy: policy.to_owned(),
            ..Default::default()
        }
        .webhook(&receiver, &["dba"]);
        let password = pg.socket_dir().join("app.password");
        std::fs::write(&password, "app-secret\n")?;
        options.targets =
            vec![target("orders-db", pg.port(), "app", &password, "env: production, pci: \"true\"")];
        change(&mut options, &pg);
        let agent = Agent::start(options).await?;
        Ok(Self { agent, receiver, pg })
    }

    /// A governed psql over IPv4 that runs these statements, started but not awaited.
    pub(crate) fn start(&self, statements: &[&str]) -> Result<Running> {
        let port = self.pg.port().to_string();
        job::start(job::governed(
            &self.agent,
            JOB_UID,
            &[],
            &job::psql("127.0.0.1", &port, "shop", statements),
        ))
    }

    /// The same, awaited.
    pub(crate) async fn psql(&self, statements: &[&str]) -> Result<Done> {
        self.start(statements)?.done().await
    }

    /// True when the target's own log (log_statement = all) shows this text.
    pub(crate) fn target_saw(&self, text: &str) -> Result<bool> {
        Ok(self.pg.log()?.contains(text))
    }

    /// Recorded events of one kind.
    pub(crate) fn events(&self, kind: &str) -> Result<Vec<serde_json::Value>> {
        Ok(self.agent.events()?.into_iter().filter(|event| has_kind(event, kind)).collect())
    }

    /// Waits until as many events of a kind are recorded.
    pub(crate) async fn recorded(&self, kind: &str, count: usize) -> Result<Vec<serde_json::Value>> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let events = self.events(kind)?;
            if events.len() >= count {
                return Ok(events);
            }
            ensure!(
                Instant::now() < until,
                "{count} × {kind} expected, recorded: {}",
                self.agent.log_text()?
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// True when a record, however it wraps its event, is of this kind.
pub(crate) fn has_kind(record: &serde_json::Value, kind: &str) -> bool {
    match record {
        serde_json::Value::Object(fields) => {
            fields.get("event").is_some_and(|event| event == kind)
                || fields.iter().any(|(name, value)| {
                    matches!(name.as_str(), "event" | "body" | "record") && has_kind(value, kind)
                })
        }
        _ => false,
    }
}

/// A server with the shop's tables and a role `app`.
pub(crate) fn database(options: PostgresOptions) -> Result<TestPostgres> {
    let pg = TestPostgres::start(options)?;
    pg.psql("CREATE ROLE app LOGIN PASSWORD 'app-secret'")?;
    pg.psql("CREATE DATABASE shop OWNER app")?;
    pg.psql_in(
        "shop",
        &format!(
            "SET ROLE app; \
             CREATE TABLE public.customers (id int PRIMARY KEY, name text, ssn text, card_number text); \
             CREATE TABLE public.orders (id int PRIMARY KEY, customer_id int, amount numeric, note text); \
             INSERT INTO public.customers VALUES (1, 'Ana', '{SSN}', '{CARD}'), (2, 'Bo', NULL, '5500000000000004'); \
             INSERT INTO public.orders VALUES (1, 1, 10.50, 'first'), (2, 2, 20, NULL)"
        ),
    )?;
    Ok(pg)
}
