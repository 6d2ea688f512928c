use super::{
    person::tests::{login_settings, oidc_provider},
    rules::{RULES, Rule},
    settings::BootstrapSettings,
    *,
};
use crate::{
    PeerCred,
    api::finish,
    testing::{Ask, Stage},
};
use axum::{
    Extension,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use caller::Known;
use gate::Remote;
use http_body_util::BodyExt;
use lockgate_model::{access::AccessAction, port::Approvals};
use serde_json::{Value, json};
use tower::ServiceExt;

/// A stage where people log in; `change` says how.
fn stage(change: impl FnOnce(&mut LoginSettings)) -> (Stage, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut login = login_settings(vec![oidc_provider("corp")]);
    login.bootstrap =
        Some(BootstrapSettings { groups: vec!["dba".into()], file: dir.path().join("bootstrap.token") });
    change(&mut login);
    let mut settings = crate::testing::settings(Vec::new());
    settings.login = Some(login);
    (Stage::of(settings), dir)
}

fn router(stage: &Stage) -> Router {
    let all = stage.control.router().merge(stage.control.login_router());
    stage.control.authenticated(finish(all))
}

async fn send(stage: &Stage, request: Request<Body>) -> Response<Body> {
    let remote = Extension(Remote("10.0.0.9".parse().unwrap()));
    router(stage).layer(remote).oneshot(request).await.unwrap()
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8420");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn json_of(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn cookie(response: &Response<Body>, name: &str) -> Option<String> {
    let set = response.headers().get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap());
    let own = set.filter_map(|cookie| cookie.strip_prefix(name)?.strip_prefix('='));
    own.map(|rest| rest.split(';').next().unwrap().to_owned()).find(|value| !value.is_empty())
}

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// Logs in with a fresh one-time token; the cookie.
async fn log_in(stage: &Stage, old: Option<&str>) -> String {
    let file = stage.control.bootstrap().unwrap().unwrap();
    let token = std::fs::read_to_string(file).unwrap();
    let old = old.map(|old| format!("lockgate={old}")).unwrap_or_default();
    let form = format!("token={}&next=/me", token.trim());
    let sent = request("POST", "/login/bootstrap", &[FORM, ("cookie", &old)], &form);
    let response = send(stage, sent).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()[header::LOCATION], "/me");
    cookie(&response, "lockgate").unwrap()
}

fn actions(stage: &Stage) -> Vec<(AccessAction, Option<String>)> {
    stage.log.pick(|kind| match kind {
        EventKind::Access(access) => Some((access.action, access.code.clone())),
        _ => None,
    })
}

