//! One request, one screen, ten seconds: what would happen in a sentence made from the parsed operation, what could hurt, the
//! exact text, who asks and how sure that is, what came before, and the decision. Opening it decides nothing.

use super::{
    Console,
    approvals::need,
    page::{Page, Refusal, Section, Visit, csrf, no_default},
    parts::{
        assurance, bytes, fact, link, list, marked, plural, risk, rough, said, state, statement, time,
        time_left, time_of, word,
    },
};
use crate::{
    api::{host, problem::Problem},
    approvals::case::Case,
    auth::{Caller, Role},
    view,
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use lockgate_model::{Timestamp, grant::MAX_GRANT_USES, operation::Facts};
use maud::{Markup, html};
use serde_json::Value;
use std::sync::Arc;

/// Times that a grant is offered for, seconds; those beyond the rule's longest are not.
const GRANT_TIMES: [(u64, &str, &str); 6] = [
    (300, "5m", "5 minutes"),
    (900, "15m", "15 minutes"),
    (1_800, "30m", "30 minutes"),
    (3_600, "1h", "1 hour"),
    (14_400, "4h", "4 hours"),
    (28_800, "8h", "8 hours"),
];

/// Arguments of a command line that are shown; the rest is counted.
const ARGUMENTS: usize = 12;

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
) -> Response {
    let page = find(&console, &visit.caller, &id).map(|case| page(&console, &visit, &case));
    console.answer(&visit, page)
}

/// The request, if there is one that this caller may see.
pub(super) fn find(console: &Console, caller: &Caller, id: &str) -> Result<Arc<Case>, Refusal> {
    let case = id.parse().ok().and_then(|id| console.desk.registry.find(id));
    case.filter(|case| host::may_see(caller, case)).ok_or_else(|| {
        let detail = "no request of that id waits here, and none was resolved lately; what was decided earlier is found by search";
        Problem::new(StatusCode::NOT_FOUND, "unknown_request", "Unknown request", detail).into()
    })
}

fn page(console: &Console, visit: &Visit, case: &Arc<Case>) -> Page {
    let now = console.desk.ambient.now();
    let whole = host::whole(&console.desk, case, host::sight(&visit.caller, case));
    let whole = serde_json::to_value(whole).unwrap_or_default();
    let id = case.request.id;
    let where_it_stands = said(&whole["state"]);
    let waits = where_it_stands == "pending";
    let body = html! {
        p.crumb { a href="/approvals" data-up { "Approvals" } " / " code { (id) } }
        div.split {
            div {
                div.card { div.body {
                    h1.sentence { (sentence(case)) }
                    div.chips {
                        (state(&where_it_stands))
                        (chips(&whole))
                    }
                    (standing(case, &whole, now))
                } }
                (hurt(case, &whole))
                (text(&whole["operation"]))
                (who(&whole, now))
                (history(case, &whole, now))
                (deliveries(&whole))
            }
            div.rail #decision { (rail(visit, case, &whole, now)) }
        }
        @if waits && visit.caller.has(Role::Approver) { a.jump href="#decision" { "Decide ↓" } }
    };
    let title = super::approvals::title(case);
    Page::new(title, Section::Approvals, body).live(format!("/approvals/{id}/live"), where_it_stands)
}

/// **Alter table orders** on **orders-db** (production), asked by **acme/billing › deploy.yml** run 4711, triggered by **ana**.
fn sentence(case: &Case) -> Markup {
    let request = &case.request;
    let session = &request.session;
    let ci = session.workload.ci.as_ref();
    let run = ci.and_then(|ci| ci.run_id.as_deref());
    let person = ci.and_then(|ci| ci.triggering_actor.as_deref().or(ci.actor.as_deref()));
    html! {
        strong { (word(&view::deed(&request.operation.facts))) }
        " on " strong { (word(session.target.name.as_str())) }
        @if let Some(env) = session.target.tags.get("env") { " (" (word(env)) ")" }
        ", asked by " strong { (word(&session.principal.display)) }
        @if let Some(run) = run { " run " (word(run)) }
        @if let Some(person) = person { ", triggered by " strong { (word(person)) } }
    }
}

