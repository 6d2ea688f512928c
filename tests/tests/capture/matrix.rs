//! Every way around capture that a job can try by itself, against every layer: with all of them, and with each one
//! alone. The table of the threat model says which layer stops what; here it has to be so, and without any layer every
//! attempt has to arrive, so that none is stopped by accident.
//!
//! A host and a pod, joined by a veth pair; the service is on the host, the job in the pod, as root, as root with a
//! container's default capabilities, and as a user.

use crate::harness::{Agent, Hook, Lab, Namespace, Speaker, eventually};
use anyhow::{Context as _, Result, ensure};
use lockgate_intercept::{Layer, TECHNIQUES, Technique};
use lockgate_tests::matrix::{
    ATTEMPTS, Attempt, Evidence, HOST_INTERFACE, HOST_MAC, Mode, POD_INTERFACE, POD_V4, PORT, TARGET_6TO4,
    TARGET_NAT64, TARGET_V4, TARGET_V6, TUNNEL_V4, slowness,
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

/// What is dropped does not arrive later either; a datagram between two namespaces takes no time at all.
const QUIET: Duration = Duration::from_millis(300);

/// Rows that no single job can try in this network, and where they are tried.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "raw or other sockets made in the governed cgroup before the agent started",
        "belts::a_raw_socket_from_before_the_agent",
    ),
    ("a socket made elsewhere, connected here; made here, connected elsewhere", "passing"),
    ("reuse of a redirected socket for another dial", "bypass::a_disconnected_socket"),
    ("dialling the listener by hand; listening in its place", "passing"),
    ("another network namespace", "this one: the job's is not the agent's"),
    (
        "a connection made in the governed cgroup before the agent started",
        "belts::connections_from_before_the_agent",
    ),
    ("a connection made elsewhere and inherited", "belts, guest"),
    ("a connection made elsewhere and received (SCM_RIGHTS, pidfd_getfd)", "guest"),
    ("a raw or packet socket made elsewhere, inherited or received", "guest"),
    (
        "AF_PACKET past the queueing discipline or AF_XDP on the host's own interface",
        "guest: the families cannot be opened",
    ),
    ("leaving the governed cgroup (cgroup.procs, CLONE_INTO_CGROUP)", "passing, interfaces"),
    (
        "somebody outside the governed set who connects for the job (a forwarder, a container engine, cron, a traced process)",
        "interfaces::out_of_the_host",
    ),
    ("AF_VSOCK and other families that leave the machine", "guest"),
];

/// Forms that BPF LSM stops by itself although it does not stop their row: it sees the destination of a connected socket
/// when it sends, and refuses to send by raw sockets, UDP-Lite and MPTCP that the socket hooks did not see made.
const STOPPED_BY_LSM_TOO: &[&str] = &[
    "tcp-fast-open-connect",
    "udp-connected",
    "udp-reconnected",
    "io-uring-connected-send",
    "udp-lite",
    "mptcp-fast-open",
    "raw-v4-with-header",
    "raw-v4-udp",
    "raw-v6-udp",
];
/// A family of its own before Linux 6.11, which LSM refuses, and a protocol of AF_INET since, which it does not look at.
const STOPPED_BY_LSM_PERHAPS: &str = "smc";

struct Field {
    lab: Lab,
    host: Namespace,
    pod: Namespace,
    service: Speaker,
    rounds: u32,
}

