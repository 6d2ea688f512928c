//! tokio-postgres and sqlx as they come: what a job does with them. Prints what it saw, the same on every run.
//!
//! ```text
//! lockgate-rust-driver tokio-postgres      PGHOST, PGPORT, PGUSER and PGDATABASE say where
//! lockgate-rust-driver sqlx
//! ```

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt, TryStreamExt, future::try_join_all, pin_mut};
use sqlx::{Connection, Executor, Row, postgres::PgPoolOptions};
use std::{env, fmt::Debug, time::Duration};
use tokio::time::sleep;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, types::Type};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("tokio-postgres") => with_tokio_postgres().await,
        Some("sqlx") => with_sqlx().await,
        _ => bail!("usage: lockgate-rust-driver tokio-postgres|sqlx"),
    }
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} is not set"))
}

fn say(what: &str, seen: impl Debug) {
    println!("{what} {seen:?}");
}

// ── tokio-postgres ──────────────────────────────────────────────────────────────────────────────────────────────────

/// A client, its connection driven by a task; asynchronous messages come out of the channel.
async fn connect(
    change: impl FnOnce(&mut Config),
) -> Result<(Client, tokio::sync::mpsc::UnboundedReceiver<AsyncMessage>)> {
    let mut config = Config::new();
    config.host(variable("PGHOST")?).port(variable("PGPORT")?.parse()?);
    config.user(variable("PGUSER")?).dbname(variable("PGDATABASE")?);
    change(&mut config);
    let (client, mut connection) = config.connect(NoTls).await?;
    let (heard, hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            let _ = heard.send(message);
        }
    });
    Ok((client, hears))
}

/// The SQLSTATE of a failure.
fn state<T: Debug>(result: Result<T, tokio_postgres::Error>) -> String {
    match result {
        Ok(value) => format!("did not fail: {value:?}"),
        Err(error) => match error.as_db_error() {
            Some(db) => format!("{} {} {:?}", db.code().code(), db.message(), db.position()),
            None => "no error of the server".to_owned(),
        },
    }
}

