//! Full tables, lost reports, hooks that root takes away: refused, counted, told.

use crate::harness::{Agent, Echo, Evader, Hook, Lab, Namespace};
use anyhow::Result;
use serde_json::json;
use std::time::{Duration, Instant};

/// The alarm's promise, and what a busy machine may add to it.
const ALARM_WITHIN: Duration = Duration::from_millis(1000 + 1000);

#[test]
fn a_socket_without_room_for_its_flow_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    // Newer kernels give more than one filter can take, and let each namespace choose.
    let namespace = Namespace::new("(echo 20480 > /proc/sys/net/core/optmem_max || true) 2> /dev/null")?;
    let agent = Agent::start_in(&namespace, &lab.request())?;
    let address = lab.server.at("127.0.0.1");
    for (filled, expected) in [(true, "refused"), (false, "done")] {
        let mut job = Evader::start_in(&namespace, &lab.outside())?;
        assert_eq!(job.act("socket 2 1 6")?, "done");
        if filled {
            job.act("fill")?;
        }
        job.act(&format!("join {}", lab.inside().display()))?;
        assert_eq!(job.act(&format!("dial-kept {address}"))?, expected, "filled: {filled}");
    }
    assert_eq!(agent.next("refused")?["reason"], "no_memory");
    Ok(())
}

#[test]
fn refusals_that_do_not_fit_into_the_ring_are_counted_and_told() -> Result<()> {
    // The ring has room for some three thousand.
    const DIALS: usize = 5000;
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    let mut job = Evader::start(&lab.inside())?;
    agent.signal("STOP")?;
    let outcome = job.act(&format!("dial 127.0.0.1:{} {DIALS}", agent.port));
    agent.signal("CONT")?;
    assert_eq!(outcome?, "EPERM");
    let lost = agent.next("lost")?["count"].as_u64().unwrap_or_default();
    assert!(lost > 0 && (lost as usize) < DIALS, "{lost}");
    let told = agent.next("refused")?;
    assert_eq!(told["reason"], "dials_proxy");
    assert!(agent.counter("refused")? >= DIALS as u64);
    Ok(())
}

#[test]
fn a_hook_that_root_takes_away_is_told_within_a_second_and_what_passes_is_found() -> Result<()> {
    let lab = Lab::new()?;
    let echo = Echo::start()?;
    let agent = lab.agent_with(json!({ "targets": [echo.target()] }))?;
    let mut job = Evader::start(&lab.inside())?;
    let start = Instant::now();
    lab.detach(Hook::Socket("lg_connect4"))?;
    let told = agent.next("hook_lost")?;
    assert!(start.elapsed() < ALARM_WITHIN, "told after {:?}", start.elapsed());
    assert_eq!((&told["what"], &told["repaired"]), (&json!("lg_connect4"), &json!(false)));
    // Now a connection may go by; the sweep finds and cuts it, where the packet filter has not stopped it.
    lab.detach(Hook::Packet)?;
    if job.act(&format!("connect {}", echo.address()))? == "done" {
        agent.next("bypass")?;
        assert_ne!(job.act("say")?, "ping");
    }
    Ok(())
}

#[test]
fn more_governed_sets_than_the_table_holds_are_refused_at_the_start() -> Result<()> {
    let lab = Lab::new()?;
    let uids: Vec<u32> = (100_000..104_097).collect();
    let error = lab.agent_with(json!({ "uids": uids })).err();
    let text = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("too_many") && text.contains("4096"), "{text}");
    assert!(!lab.is_pinned(), "a failed first attachment leaves no pins");
    Ok(())
}
