//! How often one caller may ask: a bucket each, refilled steadily; who empties it hears when to come again.
//!
//! Integrations that sign and people who are not known yet are not counted here: their own limits are where their secrets
//! are checked.

use super::problem::Problem;
use crate::{auth::Caller, desk::Desk};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Requests a second that one caller over TCP keeps up.
const PER_SECOND: u32 = 50;
/// Requests at once, after a rest.
const BURST: u32 = 200;
/// Users of this host share the machine with the agent anyway; their bound only stops runaway loops.
const LOCAL_FACTOR: u32 = 40;
/// Callers that are counted; with more, those who rested longest are forgotten.
const CALLERS_MAX: usize = 4_096;

/// When each caller's bucket will be full again.
#[derive(Default)]
pub(crate) struct Rates(Mutex<HashMap<String, Instant>>);

/// Refuses whoever asks too often.
pub(crate) async fn limit(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let refused = request.extensions().get::<Caller>().and_then(|caller| {
        let factor = if caller.peer().is_some() { LOCAL_FACTOR } else { 1 };
        take(&mut desk.bounds.rates.0.lock(), caller.id(), factor, Instant::now()).err()
    });
    match refused {
        None => next.run(request).await,
        Some(wait) => {
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            let detail = format!("expected at most {PER_SECOND} requests a second, in bursts of {BURST}");
            Problem::too_many(detail).after(seconds).into_response()
        }
    }
}

/// The bucket as the time at which it will be full again (GCRA).
fn take(
    asked: &mut HashMap<String, Instant>,
    caller: &str,
    factor: u32,
    now: Instant,
) -> Result<(), Duration> {
    if asked.len() >= CALLERS_MAX && !asked.contains_key(caller) {
        asked.retain(|_, full| *full > now);
        if asked.len() >= CALLERS_MAX
            && let Some(oldest) =
                asked.iter().min_by_key(|(_, full)| **full).map(|(caller, _)| caller.clone())
        {
            asked.remove(&oldest);
        }
    }
    let one = Duration::from_secs(1) / (PER_SECOND * factor);
    let all = one * (BURST * factor);
    let full = asked.get(caller).copied().unwrap_or(now).max(now) + one;
    let over = full.saturating_duration_since(now + all);
    if over > Duration::ZERO {
        return Err(over);
    }
    asked.insert(caller.to_owned(), full);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_a_steady_flow() {
        let mut asked = HashMap::new();
        let now = Instant::now();
        let taken = (0..1_000).filter(|_| take(&mut asked, "a", 1, now).is_ok()).count();
        assert_eq!(taken, BURST as usize);
        assert!(take(&mut asked, "b", 1, now).is_ok());
        let later = now + Duration::from_secs(1);
        let taken = (0..1_000).filter(|_| take(&mut asked, "a", 1, later).is_ok()).count();
        assert_eq!(taken, PER_SECOND as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_without_number_do_not_fill_memory() {
        let mut asked = HashMap::new();
        let now = Instant::now();
        for number in 0..3 * CALLERS_MAX {
            assert!(take(&mut asked, &format!("token:{number}"), 1, now).is_ok());
        }
        assert!(asked.len() <= CALLERS_MAX);
    }
}
