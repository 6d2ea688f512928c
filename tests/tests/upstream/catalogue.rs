//! The catalogue of a real database, read as an ordinary role over the side connection.

use lockgate_inspect::sql::catalogue::{CatalogueSnapshot, Lookup, Relation, RelationKind, Resolution};
use lockgate_model::addr::UpstreamAddr;
use lockgate_proxy::catalogue::Catalogue;
use lockgate_proxy::tls::UpstreamTls;
use lockgate_proxy::upstream::{Credential, Endpoint};
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use lockgate_wire::postgres::PgString;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SCHEMA: &str = "
    CREATE ROLE app LOGIN;
    CREATE SCHEMA shop;
    GRANT USAGE ON SCHEMA shop TO app;
    CREATE TABLE shop.customers (
        id int PRIMARY KEY, gone text, name text, ssn text,
        label text GENERATED ALWAYS AS (name || ssn) STORED
    );
    ALTER TABLE shop.customers DROP COLUMN gone;
    CREATE TABLE shop.vip (extra int) INHERITS (shop.customers);
    CREATE TABLE shop.events (at date, payload text) PARTITION BY RANGE (at);
    CREATE TABLE shop.events_2026 PARTITION OF shop.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE VIEW shop.public_customers AS SELECT id, name FROM shop.customers;
    CREATE VIEW shop.leak AS SELECT ssn AS harmless FROM shop.customers;
    CREATE MATERIALIZED VIEW shop.leak_twice AS SELECT harmless FROM shop.leak;
    CREATE FUNCTION shop.ssn_of(int) RETURNS text LANGUAGE sql AS 'SELECT ssn FROM shop.customers WHERE id = $1';
    CREATE OPERATOR shop.+# (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
    ALTER ROLE app SET search_path = shop, nowhere, public;
";

struct Lab {
    server: TestPostgres,
    catalogue: Catalogue,
}

impl Lab {
    fn start() -> Self {
        let server = TestPostgres::start(PostgresOptions::new()).expect("start PostgreSQL");
        server.psql(SCHEMA).expect("schema");
        let endpoint = Endpoint::new(UpstreamAddr(server.addr()), "localhost", UpstreamTls::disable());
        let credential = Credential::trusted("app");
        let catalogue = Catalogue::new(endpoint, credential, PgString::from_static("postgres"));
        Lab { server, catalogue }
    }

    async fn load(&self) -> Arc<CatalogueSnapshot> {
        self.catalogue.load().await.expect("load")
    }
}

#[track_caller]
fn relation<'a>(snapshot: &'a CatalogueSnapshot, name: &str) -> &'a Relation {
    match snapshot.resolve(Some("shop"), name, &Lookup::Default) {
        Resolution::Found(relation) => relation,
        other => panic!("shop.{name}: {other:?}"),
    }
}

fn attnum(relation: &Relation, column: &str) -> i16 {
    relation.column(column).unwrap_or_else(|| panic!("{column} of {}", relation.name)).attnum
}

#[tokio::test]
async fn tables_columns_and_descent_are_as_the_server_has_them() {
    let lab = Lab::start();
    let snapshot = lab.load().await;
    let customers = relation(&snapshot, "customers");
    assert_eq!(customers.kind, RelationKind::Table);
    let columns: Vec<_> = customers.columns.iter().map(|c| (c.attnum, c.name.as_str(), c.type_oid)).collect();
    // Attribute 2 was dropped and its number stays taken.
    assert_eq!(columns, [(1, "id", 23), (3, "name", 25), (4, "ssn", 25), (5, "label", 25)]);
    let label = customers.column("label").expect("label");
    let mut sources = label.generated_from.clone();
    sources.sort_unstable();
    assert_eq!(sources, [3, 4]);
    assert!(customers.column("ssn").expect("ssn").generated_from.is_empty());

    let vip = relation(&snapshot, "vip");
    assert_eq!(vip.parents, [customers.oid]);
    assert_ne!(attnum(vip, "ssn"), attnum(customers, "ssn"), "a child's numbers are its own");

    let events = relation(&snapshot, "events");
    assert_eq!(events.kind, RelationKind::PartitionedTable);
    assert_eq!(relation(&snapshot, "events_2026").parents, [events.oid]);

    assert_eq!(snapshot.relation(customers.oid).map(|r| r.name.as_str()), Some("customers"));
    assert!(matches!(
        snapshot.resolve(Some("pg_catalog"), "pg_stats", &Lookup::Default),
        Resolution::Found(_)
    ));
}

#[tokio::test]
async fn views_tell_what_they_show() {
    let lab = Lab::start();
    let snapshot = lab.load().await;
    let customers = relation(&snapshot, "customers");
    let leak = relation(&snapshot, "leak");
    assert_eq!(leak.kind, RelationKind::View);
    let shown = leak.view.as_ref().expect("a view");
    assert!(shown.depends_on.contains(&(customers.oid, attnum(customers, "ssn"))), "{shown:?}");
    let text = shown.text.as_deref().expect("a definition");
    assert!(text.contains("customers.ssn AS harmless") && text.contains("FROM shop.customers"), "{text}");

    let public = relation(&snapshot, "public_customers").view.as_ref().expect("a view");
    assert!(!public.depends_on.contains(&(customers.oid, attnum(customers, "ssn"))));

    let twice = relation(&snapshot, "leak_twice");
    assert_eq!(twice.kind, RelationKind::MaterializedView);
    let shown = twice.view.as_ref().expect("a materialized view");
    assert!(shown.depends_on.contains(&(leak.oid, attnum(leak, "harmless"))), "{shown:?}");
    assert!(customers.view.is_none());
}

