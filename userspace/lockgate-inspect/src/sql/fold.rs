//! Which text a call makes EXECUTE run, where its arguments are constants.
//!
//! `SELECT rows_of('SELECT * FROM t')` is as harmless as the text in it, when all that the function does is to run it.
//! Expressions over constants and arguments are kept as [`Fold`] and worked out exactly as the server would: `||`,
//! `format`, `concat`, `coalesce`, `quote_ident`, `quote_literal`, `quote_nullable` and casts to text, the built-in ones
//! where no other function or operator has that name. Whatever else stands in an expression makes its text unknown, and
//! the call a write. The text is then inspected as a statement of its own, within a budget that all texts of one script
//! share.

use super::{
    Inspector, SearchPath, SessionState, Statement,
    catalogue::CatalogueSnapshot,
    function,
    parse::{self, Reading},
    routine::{Argument, Routine, longer, path_of},
};
use lockgate_model::sql::SqlClass;
use pg_query::{
    NodeEnum,
    protobuf::{self, AExprKind, KeywordKind, Node, a_const::Val},
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes of text that the calls of one script may have inspected, all together: some 25 ms.
const MAX_TEXTS_BYTES: usize = 256 * 1024;

/// What a call costs besides its text.
const CALL_BYTES: usize = 512;

/// The longest text that is worked out.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// How deep an expression may nest. People write one format() in another.
const MAX_DEPTH: usize = 24;

/// `text`, `character varying` (pg_type.dat).
const TEXT_TYPES: [u32; 2] = [25, 1043];
/// `bigint`, `smallint`, `integer`.
const INTEGER_TYPES: [u32; 3] = [20, 21, 23];

/// What is left of [`MAX_TEXTS_BYTES`]; made when the first call asks for it.
#[derive(Debug, Default)]
pub(super) struct Budget(OnceLock<Arc<AtomicUsize>>);

impl Budget {
    /// The budget of the script that a state belongs to: a new one, unless the script is itself such a text.
    pub(super) fn of(state: &SessionState) -> Self {
        match &state.texts_left {
            Some(left) => Self(OnceLock::from(left.clone())),
            None => Self::default(),
        }
    }

    fn left(&self) -> &Arc<AtomicUsize> {
        self.0.get_or_init(|| Arc::new(AtomicUsize::new(MAX_TEXTS_BYTES)))
    }

    fn spend(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left().fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// An expression that makes a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    /// A constant.
    Constant(Value),
    /// An argument of the function, by number from nought.
    Argument(usize),
    /// `a || b`.
    Joined(Box<Fold>, Box<Fold>),
    /// One of [`FUNCTIONS`].
    Call(Function, Vec<Fold>),
}

/// What an expression comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// NULL.
    Null,
    /// A text, or a number as text.
    Text(String),
    /// An integer that is not text yet.
    Integer(String),
}

impl Value {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Null => None,
            Self::Text(text) | Self::Integer(text) => Some(text),
        }
    }
}

/// Built-in functions that are worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Format,
    Concat,
    Coalesce,
    QuoteIdent,
    QuoteLiteral,
    QuoteNullable,
}

/// By name. COALESCE is a construct of the grammar.
const FUNCTIONS: [(&str, Function); 5] = [
    ("format", Function::Format),
    ("concat", Function::Concat),
    ("quote_ident", Function::QuoteIdent),
    ("quote_literal", Function::QuoteLiteral),
    ("quote_nullable", Function::QuoteNullable),
];

/// What the names of an expression stand for.
pub(super) struct Scope<'a> {
    pub(super) catalogue: &'a CatalogueSnapshot,
    pub(super) parameters: &'a [Argument],
    /// Of each: its value may be another one when the expression is computed.
    pub(super) changed: Vec<bool>,
}

