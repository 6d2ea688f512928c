use super::super::jsonl;
use super::*;
use proptest::{prelude::*, sample::select};
use std::collections::BTreeSet;

const STATEMENTS: &str = include_str!("../../../../tests/fixtures/sql/statements.jsonl");
const ADVERSARIAL: &str = include_str!("../../../../tests/fixtures/sql/adversarial.jsonl");

/// What a client could put where another value stood.
const VALUES: [&str; 22] = [
    "0",
    "1",
    "2",
    "00",
    "7",
    "10000",
    "999999999",
    "2147483648",
    "1.5",
    "-1",
    "NULL",
    "''",
    "'a'",
    "'f'",
    "'true'",
    "'pg_class'",
    "'pg_catalog.set_config'",
    "'x''y'",
    "'$1'",
    "'; DELETE FROM t; --'",
    "'é'",
    "E'\\''",
];

fn key(text: &str) -> Option<Vec<u8>> {
    let mut shape = Shape::default();
    shape.read(text).then(|| shape.key().to_vec())
}

#[test]
fn texts_that_differ_in_plain_literals_have_one_key() {
    for (a, b) in [
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = 274"),
        ("SELECT a FROM t WHERE id = 1;", "SELECT a FROM t WHERE id = 000;"),
        (
            "select \"A\" from \"T\" where n = 'x' and m = 1",
            "select \"A\" from \"T\" where n = 'it''s' and m = 2",
        ),
        ("select a from t where n in (1,2)", "select a from t where n in (3,1)"),
        ("select a from t where n in (1,1)", "select a from t where n in (3,03)"),
    ] {
        assert!(key(a).is_some(), "{a}");
        assert_eq!(key(a), key(b), "{a} | {b}");
    }
}

#[test]
fn texts_that_differ_in_anything_else_have_not() {
    for (a, b) in [
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = '1'"),
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id=1"),
        ("SELECT a FROM t WHERE id = 1", "SELECT b FROM t WHERE id = 1"),
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = -1"),
        ("SELECT a FROM t1 WHERE id = 1", "SELECT a FROM t2 WHERE id = 1"),
        ("SELECT a FROM \"t'1\" WHERE id = 1", "SELECT a FROM \"t'2\" WHERE id = 1"),
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = 1 "),
        // Which are equal may matter: `x = 1 OR x <> 1` lets everything through.
        ("SELECT a FROM t WHERE x = 1 OR x <> 2", "SELECT a FROM t WHERE x = 1 OR x <> 1"),
        ("SELECT a FROM t WHERE x = 'a' OR x <> 'b'", "SELECT a FROM t WHERE x = 'a' OR x <> 'a'"),
    ] {
        assert_ne!(key(a), key(b), "{a} | {b}");
    }
}

#[test]
fn what_is_not_fully_understood_has_no_key() {
    for text in [
        "select $1",
        "select 1 -- 2",
        "select 1 /* 2 */",
        r"select '\'",
        "select E'a'",
        "select e'a'",
        "select U&'a'",
        "select u&\"a\"",
        "select N'a'",
        "select B'1'",
        "select X'f'",
        "select $$a$$",
        "select a$1 from t",
        "select 'a'\n'b'",
        "select 'a' 'b'",
        "select 1.5",
        "select .5",
        "select 1e5",
        "select 0x1f",
        "select 1_000",
        "select 1a",
        "select 1234567890",
        "select \u{a0}1",
        "select ü",
        "select 'open",
        "select \"open",
        "select \"a\"\"",
        "select \"a\"1",
        "select 'a'1",
        "select 1'a'",
        "select a @ 1",
        "select a & 1",
        "select a ? 'b'",
        "select 1\u{b}",
        "select 1\u{c}",
        "select 'a\nb'",
        "select '\u{1}'",
        "\u{1}\u{0}",
    ] {
        assert_eq!(key(text), None, "{text:?}");
    }
    assert_eq!(key(&format!("select {}1", "1,".repeat(MAX_LITERALS))), None);
    assert!(key(&format!("select {}1", "1,".repeat(MAX_LITERALS - 1))).is_some());
}

