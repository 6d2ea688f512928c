//! A session as a timeline that reads top to bottom: what was asked, what policy said, who was told, who
//! decided and why, what went on to the target, what came back.
//!
//! Works on records alone; reads them neither from the agent nor from disk.

use super::{
    output::{self, Style, styled},
    sessions::{field, rough, to_second},
    text,
};
use lockgate_model::{
    Timestamp,
    approval::{Resolution, Vote, VoteDecision},
    coverage::Coverage,
    event::{EventKind, RecordedOperation},
    grant::{Basis, GlassUse, Grant},
    observation::Observation,
    outcome::{Closing, Outcome, OutcomeStatus},
    session::{Mode, Session},
    verdict::{Denial, DenialCause, Effect, Verdict},
};
use lockgate_store::Record;
use serde::Serialize;
use std::time::Duration;

/// Nobody watches a pause longer than this; a person who was asked may have taken hours.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One step of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    /// When.
    pub(super) at: Timestamp,
    /// Since the first record, milliseconds.
    pub(super) offset_millis: u64,
    /// What kind of step; stable.
    pub(super) step: &'static str,
    /// One line.
    pub(super) text: String,
    /// What belongs to it, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) details: Vec<String>,
}

/// The steps of one session's records.
pub(super) fn steps(records: &[Record]) -> Vec<Step> {
    let Some(first) = records.first() else { return Vec::new() };
    let mut steps = Vec::with_capacity(records.len());
    for record in records {
        let at = record.event.at;
        let offset = at.duration_since(first.event.at);
        let (step, text, details) = tell(&record.event.kind);
        let offset_millis = u64::try_from(offset.as_millis()).unwrap_or(0);
        steps.push(Step { at, offset_millis, step, text, details });
    }
    steps
}

/// Who and where, before the timeline.
pub(super) fn heading(records: &[Record]) -> String {
    let started = records.iter().find_map(|record| match &record.event.kind {
        EventKind::SessionStarted(session) => Some(session),
        _ => None,
    });
    let Some(session) = started else { return String::new() };
    let Session { target, principal, workload, client, flow, .. } = session.as_ref();
    let process = &workload.process;
    let mut out =
        format!("{}  {}\n", styled(Style::Bold, &session.id.to_string()), to_second(session.opened_at));
    let mode = match target.mode {
        Mode::Observe => "observe",
        Mode::Shadow => "shadow",
        Mode::Enforce => "enforce",
    };
    let database = format!(
        "{} ({}, {mode}), database {} as {}",
        target.name, target.protocol, client.database, session.upstream_user
    );
    out.push_str(&field("target", &database));
    out.push_str(&field(
        "who",
        &format!("{} [{}: {}]", principal.display, principal.assurance.as_str(), workload.established_by),
    ));
    let exe = process.exe.as_deref().unwrap_or("an executable that was gone");
    out.push_str(&field("process", &format!("pid {}, uid {}, {exe}", process.pid, process.uid)));
    if let Some(cgroup) = &workload.cgroup {
        out.push_str(&field("cgroup", cgroup));
    }
    if let Some(pod) = &workload.pod {
        let parts = [&pod.namespace, &pod.name, &pod.service_account, &pod.owner];
        let facts = parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" › ");
        out.push_str(&field("pod", &format!("{} {facts} [{}]", pod.uid, pod.assurance.0.as_str())));
        if let Some(why) = &pod.unconfirmed {
            out.push_str(&field("", &format!("not confirmed: {why}")));
        }
    }
    if let Some(ci) = &workload.ci {
        let parts = [&ci.repository, &ci.workflow, &ci.run_id, &ci.git_ref, &ci.commit, &ci.triggering_actor];
        let facts = parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" › ");
        out.push_str(&field("ci", &format!("{} {facts} [{}]", ci.provider, ci.assurance.0.as_str())));
        if let Some(why) = ci.established_by.as_ref() {
            out.push_str(&field("", why));
        }
        if let Some(why) = &ci.unconfirmed {
            out.push_str(&field("", &format!("not confirmed: {why}")));
        }
    }
    for ticket in &workload.tickets {
        let url = ticket.url.as_deref().unwrap_or_default();
        let shown = format!("{} ({}; {}) {url}", ticket.id, ticket.source.words(), ticket.vouched());
        out.push_str(&field("ticket", shown.trim_end()));
    }
    out.push_str(&field("address", &format!("{} → {}", flow.client.0, flow.original_dst)));
    out
}

/// The whole timeline.
pub(super) fn timeline(records: &[Record]) -> String {
    steps(records).iter().map(render).collect()
}

