//! Masked copies before a target that sends what it likes: cut anywhere, another shape than announced, another table than
//! judged. Whatever it sends, no raw value goes on.

use super::*;
use lockgate_inspect::sql::catalogue::{CatalogueParts, Relation, RelationColumn, RelationKind};
use lockgate_wire::postgres::{Format, backend::CopyResponse};

const MASKING: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: copies }
rules:
- id: copies
  match: { sql: { class: [copy_out, read] } }
  effect: allow
- id: personal
  match: {}
  effect: none
  mask: { columns: [{ match: "*.*.ssn", method: redact }] }
"#;

const RAW: &str = "123-45-6789";

/// One table, as it was when the copy was judged and as it is once the copy holds its locks.
struct OneTable {
    judged: Arc<CatalogueSnapshot>,
    confirmed: Option<Arc<CatalogueSnapshot>>,
}

impl CatalogueSource for OneTable {
    fn routine(&self, _: u32) -> BoxFuture<'_, Option<crate::catalogue::Routine>> {
        Box::pin(std::future::ready(None))
    }

    fn load(&self) -> BoxFuture<'_, Option<Arc<CatalogueSnapshot>>> {
        Box::pin(std::future::ready(Some(self.judged.clone())))
    }

    fn confirm(&self) -> BoxFuture<'_, Option<Arc<CatalogueSnapshot>>> {
        Box::pin(std::future::ready(self.confirmed.clone()))
    }

    fn fresh(&self) -> Option<Arc<CatalogueSnapshot>> {
        Some(self.judged.clone())
    }

    fn outdated(&self) {}
}

fn table(columns: &[&str]) -> Arc<CatalogueSnapshot> {
    let column = |(attnum, name): (i16, &&str)| RelationColumn {
        attnum,
        name: (*name).to_owned(),
        type_oid: 25,
        generated_from: Vec::new(),
    };
    let relation = Relation {
        oid: 20_000,
        schema: "public".to_owned(),
        name: "customers".to_owned(),
        kind: RelationKind::Table,
        columns: (1..).zip(columns).map(column).collect(),
        parents: Vec::new(),
        view: None,
    };
    Arc::new(CatalogueSnapshot::new(CatalogueParts {
        relations: vec![relation],
        search_path: vec!["public".to_owned()],
        ..CatalogueParts::default()
    }))
}

fn announced(columns: usize, format: Format) -> Backend {
    Backend::CopyOutResponse(CopyResponse { format, columns: vec![format; columns] })
}

fn data(bytes: &[u8]) -> Backend {
    Backend::CopyData(Bytes::copy_from_slice(bytes))
}

/// A target that answers the first query with these messages and every other with an error.
async fn target(mut stream: DuplexStream, answer: Vec<Backend>) {
    let decoder = FrameDecoder::new(FrameLimits::CLIENT);
    let mut input = BytesMut::new();
    let mut answer = Some(answer);
    loop {
        while let Some(frame) = decoder.next(&mut input).unwrap() {
            if !matches!(Frontend::decode(&frame).unwrap(), Frontend::Query(_)) {
                return;
            }
            let mut out = BytesMut::new();
            for message in answer.take().unwrap_or_default() {
                message.encode(&mut out).unwrap();
            }
            Backend::ReadyForQuery(TransactionStatus::Idle).encode(&mut out).unwrap();
            if stream.write_all(&out).await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut input).await, Ok(count) if count > 0) {
            return;
        }
    }
}

/// What the client gets of `COPY customers TO STDOUT`: the messages in short, and the copied bytes.
async fn copied(confirmed: Option<Arc<CatalogueSnapshot>>, answer: Vec<Backend>) -> (String, String) {
    let outside = testing::outside(MASKING);
    let (near, mut client) = tokio::io::duplex(64);
    let (upstream, far) = tokio::io::duplex(64);
    let server = tokio::spawn(target(far, answer));
    let settings = testing::target("orders-db", Vec::new());
    let session = Arc::new(testing::session(&settings, &*outside.ports.ambient));
    let mut report = FlowReport::new(outside.recorder.clone(), outside.ports.ambient.clone());
    report.session_started(&session, false).await.unwrap();
    let connected = Connected::scripted(upstream);
    let limits = Limits::default();
    let source = OneTable { judged: table(&["id", "ssn", "note"]), confirmed };
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
        masks: Masks::new(Arc::new(source), Arc::default()),
        cancel: Arc::default(),
        cancel_target: Arc::new(CancelTarget::scripted()),
        drain: Drain::default(),
        limits,
        report,
    });
    let session = tokio::spawn(Box::new(engine).run());
    let mut out = BytesMut::new();
    query("COPY customers TO STDOUT").encode(&mut out).unwrap();
    client.write_all(&out).await.unwrap();
    let decoder = FrameDecoder::new(FrameLimits::SERVER);
    let (mut input, mut words, mut bytes) = (BytesMut::new(), Vec::new(), Vec::new());
    'all: loop {
        while let Some(frame) = decoder.next(&mut input).unwrap() {
            let message = Backend::decode(&frame).unwrap();
            if let Backend::CopyData(piece) = &message {
                bytes.extend_from_slice(piece);
            }
            words.push(short(&message));
            if matches!(message, Backend::ReadyForQuery(_)) {
                break 'all;
            }
        }
        if !matches!(client.read_buf(&mut input).await, Ok(count) if count > 0) {
            break;
        }
    }
    drop(client);
    session.await.unwrap();
    server.await.unwrap();
    let record = format!("{:?}", outside.recorder.events());
    assert!(!record.contains(RAW), "{record}");
    words.dedup();
    (words.join(" "), String::from_utf8(bytes).unwrap())
}

