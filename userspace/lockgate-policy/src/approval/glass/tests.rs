use super::*;
use crate::fixture::session;
use proptest::prelude::*;

fn at(seconds: i64) -> Timestamp {
    "2026-11-21T09:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)
}

fn block() -> GlassBlock {
    GlassBlock {
        id: "bg".into(),
        who: vec!["commander".into()],
        lifts: [Lifts::RequireApproval].into(),
        reason: true,
        ticket: Some(Regex::new("^(?:INC-[0-9]+)$").unwrap()),
        max: Duration::from_secs(3_600),
        notify: vec!["security".into()],
        review: Some(ReviewTerms {
            by: "security".into(),
            within: Duration::from_secs(86_400),
            blocks_next_use: true,
        }),
    }
}

fn person_of(id: &str, groups: &[&str]) -> Approver {
    let groups = groups.iter().map(|group| GroupName::from(*group)).collect();
    Approver { id: id.into(), groups, via: "cli".into(), also: Vec::new() }
}

fn ask() -> Ask {
    Ask {
        by: person_of("local:1001", &["commander"]),
        login: Some("at a terminal".into()),
        uid: Some(1001),
        principal: None,
        target: None,
        reason: Some("down".into()),
        ticket: Some("INC-1".into()),
        duration: Some(Duration::from_secs(600)),
    }
}

fn id(number: u64) -> GlassId {
    GlassId::from_parts(number, 1)
}

#[test]
fn who_is_not_asked_for_or_gives_too_little_breaks_nothing() {
    for (change, code) in [
        ((|ask: &mut Ask| ask.by = person_of("local:1001", &["dba"])) as fn(&mut Ask), "not_authorized"),
        (|ask| ask.login = None, "login_required"),
        (|ask| ask.reason = Some("  ".into()), "reason_required"),
        (|ask| ask.ticket = None, "ticket_required"),
        (|ask| ask.ticket = Some("see INC-1".into()), "ticket_required"),
        (|ask| ask.duration = Some(Duration::from_secs(3_601)), "too_long"),
        (|ask| ask.duration = Some(Duration::ZERO), "too_long"),
    ] {
        let mut glass = Glass::default();
        let mut ask = ask();
        change(&mut ask);
        assert_eq!(glass.ask(at(0), id(1), &block(), ask).unwrap_err().code, code);
        assert!(glass.lifts(&session(), at(1)).is_empty());
    }
}

#[test]
fn it_lifts_for_its_own_sessions_until_its_time_is_over() {
    let mut glass = Glass::default();
    let _ = glass.ask(at(0), id(1), &block(), ask()).unwrap();
    assert_eq!(glass.lifts(&session(), at(599)).len(), 1);
    assert!(glass.lifts(&session(), at(600)).is_empty(), "time-boxed, whether or not anybody looked");
    let mut other = session();
    other.flow.process.uid = 1002;
    assert!(glass.lifts(&other, at(1)).is_empty());
    let mut by_target = Glass::default();
    let _ = by_target.ask(at(0), id(1), &block(), Ask { target: Some("other-db".into()), ..ask() }).unwrap();
    assert!(by_target.lifts(&session(), at(1)).is_empty());
    let mut by_name = Glass::default();
    let principal = session().principal.id;
    let _ =
        by_name.ask(at(0), id(1), &block(), Ask { uid: None, principal: Some(principal), ..ask() }).unwrap();
    assert_eq!(by_name.lifts(&session(), at(1)).len(), 1);
}

#[test]
fn the_next_use_waits_for_somebody_elses_look() {
    let mut glass = Glass::default();
    let _ = glass.ask(at(0), id(1), &block(), ask()).unwrap();
    let early = glass.review(at(1), id(1), person_of("local:2", &["security"]), None);
    assert_eq!(early.unwrap_err().code, "still_open");
    assert!(glass.end(at(10), id(1)).is_some() && glass.end(at(10), id(1)).is_none());
    assert_eq!(glass.ask(at(11), id(2), &block(), ask()).unwrap_err().code, "review_pending");
    for (by, code) in [
        (person_of("local:1001", &["security", "commander"]), "requester"),
        (person_of("webhook:chat:local:1001", &["security"]), "requester"),
        (person_of("local:3", &["dba"]), "not_authorized"),
    ] {
        assert_eq!(glass.review(at(12), id(1), by, None).unwrap_err().code, code);
    }
    let steps = glass.handle_timeout(at(90_000));
    assert!(matches!(steps.as_slice(), [GlassStep::Overdue(_)]), "{steps:?}");
    assert!(glass.review(at(90_001), id(1), person_of("local:2", &["security"]), None).is_ok());
    assert!(glass.ask(at(90_002), id(2), &block(), ask()).is_ok());
}

proptest! {
    /// Against a reference over the list of everything that ever happened.
    #[test]
    fn it_lifts_exactly_while_it_should(inputs in prop::collection::vec((0i64..900, 0u8..5), 1..40)) {
        let mut glass = Glass::default();
        // began, ends, reviewed
        let mut uses: Vec<(i64, i64, bool)> = Vec::new();
        let mut second = 0;
        for (wait, what) in inputs {
            second += wait;
            let live = |used: &(i64, i64, bool)| used.0 <= second && second < used.1;
            match what {
                0 | 1 => {
                    let owed = uses.iter().any(|used| !live(used) && !used.2);
                    let got = glass.ask(at(second), id(u64::try_from(uses.len()).unwrap()), &block(), ask());
                    prop_assert_eq!(got.is_err(), owed);
                    if got.is_ok() {
                        uses.push((second, second + 600, false));
                    }
                }
                2 => {
                    if let Some(last) = uses.len().checked_sub(1) {
                        let ended = glass.end(at(second), id(u64::try_from(last).unwrap())).is_some();
                        prop_assert_eq!(ended, live(&uses[last]));
                        if ended {
                            uses[last].1 = second;
                        }
                    }
                }
                3 => {
                    for (number, used) in uses.iter_mut().enumerate() {
                        let live = used.0 <= second && second < used.1;
                        let by = person_of("local:2", &["security"]);
                        let looked = glass.review(at(second), id(u64::try_from(number).unwrap()), by, None).is_ok();
                        prop_assert!(!looked || !live);
                        used.2 |= looked;
                        prop_assert!(live || used.2, "what is over can be looked at");
                    }
                }
                _ => { let _ = glass.handle_timeout(at(second)); }
            }
            let live = |used: &(i64, i64, bool)| used.0 <= second && second < used.1;
            prop_assert_eq!(glass.lifts(&session(), at(second)).len(), uses.iter().filter(|used| live(used)).count());
        }
    }
}
