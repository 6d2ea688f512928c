//! The ledger against a reference that keeps every decision ever made and looks through all of them each time.

use super::*;
use crate::fixture::{decision, operation, session, with_workload};
use lockgate_model::{
    SessionId,
    approval::VoteDecision,
    grant::{CoalesceTerms, GrantTerms, ReuseTerms, Terms},
    operation::Operation,
    principal::Approver,
    session::Session,
    verdict::{Effect, Requirement, Stage, Verdict},
};
use proptest::prelude::*;
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    "2026-11-21T09:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)
}

fn terms(covers: Covers, reuse: Option<(u64, u32)>) -> Terms {
    Terms {
        covers,
        reuse: reuse.map(|(seconds, uses)| ReuseTerms {
            same: [Same::Digest, Same::RunId].into(),
            duration: Duration::from_secs(seconds),
            uses,
        }),
        ..Terms::default()
    }
}

fn spec(terms: Terms) -> ApprovalSpec {
    ApprovalSpec {
        requirements: vec![Requirement {
            rule: "r".into(),
            description: None,
            stages: vec![Stage { at: Duration::ZERO, any_of: vec!["dba".into()], need: 1 }],
            deny_votes: 1,
            exclude: Default::default(),
            min_assurance: None,
            require_reason: false,
            terms,
        }],
        timeout: Duration::from_secs(600),
        max_wait_in_transaction: None,
    }
}

/// A request for a digest in a run and a session, asked at a second.
fn ask(
    number: u64,
    digest: u8,
    run: Option<u8>,
    session_number: u64,
    second: i64,
    spec: ApprovalSpec,
) -> ApprovalRequest {
    let session = with_workload(&session(), |workload| {
        workload.ci.as_mut().unwrap().run_id = run.map(|run| run.to_string());
    });
    let session = Session { id: SessionId::from_parts(session_number, 1), ..session };
    let operation =
        Operation { digest: Digest([digest; 32]), session: session.id, ..operation("DROP TABLE t") };
    let verdict = Verdict {
        decision: decision(),
        effect: Effect::Hold(spec),
        rules: [].into(),
        obligations: Arc::default(),
        policy: "p".into(),
        would: None,
    };
    super::super::request(RequestId::from_parts(number, 1), Arc::new(session), operation, verdict, at(second))
        .unwrap()
}

fn vote(second: i64, grant: Option<(u64, Option<u32>)>) -> Vote {
    Vote {
        by: Approver {
            id: "webhook:a:ana".into(),
            groups: vec!["dba".into()],
            via: "test".into(),
            also: Vec::new(),
        },
        decision: VoteDecision::Approve,
        reason: None,
        at: at(second),
        grant: grant.map(|(seconds, uses)| GrantTerms {
            duration: Duration::from_secs(seconds),
            uses,
            ahead: None,
        }),
    }
}

fn grant_id(number: u64) -> GrantId {
    GrantId::from_parts(number, 9)
}

#[test]
fn what_is_used_once_is_gone_and_what_could_not_be_recorded_is_back() {
    let spec = spec(terms(Covers::Statement, Some((900, 1))));
    let mut ledger = Ledger::default();
    let first = ask(1, 7, Some(1), 1, 0, spec.clone());
    assert!(ledger.take(at(0), &first).is_none());
    assert_eq!(ledger.approved(at(5), &first, &[vote(5, None)], grant_id(1)).len(), 1);
    let retry = ask(2, 7, Some(1), 2, 10, spec.clone());
    let taken = ledger.take(at(10), &retry).unwrap();
    assert!(ledger.take(at(10), &retry).is_none(), "twice");
    ledger.give_back(&taken);
    let taken = ledger.take(at(11), &retry).unwrap();
    let Resolution::Approved { votes, basis: Some(Basis::Reuse { of }) } = taken.resolution else { panic!() };
    assert_eq!((votes.len(), of), (1, first.id));
    assert!(ledger.is_empty());
}

