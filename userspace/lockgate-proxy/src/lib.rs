//! Data plane: accept, gate, relay, mask
