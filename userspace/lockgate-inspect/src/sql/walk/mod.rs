//! One walk over the grammar's tree gathers both: what a statement does (class, relations, columns, effects) and its
//! lineage. Names of WITH queries are scoped as the server scopes them; what the walk has no words for is still searched
//! for relations, columns and functions.
//!
//! Nodes nest at most as deep as prost decodes (100 messages), so recursion here is bounded by the parser.

mod change;
mod definition;
mod expr;
mod makes;
mod query;
mod reach;
mod scope;
mod types;
mod utility;

use super::{
    Control, Makes, SessionState,
    catalogue::{CatalogueSnapshot, Lookup, RelationKind, Resolution},
    fold::Budget,
    function::{self, Operator},
    usage::{Defined, Lineage},
};
use lockgate_model::sql::{Reach, RelationName, SqlClass, SqlEffect};
use pg_query::{
    NodeEnum,
    protobuf::{Node, RangeVar},
};
use scope::Scope;
use std::{collections::BTreeSet, sync::Arc};

/// The texts of a statement: what is kept with it, and with the statement that it gives a name to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts<'a> {
    pub(super) exact: &'a str,
    pub(super) normalized: &'a str,
    pub(super) fingerprint: &'a str,
}

/// What one statement turned out to be.
pub(super) struct Understood {
    pub(super) kind: &'static str,
    pub(super) bounded: Option<bool>,
    pub(super) lineage: Lineage,
    pub(super) control: Control,
    pub(super) gathered: Gathered,
    /// Set when it must count as opaque: why.
    pub(super) opaque: Option<String>,
    /// How far it reaches beyond what it names.
    pub(super) reach: Reach,
}

impl Understood {
    /// Leaves out where its columns stand: that nests as the text does, and is walked where the stack is not as deep.
    pub(super) fn forget_lineage(&mut self) {
        self.lineage = Lineage::Unknown;
        if let Control::Prepare { inner, .. } | Control::Declare { inner, .. } = &mut self.control {
            let statement = Arc::make_mut(inner);
            Arc::make_mut(&mut statement.usage).lineage = Lineage::Unknown;
        }
    }

    /// Not understood, and this is why.
    pub(super) fn opaque(kind: &'static str, why: String) -> Self {
        Self {
            kind,
            bounded: None,
            lineage: Lineage::Unknown,
            control: Control::Anything,
            gathered: Gathered { unknown_function: true, ..Gathered::default() },
            opaque: Some(why),
            reach: Reach { unseen: true, ..Reach::default() },
        }
    }
}

/// What the walk picks up on its way.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) class: SqlClass,
    pub(super) read: BTreeSet<RelationName>,
    pub(super) written: BTreeSet<RelationName>,
    pub(super) columns: BTreeSet<String>,
    pub(super) functions: BTreeSet<String>,
    pub(super) effects: BTreeSet<SqlEffect>,
    /// Relations in any role, as they resolve.
    pub(super) named: BTreeSet<RelationName>,
    pub(super) unknown_function: bool,
    pub(super) calls: BTreeSet<String>,
    pub(super) defines: BTreeSet<Defined>,
    /// It removes what cannot be had back.
    pub(super) destroys: bool,
    /// The data-modifying part that does most, when there is one below the top.
    verb: Option<Verb>,
    /// set_config() was seen.
    setting: Option<Control>,
    /// What it makes that later names can stand for.
    pub(super) makes: Makes,
    /// Code of the database's own runs that may change settings.
    pub(super) unsettles: bool,
    /// An expression, a type or a relation in it stands for code that nobody can vouch for.
    computes_unknown: bool,
}

impl Default for Gathered {
    fn default() -> Self {
        Self {
            class: SqlClass::Read,
            read: BTreeSet::new(),
            written: BTreeSet::new(),
            columns: BTreeSet::new(),
            functions: BTreeSet::new(),
            effects: BTreeSet::new(),
            named: BTreeSet::new(),
            unknown_function: false,
            calls: BTreeSet::new(),
            defines: BTreeSet::new(),
            destroys: false,
            verb: None,
            setting: None,
            makes: Makes::Nothing,
            unsettles: false,
            computes_unknown: false,
        }
    }
}

