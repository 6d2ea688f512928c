//! COPY FROM STDIN: the client's data goes on under the permit of the statement that asked for it, by header, in runs.

use super::engine::{Engine, client_fault, internal};
use super::flight::Answer;
use crate::report::Ending;
use bytes::Bytes;
use lockgate_model::outcome::CloseReason;
use lockgate_wire::postgres::{
    automaton::{ClientPhase, ClientStep, CopyFate, CopyInput},
    frame::{FrameDecoder, Limits as FrameLimits},
    frontend::{Frontend, tag},
};
use tokio::io::{AsyncRead, AsyncWrite};

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Engine<C> {
    /// Whether what the client sends now is copy data.
    pub(crate) fn is_copying_in(&self) -> bool {
        self.copying > 0 || self.client_leg.phase() == ClientPhase::CopyIn
    }

    /// Whether a statement that may take copy data was sent, and the target has not said yet whether it does: what the
    /// client sends now could be that data.
    pub(crate) fn awaits_copy(&self) -> bool {
        self.stream.is_some() && !self.is_copying_in() && self.server_leg.outstanding() > 0
    }

    /// Whether copy data comes while a batch waits for its end: some statement of the batch may take it.
    pub(crate) fn copies_early(&self) -> bool {
        !self.batch.is_empty()
            && matches!(self.client.input.first(), Some(&(tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL)))
    }

    /// Takes copy data off the client's buffer; false when more has to be read first.
    pub(crate) fn copy_in(&mut self) -> Result<bool, Ending> {
        if self.copying > 0 {
            let step = self.copying.min(self.client.input.len());
            if step == 0 {
                return Ok(false);
            }
            self.copying -= step;
            let piece = self.client.input.split_to(step).freeze();
            self.forward_copy(piece);
            if self.copying == 0 && self.client_leg.phase() != ClientPhase::CopyIn {
                self.stream = None;
            }
            return Ok(true);
        }
        let decoder = FrameDecoder::new(FrameLimits::CLIENT);
        let Some(header) = decoder.peek(&self.client.input).map_err(client_fault)? else { return Ok(false) };
        if header.tag() == tag::COPY_DATA {
            if self.server_leg.handle_copy(CopyInput::Data).map_err(internal)? == CopyFate::Discard {
                self.stream = None;
            }
            self.copying = header.total_len();
            return Ok(true);
        }
        let Some(frame) = decoder.next(&mut self.client.input).map_err(client_fault)? else {
            return Ok(false);
        };
        let message = Frontend::decode(&frame).map_err(client_fault)?;
        match self.client_leg.handle_frontend(&message).map_err(client_fault)? {
            ClientStep::Copy(input @ (CopyInput::Done | CopyInput::Fail)) => {
                if self.server_leg.handle_copy(input).map_err(internal)? == CopyFate::Forward {
                    self.forward_copy(frame.into_bytes());
                }
                // A Query may hold another COPY: the same permit covers it, and ends with the Query.
                if !matches!(self.expected.front().map(|expected| &expected.answer), Some(Answer::Query(_))) {
                    self.stream = None;
                }
                Ok(true)
            }
            ClientStep::Copy(CopyInput::Data) | ClientStep::StrayCopy(_) | ClientStep::Skip => Ok(true),
            ClientStep::Terminate => Err(Ending::because(CloseReason::ClientClosed, "inside a COPY")),
            ClientStep::Request(_) | ClientStep::Flush | ClientStep::Password => {
                Err(Ending::because(CloseReason::ClientProtocolError, "a request inside a COPY"))
            }
        }
    }

    /// The copy is over, or there was none. A message that is half sent is still sent whole: the target reads it by its
    /// length, whatever it thinks of the copy.
    pub(crate) fn end_copy(&mut self) {
        // What ended may stand before a copy that is sent and not yet begun.
        if self.copying == 0 && !self.expected.iter().any(|expected| expected.answer.may_copy_in()) {
            self.stream = None;
        }
    }

    /// Sends a piece on; drops it when the target has ended the copy.
    fn forward_copy(&mut self, piece: Bytes) {
        let Some(stream) = &mut self.stream else { return };
        let permit = stream.chunk(piece);
        match self.expected.front_mut().map(|expected| &mut expected.answer) {
            Some(Answer::Execute(flight)) => flight.count_in(permit.len()),
            Some(Answer::Query(flights)) => {
                if let Some(flight) = flights.front_mut() {
                    flight.count_in(permit.len());
                }
            }
            Some(_) | None => {}
        }
        self.send_chunk(permit);
    }
}
