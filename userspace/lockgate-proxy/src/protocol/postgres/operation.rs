//! From a statement to an operation: under which role, in which database, with which values, inside a transaction or not.

use super::engine::Engine;
use bytes::Bytes;
use lockgate_inspect::mask::MaskKeys;
use lockgate_inspect::sql::{Control, DigestParts, SearchPath, Statement, digest};
use lockgate_model::{
    operation::{Facts, Operation, Parameter, SqlContext, ValueFormat},
    sql::Export,
};
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
        parameters: Arc<[Parameter]>,
        in_transaction: bool,
    ) -> Arc<Operation> {
        self.report.counters.operations += 1;
        let keys = self.gate.ports.mask_keys.load_full();
        let touches_masked = self.touches_masked(statement, &keys);
        let context = self.context(in_transaction);
        let mut facts = statement.facts.clone();
        if self.dumps.observe(statement) {
            match Arc::make_mut(&mut facts) {
                Facts::Sql(sql) => drop(sql.reach.exports.insert(Export::Dump)),
                Facts::Http(_) => {}
            }
        }
        let (text, normalized) = self.spelled_out(statement);
        let session = &self.gate.session;
        let digest = digest(&DigestParts {
            statement: &text,
            parameters: &parameters,
            role: &context.role,
            database: &context.database,
            search_path: context.search_path.as_deref(),
            target: session.target.name.as_str(),
            principal: &session.principal.id,
        });
        Arc::new(Operation {
            id: self.gate.operation_id(),
            session: session.id,
            facts,
            text,
            normalized,
            parameters,
            digest,
            context,
            touches_masked,
        })
    }

    /// Where a statement would run. Few statements change it, so that most share the one before's.
    fn context(&mut self, in_transaction: bool) -> Arc<SqlContext> {
        let role = self.settings.state.role.as_deref().unwrap_or(&self.gate.session.upstream_user);
        let search_path = match &self.settings.state.search_path {
            SearchPath::Default => None,
            SearchPath::Known(schemas) => Some(schemas.join(", ")),
            SearchPath::Unknown => Some("(unknown)".to_owned()),
        };
        let last = &self.context;
        if last.role != role || last.search_path != search_path || last.in_transaction != in_transaction {
            let (role, database) = (role.to_owned(), self.database.clone());
            self.context = Arc::new(SqlContext { role, database, search_path, in_transaction });
        }
        self.context.clone()
    }
}

impl<C> Engine<C> {
    /// Whether no literal of the statement may rest in a record.
    fn touches_masked(&mut self, statement: &Statement, keys: &Arc<MaskKeys>) -> bool {
        self.gate.follow();
        let known = self.gate.known.of(statement, self.masks.catalogue(), keys);
        if let Some(touches) = known.and_then(|known| known.touches) {
            return touches;
        }
        let touches = self.masks.touches(self.gate.session_masks(), keys, statement);
        if let Some(known) = self.gate.known.of(statement, self.masks.catalogue(), keys) {
            known.touches = Some(touches);
        }
        touches
    }

    /// The statement's texts. For EXECUTE and FETCH with what they run: the name alone tells an approver nothing, and an
    /// approval must not be good for whatever the name means later.
    fn spelled_out(&self, statement: &Statement) -> (Arc<str>, Arc<str>) {
        let (name, inner) = match &statement.control {
            Control::Execute { name } => (name, self.settings.state.prepared(name)),
            Control::Fetch { name } => (name, self.settings.state.cursor(name)),
            Control::None
            | Control::Begin
            | Control::Commit { .. }
            | Control::Rollback { .. }
            | Control::Savepoint
            | Control::RollbackTo
            | Control::Set { .. }
            | Control::ResetAll
            | Control::DiscardAll
            | Control::Prepare { .. }
            | Control::Deallocate { .. }
            | Control::Declare { .. }
            | Control::Close { .. }
            | Control::Anything => return (statement.text.clone(), statement.normalized.clone()),
        };
        match inner {
            None => (statement.text.clone(), statement.normalized.clone()),
            Some(inner) => (
                format!("{}\n-- {name}: {}", statement.text, inner.text).into(),
                format!("{}\n-- {name}: {}", statement.normalized, inner.normalized).into(),
            ),
        }
    }
}

