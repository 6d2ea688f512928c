//! The corpora of `tests/fixtures/sql`, bombs, and properties.

use super::{Inspector, MAX_TEXT_BYTES, Script, SessionState, jsonl};
use lockgate_model::sql::{RelationName, Risk, SqlClass, SqlEffect};
use proptest::prelude::*;
use serde::Deserialize;
use std::{collections::BTreeMap, thread};

/// What a server's worker threads have by default; the harness's own threads have as much.
const SMALL_STACK: usize = 2 << 20;

const STATEMENTS: &str = include_str!("../../../../tests/fixtures/sql/statements.jsonl");
const ADVERSARIAL: &str = include_str!("../../../../tests/fixtures/sql/adversarial.jsonl");

fn inspect(sql: &str) -> Script {
    Inspector.script(sql, &SessionState::default(), None)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    sql: String,
    class: SqlClass,
    kind: String,
    bounded: Option<bool>,
    tables_read: Vec<RelationName>,
    tables_written: Vec<RelationName>,
}

#[test]
fn every_statement_of_the_corpus_is_what_it_should_be() {
    assert!(STATEMENTS.lines().count() >= 300);
    for line in STATEMENTS.lines() {
        let expected: Expected = serde_json::from_str(line).expect(line);
        let script = inspect(&expected.sql);
        let [statement] = script.statements.as_slice() else {
            panic!("{}: {:?}", expected.sql, script.statements)
        };
        let facts = statement.sql();
        let got =
            (facts.class, facts.kind.as_str(), facts.bounded, &facts.tables_read, &facts.tables_written);
        let want = (
            expected.class,
            expected.kind.as_str(),
            expected.bounded,
            &expected.tables_read,
            &expected.tables_written,
        );
        assert_eq!(got, want, "{}", expected.sql);
        assert_eq!(&*statement.text, expected.sql.trim_end_matches(';'), "the exact text is kept");
        assert_eq!(facts.class == SqlClass::Opaque, facts.opaque_reason.is_some(), "{}", expected.sql);
        assert!(
            !facts.fingerprint.is_empty() && facts.fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit())
        );
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attack {
    sql: String,
    class: SqlClass,
    #[serde(default)]
    statements: Option<usize>,
    #[serde(default)]
    pre: Vec<String>,
    #[serde(default)]
    startup: BTreeMap<String, String>,
    #[serde(default)]
    columns: Option<Vec<String>>,
    #[serde(default)]
    tables_read: Option<Vec<String>>,
    #[serde(default)]
    tables_written: Option<Vec<String>>,
    #[serde(default)]
    bounded: Option<bool>,
    #[serde(default)]
    kinds: Option<Vec<String>>,
    #[serde(default)]
    strict: Option<SqlClass>,
}

#[test]
fn texts_that_fool_parsers_are_read_as_the_server_reads_them() {
    for line in ADVERSARIAL.lines() {
        let attack: Attack = serde_json::from_str(line).expect(line);
        let input = serde_json::json!({ "sql": attack.sql, "pre": attack.pre, "startup": attack.startup });
        let answer: serde_json::Value =
            serde_json::from_str(&jsonl::answer(&input.to_string(), None)).expect("one JSON object");
        let short: String = line.chars().take(200).collect();
        assert_eq!(answer["class"], serde_json::json!(attack.class), "{short}");
        let statements = answer["statements"].as_array().expect("an array");
        if let Some(count) = attack.statements {
            assert_eq!(statements.len(), count, "{short}");
        }
        for (field, expected) in [
            ("columns", attack.columns.map(|all| serde_json::json!(all))),
            ("tables_read", attack.tables_read.map(|all| serde_json::json!(all))),
            ("tables_written", attack.tables_written.map(|all| serde_json::json!(all))),
            ("bounded", attack.bounded.map(|all| serde_json::json!(all))),
        ] {
            if let Some(expected) = expected {
                assert_eq!(statements[0][field], expected, "{field} of {short}");
            }
        }
        if let Some(kinds) = attack.kinds {
            let got: Vec<&str> =
                statements.iter().filter_map(|statement| statement["kind"].as_str()).collect();
            assert_eq!(got, kinds, "{short}");
        }
        if let Some(class) = attack.strict {
            assert!(
                statements.iter().any(|statement| statement["class"] == serde_json::json!(class)),
                "{short}"
            );
        }
    }
}

#[test]
fn a_laxer_second_opinion_is_recorded_and_changes_nothing() {
    for (sql, class, other) in [
        ("select 1 ||-- '\n 2; delete from t; --'", SqlClass::Write, SqlClass::Read),
        ("select 1 end; drop table t", SqlClass::Ddl, SqlClass::Read),
        ("select into x from y", SqlClass::Ddl, SqlClass::Read),
        ("select for update", SqlClass::Write, SqlClass::Read),
        ("select x &>pg_terminate_backend(1) from t", SqlClass::Admin, SqlClass::Write),
    ] {
        let script = inspect(sql);
        assert_eq!(script.class(), class, "{sql}");
        let heard = script.statements.iter().any(|statement| statement.sql().second_opinion == Some(other));
        assert!(heard, "{sql}: {:?}", script.statements.iter().map(|s| s.sql()).collect::<Vec<_>>());
    }
}

#[test]
fn the_second_opinion_agrees_on_everyday_statements() {
    for line in STATEMENTS.lines() {
        let expected: Expected = serde_json::from_str(line).expect(line);
        let strange = ["select into x from y", "select for update"];
        let is_everyday = !strange.contains(&expected.sql.as_str());
        let opinion =
            inspect(&expected.sql).statements.first().and_then(|statement| statement.sql().second_opinion);
        assert_eq!(opinion.is_none(), is_everyday, "{}: {opinion:?}", expected.sql);
    }
}

#[test]
fn risk_follows_what_could_be_lost() {
    for (sql, risk) in [
        ("SELECT * FROM t", Risk::Low),
        ("BEGIN", Risk::Low),
        ("SET work_mem = 1", Risk::Low),
        ("INSERT INTO t VALUES (1)", Risk::Medium),
        ("UPDATE t SET a = 1 WHERE id = 1", Risk::Medium),
        ("DELETE FROM t WHERE id = 1", Risk::Medium),
        ("COPY t TO STDOUT", Risk::Medium),
        ("SELECT my_function(1)", Risk::Medium),
        ("SELECT * FROM t FOR UPDATE", Risk::Medium),
        ("UPDATE t SET a = 1", Risk::High),
        ("CREATE TABLE t (a int)", Risk::High),
        ("ALTER TABLE t ADD COLUMN a int", Risk::High),
        ("CALL p()", Risk::High),
        ("SET ROLE bob", Risk::High),
        ("SET search_path = evil", Risk::High),
        ("DELETE FROM t", Risk::Critical),
        ("TRUNCATE t", Risk::Critical),
        ("DROP TABLE t", Risk::Critical),
        ("ALTER TABLE t DROP COLUMN a", Risk::Critical),
        ("ALTER TABLE t OWNER TO bob", Risk::Critical),
        ("GRANT a TO b", Risk::Critical),
        ("COPY t TO PROGRAM 'x'", Risk::Critical),
        ("not sql", Risk::Critical),
    ] {
        assert_eq!(inspect(sql).statements[0].sql().risk, risk, "{sql}");
    }
}

#[test]
fn effects_say_what_a_statement_does_besides() {
    use SqlEffect::*;
    for (sql, effects) in [
        ("SELECT 1", vec![]),
        ("DELETE FROM t", vec![WritesRows]),
        ("CREATE TABLE t (a int)", vec![ChangesSchema]),
        ("SELECT * FROM t FOR UPDATE", vec![Locks]),
        ("LOCK t", vec![Locks]),
        ("SELECT f()", vec![UnknownFunction]),
        ("COPY t TO '/x'", vec![ServerFile, Exports]),
        ("COPY t FROM STDIN", vec![WritesRows, Imports]),
        ("SET ROLE bob", vec![SetsRole]),
        ("SET SESSION AUTHORIZATION bob", vec![SetsRole]),
        ("SET search_path = a", vec![ChangesMeaning]),
        ("SET standard_conforming_strings = off", vec![ChangesMeaning]),
        ("SET NAMES 'GBK'", vec![ChangesMeaning]),
        ("DO 'begin end'", vec![UnknownFunction, DynamicSql]),
        ("SELECT query_to_xml('x', true, true, '')", vec![UnknownFunction, DynamicSql]),
        ("GRANT a TO b", vec![ChangesPrivileges]),
        ("NOTIFY a", vec![Notifies]),
        ("EXPLAIN DELETE FROM t", vec![]),
    ] {
        let script = inspect(sql);
        let got: Vec<SqlEffect> = script.statements[0].sql().effects.iter().copied().collect();
        assert_eq!(got, effects, "{sql}");
    }
}

#[test]
fn normalized_texts_hold_no_literal_and_no_comment() {
    for (sql, expected) in [
        ("SELECT * FROM t WHERE a = 'secret' AND b = 5", "SELECT * FROM t WHERE a = $1 AND b = $2"),
        ("SELECT $1, 'secret'", "SELECT $1, $2"),
        (
            "SELECT 1.5e3, B'1', X'ff', E'a\\'secret', U&'secret', $$secret$$, $x$secret$x$",
            "SELECT $1, $2, $3, $4, $5, $6, $7",
        ),
        ("SELECT 'sec'\n'ret' -- secret\n/* secret */", "SELECT $1"),
        ("ALTER ROLE a PASSWORD 'secret'", "ALTER ROLE a PASSWORD $1"),
        ("DO $$ secret $$", "DO $1"),
        ("SELEC 'secret'", "opaque (text withheld: its literals cannot be told from its words)"),
    ] {
        let mut state = SessionState::default();
        state.standard_conforming_strings = Some(true);
        let script = Inspector.script(sql, &state, None);
        assert_eq!(&*script.statements[0].normalized, expected, "{sql}");
    }
    let mut state = SessionState::default();
    state.standard_conforming_strings = Some(false);
    let script = Inspector.script("select 'a\\'secret'", &state, None);
    assert!(
        !script.statements[0].normalized.contains("secret"),
        "the other reading of backslashes is not guessed at"
    );
}

#[test]
fn fingerprints_differ_only_with_the_shape() {
    let fingerprint = |sql: &str| inspect(sql).statements[0].sql().fingerprint.clone();
    assert_eq!(fingerprint("SELECT * FROM t WHERE a = 1"), fingerprint("select  * from t where a = 'x'"));
    for other in [
        "SELECT * FROM u WHERE a = 1",
        "SELECT * FROM s.t WHERE a = 1",
        "SELECT * FROM t22 WHERE a = 1",
        "SELECT 1",
    ] {
        assert_ne!(fingerprint("SELECT * FROM t WHERE a = 1"), fingerprint(other), "{other}");
    }
    assert_ne!(fingerprint("SELECT * FROM t11"), fingerprint("SELECT * FROM t22"));
    assert_ne!(fingerprint("DELETE FROM a AS x"), fingerprint("DELETE FROM b AS x"));
}

#[test]
fn split_statements_keep_their_own_texts() {
    let script = inspect("select 1;  delete from t where a = ';' ; /* c */ select 'ž'; ");
    let texts: Vec<&str> = script.statements.iter().map(|statement| &*statement.text).collect();
    assert_eq!(texts, ["select 1", "delete from t where a = ';'", "select 'ž'"]);
}

#[test]
fn one_answer_per_line_whatever_the_line_is() {
    for (line, class, error) in [
        ("\"select 1\"", "read", false),
        ("\"\"", "read", false),
        ("{\"sql\": \"delete from t\"}", "write", false),
        ("{\"sql\": \"select 1\", \"pre\": [\"garbage\"], \"startup\": {\"user\": \"x\"}}", "read", false),
        ("\"garbage here\"", "opaque", false),
        ("", "opaque", true),
        ("select 1", "opaque", true),
        ("5", "opaque", true),
        ("[]", "opaque", true),
        ("{\"query\": \"select 1\"}", "opaque", true),
        ("{\"sql\": 5}", "opaque", true),
    ] {
        let text = jsonl::answer(line, None);
        assert!(!text.contains('\n'), "{text}");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(answer["class"], class, "{line}");
        assert_eq!(answer.get("error").is_some(), error, "{line}");
        assert!(answer["statements"].is_array(), "{line}");
    }
}

/// Each is repeated until the text has this many bytes, on a small stack: the answer may be opaque, but must come.
#[test]
fn no_text_aborts_the_process() {
    let repeated: [(&str, &str, &str); 26] = [
        ("select 1", "-1", ""),
        ("select 'a'", "||'a'", ""),
        ("select 1 where true", " and a=1", ""),
        ("select 1", " union select 1", ""),
        ("select ", "not ", "true"),
        ("select ", "- ", "1"),
        ("select ", "@ ", "1"),
        ("select ", "(", "1"),
        ("select ", "case when ", "1"),
        ("select * from a", " cross join b", ""),
        ("insert into t values (1)", ",(1,'abc')", ""),
        ("select 1", "::int", ""),
        ("select ", "a[", "1"),
        ("select a", ".a", ""),
        ("select a", " collate \"C\"", ""),
        ("select a", " is null", ""),
        ("", "with a as (", "select 1"),
        ("select ", "exists(select ", "1"),
        ("", "explain ", "select 1"),
        ("select ", "/*", ""),
        ("select ", "/**/", "1"),
        ("select ", "+", "1"),
        ("", ";", ""),
        ("select '", "\\", "'"),
        ("select $a$", "$b$", ""),
        ("select * from ", "(", "t"),
    ];
    for (head, piece, tail) in repeated {
        for size in [600, 4_000, 70_000] {
            let text = format!("{head}{}{tail}", piece.repeat(size / piece.len()));
            let done = thread::Builder::new().stack_size(SMALL_STACK).spawn(move || inspect(&text).class());
            let class = done.expect("a thread").join().expect("no panic");
            assert!(matches!(class, SqlClass::Read | SqlClass::Write | SqlClass::Opaque), "{piece}");
        }
    }
}

#[test]
fn a_text_is_inspected_up_to_its_bound_and_opaque_beyond() {
    let padded = |size: usize| format!("select 1 {}", " ".repeat(size - "select 1 ".len()));
    assert_eq!(inspect(&padded(MAX_TEXT_BYTES)).class(), SqlClass::Read);
    assert_eq!(inspect(&padded(MAX_TEXT_BYTES + 1)).class(), SqlClass::Opaque);
}

fn fragments() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "select",
        "insert into",
        "update",
        "delete",
        "from",
        "where",
        "t",
        "a.b",
        "*",
        "(",
        ")",
        ",",
        ";",
        "'a'",
        "'",
        "\"",
        "\\",
        "$$",
        "$1",
        "--",
        "/*",
        "*/",
        "\n",
        "||",
        "::int",
        "union",
        "all",
        "with",
        "as",
        "set",
        "=",
        "1",
        "and",
        "not",
        "exists",
        "copy",
        "to stdout",
        "explain analyze",
        "prepare p as",
        "execute p",
        "lower(",
        "nextval(",
        "for update",
        "into",
        "case when",
        "then",
        "end",
        "array[",
        "]",
        "merge into",
        "using",
        "on",
        "values",
        "returning",
        "E'\\",
        "U&\"",
        "\u{00a0}",
        "\u{1F600}",
        "[",
        "limit",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_has_an_answer(text in ".*") {
        for scs in [None, Some(true), Some(false)] {
            let mut state = SessionState::default();
            state.standard_conforming_strings = scs;
            let script = Inspector.script(&text, &state, None);
            prop_assert!(script.statements.iter().all(|statement| text.contains(&*statement.text)));
        }
    }

    #[test]
    fn any_pile_of_sql_words_has_an_answer(text in fragments()) {
        let script = inspect(&text);
        for statement in &script.statements {
            let facts = statement.sql();
            prop_assert_eq!(facts.class == SqlClass::Opaque, facts.opaque_reason.is_some());
            // What writes tables is never a read.
            prop_assert!(facts.tables_written.is_empty() || facts.class.strictness() > SqlClass::Read.strictness());
        }
    }

    #[test]
    fn any_line_has_one_json_answer(line in ".*") {
        let answer = jsonl::answer(&line, None);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&answer).is_ok());
    }
}

