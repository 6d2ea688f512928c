//! Bodies for receivers with a shape of their own: PagerDuty, Teams, Mattermost, or whatever an operator writes.
//!
//! A template is Jinja (minijinja) in which every `{{ value }}` comes out as JSON, so a stranger's text is always a string
//! and never structure. A template sees one event and nothing else: no files, no includes, bounded work, bounded output.
//! It is tried at load, on a sample with every field a request has.

use super::{
    brief::Brief,
    event::{EVENT_TYPES, EventType},
    settings::{TemplateSettings, TemplateSource},
};
use crate::text::clip;
use lockgate_model::Secret;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value as Seen, context, value::Serde};
use serde_json::Value;
use std::collections::BTreeMap;

/// Bytes of a template.
const SOURCE_MAX: usize = 64 << 10;

/// Bytes of what it makes: Teams takes 28 KB, others more.
const OUTPUT_MAX: usize = 64 << 10;

/// Steps of one run; the shipped ones take a few thousand.
const FUEL: u64 = 200_000;

/// Those that are shipped.
const NAMED: [(&str, &str); 3] = [
    ("pagerduty", include_str!("templates/pagerduty.json.j2")),
    ("teams", include_str!("templates/teams.json.j2")),
    ("mattermost", include_str!("templates/mattermost.json.j2")),
];

/// One template, known to work on the sample.
pub(crate) struct Template {
    source: String,
    vars: BTreeMap<String, Secret<String>>,
}

impl Template {
    pub(crate) fn new(settings: &TemplateSettings) -> Result<Self, String> {
        let source = match &settings.source {
            TemplateSource::Text(text) => text.clone(),
            TemplateSource::Named(name) => {
                let known = NAMED.into_iter().find(|(known, _)| known == name);
                let (_, text) = known.ok_or_else(|| {
                    let known: Vec<&str> = NAMED.into_iter().map(|(name, _)| name).collect();
                    format!("expected one of {} or a file, got {name:?}", known.join(", "))
                })?;
                text.to_owned()
            }
        };
        if source.len() > SOURCE_MAX {
            return Err(format!("expected at most {SOURCE_MAX} bytes, got {}", source.len()));
        }
        // The one way to make text that is not JSON.
        if source.contains("autoescape") {
            return Err("`autoescape` cannot be changed: every value comes out as JSON".to_owned());
        }
        let vars = settings.vars.iter();
        let vars = vars.map(|(name, value)| (name.clone(), Secret::new(value.expose().trim().to_owned())));
        let template = Self { source, vars: vars.collect() };
        template.run(&sample(), UndefinedBehavior::SemiStrict)?;
        Ok(template)
    }

    /// The body for an event.
    pub(crate) fn render(&self, event: &Value) -> Result<Vec<u8>, String> {
        self.run(event, UndefinedBehavior::Chainable)
    }

    fn run(&self, event: &Value, undefined: UndefinedBehavior) -> Result<Vec<u8>, String> {
        let kind = EVENT_TYPES.into_iter().find(|kind| event["type"] == kind.as_str());
        let kind = kind.ok_or("the event has no known type")?;
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Json);
        environment.set_undefined_behavior(undefined);
        environment.set_fuel(Some(FUEL));
        // Of fields that only some events have: nothing, as JSON says it.
        environment.set_formatter(|out, state, value| {
            let null = Seen::from(());
            let absent = value.is_undefined() && state.undefined_behavior() == UndefinedBehavior::Chainable;
            minijinja::escape_formatter(out, state, if absent { &null } else { value })
        });
        environment.remove_filter("safe");
        environment.add_filter("clip", cut);
        environment.add_filter("code", code);
        environment.add_filter("code_block", code_block);
        let vars: BTreeMap<&str, &str> =
            self.vars.iter().map(|(name, value)| (name.as_str(), value.expose().as_str())).collect();
        let context = context! {
            event => Seen::from(Serde(event)),
            data => Seen::from(Serde(&event["data"])),
            brief => Seen::from(Serde(Brief::of(kind, event))),
            vars => Seen::from(Serde(vars)),
            over => is_over(kind),
            severity => severity(kind, &event["data"]),
        };
        let made = environment.render_str(&self.source, context).map_err(|error| words(&error))?;
        if made.len() > OUTPUT_MAX {
            return Err(format!("expected a body of at most {OUTPUT_MAX} bytes, it makes {}", made.len()));
        }
        let value: Value = serde_json::from_str(&made).map_err(|error| {
            format!("it does not make JSON: {error}; values are JSON already, without quotes")
        })?;
        if !value.is_object() {
            return Err("expected it to make a JSON object".to_owned());
        }
        Ok(value.to_string().into_bytes())
    }
}

