//! One judgement for texts that differ in literals only: many clients write their values into the text.
//!
//! [`Shape::of`] reads a text in one pass into a key in which plain integers and plain strings are marks, and gives up on
//! whatever it does not fully understand. [`Inspector::template`] then says of an inspected text which of its literals
//! cannot have changed the judgement: those that the grammar's tree shows compared with a column, nothing else. All others
//! are pinned: they must be the same. That is proven twice, by the literal's place and by inspecting the text again with
//! other values; what differs then is no template.
//!
//! It keeps nothing. A [`Template`] holds for the state and catalogue that its text was inspected under; whoever caches
//! it sees to that.

use super::{
    Control, Inspector, Script, SessionState, Statement,
    catalogue::CatalogueSnapshot,
    parse::{self, Reading},
    tree,
};
use lockgate_model::sql::SqlClass;
use pg_query::{
    NodeEnum,
    protobuf::{self, AExprKind, BoolExprType, Node, a_const::Val},
};
use std::{fmt::Write as _, ops::Range, sync::Arc};

/// Texts with more literals are values in bulk: parsing them is not what they cost.
const MAX_LITERALS: usize = 32;
/// Longer integers are of another type (int8, numeric), which operators are chosen by.
const MAX_DIGITS: usize = 9;
/// Operators that compare a column with a value and give a truth.
const COMPARISONS: [&str; 6] = ["=", "<>", "<", ">", "<=", ">="];

/// What a literal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Text,
}

impl Kind {
    /// Stands in the key for a literal; no text that is read holds this byte.
    fn mark(self) -> u8 {
        match self {
            Self::Integer => 1,
            Self::Text => 2,
        }
    }
}

/// One literal of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Literal {
    kind: Kind,
    /// Its bytes in the text, quotes included.
    at: Range<usize>,
}

/// A text without its literals.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    key: Vec<u8>,
    literals: Vec<Literal>,
}

impl Shape {
    /// Reads a text; false when it is not of the plain kind. What was read before is forgotten, its memory is kept.
    pub fn read(&mut self, text: &str) -> bool {
        self.key.clear();
        self.literals.clear();
        self.key.reserve(text.len());
        read(text.as_bytes(), self).is_some()
    }

    /// Equal for texts that differ only in literals. Which literals are equal to which is part of it: a judgement may
    /// see that two are the same.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Takes a literal over into the key: its kind, and which one it repeats.
    fn literal(&mut self, text: &[u8], kind: Kind, at: Range<usize>) -> Option<()> {
        if self.literals.len() >= MAX_LITERALS {
            return None;
        }
        let value = value(text, kind, &at)?;
        let repeats =
            |other: &Literal| other.kind == kind && self::value(text, kind, &other.at) == Some(value);
        let first = self.literals.iter().position(repeats).unwrap_or(self.literals.len());
        self.key.push(kind.mark());
        self.key.push(u8::try_from(first).ok()?);
        self.literals.push(Literal { kind, at });
        Some(())
    }
}

/// What a literal says: leading noughts do not count.
fn value<'a>(text: &'a [u8], kind: Kind, at: &Range<usize>) -> Option<&'a [u8]> {
    let written = text.get(at.clone())?;
    match kind {
        Kind::Text => Some(written),
        Kind::Integer => {
            let noughts = written.iter().take_while(|digit| **digit == b'0').count();
            written.get(noughts..)
        }
    }
}