/// Every text of the corpora that the grammar takes, and more of each kind of place where an expression can stand.
fn grammatical_texts() -> Vec<String> {
    let mut texts: Vec<String> = [STATEMENTS, ADVERSARIAL]
        .iter()
        .flat_map(|corpus| corpus.lines())
        .filter_map(|line| {
            serde_json::from_str::<serde_json::Value>(line).ok()?["sql"].as_str().map(str::to_owned)
        })
        .filter(|sql| sql.len() < 4_000)
        .collect();
    texts.extend(PLACES.iter().map(|place| place.replace('@', "public.hidden(1)")));
    texts
}

/// Places where an expression can stand, written `@`.
const PLACES: &[&str] = &[
    "select @",
    "select distinct on (@) 1",
    "select 1 from t where @",
    "select 1 from t group by @",
    "select 1 from t group by grouping sets ((@), ())",
    "select 1 from t group by rollup (@), cube (@)",
    "select 1 from t group by 1 having @",
    "select 1 from t order by @",
    "select 1 from t order by @ using <",
    "select 1 from t limit @",
    "select 1 from t offset @",
    "select 1 from t fetch first (@) rows with ties",
    "select count(*) filter (where @) from t",
    "select array_agg(a order by @) from t",
    "select percentile_cont(@) within group (order by @) from t",
    "select count(*) over (partition by @ order by @ rows between @ preceding and @ following) from t",
    "select count(*) over w from t window w as (partition by @ order by @)",
    "select 1 from @",
    "select 1 from @ with ordinality",
    "select 1 from rows from (@, @)",
    "select 1 from rows from (@ as (a int), @)",
    "select 1 from lateral (select @) s",
    "select 1 from t join u on @",
    "select 1 from t tablesample bernoulli (@)",
    "select 1 from t tablesample bernoulli (1) repeatable (@)",
    "select 1 from xmltable(@ passing @ columns a int path @ default @)",
    "select 1 from json_table(@, '$' passing @ as x columns (a int path '$' default @ on empty default @ on error))",
    "select 1 from json_table(@, '$' columns (nested path '$' columns (a int path '$' default @ on empty)))",
    "select json_value(@, '$' passing @ as x default @ on empty default @ on error)",
    "select json_query(@, '$'), json_exists(@, '$' passing @ as y)",
    "select json_object(@ : @), json_array(@, @), json_array(select @), json_objectagg(@ : @), json_arrayagg(@ order by @)",
    "select json(@), json_scalar(@), json_serialize(@), @ is json",
    "select xmlelement(name a, xmlattributes(@ as b), @), xmlforest(@ as c), xmlconcat(@), xmlparse(document @), xmlserialize(content @ as text), xmlroot(@, version @)",
    "select @ is document",
    "select case @ when @ then @ else @ end",
    "select coalesce(@, @), greatest(@, @), least(@), nullif(@, @)",
    "select @::int, cast(@ as int), int4(@)",
    "select @ in (@, @), @ between @ and @, @ like @ escape @, @ similar to @, @ is null, @ is true, not @, @ is distinct from @",
    "select @ = any (array[@]), @ = all (select @), exists (select @), array(select @), (select @)",
    "select row(@, @) = row(@, @), (@).a, (@)[@:@], array[@, [@]]",
    "select (array[1])[@]",
    "select @ collate \"C\", @ at time zone @, extract(year from @), overlay(@ placing @ from @ for @), position(@ in @), substring(@ from @ for @), trim(@ from @)",
    "select f(a => @), f(variadic @), f(a := @)",
    "values (@), (@)",
    "select 1 union select @ intersect select @ except (select @)",
    "with a as (select @) select 1",
    "with recursive a as (select 1 union all select @) select 1",
    "with recursive a as (select 1 as x union all select 1) search depth first by x set o cycle x set c using p select @",
    "with a as (insert into t values (@) returning @) select 1",
    "with a as (update t set a = @ where @ returning @) select 1",
    "with a as (delete from t using @ as u where @ returning @) select 1",
    "insert into t values (@)",
    "insert into t (a[@]) values (1)",
    "insert into t select @",
    "insert into t values (1) on conflict ((@)) where @ do update set a = @ where @ returning @",
    "insert into t values (1) returning with (old as o) @",
    "update t set a = @, (b, c) = (@, @), d[@] = 1 from @ as u where @ returning @",
    "update t set (a, b) = (select @, 1)",
    "delete from t using u where @ returning @",
    "merge into t using (select @) s on @ when matched and @ then update set a = @ when not matched and @ then insert (a) values (@) when not matched by source and @ then delete returning @",
    "explain select @",
    "explain analyze select @",
    "explain (analyze off) delete from t where @",
    "prepare p as select @",
    "prepare p (int) as delete from t where @",
    "declare c cursor for select @",
    "create table n as select @",
    "select @ into n",
    "create materialized view n as select @",
    "copy (select @) to stdout",
    "copy (delete from t where @ returning @) to stdout",
    "copy t from stdin where @",
    "call public.hidden(1)",
    "call p(@)",
    "create view v as select @",
    "create rule r as on insert to t where @ do also (insert into u values (@))",
    "create table n (a int default @, b int generated always as (@) stored, check (@))",
    "alter table t alter a type int using @",
    "alter table t alter a set default @, add check (@)",
    "create index on t ((@)) where @",
    "create policy p on t using (@) with check (@)",
    "create trigger g before insert on t for each row when (@) execute function f()",
    "create domain d as int check (@)",
    "alter domain d add check (@)",
    "create function f(a int default @) returns int language sql return @",
    "create function f() returns int language sql begin atomic select @; end",
    "create statistics s on (@), a from t",
    "create publication p for table t where (@)",
    "create table n partition of t for values in (@)",
    "create table n (a int) partition by range ((@))",
    "alter table t add exclude using gist ((@) with =) where (@)",
];

