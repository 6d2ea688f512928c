use super::*;
use crate::fixture::{operation, session};
use jiff::tz::TimeZone;
use lockgate_model::workload::Assurance;

fn compile_one(text: &str, permits: bool) -> Result<When, Vec<WhenProblem>> {
    compile_all(vec![WhenSource { text: text.to_owned(), permits }]).pop().unwrap()
}

fn holds(text: &str) -> Result<bool, String> {
    let when = compile_one(text, false).unwrap_or_else(|problems| panic!("{text}: {problems:#?}"));
    let session = session();
    let operation = operation("DELETE FROM orders");
    when.holds(&Asked {
        session: &session,
        operation: &operation,
        now: "2026-11-21T09:30:00Z".parse().unwrap(),
        zone: &TimeZone::UTC,
        ci_trust: Assurance::Claimed,
        kernel_trust: Assurance::Claimed,
    })
}

#[test]
fn expressions_see_the_facts() {
    for (text, expected) in [
        ("true", true),
        ("time.hour == 9 && time.minute == 30 && time.weekday == 6", true),
        ("time.hour < 7 || time.hour >= 18 || identity.event_name == 'pull_request'", false),
        ("identity.repository == 'acme/billing'", true),
        ("identity.repository.startsWith('acme/')", true),
        ("identity.repository.matches('^acme/[a-z]+$')", true),
        ("identity.uid == 1001", true),
        ("identity.assurance in ['kernel', 'platform']", true),
        ("'env' in target.tags && target.tags.env == 'production'", true),
        ("target.tags['env'] == 'production'", true),
        ("has(target.tags.pci)", false),
        ("has(identity.job)", false),
        ("has(identity.job) && identity.job == 'x'", false),
        ("sql.tables.exists(t, t == 'orders')", true),
        ("sql.tables.all(t, t.startsWith('o'))", true),
        ("sql.tables.filter(t, t == 'orders').size() == 1", true),
        ("sql.tables.map(t, t + '!') == ['orders!']", true),
        ("size(sql.tables) == 1", true),
        ("sql.tables.exists_one(t, t == 'orders')", true),
        ("sql.kind == 'delete' ? !sql.bounded : false", true),
        ("sql.class == 'write' && session.in_transaction", false),
    ] {
        assert_eq!(holds(text), Ok(expected), "{text}");
    }
}

#[test]
fn an_absent_fact_fails_unless_the_rest_decides() {
    assert!(holds("identity.job == 'x'").is_err());
    assert!(holds("target.tags.pci == 'true'").is_err());
    assert_eq!(holds("identity.job == 'x' || true"), Ok(true));
    assert_eq!(holds("time.hour == 9 || identity.job == 'x'"), Ok(true));
    assert!(holds("1 / 0 == 1").is_err());
    assert!(holds("9223372036854775807 + 1 == 0").is_err());
}

#[test]
fn what_cannot_be_vouched_for_is_refused() {
    for (text, offset, message) in [
        ("identity.repositry == 'x' || true", 8, "`identity` has no field `repositry`"),
        ("true || foo", 8, "`foo` is not known here"),
        ("identity", 0, "`identity` needs a field"),
        ("identity.uid == '1001'", 13, "`==` does not go with int and string"),
        ("identity.uid == 1001u", 16, "no fact is unsigned"),
        ("identity.uid == 1.5", 16, "no fact is a fraction"),
        ("identity.user == null", 17, "no fact is null"),
        ("time.hour", 4, "must be true or false"),
        ("identity.user.startWith('x')", 0, "unknown function `startWith`"),
        ("duration('1h') == duration('1h')", 0, "unknown function `duration`"),
        ("identity.user.matches('(')", 22, "not a regular expression"),
        ("identity.user.matches(identity.actor)", 0, "`matches` takes a literal"),
        ("identity.user.matches('(a{1000}){1000}')", 22, "not a regular expression"),
        ("sql.tables.exists(a, sql.tables.exists(b, a == b))", 0, "a macro inside another macro"),
        ("sql.tables.filter(a, true).exists(b, true)", 0, "a macro inside another macro"),
        ("sql.tables.exists(sql, true)", 0, "`sql` is taken"),
        ("{'a': 1}.a == 1", 0, "maps are not built"),
        ("['a', 1] == ['a']", 6, "a list of string with an element of type int"),
        ("[1] + [2] == [1, 2]", 4, "`+` does not go with"),
        ("identity.user.foo == 'x'", 0, "has no field `foo`"),
        ("time.hour ==", 0, "not a CEL expression"),
        ("time.hour = 3", 0, "not a CEL expression"),
        ("", 0, "not a CEL expression"),
    ] {
        let problems = compile_one(text, false).expect_err(text);
        let first = &problems[0];
        assert!(first.message.contains(message), "{text}: {first:?}");
        if offset > 0 {
            assert!(first.offset.abs_diff(offset) <= 1, "{text}: expected offset {offset}, got {first:?}");
        }
    }
}

