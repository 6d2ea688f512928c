//! An event's own part of its line: `{"at":…,"data":…,"event":…`, the members that sort before the chain's.
//!
//! Two kinds of event come with every statement: what was decided, and what was answered. They are written member by
//! member, in canonical order, and what repeats from one statement to the next (its facts, the words of a verdict) is
//! written once and copied from then on ([`Memo`]). Everything else goes through [`canonical::write`], which is also what
//! the tests hold this file to: the bytes are the same.

use crate::canonical::{self, EncodeError, write_str, write_u64};
use lockgate_model::{
    Timestamp,
    event::{Event, EventKind, RecordedOperation},
    id::PolicyVersion,
    operation::{Digest, Facts, Parameter, SqlContext, ValueFormat},
    outcome::{Outcome, OutcomeStatus},
    verdict::{Denial, Effect, Obligations, RuleHit, Verdict},
};
use std::sync::Arc;

/// Statements whose facts are kept written: prepared ones and those of an ORM, of some sessions at once.
const FACTS: usize = 256;

/// What is longer than this is written anew each time: bounds what is kept to some 4 MiB.
const FRAGMENT_BYTES: usize = 16 << 10;

/// Verdicts whose words are kept written. Rules and obligations differ by rule, not by statement.
const VERDICTS: usize = 16;

/// What was written before and can be copied. Purely a matter of speed: without it the bytes are the same.
#[derive(Debug, Default)]
pub struct Memo {
    /// Nothing is kept: for a single event.
    forgets: bool,
    facts: Vec<Option<(Arc<Facts>, Vec<u8>)>>,
    verdicts: Vec<Words>,
    /// Which of `verdicts` goes next, once there are [`VERDICTS`].
    oldest: usize,
    /// A second, and how it is written up to its fraction.
    second: Option<(i64, Vec<u8>)>,
}

/// The part of a verdict that repeats.
#[derive(Debug)]
struct Words {
    effect: Effect,
    rules: Arc<[RuleHit]>,
    obligations: Arc<Obligations>,
    policy: PolicyVersion,
    would: Option<Box<Effect>>,
    /// `,"effect":…,"obligations":…,"policy":…,"rules":…}`
    bytes: Vec<u8>,
}

/// Writes the opening of an event's line to the end of `out`. After an error `out` holds a beginning of it.
pub(crate) fn write(event: &Event, memo: &mut Memo, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.extend_from_slice(b"{\"at\":");
    memo.timestamp(event.at, out)?;
    match &event.kind {
        EventKind::OperationDecided { operation, verdict, denial } => {
            decided(operation, verdict, denial.as_ref(), memo, out)
        }
        EventKind::Responded { operation, outcome } => {
            out.extend_from_slice(b",\"data\":{\"operation\":\"");
            operation.write_to(out);
            out.extend_from_slice(b"\",\"outcome\":");
            self::outcome(outcome, out)?;
            out.extend_from_slice(b"},\"event\":\"responded\"");
            Ok(())
        }
        // Rare beside these two.
        kind => {
            let begin = out.len();
            canonical::write(kind, out)?;
            // `{"data":…,"event":…}` becomes `,"data":…,"event":…`: both sort between `at` and `node`.
            if let Some(brace) = out.get_mut(begin) {
                *brace = b',';
            }
            out.pop();
            Ok(())
        }
    }
}

fn decided(
    operation: &RecordedOperation,
    verdict: &Verdict,
    denial: Option<&Denial>,
    memo: &mut Memo,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    out.extend_from_slice(b",\"data\":{");
    if let Some(denial) = denial {
        out.extend_from_slice(b"\"denial\":");
        canonical::write(denial, out)?;
        out.push(b',');
    }
    out.extend_from_slice(b"\"operation\":");
    self::operation(operation, memo, out)?;
    out.extend_from_slice(b",\"verdict\":");
    memo.verdict(verdict, out)?;
    out.extend_from_slice(b"},\"event\":\"operation_decided\"");
    Ok(())
}

