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
    for sql in ["SELECT 1 FROM orders WHERE ssn LIKE '1%'", "COPY orders TO STDOUT"] {
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
