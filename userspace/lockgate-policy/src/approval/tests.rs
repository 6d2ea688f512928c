use super::*;
use crate::fixture::{decision, operation, session, with_workload};
use lockgate_model::workload::{Assurance, CiAssurance};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

fn start() -> Timestamp {
    "2026-11-21T09:00:00Z".parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    start() + jiff::SignedDuration::from_secs(seconds)
}

fn stage(minutes: u64, any_of: &[&str], need: u32) -> Stage {
    let any_of = any_of.iter().map(|group| GroupName::from(*group)).collect();
    Stage { at: Duration::from_secs(minutes * 60), any_of, need }
}

fn requirement(rule: &str, stages: Vec<Stage>) -> Requirement {
    Requirement {
        rule: rule.into(),
        description: None,
        stages,
        deny_votes: 1,
        exclude: [Exclude::Requester].into(),
        min_assurance: None,
        require_reason: false,
        terms: Default::default(),
    }
}

fn spec(requirements: Vec<Requirement>) -> ApprovalSpec {
    ApprovalSpec { requirements, timeout: Duration::from_secs(1800), max_wait_in_transaction: None }
}

fn request_for(spec: ApprovalSpec) -> ApprovalRequest {
    request_of(session(), operation("DROP TABLE t"), spec)
}

fn request_of(session: Session, operation: Operation, spec: ApprovalSpec) -> ApprovalRequest {
    let verdict = Verdict {
        decision: decision(),
        effect: Effect::Hold(spec),
        rules: [].into(),
        obligations: Arc::default(),
        policy: "p".into(),
        would: None,
    };
    request(RequestId::from_parts(1, 4), Arc::new(session), operation, verdict, start()).unwrap()
}

fn machine(requirements: Vec<Requirement>) -> Machine {
    Machine::new(request_for(spec(requirements))).with_url("https://lockgate/r/1")
}

fn vote_by(id: &str, groups: &[&str], decision: VoteDecision, reason: Option<&str>) -> Vote {
    Vote {
        by: Approver {
            id: id.to_owned(),
            groups: groups.iter().map(|group| GroupName::from(*group)).collect(),
            via: "test".to_owned(),
            also: Vec::new(),
        },
        decision,
        reason: reason.map(str::to_owned),
        at: Timestamp::MIN,
        grant: None,
    }
}

fn approve(id: &str, groups: &[&str]) -> Vote {
    vote_by(id, groups, VoteDecision::Approve, None)
}

fn deny(id: &str, groups: &[&str]) -> Vote {
    vote_by(id, groups, VoteDecision::Deny, Some("no"))
}

fn code(result: Result<Step, VoteRefusal>) -> &'static str {
    match result {
        Ok(step) => panic!("expected a refusal, got {step:?}"),
        Err(refusal) => refusal.code.as_str(),
    }
}

fn ended(machine: &Machine) -> &'static str {
    machine.resolution().map_or("pending", Resolution::as_str)
}

#[test]
fn two_of_three_people_approve() {
    let mut machine = machine(vec![requirement("r", vec![stage(0, &["dba"], 2)])]);
    assert_eq!(machine.handle_vote(at(1), approve("webhook:a:ana", &["dba"])), Ok(Step::Progressed));
    assert_eq!((machine.progress(at(1)).requirements[0].have, ended(&machine)), (1, "pending"));
    let step = machine.handle_vote(at(2), approve("webhook:a:ben", &["dba"])).unwrap();
    let Step::Resolved(Resolution::Approved { votes, .. }) = step else { panic!("{step:?}") };
    assert_eq!(
        votes.iter().map(|vote| vote.at).collect::<Vec<_>>(),
        [at(1), at(2)],
        "votes carry the time they came"
    );
    assert_eq!(code(machine.handle_vote(at(3), deny("webhook:a:cleo", &["dba"]))), "resolved");
    assert_eq!(machine.poll_timeout(), None);
    assert_eq!(machine.handle_timeout(at(9999)), Step::Unchanged);
    assert_eq!(machine.withdraw(at(9999), WithdrawReason::Cancelled), Step::Unchanged);
}