fn operation(operation: &RecordedOperation, memo: &mut Memo, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    // Named one by one: a member that is added must be written here too.
    let RecordedOperation {
        id,
        facts,
        text,
        text_bytes,
        normalized,
        parameters,
        parameter_count,
        digest,
        context,
    } = operation;
    out.extend_from_slice(b"{\"context\":");
    self::context(context, out);
    out.extend_from_slice(b",\"digest\":\"");
    self::digest(digest, out);
    out.extend_from_slice(b"\",\"facts\":");
    memo.facts(facts, out)?;
    out.extend_from_slice(b",\"id\":\"");
    id.write_to(out);
    out.extend_from_slice(b"\",\"normalized\":");
    boolean(*normalized, out);
    out.extend_from_slice(b",\"parameter_count\":");
    write_u64((*parameter_count).into(), out)?;
    if !parameters.is_empty() {
        out.extend_from_slice(b",\"parameters\":");
        for (number, parameter) in parameters.iter().enumerate() {
            out.push(if number == 0 { b'[' } else { b',' });
            self::parameter(parameter, out)?;
        }
        out.push(b']');
    }
    out.extend_from_slice(b",\"text\":");
    write_str(text, out);
    if let Some(text_bytes) = text_bytes {
        out.extend_from_slice(b",\"text_bytes\":");
        write_u64(*text_bytes, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn parameter(parameter: &Parameter, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Parameter { type_oid, format, value } = parameter;
    out.extend_from_slice(match format {
        ValueFormat::Text => b"{\"format\":\"text\",\"type_oid\":".as_slice(),
        ValueFormat::Binary => b"{\"format\":\"binary\",\"type_oid\":",
    });
    write_u64((*type_oid).into(), out)?;
    out.extend_from_slice(b",\"value\":");
    match value {
        Some(value) => write_str(value, out),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(())
}

fn context(context: &SqlContext, out: &mut Vec<u8>) {
    let SqlContext { role, database, search_path, in_transaction } = context;
    out.extend_from_slice(b"{\"database\":");
    write_str(database, out);
    out.extend_from_slice(b",\"in_transaction\":");
    boolean(*in_transaction, out);
    out.extend_from_slice(b",\"role\":");
    write_str(role, out);
    if let Some(search_path) = search_path {
        out.extend_from_slice(b",\"search_path\":");
        write_str(search_path, out);
    }
    out.push(b'}');
}

fn outcome(outcome: &Outcome, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Outcome { status, rows, bytes_out, bytes_in, masked_fields, elapsed_micros } = outcome;
    let numbers: [(&[u8], u64); 5] = [
        (b"{\"bytes_in\":", *bytes_in),
        (b",\"bytes_out\":", *bytes_out),
        (b",\"elapsed_micros\":", *elapsed_micros),
        (b",\"masked_fields\":", *masked_fields),
        (b",\"rows\":", *rows),
    ];
    for (name, number) in numbers {
        out.extend_from_slice(name);
        write_u64(number, out)?;
    }
    out.extend_from_slice(b",\"status\":");
    match status {
        OutcomeStatus::Completed { tag } => {
            out.extend_from_slice(b"{\"result\":\"completed\",\"tag\":");
            write_str(tag, out);
            out.push(b'}');
        }
        status @ (OutcomeStatus::Failed { .. }
        | OutcomeStatus::Responded { .. }
        | OutcomeStatus::Suspended
        | OutcomeStatus::Skipped
        | OutcomeStatus::Broken) => canonical::write(status, out)?,
    }
    out.push(b'}');
    Ok(())
}

fn boolean(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn digest(digest: &Digest, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend(digest.0.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]));
}

impl Memo {
    /// One that keeps nothing.
    pub(crate) fn forgetful() -> Self {
        Self { forgets: true, ..Self::default() }
    }

    /// RFC 3339 in UTC, with as much of the fraction as there is.
    fn timestamp(&mut self, at: Timestamp, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (second, nanos) = (at.as_second(), at.subsec_nanosecond());
        let Ok(mut fraction) = u32::try_from(nanos) else { return canonical::write(&at, out) };
        if self.second.as_ref().is_none_or(|(known, _)| *known != second) {
            let Ok(whole) = Timestamp::from_second(second) else { return canonical::write(&at, out) };
            let mut text = format!("\"{whole}");
            if text.pop() != Some('Z') {
                return canonical::write(&at, out);
            }
            self.second = Some((second, text.into_bytes()));
        }
        if let Some((_, prefix)) = &self.second {
            out.extend_from_slice(prefix);
        }
        if fraction > 0 {
            let mut digits = *b".000000000";
            for digit in digits.iter_mut().skip(1).rev() {
                *digit = b'0' + u8::try_from(fraction % 10).unwrap_or_default();
                fraction /= 10;
            }
            let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
            out.extend_from_slice(digits.get(..digits.len() - zeros).unwrap_or_default());
        }
        out.extend_from_slice(b"Z\"");
        Ok(())
    }

    /// Known by their address, which stays theirs while they are kept here.
    fn facts(&mut self, facts: &Arc<Facts>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.forgets {
            return canonical::write(facts, out);
        }
        if self.facts.is_empty() {
            self.facts.resize_with(FACTS, || None);
        }
        // What an allocation is a multiple of says nothing.
        let address = Arc::as_ptr(facts).addr() >> 4;
        let Some(slot) = self.facts.get_mut((address ^ (address >> 8)) % FACTS) else {
            return canonical::write(facts, out);
        };
        if let Some((known, bytes)) = slot
            && Arc::ptr_eq(known, facts)
        {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let begin = out.len();
        canonical::write(facts, out)?;
        let written = out.get(begin..).unwrap_or_default();
        if written.len() <= FRAGMENT_BYTES {
            let mut bytes = slot.take().map(|(_, bytes)| bytes).unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(written);
            *slot = Some((facts.clone(), bytes));
        }
        Ok(())
    }

    /// Known by what they say.
    fn verdict(&mut self, verdict: &Verdict, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Verdict { decision, effect, rules, obligations, policy, would } = verdict;
        out.extend_from_slice(b"{\"decision\":\"");
        decision.write_to(out);
        out.push(b'"');
        let known = self.verdicts.iter().find(|words| {
            (Arc::ptr_eq(&words.rules, rules) || words.rules == *rules)
                && words.effect == *effect
                && (Arc::ptr_eq(&words.obligations, obligations) || words.obligations == *obligations)
                && words.policy == *policy
                && words.would == *would
        });
        if let Some(words) = known {
            out.extend_from_slice(&words.bytes);
            return Ok(());
        }
        let begin = out.len();
        out.extend_from_slice(b",\"effect\":");
        canonical::write(effect, out)?;
        out.extend_from_slice(b",\"obligations\":");
        canonical::write(obligations, out)?;
        out.extend_from_slice(b",\"policy\":");
        canonical::write(policy, out)?;
        out.extend_from_slice(b",\"rules\":");
        canonical::write(rules, out)?;
        if let Some(would) = would {
            out.extend_from_slice(b",\"would\":");
            canonical::write(would, out)?;
        }
        out.push(b'}');
        let bytes = out.get(begin..).unwrap_or_default();
        if self.forgets || bytes.len() > FRAGMENT_BYTES {
            return Ok(());
        }
        let words = Words {
            effect: effect.clone(),
            rules: rules.clone(),
            obligations: obligations.clone(),
            policy: policy.clone(),
            would: would.clone(),
            bytes: bytes.to_vec(),
        };
        if self.verdicts.len() < VERDICTS {
            self.verdicts.push(words);
        } else if let Some(oldest) = self.verdicts.get_mut(self.oldest) {
            *oldest = words;
            self.oldest = (self.oldest + 1) % VERDICTS;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
