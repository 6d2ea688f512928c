//! From an address to a session: TCP, TLS, login; and cancellation, which is a connection of its own.

use super::login::{Opening, SessionRequest};
use super::{Connected, DIAL_TIME, LOGIN_TIME, Stream, UpstreamError};
use crate::credential::Account;
use crate::tls::{ClientIdentity, UpstreamTls, server_end_point};
use bytes::BytesMut;
use lockgate_model::{addr::UpstreamAddr, port::Attributor};
use lockgate_wire::postgres::backend::BackendKeyData;
use lockgate_wire::postgres::startup::{CancelRequest, StartupPacket};
use socket2::TcpKeepalive;
use std::{fmt, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

/// A target that vanished without a word (power, network) is noticed after two minutes, not after the system's two hours:
/// a session waits for a long statement without any bound of its own.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

/// Where a target is and how it proves itself.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What is dialled.
    pub addr: UpstreamAddr,
    /// The name that its certificate must be for under `verify-full`: a DNS name or an IP address.
    pub host: String,
    /// How it is verified.
    pub tls: UpstreamTls,
    /// How long it may take.
    pub bounds: Bounds,
    /// Where connections leave from.
    pub origin: Origin,
}

/// How long a target may take to open a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For TCP; see [`DIAL_TIME`].
    pub dial: Duration,
    /// For TLS and login; see [`LOGIN_TIME`].
    pub login: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { dial: DIAL_TIME, login: LOGIN_TIME }
    }
}

impl Endpoint {
    /// An endpoint with the usual bounds.
    pub fn new(addr: UpstreamAddr, host: impl Into<String>, tls: UpstreamTls) -> Self {
        Self { addr, host: host.into(), tls, bounds: Bounds::default(), origin: Origin::Here }
    }

    /// Dialled from a client's network namespace.
    #[must_use]
    pub fn from(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }
}

/// In which network namespace a target is dialled: the same address can be another service in another one.
#[derive(Clone, Default)]
pub enum Origin {
    /// Where lockgate runs.
    #[default]
    Here,
    /// Where a client is; by its namespace's cookie, and who knows the way there.
    Client(u64, Arc<dyn Attributor>),
}

impl Origin {
    /// What tells namespaces apart; 0 is lockgate's own.
    pub fn cookie(&self) -> u64 {
        match self {
            Self::Here => 0,
            Self::Client(cookie, _) => *cookie,
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("Here"),
            Self::Client(cookie, _) => f.debug_tuple("Client").field(cookie).finish(),
        }
    }
}

/// Opens a session on the target with the injected credential's account.
///
/// Bounded by the endpoint's [`Bounds`]. Dropping the future drops the connection.
pub async fn connect(
    endpoint: &Endpoint,
    account: &Account,
    request: &SessionRequest,
) -> Result<Connected, UpstreamError> {
    request.check()?;
    let tcp = dial(endpoint).await?;
    let deadline = Deadline::after(endpoint.bounds.login);
    let identity = async {
        let session = request.session.map(|session| session.to_string());
        Ok(account.identity(session.as_deref()).await?)
    };
    let identity = deadline.within("nothing yet, the client certificate is awaited", identity).await?;
    let (stream, binding) = deadline.within("TLS", secure(tcp, endpoint, identity)).await?;
    let encrypted = matches!(stream, Secured::Tls(_));
    let mut opening = Opening::new(stream, deadline);
    let session = opening.log_in(account, request, encrypted, binding).await?;
    let (stream, buffer) = opening.into_parts();
    Ok(session.hand_over(stream.split(), buffer, encrypted))
}

/// A connection on which nothing has been said yet, for a protocol that begins with TLS or has none.
pub(crate) struct Open {
    pub(crate) stream: Box<dyn Stream>,
    /// What the target chose of what was offered.
    pub(crate) protocol: Option<Vec<u8>>,
    pub(crate) encrypted: bool,
}

/// Dials and, where the settings demand it, verifies the target; offers these protocols.
pub(crate) async fn open(
    endpoint: &Endpoint,
    account: &Account,
    session: &str,
    offered: &[&[u8]],
) -> Result<Open, UpstreamError> {
    let tcp = dial(endpoint).await?;
    let deadline = Deadline::after(endpoint.bounds.login);
    let identity = async { Ok(account.identity(Some(session)).await?) };
    let identity = deadline.within("nothing yet, the client certificate is awaited", identity).await?;
    let Some(connector) = endpoint.tls.speaking(offered).connector(&endpoint.host, identity)? else {
        return Ok(Open { stream: Box::new(tcp), protocol: None, encrypted: false });
    };
    let tls = deadline.within("TLS", async { Ok(connector.connect(tcp).await?) }).await?;
    let protocol = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    Ok(Open { stream: Box::new(tls), protocol, encrypted: true })
}

