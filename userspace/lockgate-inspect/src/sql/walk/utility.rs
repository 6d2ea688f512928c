//! Statements: which kind and class each one is, and what the rest of the session learns from it. Everything that defines
//! schema objects is in [`super::definition`].
//!
//! A node that has no arm here is opaque; what comes out of a new grammar is not guessed at.

use super::{Walk, definition, inner, query, string};
use crate::sql::{
    Control, Makes, Setting, Statement,
    copy::CopySink,
    usage::{Body, Expr, Lineage, Output, Query, Select},
};
use lockgate_model::sql::{SqlClass, SqlEffect, SqlFacts};
use pg_query::{
    NodeEnum,
    protobuf::{self, DiscardMode, Node, TransactionStmtKind, VariableSetKind},
};
use std::sync::Arc;

/// Settings that change what later texts mean, or which checks and triggers run.
pub(super) const MEANING: [&str; 10] = [
    "search_path",
    "standard_conforming_strings",
    "client_encoding",
    "names",
    "backslash_quote",
    "session_replication_role",
    "row_security",
    "transform_null_equals",
    "xmloption",
    "local_preload_libraries",
];

/// What dispatch tells of one statement.
pub(super) struct Told {
    pub(super) kind: &'static str,
    pub(super) bounded: Option<bool>,
    pub(super) lineage: Lineage,
    pub(super) control: Control,
    pub(super) opaque: Option<String>,
}

impl Told {
    pub(super) fn new(kind: &'static str, lineage: Lineage) -> Self {
        Self { kind, bounded: None, lineage, control: Control::None, opaque: None }
    }

    fn opaque(kind: &'static str, why: String) -> Self {
        Self { opaque: Some(why), control: Control::Anything, ..Self::new(kind, Lineage::Unknown) }
    }

    fn control(kind: &'static str, control: Control) -> Self {
        Self { control, ..Self::new(kind, Lineage::Nothing) }
    }
}

