//! Every bound of the data plane, with its reason. Nothing in this crate waits, buffers or queues without one of these.

use std::time::Duration;

/// Operations of one message or batch that people are asked for at once; the others follow as these are decided. As many as
/// a bundle has.
pub(crate) const ASKED_AHEAD: usize = 100;

/// Two descriptors a session and one for its share of side connections: this stays below the 20,000 that small hosts allow.
pub const MAX_SESSIONS: usize = 6_000;
/// From accept to a whole startup message. A stock client needs milliseconds; PostgreSQL itself allows 60 s.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(30);
/// From the startup message to the client's first ReadyForQuery: recording, dialling, TLS, login, catalogue.
pub const OPEN_TIME: Duration = Duration::from_secs(60);
/// Bytes of a batch after which what can go on does, before its Sync or Flush: the client hears of an error while it
/// still sends, the target works meanwhile, and memory stays small.
pub const RELEASE_BYTES: usize = 64 * 1024;
/// Messages of a batch after which the same holds.
pub const RELEASE_MESSAGES: usize = 256;
/// Each further part of the same batch may be twice as long, so often: the log is synced for each, and errors come early
/// as a rule. 1 MiB and 4,096 messages then.
pub const RELEASE_DOUBLINGS: u32 = 4;
/// Bytes kept back of a batch that executes nothing: a statement and its values, 16 MiB each at most.
pub const BATCH_BYTES: usize = 32 * 1024 * 1024;
/// Messages of a batch that executes nothing, before they are decided one by one: a driver that prepares all it knows.
pub const BATCH_MESSAGES: usize = 50_000;
/// Client bytes read ahead while a statement is decided, held, or waits for its turn. One TCP window or so: whoever
/// sends more meets back pressure, and memory stays bounded while people think.
pub const CLIENT_READ_AHEAD: usize = 256 * 1024;
/// Bytes waiting for the client above which the target is not read. Two socket buffers: enough to keep both legs busy.
pub const CLIENT_WRITE_HIGH: usize = 256 * 1024;
/// Bytes waiting for the target above which the client's copy data is not read.
pub const UPSTREAM_WRITE_HIGH: usize = 256 * 1024;
/// A client that takes no byte of its results for this long is gone or stuck, and keeps a connection of the target busy.
pub const CLIENT_WRITE_STALL: Duration = Duration::from_secs(30 * 60);
/// A target may stop reading while it waits for a lock; longer than this it is stuck.
pub const UPSTREAM_WRITE_STALL: Duration = Duration::from_secs(30 * 60);
/// What is left for the client after the session's end (an error text) gets this long to leave.
pub const FAREWELL_TIME: Duration = Duration::from_secs(5);
/// A CancelRequest is delivered by a connection of its own; libpq gives up after a few seconds too.
pub const CANCEL_TIME: Duration = Duration::from_secs(10);
/// When a held client is told again; the last one repeats. CI systems end jobs that say nothing for ten minutes.
pub const NOTICE_SCHEDULE: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(120)];
/// A policy that changes while people decide can ask for more of them; after this many rounds the answer is no.
pub const HOLD_ROUNDS: usize = 3;
/// Prepared statements a session may keep. ORMs keep hundreds; each keeps its text and facts in memory here.
pub const PREPARED_STATEMENTS: usize = 4_096;
/// Text bytes of all prepared statements of a session.
pub const PREPARED_BYTES: usize = 32 * 1024 * 1024;
/// Portals a session may keep open.
pub const PORTALS: usize = 4_096;
/// Connections to one explicit address whose caller is not known yet: strangers take no seats from sessions.
pub const STRANGERS: usize = 256;
/// Names longer than this the server cuts (NAMEDATALEN - 1): two that differ later would be one there and two here.
pub const NAME_BYTES: usize = 63;
/// Rows of one result that a record keeps, when policy asks for results.
pub const RECORDED_ROWS: usize = 100;
/// Bytes of values of one result that a record keeps.
pub const RECORDED_BYTES: usize = 64 * 1024;
/// Bytes one read takes at most: a socket buffer's worth, so that bulk results move in few calls.
pub const READ_CHUNK: usize = 64 * 1024;
/// What a read makes room for at first: a request, or the answer to a small one.
pub const SMALL_READ: usize = 8 * 1024;
/// Texts that sessions of one basis remember with their meaning, and as many templates: what ORMs and pools repeat fits.
pub const CACHED_SCRIPTS: usize = 512;
/// Bases that texts are remembered for. Sessions of one target mostly share one; a catalogue read anew makes another.
pub const SCRIPT_SHELVES: usize = 32;
/// Templates of one shape that differ in literals which must be the same: more is a value that never repeats.
pub const TEMPLATE_VARIANTS: usize = 4;
/// Longer texts are understood beside the session's thread, which other sessions share: parsing one takes milliseconds.
pub const LONG_TEXT_BYTES: usize = 32 * 1024;
/// Longer texts are parsed anew: they are rarely repeated, and parsing them is not what they cost.
pub const CACHED_SCRIPT_BYTES: usize = 4 * 1024;

/// A kept HTTP connection that asks for nothing, or a head that does not come whole, ends after this long. nginx's own
/// `keepalive_timeout`.
pub const HTTP_IDLE: Duration = Duration::from_secs(75);
/// A target's kept connection is not used again after this long: servers close theirs after a minute or so, and what is sent
/// at that moment is lost.
pub const HTTP_ORIGIN_IDLE: Duration = Duration::from_secs(45);
/// Requests of one HTTP/2 connection side by side, and connections to the target kept for them. RFC 9113 §6.5.2 asks for no
/// less than 100.
pub const HTTP_STREAMS: u32 = 100;

/// The bounds that deployments and tests change; the others are constants of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`MAX_SESSIONS`].
    pub max_sessions: usize,
    /// See [`HANDSHAKE_TIME`].
    pub handshake_time: Duration,
    /// See [`OPEN_TIME`].
    pub open_time: Duration,
    /// See [`RELEASE_BYTES`].
    pub release_bytes: usize,
    /// See [`RELEASE_MESSAGES`].
    pub release_messages: usize,
    /// See [`BATCH_BYTES`].
    pub batch_bytes: usize,
    /// See [`BATCH_MESSAGES`].
    pub batch_messages: usize,
    /// See [`CLIENT_READ_AHEAD`].
    pub client_read_ahead: usize,
    /// See [`CLIENT_WRITE_HIGH`].
    pub client_write_high: usize,
    /// See [`CLIENT_WRITE_STALL`].
    pub client_write_stall: Duration,
    /// See [`UPSTREAM_WRITE_STALL`].
    pub upstream_write_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: MAX_SESSIONS,
            handshake_time: HANDSHAKE_TIME,
            open_time: OPEN_TIME,
            release_bytes: RELEASE_BYTES,
            release_messages: RELEASE_MESSAGES,
            batch_bytes: BATCH_BYTES,
            batch_messages: BATCH_MESSAGES,
            client_read_ahead: CLIENT_READ_AHEAD,
            client_write_high: CLIENT_WRITE_HIGH,
            client_write_stall: CLIENT_WRITE_STALL,
            upstream_write_stall: UPSTREAM_WRITE_STALL,
        }
    }
}
