//! COPY … TO STDOUT under masks: the stream is rewritten on its way, row by row, in constant memory.
//!
//! A copy does not say where its columns come from, so that they stand where the plan has them must be known otherwise. When
//! the target announces the copy it has locked the tables: from then on nobody changes them. The copy is held until the
//! catalogue was compared with the target once more, judged anew where it differs, and only then let through. What the open
//! transaction did itself nobody else sees: after a definition or unknown code in it, a copy of masked columns is cut.
//!
//! `respond` drives it. A COPY without masks never comes here.

use super::{
    engine::{Engine, target_fault},
    flight::Flight,
};
use crate::{metrics::DENIALS, report::Ending};
use bytes::{Buf, BufMut};
use lockgate_inspect::{
    mask::{CopyError, CopyMask, MaskPlan},
    sql::catalogue::CatalogueSnapshot,
};
use lockgate_model::{
    event::EventKind,
    outcome::CloseReason,
    verdict::{Denial, DenialCause},
};
use lockgate_wire::postgres::{
    automaton::ReplyKind,
    backend::{ReportFields, Severity, sqlstate, tag},
    frame::{Frame, FrameDecoder, FrameHeader, Limits as FrameLimits},
};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// A CopyData up to this long is waited for and answered by one, since clients may take a message for a row. A longer one is
/// rewritten as it comes and goes on in several.
const WHOLE_MESSAGE: usize = 1024 * 1024;
/// Bytes of a longer one that are rewritten at a time.
const PIECE: usize = 64 * 1024;

/// The comparison of the catalogue with the target.
type Check = Pin<Box<dyn Future<Output = Option<Arc<CatalogueSnapshot>>> + Send>>;

/// The masked copy of a session, if one runs.
#[derive(Default)]
pub(crate) struct CopyOut(State);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// The announcement waits until the catalogue is known to be the table's.
    Checking(Frame, Check),
    /// It is known; None when nobody could tell.
    Checked(Frame, Option<Arc<CatalogueSnapshot>>),
    /// So many bytes of a long message are left.
    Masking(Box<CopyMask>, usize),
}

/// What became of the message at the front.
pub(crate) enum Masking {
    /// It was taken, or a part of it.
    Took,
    /// More of it has to come first.
    Waits,
    /// It is no copy data.
    NotCopyData,
}