/// One record by itself.
pub(super) fn line(record: &Record) -> String {
    steps(std::slice::from_ref(record)).iter().map(render).collect()
}

/// Prints the timeline, with the pauses of then when a speed is given.
pub(super) fn play(records: &[Record], speed: Option<f64>) -> anyhow::Result<()> {
    output::print(&format!("{}\n", heading(records)))?;
    let mut before = 0;
    for step in steps(records) {
        if let Some(speed) = speed {
            let pause = Duration::from_millis(step.offset_millis.saturating_sub(before)).div_f64(speed);
            std::thread::sleep(pause.min(LONGEST_PAUSE));
        }
        before = step.offset_millis;
        output::print(&render(&step))?;
    }
    Ok(())
}

fn render(step: &Step) -> String {
    let style = match step.step {
        "denied" | "refused" | "cut" => Some(Style::Red),
        "held" | "requested" | "notified" => Some(Style::Yellow),
        "forwarded" | "approved" => Some(Style::Green),
        _ => None,
    };
    let word = format!("{:<10}", step.step);
    let word = style.map_or(word.clone(), |style| styled(style, &word));
    let offset = format!("+{}.{:03}", step.offset_millis / 1000, step.offset_millis % 1000);
    let mut out =
        format!("{}  {word} {}\n", styled(Style::Dim, &format!("{offset:>9}")), text::line(&step.text));
    for line in step.details.iter().flat_map(|detail| detail.lines()) {
        out.push_str(&format!("{:23}{}\n", "", text::line(line)));
    }
    out
}

