//! What lockgate knows of a target's schema: plain data, loaded by the proxy over a side connection of its own.
//!
//! It resolves names as the server does, tells which relation a view reads, and carries attribute numbers so that masks
//! follow the server's own (table OID, attribute number). It never asks the server anything itself, and whatever it does
//! not know is unknown, not absent.

pub use super::extent::TableSize;
pub use super::routine::{
    Argument, Code, FIRST_NORMAL_OID, Guard, Routine, UserCast, UserOperator, UserType,
};

use super::{
    Inspector, SearchPath, SessionState,
    routine::{CodeIndex, longer},
    usage::{Lineage, Query},
};
use lockgate_model::sql::SqlClass;
use std::{
    collections::{HashMap, HashSet},
    sync::OnceLock,
};

/// What kind of relation (`pg_class.relkind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// `r`: an ordinary table.
    Table,
    /// `p`: a partitioned table.
    PartitionedTable,
    /// `v`: a view.
    View,
    /// `m`: a materialized view.
    MaterializedView,
    /// `f`: a foreign table.
    ForeignTable,
    /// `S`: a sequence.
    Sequence,
    /// `t`: a TOAST table; holds pieces of values.
    Toast,
    /// `c`: a composite type.
    Composite,
}

impl RelationKind {
    /// From `pg_class.relkind`; None for kinds without columns of their own (indexes).
    pub fn from_relkind(relkind: char) -> Option<Self> {
        Some(match relkind {
            'r' => Self::Table,
            'p' => Self::PartitionedTable,
            'v' => Self::View,
            'm' => Self::MaterializedView,
            'f' => Self::ForeignTable,
            'S' => Self::Sequence,
            't' => Self::Toast,
            'c' => Self::Composite,
            _ => return None,
        })
    }
}

/// One relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its schema (`pg_temp_3` and the like included).
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
    /// Its columns with attnum > 0 that are not dropped, by attribute number.
    pub columns: Vec<RelationColumn>,
    /// OIDs of the relations it inherits from or is a partition of (`pg_inherits`).
    pub parents: Vec<u32>,
    /// Views and materialized views: what they show.
    pub view: Option<ViewDefinition>,
}

/// One column of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// `pg_attribute.attnum`.
    pub attnum: i16,
    /// Its name.
    pub name: String,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// For a generated column, the columns of the same relation that its expression names, or 0 where it names none; for an
    /// ordinary one nothing.
    pub generated_from: Vec<i16>,
}

/// What a view shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewDefinition {
    /// `pg_get_viewdef(oid)`, taken with an empty `search_path`, so that every name in it is qualified.
    pub text: Option<String>,
    /// What `pg_depend` says its rewrite rule needs: (relation OID, attribute number; 0 for the whole relation).
    /// Used when the text is missing or not understood.
    pub depends_on: Vec<(u32, i16)>,
}

/// The text of one function or procedure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionCode {
    /// `pg_proc.proname`.
    pub name: String,
    /// `pg_language.lanname`.
    pub language: String,
    /// `pg_get_function_sqlbody(oid)`, or else `pg_proc.prosrc`.
    pub text: String,
}

