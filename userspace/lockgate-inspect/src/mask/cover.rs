//! Which columns of a target are masked, by the server's own (table OID, attribute number): what the patterns name, and
//! what takes its values from there (children and partitions, their parents, generated columns, views).

use super::{MaskKeys, carry::Carriers, judge::Judge, method::Method, reach::Reach, taint::Taint};
use crate::sql::catalogue::{CatalogueSnapshot, Lookup, Relation, RelationKind, ViewDefinition};
use lockgate_model::verdict::{ColumnPattern, MaskSpec, UnknownLineage};
use std::collections::{HashMap, HashSet};

/// Columns of system relations that show values of tables, or statements of others with the values in them.
const SYSTEM_VALUES: [(&str, &[&str]); 11] = [
    ("pg_stats", &["most_common_vals", "histogram_bounds", "most_common_elems", "range_bounds_histogram"]),
    ("pg_stats_ext", &["most_common_vals", "most_common_val_nulls"]),
    ("pg_stats_ext_exprs", &["most_common_vals", "histogram_bounds", "most_common_elems"]),
    ("pg_statistic", &["stavalues1", "stavalues2", "stavalues3", "stavalues4", "stavalues5"]),
    ("pg_statistic_ext_data", &["stxdmcv", "stxdexpr"]),
    ("pg_attribute", &["attmissingval"]),
    ("pg_largeobject", &["data"]),
    ("pg_stat_activity", &["query"]),
    ("pg_stat_statements", &["query"]),
    ("pg_prepared_statements", &["statement"]),
    ("pg_cursors", &["statement"]),
];

/// OIDs below are the system's own (FirstNormalObjectId in transam.h).
const FIRST_OWN_OID: u32 = 16_384;

/// Views over views over views: deeper than this, whatever depends on a masked table is masked whole.
const MAX_VIEW_ROUNDS: usize = 16;

/// Functions over views over functions: what a longer chain than this reaches is what its links reach.
const MAX_REACH_ROUNDS: usize = 8;

/// How the columns of a target are covered.
#[derive(Clone, Debug, Default)]
pub(super) struct Cover {
    columns: HashMap<(u32, i16), Method>,
    relations: HashSet<u32>,
    /// The patterns' column parts, for relations that the catalogue does not know.
    names: Vec<(String, Method)>,
    reach: Reach,
    /// Views that read masked columns, shown or not: what they read can stand in an error's text.
    reads_near: HashSet<u32>,
    /// Relations through which masked rows are written, without and with the foreign keys that change rows.
    writes_near: HashSet<u32>,
    cascades_near: HashSet<u32>,
}

impl Cover {
    pub(super) fn column(&self, relation: u32, attnum: i16) -> Option<&Method> {
        self.columns.get(&(relation, attnum))
    }

    /// The mask that a column of this name would get in a relation that nobody knows.
    pub(super) fn by_name(&self, column: &str) -> Option<&Method> {
        self.names.iter().find(|(pattern, _)| glob(pattern, column)).map(|(_, method)| method)
    }

    /// What functions can get at.
    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Whether reading the relation runs over masked columns that it does not show.
    pub(super) fn reads_near(&self, relation: u32) -> bool {
        self.reads_near.contains(&relation)
    }

    /// Whether writing to the relation runs over masked rows; rows that hang on it move when its own do, unless they are
    /// only added.
    pub(super) fn writes_near(&self, relation: u32, moves: bool) -> bool {
        self.writes_near.contains(&relation) || moves && self.cascades_near.contains(&relation)
    }

    /// Whether a relation that holds a column of this type has it masked.
    pub(super) fn masks_own_type(&self, catalogue: &CatalogueSnapshot) -> bool {
        catalogue.relations().iter().filter(|relation| self.touches(relation.oid)).any(|relation| {
            relation.columns.iter().any(|column| {
                column.type_oid >= FIRST_OWN_OID && self.column(relation.oid, column.attnum).is_some()
            })
        })
    }

    /// Whether any column of the relation is masked.
    pub(super) fn touches(&self, relation: u32) -> bool {
        self.relations.contains(&relation)
    }

