//! PostgreSQL: from the first byte of a client to the end of its session.
//!
//! ```text
//! startup ─ greets the client ─▶ serve ─ records the session, logs in on the target ─▶ engine
//!   engine: simple, extended, copy (what the client asks)  judge (may it pass?)  respond (what the target answers)
//! ```

mod batch;
mod caps;
mod client_auth;
mod copy;
mod copy_out;
mod engine;
mod explicit;
mod extended;
mod flight;
mod follow;
mod function_call;
mod judge;
mod known;
mod leg;
mod masks;
mod operation;
mod prepared;
mod replication;
mod respond;
mod scripts;
mod simple;
mod startup;
mod stream;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use known::Known;
pub(crate) use masks::PlanCache;
pub(crate) use scripts::ScriptCache;

use super::Arrival;
use crate::{
    Shared,
    cancel::{CancelRegistry, Delivery, Registration, SecretSize},
    catalogue::{Catalogue, Routine},
    gate::Gate,
    kill::Seat,
    limits::{CANCEL_TIME, FAREWELL_TIME},
    report::{Ending, FlowReport},
    scram::Offer,
    session::{self, Opening},
    settings::{DialFrom, TargetSettings},
    target::TargetAddr,
    upstream::{self, Account, Connected, Credential, Endpoint, Origin, SessionRequest, UpstreamError},
};
use engine::{Engine, Parts};
use leg::Leg;
use lockgate_inspect::sql::{SessionState, catalogue::CatalogueSnapshot};
use lockgate_model::{
    addr::{OriginalDst, UpstreamAddr},
    flow::{Capture, Flow},
    outcome::CloseReason,
    port::BoxFuture,
    principal::Principal,
    session::{ClientClaims, Session},
    workload::Workload,
};
use lockgate_wire::postgres::{
    PgString,
    backend::{Authentication, Backend, BackendKeyData, NegotiateProtocolVersion, sqlstate},
    startup::{CancelRequest, ProtocolVersion, StartupMessage},
};
use masks::{CatalogueSource, Masks};
use scripts::Scripts;
use startup::{Greeted, Opened, Wishes};
use std::{net::SocketAddr, sync::Arc};
use stream::ClientStream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
    task::JoinError,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// How a session's real cancellation is reached.
#[derive(Clone)]
pub(crate) struct CancelTarget {
    endpoint: Endpoint,
    key: Option<BackendKeyData>,
}

#[cfg(test)]
impl CancelTarget {
    /// Of a scripted server, which gave no key.
    pub(crate) fn scripted() -> Self {
        Self { key: None, ..Self::scripted_at(([127, 0, 0, 1], 1).into()) }
    }

    /// Of a scripted server that takes cancellations here.
    pub(crate) fn scripted_at(addr: std::net::SocketAddr) -> Self {
        let endpoint = Endpoint::new(UpstreamAddr(addr), "localhost", crate::tls::UpstreamTls::disable());
        let key = BackendKeyData { process_id: 1, key: vec![0; 4].into() };
        Self { endpoint, key: Some(key) }
    }
}

/// Keys of all PostgreSQL sessions.
pub(crate) type Cancellations = CancelRegistry<Arc<CancelTarget>>;

/// Serves one connection to its end.
pub(crate) async fn serve<S>(shared: Arc<Shared>, stream: S, arrival: Arrival, mut report: FlowReport)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Arrival { flow, target, stranger } = arrival;
    if flow.capture == Capture::Explicit {
        return serve_explicit(shared, stream, (flow, target, stranger), report).await;
    }
    // The process may exit at any moment: it is looked at while the client is still saying hello.
    let workload = AbortOnDropHandle::new(tokio::spawn(identify(shared.clone(), flow.clone())));
    let dialled = flow.original_dst.addr().ip();
    // What opening needs is given back before the session runs, for hours perhaps: each part has an allocation of its own.
    let greeting = Box::pin(startup::greet(stream, target.client_tls.as_ref(), dialled, &shared.limits));
    match greeting.await {
        Err(ending) => report.end(ending),
        Ok(Opened::Cancel(request)) => {
            let ending = cancel(&shared, &request).await;
            report.end(ending);
        }
        Ok(Opened::Session(greeted)) => {
            let workload = match workload.await {
                Ok(Ok(workload)) => workload,
                Ok(Err(error)) | Err(error) => {
                    report
                        .end(Ending::because(CloseReason::Internal, format!("attribution failed: {error}")));
                    return;
                }
            };
            let opening = Box::pin(open(shared, (flow, target), (workload, None), *greeted, report));
            run(opening.await).await;
        }
    }
}

