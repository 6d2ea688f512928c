//! Walks an expression and refuses what cannot be vouched for: the `cel` crate has no type checker
//! (`identity.repositry == 'x' || true` is true) and no cost limit (nested comprehensions run for seconds).

use super::{
    WhenProblem,
    paths::{self, PATHS, Path, PathType, ROOTS},
};
use crate::diagnostic::suggest;
use cel::{
    IdedExpr, Program,
    common::ast::{
        CallExpr, ComprehensionExpr, Expr, LiteralValue, SelectExpr, SourceInfo,
        operators::{
            ADD, CONDITIONAL, DIVIDE, EQUALS, GREATER, GREATER_EQUALS, IN, INDEX, LESS, LESS_EQUALS,
            LOGICAL_AND, LOGICAL_NOT, LOGICAL_OR, MODULO, MULTIPLY, NEGATE, NOT_EQUALS, NOT_STRICTLY_FALSE,
            SUBSTRACT,
        },
    },
};
use std::fmt;

/// Deeper is unreadable, and evaluation recurses on a session's stack: 45 KiB a level without optimisation. (A
/// flat chain of `&&` or `||` is balanced by the parser, and hardly deep.)
const MAX_DEPTH: usize = 16;
/// A literal list longer than this belongs into `match:`, which is indexed.
const MAX_LIST: usize = 100;
/// A compiled regular expression larger than this is a mistake or an attack.
const MAX_REGEX_BYTES: usize = 256 * 1024;

/// Words that may stand where an operator does not.
const FUNCTIONS: &[&str] = &[
    "all",
    "contains",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "has",
    "map",
    "matches",
    "size",
    "startsWith",
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    Bool,
    Int,
    Text,
    List(Box<Type>),
    Map,
    /// The element type of an empty list: fits anything.
    Any,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Text => f.write_str("string"),
            Self::List(element) => write!(f, "list of {element}"),
            Self::Map => f.write_str("map of strings"),
            Self::Any => f.write_str("anything"),
        }
    }
}

impl From<PathType> for Type {
    fn from(kind: PathType) -> Self {
        match kind {
            PathType::Text => Self::Text,
            PathType::Int => Self::Int,
            PathType::Bool => Self::Bool,
            PathType::Texts => Self::List(Box::new(Self::Text)),
            PathType::Map => Self::Map,
        }
    }
}

impl Type {
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::List(mine), Self::List(theirs)) => mine.fits(theirs),
            (mine, theirs) => mine == theirs,
        }
    }
}

/// Checks an expression; gives the facts it names.
pub(super) fn check(program: &Program, permits: bool) -> Result<Vec<&'static Path>, Vec<WhenProblem>> {
    let mut checker = Checker {
        info: program.source_info(),
        permits,
        paths: Vec::new(),
        problems: Vec::new(),
        scope: Vec::new(),
    };
    let root = program.expression();
    let kind = checker.expression(root, 0);
    if checker.problems.is_empty() && kind != Type::Bool {
        checker.problem(root, format!("the expression must be true or false, it is of type {kind}"), None);
    }
    if checker.problems.is_empty() { Ok(checker.paths) } else { Err(checker.problems) }
}

struct Checker<'a> {
    info: &'a SourceInfo,
    permits: bool,
    paths: Vec<&'static Path>,
    problems: Vec<WhenProblem>,
    /// Variables of the comprehension around us, if any; there is never a second one.
    scope: Vec<(String, Type)>,
}

