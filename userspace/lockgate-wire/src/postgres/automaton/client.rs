//! The client's leg: what each client message means at its moment.
//!
//! It refuses what no state of the protocol allows. What is a matter of judgement (COPY data that nobody asked for, a
//! request that policy denied) it only names; the session decides.

use super::{CopyInput, Request};
use crate::postgres::error::{Side, WireError};
use crate::postgres::frontend::Frontend;
use crate::postgres::startup::StartupPacket;

/// Where the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientPhase {
    /// Before the StartupMessage.
    Startup {
        /// An SSLRequest was answered.
        ssl_answered: bool,
        /// A GSSENCRequest was answered.
        gss_answered: bool,
    },
    /// StartupMessage came; the session is being opened.
    Opening,
    /// Nothing of a batch is open.
    Ready,
    /// Extended-protocol messages came since the last Sync.
    Batch,
    /// A message of the batch was refused: everything up to Sync is dropped, as the server does after an error.
    Skipping,
    /// COPY data is expected.
    CopyIn,
    /// Terminate came, or the connection asked for a cancellation only.
    Closed,
}

/// What an opening packet asks of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartupStep {
    /// Answer 'S' and begin TLS, or 'N'. Before 'S' the read buffer must be empty: bytes behind the request would
    /// otherwise count as if they had been encrypted (CVE-2021-23222).
    AnswerSsl,
    /// Answer 'N': GSSAPI encryption is not offered.
    AnswerGssEnc,
    /// Open the session.
    Open,
    /// Handle the cancellation and close; there is no answer.
    Cancel,
}

/// What a message means now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientStep {
    /// A request that the server would answer.
    Request(Request),
    /// Flush: the client waits for what is there.
    Flush,
    /// COPY data that was asked for.
    Copy(CopyInput),
    /// COPY data while none was asked for. A server ignores it silently, as the client may have sent it before it saw an
    /// error; the session decides.
    StrayCopy(CopyInput),
    /// To be dropped: the batch has failed and this is before its Sync.
    Skip,
    /// An answer to an authentication request of ours.
    Password,
    /// The client is gone.
    Terminate,
}

/// Follows the client's leg.
#[derive(Debug)]
pub struct ClientLeg {
    phase: ClientPhase,
    /// COPY began inside a batch, which is still open when COPY ends.
    copy_in_batch: bool,
    password_asked: bool,
}

impl Default for ClientLeg {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientLeg {
    /// The leg of a new connection.
    pub fn new() -> Self {
        ClientLeg {
            phase: ClientPhase::Startup { ssl_answered: false, gss_answered: false },
            copy_in_batch: false,
            password_asked: false,
        }
    }

    /// Where the client is.
    pub fn phase(&self) -> ClientPhase {
        self.phase
    }

    /// Takes an opening packet.
    pub fn handle_startup(&mut self, packet: &StartupPacket) -> Result<StartupStep, WireError> {
        let ClientPhase::Startup { ssl_answered, gss_answered } = self.phase else {
            return Err(self.unexpected(packet.name()));
        };
        match packet {
            StartupPacket::SslRequest if !ssl_answered => {
                self.phase = ClientPhase::Startup { ssl_answered: true, gss_answered };
                Ok(StartupStep::AnswerSsl)
            }
            StartupPacket::GssEncRequest if !gss_answered => {
                self.phase = ClientPhase::Startup { ssl_answered, gss_answered: true };
                Ok(StartupStep::AnswerGssEnc)
            }
            StartupPacket::SslRequest | StartupPacket::GssEncRequest => Err(self.unexpected(packet.name())),
            StartupPacket::Startup(_) => {
                self.phase = ClientPhase::Opening;
                Ok(StartupStep::Open)
            }
            StartupPacket::Cancel(_) => {
                self.phase = ClientPhase::Closed;
                Ok(StartupStep::Cancel)
            }
        }
    }

    /// Inside TLS no second encryption may be asked for.
    pub fn handle_encrypted(&mut self) {
        self.phase = ClientPhase::Startup { ssl_answered: true, gss_answered: true };
    }

    /// An authentication request was sent to the client: one message of type 'p' is expected.
    pub fn handle_password_asked(&mut self) {
        self.password_asked = true;
    }

    /// The session is open: ReadyForQuery was sent.
    pub fn handle_opened(&mut self) {
        self.phase = ClientPhase::Ready;
        self.password_asked = false;
    }

