//! Alarms: connections that went past lockgate, hooks that somebody took away, reports that were lost. The first of a kind is
//! told at once; what follows within [`WINDOW`] is told together when it ends, so that whoever can cause alarms cannot
//! bury people, or the alarm that matters, in them. What is told was recorded first, one by one.

use super::{channel::About, event::EventType, herald};
use crate::desk::Desk;
use lockgate_model::event::{Event, EventKind};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

/// How long alarms of one kind are gathered after one was told: long enough that a storm is a few messages an hour to read,
/// short enough that nobody waits for the rest.
pub(crate) const WINDOW: Duration = Duration::from_secs(30);

/// Kinds that are gathered apart; more share one window.
const KINDS_MAX: usize = 32;

/// Different details that one message names; more are counted.
const DETAILS_MAX: usize = 5;

/// What is gathered now, by kind of message and stage.
#[derive(Default)]
pub(crate) struct Alarms {
    open: Mutex<BTreeMap<Kind, Gathered>>,
}

type Kind = (&'static str, String);

#[derive(Default)]
struct Gathered {
    last: Option<Event>,
    alarms: u64,
    /// What they count themselves; None until one does.
    count: Option<u64>,
    details: Vec<String>,
}

impl Alarms {
    /// Whether this is to be told now; else it is gathered. The first of its kind opens a window.
    fn hear(&self, kind: EventType, event: &Event) -> Option<Kind> {
        let EventKind::Gap { stage, count, detail } = &event.kind else { return None };
        let mut open = self.open.lock();
        let mut key = (kind.as_str(), stage.clone());
        if !open.contains_key(&key) && open.len() >= KINDS_MAX {
            key.1 = "others".to_owned();
        }
        match open.get_mut(&key) {
            None => {
                open.insert(key.clone(), Gathered::default());
                Some(key)
            }
            Some(gathered) => {
                gathered.add(event, *count, detail);
                None
            }
        }
    }

    /// The end of a window: what was gathered in it, as one alarm; the next window begins. Nothing gathered ends it.
    fn end(&self, key: &Kind) -> Option<Event> {
        let mut open = self.open.lock();
        let told = open.get_mut(key).and_then(|gathered| std::mem::take(gathered).told());
        if told.is_none() {
            open.remove(key);
        }
        told
    }
}

impl Gathered {
    fn add(&mut self, event: &Event, count: Option<u64>, detail: &str) {
        self.alarms += 1;
        if let Some(count) = count {
            self.count = Some(self.count.unwrap_or(0).saturating_add(count));
        }
        if self.details.len() < DETAILS_MAX && !self.details.iter().any(|known| known == detail) {
            self.details.push(detail.to_owned());
        }
        self.last = Some(event.clone());
    }

    fn told(self) -> Option<Event> {
        let mut event = self.last?;
        if let EventKind::Gap { count, detail, .. } = &mut event.kind
            && self.alarms > 1
        {
            *count = self.count;
            *detail = format!("{} more: {}", self.alarms, self.details.join("; "));
        }
        Some(event)
    }
}

/// Tells an alarm that was recorded, now or with others of its kind.
pub(super) fn sound(desk: &Arc<Desk>, kind: EventType, event: Event) {
    let Some(key) = desk.alarms.hear(kind, &event) else { return };
    desk.channels.queue(desk, kind, About::Happening(Arc::new(event)));
    let later = Arc::downgrade(desk);
    let drain = desk.drain.clone();
    desk.cases.spawn_on(
        async move {
            loop {
                let stopping = tokio::select! {
                    () = tokio::time::sleep(WINDOW) => false,
                    () = drain.cancelled() => true,
                };
                if !tell_rest(&later, kind, &key) || stopping {
                    return;
                }
            }
        },
        &desk.runtime,
    );
}

fn tell_rest(desk: &Weak<Desk>, kind: EventType, key: &Kind) -> bool {
    let Some(desk) = desk.upgrade() else { return false };
    let Some(event) = desk.alarms.end(key) else { return false };
    desk.channels.queue(&desk, kind, About::Happening(Arc::new(event)));
    true
}

impl Desk {
    /// Records something that should not be, and tells it.
    pub(crate) fn alarm(self: &Arc<Self>, event: Event) {
        self.recorder.submit(vec![event.clone()]);
        herald::tell(self, event);
    }
}

#[cfg(test)]
mod tests;
