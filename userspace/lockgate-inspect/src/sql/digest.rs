//! What an approval is bound to: SHA-256 over every part, each preceded by its length, in one fixed order.
//!
//! Lengths make the encoding injective: no two different sets of parts hash the same input.

use lockgate_model::operation::{Digest, Parameter, ValueFormat};
use sha2::{Digest as _, Sha256};

/// Separates this hash from every other use of SHA-256 in the product; the version changes with the encoding.
const DOMAIN: &[u8] = b"lockgate.dev/operation-digest/v1";

/// Everything that an approval is bound to.
#[derive(Clone, Copy, Debug)]
pub struct DigestParts<'a> {
    /// The exact statement.
    pub statement: &'a str,
    /// Bound values and their types, in order.
    pub parameters: &'a [Parameter],
    /// Role in force upstream.
    pub role: &'a str,
    /// Database.
    pub database: &'a str,
    /// search_path in force, when known to differ from the role's default.
    pub search_path: Option<&'a str>,
    /// The registered target's name.
    pub target: &'a str,
    /// The principal's id.
    pub principal: &'a str,
}

/// The digest of one operation.
pub fn digest(parts: &DigestParts<'_>) -> Digest {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(DOMAIN);
    part(parts.statement.as_bytes());
    part(&(parts.parameters.len() as u64).to_be_bytes());
    for parameter in parts.parameters {
        part(&parameter.type_oid.to_be_bytes());
        part(match parameter.format {
            ValueFormat::Text => b"text",
            ValueFormat::Binary => b"binary",
        });
        optional(&mut part, parameter.value.as_deref());
    }
    part(parts.role.as_bytes());
    part(parts.database.as_bytes());
    optional(&mut part, parts.search_path);
    part(parts.target.as_bytes());
    part(parts.principal.as_bytes());
    Digest(hash.finalize().into())
}

/// None and an empty text differ.
fn optional(part: &mut impl FnMut(&[u8]), value: Option<&str>) {
    part(if value.is_some() { b"some" } else { b"none" });
    part(value.unwrap_or_default().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> DigestParts<'static> {
        DigestParts {
            statement: "select 1",
            parameters: &[],
            role: "app",
            database: "orders",
            search_path: None,
            target: "orders-db",
            principal: "uid:1001",
        }
    }

    fn text(value: Option<&str>) -> Parameter {
        Parameter { type_oid: 25, format: ValueFormat::Text, value: value.map(str::to_owned) }
    }

    #[test]
    fn every_part_changes_the_digest() {
        let null = [text(None)];
        let empty = [text(Some(""))];
        let value = [text(Some("a"))];
        let two = [text(Some("a")), text(Some(""))];
        let binary = [Parameter { format: ValueFormat::Binary, ..text(Some("a")) }];
        let typed = [Parameter { type_oid: 23, ..text(Some("a")) }];
        let all = [
            digest(&parts()),
            digest(&DigestParts { statement: "select 2", ..parts() }),
            digest(&DigestParts { parameters: &null, ..parts() }),
            digest(&DigestParts { parameters: &empty, ..parts() }),
            digest(&DigestParts { parameters: &value, ..parts() }),
            digest(&DigestParts { parameters: &two, ..parts() }),
            digest(&DigestParts { parameters: &binary, ..parts() }),
            digest(&DigestParts { parameters: &typed, ..parts() }),
            digest(&DigestParts { role: "apporders", database: "", ..parts() }),
            digest(&DigestParts { role: "other", ..parts() }),
            digest(&DigestParts { database: "other", ..parts() }),
            digest(&DigestParts { search_path: Some(""), ..parts() }),
            digest(&DigestParts { search_path: Some("public"), ..parts() }),
            digest(&DigestParts { target: "other", ..parts() }),
            digest(&DigestParts { principal: "uid:1002", ..parts() }),
        ];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(a == b, i == j, "{i} and {j}");
            }
        }
    }

    #[test]
    fn the_encoding_does_not_drift() {
        // Approvals rest longer than one release: a change of the encoding must change DOMAIN, and this test.
        assert_eq!(
            digest(&parts()).to_string(),
            "4692c2dcb5c763a85688ce6255b97ea8460780c225ecaf2f3491d956fc808142"
        );
    }
}
