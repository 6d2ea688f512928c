//! Which functions get at masked columns: those whose text names something masked, makes up statements while it runs, or
//! calls another that does. Texts in languages that no grammar here reads count as reaching; the others are searched word by
//! word, and what is in doubt counts as reaching.
//!
//! Operators, aggregates, casts and checks of domains count as functions: they run some, under another name.

use super::cover::Cover;
use crate::sql::{catalogue::CatalogueSnapshot, reveals, shows_nothing_stored};
use std::collections::{HashMap, HashSet};

/// Words by which a text runs another text, whatever the language.
const RUNS_TEXT: [&str; 10] = [
    "execute",
    "plpy",
    "spi_exec",
    "spi_exec_query",
    "spi_execp",
    "spi_prepare",
    "spi_query",
    "spi_query_prepared",
    "plv8",
    "dblink",
];

/// Words that, behind CREATE or ALTER, make something that other statements run without naming it.
const CODE: [&str; 6] = ["function", "procedure", "routine", "aggregate", "operator", "cast"];

/// Languages whose texts name what they use.
const READABLE: [&str; 2] = ["sql", "plpgsql"];

/// Extensions whose C functions compute from their arguments alone. What they are given is judged where they are called.
const COMPUTING_EXTENSIONS: [&str; 17] = [
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "intarray",
    "isn",
    "ltree",
    "pg_trgm",
    "pgcrypto",
    "postgis",
    "seg",
    "unaccent",
    "uuid-ossp",
    "vector",
];

/// Functions of those that read tables all the same.
const READS_TABLES: [&str; 4] = ["st_estimatedextent", "st_estimated_extent", "st_findextent", "find_srid"];

/// Functions and words that lead to masked columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Names of masked relations and columns, lower case.
    words: HashSet<String>,
    /// Names of functions that get at them.
    functions: HashSet<String>,
    /// Names of functions that run text, or put what they get at into a setting, where no mask follows.
    runners: HashSet<String>,
    /// Operators among the functions: a text holds them between its words.
    operators: Vec<String>,
    /// Names of functions of which it is known what they do, whether they reach or not.
    known: HashSet<String>,
    /// Names of functions of which it is known that nobody knows.
    unknown: HashSet<String>,
    /// Names of the database's own functions and operators, which can be meant where a built-in one of that name is not.
    own: HashSet<String>,
    /// Names of functions that are handed masked values by triggers, checks, defaults, indexes, policies or rules.
    fed: HashSet<String>,
    /// Names of relations whose writing runs over masked rows.
    loud: HashSet<String>,
    /// Names of functions that name one of those.
    loud_functions: HashSet<String>,
}

/// One name and the text that it runs.
struct Code<'a> {
    name: &'a str,
    text: &'a str,
}

impl Reach {
    /// Before anything is covered: which functions are known at all.
    pub(super) fn known(catalogue: &CatalogueSnapshot) -> Self {
        let mut known: HashSet<String> = HashSet::new();
        let mut unknown: HashSet<&str> = HashSet::new();
        for code in catalogue.code() {
            if READABLE.contains(&code.language.as_str()) {
                known.insert(code.name.clone());
            } else {
                unknown.insert(&code.name);
            }
        }
        for (name, extension) in catalogue.natives() {
            let computes = COMPUTING_EXTENSIONS.contains(&extension.as_str())
                && !READS_TABLES.contains(&name.as_str())
                && !name.trim_start_matches('_').starts_with("postgis_");
            if computes {
                known.insert(name.clone());
            } else {
                unknown.insert(name);
            }
        }
        known.retain(|name| !unknown.contains(name.as_str()));
        // One that runs an unknown function is unknown; aggregates can run operators' functions, so twice.
        for _ in 0..2 {
            let mut fates: HashMap<&str, bool> = HashMap::new();
            for (alias, function, system) in catalogue.aliases() {
                *fates.entry(alias).or_insert(true) &= *system || known.contains(function);
            }
            let (good, bad): (Vec<_>, Vec<_>) = fates.into_iter().partition(|(_, good)| *good);
            let bad: HashSet<&str> = bad.into_iter().map(|(alias, _)| alias).collect();
            known.retain(|name| !bad.contains(name.as_str()));
            let named = |name: &str| unknown.contains(name) || bad.contains(name);
            known.extend(good.iter().filter(|(name, _)| !named(name)).map(|(name, _)| (*name).to_owned()));
        }
        let unknown = catalogue
            .aliases()
            .iter()
            .map(|(alias, ..)| alias)
            .filter(|alias| !known.contains(*alias))
            .cloned()
            .chain(unknown.into_iter().map(str::to_owned))
            .collect();
        let own = catalogue.own_names().cloned().collect();
        Self { known, unknown, own, ..Self::default() }
    }

