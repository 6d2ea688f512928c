//! How much a statement may carry away: what its text lets through at most, and how large the tables are that its rows come
//! from. And by which ways of moving data out in bulk it does so.
//!
//! Nothing is estimated that the server has not counted: what is not known stays unknown, and whoever decides takes it for
//! too much. WHERE is no limit here, except by a unique key: how many rows pass it, only the data tells.

use super::{
    catalogue::{CatalogueSnapshot, Lookup, Relation, RelationKind, Resolution},
    function, tree,
    usage::{Body, Change, CteBody, Expr, Lineage, Output, Query, Source},
    walk::is_system,
};
use lockgate_model::sql::{Export, Extent, RelationName, RowBound};
use pg_query::{
    NodeEnum,
    protobuf::{
        AExprKind, BoolExprType, LimitOption, Node, SelectStmt, SetOperation, SubLinkType, a_const::Val,
    },
};
use std::collections::BTreeSet;

/// How large a table is, by the server's own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Rows: as the planner counts them, by the density of the last ANALYZE; without one, as many as fit the pages.
    pub rows: u64,
    /// Bytes, TOAST included.
    pub bytes: u64,
}

/// Aggregates whose result is no larger than one of their arguments.
const COLLAPSING: [&str; 32] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "bool_and",
    "bool_or",
    "every",
    "bit_and",
    "bit_or",
    "bit_xor",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "variance",
    "var_pop",
    "var_samp",
    "corr",
    "covar_pop",
    "covar_samp",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "percentile_cont",
    "percentile_disc",
    "mode",
];

/// Functions that turn whole tables, or what a text asks for, into one value.
const DOCUMENTS: [&str; 14] = [
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
];

/// Functions that read large objects.
const LARGE_OBJECTS: [&str; 6] = ["lo_get", "lo_open", "lo_export", "loread", "lo_get_fragment", "lo_read"];

/// System relations that hold what users stored.
const STORED_IN_SYSTEM: [&str; 4] = ["pg_largeobject", "pg_statistic", "pg_statistic_ext_data", "pg_stats"];

/// What the extent of a statement is made from.
pub(super) struct Asked<'a> {
    pub(super) node: &'a NodeEnum,
    pub(super) lineage: &'a Lineage,
    pub(super) lookup: &'a Lookup,
    pub(super) catalogue: Option<&'a CatalogueSnapshot>,
    /// It calls what nobody can vouch for, so what comes back can be anything.
    pub(super) anything: bool,
}

/// The bulk ways that the names in a statement tell of.
pub(super) fn exports(
    functions: &BTreeSet<String>,
    read: &BTreeSet<RelationName>,
    copies: bool,
) -> BTreeSet<Export> {
    let mut exports = BTreeSet::new();
    if copies {
        exports.insert(Export::Copy);
    }
    for name in functions {
        let last = name.rsplit('.').next().unwrap_or(name);
        if DOCUMENTS.contains(&last) {
            exports.insert(Export::Document);
        }
        if LARGE_OBJECTS.contains(&last) {
            exports.insert(Export::LargeObject);
        }
    }
    if read.iter().any(|relation| relation.name == "pg_largeobject") {
        exports.insert(Export::LargeObject);
    }
    exports
}

/// How much may come out of a statement; None when nothing that is stored does.
pub(super) fn extent(asked: &Asked<'_>) -> Option<Extent> {
    let mut sources = Sources { names: BTreeSet::new(), unknown: asked.anything };
    if !sources.lineage(asked.lineage) {
        return None;
    }
    if sources.names.is_empty() && !sources.unknown {
        return None;
    }
    let at_most =
        if asked.anything { None } else { statement_bound(asked.node, asked.catalogue, asked.lookup) };
    let mut largest = Some(TableSize::default());
    let mut stored = sources.unknown;
    for name in &sources.names {
        match size(name, asked.catalogue, asked.lookup) {
            Size::System => {}
            Size::Known(size) => {
                stored = true;
                largest = largest.map(|largest| TableSize {
                    rows: largest.rows.max(size.rows),
                    bytes: largest.bytes.max(size.bytes),
                });
            }
            Size::Unknown => {
                stored = true;
                largest = None;
            }
        }
    }
    if sources.unknown {
        largest = None;
    }
    stored.then(|| Extent {
        at_most,
        rows: largest.map(|largest| largest.rows),
        bytes: largest.map(|largest| largest.bytes),
    })
}

