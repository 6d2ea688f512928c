//! Coverage as a number: what should be zero or empty when all that governed processes do passes lockgate.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How much passed lockgate, and what did not. Counts are those of one agent, from its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// When the agent started.
    pub since: Timestamp,
    /// Connections that were redirected to lockgate.
    pub redirected: u64,
    /// Connections of governed processes to protected addresses that did not pass lockgate. Should be zero.
    pub bypassed: u64,
    /// Processes that asked to be governed and could not be; their command was not run. Should be zero.
    pub not_governed: u64,
    /// Refusals in the kernel that are in no record, since nobody could read them in time. Should be zero.
    pub untold: u64,
    /// Hooks and filters that are attached.
    pub hooks: u64,
    /// Hooks that are not. Should be empty.
    pub hooks_lost: Vec<String>,
    /// Layers of the capture that are not in force although something is open without them, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers_missing: Vec<String>,
    /// Why answers of name servers to governed processes are not heard, when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deaf: Option<String>,
}

impl Coverage {
    /// Whether something that should be zero or empty is not.
    pub fn has_holes(&self) -> bool {
        self.bypassed > 0 || self.not_governed > 0 || self.untold > 0 || !self.hooks_lost.is_empty()
    }

    /// Whether the same is missing: all but what merely grows or varies while everything is well.
    pub fn same_holes(&self, other: &Self) -> bool {
        let holes = |of: &Self| {
            let lists = (of.hooks_lost.clone(), of.layers_missing.clone(), of.deaf.clone());
            (of.bypassed, of.not_governed, of.untold, lists)
        };
        holes(self) == holes(other)
    }
}
