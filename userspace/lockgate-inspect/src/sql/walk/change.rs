//! INSERT, UPDATE, DELETE, MERGE: at the top, or inside a WITH list.

use super::{Walk, inner};
use crate::sql::{
    bounded,
    usage::{Change, Expr, Place, Source},
};
use lockgate_model::sql::{RelationName, SqlClass, SqlEffect};
use pg_query::{
    NodeEnum,
    protobuf::{self, CmdType, MergeMatchKind, Node, RangeVar},
};

impl Walk<'_> {
    /// What a data-modifying statement is, whether it is bounded, and its lineage; None for other nodes.
    pub(super) fn change(&mut self, node: &NodeEnum) -> Option<(&'static str, Option<bool>, Change)> {
        let scope = self.scope();
        let answer = match node {
            NodeEnum::InsertStmt(insert) => Some(("insert", None, self.insert(insert))),
            NodeEnum::UpdateStmt(update) => {
                let bounded = bounded::limits(update.where_clause.as_deref());
                Some(("update", Some(bounded), self.update(update)))
            }
            NodeEnum::DeleteStmt(delete) => {
                let bounded = bounded::limits(delete.where_clause.as_deref());
                Some(("delete", Some(bounded), self.delete(delete)))
            }
            NodeEnum::MergeStmt(merge) => Some(("merge", Some(merge_bounded(merge)), self.merge(merge))),
            _ => None,
        };
        self.leave(scope);
        answer
    }

    fn begin(&mut self, with: Option<&protobuf::WithClause>, target: Option<&RangeVar>) -> Change {
        self.raise(SqlClass::Write);
        self.effect(SqlEffect::WritesRows);
        let ctes = self.with(with);
        let alias = target.and_then(|target| target.alias.as_ref()).map(|alias| alias.aliasname.clone());
        let name = match target {
            // The target is never a WITH query (setTargetTable in parse_clause.c).
            Some(target) => {
                let name = self.write(target);
                self.changed(target);
                let shown = alias.clone().unwrap_or_else(|| target.relname.clone());
                self.aliases.push(shown, Some(name.clone()));
                name
            }
            None => RelationName { schema: None, name: String::new() },
        };
        Change {
            ctes,
            target: name,
            alias,
            from: Vec::new(),
            source_first: false,
            source: None,
            columns: Vec::new(),
            assigned: Vec::new(),
            set: Vec::new(),
            places: Vec::new(),
            returning: Vec::new(),
        }
    }

    fn insert(&mut self, insert: &protobuf::InsertStmt) -> Change {
        let mut change = self.begin(insert.with_clause.as_ref(), insert.relation.as_ref());
        change.columns = self.target_columns(&insert.cols, &mut change.assigned);
        if let Some(NodeEnum::SelectStmt(select)) = inner(&insert.select_stmt) {
            change.source = Some(self.query(select));
        }
        if let Some(conflict) = &insert.on_conflict_clause {
            if let Some(infer) = &conflict.infer {
                for element in infer.index_elems.iter().filter_map(|element| element.node.as_ref()) {
                    let mut expr = Expr::default();
                    if let NodeEnum::IndexElem(element) = element {
                        expr = self.index_element(element);
                    } else {
                        self.expr_into(element, None, &mut expr);
                    }
                    change.places.push((Place::Conflict, expr));
                }
                self.condition(Place::Conflict, infer.where_clause.as_deref(), &mut change);
            }
            self.aliases.push("excluded".to_owned(), Some(change.target.clone()));
            self.assignments(&conflict.target_list, &mut change);
            self.condition(Place::Where, conflict.where_clause.as_deref(), &mut change);
        }
        self.returning(insert.returning_clause.as_ref(), &mut change);
        change
    }

    fn update(&mut self, update: &protobuf::UpdateStmt) -> Change {
        let mut change = self.begin(update.with_clause.as_ref(), update.relation.as_ref());
        change.from = self.from(&update.from_clause);
        self.assignments(&update.target_list, &mut change);
        self.condition(Place::Where, update.where_clause.as_deref(), &mut change);
        self.returning(update.returning_clause.as_ref(), &mut change);
        change
    }

    fn delete(&mut self, delete: &protobuf::DeleteStmt) -> Change {
        let mut change = self.begin(delete.with_clause.as_ref(), delete.relation.as_ref());
        change.from = self.from(&delete.using_clause);
        self.condition(Place::Where, delete.where_clause.as_deref(), &mut change);
        self.returning(delete.returning_clause.as_ref(), &mut change);
        change
    }

    fn merge(&mut self, merge: &protobuf::MergeStmt) -> Change {
        let mut change = self.begin(merge.with_clause.as_ref(), merge.relation.as_ref());
        change.source_first = true;
        change.from = inner(&merge.source_relation)
            .map(|source| self.source(source))
            .into_iter()
            .collect::<Vec<Source>>();
        self.condition(Place::Join, merge.join_condition.as_deref(), &mut change);
        let mut inserts_all = false;
        for when in &merge.merge_when_clauses {
            let Some(NodeEnum::MergeWhenClause(when)) = &when.node else { continue };
            self.condition(Place::Condition, when.condition.as_deref(), &mut change);
            self.assignments(&when.target_list, &mut change);
            // INSERT without a column list names none: any column may get the values.
            inserts_all |= when.target_list.is_empty() && !when.values.is_empty();
            for value in &when.values {
                let expr = self.expr(Some(value));
                change.assigned.push(expr);
            }
        }
        if inserts_all {
            change.set.clear();
        }
        self.returning(merge.returning_clause.as_ref(), &mut change);
        change
    }

    /// `SET a = …, (b, c) = …`, and the column list of an action.
    fn assignments(&mut self, targets: &[Node], change: &mut Change) {
        for target in targets {
            let Some(NodeEnum::ResTarget(target)) = &target.node else { continue };
            self.gathered.columns.insert(target.name.clone());
            change.set.push(target.name.clone());
            let mut subscripts = Expr::default();
            self.all(&target.indirection, None, &mut subscripts);
            change.assigned.push(subscripts);
            if target.val.is_some() {
                let expr = self.expr(target.val.as_deref());
                change.assigned.push(expr);
            }
        }
    }

    fn target_columns(&mut self, targets: &[Node], assigned: &mut Vec<Expr>) -> Vec<String> {
        let mut names = Vec::new();
        for target in targets {
            let Some(NodeEnum::ResTarget(target)) = &target.node else { continue };
            self.gathered.columns.insert(target.name.clone());
            names.push(target.name.clone());
            let mut subscripts = Expr::default();
            self.all(&target.indirection, None, &mut subscripts);
            assigned.push(subscripts);
        }
        names
    }

    fn condition(&mut self, place: Place, condition: Option<&Node>, change: &mut Change) {
        if condition.is_some() {
            let expr = self.expr(condition);
            change.places.push((place, expr));
        }
    }

    fn returning(&mut self, returning: Option<&protobuf::ReturningClause>, change: &mut Change) {
        let Some(returning) = returning else { return };
        for option in &returning.options {
            // RETURNING WITH (OLD AS o, NEW AS n): other names for the target's row (PostgreSQL 18).
            if let Some(NodeEnum::ReturningOption(option)) = &option.node {
                self.aliases.push(option.value.clone(), Some(change.target.clone()));
            }
        }
        change.returning = self.outputs(&returning.exprs);
    }
}

/// MERGE touches the target rows that match its source. It is unbounded when everything matches, or when it changes what
/// no source row asked for.
fn merge_bounded(merge: &protobuf::MergeStmt) -> bool {
    bounded::limits(merge.join_condition.as_deref())
        && !merge.merge_when_clauses.iter().any(|when| match &when.node {
            Some(NodeEnum::MergeWhenClause(when)) => {
                when.match_kind == MergeMatchKind::MergeWhenNotMatchedBySource as i32
                    && when.command_type != CmdType::CmdNothing as i32
                    && !bounded::limits(when.condition.as_deref())
            }
            _ => false,
        })
}
