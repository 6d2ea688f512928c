//! Masked columns, whatever way they come.

use crate::world::{Decision, Options, World};
use anyhow::{Result, ensure};
use lockgate_model::event::EventKind;
use std::time::Duration;

#[test]
fn masked_columns_come_back_masked() -> Result<()> {
    let world = World::start(&[("env", "production"), ("pci", "true")])?;
    for (sql, out) in [
        ("SELECT id, ssn, card FROM orders WHERE id = 7", "7|[redacted]|************1107\n"),
        ("SELECT * FROM orders WHERE id = 7", "7|[redacted]|************1107|n7\n"),
        ("SELECT o.ssn AS harmless FROM orders o WHERE id = 7", "[redacted]\n"),
        ("SELECT note FROM orders WHERE id = 7", "n7\n"),
    ] {
        let said = world.psql(&["-c", sql])?;
        ensure!(said.out == out, "{sql}: {said:?}");
    }
    let said = world.psql(&["-c", "COPY (SELECT id, ssn, card FROM orders WHERE id = 7) TO STDOUT"])?;
    ensure!(said.out == "7\t[redacted]\t************1107\n", "{said:?}");
    for sql in ["SELECT 1 FROM orders WHERE ssn LIKE '1%'", "COPY (SELECT ssn || '' FROM orders) TO STDOUT"] {
        let said = world.psql(&["-c", sql])?;
        ensure!(said.err.contains("ERROR:  lockgate: denied"), "{sql}: {said:?}");
    }
    // Errors of a statement that touches it say nothing.
    let said = world.psql(&["-c", "INSERT INTO orders (id, ssn) VALUES (7, '987-65-4321')"])?;
    ensure!(said.err.contains("withheld") && !said.err.contains("987-65"), "{said:?}");
    for event in world.recorder.events() {
        if let EventKind::OperationDecided { operation, .. } = event {
            ensure!(!operation.text.contains("987-65-4321"), "{}", operation.text);
        }
    }
    world.finish()?;
    Ok(())
}

/// People may decide where policy lets them: they are told which column stands where, and see the same masks after.
#[test]
fn people_decide_about_masked_columns_outside_the_output() -> Result<()> {
    const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: asks }
groups: { dba: {} }
rules:
- id: reads
  match: { sql: { class: [read, session, transaction] } }
  effect: allow
- id: personal
  description: Personal data
  match: {}
  effect: none
  mask:
    columns: [{ match: "*.*.ssn", method: redact }]
    in_predicate: require_approval
    in_expression: deny
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 5m }
"#;
    let options = Options { policy: Some(POLICY.into()), ..Options::default() };
    let world = World::with(&[("env", "production")], options)?;
    let said = world.psql(&["-c", "SELECT id, ssn FROM orders WHERE id = 7"])?;
    ensure!(said.out == "7|[redacted]\n" && world.approvals.requests.lock().unwrap().is_empty(), "{said:?}");

    world.decide(Decision::Approve(Duration::from_millis(50)));
    let said = world.psql(&["-c", "SELECT id, ssn FROM orders WHERE ssn LIKE '123-45-0007'"])?;
    ensure!(said.out == "7|[redacted]\n", "approved, it runs, and stays masked: {said:?}");
    {
        let requests = world.approvals.requests.lock().unwrap();
        let told = requests[0].spec.requirements[0].description.clone().unwrap_or_default();
        ensure!(requests.len() == 1 && told.contains("orders.ssn") && told.contains("WHERE"), "{told}");
    }
    world.decide(Decision::Deny(Duration::from_millis(50), "no"));
    let said = world.psql(&["-c", "SELECT id FROM orders ORDER BY ssn", "-c", "SELECT 1"])?;
    ensure!(said.err.contains("lockgate: denied") && said.out == "1\n", "{said:?}");

    // The rest is not people's to decide.
    let before = world.approvals.requests.lock().unwrap().len();
    for sql in ["SELECT upper(ssn) FROM orders", "SELECT upper(ssn) FROM orders WHERE ssn = 'x'"] {
        let said = world.psql(&["-c", sql])?;
        ensure!(said.err.contains("may stand in the output only as it is"), "{sql}: {said:?}");
    }
    ensure!(world.approvals.requests.lock().unwrap().len() == before);
    world.finish()?;
    Ok(())
}

/// The strongest defence is the server's own: the record says whether it stands.
#[test]
fn the_record_says_whether_the_role_itself_may_read_masked_columns() -> Result<()> {
    let world = World::start(&[("env", "production"), ("pci", "true")])?;
    let told = |world: &World| -> Vec<(u64, u64, Vec<String>)> {
        let events = world.recorder.events();
        let told = events.into_iter().filter_map(|event| match event {
            EventKind::MaskedColumns { masked, readable, first } => Some((masked, readable, first)),
            _ => None,
        });
        told.collect()
    };
    // Once a session, however much it asks for.
    let said =
        world.psql(&["-c", "SELECT 1", "-c", "SELECT id, ssn FROM orders LIMIT 1", "-c", "SELECT 2"])?;
    ensure!(said.code == Some(0), "{said:?}");
    let all = vec!["public.orders.card".to_owned(), "public.orders.ssn".to_owned()];
    ensure!(told(&world) == [(2, 2, all)], "{:?}", told(&world));
    // Taken from the role, it is said so; while the session lives, too.
    world.server.psql_in(
        "orders",
        "ALTER TABLE orders OWNER TO CURRENT_USER; REVOKE ALL ON orders FROM app; GRANT SELECT (id, note, card) ON orders TO app",
    )?;
    std::thread::sleep(Duration::from_millis(3200));
    let said = world.psql(&["-c", "SELECT id FROM orders LIMIT 1"])?;
    ensure!(said.code == Some(0), "{said:?}");
    ensure!(
        told(&world).get(1) == Some(&(2, 1, vec!["public.orders.card".to_owned()])),
        "{:?}",
        told(&world)
    );
    world.server.psql_in("orders", "REVOKE ALL ON orders FROM app; GRANT SELECT (id) ON orders TO app")?;
    std::thread::sleep(Duration::from_millis(3200));
    world.psql(&["-c", "SELECT id FROM orders LIMIT 1"])?;
    ensure!(told(&world).get(2) == Some(&(2, 0, Vec::new())), "{:?}", told(&world));
    world.finish()?;
    // Where nothing is masked, nothing is said.
    let world = World::start(&[("env", "production")])?;
    world.psql(&["-c", "SELECT 1"])?;
    ensure!(told(&world).is_empty());
    world.finish()?;
    Ok(())
}
