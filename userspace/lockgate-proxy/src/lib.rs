//! Data plane: accept, attribute, gate, relay, mask.
//!
//! A [`Proxy`] accepts connections that the kernel redirected, finds out whose they are and for which target, and speaks
//! the target's protocol on both legs. Each operation is decided and recorded before its first byte goes upstream; some
//! wait for people. What it needs of the outside (log, approvals, kernel, clock, policy) comes in as [`Ports`].
//!
//! It does not load policy, write the log, notify anybody or know how connections were redirected. The binary makes it,
//! gives it listeners and drains it.

pub mod caller;
pub mod catalogue;
pub mod credential;
pub mod limits;
pub mod metrics;
pub mod tls;
pub mod upstream;

mod accept;
mod cancel;
mod drain;
mod gate;
mod hold;
mod kill;
mod lanes;
mod ports;
mod protocol;
mod read;
mod report;
mod scram;
mod session;
mod settings;
mod target;
#[cfg(test)]
mod testing;

pub use lanes::{LaneThreads, Lanes, MAX_LANES};
pub use limits::Limits;
pub use ports::Ports;
pub use scram::{Verifier, VerifierError};
pub use settings::{DialFrom, HttpSettings, Injection, ProxySettings, TargetSettings};
pub use target::{TargetAddr, TargetTable, Told};

use arc_swap::ArcSwap;
use catalogue::Catalogues;
use drain::Drain;
use lockgate_model::{
    SessionId,
    id::{NodeName, TargetName},
};
use protocol::postgres::{Cancellations, PlanCache, ScriptCache};
use std::{io, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What all connections share.
pub(crate) struct Shared {
    node: NodeName,
    ports: Ports,
    limits: Limits,
    lanes: Lanes,
    targets: ArcSwap<TargetTable>,
    seats: Arc<Semaphore>,
    drain: Drain,
    catalogues: Catalogues,
    plans: Arc<PlanCache>,
    scripts: Arc<ScriptCache>,
    cancellations: Arc<Cancellations>,
    live: Arc<kill::Live>,
}

/// The data plane of one node.
#[derive(Clone)]
pub struct Proxy(Arc<Shared>);

impl Proxy {
    /// A proxy that has no listener yet and runs its connections where it was made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: ProxySettings, ports: Ports) -> Self {
        Self::on(Lanes::here(), settings, ports)
    }

    /// A proxy that has no listener yet and runs its connections on these threads.
    pub fn on(lanes: Lanes, settings: ProxySettings, ports: Ports) -> Self {
        let ProxySettings { node, targets, limits } = settings;
        Self(Arc::new(Shared {
            node,
            ports,
            limits,
            lanes,
            targets: ArcSwap::from_pointee(TargetTable::new(targets)),
            seats: Arc::new(Semaphore::new(limits.max_sessions)),
            drain: Drain::default(),
            catalogues: Catalogues::default(),
            plans: Arc::default(),
            scripts: Arc::default(),
            cancellations: Arc::default(),
            live: Arc::default(),
        }))
    }

    /// Accepts on a listener until `stop` is cancelled or the proxy drains. Call it once for each listener.
    ///
    /// # Errors
    /// When the listener cannot be used at all.
    pub async fn serve(&self, listener: std::net::TcpListener, stop: CancellationToken) -> io::Result<()> {
        accept::serve(self.0.clone(), listener, accept::Way::Captured, stop).await
    }

    /// The same for the explicit address of a target: whoever connects dialled it, and says who it is.
    ///
    /// # Errors
    /// When the listener cannot be used at all.
    pub async fn serve_explicit(
        &self,
        listener: std::net::TcpListener,
        target: TargetName,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let strangers = Arc::new(Semaphore::new(limits::STRANGERS));
        accept::serve(self.0.clone(), listener, accept::Way::Dialled(target, strangers), stop).await
    }

    /// Replaces the registered targets (names resolved anew). Open sessions keep the target they began with.
    pub fn replace_targets(&self, table: TargetTable) {
        self.0.targets.store(Arc::new(table));
    }

    /// Live connections.
    pub fn connections(&self) -> usize {
        self.0.drain.len()
    }

    /// Ends one session: its client gets the protocol's own last words with these in them, what it waits for is taken back,
    /// what runs on the target is cancelled. False when no such session is open. Returns at once; the closing record says
    /// [`lockgate_model::outcome::CloseReason::Killed`].
    pub fn kill(&self, session: SessionId, words: String) -> bool {
        self.0.live.kill(session, words)
    }

    /// Whether a session is open.
    pub fn is_open(&self, session: SessionId) -> bool {
        self.0.live.holds(session)
    }

    /// Ends in order: no new connections, idle sessions end now, busy ones when they become idle, all after `limit`.
    /// Returns when none is left.
    pub async fn drain(&self, limit: Duration) {
        self.0.drain.run(limit).await;
    }
}
