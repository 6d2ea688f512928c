//! How much harm a statement could do.
//!
//! | risk     | what                                                                                                |
//! |----------|-----------------------------------------------------------------------------------------------------|
//! | low      | reads; session and transaction statements                                                           |
//! | medium   | bounded writes, inserts, exports, imports, explicit locks, functions that are not known harmless    |
//! | high     | schema changes, unbounded writes, CALL and DO, another role, settings that change meaning           |
//! | critical | DROP, TRUNCATE, unbounded DELETE, roles and privileges, server files, everything admin and opaque   |

use lockgate_model::sql::{Risk, SqlClass, SqlEffect};
use std::collections::BTreeSet;

/// The risk of a statement.
pub(super) fn risk(
    class: SqlClass,
    kind: &str,
    bounded: Option<bool>,
    effects: &BTreeSet<SqlEffect>,
    destroys: bool,
) -> Risk {
    let by_class = match class {
        SqlClass::Read | SqlClass::Transaction | SqlClass::Session => Risk::Low,
        SqlClass::CopyOut | SqlClass::CopyIn => Risk::Medium,
        SqlClass::Write => match (kind, bounded) {
            ("delete" | "truncate", Some(false)) => Risk::Critical,
            (_, Some(false)) if effects.contains(&SqlEffect::WritesRows) => Risk::High,
            _ => Risk::Medium,
        },
        SqlClass::Call | SqlClass::Ddl => Risk::High,
        SqlClass::Admin | SqlClass::Opaque => Risk::Critical,
    };
    let by_effect = effects.iter().map(|effect| match effect {
        SqlEffect::SetsRole
        | SqlEffect::ChangesMeaning
        | SqlEffect::ChangesSchema
        | SqlEffect::DynamicSql => Risk::High,
        SqlEffect::ServerFile | SqlEffect::ChangesPrivileges => Risk::Critical,
        SqlEffect::WritesRows | SqlEffect::Locks | SqlEffect::UnknownFunction => Risk::Medium,
        SqlEffect::Exports | SqlEffect::Imports => Risk::Medium,
        SqlEffect::Notifies => Risk::Low,
    });
    let destroyed = if destroys { Risk::Critical } else { Risk::Low };
    by_effect.fold(by_class, Risk::max).max(destroyed)
}
