//! The written opening against the canonicalizer's form of the whole event, one memo for many events.

use super::{FACTS, FRAGMENT_BYTES, Memo, VERDICTS, write};
use crate::EncodeError;
use lockgate_model::{
    DecisionId, OperationId, SessionId, Timestamp,
    event::{Event, EventKind, RecordedOperation},
    operation::{Digest, Facts, Parameter, SqlContext, ValueFormat},
    outcome::{CloseReason, Closing, Outcome, OutcomeStatus},
    verdict::{Denial, DenialCause, Effect, Obligations, RuleHit, Verdict},
    wide::MAX_EXACT,
};
use proptest::prelude::*;
use std::sync::Arc;

/// The event's line without the chain's members, as this file writes it.
fn written(event: &Event, memo: &mut Memo) -> Result<String, EncodeError> {
    let mut out = b"before".to_vec();
    write(event, memo, &mut out)?;
    let mut text = String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned();
    if let Some(session) = event.session {
        text.push_str(&format!(",\"session\":\"{session}\""));
    }
    Ok(text + "}")
}

fn facts(kind: &str, table: &str) -> Arc<Facts> {
    let facts = serde_json::json!({"sql": {
        "class": "read", "kind": kind, "tables_read": [table], "tables_written": [], "columns": ["abalance", "*"],
        "functions": [], "bounded": true, "risk": "low", "fingerprint": "f1", "effects": ["locks"],
    }});
    Arc::new(serde_json::from_value(facts).unwrap())
}

fn denial(reason: &str) -> Denial {
    Denial { rule: Some("no-drop".into()), cause: DenialCause::Rule, reason: reason.to_owned(), remedy: None }
}

fn hold() -> Effect {
    serde_json::from_value(serde_json::json!({"hold": {
        "requirements": [{
            "rule": "ddl", "stages": [{"at": "0s", "any_of": ["dba"], "need": 1}], "deny_votes": 1, "exclude": [],
            "require_reason": false,
        }],
        "timeout": "10m",
    }}))
    .unwrap()
}

fn masks() -> Obligations {
    serde_json::from_value(serde_json::json!({
        "mask": {
            "columns": [{"pattern": {"schema": "*", "table": "*", "column": "ssn"}, "method": "redact"}],
            "detectors": ["email"], "on_unknown_lineage": "redact", "in_predicate": "deny", "rules": ["mask-pii"],
        },
        "record": {"statements": "full", "results": "none", "sync": true, "retain": "2d"},
    }))
    .unwrap()
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    let nanos = prop_oneof![0..1_000_000_000_i32, Just(0), Just(500_000_000), Just(1), Just(999_999_999)];
    (prop_oneof![-70_000_000_000_i64..250_000_000_000, 1_795_000_000_i64..1_795_000_003], nanos)
        .prop_filter_map("a time that jiff has", |(second, nanos)| Timestamp::new(second, nanos).ok())
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~\\n\u{1}\u{e9}\u{1f600}\"\\\\]{0,40}"]
}

