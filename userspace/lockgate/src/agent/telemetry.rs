//! What the agent says about itself: a log on standard error, metrics for Prometheus.

use clap::ValueEnum;
use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal as _;
use tracing_subscriber::{EnvFilter, fmt};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging. `filter` is in `tracing`'s syntax: `info`, `lockgate_proxy=debug,info`.
pub(crate) fn log(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        anyhow::anyhow!("--log {filter:?}: {error}; such as info or lockgate_proxy=debug,info")
    })?;
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

/// Capture hooks that are attached and pinned.
pub(super) const HOOKS_ATTACHED: &str = "lockgate_hooks_attached";
/// What the capture hooks counted, by `what`.
pub(super) const KERNEL_EVENTS: &str = "lockgate_kernel_events_total";

/// Whether a layer of the capture is in force, by `layer`.
pub(super) const LAYER: &str = "lockgate_capture_layer";
/// Connections of governed processes to protected addresses that did not pass lockgate.
pub(super) const BYPASSED: &str = "lockgate_bypassed_connections_total";

/// The same, as those name it who watch several gateways.
pub(super) const BYPASS: &str = "lockgate_bypass_connections_total";

/// Connections that were seen and not redirected, by `target` (empty: to none).
pub(super) const OBSERVED: &str = "lockgate_observed_connections_total";

/// Processes that asked to be governed and could not be, by `why`.
pub(super) const NOT_GOVERNED: &str = "lockgate_processes_not_governed_total";

/// Seconds since a signed head arrived off the host, by the number of the place in the configuration.
pub(super) const CHECKPOINT_AGE: &str = "lockgate_checkpoint_age_seconds";
/// Whether signed heads are late, by place.
pub(super) const CHECKPOINT_LATE: &str = "lockgate_checkpoint_late";
/// Recordings that were stored.
pub(super) const RECORDINGS_STORED: &str = "lockgate_recordings_stored_total";
/// Recordings that wait for their store.
pub(super) const RECORDINGS_WAITING: &str = "lockgate_recordings_waiting";
/// Whether sessions that must be recorded are refused.
pub(super) const RECORDINGS_BLOCKED: &str = "lockgate_recordings_blocked";
/// Whether the last run of retention failed.
pub(super) const RETENTION_FAILED: &str = "lockgate_retention_failed";
/// What is running, as labels.
pub(super) const BUILD_INFO: &str = "lockgate_build_info";

/// From a look-up in memory to a person who went to lunch.
const SECONDS: [f64; 14] =
    [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0];

/// Collects metrics from here on; the handle renders them.
pub(crate) fn metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .map_err(|error| anyhow::anyhow!("metrics cannot be collected: {error}"))?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|error| anyhow::anyhow!("metrics cannot be collected: {error}"))?;
    lockgate_proxy::metrics::describe();
    metrics::describe_gauge!(HOOKS_ATTACHED, Unit::Count, "Capture hooks that are attached and pinned.");
    metrics::describe_counter!(KERNEL_EVENTS, Unit::Count, "What the capture hooks counted, by what.");
    metrics::describe_gauge!(LAYER, Unit::Count, "Whether a layer of the capture is in force, by layer.");
    metrics::describe_counter!(
        BYPASSED,
        Unit::Count,
        "Connections of governed processes to protected addresses that did not pass lockgate; should be zero."
    );
    metrics::describe_counter!(BYPASS, Unit::Count, "The same as lockgate_bypassed_connections_total.");
    metrics::describe_counter!(
        OBSERVED,
        Unit::Count,
        "Connections of governed and observed processes that were seen and not redirected, by target; empty: to none."
    );
    metrics::describe_counter!(
        NOT_GOVERNED,
        Unit::Count,
        "Processes that asked to be governed and could not be (their command is then not run), by why."
    );
    lockgate_identity::describe_metrics();
    describe_evidence();
    begin_at_zero();
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
    Ok(handle)
}

/// A counter that nobody has counted on yet is no series: alerts about its growth would miss the first event.
fn begin_at_zero() {
    for counter in [RECORDINGS_STORED, BYPASSED, BYPASS, "lockgate_breakglass_total"] {
        metrics::counter!(counter).increment(0);
    }
    for gauge in [RECORDINGS_WAITING, RECORDINGS_BLOCKED, RETENTION_FAILED, "lockgate_approvals_pending"] {
        metrics::gauge!(gauge).set(0);
    }
    for stage in ["notify", "refused_decisions", "otlp"] {
        metrics::counter!("lockgate_events_dropped_total", "stage" => stage).increment(0);
    }
    metrics::counter!("lockgate_notifications_total", "outcome" => "delivered").increment(0);
}

fn describe_evidence() {
    metrics::describe_gauge!(BUILD_INFO, Unit::Count, "Always 1; what is running is in its labels.");
    let age =
        "Since a signed head arrived off the host, by the number of the place in evidence.checkpoints.to.";
    metrics::describe_gauge!(CHECKPOINT_AGE, Unit::Seconds, age);
    let late = "Whether signed heads do not arrive for longer than three times their schedule, by place.";
    metrics::describe_gauge!(CHECKPOINT_LATE, Unit::Count, late);
    metrics::describe_counter!(
        RECORDINGS_STORED,
        Unit::Count,
        "Recordings, or parts of them, that were stored."
    );
    metrics::describe_gauge!(
        RECORDINGS_WAITING,
        Unit::Count,
        "Sessions that have ended and whose recording waits."
    );
    let blocked = "Whether sessions that must be recorded are refused, because recordings cannot be stored.";
    metrics::describe_gauge!(RECORDINGS_BLOCKED, Unit::Count, blocked);
    metrics::describe_gauge!(RETENTION_FAILED, Unit::Count, "Whether the last run of retention failed.");
}
