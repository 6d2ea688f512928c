//! What the database's own functions, operators, types and relations can do when a statement merely reads: nothing, or
//! anything.
//!
//! Neither a function's volatility nor its owner tells: a STABLE function may call a volatile one, and that one writes. So
//! a function is harmless only when its code shows it. SQL bodies are judged by the grammar, like any statement;
//! PL/pgSQL bodies are read word by word ([`super::words`]), and what they run besides is worked out for each call
//! ([`super::fold`]). Code in C counts by its library and volatility. What is called is looked for by name in all schemas, so an answer holds under every
//! search path. It is worked out when it is first asked for, and kept with the snapshot.

use super::{
    Inspector, SearchPath, SessionState,
    catalogue::{CatalogueSnapshot, Relation, RelationKind},
    function, parse,
    words::Body,
};
use lockgate_model::sql::SqlClass;
use std::{collections::HashMap, sync::OnceLock};

/// How many functions and views deep code is followed; what lies deeper counts as anything.
const MAX_TRAIL: usize = 24;

/// The longest body that is read: what is longer is a program, and does something.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;

/// A function, aggregate, window function or procedure that was not there when the cluster was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routine {
    /// `pg_proc.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_proc.prokind`: f, p, a, w.
    pub kind: char,
    /// `pg_proc.provolatile` is v.
    pub volatile: bool,
    /// `pg_language.lanname`.
    pub language: String,
    /// `pg_proc.prosrc`, or `pg_get_function_sqlbody` when the body is stored parsed.
    pub body: String,
    /// The body is stored parsed: its names are bound, and are written for an empty search path.
    pub bound: bool,
    /// `pg_proc.probin`: the library of a function in C.
    pub library: String,
    /// `pg_get_expr(proargdefaults)`: what a call computes for missing arguments.
    pub defaults: String,
    /// `pg_proc.proconfig`: `name=value` each.
    pub settings: Vec<String>,
    /// The types of arguments and result that are not built in.
    pub types: Vec<u32>,
    /// The functions that an aggregate is made of, those that are not built in.
    pub support: Vec<u32>,
    /// Names of the built-in functions that an aggregate is made of, or that an internal function is another name for.
    pub builtin: Vec<String>,
    /// One of those is volatile.
    pub builtin_volatile: bool,
    /// A built-in function has the same name.
    pub shadows: bool,
    /// Its arguments, those that only come out of it included, in order.
    pub arguments: Vec<Argument>,
    /// It is not run when an argument is NULL.
    pub strict: bool,
    /// It runs as its owner.
    pub definer: bool,
}

impl Routine {
    /// Whether judging it leads to no other code: it calls none that the database has by name.
    fn is_leaf(&self) -> bool {
        matches!(self.language.as_str(), "c" | "internal") && self.kind != 'a' && self.defaults.is_empty()
    }
}

/// An argument of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Argument {
    /// Its name; empty for none.
    pub name: String,
    /// `pg_proc.proargmodes`: i, o, b, v, t.
    pub mode: char,
    /// Its type.
    pub type_oid: u32,
}

/// An operator that was not there when the cluster was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserOperator {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_operator.oprcode`.
    pub function: u32,
    /// The function's name where it is built in.
    pub builtin: Option<String>,
}

/// A type that was not there when the cluster was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserType {
    /// `pg_type.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Types that it is made of: element, base, subtype, members.
    pub parts: Vec<u32>,
    /// Functions that run on its values: input, output, canonical form of a range.
    pub functions: Vec<u32>,
    /// The checks of a domain.
    pub checks: Vec<String>,
}

/// A cast that was not there when the cluster was made, and runs a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserCast {
    /// `pg_cast.castsource`.
    pub source: u32,
    /// `pg_cast.casttarget`.
    pub target: u32,
    /// `pg_cast.castfunc`.
    pub function: u32,
    /// `pg_cast.castcontext` is i: expressions run it where types differ, with no word of it in the text.
    pub implicit: bool,
}