#[test]
fn one_person_counts_once_however_they_are_named() {
    for other in [
        "webhook:approvals:ana@example.com",
        " webhook:approvals:ANA@Example.com ",
        "webhook:chat:ana@example.com",
        "WEBHOOK:chat: ana@example.com",
        "webhook:approvals:ａｎａ@example.com",
    ] {
        let mut machine = machine(vec![requirement("r", vec![stage(0, &["dba"], 2)])]);
        let _ = machine.handle_vote(at(1), approve("webhook:approvals:ana@example.com", &["dba"])).unwrap();
        assert_eq!(code(machine.handle_vote(at(2), approve(other, &["dba"]))), "duplicate", "{other}");
    }
    let mut machine = machine(vec![requirement("r", vec![stage(0, &["dba"], 2)])]);
    let _ = machine.handle_vote(at(1), approve("local:2000", &["dba"])).unwrap();
    assert!(matches!(machine.handle_vote(at(2), approve("local:2001", &["dba"])), Ok(Step::Resolved(_))));
}

#[test]
fn a_vote_counts_for_every_requirement_it_may_speak_for() {
    let rules = vec![
        requirement("a", vec![stage(0, &["dba"], 1)]),
        requirement("b", vec![stage(0, &["dba", "oncall"], 2)]),
    ];
    let mut machine = machine(rules);
    let _ = machine.handle_vote(at(1), approve("x:ben", &["oncall"])).unwrap();
    let have =
        |machine: &Machine| machine.progress(at(2)).requirements.iter().map(|r| r.have).collect::<Vec<_>>();
    assert_eq!(have(&machine), [0, 1]);
    let step = machine.handle_vote(at(2), approve("x:ana", &["dba", "other"])).unwrap();
    assert!(matches!(step, Step::Resolved(Resolution::Approved { .. })));
    assert_eq!(have(&machine), [1, 2]);
}

#[test]
fn a_later_stage_widens_and_votes_are_kept() {
    let rule = requirement("r", vec![stage(0, &["dba"], 2), stage(10, &["oncall"], 2)]);
    let mut machine = machine(vec![rule]);
    assert_eq!(code(machine.handle_vote(at(1), approve("x:olga", &["oncall"]))), "not_authorized");
    let _ = machine.handle_vote(at(2), approve("x:ana", &["dba"])).unwrap();
    assert_eq!(machine.poll_timeout(), Some(at(600)));
    assert_eq!(machine.handle_timeout(at(599)), Step::Unchanged);
    assert_eq!(machine.handle_timeout(at(600)), Step::Progressed);
    assert_eq!(machine.poll_timeout(), Some(at(1800)));
    assert_eq!(code(machine.handle_vote(at(601), approve("x:ben", &["dba"]))), "not_authorized");
    let step = machine.handle_vote(at(602), approve("x:olga", &["oncall"])).unwrap();
    assert!(matches!(step, Step::Resolved(Resolution::Approved { .. })));
}

#[test]
fn a_stage_that_asks_less_is_met_by_earlier_votes_at_its_time() {
    let rule = requirement("r", vec![stage(0, &["dba"], 2), stage(10, &["dba"], 1)]);
    let request = request_for(spec(vec![rule]));
    let mut machine = Machine::new(request.clone());
    let _ = machine.handle_vote(at(1), approve("x:ana", &["dba"])).unwrap();
    // However late the call comes, it was decided at the boundary.
    let step = machine.handle_timeout(at(5000));
    let Step::Resolved(Resolution::Approved { votes, .. }) = step else { panic!("{step:?}") };
    assert!(covers(&request.spec, &request, &votes));
    let stricter = spec(vec![requirement("r", vec![stage(0, &["dba"], 2)])]);
    assert!(!covers(&stricter, &request, &votes), "what policy asks now is asked again");
}

#[test]
fn nobody_decides_in_time() {
    let mut machine = machine(vec![requirement("r", vec![stage(0, &["dba"], 2)])]);
    let _ = machine.handle_vote(at(1), approve("x:ana", &["dba"])).unwrap();
    assert_eq!(machine.handle_timeout(at(1799)), Step::Unchanged);
    assert_eq!(code(machine.handle_vote(at(1800), approve("x:ben", &["dba"]))), "expired");
    assert_eq!(ended(&machine), "expired");
}

