//! What loading refuses, where it says so, and what it only warns of.

use super::*;

fn errors(text: &str) -> Vec<String> {
    match load(text) {
        Ok(_) => panic!("expected errors for:\n{text}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn error(rule: &str) -> String {
    let all = errors(&format!("{HEADER}rules:\n{rule}\n"));
    assert_eq!(all.len(), 1, "{all:#?}");
    all.into_iter().next().unwrap()
}

fn warnings(text: &str) -> Vec<String> {
    match load(text) {
        Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect(),
        Err(errors) => panic!("{errors:#?}"),
    }
}

#[test]
fn errors_name_place_and_nearest_right_word() {
    let approval = |inner: &str| {
        format!("- {{ id: r, match: {{}}, effect: require_approval, approval: {{ {inner} }} }}")
    };
    // The rule, the words the error must point at, the error.
    for (rule, at, expected) in [
        (
            "- { id: r, match: {}, effect: alow }".to_owned(),
            "alow",
            "`alow` is not a word that is known here; did you mean `allow`?",
        ),
        (
            "- { id: r, mach: {}, effect: allow, match: {} }".to_owned(),
            "mach",
            "unknown key `mach`; did you mean `match`?",
        ),
        (
            "- { id: r, match: { sql: { clas: ddl } }, effect: deny }".to_owned(),
            "clas",
            "unknown key `clas`; did you mean `class`?",
        ),
        (
            "- { id: r, match: { sql: { class: [ddl, wrte] } }, effect: deny }".to_owned(),
            "wrte",
            "`wrte` is not a word that is known here; did you mean `write`?",
        ),
        (
            "- { id: r, match: { sql: { class: opaque } }, effect: deny }".to_owned(),
            "{ class",
            "`opaque` is not matched as a class; write `opaque: true` in place of the class",
        ),
        (
            "- { id: r, match: { sql: { kinds: [drp] } }, effect: deny }".to_owned(),
            "drp",
            "`drp` is not a kind of statement; did you mean `drop`?",
        ),
        (
            "- { id: r, match: { target: { name: 'a[' } }, effect: deny }".to_owned(),
            "'a['",
            "`a[` is not a glob: unclosed character class; missing ']'",
        ),
        ("- { id: r, effect: deny }".to_owned(), "{ id", "the key `match` is missing here"),
        (
            "- { id: r, match: {}, effect: require_approval }".to_owned(),
            "require_approval",
            "require_approval needs an `approval:` block; say who must agree: `approval: { stages: [...], timeout: 15m }`",
        ),
        (
            approval("stages: [{ at: 0m, from: { group: dbaa }, need: 1 }], timeout: 15m"),
            "dbaa",
            "group `dbaa` is not defined; did you mean `dba`?",
        ),
        (
            approval("stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 15x"),
            "15x",
            "expected a duration such as 30s, 10m or 1h30m, got \"15x\"",
        ),
        (
            approval("stages: [{ at: 0m, from: { group: dba }, need: 0 }], timeout: 15m"),
            "0 }]",
            "`need` is between 1 and 50, got 0",
        ),
        (
            approval("stages: [{ at: 5m, from: { group: dba }, need: 1 }], timeout: 15m"),
            "{ stages",
            "the first stage must be at 0m; begin with `{ at: 0m, from: { group: … }, need: 1 }`",
        ),
        (
            approval(
                "stages: [{ at: 0m, from: { group: dba }, need: 1 }, { at: 15m, from: { group: dba }, need: 1 }], timeout: 15m",
            ),
            "15m",
            "this stage begins when the request has expired",
        ),
        (
            approval("stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 15m, on_timeout: pass"),
            "pass",
            "`pass` is not a word that is known here; expected one of: deny",
        ),
        (
            "- { id: r, match: {}, effect: allow, final: true }".to_owned(),
            "true",
            "`final` is for deny rules, this one says allow",
        ),
        (
            "- { id: r, match: { session: { user: app } }, effect: allow }".to_owned(),
            "{ user",
            "`match.session` is written by the job, and cannot allow anything; match on identity or target",
        ),
        (
            "- { id: r, match: {}, when: \"true || identity.repositry == 'x'\", effect: deny }".to_owned(),
            ".repositry",
            "in `when`: `identity` has no field `repositry`; did you mean `repository`?",
        ),
        (
            "- { id: r, match: {}, when: \"time.hour == \", effect: deny }".to_owned(),
            "\", effect",
            "in `when`: not a CEL expression: ",
        ),
        (
            "- { id: r, match: {}, effect: none, mask: { columns: [{ match: a, method: hash }] } }"
                .to_owned(),
            "{ match: a,",
            "`method: hash` needs a key; a bare hash is reversed by trying all values; say `key: { file: … }`",
        ),
        (
            "- { id: r, match: {}, effect: none, mask: { columns: [{ match: a.b.c.d, method: redact }] } }"
                .to_owned(),
            "a.b.c.d",
            "`a.b.c.d` has 4 parts, expected schema, table and column; write `schema.table.column`, each a glob of `*` and `?`",
        ),
    ] {
        let column = rule.find(at).unwrap() + 1;
        let got = error(&rule);
        assert!(
            got.starts_with(&format!("p.yaml:6:{column}: {expected}")),
            "{rule}\n expected 6:{column}: {expected}\n got      {got}"
        );
    }
}

#[test]
fn many_mistakes_are_told_at_once() {
    let text = format!(
        "{HEADER}rules:\n\
- {{ id: a, match: {{ target: {{ name: 'a[' }} }}, when: 'foo', effect: deny }}\n\
- {{ id: a, match: {{}}, effect: require_approval, approval: {{ stages: [{{ at: 0m, from: {{ group: x }}, need: 0 }}], timeout: 0 }} }}\n\
tests:\n- {{ name: t, given: {{ statement: x, time: noon }}, expect: {{ effect: deny, rule: b, need: {{ nobody: 1 }} }} }}\n"
    );
    let all = errors(&text);
    let lines: Vec<&str> = all.iter().filter_map(|error| error.split(':').nth(1)).collect();
    assert_eq!(lines, ["6", "6", "7", "7", "7", "7", "9", "9", "9"], "{all:#?}");
}

#[test]
fn a_document_says_what_it_is() {
    let text = "apiVersion: v2\nkind: Polcy\nmetadata: { name: '' }\n";
    let all = errors(text);
    assert_eq!(all.len(), 3, "{all:#?}");
    assert!(all[0].starts_with("p.yaml:1:13: expected `lockgate.dev/v1`"), "{all:#?}");
    assert!(errors("kind: Policy\n")[0].contains("`apiVersion` is missing"));
    assert!(
        errors("timezone: Europe/Berln\napiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: { name: x }\n")
            [0]
        .contains("did you mean `Europe/Berlin`?")
    );
}

#[test]
fn files_are_one_policy() {
    let file = |path: &str, text: String| SourceFile { path: path.into(), text };
    let rule = |id: &str| format!("{HEADER}rules:\n- {{ id: {id}, match: {{}}, effect: allow }}\n");
    let a = file("a.yaml", rule("a"));
    let b = file("b.yaml", rule("b"));
    let both = CompiledPolicy::load(vec![a.clone(), b.clone()]).unwrap().policy;
    let turned = CompiledPolicy::load(vec![b.clone(), a.clone()]).unwrap().policy;
    assert_eq!(both.version(), turned.version(), "the order of files does not matter");
    assert_eq!(both.groups().len(), 2);
    let one = CompiledPolicy::load(vec![a.clone()]).unwrap().policy;
    assert_ne!(both.version(), one.version());
    assert_eq!(one.version().as_str().len(), 64);
    let clash = CompiledPolicy::load(vec![a.clone(), file("c.yaml", rule("a"))]).unwrap_err();
    assert_eq!(
        clash[0].to_string(),
        "c.yaml:6:9: rule `a` is defined a second time, the first is at a.yaml:6; rename one of them"
    );
    let other = rule("c").replace("dba: {}", "dba: { oidc: 'groups:dba' }");
    let differs = CompiledPolicy::load(vec![a, file("c.yaml", other)]).unwrap_err();
    assert!(differs[0].message.contains("defined differently at a.yaml:4"), "{differs:?}");
}

#[test]
fn what_is_not_acted_on_is_said_so() {
    let text = format!(
        "{HEADER}rules:\n\
- {{ id: k, match: {{ target: {{ protocol: kubernetes }}, k8s: {{ any: [{{ verbs: [delete] }}] }} }}, effect: deny }}\n\
- {{ id: s, match: {{ ssh: {{ any: [] }} }}, effect: deny }}\n\
- {{ id: a, match: {{}}, effect: require_approval, approval: {{ stages: [{{ at: 0m, from: {{ any_of: [dba, oncall] }}, need: 1 }}], timeout: 15m, covers: session, reuse: {{ same: [digest], for: 15m, uses: 1 }}, coalesce: {{ by: [rule], window: 20s }} }} }}\n\
- {{ id: m, match: {{}}, effect: none, mask: {{ columns: [{{ match: a, method: null }}], unmask_for: {{ group: oncall }} }}, record: {{ retain: 400d }} }}\n\
break_glass:\n- {{ id: b, who: {{ group: dba }}, lifts: [require_approval], max: 60m }}\n\
tests: [{{ name: t, given: {{ statement: x }}, expect: {{ effect: deny }} }}]\n"
    );
    let all = warnings(&text);
    for (line, words) in [
        (6, "not spoken by this version"),
        (7, "not spoken by this version"),
        (9, "nobody's session is in this group"),
    ] {
        let at = format!("p.yaml:{line}:");
        assert!(all.iter().any(|w| w.starts_with(&at) && w.contains(words)), "{line} {words}: {all:#?}");
    }
    // And they match nothing: only `a` does.
    let policy = Arc::new(load(&text).unwrap().policy);
    assert_eq!(
        verdict_for(&policy, &session(), &operation("DROP TABLE t")).effect.as_str(),
        "require_approval"
    );
}

#[test]
fn lint_finds_what_was_not_meant() {
    let text = format!(
        "{HEADER}rules:\n\
- {{ id: wall, match: {{ target: {{ name: [a, b] }} }}, effect: deny, final: true }}\n\
- {{ id: behind, match: {{ target: {{ name: a }}, sql: {{ class: read }} }}, effect: allow }}\n\
- {{ id: beside, match: {{ target: {{ name: c }}, sql: {{ class: read }} }}, effect: allow }}\n\
- {{ id: never, match: {{ sql: {{ opaque: true, class: read }} }}, effect: allow }}\n\
- {{ id: leaky, match: {{ sql: {{ class: read, any_table: [a] }} }}, effect: allow }}\n\
- {{ id: m, match: {{ sql: {{ class: read }} }}, effect: none, mask: {{ columns: [{{ match: a, method: redact }}] }} }}\n"
    );
    let all = warnings(&text);
    for words in [
        "rule `behind` never has a say: the final deny `wall` covers",
        "rule `never` never matches: an opaque statement has no `match.sql.class`",
        "`any_table` in an allow rule says what a statement touches",
        "rule `m` masks only statements that are understood",
        "group `dba` is used by no rule",
        "group `oncall` is used by no rule",
        "this file has rules and no tests",
    ] {
        assert_eq!(all.iter().filter(|warning| warning.contains(words)).count(), 1, "{words}: {all:#?}");
    }
    assert_eq!(all.len(), 7, "{all:#?}");
}

#[test]
fn a_rule_nobody_can_approve_is_found_with_the_configuration() {
    let policy = policy(&format!("- {{ id: r, match: {{}}, effect: require_approval, {APPROVAL} }}"));
    assert_eq!(policy.unreachable_groups(&["oncall".into()].into()).len(), 1);
    assert_eq!(policy.unreachable_groups(&["dba".into()].into()).len(), 0);
}

#[test]
fn the_schema_spells_words_as_the_reader_does() {
    fn check<T: crate::document::Words>() {
        for word in T::WORDS {
            let value = serde_json::Value::from(*word);
            let read: T =
                serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{word}: {error}"));
            assert_eq!(serde_json::to_value(read).unwrap(), value);
        }
    }
    use crate::document::*;
    check::<Kind>();
    check::<Sureness>();
    check::<Class>();
    check::<SideEffect>();
    check::<RiskLevel>();
    check::<TargetMode>();
    check::<GivenDefault>();
    check::<Excluded>();
    check::<DetectorName>();
    check::<Lineage>();
    check::<Predicate>();
    check::<Expression>();
    check::<CountedPer>();
    check::<ExportWay>();
    check::<Statements>();
    check::<Results>();
}

#[test]
fn a_file_in_shadow_says_what_it_would_have_done_and_that_it_does_nothing() {
    use crate::{CompiledPolicy, SourceFile, fixture};
    use lockgate_model::{Timestamp, verdict::Effect};
    let file = |path: &str, mode: &str, rules: &str| SourceFile {
        path: path.to_owned(),
        text: format!(
            "apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: {{ name: t }}\n{mode}rules:\n{rules}"
        ),
    };
    let allow = "- { id: all, match: {}, effect: allow }\n";
    let deny = "- { id: no, match: {}, effect: deny }\n- { id: m, match: {}, effect: none, mask: { columns: [{ match: \"*.*.x\", method: redact }] } }\n";
    for (mode, effect, would) in [
        ("", "deny", None),
        ("mode: enforce\n", "deny", None),
        ("mode: shadow\n", "allow", Some("deny")),
        ("mode: off\n", "allow", None),
    ] {
        let loaded =
            CompiledPolicy::load(vec![file("a.yaml", "", allow), file("b.yaml", mode, deny)]).unwrap();
        let session = fixture::session();
        let operation = fixture::operation("SELECT 1");
        let verdict =
            loaded.policy.evaluate(&session, &operation, Timestamp::UNIX_EPOCH, fixture::decision());
        assert_eq!(verdict.effect.as_str(), effect, "{mode}");
        assert_eq!(verdict.would.as_deref().map(Effect::as_str), would, "{mode}");
        assert_eq!(loaded.policy.masks_for(&session).is_some(), effect == "deny", "{mode}");
        let said = loaded.warnings.iter().any(|warning| warning.message.contains("rules of this file are"));
        assert_eq!(said, effect == "allow", "{mode}: {:?}", loaded.warnings);
    }
}
