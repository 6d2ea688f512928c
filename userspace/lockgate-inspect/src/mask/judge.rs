//! Resolves a statement's lineage against a catalogue and its masks: which outputs carry what, and which uses of masked
//! columns there are outside the output. It answers what is the case; [`super::plan`] decides what follows.

use super::{
    cover::Cover,
    method::Method,
    scope::{Item, Scope},
    taint::{Columns, Origin, Taint},
};
use crate::sql::{
    catalogue::{CatalogueSnapshot, Lookup, Relation, Resolution},
    usage::{
        Alias, Body, Change, ColumnRef, Cte, CteBody, Expr, Output, Place, Query, Select, Shape, Source,
    },
};
use lockgate_model::sql::RelationName;
use std::{collections::HashMap, sync::Arc};

/// How often a recursive WITH query is gone through until its columns stay as they are; after that all of them count as
/// made of whatever is in it.
const MAX_RECURSION_ROUNDS: usize = 4;

/// Columns that every table has; they hold nothing that was stored.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// A masked column where it may not stand.
#[derive(Clone, Debug)]
pub(super) enum Misuse {
    /// Outside the output.
    Place(Place, Arc<Origin>),
    /// Its value would be stored.
    Stored(Arc<Origin>),
    /// A function of this name runs text, which can do with any column what it likes.
    Runs(String),
}