#[test]
fn a_held_transaction_waits_less() {
    let mut spec = spec(vec![requirement("r", vec![stage(0, &["dba"], 1)])]);
    spec.max_wait_in_transaction = Some(Duration::from_secs(60));
    let outside = request_of(session(), operation("DROP TABLE t"), spec.clone());
    assert_eq!(outside.expires_at, at(1800));
    let mut held = operation("DROP TABLE t");
    Arc::make_mut(&mut held.context).in_transaction = true;
    let mut inside = request_of(session(), held, spec);
    assert_eq!(inside.expires_at, at(60));
    // Whoever made the request may have been generous; the machine is not.
    inside.expires_at = at(100_000);
    let machine = Machine::new(inside);
    assert_eq!((machine.expires_at(), machine.poll_timeout()), (at(60), Some(at(60))));
}

#[test]
fn denials_end_it_when_enough_may_deny() {
    let mut machine1 = machine(vec![requirement("r", vec![stage(0, &["dba"], 2)])]);
    assert_eq!(code(machine1.handle_vote(at(1), deny("x:olga", &["oncall"]))), "not_authorized");
    let step = machine1.handle_vote(at(2), deny("x:ana", &["dba"])).unwrap();
    assert!(
        matches!(step, Step::Resolved(Resolution::Denied { vote }) if vote.reason.as_deref() == Some("no"))
    );
    let mut rule = requirement("r", vec![stage(0, &["dba"], 1)]);
    rule.deny_votes = 2;
    let mut machine2 = machine(vec![rule]);
    assert_eq!(machine2.handle_vote(at(1), deny("x:ana", &["dba"])), Ok(Step::Progressed));
    assert_eq!(code(machine2.handle_vote(at(2), approve("x:ana", &["dba"]))), "duplicate", "a no stays a no");
    assert!(matches!(
        machine2.handle_vote(at(3), deny("x:ben", &["dba"])),
        Ok(Step::Resolved(Resolution::Denied { .. }))
    ));
}

#[test]
fn a_yes_may_become_a_no() {
    let mut machine = machine(vec![requirement("r", vec![stage(0, &["dba"], 2)])]);
    let _ = machine.handle_vote(at(1), approve("x:ana", &["dba"])).unwrap();
    assert!(matches!(
        machine.handle_vote(at(2), deny("x:ana", &["dba"])),
        Ok(Step::Resolved(Resolution::Denied { .. }))
    ));
}

#[test]
fn the_requester_never_decides_and_what_a_job_says_of_itself_excludes_nobody() {
    // Who, what a vote comes to when the run's provider vouches for its people, and what when only the job names them.
    for (id, confirmed, claimed) in [
        ("local:1001", "requester", "requester"),
        ("local: 1001 ", "requester", "requester"),
        ("local:01001", "requester", "requester"),
        ("webhook:a:runner", "requester", "requester"),
        ("webhook:a:uid:1001", "requester", "requester"),
        ("uid:1001", "requester", "requester"),
        ("webhook:a:local:1001", "requester", "requester"),
        ("webhook:a:zoe", "requester", "counted"),
        ("webhook:a:Zoe@example.com", "requester", "counted"),
        ("webhook:a:bob", "excluded", "counted"),
        ("webhook:a:cleo", "excluded", "counted"),
        ("webhook:a:cleo@example.com", "excluded", "counted"),
        ("local:1002", "counted", "counted"),
        ("webhook:a:zoes-friend", "counted", "counted"),
        ("webhook:a:dora", "counted", "counted"),
    ] {
        for (assurance, expected) in [
            (Assurance::Attested, confirmed),
            (Assurance::Platform, confirmed),
            (Assurance::Claimed, claimed),
        ] {
            for vote in [approve(id, &["dba"]), deny(id, &["dba"])] {
                let mut rule = requirement("r", vec![stage(0, &["dba"], 2)]);
                rule.exclude = [Exclude::Requester, Exclude::TriggeringActor, Exclude::CommitAuthor].into();
                let session = with_workload(&session(), |workload| {
                    workload.ci.as_mut().unwrap().assurance = CiAssurance(assurance);
                });
                let mut machine =
                    Machine::new(request_of(session, operation("DROP TABLE t"), spec(vec![rule])));
                let got = machine
                    .handle_vote(at(1), vote)
                    .map_or_else(|refusal| refusal.code.as_str(), |_| "counted");
                assert_eq!(got, expected, "{id}, {assurance:?}");
            }
        }
    }
}

