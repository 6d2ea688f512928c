//! Messages of the extended protocol that wait for the end of their batch: a Sync, a Flush, or as many as are kept back.
//!
//! It only keeps them. `extended` puts them in and decides what is taken out.

use crate::limits::{Limits, RELEASE_DOUBLINGS};
use bytes::Bytes;
use lockgate_wire::postgres::{
    Target,
    frontend::{Bind, Execute, Parse},
};

/// One message that waits for its batch's end.
pub(super) enum Item {
    Parse(Parse, Bytes),
    Bind(Bind, Bytes),
    Describe(Target, Bytes),
    Execute(Execute, Bytes),
    Close(Target, Bytes),
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Self::Parse(_, bytes)
            | Self::Bind(_, bytes)
            | Self::Describe(_, bytes)
            | Self::Execute(_, bytes)
            | Self::Close(_, bytes) => bytes.len(),
        }
    }
}

/// Messages since the last Sync, Flush or release.
#[derive(Default)]
pub(crate) struct Batch {
    items: Vec<Item>,
    bytes: usize,
    /// How many of them stand before the last Execute, which included.
    whole: usize,
    /// An earlier part of this segment is at the target already.
    sent: bool,
    /// How many parts of this segment went on before the client asked.
    released: u32,
    /// What is refused now is a Parse of the unnamed statement.
    pub(super) unnamed: bool,
}

impl Batch {
    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The rest of the segment is dropped.
    pub(crate) fn clear(&mut self) {
        self.take();
    }

    /// The segment is over; whether a part of it had been sent.
    pub(crate) fn end(&mut self) -> bool {
        self.released = 0;
        std::mem::take(&mut self.sent)
    }

    /// A part of the segment goes to the target, and the segment is not over.
    pub(super) fn goes_on(&mut self) {
        self.sent = true;
    }

    /// Whether a segment is under way.
    pub(crate) fn is_open(&self) -> bool {
        self.sent || !self.items.is_empty()
    }

    /// Whether an earlier part of the segment is at the target: whatever it did is in a transaction that is open there,
    /// with a BEGIN or without.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent
    }

    pub(super) fn push(&mut self, item: Item) {
        self.bytes += item.len();
        let executes = matches!(item, Item::Execute(..));
        self.items.push(item);
        if executes {
            self.whole = self.items.len();
        }
    }

    /// Whether so much waits that it goes on before the client asks. Without an Execute there is little to gain, and a Parse
    /// apart from what it is for would be decided twice: then only the bound on memory counts.
    pub(super) fn is_due(&self, limits: &Limits) -> bool {
        let beyond = |messages, bytes| self.items.len() >= messages || self.bytes >= bytes;
        match self.whole {
            0 => beyond(limits.batch_messages, limits.batch_bytes),
            _ => beyond(limits.release_messages << self.released, limits.release_bytes << self.released),
        }
    }

    /// All that waits.
    pub(super) fn take(&mut self) -> Vec<Item> {
        (self.bytes, self.whole) = (0, 0);
        std::mem::take(&mut self.items)
    }

    /// The next part waits until twice as much has come. Leaves what can go on, and gives back what belongs to an Execute that has not come.
    pub(super) fn split(&mut self) -> Vec<Item> {
        if self.whole == 0 {
            return Vec::new();
        }
        self.released = (self.released + 1).min(RELEASE_DOUBLINGS);
        let rest = self.items.split_off(self.whole);
        self.bytes -= rest.iter().map(Item::len).sum::<usize>();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_wire::postgres::PgString;

    fn items(kinds: &str) -> impl Iterator<Item = Item> {
        let kinds: Vec<char> = kinds.chars().collect();
        kinds.into_iter().map(|kind| {
            let bytes = Bytes::from_static(b"0123456789");
            let name = PgString::default();
            match kind {
                'E' => Item::Execute(Execute { portal: name, max_rows: 0 }, bytes),
                'C' => Item::Close(Target::Portal(name), bytes),
                'P' => {
                    let sql = PgString::default();
                    Item::Parse(Parse { statement: name, sql, parameter_types: Vec::new() }, bytes)
                }
                _ => Item::Describe(Target::Statement(name), bytes),
            }
        })
    }

    #[test]
    fn what_goes_on_ends_with_an_execute() {
        let limits = Limits {
            release_messages: 4,
            release_bytes: 1000,
            batch_messages: 8,
            batch_bytes: 100,
            ..Limits::default()
        };
        for (waits, due, goes, stays) in [
            ("PE", false, 2, 0),
            ("PDE", false, 3, 0),
            ("PDED", true, 3, 1),
            ("PEPE", true, 4, 0),
            ("EPDC", true, 1, 3),
            ("PPPPPPP", false, 7, 0),
            ("PPPPPPPP", true, 8, 0),
        ] {
            let mut batch = Batch::default();
            items(waits).for_each(|item| batch.push(item));
            assert_eq!(batch.is_due(&limits), due, "{waits}");
            let rest = batch.split();
            assert_eq!((batch.items.len(), rest.len()), (goes, stays), "{waits}");
            assert_eq!(batch.bytes, goes * 10, "{waits}");
            batch.end();
            batch.clear();
            rest.into_iter().for_each(|item| batch.push(item));
            assert_eq!((batch.items.len(), batch.bytes), (stays, stays * 10), "{waits}");
        }
    }
}
