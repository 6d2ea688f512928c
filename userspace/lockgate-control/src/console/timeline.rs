//! A session as it went, top to bottom: what was asked, what policy said by which rule, the hold, who was told, who decided
//! and why, what went on, the shape of what came back, the next thing. Made of records alone.

use super::parts::{
    bound_values, exact, marked, number, one_line, plural, rough, said, statement, time, word,
};
use lockgate_model::{
    Timestamp,
    approval::{Resolution, Vote, VoteDecision},
    event::{EventKind, RecordedOperation},
    grant::Basis,
    outcome::{Closing, Outcome, OutcomeStatus},
    session::Session,
    verdict::{Denial, Effect, Verdict},
};
use lockgate_store::Record;
use maud::{Markup, html};
use serde_json::Value;
use std::time::Duration;

/// One step.
struct Step {
    /// `good`, `warn`, `bad`; only repeats the word.
    class: &'static str,
    word: String,
    line: Markup,
    more: Option<Markup>,
}

impl Step {
    fn new(class: &'static str, word: &str, line: Markup) -> Self {
        Self { class, word: word.to_owned(), line, more: None }
    }

    fn more(mut self, more: Markup) -> Self {
        self.more = Some(more);
        self
    }
}

/// The steps of a session's records.
pub(super) fn timeline(records: &[Record], now: Timestamp) -> Markup {
    let begin = records.first().map_or(now, |record| record.event.at);
    html! {
        ol.timeline {
            @for record in records {
                @let step = step(&record.event.kind);
                @let chip = if step.class.is_empty() { "chip".to_owned() } else { format!("chip {}", step.class) };
                li class={ "step " (step.class) } id={ "r" (record.seq) } {
                    div.line {
                        span class=(chip) { (step.word) }
                        span { (step.line) }
                        a.when href={ "#r" (record.seq) } title={ (exact(record.event.at)) ", record " (record.seq) } {
                            (since(begin, record.event.at))
                        }
                    }
                    @if let Some(more) = &step.more { div.more { (more) } }
                }
            }
        }
    }
}

/// `+1.204 s`
fn since(begin: Timestamp, at: Timestamp) -> String {
    let millis = u64::try_from(at.duration_since(begin).as_millis()).unwrap_or(0);
    if millis < 60_000 {
        format!("+{}.{:03} s", millis / 1_000, millis % 1_000)
    } else {
        format!("+{}", rough(millis / 1_000))
    }
}

