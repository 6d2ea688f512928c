//! Column masks: from a policy's patterns and a target's catalogue to refusals and rewritten rows.
//!
//! Built per session and catalogue ([`MaskPlan`]), asked per statement ([`MaskPlan::judge`]), applied per row
//! ([`RowMask::apply`]). It never decides whether a statement may run for other reasons, and never sees a socket.

mod carry;
mod copy;
mod cover;
mod detector;
mod grants;
mod judge;
mod method;
mod plan;
mod planned;
mod reach;
mod row;
mod scope;
mod taint;
#[cfg(test)]
mod tests;

pub(crate) use detector::Detectors;
pub(crate) use method::Method;

pub use copy::{Copied, CopyError, CopyMask};
pub use grants::{Exposure, Grants};
pub use method::MaskKeys;
pub use plan::{MaskPlan, MaskViolation, StatementMask};
pub use row::{RowError, RowMask};
