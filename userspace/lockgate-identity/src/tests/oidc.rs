//! Tokens of CI issuers: facts from claims, and a token that was borrowed, redirected, or asked for elsewhere.

use super::*;

/// <https://docs.github.com/en/actions/reference/security/oidc>, the documented example with times of the test.
fn github(issuer: &str) -> Value {
    json!({
        "jti": "example-id", "sub": "repo:acme/billing:environment:prod", "aud": "lockgate",
        "ref": "refs/heads/main", "ref_protected": "true", "ref_type": "branch", "sha": "6d734b7",
        "repository": "acme/billing", "repository_id": "74", "repository_owner": "acme",
        "run_id": "4711", "run_number": "10", "run_attempt": "2", "check_run_id": "900",
        "runner_environment": "self-hosted", "actor": "bert", "actor_id": "12", "workflow": "Deploy",
        "workflow_ref": "acme/billing/.github/workflows/deploy.yml@refs/heads/main",
        "job_workflow_ref": "acme/shared/.github/workflows/deploy.yml@refs/heads/main",
        "event_name": "push", "iss": issuer, "nbf": NOW - 5, "iat": NOW - 5, "exp": NOW + 300,
    })
}

/// <https://docs.gitlab.com/ci/secrets/id_token_authentication/#token-payload>
fn gitlab(issuer: &str) -> Value {
    json!({
        "namespace_id": "72", "namespace_path": "acme", "project_id": "20", "project_path": "acme/billing",
        "user_id": "1", "user_login": "carla", "user_email": "carla@example.com", "pipeline_id": "574",
        "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch",
        "ref_path": "refs/heads/main", "ref_protected": "true", "runner_id": 1,
        "runner_environment": "self-hosted", "sha": "714a629",
        "ci_config_ref_uri": "gitlab.example.com/acme/billing//.gitlab-ci.yml@refs/heads/main",
        "jti": "ff", "iss": issuer, "iat": NOW, "nbf": NOW - 5, "exp": NOW + 3600, "aud": "lockgate",
        "sub": "project_path:acme/billing:ref_type:branch:ref:main",
    })
}

struct Ci {
    server: StandIn,
    signer: Signer,
}

impl Ci {
    async fn start() -> Self {
        let (server, signer) = (StandIn::start().await, Signer::rsa("k1"));
        let document = json!({ "issuer": server.base(), "jwks_uri": server.url("/jwks").as_str() });
        server.serve("/.well-known/openid-configuration", document);
        server.serve("/jwks", json!({ "keys": [signer.jwk()] }));
        Self { server, signer }
    }

    fn settings(&self, provider: CiProvider, carrier: TokenCarrier) -> IdentitySettings {
        let issuer = Issuer {
            provider,
            issuer: self.server.base(),
            audience: "lockgate".to_owned(),
            jwks: None,
            ca_pem: None,
            max_lifetime: Duration::from_secs(7200),
            carrier,
        };
        IdentitySettings { issuers: vec![issuer], ..IdentitySettings::default() }
    }

    fn by_variable(&self, provider: CiProvider) -> World {
        World::new(self.settings(provider, TokenCarrier::Variable("LOCKGATE_ID_TOKEN".to_owned())))
    }
}

#[tokio::test]
async fn a_gitlab_jobs_token_names_it() {
    let ci = Ci::start().await;
    let world = ci.by_variable(CiProvider::Gitlab);
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&gitlab(&ci.server.base())));
    let workload = world.confirm(Workload { ci: Some(claims("gitlab", "evil/evil", "1")), ..plain(1) }).await;
    let job = workload.ci.as_ref().unwrap();
    assert_eq!(job.assurance, CiAssurance(Assurance::Attested));
    assert_eq!(job.repository.as_deref(), Some("acme/billing"));
    assert_eq!(job.git_ref.as_deref(), Some("refs/heads/main"));
    assert_eq!((job.ref_protected, job.actor.as_deref()), (Some(true), Some("carla")));
    assert_eq!((job.job_id.as_deref(), job.run_id.as_deref()), (Some("302"), Some("574")));
    assert_eq!(job.workflow.as_deref(), Some(".gitlab-ci.yml"));
    let principal = Principal::of(&workload);
    assert_eq!((principal.id.as_str(), principal.kind), ("gitlab:acme/billing", IdentityKind::CiJob));
}

