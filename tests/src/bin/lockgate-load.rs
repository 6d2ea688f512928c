//! Clients in numbers, and clients that misbehave: what the scale tests start in a governed cgroup. PGHOST and its like say
//! where. Each mode prints one line a fact.
//!
//! ```text
//! lockgate-load many SESSIONS HELD       sessions that all stay open; the last HELD of them create a table each
//! lockgate-load again CLIENTS            clients that query, and connect anew whenever that fails, until SIGTERM
//! lockgate-load slow SECONDS ROWS        one that asks for ROWS of 1,000 bytes and reads 1 KB in a second
//! lockgate-load deaf SECONDS             one that sends statements and reads nothing
//! lockgate-load gone WHAT                one that is gone without a word: held, queued, copying-in, copying-out
//! ```

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use lockgate_wire::postgres::{
    PgString,
    backend::Backend,
    frame::{FrameDecoder, Limits},
    frontend::Frontend,
    startup::{ProtocolVersion, StartupMessage, StartupPacket},
};
use std::{
    collections::BTreeMap,
    env,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Barrier, Semaphore},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Config, NoTls};

/// Clients that connect at the same moment: the server forks for each.
const CONNECTING: usize = 32;
/// How long clients try again, if nobody stops them.
const AGAIN_AT_MOST: Duration = Duration::from_secs(180);
/// How long any one answer may take while thousands wait for theirs.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["many", sessions, held] => many(sessions.parse()?, held.parse()?).await,
        ["again", clients] => again(clients.parse()?).await,
        ["slow", seconds, rows] => slow(seconds.parse()?, rows.parse()?).await,
        ["deaf", seconds] => deaf(seconds.parse()?).await,
        ["gone", what] => gone(what).await,
        _ => bail!("usage: lockgate-load many|again|slow|deaf|gone …"),
    }
}

fn config() -> Result<Config> {
    let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set"));
    let mut config = Config::new();
    config.host(variable("PGHOST")?).port(variable("PGPORT")?.parse()?);
    config.user(variable("PGUSER")?).dbname(variable("PGDATABASE")?);
    Ok(config)
}

/// A client, and how its connection ends: what the server says between two statements is told there.
async fn open() -> Result<(Client, JoinHandle<Result<(), tokio_postgres::Error>>), tokio_postgres::Error> {
    let config = config().expect("PGHOST and its like");
    let (client, connection) = config.connect(NoTls).await?;
    Ok((client, tokio::spawn(connection)))
}

async fn connect() -> Result<Client, tokio_postgres::Error> {
    Ok(open().await?.0)
}

// ── many ────────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn many(sessions: usize, held: usize) -> Result<()> {
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let connected = Arc::new(Barrier::new(sessions + 1));
    let answered = Arc::new(Barrier::new(sessions - held + 1));
    let mut tasks = JoinSet::new();
    for n in 0..sessions {
        let (connecting, connected, answered) = (connecting.clone(), connected.clone(), answered.clone());
        tasks.spawn(async move {
            let client = {
                let _turn = connecting.acquire().await?;
                timeout(PATIENCE, connect()).await.context("connecting took too long")??
            };
            connected.wait().await;
            if n >= sessions - held {
                client.batch_execute(&format!("CREATE TABLE held_{n} (a int)")).await?;
            } else {
                ask(&client, n, 5).await?;
                answered.wait().await;
                // The held ones keep nobody else from working.
                ask(&client, n, 5).await?;
            }
            anyhow::Ok(client)
        });
    }
    connected.wait().await;
    println!("connected {sessions}");
    answered.wait().await;
    println!("answered {}", sessions - held);
    let mut clients = Vec::new();
    while let Some(done) = tasks.join_next().await {
        clients.push(done??);
        if clients.len() == sessions - held {
            println!("worked");
        }
    }
    println!("done {}", clients.len());
    // A statement behind everything else, in every session.
    for (n, client) in clients.iter().enumerate() {
        ask(client, n, 1).await?;
    }
    println!("all answered again");
    Ok(())
}

