use super::*;
use crate::fixture::{decision, operation, session};
use lockgate_model::{
    DecisionId,
    approval::{Vote, VoteDecision},
    id::GroupName,
    port::BoxFuture,
    principal::Approver,
    verdict::{ApprovalSpec, Denial, DenialCause, RecordSpec, RecordStatements, Requirement, Stage, Verdict},
};
use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Keeps what it is handed, or fails.
#[derive(Default)]
struct Log {
    batches: Mutex<Vec<(Vec<Event>, Durability)>>,
    fails: Option<RecordError>,
}

impl Recorder for Log {
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        Box::pin(async move {
            match &self.fails {
                Some(error) => Err(error.clone()),
                None => {
                    self.batches.lock().unwrap().push((events, durability));
                    Ok(Receipt::new(1))
                }
            }
        })
    }

    fn submit(&self, _: Vec<Event>) {}
}

/// The recorder of these tests answers at once; a future that waits would be a mistake.
fn finish<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the permit waits for nobody"),
    }
}

fn now() -> Timestamp {
    "2026-11-21T09:00:05Z".parse().unwrap()
}

fn verdict(effect: Effect) -> Verdict {
    Verdict {
        decision: decision(),
        effect,
        rules: [].into(),
        obligations: Arc::default(),
        policy: "p".into(),
        would: None,
    }
}

/// As policy would give it for the fixture's operation.
fn judged(verdict: Verdict) -> Judged {
    Judged::new(OperationId::from_parts(1, 2), verdict)
}

fn deny() -> Effect {
    Effect::Deny(Denial { rule: None, cause: DenialCause::Rule, reason: "no".into(), remedy: None })
}

fn allowed(statement: &str) -> Cleared {
    Cleared::allowed(Arc::new(operation(statement)), judged(verdict(Effect::Allow))).unwrap()
}

fn permit_now(log: &Log, batch: Vec<Cleared>) -> Result<Permit, PermitError> {
    finish(permit(log, now(), batch, Vec::new(), Bytes::from_static(b"Q")))
}

fn hold(group: &str, need: u32) -> Effect {
    Effect::Hold(ApprovalSpec {
        requirements: vec![Requirement {
            rule: "r".into(),
            description: None,
            stages: vec![Stage { at: Duration::ZERO, any_of: vec![group.into()], need }],
            deny_votes: 1,
            exclude: Default::default(),
            min_assurance: None,
            require_reason: false,
            terms: Default::default(),
        }],
        timeout: Duration::from_secs(600),
        max_wait_in_transaction: None,
    })
}

fn vote(id: &str, group: &str) -> Vote {
    Vote {
        by: Approver {
            id: id.into(),
            groups: vec![GroupName::from(group)],
            via: "test".into(),
            also: Vec::new(),
        },
        decision: VoteDecision::Approve,
        reason: None,
        at: now(),
        grant: None,
    }
}

fn held() -> ApprovalRequest {
    let opened = "2026-11-21T09:00:00Z".parse().unwrap();
    approval::request(
        RequestId::from_parts(1, 9),
        Arc::new(session()),
        operation("DROP TABLE t"),
        verdict(hold("dba", 1)),
        opened,
    )
    .unwrap()
}

#[test]
fn only_an_allowed_operation_is_cleared() {
    let operation = Arc::new(operation("SELECT 1"));
    for effect in [deny(), hold("dba", 1)] {
        let back =
            Cleared::allowed(operation.clone(), judged(verdict(effect.clone()))).expect_err("not cleared");
        assert_eq!(back.effect, effect);
    }
    let of_another = Judged::new(OperationId::from_parts(9, 9), verdict(Effect::Allow));
    assert!(Cleared::allowed(operation.clone(), of_another.clone()).is_err());
    assert!(Cleared::allowed(operation.clone(), of_another.again(&operation, decision())).is_ok());
    assert!(Cleared::allowed(operation, judged(verdict(Effect::Allow))).is_ok());
}

#[test]
fn a_permit_follows_the_record() {
    let log = Log::default();
    let permit = permit_now(&log, vec![allowed("SELECT 1"), allowed("SELECT 2")]).unwrap();
    assert_eq!((permit.operations().len(), permit.len()), (2, 1));
    assert_eq!(permit.into_bytes(), Bytes::from_static(b"Q"));
    let batches = log.batches.lock().unwrap();
    let [(events, durability)] = batches.as_slice() else { panic!("one append, got {}", batches.len()) };
    assert_eq!(*durability, Durability::Written);
    assert!(
        events.iter().all(|event| matches!(event.kind, EventKind::OperationDecided { denial: None, .. }))
    );
    assert_eq!(events.len(), 2);
}

