//! Who asks over HTTP and what they may: people who log in, tokens of programs, users of this host.
//!
//! [`Caller`] is the answer, the same on the unix socket and on TCP; [`Control::authenticated`] is the layer that finds it. It
//! deliberately does not decide who may vote on what: the approval machine does, with the groups that are found here.

pub mod caller;
mod gate;

pub use caller::{Caller, Role};

use crate::Control;
use axum::{Router, middleware};

impl Control {
    /// Puts the layer around a router that finds out who asks, for handlers to take as [`Caller`]: by the unix socket's
    /// peer, an API token or a login's cookie. Apply it outermost, after every route has been merged.
    pub fn authenticated(&self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.desk.clone(), gate::resolve))
    }
}