/// One pass over one statement.
pub(super) struct Judge<'a> {
    cover: &'a Cover,
    catalogue: &'a CatalogueSnapshot,
    lookup: &'a Lookup,
    pub(super) misuses: Vec<Misuse>,
    /// Something of unknown origin stands in a place that decides about rows, or is stored.
    pub(super) unknown_use: bool,
    origins: HashMap<(u32, i16), Arc<Origin>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(cover: &'a Cover, catalogue: &'a CatalogueSnapshot, lookup: &'a Lookup) -> Self {
        Self { cover, catalogue, lookup, misuses: Vec::new(), unknown_use: false, origins: HashMap::new() }
    }

    /// What the columns of a view carry; None when their number is not known. A view's own conditions are its owner's.
    pub(super) fn view(
        cover: &'a Cover,
        catalogue: &'a CatalogueSnapshot,
        query: &Query,
    ) -> Option<Vec<Taint>> {
        let lookup = Lookup::Schemas(Vec::new());
        let columns = Judge::new(cover, catalogue, &lookup).query(query, &Scope::root());
        columns.ordered().map(|named| named.into_iter().map(|(_, taint)| taint).collect())
    }

    /// The outputs of a query.
    pub(super) fn query(&mut self, query: &Query, parent: &Scope<'_>) -> Columns {
        let mut scope = Scope::within(parent);
        self.ctes(&query.ctes, &mut scope);
        match &query.body {
            Body::Select(select) => self.select(select, &query.places, &mut scope),
            Body::Values(rows) => {
                let columns = self.values(rows, &scope);
                self.places(&query.places, &scope, &columns);
                columns
            }
            Body::Set { compares, left, right } => {
                let columns = self.set(*compares, left, right, &scope);
                self.places(&query.places, &scope, &columns);
                columns
            }
        }
    }

    fn ctes(&mut self, ctes: &[Cte], scope: &mut Scope<'_>) {
        for cte in ctes {
            let columns = match &cte.body {
                CteBody::Query(query) if cte.recursive => self.recursive(cte, query, scope),
                CteBody::Query(query) => self.query(query, scope),
                CteBody::Change(change) => self.change(change, scope),
            };
            let columns = columns.renamed(&cte.columns);
            let columns = if cte.adds { Columns::unnamed(columns.all.computed()) } else { columns };
            scope.put_cte(cte.name.clone(), columns);
        }
    }

    /// The first branch says what the columns are; the second one may add to what they carry.
    fn recursive(&mut self, cte: &Cte, query: &Query, scope: &mut Scope<'_>) -> Columns {
        let Body::Set { left, .. } = &query.body else { return self.query(query, scope) };
        let mut columns = {
            let mut inner = Scope::within(scope);
            self.ctes(&query.ctes, &mut inner);
            self.query(left, &inner)
        };
        for _ in 0..MAX_RECURSION_ROUNDS {
            let mut inner = Scope::within(scope);
            inner.put_cte(cte.name.clone(), columns.clone().renamed(&cte.columns));
            let next = self.query(query, &inner);
            if same(&columns, &next) {
                return next;
            }
            columns = next;
        }
        let all = columns.all.clone().computed();
        match columns.ordered() {
            Some(named) => Columns::known(named.into_iter().map(|(name, _)| (name, all.clone())).collect()),
            None => Columns::unnamed(all),
        }
    }

    fn select(&mut self, select: &Select, outer_places: &[(Place, Expr)], scope: &mut Scope<'_>) -> Columns {
        self.sources(&select.from, scope);
        let outputs = self.outputs(&select.outputs, scope);
        if select.distinct {
            self.misused(Place::Distinct, &outputs.all);
        }
        self.places(&select.places, scope, &outputs);
        self.places(outer_places, scope, &outputs);
        outputs
    }

    fn values(&mut self, rows: &[Vec<Expr>], scope: &Scope<'_>) -> Columns {
        let mut columns: Vec<(String, Taint)> = Vec::new();
        let spread = rows.iter().flatten().any(|value| value.shape == Shape::Spread);
        for row in rows {
            for (index, value) in row.iter().enumerate() {
                let taint = self.taint(value, scope).computed();
                self.coerced(&taint);
                match columns.get_mut(index) {
                    Some((_, known)) => *known = std::mem::replace(known, Taint::Clean).or(taint),
                    None => columns.push((format!("column{}", index + 1), taint)),
                }
            }
        }
        match Columns::known(columns) {
            columns if spread => Columns::unnamed(columns.all),
            columns => columns,
        }
    }

    fn set(&mut self, compares: bool, left: &Query, right: &Query, scope: &Scope<'_>) -> Columns {
        let left = self.query(left, scope);
        let right = self.query(right, scope);
        if compares {
            self.misused(Place::SetOperation, &left.all);
            self.misused(Place::SetOperation, &right.all);
        }
        let all = left.all.clone().or(right.all.clone()).computed();
        self.coerced(&all);
        match (left.ordered(), right.ordered()) {
            (Some(left), Some(right)) if left.len() == right.len() => Columns::known(
                left.into_iter()
                    .zip(right)
                    .map(|((name, left), (_, right))| (name, left.or(right).computed()))
                    .collect(),
            ),
            _ => Columns::unnamed(all),
        }
    }

    fn sources(&mut self, sources: &[Source], scope: &mut Scope<'_>) {
        for source in sources {
            let star = self.source(source, scope);
            scope.put_star(star);
        }
    }

    /// Brings an item of FROM into scope; answers what `*` shows of it.
    fn source(&mut self, source: &Source, scope: &mut Scope<'_>) -> Columns {
        match source {
            Source::Relation { name, alias } => {
                let columns = match scope.cte(name) {
                    Some(columns) => columns.clone(),
                    None => self.relation(name),
                };
                let shown = alias.name.clone().unwrap_or_else(|| name.name.clone());
                self.item(Some(shown), columns.renamed(&alias.columns), scope)
            }
            Source::Query { query, alias } => {
                // LATERAL or not: what is not visible to the server is an error there.
                let columns = self.query(query, scope);
                self.item(alias.name.clone(), columns.renamed(&alias.columns), scope)
            }
            Source::Function { arguments, alias } => {
                let mut all = Taint::Clean;
                for argument in arguments {
                    let taint = self.plain_taint(argument, scope);
                    // A column that becomes rows is counted.
                    self.misused(Place::RowCount, &taint);
                    let called = self.called(argument);
                    all = all.or(taint.computed()).or(called);
                }
                self.item(alias.name.clone(), Columns::unnamed(all), scope)
            }
            Source::Sample { relation, arguments } => {
                let columns = self.source(relation, scope);
                let taint = self.taint(arguments, scope);
                self.misused(Place::RowCount, &taint);
                columns
            }
            Source::Join { left, right, on, using, natural, alias } => {
                let left = self.source(left, scope);
                let right = self.source(right, scope);
                let columns = self.join(left, right, using, *natural);
                if let Some(on) = on {
                    let taint = self.taint(on, scope);
                    self.misused(Place::Join, &taint);
                }
                match alias {
                    Alias { name: None, .. } => columns,
                    Alias { name, columns: names } => self.item(name.clone(), columns.renamed(names), scope),
                }
            }
        }
    }

    fn item(&mut self, alias: Option<String>, columns: Columns, scope: &mut Scope<'_>) -> Columns {
        scope.put(Item { alias, columns: columns.clone() });
        columns
    }

    /// Joined columns come first, once (SQL:2016 7.10); a masked one among them is compared.
    fn join(&mut self, left: Columns, right: Columns, using: &[String], natural: bool) -> Columns {
        let (Some(left_named), Some(right_named)) = (&left.named, &right.named) else {
            let all = left.all.clone().or(right.all.clone());
            for name in using {
                self.misused(Place::Join, &left.get(name).unwrap_or(Taint::Clean));
                self.misused(Place::Join, &right.get(name).unwrap_or(Taint::Clean));
            }
            if natural {
                self.misused(Place::Join, &all);
            }
            return Columns::unnamed(all);
        };
        let exact = left.exact && right.exact;
        let common =
            |name: &str| if natural { right.has(name) } else { using.iter().any(|using| using == name) };
        let joined: Vec<&String> = if natural {
            left_named.iter().map(|(name, _)| name).filter(|name| right.has(name)).collect()
        } else {
            using.iter().collect()
        };
        let mut columns = Vec::with_capacity(left_named.len() + right_named.len());
        for name in joined {
            let taint =
                left.get(name).unwrap_or(Taint::Unknown).or(right.get(name).unwrap_or(Taint::Unknown));
            self.misused(Place::Join, &taint);
            columns.push((name.clone(), taint));
        }
        columns.extend(left_named.iter().filter(|(name, _)| !(common(name) && right.has(name))).cloned());
        columns.extend(right_named.iter().filter(|(name, _)| !(common(name) && left.has(name))).cloned());
        Columns { exact, ..Columns::known(columns) }
    }

    fn relation(&mut self, name: &RelationName) -> Columns {
        match self.catalogue.resolve(name.schema.as_deref(), &name.name, self.lookup) {
            Resolution::Found(relation) => self.columns_of(relation),
            Resolution::Several(relations) => relations
                .into_iter()
                .map(|relation| self.columns_of(relation))
                .reduce(Columns::either)
                .unwrap_or_else(|| Columns::unnamed(Taint::Unknown)),
            Resolution::Unknown => Columns::unnamed(Taint::Unknown),
        }
    }

    /// Brings a relation into scope under its own name.
    pub(super) fn bring(&mut self, name: &RelationName, scope: &mut Scope<'_>) {
        let columns = self.relation(name);
        let star = self.item(Some(name.name.clone()), columns, scope);
        scope.put_star(star);
    }

    pub(super) fn columns_of(&mut self, relation: &Relation) -> Columns {
        let named = relation.columns.iter().map(|column| {
            let taint = match self.cover.column(relation.oid, column.attnum) {
                None => Taint::Clean,
                Some(method) => Taint::Masked(
                    self.origins
                        .entry((relation.oid, column.attnum))
                        .or_insert_with(|| {
                            Arc::new(Origin {
                                label: format!("{}.{}", relation.name, column.name),
                                method: method.clone(),
                                type_oid: Some(column.type_oid),
                            })
                        })
                        .clone(),
                ),
            };
            (column.name.clone(), taint)
        });
        Columns::known(named.collect())
    }

    /// A select list or a RETURNING list.
    fn outputs(&mut self, outputs: &[Output], scope: &Scope<'_>) -> Columns {
        let mut named = Some(Vec::with_capacity(outputs.len()));
        let mut all = Taint::Clean;
        for output in outputs {
            match (&output.value.shape, output.value.columns.as_slice()) {
                (Shape::Star, [star]) => {
                    let columns = scope.star(&star.column.qualifier);
                    all = all.or(columns.all.clone());
                    match (&mut named, columns.ordered()) {
                        (Some(named), Some(columns)) => named.extend(columns),
                        (named, _) => *named = None,
                    }
                }
                _ => {
                    let taint = self.taint(&output.value, scope);
                    self.coerced(&taint);
                    all = all.or(taint.clone());
                    if output.value.shape == Shape::Spread {
                        named = None;
                        continue;
                    }
                    let name = output.name.clone().or_else(|| column_name(&output.value)).unwrap_or_default();
                    if let Some(named) = &mut named {
                        named.push((name, taint));
                    }
                }
            }
        }
        match named {
            Some(named) => Columns::known(named),
            None => Columns::unnamed(all),
        }
    }

    fn places(&mut self, places: &[(Place, Expr)], scope: &Scope<'_>, outputs: &Columns) {
        for (place, expr) in places {
            let mut taint = self.taint(expr, scope);
            // ORDER BY, GROUP BY and DISTINCT ON can name an output, by its name or by its number.
            if !matches!(place, Place::OrderBy | Place::GroupBy | Place::Distinct) {
                self.misused(*place, &taint);
                continue;
            }
            if let Shape::Ordinal(number) = expr.shape {
                let ordered = outputs.named.as_ref().filter(|_| outputs.exact);
                let counted = ordered.and_then(|named| named.get(number.checked_sub(1)?));
                taint = taint.or(counted.map_or_else(|| outputs.all.clone(), |(_, taint)| taint.clone()));
            } else if let Some(name) = column_name(expr) {
                taint = taint.or(outputs.get(&name).unwrap_or(Taint::Clean));
            }
            self.misused(*place, &taint);
        }
    }

    /// Where an implicit cast runs code of the database's own, any expression over several types may hand its values to it.
    fn coerced(&mut self, taint: &Taint) {
        if let Taint::Derived(_) = taint
            && self.catalogue.casts_by_itself()
        {
            self.misused(Place::UnknownFunction, taint);
        }
    }

    fn misused(&mut self, place: Place, taint: &Taint) {
        match taint {
            Taint::Clean => {}
            Taint::Unknown => self.unknown_use = true,
            Taint::Masked(origin) | Taint::Derived(origin) => {
                self.misuses.push(Misuse::Place(place, origin.clone()))
            }
        }
    }

    fn stored(&mut self, taint: &Taint) {
        match taint {
            Taint::Clean => {}
            Taint::Unknown => self.unknown_use = true,
            Taint::Masked(origin) | Taint::Derived(origin) => {
                self.misuses.push(Misuse::Stored(origin.clone()))
            }
        }
    }

    /// What an expression carries.
    pub(super) fn taint(&mut self, expr: &Expr, scope: &Scope<'_>) -> Taint {
        let taint = self.plain_taint(expr, scope);
        taint.or(self.called(expr))
    }

    /// What the functions that it calls bring along by themselves.
    fn called(&mut self, expr: &Expr) -> Taint {
        let mut all = Taint::Clean;
        for call in &expr.calls {
            if self.cover.reach().runs_text(&call.name) {
                self.misuses.push(Misuse::Runs(call.name.clone()));
            }
            if !self.cover.reach().function(&call.name) {
                if !self.cover.reach().is_clean(&call.name) {
                    all = all.or(Taint::Unknown);
                    self.unknown_use |= call.place.is_some();
                }
                continue;
            }
            let label = format!("that {}() can read", call.name);
            let taint = Taint::Derived(Arc::new(Origin { label, method: Method::Redact, type_oid: None }));
            if let Some(place) = call.place {
                self.misused(place, &taint);
            }
            all = all.or(taint);
        }
        all
    }

    /// What its columns and queries bring along.
    fn plain_taint(&mut self, expr: &Expr, scope: &Scope<'_>) -> Taint {
        let mut all = Taint::Clean;
        for used in &expr.columns {
            let taint = match scope.resolve(&used.column) {
                // A relation that the catalogue does not know yet: the patterns know its columns by name.
                Taint::Unknown => self.by_name(&used.column),
                known => known,
            };
            if let Some(place) = used.place {
                self.misused(place, &taint);
            }
            all = all.or(taint);
        }
        for sub in &expr.queries {
            let columns = self.query(&sub.query, scope);
            if sub.flows {
                if let Some(place) = sub.place {
                    self.misused(place, &columns.all);
                }
                all = all.or(columns.all.computed());
            }
        }
        if expr.unknown_function {
            all = all.or(Taint::Unknown);
        }
        match expr.shape {
            Shape::Column => all,
            Shape::Computed | Shape::Star | Shape::Spread | Shape::Ordinal(_) => all.computed(),
        }
    }

    fn by_name(&self, column: &ColumnRef) -> Taint {
        let method = column.name.as_deref().and_then(|name| self.cover.by_name(name));
        match (method, &column.name) {
            (Some(method), Some(name)) => {
                let (label, method) = (name.clone(), method.clone());
                Taint::Masked(Arc::new(Origin { label, method, type_oid: None }))
            }
            _ => Taint::Unknown,
        }
    }

    /// The columns into which a statement inside some code stores what it ought not to show: (relation, attribute).
    pub(super) fn carried(
        &mut self,
        change: &Change,
        parent: &Scope<'_>,
        carries: &dyn Fn(&Taint) -> bool,
    ) -> Vec<(u32, i16)> {
        let mut outer = Scope::within(parent);
        self.ctes(&change.ctes, &mut outer);
        let source = change.source.as_ref().map(|source| self.query(source, &outer));
        let mut scope = Scope::within(&outer);
        let target = self.relation(&change.target);
        let shown = change.alias.clone().unwrap_or_else(|| change.target.name.clone());
        self.item(Some(shown), target, &mut scope);
        self.sources(&change.from, &mut scope);
        let mut assigns = false;
        for value in &change.assigned {
            assigns |= carries(&self.taint(value, &scope));
        }
        let mut found = Vec::new();
        let lookup = Lookup::Anywhere;
        let resolved = self.catalogue.resolve(change.target.schema.as_deref(), &change.target.name, &lookup);
        for relation in resolved.candidates() {
            let mut put = |name: Option<&str>| {
                let named =
                    relation.columns.iter().filter(|column| name.is_none_or(|name| column.name == name));
                found.extend(named.map(|column| (relation.oid, column.attnum)));
            };
            if assigns {
                match change.set.as_slice() {
                    [] => put(None),
                    names => names.iter().for_each(|name| put(Some(name))),
                }
            }
            let Some(source) = &source else { continue };
            let names: Vec<&str> = match change.columns.as_slice() {
                [] => relation.columns.iter().map(|column| column.name.as_str()).collect(),
                names => names.iter().map(String::as_str).collect(),
            };
            match source.clone().ordered() {
                Some(values) => names
                    .iter()
                    .zip(values)
                    .filter(|(_, (_, taint))| carries(taint))
                    .for_each(|(name, _)| put(Some(name))),
                None if carries(&source.all) => names.iter().for_each(|name| put(Some(name))),
                None => {}
            }
        }
        found
    }

    /// INSERT, UPDATE, DELETE, MERGE; answers what RETURNING shows.
    pub(super) fn change(&mut self, change: &Change, parent: &Scope<'_>) -> Columns {
        let mut outer = Scope::within(parent);
        self.ctes(&change.ctes, &mut outer);
        let source = change.source.as_ref().map(|source| self.query(source, &outer));
        if let Some(source) = &source {
            self.stored(&source.all);
        }
        let target = self.relation(&change.target);
        // ON CONFLICT and RETURNING know the row by other names too. They stand further out: an alias hides them.
        let proposed = excluded(&change.columns, &target, source);
        outer.put_qualified(Item { alias: Some("excluded".to_owned()), columns: proposed });
        for alias in ["old", "new"] {
            outer.put_qualified(Item { alias: Some(alias.to_owned()), columns: target.clone() });
        }
        let mut scope = Scope::within(&outer);
        let shown = change.alias.clone().unwrap_or_else(|| change.target.name.clone());
        if change.source_first {
            self.sources(&change.from, &mut scope);
        }
        let star = self.item(Some(shown), target, &mut scope);
        scope.put_star(star);
        if !change.source_first {
            self.sources(&change.from, &mut scope);
        }
        for value in &change.assigned {
            let taint = self.taint(value, &scope);
            self.stored(&taint);
        }
        self.places(&change.places, &scope, &Columns::none());
        self.outputs(&change.returning, &scope)
    }
}