/// A data-modifying verb and whether it is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Verb {
    unbounded: bool,
    weight: u8,
    kind: &'static str,
}

impl Verb {
    fn new(kind: &'static str, bounded: Option<bool>) -> Self {
        let weight = match kind {
            "delete" => 4,
            "update" => 3,
            "merge" => 2,
            _ => 1,
        };
        Self { unbounded: bounded == Some(false), weight, kind }
    }

    fn bounded(self) -> Option<bool> {
        (self.kind != "insert").then_some(!self.unbounded)
    }
}

/// The walk over one statement.
pub(super) struct Walk<'a> {
    texts: Texts<'a>,
    state: &'a SessionState,
    lookup: Lookup,
    catalogue: Option<&'a CatalogueSnapshot>,
    gathered: Gathered,
    /// Names of WITH queries in scope, innermost last.
    ctes: Scope<()>,
    /// Names that columns can be qualified with, innermost last, and the relation each stands for.
    aliases: Scope<Option<RelationName>>,
    /// What the column `name` is equal to wherever the statement's rows come from.
    fixed_name: Option<String>,
    /// How much of the texts that functions run may still be inspected.
    budget: &'a Budget,
}

impl<'a> Walk<'a> {
    /// Understands one statement.
    pub(super) fn statement(
        node: &NodeEnum,
        texts: Texts<'a>,
        state: &'a SessionState,
        catalogue: Option<&'a CatalogueSnapshot>,
        budget: &'a Budget,
    ) -> Understood {
        let mut walk = Self {
            texts,
            state,
            lookup: state.lookup(),
            catalogue,
            gathered: Gathered::default(),
            ctes: Scope::default(),
            aliases: Scope::default(),
            fixed_name: None,
            budget,
        };
        let utility::Told { kind, bounded, lineage, control, opaque } = walk.dispatch(node);
        let gathered = walk.gathered;
        // EXPLAIN, COPY and WITH run what is inside them: the verb that does most names the statement.
        let (kind, bounded) = match gathered.verb {
            Some(verb) if matches!(kind, "select" | "insert" | "update" | "delete" | "merge" | "copy") => {
                let own = Verb::new(kind, bounded);
                if kind == "select" || kind == "copy" || verb > own {
                    (verb.kind, verb.bounded())
                } else {
                    (kind, bounded)
                }
            }
            _ => (kind, bounded),
        };
        let control = match (control, &gathered.setting) {
            (Control::None, Some(setting)) => setting.clone(),
            (control, _) => control,
        };
        let reach = reach::reach(node, &lineage, &gathered, state, catalogue);
        Understood { kind, bounded, lineage, control, gathered, opaque, reach }
    }

    fn raise(&mut self, class: SqlClass) {
        self.gathered.class = self.gathered.class.stricter(class);
    }

    fn effect(&mut self, effect: SqlEffect) {
        self.gathered.effects.insert(effect);
    }

    /// The relation that is meant: with its schema, when it is written or the catalogue tells.
    fn resolve(&mut self, relation: &RangeVar) -> RelationName {
        let schema = Some(relation.schemaname.clone()).filter(|schema| !schema.is_empty());
        let name = match self.look_up(schema.as_deref(), &relation.relname) {
            Resolution::Found(found) => {
                RelationName { schema: Some(found.schema.clone()), name: found.name.clone() }
            }
            Resolution::Several(_) | Resolution::Unknown => {
                RelationName { schema, name: relation.relname.clone() }
            }
        };
        self.gathered.named.insert(name.clone());
        name
    }

