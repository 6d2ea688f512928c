//! HTTP/1.1 requests, read strictly before anybody else reads them.
//!
//! [`Guard`] follows a client's bytes from head to body to the next head and refuses whatever two readers are known to
//! frame differently (RFC 9112 §11.2, request smuggling). It keeps no body, understands no request and answers nothing:
//! `lockgate-proxy` puts it before hyper's parser, which then sees only what has one reading.

mod guard;
#[cfg(test)]
mod tests;

pub use guard::{Framing, Guard, Guarded, MAX_HEAD, MAX_HEADERS, Violation, is_forbidden_trailer};
