//! What goes on around statements: cancellation, TLS, drains, many clients at once.

use crate::world::{Options, World};
use anyhow::{Result, ensure};
use lockgate_model::{event::EventKind, outcome::CloseReason};
use std::{
    process::Stdio,
    time::{Duration, Instant},
};

#[test]
fn ctrl_c_reaches_a_statement_that_runs() -> Result<()> {
    let world = World::start(&[])?;
    let began = Instant::now();
    let child = world
        .command("psql")
        .args(["-X", "-q", "-c", "SELECT pg_sleep(60)"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    world.wait_for("the statement", |events| {
        events.iter().any(|event| matches!(event, EventKind::OperationDecided { denial: None, .. }))
    })?;
    std::thread::sleep(Duration::from_millis(300));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    let output = child.wait_with_output()?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(began.elapsed() < Duration::from_secs(30), "it was not cancelled");
    ensure!(err.contains("canceling statement due to user request"), "{err}");
    world.wait_for("the closing record of the cancellation", |events| {
        events.iter().any(|event| match event {
            EventKind::FlowRefused { closing, .. } => closing.reason == CloseReason::CancelRequest,
            _ => false,
        })
    })?;
    world.finish()?;
    Ok(())
}

#[test]
fn tls_is_refused_or_terminated_as_configured() -> Result<()> {
    let psql = |world: &World, mode: &str| -> Result<_> {
        let output = world
            .command("psql")
            .env("PGSSLMODE", mode)
            .args(["-X", "-A", "-t", "-c", "SELECT 1"])
            .output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let plain = World::start(&[])?;
    ensure!(psql(&plain, "prefer")?.0);
    let (passed, err) = psql(&plain, "require")?;
    ensure!(!passed && err.contains("does not support SSL"), "{err}");
    plain.finish()?;
    let secure = World::with(&[], Options { client_tls: true, ..Options::default() })?;
    ensure!(psql(&secure, "require")?.0);
    ensure!(psql(&secure, "disable")?.0);
    let encrypted = |event: &EventKind| matches!(event, EventKind::SessionStarted(s) if s.client_tls);
    ensure!(secure.recorder.events().iter().filter(|event| encrypted(event)).count() == 1);
    secure.finish()?;
    Ok(())
}

#[test]
fn results_are_recorded_as_the_client_saw_them() -> Result<()> {
    let policy = crate::world::POLICY
        .replace("- id: mask-pii\n", "- id: keep\n  match: { sql: { class: read } }\n  effect: none\n  record: { results: masked }\n- id: mask-pii\n");
    let world = World::with(&[("pci", "true")], Options { policy: Some(policy), ..Options::default() })?;
    let said = world.psql(&["-c", "SELECT id, ssn FROM orders WHERE id < 3 ORDER BY id"])?;
    ensure!(said.out == "1|[redacted]\n2|[redacted]\n", "{said:?}");
    let text = |value: &str| Some(value.to_owned());
    // The client hears the answer before the record does.
    world.wait_for("the rows", |events| events.iter().any(|e| matches!(e, EventKind::ResultRows { .. })))?;
    let found = world.recorder.events().into_iter().find_map(|event| match event {
        EventKind::ResultRows { columns, rows, truncated, .. } => Some((columns, rows, truncated)),
        _ => None,
    });
    let rows = vec![vec![text("1"), text("[redacted]")], vec![text("2"), text("[redacted]")]];
    ensure!(found == Some((vec!["id".to_owned(), "ssn".to_owned()], rows, false)), "{found:?}");
    world.finish()?;
    Ok(())
}

#[test]
fn psql_s_own_commands_work() -> Result<()> {
    for tags in [&[][..], &[("pci", "true")]] {
        let world = World::start(tags)?;
        for command in ["\\d", "\\d orders", "\\dt+", "\\df", "\\l", "\\du", "\\conninfo", "\\x", "\\timing"]
        {
            let said = world.psql(&["-c", command])?;
            ensure!(said.code == Some(0) && !said.err.contains("ERROR"), "{command}: {said:?}");
        }
        world.finish()?;
    }
    Ok(())
}

#[test]
fn a_drain_ends_idle_sessions_and_waits_for_busy_ones() -> Result<()> {
    let world = World::start(&[])?;
    let mut idle =
        world.command("psql").args(["-X", "-q"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let busy = world
        .command("psql")
        .args(["-X", "-A", "-t", "-c", "SELECT pg_sleep(1), 'done'"])
        .stdout(Stdio::piped())
        .spawn()?;
    world.wait_for("both sessions", |events| {
        let started = events.iter().filter(|e| matches!(e, EventKind::SessionStarted(_))).count();
        let decided = events.iter().filter(|e| matches!(e, EventKind::OperationDecided { .. })).count();
        started == 2 && decided == 1
    })?;
    let (started, ended) = world.finish_within(Duration::from_secs(10))?;
    ensure!((started, ended) == (2, 2));
    let output = busy.wait_with_output()?;
    ensure!(String::from_utf8_lossy(&output.stdout) == "|done\n", "{output:?}");
    idle.kill()?;
    idle.wait()?;
    Ok(())
}

#[test]
fn a_dump_passes_and_one_of_masked_columns_is_masked() -> Result<()> {
    let plain = World::start(&[])?;
    let dump = plain.command("pg_dump").output()?;
    let text = String::from_utf8_lossy(&dump.stdout).into_owned();
    ensure!(dump.status.success() && text.contains("123-45-0050"), "{dump:?}");
    plain.finish()?;
    let masked = World::start(&[("pci", "true")])?;
    let dump = masked.command("pg_dump").output()?;
    let (out, err) = (String::from_utf8_lossy(&dump.stdout), String::from_utf8_lossy(&dump.stderr));
    ensure!(dump.status.success() && out.contains("7\t[redacted]\t************1107\tn7\n"), "{err}");
    ensure!(!out.contains("123-45"), "a masked value left");
    masked.finish()?;
    Ok(())
}
