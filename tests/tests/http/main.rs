//! Requests over HTTP end to end: unmodified clients, the real daemon and hooks, an origin that keeps every byte it gets.
//!
//! Needs root, cgroup v2 and BPF, and fails without.

mod decide;
mod exported;
mod frames;
mod framing;
mod masks;
mod trust;
mod world;
