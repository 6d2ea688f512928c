//! One connection to the database, for threads that may block: where it is, how it is trusted, what is asked over it.
//!
//! Certificates are verified, always, unless the address says `sslmode=disable` or is a unix socket. A password never
//! stands in the address. What is asked ends within a bound, and a connection that broke is made anew by whoever owns it.

use crate::error::StoreError;
use lockgate_model::Secret;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Notification, SimpleQueryMessage, Socket,
    config::{Host, SslMode, TargetSessionAttrs},
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// A server that is up answers in milliseconds; one that fails over, in seconds.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Bytes that nobody acknowledges: the host is gone, whatever TCP still hopes.
const UNACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(10);
/// One batch, or one page, on a server under load.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Names are written with their schema; nothing is looked for anywhere else. What is acknowledged has to survive a crash
/// of the server, whatever its configuration says; one that waits for standbys too is left so.
const PREPARE: &str = "
    SET search_path = pg_catalog, pg_temp; SET timezone = 'UTC'; SET lock_timeout = '10s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
/// Notifications that nobody took yet: they only wake, so that one more or less is the same.
const NOTIFICATIONS: usize = 64;

/// Where the database is, and how one gets in.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    config: Config,
    password: Option<Secret<String>>,
    ca_pem: Option<String>,
}

/// Why an address is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the form.
    #[error("expected postgres://ROLE@HOST[:PORT]/DATABASE, got {got}: {why}")]
    Form {
        /// What was written, its password left out.
        got: String,
        /// What PostgreSQL's own rules say.
        why: String,
    },
    /// A password in it would stand in listings of processes and in configurations.
    #[error("a password does not belong into the address: name where it is kept")]
    Password,
}

impl PostgresSettings {
    /// An address: `postgres://role@host/database`, several hosts divided by commas, options as libpq has them.
    ///
    /// # Errors
    /// When it is none, or holds a password.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let form = |why: String| {
            let got = url.split_once('@').map_or(url, |(_, rest)| rest).to_owned();
            AddressError::Form { got, why }
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(form("it does not begin with postgres://".to_owned()));
        }
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| form(why(&error)))?;
        if config.get_password().is_some() {
            return Err(AddressError::Password);
        }
        if config.get_hosts().is_empty() {
            return Err(form("it names no host".to_owned()));
        }
        let is_local = |host: &Host| matches!(host, Host::Unix(_));
        let plain = config.get_ssl_mode() == SslMode::Disable || config.get_hosts().iter().all(is_local);
        config.ssl_mode(if plain { SslMode::Disable } else { SslMode::Require });
        config.connect_timeout(CONNECT_WITHIN).tcp_user_timeout(UNACKNOWLEDGED_WITHIN);
        if config.get_application_name().is_none() {
            config.application_name("lockgate");
        }
        Ok(Self { config, password: None, ca_pem: None })
    }

    /// With a password.
    #[must_use]
    pub fn password(mut self, password: Option<Secret<String>>) -> Self {
        self.password = password;
        self
    }

    /// Trusting these certificates (PEM) in place of the public ones.
    #[must_use]
    pub fn ca(mut self, pem: Option<String>) -> Self {
        self.ca_pem = pem;
        self
    }

    /// Whether the way there is neither encrypted nor within the host.
    pub fn is_plain(&self) -> bool {
        self.config.get_ssl_mode() == SslMode::Disable
            && self.config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)))
    }

    /// For people: role, hosts and database.
    pub fn describe(&self) -> String {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        let user = self.config.get_user().unwrap_or("?");
        format!("postgres://{user}@{}/{}", hosts.join(","), self.config.get_dbname().unwrap_or(user))
    }

    fn tls(&self) -> Result<Tls, String> {
        let mut roots = RootCertStore::empty();
        match &self.ca_pem {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let certificate =
                        certificate.map_err(|error| format!("the CA's certificate: {error}"))?;
                    roots.add(certificate).map_err(|error| format!("the CA's certificate: {error}"))?;
                }
                if roots.is_empty() {
                    return Err("the CA's file holds no certificate".to_owned());
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Tls(TlsConnector::from(Arc::new(config))))
    }
}

/// A connection, and the thread of its own that it is driven on: whoever asks.
pub(crate) struct Database {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    client: Client,
    notifications: mpsc::Receiver<Notification>,
}

impl Database {
    /// Connects to a server that can be written to.
    pub(crate) fn connect(settings: &PostgresSettings) -> Result<Self, StoreError> {
        Self::connect_to(settings, TargetSessionAttrs::ReadWrite)
    }

    /// Connects to a server that can be read.
    pub(crate) fn connect_to_read(settings: &PostgresSettings) -> Result<Self, StoreError> {
        Self::connect_to(settings, TargetSessionAttrs::Any)
    }