impl Walk<'_> {
    pub(super) fn dispatch(&mut self, node: &NodeEnum) -> Told {
        let told = self.tell(node);
        self.note_makes(node);
        told
    }

    fn tell(&mut self, node: &NodeEnum) -> Told {
        match node {
            NodeEnum::SelectStmt(select) => self.top_select(select),
            NodeEnum::InsertStmt(_)
            | NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::MergeStmt(_) => match self.change(node) {
                Some((kind, bounded, change)) => {
                    Told { bounded, ..Told::new(kind, Lineage::Change(Box::new(change))) }
                }
                None => Told::opaque("opaque", "a data-modifying statement of an unknown kind".to_owned()),
            },
            NodeEnum::ExplainStmt(explain) => self.explain(explain),
            NodeEnum::CopyStmt(copy) => self.copy(copy),
            NodeEnum::PrepareStmt(prepare) => self.prepare(prepare),
            NodeEnum::ExecuteStmt(execute) => self.execute(execute),
            NodeEnum::DeallocateStmt(deallocate) => {
                self.raise(SqlClass::Session);
                let name = (!deallocate.isall).then(|| deallocate.name.clone());
                Told::control("deallocate", Control::Deallocate { name })
            }
            NodeEnum::DeclareCursorStmt(declare) => self.declare(declare),
            NodeEnum::FetchStmt(fetch) => self.fetch(fetch),
            NodeEnum::ClosePortalStmt(close) => {
                self.raise(SqlClass::Session);
                let name = Some(close.portalname.clone()).filter(|name| !name.is_empty());
                Told::control("close", Control::Close { name })
            }
            NodeEnum::TransactionStmt(transaction) => self.transaction(transaction),
            NodeEnum::ConstraintsSetStmt(_) => {
                self.raise(SqlClass::Transaction);
                Told::new("set_constraints", Lineage::Nothing)
            }
            NodeEnum::VariableSetStmt(set) => self.set(set),
            NodeEnum::VariableShowStmt(_) => Told::new("show", Lineage::Nothing),
            NodeEnum::DiscardStmt(discard) => {
                self.raise(SqlClass::Session);
                if discard.target == DiscardMode::DiscardAll as i32 {
                    self.effect(SqlEffect::ChangesMeaning);
                    Told::control("discard", Control::DiscardAll)
                } else {
                    Told::new("discard", Lineage::Nothing)
                }
            }
            NodeEnum::ListenStmt(_) => self.notification("listen"),
            NodeEnum::UnlistenStmt(_) => self.notification("unlisten"),
            NodeEnum::NotifyStmt(_) => self.notification("notify"),
            NodeEnum::LockStmt(lock) => {
                self.raise(SqlClass::Write);
                self.effect(SqlEffect::Locks);
                for relation in relations(&lock.relations) {
                    self.read(relation);
                }
                Told::new("lock", Lineage::Nothing)
            }
            NodeEnum::CallStmt(call) => {
                self.raise(SqlClass::Call);
                self.effect(SqlEffect::UnknownFunction);
                self.gathered.unknown_function = true;
                let arguments = call.funccall.as_ref().map(|call| {
                    let node = Node { node: Some(NodeEnum::FuncCall(call.clone())) };
                    self.expr(Some(&node))
                });
                let outputs = arguments.into_iter().map(|value| Output { name: None, value }).collect();
                Told {
                    control: Control::Anything,
                    ..Told::new("call", Lineage::Rows(Query::outputs(outputs)))
                }
            }
            NodeEnum::DoStmt(block) => {
                self.raise(SqlClass::Call);
                self.gathered.effects.extend([SqlEffect::DynamicSql, SqlEffect::UnknownFunction]);
                self.gathered.unknown_function = true;
                let foreign = !definition::readable(&definition::language(&block.args));
                if definition::untrusted(&definition::language(&block.args)) {
                    self.raise(SqlClass::Admin);
                    self.effect(SqlEffect::ServerFile);
                }
                let body = Some(definition::body(&block.args));
                Told {
                    control: Control::Anything,
                    ..Told::new("do", Lineage::Define { what: "a DO block", body, query: None, foreign })
                }
            }
            other => match self.define(other) {
                Some(told) => told,
                None => Told::opaque(
                    "opaque",
                    "a statement that this version of lockgate has no words for".to_owned(),
                ),
            },
        }
    }

    fn top_select(&mut self, select: &protobuf::SelectStmt) -> Told {
        let bounded = query::bounded(select);
        self.fixed_name = fixed_name(select);
        let query = self.query(select);
        if let Some(into) = &leftmost(select).into_clause {
            self.makes_plain(into.rel.as_ref());
            return Told::new("create_table", Lineage::Store(query));
        }
        if self.gathered.setting.is_some() && !only_sets(select) {
            // Whether it was called is the query's secret.
            self.gathered.setting = match self.gathered.setting.take() {
                Some(Control::Set { name, local, .. }) => {
                    Some(Control::Set { name, value: Setting::Unknown, local })
                }
                other => other,
            };
        }
        Told { bounded: Some(bounded), ..Told::new("select", Lineage::Rows(query)) }
    }

    fn explain(&mut self, explain: &protobuf::ExplainStmt) -> Told {
        let analyze = explain.options.iter().any(|option| match &option.node {
            Some(NodeEnum::DefElem(option)) => option.defname == "analyze" && switched_on(option),
            _ => false,
        });
        let Some(node) = inner(&explain.query) else {
            return Told::opaque("explain", "EXPLAIN of nothing".to_owned());
        };
        let outer = self.gathered.class;
        let told = self.dispatch(node);
        if told.opaque.is_some() {
            return told;
        }
        if analyze {
            // It runs: it is what it explains.
            let lineage = Lineage::Plan(Box::new(told.lineage));
            return Told {
                kind: if told.kind == "select" { "explain" } else { told.kind },
                bounded: told.bounded,
                control: only_settings(told.control),
                ..Told::new("explain", lineage)
            };
        }
        // It is planned and not run. Planning folds functions that call themselves immutable, so unknown ones still count.
        self.gathered.class =
            if self.gathered.computes_unknown { outer.stricter(SqlClass::Write) } else { outer };
        // What would run with it (triggers, a sequence) does not.
        let unknown = self.gathered.computes_unknown;
        self.gathered
            .effects
            .retain(|effect| unknown && matches!(effect, SqlEffect::UnknownFunction | SqlEffect::DynamicSql));
        let written = std::mem::take(&mut self.gathered.written);
        self.gathered.read.extend(written);
        self.gathered.verb = None;
        self.gathered.setting = None;
        self.gathered.makes = Makes::Nothing;
        Told::new("explain", Lineage::Plan(Box::new(told.lineage)))
    }

    fn copy(&mut self, copy: &protobuf::CopyStmt) -> Told {
        for name in &copy.attlist {
            self.gathered.columns.insert(string(name).to_owned());
        }
        let columns = super::strings(&copy.attlist);
        let sink = || CopySink::of(copy);
        let mut lineage = Lineage::Nothing;
        match (&copy.relation, inner(&copy.query)) {
            (Some(relation), _) if copy.is_from => {
                self.write(relation);
                self.raise(SqlClass::CopyIn);
                self.gathered.effects.extend([SqlEffect::Imports, SqlEffect::WritesRows]);
                // Its WHERE sees the rows that come in, not those of the table.
                self.expr(copy.where_clause.as_deref());
            }
            (Some(relation), _) => {
                let relation = self.read(relation);
                self.raise(SqlClass::CopyOut);
                self.effect(SqlEffect::Exports);
                lineage = Lineage::CopyOut { relation, columns, sink: sink() };
            }
            (None, Some(query)) => {
                self.raise(SqlClass::CopyOut);
                self.effect(SqlEffect::Exports);
                lineage = match query {
                    NodeEnum::SelectStmt(select) => {
                        let rows = Box::new(Lineage::Rows(self.query(select)));
                        Lineage::CopyQuery { rows, sink: sink() }
                    }
                    other => match self.change(other) {
                        Some((kind, bounded, change)) => {
                            self.verb(kind, bounded);
                            let rows = Box::new(Lineage::Change(Box::new(change)));
                            Lineage::CopyQuery { rows, sink: sink() }
                        }
                        None => Lineage::Unknown,
                    },
                };
            }
            (None, None) => return Told::opaque("copy", "COPY of nothing".to_owned()),
        }
        if copy.is_program || !copy.filename.is_empty() {
            self.raise(SqlClass::Admin);
            self.effect(SqlEffect::ServerFile);
        }
        Told::new("copy", lineage)
    }

    fn prepare(&mut self, prepare: &protobuf::PrepareStmt) -> Told {
        let Some(node) = inner(&prepare.query) else {
            return Told::opaque("prepare", "PREPARE of nothing".to_owned());
        };
        let told = self.dispatch(node);
        if let Some(why) = told.opaque {
            return Told::opaque("prepare", why);
        }
        let inner = self.inner_statement(node);
        // A rule against DELETE is one against preparing it: the server is not to see its text either.
        let (kind, bounded) = match inner.sql().class {
            SqlClass::Read => ("prepare", told.bounded),
            _ => (writing_kind(inner.sql()).unwrap_or("prepare"), inner.sql().bounded),
        };
        Told {
            bounded,
            control: Control::Prepare { name: prepare.name.clone(), inner },
            ..Told::new(kind, told.lineage)
        }
    }

    fn declare(&mut self, declare: &protobuf::DeclareCursorStmt) -> Told {
        let Some(node @ NodeEnum::SelectStmt(select)) = inner(&declare.query) else {
            return Told::opaque("declare", "a cursor over something that is not a query".to_owned());
        };
        let bounded = query::bounded(select);
        let query = self.query(select);
        let inner = self.inner_statement(node);
        Told {
            bounded: Some(bounded),
            control: Control::Declare { name: declare.portalname.clone(), inner },
            ..Told::new("declare", Lineage::Rows(query))
        }
    }

    /// What a name that is given here will stand for.
    fn inner_statement(&self, node: &NodeEnum) -> Arc<Statement> {
        let understood = Walk::statement(node, self.texts, self.state, self.catalogue, self.budget);
        Arc::new(Statement::of(understood, self.texts, self.state))
    }

    fn execute(&mut self, execute: &protobuf::ExecuteStmt) -> Told {
        let mut arguments = Expr::default();
        self.all(&execute.params, None, &mut arguments);
        let Some(prepared) = self.state.prepared(&execute.name).cloned() else {
            self.gathered.unknown_function = true;
            return Told {
                control: Control::Execute { name: execute.name.clone() },
                ..Told::opaque(
                    "execute",
                    "EXECUTE of a statement that this session is not known to have prepared".to_owned(),
                )
            };
        };
        if !prepared.holds_in(self.state) {
            self.gathered.unknown_function = true;
            return Told {
                control: Control::Execute { name: execute.name.clone() },
                ..Told::opaque(
                    "execute",
                    "EXECUTE of a statement that was prepared under another search_path; the server reads it anew".to_owned(),
                )
            };
        }
        let kind = self.as_if(&prepared);
        Told {
            kind: kind.unwrap_or("execute"),
            bounded: prepared.sql().bounded,
            control: match only_settings(prepared.control.clone()) {
                Control::None => Control::Execute { name: execute.name.clone() },
                sets => sets,
            },
            opaque: prepared.sql().opaque_reason.clone(),
            ..Told::new("execute", prepared.usage.lineage.clone())
        }
    }

    fn fetch(&mut self, fetch: &protobuf::FetchStmt) -> Told {
        let kind = if fetch.ismove { "move" } else { "fetch" };
        let mut control = Control::Fetch { name: fetch.portalname.clone() };
        match self.state.cursor(&fetch.portalname).cloned() {
            Some(cursor) => {
                self.as_if(&cursor);
                match only_settings(cursor.control.clone()) {
                    Control::None => {}
                    sets => control = sets,
                }
                let lineage = if fetch.ismove { Lineage::Nothing } else { cursor.usage.lineage.clone() };
                Told { control, opaque: cursor.sql().opaque_reason.clone(), ..Told::new(kind, lineage) }
            }
            // Somebody else's code may have opened it over a query that nobody judged.
            None if self.state.may_have_other_cursors() => Told {
                control,
                ..Told::opaque(kind, "a cursor that this session is not known to have opened".to_owned())
            },
            // There is none: the server will say so.
            None => Told { control, ..Told::new(kind, Lineage::Unknown) },
        }
    }

    /// Takes over the facts of a statement that runs by name.
    fn as_if(&mut self, other: &Statement) -> Option<&'static str> {
        let facts: &SqlFacts = other.sql();
        self.raise(facts.class);
        self.gathered.read.extend(facts.tables_read.iter().cloned());
        self.gathered.written.extend(facts.tables_written.iter().cloned());
        self.gathered.columns.extend(facts.columns.iter().cloned());
        self.gathered.functions.extend(facts.functions.iter().cloned());
        self.gathered.effects.extend(facts.effects.iter().copied());
        self.gathered.named.extend(other.usage.relations.iter().cloned());
        self.gathered.unknown_function |= other.usage.unknown_function;
        self.gathered.unsettles |= other.unsettles;
        self.gathered.calls.extend(other.usage.calls.iter().cloned());
        if facts.kind == "select" { Some("select") } else { writing_kind(facts) }
    }

    fn transaction(&mut self, transaction: &protobuf::TransactionStmt) -> Told {
        self.raise(SqlClass::Transaction);
        let chain = transaction.chain;
        let (kind, control) = match TransactionStmtKind::try_from(transaction.kind) {
            Ok(TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart) => {
                ("begin", Control::Begin)
            }
            Ok(TransactionStmtKind::TransStmtCommit) => ("commit", Control::Commit { chain }),
            Ok(TransactionStmtKind::TransStmtRollback) => ("rollback", Control::Rollback { chain }),
            Ok(TransactionStmtKind::TransStmtSavepoint) => ("savepoint", Control::Savepoint),
            Ok(TransactionStmtKind::TransStmtRelease) => ("release", Control::None),
            Ok(TransactionStmtKind::TransStmtRollbackTo) => ("rollback_to", Control::RollbackTo),
            Ok(TransactionStmtKind::TransStmtPrepare) => {
                ("prepare_transaction", Control::Commit { chain: false })
            }
            Ok(TransactionStmtKind::TransStmtCommitPrepared) => ("commit_prepared", Control::None),
            Ok(TransactionStmtKind::TransStmtRollbackPrepared) => ("rollback_prepared", Control::None),
            Ok(TransactionStmtKind::Undefined) | Err(_) => {
                return Told::opaque("transaction", "an unknown transaction statement".to_owned());
            }
        };
        Told::control(kind, control)
    }

    fn set(&mut self, set: &protobuf::VariableSetStmt) -> Told {
        let kind = VariableSetKind::try_from(set.kind);
        let name = set.name.to_ascii_lowercase();
        // SET TRANSACTION … and SET SESSION CHARACTERISTICS … come as several settings at once.
        if matches!(kind, Ok(VariableSetKind::VarSetMulti)) {
            self.raise(SqlClass::Transaction);
            return Told::new("set_transaction", Lineage::Nothing);
        }
        self.raise(SqlClass::Session);
        if matches!(kind, Ok(VariableSetKind::VarResetAll)) {
            self.effect(SqlEffect::ChangesMeaning);
            return Told::control("reset", Control::ResetAll);
        }
        if matches!(name.as_str(), "role" | "session_authorization") {
            self.effect(SqlEffect::SetsRole);
        }
        if MEANING.contains(&name.as_str()) {
            self.effect(SqlEffect::ChangesMeaning);
        }
        let (kind, value) = match kind {
            Ok(VariableSetKind::VarSetValue) => ("set", setting(&set.args)),
            Ok(VariableSetKind::VarSetDefault) => ("set", Setting::Default),
            Ok(VariableSetKind::VarReset) => ("reset", Setting::Default),
            Ok(_) | Err(_) => ("set", Setting::Unknown),
        };
        Told::control(kind, Control::Set { name, value, local: set.is_local })
    }

    fn notification(&mut self, kind: &'static str) -> Told {
        self.raise(SqlClass::Session);
        self.effect(SqlEffect::Notifies);
        Told::new(kind, Lineage::Nothing)
    }
}