fn step(event: &EventKind) -> Step {
    match event {
        EventKind::SessionStarted(session) => started(session),
        EventKind::OperationDecided { operation, verdict, denial } => {
            decided(operation, verdict, denial.as_ref())
        }
        EventKind::ApprovalRequested { request, expires_at, takes_up, .. } => Step::new(
            "warn",
            "requested",
            html! {
                a href={ "/approvals/" (request) } { code { (request) } } ", until " (exact(*expires_at))
                @if let Some(earlier) = takes_up { ", takes up " code { (earlier) } }
            },
        ),
        EventKind::ApprovalLeft { request, .. } => {
            Step::new("warn", "left", html! { code { (request) } " waits on without its client" })
        }
        EventKind::ApprovalsBundled { bundle, requests, .. } => Step::new(
            "warn",
            "bundled",
            html! { (requests.len()) " requests are decided together as " a href={ "/bundles/" (bundle) } { code { (bundle) } } },
        ),
        EventKind::Notified { channel, attempt, status, error, .. } => Step::new(
            if error.is_some() { "bad" } else { "warn" },
            "notified",
            html! {
                (word(channel)) @if *attempt > 1 { ", attempt " (attempt) }
                @if let Some(status) = status { ", answered " (status) }
                @if let Some(error) = error { ", " (word(error)) }
            },
        ),
        EventKind::VoteCast { vote, .. } => voted(vote),
        EventKind::DecisionRefused { channel, by, code, detail, .. } => Step::new(
            "bad",
            "refused vote",
            html! { (word(by.as_deref().unwrap_or("somebody"))) " by " (word(channel)) ": " (word(detail)) " (" code { (word(code)) } ")" },
        ),
        EventKind::ApprovalResolved { resolution, .. } => resolved(resolution),
        EventKind::Forwarded { approval, .. } => Step::new(
            "good",
            "forwarded",
            html! { "to the target" @if let Some(request) = approval { ", by " a href={ "/approvals/" (request) } { code { (request) } } } },
        ),
        EventKind::Refused { decision, denial, .. } => {
            Step::new("bad", "refused", word(&denial.reason)).more(refusal(denial, &decision.to_string()))
        }
        EventKind::ResultCut { decision, denial, rows, bytes, .. } => Step::new(
            "bad",
            "cut",
            html! { "after " (number(*rows)) " rows, " (number(*bytes)) " bytes: " (word(&denial.reason)) },
        )
        .more(refusal(denial, &decision.to_string())),
        EventKind::ResultRows { columns, rows, truncated, .. } => {
            Step::new("", "rows", html! { (rows.len()) " kept, as the client saw them" })
                .more(rows_table(columns, rows, *truncated))
        }
        EventKind::Responded { outcome, .. } => answered(outcome),
        EventKind::SessionEnded(closing) => ended(closing),
        EventKind::MaskedColumns { masked, readable, first } => Step::new(
            "",
            "masks",
            html! {
                (number(*masked)) " columns"
                @if *readable == 0 { "; the target keeps them all from this role, too" }
                @else { span.muted { "; the role could read " (number(*readable)) " of them by itself: " (word(&first.join(", "))) } }
            },
        ),
        other => plain(other),
    }
}

/// What has no words of its own here: its name, and everything in it.
fn plain(event: &EventKind) -> Step {
    let value = serde_json::to_value(event).unwrap_or_default();
    let name = said(&value["event"]).replace('_', " ");
    let class = match event {
        EventKind::Gap { .. } => "bad",
        _ => "",
    };
    let fields: Vec<(String, String)> = match &value["data"] {
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.replace('_', " "), said(value))).collect()
        }
        Value::Null => Vec::new(),
        other => vec![("value".to_owned(), said(other))],
    };
    let shown = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Step::new(
        class,
        &name,
        html! {
            @for (at, (key, value)) in shown.enumerate() { @if at > 0 { ", " } span.muted { (key) " " } (one_line(&value, 300)) }
        },
    )
}

fn started(session: &Session) -> Step {
    Step::new(
        "",
        "started",
        html! { (word(&session.principal.display)) " on " (word(session.target.name.as_str())) ", database " (word(&session.client.database)) " as " (word(&session.upstream_user)) },
    )
}