impl Scope<'_> {
    /// An expression as it stands behind EXECUTE.
    pub(super) fn compile_text(&self, text: &str) -> Option<Fold> {
        let text = format!("SELECT {text}");
        let parsed = parse::parse(&text, Reading::Standard).ok()?;
        let [one] = parsed.as_slice() else { return None };
        let NodeEnum::SelectStmt(select) = &one.node else { return None };
        let [Node { node: Some(NodeEnum::ResTarget(target)) }] = select.target_list.as_slice() else {
            return None;
        };
        // Nothing but the one expression: no FROM, no second column, no clause.
        let bare = protobuf::SelectStmt {
            target_list: select.target_list.clone(),
            limit_option: select.limit_option,
            op: select.op,
            ..protobuf::SelectStmt::default()
        };
        if **select != bare || !target.name.is_empty() || !target.indirection.is_empty() {
            return None;
        }
        self.compile(target.val.as_deref()?, 0)
    }

    /// An expression; None for what is not worked out.
    fn compile(&self, node: &Node, depth: usize) -> Option<Fold> {
        if depth > MAX_DEPTH {
            return None;
        }
        let depth = depth + 1;
        match node.node.as_ref()? {
            NodeEnum::AConst(constant) if constant.isnull => Some(Fold::Constant(Value::Null)),
            NodeEnum::AConst(constant) => match constant.val.as_ref()? {
                Val::Sval(value) => Some(Fold::Constant(Value::Text(value.sval.clone()))),
                Val::Ival(value) => Some(Fold::Constant(Value::Integer(value.ival.to_string()))),
                Val::Fval(_) | Val::Boolval(_) | Val::Bsval(_) => None,
            },
            NodeEnum::ColumnRef(column) => {
                let [name] = column.fields.as_slice() else { return None };
                let Some(NodeEnum::String(name)) = &name.node else { return None };
                let mut named =
                    self.parameters.iter().enumerate().filter(|(_, parameter)| parameter.name == name.sval);
                match (named.next(), named.next()) {
                    (Some((index, _)), None) => self.argument(index),
                    _ => None,
                }
            }
            NodeEnum::ParamRef(parameter) => {
                self.argument(usize::try_from(parameter.number).ok()?.checked_sub(1)?)
            }
            NodeEnum::AExpr(expr) => self.joined(expr, depth),
            NodeEnum::TypeCast(cast) => {
                self.is_text(cast.type_name.as_ref()?).then(|| self.compile(cast.arg.as_deref()?, depth))?
            }
            NodeEnum::CoalesceExpr(coalesce) => {
                Some(Fold::Call(Function::Coalesce, self.all(&coalesce.args, depth)?))
            }
            NodeEnum::FuncCall(call) => self.call(call, depth),
            _ => None,
        }
    }

    fn all(&self, nodes: &[Node], depth: usize) -> Option<Vec<Fold>> {
        nodes.iter().map(|node| self.compile(node, depth)).collect()
    }

    fn argument(&self, index: usize) -> Option<Fold> {
        let steady = self.changed.get(index) == Some(&false);
        let parameter = self.parameters.get(index).filter(|_| steady)?;
        let known = TEXT_TYPES.contains(&parameter.type_oid) || INTEGER_TYPES.contains(&parameter.type_oid);
        (parameter.mode == 'i' && known).then_some(Fold::Argument(index))
    }

    fn joined(&self, expr: &protobuf::AExpr, depth: usize) -> Option<Fold> {
        let qualified = match parts(&expr.name)?.as_slice() {
            ["||"] => false,
            ["pg_catalog", "||"] => true,
            _ => return None,
        };
        if expr.kind != AExprKind::AexprOp as i32 || !qualified && self.catalogue.has_user_operator("||") {
            return None;
        }
        let left = self.compile(expr.lexpr.as_deref()?, depth)?;
        let right = self.compile(expr.rexpr.as_deref()?, depth)?;
        Some(Fold::Joined(Box::new(left), Box::new(right)))
    }

    /// `text` or `varchar` without a length, and no array of them.
    fn is_text(&self, name: &protobuf::TypeName) -> bool {
        let known = match parts(&name.names).as_deref() {
            Some(["pg_catalog", "text" | "varchar"]) => true,
            Some([base @ ("text" | "varchar")]) => {
                self.catalogue.types_harmless(None, base, &SessionState::default()).is_none()
            }
            _ => false,
        };
        known && name.typmods.is_empty() && name.array_bounds.is_empty() && !name.setof && !name.pct_type
    }

    fn call(&self, call: &protobuf::FuncCall, depth: usize) -> Option<Fold> {
        if !is_plain(call) {
            return None;
        }
        let name = match parts(&call.funcname)?.as_slice() {
            ["pg_catalog", name] => *name,
            [name] if !self.catalogue.has_user_function(name) => *name,
            _ => return None,
        };
        let function = FUNCTIONS.iter().find(|(known, _)| *known == name)?.1;
        Some(Fold::Call(function, self.all(&call.args, depth)?))
    }
}

