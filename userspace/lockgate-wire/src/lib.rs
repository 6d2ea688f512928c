//! Wire protocols as sans-IO codecs and automata: bytes ⇄ messages, and which message may follow which.
//!
//! Nothing here reads a socket, a clock or the environment, and nothing here decides whether an operation is allowed.
//! `lockgate-inspect` turns the messages into operations; `lockgate-proxy` drives the codecs with real bytes.

pub mod http;
pub mod postgres;
