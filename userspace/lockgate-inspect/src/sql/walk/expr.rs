//! Expressions: which columns they name and in what role, which functions and operators they call.

use super::{Walk, inner, qualified, string, types, utility::MEANING};
use crate::sql::{
    Control, Setting, function,
    tree::{self, Child},
    usage::{Call, ColumnRef, Expr, Place, Shape, SubQuery, Use},
};
use lockgate_model::sql::{SqlClass, SqlEffect};
use pg_query::{
    NodeEnum,
    protobuf::{self, AExprKind, Node, SubLinkType, a_const::Val},
};

/// Columns that every table has (sysattr.h).
const SYSTEM_COLUMNS: [&str; 7] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "oid"];

/// What BETWEEN compares with.
const BETWEEN: [&str; 4] = ["<", "<=", ">", ">="];

impl Walk<'_> {
    /// An expression that stands by itself.
    pub(super) fn expr(&mut self, node: Option<&Node>) -> Expr {
        let mut out = Expr::default();
        let Some(node) = node.and_then(|node| node.node.as_ref()) else { return out };
        self.expr_into(node, None, &mut out);
        out.shape = match node {
            NodeEnum::ColumnRef(_) => match out.columns.as_slice() {
                [Use { column: ColumnRef { name: None, .. }, .. }] => Shape::Star,
                _ => Shape::Column,
            },
            NodeEnum::AConst(constant) => match &constant.val {
                Some(Val::Ival(value)) => usize::try_from(value.ival).map_or(Shape::Computed, Shape::Ordinal),
                _ => Shape::Computed,
            },
            NodeEnum::AIndirection(indirection) => {
                let last = indirection.indirection.last().and_then(|node| node.node.as_ref());
                if matches!(last, Some(NodeEnum::AStar(_))) { Shape::Spread } else { Shape::Computed }
            }
            _ => Shape::Computed,
        };
        out
    }

    /// Expressions that stand in one place.
    pub(super) fn places(&mut self, place: Place, nodes: &[Node], out: &mut Vec<(Place, Expr)>) {
        for node in nodes {
            match &node.node {
                Some(NodeEnum::SortBy(sort)) => {
                    let known = sort.use_op.is_empty() || self.operator(&sort.use_op);
                    let expr = self.expr(sort.node.as_deref());
                    out.push((if known { place } else { Place::UnknownFunction }, expr));
                }
                Some(NodeEnum::GroupingSet(set)) => self.places(place, &set.content, out),
                Some(NodeEnum::List(list)) => self.places(place, &list.items, out),
                Some(NodeEnum::WindowDef(window)) => self.window(window, out),
                Some(NodeEnum::RowExpr(row)) => self.places(place, &row.args, out),
                Some(_) => {
                    let expr = self.expr(Some(node));
                    out.push((place, expr));
                }
                None => {}
            }
        }
    }

    fn window(&mut self, window: &protobuf::WindowDef, out: &mut Vec<(Place, Expr)>) {
        self.places(Place::Window, &window.partition_clause, out);
        self.places(Place::Window, &window.order_clause, out);
        for offset in [&window.start_offset, &window.end_offset].into_iter().flatten() {
            let expr = self.expr(Some(offset));
            out.push((Place::Window, expr));
        }
    }

    pub(super) fn expr_into(&mut self, node: &NodeEnum, place: Option<Place>, out: &mut Expr) {
        self.beneath(node);
        match node {
            NodeEnum::ColumnRef(column) => self.column(column, place, out),
            NodeEnum::FuncCall(call) => self.call(call, place, out),
            NodeEnum::SubLink(link) => self.sub_link(link, place, out),
            NodeEnum::AExpr(expr) => self.operation(expr, place, out),
            NodeEnum::CaseExpr(case) => {
                if case.arg.is_some() {
                    self.implied(&["="]);
                }
                self.optional(&case.arg, place.or(Some(Place::Condition)), out);
                for when in case.args.iter().filter_map(|when| when.node.as_ref()) {
                    match when {
                        NodeEnum::CaseWhen(when) => {
                            self.optional(&when.expr, place.or(Some(Place::Condition)), out);
                            self.optional(&when.result, place, out);
                        }
                        other => self.expr_into(other, place, out),
                    }
                }
                self.optional(&case.defresult, place, out);
            }
            NodeEnum::TypeCast(cast) => {
                let mut place = place;
                if let Some(name) = &cast.type_name {
                    self.type_name(name, out);
                    let does = types::place(name, self.state.search_path.catalog_first());
                    if does == Some(Place::UnknownFunction) {
                        let call = types::cast_call(qualified(&name.names).1);
                        self.gathered.calls.insert(call.clone());
                        out.calls.push(Call { name: call, place });
                    }
                    place = place.or(does);
                }
                self.optional(&cast.arg, place, out);
            }
            NodeEnum::SortBy(sort) => {
                let known = sort.use_op.is_empty() || self.operator(&sort.use_op);
                self.optional(&sort.node, if known { place } else { Some(Place::UnknownFunction) }, out);
            }
            NodeEnum::AIndirection(indirection) => {
                // `(row).f` calls the function f where the row has no such column.
                for field in indirection.indirection.iter().map(string).filter(|name| !name.is_empty()) {
                    self.functional_notation(field, place, out);
                }
                self.below(node, place, out);
            }
            NodeEnum::CurrentOfExpr(_) | NodeEnum::AConst(_) | NodeEnum::ParamRef(_) => {}
            other => self.below(other, place, out),
        }
    }

    /// What a node may run without a word of it: casts between the types of its parts, and what compares their values.
    fn beneath(&mut self, node: &NodeEnum) {
        match node {
            NodeEnum::ColumnRef(_) | NodeEnum::AConst(_) | NodeEnum::ParamRef(_) => {}
            NodeEnum::FuncCall(_) | NodeEnum::MinMaxExpr(_) | NodeEnum::SubLink(_) => {
                self.sorts();
                self.converts();
            }
            NodeEnum::TypeCast(cast) => match inner(&cast.arg) {
                // A literal is read by its type's input function.
                Some(NodeEnum::AConst(constant)) if matches!(constant.val, Some(Val::Sval(_))) => {}
                _ => self.casts(),
            },
            _ => self.converts(),
        }
    }

    /// A node without words of its own: whatever hangs below it counts.
    fn below(&mut self, node: &NodeEnum, place: Option<Place>, out: &mut Expr) {
        for name in self.older_calls(node) {
            self.call_by_name(name, place, out);
        }
        let mut made = None;
        let catalog_first = self.state.search_path.catalog_first();
        tree::children(node, &mut |child| {
            if let Child::Type(name) = child {
                made = made.or(types::place(name, catalog_first));
            }
        });
        let place = place.or(made).or_else(|| (!types::is_total(node)).then_some(Place::Fallible));
        tree::children(node, &mut |child| self.child(child, place, out));
    }

    /// Constructs of newer servers that are calls of a function on this one: the grammar is PostgreSQL 18's. Left out are
    /// those with words in them that no call has, such as JSON_TABLE's COLUMNS: an older server refuses them.
    fn older_calls(&self, node: &NodeEnum) -> &'static [&'static str] {
        let (since, names): (u32, &[&str]) = match node {
            NodeEnum::JsonObjectConstructor(one) if one.exprs.is_empty() => (16, &["json_object"]),
            NodeEnum::JsonArrayConstructor(_) => (16, &["json_array"]),
            NodeEnum::JsonArrayAgg(_) => (16, &["json_arrayagg"]),
            NodeEnum::JsonParseExpr(_) => (17, &["json"]),
            NodeEnum::JsonScalarExpr(_) => (17, &["json_scalar"]),
            NodeEnum::JsonSerializeExpr(_) => (17, &["json_serialize"]),
            NodeEnum::JsonFuncExpr(_) => (17, &["json_exists", "json_query", "json_value"]),
            NodeEnum::MergeSupportFunc(_) => (17, &["merge_action"]),
            _ => return &[],
        };
        if function::major_of(self.state) < since { names } else { &[] }
    }

    /// A function that is called without being written as a call.
    fn call_by_name(&mut self, name: &str, place: Option<Place>, out: &mut Expr) {
        self.gathered.functions.insert(name.to_owned());
        match function::harmless(None, name, 1, self.state, self.catalogue) {
            Some(harmless) if !harmless.own => {}
            Some(_) => {
                self.gathered.calls.insert(name.to_owned());
                out.calls.push(Call { name: name.to_owned(), place });
            }
            None => {
                self.unknown_call(name, SqlClass::Write, &[SqlEffect::UnknownFunction]);
                out.calls.push(Call { name: name.to_owned(), place });
            }
        }
    }

    fn child(&mut self, child: Child<'_>, place: Option<Place>, out: &mut Expr) {
        match child {
            Child::Node(NodeEnum::SelectStmt(select)) => self.child(Child::Select(select), place, out),
            Child::Select(select) => {
                let query = self.query(select);
                out.queries.push(SubQuery { query, flows: true, place });
            }
            Child::Node(node) => self.expr_into(node, place, out),
            Child::Relation(relation) => {
                if !self.is_cte(relation) {
                    self.read(relation);
                }
            }
            Child::Type(name) => {
                self.casts();
                self.type_name(name, out);
            }
        }
    }

    fn optional(&mut self, node: &Option<Box<Node>>, place: Option<Place>, out: &mut Expr) {
        match inner(node) {
            Some(NodeEnum::SelectStmt(select)) => self.child(Child::Select(select), place, out),
            Some(node) => self.expr_into(node, place, out),
            None => {}
        }
    }

    pub(super) fn all(&mut self, nodes: &[Node], place: Option<Place>, out: &mut Expr) {
        for node in nodes.iter().filter_map(|node| node.node.as_ref()) {
            self.expr_into(node, place, out);
        }
    }

    fn column(&mut self, column: &protobuf::ColumnRef, place: Option<Place>, out: &mut Expr) {
        let star =
            matches!(column.fields.last().and_then(|node| node.node.as_ref()), Some(NodeEnum::AStar(_)));
        let mut parts: Vec<String> = column.fields.iter().map(|node| string(node).to_owned()).collect();
        let name = parts.pop().filter(|_| !star);
        self.note_column(&parts, name.as_deref());
        if let (Some(qualifier), Some(name)) = (parts.last(), &name)
            && self.is_functional_notation(qualifier, name)
        {
            self.functional_notation(name, place, out);
        }
        out.columns.push(Use { column: ColumnRef { qualifier: parts, name }, place });
    }

    /// What the facts say of a column: `table.column` where the text tells the table.
    fn note_column(&mut self, qualifier: &[String], name: Option<&str>) {
        let name = name.unwrap_or("*");
        let noted = match qualifier.last() {
            None => name.to_owned(),
            Some(alias) => {
                let relation = self.aliases.find(alias);
                match relation {
                    Some(Some(relation)) => format!("{}.{name}", relation.name),
                    Some(None) | None => format!("{alias}.{name}"),
                }
            }
        };
        self.gathered.columns.insert(noted);
    }

    /// `t.f` calls the function f of the row t where t has no such column (ParseFuncOrColumn in parse_func.c).
    fn is_functional_notation(&self, qualifier: &str, name: &str) -> bool {
        let Some(catalogue) = self.catalogue else { return false };
        if SYSTEM_COLUMNS.contains(&name) || !catalogue.has_user_function(name) {
            return false;
        }
        match self.aliases.find(qualifier) {
            Some(Some(relation)) => self
                .look_up(relation.schema.as_deref(), &relation.name)
                .candidates()
                .iter()
                .any(|found| found.column(name).is_none()),
            // Which columns a subquery has is not worked out here.
            Some(None) | None => true,
        }
    }

    /// A name after a dot that may be a function's.
    fn functional_notation(&mut self, name: &str, place: Option<Place>, out: &mut Expr) {
        let Some(catalogue) = self.catalogue else { return };
        match catalogue.routines_harmless(None, name, self.state) {
            None => return,
            Some(true) => {
                self.gathered.calls.insert(name.to_owned());
            }
            Some(false) => self.unknown_call(name, SqlClass::Write, &[SqlEffect::UnknownFunction]),
        }
        out.calls.push(Call { name: name.to_owned(), place });
    }

    fn call(&mut self, call: &protobuf::FuncCall, place: Option<Place>, out: &mut Expr) {
        let (schema, name) = match qualified(&call.funcname) {
            // The grammar makes a construct of it, which it is not on older servers.
            (Some("pg_catalog"), "json_object") if function::major_of(self.state) < 16 => {
                (None, "json_object")
            }
            name => name,
        };
        self.gathered.functions.insert(match schema {
            Some(schema) => format!("{schema}.{name}"),
            None => name.to_owned(),
        });
        let known = function::harmless(schema, name, call.args.len(), self.state, self.catalogue)
            .filter(|_| !function::READS_A_TYPE.contains(&name) || self.reads_a_builtin_type(call));
        let argument_place = match known.or_else(|| self.runs_reads(call)) {
            Some(harmless) if harmless.own => {
                // It changes nothing, but what it shows is its own affair.
                self.gathered.calls.insert(name.to_owned());
                out.calls.push(Call { name: name.to_owned(), place });
                place.or(Some(Place::UnknownFunction))
            }
            Some(harmless) => {
                // It shows what other statements hold: as good as a function that nobody knows.
                out.unknown_function |= harmless.values;
                let fails = !harmless.rows && !types::is_total_function(name);
                place.or(harmless.rows.then_some(Place::RowCount)).or(fails.then_some(Place::Fallible))
            }
            None => {
                let harm = function::harm(name);
                if function::returns_nothing_stored(schema, name, self.state, self.catalogue) {
                    self.raise(harm.class);
                    self.gathered.effects.extend(harm.effects);
                } else if name == "set_config" {
                    self.set_config(call);
                    out.calls.push(Call { name: name.to_owned(), place });
                } else {
                    self.unknown_call(name, harm.class, harm.effects);
                    out.calls.push(Call { name: name.to_owned(), place });
                }
                place.or(Some(Place::UnknownFunction))
            }
        };
        self.all(&call.args, argument_place, out);
        for order in call.agg_order.iter().filter_map(|node| node.node.as_ref()) {
            self.expr_into(order, place.or(Some(Place::OrderBy)), out);
        }
        self.optional(&call.agg_filter, place.or(Some(Place::Condition)), out);
        if let Some(over) = &call.over {
            let mut places = Vec::new();
            self.window(over, &mut places);
            for (inner_place, expr) in places {
                out.absorb(expr, place.unwrap_or(inner_place));
            }
        }
    }

    /// pg_input_is_valid('x', 'type') runs the type's input: its domain's checks, its maker's function.
    fn reads_a_builtin_type(&self, call: &protobuf::FuncCall) -> bool {
        let [_, wanted] = call.args.as_slice() else { return false };
        literal(wanted).is_some_and(|name| {
            types::is_builtin(&name)
                && self.catalogue.is_some_and(|catalogue| {
                    catalogue.types_harmless(None, &name, self.state).is_none() && !self.state.in_doubt(&name)
                })
        })
    }

    /// A function of the database's own that runs texts, and with these arguments none that does more than read.
    fn runs_reads(&mut self, call: &protobuf::FuncCall) -> Option<function::Harmless> {
        let ran = self.catalogue?.call_reads(call, self.state, self.budget)?;
        for statement in ran {
            let facts = statement.sql();
            self.gathered.read.extend(facts.tables_read.iter().cloned());
            self.gathered.named.extend(statement.usage.relations.iter().cloned());
            self.gathered.functions.extend(facts.functions.iter().cloned());
            self.gathered.calls.extend(statement.usage.calls.iter().cloned());
            self.gathered.columns.extend(facts.columns.iter().cloned());
            self.gathered.effects.extend(facts.effects.iter().copied());
        }
        Some(function::OWN)
    }

    /// set_config('name', 'value', is_local): a SET in a function's clothes. Whether it is called at all, and how often,
    /// lies in the query around it: its value counts as known only where it stands alone ([`Walk::only_sets`]).
    fn set_config(&mut self, call: &protobuf::FuncCall) {
        let mut arguments = call.args.iter().map(literal);
        let [name, value, local] = std::array::from_fn(|_| arguments.next().flatten());
        let name = name.or_else(|| match call.args.first().and_then(|name| name.node.as_ref()) {
            Some(NodeEnum::ColumnRef(column)) if matches!(column.fields.as_slice(), [field] if string(field) == "name") => {
                self.fixed_name.clone()
            }
            _ => None,
        });
        let name = name.map(|name| name.to_ascii_lowercase());
        self.raise(SqlClass::Write);
        self.effect(SqlEffect::UnknownFunction);
        self.gathered.calls.insert("set_config".to_owned());
        let sets = |names: &[&str]| name.as_deref().is_none_or(|name| names.contains(&name));
        if sets(&["role", "session_authorization"]) {
            self.effect(SqlEffect::SetsRole);
        }
        if sets(&MEANING) {
            self.effect(SqlEffect::ChangesMeaning);
        }
        let local = match local.as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some("on" | "true" | "t" | "yes" | "y" | "1") => Some(true),
            Some("off" | "false" | "f" | "no" | "n" | "0") => Some(false),
            _ => None,
        };
        self.gathered.setting = Some(match (&self.gathered.setting, name, local) {
            (None, Some(name), Some(local)) => Control::Set {
                name,
                value: value.map_or(Setting::Unknown, |value| Setting::Values(vec![value])),
                local,
            },
            // A second one, a computed name, or who knows for how long.
            (Some(_), _, _) | (None, None, _) | (None, Some(_), None) => Control::Anything,
        });
    }

    fn sub_link(&mut self, link: &protobuf::SubLink, place: Option<Place>, out: &mut Expr) {
        let known = match SubLinkType::try_from(link.sub_link_type) {
            // x IN (SELECT …)
            Ok(SubLinkType::AnySublink) if link.oper_name.is_empty() => self.implied(&["="]),
            _ => link.oper_name.is_empty() || self.operator(&link.oper_name),
        };
        if !known {
            let name = if link.oper_name.is_empty() { "=" } else { qualified(&link.oper_name).1 };
            out.calls.push(Call { name: name.to_owned(), place });
        }
        let place = if known { place } else { place.or(Some(Place::UnknownFunction)) };
        let kind = SubLinkType::try_from(link.sub_link_type);
        let compares = matches!(
            kind,
            Ok(SubLinkType::AnySublink | SubLinkType::AllSublink | SubLinkType::RowcompareSublink)
        );
        let place = if compares { place.or(Some(Place::Condition)) } else { place };
        self.optional(&link.testexpr, place, out);
        if let Some(NodeEnum::SelectStmt(select)) = inner(&link.subselect) {
            let query = self.query(select);
            // EXISTS asks whether there is a row; what is in it is not even computed.
            out.queries.push(SubQuery {
                query,
                flows: !matches!(kind, Ok(SubLinkType::ExistsSublink)),
                place,
            });
        } else {
            self.optional(&link.subselect, place, out);
        }
    }

    fn operation(&mut self, expr: &protobuf::AExpr, place: Option<Place>, out: &mut Expr) {
        let (_, name) = qualified(&expr.name);
        let (known, called): (bool, &[&str]) = match AExprKind::try_from(expr.kind) {
            // BETWEEN and the like carry a keyword in the place of the operator.
            Ok(
                AExprKind::AexprBetween
                | AExprKind::AexprNotBetween
                | AExprKind::AexprBetweenSym
                | AExprKind::AexprNotBetweenSym,
            ) => (self.implied(&BETWEEN), &BETWEEN),
            _ => (self.operator(&expr.name), &[name]),
        };
        if !known {
            out.calls.extend(called.iter().map(|name| Call { name: (*name).to_owned(), place }));
        }
        let place = if known { place } else { place.or(Some(Place::UnknownFunction)) };
        // A divisor of nought is an error, and so is a pattern that is none: whether there is one is an answer.
        let (left, right) = types::operands(name);
        self.optional(&expr.lexpr, place.or(left), out);
        self.optional(&expr.rexpr, place.or(right), out);
    }

    /// A cast to a type that is not the catalogue's runs its input function or a cast function of its maker.
    fn type_name(&mut self, name: &protobuf::TypeName, out: &mut Expr) {
        if !self.type_is_harmless(name) {
            self.computes_unknown();
        }
        if qualified(&name.names).0.is_some_and(|schema| !super::is_system(schema)) {
            self.gathered.unknown_function = true;
            out.unknown_function = true;
        }
        self.all(&name.typmods, None, out);
    }

    /// Whether making values of a type runs nothing but the server's own code, or what is known to be harmless.
    pub(super) fn type_is_harmless(&self, name: &protobuf::TypeName) -> bool {
        let (schema, base) = qualified(&name.names);
        let own = self.catalogue.and_then(|catalogue| catalogue.types_harmless(schema, base, self.state));
        match schema {
            Some(schema) if super::is_system(schema) => true,
            Some(_) => own == Some(true),
            // Types are looked for among the temporary ones first, then in the path.
            None if self.state.in_doubt(base) => false,
            None => match own {
                Some(own) => own,
                None => {
                    types::is_builtin(base)
                        && (self.state.search_path.catalog_first() || self.catalogue.is_some())
                }
            },
        }
    }
}

