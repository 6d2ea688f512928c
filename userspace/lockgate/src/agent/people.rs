//! From what the configuration says of logins to what the control plane is given: secrets and files read, the certificate of the
//! listener, and the first administrator's token.
//!
//! While the agent runs, the configuration's file and the files that `login:` and `api.tls` name are compared as policy is. What
//! they say anew is in force at once; what cannot be used changes nothing. The rest of the configuration is read at start alone.

use super::{Agent, policy::LOOK_EVERY, targets};
use crate::config::{
    Config,
    login::{Kind, Oidc, Provider, Saml},
};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use lockgate_control::Tls;
use lockgate_control::{
    Control,
    auth::{
        bootstrap::WARNING,
        settings::{
            BootstrapSettings, LoginSettings, OidcSettings, ProviderKind, ProviderSettings, SamlSettings,
        },
    },
};
use lockgate_model::{Secret, SecretRef};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{
    collections::BTreeSet,
    io::Read as _,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Notify;

/// Where the first administrator's token is written, below the store.
const BOOTSTRAP_FILE: &str = "bootstrap.token";

/// Everything under `login:`.
pub(super) async fn settings(
    config: &Config,
    listen: Option<SocketAddr>,
) -> anyhow::Result<Option<LoginSettings>> {
    let Some(login) = &config.login else { return Ok(None) };
    let mut providers = Vec::with_capacity(login.providers.len());
    for given in &login.providers {
        let context = || format!("login.providers: {}", given.name);
        providers.push(provider(given).await.with_context(context)?);
    }
    let secure = config.api.tls.is_some() || !config.api.proxies.is_empty();
    if !secure && let Some(listen) = listen {
        tracing::warn!(%listen, "people log in without TLS; cookies are not Secure, which is for this host alone");
    }
    Ok(Some(LoginSettings {
        providers,
        roles: login.roles.clone(),
        groups: login.groups.iter().map(|(group, members)| (group.value.clone(), members.clone())).collect(),
        idle: login.idle,
        lasts: login.lasts,
        vouched: login.vouched,
        bootstrap: login.bootstrap.as_ref().map(|groups| BootstrapSettings {
            groups: groups.iter().map(|group| group.value.clone()).collect(),
            file: config.store.dir.join(BOOTSTRAP_FILE),
        }),
        secure,
        proxies: config.api.proxies.clone(),
    }))
}

async fn provider(given: &Provider) -> anyhow::Result<ProviderSettings> {
    let kind = match &given.kind {
        Kind::Oidc(oidc) => ProviderKind::Oidc(oidc_settings(oidc).await?),
        Kind::Saml(saml) => ProviderKind::Saml(saml_settings(saml).await?),
    };
    let speaks_for = given.speaks_for.as_ref();
    Ok(ProviderSettings {
        name: given.name.clone(),
        label: given.label.clone(),
        speaks_for: speaks_for.map(|groups| groups.iter().map(|group| group.value.clone()).collect()),
        kind,
    })
}

async fn oidc_settings(oidc: &Oidc) -> anyhow::Result<OidcSettings> {
    let client_secret = match &oidc.client_secret {
        Some(reference) => {
            let bytes = lockgate_proxy::credential::resolve(reference).await.context("client_secret")?;
            let text = std::str::from_utf8(bytes.expose()).context("client_secret: expected text")?;
            Some(Secret::new(text.to_owned()))
        }
        None => None,
    };
    let ca_pem = match &oidc.ca {
        Some(ca) => Some(targets::material(ca).await.context("ca")?.expose().clone()),
        None => None,
    };
    Ok(OidcSettings {
        issuer: oidc.issuer.clone(),
        client_id: oidc.client_id.clone(),
        client_secret,
        scopes: oidc.scopes.clone(),
        groups_claim: oidc.groups_claim.clone(),
        ca_pem,
        skew: oidc.skew,
    })
}

async fn saml_settings(saml: &Saml) -> anyhow::Result<SamlSettings> {
    let mut certificates = Vec::new();
    for reference in &saml.certificates {
        let pem = targets::material(reference).await.context("certificates")?;
        for certificate in CertificateDer::pem_slice_iter(pem.expose()) {
            certificates.push(certificate.context("certificates: not PEM")?.to_vec());
        }
    }
    Ok(SamlSettings {
        entity_id: saml.entity_id.clone(),
        sso_url: saml.sso_url.clone(),
        certificates,
        audience: saml.audience.clone(),
        groups_attribute: saml.groups_attribute.clone(),
        email_attribute: saml.email_attribute.clone(),
        name_attribute: saml.name_attribute.clone(),
        skew: saml.skew,
    })
}

/// `api.tls`, for a listener.
pub(super) async fn tls(config: &Config) -> anyhow::Result<Option<Tls>> {
    Ok(certificate(config).await?.map(|server| Arc::new(ArcSwap::new(server))))
}

/// TLS 1.2 at least: rustls has nothing older.
async fn certificate(config: &Config) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    let Some((chain, key)) = &config.api.tls else { return Ok(None) };
    let chain = targets::material(chain).await.context("api.tls.certificate")?;
    let key = targets::material(key).await.context("api.tls.key")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.expose()).collect();
    let chain = chain.context("api.tls.certificate: not PEM")?;
    anyhow::ensure!(!chain.is_empty(), "api.tls.certificate: expected a certificate in PEM, found none");
    let key =
        PrivateKeyDer::from_pem_slice(key.expose()).context("api.tls.key: expected a private key in PEM")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("api.tls: the certificate and its key do not belong together, or cannot be used")?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(server)))
}

