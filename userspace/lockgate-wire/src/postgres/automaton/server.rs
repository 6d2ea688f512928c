//! The server's leg: which request each server message answers.
//!
//! The server answers requests in order. After an error in the extended protocol it discards everything up to the next
//! Sync (§55.2.3), and during COPY FROM STDIN it ignores Flush and Sync (§55.2.6): this automaton follows both, so the
//! session knows what will never be answered.

use super::{CopyInput, ReplyKind, Request};
use crate::postgres::error::{Side, WireError};
use crate::postgres::value::TransactionStatus;
use std::collections::VecDeque;

/// Requests that may wait for their answers. Drivers pipeline hundreds, pgbench thousands; at 24 bytes each this bounds
/// a session to 1.5 MiB, and a client that sends more is told to read first.
pub const MAX_OUTSTANDING: usize = 65_536;

/// Names one request that was sent, in the order of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What will become of a request that was sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFate {
    /// The server will answer it, or discard it because of an error that is still to come.
    Answered(Ticket),
    /// The server would discard it, as it skips to the next Sync or takes COPY data. It must not be sent: a Sync that
    /// crossed an error of the COPY would count.
    Ignored,
}

/// What is to be done with a COPY message of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFate {
    /// The server waits for it.
    Forward,
    /// The server ended the COPY with an error before the client did; it would ignore the message.
    Discard,
}

/// What a server message is in the run of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The request it belongs to. For an asynchronous message: the one being worked on, if any.
    pub ticket: Option<Ticket>,
    /// That request's kind.
    pub request: Option<Request>,
    /// Its part in the answer.
    pub role: ReplyRole,
}

/// A message's part in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyRole {
    /// More of the same answer follows.
    Part,
    /// The answer is complete.
    Done,
    /// The request failed. Requests that the server now discards are told by [`ServerLeg::poll_discarded`]. After a failed
    /// Query, FunctionCall or Sync its ReadyForQuery still follows.
    Failed,
    /// Notice, parameter change, notification, or an error while nothing was asked: it may come at any time.
    Asynchronous,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing of the current result has come.
    Start,
    /// ParameterDescription came; RowDescription or NoData is next.
    Parameters,
    /// Rows may come.
    Rows,
    CopyIn,
    CopyOut,
    /// CopyDone came; CommandComplete is next.
    CopyOutDone,
    CopyBoth,
    /// Only ReadyForQuery is left.
    Ending,
}

#[derive(Debug)]
struct Outstanding {
    ticket: Ticket,
    request: Request,
    stage: Stage,
}

/// Where COPY data from the client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyIn {
    None,
    /// The server takes data.
    Open,
    /// The client has ended it; the server's verdict is to come.
    Ended,
    /// The server ended it first; what the client still sends is discarded.
    Stale,
}

/// Follows the server's leg from the first ReadyForQuery on.
#[derive(Debug)]
pub struct ServerLeg {
    outstanding: VecDeque<Outstanding>,
    discarded: VecDeque<Ticket>,
    next_ticket: u64,
    copy_in: CopyIn,
    /// The server discards everything until a Sync that has not been sent yet.
    skipping: bool,
    status: TransactionStatus,
}

impl ServerLeg {
    /// The leg of a session whose first ReadyForQuery carried `status`.
    pub fn new(status: TransactionStatus) -> Self {
        ServerLeg {
            outstanding: VecDeque::new(),
            discarded: VecDeque::new(),
            next_ticket: 0,
            copy_in: CopyIn::None,
            skipping: false,
            status,
        }
    }

