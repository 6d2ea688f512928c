//! `lockgate approvals rehearse`: a denial through every channel and back, without touching a target.

use super::{
    Exit, Output,
    client::{Agent, CallError},
    output::{self, Style, styled},
    text,
};
use clap::Args;
use lockgate_model::time::parse_duration;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The rule whose people are asked
    #[arg(long, value_name = "RULE")]
    rule: String,
    /// How long to wait for the deny
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = |text: &str| parse_duration(text).map_err(|error| error.to_string()))]
    within: Duration,
}

/// One thing that happened, and when.
#[derive(Debug, Serialize)]
struct Step {
    after_ms: u128,
    what: String,
    ok: bool,
}

pub(super) fn run(agent: &Agent, arguments: &Arguments, format: Output) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let mut steps = Steps { began, format, told: BTreeSet::new(), all: Vec::new() };
    let opened =
        agent.post("/v1/rehearsals", &json!({ "rule": arguments.rule })).map_err(CallError::into_failure)?;
    let request = opened["request_id"].as_str().unwrap_or_default().to_owned();
    steps.note("opened", format!("{request} opened, marked as a rehearsal"), true)?;
    let state = loop {
        let now = agent.get(&format!("/v1/approvals/{request}")).map_err(CallError::into_failure)?;
        steps.look(&now)?;
        let state = now["state"].as_str().unwrap_or_default().to_owned();
        if state != "pending" {
            break state;
        }
        if began.elapsed() >= arguments.within {
            break "pending".to_owned();
        }
        thread::sleep(LOOK_EVERY);
    };
    let denied = state == "denied";
    steps.note("end", format!("it is {state}"), denied)?;
    let delivered = steps.all.iter().all(|step| step.ok);
    if format == Output::Json {
        output::print_json(&json!({
            "request_id": request, "rule": arguments.rule, "state": state, "ok": denied && delivered, "steps": steps.all,
        }))?;
    }
    Ok(match state.as_str() {
        "denied" if delivered => Exit::Done,
        "pending" | "expired" => Exit::TimedOut,
        _ => Exit::Failed,
    })
}

struct Steps {
    began: Instant,
    format: Output,
    told: BTreeSet<String>,
    all: Vec<Step>,
}

impl Steps {
    /// Tells what is new since the last look.
    fn look(&mut self, request: &Value) -> anyhow::Result<()> {
        for (channel, delivery) in request["notifications"].as_object().into_iter().flatten() {
            let attempts = delivery["attempts"].as_u64().unwrap_or(0);
            let status =
                delivery["last_status"].as_u64().map(|status| format!(" ({status})")).unwrap_or_default();
            if delivery["delivered"] == json!(true) {
                self.note(&format!("{channel} ok"), format!("{channel} delivered{status}"), true)?;
            } else if attempts > 0 {
                let error = delivery["last_error"].as_str().unwrap_or("the receiver did not take it");
                let said = format!("{channel} not delivered{status}, attempt {attempts}: {error}");
                self.note(&format!("{channel} {attempts}"), said, false)?;
            }
        }
        for vote in request["votes"].as_array().into_iter().flatten() {
            let field = |name: &str| vote[name].as_str().unwrap_or_default().to_owned();
            let by = vote["by"]["id"].as_str().unwrap_or_default();
            let via = vote["by"]["via"].as_str().unwrap_or_default();
            let said = format!("{by} voted {} through {via}", field("decision"));
            self.note(&said.clone(), said, true)?;
        }
        Ok(())
    }

    fn note(&mut self, key: &str, what: String, ok: bool) -> anyhow::Result<()> {
        if !self.told.insert(key.to_owned()) {
            return Ok(());
        }
        let after_ms = self.began.elapsed().as_millis();
        if self.format == Output::Text {
            let word = if ok { styled(Style::Green, "ok    ") } else { styled(Style::Red, "FAILED") };
            let seconds = format!("{:>7.1}s", self.began.elapsed().as_secs_f64());
            output::print(&format!("{seconds}  {word}  {}\n", text::line(&what)))?;
        }
        // A channel that delivers at last has delivered.
        if let Some(channel) = key.strip_suffix(" ok") {
            self.all.retain(|step| step.ok || !step.what.starts_with(&format!("{channel} ")));
        }
        self.all.push(Step { after_ms, what, ok });
        Ok(())
    }
}