    fn look_up(&self, schema: Option<&str>, name: &str) -> Resolution<'a> {
        match self.catalogue {
            Some(catalogue) => catalogue.resolve(schema, name, &self.lookup),
            None => Resolution::Unknown,
        }
    }

    /// A relation that is read; a view with what it shows.
    fn read(&mut self, relation: &RangeVar) -> RelationName {
        let name = self.resolve(relation);
        self.gathered.read.insert(name.clone());
        self.vouch(relation);
        let Some(catalogue) = self.catalogue else { return name };
        for found in self.look_up(name.schema.as_deref(), &name.name).candidates() {
            if found.kind != RelationKind::View || is_system(&found.schema) {
                continue;
            }
            for base in catalogue.bases(found.oid) {
                self.gathered
                    .read
                    .insert(RelationName { schema: Some(base.schema.clone()), name: base.name.clone() });
            }
            self.gathered.unknown_function |= catalogue.view_calls_unknown(found.oid);
        }
        name
    }

    /// Whether reading a relation does nothing else: it is not a view that calls what writes, not a foreign table, not
    /// one whose policies or types run unknown code. Without a catalogue it is taken for a table, unless the session made
    /// it something else.
    fn vouch(&mut self, relation: &RangeVar) {
        let schema = Some(relation.schemaname.as_str()).filter(|schema| !schema.is_empty());
        let name = relation.relname.as_str();
        let in_doubt = self.state.in_doubt(name) && !schema.is_some_and(is_system);
        let harmless = match (self.catalogue, self.look_up(schema, name)) {
            // It was asked for, and the target did not answer: nothing is known of any relation.
            (None, _) if self.state.catalogue_missing => schema.is_some_and(is_system),
            (None, _) => !in_doubt || self.state.made_plain(name),
            // A name that is not there may be a view that another session made a moment ago, or this one.
            (Some(_), Resolution::Unknown) => self.state.made_plain(name),
            (Some(catalogue), found) => {
                !in_doubt
                    && found
                        .candidates()
                        .iter()
                        .all(|relation| catalogue.reads_harmlessly(relation, &self.state.trail))
            }
        };
        if !harmless {
            self.computes_unknown();
        }
    }

    /// Code runs that the text does not name, and that nobody can vouch for.
    fn computes_unknown(&mut self) {
        self.raise(SqlClass::Write);
        self.effect(SqlEffect::UnknownFunction);
        self.gathered.computes_unknown = true;
        self.runs_own_code();
    }

    /// Code of the database's own runs, and does what it likes.
    fn runs_own_code(&mut self) {
        self.gathered.unsettles |= self.catalogue.is_none_or(CatalogueSnapshot::code_changes_settings);
    }

    /// A relation whose rows change: its triggers, rules and defaults run with it.
    fn changed(&mut self, relation: &RangeVar) {
        let schema = Some(relation.schemaname.as_str()).filter(|schema| !schema.is_empty());
        let found = self.look_up(schema, &relation.relname);
        let is_settings = |schema: &str, name: &str| is_system(schema) && name == "pg_settings";
        let behind = self.catalogue.is_some_and(|catalogue| {
            let mut bases = found.candidates().iter().flat_map(|found| catalogue.bases(found.oid));
            bases.any(|base| is_settings(&base.schema, &base.name))
        });
        if behind || schema.is_none_or(is_system) && relation.relname == "pg_settings" {
            // Its rule calls set_config() with what the row says: any setting, the role too.
            let effects = [SqlEffect::ChangesMeaning, SqlEffect::SetsRole, SqlEffect::UnknownFunction];
            self.gathered.effects.extend(effects);
            self.gathered.setting = Some(Control::Anything);
        }
        let Some(catalogue) = self.catalogue else { return };
        let runs_more = found.candidates().iter().any(|found| {
            catalogue.is_ruled(found.oid)
                || catalogue.family(found.oid).any(|oid| !catalogue.triggers(oid).is_empty())
        });
        if runs_more {
            self.effect(SqlEffect::UnknownFunction);
            self.runs_own_code();
        }
    }

    fn write(&mut self, relation: &RangeVar) -> RelationName {
        let name = self.resolve(relation);
        self.gathered.written.insert(name.clone());
        name
    }

    /// Something runs that nobody can vouch for.
    fn unknown(&mut self, class: SqlClass, effects: &[SqlEffect]) {
        self.raise(class);
        self.gathered.effects.extend(effects);
        self.gathered.unknown_function = true;
        self.gathered.computes_unknown = true;
        self.runs_own_code();
    }

    /// The same, by a name that the catalogue may know.
    fn unknown_call(&mut self, name: &str, class: SqlClass, effects: &[SqlEffect]) {
        self.gathered.computes_unknown = true;
        self.runs_own_code();
        self.raise(class);
        self.gathered.effects.extend(effects);
        self.gathered.calls.insert(name.to_owned());
    }

    fn is_cte(&self, relation: &RangeVar) -> bool {
        relation.schemaname.is_empty()
            && relation.catalogname.is_empty()
            && self.ctes.find(&relation.relname).is_some()
    }

    fn verb(&mut self, kind: &'static str, bounded: Option<bool>) {
        let verb = Verb::new(kind, bounded);
        self.gathered.verb = Some(self.gathered.verb.map_or(verb, |known| known.max(verb)));
    }

    /// Whether an operator is a built-in one; another one calls a function that nobody can vouch for.
    fn operator(&mut self, name: &[Node]) -> bool {
        let (schema, name) = qualified(name);
        self.operator_of(schema, name)
    }

    fn operator_of(&mut self, schema: Option<&str>, name: &str) -> bool {
        // A comparison can become a join that sorts or hashes.
        self.sorts();
        self.converts();
        match function::operator(schema, name, self.state, self.catalogue) {
            Operator::Builtin => return true,
            // It changes nothing, but what it shows is its own affair.
            Operator::Harmless => {
                self.gathered.calls.insert(name.to_owned());
            }
            Operator::Unknown => self.unknown_call(name, SqlClass::Write, &[SqlEffect::UnknownFunction]),
        }
        false
    }

    /// Values are sorted, hashed or compared, by a function that nothing here names.
    fn sorts(&mut self) {
        if self.catalogue.is_some_and(|catalogue| catalogue.beneath().sorts) {
            self.unknown(SqlClass::Write, &[SqlEffect::UnknownFunction]);
        }
    }

    /// Values of one type may have to become values of another.
    fn converts(&mut self) {
        if self.catalogue.is_some_and(|catalogue| catalogue.beneath().casts_by_itself) {
            self.unknown(SqlClass::Write, &[SqlEffect::UnknownFunction]);
        }
    }

    /// A value becomes one of a type that is named.
    fn casts(&mut self) {
        if self.catalogue.is_some_and(|catalogue| catalogue.beneath().casts) {
            self.unknown(SqlClass::Write, &[SqlEffect::UnknownFunction]);
        }
    }

    /// Operators that a construct of the grammar stands for, and that the server looks up by name.
    fn implied(&mut self, names: &[&str]) -> bool {
        names.iter().filter(|name| !self.operator_of(None, name)).count() == 0
    }
}

/// Whether the system has a type of this name.
pub(super) fn is_builtin_type(name: &str) -> bool {
    types::is_builtin(name)
}

/// System schemas hold nothing that a session made.
pub(super) fn is_system(schema: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema")
}

/// The last part of a name, and the one before it.
fn qualified(name: &[Node]) -> (Option<&str>, &str) {
    let mut parts = name.iter().rev().map(string);
    let last = parts.next().unwrap_or_default();
    (parts.next(), last)
}

/// The text of a String node; empty for others.
fn string(node: &Node) -> &str {
    match &node.node {
        Some(NodeEnum::String(text)) => &text.sval,
        _ => "",
    }
}

pub(in crate::sql) fn strings(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| string(node).to_owned()).collect()
}

fn inner(node: &Option<Box<Node>>) -> Option<&NodeEnum> {
    node.as_ref().and_then(|node| node.node.as_ref())
}
