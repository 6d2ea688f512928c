//! Checking the whole log while somebody watches: begun, followed, stopped. One at a time, since each reads the whole log;
//! the last one's end is kept until the next begins. Nothing is checked here: the [`House`](crate::house::House) does that.

use super::{problem::Problem, sessions::house};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    house::{HouseError, Integrity, VerifyReport, Watched},
};
use axum::{Json, extract::State, http::StatusCode};
use lockgate_model::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::{Arc, atomic::Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

/// Who reads the log as a whole.
pub(crate) const KEEPERS: [Role; 2] = [Role::Auditor, Role::Admin];

/// The verification that is under way, or the last one.
pub(crate) struct Verifications {
    turns: Arc<Semaphore>,
    last: Mutex<Option<Run>>,
}

impl Default for Verifications {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(1)), last: Mutex::default() }
    }
}

struct Run {
    by: String,
    began: Timestamp,
    watched: Arc<Watched>,
    end: Option<(Timestamp, End)>,
}

enum End {
    Checked(Box<VerifyReport>),
    Stopped,
    Failed(String),
}

/// How far a verification is, or how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Verification {
    /// `running`, `intact`, `broken`, `stopped` or `failed`
    pub(crate) state: &'static str,
    /// Who began it.
    pub(crate) by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) began_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) ended_at: Option<Timestamp>,
    /// Records read.
    pub(crate) records: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Bytes that there were when it began; 0 until that is known.
    pub(crate) bytes_total: u64,
    /// What was found, once it is `intact` or `broken`.
    #[schema(value_type = Option<super::openapi::Verified>)]
    pub(crate) report: Option<VerifyReport>,
    /// Why it `failed`.
    pub(crate) error: Option<String>,
}

impl Run {
    fn view(&self) -> Verification {
        let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
        let (state, report, error) = match self.end.as_ref().map(|(_, end)| end) {
            None => ("running", None, None),
            Some(End::Checked(report)) if report.integrity == Integrity::Intact => {
                ("intact", Some((**report).clone()), None)
            }
            Some(End::Checked(report)) => ("broken", Some((**report).clone()), None),
            Some(End::Stopped) => ("stopped", None, None),
            Some(End::Failed(why)) => ("failed", None, Some(why.clone())),
        };
        Verification {
            state,
            by: self.by.clone(),
            began_at: self.began,
            ended_at: self.end.as_ref().map(|(at, _)| *at),
            records: count(&self.watched.records),
            bytes: count(&self.watched.bytes),
            bytes_total: count(&self.watched.bytes_total),
            report,
            error,
        }
    }
}

impl Verifications {
    /// The turn to read the whole log.
    pub(super) fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.turns.clone().try_acquire_owned().map_err(|_| {
            Problem::too_many("somebody verifies the log already; ask again when that is done").after(5)
        })
    }

    /// The one under way, or the last.
    pub(crate) fn last(&self) -> Option<Verification> {
        self.last.lock().as_ref().map(Run::view)
    }

    fn end(&self, watched: &Arc<Watched>, at: Timestamp, end: End) {
        let mut last = self.last.lock();
        if let Some(run) = last.as_mut().filter(|run| Arc::ptr_eq(&run.watched, watched)) {
            run.end = Some((at, end));
        }
    }
}

/// Begins one. Who asks while one is under way is told of that one.
pub(super) async fn begin(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
) -> Result<(StatusCode, Json<Verification>), Problem> {
    caller.require_any(&KEEPERS)?;
    let all = &desk.bounds.verifications;
    if let Some(running) = all.last().filter(|last| last.state == "running") {
        return Ok((StatusCode::ACCEPTED, Json(running)));
    }
    let turn = all.turn()?;
    let house = house(&desk)?.clone();
    let watched = Arc::new(Watched::default());
    let by = crate::text::visible(caller.name()).into_owned();
    let run = Run { by, began: desk.ambient.now(), watched: watched.clone(), end: None };
    let view = run.view();
    *all.last.lock() = Some(run);
    let of = desk.clone();
    desk.runtime.spawn(async move {
        let end = match house.verify(watched.clone()).await {
            Ok(Some(report)) => End::Checked(Box::new(report)),
            Ok(None) => End::Stopped,
            Err(error) => End::Failed(error.to_string()),
        };
        of.bounds.verifications.end(&watched, of.ambient.now(), end);
        drop(turn);
    });
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// How far it is.
pub(super) async fn show(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
) -> Result<Json<Verification>, Problem> {
    caller.require_any(&KEEPERS)?;
    desk.bounds.verifications.last().map(Json).ok_or_else(none)
}

fn none() -> Problem {
    Problem::not_found("nobody has verified the log since the agent started; POST here begins it")
}

/// Stops it; what was found so far is no verdict and is not kept.
pub(super) async fn stop(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
) -> Result<Json<Verification>, Problem> {
    caller.require_any(&KEEPERS)?;
    let last = desk.bounds.verifications.last.lock();
    let run = last.as_ref().ok_or_else(none)?;
    run.watched.stop();
    Ok(Json(run.view()))
}

/// Checks all of it and answers when that is done. Whoever hangs up stops it.
pub(super) async fn whole(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
) -> Result<Json<VerifyReport>, Problem> {
    struct Leaves(Arc<Watched>);
    impl Drop for Leaves {
        fn drop(&mut self) {
            self.0.stop();
        }
    }
    caller.require_any(&KEEPERS)?;
    let turn = desk.bounds.verifications.turn()?;
    let house = house(&desk)?.clone();
    let watched = Arc::new(Watched::default());
    let leaves = Leaves(watched.clone());
    // The turn is given back when nobody reads any more, not when nobody waits any more.
    let reading = desk.runtime.spawn(async move {
        let report = house.verify(watched).await;
        drop(turn);
        report
    });
    let report = reading.await.map_err(|_| Problem::unavailable("the agent could not finish this"))??;
    drop(leaves);
    report.map(Json).ok_or_else(|| HouseError::Unavailable("the verification was stopped".to_owned()).into())
}
