//! Calls of functions that run texts: which of them read. What the server makes of the same expressions is compared in
//! tests/upstream/texts.rs.

use super::*;
use crate::sql::catalogue::{CatalogueParts, Code, Relation, RelationKind};
use std::collections::HashSet;

const TEXT: u32 = 25;
const INT: u32 = 23;

/// One function `f` with these arguments (`mode name type`) and this body.
fn catalogue(
    arguments: &[(char, &str, u32)],
    body: &str,
    change: impl FnOnce(&mut Routine),
) -> CatalogueSnapshot {
    let mut routine = Routine {
        oid: 20_000,
        schema: "public".into(),
        name: "f".into(),
        kind: 'f',
        volatile: true,
        language: "plpgsql".into(),
        body: body.into(),
        arguments: arguments
            .iter()
            .map(|(mode, name, type_oid)| Argument { name: (*name).into(), mode: *mode, type_oid: *type_oid })
            .collect(),
        ..Routine::default()
    };
    change(&mut routine);
    let writes = Routine {
        oid: 20_001,
        schema: "public".into(),
        name: "writes".into(),
        kind: 'f',
        language: "plpgsql".into(),
        body: "begin delete from t; return 1; end".into(),
        ..Routine::default()
    };
    let functions: HashSet<String> = [routine.name.clone(), writes.name.clone()].into();
    let table = |oid, name: &str| Relation {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: RelationKind::Table,
        columns: Vec::new(),
        parents: Vec::new(),
        view: None,
    };
    CatalogueSnapshot::new(CatalogueParts {
        relations: vec![table(17_000, "t"), table(17_001, "Odd; delete from t")],
        search_path: vec!["public".to_owned()],
        functions,
        objects: Code { routines: vec![routine, writes], ..Code::default() },
        ..CatalogueParts::default()
    })
}

fn class(catalogue: &CatalogueSnapshot, sql: &str) -> SqlClass {
    let mut state = SessionState::default();
    state.standard_conforming_strings = Some(true);
    Inspector.script(sql, &state, Some(catalogue)).class()
}

#[track_caller]
fn check(arguments: &[(char, &str, u32)], body: &str, sql: &str, reads: bool) {
    let catalogue = catalogue(arguments, body, |_| {});
    let class = class(&catalogue, sql);
    assert_eq!(class == SqlClass::Read, reads, "{class}: {sql} with {body}");
}