    pub(super) fn new(cover: &Cover, catalogue: &CatalogueSnapshot) -> Self {
        let before = cover.reach();
        let mut reach = Self {
            known: before.known.clone(),
            unknown: before.unknown.clone(),
            own: before.own.clone(),
            ..Self::default()
        };
        for relation in catalogue.relations().iter().filter(|relation| cover.touches(relation.oid)) {
            reach.words.insert(relation.name.to_lowercase());
            // "query" and "data" of the server's own are everyday words.
            if relation.schema != "pg_catalog" {
                let masked =
                    relation.columns.iter().filter(|c| cover.column(relation.oid, c.attnum).is_some());
                reach.words.extend(masked.map(|column| column.name.to_lowercase()));
            }
        }
        let foreign = catalogue.code().iter().filter(|code| !READABLE.contains(&code.language.as_str()));
        reach.functions.extend(foreign.map(|code| code.name.clone()));
        // Each round that finds something shortens what is left.
        let mut open = codes(catalogue);
        loop {
            let (found, left): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|code| reach.mentions(code.text));
            if found.is_empty() {
                break;
            }
            let operators = found.iter().map(|code| code.name).filter(|name| is_operator(name));
            reach.operators.extend(operators.map(str::to_owned));
            reach.functions.extend(found.into_iter().map(|code| code.name.to_owned()));
            open = left;
        }
        let mut open: Vec<_> =
            codes(catalogue).into_iter().filter(|code| reach.functions.contains(code.name)).collect();
        loop {
            let (found, left): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|code| reach.leads_to_running(code.text));
            if found.is_empty() {
                return reach;
            }
            reach.runners.extend(found.into_iter().map(|code| code.name.to_owned()));
            open = left;
        }
    }

    /// Takes note of what is wired to masked values, once it is known what is masked.
    pub(super) fn wire(&mut self, cover: &Cover, catalogue: &CatalogueSnapshot) {
        let near = |oid| cover.touches(oid) || cover.writes_near(oid, true);
        for relation in catalogue.relations().iter().filter(|relation| near(relation.oid)) {
            self.loud.insert(relation.name.to_lowercase());
            self.fed.extend(catalogue.wired(relation.oid).iter().cloned());
        }
        // What a function is handed it can hand on.
        let mut open: Vec<&str> = Vec::new();
        let codes = codes(catalogue);
        for code in &codes {
            if self.fed.contains(code.name) {
                open.push(code.text);
            }
        }
        while let Some(text) = open.pop() {
            let text = text.to_lowercase();
            for code in &codes {
                let named = words(&text).any(|word| word == code.name.to_lowercase());
                if named && self.fed.insert(code.name.to_owned()) {
                    open.push(code.text);
                }
            }
        }
        let mut open = codes;
        loop {
            let (found, left): (Vec<_>, Vec<_>) = open.into_iter().partition(|code| self.is_loud(code.text));
            if found.is_empty() {
                return;
            }
            self.loud_functions.extend(found.into_iter().map(|code| code.name.to_lowercase()));
            open = left;
        }
    }

    fn leads_to_running(&self, body: &str) -> bool {
        words(&body.to_lowercase()).any(|word| {
            word == "set_config" || RUNS_TEXT.contains(&word) || self.runners.contains(word) || reveals(word)
        })
    }

    /// Whether a function of this name runs text, or puts what it reads where no mask follows.
    pub(super) fn runs_text(&self, name: &str) -> bool {
        self.runners.contains(name) || reveals(name)
    }

    /// How much is known, for telling whether a round added something.
    pub(super) fn size(&self) -> usize {
        self.words.len() + self.functions.len()
    }

    /// Whether a function of this name can get at masked columns.
    pub(super) fn function(&self, name: &str) -> bool {
        self.functions.contains(name) || reveals(name)
    }

    /// Whether it is known that a function of this name gets at no masked column, so that what it returns was made of its
    /// arguments and of what is not masked. A type without code of its own has no entry.
    pub(super) fn is_clean(&self, name: &str) -> bool {
        if self.function(name) || self.unknown.contains(name) {
            return false;
        }
        // Where the search path is in doubt a built-in name may be anybody's, but only if somebody has one of that name:
        // what is new and bears it is refused.
        let builtin = || !self.own.contains(name) && shows_nothing_stored(name);
        self.known.contains(name) || name.starts_with("::") || builtin()
    }

    /// Whether, besides, nothing that it does runs over masked rows: its messages tell nothing of them.
    pub(super) fn is_quiet(&self, name: &str) -> bool {
        self.is_clean(name) && !self.loud_functions.contains(&name.to_lowercase())
    }

    /// Whether a function of this name is handed masked values.
    pub(super) fn is_fed(&self, name: &str) -> bool {
        self.fed.contains(name)
    }

    /// Whether a text names such a function; a name that is spelled with escapes counts.
    pub(super) fn names_function(&self, text: &str) -> bool {
        !self.functions.is_empty()
            && (text.to_lowercase().contains("u&\"") || words(text).any(|word| self.named(word)))
    }

    fn named(&self, word: &str) -> bool {
        self.functions.contains(word) || self.functions.contains(&word.to_lowercase())
    }

    /// Whether a text that no grammar reads names something masked, or makes up statements or code while it runs.
    pub(super) fn mentions(&self, body: &str) -> bool {
        let body = body.to_lowercase();
        // Escapes can spell any name.
        body.contains("u&\"")
            || makes_code(&body)
            || self.operators.iter().any(|operator| body.contains(operator.as_str()))
            || words(&body).any(|word| {
                self.words.contains(word)
                    || RUNS_TEXT.contains(&word)
                    || self.functions.contains(word)
                    || reveals(word)
            })
    }

    /// Whether a text names a relation whose writing runs over masked rows, or a function that does.
    pub(super) fn is_loud(&self, body: &str) -> bool {
        words(&body.to_lowercase()).any(|word| self.loud.contains(word) || self.loud_functions.contains(word))
    }
}

