//! Waiting for the next round of the watch: until time is up, until somebody stops it, until the kernel refuses
//! somebody, or until a unit or a container appears or is left. systemd makes units in slices, so the slices are
//! watched, and so are governed cgroups; what appears elsewhere is found by time.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd as _, BorrowedFd, OwnedFd},
    fs::inotify::{CreateFlags, WatchFlags, add_watch, init},
};
use std::{path::PathBuf, time::Duration};

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The owner is gone.
    Stop,
    /// Something was made, or somebody moved in or out.
    Change,
    /// The kernel refused somebody.
    Refusal,
    /// Nothing happened.
    Time,
}

/// Watches on slices.
#[derive(Debug)]
pub(crate) struct Notice(Option<OwnedFd>);

impl Notice {
    /// Without inotify (its instances are limited per user) time alone wakes.
    pub(crate) fn open() -> Self {
        match init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(fd) => Self(Some(fd)),
            Err(error) => {
                tracing::warn!(%error, "no inotify: new systemd units are found with a short delay");
                Self(None)
            }
        }
    }

    /// Watches these directories too; one that is watched already, or gone, changes nothing.
    pub(crate) fn follow(&self, slices: &[PathBuf]) {
        let Some(fd) = &self.0 else { return };
        for slice in slices {
            let _ = add_watch(fd, slice.as_path(), WatchFlags::CREATE | WatchFlags::ONLYDIR);
        }
    }

    /// Watches these cgroups too: their first and last process, their children.
    pub(crate) fn follow_members(&self, cgroups: &[PathBuf]) {
        let Some(fd) = &self.0 else { return };
        for cgroup in cgroups {
            let made = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
            let _ = add_watch(fd, cgroup.as_path(), made);
            // The kernel marks this file modified when `populated` in it changes (cgroup-v2.rst).
            let _ = add_watch(fd, cgroup.join("cgroup.events"), WatchFlags::MODIFY);
        }
    }

    /// Waits. `stop` becomes readable, or hangs up, when the owner is gone; `refusals` when there are some to read.
    pub(crate) fn wait(
        &self,
        stop: BorrowedFd<'_>,
        refusals: Option<BorrowedFd<'_>>,
        pause: Duration,
    ) -> Wake {
        let quiet = stop;
        let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        // Asked for nothing, the second place of a wait without refusals stays silent until the owner is gone.
        let asked = if refusals.is_some() { PollFlags::IN } else { PollFlags::empty() };
        fds.push(PollFd::from_borrowed_fd(refusals.unwrap_or(quiet), asked));
        fds.extend(self.0.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        if poll(&mut fds, Some(&pause)).is_err() {
            // Interrupted: a round too early harms nobody.
            return Wake::Time;
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        match (ready(0), ready(1), ready(2)) {
            (true, ..) => Wake::Stop,
            (false, true, _) => Wake::Refusal,
            (false, false, true) => {
                self.drain();
                Wake::Change
            }
            (false, false, false) => Wake::Time,
        }
    }

    /// What happened does not matter: the tree is looked through as it is now.
    fn drain(&self) {
        let Some(fd) = &self.0 else { return };
        let mut buffer = [0; 4096];
        while rustix::io::read(fd, &mut buffer[..]).is_ok_and(|length| length > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_new_directory_wakes_and_is_told_once() {
        let slice = tempfile::tempdir().unwrap();
        let (stop, _owner) = pipe().unwrap();
        let notice = Notice::open();
        notice.follow(&[slice.path().to_owned(), slice.path().to_owned(), "/nowhere".into()]);
        std::fs::create_dir(slice.path().join("runner.service")).unwrap();
        std::fs::create_dir(slice.path().join("other.service")).unwrap();
        assert_eq!(notice.wait(stop.as_fd(), None, LONG), Wake::Change);
        assert_eq!(notice.wait(stop.as_fd(), None, Duration::from_millis(1)), Wake::Time);
    }

    #[test]
    fn refusals_wake() {
        let (stop, _owner) = pipe().unwrap();
        let (refusals, kernel) = pipe().unwrap();
        let notice = Notice::open();
        let wait = |pause| notice.wait(stop.as_fd(), Some(refusals.as_fd()), pause);
        assert_eq!(wait(Duration::from_millis(1)), Wake::Time);
        rustix::io::write(&kernel, b"x").unwrap();
        assert_eq!(wait(LONG), Wake::Refusal);
    }

    #[test]
    fn an_owner_that_is_gone_stops() {
        let (stop, owner) = pipe().unwrap();
        drop(owner);
        assert_eq!(Notice::open().wait(stop.as_fd(), None, LONG), Wake::Stop);
        assert_eq!(Notice(None).wait(stop.as_fd(), None, LONG), Wake::Stop);
    }
}
