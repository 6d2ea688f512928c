//! Random conversations, message by message and without waiting, with the server directly and through the proxy: the same
//! bytes must come back, and the same must be in the tables. Then with one operation that policy denies, against a
//! conversation in which the server itself fails at that place: the same, but for the error's words. Half of them with a
//! bound so low that most batches go on in parts.
//!
//! Seeded: a failure names its seed, and `LOCKGATE_PIPELINE_SEEDS=33` runs that one alone, `=1000..2000` other ones.

use crate::world::{Options, World};
use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use lockgate_proxy::Limits as ProxyLimits;
use lockgate_tests::through::ALLOW_ALL;
use lockgate_wire::postgres::{
    Format, PgString, Target,
    backend::Backend,
    frame::{Frame, FrameDecoder, Limits},
    frontend::{Bind, Execute, Frontend, FunctionCall, Parse},
    startup::{ProtocolVersion, StartupMessage},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Conversations of each kind; a minute together on a slow machine.
const CONVERSATIONS: u64 = 100;
/// Messages of a batch after which it goes on, in half of the conversations.
const RELEASED_AT: usize = 4;
/// How long an answer may take: a conversation takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Puts everything back. Tables are kept, so that their OIDs stay.
const RESET: &str = "TRUNCATE t, u, forbidden; INSERT INTO t SELECT g, 'n' || g FROM generate_series(1, 6) g; \
                     INSERT INTO forbidden VALUES (1)";
const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE u (id int, note text); \
                      CREATE TABLE forbidden (id int); CREATE TABLE tell (id int); \
                      CREATE RULE tells AS ON INSERT TO tell DO ALSO SELECT id, note FROM t ORDER BY id LIMIT 2; \
                      GRANT ALL ON t, u, forbidden, tell TO app; CREATE SCHEMA mine AUTHORIZATION app; \
                      CREATE VIEW mine.t AS SELECT 'mine' AS note";

/// Allows all but one table.
const ALL_BUT_ONE: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: all-but-one }
rules:
- id: everything-understood
  match: {}
  effect: allow
- id: everything-else
  match: { sql: { opaque: true } }
  effect: allow
- id: not-this-one
  match: { sql: { any_table: "forbidden" } }
  effect: deny
"#;

/// What policy denies, and what the server refuses in its place: each when it is parsed.
const DENIED: &str = "INSERT INTO forbidden VALUES (2)";
const FAILS: &str = "INSERT INTO no_such_table VALUES (2)";

/// Statements without parameters, for both protocols.
const PLAIN: &[&str] = &[
    "SELECT 1",
    "SELECT id, note FROM t ORDER BY id",
    "SELECT count(*) FROM u",
    "INSERT INTO u VALUES (1, 'plain')",
    "INSERT INTO t VALUES (1, 'twice')",
    "UPDATE t SET note = note || '!' WHERE id < 3 RETURNING id, note",
    "DELETE FROM u",
    "SELECT 1 / 0",
    "SELECT nonsense",
    "SELEKT 1",
    "",
    "-- nothing",
    "SET search_path = mine, public",
    "RESET search_path",
    "SHOW search_path",
    "SELECT note FROM t",
    "SET LOCAL standard_conforming_strings = off",
    "SET standard_conforming_strings = off",
    "RESET standard_conforming_strings",
    r"SELECT 'a\\b'",
    "PREPARE one (int) AS SELECT $1 + 1",
    "EXECUTE one(41)",
    "DEALLOCATE one",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id",
    "DECLARE held CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id",
    "FETCH 2 FROM c",
    "MOVE 1 IN held",
    "FETCH ALL FROM held",
    "CLOSE c",
    "CLOSE ALL",
    "COPY t TO STDOUT",
    "COPY (SELECT 1 WHERE false) TO STDOUT (FORMAT csv, HEADER)",
    "INSERT INTO tell VALUES (1)",
    "DO $$ BEGIN RAISE NOTICE 'hello'; RAISE WARNING 'there'; END $$",
    "LISTEN here",
    "SELECT set_config('application_name', 'changed', false)",
    "EXECUTE a(1)",
    "VALUES (1), (2), (3)",
    "EXPLAIN (COSTS OFF) SELECT 1",
    "CREATE TEMP TABLE IF NOT EXISTS temp (id int)",
    "INSERT INTO temp VALUES (1)",
    "SELECT * FROM temp",
];

