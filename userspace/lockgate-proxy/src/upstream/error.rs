//! Why there is no session on the target.

use crate::credential::CredentialError;
use crate::tls::TlsError;
use lockgate_model::addr::UpstreamAddr;
use lockgate_policy::LoginConflict;
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
    /// A server that takes TLS at once confirms that it speaks PostgreSQL's protocol.
    #[error(
        "the target did not confirm the protocol by ALPN, which upstream.tls_negotiation: direct needs; PostgreSQL 17 and later do"
    )]
    NoAlpn,
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
        "the target demands {method}, supported are trust, password over TLS, md5, SCRAM-SHA-256(-PLUS) and client certificates"
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
    /// Policy does not say as whom to log in.
    #[error(transparent)]
    Role(#[from] LoginConflict),
    /// A parameter of the client that must not go upstream.
    #[error("the startup parameter {name} is not the client's to set")]
    Parameter {
        /// Its name.
        name: String,
    },
}

/// Refusals that drivers act upon (another database, a later attempt), and whether the target's words go with them: they
/// do where they cannot name the role that lockgate logs in as (PostgreSQL, appendix A, "Error Codes").
const TELLING: [(&str, bool); 8] = [
    ("3D000", true),  // invalid_catalog_name
    ("22023", true),  // invalid_parameter_value
    ("42704", true),  // undefined_object: a setting that does not exist
    ("57P01", true),  // admin_shutdown
    ("57P02", true),  // crash_shutdown
    ("57P03", true),  // cannot_connect_now
    ("53300", false), // too_many_connections
    ("42501", false), // insufficient_privilege
];

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
            Self::NoAlpn => "tls_no_alpn",
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
            Self::Role(_) => "role",
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
            Self::TlsRefused | Self::TlsAnswer { .. } | Self::NoAlpn | Self::Tls(_) => {
                unreachable("the target could not be verified by TLS")
            }
            Self::Wire(_) | Self::Unexpected { .. } | Self::TooChatty { .. } => {
                unreachable("the target does not speak the PostgreSQL protocol as expected")
            }
            Self::Refused(report) => {
                let code = String::from_utf8_lossy(report.sqlstate()).into_owned();
                match TELLING.iter().find(|(telling, _)| *telling == code) {
                    Some((code, true)) => (*code, report.message().into_owned()),
                    told => (
                        told.map_or(sqlstate::CONNECTION_REJECTED, |(code, _)| *code),
                        format!("lockgate: the target refused the session (SQLSTATE {code})"),
                    ),
                }
            }
            Self::Method { .. }
            | Self::CleartextWithoutTls
            | Self::NoPassword { .. }
            | Self::Scram { .. } => {
                (sqlstate::CONNECTION_REJECTED, "lockgate: the login on the target failed".to_owned())
            }
            Self::Credential(_) | Self::Role(_) => (
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
        // Since TLS 1.3 a server says only behind the handshake that it does not like the client's certificate.
        if let Some(source) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Tls(TlsError::Rustls { what: "the target ended TLS", source: source.clone() });
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Closed { step }
            }
            kind => Self::Io { step, kind },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_wire::postgres::backend::Severity;

    #[test]
    fn a_refusal_keeps_the_code_that_drivers_act_upon_and_no_word_about_the_credential() {
        let refused = |code: &str, words: &str| {
            let report = ReportFields::new(Severity::Fatal, code, words);
            UpstreamError::Refused(Box::new(report)).client_text()
        };
        let own = |code: &str| format!("lockgate: the target refused the session (SQLSTATE {code})");
        let missing = "database \"x\" does not exist";
        for (code, words, expected) in [
            ("3D000", missing, ("3D000", missing.to_owned())),
            (
                "57P03",
                "the database system is starting up",
                ("57P03", "the database system is starting up".to_owned()),
            ),
            ("53300", "too many connections for role \"app\"", ("53300", own("53300"))),
            ("28P01", "password authentication failed for user \"app\"", ("08004", own("28P01"))),
            ("XX000", "who knows", ("08004", own("XX000"))),
        ] {
            assert_eq!(refused(code, words), expected);
        }
    }
}
