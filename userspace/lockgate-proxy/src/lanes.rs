//! The data plane's threads: each runs a reactor of its own, and a connection stays on the one it was dealt to.
//!
//! Both sockets of a session, its timers and its state live on one thread, so that no wake-up of its hot path crosses
//! threads. A connection is dealt to the lane with the fewest. Nothing is stolen from a busy lane: what can take long (a
//! text of megabytes) is handed to the lane's blocking threads by whoever does it.
//!
//! Lanes know no protocol. The binary starts them; [`Lanes::here`] stands in where there is only the caller's runtime.

use std::{
    future::Future,
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Lanes of one proxy at most: more threads than that meet on the audit log, not on their sockets.
pub const MAX_LANES: usize = 64;
/// Threads beside a lane for what blocks (who a process is, a long text, a name's address): more would only wait for the
/// cores, and each keeps a stack and a heap of its own.
const BLOCKING_THREADS: usize = 32;
/// How often the end of the threads is looked for.
const END_POLL: Duration = Duration::from_millis(2);

/// Where connections run.
#[derive(Clone, Debug)]
pub struct Lanes(Arc<[Lane]>);

#[derive(Debug)]
struct Lane {
    handle: Handle,
    live: Arc<AtomicUsize>,
}

/// A connection's place on a lane, until it is dropped.
#[derive(Debug)]
pub(crate) struct LaneSeat(Arc<AtomicUsize>);

impl Drop for LaneSeat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The threads behind [`Lanes`].
#[derive(Debug)]
pub struct LaneThreads {
    stop: CancellationToken,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Lanes {
    /// Starts threads with stacks of this size (SQL grammars recurse), one lane each.
    ///
    /// # Errors
    /// When a thread or its reactor cannot be made.
    pub fn start(count: NonZeroUsize, stack_bytes: usize) -> io::Result<(Self, LaneThreads)> {
        let stop = CancellationToken::new();
        let (mut lanes, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count.get().min(MAX_LANES) {
            let (started, starting) = mpsc::sync_channel(1);
            let ended = stop.clone();
            let name = format!("lockgate-data-{number}");
            let run = move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .thread_name(format!("{name}-blocking"))
                    .thread_stack_size(stack_bytes)
                    .max_blocking_threads(BLOCKING_THREADS)
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => {
                        let _ = started.send(Ok(runtime.handle().clone()));
                        runtime
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                runtime.block_on(ended.cancelled());
                runtime.shutdown_background();
            };
            let thread = thread::Builder::new()
                .name(format!("lockgate-data-{number}"))
                .stack_size(stack_bytes)
                .spawn(run)?;
            threads.push(thread);
            let handle = starting.recv().map_err(io::Error::other)??;
            lanes.push(Lane { handle, live: Arc::default() });
        }
        Ok((Self(lanes.into()), LaneThreads { stop, threads }))
    }

    /// One lane: the runtime of the caller.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn here() -> Self {
        Self([Lane { handle: Handle::current(), live: Arc::default() }].into())
    }

    /// The lane that accepts.
    pub fn first(&self) -> Option<&Handle> {
        self.0.first().map(|lane| &lane.handle)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|lane| &lane.handle)
    }

    /// The lane with the fewest connections; of equals the first. True when it is the accepting one.
    pub(crate) fn deal(&self) -> Option<(Handle, LaneSeat, bool)> {
        let load = |lane: &&Lane| lane.live.load(Ordering::Relaxed);
        let lane = self.0.iter().min_by_key(load)?;
        lane.live.fetch_add(1, Ordering::Relaxed);
        let accepts = self.0.first().is_some_and(|first| std::ptr::eq(first, lane));
        Some((lane.handle.clone(), LaneSeat(lane.live.clone()), accepts))
    }
}

impl LaneThreads {
    /// Ends them; waits at most so long for tasks that are running right now.
    pub fn stop(self, limit: Duration) {
        self.stop.cancel();
        let until = Instant::now() + limit;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < until {
                thread::sleep(END_POLL);
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// Runs a future to its end with its place.
pub(crate) async fn seated(seat: LaneSeat, task: impl Future<Output = ()>) {
    task.await;
    drop(seat);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_dealt_to_the_lane_with_the_fewest_and_stay_there() {
        let three = NonZeroUsize::new(3).unwrap();
        let (lanes, threads) = Lanes::start(three, 1 << 20).unwrap();
        let names = |handle: &Handle| {
            let (told, name) = mpsc::channel();
            handle.spawn(async move {
                tokio::task::yield_now().await;
                told.send(thread::current().name().map(str::to_owned)).unwrap();
            });
            name.recv().unwrap().unwrap()
        };
        let dealt: Vec<_> = (0..6).map(|_| lanes.deal().unwrap()).collect();
        let mut on: Vec<String> = dealt.iter().map(|(handle, ..)| names(handle)).collect();
        assert_eq!(on[..3], ["lockgate-data-0", "lockgate-data-1", "lockgate-data-2"]);
        on.sort();
        assert!(on.chunks(2).all(|pair| pair[0] == pair[1]), "{on:?}");
        assert_eq!(dealt.iter().filter(|(.., accepts)| *accepts).count(), 2);

        let mut dealt = dealt;
        let (_, freed, _) = dealt.remove(4);
        drop(freed);
        let (handle, _seat, _) = lanes.deal().unwrap();
        assert_eq!(names(&handle), "lockgate-data-1");
        threads.stop(Duration::from_secs(5));
    }
}
