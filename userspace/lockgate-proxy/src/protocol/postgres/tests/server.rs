//! A scripted PostgreSQL: enough of the protocol and of transactions to tell what would have been committed. It checks
//! every statement it is sent against the log: undecided means the test fails.

use crate::testing::ListRecorder;
use bytes::{Bytes, BytesMut};
use lockgate_model::{event::EventKind, verdict::Effect};
use lockgate_wire::postgres::{
    Format, PgString, Target, TransactionStatus,
    backend::{Backend, Column, CopyResponse, DataRow, DataRowWriter, ReportFields, Severity},
    frame::{FrameDecoder, Limits},
    frontend::Frontend,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What the server was told and did.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Bytes that reached it.
    pub(super) bytes: usize,
    /// Statements whose effect is kept.
    pub(super) committed: Vec<String>,
    /// Statements that came undecided.
    pub(super) undecided: Vec<String>,
    /// Copy data that came.
    pub(super) copied: usize,
}

/// The server's side of one session.
pub(super) struct FakeServer {
    stream: DuplexStream,
    input: BytesMut,
    out: BytesMut,
    log: Arc<ListRecorder>,
    seen: Arc<Mutex<Seen>>,
    status: TransactionStatus,
    /// Effects of the open transaction, or of the segment up to Sync.
    pending: Vec<String>,
    statements: HashMap<PgString, String>,
    portals: HashMap<PgString, (String, usize)>,
    skipping: bool,
    executed: HashMap<String, usize>,
}

/// Ends the session.
struct Gone;

