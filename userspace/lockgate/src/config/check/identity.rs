//! Who is asked about workloads: addresses that may be asked, and what a job must not be able to choose.

use super::{Checker, raw};
use crate::config::IdentityConfig;
use lockgate_identity::{
    BoundTokenSettings, CiProvider, IdentitySettings, Issuer, KindRule, Kubernetes, Provider, TicketRule,
    TokenCarrier,
};
use lockgate_model::{SecretRef, workload::TicketSource};
use lockgate_policy::yaml::{Position, Spanned};
use raw::identity as given;
use std::{path::PathBuf, time::Duration};

/// A connection waits for all of it; drivers give up after 10 to 30 seconds.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(20));
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// The API server shows a pod before the kubelet starts it; the watch brings it within a second.
const POD_WAIT: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(20));
const DEFAULT_POD_WAIT: Duration = Duration::from_secs(2);
/// Hosts whose clocks differ by more have other troubles.
const SKEW: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(300));
const DEFAULT_SKEW: Duration = Duration::from_secs(30);
/// A caller token is short-lived: a job's longest time is a day, and most tokens live for minutes.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
const DEFAULT_LIFETIME: Duration = Duration::from_secs(2 * 3600);
/// Where a pod finds what the kubelet gives it.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What kubeadm and most installers name the cluster's issuer.
const CLUSTER_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

impl Checker {
    pub(super) fn identity(&mut self, raw: &given::Identity, node: &str) -> Option<IdentityConfig> {
        let nothing = raw.kubernetes.is_none()
            && raw.issuers.is_empty()
            && raw.providers.is_empty()
            && raw.kinds.is_empty()
            && raw.tickets.is_empty();
        if nothing {
            return None;
        }
        let settings = IdentitySettings {
            wait: self.bounded("identity.wait", raw.wait.as_ref(), WAIT).unwrap_or(DEFAULT_WAIT),
            skew: self.bounded("identity.skew", raw.skew.as_ref(), SKEW).unwrap_or(DEFAULT_SKEW),
            ..IdentitySettings::default()
        };
        let mut config = IdentityConfig { settings, ..IdentityConfig::default() };
        if let Some(cluster) = &raw.kubernetes {
            let (kubernetes, ca) = self.cluster(cluster, node);
            config.settings.kubernetes = Some(kubernetes);
            config.cluster_ca = ca;
        }
        for issuer in &raw.issuers {
            if let Some((issuer, ca)) = self.issuer(issuer) {
                config.settings.issuers.push(issuer);
                config.issuer_cas.push(ca);
            }
        }
        for provider in &raw.providers {
            let (provider, ca, token) = self.provider(provider);
            config.settings.providers.push(provider);
            config.provider_secrets.push((ca, token));
        }
        config.settings.kinds = raw.kinds.iter().map(|rule| self.kind(rule)).collect();
        config.settings.tickets = raw.tickets.iter().map(|rule| self.ticket(rule)).collect();
        Some(config)
    }

    fn cluster(&mut self, spanned: &Spanned<given::Cluster>, node: &str) -> (Kubernetes, Option<SecretRef>) {
        let raw = &spanned.value;
        let beside = |name: &str| PathBuf::from(SERVICE_ACCOUNT).join(name);
        // Told nothing, this agent is a pod itself.
        let server = match &raw.server {
            Some(server) => self.https("identity.kubernetes.server", server),
            None => in_cluster().unwrap_or_else(|| {
                let help = "outside a pod, set identity.kubernetes.server: https://HOST:PORT";
                self.error(spanned.at, "the API server's address is not known", Some(help));
                String::new()
            }),
        };
        let ca = match (&raw.ca, &raw.server) {
            (Some(ca), _) => self.file_or_secret(spanned.at, "identity.kubernetes.ca", ca),
            (None, None) => Some(SecretRef::File(beside("ca.crt").display().to_string())),
            (None, Some(_)) => None,
        };
        let token = match (&raw.token_file, &raw.server) {
            (Some(path), _) => Some(self.resolve(&path.value)),
            (None, None) => Some(beside("token")),
            (None, Some(_)) => None,
        };
        let wait = self.bounded("identity.kubernetes.wait", raw.wait.as_ref(), POD_WAIT);
        let bound_tokens = raw.bound_tokens.as_ref().map(|bound| {
            let issuer = bound.issuer.clone().unwrap_or_else(|| CLUSTER_ISSUER.to_owned());
            BoundTokenSettings { audience: bound.audience.clone().unwrap_or_else(|| issuer.clone()), issuer }
        });
        let node = raw.node.as_ref().map_or(node, |node| &node.value).to_owned();
        let kubernetes = Kubernetes {
            server,
            ca_pem: None,
            token,
            node,
            wait: wait.unwrap_or(DEFAULT_POD_WAIT),
            bound_tokens,
        };
        (kubernetes, ca)
    }