#[test]
fn nothing_is_found_that_is_not_the_same() {
    let spec = spec(terms(Covers::Statement, Some((900, 5))));
    let mut ledger = Ledger::default();
    let first = ask(1, 7, Some(1), 1, 0, spec.clone());
    let _ = ledger.approved(at(5), &first, &[vote(5, None)], grant_id(1));
    for (digest, run, second) in [(8, Some(1), 10), (7, Some(2), 10), (7, None, 10), (7, Some(1), 905)] {
        let other = ask(2, digest, run, 2, second, spec.clone());
        assert!(ledger.take(at(second), &other).is_none(), "{digest} {run:?} {second}");
    }
    // A policy that asks for more, or says no more of reuse, counts at once.
    let mut stricter = spec.clone();
    stricter.requirements[0].stages[0].need = 2;
    let mut silent = spec.clone();
    silent.requirements[0].terms = Terms::default();
    let mut more = spec.clone();
    more.requirements.push(Requirement { rule: "s".into(), ..spec.requirements[0].clone() });
    more.requirements[1].stages[0].any_of = vec!["security".into()];
    for changed in [stricter, silent, more] {
        assert!(ledger.take(at(10), &ask(2, 7, Some(1), 2, 10, changed)).is_none());
    }
    assert!(ledger.take(at(10), &ask(2, 7, Some(1), 2, 10, spec)).is_some());
}

#[test]
fn whoever_may_not_approve_the_later_request_does_not_count_for_it() {
    let spec = spec(terms(Covers::Statement, Some((900, 5))));
    let mut ledger = Ledger::default();
    let first = ask(1, 7, Some(1), 1, 0, spec.clone());
    let _ = ledger.approved(at(5), &first, &[vote(5, None)], grant_id(1));
    let mut retry = ask(2, 7, Some(1), 2, 10, spec);
    let by_ana = with_workload(&retry.session, |workload| workload.process.user = Some("ana".into()));
    retry.session = Arc::new(by_ana);
    assert!(ledger.take(at(10), &retry).is_none(), "ana approved what ana now asks for");
}

#[test]
fn a_grant_needs_every_vote_a_known_shape_and_ends_by_time_uses_and_hand() {
    let spec = spec(Terms::default());
    let first = ask(1, 7, None, 1, 0, spec.clone());
    let mut ledger = Ledger::default();
    let half = [vote(5, Some((600, None))), vote(5, None)];
    assert!(ledger.approved(at(5), &first, &half, grant_id(1)).is_empty(), "one of them gave none");
    let both = [vote(5, Some((600, Some(3)))), vote(5, Some((60, Some(9))))];
    let made = ledger.approved(at(5), &first, &both, grant_id(2));
    let [Entry::Grant(grant)] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!((grant.expires_at, grant.uses), (at(65), Some(3)), "the least of both");
    let use_it =
        |ledger: &mut Ledger, second| ledger.take(at(second), &ask(3, 9, None, 3, second, spec.clone()));
    let taken = use_it(&mut ledger, 10).unwrap();
    let Resolution::Approved { basis: Some(basis), .. } = taken.resolution else { panic!() };
    assert_eq!(basis, Basis::Grant { grant: grant_id(2), left: Some(2) });
    assert!(ledger.stands(&basis, at(11)) && !ledger.stands(&basis, at(65)));
    assert!(ledger.revoke(grant_id(2)).is_some() && !ledger.stands(&basis, at(11)));
    assert!(use_it(&mut ledger, 12).is_none());
    assert!(ledger.revoke(grant_id(2)).is_none());

    let mut strict = spec.clone();
    strict.requirements[0].terms.max_grant = Some(Duration::ZERO);
    let never = ask(4, 7, None, 1, 0, strict);
    assert!(ledger.approved(at(5), &never, &both, grant_id(3)).is_empty(), "the rule allows none");
}