/// Where it went wrong, without the values it was given.
fn words(error: &minijinja::Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
    let detail = error.detail().map_or_else(String::new, |detail| format!(": {detail}"));
    format!("{line}{}{detail}", error.kind())
}

fn cut(text: String, bytes: usize) -> String {
    let kept = clip(&text, bytes);
    if kept.len() == text.len() { text } else { format!("{kept}…") }
}

/// Markdown code in a line: nothing in it is read, and nothing ends it.
fn code(text: String) -> String {
    let text = text.replace('`', "ˋ").replace(['\n', '\t'], " ⏎ ");
    if text.trim().is_empty() { String::new() } else { format!("`{text}`") }
}

fn code_block(text: String) -> String {
    format!("```\n{}\n```", text.replace('`', "ˋ"))
}

/// Nobody has anything left to do.
fn is_over(kind: EventType) -> bool {
    match kind {
        EventType::Approved | EventType::Denied | EventType::Expired | EventType::Cancelled => true,
        EventType::Consumed | EventType::SessionEnded => true,
        EventType::Requested | EventType::Updated | EventType::Escalated => false,
        EventType::GlassUsed | EventType::GlassEnded | EventType::GlassOverdue => false,
        EventType::SessionStarted | EventType::Gap | EventType::Bypass => false,
    }
}

/// PagerDuty's words: critical, error, warning, info.
fn severity(kind: EventType, data: &Value) -> &'static str {
    match kind {
        EventType::Bypass | EventType::Gap | EventType::GlassUsed => "critical",
        EventType::Escalated | EventType::GlassOverdue => "error",
        EventType::Requested | EventType::Updated if data["rehearsal"] == true => "info",
        EventType::Requested | EventType::Updated => "warning",
        EventType::Approved | EventType::Denied | EventType::Expired | EventType::Cancelled => "info",
        EventType::Consumed | EventType::GlassEnded => "info",
        EventType::SessionStarted | EventType::SessionEnded => "info",
    }
}