fn chips(whole: &Value) -> Markup {
    let operation = &whole["operation"];
    html! {
        (risk(&said(&operation["risk"])))
        span.chip { (said(&operation["class"])) }
        (assurance(&said(&whole["identity"]["assurance"])))
        @if whole["rehearsal"] == true { span.chip.info { "rehearsal: no target is touched" } }
        @if whole["left"] == true { span.chip.warn { "the client is gone; the request waits for it to ask again" } }
        @if let Some(bundle) = whole["bundle_id"].as_str() {
            span.chip { "part of " a href={ "/bundles/" (bundle) } { "a bundle" } }
        }
    }
}

/// How far it is, or how it ended: who decided, when and why.
fn standing(case: &Case, whole: &Value, now: Timestamp) -> Markup {
    let state = case.state.borrow().clone();
    let resolution = &whole["resolution"];
    html! {
        div #standing data-live {
            @if state.progress.resolution.is_none() {
                p { strong { (need(case)) } " so far, asked " (time(case.request.created_at, now)) }
            } @else {
                p { (state_words(&said(&whole["state"])))
                    @if let Some(at) = state.resolved_at { " " (time(at, now)) }
                    @if let Some(reason) = resolution["reason"].as_str() { ": " (word(&reason.replace('_', " "))) }
                    @match resolution["basis"]["on"].as_str() {
                        Some("grant") => { ", by the grant " code { (said(&resolution["basis"]["grant"])) } },
                        Some("reuse" | "taken_up") => { ", by the decision on " a href={ "/approvals/" (said(&resolution["basis"]["of"])) } { (said(&resolution["basis"]["of"])) } },
                        _ => {},
                    }
                }
            }
            @if !state.votes.is_empty() {
                ul.stack {
                    @for vote in &state.votes {
                        li {
                            @match vote.decision {
                                lockgate_model::approval::VoteDecision::Approve => span.chip.good { "✓ approved" },
                                lockgate_model::approval::VoteDecision::Deny => span.chip.bad { "✕ denied" },
                            }
                            " " strong { (word(vote.by.name())) } " " (time(vote.at, now)) " "
                            span.muted { "by " (word(&vote.by.via)) }
                            @if let Some(grant) = &vote.grant {
                                " " span.chip { "grant for " (rough(grant.duration.as_secs())) @if let Some(uses) = grant.uses { ", " (uses) " uses" } }
                            }
                            @if let Some(reason) = &vote.reason { br; (word(reason)) }
                        }
                    }
                }
            }
        }
    }
}

fn state_words(state: &str) -> &'static str {
    match state {
        "approved" => "Approved",
        "denied" => "Denied",
        "expired" => "Nobody decided in time, so it was denied",
        "cancelled" => "Taken back before anybody decided",
        _ => "Waiting",
    }
}

/// What could hurt.
fn hurt(case: &Case, whole: &Value) -> Markup {
    let operation = &whole["operation"];
    let masked = operation["literals"] == "masked";
    let effects = list(&operation["effects"]).join(", ").replace('_', " ");
    html! {
        section.card aria-labelledby="hurt" {
            h2 #hurt { "What could hurt" }
            div.body {
                @if operation["opaque"] == true {
                    p.note.bad { strong { "Not understood." } " lockgate cannot say what this does"
                        @if let Some(why) = operation["opaque_reason"].as_str() { ": " (word(why)) } "." }
                }
                @if operation["bounded"] == false {
                    p.note.bad { strong { "Unbounded." } " It touches every row: there is no WHERE, or one that is always true." }
                }
                @if whole["in_transaction"] == true {
                    p.note.warn { strong { "Inside a transaction." } " Its locks are held while this waits"
                        @if let Some(since) = whole["created_at"].as_str() { ", at least since " (since.get(11..19).unwrap_or(since)) " UTC" } "." }
                }
                @if case.request.operation.touches_masked {
                    p.note.warn { strong { "Touches masked columns." } " Literals and bound values are shown to nobody." }
                } @else if masked {
                    p.note { "You see the shape of it: literals and bound values are for approvers." }
                }
                dl.facts {
                    dt { "Class and risk" }
                    dd { (said(&operation["class"])) ", " (risk(&said(&operation["risk"]))) }
                    (http(operation))
                    (fact("Effects", &effects))
                    (fact("Writes", &list(&operation["tables_written"]).join(", ")))
                    (fact("Reads", &list(&operation["tables_read"]).join(", ")))
                    (fact("Columns", &list(&operation["columns"]).join(", ")))
                    (fact("Functions", &list(&operation["functions"]).join(", ")))
                    (fact("Second opinion", &said(&operation["second_opinion"])))
                    (fact("Database", &said(&whole["database"])))
                    (fact("As role", &said(&whole["role"])))
                    (fact("search_path", &said(&whole["search_path"])))
                }
            }
        }
    }
}

