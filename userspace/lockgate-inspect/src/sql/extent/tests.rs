//! How much comes out of which statement, and what is behind its names, on a catalogue with tables of every sort.

use crate::sql::{
    Inspector, SessionState,
    catalogue::{
        CatalogueParts, CatalogueSnapshot, FunctionCode, Relation, RelationColumn, RelationKind, TableSize,
        ViewDefinition,
    },
};
use lockgate_model::sql::{Export, Reach, RowBound};
use std::collections::HashMap;

fn relation(oid: u32, schema: &str, name: &str, kind: RelationKind, parents: &[u32]) -> Relation {
    let columns = ["id", "region", "note"].iter().zip(1..).map(|(name, attnum)| RelationColumn {
        attnum,
        name: (*name).to_owned(),
        type_oid: 25,
        generated_from: Vec::new(),
    });
    Relation {
        oid,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind,
        columns: columns.collect(),
        parents: parents.to_vec(),
        view: None,
    }
}

fn view(oid: u32, name: &str, text: &str, depends_on: &[u32]) -> Relation {
    let mut view = relation(oid, "public", name, RelationKind::View, &[]);
    view.view = Some(ViewDefinition {
        text: Some(text.to_owned()),
        depends_on: depends_on.iter().map(|oid| (*oid, 1)).collect(),
    });
    view
}

fn catalogue() -> CatalogueSnapshot {
    use RelationKind::{ForeignTable, PartitionedTable, Table};
    let sizes = [
        (1, 1_000_000, 90_000_000),
        (2, 10, 8192),
        (4, 600_000, 50_000_000),
        (5, 600_000, 50_000_000),
        (10, 5, 100),
    ];
    CatalogueSnapshot::new(CatalogueParts {
        relations: vec![
            relation(1, "public", "big", Table, &[]),
            relation(2, "public", "small", Table, &[]),
            relation(3, "public", "parted", PartitionedTable, &[]),
            relation(4, "public", "part_a", Table, &[3]),
            relation(5, "public", "part_b", Table, &[3]),
            relation(6, "public", "unmeasured", Table, &[]),
            view(7, "bigview", "SELECT big.id, big.region, big.note FROM public.big", &[1]),
            view(8, "viewview", "SELECT bigview.id, bigview.region, bigview.note FROM public.bigview", &[7]),
            relation(9, "public", "far", ForeignTable, &[]),
            relation(10, "audit", "log", Table, &[]),
            relation(11, "pg_catalog", "pg_class", Table, &[]),
        ],
        code: vec![
            FunctionCode {
                name: "peek".into(),
                language: "sql".into(),
                text: "SELECT note FROM audit.log".into(),
            },
            FunctionCode {
                name: "calls_peek".into(),
                language: "plpgsql".into(),
                text: "BEGIN RETURN peek(); END".into(),
            },
            FunctionCode {
                name: "dynamic".into(),
                language: "plpgsql".into(),
                text: "BEGIN EXECUTE x; END".into(),
            },
            FunctionCode { name: "clean".into(), language: "sql".into(), text: "SELECT 1".into() },
            FunctionCode { name: "snake".into(), language: "plpython3u".into(), text: "return 1".into() },
        ],
        functions: ["peek", "calls_peek", "dynamic", "clean", "snake"].map(str::to_owned).into(),
        triggers: HashMap::from([(2, vec!["peek".to_owned()])]),
        search_path: vec!["public".into()],
        sizes: sizes.into_iter().map(|(oid, rows, bytes)| (oid, TableSize { rows, bytes })).collect(),
        keys: HashMap::from([(1, vec![vec![1]]), (4, vec![vec![2, 1]])]),
        ..CatalogueParts::default()
    })
}

fn reach(text: &str) -> Reach {
    let mut state = SessionState::default();
    let mut last = Reach::default();
    for statement in Inspector.script(text, &state.clone(), Some(&catalogue())).statements {
        last = statement.sql().reach.clone();
        state.apply(&statement);
    }
    last
}

/// Statements of several texts, each judged in the state that the ones before left.
fn reach_after(texts: &[&str]) -> Reach {
    let catalogue = catalogue();
    let mut state = SessionState::default();
    let mut last = Reach::default();
    for text in texts {
        for statement in Inspector.script(text, &state.clone(), Some(&catalogue)).statements {
            last = statement.sql().reach.clone();
            state.apply(&statement);
        }
    }
    last
}

