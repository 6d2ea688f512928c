//! The statements that `lockgate policy grants` prints, applied on a real server: what policy masks, the role itself can no
//! longer read, with or without lockgate.

use crate::world::{CARD, SSN, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::target,
    job::{self, JOB_UID},
    postgres::TestPostgres,
};

/// A target whose role owns nothing.
async fn world() -> Result<World> {
    World::with(crate::world::POLICY, |options, pg| {
        pg.psql("create role worker login password 'worker-secret'").unwrap();
        pg.psql_in(
            "shop",
            "grant select, insert, update, delete on all tables in schema public to worker; \
             create view public.labels as select id, ssn as label from public.customers; \
             grant select on public.labels to public",
        )
        .unwrap();
        let password = pg.socket_dir().join("worker.password");
        std::fs::write(&password, "worker-secret\n").unwrap();
        options.targets =
            vec![target("orders-db", pg.port(), "worker", &password, "env: production, pci: \"true\"")];
    })
    .await
}

async fn as_worker(pg: &TestPostgres, statement: &str) -> Result<job::Done> {
    let port = pg.port().to_string();
    let command = [
        "psql",
        "-X",
        "-A",
        "-t",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-U",
        "worker",
        "-d",
        "shop",
        "-c",
        statement,
    ];
    job::run(job::ungoverned(JOB_UID, &[("PGPASSWORD", "worker-secret")], &command)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_grants_take_masked_columns_from_the_role() -> Result<()> {
    let world = world().await?;
    let said = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let doctor = said(world.agent.cli(&["doctor", "--database", "shop"])?);
    ensure!(doctor.contains("may SELECT what is masked"), "{doctor}");
    ensure!(doctor.contains("public.customers.ssn") && doctor.contains("public.labels.label"), "{doctor}");
    let before = as_worker(&world.pg, "select ssn from customers where id = 1").await?;
    ensure!(before.stdout.contains(SSN), "the role reads it by itself: {before:?}");

    let printed = world.agent.cli(&["policy", "grants", "--target", "orders-db", "--database", "shop"])?;
    ensure!(printed.status.success(), "{printed:?}");
    let script = said(printed);
    ensure!(!script.contains("is the upstream role's own"), "{script}");
    world.pg.psql_in("shop", &script).context("the statements run")?;

    // Directly: the server stops it.
    for attempt in [
        "select ssn from customers",
        "select * from customers",
        "select c from customers c",
        "select upper(card_number) from customers",
        "select id from customers where ssn like '1%'",
        "select label from labels",
        "copy customers to stdout",
        "update customers set name = ssn returning name",
        "insert into orders (id, note) select 9, ssn from customers",
        "select query_to_xml('select ssn from customers', true, false, '')",
    ] {
        let done = as_worker(&world.pg, attempt).await?;
        ensure!(done.stderr.contains("permission denied"), "{attempt}: {done:?}");
        ensure!(!done.stdout.contains(SSN) && !done.stdout.contains(CARD), "{attempt}: {done:?}");
    }
    for (everyday, expected) in [
        ("select id, name from customers where id = 1", "1|Ana"),
        ("select id from labels where id = 1", "1"),
        ("select count(*) from orders", "2"),
        ("update customers set ssn = '1' where id = 99", "UPDATE 0"),
    ] {
        let done = as_worker(&world.pg, everyday).await?;
        ensure!(done.stdout.trim() == expected, "{everyday}: {done:?}");
    }
    let doctor = said(world.agent.cli(&["doctor", "--database", "shop"])?);
    ensure!(doctor.contains("lacks SELECT on every masked column"), "{doctor}");
    Ok(())
}
