//! SELECT, VALUES, TABLE and set operations, with their WITH lists and FROM lists.

use super::{Walk, inner, string, strings};
use crate::sql::{
    bounded,
    usage::{Alias, Body, Cte, CteBody, Expr, Output, Place, Query, Select, Source},
};
use lockgate_model::sql::{RelationName, SqlClass, SqlEffect};
use pg_query::{
    NodeEnum,
    protobuf::{self, Node, SelectStmt, SetOperation},
};

impl Walk<'_> {
    /// A query, wherever it stands.
    pub(super) fn query(&mut self, select: &SelectStmt) -> Query {
        let scope = self.scope();
        let ctes = self.with(select.with_clause.as_ref());
        if let Some(into) = &select.into_clause {
            // SELECT INTO makes a table; the server refuses it anywhere but at the top, which is not ours to know.
            self.raise(SqlClass::Ddl);
            self.effect(SqlEffect::ChangesSchema);
            if let Some(relation) = &into.rel {
                self.write(relation);
            }
        }
        let mut places = Vec::new();
        let body = match SetOperation::try_from(select.op) {
            Ok(SetOperation::SetopUnion | SetOperation::SetopIntersect | SetOperation::SetopExcept) => {
                let compares = !(select.all && select.op == SetOperation::SetopUnion as i32);
                self.converts();
                if compares {
                    self.sorts();
                }
                let mut side = |side: &Option<Box<SelectStmt>>| {
                    Box::new(side.as_ref().map_or_else(Query::empty, |side| self.query(side)))
                };
                let (left, right) = (side(&select.larg), side(&select.rarg));
                Body::Set { compares, left, right }
            }
            _ if !select.values_lists.is_empty() => Body::Values(self.values(&select.values_lists)),
            _ => Body::Select(self.select(select)),
        };
        if !select.sort_clause.is_empty() {
            self.sorts();
        }
        self.places(Place::OrderBy, &select.sort_clause, &mut places);
        for limit in [&select.limit_offset, &select.limit_count].into_iter().flatten() {
            let expr = self.expr(Some(limit));
            places.push((Place::Limit, expr));
        }
        if !select.locking_clause.is_empty() {
            self.raise(SqlClass::Write);
            self.effect(SqlEffect::Locks);
        }
        self.leave(scope);
        Query { ctes, body, places }
    }

    fn values(&mut self, lists: &[Node]) -> Vec<Vec<Expr>> {
        self.converts();
        lists
            .iter()
            .map(|list| match &list.node {
                Some(NodeEnum::List(list)) => list.items.iter().map(|item| self.expr(Some(item))).collect(),
                _ => vec![self.expr(Some(list))],
            })
            .collect()
    }

    fn select(&mut self, select: &SelectStmt) -> Select {
        let from = self.from(&select.from_clause);
        let mut places = Vec::new();
        let distinct = !select.distinct_clause.is_empty();
        if distinct || !select.group_clause.is_empty() || !select.window_clause.is_empty() {
            self.sorts();
        }
        // DISTINCT without ON is a list of one empty node.
        let on: Vec<Node> =
            select.distinct_clause.iter().filter(|node| node.node.is_some()).cloned().collect();
        self.places(Place::Distinct, &on, &mut places);
        let outputs = self.outputs(&select.target_list);
        self.places(
            Place::Where,
            select.where_clause.as_deref().map(std::slice::from_ref).unwrap_or_default(),
            &mut places,
        );
        self.places(Place::GroupBy, &select.group_clause, &mut places);
        self.places(
            Place::Having,
            select.having_clause.as_deref().map(std::slice::from_ref).unwrap_or_default(),
            &mut places,
        );
        self.places(Place::Window, &select.window_clause, &mut places);
        Select { from, outputs, places, distinct: distinct && on.is_empty() }
    }

    /// A select list or a RETURNING list.
    pub(super) fn outputs(&mut self, targets: &[Node]) -> Vec<Output> {
        targets
            .iter()
            .map(|target| match &target.node {
                Some(NodeEnum::ResTarget(target)) => {
                    let value = self.expr(target.val.as_deref());
                    let name = Some(target.name.clone()).filter(|name| !name.is_empty());
                    Output { name, value }
                }
                _ => Output { name: None, value: self.expr(Some(target)) },
            })
            .collect()
    }

    /// The WITH list of a statement; its names stay in scope until the caller leaves.
    pub(super) fn with(&mut self, with: Option<&protobuf::WithClause>) -> Vec<Cte> {
        let Some(with) = with else { return Vec::new() };
        let items: Vec<&protobuf::CommonTableExpr> = with
            .ctes
            .iter()
            .filter_map(|cte| match &cte.node {
                Some(NodeEnum::CommonTableExpr(cte)) => Some(&**cte),
                _ => None,
            })
            .collect();
        if with.recursive {
            items.iter().for_each(|cte| self.ctes.push(cte.ctename.clone(), ()));
        }
        items
            .into_iter()
            .map(|cte| {
                let scope = self.scope();
                let body = self.cte_body(inner(&cte.ctequery));
                self.leave(scope);
                if !with.recursive {
                    self.ctes.push(cte.ctename.clone(), ());
                }
                Cte {
                    name: cte.ctename.clone(),
                    columns: strings(&cte.aliascolnames),
                    recursive: with.recursive,
                    adds: cte.search_clause.is_some() || cte.cycle_clause.is_some(),
                    body,
                }
            })
            .collect()
    }

    fn cte_body(&mut self, node: Option<&NodeEnum>) -> CteBody {
        match node {
            Some(NodeEnum::SelectStmt(select)) => CteBody::Query(Box::new(self.query(select))),
            Some(node) => match self.change(node) {
                Some((kind, bounded, change)) => {
                    self.verb(kind, bounded);
                    CteBody::Change(Box::new(change))
                }
                None => {
                    // A WITH query of a kind that is not known here.
                    self.unknown(SqlClass::Write, &[SqlEffect::UnknownFunction]);
                    CteBody::Query(Box::new(Query::empty()))
                }
            },
            None => CteBody::Query(Box::new(Query::empty())),
        }
    }

    /// A FROM list; its names stay in scope until the caller leaves.
    pub(super) fn from(&mut self, items: &[Node]) -> Vec<Source> {
        items.iter().filter_map(|item| item.node.as_ref()).map(|item| self.source(item)).collect()
    }

    pub(super) fn source(&mut self, item: &NodeEnum) -> Source {
        match item {
            NodeEnum::RangeVar(relation) => {
                let is_cte = self.is_cte(relation);
                let name = if is_cte {
                    RelationName { schema: None, name: relation.relname.clone() }
                } else {
                    self.read(relation)
                };
                let alias = alias(relation.alias.as_ref());
                let shown = alias.name.clone().unwrap_or_else(|| relation.relname.clone());
                self.aliases.push(shown, (!is_cte).then(|| name.clone()));
                Source::Relation { name, alias }
            }
            NodeEnum::RangeSubselect(sub) => {
                let query = match inner(&sub.subquery) {
                    Some(NodeEnum::SelectStmt(select)) => self.query(select),
                    _ => Query::empty(),
                };
                Source::Query { query: Box::new(query), alias: self.named(sub.alias.as_ref()) }
            }
            NodeEnum::JoinExpr(join) => self.join(join),
            NodeEnum::RangeFunction(call) => {
                let mut arguments = Vec::new();
                for item in &call.functions {
                    match &item.node {
                        // Each is a pair: the call, and its column definitions.
                        Some(NodeEnum::List(pair)) => {
                            for part in &pair.items {
                                let expr = self.expr(Some(part));
                                arguments.push(expr);
                            }
                        }
                        _ => {
                            let expr = self.expr(Some(item));
                            arguments.push(expr);
                        }
                    }
                }
                for column in &call.coldeflist {
                    let expr = self.expr(Some(column));
                    arguments.push(expr);
                }
                Source::Function { arguments, alias: self.named(call.alias.as_ref()) }
            }
            NodeEnum::RangeTableSample(sample) => {
                // They decide how many rows come out.
                let (mut arguments, place) = (Expr::default(), Some(Place::RowCount));
                self.all(&sample.args, place, &mut arguments);
                self.all(
                    sample.repeatable.as_deref().map(std::slice::from_ref).unwrap_or_default(),
                    place,
                    &mut arguments,
                );
                match super::qualified(&sample.method) {
                    (None, "system" | "bernoulli")
                        if self.state.search_path.catalog_first() || self.catalogue.is_some() => {}
                    (Some("pg_catalog"), "system" | "bernoulli") => {}
                    (None, "system_rows" | "system_time") if self.catalogue.is_some() => {}
                    _ => self.unknown(SqlClass::Write, &[SqlEffect::UnknownFunction]),
                }
                match inner(&sample.relation) {
                    Some(relation) => Source::Sample { relation: Box::new(self.source(relation)), arguments },
                    None => Source::Function { arguments: vec![arguments], alias: Alias::default() },
                }
            }
            NodeEnum::RangeTableFunc(table) => {
                let alias = table.alias.clone();
                self.rows_from(item, alias.as_ref())
            }
            NodeEnum::JsonTable(table) => {
                let alias = table.alias.clone();
                self.rows_from(item, alias.as_ref())
            }
            other => self.rows_from(other, None),
        }
    }

    /// XMLTABLE, JSON_TABLE: rows made of an expression.
    fn rows_from(&mut self, node: &NodeEnum, alias: Option<&protobuf::Alias>) -> Source {
        let mut arguments = Expr::default();
        self.expr_into(node, Some(Place::RowCount), &mut arguments);
        Source::Function { arguments: vec![arguments], alias: self.named(alias) }
    }

    fn join(&mut self, join: &protobuf::JoinExpr) -> Source {
        let mut side = |side: &Option<Box<Node>>| {
            Box::new(match inner(side) {
                Some(item) => self.source(item),
                None => Source::Function { arguments: Vec::new(), alias: Alias::default() },
            })
        };
        let (left, right) = (side(&join.larg), side(&join.rarg));
        let on = join.quals.as_deref().map(|quals| self.expr(Some(quals)));
        let using = strings(&join.using_clause);
        if join.is_natural || !using.is_empty() {
            self.implied(&["="]);
        }
        for column in &using {
            self.gathered.columns.insert(column.clone());
        }
        // JOIN … USING (…) AS name shows the joined columns only, which are also in the join's own.
        let alias = self.named(join.alias.as_ref().or(join.join_using_alias.as_ref()));
        Source::Join { left, right, on, using, natural: join.is_natural, alias }
    }

    fn named(&mut self, item: Option<&protobuf::Alias>) -> Alias {
        let alias = alias(item);
        if let Some(name) = &alias.name {
            self.aliases.push(name.clone(), None);
        }
        alias
    }

    /// Marks what is in scope now.
    pub(super) fn scope(&self) -> (usize, usize) {
        (self.ctes.len(), self.aliases.len())
    }

    /// Forgets what came into scope since.
    pub(super) fn leave(&mut self, (ctes, aliases): (usize, usize)) {
        self.ctes.leave(ctes);
        self.aliases.leave(aliases);
    }
}

