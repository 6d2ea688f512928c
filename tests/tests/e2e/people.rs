//! People who log in: at a real OpenID provider and a real SAML provider, against a real agent with really held clients. They
//! see, decide as their groups allow, log out and are nobody again; the provider changes its keys meanwhile.
//!
//! The providers and the people are `tests/people/people.mjs`; this side holds clients for them and looks at the records.

use crate::world::{POLICY, World};
use anyhow::{Context, Result, bail, ensure};
use lockgate_tests::{
    installed::installed,
    scratch::{Scratch, free_port},
};
use serde_json::json;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// One step, on a machine that is busy.
const STEP_WITHIN: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_decide_and_log_out() -> Result<()> {
    let scratch = Scratch::new("people")?;
    let (key, certificate) = (scratch.path().join("idp.key"), scratch.path().join("idp.crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=idp", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .await?;
    ensure!(made.status.success(), "{made:?}");
    let (oidc, saml) = (free_port()?, free_port()?);
    let secret = scratch.write_secret("oidc.secret", "s3cret-s3cret-s3cret")?;
    let login = format!(
        "login:\n  providers:\n  - name: corp\n    oidc: {{ issuer: \"http://127.0.0.1:{oidc}\", client_id: lockgate, client_secret: {{ \
         file: {} }}, scopes: [profile, email, groups] }}\n  - name: adfs\n    saml: {{ entity_id: \"urn:test:idp\", sso_url: \
         \"http://127.0.0.1:{saml}/sso\", certificates: [{}], audience: \"urn:lockgate\", email_attribute: mail }}\n  \
         roles: {{ viewer: [staff] }}\n  groups: {{ dba: [dba] }}\n",
        secret.display(),
        certificate.display()
    );
    // People take longer than programs.
    let policy = POLICY.replace("timeout: 25s", "timeout: 20m");
    let world = World::with(&policy, |options, _| options.extra = login).await?;
    let given = json!({
        "url": world.agent.api(), "oidc_port": oidc, "saml_port": saml, "certificate": certificate, "key": key,
        "modules": installed("people/node_modules")?,
    });
    let mut people = People::new(&given)?;
    let mut held = None;
    let mut number = 0;
    while let Some(word) = people.wish().await? {
        match word.as_str() {
            "hold" => {
                number += 1;
                held = Some(world.start(&[&format!("alter table orders add column person_{number} text")])?);
                waits(&world).await?;
            }
            "decided" => {
                let done = held.take().context("nothing was held")?.done().await?;
                ensure!(done.code == Some(0) && done.stdout.contains("ALTER TABLE"), "{done:?}");
            }
            word => bail!("{word}"),
        }
        people.granted().await?;
    }
    let voters: Vec<String> = world.recorded("vote_cast", 2).await?.iter().map(ToString::to_string).collect();
    ensure!(voters.iter().any(|vote| vote.contains("oidc:corp:ana")), "{voters:?}");
    ensure!(voters.iter().any(|vote| vote.contains("saml:adfs:carl")), "{voters:?}");
    let access: String = world.recorded("access", 8).await?.iter().map(ToString::to_string).collect();
    for word in [
        "\"login\"",
        "\"logout\"",
        "\"login_refused\"",
        "bad_signature",
        "replayed",
        "other_browser",
        "role_required",
    ] {
        ensure!(access.contains(word), "{word} is not recorded: {access}");
    }
    ensure!(!access.contains("s3cret"), "a secret is recorded");
    Ok(())
}

/// What a login gives is what its provider says now, and what configuration says now: nobody logs in again for it.
#[tokio::test(flavor = "multi_thread")]
async fn rights_follow_the_provider_and_the_configuration_while_people_are_logged_in() -> Result<()> {
    let scratch = Scratch::new("people")?;
    let oidc = free_port()?;
    let secret = scratch.write_secret("oidc.secret", "s3cret-s3cret-s3cret")?;
    let provider = |name: &str| {
        format!(
            "  - name: {name}\n    oidc: {{ issuer: \"http://127.0.0.1:{oidc}\", client_id: lockgate, client_secret: {{ file: {} }}, \
             scopes: [profile, email, groups] }}\n",
            secret.display()
        )
    };
    let (corp, roles) = (provider("corp"), "roles: { viewer: [staff] }");
    let login = format!(
        "login:\n  providers:\n{corp}{}  {roles}\n  groups: {{ dba: [dba] }}\n  session: {{ reauthenticate: 30s }}\n",
        provider("spare")
    );
    let world = World::with(POLICY, |options, _| options.extra = login).await?;
    let pid = world.agent.pid();
    let given = json!({
        "url": world.agent.api(), "oidc_port": oidc, "modules": installed("people/node_modules")?, "scenario": "rights",
    });
    let mut people = People::new(&given)?;
    let edit = |from: &str, to: &str| -> Result<()> {
        let text = std::fs::read_to_string(world.agent.config())?;
        ensure!(text.contains(from), "{from} is not in {text}");
        Ok(std::fs::write(world.agent.config(), text.replace(from, to))?)
    };
    while let Some(word) = people.wish().await? {
        match word.as_str() {
            "roles" => edit(roles, "roles: { viewer: [staff], auditor: [staff] }")?,
            "remove" => edit(&corp, "")?,
            word => bail!("{word}: {}", world.agent.log()),
        }
        people.granted().await?;
    }
    ensure!(world.agent.pid() == pid, "another process answers");
    // Bob by his provider, ana by hers, bob by the configuration.
    let access: String = world.recorded("access", 8).await?.iter().map(ToString::to_string).collect();
    for word in
        ["\"renewed\"", "login is over", "its provider ended it", "is not configured any more", "\"logout\""]
    {
        ensure!(access.contains(word), "{word} is not recorded: {access}");
    }
    // Neither the log of the agent nor that of evidence holds what opens something.
    let written = world.agent.log() + &world.agent.log_text()?;
    for secret in ["eyJ", "s3cret", "stolen", "id_token", "refresh_token=", "lockgate="] {
        ensure!(!written.contains(secret), "{secret} is written down");
    }
    // A file that cannot be used is told of, and changes nothing.
    edit("login:\n", "login:\n  nonsense: 1\n")?;
    let until = std::time::Instant::now() + STEP_WITHIN;
    while !world.agent.log().contains("what was in force stays") {
        ensure!(std::time::Instant::now() < until, "{}", world.agent.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// `tests/people/people.mjs`: providers and those who log in at them.
struct People {
    _node: Child,
    said: Lines<BufReader<ChildStdout>>,
    answers: ChildStdin,
}

impl People {
    fn new(given: &serde_json::Value) -> Result<Self> {
        let mut node = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("people/people.mjs"))
            .arg(given.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("node")?;
        let said = BufReader::new(node.stdout.take().context("no standard output")?).lines();
        let answers = node.stdin.take().context("no standard input")?;
        Ok(Self { _node: node, said, answers })
    }

    /// What they want done next; None once they are done.
    async fn wish(&mut self) -> Result<Option<String>> {
        loop {
            let line = tokio::time::timeout(STEP_WITHIN, self.said.next_line())
                .await
                .context("the people do not get on")??;
            match line.context("the people are gone")?.strip_prefix("> ") {
                Some("done") => return Ok(None),
                Some(word) => return Ok(Some(word.to_owned())),
                None => {}
            }
        }
    }

    async fn granted(&mut self) -> Result<()> {
        Ok(self.answers.write_all(b"ok\n").await?)
    }
}

async fn waits(world: &World) -> Result<()> {
    let until = std::time::Instant::now() + STEP_WITHIN;
    loop {
        let listed = world.agent.json(&["approvals", "list"])?;
        let listed = ["approvals", "items"].iter().find_map(|name| listed[*name].as_array());
        if listed.is_some_and(|all| all.iter().any(|one| one["state"] == "pending")) {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < until, "nothing waits");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
