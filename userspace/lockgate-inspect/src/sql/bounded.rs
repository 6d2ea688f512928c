//! Does a condition limit anything? `WHERE true`, `1 = 1`, `x = x` and every condition that names no column do not: they
//! let all rows through or none.

use pg_query::{
    NodeEnum,
    protobuf::{AExprKind, BoolExprType, Node, NullTestType, a_const::Val},
};

/// What a condition lets through, as far as its text tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    /// Every row, or all or nothing for reasons that are not in the row.
    All,
    /// No row.
    Nothing,
    /// It depends on the row.
    Some,
}

/// Whether a WHERE clause limits the rows.
pub(super) fn limits(condition: Option<&Node>) -> bool {
    condition.and_then(|node| node.node.as_ref()).is_some_and(|node| filter(node) != Filter::All)
}

/// Whether a LIMIT clause limits the rows: `LIMIT ALL` and `LIMIT NULL` do not.
pub(super) fn limit_counts(limit: Option<&Node>) -> bool {
    match limit.and_then(|node| node.node.as_ref()) {
        None => false,
        Some(NodeEnum::AConst(constant)) => !constant.isnull,
        Some(_) => true,
    }
}

fn filter(node: &NodeEnum) -> Filter {
    match node {
        NodeEnum::BoolExpr(expr) => {
            let arguments = || expr.args.iter().filter_map(|argument| argument.node.as_ref()).map(filter);
            match BoolExprType::try_from(expr.boolop) {
                Ok(BoolExprType::AndExpr) => arguments().fold(Filter::All, and),
                Ok(BoolExprType::OrExpr) => match complementary(&expr.args) {
                    true => Filter::All,
                    false => arguments().fold(Filter::Nothing, or),
                },
                Ok(BoolExprType::NotExpr) => match arguments().next() {
                    Some(Filter::Nothing) => Filter::All,
                    Some(Filter::All) => {
                        if constant_truth(node) == Some(false) {
                            Filter::Nothing
                        } else {
                            Filter::All
                        }
                    }
                    Some(Filter::Some) => Filter::Some,
                    None => Filter::All,
                },
                Ok(BoolExprType::Undefined) | Err(_) => Filter::All,
            }
        }
        NodeEnum::TypeCast(cast) => {
            cast.arg.as_ref().and_then(|arg| arg.node.as_ref()).map_or(Filter::All, filter)
        }
        NodeEnum::AExpr(_) if compares_itself(node) => Filter::All,
        NodeEnum::AExpr(_) if differs_from_itself(node) => Filter::Nothing,
        // No row is without its place and its versions.
        NodeEnum::NullTest(test) if is_system_column(&test.arg) => {
            if test.nulltesttype == NullTestType::IsNotNull as i32 { Filter::All } else { Filter::Nothing }
        }
        NodeEnum::NullTest(_) | NodeEnum::AExpr(_) | NodeEnum::AConst(_) if !names_a_column(node) => {
            match constant_truth(node) {
                Some(false) => Filter::Nothing,
                Some(true) | None => Filter::All,
            }
        }
        node if names_a_column(node) => Filter::Some,
        // The position of a cursor is a row.
        NodeEnum::CurrentOfExpr(_) => Filter::Some,
        _ => Filter::All,
    }
}

fn and(a: Filter, b: Filter) -> Filter {
    match (a, b) {
        (Filter::Nothing, _) | (_, Filter::Nothing) => Filter::Nothing,
        (Filter::Some, _) | (_, Filter::Some) => Filter::Some,
        (Filter::All, Filter::All) => Filter::All,
    }
}

fn or(a: Filter, b: Filter) -> Filter {
    match (a, b) {
        (Filter::All, _) | (_, Filter::All) => Filter::All,
        (Filter::Some, _) | (_, Filter::Some) => Filter::Some,
        (Filter::Nothing, Filter::Nothing) => Filter::Nothing,
    }
}

/// `x IS NULL OR x IS NOT NULL`, `x = 1 OR NOT x = 1`.
fn complementary(arguments: &[Node]) -> bool {
    let nodes: Vec<&NodeEnum> = arguments.iter().filter_map(|argument| argument.node.as_ref()).collect();
    // Quadratic, so bounded: long OR lists are lists of values, not tautologies.
    const MAX: usize = 16;
    nodes
        .iter()
        .take(MAX)
        .enumerate()
        .any(|(i, a)| nodes.iter().take(MAX).skip(i + 1).any(|b| negates(a, b) || negates(b, a)))
}

