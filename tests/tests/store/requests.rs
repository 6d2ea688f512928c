//! Requests that wait: asked by a node, decided by people elsewhere, once, in time, and never by a notification.

use crate::place::{NODE, OWNER, PATIENCE, Place, agent, until};
use anyhow::{Result, ensure};
use lockgate_model::{RequestId, Timestamp};
use lockgate_store::postgres::{Asked, Decision, Refusal, Requests};
use serde_json::json;
use std::time::{Duration, Instant};

fn asked(n: u64, within: Duration) -> Asked {
    Asked {
        node: NODE.into(),
        request: RequestId::from_parts(n, 1),
        expires_at: Timestamp::now() + within,
        card: json!({ "statement": "DROP TABLE t", "n": n }),
    }
}

fn says(person: &str, approves: bool) -> Decision {
    Decision { person: person.to_owned(), approves, vote: json!({ "by": person, "reason": "change 7" }) }
}

/// A node's connection and a console's.
fn both() -> Result<(Place, Requests, Requests)> {
    let place = Place::ready()?;
    place.psql("CREATE ROLE console LOGIN IN ROLE lockgate_console")?;
    let (node, console) =
        (Requests::connect(&place.address(&agent(NODE)))?, Requests::connect(&place.address("console"))?);
    Ok((place, node, console))
}

#[test]
fn a_decision_wakes_the_node_that_waits_and_is_taken_once() -> Result<()> {
    let (_place, mut node, mut console) = both()?;
    let one = asked(1, Duration::from_secs(600));
    node.ask(&one)?;
    ensure!(console.wait(PATIENCE), "the console is woken");
    let waiting = console.waiting()?;
    ensure!(
        waiting.len() == 1 && waiting[0].request == one.request && waiting[0].card == one.card,
        "{waiting:?}"
    );
    ensure!(node.decisions(&one.node, one.request)? == []);
    while node.wait(Duration::from_millis(10)) {}
    console.decide(&one.node, one.request, &says("ana", true))?;
    let began = Instant::now();
    ensure!(node.wait(PATIENCE), "the node is woken");
    println!("woken after {:?}", began.elapsed());
    ensure!(node.decisions(&one.node, one.request)? == [says("ana", true)]);
    ensure!(matches!(console.decide(&one.node, one.request, &says("ana", false)), Err(Refusal::Repeated)));
    console.decide(&one.node, one.request, &says("ben", false))?;
    ensure!(node.decisions(&one.node, one.request)? == [says("ana", true), says("ben", false)]);
    ensure!(node.end(&one.node, one.request, "approved")?);
    ensure!(!node.end(&one.node, one.request, "denied")?, "it ends once");
    ensure!(matches!(console.decide(&one.node, one.request, &says("eve", true)), Err(Refusal::Ended)));
    ensure!(console.waiting()?.is_empty());
    let nothing = RequestId::from_parts(9, 9);
    ensure!(matches!(console.decide(&one.node, nothing, &says("ana", true)), Err(Refusal::Unknown)));
    Ok(())
}

#[test]
fn what_expired_is_decided_by_nobody_and_waits_no_more() -> Result<()> {
    let (_place, node, console) = both()?;
    let short = asked(1, Duration::from_millis(300));
    node.ask(&short)?;
    until("it expires", || console.waiting().is_ok_and(|waiting| waiting.is_empty()))?;
    let late = console.decide(&short.node, short.request, &says("ana", true));
    ensure!(matches!(late, Err(Refusal::Expired)), "{late:?}");
    ensure!(node.decisions(&short.node, short.request)? == []);
    ensure!(node.end(&short.node, short.request, "expired")?);
    Ok(())
}

#[test]
fn of_a_decision_and_an_end_at_the_same_moment_one_comes_first() -> Result<()> {
    let (place, node, console) = both()?;
    for n in 0..60 {
        let one = asked(n, Duration::from_secs(600));
        node.ask(&one)?;
        let decided = std::thread::scope(|scope| {
            let decided = scope.spawn(|| console.decide(&one.node, one.request, &says("ana", true)).is_ok());
            node.end(&one.node, one.request, "withdrawn").unwrap();
            decided.join().unwrap()
        });
        let order = place.psql(&format!(
            "SELECT count(*), bool_and(d.at <= e.at) FROM lockgate.decision d JOIN lockgate.ending e USING (node, request) WHERE request = '{}'",
            one.request
        ))?;
        ensure!(
            order == if decided { "1|t" } else { "0|" },
            "round {n}: taken: {decided}, in the database: {order}"
        );
    }
    Ok(())
}

#[test]
fn a_forged_notification_wakes_and_tells_nothing() -> Result<()> {
    let (place, mut node, console) = both()?;
    let one = asked(1, Duration::from_secs(600));
    node.ask(&one)?;
    while node.wait(Duration::from_millis(10)) {}
    place.enrol("web-1")?;
    let forged = format!(
        "SELECT pg_notify('lockgate_decided', '{{\"request\":\"{}\",\"approves\":true}}')",
        one.request
    );
    place.psql_as(&agent("web-1"), &forged).map_err(anyhow::Error::msg)?;
    ensure!(node.wait(PATIENCE), "it wakes");
    ensure!(node.decisions(&one.node, one.request)? == []);
    // More of them than are kept do no harm either.
    place
        .psql_as(
            OWNER,
            "SELECT count(pg_notify('lockgate_decided', n::text)) FROM generate_series(1, 10000) AS n",
        )
        .map_err(anyhow::Error::msg)?;
    console.decide(&one.node, one.request, &says("ana", true))?;
    until("the decision is read", || {
        node.wait(Duration::from_millis(50));
        node.decisions(&one.node, one.request).is_ok_and(|said| said.len() == 1)
    })
}

#[test]
fn a_node_sees_no_other_node_s_requests() -> Result<()> {
    let (place, node, console) = both()?;
    place.enrol("web-1")?;
    node.ask(&asked(1, Duration::from_secs(600)))?;
    let other = Requests::connect(&place.address(&agent("web-1")))?;
    ensure!(other.waiting()?.is_empty() && node.waiting()?.len() == 1 && console.waiting()?.len() == 1);
    let forged =
        other.ask(&Asked { request: RequestId::from_parts(2, 2), ..asked(2, Duration::from_secs(600)) });
    ensure!(forged.is_err_and(|error| error.to_string().contains("row-level security")));
    let one = asked(1, Duration::from_secs(600));
    ensure!(other.end(&one.node, one.request, "withdrawn").is_err());
    ensure!(matches!(other.decide(&one.node, one.request, &says("thief", true)), Err(Refusal::Store(_))));
    ensure!(node.decide(&one.node, one.request, &says("the node itself", true)).is_err());
    Ok(())
}