    fn issuer(&mut self, spanned: &Spanned<given::Issuer>) -> Option<(Issuer, Option<SecretRef>)> {
        let raw = &spanned.value;
        let issuer = self.https("identity.issuers.issuer", &raw.issuer);
        let jwks = raw.jwks.as_ref().map(|jwks| self.https("identity.issuers.jwks", jwks));
        if raw.audience.value.is_empty() {
            let help = "the audience that jobs ask tokens for, such as lockgate";
            self.error(raw.audience.at, "identity.issuers.audience is empty", Some(help));
        }
        let ca = raw.ca.as_ref().and_then(|ca| self.file_or_secret(spanned.at, "identity.issuers.ca", ca));
        let lifetime = self.bounded("identity.issuers.max_lifetime", raw.max_lifetime.as_ref(), LIFETIME);
        let carrier = self.carrier(spanned.at, raw)?;
        let issuer = Issuer {
            provider: provider(raw.provider),
            issuer,
            audience: raw.audience.value.clone(),
            jwks,
            ca_pem: None,
            max_lifetime: lifetime.unwrap_or(DEFAULT_LIFETIME),
            carrier,
        };
        Some((issuer, ca))
    }

    fn carrier(&mut self, at: Position, raw: &given::Issuer) -> Option<TokenCarrier> {
        const HELP: &str = "set variable: NAME (a token in the job's environment), or request_hosts: [GLOB] (where GitHub's \
                            ACTIONS_ID_TOKEN_REQUEST_URL may point)";
        match (&raw.variable, raw.request_hosts.as_slice()) {
            (Some(name), []) if name.value.is_empty() || name.value.contains(['=', '\0']) => {
                self.error(name.at, format!("{:?} is no name of a variable", name.value), None);
                None
            }
            (Some(name), []) => Some(TokenCarrier::Variable(name.value.clone())),
            (None, hosts @ [_, ..]) => {
                for host in hosts.iter().filter(|host| reaches_anybody(&host.value)) {
                    let message = format!("{:?} lets a job choose where its token is asked for", host.value);
                    let help = "name a host, or all below a domain of the provider's: *.actions.githubusercontent.com";
                    self.error(host.at, message, Some(help));
                }
                let hosts = hosts.iter().map(|host| host.value.clone()).collect();
                Some(TokenCarrier::Request { hosts })
            }
            (Some(_), [_, ..]) | (None, []) => {
                self.error(at, "an issuer needs exactly one of variable and request_hosts", Some(HELP));
                None
            }
        }
    }

    fn provider(
        &mut self,
        spanned: &Spanned<given::Provider>,
    ) -> (Provider, Option<SecretRef>, Option<SecretRef>) {
        let raw = &spanned.value;
        let key = "identity.providers";
        let url = self.https(&format!("{key}.url"), &raw.url);
        let ca = raw.ca.as_ref().and_then(|ca| self.file_or_secret(spanned.at, &format!("{key}.ca"), ca));
        let token = raw.token.as_ref().and_then(|token| self.secret(&format!("{key}.token"), token));
        match raw.provider {
            given::CiProvider::Gitlab if raw.runners.is_empty() => self.warn(
                spanned.at,
                "without runners, a GitLab job counts as `platform`, not `attested`: its token may come from elsewhere",
                Some("list the ids of this host's runners: runners: [\"12\"]"),
            ),
            given::CiProvider::Gitlab | given::CiProvider::GithubActions => {}
        }
        let provider = Provider {
            provider: provider(raw.provider),
            url,
            ca_pem: None,
            token: None,
            runners: raw.runners.clone(),
            namespaces: raw.namespaces.clone(),
        };
        (provider, ca, token)
    }

