//! Targets that are given by name: whatever address a governed process is told for it is protected before it hears of it.
//! A real name server (dnsmasq) in a namespace of its own answers.

use crate::harness::{Agent, Lab, PATIENCE, outcomes};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// dnsmasq on loopback of the test's namespace; ended when dropped.
struct NameServer(Child);

impl NameServer {
    /// Serves these `address=` and `host-record=` lines at 127.0.53.N:53.
    fn start(at: &str, records: &[&str]) -> Result<Self> {
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
                "--bind-interfaces",
            ])
            .args(["--user=root", "--pid-file=", "--local-ttl=30", "--log-facility=-"])
            .arg(format!("--listen-address={at}"))
            .args(records)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("dnsmasq (Debian package dnsmasq-base)")?;
        let server = Self(child);
        let start = Instant::now();
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        loop {
            let asked = socket.send_to(&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1], (at, 53));
            if asked.is_ok() && socket.recv(&mut [0; 512]).is_ok() {
                return Ok(server);
            }
            ensure!(start.elapsed() < PATIENCE, "dnsmasq does not answer at {at}");
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const NAME: &str = "orders-db.internal";

fn agent(lab: &Lab) -> Result<Agent> {
    lab.agent_with(json!({ "targets": ["192.0.2.1/32:5432"], "names": { NAME: [lab.server.port, 5432] } }))
}

/// An address of its own for each test's server: port 53 is shared.
fn place(lab: &Lab) -> String {
    let port = lab.server.port;
    format!("127.53.{}.{}", port >> 8, port & 0xff)
}

fn ask(lab: &Lab, cgroup: &Path, more: &[&str]) -> Result<serde_json::Value> {
    let server = format!("{}:53", place(lab));
    let mut arguments = vec!["ask", &server];
    arguments.extend(more);
    lab.client(cgroup, &arguments)?.pop().context("a line")
}

#[test]
fn an_address_is_protected_before_the_job_hears_of_it() -> Result<()> {
    let lab = Lab::new()?;
    // Of this host, so that what is not captured arrives.
    let _server = NameServer::start(
        &place(&lab),
        &[
            "--host-record=orders-db.internal,127.77.0.1",
            "--host-record=other.internal,127.77.0.9",
            "--address=/orders-db.internal/::1",
        ],
    )?;
    let mut agent = agent(&lab)?;
    let told = lab.server.at("127.77.0.1");
    // Without a word from the name server, nobody knows that address.
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &told])?), ["direct"]);
    // What others ask protects nothing, and neither do other names.
    assert_eq!(ask(&lab, &lab.outside(), &[NAME, "A"])?["outcome"], "heard");
    assert_eq!(ask(&lab, &lab.inside(), &["other.internal", "A"])?["outcome"], "heard");
    assert_eq!(agent.ask(json!({ "command": "learned" }))?, json!([]));
    // No moment between the answer and its protection: the job dials as soon as it has it.
    let line = ask(&lab, &lab.inside(), &["ORDERS-DB.Internal", "A", "then", &told])?;
    assert_eq!(line["outcome"], "proxy", "{line}");
    assert_eq!(agent.flow()?["flow"]["original_dst"], told.as_str());
    assert_eq!(agent.ask(json!({ "command": "learned" }))?, json!([format!("{NAME} 127.77.0.1")]));
    assert_eq!(outcomes(&lab.client(&lab.outside(), &["dial", &told])?), ["direct"]);
    let other = lab.server.at("127.77.0.9");
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &other])?), ["direct"]);
    Ok(())
}

#[test]
fn a_dead_agent_hears_names_all_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let _server = NameServer::start(&place(&lab), &["--host-record=orders-db.internal,127.78.0.1"])?;
    let mut agent = agent(&lab)?;
    agent.kill()?;
    let told = lab.server.at("127.78.0.1");
    let line = ask(&lab, &lab.inside(), &[NAME, "A", "then", &told])?;
    assert_eq!(line["outcome"], "refused", "{line}");
    Ok(())
}

#[test]
fn a_lying_name_server_adds_protection_up_to_a_bound_and_takes_none_away() -> Result<()> {
    let lab = Lab::new()?;
    // As many addresses as fit into an answer, again and again.
    let records: Vec<String> =
        (0..40).map(|host| format!("--host-record=orders-db.internal,127.79.0.{}", host + 1)).collect();
    let mut records: Vec<&str> = records.iter().map(String::as_str).collect();
    records.push("--host-record=empty.internal,127.79.1.1");
    let _server = NameServer::start(&place(&lab), &records)?;
    let mut agent = agent(&lab)?;
    for _ in 0..3 {
        let line = ask(&lab, &lab.inside(), &[NAME, "A"])?;
        assert!(line["outcome"] == "heard" || line["outcome"] == "silence", "{line}");
    }
    let learned = agent.ask(json!({ "command": "learned" }))?;
    ensure!(learned.as_array().is_some_and(|all| (1..=40).contains(&all.len())), "{learned}");
    // What is configured stays what it is, and so does what was learned.
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", "192.0.2.1:5432"])?), ["proxy"]);
    assert_eq!(agent.ask(json!({ "command": "targets", "targets": [] }))?, json!({}));
    assert_eq!(agent.ask(json!({ "command": "learned" }))?, learned);
    Ok(())
}