/// The lists in tree.rs are made from the crate's fields: one that is missing hides what stands there.
#[test]
fn no_function_hides_in_a_field_that_the_tree_does_not_know() {
    for text in grammatical_texts() {
        let Ok(parsed) = super::parse::parse(&text, super::parse::Reading::Standard) else { continue };
        for one in parsed {
            let printed = format!("{:?}", one.node);
            let mut seen = [0; 4];
            let mut note = |node: &pg_query::NodeEnum| match node {
                pg_query::NodeEnum::FuncCall(_) => seen[0] += 1,
                pg_query::NodeEnum::ColumnRef(_) => seen[1] += 1,
                pg_query::NodeEnum::SubLink(_) => seen[2] += 1,
                pg_query::NodeEnum::AExpr(_) => seen[3] += 1,
                _ => {}
            };
            note(&one.node);
            super::tree::descend(&one.node, &mut |node| {
                note(node);
                true
            });
            let names =
                ["FuncCall(FuncCall {", "ColumnRef(ColumnRef {", "SubLink(SubLink {", "AExpr(AExpr {"];
            let there = names.map(|name| printed.matches(name).count());
            assert_eq!(seen, there, "{text}");
        }
    }
}

/// The walk may have words of its own for a node, and must not forget a place.
#[test]
fn a_function_counts_wherever_it_stands() {
    let pieces =
        ["public.hidden(1)", "nextval('s')", "lower('a') operator(public.+#) 1", "'1'::public.guarded"];
    for place in PLACES {
        for piece in pieces {
            let text = place.replace('@', piece);
            let script = inspect(&text);
            // A bare operator or cast is no function in FROM, and so on: those texts are opaque.
            // A plan is made and not run: what is called volatile is not called.
            if place.starts_with("explain")
                && !place.starts_with("explain analyze")
                && piece.starts_with("nextval")
            {
                continue;
            }
            let later =
                place.starts_with("create ") && !place.contains(" as select") || place.starts_with("alter ");
            if script.class() == SqlClass::Opaque
                || later && !place.starts_with("create table n (a int default")
            {
                continue;
            }
            assert!(
                script.class().strictness() >= SqlClass::Write.strictness(),
                "{text}: {:?}",
                script.statements.first().map(|one| one.sql())
            );
        }
    }
}

