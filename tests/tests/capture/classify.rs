//! New cgroups below a parent whose children are classified by name: refused, not passed, until they are. From the
//! job's side: it makes a cgroup, enters it and connects in the same breath, before anybody in user space has looked.

use crate::harness::{Agent, Evader, Lab, eventually};
use anyhow::{Result, ensure};
use serde_json::json;
use std::{fs, path::PathBuf};

/// Enough that the agent, which is told of each new directory, is ahead sometimes and behind most of the time.
const TIMES: usize = 60;

struct Slice {
    lab: Lab,
    directory: PathBuf,
}

impl Slice {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let directory = lab.directory(&lab.governed()).join("slice");
        // Not below what the lab governs by default: the request names the slice alone.
        fs::create_dir_all(&directory)?;
        Ok(Self { lab, directory })
    }

    fn agent(&self, more: serde_json::Value) -> Result<Agent> {
        let parent = format!("{}/slice", self.lab.governed());
        let mut request = json!({ "cgroups": [], "within": [[parent, "job-*.service"]] });
        if let (Some(all), Some(more)) = (request.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        self.lab.agent_with(request)
    }

    fn race(&self, job: &mut Evader, name: &str, address: &str, child: &str) -> Result<Vec<String>> {
        let (slice, home) = (self.directory.display(), self.lab.outside());
        let line = format!("race {slice} {name} {TIMES} {address} {} {child}", home.display());
        Ok(job.act(&line)?.split(' ').map(str::to_owned).collect())
    }
}

#[test]
fn a_job_in_a_new_cgroup_is_never_direct_and_others_are_never_redirected() -> Result<()> {
    let slice = Slice::new()?;
    let _agent = slice.agent(json!({}))?;
    let mut job = Evader::start(&slice.lab.outside())?;
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let address = slice.lab.server.at(address);
        for (name, child, allowed) in [
            ("job-*.service", "", ["refused", "proxy"]),
            ("job-*.service", "step", ["refused", "proxy"]),
            ("other-*.service", "", ["refused", "direct"]),
            ("other-*.service", "job-1.service", ["refused", "direct"]),
        ] {
            let outcomes = slice.race(&mut job, name, &address, child)?;
            ensure!(
                outcomes.iter().all(|outcome| allowed.contains(&outcome.as_str())),
                "{name}/{child} to {address}: {outcomes:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn once_classified_a_job_is_redirected_and_anybody_else_goes_on() -> Result<()> {
    let slice = Slice::new()?;
    let address = slice.lab.server.at("127.0.0.1");
    let old = slice.directory.join("old.service");
    fs::create_dir(&old)?;
    let mut long_lived = Evader::start(&old)?;
    let mut in_the_slice_itself = Evader::start(&slice.directory)?;
    let agent = slice.agent(json!({}))?;
    for job in [&mut long_lived, &mut in_the_slice_itself] {
        assert_eq!(job.act(&format!("ask {address}"))?, "direct", "what was there before never waits");
    }
    for (name, expected) in [("job-1.service", "proxy"), ("other.service", "direct")] {
        let directory = slice.directory.join(name);
        fs::create_dir(&directory)?;
        let mut job = Evader::start(&directory)?;
        eventually(name, || Ok(job.act(&format!("ask {address}"))? == expected))?;
        // And it stays so.
        for _ in 0..20 {
            assert_eq!(job.act(&format!("ask {address}"))?, expected, "{name}");
        }
    }
    drop(agent);
    let mut other = Evader::start(&slice.directory.join("other.service"))?;
    assert_eq!(other.act(&format!("ask {address}"))?, "direct", "without the agent too");
    // Without an agent nobody classifies: what is new stays refused.
    let mut job = Evader::start(&slice.lab.outside())?;
    assert_eq!(slice.race(&mut job, "job-*.service", &address, "")?, ["refused"]);
    assert_eq!(slice.race(&mut job, "other-*.service", &address, "")?, ["refused"]);
    Ok(())
}

#[test]
fn a_dead_agent_that_comes_back_classifies_what_was_made_meanwhile() -> Result<()> {
    let slice = Slice::new()?;
    let address = slice.lab.server.at("127.0.0.1");
    let mut agent = slice.agent(json!({}))?;
    agent.kill()?;
    let mut jobs = Vec::new();
    for (name, expected) in [("job-1.service", "proxy"), ("other.service", "direct")] {
        let directory = slice.directory.join(name);
        fs::create_dir(&directory)?;
        let mut job = Evader::start(&directory)?;
        assert_eq!(job.act(&format!("ask {address}"))?, "refused", "{name}");
        assert_eq!(job.act("socket 2 3 255")?, "EPROTONOSUPPORT", "{name}: no raw socket meanwhile");
        jobs.push((job, name, expected));
    }
    let _agent = slice.agent(json!({}))?;
    for (mut job, name, expected) in jobs {
        eventually(name, || Ok(job.act(&format!("ask {address}"))? == expected))?;
    }
    Ok(())
}

#[test]
fn what_a_waiting_cgroup_asks_for_is_told() -> Result<()> {
    let slice = Slice::new()?;
    let agent = slice.agent(json!({}))?;
    let mut job = Evader::start(&slice.lab.outside())?;
    agent.signal("STOP")?;
    let address = slice.lab.server.at("127.0.0.1");
    let outcomes = slice.race(&mut job, "job-*.service", &address, "");
    agent.signal("CONT")?;
    assert_eq!(outcomes?, ["refused"], "nobody could classify it");
    assert_eq!(agent.next("refused")?["reason"], "unclassified");
    Ok(())
}