/// The code in a database that reading can run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// Functions, aggregates, procedures.
    pub routines: Vec<Routine>,
    /// Operators.
    pub operators: Vec<UserOperator>,
    /// Types.
    pub types: Vec<UserType>,
    /// Casts.
    pub casts: Vec<UserCast>,
    /// Functions, by OID, with which the server sorts, hashes and compares values of built-in types, where it was told to.
    pub sorting: Vec<u32>,
    /// What the row security policies of a relation run, where row security is switched on.
    pub policies: HashMap<u32, Vec<Guard>>,
    /// Functions in the conditions of a relation's indexes, checks and policies: planning can run them.
    pub planned: HashMap<u32, Vec<u32>>,
}

/// Objects with an OID below this were there when the cluster was made (FirstNormalObjectId in transam.h).
pub const FIRST_NORMAL_OID: u32 = 16_384;

/// What a row security policy runs or reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A function of the database's own, by OID.
    Function(u32),
    /// A built-in function that is not volatile, by name.
    Builtin(String),
    /// A built-in function that is, by name.
    Volatile(String),
    /// Another relation, by OID.
    Relation(u32),
}

/// [`Code`], indexed, and what is known of it by now.
#[derive(Debug, Default)]
pub(super) struct CodeIndex {
    code: Code,
    routine_by_oid: HashMap<u32, usize>,
    routines_by_name: HashMap<String, Vec<usize>>,
    operators_by_name: HashMap<String, Vec<usize>>,
    type_by_oid: HashMap<u32, usize>,
    types_by_name: HashMap<String, Vec<usize>>,
    casts_by_type: HashMap<u32, Vec<u32>>,
    routines: Vec<OnceLock<bool>>,
    /// Of functions that run texts: what they run.
    bodies: Vec<OnceLock<Option<Body>>>,
    types: Vec<OnceLock<bool>>,
    relations: HashMap<u32, OnceLock<bool>>,
    changes_settings: OnceLock<bool>,
    beneath: OnceLock<Beneath>,
}

/// What runs code of the database's own with nothing in a statement to name it, and no type of its own in sight.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beneath {
    /// Sorting, hashing and comparing.
    pub(super) sorts: bool,
    /// Casts that are written.
    pub(super) casts: bool,
    /// Casts that are not: any expression over two types.
    pub(super) casts_by_itself: bool,
}

impl Clone for CodeIndex {
    fn clone(&self) -> Self {
        Self::new(self.code.clone(), self.relations.keys().copied())
    }
}

impl CodeIndex {
    pub(super) fn new(code: Code, relations: impl Iterator<Item = u32>) -> Self {
        fn by_name<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<String, Vec<usize>> {
            let mut map: HashMap<String, Vec<usize>> = HashMap::new();
            names.enumerate().for_each(|(index, name)| map.entry(name.to_owned()).or_default().push(index));
            map
        }
        let mut casts_by_type: HashMap<u32, Vec<u32>> = HashMap::new();
        for cast in &code.casts {
            for oid in [cast.source, cast.target] {
                casts_by_type.entry(oid).or_default().push(cast.function);
            }
        }
        Self {
            routine_by_oid: code.routines.iter().enumerate().map(|(index, one)| (one.oid, index)).collect(),
            routines_by_name: by_name(code.routines.iter().map(|one| one.name.as_str())),
            operators_by_name: by_name(code.operators.iter().map(|one| one.name.as_str())),
            type_by_oid: code.types.iter().enumerate().map(|(index, one)| (one.oid, index)).collect(),
            types_by_name: by_name(code.types.iter().map(|one| one.name.as_str())),
            casts_by_type,
            routines: code.routines.iter().map(|_| OnceLock::new()).collect(),
            bodies: code.routines.iter().map(|_| OnceLock::new()).collect(),
            types: code.types.iter().map(|_| OnceLock::new()).collect(),
            relations: relations.map(|oid| (oid, OnceLock::new())).collect(),
            changes_settings: OnceLock::new(),
            beneath: OnceLock::new(),
            code,
        }
    }
}

