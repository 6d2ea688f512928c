//! A hostile client tries to get something undecided past the proxy: by the order of messages, by names, by what stands
//! behind a held or refused statement, by broken openings. What counts is not what the client saw but what the target's
//! own log and data show.
//!
//! Every statement that may not arrive carries a mark of its own; the target logs statements, Parse and Bind alike.

use crate::world::{CARD, POLICY, SSN, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::built_binary,
    job::{self, Done, JOB_UID, Running},
    receiver::{Decision, Delivery},
};
use std::time::{Duration, Instant};

/// Writes to the ledger wait for a DBA; the rest is the world's policy.
fn policy() -> String {
    format!(
        "{POLICY}- id: ledger-dba\n  match: {{ sql: {{ class: write, any_table: [\"*.ledger\"] }} }}\n  effect: require_approval\n  \
         approval: {{ stages: [{{ at: 0m, from: {{ group: dba }}, need: 1 }}], timeout: 20s }}\n"
    )
}

/// A world whose server logs every message, and a client that says what it is told.
struct Arena {
    world: World,
    client: String,
    flows: std::sync::atomic::AtomicUsize,
}

impl Arena {
    async fn new() -> Result<Self> {
        let world = World::with(&policy(), |_, _| {}).await?;
        world.pg.psql("ALTER SYSTEM SET log_min_duration_statement = 0")?;
        world.pg.psql("SELECT pg_reload_conf()")?;
        world.pg.psql_in("shop", "SET ROLE app; CREATE TABLE public.ledger (id int, amount int); INSERT INTO ledger VALUES (1, 0), (2, 0)")?;
        // A function of the application that changes how the server reads text; anybody may call it.
        world.pg.psql_in(
            "shop",
            "SET ROLE app; CREATE FUNCTION public.backslashes() RETURNS void LANGUAGE plpgsql AS \
             $$BEGIN PERFORM set_config('standard_conforming_strings', 'off', false); END$$; \
             CREATE TABLE public.victims (id int, note text); INSERT INTO victims VALUES (1, 'kept'), (2, 'kept')",
        )?;
        let client = world.agent.scratch().path().join("pg-script");
        std::fs::copy(built_binary("lockgate-pg-script")?, &client)?;
        Ok(Self { world, client: client.display().to_string(), flows: Default::default() })
    }

    /// Starts a governed client that opens `connections` sessions, each running this script.
    fn start(&self, script: &str, connections: usize) -> Result<Running> {
        self.flows.fetch_add(connections, std::sync::atomic::Ordering::Relaxed);
        let address = self.world.pg.addr().to_string();
        let connections = connections.to_string();
        let command = [self.client.as_str(), &address, script, &connections];
        job::start(job::governed(&self.world.agent, JOB_UID, &[], &command))
    }

    /// A session: the opening, then these steps.
    fn session(&self, steps: &str) -> Result<Running> {
        self.start(&session(steps), 1)
    }

    /// Rows of `orders` with this mark.
    fn rows(&self, mark: &str) -> Result<String> {
        self.world.pg.psql_in("shop", &format!("SELECT count(*) FROM orders WHERE note = '{mark}'"))
    }

    /// One closing record for every flow, nothing panicked, and the log verifies.
    async fn settle(&self) -> Result<()> {
        let flows = self.flows.load(std::sync::atomic::Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let closings =
                self.world.events("session_ended")?.len() + self.world.events("flow_refused")?.len();
            if closings == flows {
                break;
            }
            ensure!(
                closings < flows && Instant::now() < until,
                "{closings} closing records for {flows} flows\n{}",
                self.world.agent.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // None comes late.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let closings = self.world.events("session_ended")?.len() + self.world.events("flow_refused")?.len();
        ensure!(closings == flows, "{closings} closing records for {flows} flows");
        ensure!(!self.world.agent.log().contains("panicked"), "{}", self.world.agent.log());
        let verify = self.world.agent.cli(&["audit", "verify"])?;
        ensure!(verify.status.success(), "{verify:?}");
        Ok(())
    }
}

fn session(steps: &str) -> String {
    format!("startup user=x|database=shop\nawait Z\n{steps}\nterminate")
}

/// One attack: what the client says, what it must hear, what the target may not have heard, and marks of rows with the
/// number that may stand in `orders` afterwards.
struct Attack {
    what: &'static str,
    steps: &'static str,
    hears: &'static [&'static str],
    unheard: &'static [&'static str],
    rows: &'static [(&'static str, &'static str)],
}