async fn ask(client: &Client, n: usize, times: usize) -> Result<()> {
    for round in 0..times {
        let expected = (n * 1000 + round) as i64;
        let row = timeout(PATIENCE, client.query_one("SELECT $1::bigint", &[&expected])).await;
        ensure!(
            row.context("an answer took too long")??.get::<_, i64>(0) == expected,
            "somebody else's answer"
        );
    }
    Ok(())
}

// ── again ───────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn again(clients: usize) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let deadline = Instant::now() + AGAIN_AT_MOST;
    let mut tasks = JoinSet::new();
    for n in 0..clients {
        let stop = stop.clone();
        tasks.spawn(async move { one_again(n as i64, &stop, deadline).await });
    }
    println!("at work");
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
    stop.store(true, Ordering::SeqCst);
    let (mut good, mut recovered, mut failed) = (0, 0, BTreeMap::<String, u64>::new());
    while let Some(done) = tasks.join_next().await {
        let (answers, works, failures) = done?;
        good += answers;
        recovered += usize::from(works);
        failures.into_iter().for_each(|(error, times)| *failed.entry(error).or_default() += times);
    }
    println!("answers {good}");
    println!("working at the end {recovered}");
    failed.iter().for_each(|(error, times)| println!("failed {times} {error}"));
    Ok(())
}

/// Works until it is told to stop, and has had an answer since its last failure: how many answers, whether that came about,
/// and what failed how often.
async fn one_again(n: i64, stop: &AtomicBool, deadline: Instant) -> (u64, bool, BTreeMap<String, u64>) {
    let (mut good, mut since, mut failed) = (0, 0, BTreeMap::<String, u64>::new());
    let goes_on = |since: u64| (since == 0 || !stop.load(Ordering::SeqCst)) && Instant::now() < deadline;
    while goes_on(since) {
        let work = async {
            let (client, connection) = open().await.map_err(|error| why(&error))?;
            // Prepared once: the driver hears no answer to the Close of a statement that it drops, be it the server's last
            // words.
            let statement = client.prepare("SELECT $1::bigint").await.map_err(|error| why(&error))?;
            while goes_on(since) {
                if let Err(error) = client.query_one(&statement, &[&n]).await {
                    let said =
                        if error.is_closed() { connection.await.ok().and_then(Result::err) } else { None };
                    return Err(why(&said.unwrap_or(error)));
                }
                good += 1;
                since += 1;
            }
            Ok::<(), String>(())
        };
        if let Err(error) = work.await {
            *failed.entry(error).or_default() += 1;
            since = 0;
            sleep(Duration::from_millis(50)).await;
        }
    }
    (good, since > 0, failed)
}

/// What a client can tell its user.
fn why(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} {}", db.code().code(), db.message()),
        None => {
            let mut text = error.to_string();
            let mut inner = std::error::Error::source(error);
            while let Some(source) = inner {
                text = format!("{text}: {source}");
                inner = source.source();
            }
            text
        }
    }
}

// ── single ones, by bytes ───────────────────────────────────────────────────────────────────────────────────────────

struct Raw {
    stream: TcpStream,
    input: BytesMut,
}

impl Raw {
    async fn connect() -> Result<Self> {
        let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set"));
        let address = format!("{}:{}", variable("PGHOST")?, variable("PGPORT")?);
        let mut raw = Self { stream: TcpStream::connect(address).await?, input: BytesMut::new() };
        let pair = |name: &str, value: String| (PgString::lossy(name), PgString::lossy(&value));
        let parameters = vec![pair("user", variable("PGUSER")?), pair("database", variable("PGDATABASE")?)];
        let mut out = BytesMut::new();
        StartupPacket::Startup(StartupMessage { version: ProtocolVersion::V3_0, parameters })
            .encode(&mut out)?;
        raw.stream.write_all(&out).await?;
        raw.until(|message| matches!(message, Backend::ReadyForQuery(_))).await?;
        Ok(raw)
    }

