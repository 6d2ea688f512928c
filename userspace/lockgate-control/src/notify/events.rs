//! Which events a channel gets.

use super::event::{EVENT_TYPES, EventType};

/// A channel's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Events {
    wanted: Vec<EventType>,
}

impl Events {
    /// By `events:`, entries of which are a type or `prefix.*`; without it, calls for decisions, emergency overrides, alarms
    /// (connections past lockgate, gaps in what is seen and recorded), and with `follow_ups` how requests ended.
    ///
    /// # Errors
    /// The entry that means nothing.
    pub(crate) fn new(named: Option<&[String]>, follow_ups: bool) -> Result<Self, String> {
        let Some(named) = named else { return Ok(Self::usual(follow_ups)) };
        let mut wanted = Vec::new();
        for entry in named {
            let fits = |kind: &EventType| match entry.strip_suffix('*') {
                Some(prefix) => prefix.ends_with('.') && kind.as_str().starts_with(prefix),
                None => kind.as_str() == entry,
            };
            let before = wanted.len();
            wanted.extend(EVENT_TYPES.into_iter().filter(fits));
            if wanted.len() == before {
                let known: Vec<&str> = EVENT_TYPES.into_iter().map(EventType::as_str).collect();
                return Err(format!("{entry:?} is no event; expected one of {}", known.join(", ")));
            }
        }
        Ok(Self { wanted })
    }

    fn usual(follow_ups: bool) -> Self {
        let usual = |kind: &EventType| match kind {
            EventType::Requested | EventType::Updated | EventType::Escalated => true,
            EventType::GlassUsed | EventType::GlassEnded | EventType::GlassOverdue => true,
            EventType::Approved | EventType::Denied | EventType::Expired | EventType::Cancelled => follow_ups,
            EventType::Consumed | EventType::SessionStarted | EventType::SessionEnded => false,
            EventType::Gap | EventType::Bypass => true,
        };
        Self { wanted: EVENT_TYPES.into_iter().filter(usual).collect() }
    }

    /// The same for what is edited in place: whoever shows requests with buttons shows how they went on, whatever
    /// `events:` names, or its buttons would outlive what they decide.
    pub(crate) fn of_cards(mut self) -> Self {
        if self.wants(EventType::Requested) {
            let follow = [
                EventType::Updated,
                EventType::Escalated,
                EventType::Approved,
                EventType::Denied,
                EventType::Expired,
                EventType::Cancelled,
            ];
            self.wanted
                .extend(follow.into_iter().filter(|kind| !self.wanted.contains(kind)).collect::<Vec<_>>());
        }
        self
    }

    pub(crate) fn wants(&self, kind: EventType) -> bool {
        self.wanted.contains(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_get_what_they_name_and_nothing_that_does_not_exist() {
        let named = |entries: &[&str]| {
            let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
            Events::new(Some(&entries), true)
        };
        for (entries, kind, expected) in [
            (&["lockgate.session.*"][..], EventType::SessionStarted, true),
            (&["lockgate.session.*"], EventType::Gap, true),
            (&["lockgate.session.*"], EventType::Requested, false),
            (&["lockgate.bypass.detected", "lockgate.approval.consumed"], EventType::Bypass, true),
            (&["lockgate.bypass.detected", "lockgate.approval.consumed"], EventType::Consumed, true),
            (&["lockgate.*"], EventType::GlassUsed, true),
            (&[], EventType::Requested, false),
        ] {
            assert_eq!(named(entries).unwrap().wants(kind), expected, "{entries:?} {kind:?}");
        }
        for bad in ["approval.requested", "lockgate.approval", "*", "lockgate.appr*", ""] {
            assert!(named(&[bad]).unwrap_err().contains("is no event"), "{bad}");
        }
        let usual = Events::new(None, false).unwrap();
        assert!(usual.wants(EventType::Escalated) && !usual.wants(EventType::Denied));
        assert!(!Events::new(None, true).unwrap().wants(EventType::SessionEnded));
        for follow_ups in [true, false] {
            let usual = Events::new(None, follow_ups).unwrap();
            assert!(usual.wants(EventType::Gap) && usual.wants(EventType::Bypass), "alarms go to everybody");
        }
    }

    #[test]
    fn a_card_follows_its_request_whatever_is_named() {
        let of = |entry: &str| Events::new(Some(&[entry.to_owned()]), true).unwrap().of_cards();
        let asks = of("lockgate.approval.requested");
        for kind in [EventType::Escalated, EventType::Denied, EventType::Expired, EventType::Cancelled] {
            assert!(asks.wants(kind), "{kind:?}");
        }
        assert!(!asks.wants(EventType::GlassUsed) && !asks.wants(EventType::Consumed));
        let tells = of("lockgate.breakglass.used");
        assert!(!tells.wants(EventType::Denied), "no card, nothing to edit");
    }

    #[test]
    fn every_type_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> =
            EVENT_TYPES.into_iter().map(EventType::as_str).collect();
        assert_eq!(names.len(), EVENT_TYPES.len());
    }
}