/// A session to its end, if there is one.
async fn run<C: AsyncRead + AsyncWrite + Unpin + Send>(running: Option<Running<C>>) {
    if let Some(Running { engine, registration, account: _account, seat }) = running {
        seat.until_abandoned(engine.run()).await;
        drop(registration);
    }
}

/// The same for somebody who dialled lockgate itself.
async fn serve_explicit<S>(
    shared: Arc<Shared>,
    stream: S,
    (flow, target, stranger): (Flow, Arc<TargetSettings>, Option<OwnedSemaphorePermit>),
    mut report: FlowReport,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(explicit) = target.explicit.clone() else {
        return report
            .end(Ending::because(CloseReason::Refused, "the target is not served in explicit mode"));
    };
    let dialled = explicit.listen.ip();
    let greeting = Box::pin(startup::greet(stream, explicit.tls.as_ref(), dialled, &shared.limits));
    let mut greeted = match greeting.await {
        Err(ending) => return report.end(ending),
        Ok(Opened::Cancel(request)) => {
            let ending = cancel(&shared, &request).await;
            return report.end(ending);
        }
        Ok(Opened::Session(greeted)) => greeted,
    };
    negotiate(&greeted.startup, greeted.leg.output.tail());
    let now = || shared.ports.ambient.now();
    let name = &target.target.name;
    let identified =
        explicit::identify(&mut greeted, &explicit, name, flow.client, now, &shared.limits).await;
    let caller = match identified {
        Ok(caller) => caller,
        Err(error) => {
            tracing::info!(client = %flow.client.0, target = %name, %error, "a caller is not let in");
            let (code, text) = error.client_text();
            turn_away(&mut greeted.leg, code, &text).await;
            let detail = format!("not transparent: {error}");
            return report.end(Ending::because(CloseReason::Refused, detail));
        }
    };
    drop(stranger);
    let (workload, principal) = (caller.workload(&flow), caller.principal());
    let opening = Box::pin(open(shared, (flow, target), (workload, Some(principal)), *greeted, report));
    run(opening.await).await;
}

/// Who it is: read off the host, then asked of whoever can confirm it.
pub(super) async fn identify(shared: Arc<Shared>, flow: Flow) -> Result<Workload, JoinError> {
    let attributor = shared.ports.attributor.clone();
    let asked = flow.clone();
    let workload = tokio::task::spawn_blocking(move || attributor.attribute(&asked)).await?;
    match &shared.ports.confirmer {
        Some(confirmer) => Ok(confirmer.confirm(&flow, workload).await),
        None => Ok(workload),
    }
}

/// A session that is open.
struct Running<C> {
    engine: Box<Engine<C>>,
    /// Its key of cancellation.
    registration: Registration<Arc<CancelTarget>>,
    /// By which it can be ended alone.
    seat: Seat,
    /// The account lives as long as the session: a vault takes it back afterwards.
    account: Account,
}