#[test]
fn who_is_not_excluded_by_a_rule_may_vote_on_it() {
    let confirmed = with_workload(&session(), |workload| {
        workload.ci.as_mut().unwrap().assurance = CiAssurance(Assurance::Attested);
    });
    let request = request_of(
        confirmed,
        operation("DROP TABLE t"),
        spec(vec![requirement("r", vec![stage(0, &["dba"], 1)])]),
    );
    assert!(
        Machine::new(request).handle_vote(at(1), approve("webhook:a:bob", &["dba"])).is_ok(),
        "bob triggered it; not excluded"
    );
    let other = with_workload(&session(), |workload| workload.process.uid = 5);
    let request = request_of(
        other,
        operation("DROP TABLE t"),
        spec(vec![requirement("r", vec![stage(0, &["dba"], 1)])]),
    );
    assert!(Machine::new(request).handle_vote(at(1), approve("local:1001", &["dba"])).is_ok());
}

#[test]
fn a_reason_may_be_required() {
    let mut rule = requirement("r", vec![stage(0, &["dba"], 1)]);
    rule.require_reason = true;
    let mut machine = machine(vec![rule]);
    for blank in [None, Some(""), Some("  \n")] {
        let vote = vote_by("x:ana", &["dba"], VoteDecision::Approve, blank);
        assert_eq!(code(machine.handle_vote(at(1), vote)), "reason_required");
    }
    let vote = vote_by("x:ana", &["dba"], VoteDecision::Approve, Some("CHG-1"));
    assert!(machine.handle_vote(at(1), vote).is_ok());
}

#[test]
fn the_client_may_go_away() {
    let mut machine = machine(vec![requirement("r", vec![stage(0, &["dba"], 1)])]);
    let step = machine.withdraw(at(5), WithdrawReason::Disconnected);
    assert_eq!(step, Step::Resolved(Resolution::Withdrawn { reason: WithdrawReason::Disconnected }));
    assert_eq!(code(machine.handle_vote(at(6), approve("x:ana", &["dba"]))), "resolved");
    let mut late = self::machine(vec![requirement("r", vec![stage(0, &["dba"], 1)])]);
    assert_eq!(late.withdraw(at(4000), WithdrawReason::Cancelled), Step::Resolved(Resolution::Expired));
}

#[test]
fn progress_says_who_may_vote_now() {
    let rule = requirement("r", vec![stage(0, &["dba"], 2), stage(10, &["dba", "oncall"], 1)]);
    let machine = machine(vec![rule]);
    let line = |seconds| {
        let progress = machine.progress(at(seconds));
        let groups: Vec<String> = progress.requirements[0].any_of.iter().map(ToString::to_string).collect();
        (progress.requirements[0].need, groups.join(","), progress.url)
    };
    assert_eq!(line(0), (2, "dba".into(), "https://lockgate/r/1".into()));
    assert_eq!(line(600), (1, "dba,oncall".into(), "https://lockgate/r/1".into()));
}

#[test]
fn a_request_without_requirements_is_never_approved() {
    let mut machine = machine(Vec::new());
    assert_eq!(code(machine.handle_vote(at(1), approve("x:ana", &["dba"]))), "not_authorized");
    let mut rule = requirement("r", vec![stage(0, &["dba"], 0)]);
    rule.deny_votes = 0;
    let mut none = self::machine(vec![rule]);
    assert_eq!(none.handle_timeout(at(1)), Step::Unchanged, "a need of zero is not met by nobody");
    assert!(matches!(
        none.handle_vote(at(2), approve("x:ana", &["dba"])),
        Ok(Step::Resolved(Resolution::Approved { .. }))
    ));
}