/// The template of a text, when it has one.
fn template(text: &str, state: &SessionState) -> Option<(Shape, Template)> {
    let mut shape = Shape::default();
    if !shape.read(text) {
        return None;
    }
    let script = Inspector.script(text, state, None);
    let template = Inspector.template(text, &shape, &script, state, None)?;
    Some((shape, template))
}

#[test]
fn only_what_is_compared_with_a_column_is_free() {
    for (text, free) in [
        ("select a from t where id = 1", 1),
        ("select a from t where 1 = id", 1),
        ("select a from t where id in (1, 2, 3) and n = 'x'", 4),
        ("select a from t where id between 1 and 2", 2),
        ("select a from t join u on t.a = u.b and u.c = 3", 1),
        ("update t set a = 1 where id = 2", 1),
        ("delete from t where id = 2", 1),
        ("select a from t where exists (select 1 from u where u.c = 'x')", 1),
        // Elsewhere they may mean anything: places, limits, truth, names, text to run.
        ("select a from t order by 1", 0),
        ("select a, count(*) from t group by 1", 0),
        ("select a from t limit 5 offset 2", 0),
        ("select a from t where 1 = 1", 0),
        ("select a from t where 1", 0),
        ("select a from t where id = 1 or id <> 2", 0),
        ("select a from t where not (id = 1)", 0),
        ("select a from t where id + 1 = 2", 0),
        ("select a from t where f(1) = 2", 0),
        ("select a from t where id = f('x')", 0),
        ("select a from t where id = 'x'::regclass", 0),
        ("select a from t where id = date '2020-01-01'", 0),
        ("select a from t where id = -5", 0),
        ("select a from t where id operator(pg_catalog.=) 1", 0),
        ("select a from t where id like 'x'", 0),
        ("select nextval('s')", 0),
        ("select set_config('a.b', 'x', false)", 0),
        ("insert into t values (1, 'x')", 0),
    ] {
        let state = SessionState::default();
        let open = template(text, &state)
            .map_or(0, |(shape, template)| shape.literals.len() - template.pinned.len());
        assert_eq!(open, free, "{text}");
    }
}

#[test]
fn what_moves_the_session_or_is_not_one_plain_statement_has_no_template() {
    for text in [
        "begin",
        "set search_path = 'a'",
        "prepare p as select a from t where id = 1",
        "declare c cursor for select a from t where id = 1",
        "execute p(1)",
        "explain select a from t where id = 1",
        "select a from t where id = 1; select a from t where id = 2",
        "create table u as select a from t where id = 1",
        "copy (select a from t where id = 1) to stdout",
        "select set_config('search_path', 'evil', false) from t where id = 1",
        "call f(1)",
        "do 'begin end'",
        "",
        "nonsense = 1",
    ] {
        assert!(template(text, &SessionState::default()).is_none(), "{text}");
    }
}