    /// The transaction status of the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether everything that was sent is answered.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && !self.skipping
    }

    /// How many requests wait for their answers.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// The request that the server is answering now.
    pub fn current(&self) -> Option<(Ticket, Request)> {
        self.outstanding.front().map(|head| (head.ticket, head.request))
    }

    /// Whether the server takes COPY data.
    pub fn takes_copy_data(&self) -> bool {
        self.copy_in == CopyIn::Open
    }

    /// Whether the server discards everything until a Sync that was not sent yet.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Tells that `request` is about to be sent upstream.
    pub fn handle_request(&mut self, request: Request) -> Result<RequestFate, WireError> {
        if self.copy_in == CopyIn::Open {
            // §55.2.6: Flush and Sync are ignored, anything else aborts the COPY and is lost with it.
            return match request {
                Request::Sync => Ok(RequestFate::Ignored),
                other => Err(WireError::Unexpected {
                    side: Side::Client,
                    got: other.name(),
                    expected: "CopyData, CopyDone or CopyFail during COPY",
                }),
            };
        }
        if self.skipping {
            // The server drops Query and FunctionCall as well while it looks for Sync (tcop/postgres.c, PostgresMain).
            match request {
                Request::Sync => self.skipping = false,
                _ => return Ok(RequestFate::Ignored),
            }
        }
        if self.outstanding.len() >= MAX_OUTSTANDING {
            let what = "unanswered requests";
            return Err(WireError::TooMany { what, limit: MAX_OUTSTANDING, got: self.outstanding.len() + 1 });
        }
        if self.copy_in == CopyIn::Stale && request != Request::Sync {
            self.copy_in = CopyIn::None;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.outstanding.push_back(Outstanding { ticket, request, stage: Stage::Start });
        Ok(RequestFate::Answered(ticket))
    }

    /// Tells that the client sent a COPY message; answers what is to be done with it.
    pub fn handle_copy(&mut self, input: CopyInput) -> Result<CopyFate, WireError> {
        let streams_both = self.outstanding.front().is_some_and(|head| head.stage == Stage::CopyBoth);
        match (self.copy_in, input) {
            (CopyIn::Open, CopyInput::Data) => Ok(CopyFate::Forward),
            (CopyIn::Open, CopyInput::Done | CopyInput::Fail) => {
                self.copy_in = CopyIn::Ended;
                Ok(CopyFate::Forward)
            }
            (CopyIn::Stale, CopyInput::Data) => Ok(CopyFate::Discard),
            (CopyIn::Stale, CopyInput::Done | CopyInput::Fail) => {
                self.copy_in = CopyIn::None;
                Ok(CopyFate::Discard)
            }
            (CopyIn::None | CopyIn::Ended, _) if streams_both => Ok(CopyFate::Forward),
            (CopyIn::None | CopyIn::Ended, input) => Err(WireError::Unexpected {
                side: Side::Client,
                got: input.name(),
                expected: "no COPY data, the server did not ask for it",
            }),
        }
    }

    /// Takes a server message and tells which request it answers.
    pub fn handle_reply(&mut self, reply: ReplyKind) -> Result<Reply, WireError> {
        match reply {
            ReplyKind::NoticeResponse | ReplyKind::ParameterStatus | ReplyKind::NotificationResponse => {
                Ok(self.reply(ReplyRole::Asynchronous))
            }
            ReplyKind::ErrorResponse => Ok(self.handle_error()),
            ReplyKind::ReadyForQuery(status) => self.handle_ready(status),
            other => self.handle_answer(other),
        }
    }

    /// The next request that the server discarded because an earlier one failed.
    pub fn poll_discarded(&mut self) -> Option<Ticket> {
        self.discarded.pop_front()
    }

    fn handle_error(&mut self) -> Reply {
        let Some(head) = self.outstanding.front_mut() else {
            // A timeout or shutdown: the server may say so without being asked.
            return Reply { ticket: None, request: None, role: ReplyRole::Asynchronous };
        };
        if self.copy_in == CopyIn::Open {
            self.copy_in = CopyIn::Stale;
        } else if self.copy_in == CopyIn::Ended {
            self.copy_in = CopyIn::None;
        }
        let reply = Reply { ticket: Some(head.ticket), request: Some(head.request), role: ReplyRole::Failed };
        if head.request.is_extended() {
            self.outstanding.pop_front();
            self.discard_until_sync();
        } else {
            head.stage = Stage::Ending;
        }
        reply
    }

    fn discard_until_sync(&mut self) {
        while let Some(next) = self.outstanding.front() {
            if next.request == Request::Sync {
                return;
            }
            self.discarded.push_back(next.ticket);
            self.outstanding.pop_front();
        }
        self.skipping = true;
    }

    fn handle_ready(&mut self, status: TransactionStatus) -> Result<Reply, WireError> {
        let ends = match self.outstanding.front() {
            None => false,
            Some(head) => match (head.request, head.stage) {
                (Request::Sync, Stage::Start) | (_, Stage::Ending) => true,
                // A Query ends between results. Start is also where it is after CommandComplete.
                (Request::Query, Stage::Start) => true,
                _ => false,
            },
        };
        if !ends {
            return Err(self.unexpected(ReplyKind::ReadyForQuery(status)));
        }
        self.status = status;
        self.copy_in = match self.copy_in {
            CopyIn::Stale => CopyIn::Stale,
            CopyIn::None | CopyIn::Open | CopyIn::Ended => CopyIn::None,
        };
        Ok(self.complete())
    }

    fn handle_answer(&mut self, reply: ReplyKind) -> Result<Reply, WireError> {
        let Some(head) = self.outstanding.front_mut() else { return Err(self.unexpected(reply)) };
        let Some(next) = step(head.request, head.stage, reply) else { return Err(self.unexpected(reply)) };
        match reply {
            ReplyKind::CopyInResponse => self.open_copy_in()?,
            ReplyKind::CommandComplete if self.copy_in == CopyIn::Open => return Err(self.unexpected(reply)),
            ReplyKind::CommandComplete => self.copy_in = CopyIn::None,
            _ => {}
        }
        match next {
            Step::Stay => Ok(self.reply(ReplyRole::Part)),
            Step::To(stage) => {
                if let Some(head) = self.outstanding.front_mut() {
                    head.stage = stage;
                }
                Ok(self.reply(ReplyRole::Part))
            }
            Step::Done => Ok(self.complete()),
        }
    }

    /// What was pipelined behind a COPY FROM STDIN: Syncs are swallowed by the server, anything else would abort the COPY.
    fn open_copy_in(&mut self) -> Result<(), WireError> {
        if let Some(other) = self.outstanding.iter().skip(1).find(|o| o.request != Request::Sync) {
            return Err(WireError::Unexpected {
                side: Side::Client,
                got: other.request.name(),
                expected: "only CopyData behind a COPY FROM STDIN",
            });
        }
        self.discarded.extend(self.outstanding.drain(1..).map(|o| o.ticket));
        self.copy_in = CopyIn::Open;
        Ok(())
    }

    fn complete(&mut self) -> Reply {
        let reply = self.reply(ReplyRole::Done);
        self.outstanding.pop_front();
        reply
    }

    fn reply(&self, role: ReplyRole) -> Reply {
        let current = self.current();
        Reply {
            ticket: current.map(|(ticket, _)| ticket),
            request: current.map(|(_, request)| request),
            role,
        }
    }

    fn unexpected(&self, reply: ReplyKind) -> WireError {
        let expected = match self.outstanding.front() {
            None => "nothing, no request is outstanding",
            Some(head) => match head.request {
                Request::Query => "a result of a Query or ReadyForQuery",
                Request::Parse => "ParseComplete",
                Request::Bind => "BindComplete",
                Request::DescribeStatement => "ParameterDescription, then RowDescription or NoData",
                Request::DescribePortal => "RowDescription or NoData",
                Request::Execute => "rows, COPY or the end of an Execute",
                Request::Close => "CloseComplete",
                Request::Sync => "ReadyForQuery",
                Request::FunctionCall => "FunctionCallResponse, then ReadyForQuery",
            },
        };
        WireError::Unexpected { side: Side::Server, got: reply.name(), expected }
    }
}

