//! `unmask_for`: who sees raw values, and everybody who does not.

use super::*;
use lockgate_model::principal::Principal;

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: unmask }
groups:
  dba: {}
  fraud: { members: ["github_actions:acme/fraud", "uid:4711"] }
rules:
- id: reads
  match: { sql: { class: read } }
  effect: allow
- id: writes
  match: { sql: { class: write } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 15m }
- id: personal
  match: {}
  effect: none
  mask: { columns: [{ match: "*.*.ssn", method: redact }, { match: "*.*.email", method: redact }], unmask_for: { group: fraud } }
  record: { results: masked }
- id: cards
  match: {}
  effect: none
  mask: { columns: [{ match: "*.*.email", method: "null" }] }
"#;

/// A session of a principal that is known so surely.
fn of(id: &str, assurance: Assurance) -> Session {
    let mut session = session();
    session.principal = Principal { id: id.to_owned(), assurance, ..session.principal };
    session
}

/// Columns that are masked for a session, and the rules whose masks it is spared.
fn seen(text: &str, session: &Session, statement: &str) -> (Vec<String>, Vec<String>) {
    let policy = Arc::new(load(text).unwrap().policy);
    let verdict = verdict_for(&policy, session, &operation(statement));
    let masks = verdict.obligations.mask.iter().flat_map(|mask| &mask.columns);
    let columns = masks.map(|column| format!("{:?}", column.pattern)).collect();
    let planned = policy.masks_for(session).map(|mask| mask.columns.len()).unwrap_or_default();
    let all: Vec<String> = columns;
    assert_eq!(planned, all.len(), "the plan and the verdict are one");
    (all, verdict.obligations.unmasked.iter().map(ToString::to_string).collect())
}

#[test]
fn a_member_whose_identity_is_sure_enough_sees_what_that_rule_masks_and_nothing_more() {
    let (columns, unmasked) = seen(POLICY, &of("github_actions:acme/fraud", Assurance::Attested), "SELECT 1");
    assert_eq!(unmasked, ["personal"]);
    assert!(
        columns.len() == 1 && columns[0].contains("email"),
        "another rule masks that column too: {columns:?}"
    );
    let sure = of("github_actions:acme/fraud", Assurance::Platform);
    assert_eq!(seen(POLICY, &sure, "SELECT 1").1, ["personal"]);
}

#[test]
fn nobody_else_does() {
    for (id, assurance) in [
        ("github_actions:acme/billing", Assurance::Attested),
        ("github_actions:acme/fraud", Assurance::Kernel),
        ("github_actions:acme/fraud", Assurance::Claimed),
        ("github_actions:ACME/fraud", Assurance::Attested),
        ("github_actions:acme/fraud ", Assurance::Attested),
        ("gitlab:acme/fraud", Assurance::Attested),
        ("fraud", Assurance::Attested),
        ("dba", Assurance::Attested),
        ("uid:4711", Assurance::Kernel),
    ] {
        let (columns, unmasked) = seen(POLICY, &of(id, assurance), "SELECT 1");
        assert_eq!((columns.len(), unmasked.len()), (2, 0), "{id} {assurance:?}");
    }
    // What a job says of itself names nobody: its principal stays the kernel's.
    let claims = with_workload(&session(), |workload| {
        let ci = workload.ci.as_mut().unwrap();
        ci.repository = Some("acme/fraud".to_owned());
        ci.assurance = CiAssurance(Assurance::Claimed);
    });
    let claims = Session { principal: Principal::of(&claims.workload), ..claims };
    assert!(seen(POLICY, &claims, "SELECT 1").1.is_empty());
}

#[test]
fn the_policy_says_how_sure_and_claims_never_are() {
    let kernel = POLICY.replace(
        "unmask_for: { group: fraud } }",
        "unmask_for: { group: fraud }, unmask_min_assurance: kernel }",
    );
    assert_eq!(seen(&kernel, &of("uid:4711", Assurance::Kernel), "SELECT 1").1, ["personal"]);
    assert!(seen(&kernel, &of("uid:4711", Assurance::Claimed), "SELECT 1").1.is_empty());
    for (change, words) in [
        ("unmask_for: { group: fraud }, unmask_min_assurance: claimed }", "never unmasks"),
        ("unmask_min_assurance: kernel }", "is for a mask with `unmask_for`"),
    ] {
        let text = POLICY.replace("unmask_for: { group: fraud } }", change);
        let errors = load(&text).err().unwrap();
        assert!(errors.iter().any(|error| error.to_string().contains(words)), "{words}: {errors:#?}");
    }
    let misspelled = POLICY.replace("unmask_for: { group: fraud } }", "unmask_for: { group: fruad } }");
    assert!(
        seen(&misspelled, &of("github_actions:acme/fraud", Assurance::Attested), "SELECT 1").1.is_empty()
    );
    for member in ["*", "github_actions:*", "acme", ":x", "uid: 1"] {
        let text = POLICY.replace("uid:4711", member);
        assert!(load(&text).is_err(), "{member}");
    }
}

#[test]
fn an_approval_never_unmasks_and_the_record_stays_without_values() {
    let other = of("github_actions:acme/billing", Assurance::Attested);
    let policy = Arc::new(load(POLICY).unwrap().policy);
    let held = verdict_for(&policy, &other, &operation("UPDATE customers SET ssn = '1' WHERE id = 1"));
    assert_eq!(held.effect.as_str(), "require_approval");
    assert_eq!(held.obligations.mask.as_ref().map(|mask| mask.columns.len()), Some(2));
    let member = of("github_actions:acme/fraud", Assurance::Attested);
    let raw = verdict_for(&policy, &member, &operation("SELECT ssn FROM customers WHERE ssn = '123'"));
    assert_eq!(raw.obligations.record.results, RecordResults::None, "raw values stay out of the record");
    assert_eq!(raw.obligations.record.statements, RecordStatements::Normalized);
}
