//! Targets that are given by name: whatever address a governed process is told for it is protected before it hears of it.
//! A real name server (dnsmasq) in a namespace of its own answers.

use crate::harness::{Agent, Client, Lab, PATIENCE, eventually, outcomes};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
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
    let line = ask(&lab, &lab.inside(), &["ORDERS-DB.Internal", "A", "udp", "then", &told])?;
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
    let line = ask(&lab, &lab.inside(), &[NAME, "A", "udp", "then", &told])?;
    assert_eq!(line["outcome"], "refused", "{line}");
    Ok(())
}

/// A name server of a job's own making: answers whatever it is asked with the addresses it is given, a few at a time.
struct Liar {
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Addresses in one answer.
const LIES: usize = 40;

impl Liar {
    fn start(at: &str) -> Result<Self> {
        let socket = UdpSocket::bind((at, 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = thread::spawn(move || {
            let (mut query, mut next) = ([0; 512], 0u32);
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, who)) = socket.recv_from(&mut query) else { continue };
                let _ = socket.send_to(&lie(&query[..length], &mut next), who);
            }
        });
        Ok(Self { address: format!("{at}:53"), stop, thread: Some(thread) })
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// RFC 1035, section 4.1: the question again, and records for addresses in 10.66.0.0/16 that nobody has had yet.
fn lie(query: &[u8], next: &mut u32) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[7] = LIES as u8;
    for _ in 0..LIES {
        // A pointer to the question's name, A, IN, no time to live, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 66, (*next >> 8) as u8, *next as u8]);
        *next += 1;
    }
    answer
}

#[test]
fn what_one_job_is_told_means_nothing_for_another() -> Result<()> {
    let lab = Lab::new()?;
    let _server = NameServer::start(&place(&lab), &["--host-record=orders-db.internal,127.80.0.1"])?;
    let mut agent = agent(&lab)?;
    let [liar, victim] = ["liar", "victim"].map(|name| lab.inside().join(name));
    fs::create_dir(&liar)?;
    fs::create_dir(&victim)?;
    // Another service of the same kind, that no target is registered for.
    let service = lab.server.at("127.80.0.1");
    let line = ask(&lab, &liar, &[NAME, "A", "udp", "then", &service])?;
    assert_eq!(line["outcome"], "proxy", "who was told is protected: {line}");
    for cgroup in [&victim, &lab.inside(), &lab.outside()] {
        assert_eq!(outcomes(&lab.client(cgroup, &["dial", &service])?), ["direct"], "{}", cgroup.display());
    }
    let line = ask(&lab, &victim, &[NAME, "A", "udp", "then", &service])?;
    assert_eq!(line["outcome"], "proxy", "{line}");
    assert_eq!(agent.ask(json!({ "command": "learned" }))?.as_array().map(Vec::len), Some(2));
    // A cgroup that is gone takes along what it was told.
    eventually("the liar's cgroup goes", || Ok(fs::remove_dir(&liar).is_ok()))?;
    assert_eq!(agent.ask(json!({ "command": "learned" }))?.as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn answers_over_tcp_are_heard_too() -> Result<()> {
    let lab = Lab::new()?;
    let _server = NameServer::start(
        &place(&lab),
        &[
            "--host-record=orders-db.internal,127.81.0.1,::ffff:127.81.0.2",
            "--host-record=other.internal,127.81.0.3",
        ],
    )?;
    let agent = agent(&lab)?;
    let told = [lab.server.at("127.81.0.1"), lab.server.at("127.81.0.2"), lab.server.at("127.81.0.3")];
    let server = format!("{}:53", place(&lab));
    let dial = |cgroup: &Path, name: &str| {
        let mut arguments = vec!["ask", &server, name, "A", "tcp", "then"];
        arguments.extend(told.iter().map(String::as_str));
        lab.client(cgroup, &arguments)
    };
    assert_eq!(outcomes(&dial(&lab.inside(), "other.internal")?), ["direct"; 3]);
    assert_eq!(outcomes(&dial(&lab.inside(), NAME)?), ["proxy", "proxy", "direct"]);
    assert_eq!(outcomes(&dial(&lab.outside(), NAME)?), ["direct"; 3]);
    drop(agent);
    Ok(())
}

#[test]
fn aliases_of_a_name_lead_to_its_addresses() -> Result<()> {
    let lab = Lab::new()?;
    let _server = NameServer::start(
        &place(&lab),
        &[
            "--cname=orders-db.internal,primary.internal",
            "--cname=primary.internal,node-7.internal",
            "--host-record=node-7.internal,127.82.0.1",
        ],
    )?;
    let _agent = agent(&lab)?;
    let line = ask(&lab, &lab.inside(), &[NAME, "A", "udp", "then", &lab.server.at("127.82.0.1")])?;
    assert_eq!(line["outcome"], "proxy", "{line}");
    Ok(())
}

#[test]
fn an_answer_that_nobody_asked_for_teaches_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = agent(&lab)?;
    let service = lab.server.at("127.83.0.1");
    let victim = Client::start(&lab.inside(), None, &["overhear", &service])?;
    let at: SocketAddr = victim.line()?["at"].as_str().context("an address")?.parse()?;
    // Somebody outside sends it from a name server's port.
    let spoofer = UdpSocket::bind((place(&lab).as_str(), 53))?;
    let mut answer = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    for label in NAME.split('.') {
        answer.push(label.len() as u8);
        answer.extend(label.bytes());
    }
    answer.extend([0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 83, 0, 1]);
    spoofer.send_to(&answer, at)?;
    assert_eq!(victim.line()?["outcome"], "direct");
    assert_eq!(agent.counter("unasked")?, 1);
    assert_eq!(agent.ask(json!({ "command": "learned" }))?, json!([]));
    Ok(())
}

#[test]
fn governed_users_are_heard_wherever_they_are() -> Result<()> {
    const GOVERNED: u32 = 61_234;
    const OTHER: u32 = 61_235;
    let lab = Lab::new()?;
    let _server = NameServer::start(&place(&lab), &["--host-record=orders-db.internal,127.84.0.1"])?;
    let _agent = lab.agent_with(json!({
        "cgroups": [], "uids": [GOVERNED], "targets": ["192.0.2.1/32:5432"], "names": { NAME: [lab.server.port] }
    }))?;
    let service = lab.server.at("127.84.0.1");
    let server = format!("{}:53", place(&lab));
    for (uid, expected) in [(OTHER, "direct"), (GOVERNED, "proxy"), (OTHER, "direct")] {
        let lines =
            lab.client_as(&lab.outside(), Some(uid), &["ask", &server, NAME, "A", "udp", "then", &service])?;
        assert_eq!(outcomes(&lines), [expected], "uid {uid}");
    }
    Ok(())
}

#[test]
fn what_was_told_outlives_the_agent() -> Result<()> {
    let lab = Lab::new()?;
    let _server = NameServer::start(&place(&lab), &["--host-record=orders-db.internal,127.85.0.1"])?;
    let mut first = agent(&lab)?;
    assert_eq!(ask(&lab, &lab.inside(), &[NAME, "A"])?["outcome"], "heard");
    first.kill()?;
    // A job that keeps the answer for long asks nobody again.
    let service = lab.server.at("127.85.0.1");
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &service])?), ["refused"]);
    let mut second = agent(&lab)?;
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &service])?), ["proxy"]);
    assert_eq!(second.ask(json!({ "command": "learned" }))?, json!([format!("{NAME} 127.85.0.1")]));
    second.kill()?;
    // A name that is no target's any more protects nothing.
    let mut third = lab.agent_with(json!({ "targets": ["192.0.2.1/32:5432"], "names": {} }))?;
    assert_eq!(third.ask(json!({ "command": "learned" }))?, json!([]));
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &service])?), ["direct"]);
    Ok(())
}

#[test]
fn a_job_that_fills_what_it_may_be_told_hears_no_more_and_others_do() -> Result<()> {
    const MAX_PER_CGROUP: usize = 512;
    let lab = Lab::new()?;
    let liar = Liar::start(&place(&lab))?;
    let mut agent = lab.agent_with(json!({ "names": { NAME: [5432] } }))?;
    let [flooded, other] = ["flooded", "other"].map(|name| lab.inside().join(name));
    fs::create_dir(&flooded)?;
    fs::create_dir(&other)?;
    let heard = |cgroup: &Path| lab.client(cgroup, &["ask", &liar.address, NAME, "A"]);
    for round in 0..MAX_PER_CGROUP / LIES {
        assert_eq!(outcomes(&heard(&flooded)?), ["heard"], "{round}");
    }
    assert_eq!(outcomes(&heard(&flooded)?), ["silence"]);
    assert_eq!(outcomes(&heard(&other)?), ["heard"]);
    let learned = agent.ask(json!({ "command": "learned" }))?;
    assert_eq!(learned.as_array().map(Vec::len), Some(MAX_PER_CGROUP + LIES));
    // What the first answer protected stays so.
    assert_eq!(agent.next("refused")?["reason"], "answer");
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
