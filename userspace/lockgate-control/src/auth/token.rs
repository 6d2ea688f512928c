//! API tokens: made for oneself with at most one's own rights, or by an administrator for a program that does not vote. The hash
//! rests on a shelf; what a token may is its scope cut by what its owner may at the moment of use.

use super::{
    caller::Role,
    person::{Person, Rights},
    secret::{self, Hashed, NoRandomness},
};
use lockgate_model::{Secret, Timestamp, id::GroupName, port::Shelf};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Tokens at a time; they are few and each is read at every start.
const TOKENS_MAX: usize = 10_000;

/// Tokens of one owner.
const PER_OWNER_MAX: usize = 100;

/// That a token was used is kept no more often than this.
const USE_KEPT_SECONDS: i64 = 3_600;

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Owner {
    /// A person who logged in, as they last did.
    Person(Person),
    /// A user of this host.
    Local(u32),
    /// A program; an administrator answers for it.
    Program,
}

impl Owner {
    fn id(&self) -> Option<String> {
        match self {
            Self::Person(person) => Some(person.id.clone()),
            Self::Local(uid) => Some(format!("local:{uid}")),
            Self::Program => None,
        }
    }
}

/// A token as it rests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    /// `tok_…`
    pub(crate) id: String,
    pub(crate) name: String,
    /// SHA-256, in hexadecimal.
    hash: String,
    pub(crate) owner: Owner,
    /// Scope.
    pub(crate) roles: BTreeSet<Role>,
    /// Scope.
    pub(crate) groups: Vec<GroupName>,
    pub(crate) made_at: Timestamp,
    pub(crate) made_by: String,
    pub(crate) expires_at: Timestamp,
    #[serde(default)]
    pub(crate) used_at: Option<Timestamp>,
}

impl Token {
    /// Its scope, cut by what its owner may now.
    pub(crate) fn rights(&self, owner: &Rights) -> Rights {
        Rights {
            roles: self.roles.intersection(&owner.roles).copied().collect(),
            groups: self.groups.iter().filter(|group| owner.groups.contains(group)).cloned().collect(),
        }
    }

    /// Whether it belongs to whoever has this id.
    pub(crate) fn is_of(&self, id: &str) -> bool {
        self.owner.id().as_deref() == Some(id)
    }
}

/// What a token is made of.
pub(crate) struct Wish {
    pub(crate) name: String,
    pub(crate) owner: Owner,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) groups: Vec<GroupName>,
    pub(crate) made_by: String,
    pub(crate) expires_at: Timestamp,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("there are {0} tokens already; revoke some")]
    TooMany(usize),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error("it cannot be kept: {0}")]
    Keep(String),
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It looks like none, or its checksum is wrong.
    Malformed,
    /// Made by nobody here, or revoked.
    Unknown,
    /// Its time is over.
    Expired(String),
}

/// All of them.
#[derive(Default)]
pub(crate) struct Tokens {
    kept: Mutex<HashMap<Hashed, Token>>,
    shelf: Option<Arc<dyn Shelf>>,
}

impl Tokens {
    /// Those on the shelf.
    pub(crate) fn restore(shelf: Option<Arc<dyn Shelf>>) -> Self {
        let all = match shelf.as_ref().map(|shelf| shelf.all()) {
            Some(Ok(all)) => all,
            Some(Err(error)) => {
                tracing::error!(%error, "reading API tokens; none is good");
                Vec::new()
            }
            None => Vec::new(),
        };
        let mut kept = HashMap::new();
        for (name, value) in all {
            let token = serde_json::from_slice::<Token>(&value).ok();
            let hashed = token.as_ref().and_then(|token| Hashed::from_hex(&token.hash));
            match (token, hashed) {
                (Some(token), Some(hashed)) => drop(kept.insert(hashed, token)),
                (_, _) => tracing::error!(name, "an API token on the shelf cannot be read; it is not good"),
            }
        }
        Self { kept: Mutex::new(kept), shelf }
    }