#[test]
fn a_call_is_as_harmless_as_the_text_it_makes() {
    let one = [('i', "q", TEXT)];
    for (body, sql, reads) in [
        ("begin execute q; end", "select f('select 1')", true),
        ("begin execute q; end", "select f('delete from t')", false),
        ("begin execute q; end", "select f('select 1; delete from t')", false),
        ("begin execute q; end", "select f('select writes()')", false),
        ("begin execute q; end", "select f('select nextval(''s'')')", false),
        ("begin execute q; end", "select f('select 1 for update')", false),
        ("begin execute q; end", "select f('set role postgres')", false),
        ("begin execute q; end", "select f('begin')", false),
        ("begin execute q; end", "select f('execute p')", false),
        ("begin execute q; end", "select f('fetch c')", false),
        ("begin execute q; end", "select f('do $$begin end$$')", false),
        ("begin execute q; end", "select f('not sql')", false),
        ("begin execute q; end", "select f('explain analyze delete from t')", false),
        ("begin execute q; end", "select f('explain analyze select 1')", true),
        ("begin execute q; end", "select f(null)", true),
        ("begin execute q; end", "select f('select 1'::text)", true),
        ("begin execute q; end", "select f('select 1'::varchar)", true),
        ("begin execute q; end", "select f('select 1'::name)", false),
        ("begin execute q; end", "select f('select 1'::char(4))", false),
        ("begin execute q; end", "select f('select 1'::varchar(4))", false),
        ("begin execute q; end", "select f('select ' || '1')", true),
        ("begin execute q; end", "select f('select ' || '1; delete from t')", false),
        ("begin execute q; end", "select f(format('delete from %I', 't'))", false),
        ("begin execute q; end", "select f(q) from (values ('select 1')) v(q)", false),
        ("begin execute q; end", "select f((select 'select 1'))", false),
        ("begin execute q; end", "select f($1)", false),
        ("begin execute q; end", "select f()", false),
        ("begin execute q; end", "select f('select 1', 'select 2')", false),
        ("begin execute q; end", "select f(q => 'select 1')", true),
        ("begin execute q; end", "select f(q := 'delete from t')", false),
        ("begin execute q; end", "select f(p => 'select 1')", false),
        ("begin execute q; end", "select f(variadic 'select 1')", false),
        ("begin execute q; end", "select f('select f(''select 1'')')", false),
        ("begin execute q; end", "select public.f('select 1')", true),
        ("begin execute q; end", "select public.f('delete from t')", false),
        ("begin execute q; end", "select f(1)", false),
        ("begin execute q; end", "select f('select 1'), f('delete from t')", false),
        ("begin execute q; end", "select * from f('select 1')", true),
        ("begin execute q; end", "select * from f('delete from t')", false),
        ("begin execute q; end", "explain analyze select f('delete from t')", false),
        ("begin execute q; end", "select 1 where f('delete from t') is null", false),
        ("begin execute $1; end", "select f('select 1')", true),
        ("begin execute $1; end", "select f('delete from t')", false),
        ("begin execute $2; end", "select f('select 1')", false),
        ("begin EXECUTE Q; end", "select f('select 1')", true),
        ("begin execute \"Q\"; end", "select f('select 1')", false),
        ("begin execute f.q; end", "select f('select 1')", false),
        ("begin execute 'explain ' || q; end", "select f('select 1')", true),
        ("begin execute 'explain analyze ' || q; end", "select f('delete from t')", false),
        ("begin execute 'explain ' || q; end", "select f('analyze delete from t')", false),
        ("begin execute 'explain ' || q; end", "select f('(analyze) delete from t')", false),
        ("begin execute format('select %s', q); end", "select f('1')", true),
        ("begin execute format('select %s', q); end", "select f('1; delete from t')", false),
        ("begin execute format('select %s', q); end", "select f('writes()')", false),
        ("begin execute format('select * from %I', q); end", "select f('t')", true),
        ("begin execute format('select * from %I', q); end", "select f('Odd; delete from t')", true),
        ("begin execute format('select * from %I', q); end", "select f('nowhere')", false),
        ("begin execute format('select * from t %I', q); end", "select f('for')", false),
        ("begin execute format('%I from t', q); end", "select f('delete')", false),
        ("begin execute format('select %L', q); end", "select f('''; delete from t; --')", true),
        ("begin execute format('select %L', q); end", r"select f('\''; delete from t; --')", false),
        ("begin execute format('select %1$L, %1$L', q); end", "select f('a')", true),
        ("begin execute format('select %5s', q); end", "select f('a')", false),
        ("begin execute format('select %-5s', q); end", "select f('a')", false),
        ("begin execute format('select %s %s', q); end", "select f('a')", false),
        ("begin execute concat('select ', 1, null, q); end", "select f(' as a')", true),
        ("begin execute coalesce(null, q); end", "select f('delete from t')", false),
        ("begin execute coalesce(q, 'delete from t'); end", "select f('select 1')", true),
        ("begin execute coalesce(q, 'delete from t'); end", "select f(null)", false),
        ("begin execute 'select ' || quote_literal(q); end", "select f('''a')", true),
        ("begin execute 'select * from ' || quote_ident(q); end", "select f('Odd; delete from t')", true),
        ("begin execute 'select ' || quote_nullable(q); end", "select f(null)", true),
        ("begin execute upper(q); end", "select f('select 1')", false),
        ("begin execute replace('select 1', '1', q); end", "select f('2')", false),
        ("begin execute (select q); end", "select f('select 1')", false),
        ("begin execute case when true then q end; end", "select f('select 1')", false),
        ("begin execute q using 1, 2; end", "select f('select $1 + $2')", true),
        ("begin execute q using writes(); end", "select f('select 1')", false),
        ("declare r record; begin execute q into strict r; end", "select f('select 1')", true),
        (
            "declare l text; begin for l in execute q loop raise notice '%', l; end loop; end",
            "select f('select 1')",
            true,
        ),
        (
            "declare l text; begin for l in execute q loop execute l; end loop; end",
            "select f('select 1')",
            false,
        ),
        ("begin return query execute q; end", "select f('select 1')", true),
        ("begin return query execute q; end", "select f('delete from t returning 1')", false),
        ("declare c refcursor; begin open c for execute q; end", "select f('select 1')", true),
        (
            "declare c refcursor; begin open c for execute q; end",
            "select f('delete from t returning 1')",
            false,
        ),
    ] {
        check(&one, body, sql, reads);
    }
}

