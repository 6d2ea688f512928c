//! Mutated statements against a real server: what lockgate calls a read is run in a read-only session, and must never be
//! refused there as a write. What a read-only session lets through all the same (advisory locks, LISTEN, large
//! objects) is looked for afterwards. The database is full of traps: functions, operators, types, views and policies of
//! its own, harmless ones and others, and lockgate has its catalogue.
//!
//! Seeds are the corpora of lockgate-inspect and the attempts of `leaks`; mutants that ran become seeds themselves. The
//! generator is seeded, so a failure comes again: `LOCKGATE_DIFFERENTIAL_SEED`. `cargo xtask fuzz differential` runs it for
//! longer.

use anyhow::{Context, Result, bail, ensure};
use lockgate_inspect::sql::{Inspector, SessionState, catalogue::CatalogueSnapshot};
use lockgate_model::{addr::UpstreamAddr, sql::SqlClass};
use lockgate_proxy::{
    catalogue::Catalogue,
    tls::UpstreamTls,
    upstream::{Credential, Endpoint},
};
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use lockgate_wire::postgres::PgString;
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_postgres::{Client, NoTls, error::SqlState};

/// How long it goes on. A run outside of CI may raise it: LOCKGATE_DIFFERENTIAL_SECONDS=600.
const SECONDS: u64 = 8;

/// Fewer statements than this that the server really ran would show nothing; LOCKGATE_DIFFERENTIAL_EXECUTED raises it.
const RAN_AT_LEAST: u64 = 200;

/// Sessions at a time: two under each meaning of backslashes in quotes.
const SESSIONS: u64 = 4;

/// Mutants that ran and are mutated again.
const POOL: usize = 20_000;

/// Pieces that change what a text is.
const PIECES: &[&str] = &[
    ";",
    "--",
    "/*",
    "*/",
    "'",
    "\"",
    "$$",
    "$a$",
    "\n",
    "E'",
    "U&'",
    "U&\"",
    "\\",
    "end",
    "into",
    "into temp",
    "for update",
    "for share",
    "for no key update",
    "only",
    "select",
    "delete from t",
    "; delete from t;",
    "insert into t values (1)",
    "update t set id = 1",
    "truncate t",
    "drop table t",
    "with w as",
    "(delete from t returning 1)",
    "f()",
    "public.f()",
    "1 +# 2",
    "nextval('s')",
    "setval('s', 1)",
    "lo_create(0)",
    "pg_notify('a', 'b')",
    "pg_advisory_lock(1)",
    "pg_try_advisory_lock(1)",
    "set_config('a.b', 'c', false)",
    "explain",
    "explain analyze",
    "(analyze)",
    "copy",
    "to stdout",
    "execute",
    "prepare p as",
    "declare c cursor for",
    "begin",
    "commit",
    "as",
    "from",
    "where",
    "union",
    "union all",
    "||",
    "::",
    "::regclass",
    "(",
    ")",
    "[",
    "]",
    ",",
    ".",
    "*",
    "a",
    "t",
    "id",
    "null",
    "lateral",
    "rows from",
    "tablesample",
    "lower('a')",
    "pg_catalog.lower('a')",
    "evil.lower('a')",
    "query_to_xml('delete from t', true, false, '')",
    "listen a",
    "notify a",
    "lock table t",
    "create table n (a int)",
    "create temp table n as",
    "refresh materialized view m",
    "call p()",
    "do $$ begin end $$",
    "returning",
    "cast",
    "interval",
    "date",
    "collate \"C\"",
    "operator(public.+#)",
    "calm(1)",
    "sly(1)",
    "deep(1)",
    "loud(1)",
    "agg(id)",
    "quiet_agg(id)",
    "1 +~ 2",
    "::guarded",
    "'1'::guarded",
    "::calm_int",
    "null::pair",
    "from calm_view",
    "from sly_view",
    "from watched",
    "from child",
    "(t).f_of_t",
    "t.f_of_t",
    "between 1 and 2",
    "in (select 1)",
    "json_to_record('{}') as x(a guarded)",
    "json_populate_record(null::pair, '{}')",
    "tablesample system (50) repeatable (f())",
    "order by 1 using <",
    "explain (analyze off)",
    "explain (analyze 0, costs)",
    "jsonb_path_query('{}', '$')",
    "xmltable('/a' passing null columns a guarded)",
    "\\'",
    "'a\\'",
    "filter (where f() = 1)",
    "over (order by f())",
    "grouping sets ((id), ())",
    "with recursive r as (select 1 union all select 1 from r)",
    "fetch all from c",
    "current_setting('a.b')",
    "run('select 1')",
    "run('delete from t')",
    "run('select f()')",
    "run(format('select %s', 'f()'))",
    "run(format('select %I', 'a'))",
    "run(format('select %L', 'a'))",
    "run('select ' || quote_literal('a'))",
    "run(coalesce(null, 'select 1'))",
    "run($$select 'a'$$)",
    "run(E'select \\'a\\'')",
    "run('select run(''select 1'')')",
    "plan('select 1')",
    "plan('analyze select f()')",
    "plan('(analyze) delete from t')",
    "plan(loud => true, query =>",
    "swap('select 1')",
    "shadow('select 1')",
    "chain('select 1')",
    "count_of('t')",
    "count_of('t; delete from t')",
    "'select 1'",
    "'delete from t returning 1'",
    "'; delete from t; --'",
    "''; delete from t; --''",
    "select run(",
    "format('%s', ",
    "concat('select ', ",
    "json_scalar('a')",
    "json_value('{}', '$')",
    "json_array(1, 2)",
    "json_object('{a,1}')",
    "merge_action()",
];

