//! A job confirmed by GitHub: what is in progress on the runner that this workload is.

use super::*;
use lockgate_model::workload::Pod;

const RUN: &str = "/repos/acme/billing/actions/runs/4711";
const JOBS: &str = "/repos/acme/billing/actions/runs/4711/attempts/2/jobs";
const UNIT: &str = "actions.runner.acme-billing.build-7.service";

/// <https://docs.github.com/en/rest/actions/workflow-runs#get-a-workflow-run>, cut to a part with every field that is read.
fn run() -> Value {
    json!({
        "id": 4711, "name": "Deploy", "node_id": "x", "head_branch": "main", "head_sha": "6d734b7",
        "path": ".github/workflows/deploy.yml@main", "run_number": 562, "event": "workflow_dispatch",
        "status": "in_progress", "conclusion": null, "run_attempt": 2,
        "html_url": "https://github.com/acme/billing/actions/runs/4711",
        "actor": { "login": "bert", "id": 1 }, "triggering_actor": { "login": "carla", "id": 2 },
        "display_title": "OPS-42: notes", "head_commit": { "id": "6d734b7", "message": "notes\n\nmore", "author": { "name": "Cleo", "email": "cleo@example.com" } },
        "repository": { "id": 74, "full_name": "acme/billing" },
        "head_repository": { "id": 74, "full_name": "acme/billing" }
    })
}

/// <https://docs.github.com/en/rest/actions/workflow-jobs#list-jobs-for-a-workflow-run-attempt>
fn jobs(runner: &str, status: &str) -> Value {
    let started = jiff::Timestamp::from_second((NOW - 60).try_into().unwrap()).unwrap().to_string();
    json!({ "total_count": 2, "jobs": [
        { "id": 1, "run_id": 4711, "name": "build", "status": "completed", "started_at": started,
          "runner_id": 9, "runner_name": runner, "run_attempt": 2 },
        { "id": 2, "run_id": 4711, "name": "migrate", "status": status, "started_at": started,
          "runner_id": 9, "runner_name": runner, "runner_group_name": "g", "run_attempt": 2 },
    ] })
}

async fn server() -> StandIn {
    let server = StandIn::start().await;
    server.serve(RUN, run());
    server.serve(JOBS, jobs("build-7", "in_progress"));
    server
}

fn world(server: &StandIn) -> World {
    let provider = Provider {
        provider: CiProvider::GithubActions,
        url: server.base(),
        ca_pem: None,
        token: Some(lockgate_model::Secret::new("ghs_x".to_owned())),
        runners: Vec::new(),
        namespaces: vec!["runners".to_owned()],
    };
    World::new(IdentitySettings { providers: vec![provider], ..IdentitySettings::default() })
}

fn claimed() -> Option<CiJob> {
    Some(claims("github_actions", "acme/billing", "4711"))
}

#[tokio::test]
async fn the_job_in_progress_on_this_units_runner_is_named() {
    let server = server().await;
    let world = world(&server);
    *world.carrier.age.lock().unwrap() = Duration::from_secs(5);
    for _ in 0..3 {
        let workload = world.confirm(in_unit(UNIT, claimed())).await;
        let job = workload.ci.as_ref().unwrap();
        assert_eq!(job.assurance, CiAssurance(Assurance::Attested), "{:?}", job.unconfirmed);
        assert_eq!((job.actor.as_deref(), job.triggering_actor.as_deref()), (Some("bert"), Some("carla")));
        assert_eq!((job.job.as_deref(), job.job_id.as_deref()), (Some("migrate"), Some("2")));
        assert_eq!((job.runner.as_deref(), job.run_attempt.as_deref()), (Some("build-7"), Some("2")));
        assert_eq!((job.workflow.as_deref(), job.git_ref.as_deref()), (Some("deploy.yml"), None));
        assert_eq!(job.source_branch.as_deref(), Some("main"));
        assert_eq!(job.commit_message.as_deref(), Some("notes more"));
        assert_eq!(job.merge_request, None, "a title is a merge request's for its events alone");
        assert_eq!(Principal::of(&workload).id, "github_actions:acme/billing");
    }
    assert_eq!((server.hits(RUN), server.hits(JOBS)), (1, 1));
    assert_eq!(server.asked()[0].headers["authorization"], "Bearer ghs_x");
    // An organisation's runner has no repository in its unit's name.
    let other =
        Workload { process: plain(9).process, ..in_unit("actions.runner.acme.build-7.service", claimed()) };
    assert!(
        unconfirmed(&world.confirm(other).await).contains("first shown by unit actions.runner.acme-billing")
    );
}

