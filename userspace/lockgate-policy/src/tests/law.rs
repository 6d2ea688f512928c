//! Laws that hold for every policy, checked on random ones.

use super::*;
use lockgate_model::operation::{Parameter, ValueFormat};
use proptest::prelude::*;

/// A random rule: effect, mode, what it matches.
fn rule() -> impl Strategy<Value = (String, &'static str)> {
    let effect = prop::sample::select(vec!["allow", "deny", "none", "require_approval"]);
    let mode = prop::sample::select(vec!["enforce", "enforce", "enforce", "shadow", "off"]);
    let matches = prop::sample::select(vec![
        "{}",
        "{ sql: { class: read } }",
        "{ sql: { class: [ddl, write] } }",
        "{ sql: { kinds: [drop] } }",
        "{ sql: { bounded: false } }",
        "{ sql: { only_tables: [orders] } }",
        "{ sql: { opaque: true } }",
        "{ sql: { risk: high } }",
        "{ target: { tags: { env: production } } }",
        "{ identity: { uid: 1001 } }",
        "{ identity: { repository: 'acme/*' } }",
        "{ target: { name: other } }",
    ]);
    let when = prop::sample::select(vec!["", "time.hour == 12", "time.hour == 1", "identity.job == 'x'"]);
    (effect, mode, matches, when).prop_map(|(effect, mode, matches, when)| {
        let approval = if effect == "require_approval" { format!(", {APPROVAL}") } else { String::new() };
        let when = if when.is_empty() { String::new() } else { format!(", when: \"{when}\"") };
        (format!("match: {matches}, effect: {effect}, mode: {mode}{approval}{when} }}"), effect)
    })
}

fn build(rules: &[(String, &'static str)]) -> String {
    rules.iter().enumerate().map(|(index, (rule, _))| format!("- {{ id: r{index}, {rule}\n")).collect()
}

fn statement() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "SELECT 1",
        "SELECT * FROM orders",
        "DELETE FROM orders",
        "DELETE FROM orders WHERE id = 1",
        "DROP TABLE orders",
        "GRANT a TO b",
        "SELEC 1",
    ])
}

fn rank(effect: &Effect) -> u8 {
    match effect {
        Effect::Allow => 0,
        Effect::Hold(_) => 1,
        Effect::Deny(_) => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_further_deny_or_approval_never_lets_more_pass(
        rules in prop::collection::vec(rule(), 0..6),
        (extra, effect) in rule(),
        statement in statement(),
    ) {
        prop_assume!(effect == "deny" || effect == "require_approval");
        let mut more = rules.clone();
        more.push((extra, effect));
        let before = verdict(&build(&rules), statement);
        let after = verdict(&build(&more), statement);
        // An approval may replace the denial of an unmatched operation: asking people is what it is for.
        if effect == "deny" || rank(&before.effect) == 0 {
            prop_assert!(rank(&after.effect) >= rank(&before.effect), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_policy_that_judges_facts_alone_says_the_same_of_the_same_facts(
        mut rules in prop::collection::vec(rule(), 0..6),
        drop_when in any::<bool>(),
        statement in statement(),
        value in prop::option::of("[0-9]{1,4}"),
        in_transaction in any::<bool>(),
        touches_masked in any::<bool>(),
        hours in 0_u64..48,
    ) {
        if drop_when {
            rules.retain(|(rule, _)| !rule.contains("when:"));
        }
        let policy = policy(&build(&rules));
        let session = session();
        let cut = policy.for_session(&session);
        prop_assume!(cut.judges_facts_alone());
        let one = operation(statement);
        let mut other = one.clone();
        other.text = "another text".into();
        Arc::make_mut(&mut other.context).in_transaction = in_transaction;
        other.touches_masked = touches_masked;
        other.parameters = vec![Parameter { type_oid: 23, format: ValueFormat::Text, value }].into();
        let later = now() + std::time::Duration::from_secs(3600 * hours);
        let first = Verdict::from(cut.evaluate(&session, &one, now(), decision()));
        prop_assert_eq!(first, Verdict::from(cut.evaluate(&session, &other, later, decision())));
    }

    #[test]
    fn order_does_not_matter(
        (rules, turned) in prop::collection::vec(rule(), 0..7).prop_flat_map(|rules| {
            let named: Vec<_> = rules.into_iter().enumerate().collect();
            (Just(named.clone()), Just(named).prop_shuffle())
        }),
        statement in statement(),
    ) {
        let text = |rules: &[(usize, (String, &'static str))]| -> String {
            rules.iter().map(|(index, (rule, _))| format!("- {{ id: r{index}, {rule}\n")).collect()
        };
        let mut one = verdict(&text(&rules), statement);
        let mut other = verdict(&text(&turned), statement);
        for verdict in [&mut one, &mut other] {
            Arc::make_mut(&mut verdict.rules).sort_by(|a, b| a.rule.cmp(&b.rule));
            let effects = [Some(&mut verdict.effect), verdict.would.as_deref_mut()];
            for effect in effects.into_iter().flatten() {
                if let Effect::Hold(spec) = effect {
                    spec.requirements.sort_by(|a, b| a.rule.cmp(&b.rule));
                }
            }
            verdict.policy = "any".into();
        }
        prop_assert_eq!(one, other);
    }

    #[test]
    fn shadow_never_blocks_and_says_what_enforce_says(
        rules in prop::collection::vec(rule(), 0..6),
        statement in statement(),
    ) {
        let policy = policy(&build(&rules));
        let shadow = with_target(&session(), |target| target.mode = Mode::Shadow);
        let enforced = verdict_for(&policy, &session(), &operation(statement));
        let shadowed = verdict_for(&policy, &shadow, &operation(statement));
        prop_assert_eq!(&shadowed.effect, &Effect::Allow);
        prop_assert_eq!(shadowed.would.as_deref(), Some(&enforced.effect));
    }

    #[test]
    fn the_opaque_passes_only_by_a_rule_that_names_it(
        rules in prop::collection::vec(rule(), 0..6),
        open in any::<bool>(),
    ) {
        let text = build(&rules);
        let session = with_target(&session(), |target| {
            target.default = if open { DefaultEffect::Allow } else { DefaultEffect::Deny };
        });
        let verdict = verdict_for(&policy(&text), &session, &operation("SELEC 1"));
        if verdict.effect == Effect::Allow {
            let named = text.lines().any(|rule| rule.contains("opaque: true") && rule.contains("effect: allow"));
            prop_assert!(named, "{text}");
        }
    }

    #[test]
    fn any_text_loads_or_is_refused(text in "[a-z:{}\\[\\], \\n'-]{0,300}") {
        let _ = load(&text);
        let _ = load(&format!("{HEADER}rules:\n{text}"));
    }
}
