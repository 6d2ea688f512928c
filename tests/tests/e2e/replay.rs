//! Shadow, a draft of what was seen, and what a change of policy would have decided: on a real log.

use crate::world::{POLICY, SSN, World};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

const RECORDED_WITHIN: Duration = Duration::from_secs(60);

/// What the job does: of each kind something, masked columns, a schema change and an unbounded write among it.
const STATEMENTS: [&str; 7] = [
    "select ssn from customers where id = 1",
    "select o.id, c.name from orders o join customers c on c.id = o.customer_id where o.id = 1",
    "insert into orders values (77, 1, 5, 'shadow')",
    "update orders set note = 'x' where id = 77",
    "delete from orders",
    "create table made_in_shadow (id int)",
    "drop table made_in_shadow",
];

async fn shadowed(policy: &str) -> Result<World> {
    World::with(policy, |options, _| {
        options.targets[0] = options.targets[0].replace("  upstream:", "  mode: shadow\n  upstream:");
    })
    .await
}

/// Decided operations, once there are as many.
async fn decided(world: &World, count: usize) -> Result<Vec<Value>> {
    let until = Instant::now() + RECORDED_WITHIN;
    loop {
        let events = world.events("operation_decided")?;
        if events.len() >= count {
            return Ok(events);
        }
        ensure!(Instant::now() < until, "{count} operations expected: {}", world.agent.log_text()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn would(record: &Value) -> String {
    match &record["data"]["verdict"]["would"] {
        Value::String(word) => word.clone(),
        Value::Object(fields) => fields.keys().next().cloned().unwrap_or_default(),
        other => format!("{other}"),
    }
}

fn file(world: &World, name: &str, text: &str) -> Result<PathBuf> {
    world.agent.scratch().write(name, text)
}

fn diff(world: &World, old: &Path, new: &Path) -> Result<(Output, Value)> {
    let (old, new) = (old.display().to_string(), new.display().to_string());
    let output = world.agent.cli(&["policy", "diff", "--replay", &old, &new, "--output", "json"])?;
    let json = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output, json))
}

#[tokio::test]
async fn shadow_records_what_would_have_been_and_does_nothing() -> Result<()> {
    let world = shadowed(POLICY).await?;
    ensure!(
        world.agent.log().contains("nothing is refused, held or masked"),
        "said at load: {}",
        world.agent.log()
    );
    let done = world.psql(&STATEMENTS).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains(SSN), "nothing is masked in shadow: {}", done.stdout);
    assert!(!done.stderr.contains("denied") && !done.stderr.contains("held"), "{}", done.stderr);
    assert_eq!(world.pg.psql_in("shop", "select count(*) from orders")?.trim(), "0", "the delete was run");
    let decided = decided(&world, STATEMENTS.len()).await?;
    let words: Vec<String> = decided.iter().map(would).collect();
    assert_eq!(words, ["allow", "allow", "allow", "allow", "deny", "hold", "hold"], "{decided:#?}");
    assert!(decided.iter().all(|record| record["data"]["verdict"]["effect"] == "allow"), "{decided:#?}");
    assert!(decided.iter().all(|record| record["data"]["denial"].is_null()), "nothing was denied");
    assert!(world.events("approval_requested")?.is_empty(), "nobody was asked");
    assert!(!world.agent.log_text()?.contains(SSN), "what would be masked is not in the record either");
    Ok(())
}