/// What a request over HTTP names; nothing of a statement.
fn http(operation: &Value) -> Markup {
    if !operation["method"].is_string() {
        return html! {};
    }
    let fields = |name: &str| -> Vec<String> {
        let fields = operation[name].as_array().into_iter().flatten();
        fields.map(|field| format!("{}: {}", said(&field["name"]), said(&field["value"]))).collect()
    };
    let body = &operation["body"];
    html! {
        (fact("Method", &said(&operation["method"])))
        (fact("Host", &said(&operation["host"])))
        (fact("Path", &said(&operation["path"])))
        (fact("Route", &said(&operation["route"])))
        (fact("Query", &fields("query").join(", ")))
        (fact("Headers", &fields("headers").join(", ")))
        (fact("Upgrade", &said(&operation["upgrade"])))
        (fact("Body", &[said(&body["state"]), body["bytes"].as_u64().map_or(String::new(), |count| format!("{count} bytes"))].join(" ")))
    }
}

/// The exact text and what is bound to it.
fn text(operation: &Value) -> Markup {
    let whole = operation["statement"].as_str().unwrap_or_default();
    let values = operation["bound_values"].as_array().map(Vec::as_slice).unwrap_or_default();
    html! {
        section.card aria-labelledby="text" {
            header {
                h2 #text { @if operation["literals"] == "masked" { "The statement, literals replaced" } @else if operation["method"].is_string() { "The exact request" } @else { "The exact statement" } }
                span.small.muted { (bytes(whole.len())) }
            }
            div.body {
                (statement(whole))
                @if !values.is_empty() {
                    h3 { (values.len()) " bound " (plural(values.len(), "value", "values")) }
                    div.table tabindex="0" role="region" aria-label="Bound values" {
                        table {
                            thead { tr { th scope="col" { "Parameter" } th scope="col" { "Value" } th scope="col" { "Type" } } }
                            tbody { @for value in values { tr {
                                td.mono { "$" (said(&value["position"])) }
                                td { (bound(value)) }
                                td.muted { (said(&value["type"])) @if value["format"] == "binary" { ", binary" } }
                            } } }
                        }
                    }
                }
            }
        }
    }
}

fn bound(value: &Value) -> Markup {
    match (&value["masked"], value["value"].as_str()) {
        (Value::Bool(true), _) => html! { span.chip.warn { "masked" } },
        (_, None) => html! { code { "NULL" } },
        (_, Some(text)) => html! { code.sql { (marked(text)) } },
    }
}

