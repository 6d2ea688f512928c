//! Pods and confirmed jobs: what is not confirmed allows nothing, and is restricted as if it were what a rule names.

use super::{policy, verdict_for};
use crate::fixture::{operation, session, with_workload};
use lockgate_model::{
    session::Session,
    workload::{Assurance, CiAssurance, CiJob, Container, IdentityKind, Pod, PodAssurance},
};

/// A pod of `prod`'s billing account, named by the API server or not.
fn in_pod(assurance: Assurance, labels: &[(&str, &str)]) -> Session {
    let named = assurance >= Assurance::Platform;
    let text = |text: &str| named.then(|| text.to_owned());
    let pod = Pod {
        uid: "0f3c1d2e-4b5a-6978-8765-43210fedcba9".to_owned(),
        assurance: PodAssurance(assurance),
        name: text("billing-1"),
        namespace: text("prod"),
        service_account: text("billing"),
        owner: text("ReplicaSet/billing-6f7"),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Pod::default()
    };
    with_workload(&session(), |workload| {
        workload.kind = IdentityKind::ServiceAccount;
        workload.ci = None;
        workload.pod = Some(pod);
    })
}

fn of_job(assurance: Assurance) -> Session {
    with_workload(&session(), |workload| {
        workload.ci = Some(CiJob {
            provider: "gitlab".to_owned(),
            repository: Some("acme/billing".to_owned()),
            job_id: Some("302".to_owned()),
            runner: Some("build-7".to_owned()),
            assurance: CiAssurance(assurance),
            ..CiJob::default()
        });
    })
}

fn allows(identity: &str, session: &Session) -> bool {
    let rules = format!("- {{ id: a, match: {{ identity: {{ {identity} }} }}, effect: allow }}");
    verdict_for(&policy(&rules), session, &operation("SELECT 1")).effect.as_str() == "allow"
}

fn denies(identity: &str, session: &Session) -> bool {
    let rules = format!(
        "- {{ id: a, match: {{}}, effect: allow }}\n- {{ id: d, match: {{ identity: {{ {identity} }} }}, effect: deny }}"
    );
    verdict_for(&policy(&rules), session, &operation("SELECT 1")).effect.as_str() == "deny"
}

#[test]
fn a_named_pod_is_matched_by_what_the_api_server_says() {
    let named = in_pod(Assurance::Platform, &[("app", "billing")]);
    for (identity, fits) in [
        ("namespace: prod", true),
        ("namespace: [dev, \"pr*\"]", true),
        ("namespace: dev", false),
        ("service_account: billing, namespace: prod", true),
        ("service_account: admin", false),
        ("pod: \"billing-*\"", true),
        ("owner: \"ReplicaSet/*\"", true),
        ("owner: \"Job/*\"", false),
        ("labels: { app: billing }", true),
        ("labels: { app: billing, tier: \"*\" }", false),
        ("confirmed: true", true),
        ("confirmed: false", false),
        ("id: \"kubernetes:prod/billing\"", true),
        ("kind: service_account, assurance: platform", true),
        ("namespace: prod, assurance: attested", false),
    ] {
        assert_eq!(allows(identity, &named), fits, "allow {identity}");
        assert_eq!(denies(identity, &named), fits, "deny {identity}");
    }
    assert!(allows("namespace: prod, assurance: attested", &in_pod(Assurance::Attested, &[])));
}

#[test]
fn a_pod_nobody_named_is_allowed_nothing_and_denied_everything_that_pods_are_denied_by() {
    let unnamed = in_pod(Assurance::Kernel, &[]);
    for identity in
        ["namespace: dev", "service_account: x", "pod: x", "owner: x", "labels: { a: b }", "namespace: \"*\""]
    {
        assert!(!allows(identity, &unnamed), "allow {identity}");
        assert!(denies(identity, &unnamed), "deny {identity}");
        // Who is in no pod at all is another matter.
        assert!(!denies(identity, &of_job(Assurance::Attested)), "deny {identity}");
    }
    assert!(!allows("confirmed: true", &unnamed) && denies("confirmed: false", &unnamed));
    assert!(allows("id: \"pod:0f3c1d2e-*\"", &unnamed), "the kernel's own name for it");
}

#[test]
fn a_job_is_confirmed_by_somebody_besides_itself() {
    for (assurance, confirmed) in
        [(Assurance::Claimed, false), (Assurance::Platform, true), (Assurance::Attested, true)]
    {
        let job = of_job(assurance);
        assert_eq!(allows("confirmed: true", &job), confirmed);
        assert_eq!(allows("job_id: \"302\", runner: \"build-*\"", &job), confirmed);
        assert_eq!(denies("confirmed: false", &job), !confirmed);
        assert!(denies("job_id: \"302\"", &job), "claims deny");
    }
    // A runner's unit is the kernel's word, whatever its environment adds.
    let runner = with_workload(&of_job(Assurance::Claimed), |workload| workload.kind = IdentityKind::CiJob);
    assert!(allows("kind: ci_job", &runner));
    assert!(!allows("kind: ci_job, assurance: attested", &runner));
}

#[test]
fn a_container_that_the_workload_may_have_named_itself_allows_nothing() {
    let id = "f".repeat(64);
    let contained = |claimed| {
        let container = Container { id: id.clone(), runtime: "docker".to_owned(), pod_uid: None, claimed };
        with_workload(&session(), |workload| workload.container = Some(container))
    };
    let identity = format!("container: {id}");
    assert!(allows(&identity, &contained(false)) && denies(&identity, &contained(false)));
    assert!(!allows(&identity, &contained(true)) && denies(&identity, &contained(true)));
    assert!(contained(false).principal.id.starts_with("container:"));
    assert!(contained(true).principal.id.starts_with("uid:"));
}

#[test]
fn expressions_see_pods_and_what_is_unknown_restricts() {
    let rules = |effect: &str| {
        format!(
            "- {{ id: a, match: {{}}, effect: allow }}\n- {{ id: w, match: {{}}, when: \"identity.namespace == 'dev'\", effect: {effect} }}"
        )
    };
    let got = |session: &Session| {
        verdict_for(&policy(&rules("deny")), session, &operation("SELECT 1")).effect.as_str()
    };
    assert_eq!(got(&in_pod(Assurance::Platform, &[])), "allow");
    assert_eq!(got(&in_pod(Assurance::Kernel, &[])), "deny");
    let label = "- { id: a, match: {}, when: \"identity.labels['app'] == 'billing' && identity.confirmed\", effect: allow }";
    let labelled = in_pod(Assurance::Platform, &[("app", "billing")]);
    assert_eq!(verdict_for(&policy(label), &labelled, &operation("SELECT 1")).effect.as_str(), "allow");
    let other = in_pod(Assurance::Kernel, &[]);
    assert_eq!(verdict_for(&policy(label), &other, &operation("SELECT 1")).effect.as_str(), "deny");
}
