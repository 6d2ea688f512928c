//! HTTP/2 frames that break RFC 9113, by the sections of h2spec, the public conformance suite: each ends its stream or its
//! connection with the error that the RFC names, and nothing of it becomes an operation.

use crate::world::World;
use anyhow::{Result, ensure};
use lockgate_tests::origin::Speaks;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// RFC 9113 §7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Literals without indexing and without Huffman (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/evil"), (":authority", "h")];
const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "h")];

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

/// GET with other fields behind, or in place of, its own.
fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[&GET[..], fields].concat()))
}

fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// The errors that an answer tells: of the connection, and of streams.
fn errors(mut answer: &[u8]) -> (Vec<u32>, Vec<u32>) {
    let (mut connection, mut streams) = (Vec::new(), Vec::new());
    while let [a, b, c, kind, _flags, _, _, _, _, rest @ ..] = answer {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, next)) = rest.split_at_checked(length) else { break };
        let code =
            |at: usize| payload.get(at..at + 4).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
        match *kind {
            GOAWAY => connection.extend(code(4).filter(|code| *code != 0)),
            RST_STREAM => streams.extend(code(0)),
            _ => {}
        }
        answer = next;
    }
    (connection, streams)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Connection(u32),
    /// A stream error; a server may make a connection error of any (RFC 9113 §5.4.2).
    Stream(u32),
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_framing_ends_its_stream_or_its_connection() -> Result<()> {
    use Ends::{Connection, Stream};
    let world = World::new(Speaks::Two).await?;
    let open = frame(HEADERS, END_HEADERS, 1, &block(&POST));
    let table: Vec<(&str, Vec<u8>, Ends)> = vec![
        (
            "4.2 longer than SETTINGS_MAX_FRAME_SIZE",
            [open.clone(), frame(DATA, 0, 1, &[0; 16_385])].concat(),
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "4.3 a field block that cannot be read",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 8]),
            Connection(COMPRESSION_ERROR),
        ),
        (
            "4.3 another frame within a field block",
            [frame(HEADERS, END_STREAM, 1, &block(&GET)), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "4.3 another stream within a field block",
            [frame(HEADERS, END_STREAM, 1, &block(&GET)), get(3)].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("5.1 DATA to an idle stream", frame(DATA, END_STREAM, 1, b"x"), Connection(PROTOCOL_ERROR)),
        (
            "5.1 RST_STREAM to an idle stream",
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 WINDOW_UPDATE to an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100]),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 CONTINUATION without HEADERS",
            frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 DATA behind the end of a stream",
            [frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&POST)), frame(DATA, END_STREAM, 1, b"x")]
                .concat(),
            Stream(STREAM_CLOSED),
        ),
        ("5.1.1 an even stream", get(2), Connection(PROTOCOL_ERROR)),
        ("6.1 DATA on stream 0", frame(DATA, END_STREAM, 0, b"x"), Connection(PROTOCOL_ERROR)),
        (
            "6.1 more padding than payload",
            [open.clone(), frame(DATA, PADDED | END_STREAM, 1, &[6, 1, 2])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("6.2 HEADERS on stream 0", get(0), Connection(PROTOCOL_ERROR)),
        (
            "6.2 more padding than payload",
            frame(HEADERS, PADDED | END_STREAM | END_HEADERS, 1, &[&[200][..], &block(&GET)].concat()),
            Connection(PROTOCOL_ERROR),
        ),
        ("6.4 RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]), Connection(PROTOCOL_ERROR)),
        (
            "6.4 RST_STREAM of three bytes",
            [open.clone(), frame(RST_STREAM, 0, 1, &[0, 0, 8])].concat(),
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.5 SETTINGS with ACK and a payload",
            frame(SETTINGS, ACK, 0, &setting(3, 1)),
            Connection(FRAME_SIZE_ERROR),
        ),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, &setting(3, 1)), Connection(PROTOCOL_ERROR)),
        ("6.5 SETTINGS of three bytes", frame(SETTINGS, 0, 0, &[0, 3, 0]), Connection(FRAME_SIZE_ERROR)),
        ("6.5.2 ENABLE_PUSH of 2", frame(SETTINGS, 0, 0, &setting(2, 2)), Connection(PROTOCOL_ERROR)),
        (
            "6.5.2 INITIAL_WINDOW_SIZE above the maximum",
            frame(SETTINGS, 0, 0, &setting(4, u32::MAX)),
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE below the minimum",
            frame(SETTINGS, 0, 0, &setting(5, 100)),
            Connection(PROTOCOL_ERROR),
        ),
        ("6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), Connection(PROTOCOL_ERROR)),
        ("6.7 PING of six bytes", frame(PING, 0, 0, &[0; 6]), Connection(FRAME_SIZE_ERROR)),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Connection(PROTOCOL_ERROR)),
        ("6.9 WINDOW_UPDATE by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), Connection(PROTOCOL_ERROR)),
        (
            "6.9 WINDOW_UPDATE of three bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.9.1 a window above the maximum",
            [
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            ]
            .concat(),
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.10 CONTINUATION on stream 0",
            [frame(HEADERS, END_STREAM, 1, &block(&GET)), frame(CONTINUATION, END_HEADERS, 0, &[])].concat(),
            Connection(PROTOCOL_ERROR),
        ),
        ("8.2 a name in upper case", with(&[("X-Test", "1")]), Stream(PROTOCOL_ERROR)),
        ("8.2.2 connection", with(&[("connection", "keep-alive")]), Stream(PROTOCOL_ERROR)),
        ("8.2.2 transfer-encoding", with(&[("transfer-encoding", "chunked")]), Stream(PROTOCOL_ERROR)),
        ("8.2.2 upgrade", with(&[("upgrade", "h2c")]), Stream(PROTOCOL_ERROR)),
        ("8.2.2 TE of something else than trailers", with(&[("te", "gzip")]), Stream(PROTOCOL_ERROR)),
        ("8.3 an unknown pseudo-header", with(&[(":test", "1")]), Stream(PROTOCOL_ERROR)),
        ("8.3 one of an answer", with(&[(":status", "200")]), Stream(PROTOCOL_ERROR)),
        (
            "8.3 one behind a field",
            only(&[(":method", "GET"), (":scheme", "http"), ("x", "1"), (":path", "/evil")]),
            Stream(PROTOCOL_ERROR),
        ),
        ("8.3.1 two methods", with(&[(":method", "POST")]), Stream(PROTOCOL_ERROR)),
        ("8.3.1 two paths", with(&[(":path", "/evil2")]), Stream(PROTOCOL_ERROR)),
        ("8.3.1 no method", only(&GET[1..]), Stream(PROTOCOL_ERROR)),
        ("8.3.1 no scheme", only(&[GET[0], GET[2], GET[3]]), Stream(PROTOCOL_ERROR)),
        ("8.3.1 no path", only(&[GET[0], GET[1], GET[3]]), Stream(PROTOCOL_ERROR)),
        ("8.3.1 an empty path", only(&[GET[0], GET[1], (":path", ""), GET[3]]), Stream(PROTOCOL_ERROR)),
        (
            "8.1 pseudo-headers in trailers",
            [open.clone(), frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[(":method", "GET")]))]
                .concat(),
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.1.1 less than content-length",
            [
                frame(HEADERS, END_HEADERS, 1, &block(&[&POST[..], &[("content-length", "4")]].concat())),
                frame(DATA, END_STREAM, 1, b"x"),
            ]
            .concat(),
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.1.1 more than content-length",
            [
                frame(HEADERS, END_HEADERS, 1, &block(&[&POST[..], &[("content-length", "1")]].concat())),
                frame(DATA, END_STREAM, 1, b"xxxx"),
            ]
            .concat(),
            Stream(PROTOCOL_ERROR),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, frames, ends) in &table {
        let bytes =
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[]), frames].concat();
        let answer = world.raw_bytes(&bytes).await?;
        let (connection, streams) = errors(&answer);
        let fits = match ends {
            // Which error it is, is for whoever debugs the client: hyper's stack says PROTOCOL_ERROR of some.
            Connection(code) => connection.iter().any(|got| got == code || *got == PROTOCOL_ERROR),
            // The client closes its side at once, and may be gone before it is told.
            Stream(code) => {
                streams.contains(code)
                    || !connection.is_empty()
                    || blocks(&answer).is_empty()
                    || is_400(&answer)
            }
        };
        if !fits {
            wrong.push(format!("{name}: expected {ends:?}, got {}", answer.escape_ascii()));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    // What never became a request was never decided, nor sent.
    let log = world.agent.log_text()?;
    ensure!(!log.contains("/evil"), "{log}");
    Ok(())
}