fn decided(operation: &RecordedOperation, verdict: &Verdict, denial: Option<&Denial>) -> Step {
    let (class, name) = match (&verdict.effect, denial) {
        (Effect::Deny(_), _) | (Effect::Allow, Some(_)) => ("bad", "denied"),
        (Effect::Hold(_), _) => ("warn", "held"),
        (Effect::Allow, None) => ("good", "allowed"),
    };
    let facts = &operation.facts;
    let line = html! {
        strong { (word(&facts.kind().replace('_', " "))) } " " span.muted { (facts.class()) ", " (facts.risk().as_str()) " risk" }
        @if operation.normalized { " " span.chip.warn { "literals not kept" } }
    };
    let denied = match (&verdict.effect, denial) {
        (_, Some(denial)) | (Effect::Deny(denial), None) => Some(denial),
        (Effect::Allow | Effect::Hold(_), None) => None,
    };
    Step::new(class, name, line).more(html! {
        (statement(&operation.text))
        @if let Some(bytes) = operation.text_bytes { p.small.muted { "The statement goes on; " (number(bytes)) " bytes in all." } }
        @if !operation.parameters.is_empty() { (bound_values(&operation.parameters)) }
        @else if operation.parameter_count > 0 { p.small.muted { (operation.parameter_count) " bound values, not kept" } }
        p.small {
            @if verdict.rules.is_empty() { span.muted { "No rule matched; the target's default decides." } }
            @else { span.muted { "By rule " } @for (at, hit) in verdict.rules.iter().enumerate() {
                @if at > 0 { ", " } a href={ "/policies#rule-" (hit.rule) } { code { (hit.rule) } } " (" (hit.effect.replace('_', " ")) @if hit.shadow { ", shadow" } ")"
            } }
            @if let Some(mask) = &verdict.obligations.mask { " · masked by " (word(&mask.rules.iter().map(|rule| rule.as_str()).collect::<Vec<_>>().join(", "))) }
            @if let Some(would) = &verdict.would { " · enforce would say " (would.as_str().replace('_', " ")) }
        }
        @if let Effect::Hold(spec) = &verdict.effect { @for requirement in &spec.requirements { @if let Some(stage) = requirement.stages.first() {
            p.small.muted { "Waits for " (stage.need) " of " (stage.any_of.iter().map(|group| group.as_str()).collect::<Vec<_>>().join(" or ")) }
        } } }
        @if let Some(denial) = denied { p { (word(&denial.reason)) } (refusal(denial, &verdict.decision.to_string())) }
    })
}

fn refusal(denial: &Denial, decision: &str) -> Markup {
    html! {
        p.small {
            span.muted { (denial.cause.as_str().replace('_', " ")) ", decision " } code { (decision) }
            @if let Some(rule) = &denial.rule { span.muted { ", rule " } code { (rule) } }
            @if let Some(remedy) = &denial.remedy { br; "Instead: " (super::parts::link(remedy)) }
        }
    }
}

fn voted(vote: &Vote) -> Step {
    let (class, name) = match vote.decision {
        VoteDecision::Approve => ("good", "approve vote"),
        VoteDecision::Deny => ("bad", "deny vote"),
    };
    let groups: Vec<&str> = vote.by.groups.iter().map(|group| group.as_str()).collect();
    Step::new(
        class,
        name,
        html! {
            strong { (word(vote.by.name())) } span.muted { " (" (word(&groups.join(", "))) "), by " (word(&vote.by.via)) }
            @if let Some(grant) = &vote.grant { ", grants it for " (rough(grant.duration.as_secs())) }
            @if let Some(reason) = &vote.reason { ": “" (word(reason)) "”" }
        },
    )
}

fn resolved(resolution: &Resolution) -> Step {
    match resolution {
        Resolution::Approved { votes, basis } => {
            let names: Vec<&str> = votes.iter().map(|vote| vote.by.name()).collect();
            Step::new(
                "good",
                "approved",
                html! {
                    "by " (word(&names.join(", ")))
                    @match basis {
                        None => {},
                        Some(Basis::Reuse { of }) => { ", on " code { (of) } ", used again" },
                        Some(Basis::TakenUp { of }) => { ", on " code { (of) } ", whose client was gone" },
                        Some(Basis::Grant { grant, left }) => { ", under " code { (grant) } @if let Some(left) = left { ", " (left) " uses left" } },
                    }
                },
            )
        }
        Resolution::Denied { vote } => Step::new("bad", "denied", html! { "by " (word(vote.by.name())) }),
        Resolution::Expired => Step::new("bad", "denied", html! { "nobody decided in time" }),
        Resolution::Withdrawn { reason } => {
            Step::new("", "withdrawn", word(&format!("{reason:?}").to_lowercase()))
        }
    }
}

