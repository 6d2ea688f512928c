//! Functions by OID, for calls that name nothing else (FunctionCall, §55.2.4).
//!
//! Read apart from the rest of the catalogue, and only when such a call comes: it has an entry for each of the server's
//! three thousand built-in functions.

use super::load::Row;
use super::{CatalogueError, query::CatalogueQuery};
use lockgate_wire::postgres::backend::DataRow;

/// OIDs below are the system's own: they mean the same as long as the server runs (FirstNormalObjectId in transam.h).
pub(super) const FIRST_USER_OID: u32 = 16_384;

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routine {
    /// `pg_proc.oid`.
    pub(crate) oid: u32,
    /// Its schema.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) name: String,
    /// What it returns.
    pub(crate) result_type: u32,
    /// What it takes.
    pub(crate) argument_types: Vec<u32>,
}

impl Routine {
    pub(super) fn read(row: &DataRow) -> Result<Self, CatalogueError> {
        let mut row = Row::new(CatalogueQuery::Routines, row);
        let (oid, schema, name) = (row.number("oid")?, row.text("schema")?, row.text("name")?);
        let result_type = row.number("result type")?;
        let types = row.text("argument types")?;
        let argument_types = types.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
        Ok(Self { oid, schema, name, result_type, argument_types })
    }

    /// A statement that calls it as a FunctionCall does.
    pub(crate) fn statement(&self, arguments: usize) -> String {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let places = (1..=arguments).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ");
        format!("SELECT {}.{}({places})", quoted(&self.schema), quoted(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_names_in_the_statement() {
        let routine = Routine {
            oid: 1,
            schema: "a\"b".into(),
            name: "f() FROM t; --".into(),
            result_type: 23,
            argument_types: vec![23],
        };
        assert_eq!(routine.statement(2), r#"SELECT "a""b"."f() FROM t; --"($1, $2)"#);
        assert_eq!(routine.statement(0), r#"SELECT "a""b"."f() FROM t; --"()"#);
    }
}
