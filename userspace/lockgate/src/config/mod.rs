//! The configuration file: read, judged once, and handed on as types that cannot be wrong.
//!
//! Two readings: [`Config::read`] is the agent's, and checks everything it can without opening a secret;
//! [`Client::read`] is that of the verbs that only talk to an agent, and asks for no more than a job's user
//! may read. Secrets stay references here; `lockgate_proxy::credential` fetches them.

mod address;
pub(crate) mod channels;
mod check;
pub(crate) mod login;
mod raw;
#[cfg(test)]
mod tests;

pub(crate) use address::Address;
pub(crate) use raw::UpstreamTls;

use lockgate_intercept::{GovernedSet, Instance};
use lockgate_model::{
    SecretRef,
    id::{GroupName, NodeName},
    session::{Mode, Target},
};
use lockgate_policy::{Diagnostic, SourceFile, diagnostic::suggest, yaml::Spanned};
use lockgate_proxy::{
    DialFrom, Injection,
    credential::{CertificateSource, CredentialSettings, VaultAuth},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Where the configuration is looked for unless told otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/lockgate/lockgate.yaml";
/// Where the store is unless told otherwise.
const DEFAULT_STORE: &str = "/var/lib/lockgate";
/// Where `lockgate run` puts commands when no cgroup is governed by name.
const DEFAULT_RUN_CGROUP: &str = "/lockgate/run";
/// A configuration is written by people; more than this is another file.
const MAX_BYTES: u64 = 1024 * 1024;

/// Everything the agent is told.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The file.
    pub(crate) path: PathBuf,
    pub(crate) node: NodeName,
    pub(crate) instance: Instance,
    /// How long governed connections wait for the next agent, when this one ends in order.
    pub(crate) restart_grace: Duration,
    /// Whose egress is redirected; holds `run_cgroup` too.
    pub(crate) governed: Vec<GovernedSet>,
    pub(crate) targets: Vec<TargetConfig>,
    /// Where targets are registered while the agent runs, a file each.
    pub(crate) targets_dir: PathBuf,
    /// Files and directories of policy.
    pub(crate) policies: Vec<PathBuf>,
    pub(crate) store: Store,
    pub(crate) webhooks: Vec<Webhook>,
    /// Other ways to reach people.
    pub(crate) channels: Vec<channels::Channel>,
    /// Who has several ids, or owns bots.
    pub(crate) people: Vec<lockgate_control::PersonSettings>,
    pub(crate) api: Api,
    /// Who may log in.
    pub(crate) login: Option<login::Login>,
    pub(crate) vault: Option<VaultConfig>,
    /// Who is asked about workloads.
    pub(crate) identity: Option<IdentityConfig>,
    /// Interfaces by which only the proxy sends to targets.
    pub(crate) guarded: Vec<String>,
    /// Whether the host's ends of pods' interfaces are guarded as well.
    pub(crate) guard_pods: bool,
    /// Besides root, who may use `lockgate run`.
    pub(crate) run_uids: BTreeSet<u32>,
    /// Under which cgroup `lockgate run` gives each command one of its own.
    pub(crate) run_cgroup: String,
    /// Threads of the data plane; None: one a core.
    pub(crate) data_plane_threads: Option<NonZeroUsize>,
    /// The most that is done anywhere.
    pub(crate) mode: Mode,
    /// How often what is only seen is recorded.
    pub(crate) observe_every: Duration,
    /// What becomes of the log besides being written.
    pub(crate) evidence: EvidenceConfig,
    /// What is odd, but no error.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// `evidence:` and `telemetry:`.
#[derive(Clone, Debug, Default)]
pub(crate) struct EvidenceConfig {
    pub(crate) checkpoints: Option<Checkpoints>,
    pub(crate) recordings: Option<RecordingsConfig>,
    pub(crate) retention: Option<RetentionConfig>,
    pub(crate) otlp: Option<OtlpConfig>,
}

impl EvidenceConfig {
    /// Every object store, and which key names it.
    pub(crate) fn objects(&self) -> Vec<(&'static str, &ObjectsConfig)> {
        let heads =
            self.checkpoints.iter().flat_map(|checkpoints| &checkpoints.to).filter_map(|to| match to {
                CheckpointSink::Objects(objects) => Some(("evidence.checkpoints", objects)),
                CheckpointSink::File(_) | CheckpointSink::Url { .. } => None,
            });
        let recordings = self.recordings.iter().map(|config| ("evidence.recordings", &config.objects));
        let archive = self.retention.iter().filter_map(|config| config.archive.as_ref());
        heads.chain(recordings).chain(archive.map(|to| ("evidence.retention.archive", to))).collect()
    }
}

/// Signed heads that are sent off the host.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    pub(crate) every: Duration,
    pub(crate) to: Vec<CheckpointSink>,
}

/// One place for them.
#[derive(Clone, Debug)]
pub(crate) enum CheckpointSink {
    /// Appended to.
    File(PathBuf),
    /// Posted, signed as a webhook is.
    Url { url: String, secret: SecretRef, ca: Option<SecretRef> },
    /// An object each.
    Objects(ObjectsConfig),
}