/// Delivers a CancelRequest to the target. It never answers; the end of the connection means that it was taken.
pub async fn cancel(endpoint: &Endpoint, key: &BackendKeyData) -> Result<(), UpstreamError> {
    let tcp = dial(endpoint).await?;
    let step = "a cancellation";
    let deliver = async {
        // Cancellations carry their own proof: no client certificate.
        let (mut stream, _) = secure(tcp, endpoint, None).await?;
        let request = CancelRequest { process_id: key.process_id, key: key.key.clone() };
        let mut bytes = BytesMut::new();
        StartupPacket::Cancel(request).encode(&mut bytes)?;
        let io = |error: std::io::Error| UpstreamError::io(step, &error);
        stream.as_stream().write_all(&bytes).await.map_err(io)?;
        stream.as_stream().flush().await.map_err(io)?;
        // Some servers close without a TLS farewell, or reset; either way the request was read.
        let _ = stream.as_stream().read(&mut [0; 1]).await;
        Ok(())
    };
    Deadline::after(endpoint.bounds.login).within(step, deliver).await
}

/// When the login must be over.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// Runs a part of the login; `step` says in the error what was waited for.
    pub(super) async fn within<T>(
        self,
        step: &'static str,
        part: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        match timeout_at(self.at, part).await {
            Ok(outcome) => outcome,
            Err(_) => Err(UpstreamError::LoginSlow { step, limit: self.limit }),
        }
    }
}

async fn dial(endpoint: &Endpoint) -> Result<TcpStream, UpstreamError> {
    let (addr, limit) = (endpoint.addr, endpoint.bounds.dial);
    let tcp = match timeout(limit, reach(addr.0, &endpoint.origin)).await {
        Err(_) => return Err(UpstreamError::DialSlow { addr, limit }),
        Ok(Err(error)) => return Err(UpstreamError::Dial { addr, kind: error.kind() }),
        Ok(Ok(tcp)) => tcp,
    };
    // Small requests and small answers: Nagle would hold them for the other side's delayed ACK.
    let failed = |error: std::io::Error| UpstreamError::Dial { addr, kind: error.kind() };
    tcp.set_nodelay(true).map_err(failed)?;
    socket2::SockRef::from(&tcp).set_tcp_keepalive(&KEEPALIVE).map_err(failed)?;
    Ok(tcp)
}

async fn reach(addr: SocketAddr, origin: &Origin) -> io::Result<TcpStream> {
    let made = match origin {
        Origin::Here => None,
        Origin::Client(cookie, attributor) => {
            let (cookie, attributor) = (*cookie, attributor.clone());
            tokio::task::spawn_blocking(move || attributor.socket(cookie, addr)).await??
        }
    };
    match made {
        None => TcpStream::connect(addr).await,
        Some(socket) => TcpSocket::from_std_stream(socket.into()).connect(addr).await,
    }
}

/// A connection that is as safe as the target's settings demand.
pub(super) enum Secured {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Both halves of a connection.
pub(super) type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

impl Secured {
    pub(super) fn as_stream(&mut self) -> &mut dyn Stream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls,
        }
    }

    fn split(self) -> Halves {
        match self {
            Self::Plain(tcp) => {
                let (reader, writer) = tcp.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Self::Tls(tls) => {
                let (reader, writer) = tokio::io::split(tls);
                (Box::new(reader), Box::new(writer))
            }
        }
    }
}

/// Asks for TLS as §55.2.10 has it, and never goes on without when it is demanded. Answers the channel binding data too.
async fn secure(
    mut tcp: TcpStream,
    endpoint: &Endpoint,
    identity: Option<ClientIdentity>,
) -> Result<(Secured, Option<Vec<u8>>), UpstreamError> {
    let Some(connector) = endpoint.tls.connector(&endpoint.host, identity)? else {
        return Ok((Secured::Plain(tcp), None));
    };
    if !endpoint.tls.is_direct() {
        ask_for_tls(&mut tcp).await?;
    }
    let tls = connector.connect(tcp).await?;
    let connection = tls.get_ref().1;
    // A server that knows direct TLS confirms the protocol; another one might serve anything by the same certificate.
    if endpoint.tls.is_direct() && connection.alpn_protocol().is_none() {
        return Err(UpstreamError::NoAlpn);
    }
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let binding = certificate.and_then(|certificate| server_end_point(certificate));
    Ok((Secured::Tls(Box::new(tls)), binding))
}

async fn ask_for_tls(tcp: &mut TcpStream) -> Result<(), UpstreamError> {
    let mut request = BytesMut::new();
    StartupPacket::SslRequest.encode(&mut request)?;
    let io = |error: std::io::Error| UpstreamError::io("TLS", &error);
    tcp.write_all(&request).await.map_err(io)?;
    // Exactly one byte is read: what a man in the middle put behind it goes into the handshake and breaks it.
    match tcp.read_u8().await.map_err(io)? {
        b'S' => Ok(()),
        b'N' => Err(UpstreamError::TlsRefused),
        got => Err(UpstreamError::TlsAnswer { got }),
    }
}