    pub(super) fn new(spec: &MaskSpec, catalogue: &CatalogueSnapshot, keys: &MaskKeys) -> Self {
        let mut cover = Self::default();
        if spec.columns.is_empty() {
            return cover;
        }
        cover.names = spec
            .columns
            .iter()
            .map(|mask| (mask.pattern.column.clone(), Method::of(&mask.method, keys)))
            .collect();
        for relation in catalogue.relations() {
            cover.by_pattern(spec, catalogue, relation, keys);
            cover.by_system_values(relation);
        }
        cover.by_inheritance(catalogue);
        cover.by_generation(catalogue);
        cover.reach = Reach::known(catalogue);
        // Views call functions and functions read views: each round can only add.
        let mut carried = Carriers::default();
        for round in 0..MAX_REACH_ROUNDS {
            cover.by_view(catalogue, spec.on_unknown_lineage);
            cover.by_default(catalogue);
            cover.by_remote(spec, catalogue, keys);
            for (relation, attnum) in carried.columns(&cover, catalogue) {
                cover.put(relation, attnum, Method::Redact);
            }
            cover.by_inheritance(catalogue);
            cover.by_generation(catalogue);
            cover.by_type(catalogue);
            let known = (cover.reach.size(), cover.columns.len());
            cover.reach = Reach::new(&cover, catalogue);
            if (cover.reach.size(), cover.columns.len()) == known && round > 0 {
                break;
            }
        }
        cover.near(catalogue);
        let mut reach = std::mem::take(&mut cover.reach);
        reach.wire(&cover, catalogue);
        cover.reach = reach;
        cover
    }

    /// A foreign table shows what its columns are called where they are; that may be this very database.
    fn by_remote(&mut self, spec: &MaskSpec, catalogue: &CatalogueSnapshot, keys: &MaskKeys) {
        for (relation, attnum, [schema, table, column]) in catalogue.remote() {
            for mask in spec.columns.iter().filter(|mask| matches(&mask.pattern, schema, table, column)) {
                self.put(*relation, *attnum, Method::of(&mask.method, keys));
            }
            let here = catalogue.resolve(Some(schema), table, &Lookup::Anywhere);
            let source = here.candidates().iter().find_map(|one| Some((one.oid, one.column(column)?.attnum)));
            if let Some(method) = source.and_then(|(oid, attnum)| self.column(oid, attnum)).cloned() {
                self.put(*relation, *attnum, method);
            }
        }
    }

    /// The names of masked columns, lower case; those of the server's own, "query" and "data", are everyday words.
    pub(super) fn masked_names(&self, catalogue: &CatalogueSnapshot) -> HashSet<String> {
        let own = catalogue.relations().iter().filter(|relation| relation.schema != "pg_catalog");
        own.flat_map(|relation| relation.columns.iter().map(move |column| (relation.oid, column)))
            .filter(|(relation, column)| self.column(*relation, column.attnum).is_some())
            .map(|(_, column)| column.name.to_lowercase())
            .collect()
    }

    /// A column whose default or formula calls what reaches masked columns holds what that returned.
    fn by_default(&mut self, catalogue: &CatalogueSnapshot) {
        let reaching: Vec<(u32, i16)> = catalogue
            .defaults()
            .iter()
            .filter(|(_, _, text)| self.reach.names_function(text))
            .map(|(relation, attnum, _)| (*relation, *attnum))
            .collect();
        for (relation, attnum) in reaching {
            self.put(relation, attnum, Method::Redact);
        }
    }

    /// A column that holds rows of a relation with masked columns, one or many, holds their values.
    fn by_type(&mut self, catalogue: &CatalogueSnapshot) {
        loop {
            let holding: Vec<(u32, i16)> = catalogue
                .relations()
                .iter()
                .flat_map(|relation| relation.columns.iter().map(move |column| (relation.oid, column)))
                .filter(|(_, column)| {
                    catalogue.rows_in(column.type_oid).is_some_and(|rows| self.touches(rows))
                })
                .map(|(relation, column)| (relation, column.attnum))
                .filter(|(relation, attnum)| self.column(*relation, *attnum).is_none())
                .collect();
            if holding.is_empty() {
                return;
            }
            for (relation, attnum) in holding {
                self.put(relation, attnum, Method::Redact);
            }
        }
    }

