//! Slack, mail and templates, with a really held psql: asked, decided, told. Slack is a stand-in that is as strict as the
//! documentation of its Web API; mail goes to a real server (aiosmtpd) by STARTTLS; PagerDuty and Mattermost are the bodies
//! that a receiver gets.

use crate::world::{POLICY, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    mail::MailServer,
    receiver::Decision,
    slack::{SIGNING, Slack, TEAM, TOKEN},
};
use serde_json::{Value, json};
use std::time::Duration;

const ALTER: &str = "alter table orders add column by_channel text";

/// A world whose `channels:` are these.
async fn world(policy: &str, channels: &str) -> Result<World> {
    World::with(policy, |options, pg| {
        let dir = pg.socket_dir();
        let _ = std::fs::write(dir.join("slack.token"), format!("{TOKEN}\n"));
        let _ = std::fs::write(dir.join("slack.signing"), SIGNING);
        options.extra = format!("channels:\n{}", channels.replace("DIR", &dir.display().to_string()));
    })
    .await
}

fn slack_channel(slack: &Slack, approvers: &str) -> String {
    format!(
        "- name: ops\n  kind: slack\n  bot_token: {{ file: DIR/slack.token }}\n  signing_secret: {{ file: DIR/slack.signing }}\n  \
         team: {TEAM}\n  channel: C0APPROVALS\n  group_channels: {{ dba: C0DBA }}\n  approvers: {{ dba: [{approvers}] }}\n  api_url: \"{}\"\n",
        slack.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn approved_by_slack_s_button_and_the_card_is_edited() -> Result<()> {
    let slack = Slack::start().await?;
    slack.member("U0ANA", "ana@example.com", json!({}));
    slack.limit(1, 1);
    let world = world(POLICY, &slack_channel(&slack, "U0ANA")).await?;
    let url = format!("{}/v1/channels/ops/slack", world.agent.api());
    let mut job = world.start(&[ALTER])?;
    let card = slack.card(ALTER).await?;
    ensure!(card.channel == "C0DBA", "the group's channel: {card:?}");
    for part in ["Approval needed", "orders-db (env: production", "schema-change-dba", "Alter table", "psql"]
    {
        ensure!(card.text().contains(part), "{part:?} is missing: {card:#?}");
    }
    ensure!(job.waits() && !world.target_saw(ALTER)?);

    // Somebody who is no approver, then a forgery, then Ana.
    slack.click("U0EVE", &card, "lockgate_approve").accepted(&url).await?;
    slack
        .wait_for("a whisper", |seen| seen.whispers.iter().any(|(user, _)| user == "U0EVE").then_some(()))
        .await?;
    let mut forged = slack.click("U0ANA", &card, "lockgate_approve");
    forged.secret = "another".to_owned();
    ensure!(forged.send(&url).await?.0 == 401);
    ensure!(job.waits() && !world.target_saw(ALTER)?);
    let click = slack.click("U0ANA", &card, "lockgate_approve");
    click.accepted(&url).await?;
    let done = job.done().await?;
    ensure!(done.code == Some(0) && done.stdout.contains("ALTER TABLE"), "{done:?}");
    ensure!(done.stderr.contains("slack:T0ACME:U0ANA"), "{done:?}");
    ensure!(click.send(&url).await?.0 == 409, "a repeat has no effect");
    let edited = slack
        .wait_for("the edited card", |seen| {
            seen.posted
                .iter()
                .find(|posted| posted.ts == card.ts && posted.text().contains("approved by"))
                .cloned()
        })
        .await?;
    ensure!(edited.button("lockgate_approve").is_none() && edited.edits > 0, "{edited:?}");
    let refused = slack.seen().refused;
    ensure!(refused.is_empty(), "Slack would have refused: {refused:?}");
    world.recorded("vote_cast", 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_statement_spoofs_neither_card_nor_letter() -> Result<()> {
    const HOSTILE: &str = "alter table orders add column \"<!channel> `Approve` <a href='http://evil.example'>\u{202e}x\r\nRisk: low\" text";
    let (slack, mail) = (Slack::start().await?, MailServer::start(&[])?);
    let world = world(POLICY, &(slack_channel(&slack, "U0ANA") + &mail.channel(""))).await?;
    let job = world.start(&[HOSTILE])?;
    let card = slack.card("U+202E").await?;
    ensure!(card.button("lockgate_deny").is_some(), "{card:?}");
    let letter = mail.wait_for(1).await?.remove(0);
    ensure!(letter.contains("X-Tls: True"), "{letter}");
    for forbidden in ["<!channel>", "<a href='http", "\u{202e}", "\nRisk: low\" text"] {
        let html = letter.split("text/html").nth(1).context("no HTML part")?;
        ensure!(!html.contains(forbidden), "{forbidden:?} is in {letter}");
    }
    let refused = slack.seen().refused;
    ensure!(refused.is_empty(), "Slack would have refused: {refused:?}");
    drop(job);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_reason_is_asked_for_and_a_denial_from_slack_ends_it() -> Result<()> {
    let policy = POLICY.replace("    timeout: 25s\n", "    timeout: 60s\n    require_reason: true\n");
    let slack = Slack::start().await?;
    let world = world(&policy, &slack_channel(&slack, "U0ANA")).await?;
    let url = format!("{}/v1/channels/ops/slack", world.agent.api());
    let job = world.start(&[ALTER])?;
    let card = slack.card(ALTER).await?;
    slack.click("U0ANA", &card, "lockgate_deny").accepted(&url).await?;
    slack.wait_for("the modal", |seen| (!seen.views.is_empty()).then_some(())).await?;
    slack.submit("U0ANA", "not in this window")?.accepted(&url).await?;
    let done = job.done().await?;
    ensure!(done.stderr.contains("not in this window"), "{done:?}");
    ensure!(!world.target_saw(ALTER)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_out_by_starttls_and_the_end_replies_to_it() -> Result<()> {
    let mail = MailServer::start(&["--reject", "gone@example.com"])?;
    let world =
        world(POLICY, &mail.channel("  group_to: { dba: [dba@example.com, gone@example.com] }\n")).await?;
    let job = world.start(&[ALTER])?;
    let first = mail.wait_for(1).await?.remove(0);
    for part in ["X-Tls: True", "X-To: dba@example.com", "Auto-Submitted: auto-generated", "/approvals/req_"]
    {
        ensure!(first.contains(part), "{part:?} is missing: {first}");
    }
    ensure!(!first.contains("token="), "a letter holds no token: {first}");
    let header = |letter: &str, name: &str| {
        letter.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()))
    };
    let id = header(&first, "Message-ID:").context("no Message-ID")?;
    let request = world.receiver.requested(ALTER).await?;
    Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
    job.done().await?;
    let last = mail.wait_for(2).await?.pop().context("a letter")?;
    ensure!(header(&last, "In-Reply-To:").as_deref() == Some(&*id), "{last}");
    ensure!(last.contains("Denied"), "{last}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_channels_delay_nobody_and_are_named() -> Result<()> {
    // One that hangs, one that refuses, one without TLS, one whose certificate nobody vouches for, one without a name.
    let hanging = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let (plain, unknown) = (MailServer::start(&["--no-tls"])?, MailServer::start(&[])?);
    let port = hanging.local_addr()?.port();
    let refusing = lockgate_tests::scratch::free_port()?;
    let webhook = |name: &str, url: &str| {
        format!("- name: {name}\n  kind: webhook\n  url: \"{url}\"\n  template: mattermost\n")
    };
    let strange = unknown.channel("").replace("name: mail", "name: untrusted");
    let strange: String =
        strange.lines().filter(|line| !line.contains("ca: ")).map(|line| format!("{line}\n")).collect();
    let channels = [
        webhook("hanging", &format!("http://127.0.0.1:{port}/")),
        webhook("refusing", &format!("http://127.0.0.1:{refusing}/")),
        webhook("nowhere", "http://no-such-host.invalid/"),
        plain.channel("").replace("name: mail", "name: plain"),
        strange,
    ]
    .concat();
    let world = world(POLICY, &channels).await?;
    let job = world.start(&[ALTER])?;
    let request = world.receiver.requested(ALTER).await?;
    let id = request.data()["request_id"].as_str().context("an id")?.to_owned();
    let began = std::time::Instant::now();
    let failed = |shown: &Value, name: &str| shown["notifications"][name]["last_error"].is_string();
    let names = ["webhook:refusing", "webhook:nowhere", "email:plain", "email:untrusted"];
    let shown = loop {
        let shown = world.agent.json(&["approvals", "show", &id])?;
        if names.iter().all(|name| failed(&shown, name)) {
            break shown;
        }
        ensure!(began.elapsed() < Duration::from_secs(20), "{shown:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    ensure!(shown["notifications"]["webhook:approvals"]["delivered"] == true, "{shown:#}");
    ensure!(plain.letters()?.is_empty() && unknown.letters()?.is_empty(), "no letter without verified TLS");
    Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    let done = job.done().await?;
    ensure!(done.code == Some(0), "{done:?}");
    drop(hanging);
    Ok(())
}
