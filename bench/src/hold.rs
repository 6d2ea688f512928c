//! From a counted vote to the forward of what was held, by the log's own times.

use crate::ground::{Ground, Route};
use anyhow::{Result, bail, ensure};
use lockgate_tests::{job, receiver::Decision};

/// Milliseconds, one value a hold.
pub async fn decision_to_forward(ground: &Ground, holds: usize) -> Result<Vec<f64>> {
    let statements: Vec<String> = (0..holds).map(|number| format!("create table held_{number} ()")).collect();
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    let port = ground.pg.port().to_string();
    let psql = job::psql("127.0.0.1", &port, "postgres", &statements);
    let job = job::start(ground.client(Route::Lockgate, &psql))?;
    for number in 0..holds {
        let request = ground.receiver.requested(&format!("held_{number} ")).await?;
        Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    }
    let done = job.done().await?;
    ensure!(done.code == Some(0), "{done:?}");
    let mut voted = None;
    let mut waits = Vec::new();
    for event in ground.agent.events()? {
        let (kind, at) = kind_and_time(&event);
        match kind {
            Some("vote_cast") => voted = at,
            Some("forwarded") => {
                if let (Some(voted), Some(at)) = (voted.take(), at) {
                    waits.push((at - voted).total(jiff::Unit::Millisecond)?);
                }
            }
            _ => {}
        }
    }
    if waits.len() != holds {
        bail!("{} of {holds} decisions were forwarded", waits.len());
    }
    Ok(waits)
}

/// The event's name and time.
fn kind_and_time(record: &serde_json::Value) -> (Option<&str>, Option<jiff::Timestamp>) {
    let kind = record.get("event").and_then(serde_json::Value::as_str);
    (kind, record.get("at").and_then(|at| at.as_str()?.parse().ok()))
}
