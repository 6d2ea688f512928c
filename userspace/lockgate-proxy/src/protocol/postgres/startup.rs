//! The client's opening: TLS or not, cancellation or session, and which of its run-time parameters go on.
//!
//! The client's password is never asked for: whatever it is, it is of no use here and goes nowhere.

use super::{
    leg::Leg,
    replication,
    stream::{ClientStream, Unread},
    words,
};
use crate::{
    limits::{Limits, NAME_BYTES},
    report::Ending,
    tls::{self, Accepted, ClientTls, Negotiation, TlsError},
};
use bytes::{BufMut, BytesMut};
use lockgate_model::outcome::CloseReason;
use lockgate_wire::postgres::{
    PgString, WireError,
    automaton::{ClientLeg, StartupStep},
    backend::sqlstate,
    frame::Limits as FrameLimits,
    startup::{CancelRequest, StartupDecoder, StartupMessage, StartupPacket},
};
use std::net::IpAddr;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

/// invalid_catalog_name (Appendix A): what a server says of a database that is not there.
const INVALID_CATALOG_NAME: &str = "3D000";
/// Parameters whose value changes nothing that is judged: they go on as they are. Compared in lower case, as the server
/// does.
const ALLOWED: [&str; 24] = [
    "application_name",
    "bytea_output",
    "client_min_messages",
    "datestyle",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "plan_cache_mode",
    "search_path",
    "statement_timeout",
    "tcp_keepalives_count",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "timezone",
    "transaction_timeout",
    "work_mem",
    "xmloption",
];

/// How a session ends whose client leaves without a word when it is let in. What a client insists on, it says to nobody.
pub(crate) const LEFT_AT_ONCE: &str = "without a word, when it was let in; a client that insists on channel_binding or \
     require_auth does that: give its user a verifier in client_auth";

/// A client that wants a session.
pub(crate) struct Greeted<S> {
    pub(crate) leg: Leg<ClientStream<S>>,
    pub(crate) client_leg: ClientLeg,
    pub(crate) startup: StartupMessage,
    pub(crate) tls: bool,
    /// What SCRAM can be bound to; nothing outside TLS.
    pub(crate) binding: Option<Vec<u8>>,
}

/// What a client opened with.
pub(crate) enum Opened<S> {
    Session(Box<Greeted<S>>),
    Cancel(CancelRequest),
}

/// Takes the opening packets, within the handshake's bounds. `dialled` is where the client meant to go.
pub(crate) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    tls: Option<&ClientTls>,
    dialled: IpAddr,
    limits: &Limits,
) -> Result<Opened<S>, Ending> {
    match timeout(limits.handshake_time, take_packets(stream, tls, dialled, limits)).await {
        Ok(opened) => opened,
        Err(_) => {
            let detail = format!("no startup message within {} s", limits.handshake_time.as_secs());
            Err(Ending::because(CloseReason::LimitReached, detail))
        }
    }
}

async fn take_packets<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    tls: Option<&ClientTls>,
    dialled: IpAddr,
    limits: &Limits,
) -> Result<Opened<S>, Ending> {
    let decoder = StartupDecoder::new(FrameLimits::CLIENT);
    let mut client_leg = ClientLeg::new();
    let (mut encrypted, mut binding, mut untouched, mut refused) = (false, None, true, false);
    let mut disliked = None;
    let mut leg = Leg::new(ClientStream::Plain(stream), BytesMut::new(), limits.client_write_stall);
    loop {
        let packet = match decoder.next(&mut leg.input) {
            Ok(Some(packet)) => packet,
            Ok(None) => {
                let read = if leg.ended { Ok(()) } else { leg.fill().await };
                match (read, &disliked) {
                    (Ok(()), _) if !leg.ended => {}
                    (_, Some(why)) => return Err(away(CloseReason::ClientClosed, why)),
                    (Ok(()), None) => return Err(unfinished(&leg.input, refused)),
                    (Err(error), None) => return Err(client_closed(error)),
                }
                continue;
            }
            // A client may begin with TLS instead of asking for it, but only as the very first thing it says.
            Err(WireError::DirectTls) if untouched => {
                let Some(tls) = tls else { return Err(no_direct_tls(leg).await) };
                (leg, binding, disliked) = encrypt(leg, tls, Negotiation::Direct, dialled, limits).await?;
                client_leg.handle_encrypted();
                (encrypted, untouched) = (true, false);
                continue;
            }
            Err(fault) => return Err(refuse(&mut leg, fault).await),
        };
        untouched = false;
        let step = match client_leg.handle_startup(&packet) {
            Ok(step) => step,
            Err(fault) => return Err(refuse(&mut leg, fault).await),
        };
        match (step, packet) {
            (StartupStep::AnswerSsl, _) => match tls {
                None => {
                    answer(&mut leg, b'N').await?;
                    refused = true;
                }
                Some(tls) => {
                    if !leg.input.is_empty() {
                        // They would count as if they had been encrypted (CVE-2021-23214).
                        let detail = "bytes came in clear text behind the request for TLS";
                        return Err(Ending::because(CloseReason::ClientProtocolError, detail));
                    }
                    answer(&mut leg, b'S').await?;
                    (leg, binding, disliked) = encrypt(leg, tls, Negotiation::Asked, dialled, limits).await?;
                    client_leg.handle_encrypted();
                    encrypted = true;
                }
            },
            (StartupStep::AnswerGssEnc, _) => answer(&mut leg, b'N').await?,
            (StartupStep::Cancel, StartupPacket::Cancel(request)) => return Ok(Opened::Cancel(request)),
            (StartupStep::Open, StartupPacket::Startup(startup)) => {
                return Ok(Opened::Session(Box::new(Greeted {
                    leg,
                    client_leg,
                    startup,
                    tls: encrypted,
                    binding,
                })));
            }
            (StartupStep::Cancel | StartupStep::Open, _) => return Err(Ending::plain(CloseReason::Internal)),
        }
    }
}

