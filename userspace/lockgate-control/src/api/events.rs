//! What happens, as it happens: server-sent events over the log's records.
//!
//! An event's id is its record's number, so `Last-Event-ID` goes on where a client was, over its own restart and over the
//! agent's. Nobody waits for a reader: one that is too slow gets a `gap` event with what it missed, and its stream ends.
//! Every stream ends after a while, so that a role taken back is felt; a client that goes on with `Last-Event-ID` misses
//! nothing.

use super::{body::Asked, problem::Problem, sessions};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    feed::{Seen, WATCHERS_MAX, Watcher},
    house::{House, Record, Sight},
};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures_util::stream;
use lockgate_model::{RequestId, SessionId, event::EventKind, id::TargetName};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Streams of one caller; some tabs and a command line.
const STREAMS_PER_CALLER: usize = 16;
/// A comment is sent this often when nothing happens, so that whoever is in between does not give up.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A stream's longest life.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// What clients are told to wait before they come again.
const COME_AGAIN: Duration = Duration::from_secs(1);
/// Sessions whose target a stream remembers, to filter what follows.
const REMEMBERED: usize = 10_000;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new().route("/v1/events", get(events)).with_state(desk)
}

/// Which events.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Filter {
    /// `approvals`, `sessions`, `permissions`, `system`; several with commas. All of them by default.
    pub(crate) topic: Option<String>,
    /// Only of this session.
    pub(crate) session: Option<SessionId>,
    /// Only of this request for approval.
    pub(crate) request: Option<RequestId>,
    /// Only of sessions on this target.
    pub(crate) target: Option<TargetName>,
    /// Behind this record, where a client cannot send `Last-Event-ID`.
    pub(crate) after: Option<u64>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Approvals,
    Sessions,
    Permissions,
    System,
}

impl Topic {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Approvals, "approvals"),
        (Self::Sessions, "sessions"),
        (Self::Permissions, "permissions"),
        (Self::System, "system"),
    ];

    fn of(kind: &EventKind) -> Self {
        match kind {
            EventKind::ApprovalRequested { .. }
            | EventKind::ApprovalLeft { .. }
            | EventKind::ApprovalsBundled { .. }
            | EventKind::Notified { .. }
            | EventKind::VoteCast { .. }
            | EventKind::DecisionRefused { .. }
            | EventKind::ApprovalResolved { .. } => Self::Approvals,
            EventKind::GrantMade(_)
            | EventKind::GrantEnded { .. }
            | EventKind::GlassBroken(_)
            | EventKind::GlassEnded { .. }
            | EventKind::GlassReviewed { .. }
            | EventKind::Alerted { .. }
            | EventKind::TokenIssued { .. } => Self::Permissions,
            EventKind::SessionStarted(_)
            | EventKind::MaskedColumns { .. }
            | EventKind::OperationDecided { .. }
            | EventKind::OperationPart { .. }
            | EventKind::Forwarded { .. }
            | EventKind::Refused { .. }
            | EventKind::ResultCut { .. }
            | EventKind::ResultRows { .. }
            | EventKind::Responded { .. }
            | EventKind::SessionEnded(_)
            | EventKind::FlowRefused { .. }
            | EventKind::Observed(_) => Self::Sessions,
            _ => Self::System,
        }
    }
}

/// Who may hear of it besides auditors and administrators: refused decisions and logins name people who failed.
fn everybody_s(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::DecisionRefused { .. } | EventKind::Access(_) | EventKind::Administered(_))
}

async fn events(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    headers: HeaderMap,
    Asked(filter): Asked<Filter>,
) -> Result<Response, Problem> {
    caller.require(Role::Viewer)?;
    let last = headers.get("last-event-id").map(|id| {
        let id = id.to_str().ok().and_then(|id| id.trim().parse::<u64>().ok());
        id.ok_or_else(|| Problem::malformed("Last-Event-ID: expected the id of an event: a record's number"))
    });
    let after = last.transpose()?.or(filter.after);
    let topics = topics(filter.topic.as_deref())?;
    let seat = desk.bounds.streams.take(caller.id())?;
    let watcher = desk.feed.watch(after).await?.ok_or_else(|| {
        Problem::too_many(format!("{WATCHERS_MAX} streams are open, more are not served")).after(5)
    })?;
    let house = sessions::house(&desk)?.clone();
    let watching = Watching {
        house,
        watcher,
        filter,
        topics,
        sight: sessions::sight(&caller),
        keeper: [Role::Auditor, Role::Admin].iter().any(|role| caller.has(*role)),
        targets: HashMap::new(),
        ends: Instant::now() + LIFE,
        hello: true,
        _seat: seat,
    };
    let events = stream::unfold(watching, |mut watching| async move {
        let event = watching.next().await?;
        Some((Ok::<_, Infallible>(event), watching))
    });
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("still here")).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect answers would make this late (nginx).
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn topics(asked: Option<&str>) -> Result<HashSet<Topic>, Problem> {
    let Some(asked) = asked else { return Ok(Topic::ALL.iter().map(|(topic, _)| *topic).collect()) };
    let one = |name: &str| {
        let found = Topic::ALL.iter().find(|(_, known)| *known == name.trim());
        found.map(|(topic, _)| *topic).ok_or_else(|| {
            let known: Vec<&str> = Topic::ALL.iter().map(|(_, name)| *name).collect();
            Problem::malformed(format!("expected topic to be of {}", known.join(", ")))
        })
    };
    asked.split(',').map(one).collect()
}