/// What the loader read, before it is indexed.
#[derive(Clone, Debug, Default)]
pub struct CatalogueParts {
    /// Every relation of every schema, `pg_catalog` and `information_schema` included (system views differ in OID from
    /// one version to the next, so nothing about them is built in).
    pub relations: Vec<Relation>,
    /// Names of functions, procedures and aggregates outside `pg_catalog` and `information_schema` that are not members
    /// of an extension (`pg_depend.deptype = 'e'`): an unqualified call of such a name is not taken for the built-in.
    pub functions: HashSet<String>,
    /// Names of operators outside `pg_catalog` that are not members of an extension.
    pub operators: HashSet<String>,
    /// The texts of those functions that are written in the database, not in C by an extension.
    pub code: Vec<FunctionCode>,
    /// Names of the functions that the triggers of a relation (by OID) run; the server's own triggers are left out.
    pub triggers: HashMap<u32, Vec<String>>,
    /// Names of functions outside the system's schemas that are written in C, each with the extension it belongs to (empty:
    /// none).
    pub natives: Vec<(String, String)>,
    /// What runs functions under another name: an operator, an aggregate, a cast or a domain's check (`::type`); the name,
    /// the function, and whether that is the system's own.
    pub aliases: Vec<(String, String, bool)>,
    /// Expressions of defaults and generated columns: (relation OID, attribute number, text).
    pub defaults: Vec<(u32, i16, String)>,
    /// Names of the functions that a relation (by OID) hands its values to by itself: triggers, checks, defaults, generated
    /// columns, indexes, policies, rules, statistics.
    pub wired: HashMap<u32, Vec<String>>,
    /// Names of functions behind implicit casts that are written in the database.
    pub implicit_casts: HashSet<String>,
    /// Columns that the upstream role may not SELECT: (relation OID, attribute number).
    pub unreadable: HashSet<(u32, i16)>,
    /// OIDs of relations that are the upstream role's own.
    pub owned: HashSet<u32>,
    /// Foreign keys that change rows: from the relation that is referred to to those whose rows change with it.
    pub cascades: HashMap<u32, Vec<u32>>,
    /// OIDs of relations with rules, other than what makes a view, and what the rules read and write: (relation OID, attribute
    /// number; 0 for the whole relation).
    pub ruled: HashMap<u32, Vec<(u32, i16)>>,
    /// What columns of foreign tables are called where they are: schema, relation, column.
    pub remote: Vec<(u32, i16, [String; 3])>,
    /// `current_schemas(false)` of a fresh session of the upstream role: the search path when a session set none.
    pub search_path: Vec<String>,
    /// The code that reading can run.
    pub objects: Code,
    /// What the database's own types are made of: (type OID, OID of the type that it is an array, a domain or a range of, or
    /// 0, OID of the relation whose rows it holds, or 0).
    pub type_parts: Vec<(u32, u32, u32)>,
    /// How large relations with storage are, by OID; one that is missing is not known.
    pub sizes: HashMap<u32, TableSize>,
    /// Columns of unique keys that hold for every row, by the relation's OID.
    pub keys: HashMap<u32, Vec<Vec<i16>>>,
}

/// A target's schema at one moment.
#[derive(Clone, Debug, Default)]
pub struct CatalogueSnapshot {
    relations: Vec<Relation>,
    by_oid: HashMap<u32, usize>,
    by_name: HashMap<String, Vec<usize>>,
    functions: HashSet<String>,
    operators: HashSet<String>,
    code: Vec<FunctionCode>,
    triggers: HashMap<u32, Vec<String>>,
    natives: Vec<(String, String)>,
    aliases: Vec<(String, String, bool)>,
    defaults: Vec<(u32, i16, String)>,
    wired: HashMap<u32, Vec<String>>,
    implicit_casts: HashSet<String>,
    cascades: HashMap<u32, Vec<u32>>,
    unreadable: HashSet<(u32, i16)>,
    owned: HashSet<u32>,
    former: HashMap<(u32, i16), Vec<FormerName>>,
    row_types: HashMap<u32, u32>,
    sizes: HashMap<u32, TableSize>,
    keys: HashMap<u32, Vec<Vec<i16>>>,
    ruled: HashMap<u32, Vec<(u32, i16)>>,
    remote: Vec<(u32, i16, [String; 3])>,
    search_path: Vec<String>,
    children: HashMap<u32, Vec<u32>>,
    views: HashMap<u32, OnceLock<View>>,
    pub(super) code_index: CodeIndex,
}

/// A name that a column had: its schema's, its relation's, its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FormerName {
    pub(crate) schema: String,
    pub(crate) relation: String,
    pub(crate) column: String,
}

/// A view's text, understood once.
#[derive(Clone, Debug)]
struct View {
    query: Option<Query>,
    /// It calls what can show any value.
    calls_unknown: bool,
    /// It does nothing but read.
    is_harmless: bool,
}

/// Where an unqualified relation name is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// In the role's default path.
    Default,
    /// In these schemas, after `pg_catalog` unless they name it.
    Schemas(Vec<String>),
    /// The path is not known: every relation of that name is meant.
    Anywhere,
}

