//! Decisions from the job's side: forged, borrowed, bent, raced. The job can reach the API's port and socket like
//! anybody on the host; what it says there may not count.

use crate::world::{POLICY, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::built_binary,
    job::{self, JOB_UID, Running},
    receiver::{Decision, Delivery, sign},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const ALTER: &str = "alter table orders add column extra text";

async fn held() -> Result<(World, Running, Delivery)> {
    let world = World::with(POLICY, |options, _| {
        options.local_approvers = vec![(0, vec!["dba".to_owned()])];
    })
    .await?;
    let job = world.start(&[ALTER])?;
    let request = world.receiver.requested(ALTER).await?;
    Ok((world, job, request))
}

fn text<'a>(request: &'a Delivery, field: &str) -> Result<&'a str> {
    request.data()[field].as_str().with_context(|| field.to_owned())
}

/// What of a `decision_url` follows the authority.
fn path(url: &str) -> Result<&str> {
    let rest = url.strip_prefix("http://").context("http://")?;
    rest.find('/').and_then(|at| rest.get(at..)).context("a path")
}

/// Sends these bytes and reads to the end: the status, and everything as text.
async fn say(world: &World, request: &[u8]) -> Result<(u16, String)> {
    let authority = world.agent.api().replace("http://", "");
    let talk = async {
        let mut stream = TcpStream::connect(&authority).await?;
        // A server may answer and close before it has read all.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        anyhow::Ok((status, answer))
    };
    tokio::time::timeout(Duration::from_secs(15), talk).await?
}

fn http(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "{method} {path} HTTP/1.1\r\nhost: lockgate\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    [out.as_bytes(), body].concat()
}

