//! StartupMessage to ReadyForQuery, with the injected user (§55.2.1 "Start-up").

use super::authentication::Authenticator;
use super::connect::{Deadline, Halves, Secured};
use super::{Connected, MAX_LOGIN_MESSAGE, MAX_LOGIN_MESSAGES, Upstream, UpstreamError, UpstreamReader};
use crate::credential::Account;
use crate::read::poll_read_small;
use bytes::BytesMut;
use lockgate_model::SessionId;
use lockgate_wire::postgres::backend::{Backend, BackendKeyData, ReportFields};
use lockgate_wire::postgres::frame::{FrameDecoder, Limits};
use lockgate_wire::postgres::startup::{EXTENSION_PREFIX, ProtocolVersion, StartupMessage};
use lockgate_wire::postgres::{PgString, TransactionStatus};
use std::future::poll_fn;
use tokio::io::AsyncWriteExt;

/// Parameters that are the proxy's to set: who logs in where, and modes that have a protocol of their own.
const RESERVED: [&[u8]; 3] = [b"user", b"database", b"replication"];

/// What session is asked for.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// The database.
    pub database: PgString,
    /// Run-time parameters, as far as the session lets the client's go on (`application_name`, …).
    pub parameters: Vec<(PgString, PgString)>,
    /// lockgate's session, which an issued client certificate names; none for a connection of lockgate's own.
    pub session: Option<SessionId>,
    /// The value of `replication`, for a session that policy let be one.
    pub replication: Option<PgString>,
}

impl SessionRequest {
    /// Refuses parameters that would change who logs in, or in what protocol.
    pub(super) fn check(&self) -> Result<(), UpstreamError> {
        let reserved = |name: &PgString| {
            let name = name.as_bytes();
            name.is_empty()
                || name.starts_with(EXTENSION_PREFIX)
                || RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
        };
        match self.parameters.iter().find(|(name, _)| reserved(name)) {
            None => Ok(()),
            Some((name, _)) => Err(UpstreamError::Parameter { name: name.to_string_lossy().into_owned() }),
        }
    }

    fn startup(&self, user: &str) -> Result<StartupMessage, UpstreamError> {
        let mut parameters = vec![
            (PgString::from_static("user"), PgString::new(user.as_bytes().to_vec())?),
            (PgString::from_static("database"), self.database.clone()),
        ];
        if let Some(replication) = &self.replication {
            parameters.push((PgString::from_static("replication"), replication.clone()));
        }
        parameters.extend(self.parameters.iter().cloned());
        Ok(StartupMessage { version: ProtocolVersion::V3_0, parameters })
    }
}

/// A connection whose session is not open yet.
pub(super) struct Opening {
    stream: Secured,
    deadline: Deadline,
    /// What the target was last asked for.
    step: &'static str,
    buffer: BytesMut,
}

/// What the login told.
pub(super) struct LoggedIn {
    parameters: Vec<(PgString, PgString)>,
    key: Option<BackendKeyData>,
    notices: Vec<ReportFields>,
    status: TransactionStatus,
}

impl LoggedIn {
    pub(super) fn hand_over(self, (reader, writer): Halves, buffer: BytesMut, encrypted: bool) -> Connected {
        let Self { parameters, key, notices, status } = self;
        let upstream = Upstream::new(writer);
        let reader = UpstreamReader::new(reader, buffer);
        Connected { upstream, reader, parameters, key, notices, status, encrypted }
    }
}

impl Opening {
    pub(super) fn new(stream: Secured, deadline: Deadline) -> Self {
        Self { stream, deadline, step: "a session", buffer: BytesMut::new() }
    }

    pub(super) fn into_parts(self) -> (Secured, BytesMut) {
        (self.stream, self.buffer)
    }

    /// `binding` is the channel binding data of the connection, if it has any.
    pub(super) async fn log_in(
        &mut self,
        account: &Account,
        request: &SessionRequest,
        encrypted: bool,
        binding: Option<Vec<u8>>,
    ) -> Result<LoggedIn, UpstreamError> {
        let mut bytes = BytesMut::new();
        request.startup(account.user())?.encode(&mut bytes)?;
        self.write(&bytes).await?;
        let mut authenticator = Authenticator::new(account, encrypted, binding);
        let mut session = LoggedIn {
            parameters: Vec::new(),
            key: None,
            notices: Vec::new(),
            status: TransactionStatus::Idle,
        };
        for _ in 0..MAX_LOGIN_MESSAGES {
            match self.read().await? {
                Backend::Authentication(step) => {
                    self.step = "authentication";
                    let answer = self.deadline.within(self.step, authenticator.answer(step)).await?;
                    if let Some(answer) = answer {
                        self.write(answer.bytes()).await?;
                    }
                }
                Backend::ErrorResponse(report) => return Err(UpstreamError::Refused(Box::new(report))),
                Backend::NoticeResponse(report) => session.notices.push(report),
                // An older server that names what it does not know; nothing newer than 3.0 was asked for.
                Backend::NegotiateProtocolVersion(_) => {}
                message if !authenticator.is_done() => {
                    return Err(UpstreamError::Unexpected {
                        got: message.name(),
                        expected: "authentication",
                    });
                }
                Backend::ParameterStatus { name, value } => session.parameters.push((name, value)),
                Backend::BackendKeyData(key) => session.key = Some(key),
                Backend::ReadyForQuery(status) => {
                    session.status = status;
                    return Ok(session);
                }
                message => {
                    let expected = "ParameterStatus, BackendKeyData or ReadyForQuery";
                    return Err(UpstreamError::Unexpected { got: message.name(), expected });
                }
            }
        }
        Err(UpstreamError::TooChatty { limit: MAX_LOGIN_MESSAGES })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        let (step, stream) = (self.step, self.stream.as_stream());
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        let write = async { write.await.map_err(|error| UpstreamError::io(step, &error)) };
        self.deadline.within(step, write).await
    }

    async fn read(&mut self) -> Result<Backend, UpstreamError> {
        let decoder = FrameDecoder::new(Limits { max_message: MAX_LOGIN_MESSAGE, ..Limits::SERVER });
        loop {
            if let Some(frame) = decoder.next(&mut self.buffer)? {
                return Ok(Backend::decode(&frame)?);
            }
            let (step, stream, buffer) = (self.step, self.stream.as_stream(), &mut self.buffer);
            let read = poll_fn(|cx| {
                poll_read_small(stream, cx, buffer).map_err(|error| UpstreamError::io(step, &error))
            });
            match self.deadline.within(step, read).await? {
                0 => return Err(UpstreamError::Closed { step }),
                _ => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Endpoint, cancel, connect};

    /// Sessions run on any worker.
    #[allow(dead_code, reason = "compiling it is the check")]
    fn logins_may_move_between_threads(
        endpoint: &Endpoint,
        credential: &Account,
        request: &SessionRequest,
        key: &BackendKeyData,
    ) {
        fn sendable(_: impl Send) {}
        sendable(connect(endpoint, credential, request));
        sendable(cancel(endpoint, key));
    }

    #[test]
    fn who_logs_in_is_not_the_client_s_to_say() {
        for (name, allowed) in [
            ("application_name", true),
            ("options", true),
            ("user", false),
            ("USER", false),
            ("database", false),
            ("replication", false),
            ("_pq_.command_compression", false),
            ("", false),
        ] {
            let request = SessionRequest {
                database: PgString::from_static("orders"),
                parameters: vec![(PgString::lossy(name), PgString::from_static("x"))],
                session: None,
                replication: None,
            };
            assert_eq!(request.check().is_ok(), allowed, "{name}");
        }
    }
}