#[test]
fn a_grant_for_the_rest_of_a_bundle_lets_pass_what_was_said_and_not_a_kind_or_run_more() {
    let coalesce = CoalesceTerms { by: [Same::RunId, Same::Rule].into(), window: Duration::from_secs(20) };
    let spec = spec(Terms { coalesce: Some(coalesce), ..Terms::default() });
    let first = ask(1, 7, Some(1), 1, 0, spec.clone());
    let facts = |request: &ApprovalRequest| {
        let lockgate_model::operation::Facts::Sql(facts) = request.operation.facts.as_ref() else {
            panic!("SQL")
        };
        facts.clone()
    };
    let ahead = |kinds: &[&str], risk| {
        let terms = AheadTerms { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), risk };
        let grant = GrantTerms { duration: Duration::from_secs(600), uses: None, ahead: Some(terms) };
        Vote { grant: Some(grant), ..vote(5, None) }
    };
    let kind = facts(&first).kind;
    let risk = facts(&first).risk;
    let mut ledger = Ledger::default();
    let made = ledger.approved(at(5), &first, &[ahead(&[&kind, "create_table"], risk)], grant_id(1));
    let [Entry::Grant(grant)] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!(grant.uses, Some(AHEAD_USES), "what is wide has a number");

    let later = |digest, run, text: &str| {
        let mut request = ask(3, digest, run, 2, 10, spec.clone());
        let mut changed = facts(&request);
        changed.fingerprint = text.to_owned();
        request.operation.normalized = text.into();
        request.operation.facts = Arc::new(lockgate_model::operation::Facts::Sql(changed));
        request
    };
    let alter = |request: &mut ApprovalRequest, change: &dyn Fn(&mut lockgate_model::sql::SqlFacts)| {
        let mut changed = facts(request);
        change(&mut changed);
        request.operation.facts = Arc::new(lockgate_model::operation::Facts::Sql(changed));
    };
    let other = later(9, Some(1), "another statement of the same migration");
    assert!(ledger.clone().take(at(10), &other).is_some());
    type Change<'a> = (&'a str, &'a dyn Fn(&mut ApprovalRequest));
    let changes: [Change<'_>; 9] = [
        ("another kind", &|request| alter(request, &|facts| facts.kind = "drop_database".into())),
        ("a kind that begins alike", &|request| {
            alter(request, &|facts| facts.kind = format!("{}x", facts.kind))
        }),
        ("opaque", &|request| alter(request, &|facts| facts.class = lockgate_model::sql::SqlClass::Opaque)),
        ("another role", &|request| {
            let mut context = (*request.operation.context).clone();
            context.role = "postgres".into();
            request.operation.context = Arc::new(context);
        }),
        ("another database", &|request| {
            let mut context = (*request.operation.context).clone();
            context.database = "other".into();
            request.operation.context = Arc::new(context);
        }),
        ("another principal", &|request| {
            let mut session = (*request.session).clone();
            session.principal.id = "uid:9".into();
            request.session = Arc::new(session);
        }),
        ("another target", &|request| {
            let mut session = (*request.session).clone();
            let mut target = (*session.target).clone();
            target.name = "billing-db".into();
            session.target = Arc::new(target);
            request.session = Arc::new(session);
        }),
        ("another rule holds it too", &|request| {
            let mut more = request.spec.requirements[0].clone();
            more.rule = "stricter".into();
            request.spec.requirements.push(more);
        }),
        ("the rule does not coalesce any more", &|request| {
            request.spec.requirements[0].terms.coalesce = None;
        }),
    ];
    for (what, change) in changes {
        let mut request = other.clone();
        change(&mut request);
        assert!(ledger.clone().take(at(10), &request).is_none(), "{what}");
    }
    for run in [Some(2), None] {
        assert!(ledger.clone().take(at(10), &later(9, run, "x")).is_none(), "run {run:?}");
    }
    if risk > lockgate_model::sql::Risk::Low {
        let mut ledger = Ledger::default();
        let _ =
            ledger.approved(at(5), &first, &[ahead(&[&kind], lockgate_model::sql::Risk::Low)], grant_id(2));
        assert!(ledger.take(at(10), &other).is_none(), "riskier than was said");
    }
    // Of two approvers, what both let pass; one who lets this shape alone pass narrows it to that.
    let mut ledger = Ledger::default();
    let both = [ahead(&[&kind, "create_table"], risk), ahead(&["create_table"], risk)];
    let _ = ledger.approved(at(5), &first, &both, grant_id(3));
    assert!(ledger.take(at(10), &other).is_none(), "one of them did not name it");
    let mut ledger = Ledger::default();
    let narrow = [ahead(&[&kind], risk), vote(5, Some((600, None)))];
    let _ = ledger.approved(at(5), &first, &narrow, grant_id(4));
    assert!(ledger.clone().take(at(10), &other).is_none());
    assert!(ledger.take(at(10), &ask(4, 9, Some(1), 2, 10, spec.clone())).is_some(), "the same shape");
}