impl Checker<'_> {
    fn problem(&mut self, at: &IdedExpr, message: impl Into<String>, help: Option<String>) -> Type {
        let offset = self.info.offset_for(at.id).map_or(0, |(start, _)| usize::try_from(start).unwrap_or(0));
        self.problems.push(WhenProblem { offset, message: message.into(), help });
        // One mistake is reported once.
        Type::Any
    }

    fn expression(&mut self, at: &IdedExpr, depth: usize) -> Type {
        if depth > MAX_DEPTH {
            return match self.problems.is_empty() {
                true => self.problem(at, format!("nested deeper than {MAX_DEPTH} levels"), None),
                false => Type::Any,
            };
        }
        let depth = depth + 1;
        match &at.expr {
            Expr::Literal(literal) => self.literal(at, literal),
            Expr::Ident(name) => self.identifier(at, name),
            Expr::Select(select) => self.select(at, select, depth),
            Expr::Call(call) => self.call(at, call, depth),
            Expr::List(list) => {
                if list.elements.len() > MAX_LIST {
                    let message = format!("a list of {} elements; at most {MAX_LIST}", list.elements.len());
                    return self.problem(at, message, Some("use `match:`".to_owned()));
                }
                let mut element = Type::Any;
                for item in &list.elements {
                    let kind = self.expression(item, depth);
                    if !element.fits(&kind) {
                        return self.problem(
                            item,
                            format!("a list of {element} with an element of type {kind}"),
                            None,
                        );
                    }
                    if element == Type::Any {
                        element = kind;
                    }
                }
                Type::List(Box::new(element))
            }
            Expr::Comprehension(comprehension) => self.comprehension(at, comprehension, depth),
            Expr::Map(_) => self.problem(at, "maps are not built in `when`", None),
            Expr::Struct(_) => self.problem(at, "messages are not built in `when`", None),
            Expr::Unspecified => self.problem(at, "not an expression", None),
        }
    }

    fn literal(&mut self, at: &IdedExpr, literal: &LiteralValue) -> Type {
        match literal {
            LiteralValue::Boolean(_) => Type::Bool,
            LiteralValue::Int(_) => Type::Int,
            LiteralValue::String(_) => Type::Text,
            LiteralValue::UInt(_) => {
                self.problem(at, "no fact is unsigned; write the number without `u`", None)
            }
            LiteralValue::Double(_) => self.problem(at, "no fact is a fraction; write a whole number", None),
            LiteralValue::Bytes(_) => self.problem(at, "no fact is made of bytes; write a string", None),
            LiteralValue::Null => {
                let help = Some("ask `has(identity.event_name)` whether a fact is known".to_owned());
                self.problem(at, "no fact is null", help)
            }
        }
    }

    fn identifier(&mut self, at: &IdedExpr, name: &str) -> Type {
        if let Some((_, kind)) = self.scope.iter().rev().find(|(variable, _)| variable == name) {
            return kind.clone();
        }
        if ROOTS.contains(&name) {
            let fields = PATHS.iter().filter(|path| path.root == name).map(|path| path.field);
            let help = Some(format!("its fields: {}", fields.collect::<Vec<_>>().join(", ")));
            return self.problem(at, format!("`{name}` needs a field (`{name}.…`)"), help);
        }
        self.problem(at, format!("`{name}` is not known here"), suggest(name, ROOTS.iter().copied()))
    }

    fn select(&mut self, at: &IdedExpr, select: &SelectExpr, depth: usize) -> Type {
        let field = select.field.as_str();
        let kind = match &select.operand.expr {
            Expr::Ident(root)
                if ROOTS.contains(&root.as_str()) && !self.scope.iter().any(|(name, _)| name == root) =>
            {
                match paths::path(root, field) {
                    Some(path) => self.path(at, path),
                    None => {
                        let fields = PATHS.iter().filter(|path| path.root == root).map(|path| path.field);
                        let fields: Vec<_> = fields.collect();
                        // The whole list helps here: it is the reference.
                        let help = suggest(field, fields.iter().copied())
                            .or_else(|| Some(format!("its fields: {}", fields.join(", "))));
                        self.problem(at, format!("`{root}` has no field `{field}`"), help)
                    }
                }
            }
            _ => match self.expression(&select.operand, depth) {
                Type::Map => Type::Text,
                Type::Any => Type::Any,
                other => self.problem(at, format!("a value of type {other} has no field `{field}`"), None),
            },
        };
        if select.test { Type::Bool } else { kind }
    }

    fn path(&mut self, at: &IdedExpr, path: &'static Path) -> Type {
        if path.job_writes && self.permits {
            let message =
                format!("`{}.{}` is written by the job, and cannot allow anything", path.root, path.field);
            return self.problem(at, message, Some("match on identity or target".to_owned()));
        }
        if !self.paths.iter().any(|known| std::ptr::eq(*known, path)) {
            self.paths.push(path);
        }
        path.kind.into()
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr, depth: usize) -> Type {
        let name = call.func_name.as_str();
        // Known functions only, before their arguments: the nearest right word is what helps.
        let operands: Vec<&IdedExpr> = call.target.iter().map(|target| &**target).chain(&call.args).collect();
        if !is_known(name) {
            let message = format!("unknown function `{name}`");
            return self.problem(at, message, suggest(name, FUNCTIONS.iter().copied()));
        }
        let kinds: Vec<Type> = operands.iter().map(|operand| self.expression(operand, depth)).collect();
        let text = |kind: &Type| kind.fits(&Type::Text);
        let int = |kind: &Type| kind.fits(&Type::Int);
        let bool = |kind: &Type| kind.fits(&Type::Bool);
        let result = match (name, kinds.as_slice()) {
            (LOGICAL_AND | LOGICAL_OR, all) if all.iter().all(bool) => Some(Type::Bool),
            (LOGICAL_NOT | NOT_STRICTLY_FALSE, [one]) if bool(one) => Some(Type::Bool),
            (CONDITIONAL, [test, yes, no]) if bool(test) && yes.fits(no) => Some(yes.clone()),
            (EQUALS | NOT_EQUALS, [left, right]) if left.fits(right) => Some(Type::Bool),
            (LESS | LESS_EQUALS | GREATER | GREATER_EQUALS, [left, right])
                if (int(left) && int(right)) || (text(left) && text(right)) =>
            {
                Some(Type::Bool)
            }
            (IN, [element, Type::List(of)]) if element.fits(of) => Some(Type::Bool),
            (IN, [key, Type::Map]) if text(key) => Some(Type::Bool),
            (IN, [_, Type::Any]) => Some(Type::Bool),
            (ADD | SUBSTRACT | MULTIPLY | DIVIDE | MODULO, [left, right]) if int(left) && int(right) => {
                Some(Type::Int)
            }
            (ADD, [left, right]) if text(left) && text(right) => Some(Type::Text),
            // Only what `map` and `filter` expand to: elsewhere it would build lists without a bound.
            (ADD, [Type::List(_), Type::List(of)]) if self.is_accumulator(operands.first()) => {
                Some(Type::List(of.clone()))
            }
            (NEGATE, [one]) if int(one) => Some(Type::Int),
            (INDEX, [Type::Map, key]) if text(key) => Some(Type::Text),
            (INDEX, [Type::List(of), index]) if int(index) => Some((**of).clone()),
            ("size", [Type::Text | Type::List(_) | Type::Map | Type::Any]) => Some(Type::Int),
            ("startsWith" | "endsWith" | "contains", [left, right])
                if call.target.is_some() && text(left) && text(right) =>
            {
                Some(Type::Bool)
            }
            ("matches", [left, right]) if text(left) && text(right) => {
                return self.regex(operands.get(1).copied().unwrap_or(at));
            }
            _ => None,
        };
        result.unwrap_or_else(|| {
            let kinds = kinds.iter().map(Type::to_string).collect::<Vec<_>>().join(" and ");
            self.problem(at, format!("{} does not go with {kinds}", spoken(name)), None)
        })
    }

    fn is_accumulator(&self, operand: Option<&&IdedExpr>) -> bool {
        matches!(operand.map(|operand| &operand.expr), Some(Expr::Ident(name)) if name.starts_with('@'))
    }

    /// Only a literal can be checked before it runs.
    fn regex(&mut self, at: &IdedExpr) -> Type {
        let Expr::Literal(LiteralValue::String(pattern)) = &at.expr else {
            return self.problem(at, "`matches` takes a literal regular expression", None);
        };
        match regex::RegexBuilder::new(pattern.inner()).size_limit(MAX_REGEX_BYTES).build() {
            Ok(_) => Type::Bool,
            Err(error) => {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.problem(at, format!("not a regular expression: {last}"), None)
            }
        }
    }

    fn comprehension(&mut self, at: &IdedExpr, inner: &ComprehensionExpr, depth: usize) -> Type {
        if !self.scope.is_empty() || holds_comprehension(&inner.iter_range) || inner.iter_var2.is_some() {
            let help = Some("split the rule, or use `match:`".to_owned());
            return self.problem(at, "a macro inside another macro is refused: its cost has no bound", help);
        }
        if ROOTS.contains(&inner.iter_var.as_str()) {
            return self.problem(at, format!("`{}` is taken; choose another variable", inner.iter_var), None);
        }
        let element = match self.expression(&inner.iter_range, depth) {
            Type::List(element) => *element,
            Type::Map => Type::Text,
            Type::Any => Type::Any,
            other => {
                return self.problem(
                    &inner.iter_range,
                    format!("a macro runs over lists, not {other}"),
                    None,
                );
            }
        };
        let accumulator = self.expression(&inner.accu_init, depth);
        self.scope = vec![(inner.iter_var.clone(), element), (inner.accu_var.clone(), accumulator)];
        let condition = self.expression(&inner.loop_cond, depth);
        let step = self.expression(&inner.loop_step, depth);
        let result = self.expression(&inner.result, depth);
        self.scope.clear();
        if !condition.fits(&Type::Bool) {
            return self.problem(at, "the macro's condition must be true or false", None);
        }
        // `map` begins with an empty list and learns its element type in the step.
        match (result, step) {
            (Type::List(_), Type::List(of)) => Type::List(of),
            (result, _) => result,
        }
    }
}

