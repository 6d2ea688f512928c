//! From what is written to what is meant: every check that needs no secret and no network.
//!
//! All findings are collected, so that one run shows them all.

mod channels;
mod credential;
mod evidence;
mod http;
mod identity;
mod login;
mod store;

use super::{
    Address, Api, Client, Config, DEFAULT_RUN_CGROUP, Store, TargetConfig, UpstreamTls, Webhook,
    raw::{self, PathOrSecret, Raw, SecretText, Spanned},
};
use lockgate_control::auth::settings::Net;
use lockgate_intercept::{Egress, Governed, GovernedSet, Instance};
use lockgate_model::{
    SecretRef,
    id::{GroupName, NodeName},
    session::{DefaultEffect, Mode, Protocol, Target},
};
use lockgate_policy::{Diagnostic, yaml::Position};
use lockgate_proxy::{DialFrom, MAX_LANES};
use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How often what is only seen is recorded, unless told otherwise.
const OBSERVE_EVERY: Duration = Duration::from_secs(60);
/// What is added up is lost with a crash.
const MAX_OBSERVE_EVERY: Duration = Duration::from_secs(3600);
/// An agent starts within a second; its configuration, its vault and its names may take some more.
const RESTART_GRACE: Duration = Duration::from_secs(10);
/// Clients that wait longer have mostly given up.
const MAX_RESTART_GRACE: Duration = Duration::from_secs(60);
/// Where targets are registered, in the store's directory, unless told otherwise.
const TARGETS_DIR: &str = "targets.d";
/// A tag that says: this target may not go unrecorded.
const RECORD_TAG: (&str, &str) = ("record", "required");
/// Deeper cgroups are not seen by the kernel's ancestor walk; the root would govern the whole host.
const CGROUP_HELP: &str = "write a path below the cgroup-v2 mount, such as /lockgate/run";

pub(super) fn check(path: &Path, raw: Raw) -> Result<Config, Vec<Diagnostic>> {
    let mut checker = Checker::new(path);
    checker.has_vault = raw.vault.is_some();
    checker.most = raw.mode.as_ref().map_or(Mode::Enforce, |mode| mode.value);
    checker.tell_ceiling(raw.mode.as_ref());
    let place = checker.place(&raw);
    let evidence = checker.evidence(&raw.evidence, &raw.telemetry, &place.store.dir);
    let vault = raw.vault.as_ref().and_then(|vault| checker.vault(vault));
    let targets = checker.targets(&raw.targets);
    let (governed, run_cgroup) = checker.governed(&raw);
    let policies = checker.policies(&raw.policies);
    let webhooks = checker.webhooks(&raw.webhooks);
    let channels = checker.channels(&raw.channels, &raw.webhooks);
    let people = checker.people(&raw.people);
    let api = checker.api(&raw.api, place.socket);
    let login = checker.login(raw.login.as_ref(), &raw.api, api.listen);
    if let Some(webhook) = raw.webhooks.iter().find(|webhook| webhook.value.decision_secret.is_some())
        && api.listen.is_none()
        && api.public_url.is_none()
    {
        checker.error(
            webhook.at,
            "decisions of this webhook have nowhere to go",
            Some("set api.listen, and api.public_url when integrations reach it under another address"),
        );
    }
    let answers = |channel: &&Spanned<raw::channels::Channel>| {
        channel.value.decision_secret.is_some() || !channel.value.approvers.is_empty()
    };
    if let Some(channel) = raw.channels.iter().find(answers)
        && api.listen.is_none()
        && api.public_url.is_none()
    {
        let help = "set api.listen, and api.public_url when they reach it under another address";
        checker.error(channel.at, "decisions of this channel have nowhere to go", Some(help));
    }
    let node = checker.node(&raw.node);
    let data_plane_threads = raw.data_plane.threads.as_ref().and_then(|threads| checker.threads(threads));
    let identity = checker.identity(&raw.identity, node.as_str());
    let restart_grace = checker
        .bounded("node.restart_grace", raw.node.restart_grace.as_ref(), (Duration::ZERO, MAX_RESTART_GRACE))
        .unwrap_or(RESTART_GRACE);
    let guarded = checker.guarded(&raw.guard);
    let observe_every = checker
        .bounded("observe.every", raw.observe.every.as_ref(), (Duration::from_secs(1), MAX_OBSERVE_EVERY))
        .unwrap_or(OBSERVE_EVERY);
    if !checker.errors.is_empty() {
        return Err(checker.errors);
    }
    let targets_dir = raw
        .targets_dir
        .as_ref()
        .map_or_else(|| place.store.dir.join(TARGETS_DIR), |dir| checker.resolve(dir));
    Ok(Config {
        path: path.to_owned(),
        node,
        instance: place.instance,
        restart_grace,
        governed,
        targets,
        targets_dir,
        policies,
        store: place.store,
        webhooks,
        channels,
        people,
        api,
        login,
        vault,
        identity,
        guarded,
        guard_pods: raw.guard.pods,
        run_uids: raw.run.allow_uids.into_iter().collect(),
        run_cgroup,
        data_plane_threads,
        mode: checker.most,
        observe_every,
        evidence,
        warnings: checker.warnings,
    })
}

