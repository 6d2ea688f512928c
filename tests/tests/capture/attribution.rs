//! Whose connection it is: right when the client has exited, has exec'd, has connected in another
//! thread, and never somebody else's because a pid was used again.

use crate::harness::{Client, Lab, PATIENCE};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    process::{Child, Command, Stdio},
    time::Instant,
};

fn process(flow: &Value) -> &Value {
    &flow["flow"]["process"]
}

/// Field 22 of `/proc/<pid>/stat`.
fn start_ticks(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').context("stat")?.1;
    Ok(rest.split_ascii_whitespace().nth(19).context("field 22")?.parse()?)
}

/// Kernel numbers of 64 bits may be written as text, so that no digit is lost.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[test]
fn hundreds_of_clients_that_have_exited_are_each_attributed() -> Result<()> {
    const CLIENTS: usize = 300;
    let lab = Lab::new()?;
    let mut agent = lab.agent_with(json!({ "hold": true, "attribute": true }))?;
    let address = lab.server.at("127.0.0.1");
    let mut by_local: HashMap<String, u64> = HashMap::new();
    for _ in 0..CLIENTS {
        let line = lab.client(&lab.inside(), &["hit-and-run", &address])?.pop().context("a line")?;
        by_local.insert(
            line["local"].as_str().context("local")?.to_owned(),
            line["pid"].as_u64().context("pid")?,
        );
    }
    agent.ask(json!({ "command": "accept" }))?;
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(lab.inside())?);
    for _ in 0..CLIENTS {
        let flow = agent.flow()?;
        let client = flow["flow"]["client"].as_str().context("client")?;
        let expected = by_local.remove(client).with_context(|| format!("nobody dialled from {client}"))?;
        assert_eq!(process(&flow)["tgid"].as_u64(), Some(expected));
        assert_eq!(number(&process(&flow)["cgroup_id"]), Some(inode));
        let workload = &flow["workload"];
        assert_eq!(workload["process"]["exited"], true);
        assert_eq!(workload["process"]["exe"], Value::Null);
        assert_eq!(workload["assurance"], "kernel");
        assert_eq!(workload["cgroup"], lab.governed().as_str());
    }
    assert_eq!(agent.counter("unattributed")?, 0);
    Ok(())
}

#[test]
fn a_living_client_is_read_through_proc() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent_with(json!({ "attribute": true }))?;
    let client = Client::start(&lab.inside(), None, &["linger", &lab.server.at("127.0.0.1")])?;
    client.line()?;
    let flow = agent.flow()?;
    let workload = &flow["workload"];
    assert_eq!(process(&flow)["tgid"], client.pid());
    let ticks = number(&process(&flow)["start_boottime_ns"]).context("start")? / 10_000_000;
    assert_eq!(ticks, start_ticks(client.pid())?);
    assert_eq!(workload["process"]["exited"], false);
    assert_eq!(workload["process"]["user"], "root");
    let hash = workload["process"]["exe_sha256"].as_str().context("a hash")?;
    assert_eq!(hash.len(), 64);
    assert_eq!(workload["process"]["ancestry"][0]["pid"], std::process::id());
    Ok(())
}

#[test]
fn a_client_that_execs_after_connect_is_still_itself() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent_with(json!({ "hold": true, "attribute": true }))?;
    let client = Client::start(&lab.inside(), None, &["exec", &lab.server.at("127.0.0.1")])?;
    client.line()?;
    let start = Instant::now();
    while !fs::read_link(format!("/proc/{}/exe", client.pid()))?.ends_with("sleep") {
        ensure!(start.elapsed() < PATIENCE, "no exec");
        std::thread::yield_now();
    }
    agent.ask(json!({ "command": "accept" }))?;
    let flow = agent.flow()?;
    assert_eq!(process(&flow)["tgid"], client.pid());
    assert_eq!(flow["workload"]["process"]["exited"], false);
    assert!(flow["workload"]["process"]["exe"].as_str().is_some_and(|exe| exe.ends_with("sleep")));
    Ok(())
}

#[test]
fn a_connect_in_a_second_thread_belongs_to_the_process() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent()?;
    let mut client = Client::start(&lab.inside(), None, &["thread", &lab.server.at("127.0.0.1")])?;
    let flow = agent.flow()?;
    assert_eq!(process(&flow)["tgid"], client.pid());
    assert_ne!(process(&flow)["tid"], client.pid());
    assert_eq!(process(&flow)["comm"], "second-thread");
    client.finish()?;
    Ok(())
}

#[test]
fn environment_facts_of_a_ci_job_are_claimed_and_change_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent_with(json!({ "attribute": true }))?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_capture_client"))
        .arg("--cgroup")
        .arg(lab.inside())
        .args(["linger", &lab.server.at("127.0.0.1")])
        .stdin(Stdio::piped())
        .envs([("GITHUB_ACTIONS", "true"), ("GITHUB_REPOSITORY", "acme/billing"), ("GITHUB_JOB", "migrate")])
        .stdout(Stdio::null())
        .spawn()?;
    let flow = agent.flow();
    child.kill()?;
    child.wait()?;
    let workload = &flow?["workload"];
    assert_eq!(workload["ci"]["repository"], "acme/billing");
    assert_eq!(workload["ci"]["assurance"], "claimed");
    assert_eq!(workload["kind"], "unknown");
    assert_eq!(workload["assurance"], "kernel");
    Ok(())
}

