//! The listener that people log in by, with TLS: a real client, what browsers are told, a certificate that is renewed while the
//! agent runs, and what is not served at all.

use crate::world::{POLICY, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::{Agent, AgentOptions},
    certificate::{TestCa, TestCertificate},
    scratch::Scratch,
};
use std::{
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// A changed file is in force within a second; on a machine that is busy later.
const WITHIN: Duration = Duration::from_secs(60);

/// A certificate where the configuration names it, and the CA that clients trust.
struct Certified {
    scratch: Scratch,
    ca: TestCa,
}

impl Certified {
    fn new() -> Result<Self> {
        let this = Self { scratch: Scratch::new("listener")?, ca: TestCa::new("listener tests")? };
        std::fs::write(this.ca_file(), this.ca.pem())?;
        this.write(&this.issue()?)?;
        Ok(this)
    }

    fn issue(&self) -> Result<TestCertificate> {
        self.ca.issue(&["127.0.0.1", "localhost"])
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn ca_file(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// As a renewal does it: one file after the other.
    fn write(&self, made: &TestCertificate) -> Result<()> {
        std::fs::write(self.file("gate.key"), &made.key)?;
        Ok(std::fs::write(self.file("gate.crt"), &made.certificate)?)
    }

    /// What stands below `api:`.
    fn api(&self) -> String {
        let (certificate, key) = (self.file("gate.crt"), self.file("gate.key"));
        format!(
            "  public_url: \"https://127.0.0.1:PORT\"\n  tls: {{ certificate: {}, key: {} }}\n",
            certificate.display(),
            key.display()
        )
    }
}

async fn curl(ca: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--cacert"]).arg(ca).args(arguments);
    command.output().await.context("curl")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a handshake of this version gives: the certificate, or what was said instead.
async fn handshake(agent: &Agent, version: &str) -> Result<String> {
    let address = agent.api().replace("https://", "");
    let output = Command::new("openssl")
        // Otherwise the client itself would refuse the old ones, and prove nothing.
        .args(["s_client", "-connect", &address, version, "-cipher", "ALL:@SECLEVEL=0", "-showcerts"])
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .context("openssl")?;
    Ok(said(&output))
}

/// Waits until handshakes show this certificate.
async fn shown(agent: &Agent, made: &TestCertificate) -> Result<()> {
    let lines: String = made.certificate.lines().filter(|line| !line.contains("-----")).collect();
    let until = Instant::now() + WITHIN;
    loop {
        let got: String = handshake(agent, "-tls1_3").await?.lines().collect();
        if got.contains(&lines) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "another certificate is shown: {}", agent.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_by_tls_and_a_renewed_certificate_is_shown_without_a_restart() -> Result<()> {
    let certified = Certified::new()?;
    let (api, ca) = (certified.api(), certified.ca_file());
    let login = "login:\n  bootstrap: { groups: [dba] }\n".to_owned();
    let world = World::with(POLICY, |options, _| (options.api, options.extra) = (api, login)).await?;
    let agent = &world.agent;

    // What a browser is told: to stay with TLS, and to keep the cookie to this host and out of scripts.
    let page = said(&curl(&ca, &["--include", &format!("{}/login", agent.api())]).await?).to_lowercase();
    for told in [
        "http/1.1 200",
        "strict-transport-security: max-age=63072000",
        "x-frame-options: deny",
        "default-src 'none'",
    ] {
        ensure!(page.contains(told), "{told} is not told: {page}");
    }
    let jar = certified.file("jar");
    let jar = jar.display().to_string();
    let token = std::fs::read_to_string(agent.store().join("bootstrap.token"))?;
    let form = format!("token={}&next=/me", token.trim());
    let came = curl(
        &ca,
        &["--include", "--cookie-jar", &jar, "--data", &form, &format!("{}/login/bootstrap", agent.api())],
    )
    .await?;
    let came = said(&came);
    let set = came
        .lines()
        .find(|line| line.starts_with("set-cookie: __Host-lockgate="))
        .with_context(|| came.clone())?;
    for flag in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Secure"] {
        ensure!(set.contains(flag), "{flag}: {set}");
    }
    ensure!(!set.contains("Domain"), "{set}");
    let whoami = format!("{}/v1/whoami", agent.api());
    let me = said(&curl(&ca, &["--cookie", &jar, &whoami]).await?);
    ensure!(me.contains("bootstrap:admin") && me.contains("not for production"), "{me}");

    // In the clear it speaks to nobody, and nothing before TLS 1.2.
    let plain = agent.api().replace("https://", "http://");
    let plain = curl(&ca, &["--include", "--cookie", &jar, &format!("{plain}/v1/whoami")]).await?;
    ensure!(!plain.status.success() && !said(&plain).contains("HTTP/1.1"), "{}", said(&plain));
    for (version, welcome) in [("-tls1", false), ("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
        let got = handshake(agent, version).await?;
        ensure!(got.contains("BEGIN CERTIFICATE") == welcome, "{version}: {got}");
        // The server's own word, by an alert: a client that refuses by itself hears none.
        ensure!(welcome || got.contains("SSL alert number"), "{version} is not refused by us: {got}");
    }

    // Renewed: the next handshake shows the new one. A pair that does not fit changes nothing.
    let pid = agent.pid();
    let renewed = certified.issue()?;
    certified.write(&renewed)?;
    shown(agent, &renewed).await?;
    std::fs::write(certified.file("gate.key"), certified.issue()?.key)?;
    let until = Instant::now() + WITHIN;
    while !agent.log().contains("do not belong together") {
        ensure!(Instant::now() < until, "a wrong key is not told of: {}", agent.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shown(agent, &renewed).await?;
    certified.write(&renewed)?;
    let again = said(&curl(&ca, &["--cookie", &jar, &whoami]).await?);
    ensure!(again.contains("bootstrap:admin"), "the login is gone: {again}");
    ensure!(agent.pid() == pid, "another process answers");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_safely_is_refused_at_the_start() -> Result<()> {
    let certified = Certified::new()?;
    let other = certified.issue()?;
    std::fs::write(certified.file("other.key"), &other.key)?;
    std::fs::write(certified.file("empty.pem"), "")?;
    let path = |name: &str| certified.file(name).display().to_string();
    let tls = |certificate: &str, key: &str| {
        format!(
            "  public_url: \"https://127.0.0.1:PORT\"\n  tls: {{ certificate: {}, key: {} }}\n",
            path(certificate),
            path(key)
        )
    };
    for (name, api, told) in [
        ("another key", tls("gate.crt", "other.key"), "do not belong together"),
        ("no certificate", tls("empty.pem", "gate.key"), "expected a certificate in PEM"),
        ("no key", tls("gate.crt", "gate.crt"), "expected a private key in PEM"),
        ("no file", tls("gate.crt", "none.key"), "api.tls.key"),
    ] {
        let mut agent =
            Agent::prepare(&AgentOptions { api, policy: POLICY.to_owned(), ..AgentOptions::default() })?;
        let error = agent.launch().await.err().with_context(|| format!("{name}: it starts"))?;
        ensure!(format!("{error:#}").contains(told), "{name}: {error:#}");
    }
    for (name, listen, api, told) in [
        ("in the clear", "0.0.0.0:0", String::new(), "by plain HTTP"),
        (
            "a proxy from anywhere",
            "0.0.0.0:0",
            "  behind_proxy: true\n  public_url: \"https://gate.example.com\"\n".into(),
            "api.proxies",
        ),
    ] {
        let agent =
            Agent::prepare(&AgentOptions { api, policy: POLICY.to_owned(), ..AgentOptions::default() })?;
        let port = agent.api().replace("http://", "");
        let text = std::fs::read_to_string(agent.config())?.replace(&port, listen);
        ensure!(text.contains(listen), "{text}");
        std::fs::write(agent.config(), text)?;
        let mut agent = agent;
        let error = agent.launch().await.err().with_context(|| format!("{name}: it starts"))?;
        ensure!(format!("{error:#}").contains(told), "{name}: {error:#}");
    }
    Ok(())
}