/// Targets that are registered beside the configuration, a file each, named after the target.
pub(super) fn registered(
    config: &Config,
    files: &[lockgate_policy::SourceFile],
) -> Result<Vec<TargetConfig>, Vec<Diagnostic>> {
    let mut checker = Checker::new(&config.path);
    checker.has_vault = config.vault.is_some();
    checker.most = config.mode;
    let mut found: Vec<TargetConfig> = Vec::new();
    for file in files {
        checker.file.clone_from(&file.path);
        match lockgate_policy::yaml::parse::<Spanned<raw::Target>>(&file.path, &file.text) {
            Ok(raw) => {
                checker.registered_alone(&raw.value, Path::new(&file.path));
                let others = config.targets.iter().chain(&found);
                checker.registered_beside(&raw.value, others);
                found.extend(checker.targets(std::slice::from_ref(&raw)));
            }
            Err(diagnostics) => checker.errors.extend(diagnostics),
        }
    }
    if checker.errors.is_empty() { Ok(found) } else { Err(checker.errors) }
}

pub(super) fn client(path: &Path, raw: &Raw) -> Result<Client, Vec<Diagnostic>> {
    let mut checker = Checker::new(path);
    let place = checker.place(raw);
    let policies = raw.policies.iter().map(|policy| checker.resolve(&policy.value)).collect();
    if !checker.errors.is_empty() {
        return Err(checker.errors);
    }
    let Place { store, socket, instance } = place;
    Ok(Client { socket, store, instance, policies })
}

struct Checker {
    file: String,
    base: PathBuf,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    has_vault: bool,
    /// The most that is done anywhere.
    most: Mode,
}

/// Where this agent's things are.
struct Place {
    store: Store,
    socket: PathBuf,
    instance: Instance,
}

impl Checker {
    fn new(path: &Path) -> Self {
        let base = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        // Absolute, so that nothing depends on where the agent happens to run.
        let base = std::path::absolute(&base).unwrap_or(base);
        Self {
            file: path.display().to_string(),
            base,
            errors: Vec::new(),
            warnings: Vec::new(),
            has_vault: false,
            most: Mode::Enforce,
        }
    }

    /// A mode for everything is said aloud: nothing is kept from anybody.
    fn tell_ceiling(&mut self, mode: Option<&Spanned<Mode>>) {
        let Some(mode) = mode else { return };
        let what = match mode.value {
            Mode::Enforce => return,
            Mode::Shadow => {
                "mode: shadow for everything: operations are decided and recorded, nothing is refused, held or masked"
            }
            Mode::Observe => {
                "mode: observe for everything: nothing is redirected, decided or masked; who talks to what is recorded"
            }
        };
        self.warn(mode.at, what, Some("leave `mode` out, and every target's own mode counts"));
    }

    fn error(&mut self, at: Position, message: impl Into<String>, help: Option<&str>) {
        self.errors.push(at.diagnostic(&self.file, message, help.map(str::to_owned)));
    }

    fn warn(&mut self, at: Position, message: impl Into<String>, help: Option<&str>) {
        self.warnings.push(at.diagnostic(&self.file, message, help.map(str::to_owned)));
    }

    fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    fn place(&mut self, raw: &Raw) -> Place {
        let store = self.store(raw);
        let socket = match &raw.api.socket {
            Some(path) => self.resolve(path),
            // Beside the store, not in it: only root may enter the store.
            None => {
                let mut beside = store.dir.clone().into_os_string();
                beside.push(".sock");
                beside.into()
            }
        };
        let instance = match &raw.node.instance {
            None => Instance::default(),
            Some(name) => Instance::new(&name.value).unwrap_or_else(|error| {
                self.error(name.at, error.to_string(), None);
                Instance::default()
            }),
        };
        Place { store, socket, instance }
    }

