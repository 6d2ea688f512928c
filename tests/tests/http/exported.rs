//! What others are told of requests over HTTP: OCSF's API Activity, held against the published schema.

use crate::world::World;
use anyhow::{Result, ensure};
use lockgate_tests::{installed::ocsf_classes, origin::Speaks};
use serde_json::Value;
use std::fs;

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_api_activity_of_the_published_schema() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    let done = world.curl(&[&world.url("/orders/7?verbose=1")]).await?;
    ensure!(done.stdout.ends_with("200"), "{done:?}");
    for refused in [["-X", "DELETE"], ["-X", "PROPFIND"]] {
        let url = world.url("/orders/7");
        let done = world.curl(&[&refused[..], &[url.as_str()]].concat()).await?;
        ensure!(done.stdout.ends_with("403"), "{done:?}");
    }
    let url = world.url("/orders/8");
    let running =
        world.start_curl(&["-H", "content-type: application/json", "-d", "{\"amount\": 1}", &url])?;
    let request = world.asked("/orders/8").await?;
    world.decide(&request, "approve").await?;
    running.done().await?;
    world
        .recorded("the last answer", |event| {
            event.contains("\"responded\"") && event.contains("\"result\":\"responded\"")
        })
        .await?;
    let (events, text) = loop {
        let exported = world.agent.cli(&["audit", "export", "--format", "ocsf"])?;
        ensure!(exported.status.success(), "{exported:?}");
        let text = String::from_utf8(exported.stdout)?;
        let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        // The sessions' ends follow their clients'.
        if events.iter().filter(|event| event["type_uid"] == 400_102).count() >= 4 {
            break (events, text);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let path = world.agent.scratch().path().join("ocsf.jsonl");
    fs::write(&path, text)?;
    let classes: Value = serde_json::from_str(&ocsf_classes(&path)?)?;
    for class in ["6003", "4001", "3003"] {
        ensure!(classes[class].as_u64() > Some(0), "no event of class {class}: {classes}");
    }
    // What became of each, in OCSF's own numbers: activity, action, disposition.
    let told = |operation: &str| -> Vec<[Option<u64>; 3]> {
        let of = |event: &&Value| event["api"]["operation"] == operation;
        let numbers = ["activity_id", "action_id", "disposition_id"];
        events.iter().filter(of).map(|event| numbers.map(|name| event[name].as_u64())).collect()
    };
    let (allowed, denied, held) = (Some(1), Some(2), Some(3));
    for (operation, expected) in [
        (
            "GET /orders/{id}",
            vec![[Some(2), allowed, Some(1)], [Some(2), allowed, Some(1)], [Some(2), None, None]],
        ),
        ("DELETE /orders/{id}", vec![[Some(4), denied, Some(2)]]),
        ("PROPFIND /orders/{id}", vec![[Some(99), denied, Some(2)]]),
        (
            "POST /orders/{id}",
            vec![[Some(1), held, Some(14)], [Some(1), allowed, Some(8)], [Some(1), None, None]],
        ),
    ] {
        let told = told(operation);
        // A plain read is forwarded without a record of its own.
        let expected = if told.len() + 1 == expected.len() && operation.starts_with("GET") {
            vec![expected[0], expected[2]]
        } else {
            expected
        };
        ensure!(told == expected, "{operation}: {told:?}, expected {expected:?}");
    }
    let answered = |event: &&Value| event["http_response"]["code"] == 200;
    let answered = events.iter().filter(answered).count();
    ensure!(answered == 2, "{answered} answers");
    let get = events.iter().find(|event| event["http_request"]["http_method"] == "GET");
    ensure!(get.is_some_and(|event| event["http_request"]["url"]["path"] == "/orders/7"), "{get:?}");
    Ok(())
}
