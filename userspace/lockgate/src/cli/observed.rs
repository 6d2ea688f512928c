//! `lockgate sessions observed`: who talked to what without being redirected.
//!
//! Reads the log itself, which needs the right to; what the agent has added up since its last record is not in it yet.

use super::{
    Exit, Output,
    history::Period,
    output::{self, Table},
    sessions::ago,
    text,
};
use anyhow::Context as _;
use lockgate_model::{Timestamp, event::EventKind, observation::Observation, workload::Assurance};
use serde::Serialize;
use serde_json::json;
use std::{collections::BTreeMap, net::SocketAddr, path::Path};

/// One identity and one destination over the whole time.
#[derive(Debug, Serialize)]
struct Line {
    principal: String,
    display: String,
    assurance: Assurance,
    destination: SocketAddr,
    protocol: String,
    target: Option<String>,
    name: Option<String>,
    connections: u64,
    bytes_sent: u64,
    bytes_received: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Line {
    fn begin(observation: &Observation) -> Self {
        Self {
            principal: observation.principal.id.clone(),
            display: observation.principal.display.clone(),
            assurance: observation.principal.assurance,
            destination: observation.destination,
            protocol: observation.protocol.clone(),
            target: observation.target.as_ref().map(ToString::to_string),
            name: observation.name.clone(),
            connections: 0,
            bytes_sent: 0,
            bytes_received: 0,
            first: observation.since,
            last: observation.until,
        }
    }

    fn add(&mut self, observation: &Observation) {
        self.connections = self.connections.saturating_add(observation.connections);
        self.bytes_sent = self.bytes_sent.saturating_add(observation.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(observation.bytes_received);
        self.last = self.last.max(observation.until);
    }
}

pub(super) fn run(config: &Path, period: &Period, format: Output) -> anyhow::Result<Exit> {
    let mut lines: BTreeMap<(String, Assurance, SocketAddr, String), Line> = BTreeMap::new();
    for record in period.reader(config)?.records() {
        let event = record.context("reading the log")?.event;
        if let EventKind::Observed(seen) = &event.kind
            && period.holds(event.at)
            && period.is_about(seen.target.as_ref().map(|target| target.as_str()))
        {
            let principal = &seen.principal;
            let key = (principal.id.clone(), principal.assurance, seen.destination, seen.protocol.clone());
            lines.entry(key).or_insert_with(|| Line::begin(seen)).add(seen);
        }
    }
    let mut lines: Vec<Line> = lines.into_values().collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.connections));
    match format {
        Output::Json => output::print_json(&json!({ "observed": lines }))?,
        Output::Text => output::print(&table(&lines))?,
    }
    Ok(Exit::Done)
}

fn table(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "No connections were observed. Sets and targets are observed with `mode: observe`, and everything\n\
                governed that goes to no target.\n"
            .to_owned();
    }
    let now = Timestamp::now();
    let mut table =
        Table::new(&["WHO", "TO", "TARGET", "NAME", "CONNECTIONS", "SENT", "RECEIVED", "FIRST", "LAST"]);
    for line in lines {
        let or_none =
            |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), |it| text::short(it, 32));
        table.row(vec![
            text::short(&line.display, 40),
            format!("{}/{}", line.destination, text::line(&line.protocol)),
            or_none(&line.target),
            or_none(&line.name),
            line.connections.to_string(),
            line.bytes_sent.to_string(),
            line.bytes_received.to_string(),
            ago(now, line.first),
            ago(now, line.last),
        ]);
    }
    table.render()
}
