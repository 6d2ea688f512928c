//! An account that the vault made for lockgate: kept alive while a session has it, given back afterwards.
//!
//! Two things end an account before its session: its own lease, and the token that asked for it, whose end revokes all
//! that it made. Both are renewed at half of what is left of them.

use super::{
    VaultError,
    client::{Client, Method},
    token::{MIN_RENEWAL, Token},
};
use serde::Deserialize;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

/// Tries to give it back; then it ends by itself.
const REVOKE_TRIES: u32 = 3;

/// Keeps an account alive. Dropping it gives the account back.
#[derive(Debug)]
pub struct Lease {
    /// Closed with the lease.
    _alive: oneshot::Sender<()>,
    /// Until when a new session may begin with it: two thirds of the first duration.
    fresh_until: Option<Instant>,
}

impl Lease {
    pub(super) fn keep(client: Arc<Client>, token: Arc<Token>, given: Given) -> Self {
        let (alive, ended) = oneshot::channel();
        let length = given.length;
        let fresh_until = (!length.is_zero()).then(|| Instant::now() + length * 2 / 3);
        if !given.id.is_empty() {
            let leases = client.leases.clone();
            leases.spawn(Watch::new(client, token, given).run(ended));
        }
        Self { _alive: alive, fresh_until }
    }

    /// Whether a new session may begin with it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh_until.is_none_or(|until| Instant::now() < until)
    }
}

/// A lease as the vault tells of it.
pub(super) struct Given {
    pub(super) id: String,
    pub(super) length: Duration,
    pub(super) renewable: bool,
}

struct Watch {
    client: Arc<Client>,
    token: Arc<Token>,
    id: String,
    /// When to renew, and when it is over; None when it cannot be renewed.
    renewal: Option<Renewal>,
}

#[derive(Clone, Copy)]
struct Renewal {
    /// Asked for each time.
    length: Duration,
    due: Instant,
    ends: Instant,
}

impl Renewal {
    fn after(length: Duration, left: Duration) -> Self {
        let now = Instant::now();
        Self { length, due: now + (left / 2).max(MIN_RENEWAL), ends: now + left }
    }
}

impl Watch {
    fn new(client: Arc<Client>, token: Arc<Token>, given: Given) -> Self {
        let Given { id, length, renewable } = given;
        let renewal = (renewable && !length.is_zero()).then(|| Renewal::after(length, length));
        Self { client, token, id, renewal }
    }

    async fn run(mut self, mut ended: oneshot::Receiver<()>) {
        loop {
            let due = [self.renewal.map(|renewal| renewal.due), self.token.renewal()];
            let Some(due) = due.into_iter().flatten().min() else {
                // Nobody sends: this is the lease being dropped.
                let _ = (&mut ended).await;
                break;
            };
            if timeout_at(due, &mut ended).await.is_ok() {
                break;
            }
            if let Some(renewal) = self.renewal
                && renewal.due <= Instant::now()
            {
                self.renewal = self.renew(renewal).await;
            }
            if self.token.renewal().is_some_and(|due| due <= Instant::now()) {
                self.renew_token().await;
            }
        }
        self.give_back().await;
    }

    /// When the next time is.
    async fn renew(&self, renewal: Renewal) -> Option<Renewal> {
        #[derive(Deserialize)]
        struct Answer {
            lease_duration: u64,
            #[serde(default)]
            renewable: bool,
        }
        let asked = json!({ "lease_id": self.id, "increment": renewal.length.as_secs() });
        let answer = match self.client.ask(Method::Put, "sys/leases/renew", Some(&asked)).await {
            Ok(body) => super::parse::<Answer>("sys/leases/renew", &body),
            Err(error) => Err(error),
        };
        match answer {
            Ok(Answer { lease_duration, renewable }) => {
                let left = Duration::from_secs(lease_duration);
                (renewable && !left.is_zero()).then(|| Renewal::after(renewal.length, left))
            }
            Err(error) => {
                // A vault that is being started again knows the lease still.
                let left = renewal.ends.saturating_duration_since(Instant::now());
                let again = !is_final(&error) && !left.is_zero();
                tracing::warn!(
                    %error, again, lease = %self.id,
                    "an account of the vault cannot be renewed; the target may end its session when it is over"
                );
                again.then(|| Renewal { ends: renewal.ends, ..Renewal::after(renewal.length, left) })
            }
        }
    }

    async fn renew_token(&self) {
        if let Err(error) = self.client.renew(&self.token).await {
            self.token.not_renewed(is_final(&error));
            let (left, again) = (self.token.left(), self.token.renewal().is_some());
            tracing::warn!(
                %error, ?left, again, lease = %self.id,
                "the token that asked the vault for this account cannot be renewed, and the account ends with it; \
                 give lockgate's role in the vault a token_period, or a longer token_max_ttl"
            );
        }
    }

    async fn give_back(&self) {
        for attempt in 0..REVOKE_TRIES {
            sleep(Duration::from_secs(u64::from(attempt) * 2)).await;
            let asked = json!({ "lease_id": self.id });
            match self.client.ask(Method::Put, "sys/leases/revoke", Some(&asked)).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, lease = %self.id, "an account of the vault is not given back yet")
                }
            }
        }
    }
}

/// Whether asking again can only be answered alike.
fn is_final(error: &VaultError) -> bool {
    match error {
        VaultError::Denied { .. } | VaultError::NotFound { .. } => true,
        VaultError::Status { status, .. } => (400..500).contains(status),
        VaultError::Address(_)
        | VaultError::Plain(_)
        | VaultError::Client(_)
        | VaultError::Reference(_)
        | VaultError::Own(_)
        | VaultError::Unreachable { .. }
        | VaultError::Slow { .. }
        | VaultError::Redirect { .. }
        | VaultError::NotReady { .. }
        | VaultError::TooLong { .. }
        | VaultError::Answer { .. }
        | VaultError::NoField { .. }
        | VaultError::NotText { .. } => false,
    }
}