type Told = (&'static str, String, Vec<String>);

fn tell(event: &EventKind) -> Told {
    let plain = |step, text: String| (step, text, Vec::new());
    match event {
        EventKind::SessionStarted(session) => {
            plain("started", format!("{} on {}", session.principal.display, session.target.name))
        }
        EventKind::OperationDecided { operation, verdict, denial } => {
            decided(operation, verdict, denial.as_ref())
        }
        EventKind::ApprovalRequested { request, expires_at, takes_up, .. } => {
            let taken = takes_up.map(|earlier| format!(", takes up {earlier}")).unwrap_or_default();
            plain("requested", format!("approval {request}, until {}{taken}", to_second(*expires_at)))
        }
        EventKind::ApprovalLeft { request, reason } => {
            let reason = format!("{reason:?}").to_lowercase();
            plain("left", format!("{request} waits on without its client ({reason})"))
        }
        EventKind::ApprovalsBundled { bundle, requests, .. } => {
            plain("bundled", format!("{} requests are told and decided together as {bundle}", requests.len()))
        }
        EventKind::Shelved { name, digest } => match digest {
            Some(digest) => plain("kept", format!("{name} outlives a restart (SHA-256 {digest})")),
            None => plain("kept", format!("{name} does not outlive a restart any more")),
        },
        EventKind::GrantMade(grant) => ("granted", granted(grant), vec![format!("│ {}", grant.shape)]),
        EventKind::GrantEnded { grant, used, end } => {
            plain("grant ended", format!("{grant} after {used} uses: {}", end.as_str()))
        }
        EventKind::GlassBroken(glass) => ("break-glass", broken(glass), vec![glass.login.clone()]),
        EventKind::GlassEnded { glass, by } => {
            let by = by.as_ref().map_or("its time was over (actor: system)", |by| by.name());
            plain("break-glass", format!("{glass} ended: {by}"))
        }
        EventKind::GlassReviewed { glass, review } => {
            let note = review.note.as_ref().map(|note| format!(": {note:?}")).unwrap_or_default();
            plain("break-glass", format!("{glass} reviewed by {}{note}", review.by.name()))
        }
        EventKind::Alerted { about, channel, attempt, status, error } => {
            let told = notified(channel, *attempt, *status, error.as_deref());
            plain("alerted", format!("about {about}: {told}"))
        }
        EventKind::Notified { channel, attempt, status, error, .. } => {
            plain("notified", notified(channel, *attempt, *status, error.as_deref()))
        }
        EventKind::VoteCast { vote, .. } => plain("vote", voted(vote)),
        EventKind::DecisionRefused { channel, by, code, detail, .. } => {
            let by = by.as_deref().unwrap_or("somebody");
            plain("rejected", format!("a decision by {by} through {channel}: {detail} ({code})"))
        }
        EventKind::ApprovalResolved { resolution, .. } => resolved(resolution),
        EventKind::Forwarded { approval: Some(request), .. } => {
            plain("forwarded", format!("to the target, by {request}"))
        }
        EventKind::Forwarded { approval: None, .. } => plain("forwarded", "to the target".to_owned()),
        EventKind::OperationPart { parameter, offset, data, .. } => {
            let of = parameter.map_or("the statement".to_owned(), |number| format!("${}", number + 1));
            plain("goes on", format!("{of}, bytes {offset} to {}", offset + data.len() as u64))
        }
        EventKind::Refused { decision, denial, .. } => {
            ("refused", denial.reason.clone(), refusal(denial, &decision.to_string()))
        }
        EventKind::MaskedColumns { masked, readable: 0, .. } => {
            plain("masks", format!("{masked} columns; the target keeps them all from this role, too"))
        }
        EventKind::MaskedColumns { masked, readable, first } => {
            let more =
                if u64::try_from(first.len()).is_ok_and(|named| named < *readable) { ", …" } else { "" };
            plain(
                "masks",
                format!(
                    "{masked} columns; the role could read {readable} by itself: {}{more}",
                    first.join(", ")
                ),
            )
        }
        EventKind::ResultCut { decision, denial, rows, bytes, .. } => (
            "cut",
            format!("after {rows} rows, {bytes} bytes: {}", denial.reason),
            refusal(denial, &decision.to_string()),
        ),
        EventKind::ResultRows { columns, rows, truncated, .. } => result_rows(columns, rows, *truncated),
        EventKind::Responded { outcome, .. } => plain("answered", answered(outcome)),
        EventKind::SessionEnded(closing) => plain("ended", ended(closing)),
        EventKind::FlowRefused { detail, closing, .. } => ("refused", detail.clone(), vec![ended(closing)]),
        EventKind::Observed(observation) => plain("observed", observed(observation)),
        EventKind::Coverage(coverage) => plain("coverage", covered(coverage)),
        EventKind::Custody(custody) => plain(custody.as_str(), custody.sentence()),
        EventKind::TokenIssued { token, caller, target, from, expires, by } => plain(
            "token",
            format!(
                "{token} for {caller} on {target}, from {}, until {expires}, asked by {by}",
                from.join(", ")
            ),
        ),
        EventKind::Access(access) => (
            "access",
            format!(
                "{} {} by {}{}",
                access.action.as_str(),
                access.by.as_deref().unwrap_or("nobody known"),
                access.via,
                access.code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default()
            ),
            [access.detail.clone()].into_iter().filter(|detail| !detail.is_empty()).collect(),
        ),
        EventKind::Administered(done) => (
            "changed",
            format!("{} {} by {} ({})", done.action.as_str(), done.subject, done.name, done.by),
            done.reason.iter().cloned().collect(),
        ),
        EventKind::AgentStarted { node, version, policy } => {
            plain("agent", format!("started on {node}, version {version}, policy {policy}"))
        }
        EventKind::AgentStopped { node } => plain("agent", format!("stopped on {node}")),
        EventKind::PolicyLoaded { version, files, .. } => {
            plain("policy", format!("{version} in force, from {}", files.join(", ")))
        }
        EventKind::PolicyRejected { in_force, errors } => {
            ("policy", format!("a broken policy was not taken over; {in_force} stays"), errors.clone())
        }
        EventKind::Gap { stage, count, detail } => {
            let count = count.map_or("an unknown number".to_owned(), |count| count.to_string());
            plain("gap", format!("{count} of {stage}: {detail}"))
        }
    }
}

fn covered(coverage: &Coverage) -> String {
    let Coverage { redirected, bypassed, not_governed, untold, hooks, hooks_lost, .. } = coverage;
    let lost = if hooks_lost.is_empty() { "none".to_owned() } else { hooks_lost.join(", ") };
    format!(
        "{redirected} connections redirected, {bypassed} went past lockgate, {not_governed} processes could not be \
         governed, {untold} refusals untold, {hooks} hooks attached, lost: {lost}"
    )
}

fn observed(observation: &Observation) -> String {
    let Observation { principal, destination, protocol, target, connections, .. } = observation;
    let target = target.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    format!("{} to {destination}/{protocol}{target}, {connections} times, not redirected", principal.display)
}

fn decided(operation: &RecordedOperation, verdict: &Verdict, denial: Option<&Denial>) -> Told {
    let step = match &verdict.effect {
        Effect::Deny(_) => "denied",
        Effect::Hold(_) => "held",
        Effect::Allow if denial.is_some() => "denied",
        Effect::Allow => "allowed",
    };
    let facts = operation.facts.as_ref();
    let literals = if operation.normalized { ", literals not kept" } else { "" };
    let heading = format!(
        "{} ({}, risk {}{literals})",
        facts.kind().replace('_', " "),
        facts.class(),
        facts.risk().as_str()
    );
    let mut details: Vec<String> = operation.text.lines().map(|line| format!("│ {line}")).collect();
    if !operation.parameters.is_empty() {
        let values: Vec<_> = operation
            .parameters
            .iter()
            .map(|bound| bound.value.clone().unwrap_or_else(|| "NULL".to_owned()))
            .collect();
        details.push(format!("bound: {}", values.join(", ")));
    } else if operation.parameter_count > 0 {
        details.push(format!("bound: {} values, not kept", operation.parameter_count));
    }
    details.push(rules(verdict));
    match (denial, &verdict.effect) {
        (Some(denial), _) | (None, Effect::Deny(denial)) => {
            details.push(denial.reason.clone());
            details.extend(refusal(denial, &verdict.decision.to_string()));
        }
        (None, Effect::Hold(spec)) => {
            for requirement in &spec.requirements {
                if let Some(stage) = requirement.stages.first() {
                    let groups: Vec<_> = stage.any_of.iter().map(|group| group.as_str()).collect();
                    details.push(format!(
                        "waits for {} of {}, rule {}",
                        stage.need,
                        groups.join(" or "),
                        requirement.rule
                    ));
                }
            }
        }
        (None, Effect::Allow) => {}
    }
    if let Some(would) = &verdict.would {
        details.push(format!("shadow: enforce would say {}", would.as_str()));
    }
    if let Some(mask) = &verdict.obligations.mask {
        let rules: Vec<_> = mask.rules.iter().map(|rule| rule.as_str()).collect();
        details.push(format!("masked by {}", rules.join(", ")));
    }
    (step, heading, details)
}

fn rules(verdict: &Verdict) -> String {
    if verdict.rules.is_empty() {
        return "no rule matched; the target's default decides".to_owned();
    }
    let hits = verdict.rules.iter().map(|hit| {
        let shadow = if hit.shadow { ", shadow" } else { "" };
        format!("{} ({}{shadow})", hit.rule, hit.effect)
    });
    format!("rule {}", hits.collect::<Vec<_>>().join(", "))
}

/// By what and in which decision; the reason stands before it.
fn refusal(denial: &Denial, decision: &str) -> Vec<String> {
    let by = match (&denial.rule, denial.cause) {
        (Some(rule), DenialCause::Rule) => format!("rule {rule}"),
        (Some(rule), cause) => format!("{}, rule {rule}", cause.as_str().replace('_', " ")),
        (None, cause) => cause.as_str().replace('_', " "),
    };
    let mut lines = vec![format!("{by}, decision {decision}")];
    lines.extend(denial.remedy.as_ref().map(|remedy| format!("instead: {remedy}")));
    lines
}

fn notified(channel: &str, attempt: u32, status: Option<u16>, error: Option<&str>) -> String {
    let status = status.map(|status| format!(", answered {status}")).unwrap_or_default();
    let error = error.map(|error| format!(", {error}")).unwrap_or_default();
    let attempt = if attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
    format!("{channel}{attempt}{status}{error}")
}

fn voted(vote: &Vote) -> String {
    let decision = match vote.decision {
        VoteDecision::Approve => "approve",
        VoteDecision::Deny => "deny",
    };
    let groups: Vec<_> = vote.by.groups.iter().map(|group| group.as_str()).collect();
    let reason = vote.reason.as_ref().map(|reason| format!(": {reason:?}")).unwrap_or_default();
    format!("{decision} by {} ({}) at {}{reason}", vote.by.id, groups.join(", "), to_second(vote.at))
}

fn resolved(resolution: &Resolution) -> Told {
    match resolution {
        Resolution::Approved { votes, basis } => (
            "approved",
            format!("by {}{}", people(votes), basis.as_ref().map(standing_on).unwrap_or_default()),
            Vec::new(),
        ),
        Resolution::Denied { vote } => ("denied", format!("by {}", vote.by.id), Vec::new()),
        Resolution::Expired => ("denied", "nobody decided in time (actor: system)".to_owned(), Vec::new()),
        Resolution::Withdrawn { reason } => ("withdrawn", format!("{reason:?}").to_lowercase(), Vec::new()),
    }
}

/// Why it passed although nobody voted on this very request.
fn standing_on(basis: &Basis) -> String {
    match basis {
        Basis::Reuse { of } => format!(" on {of}, used again"),
        Basis::TakenUp { of } => format!(" on {of}, whose client was gone"),
        Basis::Grant { grant, left: Some(left) } => format!(" under {grant}, {left} uses left"),
        Basis::Grant { grant, left: None } => format!(" under {grant}"),
    }
}

fn granted(grant: &Grant) -> String {
    let uses = grant.uses.map_or("as often as it comes".to_owned(), |uses| format!("{uses} times"));
    let until = to_second(grant.expires_at);
    format!(
        "{} to {} on {}, {uses}, until {until}, by {}",
        grant.id,
        grant.principal,
        grant.target,
        people(&grant.votes)
    )
}

fn broken(glass: &GlassUse) -> String {
    let ticket = glass.ticket.as_ref().map(|ticket| format!(", {ticket}")).unwrap_or_default();
    let reason = glass.reason.as_ref().map(|reason| format!(": {reason:?}")).unwrap_or_default();
    format!(
        "{} by {} ({}) until {}{ticket}{reason}",
        glass.id,
        glass.by.name(),
        glass.rule,
        to_second(glass.ends_at)
    )
}

fn people(votes: &[Vote]) -> String {
    votes.iter().map(|vote| vote.by.name()).collect::<Vec<_>>().join(", ")
}

fn result_rows(columns: &[String], rows: &[Vec<Option<String>>], truncated: bool) -> Told {
    let mut details = vec![columns.join(" | ")];
    let cell = |value: &Option<String>| value.clone().unwrap_or_else(|| "NULL".to_owned());
    details.extend(rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join(" | ")));
    if truncated {
        details.push("…".to_owned());
    }
    ("rows", format!("{} kept, as the client saw them", rows.len()), details)
}