/// The relations whose rows come out. What only decides which rows do is not among them.
struct Sources {
    names: BTreeSet<RelationName>,
    unknown: bool,
}

impl Sources {
    /// Whether rows come out at all.
    fn lineage(&mut self, lineage: &Lineage) -> bool {
        match lineage {
            Lineage::Rows(query) => {
                self.query(query, &mut Vec::new());
                true
            }
            Lineage::CopyQuery { rows, .. } => self.lineage(rows),
            Lineage::CopyOut { relation, .. } => {
                self.names.insert(relation.clone());
                true
            }
            Lineage::Change(change) => {
                self.change(change, &mut Vec::new());
                !change.returning.is_empty()
            }
            Lineage::Many(parts) => {
                let mut any = false;
                for part in parts {
                    any |= self.lineage(part);
                }
                any
            }
            Lineage::Unknown => {
                self.unknown = true;
                true
            }
            _ => false,
        }
    }

    fn query(&mut self, query: &Query, ctes: &mut Vec<String>) {
        let scope = ctes.len();
        for cte in &query.ctes {
            ctes.push(cte.name.clone());
            match &cte.body {
                CteBody::Query(query) => self.query(query, ctes),
                CteBody::Change(change) => self.change(change, ctes),
            }
        }
        match &query.body {
            Body::Select(select) => {
                select.from.iter().for_each(|source| self.source(source, ctes));
                self.outputs(&select.outputs, ctes);
            }
            Body::Values(rows) => rows.iter().flatten().for_each(|value| self.expr(value, ctes)),
            Body::Set { left, right, .. } => {
                self.query(left, ctes);
                self.query(right, ctes);
            }
        }
        ctes.truncate(scope);
    }

    fn change(&mut self, change: &Change, ctes: &mut Vec<String>) {
        let scope = ctes.len();
        for cte in &change.ctes {
            ctes.push(cte.name.clone());
            match &cte.body {
                CteBody::Query(query) => self.query(query, ctes),
                CteBody::Change(inner) => self.change(inner, ctes),
            }
        }
        if !change.returning.is_empty() {
            self.names.insert(change.target.clone());
            change.from.iter().for_each(|source| self.source(source, ctes));
            change.source.iter().for_each(|query| self.query(query, ctes));
            self.outputs(&change.returning, ctes);
        }
        ctes.truncate(scope);
    }

    fn outputs(&mut self, outputs: &[Output], ctes: &mut Vec<String>) {
        outputs.iter().for_each(|output| self.expr(&output.value, ctes));
    }

    fn expr(&mut self, expr: &Expr, ctes: &mut Vec<String>) {
        for sub in expr.queries.iter().filter(|sub| sub.flows) {
            self.query(&sub.query, ctes);
        }
    }

    fn source(&mut self, source: &Source, ctes: &mut Vec<String>) {
        match source {
            Source::Relation { name, .. } => {
                if name.schema.is_some() || !ctes.contains(&name.name) {
                    self.names.insert(name.clone());
                }
            }
            Source::Query { query, .. } => self.query(query, ctes),
            Source::Function { arguments, .. } => arguments.iter().for_each(|value| self.expr(value, ctes)),
            Source::Sample { relation, arguments } => {
                self.source(relation, ctes);
                self.expr(arguments, ctes);
            }
            Source::Join { left, right, .. } => {
                self.source(left, ctes);
                self.source(right, ctes);
            }
        }
    }
}

enum Size {
    /// The server's own, without anything that users stored.
    System,
    Known(TableSize),
    Unknown,
}

