//! Who may look and may not see values: every page, answer and stream of a real agent, asked by a viewer, holds shapes alone.

use crate::api::{WITHIN, get, said, seen, tcp, world};
use anyhow::{Context, Result, ensure};
use lockgate_tests::receiver::Decision;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Somebody who may look, and not at values: by every way that shows what was recorded or waits.
#[tokio::test(flavor = "multi_thread")]
async fn viewers_find_no_value_on_any_page_answer_or_stream() -> Result<()> {
    let world = world().await?;
    let token = world.agent.cli(&[
        "tokens",
        "make",
        "looker",
        "--role",
        "viewer",
        "--program",
        "--output",
        "json",
    ])?;
    let token: Value = serde_json::from_slice(&token.stdout).with_context(|| said(&token))?;
    let bearer = format!("Bearer {}", token["token"].as_str().context("token")?);
    let by = [("authorization", bearer.as_str())];
    let looker = ("authorization", bearer.as_str());

    // A stream that was there before.
    let mut stream = TcpStream::connect(world.agent.api().trim_start_matches("http://")).await?;
    let head = format!("GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let reading = tokio::spawn(async move {
        let mut heard = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            let read = tokio::time::timeout(WITHIN, stream.read(&mut buffer)).await;
            let Ok(Ok(read @ 1..)) = read else { break };
            heard.extend_from_slice(buffer.get(..read).unwrap_or_default());
            let text = String::from_utf8_lossy(&heard);
            if text.contains("event: session_ended") && text.contains("event: approval_requested") {
                break;
            }
        }
        String::from_utf8_lossy(&heard).into_owned()
    });

    let secrets = ["s3cret-literal", "s3cret-syntax", "s3cret-held", "s3cret-default"];
    world
        .psql(&[
            "select 's3cret-literal'",
            "selekt 's3cret-syntax'",
            "select note from orders where note = 's3cret-literal'",
        ])
        .await?;
    let held = world.start(&["alter table orders alter column note set default 's3cret-held'"])?;
    let told = world.receiver.requested("set default").await?;
    ensure!(told.data().to_string().contains("s3cret-held"), "the notification is for who decides");
    let (request, session) = (told.data()["request_id"].clone(), told.data()["session_id"].clone());
    let (request, session) = (request.as_str().context("request")?, session.as_str().context("session")?);
    let digest = told.data()["command_digest"].as_str().context("digest")?.to_owned();
    let sessions = get(&world, "/v1/sessions?open=false").await?;
    let ended = sessions["items"][0]["id"].as_str().context("an ended session")?.to_owned();

    let mut looked = 0;
    for path in [
        "/v1/approvals".to_owned(),
        format!("/v1/approvals/{request}"),
        "/v1/grants".to_owned(),
        format!("/v1/sessions/{session}"),
        format!("/v1/sessions/{ended}"),
        "/v1/search?target=orders-db".to_owned(),
        "/v1/search?event=operation_decided".to_owned(),
        "/approvals".to_owned(),
        format!("/approvals/{request}"),
        "/approvals?q=s3cret".to_owned(),
        format!("/sessions/{session}"),
        format!("/sessions/{ended}"),
        "/search?target=orders-db".to_owned(),
        "/search?event=operation_decided".to_owned(),
        "/targets".to_owned(),
    ] {
        let answer = seen(&path, async || {
            let answer = tcp(&world, "GET", &path, &by, "").await?;
            // The index comes a moment behind the log.
            let there = !path.contains("search")
                || answer.body.contains("operation_decided")
                || answer.body.contains("operation decided")
                || answer.body.contains("class=\"item\"");
            Ok((answer.status == 200 && there).then_some(answer))
        })
        .await?;
        for secret in secrets.iter().copied().chain([digest.as_str()]) {
            ensure!(!answer.body.contains(secret), "{path} shows {secret}: {}", answer.body);
        }
        let guessed = path.contains("q=s3cret");
        ensure!(!guessed || answer.body.contains("Nothing fits these filters"), "{path} tells who guesses");
        looked += 1;
    }
    ensure!(looked == 15);
    // Nor by asking for it.
    for path in [
        "/v1/search?text=s3cret",
        "/search?q=s3cret",
        &format!("/v1/search?digest={digest}"),
        &format!("/search?digest={digest}"),
    ] {
        let answer = tcp(&world, "GET", path, &[looker], "").await?;
        ensure!(answer.status == 403, "{path}: {answer:?}");
    }
    for path in ["/audit", "/audit/proof", "/v1/audit/verify", "/v1/audit/verification"] {
        let answer = tcp(&world, "GET", path, &by, "").await?;
        ensure!(answer.status == 403, "{path}: {answer:?}");
    }
    let answer = tcp(
        &world,
        "POST",
        "/v1/policy/explain",
        &[looker, ("content-type", "application/json")],
        &format!("{{\"session\":\"{ended}\"}}"),
    )
    .await?;
    ensure!(answer.status == 403, "{answer:?}");
    let heard = tokio::time::timeout(WITHIN, reading).await??;
    ensure!(heard.contains("event: operation_decided"), "{heard}");
    for secret in secrets.iter().copied().chain([digest.as_str()]) {
        ensure!(!heard.contains(secret), "the stream says {secret}: {heard}");
    }
    // Whoever decides sees it all.
    let whole = get(&world, &format!("/v1/approvals/{request}")).await?;
    ensure!(
        whole["command_digest"] == json!(digest) && whole.to_string().contains("s3cret-held"),
        "{whole:#}"
    );
    Decision::on(&told, "deny", "ana@example.com", &["dba"]).accepted().await?;
    held.done().await?;
    Ok(())
}
