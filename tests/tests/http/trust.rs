//! `lockgate trust`: programs that verify what they connect to work through lockgate, by variables, in a container whose files
//! are covered from outside, and by the host's own store. Without, each of them refuses, as it should.

use crate::world::{POLICY, World, target};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    certificate::TestCa,
    job::{self, JOB_UID},
    origin::{Origin, Speaks},
};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

/// What reads no variable and brings no certificates along sees this.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

const PYTHON: &str = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())";
const NODE: &str = "fetch(process.argv[1]).then(a => a.text()).then(console.log, e => { console.error(e); process.exit(1) })";
const JAVA: &str = r#"
public class Get {
    public static void main(String[] arguments) throws Exception {
        try (var stream = new java.net.URL(arguments[0]).openStream()) {
            System.out.println(new String(stream.readAllBytes()));
        }
    }
}
"#;

/// A target over TLS with certificates of the CA `our.pem`.
async fn world() -> Result<(World, String)> {
    let ours = TestCa::new("lockgate trust test")?;
    let origin = Origin::start(Speaks::One, None).await?;
    let tls = "  client_tls: { ca: our.pem, ca_key: our.key, names: [localhost] }\n";
    let target = target("127.0.0.1", origin.port(), tls, "tls: disable");
    let world = World::on(origin, POLICY, target, |agent| {
        agent.scratch().write("our.pem", &ours.pem())?;
        agent.scratch().write("our.key", &ours.key_pem()).map(drop)
    })
    .await?;
    let url = format!("https://localhost:{}/hello", world.origin.port());
    Ok((world, url))
}