fn negates(a: &NodeEnum, b: &NodeEnum) -> bool {
    match (a, b) {
        (NodeEnum::NullTest(a), NodeEnum::NullTest(b)) => {
            a.nulltesttype != b.nulltesttype && shape(&a.arg) == shape(&b.arg)
        }
        (a, NodeEnum::BoolExpr(not)) if not.boolop == BoolExprType::NotExpr as i32 => not
            .args
            .first()
            .and_then(|argument| argument.node.as_ref())
            .is_some_and(|argument| same(a, argument)),
        (NodeEnum::AExpr(a), NodeEnum::AExpr(b)) => {
            matches!((operator(&a.name), operator(&b.name)), (Some("="), Some("<>" | "!=")))
                && shape(&a.lexpr) == shape(&b.lexpr)
                && shape(&a.rexpr) == shape(&b.rexpr)
        }
        _ => false,
    }
}

/// `x = x`, `x >= x`, `x IS NOT DISTINCT FROM x`, `x LIKE '%'`: true for every row but those with NULL.
fn compares_itself(node: &NodeEnum) -> bool {
    let NodeEnum::AExpr(expr) = node else { return false };
    let same_sides = expr.lexpr.is_some() && shape(&expr.lexpr) == shape(&expr.rexpr);
    match AExprKind::try_from(expr.kind) {
        Ok(AExprKind::AexprOp) => {
            same_sides && matches!(operator(&expr.name), Some("=" | "<=" | ">=" | "~~" | "@>" | "<@"))
        }
        Ok(AExprKind::AexprNotDistinct) => same_sides,
        Ok(AExprKind::AexprLike | AExprKind::AexprIlike) => {
            operator(&expr.name).is_some_and(|name| name.starts_with('~'))
                && text(&expr.rexpr)
                    .is_some_and(|pattern| !pattern.is_empty() && pattern.chars().all(|c| c == '%'))
        }
        Ok(AExprKind::AexprIn) => match expr.rexpr.as_ref().and_then(|node| node.node.as_ref()) {
            Some(NodeEnum::List(list)) => {
                operator(&expr.name) == Some("=")
                    && expr.lexpr.as_ref().and_then(|node| node.node.as_ref()).is_some_and(|left| {
                        list.items.iter().filter_map(|item| item.node.as_ref()).any(|item| same(left, item))
                    })
            }
            _ => false,
        },
        _ => false,
    }
}

/// `x <> x`, `x < x`: true for no row.
fn differs_from_itself(node: &NodeEnum) -> bool {
    let NodeEnum::AExpr(expr) = node else { return false };
    let differs = match AExprKind::try_from(expr.kind) {
        Ok(AExprKind::AexprOp) => matches!(operator(&expr.name), Some("<>" | "!=" | "<" | ">")),
        Ok(AExprKind::AexprDistinct) => true,
        _ => false,
    };
    differs && expr.lexpr.is_some() && shape(&expr.lexpr) == shape(&expr.rexpr)
}

/// ctid, xmin and the like (sysattr.h).
fn is_system_column(node: &Option<Box<Node>>) -> bool {
    const NAMES: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];
    match node.as_ref().and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::ColumnRef(column)) => match column.fields.last().and_then(|field| field.node.as_ref())
        {
            Some(NodeEnum::String(name)) => NAMES.contains(&name.sval.as_str()),
            _ => false,
        },
        _ => false,
    }
}