/// The relations in a list of nodes.
pub(super) fn relations(nodes: &[Node]) -> impl Iterator<Item = &protobuf::RangeVar> {
    nodes.iter().filter_map(|node| match &node.node {
        Some(NodeEnum::RangeVar(relation)) => Some(relation),
        _ => None,
    })
}

/// INTO of a set operation hangs on its leftmost SELECT.
fn leftmost(select: &protobuf::SelectStmt) -> &protobuf::SelectStmt {
    let mut select = select;
    while let Some(left) = &select.larg {
        select = left;
    }
    select
}

/// A boolean option: on unless it says otherwise (defGetBoolean in define.c).
pub(super) fn switched_on(option: &protobuf::DefElem) -> bool {
    match option.arg.as_deref().and_then(super::expr::literal_or_number) {
        None => true,
        Some(value) => !matches!(value.to_ascii_lowercase().as_str(), "off" | "false" | "0"),
    }
}

/// The kind of a statement that changes rows, when it is run under another's name.
fn writing_kind(facts: &SqlFacts) -> Option<&'static str> {
    ["insert", "update", "delete", "merge"].into_iter().find(|kind| *kind == facts.kind)
}

fn setting(arguments: &[Node]) -> Setting {
    let values: Option<Vec<String>> = arguments.iter().map(super::expr::literal).collect();
    values.map_or(Setting::Unknown, Setting::Values)
}