/// Whether a query's rows are limited: by WHERE, by LIMIT, or because it reads only what is limited itself.
pub(super) fn bounded(select: &SelectStmt) -> bool {
    if bounded::limit_counts(select.limit_count.as_deref()) {
        return true;
    }
    match SetOperation::try_from(select.op) {
        Ok(SetOperation::SetopUnion) => sides(select).all(|side| side),
        Ok(SetOperation::SetopIntersect) => sides(select).any(|side| side),
        Ok(SetOperation::SetopExcept) => sides(select).next().unwrap_or(false),
        _ => bounded::limits(select.where_clause.as_deref()) || select.from_clause.iter().all(item_bounded),
    }
}

fn sides(select: &SelectStmt) -> impl Iterator<Item = bool> {
    [&select.larg, &select.rarg].into_iter().map(|side| side.as_ref().is_some_and(|side| bounded(side)))
}

fn item_bounded(item: &Node) -> bool {
    match &item.node {
        Some(NodeEnum::RangeSubselect(sub)) => match inner(&sub.subquery) {
            Some(NodeEnum::SelectStmt(select)) => bounded(select),
            _ => false,
        },
        Some(NodeEnum::RangeFunction(_) | NodeEnum::RangeTableFunc(_) | NodeEnum::JsonTable(_)) => true,
        Some(NodeEnum::JoinExpr(join)) => [&join.larg, &join.rarg]
            .into_iter()
            .all(|side| side.as_ref().is_some_and(|side| item_bounded(side))),
        _ => false,
    }
}

fn alias(alias: Option<&protobuf::Alias>) -> Alias {
    alias.map_or_else(Alias::default, |alias| Alias {
        name: Some(alias.aliasname.clone()).filter(|name| !name.is_empty()),
        columns: alias.colnames.iter().map(|name| string(name).to_owned()).collect(),
    })
}

impl Query {
    /// No rows and no columns.
    pub(in crate::sql) fn empty() -> Self {
        Self { ctes: Vec::new(), body: Body::Values(Vec::new()), places: Vec::new() }
    }
}