#[tokio::test]
async fn a_forks_merge_request_is_the_forks_and_not_protected() {
    let ci = Ci::start().await;
    let world = ci.by_variable(CiProvider::Gitlab);
    let mut claims = gitlab(&ci.server.base());
    claims["job_project_path"] = json!("mallory/billing");
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&claims));
    let job = world.confirm(plain(1)).await.ci.unwrap();
    assert_eq!(job.repository.as_deref(), Some("mallory/billing"));
    assert_eq!(job.ref_protected, None);
}

#[tokio::test]
async fn a_token_of_another_job_is_refused_to_the_second_workload() {
    let ci = Ci::start().await;
    let world = ci.by_variable(CiProvider::Gitlab);
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&gitlab(&ci.server.base())));
    assert!(world.confirm(plain(1)).await.ci.unwrap().is_confirmed());
    let borrower = world.confirm(plain(2)).await;
    assert!(unconfirmed(&borrower).contains("first shown by cgroup 1, now by cgroup 2"));
    // A new token for the same job does not help either.
    let mut again = gitlab(&ci.server.base());
    again["jti"] = json!("other");
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&again));
    unconfirmed(&world.confirm(plain(2)).await);
    assert!(world.confirm(plain(1)).await.ci.unwrap().is_confirmed(), "the owner goes on");
    // Its processes may be in several cgroups of its unit or pod.
    again["job_id"] = json!("303");
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&again));
    for pid in [5, 6] {
        let workload = Workload { pod: in_pod("one").pod, ..plain(pid) };
        assert!(world.confirm(workload).await.ci.unwrap().is_confirmed());
    }
}

#[tokio::test]
async fn a_bad_token_leaves_the_claims_and_says_why() {
    let ci = Ci::start().await;
    let world = ci.by_variable(CiProvider::Gitlab);
    let stranger = Signer::ec("k1");
    let base = gitlab(&ci.server.base());
    let with = |name: &str, value: Value| {
        let mut claims = base.clone();
        claims[name] = value;
        ci.signer.token(&claims)
    };
    for (token, why) in [
        (with("exp", json!(NOW - 31)), "expired"),
        (with("nbf", json!(NOW + 40)), "not valid for another"),
        (with("exp", json!(NOW + 7201)), "valid for 7201 s"),
        (with("aud", json!("vault")), "it is for"),
        (with("iss", json!("https://evil.example.com")), "its issuer is"),
        (with("job_id", Value::Null), "claim job_id"),
        (with("project_path", json!("")), "claim project_path"),
        (stranger.token(&base), "says ES256"),
        ("x".to_owned(), "three parts"),
        ("a\u{1b}[2Jb.c.d".to_owned(), "base64url"),
    ] {
        world.carrier.carry("LOCKGATE_ID_TOKEN", token);
        let workload =
            world.confirm(Workload { ci: Some(claims("gitlab", "acme/x", "1")), ..plain(1) }).await;
        assert!(unconfirmed(&workload).contains(why), "{}: expected {why}", unconfirmed(&workload));
        assert_eq!(
            workload.ci.unwrap().repository.as_deref(),
            Some("acme/x"),
            "rules that deny still see it"
        );
    }
    // Hours later the same token is an expired one: each session is checked.
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&base));
    assert!(world.confirm(plain(1)).await.ci.unwrap().is_confirmed());
    world.clock.set(NOW + 3600 + 31);
    assert!(unconfirmed(&world.confirm(plain(1)).await).contains("expired 31 s ago"));
}

fn asking(ci: &Ci, hosts: &[&str]) -> World {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    World::new(ci.settings(CiProvider::GithubActions, TokenCarrier::Request { hosts }))
}

