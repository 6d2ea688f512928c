//! A notification in words for people: the same facts in the same order for Slack, mail and templates. Made from the
//! event that webhooks get, so what is masked or cut there is masked or cut here.
//!
//! Nothing is escaped here; who puts it into markup does that. Whatever could reorder or hide text is spelled out already.

use super::event::EventType;
use crate::text::{clip, visible};
use serde::Serialize;
use serde_json::Value;

/// Bytes of one fact; the statement has a bound of its own in each channel.
const FACT_MAX: usize = 400;

/// Items of a list that are named.
const LIST_MAX: usize = 12;

/// Requests of a bundle that are shown, and bytes of each statement.
const BUNDLE_MAX: usize = 10;
const BUNDLE_STATEMENT: usize = 160;

/// What people are shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Brief {
    /// Fixed words: what this is about.
    pub(crate) heading: &'static str,
    /// Nothing will run, whatever is decided.
    pub(crate) rehearsal: bool,
    /// One sentence, made from the parsed operation.
    pub(crate) summary: String,
    /// The exact statement (its shape, where masks apply); empty where there is none.
    pub(crate) statement: String,
    /// Its length, and whether all of it is in `statement`.
    pub(crate) statement_bytes: u64,
    pub(crate) statement_cut: bool,
    /// Literals are left out.
    pub(crate) masked: bool,
    /// Label and text.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// How it ended, who decided and why; one line each.
    pub(crate) outcome: Vec<String>,
    /// Statements that are decided together.
    pub(crate) bundle: Vec<String>,
    /// A reason is required.
    pub(crate) reason_required: bool,
    /// Where people look at it and decide.
    pub(crate) link: String,
    pub(crate) expires_at: String,
}

impl Brief {
    /// Of an event as [`super::event::value`] makes it.
    pub(crate) fn of(kind: EventType, event: &Value) -> Self {
        let data = &event["data"];
        let operation = &data["operation"];
        let statement = text(&operation["statement_display"]);
        let bytes = operation["statement_bytes"].as_u64().unwrap_or(0);
        let link = [&data["console_url"], &data["url"]].into_iter().map(text).find(|link| !link.is_empty());
        let mut facts = Facts(Vec::new());
        facts.gather(data);
        Self {
            heading: heading(kind, data["stage"].as_str().unwrap_or_default()),
            rehearsal: data["rehearsal"].as_bool().unwrap_or(false),
            summary: one_line(&text(&data["summary"])),
            statement_cut: is_cut(data, "/operation/statement"),
            statement,
            statement_bytes: bytes,
            masked: operation["literals"] == "masked",
            facts: facts.0,
            outcome: outcome(&data["resolution"]),
            bundle: bundle(&data["bundle"]),
            reason_required: list(&data["rules"]).any(|rule| rule["require_reason"] == true),
            link: link.unwrap_or_default(),
            expires_at: text(&data["expires_at"]),
        }
    }
}

/// What each kind of message is called; never anybody's text.
fn heading(kind: EventType, stage: &str) -> &'static str {
    match kind {
        EventType::Gap => match stage {
            "hook_lost" => "ALARM: a capture hook was taken away",
            "kernel_events" => "ALARM: reports from the kernel are missing",
            "shelf" => "ALARM: what outlives a restart was changed",
            _ => "ALARM: a gap in the record",
        },
        EventType::Requested => "Approval needed",
        EventType::Updated => "Approval needed, more was added",
        EventType::Escalated => "Approval still needed, escalated",
        EventType::Approved => "Approved",
        EventType::Denied => "Denied",
        EventType::Expired => "Expired, nobody decided in time",
        EventType::Cancelled => "Cancelled by the client",
        EventType::Consumed => "Approved and sent on",
        EventType::GlassUsed => "Emergency override used",
        EventType::GlassEnded => "Emergency override ended",
        EventType::GlassOverdue => "Emergency override not reviewed",
        EventType::SessionStarted => "Session started",
        EventType::SessionEnded => "Session ended",
        EventType::Bypass => "ALARM: a connection went past lockgate",
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => visible(text).into_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => visible(&value.to_string()).into_owned(),
    }
}

/// What may stand in one line: a stranger's line feed begins none of ours.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\t'], " ⏎ ")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn words(value: &Value) -> String {
    let all: Vec<String> = list(value).map(text).collect();
    let mut shown = all.iter().take(LIST_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    if all.len() > LIST_MAX {
        shown.push_str(&format!(" and {} more", all.len() - LIST_MAX));
    }
    shown
}

fn is_cut(data: &Value, place: &str) -> bool {
    data["truncated"] == true && data["cut"].get(place).is_some()
}