/// A call with nothing but arguments.
fn is_plain(call: &protobuf::FuncCall) -> bool {
    call.agg_order.is_empty()
        && call.agg_filter.is_none()
        && call.over.is_none()
        && !call.agg_within_group
        && !call.agg_star
        && !call.agg_distinct
        && !call.func_variadic
}

fn parts(names: &[Node]) -> Option<Vec<&str>> {
    names
        .iter()
        .map(|node| match &node.node {
            Some(NodeEnum::String(text)) => Some(text.sval.as_str()),
            _ => None,
        })
        .collect()
}

impl Fold {
    /// What it comes to with these arguments; None when that is not known.
    pub(super) fn value(&self, arguments: &[Option<Value>]) -> Option<Value> {
        let value = match self {
            Self::Constant(value) => value.clone(),
            Self::Argument(index) => arguments.get(*index)?.clone()?,
            Self::Joined(left, right) => match (left.value(arguments)?, right.value(arguments)?) {
                // Of two integers there is no such operator.
                (Value::Integer(_), Value::Integer(_)) => return None,
                (left, right) => match (left.text(), right.text()) {
                    (Some(left), Some(right)) => Value::Text(format!("{left}{right}")),
                    _ => Value::Null,
                },
            },
            Self::Call(Function::Coalesce, all) => {
                // Those behind the first that is not NULL are not computed.
                let mut all = all.iter();
                loop {
                    match all.next().map(|one| one.value(arguments)) {
                        Some(Some(Value::Null)) => {}
                        Some(Some(value)) => break value,
                        Some(None) => return None,
                        None => break Value::Null,
                    }
                }
            }
            Self::Call(function, all) => {
                let all = all.iter().map(|one| one.value(arguments)).collect::<Option<Vec<_>>>()?;
                called(*function, &all)?
            }
        };
        value.text().is_none_or(|text| text.len() <= MAX_TEXT_BYTES).then_some(value)
    }
}

fn called(function: Function, all: &[Value]) -> Option<Value> {
    let one = || match all {
        [one] => Some(one.text()),
        _ => None,
    };
    let text = |text: Option<String>| text.map_or(Value::Null, Value::Text);
    match function {
        Function::Coalesce => None,
        Function::Concat => Some(Value::Text(all.iter().filter_map(Value::text).collect())),
        Function::QuoteIdent => Some(match one()? {
            Some(name) => Value::Text(identifier(name)?),
            None => Value::Null,
        }),
        Function::QuoteLiteral => Some(match one()? {
            Some(value) => text(Some(literal(value)?)),
            None => Value::Null,
        }),
        Function::QuoteNullable => Some(match one()? {
            Some(value) => text(Some(literal(value)?)),
            None => text(Some("NULL".to_owned())),
        }),
        Function::Format => match all.split_first()? {
            (Value::Null, _) => Some(Value::Null),
            (Value::Integer(_), _) => None,
            (Value::Text(pattern), rest) => Some(Value::Text(formatted(pattern, rest)?)),
        },
    }
}