/// The row that INSERT proposed: its columns carry what the source put there.
fn excluded(columns: &[String], target: &Columns, source: Option<Columns>) -> Columns {
    let Some(source) = source else { return target.clone().cleaned() };
    let whole = source.all.clone().computed();
    let names: Vec<String> = match (columns, target.clone().ordered()) {
        ([], Some(named)) => named.into_iter().map(|(name, _)| name).collect(),
        ([], None) => return Columns::unnamed(whole),
        (columns, _) => columns.to_vec(),
    };
    let Some(values) = source.ordered() else { return Columns::unnamed(whole) };
    let mut proposed = target.clone().cleaned();
    let mut put = |name: &str, taint: Taint| match &mut proposed.named {
        Some(named) => match named.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = taint,
            None => named.push((name.to_owned(), taint)),
        },
        None => proposed = Columns::known(vec![(name.to_owned(), taint)]),
    };
    for (name, (_, taint)) in names.iter().zip(values) {
        put(name, taint.computed());
    }
    match proposed.named {
        Some(named) => Columns::known(named),
        None => Columns::unnamed(Taint::Clean),
    }
}

/// The name that an output without alias gets, when it is a plain column.
fn column_name(expr: &Expr) -> Option<String> {
    match (&expr.shape, expr.columns.as_slice()) {
        (Shape::Column, [used]) => used.column.name.clone(),
        _ => None,
    }
}

fn same(a: &Columns, b: &Columns) -> bool {
    let rank = |columns: &Columns| {
        columns
            .named
            .as_ref()
            .map(|named| named.iter().map(|(_, taint)| taint.origin().is_some()).collect::<Vec<_>>())
    };
    rank(a) == rank(b) && a.all.origin().is_some() == b.all.origin().is_some()
}

impl Columns {
    /// The same columns, carrying nothing.
    fn cleaned(self) -> Self {
        match self.named {
            Some(named) => Self::known(named.into_iter().map(|(name, _)| (name, Taint::Clean)).collect()),
            None => Self::unnamed(Taint::Clean),
        }
    }
}

/// Whether a column is one that every table has.
pub(super) fn is_system_column(name: &str) -> bool {
    SYSTEM_COLUMNS.contains(&name)
}