    /// What leads to masked rows without showing them.
    fn near(&mut self, catalogue: &CatalogueSnapshot) {
        for relation in catalogue.relations() {
            let system = matches!(relation.schema.as_str(), "pg_catalog" | "information_schema");
            let touched = self.touches(relation.oid) && !system;
            let bases = if system { Vec::new() } else { catalogue.bases(relation.oid) };
            let views = std::iter::once(relation).chain(bases.iter().copied());
            let reads = views.filter_map(|relation| relation.view.as_ref()).any(|view| {
                view.depends_on.iter().any(|(base, attnum)| self.column(*base, *attnum).is_some())
            });
            if reads {
                self.reads_near.insert(relation.oid);
            }
            let triggered = catalogue.triggers(relation.oid).iter().any(|name| self.reach.function(name));
            let over = bases.iter().any(|base| self.touches(base.oid) && base.schema != "pg_catalog");
            if touched || triggered || over {
                self.writes_near.insert(relation.oid);
            }
        }
        // Each round that adds something shortens what is left.
        loop {
            let found: Vec<u32> = catalogue
                .relations()
                .iter()
                .filter(|relation| !self.writes_near(relation.oid, true))
                .filter(|relation| {
                    catalogue.cascades(relation.oid).iter().any(|other| self.writes_near(*other, true))
                })
                .map(|relation| relation.oid)
                .collect();
            if found.is_empty() {
                return;
            }
            self.cascades_near.extend(found);
        }
    }

    fn put(&mut self, relation: u32, attnum: i16, method: Method) -> bool {
        self.relations.insert(relation);
        match self.columns.remove(&(relation, attnum)) {
            None => {
                self.columns.insert((relation, attnum), method);
                true
            }
            Some(known) => {
                let strength = known.strength();
                let stronger = known.stronger(method);
                let changed = stronger.strength() != strength;
                self.columns.insert((relation, attnum), stronger);
                changed
            }
        }
    }

    /// What a pattern names, and what it named before somebody renamed it.
    fn by_pattern(
        &mut self,
        spec: &MaskSpec,
        catalogue: &CatalogueSnapshot,
        relation: &Relation,
        keys: &MaskKeys,
    ) {
        for column in &relation.columns {
            let former = catalogue.former_names(relation.oid, column.attnum);
            for mask in &spec.columns {
                let named = former
                    .iter()
                    .any(|name| matches(&mask.pattern, &name.schema, &name.relation, &name.column));
                if named || matches(&mask.pattern, &relation.schema, &relation.name, &column.name) {
                    self.put(relation.oid, column.attnum, Method::of(&mask.method, keys));
                }
            }
        }
    }

    fn by_system_values(&mut self, relation: &Relation) {
        if relation.schema == "pg_toast" || relation.kind == RelationKind::Toast {
            for column in &relation.columns {
                self.put(relation.oid, column.attnum, Method::Redact);
            }
        }
        // An extension's view can be in any schema.
        let Some((_, values)) = SYSTEM_VALUES.iter().find(|(name, _)| *name == relation.name) else { return };
        for column in relation.columns.iter().filter(|column| values.contains(&column.name.as_str())) {
            self.put(relation.oid, column.attnum, Method::Redact);
        }
    }

