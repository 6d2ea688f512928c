//! What a client sees of masked columns. The fixture was recorded from PostgreSQL 15: statements, the server's own
//! RowDescriptions and rows, and what is to come of each.

use super::{MaskKeys, MaskPlan, RowError, StatementMask};
use crate::sql::{
    Inspector, SessionState,
    catalogue::{CatalogueParts, CatalogueSnapshot, Relation, RelationColumn, RelationKind, ViewDefinition},
};
use bytes::BytesMut;
use lockgate_model::{
    secret::{Secret, SecretRef},
    verdict::{
        ColumnMask, ColumnPattern, DenialCause, Detector, InPredicate, MaskMethod, MaskSpec, UnknownLineage,
    },
};
use lockgate_wire::postgres::{
    Format, PgString,
    backend::{Column, DataRow, DataRowWriter},
};
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

const TEXT: u32 = 25;
const INT4: u32 = 23;
/// Pieces of every masked value in the fixture.
const MARKS: [&str; 3] = ["SECRET-", "7770", "CARDSECRET"];

#[derive(Deserialize)]
struct RecordedCatalogue {
    relations: Vec<RecordedRelation>,
    functions: Vec<String>,
    operators: Vec<String>,
    search_path: Vec<String>,
}

#[derive(Deserialize)]
struct RecordedRelation {
    oid: u32,
    schema: String,
    name: String,
    kind: char,
    columns: Vec<(i16, String, u32, Vec<i16>)>,
    parents: Vec<u32>,
    view: Option<String>,
    depends: Vec<(u32, i16)>,
}

#[derive(Deserialize)]
struct Case {
    statements: Vec<Recorded>,
    expect: String,
}

#[derive(Deserialize)]
struct Recorded {
    sql: String,
    fields: Vec<(u32, i16, u32)>,
    rows: Vec<Vec<Option<String>>>,
}

fn fixture() -> (Arc<CatalogueSnapshot>, Vec<Case>) {
    let text = include_str!("../../../../tests/fixtures/sql/masking.jsonl");
    let mut lines = text.lines();
    let recorded: RecordedCatalogue =
        serde_json::from_str(lines.next().expect("a catalogue")).expect("a catalogue");
    let relations = recorded.relations.into_iter().map(|relation| Relation {
        oid: relation.oid,
        schema: relation.schema,
        name: relation.name,
        kind: RelationKind::from_relkind(relation.kind).expect("a relation"),
        columns: relation
            .columns
            .into_iter()
            .map(|(attnum, name, type_oid, generated_from)| RelationColumn {
                attnum,
                name,
                type_oid,
                generated_from,
            })
            .collect(),
        parents: relation.parents,
        view: relation.view.map(|text| ViewDefinition { text: Some(text), depends_on: relation.depends }),
    });
    let catalogue = CatalogueSnapshot::new(CatalogueParts {
        relations: relations.collect(),
        functions: recorded.functions.into_iter().collect(),
        operators: recorded.operators.into_iter().collect(),
        search_path: recorded.search_path,
        ..CatalogueParts::default()
    });
    (Arc::new(catalogue), lines.map(|line| serde_json::from_str(line).expect(line)).collect())
}

fn mask(column: &str, method: MaskMethod) -> ColumnMask {
    let pattern = ColumnPattern { schema: "*".to_owned(), table: "*".to_owned(), column: column.to_owned() };
    ColumnMask { pattern, method }
}

fn spec() -> MaskSpec {
    MaskSpec {
        json: Vec::new(),
        columns: vec![
            mask("ssn", MaskMethod::Redact),
            mask("card", MaskMethod::Partial { keep_last: 4 }),
            mask("salary", MaskMethod::Redact),
        ],
        detectors: BTreeSet::new(),
        on_unknown_lineage: UnknownLineage::Redact,
        in_predicate: InPredicate::Deny,
        in_expression: Default::default(),
        approval: None,
        rules: Vec::new(),
    }
}

fn state() -> SessionState {
    let mut state = SessionState::default();
    state.standard_conforming_strings = Some(true);
    state
}

fn plan(spec: &MaskSpec) -> (MaskPlan, Arc<CatalogueSnapshot>) {
    let (catalogue, _) = fixture();
    (MaskPlan::new(spec, catalogue.clone(), &MaskKeys::new()), catalogue)
}

