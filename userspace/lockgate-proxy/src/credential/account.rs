//! A target's credential, and what one session makes of it.

use super::{CredentialError, SecretBytes, Secrets, vault::Lease};
use crate::{
    scram::KeyCache,
    tls::{Authority, ClientIdentity, Subject},
};
use lockgate_model::SecretRef;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How long an issued client certificate is good for. It is looked at when the connection opens, so it only has to outlast
/// a login and the clocks' differences.
pub const DEFAULT_VALIDITY: Duration = Duration::from_secs(5 * 60);

/// How lockgate logs in on a target, as configuration says.
#[derive(Clone, Debug, Default)]
pub struct CredentialSettings {
    /// The role, unless the vault makes one.
    pub user: String,
    /// Where its password rests.
    pub password: Option<SecretRef>,
    /// Its client certificate.
    pub certificate: Option<CertificateSource>,
    /// A path of the vault's database engine (`database/creds/ROLE`), which makes user and password.
    pub database: Option<String>,
    /// How long a secret that was read may serve other sessions; none: each session reads anew.
    pub cache: Option<Duration>,
}

/// Where a client certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// It is there.
    Given {
        /// The chain, PEM.
        certificate: SecretRef,
        /// Its private key, PEM.
        key: SecretRef,
    },
    /// lockgate signs one for each session.
    Issued {
        /// The CA's certificate, PEM.
        ca: SecretRef,
        /// The CA's private key, PEM (PKCS #8).
        key: SecretRef,
        /// How long each is good for.
        validity: Duration,
    },
    /// The vault's PKI engine signs one for each session (`pki/sign/ROLE`).
    Vault {
        /// The path.
        path: String,
        /// How long each is asked to be good for.
        validity: Duration,
    },
}

/// A target's credential. Cheap to clone; clones share what is cached.
#[derive(Clone)]
pub struct Credential {
    user: Arc<str>,
    shared: Arc<Shared>,
}

struct Shared {
    settings: CredentialSettings,
    secrets: Secrets,
    keys: Arc<KeyCache>,
    cached: Mutex<Option<(Instant, Known)>>,
}

/// A password, and whose it is when a vault made both.
#[derive(Clone)]
struct Known {
    user: Option<Arc<str>>,
    password: SecretBytes,
    lease: Option<Arc<Lease>>,
}

impl Credential {
    /// A credential; nothing is read yet.
    pub fn new(settings: CredentialSettings, secrets: Secrets) -> Self {
        let user = match &settings.database {
            // Until the vault has said whom it made, records name the place.
            Some(path) => format!("vault {path}").into(),
            None => settings.user.as_str().into(),
        };
        let (keys, cached) = Default::default();
        Self { user, shared: Arc::new(Shared { settings, secrets, keys, cached }) }
    }

    /// A role that the target lets in as lockgate is known to it otherwise.
    pub fn trusted(user: &str) -> Self {
        let settings = CredentialSettings { user: user.to_owned(), ..CredentialSettings::default() };
        Self::new(settings, Secrets::default())
    }

    /// A role and where its password rests.
    pub fn password(user: &str, password: SecretRef) -> Self {
        let settings = CredentialSettings {
            user: user.to_owned(),
            password: Some(password),
            ..CredentialSettings::default()
        };
        Self::new(settings, Secrets::default())
    }

    /// The role, as far as it is known before a login.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The same for a role that policy names. Only a credential that is not one role's own can serve another.
    ///
    /// # Errors
    /// When it is one role's own.
    pub fn for_role(&self, role: &str) -> Result<Self, CredentialError> {
        let CredentialSettings { password, certificate, database, .. } = &self.shared.settings;
        let issues = match certificate {
            Some(CertificateSource::Issued { .. } | CertificateSource::Vault { .. }) => true,
            Some(CertificateSource::Given { .. }) | None => false,
        };
        if *self.user == *role {
            return Ok(self.clone());
        }
        if !issues || password.is_some() || database.is_some() {
            return Err(CredentialError::Role { role: role.to_owned(), user: self.user.to_string() });
        }
        Ok(Self { user: role.into(), shared: self.shared.clone() })
    }

    /// Whom to log in as, for one session. Reads a vault when that makes the account, nothing otherwise.
    ///
    /// # Errors
    /// When the vault does not make one.
    pub async fn account(&self) -> Result<Account, CredentialError> {
        let known = match &self.shared.settings.database {
            None => None,
            Some(path) => Some(match self.cached() {
                Some(known) => known,
                None => {
                    let (user, password, lease) = self.shared.secrets.vault()?.database(path).await?;
                    self.keep(Known { user: Some(user.into()), password, lease: Some(Arc::new(lease)) })
                }
            }),
        };
        Ok(Account { credential: self.clone(), known })
    }