/// Transaction control.
const CONTROL: &[&str] = &[
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "COMMIT AND CHAIN",
    "START TRANSACTION READ ONLY",
];

/// Several statements in one simple query.
const SEVERAL: &[&str] = &[
    "INSERT INTO u VALUES (2, 'several'); SELECT 1 / 0",
    "SELECT 1; SELECT 2; ; SELECT 3",
    "BEGIN; INSERT INTO u VALUES (3, 'open')",
    "INSERT INTO u VALUES (4, 'kept'); COMMIT; SELECT nonsense",
    "SET search_path = mine; SELECT note FROM t; RESET search_path; SELECT note FROM t LIMIT 1",
    "COPY t TO STDOUT; SELECT 1",
    "INSERT INTO tell VALUES (1); SELECT 7",
    "COPY u FROM STDIN; SELECT count(*) FROM u",
];

/// Statements with one parameter.
const WITH_VALUE: &[&str] = &[
    "SELECT $1::int + 1",
    "SELECT note FROM t WHERE id > $1 ORDER BY id",
    "INSERT INTO u VALUES ($1, 'bound')",
    "SELECT 10 / $1::int",
    "UPDATE u SET note = 'changed' WHERE id = $1",
];

/// A generator whose numbers depend on its seed alone (Knuth's LCG, upper bits).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound.max(1)
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// One conversation: pieces of messages, each sent at once; after a piece that says so, the client waits for ReadyForQuery
/// as often as it is owed.
#[derive(Default)]
struct Conversation {
    messages: Vec<Frontend>,
    /// Message numbers behind which the client waits until all is answered.
    waits: Vec<usize>,
}

/// What a rule adds and what code does is not read, so whatever policy says of any table counts.
fn is_in_doubt(sql: &str) -> bool {
    sql.contains("tell") || sql.starts_with("DO ")
}

fn text(value: &str) -> PgString {
    PgString::lossy(value)
}