/// Streams by caller.
#[derive(Default)]
pub(crate) struct Streams(Mutex<HashMap<String, usize>>);

impl Streams {
    fn take(self: &Arc<Self>, caller: &str) -> Result<Seat, Problem> {
        let mut open = self.0.lock();
        let count = open.entry(caller.to_owned()).or_default();
        if *count >= STREAMS_PER_CALLER {
            let detail = format!("{STREAMS_PER_CALLER} streams of {caller} are open already; close one");
            return Err(Problem::too_many(detail).after(5));
        }
        *count += 1;
        Ok(Seat { streams: self.clone(), caller: caller.to_owned() })
    }
}

/// A stream's place among those of its caller.
struct Seat {
    streams: Arc<Streams>,
    caller: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock();
        if let Some(count) = open.get_mut(&self.caller) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.caller);
            }
        }
    }
}

/// One stream.
struct Watching {
    house: Arc<dyn House>,
    watcher: Watcher,
    filter: Filter,
    topics: HashSet<Topic>,
    sight: Sight,
    /// Hears of what names people who failed.
    keeper: bool,
    /// Of sessions that began while it watched.
    targets: HashMap<SessionId, TargetName>,
    ends: Instant,
    hello: bool,
    _seat: Seat,
}

impl Watching {
    /// The next event that fits; None at the stream's end.
    async fn next(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.hello) {
            // Tells the client that it listens, before anything happens.
            return Some(Event::default().retry(COME_AGAIN).comment("listening"));
        }
        loop {
            let seen = tokio::time::timeout_at(self.ends, self.watcher.next()).await.ok()??;
            match seen {
                Seen::Gap(first, last) => {
                    let data = json!({ "first": first, "last": last, "missed": last - first + 1 });
                    return Some(Event::default().event("gap").id(last.to_string()).data(data.to_string()));
                }
                Seen::Record(record) if self.fits(&record) => return Some(self.told(&record)),
                Seen::Record(_) => {}
            }
        }
    }

    fn fits(&mut self, record: &Record) -> bool {
        let Filter { session, request, target, .. } = &self.filter;
        let kind = &record.event.kind;
        let of = match kind {
            EventKind::SessionStarted(started) => {
                if target.is_some() && self.targets.len() < REMEMBERED {
                    self.targets.insert(started.id, started.target.name.clone());
                }
                Some(started.id)
            }
            _ => record.event.session,
        };
        let fits = self.topics.contains(&Topic::of(kind))
            && (self.keeper || everybody_s(kind))
            && session.is_none_or(|session| of == Some(session))
            && request.is_none_or(|request| request_of(kind) == Some(request))
            && target.as_ref().is_none_or(|target| {
                of.and_then(|session| self.targets.get(&session)).is_some_and(|of| of == target)
            });
        if let (EventKind::SessionEnded(_), Some(session)) = (kind, of) {
            self.targets.remove(&session);
        }
        fits
    }

    fn told(&self, record: &Record) -> Event {
        let seen = self.house.seen(record.clone(), self.sight);
        let data = json!({
            "seq": seen.seq,
            "at": seen.event.at,
            "session": seen.event.session,
            "event": &seen.event.kind,
        });
        // `event` holds the kind and its data, as in a record: here side by side with the rest.
        let mut data = data;
        if let Some(kind) = data.as_object_mut().and_then(|fields| fields.remove("event")) {
            crate::view::merge(&mut data, kind);
        }
        let name = data.get("event").and_then(|name| name.as_str()).unwrap_or("record").to_owned();
        Event::default().event(name).id(seen.seq.to_string()).data(data.to_string())
    }
}

fn request_of(kind: &EventKind) -> Option<RequestId> {
    match kind {
        EventKind::ApprovalRequested { request, .. }
        | EventKind::ApprovalLeft { request, .. }
        | EventKind::Notified { request, .. }
        | EventKind::VoteCast { request, .. }
        | EventKind::ApprovalResolved { request, .. } => Some(*request),
        EventKind::DecisionRefused { request, .. } => *request,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_unknown_ones_refused() {
        assert_eq!(topics(None).unwrap().len(), 4);
        assert_eq!(topics(Some("approvals, sessions")).unwrap().len(), 2);
        for bad in ["", "records", "approvals,,", "approvals;drop"] {
            assert_eq!(topics(Some(bad)).unwrap_err().code, "malformed", "{bad}");
        }
    }

    #[test]
    fn one_caller_has_so_many_streams() {
        let streams = Arc::new(Streams::default());
        let seats: Vec<Seat> = (0..STREAMS_PER_CALLER).map(|_| streams.take("a").unwrap()).collect();
        let refused = streams.take("a").err().unwrap();
        assert_eq!((refused.code, refused.retry_after), ("too_many", Some(5)));
        assert!(streams.take("b").is_ok());
        drop(seats);
        assert!(streams.take("a").is_ok());
        assert!(streams.0.lock().is_empty());
    }
}
