//! Logins that have begun: what a browser must bring back. Each is good once, for the browser that began it, for the provider it
//! was sent to, and for some minutes.

use super::secret::Hashed;
use lockgate_model::Secret;
use parking_lot::Mutex;
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// Somebody who has to look for their second factor is back by then.
const GOOD: Duration = Duration::from_secs(600);

/// Attempts under way, about a kilobyte each; the oldest makes room.
const ATTEMPTS_MAX: usize = 10_000;

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) provider: String,
    /// The cookie of the browser that began it.
    pub(crate) browser: Hashed,
    pub(crate) nonce: String,
    pub(crate) verifier: Secret<String>,
    /// Where to go then; a path of ours.
    pub(crate) next: String,
    /// The person must have proved anew who they are.
    pub(crate) fresh: bool,
    pub(crate) began: Instant,
}

/// Why what a browser brings opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptError {
    /// Never begun here, over, or used before.
    Unknown,
    /// Another browser began it.
    OtherBrowser,
    /// It was sent to another provider.
    OtherProvider,
}

/// All under way, by their state.
#[derive(Default)]
pub(crate) struct Attempts(Mutex<HashMap<Hashed, Attempt>>);

impl Attempts {
    pub(crate) fn begin(&self, state: &str, attempt: Attempt) {
        let mut open = self.0.lock();
        if open.len() >= ATTEMPTS_MAX {
            open.retain(|_, other| attempt.began.saturating_duration_since(other.began) < GOOD);
        }
        if open.len() >= ATTEMPTS_MAX
            && let Some(oldest) = open.iter().min_by_key(|(_, other)| other.began).map(|(key, _)| *key)
        {
            open.remove(&oldest);
        }
        open.insert(Hashed::of(state), attempt);
    }

    /// Takes one up; whatever is wrong with it, it is used up.
    pub(crate) fn take(
        &self,
        state: &str,
        browser: Option<&str>,
        provider: &str,
        now: Instant,
    ) -> Result<Attempt, AttemptError> {
        let attempt = self.0.lock().remove(&Hashed::of(state)).ok_or(AttemptError::Unknown)?;
        if now.saturating_duration_since(attempt.began) >= GOOD {
            return Err(AttemptError::Unknown);
        }
        if browser.map(Hashed::of) != Some(attempt.browser) {
            return Err(AttemptError::OtherBrowser);
        }
        if attempt.provider != provider {
            return Err(AttemptError::OtherProvider);
        }
        Ok(attempt)
    }
}

/// Where to go after a login: a path of ours, never another site, whatever a link said.
pub(crate) fn own_path(next: Option<&str>) -> String {
    let next = next.unwrap_or("/");
    let plain = next.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'\\');
    let own = next.starts_with('/') && !next.starts_with("//");
    let again =
        next == "/login" || next.starts_with("/login/") || next.starts_with("/login?") || next == "/logout";
    if own && plain && !again && next.len() <= 2_048 { next.to_owned() } else { "/".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(began: Instant) -> Attempt {
        Attempt {
            provider: "corp".into(),
            browser: Hashed::of("b"),
            nonce: "n".into(),
            verifier: Secret::new("v".into()),
            next: "/".into(),
            fresh: false,
            began,
        }
    }

    #[test]
    fn an_attempt_is_good_once_for_its_browser_its_provider_and_its_time() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for (state, browser, provider, seconds, expected) in [
            ("other", Some("b"), "corp", 0, Some(AttemptError::Unknown)),
            ("s", None, "corp", 0, Some(AttemptError::OtherBrowser)),
            ("s", Some("c"), "corp", 0, Some(AttemptError::OtherBrowser)),
            ("s", Some("b"), "other", 0, Some(AttemptError::OtherProvider)),
            ("s", Some("b"), "corp", 600, Some(AttemptError::Unknown)),
            ("s", Some("b"), "corp", 599, None),
        ] {
            attempts.begin("s", attempt(now));
            let at = now + Duration::from_secs(seconds);
            assert_eq!(attempts.take(state, browser, provider, at).err(), expected);
            let again = attempts.take("s", Some("b"), "corp", at).err();
            assert!(state == "other" || again == Some(AttemptError::Unknown), "used up");
        }
    }

    #[test]
    fn attempts_are_bounded_and_the_oldest_makes_room() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..10_005_u64 {
            attempts.begin(&number.to_string(), attempt(now + Duration::from_millis(number % 7)));
        }
        assert_eq!(attempts.0.lock().len(), ATTEMPTS_MAX);
    }

    #[test]
    fn a_login_leads_to_a_path_of_ours_and_nowhere_else() {
        for path in ["/", "/approvals/req_1?tab=x#y", "/me"] {
            assert_eq!(own_path(Some(path)), path);
        }
        for bad in [
            "//evil.example.com",
            "/\\evil.example.com",
            "\\\\evil",
            "https://evil.example.com",
            "javascript:alert(1)",
            "/\t/evil",
            "/a\r\nSet-Cookie: x=y",
            "/%\n",
            "",
            "approvals",
            " /x",
            "/ä",
            "/login?next=/x",
            "/login/corp",
            "/logout",
        ] {
            assert_eq!(own_path(Some(bad)), "/", "{bad:?}");
        }
        assert_eq!(own_path(Some(&format!("/{}", "x".repeat(3_000)))), "/");
        assert_eq!(own_path(None), "/");
    }
}
