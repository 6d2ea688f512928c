//! From configured targets to what the kernel protects and what the data plane dials.

use super::{callers, names::Names};
use crate::config::{Address, ClientTls, Config, TargetConfig, UpstreamTls, VaultConfig};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use lockgate_intercept::{Egress, EgressNet, GovernedSet, TargetNet};
use lockgate_model::{Secret, SecretRef, addr::UpstreamAddr, session::Mode};
use lockgate_proxy::{
    HttpSettings, TargetAddr, TargetSettings, TargetTable, Verifier,
    caller::{Explicit, TokenKey},
    catalogue::Catalogue,
    credential::{Credential, Secrets, Vault, VaultSettings},
    tls,
    upstream::Endpoint,
};
use lockgate_wire::postgres::PgString;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// A bundle of public roots has about 250 KB.
const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;

/// The targets with their certificates read. Addresses come and go ([`Targets::table`]), and so do registered targets.
pub(super) struct Targets {
    live: ArcSwap<Live>,
    secrets: Secrets,
    tokens: Option<Arc<TokenKey>>,
}

/// The targets of a moment: the configuration's, then those that are registered.
pub(super) struct Live {
    pub(super) configs: Vec<TargetConfig>,
    prepared: Vec<TargetSettings>,
    /// So many of them are the configuration's.
    pub(super) fixed: usize,
}

impl Targets {
    /// Reads what the configuration refers to.
    pub(super) async fn prepare(config: &Config, registered: Vec<TargetConfig>) -> anyhow::Result<Self> {
        let secrets = secrets(config).await?;
        let tokens = callers::key(config).context("the key of callers' tokens")?;
        let mut prepared = Vec::with_capacity(config.targets.len());
        for target in &config.targets {
            let place = || format!("targets: {}", target.target.name);
            let mut settings = settings(target, &secrets).await.with_context(place)?;
            settings.explicit =
                explicit(target, &settings, tokens.as_ref(), &secrets).await.with_context(place)?;
            prepared.push(settings);
        }
        let fixed = Live { configs: config.targets.clone(), prepared, fixed: config.targets.len() };
        let targets = Self { live: ArcSwap::from_pointee(fixed), secrets, tokens };
        targets.set(targets.with(registered).await?);
        Ok(targets)
    }

    /// Those of now.
    pub(super) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// The configuration's targets and these: what they refer to is read, nothing is in force yet.
    pub(super) async fn with(&self, registered: Vec<TargetConfig>) -> anyhow::Result<Live> {
        let now = self.live();
        let mut configs = now.configs.get(..now.fixed).unwrap_or_default().to_vec();
        let mut prepared = now.prepared.get(..now.fixed).unwrap_or_default().to_vec();
        for target in registered {
            let place = || format!("targets: {}", target.target.name);
            prepared.push(settings(&target, &self.secrets).await.with_context(place)?);
            configs.push(target);
        }
        Ok(Live { configs, prepared, fixed: now.fixed })
    }

    /// Tries every secret of a target, so that a mistake is told to whoever registers it. What comes is forgotten.
    pub(super) async fn try_secrets(&self, target: &TargetConfig) -> anyhow::Result<()> {
        for reference in target.secrets() {
            let place = || format!("targets: {}: a secret", target.target.name);
            material_of(&self.secrets, reference).await.with_context(place)?;
        }
        Ok(())
    }

    /// From now on these.
    pub(super) fn set(&self, live: Live) {
        self.live.store(Arc::new(live));
    }

    /// What tokens of callers are signed with, where some target takes them.
    pub(super) fn tokens(&self) -> Option<&Arc<TokenKey>> {
        self.tokens.as_ref()
    }

    /// Waits until the vault has its accounts back, once no session is left.
    pub(super) async fn given_back(&self, limit: Duration) {
        self.live().prepared.iter().for_each(|target| target.credential.forget());
        self.secrets.given_back(limit).await;
    }

    /// With the addresses of now.
    pub(super) fn settings(&self, names: &Names) -> Vec<TargetSettings> {
        let live = self.live();
        let pairs = live.prepared.iter().zip(&live.configs);
        pairs
            .map(|(prepared, target)| {
                let mut addresses = addresses(&target.addresses, names);
                // A captured connection that meant lockgate's own address means the target.
                addresses.extend(target.explicit.iter().map(|explicit| TargetAddr::Exact(explicit.listen)));
                TargetSettings { addresses, ..prepared.clone() }
            })
            .collect()
    }