    fn kind(&mut self, spanned: &Spanned<given::KindRule>) -> KindRule {
        let given::KindRule {
            kind,
            units,
            cgroups,
            uids,
            namespaces,
            service_accounts,
            repositories,
            actors,
        } = &spanned.value;
        let lists = [units, cgroups, namespaces, service_accounts, repositories, actors];
        if uids.is_empty() && lists.iter().all(|list| list.is_empty()) {
            let help = "name units, cgroups, uids, namespaces, service_accounts, repositories or actors";
            self.error(spanned.at, "this entry of identity.kinds matches nothing", Some(help));
        }
        KindRule {
            kind: *kind,
            units: units.clone(),
            cgroups: cgroups.clone(),
            uids: uids.clone(),
            namespaces: namespaces.clone(),
            service_accounts: service_accounts.clone(),
            repositories: repositories.clone(),
            actors: actors.clone(),
        }
    }

    fn ticket(&mut self, spanned: &Spanned<given::TicketRule>) -> TicketRule {
        let given::TicketRule { pattern, url, from, annotation } = &spanned.value;
        let place = |place: &given::TicketPlace| match place {
            given::TicketPlace::Branch => TicketSource::Branch,
            given::TicketPlace::CommitMessage => TicketSource::CommitMessage,
            given::TicketPlace::MergeRequest => TicketSource::MergeRequest,
        };
        let rule = TicketRule {
            pattern: pattern.value.clone(),
            url: url.as_ref().map(|url| url.value.clone()),
            from: from.iter().map(place).collect(),
            annotation: annotation.clone(),
        };
        if let Err(error) = rule.check() {
            self.error(pattern.at, error.to_string(), Some("such as pattern: '\\b[A-Z]+-[0-9]+\\b'"));
        }
        let is_address = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        if let Some(url) = url.as_ref().filter(|url| !is_address(&url.value)) {
            let message = format!("identity.tickets.url: expected http(s)://…, got {:?}", url.value);
            self.error(url.at, message, Some("such as https://tickets.example.com/browse/{ticket}"));
        }
        rule
    }

    fn https(&mut self, key: &str, url: &Spanned<String>) -> String {
        let rest = url.value.strip_prefix("https://").unwrap_or_default();
        if rest.is_empty() || rest.starts_with('/') || rest.contains(['@', '#', ' ']) {
            let message = format!("{key}: expected https://HOST[:PORT][/PATH], got {:?}", url.value);
            self.error(url.at, message, Some("what it says is believed: its certificate is what proves it"));
        }
        url.value.clone()
    }
}

/// Whether a glob of hosts says nothing of whose they are: `*`, `*.com`.
fn reaches_anybody(glob: &str) -> bool {
    let fixed = glob.rsplit(['*', '?', ']', '}']).next().unwrap_or_default();
    let host = fixed.split(':').next().unwrap_or_default();
    let wild = fixed.len() != glob.len();
    host.is_empty() || (wild && (!host.starts_with('.') || host.trim_matches('.').matches('.').count() < 1))
}

fn provider(raw: given::CiProvider) -> CiProvider {
    match raw {
        given::CiProvider::GithubActions => CiProvider::GithubActions,
        given::CiProvider::Gitlab => CiProvider::Gitlab,
    }
}

/// What the kubelet tells every pod.
fn in_cluster() -> Option<String> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty())?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
    Some(if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_of_hosts_must_say_whose_they_are() {
        for (glob, anybody) in [
            ("*.actions.githubusercontent.com", false),
            ("pipelines.actions.githubusercontent.com", false),
            ("github.example.com:8443", false),
            ("*.example.com:8443", false),
            ("*", true),
            ("*:443", true),
            ("*.com", true),
            ("*githubusercontent.com", true),
            ("{a,b}", true),
            ("", true),
        ] {
            assert_eq!(reaches_anybody(glob), anybody, "{glob}");
        }
    }
}
