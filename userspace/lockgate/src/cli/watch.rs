//! `lockgate approvals watch`: requests as they come, in the terminal, decided there.
//!
//! Follows the agent's events; what waits already is shown first. It decides nothing by itself unless it was told to.

use super::{
    Exit, Output,
    client::{Agent, CallError},
    output::{self, Style, styled},
    show, text,
};
use clap::Args;
use lockgate_model::Timestamp;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    ops::ControlFlow,
};

/// Requests that wait already and are shown first.
const WAITING_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Approve everything that comes
    #[arg(long, conflicts_with = "deny")]
    approve: bool,
    /// Deny everything that comes
    #[arg(long)]
    deny: bool,
    /// With --approve or --deny: why; otherwise what is proposed
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// End after the first request
    #[arg(long)]
    once: bool,
    /// Only on this target
    #[arg(long)]
    target: Option<String>,
}

pub(super) fn run(agent: &Agent, arguments: &Arguments, format: Output) -> anyhow::Result<Exit> {
    let mut inbox = Inbox {
        agent,
        arguments,
        format,
        seen: BTreeSet::new(),
        asks: !arguments.approve && !arguments.deny && format == Output::Text && io::stdin().is_terminal(),
    };
    agent.follow("/v1/events?topic=approvals", |happened| {
        match happened.name.as_str() {
            // It listens before the list is read: nothing falls between the two.
            "listening" => inbox.waiting(),
            "approval_requested" => {
                let data: Value = serde_json::from_str(&happened.data).unwrap_or_default();
                match data["data"]["request"].as_str() {
                    Some(request) => inbox.came(request),
                    None => Ok(ControlFlow::Continue(())),
                }
            }
            "approval_resolved" => inbox.resolved(&happened.data).map(|()| ControlFlow::Continue(())),
            "gap" => inbox.waiting(),
            _ => Ok(ControlFlow::Continue(())),
        }
    })?;
    Ok(Exit::Done)
}

struct Inbox<'a> {
    agent: &'a Agent,
    arguments: &'a Arguments,
    format: Output,
    seen: BTreeSet<String>,
    /// Somebody sits there.
    asks: bool,
}

impl Inbox<'_> {
    /// What waits already.
    fn waiting(&mut self) -> anyhow::Result<ControlFlow<()>> {
        let path = format!("/v1/approvals?state=pending&limit={WAITING_MAX}");
        let answer = self.agent.get(&path).map_err(CallError::into_failure)?;
        let items = answer["items"].as_array().into_iter().flatten().rev();
        let ids: Vec<String> = items.filter_map(|item| item["id"].as_str()).map(str::to_owned).collect();
        if ids.is_empty() && self.format == Output::Text && self.seen.is_empty() {
            output::print("Nothing waits. Requests are shown as they come; Ctrl-C ends.\n")?;
        }
        for id in ids {
            if self.came(&id)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn came(&mut self, id: &str) -> anyhow::Result<ControlFlow<()>> {
        if !self.seen.insert(id.to_owned()) {
            return Ok(ControlFlow::Continue(()));
        }
        let request = match self.agent.get(&format!("/v1/approvals/{id}")) {
            Ok(request) => request,
            // It is over already, or not for these eyes.
            Err(CallError::Refused { status: 404, .. }) => return Ok(ControlFlow::Continue(())),
            Err(error) => return Err(error.into_failure()),
        };
        let target = request["target"]["name"].as_str().unwrap_or_default();
        if self.arguments.target.as_ref().is_some_and(|wanted| wanted != target) {
            return Ok(ControlFlow::Continue(()));
        }
        match self.format {
            Output::Json => output::print(&format!("{request}\n"))?,
            Output::Text => output::print(&format!("{}\n", show::screen(&request, Timestamp::now())))?,
        }
        if request["state"] == "pending" {
            self.decide(id, &request)?;
        }
        Ok(if self.arguments.once { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn decide(&self, id: &str, request: &Value) -> anyhow::Result<()> {
        let (decision, reason) = match (self.arguments.approve, self.arguments.deny) {
            (true, _) => ("approve", self.arguments.reason.clone()),
            (_, true) => ("deny", self.arguments.reason.clone()),
            _ if self.asks => match self.ask()? {
                Some(answer) => answer,
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        // What was shown is what is decided on.
        let body = json!({ "reason": reason, "command_digest": request["command_digest"] });
        match self.agent.post(&format!("/v1/approvals/{id}/{decision}"), &body) {
            Ok(answer) if self.format == Output::Text => {
                let state = answer["state"].as_str().unwrap_or_default();
                output::print(&format!("{id}: counted, it is {state}\n\n"))
            }
            Ok(answer) => output::print(&format!("{answer}\n")),
            // One refusal (their own request, a reason that is missing) does not end the watch.
            Err(CallError::Refused { detail, .. }) => {
                eprintln!("{id}: not counted: {}", text::line(&detail));
                Ok(())
            }
            Err(error) => Err(error.into_failure()),
        }
    }

    /// What the person says; None leaves it to others.
    fn ask(&self) -> anyhow::Result<Option<(&'static str, Option<String>)>> {
        let mut line = String::new();
        loop {
            output::print("a approve, d deny, s leave it to others: ")?;
            line.clear();
            if io::stdin().lock().read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let decision = match line.trim() {
                "a" => "approve",
                "d" => "deny",
                "s" | "" => return Ok(None),
                _ => continue,
            };
            output::print("reason: ")?;
            io::stdout().flush()?;
            line.clear();
            io::stdin().lock().read_line(&mut line)?;
            let reason = Some(line.trim()).filter(|it| !it.is_empty()).map(str::to_owned);
            return Ok(Some((decision, reason.or_else(|| self.arguments.reason.clone()))));
        }
    }

    fn resolved(&self, data: &str) -> anyhow::Result<()> {
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        let id = data["data"]["request"].as_str().unwrap_or_default();
        if !self.seen.contains(id) {
            return Ok(());
        }
        match self.format {
            Output::Json => output::print(&format!("{data}\n")),
            Output::Text => {
                let how = &data["data"]["resolution"];
                let how = how["resolution"].as_str().or(how["state"].as_str()).unwrap_or("over");
                output::print(&format!("{}\n", styled(Style::Dim, &format!("{id}: {}", text::line(how)))))
            }
        }
    }
}