/// format() (text_format in varlena.c): `%s`, `%I`, `%L`, `%%`, with or without a number. Widths are not worked out, nor
/// are numbered and unnumbered ones in one pattern.
fn formatted(pattern: &str, arguments: &[Value]) -> Option<String> {
    let mut out = String::with_capacity(pattern.len());
    let (mut next, mut numbered, mut counted) = (0, false, false);
    let mut rest = pattern;
    while let Some((before, behind)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(behind) = behind.strip_prefix('%') {
            out.push('%');
            rest = behind;
            continue;
        }
        let digits = behind.len() - behind.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, behind) = behind.split_at(digits);
        let (index, behind) = match (number, behind.strip_prefix('$')) {
            ("", None) => {
                counted = true;
                next += 1;
                (next - 1, behind)
            }
            (number, Some(behind)) => {
                numbered = true;
                (number.parse::<usize>().ok()?.checked_sub(1)?, behind)
            }
            (_, None) => return None,
        };
        let value = arguments.get(index)?.text();
        let mut behind = behind.chars();
        match (behind.next()?, value) {
            ('s', value) => out.push_str(value.unwrap_or_default()),
            ('I', Some(value)) => {
                // quote_all_identifiers adds quotes: where that could matter, the text is not known.
                let joins = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '"' | '&' | '\'');
                if out.ends_with(joins) || behind.as_str().starts_with(joins) {
                    return None;
                }
                out.push_str(&identifier(value)?);
            }
            ('L', Some(value)) => out.push_str(&literal(value)?),
            ('L', None) => out.push_str("NULL"),
            _ => return None,
        }
        if out.len() > MAX_TEXT_BYTES {
            return None;
        }
        rest = behind.as_str();
    }
    if numbered && counted {
        return None;
    }
    out.push_str(rest);
    Some(out)
}

/// quote_ident() (quote_identifier in ruleutils.c). Keywords differ from one version to the next, and so does whether they
/// are quoted: their text is not known.
fn identifier(name: &str) -> Option<String> {
    let safe = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !safe {
        return Some(format!("\"{}\"", name.replace('"', "\"\"")));
    }
    match parse::tokens(name).ok()?.as_slice() {
        [one] if one.keyword_kind == KeywordKind::NoKeyword as i32 => Some(name.to_owned()),
        _ => None,
    }
}

/// quote_literal() (quote.c). A backslash makes it an escape string; that is left alone.
fn literal(value: &str) -> Option<String> {
    (!value.contains('\\')).then(|| format!("'{}'", value.replace('\'', "''")))
}

impl CatalogueSnapshot {
    /// What a call of functions of the database's own has run, when each function of that name reads, or runs texts that
    /// do nothing but read; None otherwise.
    pub(super) fn call_reads(
        &self,
        call: &protobuf::FuncCall,
        state: &SessionState,
        budget: &Budget,
    ) -> Option<Vec<Arc<Statement>>> {
        let names = parts(&call.funcname)?;
        let (schema, name) = match names.as_slice() {
            [name] => (None, *name),
            [schema, name] => (Some(*schema), *name),
            _ => return None,
        };
        let plain = is_plain(call)
            && !state.in_doubt_at_all()
            && !super::walk::is_builtin_type(name)
            && !function::is_builtin_function(name)
            && !self.shadows_builtin(name)
            && self.types_harmless(schema, name, state).is_none();
        if !plain || !budget.spend(CALL_BYTES) {
            return None;
        }
        let mut ran = Vec::new();
        let mut any = false;
        for index in self.routines_named(schema, name) {
            any = true;
            if !self.routine(index, &state.trail) {
                ran.extend(self.texts_read(index, &call.args, state, budget)?);
            }
        }
        any.then_some(ran)
    }