#[test]
fn near_words_are_offered() {
    let help = |text| compile_one(text, false).expect_err(text)[0].help.clone().unwrap_or_default();
    assert_eq!(help("identity.repositry == 'x'"), "did you mean `repository`?");
    assert_eq!(help("tme.hour == 3"), "did you mean `time`?");
    assert_eq!(help("identity.user.startWith('x')"), "did you mean `startsWith`?");
}

#[test]
fn an_allow_rule_cannot_lean_on_what_the_job_writes() {
    for text in ["session.application_name == 'psql'", "session.user == 'app'", "session.database == 'x'"] {
        assert!(compile_one(text, false).is_ok(), "{text}");
        assert!(compile_one(text, true).is_err(), "{text}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let long = format!("time.hour == {}1", "1+".repeat(1500));
    let deep = format!("{}true{}", "(".repeat(900), ")".repeat(900));
    let negated = format!("{}true", "!".repeat(1999));
    let chain = format!("time.hour == {}1", "1+".repeat(200));
    let ternary = "true ? ".repeat(200) + "true" + &" : true".repeat(200);
    let list = format!("time.hour in [{}1]", "1, ".repeat(200));
    let lists = format!("{}1{} == [1]", "[".repeat(500), "]".repeat(500));
    for text in [long, deep, negated, chain, ternary, list, lists] {
        // Redundant parentheses and doubled negations may be folded by the parser; whatever compiles is shallow.
        if let Ok(when) = compile_one(&text, false) {
            assert!(format!("{:?}", when.program.expression()).len() < 4096, "{text}");
        }
    }
    let many_ors = vec!["time.hour == 1"; 100].join(" || ");
    assert!(compile_one(&many_ors, false).is_ok(), "a flat chain of || is balanced, not deep");
}

/// What one level costs is the evaluator's: measured 45 KiB without optimisation. Sessions run on the runtime's
/// 2 MiB threads; half of that leaves room for what is below us.
#[test]
fn the_deepest_expression_that_loads_runs_on_half_a_stack() {
    let shapes: [fn(usize) -> String; 5] = [
        |levels| format!("time.hour < {}9{}", "(1 + ".repeat(levels), ")".repeat(levels)),
        |levels| format!("{}true{}", "(time.hour == 9 && (".repeat(levels), " || false))".repeat(levels)),
        |levels| format!("{}true{}", "(time.hour == 9 ? ".repeat(levels), " : false)".repeat(levels)),
        |levels| {
            format!(
                "sql.tables.exists(t, t == {}'orders'{})",
                "(true ? ".repeat(levels),
                " : '')".repeat(levels)
            )
        },
        |levels| format!("{}true{}", "[".repeat(levels), "][0]".repeat(levels)),
    ];
    for shape in shapes {
        let levels = (1..100).take_while(|levels| compile_one(&shape(*levels), false).is_ok()).count();
        assert!((4..30).contains(&levels), "{levels} levels load of {}", shape(2));
        let text = shape(levels);
        let thread = thread::Builder::new().stack_size(1024 * 1024).spawn(move || holds(&text)).unwrap();
        assert_eq!(thread.join().unwrap(), Ok(true), "{}", shape(levels));
    }
}

#[test]
fn the_table_of_paths_has_no_double() {
    for (index, path) in PATHS_FOR_TEST.iter().enumerate() {
        assert!(ROOTS_FOR_TEST.contains(&path.root));
        let doubles = PATHS_FOR_TEST[index + 1..]
            .iter()
            .filter(|other| (other.root, other.field) == (path.root, path.field));
        assert_eq!(doubles.count(), 0, "{path:?}");
    }
}

use super::paths::{PATHS as PATHS_FOR_TEST, ROOTS as ROOTS_FOR_TEST};

proptest::proptest! {
    #[test]
    fn garbage_never_panics(text in "[a-z.()\\[\\]'!&|<>=+0-9 ?:,{}]{0,60}") {
        let _ = compile_one(&text, false);
    }
}