    /// The same, as the data plane looks them up.
    pub(super) fn table(&self, names: &Names) -> TargetTable {
        TargetTable::new(self.settings(names))
    }
}

/// The destinations that are redirected. A target in observe mode is not among them.
pub(super) fn nets(targets: &[TargetConfig], names: &Names) -> Vec<TargetNet> {
    let redirected = targets.iter().filter(|target| match target.target.mode {
        Mode::Observe => false,
        Mode::Shadow | Mode::Enforce => true,
    });
    let redirected: Vec<&TargetConfig> = redirected.collect();
    // A governed process that dials lockgate's own address is captured like any other: it has no say in who it is.
    let listens = redirected.iter().filter_map(|target| target.explicit.as_ref()).filter_map(|explicit| {
        let ip = explicit.listen.ip();
        TargetNet::new(ip, longest(ip), explicit.listen.port())
    });
    let addresses = redirected.iter().flat_map(|target| &target.addresses);
    addresses.flat_map(|address| nets_of(address, names)).chain(listens).collect()
}

/// Who is governed. A target in observe mode is registered, so sets that refuse what is not let it pass.
pub(super) fn governed(config: &Config, targets: &[TargetConfig], names: &Names) -> Vec<GovernedSet> {
    let observed = targets.iter().filter(|target| target.target.mode == Mode::Observe);
    let observed: Vec<EgressNet> = observed
        .flat_map(|target| &target.addresses)
        .flat_map(|address| match address {
            Address::Net { ip, prefix, port } => {
                EgressNet::new(*ip, *prefix, Some(*port)).into_iter().collect()
            }
            Address::Host { name, port } => {
                let all = names.addresses(name).into_iter();
                all.filter_map(|ip| EgressNet::new(ip, longest(ip), Some(*port))).collect::<Vec<_>>()
            }
        })
        .collect();
    let with_observed = |set: &GovernedSet| match &set.egress {
        Egress::Deny(list) => {
            let list = list.iter().chain(&observed).copied().collect();
            GovernedSet { who: set.who.clone(), egress: Egress::Deny(list) }
        }
        Egress::Allow | Egress::Observe => set.clone(),
    };
    config.governed.iter().map(with_observed).collect()
}

/// The names that are redirected with their ports: what jobs are told of them is protected as well.
pub(super) fn named(targets: &[TargetConfig]) -> BTreeMap<String, BTreeSet<u16>> {
    let mut named: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for target in targets.iter().filter(|target| target.target.mode != Mode::Observe) {
        for address in &target.addresses {
            if let Address::Host { name, port } = address {
                named.entry(name.clone()).or_default().insert(*port);
            }
        }
    }
    named
}

/// A certificate, a CA bundle or a key. Bundles are larger than any secret, so files are read here.
pub(super) async fn material(reference: &SecretRef) -> anyhow::Result<Secret<Vec<u8>>> {
    material_of(&Secrets::default(), reference).await
}

async fn material_of(secrets: &Secrets, reference: &SecretRef) -> anyhow::Result<Secret<Vec<u8>>> {
    let SecretRef::File(path) = reference else {
        return Ok(secrets.resolve(reference).await?);
    };
    let size = tokio::fs::metadata(path).await.with_context(|| path.clone())?.len();
    anyhow::ensure!(size <= MAX_PEM_BYTES, "{path}: {size} bytes are more than any certificate bundle has");
    Ok(Secret::new(tokio::fs::read(path).await.with_context(|| path.clone())?))
}

/// Where references lead: this host, and the vault if there is one. Nothing is asked yet.
pub(crate) async fn secrets(config: &Config) -> anyhow::Result<Secrets> {
    match &config.vault {
        Some(vault) => Ok(Secrets::with_vault(Arc::new(connect(vault).await.context("vault")?))),
        None => Ok(Secrets::default()),
    }
}

/// The role that a target is worked with.
pub(crate) fn upstream_user(target: &TargetConfig) -> String {
    Credential::new(target.credential.clone(), Secrets::default()).user().to_owned()
}

