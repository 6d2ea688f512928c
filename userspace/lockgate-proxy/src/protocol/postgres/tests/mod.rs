//! Sessions between a scripted client and a scripted server, over in-process streams: what reached the server, what the
//! client was told, and that there is one closing record.

mod copies;
mod cuts;
mod model;
mod opening;
mod release;
mod scenarios;
mod server;

use super::{
    CancelTarget,
    engine::{Engine, Parts},
    leg::Leg,
    masks::{CatalogueSource, Masks},
};
use crate::{
    cancel::CancelSignal,
    drain::Drain,
    gate::Gate,
    limits::Limits,
    report::FlowReport,
    testing::{self, Outside},
    upstream::Connected,
};
use bytes::{Bytes, BytesMut};
use lockgate_inspect::sql::{SessionState, catalogue::CatalogueSnapshot};
use lockgate_model::{
    outcome::Closing,
    port::BoxFuture,
    session::{self, Mode},
};
use lockgate_wire::postgres::{
    PgString, Target, TransactionStatus,
    automaton::ClientLeg,
    backend::Backend,
    frame::{FrameDecoder, Limits as FrameLimits},
    frontend::{Bind, Execute, Frontend, Parse},
    startup::{ProtocolVersion, StartupMessage, StartupPacket},
};
use server::{FakeServer, Seen};
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};

/// Reads and writes are allowed; what has no WHERE is not; schema changes are held; the rest has no rule.
const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: test }
groups:
  dba: { oidc: "groups:dba" }
rules:
- id: everyday
  match: { sql: { class: [read, write, session, transaction, copy_in, copy_out] } }
  effect: allow
- id: no-unbounded-write
  match: { sql: { kinds: [delete, update], bounded: false } }
  effect: deny
- id: schema-change
  match: { sql: { class: ddl } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: dba }, need: 1 }]
    timeout: 30m
"#;

/// One session with both its peers.
struct Stage {
    client: DuplexStream,
    input: BytesMut,
    outside: Outside,
    seen: Arc<Mutex<Seen>>,
    cancel: Arc<CancelSignal>,
    drain: Drain,
    session: JoinHandle<()>,
    server: JoinHandle<()>,
}

impl Stage {
    /// Opens a session under [`POLICY`].
    async fn open() -> Self {
        Self::with(testing::outside(POLICY), Limits::default(), 64 * 1024).await
    }

    /// Opens a session in this outside, with pipes of this size.
    async fn with(outside: Outside, limits: Limits, pipe: usize) -> Self {
        Self::on(Mode::Enforce, outside, limits, pipe).await
    }

    /// Opens a session on a target in this mode.
    async fn on(mode: Mode, outside: Outside, limits: Limits, pipe: usize) -> Self {
        Self::cancelled_by(CancelTarget::scripted(), mode, outside, limits, pipe).await
    }

    /// Opens a session whose results lockgate itself can cancel.
    async fn cancelled_by(
        cancel_target: CancelTarget,
        mode: Mode,
        outside: Outside,
        limits: Limits,
        pipe: usize,
    ) -> Self {
        let (near, client) = tokio::io::duplex(pipe);
        let (upstream, far) = tokio::io::duplex(pipe);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let server = tokio::spawn(FakeServer::new(far, outside.recorder.clone(), seen.clone()).run());
        let mut target = testing::target("orders-db", Vec::new());
        target.target = Arc::new(session::Target { mode, ..(*target.target).clone() });
        let session = Arc::new(testing::session(&target, &*outside.ports.ambient));
        let mut report = FlowReport::new(outside.recorder.clone(), outside.ports.ambient.clone());
        report.session_started(&session, false).await.unwrap();
        let connected = Connected::scripted(upstream);
        let cancel = Arc::new(CancelSignal::default());
        let drain = Drain::default();
        let engine = Engine::new(Parts {
            client: Leg::new(near, BytesMut::new(), limits.client_write_stall),
            client_leg: opened_leg(),
            upstream: connected.upstream,
            reader: connected.reader,
            status: TransactionStatus::Idle,
            gate: Gate::new(session, outside.ports.clone()),
            replicates: false,
            scripts: Default::default(),
            state: SessionState::default(),
            database: "orders".into(),
            masks: Masks::new(Arc::new(EmptyCatalogue), Arc::default()),
            cancel: cancel.clone(),
            cancel_target: Arc::new(cancel_target),
            drain: drain.clone(),
            limits,
            report,
        });
        let running = Box::new(engine).run();
        // What thousands of idle sessions keep.
        assert!(size_of_val(&running) + size_of::<Engine<DuplexStream>>() < 8 << 10);
        let session = tokio::spawn(running);
        Self { client, input: BytesMut::new(), outside, seen, cancel, drain, session, server }
    }

    async fn send(&mut self, messages: &[Frontend]) {
        let mut out = BytesMut::new();
        messages.iter().for_each(|message| message.encode(&mut out).unwrap());
        self.client.write_all(&out).await.unwrap();
    }