fn size(name: &RelationName, catalogue: Option<&CatalogueSnapshot>, lookup: &Lookup) -> Size {
    let stored = STORED_IN_SYSTEM.contains(&name.name.as_str());
    if name.schema.as_deref().is_some_and(is_system) && !stored {
        return Size::System;
    }
    let Some(catalogue) = catalogue else { return Size::Unknown };
    let found = catalogue.resolve(name.schema.as_deref(), &name.name, lookup);
    let mut largest: Option<TableSize> = None;
    for relation in found.candidates() {
        if is_system(&relation.schema) && !stored {
            continue;
        }
        let Some(size) = whole_size(catalogue, relation) else { return Size::Unknown };
        let known = largest.unwrap_or_default();
        largest = Some(TableSize { rows: known.rows.max(size.rows), bytes: known.bytes.max(size.bytes) });
    }
    match (largest, found.candidates()) {
        (Some(size), _) => Size::Known(size),
        (None, []) => Size::Unknown,
        (None, _) => Size::System,
    }
}

/// A relation with its partitions and heirs; a view as large as the largest of what it reads.
fn whole_size(catalogue: &CatalogueSnapshot, relation: &Relation) -> Option<TableSize> {
    if relation.kind == RelationKind::View {
        let mut largest = TableSize::default();
        for base in catalogue.bases(relation.oid) {
            if base.kind == RelationKind::View || is_system(&base.schema) {
                continue;
            }
            let size = whole_size(catalogue, base)?;
            largest = TableSize { rows: largest.rows.max(size.rows), bytes: largest.bytes.max(size.bytes) };
        }
        // What a view without tables shows is not stored; one over functions shows anything.
        return (!catalogue.view_calls_unknown(relation.oid)).then_some(largest);
    }
    let mut total = TableSize::default();
    for member in catalogue.family(relation.oid) {
        let size = match catalogue.relation(member).map(|member| member.kind) {
            // It holds nothing itself.
            Some(RelationKind::PartitionedTable | RelationKind::Sequence | RelationKind::Composite) => {
                TableSize::default()
            }
            Some(_) => catalogue.size(member)?,
            None => return None,
        };
        total = TableSize {
            rows: total.rows.saturating_add(size.rows),
            bytes: total.bytes.saturating_add(size.bytes),
        };
    }
    Some(total)
}

fn statement_bound(
    node: &NodeEnum,
    catalogue: Option<&CatalogueSnapshot>,
    lookup: &Lookup,
) -> Option<RowBound> {
    let query = |node: &Option<Box<Node>>| {
        let node = node.as_ref().and_then(|node| node.node.as_ref())?;
        statement_bound(node, catalogue, lookup)
    };
    match node {
        NodeEnum::SelectStmt(select) if !accumulates(node) => bound(select, catalogue, lookup),
        NodeEnum::CopyStmt(copy) => query(&copy.query),
        NodeEnum::DeclareCursorStmt(declare) => query(&declare.query),
        _ => None,
    }
}

/// Whether many rows may become one value somewhere: then counting rows limits nothing.
fn accumulates(node: &NodeEnum) -> bool {
    let mut found = false;
    tree::descend(node, &mut |node| {
        found |= match node {
            NodeEnum::FuncCall(call) => {
                let name = call.funcname.last().and_then(|name| match &name.node {
                    Some(NodeEnum::String(name)) => Some(name.sval.as_str()),
                    _ => None,
                });
                name.is_none_or(|name| {
                    name.ends_with("agg")
                        || name.ends_with("_agg_strict")
                        || name.ends_with("_agg_unique")
                        || DOCUMENTS.contains(&name)
                        || LARGE_OBJECTS.contains(&name)
                })
            }
            NodeEnum::SubLink(link) => link.sub_link_type == SubLinkType::ArraySublink as i32,
            // JSON_ARRAY(SELECT …), JSON_ARRAYAGG, JSON_OBJECTAGG, XMLAGG.
            NodeEnum::JsonArrayQueryConstructor(_)
            | NodeEnum::JsonArrayAgg(_)
            | NodeEnum::JsonObjectAgg(_) => true,
            _ => false,
        };
        !found
    });
    found
}