/// The catalogue of a target's database, for tools: read with the agent's own credential, from the first address.
pub(crate) async fn catalogue(
    config: &Config,
    target: &TargetConfig,
    database: &str,
) -> anyhow::Result<Catalogue> {
    let secrets = secrets(config).await?;
    let prepared = settings(target, &secrets).await?;
    let (addr, host) = match target.addresses.first() {
        Some(Address::Net { ip, prefix, port }) if *prefix == longest(*ip) => {
            (SocketAddr::new(*ip, *port), ip.to_string())
        }
        Some(Address::Host { name, port }) => {
            let mut found =
                tokio::net::lookup_host((name.as_str(), *port)).await.with_context(|| name.clone())?;
            (found.next().with_context(|| format!("{name} has no address"))?, name.clone())
        }
        Some(Address::Net { .. }) | None => {
            anyhow::bail!("the first address of {} is a network; put a host's first", target.target.name)
        }
    };
    let host = prepared.upstream_host.unwrap_or(host);
    let endpoint = Endpoint::new(UpstreamAddr(addr), host, prepared.upstream_tls);
    Ok(Catalogue::new(endpoint, prepared.credential, PgString::lossy(database)))
}

async fn connect(vault: &VaultConfig) -> anyhow::Result<Vault> {
    let ca = match &vault.ca {
        Some(ca) => Some(material(ca).await.context("vault.ca")?),
        None => None,
    };
    Ok(Vault::new(VaultSettings {
        address: vault.address.clone(),
        ca,
        namespace: vault.namespace.clone(),
        auth: vault.auth.clone(),
        timeout: vault.timeout,
    })?)
}

async fn client_tls(target: &TargetConfig, secrets: &Secrets) -> anyhow::Result<Option<tls::ClientTls>> {
    match &target.client_tls {
        None => Ok(None),
        Some(ClientTls::Certificate { chain, key }) => {
            let chain = material_of(secrets, chain).await.context("client_tls.certificate")?;
            let key = material_of(secrets, key).await.context("client_tls.key")?;
            Ok(Some(tls::ClientTls::from_pem(chain.expose(), key.expose())?))
        }
        Some(ClientTls::Issue { ca, key, names, validity }) => {
            let ca = material_of(secrets, ca).await.context("client_tls.ca")?;
            let key = material_of(secrets, key).await.context("client_tls.ca_key")?;
            let authority = tls::Authority::from_pem("client_tls", ca.expose(), key.expose())?;
            let hosts = target.addresses.iter().filter_map(|address| match address {
                Address::Host { name, .. } => Some(name),
                Address::Net { .. } => None,
            });
            let mut all: Vec<String> = hosts.chain(&target.server_name).chain(names).cloned().collect();
            all.sort();
            all.dedup();
            Ok(Some(tls::ClientTls::issuing(authority, target.target.name.as_str(), all, *validity)))
        }
    }
}

async fn verifiers(target: &TargetConfig, secrets: &Secrets) -> anyhow::Result<HashMap<String, Verifier>> {
    let mut verifiers = HashMap::new();
    for (user, reference) in &target.client_auth {
        let place = || format!("client_auth: the verifier of {user:?}");
        let text = secrets.resolve(reference).await.with_context(place)?;
        let text = std::str::from_utf8(text.expose()).unwrap_or_default();
        verifiers.insert(user.clone(), text.parse().with_context(place)?);
    }
    Ok(verifiers)
}

async fn settings(target: &TargetConfig, secrets: &Secrets) -> anyhow::Result<TargetSettings> {
    let mode = match target.upstream_tls {
        UpstreamTls::Disable => tls::TlsMode::Disable,
        UpstreamTls::VerifyCa => tls::TlsMode::VerifyCa,
        UpstreamTls::VerifyFull => tls::TlsMode::VerifyFull,
    };
    let ca = match &target.upstream_ca {
        Some(ca) => Some(material_of(secrets, ca).await.context("upstream.ca")?),
        None => None,
    };
    let mut upstream_tls = tls::UpstreamTls::new(mode, ca.as_ref().map(|ca| ca.expose().as_slice()))?;
    if target.upstream_direct {
        upstream_tls = upstream_tls.direct();
    }
    let credential = Credential::new(target.credential.clone(), secrets.clone());
    credential.check().await?;
    Ok(TargetSettings {
        target: target.target.clone(),
        addresses: Vec::new(),
        client_tls: client_tls(target, secrets).await?,
        client_verifiers: Arc::new(verifiers(target, secrets).await?),
        session_in_application_name: target.session_in_application_name,
        dial_from: target.dial_from,
        http: Arc::new(HttpSettings { secrets: secrets.clone(), ..target.http.clone() }),
        explicit: None,
        upstream_tls,
        upstream_host: target.server_name.clone(),
        credential,
    })
}

