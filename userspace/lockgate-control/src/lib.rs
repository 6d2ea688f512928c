//! The control plane of one node: requests for approval, the people who decide them, and those who are told.
//!
//! [`Control`] is the port ([`lockgate_model::port::Approvals`]) that the data plane holds operations
//! against; it notifies webhooks (Standard Webhooks 1.0, CloudEvents 1.0), takes decisions of integrations
//! over TCP and of this host's users over a unix socket, and records every step before it has effect.
//!
//! It deliberately does not decide who may vote and what counts (lockgate-policy's approval machine does),
//! does not evaluate policy, never touches a connection to a target, and reads no configuration file: the
//! binary hands it [`ControlSettings`] and serves its routers with [`serve_tcp`] and [`serve_unix`].
//!
#![doc = include_str!("../api.md")]
#![allow(
    clippy::result_large_err,
    reason = "a refusal is made once a request and moved a few times; a box would be more code, not less time"
)]

pub mod api;
mod approvals;
pub mod auth;
mod console;
mod desk;
pub mod draft;
pub mod feed;
pub mod house;
mod keep;
mod link;
pub mod notify;
mod people;
pub mod serve;
mod settings;
#[cfg(test)]
mod testing;
pub mod text;
mod view;

pub use api::{
    finish,
    peer::{FRESH_LOGIN, PeerCred},
    problem::Problem,
};
pub use auth::{Caller, Role};
pub use desk::Control;
pub use keep::Lasting;
pub use notify::{
    health::ChannelHealth,
    settings::{
        ChannelSettings, EmailSettings, MailTls, SlackSettings, TemplateSettings, TemplateSource,
        WebhookSettings,
    },
};
pub use people::PersonSettings;
pub use serve::{ServeError, Tls, UnixSocket, serve_tcp, serve_unix};
pub use settings::{ControlError, ControlSettings};