/// What the masks make of one statement.
fn judge(spec: &MaskSpec, sql: &str) -> Result<StatementMask, String> {
    let (plan, catalogue) = plan(spec);
    let script = Inspector.script(sql, &state(), Some(&catalogue));
    plan.judge(&script.statements[0]).map_err(|violation| {
        assert_eq!(violation.denial().cause, DenialCause::Masking);
        violation.reason
    })
}

fn column(table_oid: u32, attnum: i16, type_oid: u32) -> Column {
    Column {
        name: PgString::from_static("c"),
        table_oid,
        attnum,
        type_oid,
        type_size: -1,
        type_modifier: -1,
        format: Format::Text,
    }
}

fn row(values: &[Option<&str>]) -> DataRow {
    let mut out = BytesMut::new();
    let mut writer = DataRowWriter::new(&mut out);
    values.iter().for_each(|value| writer.field(value.map(str::as_bytes)));
    writer.finish().expect("a row");
    DataRow::decode(out.freeze().slice(5..)).expect("a row")
}

fn shown(mask: &StatementMask, columns: &[Column], values: &[Option<&str>]) -> Vec<Option<String>> {
    let mut rows = mask.rows(columns);
    let before = row(values);
    let mut out = BytesMut::new();
    let changed = rows.apply(&before, &mut out).expect("a row that fits");
    let after = DataRow::decode(out.freeze().slice(5..)).expect("a whole message");
    assert!(!rows.is_passthrough() || changed == 0);
    after.fields().map(|field| field.map(|field| String::from_utf8_lossy(field).into_owned())).collect()
}

fn oid(catalogue: &CatalogueSnapshot, name: &str) -> u32 {
    catalogue
        .relations()
        .iter()
        .find(|relation| relation.name == name)
        .map(|relation| relation.oid)
        .expect(name)
}

