//! What the kernel side tells: into the record, into metrics, into readiness, and what is an alarm to every channel.
//!
//! Refusals, lost reports, hooks that somebody took away and connections that went past lockgate come as events; the
//! numbers are read. Decides nothing; which of them people hear of, and how often, the control plane knows.

use super::{Agent, telemetry};
use anyhow::Context as _;
use lockgate_intercept::{
    Bypass, CaptureEvent, Direction, Interceptor, LayerState, Refused, interface_number,
};
use lockgate_model::{
    Timestamp,
    event::{Event, EventKind},
    outcome::{CloseReason, Closing},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc::Receiver;

/// How often the numbers are read; a few system calls.
const NUMBERS_EVERY: Duration = Duration::from_secs(1);

/// Follows the kernel side for ever.
pub(super) async fn follow(agent: Arc<Agent>, mut events: Receiver<CaptureEvent>) {
    tell_layers(&agent.interceptor.layers());
    let mut numbers = tokio::time::interval(NUMBERS_EVERY);
    loop {
        tokio::select! {
            Some(event) = events.recv() => record(&agent, event),
            _ = numbers.tick() => read_numbers(&agent),
        }
    }
}

/// At start: exactly which layer is not in force, and what is open because of it.
fn tell_layers(layers: &[LayerState]) {
    for state in layers {
        let (layer, open) = (state.layer.as_str(), state.open.join("; "));
        match (state.active, state.open.is_empty()) {
            (true, _) => tracing::info!(layer, detail = state.detail, "capture layer in force"),
            (false, true) => {
                tracing::info!(layer, why = state.detail, "capture layer not in force; others cover it")
            }
            (false, false) => {
                tracing::warn!(layer, why = state.detail, open, "capture layer not in force: not stopped are")
            }
        }
    }
}

/// Puts the packet filter on the interfaces of the configuration; those that have it already keep it. Fails on the
/// first that cannot have it.
pub(super) fn guard(interceptor: &Interceptor, interfaces: &[String]) -> anyhow::Result<()> {
    for name in interfaces {
        let number = interface_number(name).with_context(|| format!("guard.interfaces: {name}"))?;
        interceptor.guard(number, Direction::Out).with_context(|| format!("guard.interfaces: {name}"))?;
    }
    Ok(())
}

/// At start: these interfaces, and none that an earlier configuration named.
pub(super) fn guard_only(interceptor: &Interceptor, interfaces: &[String]) -> anyhow::Result<()> {
    guard(interceptor, interfaces)?;
    let wanted: Vec<u32> = interfaces.iter().filter_map(|name| interface_number(name).ok()).collect();
    for (number, direction) in interceptor.guarded() {
        if direction == Direction::Out && !wanted.contains(&number) {
            interceptor.unguard(number, direction);
        }
    }
    Ok(())
}

fn record(agent: &Agent, event: CaptureEvent) {
    let kind = match event {
        CaptureEvent::Refused(refused) => flow_refused(&refused),
        CaptureEvent::More { count } => gap(
            "kernel_events",
            Some(count),
            "more was refused in the kernel than is told one by one".to_owned(),
        ),
        CaptureEvent::Lost { count } => {
            gap("kernel_events", Some(count), "reports of refusals in the kernel were lost".to_owned())
        }
        CaptureEvent::HookLost { what, repaired } => {
            if !repaired {
                agent.control.set_ready(false);
            }
            let after = if repaired { "it is back" } else { "governed connections may go by unseen" };
            tracing::error!(what, repaired, "a capture hook was taken away");
            gap("hook_lost", None, format!("{what} was taken away: {after}"))
        }
        CaptureEvent::HooksWhole => {
            agent.control.set_ready(true);
            tracing::error!("every capture hook is attached again");
            gap("hook_lost", None, "every hook is attached again".to_owned())
        }
        CaptureEvent::Bypass(Bypass { pid, destination, protocol, cut }) => {
            let after = if cut { "it was cut" } else { "it could not be cut" };
            tracing::error!(pid, %destination, protocol, cut, "a governed process held a connection past lockgate");
            let detail =
                format!("process {pid} held a {protocol} connection to {destination} past lockgate; {after}");
            gap("bypass", Some(1), detail)
        }
    };
    agent.alarms.submit(vec![Event { at: Timestamp::now(), session: None, kind }]);
}

fn gap(stage: &str, count: Option<u64>, detail: String) -> EventKind {
    EventKind::Gap { stage: stage.to_owned(), count, detail }
}

/// A connection that ended before it began.
fn flow_refused(refused: &Refused) -> EventKind {
    let Refused { reason, destination, protocol, pid, uid, cgroup_id, comm, count } = refused;
    let times = if *count == 1 { String::new() } else { format!(", {count} times") };
    let detail = format!(
        "refused in the kernel ({reason}): process {pid} ({comm}), uid {uid}, cgroup {cgroup_id}, to {destination}, \
         IP protocol {protocol}{times}"
    );
    let closing = Closing {
        reason: CloseReason::Refused,
        detail: Some(format!("kernel: {reason}")),
        operations: 0,
        bytes_from_client: 0,
        bytes_to_client: 0,
        elapsed_micros: 0,
    };
    EventKind::FlowRefused { detail, closing, flow: None, target: None }
}

fn read_numbers(agent: &Agent) {
    // An interface that was away and is back has another number.
    if let Err(error) = guard(&agent.interceptor, &agent.config.guarded) {
        tracing::warn!(error = format!("{error:#}"), "an interface is not guarded; trying on");
    }
    let health = agent.interceptor.health();
    let attached = u32::try_from(health.whole.saturating_add(health.belts)).unwrap_or(u32::MAX);
    metrics::gauge!(telemetry::HOOKS_ATTACHED).set(attached);
    for state in agent.interceptor.layers() {
        metrics::gauge!(telemetry::LAYER, "layer" => state.layer.as_str()).set(u32::from(state.active));
    }
    metrics::counter!(telemetry::BYPASSED).absolute(agent.interceptor.bypassed());
    metrics::counter!(telemetry::BYPASS).absolute(agent.interceptor.bypassed());
    let counters = agent.interceptor.counters();
    for (what, count) in [
        ("redirected", counters.redirected),
        ("attributed", counters.attributed),
        ("unattributed", counters.unattributed),
        ("stale", counters.stale),
        ("refused", counters.refused),
        ("unregistered", counters.unregistered),
        ("unasked", counters.unasked),
        ("lost", counters.flows_full.saturating_add(counters.events_lost)),
    ] {
        metrics::counter!(telemetry::KERNEL_EVENTS, "what" => what).absolute(count);
    }
}