    /// What one function runs when it is called with these arguments.
    fn texts_read(
        &self,
        index: usize,
        arguments: &[Node],
        state: &SessionState,
        budget: &Budget,
    ) -> Option<Vec<Arc<Statement>>> {
        let (routine, body) = self.runs_texts(index, &state.trail)?;
        let values = bound(self, routine, arguments)?;
        if routine.strict && values.contains(&Some(Value::Null)) {
            // It is not run at all.
            return Some(Vec::new());
        }
        let inner = within(routine, state, budget)?;
        let mut ran = Vec::new();
        for fold in &body.texts {
            match fold.value(&values)? {
                // EXECUTE of NULL is an error.
                Value::Null => {}
                Value::Integer(_) => return None,
                Value::Text(text) => {
                    if !budget.spend(text.len() + CALL_BYTES) {
                        return None;
                    }
                    let script = Inspector.script(&text, &inner, Some(self));
                    if script.class() != SqlClass::Read {
                        return None;
                    }
                    ran.extend(script.statements);
                }
            }
        }
        Some(ran)
    }
}

/// What the server lexes and looks up such a text under. The prepared statements and cursors of the session are left out:
/// what is judged here outlives them.
fn within(routine: &Routine, state: &SessionState, budget: &Budget) -> Option<SessionState> {
    let mut trail = longer(&state.trail, routine.oid)?;
    // It stands between: a function that is called in its own text is not the innermost of what is being judged.
    trail.push(0);
    let mut inner = SessionState::of_code(trail);
    inner.search_path = match path_of(&routine.settings)? {
        // Inside a view or another function the session's own path is not at hand; and `$user` is another one here.
        SearchPath::Unknown if state.trail.is_empty() && !routine.definer => state.search_path.clone(),
        SearchPath::Known(schemas) if routine.definer && schemas.iter().any(|schema| schema == "$user") => {
            SearchPath::Unknown
        }
        path => path,
    };
    // It may be run later, when the session reads backslashes otherwise: both readings have to come to the same.
    inner.standard_conforming_strings = None;
    inner.role.clone_from(&state.role);
    inner.server_major = state.server_major;
    inner.catalogue_missing = state.catalogue_missing;
    inner.texts_left = Some(budget.left().clone());
    Some(inner)
}

/// The values of a function's arguments in a call, by number; None when the call cannot be one of it.
fn bound(catalogue: &CatalogueSnapshot, routine: &Routine, arguments: &[Node]) -> Option<Vec<Option<Value>>> {
    let scope = Scope { catalogue, parameters: &[], changed: Vec::new() };
    let mut values: Vec<Option<Value>> = vec![None; routine.arguments.len()];
    let inputs: Vec<usize> = routine
        .arguments
        .iter()
        .enumerate()
        .filter(|(_, argument)| matches!(argument.mode, 'i' | 'b' | 'v'))
        .map(|(index, _)| index)
        .collect();
    if routine.arguments.iter().any(|argument| argument.mode == 'v') {
        return None;
    }
    let mut inputs = inputs.iter();
    for argument in arguments {
        let (index, node) = match argument.node.as_ref()? {
            NodeEnum::NamedArgExpr(named) => {
                let index = routine.arguments.iter().position(|one| one.name == named.name)?;
                (index, named.arg.as_deref()?)
            }
            _ => (*inputs.next()?, argument),
        };
        let parameter = routine.arguments.get(index)?;
        let value = scope.compile(node, 0).and_then(|fold| fold.value(&[]));
        // What would be converted on its way in is not known.
        let value = value.filter(|value| match value {
            Value::Null => true,
            Value::Text(_) => TEXT_TYPES.contains(&parameter.type_oid),
            Value::Integer(_) => INTEGER_TYPES.contains(&parameter.type_oid),
        });
        *values.get_mut(index)? = value;
    }
    Some(values)
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