async fn with_tokio_postgres() -> Result<()> {
    let (mut client, mut heard) = connect(|config| {
        config.application_name("driver").options("-c geqo=off");
    })
    .await?;
    let (other, _) = connect(|_| {}).await?;
    client.batch_execute("CREATE TABLE driver_rows (id int PRIMARY KEY, note text, more text[])").await?;
    say("geqo", client.query_one("SHOW geqo", &[]).await?.get::<_, String>(0));

    let insert = client.prepare("INSERT INTO driver_rows VALUES ($1, $2, $3)").await?;
    say("types", insert.params());
    let more: Vec<Option<&str>> = vec![Some("a"), None];
    say("inserted", client.execute(&insert, &[&1_i32, &"kept", &more]).await?);
    let typed = client.prepare_typed("SELECT $1 || 'x', $2::bytea", &[Type::TEXT]).await?;
    let row = client.query_one(&typed, &[&"ä€𝄞'\"\\", &&[0_u8, 255][..]]).await?;
    say("row", (row.get::<_, String>(0), row.get::<_, Vec<u8>>(1)));

    // Futures that are polled together are pipelined.
    let parameters: Vec<i32> = (0..50).collect();
    let doubled = client.prepare("SELECT $1::int * 2").await?;
    let all =
        try_join_all(parameters.iter().map(|n| async {
            Ok::<i32, tokio_postgres::Error>(client.query_one(&doubled, &[n]).await?.get(0))
        }));
    say("pipelined", all.await?.iter().sum::<i32>());
    let by_zero = client.prepare("SELECT 1 / $1::int").await?;
    let (good, bad, after) = tokio::join!(
        client.query_one(&by_zero, &[&1_i32]),
        client.query_one(&by_zero, &[&0_i32]),
        client.query_one(&by_zero, &[&-1_i32]),
    );
    say("between", (good?.get::<_, i32>(0), state(bad.map(drop)), after?.get::<_, i32>(0)));

    let mut transaction = client.transaction().await?;
    transaction.execute("INSERT INTO driver_rows VALUES (2, 'kept', NULL)", &[]).await?;
    let savepoint = transaction.savepoint("s").await?;
    say("twice", state(savepoint.execute("INSERT INTO driver_rows VALUES (1)", &[]).await));
    savepoint.rollback().await?;
    let portal = transaction.bind("SELECT generate_series(1, 10)", &[]).await?;
    for _ in 0..3 {
        let rows = transaction.query_portal(&portal, 4).await?;
        say("portal", rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>());
    }
    transaction.commit().await?;
    let dropped = client.transaction().await?;
    dropped.execute("INSERT INTO driver_rows VALUES (3)", &[]).await?;
    drop(dropped);
    say("count", client.query_one("SELECT count(*) FROM driver_rows", &[]).await?.get::<_, i64>(0));

    for message in client.simple_query("SELECT 1 AS a, NULL AS b; UPDATE driver_rows SET note = 'x'").await? {
        match message {
            SimpleQueryMessage::Row(row) => say("simple", (row.get("a"), row.get("b"))),
            SimpleQueryMessage::CommandComplete(count) => say("complete", count),
            _ => {}
        }
    }
    say("nowhere", state(client.query("SELECT nothing FROM nowhere", &[]).await.map(drop)));
    say("syntax", state(client.batch_execute("SELEC 1").await));

    let sink = client.copy_in("COPY driver_rows (id) FROM STDIN").await?;
    pin_mut!(sink);
    for n in 100..5100 {
        sink.send(bytes::Bytes::from(format!("{n}\n"))).await?;
    }
    say("copied", sink.finish().await?);
    let out = client.copy_out("COPY driver_rows TO STDOUT (FORMAT binary)").await?;
    let bytes: usize = out.map_ok(|piece| piece.len()).try_fold(0, async |sum, n| Ok(sum + n)).await?;
    say("bytes", bytes);
    say("bad copy", {
        let sink = client.copy_in::<_, bytes::Bytes>("COPY driver_rows (id) FROM STDIN").await?;
        pin_mut!(sink);
        sink.send(bytes::Bytes::from_static(b"x\n")).await?;
        state(sink.finish().await)
    });
    let rows = client
        .query_raw("SELECT repeat('z', 100) FROM generate_series(1, 50000)", Vec::<String>::new())
        .await?;
    say("big", rows.map_ok(|row| row.get::<_, &str>(0).len()).try_fold(0, async |sum, n| Ok(sum + n)).await?);

    client.batch_execute("LISTEN driver_news").await?;
    other.batch_execute("NOTIFY driver_news, 'one'").await?;
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    client.batch_execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$").await?;
    let (mut news, mut notices) = (0, 0);
    while news < 1 || notices < 1 {
        match tokio::time::timeout(Duration::from_secs(10), heard.recv()).await?.context("the end")? {
            AsyncMessage::Notification(one) => {
                news += 1;
                say("news", (one.channel(), one.payload(), one.process_id() == pid));
            }
            AsyncMessage::Notice(notice) => {
                notices += 1;
                say("notice", notice.message());
            }
            _ => {}
        }
    }
    let token = client.cancel_token();
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(30)"), async {
        sleep(Duration::from_millis(300)).await;
        let _ = token.cancel_query(NoTls).await;
    });
    say("cancelled", state(slept));
    let failure = connect(|config| {
        config.dbname("no_such_database");
    });
    let code = failure
        .await
        .err()
        .and_then(|error| Some(error.downcast_ref::<tokio_postgres::Error>()?.code()?.code().to_owned()));
    say("no such database", code);
    Ok(())
}

// ── sqlx ────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn code<T: Debug>(result: Result<T, sqlx::Error>) -> String {
    match result {
        Ok(value) => format!("did not fail: {value:?}"),
        Err(error) => match error.as_database_error() {
            Some(db) => format!("{:?} {} {:?}", db.code(), db.message(), db.constraint()),
            None => "no error of the server".to_owned(),
        },
    }
}