#[test]
fn a_decision_on_a_request_that_was_left_is_for_one_retry() {
    let spec = spec(Terms::default());
    let first = ask(1, 7, Some(1), 1, 0, spec.clone());
    for (resolution, kept) in [
        (Resolution::Approved { votes: vec![vote(5, None)], basis: None }, true),
        (Resolution::Denied { vote: Vote { decision: VoteDecision::Deny, ..vote(5, None) } }, true),
        (Resolution::Expired, false),
    ] {
        let mut ledger = Ledger::default();
        if let Some(entry) = Ledger::left(&first, &resolution) {
            ledger.put(entry);
        }
        assert!(ledger.take(at(10), &ask(2, 7, Some(2), 2, 10, spec.clone())).is_none(), "another run");
        let retry = ask(2, 7, Some(1), 2, 10, spec.clone());
        assert_eq!(ledger.take(at(10), &retry).is_some(), kept, "{resolution:?}");
        assert!(ledger.take(at(10), &retry).is_none());
    }
}

#[test]
fn entries_rest_and_come_back() {
    let coalesce = CoalesceTerms { by: [Same::Rule].into(), window: Duration::from_secs(5) };
    let spec = spec(Terms { coalesce: Some(coalesce), ..terms(Covers::Run, Some((900, 2))) });
    let first = ask(1, 7, Some(1), 1, 0, spec);
    let mut ledger = Ledger::default();
    let made = ledger.approved(at(5), &first, &[vote(5, Some((600, Some(3))))], grant_id(1));
    assert_eq!(made.len(), 3);
    let mut again = Ledger::default();
    for entry in made {
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry, "{text}");
        assert!(again.restore(at(6), entry));
    }
    assert_eq!(again.len(), ledger.len());
    assert_eq!(again.poll_timeout(), Some(at(605)));
    let over = again.handle_timeout(at(2_000));
    assert_eq!(over.len(), 2, "{over:?}");
}

/// What happens in a history.
#[derive(Clone, Debug)]
enum Input {
    /// Somebody asks; when nothing is found, people approve (or not), perhaps with a grant.
    Ask { digest: u8, run: Option<u8>, session: u64, approve: bool, grant: Option<(u64, Option<u32>)> },
    /// The newest grant is revoked.
    Revoke,
    /// The driver lets time pass for what is over.
    Sweep,
}

fn inputs() -> impl Strategy<Value = Vec<(i64, Input)>> {
    let grant = prop::option::weighted(0.3, (1u64..900, prop::option::of(1u32..4)));
    let ask =
        (0u8..3, prop::option::weighted(0.8, 0u8..3), 0u64..3, prop::bool::weighted(0.8), grant).prop_map(
            |(digest, run, session, approve, grant)| Input::Ask { digest, run, session, approve, grant },
        );
    let input = prop_oneof![10 => ask, 1 => Just(Input::Revoke), 1 => Just(Input::Sweep)];
    prop::collection::vec((0i64..300, input), 1..40)
}

/// One approval of a history, with nothing taken out ever; counts are counted anew.
struct Decided {
    second: i64,
    digest: u8,
    run: Option<u8>,
    session: u64,
    grant: Option<(u64, Option<u32>)>,
    reused: u32,
    granted: u32,
    revoked: bool,
}

