use super::*;
use crate::fixture::{decision, operation, session};
use lockgate_model::{
    grant::{CoalesceTerms, Terms},
    operation::Operation,
    session::Session,
    verdict::{ApprovalSpec, Effect, Stage, Verdict},
};
use proptest::prelude::*;
use std::sync::Arc;

fn at(millis: i64) -> Timestamp {
    "2026-11-21T09:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_millis(millis)
}

/// By whom (a principal), under which rule, coalesced or not.
fn ask(number: u64, principal: u8, rule: u8, window: Option<u64>, millis: i64) -> ApprovalRequest {
    let coalesce =
        window.map(|millis| CoalesceTerms { by: [Same::Rule].into(), window: Duration::from_millis(millis) });
    let spec = ApprovalSpec {
        requirements: vec![Requirement {
            rule: format!("rule-{rule}").as_str().into(),
            description: None,
            stages: vec![Stage { at: Duration::ZERO, any_of: vec!["dba".into()], need: 1 }],
            deny_votes: 1,
            exclude: Default::default(),
            min_assurance: None,
            require_reason: false,
            terms: Terms { coalesce, ..Terms::default() },
        }],
        timeout: Duration::from_secs(600),
        max_wait_in_transaction: None,
    };
    let mut session = session();
    session.principal.id = format!("uid:{principal}");
    let session: Session = session;
    let operation =
        Operation { digest: Digest([u8::try_from(number % 251).unwrap(); 32]), ..operation("DROP TABLE t") };
    let verdict = Verdict {
        decision: decision(),
        effect: Effect::Hold(spec),
        rules: [].into(),
        obligations: Arc::default(),
        policy: "p".into(),
        would: None,
    };
    super::super::request(RequestId::from_parts(number, 1), Arc::new(session), operation, verdict, at(millis))
        .unwrap()
}

fn id(number: u64) -> BundleId {
    BundleId::from_parts(number, 1)
}

#[test]
fn what_asks_together_is_told_together_and_strangers_are_not() {
    let mut gather = Gather::default();
    for number in 0..40 {
        let millis = i64::try_from(number).unwrap() * 20;
        assert_eq!(
            gather.join(at(millis), &ask(number, 1, 1, Some(20_000), millis), id(number)),
            Joined::Gathering
        );
    }
    assert_eq!(
        gather.join(at(800), &ask(50, 2, 1, Some(20_000), 800), id(50)),
        Joined::Gathering,
        "another principal"
    );
    assert_eq!(
        gather.join(at(800), &ask(51, 1, 2, Some(20_000), 800), id(51)),
        Joined::Gathering,
        "another rule"
    );
    assert_eq!(gather.join(at(800), &ask(52, 1, 1, None, 800), id(52)), Joined::Alone);
    assert!(gather.handle_timeout(at(2_779)).is_empty(), "the last came at 780");
    let sizes: Vec<usize> =
        gather.handle_timeout(at(2_800)).iter().map(|bundle| bundle.requests.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 42);
    assert!(sizes.contains(&40));
    assert_eq!(gather.poll_timeout(), Some(at(20_000)), "until then the forty may get more");
    assert!(gather.handle_timeout(at(20_000)).is_empty());
    assert_eq!(gather.poll_timeout(), None);
}

#[test]
fn a_bundle_that_was_told_takes_more_until_its_window_is_over_or_it_is() {
    let mut gather = Gather::default();
    let join = |gather: &mut Gather, number: u64, millis: i64| {
        assert_eq!(
            gather.join(at(millis), &ask(number, 1, 1, Some(20_000), millis), id(number)),
            Joined::Gathering
        );
    };
    join(&mut gather, 1, 0);
    join(&mut gather, 2, 10);
    let first = gather.handle_timeout(at(2_010)).pop().unwrap();
    assert_eq!((first.id, first.requests.len(), first.told), (id(1), 2, 0));
    join(&mut gather, 3, 5_000);
    assert!(!gather.leave(first.requests[0].0), "it was told");
    let again = gather.handle_timeout(at(7_000)).pop().unwrap();
    assert_eq!((again.id, again.requests.len(), again.told), (id(1), 3, 2), "the same one, told again");
    assert_ne!(first.digest(), again.digest());
    // All of it is over, so what comes next begins anew, and takes more itself.
    join(&mut gather, 4, 8_000);
    join(&mut gather, 5, 8_100);
    let more = gather.handle_timeout(at(10_100)).pop().unwrap();
    assert_eq!((more.requests.len(), more.told), (5, 3));
    gather.renew(id(1), more.told, id(9));
    join(&mut gather, 6, 11_000);
    let next = gather.handle_timeout(at(13_000)).pop().unwrap();
    assert_eq!((next.id, next.requests.len(), next.told), (id(9), 3, 2));
    // Its window is over.
    join(&mut gather, 7, 30_000);
    let last = gather.handle_timeout(at(32_000)).pop().unwrap();
    assert_eq!((last.id, last.requests.len()), (id(7), 1));
    assert_eq!(gather.poll_timeout(), None, "what was told alone takes nobody");
}

