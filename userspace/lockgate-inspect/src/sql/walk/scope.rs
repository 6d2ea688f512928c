//! Names in scope, innermost last. Looked up by name: a statement may have a hundred thousand of them, each meant once.

use std::collections::HashMap;

/// What names stand for, until their scope ends.
#[derive(Debug)]
pub(super) struct Scope<T> {
    names: Vec<(String, T)>,
    /// Where each name stands in `names`, innermost last.
    places: HashMap<String, Vec<usize>>,
}

impl<T> Default for Scope<T> {
    fn default() -> Self {
        Self { names: Vec::new(), places: HashMap::new() }
    }
}

impl<T> Scope<T> {
    /// A name comes into scope.
    pub(super) fn push(&mut self, name: String, meant: T) {
        // Few names are not worth a table.
        if self.names.len() >= FEW || !self.places.is_empty() {
            if self.places.is_empty() {
                for (place, (name, _)) in self.names.iter().enumerate() {
                    self.places.entry(name.clone()).or_default().push(place);
                }
            }
            self.places.entry(name.clone()).or_default().push(self.names.len());
        }
        self.names.push((name, meant));
    }

    /// What a name stands for innermost.
    pub(super) fn find(&self, name: &str) -> Option<&T> {
        if self.places.is_empty() {
            return self.names.iter().rev().find(|(known, _)| known == name).map(|(_, meant)| meant);
        }
        let place = self.places.get(name)?.last()?;
        self.names.get(*place).map(|(_, meant)| meant)
    }

    /// How many names there are: what [`Scope::leave`] goes back to.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Forgets what came into scope since there were so many.
    pub(super) fn leave(&mut self, len: usize) {
        while self.names.len() > len {
            let Some((name, _)) = self.names.pop() else { return };
            if let Some(places) = self.places.get_mut(&name) {
                places.pop();
                if places.is_empty() {
                    self.places.remove(&name);
                }
            }
        }
    }
}

/// Names that are looked through one by one.
const FEW: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_of_a_name_is_meant_until_its_scope_ends() {
        for outer in [0, FEW - 1, FEW, 3 * FEW] {
            let mut scope = Scope::default();
            for number in 0..outer {
                scope.push(format!("outer{number}"), number);
            }
            scope.push("a".to_owned(), 1_000);
            let mark = scope.len();
            for number in 0..40 {
                scope.push("a".to_owned(), number);
                scope.push(format!("inner{number}"), number);
            }
            assert_eq!(scope.find("a"), Some(&39));
            assert_eq!(scope.find("inner7"), Some(&7));
            scope.leave(mark);
            assert_eq!((scope.find("a"), scope.find("inner7")), (Some(&1_000), None), "{outer}");
            assert_eq!(scope.find("outer0").is_some(), outer > 0);
            scope.leave(outer.min(2));
            scope.push("late".to_owned(), 6);
            assert_eq!((scope.find("a"), scope.find("late")), (None, Some(&6)));
            scope.leave(0);
            assert_eq!((scope.find("a"), scope.len()), (None, 0));
            scope.push("a".to_owned(), 5);
            assert_eq!(scope.find("a"), Some(&5));
        }
    }
}
