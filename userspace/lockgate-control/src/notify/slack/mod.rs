//! Slack: one card a request in each channel that decides on it, edited in place as the request goes on; buttons whose
//! clicks come back to `api::slack`.
//!
//! A card is made when its turn comes, of what is true then, under a lock of its own: whatever order messages are sent in,
//! the last edit shows the latest state. Nothing of a request but its facts goes out: a button holds its id and a
//! signature over that and the digest of what is approved, so a card cannot decide on anything but what it shows.

mod api;
mod button;
mod card;
mod signature;

pub(crate) use button::Meant;
pub(crate) use card::{APPROVE, DENY, REASON, REASON_BLOCK, REASON_INPUT};

use super::{
    brief::Brief,
    channel::{About, Message},
    event::{self, EventType},
    guard::parse_url,
    http::Http,
    retry::Answer,
    settings::SlackSettings,
    webhook::header_value,
};
use crate::{approvals::bundle, desk::Desk, settings::ControlError};
use api::Trouble;
use lockgate_model::{Secret, id::GroupName, port::Ambient};
use parking_lot::Mutex;
use reqwest::Url;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// Slack's Web API.
const API: &str = "https://slack.com/api/";

/// Cards that can still be edited: every request that waits, and the latest that no longer do.
const CARDS_MAX: usize = crate::approvals::registry::PENDING_MAX + crate::approvals::registry::RECENT_MAX;

/// One workspace's bot.
pub(crate) struct Slack {
    name: String,
    http: Http,
    base: Url,
    token: Secret<String>,
    signing: Vec<Secret<String>>,
    team: String,
    channel: String,
    group_channels: BTreeMap<GroupName, String>,
    approvers: BTreeMap<GroupName, Vec<String>>,
    cards: Mutex<Cards>,
}

#[derive(Default)]
struct Cards {
    by_subject: HashMap<String, Arc<tokio::sync::Mutex<Card>>>,
    order: VecDeque<String>,
}

/// Where a card was posted (channel and `ts`), and what it says there.
#[derive(Default)]
struct Card {
    posted: BTreeMap<String, (String, String)>,
}

/// One card in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) channel: String,
    pub(crate) ts: String,
}