fn said(done: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_are_given_the_variables_trust_what_lockgate_shows_them() -> Result<()> {
    let (world, url) = world().await?;
    let directory = world.agent.scratch().path().join("trust");
    let directory = directory.display().to_string();
    let done = world.agent.cli(&["trust", "env", "--directory", &directory, "--output", "json"])?;
    ensure!(done.status.success(), "{}", said(&done));
    let variables: BTreeMap<String, String> = serde_json::from_slice(&done.stdout)?;
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let java = world.agent.scratch().write("Get.java", JAVA)?.display().to_string();
    for command in [
        vec!["curl", "-sS", "--noproxy", "*", &url],
        vec!["/usr/bin/python3", "-c", PYTHON, &url],
        vec!["node", "-e", NODE, &url],
        vec!["java", &java, &url],
    ] {
        let run = |variables: &[(&str, &str)]| {
            job::start(job::governed(&world.agent, JOB_UID, variables, &command))
        };
        let without = run(&[])?.done().await?;
        ensure!(without.code != Some(0), "{command:?} trusts anybody: {without:?}");
        let with = run(&variables)?.done().await?;
        ensure!(with.code == Some(0) && with.stdout.contains("GET /hello"), "{command:?}: {with:?}");
    }
    // For a shell, and a second time over what is there.
    let done = world.agent.cli(&["trust", "env", "--directory", &directory])?;
    let text = said(&done);
    ensure!(text.contains(&format!("export CURL_CA_BUNDLE='{directory}/bundle.pem'\n")), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_trusts_it_without_a_change_to_its_image() -> Result<()> {
    let (world, url) = world().await?;
    let host = fs::read(BUNDLE)?;
    let scratch = world.agent.scratch().path().display().to_string();
    let script = "echo $$ > $0/pid\n\
        curl -sS --noproxy '*' \"$1\"; echo curl $?\n\
        touch $0/first; while [ ! -e $0/go ]; do sleep 0.1; done\n\
        curl -sS --noproxy '*' \"$1\"; echo curl $?\n\
        /usr/bin/python3 -c \"$2\" \"$1\"; echo python $?\n\
        git ls-remote \"$1\" 2>&1; (echo x >> /etc/ssl/certs/ca-certificates.crt) 2>&1\n\
        touch $0/second; while [ ! -e $0/removed ]; do sleep 0.1; done\n\
        curl -sS --noproxy '*' \"$1\"; echo curl $?";
    let command =
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, &scratch, &url, PYTHON];
    let running = job::start(job::governed(&world.agent, 0, &[], &command))?;
    let appears = async |name: &str| {
        let path = Path::new(&scratch).join(name);
        for _ in 0..600 {
            if path.exists() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(anyhow::anyhow!("{name} did not come"))
    };
    appears("first").await?;
    let pid = fs::read_to_string(Path::new(&scratch).join("pid"))?.trim().to_owned();
    let done = world.agent.cli(&["trust", "mount", "--pid", &pid, "--output", "json"])?;
    ensure!(done.status.success(), "{}", said(&done));
    let told: Value = serde_json::from_slice(&done.stdout)?;
    ensure!(told["containers"] == 1 && told["paths"][0]["state"] == "changed", "{told}");
    // Again, and by its cgroup: there is nothing left to do.
    let cgroup = world.agent.governed_cgroup();
    let done = world.agent.cli(&["trust", "mount", "--cgroup", &cgroup, "--output", "json"])?;
    let told: Value = serde_json::from_slice(&done.stdout).with_context(|| said(&done))?;
    let states = told["paths"].as_array().context("paths")?;
    ensure!(states.iter().all(|row| row["state"] == "already"), "{told}");
    fs::write(Path::new(&scratch).join("go"), "")?;
    appears("second").await?;
    // A CA that came later lies in a second layer; what is removed is all of it.
    let other = world.agent.scratch().write("other.pem", &TestCa::new("another")?.pem())?;
    let other = other.display().to_string();
    let done = world.agent.cli(&["trust", "mount", "--pid", &pid, "--certificate", &other])?;
    ensure!(done.status.success() && said(&done).contains("changed"), "{}", said(&done));
    let done = world.agent.cli(&["trust", "mount", "--pid", &pid, "--remove"])?;
    ensure!(done.status.success() && said(&done).contains("changed"), "{}", said(&done));
    fs::write(Path::new(&scratch).join("removed"), "")?;
    let done = running.done().await?;
    let curls: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(curls, ["curl 60", "curl 0", "curl 60"], "{done:?}");
    assert!(done.stdout.contains("python 0"), "{done:?}");
    // git got an answer, which is no repository's.
    assert!(done.stdout.contains("is this a git repository"), "{done:?}");
    assert!(done.stdout.contains("Read-only file system"), "{done:?}");
    assert!(fs::read(BUNDLE)? == host, "the host's own bundle has changed");
    // What sees the host's files is no container.
    let own = std::process::id().to_string();
    let done = world.agent.cli(&["trust", "mount", "--pid", &own])?;
    assert!(!done.status.success() && said(&done).contains("lockgate trust system"), "{}", said(&done));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_s_store_gets_it_and_loses_it_again() -> Result<()> {
    let (world, _) = world().await?;
    let host = fs::read(BUNDLE)?;
    // In a mount namespace of its own, so that this machine's store stays as it is.
    let script = "set -e\n\
        for d in /etc/ssl/certs /usr/local/share/ca-certificates; do\n\
          cp -a $d $0/copy; mount -t tmpfs none $d; cp -a $0/copy/. $d/; rm -r $0/copy\n\
        done\n\
        $1 trust system --certificate $0/our.pem\n\
        openssl verify -CApath /etc/ssl/certs $0/our.pem\n\
        wc -c < /etc/ssl/certs/ca-certificates.crt\n\
        $1 trust system --remove\n\
        wc -c < /etc/ssl/certs/ca-certificates.crt\n\
        ls /usr/local/share/ca-certificates";
    let scratch = world.agent.scratch().path().display().to_string();
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, &scratch])
        .arg(world.agent.binary())
        .output()?;
    let text = said(&done);
    ensure!(done.status.success(), "{text}");
    ensure!(text.contains("added /usr/local/share/ca-certificates/lockgate-"), "{text}");
    ensure!(text.contains("our.pem: OK"), "{text}");
    ensure!(text.contains("removed /usr/local/share/ca-certificates/lockgate-"), "{text}");
    let sizes: Vec<usize> = text.lines().filter_map(|line| line.parse().ok()).collect();
    ensure!(sizes.len() == 2 && sizes[0] > sizes[1], "{text}");
    ensure!(fs::read(BUNDLE)? == host, "the machine's own store has changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_trusted_is_shown_and_no_key_with_it() -> Result<()> {
    let (world, _) = world().await?;
    let shown = said(&world.agent.cli(&["trust", "show"])?);
    assert!(shown.contains("lockgate trust test"), "{shown}");
    let pem = said(&world.agent.cli(&["trust", "show", "--pem"])?);
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && !pem.contains("PRIVATE"), "{pem}");
    let told: Value =
        serde_json::from_slice(&world.agent.cli(&["trust", "show", "--output", "json"])?.stdout)?;
    assert_eq!(told["authorities"][0]["sha256"].as_str().map(str::len), Some(64), "{told}");
    // A leaf is no CA, and a file of something else is told apart.
    let leaf = world.agent.scratch().write("leaf.pem", &TestCa::new("x")?.issue(&["a"])?.certificate)?;
    let done = world.agent.cli(&["trust", "show", "--certificate", &leaf.display().to_string()])?;
    assert!(!done.status.success() && said(&done).contains("is no CA"), "{}", said(&done));
    Ok(())
}