    /// The session answered the current batch with an error of its own, or relayed one: the rest up to Sync is dropped.
    /// In the simple protocol nothing is skipped.
    pub fn handle_failed(&mut self) {
        match self.phase {
            ClientPhase::Batch => self.phase = ClientPhase::Skipping,
            ClientPhase::CopyIn => {
                self.phase = if self.copy_in_batch { ClientPhase::Skipping } else { ClientPhase::Ready };
            }
            ClientPhase::Startup { .. }
            | ClientPhase::Opening
            | ClientPhase::Ready
            | ClientPhase::Skipping
            | ClientPhase::Closed => {}
        }
    }

    /// CopyInResponse was sent to the client.
    pub fn handle_copy_in(&mut self) {
        self.copy_in_batch = self.phase == ClientPhase::Batch;
        self.phase = ClientPhase::CopyIn;
    }

    /// Takes a client message.
    pub fn handle_frontend(&mut self, message: &Frontend) -> Result<ClientStep, WireError> {
        match message {
            Frontend::Terminate => {
                self.phase = ClientPhase::Closed;
                Ok(ClientStep::Terminate)
            }
            Frontend::Password(_) if self.password_asked && self.phase == ClientPhase::Opening => {
                self.password_asked = false;
                Ok(ClientStep::Password)
            }
            Frontend::CopyData(_) => self.handle_copy(CopyInput::Data),
            Frontend::CopyDone => self.handle_copy(CopyInput::Done),
            Frontend::CopyFail(_) => self.handle_copy(CopyInput::Fail),
            Frontend::Flush => self.handle_flush(),
            Frontend::Password(_) => Err(self.unexpected(message.name())),
            Frontend::Bind(_)
            | Frontend::Close(_)
            | Frontend::Describe(_)
            | Frontend::Execute(_)
            | Frontend::FunctionCall(_)
            | Frontend::Parse(_)
            | Frontend::Query(_)
            | Frontend::Sync => match Request::of(message) {
                Some(request) => self.handle_request(request),
                None => Err(self.unexpected(message.name())),
            },
        }
    }

    fn handle_request(&mut self, request: Request) -> Result<ClientStep, WireError> {
        match (self.phase, request) {
            (ClientPhase::Ready | ClientPhase::Batch | ClientPhase::Skipping, Request::Sync) => {
                self.phase = ClientPhase::Ready;
                Ok(ClientStep::Request(request))
            }
            (ClientPhase::Skipping, _) => Ok(ClientStep::Skip),
            (ClientPhase::Ready | ClientPhase::Batch, request) => {
                if request.is_extended() {
                    self.phase = ClientPhase::Batch;
                }
                Ok(ClientStep::Request(request))
            }
            // §55.2.6: the server ignores Sync and Flush during COPY, for drivers that send them blindly.
            (ClientPhase::CopyIn, Request::Sync) => Ok(ClientStep::Skip),
            (
                ClientPhase::CopyIn
                | ClientPhase::Startup { .. }
                | ClientPhase::Opening
                | ClientPhase::Closed,
                _,
            ) => Err(self.unexpected(request.name())),
        }
    }

    fn handle_flush(&mut self) -> Result<ClientStep, WireError> {
        match self.phase {
            ClientPhase::Ready | ClientPhase::Batch => Ok(ClientStep::Flush),
            ClientPhase::Skipping | ClientPhase::CopyIn => Ok(ClientStep::Skip),
            ClientPhase::Startup { .. } | ClientPhase::Opening | ClientPhase::Closed => {
                Err(self.unexpected("Flush"))
            }
        }
    }

    fn handle_copy(&mut self, input: CopyInput) -> Result<ClientStep, WireError> {
        match (self.phase, input) {
            (ClientPhase::CopyIn, CopyInput::Data) => Ok(ClientStep::Copy(input)),
            (ClientPhase::CopyIn, CopyInput::Done | CopyInput::Fail) => {
                self.phase = if self.copy_in_batch { ClientPhase::Batch } else { ClientPhase::Ready };
                Ok(ClientStep::Copy(input))
            }
            (ClientPhase::Skipping, _) => Ok(ClientStep::Skip),
            (ClientPhase::Ready | ClientPhase::Batch, _) => Ok(ClientStep::StrayCopy(input)),
            (ClientPhase::Startup { .. } | ClientPhase::Opening | ClientPhase::Closed, _) => {
                Err(self.unexpected(input.name()))
            }
        }
    }

    fn unexpected(&self, got: &'static str) -> WireError {
        let expected = match self.phase {
            ClientPhase::Startup { .. } => "a startup packet not sent before",
            ClientPhase::Opening => "nothing but what authentication asks for, until ReadyForQuery",
            ClientPhase::Ready | ClientPhase::Batch | ClientPhase::Skipping => "a request",
            ClientPhase::CopyIn => "CopyData, CopyDone or CopyFail during COPY",
            ClientPhase::Closed => "nothing, the client has ended the session",
        };
        WireError::Unexpected { side: Side::Client, got, expected }
    }
}