/// Whether a request finds something, and in which of the approvals: no indexes, no sweeping.
fn reference<'a>(
    decided: &'a mut [Decided],
    terms: &Terms,
    (digest, run, session, second): (u8, Option<u8>, u64, i64),
) -> Option<(&'static str, &'a mut Decided)> {
    let lasts = |from: i64, seconds: u64| second < from + i64::try_from(seconds).unwrap();
    let day = 24 * 3600;
    let covers = |one: &Decided| {
        one.digest == digest
            && lasts(one.second, day)
            && match terms.covers {
                Covers::Statement => false,
                Covers::Session => one.session == session,
                Covers::Run => one.run.is_some() && one.run == run,
            }
    };
    let reuse = |one: &Decided| {
        terms.reuse.as_ref().is_some_and(|reuse| {
            one.digest == digest
                && one.run.is_some()
                && one.run == run
                && lasts(one.second, reuse.duration.as_secs())
                && one.reused < reuse.uses
        })
    };
    // Every statement here has one shape, so a grant is good for all of them.
    let grant = |one: &Decided| {
        !one.revoked
            && one.grant.is_some_and(|(seconds, uses)| {
                lasts(one.second, seconds) && uses.is_none_or(|uses| one.granted < uses)
            })
    };
    if let Some(at) = decided.iter().position(covers) {
        return Some(("covers", &mut decided[at]));
    }
    // The one that lasts longest is used first.
    if let Some(at) =
        (0..decided.len()).filter(|at| reuse(&decided[*at])).max_by_key(|at| (decided[*at].second, *at))
    {
        decided[at].reused += 1;
        return Some(("reuse", &mut decided[at]));
    }
    let ends = |one: &Decided| {
        one.grant.map(|(seconds, uses)| (uses.is_none(), one.second + i64::try_from(seconds).unwrap()))
    };
    let best =
        (0..decided.len()).filter(|at| grant(&decided[*at])).max_by_key(|at| (ends(&decided[*at]), *at))?;
    decided[best].granted += 1;
    Some(("grant", &mut decided[best]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_ledger_agrees_with_the_reference(
        inputs in inputs(),
        covers in prop::sample::select(vec![Covers::Statement, Covers::Statement, Covers::Session, Covers::Run]),
        reuse in prop::option::weighted(0.7, (1u64..900, 1u32..3)),
    ) {
        let terms = terms(covers, reuse);
        let spec = spec(terms.clone());
        let mut ledger = Ledger::default();
        let mut decided: Vec<Decided> = Vec::new();
        let mut second = 0;
        for (number, (wait, input)) in (1..).zip(inputs) {
            second += wait;
            match input {
                Input::Sweep => { let _ = ledger.handle_timeout(at(second)); }
                Input::Revoke => {
                    let newest = ledger.grants().filter(|grant| grant.expires_at > at(second)).last().map(|grant| grant.id);
                    if let Some(id) = newest {
                        prop_assert!(ledger.revoke(id).is_some());
                        let made = usize::try_from(id.unix_millis()).unwrap();
                        decided[made].revoked = true;
                    }
                }
                Input::Ask { digest, run, session, approve, grant } => {
                    let request = ask(number, digest, run, session, second, spec.clone());
                    let expected = reference(&mut decided, &terms, (digest, run, session, second)).map(|(how, _)| how);
                    let got = ledger.take(at(second), &request).map(|taken| match taken.resolution {
                        Resolution::Approved { basis: Some(Basis::Reuse { .. }), .. } => {
                            if matches!(&taken.whole, Entry::Lease(lease) if lease.kind == LeaseKind::Reuse) { "reuse" } else { "covers" }
                        }
                        Resolution::Approved { basis: Some(Basis::Grant { .. }), .. } => "grant",
                        _ => "something else",
                    });
                    prop_assert_eq!(got, expected, "at {}", second);
                    if got.is_none() && approve {
                        let id = GrantId::from_parts(u64::try_from(decided.len()).unwrap(), 1);
                        let _ = ledger.approved(at(second), &request, &[vote(second, grant)], id);
                        decided.push(Decided { second, digest, run, session, grant, reused: 0, granted: 0, revoked: false });
                    }
                }
            }
        }
    }
}