fn answered(outcome: &Outcome) -> String {
    let status = match &outcome.status {
        OutcomeStatus::Completed { tag } => tag.clone(),
        OutcomeStatus::Failed { sqlstate } => format!("the server refused it, SQLSTATE {sqlstate}"),
        OutcomeStatus::Responded { status } => format!("HTTP status {status}"),
        OutcomeStatus::Suspended => "suspended at the portal's row limit".to_owned(),
        OutcomeStatus::Skipped => "skipped by the server after an earlier failure".to_owned(),
        OutcomeStatus::Broken => "the connection ended before the answer".to_owned(),
    };
    let mut parts = vec![status];
    for (count, what) in [
        (outcome.rows, "rows"),
        (outcome.bytes_out, "bytes out"),
        (outcome.bytes_in, "bytes in"),
        (outcome.masked_fields, "fields masked"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.push(format!("{} ms", outcome.elapsed_micros.div_ceil(1000)));
    parts.join(", ")
}

fn ended(closing: &Closing) -> String {
    let detail = closing.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    let lasted = rough(Duration::from_micros(closing.elapsed_micros));
    let (from, to) = (closing.bytes_from_client, closing.bytes_to_client);
    format!(
        "{}{detail}; {} operations, {from} bytes in, {to} bytes out, {lasted}",
        closing.reason.as_str(),
        closing.operations
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session as it was recorded: a masked read, a held and approved ALTER TABLE, a refused DELETE.
    fn records() -> Vec<Record> {
        #[derive(serde::Deserialize)]
        struct Shown {
            records: Vec<Record>,
        }
        serde_json::from_str::<Shown>(include_str!("../../tests/fixtures/session.json")).unwrap().records
    }

    #[test]
    fn a_session_reads_top_to_bottom() {
        let words: Vec<&str> = steps(&records()).iter().map(|step| step.step).collect();
        assert_eq!(
            words,
            [
                "started",
                "allowed",
                "answered",
                "held",
                "requested",
                "notified",
                "vote",
                "approved",
                "forwarded",
                "answered",
                "notified",
                "denied",
                "ended"
            ]
        );
    }

    #[test]
    fn a_timeline_says_who_decided_what_and_why() {
        let (heading, timeline) = (heading(&records()), timeline(&records()));
        for part in [
            "orders-db (postgres, enforce), database shop as app",
            "claims acme/billing › deploy.yml [kernel: ",
            "github_actions acme/billing › deploy.yml › 4711 [claimed]",
        ] {
            assert!(heading.contains(part), "{part:?} is missing:\n{heading}");
        }
        for part in [
            "+0.000  started ",
            "│ alter table orders add column checked text",
            "waits for 1 of dba, rule schema-change-dba",
            "webhook:approvals, answered 204",
            "approve by webhook:approvals:ana@example.com (dba) at 2026-11-21T",
            ": \"looked at it\"",
            "forwarded  to the target, by req_",
            "1 fields masked",
            "an unbounded write on production is never right",
            "rule no-unbounded-write, decision dec_",
            "instead: see https://wiki.example.com/unbounded",
            "client_closed; 3 operations",
        ] {
            assert!(timeline.contains(part), "{part:?} is missing:\n{timeline}");
        }
        assert!(steps(&[]).is_empty());
    }
}
