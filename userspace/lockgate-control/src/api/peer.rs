//! Who is at the other end of the unix socket, by the kernel's word.

use super::problem::Problem;
use axum::{extract::FromRequestParts, http::request::Parts};
use std::time::Duration;

/// A login that is older is not fresh: whoever asks proves again who they are.
pub const FRESH_LOGIN: Duration = Duration::from_secs(15 * 60);

/// `SO_PEERCRED` of the connection; an extractor that refuses (403) what did not come by the unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    /// Process, when the kernel tells.
    pub pid: Option<i32>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Says of a process of this host whether a person has just logged in to it, and how that is known.
pub type Logins = fn(&PeerCred) -> Option<String>;

impl<S: Send + Sync> FromRequestParts<S> for PeerCred {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .copied()
            .ok_or_else(|| Problem::forbidden("this is answered on the agent's unix socket only"))
    }
}
