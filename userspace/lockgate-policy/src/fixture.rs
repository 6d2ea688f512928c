//! Sessions and operations for tests; statements come from a small table, since this crate knows no grammar.

use lockgate_model::{
    DecisionId, OperationId, SessionId,
    addr::{ClientAddr, OriginalDst},
    flow::{Capture, Flow, ProcessFacts},
    operation::{Digest, Facts, Operation, SqlContext},
    principal::Principal,
    session::{ClientClaims, DefaultEffect, Mode, Protocol, Session, Target},
    sql::{RelationName, Risk, SqlClass, SqlFacts},
    workload::{Assurance, CiAssurance, CiJob, IdentityKind, Process, Workload},
};
use std::sync::Arc;

/// A GitHub job by its own claims, on the production database.
pub(crate) fn session() -> Session {
    let workload = Workload {
        kind: IdentityKind::CiJob,
        assurance: Assurance::Kernel,
        established_by: "test".to_owned(),
        process: Process {
            pid: 42,
            start_boottime_ns: 1,
            uid: 1001,
            gid: 1001,
            user: Some("runner".to_owned()),
            exe: Some("/usr/bin/psql".to_owned()),
            exe_sha256: None,
            argv: Vec::new(),
            cwd: None,
            ancestry: Vec::new(),
            exited: false,
        },
        cgroup: Some("/lockgate/run".to_owned()),
        unit: None,
        container: None,
        pod: None,
        ci: Some(CiJob {
            provider: "github_actions".to_owned(),
            assurance: CiAssurance(Assurance::Claimed),
            repository: Some("acme/billing".to_owned()),
            event_name: Some("push".to_owned()),
            actor: Some("zoe".to_owned()),
            triggering_actor: Some("bob".to_owned()),
            commit_author: Some("Cleo <cleo@example.com>".to_owned()),
            ..CiJob::default()
        }),
        tickets: Vec::new(),
    };
    let addr = "127.0.0.1:5432".parse().unwrap();
    Session {
        id: SessionId::from_parts(1, 1),
        node: "node".into(),
        flow: Flow {
            client: ClientAddr(addr),
            original_dst: OriginalDst::new(addr),
            socket_cookie: 1,
            netns_cookie: 1,
            process: ProcessFacts {
                tgid: 42,
                tid: 42,
                start_boottime_ns: 1,
                uid: 1001,
                gid: 1001,
                cgroup_id: 1,
                comm: "psql".to_owned(),
                creator_tgid: 0,
            },
            capture: Capture::Transparent,
        },
        principal: Principal::of(&workload),
        workload: Arc::new(workload),
        target: Arc::new(Target {
            name: "orders-db".into(),
            protocol: Protocol::Postgres,
            tags: [("env".to_owned(), "production".to_owned())].into(),
            mode: Mode::Enforce,
            default: DefaultEffect::Deny,
        }),
        client: ClientClaims { user: "app".to_owned(), database: "shop".to_owned(), application_name: None },
        upstream_user: "app".to_owned(),
        client_tls: false,
        opened_at: "2026-11-21T09:00:00Z".parse().unwrap(),
    }
}

/// The same session with another target.
pub(crate) fn with_target(session: &Session, change: impl FnOnce(&mut Target)) -> Session {
    let mut target = (*session.target).clone();
    change(&mut target);
    Session { target: Arc::new(target), ..session.clone() }
}

/// The same session with another workload; the principal follows.
pub(crate) fn with_workload(session: &Session, change: impl FnOnce(&mut Workload)) -> Session {
    let mut workload = (*session.workload).clone();
    change(&mut workload);
    Session { principal: Principal::of(&workload), workload: Arc::new(workload), ..session.clone() }
}

pub(crate) fn operation(text: &str) -> Operation {
    operation_of(facts(text).remove(0), text)
}

pub(crate) fn operation_of(facts: SqlFacts, text: &str) -> Operation {
    Operation {
        id: OperationId::from_parts(1, 2),
        session: SessionId::from_parts(1, 1),
        facts: Arc::new(Facts::Sql(facts)),
        text: text.into(),
        normalized: text.into(),
        parameters: Arc::default(),
        digest: Digest([7; 32]),
        context: Arc::new(SqlContext {
            role: "app".to_owned(),
            database: "shop".to_owned(),
            search_path: None,
            in_transaction: false,
        }),
        touches_masked: false,
    }
}

pub(crate) fn decision() -> DecisionId {
    DecisionId::from_parts(1, 3)
}

/// Facts of plain statements: verb, class and tables by the words around them.
pub(crate) fn facts(text: &str) -> Vec<SqlFacts> {
    text.split(';').map(str::trim).filter(|text| !text.is_empty()).map(one).collect()
}

/// The same for a policy's tests.
pub(crate) fn inspect(given: &crate::document::Given, _asks: &crate::HttpAsks) -> Vec<Facts> {
    facts(&given.statement).into_iter().map(Facts::Sql).collect()
}

fn one(text: &str) -> SqlFacts {
    let words: Vec<String> = text
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')'))
        .map(str::to_lowercase)
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    let after = |marks: &[&str]| -> Vec<RelationName> {
        let pairs = words.windows(2).filter(|pair| marks.contains(&pair[0]));
        let mut names: Vec<RelationName> = pairs.map(|pair| RelationName::from(pair[1].to_owned())).collect();
        names.sort();
        names
    };
    let verb = *words.first().unwrap_or(&"");
    let object = *words.get(1).unwrap_or(&"");
    let (class, kind, risk) = match verb {
        "select" | "show" | "table" => (SqlClass::Read, verb.to_owned(), Risk::Low),
        "insert" | "update" | "delete" | "merge" => (SqlClass::Write, verb.to_owned(), Risk::Medium),
        "create" | "alter" | "drop" => (SqlClass::Ddl, format!("{verb}_{object}"), Risk::High),
        "truncate" => (SqlClass::Write, verb.to_owned(), Risk::Critical),
        "grant" | "revoke" => (SqlClass::Admin, verb.to_owned(), Risk::Critical),
        "begin" | "commit" | "rollback" => (SqlClass::Transaction, verb.to_owned(), Risk::Low),
        "set" => (SqlClass::Session, verb.to_owned(), Risk::Low),
        "copy" if words.contains(&"stdin") => (SqlClass::CopyIn, "copy_from".to_owned(), Risk::Medium),
        "copy" => (SqlClass::CopyOut, "copy_to".to_owned(), Risk::Medium),
        "call" | "do" => (SqlClass::Call, verb.to_owned(), Risk::High),
        _ => (SqlClass::Opaque, "opaque".to_owned(), Risk::Critical),
    };
    let reads = after(&["from", "join"]);
    let writes = after(&["into", "update", "table", "truncate", "copy", "delete from"]);
    let (tables_read, tables_written) = match (class, verb) {
        (SqlClass::Read | SqlClass::CopyOut, _) => (reads, Vec::new()),
        (_, "delete") => (Vec::new(), reads),
        _ => (Vec::new(), writes),
    };
    let bounded = matches!(verb, "select" | "update" | "delete").then(|| words.contains(&"where"));
    let risk = if bounded == Some(false) && class == SqlClass::Write { Risk::High } else { risk };
    SqlFacts {
        class,
        kind,
        tables_read,
        tables_written,
        columns: Vec::new(),
        functions: Vec::new(),
        bounded,
        risk,
        fingerprint: "ab12".to_owned(),
        effects: Default::default(),
        opaque_reason: (class == SqlClass::Opaque).then(|| "test".to_owned()),
        reach: Default::default(),
        second_opinion: None,
    }
}