    fn connect_to(settings: &PostgresSettings, attributes: TargetSessionAttrs) -> Result<Self, StoreError> {
        let failed = |why: String| StoreError::Database {
            action: "connect to",
            what: settings.describe(),
            code: None,
            why,
        };
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|error| failed(error.to_string()))?;
        let mut config = settings.config.clone();
        config.target_session_attrs(attributes);
        if let Some(password) = &settings.password {
            config.password(password.expose());
        }
        let tls = settings.tls().map_err(failed)?;
        let connecting = async {
            // Each host gets its own bound; the whole gets one too, whatever a name server does.
            tokio::time::timeout(ANSWER_WITHIN, config.connect(tls)).await
        };
        let (client, mut connection) = match runtime.block_on(connecting) {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(refused("connect to", &settings.describe(), &error)),
            Err(_) => return Err(failed(format!("no answer within {ANSWER_WITHIN:?}"))),
        };
        let (send, notifications) = mpsc::channel(NOTIFICATIONS);
        runtime.spawn(async move {
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => drop(send.try_send(notification)),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "the connection to the database ended");
                        return;
                    }
                }
            }
        });
        let database = Self { runtime: Some(runtime), client, notifications };
        database.batch("prepare", PREPARE)?;
        Ok(database)
    }

    /// Whether it is of no more use.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks something of the client.
    pub(crate) fn ask<'a, T, F>(
        &'a self,
        action: &'static str,
        ask: impl FnOnce(&'a Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        self.ask_for(ANSWER_WITHIN, action, ask)
    }

    /// The same, for as long as it may take.
    pub(crate) fn ask_for<'a, T, F>(
        &'a self,
        within: Duration,
        action: &'static str,
        ask: impl FnOnce(&'a Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let asked = ask(&self.client);
        match self.block_on(async { tokio::time::timeout(within, asked).await })? {
            Ok(answer) => answer.map_err(|error| refused(action, "the database", &error)),
            Err(_) => {
                let why = format!("no answer within {within:?}");
                Err(StoreError::Database { action, what: "the database".to_owned(), code: None, why })
            }
        }
    }

    /// Statements without parameters.
    pub(crate) fn batch(&self, action: &'static str, sql: &str) -> Result<(), StoreError> {
        self.ask(action, |client| client.batch_execute(sql))
    }

    /// The rows of statements without parameters, as text.
    pub(crate) fn simple(&self, action: &'static str, sql: &str) -> Result<Vec<Vec<String>>, StoreError> {
        let messages = self.ask(action, |client| client.simple_query(sql))?;
        let row = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Lets the connection see what happens to it.
    pub(crate) fn idle(&self, pause: Duration) {
        let _ = self.block_on(async { tokio::time::sleep(pause).await });
    }

    /// Waits for a notification; false when there was none by then, or the connection ended.
    pub(crate) fn notified(&mut self, within: Duration) -> bool {
        let Self { runtime, notifications, .. } = self;
        let Some(runtime) = runtime else { return false };
        let waited = runtime.block_on(async { tokio::time::timeout(within, notifications.recv()).await });
        let came = matches!(waited, Ok(Some(_)));
        while notifications.try_recv().is_ok() {}
        came
    }

    fn block_on<F: Future>(&self, future: F) -> Result<F::Output, StoreError> {
        let gone = || StoreError::NotProven("the connection is being closed".to_owned());
        Ok(self.runtime.as_ref().ok_or_else(gone)?.block_on(future))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // May be dropped where nothing may block.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn refused(action: &'static str, what: &str, error: &tokio_postgres::Error) -> StoreError {
    let code = error.code().map(|code| code.code().to_owned());
    StoreError::Database { action, what: what.to_owned(), code, why: why(error) }
}

/// What a failure is, to its end.
fn why(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let hint = said.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        return format!("{}{hint}", said.message());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// rustls for tokio-postgres.
#[derive(Clone)]
struct Tls(TlsConnector);

struct TlsTo {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted<Socket>;
    type TlsConnect = TlsTo;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<TlsTo> {
        // A unix socket has no name; nothing is encrypted there.
        let name = if domain.is_empty() { "localhost" } else { domain };
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        Ok(TlsTo { connector: self.0.clone(), name })
    }
}

impl TlsConnect<Socket> for TlsTo {
    type Stream = Encrypted<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<Socket>>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Encrypted) })
    }
}

struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate was verified; SCRAM is not bound to it besides.
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_verified_unless_they_say_otherwise() {
        for (url, plain) in [
            ("postgres://node@db.internal/lockgate", false),
            ("postgres://node@db.internal/lockgate?sslmode=prefer", false),
            ("postgresql://node@a,b:5433/lockgate?sslmode=disable", true),
            ("postgres://node@%2Frun%2Fpostgresql/lockgate", false),
        ] {
            let settings = PostgresSettings::parse(url).unwrap();
            assert_eq!(settings.is_plain(), plain, "{url}");
        }
        for bad in ["sled:x", "mysql://a@b/c", "postgres://", "postgres://a@b/c?nonsense=1"] {
            assert!(matches!(PostgresSettings::parse(bad), Err(AddressError::Form { .. })), "{bad}");
        }
        let refused = PostgresSettings::parse("postgres://node:hunter2@db/lockgate").unwrap_err();
        assert_eq!(refused, AddressError::Password);
        let refused = PostgresSettings::parse("postgres://node:hunter2@db/lockgate?nonsense=1").unwrap_err();
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }

    #[test]
    fn a_ca_file_must_hold_a_certificate() {
        let settings = PostgresSettings::parse("postgres://node@127.0.0.1:1/lockgate").unwrap();
        let refused = Database::connect(&settings.ca(Some("no certificate".to_owned()))).err().unwrap();
        assert!(refused.to_string().contains("holds no certificate"), "{refused}");
    }
}