/// Replaces literals by number.
fn mutated(text: &str, shape: &Shape, choose: &dyn Fn(usize) -> Option<String>) -> String {
    let (mut out, mut copied) = (String::new(), 0);
    for (number, literal) in shape.literals.iter().enumerate() {
        if let Some(value) = choose(number) {
            out.push_str(&text[copied..literal.at.start]);
            out.push_str(&value);
            copied = literal.at.end;
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// A hit gives exactly what a miss gives, or there is no hit. Answers whether there was one.
fn agrees(text: &str, other: &str, state: &SessionState) -> bool {
    let Some((shape, template)) = template(text, state) else { return false };
    let mut theirs = Shape::default();
    if !theirs.read(other) || theirs.key() != shape.key() {
        return false;
    }
    let Some(hit) = template.fill(other, &theirs) else { return false };
    let miss = Inspector.script(other, state, None);
    assert_eq!(format!("{:?}", [hit]), format!("{:?}", miss.statements), "\n  {text}\n  {other}");
    true
}

fn corpus() -> Vec<String> {
    let fixtures = STATEMENTS.lines().chain(ADVERSARIAL.lines()).filter_map(|line| {
        serde_json::from_str::<serde_json::Value>(line).ok()?.get("sql")?.as_str().map(str::to_owned)
    });
    let filled = FRAMES.iter().flat_map(|frame| {
        let fill = |quote: &str| {
            let pieces = frame.split("{}").enumerate();
            let written = pieces.map(|(number, piece)| match number {
                0 => piece.to_owned(),
                _ => format!("{quote}{number}{quote}{piece}"),
            });
            written.collect::<String>()
        };
        [fill(""), fill("'")]
    });
    fixtures.chain(filled).collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn a_template_gives_what_inspecting_gives_over_real_and_hostile_texts() {
    let _ = jsonl::answer("{}", None);
    let mut hits = 0;
    for (number, text) in corpus().iter().enumerate() {
        let mut shape = Shape::default();
        if !shape.read(text) || shape.literals.is_empty() {
            continue;
        }
        for round in 0..6 {
            let other = mutated(text, &shape, &|literal| {
                let turn = number * 31 + round * 7 + literal * 3;
                (turn % 5 != 0).then(|| VALUES[turn % VALUES.len()].to_owned())
            });
            hits += usize::from(agrees(text, &other, &SessionState::default()));
            // All of one kind, so that the key often stays the same.
            let other = mutated(text, &shape, &|literal| match shape.literals[literal].kind {
                Kind::Integer => Some((round * 1000 + literal).to_string()),
                Kind::Text => Some(format!("'v{round}{literal}'")),
            });
            hits += usize::from(agrees(text, &other, &SessionState::default()));
        }
    }
    assert!(hits > 100, "{hits} hits are no test");
}

const FRAMES: [&str; 14] = [
    "SELECT a FROM t WHERE id = {}",
    "SELECT a FROM t WHERE id = {} AND n = {}",
    "SELECT a FROM t WHERE id = {} OR id <> {}",
    "SELECT a FROM t WHERE id IN ({}, {}) AND NOT (n = {})",
    "SELECT a FROM t WHERE id BETWEEN {} AND {} ORDER BY {} LIMIT {}",
    "SELECT {} FROM t WHERE {} = {}",
    "SELECT a, {} FROM t WHERE b = {} GROUP BY {}, a HAVING a > {}",
    "UPDATE t SET a = {} WHERE id = {} AND id <> {}",
    "DELETE FROM t WHERE id = {} AND {} = {}",
    "INSERT INTO t SELECT b, {} FROM u WHERE c >= {}",
    "WITH x AS (SELECT a FROM t WHERE b = {}) SELECT a FROM x WHERE a < {}",
    "SELECT nextval({}), set_config({}, {}, false) FROM t WHERE id = {}",
    "SELECT a FROM t WHERE id = {}::regclass AND b = {}",
    "SELECT CASE WHEN a = {} THEN b ELSE {} END FROM t WHERE c = (SELECT max(d) FROM u WHERE e = {})",
];

proptest! {
    #[test]
    fn a_hit_gives_what_a_miss_gives(
        frame in select(&FRAMES[..]),
        first in prop::collection::vec(select(&VALUES[..]), 4),
        second in prop::collection::vec(select(&VALUES[..]), 4),
        scs in prop::option::of(any::<bool>()),
        strange in any::<bool>(),
    ) {
        let fill = |values: &[&str]| {
            let mut values = values.iter();
            frame.split("{}").enumerate().fold(String::new(), |text, (index, piece)| match index {
                0 => piece.to_owned(),
                _ => text + values.next().unwrap() + piece,
            })
        };
        let mut state = SessionState::default();
        state.standard_conforming_strings = scs;
        if strange {
            state.search_path = crate::sql::SearchPath::Unknown;
        }
        let (text, other) = (fill(&first), fill(&second));
        agrees(&text, &text, &state);
        agrees(&text, &other, &state);
    }

    #[test]
    fn no_bytes_make_it_panic(text in ".{0,60}") {
        agrees(&text, &text, &SessionState::default());
    }
}