fn bound(select: &SelectStmt, catalogue: Option<&CatalogueSnapshot>, lookup: &Lookup) -> Option<RowBound> {
    let inner = unlimited(select, catalogue, lookup);
    let ties = select.limit_option == LimitOption::WithTies as i32;
    let limit = select.limit_count.as_deref().and_then(|limit| limit.node.as_ref()).filter(|_| !ties);
    match (limit.and_then(constant), inner) {
        (Some(RowBound::Rows(limit)), Some(RowBound::Rows(inner))) => Some(RowBound::Rows(limit.min(inner))),
        (Some(limit), None) => Some(limit),
        (_, inner @ Some(_)) => inner,
        (None, None) => None,
    }
}

fn unlimited(
    select: &SelectStmt,
    catalogue: Option<&CatalogueSnapshot>,
    lookup: &Lookup,
) -> Option<RowBound> {
    let side = |side: &Option<Box<SelectStmt>>| match bound(side.as_deref()?, catalogue, lookup)? {
        RowBound::Rows(rows) => Some(rows),
        RowBound::Parameter(_) => None,
    };
    match SetOperation::try_from(select.op) {
        Ok(SetOperation::SetopUnion) => {
            return Some(RowBound::Rows(side(&select.larg)?.saturating_add(side(&select.rarg)?)));
        }
        Ok(SetOperation::SetopIntersect | SetOperation::SetopExcept) => {
            return side(&select.larg).map(RowBound::Rows);
        }
        _ => {}
    }
    if select.group_clause.is_empty() && collapses(select) {
        return Some(RowBound::Rows(1));
    }
    match select.from_clause.as_slice() {
        [one] => match one.node.as_ref()? {
            NodeEnum::RangeSubselect(sub) => match sub.subquery.as_ref()?.node.as_ref()? {
                NodeEnum::SelectStmt(inner) if !multiplies(select) => bound(inner, catalogue, lookup),
                _ => None,
            },
            NodeEnum::RangeVar(relation) if !multiplies(select) && select.with_clause.is_none() => {
                let schema = Some(relation.schemaname.as_str()).filter(|schema| !schema.is_empty());
                let Resolution::Found(found) = catalogue?.resolve(schema, &relation.relname, lookup) else {
                    return None;
                };
                by_key(select, catalogue?, found).map(RowBound::Rows)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether its select list may make several rows of one: any function may return a set.
fn multiplies(select: &SelectStmt) -> bool {
    select.target_list.iter().filter_map(|target| target.node.as_ref()).any(|target| {
        let mut found = false;
        tree::descend(target, &mut |node| {
            found |= matches!(node, NodeEnum::FuncCall(call) if !is_scalar(&call.funcname));
            !found
        });
        found
    })
}

/// Built-in functions that return one value for one row.
fn is_scalar(name: &[Node]) -> bool {
    let last = name.last().and_then(|name| name.node.as_ref());
    matches!(last, Some(NodeEnum::String(name)) if function::returns_one_value(&name.sval))
}

/// One row comes out: an aggregate that keeps no values stands in the select list, and nothing groups.
fn collapses(select: &SelectStmt) -> bool {
    let mut aggregate = false;
    let mut other = false;
    for target in select.target_list.iter().filter_map(|target| target.node.as_ref()) {
        tree::descend(target, &mut |node| {
            match node {
                NodeEnum::FuncCall(call) => {
                    let name = call.funcname.last().and_then(|name| name.node.as_ref());
                    let collapsing = matches!(name, Some(NodeEnum::String(name)) if COLLAPSING.contains(&name.sval.as_str()));
                    aggregate |= collapsing && call.over.is_none();
                    other |= !collapsing && !is_scalar(&call.funcname);
                }
                NodeEnum::SubLink(_) => other = true,
                _ => {}
            }
            !matches!(node, NodeEnum::SubLink(_))
        });
    }
    aggregate && !other
}

/// How many rows a condition on a unique key lets through.
fn by_key(select: &SelectStmt, catalogue: &CatalogueSnapshot, relation: &Relation) -> Option<u64> {
    // A key holds for one table; those that inherit from it have rows of their own.
    if relation.kind == RelationKind::Table && !catalogue.children(relation.oid).is_empty() {
        return None;
    }
    let mut equal: Vec<(i16, u64)> = Vec::new();
    conjuncts(select.where_clause.as_deref()?.node.as_ref()?, &mut |node| {
        if let Some((column, values)) = equality(node)
            && let Some(column) = relation.column(column)
        {
            equal.push((column.attnum, values));
        }
    });
    let values =
        |attnum: &i16| equal.iter().filter(|(known, _)| known == attnum).map(|(_, values)| *values).min();
    catalogue
        .keys(relation.oid)
        .iter()
        .filter(|key| !key.is_empty())
        .filter_map(|key| key.iter().map(values).try_fold(1_u64, |rows, values| rows.checked_mul(values?)))
        .min()
}

fn conjuncts<'a>(node: &'a NodeEnum, visit: &mut dyn FnMut(&'a NodeEnum)) {
    match node {
        NodeEnum::BoolExpr(expr) if expr.boolop == BoolExprType::AndExpr as i32 => {
            expr.args
                .iter()
                .filter_map(|argument| argument.node.as_ref())
                .for_each(|node| conjuncts(node, visit));
        }
        node => visit(node),
    }
}

/// `column = value` and `column IN (values)`: the column, and how many values.
fn equality(node: &NodeEnum) -> Option<(&str, u64)> {
    let NodeEnum::AExpr(expr) = node else { return None };
    if !matches!(expr.name.as_slice(), [Node { node: Some(NodeEnum::String(name)) }] if name.sval == "=") {
        return None;
    }
    let left = expr.lexpr.as_ref()?.node.as_ref()?;
    let right = expr.rexpr.as_ref()?.node.as_ref()?;
    match (AExprKind::try_from(expr.kind), column(left), column(right)) {
        (Ok(AExprKind::AexprOp), Some(name), None) if is_value(right) => Some((name, 1)),
        (Ok(AExprKind::AexprOp), None, Some(name)) if is_value(left) => Some((name, 1)),
        (Ok(AExprKind::AexprIn), Some(name), None) => match right {
            NodeEnum::List(list)
                if list.items.iter().all(|item| item.node.as_ref().is_some_and(is_value)) =>
            {
                Some((name, u64::try_from(list.items.len()).ok()?))
            }
            _ => None,
        },
        _ => None,
    }
}

fn column(node: &NodeEnum) -> Option<&str> {
    let NodeEnum::ColumnRef(column) = node else { return None };
    match column.fields.last()?.node.as_ref()? {
        NodeEnum::String(name) => Some(&name.sval),
        _ => None,
    }
}

fn is_value(node: &NodeEnum) -> bool {
    match node {
        NodeEnum::AConst(_) | NodeEnum::ParamRef(_) => true,
        NodeEnum::TypeCast(cast) => cast.arg.as_ref().and_then(|arg| arg.node.as_ref()).is_some_and(is_value),
        _ => false,
    }
}

/// A number that LIMIT or FETCH FIRST names.
fn constant(node: &NodeEnum) -> Option<RowBound> {
    match node {
        NodeEnum::AConst(constant) if !constant.isnull => match constant.val.as_ref()? {
            Val::Ival(value) => u64::try_from(value.ival).ok().map(RowBound::Rows),
            // Beyond 32 bits the grammar keeps a number as text.
            Val::Fval(value) => value.fval.parse().ok().map(RowBound::Rows),
            Val::Boolval(_) | Val::Sval(_) | Val::Bsval(_) => None,
        },
        NodeEnum::ParamRef(parameter) => u32::try_from(parameter.number).ok().map(RowBound::Parameter),
        NodeEnum::TypeCast(cast) => match cast.arg.as_ref()?.node.as_ref()? {
            parameter @ NodeEnum::ParamRef(_) => constant(parameter),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
