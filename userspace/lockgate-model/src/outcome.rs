//! What became of a forwarded operation, and how a session ended.

use serde::{Deserialize, Serialize};

/// What the target answered to one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: OutcomeStatus,
    /// Rows that went to the client.
    pub rows: u64,
    /// Bytes of rows or copy data that went to the client.
    pub bytes_out: u64,
    /// Bytes of copy data that came from the client.
    pub bytes_in: u64,
    /// Fields whose value was masked.
    pub masked_fields: u64,
    /// From forward to the last byte of the answer, microseconds.
    pub elapsed_micros: u64,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum OutcomeStatus {
    /// Completed, with the server's command tag.
    Completed {
        /// `SELECT 3`
        tag: String,
    },
    /// The server refused it.
    Failed {
        /// The server's SQLSTATE.
        sqlstate: String,
    },
    /// The server answered with this HTTP status.
    Responded {
        /// `200`
        status: u16,
    },
    /// The portal was suspended at its row limit.
    Suspended,
    /// Skipped by the server because an earlier operation of the batch failed.
    Skipped,
    /// The connection ended before the answer.
    Broken,
}

/// How a session ended: exactly one a session, on every exit path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Why.
    pub reason: CloseReason,
    /// What happened, for people; never statement text or values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Operations asked for.
    pub operations: u64,
    /// Bytes from the client.
    pub bytes_from_client: u64,
    /// Bytes to the client.
    pub bytes_to_client: u64,
    /// Length, microseconds.
    pub elapsed_micros: u64,
}

/// Why a session ended; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The client said Terminate or closed its side.
    ClientClosed,
    /// The target closed its side.
    UpstreamClosed,
    /// The client broke the protocol.
    ClientProtocolError,
    /// The target broke the protocol.
    UpstreamProtocolError,
    /// The target could not be reached or refused lockgate.
    UpstreamUnavailable,
    /// Refused before it began (no target, TLS refused, unsupported startup).
    Refused,
    /// A bound was reached (idle handshake, buffer, slow reader).
    LimitReached,
    /// A CancelRequest connection: delivered or not, it ends.
    CancelRequest,
    /// lockgate drained.
    Drained,
    /// An administrator ended it.
    Killed,
    /// Written at start for a session a crash left open.
    Crash,
    /// Something lockgate did not foresee; a broken promise.
    Internal,
}

impl CloseReason {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::UpstreamClosed => "upstream_closed",
            Self::ClientProtocolError => "client_protocol_error",
            Self::UpstreamProtocolError => "upstream_protocol_error",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::Refused => "refused",
            Self::LimitReached => "limit_reached",
            Self::CancelRequest => "cancel_request",
            Self::Drained => "drained",
            Self::Killed => "killed",
            Self::Crash => "crash",
            Self::Internal => "internal",
        }
    }
}