    fn threads(&mut self, threads: &Spanned<usize>) -> Option<NonZeroUsize> {
        let count = NonZeroUsize::new(threads.value).filter(|count| count.get() <= MAX_LANES);
        if count.is_none() {
            let what = format!("expected 1 to {MAX_LANES} threads, got {}", threads.value);
            self.error(threads.at, what, Some("leave it out for one a core"));
        }
        count
    }

    fn node(&mut self, raw: &raw::Node) -> NodeName {
        match &raw.name {
            Some(name) if is_label(&name.value) => name.value.as_str().into(),
            Some(name) => {
                let message = format!("{:?} is not a node name", name.value);
                self.error(name.at, message, Some("use 1 to 64 letters, digits, `.`, `_` or `-`"));
                "".into()
            }
            None => {
                // A pod is told its node's name in the cluster, which need not be the host's own.
                let told = std::env::var("LOCKGATE_NODE").ok().filter(|name| is_label(name));
                let own = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
                let name = told.or_else(own).filter(|name| is_label(name));
                name.as_deref().unwrap_or("localhost").into()
            }
        }
    }

    fn governed(&mut self, raw: &Raw) -> (Vec<GovernedSet>, String) {
        let mut governed: Vec<GovernedSet> = Vec::new();
        let mut first_cgroup = None;
        for entry in &raw.govern {
            let egress = self.egress(entry, raw.mode.as_ref());
            for who in self.governs(entry) {
                // What `lockgate run` starts is governed, not only seen.
                if let Governed::Cgroup(path) = &who
                    && egress != Egress::Observe
                {
                    first_cgroup.get_or_insert_with(|| path.clone());
                }
                governed.push(GovernedSet { who, egress: egress.clone() });
            }
        }
        let configured = raw.run.cgroup.as_ref().and_then(|path| self.cgroup(path));
        let run = configured.or(first_cgroup).unwrap_or_else(|| DEFAULT_RUN_CGROUP.to_owned());
        let below = |path: &String| run == *path || run.starts_with(&format!("{path}/"));
        if !governed.iter().any(|set| matches!(&set.who, Governed::Cgroup(path) if below(path))) {
            let egress = match observes(raw.mode.as_ref()) {
                true => Egress::Observe,
                false => Egress::Allow,
            };
            governed.push(GovernedSet { who: Governed::Cgroup(run.clone()), egress });
        }
        (governed, run)
    }

    /// Whom an entry of `govern:` names.
    fn governs(&mut self, entry: &Spanned<raw::Govern>) -> Vec<Governed> {
        match &entry.value {
            raw::Govern { cgroup: Some(path), systemd_unit: None, uid: None, within: None, .. } => {
                self.cgroup(path).map(Governed::Cgroup).into_iter().collect()
            }
            raw::Govern { cgroup: None, systemd_unit: Some(pattern), uid: None, within, .. } => {
                if pattern.value.trim().is_empty() || pattern.value == "*" {
                    let message = format!("{:?} does not name units", pattern.value);
                    let help = "write a unit or a glob, such as actions.runner.*.service";
                    self.error(pattern.at, message, Some(help));
                }
                let pattern = pattern.value.clone();
                match within {
                    None => vec![Governed::Unit(pattern)],
                    Some(parent) => {
                        let parent = self.cgroup(parent);
                        parent.map(|parent| Governed::UnitWithin { parent, pattern }).into_iter().collect()
                    }
                }
            }
            raw::Govern { cgroup: None, systemd_unit: None, uid: Some(uids), within: None, .. } => {
                if uids.0.is_empty() {
                    self.error(entry.at, "an empty list of uids governs nobody", None);
                }
                uids.0.iter().copied().map(Governed::Uid).collect()
            }
            raw::Govern { .. } => {
                let message =
                    "expected one of `cgroup`, `systemd_unit`, `uid`; `within` goes with `systemd_unit`";
                self.error(entry.at, message, Some("write an entry for each"));
                Vec::new()
            }
        }
    }

    fn guarded(&mut self, guard: &raw::Guard) -> Vec<String> {
        // IFNAMSIZ, with its terminating zero.
        const LONGEST: usize = 15;
        for name in &guard.interfaces {
            let fits = (1..=LONGEST).contains(&name.value.len())
                && !name.value.contains(|c: char| c == '/' || c.is_whitespace());
            if !fits {
                self.error(name.at, "expected the name of a network interface, such as eth0", None);
            }
        }
        guard.interfaces.iter().map(|name| name.value.clone()).collect()
    }