/// Statements that run texts, beside the corpora: their mutants meet the traps that run texts.
const TEXTS: &[&str] = &[
    "select run('select 1')",
    "select * from run('select id::text from t where a = ''x''')",
    "select run('select ' || '1')",
    "select run(format('select %s from %I where a = %L', 'id', 't', 'x'))",
    "select run(format('select %2$L, %1$s', '1', 'a'))",
    "select run(concat('select ', 1, null, '::text'))",
    "select run(coalesce(null, 'select 1'))",
    "select run('select * from ' || quote_ident('t') || ' where a = ' || quote_literal('x'))",
    "select run($$select 'a' || E'\\''$$)",
    "select plan('select * from t')",
    "select plan('select * from t', true)",
    "select plan(loud => false, query => 'select count(*) from orders')",
    "select count_of('t')",
    "select count_of('orders'), count_of(null)",
    "select chain('select 1')",
    "select chain('select ''select 1''')",
    "select * from run('select name from customers') r join plan('select 1') p on true",
    "select run('select plan(''select 1'')')",
    "explain analyze select run('select 1')",
    "with w as (select run('select 1') as x) select * from w where x = '1'",
    "select again('select 1')",
    "select definer('select 1')",
];

const SETUP: &str = "
    create table t (id int, a text, b text, ssn text, note text);
    create table u (like t); create table c (like t); create table x (like t); create table y (like t);
    create table orders (id int primary key, customer_id int, amount numeric, note text, total int);
    create table customers (id int primary key, name text, ssn text, card_number text, email text);
    insert into t values (1, 'a', 'b', 'c', 'd'), (2, null, 'b', 'c', 'd'); insert into orders values (1, 1, 1, 'x', 1);
    insert into customers values (1, 'a', 'b', 'c', 'd');
    create sequence s; create materialized view m as select 1;
    create function f() returns int language plpgsql as $$ begin delete from t; return 1; end $$;
    create function plus(int, int) returns int language plpgsql as $$ begin delete from t; return 1; end $$;
    create operator +# (leftarg = int, rightarg = int, function = plus);
    create procedure p() language plpgsql as $$ begin delete from t; end $$;
    create schema evil;
    create function evil.lower(text) returns text language plpgsql as $$ begin delete from t; return 1; end $$;
    create function calm(int) returns int language sql immutable as 'select $1 + 1';
    create function deep(int) returns int language sql stable as 'select calm($1)';
    create function sly(int) returns int language plpgsql immutable as $$ begin return f(); end $$;
    create function loud(int) returns int language plpgsql as $$ begin if $1 > 5 then return (select max(id) from t); end if; return $1; end $$;
    create function f_of_t(t) returns int language sql as 'select f()';
    create function add(int, int) returns int language sql as 'select $1 + $2';
    create operator +~ (leftarg = int, rightarg = int, function = add);
    create aggregate agg(int) (sfunc = plus, stype = int, initcond = '0');
    create aggregate quiet_agg(int) (sfunc = add, stype = int, initcond = '0');
    create domain guarded as int check (f() = 1 or value > 0);
    create domain calm_int as int check (value > 0);
    create type pair as (a guarded, b int);
    create view calm_view as select id, calm(id) from t;
    create view sly_view as select id, sly(id) from t;
    create table watched (id int); insert into watched values (1);
    alter table watched enable row level security;
    create policy p on watched using (f() = 1);
    create table parent (id int); create table child () inherits (parent); insert into child values (1);
    create function run(text) returns setof text language plpgsql as $$ begin return query execute $1; end $$;
    create function plan(query text, loud bool default false) returns setof text language plpgsql as
        $$ begin return query execute 'explain ' || query; end $$;
    create function count_of(name text) returns bigint language plpgsql strict as
        $$ declare n bigint; begin execute format('select count(*) from %I', name) into n; return n; end $$;
    create function swap(q text) returns setof text language plpgsql as
        $$ begin q := 'delete from t returning a'; return query execute q; end $$;
    create function shadow(q text) returns setof text language plpgsql as
        $$ begin declare q text := 'delete from t returning a'; begin return query execute q; end; end $$;
    create function chain(q text) returns setof text language plpgsql as
        $$ declare l text; begin for l in execute q loop return next l; end loop; return query execute 'select ' || quote_nullable(q); end $$;
    create function again(q text) returns setof text language plpgsql as
        $$ begin if q <> '' then perform again(''); end if; return query execute 'delete from t returning a'; end $$;
    create function definer(q text) returns setof text language plpgsql security definer set search_path = evil as
        $$ begin return query execute q; end $$;
    create function json_scalar(text) returns int language sql as 'select f()';
    create function json_value(text, text) returns int language sql as 'select f()';
    create function json_array(int, int) returns int language sql as 'select f()';
    create function json_object(int) returns int language sql as 'select f()';
    create function merge_action() returns int language sql as 'select f()';
    create role reader login; grant all on all tables in schema public to reader; grant all on all sequences in schema public to reader;
    grant usage on schema evil to reader; grant create on schema public to reader";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_called_a_read_is_one_on_the_server() -> Result<()> {
    let server = TestPostgres::start(PostgresOptions::new())?;
    server.psql(SETUP)?;
    let endpoint = Endpoint::new(UpstreamAddr(server.addr()), "localhost", UpstreamTls::disable());
    let catalogue =
        Catalogue::new(endpoint, Credential::trusted("reader"), PgString::from_static("postgres"));
    let snapshot = catalogue.load().await?;
    let until = Instant::now() + Duration::from_secs(number("SECONDS")?.unwrap_or(SECONDS));
    let first_seed = number("SEED")?.unwrap_or(0x6c6f_636b_6761_7465);
    let seeds = seeds()?;
    let mut sessions = tokio::task::JoinSet::new();
    for index in 0..SESSIONS {
        let standard = index % 2 == 0;
        let options = format!(
            "-c default_transaction_read_only=on -c statement_timeout=200 -c lock_timeout=100 -c standard_conforming_strings={}",
            if standard { "on" } else { "off" }
        );
        let settings =
            format!("host=127.0.0.1 port={} dbname=postgres user=reader options='{options}'", server.port());
        let seeds: Vec<String> =
            seeds.iter().skip(index as usize).step_by(SESSIONS as usize).cloned().collect();
        let session = Mutation {
            snapshot: snapshot.clone(),
            standard,
            seeds,
            random: Random(first_seed.wrapping_add(index)),
            until,
        };
        sessions.spawn(session.run(settings));
    }
    let mut all = Counts::default();
    while let Some(session) = sessions.join_next().await {
        let counts = session??;
        all = Counts {
            tried: all.tried + counts.tried,
            reads: all.reads + counts.reads,
            ran: all.ran + counts.ran,
        };
    }
    let Counts { tried, reads, ran } = all;
    println!(
        "{tried} texts, {reads} called reads, {ran} of them ran, none of them wrote (seed {first_seed})"
    );
    let least = number("EXECUTED")?.unwrap_or(RAN_AT_LEAST);
    ensure!(ran >= least, "{tried} texts, {reads} called reads, only {ran} ran, expected {least}");
    ensure!(server.psql("select last_value || ' ' || is_called from s")? == "1 false", "a sequence moved");
    ensure!(server.psql("select count(*) from pg_largeobject_metadata")? == "0", "a large object exists");
    Ok(())
}

