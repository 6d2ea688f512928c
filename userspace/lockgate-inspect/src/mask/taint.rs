//! How close a value is to a masked column.

use super::method::Method;
use std::sync::Arc;

/// From nothing to everything.
#[derive(Clone, Debug)]
pub(super) enum Taint {
    /// Nothing of a masked column is in it.
    Clean,
    /// It comes from where nobody looked: a function that is not known to be harmless, a relation that is not known.
    Unknown,
    /// It is a masked column, unchanged.
    Masked(Arc<Origin>),
    /// It is made of a masked column.
    Derived(Arc<Origin>),
}

/// A masked column, for its method and for the message.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) label: String,
    pub(super) method: Method,
    /// The column's type, when it is known.
    pub(super) type_oid: Option<u32>,
}

impl Taint {
    fn rank(&self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Unknown => 1,
            Self::Masked(_) => 2,
            Self::Derived(_) => 3,
        }
    }

    /// The worse of two.
    pub(super) fn or(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    /// What becomes of it in an expression.
    pub(super) fn computed(self) -> Self {
        match self {
            Self::Masked(origin) => Self::Derived(origin),
            other => other,
        }
    }

    /// The masked column in it.
    pub(super) fn origin(&self) -> Option<&Arc<Origin>> {
        match self {
            Self::Clean | Self::Unknown => None,
            Self::Masked(origin) | Self::Derived(origin) => Some(origin),
        }
    }
}

/// The columns of a row, as far as they are known.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    /// By name; None when their names are not known.
    pub(super) named: Option<Vec<(String, Taint)>>,
    /// Whether these are all of them, in order.
    pub(super) exact: bool,
    /// The worst of all.
    pub(super) all: Taint,
}

impl Columns {
    pub(super) fn known(named: Vec<(String, Taint)>) -> Self {
        let all = named.iter().fold(Taint::Clean, |all, (_, taint)| all.or(taint.clone()));
        Self { named: Some(named), exact: true, all }
    }

    pub(super) fn unnamed(all: Taint) -> Self {
        Self { named: None, exact: false, all }
    }

    /// The columns of one of several relations: by name the worst of them, and nobody knows in which order.
    pub(super) fn either(self, other: Self) -> Self {
        let all = self.all.or(other.all);
        let (Some(mut named), Some(more)) = (self.named, other.named) else { return Self::unnamed(all) };
        for (name, taint) in more {
            match named.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = std::mem::replace(known, Taint::Clean).or(taint),
                None => named.push((name, taint)),
            }
        }
        Self { named: Some(named), exact: false, all }
    }

    /// The columns in order, when that is known.
    pub(super) fn ordered(self) -> Option<Vec<(String, Taint)>> {
        self.named.filter(|_| self.exact)
    }

    pub(super) fn none() -> Self {
        Self::known(Vec::new())
    }

    /// The column of this name; None when it is known that there is none.
    pub(super) fn get(&self, name: &str) -> Option<Taint> {
        match &self.named {
            Some(named) => {
                let mut found = named.iter().filter(|(known, _)| known == name).peekable();
                found.peek()?;
                Some(found.fold(Taint::Clean, |all, (_, taint)| all.or(taint.clone())))
            }
            None => None,
        }
    }

    /// Whether a column of this name is known to be here.
    pub(super) fn has(&self, name: &str) -> bool {
        self.named.as_ref().is_some_and(|named| named.iter().any(|(known, _)| known == name))
    }

    /// Gives the first columns other names, as `AS t(a, b)` does.
    pub(super) fn renamed(mut self, names: &[String]) -> Self {
        match &mut self.named {
            Some(named) if self.exact => {
                named.iter_mut().zip(names).for_each(|((old, _), new)| old.clone_from(new))
            }
            // Which column gets which name is not known.
            Some(_) if !names.is_empty() => self.named = None,
            Some(_) | None => {}
        }
        self
    }
}
