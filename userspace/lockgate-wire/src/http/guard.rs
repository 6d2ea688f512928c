//! The automaton: head, body by length or by chunks, trailers, next head.

/// Bytes of a request line with its header fields. nginx allows 32 KiB, Apache 64 KiB in all.
pub const MAX_HEAD: usize = 64 * 1024;
/// Header fields of one request; hyper's own bound.
pub const MAX_HEADERS: usize = 100;
/// Bytes of a chunk's size line. Extensions are refused, so it is a number.
const MAX_CHUNK_LINE: usize = 32;
/// Bytes of trailers.
const MAX_TRAILERS: usize = 8 * 1024;
/// Digits of a chunk's size: 16 EiB is enough for anybody, and fits.
const MAX_SIZE_DIGITS: usize = 15;

/// Why bytes are not a request that has one reading only; a record's and a client's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// LF without CR before it, or CR without LF behind it.
    #[error("a line does not end with CR LF alone")]
    BareLineEnd,
    /// RFC 9112 §3: method SP target SP version.
    #[error("the request line is not METHOD SP TARGET SP HTTP/1.x")]
    RequestLine,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// RFC 9112 §3.2.
    #[error("the request's target is neither a path, nor a URL of this host, nor `*`")]
    Target,
    /// RFC 9112 §3.2.2: the two name different hosts.
    #[error("the URL in the request line names another host than the Host field")]
    HostMismatch,
    /// RFC 9112 §3.2: exactly one.
    #[error("there is no Host field, or more than one")]
    Host,
    /// RFC 9110 §5.1.
    #[error("a field's name is not a token, or white space stands before its colon")]
    FieldName,
    /// RFC 9110 §5.5.
    #[error("a field's value has a control character")]
    FieldValue,
    /// RFC 9112 §5.2.
    #[error("a field is folded over several lines")]
    Folding,
    /// RFC 9112 §6.3: more than one, or not a number.
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    /// RFC 9112 §6.1.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    TransferEncoding,
    /// RFC 9112 §6.1.
    #[error("there is a Content-Length beside Transfer-Encoding")]
    LengthAndChunked,
    /// RFC 9112 §7.1.
    #[error("a chunk's size line or its end is malformed")]
    Chunk,
    /// RFC 9110 §6.5.1: framing, routing or credentials in trailers.
    #[error("a trailer that may not be one")]
    Trailer,
    /// Bounds.
    #[error("the head is longer than is read")]
    HeadTooLong,
    /// CONNECT makes a tunnel of the connection.
    #[error("CONNECT is not served: lockgate is no forward proxy")]
    Connect,
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// None.
    Empty,
    /// By Content-Length.
    Length(u64),
    /// Chunked.
    Chunked,
}

/// What became of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// So many more bytes may be read by others.
    Pass(usize),
    /// More bytes are needed before any of the rest may be read by others.
    More,
    /// Nothing more of this connection may be read as requests. True: it is in a head, nothing of which has passed.
    Refused(Violation, bool),
}

/// Follows a client's bytes. Heads pass whole or not at all.
#[derive(Debug)]
pub struct Guard {
    state: State,
    /// How far the head, line or trailer at the front was searched for its end.
    searched: usize,
    /// Bytes of trailers so far.
    trailers: usize,
    /// After an upgrade: another protocol.
    opaque: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Refused(Violation),
}

impl Default for Guard {
    fn default() -> Self {
        Self { state: State::Head, searched: 0, trailers: 0, opaque: false }
    }
}

impl Guard {
    /// From here on the bytes are another protocol's (after a 101).
    pub fn upgraded(&mut self) {
        self.opaque = true;
    }

    /// Whether it stands between two requests.
    pub fn is_between(&self) -> bool {
        self.state == State::Head
    }

