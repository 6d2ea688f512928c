//! Trailers of requests: what comes behind a body was not there when the request was decided.
//!
//! Origins exist that read trailers as if they were headers. So a trailer goes on only when nothing that decides, routes
//! or authorizes would have looked at a header of its name; else the request breaks off. HTTP/1.1's were read by the
//! guard before, HTTP/2's come here first.

use super::answer::Broken;
use bytes::Bytes;
use hyper::{
    HeaderMap,
    body::{Body, Frame, SizeHint},
    header::HeaderName,
};
use lockgate_inspect::http::replaces;
use lockgate_policy::HttpAsks;
use lockgate_wire::http::is_forbidden_trailer;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// Which trailers do not go on.
pub(super) struct Refused {
    /// Rules decide by these headers.
    pub(super) asks: HttpAsks,
    /// lockgate sets or removes these headers.
    pub(super) own: Vec<HeaderName>,
}

impl Refused {
    fn first<'t>(&self, trailers: &'t HeaderMap) -> Option<&'t HeaderName> {
        trailers.keys().find(|name| {
            is_forbidden_trailer(name.as_str().as_bytes())
                || replaces(name.as_str())
                || self.asks.headers.contains(name.as_str())
                || self.own.contains(name)
        })
    }
}

/// A request's body on its way to the origin.
pub(super) struct Trailing<B> {
    body: B,
    refused: Refused,
}

impl<B> Trailing<B> {
    pub(super) fn new(body: B, refused: Refused) -> Self {
        Self { body, refused }
    }
}

impl<B: Body<Data = Bytes, Error: Into<Broken>> + Unpin> Body for Trailing<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        if let Some(name) = frame.trailers_ref().and_then(|trailers| self.refused.first(trailers)) {
            return Poll::Ready(Some(Err(format!("a trailer that may not be one: {name}").into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::{Refused, Trailing};
    use bytes::Bytes;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::{HeaderMap, body::Frame, header::HeaderName};
    use lockgate_policy::HttpAsks;
    use std::convert::Infallible;

    async fn sent(trailer: &'static str) -> Result<Option<HeaderMap>, String> {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "1".parse().unwrap());
        trailers.insert(trailer, "1".parse().unwrap());
        let frames =
            [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
        let asks = HttpAsks { headers: ["x-env".to_owned()].into(), ..HttpAsks::default() };
        let refused = Refused { asks, own: vec![HeaderName::from_static("x-api-key")] };
        let body = Trailing::new(StreamBody::new(futures_util::stream::iter(frames)), refused);
        match body.collect().await {
            Ok(collected) => Ok(collected.trailers().cloned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn a_trailer_that_a_header_of_its_name_would_have_decided_breaks_the_request_off() {
        for name in [
            "authorization",
            "host",
            "cookie",
            "x-http-method-override",
            "x-original-url",
            "x-env",
            "x-api-key",
        ] {
            let error = sent(name).await.unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        let whole = sent("x-amz-checksum-crc32").await.unwrap().unwrap();
        assert_eq!(whole.len(), 2);
    }
}
