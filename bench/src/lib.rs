//! The side-by-side run: lockgate beside a plain connection, two known proxies and a relay that only copies bytes.
//!
//! [`ground`] starts everything and ends it; [`pgbench`], [`transfer`], [`memory`], [`hold`] and [`instructions`] measure;
//! [`results`] keeps the sections of `bench/RESULTS.md`. The program `lockgate-peers` drives them, `lockgate-relay`,
//! `lockgate-client` and `lockgate-engine` are what it starts. Criterion benches of single parts stand in `benches/`.

pub mod approvals;
pub mod ground;
pub mod hold;
pub mod instructions;
pub mod memory;
pub mod pgbench;
pub mod results;
pub mod statistics;
pub mod transfer;