#[tokio::test]
async fn a_draft_allows_what_was_recorded_and_a_change_is_seen_before_it_is_made() -> Result<()> {
    let world = shadowed(POLICY).await?;
    let done = world.psql(&STATEMENTS).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    decided(&world, STATEMENTS.len()).await?;

    let path = world.agent.scratch().path().join("draft.yaml");
    let draft = world.agent.cli(&["policy", "draft", "--write", &path.display().to_string()])?;
    let said = String::from_utf8_lossy(&draft.stderr).into_owned();
    assert!(draft.status.success(), "{said}");
    assert!(said.contains("allow 7 of 7"), "{said}");
    let text = std::fs::read_to_string(&path)?;
    assert!(!text.contains(SSN) && !text.contains("shadow'"), "no statement is in it: {text}");
    let checked = world.agent.cli(&["policy", "check", &path.display().to_string()])?;
    assert!(checked.status.success(), "{}\n{text}", String::from_utf8_lossy(&checked.stdout));
    assert!(
        !String::from_utf8_lossy(&checked.stdout).contains("warning"),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
    let tested = world.agent.cli(&["policy", "test", &path.display().to_string()])?;
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
    let again = world.agent.cli(&["policy", "draft", "--write", &path.display().to_string()])?;
    assert!(!again.status.success(), "nothing is overwritten");

    // The draft against itself changes nothing; against one that allows no delete, one decision.
    let (output, same) = diff(&world, &path, &path)?;
    assert_eq!((output.status.code(), &same["totals"]["changed"]), (Some(0), &0.into()), "{same:#}");
    assert_eq!(same["totals"]["operations"], 7, "{same:#}");
    let stricter = format!(
        "{}\n",
        text.replace(
            "\nrules:\n",
            "\nrules:\n- { id: no-delete, match: { sql: { kinds: [delete] } }, effect: deny }\n"
        )
    );
    let stricter = file(&world, "stricter.yaml", &stricter)?;
    let (output, changed) = diff(&world, &path, &stricter)?;
    assert_eq!(output.status.code(), Some(1), "something changes: {changed:#}");
    assert_eq!(changed["totals"]["changed"], 1, "{changed:#}");
    let change = &changed["changes"][0];
    assert_eq!(
        (&change["before"]["effect"], &change["after"]["effect"]),
        (&"allow".into(), &"deny".into()),
        "{change:#}"
    );
    assert_eq!(
        change["after"]["rules"]
            .as_array()
            .context("rules")?
            .iter()
            .filter(|rule| *rule == "no-delete")
            .count(),
        1
    );
    let example = change["example"].as_str().context("an example")?;
    assert!(world.agent.log_text()?.contains(example), "the example is a recorded decision");
    let table = world.agent.cli(&[
        "policy",
        "diff",
        "--replay",
        &path.display().to_string(),
        &stricter.display().to_string(),
    ])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("1 decisions would change") && table.contains(example), "{table}");

    // In force, the draft lets the same through, and nothing that was not seen.
    world.agent.write_policy(&text)?;
    world.recorded("policy_loaded", 1).await?;
    let done = world.psql(&["select ssn from customers where id = 1", "truncate orders"]).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    let later = decided(&world, STATEMENTS.len() + 2).await?;
    let words: Vec<String> = later.iter().skip(STATEMENTS.len()).map(would).collect();
    assert_eq!(words, ["allow", "deny"], "{later:#?}");
    Ok(())
}

#[tokio::test]
async fn what_the_record_does_not_hold_is_said() -> Result<()> {
    // Everything passes, nothing asks for the catalogue, and values are not kept.
    let all = "apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: { name: all }\ngroups: { dba: {} }\nrules:\n\
               - { id: all, match: {}, effect: allow, record: { statements: normalized } }\n";
    let world = World::with(all, |_, _| {}).await?;
    let done = world.psql(&["select id from orders where id = 1"]).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    decided(&world, 1).await?;
    let old = file(&world, "old.yaml", all)?;
    let tables = all.replace(
        "rules:\n",
        "rules:\n- { id: t, match: { sql: { any_table: [public.orders] } }, effect: deny }\n",
    );
    let values = all.replace(
        "rules:\n",
        "rules:\n- { id: v, match: { sql: { larger_than: { rows: 1 } } }, effect: deny }\n",
    );
    for (name, text, doubt) in [("tables.yaml", tables, "catalogue"), ("values.yaml", values, "values")] {
        let new = file(&world, name, &text)?;
        let (output, json) = diff(&world, &old, &new)?;
        assert_eq!(json["totals"]["not_replayed"][doubt], 1, "{name}: {json:#}");
        assert!(output.status.code().is_some(), "{name}");
    }
    Ok(())
}