/// What generators write, and people who have time.
#[test]
fn long_chains_are_understood() {
    for (head, piece, tail, times, class) in [
        ("select 1 where a = 1", " or a = 1", "", 20_000, SqlClass::Read),
        ("select 1 where (a = 1)", " or (a = 1 and b = 2)", "", 20_000, SqlClass::Read),
        ("select 1 where a in (1", ", 2", ")", 100_000, SqlClass::Read),
        ("select 'a'", " || 'a'", "", 300, SqlClass::Read),
        ("select * from a", " join b on a.x = b.x", "", 300, SqlClass::Read),
        ("select 1", " union all select 1", "", 300, SqlClass::Read),
        ("select 1", " union all select nextval('s')", "", 300, SqlClass::Write),
        ("select 'a'", " || public.f()", "", 300, SqlClass::Write),
        ("insert into t values (1, 'a (')", ", (1, 'a (')", "", 20_000, SqlClass::Write),
        ("select case a", " when 1 then 2", " end", 5_000, SqlClass::Read),
        ("with a as (select 1)", ", b as (select 2)", " select 1", 2_000, SqlClass::Read),
        ("select 1", ", case when a then 1 end", "", 5_000, SqlClass::Read),
        ("select f", "((((", "", 1_000, SqlClass::Opaque),
        ("select 1", "; select 1", "", 5_000, SqlClass::Read),
        ("select ", "case when a and ", "true", 50_000, SqlClass::Opaque),
    ] {
        let text = format!("{head}{}{tail}", piece.repeat(times));
        let done = thread::Builder::new().stack_size(SMALL_STACK).spawn(move || inspect(&text).class());
        assert_eq!(done.expect("a thread").join().expect("no panic"), class, "{head}{piece}");
    }
}

