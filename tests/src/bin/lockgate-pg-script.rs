//! A client that says what it is told, message by message: `lockgate-pg-script ADDRESS SCRIPT [CONNECTIONS]`.
//!
//! A script has one step a line. Messages are collected and go out together at the next `await`, `pause` or at the
//! end, so that what stands between two of these is one pipeline. What comes back is printed a message a line:
//! its type byte and key fields. It knows nothing of order or meaning: breaking the protocol is what it is for.
//!
//! ```text
//! startup user=x|database=shop      query SELECT 1                parse NAME|SELECT $1::int
//! bind PORTAL|NAME|value|value      execute PORTAL                describe S|NAME        close P|NAME
//! sync   flush   terminate          copy-data TEXT   copy-done    copy-fail WHY          password TEXT
//! call OID|argument                 cancel PID|HEXKEY             ssl   gss              raw HEX
//! long-query BYTES                  await TAG                     pause MILLISECONDS
//! ```
//!
//! At the end of the script it closes its sending side and reads on until the peer closes too. With CONNECTIONS it
//! runs the script so many times at once.

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use lockgate_wire::postgres::{
    Format, PgString, Target,
    backend::Backend,
    frame::{FrameDecoder, Limits},
    frontend::{Bind, Execute, Frontend, FunctionCall, Parse, PasswordFamily},
    startup::{CancelRequest, ProtocolVersion, StartupMessage, StartupPacket},
};
use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// How long one answer may take before the client gives up and says so.
const PATIENCE: Duration = Duration::from_secs(25);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, script, connections) = match arguments.as_slice() {
        [address, script] => (address, script, 1),
        [address, script, connections] => (address, script, connections.parse()?),
        _ => bail!("usage: lockgate-pg-script ADDRESS SCRIPT [CONNECTIONS]"),
    };
    let address: SocketAddr = address.parse()?;
    let running: Vec<_> = (0..connections)
        .map(|_| {
            std::thread::spawn({
                let script = script.clone();
                move || run(address, &script)
            })
        })
        .collect();
    for one in running {
        match one.join() {
            Ok(Ok(heard)) => print!("{heard}"),
            Ok(Err(error)) => println!("failed {error:#}"),
            Err(_) => bail!("a connection panicked"),
        }
    }
    Ok(())
}

fn run(address: SocketAddr, script: &str) -> Result<String> {
    let stream = TcpStream::connect(address).context("connect")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut client =
        Client { stream, out: BytesMut::new(), input: BytesMut::new(), heard: String::new(), open: true };
    for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "await" => {
                client.go();
                client.listen(rest.bytes().next())?;
            }
            "pause" => {
                client.go();
                std::thread::sleep(Duration::from_millis(rest.parse()?));
            }
            _ => say(word, rest, &mut client.out).with_context(|| line.to_owned())?,
        }
    }
    client.go();
    let _ = client.stream.shutdown(Shutdown::Write);
    client.listen(None)?;
    Ok(client.heard)
}

struct Client {
    stream: TcpStream,
    out: BytesMut,
    input: BytesMut,
    heard: String,
    open: bool,
}

impl Client {
    /// Sends what is collected. A peer that closed meanwhile is heard of by reading.
    fn go(&mut self) {
        if let Err(error) = self.stream.write_all(&self.out) {
            let _ = writeln!(self.heard, "send {:?}", error.kind());
        }
        self.out.clear();
    }

    /// Reads up to a message of this type, or to the end.
    fn listen(&mut self, until: Option<u8>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let decoder = FrameDecoder::new(Limits::SERVER);
        while self.open {
            // An answer to SSLRequest is a lone byte.
            if matches!(until, Some(b'?')) && !self.input.is_empty() {
                let byte = self.input.split_to(1);
                writeln!(self.heard, "answer {}", char::from(byte.first().copied().unwrap_or_default()))?;
                return Ok(());
            }
            if until != Some(b'?')
                && let Some(frame) = decoder.next(&mut self.input)?
            {
                let line = match Backend::decode(&frame) {
                    Ok(message) => describe(&message),
                    Err(error) => format!("undecodable: {error}"),
                };
                writeln!(self.heard, "{} {line}", char::from(frame.tag()))?;
                if until == Some(frame.tag()) {
                    return Ok(());
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                writeln!(self.heard, "timeout")?;
                self.open = false;
                break;
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    writeln!(self.heard, "eof")?;
                    self.open = false;
                }
                Ok(count) => self.input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
                Err(error) => {
                    writeln!(self.heard, "{:?}", error.kind())?;
                    self.open = false;
                }
            }
        }
        Ok(())
    }
}

