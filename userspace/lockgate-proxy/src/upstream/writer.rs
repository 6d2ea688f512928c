//! The sending half. Private fields, and two ways in: a permit, or words of lockgate's own from a closed list.

use crate::catalogue::CatalogueQuery;
use bytes::{Buf, Bytes};
use lockgate_policy::permit::Permit;
use lockgate_wire::postgres::frontend::{Bind, Execute, Frontend, Parse};
use lockgate_wire::postgres::{Format, PgString, Target, WireError};
use std::{collections::VecDeque, io};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Pieces handed to one write. The system takes up to 1,024; a batch seldom has more than a few.
const PIECES: usize = 64;
/// A statement that no PostgreSQL grammar takes. It is only ever prepared or fails as a whole: nothing of it can run.
const POISON: PgString = PgString::from_static("lockgate refused this batch");

/// What lockgate itself may say to the target in an open session. None of it runs a statement of anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Housekeeping {
    /// Ends a batch.
    Sync,
    /// Asks for what is there.
    Flush,
    /// Ends the session.
    Terminate,
    /// Asks what a portal or statement of the session returns, for its masks.
    Describe(Target),
    /// Forgets a portal or statement.
    Close(Target),
    /// Fails inside a batch, so that the target discards the rest of it and its transaction is aborted, just as it would
    /// be had the target itself refused. A Parse: even a target that understood it would run nothing.
    PoisonBatch {
        /// In the place of a Parse of the unnamed statement, which takes the old one away also when it fails.
        unnamed: bool,
    },
    /// Fails as a simple query, so that the target's transaction is aborted.
    PoisonQuery,
    /// Ends a COPY FROM STDIN with a failure.
    AbortCopy,
    /// Prepares a statement of no text, under the client's name and with its types: drivers ping so.
    PrepareEmpty {
        /// The statement's name.
        name: PgString,
        /// Declared types of parameters.
        types: Vec<u32>,
    },
    /// Makes a portal of a statement of no text; every value is NULL.
    BindEmpty {
        /// The portal's name.
        portal: PgString,
        /// The statement's name.
        statement: PgString,
        /// How many values.
        values: usize,
        /// Formats of result columns, of which there are none.
        formats: Vec<Format>,
    },
    /// Runs a portal of a statement of no text.
    RunEmpty(PgString),
}

impl Housekeeping {
    /// The message.
    pub(crate) fn into_message(self) -> Frontend {
        match self {
            Self::Sync => Frontend::Sync,
            Self::Flush => Frontend::Flush,
            Self::Terminate => Frontend::Terminate,
            Self::Describe(target) => Frontend::Describe(target),
            Self::Close(target) => Frontend::Close(target),
            Self::PoisonBatch { unnamed } => Frontend::Parse(Parse {
                statement: PgString::from_static(if unnamed { "" } else { "lockgate" }),
                sql: POISON,
                parameter_types: Vec::new(),
            }),
            Self::PoisonQuery => Frontend::Query(POISON),
            Self::AbortCopy => Frontend::CopyFail(PgString::from_static("refused by lockgate")),
            Self::PrepareEmpty { name, types } => Frontend::Parse(Parse {
                statement: name,
                sql: PgString::from_static(""),
                parameter_types: types,
            }),
            Self::BindEmpty { portal, statement, values, formats } => Frontend::Bind(Bind {
                portal,
                statement,
                parameter_formats: Vec::new(),
                parameters: vec![None; values],
                result_formats: formats,
            }),
            Self::RunEmpty(portal) => Frontend::Execute(Execute { portal, max_rows: 0 }),
        }
    }
}

/// The sending half of a session with the target.
///
/// [`Upstream::send`] and [`Upstream::housekeeping`] only queue, in order; [`Upstream::flush`] writes. The session bounds
/// the queue by not taking more from the client while [`Upstream::pending`] is high.
///
/// Bytes that nobody decided on have no way in:
///
/// ```compile_fail,E0308
/// use lockgate_proxy::upstream::Upstream;
/// fn smuggle(upstream: &mut Upstream, bytes: bytes::Bytes) {
///     upstream.send(bytes);
/// }
/// ```
///
/// ```compile_fail,E0616
/// use lockgate_proxy::upstream::Upstream;
/// fn smuggle(upstream: &mut Upstream, bytes: bytes::Bytes) {
///     upstream.queue.push_back(bytes);
/// }
/// ```
pub struct Upstream {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    queue: VecDeque<Bytes>,
    pending: usize,
}

impl Upstream {
    pub(super) fn new(stream: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self { stream, queue: VecDeque::new(), pending: 0 }
    }

    /// Queues permitted bytes; the permit is spent.
    pub fn send(&mut self, permit: Permit) {
        self.push(permit.into_bytes());
    }

    /// Queues a message of lockgate's own.
    pub fn housekeeping(&mut self, what: Housekeeping) -> Result<(), WireError> {
        self.message(&what.into_message())
    }

    /// Queues a statement of the catalogue's side connection: one of a closed list of constants.
    pub(crate) fn catalogue(&mut self, query: CatalogueQuery) -> Result<(), WireError> {
        self.message(&Frontend::Query(PgString::from_static(query.sql())))
    }

    /// Bytes that are queued and not yet written.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Writes until nothing is queued. Cancel-safe: what was written is no longer queued, and the rest still is.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.pending > 0 {
            let mut pieces = [io::IoSlice::new(&[]); PIECES];
            for (slot, piece) in pieces.iter_mut().zip(&self.queue) {
                *slot = io::IoSlice::new(piece);
            }
            let count = self.queue.len().min(PIECES);
            // One piece is the rule, and a plain write is the cheaper call.
            let written = match pieces.get(..count).unwrap_or_default() {
                [one] => self.stream.write(one).await?,
                many => self.stream.write_vectored(many).await?,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        self.stream.flush().await
    }

    /// Closes this direction after what is queued.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }

    fn message(&mut self, message: &Frontend) -> Result<(), WireError> {
        self.push(message.to_bytes()?);
        Ok(())
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.pending += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.pending = self.pending.saturating_sub(written);
        while let Some(front) = self.queue.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.queue.pop_front();
        }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("pending", &self.pending).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn bytes_leave_in_order_also_when_a_flush_is_cut_short() {
        let (near, mut far) = tokio::io::duplex(7);
        let mut upstream = Upstream::new(Box::new(near));
        let mut expected = Vec::new();
        for housekeeping in [
            Housekeeping::PoisonBatch { unnamed: false },
            Housekeeping::PoisonBatch { unnamed: true },
            Housekeeping::Describe(Target::Portal(PgString::from_static("p"))),
            Housekeeping::Close(Target::Statement(PgString::from_static("s"))),
            Housekeeping::AbortCopy,
            Housekeeping::Flush,
            Housekeeping::Sync,
            Housekeeping::PoisonQuery,
            Housekeeping::Terminate,
        ] {
            expected.extend_from_slice(&housekeeping.clone().into_message().to_bytes().unwrap());
            upstream.housekeeping(housekeeping).unwrap();
        }
        assert_eq!(upstream.pending(), expected.len());
        let mut got = Vec::new();
        while got.len() < expected.len() {
            let mut piece = [0; 3];
            // Each round cancels the flush wherever it happens to wait.
            let read = tokio::select! {
                biased;
                _ = upstream.flush() => far.read(&mut piece).await.unwrap(),
                read = far.read(&mut piece) => read.unwrap(),
            };
            got.extend_from_slice(&piece[..read]);
        }
        assert_eq!(got, expected);
        assert_eq!(upstream.pending(), 0);
    }
}