/// Libraries of contrib and of well-known extensions whose functions, where they call themselves immutable or stable,
/// only compute. Not in the list, since they run text or read elsewhere: dblink, tablefunc, xml2, adminpack, file_fdw.
const LIBRARIES: [&str; 23] = [
    "_int",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "intagg",
    "isn",
    "ltree",
    "pg_trgm",
    "pgcrypto",
    "seg",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "vector",
    "sslinfo",
];

/// Of those, the ones whose volatile functions make random values and do nothing else.
const RANDOM_LIBRARIES: [&str; 2] = ["pgcrypto", "uuid-ossp"];

/// Settings that a function may make for itself without its code meaning something else.
const PLAIN_SETTINGS: [&str; 24] = [
    "work_mem",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "timezone",
    "datestyle",
    "intervalstyle",
    "client_min_messages",
    "log_min_messages",
    "extra_float_digits",
    "bytea_output",
    "jit",
    "geqo",
    "join_collapse_limit",
    "from_collapse_limit",
    "random_page_cost",
    "seq_page_cost",
    "cpu_tuple_cost",
    "constraint_exclusion",
    "plan_cache_mode",
    "max_parallel_workers_per_gather",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
];

impl CatalogueSnapshot {
    /// Whether every function of this name (in this schema, or in any) outside the built-in ones is harmless; None when
    /// there is none.
    pub(super) fn routines_harmless(
        &self,
        schema: Option<&str>,
        name: &str,
        state: &SessionState,
    ) -> Option<bool> {
        let mut found = self.routines_named(schema, name).peekable();
        if found.peek().is_none() {
            // Known by name alone: nothing is known of what it does.
            return self.has_user_function(name).then_some(false);
        }
        Some(!state.in_doubt_at_all() && found.all(|index| self.routine(index, &state.trail)))
    }

    /// The functions of a name, in a schema or in any.
    pub(super) fn routines_named(&self, schema: Option<&str>, name: &str) -> impl Iterator<Item = usize> {
        let named = self.code_index.routines_by_name.get(name);
        named.into_iter().flatten().copied().filter(move |index| {
            let routine = self.code_index.code.routines.get(*index);
            routine.is_some_and(|routine| schema.is_none_or(|schema| within(schema, &routine.schema)))
        })
    }

    /// A function that does nothing but read and run texts, and what it runs.
    pub(super) fn runs_texts(&self, index: usize, trail: &[u32]) -> Option<(&Routine, &Body)> {
        let routine = self.code_index.code.routines.get(index)?;
        if routine.kind != 'f' || routine.language != "plpgsql" || path_of(&routine.settings).is_none() {
            return None;
        }
        let known = self.code_index.bodies.get(index)?;
        if known.get().is_none() {
            let trail = longer(trail, routine.oid)?;
            let types = routine.types.iter().all(|oid| self.type_is_harmless(*oid, &trail));
            let body = types.then(|| self.body(routine, &trail)).flatten();
            known.get_or_init(|| body);
        }
        Some((routine, known.get()?.as_ref()?))
    }

    /// The names of what is handed to functions of a name.
    pub(crate) fn parameters(&self, name: &str) -> Vec<String> {
        let handed =
            |argument: &&Argument| matches!(argument.mode, 'i' | 'b' | 'v') && !argument.name.is_empty();
        self.routines_named(None, name)
            .filter_map(|index| self.code_index.code.routines.get(index))
            .flat_map(|routine| routine.arguments.iter().filter(handed).map(|argument| argument.name.clone()))
            .collect()
    }

    /// Whether a function of this name stands beside a built-in one.
    pub(super) fn shadows_builtin(&self, name: &str) -> bool {
        let named = self.code_index.routines_by_name.get(name);
        named
            .into_iter()
            .flatten()
            .filter_map(|index| self.code_index.code.routines.get(*index))
            .any(|routine| routine.shadows)
    }