    /// What an entry of `govern:` lets reach besides targets.
    fn egress(&mut self, entry: &Spanned<raw::Govern>, most: Option<&Spanned<Mode>>) -> Egress {
        let raw::Govern { capture, unregistered, allow, mode, .. } = &entry.value;
        if let Some(mode) = mode.as_ref().filter(|mode| mode.value == raw::GovernMode::Observe) {
            if *capture != raw::Capture::Registered || unregistered.is_some() || !allow.is_empty() {
                let help = "`capture`, `unregistered` and `allow` come with mode: enforce";
                self.error(mode.at, "a set that is only observed is refused nothing", Some(help));
            }
            let help =
                "mode: enforce redirects its connections to targets, whose own mode says what happens then";
            self.warn(
                mode.at,
                "this set is in mode: observe: nothing of it is redirected, decided or masked; who talks to what is recorded",
                Some(help),
            );
            return Egress::Observe;
        }
        if observes(most) {
            return Egress::Observe;
        }
        let default = unregistered.as_ref().map(|effect| effect.value);
        let denies = match (capture, default) {
            (raw::Capture::Registered, Some(_)) => {
                let help = "add capture: all";
                self.error(entry.at, "`unregistered` means nothing with capture: registered", Some(help));
                false
            }
            (raw::Capture::Registered, None) | (raw::Capture::All, Some(DefaultEffect::Allow)) => false,
            (raw::Capture::All, Some(DefaultEffect::Deny) | None) => true,
        };
        if !denies && !allow.is_empty() {
            let help = "what is not registered passes anyway; write capture: all and unregistered: deny";
            self.error(entry.at, "`allow` means nothing where nothing is denied", Some(help));
        }
        let mut nets = Vec::new();
        for text in allow {
            match super::address::egress(&text.value) {
                Ok(net) => nets.push(net),
                Err(error) => self.error(text.at, error.to_string(), None),
            }
        }
        if denies { Egress::Deny(nets) } else { Egress::Allow }
    }

    fn cgroup(&mut self, path: &Spanned<String>) -> Option<String> {
        let relative = Path::new(path.value.trim_start_matches('/'));
        let mut parts = relative.components().peekable();
        if parts.peek().is_none() || !parts.all(|part| matches!(part, Component::Normal(_))) {
            self.error(path.at, format!("{:?} is not the path of a cgroup", path.value), Some(CGROUP_HELP));
            return None;
        }
        Some(format!("/{}", relative.display()).trim_end_matches('/').to_owned())
    }

    fn policies(&mut self, raw: &[Spanned<String>]) -> Vec<PathBuf> {
        raw.iter()
            .map(|policy| {
                let path = self.resolve(&policy.value);
                if !path.exists() {
                    self.error(
                        policy.at,
                        format!("{} does not exist", path.display()),
                        Some("policies are files or directories, relative to this file"),
                    );
                }
                path
            })
            .collect()
    }

    fn targets(&mut self, raw: &[Spanned<raw::Target>]) -> Vec<TargetConfig> {
        let mut names: HashMap<&str, Position> = HashMap::new();
        let mut taken: HashMap<Address, (&str, Position)> = HashMap::new();
        let mut targets = Vec::new();
        for spanned in raw {
            let target = &spanned.value;
            let name = &target.name;
            if !is_label(&name.value) {
                let message = format!("{:?} is not a target name", name.value);
                self.error(name.at, message, Some("use 1 to 64 letters, digits, `.`, `_` or `-`"));
            }
            if let Some(Position { line, .. }) = names.insert(&name.value, name.at) {
                let message =
                    format!("two targets are named `{}`; the other one is on line {line}", name.value);
                self.error(name.at, message, None);
            }
            let addresses = self.addresses(target);
            for (address, position) in &addresses {
                match taken.insert(address.clone(), (&name.value, *position)) {
                    Some((other, Position { line, .. })) if other != name.value => {
                        let message =
                            format!("{address} belongs to the target `{other}` already (line {line})");
                        self.error(
                            *position,
                            message,
                            Some("an address leads to one target; the most specific prefix wins"),
                        );
                    }
                    Some(_) | None => {}
                }
            }
            targets.push(self.target(target, addresses.into_iter().map(|(address, _)| address).collect()));
        }
        targets
    }