impl CopyOut {
    /// Whether the target's answers wait for the comparison, or for what it came to.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.0, State::Checking(..) | State::Checked(..))
    }

    /// Whether copy data is to be masked.
    pub(crate) fn is_masking(&self) -> bool {
        matches!(self.0, State::Masking(..))
    }

    /// Drives the comparison; true when it is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let State::Checking(_, check) = &mut self.0 else { return false };
        let Poll::Ready(catalogue) = check.as_mut().poll(cx) else { return false };
        if let State::Checking(frame, _) = std::mem::take(&mut self.0) {
            self.0 = State::Checked(frame, catalogue);
        }
        true
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Engine<C> {
    /// The target announces a copy to the client.
    pub(super) fn begin_copy_out(&mut self, frame: Frame) -> Result<(), Ending> {
        let Some(mask) = self.current_flight().and_then(|flight| flight.mask().cloned()) else {
            self.pass(frame);
            return Ok(());
        };
        if self.caps.is_muted() || !mask.reads_copy() {
            self.pass(frame);
            return Ok(());
        }
        if !mask.masks_copy() {
            return self.open_copy_out(frame, &mask);
        }
        if self.masks.in_doubt() {
            self.cut_copy(unavailable(
                "what this transaction did before may have changed the table, so what stands where is not known",
                "COPY it in a transaction of its own",
            ));
            return Ok(());
        }
        let source = self.masks.source();
        self.copy_out.0 = State::Checking(frame, Box::pin(async move { source.confirm().await }));
        Ok(())
    }

    /// Goes on once the comparison is over; false while it is not.
    pub(super) fn go_on_copying(&mut self) -> Result<bool, Ending> {
        let (frame, catalogue) = match std::mem::take(&mut self.copy_out.0) {
            State::Checked(frame, catalogue) => (frame, catalogue),
            waiting => {
                self.copy_out.0 = waiting;
                return Ok(false);
            }
        };
        let Some(catalogue) = catalogue else {
            self.cut_copy(unavailable(
                "the target's catalogue could not be compared, so what stands where is not known",
                "try again; if it stays so, lockgate's log says why",
            ));
            return Ok(true);
        };
        let keys = self.gate.ports.mask_keys.load_full();
        let Some(flight) = self.current_flight() else {
            return Err(target_fault(super::respond::unasked("CopyOutResponse")));
        };
        let Some(mask) = flight.mask().cloned() else {
            return Err(Ending::because(CloseReason::Internal, "a masked copy without its mask"));
        };
        if mask.stands_on(&catalogue) {
            self.open_copy_out(frame, &mask)?;
            return Ok(true);
        }
        // The definitions changed since: the copy is judged again, against what it runs on.
        let plan = MaskPlan::new(mask.spec(), catalogue, &keys);
        match plan.judge_approved(&flight.statement) {
            Ok(mask) if mask.masks_copy() => self.open_copy_out(frame, &mask)?,
            Ok(_unmasked) => self.cut_copy(unavailable(
                "the table changed while the copy began, and what was masked in it is not there any more",
                "run it again",
            )),
            Err(violation) => self.cut_copy(violation.denial()),
        }
        Ok(true)
    }

    /// The copy begins, under this mask.
    fn open_copy_out(
        &mut self,
        frame: Frame,
        mask: &lockgate_inspect::mask::StatementMask,
    ) -> Result<(), Ending> {
        if !self.settings.state.client_encoding_utf8 {
            self.cut_copy(failed(&CopyError::Unseen("in another encoding than UTF8")));
            return Ok(());
        }
        // CopyOutResponse: the format, the number of columns, each one's format.
        let body = frame.bytes().get(FrameHeader::SIZE..).unwrap_or_default();
        let (binary, columns) = match body {
            [format, high, low, ..] => (*format == 1, usize::from(u16::from_be_bytes([*high, *low]))),
            _ => return Err(target_fault(super::respond::unasked("a short CopyOutResponse"))),
        };
        match mask.copy(columns, binary) {
            Ok(mask) => {
                self.copy_out.0 = mask.map_or(State::Idle, |mask| State::Masking(Box::new(mask), 0));
                self.pass(frame);
            }
            Err(error) => self.cut_copy(failed(&error)),
        }
        Ok(())
    }

    /// Takes copy data off the front of what the target sent, and queues what the client may see of it.
    pub(super) fn mask_copy_data(&mut self) -> Result<Masking, Ending> {
        if let State::Masking(_, left @ 1..) = self.copy_out.0 {
            let count = left.min(PIECE).min(self.reader.buffer().len());
            if count == 0 {
                return Ok(Masking::Waits);
            }
            if let State::Masking(_, left) = &mut self.copy_out.0 {
                *left -= count;
            }
            self.mask_piece(0, count);
            return Ok(Masking::Took);
        }
        let decoder = FrameDecoder::new(FrameLimits::SERVER);
        let Some(header) = decoder.peek(self.reader.buffer()).map_err(target_fault)? else {
            return Ok(Masking::Waits);
        };
        if header.tag() != tag::COPY_DATA {
            return Ok(Masking::NotCopyData);
        }
        let total = header.total_len();
        if total <= WHOLE_MESSAGE && self.reader.buffer().len() < total {
            return Ok(Masking::Waits);
        }
        self.server_leg.handle_reply(ReplyKind::CopyData).map_err(target_fault)?;
        if total <= WHOLE_MESSAGE {
            self.mask_piece(FrameHeader::SIZE, total - FrameHeader::SIZE);
        } else {
            self.reader.buffer().advance(FrameHeader::SIZE);
            if let State::Masking(_, left) = &mut self.copy_out.0 {
                *left = total - FrameHeader::SIZE;
            }
        }
        Ok(Masking::Took)
    }

    /// Masks `count` bytes of copy data behind `skip` bytes of header, all of which have come.
    fn mask_piece(&mut self, skip: usize, count: usize) {
        let Self { copy_out, reader, client, expected, caps, .. } = self;
        let buffer = reader.buffer();
        let State::Masking(mask, left) = &mut copy_out.0 else { return };
        let piece = buffer.get(skip..skip + count).unwrap_or_default();
        let out = client.output.tail();
        let start = out.len();
        out.put_u8(tag::COPY_DATA);
        out.put_u32(0);
        let outcome = mask.feed(piece, out);
        buffer.advance(skip + count);
        let copied = match outcome {
            Ok(copied) => copied,
            Err(error) => {
                out.truncate(start);
                caps.dropping = *left;
                self.cut_copy(failed(&error));
                return;
            }
        };
        let written = out.len() - start;
        if written == FrameHeader::SIZE {
            // Nothing of it can be told yet.
            out.truncate(start);
            return;
        }
        // A piece is at most a mebibyte and a mask a few bytes for each of its own.
        let length = u32::try_from(written - 1).unwrap_or(u32::MAX);
        if let Some(slot) = out.get_mut(start + 1..start + FrameHeader::SIZE) {
            slot.copy_from_slice(&length.to_be_bytes());
        }
        let Some(flight) = expected.front_mut().and_then(|expected| expected.answer.current()) else {
            return;
        };
        if let Some(limited) = &mut flight.limited
            && let Err(exceeded) = caps.admit(limited, &flight.statement, copied.rows, written)
        {
            out.truncate(start);
            caps.dropping = *left;
            self.copy_out.0 = State::Idle;
            self.cut(&exceeded, true);
            return;
        }
        flight.count_masked_copy(written, copied.masked);
    }

    /// The copy is over, whole or not.
    pub(super) fn end_copy_out(&mut self) {
        if let State::Masking(mask, _) = std::mem::take(&mut self.copy_out.0)
            && let Err(error) = mask.finish()
            && !self.caps.is_muted()
        {
            self.cut_copy(failed(&error));
        }
    }

    /// Nothing (more) of the copy reaches the client: it hears why, and the target's transaction fails with it.
    fn cut_copy(&mut self, mut denial: Denial) {
        self.copy_out.0 = State::Idle;
        let Some(flight) = self.current_flight() else { return };
        denial.rule =
            denial.rule.or_else(|| flight.mask().and_then(|mask| mask.spec().rules.first().cloned()));
        let words = words(flight, &denial);
        let (operation, decision) = (flight.operation, flight.decision);
        let target = self.gate.session.target.name.0.clone();
        ::metrics::counter!(DENIALS, "target" => target, "cause" => denial.cause.as_str()).increment(1);
        tracing::info!(
            session = %self.gate.session.id,
            decision = %decision,
            cause = denial.cause.as_str(),
            reason = %denial.reason,
            "copy cut"
        );
        // A cancellation must not hit what was sent behind the copy.
        let alone = self.expected.len() == 1;
        self.caps.begin_cut(words, alone);
        self.note(vec![EventKind::ResultCut { operation, decision, denial, rows: 0, bytes: 0 }]);
    }
}

fn words(flight: &Flight, denial: &Denial) -> ReportFields {
    let by = denial.rule.as_ref().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
    let message = format!("lockgate: denied COPY{by} (decision {})", flight.decision);
    let fields =
        ReportFields::new(Severity::Error, sqlstate::INSUFFICIENT_PRIVILEGE, &message).detail(&denial.reason);
    match &denial.remedy {
        Some(remedy) => fields.hint(remedy),
        None => fields,
    }
}

fn unavailable(reason: &str, remedy: &str) -> Denial {
    Denial {
        rule: None,
        cause: DenialCause::Unavailable,
        reason: reason.to_owned(),
        remedy: Some(remedy.to_owned()),
    }
}

fn failed(error: &CopyError) -> Denial {
    Denial {
        rule: None,
        cause: DenialCause::Masking,
        reason: error.to_string(),
        remedy: Some(
            "run it again; if it stays so, use SELECT, whose rows say where they come from".to_owned(),
        ),
    }
}