    /// The same for operators.
    pub(super) fn operators_harmless(
        &self,
        schema: Option<&str>,
        name: &str,
        state: &SessionState,
    ) -> Option<bool> {
        let named = self.code_index.operators_by_name.get(name);
        let mut found = named
            .into_iter()
            .flatten()
            .filter_map(|index| self.code_index.code.operators.get(*index))
            .filter(|operator| schema.is_none_or(|schema| schema == operator.schema))
            .peekable();
        if found.peek().is_none() {
            return self.has_user_operator(name).then_some(false);
        }
        Some(
            !state.in_doubt_at_all()
                && found.all(|operator| match &operator.builtin {
                    Some(name) => function::is_listed(name),
                    None => self.function(operator.function, &state.trail),
                }),
        )
    }

    /// The same for types. A relation's row type has the relation's name.
    pub(super) fn types_harmless(
        &self,
        schema: Option<&str>,
        name: &str,
        state: &SessionState,
    ) -> Option<bool> {
        let named = self.code_index.types_by_name.get(name);
        let mut found = named
            .into_iter()
            .flatten()
            .filter(|index| {
                let one = self.code_index.code.types.get(**index);
                one.is_some_and(|one| schema.is_none_or(|schema| within(schema, &one.schema)))
            })
            .peekable();
        found.peek()?;
        Some(!state.in_doubt_at_all() && found.all(|index| self.type_at(*index, &state.trail)))
    }

    /// Whether reading a relation runs nothing but the server's own code.
    pub(super) fn reads_harmlessly(&self, relation: &Relation, trail: &[u32]) -> bool {
        if super::walk::is_system(&relation.schema) {
            return true;
        }
        let Some(known) = self.code_index.relations.get(&relation.oid) else { return false };
        if let Some(known) = known.get() {
            return *known;
        }
        let Some(trail) = longer(trail, relation.oid) else { return false };
        let own = match relation.kind {
            // Its wrapper reaches another server, or a program.
            RelationKind::ForeignTable => false,
            RelationKind::View => self.view_is_harmless(relation, &trail),
            RelationKind::Table
            | RelationKind::PartitionedTable
            | RelationKind::MaterializedView
            | RelationKind::Sequence
            | RelationKind::Toast
            | RelationKind::Composite => true,
        };
        let code = &self.code_index.code;
        let answer = own
            && relation.columns.iter().all(|column| self.type_is_harmless(column.type_oid, &trail))
            && code.policies.get(&relation.oid).is_none_or(|guards| {
                guards.iter().all(|guard| match guard {
                    Guard::Function(oid) => self.function(*oid, &trail),
                    Guard::Builtin(name) => function::is_inner(name),
                    Guard::Volatile(name) => function::is_listed(name),
                    Guard::Relation(oid) => {
                        self.relation(*oid).is_some_and(|other| self.reads_harmlessly(other, &trail))
                    }
                })
            })
            && code
                .planned
                .get(&relation.oid)
                .is_none_or(|functions| functions.iter().all(|oid| self.function(*oid, &trail)))
            && self
                .children(relation.oid)
                .iter()
                .filter_map(|oid| self.relation(*oid))
                .all(|child| self.reads_harmlessly(child, &trail));
        *known.get_or_init(|| answer)
    }

    /// Whether some function of the database can change a setting of the session that calls it.
    pub(super) fn code_changes_settings(&self) -> bool {
        *self.code_index.changes_settings.get_or_init(|| {
            self.code_index.code.routines.iter().any(|routine| match routine.language.as_str() {
                "internal" | "c" => false,
                "sql" | "plpgsql" => names_settings(&routine.body),
                _ => true,
            })
        })
    }

