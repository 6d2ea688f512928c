//! Why there is no session on the target.

use crate::credential::CredentialError;
use crate::tls::TlsError;
use lockgate_model::addr::UpstreamAddr;
use lockgate_wire::postgres::WireError;
use lockgate_wire::postgres::backend::{ReportFields, sqlstate};
use std::{io, time::Duration};

/// Why there is no session on the target.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// TCP failed.
    #[error("cannot connect to {}: {kind}", addr.0)]
    Dial {
        /// The target.
        addr: UpstreamAddr,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// TCP took too long.
    #[error("{} did not accept a connection within {limit:?}", addr.0)]
    DialSlow {
        /// The target.
        addr: UpstreamAddr,
        /// The bound.
        limit: Duration,
    },
    /// The target accepted the connection and did not open a session.
    #[error("the target did not open a session within {limit:?}, it was last asked for {step}")]
    LoginSlow {
        /// What lockgate waits for.
        step: &'static str,
        /// The bound.
        limit: Duration,
    },
    /// The target closed the connection.
    #[error("the target closed the connection when asked for {step}")]
    Closed {
        /// What lockgate waited for.
        step: &'static str,
    },
    /// The connection broke.
    #[error("the connection to the target broke when it was asked for {step}: {kind}")]
    Io {
        /// What lockgate waited for.
        step: &'static str,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// TLS is demanded and the target does not offer it.
    #[error("the target refuses TLS, upstream.tls demands it; turn ssl on in the target")]
    TlsRefused,
    /// The answer to an SSLRequest is one byte, 'S' or 'N'.
    #[error("the target answered 0x{got:02x} to SSLRequest, expected 'S' or 'N': is it a PostgreSQL server?")]
    TlsAnswer {
        /// The byte.
        got: u8,
    },
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The target's bytes are not the protocol.
    #[error("the target broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// A message that does not belong into a login.
    #[error("the target sent {got} during login, expected {expected}")]
    Unexpected {
        /// The message.
        got: &'static str,
        /// What could have come.
        expected: &'static str,
    },
    /// More messages than any login has.
    #[error("the target sent more than {limit} messages before the session was open")]
    TooChatty {
        /// The bound.
        limit: usize,
    },
    /// The target refused the session.
    #[error("the target refused the session: {} ({})", .0.message(), String::from_utf8_lossy(.0.sqlstate()))]
    Refused(Box<ReportFields>),
    /// The target asks for a way to authenticate that is not supported.
    #[error(
        "the target demands {method}, supported are trust, password over TLS, md5 and SCRAM-SHA-256(-PLUS)"
    )]
    Method {
        /// What it asks for.
        method: String,
    },
    /// The target wants the password in clear text on an unencrypted connection.
    #[error(
        "the target asks for the password in clear text without TLS; set upstream.tls, or use scram-sha-256 there"
    )]
    CleartextWithoutTls,
    /// The target asks for a password and none is configured.
    #[error("the target asks for a password ({method}) and upstream.credential has none")]
    NoPassword {
        /// How it asks.
        method: &'static str,
    },
    /// SCRAM failed: the target does not know the password, or lies.
    #[error("SCRAM: {detail}")]
    Scram {
        /// What is wrong.
        detail: String,
    },
    /// The secret cannot be had.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A parameter of the client that must not go upstream.
    #[error("the startup parameter {name} is not the client's to set")]
    Parameter {
        /// Its name.
        name: String,
    },
}

impl UpstreamError {
    /// A stable label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dial { .. } => "dial",
            Self::DialSlow { .. } => "dial_slow",
            Self::LoginSlow { .. } => "login_slow",
            Self::Closed { .. } => "closed",
            Self::Io { .. } => "io",
            Self::TlsRefused => "tls_refused",
            Self::TlsAnswer { .. } => "tls_answer",
            Self::Tls(error) => error.kind(),
            Self::Wire(error) => error.kind(),
            Self::Unexpected { .. } => "unexpected_message",
            Self::TooChatty { .. } => "too_chatty",
            Self::Refused(_) => "refused",
            Self::Method { .. } => "auth_method",
            Self::CleartextWithoutTls => "cleartext_without_tls",
            Self::NoPassword { .. } => "no_password",
            Self::Scram { .. } => "scram",
            Self::Credential(error) => error.kind(),
            Self::Parameter { .. } => "parameter",
        }
    }

    /// SQLSTATE and text that a client may see: what failed, never the credential's user, its secret's place, or the
    /// target's own words about either.
    pub fn client_text(&self) -> (&'static str, String) {
        let unreachable = |what: &str| (sqlstate::CONNECTION_FAILURE, format!("lockgate: {what}"));
        match self {
            Self::Dial { .. } => unreachable("the target cannot be reached"),
            Self::DialSlow { .. } | Self::LoginSlow { .. } => {
                unreachable("the target did not answer in time")
            }
            Self::Closed { .. } | Self::Io { .. } => {
                unreachable("the target closed the connection during login")
            }
            Self::TlsRefused | Self::TlsAnswer { .. } | Self::Tls(_) => {
                unreachable("the target could not be verified by TLS")
            }
            Self::Wire(_) | Self::Unexpected { .. } | Self::TooChatty { .. } => {
                unreachable("the target does not speak the PostgreSQL protocol as expected")
            }
            Self::Refused(report) => {
                let code = String::from_utf8_lossy(report.sqlstate()).into_owned();
                (
                    sqlstate::CONNECTION_REJECTED,
                    format!("lockgate: the target refused the session (SQLSTATE {code})"),
                )
            }
            Self::Method { .. }
            | Self::CleartextWithoutTls
            | Self::NoPassword { .. }
            | Self::Scram { .. } => {
                (sqlstate::CONNECTION_REJECTED, "lockgate: the login on the target failed".to_owned())
            }
            Self::Credential(_) => (
                sqlstate::CONNECTION_REJECTED,
                "lockgate: the target's credential is not available".to_owned(),
            ),
            Self::Parameter { name } => (
                sqlstate::FEATURE_NOT_SUPPORTED,
                format!("lockgate: the startup parameter {name} cannot be set through lockgate"),
            ),
        }
    }

    pub(super) fn io(step: &'static str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Closed { step }
            }
            kind => Self::Io { step, kind },
        }
    }
}
