//! The API and the command line over it, on a real agent: pages and made-up cursors, keys that are sent twenty times at once,
//! events that go on where a client was, a session that is ended, a target that is added, a rehearsal; and what must not work.

use crate::{
    strict,
    world::{POLICY, World},
};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::Decision,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Output, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

/// Everything waits generously: the machine may be busy.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn world() -> Result<World> {
    World::with(POLICY, |options, _| {
        options.local_approvers = vec![(0, vec!["dba".to_owned()]), (JOB_UID - 1, vec!["dba".to_owned()])];
        options.extra = "login: { bootstrap: {} }\n".to_owned();
    })
    .await
}

pub(crate) fn socket(world: &World) -> PathBuf {
    let mut beside = world.agent.store().into_os_string();
    beside.push(".sock");
    beside.into()
}

/// One answer: status, headers, body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Every error is a problem document with its own code.
    fn problem(&self, status: u16, code: &str) -> Result<()> {
        let document = self.json();
        ensure!(self.status == status, "expected {status}, got {self:?}");
        ensure!(self.header("content-type") == Some("application/problem+json"), "{self:?}");
        ensure!(document["code"] == code, "expected {code}: {self:?}");
        ensure!(document["type"] == format!("urn:lockgate:problem:{code}"), "{self:?}");
        ensure!(document["status"] == status, "{self:?}");
        ensure!(document["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{self:?}");
        Ok(())
    }
}

/// Bytes over any stream, to the end of the connection.
async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Result<Answer> {
    // Whoever is refused early may close while we still write.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(WITHIN, reading).await.context("no answer in time")?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(Answer {
        status,
        head: head.to_owned(),
        body: if chunked { dechunked(body) } else { body.to_owned() },
    })
}

fn dechunked(body: &str) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        match after.get(..size) {
            Some(chunk) if size > 0 => out.push_str(chunk),
            _ => break,
        }
        rest = after.get(size + 2..).unwrap_or_default();
    }
    out
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: lockgate\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

/// As root, on the unix socket.
pub(crate) async fn ask(
    world: &World,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let stream = UnixStream::connect(socket(world)).await?;
    let answer = raw(stream, &request(method, path, headers, body)).await?;
    as_described(method, path, &answer)?;
    Ok(answer)
}

pub(crate) async fn get(world: &World, path: &str) -> Result<Value> {
    let answer = ask(world, "GET", path, &[], "").await?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    Ok(answer.json())
}

pub(crate) async fn tcp(
    world: &World,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let stream = TcpStream::connect(world.agent.api().trim_start_matches("http://")).await?;
    let answer = raw(stream, &request(method, path, headers, body)).await?;
    as_described(method, path, &answer)?;
    Ok(answer)
}

/// Whatever JSON a route answers fits its description, and nothing is in it that is not described.
fn as_described(method: &str, path: &str, answer: &Answer) -> Result<()> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../../../userspace/docs/openapi.json")).unwrap_or_default()
    });
    let kind = answer.header("content-type").unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let Some(route) = route(&DOCUMENT, path).filter(|_| kind.ends_with("json")) else { return Ok(()) };
    let place = format!("{method} {route} {}", answer.status);
    let schema = strict::schema_of(&DOCUMENT, method, route, answer.status);
    let schema = schema.with_context(|| format!("{place}: answered and not described: {answer:?}"))?;
    let validator =
        strict::validator(&DOCUMENT, schema).map_err(|error| anyhow::anyhow!("{place}: {error}"))?;
    let misfits = strict::misfits(&validator, &answer.json());
    ensure!(misfits.is_empty(), "{place}: {misfits:#?}: {:#}", answer.json());
    Ok(())
}

/// The route of the description that a path is of; one that is spelled out before one with a name in its place.
fn route<'a>(document: &'a Value, path: &str) -> Option<&'a str> {
    let parts: Vec<&str> = path.split('/').collect();
    let routes = document["paths"].as_object().into_iter().flatten().map(|(route, _)| route.as_str());
    let mut fits: Vec<&str> = routes
        .filter(|route| {
            let of: Vec<&str> = route.split('/').collect();
            of.len() == parts.len()
                && of.iter().zip(&parts).all(|(of, part)| of.starts_with('{') || of == part)
        })
        .collect();
    fits.sort_by_key(|route| route.matches('{').count());
    fits.first().copied()
}

