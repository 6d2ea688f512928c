//! A person as an identity provider told of them, and what that gives them under the configuration and policy in force: found
//! anew for every request, so that a group taken from policy or configuration is gone at once.

use super::{caller::Role, settings::LoginSettings};
use crate::people::People;
use lockgate_model::{id::GroupName, principal::Approver};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Groups of one person that are kept; more is no person.
pub(crate) const GROUPS_MAX: usize = 2_000;

/// Bytes of a name, an id or a group.
pub(crate) const NAME_MAX: usize = 255;

/// The provider of the administrator by one-time token.
pub(crate) const BOOTSTRAP: &str = "bootstrap";

/// Whoever logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Person {
    /// `oidc:corp:<subject>`; never changes for a person.
    pub(crate) id: String,
    /// The provider's name.
    pub(crate) provider: String,
    /// Who the provider really is (issuer, entity id): another one of its name vouches for nobody else's people.
    #[serde(default)]
    pub(crate) authority: String,
    /// To show.
    pub(crate) name: String,
    /// An address that the provider vouches for; what other channels know the person by.
    #[serde(default)]
    pub(crate) email: Option<String>,
    /// Whatever else may be a name of theirs; only ever excludes.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// The provider's groups, by the claim they stand in.
    #[serde(default)]
    pub(crate) groups: BTreeMap<String, Vec<String>>,
}

/// What a person may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) groups: Vec<GroupName>,
}

impl Person {
    /// What they may under this configuration and a policy whose groups say `claim:value`.
    pub(crate) fn rights<'a>(
        &self,
        settings: &LoginSettings,
        policy: impl Iterator<Item = (&'a GroupName, &'a str)>,
    ) -> Rights {
        if self.provider == BOOTSTRAP {
            return bootstrap(settings);
        }
        let mut groups: BTreeSet<GroupName> =
            policy.filter(|(_, member)| self.is_claimed(member)).map(|(group, _)| group.clone()).collect();
        let listed = settings.groups.iter().filter(|(_, members)| self.is_any(members));
        groups.extend(listed.map(|(group, _)| group.clone()));
        let provider = settings.providers.iter().find(|provider| provider.name == self.provider);
        let Some(provider) = provider.filter(|provider| provider.kind.authority() == self.authority) else {
            // The provider was taken from the configuration, or is another one now.
            return Rights::default();
        };
        if let Some(speaks_for) = &provider.speaks_for {
            groups.retain(|group| speaks_for.contains(group));
        }
        let mut roles: BTreeSet<Role> =
            settings.roles.iter().filter(|(_, groups)| self.is_any(groups)).map(|(role, _)| *role).collect();
        if !groups.is_empty() {
            roles.insert(Role::Approver);
        }
        Rights { roles, groups: groups.into_iter().collect() }
    }

    /// `claim:value`, as a policy's group writes it.
    fn is_claimed(&self, member: &str) -> bool {
        let Some((claim, value)) = member.split_once(':') else { return false };
        self.groups.get(claim).is_some_and(|values| values.iter().any(|held| held == value))
    }

    /// `group`, `provider:group` or `*`.
    fn is_any(&self, members: &[String]) -> bool {
        members.iter().any(|member| {
            let own = member.strip_prefix(&self.provider).and_then(|rest| rest.strip_prefix(':'));
            let held = |group: &str| self.groups.values().flatten().any(|held| held == group);
            member == "*" || held(member) || own.is_some_and(|group| group == "*" || held(group))
        })
    }

    /// Every other name of theirs; the one that is counted comes first.
    pub(crate) fn also(&self, people: &People) -> Vec<String> {
        let known = |id: &str| -> Option<Vec<String>> {
            let Approver { also, .. } = people.approver(id.to_owned(), Vec::new(), String::new());
            (!also.is_empty()).then_some(also)
        };
        let mut also = known(&self.id)
            .or_else(|| self.email.as_deref().and_then(known))
            .unwrap_or_else(|| vec![self.email.clone().unwrap_or_else(|| self.id.clone())]);
        let more = std::iter::once(&self.id).chain(&self.email).chain(&self.aliases);
        for name in more {
            if !also.contains(name) {
                also.push(name.clone());
            }
        }
        if self.provider == BOOTSTRAP {
            // Only root reads its token.
            also.push("local:0".to_owned());
        }
        also
    }
}

fn bootstrap(settings: &LoginSettings) -> Rights {
    let Some(bootstrap) = &settings.bootstrap else { return Rights::default() };
    let mut roles = BTreeSet::from([Role::Viewer, Role::Auditor, Role::Admin]);
    if !bootstrap.groups.is_empty() {
        roles.insert(Role::Approver);
    }
    Rights { roles, groups: bootstrap.groups.clone() }
}

