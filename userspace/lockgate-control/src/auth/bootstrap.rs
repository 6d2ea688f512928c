//! The first administrator, before there is an identity provider: a token that is good once, for an hour, written where root
//! alone reads it. For trying lockgate out; everything says so.

use super::secret::{self, BOOTSTRAP_TOKEN, Hashed, NoRandomness};
use lockgate_model::Secret;
use parking_lot::Mutex;
use std::{
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};
use tokio::time::Instant;

/// How long a token is good.
pub(crate) const GOOD: Duration = Duration::from_secs(3_600);

/// What every page and log says while it is on.
pub const WARNING: &str = "login.bootstrap is on: an administrator by one-time token is for trying lockgate out, not for production; set up \
     an identity provider under login.providers";

/// The token that is good now, when there is one.
#[derive(Default)]
pub(crate) struct Bootstrap(Mutex<Option<(Hashed, Instant)>>);

impl Bootstrap {
    /// Makes a token; the one before is good no more.
    pub(crate) fn make(&self, now: Instant) -> Result<Secret<String>, NoRandomness> {
        let token = secret::token(BOOTSTRAP_TOKEN)?;
        *self.0.lock() = Some((Hashed::of(token.expose()), now));
        Ok(token)
    }

    /// Uses a token up.
    pub(crate) fn take(&self, token: &str, now: Instant) -> bool {
        let mut good = self.0.lock();
        match *good {
            Some((hashed, made)) if hashed == Hashed::of(token) => {
                *good = None;
                now.saturating_duration_since(made) < GOOD
            }
            Some(_) | None => false,
        }
    }
}

/// Writes a token for root alone, over what was there.
pub(crate) fn write(path: &Path, token: &Secret<String>) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", token.expose())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_is_good_once_and_for_an_hour_and_the_next_one_replaces_it() {
        let (bootstrap, now) = (Bootstrap::default(), Instant::now());
        assert!(!bootstrap.take("", now));
        let first = bootstrap.make(now).unwrap();
        assert!(!bootstrap.take("lgb_wrong", now));
        assert!(bootstrap.take(first.expose(), now));
        assert!(!bootstrap.take(first.expose(), now), "once");
        let late = bootstrap.make(now).unwrap();
        assert!(!bootstrap.take(late.expose(), now + GOOD));
        let replaced = bootstrap.make(now).unwrap();
        let good = bootstrap.make(now).unwrap();
        assert!(!bootstrap.take(replaced.expose(), now));
        assert!(bootstrap.take(good.expose(), now));
    }

    #[test]
    fn the_file_is_for_its_owner_alone_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        write(&path, &Secret::new("lgb_x".into())).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "lgb_x\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