    /// What only a registered target may not.
    fn registered_alone(&mut self, target: &raw::Target, file: &Path) {
        if file.file_stem().and_then(std::ffi::OsStr::to_str) != Some(&target.name.value) {
            let message = format!("the target `{}` stands in a file of another name", target.name.value);
            let help = format!("call the file {}.yaml", target.name.value);
            self.error(target.name.at, message, Some(&help));
        }
        if let Some(listen) = &target.listen {
            let help = "write this target in the configuration file";
            self.error(listen.at, "`listen` is bound when the agent starts", Some(help));
        }
    }

    /// A name and an address belong to one target, wherever it is registered.
    fn registered_beside<'a>(
        &mut self,
        target: &raw::Target,
        others: impl Iterator<Item = &'a TargetConfig>,
    ) {
        for other in others {
            let name = &other.target.name;
            if name.as_str() == target.name.value {
                self.error(target.name.at, format!("there is a target `{name}` already"), None);
            }
            for text in &target.addresses {
                if text.value.parse().is_ok_and(|address: Address| other.addresses.contains(&address)) {
                    let message = format!("{} belongs to the target `{name}` already", text.value);
                    let help = "an address leads to one target; the most specific prefix wins";
                    self.error(text.at, message, Some(help));
                }
            }
        }
    }

    fn addresses(&mut self, target: &raw::Target) -> Vec<(Address, Position)> {
        if target.addresses.is_empty() {
            self.error(
                target.name.at,
                "a target without addresses is never reached",
                Some("add addresses: [\"10.0.0.1:5432\"]"),
            );
        }
        let mut addresses = Vec::new();
        for text in &target.addresses {
            match text.value.parse() {
                Ok(address) => addresses.push((address, text.at)),
                Err(error) => {
                    let error: super::address::AddressError = error;
                    self.error(text.at, error.to_string(), None);
                }
            }
        }
        addresses
    }

    fn target(&mut self, raw: &raw::Target, addresses: Vec<Address>) -> TargetConfig {
        let name_at = raw.name.at;
        let tags: BTreeMap<String, String> =
            raw.tags.iter().map(|(key, tag)| (key.clone(), tag.0.clone())).collect();
        let mode = raw.mode.as_ref().map_or(Mode::Enforce, |mode| mode.value);
        let mode = least(mode, self.most);
        let (tag, demand) = RECORD_TAG;
        if mode == Mode::Observe && tags.get(tag).is_some_and(|value| value == demand) {
            self.error(
                raw.mode.as_ref().map_or(name_at, |mode| mode.at),
                format!(
                    "the tag `{tag}: {demand}` of `{}` forbids mode: observe, which records connections and no operations",
                    raw.name.value
                ),
                Some("use mode: shadow: it decides and records, and refuses nothing"),
            );
        }
        let at = raw.mode.as_ref().map_or(name_at, |mode| mode.at);
        match mode {
            Mode::Enforce => {}
            Mode::Shadow => self.warn(
                at,
                format!(
                    "`{}` is in mode: shadow: operations are decided and recorded, nothing is refused, held or masked",
                    raw.name.value
                ),
                Some("what is to be masked leaves the target as it is until mode: enforce"),
            ),
            Mode::Observe => self.warn(
                at,
                format!(
                    "`{}` is in mode: observe: connections to it are not redirected; who makes them is recorded, and no operation is",
                    raw.name.value
                ),
                Some("mode: shadow decides and records operations, and refuses nothing"),
            ),
        }
        let client_tls = self.client_tls(raw);
        let client_auth = self.client_auth(&raw.client_auth);
        let explicit = self.explicit(raw, mode, &addresses);
        let upstream = &raw.upstream;
        let ca = upstream.ca.as_ref();
        if upstream.tls == UpstreamTls::Disable && (ca.is_some() || upstream.server_name.is_some()) {
            self.error(
                name_at,
                "upstream.ca and upstream.server_name mean nothing with tls: disable",
                Some("use tls: verify-full"),
            );
        }
        if upstream.tls == UpstreamTls::VerifyCa && ca.is_none() {
            self.error(
                name_at,
                "tls: verify-ca needs upstream.ca: a public CA signs anybody's certificate",
                Some("set upstream.ca, or use tls: verify-full"),
            );
        }
        let any = |wanted: fn(&Address) -> bool| addresses.iter().any(wanted);
        if upstream.tls == UpstreamTls::VerifyFull
            && upstream.server_name.is_none()
            && any(
                |address| matches!(address, Address::Net { ip, prefix, .. } if *prefix < if ip.is_ipv4() { 32 } else { 128 }),
            )
        {
            self.warn(
                name_at,
                format!(
                    "`{}` has a prefix: each server's certificate must carry its IP address",
                    raw.name.value
                ),
                Some("set upstream.server_name when they carry a name"),
            );
        }
        let http = self.http(raw);
        let credential = match raw.protocol {
            Protocol::Postgres => self.credential(name_at, upstream),
            Protocol::Http => self.http_login(raw),
        };
        let upstream_direct = self.direct(upstream);
        let upstream_ca = ca.and_then(|ca| self.file_or_secret(name_at, "upstream.ca", ca));
        TargetConfig {
            target: Arc::new(Target {
                name: raw.name.value.as_str().into(),
                protocol: raw.protocol,
                tags,
                mode,
                default: raw.default.unwrap_or(DefaultEffect::Deny),
            }),
            addresses,
            client_tls,
            client_auth,
            session_in_application_name: raw.session_in_application_name,
            explicit,
            dial_from: match upstream.dial_from {
                raw::DialFrom::Client => DialFrom::Client,
                raw::DialFrom::Host => DialFrom::Host,
            },
            upstream_tls: upstream.tls,
            upstream_direct,
            upstream_ca,
            server_name: upstream.server_name.as_ref().map(|name| name.value.clone()),
            credential,
            http,
        }
    }

    /// `listen:` of a target.
    fn explicit(&mut self, raw: &raw::Target, mode: Mode, addresses: &[Address]) -> Option<super::Explicit> {
        let Some(listen) = &raw.listen else {
            if let Some(callers) = &raw.callers {
                self.error(
                    callers.at,
                    "`callers` means nothing without `listen`",
                    Some("add listen: ADDRESS:PORT"),
                );
            }
            return None;
        };
        let Ok(addr) = listen.value.parse::<std::net::SocketAddr>() else {
            let message = format!("expected ADDRESS:PORT, got {:?}", listen.value);
            self.error(listen.at, message, Some("such as 10.0.0.5:6432"));
            return None;
        };
        if addr.ip().is_unspecified() || addr.port() == 0 {
            let help = "governed processes that dial it are redirected, so it has to be known: write an address of this host and a port";
            self.error(listen.at, format!("{addr} is no address that can be protected"), Some(help));
        }
        if mode == Mode::Observe {
            self.error(listen.at, "mode: observe serves nobody", Some("use mode: shadow or enforce"));
        }
        let single = |address: &Address| match address {
            Address::Host { .. } => true,
            Address::Net { ip, prefix, .. } => *prefix == if ip.is_ipv4() { 32 } else { 128 },
        };
        if !addresses.iter().any(single) {
            let help = "put the address of one server first: it is where callers are taken to";
            self.error(listen.at, "every address of this target is a network", Some(help));
        }
        let same = |address: &Address| matches!(address, Address::Net { ip, port, .. } if *ip == addr.ip() && *port == addr.port());
        if addresses.iter().any(same) {
            self.error(listen.at, format!("{addr} is where the target itself is"), None);
        }
        let inside_tls =
            matches!(&raw.client_tls, Some(tls) if matches!(tls.value, raw::ClientTls::Terminate(_)));
        if !inside_tls && !addr.ip().is_loopback() {
            let help =
                "set client_tls.certificate and key, or ca and ca_key: tokens are not sent in the clear";
            self.error(listen.at, "`listen` beyond loopback needs client_tls", Some(help));
        }
        let callers = raw.callers.as_ref();
        let ca = callers.and_then(|callers| callers.value.client_ca.as_ref());
        if ca.is_some() && !inside_tls {
            self.error(listen.at, "callers.client_ca needs client_tls", None);
        }
        let tokens = callers.and_then(|callers| callers.value.tokens).unwrap_or(true);
        if !tokens && ca.is_none() {
            self.error(
                listen.at,
                "nobody could say who it is",
                Some("set callers.tokens: true or callers.client_ca"),
            );
        }
        let client_ca = ca.and_then(|ca| self.file_or_secret(listen.at, "callers.client_ca", ca));
        Some(super::Explicit { listen: addr, tokens, client_ca })
    }

    fn people(&mut self, raw: &[Spanned<raw::Person>]) -> Vec<lockgate_control::PersonSettings> {
        let mut known: HashMap<String, (Position, usize)> = HashMap::new();
        let mut people = Vec::new();
        for (index, person) in raw.iter().map(|spanned| &spanned.value).enumerate() {
            for id in person.ids.iter().chain([&person.name]) {
                if id.value.trim().is_empty() {
                    self.error(id.at, "an id that is empty is nobody's", None);
                }
                let other = known.insert(lockgate_policy::approval::fold(&id.value), (id.at, index));
                if let Some((at, _)) = other.filter(|(_, other)| *other != index) {
                    let message = format!("`{}` is another person's id too, on line {}", id.value, at.line);
                    self.error(id.at, message, Some("an id is one person's; people are counted by it"));
                }
            }
            people.push(lockgate_control::PersonSettings {
                name: person.name.value.clone(),
                ids: person.ids.iter().map(|id| id.value.clone()).collect(),
                owns: person.owns.clone(),
            });
        }
        people
    }

    fn webhooks(&mut self, raw: &[Spanned<raw::Webhook>]) -> Vec<Webhook> {
        let mut names: HashMap<&str, Position> = HashMap::new();
        let mut webhooks = Vec::new();
        for webhook in raw.iter().map(|spanned| &spanned.value) {
            let name = &webhook.name;
            if !is_label(&name.value) {
                let message = format!("{:?} is not a webhook name", name.value);
                self.error(name.at, message, Some("use 1 to 64 letters, digits, `.`, `_` or `-`"));
            }
            if let Some(Position { line, .. }) = names.insert(&name.value, name.at) {
                let message =
                    format!("two webhooks are named `{}`; the other one is on line {line}", name.value);
                self.error(name.at, message, None);
            }
            if !is_http(&webhook.url.value) {
                let message = format!("{:?} is not an http:// or https:// URL", webhook.url.value);
                self.error(webhook.url.at, message, None);
            }
            if webhook.decision_secret.is_some() && webhook.speaks_for.is_empty() {
                let help = "name the policy groups whose members decide through it: speaks_for: [dba]";
                self.warn(
                    name.at,
                    format!("no decision of `{}` can count: speaks_for is empty", name.value),
                    Some(help),
                );
            }
            let secret = self.secret("secret", &webhook.secret);
            let decision_secret =
                webhook.decision_secret.as_ref().and_then(|s| self.secret("decision_secret", s));
            let ca = webhook.ca.as_ref().and_then(|ca| self.file_or_secret(name.at, "ca", ca));
            let Some(secret) = secret else { continue };
            let events = webhook.events.as_ref();
            webhooks.push(Webhook {
                name: name.value.clone(),
                url: webhook.url.value.clone(),
                secret: Some(secret),
                decision_secret,
                speaks_for: webhook.speaks_for.iter().map(group).collect(),
                ca,
                allow_private: webhook.allow_private,
                follow_ups: webhook.follow_ups.unwrap_or(true),
                events: events.map(|events| events.iter().map(|event| event.value.clone()).collect()),
            });
        }
        webhooks
    }

    /// Whose word counts about who asks. On loopback only this host's own can be meant.
    fn proxies(&mut self, raw: &raw::Api, listen: Option<std::net::SocketAddr>) -> Vec<Net> {
        let mut proxies = Vec::new();
        for proxy in &raw.proxies {
            match proxy.value.parse::<Net>() {
                Ok(net) => proxies.push(net),
                Err(error) => {
                    self.error(proxy.at, format!("api.proxies: {error}"), Some("such as 10.0.0.0/8"))
                }
            }
        }
        if let Some(first) = raw.proxies.first().filter(|_| !raw.behind_proxy) {
            self.error(
                first.at,
                "api.proxies means nothing without a proxy",
                Some("set api.behind_proxy: true"),
            );
        }
        if raw.behind_proxy && raw.proxies.is_empty() {
            let on_loopback = listen.is_none_or(|listen| listen.ip().is_loopback());
            match raw.listen.as_ref().filter(|_| !on_loopback) {
                Some(listen) => {
                    let help = "set api.proxies: [ADDRESS/BITS, …]; only their X-Forwarded-For is believed";
                    self.error(listen.at, "behind a proxy, but from where it asks is not said", Some(help));
                }
                None => {
                    proxies.extend(["127.0.0.0/8", "::1"].iter().filter_map(|net| net.parse::<Net>().ok()))
                }
            }
        }
        proxies
    }

    fn api(&mut self, raw: &raw::Api, socket: PathBuf) -> Api {
        let listen =
            raw.listen.as_ref().and_then(|listen| match listen.value.parse::<std::net::SocketAddr>() {
                Ok(addr) => {
                    if !addr.ip().is_loopback() && raw.tls.is_none() && !raw.behind_proxy {
                        let help = "set api.tls: {certificate, key}; or, when TLS ends in a proxy in front, \
                                    api.behind_proxy: true and api.proxies: [ADDRESS/BITS]; or listen on loopback";
                        let message = format!("{addr} would be reachable from other hosts by plain HTTP");
                        self.error(listen.at, message, Some(help));
                    }
                    Some(addr)
                }
                Err(_) => {
                    let message = format!("expected ADDRESS:PORT, got {:?}", listen.value);
                    self.error(listen.at, message, Some("such as 127.0.0.1:8420"));
                    None
                }
            });
        if let Some(url) = raw.public_url.as_ref().filter(|url| !is_http(&url.value)) {
            let message = format!("{:?} is not an http:// or https:// URL", url.value);
            self.error(url.at, message, None);
        }
        let proxies = self.proxies(raw, listen);
        let tls = raw.tls.as_ref().and_then(|tls| {
            let chain = self.file_or_secret(tls.at, "api.tls.certificate", &tls.value.certificate);
            let key = self.file_or_secret(tls.at, "api.tls.key", &tls.value.key);
            chain.zip(key)
        });
        Api {
            tls,
            proxies,
            listen,
            public_url: raw.public_url.as_ref().map(|url| url.value.clone()),
            socket,
            local_approvers: raw
                .local_approvers
                .iter()
                .map(|(uid, groups)| (uid.0, groups.iter().map(group).collect()))
                .collect(),
        }
    }

    fn secret(&mut self, key: &str, secret: &Spanned<SecretText>) -> Option<SecretRef> {
        match &secret.value {
            SecretText::Reference(reference) => self.reference(secret.at, key, reference),
            SecretText::Inline => {
                self.inline(secret.at, key);
                None
            }
        }
    }

    fn file_or_secret(&mut self, at: Position, key: &str, value: &PathOrSecret) -> Option<SecretRef> {
        match value {
            PathOrSecret::Path(path) => self.reference(at, key, &SecretRef::File(path.clone())),
            PathOrSecret::Reference(reference) => self.reference(at, key, reference),
            PathOrSecret::Inline => {
                self.inline(at, key);
                None
            }
        }
    }

    fn inline(&mut self, at: Position, key: &str) {
        let help = format!(
            "write {key}: {{ file: PATH }}, {{ env: NAME }}, {{ command: [PROGRAM, ARGUMENT] }} or {{ vault: PATH#FIELD }}"
        );
        self.error(at, format!("{key} is written out; only a reference to it may stand here"), Some(&help));
    }

    /// Makes paths absolute, and finds the reference that cannot lead anywhere.
    fn reference(&mut self, at: Position, key: &str, reference: &SecretRef) -> Option<SecretRef> {
        match reference {
            SecretRef::File(path) => {
                let path = self.resolve(path);
                if !path.exists() {
                    self.error(at, format!("{key}: {} does not exist", path.display()), None);
                    return None;
                }
                Some(SecretRef::File(path.display().to_string()))
            }
            SecretRef::Env(name) if name.is_empty() || name.contains(['=', '\0']) => {
                self.error(at, format!("{key}: {name:?} is not the name of an environment variable"), None);
                None
            }
            SecretRef::Command(argv) if argv.first().is_none_or(String::is_empty) => {
                self.error(
                    at,
                    format!("{key}: the command is empty"),
                    Some("write command: [PROGRAM, ARGUMENT]"),
                );
                None
            }
            SecretRef::Vault(path) => self.vault_reference(at, key, path).then(|| reference.clone()),
            SecretRef::Env(_) | SecretRef::Command(_) => Some(reference.clone()),
        }
    }
}

/// Whether nothing at all is redirected.
fn observes(most: Option<&Spanned<Mode>>) -> bool {
    most.is_some_and(|mode| mode.value == Mode::Observe)
}

/// The one that does less.
fn least(one: Mode, other: Mode) -> Mode {
    match (one, other) {
        (Mode::Observe, _) | (_, Mode::Observe) => Mode::Observe,
        (Mode::Shadow, _) | (_, Mode::Shadow) => Mode::Shadow,
        (Mode::Enforce, Mode::Enforce) => Mode::Enforce,
    }
}

fn group(name: &Spanned<String>) -> Spanned<GroupName> {
    Spanned { value: name.value.as_str().into(), at: name.at }
}

/// Names become parts of ids, metric labels and file names.
fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !url.contains(char::is_whitespace))
}
