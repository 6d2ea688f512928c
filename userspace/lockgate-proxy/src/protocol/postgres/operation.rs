//! From a statement to an operation: under which role, in which database, with which values, inside a transaction or not.

use super::engine::Engine;
use lockgate_inspect::sql::{Control, DigestParts, SearchPath, Statement, digest};
use lockgate_model::operation::{Operation, Parameter, SqlContext, ValueFormat};
use lockgate_wire::postgres::{Format, TransactionStatus, frontend::Bind};
use std::sync::Arc;

/// Follows, statement by statement, whether a transaction block would be open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransactionWalk(bool);

impl TransactionWalk {
    /// From where the session is.
    pub(crate) fn from(status: TransactionStatus) -> Self {
        Self(match status {
            TransactionStatus::Idle => false,
            TransactionStatus::InTransaction | TransactionStatus::Failed => true,
        })
    }

    /// Whether the next statement runs inside a transaction block.
    pub(crate) fn is_open(self) -> bool {
        self.0
    }

    /// What the next statement will find if this one succeeds.
    pub(crate) fn pass(&mut self, statement: &Statement) {
        match &statement.control {
            Control::Begin => self.0 = true,
            Control::Commit { chain } | Control::Rollback { chain } => self.0 = *chain,
            Control::None
            | Control::Savepoint
            | Control::RollbackTo
            | Control::Set { .. }
            | Control::ResetAll
            | Control::DiscardAll
            | Control::Prepare { .. }
            | Control::Execute { .. }
            | Control::Deallocate { .. }
            | Control::Declare { .. }
            | Control::Fetch { .. }
            | Control::Close { .. }
            | Control::Anything => {}
        }
    }
}

impl<C> Engine<C> {
    /// What running this statement with these values would be.
    pub(crate) fn operation(
        &mut self,
        statement: &Arc<Statement>,
        parameters: Vec<Parameter>,
        in_transaction: bool,
    ) -> Arc<Operation> {
        self.report.counters.operations += 1;
        let keys = self.gate.ports.mask_keys.load_full();
        let touches_masked = self.masks.touches(self.gate.masks(), &keys, statement);
        let session = &self.gate.session;
        let role = self.state.role.as_deref().unwrap_or(&session.upstream_user);
        let search_path = match &self.state.search_path {
            SearchPath::Default => None,
            SearchPath::Known(schemas) => Some(schemas.join(", ")),
            SearchPath::Unknown => Some("(unknown)".to_owned()),
        };
        let digest = digest(&DigestParts {
            statement: &statement.text,
            parameters: &parameters,
            role,
            database: &self.database,
            search_path: search_path.as_deref(),
            target: session.target.name.as_str(),
            principal: &session.principal.id,
        });
        Arc::new(Operation {
            id: self.gate.operation_id(),
            session: session.id,
            facts: statement.facts.clone(),
            text: statement.text.clone(),
            normalized: statement.normalized.clone(),
            parameters,
            digest,
            context: SqlContext {
                role: role.to_owned(),
                database: self.database.clone(),
                search_path,
                in_transaction,
            },
            touches_masked,
        })
    }
}

/// The values of a Bind as an approver reads them.
pub(crate) fn parameters(bind: &Bind, types: &[u32]) -> Vec<Parameter> {
    bind.parameters
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let format = Format::of(&bind.parameter_formats, index);
            // Text that is not UTF-8 is shown in hexadecimal: an approval must be bound to the very bytes.
            let text = match (format, value.as_deref().map(std::str::from_utf8)) {
                (Format::Text, Some(Ok(text))) => Some(text.to_owned()),
                (Format::Text, None) | (Format::Binary, None) => None,
                (Format::Text, Some(Err(_))) | (Format::Binary, Some(_)) => value.as_deref().map(hex::encode),
            };
            let readable = value.as_deref().is_none_or(|value| std::str::from_utf8(value).is_ok());
            Parameter {
                type_oid: types.get(index).copied().unwrap_or(0),
                format: match format {
                    Format::Text if readable => ValueFormat::Text,
                    Format::Text | Format::Binary => ValueFormat::Binary,
                },
                value: text,
            }
        })
        .collect()
}