#[test]
fn a_failing_recorder_gives_no_permit() {
    let log = Log { fails: Some(RecordError::Io("disk full".into())), ..Log::default() };
    let error = permit_now(&log, vec![allowed("SELECT 1")]).expect_err("no permit");
    assert_eq!(error, PermitError::Record(RecordError::Io("disk full".into())));
    assert_eq!(permit_now(&Log::default(), Vec::new()).expect_err("no permit"), PermitError::EmptyBatch);
}

#[test]
fn what_is_not_a_plain_read_is_synced() {
    let synced = Cleared::allowed(
        Arc::new(operation("SELECT 1")),
        judged(Verdict {
            obligations: Arc::new(Obligations {
                mask: None,
                record: RecordSpec { sync: true, ..RecordSpec::default() },
                unmasked: Vec::new(),
                limits: Vec::new(),
            }),
            ..verdict(Effect::Allow)
        }),
    )
    .unwrap();
    for (batch, expected) in [
        (vec![allowed("SELECT 1")], Durability::Written),
        (vec![allowed("SELECT 1"), allowed("DELETE FROM t")], Durability::Synced),
        (vec![allowed("BEGIN")], Durability::Synced),
        (vec![allowed("SELEC 1")], Durability::Synced),
        (vec![synced], Durability::Synced),
    ] {
        let log = Log::default();
        let _ = permit_now(&log, batch).unwrap();
        assert_eq!(log.batches.lock().unwrap()[0].1, expected);
    }
}

#[test]
fn values_rest_only_where_policy_lets_them() {
    // Longer than a record has room for: what goes on in parts is cut by the same rule.
    let secret = "secret ".repeat(200_000);
    let mut operation = operation(&format!("SELECT '{secret}'"));
    operation.normalized = "SELECT $1".into();
    operation.parameters = vec![lockgate_model::operation::Parameter {
        type_oid: 25,
        format: lockgate_model::operation::ValueFormat::Text,
        value: Some(secret),
    }]
    .into();
    let normalized = Verdict {
        obligations: Arc::new(Obligations {
            mask: None,
            record: RecordSpec { statements: RecordStatements::Normalized, ..RecordSpec::default() },
            unmasked: Vec::new(),
            limits: Vec::new(),
        }),
        ..verdict(Effect::Allow)
    };
    let log = Log::default();
    let _ =
        permit_now(&log, vec![Cleared::allowed(Arc::new(operation), judged(normalized)).unwrap()]).unwrap();
    let batches = log.batches.lock().unwrap();
    let EventKind::OperationDecided { operation, .. } = &batches[0].0[0].kind else { panic!("{batches:?}") };
    assert_eq!(operation.text.as_ref(), "SELECT $1");
    let whole = format!("{batches:?}");
    assert!(!whole.contains("secret"), "{:.2000}", whole);
}

#[test]
fn what_one_record_has_no_room_for_rests_whole_in_several() {
    use lockgate_model::{
        event::{RECORDED_PART_BYTES, RECORDED_TEXT_BYTES, RECORDED_VALUE_BYTES},
        operation::{Parameter, ValueFormat},
    };
    let long = |bytes: usize| "abcé\u{0}".chars().cycle().take(bytes).collect::<String>();
    let value = |value: Option<String>| Parameter { type_oid: 25, format: ValueFormat::Text, value };
    for (text, values) in [
        ("SELECT 1".to_owned(), vec![Some("x".to_owned()), None]),
        (long(RECORDED_TEXT_BYTES), vec![]),
        (
            long(RECORDED_TEXT_BYTES + 1),
            vec![Some(long(RECORDED_VALUE_BYTES - 100)), Some(long(RECORDED_VALUE_BYTES + 1))],
        ),
        (
            long(RECORDED_TEXT_BYTES + 3 * RECORDED_PART_BYTES),
            vec![Some(long(8 << 20)), None, Some(String::new())],
        ),
        ("SELECT $1".to_owned(), vec![Some(long(60_000)); 9]),
    ] {
        let mut operation = operation("SELECT 1");
        operation.text = text.as_str().into();
        operation.parameters = values.iter().cloned().map(value).collect();
        let log = Log::default();
        let cleared = Cleared::allowed(Arc::new(operation.clone()), judged(verdict(Effect::Allow))).unwrap();
        let _ = permit_now(&log, vec![cleared]).unwrap();
        let batches = log.batches.lock().unwrap();
        let events: Vec<_> = batches[0].0.iter().map(|event| &event.kind).collect();
        let EventKind::OperationDecided { operation: recorded, .. } = events[0] else { panic!("{events:?}") };
        let mut whole = recorded.text.to_string();
        let mut bound: Vec<_> = recorded.parameters.iter().map(|one| one.value.clone()).collect();
        for event in &events[1..] {
            let EventKind::OperationPart { operation: id, parameter, offset, data } = event else { panic!() };
            assert_eq!(*id, operation.id);
            let into = match parameter {
                None => &mut whole,
                Some(number) => bound[*number as usize].as_mut().unwrap(),
            };
            assert_eq!(into.len() as u64, *offset);
            into.push_str(data);
        }
        assert!(whole == text && bound == values);
        assert_eq!(recorded.text_bytes, (recorded.text.len() < text.len()).then_some(text.len() as u64));
        for event in events {
            let bytes = serde_json::to_vec(event).unwrap().len();
            assert!(bytes < 7 << 20, "{bytes}");
        }
    }
}

