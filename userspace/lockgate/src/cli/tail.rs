//! `lockgate sessions tail`: records as they are written, in one session or in all of them.

use super::{
    Exit, Output,
    client::{Agent, CallError, query},
    output, replay,
};
use clap::Args;
use lockgate_model::SessionId;
use lockgate_store::Record;
use serde_json::{Value, json};
use std::ops::ControlFlow;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this session, from its beginning (ses_…); it ends with the session
    session: Option<SessionId>,
    /// Only sessions on this target that begin from now on
    #[arg(long)]
    target: Option<String>,
}

pub(super) fn run(agent: &Agent, arguments: &Arguments, format: Output) -> anyhow::Result<Exit> {
    let mut filter = json!({ "topic": "sessions,approvals" });
    if let Some(session) = arguments.session {
        filter["session"] = json!(session);
        let first =
            agent.get_slow(&format!("/v1/sessions/{session}?limit=1")).map_err(CallError::into_failure)?;
        let begin = first["records"][0]["seq"].as_u64().unwrap_or(1);
        filter["after"] = json!(begin.saturating_sub(1));
    }
    if let Some(target) = &arguments.target {
        filter["target"] = json!(target);
    }
    agent.follow(&format!("/v1/events?{}", query(&filter)), |happened| {
        if happened.name == "listening" {
            return Ok(ControlFlow::Continue(()));
        }
        if happened.name == "gap" {
            eprintln!("some records were missed: {}", happened.data);
            return Ok(ControlFlow::Continue(()));
        }
        match format {
            Output::Json => output::print(&format!("{}\n", happened.data))?,
            Output::Text => output::print(&told(&happened.data))?,
        }
        let ended = arguments.session.is_some() && happened.name == "session_ended";
        Ok(if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(Exit::Done)
}

/// One record, as a timeline shows it.
fn told(data: &str) -> String {
    let mut data: Value = serde_json::from_str(data).unwrap_or_default();
    // An event is a record without its place in the chain.
    data["v"] = json!(lockgate_audit::record::VERSION);
    data["node"] = json!("");
    data["prev"] = json!(lockgate_audit::ChainHash::GENESIS);
    match serde_json::from_value::<Record>(data) {
        Ok(record) => replay::line(&record),
        Err(error) => format!("an event that this version does not know: {error}\n"),
    }
}
