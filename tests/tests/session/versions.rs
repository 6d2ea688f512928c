//! Versions of the protocol and their cancellation keys, and openings that are none.

use crate::world::{Options, World};
use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use lockgate_model::event::EventKind;
use lockgate_tests::through::ALLOW_ALL;
use lockgate_wire::postgres::{
    PgString,
    backend::{Backend, BackendKeyData},
    frame::{FrameDecoder, Limits},
    frontend::Frontend,
    startup::{CancelRequest, ProtocolVersion, StartupMessage},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Client {
    stream: TcpStream,
    input: BytesMut,
}

impl Client {
    fn dial(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, input: BytesMut::new() })
    }

    fn open(port: u16, minor: u16, more: &[(&str, &str)]) -> Result<(Self, Vec<Backend>)> {
        let mut client = Self::dial(port)?;
        let parameters = [("user", "app"), ("database", "orders")];
        let parameters = parameters.iter().chain(more);
        let message = StartupMessage {
            version: ProtocolVersion { major: 3, minor },
            parameters: parameters.map(|(n, v)| (PgString::lossy(n), PgString::lossy(v))).collect(),
        };
        let mut out = BytesMut::new();
        message.encode(&mut out)?;
        client.stream.write_all(&out)?;
        let heard = client.listen()?;
        Ok((client, heard))
    }

    /// Until ReadyForQuery or the end.
    fn listen(&mut self) -> Result<Vec<Backend>> {
        let mut heard = Vec::new();
        loop {
            while let Some(frame) = FrameDecoder::new(Limits::SERVER).next(&mut self.input)? {
                heard.push(Backend::decode(&frame)?);
                if matches!(heard.last(), Some(Backend::ReadyForQuery(_))) {
                    return Ok(heard);
                }
            }
            let mut chunk = [0; 8192];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(heard),
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(heard),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn say(&mut self, message: &Frontend) -> Result<()> {
        Ok(self.stream.write_all(&message.to_bytes()?)?)
    }
}

fn world() -> Result<World> {
    World::with(&[], Options { policy: Some(ALLOW_ALL.to_owned()), ..Options::default() })
}

fn key(heard: &[Backend]) -> Option<BackendKeyData> {
    heard.iter().find_map(|message| match message {
        Backend::BackendKeyData(key) => Some(key.clone()),
        _ => None,
    })
}

#[test]
fn the_version_is_negotiated_and_its_key_cancels() -> Result<()> {
    let world = world()?;
    let option = ("_pq_.no_such_extension", "1");
    // Asked minor version, extensions, what is negotiated, bytes of the key.
    for (minor, more, negotiated, bytes) in [
        (0, &[][..], None, 4),
        (2, &[], None, 32),
        (9999, &[], Some((3 << 16 | 2, 0)), 32),
        (1, &[], Some((3 << 16, 0)), 4),
        (0, &[option], Some((3 << 16, 1)), 4),
        (2, &[option], Some((3 << 16 | 2, 1)), 32),
    ] {
        let (mut client, heard) = Client::open(world.port, minor, more)?;
        let got = heard.iter().find_map(|message| match message {
            Backend::NegotiateProtocolVersion(n) => Some((n.newest, n.unknown_options.len())),
            _ => None,
        });
        ensure!(got == negotiated, "3.{minor}: {got:?}");
        let Some(key) = key(&heard) else { anyhow::bail!("3.{minor}: no key in {heard:?}") };
        ensure!(key.key.len() == bytes, "3.{minor}: a key of {} bytes", key.key.len());

        // A wrong key does nothing, whatever its length; the right one cancels.
        client.say(&Frontend::Query(PgString::from_static("SELECT pg_sleep(20)")))?;
        std::thread::sleep(Duration::from_millis(100));
        let mut wrong = key.key.to_vec();
        wrong[0] ^= 1;
        let began = Instant::now();
        for secret in
            [Bytes::from(wrong), Bytes::from_static(&[0; 32]), Bytes::from_static(&[0; 256]), key.key]
        {
            let mut out = BytesMut::new();
            CancelRequest { process_id: key.process_id, key: secret }.encode(&mut out)?;
            let mut cancelling = Client::dial(world.port)?;
            cancelling.stream.write_all(&out)?;
            ensure!(cancelling.listen()?.is_empty(), "a cancellation has no answer");
        }
        let heard = client.listen()?;
        ensure!(
            heard
                .iter()
                .any(|message| matches!(message, Backend::ErrorResponse(e) if e.sqlstate() == b"57014")),
            "3.{minor}: {heard:?}"
        );
        ensure!(began.elapsed() < Duration::from_secs(10));
        client.say(&Frontend::Terminate)?;
    }
    let (started, ended) = world.finish()?;
    ensure!(started == ended, "{started} sessions started, {ended} ended");
    Ok(())
}

#[test]
fn what_is_no_opening_or_no_message_ends_with_a_fatal_error_and_one_closing_record() -> Result<()> {
    let world = world()?;
    let startup = |version: u32| {
        let body = b"user\0app\0database\0orders\0\0";
        let length = u32::try_from(8 + body.len()).unwrap_or(0);
        [&length.to_be_bytes()[..], &version.to_be_bytes(), body].concat()
    };
    let good = startup(3 << 16);
    let with = |more: &[u8]| [&good[..], more].concat();
    let ssl = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let gss = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
    let attempts = [
        ("protocol 2", startup(2 << 16), Some("protocol")),
        ("protocol 4", startup(4 << 16), Some("protocol")),
        ("SSLRequest twice", [&ssl[..], &ssl, &good].concat(), Some("SSLRequest")),
        ("GSSENCRequest twice", [&gss[..], &gss, &good].concat(), Some("GSSENCRequest")),
        ("a startup packet of 2 GB", vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0], None),
        ("a startup packet of 5 bytes", vec![0, 0, 0, 5, 0, 3, 0, 0], None),
        ("no name ended", [&[0, 0, 0, 12, 0, 3, 0, 0][..], b"user"].concat(), None),
        ("a second StartupMessage", with(&good), Some("lockgate")),
        ("an unknown message", with(b"\x01\0\0\0\x04"), Some("0x01")),
        ("a message of 3 bytes", with(b"Q\0\0\0\x03"), Some("lockgate")),
        ("a message of 2 GB", with(b"Q\x7f\xff\xff\xff"), Some("lockgate")),
        ("a text without its end", with(b"Q\0\0\0\x06ab"), Some("lockgate")),
        ("a Bind that counts too many", with(b"B\0\0\0\x0a\0\0\x7f\xff\0\0"), Some("lockgate")),
        ("half a message", with(b"Q\0\0\0\x20SELECT"), Some("lockgate")),
        ("a password nobody asked for", with(b"p\0\0\0\x05\0"), Some("lockgate")),
        ("garbage", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8garbage".to_vec(), None),
        ("nothing", Vec::new(), None),
    ];
    for (closings, (what, bytes, said)) in (1..).zip(attempts) {
        let mut client = Client::dial(world.port)?;
        client.stream.write_all(&bytes)?;
        client.stream.shutdown(Shutdown::Write)?;
        let mut heard = Vec::new();
        match client.stream.read_to_end(&mut heard) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => anyhow::bail!("{what}: {error}"),
        }
        let heard = String::from_utf8_lossy(&heard).into_owned();
        // A server does not answer what does not look like its protocol at all; nor does lockgate.
        if let Some(said) = said {
            ensure!(heard.contains("FATAL") || heard.contains("ERROR"), "{what}: {heard:?}");
            ensure!(heard.contains(said), "{what}: {said:?} is missing in {heard:?}");
        }
        world.wait_for("a closing record", |events| {
            let ended = events
                .iter()
                .filter(|event| matches!(event, EventKind::SessionEnded(_) | EventKind::FlowRefused { .. }));
            ended.count() == closings
        })?;
    }
    // The proxy is as it was.
    ensure!(world.psql(&["-c", "SELECT 'well'"])?.out == "well\n");
    let (started, ended) = world.finish()?;
    ensure!(started == ended, "{started} sessions started, {ended} ended");
    Ok(())
}
