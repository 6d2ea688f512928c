//! Columns that the database's own code fills with masked values: what functions and procedures store, and what triggers put
//! into rows or keep elsewhere (an audit table). Such a column is masked like the one that it was filled from, whoever ran the
//! code and whenever.
//!
//! Statements in the code are resolved like any other. Its parameters hold nothing masked, since no statement may hand
//! masked values to a function; of its variables nobody knows, so they count as masked where the text names a masked column
//! or whole rows. Code that runs texts is not followed here: calling it is refused where it leads to masked columns.

use super::{
    cover::Cover,
    judge::Judge,
    scope::{Item, Scope},
    taint::{Columns, Taint},
};
use crate::sql::{
    catalogue::{CatalogueSnapshot, FunctionCode, Lookup, Relation},
    stores::{NEW_ROW, OLD_ROW, Store, stores},
};
use lockgate_model::sql::RelationName;
use std::collections::{HashMap, HashSet};

/// Languages whose statements are found.
const READABLE: [&str; 2] = ["sql", "plpgsql"];

/// What PL/pgSQL tells a trigger's function and any other; it holds no row's values.
const TOLD: [&str; 12] = [
    "found",
    "sqlstate",
    "tg_argv",
    "tg_event",
    "tg_level",
    "tg_name",
    "tg_nargs",
    "tg_op",
    "tg_relid",
    "tg_table_name",
    "tg_table_schema",
    "tg_when",
];

/// What code stores, found once for all rounds.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    known: HashMap<usize, Option<Vec<Store>>>,
}

impl Carriers {
    /// The columns that are filled with what is masked as far as it is covered by now: (relation, attribute).
    pub(super) fn columns(&mut self, cover: &Cover, catalogue: &CatalogueSnapshot) -> Vec<(u32, i16)> {
        let mut rows: HashMap<&str, Vec<&Relation>> = HashMap::new();
        for relation in catalogue.relations() {
            for name in catalogue.triggers(relation.oid) {
                rows.entry(name.as_str()).or_default().push(relation);
            }
        }
        let names = cover.masked_names(catalogue);
        let mut found = Vec::new();
        for (index, code) in catalogue.code().iter().enumerate() {
            if !READABLE.contains(&code.language.as_str()) {
                continue;
            }
            let rows = rows.get(code.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let is_fed = rows.iter().any(|row| cover.touches(row.oid));
            if !is_fed && !cover.reach().function(&code.name) {
                continue;
            }
            let stores = self.known.entry(index).or_insert_with(|| stores(&code.text, catalogue));
            let holds = is_fed || holds_values(cover, &names, &code.text);
            let one = Carrier { cover, catalogue, code, rows, holds };
            match stores {
                Some(stores) => stores.iter().for_each(|store| one.columns(store, &mut found)),
                // It cannot be read: whatever it names it may fill.
                None => words(&code.text).iter().for_each(|name| one.whole(None, name, &mut found)),
            }
        }
        found.retain(|column| cover.column(column.0, column.1).is_none());
        found
    }
}

/// Whether variables of the code may hold masked values.
fn holds_values(cover: &Cover, names: &HashSet<String>, text: &str) -> bool {
    let text = text.to_lowercase();
    let stars = text.replace("(*)", "").contains('*');
    stars
        || words(&text).iter().any(|word| {
            names.contains(word) || *word == "rowtype" || *word == "record" || cover.reach().function(word)
        })
}

fn words(text: &str) -> HashSet<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

struct Carrier<'a> {
    cover: &'a Cover,
    catalogue: &'a CatalogueSnapshot,
    code: &'a FunctionCode,
    /// The relations whose rows it is given, as a trigger's function.
    rows: &'a [&'a Relation],
    /// Its variables may hold masked values.
    holds: bool,
}

impl Carrier<'_> {
    fn columns(&self, store: &Store, found: &mut Vec<(u32, i16)>) {
        let lookup = Lookup::Anywhere;
        let mut judge = Judge::new(self.cover, self.catalogue, &lookup);
        let scope = self.scope(&mut judge);
        let carries = |taint: &Taint| match taint {
            Taint::Clean => false,
            Taint::Unknown => self.holds,
            Taint::Masked(_) | Taint::Derived(_) => true,
        };
        match store {
            Store::Change(change) => found.extend(judge.carried(change, &scope, &carries)),
            Store::Anything(RelationName { schema, name }) => self.whole(schema.as_deref(), name, found),
            Store::New(name, value) => {
                let taint = value.as_ref().map_or(Taint::Unknown, |query| judge.query(query, &scope).all);
                if carries(&taint) {
                    let columns =
                        self.rows.iter().filter_map(|row| Some((row.oid, row.column(name)?.attnum)));
                    found.extend(columns);
                }
            }
        }
    }

    /// The names that stand in the code besides its relations'.
    fn scope(&self, judge: &mut Judge<'_>) -> Scope<'static> {
        let mut scope = Scope::root();
        let parameters = self.catalogue.parameters(&self.code.name);
        let text = self.code.text.to_lowercase();
        let given = parameters.iter().filter(|name| !is_assigned(&text, name)).map(String::as_str);
        let clean = given.chain(TOLD).map(|name| (name.to_owned(), Taint::Clean)).collect();
        let columns = Columns { exact: false, ..Columns::known(clean) };
        scope.put(Item { alias: Some(self.code.name.clone()), columns });
        let row = self.rows.iter().map(|row| judge.columns_of(row)).reduce(Columns::either);
        if let Some(row) = row {
            for alias in [NEW_ROW, OLD_ROW] {
                scope.put(Item { alias: Some(alias.to_owned()), columns: row.clone() });
            }
        }
        scope
    }

    /// A whole relation may be filled with anything.
    fn whole(&self, schema: Option<&str>, name: &str, found: &mut Vec<(u32, i16)>) {
        if !self.holds {
            return;
        }
        for relation in self.catalogue.resolve(schema, name, &Lookup::Anywhere).candidates() {
            if !matches!(relation.schema.as_str(), "pg_catalog" | "information_schema") {
                found.extend(relation.columns.iter().map(|column| (relation.oid, column.attnum)));
            }
        }
    }
}

/// Whether a text may give a parameter another value: by an assignment, or by an INTO that stands before it.
fn is_assigned(text: &str, name: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    text.split(';').any(|statement| {
        let mut after_into = false;
        let mut rest = statement;
        while let Some(start) = rest.find(is_name) {
            let (_, from) = rest.split_at(start);
            let (word, behind) = from.split_at(from.find(|c| !is_name(c)).unwrap_or(from.len()));
            match word {
                "into" => after_into = true,
                "from" | "values" | "select" | "where" => after_into = false,
                word if word == name => {
                    let next = behind.trim_start();
                    if after_into || next.starts_with(":=") || next.starts_with('=') {
                        return true;
                    }
                }
                _ => {}
            }
            rest = behind;
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_keep_their_values_unless_something_assigns_them() {
        for (text, assigned) in [
            ("insert into t values (p, 1)", false),
            ("begin insert into t (a) values (p); return p; end", false),
            ("begin p := (select ssn from customers); end", true),
            ("begin p = 1; end", true),
            ("begin select ssn into p from customers; end", true),
            ("begin select ssn, id into strict q, p from customers; end", true),
            ("begin select ssn into q from customers where id > p; end", false),
            ("begin fetch c into p; end", true),
        ] {
            assert_eq!(is_assigned(text, "p"), assigned, "{text}");
        }
    }
}