    /// Looks at the bytes that have arrived and not yet passed. Call again with the rest after a `Pass`.
    pub fn handle(&mut self, bytes: &[u8]) -> Guarded {
        if self.opaque {
            return if bytes.is_empty() { Guarded::More } else { Guarded::Pass(bytes.len()) };
        }
        match self.state {
            State::Refused(violation) => Guarded::Refused(violation, false),
            State::Head => self.head(bytes),
            State::Body(left) => self.counted(bytes, left, State::Body, State::Head),
            State::Chunk(left) => self.counted(bytes, left, State::Chunk, State::ChunkEnd),
            State::ChunkSize => self.chunk_size(bytes),
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => self.pass(2, State::ChunkSize),
                [] | [b'\r'] => Guarded::More,
                _ => self.refuse(Violation::Chunk, false),
            },
            State::Trailers => self.trailer(bytes),
        }
    }

    fn counted(&mut self, bytes: &[u8], left: u64, same: fn(u64) -> State, next: State) -> Guarded {
        if bytes.is_empty() {
            return Guarded::More;
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - take as u64;
        self.pass(take, if left == 0 { next } else { same(left) })
    }

    fn pass(&mut self, bytes: usize, next: State) -> Guarded {
        self.state = next;
        self.searched = 0;
        Guarded::Pass(bytes)
    }

    fn refuse(&mut self, violation: Violation, in_head: bool) -> Guarded {
        self.state = State::Refused(violation);
        Guarded::Refused(violation, in_head)
    }

    fn head(&mut self, bytes: &[u8]) -> Guarded {
        // RFC 9112 §2.2 lets a server skip an empty line before a request; only CR LF is one.
        match bytes {
            [b'\r', b'\n', ..] => return self.pass(2, State::Head),
            [] | [b'\r'] => return Guarded::More,
            _ => {}
        }
        let end = match self.end_of_head(bytes) {
            Ok(Some(end)) => end,
            Ok(None) if bytes.len() > MAX_HEAD => return self.refuse(Violation::HeadTooLong, true),
            Ok(None) => return Guarded::More,
            Err(violation) => return self.refuse(violation, true),
        };
        if end > MAX_HEAD {
            return self.refuse(Violation::HeadTooLong, true);
        }
        match bytes.get(..end).map_or(Err(Violation::RequestLine), framing) {
            Ok(Framing::Empty | Framing::Length(0)) => self.pass(end, State::Head),
            Ok(Framing::Length(length)) => self.pass(end, State::Body(length)),
            Ok(Framing::Chunked) => self.pass(end, State::ChunkSize),
            Err(violation) => self.refuse(violation, true),
        }
    }

    /// Behind the empty line, looking at each line end once: bare ones are refused as soon as they come.
    fn end_of_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Violation> {
        let mut at = self.searched;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'\r' => match bytes.get(at + 1) {
                    None => break,
                    Some(b'\n') => {
                        if at >= 2 && bytes.get(at - 2..at) == Some(b"\r\n") {
                            return Ok(Some(at + 2));
                        }
                        at += 2;
                        continue;
                    }
                    Some(_) => return Err(Violation::BareLineEnd),
                },
                b'\n' => return Err(Violation::BareLineEnd),
                _ => at += 1,
            }
        }
        self.searched = at;
        Ok(None)
    }

    fn chunk_size(&mut self, bytes: &[u8]) -> Guarded {
        let Some(end) = bytes.iter().take(MAX_CHUNK_LINE).position(|byte| matches!(byte, b'\r' | b'\n'))
        else {
            return match bytes.len() >= MAX_CHUNK_LINE {
                true => self.refuse(Violation::Chunk, false),
                false => Guarded::More,
            };
        };
        match bytes.get(end..) {
            Some([b'\r', b'\n', ..]) => {}
            Some([b'\r']) => return Guarded::More,
            Some(_) | None => return self.refuse(Violation::Chunk, false),
        }
        let digits = bytes.get(..end).unwrap_or_default();
        // Extensions (RFC 9112 §7.1.1) mean nothing to anybody and have hidden requests; white space is the same trick.
        if digits.is_empty() || digits.len() > MAX_SIZE_DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
            return self.refuse(Violation::Chunk, false);
        }
        let text = std::str::from_utf8(digits).unwrap_or_default();
        match u64::from_str_radix(text, 16) {
            Ok(0) => {
                self.trailers = 0;
                self.pass(end + 2, State::Trailers)
            }
            Ok(size) => self.pass(end + 2, State::Chunk(size)),
            Err(_) => self.refuse(Violation::Chunk, false),
        }
    }

    fn trailer(&mut self, bytes: &[u8]) -> Guarded {
        let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            return match self.trailers + bytes.len() > MAX_TRAILERS {
                true => self.refuse(Violation::HeadTooLong, false),
                false => Guarded::More,
            };
        };
        match bytes.get(end..) {
            Some([b'\r', b'\n', ..]) => {}
            Some([b'\r']) => return Guarded::More,
            Some(_) | None => return self.refuse(Violation::BareLineEnd, false),
        }
        if end == 0 {
            return self.pass(2, State::Head);
        }
        self.trailers += end + 2;
        if self.trailers > MAX_TRAILERS {
            return self.refuse(Violation::HeadTooLong, false);
        }
        match field(bytes.get(..end).unwrap_or_default()) {
            Ok((name, _)) if is_forbidden_trailer(name) => self.refuse(Violation::Trailer, false),
            Ok(_) => self.pass(end + 2, State::Trailers),
            Err(violation) => self.refuse(violation, false),
        }
    }
}