/// Who asks, and how sure that is.
fn who(whole: &Value, now: Timestamp) -> Markup {
    let identity = &whole["identity"];
    let (process, ci, pod, claims) =
        (&identity["process"], &identity["ci"], &identity["pod"], &identity["client_claims"]);
    let argv = list(&process["argv"]);
    let shown: Vec<String> = argv.iter().take(ARGUMENTS).cloned().collect();
    let hidden = process["argv_count"].as_u64().unwrap_or(0).saturating_sub(shown.len() as u64);
    html! {
        section.card aria-labelledby="who" {
            h2 #who { "Who asks, and how sure" }
            div.body {
                dl.facts {
                    dt { "Identity" }
                    dd { code { (word(&said(&identity["principal"]))) } " " (assurance(&said(&identity["assurance"]))) }
                    (fact("Established by", &said(&identity["established_by"])))
                    @if ci.is_object() { (job(ci)) }
                    @if pod.is_object() { (a_pod(pod)) }
                    @for ticket in identity["tickets"].as_array().into_iter().flatten() {
                        dt { "Change ticket" }
                        dd {
                            strong { (word(&said(&ticket["id"]))) } " " span.muted { (word(&said(&ticket["standing"]))) }
                            @if let Some(url) = ticket["url"].as_str() { br; (link(url)) }
                        }
                    }
                    (fact("Unit", &said(&identity["unit"]["name"])))
                    (fact("Container", &said(&identity["container"]["id"])))
                    (fact("Control group", &said(&identity["cgroup"])))
                    (fact("Host", &said(&whole["node"])))
                    dt { "Process" }
                    dd {
                        "pid " (said(&process["pid"])) ", uid " (said(&process["uid"]))
                        @if let Some(user) = process["user"].as_str() { " (" (word(user)) ")" }
                        @if process["exited"] == true { " " span.chip.warn { "has exited" } }
                    }
                    (fact("Program", &said(&process["exe"])))
                    (fact("SHA-256 of it", &said(&process["exe_sha256"])))
                    @if !shown.is_empty() {
                        dt { "Command line" }
                        dd { code.sql { (marked(&shown.join(" "))) } @if hidden > 0 { span.muted { " and " (hidden) " more arguments" } } }
                    }
                    (fact("In directory", &said(&process["cwd"])))
                    @if let Some(parents) = process["ancestry"].as_array().filter(|parents| !parents.is_empty()) {
                        dt { "Process tree" }
                        dd.tree { @for (depth, parent) in parents.iter().rev().chain([&serde_json::json!({ "pid": process["pid"], "name": argv.first().cloned().unwrap_or_default() })]).enumerate() {
                            span { ("  ".repeat(depth)) @if depth > 0 { "└ " } (word(&said(&parent["name"]))) span.muted { " " (said(&parent["pid"])) } }
                        } }
                    }
                    dt { "Says of itself" }
                    dd {
                        "user " (word(&said(&claims["user"])))
                        @if let Some(name) = claims["application_name"].as_str() { ", application " (word(name)) }
                        " " (assurance("claimed"))
                    }
                    dt { "Session" }
                    dd { a href={ "/sessions/" (said(&whole["session_id"])) } { code { (said(&whole["session_id"])) } }
                        " " @if let Some(at) = time_of(&whole["created_at"], now) { span.muted { "held " (at) } } }
                }
            }
        }
    }
}

fn job(ci: &Value) -> Markup {
    html! {
        dt { "CI job" }
        dd {
            (word(&said(&ci["provider"]))) " " (assurance(&said(&ci["assurance"])))
            @if let Some(why) = ci["unconfirmed"].as_str() { br; span.muted { "not confirmed: " (word(why)) } }
        }
        (fact("Attested by", &said(&ci["established_by"])))
        (fact("Repository", &said(&ci["repository"])))
        (fact("Workflow", &said(&ci["workflow"])))
        (fact("Job", &said(&ci["job"])))
        @if let Some(run) = ci["run_id"].as_str() {
            dt { "Run" }
            dd { (word(run)) @if let Some(attempt) = ci["run_attempt"].as_str() { ", attempt " (word(attempt)) }
                @if let Some(url) = ci["run_url"].as_str() { br; (link(url)) } }
        }
        @if let Some(at) = ci["ref"].as_str() {
            dt { "Ref" }
            dd { (word(at)) " " @match ci["ref_protected"].as_bool() {
                Some(true) => span.chip.good { "✓ protected" },
                Some(false) => span.chip.warn { "not protected" },
                None => span.muted { "(protection not known)" },
            } }
        }
        (fact("Commit", &said(&ci["commit"])))
        (fact("Commit author", &said(&ci["commit_author"])))
        (fact("Commit message", &said(&ci["commit_message"])))
        (fact("Source branch", &said(&ci["source_branch"])))
        (fact("Merge request", &said(&ci["merge_request"])))
        (fact("Event", &said(&ci["event_name"])))
        (fact("Actor", &said(&ci["actor"])))
        (fact("Triggered by", &said(&ci["triggering_actor"])))
        (fact("Runner", &said(&ci["runner"])))
    }
}