enum Step {
    Stay,
    To(Stage),
    Done,
}

/// The answers of §55.2 as one table. `None`: the message does not belong there.
fn step(request: Request, stage: Stage, reply: ReplyKind) -> Option<Step> {
    use ReplyKind as R;
    match (request, stage, reply) {
        (Request::Parse, Stage::Start, R::ParseComplete)
        | (Request::Bind, Stage::Start, R::BindComplete)
        | (Request::Close, Stage::Start, R::CloseComplete) => Some(Step::Done),

        (Request::DescribeStatement, Stage::Start, R::ParameterDescription) => {
            Some(Step::To(Stage::Parameters))
        }
        (Request::DescribeStatement, Stage::Parameters, R::RowDescription | R::NoData)
        | (Request::DescribePortal, Stage::Start, R::RowDescription | R::NoData) => Some(Step::Done),

        (Request::FunctionCall, Stage::Start, R::FunctionCallResponse) => Some(Step::To(Stage::Ending)),

        // A rule can add a SELECT to a statement: its rows are described anew, before the one CommandComplete of both.
        (Request::Query, Stage::Start | Stage::Rows, R::RowDescription) => Some(Step::To(Stage::Rows)),
        // BASE_BACKUP (§55.4): results, copies and another result, without a CommandComplete between.
        (Request::Query, Stage::CopyOutDone, R::RowDescription) => Some(Step::To(Stage::Rows)),
        (Request::Query, Stage::CopyOutDone, R::CopyOutResponse) => Some(Step::To(Stage::CopyOut)),
        (Request::Query, Stage::Start, R::EmptyQueryResponse) => Some(Step::Stay),
        (Request::Query, Stage::Rows, R::DataRow) => Some(Step::Stay),
        (
            Request::Query,
            Stage::Start | Stage::Rows | Stage::CopyIn | Stage::CopyOutDone,
            R::CommandComplete,
        ) => Some(Step::To(Stage::Start)),

        (Request::Execute, Stage::Start, R::EmptyQueryResponse) => Some(Step::Done),
        (Request::Execute, Stage::Start, R::DataRow) => Some(Step::To(Stage::Rows)),
        (Request::Execute, Stage::Rows, R::DataRow) => Some(Step::Stay),
        (Request::Execute, Stage::Start | Stage::Rows, R::PortalSuspended) => Some(Step::Done),
        (
            Request::Execute,
            Stage::Start | Stage::Rows | Stage::CopyIn | Stage::CopyOutDone,
            R::CommandComplete,
        ) => Some(Step::Done),

        (Request::Query | Request::Execute, Stage::Start, R::CopyInResponse) => Some(Step::To(Stage::CopyIn)),
        (Request::Query | Request::Execute, Stage::Start, R::CopyOutResponse) => {
            Some(Step::To(Stage::CopyOut))
        }
        (Request::Query | Request::Execute, Stage::CopyOut, R::CopyData) => Some(Step::Stay),
        (Request::Query | Request::Execute, Stage::CopyOut, R::CopyDone) => {
            Some(Step::To(Stage::CopyOutDone))
        }

        // Replication commands exist in the simple protocol only.
        (Request::Query, Stage::Start, R::CopyBothResponse) => Some(Step::To(Stage::CopyBoth)),
        (Request::Query, Stage::CopyBoth, R::CopyData) => Some(Step::Stay),
        (Request::Query, Stage::CopyBoth, R::CopyDone) => Some(Step::To(Stage::Start)),
        (Request::Query, Stage::CopyBoth, R::CommandComplete) => Some(Step::To(Stage::Start)),
        _ => None,
    }
}