/// `denied`: which statement stands where policy denies (or the server fails).
fn conversation(seed: u64, denied: Option<&str>) -> Conversation {
    let mut dice = Dice(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut all = Conversation::default();
    let segments = 2 + dice.below(7);
    let at = dice.below(segments);
    for segment in 0..segments {
        let injected = denied.filter(|_| segment == at);
        match dice.below(10) {
            0..=2 => simple(&mut dice, &mut all, denied.is_some(), injected),
            3 if injected.is_none() => {
                let (function, arguments) = if dice.below(3) == 0 { (99_999, 1) } else { (177, 2) };
                all.messages.push(Frontend::FunctionCall(FunctionCall {
                    function,
                    argument_formats: Vec::new(),
                    arguments: vec![Some(Bytes::from_static(b"20")); arguments],
                    result_format: Format::Text,
                }));
            }
            _ => extended(&mut dice, &mut all, denied.is_some(), injected),
        }
        if dice.below(3) == 0 {
            all.waits.push(all.messages.len());
        }
    }
    all.messages.push(Frontend::Sync);
    all.waits.push(all.messages.len());
    all.messages.push(Frontend::Terminate);
    all
}

fn simple(dice: &mut Dice, all: &mut Conversation, careful: bool, injected: Option<&str>) {
    let sql = match (injected, dice.below(4)) {
        (Some(denied), 0) => format!("INSERT INTO u VALUES (9, 'before'); {denied}; SELECT 1"),
        (Some(denied), _) => denied.to_owned(),
        (None, 0) => dice.of(CONTROL).to_owned(),
        (None, 1) => match dice.of(SEVERAL) {
            sql if careful && is_in_doubt(sql) => "SELECT 1; SELECT 2".to_owned(),
            sql => sql.to_owned(),
        },
        (None, _) => match dice.of(PLAIN) {
            sql if careful && is_in_doubt(sql) => "SELECT 1".to_owned(),
            sql => sql.to_owned(),
        },
    };
    let copies = sql.contains("FROM STDIN");
    all.messages.push(Frontend::Query(text(&sql)));
    if copies {
        copy_data(dice, all);
    }
}

fn copy_data(dice: &mut Dice, all: &mut Conversation) {
    for _ in 0..dice.below(3) {
        all.messages.push(Frontend::CopyData(Bytes::from_static(b"50\tcopied\n")));
    }
    if dice.below(4) == 0 {
        all.messages.push(Frontend::CopyData(Bytes::from_static(b"wrong\n")));
    }
    all.messages.push(if dice.below(4) == 0 {
        Frontend::CopyFail(text("no more"))
    } else {
        Frontend::CopyDone
    });
}

fn extended(dice: &mut Dice, all: &mut Conversation, careful: bool, injected: Option<&str>) {
    let steps = 1 + dice.below(5);
    let at = dice.below(steps);
    let mut copies = false;
    for step in 0..steps {
        let (statement, portal) = (dice.of(&["", "", "a", "b"]), dice.of(&["", "", "p", "q"]));
        let values = match (injected.filter(|_| step == at), dice.below(8)) {
            (Some(denied), _) => {
                parse(all, statement, denied, 0);
                0
            }
            (None, 0) => {
                parse(all, statement, dice.of(CONTROL), 0);
                0
            }
            (None, 1..=3) => {
                let sql = dice.of(PLAIN);
                parse(all, statement, if careful && is_in_doubt(sql) { "SELECT 1" } else { sql }, 0);
                0
            }
            (None, 4..=5) => {
                parse(all, statement, dice.of(WITH_VALUE), 1);
                1
            }
            (None, 6) if step + 1 == steps => {
                parse(all, statement, "COPY u FROM STDIN", 0);
                copies = true;
                0
            }
            // What an earlier step prepared, if any did.
            (None, _) => dice.below(2),
        };
        if dice.below(4) == 0 {
            all.messages.push(Frontend::Describe(Target::Statement(text(statement))));
        }
        let value = dice.of(&["0", "3", "5", "many"]);
        all.messages.push(Frontend::Bind(Bind {
            portal: text(portal),
            statement: text(statement),
            parameter_formats: Vec::new(),
            parameters: vec![Some(Bytes::copy_from_slice(value.as_bytes())); values],
            result_formats: Vec::new(),
        }));
        if dice.below(2) == 0 {
            all.messages.push(Frontend::Describe(Target::Portal(text(portal))));
        }
        let runs = if copies { 1 } else { 1 + dice.below(2) };
        for _ in 0..runs {
            let max_rows = if copies { 0 } else { i32::try_from(dice.below(3)).unwrap_or(0) };
            all.messages.push(Frontend::Execute(Execute { portal: text(portal), max_rows }));
        }
        if copies {
            copy_data(dice, all);
            break;
        }
        match dice.below(8) {
            0 => all.messages.push(Frontend::Close(Target::Portal(text(portal)))),
            1 => all.messages.push(Frontend::Close(Target::Statement(text(statement)))),
            2 => all.messages.push(Frontend::Flush),
            _ => {}
        }
    }
    all.messages.push(Frontend::Sync);
}

fn parse(all: &mut Conversation, statement: &str, sql: &str, values: usize) {
    all.messages.push(Frontend::Parse(Parse {
        statement: text(statement),
        sql: text(sql),
        parameter_types: vec![23; values],
    }));
}

/// A session over a socket.
struct Client {
    stream: TcpStream,
    input: BytesMut,
    heard: Vec<Frame>,
}

impl Client {
    fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, input: BytesMut::new(), heard: Vec::new() };
        let mut out = BytesMut::new();
        let pair = |name: &'static str, value: &'static str| (text(name), text(value));
        let parameters =
            vec![pair("user", "app"), pair("database", "orders"), pair("client_encoding", "UTF8")];
        StartupMessage { version: ProtocolVersion::V3_0, parameters }.encode(&mut out)?;
        client.stream.write_all(&out)?;
        client.listen(1)?;
        client.heard.clear();
        Ok(client)
    }

    /// Reads until that many ReadyForQuery have come in all.
    fn listen(&mut self, ready: usize) -> Result<()> {
        while self.heard.iter().filter(|frame| frame.tag() == b'Z').count() < ready {
            ensure!(self.read()?, "the peer closed; heard {}", shown(&self.heard));
        }
        Ok(())
    }

    fn read(&mut self) -> Result<bool> {
        let mut chunk = [0; 8192];
        let count = match self.stream.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => bail!("{error}; heard {}", shown(&self.heard)),
        };
        self.input.extend_from_slice(&chunk[..count]);
        while let Some(frame) = FrameDecoder::new(Limits::SERVER).next(&mut self.input)? {
            self.heard.push(frame);
        }
        Ok(count > 0)
    }

    fn hold(mut self, conversation: &Conversation) -> Result<Vec<Frame>> {
        let mut out = BytesMut::new();
        for (index, message) in conversation.messages.iter().enumerate() {
            message.encode(&mut out)?;
            if conversation.waits.contains(&(index + 1)) {
                self.send(&out.split())?;
                self.pause(conversation.messages.get(..=index).unwrap_or_default())?;
            }
        }
        self.send(&out)?;
        while self.read()? {}
        Ok(self.heard)
    }

    /// A peer that has closed said why, or will not be heard.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self.stream.write_all(bytes) {
            Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Waits until the server has answered what it would have been asked so far, by a bound: what of it is owed depends on
    /// errors and copies, so a while without a word counts as well.
    fn pause(&mut self, sent: &[Frontend]) -> Result<()> {
        let owed = sent
            .iter()
            .filter(|message| {
                matches!(message, Frontend::Query(_) | Frontend::Sync | Frontend::FunctionCall(_))
            })
            .count();
        self.stream.set_read_timeout(Some(Duration::from_millis(60)))?;
        while self.heard.iter().filter(|frame| frame.tag() == b'Z').count() < owed {
            let mut chunk = [0; 8192];
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error.into()),
            }
            while let Some(frame) = FrameDecoder::new(Limits::SERVER).next(&mut self.input)? {
                self.heard.push(frame);
            }
        }
        self.stream.set_read_timeout(Some(PATIENCE))?;
        Ok(())
    }
}