/// How a target is served to those who dial lockgate itself.
async fn explicit(
    target: &TargetConfig,
    settings: &TargetSettings,
    tokens: Option<&Arc<TokenKey>>,
    secrets: &Secrets,
) -> anyhow::Result<Option<Explicit>> {
    let Some(explicit) = &target.explicit else { return Ok(None) };
    let tls = match (&settings.client_tls, &explicit.client_ca) {
        (Some(tls), Some(ca)) => {
            let ca = material_of(secrets, ca).await.context("callers.client_ca")?;
            Some(tls.asking(ca.expose())?)
        }
        (tls, _) => tls.clone(),
    };
    let tokens = tokens.filter(|_| explicit.tokens).cloned();
    Ok(Some(Explicit { listen: explicit.listen, tls, tokens }))
}

fn nets_of(address: &Address, names: &Names) -> Vec<TargetNet> {
    match address {
        Address::Net { ip, prefix, port } => TargetNet::new(*ip, *prefix, *port).into_iter().collect(),
        Address::Host { name, port } => {
            names.addresses(name).into_iter().filter_map(|ip| TargetNet::host(ip, *port)).collect()
        }
    }
}

/// What the data plane matches. A service on this host can be reached in many ways; the kernel side tells them
/// all by the registered address.
fn addresses(configured: &[Address], names: &Names) -> Vec<TargetAddr> {
    let one = |address: &Address| match address {
        Address::Net { ip, prefix, port } if *prefix == longest(*ip) => {
            TargetAddr::Exact(SocketAddr::new(*ip, *port))
        }
        Address::Net { ip, prefix, port } => TargetAddr::Network { base: *ip, prefix: *prefix, port: *port },
        Address::Host { name, port } => TargetAddr::Host {
            name: name.clone(),
            port: *port,
            resolved: names.addresses(name),
            told: names.told_to(name),
        },
    };
    configured.iter().map(one).collect()
}

fn longest(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_refuses_what_is_not_registered_lets_observed_targets_pass() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::create_dir(dir.path().join("policies")).unwrap();
        let target = |name: &str, mode: &str, address: &str| {
            format!(
                "- {{ name: {name}, protocol: postgres, mode: {mode}, addresses: [\"{address}\"], \
                 upstream: {{ tls: disable, credential: {{ user: app, password: {{ file: secret }} }} }} }}\n"
            )
        };
        let text = format!(
            "node: {{ name: n }}\ngovern:\n- {{ cgroup: /ci, capture: all, unregistered: deny, allow: [\"10.1.0.0/16:53\"] }}\n\
             - {{ cgroup: /other }}\ntargets:\n{}{}policies: [\"policies/\"]\nstore: \"sled:store\"\n",
            target("seen", "observe", "10.20.0.0/16:5432"),
            target("kept", "enforce", "10.30.0.1:5432"),
        );
        let path = dir.path().join("lockgate.yaml");
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap();
        let net =
            |text: &str, prefix, port| EgressNet::new(text.parse().unwrap(), prefix, Some(port)).unwrap();
        let governed = governed(&config, &config.targets, &Names::of(&config.targets));
        assert_eq!(
            governed[0].egress,
            Egress::Deny(vec![net("10.1.0.0", 16, 53), net("10.20.0.0", 16, 5432)])
        );
        assert_eq!(governed[1], config.governed[1]);
    }

    #[tokio::test]
    async fn certificates_may_be_larger_than_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, vec![b'x'; 300 * 1024]).unwrap();
        let file = SecretRef::File(path.display().to_string());
        assert_eq!(material(&file).await.unwrap().expose().len(), 300 * 1024);
        std::fs::write(&path, vec![b'x'; usize::try_from(MAX_PEM_BYTES).unwrap() + 1]).unwrap();
        assert!(material(&file).await.is_err());
    }
}