    /// What superusers wired to built-in types: default operator classes for those that have none, casts between them. All
    /// of it is harmless if nothing in it does harm as long as the rest of it does none.
    pub(super) fn beneath(&self) -> Beneath {
        *self.code_index.beneath.get_or_init(|| {
            let code = &self.code_index.code;
            let of_builtins =
                |cast: &&UserCast| cast.source < FIRST_NORMAL_OID && cast.target < FIRST_NORMAL_OID;
            let casts: Vec<&UserCast> = code.casts.iter().filter(of_builtins).collect();
            if casts.is_empty() && code.sorting.is_empty() {
                return Beneath::default();
            }
            // A copy, since what is worked out under an assumption must not be remembered when that turns out wrong.
            let supposed = self.clone();
            let _first = supposed.code_index.beneath.set(Beneath::default());
            let harms = |oid: u32| !supposed.function(oid, &[]);
            Beneath {
                sorts: code.sorting.iter().any(|oid| harms(*oid)),
                casts: casts.iter().any(|cast| harms(cast.function)),
                casts_by_itself: casts.iter().any(|cast| cast.implicit && harms(cast.function)),
            }
        })
    }

    /// A function by OID. Built-in ones that stand here were judged by name already.
    fn function(&self, oid: u32, trail: &[u32]) -> bool {
        oid < FIRST_NORMAL_OID
            || self.code_index.routine_by_oid.get(&oid).is_some_and(|index| self.routine(*index, trail))
    }

    pub(super) fn routine(&self, index: usize, trail: &[u32]) -> bool {
        let (Some(known), Some(routine)) =
            (self.code_index.routines.get(index), self.code_index.code.routines.get(index))
        else {
            return false;
        };
        if let Some(known) = known.get() {
            return *known;
        }
        // What calls itself does no more than the rest of it does.
        if trail.last() == Some(&routine.oid) {
            return true;
        }
        // What others call back is not followed round; neither is what is deep.
        let Some(trail) = longer(trail, routine.oid) else { return false };
        let answer = self.judge(routine, &trail);
        *known.get_or_init(|| answer)
    }

    fn judge(&self, routine: &Routine, trail: &[u32]) -> bool {
        routine.types.iter().all(|oid| self.type_is_harmless(*oid, trail)) && self.judge_code(routine, trail)
    }

    fn judge_code(&self, routine: &Routine, trail: &[u32]) -> bool {
        if routine.kind == 'p' {
            return false;
        }
        if !self.defaults_read(routine, trail) {
            return false;
        }
        let builtin =
            !routine.builtin_volatile && routine.builtin.iter().all(|name| function::is_inner(name));
        if routine.kind == 'a' {
            return builtin && routine.support.iter().all(|oid| self.function(*oid, trail));
        }
        let Some(path) = path_of(&routine.settings) else { return false };
        match routine.language.as_str() {
            "internal" => builtin && !routine.builtin.is_empty(),
            "c" => is_trusted(&routine.library, routine.volatile),
            "sql" => {
                let mut state = SessionState::of_code(trail.to_vec());
                state.search_path = if routine.bound { SearchPath::Known(Vec::new()) } else { path };
                routine.body.len() <= MAX_BODY_BYTES
                    && Inspector.script(&routine.body, &state, Some(self)).class() == SqlClass::Read
            }
            "plpgsql" => self.body(routine, trail).is_some_and(|body| body.texts.is_empty()),
            _ => false,
        }
    }

    /// Whether what a call computes for missing arguments reads at most.
    pub(super) fn defaults_read(&self, routine: &Routine, trail: &[u32]) -> bool {
        routine.defaults.is_empty() || self.expressions_read(&routine.defaults, trail)
    }

    /// Whether a list of expressions, with every name qualified, reads at most.
    fn expressions_read(&self, text: &str, trail: &[u32]) -> bool {
        let mut state = SessionState::of_code(trail.to_vec());
        state.search_path = SearchPath::Known(Vec::new());
        state.standard_conforming_strings = Some(true);
        Inspector.script(&format!("SELECT {text}"), &state, Some(self)).class() == SqlClass::Read
    }

    fn type_is_harmless(&self, oid: u32, trail: &[u32]) -> bool {
        if oid < FIRST_NORMAL_OID {
            return true;
        }
        // A snapshot without types (a test's) knows nothing of them.
        match self.code_index.type_by_oid.get(&oid) {
            Some(index) => self.type_at(*index, trail),
            None => self.code_index.code.types.is_empty(),
        }
    }