/// What a relation name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution<'a> {
    /// This relation, for sure.
    Found(&'a Relation),
    /// One of these: the path is not known, or a temporary relation has that name in some session.
    Several(Vec<&'a Relation>),
    /// Not in the snapshot.
    Unknown,
}

impl<'a> Resolution<'a> {
    /// All that it could be.
    pub fn candidates(&self) -> &[&'a Relation] {
        match self {
            Self::Found(relation) => std::slice::from_ref(relation),
            Self::Several(relations) => relations,
            Self::Unknown => &[],
        }
    }
}

/// The relation behind each type that holds rows, through arrays, domains and ranges.
fn row_types(parts: &[(u32, u32, u32)]) -> HashMap<u32, u32> {
    let mut rows: HashMap<u32, u32> = parts
        .iter()
        .filter(|(.., relation)| *relation != 0)
        .map(|(own, _, relation)| (*own, *relation))
        .collect();
    let mut open: Vec<(u32, u32)> =
        parts.iter().filter(|(_, part, _)| *part != 0).map(|(own, part, _)| (*own, *part)).collect();
    // Each round that finds something shortens what is left.
    loop {
        let before = open.len();
        open.retain(|(own, part)| match rows.get(part).copied() {
            Some(relation) => {
                rows.insert(*own, relation);
                false
            }
            None => true,
        });
        if open.len() == before {
            return rows;
        }
    }
}

impl CatalogueSnapshot {
    /// Indexes what the loader read.
    pub fn new(parts: CatalogueParts) -> Self {
        let mut by_oid = HashMap::with_capacity(parts.relations.len());
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::with_capacity(parts.relations.len());
        for (index, relation) in parts.relations.iter().enumerate() {
            by_oid.insert(relation.oid, index);
            by_name.entry(relation.name.clone()).or_default().push(index);
        }
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for relation in &parts.relations {
            for parent in &relation.parents {
                children.entry(*parent).or_default().push(relation.oid);
            }
        }
        let own = || parts.relations.iter().filter(|relation| !super::walk::is_system(&relation.schema));
        let views = own().filter(|one| one.view.is_some()).map(|one| (one.oid, OnceLock::new())).collect();
        let row_types = row_types(&parts.type_parts);
        let code_index = CodeIndex::new(parts.objects, own().map(|relation| relation.oid));
        Self {
            by_oid,
            by_name,
            functions: parts.functions,
            operators: parts.operators,
            code: parts.code,
            triggers: parts.triggers,
            natives: parts.natives,
            aliases: parts.aliases,
            defaults: parts.defaults,
            wired: parts.wired,
            implicit_casts: parts.implicit_casts,
            cascades: parts.cascades,
            unreadable: parts.unreadable,
            owned: parts.owned,
            former: HashMap::new(),
            row_types,
            sizes: parts.sizes,
            keys: parts.keys,
            ruled: parts.ruled,
            remote: parts.remote,
            search_path: parts.search_path,
            children,
            views,
            code_index,
            relations: parts.relations,
        }
    }

    /// Takes over what columns were called before: what is identified by relation and attribute outlives its name.
    pub fn remember(&mut self, before: &Self) {
        for (column, names) in &before.former {
            if self.relation(column.0).is_some() {
                self.former.entry(*column).or_default().extend(names.iter().cloned());
            }
        }
        for old in &before.relations {
            let Some(now) = self.relation(old.oid).filter(|now| now.kind == old.kind) else { continue };
            let moved = now.schema != old.schema || now.name != old.name;
            let renamed: Vec<(u32, i16, FormerName)> = old
                .columns
                .iter()
                .filter(|column| {
                    let here = now.columns.iter().find(|here| here.attnum == column.attnum);
                    here.is_some_and(|here| moved || here.name != column.name)
                })
                .map(|column| {
                    let (schema, relation) = (old.schema.clone(), old.name.clone());
                    (old.oid, column.attnum, FormerName { schema, relation, column: column.name.clone() })
                })
                .collect();
            for (oid, attnum, name) in renamed {
                let known = self.former.entry((oid, attnum)).or_default();
                if !known.contains(&name) {
                    known.push(name);
                }
            }
        }
    }

    /// What a column was called before, as far as this process saw it.
    pub(crate) fn former_names(&self, oid: u32, attnum: i16) -> &[FormerName] {
        self.former.get(&(oid, attnum)).map(Vec::as_slice).unwrap_or_default()
    }

    /// A view of the database's own, understood when it is first asked for.
    fn view(&self, oid: u32, trail: &[u32]) -> Option<&View> {
        let known = self.views.get(&oid)?;
        if known.get().is_none() {
            let understood = self.understand(self.relation(oid)?, trail);
            return Some(known.get_or_init(|| understood));
        }
        known.get()
    }

    fn understand(&self, relation: &Relation, trail: &[u32]) -> View {
        // The text was written for an empty search path, where only pg_catalog needs no qualifier.
        // What the view's functions look up, they look up in the path of the session that reads it.
        let mut state = SessionState::of_code(longer(trail, relation.oid).unwrap_or_else(|| trail.to_vec()));
        state.search_path = SearchPath::Known(Vec::new());
        state.standard_conforming_strings = Some(true);
        let text = relation.view.as_ref().and_then(|view| view.text.as_deref()).unwrap_or_default();
        let statements = Inspector.script(text, &state, Some(self)).statements;
        let query = match statements.as_slice() {
            [one] if one.class() != SqlClass::Opaque => match &one.usage.lineage {
                Lineage::Rows(query) => Some((query, one)),
                _ => None,
            },
            _ => None,
        };
        match query {
            Some((query, one)) => View {
                query: Some(query.clone()),
                calls_unknown: one.usage.unknown_function || !one.usage.calls.is_empty(),
                is_harmless: one.class() == SqlClass::Read,
            },
            None => View { query: None, calls_unknown: true, is_harmless: false },
        }
    }

    /// Whether a view does nothing but read.
    pub(super) fn view_is_harmless(&self, relation: &Relation, trail: &[u32]) -> bool {
        self.view(relation.oid, trail).is_some_and(|view| view.is_harmless)
    }

    /// How large a relation itself is, without those that inherit from it.
    pub(super) fn size(&self, oid: u32) -> Option<TableSize> {
        self.sizes.get(&oid).copied()
    }

    /// The unique keys of a relation.
    pub(super) fn keys(&self, oid: u32) -> &[Vec<i16>] {
        self.keys.get(&oid).map(Vec::as_slice).unwrap_or_default()
    }

    /// A relation and all that inherits from it, or is part of it.
    pub(super) fn family(&self, oid: u32) -> impl Iterator<Item = u32> {
        let mut family = vec![oid];
        let mut at = 0;
        while let Some(next) = family.get(at).copied() {
            at += 1;
            for child in self.children(next) {
                if !family.contains(child) {
                    family.push(*child);
                }
            }
        }
        family.into_iter()
    }

    /// The relations that inherit from one, or are its partitions.
    pub(super) fn children(&self, oid: u32) -> &[u32] {
        self.children.get(&oid).map(Vec::as_slice).unwrap_or_default()
    }

    /// Every relation.
    pub fn relations(&self) -> &[Relation] {
        &self.relations
    }

    /// The relation with this OID.
    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.by_oid.get(&oid).and_then(|index| self.relations.get(*index))
    }

    /// What a name stands for. As the server resolves it: temporary relations first, then `pg_catalog` unless the path
    /// names it, then the path in order.
    pub fn resolve(&self, schema: Option<&str>, name: &str, lookup: &Lookup) -> Resolution<'_> {
        let named =
            || self.by_name.get(name).into_iter().flatten().filter_map(|index| self.relations.get(*index));
        let within = |schema: &str| named().find(|relation| relation.schema == schema);
        let first = |path: &[String]| {
            let implicit = (!path.iter().any(|schema| schema == "pg_catalog")).then_some("pg_catalog");
            implicit.into_iter().chain(path.iter().map(String::as_str)).find_map(within)
        };
        let found = match (schema, lookup) {
            (Some("pg_temp"), _) => None,
            (Some(schema), _) => return within(schema).map_or(Resolution::Unknown, Resolution::Found),
            (None, Lookup::Default) => first(&self.search_path),
            (None, Lookup::Schemas(path)) => first(path),
            (None, Lookup::Anywhere) => return Self::several(named().collect()),
        };
        // A temporary relation of that name may be this session's, or another one's.
        Self::several(
            named().filter(|relation| relation.schema.starts_with("pg_temp")).chain(found).collect(),
        )
    }

    fn several(mut relations: Vec<&Relation>) -> Resolution<'_> {
        match (relations.pop(), relations.is_empty()) {
            (None, _) => Resolution::Unknown,
            (Some(one), true) => Resolution::Found(one),
            (Some(one), false) => {
                relations.push(one);
                Resolution::Several(relations)
            }
        }
    }

    /// The tables that a view reads in the end, other views between included.
    pub(crate) fn bases(&self, oid: u32) -> Vec<&Relation> {
        let mut seen = HashSet::from([oid]);
        let mut open = vec![oid];
        let mut bases = Vec::new();
        while let Some(next) = open.pop() {
            let Some(view) = self.relation(next).and_then(|relation| relation.view.as_ref()) else {
                continue;
            };
            for (base, _) in &view.depends_on {
                if seen.insert(*base)
                    && let Some(relation) = self.relation(*base)
                {
                    bases.push(relation);
                    open.push(*base);
                }
            }
        }
        bases
    }

    /// Whether a view, or one that it reads, calls a function that is not known to be harmless.
    pub(crate) fn view_calls_unknown(&self, oid: u32) -> bool {
        let calls_unknown = |oid| self.view(oid, &[]).is_some_and(|view| view.calls_unknown);
        calls_unknown(oid) || self.bases(oid).iter().any(|base| calls_unknown(base.oid))
    }

    /// What a view shows, when its text was understood.
    pub(crate) fn view_query(&self, oid: u32) -> Option<&Query> {
        self.view(oid, &[]).and_then(|view| view.query.as_ref())
    }

    /// Names of functions and operators outside `pg_catalog`.
    pub(crate) fn own_names(&self) -> impl Iterator<Item = &String> {
        self.functions.iter().chain(&self.operators)
    }

    /// The texts of functions.
    pub(crate) fn code(&self) -> &[FunctionCode] {
        &self.code
    }

    /// The functions that a relation's triggers run.
    pub(crate) fn triggers(&self, oid: u32) -> &[String] {
        self.triggers.get(&oid).map(Vec::as_slice).unwrap_or_default()
    }

    /// Functions in C, each with its extension.
    pub(crate) fn natives(&self) -> &[(String, String)] {
        &self.natives
    }

    /// What runs functions under another name.
    pub(crate) fn aliases(&self) -> &[(String, String, bool)] {
        &self.aliases
    }

    /// Defaults and generated columns.
    pub(crate) fn defaults(&self) -> &[(u32, i16, String)] {
        &self.defaults
    }

    /// The functions that a relation hands its values to by itself.
    pub(crate) fn wired(&self, oid: u32) -> &[String] {
        self.wired.get(&oid).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a value can meet code of the database's own where types differ, with nothing in the statement to show it.
    pub(crate) fn casts_by_itself(&self) -> bool {
        !self.implicit_casts.is_empty()
    }

    /// The relations whose rows change when those of this one do.
    pub(crate) fn cascades(&self, oid: u32) -> &[u32] {
        self.cascades.get(&oid).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the upstream role may SELECT a column.
    pub(crate) fn may_read(&self, oid: u32, attnum: i16) -> bool {
        !self.unreadable.contains(&(oid, attnum))
    }

    /// The relation whose rows a type holds: its row type, arrays, domains and ranges of it.
    pub(crate) fn rows_in(&self, type_oid: u32) -> Option<u32> {
        self.row_types.get(&type_oid).copied()
    }

    /// Whether a relation is the upstream role's own.
    pub(crate) fn is_owned(&self, oid: u32) -> bool {
        self.owned.contains(&oid)
    }

    /// Whether rules turn what is done to a relation into something else.
    pub(crate) fn is_ruled(&self, oid: u32) -> bool {
        self.ruled.contains_key(&oid)
    }

    /// What the rules of a relation read and write.
    pub(crate) fn rules(&self, oid: u32) -> &[(u32, i16)] {
        self.ruled.get(&oid).map(Vec::as_slice).unwrap_or_default()
    }

    /// What columns of foreign tables are called where they are.
    pub(crate) fn remote(&self) -> &[(u32, i16, [String; 3])] {
        &self.remote
    }

    /// Whether a function of this name exists outside `pg_catalog`.
    pub fn has_user_function(&self, name: &str) -> bool {
        self.functions.contains(name)
    }

    /// Whether an operator of this name exists outside `pg_catalog`.
    pub fn has_user_operator(&self, name: &str) -> bool {
        self.operators.contains(name)
    }
}

impl Relation {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&RelationColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}
