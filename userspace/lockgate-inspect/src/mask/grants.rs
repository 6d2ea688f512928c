//! The strongest defence is the server's own: an upstream role that may not SELECT what policy masks. Which masked columns
//! it can read, and the statements that take that away.
//!
//! What a mask covers is worked out by [`super::cover`]; whether a role may read a column the server said when the catalogue
//! was loaded.

use super::plan::MaskPlan;
use crate::sql::catalogue::{Relation, RelationKind};

/// Statements that leave a role nothing to read but what policy shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// In order; each ends in a semicolon.
    pub statements: Vec<String>,
    /// Masked relations that the upstream role owns (or it is a superuser): an owner can read, whatever is revoked.
    pub owned: Vec<String>,
}

/// How many masked columns there are, and which of them the upstream role could read by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Masked columns that privileges are kept for.
    pub masked: u64,
    /// Those that the role may read.
    pub readable: u64,
    /// The first of these, as `schema.table.column`.
    pub first: Vec<String>,
}

/// Columns that a record names; the rest is counted.
const NAMED: usize = 8;

impl MaskPlan {
    /// The same for a record; worked out once.
    pub fn exposure(&self) -> &Exposure {
        self.exposed(|| {
            let (cover, catalogue) = self.parts();
            let masked = grantable(catalogue.relations())
                .flat_map(|relation| relation.columns.iter().map(move |column| (relation.oid, column.attnum)))
                .filter(|(relation, attnum)| cover.column(*relation, *attnum).is_some())
                .count();
            let mut first = self.readable();
            let readable = first.len() as u64;
            first.truncate(NAMED);
            Exposure { masked: masked as u64, readable, first }
        })
    }

    /// Columns that policy masks and the upstream role may read nevertheless, as `schema.table.column`.
    pub fn readable(&self) -> Vec<String> {
        let (cover, catalogue) = self.parts();
        let mut readable = Vec::new();
        for relation in grantable(catalogue.relations()) {
            for column in &relation.columns {
                let masked = cover.column(relation.oid, column.attnum).is_some();
                if masked && catalogue.may_read(relation.oid, column.attnum) {
                    readable.push(format!("{}.{}.{}", relation.schema, relation.name, column.name));
                }
            }
        }
        readable.sort();
        readable
    }

    /// What takes the masked columns from a role, and leaves it the others.
    pub fn grants(&self, role: &str) -> Grants {
        let (cover, catalogue) = self.parts();
        let role = quoted(role);
        let mut grants = Grants::default();
        let mut relations: Vec<&Relation> =
            grantable(catalogue.relations()).filter(|relation| cover.touches(relation.oid)).collect();
        relations.sort_by_key(|relation| (&relation.schema, &relation.name));
        for relation in relations {
            let name = format!("{}.{}", quoted(&relation.schema), quoted(&relation.name));
            // A privilege on the table is one on each of its columns, and PUBLIC is everybody.
            grants.statements.push(format!("REVOKE SELECT ON TABLE {name} FROM PUBLIC, {role};"));
            let clean: Vec<String> = relation
                .columns
                .iter()
                .filter(|column| cover.column(relation.oid, column.attnum).is_none())
                .map(|column| quoted(&column.name))
                .collect();
            if !clean.is_empty() {
                let columns = clean.join(", ");
                grants.statements.push(format!("GRANT SELECT ({columns}) ON TABLE {name} TO {role};"));
            }
            if catalogue.is_owned(relation.oid) {
                grants.owned.push(name);
            }
        }
        grants
    }
}

/// Relations whose columns privileges are kept for. The system's own are the server's to guard, temporary ones their maker's.
fn grantable(relations: &[Relation]) -> impl Iterator<Item = &Relation> {
    relations.iter().filter(|relation| {
        let kept = match relation.kind {
            RelationKind::Table
            | RelationKind::PartitionedTable
            | RelationKind::View
            | RelationKind::MaterializedView
            | RelationKind::ForeignTable => true,
            RelationKind::Sequence | RelationKind::Toast | RelationKind::Composite => false,
        };
        kept && !relation.schema.starts_with("pg_") && relation.schema != "information_schema"
    })
}

/// An identifier as SQL writes it, whatever is in it.
fn quoted(name: &str) -> String {
    if name.chars().any(char::is_control) {
        let escaped: String = name
            .chars()
            .map(|c| match c {
                '"' => "\"\"".to_owned(),
                '\\' => "\\\\".to_owned(),
                c if c.is_control() => format!("\\{:04x}", u32::from(c)),
                c => c.to_string(),
            })
            .collect();
        return format!("U&\"{escaped}\"");
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        for (name, expected) in [
            ("a", "\"a\""),
            ("Odd name", "\"Odd name\""),
            ("q\"q", "\"q\"\"q\""),
            ("e\u{1b}", "U&\"e\\001b\""),
        ] {
            assert_eq!(quoted(name), expected);
        }
    }
}