    /// Makes one; its text is told this once. On the shelf before anybody learns of it.
    pub(crate) fn make(&self, wish: Wish, now: Timestamp) -> Result<(Secret<String>, Token), TokenError> {
        let text = secret::token(secret::API_TOKEN)?;
        let hashed = Hashed::of(text.expose());
        let token = Token {
            id: secret::id("tok_")?,
            name: wish.name,
            hash: hashed.hex(),
            owner: wish.owner,
            roles: wish.roles,
            groups: wish.groups,
            made_at: now,
            made_by: wish.made_by,
            expires_at: wish.expires_at,
            used_at: None,
        };
        self.make_room(&token, now)?;
        self.keep(&token).map_err(TokenError::Keep)?;
        self.kept.lock().insert(hashed, token.clone());
        Ok((text, token))
    }

    fn make_room(&self, token: &Token, now: Timestamp) -> Result<(), TokenError> {
        let over: Vec<Token> = {
            let kept = self.kept.lock();
            kept.values().filter(|token| token.expires_at <= now).cloned().collect()
        };
        for token in over {
            drop(self.revoke(&token.id));
        }
        let kept = self.kept.lock();
        let own = kept.values().filter(|other| other.owner == token.owner).count();
        if kept.len() >= TOKENS_MAX || own >= PER_OWNER_MAX {
            return Err(TokenError::TooMany(own));
        }
        Ok(())
    }

    /// Whose token a text is. Second: whether the use is to be kept.
    pub(crate) fn find(&self, text: &str, now: Timestamp) -> Result<(Token, bool), Refused> {
        if !secret::is_token(secret::API_TOKEN, text) {
            return Err(Refused::Malformed);
        }
        let mut kept = self.kept.lock();
        let token = kept.get_mut(&Hashed::of(text)).ok_or(Refused::Unknown)?;
        if token.expires_at <= now {
            return Err(Refused::Expired(token.id.clone()));
        }
        let last = token.used_at.map(|used| now.duration_since(used).as_secs());
        let keep = last.is_none_or(|ago| ago >= USE_KEPT_SECONDS);
        if keep {
            token.used_at = Some(now);
        }
        Ok((token.clone(), keep))
    }

    /// Writes one down.
    pub(crate) fn keep(&self, token: &Token) -> Result<(), String> {
        let Some(shelf) = &self.shelf else { return Ok(()) };
        let value = serde_json::to_vec(token).map_err(|error| error.to_string())?;
        shelf.put(&token.id, &value).map_err(|error| error.to_string())
    }

    /// Takes one out of force, at once whatever the shelf says. Second: why it would be back after a restart.
    pub(crate) fn revoke(&self, id: &str) -> Option<(Token, Result<(), String>)> {
        let token = {
            let mut kept = self.kept.lock();
            let key = kept.iter().find(|(_, token)| token.id == id).map(|(key, _)| *key)?;
            kept.remove(&key)?
        };
        let gone = match &self.shelf {
            Some(shelf) => shelf.remove(id).map_err(|error| error.to_string()),
            None => Ok(()),
        };
        Some((token, gone))
    }

    /// A person logged in again: their tokens have the groups they have now.
    pub(crate) fn refresh(&self, person: &Person) -> Vec<Token> {
        let mut kept = self.kept.lock();
        let mut changed = Vec::new();
        for token in kept.values_mut() {
            if let Owner::Person(owner) = &mut token.owner
                && owner.id == person.id
                && owner != person
            {
                owner.clone_from(person);
                changed.push(token.clone());
            }
        }
        changed
    }

    /// A token that is good, by its id.
    pub(crate) fn standing(&self, id: &str, now: Timestamp) -> Option<Token> {
        let kept = self.kept.lock();
        kept.values().find(|token| token.id == id && token.expires_at > now).cloned()
    }

