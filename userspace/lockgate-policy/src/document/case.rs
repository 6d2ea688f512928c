//! The `tests:` of a policy file, as written.

use super::{Kind, ProtocolName, Sureness, TargetMode, word::GivenDefault};
use crate::yaml::Spanned;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A test: what is given, what is expected.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Who asks for what, where.
    pub given: Spanned<Given>,
    /// What the policy must say.
    pub expect: Expect,
}

/// Who asks for what, where.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Given {
    /// Who asks; nothing is known of it when absent. Its assurance is `attested` unless it says otherwise.
    #[serde(default)]
    pub identity: GivenIdentity,
    /// Where it goes.
    #[serde(default)]
    pub target: GivenTarget,
    /// postgres or http.
    #[serde(default)]
    pub protocol: Option<Spanned<ProtocolName>>,
    /// The statement; several, separated by `;`, are judged one by one and the strictest verdict counts.
    #[serde(default)]
    pub statement: String,
    /// For http: `DELETE http://shop.internal/v1/orders/7?force=true`.
    #[serde(default)]
    pub request: Option<String>,
    /// Its headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body.
    #[serde(default)]
    pub body: Option<String>,
    /// The database.
    #[serde(default)]
    pub database: Option<String>,
    /// The user the client asks for.
    #[serde(default)]
    pub user: Option<String>,
    /// `application_name`.
    #[serde(default)]
    pub application_name: Option<String>,
    /// Whether a transaction is open.
    #[serde(default)]
    pub in_transaction: bool,
    /// When, RFC 3339; 2026-01-07T12:00:00Z (a Wednesday) when absent.
    #[serde(default)]
    pub time: Option<Spanned<String>>,
}

/// Who asks, in a test.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the same words as IdentityMatch, each a plain value")]
pub struct GivenIdentity {
    #[serde(default)]
    pub kind: Option<Kind>,
    #[serde(default)]
    pub assurance: Option<Sureness>,
    #[serde(default)]
    pub provider: Option<String>,
    #[serde(default)]
    pub repository: Option<String>,
    #[serde(default)]
    pub workflow: Option<String>,
    #[serde(default)]
    pub job: Option<String>,
    #[serde(default, alias = "ref")]
    pub git_ref: Option<String>,
    #[serde(default)]
    pub ref_protected: Option<bool>,
    #[serde(default)]
    pub commit_author: Option<String>,
    #[serde(default)]
    pub event_name: Option<String>,
    #[serde(default)]
    pub actor: Option<String>,
    #[serde(default)]
    pub triggering_actor: Option<String>,
    #[serde(default)]
    pub run_id: Option<String>,
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub unit: Option<String>,
    #[serde(default)]
    pub exe: Option<String>,
    #[serde(default)]
    pub exe_sha256: Option<String>,
    #[serde(default)]
    pub cgroup: Option<String>,
    #[serde(default)]
    pub container: Option<String>,
    #[serde(default)]
    pub job_id: Option<String>,
    #[serde(default)]
    pub runner: Option<String>,
    #[serde(default)]
    pub pod: Option<String>,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub service_account: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Where it goes, in a test.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct GivenTarget {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// observe, shadow, enforce (enforce).
    #[serde(default)]
    pub mode: Option<TargetMode>,
    /// allow or deny when no rule matches (deny).
    #[serde(default)]
    pub default: Option<GivenDefault>,
}

/// What a test expects. Only what is named is compared.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Expect {
    /// The verdict.
    pub effect: ExpectedEffect,
    /// A rule behind it.
    #[serde(default)]
    pub rule: Option<Spanned<String>>,
    /// Exactly the rules behind it, in any order.
    #[serde(default)]
    pub rules: Option<Vec<Spanned<String>>>,
    /// Exactly who must agree first: group and how many.
    #[serde(default)]
    pub need: Option<BTreeMap<String, u32>>,
    /// Exactly the column patterns that are masked, in any order.
    #[serde(default)]
    pub masked: Option<Vec<String>>,
    /// In shadow: what enforce would have said.
    #[serde(default)]
    pub would: Option<ExpectedEffect>,
    /// Words the denial must contain.
    #[serde(default)]
    pub message: Option<String>,
}

/// The effect of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpectedEffect {
    /// It passes.
    Allow,
    /// It waits for people.
    RequireApproval,
    /// It is refused.
    Deny,
}

impl ExpectedEffect {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::RequireApproval => "require_approval",
            Self::Deny => "deny",
        }
    }
}
