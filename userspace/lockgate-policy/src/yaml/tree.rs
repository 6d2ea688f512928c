//! From YAML text to a bounded tree of positioned nodes.

use super::{MAX_BYTES, MAX_DEPTH, MAX_NODES, Position, Problem};
use granit_parser::{Event, Parser, ScalarStyle, Span, Tag, options};
use std::{collections::HashMap, rc::Rc};

/// One node and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) kind: Kind,
    /// Nodes in it, itself included, aliases counted as often as they are used.
    weight: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// `plain`: neither quoted, a block, nor tagged `!!str`; its text may mean a number, a boolean or null.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<(Key, Rc<Node>)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) text: String,
}

impl Node {
    /// `null`, `~`, or nothing at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }
}

/// Reads the one document of `text`.
pub(super) fn read(text: &str) -> Result<Rc<Node>, Problem> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(Problem::new(None, message, None));
    }
    let options = options! {
        emit_comments: false,
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let at = Position {
                line: u64::try_from(error.marker().line()).unwrap_or(u64::MAX),
                column: u64::try_from(error.marker().col()).unwrap_or(u64::MAX).saturating_add(1),
            };
            Problem::new(Some(at), format!("this is not YAML: {}", error.info().trim()), None)
        })?;
        builder.event(event, span)?;
    }
    builder.root.ok_or_else(|| Problem::new(None, "the file is empty; a document was expected", None))
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
}

/// A collection whose end has not been seen.
struct Open {
    at: Position,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    Sequence(Vec<Rc<Node>>),
    Mapping { entries: Vec<(Key, Rc<Node>)>, key: Option<Key> },
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let at = position(&span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !is_str(tag.as_deref(), at)?;
                let kind = Kind::Scalar { text: text.into_owned(), plain };
                self.finish(Node { at, kind, weight: 1 }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                is_str(tag.as_deref(), at)?;
                self.begin(at, anchor, OpenKind::Sequence(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                is_str(tag.as_deref(), at)?;
                self.begin(at, anchor, OpenKind::Mapping { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Problem::new(Some(at), "an alias inside its own anchor has no end", None));
                };
                self.place(node)
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                let help = Some("put the second one into a file of its own".to_owned());
                Err(Problem::new(Some(at), "one document a file is read, here begins a second", help))
            }
            // Stream and document marks, comments: nothing to keep.
            _ => Ok(()),
        }
    }

    fn begin(&mut self, at: Position, anchor: usize, kind: OpenKind) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::new(Some(at), format!("nested deeper than {MAX_DEPTH} levels"), None));
        }
        self.open.push(Open { at, anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(Open { at, anchor, kind }) = self.open.pop() else {
            return Err(Problem::new(None, "the YAML reader ended a collection it never began", None));
        };
        let (kind, inside) = match kind {
            OpenKind::Sequence(items) => {
                let inside = items.iter().map(|node| node.weight).sum::<usize>();
                (Kind::Sequence(items), inside)
            }
            OpenKind::Mapping { entries, .. } => {
                let inside = entries.iter().map(|(_, node)| node.weight.saturating_add(1)).sum::<usize>();
                (Kind::Mapping(entries), inside)
            }
        };
        self.finish(Node { at, kind, weight: inside.saturating_add(1) }, anchor)
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    /// Puts a finished node where the innermost open collection expects one.
    fn place(&mut self, node: Rc<Node>) -> Result<(), Problem> {
        // Text is bounded by its bytes; only aliases can make a node weigh more than it is long.
        let (at, weight) = (node.at, node.weight);
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::Sequence(items)) => items.push(node),
            Some(OpenKind::Mapping { entries, key }) => match key.take() {
                None => *key = Some(as_key(&node, entries)?),
                Some(key) => entries.push((key, node)),
            },
        }
        if weight > MAX_NODES {
            let message = format!("more than {MAX_NODES} nodes, aliases counted each time they are used");
            return Err(Problem::new(Some(at), message, None));
        }
        Ok(())
    }
}

fn as_key(node: &Node, entries: &[(Key, Rc<Node>)]) -> Result<Key, Problem> {
    let Kind::Scalar { text, plain } = &node.kind else {
        return Err(Problem::new(Some(node.at), "a key must be a word, got a collection", None));
    };
    if *plain && text == "<<" {
        let help = Some("write the keys out".to_owned());
        return Err(Problem::new(Some(node.at), "merge keys (`<<`) are not read", help));
    }
    if let Some((first, _)) = entries.iter().find(|(key, _)| key.text == *text) {
        let message = format!("`{text}` stands here a second time, the first is on line {}", first.at.line);
        return Err(Problem::new(Some(node.at), message, Some("keep one of them".to_owned())));
    }
    Ok(Key { at: node.at, text: text.clone() })
}

/// True for `!!str`; an error for a tag that would change the meaning in a way not read here.
fn is_str(tag: Option<&Tag>, at: Position) -> Result<bool, Problem> {
    match tag.map(|tag| (tag, tag.core_suffix())) {
        None => Ok(false),
        Some((_, Some("str"))) => Ok(true),
        Some((_, Some("map" | "seq"))) => Ok(false),
        Some((tag, _)) => {
            let help = Some("remove it".to_owned());
            Err(Problem::new(Some(at), format!("the tag `{}` is not read", tag.original()), help))
        }
    }
}

fn position(span: &Span) -> Position {
    Position {
        line: u64::try_from(span.start.line()).unwrap_or(u64::MAX),
        column: u64::try_from(span.start.col()).unwrap_or(u64::MAX).saturating_add(1),
    }
}