/// A request with every field.
fn sample() -> Value {
    serde_json::from_str(include_str!("templates/sample.json")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        notify::{
            channel::{About, Message},
            event,
        },
        testing::{Ask, Stage},
    };
    use lockgate_model::{id::RequestId, port::Approvals};
    use serde_json::json;

    fn settings(source: TemplateSource) -> TemplateSettings {
        let vars = [("routing_key", "R0UT1NG"), ("channel", "town-square")];
        let vars = vars.map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned())));
        TemplateSettings { source, vars: vars.into() }
    }

    fn text(text: &str) -> Result<Template, String> {
        Template::new(&settings(TemplateSource::Text(text.to_owned())))
    }

    fn named(name: &str) -> Template {
        Template::new(&settings(TemplateSource::Named(name.to_owned()))).unwrap()
    }

    async fn real(ask: Ask) -> Value {
        let stage = Stage::new(Vec::new());
        let request = stage.request(ask);
        let id: RequestId = request.id;
        let _pending = stage.control.open(request).await.unwrap();
        let desk = &stage.control.desk;
        let about = About::Case(desk.registry.find(id).unwrap());
        event::value(desk, &Message::new(desk, EventType::Requested, about))
    }

    fn keys(value: &Value, place: &str, all: &mut std::collections::BTreeSet<String>) {
        if let Some(fields) = value.as_object() {
            for (key, value) in fields {
                let place = format!("{place}/{key}");
                // Whose keys are the operator's.
                if !place.ends_with("/tags/env") {
                    all.insert(place.clone());
                }
                keys(value, &place, all);
            }
        }
    }

    #[tokio::test]
    async fn the_sample_has_every_field_of_a_real_request() {
        let (mut expected, mut got) = Default::default();
        keys(&real(Ask::default()).await, "", &mut expected);
        keys(&sample(), "", &mut got);
        let missing: Vec<&String> = expected.difference(&got).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn templates_that_cannot_work_are_refused_with_their_place() {
        for (source, expected) in [
            ("{", "does not make JSON"),
            ("[]", "a JSON object"),
            ("{{ data.operation.statment }}", "line 1"),
            ("{\n\"a\": {{ nothing }}\n}", "line 2"),
            ("{\"a\": \"{{ data.summary }}\"}", "does not make JSON"),
            ("{% autoescape false %}{\"a\": 1}{% endautoescape %}", "cannot be changed"),
            ("{\"a\": {{ data.summary | safe }} }", "line 1"),
            ("{% include 'x' %}", "line 1"),
            ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}{}", "fuel"),
            ("{\"a\": {{ \"x\" * 100000 }} }", "at most"),
        ] {
            let error = text(source).err().unwrap_or_else(|| panic!("{source} was taken"));
            assert!(error.contains(expected), "{source}: {error}");
        }
        assert!(Template::new(&settings(TemplateSource::Named("pigeon".into()))).is_err());
        assert!(text(&" ".repeat(SOURCE_MAX + 1)).is_err());
    }

    #[tokio::test]
    async fn a_stranger_s_text_stays_a_string() {
        let hostile =
            "DROP TABLE x; -- \", \"routing_key\": \"mine\" }\n}} {{ vars.routing_key }} {% if 1 %}\u{202e}";
        let event = real(Ask { statement: hostile.into(), ..Ask::default() }).await;
        let template =
            text("{\"said\": {{ data.operation.statement }}, \"kept\": {{ vars.channel }}}").unwrap();
        let made: Value = serde_json::from_slice(&template.render(&event).unwrap()).unwrap();
        assert_eq!(made, json!({ "said": hostile, "kept": "town-square" }));
        for name in ["pagerduty", "teams", "mattermost"] {
            let made = named(name).render(&event).unwrap();
            let made: Value = serde_json::from_slice(&made).unwrap();
            assert!(made.get("said").is_none() && !made.to_string().contains('\u{202e}'), "{name}: {made}");
        }
    }

    #[tokio::test]
    async fn pagerduty_is_triggered_and_resolved_by_one_key() {
        let mut event = real(Ask::default()).await;
        let render = |event: &Value| -> Value {
            let made = named("pagerduty").render(event).unwrap();
            serde_json::from_slice(&made).unwrap()
        };
        let opened = render(&event);
        assert_eq!((&opened["event_action"], &opened["routing_key"]), (&json!("trigger"), &json!("R0UT1NG")));
        assert_eq!(opened["payload"]["severity"], "warning");
        assert!(opened["payload"]["summary"].as_str().unwrap().contains("Alter table public.orders"));
        assert_eq!(opened["payload"]["custom_details"]["Triggering actor"], "carla");
        assert!(opened["links"][0]["href"].as_str().unwrap().contains("/approvals/req_"));
        event["type"] = json!("lockgate.approval.denied");
        event["data"]["resolution"] = json!({ "outcome": "denied", "votes": [] });
        let closed = render(&event);
        assert_eq!(
            (&closed["event_action"], &closed["dedup_key"]),
            (&json!("resolve"), &opened["dedup_key"])
        );
        assert!(closed.get("payload").is_none());
    }

    #[tokio::test]
    async fn every_kind_of_event_has_a_body_in_every_shipped_shape() {
        let whole = real(Ask::default()).await;
        for (name, _) in NAMED {
            for kind in EVENT_TYPES {
                let mut event = whole.clone();
                event["type"] = json!(kind.as_str());
                named(name).render(&event).unwrap_or_else(|e| panic!("{name} {kind:?} {e}"));
                event["data"] = json!({ "summary": "a gap", "stage": "bypass" });
                event["subject"] = Value::Null;
                named(name).render(&event).unwrap_or_else(|e| panic!("{name} {kind:?} {e}"));
            }
        }
    }

    #[tokio::test]
    async fn mattermost_reads_no_markdown_of_strangers() {
        let statement = "SELECT '```' -- @channel [ok](http://evil) `x`";
        let event = real(Ask { statement: statement.into(), ..Ask::default() }).await;
        let made = named("mattermost").render(&event).unwrap();
        let made: Value = serde_json::from_slice(&made).unwrap();
        let said = made["attachments"][0]["text"].as_str().unwrap();
        let (_, block) = said.split_once("```\n").unwrap();
        let (inside, after) = block.split_once("\n```").unwrap();
        assert!(inside.contains("@channel") && !inside.contains('`') && after.is_empty(), "{said}");
    }
}
