//! The ways a message can go. A channel's task asks its transport to wrap a message (quick, one after the other, so that
//! nothing big is made by 64 tasks at once), then to send what it wrapped.

use super::{channel::Message, email::Email, retry::Answer, slack::Slack, webhook::Webhook};
use crate::desk::Desk;
use lockgate_model::port::Ambient;
use std::sync::Arc;

/// How a channel reaches people.
pub(crate) enum Transport {
    /// HTTP, the body an event or made of one by a template.
    Webhook(Box<Webhook>),
    /// Slack's Web API.
    Slack(Arc<Slack>),
    /// SMTP.
    Email(Box<Email>),
    /// Answers of a test.
    #[cfg(test)]
    Scripted(crate::testing::Script),
}

/// A message as one transport sends it.
pub(super) enum Parcel {
    /// A body.
    Body(Vec<u8>),
    /// Slack makes its card when its turn comes: it shows what is true then.
    Card(Arc<Desk>),
    /// A letter.
    Letter(Box<super::email::Letter>),
    /// It cannot be sent, ever; why.
    Unsendable(String),
}

impl Transport {
    /// What the channel's label begins with.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Slack(_) => "slack",
            Self::Email(_) => "email",
            #[cfg(test)]
            Self::Scripted(_) => "webhook",
        }
    }

    pub(super) fn wrap(&self, desk: &Arc<Desk>, message: &Message) -> Parcel {
        match self {
            Self::Webhook(webhook) => match webhook.body(desk, message) {
                Ok(body) => Parcel::Body(body),
                Err(why) => Parcel::Unsendable(why),
            },
            Self::Slack(_) => Parcel::Card(desk.clone()),
            Self::Email(email) => match email.letter(desk, message) {
                Ok(letter) => Parcel::Letter(Box::new(letter)),
                Err(why) => Parcel::Unsendable(why),
            },
            #[cfg(test)]
            Self::Scripted(_) => Parcel::Body(super::event::body(desk, message)),
        }
    }

    /// One attempt. Cancel-safe in that nothing is kept; the receiver may have got it all the same.
    pub(super) async fn send(&self, message: &Message, parcel: Parcel, ambient: &dyn Ambient) -> Answer {
        match (self, parcel) {
            (Self::Webhook(webhook), Parcel::Body(body)) => webhook.post(&message.id, ambient, body).await,
            (Self::Slack(slack), Parcel::Card(desk)) => slack.tell(&desk, message).await,
            (Self::Email(email), Parcel::Letter(letter)) => email.send(&message.id, *letter).await,
            #[cfg(test)]
            (Self::Scripted(script), Parcel::Body(body)) => script.post(&message.id, body).await,
            (_, Parcel::Unsendable(why)) => Answer::Hopeless(why),
            (_, Parcel::Body(_) | Parcel::Card(_) | Parcel::Letter(_)) => {
                Answer::Hopeless("the message is another channel's".to_owned())
            }
        }
    }
}