#[test]
fn a_bundle_is_told_in_time_full_and_without_who_left() {
    let mut gather = Gather::default();
    for number in 0..10 {
        let millis = i64::try_from(number).unwrap() * 900;
        let _ = gather.join(at(millis), &ask(number, 1, 1, Some(3_000), millis), id(number));
        if millis < 3_000 {
            assert!(gather.handle_timeout(at(millis)).is_empty());
        }
        if number == 3 {
            assert_eq!(
                gather.handle_timeout(at(3_000)).len(),
                1,
                "the window is over, though it was never quiet"
            );
        }
    }
    let mut gather = Gather::default();
    let first = ask(1, 1, 1, Some(3_000), 0);
    let _ = gather.join(at(0), &first, id(1));
    assert!(gather.leave(first.id) && !gather.leave(first.id));
    assert_eq!(gather.poll_timeout(), None);
    let mut full = None;
    for number in 0..BUNDLE_MAX as u64 {
        full = Some(gather.join(at(0), &ask(number, 1, 1, Some(3_000), 0), id(number)));
    }
    assert!(matches!(full, Some(Joined::Full(bundle)) if bundle.requests.len() == BUNDLE_MAX));
}

#[test]
fn the_digest_is_over_every_request_in_order() {
    let bundle = |numbers: &[u8]| Bundle {
        id: id(1),
        requests: numbers
            .iter()
            .map(|n| (RequestId::from_parts(u64::from(*n), 1), Digest([*n; 32])))
            .collect(),
        began_at: at(0),
        told: 0,
    };
    let all = [bundle(&[1, 2]), bundle(&[2, 1]), bundle(&[1]), bundle(&[1, 2, 3]), bundle(&[])];
    for (index, one) in all.iter().enumerate() {
        assert!(all.iter().skip(index + 1).all(|other| other.digest() != one.digest()));
    }
}

proptest! {
    /// Against a reference that knows all requests and asks of each when it must have been told.
    #[test]
    fn every_request_is_told_once_with_its_like_and_never_late(
        asks in prop::collection::vec((0i64..1_500, 0u8..2, 0u8..2, any::<bool>()), 1..60),
    ) {
        let window = 4_000;
        let mut gather = Gather::default();
        let mut came: BTreeMap<RequestId, (i64, u8, u8)> = BTreeMap::new();
        let mut told: BTreeMap<RequestId, (i64, BundleId)> = BTreeMap::new();
        let mut millis = 0;
        let mut tell = |bundle: Bundle, now: i64| {
            for (at, (request, _)) in bundle.requests.into_iter().enumerate() {
                if at < bundle.told {
                    assert_eq!(told.get(&request).map(|told| told.1), Some(bundle.id), "told as another's");
                } else {
                    assert!(told.insert(request, (now, bundle.id)).is_none(), "told twice");
                }
            }
        };
        for (number, (wait, principal, rule, leaves)) in (1u64..).zip(asks) {
            let next = millis + wait;
            while let Some(due) = gather.poll_timeout().filter(|due| *due <= at(next)) {
                let now = i64::try_from(due.duration_since(at(0)).as_millis()).unwrap();
                gather.handle_timeout(due).into_iter().for_each(|bundle| tell(bundle, now));
            }
            millis = next;
            let request = ask(number, principal, rule, Some(window), millis);
            prop_assert_eq!(gather.join(at(millis), &request, id(number)), Joined::Gathering);
            if leaves && number % 5 == 0 {
                prop_assert!(gather.leave(request.id));
            } else {
                came.insert(request.id, (millis, principal, rule));
            }
        }
        while let Some(due) = gather.poll_timeout() {
            let now = i64::try_from(due.duration_since(at(0)).as_millis()).unwrap();
            gather.handle_timeout(due).into_iter().for_each(|bundle| tell(bundle, now));
        }
        prop_assert_eq!(told.len(), came.len());
        for (request, (when, bundle)) in &told {
            let (asked, principal, rule) = came[request];
            prop_assert!(*when >= asked && *when <= asked + i64::try_from(window).unwrap());
            for (other, (_, others)) in &told {
                if bundle == others {
                    let (_, p, r) = came[other];
                    prop_assert_eq!((p, r), (principal, rule));
                }
            }
        }
    }
}