fn a_pod(pod: &Value) -> Markup {
    html! {
        dt { "Pod" }
        dd {
            (word(&[said(&pod["namespace"]), said(&pod["name"])].join("/"))) " " (assurance(&said(&pod["assurance"])))
            @if let Some(why) = pod["unconfirmed"].as_str() { br; span.muted { "not confirmed: " (word(why)) } }
        }
        (fact("Service account", &said(&pod["service_account"])))
        (fact("Owner", &said(&pod["owner"])))
        (fact("Image", &said(&pod["image"])))
        (fact("Kubernetes node", &said(&pod["node"])))
        (fact("Pod UID", &said(&pod["uid"])))
    }
}

/// What came before, what holds it, who else can decide.
fn history(case: &Case, whole: &Value, now: Timestamp) -> Markup {
    let earlier = whole["earlier"].as_array().map(Vec::as_slice).unwrap_or_default();
    html! {
        section.card aria-labelledby="history" {
            h2 #history { "Before, and why it is held" }
            div.body {
                @if earlier.is_empty() {
                    p.muted { "Nobody asked for exactly this before, as far as this node remembers." }
                } @else {
                    div.table tabindex="0" role="region" aria-label="Identical requests" {
                        table {
                            thead { tr { th scope="col" { "The same, asked" } th scope="col" { "Outcome" } th scope="col" { "By whom, and why" } } }
                            tbody { @for one in earlier { tr {
                                td { a href={ "/approvals/" (said(&one["request_id"])) } { (time_of(&one["created_at"], now).unwrap_or_default()) } }
                                td { (state(&said(&one["state"]))) }
                                td { @for vote in one["votes"].as_array().into_iter().flatten() {
                                    (word(&said(&vote[0]))) @if let Some(why) = vote[1].as_str() { ": " (word(why)) } " "
                                } }
                            } } }
                        }
                    }
                }
                @for requirement in &case.request.spec.requirements {
                    dl.facts {
                        dt { "Rule" }
                        dd { a href={ "/policies#rule-" (requirement.rule) } { code { (requirement.rule) } }
                            @if let Some(why) = &requirement.description { br; (word(why)) } }
                        dt { "Who can decide" }
                        dd { ol { @for stage in &requirement.stages { li {
                            (stage.need) " of " strong { (stage.any_of.iter().map(|group| group.as_str()).collect::<Vec<_>>().join(" or ")) }
                            @if stage.at.is_zero() { ", from the start" } @else { ", after " (rough(stage.at.as_secs())) }
                        } } } }
                        @if requirement.deny_votes > 1 { (fact("Refused by", &format!("{} denials", requirement.deny_votes))) }
                        dt { "Never" }
                        dd { "the requester" @for who in &requirement.exclude { @match who {
                            lockgate_model::verdict::Exclude::Requester => {},
                            lockgate_model::verdict::Exclude::TriggeringActor => ", who triggered the run",
                            lockgate_model::verdict::Exclude::CommitAuthor => ", who wrote the commit",
                        } } }
                    }
                }
                dl.facts {
                    @if let Some(digest) = whole["command_digest"].as_str() { dt { "Digest" } dd { code.small { (digest) } } }
                    dt { "Decision" } dd { code { (case.request.decision()) } }
                    dt { "Policy" } dd { code { (case.request.verdict.policy) } }
                    @if let Some(earlier) = whole["takes_up"].as_str() { dt { "Takes up" } dd { code { (earlier) } } }
                }
            }
        }
    }
}

/// Who was told, and whether that worked.
fn deliveries(whole: &Value) -> Markup {
    let told = whole["notifications"].as_object();
    html! {
        section.card #told data-live aria-labelledby="told-title" {
            h2 #told-title { "Who was told" }
            div.body {
                @match told.filter(|told| !told.is_empty()) {
                    None => p.muted { "No channel has been tried yet, or none is configured." },
                    Some(told) => ul.stack { @for (channel, it) in told { li {
                        @if it["delivered"] == true { span.chip.good { "✓ delivered" } }
                        @else { span.chip.warn { "not delivered yet" } }
                        " " strong { (word(channel)) }
                        span.muted { ", tried " (said(&it["attempts"])) " " (plural(usize::try_from(it["attempts"].as_u64().unwrap_or(0)).unwrap_or(0), "time", "times"))
                            @if let Some(status) = it["last_status"].as_u64() { ", HTTP " (status) } }
                        @if let Some(error) = it["last_error"].as_str() { br; (word(error)) }
                    } } },
                }
            }
        }
    }
}