fn text(text: &str) -> PgString {
    PgString::lossy(text)
}

fn values(parts: std::str::Split<'_, char>) -> Vec<Option<Bytes>> {
    parts.map(|value| Some(Bytes::copy_from_slice(value.as_bytes()))).collect()
}

fn say(word: &str, rest: &str, out: &mut BytesMut) -> Result<()> {
    let mut parts = rest.split('|');
    let mut part = || parts.next().unwrap_or_default();
    let message = match word {
        "startup" => {
            let parameters =
                rest.split('|').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (text(n), text(v)));
            let message = StartupMessage { version: ProtocolVersion::V3_0, parameters: parameters.collect() };
            return Ok(StartupPacket::Startup(message).encode(out)?);
        }
        "ssl" => return Ok(StartupPacket::SslRequest.encode(out)?),
        "gss" => return Ok(StartupPacket::GssEncRequest.encode(out)?),
        "cancel" => {
            let (process_id, key) = (part().parse()?, hex::decode(part())?.into());
            return Ok(StartupPacket::Cancel(CancelRequest { process_id, key }).encode(out)?);
        }
        "raw" => {
            out.extend_from_slice(&hex::decode(rest.replace(' ', ""))?);
            return Ok(());
        }
        "query" => Frontend::Query(text(rest)),
        "long-query" => Frontend::Query(text(&format!("select '{}'", "x".repeat(rest.parse()?)))),
        "parse" => {
            let (statement, sql) = rest.split_once('|').context("parse NAME|SQL")?;
            Frontend::Parse(Parse { statement: text(statement), sql: text(sql), parameter_types: Vec::new() })
        }
        "bind" => {
            let (portal, statement) = (text(part()), text(part()));
            Frontend::Bind(Bind {
                portal,
                statement,
                parameter_formats: Vec::new(),
                parameters: values(parts),
                result_formats: Vec::new(),
            })
        }
        "execute" => Frontend::Execute(Execute { portal: text(rest), max_rows: 0 }),
        "describe" | "close" => {
            let target = match (part(), text(part())) {
                ("S", name) => Target::Statement(name),
                (_, name) => Target::Portal(name),
            };
            if word == "close" { Frontend::Close(target) } else { Frontend::Describe(target) }
        }
        "sync" => Frontend::Sync,
        "flush" => Frontend::Flush,
        "terminate" => Frontend::Terminate,
        "copy-data" => Frontend::CopyData(Bytes::from(format!("{}\n", rest.replace("\\t", "\t")))),
        "copy-done" => Frontend::CopyDone,
        "copy-fail" => Frontend::CopyFail(text(rest)),
        "password" => Frontend::Password(PasswordFamily::password(&text(rest))),
        "call" => Frontend::FunctionCall(FunctionCall {
            function: part().parse()?,
            argument_formats: Vec::new(),
            arguments: values(parts),
            result_format: Format::Text,
        }),
        _ => bail!("no such step"),
    };
    Ok(message.encode(out)?)
}

fn describe(message: &Backend) -> String {
    match message {
        Backend::CommandComplete(tag) => tag.to_string_lossy().into_owned(),
        Backend::ErrorResponse(fields) | Backend::NoticeResponse(fields) => {
            let each = fields.iter().filter(|(code, _)| matches!(code, b'C' | b'M' | b'D' | b'H'));
            each.map(|(_, value)| value.to_string_lossy().replace('\n', " ")).collect::<Vec<_>>().join(" | ")
        }
        Backend::ReadyForQuery(status) => char::from(status.code()).to_string(),
        Backend::DataRow(row) => {
            let field = |value: Option<&[u8]>| {
                value.map_or("NULL".into(), |v| String::from_utf8_lossy(v).into_owned())
            };
            row.fields().map(field).collect::<Vec<_>>().join("|")
        }
        Backend::BackendKeyData(data) => format!("{}|{}", data.process_id, hex::encode(&data.key)),
        Backend::CopyData(data) => String::from_utf8_lossy(data).trim_end().to_owned(),
        other => other.name().to_owned(),
    }
}