fn done(mut messages: Vec<Backend>) -> Vec<Backend> {
    messages.push(Backend::CopyDone);
    messages.push(Backend::CommandComplete(PgString::from_static("COPY 2")));
    messages
}

#[tokio::test]
async fn copy_data_may_be_cut_anywhere() {
    let stream = b"1\t123-45-6789\tx\\\ty\n2\t\\N\t123-45\n";
    let same = || Some(table(&["id", "ssn", "note"]));
    for size in [1, 2, 3, 7, stream.len()] {
        let mut messages = vec![announced(3, Format::Text)];
        messages.extend(stream.chunks(size).map(data));
        messages.insert(1, data(b""));
        let (words, bytes) = copied(same(), done(messages)).await;
        assert_eq!(
            (words.as_str(), bytes.as_str()),
            ("H d c C:COPY_2 Z:I", "1\t[redacted]\tx\\\ty\n2\t\\N\t123-45\n"),
            "{size}"
        );
    }
    // One message of many megabytes goes on in pieces.
    let long =
        [b"1\t", RAW.repeat(300_000).as_bytes(), b"\t", "x".repeat(3_000_000).as_bytes(), b"\n"].concat();
    let (words, bytes) = copied(same(), done(vec![announced(3, Format::Text), data(&long)])).await;
    assert_eq!(words, "H d c C:COPY_2 Z:I");
    assert!(
        bytes.starts_with("1\t[redacted]\txxx") && bytes.len() == 2 + 11 + 3_000_000 + 1,
        "{}",
        bytes.len()
    );
}

#[tokio::test]
async fn the_table_that_was_locked_is_the_one_that_counts() {
    // It was judged as (id, ssn, note); meanwhile ssn came first.
    let answer = || done(vec![announced(3, Format::Text), data(b"123-45-6789\tnote\tz\n")]);
    let (words, bytes) = copied(Some(table(&["ssn", "note", "z"])), answer()).await;
    assert_eq!((words.as_str(), bytes.as_str()), ("H d c C:COPY_2 Z:I", "[redacted]\tnote\tz\n"));
    // Nobody can tell, or the table is gone from the catalogue.
    for confirmed in [None, Some(table(&[])), Some(Arc::default())] {
        let (words, bytes) = copied(confirmed, answer()).await;
        assert!(bytes.is_empty() && words.starts_with("E:"), "{words} {bytes}");
    }
}

#[tokio::test]
async fn a_stream_of_another_shape_shows_nothing_raw() {
    let same = || Some(table(&["id", "ssn", "note"]));
    let row = || data(b"1\t123-45-6789\tx\n");
    for (name, answer) in [
        ("another number of columns", done(vec![announced(2, Format::Text), data(b"123-45-6789\tx\n")])),
        ("more columns", done(vec![announced(4, Format::Text), data(b"123-45-6789\tx\ty\tz\n")])),
        ("the other format", done(vec![announced(3, Format::Binary), row()])),
        ("fewer fields", done(vec![announced(3, Format::Text), data(b"1\tx\n123-45-6789\tx\n")])),
        ("more fields", done(vec![announced(3, Format::Text), data(b"1\tx\ty\t123-45-6789\n")])),
        (
            "a line break that is escaped",
            done(vec![announced(3, Format::Text), data(b"1\t\\\n123-45-6789\tx\n")]),
        ),
        ("the end inside a field", done(vec![announced(3, Format::Text), data(b"1\t123-45-6789")])),
        ("rows without an announcement", done(vec![row()])),
    ] {
        let (words, bytes) = copied(same(), answer).await;
        assert!(!bytes.contains("123-45"), "{name}: {bytes}");
        assert!(words.contains("E:"), "{name}: {words}");
    }
}