#[test]
fn arguments_that_may_be_changed_are_not_known() {
    let two = [('i', "q", TEXT), ('i', "n", INT)];
    for body in [
        "begin q := 'delete from t'; execute q; end",
        "begin q = 'delete from t'; execute q; end",
        "begin $1 := 'delete from t'; execute q; end",
        "begin q := 'delete from t'; execute $1; end",
        "begin \"q\" := 'delete from t'; execute q; end",
        "begin f.q := 'delete from t'; execute q; end",
        "begin Q := 'delete from t'; execute q; end",
        "begin select 'delete from t' into q; execute q; end",
        "begin execute q into q; execute q; end",
        "begin for q in select 'delete from t' loop execute q; end loop; end",
        "begin foreach q in array array['delete from t'] loop execute q; end loop; end",
        "declare q text := 'delete from t'; begin execute q; end",
        "begin declare q text := 'delete from t'; begin execute q; end; end",
        "declare a alias for q; begin a := 'delete from t'; execute q; end",
        "declare a alias for $1; begin a := 'delete from t'; execute q; end",
        "begin if execute then q := 'delete from t'; end if; execute q; end",
        "begin get diagnostics q = row_count; execute q; end",
        "begin fetch c into q; execute q; end",
        "begin perform q; execute q; end",
        "begin perform writes(); execute q; end",
        "begin perform f('delete from t'); execute q; end",
        "begin execute q; delete from t; end",
        "begin execute q; commit; end",
        "begin execute U&\"q\"; end",
        "begin execute 'select \\'' || q; end",
        "begin execute q || '\\'; end",
        "begin perform '\\'; delete from t; --'; execute q; end",
        "begin execute q from t; end",
        "begin execute q, 'a'; end",
        "begin execute q as a; end",
        "begin execute (q; end",
        "begin execute q",
        "begin execute; end",
    ] {
        check(&two, body, "select f('select 1', 1)", false);
    }
    let scans =
        "begin for l in execute q loop l := regexp_replace(l, '\\d+', 'N'); return next l; end loop; end";
    check(&two, scans, "select f('select 1', 1)", true);
    // A body without a word is none: the server refuses it.
    for body in ["", " \n"] {
        check(&two, body, "select f('select 1', 1)", true);
    }
    let named = [('i', "query", TEXT)];
    check(&named, "begin return query execute query; end", "select f('select 1')", true);
    check(&named, "begin query := 'x'; return query execute query; end", "select f('select 1')", false);
    check(&two, "begin execute 'select ' || n; end", "select f('', 7)", true);
    check(&two, "begin execute 'select ' || n; end", "select f('', '7')", false);
    check(&[('o', "q", TEXT)], "begin execute q; end", "select f()", false);
    check(&[('b', "q", TEXT)], "begin execute q; end", "select f('select 1')", false);
    check(&[('v', "q", 1009)], "begin execute q; end", "select f('select 1')", false);
    check(&[('i', "found", TEXT)], "begin execute found; end", "select f('select 1')", false);
    check(&[('i', "q", 19)], "begin execute q; end", "select f('select 1')", false);
    check(&[('i', "q", TEXT), ('o', "q", TEXT)], "begin execute q; end", "select f('select 1')", false);
    check(&[('o', "a", TEXT), ('i', "q", TEXT)], "begin execute q; end", "select f('select 1')", true);
    check(&[('o', "a", TEXT), ('i', "q", TEXT)], "begin execute $1; end", "select f('select 1')", false);
    check(&[('o', "a", TEXT), ('i', "q", TEXT)], "begin execute $2; end", "select f('delete from t')", false);
    check(&[('i', "", TEXT)], "begin execute $1; end", "select f('delete from t')", false);
}

#[test]
fn what_surrounds_a_function_counts() {
    type Change = fn(&mut Routine);
    let table: [(Change, &str, bool); 9] = [
        (|_| {}, "select f('select 1')", true),
        (|f| f.settings = vec!["role=postgres".into()], "select f('select 1')", false),
        (|f| f.settings = vec!["standard_conforming_strings=off".into()], "select f('select 1')", false),
        (|f| f.settings = vec!["search_path=pg_catalog".into()], "select f('select 1')", true),
        (|f| f.defaults = "writes()".into(), "select f('select 1')", false),
        (|f| f.defaults = "f('delete from t')".into(), "select f('select 1')", false),
        (|f| f.strict = true, "select f(null)", true),
        (|f| f.language = "plpython3u".into(), "select f('select 1')", false),
        (|f| f.kind = 'p', "select f('select 1')", false),
    ];
    for (number, (change, sql, reads)) in table.into_iter().enumerate() {
        let catalogue = catalogue(&[('i', "q", TEXT)], "begin execute q; end", change);
        assert_eq!(class(&catalogue, sql) == SqlClass::Read, reads, "{number}: {sql}");
    }
}

