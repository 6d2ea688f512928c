//! The `http:` block: from words to conditions.

use super::scan::{Scan, words};
use crate::{
    document::{HttpMatch, OneOrMany},
    matcher::{HttpTest, OperationTest, PathTemplate},
    pattern::{Pattern, Patterns, Strictness},
    yaml::{Position, Spanned},
};
use lockgate_model::http::JsonPath;

impl Scan<'_> {
    pub(super) fn http(&mut self, http: &Spanned<HttpMatch>) {
        if let Some(OneOrMany(classes)) = &http.class {
            let classes: Vec<_> = classes.iter().map(|class| class.0).collect();
            let wanted = classes.iter().map(|class| class.as_str()).collect::<Vec<_>>().join(", ");
            self.condition("match.http.class", wanted, HttpTest::Class(classes));
        }
        if let Some((wanted, patterns)) = self.patterns(&http.methods) {
            for method in http.methods.iter().flat_map(|methods| &methods.0) {
                if method.value.chars().any(|c| c.is_ascii_lowercase()) {
                    let help = Some(format!("write `{}`", method.value.to_ascii_uppercase()));
                    self.error(method.at, "methods are written in upper case (RFC 9110 §9.1)", help);
                }
            }
            self.condition("match.http.methods", wanted, HttpTest::Methods(patterns));
        }
        if let Some(hosts) = &http.hosts {
            let lower = |glob: &Spanned<String>| glob.value.trim_end_matches('.').to_ascii_lowercase();
            for host in
                hosts.0.iter().filter(|host| host.value.contains([':', '/']) && !host.value.starts_with('['))
            {
                let help = Some("the target's `addresses` name the port".to_owned());
                self.error(host.at, format!("`{}` is not a host name or a glob of one", host.value), help);
            }
            let texts: Vec<(String, Position)> = hosts.0.iter().map(|host| (lower(host), host.at)).collect();
            let patterns = self.compiled(texts);
            self.condition("match.http.hosts", words(hosts), HttpTest::Hosts(patterns));
        }
        if let Some(paths) = &http.paths {
            let mut templates = Vec::with_capacity(paths.0.len());
            for path in &paths.0 {
                match PathTemplate::new(&path.value, self.strictness) {
                    Ok(template) => templates.push(template),
                    Err(message) => {
                        let help = Some("write `/v1/users/{id}`, `/v1/*/status` or `/files/**`".to_owned());
                        self.error(path.at, message, help);
                    }
                }
            }
            self.condition("match.http.paths", words(paths), HttpTest::Paths(templates, self.strictness));
        }
        for (name, globs) in &http.query {
            if let Some((wanted, patterns)) = self.patterns(&Some(globs.clone())) {
                let test = HttpTest::Query(name.clone(), patterns, self.strictness);
                self.condition(&format!("match.http.query.{name}"), wanted, test);
            }
        }
        for (name, globs) in &http.headers {
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&b)) {
                self.error(http.at, format!("`{name}` is not the name of a header"), None);
            }
            if is_credential(name) {
                let help = Some("match on identity: lockgate knows who asks without it".to_owned());
                self.error(http.at, format!("`{name}` carries a credential, which no rule sees"), help);
            }
            if let Some((wanted, patterns)) = self.patterns(&Some(globs.clone())) {
                let test = HttpTest::Header(name.to_ascii_lowercase(), patterns, self.strictness);
                self.condition(&format!("match.http.headers.{name}"), wanted, test);
            }
        }
        for (path, globs) in &http.json {
            let place = match JsonPath::new(path) {
                Ok(place) => place,
                Err(message) => {
                    self.error(http.at, message, None);
                    continue;
                }
            };
            if let Some((wanted, patterns)) = self.patterns(&Some(globs.clone())) {
                let test = HttpTest::Json(place, patterns, self.strictness);
                self.condition(&format!("match.http.json.{path}"), wanted, test);
            }
        }
        if let Some(wanted) = http.opaque {
            self.condition("match.http.opaque", wanted.to_string(), HttpTest::Opaque(wanted));
        }
        if let Some(least) = http.risk {
            let wanted = format!("at least {}", least.0.as_str());
            self.condition("match.http.risk", wanted, HttpTest::Risk(least.0));
        }
    }

    fn condition(&mut self, key: &str, wanted: impl Into<String>, test: HttpTest) {
        self.push_operation(key, wanted, OperationTest::Http(test));
    }

    fn compiled(&mut self, texts: Vec<(String, Position)>) -> Patterns {
        let strictness: Strictness = self.strictness;
        let mut patterns = Vec::with_capacity(texts.len());
        for (text, at) in texts {
            match Pattern::new(&text, strictness) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => self.error(at, message, None),
            }
        }
        Patterns(patterns)
    }
}

/// Headers whose values never become facts.
fn is_credential(name: &str) -> bool {
    ["authorization", "proxy-authorization", "cookie", "set-cookie"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}