    /// Forgets what is cached: nobody logs in any more.
    pub fn forget(&self) {
        *self.shared.cached.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether everything that can be read without a login can be read: told at start, not to the first job.
    ///
    /// # Errors
    /// What cannot be had.
    pub async fn check(&self) -> Result<(), CredentialError> {
        match &self.shared.settings.certificate {
            Some(source @ (CertificateSource::Given { .. } | CertificateSource::Issued { .. })) => {
                self.identity(source, None).await.map(drop)
            }
            Some(CertificateSource::Vault { .. }) | None => Ok(()),
        }
    }

    async fn identity(
        &self,
        source: &CertificateSource,
        session: Option<&str>,
    ) -> Result<ClientIdentity, CredentialError> {
        let secrets = &self.shared.secrets;
        let subject = Subject { role: &self.user, session };
        match source {
            CertificateSource::Given { certificate, key } => {
                let chain = secrets.resolve(certificate).await?;
                let key = secrets.resolve(key).await?;
                Ok(ClientIdentity::from_pem(chain.expose(), key.expose())?)
            }
            CertificateSource::Issued { ca, key, validity } => {
                let certificate = secrets.resolve(ca).await?;
                let key = secrets.resolve(key).await?;
                let what = "upstream.credential.client_certificate";
                let authority = Authority::from_pem(what, certificate.expose(), key.expose())?;
                Ok(authority.client(&subject, *validity)?)
            }
            CertificateSource::Vault { path, validity } => {
                let request = subject.request()?;
                let chain = secrets.vault()?.sign(path, &self.user, request.pem()?, *validity).await?;
                Ok(request.certified(chain.as_bytes())?)
            }
        }
    }

    fn cached(&self) -> Option<Known> {
        let lifetime = self.shared.settings.cache?;
        let mut cached = self.shared.cached.lock().unwrap_or_else(PoisonError::into_inner);
        // An account that the vault is about to take back serves nobody new.
        let fresh = |(since, known): &(Instant, Known)| {
            since.elapsed() < lifetime && known.lease.as_ref().is_none_or(|lease| lease.is_fresh())
        };
        if !cached.as_ref().is_some_and(fresh) {
            *cached = None;
        }
        cached.as_ref().map(|(_, known)| known.clone())
    }

    fn keep(&self, known: Known) -> Known {
        if let Some(lifetime) = self.shared.settings.cache {
            let since = Instant::now();
            *self.shared.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some((since, known.clone()));
            // Not only when the next session asks: a cache that nobody asks any more is empty in time.
            let shared = Arc::downgrade(&self.shared);
            tokio::spawn(async move {
                tokio::time::sleep(lifetime).await;
                if let Some(shared) = shared.upgrade() {
                    let mut cached = shared.cached.lock().unwrap_or_else(PoisonError::into_inner);
                    if cached.as_ref().is_some_and(|(at, _)| *at == since) {
                        *cached = None;
                    }
                }
            });
        }
        known
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Whom one session logs in as. An account that a vault made is given back when the last session that has it is over.
#[derive(Clone)]
pub struct Account {
    credential: Credential,
    known: Option<Known>,
}

impl Account {
    /// The role.
    pub fn user(&self) -> &str {
        match self.known.as_ref().and_then(|known| known.user.as_deref()) {
            Some(user) => user,
            None => self.credential.user(),
        }
    }

    /// The password; `Ok(None)` when there is none.
    pub(crate) async fn password(&self) -> Result<Option<SecretBytes>, CredentialError> {
        if let Some(known) = &self.known {
            return Ok(Some(known.password.clone()));
        }
        let Some(reference) = &self.credential.shared.settings.password else { return Ok(None) };
        if let Some(known) = self.credential.cached() {
            return Ok(Some(known.password));
        }
        let password = self.credential.shared.secrets.resolve(reference).await?;
        let known = self.credential.keep(Known { user: None, password, lease: None });
        Ok(Some(known.password))
    }

    /// The client certificate for one connection; `session` is what joins it with lockgate's record.
    pub(crate) async fn identity(
        &self,
        session: Option<&str>,
    ) -> Result<Option<ClientIdentity>, CredentialError> {
        match &self.credential.shared.settings.certificate {
            None => Ok(None),
            Some(source) => self.credential.identity(source, session).await.map(Some),
        }
    }

    /// Derived keys of this credential.
    pub(crate) fn keys(&self) -> &Arc<KeyCache> {
        &self.credential.shared.keys
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("user", &self.user()).finish_non_exhaustive()
    }
}