impl FakeServer {
    pub(super) fn new(stream: DuplexStream, log: Arc<ListRecorder>, seen: Arc<Mutex<Seen>>) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            out: BytesMut::new(),
            log,
            seen,
            status: TransactionStatus::Idle,
            pending: Vec::new(),
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
            executed: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self) {
        while let Some(message) = self.next().await {
            if self.handle(message).await.is_err() {
                return;
            }
            if self.flush().await.is_err() {
                return;
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        let out = self.out.split();
        self.stream.write_all(&out).await.map_err(|_| Gone)
    }

    async fn next(&mut self) -> Option<Frontend> {
        let decoder = FrameDecoder::new(Limits::CLIENT);
        loop {
            if let Some(frame) = decoder.next(&mut self.input).expect("lockgate keeps the protocol") {
                return Some(Frontend::decode(&frame).expect("lockgate keeps the protocol"));
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(count) if count > 0 => self.seen.lock().unwrap().bytes += count,
                _ => return None,
            }
        }
    }

    fn say(&mut self, message: Backend) {
        message.encode(&mut self.out).unwrap();
    }

    async fn handle(&mut self, message: Frontend) -> Result<(), Gone> {
        if self.skipping && !matches!(message, Frontend::Sync | Frontend::Terminate) {
            return Ok(());
        }
        match message {
            Frontend::Query(sql) => {
                let text = sql.to_string_lossy().into_owned();
                let statements: Vec<String> =
                    text.split(';').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
                if is_poison(&text) {
                    self.fail("42601");
                } else {
                    for statement in statements {
                        self.check(&statement, true);
                        if !self.run_statement(&statement, 0, true).await? {
                            break;
                        }
                    }
                }
                self.end_segment();
            }
            Frontend::Parse(parse) => {
                let text = parse.sql.to_string_lossy().into_owned();
                if is_poison(&text) {
                    self.fail("42601");
                    self.skipping = true;
                } else if !parse.statement.is_empty() && self.statements.contains_key(&parse.statement) {
                    self.check(&text, false);
                    self.fail("42P05");
                    self.skipping = true;
                } else {
                    self.check(&text, false);
                    self.statements.insert(parse.statement, text);
                    self.say(Backend::ParseComplete);
                }
            }
            Frontend::Bind(bind) => match self.statements.get(&bind.statement) {
                Some(text) => {
                    self.portals.insert(bind.portal, (text.clone(), 0));
                    self.say(Backend::BindComplete);
                }
                None => {
                    self.fail("26000");
                    self.skipping = true;
                }
            },
            Frontend::Describe(target) => {
                let text = match &target {
                    Target::Statement(name) => {
                        self.say(Backend::ParameterDescription(Vec::new()));
                        self.statements.get(name).cloned()
                    }
                    Target::Portal(name) => self.portals.get(name).map(|(text, _)| text.clone()),
                };
                if text.is_some_and(|text| text.starts_with("SELECT")) {
                    self.say(Backend::RowDescription(vec![column()]));
                } else {
                    self.say(Backend::NoData);
                }
            }
            Frontend::Execute(execute) => {
                let Some((text, _)) = self.portals.get(&execute.portal).cloned() else {
                    self.fail("34000");
                    self.skipping = true;
                    return Ok(());
                };
                self.check(&text, true);
                if text.trim().is_empty() {
                    self.say(Backend::EmptyQueryResponse);
                    return Ok(());
                }
                let limit = usize::try_from(execute.max_rows).unwrap_or(0);
                if !self.run_statement(&text, limit, false).await? {
                    self.skipping = true;
                }
            }
            Frontend::Close(target) => {
                match &target {
                    Target::Statement(name) => drop(self.statements.remove(name)),
                    Target::Portal(name) => drop(self.portals.remove(name)),
                }
                self.say(Backend::CloseComplete);
            }
            Frontend::Sync => {
                self.skipping = false;
                self.end_segment();
            }
            Frontend::Flush => {}
            Frontend::Terminate => return Err(Gone),
            other => panic!("{} has no place here", other.name()),
        }
        Ok(())
    }

    /// The end of a Query, or Sync: an implicit transaction ends.
    fn end_segment(&mut self) {
        if self.status == TransactionStatus::Idle {
            let kept = std::mem::take(&mut self.pending);
            self.seen.lock().unwrap().committed.extend(kept);
            self.portals.clear();
        }
        self.say(Backend::ReadyForQuery(self.status));
    }

    fn fail(&mut self, code: &str) {
        self.say(Backend::ErrorResponse(ReportFields::new(Severity::Error, code, "raw words of the server")));
        self.pending.clear();
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    /// Runs one statement; false when it failed.
    async fn run_statement(&mut self, text: &str, limit: usize, described: bool) -> Result<bool, Gone> {
        let is_end = text.starts_with("COMMIT") || text.starts_with("ROLLBACK");
        if self.status == TransactionStatus::Failed && !is_end {
            self.fail("25P02");
            return Ok(false);
        }
        if text.contains("1/0") {
            self.fail("22012");
            return Ok(false);
        }
        let tag = match text.split_whitespace().next().unwrap_or_default() {
            "BEGIN" => {
                self.status = TransactionStatus::InTransaction;
                "BEGIN".to_owned()
            }
            "COMMIT" if self.status != TransactionStatus::Failed => {
                self.status = TransactionStatus::Idle;
                "COMMIT".to_owned()
            }
            "COMMIT" | "ROLLBACK" => {
                self.pending.clear();
                self.status = TransactionStatus::Idle;
                "ROLLBACK".to_owned()
            }
            "SELECT" => {
                if described {
                    self.say(Backend::RowDescription(vec![column()]));
                }
                let rows = if text.contains("bulk") { 20_000 } else { 3 };
                for _ in 0..rows {
                    self.say(Backend::DataRow(row(b"one value of a row")));
                    if self.out.len() > 64 * 1024 {
                        self.flush().await?;
                    }
                }
                if text.contains("vanish") {
                    // Half a row, then nothing.
                    self.out.extend_from_slice(b"D\0\0\0\x20\0\x01\0\0");
                    self.flush().await?;
                    return Err(Gone);
                }
                if limit > 0 {
                    self.say(Backend::PortalSuspended);
                    return Ok(true);
                }
                "SELECT 3".to_owned()
            }
            "COPY" if text.contains("FROM STDIN") => {
                let copy = CopyResponse { format: Format::Text, columns: vec![Format::Text] };
                self.say(Backend::CopyInResponse(copy));
                self.flush().await?;
                loop {
                    match self.next().await.ok_or(Gone)? {
                        Frontend::CopyData(data) => self.seen.lock().unwrap().copied += data.len(),
                        Frontend::CopyDone => break,
                        Frontend::CopyFail(_) => {
                            self.fail("57014");
                            return Ok(false);
                        }
                        Frontend::Sync | Frontend::Flush => {}
                        Frontend::Terminate => return Err(Gone),
                        other => panic!("{} inside a COPY", other.name()),
                    }
                }
                "COPY 1".to_owned()
            }
            "COPY" => {
                let copy = CopyResponse { format: Format::Text, columns: vec![Format::Text] };
                self.say(Backend::CopyOutResponse(copy));
                self.say(Backend::CopyData(Bytes::from_static(b"a row\n")));
                self.say(Backend::CopyDone);
                "COPY 1".to_owned()
            }
            word if text.contains("RETURNING") => {
                if described {
                    self.say(Backend::RowDescription(vec![column()]));
                }
                for _ in 0..3 {
                    self.say(Backend::DataRow(row(b"one value of a row")));
                }
                word.to_owned()
            }
            word => word.to_owned(),
        };
        if !matches!(tag.as_str(), "BEGIN" | "COMMIT" | "ROLLBACK") && !tag.starts_with("SELECT") {
            self.pending.push(text.to_owned());
        }
        if tag == "COMMIT" {
            let kept = std::mem::take(&mut self.pending);
            self.seen.lock().unwrap().committed.extend(kept);
        }
        self.say(Backend::CommandComplete(PgString::lossy(&tag)));
        Ok(true)
    }

    /// The log must already say that this statement may pass, as often as it comes.
    fn check(&mut self, text: &str, runs: bool) {
        if text.trim().is_empty() {
            // Nothing runs: there is nothing to decide.
            return;
        }
        let mut held = HashMap::new();
        let mut allowed = 0;
        for event in self.log.events() {
            match event {
                EventKind::OperationDecided { operation, verdict, denial: None }
                    if operation.text.trim() == text =>
                {
                    match verdict.effect {
                        Effect::Allow => allowed += 1,
                        Effect::Hold(_) => drop(held.insert(operation.id, ())),
                        Effect::Deny(_) => {}
                    }
                }
                EventKind::Forwarded { operation, .. } if held.contains_key(&operation) => allowed += 1,
                _ => {}
            }
        }
        let times = self.executed.entry(text.to_owned()).or_default();
        *times += usize::from(runs);
        if allowed < (*times).max(1) {
            self.seen.lock().unwrap().undecided.push(text.to_owned());
        }
    }
}

fn is_poison(text: &str) -> bool {
    text == "lockgate refused this batch"
}

fn column() -> Column {
    Column {
        name: PgString::from_static("v"),
        table_oid: 0,
        attnum: 0,
        type_oid: 25,
        type_size: -1,
        type_modifier: -1,
        format: Format::Text,
    }
}

fn row(value: &[u8]) -> DataRow {
    let mut out = BytesMut::new();
    let mut writer = DataRowWriter::new(&mut out);
    writer.field(Some(value));
    writer.finish().unwrap();
    DataRow::decode(out.split_off(5).freeze()).unwrap()
}
