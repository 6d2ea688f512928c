//! What types, operators and functions do with a value besides passing it on: some hand it to code of the database's own,
//! some fail for some values, and whether they do is an answer. Everything that is not listed as total can fail.
//!
//! Columns without masks are not touched by any of this: a place matters only for what a mask covers.

use super::qualified;
use crate::sql::usage::Place;
use pg_query::{NodeEnum, protobuf::TypeName};

/// Types of pg_catalog that every text can be cast to without failing.
const TOTAL_TYPES: [&str; 4] = ["text", "varchar", "bpchar", "name"];

/// The other base types of pg_catalog (pg_type.dat, PostgreSQL 15 to 18); a cast to one can fail.
const BUILTIN_TYPES: &[&str] = &[
    "aclitem",
    "any",
    "bit",
    "bool",
    "box",
    "bytea",
    "char",
    "cid",
    "cidr",
    "circle",
    "cstring",
    "date",
    "datemultirange",
    "daterange",
    "float4",
    "float8",
    "gtsvector",
    "inet",
    "int2",
    "int2vector",
    "int4",
    "int4multirange",
    "int4range",
    "int8",
    "int8multirange",
    "int8range",
    "interval",
    "json",
    "jsonb",
    "jsonpath",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "numeric",
    "nummultirange",
    "numrange",
    "oid",
    "oidvector",
    "path",
    "pg_lsn",
    "pg_node_tree",
    "pg_snapshot",
    "point",
    "polygon",
    "record",
    "refcursor",
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
    "tid",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsmultirange",
    "tsquery",
    "tsrange",
    "tstzmultirange",
    "tstzrange",
    "tsvector",
    "txid_snapshot",
    "unknown",
    "uuid",
    "varbit",
    "xid",
    "xid8",
    "xml",
];

/// Whether the system has a type of this name: a base type, an array of one, or a row type of its catalogue.
pub(super) fn is_builtin(name: &str) -> bool {
    let base = name.strip_prefix('_').unwrap_or(name);
    TOTAL_TYPES.contains(&base) || BUILTIN_TYPES.contains(&base)
}

/// What a cast to the type does to its argument beyond passing it on.
pub(super) fn place(name: &TypeName, catalog_first: bool) -> Option<Place> {
    let (schema, base) = qualified(&name.names);
    let ours = match schema {
        Some(schema) => schema == "pg_catalog",
        None => catalog_first,
    };
    if !ours || !(TOTAL_TYPES.contains(&base) || BUILTIN_TYPES.contains(&base)) {
        // A domain's checks, an input function, a cast function: code that the statement does not name.
        return Some(Place::UnknownFunction);
    }
    let total = TOTAL_TYPES.contains(&base) && name.array_bounds.is_empty();
    (!total).then_some(Place::Fallible)
}

/// What a cast to a type of the database's own is called among calls: no function has such a name.
pub(super) fn cast_call(name: &str) -> String {
    format!("::{name}")
}

/// Whether a node that has no name of its own passes values on without failing.
pub(super) fn is_total(node: &NodeEnum) -> bool {
    matches!(
        node,
        NodeEnum::CoalesceExpr(_)
            | NodeEnum::MinMaxExpr(_)
            | NodeEnum::AArrayExpr(_)
            | NodeEnum::RowExpr(_)
            | NodeEnum::BoolExpr(_)
            | NodeEnum::NullTest(_)
            | NodeEnum::BooleanTest(_)
            | NodeEnum::CollateClause(_)
            | NodeEnum::AIndirection(_)
            | NodeEnum::AIndices(_)
            | NodeEnum::NamedArgExpr(_)
            | NodeEnum::GroupingFunc(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::SetToDefault(_)
            | NodeEnum::ResTarget(_)
            | NodeEnum::List(_)
            | NodeEnum::AStar(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_)
            | NodeEnum::MultiAssignRef(_)
            | NodeEnum::ParamRef(_)
    )
}

/// Built-in functions that take any value of their first argument's type.
const TOTAL_FUNCTIONS: &[&str] = &[
    "any_value",
    "array_agg",
    "array_append",
    "array_prepend",
    "array_remove",
    "ascii",
    "avg",
    "bit_length",
    "bool_and",
    "bool_or",
    "btrim",
    "char_length",
    "character_length",
    "concat",
    "concat_ws",
    "count",
    "cume_dist",
    "dense_rank",
    "every",
    "first_value",
    "hashtext",
    "initcap",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "lag",
    "last_value",
    "lead",
    "left",
    "length",
    "lower",
    "ltrim",
    "max",
    "md5",
    "min",
    "mode",
    "nth_value",
    "ntile",
    "num_nonnulls",
    "num_nulls",
    "octet_length",
    "percent_rank",
    "percentile_disc",
    "pg_column_size",
    "pg_typeof",
    "quote_ident",
    "quote_literal",
    "quote_nullable",
    "rank",
    "replace",
    "reverse",
    "right",
    "row_number",
    "row_to_json",
    "rtrim",
    "split_part",
    "starts_with",
    "string_agg",
    "string_to_array",
    "strpos",
    "position",
    "substr",
    "substring",
    "sum",
    "text",
    "textcat",
    "textlen",
    "to_json",
    "to_jsonb",
    "translate",
    "upper",
    "xmlagg",
];

/// Whether a built-in function never fails by what it is given.
pub(super) fn is_total_function(name: &str) -> bool {
    TOTAL_FUNCTIONS.contains(&name)
}

/// What an operator does to its operands beyond passing them on.
pub(super) fn operands(name: &str) -> (Option<Place>, Option<Place>) {
    match name {
        "||" | "=" | "<>" | "!=" | "<" | ">" | "<=" | ">=" | "->" | "->>" | "#>" | "#>>" | "?" | "^@" => {
            (None, None)
        }
        // A pattern can be malformed; what it is tried on cannot.
        "~~" | "!~~" | "~~*" | "!~~*" | "~" | "!~" | "~*" | "!~*" => (None, Some(Place::Fallible)),
        "BETWEEN" | "NOT BETWEEN" | "BETWEEN SYMMETRIC" | "NOT BETWEEN SYMMETRIC" => (None, None),
        "/" | "%" => (Some(Place::Fallible), Some(Place::Condition)),
        _ => (Some(Place::Fallible), Some(Place::Fallible)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_query::protobuf::{Node, String as Text};

    #[test]
    fn casts_to_types_of_the_database_are_code() {
        let node = |text: &&str| Node { node: Some(NodeEnum::String(Text { sval: (*text).to_owned() })) };
        for (names, catalog_first, expected) in [
            (&["text"][..], true, None),
            (&["pg_catalog", "varchar"], true, None),
            (&["pg_catalog", "int4"], false, Some(Place::Fallible)),
            (&["date"], true, Some(Place::Fallible)),
            (&["date"], false, Some(Place::UnknownFunction)),
            (&["mood"], true, Some(Place::UnknownFunction)),
            (&["public", "text"], true, Some(Place::UnknownFunction)),
        ] {
            let name = TypeName { names: names.iter().map(node).collect(), ..TypeName::default() };
            assert_eq!(place(&name, catalog_first), expected, "{names:?}");
        }
    }
}
