//! Conditions on an HTTP request. A name that comes twice is read by one origin as its first value and by another as its
//! last: what permits needs all of them to match, what restricts one.
//!
//! It decides nothing about effects; `lockgate-inspect` made the facts, and whatever the origin could read differently is
//! opaque there.

use crate::pattern::{Pattern, Patterns, Strictness};
use lockgate_model::{
    http::{HttpClass, HttpFacts, JsonPath},
    sql::Risk,
};

/// A condition on a request.
#[derive(Debug)]
pub(crate) enum HttpTest {
    Class(Vec<HttpClass>),
    Methods(Patterns),
    Hosts(Patterns),
    Paths(Vec<PathTemplate>, Strictness),
    Query(String, Patterns, Strictness),
    Header(String, Patterns, Strictness),
    Json(JsonPath, Patterns, Strictness),
    Opaque(bool),
    Risk(Risk),
}

impl HttpTest {
    /// What a request that was not understood cannot be asked.
    pub(crate) fn needs_understanding(&self) -> bool {
        match self {
            Self::Opaque(_) | Self::Risk(_) => false,
            Self::Class(_)
            | Self::Methods(_)
            | Self::Hosts(_)
            | Self::Paths(..)
            | Self::Query(..)
            | Self::Header(..)
            | Self::Json(..) => true,
        }
    }

    pub(crate) fn holds(&self, facts: &HttpFacts) -> bool {
        let opaque = facts.class == HttpClass::Opaque;
        if opaque && self.needs_understanding() {
            return false;
        }
        match self {
            Self::Class(classes) => classes.contains(&facts.class),
            Self::Methods(patterns) => patterns.matches(&facts.method),
            Self::Hosts(patterns) => patterns.matches(&facts.host),
            Self::Paths(templates, strictness) => {
                templates.iter().any(|template| template.matches(&facts.path, *strictness))
            }
            Self::Query(name, patterns, strictness) => {
                let same = |got: &str| match strictness {
                    Strictness::Permits => got == name,
                    Strictness::Restricts => got.eq_ignore_ascii_case(name),
                };
                let values = facts.query.iter().filter(|field| same(&field.name));
                agree(values.map(|field| field.value.as_str()), patterns, *strictness)
            }
            Self::Header(name, patterns, strictness) => agree(facts.header(name), patterns, *strictness),
            Self::Json(path, patterns, strictness) => {
                let values = facts.json.get(path.as_str()).into_iter().flatten();
                agree(values.map(String::as_str), patterns, *strictness)
            }
            Self::Opaque(wanted) => opaque == *wanted,
            Self::Risk(least) => facts.risk >= *least,
        }
    }

    /// What came, for people.
    pub(crate) fn got(&self, facts: &HttpFacts) -> String {
        if facts.class == HttpClass::Opaque && self.needs_understanding() {
            return "not known: the request is opaque".to_owned();
        }
        let list = |values: Vec<&str>| if values.is_empty() { "none".to_owned() } else { values.join(", ") };
        match self {
            Self::Class(_) => facts.class.to_string(),
            Self::Methods(_) => facts.method.clone(),
            Self::Hosts(_) => facts.host.clone(),
            Self::Paths(..) => facts.path.clone(),
            Self::Query(name, ..) => {
                let same = facts.query.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
                list(same.map(|field| field.value.as_str()).collect())
            }
            Self::Header(name, ..) => list(facts.header(name).collect()),
            Self::Json(path, ..) => {
                list(facts.json.get(path.as_str()).into_iter().flatten().map(String::as_str).collect())
            }
            Self::Opaque(_) => (facts.class == HttpClass::Opaque).to_string(),
            Self::Risk(_) => facts.risk.as_str().to_owned(),
        }
    }
}

/// All of them for what permits, one of them for what restricts; there has to be one.
fn agree<'v>(mut values: impl Iterator<Item = &'v str>, patterns: &Patterns, strictness: Strictness) -> bool {
    match strictness {
        Strictness::Restricts => values.any(|value| patterns.matches(value)),
        Strictness::Permits => match values.next() {
            Some(first) => patterns.matches(first) && values.all(|value| patterns.matches(value)),
            None => false,
        },
    }
}

/// `/v1/users/{id}`, `/v1/*/status`, `/files/**`: segments, of which `{name}` and `*` are any one and `**` any number.
#[derive(Clone, Debug)]
pub(crate) struct PathTemplate {
    segments: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    One(Pattern),
    Any,
    Rest,
}