#[tokio::test]
async fn githubs_endpoint_is_asked_for_our_audience_and_once_a_minute() {
    let ci = Ci::start().await;
    let authority = ci.server.base().replace("http://", "");
    let world = asking(&ci, &[&authority]);
    let token = ci.signer.token(&github(&ci.server.base()));
    ci.server.serve("/idtoken/4711", json!({ "count": 1, "value": token }));
    world.carrier.carry(
        "ACTIONS_ID_TOKEN_REQUEST_URL",
        format!("{}/idtoken/4711?api-version=2.0&audience=evil", ci.server.base()),
    );
    world.carrier.carry("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "the-jobs-own");
    for _ in 0..3 {
        let workload = world.confirm(plain(1)).await;
        let job = workload.ci.as_ref().unwrap();
        assert!(job.is_confirmed(), "{:?}", job.unconfirmed);
        assert_eq!(job.workflow.as_deref(), Some("deploy.yml"));
        assert_eq!((job.run_attempt.as_deref(), job.job_id.as_deref()), (Some("2"), Some("900")));
        assert_eq!(Principal::of(&workload).id, "github_actions:acme/billing");
    }
    assert_eq!(ci.server.hits("/idtoken/4711"), 1);
    let asked = ci.server.asked().into_iter().find(|asked| asked.path == "/idtoken/4711").unwrap();
    assert_eq!(asked.query, "api-version=2.0&audience=lockgate");
    assert_eq!(asked.headers["authorization"], "Bearer the-jobs-own");
}

#[tokio::test]
async fn an_address_of_the_jobs_choice_is_not_asked() {
    let ci = Ci::start().await;
    let elsewhere = StandIn::start().await;
    elsewhere.serve("/", json!({ "value": "x" }));
    let authority = ci.server.base().replace("http://", "");
    let world = asking(&ci, &[&authority, "*.actions.githubusercontent.com"]);
    world.carrier.carry("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "the-jobs-own");
    for (url, why) in [
        (elsewhere.base(), "not one of the configured hosts"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), "no https address"),
        ("https://169.254.169.254/latest/meta-data".to_owned(), "not one of the configured hosts"),
        ("https://evil.example.com/.actions.githubusercontent.com".to_owned(), "not one of"),
        ("https://evil.example.com#.actions.githubusercontent.com".to_owned(), "no https address"),
        ("https://x.actions.githubusercontent.com@evil.example.com/".to_owned(), "no https address"),
        ("https://actions.githubusercontent.com.evil.example.com/".to_owned(), "not one of"),
        ("file:///etc/shadow".to_owned(), "no https address"),
        ("\r\n\r\nGET / HTTP/1.1".to_owned(), "no https address"),
    ] {
        world.carrier.carry("ACTIONS_ID_TOKEN_REQUEST_URL", url.clone());
        let reason = unconfirmed(&world.confirm(plain(1)).await);
        assert!(reason.contains(why), "{url}: {reason}");
    }
    assert!(elsewhere.asked().is_empty());
    // The right host that sends on to another is not followed.
    ci.server.answer("/go", Answer::Redirect(elsewhere.base()));
    world.carrier.carry("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{}/go", ci.server.base()));
    assert!(unconfirmed(&world.confirm(plain(1)).await).contains("answers 302"));
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn without_a_job_id_the_run_is_bound_and_without_anything_nothing_is_asked() {
    let ci = Ci::start().await;
    let world = ci.by_variable(CiProvider::GithubActions);
    let mut old = github(&ci.server.base());
    old.as_object_mut().unwrap().remove("check_run_id");
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&old));
    assert!(world.confirm(plain(1)).await.ci.unwrap().is_confirmed());
    unconfirmed(&world.confirm(plain(2)).await);
    old["run_attempt"] = json!("3");
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&old));
    assert!(world.confirm(plain(2)).await.ci.unwrap().is_confirmed(), "another attempt is another job");
    let untouched = Ci::start().await;
    let world = untouched.by_variable(CiProvider::GithubActions);
    assert_eq!(world.confirm(plain(1)).await, plain(1));
    assert!(untouched.server.asked().is_empty());
}

#[tokio::test]
async fn an_issuer_that_never_answers_costs_its_bound_and_confirms_nothing() {
    let ci = Ci::start().await;
    ci.server.answer("/jwks", Answer::Never);
    let carrier = TokenCarrier::Variable("LOCKGATE_ID_TOKEN".to_owned());
    let wait = Duration::from_millis(300);
    let world = World::new(IdentitySettings { wait, ..ci.settings(CiProvider::Gitlab, carrier) });
    world.carrier.carry("LOCKGATE_ID_TOKEN", ci.signer.token(&gitlab(&ci.server.base())));
    let begun = std::time::Instant::now();
    let workload = world.confirm(Workload { ci: Some(claims("gitlab", "acme/x", "1")), ..plain(1) }).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(unconfirmed(&workload).contains("within 300 ms"));
}
