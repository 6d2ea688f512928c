//! What is recorded of people's logins and of their tokens.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// Somebody logged in or out, tried to, or got or lost a means of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// What happened.
    pub action: AccessAction,
    /// Who: `oidc:corp:ana`, `token:tok_…`, `local:0`; None when nobody proved to be anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How they came or tried to: `oidc:corp`, `saml:adfs`, `bootstrap`, `token`.
    pub via: String,
    /// What it is about, when not about `by`: a session `lgn_…`, a token `tok_…`, another person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The address it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The provider's groups, of a login; the scope, of a token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// When what was given ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Machine-readable, of a refusal: `bad_nonce`, `expired`, `role_required`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What happened to somebody's access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessAction {
    /// A person logged in.
    Login,
    /// A login was refused.
    LoginRefused,
    /// A person logged out.
    Logout,
    /// A login was ended by somebody else, or had no room any more.
    LoginEnded,
    /// A provider that was asked anew about somebody who is logged in tells of other groups.
    Renewed,
    /// An API token was made.
    TokenMade,
    /// An API token is good no more.
    TokenRevoked,
    /// An API token was refused.
    TokenRefused,
    /// A known caller lacks what a request needs: a role, or the proof that it comes from our pages.
    Refused,
    /// A one-time token for the first administrator was made.
    BootstrapMade,
}

impl AccessAction {
    /// As records and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::LoginRefused => "login_refused",
            Self::Logout => "logout",
            Self::LoginEnded => "login_ended",
            Self::Renewed => "renewed",
            Self::TokenMade => "token_made",
            Self::TokenRevoked => "token_revoked",
            Self::TokenRefused => "token_refused",
            Self::Refused => "refused",
            Self::BootstrapMade => "bootstrap_made",
        }
    }

    /// Whether somebody was kept out.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::LoginRefused | Self::TokenRefused | Self::Refused => true,
            Self::Login
            | Self::Logout
            | Self::LoginEnded
            | Self::Renewed
            | Self::TokenMade
            | Self::TokenRevoked
            | Self::BootstrapMade => false,
        }
    }
}
