//! Telling people: one channel a webhook, each with a task, a bounded queue and a schedule of its own, so that
//! a dead one delays neither another nor a decision.

pub(crate) mod channel;
pub(crate) mod event;
pub(crate) mod retry;
pub mod signing;
pub(crate) mod transport;

use crate::{
    desk::Desk,
    settings::{ControlError, WebhookSettings},
};
use channel::{About, Channel, Message};
use event::EventType;
use lockgate_model::port::{Ambient, Recorder};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use transport::Transport;

/// All channels of this node.
pub(crate) struct Channels {
    channels: Vec<Channel>,
    tasks: TaskTracker,
    /// Cancelled: first attempts are still made, nothing is retried.
    closing: CancellationToken,
    /// Cancelled: nothing more is sent.
    halted: CancellationToken,
}

impl Channels {
    pub(crate) fn new(
        webhooks: Vec<WebhookSettings>,
        recorder: Arc<dyn Recorder>,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Self, ControlError> {
        let transports = webhooks
            .into_iter()
            .map(|webhook| Ok((webhook.name.clone(), webhook.follow_ups, Transport::new(webhook)?)))
            .collect::<Result<Vec<_>, ControlError>>()?;
        Ok(Self::over(transports, recorder, ambient))
    }

    pub(crate) fn over(
        transports: Vec<(String, bool, Transport)>,
        recorder: Arc<dyn Recorder>,
        ambient: Arc<dyn Ambient>,
    ) -> Self {
        let (tasks, closing, halted) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let channels = transports
            .into_iter()
            .map(|(name, follow_ups, transport)| {
                let (channel, task) = channel::channel(
                    &name,
                    follow_ups,
                    transport,
                    channel::Surroundings { recorder: recorder.clone(), ambient: ambient.clone() },
                    closing.clone(),
                );
                let halted = halted.clone();
                tasks.spawn(async move {
                    halted.run_until_cancelled(task).await;
                });
                channel
            })
            .collect();
        Self { channels, tasks, closing, halted }
    }

    /// Queues a message on every channel that wants it; never waits.
    pub(crate) fn queue(&self, desk: &Arc<Desk>, kind: EventType, about: About) {
        for channel in &self.channels {
            if !kind.is_follow_up() || channel.follow_ups() {
                channel.queue(Message::new(desk, kind, about.clone()));
            }
        }
    }

    pub(crate) fn enable(&self) {
        self.channels.iter().for_each(Channel::enable);
    }

    /// Makes the first attempts that are due, then ends; what is left at `end` is dropped.
    pub(crate) async fn stop(&self, end: tokio::time::Instant) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout_at(end, self.tasks.wait()).await.is_err() {
            tracing::warn!("notifications were still under way at the deadline and are dropped");
        }
        self.halt();
    }

    pub(crate) fn halt(&self) {
        self.halted.cancel();
    }
}

#[cfg(test)]
mod tests;
