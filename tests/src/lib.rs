//! Harness of the end-to-end tests, the demo and the side-by-side run: real servers, real clients, the
//! real daemon, each owned by a guard that ends it and removes what it left.
//!
//! Nothing here mocks lockgate. The stand-ins are [`receiver`]: the far side of the webhook, which in
//! production is somebody's approval tool; [`slack`]; and [`vault`] and [`provider`], whose real ones cannot be had here.

pub mod agent;
pub mod bucket;
pub mod builtins;
pub mod certificate;
pub mod hooks;
pub mod installed;
pub mod job;
pub mod mail;
pub mod matrix;
pub mod namespace;
pub mod origin;
pub mod postgres;
pub mod provider;
pub mod receiver;
pub mod regress;
pub mod scratch;
pub mod slack;
pub mod through;
pub mod vault;
