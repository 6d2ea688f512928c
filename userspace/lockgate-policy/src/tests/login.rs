//! `login_as`: for whom, for nobody else, and what may not stand beside it.

use crate::{CompiledPolicy, SourceFile, fixture};
use lockgate_model::{session::Mode, workload::Assurance};
use std::sync::Arc;

fn policy(rules: &str) -> Result<CompiledPolicy, String> {
    let text =
        format!("apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: {{ name: login }}\nrules:\n{rules}");
    let file = SourceFile { path: "login.yaml".into(), text };
    CompiledPolicy::load(vec![file])
        .map(|loaded| loaded.policy)
        .map_err(|diagnostics| diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

const READER: &str =
    "- { id: reader, match: { target: { tags: { env: production } } }, effect: none, login_as: app_ro }\n";

#[test]
fn a_rule_names_the_role_of_a_session() {
    let mut session = fixture::session();
    let target = Arc::make_mut(&mut session.target);
    target.tags = [("env".to_owned(), "production".to_owned())].into();
    let conflict = "- { id: writer, match: {}, effect: allow, login_as: app_rw }\n";
    let off = "- { id: off, match: {}, effect: none, mode: shadow, login_as: nobody }\n";
    for (rules, expected) in [
        (READER.to_owned(), Ok(Some("app_ro"))),
        (format!("{READER}{off}"), Ok(Some("app_ro"))),
        (READER.replace("production", "test"), Ok(None)),
        (conflict.to_owned(), Ok(Some("app_rw"))),
        (format!("{READER}{}", conflict.replace("app_rw", "app_ro")), Ok(Some("app_ro"))),
        (format!("{READER}{conflict}"), Err("the rules reader and writer name different roles")),
    ] {
        let policy = policy(&rules).unwrap();
        let got = policy.login_as(&session).map_err(|error| error.to_string());
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{rules}"),
            (Err(got), Err(expected)) => assert!(got.starts_with(expected), "{got}"),
            (got, expected) => panic!("{rules}: {got:?}, expected {expected:?}"),
        }
    }
    Arc::make_mut(&mut session.target).mode = Mode::Shadow;
    assert_eq!(policy(READER).unwrap().login_as(&session), Ok(None));
}

#[test]
fn what_a_job_claims_to_be_leads_to_no_role() {
    let mut session = fixture::session();
    let claims = |session: &mut lockgate_model::session::Session, assurance| {
        let workload = Arc::make_mut(&mut session.workload);
        workload.ci.as_mut().unwrap().assurance.0 = assurance;
    };
    let rule = |identity: &str| {
        format!("- {{ id: deploy, match: {{ identity: {identity} }}, effect: none, login_as: app_rw }}\n")
    };
    let repository = session.workload.ci.as_ref().unwrap().repository.clone().unwrap();
    for (identity, assurance, expected) in [
        (format!("{{ repository: {repository} }}"), Assurance::Claimed, None),
        (format!("{{ repository: {repository} }}"), Assurance::Platform, Some("app_rw")),
        // Said so by whoever wrote the policy.
        (format!("{{ repository: {repository}, assurance: claimed }}"), Assurance::Claimed, Some("app_rw")),
    ] {
        claims(&mut session, assurance);
        let policy = policy(&rule(&identity)).unwrap();
        assert_eq!(policy.login_as(&session), Ok(expected), "{identity} {assurance:?}");
    }
}

#[test]
fn what_is_not_known_before_the_first_statement_may_not_stand_beside_it() {
    for (old, new, expected) in [
        ("effect: none", "effect: deny", "`login_as` is for rules that let pass"),
        ("match: {", "match: { sql: { class: read }, ", "decided before the first statement"),
        ("effect: none", "effect: none, when: \"true\"", "decided before the first statement"),
        ("app_ro", "\"\"", "is not the name of a role"),
        // What the job says of itself leads to no role.
        ("match: {", "match: { session: { user: admin }, ", "is written by the job"),
        ("match: {", "match: { session: { database: admin }, ", "is written by the job"),
        (
            "effect: none",
            "effect: none, mask: { columns: [{ match: ssn, method: redact }] }",
            "a rule of its own",
        ),
        ("effect: none", "effect: none, limits: { rows: 5 }", "a rule of its own"),
        ("effect: none", "effect: none, record: { statements: full }", "a rule of its own"),
    ] {
        let error = policy(&READER.replace(old, new)).expect_err(new);
        assert!(error.contains(expected), "{error}");
    }
}