/// What came of each attempt: whether the service was reached, and what the job saw.
type Outcomes = BTreeMap<(Mode, &'static str), (bool, String)>;

impl Field {
    fn new() -> Result<Self> {
        let (lab, host, pod) = (Lab::new()?, Namespace::new("true")?, Namespace::new("true")?);
        let mac = HOST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        let forms: String = [TARGET_V6, TARGET_NAT64, TARGET_6TO4]
            .iter()
            .map(|ip| format!("ip address add {ip}/64 dev {HOST_INTERFACE} nodad && "))
            .collect();
        host.run(&format!(
            "ip link add {HOST_INTERFACE} address {mac} type veth peer name {POD_INTERFACE} && \
             ip link set {POD_INTERFACE} netns {} && ip address add {TARGET_V4}/24 dev {HOST_INTERFACE} && {forms}\
             ip link set {HOST_INTERFACE} up && ip route add {TUNNEL_V4}/32 via {POD_V4}",
            pod.holder()
        ))?;
        pod.run(&format!(
            "ip address add {POD_V4}/24 dev {POD_INTERFACE} && ip link set {POD_INTERFACE} up && \
             ip address add fd77::2/64 dev {POD_INTERFACE} nodad && \
             ip route add {TARGET_NAT64}/64 dev {POD_INTERFACE} && ip route add {TARGET_6TO4}/64 dev {POD_INTERFACE} && \
             true"
        ))?;
        // Whoever asks with data in the SYN gets it taken, cookie or not.
        host.run("echo 1539 > /proc/sys/net/ipv4/tcp_fastopen")?;
        pod.run("echo 1543 > /proc/sys/net/ipv4/tcp_fastopen")?;
        let mut serve = host.command(env!("CARGO_BIN_EXE_capture_matrix"));
        let service = Speaker::start(serve.arg("serve"))?;
        ensure!(service.line()?["event"] == "ready", "the service");
        let field = Self { lab, host, pod, service, rounds: 0 };
        // IPv6 needs a moment of its own before the first packet goes.
        eventually("the pair is up", || {
            Ok(field.pod.run(&format!("ping -6 -c 1 -W 1 {TARGET_V6} > /dev/null 2>&1")).is_ok()
                || field
                    .pod
                    .run(&format!("ip -6 neigh show > /dev/null && ip -6 route get {TARGET_V6} > /dev/null"))
                    .is_ok())
        })?;
        Ok(field)
    }

    fn agent(&self) -> Result<Agent> {
        let mut request = self.lab.request();
        request["targets"] = json!([format!("{TARGET_V4}/32:{PORT}"), format!("[{TARGET_V6}]/128:{PORT}")]);
        request["quiet"] = json!(true);
        Agent::start_in(&self.host, &request)
    }

    /// One job for each mode tries everything once, all of them at the same time.
    fn round(&mut self, cgroup: &Path) -> Result<Outcomes> {
        self.rounds += 1;
        let mark = format!("round-{}", self.rounds);
        let mut jobs = Vec::new();
        for mode in Mode::ALL {
            let mut command = self.pod.command(env!("CARGO_BIN_EXE_capture_matrix"));
            let job = Speaker::start(command.arg("try").arg(cgroup).arg(mode.as_str()))?;
            jobs.push((mode, job));
        }
        for (mode, job) in &mut jobs {
            let line = job.line().with_context(|| format!("{mode:?}"))?;
            ensure!(line["event"] == "ready", "{line}");
            job.say(&mark)?;
        }
        let mut told = BTreeMap::new();
        for (mode, job) in &jobs {
            told.insert(*mode, job.line()?["outcomes"].clone());
        }
        let heard = self.heard(&mark)?;
        let mut outcomes = Outcomes::new();
        for (mode, attempt) in tried() {
            let saw = told[&mode][attempt.name].as_str().unwrap_or("nothing").to_owned();
            let reached = match attempt.evidence {
                Evidence::Answer => saw == "direct",
                Evidence::Heard => heard.contains(&format!("{mark}/{}/{}", mode.as_str(), attempt.name)),
            };
            outcomes.insert((mode, attempt.name), (reached, saw));
        }
        Ok(outcomes)
    }

    /// The marks that the service has heard, once nothing more comes.
    fn heard(&mut self, mark: &str) -> Result<BTreeSet<String>> {
        let mut before = BTreeSet::new();
        loop {
            std::thread::sleep(QUIET * slowness());
            self.service.say(mark)?;
            let now: BTreeSet<String> = serde_json::from_value(self.service.line()?["marks"].clone())?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }
}

fn tried() -> impl Iterator<Item = (Mode, &'static Attempt)> {
    Mode::ALL.into_iter().flat_map(|mode| {
        ATTEMPTS
            .iter()
            .filter(move |attempt| attempt.modes.contains(&mode))
            .map(move |attempt| (mode, attempt))
    })
}

fn row(attempt: &Attempt) -> Result<&'static Technique> {
    TECHNIQUES.iter().find(|technique| technique.what == attempt.row).context("a row of the table")
}

/// Everything wrong at once: a table with one wrong line is read faster than it is run again.
fn differences(outcomes: &Outcomes, expected: impl Fn(&Attempt) -> Option<bool>) -> Vec<String> {
    let wrong = tried().filter_map(|(mode, attempt)| {
        let (reached, saw) = outcomes.get(&(mode, attempt.name))?;
        let expected = expected(attempt)?;
        (*reached != expected).then(|| {
            let verb = if *reached { "reached the service" } else { "did not reach the service" };
            format!("{} as {}: {verb} ({saw})", attempt.name, mode.as_str())
        })
    });
    wrong.collect()
}

#[test]
fn every_way_around_is_stopped_by_each_layer_that_says_so_and_by_nothing_else() -> Result<()> {
    let mut field = Field::new()?;
    let (inside, outside) = (field.lab.inside(), field.lab.outside());
    let free = field.round(&outside)?;
    let missing: Vec<String> = differences(&free, |attempt| (!attempt.optional).then_some(true));
    ensure!(missing.is_empty(), "without an agent these do not arrive: {missing:#?}");
    // What this kernel does not have cannot be stopped.
    let exists =
        |attempt: &Attempt| free.iter().any(|((_, name), (reached, _))| *name == attempt.name && *reached);
    let absent: Vec<&str> =
        ATTEMPTS.iter().filter(|attempt| !exists(attempt)).map(|attempt| attempt.name).collect();
    println!("not on this kernel: {absent:?}");

    // All layers but the interface filter, which is an option, with a living agent: redirected, or stopped.
    let mut agent = field.agent()?;
    let lsm = agent.has("lsm");
    let _sandbox = Speaker::start(
        field.pod.command(env!("CARGO_BIN_EXE_capture_matrix")).arg("try").arg(&inside).arg("user"),
    )?;
    eventually("a listener in the pod", || Ok(agent.ask(json!({ "command": "namespaces" }))? == 1))?;
    let outcomes = field.round(&inside)?;
    let always = |layers: &[Layer], attempt: &Attempt| -> Option<bool> {
        let technique = row(attempt).ok()?;
        exists(attempt).then(|| !technique.stopped_by.iter().any(|layer| layers.contains(layer)))
    };
    let mut active = vec![Layer::Socket, Layer::Packet, Layer::Sweep];
    active.extend(lsm.then_some(Layer::Lsm));
    ensure_none(
        "with every layer but the interface filter",
        &differences(&outcomes, |attempt| always(&active, attempt)),
    )?;
    for (mode, attempt) in tried().filter(|(mode, attempt)| is_redirected(*mode, attempt)) {
        let (_, saw) = &outcomes[&(mode, attempt.name)];
        ensure!(saw == "proxy", "{} as {}: {saw}, and not redirected", attempt.name, mode.as_str());
    }
    // The same when the agent is dead.
    agent.kill()?;
    let outcomes = field.round(&inside)?;
    ensure_none("with a dead agent", &differences(&outcomes, |attempt| always(&active, attempt)))?;

    // Each layer alone, and none.
    for only in [Some(Layer::Socket), Some(Layer::Packet), Some(Layer::Lsm), Some(Layer::Interface), None] {
        if only == Some(Layer::Lsm) && !lsm {
            continue;
        }
        let mut agent = field.agent()?;
        if only == Some(Layer::Interface) {
            let guard = json!({ "command": "guard", "interface": HOST_INTERFACE, "direction": "in" });
            if let Err(error) = agent.ask(guard) {
                // TCX came with Linux 6.6.
                ensure!(error.to_string().contains("6.6"), "{error}");
                agent.kill()?;
                field.lab.detach_all()?;
                continue;
            }
        }
        agent.kill()?;
        for (layer, hook) in
            [(Layer::Socket, Hook::Sockets), (Layer::Packet, Hook::Packet), (Layer::Lsm, Hook::Lsm)]
        {
            if only != Some(layer) {
                field.lab.detach(hook)?;
            }
        }
        let outcomes = field.round(&inside)?;
        let alone: Vec<Layer> = only.into_iter().collect();
        let what =
            only.map_or("without any layer".to_owned(), |layer| format!("with the {} alone", layer.as_str()));
        let expected = |attempt: &Attempt| match only {
            Some(Layer::Lsm) if attempt.name == STOPPED_BY_LSM_PERHAPS => None,
            Some(Layer::Lsm) if STOPPED_BY_LSM_TOO.contains(&attempt.name) => {
                exists(attempt).then_some(false)
            }
            _ => always(&alone, attempt),
        };
        ensure_none(&what, &differences(&outcomes, expected))?;
        field.lab.detach_all()?;
    }
    Ok(())
}

/// Connections that have to arrive at the proxy, not only nowhere else. Who may bind a socket to a device and not free
/// it again (no CAP_NET_RAW) gets no connection at all.
fn is_redirected(mode: Mode, attempt: &Attempt) -> bool {
    let bound = mode == Mode::User && attempt.name == "tcp-bound-to-device";
    (attempt.name.starts_with("tcp-") || attempt.name.starts_with("io-uring-connect-")) && !bound
}

fn ensure_none(what: &str, wrong: &[String]) -> Result<()> {
    ensure!(wrong.is_empty(), "{what}: {wrong:#?}");
    Ok(())
}

#[test]
fn every_row_of_the_threat_model_is_tried_here_or_in_a_test_that_is_named() {
    for technique in TECHNIQUES {
        let here = ATTEMPTS.iter().any(|attempt| attempt.row == technique.what);
        let elsewhere = ELSEWHERE.iter().any(|(row, _)| *row == technique.what);
        assert!(here != elsewhere, "{}: here {here}, elsewhere {elsewhere}", technique.what);
    }
}
