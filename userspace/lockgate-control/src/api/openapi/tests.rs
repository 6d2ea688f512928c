use super::*;
use crate::testing::Stage;
use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};
use tower::ServiceExt as _;

fn described() -> BTreeSet<(String, String)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, methods): (&String, &Value)| {
        let methods: Vec<String> = methods.as_object().unwrap().keys().map(|it| it.to_uppercase()).collect();
        methods.into_iter().map(|method| (method, path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[test]
fn every_route_that_somebody_may_use_is_described_and_no_other() {
    let guarded: BTreeSet<(String, String)> = rules::RULES
        .iter()
        .filter(|(_, path, _)| path.starts_with("/v1/"))
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    let described = described();
    let missing: Vec<_> = guarded.difference(&described).collect();
    assert!(missing.is_empty(), "add these to api/openapi/routes.rs: {missing:?}");
    let unknown: Vec<_> = described.difference(&guarded).collect();
    assert!(unknown.is_empty(), "these are described and have no line in auth/rules.rs: {unknown:?}");
    assert!(described.len() > 40, "{}", described.len());
}

#[test]
fn every_example_fits_its_schema_and_every_reference_leads_somewhere() {
    let document = document();
    let mut checked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let place = format!("{method} {path}");
            assert!(!operation["x-role"].is_null(), "{place}");
            let bodies = [&operation["requestBody"]].into_iter().chain(
                operation["responses"].as_object().unwrap().values().filter(|it| it.get("content").is_some()),
            );
            for content in bodies.filter_map(|body| body.get("content")?.as_object()) {
                for media in content.values() {
                    fits(&document, &media["schema"], &media["example"], &place);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 60, "{checked}");
    let problem = &document["components"]["responses"]["Problem"]["content"]["application/problem+json"];
    fits(&document, &problem["schema"], &problem["example"], "problem");
}

fn fits(document: &Value, schema: &Value, value: &Value, place: &str) {
    let validator = strict::validator(document, schema).unwrap_or_else(|error| panic!("{place}: {error}"));
    let errors = strict::misfits(&validator, value);
    assert!(errors.is_empty(), "{place}: {value:#}: {errors:#?}");
}

/// Stands before every router of this crate's tests: whatever JSON they are answered is as described, and all of it is.
pub(crate) async fn checked(
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
    static KNOWN: Mutex<BTreeMap<String, Arc<jsonschema::Validator>>> = Mutex::new(BTreeMap::new());
    let method = request.method().to_string();
    let path = request.extensions().get::<axum::extract::MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let Some(path) = path.filter(|path| path.starts_with("/v1/") && kind.ends_with("json")) else {
        return response;
    };
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let status = parts.status.as_u16();
    let place = format!("{method} {path} {status}");
    let answer: Value = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{place}: {error}"));
    let validator = KNOWN.lock().get(&place).cloned();
    let validator = validator.unwrap_or_else(|| {
        let schema = strict::schema_of(&DOCUMENT, &method, &path, status);
        let schema = schema.unwrap_or_else(|| panic!("{place}: answered and not described: {answer:#}"));
        let made = strict::validator(&DOCUMENT, schema).unwrap_or_else(|error| panic!("{place}: {error}"));
        let made = Arc::new(made);
        KNOWN.lock().insert(place.clone(), made.clone());
        made
    });
    let errors = strict::misfits(&validator, &answer);
    assert!(errors.is_empty(), "{place}: {answer:#}: {errors:#?}");
    axum::response::Response::from_parts(parts, Body::from(body))
}

#[test]
fn an_answer_with_a_field_that_is_not_described_does_not_fit() {
    let document = document();
    let schema = strict::schema_of(&document, "GET", "/v1/approvals/{id}", 200).unwrap();
    let validator = strict::validator(&document, schema).unwrap();
    let operation = &document["paths"]["/v1/approvals/{id}"]["get"]["responses"]["200"];
    let example = &operation["content"]["application/json"]["example"];
    assert_eq!(strict::misfits(&validator, example), Vec::<String>::new());
    for place in ["", "/operation", "/identity", "/identity/process", "/target", "/rules/0", "/need/0"] {
        let mut changed = example.clone();
        changed.pointer_mut(place).unwrap()["extra"] = json!(1);
        assert!(!strict::misfits(&validator, &changed).is_empty(), "{place}: another field fits");
    }
    for (place, field) in [("", "votes"), ("/operation", "risk"), ("/identity", "principal")] {
        let mut changed = example.clone();
        changed.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(field);
        assert!(!strict::misfits(&validator, &changed).is_empty(), "{place}: fits without {field}");
    }
}

#[test]
fn ids_of_operations_are_unique_and_paths_well_formed() {
    let mut ids = BTreeSet::new();
    for operation in routes::all() {
        assert!(ids.insert(operation.id), "{}", operation.id);
        assert!(operation.path.starts_with("/v1/") && !operation.path.ends_with('/'), "{}", operation.path);
        assert!(TAGS.iter().any(|(tag, _)| *tag == operation.tag), "{}", operation.tag);
    }
}

/// Those that the binary serves beside the control plane's.
const THE_AGENT_S: &[&str] = &[
    "/v1/run",
    "/v1/tokens",
    "/v1/self-test",
    "/v1/audit/holds",
    "/v1/audit/mentions",
    "/v1/audit/retention",
];

#[tokio::test]
async fn every_route_that_is_described_is_served() {
    let stage = Stage::new(Vec::new());
    let router = crate::api::finish(stage.control.router());
    let mut asked = 0;
    for (method, path) in described() {
        if THE_AGENT_S.iter().any(|theirs| path.starts_with(theirs)) {
            continue;
        }
        let place: Vec<&str> =
            path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let request =
            Request::builder().method(method.as_str()).uri(place.join("/")).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_ne!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body);
        assert!(!body.contains("there is nothing at this path"), "{method} {path}: {body}");
        asked += 1;
    }
    assert!(asked > 40, "{asked}");
}

/// `LOCKGATE_BLESS=1` writes it.
#[test]
fn the_checked_in_description_is_the_one_of_this_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let now = format!("{:#}\n", document());
    if std::env::var_os("LOCKGATE_BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(checked_in == now, "{path} is stale: run this test with LOCKGATE_BLESS=1");
}

/// What people do on the console's pages, the route that does it, and the command that does the same.
const ACTIONS: &[(&str, &str, &str)] = &[
    ("GET /approvals", "GET /v1/approvals", "approvals list"),
    ("GET /approvals/live", "GET /v1/events", "approvals watch"),
    ("GET /approvals/{id}", "GET /v1/approvals/{id}", "approvals show"),
    ("GET /approvals/{id}/live", "GET /v1/events", "approvals watch"),
    ("POST /approvals/{id}/decide", "POST /v1/approvals/{id}/approve", "approvals approve"),
    ("POST /approvals/{id}/decide", "POST /v1/approvals/{id}/deny", "approvals deny"),
    ("POST /approvals/decide", "POST /v1/approvals/{id}/approve", "approvals approve"),
    ("GET /bundles/{id}", "GET /v1/bundles/{id}", "approvals show"),
    ("POST /bundles/{id}/decide", "POST /v1/bundles/{id}/approve", "approvals approve"),
    ("POST /bundles/{id}/decide", "POST /v1/bundles/{id}/deny", "approvals deny"),
    ("GET /grants", "GET /v1/grants", "grants list"),
    ("POST /grants/{id}/revoke", "POST /v1/grants/{id}/revoke", "grants revoke"),
    ("GET /breakglass", "GET /v1/breakglass", "breakglass list"),
    ("POST /breakglass", "POST /v1/breakglass", "breakglass use"),
    ("POST /breakglass/{id}/end", "POST /v1/breakglass/{id}/end", "breakglass end"),
    ("POST /breakglass/{id}/review", "POST /v1/breakglass/{id}/review", "breakglass review"),
    ("GET /sessions", "GET /v1/sessions", "sessions list"),
    ("GET /sessions/{id}", "GET /v1/sessions/{id}", "sessions show"),
    ("GET /sessions/{id}/live", "GET /v1/events", "sessions tail"),
    ("POST /sessions/{id}/kill", "POST /v1/sessions/{id}/kill", "sessions kill"),
    ("GET /search", "GET /v1/search", "sessions search"),
    ("GET /targets", "GET /v1/targets", "targets list"),
    ("POST /targets", "POST /v1/targets", "targets add"),
    ("POST /targets/{name}/remove", "DELETE /v1/targets/{name}", "targets remove"),
    ("GET /governed", "GET /v1/governed", "doctor"),
    ("GET /policies", "GET /v1/policy", "policy check"),
    ("GET /policies", "POST /v1/policy/explain", "policy explain"),
    ("GET /policies", "POST /v1/policy/test", "policy test"),
    ("GET /audit", "GET /v1/audit/verification", "audit verify"),
    ("GET /audit/live", "GET /v1/audit/verification", "audit verify"),
    ("POST /audit/verify", "POST /v1/audit/verification", "audit verify"),
    ("POST /audit/verify/stop", "POST /v1/audit/verification/stop", "audit verify"),
    ("GET /audit", "GET /v1/audit/checkpoint", "audit checkpoint"),
    ("GET /audit/proof", "GET /v1/audit/proofs/{seq}", "audit prove"),
    ("GET /me", "GET /v1/whoami", "tokens whoami"),
];

/// What only leads elsewhere.
const NO_ACTION: &[&str] = &["GET /"];

#[test]
fn everything_the_console_does_is_in_the_api_and_in_the_command_line() {
    let document = document();
    let handbook = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).unwrap();
    for (page, route, command) in ACTIONS {
        let (method, path) = route.split_once(' ').unwrap();
        let operation = &document["paths"][path][method.to_lowercase()];
        assert!(operation.is_object(), "{page}: {route} is not described");
        assert!(
            handbook.contains(&format!("`lockgate {command}")),
            "{page}: lockgate {command} is not in cli.md"
        );
        // A page asks for what its route asks for, so that neither is a way around the other.
        let (page_method, page_path) = page.split_once(' ').unwrap();
        let page_rule = rules::rule(&page_method.parse().unwrap(), page_path);
        assert!(page_rule.is_some(), "{page} is guarded by nothing");
    }
    let pages = rules::RULES.iter().filter(|(_, path, _)| {
        let outside = ["/v1/", "/login", "/logout", "/healthz", "/readyz", "/metrics"];
        !outside.iter().any(|prefix| path.starts_with(prefix))
    });
    for (method, path, _) in pages {
        let page = format!("{method} {path}");
        let known = ACTIONS.iter().any(|(known, ..)| *known == page) || NO_ACTION.contains(&page.as_str());
        assert!(known, "{page}: say in ACTIONS which route and which command do the same");
    }
}