/// The client's leg inside TLS, what SCRAM can be bound to, and why the client may not like it.
async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
    leg: Leg<ClientStream<S>>,
    tls: &ClientTls,
    negotiation: Negotiation,
    dialled: IpAddr,
    limits: &Limits,
) -> Result<(Leg<ClientStream<S>>, Option<Vec<u8>>, Option<TlsError>), Ending> {
    let (stream, read) = leg.into_parts();
    let ClientStream::Plain(stream) = stream else { return Err(Ending::plain(CloseReason::Internal)) };
    // What was read of a client that begins with TLS is the beginning of its handshake; of others it must be nothing.
    let (front, unread) = match negotiation {
        Negotiation::Asked => (BytesMut::new(), read),
        Negotiation::Direct | Negotiation::Http { .. } => (read, BytesMut::new()),
    };
    let Accepted { stream, binding, disliked } = tls
        .accept(Unread::new(front, stream), &unread, negotiation, dialled)
        .await
        .map_err(|error| away(CloseReason::ClientProtocolError, &error))?;
    let leg = Leg::new(ClientStream::Tls(Box::new(stream)), BytesMut::new(), limits.client_write_stall);
    Ok((leg, binding, disliked))
}

fn away(reason: CloseReason, why: &TlsError) -> Ending {
    Ending::because(reason, why.to_string())
}

async fn no_direct_tls<S: AsyncRead + AsyncWrite + Unpin>(leg: Leg<ClientStream<S>>) -> Ending {
    let (mut stream, _) = leg.into_parts();
    tls::refuse_direct(&mut stream).await;
    let detail = "the client begins with TLS (sslnegotiation=direct) and this target has none for clients; set its client_tls";
    Ending::because(CloseReason::ClientProtocolError, detail)
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    leg: &mut Leg<ClientStream<S>>,
    byte: u8,
) -> Result<(), Ending> {
    leg.output.tail().put_u8(byte);
    leg.drain().await.map_err(client_closed)
}

/// Tells the client what is wrong with its opening, as far as it speaks the protocol at all.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    leg: &mut Leg<ClientStream<S>>,
    fault: WireError,
) -> Ending {
    let reason = match fault {
        WireError::LengthTooLarge { .. } => CloseReason::LimitReached,
        _ => CloseReason::ClientProtocolError,
    };
    match fault {
        // A TLS client or another protocol would not understand.
        WireError::DirectTls | WireError::NotPostgres { .. } => {}
        _ => {
            let text = format!("lockgate: {}", fault.client_text());
            words::say(leg.output.tail(), &words::fatal(sqlstate::PROTOCOL_VIOLATION, &text));
            leg.farewell(crate::limits::FAREWELL_TIME).await;
        }
    }
    Ending::because(reason, fault.client_text())
}

fn unfinished(rest: &BytesMut, refused: bool) -> Ending {
    if rest.is_empty() && refused {
        let detail = "when it was told that there is no TLS for clients of this target; set its client_tls if they insist";
        Ending::because(CloseReason::ClientClosed, detail)
    } else if rest.is_empty() {
        Ending::because(CloseReason::ClientClosed, "before a startup message")
    } else {
        Ending::because(CloseReason::ClientProtocolError, "the connection ended inside the startup message")
    }
}