impl Slack {
    pub(crate) fn new(settings: SlackSettings) -> Result<Self, ControlError> {
        let name = settings.name;
        let bad = |key: &'static str, detail: &str| ControlError::Channel {
            name: name.clone(),
            key,
            detail: detail.to_owned(),
        };
        header_value(&settings.bot_token).map_err(|detail| bad("bot_token", &detail))?;
        if settings.bot_token.expose().trim().is_empty() {
            return Err(bad("bot_token", "it is empty"));
        }
        let signing: Vec<Secret<String>> = settings
            .signing_secret
            .expose()
            .split_whitespace()
            .map(|key| Secret::new(key.to_owned()))
            .collect();
        if signing.is_empty() {
            return Err(bad("signing_secret", "it is empty"));
        }
        let mut base = settings.api_url.clone().unwrap_or_else(|| API.to_owned());
        if !base.ends_with('/') {
            base.push('/');
        }
        let base = parse_url(&base, settings.allow_private).map_err(|detail| bad("api_url", &detail))?;
        if base.scheme() != "https" && !is_here(&base) {
            return Err(bad("api_url", "expected https: the bot's token goes there"));
        }
        let http = Http::new(&name, settings.ca_pem.as_deref(), settings.allow_private)?;
        Ok(Self {
            name,
            http,
            base,
            token: Secret::new(settings.bot_token.expose().trim().to_owned()),
            signing,
            team: settings.team,
            channel: settings.channel,
            group_channels: settings.group_channels,
            approvers: settings.approvers,
            cards: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn team(&self) -> &str {
        &self.team
    }

    /// Who is in which group, as configured.
    pub(crate) fn approvers(&self) -> &BTreeMap<GroupName, Vec<String>> {
        &self.approvers
    }

    /// One attempt to bring every card of a message's subject up to date.
    pub(super) async fn tell(&self, desk: &Arc<Desk>, message: &Message) -> Answer {
        let told = match &message.about {
            About::Case(_) | About::Bundle(_) => self.tell_card(desk, message).await,
            About::Glass(_) | About::Happening(_) => self.tell_once(desk, message).await,
        };
        match told {
            Ok(()) => Answer::Status { code: 200, retry_after: None },
            Err(Trouble::Limited(after)) => {
                let detail = format!("Slack takes no more for {} s", after.as_secs());
                Answer::Limited { after, detail }
            }
            Err(Trouble::Failed(detail)) => Answer::Failed(detail),
        }
    }

    /// Shows in one place what is true now, whoever posted it: for a card that an earlier process posted.
    pub(crate) async fn refresh(&self, desk: &Arc<Desk>, about: &About, place: &Place) {
        let Some(subject) = subject(about) else { return };
        let card = self.card(&subject);
        let mut card = card.lock().await;
        let (kind, message) = now(desk, about, EventType::Requested);
        card.posted.entry(place.channel.clone()).or_insert_with(|| (place.ts.clone(), String::new()));
        if let Err(error) = self.show(desk, &mut card, kind, &message).await {
            tracing::warn!(channel = self.name, %error, "a Slack card could not be edited");
        }
    }

    async fn tell_card(&self, desk: &Arc<Desk>, message: &Message) -> Result<(), Trouble> {
        let Some(subject) = subject(&message.about) else { return Ok(()) };
        let card = self.card(&subject);
        let mut card = card.lock().await;
        let (kind, current) = now(desk, &message.about, message.kind);
        if kind.is_waiting() {
            for channel in self.deciding(&current) {
                card.posted.entry(channel).or_default();
            }
        }
        self.show(desk, &mut card, kind, &current).await
    }

    /// Posts where it is not posted yet, edits where it says something else.
    async fn show(
        &self,
        desk: &Arc<Desk>,
        card: &mut Card,
        kind: EventType,
        message: &Message,
    ) -> Result<(), Trouble> {
        let event = event::value(desk, message);
        let brief = Brief::of(kind, &event);
        let buttons = kind.is_waiting().then(|| self.value_of(&event)).flatten();
        let shown = card::message(&brief, buttons.as_deref());
        let print = print(&shown);
        let ambient = &*desk.ambient;
        let mut first_trouble = None;
        for (channel, (ts, known)) in &mut card.posted {
            if !ts.is_empty() && *known == print {
                continue;
            }
            let mut body = shown.clone();
            body["channel"] = json!(channel);
            let done = if ts.is_empty() {
                self.post(body, ambient).await
            } else {
                body["ts"] = json!(ts);
                self.call("chat.update", body, ambient).await.map(|_| ts.clone())
            };
            match done {
                Ok(posted) => (*ts, *known) = (posted, print.clone()),
                Err(trouble) => drop(first_trouble.get_or_insert(trouble)),
            }
        }
        // One whose post never came through is not posted once nobody waits for it any more.
        if !kind.is_waiting() {
            card.posted.retain(|_, (ts, _)| !ts.is_empty());
        }
        first_trouble.map_or(Ok(()), Err)
    }

    async fn post(&self, body: Value, ambient: &dyn Ambient) -> Result<String, Trouble> {
        let answer = self.call("chat.postMessage", body, ambient).await?;
        let ts = answer["ts"].as_str().filter(|ts| !ts.is_empty());
        ts.map(str::to_owned).ok_or_else(|| Trouble::Failed("Slack named no `ts` for the message".to_owned()))
    }

    async fn tell_once(&self, desk: &Arc<Desk>, message: &Message) -> Result<(), Trouble> {
        let brief = Brief::of(message.kind, &event::value(desk, message));
        let mut body = card::message(&brief, None);
        body["channel"] = json!(self.channel);
        self.post(body, &*desk.ambient).await.map(drop)
    }

    /// Only this person sees it.
    pub(crate) async fn whisper(&self, desk: &Arc<Desk>, place: &Place, user: &str, text: &str) {
        let body = card::whisper(&place.channel, user, text);
        if let Err(error) = self.call("chat.postEphemeral", body, &*desk.ambient).await {
            tracing::warn!(channel = self.name, %error, "telling somebody in Slack why a decision does not count");
        }
    }

    /// Asks for a reason.
    pub(crate) async fn ask_reason(
        &self,
        desk: &Arc<Desk>,
        trigger: &str,
        about: &About,
        click: &Value,
        approve: bool,
    ) -> Result<(), String> {
        let (kind, message) = now(desk, about, EventType::Requested);
        let brief = Brief::of(kind, &event::value(desk, &message));
        let body = card::reason_modal(trigger, &brief, click, approve);
        self.call("views.open", body, &*desk.ambient).await.map(drop).map_err(|error| error.to_string())
    }

    /// Channels of the groups that decide now.
    fn deciding(&self, message: &Message) -> Vec<String> {
        let groups = message.progress.iter().flat_map(|progress| &progress.requirements);
        let mut channels: Vec<String> = groups
            .flat_map(|requirement| &requirement.any_of)
            .map(|group| self.group_channels.get(group).unwrap_or(&self.channel).clone())
            .collect();
        channels.sort();
        channels.dedup();
        if channels.is_empty() {
            channels.push(self.channel.clone());
        }
        channels
    }

    fn card(&self, subject: &str) -> Arc<tokio::sync::Mutex<Card>> {
        let mut cards = self.cards.lock();
        if let Some(card) = cards.by_subject.get(subject) {
            return card.clone();
        }
        while cards.order.len() >= CARDS_MAX {
            let Some(oldest) = cards.order.pop_front() else { break };
            cards.by_subject.remove(&oldest);
        }
        let card = Arc::new(tokio::sync::Mutex::new(Card::default()));
        cards.by_subject.insert(subject.to_owned(), card.clone());
        cards.order.push_back(subject.to_owned());
        card
    }
}

/// A receiver on this very host, which no wire leads to.
fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    ip.is_ok_and(|ip| ip.to_canonical().is_loopback()) || host == "localhost"
}

fn subject(about: &About) -> Option<String> {
    match about {
        About::Case(case) => Some(case.request.id.to_string()),
        About::Bundle(bundle) => Some(bundle.id.to_string()),
        About::Glass(_) | About::Happening(_) => None,
    }
}

/// How it stands: what came last, unless it is over.
fn now(desk: &Arc<Desk>, about: &About, last: EventType) -> (EventType, Message) {
    let ended = match about {
        About::Case(case) => case.resolution().map(|resolution| bundle::kind(&resolution)),
        About::Bundle(bundle) => bundle.outcome(),
        About::Glass(_) | About::Happening(_) => None,
    };
    let kind = match (last, ended) {
        (EventType::Consumed, Some(EventType::Approved)) => EventType::Consumed,
        (_, Some(ended)) => ended,
        (last, None) => last,
    };
    (kind, Message::new(desk, kind, about.clone()))
}

/// A card without buttons, for tests that look at what is said.
#[cfg(test)]
pub(in crate::notify) fn card_of(brief: &Brief) -> Value {
    card::message(brief, None)
}

/// What tells two cards apart.
fn print(message: &Value) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(message.to_string()))
}
