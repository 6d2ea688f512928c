//! How long the worst texts take, by their length. What takes more than its share the longer it is could stall a session
//! and the lane that it is on. Bounds are wide, since the machine may be busy: they catch what grows with the square.
//! `cargo xtask fuzz stall` tries texts of the full length and prints the table.

use super::{Inspector, MAX_TEXT_BYTES, SessionState, catalogue::CatalogueSnapshot};
use lockgate_model::sql::SqlClass;
use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

/// A proxy's lane has at least as deep a stack.
const STACK: usize = 2 << 20;

/// The longer texts.
const LONG: usize = 128 * 1024;
/// The shorter ones: an eighth.
const EIGHTH: usize = 8;

/// What a KiB of the longer text may take more than one of the shorter: with the square it would be eight times as much.
const GROWTH: f64 = 4.0;
/// What a KiB may take at most, without optimisation and on a busy machine.
const MOST_PER_KIB: Duration = Duration::from_millis(if cfg!(debug_assertions) { 60 } else { 10 });
/// Below it a measurement is noise.
const NOISE: Duration = Duration::from_millis(200);

fn repeated(head: &str, piece: &str, tail: &str, bytes: usize) -> String {
    format!("{head}{}{tail}", piece.repeat(bytes / piece.len()))
}

fn nested(head: &str, open: &str, inner: &str, close: &str, tail: &str, bytes: usize) -> String {
    let times = bytes / (open.len() + close.len());
    format!("{head}{}{inner}{}{tail}", open.repeat(times), close.repeat(times))
}

/// With the number of each piece written into it.
fn numbered(head: &str, tail: &str, bytes: usize, piece: impl Fn(usize) -> String) -> String {
    let mut text = head.to_owned();
    let mut number = 0;
    while text.len() < bytes {
        text.push_str(&piece(number));
        number += 1;
    }
    text + tail
}

type Make = Box<dyn Fn(usize) -> String + Send + Sync>;

