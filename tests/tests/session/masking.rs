//! Masked columns, whatever way they come.

use crate::world::World;
use anyhow::{Result, ensure};
use lockgate_model::event::EventKind;

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
