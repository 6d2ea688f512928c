//! Whom the operator calls an agent.

use super::*;
use crate::KindRule;
use lockgate_model::workload::{Pod, PodAssurance};

fn rule(kind: IdentityKind) -> KindRule {
    KindRule {
        kind,
        units: Vec::new(),
        cgroups: Vec::new(),
        uids: Vec::new(),
        namespaces: Vec::new(),
        service_accounts: Vec::new(),
        repositories: Vec::new(),
        actors: Vec::new(),
    }
}

fn list(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

#[tokio::test]
async fn kinds_follow_what_the_workload_could_not_have_written() {
    let agent = rule(IdentityKind::Agent);
    let kinds = vec![
        KindRule { units: list("agent-*.service"), ..agent.clone() },
        KindRule { namespaces: list("agents"), ..agent.clone() },
        KindRule { actors: list("*[[]bot[]]"), ..agent.clone() },
        KindRule { uids: vec![4000], cgroups: list("/people/*"), ..rule(IdentityKind::Person) },
        agent,
    ];
    let world = World::new(IdentitySettings { kinds, ..IdentitySettings::default() });
    let pod = |assurance| Workload {
        pod: Some(Pod {
            namespace: Some("agents".to_owned()),
            assurance: PodAssurance(assurance),
            ..Pod::default()
        }),
        ..plain(1)
    };
    let job = |assurance| Workload {
        ci: Some(CiJob {
            provider: "github_actions".to_owned(),
            repository: Some("acme/billing".to_owned()),
            actor: Some("coder[bot]".to_owned()),
            assurance: CiAssurance(assurance),
            ..CiJob::default()
        }),
        ..plain(1)
    };
    let mut own_unit = in_unit("agent-1.service", None);
    own_unit.unit.as_mut().unwrap().user_unit = true;
    let mut person = plain(1);
    person.process.uid = 4000;
    person.cgroup = Some("/people/ana".to_owned());
    let other_place = Workload { cgroup: Some("/x".to_owned()), ..person.clone() };
    for (name, workload, kind) in [
        ("a unit", in_unit("agent-1.service", None), IdentityKind::Agent),
        ("a user's own unit", own_unit, IdentityKind::Unknown),
        ("a named pod", pod(Assurance::Platform), IdentityKind::Agent),
        ("a pod nobody named", pod(Assurance::Kernel), IdentityKind::Unknown),
        ("a confirmed job of a bot", job(Assurance::Attested), IdentityKind::Agent),
        ("a claim to be a bot's job", job(Assurance::Claimed), IdentityKind::Unknown),
        ("all that is named", person, IdentityKind::Person),
        ("half of it", other_place, IdentityKind::Unknown),
        ("nothing", plain(1), IdentityKind::Unknown),
    ] {
        let workload = world.confirm(workload).await;
        assert_eq!(Principal::of(&workload).kind, kind, "{name}");
    }
}
