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

/// Connections that were seen and not redirected, by `target` (empty: to none).
pub(super) const OBSERVED: &str = "lockgate_observed_connections_total";

/// Processes that asked to be governed and could not be, by `why`.
pub(super) const NOT_GOVERNED: &str = "lockgate_processes_not_governed_total";

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
    Ok(handle)
}