/// The value of a condition made of constants only, when it is simple enough to see.
fn constant_truth(node: &NodeEnum) -> Option<bool> {
    match node {
        NodeEnum::AConst(constant) if constant.isnull => Some(false),
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            Val::Boolval(value) => Some(value.boolval),
            Val::Sval(value) => match value.sval.to_ascii_lowercase().as_str() {
                "t" | "true" | "on" | "yes" | "1" => Some(true),
                "f" | "false" | "off" | "no" | "0" => Some(false),
                _ => None,
            },
            Val::Ival(_) | Val::Fval(_) | Val::Bsval(_) => None,
        },
        NodeEnum::TypeCast(cast) => constant_truth(cast.arg.as_ref()?.node.as_ref()?),
        NodeEnum::BoolExpr(expr) if expr.boolop == BoolExprType::NotExpr as i32 => {
            constant_truth(expr.args.first()?.node.as_ref()?).map(|value| !value)
        }
        NodeEnum::AExpr(expr) if expr.kind == AExprKind::AexprOp as i32 => {
            let (left, right) = (number(&expr.lexpr), number(&expr.rexpr));
            let order = match (left, right) {
                (Some(left), Some(right)) => left.cmp(&right),
                _ => text(&expr.lexpr)?.cmp(text(&expr.rexpr)?),
            };
            match operator(&expr.name)? {
                "=" => Some(order.is_eq()),
                "<>" | "!=" => Some(order.is_ne()),
                // How texts are ordered is the collation's affair.
                "<" if left.is_some() => Some(order.is_lt()),
                "<=" if left.is_some() => Some(order.is_le()),
                ">" if left.is_some() => Some(order.is_gt()),
                ">=" if left.is_some() => Some(order.is_ge()),
                _ => None,
            }
        }
        _ => None,
    }
}

fn names_a_column(node: &NodeEnum) -> bool {
    // A subquery that names a column of its own is a condition on data; who reads it can judge it no better than we.
    let mut found = matches!(node, NodeEnum::ColumnRef(_));
    super::tree::descend(node, &mut |node| {
        found |= matches!(node, NodeEnum::ColumnRef(_));
        !found
    });
    found
}

fn operator(name: &[Node]) -> Option<&str> {
    match name.last()?.node.as_ref()? {
        NodeEnum::String(text) => Some(&text.sval),
        _ => None,
    }
}

fn text(node: &Option<Box<Node>>) -> Option<&str> {
    match node.as_ref()?.node.as_ref()? {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            Val::Sval(value) => Some(&value.sval),
            Val::Ival(_) | Val::Fval(_) | Val::Boolval(_) | Val::Bsval(_) => None,
        },
        NodeEnum::TypeCast(cast) => text(&cast.arg),
        _ => None,
    }
}

fn number(node: &Option<Box<Node>>) -> Option<i64> {
    match node.as_ref()?.node.as_ref()? {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            Val::Ival(value) => Some(value.ival.into()),
            Val::Fval(_) | Val::Sval(_) | Val::Boolval(_) | Val::Bsval(_) => None,
        },
        NodeEnum::TypeCast(cast) => number(&cast.arg),
        _ => None,
    }
}

fn shape(node: &Option<Box<Node>>) -> Option<NodeEnum> {
    node.as_ref()?.node.clone().map(without_locations)
}

fn same(a: &NodeEnum, b: &NodeEnum) -> bool {
    without_locations(a.clone()) == without_locations(b.clone())
}

/// Compared are columns and simple expressions over them; for others equality by position in the text is never met, which
/// errs towards "it limits".
fn without_locations(node: NodeEnum) -> NodeEnum {
    match node {
        NodeEnum::ColumnRef(mut column) => {
            column.location = 0;
            NodeEnum::ColumnRef(column)
        }
        NodeEnum::AConst(mut constant) => {
            constant.location = 0;
            NodeEnum::AConst(constant)
        }
        NodeEnum::AExpr(mut expr) => {
            expr.location = 0;
            for side in [&mut expr.lexpr, &mut expr.rexpr] {
                if let Some(node) = side.as_mut().and_then(|side| side.node.take()) {
                    *side = Some(Box::new(Node { node: Some(without_locations(node)) }));
                }
            }
            NodeEnum::AExpr(expr)
        }
        NodeEnum::TypeCast(mut cast) => {
            cast.location = 0;
            if let Some(name) = &mut cast.type_name {
                name.location = 0;
            }
            if let Some(node) = cast.arg.as_mut().and_then(|arg| arg.node.take()) {
                cast.arg = Some(Box::new(Node { node: Some(without_locations(node)) }));
            }
            NodeEnum::TypeCast(cast)
        }
        other => other,
    }
}