proptest! {
    /// The bound on a tree's depth is what keeps the process from running off a stack.
    #[test]
    fn no_tree_is_deeper_than_its_text_may_be(words in proptest::collection::vec(prop::sample::select(&[
        "select", "1", "a", "+", "-", "not", "case", "when", "then", "else", "end", "(", ")", "(select", "[", "]", ",",
        "union", "join b on", "from a", "where", "and", "or", "::int", "is null", "in (", "between", "exists(select",
        "collate \"C\"", "f(", "array[", "row(", ".x", "with a as (", "=", "||", "any (select", "over (order by",
        "cast(", "as int)", "like", "escape", "at time zone", "*", "lateral (select", ") s", "values (", "order by",
    ][..]), 1..60)) {
        let text = words.join(" ");
        let levels = super::depth::levels(&text, super::parse::Reading::Standard);
        let Ok(parsed) = super::parse::parse_with_room(&text, super::parse::Reading::Standard) else { return Ok(()) };
        for one in parsed {
            // Six messages a level, and those of a statement around them all.
            let printed = format!("{:?}", one.node);
            let (mut depth, mut deepest) = (0_usize, 0);
            for c in printed.chars() {
                match c {
                    '{' => { depth += 1; deepest = deepest.max(depth); }
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            prop_assert!(deepest <= 6 * levels + 12, "{deepest} messages in {levels} levels: {text}");
        }
    }
}