/// Labels and texts; what is not known is left out.
struct Facts(Vec<(&'static str, String)>);

impl Facts {
    fn put(&mut self, label: &'static str, text: impl Into<String>) {
        let text = one_line(&text.into());
        if !text.is_empty() {
            let cut = clip(&text, FACT_MAX);
            let more = if cut.len() < text.len() { "…" } else { "" };
            let text = format!("{cut}{more}");
            // Several rules, several needs: one entry a label.
            match self.0.iter_mut().find(|(known, _)| *known == label) {
                Some((_, known)) => *known = format!("{known}; {text}"),
                None => self.0.push((label, text)),
            }
        }
    }

    fn gather(&mut self, data: &Value) {
        self.effects(&data["operation"]);
        self.place(data);
        self.origin(&data["identity"]);
        self.process(data);
        self.demand(data);
        self.others(data);
    }

    fn effects(&mut self, operation: &Value) {
        let mut effects = vec![text(&operation["kind"]).replace('_', " "), text(&operation["class"])];
        effects.extend(list(&operation["effects"]).map(text).map(|effect| effect.replace('_', " ")));
        effects.retain(|effect| !effect.is_empty());
        self.put("Effect", effects.join(", "));
        self.put("Risk", text(&operation["risk"]));
        self.put("Writes", words(&operation["tables_written"]));
        self.put("Reads", words(&operation["tables_read"]));
        self.put("Functions", words(&operation["functions"]));
        match operation["bounded"].as_bool() {
            Some(true) => self.put("Bounded", "yes, a condition limits the rows"),
            Some(false) => self.put("Bounded", "NO, it takes every row"),
            None => {}
        }
        if operation["opaque"] == true {
            self.put("Not understood", text(&operation["opaque_reason"]));
        }
        let values = list(&operation["bound_values"]).map(|value| {
            let shown = if value["masked"] == true { "masked".to_owned() } else { shown_value(value) };
            format!("${} ({}) = {shown}", text(&value["position"]), text(&value["type"]))
        });
        self.put("Bound values", values.take(LIST_MAX).collect::<Vec<_>>().join(", "));
    }

    fn place(&mut self, data: &Value) {
        let tags = data["target"]["tags"].as_object();
        let tags =
            tags.into_iter().flatten().map(|(key, value)| format!("{}: {}", visible(key), text(value)));
        let tags = tags.take(LIST_MAX).collect::<Vec<_>>().join(", ");
        let name = text(&data["target"]["name"]);
        self.put("Target", if tags.is_empty() { name } else { format!("{name} ({tags})") });
        let (database, role) = (text(&data["database"]), text(&data["role"]));
        if !database.is_empty() {
            self.put("Database", format!("{database}, as {role}"));
        }
        match data["in_transaction"].as_bool() {
            Some(true) => self.put("Transaction", "OPEN: locks are held while it waits"),
            Some(false) => self.put("Transaction", "none open"),
            None => {}
        }
    }

    fn origin(&mut self, identity: &Value) {
        self.put("Asked by", text(&identity["display"]));
        let ci = &identity["ci"];
        self.put("Repository", text(&ci["repository"]));
        let (workflow, job) = (text(&ci["workflow"]), text(&ci["job"]));
        self.put("Workflow", if job.is_empty() { workflow } else { format!("{workflow} › {job}") });
        self.put("Commit", joined(&ci["commit"], "by", &ci["commit_author"]));
        let protected = match ci["ref_protected"].as_bool() {
            Some(true) => " (protected)",
            Some(false) => " (NOT protected)",
            None => " (not known whether protected)",
        };
        let git_ref = text(&ci["ref"]);
        self.put("Ref", if git_ref.is_empty() { git_ref } else { format!("{git_ref}{protected}") });
        self.put("Event", text(&ci["event_name"]));
        self.put("Actor", text(&ci["actor"]));
        self.put("Triggering actor", text(&ci["triggering_actor"]));
        let run = [text(&ci["run_url"]), text(&ci["run_id"])].into_iter().find(|run| !run.is_empty());
        let attempt = text(&ci["run_attempt"]);
        let attempt = if attempt.is_empty() { attempt } else { format!(", attempt {attempt}") };
        self.put("Run", run.map(|run| format!("{run}{attempt}")).unwrap_or_default());
        self.put("Commit message", text(&ci["commit_message"]));
        self.put("Source branch", text(&ci["source_branch"]));
        self.put("Merge request", text(&ci["merge_request"]));
        for ticket in list(&identity["tickets"]) {
            let (id, standing, url) = (text(&ticket["id"]), text(&ticket["standing"]), text(&ticket["url"]));
            let url = if url.is_empty() { url } else { format!(" {url}") };
            self.put("Change ticket", format!("{id} ({standing}){url}"));
        }
        self.put("CI facts are", joined(&ci["assurance"], "by", &ci["established_by"]));
        self.put("CI not confirmed", text(&ci["unconfirmed"]));
        let pod = &identity["pod"];
        let name = text(&pod["name"]);
        let name = if name.is_empty() { text(&pod["uid"]) } else { name };
        let namespace = text(&pod["namespace"]);
        self.put("Pod", if namespace.is_empty() { name } else { format!("{namespace}/{name}") });
        self.put("Service account", text(&pod["service_account"]));
        self.put("Pod not confirmed", text(&pod["unconfirmed"]));
        self.put("Unit", text(&identity["unit"]["name"]));
    }

    fn process(&mut self, data: &Value) {
        let identity = &data["identity"];
        let process = &identity["process"];
        self.put("Node", text(&data["node"]));
        if process["pid"].as_u64().is_some_and(|pid| pid != 0) {
            let uid = format!("{} (uid {})", text(&process["user"]), text(&process["uid"]));
            self.put(
                "Executable",
                format!("{}, pid {}, {uid}", text(&process["exe"]), text(&process["pid"])),
            );
        }
        let ancestry = list(&process["ancestry"]).map(|ancestor| text(&ancestor["name"]));
        self.put("Started by", ancestry.take(LIST_MAX).collect::<Vec<_>>().join(" ← "));
        let established = text(&identity["established_by"]);
        let assurance = text(&identity["assurance"]);
        self.put(
            "Assurance",
            if established.is_empty() { assurance } else { format!("{assurance}: {established}") },
        );
    }

    fn demand(&mut self, data: &Value) {
        for rule in list(&data["rules"]) {
            let description = text(&rule["description"]);
            let id = text(&rule["id"]);
            self.put("Rule", if description.is_empty() { id } else { format!("{id}: {description}") });
        }
        for need in list(&data["need"]) {
            let (have, of) = (text(&need["have"]), text(&need["need"]));
            self.put("Needs", format!("{have} of {of} from {}", words(&need["any_of"])));
        }
        self.put("Expires", text(&data["expires_at"]));
        let earlier: Vec<String> = list(&data["earlier"])
            .map(|earlier| format!("{} {}", text(&earlier["created_at"]), text(&earlier["state"])))
            .collect();
        self.put("The same before", earlier.join(", "));
        self.put("Request", text(&data["request_id"]));
    }

    /// What is told of emergency overrides, sessions and gaps.
    fn others(&mut self, data: &Value) {
        let by = [&data["by"]["name"], &data["by"]["id"]].map(text);
        self.put("By", by.into_iter().find(|by| !by.is_empty()).unwrap_or_default());
        if data["by"].is_object() {
            self.put("Rule", text(&data["rule"]));
        }
        self.put("Reason", text(&data["reason"]));
        self.put("Ticket", text(&data["ticket"]));
        self.put("Until", text(&data["ends_at"]));
        if data["stage"].is_string() {
            self.put("Stage", text(&data["stage"]));
            self.put("How often", text(&data["count"]));
            self.put("When", text(&data["happened_at"]));
        }
        self.put("Ended because", text(&data["closing"]["reason"]));
        self.put("Session", text(&data["session_id"]));
    }
}

fn shown_value(value: &Value) -> String {
    match &value["value"] {
        Value::Null => "NULL".to_owned(),
        value => text(value),
    }
}

fn joined(first: &Value, by: &str, second: &Value) -> String {
    let (first, second) = (text(first), text(second));
    if first.is_empty() || second.is_empty() { first } else { format!("{first}, {by} {second}") }
}

/// Who decided, and why.
fn outcome(resolution: &Value) -> Vec<String> {
    if resolution.is_null() {
        return Vec::new();
    }
    let mut lines: Vec<String> = list(&resolution["votes"])
        .map(|vote| {
            let verb = if vote["decision"] == "deny" { "denied" } else { "approved" };
            let reason = one_line(&text(&vote["reason"]));
            let reason = if reason.is_empty() { reason } else { format!(": {}", clip(&reason, FACT_MAX)) };
            format!("{verb} by {} at {}{reason}", one_line(&text(&vote["by"])), text(&vote["at"]))
        })
        .take(LIST_MAX)
        .collect();
    let outcome = text(&resolution["outcome"]);
    if lines.is_empty() {
        let why = text(&resolution["reason"]);
        lines.push(if why.is_empty() { outcome } else { format!("{outcome}: {}", why.replace('_', " ")) });
    }
    lines
}

fn bundle(bundle: &Value) -> Vec<String> {
    let all: Vec<&Value> = list(&bundle["requests"]).collect();
    let size = bundle["size"].as_u64().and_then(|size| usize::try_from(size).ok()).unwrap_or(all.len());
    let mut lines: Vec<String> = all
        .iter()
        .take(BUNDLE_MAX)
        .map(|request| {
            let statement = one_line(&text(&request["statement_display"]));
            let cut = clip(&statement, BUNDLE_STATEMENT);
            let more = if cut.len() < statement.len() { "…" } else { "" };
            format!("{cut}{more}")
        })
        .collect();
    if size > lines.len() && !lines.is_empty() {
        lines.push(format!("… and {} more, see the link", size - lines.len()));
    }
    lines
}