const ATTACKS: &[Attack] = &[
    Attack {
        what: "a denied Execute in the middle of a pipeline",
        steps: "parse |insert into orders values (1001,1,1,'W01')\nbind |\nexecute
            parse |update orders set note='M01'\nbind |\nexecute
            parse |insert into orders values (1002,1,1,'W01')\nbind |\nexecute\nsync\nawait Z
            query select 'on'||'ward'\nawait Z",
        hears: &["E 42501", "Z I", "D onward"],
        unheard: &["M01"],
        rows: &[("W01", "0")],
    },
    Attack {
        what: "a denied Execute after a Flush takes the first half back",
        steps: "parse |insert into orders values (1003,1,1,'W02')\nbind |\nexecute\nflush\nawait C
            parse |update orders set note='M02'\nbind |\nexecute\nsync\nawait Z\nquery select 'on'||'ward'\nawait Z",
        hears: &["C INSERT 0 1", "E 42501", "Z I", "D onward"],
        unheard: &["M02"],
        rows: &[("W02", "0")],
    },
    Attack {
        what: "the same without waiting for the first half",
        steps: "parse |insert into orders values (1003,1,1,'W03')\nbind |\nexecute\nflush
            parse |update orders set note='M03'\nbind |\nexecute\nflush
            parse |insert into orders values (1004,1,1,'W03')\nbind |\nexecute\nflush\nsync\nawait Z",
        hears: &["E 42501", "Z I"],
        unheard: &["M03"],
        rows: &[("W03", "0")],
    },
    Attack {
        what: "Execute of a name whose Parse was denied",
        steps: "parse s4|update orders set note='M04'\nsync\nawait Z\nbind |s4\nexecute\nsync\nawait Z",
        hears: &["E 42501", "E 26000", "Z I"],
        unheard: &["M04"],
        rows: &[],
    },
    Attack {
        what: "Parse of a taken name with another text",
        steps: "parse s5|select 1\nsync\nawait Z\nparse s5|update orders set note='M05'\nbind |s5\nexecute\nsync\nawait Z
            close S|s5\nparse s5|update orders set note='M05b'\nbind |s5\nexecute\nsync\nawait Z
            parse |select 1\nsync\nparse |update orders set note='M05c'\nbind |\nexecute\nsync\nawait Z\nawait Z",
        hears: &["E 42501", "Z I"],
        unheard: &["M05"],
        rows: &[],
    },
    Attack {
        what: "Describe of a denied statement, without Execute",
        steps: "parse s6|update orders set note='M06'\ndescribe S|s6\nsync\nawait Z\ndescribe S|s6\nsync\nawait Z",
        hears: &["E 42501", "E 26000"],
        unheard: &["M06"],
        rows: &[],
    },
    Attack {
        what: "portals that are not known, or whose batch was denied",
        steps: "execute nope\nsync\nawait Z
            parse s7|insert into orders values (1007,1,1,'W07')\nbind p7|s7
            parse |update orders set note='M07'\nbind |\nexecute\nsync\nawait Z\nexecute p7\nsync\nawait Z
            query begin\nawait Z\nparse s7|insert into orders values (1007,1,1,'W07')\nbind p7|s7
            parse |update orders set note='M07'\nbind |\nexecute\nsync\nawait Z\nexecute p7\nsync\nawait Z\nquery commit\nawait Z",
        hears: &["E 34000", "E 42501", "C ROLLBACK"],
        unheard: &["M07"],
        rows: &[("W07", "0")],
    },
    Attack {
        what: "a simple Query inside an open segment",
        steps: "parse |insert into orders values (1008,1,1,'W08')\nbind |\nexecute\nquery update orders set note='M08'\nsync\nawait Z\nawait Z",
        hears: &["E 42501"],
        unheard: &["M08"],
        rows: &[("W08", "0")],
    },
    Attack {
        what: "BEGIN, a denied pipeline, COMMIT",
        steps: "query begin\nawait Z\nparse |insert into orders values (1010,1,1,'W10')\nbind |\nexecute
            parse |update orders set note='M10'\nbind |\nexecute\nsync\nquery commit\nawait Z\nawait Z",
        hears: &["E 42501", "Z E", "C ROLLBACK", "Z I"],
        unheard: &["M10"],
        rows: &[("W10", "0")],
    },
    Attack {
        what: "COMMIT in the middle of a refused string",
        steps: "query insert into orders values (1011,1,1,'W11'); commit; update orders set note='M11'\nawait Z
            query begin; insert into orders values (1011,1,1,'W11')\nawait Z
            query commit; update orders set note='M11'; begin\nquery commit\nawait Z\nawait Z",
        hears: &["E 42501", "C ROLLBACK"],
        unheard: &["M11"],
        rows: &[("W11", "0")],
    },
    Attack {
        what: "PREPARE, EXECUTE and names that both protocols share",
        steps: "query prepare q13 as update orders set note='M13'\nawait Z\nquery execute q13\nawait Z
            parse t13|select 1\nsync\nawait Z\nquery deallocate t13; prepare t13 as select ssn, card_number from customers\nawait Z
            bind |t13\nexecute\nsync\nawait Z
            query prepare u13 as select 1\nawait Z\nparse u13|update orders set note='M13'\nsync\nawait Z\nbind |u13\nexecute\nsync\nawait Z
            query prepare v13 as select ssn from customers\nquery execute v13\nawait Z\nawait Z
            parse w13|execute v13\nbind |w13\nexecute\nsync\nawait Z
            query explain analyze execute q13\nawait Z",
        hears: &["E 42501"],
        unheard: &["M13"],
        rows: &[],
    },
    Attack {
        what: "cursors under the names of portals, and portals under the names of cursors",
        steps: "query begin\nawait Z\nquery declare c14 cursor for select ssn, card_number from customers\nawait Z
            execute c14\nsync\nawait Z\nquery rollback\nquery begin\nawait Z\nawait Z
            parse |select ssn, card_number from customers\nbind p14|\nsync\nawait Z\nquery fetch all from p14\nawait Z\nquery rollback
            query begin\nquery declare d14 cursor with hold for select ssn from customers\nquery commit\nquery fetch all from d14
            query fetch all from d14\nparse |fetch backward all from d14\nbind |\nexecute\nsync\nawait Z\nawait Z\nawait Z\nawait Z\nawait Z\nawait Z\nawait Z",
        hears: &["Z I"],
        unheard: &[],
        rows: &[],
    },
    Attack {
        what: "a COPY that fails, with statements inside",
        steps: "query copy orders from stdin\nawait G\ncopy-data 1015\\t1\\t1\\tW15\nquery update orders set note='M15'
            copy-fail no\nawait Z\nquery select 'on'||'ward'\nawait Z",
        hears: &["E "],
        unheard: &["M15"],
        rows: &[("W15", "0")],
    },
    Attack {
        what: "COPY data when nobody copies",
        steps: "copy-data update orders set note='M16'\ncopy-done\ncopy-fail x\nquery update orders set note='M16'\nawait Z",
        hears: &[],
        unheard: &["M16"],
        rows: &[],
    },
    Attack {
        what: "a COPY smuggled behind the answer it would have",
        steps: "query copy orders from stdin\ncopy-data 1017\\t1\\t1\\tW17\ncopy-done\nquery update orders set note='M17'\nawait Z\nawait Z",
        hears: &["E 42501"],
        unheard: &["M17"],
        rows: &[],
    },
    Attack {
        what: "statements inside a COPY of the extended protocol",
        steps: "parse |copy orders from stdin\nbind |\nexecute\nflush\nawait G\ncopy-data 1028\\t1\\t1\\tW28
            parse |update orders set note='M28'\nbind |\nexecute\ncopy-done\nsync\nawait Z
            parse |copy orders from stdin\nbind |\nexecute\nsync\nawait G\nsync\nquery update orders set note='M28'\ncopy-fail no\nawait Z",
        hears: &["E ", "Z I"],
        unheard: &["M28"],
        rows: &[("W28", "0")],
    },
    Attack {
        what: "COPY data behind a COPY that is denied",
        steps: "query copy orders from program 'echo M29'\ncopy-data 1029\\t1\\t1\\tW29\ncopy-done\nquery select 'on'||'ward'\nawait Z
            parse |copy orders from program 'echo M29'\nbind |\nexecute\ncopy-data 1029\\t1\\t1\\tW29\ncopy-done\nsync\nawait Z",
        hears: &["E 42501"],
        unheard: &["M29"],
        rows: &[("W29", "0")],
    },
    Attack {
        // lo_creat: it writes, whichever way it is called.
        what: "FunctionCall",
        steps: "call 957|-1\nawait Z\nquery update orders set note='M18'\nawait Z",
        hears: &["E 42501"],
        unheard: &["M18", "fastpath"],
        rows: &[],
    },
    Attack {
        what: "a type byte that is not known",
        steps: "raw 7a 00000004\nawait E\nquery insert into orders values (1019,1,1,'W19')\nawait Z",
        hears: &["E "],
        unheard: &["W19"],
        rows: &[("W19", "0")],
    },
    Attack {
        what: "a password message long after startup",
        steps: "password hunter2\nquery insert into orders values (1020,1,1,'W20')\nawait Z",
        hears: &["E "],
        unheard: &["hunter2", "W20"],
        rows: &[],
    },
    Attack {
        what: "backslashes: by SET, in one go",
        steps: r"query set standard_conforming_strings = off
            query select '\''; update orders set note = $$M21$$; --'
            query reset all
            query select set_config('standard_conforming_strings', 'off', false)
            query select '\''; update orders set note = $$M21$$; --'
            await Z
            await Z
            await Z
            await Z
            await Z",
        hears: &["E 42501"],
        unheard: &["M21"],
        rows: &[],
    },
    Attack {
        what: "backslashes: a setting that a rollback brings back",
        steps: r"query set standard_conforming_strings = off
            query begin
            query set standard_conforming_strings = on
            query rollback
            query select '\''; update orders set note = $$M22$$; --'
            await Z
            await Z
            await Z
            await Z
            await Z
            query begin
            query savepoint a
            query set local standard_conforming_strings = on
            query rollback to a
            query select '\''; update orders set note = $$M22$$; --'
            await Z
            await Z
            await Z
            await Z
            await Z",
        hears: &["E 42501"],
        unheard: &["M22"],
        rows: &[],
    },
    Attack {
        what: "backslashes: by SET in the same pipeline",
        steps: r"parse |set standard_conforming_strings = off
            bind |
            execute
            parse |select '\'' /* ', update orders set note = $$M23$$ */
            bind |
            execute
            sync
            await Z
            parse |delete from orders where note = '\' or $$M23$$ = $$M23$$ --'
            bind |
            execute
            sync
            await Z",
        hears: &["Z I"],
        unheard: &[],
        rows: &[],
    },
    Attack {
        what: "backslashes: by a function, in the same batch",
        steps: r"parse |select backslashes()
            bind |
            execute
            parse |delete from victims where note = '\'' or true --'
            bind |
            execute
            sync
            await Z",
        hears: &["Z I"],
        unheard: &[],
        rows: &[],
    },
    Attack {
        what: "backslashes: by a function, in a batch before",
        steps: r"parse |select backslashes()
            bind |
            execute
            sync
            parse |delete from victims where note = '\'' or true --'
            bind |
            execute
            sync
            query delete from victims where note = '\'' or true --'
            await Z
            await Z
            await Z",
        hears: &["E 42501"],
        unheard: &[],
        rows: &[],
    },
    Attack {
        what: "backslashes: by a function, behind a Flush",
        steps: r"parse |select backslashes()
            bind |
            execute
            flush
            parse |delete from victims where note = '\'' or true --'
            bind |
            execute
            sync
            await Z
            query begin
            query select backslashes()
            query rollback
            query select backslashes()
            query delete from victims where note = '\'' or true --'
            await Z
            await Z
            await Z
            await Z
            await Z",
        hears: &["Z I"],
        unheard: &[],
        rows: &[],
    },
    Attack {
        what: "another encoding by SET",
        steps: "query set client_encoding = 'GBK'\nawait Z\nquery set names 'SJIS'\nawait Z\nquery select set_config('client_encoding','GBK',false)\nawait Z\n            raw 51 00000034 73656c6563742027bf5c273b20757064617465206f726465727320736574206e6f74653d24244d32352424202d2d2700\nawait Z",
        hears: &[],
        unheard: &["M25"],
        rows: &[],
    },
    Attack {
        what: "a NUL inside a statement",
        steps: "raw 51 0000002a 73656c656374203100757064617465206f726465727320736574206e6f74653d274d32342700\nawait E",
        hears: &["E 08P01"],
        unheard: &["M24"],
        rows: &[],
    },
    Attack {
        what: "a statement of 60 MB",
        steps: "long-query 60000000\nawait E",
        hears: &["E "],
        unheard: &["xxxxxxxxxx"],
        rows: &[],
    },
    Attack {
        what: "names longer than the server keeps",
        steps: "parse aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|select 1\nsync\nawait Z
            query prepare aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa as select ssn from customers\nawait Z
            query execute aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nawait Z
            bind |aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nexecute\nsync\nawait Z",
        hears: &["Z I"],
        unheard: &[],
        rows: &[],
    },
    Attack {
        what: "everything again after a failed transaction",
        steps: "query begin\nquery select 1/0\nquery update orders set note='M27'\nparse |update orders set note='M27'\nbind |\nexecute\nsync
            query rollback; update orders set note='M27'\nquery rollback\nawait Z\nawait Z\nawait Z\nawait Z\nawait Z\nawait Z
            query insert into orders values (1027,1,1,'W27')\nawait Z",
        hears: &["C INSERT 0 1", "Z I"],
        unheard: &["M27"],
        rows: &[("W27", "1")],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_undecided_reaches_the_target() -> Result<()> {
    let arena = Arena::new().await?;
    let before = arena.world.pg.psql_in("shop", "SELECT string_agg(note, ',' ORDER BY id) FROM orders")?;
    let mut running = Vec::new();
    for attack in ATTACKS {
        running.push((attack, arena.session(attack.steps)?));
    }
    let mut faults = Vec::new();
    for (attack, client) in running {
        let done = client.done().await?;
        let saw = arena.world.pg.log()?;
        let mut fault = |text: String| faults.push(format!("{}: {text}\n{}", attack.what, done.stdout));
        for part in attack.hears {
            if !done.stdout.contains(part) {
                fault(format!("the client did not hear {part:?}: {}", done.stderr));
            }
        }
        for mark in attack.unheard {
            if saw.contains(mark) {
                fault(format!("the target heard {mark:?}"));
            }
        }
        for (mark, count) in attack.rows {
            if arena.rows(mark)? != *count {
                fault(format!("expected {count} rows of {mark}, got {}", arena.rows(mark)?));
            }
        }
        for secret in [SSN, CARD] {
            if done.stdout.contains(secret) {
                fault(format!("the client got {secret}"));
            }
        }
        if done.stdout.contains("timeout") || done.code != Some(0) {
            fault(format!("it hung or failed: {}", done.stderr));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n────\n"));
    let kept = arena.world.pg.psql_in("shop", "SELECT count(*) FROM victims")?;
    ensure!(kept == "2", "rows were deleted by a text that reads two ways: {kept} of 2 are left");
    let first = arena
        .world
        .pg
        .psql_in("shop", "SELECT string_agg(note, ',' ORDER BY id) FROM orders WHERE id < 10")?;
    ensure!(first == before, "rows that nobody may change: {before} → {first}");
    arena.settle().await
}

/// Openings: what is sent, and what must come of it. None may get `M90` to the target or change how it is read.
const OPENINGS: &[(&str, &str, &str)] = &[
    ("replication", "startup user=x|database=shop|replication=database\nawait E", "replication"),
    ("replication in other words", "startup user=x|database=shop|replication=TRUE\nawait E", "replication"),
    (
        "options",
        "startup user=x|database=shop|options=-c standard_conforming_strings=off\nawait Z\nquery select '\\''; update orders set note='M90' --'\nawait Z",
        "E 42501",
    ),
    (
        "options, glued",
        "startup user=x|database=shop|options=--standard-conforming-strings=off\nawait Z\nquery select '\\''; update orders set note='M90' --'\nawait Z",
        "E 42501",
    ),
    ("options, other switches", "startup user=x|database=shop|options=-O -x 1\nawait E", "E "),
    (
        "strings off",
        "startup user=x|database=shop|STANDARD_CONFORMING_STRINGS=off\nawait Z\nquery select '\\''; update orders set note='M90' --'\nawait Z",
        "E 42501",
    ),
    (
        "GBK",
        "startup user=x|database=shop|client_encoding=GBK\nawait Z\nquery update orders set note='M90'\nawait Z",
        "E 42501",
    ),
    (
        "SJIS by options",
        "startup user=x|database=shop|options=-c client_encoding=SJIS\nawait Z\nquery update orders set note='M90'\nawait Z",
        "E 42501",
    ),
    ("role", "startup user=x|database=shop|role=postgres\nawait E", "role"),
    (
        "session_authorization",
        "startup user=x|database=shop|session_authorization=postgres\nawait E",
        "session_authorization",
    ),
    (
        "preload",
        "startup user=x|database=shop|session_preload_libraries=x\nawait E",
        "session_preload_libraries",
    ),
    (
        "another user",
        "startup user=postgres|database=shop\nawait Z\nquery select current_user\nawait Z",
        "D app",
    ),
    (
        "the last user counts",
        "startup user=app|user=postgres|database=shop\nawait Z\nquery select current_user\nawait Z",
        "D app",
    ),
    (
        "a search path",
        "startup user=x|database=shop|search_path=pg_temp,evil\nawait Z\nquery update orders set note='M90'\nawait Z",
        "E 42501",
    ),
    (
        "SQL_ASCII",
        "startup user=x|database=shop|client_encoding=SQL_ASCII\nawait Z\nquery update orders set note='M90'\nawait Z",
        "E 42501",
    ),
    ("SSLRequest twice", "ssl\nawait ?\nssl\nawait E", "E "),
    ("GSSENCRequest twice", "gss\nawait ?\ngss\nawait E", "E "),
    (
        "a session stuffed behind SSLRequest",
        "ssl\nstartup user=x|database=shop\nquery update orders set note='M90'\nawait ?\nawait Z\nawait Z",
        "E 42501",
    ),
    (
        "a statement stuffed behind the startup message",
        "startup user=x|database=shop\nquery update orders set note='M90'\nawait Z\nawait Z",
        "E 42501",
    ),
    (
        "a second startup message",
        "startup user=x|database=shop\nawait Z\nstartup user=postgres|database=shop\nquery update orders set note='M90'",
        "eof",
    ),
    (
        "another database",
        "startup user=x|database=postgres\nawait Z\nquery update orders set note='M90'\nawait Z",
        "E 42501",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_opening_changes_what_is_judged() -> Result<()> {
    let arena = Arena::new().await?;
    let mut running = Vec::new();
    for opening in OPENINGS {
        running.push((opening, arena.start(opening.1, 1)?));
    }
    let mut faults = Vec::new();
    for ((what, _, hears), client) in running {
        let done = client.done().await?;
        if !done.stdout.contains(hears) || done.stdout.contains("timeout") {
            faults.push(format!("{what}: expected {hears:?}\n{}{}", done.stdout, done.stderr));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n────\n"));
    ensure!(!arena.world.target_saw("M90")?, "the target heard it");
    arena.settle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_a_held_statement_waits_with_it() -> Result<()> {
    let arena = Arena::new().await?;
    let client = arena.session(
        "query alter table orders add column h30 text\nquery insert into orders values (1030,1,1,'W30')
         query update orders set note='M30'\nparse |insert into orders values (1031,1,1,'W30')\nbind |\nexecute\nsync
         await Z\nawait Z\nawait Z\nawait Z",
    )?;
    let request = arena.world.receiver.requested("h30").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for mark in ["h30", "W30", "M30"] {
        ensure!(!arena.world.target_saw(mark)?, "the target heard {mark} while the first was held");
    }
    Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
    let done = client.done().await?;
    ensure!(done.stdout.matches("E 42501").count() == 2, "{done:?}");
    ensure!(!arena.world.target_saw("h30")? && !arena.world.target_saw("M30")?);
    ensure!(arena.rows("W30")? == "2", "{done:?}");
    arena.settle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_piled_up_behind_a_held_statement_costs_bounded_memory() -> Result<()> {
    let arena = Arena::new().await?;
    let pile = "long-query 8000000\n".repeat(20);
    let before = resident_kib(&arena.world)?;
    let client =
        arena.session(&format!("query alter table orders add column h70 text\n{pile}pause 100\nawait Z"))?;
    let request = arena.world.receiver.requested("h70").await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let after = resident_kib(&arena.world)?;
    ensure!(after < before + 64 * 1024, "160 MB behind a held statement: {before} KiB → {after} KiB");
    ensure!(!arena.world.target_saw("xxxxxxxxxx")?);
    drop(client);
    let resolved = arena.world.recorded("approval_resolved", 1).await?;
    ensure!(resolved[0].to_string().contains("withdrawn"), "{resolved:?}");
    let (status, body) = Decision::on(&request, "approve", "ana@example.com", &["dba"]).send().await?;
    ensure!(status >= 400 && !arena.world.target_saw("h70")?, "{status} {body}");
    arena.settle().await
}

fn resident_kib(world: &World) -> Result<u64> {
    let pid = world.agent.pid().context("pid")?;
    std::fs::read_to_string(format!("/proc/{pid}/status"))?
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("VmRSS")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_covers_its_values_and_one_run() -> Result<()> {
    let arena = Arena::new().await?;
    // The same text with another value is another request.
    let values = arena.session(
        "parse s40|update ledger set amount = amount + $1 where id = 1\nbind |s40|7\nexecute\nsync\nawait Z
         bind |s40|8\nexecute\nsync\nawait Z",
    )?;
    let first = arena.world.receiver.requested("amount + $1").await?;
    Decision::on(&first, "approve", "ana@example.com", &["dba"]).accepted().await?;
    let second = another(&arena.world, "amount + $1", &[&first]).await?;
    ensure!(second.data()["command_digest"] != first.data()["command_digest"]);
    Decision::on(&second, "deny", "ana@example.com", &["dba"]).accepted().await?;
    let done = values.done().await?;
    ensure!(done.stdout.contains("C UPDATE 1") && done.stdout.contains("E 42501"), "{done:?}");
    ensure!(ledger(&arena, 1)? == "7", "{done:?}");

    // Approved when it was parsed; then bound twice, run twice.
    let twice = arena.session(
        "query begin\nawait Z\nparse s41|update ledger set amount = amount + 100 where id = 2\nsync\nawait Z
         bind a|s41\nbind b|s41\nsync\nawait Z\nexecute a\nsync\nawait Z\nexecute b\nsync\nawait Z\nquery commit\nawait Z",
    )?;
    approve_only_first(&arena.world, "amount + 100").await?;
    let done = twice.done().await?;
    ensure!(["100", "0"].contains(&ledger(&arena, 2)?.as_str()), "one approval ran twice: {done:?}");

    // Approved as PREPARE; then executed.
    let prepared = arena.session(
        "query prepare s42 as update ledger set amount = amount + 1000 where id = 2\nawait Z\nquery execute s42\nawait Z",
    )?;
    approve_only_first(&arena.world, "amount + 1000").await?;
    let done = prepared.done().await?;
    ensure!(done.stdout.contains("C PREPARE") && done.stdout.contains("E 42501"), "{done:?}");
    arena.settle().await
}

fn ledger(arena: &Arena, id: i32) -> Result<String> {
    arena.world.pg.psql_in("shop", &format!("SELECT amount FROM ledger WHERE id = {id}"))
}

/// Approves the first request for this text and denies those that follow within two seconds.
async fn approve_only_first(world: &World, text: &str) -> Result<()> {
    let first = world.receiver.requested(text).await?;
    Decision::on(&first, "approve", "ana@example.com", &["dba"]).accepted().await?;
    let Ok(second) = another(world, text, &[&first]).await else { return Ok(()) };
    Decision::on(&second, "deny", "ana@example.com", &["dba"]).accepted().await
}

async fn another(world: &World, text: &str, known: &[&Delivery]) -> Result<Delivery> {
    world
        .receiver
        .wait_for(Duration::from_secs(3), |delivery| {
            delivery.kind() == "lockgate.approval.requested"
                && delivery.data()["operation"]["statement"].as_str().is_some_and(|sql| sql.contains(text))
                && known.iter().all(|old| old.data()["request_id"] != delivery.data()["request_id"])
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guessed_key_cancels_nothing() -> Result<()> {
    let arena = Arena::new().await?;
    let held = arena.session("query alter table orders add column h50 text\nawait Z")?;
    let request = arena.world.receiver.requested("h50").await?;
    let backends = arena.world.pg.psql("SELECT pid FROM pg_stat_activity WHERE datname = 'shop'")?;
    for pid in backends.split_whitespace().chain(["1", "0", "4294967295"]) {
        for key in ["00000000", "ffffffff", "0000000000000000"] {
            arena.start(&format!("cancel {pid}|{key}"), 1)?.done().await?;
        }
    }
    Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    let done = held.done().await?;
    ensure!(done.stdout.contains("C ALTER TABLE"), "a guessed key cancelled: {done:?}");
    arena.settle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_or_refused_and_each_flow_is_closed_once() -> Result<()> {
    let arena = Arena::new().await?;
    let crowd = arena.start(
        &session("query select 'served'\nawait Z\nquery update orders set note='M60'\nawait Z"),
        200,
    )?;
    let holds = arena.start(&session("query truncate orders\nawait Z"), 50)?;
    let done: Done = crowd.done().await?;
    // Whoever got in is served and denied; the target has no room for the others, and at times none for lockgate itself.
    let mut served = 0;
    // What one sent behind its end stands before the next one's words.
    let spoke = |one: &&str| one.lines().any(|line| !line.is_empty() && !line.starts_with("send "));
    for one in done.stdout.split("eof").filter(spoke) {
        let refused = one.lines().any(|line| line.starts_with("E "));
        if one.contains("D served") {
            served += 1;
            ensure!(one.contains("E 42501 | lockgate: denied UPDATE"), "served, and not denied: {one}");
        } else {
            ensure!(refused, "neither served nor refused: {one}");
        }
    }
    ensure!(served > 0, "nobody was served: {:.2000}", done.stdout);
    ensure!(!done.stdout.contains("timeout"), "{:.2000}", done.stdout);
    ensure!(!arena.world.target_saw("M60")?);
    // Nobody answers the fifty: they are all refused when their time is over, and nothing was forwarded.
    let until = Instant::now() + Duration::from_secs(10);
    while arena.world.events("approval_requested")?.is_empty() {
        ensure!(Instant::now() < until, "nothing was held: {}", arena.world.agent.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let done = holds.done().await?;
    ensure!(!arena.world.target_saw("truncate orders")?, "{:.2000}", done.stdout);
    // The target has no room for all of them; whoever got in was held, and refused in the end.
    let (held, refused) =
        (done.stdout.matches("\nE 42501").count(), done.stdout.matches("E 53300 |").count());
    ensure!(held > 0 && held + refused == 50, "{held} held, {refused} refused: {:.3000}", done.stdout);
    arena.settle().await
}
