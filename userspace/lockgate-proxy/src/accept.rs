//! The accept loop: every connection gets a task, a closing record and a reason, or a session.
//!
//! It asks the kernel whose connection it is, matches the destination to a target and hands over to the protocol. It reads
//! no byte of the client itself.

use crate::{
    Shared, caller,
    lanes::seated,
    limits::STRANGERS,
    protocol::{self, Arrival},
    report::{Ending, FlowReport},
    settings::TargetSettings,
};
use lockgate_model::{addr::ClientAddr, flow::Flow, id::TargetName, outcome::CloseReason, session::Protocol};
use socket2::{SockRef, TcpKeepalive};
use std::{io, net::SocketAddr, os::fd::AsFd, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// After a failed accept (no descriptors left), how long to wait before the next: sessions end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a redirected connection waits for the table of targets to know its destination.
const TABLE_FOLLOWS_WITHIN: Duration = Duration::from_secs(1);
/// How often it looks.
const TABLE_POLL: Duration = Duration::from_millis(10);
/// A client that vanished without a word is found out after a minute or two.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How connections come to a listener.
#[derive(Clone)]
pub(crate) enum Way {
    /// Redirected by the kernel.
    Captured,
    /// Dialled, for this target; so many at a time whose caller is not known yet.
    Dialled(TargetName, Arc<Semaphore>),
}

/// Accepts until told to stop.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    way: Way,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = shared.drain.draining.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => deal(&shared, stream, peer, &way),
            // Shut down by whoever opened it (accept(2)): nothing arrives here any more, and holding it would keep its
            // network namespace alive.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Gives a connection to a lane.
fn deal(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, way: &Way) {
    let Some((lane, seat, here)) = shared.lanes.deal() else { return };
    let accepted = if here { Ok(Accepted::Here(stream)) } else { stream.into_std().map(Accepted::Elsewhere) };
    // Boxed: every future that wraps another holds it twice, and is moved on the way to the lane.
    let connection = Box::pin(connection(shared.clone(), accepted, peer, way.clone()));
    shared.drain.spawn(&lane, seated(seat, connection));
}

/// An accepted connection, registered with the reactor of the lane that it runs on, or not yet.
enum Accepted {
    Here(TcpStream),
    Elsewhere(std::net::TcpStream),
}

impl Accepted {
    fn register(self) -> io::Result<TcpStream> {
        match self {
            Self::Here(stream) => Ok(stream),
            Self::Elsewhere(stream) => TcpStream::from_std(stream),
        }
    }
}

/// One connection from accept to its closing record.
async fn connection(shared: Arc<Shared>, accepted: io::Result<Accepted>, peer: SocketAddr, way: Way) {
    let mut report = FlowReport::new(shared.ports.recorder.clone(), shared.ports.ambient.clone());
    let stream = match accepted.and_then(Accepted::register) {
        Ok(stream) => stream,
        Err(error) => {
            let detail = format!("the connection cannot be registered: {error}");
            report.end(Ending::because(CloseReason::Internal, detail));
            return;
        }
    };
    let arrived = match way {
        Way::Captured => arrive(&shared, &stream, ClientAddr(peer), &mut report).await,
        Way::Dialled(target, strangers) => {
            dialled(&shared, ClientAddr(peer), &target, strangers, &mut report)
        }
    };
    let arrival = match arrived {
        Ok(arrival) => arrival,
        Err(ending) => {
            // A reset, not an orderly end: whoever dialled the proxy itself learns nothing.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            report.end(ending);
            return;
        }
    };
    let Ok(_seat) = shared.seats.clone().try_acquire_owned() else {
        let detail = format!("{} sessions are open, more are not allowed", shared.limits.max_sessions);
        report.end(Ending::because(CloseReason::LimitReached, detail));
        return;
    };
    if let Err(error) = tune(&stream) {
        report.end(Ending::because(CloseReason::ClientClosed, error.to_string()));
        return;
    }
    match arrival.target.target.protocol {
        Protocol::Postgres => protocol::postgres::serve(shared, stream, arrival, report).await,
        Protocol::Http => protocol::http::serve(shared, stream, arrival, report).await,
    }
}

/// Whose connection it is, and where it wanted to go.
async fn arrive(
    shared: &Arc<Shared>,
    stream: &TcpStream,
    client: ClientAddr,
    report: &mut FlowReport,
) -> Result<Arrival, Ending> {
    let refused = |detail: String| Ending::because(CloseReason::Refused, detail);
    let attributor = &shared.ports.attributor;
    let flow = attributor.flow(stream.as_fd(), client).map_err(|error| refused(error.to_string()))?;
    report.flow_known(&flow);
    let unknown = || refused(format!("{} is not a registered target", flow.original_dst));
    let target = target(shared, &flow).await.ok_or_else(unknown)?;
    report.target_known(&target.target.name);
    Ok(Arrival { flow, target, stranger: None })
}

/// Somebody dialled lockgate itself; who, the protocol asks.
fn dialled(
    shared: &Shared,
    client: ClientAddr,
    target: &TargetName,
    strangers: Arc<Semaphore>,
    report: &mut FlowReport,
) -> Result<Arrival, Ending> {
    let refused = |detail: &str| Ending::because(CloseReason::Refused, detail);
    let found = shared.targets.load().iter().find(|candidate| candidate.target.name == *target).cloned();
    let target = found.ok_or_else(|| refused("the target is not registered any more"))?;
    let explicit =
        target.explicit.as_ref().ok_or_else(|| refused("the target is not served in explicit mode"))?;
    let flow = caller::flow(client, explicit.listen);
    report.flow_known(&flow);
    report.target_known(&target.target.name);
    let stranger = strangers.try_acquire_owned().map_err(|_| {
        let detail = format!("{STRANGERS} connections are open whose callers are not known yet");
        Ending::because(CloseReason::LimitReached, detail)
    })?;
    Ok(Arrival { flow, target, stranger: Some(stranger) })
}

/// The kernel may have redirected to an address that it has just seen a client being told for a target's name: the table
/// follows in a moment.
async fn target(shared: &Shared, flow: &Flow) -> Option<Arc<TargetSettings>> {
    let mut waited = Duration::ZERO;
    loop {
        let found = shared.targets.load().lookup(flow.original_dst, flow.process.cgroup_id);
        if found.is_some() || waited >= TABLE_FOLLOWS_WITHIN {
            return found;
        }
        tokio::time::sleep(TABLE_POLL).await;
        waited += TABLE_POLL;
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}
