//! The body of a notification: a CloudEvent (1.0, structured mode) of at most [`BODY_MAX`] bytes. What is too
//! long is cut, said so, counted, and linked to.

use super::channel::{About, Message};
use crate::{
    approvals::{bundle::BundleCase, case::Case},
    desk::Desk,
    text::clip,
    view,
};
use lockgate_model::{approval::Resolution, grant::GlassUse};
use serde_json::{Map, Value, json};

/// Standard Webhooks: "under 20 KB".
pub(crate) const BODY_MAX: usize = 20_000;

/// Identifies the shape of `data`; a changed shape gets another number.
const DATA_SCHEMA: &str = "urn:lockgate:schema:approval:1";

/// The same for what is told of an emergency override.
const GLASS_SCHEMA: &str = "urn:lockgate:schema:breakglass:1";

/// The same for sessions, gaps in the record, and connections past lockgate.
const HAPPENING_SCHEMA: &str = "urn:lockgate:schema:session:1";

/// How far texts (bytes) and lists (items) are cut, one try after the other. The last one always fits: the
/// number of fields is fixed and each is then a few bytes.
const CUTS: [(usize, usize); 10] = [
    (16_000, 400),
    (12_000, 150),
    (8_000, 80),
    (5_000, 50),
    (3_000, 30),
    (1_500, 20),
    (700, 12),
    (300, 8),
    (100, 5),
    (24, 2),
];

/// Places that are named in `cut`; more are only counted.
const CUT_PLACES_MAX: usize = 12;

/// What a notification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Requested,
    /// More requests belong to a bundle that was told; its id is the same, its digest is not.
    Updated,
    Escalated,
    Approved,
    Denied,
    Expired,
    Cancelled,
    GlassUsed,
    GlassEnded,
    GlassOverdue,
    /// What was approved is sent on now; the approval is used up, or one use of it.
    Consumed,
    SessionStarted,
    SessionEnded,
    Gap,
    Bypass,
}

/// Every type there is.
pub(crate) const EVENT_TYPES: [EventType; 15] = [
    EventType::Requested,
    EventType::Updated,
    EventType::Escalated,
    EventType::Approved,
    EventType::Denied,
    EventType::Expired,
    EventType::Cancelled,
    EventType::Consumed,
    EventType::GlassUsed,
    EventType::GlassEnded,
    EventType::GlassOverdue,
    EventType::SessionStarted,
    EventType::SessionEnded,
    EventType::Gap,
    EventType::Bypass,
];

impl EventType {
    /// The CloudEvents `type`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "lockgate.approval.requested",
            Self::Updated => "lockgate.approval.updated",
            Self::Escalated => "lockgate.approval.escalated",
            Self::Approved => "lockgate.approval.approved",
            Self::Denied => "lockgate.approval.denied",
            Self::Expired => "lockgate.approval.expired",
            Self::Cancelled => "lockgate.approval.cancelled",
            Self::GlassUsed => "lockgate.breakglass.used",
            Self::GlassEnded => "lockgate.breakglass.ended",
            Self::GlassOverdue => "lockgate.breakglass.review_overdue",
            Self::Consumed => "lockgate.approval.consumed",
            Self::SessionStarted => "lockgate.session.started",
            Self::SessionEnded => "lockgate.session.ended",
            Self::Gap => "lockgate.session.gap",
            Self::Bypass => "lockgate.bypass.detected",
        }
    }

    /// How a request ended, in one word; empty for what is no end.
    fn outcome(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Requested | Self::Updated | Self::Escalated => "",
            Self::GlassUsed | Self::GlassEnded | Self::GlassOverdue => "",
            Self::Consumed | Self::SessionStarted | Self::SessionEnded | Self::Gap | Self::Bypass => "",
        }
    }

    /// True for what somebody should look at although nobody asked for anything.
    pub(crate) fn is_alarm(self) -> bool {
        match self {
            Self::Gap | Self::Bypass => true,
            Self::Requested | Self::Updated | Self::Escalated => false,
            Self::Approved | Self::Denied | Self::Expired | Self::Cancelled => false,
            Self::GlassUsed | Self::GlassEnded | Self::GlassOverdue => false,
            Self::Consumed | Self::SessionStarted | Self::SessionEnded => false,
        }
    }

    /// True while a client waits for what people do with it.
    pub(crate) fn is_waiting(self) -> bool {
        match self {
            Self::Requested | Self::Updated | Self::Escalated => true,
            Self::Approved | Self::Denied | Self::Expired | Self::Cancelled => false,
            Self::GlassUsed | Self::GlassEnded | Self::GlassOverdue => false,
            Self::Consumed | Self::SessionStarted | Self::SessionEnded | Self::Gap | Self::Bypass => false,
        }
    }
}

