//! A job confirmed by the configured GitLab.

use super::*;

/// <https://docs.gitlab.com/api/jobs/#get-a-jobs-details>, the documented example.
fn job(base: &str) -> Value {
    json!({
        "commit": { "author_email": "cleo@example.com", "author_name": "Cleo",
                    "created_at": "2015-12-24T16:51:14.000+01:00", "id": "0ff3ae1", "message": "Test\n\nRefs: OPS-42\n",
                    "short_id": "0ff3ae19", "title": "Test" },
        "coverage": null, "archived": false, "source": "push", "allow_failure": false,
        "created_at": "2015-12-24T15:51:21.880Z", "started_at": "2015-12-24T17:54:30.733Z",
        "finished_at": null, "id": 8, "name": "rubocop",
        "pipeline": { "id": 6, "project_id": 1, "ref": "main", "sha": "0ff3ae1", "status": "running" },
        "ref": "main", "artifacts": [], "tag_list": ["docker runner"],
        "runner": { "id": 32, "description": "build-7", "ip_address": null, "active": true, "paused": false,
                    "is_shared": false, "runner_type": "project_type", "name": null, "online": true },
        "stage": "test", "status": "running", "tag": false,
        "web_url": format!("{base}/acme/billing/-/jobs/8"),
        "project": { "ci_job_token_scope_enabled": false },
        "user": { "id": 1, "name": "Carla", "username": "carla", "state": "active" }
    })
}

async fn world(server: &StandIn, runners: &[&str]) -> World {
    let provider = Provider {
        provider: CiProvider::Gitlab,
        url: server.base(),
        ca_pem: None,
        token: None,
        runners: runners.iter().map(|runner| (*runner).to_owned()).collect(),
        namespaces: Vec::new(),
    };
    let world = World::new(IdentitySettings { providers: vec![provider], ..IdentitySettings::default() });
    world.carrier.carry("CI_JOB_TOKEN", "glcbt-64_secret");
    world.carrier.carry("CI_API_V4_URL", "https://evil.example.com/api/v4");
    world
}

#[tokio::test]
async fn the_jobs_own_token_names_it_on_a_runner_of_this_host() {
    let server = StandIn::start().await;
    server.serve("/api/v4/job", job(&server.base()));
    let world = world(&server, &["31", "32"]).await;
    let claimed = Workload { ci: Some(claims("gitlab", "evil/evil", "1")), ..plain(1) };
    for _ in 0..3 {
        let workload = world.confirm(claimed.clone()).await;
        let job = workload.ci.as_ref().unwrap();
        assert_eq!(job.assurance, CiAssurance(Assurance::Attested));
        assert_eq!(job.repository.as_deref(), Some("acme/billing"));
        assert_eq!((job.job_id.as_deref(), job.run_id.as_deref()), (Some("8"), Some("6")));
        assert_eq!(job.git_ref.as_deref(), Some("refs/heads/main"));
        assert_eq!((job.actor.as_deref(), job.triggering_actor.as_deref()), (Some("carla"), Some("carla")));
        assert_eq!((job.runner.as_deref(), job.job.as_deref()), (Some("build-7"), Some("rubocop")));
        assert_eq!(job.commit_author.as_deref(), Some("Cleo <cleo@example.com>"));
        assert_eq!(job.commit_message.as_deref(), Some("Test Refs: OPS-42"));
        assert!(job.established_by.as_deref().unwrap().contains("on a runner of this host"));
    }
    assert_eq!(server.hits("/api/v4/job"), 1, "an answer holds for a while");
    assert_eq!(server.asked()[0].headers["job-token"], "glcbt-64_secret");
    let borrower = world.confirm(Workload { ci: claimed.ci, ..plain(2) }).await;
    assert!(unconfirmed(&borrower).contains("belongs to another workload"));
}

#[tokio::test]
async fn without_known_runners_the_providers_word_is_less() {
    let server = StandIn::start().await;
    server.serve("/api/v4/job", job(&server.base()));
    let job = world(&server, &[]).await.confirm(plain(1)).await.ci.unwrap();
    assert_eq!(job.assurance, CiAssurance(Assurance::Platform));
}

#[tokio::test]
async fn answers_that_do_not_fit_confirm_nothing() {
    for (name, change, why) in [
        ("ended", Some(("status", json!("success"))), "state is \"success\""),
        ("elsewhere", Some(("runner", json!({ "id": 99, "description": "other" }))), "runner 99"),
        ("no runner", Some(("runner", Value::Null)), "runner none"),
        ("another server's", Some(("web_url", json!("https://evil.example.com/a/b/-/jobs/8"))), "no project"),
        ("no project", Some(("web_url", json!("https://gitlab.example.com/"))), "no project"),
        ("no id", Some(("id", Value::Null)), "not understood"),
    ] {
        let server = StandIn::start().await;
        let mut answer = job(&server.base());
        if let Some((key, value)) = change {
            answer[key] = value;
        }
        server.serve("/api/v4/job", answer);
        let reason = unconfirmed(&world(&server, &["32"]).await.confirm(plain(1)).await);
        assert!(reason.contains(why), "{name}: {reason}");
        assert!(!reason.contains("glcbt"), "{reason}");
    }
    for (answer, why) in [
        (Answer::Status(401), "does not know the job's token"),
        (Answer::Status(500), "answers 500"),
        (Answer::Redirect("https://evil.example.com".to_owned()), "answers 302"),
        (Answer::Json(json!([])), "not understood"),
    ] {
        let server = StandIn::start().await;
        server.answer("/api/v4/job", answer);
        let reason = unconfirmed(&world(&server, &["32"]).await.confirm(plain(1)).await);
        assert!(reason.contains(why), "{reason}");
    }
}

#[tokio::test]
async fn a_ticket_of_the_confirmed_commit_is_as_sure_as_the_job_and_the_job_s_own_word_is_not() {
    use lockgate_model::workload::TicketSource::{CommitMessage, MergeRequest};
    let server = StandIn::start().await;
    server.serve("/api/v4/job", job(&server.base()));
    let provider = Provider {
        provider: CiProvider::Gitlab,
        url: server.base(),
        ca_pem: None,
        token: None,
        runners: vec!["32".to_owned()],
        namespaces: Vec::new(),
    };
    let rule = crate::TicketRule {
        pattern: r"\b[A-Z]+-\d+\b".to_owned(),
        url: Some("https://tickets.example.com/{ticket}".to_owned()),
        ..Default::default()
    };
    let settings =
        IdentitySettings { providers: vec![provider], tickets: vec![rule], ..IdentitySettings::default() };
    let world = World::new(settings);
    world.carrier.carry("CI_JOB_TOKEN", "glcbt-64_secret");
    let mut claimed = claims("gitlab", "acme/billing", "6");
    claimed.commit_message = Some("OPS-666".to_owned());
    claimed.merge_request = Some("OPS-7".to_owned());
    let workload = world.confirm(Workload { ci: Some(claimed), ..plain(1) }).await;
    let shown: Vec<_> = workload.tickets.iter().map(|it| (&*it.id, it.source, it.assurance)).collect();
    assert_eq!(
        shown,
        [("OPS-7", MergeRequest, Assurance::Claimed), ("OPS-42", CommitMessage, Assurance::Attested)]
    );
    assert_eq!(workload.tickets[1].url.as_deref(), Some("https://tickets.example.com/OPS-42"));
}
