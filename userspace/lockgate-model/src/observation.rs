//! Who talked to what without being redirected: what `observe` records, added up over a period.

use crate::{id::TargetName, principal::Principal, time::Timestamp, workload::Workload};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What one identity did with one destination during one period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Who, in one line.
    pub principal: Principal,
    /// The first process of that identity that was seen going there in the period.
    pub workload: Workload,
    /// Where to.
    pub destination: SocketAddr,
    /// `tcp`, `udp`, or the number of another IP protocol.
    pub protocol: String,
    /// The configured target that this destination belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// The host name that leads there, when a target is given by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Connections begun, and datagrams sent without one.
    pub connections: u64,
    /// Bytes that were sent by TCP connections that ended in the period.
    pub bytes_sent: u64,
    /// Bytes that they received.
    pub bytes_received: u64,
    /// Different processes.
    pub processes: u64,
    /// When the period began.
    pub since: Timestamp,
    /// When it ended.
    pub until: Timestamp,
}