impl PathTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn new(text: &str, strictness: Strictness) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self { segments: vec![Part::Rest] });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("`{text}` does not begin with `/`"));
        };
        if rest.contains(['?', '#', '%', '\\']) || rest.contains("//") {
            return Err(format!(
                "`{text}`: templates are of decoded paths, without `?`, `#`, `%`, `\\` and `//`; write `query:` for parameters"
            ));
        }
        if rest.contains("{}") {
            return Err(format!("`{text}` has a segment without a name (`{{}}`); write `{{id}}`"));
        }
        let rest = rest.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(rest);
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            let named = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
            segments.push(match (segment, named) {
                ("." | "..", _) => return Err(format!("`{text}` has a dot segment")),
                ("**", _) => Part::Rest,
                ("*", _) => Part::Any,
                (_, Some(name)) if !name.is_empty() && !name.contains(['{', '}', ',']) => Part::Any,
                ("", _) => Part::One(Pattern::empty()),
                (glob, _) => Part::One(Pattern::new(glob, strictness)?),
            });
        }
        Ok(Self { segments })
    }

    /// Origins differ in whether `/users/` is `/users`: to restrict it is, to permit as well, since no template can tell
    /// them apart.
    pub(crate) fn matches(&self, path: &str, _strictness: Strictness) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return self.is_rest() };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let got: Vec<&str> = rest.split('/').collect();
        // As with globs: remember the last `**`, and begin behind it again one segment later.
        let (mut at, mut here, mut retry) = (0, 0, None);
        loop {
            match (self.segments.get(at), got.get(here)) {
                (Some(Part::Rest), _) => {
                    retry = Some((at + 1, here));
                    at += 1;
                    continue;
                }
                (Some(part), Some(segment)) if part.matches(segment) => {
                    at += 1;
                    here += 1;
                    continue;
                }
                (None, None) => return true,
                (Some(_) | None, _) => {}
            }
            match retry {
                Some((behind, began)) if began < got.len() => {
                    retry = Some((behind, began + 1));
                    (at, here) = (behind, began + 1);
                }
                Some(_) | None => return false,
            }
        }
    }

    fn is_rest(&self) -> bool {
        matches!(self.segments.as_slice(), [Part::Rest])
    }
}

impl Part {
    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::One(pattern) => pattern.matches(segment),
            Self::Any => !segment.is_empty(),
            Self::Rest => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_segment_by_segment() {
        for (template, path, permits, restricts) in [
            ("/v1/users/{id}", "/v1/users/7", true, true),
            ("/v1/users/{id}", "/v1/users/7/", true, true),
            ("/v1/users/{id}", "/v1/users", false, false),
            ("/v1/users/{id}", "/v1/users/", false, false),
            ("/v1/users/{id}", "/v1/users/7/keys", false, false),
            ("/v1/users/{id}", "/V1/Users/7", false, true),
            ("/v1/*/keys", "/v1/users/keys", true, true),
            ("/v1/*/keys", "/v1/a/b/keys", false, false),
            ("/v1/**", "/v1", true, true),
            ("/v1/**", "/v1/a/b/c", true, true),
            ("/v1/**", "/v10", false, false),
            ("/**/keys", "/a/b/keys", true, true),
            ("/**/keys", "/keys", true, true),
            ("/**/keys", "/a/b/keys/c", false, false),
            ("/a/**/b/**/c", "/a/x/b/y/b/c", true, true),
            ("/report-*", "/report-7", true, true),
            ("/report-*", "/report-7/x", false, false),
            ("/", "/", true, true),
            ("/", "/x", false, false),
            ("*", "/anything/at/all", true, true),
            ("/users/", "/users", true, true),
        ] {
            for (strictness, expected) in [(Strictness::Permits, permits), (Strictness::Restricts, restricts)]
            {
                let template_of = PathTemplate::new(template, strictness).unwrap();
                assert_eq!(
                    template_of.matches(path, strictness),
                    expected,
                    "{template} {path} {strictness:?}"
                );
            }
        }
        for bad in ["users", "/a//b", "/a?b", "/a%2fb", "/../a", "/{}", "/{a,b}/c["] {
            assert!(PathTemplate::new(bad, Strictness::Permits).is_err(), "{bad}");
        }
    }
}
