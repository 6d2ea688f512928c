//! Names of the data plane's metrics, and what they mean. Labels have few values: a target's name, an effect, a reason.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Connections that are open, sessions or not yet.
pub const FLOWS_OPEN: &str = "lockgate_flows_open";
/// Connections that ended, by `reason`.
pub const FLOWS_CLOSED: &str = "lockgate_flows_closed_total";
/// Operations that policy decided, by `target` and `effect`.
pub const OPERATIONS: &str = "lockgate_operations_total";
/// The same, by protocol and effect.
pub const DECISIONS: &str = "lockgate_decisions_total";
/// Operations that were refused, by `target` and `cause`.
pub const DENIALS: &str = "lockgate_denials_total";
/// Operations that wait for people.
pub const HELD: &str = "lockgate_operations_held";
/// How long operations waited for people.
pub const HOLD_SECONDS: &str = "lockgate_hold_seconds";
/// From a decided batch to its record at rest: what recording costs a client.
pub const RECORD_SECONDS: &str = "lockgate_record_seconds";

/// Tells the recorder that is installed what the metrics mean. Called once by the binary.
pub fn describe() {
    describe_gauge!(FLOWS_OPEN, Unit::Count, "Connections that are open, sessions or not yet.");
    describe_counter!(FLOWS_CLOSED, Unit::Count, "Connections that ended, by reason.");
    describe_counter!(OPERATIONS, Unit::Count, "Operations that policy decided, by target and effect.");
    describe_counter!(DECISIONS, Unit::Count, "Operations that policy decided, by protocol and effect.");
    describe_counter!(DENIALS, Unit::Count, "Operations that were refused, by target and cause.");
    describe_gauge!(HELD, Unit::Count, "Operations that wait for people.");
    describe_histogram!(HOLD_SECONDS, Unit::Seconds, "How long operations waited for people.");
    describe_histogram!(RECORD_SECONDS, Unit::Seconds, "From a decided batch to its record at rest.");
}