fn texts() -> Vec<(&'static str, Make)> {
    fn of(make: impl Fn(usize) -> String + Send + Sync + 'static) -> Make {
        Box::new(make)
    }
    vec![
        ("brackets", of(|n| nested("select ", "(", "1", ")", "", n))),
        ("open brackets", of(|n| repeated("select ", "(", "", n))),
        ("arrays", of(|n| nested("select ", "array[", "1", "]", "", n))),
        ("subscripts", of(|n| repeated("select a", "[1]", "", n))),
        ("calls", of(|n| nested("select ", "lower(", "'a'", ")", "", n))),
        ("CASE in CASE", of(|n| nested("select ", "case when true then ", "1", " end", "", n))),
        ("branches of CASE", of(|n| repeated("select case ", "when a = 1 then 2 ", " end from t", n))),
        ("NOT", of(|n| repeated("select ", "not ", "true", n))),
        ("minus", of(|n| repeated("select ", "- ", "1", n))),
        ("||", of(|n| repeated("select 'a'", " || 'a'", "", n))),
        ("plus", of(|n| repeated("select 1", "+1", "", n))),
        ("AND", of(|n| repeated("select 1 from t where a = 1", " and a = 1", "", n))),
        ("OR", of(|n| repeated("delete from t where a = 1", " or a = 1", "", n))),
        ("IN", of(|n| repeated("select 1 from t where a in (1", ",1", ")", n))),
        ("casts", of(|n| repeated("select 1", "::int", "", n))),
        ("fields", of(|n| repeated("select (a)", ".a", "", n))),
        ("collations", of(|n| repeated("select a", " collate \"C\"", "", n))),
        ("UNION ALL", of(|n| repeated("select 1", " union all select 1", "", n))),
        ("UNION in brackets", of(|n| nested("", "(select 1 union ", "select 1", ")", "", n))),
        ("JOIN", of(|n| numbered("select 1 from t", "", n, |i| format!(" join t t{i} on true")))),
        ("FROM", of(|n| numbered("select 1 from t", "", n, |i| format!(", t t{i}")))),
        ("columns", of(|n| numbered("select 1", " from t", n, |i| format!(", t.c{i}")))),
        (
            "columns of many tables",
            of(|n| {
                let from = numbered("", "", n / 2, |i| format!("{}t t{i}", if i == 0 { "" } else { ", " }));
                numbered("select 1", &format!(" from {from}"), n / 2, |i| format!(", t{i}.a"))
            }),
        ),
        (
            "WITH",
            of(|n| {
                numbered("with w as (select 1)", " select 1", n, |i| {
                    format!(", w{i} as (select * from w{})", i / 2)
                })
            }),
        ),
        ("WITH in WITH", of(|n| nested("", "with w as (", "select 1", ") select * from w", "", n))),
        ("subqueries", of(|n| nested("select * from ", "(select * from ", "t", ") s", "", n))),
        ("EXISTS", of(|n| nested("select ", "exists(select ", "1", ")", "", n))),
        ("VALUES", of(|n| repeated("insert into t values (1)", ",(1,'a',null)", "", n))),
        ("arguments", of(|n| repeated("select concat('a'", ",'a'", ")", n))),
        ("statements", of(|n| repeated("select 1", ";select 1", "", n.min(80_000)))),
        ("semicolons", of(|n| repeated("", ";", "", n))),
        ("tables made", of(|n| numbered("", "", n, |i| format!("create table x{i} (a int);")))),
        (
            "functions made",
            of(|n| {
                numbered("", "", n, |i| {
                    format!("create function x{i}() returns int language sql as 'select 1';")
                })
            }),
        ),
        ("cursors", of(|n| numbered("", "", n, |i| format!("declare c{i} cursor for select 1;")))),
        ("prepared", of(|n| numbered("", "", n, |i| format!("prepare p{i} as select 1;execute p{i};")))),
        ("settings", of(|n| repeated("", "set search_path = a, b;", "", n))),
        ("set_config", of(|n| repeated("select 1", ",set_config('a.b','c',true)", "", n))),
        ("EXPLAIN", of(|n| repeated("", "explain ", "select 1", n))),
        ("a name", of(|n| repeated("select ", "a", "", n))),
        ("a quoted name", of(|n| repeated("select \"", "a\"\"", "\"", n))),
        ("a string", of(|n| repeated("select '", "a''", "'", n))),
        ("a string with backslashes", of(|n| repeated("select '", r"\\a", "'", n))),
        ("an escape string", of(|n| repeated("select E'", r"\'\\\n\x41\u0041", "'", n))),
        ("strings on lines", of(|n| repeated("select 'a'", "\n'a'", "", n))),
        ("dollar quotes", of(|n| numbered("select 1", "", n, |i| format!(",$a{i}$x$a{}$y$a{i}$", i + 1)))),
        ("an open dollar quote", of(|n| numbered("select $a$", "", n, |i| format!("$b{i}$")))),
        ("dollars", of(|n| repeated("select ", "$", "", n))),
        ("Unicode escapes", of(|n| repeated("select U&'", r"\0041", "'", n))),
        ("comments in comments", of(|n| nested("select 1 ", "/*", "x", "*/", "", n))),
        ("open comments", of(|n| repeated("select 1 ", "/*", "", n))),
        ("comments", of(|n| repeated("select ", "/**/", "1", n))),
        ("comment lines", of(|n| repeated("select ", "--\n", "1", n))),
        ("operators", of(|n| repeated("select 1 ", "+-", "1", n))),
        ("short operators", of(|n| repeated("select 1", " <-> 1", "", n))),
        ("numbers", of(|n| repeated("select ", "1", "", n))),
        ("parameters", of(|n| numbered("select 1", "", n, |i| format!(",${}", i % 60_000 + 1)))),
        (
            "a JSON path",
            of(|n| format!("select jsonb_path_query('{{}}', '$.{}')", repeated("a", ".a", "", n))),
        ),
        (
            "JSON_TABLE",
            of(|n| {
                nested(
                    "select 1 from json_table('{}', '$' columns (",
                    "nested path '$.a' columns (",
                    "a int",
                    ")",
                    "))",
                    n,
                )
            }),
        ),
        ("arrows", of(|n| repeated("select a", "->'a'", " from t", n))),
        ("XML", of(|n| nested("select ", "xmlelement(name a, ", "1", ")", "", n))),
        ("GROUPING SETS", of(|n| nested("select 1 from t group by ", "grouping sets (", "a", ")", "", n))),
        (
            "windows",
            of(|n| {
                numbered("select 1 from t window w as ()", "", n, |i| format!(", w{i} as (partition by a)"))
            }),
        ),
        ("GRANT", of(|n| numbered("grant select on t", " to a", n, |i| format!(", t{i}")))),
        ("DROP", of(|n| numbered("drop table t", "", n, |i| format!(", t{i}")))),
        (
            "columns of a table",
            of(|n| numbered("create table t (a int", ")", n, |i| format!(", c{i} int default 1"))),
        ),
        (
            "SET of UPDATE",
            of(|n| numbered("update t set a = 1", " where a = 1", n, |i| format!(", c{i} = 1"))),
        ),
        (
            "WHEN of MERGE",
            of(|n| repeated("merge into t using u on true ", "when matched and a = 1 then delete ", "", n)),
        ),
        ("calls that run texts", of(|n| repeated("select run('select 1')", ",run('select 1')", "", n))),
        (
            "texts that run texts",
            of(|n| {
                let mut text = "select 1".to_owned();
                while text.len() * 2 < n.min(64 * 1024) {
                    text = format!("select run('{}')", text.replace('\'', "''"));
                }
                text
            }),
        ),
        ("statements that run texts", of(|n| repeated("select 1", ";select run('select 1')", "", n))),
        ("format()", of(|n| format!("select run(format('{}', 'a'))", "%1$s".repeat(n / 4)))),
        ("|| that makes a text", of(|n| repeated("select run('select 1'", " || ' '", ")", n))),
        ("format() in format()", of(|n| nested("select run(", "format('%s%1$s', ", "'a'", ")", ")", n))),
        ("not UTF-8's first", of(|n| repeated("select '", "\u{1F600}\u{00a0}", "'", n))),
    ]
}