/// The values of a Bind as an approver reads them.
pub(crate) fn parameters(bind: &Bind, types: &[u32]) -> Vec<Parameter> {
    values(&bind.parameters, &bind.parameter_formats, types)
}

/// Values as an approver reads them. What cannot be read as text is shown in hexadecimal: an approval is bound
/// to the very bytes.
pub(crate) fn values(values: &[Option<Bytes>], formats: &[Format], types: &[u32]) -> Vec<Parameter> {
    values
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let type_oid = types.get(index).copied().unwrap_or(0);
            let Some(value) = value.as_deref() else {
                return Parameter { type_oid, format: ValueFormat::Text, value: None };
            };
            let text = match Format::of(formats, index) {
                Format::Text => std::str::from_utf8(value).ok().map(str::to_owned),
                Format::Binary => binary_as_text(type_oid, value),
            };
            match text {
                Some(text) => Parameter { type_oid, format: ValueFormat::Text, value: Some(text) },
                None => Parameter { type_oid, format: ValueFormat::Binary, value: Some(hex::encode(value)) },
            }
        })
        .collect()
}

/// Binary forms that say the same as their text does, one to one (pg_type.dat for the OIDs).
fn binary_as_text(type_oid: u32, value: &[u8]) -> Option<String> {
    match type_oid {
        // bool
        16 => match value {
            [0] => Some("f".to_owned()),
            [1] => Some("t".to_owned()),
            _ => None,
        },
        // int8, int2, int4, oid
        20 => value.try_into().ok().map(|bytes| i64::from_be_bytes(bytes).to_string()),
        21 => value.try_into().ok().map(|bytes| i16::from_be_bytes(bytes).to_string()),
        23 => value.try_into().ok().map(|bytes| i32::from_be_bytes(bytes).to_string()),
        26 => value.try_into().ok().map(|bytes| u32::from_be_bytes(bytes).to_string()),
        // name, text, json, xml, unknown, bpchar, varchar
        19 | 25 | 114 | 142 | 705 | 1042 | 1043 => std::str::from_utf8(value).ok().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_wire::postgres::PgString;

    #[test]
    fn values_are_shown_as_text_where_that_says_the_same() {
        for (type_oid, format, value, expected) in [
            (0, Format::Text, Some(&b"x"[..]), (ValueFormat::Text, Some("x"))),
            (0, Format::Text, Some(b"\xff"), (ValueFormat::Binary, Some("ff"))),
            (0, Format::Binary, Some(b"\0\0\0\x05"), (ValueFormat::Binary, Some("00000005"))),
            (23, Format::Binary, Some(b"\0\0\0\x05"), (ValueFormat::Text, Some("5"))),
            (23, Format::Binary, Some(b"\0\x05"), (ValueFormat::Binary, Some("0005"))),
            (20, Format::Binary, Some(&[0xff; 8]), (ValueFormat::Text, Some("-1"))),
            (16, Format::Binary, Some(b"\x02"), (ValueFormat::Binary, Some("02"))),
            (25, Format::Binary, Some("ä".as_bytes()), (ValueFormat::Text, Some("ä"))),
            (25, Format::Binary, None, (ValueFormat::Text, None)),
        ] {
            let bind = Bind {
                portal: PgString::default(),
                statement: PgString::default(),
                parameter_formats: vec![format],
                parameters: vec![value.map(Bytes::copy_from_slice)],
                result_formats: Vec::new(),
            };
            let got = parameters(&bind, &[type_oid]);
            let got: Vec<_> = got.iter().map(|p| (p.type_oid, p.format, p.value.as_deref())).collect();
            assert_eq!(got, [(type_oid, expected.0, expected.1)]);
        }
    }
}
