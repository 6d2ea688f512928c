//! Who is behind an id. Ids are namespaced by where they come from (`local:1000`, `webhook:chat:U123`); configuration says
//! which of them are one person, and which bots a person owns. Without it every id is a person of its own.

use lockgate_model::{id::GroupName, principal::Approver};
use std::collections::HashMap;

/// One entry of `people:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonSettings {
    /// What they are counted as, and shown.
    pub name: String,
    /// Every id they decide by, or are named by elsewhere: `local:1000`, `webhook:chat:U123`, `ana@example.com`, a login.
    pub ids: Vec<String>,
    /// Principals of bots that are theirs: they decide on none of these.
    pub owns: Vec<String>,
}

/// Everybody that configuration knows.
#[derive(Debug, Default)]
pub(crate) struct People {
    people: Vec<PersonSettings>,
    by_id: HashMap<String, usize>,
}

impl People {
    /// Indexes them.
    ///
    /// # Errors
    /// The id that two of them claim.
    pub(crate) fn new(people: Vec<PersonSettings>) -> Result<Self, String> {
        let mut by_id = HashMap::new();
        for (index, person) in people.iter().enumerate() {
            for id in person.ids.iter().chain([&person.name]) {
                if by_id.insert(fold(id), index).is_some_and(|other| other != index) {
                    return Err(id.clone());
                }
            }
        }
        Ok(Self { people, by_id })
    }

    /// An approver, with every id of the person behind the one that the vote came with.
    pub(crate) fn approver(&self, id: String, groups: Vec<GroupName>, via: String) -> Approver {
        let also = self.find(&id).map(ids).unwrap_or_default();
        Approver { id, groups, via, also }
    }

    /// Whether this id, as it is, is somebody's.
    pub(crate) fn know(&self, id: &str) -> bool {
        self.by_id.contains_key(&fold(id))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.people.is_empty()
    }

    /// An approver whom the sender vouches to be known by another id, too: the person behind either is meant.
    pub(crate) fn approver_as(
        &self,
        id: String,
        other: Option<&str>,
        groups: Vec<GroupName>,
        via: String,
    ) -> Approver {
        let person = self.find(&id).or_else(|| other.and_then(|other| self.find(other)));
        let mut also = person.map(ids).unwrap_or_default();
        if also.is_empty() {
            also.extend(other.map(str::to_owned));
        }
        Approver { id, groups, via, also }
    }

    /// Who owns what asks.
    pub(crate) fn owners(&self, principal: &str) -> Vec<Approver> {
        let own = self.people.iter().filter(|person| person.owns.iter().any(|owned| owned == principal));
        let owner = |person: &PersonSettings| Approver {
            id: person.name.clone(),
            groups: Vec::new(),
            via: "configuration".to_owned(),
            also: ids(person),
        };
        own.map(owner).collect()
    }

    /// The id as it came, or as the integration alone would say it.
    fn find(&self, id: &str) -> Option<&PersonSettings> {
        let folded = fold(id);
        let bare = folded
            .strip_prefix("webhook:")
            .and_then(|rest| rest.split_once(':'))
            .map(|(_, bare)| bare.trim());
        let index = self.by_id.get(&folded).or_else(|| bare.and_then(|bare| self.by_id.get(bare)))?;
        self.people.get(*index)
    }
}

/// The name first.
fn ids(person: &PersonSettings) -> Vec<String> {
    std::iter::once(&person.name).chain(&person.ids).cloned().collect()
}

/// One spelling of an id, as the approval machine folds it.
fn fold(id: &str) -> String {
    lockgate_policy::approval::fold(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people() -> People {
        let ana = PersonSettings {
            name: "ana@example.com".into(),
            ids: vec!["local:1002".into(), "webhook:chat:U123".into(), "ana-dev".into()],
            owns: vec!["github_actions:acme/bot".into()],
        };
        People::new(vec![ana]).unwrap()
    }

    #[test]
    fn ids_of_one_person_lead_to_the_same_name() {
        let people = people();
        for id in [
            "local:1002",
            "webhook:chat:U123",
            "WEBHOOK:chat:u123",
            "webhook:approvals:Ana@Example.com ",
            "ana-dev",
        ] {
            assert_eq!(
                people.approver(id.into(), Vec::new(), String::new()).name(),
                "ana@example.com",
                "{id}"
            );
        }
        for id in ["local:1003", "webhook:other:U123", "ana"] {
            assert_eq!(people.approver(id.into(), Vec::new(), String::new()).name(), id);
        }
    }

    #[test]
    fn owners_are_found_and_one_id_has_one_person() {
        assert_eq!(people().owners("github_actions:acme/bot").len(), 1);
        assert_eq!(people().owners("uid:1").len(), 0);
        let twice =
            |name: &str| PersonSettings { name: name.into(), ids: vec!["local:1".into()], owns: Vec::new() };
        assert_eq!(People::new(vec![twice("a"), twice("b")]).unwrap_err(), "local:1");
    }
}
