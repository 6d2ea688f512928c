//! Telling people: webhooks, Slack, mail. Each channel has a task, a bounded queue and a schedule of its own, so that a
//! dead one delays neither another nor a decision.
//!
//! Whatever the channel, what it tells is made from one event ([`event`]), so masks hold for all of them; [`brief`] puts
//! it into words for people. Who may decide is judged elsewhere (`api::vote`).

pub(crate) mod alarms;
pub(crate) mod brief;
pub(crate) mod channel;
pub(crate) mod email;
pub(crate) mod event;
pub(crate) mod events;
pub(crate) mod guard;
pub mod health;
pub(crate) mod herald;
pub(crate) mod http;
pub(crate) mod rehearsal;
pub(crate) mod retry;
pub mod settings;
pub mod signing;
pub(crate) mod slack;
pub(crate) mod template;
pub(crate) mod transport;
pub(crate) mod webhook;

use crate::{desk::Desk, settings::ControlError};
use channel::{About, Channel, Message};
use email::Email;
use event::EventType;
use events::Events;
use health::ChannelHealth;
use lockgate_model::port::{Ambient, Recorder};
use settings::{ChannelSettings, WebhookSettings};
use slack::Slack;
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use transport::Transport;
use webhook::Webhook;

/// All channels of this node.
pub(crate) struct Channels {
    channels: Vec<Channel>,
    tasks: TaskTracker,
    /// Cancelled: first attempts are still made, nothing is retried.
    closing: CancellationToken,
    /// Cancelled: nothing more is sent.
    halted: CancellationToken,
}

/// A channel that is not running yet.
type Prepared = (String, Events, Transport);

impl Channels {
    pub(crate) fn new(
        webhooks: Vec<WebhookSettings>,
        channels: Vec<ChannelSettings>,
        recorder: Arc<dyn Recorder>,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Self, ControlError> {
        let all = webhooks.into_iter().map(ChannelSettings::Webhook).chain(channels);
        let transports = all.map(prepare).collect::<Result<Vec<_>, ControlError>>()?;
        Ok(Self::over(transports, recorder, ambient))
    }

    pub(crate) fn over(
        transports: Vec<Prepared>,
        recorder: Arc<dyn Recorder>,
        ambient: Arc<dyn Ambient>,
    ) -> Self {
        let (tasks, closing, halted) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let channels = transports
            .into_iter()
            .map(|(name, events, transport)| {
                let (channel, task) = channel::channel(
                    &name,
                    events,
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
        for channel in self.channels.iter().filter(|channel| channel.wants(kind)) {
            channel.queue(Message::new(desk, kind, about.clone()));
        }
    }

    /// Whether any channel wants this.
    pub(crate) fn want(&self, kind: EventType) -> bool {
        self.channels.iter().any(|channel| channel.wants(kind))
    }

    /// The Slack channel of this name.
    pub(crate) fn slack(&self, name: &str) -> Option<Arc<Slack>> {
        self.channels.iter().find_map(|channel| match &**channel.transport() {
            Transport::Slack(slack) if slack.name() == name => Some(slack.clone()),
            _ => None,
        })
    }

    /// How each does.
    pub(crate) fn health(&self) -> Vec<ChannelHealth> {
        self.channels.iter().map(Channel::health).collect()
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

fn prepare(settings: ChannelSettings) -> Result<Prepared, ControlError> {
    let name = settings.name().to_owned();
    let bad = |detail| ControlError::Channel { name: name.clone(), key: "events", detail };
    Ok(match settings {
        ChannelSettings::Webhook(webhook) => {
            let events = Events::new(webhook.events.as_deref(), webhook.follow_ups).map_err(bad)?;
            (name, events, Transport::Webhook(Box::new(Webhook::new(webhook)?)))
        }
        ChannelSettings::Slack(slack) => {
            let events = Events::new(slack.events.as_deref(), true).map_err(bad)?.of_cards();
            (name, events, Transport::Slack(Arc::new(Slack::new(slack)?)))
        }
        ChannelSettings::Email(email) => {
            let events = Events::new(email.events.as_deref(), true).map_err(bad)?;
            (name, events, Transport::Email(Box::new(Email::new(email)?)))
        }
    })
}

#[cfg(test)]
mod tests;