fn read(text: &[u8], shape: &mut Shape) -> Option<()> {
    let mut at = 0;
    // The byte before: an identifier, a number or an operator may reach up to here.
    let mut before = b' ';
    let mut after_text = false;
    while let Some(&byte) = text.get(at) {
        let next = text.get(at + 1).copied().unwrap_or(b' ');
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let end = run(text, at, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
                shape.key.extend_from_slice(text.get(at..end)?);
                at = end;
                // A letter right behind a number, a dot behind which digits follow, `e'…'`: not read here.
                if matches!(text.get(at), Some(b'\'' | b'$' | 0x80..)) {
                    return None;
                }
                before = b'a';
                after_text = false;
                continue;
            }
            b'0'..=b'9' => {
                let end = run(text, at, |byte| byte.is_ascii_digit());
                let follows = text.get(end).copied().unwrap_or(b' ');
                let stands_alone = !matches!(before, b'a' | b'.' | b'"' | b'\'' | b'1')
                    && !matches!(follows, b'.' | b'_' | b'$' | b'\'' | b'"' | 0x80..)
                    && !follows.is_ascii_alphabetic();
                if !stands_alone || end - at > MAX_DIGITS {
                    return None;
                }
                shape.literal(text, Kind::Integer, at..end)?;
                at = end;
                before = b'1';
                after_text = false;
                continue;
            }
            b'\'' => {
                // E'', B'', U&'' and their like; and pieces of one string on several lines.
                if matches!(before, b'a' | b'1' | b'&' | b'"' | b'\'') || after_text {
                    return None;
                }
                let end = quoted(text, at)?;
                shape.literal(text, Kind::Text, at..end)?;
                at = end;
                before = b'\'';
                after_text = true;
                continue;
            }
            b'"' => {
                if matches!(before, b'a' | b'1' | b'&' | b'"' | b'\'') {
                    return None;
                }
                let end = quoted(text, at)?;
                shape.key.extend_from_slice(text.get(at..end)?);
                at = end;
                before = b'"';
                after_text = false;
                continue;
            }
            b' ' | b'\t' | b'\n' | b'\r' => {
                shape.key.push(byte);
                at += 1;
                before = b' ';
                continue;
            }
            b'-' if next == b'-' => return None,
            b'/' if next == b'*' => return None,
            b'(' | b')' | b',' | b';' | b'.' | b'=' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'%'
            | b'[' | b']' | b':' | b'!' | b'|' => {
                shape.key.push(byte);
                at += 1;
                before = byte;
                after_text = false;
                continue;
            }
            // A parameter, a backslash, an operator of somebody's own, another alphabet, a control character.
            _ => return None,
        }
    }
    Some(())
}

fn run(text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| belongs(**byte)).count()
}

/// The end of what is quoted with the byte at `from`; a doubled quote stands for itself. None without an end, and where
/// a backslash or a control character stands inside.
fn quoted(text: &[u8], from: usize) -> Option<usize> {
    let quote = *text.get(from)?;
    let mut at = from + 1;
    loop {
        match *text.get(at)? {
            byte if byte == quote => {
                if text.get(at + 1) != Some(&quote) {
                    return Some(at + 1);
                }
                at += 2;
            }
            b'\\' | 0..0x20 | 0x7f => return None,
            _ => at += 1,
        }
    }
}

/// A statement that stands for all texts of its shape whose pinned literals are the same.
#[derive(Clone, Debug)]
pub struct Template {
    statement: Arc<Statement>,
    /// Bytes of the text before and behind the statement.
    around: (usize, usize),
    /// Literals by number, as they must be written.
    pinned: Vec<(usize, Box<str>)>,
}

impl Template {
    /// The statement of this text, when this template stands for it. `shape` is the text's, and has the template's key.
    pub fn fill(&self, text: &str, shape: &Shape) -> Option<Arc<Statement>> {
        for (number, written) in &self.pinned {
            if text.get(shape.literals.get(*number)?.at.clone())? != &**written {
                return None;
            }
        }
        let (before, behind) = self.around;
        let exact = text.get(before..text.len().checked_sub(behind)?)?;
        Some(Arc::new(Statement { text: exact.into(), ..(*self.statement).clone() }))
    }

    /// Whether some literal may differ.
    pub fn is_open(&self, shape: &Shape) -> bool {
        self.pinned.len() < shape.literals.len()
    }
}

impl Inspector {
    /// The template of a text that was inspected to `script` under this state and catalogue; `shape` is the text's.
    pub fn template(
        &self,
        text: &str,
        shape: &Shape,
        script: &Script,
        state: &SessionState,
        catalogue: Option<&CatalogueSnapshot>,
    ) -> Option<Template> {
        let [statement] = script.statements.as_slice() else { return None };
        let reusable = matches!(statement.control, Control::None)
            && matches!(statement.class(), SqlClass::Read | SqlClass::Write);
        if !reusable || !state.client_encoding_utf8 {
            return None;
        }
        let before = text.find(&*statement.text)?;
        let around = (before, text.len() - before - statement.text.len());
        if shape
            .literals
            .iter()
            .any(|literal| literal.at.start < before || literal.at.end > text.len() - around.1)
        {
            return None;
        }
        let parsed = parse::parse(text, Reading::Standard).ok()?;
        let [one] = parsed.as_slice() else { return None };
        let compared = compared(&one.node)?;
        let free = |literal: &Literal| compared.contains(&literal.at.start);
        let pinned = shape.literals.iter().enumerate().filter(|(_, literal)| !free(literal));
        let pinned = pinned
            .map(|(number, literal)| Some((number, text.get(literal.at.clone())?.into())))
            .collect::<Option<Vec<_>>>()?;
        let template = Template { statement: statement.clone(), around, pinned };
        if template.is_open(shape) {
            for round in 0..2 {
                let other = varied(text, shape, &free, round)?;
                let judged = self.script(&other, state, catalogue);
                let [judged] = judged.statements.as_slice() else { return None };
                let same = judged.facts == statement.facts
                    && judged.usage == statement.usage
                    && judged.normalized == statement.normalized
                    && matches!(judged.control, Control::None);
                if !same {
                    return None;
                }
            }
        }
        Some(template)
    }
}