fn shown(frames: &[Frame]) -> String {
    let mut lines = String::new();
    for frame in frames {
        let body = String::from_utf8_lossy(&frame.body()).replace('\0', "·");
        lines.push_str(&format!("\n  {} {body}", char::from(frame.tag())));
    }
    lines
}

fn said(conversation: &Conversation) -> String {
    let mut lines = String::new();
    for (index, message) in conversation.messages.iter().enumerate() {
        lines.push_str(&format!("\n  {message:?}"));
        if conversation.waits.contains(&(index + 1)) {
            lines.push_str("\n  (waits)");
        }
    }
    lines
}

/// The same bytes. Names that the session never had are refused in the server's own words, but from another source file.
fn alike(direct: &Frame, through: &Frame) -> bool {
    if direct.bytes() == through.bytes() {
        return true;
    }
    match (Backend::decode(direct), Backend::decode(through)) {
        (Ok(Backend::ErrorResponse(direct)), Ok(Backend::ErrorResponse(through))) => {
            [&b"26000"[..], b"34000", b"42601"].contains(&direct.sqlstate())
                && direct.sqlstate() == through.sqlstate()
                && direct.message() == through.message()
        }
        _ => false,
    }
}

/// The same bytes, but for a denial in the place of the server's error. A transaction that has failed already is not asked
/// again by lockgate, which says its own word first.
fn alike_but_denied(direct: &Frame, through: &Frame) -> bool {
    let fails = |frame: &Frame, with: &[u8]| matches!(Backend::decode(frame), Ok(Backend::ErrorResponse(report)) if report.sqlstate() == with);
    alike(direct, through) || (fails(direct, b"42P01") || fails(direct, b"25P02")) && fails(through, b"42501")
}

/// Whether the session was ended by the other side.
fn is_over(heard: &[Frame]) -> bool {
    heard.last().is_some_and(
        |last| matches!(Backend::decode(last), Ok(Backend::ErrorResponse(report)) if report.is_fatal()),
    )
}

/// What is in the tables.
fn state(world: &World) -> Result<String> {
    world.server.psql_in(
        "orders",
        "SELECT 't', * FROM t UNION ALL SELECT 'u', * FROM u UNION ALL SELECT 'f', id, '' FROM forbidden ORDER BY 1, 2, 3",
    )
}

/// One with the usual bounds, and one in which batches go on in parts.
fn worlds(policy: &str) -> Result<[World; 2]> {
    let world = |limits| -> Result<World> {
        let options = Options { policy: Some(policy.to_owned()), limits, ..Options::default() };
        let world = World::with(&[], options)?;
        world.server.psql_in("orders", TABLES)?;
        Ok(world)
    };
    let parts = ProxyLimits { release_messages: RELEASED_AT, ..ProxyLimits::default() };
    Ok([world(ProxyLimits::default())?, world(parts)?])
}

