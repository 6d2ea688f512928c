//! Waiting for the next round of the watch: until time is up, until somebody stops it, or until a unit
//! appears. systemd makes units in slices, so the slices are watched; what appears elsewhere is found by time.

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
    /// Something was made in a slice.
    Change,
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

    /// Waits. `stop` becomes readable, or hangs up, when the owner is gone.
    pub(crate) fn wait(&self, stop: BorrowedFd<'_>, pause: Duration) -> Wake {
        let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        fds.extend(self.0.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        if poll(&mut fds, Some(&pause)).is_err() {
            // Interrupted: a round too early harms nobody.
            return Wake::Time;
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        match (ready(0), ready(1)) {
            (true, _) => Wake::Stop,
            (false, true) => {
                self.drain();
                Wake::Change
            }
            (false, false) => Wake::Time,
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
        assert_eq!(notice.wait(stop.as_fd(), LONG), Wake::Change);
        assert_eq!(notice.wait(stop.as_fd(), Duration::from_millis(1)), Wake::Time);
    }

    #[test]
    fn an_owner_that_is_gone_stops() {
        let (stop, owner) = pipe().unwrap();
        drop(owner);
        assert_eq!(Notice::open().wait(stop.as_fd(), LONG), Wake::Stop);
        assert_eq!(Notice(None).wait(stop.as_fd(), LONG), Wake::Stop);
    }
}
