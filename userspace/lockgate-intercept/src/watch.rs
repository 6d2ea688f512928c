//! The thread that keeps an attached instance true: units that come and go, pins that somebody
//! removes, addresses the host gains, denials that the kernel reports.

use crate::{
    denial::Denial,
    interceptor::{Core, Health},
    notice::{Notice, Wake},
};
use rustix::{
    fd::{AsFd as _, OwnedFd},
    pipe::{PipeFlags, pipe_with},
};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

/// Without globs nothing is urgent, but that a hook that goes is told within a second.
const CALM: Duration = Duration::from_millis(800);
/// A restarted unit has a new cgroup; until it is found its egress is direct. A slice that is watched wakes
/// sooner than this.
const WITH_GLOBS: Duration = Duration::from_millis(200);
/// Rounds after a change: whoever moved into a cgroup enters its network namespace a moment later, and whoever was
/// missed by one look is looked for again.
const AFTER_A_CHANGE: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(200),
];
/// Between two rounds that something woke: a host that makes cgroups all the time must not keep a core busy.
const BREATH: Duration = Duration::from_millis(4);

/// Refusals that are told one by one in a round; the rest is counted.
const TOLD_PER_ROUND: usize = 20;

/// Stops with its owner.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The writing end of a pipe that nobody writes to: closing it is the signal.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(core: Arc<Core>) -> io::Result<Self> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let watch = move || run(&core, &stopped);
        let thread = thread::Builder::new().name("lockgate-watch".to_owned()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(core: &Core, stopped: &OwnedFd) {
    let mut last = Health::default();
    let notice = Notice::open();
    let refusals = core.refusals();
    let mut next = AFTER_A_CHANGE.iter();
    let mut stale = true;
    loop {
        // Followed before the tree is looked through: a unit made in between still wakes.
        if stale {
            notice.follow(&core.slices());
            notice.follow_members(&core.governed_directories());
        }
        let calm = if core.has_globs() { WITH_GLOBS } else { CALM };
        let pause = next.next().copied().unwrap_or(calm);
        match notice.wait(stopped.as_fd(), refusals.as_ref().map(|fd| fd.as_fd()), pause) {
            Wake::Stop => return,
            Wake::Change => {
                next = AFTER_A_CHANGE.iter();
                last = safely(|| wake(core, &last)).unwrap_or(last);
                thread::sleep(BREATH);
                stale = true;
            }
            // A job that is refused in a loop has each round cost little.
            Wake::Refusal => {
                let _ = safely(|| report(&core.refused()));
                thread::sleep(BREATH);
                stale = false;
            }
            Wake::Time => {
                last = safely(|| wake(core, &last)).unwrap_or(last);
                stale = true;
            }
        }
    }
}

/// A watch that died would leave restarted units ungoverned, so a bug in one round does not end it.
fn safely<T>(round: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(round)).ok();
    if done.is_none() {
        tracing::error!("a round of the capture watch panicked; please report it");
    }
    done
}

fn wake(core: &Core, last: &Health) -> Health {
    report(&core.tick());
    let health = core.health();
    if !health.repinned.is_empty() {
        tracing::error!(programs = ?health.repinned, "pins of capture hooks had been removed; they are back");
    }
    if health != *last && !health.is_whole() {
        tracing::error!(detached = ?health.detached, unknown = ?health.unknown, "capture hooks are gone: governed connections may be direct");
    }
    health
}

/// Each refusal is told once, up to a bound: a job that dials in a loop must not fill the host's log.
fn report(denials: &[Denial]) {
    for denial in denials.iter().take(TOLD_PER_ROUND) {
        tracing::info!(
            reason = denial.reason,
            pid = denial.tgid,
            uid = denial.uid,
            cgroup = denial.cgroup_id,
            destination = %denial.destination,
            protocol = denial.protocol,
            comm = denial.comm,
            "refused in the kernel"
        );
    }
    let untold = denials.len().saturating_sub(TOLD_PER_ROUND);
    if untold > 0 {
        tracing::info!(untold, "more was refused in the kernel");
    }
}
