//! Relations that a statement may touch without naming them: what is behind a view, partitions and parents, what triggers
//! and functions mention in their texts. Found by words, so rather too many than too few: good for rules that restrict, and
//! no reason to permit anything.

use super::{
    catalogue::{CatalogueSnapshot, Lookup},
    reveals,
    walk::is_system,
};
use lockgate_model::sql::RelationName;
use std::collections::{BTreeSet, HashSet};

/// Functions whose texts are looked into for one statement; beyond it nobody can tell what is touched.
const MAX_FUNCTIONS: usize = 64;
/// Bytes of their texts, all together.
const MAX_TEXT: usize = 1024 * 1024;

/// What is found.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The relations.
    pub(super) relations: BTreeSet<RelationName>,
    /// There may be others.
    pub(super) unseen: bool,
}

/// What a statement asks about.
pub(super) struct Asked<'a> {
    /// All relations that it names, or that are known to be behind what it names.
    pub(super) named: &'a BTreeSet<RelationName>,
    /// Those that it changes: their triggers run.
    pub(super) written: &'a BTreeSet<RelationName>,
    /// Code of the database's own that it calls by name.
    pub(super) calls: &'a BTreeSet<String>,
    pub(super) lookup: &'a Lookup,
}

/// Looks behind what a statement names.
pub(super) fn behind(asked: &Asked<'_>, catalogue: &CatalogueSnapshot) -> Behind {
    let mut search = Search {
        catalogue,
        oids: HashSet::new(),
        above: HashSet::new(),
        texts: MAX_TEXT,
        done: HashSet::new(),
        unseen: false,
    };
    let mut open: Vec<String> = asked.calls.iter().filter(|name| *name != "set_config").cloned().collect();
    for name in asked.named.iter().filter(|name| !name.schema.as_deref().is_some_and(is_system)) {
        for found in catalogue.resolve(name.schema.as_deref(), &name.name, asked.lookup).candidates() {
            search.relation(found.oid);
        }
    }
    for name in asked.written {
        for found in catalogue.resolve(name.schema.as_deref(), &name.name, asked.lookup).candidates() {
            // Through a view that can be written, its tables are.
            let below = catalogue.bases(found.oid);
            let written = below.iter().map(|base| base.oid).chain([found.oid]);
            for oid in written.flat_map(|oid| catalogue.family(oid).collect::<Vec<_>>()) {
                open.extend(catalogue.triggers(oid).iter().cloned());
                open.extend(catalogue.wired(oid).iter().cloned());
                search.unseen |= catalogue.is_ruled(oid);
                for changed in catalogue.cascades(oid) {
                    search.relation(*changed);
                }
            }
        }
    }
    search.functions(open);
    let Search { oids, above, unseen, .. } = search;
    let relations = oids
        .into_iter()
        .chain(above)
        .filter_map(|oid| catalogue.relation(oid))
        .filter(|relation| !is_system(&relation.schema))
        .map(|relation| RelationName { schema: Some(relation.schema.clone()), name: relation.name.clone() })
        .filter(|name| !asked.named.contains(name))
        .collect();
    Behind { relations, unseen }
}

struct Search<'a> {
    catalogue: &'a CatalogueSnapshot,
    oids: HashSet<u32>,
    above: HashSet<u32>,
    texts: usize,
    done: HashSet<String>,
    unseen: bool,
}

impl Search<'_> {
    /// A relation, with what is behind it, below it and above it. What is beside it, below the same parent, is not touched.
    fn relation(&mut self, oid: u32) {
        let mut open = vec![oid];
        let mut above = Vec::new();
        while let Some(next) = open.pop() {
            if !self.oids.insert(next) {
                continue;
            }
            open.extend(self.catalogue.bases(next).iter().map(|base| base.oid));
            open.extend(self.catalogue.children(next).iter().copied());
            above.extend(self.parents(next));
        }
        while let Some(next) = above.pop() {
            if self.above.insert(next) {
                above.extend(self.parents(next));
            }
        }
    }

    fn parents(&self, oid: u32) -> impl Iterator<Item = u32> {
        self.catalogue.relation(oid).into_iter().flat_map(|relation| relation.parents.iter().copied())
    }

    fn functions(&mut self, mut open: Vec<String>) {
        while let Some(name) = open.pop() {
            if self.unseen || !self.done.insert(name.clone()) {
                continue;
            }
            if self.done.len() > MAX_FUNCTIONS {
                self.unseen = true;
                return;
            }
            let mut known = false;
            let texts: Vec<_> = self.catalogue.code().iter().filter(|code| code.name == name).collect();
            for code in texts {
                known = true;
                self.texts = self.texts.saturating_sub(code.text.len());
                let readable = matches!(code.language.as_str(), "sql" | "plpgsql");
                let words = words(&code.text);
                // EXECUTE runs a text that is put together while it runs.
                if !readable || self.texts == 0 || words.contains("execute") {
                    self.unseen = true;
                    return;
                }
                for word in &words {
                    for found in self.catalogue.resolve(None, word, &Lookup::Anywhere).candidates() {
                        if !is_system(&found.schema) {
                            self.relation(found.oid);
                        }
                    }
                    if self.catalogue.has_user_function(word) {
                        open.push(word.clone());
                    }
                }
            }
            for (_, function, is_system) in
                self.catalogue.aliases().iter().filter(|(alias, ..)| *alias == name)
            {
                known = true;
                if !is_system {
                    open.push(function.clone());
                }
            }
            // What extensions bring in C reads no table, but for those that are known to.
            known |= !reveals(&name)
                && self
                    .catalogue
                    .natives()
                    .iter()
                    .any(|(native, extension)| *native == name && !extension.is_empty());
            self.unseen |= !known;
        }
    }
}

/// The words of a text as names: folded as the server folds them, and as they stand between quotes.
fn words(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for word in
        text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$'))).filter(|word| !word.is_empty())
    {
        words.insert(word.to_lowercase());
        words.insert(word.to_owned());
    }
    words.extend(text.split('"').skip(1).step_by(2).map(str::to_owned));
    words
}