#[test]
fn rows_are_bounded_by_what_the_text_says_and_by_nothing_else() {
    use RowBound::{Parameter, Rows};
    for (text, expected) in [
        ("SELECT * FROM big", None),
        ("SELECT * FROM big LIMIT 10", Some(Rows(10))),
        ("SELECT * FROM big LIMIT 1000000000", Some(Rows(1_000_000_000))),
        ("SELECT * FROM big LIMIT 10000000000", Some(Rows(10_000_000_000))),
        ("SELECT * FROM big FETCH FIRST 5 ROWS ONLY", Some(Rows(5))),
        ("SELECT * FROM big ORDER BY id FETCH FIRST 5 ROWS WITH TIES", None),
        ("SELECT * FROM big LIMIT ALL", None),
        ("SELECT * FROM big LIMIT NULL", None),
        ("SELECT * FROM big LIMIT $1", Some(Parameter(1))),
        ("SELECT * FROM big LIMIT $2::int8", Some(Parameter(2))),
        ("SELECT * FROM big LIMIT 5 + 5", None),
        ("SELECT * FROM big LIMIT (SELECT 10)", None),
        ("SELECT * FROM big OFFSET 5", None),
        ("SELECT * FROM (SELECT * FROM big LIMIT 7) x", Some(Rows(7))),
        ("SELECT * FROM (SELECT * FROM big) x LIMIT 7", Some(Rows(7))),
        ("SELECT * FROM (SELECT * FROM big LIMIT 7) x, small", None),
        ("SELECT *, generate_series(1, 100) FROM (SELECT * FROM big LIMIT 7) x", None),
        ("(SELECT * FROM big LIMIT 3) UNION ALL (SELECT * FROM big LIMIT 4)", Some(Rows(7))),
        ("SELECT * FROM big UNION ALL SELECT * FROM big LIMIT 4", Some(Rows(4))),
        ("(SELECT * FROM big LIMIT 3) EXCEPT SELECT * FROM big", Some(Rows(3))),
        // One row, unless it holds many.
        ("SELECT count(*) FROM big", Some(Rows(1))),
        ("SELECT max(id), round(avg(id)) FROM big WHERE region = 'x'", Some(Rows(1))),
        ("SELECT count(*) OVER () FROM big", None),
        ("SELECT count(*) FROM big GROUP BY region", None),
        ("SELECT string_agg(note, ',') FROM big", None),
        ("SELECT string_agg(note, ',') FROM big LIMIT 1", None),
        ("SELECT count(*), array_agg(note) FROM big", None),
        ("SELECT json_agg(b) FROM big b LIMIT 1", None),
        ("SELECT ARRAY(SELECT note FROM big)", None),
        ("SELECT count(*), (SELECT string_agg(note, '') FROM big) FROM small", None),
        ("SELECT x FROM (SELECT xmlagg(note::xml) AS x FROM big) y LIMIT 1", None),
        // A key.
        ("SELECT * FROM big WHERE id = 5", Some(Rows(1))),
        ("SELECT * FROM big WHERE 5 = id AND region = 'x'", Some(Rows(1))),
        ("SELECT * FROM big WHERE id = $1", Some(Rows(1))),
        ("SELECT * FROM big WHERE id IN (1, 2, 3)", Some(Rows(3))),
        ("SELECT * FROM big WHERE id = 5 OR region = 'x'", None),
        ("SELECT * FROM big WHERE NOT id = 5", None),
        ("SELECT * FROM big WHERE id <> 5", None),
        ("SELECT * FROM big WHERE id = id", None),
        ("SELECT * FROM big WHERE id = ANY ($1)", None),
        ("SELECT * FROM big WHERE region = 'x'", None),
        ("SELECT * FROM big, small WHERE big.id = 5", None),
        ("SELECT * FROM part_a WHERE region = 'x' AND id = 4", Some(Rows(1))),
        ("SELECT * FROM part_a WHERE region = 'x'", None),
        ("COPY (SELECT * FROM big LIMIT 9) TO STDOUT", Some(Rows(9))),
        ("DECLARE c CURSOR FOR SELECT * FROM big LIMIT 9", Some(Rows(9))),
    ] {
        let got = reach(text).extent.unwrap_or_else(|| panic!("nothing comes out of {text}?"));
        assert_eq!(got.at_most, expected, "{text}");
    }
}