impl Expr {
    /// Takes over what another expression is made of, with a place for what has none.
    pub(in crate::sql) fn absorb(&mut self, other: Self, place: Place) {
        self.unknown_function |= other.unknown_function;
        self.calls.extend(other.calls.into_iter().map(|mut call| {
            call.place = call.place.or(Some(place));
            call
        }));
        self.columns.extend(other.columns.into_iter().map(|mut used| {
            used.place = used.place.or(Some(place));
            used
        }));
        self.queries.extend(other.queries.into_iter().map(|mut query| {
            query.place = query.place.or(Some(place));
            query
        }));
    }
}

/// An option's value: a constant, a bare word, or a number.
pub(super) fn literal_or_number(node: &Node) -> Option<String> {
    match node.node.as_ref()? {
        NodeEnum::Integer(value) => Some(value.ival.to_string()),
        NodeEnum::Float(value) => Some(value.fval.clone()),
        NodeEnum::Boolean(value) => Some(if value.boolval { "on" } else { "off" }.to_owned()),
        _ => literal(node),
    }
}

/// The text of a constant, through casts.
pub(super) fn literal(node: &Node) -> Option<String> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            Val::Sval(value) => Some(value.sval.clone()),
            Val::Ival(value) => Some(value.ival.to_string()),
            Val::Fval(value) => Some(value.fval.clone()),
            Val::Boolval(value) => Some(if value.boolval { "on" } else { "off" }.to_owned()),
            Val::Bsval(_) => None,
        },
        NodeEnum::TypeCast(cast) => literal(cast.arg.as_deref()?),
        NodeEnum::String(text) => Some(text.sval.clone()),
        _ => None,
    }
}
