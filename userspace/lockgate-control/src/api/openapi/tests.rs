use super::*;
use crate::testing::Stage;
use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt as _;
use std::collections::BTreeSet;
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

/// Validates with the document's own components in reach.
pub(crate) fn fits(document: &Value, schema: &Value, value: &Value, place: &str) {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": document["components"],
        "allOf": [schema],
    });
    let validator = jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{place}: {error}"));
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{place}: {value:#}: {errors:#?}");
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
const THE_AGENT_S: &[&str] =
    &["/v1/run", "/v1/tokens", "/v1/self-test", "/v1/audit/holds", "/v1/audit/retention"];

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