fn answered(outcome: &Outcome) -> Step {
    let (class, status) = match &outcome.status {
        OutcomeStatus::Completed { tag } => ("", tag.clone()),
        OutcomeStatus::Failed { sqlstate } => ("bad", format!("the server refused it, SQLSTATE {sqlstate}")),
        OutcomeStatus::Responded { status } => ("", format!("HTTP status {status}")),
        OutcomeStatus::Suspended => ("", "suspended at the portal's row limit".to_owned()),
        OutcomeStatus::Skipped => ("", "skipped by the server after an earlier failure".to_owned()),
        OutcomeStatus::Broken => ("bad", "the connection ended before the answer".to_owned()),
    };
    Step::new(
        class,
        "answered",
        html! {
            (word(&status))
            span.muted.num {
                ", " (number(outcome.rows)) " " (plural(usize::try_from(outcome.rows).unwrap_or(2), "row", "rows"))
                ", " (number(outcome.bytes_out)) " bytes out"
                @if outcome.bytes_in > 0 { ", " (number(outcome.bytes_in)) " bytes in" }
                ", " (number(outcome.elapsed_micros.div_ceil(1_000))) " ms"
            }
            @if outcome.masked_fields > 0 { " " span.chip.warn { (number(outcome.masked_fields)) " fields masked" } }
        },
    )
}

fn rows_table(columns: &[String], rows: &[Vec<Option<String>>], truncated: bool) -> Markup {
    html! {
        div.table tabindex="0" role="region" aria-label="Rows as the client saw them" {
            table {
                thead { tr { @for column in columns { th scope="col" { (word(column)) } } } }
                tbody { @for row in rows { tr { @for value in row { td.mono {
                    @match value { Some(value) => (marked(value)), None => span.muted { "NULL" } }
                } } } } }
            }
        }
        @if truncated { p.small.muted { "The result went on; these are its first rows." } }
    }
}

fn ended(closing: &Closing) -> Step {
    Step::new(
        "",
        "ended",
        html! {
            (closing.reason.as_str().replace('_', " "))
            @if let Some(detail) = &closing.detail { ": " (word(detail)) }
            span.muted.num {
                ", " (number(closing.operations)) " operations, " (number(closing.bytes_from_client)) " bytes in, "
                (number(closing.bytes_to_client)) " bytes out, " (rough(Duration::from_micros(closing.elapsed_micros).as_secs()))
            }
        },
    )
}

/// Who and where, from the record that began the session.
pub(super) fn who(records: &[Record], now: Timestamp) -> Markup {
    let session = records.iter().find_map(|record| match &record.event.kind {
        EventKind::SessionStarted(session) => Some(session),
        _ => None,
    });
    let Some(session) = session else { return html! {} };
    let (workload, process) = (&session.workload, &session.workload.process);
    html! {
        (super::parts::fact("Established by", &workload.established_by))
        @if let Some(ci) = &workload.ci {
            dt { "CI job" }
            dd {
                (word(&[Some(ci.provider.as_str()), ci.repository.as_deref(), ci.workflow.as_deref(), ci.run_id.as_deref(), ci.git_ref.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" › ")))
                " " (super::parts::assurance(ci.assurance.0.as_str()))
                @if let Some(url) = &ci.run_url { br; (super::parts::link(url)) }
            }
        }
        @if let Some(pod) = &workload.pod {
            dt { "Pod" }
            dd { (word(&[pod.namespace.as_deref(), pod.name.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("/"))) " " (super::parts::assurance(pod.assurance.0.as_str())) }
        }
        @for ticket in &workload.tickets {
            dt { "Change ticket" }
            dd { (word(&ticket.id)) " " span.muted { (ticket.source.words()) "; " (ticket.vouched()) }
                @if let Some(url) = &ticket.url { br; (super::parts::link(url)) } }
        }
        dt { "Process" }
        dd { "pid " (process.pid) ", uid " (process.uid) @if let Some(exe) = &process.exe { ", " (word(exe)) } }
        (super::parts::fact("Control group", workload.cgroup.as_deref().unwrap_or_default()))
        dt { "Opened" } dd { (time(session.opened_at, now)) }
    }
}