#[test]
fn sizes_are_those_of_the_largest_table_that_rows_come_from() {
    let known = |rows| Some(Some(rows));
    for (text, expected) in [
        ("SELECT 1", None),
        ("SELECT now(), version()", None),
        ("BEGIN", None),
        ("SELECT * FROM pg_class", None),
        ("SELECT nextval('s')", None),
        ("SELECT pg_catalog.set_config('search_path', '', false)", None),
        ("INSERT INTO big SELECT * FROM big", None),
        ("EXPLAIN SELECT * FROM big", None),
        ("PREPARE p AS SELECT * FROM big", None),
        ("CREATE TABLE x AS SELECT * FROM big", None),
        ("SELECT * FROM big", known(1_000_000)),
        ("TABLE small", known(10)),
        ("SELECT * FROM parted", known(1_200_000)),
        ("SELECT * FROM part_a", known(600_000)),
        ("SELECT * FROM bigview", known(1_000_000)),
        ("SELECT * FROM viewview", known(1_000_000)),
        ("SELECT * FROM small WHERE id IN (SELECT id FROM big)", known(10)),
        ("SELECT *, (SELECT max(id) FROM big) FROM small", known(1_000_000)),
        ("WITH x AS (SELECT * FROM big) SELECT * FROM x", known(1_000_000)),
        ("WITH big AS (SELECT * FROM small) SELECT * FROM big", known(10)),
        ("UPDATE big SET note = '' RETURNING *", known(1_000_000)),
        ("COPY big TO STDOUT", known(1_000_000)),
        ("COPY (SELECT * FROM small) TO STDOUT", known(10)),
        ("SELECT * FROM small UNION ALL SELECT * FROM big", known(1_000_000)),
        // What is not known is unknown.
        ("SELECT * FROM unmeasured", Some(None)),
        ("SELECT * FROM far", Some(None)),
        ("SELECT * FROM nowhere", Some(None)),
        ("SELECT * FROM small, unmeasured", Some(None)),
        ("SELECT peek()", Some(None)),
        ("SELECT * FROM small WHERE id = peek()", Some(None)),
        ("SELECT query_to_xml('select 1', true, true, '')", Some(None)),
        ("FETCH ALL FROM nobody_knows", Some(None)),
    ] {
        assert_eq!(reach(text).extent.map(|extent| extent.rows), expected, "{text}");
    }
    let texts = ["BEGIN", "DECLARE c CURSOR FOR SELECT * FROM big", "FETCH 10 FROM c"];
    assert_eq!(
        reach_after(&texts).extent.map(|extent| (extent.at_most, extent.rows)),
        Some((None, Some(1_000_000)))
    );
    let texts = ["PREPARE p(int) AS SELECT * FROM big LIMIT $1", "EXECUTE p(10)"];
    assert_eq!(
        reach_after(&texts).extent.map(|extent| (extent.at_most, extent.rows)),
        Some((None, Some(1_000_000)))
    );
}

#[test]
fn ways_out_are_named() {
    for (text, expected) in [
        ("COPY big TO STDOUT", vec![Export::Copy]),
        ("COPY big TO PROGRAM 'cat'", vec![Export::Copy]),
        ("COPY (SELECT 1) TO '/tmp/x'", vec![Export::Copy]),
        ("SELECT * FROM big LIMIT 1", vec![Export::Select]),
        ("DELETE FROM big RETURNING id", vec![Export::Select]),
        ("SELECT table_to_xml('big', true, true, '')", vec![Export::Select, Export::Document]),
        ("SELECT pg_catalog.database_to_xml(true, true, '')", vec![Export::Select, Export::Document]),
        ("SELECT lo_get(5)", vec![Export::Select, Export::LargeObject]),
        ("SELECT data FROM pg_largeobject", vec![Export::Select, Export::LargeObject]),
        ("COPY big FROM STDIN", vec![]),
        ("SELECT 1", vec![]),
    ] {
        assert_eq!(reach(text).exports.into_iter().collect::<Vec<_>>(), expected, "{text}");
    }
}

#[test]
fn what_is_behind_a_name_is_found_and_what_cannot_be_is_said() {
    for (text, behind, unseen) in [
        ("SELECT * FROM small", vec![], false),
        ("SELECT * FROM bigview", vec![], false),
        ("DELETE FROM bigview", vec!["public.big"], false),
        ("SELECT * FROM parted", vec!["public.part_a", "public.part_b"], false),
        ("SELECT * FROM part_a", vec!["public.parted"], false),
        ("SELECT * FROM part_a, parted", vec!["public.part_b"], false),
        ("SELECT peek()", vec!["audit.log"], false),
        ("SELECT calls_peek()", vec!["audit.log"], false),
        ("UPDATE small SET note = '' WHERE id = 1", vec!["audit.log"], false),
        ("SELECT clean()", vec![], false),
        ("SELECT lower(note) FROM small", vec![], false),
        ("SELECT dynamic()", vec![], true),
        ("SELECT snake()", vec![], true),
        ("SELECT not_there()", vec![], true),
        ("SELECT query_to_xml('select 1', true, true, '')", vec![], true),
        ("DO $$ BEGIN END $$", vec![], true),
        ("SELECT nextval('s')", vec![], false),
        ("INSERT INTO big DEFAULT VALUES", vec![], false),
    ] {
        let reach = reach(text);
        let got: Vec<String> = reach.behind.iter().map(ToString::to_string).collect();
        assert_eq!((got, reach.unseen), (behind.into_iter().map(str::to_owned).collect(), unseen), "{text}");
    }
}