fn holds_comprehension(at: &IdedExpr) -> bool {
    match &at.expr {
        Expr::Comprehension(_) => true,
        Expr::Call(call) => {
            call.args.iter().any(holds_comprehension)
                || call.target.as_deref().is_some_and(holds_comprehension)
        }
        Expr::List(list) => list.elements.iter().any(holds_comprehension),
        Expr::Select(select) => holds_comprehension(&select.operand),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_) => false,
    }
}

fn is_known(name: &str) -> bool {
    matches!(name, "size" | "startsWith" | "endsWith" | "contains" | "matches")
        || [
            ADD,
            CONDITIONAL,
            DIVIDE,
            EQUALS,
            GREATER,
            GREATER_EQUALS,
            IN,
            INDEX,
            LESS,
            LESS_EQUALS,
            LOGICAL_AND,
            LOGICAL_NOT,
            LOGICAL_OR,
            MODULO,
            MULTIPLY,
            NEGATE,
            NOT_EQUALS,
            NOT_STRICTLY_FALSE,
            SUBSTRACT,
        ]
        .contains(&name)
}

/// `_==_` → `==`; functions stay.
fn spoken(name: &str) -> String {
    let word = match name {
        CONDITIONAL => "? :",
        IN => "in",
        INDEX => "[ ]",
        other => other.trim_matches('_'),
    };
    format!("`{word}`")
}