fn number(what: &str) -> Result<Option<u64>> {
    match std::env::var(format!("LOCKGATE_DIFFERENTIAL_{what}")) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("LOCKGATE_DIFFERENTIAL_{what}={text}"))?)),
        Err(_) => Ok(None),
    }
}

#[derive(Default)]
struct Counts {
    tried: u64,
    reads: u64,
    ran: u64,
}

/// One session's mutants.
struct Mutation {
    snapshot: Arc<CatalogueSnapshot>,
    standard: bool,
    seeds: Vec<String>,
    random: Random,
    until: Instant,
}

impl Mutation {
    async fn run(mut self, settings: String) -> Result<Counts> {
        let (client, connection) = tokio_postgres::connect(&settings, NoTls).await?;
        let connection = tokio::spawn(connection);
        let mut state = SessionState::default();
        state.parameter_status("server_version", "15.18");
        state.parameter_status("standard_conforming_strings", if self.standard { "on" } else { "off" });
        let mut counts = Counts::default();
        // The seeds themselves first.
        let mut first = self.seeds.clone().into_iter();
        let texts: Vec<String> = TEXTS.iter().map(|seed| (*seed).to_owned()).collect();
        let (mut grown, mut met) = (Vec::new(), HashSet::new());
        while Instant::now() < self.until {
            // What ran is mutated again, half of the time; more would drift into a few shapes that always run.
            let from = match self.random.below(8) {
                0..4 if !grown.is_empty() => &grown,
                4 => &texts,
                _ => &self.seeds,
            };
            let text = first.next().unwrap_or_else(|| mutant(from, &self.seeds, &mut self.random));
            let digest = {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                hasher.finish()
            };
            if !met.insert(digest) {
                continue;
            }
            counts.tried += 1;
            let script = Inspector.script(&text, &state, Some(&self.snapshot));
            if script.class() != SqlClass::Read || script.statements.is_empty() {
                continue;
            }
            counts.reads += 1;
            match client.simple_query(&text).await {
                Ok(_) => {
                    counts.ran += 1;
                    let tells = text.len() < 600 && !text.contains("--") && !text.contains("/*");
                    if grown.len() < POOL && tells {
                        grown.push(text);
                    }
                }
                Err(error) => {
                    ensure!(!client.is_closed(), "{text:?} ended the session: {error}");
                    if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
                        bail!("{text:?} is called a read, and the server says: {error:?}");
                    }
                }
            }
        }
        nothing_was_done(&client).await?;
        drop(client);
        connection.await??;
        Ok(counts)
    }
}