/// Of what a statement does to the session, what remains when it runs inside another or by its name.
pub(super) fn only_settings(control: Control) -> Control {
    match control {
        Control::Set { .. } | Control::ResetAll | Control::DiscardAll | Control::Anything => control,
        _ => Control::None,
    }
}

/// `SELECT set_config(name, …) FROM pg_settings WHERE name = 'x'`: how pg_dump sets what not every server has. The condition
/// says which setting it is; whether it is set at all, the rows do.
fn fixed_name(select: &protobuf::SelectStmt) -> Option<String> {
    let [Node { node: Some(NodeEnum::RangeVar(relation)) }] = select.from_clause.as_slice() else {
        return None;
    };
    if relation.relname != "pg_settings" || relation.alias.is_some() || select.with_clause.is_some() {
        return None;
    }
    let NodeEnum::AExpr(condition) = inner(&select.where_clause)? else { return None };
    let is_equality = condition.kind == protobuf::AExprKind::AexprOp as i32
        && matches!(condition.name.as_slice(), [operator] if string(operator) == "=");
    let is_name = matches!(inner(&condition.lexpr), Some(NodeEnum::ColumnRef(column))
        if matches!(column.fields.as_slice(), [field] if string(field) == "name"));
    let value = condition.rexpr.as_deref().and_then(super::expr::literal)?;
    // Nothing but the call: a subquery has names of its own.
    let [Node { node: Some(NodeEnum::ResTarget(target)) }] = select.target_list.as_slice() else {
        return None;
    };
    let Some(NodeEnum::FuncCall(call)) = inner(&target.val) else { return None };
    let plain = call.args.iter().skip(1).all(|argument| super::expr::literal(argument).is_some())
        && call.agg_filter.is_none()
        && call.over.is_none();
    (is_equality && is_name && plain).then_some(value)
}

/// `SELECT set_config(…), …` and nothing around it: each call is made once.
fn only_sets(select: &protobuf::SelectStmt) -> bool {
    select.from_clause.is_empty()
        && select.where_clause.is_none()
        && select.group_clause.is_empty()
        && select.having_clause.is_none()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.with_clause.is_none()
        && select.larg.is_none()
        && select.values_lists.is_empty()
        && select.distinct_clause.is_empty()
        && select.target_list.iter().all(|target| match &target.node {
            Some(NodeEnum::ResTarget(target)) => match inner(&target.val) {
                Some(NodeEnum::FuncCall(call)) => {
                    call.args.iter().all(|argument| super::expr::literal(argument).is_some())
                        && call.agg_filter.is_none()
                        && call.over.is_none()
                }
                _ => false,
            },
            _ => false,
        })
}

impl Query {
    /// One row of these outputs.
    pub(in crate::sql) fn outputs(outputs: Vec<Output>) -> Self {
        Self {
            ctes: Vec::new(),
            body: Body::Select(Select { from: Vec::new(), outputs, places: Vec::new(), distinct: false }),
            places: Vec::new(),
        }
    }
}