/// What may not come behind a body: it would change how the message is framed, routed or authorized.
#[must_use]
pub fn is_forbidden_trailer(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 12] = [
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"proxy-authorization",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    ];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Reads a whole head, its empty line included.
fn framing(head: &[u8]) -> Result<Framing, Violation> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(Violation::RequestLine)?;
    let mut lines = split_lines(text);
    let line = RequestLine::read(lines.next().unwrap_or_default())?;
    let (mut host, mut length, mut chunked) = (None, None, false);
    for (count, raw) in lines.enumerate() {
        if count >= MAX_HEADERS {
            return Err(Violation::HeadTooLong);
        }
        if matches!(raw.first(), Some(b' ' | b'\t')) {
            return Err(Violation::Folding);
        }
        let (name, value) = field(raw)?;
        if name.eq_ignore_ascii_case(b"host") {
            if host.replace(value).is_some() {
                return Err(Violation::Host);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            // Two that agree are as good as one for some, and an error for others.
            if length.replace(decimal(value)?).is_some() {
                return Err(Violation::ContentLength);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::TransferEncoding);
            }
            chunked = true;
        } else if is_lookalike(name) {
            // Some readers take `_` for `-`.
            return Err(Violation::FieldName);
        }
    }
    line.agrees_with(host)?;
    match (length, chunked) {
        (Some(_), true) => Err(Violation::LengthAndChunked),
        // RFC 9112 §6.1: a client of 1.0 does not know it, so somebody between would not either.
        (None, true) if line.old => Err(Violation::TransferEncoding),
        (None, true) => Ok(Framing::Chunked),
        (Some(length), false) => Ok(Framing::Length(length)),
        (None, false) => Ok(Framing::Empty),
    }
}

fn is_lookalike(name: &[u8]) -> bool {
    name.contains(&b'_')
        && [b"content_length".as_slice(), b"transfer_encoding"].iter().any(|odd| {
            name.iter()
                .map(|b| if *b == b'-' { b'_' } else { b.to_ascii_lowercase() })
                .eq(odd.iter().copied())
        })
}

fn split_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let here = rest?;
        match here.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => {
                rest = here.get(at + 2..);
                here.get(..at)
            }
            None => {
                rest = None;
                Some(here)
            }
        }
    })
}

/// A field line: a token, a colon right behind it, a value without control characters, trimmed.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Violation::FieldName)?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Violation::FieldName);
    }
    let value = value.get(1..).unwrap_or_default();
    if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
        return Err(Violation::FieldValue);
    }
    Ok((name, trimmed(value)))
}

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn decimal(value: &[u8]) -> Result<u64, Violation> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::ContentLength);
    }
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(Violation::ContentLength)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

struct RequestLine<'a> {
    /// The authority of an absolute target.
    authority: Option<&'a [u8]>,
    /// HTTP/1.0
    old: bool,
}

impl<'a> RequestLine<'a> {
    fn read(line: &'a [u8]) -> Result<Self, Violation> {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Violation::RequestLine);
        };
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return Err(Violation::RequestLine);
        }
        let old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(Violation::Version),
        };
        if method.eq_ignore_ascii_case(b"CONNECT") {
            return Err(Violation::Connect);
        }
        // Visible ASCII but what a URI never has (RFC 3986 §2), a fragment included.
        let fits = |byte: &u8| (0x21..0x7f).contains(byte) && !b"\"#<>^`{|}".contains(byte);
        if target.is_empty() || !target.iter().all(fits) {
            return Err(Violation::Target);
        }
        let authority = match target {
            [b'/', ..] => None,
            b"*" if method == b"OPTIONS" => None,
            _ => Some(absolute(target)?),
        };
        Ok(Self { authority, old })
    }

    fn agrees_with(&self, host: Option<&[u8]>) -> Result<(), Violation> {
        let Some(host) = host else {
            // HTTP/1.0 had none.
            return if self.old && self.authority.is_none() { Ok(()) } else { Err(Violation::Host) };
        };
        if !is_authority(host) {
            return Err(Violation::Host);
        }
        match self.authority {
            Some(authority) if !authority.eq_ignore_ascii_case(host) => Err(Violation::HostMismatch),
            Some(_) | None => Ok(()),
        }
    }
}

/// The authority of `http://host:port/path`.
fn absolute(target: &[u8]) -> Result<&[u8], Violation> {
    let scheme = |name: &[u8]| {
        let (head, rest) = target.split_at_checked(name.len())?;
        head.eq_ignore_ascii_case(name).then_some(rest)
    };
    let rest = scheme(b"http://").or_else(|| scheme(b"https://")).ok_or(Violation::Target)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    // Without a path, readers differ in what stands behind the host.
    if rest.get(end) == Some(&b'?') || !is_authority(authority) {
        return Err(Violation::Target);
    }
    Ok(authority)
}

/// A host with or without a port, and nothing else: no user, no path, no list.
fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', ..] => match text.iter().position(|byte| *byte == b']') {
            Some(end) => text.split_at(end + 1),
            None => return false,
        },
        _ => text.split_at(text.iter().position(|byte| *byte == b':').unwrap_or(text.len())),
    };
    let port_fits = match port {
        [] => true,
        [b':', digits @ ..] => {
            !digits.is_empty() && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit)
        }
        [..] => false,
    };
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~[]:%".contains(byte);
    port_fits && !host.is_empty() && host.iter().all(fits)
}
