//! Column masks: from a policy's patterns and a target's catalogue to rewritten rows.

mod method;
mod plan;
mod row;

pub use method::MaskKeys;
pub use plan::{MaskPlan, MaskViolation, StatementMask};
pub use row::{RowError, RowMask};