/// Every path of a router, as axum knows it.
fn paths(router: &Router) -> BTreeSet<String> {
    let text = format!("{router:?}");
    let quoted = text.split('"').skip(1).step_by(2);
    // The catch-all of the fallback shows as `/`.
    quoted
        .filter(|path| path.len() > 1 && path.starts_with('/') && !path.contains("__private__"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_route_has_a_rule() {
    let (stage, _dir) = stage(|_| {});
    let all = stage.control.router().merge(stage.control.login_router());
    let found = paths(&all);
    assert!(found.len() > 20, "{found:?}");
    for path in found {
        let ruled = RULES.iter().any(|(_, route, _)| *route == path);
        assert!(ruled, "{path}: say in auth/rules.rs who may use it");
    }
}

#[tokio::test]
async fn a_route_without_a_rule_is_refused_to_everybody() {
    let (stage, _dir) = stage(|_| {});
    let forgotten = Router::new().route("/v1/forgotten", axum::routing::get(async || "secret"));
    let router = stage.control.authenticated(forgotten);
    let root = Extension(PeerCred { pid: None, uid: 0, gid: 0 });
    let sent = request("GET", "/v1/forgotten", &[], "");
    let (status, problem) = json_of(router.layer(root).oneshot(sent).await.unwrap()).await;
    assert_eq!((status, &problem["code"]), (403, &json!("no_rule")));
}

fn with_roles(roles: &[Role]) -> Caller {
    Caller::new(Known {
        id: "oidc:corp:ana".into(),
        name: "Ana".into(),
        via: "console",
        roles: roles.iter().copied().collect(),
        ..Known::default()
    })
}

/// Each line of the table with each role: who may comes to the handler, who may not is told which role is missing, who is not
/// known is told to log in.
#[tokio::test(start_paused = true)]
async fn the_table_holds_for_every_route_and_every_role() {
    let (stage, _dir) = stage(|_| {});
    let all = stage.control.router().merge(stage.control.login_router());
    let served = paths(&all);
    let mut tried = 0;
    for (method, path, rule) in RULES.iter().filter(|(_, path, _)| served.contains(*path)) {
        let concrete = path.replace("{id}", "x").replace("{provider}", "none").replace("{name}", "x");
        let ask = async |caller: Option<Caller>| {
            let router = router(&stage).layer(Extension(Remote("10.0.0.9".parse().unwrap())));
            let mut sent = request(method, &concrete, &[], "");
            if let Some(caller) = caller {
                sent.extensions_mut().insert(caller);
            }
            json_of(router.oneshot(sent).await.unwrap()).await
        };
        let sets: [&[Role]; 6] = [
            &[],
            &[Role::Viewer],
            &[Role::Approver],
            &[Role::Auditor],
            &[Role::Admin],
            &[Role::Viewer, Role::Approver, Role::Auditor, Role::Admin],
        ];
        for roles in sets {
            let caller = with_roles(roles);
            let may = match rule {
                Rule::Public | Rule::Known => true,
                Rule::Any(any) => any
                    .iter()
                    .any(|role| roles.contains(role) || (*role == Role::Viewer && !roles.is_empty())),
            };
            let (status, answer) = ask(Some(caller)).await;
            let refused = status == 403 && answer["code"] == json!("role_required");
            assert_eq!(refused, !may, "{method} {path} as {roles:?}: {status} {answer}");
            tried += 1;
        }
        let (status, answer) = ask(None).await;
        let told = status == 401 && answer["code"] == json!("login_required");
        assert_eq!(told, *rule != Rule::Public, "{method} {path} as nobody: {status} {answer}");
    }
    assert!(tried > 100, "{tried}");
}

#[tokio::test(start_paused = true)]
async fn a_person_logs_in_does_and_logs_out() {
    let (stage, _dir) = stage(|_| {});
    let first = log_in(&stage, None).await;
    // Whatever cookie a browser brings, a login gets a new one, and the old one opens nothing.
    let second = log_in(&stage, Some(&first)).await;
    assert_ne!(first, second);
    let ask = async |cookie: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        let cookie = format!("lockgate={cookie}");
        let mut headers = headers.to_vec();
        headers.push(("cookie", &cookie));
        send(&stage, request(method, path, &headers, body)).await
    };
    assert_eq!(ask(&first, "GET", "/v1/whoami", &[], "").await.status(), 401);
    let (status, me) = json_of(ask(&second, "GET", "/v1/whoami", &[], "").await).await;
    assert_eq!((status, &me["id"]), (200, &json!("bootstrap:admin")));
    assert!(me["warning"].as_str().unwrap().contains("not for production"));
    assert_eq!(me["fresh_login"], Value::Null, "nobody proved to be a person");
    let csrf = me["csrf"].as_str().unwrap().to_owned();

    // A vote needs the page's word, and a browser that says it comes from here.
    let pending = stage.control.open(stage.request(Ask::default())).await.unwrap();
    let id = stage.control.desk.registry.newest_first(None)[0].request.id;
    let path = format!("/v1/approvals/{id}/approve");
    let body = json!({ "reason": "planned" }).to_string();
    for headers in [
        &[][..],
        &[("x-csrf-token", "wrong")],
        &[("x-csrf-token", &*csrf), ("origin", "https://evil.example.com")],
        &[("x-csrf-token", &*csrf), ("sec-fetch-site", "cross-site")],
        &[("x-csrf-token", &*csrf), ("origin", "null")],
    ] {
        let (status, problem) = json_of(ask(&second, "POST", &path, headers, &body).await).await;
        assert_eq!((status, &problem["code"]), (403, &json!("foreign_request")), "{headers:?}");
    }
    assert!(pending.progress().resolution.is_none());
    let good =
        [("x-csrf-token", &*csrf), ("origin", "http://127.0.0.1:8420"), ("sec-fetch-site", "same-origin")];
    let (status, answer) = json_of(ask(&second, "POST", &path, &good, &body).await).await;
    assert_eq!((status, &answer["state"]), (200, &json!("approved")), "{answer}");

    assert_eq!(
        ask(&second, "POST", "/logout", &[], "").await.status(),
        403,
        "logging out needs the word, too"
    );
    let form = format!("csrf={csrf}");
    let out = ask(&second, "POST", "/logout", &[FORM], &form).await;
    assert_eq!(out.status(), 200);
    assert!(out.headers()[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(ask(&second, "GET", "/v1/whoami", &[], "").await.status(), 401);
    let seen: Vec<AccessAction> = actions(&stage).into_iter().map(|(action, _)| action).collect();
    assert_eq!(seen[..2], [AccessAction::Login, AccessAction::Login]);
    assert_eq!(seen.last(), Some(&AccessAction::Logout));
    assert_eq!(seen.iter().filter(|action| **action == AccessAction::Refused).count(), 6);
}

#[tokio::test(start_paused = true)]
async fn the_bootstrap_administrator_never_decides_for_root() {
    let (stage, _dir) = stage(|_| {});
    let cookie = format!("lockgate={}", log_in(&stage, None).await);
    let (_, me) = json_of(send(&stage, request("GET", "/v1/whoami", &[("cookie", &cookie)], "")).await).await;
    let mut asked = stage.request(Ask::default());
    let session = Arc::make_mut(&mut asked.session);
    session.flow.process.uid = 0;
    let id = asked.id;
    let _pending = stage.control.open(asked).await.unwrap();
    let headers = [("cookie", &*cookie), ("x-csrf-token", me["csrf"].as_str().unwrap())];
    let sent = request("POST", &format!("/v1/approvals/{id}/approve"), &headers, "");
    let (status, problem) = json_of(send(&stage, sent).await).await;
    assert_eq!((status, &problem["code"]), (403, &json!("requester")), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn answers_say_what_browsers_may_do_and_with_tls_cookies_stay_there() {
    let (plain, _dir) = stage(|_| {});
    let (tls, _dir_too) = stage(|login| login.secure = true);
    for (stage, secure) in [(&plain, false), (&tls, true)] {
        for path in ["/login", "/v1/whoami", "/healthz", "/nothing"] {
            let response = send(stage, request("GET", path, &[("accept", "text/html")], "")).await;
            let said = response.headers();
            let content = said[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            for part in
                ["default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"]
            {
                assert!(content.contains(part), "{path}: {part}");
            }
            assert!(!content.contains("unsafe"), "{content}");
            assert_eq!(said[header::X_FRAME_OPTIONS], "DENY", "{path}");
            assert_eq!(said[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
            assert_eq!(said.contains_key(header::STRICT_TRANSPORT_SECURITY), secure, "{path}");
        }
    }
    let token = std::fs::read_to_string(tls.control.bootstrap().unwrap().unwrap()).unwrap();
    let response =
        send(&tls, request("POST", "/login/bootstrap", &[FORM], &format!("token={}", token.trim()))).await;
    let set = response.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(
        set.starts_with("__Host-lockgate=") && set.contains("; Secure") && set.contains("HttpOnly"),
        "{set}"
    );
    // The same cookie under the name without TLS opens nothing.
    let value = cookie(&response, "__Host-lockgate").unwrap();
    let plain = format!("lockgate={value}");
    assert_eq!(send(&tls, request("GET", "/v1/whoami", &[("cookie", &plain)], "")).await.status(), 401);
}

#[tokio::test(start_paused = true)]
async fn one_time_tokens_are_good_once_and_guessing_is_slow_and_recorded() {
    let (stage, _dir) = stage(|_| {});
    let token = std::fs::read_to_string(stage.control.bootstrap().unwrap().unwrap()).unwrap();
    let post = async |token: &str, headers: &[(&str, &str)]| {
        let mut headers = headers.to_vec();
        headers.push(FORM);
        send(&stage, request("POST", "/login/bootstrap", &headers, &format!("token={token}")))
            .await
            .status()
            .as_u16()
    };
    assert_eq!(post(token.trim(), &[("origin", "https://evil.example.com")]).await, 403);
    assert_eq!(post(token.trim(), &[]).await, 303);
    assert_eq!(post(token.trim(), &[]).await, 403, "once");
    let mut slowed = 0;
    for _ in 0..150 {
        slowed += usize::from(post("lgb_wrong", &[]).await == 429);
    }
    assert_eq!(slowed, 33);
    let refused =
        actions(&stage).into_iter().filter(|(action, _)| *action == AccessAction::LoginRefused).count();
    assert_eq!(refused, 118);
}

#[tokio::test(start_paused = true)]
async fn a_login_goes_on_to_a_page_of_ours_alone() {
    let (stage, _dir) = stage(|_| {});
    for (next, expected) in
        [("/approvals/x", "/approvals/x"), ("//evil.example.com", "/"), ("https://evil", "/")]
    {
        let token = std::fs::read_to_string(stage.control.bootstrap().unwrap().unwrap()).unwrap();
        let form = format!("token={}&next={next}", token.trim());
        let response = send(&stage, request("POST", "/login/bootstrap", &[FORM], &form)).await;
        assert_eq!(response.headers()[header::LOCATION], expected, "{next}");
    }
    let page = send(&stage, request("GET", "/v1/logins", &[("accept", "text/html")], "")).await;
    assert_eq!(page.status(), 401, "programs are told, not sent");
}

#[tokio::test(start_paused = true)]
async fn an_api_token_has_its_scope_is_listed_used_and_revoked() {
    let (stage, _dir) = stage(|_| {});
    let as_uid = async |uid: u32, method: &str, path: &str, body: &str| {
        let peer = Extension(PeerCred { pid: None, uid, gid: uid });
        json_of(router(&stage).layer(peer).oneshot(request(method, path, &[], body)).await.unwrap()).await
    };
    for (uid, body, status, code) in [
        (1002, json!({ "name": "x", "roles": ["admin"] }), 403, "more_than_own"),
        (1002, json!({ "name": "x", "groups": ["security"] }), 403, "more_than_own"),
        (1002, json!({ "name": "x", "program": true }), 403, "role_required"),
        (0, json!({ "name": "x", "program": true, "roles": ["approver"] }), 403, "more_than_own"),
        (0, json!({ "name": "x", "groups": ["dba"] }), 403, "more_than_own"),
        (1002, json!({ "name": "" }), 400, "malformed"),
        (1002, json!({ "name": "x", "for": "900d" }), 400, "malformed"),
        (1004, json!({ "name": "x" }), 400, "malformed"),
    ] {
        let (got, problem) = as_uid(uid, "POST", "/v1/api-tokens", &body.to_string()).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{uid} {body}: {problem}");
    }
    let wish = json!({ "name": "deploy", "roles": ["viewer", "approver"], "groups": ["dba"], "for": "1h" });
    let (status, made) = as_uid(1002, "POST", "/v1/api-tokens", &wish.to_string()).await;
    assert_eq!(status, 201, "{made}");
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    let ask = async |method: &str, path: &str, body: &str| {
        json_of(send(&stage, request(method, path, &[("authorization", &bearer)], body)).await).await
    };
    let (_, me) = ask("GET", "/v1/whoami", "").await;
    assert_eq!((&me["roles"], &me["groups"]), (&json!(["viewer", "approver"]), &json!(["dba"])));
    assert_eq!(me["csrf"], Value::Null);
    assert_eq!(ask("GET", "/v1/audit/verify", "").await.0, 403);
    assert_eq!(ask("POST", "/v1/api-tokens", "{\"name\":\"more\"}").await.1["code"], json!("more_than_own"));

    // A vote by the token is its owner's vote: one person counts once.
    let pending = stage.control.open(stage.request(Ask { need: 2, ..Ask::default() })).await.unwrap();
    let id = stage.control.desk.registry.newest_first(None)[0].request.id;
    let path = format!("/v1/approvals/{id}/approve");
    assert_eq!(ask("POST", &path, "").await.0, 200);
    assert_eq!(as_uid(1002, "POST", &path, "").await.1["code"], json!("duplicate_vote"));
    assert!(pending.progress().resolution.is_none());

    let (_, list) = as_uid(1002, "GET", "/v1/api-tokens", "").await;
    assert_eq!((&list["items"][0]["name"], list["items"][0]["token"].is_null()), (&json!("deploy"), true));
    assert!(list["items"][0]["used_at"].is_string());
    assert_eq!(as_uid(1004, "GET", "/v1/api-tokens", "").await.1["items"], json!([]));
    let token = made["id"].as_str().unwrap();
    let revoke = format!("/v1/api-tokens/{token}/revoke");
    assert_eq!(as_uid(1004, "POST", &revoke, "").await.0, 404, "not theirs");
    assert_eq!(as_uid(1002, "POST", &revoke, "").await.0, 200);
    assert_eq!(ask("GET", "/v1/whoami", "").await.1["code"], json!("bad_token"));
    let seen = actions(&stage);
    assert!(
        seen.contains(&(AccessAction::TokenMade, None)) && seen.contains(&(AccessAction::TokenRevoked, None))
    );
    assert!(seen.contains(&(AccessAction::TokenRefused, Some("bad_token".into()))));
    // Public routes stay public for whoever sends rubbish.
    assert_eq!(ask("GET", "/healthz", "").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_left_is_out_at_once() {
    let (stage, _dir) = stage(|_| {});
    let cookie = format!("lockgate={}", log_in(&stage, None).await);
    let root = async |method: &str, path: &str, body: &str| {
        let peer = Extension(PeerCred { pid: None, uid: 0, gid: 0 });
        json_of(router(&stage).layer(peer).oneshot(request(method, path, &[], body)).await.unwrap()).await
    };
    let (_, list) = root("GET", "/v1/logins", "").await;
    assert_eq!(list["items"][0]["person"], json!("bootstrap:admin"));
    let (status, ended) = root("POST", "/v1/people/end", "{\"person\": \"bootstrap:admin\"}").await;
    assert_eq!((status, ended["logins_ended"].as_array().unwrap().len()), (200, 1));
    assert_eq!(send(&stage, request("GET", "/v1/whoami", &[("cookie", &cookie)], "")).await.status(), 401);
    assert!(actions(&stage).iter().any(|(action, _)| *action == AccessAction::LoginEnded));
}

#[tokio::test]
async fn settings_that_let_nobody_in_or_blur_ids_are_refused() {
    let settings = |providers, bootstrap: bool| {
        let mut settings = login_settings(providers);
        settings.bootstrap = bootstrap.then(|| BootstrapSettings { groups: Vec::new(), file: "/x".into() });
        Some(settings)
    };
    let base = Some("https://gate.example.com");
    let refused = |settings, base| Auth::new(settings, base, None).err();
    assert!(matches!(refused(settings(Vec::new(), false), base), Some(LoginError::Nobody)));
    assert!(refused(settings(Vec::new(), true), None).is_none());
    for bad in ["", "a/b", "..", "bootstrap", "ä"] {
        assert!(
            matches!(refused(settings(vec![oidc_provider(bad)], false), base), Some(LoginError::Name(_))),
            "{bad}"
        );
    }
    let twice = vec![oidc_provider("a"), oidc_provider("a")];
    assert!(matches!(refused(settings(twice, false), base), Some(LoginError::DuplicateName(_))));
    assert!(matches!(
        refused(settings(vec![oidc_provider("a")], false), None),
        Some(LoginError::NoPublicUrl)
    ));
}

/// A login of somebody at `corp`, in these groups.
fn some_login(stage: &Stage, groups: &[&str]) -> String {
    let auth = &stage.control.desk.auth;
    let session = session::Session {
        id: "lgn_1".into(),
        person: person::tests::person("corp", groups),
        csrf: "word".into(),
        began: stage.control.desk.ambient.now(),
        proved: None,
        source: None,
        id_token: None,
        sid: None,
        nonce: String::new(),
        refresh: None,
        until: None,
    };
    let (cookie, _) = auth.sessions.begin(session, tokio::time::Instant::now()).unwrap();
    format!("lockgate={}", cookie.expose())
}

async fn who(stage: &Stage, cookie: &str) -> (u16, Value) {
    json_of(send(stage, request("GET", "/v1/whoami", &[("cookie", cookie)], "")).await).await
}

#[tokio::test(start_paused = true)]
async fn what_configuration_says_anew_holds_for_open_logins_at_their_next_request() {
    let (stage, _dir) = stage(|_| {});
    let cookie = some_login(&stage, &["staff"]);
    assert_eq!(who(&stage, &cookie).await.1["roles"], json!(["viewer"]));

    let mut other = login_settings(vec![oidc_provider("corp"), oidc_provider("more")]);
    other.roles = [(Role::Auditor, vec!["staff".to_owned()])].into();
    let reloaded = stage.control.reload_login(Some(other)).unwrap();
    assert_eq!((reloaded.ended, &*reloaded.providers), (0, &["corp".to_owned(), "more".to_owned()][..]));
    assert_eq!(who(&stage, &cookie).await.1["roles"], json!(["viewer", "auditor"]), "auditors see, too");
    let page =
        send(&stage, request("GET", "/login", &[], "")).await.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&page).contains("/login/more"));

    // What cannot be used changes nothing.
    let twice = login_settings(vec![oidc_provider("a"), oidc_provider("a")]);
    assert!(stage.control.reload_login(Some(twice)).is_err());
    assert_eq!(who(&stage, &cookie).await.0, 200);

    // Another provider of that name knows other people; no provider knows none.
    stage.control.desk.auth.sessions.end_where(|_| true);
    for settings in [
        {
            let mut corp = oidc_provider("corp");
            if let ProviderKind::Oidc(oidc) = &mut corp.kind {
                oidc.issuer = "https://elsewhere.example.com".into();
            }
            Some(login_settings(vec![corp]))
        },
        Some(login_settings(vec![oidc_provider("more")])),
        None,
    ] {
        stage.control.reload_login(Some(login_settings(vec![oidc_provider("corp")]))).unwrap();
        let cookie = some_login(&stage, &["staff"]);
        assert_eq!(who(&stage, &cookie).await.0, 200);
        assert_eq!(stage.control.reload_login(settings).unwrap().ended, 1);
        assert_eq!(who(&stage, &cookie).await.0, 401);
    }
    let ended = actions(&stage).into_iter().filter(|(action, _)| *action == AccessAction::LoginEnded).count();
    assert_eq!(ended, 3);
    assert!(!stage.control.offers_login());
}

#[tokio::test(start_paused = true)]
async fn a_login_that_nobody_vouches_for_any_more_is_over_by_the_time_that_is_set() {
    let (stage, _dir) = stage(|login| login.vouched = Duration::from_secs(600));
    let cookie = some_login(&stage, &["staff"]);
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(110)).await;
        assert_eq!(who(&stage, &cookie).await.0, 200);
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(who(&stage, &cookie).await.0, 401, "the provider gave nothing to ask it anew with");
    let (_, code) = actions(&stage).pop().unwrap();
    assert_eq!(code, None);
    assert!(actions(&stage).iter().any(|(action, _)| *action == AccessAction::LoginEnded));
}

#[tokio::test(start_paused = true)]
async fn only_the_proxy_in_front_is_believed_about_who_asks_and_nobody_comes_past_it() {
    let (stage, _dir) = stage(|login| {
        login.proxies = vec!["10.0.0.0/24".parse().unwrap(), "192.168.7.7".parse().unwrap()];
    });
    let cookie = some_login(&stage, &["staff"]);
    let from = async |remote: &str, forwarded: &[&str]| {
        let remote = Extension(Remote(remote.parse().unwrap()));
        let mut headers = vec![FORM];
        headers.extend(forwarded.iter().map(|value| ("x-forwarded-for", *value)));
        let sent = request("POST", "/login/bootstrap", &headers, "token=lgb_wrong");
        router(&stage).layer(remote).oneshot(sent).await.unwrap();
        stage.log.pick(|kind| match kind {
            EventKind::Access(access) => access.source.clone(),
            _ => None,
        })
    };
    for (remote, forwarded, expected) in [
        ("10.0.0.9", &["203.0.113.5"][..], "203.0.113.5"),
        ("10.0.0.9", &["1.1.1.1, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.9", &["1.1.1.1", "203.0.113.5, 192.168.7.7"], "203.0.113.5"),
        ("10.0.0.9", &["203.0.113.6, rubbish"], "10.0.0.9"),
        ("10.0.0.9", &[], "10.0.0.9"),
        ("203.0.113.9", &["10.0.0.9"], "203.0.113.9"),
        ("::ffff:10.0.0.9", &["2001:db8::5"], "2001:db8::5"),
    ] {
        let seen = from(remote, forwarded).await;
        assert_eq!(seen.last().map(String::as_str), Some(expected), "{remote} {forwarded:?}");
    }
    // Past the proxy nothing is asked for that would pass the network in the clear.
    for (remote, path, status) in [
        ("10.0.0.9", "/v1/whoami", 200),
        ("203.0.113.9", "/v1/whoami", 403),
        ("203.0.113.9", "/healthz", 200),
        ("203.0.113.9", "/login", 200),
    ] {
        let remote = Extension(Remote(remote.parse().unwrap()));
        let sent = request("GET", path, &[("cookie", &cookie)], "");
        assert_eq!(router(&stage).layer(remote).oneshot(sent).await.unwrap().status(), status, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_soon_after_the_right_to_hear_it() {
    let (stage, _dir) = stage(|_| {});
    let endless = async || {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        ([(header::CONTENT_TYPE, "text/event-stream")], body)
    };
    let router = stage.control.authenticated(Router::new().route("/v1/events", axum::routing::get(endless)));
    let asked = async |cookie: &str| {
        let sent = request("GET", "/v1/events", &[("cookie", cookie)], "");
        let answer = router.clone().oneshot(sent).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body()
    };
    let first = some_login(&stage, &["staff"]);
    let heard = tokio::spawn(asked(&first).await.collect());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!heard.is_finished(), "whoever may goes on");
    // A role is lost.
    let mut other = login_settings(vec![oidc_provider("corp")]);
    other.roles.clear();
    stage.control.reload_login(Some(other)).unwrap();
    tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap().unwrap().unwrap();
    // A login is over.
    stage.control.reload_login(Some(login_settings(vec![oidc_provider("corp")]))).unwrap();
    let heard = tokio::spawn(asked(&first).await.collect());
    stage.control.desk.auth.sessions.end_where(|_| true);
    tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap().unwrap().unwrap();
}
