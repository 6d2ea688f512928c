//! Asks platforms and issuers whether a workload is what it seems.
//!
//! The kernel's facts come in ([`Confirmer::confirm`]), and go out with what could be confirmed: the pod by the API
//! server and its own bound token, the CI job by its issuer's signature or its provider's answer. What could not be
//! confirmed stays as sure as it was, and says why, for approvers and records. Nothing here decides: rules do, by
//! assurance. Nothing here reads /proc either: a [`Witness`] does, for the one process that connected.
//!
//! What a job can write (environment, tokens, addresses) is only ever a *carrier* of proof. Addresses are asked when
//! configuration names their hosts; proof is taken from the first workload that shows it and refused to the next.

mod binding;
mod ci;
mod http;
mod jwt;
mod kind;
mod kubernetes;
mod looks;
mod memo;
mod settings;
mod telemetry;
mod tickets;
mod token_file;
mod turns;

pub use http::HttpError;
pub use settings::{
    BoundTokenSettings, CiProvider, IdentitySettings, Issuer, KindRule, Kubernetes, Provider, TicketRule,
    TokenCarrier,
};
pub use telemetry::describe_metrics;
pub(crate) use token_file::TokenFile;

use binding::{FirstSeen, Place};
use ci::Jobs;
use kind::Kinds;
use kubernetes::Cluster;
use lockgate_model::{
    flow::Flow,
    port::{Ambient, BoxFuture, Confirmer, Shelf, Witness},
    workload::Workload,
};
use looks::Looks;
use std::{sync::Arc, time::Duration};
use tickets::{Annotations, Tickets};
use turns::Turns;

/// Workloads that are confirmed at one time: each may wait for servers, and holds a process's secrets meanwhile.
const AT_ONCE: usize = 256;
/// Those of them from one cgroup.
const AT_ONCE_PER_CGROUP: usize = 16;

/// Why there is no confirmer.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The Kubernetes part.
    #[error("identity.kubernetes: {0}")]
    Kubernetes(HttpError),
    /// One issuer.
    #[error("identity.issuers: {0}: {1}")]
    Issuer(String, HttpError),
    /// One provider.
    #[error("identity.providers: {0}: {1}")]
    Provider(String, HttpError),
    /// One glob.
    #[error("{0:?} is no glob: {1}")]
    Glob(String, String),
    /// One kind of ticket.
    #[error("identity.tickets: {0:?}: {1}")]
    Ticket(String, String),
    /// What is kept of earlier jobs.
    #[error("which workloads jobs belong to cannot be read: {0}")]
    Bindings(std::io::Error),
}

/// Since the epoch.
fn seconds(ambient: &dyn Ambient) -> u64 {
    u64::try_from(ambient.now().as_second()).unwrap_or(0)
}

/// The confirmer.
pub struct Identity {
    ambient: Arc<dyn Ambient>,
    wait: Duration,
    cluster: Option<Cluster>,
    jobs: Jobs,
    kinds: Kinds,
    tickets: Tickets,
    turns: Turns,
    looks: Looks,
}

impl Identity {
    /// Sets up, and begins to follow the node's pods; must be called on a runtime that lives as long. Which workload showed
    /// a job's proof first is kept on `shelf`, which is read here; without one, in memory.
    ///
    /// # Errors
    /// When an address, a CA or a glob cannot be used. That a server is away is no error here.
    pub fn start(
        settings: IdentitySettings,
        witness: Arc<dyn Witness>,
        ambient: Arc<dyn Ambient>,
        shelf: Option<Arc<dyn Shelf>>,
    ) -> Result<Self, SetUpError> {
        let skew = settings.skew.as_secs();
        let seen = match shelf {
            Some(shelf) => FirstSeen::kept_on(shelf, seconds(&*ambient)).map_err(SetUpError::Bindings)?,
            None => FirstSeen::default(),
        };
        let tickets = Tickets::compile(&settings.tickets)?;
        let cluster =
            settings.kubernetes.as_ref().map(|cluster| Cluster::start(cluster, skew, tickets.annotations()));
        Ok(Self {
            ambient,
            wait: settings.wait,
            cluster: cluster.transpose()?,
            jobs: Jobs::new(&settings, seen)?,
            kinds: Kinds::compile(&settings.kinds)?,
            tickets,
            turns: Turns::new(AT_ONCE, AT_ONCE_PER_CGROUP),
            looks: Looks::new(witness),
        })
    }

    async fn confirmed(&self, flow: &Flow, workload: &mut Workload, annotations: &mut Annotations) {
        let now = seconds(&*self.ambient);
        if let Some(cluster) = &self.cluster {
            *annotations = cluster.name(workload).await;
            if let Some(pod) = workload.pod.as_mut().filter(|pod| pod.is_named() && cluster.wants_tokens()) {
                let token = self.looks.look(flow, |witness, flow| witness.service_account_token(flow)).await;
                cluster.prove(pod, token.flatten(), now).await;
            }
        }
        if self.jobs.is_needed() {
            let names = self.jobs.variables();
            let carried = self.looks.look(flow, move |witness, flow| witness.variables(flow, &names)).await;
            let age = self.looks.look(flow, |witness, flow| witness.age(flow)).await.flatten();
            let place = Place::of(flow, workload);
            let started = age.and_then(|age| now.checked_sub(age.as_secs()));
            self.jobs.confirm(workload, &carried.unwrap_or_default(), &place, started, now).await;
        }
    }
}

impl Confirmer for Identity {
    fn confirm<'a>(&'a self, flow: &'a Flow, mut workload: Workload) -> BoxFuture<'a, Workload> {
        Box::pin(async move {
            let before = workload.clone();
            let mut annotations = Annotations::new();
            let work = async {
                let _turn = self.turns.take(flow.process.cgroup_id).await;
                self.confirmed(flow, &mut workload, &mut annotations).await;
            };
            let in_time = tokio::time::timeout(self.wait, work).await.is_ok();
            if !in_time {
                // What was confirmed until then may be half of it.
                workload = before.clone();
                let why = format!("nothing was confirmed within {} ms", self.wait.as_millis());
                if let Some(pod) = &mut workload.pod {
                    pod.unconfirmed = Some(why.clone());
                }
                if let Some(ci) = &mut workload.ci {
                    ci.unconfirmed = Some(why);
                }
                crate::telemetry::unconfirmed("late");
            }
            self.kinds.apply(&mut workload);
            workload.tickets = self.tickets.of(before.ci.as_ref(), &workload, &annotations);
            workload
        })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