/// The decision: what each button does stands on it.
fn rail(visit: &Visit, case: &Case, whole: &Value, now: Timestamp) -> Markup {
    let progress = case.state.borrow().progress.clone();
    let over = progress.resolution.is_some();
    html! {
        section.card aria-labelledby="decide-title" {
            h2 #decide-title { "Decision" }
            div.body {
                @if over {
                    p { (state(&said(&whole["state"]))) " There is nothing to decide any more." }
                    p { a href={ "/sessions/" (said(&whole["session_id"])) } { "See what the session did next" } }
                } @else {
                    (time_left(case.request.created_at, progress.expires_at, now))
                    (form(visit, case))
                }
            }
        }
    }
}

fn form(visit: &Visit, case: &Case) -> Markup {
    let request = &case.request;
    let caller = &visit.caller;
    let requirements = &request.spec.requirements;
    let what = kind(case);
    if !caller.has(Role::Approver) {
        return html! { p.note { "You see this and do not decide it: that takes the role approver, and a group that the rule names." } };
    }
    let asks =
        |group| requirements.iter().any(|it| it.stages.iter().any(|stage| stage.any_of.contains(group)));
    let may = caller.groups().iter().any(asks);
    let own = caller.uids().any(|uid| host::own(case, uid));
    let must = requirements.iter().any(|it| it.require_reason);
    let longest =
        requirements.iter().map(|it| it.terms.max_grant.unwrap_or(lockgate_model::grant::MAX_GRANT)).min();
    let longest = longest.unwrap_or_default().as_secs();
    html! {
        @if own { p.note.warn { "This request is yours: somebody else has to decide it." } }
        @else if !may { p.note.warn { "The rule names none of your groups; your decision will not count." } }
        form #decide method="post" action={ "/approvals/" (request.id) "/decide" } {
            (csrf(caller))
            input type="hidden" name="command_digest" value=(request.operation.digest);
            (no_default())
            div.field {
                label for="reason" { "Reason " span.hint { @if must { "(the rule requires one)" } @else { "(recorded; the job's log shows it)" } } }
                textarea #reason name="reason" maxlength="4000" rows="2" required[must] {}
            }
            button.primary name="decision" value="approve" { "Approve this " (what) " once" }
            @if longest > 0 {
                details #grant {
                    summary { "Approve it for a time" }
                    div.stack {
                        p.small.muted { "The same identity may then do this same shape on this target without asking, until the time or the uses are over, or somebody revokes it." }
                        div.field {
                            label for="for" { "For" }
                            select #for name="for" {
                                @for (seconds, value, name) in GRANT_TIMES {
                                    @if seconds <= longest { option value=(value) selected[seconds == 900.min(longest)] { (name) } }
                                }
                                @if longest < 300 { option value=(format!("{longest}s")) { (rough(longest)) } }
                            }
                        }
                        div.field {
                            label for="uses" { "Uses " span.hint { "(empty: as often as it comes)" } }
                            input #uses name="uses" type="number" inputmode="numeric" min="1" max=(MAX_GRANT_USES);
                        }
                        button name="decision" value="grant" { "Approve " (what) "s like this for that time" }
                    }
                }
            }
            button.danger name="decision" value="deny" { "Deny this " (what) }
        }
        p.small.muted { "Bound to digest " code { (request.operation.digest.to_string().get(..12).unwrap_or_default()) } "…: if anything about it changes, this decision does not count." }
    }
}

/// `ALTER TABLE`
pub(super) fn kind(case: &Case) -> String {
    let facts = &case.request.operation.facts;
    if facts.is_opaque() {
        return match &**facts {
            Facts::Sql(_) => "statement".to_owned(),
            Facts::Http(_) => "request".to_owned(),
        };
    }
    facts.kind().replace('_', " ").to_uppercase()
}