fn any_operation() -> impl Strategy<Value = RecordedOperation> {
    let pool = [facts("select", "public.a"), facts("select", "b\"ü"), facts("delete", "c")];
    let parameter = (any::<u32>(), any::<bool>(), proptest::option::of(any_text())).prop_map(
        |(type_oid, binary, value)| Parameter {
            type_oid,
            format: if binary { ValueFormat::Binary } else { ValueFormat::Text },
            value,
        },
    );
    let context = (any_text(), any_text(), proptest::option::of(any_text()), any::<bool>()).prop_map(
        |(role, database, search_path, in_transaction)| {
            Arc::new(SqlContext { role, database, search_path, in_transaction })
        },
    );
    let facts = (0..pool.len(), any::<bool>(), any_text()).prop_map(move |(one, shared, table)| {
        if shared { pool[one].clone() } else { facts("update", &table) }
    });
    (
        (any::<u64>(), any::<u128>()),
        facts,
        (any_text(), proptest::option::of(0..MAX_EXACT)),
        any::<bool>(),
        prop::collection::vec(parameter, 0..3),
        any::<u32>(),
        any::<[u8; 32]>(),
        context,
    )
        .prop_map(
            |(
                (millis, random),
                facts,
                (text, text_bytes),
                normalized,
                parameters,
                parameter_count,
                digest,
                context,
            )| {
                RecordedOperation {
                    id: OperationId::from_parts(millis, random),
                    facts,
                    text: text.into(),
                    text_bytes,
                    normalized,
                    parameters: parameters.into(),
                    parameter_count,
                    digest: Digest(digest),
                    context,
                }
            },
        )
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let effect = || {
        prop_oneof![
            Just(Effect::Allow),
            any_text().prop_map(|reason| Effect::Deny(denial(&reason))),
            Just(hold()),
        ]
    };
    let rules = prop::collection::vec(
        (0..4_u8, any::<bool>(), proptest::option::of(any_text())).prop_map(|(rule, shadow, error)| {
            RuleHit { rule: format!("rule-{rule}").as_str().into(), effect: "allow".into(), shadow, error }
        }),
        0..3,
    );
    let obligations = prop_oneof![Just(Obligations::default()), Just(masks())];
    (any::<u128>(), effect(), rules, obligations, 0..3_u8, proptest::option::of(effect().prop_map(Box::new)))
        .prop_map(|(random, effect, rules, obligations, policy, would)| Verdict {
            decision: DecisionId::from_parts(1_795_000_000_000, random),
            effect,
            rules: rules.into(),
            obligations: Arc::new(obligations),
            policy: format!("policy-{policy}").as_str().into(),
            would,
        })
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let status = prop_oneof![
        any_text().prop_map(|tag| OutcomeStatus::Completed { tag }),
        any_text().prop_map(|sqlstate| OutcomeStatus::Failed { sqlstate }),
        (100u16..600).prop_map(|status| OutcomeStatus::Responded { status }),
        Just(OutcomeStatus::Suspended),
        Just(OutcomeStatus::Skipped),
        Just(OutcomeStatus::Broken),
    ];
    (status, prop::collection::vec(0..=MAX_EXACT, 5)).prop_map(|(status, numbers)| Outcome {
        status,
        rows: numbers[0],
        bytes_out: numbers[1],
        bytes_in: numbers[2],
        masked_fields: numbers[3],
        elapsed_micros: numbers[4],
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        4 => (any_operation(), any_verdict(), proptest::option::of(any_text())).prop_map(|(operation, verdict, reason)| {
            EventKind::OperationDecided {
                operation,
                verdict: Box::new(verdict),
                denial: reason.as_deref().map(denial),
            }
        }),
        2 => (any::<u128>(), any_outcome()).prop_map(|(random, outcome)| EventKind::Responded {
            operation: OperationId::from_parts(1, random),
            outcome,
        }),
        1 => any_text().prop_map(|detail| EventKind::SessionEnded(Closing {
            reason: CloseReason::Drained,
            detail: Some(detail),
            operations: 1,
            bytes_from_client: 2,
            bytes_to_client: 3,
            elapsed_micros: 4,
        })),
        1 => any_text().prop_map(|detail| EventKind::Gap { stage: "crash".into(), count: None, detail }),
    ];
    (any_time(), proptest::option::of(any::<u128>()), kind).prop_map(|(at, session, kind)| Event {
        at,
        session: session.map(|random| SessionId::from_parts(7, random)),
        kind,
    })
}

proptest! {
    #[test]
    fn every_event_is_written_as_the_canonicalizer_writes_it(events in prop::collection::vec(any_event(), 1..12)) {
        let mut memo = Memo::default();
        // Twice: what was written the first time is copied the second time.
        for event in events.iter().chain(&events) {
            prop_assert_eq!(
                written(event, &mut memo).unwrap(),
                serde_json_canonicalizer::to_string(event).unwrap()
            );
        }
    }
}

fn decided(facts: &Arc<Facts>, verdict: Verdict) -> Event {
    let operation = RecordedOperation {
        id: OperationId::from_parts(1, 1),
        facts: facts.clone(),
        text: "SELECT 1".into(),
        text_bytes: None,
        normalized: false,
        parameters: Arc::default(),
        parameter_count: 0,
        digest: Digest([7; 32]),
        context: Arc::default(),
    };
    let kind = EventKind::OperationDecided { operation, verdict: Box::new(verdict), denial: None };
    Event { at: Timestamp::UNIX_EPOCH, session: None, kind }
}

fn verdict(rule: &str) -> Verdict {
    Verdict {
        decision: DecisionId::from_parts(1, 1),
        effect: Effect::Allow,
        rules: vec![RuleHit { rule: rule.into(), effect: "allow".into(), shadow: false, error: None }].into(),
        obligations: Arc::default(),
        policy: "p".into(),
        would: None,
    }
}

#[test]
fn what_is_remembered_is_bounded_and_never_mistaken() {
    let mut memo = Memo::default();
    // Facts that come and go, so that addresses are used again; and more verdicts than are kept.
    for round in 0..4 * FACTS {
        let facts = facts("select", &format!("t{round}"));
        let event = decided(&facts, verdict(&format!("rule {}", round % (3 * VERDICTS))));
        assert_eq!(written(&event, &mut memo).unwrap(), serde_json_canonicalizer::to_string(&event).unwrap());
    }
    let kept = memo.facts.iter().flatten().count();
    assert!(kept <= FACTS && memo.verdicts.len() <= VERDICTS, "{kept}, {}", memo.verdicts.len());
    let (facts, rule) = (facts("select", &"x".repeat(FRAGMENT_BYTES)), "y".repeat(FRAGMENT_BYTES));
    let event = decided(&facts, verdict(&rule));
    assert_eq!(written(&event, &mut memo).unwrap(), serde_json_canonicalizer::to_string(&event).unwrap());
    let longest = memo.facts.iter().flatten().map(|(_, bytes)| bytes.len());
    assert!(longest.chain(memo.verdicts.iter().map(|words| words.bytes.len())).max() <= Some(FRAGMENT_BYTES));
}

#[test]
fn numbers_that_would_lose_digits_are_refused() {
    let outcome = Outcome {
        status: OutcomeStatus::Suspended,
        rows: MAX_EXACT + 1,
        bytes_out: 0,
        bytes_in: 0,
        masked_fields: 0,
        elapsed_micros: 0,
    };
    let kind = EventKind::Responded { operation: OperationId::from_parts(1, 1), outcome };
    let event = Event { at: Timestamp::UNIX_EPOCH, session: None, kind };
    assert!(matches!(written(&event, &mut Memo::default()), Err(EncodeError::NumberTooLarge(_))));
}