async fn with_sqlx() -> Result<()> {
    let url = format!(
        "postgres://{}@{}:{}/{}",
        variable("PGUSER")?,
        variable("PGHOST")?,
        variable("PGPORT")?,
        variable("PGDATABASE")?
    );
    let pool = PgPoolOptions::new().max_connections(4).connect(&url).await?;
    pool.execute("CREATE TABLE driver_rows (id int PRIMARY KEY, note text, more text[])").await?;
    let inserted = sqlx::query("INSERT INTO driver_rows VALUES ($1, $2, $3)")
        .bind(1)
        .bind("ä€𝄞'\"\\")
        .bind(vec![Some("a"), None])
        .execute(&pool)
        .await?;
    say("inserted", inserted.rows_affected());
    let row = sqlx::query("SELECT * FROM driver_rows WHERE id = $1").bind(1).fetch_one(&pool).await?;
    say("row", (row.get::<i32, _>("id"), row.get::<&str, _>(1), row.get::<Vec<Option<String>>, _>(2)));
    let pool = &pool;
    let doubled = (0..40)
        .map(|n| async move { sqlx::query_scalar::<_, i32>("SELECT $1 * 2").bind(n).fetch_one(pool).await });
    say("pool", try_join_all(doubled).await?.iter().sum::<i32>());

    let mut transaction = pool.begin().await?;
    transaction.execute("INSERT INTO driver_rows VALUES (2)").await?;
    let mut nested = transaction.begin().await?;
    say("twice", code(nested.execute("INSERT INTO driver_rows VALUES (1)").await));
    nested.rollback().await?;
    transaction.commit().await?;
    {
        let mut dropped = pool.begin().await?;
        dropped.execute("INSERT INTO driver_rows VALUES (3)").await?;
    }
    say("count", sqlx::query_scalar::<_, i64>("SELECT count(*) FROM driver_rows").fetch_one(pool).await?);
    let several =
        sqlx::raw_sql("SELECT 1; UPDATE driver_rows SET note = 'x'; SELECT 2, 3").fetch_all(pool).await?;
    say("several", several.iter().map(sqlx::postgres::PgRow::len).collect::<Vec<_>>());
    say("nowhere", code(sqlx::query("SELECT nothing FROM nowhere").fetch_all(pool).await.map(drop)));
    say("by zero", code(sqlx::query("SELECT 1 / $1").bind(0).fetch_all(pool).await.map(drop)));

    let mut connection = pool.acquire().await?;
    let mut sink = connection.copy_in_raw("COPY driver_rows (id) FROM STDIN").await?;
    for n in 100..5100 {
        sink.send(format!("{n}\n").as_bytes()).await?;
    }
    say("copied", sink.finish().await?);
    let bytes = {
        let out = connection.copy_out_raw("COPY driver_rows TO STDOUT (FORMAT csv)").await?;
        out.map_ok(|piece| piece.len()).try_fold(0, async |sum, n| Ok(sum + n)).await?
    };
    say("bytes", bytes);
    let mut rows =
        sqlx::query("SELECT repeat('z', 100) FROM generate_series(1, 50000)").fetch(&mut *connection);
    let mut length = 0;
    while let Some(row) = rows.try_next().await? {
        length += row.get::<&str, _>(0).len();
    }
    drop(rows);
    say("big", length);
    // A stream that is dropped half way.
    sqlx::query("SELECT generate_series(1, 5000)").fetch(&mut *connection).try_next().await?;
    say("goes on", sqlx::query_scalar::<_, i32>("SELECT 7").fetch_one(&mut *connection).await?);

    let mut listener = sqlx::postgres::PgListener::connect_with(pool).await?;
    listener.listen("driver_news").await?;
    sqlx::query("SELECT pg_notify('driver_news', $1)").bind("one").execute(pool).await?;
    let news = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await??;
    say("news", (news.channel(), news.payload()));
    drop((listener, connection));
    pool.close().await;
    let missing = url.replace(&format!("/{}", variable("PGDATABASE")?), "/no_such_database");
    say("no such database", code(sqlx::PgConnection::connect(&missing).await.map(drop)));
    Ok(())
}