fn of(worlds: &[World; 2], seed: u64) -> &World {
    let [whole, parts] = worlds;
    if seed.is_multiple_of(2) { whole } else { parts }
}

fn seeds() -> Result<Vec<u64>> {
    let Ok(wanted) = std::env::var("LOCKGATE_PIPELINE_SEEDS") else {
        return Ok((0..CONVERSATIONS).collect());
    };
    let what = "LOCKGATE_PIPELINE_SEEDS is a number or FROM..TO";
    match wanted.split_once("..") {
        None => Ok(vec![wanted.parse().context(what)?]),
        Some((from, to)) => Ok((from.parse().context(what)?..to.parse().context(what)?).collect()),
    }
}

#[test]
fn a_random_conversation_gets_the_same_bytes_as_directly() -> Result<()> {
    let worlds = worlds(ALLOW_ALL)?;
    let mut failures = Vec::new();
    for seed in seeds()? {
        let world = of(&worlds, seed);
        let script = conversation(seed, None);
        world.server.psql_in("orders", RESET)?;
        let direct = Client::open(world.server.port())?
            .hold(&script)
            .with_context(|| format!("seed {seed}, directly: {}", said(&script)))?;
        let before = state(world)?;
        world.server.psql_in("orders", RESET)?;
        let through = Client::open(world.port)?
            .hold(&script)
            .with_context(|| format!("seed {seed}: {}", said(&script)))?;
        let after = state(world)?;
        // Who breaks the protocol ends the session: one error earlier or later.
        let same = is_over(&direct) && is_over(&through)
            || direct.len() == through.len() && direct.iter().zip(&through).all(|(a, b)| alike(a, b));
        if !same || before != after {
            failures.push(format!(
                "seed {seed}: {}\ndirectly:{}\n{before}\nthrough:{}\n{after}\n",
                said(&script),
                shown(&direct),
                shown(&through)
            ));
        }
    }
    ensure!(failures.is_empty(), "{} conversations differ: {}", failures.len(), failures.join("\n"));
    Ok(())
}

#[test]
fn a_denial_in_a_random_conversation_leaves_what_an_error_there_would() -> Result<()> {
    let worlds = worlds(ALL_BUT_ONE)?;
    let ready = |frames: &[Frame]| -> Vec<u8> {
        let ready = frames.iter().filter(|frame| frame.tag() == b'Z');
        ready.filter_map(|frame| frame.body().first().copied()).collect()
    };
    let mut failures = Vec::new();
    let mut denials = 0;
    for seed in seeds()? {
        let world = of(&worlds, seed);
        world.server.psql_in("orders", RESET)?;
        let failing = conversation(seed, Some(FAILS));
        let direct = Client::open(world.server.port())?
            .hold(&failing)
            .with_context(|| format!("seed {seed}, directly: {}", said(&failing)))?;
        let before = state(world)?;
        world.server.psql_in("orders", RESET)?;
        let denied = conversation(seed, Some(DENIED));
        let through = Client::open(world.port)?
            .hold(&denied)
            .with_context(|| format!("seed {seed}: {}", said(&denied)))?;
        let after = state(world)?;
        denials += usize::from(shown(&through).contains("not-this-one"));
        // A text with several statements is refused whole, where the server runs the first of them before it fails.
        let several = denied.messages.iter().any(
            |message| matches!(message, Frontend::Query(sql) if sql.to_string_lossy().contains("'before'")),
        );
        let same = match several {
            true => ready(&direct) == ready(&through),
            false => {
                is_over(&direct) && is_over(&through)
                    || direct.len() == through.len()
                        && direct.iter().zip(&through).all(|(a, b)| alike_but_denied(a, b))
            }
        };
        if !same || before != after {
            failures.push(format!(
                "seed {seed}: {}\ndirectly, failing:{}\n{before}\nthrough:{}\n{after}\n",
                said(&denied),
                shown(&direct),
                shown(&through)
            ));
        }
    }
    ensure!(failures.is_empty(), "{} conversations differ: {}", failures.len(), failures.join("\n"));
    ensure!(seeds()?.len() < 50 || denials > 20, "only {denials} conversations were denied anything");
    Ok(())
}