    /// A parent shows its children's rows under its own OID, and a child holds what the parent's mask means: the whole
    /// family is masked alike, by column name.
    fn by_inheritance(&mut self, catalogue: &CatalogueSnapshot) {
        let mut families: HashMap<u32, Vec<u32>> = HashMap::new();
        for relation in catalogue.relations() {
            for parent in &relation.parents {
                families.entry(relation.oid).or_default().push(*parent);
                families.entry(*parent).or_default().push(relation.oid);
            }
        }
        let mut open: Vec<u32> =
            self.relations.iter().copied().filter(|oid| families.contains_key(oid)).collect();
        while let Some(oid) = open.pop() {
            let Some(relation) = catalogue.relation(oid) else { continue };
            for other in families.get(&oid).into_iter().flatten() {
                let Some(kin) = catalogue.relation(*other) else { continue };
                for column in &relation.columns {
                    if let (Some(method), Some(same)) =
                        (self.column(oid, column.attnum).cloned(), kin.column(&column.name))
                        && self.put(kin.oid, same.attnum, method)
                    {
                        open.push(kin.oid);
                    }
                }
            }
        }
    }

    fn by_generation(&mut self, catalogue: &CatalogueSnapshot) {
        for relation in catalogue.relations() {
            let derived: Vec<i16> = relation
                .columns
                .iter()
                .filter(|column| {
                    column.generated_from.iter().any(|from| self.column(relation.oid, *from).is_some())
                })
                .map(|column| column.attnum)
                .collect();
            for attnum in derived {
                self.put(relation.oid, attnum, Method::Redact);
            }
        }
    }

    /// Views show what their query shows: a plain column keeps its method, anything made of one is masked whole.
    fn by_view(&mut self, catalogue: &CatalogueSnapshot, unknown: UnknownLineage) {
        let views: Vec<(&Relation, &ViewDefinition)> = catalogue
            .relations()
            .iter()
            .filter(|relation| !matches!(relation.schema.as_str(), "pg_catalog" | "information_schema"))
            .filter_map(|relation| relation.view.as_ref().map(|view| (relation, view)))
            .collect();
        for _ in 0..MAX_VIEW_ROUNDS {
            let mut changed = false;
            for (relation, view) in &views {
                changed |= self.one_view(catalogue, relation, view, unknown);
            }
            if !changed {
                return;
            }
        }
        for (relation, _) in &views {
            if catalogue.bases(relation.oid).iter().any(|base| self.touches(base.oid)) {
                self.whole(relation);
            }
        }
    }

    fn one_view(
        &mut self,
        catalogue: &CatalogueSnapshot,
        relation: &Relation,
        view: &ViewDefinition,
        unknown: UnknownLineage,
    ) -> bool {
        let shown = catalogue.view_query(relation.oid).and_then(|query| Judge::view(self, catalogue, query));
        match shown {
            Some(outputs) if outputs.len() == relation.columns.len() => {
                let mut changed = false;
                for (column, taint) in relation.columns.iter().zip(outputs) {
                    let method = match taint {
                        Taint::Clean => continue,
                        Taint::Unknown if unknown == UnknownLineage::Pass => continue,
                        Taint::Masked(origin) => origin.method.clone(),
                        Taint::Derived(_) | Taint::Unknown => Method::Redact,
                    };
                    changed |= self.put(relation.oid, column.attnum, method);
                }
                changed
            }
            _ => {
                let depends = view.depends_on.iter().any(|(base, attnum)| match attnum {
                    0 => self.touches(*base),
                    attnum => self.column(*base, *attnum).is_some(),
                });
                depends && self.whole(relation)
            }
        }
    }

    fn whole(&mut self, relation: &Relation) -> bool {
        let mut changed = false;
        for column in &relation.columns {
            changed |= self.put(relation.oid, column.attnum, Method::Redact);
        }
        changed
    }
}

fn matches(pattern: &ColumnPattern, schema: &str, relation: &str, column: &str) -> bool {
    glob(&pattern.schema, schema) && glob(&pattern.table, relation) && glob(&pattern.column, column)
}

/// `*` is any text, `?` is one character; the rest is itself.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(one) if *one == '?' || one == c => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_know_stars_and_question_marks() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "ssn", true),
            ("ssn", "ssn", true),
            ("ssn", "ssn2", false),
            ("ssn*", "ssn2", true),
            ("*ssn", "old_ssn", true),
            ("*s*n*", "ssn", true),
            ("?sn", "ssn", true),
            ("?", "", false),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxbxx", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
