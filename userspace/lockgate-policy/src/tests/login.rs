//! `login_as`: for whom, for nobody else, and what may not stand beside it.

use crate::{CompiledPolicy, SourceFile, fixture};
use lockgate_model::session::Mode;
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
fn what_is_not_known_before_the_first_statement_may_not_stand_beside_it() {
    for (old, new, expected) in [
        ("effect: none", "effect: deny", "`login_as` is for rules that let pass"),
        ("match: {", "match: { sql: { class: read }, ", "decided before the first statement"),
        ("effect: none", "effect: none, when: \"true\"", "decided before the first statement"),
        ("app_ro", "\"\"", "is not the name of a role"),
        // What the job says of itself leads to no role.
        ("match: {", "match: { client: { user: admin }, ", ""),
    ] {
        let error = policy(&READER.replace(old, new)).expect_err(new);
        assert!(error.contains(expected), "{error}");
    }
}