/// A body, signed as the integration would: what is bent here is the body or the way it is sent, not the key.
fn signed(path: &str, id: &str, body: &[u8], more: &[(&str, &str)]) -> Result<Vec<u8>> {
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs().to_string();
    let signature = sign(lockgate_tests::receiver::DECISION_SECRET, id, &stamp, body)?;
    let mut headers =
        vec![("webhook-id", id), ("webhook-timestamp", &stamp), ("webhook-signature", signature.as_str())];
    headers.extend_from_slice(more);
    Ok(http("POST", path, &headers, body))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_job_says_about_its_own_request_does_not_count() -> Result<()> {
    let (world, mut job, request) = held().await?;
    let good = serde_json::to_vec(&Decision::on(&request, "approve", "ana@example.com", &["dba"]).body)?;
    let (url, id) = (text(&request, "decision_url")?.to_owned(), text(&request, "request_id")?.to_owned());
    let path = path(&url)?;
    // From inside the governed job: no signature, an invented one, the view's token in its place.
    let client = world.agent.scratch().path().join("raw-client");
    std::fs::copy(built_binary("lockgate-raw-client")?, &client)?;
    let client = client.display().to_string();
    let authority = world.agent.api().replace("http://", "");
    let token =
        request.data()["url"].as_str().and_then(|url| url.split_once('?')).map_or("", |(_, rest)| rest);
    for message in [
        http("POST", path, &[], &good),
        http(
            "POST",
            path,
            &[("webhook-id", "m"), ("webhook-timestamp", "1"), ("webhook-signature", "v1,AAAA")],
            &good,
        ),
        http("POST", &format!("{path}?{token}"), &[], &good),
        http("GET", &format!("{path}?{token}"), &[], b""),
        http("POST", &format!("/v1/approvals/{id}/approve?{token}"), &[], b"{\"reason\":\"mine\"}"),
        http("POST", &format!("/v1/approvals/{id}?{token}"), &[("x-http-method-override", "POST")], &good),
    ] {
        let message = hex::encode(message);
        let done =
            job::run(job::governed(&world.agent, JOB_UID, &[], &[&client, &authority, &message])).await?;
        let answer = String::from_utf8_lossy(&hex::decode(done.stdout.trim())?).into_owned();
        // The client closes its side at once, and a server may then spare its answer.
        ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer} {done:?}");
    }
    // By the unix socket, from inside and outside its cgroup.
    let binary = world.agent.binary().display().to_string();
    let config = world.agent.config().display().to_string();
    let approve = [binary.as_str(), "approvals", "approve", &id, "--reason", "mine", "--config", &config];
    for command in [
        job::governed(&world.agent, JOB_UID, &[], &approve),
        job::ungoverned(JOB_UID, &[], &approve),
        job::ungoverned(JOB_UID - 1, &[], &approve),
    ] {
        let done = job::run(command).await?;
        ensure!(done.code == Some(3), "exit code 3 says `not your right`: {done:?}");
    }
    ensure!(job.waits() && !world.target_saw(ALTER)?);
    drop(job);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bent_requests_get_an_error_and_change_nothing() -> Result<()> {
    let (world, mut job, request) = held().await?;
    let other = world.start(&["alter table orders add column other text"])?;
    let second = world.receiver.requested("column other").await?;
    let (url, id) = (text(&request, "decision_url")?.to_owned(), text(&request, "request_id")?.to_owned());
    let (path, stranger) = (path(&url)?, text(&second, "request_id")?.to_owned());
    let body = Decision::on(&request, "approve", "ana@example.com", &["dba"]).body;
    let good = serde_json::to_string(&body)?;
    let deny_first =
        good.replace("\"decision\":\"approve\"", "\"decision\":\"deny\",\"decision\":\"approve\"");
    let two_people =
        good.replace("\"decided_by\":", "\"decided_by\":{\"id\":\"eve\",\"groups\":[]},\"decided_by\":");
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let mut crossed = body.clone();
    crossed["data"]["request_id"] = json!(stranger);
    let mut hidden = body.clone();
    hidden["data"]["decided_by"]["id"] = json!("ana@exa\u{200b}mple.com");
    let mut typed = body.clone();
    typed["type"] = json!("lockgate.approval.requested");
    let mut word = body.clone();
    word["data"]["decision"] = json!("APPROVE");
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("a key twice", deny_first.into_bytes()),
        ("two deciders", two_people.into_bytes()),
        ("deep nesting", deep.into_bytes()),
        ("a stranger's request id in the body", serde_json::to_vec(&crossed)?),
        ("an invisible mark in a name", serde_json::to_vec(&hidden)?),
        ("another type", serde_json::to_vec(&typed)?),
        ("another word", serde_json::to_vec(&word)?),
        ("not JSON", b"decision=approve".to_vec()),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("too large", format!("{good}{}", " ".repeat(100_000)).into_bytes()),
        ("something behind it", format!("{good}{good}").into_bytes()),
        ("nothing", Vec::new()),
    ];
    for (number, (what, body)) in bodies.iter().enumerate() {
        let (status, answer) = say(&world, &signed(path, &format!("bent_{number}"), body, &[])?).await?;
        ensure!((400..500).contains(&status), "{what}: {answer:.600}");
        ensure!(answer.contains("application/problem+json"), "{what}: {answer:.600}");
    }
    let lower = id.to_lowercase();
    for bad in [
        format!("/v1/approvals/{stranger}/decision"),
        format!("/v1/approvals/{stranger}/../{id}/decision"),
        format!("/v1/approvals/%2e%2e/approvals/{id}/decision"),
        format!("/v1/approvals/{id}%2fdecision"),
        format!("/v1/approvals/{id}%00/decision"),
        format!("/v1/approvals//{id}/decision"),
        format!("/v1/approvals/{lower}/decision/"),
        "/v1/approvals/%ff%fe/decision".to_owned(),
        format!("/v1/approvals/{}/decision", "A".repeat(4000)),
    ] {
        let (status, answer) =
            say(&world, &signed(&bad, &format!("path_{}", bad.len()), good.as_bytes(), &[])?).await?;
        ensure!((400..500).contains(&status), "{bad}: {answer:.600}");
    }
    // Two signatures' headers, and a body that the signature is not over.
    for more in [&[("webhook-signature", "v1,AAAA")][..], &[("webhook-id", "again")]] {
        let (status, answer) = say(&world, &signed(path, "twice", good.as_bytes(), more)?).await?;
        ensure!(status == 401, "{more:?}: {answer:.600}");
    }
    slow_callers_do_not_block(&world).await?;
    ensure!(job.waits() && !world.target_saw("add column")?, "a bent request counted");
    // None of it stands in the way of the real one.
    Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    ensure!(job.done().await?.code == Some(0));
    drop(other);
    Ok(())
}