/// Opens the session on the target. None when there is none; everybody has been told why.
async fn open<S>(
    shared: Arc<Shared>,
    (flow, target): (Flow, Arc<TargetSettings>),
    (workload, caller): (Workload, Option<Principal>),
    greeted: Greeted<S>,
    mut report: FlowReport,
) -> Option<Running<ClientStream<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Greeted { mut leg, mut client_leg, startup, tls, binding } = greeted;
    let explicit = flow.capture == Capture::Explicit;
    let destination = flow.original_dst;
    let wishes = match Wishes::of(&startup) {
        Ok(wishes) => wishes,
        Err(unwelcome) => {
            turn_away(&mut leg, unwelcome.code, &unwelcome.text).await;
            report.end(Ending::because(CloseReason::Refused, unwelcome.text));
            return None;
        }
    };
    let claimed = |name: &str| wishes.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let mut session = session::open(
        Opening {
            node: shared.node.clone(),
            flow,
            workload,
            caller,
            target: target.target.clone(),
            client: ClientClaims {
                user: wishes.user.clone(),
                database: wishes.database.clone(),
                application_name: claimed("application_name"),
            },
            upstream_user: target.credential.user().to_owned(),
            client_tls: tls,
        },
        &*shared.ports.ambient,
    );
    // Only a vault is asked before the record: it makes the name that the record has to have.
    let account = account(&shared, &target, &mut session).await;
    let session = Arc::new(session);
    let masked = shared.ports.policy.load().masks_for(&session).is_some();
    if let Err(error) = report.session_started(&session, masked).await {
        tracing::error!(%error, "a connection is refused, its record failed");
        let text = "lockgate: the session cannot be recorded, so it is refused";
        turn_away(&mut leg, sqlstate::IO_ERROR, text).await;
        report.end(Ending::because(CloseReason::Refused, error.to_string()));
        return None;
    }
    tracing::info!(session = %session.id, principal = %session.principal.id, target = %session.target.name, "session started");
    if !explicit {
        negotiate(&startup, leg.output.tail());
    }
    if let Some(verifier) = target.client_verifiers.get(&wishes.user).filter(|_| !explicit) {
        let offer = Offer { binding };
        let proved = client_auth::prove(&mut leg, &mut client_leg, verifier, &offer, &shared.limits).await;
        if let Err(error) = proved {
            tracing::info!(session = %session.id, %error, "a client is not let in");
            let (code, text) = error.client_text(&wishes.user);
            turn_away(&mut leg, code, &text).await;
            report.end(Ending::because(CloseReason::Refused, error.to_string()));
            return None;
        }
    }
    let mut gate = Gate::new(session.clone(), shared.ports.clone());
    if let Some(value) = wishes.replication
        && let Err(denied) = replication::admit(&mut gate, &wishes.database, value).await
    {
        let denied = denied.into_fatal();
        report.end(Ending::because(CloseReason::Refused, denied.message().into_owned()));
        words::say(leg.output.tail(), &Backend::ErrorResponse(denied));
        leg.farewell(FAREWELL_TIME).await;
        return None;
    }
    let origin = origin(&target, &session.flow, &shared);
    let endpoint = endpoint(&target, destination).from(origin);
    let connected = match account {
        Ok(account) => dial(&endpoint, &account, &target, &wishes, &session, &shared).await,
        Err(error) => Err(unavailable(&error, &target)),
    };
    let (connected, credential, account) = match connected {
        Ok(connected) => connected,
        Err((code, text, ending)) => {
            turn_away(&mut leg, code, &text).await;
            report.end(ending);
            return None;
        }
    };
    let Connected { upstream, reader, parameters, key, notices, status, encrypted: _ } = connected;
    let process_id = key.as_ref().map(|key| key.process_id);
    let cancel = Arc::new(CancelTarget { endpoint: endpoint.clone(), key });
    let cancel_target = cancel.clone();
    let size = match spoken(&startup) {
        ProtocolVersion::V3_2 => SecretSize::Long,
        _ => SecretSize::Short,
    };
    let stopping = cancel.clone();
    let registration = shared.cancellations.register(&*shared.ports.ambient, process_id, size, cancel);
    let seat = shared.live.seat(session.id, &shared.drain.deadline, move || stop(stopping.clone()));

    let mut state = SessionState::from_startup(&wishes.parameters);
    let out = leg.output.tail();
    words::say(out, &Backend::Authentication(Authentication::Ok));
    for (name, value) in parameters {
        if let (Ok(name), Ok(value)) = (name.to_str("a parameter"), value.to_str("a parameter")) {
            state.parameter_status(name, value);
        }
        words::say(out, &Backend::ParameterStatus { name, value });
    }
    let mine =
        BackendKeyData { process_id: registration.key.process_id, key: registration.key.secret.clone() };
    words::say(out, &Backend::BackendKeyData(mine));
    for notice in notices {
        words::say(out, &Backend::NoticeResponse(notice));
    }
    if explicit {
        words::say(out, &words::notice(NOT_TRANSPARENT));
    }
    words::ready(out, status);
    client_leg.handle_opened();

    let database = PgString::lossy(&wishes.database);
    let catalogue = shared.catalogues.of(target.target.name.as_str(), &endpoint, &credential, &database);
    let engine = Box::new(Engine::new(Parts {
        client: leg,
        client_leg,
        upstream,
        reader,
        status,
        gate,
        replicates: wishes.replication.is_some(),
        scripts: Scripts::on(shared.scripts.clone()),
        state,
        database: wishes.database,
        masks: Masks::new(Arc::new(SideConnection(catalogue)), shared.plans.clone()),
        cancel: registration.signal.clone(),
        cancel_target,
        drain: shared.drain.of(seat.kill()),
        limits: shared.limits,
        report,
    }));
    Some(Running { engine, registration, account, seat })
}

/// What a client that dialled lockgate itself is told.
const NOT_TRANSPARENT: &str =
    "lockgate: this session is not transparent: it was not captured, its caller dialled lockgate";

