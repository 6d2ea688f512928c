//! End to end: a real PostgreSQL, a real psql, the real daemon and the real kernel hooks.
//!
//! Needs root, cgroup v2 and BPF, and fails without. One test binary, so that it links once.

mod alarms;
mod api;
mod approvals;
mod attacks;
mod bucket;
mod bypass;
mod channels;
mod confinement;
mod console;
mod coverage;
mod credentials;
mod differential;
mod docs;
mod evidence;
mod explicit;
mod forgery;
mod grants;
mod handover;
mod host;
mod identity;
mod kernel;
mod leaks;
mod listener;
mod masking;
mod observe;
mod people;
mod permission;
mod proofs;
mod protocol;
mod records;
mod replay;
mod sight;
#[path = "../../../userspace/lockgate-control/src/api/openapi/strict.rs"]
mod strict;
mod unmask;
mod world;