/// An object store.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectsConfig {
    pub(crate) to: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) access_key: Option<String>,
    pub(crate) secret_key: Option<SecretRef>,
    /// Nothing is stored in a bucket that does not retain it by default.
    pub(crate) lock_required: bool,
}

/// Sessions as objects of their own.
#[derive(Clone, Debug)]
pub(crate) struct RecordingsConfig {
    pub(crate) objects: ObjectsConfig,
    /// Of all sessions, or of those alone whose target's tags demand it.
    pub(crate) all: bool,
    pub(crate) refuse_after: Duration,
}

/// How long records are kept.
#[derive(Clone, Debug)]
pub(crate) struct RetentionConfig {
    pub(crate) keep: Duration,
    pub(crate) every: Duration,
    /// Segments are removed whole.
    pub(crate) segment_bytes: Option<u64>,
    pub(crate) archive: Option<ObjectsConfig>,
}

/// An OTLP receiver.
#[derive(Clone, Debug)]
pub(crate) struct OtlpConfig {
    pub(crate) endpoint: String,
    pub(crate) authorization: Option<SecretRef>,
    pub(crate) ca: Option<SecretRef>,
    pub(crate) sample: f64,
}

/// One entry of `targets:`.
#[derive(Clone, Debug)]
pub(crate) struct TargetConfig {
    pub(crate) target: Arc<Target>,
    pub(crate) addresses: Vec<Address>,
    /// None: answer N to SSLRequest.
    pub(crate) client_tls: Option<ClientTls>,
    /// Users that are asked for SCRAM, and their verifiers.
    pub(crate) client_auth: Vec<(String, SecretRef)>,
    pub(crate) session_in_application_name: bool,
    /// For those who dial lockgate itself.
    pub(crate) explicit: Option<Explicit>,
    /// From which network namespace it is dialled.
    pub(crate) dial_from: DialFrom,
    pub(crate) upstream_tls: UpstreamTls,
    /// Begin with TLS instead of asking for it.
    pub(crate) upstream_direct: bool,
    /// Trusted instead of the public roots.
    pub(crate) upstream_ca: Option<SecretRef>,
    /// Verified instead of the name or address in `addresses`.
    pub(crate) server_name: Option<String>,
    pub(crate) credential: CredentialSettings,
    /// For HTTP; its secrets are not looked up here.
    pub(crate) http: lockgate_proxy::HttpSettings,
}

impl TargetConfig {
    /// Every reference that leads to a secret, for whoever tries them.
    pub(crate) fn secrets(&self) -> Vec<&SecretRef> {
        let mut secrets: Vec<&SecretRef> = self.credential.password.iter().collect();
        match &self.credential.certificate {
            Some(
                CertificateSource::Given { certificate: public, key }
                | CertificateSource::Issued { ca: public, key, .. },
            ) => secrets.extend([public, key]),
            Some(CertificateSource::Vault { .. }) | None => {}
        }
        match &self.client_tls {
            Some(
                ClientTls::Certificate { chain: public, key } | ClientTls::Issue { ca: public, key, .. },
            ) => {
                secrets.extend([public, key]);
            }
            None => {}
        }
        secrets.extend(self.explicit.iter().filter_map(|explicit| explicit.client_ca.as_ref()));
        secrets.extend(self.http.injections.iter().map(|injection| match injection {
            Injection::Header { value: secret, .. }
            | Injection::Bearer(secret)
            | Injection::Basic { password: secret, .. } => secret,
        }));
        secrets.extend(self.client_auth.iter().map(|(_, verifier)| verifier));
        secrets
    }
}

/// `listen:` and `callers:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explicit {
    pub(crate) listen: SocketAddr,
    pub(crate) tokens: bool,
    pub(crate) client_ca: Option<SecretRef>,
}

/// What clients are shown.
#[derive(Clone, Debug)]
pub(crate) enum ClientTls {
    /// A certificate chain and its key.
    Certificate { chain: SecretRef, key: SecretRef },
    /// A CA that signs one for the name that the client asks for.
    Issue {
        ca: SecretRef,
        key: SecretRef,
        /// Besides those in `addresses` and `server_name`.
        names: Vec<String>,
        validity: Duration,
    },
}

/// `identity:`; the settings are whole but for what the references beside them lead to.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentityConfig {
    pub(crate) settings: lockgate_identity::IdentitySettings,
    pub(crate) cluster_ca: Option<SecretRef>,
    /// One for each issuer.
    pub(crate) issuer_cas: Vec<Option<SecretRef>>,
    /// CA and token, for each provider.
    pub(crate) provider_secrets: Vec<(Option<SecretRef>, Option<SecretRef>)>,
}

/// `vault:`
#[derive(Clone, Debug)]
pub(crate) struct VaultConfig {
    pub(crate) address: String,
    pub(crate) ca: Option<SecretRef>,
    pub(crate) namespace: Option<String>,
    pub(crate) auth: VaultAuth,
    pub(crate) timeout: Duration,
}

