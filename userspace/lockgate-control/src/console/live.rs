//! News as server-sent events: that something changed, never what. The page fetches itself anew, so that there is one place
//! where pages are made and one where it is judged who may see them.

use super::{Console, page::Visit, request};
use crate::{
    api::{problem::Problem, verification::KEEPERS},
    auth::Role,
    house::{SessionRef, Tail},
};
use axum::{
    extract::{Path, State},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream::{self, Stream};
use lockgate_model::SessionId;
use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep, sleep_until},
};

/// News at most this often: a burst of requests is one look.
const CALM: Duration = Duration::from_millis(300);

/// What nobody signals (deliveries of notifications) is looked for this often.
const LOOK: Duration = Duration::from_secs(2);

/// The log is asked for a session's new records, a verification how far it is, this often.
const TAIL: Duration = Duration::from_millis(500);

/// Records read of the log at a time.
const TAIL_MOST: usize = 500;

/// A comment this often keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A stream ends after this long and the browser opens another, so that who has lost a login or a role hears nothing more.
const LIFE: Duration = Duration::from_secs(600);

/// What holds a place among the streams.
struct Feed<T> {
    console: Arc<Console>,
    from: T,
    until: Instant,
    first: bool,
    _place: OwnedSemaphorePermit,
}

/// A stream that says `changed` whenever `next` says so, at most so often and not for ever.
fn feed<T, F, Next>(console: &Arc<Console>, from: T, next: Next) -> Response
where
    T: Send + 'static,
    F: Future<Output = (T, bool)> + Send + 'static,
    Next: Fn(T, Arc<Console>) -> F + Clone + Send + 'static,
{
    let Ok(place) = console.streams.clone().try_acquire_owned() else {
        return Problem::unavailable("too many pages are followed live now; reload instead").into_response();
    };
    let until = Instant::now() + LIFE;
    let feed = Feed { console: console.clone(), from, until, first: true, _place: place };
    Sse::new(events(feed, next)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn events<T, F, Next>(feed: Feed<T>, next: Next) -> impl Stream<Item = Result<Event, Infallible>> + Send
where
    T: Send + 'static,
    F: Future<Output = (T, bool)> + Send + 'static,
    Next: Fn(T, Arc<Console>) -> F + Clone + Send + 'static,
{
    stream::unfold(feed, move |mut feed| {
        let next = next.clone();
        async move {
            if feed.first {
                feed.first = false;
                return Some((Ok(Event::default().comment("here")), feed));
            }
            let Feed { console, from, until, first, _place } = feed;
            let drain = console.desk.drain.clone();
            let news = next(from, console.clone());
            tokio::select! {
                (from, more) = news => {
                    if !more {
                        return None;
                    }
                    sleep(CALM).await;
                    // Browsers pass over events without data.
                    Some((Ok(Event::default().event("changed").data("look again")), Feed { console, from, until, first, _place }))
                }
                () = sleep_until(until) => None,
                () = drain.cancelled() => None,
            }
        }
    })
}

/// Something about any request changed.
pub(super) async fn inbox(State(console): State<Arc<Console>>, _: Visit) -> Response {
    let changes = console.desk.registry.follow();
    feed(&console, changes, |mut changes: watch::Receiver<u64>, _| async move {
        let more = changes.changed().await.is_ok();
        (changes, more)
    })
}

/// Something about one request changed.
pub(super) async fn request(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
) -> Response {
    let case = match request::find(&console, &visit.caller, &id) {
        Ok(case) => case,
        Err(refusal) => return console.refuse(&visit, &refusal),
    };
    let (state, before) = (case.state.clone(), told(&case));
    feed(&console, (case, state, before), |(case, mut state, before), _| async move {
        loop {
            tokio::select! {
                changed = state.changed() => {
                    // The task that owned the request has ended with it: nothing more will change.
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    return ((case, state, before), true);
                }
                () = sleep(LOOK) => {
                    let now = told(&case);
                    if now != before {
                        return ((case, state, now), true);
                    }
                }
            }
        }
    })
}

/// Who was told of a request, as far as it is shown.
fn told(case: &crate::approvals::case::Case) -> Vec<(String, u32, bool)> {
    let deliveries = case.deliveries.lock();
    deliveries.iter().map(|(channel, it)| (channel.clone(), it.attempts, it.delivered)).collect()
}

/// A session has new records.
pub(super) async fn session(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
) -> Response {
    if let Err(problem) = visit.caller.require(Role::Viewer) {
        return console.refuse(&visit, &problem.into());
    }
    let Ok(SessionRef::Session(id)) = id.parse() else {
        return Problem::not_found("no session of that id is recorded here").into_response();
    };
    let house = match console.house() {
        Ok(house) => house,
        Err(refusal) => return console.refuse(&visit, &refusal),
    };
    let tail = match house.tail(None).await {
        Ok(tail) => tail,
        Err(error) => return console.refuse(&visit, &error.into()),
    };
    feed(&console, tail, move |tail, _| behind(tail, id))
}

/// The verification of the log got on, or ended.
pub(super) async fn audit(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    if let Err(problem) = visit.caller.require_any(&KEEPERS) {
        return console.refuse(&visit, &problem.into());
    }
    let seen = console.desk.bounds.verifications.last();
    feed(&console, seen, |seen, console| async move {
        loop {
            sleep(TAIL).await;
            let now = console.desk.bounds.verifications.last();
            if now != seen {
                return (now, true);
            }
        }
    })
}

/// Waits for a record of that session; false when the log cannot be followed any more.
async fn behind(mut tail: Box<dyn Tail>, id: SessionId) -> (Box<dyn Tail>, bool) {
    loop {
        match tail.more(TAIL_MOST).await {
            Ok(records) if records.iter().any(|record| record.event.session == Some(id)) => {
                return (tail, true);
            }
            Ok(records) if records.is_empty() => sleep(TAIL).await,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "following the log for a page");
                return (tail, false);
            }
        }
    }
}
