//! Data plane: accept, gate, relay, mask

pub mod catalogue;
pub mod credential;
pub mod tls;
pub mod upstream;