/// What is read anew while the agent runs.
pub(super) struct Watched {
    tls: Option<Tls>,
    /// The files to compare.
    files: Mutex<Files>,
    asked: Notify,
}

struct Files {
    paths: BTreeSet<PathBuf>,
    /// What is in force, or was rejected.
    settled: Reading,
}

/// Each file, or why it cannot be read.
type Reading = Vec<Result<Vec<u8>, String>>;

/// Bytes of a file that are compared; a configuration may have as many.
const COMPARED_MAX: u64 = 1024 * 1024;

impl Watched {
    pub(super) fn of(config: &Config, tls: Option<Tls>) -> Self {
        let paths = files(config);
        let settled = read(&paths);
        Self { tls, files: Mutex::new(Files { paths, settled }), asked: Notify::new() }
    }

    /// Loads, changed or not, at once.
    pub(super) fn now_please(&self) {
        self.asked.notify_one();
    }

    fn paths(&self) -> BTreeSet<PathBuf> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).paths.clone()
    }

    fn is_settled(&self, reading: &Reading) -> bool {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).settled == *reading
    }

    fn settle(&self, paths: BTreeSet<PathBuf>, settled: Reading) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Files { paths, settled };
    }
}

/// The configuration's file, and what of it names files about people. What a command or a vault gives is asked for when one of
/// these changes, or when somebody says so.
fn files(config: &Config) -> BTreeSet<PathBuf> {
    let tls = config.api.tls.iter().flat_map(|(chain, key)| [chain, key]);
    let secrets = config.login.iter().flat_map(|login| login.secrets()).chain(tls);
    let named = secrets.filter_map(|secret| match secret {
        SecretRef::File(path) => Some(PathBuf::from(path)),
        SecretRef::Env(_) | SecretRef::Command(_) | SecretRef::Vault(_) => None,
    });
    named.chain([config.path.clone()]).collect()
}

fn read(paths: &BTreeSet<PathBuf>) -> Reading {
    let one = |path: &PathBuf| {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).and_then(|file| file.take(COMPARED_MAX).read_to_end(&mut bytes));
        file.map(|_| bytes).map_err(|error| error.to_string())
    };
    paths.iter().map(one).collect()
}

/// Looks at the files forever.
pub(super) async fn watch(agent: &Agent) {
    let watched = &agent.people;
    let mut fresh: Option<Reading> = None;
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => false,
            () = watched.asked.notified() => true,
        };
        let paths = watched.paths();
        let looking = paths.clone();
        // Files may be on a network; nobody else waits for them. An error: the agent ends.
        let Ok(reading) = tokio::task::spawn_blocking(move || read(&looking)).await else { return };
        if !asked {
            if watched.is_settled(&reading) {
                fresh = None;
                continue;
            }
            // Two equal readings are taken over, so that a file half written is not.
            if fresh.as_ref() != Some(&reading) {
                fresh = Some(reading);
                continue;
            }
        }
        fresh = None;
        let paths = match take_over(agent).await {
            Ok(config) => files(&config),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "what changed about logins or certificates cannot be used; what was in force stays"
                );
                paths
            }
        };
        // Read before it was loaded: what changes in between is seen the next time.
        let settled = if paths == watched.paths() { reading } else { read(&paths) };
        watched.settle(paths, settled);
    }
}

/// Puts into force what the files say now: all of it, or nothing.
async fn take_over(agent: &Agent) -> anyhow::Result<Config> {
    let path = agent.config.path.clone();
    let config = tokio::task::spawn_blocking(move || Config::read(&path)).await??;
    let unknown = config.unknown_groups(agent.policy.in_force.load().groups());
    if let Some(unknown) = unknown.first() {
        anyhow::bail!("{unknown}");
    }
    let certificate = certificate(&config).await?;
    anyhow::ensure!(
        certificate.is_some() == agent.people.tls.is_some() && config.api.listen == agent.config.api.listen,
        "api.listen and whether there is api.tls are read at start alone: restart the agent"
    );
    anyhow::ensure!(
        config.api.public_url == agent.config.api.public_url,
        "api.public_url is read at start alone: restart the agent"
    );
    let login = settings(&config, agent.listen).await?;
    let bootstrap = |config: &Config| config.login.as_ref().is_some_and(|login| login.bootstrap.is_some());
    let offered = agent.control.offers_bootstrap();
    let reloaded = agent.control.reload_login(login)?;
    if let (Some(tls), Some(certificate)) = (&agent.people.tls, certificate) {
        tls.store(certificate);
    }
    if bootstrap(&config) && !offered {
        self::bootstrap(&agent.control)?;
    }
    tracing::info!(
        providers = ?reloaded.providers,
        logins_ended = reloaded.ended,
        "logins and certificates are loaded again"
    );
    Ok(config)
}

/// Writes the first administrator's token, and says where and what it is for.
pub(super) fn bootstrap(control: &Control) -> anyhow::Result<()> {
    if let Some(file) = control.bootstrap()? {
        tracing::warn!(file = %file.display(), "{WARNING}; the one-time token is in this file, for root alone, for an hour");
    }
    Ok(())
}