fn client_closed(error: std::io::Error) -> Ending {
    Ending::because(CloseReason::ClientClosed, error.to_string())
}

/// Why a startup message is refused: SQLSTATE and words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unwelcome {
    pub(crate) code: &'static str,
    pub(crate) text: String,
}

/// What of a startup message goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The user it asked for: a claim.
    pub(crate) user: String,
    /// The database.
    pub(crate) database: String,
    /// Run-time parameters that go on, `client_encoding` among them.
    pub(crate) parameters: Vec<(String, String)>,
    /// It is to be a replication connection: the parameter's value.
    pub(crate) replication: Option<&'static str>,
}

impl Wishes {
    /// Reads a startup message: user and database, parameters that may go on; what may not is refused by name.
    pub(crate) fn of(startup: &StartupMessage) -> Result<Self, Unwelcome> {
        let text = |value: &PgString, what: &'static str| {
            value.to_str(what).map(str::to_owned).map_err(|fault| Unwelcome {
                code: sqlstate::PROTOCOL_VIOLATION,
                text: format!("lockgate: {fault}"),
            })
        };
        let user = match startup.user() {
            Some(user) if !user.is_empty() => text(user, "user")?,
            Some(_) | None => {
                return Err(Unwelcome {
                    code: sqlstate::INVALID_AUTHORIZATION,
                    text: "lockgate: no user name in the startup message".to_owned(),
                });
            }
        };
        let database = match startup.database() {
            Some(database) => text(database, "database")?,
            None => user.clone(),
        };
        // The server cuts a longer one and opens another database than the one that rules were asked about.
        if database.len() > NAME_BYTES {
            return Err(Unwelcome {
                code: INVALID_CATALOG_NAME,
                text: format!("lockgate: the name of the database has more than {NAME_BYTES} bytes"),
            });
        }
        let mut wishes = Self { user, database, parameters: Vec::new(), replication: None };
        for (name, value) in &startup.parameters {
            let (name, value) = (text(name, "a parameter's name")?, text(value, "a parameter's value")?);
            match name.as_str() {
                "user" | "database" => {}
                _ if name.starts_with("_pq_.") => {}
                "replication" => {
                    wishes.replication = replication::wanted(&value).map_err(|()| Unwelcome {
                        code: sqlstate::PROTOCOL_VIOLATION,
                        text: format!("lockgate: replication is true, false or database, got {value:?}"),
                    })?;
                }
                "options" => {
                    for (name, value) in options(&value)? {
                        wishes.admit(&name, value)?;
                    }
                }
                _ => wishes.admit(&name, value)?,
            }
        }
        // The last one counts, as it does for the server.
        let encoding = wishes.parameters.iter().rfind(|(name, _)| name == "client_encoding").cloned();
        wishes.parameters.retain(|(name, _)| name != "client_encoding");
        let usual = || ("client_encoding".to_owned(), "UTF8".to_owned());
        wishes.parameters.push(encoding.unwrap_or_else(usual));
        Ok(wishes)
    }

    fn admit(&mut self, name: &str, value: String) -> Result<(), Unwelcome> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            // A client that names no encoding of its own (C locale) speaks ASCII. In any other than UTF-8 every statement is
            // opaque: a byte of a character can be a backslash or a quote.
            "client_encoding" if is_utf8(&value) || folded(&value) == "sqlascii" => {
                self.parameters.push((name, "UTF8".to_owned()));
            }
            "client_encoding" => self.parameters.push((name, value)),
            "standard_conforming_strings" if value.eq_ignore_ascii_case("on") => {}
            // The target reports it before the first statement is read.
            "standard_conforming_strings" if value.eq_ignore_ascii_case("off") => {
                self.parameters.push((name, value));
            }
            _ if ALLOWED.contains(&name.as_str()) => self.parameters.push((name, value)),
            _ => {
                return Err(Unwelcome {
                    code: sqlstate::FEATURE_NOT_SUPPORTED,
                    text: format!(
                        "lockgate: the startup parameter {name:?} is not passed on; use SET in the session"
                    ),
                });
            }
        }
        Ok(())
    }
}

