//! The policy language: compile, evaluate, explain, approve, permit.
//!
//! YAML rules with a typed `match:` block and an optional CEL `when:` become a [`CompiledPolicy`]; a session's
//! operation evaluated against it becomes a [`Verdict`](lockgate_model::verdict::Verdict); [`approval`] moves a
//! held one through its votes; [`permit`] turns an allowed and recorded one into the right to send its bytes.
//!
//! Pure: no IO, clock or randomness; `now` and ids are arguments, files are handed over as text. The one
//! exception is a short-lived thread with a large stack on which CEL text is compiled while a policy loads.
//! Nothing here parses SQL (facts come from lockgate-inspect) or knows how approvals are notified.

pub mod approval;
pub mod diagnostic;
pub mod document;
pub mod draft;
pub mod permit;
pub mod replay;
pub mod yaml;

mod case;
mod compile;
mod eval;
mod explain;
mod judged;
mod lint;
mod matcher;
mod pattern;
mod policy;
mod reference;
mod rule;
mod schema;
mod when;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

pub use case::{Inspect, TestOutcome};
pub use diagnostic::Diagnostic;
pub use explain::{ConditionExplanation, Explanation, RuleExplanation};
pub use judged::Judged;
pub use policy::{CompiledPolicy, HttpAsks, Loaded, LoginConflict, SessionPolicy, SourceFile};
pub use when::paths;
