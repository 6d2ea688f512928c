//! Who is at the other end of the unix socket, by the kernel's word.

use super::problem::Problem;
use axum::{extract::FromRequestParts, http::request::Parts};

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
