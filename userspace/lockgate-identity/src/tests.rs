//! The whole way, from what a job shows to what is believed of it, against stand-ins that speak the providers' shapes.

mod github;
mod gitlab;
mod kinds;
mod oidc;

use crate::{
    CiProvider, IdentitySettings, Issuer, Provider, TokenCarrier,
    jwt::testing::Signer,
    testing::{Answer, Clock, StandIn, StandInUrl as _, World, in_pod, in_unit, plain},
};
use lockgate_model::{
    principal::Principal,
    workload::{Assurance, CiAssurance, CiJob, IdentityKind, Workload},
};
use serde_json::{Value, json};
use std::time::Duration;

const NOW: u64 = Clock::START;

/// Why a workload's job is not confirmed; that it is not is part of it.
fn unconfirmed(workload: &Workload) -> String {
    let ci = workload.ci.as_ref().expect("what it was asked about is shown");
    assert_eq!(ci.assurance, CiAssurance(Assurance::Claimed));
    let principal = Principal::of(workload);
    assert!(principal.assurance <= Assurance::Kernel, "{principal:?}");
    assert!(!principal.id.starts_with("github_actions:") && !principal.id.starts_with("gitlab:"));
    ci.unconfirmed.clone().expect("a reason")
}

/// What an environment claims.
fn claims(provider: &str, repository: &str, run: &str) -> CiJob {
    CiJob {
        provider: provider.to_owned(),
        repository: Some(repository.to_owned()),
        run_id: Some(run.to_owned()),
        actor: Some("the environment's word".to_owned()),
        ..CiJob::default()
    }
}