    async fn send(&mut self, message: &Frontend) -> Result<()> {
        Ok(self.stream.write_all(&message.to_bytes()?).await?)
    }

    async fn query(&mut self, sql: &str) -> Result<()> {
        self.send(&Frontend::Query(PgString::lossy(sql))).await
    }

    async fn until(&mut self, wanted: impl Fn(&Backend) -> bool) -> Result<()> {
        let decoder = FrameDecoder::new(Limits::SERVER);
        loop {
            while let Some(frame) = decoder.next(&mut self.input)? {
                if wanted(&Backend::decode(&frame)?) {
                    return Ok(());
                }
            }
            let count = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await??;
            ensure!(count > 0, "the connection ended");
        }
    }

    /// Ends it with a reset, as a machine does that lost its power and came back.
    fn vanish(self) -> Result<()> {
        self.stream.set_zero_linger()?;
        Ok(())
    }
}

async fn slow(seconds: u64, rows: u64) -> Result<()> {
    let mut raw = Raw::connect().await?;
    raw.query(&format!("SELECT repeat('x', 1000) FROM generate_series(1, {rows})")).await?;
    println!("asked");
    let mut read = 0;
    for _ in 0..seconds * 10 {
        let mut piece = [0; 102];
        raw.stream.read_exact(&mut piece).await?;
        read += piece.len();
        sleep(Duration::from_millis(100)).await;
    }
    println!("read {read}");
    // What was promised still comes, in order, however late.
    let mut rest = 0_u64;
    let mut piece = vec![0; 1 << 20];
    let mut tail = Vec::new();
    while !tail.ends_with(b"Z\0\0\0\x05I") {
        let count = timeout(PATIENCE, raw.stream.read(&mut piece)).await??;
        ensure!(count > 0, "the connection ended after {rest} bytes");
        rest += count as u64;
        tail.extend_from_slice(&piece[..count]);
        tail.drain(..tail.len().saturating_sub(6));
    }
    println!("whole {}", read as u64 + rest);
    Ok(())
}

async fn deaf(seconds: u64) -> Result<()> {
    let mut raw = Raw::connect().await?;
    let statement = Frontend::Query(PgString::lossy("SELECT repeat('y', 10000)")).to_bytes()?;
    let many: Vec<u8> = statement.repeat(100);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut sent = 0;
    while Instant::now() < until {
        // A write that takes nothing for a second is back pressure: that is what is wanted.
        match timeout(Duration::from_secs(1), raw.stream.write(&many)).await {
            Ok(count) => sent += count?,
            Err(_) => println!("pressed back after {sent}"),
        }
    }
    raw.vanish()
}

async fn gone(what: &str) -> Result<()> {
    let mut raw = Raw::connect().await?;
    match what {
        "held" => raw.query("CREATE TABLE gone_held (a int)").await?,
        "queued" => {
            raw.query("CREATE TABLE gone_held (a int)").await?;
            for _ in 0..1000 {
                raw.query("SELECT 1").await?;
            }
        }
        "copying-in" => {
            raw.query("COPY gone FROM STDIN").await?;
            raw.until(|message| matches!(message, Backend::CopyInResponse(_))).await?;
            for _ in 0..100 {
                raw.send(&Frontend::CopyData(bytes::Bytes::from_static(b"a row\n"))).await?;
            }
            // Half a message.
            raw.stream.write_all(b"d\0\0\x10\0half").await?;
        }
        "copying-out" => {
            raw.query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT").await?;
            raw.until(|message| matches!(message, Backend::CopyData(_))).await?;
        }
        "half-open" => {
            raw.query("SELECT 1").await?;
            println!("at work");
            // Neither a word nor an end: somebody pulled the cable.
            pending::<()>().await;
        }
        other => bail!("nobody is gone {other}"),
    }
    println!("at work");
    // Time for lockgate to be in the middle of it.
    sleep(Duration::from_secs(1)).await;
    raw.vanish()
}
