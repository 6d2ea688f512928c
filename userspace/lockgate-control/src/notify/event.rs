//! The body of a notification: a CloudEvent (1.0, structured mode) of at most [`BODY_MAX`] bytes. What is too
//! long is cut, said so, counted, and linked to.

use super::channel::Message;
use crate::{desk::Desk, text::clip, view};
use lockgate_model::approval::Resolution;
use serde_json::{Map, Value, json};

/// Standard Webhooks: "under 20 KB".
pub(crate) const BODY_MAX: usize = 20_000;

/// Identifies the shape of `data`; a changed shape gets another number.
const DATA_SCHEMA: &str = "urn:lockgate:schema:approval:1";

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
    Escalated,
    Approved,
    Denied,
    Expired,
    Cancelled,
}

impl EventType {
    /// The CloudEvents `type`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "lockgate.approval.requested",
            Self::Escalated => "lockgate.approval.escalated",
            Self::Approved => "lockgate.approval.approved",
            Self::Denied => "lockgate.approval.denied",
            Self::Expired => "lockgate.approval.expired",
            Self::Cancelled => "lockgate.approval.cancelled",
        }
    }

    /// True while a client waits for what people do with it.
    pub(crate) fn is_waiting(self) -> bool {
        match self {
            Self::Requested | Self::Escalated => true,
            Self::Approved | Self::Denied | Self::Expired | Self::Cancelled => false,
        }
    }
}

/// The bytes to send; the same for every attempt of one message.
pub(super) fn body(desk: &Desk, message: &Message) -> Vec<u8> {
    let request = &message.case.request;
    let mut facts = view::subject(&message.case);
    facts.append(&mut view::demand(request, &message.progress));
    if let Some(resolution) = &message.progress.resolution {
        facts.insert("resolution".to_owned(), resolved(resolution));
    }
    let facts = Value::Object(facts);
    let fixed = json!({
        "request_id": request.id,
        "command_digest": request.operation.digest,
        "decision_url": desk.links.decision(request.id),
        "url": desk.links.view(request.id),
        "created_at": request.created_at,
        "expires_at": message.progress.expires_at,
    });
    let envelope = |data: Value| {
        json!({
            "specversion": "1.0",
            "id": &*message.id,
            "source": format!("/lockgate/{}", desk.node),
            "type": message.kind.as_str(),
            "subject": request.id,
            "time": message.at,
            "datacontenttype": "application/json",
            "dataschema": DATA_SCHEMA,
            "data": data,
        })
    };
    fit(fixed, facts, envelope)
}

/// Cuts `facts` until the whole fits.
fn fit(fixed: Value, facts: Value, envelope: impl Fn(Value) -> Value) -> Vec<u8> {
    let with = |facts: Value, note: Value| {
        let mut data = fixed.clone();
        view::merge(&mut data, facts);
        view::merge(&mut data, note);
        envelope(data).to_string().into_bytes()
    };
    // Escapes only make text longer, so what is long as it is need not be tried.
    if rough_size(&facts, BODY_MAX) < BODY_MAX {
        let whole = with(facts.clone(), json!({ "truncated": false }));
        if whole.len() < BODY_MAX {
            return whole;
        }
    }
    let mut body = Vec::new();
    for (text, items) in CUTS {
        let mut cut = Cut { text, items, places: Map::new(), more: 0 };
        let facts = cut.value(&facts, "");
        let note = json!({ "truncated": true, "cut": cut.places, "cut_elsewhere": cut.more });
        body = with(facts, note);
        if body.len() < BODY_MAX {
            break;
        }
    }
    body
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
        Resolution::Approved { votes, .. } => {
            json!({ "outcome": "approved", "votes": votes.iter().map(vote).collect::<Vec<_>>() })
        }
        Resolution::Denied { vote: by } => json!({ "outcome": "denied", "votes": [vote(by)] }),
        Resolution::Expired => json!({ "outcome": "expired", "actor": "system" }),
        Resolution::Withdrawn { reason } => json!({ "outcome": "cancelled", "reason": reason }),
    }
}