/// A name from outside as it is kept and shown: not empty, not long, nothing hidden in it.
pub(crate) fn fit_name(text: &str) -> Option<String> {
    let text = text.trim();
    let hidden = |c: char| crate::text::is_deceptive(c) || c.is_control();
    (!text.is_empty() && text.len() <= NAME_MAX && !text.chars().any(hidden)).then(|| text.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        PersonSettings,
        auth::settings::{BootstrapSettings, OidcSettings, ProviderKind, ProviderSettings},
    };
    use std::time::Duration;

    pub(crate) fn oidc_provider(name: &str) -> ProviderSettings {
        ProviderSettings {
            name: name.into(),
            label: None,
            speaks_for: None,
            kind: ProviderKind::Oidc(OidcSettings {
                issuer: format!("https://{name}.example.com"),
                client_id: "lockgate".into(),
                client_secret: None,
                scopes: Vec::new(),
                groups_claim: "groups".into(),
                ca_pem: None,
                skew: Duration::from_secs(30),
            }),
        }
    }

    pub(crate) fn login_settings(providers: Vec<ProviderSettings>) -> LoginSettings {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        LoginSettings {
            providers,
            roles: BTreeMap::from([
                (Role::Viewer, owned(&["staff"])),
                (Role::Auditor, owned(&["corp:audit"])),
                (Role::Admin, owned(&["platform"])),
            ]),
            groups: BTreeMap::from([
                ("security".into(), owned(&["sec"])),
                ("dba".into(), owned(&["other:db"])),
            ]),
            idle: Duration::from_secs(1_800),
            lasts: Duration::from_secs(43_200),
            vouched: Duration::from_secs(3_600),
            bootstrap: None,
            secure: false,
            proxies: Vec::new(),
        }
    }

    pub(crate) fn person(provider: &str, groups: &[&str]) -> Person {
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        Person {
            id: format!("oidc:{provider}:ana"),
            provider: provider.into(),
            authority: format!("https://{provider}.example.com"),
            name: "Ana".into(),
            email: Some("ana@example.com".into()),
            aliases: vec!["ana-dev".into()],
            groups: BTreeMap::from([("groups".into(), groups)]),
        }
    }

    fn rights(person: &Person, settings: &LoginSettings) -> (Vec<&'static str>, Vec<String>) {
        let dba = GroupName::from("dba");
        let rights = person.rights(settings, [(&dba, "groups:dba-team")].into_iter());
        let groups = rights.groups.iter().map(ToString::to_string).collect();
        (rights.roles.into_iter().map(Role::as_str).collect(), groups)
    }

    #[test]
    fn roles_and_groups_come_from_the_provider_s_groups_and_only_where_listed() {
        let settings = login_settings(vec![oidc_provider("corp"), oidc_provider("other")]);
        for (provider, groups, roles, of_policy) in [
            ("corp", &[][..], &[][..], &[][..]),
            ("corp", &["staff"], &["viewer"], &[]),
            ("corp", &["audit"], &["auditor"], &[]),
            ("other", &["audit"], &[], &[]),
            ("corp", &["corp:audit"], &["auditor"], &[]),
            ("corp", &["platform"], &["admin"], &[]),
            ("corp", &["dba-team"], &["approver"], &["dba"]),
            ("corp", &["dba", "db", "security"], &[], &[]),
            ("corp", &["sec", "platform"], &["approver", "admin"], &["security"]),
            ("other", &["db"], &["approver"], &["dba"]),
            ("gone", &["dba-team", "staff"], &[], &[]),
        ] {
            let (got, policy) = rights(&person(provider, groups), &settings);
            let policy: Vec<&str> = policy.iter().map(String::as_str).collect();
            assert_eq!((&got[..], &policy[..]), (roles, of_policy), "{provider} {groups:?}");
        }
    }

    #[test]
    fn another_provider_of_the_same_name_vouches_for_nobody_else_s_people() {
        let settings = login_settings(vec![oidc_provider("corp")]);
        let was = Person { authority: "https://old.example.com".into(), ..person("corp", &["platform"]) };
        assert_eq!(rights(&was, &settings), (vec![], vec![]));
    }

    #[test]
    fn a_provider_speaks_for_its_groups_alone() {
        let mut settings = login_settings(vec![oidc_provider("corp")]);
        settings.providers[0].speaks_for = Some(vec!["security".into()]);
        assert_eq!(
            rights(&person("corp", &["sec", "dba-team"]), &settings),
            (vec!["approver"], vec!["security".into()])
        );
    }

    #[test]
    fn the_bootstrap_administrator_is_root_and_gone_with_its_setting() {
        let mut settings = login_settings(Vec::new());
        let admin = Person { id: "bootstrap:admin".into(), email: None, ..person(BOOTSTRAP, &["staff"]) };
        assert_eq!(rights(&admin, &settings), (vec![], vec![]));
        settings.bootstrap = Some(BootstrapSettings { groups: vec!["dba".into()], file: "/x".into() });
        let (roles, groups) = rights(&admin, &settings);
        assert_eq!(roles, ["viewer", "approver", "auditor", "admin"]);
        assert_eq!(groups, ["dba"]);
        assert!(admin.also(&People::default()).contains(&"local:0".to_owned()));
    }

    #[test]
    fn a_person_is_counted_by_configuration_then_by_address_then_by_id() {
        let ana = PersonSettings {
            name: "Ana A".into(),
            ids: vec!["oidc:corp:ana".into(), "local:1002".into()],
            owns: Vec::new(),
        };
        let people = People::new(vec![ana]).unwrap();
        let known = person("corp", &[]).also(&people);
        assert_eq!(known[..3], ["Ana A", "oidc:corp:ana", "local:1002"]);
        assert!(known.contains(&"ana@example.com".to_owned()) && known.contains(&"ana-dev".to_owned()));
        assert_eq!(person("corp", &[]).also(&People::default())[0], "ana@example.com");
        let nameless = Person { email: None, ..person("corp", &[]) };
        assert_eq!(nameless.also(&People::default())[0], "oidc:corp:ana");
    }

    #[test]
    fn names_with_something_hidden_in_them_are_none() {
        assert_eq!(fit_name(" Ana "), Some("Ana".into()));
        for bad in ["", " ", "a\u{202e}b", "a\nb", &"x".repeat(256)] {
            assert_eq!(fit_name(bad), None, "{bad:?}");
        }
    }
}