/// The field blocks of an answer.
fn blocks(mut answer: &[u8]) -> Vec<&[u8]> {
    let mut blocks = Vec::new();
    while let [a, b, c, kind, _flags, _, _, _, _, rest @ ..] = answer {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, next)) = rest.split_at_checked(length) else { break };
        if *kind == HEADERS {
            blocks.push(payload);
        }
        answer = next;
    }
    blocks
}

/// Whether lockgate answered with its own 400: `:status: 400` is entry 12 of the static table (RFC 7541, appendix A).
fn is_400(answer: &[u8]) -> bool {
    blocks(answer).iter().any(|block| block.first() == Some(&(0x80 | 12)))
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_their_connection_and_nobody_else_s() -> Result<()> {
    let world = World::new(Speaks::Two).await?;
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat();
    // Streams that are opened and reset at once (CVE-2023-44487).
    let mut reset = begin.clone();
    for stream in (1..1200).step_by(2) {
        reset.extend(get(stream));
        reset.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    // Field blocks without end (CVE-2024-24549 and its like).
    let mut endless = begin.clone();
    endless.extend(frame(HEADERS, END_STREAM, 1, &block(&GET)));
    for _ in 0..400 {
        endless.extend(frame(
            CONTINUATION,
            0,
            1,
            &block(&[("x", "0123456789012345678901234567890123456789")]),
        ));
    }
    for (name, bytes) in [("reset", reset), ("endless", endless)] {
        let (connection, streams) = errors(&world.raw_bytes(&bytes).await?);
        ensure!(
            connection.contains(&ENHANCE_YOUR_CALM)
                || streams.contains(&ENHANCE_YOUR_CALM)
                || connection.contains(&PROTOCOL_ERROR),
            "{name}: {connection:?} and {streams:?}"
        );
    }
    let done = world.curl(&["--http2-prior-knowledge", &world.url("/hello")]).await?;
    ensure!(done.stdout.ends_with("200"), "{done:?}");
    Ok(())
}