#[tokio::test]
async fn names_resolve_by_the_role_s_own_search_path() {
    let lab = Lab::start();
    let snapshot = lab.load().await;
    let found = |lookup: Lookup| match snapshot.resolve(None, "customers", &lookup) {
        Resolution::Found(relation) => Some(relation.schema.clone()),
        Resolution::Several(_) | Resolution::Unknown => None,
    };
    assert_eq!(found(Lookup::Default).as_deref(), Some("shop"));
    assert_eq!(found(Lookup::Schemas(vec!["public".to_owned()])), None);
    assert!(snapshot.has_user_function("ssn_of") && !snapshot.has_user_function("lower"));
    assert!(snapshot.has_user_operator("+#") && !snapshot.has_user_operator("="));
}

#[tokio::test]
async fn nothing_in_the_database_stands_in_for_a_built_in() {
    let lab = Lab::start();
    // Whatever the loader compared or called without qualification would now answer wrongly.
    lab.server
        .psql(
            "CREATE SCHEMA evil;
             GRANT USAGE ON SCHEMA evil TO app;
             CREATE FUNCTION evil.never(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false';
             CREATE FUNCTION evil.never(name, name) RETURNS bool LANGUAGE sql AS 'SELECT false';
             CREATE FUNCTION evil.never(\"char\", \"char\") RETURNS bool LANGUAGE sql AS 'SELECT false';
             CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.never);
             CREATE OPERATOR evil.<> (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.never);
             CREATE OPERATOR evil.= (LEFTARG = \"char\", RIGHTARG = \"char\", FUNCTION = evil.never);
             CREATE FUNCTION evil.current_schemas(bool) RETURNS name[] LANGUAGE sql AS 'SELECT ''{lie}''::name[]';
             CREATE FUNCTION evil.pg_get_viewdef(oid) RETURNS text LANGUAGE sql AS 'SELECT ''SELECT 1''';
             CREATE VIEW evil.pg_class AS SELECT 1 AS oid;
             ALTER ROLE app SET search_path = evil, pg_catalog, shop;",
        )
        .expect("traps");
    let snapshot = lab.load().await;
    let leak = relation(&snapshot, "leak");
    assert!(leak.view.as_ref().and_then(|v| v.text.as_deref()).is_some_and(|t| t.contains("shop.customers")));
    assert!(matches!(snapshot.resolve(None, "leak", &Lookup::Default), Resolution::Found(_)));
    assert!(snapshot.has_user_operator("=") && snapshot.has_user_function("pg_get_viewdef"));
}

#[tokio::test]
async fn a_snapshot_is_shared_until_the_schema_changes() {
    let lab = Lab::start();
    assert!(lab.catalogue.fresh().is_none());
    let (first, second) = tokio::join!(lab.load(), lab.load());
    assert!(Arc::ptr_eq(&first, &second), "who comes meanwhile takes the same");
    assert!(lab.catalogue.fresh().is_some_and(|held| Arc::ptr_eq(&held, &first)));

    lab.server.psql("CREATE TABLE shop.later (x int)").expect("DDL");
    assert!(matches!(lab.load().await.resolve(Some("shop"), "later", &Lookup::Default), Resolution::Unknown));
    lab.catalogue.outdated();
    assert!(lab.catalogue.fresh().is_none());
    let newer = lab.load().await;
    relation(&newer, "later");
}

#[tokio::test]
async fn a_lock_that_somebody_holds_costs_the_definitions_and_nothing_else() {
    let lab = Lab::start();
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(lab.server.port())
        .user("postgres")
        .connect(tokio_postgres::NoTls)
        .await
        .expect("connect");
    let driver = tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE shop.customers IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    let started = Instant::now();
    let snapshot = lab.load().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let customers = relation(&snapshot, "customers");
    let shown = relation(&snapshot, "leak").view.as_ref().expect("a view");
    assert!(shown.depends_on.contains(&(customers.oid, attnum(customers, "ssn"))));
    assert_eq!(shown.text, None, "the lock was in the way, or this test shows nothing");
    drop(client);
    driver.await.expect("driver").expect("connection");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused_by_name() {
    let lab = Lab::start();
    let endpoint = Endpoint::new(UpstreamAddr(lab.server.addr()), "localhost", UpstreamTls::disable());
    let credential = Credential::trusted("app");
    let error = Catalogue::new(endpoint, credential, PgString::from_static("nope"))
        .load()
        .await
        .expect_err("no such");
    assert_eq!(error.kind(), "refused");
    assert!(error.to_string().contains("3D000"), "{error}");
}