fn folded(value: &str) -> String {
    value.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

fn is_utf8(value: &str) -> bool {
    matches!(folded(value).as_str(), "utf8" | "unicode")
}

/// The settings of the startup parameter `options`: `-c name=value`, `-cname=value`, `--name=value`; a backslash keeps the
/// next character (pg_split_opts in postinit.c). Any other switch is refused.
fn options(text: &str) -> Result<Vec<(String, String)>, Unwelcome> {
    let refused = |word: &str| Unwelcome {
        code: sqlstate::FEATURE_NOT_SUPPORTED,
        text: format!("lockgate: options may only hold -c name=value, got {word:?}"),
    };
    let mut settings = Vec::new();
    let mut words = split(text).into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") => words.next().ok_or_else(|| refused(&word))?,
            Some(rest) => rest.to_owned(),
            None => return Err(refused(&word)),
        };
        let Some((name, value)) = setting.split_once('=') else { return Err(refused(&setting)) };
        settings.push((name.trim().replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_wire::postgres::startup::ProtocolVersion;

    fn wishes(parameters: &[(&str, &str)]) -> Result<Wishes, Unwelcome> {
        let pair = |(name, value): &(&str, &str)| (PgString::lossy(name), PgString::lossy(value));
        Wishes::of(&StartupMessage {
            version: ProtocolVersion::V3_0,
            parameters: parameters.iter().map(pair).collect(),
        })
    }

    #[test]
    fn other_encodings_than_utf8_go_on_as_they_are() {
        for (parameters, expected) in [
            (&[("client_encoding", "GBK")][..], "GBK"),
            (&[("options", "-c client_encoding=LATIN1")], "LATIN1"),
            (&[("client_encoding", "SJIS"), ("options", "-c client_encoding=utf8")], "UTF8"),
        ] {
            let all: Vec<_> = [("user", "job")].iter().chain(parameters).copied().collect();
            let got = wishes(&all).unwrap();
            assert_eq!(
                got.parameters,
                [("client_encoding".to_owned(), expected.to_owned())],
                "{parameters:?}"
            );
        }
    }

    #[test]
    fn parameters_go_on_by_an_allow_list() {
        for (extra, expected) in [
            (&[][..], Ok(&[][..])),
            (&[("application_name", "psql")], Ok(&[("application_name", "psql")])),
            (&[("TimeZone", "UTC"), ("DateStyle", "ISO")], Ok(&[("timezone", "UTC"), ("datestyle", "ISO")])),
            (&[("client_encoding", "utf-8")], Ok(&[])),
            (&[("client_encoding", "SQL_ASCII")], Ok(&[])),
            (
                &[("options", "-c search_path=a,b --geqo=off -cwork_mem=1MB")],
                Ok(&[("search_path", "a,b"), ("geqo", "off"), ("work_mem", "1MB")]),
            ),
            (&[("options", r"-c search_path=a\ b")], Ok(&[("search_path", "a b")])),
            (&[("replication", "false"), ("standard_conforming_strings", "on")], Ok(&[])),
            (&[("_pq_.something", "1")], Ok(&[])),
            (
                &[("options", "-c standard_conforming_strings=off")],
                Ok(&[("standard_conforming_strings", "off")]),
            ),
            (&[("Standard_Conforming_Strings", "of")], Err("standard_conforming_strings")),
            (&[("options", "-d 5")], Err("-d")),
            (&[("options", "-c")], Err("-c")),
            (&[("options", "-c session_preload_libraries=x")], Err("session_preload_libraries")),
            (&[("replication", "maybe")], Err("replication")),
            (&[("role", "admin")], Err("role")),
        ] {
            let all: Vec<_> =
                [("user", "job"), ("database", "orders")].iter().chain(extra).copied().collect();
            match (wishes(&all), expected) {
                (Ok(got), Ok(expected)) => {
                    let mut expected: Vec<_> =
                        expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
                    expected.push(("client_encoding".into(), "UTF8".into()));
                    assert_eq!(got.parameters, expected, "{extra:?}");
                    assert_eq!((got.user.as_str(), got.database.as_str()), ("job", "orders"));
                }
                (Err(got), Err(expected)) => assert!(got.text.contains(expected), "{}", got.text),
                (got, expected) => panic!("{extra:?}: {got:?}, expected {expected:?}"),
            }
        }
        let replicating = wishes(&[("user", "job"), ("replication", "on")]).unwrap();
        assert_eq!((replicating.replication, replicating.parameters.len()), (Some("true"), 1));
        assert_eq!(wishes(&[("user", "job")]).unwrap().database, "job");
        assert!(wishes(&[("database", "orders")]).is_err());
        // The server would take the first 63 bytes of it.
        let (fits, cut) = ("d".repeat(63), "d".repeat(64));
        assert_eq!(wishes(&[("user", "job"), ("database", &fits)]).unwrap().database, fits);
        assert_eq!(wishes(&[("user", "job"), ("database", &cut)]).unwrap_err().code, "3D000");
        assert_eq!(wishes(&[("user", &cut)]).unwrap_err().code, "3D000");
    }
}
