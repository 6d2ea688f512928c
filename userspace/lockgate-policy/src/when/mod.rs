//! `when:` — CEL behind an interface small enough to replace the crate.
//!
//! [`compile_all`] parses on a thread with a large stack, walks each expression against the published
//! [`paths`] and refuses whatever it cannot vouch for; [`When::holds`] evaluates one with just the facts it
//! names. A fact that is not known is absent: naming it fails, `has()` asks for it. What a failure means is the
//! rule's business.

mod check;
pub mod paths;

use cel::{
    Context, Env, Program, Value,
    common::{
        types::{CelBool, CelInt, CelList, CelMap, CelMapKey, CelString},
        value::Val,
    },
};
use paths::{Asked, Datum, Path};
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
    thread,
};

/// Longer expressions are not reviewed by anybody; put more into `match:` or several rules.
const MAX_LENGTH: usize = 2048;
/// The parser and the tree walk recurse; measured to hold 96 levels with room to spare.
const COMPILE_STACK: usize = 16 * 1024 * 1024;

/// Functions and macros of the standard environment; made once, it has hundreds of entries.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression that yields a boolean.
#[derive(Debug)]
pub(crate) struct When {
    program: Program,
    paths: Vec<&'static Path>,
    text: String,
}

/// What is wrong with an expression, and where in its text (a character offset).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WhenProblem {
    pub(crate) offset: usize,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// The roots an expression names, each a map of the facts it names there.
type Roots<'a> = Vec<(&'static str, Box<dyn Val + 'a>)>;

/// An expression to compile.
pub(crate) struct WhenSource {
    pub(crate) text: String,
    /// In an allow rule: what the job writes itself may not be named.
    pub(crate) permits: bool,
}

/// Compiles expressions, in order.
pub(crate) fn compile_all(sources: Vec<WhenSource>) -> Vec<Result<When, Vec<WhenProblem>>> {
    if sources.is_empty() {
        return Vec::new();
    }
    let count = sources.len();
    // The one thread of a pure crate: deep text aborts the process on a small stack, and nobody else can say
    // on which stack a policy is loaded. It is joined here and shares nothing.
    let worker = thread::Builder::new()
        .name("lockgate-cel-compile".to_owned())
        .stack_size(COMPILE_STACK)
        .spawn(move || sources.into_iter().map(compile).collect::<Vec<_>>());
    let outcome = match worker.map(thread::JoinHandle::join) {
        Ok(Ok(compiled)) => return compiled,
        Ok(Err(_)) => "the expression cannot be compiled: the CEL parser gave up".to_owned(),
        Err(error) => format!("the expression cannot be compiled: no thread with a large stack: {error}"),
    };
    (0..count).map(|_| Err(vec![WhenProblem { offset: 0, message: outcome.clone(), help: None }])).collect()
}

fn compile(source: WhenSource) -> Result<When, Vec<WhenProblem>> {
    let WhenSource { text, permits } = source;
    if text.len() > MAX_LENGTH {
        let message = format!("the expression has {} bytes; at most {MAX_LENGTH} are read", text.len());
        let help = Some("move parts into `match:` or split the rule".to_owned());
        return Err(vec![WhenProblem { offset: 0, message, help }]);
    }
    let parsed = catch_unwind(AssertUnwindSafe(|| ENVIRONMENT.compile(&text)));
    let program = match parsed {
        Ok(Ok(program)) => program,
        Ok(Err(errors)) => {
            return Err(errors
                .errors
                .iter()
                .map(|error| WhenProblem {
                    offset: offset_of(&text, error.pos),
                    message: format!(
                        "not a CEL expression: {}",
                        error.msg.lines().next().unwrap_or_default()
                    ),
                    help: None,
                })
                .collect());
        }
        Err(_) => {
            let message = "not a CEL expression: the parser gave up".to_owned();
            return Err(vec![WhenProblem { offset: 0, message, help: None }]);
        }
    };
    let paths = check::check(&program, permits)?;
    Ok(When { program, paths, text })
}

/// The parser counts lines from 1 and columns from 1.
fn offset_of(text: &str, (line, column): (isize, isize)) -> usize {
    let before = usize::try_from(line - 1).unwrap_or(0);
    let lines: usize = text.split_inclusive('\n').take(before).map(|line| line.chars().count()).sum();
    lines + usize::try_from(column - 1).unwrap_or(0)
}

impl When {
    /// As written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates it.
    ///
    /// # Errors
    /// What failed at run time: a fact that is absent, an overflow, a value of another type.
    pub(crate) fn holds(&self, asked: &Asked<'_>) -> Result<bool, String> {
        // Evaluating policy cannot fail: what a bug in the evaluator would make of a session's thread is kept
        // to this rule, where a failure already has a strict meaning.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(ENVIRONMENT.clone());
            for (root, value) in self.facts(asked)? {
                context.add_variable_as_val(root, value);
            }
            Value::resolve(self.program.expression(), &context).map_err(|error| error.to_string())
        }));
        match result {
            Ok(Ok(Value::Bool(holds))) => Ok(holds),
            Ok(Ok(other)) => Err(format!("the expression gave {:?}, not true or false", other.type_of())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("the evaluator gave up".to_owned()),
        }
    }

    /// The facts it names, by root. Roots it names are there even when every fact is absent.
    fn facts<'a>(&self, asked: &Asked<'a>) -> Result<Roots<'a>, String> {
        type Fields<'a> = HashMap<CelMapKey<'a>, Box<dyn Val + 'a>>;
        let mut roots: Vec<(&'static str, Fields<'a>)> = Vec::with_capacity(2);
        for path in &self.paths {
            let index = match roots.iter().position(|(root, _)| *root == path.root) {
                Some(index) => index,
                None => {
                    roots.push((path.root, Fields::new()));
                    roots.len() - 1
                }
            };
            if let (Some(datum), Some((_, fields))) = ((path.read)(asked), roots.get_mut(index)) {
                fields.insert(CelMapKey::from(path.field), value(datum)?);
            }
        }
        Ok(roots
            .into_iter()
            .map(|(root, fields)| (root, Box::new(CelMap::from(fields)) as Box<dyn Val + 'a>))
            .collect())
    }
}

fn value<'a>(datum: Datum<'a>) -> Result<Box<dyn Val + 'a>, String> {
    /// A comprehension visits each element; an operation with more tables or columns than this is judged by
    /// `match:`, which has no such bound.
    const MAX_ELEMENTS: usize = 1000;
    Ok(match datum {
        Datum::Text(text) => Box::new(CelString::from(text)),
        Datum::Int(number) => Box::new(CelInt::from(number)),
        Datum::Bool(truth) => Box::new(CelBool::from(truth)),
        Datum::Texts(texts) if texts.len() > MAX_ELEMENTS => {
            return Err(format!("a list of {} elements is longer than {MAX_ELEMENTS}", texts.len()));
        }
        Datum::Texts(texts) => {
            let texts = texts.into_iter().map(|text| Box::new(CelString::from(text)) as Box<dyn Val + 'a>);
            Box::new(CelList::from(texts.collect::<Vec<_>>()))
        }
        Datum::Map(map) => {
            let entry = |(key, value): (&'a String, &'a String)| {
                let value: Box<dyn Val + 'a> = Box::new(CelString::from(value.as_str()));
                (CelMapKey::from(key.as_str()), value)
            };
            Box::new(CelMap::from(map.iter().map(entry).collect::<HashMap<_, _>>()))
        }
    })
}

#[cfg(test)]
mod tests;
