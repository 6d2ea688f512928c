//! FunctionCall: a function by its OID, without a statement (§55.2.4). libpq's large objects still use it.
//!
//! It is judged as the SELECT that would call the function: the OID is looked up in the target's catalogue, and an OID
//! that nobody can name is opaque. Its one value is masked as that SELECT's only column would be.

use super::{
    engine::{Engine, internal, target_fault},
    flight::{Answer, Flight, Rows},
    judge::{Asked, Judgement, Passed, Unit},
    operation::{self, TransactionWalk},
    respond::unasked,
    simple::{NOT_SQL, unsupported},
};
use crate::{catalogue::Routine, report::Ending};
use bytes::BytesMut;
use lockgate_inspect::sql::{Control, Statement};
use lockgate_model::{operation::Facts, outcome::CloseReason};
use lockgate_wire::postgres::{
    PgString,
    automaton::{ClientPhase, Request},
    backend::{Backend, Column, DataRow, DataRowWriter, ReportFields},
    frame::{Frame, FrameHeader},
    frontend::FunctionCall,
};
use std::{collections::VecDeque, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};

/// How policy and records name it.
const KIND: &str = "function_call";

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Engine<C> {
    /// Takes a FunctionCall. Like a Query it ends the segment that it stands in.
    pub(crate) async fn function_call(&mut self, call: &FunctionCall, frame: Frame) -> Result<(), Ending> {
        if self.client_leg.phase() == ClientPhase::Batch && !self.end_segment().await? {
            return Ok(());
        }
        self.settle().await?;
        self.strange &= self.batch.is_open();
        self.refresh_masks().await?;
        let (source, oid) = (self.masks.source(), call.function);
        let routine = self.relay_while(async move { source.routine(oid).await }).await?;
        let statement = self.called(call, routine.as_ref())?;
        let types = routine.as_ref().map_or(&[][..], |routine| &routine.argument_types);
        let values = operation::values(&call.arguments, &call.argument_formats, types);
        let in_transaction = TransactionWalk::from(self.server_leg.status()).is_open();
        let operation = self.operation(&statement, values.into(), in_transaction);
        let column = Column {
            name: PgString::from_static(KIND),
            table_oid: 0,
            attnum: 0,
            type_oid: routine.as_ref().map_or(0, |routine| routine.result_type),
            type_size: -1,
            type_modifier: -1,
            format: call.result_format,
        };
        self.cancel.begin();
        let judged = self.judge_call(Asked { operation, statement, approval: None }, &column, frame).await;
        let cancelled = self.cancel.finish();
        match judged? {
            Ok((permit, flight)) if !cancelled => {
                self.send(permit, [(Request::FunctionCall, Answer::Query(VecDeque::from([flight])))])
            }
            Ok((_, flight)) => {
                let words = self.cancelled([flight]);
                self.refuse_query(words)
            }
            Err(words) => self.refuse_query(words),
        }
    }

    async fn judge_call(
        &mut self,
        asked: Asked,
        column: &Column,
        frame: Frame,
    ) -> Result<Result<(lockgate_policy::permit::Permit, Flight), ReportFields>, Ending> {
        let passed = match self.judge(vec![asked], Unit::Message).await? {
            Judgement::Refused(words) | Judgement::Cut(_, words) => return Ok(Err(words)),
            Judgement::Passed(passed) => passed,
        };
        let Some(Passed { cleared, mut flight, granted: _ }) = passed.into_iter().next() else {
            return Err(Ending::plain(CloseReason::Internal));
        };
        flight.described(std::slice::from_ref(column));
        Ok(self.permit(vec![cleared], frame.into_bytes()).await?.map(|permit| (permit, flight)))
    }

    /// The statement that stands for the call.
    fn called(&mut self, call: &FunctionCall, routine: Option<&Routine>) -> Result<Arc<Statement>, Ending> {
        let text = match routine {
            Some(routine) => routine.statement(call.arguments.len()),
            None => NOT_SQL.to_owned(),
        };
        let Some(statement) = self.script(&text).statements.first().cloned() else {
            return Err(Ending::plain(CloseReason::Internal));
        };
        if routine.is_none() {
            let name = format!("FunctionCall of OID {}", call.function);
            let mut opaque = unsupported(&name, &statement);
            opaque.facts = of_kind(&opaque.facts);
            // Nobody knows what it sets.
            opaque.control = Control::Anything;
            return Ok(Arc::new(opaque));
        }
        let mut called = Statement::clone(&statement);
        let shown: Arc<str> = format!("-- FunctionCall of OID {}\n{text}", call.function).into();
        (called.text, called.normalized) = (shown.clone(), shown);
        called.facts = of_kind(&called.facts);
        Ok(Arc::new(called))
    }

    /// The value that a function returned.
    pub(crate) fn handle_function_result(&mut self, frame: Frame) -> Result<(), Ending> {
        let value = match Backend::decode(&frame).map_err(target_fault)? {
            Backend::FunctionCallResponse(value) => value,
            other => return Err(target_fault(unasked(other.name()))),
        };
        let Self { expected, caps, .. } = self;
        let Some(flight) = expected.front_mut().and_then(|expected| expected.answer.current()) else {
            return Err(target_fault(unasked("FunctionCallResponse")));
        };
        let bytes = frame.bytes().len();
        if let Some(limited) = &mut flight.limited
            && let Err(exceeded) = caps.admit(limited, &flight.statement, 1, bytes)
        {
            self.cut(&exceeded, true);
            return Ok(());
        }
        let mut masked = None;
        let keeps = flight.keeps();
        if keeps || !matches!(flight.rows(), Rows::Plain) {
            let row = row_of(value.as_deref()).map_err(internal)?;
            let mut out = BytesMut::new();
            let changed = match flight.rows() {
                Rows::Masked(mask) => mask
                    .apply(&row, &mut out)
                    .map_err(|error| Ending::because(CloseReason::Internal, error.to_string()))?,
                Rows::Plain | Rows::Kept => 0,
                Rows::Undescribed => {
                    let detail = "a function's result was not described, so it cannot be masked";
                    return Err(Ending::because(CloseReason::Internal, detail));
                }
            };
            let shown = match out.get(FrameHeader::SIZE..) {
                Some(body) if !body.is_empty() => {
                    DataRow::decode(bytes::Bytes::copy_from_slice(body)).map_err(internal)?
                }
                Some(_) | None => row,
            };
            if keeps {
                flight.keep(&shown);
            }
            flight.count_row(bytes, changed);
            if changed > 0 {
                let value = shown.fields().next().flatten().map(bytes::Bytes::copy_from_slice);
                masked = Some(Backend::FunctionCallResponse(value));
            }
        } else {
            flight.count_row(bytes, 0);
        }
        match masked {
            Some(masked) if !self.caps.is_muted() => super::words::say(self.client.output.tail(), &masked),
            Some(_) => {}
            None => self.pass(frame),
        }
        Ok(())
    }
}

/// The value as a row of one field.
fn row_of(value: Option<&[u8]>) -> Result<DataRow, lockgate_wire::postgres::WireError> {
    let mut out = BytesMut::new();
    let mut writer = DataRowWriter::new(&mut out);
    writer.field(value);
    writer.finish()?;
    DataRow::decode(out.split_off(FrameHeader::SIZE).freeze())
}

fn of_kind(facts: &Facts) -> Arc<Facts> {
    let mut facts = facts.clone();
    match &mut facts {
        Facts::Sql(sql) => sql.kind = KIND.to_owned(),
        Facts::Http(_) => {}
    }
    Arc::new(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_row_of_one_field() {
        for value in [Some(&b"abc"[..]), Some(b""), None] {
            let row = row_of(value).unwrap();
            assert_eq!(row.fields().collect::<Vec<_>>(), [value]);
        }
    }
}