/// Starts `sleep` until one of them has this pid.
fn occupy(pid: u32) -> Result<Guard> {
    const ATTEMPTS: usize = 500;
    for _ in 0..ATTEMPTS {
        // Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN; another fork may come in between.
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
        let child = Guard(Command::new("sleep").arg("60").spawn()?);
        if child.0.id() == pid {
            return Ok(child);
        }
    }
    anyhow::bail!("pid {pid} could not be had in {ATTEMPTS} attempts")
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_reused_pid_is_never_taken_for_the_client() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent_with(json!({ "hold": true, "attribute": true }))?;
    let line =
        lab.client(&lab.inside(), &["hit-and-run", &lab.server.at("127.0.0.1")])?.pop().context("a line")?;
    let pid = u32::try_from(line["pid"].as_u64().context("pid")?)?;
    // The clock tick in which the client started has to be over for the start times to differ.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let other = occupy(pid)?;
    agent.ask(json!({ "command": "accept" }))?;
    let flow = agent.flow()?;
    assert_eq!(process(&flow)["tgid"], other.0.id());
    let shown = &flow["workload"]["process"];
    assert_eq!(shown["exited"], true, "{shown}");
    assert_eq!(shown["exe"], Value::Null);
    assert_eq!(shown["argv"], Value::Null);
    Ok(())
}

#[test]
fn lockgate_run_places_a_process_in_a_governed_cgroup_of_its_own() -> Result<()> {
    let lab = Lab::new()?;
    // Governed although `govern:` does not name it.
    let run = format!("{}/run", lab.governed());
    let mut agent = lab.agent_with(json!({ "run_cgroup": run, "cgroups": [] }))?;
    // Starts outside; the agent moves it.
    let address = lab.server.at("127.0.0.1");
    let mut client = Client::start(&lab.outside(), None, &["--wait", "dial", &address])?;
    client.line()?;
    let ticks = start_ticks(client.pid())?;
    let refused = agent.ask(json!({ "command": "place", "pid": client.pid(), "start_ticks": ticks + 1 }));
    assert!(refused.is_err_and(|error| error.to_string().contains("reused")));
    let placed = agent.ask(json!({ "command": "place", "pid": client.pid(), "start_ticks": ticks }))?;
    client.go()?;
    assert_eq!(client.line()?["outcome"], "proxy");
    let flow = agent.flow()?;
    assert_eq!(number(&process(&flow)["cgroup_id"]), placed["id"].as_u64());
    client.finish()?;
    let directory = lab.directory(placed["path"].as_str().context("path")?);
    let start = Instant::now();
    while directory.exists() {
        ensure!(start.elapsed() < PATIENCE, "an empty run cgroup stays behind");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn two_jobs_whose_processes_share_pids_are_never_confused() -> Result<()> {
    const PROCESSES: usize = 2000;
    let lab = Lab::new()?;
    let jobs = ["job-1", "job-2"].map(|name| lab.inside().join(name));
    for job in &jobs {
        fs::create_dir(job)?;
    }
    let inode = |path: &std::path::PathBuf| {
        Ok::<_, std::io::Error>(std::os::unix::fs::MetadataExt::ino(&fs::metadata(path)?))
    };
    let ids = [inode(&jobs[0])?, inode(&jobs[1])?];
    let mut agent = lab.agent_with(json!({ "attribute": true }))?;
    let mut storm = Command::new(env!("CARGO_BIN_EXE_capture_storm"))
        .args([&lab.server.at("127.0.0.1"), &PROCESSES.to_string()])
        .args(&jobs)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = storm.stdout.take().context("standard output")?;
    let told = std::thread::spawn(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(output)).map_while(Result::ok);
        lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok()).collect::<Vec<_>>()
    });
    let flows = (0..PROCESSES).map(|_| agent.flow()).collect::<Result<Vec<_>>>()?;
    let status = Guard(storm).0.wait()?;
    ensure!(status.success(), "the storm ended with {status}");
    let told = told.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    // Ports come round again, so flows are matched in order of each port.
    let mut owners: HashMap<&str, std::collections::VecDeque<usize>> = HashMap::new();
    for line in &told {
        let owner = usize::try_from(line["owner"].as_u64().context("owner")?)?;
        owners.entry(line["local"].as_str().context("local")?).or_default().push_back(owner);
    }
    let mut read = 0;
    for flow in &flows {
        let client = flow["flow"]["client"].as_str().context("client")?;
        let owner = owners.get_mut(client).and_then(std::collections::VecDeque::pop_front);
        let owner = owner.with_context(|| format!("nobody dialled from {client}"))?;
        assert_eq!(number(&process(flow)["cgroup_id"]), Some(ids[owner]), "{flow}");
        let workload = &flow["workload"];
        let own = format!("{}/job-{}", lab.governed(), owner + 1);
        assert_eq!(workload["cgroup"], own.as_str(), "{flow}");
        // What /proc adds is the process's own or absent.
        if let Some(directory) = workload["process"]["cwd"].as_str() {
            assert!(directory.ends_with(&own), "{directory} is not {own}");
            read += 1;
        }
    }
    assert!(read >= PROCESSES / 8, "only {read} of {PROCESSES} were read while they lived");
    let pids: std::collections::HashSet<_> = told.iter().map(|line| line["pid"].as_u64()).collect();
    assert_eq!(pids.len(), 2, "every pid was used again and again");
    assert_eq!(agent.counter("unattributed")?, 0);
    Ok(())
}