/// Waits until `look` sees it.
pub(crate) async fn seen<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "{what} was not seen within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_go_on_page_by_page_and_made_up_cursors_are_refused() -> Result<()> {
    let world = world().await?;
    for _ in 0..5 {
        world.psql(&["SELECT 1"]).await?;
    }
    seen("five ended sessions", async || {
        let all = get(&world, "/v1/sessions?open=false").await?;
        Ok((all["items"].as_array().map_or(0, Vec::len) >= 5).then_some(()))
    })
    .await?;
    let all = get(&world, "/v1/sessions?limit=1000").await?;
    let whole: Vec<String> =
        all["items"].as_array().into_iter().flatten().map(|it| it["id"].to_string()).collect();
    ensure!(all["next"].is_null() && whole.len() >= 5, "{all}");
    for size in [1, 2, 3] {
        let mut paged = Vec::new();
        let mut before = String::new();
        loop {
            let page = get(&world, &format!("/v1/sessions?limit={size}{before}")).await?;
            let items = page["items"].as_array().context("items")?;
            ensure!(items.len() <= size, "{page}");
            paged.extend(items.iter().map(|it| it["id"].to_string()));
            match page["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => break,
            }
        }
        ensure!(paged == whole, "pages of {size}: {paged:?}, at once: {whole:?}");
    }
    for forged in ["x", "..%2F..%2Fetc%2Fpasswd", "AAAA", "ses_01JD4Z0000000000000000000A", "%00"] {
        ask(&world, "GET", &format!("/v1/sessions?before={forged}"), &[], "")
            .await?
            .problem(400, "malformed")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_malformed_is_answered_as_a_problem() -> Result<()> {
    let world = world().await?;
    let giant = "x".repeat(256 << 10);
    let json = ("content-type", "application/json");
    for (method, path, headers, body, status, code) in [
        ("GET", "/v1/nothing", &[][..], "", 404, "not_found"),
        ("GET", "/v1/sessions/../../etc/passwd", &[], "", 404, "not_found"),
        ("GET", "/v1/targets/..%2F..%2Fetc%2Fpasswd", &[], "", 404, "not_found"),
        ("DELETE", "/v1/targets/..%2Flockgate", &[], "", 404, "not_found"),
        ("GET", "/v1/sessions/%00", &[], "", 404, "not_found"),
        ("DELETE", "/v1/sessions", &[], "", 405, "method_not_allowed"),
        ("POST", "/v1/policy/explain", &[json], "{", 400, "malformed"),
        ("POST", "/v1/policy/explain", &[json], "[]", 400, "malformed"),
        (
            "POST",
            "/v1/policy/explain",
            &[("content-type", "text/xml")],
            "<a/>",
            415,
            "unsupported_media_type",
        ),
        ("POST", "/v1/targets", &[json], &giant, 413, "too_large"),
        ("POST", "/v1/targets", &[json], "{\"name\":\"../evil\"}", 422, "invalid"),
        ("POST", "/v1/targets", &[json], "{\"name\":\"a/b\"}", 422, "invalid"),
        ("POST", "/v1/targets", &[json], "{\"name\":\".hidden\"}", 422, "invalid"),
        ("POST", "/v1/targets", &[json], "{\"name\":\"x\"}", 422, "invalid"),
        ("PUT", "/v1/targets/x", &[json], "{\"name\":\"x\"}", 428, "if_match_required"),
        ("PUT", "/v1/targets/x", &[json], "{\"name\":\"y\"}", 400, "malformed"),
        ("GET", "/v1/sessions?limit=0", &[], "", 400, "malformed"),
        ("GET", "/v1/sessions?limit=-1", &[], "", 400, "malformed"),
        ("GET", "/v1/sessions?colour=red", &[], "", 400, "malformed"),
        ("GET", "/v1/search?since=yesterday", &[], "", 400, "malformed"),
        ("GET", "/v1/events?topic=everything", &[], "", 400, "malformed"),
        ("GET", "/v1/events", &[("last-event-id", "../1")], "", 400, "malformed"),
        ("GET", "/v1/events", &[("last-event-id", "18446744073709551615")], "", 422, "invalid"),
        ("GET", "/v1/audit/proofs/minus-one", &[], "", 404, "not_found"),
        ("GET", "/v1/audit/proofs/999999999", &[], "", 404, "not_found"),
        ("POST", "/v1/audit/growth", &[json], "{\"checkpoint\":\"nonsense\"}", 404, "not_found"),
        ("POST", "/v1/sessions/ses_01JD4Z0000000000000000000A/kill", &[json], "{}", 422, "reason_required"),
        (
            "POST",
            "/v1/sessions/ses_01JD4Z0000000000000000000A/kill",
            &[json],
            "{\"reason\":\"x\"}",
            404,
            "not_found",
        ),
        ("POST", "/v1/rehearsals", &[json], "{\"rule\":\"no-such\"}", 404, "unknown_rule"),
        ("POST", "/v1/rehearsals", &[json, ("idempotency-key", "")], "{}", 400, "malformed"),
    ] {
        let answer = ask(&world, method, path, headers, body).await?;
        answer.problem(status, code).with_context(|| format!("{method} {path}"))?;
    }
    // Nobody is known over TCP without a token.
    for path in ["/v1/sessions", "/v1/events", "/v1/targets", "/v1/audit/verify"] {
        let answer = tcp(&world, "GET", path, &[], "").await?;
        ensure!(answer.status == 401, "{path}: {answer:?}");
    }
    // A body that never comes holds nobody up.
    let mut slow = UnixStream::connect(socket(&world)).await?;
    slow.write_all(b"POST /v1/targets HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{").await?;
    let began = Instant::now();
    get(&world, "/v1/status").await?;
    ensure!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let mut answer = vec![0; 256];
    let read = tokio::time::timeout(WITHIN, slow.read(&mut answer))
        .await
        .context("a slow body is kept for ever")??;
    let answer = String::from_utf8_lossy(answer.get(..read).unwrap_or_default()).into_owned();
    ensure!(answer.contains("408"), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_effect_once_however_often_it_is_sent() -> Result<()> {
    let world = world().await?;
    let headers = [("content-type", "application/json"), ("idempotency-key", "rehearsal-1")];
    let body = "{\"rule\":\"schema-change-dba\"}";
    let all = (0..20).map(|_| ask(&world, "POST", "/v1/rehearsals", &headers, body));
    let mut ids = BTreeSet::new();
    for answer in futures_util::future::join_all(all).await {
        let answer = answer?;
        match answer.status {
            201 => {
                ids.insert(answer.json()["request_id"].to_string());
            }
            409 => answer.problem(409, "under_way")?,
            status => anyhow::bail!("{status}: {answer:?}"),
        }
    }
    ensure!(ids.len() == 1, "{ids:?}");
    let again = ask(&world, "POST", "/v1/rehearsals", &headers, body).await?;
    ensure!(again.status == 201 && ids.contains(&again.json()["request_id"].to_string()), "{again:?}");
    ensure!(again.header("idempotency-replayed") == Some("true"), "{again:?}");
    ask(&world, "POST", "/v1/rehearsals", &headers, "{\"rule\":\"short-fuse\"}")
        .await?
        .problem(422, "key_reused")?;
    ensure!(world.events("approval_requested")?.len() == 1, "{}", world.agent.log_text()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_hears_why_and_the_record_says_who() -> Result<()> {
    let world = world().await?;
    let running = world.start(&["SELECT pg_sleep(300) /* runaway */"])?;
    let id = seen("an open session", async || {
        let open = get(&world, "/v1/sessions?open=true").await?;
        let busy = world.target_saw("runaway")?;
        Ok(open["items"][0]["id"].as_str().filter(|_| busy).map(str::to_owned))
    })
    .await?;
    let killed =
        world.agent.cli(&["sessions", "kill", &id, "--reason", "it runs away", "--output", "json"])?;
    ensure!(killed.status.success(), "{}", said(&killed));
    let killed: Value = serde_json::from_slice(&killed.stdout)?;
    let decision = killed["decision_id"].as_str().context("decision")?.to_owned();
    let done = running.done().await?;
    // 2: the connection was lost; 1 where the target's own word, that it was cancelled, came just before.
    ensure!(matches!(done.code, Some(1 | 2)), "{done:?}");
    for words in ["FATAL", "it runs away", &decision] {
        ensure!(done.stderr.contains(words), "{words}: {done:?}");
    }
    let administered = world.recorded("administered", 1).await?.remove(0).to_string();
    for words in ["session_killed", "local:0", "it runs away", &decision, &id] {
        ensure!(administered.contains(words), "{words}: {administered}");
    }
    let ended = world.recorded("session_ended", 1).await?.remove(0).to_string();
    ensure!(ended.contains("killed"), "{ended}");
    // The statement does not run on without its session.
    seen("the statement's end on the target", async || {
        let left = world.pg.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%runaway%' AND state = 'active' AND pid <> pg_backend_pid()")?;
        Ok((left.trim() == "0").then_some(()))
    })
    .await?;
    let again = world.agent.cli(&["sessions", "kill", &id, "--reason", "again"])?;
    ensure!(again.status.code() == Some(1), "{}", said(&again));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_statement_of_a_killed_session_is_taken_back() -> Result<()> {
    let world = world().await?;
    let running = world.start(&["ALTER TABLE customers ADD COLUMN held_and_killed int"])?;
    let told = world.receiver.requested("held_and_killed").await?;
    let (id, session) = (told.data()["request_id"].clone(), told.data()["session_id"].clone());
    let session = session.as_str().context("session")?;
    let killed = world.agent.cli(&["sessions", "kill", session, "--reason", "wrong branch"])?;
    ensure!(killed.status.success(), "{}", said(&killed));
    let done = running.done().await?;
    ensure!(done.stderr.contains("wrong branch"), "{done:?}");
    let id = id.as_str().context("request")?.to_owned();
    seen("the request's end", async || {
        let request = get(&world, &format!("/v1/approvals/{id}")).await?;
        Ok((request["state"] == "cancelled").then_some(()))
    })
    .await?;
    ensure!(!world.target_saw("held_and_killed")?, "{}", world.pg.log()?);
    Ok(())
}

/// A second database that no configuration knows.
fn another() -> Result<TestPostgres> {
    let pg =
        TestPostgres::start(PostgresOptions::new().auth(HostAuth::Scram).setting("log_statement", "all"))?;
    pg.psql("CREATE ROLE app LOGIN PASSWORD 'app-secret'")?;
    Ok(pg)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_added_is_governed_without_a_restart() -> Result<()> {
    let mut world = world().await?;
    let pg = another()?;
    let password = pg.socket_dir().join("app.password");
    std::fs::write(&password, "app-secret\n")?;
    let (port, file) = (pg.port().to_string(), password.display().to_string());
    let address = format!("127.0.0.1:{port}");
    let psql = |world: &World| {
        let command = job::psql("127.0.0.1", &port, "postgres", &["SELECT 41 + 1"]);
        job::start(job::governed(&world.agent, JOB_UID, &[], &command))
    };
    let add = [
        "targets",
        "add",
        "orders-db-2",
        &address,
        "--user",
        "app",
        "--password-file",
        &file,
        "--tls",
        "disable",
    ];
    // What cannot be used changes nothing: another target's address, a secret that is not there, a name that is taken.
    let theirs = format!("127.0.0.1:{}", world.pg.port());
    for wrong in [
        vec![
            "targets",
            "add",
            "twin",
            &theirs,
            "--user",
            "app",
            "--password-file",
            &file,
            "--tls",
            "disable",
        ],
        vec![
            "targets",
            "add",
            "lost",
            &address,
            "--user",
            "app",
            "--password-file",
            "/nowhere/secret",
            "--tls",
            "disable",
        ],
        vec![
            "targets",
            "add",
            "orders-db",
            &address,
            "--user",
            "app",
            "--password-file",
            &file,
            "--tls",
            "disable",
        ],
        vec![
            "targets",
            "add",
            "no-host",
            "no-such-host.invalid:5432",
            "--user",
            "app",
            "--password-file",
            &file,
            "--tls",
            "disable",
        ],
    ] {
        let refused = world.agent.cli(&wrong)?;
        ensure!(refused.status.code() == Some(1), "{wrong:?}: {}", said(&refused));
    }
    ensure!(world.events("administered")?.is_empty(), "{}", world.agent.log_text()?);
    let added = world.agent.cli(&add)?;
    ensure!(added.status.success(), "{}", said(&added));
    // The default of a target whose rules do not match is deny: a decision was made, so it passed lockgate.
    let done = psql(&world)?.done().await?;
    ensure!(done.stderr.contains("lockgate: denied") && done.code != Some(0), "{done:?}");
    let sessions = world.agent.json(&["sessions", "list", "--target", "orders-db-2"])?;
    ensure!(sessions["sessions"].as_array().is_some_and(|all| all.len() == 1), "{sessions}");
    ensure!(world.agent.cli(&add)?.status.code() == Some(1), "a name that is taken");
    let listed = get(&world, "/v1/targets?probe=true").await?;
    let ours = listed["items"].as_array().into_iter().flatten().find(|it| it["name"] == "orders-db-2");
    let ours = ours.context("it is listed")?.clone();
    ensure!(ours["origin"] == "registered" && ours["health"]["reachable"] == true, "{ours}");
    ensure!(!listed.to_string().contains("app-secret"), "{listed}");
    let recorded = world.recorded("administered", 1).await?.remove(0).to_string();
    ensure!(recorded.contains("target_registered") && recorded.contains("local:0"), "{recorded}");

    // Two people change it: the second has to look again.
    let etag = format!("\"{}\"", ours["etag"].as_str().unwrap_or_default());
    let mut changed = ours["definition"].clone();
    changed["tags"] = json!({ "env": "staging" });
    let headers = [("content-type", "application/json"), ("if-match", etag.as_str())];
    let first = ask(&world, "PUT", "/v1/targets/orders-db-2", &headers, &changed.to_string()).await?;
    ensure!(first.status == 200 && first.json()["tags"]["env"] == "staging", "{first:?}");
    ask(&world, "PUT", "/v1/targets/orders-db-2", &headers, &changed.to_string())
        .await?
        .problem(412, "changed_meanwhile")?;
    // The configuration's own targets are not changed here.
    ask(&world, "DELETE", "/v1/targets/orders-db", &[], "").await?.problem(409, "not_registered")?;

    // It outlives the agent.
    world.agent.terminate().await?;
    world.agent.launch().await?;
    let done = psql(&world)?.done().await?;
    ensure!(done.stderr.contains("lockgate: denied"), "{done:?}");
    let removed = world.agent.cli(&["targets", "remove", "orders-db-2"])?;
    ensure!(removed.status.success(), "{}", said(&removed));
    let listed = world.agent.json(&["targets", "list"])?;
    ensure!(!listed.to_string().contains("orders-db-2"), "{listed}");

    // By file, without asking anybody; a broken one changes nothing.
    let dir = world.agent.store().join("targets.d");
    std::fs::write(
        dir.join("orders-db-3.yaml"),
        format!(
            "name: orders-db-3\nprotocol: postgres\naddresses: [\"{address}\"]\n\
         upstream: {{ tls: disable, credential: {{ user: app, password: {{ file: {file} }} }} }}\n"
        ),
    )?;
    seen("the file's target", async || {
        let listed = get(&world, "/v1/targets").await?;
        Ok(listed.to_string().contains("orders-db-3").then_some(()))
    })
    .await?;
    std::fs::write(dir.join("broken.yaml"), "name: broken\nprotocol: postgres\n")?;
    seen("the complaint about a broken file", async || {
        Ok(world.agent.log().contains("registered targets have changed and cannot be used").then_some(()))
    })
    .await?;
    let done = psql(&world)?.done().await?;
    ensure!(done.stderr.contains("lockgate: denied"), "{done:?}");
    Ok(())
}

/// The events of a stream until `enough`.
async fn stream(
    world: &World,
    path: &str,
    headers: &[(&str, &str)],
    enough: impl Fn(&str) -> bool,
) -> Result<String> {
    let mut socket = UnixStream::connect(socket(world)).await?;
    socket.write_all(&request("GET", path, headers, "")).await?;
    read_until(&mut socket, String::new(), enough).await
}

async fn read_until(
    socket: &mut UnixStream,
    mut text: String,
    enough: impl Fn(&str) -> bool,
) -> Result<String> {
    let mut chunk = vec![0; 64 << 10];
    let until = Instant::now() + WITHIN;
    while !enough(&text) {
        let left = until.saturating_duration_since(Instant::now());
        let read = tokio::time::timeout(left, socket.read(&mut chunk))
            .await
            .with_context(|| format!("the stream said only: {text}"))??;
        ensure!(read > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(chunk.get(..read).unwrap_or_default()));
    }
    Ok(text)
}

fn ids(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")?.trim().parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_they_happen_and_go_on_where_a_client_was() -> Result<()> {
    let mut world = world().await?;
    let mut live = UnixStream::connect(socket(&world)).await?;
    live.write_all(&request("GET", "/v1/events?topic=sessions", &[], "")).await?;
    let begun = read_until(&mut live, String::new(), |text| text.contains(": listening")).await?;
    ensure!(begun.contains("text/event-stream"), "{begun}");
    world.psql(&["SELECT 1 AS first_one"]).await?;
    let text = read_until(&mut live, begun, |text| text.contains("event: session_ended")).await?;
    for kind in ["session_started", "operation_decided", "responded"] {
        ensure!(text.contains(&format!("event: {kind}")), "{kind}: {text}");
    }
    ensure!(text.contains("first_one"), "{text}");
    let heard = ids(&text);
    let mut sorted = heard.clone();
    sorted.sort_unstable();
    sorted.dedup();
    ensure!(heard == sorted && heard.len() >= 4, "{heard:?}");
    // From any place, the rest comes again, in order, once; over a restart, too.
    for restart in [false, true] {
        if restart {
            world.agent.terminate().await?;
            world.agent.launch().await?;
        }
        for (at, last) in heard.iter().enumerate() {
            let last = last.to_string();
            let enough = heard.len() - at - 1;
            let text = stream(&world, "/v1/events?topic=sessions", &[("last-event-id", &last)], |text| {
                ids(text).len() >= enough
            })
            .await?;
            let again = ids(&text);
            ensure!(
                again.starts_with(heard.get(at + 1..).unwrap_or_default()),
                "behind {last}: {again:?}, first: {heard:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_other_topics_stay_out() -> Result<()> {
    let world = world().await?;
    let mut open = Vec::new();
    let mut refused = None;
    for _ in 0..64 {
        let mut socket = UnixStream::connect(socket(&world)).await?;
        socket.write_all(&request("GET", "/v1/events?topic=approvals", &[], "")).await?;
        let begun = read_until(&mut socket, String::new(), |text| text.contains("\r\n\r\n")).await?;
        if begun.starts_with("HTTP/1.1 429") {
            ensure!(begun.contains("retry-after: 5"), "{begun}");
            refused = Some(open.len());
            break;
        }
        open.push(socket);
    }
    ensure!(refused == Some(16), "{refused:?}");
    // The agent serves on beside them, and places come back.
    world.psql(&["SELECT 1"]).await?;
    get(&world, "/v1/status").await?;
    drop(open);
    seen("a free place", async || {
        let mut socket = UnixStream::connect(socket(&world)).await?;
        socket.write_all(&request("GET", "/v1/events?topic=approvals", &[], "")).await?;
        let begun = read_until(&mut socket, String::new(), |text| text.contains("\r\n\r\n")).await?;
        Ok(begun.starts_with("HTTP/1.1 200").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_goes_through_every_channel_and_back_and_touches_no_target() -> Result<()> {
    let world = world().await?;
    let mut rehearsal = tokio::process::Command::new(world.agent.binary())
        .args([
            "approvals",
            "rehearse",
            "--rule",
            "schema-change-dba",
            "--within",
            "50s",
            "--output",
            "json",
            "--config",
        ])
        .arg(world.agent.config())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let told =
        world.receiver.wait_for(WITHIN, |delivery| delivery.kind() == "lockgate.approval.requested").await?;
    ensure!(
        told.data()["summary"].as_str().is_some_and(|summary| summary.contains("REHEARSAL")),
        "{:?}",
        told.data()
    );
    Decision::on(&told, "deny", "ana@example.com", &["dba"]).accepted().await?;
    let done = tokio::time::timeout(WITHIN, async {
        let status = rehearsal.wait().await?;
        let mut out = String::new();
        if let Some(stdout) = rehearsal.stdout.as_mut() {
            stdout.read_to_string(&mut out).await?;
        }
        Ok::<_, anyhow::Error>((status, out))
    })
    .await
    .context("the rehearsal does not end")??;
    ensure!(done.0.success(), "{done:?}");
    let told: Value = serde_json::from_str(&done.1)?;
    ensure!(told["ok"] == true && told["state"] == "denied", "{told}");
    let steps = told["steps"].to_string();
    for words in ["webhook:approvals delivered", "voted deny", "it is denied"] {
        ensure!(steps.contains(words), "{words}: {steps}");
    }
    ensure!(world.events("session_started")?.is_empty(), "{}", world.agent.log_text()?);
    // A channel that is down is seen.
    world.receiver.answer_with(500);
    let failed =
        world.agent.cli(&["approvals", "rehearse", "--rule", "schema-change-dba", "--within", "3s"])?;
    ensure!(failed.status.code() == Some(4), "{}", said(&failed));
    ensure!(said(&failed).contains("not delivered"), "{}", said(&failed));
    let unknown = world.agent.cli(&["approvals", "rehearse", "--rule", "no-such-rule"])?;
    ensure!(unknown.status.code() == Some(1), "{}", said(&unknown));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_in_the_terminal_shows_and_decides() -> Result<()> {
    let world = world().await?;
    for (flag, expected) in [("--approve", Some(0)), ("--deny", Some(1))] {
        let mut watch = tokio::process::Command::new(world.agent.binary())
            .args(["approvals", "watch", flag, "--once", "--reason", "rehearsed", "--config"])
            .arg(world.agent.config())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let column = flag.trim_start_matches('-');
        let done = world.psql(&[&format!("ALTER TABLE customers ADD COLUMN watched_{column} int")]).await?;
        ensure!(done.code == expected, "{done:?}");
        let status = tokio::time::timeout(WITHIN, watch.wait()).await.context("it does not end")??;
        ensure!(status.success(), "{status}");
        let mut out = String::new();
        watch.stdout.take().context("stdout")?.read_to_string(&mut out).await?;
        ensure!(out.contains(&format!("watched_{column}")) && out.contains("counted"), "{out}");
    }
    Ok(())
}

/// Runs `lockgate` against the agent's TCP address, with a token.
fn remote(world: &World, token: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = std::process::Command::new(world.agent.binary());
    command.args(arguments).env("LOCKGATE_URL", world.agent.api()).env("LOCKGATE_TOKEN", token);
    // Nothing of this host's configuration is needed.
    command.env("LOCKGATE_CONFIG", "/nowhere/lockgate.yaml").stdin(Stdio::null());
    Ok(command.output()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_api_answers_over_tcp_with_a_token_as_far_as_its_role_goes() -> Result<()> {
    let world = world().await?;
    world.psql(&["SELECT 'literal-of-somebody-else'"]).await?;
    world.recorded("session_ended", 1).await?;
    let made = world.agent.cli(&[
        "tokens",
        "make",
        "viewer of tests",
        "--role",
        "viewer",
        "--program",
        "--for",
        "1h",
    ])?;
    ensure!(made.status.success(), "{}", said(&made));
    let token = String::from_utf8(made.stdout)?.trim().to_owned();
    let listed = remote(&world, &token, &["sessions", "list", "--output", "json"])?;
    ensure!(listed.status.success(), "{}", said(&listed));
    let listed: Value = serde_json::from_slice(&listed.stdout)?;
    let session = listed["sessions"][0]["id"].as_str().context("a session")?.to_owned();
    // A viewer sees the statement's shape and not what somebody else wrote into it, wherever it is looked at.
    for words in [
        vec!["sessions", "show", &session, "--output", "json"],
        vec!["sessions", "search", "--event", "operation_decided", "--output", "json"],
    ] {
        let shown = remote(&world, &token, &words)?;
        ensure!(shown.status.success(), "{words:?}: {}", said(&shown));
        ensure!(!said(&shown).contains("literal-of-somebody-else"), "{words:?}: {}", said(&shown));
    }
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let whole = tcp(&world, "GET", &format!("/v1/sessions/{session}"), &headers, "").await?;
    ensure!(whole.status == 200 && !whole.body.contains("literal-of-somebody-else"), "{whole:?}");
    // Nor finds it out by asking for it.
    tcp(&world, "GET", "/v1/search?text=literal-of-somebody-else", &headers, "")
        .await?
        .problem(403, "role_required")?;
    let mut stream = TcpStream::connect(world.agent.api().trim_start_matches("http://")).await?;
    stream.write_all(&request("GET", "/v1/events?after=1", &headers, "")).await?;
    let mut text = String::new();
    let mut chunk = vec![0; 64 << 10];
    let until = Instant::now() + WITHIN;
    while !text.contains("event: session_ended") {
        let left = until.saturating_duration_since(Instant::now());
        let read =
            tokio::time::timeout(left, stream.read(&mut chunk)).await.with_context(|| text.clone())??;
        ensure!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(chunk.get(..read).unwrap_or_default()));
    }
    ensure!(
        text.contains("event: operation_decided") && !text.contains("literal-of-somebody-else"),
        "{text}"
    );
    ensure!(!text.contains("event: access"), "who failed or made tokens is for those who keep watch: {text}");
    // What takes another role is refused, with the role's name, and exit code 3.
    for refused in [
        vec!["sessions", "kill", &session, "--reason", "x"],
        vec!["targets", "remove", "orders-db"],
        vec!["audit", "verify"],
        vec!["approvals", "rehearse", "--rule", "schema-change-dba"],
    ] {
        let output = remote(&world, &token, &refused)?;
        ensure!(output.status.code() == Some(3), "{refused:?}: {}", said(&output));
        ensure!(said(&output).contains("role"), "{refused:?}: {}", said(&output));
    }
    for bad in ["", "lgt_made-up", "x"] {
        let output = remote(&world, bad, &["sessions", "list"])?;
        ensure!(output.status.code() == Some(3), "{bad}: {}", said(&output));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_answers_fit_the_description() -> Result<()> {
    let world = world().await?;
    let running = world.start(&["ALTER TABLE customers ADD COLUMN described int"])?;
    let told = world.receiver.requested("described").await?;
    let id = told.data()["request_id"].as_str().context("request")?.to_owned();
    let session = told.data()["session_id"].as_str().context("session")?.to_owned();
    let document = get(&world, "/v1/openapi.json").await?;
    let printed = world.agent.cli(&["api", "openapi"])?;
    ensure!(serde_json::from_slice::<Value>(&printed.stdout)? == document, "printed and served differ");
    for (route, path) in [
        ("/v1/approvals", "/v1/approvals?state=pending".to_owned()),
        ("/v1/approvals/{id}", format!("/v1/approvals/{id}")),
        ("/v1/grants", "/v1/grants".to_owned()),
        ("/v1/breakglass", "/v1/breakglass".to_owned()),
        ("/v1/sessions", "/v1/sessions".to_owned()),
        ("/v1/sessions/{id}", format!("/v1/sessions/{session}")),
        ("/v1/search", "/v1/search?event=session_started".to_owned()),
        ("/v1/targets", "/v1/targets?probe=true".to_owned()),
        ("/v1/targets/{name}", "/v1/targets/orders-db".to_owned()),
        ("/v1/governed", "/v1/governed".to_owned()),
        ("/v1/policy", "/v1/policy".to_owned()),
        ("/v1/channels", "/v1/channels".to_owned()),
        ("/v1/status", "/v1/status".to_owned()),
        ("/v1/whoami", "/v1/whoami".to_owned()),
        ("/v1/audit/verify", "/v1/audit/verify".to_owned()),
        ("/v1/audit/checkpoint", "/v1/audit/checkpoint".to_owned()),
        ("/v1/audit/proofs/{seq}", "/v1/audit/proofs/1".to_owned()),
        ("/v1/audit/holds", "/v1/audit/holds".to_owned()),
        ("/v1/logins", "/v1/logins".to_owned()),
        ("/v1/api-tokens", "/v1/api-tokens".to_owned()),
        ("/v1/openapi.json", "/v1/openapi.json".to_owned()),
    ] {
        let answer = seen(route, async || {
            let answer = ask(&world, "GET", &path, &[], "").await?;
            Ok((answer.status == 200).then_some(answer))
        })
        .await?;
        ensure!(self::route(&document, path.split('?').next().unwrap_or_default()) == Some(route), "{path}");
        as_described("GET", &path, &answer)?;
    }
    let json = [("content-type", "application/json")];
    for (path, body, status) in [
        (
            "/v1/policy/explain",
            "{\"given\":{\"statement\":\"drop table orders\",\"target\":{\"name\":\"orders-db\"}}}",
            200,
        ),
        ("/v1/policy/test", "{}", 200),
        ("/v1/audit/verification", "{}", 202),
        ("/v1/audit/verification/stop", "{}", 200),
        ("/v1/audit/holds", "{\"identity\":\"uid:1\",\"reason\":\"case 7\"}", 201),
        (
            "/v1/api-tokens",
            "{\"name\":\"looker\",\"roles\":[\"viewer\"],\"for\":\"1h\",\"program\":true}",
            201,
        ),
        ("/v1/bootstrap", "{}", 200),
        ("/v1/self-test", "{}", 200),
        ("/v1/people/end", "{\"person\":\"oidc:corp:nobody\"}", 200),
    ] {
        let answer = ask(&world, "POST", path, &json, body).await?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    // It ends by itself or was stopped; both are told.
    seen("the end of the verification", async || {
        let last = get(&world, "/v1/audit/verification").await?;
        Ok((last["state"] != "running").then_some(()))
    })
    .await?;
    Decision::on(&told, "deny", "ana@example.com", &["dba"]).accepted().await?;
    running.done().await?;
    Ok(())
}