    /// All, newest first.
    pub(crate) fn list(&self) -> Vec<Token> {
        let mut list: Vec<Token> = self.kept.lock().values().cloned().collect();
        list.sort_by(|one, other| other.made_at.cmp(&one.made_at).then(one.id.cmp(&other.id)));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::person::tests::person;
    use std::io;

    #[derive(Default)]
    struct Memory(Mutex<HashMap<String, Vec<u8>>>);

    impl Shelf for Memory {
        fn put(&self, name: &str, value: &[u8]) -> io::Result<()> {
            self.0.lock().insert(name.to_owned(), value.to_vec());
            Ok(())
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.lock().remove(name);
            Ok(())
        }

        fn all(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
            Ok(self.0.lock().iter().map(|(name, value)| (name.clone(), value.clone())).collect())
        }
    }

    fn at(seconds: i64) -> Timestamp {
        "2026-11-21T10:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)
    }

    fn wish(owner: Owner) -> Wish {
        Wish {
            name: "deploy".into(),
            owner,
            roles: BTreeSet::from([Role::Viewer, Role::Approver]),
            groups: vec!["dba".into(), "security".into()],
            made_by: "oidc:corp:ana".into(),
            expires_at: at(7_200),
        }
    }

    #[test]
    fn a_token_outlives_a_restart_is_kept_as_a_hash_and_ends_in_time_or_by_hand() {
        let shelf = Arc::new(Memory::default());
        let tokens = Tokens::restore(Some(shelf.clone()));
        let (text, token) = tokens.make(wish(Owner::Local(1002)), at(0)).unwrap();
        let kept = shelf.all().unwrap();
        assert!(!String::from_utf8_lossy(&kept[0].1).contains(text.expose()));
        let tokens = Tokens::restore(Some(shelf.clone()));
        assert_eq!(tokens.find(text.expose(), at(1)).unwrap().0.id, token.id);
        assert!(matches!(tokens.find(text.expose(), at(7_200)), Err(Refused::Expired(_))));
        assert!(matches!(tokens.find("lgt_nonsense", at(1)), Err(Refused::Malformed)));
        let other = secret::token(secret::API_TOKEN).unwrap();
        assert_eq!(tokens.find(other.expose(), at(1)).unwrap_err(), Refused::Unknown);
        tokens.revoke(&token.id).unwrap().1.unwrap();
        assert_eq!(tokens.find(text.expose(), at(1)).unwrap_err(), Refused::Unknown);
        assert!(shelf.all().unwrap().is_empty() && tokens.revoke(&token.id).is_none());
    }

    #[test]
    fn use_is_kept_once_an_hour() {
        let tokens = Tokens::default();
        let (text, _) = tokens.make(wish(Owner::Program), at(0)).unwrap();
        let kept: Vec<bool> = [1, 2, 3_000, 3_601, 3_602]
            .map(|second| tokens.find(text.expose(), at(second)).unwrap().1)
            .into();
        assert_eq!(kept, [true, false, false, true, false]);
    }

    #[test]
    fn a_scope_is_cut_by_what_the_owner_may_now() {
        let tokens = Tokens::default();
        let (_, token) = tokens.make(wish(Owner::Person(person("corp", &["a"]))), at(0)).unwrap();
        let now = Rights {
            roles: BTreeSet::from([Role::Viewer, Role::Admin]),
            groups: vec!["dba".into(), "other".into()],
        };
        let rights = token.rights(&now);
        assert_eq!(rights, Rights { roles: BTreeSet::from([Role::Viewer]), groups: vec!["dba".into()] });
        assert_eq!(token.rights(&Rights::default()), Rights::default());
        // The owner logs in with fewer groups.
        let changed = tokens.refresh(&person("corp", &[]));
        assert_eq!(changed.len(), 1);
        assert_eq!(tokens.list()[0].owner, Owner::Person(person("corp", &[])));
        assert!(tokens.refresh(&person("corp", &[])).is_empty());
    }

    #[test]
    fn tokens_of_one_owner_are_bounded_and_those_that_are_over_make_room() {
        let tokens = Tokens::default();
        for _ in 0..PER_OWNER_MAX {
            tokens.make(wish(Owner::Program), at(0)).unwrap();
        }
        assert!(matches!(tokens.make(wish(Owner::Program), at(1)), Err(TokenError::TooMany(_))));
        let late = Wish { expires_at: at(9_000), ..wish(Owner::Program) };
        assert!(tokens.make(late, at(7_201)).is_ok());
        assert_eq!(tokens.list().len(), 1);
    }
}