#[test]
fn votes_are_counted_again_for_what_policy_asks_by_then() {
    let asked = requirement("r", vec![stage(0, &["dba"], 1)]);
    let request = request_for(spec(vec![asked.clone()]));
    let votes = [Vote { at: at(5), ..approve("oidc:corp:ana", &["dba"]) }];
    assert!(covers(&request.spec, &request, &votes));
    let renamed = requirement("r", vec![stage(0, &["database-team"], 1)]);
    let excluded = Requirement { require_reason: true, ..asked.clone() };
    for (what, requirements) in [
        ("the group has another name", vec![renamed.clone()]),
        ("more people", vec![requirement("r", vec![stage(0, &["dba"], 2)])]),
        ("another rule asks too", vec![asked.clone(), requirement("s", vec![stage(0, &["sec"], 1)])]),
        ("a reason is required by now", vec![excluded]),
        ("the rule is gone, and nobody is asked: the verdict is not this one's to give", Vec::new()),
    ] {
        assert!(!covers(&spec(requirements), &request, &votes), "{what}");
    }
    // Ids are whose provider says so: the same subject elsewhere is somebody else, and one person is one in each spelling.
    let two = || machine(vec![requirement("r", vec![stage(0, &["dba"], 2)])]);
    for (other, expected) in [
        ("oidc:partner:ana", "approved"),
        ("saml:corp:ana", "approved"),
        ("OIDC:corp:Ana ", "duplicate"),
        ("oidc:corp:ａｎａ", "duplicate"),
    ] {
        let mut machine = two();
        let _ = machine.handle_vote(at(1), approve("oidc:corp:ana", &["dba"])).unwrap();
        let got = machine.handle_vote(at(2), approve(other, &["dba"]));
        let got = got.map_or_else(|refusal| refusal.code.as_str(), |_| ended(&machine));
        assert_eq!(got, expected, "{other}");
    }
}

// The machine against a reference that recounts everything from the list of all votes.

#[derive(Clone, Debug)]
enum Input {
    Vote {
        person: u8,
        groups: Vec<&'static str>,
        approve: bool,
    },
    Wait,
    Withdraw,
    /// The process ends and another one goes on with what was kept.
    Restart,
}

fn inputs() -> impl Strategy<Value = Vec<(i64, Input)>> {
    let group = prop::sample::select(vec!["dba", "oncall", "sec"]);
    let vote = (0u8..6, prop::collection::vec(group, 0..3), prop::bool::weighted(0.8))
        .prop_map(|(person, groups, approve)| Input::Vote { person, groups, approve });
    let input = prop_oneof![12 => vote, 4 => Just(Input::Wait), 1 => Just(Input::Withdraw), 1 => Just(Input::Restart)];
    // A wall clock may be stepped back.
    prop::collection::vec((prop_oneof![6 => 0i64..400, 1 => -600i64..0], input), 0..14)
}

fn requirements() -> impl Strategy<Value = Vec<Requirement>> {
    let groups = prop::sample::subsequence(vec!["dba", "oncall", "sec"], 1..3);
    let stages = prop::collection::btree_map(1u64..28, (groups.clone(), 1u32..4), 0..3);
    let one = (groups, 1u32..4, stages, 1u32..3).prop_map(|(first, need, later, deny_votes)| {
        let mut stages = vec![stage(0, &first, need)];
        stages.extend(later.into_iter().map(|(minute, (groups, need))| stage(minute, &groups, need)));
        Requirement { deny_votes, ..requirement("r", stages) }
    });
    prop::collection::vec(one, 1..4)
}

/// The reference: second by second, no cleverness.
struct Reference {
    requirements: Vec<Requirement>,
    /// person → (second, groups, approve)
    votes: BTreeMap<u8, (i64, Vec<&'static str>, bool)>,
    end: Option<&'static str>,
    second: i64,
}

impl Reference {
    fn stage_index(requirement: &Requirement, second: i64) -> usize {
        let begun = |stage: &&Stage| i64::try_from(stage.at.as_secs()).unwrap() <= second;
        requirement.stages.iter().filter(begun).count() - 1
    }

    fn tick_to(&mut self, second: i64) {
        while self.second < second && self.end.is_none() {
            self.second += 1;
            if self.second == 1800 {
                self.end = Some("expired");
            } else {
                self.judge();
            }
        }
        self.second = second;
    }