/// The text with other values for its free literals; those that are equal stay so, and no two others become so.
fn varied(text: &str, shape: &Shape, free: &dyn Fn(&Literal) -> bool, round: usize) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 16);
    let mut copied = 0;
    for literal in shape.literals.iter().filter(|literal| free(literal)) {
        let said = value(text.as_bytes(), literal.kind, &literal.at)?;
        let same = |other: &&Literal| {
            other.kind == literal.kind && value(text.as_bytes(), other.kind, &other.at) == Some(said)
        };
        let class = shape.literals.iter().position(|other| same(&other))?;
        out.push_str(text.get(copied..literal.at.start)?);
        match (literal.kind, round) {
            (Kind::Integer, 0) => write!(out, "{class}").ok()?,
            (Kind::Integer, _) => write!(out, "{}", 999_999_000 + class).ok()?,
            (Kind::Text, 0) => write!(out, "'{}'", "t".repeat(class)).ok()?,
            (Kind::Text, _) => write!(out, "'pg_catalog.x''{class}; --'").ok()?,
        }
        copied = literal.at.end;
    }
    out.push_str(text.get(copied..)?);
    Some(out)
}

/// Where the constants stand that are only ever compared with a column: their offsets in the text. None for statements
/// that are not a plain query or change.
fn compared(statement: &NodeEnum) -> Option<Vec<usize>> {
    match statement {
        NodeEnum::SelectStmt(_)
        | NodeEnum::InsertStmt(_)
        | NodeEnum::UpdateStmt(_)
        | NodeEnum::DeleteStmt(_) => {}
        _ => return None,
    }
    let mut offsets = Vec::new();
    tree::descend(statement, &mut |node| match node {
        NodeEnum::AExpr(expr) => {
            comparison(expr, &mut offsets);
            false
        }
        // Beside OR and NOT a condition can be a tautology for some values.
        NodeEnum::BoolExpr(expr) => BoolExprType::try_from(expr.boolop) == Ok(BoolExprType::AndExpr),
        NodeEnum::SelectStmt(_)
        | NodeEnum::JoinExpr(_)
        | NodeEnum::FromExpr(_)
        | NodeEnum::RangeSubselect(_)
        | NodeEnum::WithClause(_)
        | NodeEnum::CommonTableExpr(_)
        | NodeEnum::SubLink(_) => true,
        _ => false,
    });
    Some(offsets)
}

/// `column = constant`, `column IN (constants)`, `column BETWEEN constants`.
fn comparison(expr: &protobuf::AExpr, offsets: &mut Vec<usize>) {
    let inner = |node: &'_ Option<Box<Node>>| node.as_ref().and_then(|node| node.node.clone());
    let (left, right) = (inner(&expr.lexpr), inner(&expr.rexpr));
    let column = |node: &Option<NodeEnum>| matches!(node, Some(NodeEnum::ColumnRef(_)));
    let operator = match expr.name.as_slice() {
        [Node { node: Some(NodeEnum::String(name)) }] => name.sval.as_str(),
        _ => return,
    };
    match AExprKind::try_from(expr.kind) {
        Ok(AExprKind::AexprOp) if COMPARISONS.contains(&operator) => {
            if column(&left) {
                offsets.extend(constant(right.as_ref()));
            } else if column(&right) {
                offsets.extend(constant(left.as_ref()));
            }
        }
        Ok(AExprKind::AexprIn | AExprKind::AexprBetween | AExprKind::AexprNotBetween) if column(&left) => {
            if let Some(NodeEnum::List(list)) = right {
                offsets.extend(list.items.iter().filter_map(|item| constant(item.node.as_ref())));
            }
        }
        _ => {}
    }
}

/// Where a plain integer or string stands.
fn constant(node: Option<&NodeEnum>) -> Option<usize> {
    match node? {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            Val::Ival(_) | Val::Sval(_) => usize::try_from(constant.location).ok(),
            Val::Fval(_) | Val::Boolval(_) | Val::Bsval(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
#[path = "normal_tests.rs"]
mod tests;
