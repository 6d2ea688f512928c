//! Data plane: accept, gate, relay, mask

pub mod credential;
pub mod tls;
pub mod upstream;