#[tokio::test]
async fn another_runners_job_is_not_this_units() {
    for (name, unit, job, why) in [
        ("another runner", "actions.runner.acme-billing.build-8.service", claimed(), "on runner build-8"),
        (
            "a runner whose name ends alike",
            "actions.runner.acme-billing.x.build-7.service",
            claimed(),
            "on runner x.build-7",
        ),
        ("another owner's runner", "actions.runner.mallory.build-7.service", claimed(), "cannot be told"),
        ("no runner", "backup.service", claimed(), "cannot be told"),
        ("a path instead of a name", UNIT, Some(claims("github_actions", "acme/..", "4711")), "names no run"),
        (
            "a query instead of a run",
            UNIT,
            Some(claims("github_actions", "acme/billing", "1?x=y")),
            "names no run",
        ),
        ("an unknown run", UNIT, Some(claims("github_actions", "acme/billing", "1")), "answers 404"),
    ] {
        let server = server().await;
        let reason = unconfirmed(&world(&server).confirm(in_unit(unit, job)).await);
        assert!(reason.contains(why), "{name}: {reason}");
    }
    let mut user_unit = in_unit(UNIT, claimed());
    user_unit.unit.as_mut().unwrap().user_unit = true;
    let server = server().await;
    assert!(unconfirmed(&world(&server).confirm(user_unit).await).contains("cannot be told"));
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_job_that_is_over_or_began_after_the_process_is_not_its_own() {
    let over = server().await;
    over.serve(JOBS, jobs("build-7", "completed"));
    assert!(
        unconfirmed(&world(&over).confirm(in_unit(UNIT, claimed())).await).contains("has no job of run 4711")
    );
    // A process that an earlier job left behind on the same runner.
    let server = server().await;
    let world = world(&server);
    *world.carrier.age.lock().unwrap() = Duration::from_secs(60 + 61);
    assert!(unconfirmed(&world.confirm(in_unit(UNIT, claimed())).await).contains("older than the job"));
    *world.carrier.age.lock().unwrap() = Duration::from_secs(30);
    assert!(world.confirm(in_unit(UNIT, claimed())).await.ci.unwrap().is_confirmed());
}

/// Two jobs of one run on one runner: the first ended, and the second began, so many seconds after the clock's start.
fn two_jobs(first_ended: Option<i64>, second_began: Option<i64>) -> Value {
    let at = |second: i64| jiff::Timestamp::from_second(NOW as i64 + second).unwrap().to_string();
    let job = |id: u64, name: &str, began: i64, ended: Option<i64>| {
        json!({ "id": id, "run_id": 4711, "name": name, "started_at": at(began), "completed_at": ended.map(at),
                "status": if ended.is_some() { "completed" } else { "in_progress" },
                "runner_name": "build-7", "run_attempt": 2 })
    };
    let first = Some(job(1, "build", -100, first_ended));
    let second = second_began.map(|began| job(2, "migrate", began, None));
    json!({ "total_count": 2, "jobs": first.into_iter().chain(second).collect::<Vec<_>>() })
}

#[tokio::test]
async fn two_jobs_of_a_run_a_second_apart_on_one_runner_are_never_confused() {
    let server = server().await;
    server.serve(JOBS, two_jobs(None, None));
    let world = world(&server);
    let seen = async |now: u64, started: u64| {
        world.clock.set(now);
        *world.carrier.age.lock().unwrap() = Duration::from_secs(now - started);
        let workload = world.confirm(in_unit(UNIT, claimed())).await;
        let ci = workload.ci.unwrap();
        if ci.is_confirmed() { ci.job.unwrap() } else { ci.unconfirmed.unwrap() }
    };
    assert_eq!(seen(NOW, NOW - 5).await, "build");
    // The first ends, the second begins a second later, and so does its first process: within the time for which
    // GitHub's answer about the first is remembered.
    server.serve(JOBS, two_jobs(Some(1), Some(2)));
    assert_eq!(seen(NOW + 2, NOW + 2).await, "migrate");
    assert_eq!(seen(NOW + 3, NOW + 3).await, "migrate");
    // What the first left behind is not the second's, however soon before it began.
    for started in [NOW - 50, NOW, NOW + 1] {
        let why = seen(NOW + 9, started).await;
        assert!(why.contains("another job of the run"), "{started}: {why}");
    }
    assert_eq!(seen(NOW + 9, NOW + 4).await, "migrate");
}

#[tokio::test]
async fn the_runs_repository_must_be_the_one_that_was_asked_for() {
    let server = server().await;
    let mut moved = run();
    moved["repository"]["full_name"] = json!("mallory/billing");
    server.serve(RUN, moved);
    let reason = unconfirmed(&world(&server).confirm(in_unit(UNIT, claimed())).await);
    assert!(reason.contains("mallory/billing's"), "{reason}");
}

#[tokio::test]
async fn an_ephemeral_runners_pod_is_its_runner_in_the_configured_namespace_alone() {
    let server = server().await;
    let world = world(&server);
    let pod = |namespace: &str, named: bool| {
        let assurance = if named { Assurance::Platform } else { Assurance::Kernel };
        Workload {
            ci: claimed(),
            pod: Some(Pod {
                uid: "u".to_owned(),
                name: Some("build-7".to_owned()),
                namespace: Some(namespace.to_owned()),
                assurance: lockgate_model::workload::PodAssurance(assurance),
                ..Pod::default()
            }),
            ..plain(1)
        }
    };
    unconfirmed(&world.confirm(pod("default", true)).await);
    unconfirmed(&world.confirm(pod("runners", false)).await);
    assert!(world.confirm(pod("runners", true)).await.ci.unwrap().is_confirmed());
}