fn catalogue() -> CatalogueSnapshot {
    use super::catalogue::{Argument, CatalogueParts, Code, Routine};
    let routine = Routine {
        oid: 20_000,
        schema: "public".into(),
        name: "run".into(),
        kind: 'f',
        language: "plpgsql".into(),
        body: format!("begin execute format('%s', q); {} end", "perform 1; ".repeat(500)),
        arguments: vec![Argument { name: "q".into(), mode: 'i', type_oid: 25 }],
        ..Routine::default()
    };
    CatalogueSnapshot::new(CatalogueParts {
        functions: ["run".to_owned()].into(),
        objects: Code { routines: vec![routine], ..Code::default() },
        ..CatalogueParts::default()
    })
}

#[allow(clippy::disallowed_methods, reason = "it measures time")]
/// The best of some runs, each on a small stack, and what the text is.
fn time(text: &str, catalogue: &CatalogueSnapshot) -> (Duration, SqlClass) {
    let once = || {
        thread::scope(|scope| {
            let run = || {
                let began = Instant::now();
                let script = Inspector.script(text, &SessionState::default(), Some(catalogue));
                (began.elapsed(), script.class())
            };
            let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run).expect("a thread");
            thread.join().expect("no panic")
        })
    };
    let mut best = once();
    for _ in 0..2 {
        if best.0 > NOISE {
            let again = once();
            best.0 = best.0.min(again.0);
        }
    }
    best
}

#[allow(clippy::disallowed_methods, reason = "how long the texts are is set from outside")]
#[test]
fn no_text_takes_more_than_its_share() {
    let long: usize =
        std::env::var("LOCKGATE_STALL_BYTES").map_or(LONG, |bytes| bytes.parse().expect("bytes"));
    assert!(long <= MAX_TEXT_BYTES);
    let catalogue = catalogue();
    let (mut table, mut wrong) = (Vec::new(), Vec::new());
    for (name, make) in texts() {
        let (short, long) = (make(long / EIGHTH), make(long));
        let kib = |text: &str| (text.len() as f64 / 1024.0).max(1.0);
        let (of_short, _) = time(&short, &catalogue);
        let (of_long, class) = time(&long, &catalogue);
        let per_kib = |time: Duration, text: &str| time.as_secs_f64() / kib(text);
        let growth = per_kib(of_long, &long) / per_kib(of_short, &short);
        if of_long > NOISE && (growth > GROWTH || per_kib(of_long, &long) > MOST_PER_KIB.as_secs_f64()) {
            wrong.push(name);
        }
        table.push((per_kib(of_long, &long), name, of_long, growth, class));
    }
    table.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut shown = String::new();
    for (per_kib, name, all, growth, class) in &table {
        writeln!(
            shown,
            "{:8.1} µs/KiB {:8.1} ms in all, ×{growth:.1} on eight times the length, {class}: {name}",
            per_kib * 1e6,
            all.as_secs_f64() * 1e3
        )
        .expect("a string");
    }
    println!("{shown}");
    assert!(wrong.is_empty(), "{wrong:?} take more than their share:\n{shown}");
}
