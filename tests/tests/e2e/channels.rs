//! Slack, mail and templates, with a really held psql: asked, decided, told. Slack is a stand-in that is as strict as the
//! documentation of its Web API; mail goes to a real server (aiosmtpd) by STARTTLS; PagerDuty and Mattermost are the bodies
//! that a receiver gets.

use crate::world::{POLICY, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    hooks::{Hooks, ROUTING_KEY},
    mail::MailServer,
    receiver::Decision,
    slack::{SIGNING, Slack, TEAM, TOKEN},
};
use serde_json::{Value, json};
use std::time::Duration;

const ALTER: &str = "alter table orders add column by_channel text";

/// A world whose `channels:` are these; root decides for the DBAs at the command line.
pub(crate) async fn world(policy: &str, channels: &str) -> Result<World> {
    world_with(policy, channels, "").await
}

/// The same, with more configuration.
async fn world_with(policy: &str, channels: &str, more: &str) -> Result<World> {
    World::with(policy, |options, pg| {
        let dir = pg.socket_dir();
        let _ = std::fs::write(dir.join("slack.token"), format!("{TOKEN}\n"));
        let _ = std::fs::write(dir.join("slack.signing"), SIGNING);
        options.local_approvers = vec![(0, vec!["dba".to_owned()])];
        options.extra = format!("channels:\n{}{more}", channels.replace("DIR", &dir.display().to_string()));
    })
    .await
}