/// Why there is no session on the target: SQLSTATE and text for the client, and how the session ends.
type Away = (&'static str, String, Ending);

/// Whom the session logs in as: the target's role or the one that policy names. The record gets its name.
async fn account(
    shared: &Shared,
    target: &TargetSettings,
    session: &mut Session,
) -> Result<(Credential, Account), UpstreamError> {
    let policy = shared.ports.policy.load();
    let credential = match policy.login_as(session)? {
        None => target.credential.clone(),
        Some(role) => target.credential.for_role(role)?,
    };
    session.upstream_user = credential.user().to_owned();
    let limit = shared.limits.open_time;
    let account = match timeout(limit, credential.account()).await {
        Ok(account) => account?,
        Err(_) => {
            return Err(UpstreamError::LoginSlow { step: "nothing yet, its account is awaited", limit });
        }
    };
    session.upstream_user = account.user().to_owned();
    Ok((credential, account))
}

async fn dial(
    endpoint: &Endpoint,
    (credential, account): &(Credential, Account),
    target: &TargetSettings,
    wishes: &Wishes,
    session: &Session,
    shared: &Shared,
) -> Result<(Connected, Credential, Account), Away> {
    let pair = |(name, value): &(String, String)| (PgString::lossy(name), PgString::lossy(value));
    let mut parameters: Vec<_> = wishes.parameters.iter().map(pair).collect();
    if target.session_in_application_name {
        let claimed = session.client.application_name.as_deref().unwrap_or_default();
        let name = PgString::lossy(&words::application_name(session.id, claimed));
        parameters.retain(|(parameter, _)| *parameter != "application_name");
        parameters.push((PgString::from_static("application_name"), name));
    }
    let request = SessionRequest {
        database: PgString::lossy(&wishes.database),
        parameters,
        session: Some(session.id),
        replication: wishes.replication.map(PgString::from_static),
    };
    match timeout(shared.limits.open_time, upstream::connect(endpoint, account, &request)).await {
        Ok(Ok(connected)) => Ok((connected, credential.clone(), account.clone())),
        Ok(Err(error)) => Err(unavailable(&error, target)),
        Err(_) => {
            let text =
                format!("lockgate: the target was not ready within {} s", shared.limits.open_time.as_secs());
            let ending = Ending::because(CloseReason::UpstreamUnavailable, text.clone());
            Err((sqlstate::CONNECTION_FAILURE, text, ending))
        }
    }
}

fn unavailable(error: &UpstreamError, target: &TargetSettings) -> Away {
    tracing::warn!(%error, kind = error.kind(), target = %target.target.name, "the target cannot be used");
    let (code, text) = error.client_text();
    (code, text, Ending::because(CloseReason::UpstreamUnavailable, error.to_string()))
}

/// Loopback is the client's own whatever the target says: lockgate's would be another service.
pub(super) fn origin(target: &TargetSettings, flow: &Flow, shared: &Shared) -> Origin {
    let attributor = &shared.ports.attributor;
    let cookie = flow.netns_cookie;
    match target.dial_from {
        DialFrom::Host if !flow.original_dst.addr().ip().is_loopback() => Origin::Here,
        DialFrom::Client | DialFrom::Host if attributor.is_elsewhere(cookie) => {
            Origin::Client(cookie, attributor.clone())
        }
        DialFrom::Client | DialFrom::Host => Origin::Here,
    }
}

/// Where the client wanted to go is where lockgate goes; the name to verify is the target's. But an address that only the
/// client was told for a name is nobody's that lockgate knows: the target's credential goes where lockgate itself resolves
/// the name to.
pub(super) fn endpoint(target: &TargetSettings, destination: OriginalDst) -> Endpoint {
    let mut dialled = destination.addr();
    if target.explicit.as_ref().is_some_and(|explicit| explicit.listen == dialled) {
        // Whoever dialled lockgate's own address, captured or not, meant the target.
        dialled = own_address(target).unwrap_or(dialled);
    }
    let mut named = None;
    for address in &target.addresses {
        match address {
            TargetAddr::Host { name, port, resolved, told } if *port == dialled.port() => {
                let known = resolved.contains(&dialled.ip());
                if known || told.iter().any(|told| told.address == dialled.ip()) {
                    named = Some(name.clone());
                    let other =
                        resolved.iter().filter(|ip| ip.is_ipv4() == dialled.is_ipv4()).chain(resolved).next();
                    if let Some(ip) = other.filter(|_| !known) {
                        dialled.set_ip(*ip);
                    }
                    break;
                }
            }
            TargetAddr::Host { .. } | TargetAddr::Exact(_) | TargetAddr::Network { .. } => {}
        }
    }
    let host = target.upstream_host.clone().or(named).unwrap_or_else(|| dialled.ip().to_string());
    Endpoint::new(UpstreamAddr(dialled), host, target.upstream_tls.clone())
}

/// The first address of a target that is one: the configuration sees to it that there is one where it listens.
fn own_address(target: &TargetSettings) -> Option<SocketAddr> {
    let own = |address: &TargetAddr| match address {
        TargetAddr::Exact(addr) => Some(*addr).filter(|addr| !is_listen(target, *addr)),
        TargetAddr::Host { port, resolved, .. } => resolved.first().map(|ip| SocketAddr::new(*ip, *port)),
        TargetAddr::Network { .. } => None,
    };
    target.addresses.iter().find_map(own)
}

fn is_listen(target: &TargetSettings, addr: SocketAddr) -> bool {
    target.explicit.as_ref().is_some_and(|explicit| explicit.listen == addr)
}

/// The version that is spoken with the client. With the target it is always 3.0, which every target speaks: the versions
/// differ in the length of cancellation keys alone, and the client's is lockgate's own.
fn spoken(startup: &StartupMessage) -> ProtocolVersion {
    match startup.version >= ProtocolVersion::V3_2 {
        true => ProtocolVersion::V3_2,
        // 3.1 never was.
        false => ProtocolVersion::V3_0,
    }
}

/// What is newer than 3.2, or an extension, is said not to be spoken.
fn negotiate(startup: &StartupMessage, out: &mut bytes::BytesMut) {
    let unknown_options: Vec<PgString> = startup.extensions().map(|(name, _)| name.clone()).collect();
    let spoken = spoken(startup);
    if startup.version > spoken || !unknown_options.is_empty() {
        let newest = (u32::from(spoken.major) << 16) | u32::from(spoken.minor);
        let answer = NegotiateProtocolVersion { newest, unknown_options };
        words::say(out, &Backend::NegotiateProtocolVersion(answer));
    }
}

/// Says why there is no session.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(leg: &mut Leg<S>, code: &str, text: &str) {
    words::say(leg.output.tail(), &words::fatal(code, text));
    leg.farewell(FAREWELL_TIME).await;
}

