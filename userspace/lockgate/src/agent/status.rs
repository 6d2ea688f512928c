//! How the agent is doing, for the summary at start, `lockgate doctor` and `GET /v1/status`.

use super::{Agent, policy::PolicyStatus};
use crate::config::Address;
use lockgate_intercept::{Egress, Governed, GovernedSet};
use lockgate_model::{
    Timestamp,
    session::{DefaultEffect, Mode},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, sync::atomic::Ordering};

/// Everything that is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    version: &'static str,
    node: String,
    instance: String,
    pid: u32,
    started_at: Timestamp,
    config: String,
    /// The most that is done anywhere.
    mode: Mode,
    store: String,
    policy: PolicyStatus,
    governed: Vec<Value>,
    targets: Vec<TargetStatus>,
    listeners: Vec<SocketAddr>,
    api: Value,
    run: Value,
    hooks: Value,
    pending_approvals: usize,
    connections: usize,
    /// What becomes of the log besides being written.
    evidence: super::evidence::State,
    /// How it goes to the store that nodes share.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<lockgate_store::postgres::DrainStatus>,
}

#[derive(Debug, Serialize)]
struct TargetStatus {
    name: String,
    protocol: &'static str,
    mode: Mode,
    default: DefaultEffect,
    tags: BTreeMap<String, String>,
    addresses: Vec<String>,
    /// Where it is served to those who dial lockgate itself, not transparently.
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// What host names mean now.
    resolved: BTreeMap<String, Vec<std::net::IpAddr>>,
}

impl Agent {
    /// How it is doing now. Asks the kernel about each hook.
    pub(crate) fn status(&self) -> Status {
        let config = &self.config;
        let names = self.names();
        let health = self.interceptor.health();
        let counters = self.interceptor.counters();
        let listeners = self.interceptor.listeners().unwrap_or_default();
        let live = self.targets.live();
        let targets = live.configs.iter().map(|target| {
            let hosts = target.addresses.iter().filter_map(|address| match address {
                Address::Host { name, .. } => Some((name.clone(), names.addresses(name))),
                Address::Net { .. } => None,
            });
            TargetStatus {
                name: target.target.name.to_string(),
                protocol: target.target.protocol.as_str(),
                mode: target.target.mode,
                default: target.target.default,
                tags: target.target.tags.clone(),
                addresses: target.addresses.iter().map(ToString::to_string).collect(),
                listen: target.explicit.as_ref().map(|explicit| explicit.listen),
                resolved: hosts.collect(),
            }
        });
        Status {
            version: env!("CARGO_PKG_VERSION"),
            node: config.node.to_string(),
            instance: config.instance.as_str().to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            config: config.path.display().to_string(),
            mode: config.mode,
            store: config.store.dir.display().to_string(),
            policy: self.policy.status(),
            governed: config.governed.iter().map(governed).collect(),
            targets: targets.collect(),
            listeners: listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect(),
            api: json!({ "listen": self.listen, "public_url": config.api.public_url, "socket": config.api.socket }),
            run: json!({ "cgroup": config.run_cgroup, "allow_uids": config.run_uids }),
            hooks: json!({
                "pins": self.interceptor.pin_directory(),
                "adopted": self.interceptor.adopted(),
                "abilities": self.interceptor.abilities(),
                "whole": health.whole,
                "repinned": health.repinned,
                "detached": health.detached,
                "unknown": health.unknown,
                "redirected": counters.redirected,
                "attributed": counters.attributed,
                "unattributed": counters.unattributed,
                "layers": self.interceptor.layers().iter().map(|state| json!({
                    "layer": state.layer, "active": state.active, "detail": state.detail, "open": state.open,
                    "check": state.check(),
                })).collect::<Vec<_>>(),
                "bypassed": self.interceptor.bypassed(),
                "not_governed": self.not_governed.load(Ordering::Relaxed),
                "deaf": self.interceptor.deaf(),
                "unasked": counters.unasked,
                "events_lost": counters.events_lost,
                "unregistered": counters.unregistered,
                "namespaces": self.interceptor.namespaces(),
            }),
            pending_approvals: self.control.pending(),
            connections: self.proxy.connections(),
            evidence: self.evidence.state(),
            shared: self.drain.as_ref().map(super::shared::Sharing::status),
        }
    }
}

fn governed(entry: &GovernedSet) -> Value {
    let mut value = match &entry.who {
        Governed::Cgroup(path) => json!({ "cgroup": path }),
        Governed::Uid(uid) => json!({ "uid": uid }),
        Governed::Unit(pattern) => json!({ "systemd_unit": pattern }),
        Governed::UnitWithin { parent, pattern } => json!({ "systemd_unit": pattern, "within": parent }),
    };
    match entry.egress {
        Egress::Allow => {}
        Egress::Deny(_) => value["unregistered"] = json!("deny"),
        Egress::Observe => value["mode"] = json!("observe"),
    }
    value
}

impl Status {
    /// A few lines for whoever started the agent.
    pub(crate) fn summary(&self) -> String {
        let mut out = format!("lockgate {} on {} is ready\n", self.version, self.node);
        let mut put = |label: &str, value: &str| {
            let _ = writeln!(out, "  {label:<9}{value}");
        };
        let one = |entry: &Value| {
            let fields = entry.as_object().into_iter().flatten();
            fields
                .map(|(kind, value)| format!("{kind} {}", value.to_string().trim_matches('"')))
                .collect::<Vec<_>>()
                .join(" ")
        };
        put("governs", &self.governed.iter().map(one).collect::<Vec<_>>().join(", "));
        if self.targets.is_empty() {
            put("targets", "none: nothing is redirected; add `targets:` to the configuration");
        }
        for target in &self.targets {
            let mode = match target.mode {
                Mode::Observe => "observe: not redirected",
                Mode::Shadow => "shadow: nothing is refused or masked",
                Mode::Enforce => "enforce",
            };
            let listen = target
                .listen
                .map(|listen| format!("; callers at {listen}, not transparent"))
                .unwrap_or_default();
            put(
                "target",
                &format!(
                    "{} ({}, {mode}) at {}{listen}",
                    target.name,
                    target.protocol,
                    target.addresses.join(", ")
                ),
            );
        }
        put("policy", &format!("{} from {} files", self.policy.version, self.policy.files.len()));
        let socket = self.api["socket"].as_str().unwrap_or_default();
        match self.api["listen"].as_str() {
            Some(listen) => put("api", &format!("http://{listen} and {socket}")),
            None => put("api", socket),
        }
        put("store", &self.store);
        put("run", &format!("lockgate run --config {} -- COMMAND", self.config));
        out
    }
}