#[test]
fn texts_with_backslashes_read_alike_both_ways_or_are_unknown() {
    let catalogue = catalogue(&[('i', "q", TEXT)], "begin execute q; end", |_| {});
    for (sql, reads) in [
        (r"select f(E'select \'a\\\\b\'')", true),
        (r"select f($a$select 'a\'; delete from t; --'$a$)", false),
        (r"select f($a$select 'a\d'$a$)", true),
    ] {
        assert_eq!(class(&catalogue, sql) == SqlClass::Read, reads, "{sql}");
    }
}

#[test]
fn overloads_count_all_together() {
    let mut parts = CatalogueParts { functions: ["f".to_owned()].into(), ..CatalogueParts::default() };
    let routine = |oid, type_oid, body: &str| Routine {
        oid,
        schema: "public".into(),
        name: "f".into(),
        kind: 'f',
        language: "plpgsql".into(),
        body: body.into(),
        arguments: vec![Argument { name: "q".into(), mode: 'i', type_oid }],
        ..Routine::default()
    };
    parts.objects.routines =
        vec![routine(20_000, TEXT, "begin execute q; end"), routine(20_001, INT, "begin return 1; end")];
    let first = CatalogueSnapshot::new(parts.clone());
    assert_eq!(class(&first, "select f('select 1')"), SqlClass::Read);
    parts.objects.routines.push(routine(20_002, 19, "begin delete from t; return 1; end"));
    let second = CatalogueSnapshot::new(parts);
    assert_ne!(class(&second, "select f('select 1')"), SqlClass::Read);
}

#[test]
fn a_name_that_the_database_has_is_not_the_built_in_one() {
    for (functions, operators) in [(vec!["format"], vec![]), (vec![], vec!["||"])] {
        let mut parts = CatalogueParts {
            functions: functions.iter().map(|name| (*name).to_owned()).chain(["f".to_owned()]).collect(),
            operators: operators.iter().map(|name: &&str| (*name).to_owned()).collect(),
            ..CatalogueParts::default()
        };
        parts.objects.routines = vec![Routine {
            oid: 20_000,
            schema: "public".into(),
            name: "f".into(),
            kind: 'f',
            language: "plpgsql".into(),
            body: "begin execute format('select ' || '%s', q); end".into(),
            arguments: vec![Argument { name: "q".into(), mode: 'i', type_oid: TEXT }],
            ..Routine::default()
        }];
        let catalogue = CatalogueSnapshot::new(parts);
        assert_ne!(class(&catalogue, "select f('1')"), SqlClass::Read, "{functions:?} {operators:?}");
    }
}

#[test]
fn relations_of_the_texts_are_the_statement_s() {
    let catalogue = catalogue(&[('i', "q", TEXT)], "begin execute q; end", |_| {});
    let mut state = SessionState::default();
    state.standard_conforming_strings = Some(true);
    let script = Inspector.script("select f('select ssn from t')", &state, Some(&catalogue));
    let facts = script.statements[0].sql();
    assert_eq!(facts.class, SqlClass::Read);
    assert!(facts.tables_read.iter().any(|relation| relation.name == "t"), "{:?}", facts.tables_read);
    assert!(facts.columns.contains(&"ssn".to_owned()), "{:?}", facts.columns);
    assert!(facts.reach.unseen, "what comes out is the function's affair");
    assert!(script.statements[0].usage.calls.iter().any(|name| name == "f"));
}

#[test]
fn many_calls_and_long_texts_end_early() {
    let catalogue =
        catalogue(&[('i', "q", TEXT)], "begin execute format('select 1 %1$s %1$s %1$s', q); end", |_| {});
    let long = format!("select f('/*{}*/')", "x".repeat(MAX_TEXT_BYTES));
    assert_ne!(class(&catalogue, &long), SqlClass::Read);
    let many = format!("select {}", vec!["f('')"; 2_000].join(", "));
    assert_ne!(class(&catalogue, &many), SqlClass::Read);
    let statements = vec!["select f('')"; 2_000].join("; ");
    assert_ne!(class(&catalogue, &statements), SqlClass::Read, "statements of one text share the budget");
    assert_eq!(class(&catalogue, "select f('')"), SqlClass::Read);
}
