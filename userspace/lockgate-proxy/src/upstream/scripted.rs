//! A session over any stream, for tests with scripted servers: opened without a login.

use super::{Connected, Upstream, UpstreamReader};
use bytes::BytesMut;
use lockgate_wire::postgres::TransactionStatus;
use tokio::io::{AsyncRead, AsyncWrite};

impl Connected {
    /// A session that is open on `stream`.
    pub(crate) fn scripted(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            upstream: Upstream::new(Box::new(writer)),
            reader: UpstreamReader::new(Box::new(reader), BytesMut::new()),
            parameters: Vec::new(),
            key: None,
            notices: Vec::new(),
            status: TransactionStatus::Idle,
            encrypted: false,
        }
    }
}