    fn judge(&mut self) {
        let count = |requirement: &Requirement, approve: bool| {
            let now = Self::stage_index(requirement, self.second);
            let counts = |(cast, groups, decision): &&(i64, Vec<&'static str>, bool)| {
                let first = Self::stage_index(requirement, *cast);
                let may: BTreeSet<&str> = requirement.stages[first..=now]
                    .iter()
                    .flat_map(|stage| &stage.any_of)
                    .map(GroupName::as_str)
                    .collect();
                *decision == approve && groups.iter().any(|group| may.contains(group))
            };
            u32::try_from(self.votes.values().filter(counts).count()).unwrap()
        };
        if self.requirements.iter().any(|requirement| count(requirement, false) >= requirement.deny_votes) {
            self.end = Some("denied");
        } else if self.requirements.iter().all(|requirement| {
            count(requirement, true) >= requirement.stages[Self::stage_index(requirement, self.second)].need
        }) {
            self.end = Some("approved");
        }
    }

    fn vote(&mut self, person: u8, groups: &[&'static str], approve: bool) -> Result<(), &'static str> {
        if let Some(end) = self.end {
            return Err(if end == "expired" { "expired" } else { "resolved" });
        }
        let may = self.requirements.iter().any(|requirement| {
            let stage = &requirement.stages[Self::stage_index(requirement, self.second)];
            stage.any_of.iter().any(|group| groups.contains(&group.as_str()))
        });
        if !may {
            return Err("not_authorized");
        }
        if let Some((_, _, earlier)) = self.votes.get(&person)
            && (!*earlier || approve)
        {
            return Err("duplicate");
        }
        self.votes.insert(person, (self.second, groups.to_vec(), approve));
        self.judge();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_machine_agrees_with_the_reference(requirements in requirements(), inputs in inputs(), eager in any::<bool>()) {
        let mut reference = Reference { requirements: requirements.clone(), votes: BTreeMap::new(), end: None, second: 0 };
        let request = request_for(spec(requirements));
        let mut machine = Machine::new(request.clone());
        let (mut clock, mut second) = (0, 0);
        for (number, (wait, input)) in inputs.into_iter().enumerate() {
            clock += wait;
            // Time that was seen has passed, whatever the clock says.
            second = clock.max(second);
            if eager {
                // A driver that wakes at every timeout sees the same as one that comes late.
                while let Some(wake) = machine.poll_timeout().filter(|wake| *wake <= at(second)) {
                    let _ = machine.handle_timeout(wake);
                }
            }
            reference.tick_to(second);
            match input {
                Input::Vote { person, groups, approve } => {
                    let expected = reference.vote(person, &groups, approve);
                    // One person under three integrations and three spellings.
                    let name = match number % 3 {
                        0 => format!("webhook:w0:p{person}@x"),
                        1 => format!(" webhook:w1:P{person}@X"),
                        _ => format!("WEBHOOK:w2:ｐ{person}@x "),
                    };
                    let decision = if approve { VoteDecision::Approve } else { VoteDecision::Deny };
                    let got = machine.handle_vote(at(clock.max(0)), vote_by(&name, &groups, decision, None));
                    prop_assert_eq!(got.map(|_| ()).map_err(|refusal| refusal.code.as_str()), expected);
                }
                Input::Wait => { let _ = machine.handle_timeout(at(clock.max(0))); }
                Input::Restart => {
                    if machine.resolution().is_none() {
                        machine = Machine::resumed(request.clone(), machine.votes().to_vec());
                    }
                    // What was due is due at once.
                    let _ = machine.handle_timeout(at(second));
                }
                Input::Withdraw => {
                    let _ = machine.withdraw(at(clock.max(0)), WithdrawReason::Cancelled);
                    reference.end = reference.end.or(Some("cancelled"));
                }
            }
            if second != clock {
                // A call at an earlier time than was seen lets none pass.
                let _ = machine.handle_timeout(at(second));
            }
            prop_assert_eq!(ended(&machine), reference.end.unwrap_or("pending"));
            if let Some(Resolution::Approved { votes, .. }) = machine.resolution() {
                prop_assert!(covers(&request.spec, &request, votes));
            }
        }
    }
}