/// Heads and bodies that come a byte at a time, fifty at once: others are answered meanwhile.
async fn slow_callers_do_not_block(world: &World) -> Result<()> {
    let authority = world.agent.api().replace("http://", "");
    let mut slow = Vec::new();
    for number in 0..50 {
        let mut stream = TcpStream::connect(&authority).await?;
        let begin: &[u8] = if number % 2 == 0 {
            b"POST /v1/approvals/x/decision HTTP/1.1\r\nhost: x\r\nx-slow: "
        } else {
            b"POST /v1/approvals/x/decision HTTP/1.1\r\nhost: x\r\nwebhook-id: a\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,a\r\ncontent-length: 60000\r\n\r\n{"
        };
        stream.write_all(begin).await?;
        slow.push(stream);
    }
    let started = Instant::now();
    let (status, answer) = say(world, &http("GET", "/readyz", &[], b"")).await?;
    ensure!(status == 200 && started.elapsed() < Duration::from_secs(2), "{answer} {:?}", started.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_races_with_the_end_and_one_of_them_wins() -> Result<()> {
    let world = World::new().await?;
    // short-fuse: TRUNCATE waits two seconds.
    let mut running = Vec::new();
    for number in 0..12 {
        running.push(world.start(&[&format!("truncate orders /* race {number} */")])?);
    }
    for number in 0..12_u64 {
        let request = world.receiver.requested(&format!("race {number} ")).await?;
        let expires: jiff::Timestamp = text(&request, "expires_at")?.parse()?;
        // From 55 ms before the end to 55 ms after it.
        let at = Duration::from_millis(number * 10);
        let left = Duration::try_from(expires.duration_since(jiff::Timestamp::now())).unwrap_or_default();
        tokio::spawn(async move {
            tokio::time::sleep((left + at).saturating_sub(Duration::from_millis(55))).await;
            let _ = Decision::on(&request, "approve", "ana@example.com", &["dba"]).send().await;
        });
    }
    let mut passed = 0;
    for (number, job) in running.into_iter().enumerate() {
        let done = job.done().await?;
        let saw = world.target_saw(&format!("race {number} "))?;
        ensure!(saw == (done.code == Some(0)), "the client and the target disagree: {saw} {done:?}");
        passed += u32::from(saw);
    }
    let resolved = world.recorded("approval_resolved", 12).await?;
    ensure!(resolved.len() == 12, "{} ends for 12 requests", resolved.len());
    let approved = resolved.iter().filter(|event| event.to_string().contains("\"approved\"")).count();
    ensure!(approved == usize::try_from(passed)?, "{approved} approved, {passed} forwarded: {resolved:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_races_with_a_withdrawal_and_one_of_them_wins() -> Result<()> {
    let world = World::new().await?;
    for number in 0..6_u64 {
        let statement = format!("alter table orders add column w{number} text");
        let job = world.start(&[&statement])?;
        let request = world.receiver.requested(&statement).await?;
        let decision = Decision::on(&request, "approve", "ana@example.com", &["dba"]);
        let decide = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(number * 400)).await;
            decision.send().await
        });
        job.signal(nix::sys::signal::Signal::SIGKILL)?;
        let (status, body) = decide.await??;
        job.done().await?;
        let resolved = world.recorded("approval_resolved", usize::try_from(number)? + 1).await?;
        let this = resolved.last().map(Value::to_string).unwrap_or_default();
        if !(200..300).contains(&status) {
            ensure!(!world.target_saw(&statement)?, "refused with {status} {body}, and yet forwarded");
            ensure!(this.contains("withdrawn"), "{status} {body}: {this}");
        }
        ensure!(resolved.len() == usize::try_from(number)? + 1, "{} ends", resolved.len());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_counts_once_in_every_spelling() -> Result<()> {
    let policy = POLICY.replacen("need: 1 }]\n    timeout: 25s", "need: 2 }]\n    timeout: 25s", 1);
    ensure!(policy != POLICY, "the world's policy has changed");
    let world = World::with(&policy, |options, _| {
        options.local_approvers = vec![(0, vec!["dba".to_owned()])];
    })
    .await?;
    let mut job = world.start(&[ALTER])?;
    let request = world.receiver.requested(ALTER).await?;
    Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    for spelling in [
        "ana@example.com",
        " Ana@Example.COM ",
        "ＡＮＡ@example.com",
        "ana@example.com\u{200b}",
        "ana@example.com\t",
    ] {
        let (status, body) = Decision::on(&request, "approve", spelling, &["dba"]).send().await?;
        ensure!((400..500).contains(&status), "{spelling:?} counted again: {status} {body}");
    }
    // One that votes on the command line is the same person when an integration names it.
    ensure!(job.waits(), "one person was enough for two");
    let id = text(&request, "request_id")?.to_owned();
    let (status, body) =
        Decision::on(&request, "approve", &format!("local:{JOB_UID}"), &["dba"]).send().await?;
    ensure!(status == 403 && body["code"] == "requester", "{status} {body}");
    let (status, body) =
        Decision::on(&request, "approve", &format!(" LOCAL:{JOB_UID}"), &["dba"]).send().await?;
    ensure!(status == 403 && body["code"] == "requester", "{status} {body}");
    let approved = world.agent.cli(&["approvals", "approve", &id, "--reason", "second"])?;
    ensure!(approved.status.success(), "{approved:?}");
    ensure!(job.done().await?.code == Some(0));

    // And the other way round.
    let mut job = world.start(&["alter table orders add column again text"])?;
    let request = world.receiver.requested("column again").await?;
    let id = text(&request, "request_id")?.to_owned();
    let approved = world.agent.cli(&["approvals", "approve", &id, "--reason", "first"])?;
    ensure!(approved.status.success(), "{approved:?}");
    let again = world.agent.cli(&["approvals", "approve", &id, "--reason", "first, again"])?;
    ensure!(!again.status.success(), "{again:?}");
    for spelling in ["local:0", "Local:0", " local:0 "] {
        let (status, body) = Decision::on(&request, "approve", spelling, &["dba"]).send().await?;
        ensure!((400..500).contains(&status), "{spelling:?} counted again: {status} {body}");
    }
    ensure!(job.waits(), "one person was enough for two");
    Ok(())
}
