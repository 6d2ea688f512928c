//! Which names stand for what inside a query, from the innermost FROM list outwards. Where a name could stand for several
//! things, the answer is the worst of them.

use super::{
    judge::is_system_column,
    taint::{Columns, Taint},
};
use crate::sql::usage::ColumnRef;
use lockgate_model::sql::RelationName;

/// One item that columns can come from.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) alias: Option<String>,
    pub(super) columns: Columns,
}

/// The names of one query level.
#[derive(Debug)]
pub(super) struct Scope<'p> {
    parent: Option<&'p Scope<'p>>,
    ctes: Vec<(String, Columns)>,
    items: Vec<Item>,
    /// Items that only a qualified name reaches, and only where no other has that name.
    qualified: Vec<Item>,
    star: Columns,
}

impl<'p> Scope<'p> {
    pub(super) fn root() -> Self {
        Self {
            parent: None,
            ctes: Vec::new(),
            items: Vec::new(),
            qualified: Vec::new(),
            star: Columns::none(),
        }
    }

    pub(super) fn within(parent: &'p Scope<'p>) -> Self {
        Self { parent: Some(parent), ..Self::root() }
    }

    pub(super) fn put_cte(&mut self, name: String, columns: Columns) {
        self.ctes.push((name, columns));
    }

    pub(super) fn put(&mut self, item: Item) {
        self.items.push(item);
    }

    pub(super) fn put_qualified(&mut self, item: Item) {
        self.qualified.push(item);
    }

    /// Adds what `*` shows of one more item.
    pub(super) fn put_star(&mut self, columns: Columns) {
        let all = std::mem::replace(&mut self.star.all, Taint::Clean).or(columns.all.clone());
        let known = std::mem::replace(&mut self.star, Columns::none()).ordered();
        self.star = match (known, columns.ordered()) {
            (Some(mut known), Some(more)) => {
                known.extend(more);
                Columns::known(known)
            }
            _ => Columns::unnamed(all),
        };
    }

    /// The WITH query that a relation's name stands for.
    pub(super) fn cte(&self, name: &RelationName) -> Option<&Columns> {
        if name.schema.is_some() {
            return None;
        }
        let here = self.ctes.iter().rev().find(|(known, _)| *known == name.name).map(|(_, columns)| columns);
        here.or_else(|| self.parent.and_then(|parent| parent.cte(name)))
    }

    /// What a star shows.
    pub(super) fn star(&self, qualifier: &[String]) -> Columns {
        match qualifier.last() {
            None => self.star.clone(),
            Some(alias) => match self.item(alias) {
                Some(item) => item.columns.clone(),
                None => Columns::unnamed(Taint::Unknown),
            },
        }
    }

    fn item(&self, alias: &str) -> Option<&Item> {
        let named = |item: &&Item| item.alias.as_deref() == Some(alias);
        let here = self.items.iter().rev().find(named).or_else(|| self.qualified.iter().rev().find(named));
        here.or_else(|| self.parent.and_then(|parent| parent.item(alias)))
    }

    /// What a column, a star or a whole row inside an expression carries.
    pub(super) fn resolve(&self, column: &ColumnRef) -> Taint {
        match (column.qualifier.last(), &column.name) {
            (None, None) => self.star.all.clone(),
            (None, Some(name)) => self.plain(name),
            (Some(alias), None) => self.item(alias).map_or(Taint::Unknown, |item| item.columns.all.clone()),
            (Some(alias), Some(name)) => match self.item(alias) {
                Some(item) => match item.columns.get(name) {
                    Some(taint) => taint,
                    None if is_system_column(name) => Taint::Clean,
                    // Not a column: a function of the whole row, or a column of a row whose columns are not known.
                    None => item.columns.all.clone().computed(),
                },
                None => Taint::Unknown,
            },
        }
    }

    /// No such column: the server will say so; should it know one after all, nothing is known of it.
    fn plain(&self, name: &str) -> Taint {
        self.find(name).unwrap_or(Taint::Unknown)
    }

    fn find(&self, name: &str) -> Option<Taint> {
        let mut known = self.items.iter().filter_map(|item| item.columns.get(name)).peekable();
        if known.peek().is_some() {
            return Some(known.fold(Taint::Clean, Taint::or));
        }
        // Then it is a column of an item whose columns are not known, or the name of an item: its whole row. Or it comes
        // from further out.
        let mut here: Option<Taint> = None;
        for item in &self.items {
            if item.columns.named.is_none() || item.alias.as_deref() == Some(name) {
                here = Some(here.unwrap_or(Taint::Clean).or(item.columns.all.clone().computed()));
            }
        }
        if here.is_none() && is_system_column(name) && !self.items.is_empty() {
            return Some(Taint::Clean);
        }
        let outer = self.parent.and_then(|parent| parent.find(name));
        match (here, outer) {
            (Some(here), Some(outer)) => Some(here.or(outer)),
            (here, outer) => here.or(outer),
        }
    }
}