/// Where records rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) dir: PathBuf,
    /// Where the signed head goes; by default apart from the log, in the store's own directory.
    pub(crate) head: Option<PathBuf>,
    /// Where records go from there, when nodes share a store.
    pub(crate) shared: Option<SharedStore>,
}

/// A database that nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedStore {
    pub(crate) url: String,
    pub(crate) password: Option<SecretRef>,
    pub(crate) ca: Option<SecretRef>,
    /// What may wait for it.
    pub(crate) spool_bytes: u64,
}

/// One entry of `webhooks:`.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    pub(crate) name: String,
    pub(crate) url: String,
    /// None only beside a template.
    pub(crate) secret: Option<SecretRef>,
    pub(crate) decision_secret: Option<SecretRef>,
    pub(crate) speaks_for: Vec<Spanned<GroupName>>,
    pub(crate) ca: Option<SecretRef>,
    pub(crate) allow_private: bool,
    pub(crate) follow_ups: bool,
    pub(crate) events: Option<Vec<String>>,
}

/// `api:`
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) public_url: Option<String>,
    pub(crate) socket: PathBuf,
    pub(crate) local_approvers: BTreeMap<u32, Vec<Spanned<GroupName>>>,
    /// Chain and key.
    pub(crate) tls: Option<(SecretRef, SecretRef)>,
    /// Where TLS ends, when it ends in front.
    pub(crate) proxies: Vec<lockgate_control::auth::settings::Net>,
}

impl Store {
    /// What tokens of callers are signed with; only root enters the store.
    pub(crate) fn caller_key(&self) -> PathBuf {
        self.dir.join("keys/callers.key")
    }

    /// Where the keeper of listeners is met; only root enters the store.
    pub(crate) fn keeper(&self) -> PathBuf {
        self.dir.join("keeper.sock")
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("there is no configuration at {}; name one with --config FILE or LOCKGATE_CONFIG", .0.display())]
    Missing(PathBuf),
    #[error("the configuration {} cannot be read: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: io::Error },
    #[error("{}", list(.diagnostics))]
    Invalid {
        /// The text that the positions point into, when it is this file's.
        text: Option<String>,
        /// Never empty.
        diagnostics: Vec<Diagnostic>,
    },
}

fn list(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        Self::parse(path, &text).map_err(|diagnostics| ConfigError::Invalid { text: Some(text), diagnostics })
    }

    /// Checks what is registered beside this file, one target a file, as this file's own targets are checked.
    pub(crate) fn registered(&self, files: &[SourceFile]) -> Result<Vec<TargetConfig>, Vec<Diagnostic>> {
        check::registered(self, files)
    }

    fn named_groups(&self) -> impl Iterator<Item = &Spanned<GroupName>> {
        let webhooks = self.webhooks.iter().flat_map(|webhook| &webhook.speaks_for);
        let channels = self.channels.iter().flat_map(|channel| channel.spoken_for());
        let logins = self.login.iter().flat_map(|login| login.spoken_for());
        webhooks.chain(channels).chain(logins).chain(self.api.local_approvers.values().flatten())
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let raw = lockgate_policy::yaml::parse(&path.display().to_string(), text)?;
        check::check(path, raw)
    }

    /// The groups that somebody votes for, through an integration or on this host.
    pub(crate) fn spoken_for(&self) -> BTreeSet<GroupName> {
        self.named_groups().map(|group| group.value.clone()).collect()
    }

    /// What is wrong with the groups this file names, now that the policy's groups are known.
    pub(crate) fn unknown_groups(&self, known: &[GroupName]) -> Vec<Diagnostic> {
        self.named_groups()
            .filter(|group| !known.contains(&group.value))
            .map(|group| {
                let message = format!("no policy defines the group `{}`", group.value);
                let help = suggest(group.value.as_str(), known.iter().map(GroupName::as_str))
                    .unwrap_or_else(|| "define it under `groups:` in a policy file".to_owned());
                group.at.diagnostic(&self.path.display().to_string(), message, Some(help))
            })
            .collect()
    }
}

/// What the verbs that talk to an agent need to know.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) socket: PathBuf,
    pub(crate) store: Store,
    pub(crate) instance: Instance,
    /// `policies:`, not looked at.
    pub(crate) policies: Vec<PathBuf>,
}

impl Client {
    /// Reads a file without looking at what it refers to.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let parsed = lockgate_policy::yaml::parse(&path.display().to_string(), &text)
            .and_then(|raw| check::client(path, &raw));
        parsed.map_err(|diagnostics| ConfigError::Invalid { text: Some(text), diagnostics })
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    use io::Read as _;
    let unreadable = |cause| ConfigError::Unreadable { path: path.to_owned(), cause };
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ConfigError::Missing(path.to_owned()),
        _ => unreadable(error),
    })?;
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(unreadable(io::Error::other(format!("it is larger than {MAX_BYTES} bytes"))));
    }
    Ok(text)
}