    fn type_at(&self, index: usize, trail: &[u32]) -> bool {
        let (Some(known), Some(one)) =
            (self.code_index.types.get(index), self.code_index.code.types.get(index))
        else {
            return false;
        };
        if let Some(known) = known.get() {
            return *known;
        }
        let Some(trail) = longer(trail, one.oid) else { return false };
        let casts = self.code_index.casts_by_type.get(&one.oid);
        let answer = one.parts.iter().all(|oid| self.type_is_harmless(*oid, &trail))
            && one.functions.iter().all(|oid| self.function_of_type(*oid, &trail))
            && casts.is_none_or(|functions| functions.iter().all(|oid| self.function_of_type(*oid, &trail)))
            && one.checks.iter().all(|check| self.expressions_read(check, &trail));
        *known.get_or_init(|| answer)
    }

    /// A function that takes or makes the very type that is being judged: its code alone counts.
    fn function_of_type(&self, oid: u32, trail: &[u32]) -> bool {
        if oid < FIRST_NORMAL_OID {
            return true;
        }
        let index = self.code_index.routine_by_oid.get(&oid);
        let routine = index.and_then(|index| self.code_index.code.routines.get(*index));
        routine.is_some_and(|routine| match longer(trail, routine.oid) {
            Some(trail) => self.judge_code(routine, &trail),
            // It is being judged itself, and brought the type along: `ltree_eq` compares two `ltree`, and is what compares
            // these. Code that calls nothing needs no trail.
            None => routine.is_leaf() && self.judge_code(routine, trail),
        })
    }
}

/// Whether a name of pg_temp, or of a schema, is meant.
fn within(wanted: &str, schema: &str) -> bool {
    wanted == schema || (wanted == "pg_temp" && schema.starts_with("pg_temp"))
}

pub(super) fn longer(trail: &[u32], oid: u32) -> Option<Vec<u32>> {
    if trail.len() >= MAX_TRAIL || trail.contains(&oid) {
        return None;
    }
    let mut trail = trail.to_vec();
    trail.push(oid);
    Some(trail)
}

/// The search path that a function's settings leave it with; None when they change what its code means.
pub(super) fn path_of(settings: &[String]) -> Option<SearchPath> {
    let mut path = SearchPath::Unknown;
    for setting in settings {
        let (name, value) = setting.split_once('=')?;
        let name = name.to_ascii_lowercase();
        if name == "search_path" {
            path = SearchPath::Known(super::state::split_path(value));
        } else if !(PLAIN_SETTINGS.contains(&name.as_str()) || name.starts_with("enable_")) {
            return None;
        }
    }
    Some(path)
}

fn is_trusted(library: &str, volatile: bool) -> bool {
    let Some(name) = library.strip_prefix("$libdir/") else { return false };
    let name = name.strip_suffix(".so").unwrap_or(name);
    LIBRARIES.contains(&name) && (!volatile || RANDOM_LIBRARIES.contains(&name))
}

/// Whether code in SQL or PL/pgSQL can change a setting for longer than it runs, or runs text that can.
fn names_settings(body: &str) -> bool {
    if body.len() > MAX_BODY_BYTES || parse::is_slow_to_scan(body) {
        return true;
    }
    let Ok(tokens) = parse::tokens(body) else { return true };
    // UPDATE … SET and the like stand after a name; SET as a command begins one.
    let mut begins = true;
    for token in &tokens {
        let span = usize::try_from(token.start).ok().zip(usize::try_from(token.end).ok());
        let Some(text) = span.and_then(|(start, end)| body.get(start..end)) else { return true };
        match text.to_ascii_lowercase().as_str() {
            "execute" | "set_config" | "\"set_config\"" | "reset" | "discard" | "pg_settings" | "call"
            | "do" => {
                return true;
            }
            "set" if begins => return true,
            word if word.starts_with("u&") => return true,
            word => begins = matches!(word, ";" | "begin" | "then" | "else" | "loop" | "atomic"),
        }
    }
    false
}

/// Operators that a construct of the grammar stands for, and looks up by name.
pub(super) const IMPLICIT_OPERATORS: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];