pub(crate) fn slack_channel(slack: &Slack, approvers: &str) -> String {
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

/// Waits until the card of this posting says so, has no buttons any more, and was edited, not posted anew.
async fn ended(slack: &Slack, card: &lockgate_tests::slack::Posted, says: &[&str]) -> Result<()> {
    let edited = slack
        .wait_for(&says.join(", "), |seen| {
            let mut posted = seen.posted.iter().filter(|posted| posted.ts == card.ts);
            posted.find(|posted| says.iter().all(|part| posted.text().contains(part))).cloned()
        })
        .await?;
    for action in ["lockgate_approve", "lockgate_deny"] {
        ensure!(edited.button(action).is_none(), "{action} is still there: {edited:#?}");
    }
    ensure!(edited.edits > 0 && edited.channel == card.channel, "{edited:?}");
    let seen = slack.seen();
    ensure!(seen.posted.len() == 1, "one card, edited in place: {:#?}", seen.posted);
    ensure!(seen.refused.is_empty(), "Slack would have refused: {:?}", seen.refused);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_cast_elsewhere_edits_the_card_and_a_late_click_is_answered() -> Result<()> {
    let slack = Slack::start().await?;
    slack.member("U0ANA", "ana@example.com", json!({}));
    // Whatever it wants to hear of: a card follows its request.
    let only_calls = slack_channel(&slack, "U0ANA") + "  events: [lockgate.approval.requested]\n";
    let world = world(POLICY, &only_calls).await?;
    let url = format!("{}/v1/channels/ops/slack", world.agent.api());
    let job = world.start(&[ALTER])?;
    let card = slack.card(ALTER).await?;
    let request = world.receiver.requested(ALTER).await?;
    let id = request.data()["request_id"].as_str().context("an id")?.to_owned();
    let voted = world.agent.cli(&["approvals", "approve", &id, "--reason", "seen at the terminal"])?;
    ensure!(voted.status.success(), "{voted:?}");
    let done = job.done().await?;
    ensure!(done.code == Some(0), "{done:?}");
    ended(&slack, &card, &["approved by local:0", "seen at the terminal"]).await?;
    // Somebody has the card open as it was: the click comes when all is over.
    for action in ["lockgate_approve", "lockgate_deny"] {
        slack.click("U0ANA", &card, action).accepted(&url).await?;
    }
    slack
        .wait_for("two whispers", |seen| {
            let clear = |text: &str| text.contains("does not count") && text.contains("approved");
            let answers = seen.whispers.iter().filter(|(user, text)| user == "U0ANA" && clear(text));
            (answers.count() == 2).then_some(())
        })
        .await?;
    world.recorded("vote_cast", 1).await?;
    ensure!(world.events("vote_cast")?.len() == 1, "no click counted");
    ended(&slack, &card, &["approved by local:0"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_of_a_webhook_a_withdrawal_and_a_timeout_edit_the_card() -> Result<()> {
    for (statement, end, says) in [
        (ALTER, "deny", &["Denied", "denied by webhook:approvals:bo@example.com"][..]),
        (ALTER, "withdraw", &["Cancelled by the client"]),
        ("truncate orders", "wait", &["Expired, nobody decided in time"]),
    ] {
        let slack = Slack::start().await?;
        slack.member("U0ANA", "ana@example.com", json!({}));
        let world = world(POLICY, &slack_channel(&slack, "U0ANA")).await?;
        let url = format!("{}/v1/channels/ops/slack", world.agent.api());
        let job = world.start(&[statement])?;
        let card = slack.card(statement).await?;
        match end {
            "deny" => {
                let request = world.receiver.requested(statement).await?;
                Decision::on(&request, "deny", "bo@example.com", &["dba"]).accepted().await?;
                job.done().await?;
            }
            "withdraw" => {
                job.signal(nix::sys::signal::Signal::SIGKILL)?;
                job.done().await?;
            }
            _ => drop(job.done().await?),
        }
        ended(&slack, &card, says).await.with_context(|| end.to_owned())?;
        slack.click("U0ANA", &card, "lockgate_approve").accepted(&url).await?;
        slack
            .wait_for("a whisper", |seen| {
                seen.whispers.iter().any(|(_, text)| text.contains("does not count")).then_some(())
            })
            .await?;
        ensure!(world.events("vote_cast")?.len() == usize::from(end == "deny"), "{end}");
        ensure!(!world.target_saw(statement)?, "{end}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escalation_asks_the_next_group_and_edits_the_first_card() -> Result<()> {
    let stages = "    stages: [{ at: 0m, from: { group: dba }, need: 1 }, { at: 2s, from: { group: oncall }, need: 1 }]\n    timeout: 120s\n";
    let policy =
        POLICY.replace("    stages: [{ at: 0m, from: { group: dba }, need: 1 }]\n    timeout: 25s\n", stages);
    ensure!(policy.contains("oncall }, need"), "the policy was changed");
    let slack = Slack::start().await?;
    slack.member("U0OLA", "ola@example.com", json!({}));
    let channel = slack_channel(&slack, "U0ANA")
        .replace("group_channels: { dba: C0DBA }", "group_channels: { dba: C0DBA, oncall: C0ONCALL }")
        .replace("approvers: { dba: [U0ANA] }", "approvers: { dba: [U0ANA], oncall: [U0OLA] }");
    let world = world(&policy, &channel).await?;
    let url = format!("{}/v1/channels/ops/slack", world.agent.api());
    let job = world.start(&[ALTER])?;
    let first = slack.card(ALTER).await?;
    ensure!(first.channel == "C0DBA", "{first:?}");
    let second = slack
        .wait_for("the next group's card", |seen| {
            seen.posted.iter().find(|posted| posted.channel == "C0ONCALL").cloned()
        })
        .await?;
    ensure!(second.text().contains("escalated") && second.button("lockgate_approve").is_some(), "{second:?}");
    slack
        .wait_for("the first card says so", |seen| {
            let edited = |posted: &&lockgate_tests::slack::Posted| {
                posted.ts == first.ts && posted.channel == "C0DBA" && posted.text().contains("escalated")
            };
            seen.posted.iter().find(edited).map(drop)
        })
        .await?;
    slack.click("U0OLA", &second, "lockgate_approve").accepted(&url).await?;
    let done = job.done().await?;
    ensure!(done.code == Some(0), "{done:?}");
    slack
        .wait_for("both cards without buttons", |seen| {
            let over = seen.posted.iter().filter(|posted| {
                posted.text().contains("approved by slack:T0ACME:U0OLA")
                    && posted.button("lockgate_approve").is_none()
            });
            (over.count() == 2 && seen.posted.len() == 2).then_some(())
        })
        .await?;
    ensure!(slack.seen().refused.is_empty(), "{:?}", slack.seen().refused);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_change_ticket_is_shown_everywhere_and_nobody_trusts_it() -> Result<()> {
    let (slack, mail) = (Slack::start().await?, MailServer::start(&[])?);
    let tickets = "identity:\n  tickets:\n  - { pattern: '\\b[A-Z]+-[0-9]+\\b', url: \"https://tickets.example.com/browse/{ticket}\" }\n";
    let channels = slack_channel(&slack, "U0ANA") + &mail.channel("");
    let world = world_with(POLICY, &channels, tickets).await?;
    let environment = [
        ("GITLAB_CI", "true"),
        ("CI_PROJECT_PATH", "acme/billing"),
        ("CI_COMMIT_BRANCH", "OPS-42-by-channel"),
        ("CI_COMMIT_SHA", "6d734b7"),
        ("CI_COMMIT_MESSAGE", "Add a column\n\nRefs: CHG-7 <!channel> https://evil.example\n"),
        ("CI_JOB_URL", "https://gitlab.example.com/acme/billing/-/jobs/8"),
    ];
    let port = world.pg.port().to_string();
    let command = lockgate_tests::job::psql("127.0.0.1", &port, "shop", &[ALTER]);
    let uid = lockgate_tests::job::JOB_UID;
    let job =
        lockgate_tests::job::start(lockgate_tests::job::governed(&world.agent, uid, &environment, &command))?;
    let request = world.receiver.requested(ALTER).await?;
    let identity = &request.data()["identity"];
    ensure!(
        identity["ci"]["commit"] == "6d734b7" && identity["ci"]["ref"] == "refs/heads/OPS-42-by-channel",
        "{identity:#}"
    );
    let expected = json!([
        { "id": "OPS-42", "url": "https://tickets.example.com/browse/OPS-42", "source": "branch",
          "assurance": "claimed", "standing": "in the branch; claimed, not confirmed" },
        { "id": "CHG-7", "url": "https://tickets.example.com/browse/CHG-7", "source": "commit_message",
          "assurance": "claimed", "standing": "in the commit message; claimed, not confirmed" },
    ]);
    ensure!(identity["tickets"] == expected, "{:#}", identity["tickets"]);
    let card = slack.card(ALTER).await?.text();
    let letter = mail.wait_for(1).await?.remove(0);
    let id = request.data()["request_id"].as_str().context("an id")?.to_owned();
    let shown = world.agent.cli(&["approvals", "show", &id])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let letter = letter.replace("=\r\n", "").replace("=\n", "");
    for (place, text) in [("the card", &card), ("the letter", &letter), ("approvals show", &shown)] {
        for part in ["OPS-42", "CHG-7", "claimed, not confirmed", "https://tickets.example.com/browse/OPS-42"]
        {
            ensure!(text.contains(part), "{part:?} is missing in {place}: {text}");
        }
    }
    ensure!(slack.seen().refused.is_empty(), "{:?}", slack.seen().refused);
    let session = request.data()["session_id"].as_str().context("a session")?.to_owned();
    Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    ensure!(job.done().await?.code == Some(0));
    let started = world.recorded("session_started", 1).await?;
    ensure!(started.iter().any(|event| event.to_string().contains("\"OPS-42\"")), "{started:#?}");
    let replayed = world.agent.cli(&["sessions", "replay", &session])?;
    let replay = String::from_utf8_lossy(&replayed.stdout);
    ensure!(replay.contains("OPS-42 (in the branch; claimed, not confirmed)"), "{replayed:?}");
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
async fn pagerduty_teams_and_mattermost_take_what_they_get() -> Result<()> {
    const HOSTILE: &str =
        "alter table orders add column \"@channel ``` [ok](http://evil.example) \u{202e}x\" text";
    let hooks = Hooks::start().await?;
    let channel = |name: &str, more: &str| {
        format!("- name: {name}\n  kind: webhook\n  url: \"{}\"\n  template: {name}\n{more}", hooks.url(name))
    };
    let key = "  vars: { routing_key: { file: DIR/slack.signing } }\n";
    let channels = [channel("pagerduty", key), channel("teams", ""), channel("mattermost", "")].concat();
    let world = World::with(POLICY, |options, pg| {
        let dir = pg.socket_dir();
        let _ = std::fs::write(dir.join("slack.signing"), format!("{ROUTING_KEY}\n"));
        options.extra = format!("channels:\n{}", channels.replace("DIR", &dir.display().to_string()));
    })
    .await?;
    let job = world.start(&[HOSTILE])?;
    let mut opened = Vec::new();
    for service in ["pagerduty", "teams", "mattermost"] {
        let body = hooks.wait_for(service, |body| body.to_string().contains("Approval needed")).await?;
        for part in ["alter table orders", "orders-db", "U+202E", "/approvals/req_"] {
            ensure!(body.to_string().contains(part), "{part:?} is missing: {body:#}");
        }
        ensure!(!body.to_string().contains('\u{202e}'), "{body:#}");
        opened.push(body);
    }
    let request = world.receiver.requested("alter table orders").await?;
    Decision::on(&request, "deny", "bo@example.com", &["dba"]).accepted().await?;
    job.done().await?;
    let resolved = hooks.wait_for("pagerduty", |body| body["event_action"] == "resolve").await?;
    ensure!(resolved["dedup_key"] == opened[0]["dedup_key"], "{resolved} {}", opened[0]);
    for service in ["teams", "mattermost"] {
        let said = |body: &Value| body.to_string().contains("denied by webhook:approvals:bo@example.com");
        hooks.wait_for(service, said).await?;
    }
    let refused = hooks.got().refused;
    ensure!(refused.is_empty(), "the receivers would have refused: {refused:?}");
    ensure!(!world.target_saw("@channel")?);
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