/// The bytes to send; the same for every attempt of one message.
pub(super) fn body(desk: &Desk, message: &Message) -> Vec<u8> {
    made(desk, message).1
}

/// The same, for what makes another shape of it.
pub(super) fn value(desk: &Desk, message: &Message) -> Value {
    made(desk, message).0
}

fn made(desk: &Desk, message: &Message) -> (Value, Vec<u8>) {
    let (subject, schema, fixed, facts) = match &message.about {
        About::Case(case) => {
            let (fixed, facts) = of_case(desk, message, case);
            (json!(case.request.id), DATA_SCHEMA, fixed, facts)
        }
        About::Bundle(bundle) => {
            let (fixed, facts) = of_bundle(desk, message, bundle);
            (json!(bundle.id), DATA_SCHEMA, fixed, facts)
        }
        About::Glass(glass) => (json!(glass.id), GLASS_SCHEMA, json!({ "id": glass.id }), of_glass(glass)),
        About::Happening(event) => {
            let facts = view::happening(event);
            let fixed = json!({ "session_id": event.session, "node": desk.node, "happened_at": event.at });
            (json!(event.session), HAPPENING_SCHEMA, fixed, facts)
        }
    };
    let envelope = |data: Value| {
        json!({
            "specversion": "1.0",
            "id": &*message.id,
            "source": format!("/lockgate/{}", desk.node),
            "type": message.kind.as_str(),
            "subject": subject,
            "time": message.at,
            "datacontenttype": "application/json",
            "dataschema": schema,
            "data": data,
        })
    };
    fit(fixed, Value::Object(facts), envelope)
}

fn of_case(desk: &Desk, message: &Message, case: &Case) -> (Value, Map<String, Value>) {
    let request = &case.request;
    let mut facts = view::subject(case);
    if let Some(progress) = &message.progress {
        facts.append(&mut view::demand(request, progress));
        if let Some(resolution) = &progress.resolution {
            facts.insert("resolution".to_owned(), resolved(resolution));
        }
    }
    let fixed = json!({
        "request_id": request.id,
        "command_digest": request.operation.digest,
        "decision_url": desk.links.decision(request.id),
        "url": desk.links.view(request.id),
        "console_url": desk.links.console(request.id),
        "created_at": request.created_at,
        "expires_at": message.progress.as_ref().map(|progress| progress.expires_at),
    });
    (fixed, facts)
}

/// A bundle looks like its first request, so that a receiver that knows nothing of bundles can echo its id and digest to
/// its decision address; what else is decided with it stands in `bundle`.
fn of_bundle(desk: &Desk, message: &Message, bundle: &BundleCase) -> (Value, Map<String, Value>) {
    let cases = bundle.cases();
    let mut facts = Map::new();
    if let Some(first) = cases.first() {
        facts = view::subject(first);
        if let Some(progress) = &message.progress {
            facts.append(&mut view::demand(&first.request, progress));
        }
    }
    let summary = facts.get("summary").and_then(Value::as_str).unwrap_or_default();
    let summary = format!("{} statements, the first: {summary}", cases.len());
    facts.insert("summary".to_owned(), json!(summary));
    if !message.kind.is_waiting() {
        facts.insert("resolution".to_owned(), json!({ "outcome": message.kind.outcome() }));
    }
    facts.insert("bundle".to_owned(), view::bundle(bundle));
    let created_at = cases.iter().map(|case| case.request.created_at).min();
    let expires_at = cases.iter().map(|case| case.state.borrow().progress.expires_at).min();
    let fixed = json!({
        "request_id": bundle.id,
        "command_digest": bundle.digest(),
        "decision_url": desk.links.bundle_decision(bundle.id),
        "url": desk.links.bundle_view(bundle.id),
        "console_url": desk.links.bundle_console(bundle.id),
        "created_at": created_at,
        "expires_at": expires_at,
    });
    (fixed, facts)
}