#[test]
fn recorded_statements_are_denied_masked_or_left_alone() {
    let (catalogue, cases) = fixture();
    let plan = MaskPlan::new(&spec(), catalogue.clone(), &MaskKeys::new());
    assert!(cases.len() >= 300, "{} cases", cases.len());
    let mut different = Vec::new();
    for case in cases {
        let mut state = state();
        let mut verdict = "same";
        for recorded in &case.statements {
            let script = Inspector.script(&recorded.sql, &state, Some(&catalogue));
            for statement in &script.statements {
                let Ok(mask) = plan.judge(statement) else {
                    verdict = "deny";
                    continue;
                };
                if mask.masks_copy() && verdict == "same" {
                    verdict = "masked";
                }
                let columns: Vec<Column> = recorded
                    .fields
                    .iter()
                    .map(|(oid, attnum, type_oid)| column(*oid, *attnum, *type_oid))
                    .collect();
                for values in &recorded.rows {
                    let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
                    let after = shown(&mask, &columns, &values);
                    for value in after.iter().flatten() {
                        let leaks = MARKS.iter().any(|mark| value.contains(mark));
                        assert!(!leaks || verdict == "deny", "{}: {value}", recorded.sql);
                    }
                    let same = after.iter().map(Option::as_deref).eq(values);
                    if !same && verdict == "same" {
                        verdict = "masked";
                    }
                }
                state.apply(statement);
            }
        }
        if verdict != case.expect {
            let texts: Vec<&str> = case.statements.iter().map(|one| one.sql.as_str()).collect();
            different.push(format!("{verdict} instead of {}: {}", case.expect, texts.join("; ")));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn each_method_shows_its_own_form_by_origin_whatever_the_alias() {
    let key = SecretRef::Env("MASK_KEY".to_owned());
    let mut keys = MaskKeys::new();
    keys.insert(key.clone(), Secret::new(b"Jefe".to_vec()));
    let mut spec = spec();
    spec.columns = vec![
        mask("ssn", MaskMethod::Hash { key }),
        mask("card", MaskMethod::Partial { keep_last: 4 }),
        mask("email", MaskMethod::Null),
        mask("salary", MaskMethod::Partial { keep_last: 4 }),
    ];
    let (catalogue, _) = fixture();
    let plan = MaskPlan::new(&spec, catalogue.clone(), &keys);
    let sql = "select ssn as a, card as b, email as c, salary as d, name from customers";
    let script = Inspector.script(sql, &state(), Some(&catalogue));
    let mask = plan.judge(&script.statements[0]).expect("plain columns");
    let customers = oid(&catalogue, "customers");
    let attnum = |name: &str| {
        catalogue.relation(customers).and_then(|r| r.column(name)).map(|c| c.attnum).expect(name)
    };
    let columns = [
        column(customers, attnum("ssn"), TEXT),
        column(customers, attnum("card"), 1043),
        column(customers, attnum("email"), TEXT),
        column(customers, attnum("salary"), INT4),
        column(customers, attnum("name"), TEXT),
    ];
    let values = [
        Some("what do ya want for nothing?"),
        Some("4111111111111111"),
        Some("a@b.example"),
        Some("5"),
        Some("Ann"),
    ];
    let expected = [
        Some("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        Some("************1111"),
        None,
        None,
        Some("Ann"),
    ];
    assert_eq!(shown(&mask, &columns, &values).iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    let nulls = [None; 5];
    assert_eq!(shown(&mask, &columns, &nulls), vec![None; 5], "NULL stays NULL");
}

#[test]
fn policy_can_allow_predicates_but_not_copies() {
    let mut spec = spec();
    spec.in_predicate = InPredicate::Allow;
    for (sql, allowed) in [
        ("select id from customers where ssn = 'x'", true),
        ("select id from customers order by ssn", true),
        ("select city from customers group by city, ssn", true),
        ("insert into clean select id, ssn from customers", false),
        ("update customers set name = ssn", false),
        ("select ident(ssn) from customers", false),
        ("copy customers to stdout", true),
        ("copy customers to '/tmp/x'", false),
        ("copy (select ssn || '' from customers) to stdout", false),
    ] {
        assert_eq!(judge(&spec, sql).is_ok(), allowed, "{sql}");
    }
}

/// What a client sees of one COPY: its columns in the target's order, and one row of these values.
fn copied(spec: &MaskSpec, sql: &str, values: &str) -> Result<String, String> {
    let mask = judge(spec, sql)?;
    let mut out = BytesMut::new();
    let columns = values.split('\t').count();
    match mask.copy(columns, false).map_err(|error| error.to_string())? {
        None => out.extend_from_slice(values.as_bytes()),
        Some(mut mask) => {
            let line = format!("{values}\n");
            mask.feed(line.as_bytes(), &mut out).map_err(|error| error.to_string())?;
            mask.finish().map_err(|error| error.to_string())?;
            out.truncate(out.len() - 1);
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[test]
fn copies_are_masked_where_every_column_is_known_to_stand() {
    let spec = spec();
    for (sql, values, expected) in [
        ("copy customers (ssn, id) to stdout", "a\tb", Some("[redacted]\tb")),
        ("copy customers (id, ssn) to stdout", "a\tb", Some("a\t[redacted]")),
        ("copy customers (id, ssn) to stdout", "a\tb\tc", None),
        ("copy (select id, ssn, id from customers) to stdout", "a\tb\tc", Some("a\t[redacted]\tc")),
        ("copy (select ssn as id, id as ssn from customers) to stdout", "a\tb", Some("[redacted]\tb")),
        ("copy (select * from (select id, ssn x from customers) s) to stdout", "a\tb", Some("a\t[redacted]")),
        (
            "copy (with w(a, b) as (select ssn, id from customers) select b, a from w) to stdout",
            "a\tb",
            Some("a\t[redacted]"),
        ),
        // Salaries are numbers: no text stands for one.
        ("copy (select salary from customers) to stdout", "5", Some("\\N")),
        // As many columns as the row's type has, nobody knows how many.
        ("copy (select (row(1, 2)).*, ssn from customers) to stdout", "a\tb", None),
        ("copy (select (c).*, ssn from customers c) to stdout", "a\tb", None),
        ("copy (select x.*, ssn from customers, json_to_record('{}') as x(a int)) to stdout", "a\tb", None),
        (
            "copy (with recursive w(a) as (select 1 union all select a + 1 from w where a < 3) \
             search depth first by a set o select w.*, ssn from w, customers) to stdout",
            "a\tb\tc",
            None,
        ),
        ("copy (select ssn from customers union all select ssn from customers) to stdout", "a", None),
        ("copy (select ssn from customers for update) to stdout", "a", None),
        ("copy (values ((select ssn from customers limit 1))) to stdout", "a", None),
        ("copy customers (ssn) to program 'cat'", "a", None),
        ("copy customers (ssn) to stdout (who knows)", "a", None),
        ("copy nobody_knows to stdout", "a", None),
    ] {
        let got = copied(&spec, sql, values);
        assert_eq!(got.as_deref().ok(), expected, "{sql}: {got:?}");
    }
}

#[test]
fn a_row_spread_into_columns_moves_no_other_under_a_clean_one() {
    // `(none).*` shows no column and `(two).*` shows two: what comes is as many as the select list has items.
    let mask = judge(&spec(), "select (none).*, ssn || '', (two).* from customers").expect("computed");
    let columns = [column(0, 0, TEXT), column(0, 0, TEXT), column(0, 0, TEXT)];
    let after = shown(&mask, &columns, &[Some("SECRET-1"), Some("a"), Some("b")]);
    assert_eq!(after.first().map(Option::as_deref), Some(Some("[redacted]")), "{after:?}");
}

#[test]
fn policy_says_what_becomes_of_unknown_lineage() {
    let table = [
        (UnknownLineage::Redact, Some(vec![Some("[redacted]".to_owned())])),
        (UnknownLineage::Pass, Some(vec![Some("value".to_owned())])),
        (UnknownLineage::Deny, None),
    ];
    for (unknown, expected) in table {
        let mut spec = spec();
        spec.on_unknown_lineage = unknown;
        for sql in ["select leak()", "select max(x) from no_such_table", "fetch 1 from no_such_cursor"] {
            let got =
                judge(&spec, sql).ok().map(|mask| shown(&mask, &[column(0, 0, TEXT)], &[Some("value")]));
            assert_eq!(got, expected, "{sql} with {unknown:?}");
        }
        let opaque = judge(&spec, "this is no sql");
        assert_eq!(opaque.is_ok(), unknown == UnknownLineage::Pass, "opaque with {unknown:?}");
    }
}

#[test]
fn relations_that_the_catalogue_does_not_know_are_masked_and_named() {
    let mask = judge(&spec(), "select id from customers").expect("a plain column");
    let rows = mask.rows(&[column(4_000_000, 1, TEXT)]);
    assert_eq!(rows.unknown_relations(), [4_000_000]);
    assert_eq!(shown(&mask, &[column(4_000_000, 1, TEXT)], &[Some("x")]), [Some("[redacted]".to_owned())]);
    let (plan, _) = plan(&spec());
    assert_eq!(shown(&plan.unknown_statement(), &[column(0, 0, INT4)], &[Some("5")]), [None]);
}

#[test]
fn messages_are_stripped_where_they_could_quote_masked_values() {
    for (sql, strip) in [
        ("select id from customers", true),
        ("insert into customers(id) values (1)", true),
        // Its condition reads a masked column.
        ("select id from v_clean", true),
        ("select a from clean", false),
        ("select 1/0", false),
        ("select leak()", true),
        ("begin", false),
    ] {
        assert_eq!(judge(&spec(), sql).expect(sql).strip_messages(), strip, "{sql}");
    }
}

#[test]
fn columns_stay_masked_under_other_names() {
    let relation = |schema: &str, name: &str, columns: [&str; 3]| Relation {
        oid: 77,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: RelationKind::Table,
        columns: (1..)
            .zip(columns)
            .map(|(attnum, name)| RelationColumn {
                attnum,
                name: name.to_owned(),
                type_oid: TEXT,
                generated_from: Vec::new(),
            })
            .collect(),
        parents: Vec::new(),
        view: None,
    };
    let snapshot = |relation: Relation| {
        CatalogueSnapshot::new(CatalogueParts {
            relations: vec![relation],
            search_path: vec!["public".to_owned()],
            ..CatalogueParts::default()
        })
    };
    let first = snapshot(relation("public", "people", ["id", "name", "ssn"]));
    // Swapped, then moved: each load knows what the one before knew.
    let mut second = snapshot(relation("public", "people", ["id", "ssn", "name"]));
    second.remember(&first);
    let mut third = snapshot(relation("other", "persons", ["id", "nick", "name"]));
    third.remember(&second);
    let third = Arc::new(third);
    let plan = MaskPlan::new(&spec(), third.clone(), &MaskKeys::new());
    let script = Inspector.script("select * from other.persons", &state(), Some(&third));
    let mask = plan.judge(&script.statements[0]).expect("plain columns");
    let columns = [column(77, 1, TEXT), column(77, 2, TEXT), column(77, 3, TEXT)];
    let redacted = || Some("[redacted]".to_owned());
    // The second column was called ssn for a while.
    assert_eq!(
        shown(&mask, &columns, &[Some("1"), Some("Ana"), Some("x")]),
        [Some("1".to_owned()), redacted(), redacted()]
    );
    let script = Inspector.script("select upper(name) from other.persons", &state(), Some(&third));
    let mask = plan.judge(&script.statements[0]).expect("an expression");
    assert_eq!(shown(&mask, &[column(0, 0, TEXT)], &[Some("X")]), [redacted()]);
}

#[test]
fn literals_of_statements_that_touch_masked_tables_may_not_rest() {
    let (plan, catalogue) = plan(&spec());
    for (sql, touches) in [
        ("insert into customers(ssn) values ('123')", true),
        ("select id from customers where name = 'x'", true),
        ("select hidden from v_plain", true),
        ("select * from v_clean", false),
        ("select b from clean where b = 'x'", false),
        ("select ssn from not_known_yet", true),
        ("select b from not_known_yet", false),
        ("create function f() returns int language sql as 'select ssn from customers'", true),
        ("what is this", true),
        ("begin", false),
    ] {
        let script = Inspector.script(sql, &state(), Some(&catalogue));
        assert_eq!(plan.touches(&script.statements[0]), touches, "{sql}");
    }
}

#[test]
fn without_column_masks_nothing_is_touched() {
    let mut spec = spec();
    spec.columns.clear();
    let mask = judge(&spec, "select ssn, leak() from customers where ssn = 'x'").expect("no masks");
    let columns = [column(1, 1, TEXT), column(0, 0, TEXT)];
    assert!(mask.rows(&columns).is_passthrough());
    assert!(!mask.strip_messages());
}

#[test]
fn a_row_that_does_not_fit_is_an_error_and_writes_nothing() {
    let mask = judge(&spec(), "select ssn from customers").expect("a plain column");
    let mut out = BytesMut::from(&b"before"[..]);
    let got = mask.rows(&[column(0, 0, TEXT)]).apply(&row(&[Some("a"), Some("b")]), &mut out);
    assert_eq!(got, Err(RowError::FieldCount { expected: 1, got: 2 }));
    assert_eq!(&out[..], b"before");
}

#[test]
fn detectors_find_what_nobody_marked() {
    let all = [Detector::CardNumber, Detector::Ssn, Detector::Email, Detector::Phone, Detector::Secret];
    let mut spec = spec();
    spec.detectors = all.into_iter().collect();
    let mask = judge(&spec, "select b from clean").expect("a clean column");
    let (_, catalogue) = plan(&spec);
    let clean = oid(&catalogue, "clean");
    let columns = [column(clean, 2, TEXT), column(clean, 1, INT4)];
    let got = shown(&mask, &columns, &[Some("pay 4111 1111 1111 1111 now"), Some("4111111111111111")]);
    assert_eq!(got[0].as_deref(), Some("pay [redacted:card_number] now"));
    assert_eq!(got[1].as_deref(), Some("4111111111111111"), "only text-like fields are searched");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    text: String,
    found: Vec<String>,
}

/// Precision and recall per detector over the corpus; every miss and every false alarm is named when the bar is missed.
#[test]
fn detectors_meet_their_bar_on_the_large_corpus() {
    let text = include_str!("../../../../tests/fixtures/detectors/corpus.tsv");
    let all: BTreeSet<Detector> =
        [Detector::CardNumber, Detector::Ssn, Detector::Email, Detector::Phone, Detector::Secret].into();
    let detectors = super::detector::Detectors::new(&all);
    let mut counts: HashMap<&str, (u32, u32, u32)> = HashMap::new();
    let (mut wrong, mut lines, mut clean) = (Vec::new(), 0, 0);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (wanted, value) = line.split_once('\t').expect(line);
        let mut out = BytesMut::new();
        detectors.redact(value.replace("\\n", "\n").as_bytes(), &mut out);
        let shown = String::from_utf8_lossy(&out).into_owned();
        lines += 1;
        clean += u32::from(wanted.is_empty());
        for name in ["card_number", "ssn", "email", "phone", "secret"] {
            let found = shown.contains(&format!("[redacted:{name}]"));
            let (right, alarms, misses) = counts.entry(name).or_default();
            match (found, wanted == name) {
                (true, true) => *right += 1,
                (true, false) => *alarms += 1,
                (false, true) => *misses += 1,
                (false, false) => continue,
            }
            if found != (wanted == name) {
                wrong.push(format!("{name}, should be {wanted:?}: {value}"));
            }
        }
    }
    assert!(lines >= 1000 && clean >= 500, "{lines} lines, {clean} of them without findings");
    let mut below = Vec::new();
    for (name, (right, alarms, misses)) in counts {
        let precision = f64::from(right) / f64::from(right + alarms);
        let recall = f64::from(right) / f64::from(right + misses);
        println!("{name}: precision {precision:.3}, recall {recall:.3} of {}", right + misses);
        if precision < 0.95 || recall < 0.90 {
            below.push(name);
        }
    }
    assert!(below.is_empty(), "{below:?} below the bar: {wrong:#?}");
}

#[test]
fn detectors_search_json_and_arrays_in_both_forms() {
    let (_, catalogue) = plan(&spec());
    let clean = oid(&catalogue, "clean");
    let mut spec = spec();
    spec.detectors = [Detector::Email, Detector::CardNumber].into();
    let mask = judge(&spec, "select b from clean").expect("a clean column");
    let element = |text: &str| {
        let length = i32::try_from(text.len()).expect("short");
        [&length.to_be_bytes()[..], text.as_bytes()].concat()
    };
    let array = |first: &str| {
        let head: Vec<u8> = [1_i32, 1, 25, 3, 1].iter().flat_map(|word| word.to_be_bytes()).collect();
        [&head[..], &element(first), &(-1_i32).to_be_bytes(), &element("b")].concat()
    };
    let text = |text: &str| text.as_bytes().to_vec();
    for (type_oid, value, expected) in [
        (114, text(r#"{"to": "a@example.com"}"#), Some(text(r#"{"to": "[redacted:email]"}"#))),
        (3802, text("\u{1}[\"a@example.com\"]"), Some(text("\u{1}[\"[redacted:email]\"]"))),
        (114, text(r#"{"pan": 4111111111111111}"#), None),
        (114, text(r#"{"n": [1, 2]}"#), Some(text(r#"{"n": [1, 2]}"#))),
        (1009, text("{a@example.com,b}"), Some(text("{[redacted:email],b}"))),
        (1009, array("a@example.com"), Some(array("[redacted:email]"))),
        (1009, array("plain"), Some(array("plain"))),
        (1009, array("a@example.com")[..30].to_vec(), None),
        (17, text("a@example.com"), Some(text("a@example.com"))),
    ] {
        let columns = [column(clean, 2, type_oid)];
        let mut row = BytesMut::new();
        let mut writer = DataRowWriter::new(&mut row);
        writer.field(Some(&value));
        writer.finish().expect("a row");
        let row = DataRow::decode(row.freeze().slice(5..)).expect("a row");
        let mut out = BytesMut::new();
        mask.rows(&columns).apply(&row, &mut out).expect("it fits");
        let shown = DataRow::decode(out.freeze().slice(5..)).expect("a row");
        assert_eq!(shown.fields().next().flatten(), expected.as_deref(), "{type_oid}: {value:?}");
    }
}

#[test]
fn detectors_meet_their_bar_on_the_corpus() {
    let text = include_str!("../../../../tests/fixtures/sql/detectors.jsonl");
    let all: BTreeSet<Detector> =
        [Detector::CardNumber, Detector::Ssn, Detector::Email, Detector::Phone, Detector::Secret].into();
    let detectors = super::detector::Detectors::new(&all);
    let mut counts: HashMap<String, (u32, u32, u32)> = HashMap::new();
    let mut wrong = Vec::new();
    for line in text.lines() {
        let sample: Sample = serde_json::from_str(line).expect(line);
        let mut out = BytesMut::new();
        detectors.redact(sample.text.as_bytes(), &mut out);
        let shown = String::from_utf8_lossy(&out).into_owned();
        for name in ["card_number", "ssn", "email", "phone", "secret"] {
            let found = u32::try_from(shown.matches(&format!("[redacted:{name}]")).count()).expect("a count");
            let wanted =
                u32::try_from(sample.found.iter().filter(|found| *found == name).count()).expect("a count");
            let (right, alarms, misses) = counts.entry(name.to_owned()).or_default();
            *right += found.min(wanted);
            *alarms += found.saturating_sub(wanted);
            *misses += wanted.saturating_sub(found);
            if found != wanted {
                wrong.push(format!("{name}: {found} for {wanted} in {:?}: {shown:?}", sample.text));
            }
        }
    }
    for (name, (right, alarms, misses)) in counts {
        assert!(right >= 10, "{name} has {right} findings");
        let precision = f64::from(right) / f64::from(right + alarms);
        let recall = f64::from(right) / f64::from(right + misses);
        assert!(
            precision >= 0.95 && recall >= 0.95,
            "{name}: precision {precision:.2}, recall {recall:.2}: {wrong:#?}"
        );
    }
}