fn codes(catalogue: &CatalogueSnapshot) -> Vec<Code<'_>> {
    let texts = catalogue.code().iter().map(|code| Code { name: &code.name, text: &code.text });
    let aliases = catalogue.aliases().iter().map(|(alias, function, _)| Code { name: alias, text: function });
    texts.chain(aliases).collect()
}

fn is_operator(name: &str) -> bool {
    !name.starts_with("::") && !name.chars().any(|c| c.is_alphanumeric() || c == '_')
}

fn makes_code(body: &str) -> bool {
    words(body).any(|word| matches!(word, "create" | "alter")) && words(body).any(|word| CODE.contains(&word))
}

fn words(body: &str) -> impl Iterator<Item = &str> {
    body.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use crate::{
        mask::{MaskKeys, MaskPlan},
        sql::{
            Inspector, SessionState,
            catalogue::{
                CatalogueParts, CatalogueSnapshot, FunctionCode, Relation, RelationColumn, RelationKind,
            },
        },
    };
    use lockgate_model::verdict::{
        ColumnMask, ColumnPattern, InPredicate, MaskMethod, MaskSpec, UnknownLineage,
    };
    use std::sync::Arc;

    fn table(oid: u32, name: &str, columns: &[&str]) -> Relation {
        let column = |(attnum, name): (i16, &&str)| RelationColumn {
            attnum,
            name: (*name).to_owned(),
            type_oid: 25,
            generated_from: Vec::new(),
        };
        Relation {
            oid,
            schema: "public".to_owned(),
            name: name.to_owned(),
            kind: RelationKind::Table,
            columns: (1..).zip(columns).map(column).collect(),
            parents: Vec::new(),
            view: None,
        }
    }

    fn catalogue() -> CatalogueSnapshot {
        let code = [
            ("reads", "SELECT ssn FROM customers WHERE id = $1"),
            ("calls_it", "SELECT Reads($1) || ''"),
            ("escapes", "SELECT note FROM U&\"cust\\006fmers\""),
            ("runs", "BEGIN EXECUTE $1; END"),
            ("calls_runs", "BEGIN PERFORM runs('x'); END"),
            ("names", "BEGIN PERFORM set_config('x', reads(1), false); END"),
            ("sets", "BEGIN PERFORM set_config('x', 'y', false); END"),
            ("adds", "SELECT $1 + 1"),
            ("replace", "SELECT ssn FROM customers"),
        ];
        CatalogueSnapshot::new(CatalogueParts {
            relations: vec![
                table(1, "customers", &["id", "ssn"]),
                table(2, "orders", &["id", "note"]),
                table(3, "noisy", &["id", "note"]),
                table(4, "quiet", &["id", "note"]),
                table(5, "ruled", &["id", "note"]),
            ],
            functions: code.iter().map(|(name, _)| (*name).to_owned()).collect(),
            code: code
                .iter()
                .map(|(name, text)| FunctionCode {
                    name: (*name).to_owned(),
                    language: "sql".to_owned(),
                    text: (*text).to_owned(),
                })
                .collect(),
            triggers: [(3, vec!["reads".to_owned()]), (4, vec!["adds".to_owned()])].into(),
            ruled: [(5, Vec::new())].into(),
            search_path: vec!["public".to_owned()],
            ..CatalogueParts::default()
        })
    }

    /// What a statement comes to: refused, or (something is masked or withheld).
    fn judged(sql: &str) -> Result<bool, String> {
        let any = || "*".to_owned();
        let pattern = ColumnPattern { schema: any(), table: any(), column: "ssn".to_owned() };
        let spec = MaskSpec {
            json: Vec::new(),
            columns: vec![ColumnMask { pattern, method: MaskMethod::Redact }],
            detectors: std::collections::BTreeSet::new(),
            on_unknown_lineage: UnknownLineage::Redact,
            in_predicate: InPredicate::Deny,
            in_expression: Default::default(),
            approval: None,
            rules: Vec::new(),
        };
        let catalogue = Arc::new(catalogue());
        let plan = MaskPlan::new(&spec, catalogue.clone(), &MaskKeys::new());
        let script = Inspector.script(sql, &SessionState::default(), Some(&catalogue));
        let mut withheld = false;
        for statement in &script.statements {
            withheld |= plan.judge(statement).map_err(|violation| violation.reason)?.strip_messages();
        }
        Ok(withheld)
    }

    #[test]
    fn functions_reach_what_their_texts_lead_to() {
        for (sql, refused) in [
            ("select reads(1)", false),
            ("select calls_it(1)", false),
            ("select adds(1)", false),
            ("insert into orders values (1, adds(1)::text)", false),
            ("select * from orders where id = adds(1)", false),
            ("insert into orders values (1, reads(1))", true),
            ("insert into orders values (1, calls_it(1))", true),
            ("insert into orders values (1, escapes(1))", true),
            ("update orders set note = reads(1) where id = 1", true),
            ("create table t as select reads(1)", true),
            ("select 1 from orders where reads(1) like '1%'", true),
            ("select set_config('application_name', reads(1), false)", true),
            ("select setval('s', reads(1)::int)", true),
            ("select runs('x')", true),
            ("select calls_runs()", true),
            ("select names()", true),
            ("select sets()", false),
            ("select query_to_xml('select 1', true, false, '')", true),
            ("alter table orders add x text default reads(1)", true),
            ("do $$ begin perform reads(1); end $$", true),
            ("do $$ begin execute 'x'; end $$", true),
            ("do $$ begin perform query_to_xml('x', true, false, ''); end $$", true),
            ("do $$ begin perform adds(1); end $$", false),
            ("create function f() returns text language sql as 'select reads(1)'", true),
            ("create function f() returns int language sql as 'select adds(1)'", false),
            ("create or replace function f() returns int language sql as 'select adds(1)'", false),
            ("Create  OR\nreplace function f() returns text language sql as 'select replace($1)'", true),
            ("create or replace/**/function f() returns int language sql as 'select adds(1)'", true),
            ("insert into orders values (nextval('s'), 'x')", false),
            ("create table t (id int, x text default reads(1))", true),
            ("create rule r as on insert to orders do also insert into quiet values (1, READS(1))", true),
            ("create operator @@@ (rightarg = int, function = reads)", true),
            ("create aggregate a(int) (sfunc = int4pl, stype = int, finalfunc = reads)", true),
            ("create function f(x text default reads(1)) returns text language sql as 'select $1'", true),
            ("create function f() returns text return (select ssn from customers)", true),
            ("create function f() returns text begin atomic select ssn from customers; end", true),
            ("create table t (id int default adds(1))", false),
            ("drop function reads", false),
            ("grant execute on function reads to public", false),
        ] {
            let judged = judged(sql);
            assert_eq!(judged.is_err(), refused, "{sql}: {judged:?}");
        }
    }

    #[test]
    fn triggers_and_rules_that_reach_withhold_messages_of_writes() {
        for (sql, withheld) in [
            ("insert into noisy values (1, 'x')", true),
            ("select * from noisy", false),
            ("insert into quiet values (1, 'x')", false),
            ("insert into ruled values (1, 'x')", true),
            ("select * from ruled", false),
            ("insert into orders values (1, 'x')", false),
            ("insert into orders values (nextval('s'), 'x')", false),
            ("select nothing from orders", false),
        ] {
            assert_eq!(judged(sql), Ok(withheld), "{sql}");
        }
    }
}
