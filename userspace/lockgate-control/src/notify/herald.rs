//! Tells channels of what others record: the data plane's sessions and used approvals, the kernel side's alarms. It listens
//! where events go to the record, so nothing is told that was not recorded first, and nobody waits for it. Without a
//! channel that wants any of it, nothing stands in between.

use super::{alarms, channel::About, event::EventType};
use crate::{Control, desk::Desk};
use lockgate_model::{
    event::{Event, EventKind},
    port::{BoxFuture, Durability, Receipt, RecordError, Recorder},
};
use std::sync::{Arc, Weak};

/// What is told of the data plane.
const HEARD: [EventType; 3] = [EventType::Consumed, EventType::SessionStarted, EventType::SessionEnded];

/// What is told of whatever watches.
const ALARMS: [EventType; 2] = [EventType::Gap, EventType::Bypass];

impl Control {
    /// The recorder to give to the data plane: what it records is told to the channels that want it.
    pub fn heard(&self, recorder: Arc<dyn Recorder>) -> Arc<dyn Recorder> {
        self.told(recorder, &HEARD)
    }

    /// The recorder to give to what watches (capture, observation): the gaps and bypasses that it records are told to the
    /// channels that want them, the first of a kind at once, a storm of them gathered.
    pub fn alarms(&self, recorder: Arc<dyn Recorder>) -> Arc<dyn Recorder> {
        self.told(recorder, &ALARMS)
    }

    fn told(&self, recorder: Arc<dyn Recorder>, kinds: &[EventType]) -> Arc<dyn Recorder> {
        if kinds.iter().any(|kind| self.desk.channels.want(*kind)) {
            Arc::new(Herald { recorder, desk: Arc::downgrade(&self.desk) })
        } else {
            recorder
        }
    }
}

struct Herald {
    recorder: Arc<dyn Recorder>,
    desk: Weak<Desk>,
}

impl Recorder for Herald {
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        let told = worth_telling(&events);
        if told.is_empty() {
            return self.recorder.record(events, durability);
        }
        Box::pin(async move {
            let receipt = self.recorder.record(events, durability).await?;
            self.tell(told);
            Ok(receipt)
        })
    }

    fn submit(&self, events: Vec<Event>) {
        let told = worth_telling(&events);
        self.recorder.submit(events);
        self.tell(told);
    }
}

impl Herald {
    fn tell(&self, events: Vec<Event>) {
        let Some(desk) = self.desk.upgrade() else { return };
        for event in events {
            tell(&desk, event);
        }
    }
}

fn worth_telling(events: &[Event]) -> Vec<Event> {
    events.iter().filter(|event| kind(event).is_some()).cloned().collect()
}

/// What the channels call it.
fn kind(event: &Event) -> Option<EventType> {
    match &event.kind {
        EventKind::SessionStarted(_) => Some(EventType::SessionStarted),
        EventKind::SessionEnded(_) => Some(EventType::SessionEnded),
        EventKind::Gap { stage, .. } if stage == "bypass" => Some(EventType::Bypass),
        EventKind::Gap { .. } => Some(EventType::Gap),
        EventKind::Forwarded { approval: Some(_), .. } => Some(EventType::Consumed),
        _ => None,
    }
}

/// Tells what was recorded, if it is worth telling.
pub(super) fn tell(desk: &Arc<Desk>, event: Event) {
    let Some(kind) = kind(&event) else { return };
    if kind.is_alarm() {
        return alarms::sound(desk, kind, event);
    }
    let about = match &event.kind {
        EventKind::Forwarded { approval: Some(request), .. } => {
            // One that is forgotten already was told of when it was decided.
            let Some(case) = desk.registry.find(*request) else { return };
            About::Case(case)
        }
        _ => About::Happening(Arc::new(event)),
    };
    desk.channels.queue(desk, kind, about);
}
