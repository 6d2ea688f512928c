//! Which columns of a target are masked and how, and what that means for one statement.

use super::{MaskKeys, RowMask};
use crate::sql::{Statement, catalogue::CatalogueSnapshot};
use lockgate_model::{
    operation::Facts,
    verdict::{Denial, DenialCause, MaskSpec},
};
use lockgate_wire::postgres::backend::Column;
use std::sync::Arc;

/// The masks that apply to a session, worked out against one catalogue. Build a new one when either changes.
#[derive(Clone, Debug)]
pub struct MaskPlan {
    #[expect(dead_code, reason = "the judge reads it")]
    catalogue: Arc<CatalogueSnapshot>,
}

/// A statement uses a masked column where it may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct MaskViolation {
    /// One sentence, safe to show the client.
    pub reason: String,
    /// What to do instead.
    pub remedy: String,
}

impl MaskViolation {
    /// The refusal in policy's words.
    pub fn denial(&self) -> Denial {
        Denial {
            rule: None,
            cause: DenialCause::Masking,
            reason: self.reason.clone(),
            remedy: Some(self.remedy.clone()),
        }
    }
}

impl MaskPlan {
    /// Works the masks out.
    pub fn new(_spec: &MaskSpec, catalogue: Arc<CatalogueSnapshot>, _keys: &MaskKeys) -> Self {
        Self { catalogue }
    }

    /// Whether no literal and no bound value of the statement may rest in a record: it names a relation that has masked
    /// columns, or was not understood.
    pub fn touches(&self, _statement: &Statement) -> bool {
        true
    }

    /// What the masks mean for this statement.
    pub fn judge(&self, statement: &Statement) -> Result<StatementMask, MaskViolation> {
        match &*statement.facts {
            Facts::Sql(_) => Ok(StatementMask {}),
        }
    }
}

/// The masks for one statement's results.
#[derive(Clone, Debug)]
pub struct StatementMask {}

impl StatementMask {
    /// The masks for rows of this description. For a statement that returns rows before they are described, describe it
    /// first.
    pub fn rows(&self, columns: &[Column]) -> RowMask {
        RowMask::redact_all(columns.len())
    }

    /// Whether errors and notices of this statement keep only severity and SQLSTATE.
    pub fn strip_messages(&self) -> bool {
        true
    }
}
