//! Sessions through the proxy, with real psql and a real PostgreSQL.

mod caps;
mod copies;
mod drivers;
mod exports;
mod handshakes;
mod masking;
mod operating;
mod pipeline;
mod replication;
mod tls;
mod versions;
mod world;

use anyhow::{Result, ensure};
use lockgate_model::{approval::WithdrawReason, event::EventKind};
use std::time::Duration;
use world::{Decision, Said, World};

#[track_caller]
fn check(said: &Said, out: &str, err: &[&str], code: i32) {
    assert_eq!(said.out, out, "{said:#?}");
    for part in err {
        assert!(said.err.contains(part), "expected {part:?} in {said:#?}");
    }
    assert_eq!(said.code, Some(code), "{said:#?}");
}

#[test]
fn statements_pass_are_denied_and_are_held() -> Result<()> {
    let world = World::start(&[("env", "production")])?;
    let said = world.psql(&["-c", "SELECT count(*) FROM orders"])?;
    check(&said, "50\n", &[], 0);
    let said = world.psql(&["-c", "SELECT current_user"])?;
    check(&said, "app\n", &[], 0);

    // Denied: by name of the rule, and the session goes on.
    let said = world.psql(&["-c", "DELETE FROM orders", "-c", "SELECT 1"])?;
    check(
        &said,
        "1\n",
        &[
            "ERROR:  lockgate: denied DELETE on public.orders by rule no-unbounded-write (decision dec_",
            "DETAIL:  a DELETE or UPDATE needs a WHERE",
        ],
        0,
    );
    // In a transaction the denial fails it.
    let said = world.psql(&[
        "-c",
        "BEGIN; INSERT INTO orders VALUES (100); ",
        "-c",
        "DELETE FROM orders",
        "-c",
        "COMMIT",
        "-c",
        "SELECT count(*) FROM orders",
    ])?;
    check(&said, "50\n", &["denied DELETE on public.orders"], 0);
    let said = world.psql(&["-c", "INSERT INTO orders VALUES (101); DELETE FROM orders"])?;
    check(&said, "", &["denied DELETE on public.orders"], 1);
    ensure!(world.server.psql_in("orders", "SELECT count(*) FROM orders")? == "50");

    // Held and approved.
    world.decide(Decision::Approve(Duration::from_millis(200)));
    let said = world.psql(&["-c", "ALTER TABLE orders ADD COLUMN x int"])?;
    check(
        &said,
        "",
        &[
            "NOTICE:  lockgate: waiting for approval of ALTER TABLE on public.orders at orders-db (production): 0 of 1 from dba, rule schema-change",
            "NOTICE:  lockgate: ALTER TABLE on public.orders approved by local:1000 (looks right)",
        ],
        0,
    );
    // Held and denied.
    world.decide(Decision::Deny(Duration::from_millis(100), "not on a Friday"));
    let said = world.psql(&["-c", "DROP TABLE orders"])?;
    check(&said, "", &["ERROR:  lockgate: denied DROP", "not on a Friday"], 1);

    // Copy both ways.
    let said = world.psql(&["-c", "COPY (SELECT id FROM orders WHERE id < 3 ORDER BY id) TO STDOUT"])?;
    check(&said, "1\n2\n", &[], 0);
    let mut copy = world.command("psql");
    let said = {
        use std::io::Write;
        let mut child = copy
            .args(["-X", "-q", "-c", "COPY orders (id) FROM STDIN"])
            .stdin(std::process::Stdio::piped())
            .spawn()?;
        child.stdin.take().expect("piped").write_all(b"201\n202\n203\n")?;
        child.wait()?
    };
    ensure!(said.success());
    ensure!(world.server.psql_in("orders", "SELECT count(*) FROM orders WHERE id > 200")? == "3");

    let (started, ended) = world.finish()?;
    ensure!(started == ended && started >= 9, "{started} sessions started, {ended} ended");
    Ok(())
}

#[test]
fn a_held_statement_ends_with_its_client_or_by_ctrl_c() -> Result<()> {
    let world = World::start(&[("env", "production")])?;
    let mut child = world
        .command("psql")
        .args(["-X", "-q", "-c", "DROP TABLE orders"])
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let held = |events: &[EventKind]| {
        events.iter().any(|event| matches!(event, EventKind::OperationDecided { denial: None, .. }))
    };
    world.wait_for("the hold", held)?;
    std::thread::sleep(Duration::from_millis(100));
    let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    ensure!(interrupt.success());
    let output = child.wait_with_output()?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(err.contains("lockgate: withdrew DROP") || err.contains("Cancel request sent"), "{err}");
    world.wait_for("the withdrawal", |_| {
        world.approvals.withdrawn.lock().unwrap().contains(&WithdrawReason::Cancelled)
    })?;

    child = world.command("psql").args(["-X", "-q", "-c", "DROP TABLE orders"]).spawn()?;
    world.wait_for("the second hold", |_| world.approvals.requests.lock().unwrap().len() == 2)?;
    std::thread::sleep(Duration::from_millis(50));
    child.kill()?;
    child.wait()?;
    world.wait_for("the second withdrawal", |_| {
        world.approvals.withdrawn.lock().unwrap().contains(&WithdrawReason::Disconnected)
    })?;
    ensure!(world.server.psql_in("orders", "SELECT count(*) FROM orders")? == "50");
    let (started, ended) = world.finish()?;
    ensure!((started, ended) == (2, 2), "{started} sessions started, {ended} ended");
    Ok(())
}