fn of_glass(glass: &GlassUse) -> Map<String, Value> {
    match view::glass(glass) {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

/// Cuts `facts` until the whole fits.
fn fit(fixed: Value, facts: Value, envelope: impl Fn(Value) -> Value) -> (Value, Vec<u8>) {
    let with = |facts: Value, note: Value| {
        let mut data = fixed.clone();
        view::merge(&mut data, facts);
        view::merge(&mut data, note);
        let whole = envelope(data);
        let bytes = whole.to_string().into_bytes();
        (whole, bytes)
    };
    // Escapes only make text longer, so what is long as it is need not be tried.
    if rough_size(&facts, BODY_MAX) < BODY_MAX {
        let whole = with(facts.clone(), json!({ "truncated": false }));
        if whole.1.len() < BODY_MAX {
            return whole;
        }
    }
    let mut made = (Value::Null, Vec::new());
    for (text, items) in CUTS {
        let mut cut = Cut { text, items, places: Map::new(), more: 0 };
        let facts = cut.value(&facts, "");
        let note = json!({ "truncated": true, "cut": cut.places, "cut_elsewhere": cut.more });
        made = with(facts, note);
        if made.1.len() < BODY_MAX {
            break;
        }
    }
    made
}

/// A lower bound of the encoded size; stops counting past `enough`.
fn rough_size(value: &Value, enough: usize) -> usize {
    let mut sum = 0;
    let mut stack = vec![value];
    while let Some(value) = stack.pop() {
        sum += match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 1,
            Value::String(text) => text.len(),
            Value::Array(items) => {
                stack.extend(items);
                2
            }
            Value::Object(fields) => {
                stack.extend(fields.values());
                fields.keys().map(|key| key.len() + 4).sum()
            }
        };
        if sum > enough {
            break;
        }
    }
    sum
}

struct Cut {
    text: usize,
    items: usize,
    places: Map<String, Value>,
    more: u64,
}

impl Cut {
    fn value(&mut self, value: &Value, place: &str) -> Value {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
            Value::String(text) if text.len() <= self.text => value.clone(),
            Value::String(text) => {
                self.note(place, json!({ "bytes": text.len(), "shown": self.text }));
                Value::String(format!("{}…", clip(text, self.text)))
            }
            Value::Array(items) => {
                if items.len() > self.items {
                    self.note(place, json!({ "items": items.len(), "shown": self.items }));
                }
                let kept = items.iter().take(self.items).enumerate();
                Value::Array(
                    kept.map(|(index, item)| self.value(item, &format!("{place}/{index}"))).collect(),
                )
            }
            Value::Object(fields) => self.object(fields, place),
        }
    }

    /// The shape's own objects keep all fields (there are fewer than the least cut would leave of tags).
    fn object(&mut self, fields: &Map<String, Value>, place: &str) -> Value {
        let open_ended = place == "/target/tags";
        let keep = if open_ended { self.items } else { usize::MAX };
        if fields.len() > keep {
            self.note(place, json!({ "items": fields.len(), "shown": keep }));
        }
        let kept = fields.iter().take(keep);
        Value::Object(
            kept.map(|(key, field)| {
                let name = if open_ended { clip(key, self.text).into_owned() } else { key.clone() };
                (name, self.value(field, &format!("{place}/{}", clip(key, 64))))
            })
            .collect(),
        )
    }

    fn note(&mut self, place: &str, what: Value) {
        if self.places.len() < CUT_PLACES_MAX {
            self.places.insert(place.to_owned(), what);
        } else {
            self.more += 1;
        }
    }
}

/// How a request ended, without the reasons' full vote records: who, when, why.
fn resolved(resolution: &Resolution) -> Value {
    let vote = |vote: &lockgate_model::approval::Vote| json!({ "by": vote.by.id, "via": vote.by.via, "decision": vote.decision, "reason": vote.reason, "at": vote.at });
    match resolution {
        Resolution::Approved { votes, basis } => {
            json!({ "outcome": "approved", "votes": votes.iter().map(vote).collect::<Vec<_>>(), "basis": basis })
        }
        Resolution::Denied { vote: by } => json!({ "outcome": "denied", "votes": [vote(by)] }),
        Resolution::Expired => json!({ "outcome": "expired", "actor": "system" }),
        Resolution::Withdrawn { reason } => json!({ "outcome": "cancelled", "reason": reason }),
    }
}
