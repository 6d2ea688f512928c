//! What is counted here.

use metrics::Unit;

/// What was asked about and not confirmed, by `what`.
pub(crate) const UNCONFIRMED: &str = "lockgate_identity_unconfirmed_total";
/// Rounds of listing and watching that failed.
pub(crate) const WATCH_FAILURES: &str = "lockgate_kubernetes_watch_failures_total";
/// Pods of this node that are known.
pub(crate) const PODS: &str = "lockgate_kubernetes_pods";

/// Describes them to whoever collects; once.
pub fn describe_metrics() {
    metrics::describe_counter!(
        UNCONFIRMED,
        Unit::Count,
        "Pods, pods' tokens and CI jobs that were asked about and not confirmed, by what."
    );
    metrics::describe_counter!(
        WATCH_FAILURES,
        Unit::Count,
        "Failures to list or watch this node's pods at the API server."
    );
    metrics::describe_gauge!(PODS, Unit::Count, "Pods of this node that are known.");
}

/// Counts one.
pub(crate) fn unconfirmed(what: &'static str) {
    metrics::counter!(UNCONFIRMED, "what" => what).increment(1);
}
