//! An account that the vault made for lockgate: renewed while a session has it, given back afterwards.

use super::client::{Client, Method};
use serde::Deserialize;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

/// A lease that is said to be shorter is asked about this often all the same.
const MIN_RENEWAL: Duration = Duration::from_secs(1);
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
    pub(super) fn keep(client: Arc<Client>, id: String, length: Duration, renewable: bool) -> Self {
        let (alive, ended) = oneshot::channel();
        let fresh_until = (!length.is_zero()).then(|| Instant::now() + length * 2 / 3);
        if !id.is_empty() {
            let leases = client.leases.clone();
            leases.spawn(watch(client, id, length, renewable, ended));
        }
        Self { _alive: alive, fresh_until }
    }

    /// Whether a new session may begin with it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh_until.is_none_or(|until| Instant::now() < until)
    }
}

async fn watch(
    client: Arc<Client>,
    id: String,
    mut length: Duration,
    mut renewable: bool,
    mut ended: oneshot::Receiver<()>,
) {
    loop {
        // Nobody sends: this is the lease being dropped.
        if !renewable || length.is_zero() {
            let _ = (&mut ended).await;
            break;
        }
        if timeout((length / 2).max(MIN_RENEWAL), &mut ended).await.is_ok() {
            break;
        }
        match renew(&client, &id, length).await {
            Some(renewed) => (length, renewable) = renewed,
            // The account ends when its time is up, and the target's session with it or not, as the target decides.
            None => renewable = false,
        }
    }
    for attempt in 0..REVOKE_TRIES {
        sleep(Duration::from_secs(u64::from(attempt) * 2)).await;
        match client.ask(Method::Put, "sys/leases/revoke", Some(&json!({ "lease_id": id }))).await {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, lease = %id, "an account of the vault is not given back yet")
            }
        }
    }
}

/// The new length, and whether it can be renewed again.
async fn renew(client: &Client, id: &str, length: Duration) -> Option<(Duration, bool)> {
    #[derive(Deserialize)]
    struct Answer {
        lease_duration: u64,
        #[serde(default)]
        renewable: bool,
    }
    let asked = json!({ "lease_id": id, "increment": length.as_secs() });
    let answer = match client.ask(Method::Put, "sys/leases/renew", Some(&asked)).await {
        Ok(body) => super::parse::<Answer>("sys/leases/renew", &body),
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => Some((Duration::from_secs(answer.lease_duration), answer.renewable)),
        Err(error) => {
            tracing::warn!(%error, lease = %id, "an account of the vault cannot be renewed");
            None
        }
    }
}