#[test]
fn an_approval_fits_its_operation_and_todays_policy() {
    let request = held();
    let approved = |votes: Vec<Vote>| Resolution::Approved { votes, basis: None };
    let one = || approved(vec![vote("x:ana", "dba")]);
    let same = || operation("DROP TABLE t");
    let other_digest = Operation { digest: lockgate_model::operation::Digest([8; 32]), ..same() };
    let other_session = Operation { session: lockgate_model::SessionId::from_parts(9, 9), ..same() };
    let other_operation = Operation { id: OperationId::from_parts(9, 9), ..same() };
    for (name, operation, effect, resolution, cleared) in [
        ("as asked", same(), hold("dba", 1), one(), true),
        ("policy allows it now", same(), Effect::Allow, one(), true),
        ("policy denies it now", same(), deny(), one(), false),
        ("policy asks for two now", same(), hold("dba", 2), one(), false),
        (
            "two came anyway",
            same(),
            hold("dba", 2),
            approved(vec![vote("x:ana", "dba"), vote("x:ben", "dba")]),
            true,
        ),
        (
            "twice the same person",
            same(),
            hold("dba", 2),
            approved(vec![vote("w:ana", "dba"), vote("w:ANA", "dba")]),
            false,
        ),
        ("policy asks others now", same(), hold("sec", 1), one(), false),
        ("an approval by nobody", same(), hold("dba", 1), approved(Vec::new()), false),
        ("other values", other_digest, hold("dba", 1), one(), false),
        ("another session", other_session, hold("dba", 1), one(), false),
        ("another operation", other_operation, hold("dba", 1), one(), false),
        ("expired", same(), hold("dba", 1), Resolution::Expired, false),
        ("expired, and policy allows it now", same(), Effect::Allow, Resolution::Expired, false),
    ] {
        let result = Cleared::approved(Arc::new(operation), judged(verdict(effect)), &request, &resolution);
        assert_eq!(result.is_ok(), cleared, "{name}");
    }
}

#[test]
fn what_was_held_is_recorded_as_forwarded() {
    let request = held();
    let resolution = Resolution::Approved { votes: vec![vote("x:ana", "dba")], basis: None };
    let again = Verdict { decision: DecisionId::from_parts(7, 7), ..verdict(hold("dba", 1)) };
    let cleared =
        Cleared::approved(Arc::new(operation("DROP TABLE t")), judged(again), &request, &resolution).unwrap();
    let log = Log::default();
    let _ = permit_now(&log, vec![cleared]).unwrap();
    let batches = log.batches.lock().unwrap();
    let expected = EventKind::Forwarded {
        operation: OperationId::from_parts(1, 2),
        decision: DecisionId::from_parts(7, 7),
        approval: Some(request.id),
    };
    assert_eq!(batches[0].0[0].kind, expected);
    assert_eq!(batches[0].1, Durability::Synced);
}

#[test]
fn only_a_copy_in_streams() {
    for (statement, streams) in [
        ("COPY t FROM STDIN", true),
        ("COPY t TO STDOUT", false),
        ("SELECT 1", false),
        ("INSERT INTO t VALUES (1)", false),
        ("SELEC 1", true),
    ] {
        let permit = permit_now(&Log::default(), vec![allowed(statement)]).unwrap();
        assert_eq!(permit.stream().is_some(), streams, "{statement}");
        if let Some(mut stream) = permit.stream() {
            let chunk = stream.chunk(Bytes::from_static(b"d"));
            assert!(chunk.operations().is_empty() && chunk.stream().is_none());
        }
    }
}