/// A read-only session may still lock, listen, set and make large objects (before PostgreSQL 16).
async fn nothing_was_done(client: &Client) -> Result<()> {
    for (what, query) in [
        (
            "a lock is held",
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        ),
        ("something is listened to", "select count(*) from pg_listening_channels()"),
        (
            "a setting was made",
            "select count(*) from pg_settings where source = 'session' and name not like 'transaction%'",
        ),
        ("a row is gone", "select 2 - count(*) from t"),
        ("a transaction is open", "select (now() < clock_timestamp() - interval '5 s')::int"),
    ] {
        let messages = client.simple_query(query).await.with_context(|| what.to_owned())?;
        let count = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        ensure!(count.as_deref() == Some("0"), "{what}: {count:?}");
    }
    Ok(())
}

fn seeds() -> Result<Vec<String>> {
    let corpora = [
        include_str!("../../fixtures/sql/statements.jsonl"),
        include_str!("../../fixtures/sql/adversarial.jsonl"),
    ];
    let mut seeds = Vec::new();
    for line in corpora.iter().flat_map(|corpus| corpus.lines()) {
        let value: serde_json::Value = serde_json::from_str(line)?;
        if let Some(sql) = value["sql"].as_str()
            && sql.len() < 2_000
            && !sql.contains('\0')
        {
            seeds.push(sql.to_owned());
        }
    }
    let attempts = include_str!("../../fixtures/leaks/attempts.sql").lines();
    seeds.extend(attempts.filter(|line| !line.starts_with("--") && !line.contains('\\')).map(str::to_owned));
    seeds.extend(TEXTS.iter().map(|seed| (*seed).to_owned()));
    seeds.retain(|seed| !seed.is_empty());
    Ok(seeds)
}

/// A seed with one to four of its tokens dropped, doubled, swapped, or replaced by a piece or another seed's token.
fn mutant(from: &[String], seeds: &[String], random: &mut Random) -> String {
    let mut tokens = tokens(random.pick(from));
    for _ in 0..=random.below(3) {
        let at = random.below(tokens.len() + 1);
        match random.below(6) {
            0 if at < tokens.len() => drop(tokens.remove(at)),
            1 if at < tokens.len() => {
                let token = tokens[at].clone();
                tokens.insert(at, token);
            }
            2 if tokens.len() > 1 => {
                let other = random.below(tokens.len());
                let at = at.min(tokens.len() - 1);
                tokens.swap(at, other);
            }
            3 => {
                let other = self::tokens(random.pick(seeds));
                let from = random.below(other.len().max(1));
                tokens.splice(at..at, other.into_iter().skip(from));
            }
            _ => tokens.insert(at, format!(" {} ", PIECES[random.below(PIECES.len())])),
        }
    }
    tokens.concat()
}

/// Words, runs of operator characters, and single other characters; white space stays with what it precedes.
fn tokens(text: &str) -> Vec<String> {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Word,
        Operator,
        Other,
    }
    let kind = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' => Kind::Word,
        c if "+-*/<>=~!@#%^&|`?".contains(c) => Kind::Operator,
        _ => Kind::Other,
    };
    let mut tokens: Vec<String> = Vec::new();
    let mut last = Kind::Other;
    for c in text.chars() {
        match tokens.last_mut() {
            Some(token) if last != Kind::Other && kind(c) == last => token.push(c),
            _ => tokens.push(c.to_string()),
        }
        last = kind(c);
    }
    tokens
}

/// splitmix64: good enough to mutate with, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or_default()
    }

    fn pick<'a>(&mut self, from: &'a [String]) -> &'a str {
        let at = self.below(from.len());
        from.get(at).map(String::as_str).unwrap_or_default()
    }
}
