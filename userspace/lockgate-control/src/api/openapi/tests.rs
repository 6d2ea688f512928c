use super::*;
use std::collections::BTreeSet;

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