    /// The next message of the session, in short; None at its end.
    async fn next(&mut self) -> Option<String> {
        let decoder = FrameDecoder::new(FrameLimits::SERVER);
        loop {
            if let Some(frame) = decoder.next(&mut self.input).unwrap() {
                return Some(short(&Backend::decode(&frame).unwrap()));
            }
            match self.client.read_buf(&mut self.input).await {
                Ok(count) if count > 0 => {}
                _ => {
                    assert!(self.input.is_empty(), "the session ended inside a message");
                    return None;
                }
            }
        }
    }

    /// All messages up to the given number of ReadyForQuery, or the end.
    async fn until_ready(&mut self, times: usize) -> String {
        let mut all = Vec::new();
        let mut ready = 0;
        while ready < times {
            let Some(message) = self.next().await else {
                all.push("end".to_owned());
                break;
            };
            ready += usize::from(message.starts_with('Z'));
            all.push(message);
        }
        all.join(" ")
    }

    /// Ends the client and waits for the rest; answers the one closing record.
    async fn finish(self) -> (Closing, Outside, Seen) {
        let Self { client, outside, seen, session, server, .. } = self;
        drop(client);
        session.await.unwrap();
        server.await.unwrap();
        let closings = outside.recorder.closings();
        assert_eq!(closings.len(), 1, "one closing record: {closings:?}");
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen.undecided, Vec::<String>::new(), "came undecided");
        (closings.into_iter().next().unwrap(), outside, seen)
    }
}

struct EmptyCatalogue;

impl CatalogueSource for EmptyCatalogue {
    fn routine(&self, _: u32) -> BoxFuture<'_, Option<crate::catalogue::Routine>> {
        Box::pin(std::future::ready(None))
    }

    fn load(&self) -> BoxFuture<'_, Option<Arc<CatalogueSnapshot>>> {
        Box::pin(async { None })
    }

    fn confirm(&self) -> BoxFuture<'_, Option<Arc<CatalogueSnapshot>>> {
        Box::pin(async { None })
    }

    fn fresh(&self) -> Option<Arc<CatalogueSnapshot>> {
        None
    }

    fn outdated(&self) {}
}

fn opened_leg() -> ClientLeg {
    let mut leg = ClientLeg::new();
    let startup = StartupMessage { version: ProtocolVersion::V3_0, parameters: Vec::new() };
    leg.handle_startup(&StartupPacket::Startup(startup)).unwrap();
    leg.handle_opened();
    leg
}

/// `T D C:SELECT_3 Z:I`: one word a message.
fn short(message: &Backend) -> String {
    match message {
        Backend::RowDescription(_) => "T".into(),
        Backend::DataRow(_) => "D".into(),
        Backend::CommandComplete(tag) => format!("C:{}", tag.to_string_lossy().replace(' ', "_")),
        Backend::ErrorResponse(report) => format!("E:{}", String::from_utf8_lossy(report.sqlstate())),
        Backend::NoticeResponse(_) => "N".into(),
        Backend::ReadyForQuery(TransactionStatus::Idle) => "Z:I".into(),
        Backend::ReadyForQuery(TransactionStatus::InTransaction) => "Z:T".into(),
        Backend::ReadyForQuery(TransactionStatus::Failed) => "Z:E".into(),
        Backend::ParseComplete => "1".into(),
        Backend::BindComplete => "2".into(),
        Backend::CloseComplete => "3".into(),
        Backend::NoData => "n".into(),
        Backend::ParameterDescription(_) => "t".into(),
        Backend::PortalSuspended => "s".into(),
        Backend::EmptyQueryResponse => "I".into(),
        Backend::CopyInResponse(_) => "G".into(),
        Backend::CopyOutResponse(_) => "H".into(),
        Backend::CopyData(_) => "d".into(),
        Backend::CopyDone => "c".into(),
        other => other.name().into(),
    }
}

fn query(sql: &str) -> Frontend {
    Frontend::Query(PgString::lossy(sql))
}

fn parse(name: &str, sql: &str) -> Frontend {
    Frontend::Parse(Parse {
        statement: PgString::lossy(name),
        sql: PgString::lossy(sql),
        parameter_types: Vec::new(),
    })
}

fn bind(portal: &str, statement: &str) -> Frontend {
    Frontend::Bind(Bind {
        portal: PgString::lossy(portal),
        statement: PgString::lossy(statement),
        parameter_formats: Vec::new(),
        parameters: Vec::new(),
        result_formats: Vec::new(),
    })
}

fn execute(portal: &str, max_rows: i32) -> Frontend {
    Frontend::Execute(Execute { portal: PgString::lossy(portal), max_rows })
}

fn describe(portal: &str) -> Frontend {
    Frontend::Describe(Target::Portal(PgString::lossy(portal)))
}

fn close(statement: &str) -> Frontend {
    Frontend::Close(Target::Statement(PgString::lossy(statement)))
}

fn copy_data(size: usize) -> Frontend {
    Frontend::CopyData(Bytes::from(vec![b'x'; size]))
}

/// Parse, Bind, Execute of the unnamed statement and portal.
fn run(sql: &str) -> [Frontend; 3] {
    [parse("", sql), bind("", ""), execute("", 0)]
}

fn batch(parts: &[&[Frontend]]) -> Vec<Frontend> {
    parts.iter().flat_map(|part| part.iter().cloned()).collect()
}
