//! How deep a text can nest, and a stack that is deep enough.
//!
//! The grammar's trees are decoded, walked and dropped by recursion, and prost's own limit (100 messages, some fifty joins
//! or `||`) is switched off, so the bound is here: every level of a tree costs the text at least one token that can nest.
//! Counted are the most that can lie within each other: the open brackets, and in each of them what came since the last
//! comma. It only ever counts too many. What is shallow runs where it is; what is deeper gets a thread of its own with a
//! stack by its depth; what is deeper still is opaque.

use super::parse::{self, Opaque, Reading};
use pg_query::protobuf::Token;
use std::{cell::Cell, thread};

/// Levels that fit on any thread's stack.
pub(super) const SHALLOW: usize = 30;

/// Levels beyond which a text is opaque. People write some hundreds of `||` or UNION ALL; generators some thousands.
const DEEPEST: usize = 4_000;

/// Levels whose lineage is kept: it nests as its query does, and others walk it on their own stacks.
pub(super) const LINEAGE: usize = 400;

/// Stack for one level: six messages decoded, and as many calls of the walk. Measured: 3 KiB optimised, 24 KiB without.
const LEVEL_BYTES: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 16 * 1024 };

/// Stack for what does not nest.
const BASE_BYTES: usize = 2 * 1024 * 1024;

thread_local! {
    /// Levels that this thread's stack has room for.
    static ROOM: Cell<usize> = const { Cell::new(SHALLOW) };
}

/// Whether this thread may decode a tree that is so deep.
pub(super) fn has_room(levels: usize) -> bool {
    levels <= ROOM.get()
}

/// Does the work where there is room for it: here, or on a thread of its own.
///
/// # Errors
/// When the text is too deep for any, or no thread can be had.
pub(super) fn with_room<T: Send>(levels: usize, work: impl FnOnce() -> T + Send) -> Result<T, Opaque> {
    if has_room(levels) {
        return Ok(work());
    }
    if levels > DEEPEST {
        return Err(format!("it nests deeper than {DEEPEST} levels"));
    }
    let no_stack = |_| "no stack could be had for its depth".to_owned();
    thread::scope(|scope| {
        let deep = move || {
            ROOM.set(levels);
            work()
        };
        let thread = thread::Builder::new()
            .name("deep statement".to_owned())
            .stack_size(BASE_BYTES + levels * LEVEL_BYTES)
            .spawn_scoped(scope, deep)
            .map_err(|_| "no stack could be had for its depth".to_owned())?;
        thread.join().map_err(no_stack)
    })
}

/// How many levels a text can have at most.
pub(super) fn levels(text: &str, reading: Reading) -> usize {
    let rough = rough(text);
    if rough <= SHALLOW || parse::is_slow_to_scan(text) {
        return rough;
    }
    // The scanner knows strings and comments from code, under one reading of backslashes.
    if reading == Reading::Escapes && text.contains('\\') {
        return rough;
    }
    exact(text).unwrap_or(rough)
}

/// Counts every word and operator, in strings and comments too.
fn rough(text: &str) -> usize {
    let mut count = Count::default();
    let mut last = Kind::Blank;
    for byte in text.bytes() {
        let kind = match byte {
            b'(' | b'[' => Kind::Open,
            b')' | b']' => Kind::Close,
            b',' => Kind::Comma,
            b';' => Kind::End,
            b'_' | b'$' | b'"' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => Kind::Word,
            b'.' | b'\'' | b' ' | b'\t' | b'\n' | b'\r' => Kind::Blank,
            _ => Kind::Operator,
        };
        match kind {
            Kind::Word if last != Kind::Word => count.nest(false),
            Kind::Operator => count.nest(false),
            Kind::Open => count.open(),
            // A string may hold a closing bracket or a comma: neither takes anything back here.
            Kind::Word | Kind::Blank | Kind::Close | Kind::Comma | Kind::End => {}
        }
        last = kind;
    }
    count.most
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blank,
    Word,
    Operator,
    Open,
    Close,
    Comma,
    End,
}

/// Counts tokens that can nest.
fn exact(text: &str) -> Option<usize> {
    let mut count = Count::default();
    for token in parse::tokens(text).ok()? {
        match Token::try_from(token.token).ok()? {
            Token::Ascii40 | Token::Ascii91 => count.open(),
            Token::Ascii41 | Token::Ascii93 => count.close(),
            Token::Ascii44 => count.comma(),
            Token::Ascii59 => count.end(),
            Token::Ident
            | Token::Uident
            | Token::Fconst
            | Token::Sconst
            | Token::Usconst
            | Token::Bconst
            | Token::Xconst
            | Token::Iconst
            | Token::Param
            | Token::Ascii46
            | Token::SqlComment
            | Token::CComment => {}
            // Chains of these are lists in the tree (makeAndExpr in gram.y); what is within one has no part in the next.
            // So are the branches of a CASE, which counts by itself.
            Token::And | Token::Or | Token::When | Token::Then | Token::Else => count.comma(),
            // Within these there can be commas, AND and OR.
            Token::Union
            | Token::Intersect
            | Token::Except
            | Token::Join
            | Token::With
            | Token::Case
            | Token::Explain => {
                count.nest(true);
            }
            Token::EndP => count.ended(),
            _ => count.nest(false),
        }
    }
    Some(count.most)
}

/// What is open at one place of a text.
#[derive(Default)]
struct Count {
    /// Outermost first: what came since the last comma, and what no comma ends.
    open: Vec<(usize, usize)>,
    here: (usize, usize),
    /// Of all that is open but this level.
    below: usize,
    most: usize,
}

impl Count {
    fn nest(&mut self, lasts: bool) {
        match lasts {
            true => self.here.1 += 1,
            false => self.here.0 += 1,
        }
        self.note();
    }

    fn open(&mut self) {
        self.below += 1 + self.here.0 + self.here.1;
        self.open.push(std::mem::take(&mut self.here));
        self.note();
    }

    fn close(&mut self) {
        if let Some(outer) = self.open.pop() {
            self.below -= 1 + outer.0 + outer.1;
            self.here = outer;
        }
    }

    fn comma(&mut self) {
        self.here.0 = 0;
    }

    /// A CASE is over.
    fn ended(&mut self) {
        self.here.1 = self.here.1.saturating_sub(1);
    }

    fn end(&mut self) {
        // Inside brackets it separates the actions of a rule.
        if self.open.is_empty() {
            self.here = (0, 0);
        }
    }

    fn note(&mut self) {
        self.most = self.most.max(self.below + self.here.0 + self.here.1);
    }
}
