//! Which pod it is: the kernel gives the uid, the API server the names, the cluster's own signature the proof.
//!
//! A pod that the API server does not show within a bounded wait stays a uid, and rules that need more deny. The pod's
//! bound service-account token is read only to be verified; it is never kept, logged or sent anywhere.

mod pod;
mod watch;

use crate::{
    Kubernetes, SetUpError, TokenFile,
    http::{self, Http},
    jwt::{
        self, Expected, TokenError,
        keys::{KeySet, Source},
    },
    tickets::Annotations,
};
use lockgate_model::{
    Secret,
    workload::{Assurance, Pod, PodAssurance, Workload},
};
use serde_json::Value;
use std::time::Duration;
use tokio::{task::AbortHandle, time::Instant};
use watch::{Api, Pods};

/// A bound token lives for an hour, or a year where a cluster still extends them for old clients
/// (kube-apiserver --service-account-extend-token-expiration). Its pod's life bounds it anyway: the uid must be the
/// kernel's, and that pod is running.
const MAX_LIFETIME: u64 = 366 * 24 * 3600;

/// What follows one node's pods.
#[derive(Debug)]
pub(crate) struct Cluster {
    pods: Pods,
    wait: Duration,
    bound: Option<BoundTokens>,
    node: String,
    follower: AbortHandle,
}

#[derive(Debug)]
struct BoundTokens {
    keys: KeySet,
    issuer: String,
    audience: String,
    skew: u64,
}

/// Why a pod's token proves nothing.
#[derive(Debug, thiserror::Error)]
enum BoundError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("it is bound to {what} {got:?}, the kernel or the API server says {expected:?}")]
    Other { what: &'static str, expected: String, got: String },
}

impl Cluster {
    /// Begins to follow; must be called on a runtime.
    /// `annotations` are those of a pod that are kept.
    pub(crate) fn start(
        settings: &Kubernetes,
        skew: u64,
        annotations: Vec<String>,
    ) -> Result<Self, SetUpError> {
        let fail = |cause| SetUpError::Kubernetes(cause);
        let http = Http::new(settings.ca_pem.as_deref()).map_err(fail)?;
        let server = http::address(&settings.server).map_err(fail)?;
        let token = settings.token.clone().map(TokenFile::new);
        let bound = settings.bound_tokens.as_ref().map(|bound| {
            let mut keys = server.clone();
            keys.set_path(&format!("{}/openid/v1/jwks", server.path().trim_end_matches('/')));
            BoundTokens {
                keys: KeySet::new(http.clone(), Source::At(keys), token.clone()),
                issuer: bound.issuer.clone(),
                audience: bound.audience.clone(),
                skew,
            }
        });
        let pods = Pods::new();
        let api = Api { http, server, token, node: settings.node.clone(), annotations };
        let follower = tokio::spawn(pods.clone().follow(api)).abort_handle();
        Ok(Self { pods, wait: settings.wait, bound, node: settings.node.clone(), follower })
    }

    pub(crate) fn wants_tokens(&self) -> bool {
        self.bound.is_some()
    }

    /// Names the pod, as far as the API server does in time; gives the annotations of it that are kept.
    pub(crate) async fn name(&self, workload: &mut Workload) -> Annotations {
        let Some(pod) = &mut workload.pod else { return Annotations::new() };
        let container = workload.container.as_mut().filter(|container| !container.claimed);
        match self.pods.wait_for(&pod.uid, Instant::now() + self.wait).await {
            Ok(facts) => {
                facts.put_into(pod, container.as_ref().map(|container| container.id.as_str()));
                // With the cgroupfs driver only the API server knows the runtime.
                if let Some(container) = container.filter(|container| container.runtime == "unknown")
                    && let Some(running) = facts.containers.get(&container.id)
                {
                    container.runtime.clone_from(&running.runtime);
                }
                facts.annotations.clone()
            }
            Err(why) => {
                crate::telemetry::unconfirmed("pod");
                pod.unconfirmed = Some(why);
                Annotations::new()
            }
        }
    }

    /// Takes a pod's own token as proof, if it is one.
    pub(crate) async fn prove(&self, pod: &mut Pod, token: Option<Secret<String>>, now: u64) {
        let (Some(bound), true) = (&self.bound, pod.is_named()) else { return };
        let Some(token) = token else { return };
        match bound.check(&token, pod, &self.node, now).await {
            Ok(()) => pod.assurance = PodAssurance(Assurance::Attested),
            Err(error) => {
                crate::telemetry::unconfirmed("pod_token");
                pod.unconfirmed = Some(format!("its service account's token is refused: {error}"));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl BoundTokens {
    async fn check(&self, token: &Secret<String>, pod: &Pod, node: &str, now: u64) -> Result<(), BoundError> {
        let head = jwt::head(token.expose())?;
        let key = self.keys.key(&head.kid).await?;
        let expected = Expected {
            issuer: &self.issuer,
            audience: &self.audience,
            skew: self.skew,
            max_lifetime: MAX_LIFETIME,
            now,
        };
        let claims = jwt::check(token.expose(), &key, expected)?;
        let text =
            |pointer: &[&str]| claims.at(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let known = |text: &Option<String>| text.clone().unwrap_or_default();
        // Legacy tokens have no pod and never end; they fail here at the latest.
        const ROOT: &str = "kubernetes.io";
        same("pod", &pod.uid, text(&[ROOT, "pod", "uid"]))?;
        same("namespace", &known(&pod.namespace), text(&[ROOT, "namespace"]))?;
        same("service account", &known(&pod.service_account), text(&[ROOT, "serviceaccount", "name"]))?;
        // Said since Kubernetes 1.30.
        match text(&[ROOT, "node", "name"]) {
            named if named.is_empty() => Ok(()),
            named => same("node", node, named),
        }
    }
}

fn same(what: &'static str, expected: &str, got: String) -> Result<(), BoundError> {
    if !expected.is_empty() && expected == got {
        return Ok(());
    }
    let got = got.chars().take(80).collect();
    Err(BoundError::Other { what, expected: expected.to_owned(), got })
}

#[cfg(test)]
mod tests;