/// A CancelRequest: the connection has no other purpose and no answer.
async fn cancel(shared: &Shared, request: &CancelRequest) -> Ending {
    let because = |detail: String| Ending::because(CloseReason::CancelRequest, detail);
    match shared.cancellations.cancel(request.process_id, &request.key) {
        Delivery::Unknown => because("no session has this key".to_owned()),
        Delivery::Withdrawn => because("delivered to what the session waits for".to_owned()),
        Delivery::Upstream(target) => {
            let Some(key) = &target.key else {
                return because("the target gave no key to cancel with".to_owned());
            };
            match timeout(CANCEL_TIME, upstream::cancel(&target.endpoint, key)).await {
                Ok(Ok(())) => because("delivered to the target".to_owned()),
                Ok(Err(error)) => because(format!("not delivered to the target: {error}")),
                Err(_) => because("not delivered to the target in time".to_owned()),
            }
        }
    }
}

/// Cancels what a session runs on the target, as far as that listens; nobody waits for it.
fn stop(target: Arc<CancelTarget>) {
    tokio::spawn(async move {
        if let Some(key) = &target.key {
            let _ = timeout(CANCEL_TIME, upstream::cancel(&target.endpoint, key)).await;
        }
    });
}

/// The catalogue, as masks ask for it.
struct SideConnection(Arc<Catalogue>);

impl CatalogueSource for SideConnection {
    fn load(&self) -> BoxFuture<'_, Option<Arc<CatalogueSnapshot>>> {
        Box::pin(async move {
            match self.0.load().await {
                Ok(snapshot) => Some(snapshot),
                Err(error) => {
                    tracing::warn!(%error, kind = error.kind(), "the target's catalogue cannot be read");
                    None
                }
            }
        })
    }

    fn confirm(&self) -> BoxFuture<'_, Option<Arc<CatalogueSnapshot>>> {
        Box::pin(async move {
            match self.0.confirm().await {
                Ok(snapshot) => Some(snapshot),
                Err(error) => {
                    tracing::warn!(%error, kind = error.kind(), "the target's catalogue cannot be compared");
                    None
                }
            }
        })
    }

    fn fresh(&self) -> Option<Arc<CatalogueSnapshot>> {
        self.0.watched()
    }

    fn outdated(&self) {
        self.0.outdated();
    }

    fn routine(&self, oid: u32) -> BoxFuture<'_, Option<Routine>> {
        Box::pin(async move {
            self.0.routine(oid).await.unwrap_or_else(|error| {
                tracing::warn!(%error, kind = error.kind(), "the target's functions cannot be read");
                None
            })
        })
    }
}
