//! What of a session's state changes the meaning of a text: how strings are lexed, in which encoding, where names are
//! looked up, and what its prepared statements and cursors are. Fed by startup parameters, ParameterStatus and the
//! statements that ran; never asks the server.
//!
//! Knowledge only shrinks when it is in doubt: what a statement may or may not have changed is unknown until the server
//! says so.

use super::{Control, Setting, Statement, catalogue::Lookup};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicUsize},
};

/// How many prepared statements and how many cursors are remembered by name; one more is simply not known, and what is
/// not known is opaque. Drivers keep tens to a few hundred.
const MAX_NAMES: usize = 4096;

/// Where unqualified names are looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SearchPath {
    /// The role's default; `pg_catalog` comes first.
    #[default]
    Default,
    /// These schemas.
    Known(Vec<String>),
    /// Something changed it, or may have.
    Unknown,
}

impl SearchPath {
    /// Whether an unqualified function or operator name can be taken for `pg_catalog`'s: nothing stands before it.
    pub fn catalog_first(&self) -> bool {
        match self {
            Self::Default => true,
            Self::Known(schemas) => {
                let first = schemas.iter().find(|schema| *schema != "pg_temp");
                !schemas.iter().any(|schema| schema == "pg_catalog")
                    || first.is_some_and(|schema| schema == "pg_catalog")
            }
            Self::Unknown => false,
        }
    }
}

/// The settings that a transaction's end can take back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    standard_conforming_strings: Option<bool>,
    client_encoding_utf8: bool,
    search_path: SearchPath,
    role: Option<String>,
}

/// What of a session's state changes the meaning of a text.
#[derive(Clone, Debug)]
pub struct SessionState {
    /// Whether a backslash in plain quotes is an ordinary character; None means unknown, and then both are judged.
    pub standard_conforming_strings: Option<bool>,
    /// Whether the client's encoding is UTF-8; in others a byte of a character can be a backslash or a quote.
    pub client_encoding_utf8: bool,
    /// Where unqualified names are looked up.
    pub search_path: SearchPath,
    /// The role that SET ROLE or SET SESSION AUTHORIZATION put in force.
    pub role: Option<String>,
    /// The server's major version, when it was told.
    pub server_major: Option<u32>,
    /// Policy asks about what is behind names, and the catalogue cannot be had.
    pub catalogue_missing: bool,
    /// As the session began: what RESET and DISCARD ALL go back to.
    initial: Settings,
    /// What COMMIT leaves in force, while a transaction is open.
    at_commit: Option<Settings>,
    /// What ROLLBACK goes back to, while a transaction is open.
    at_rollback: Option<Settings>,
    prepared: HashMap<String, Arc<Statement>>,
    cursors: HashMap<String, Arc<Statement>>,
    /// There may be cursors that are not remembered.
    other_cursors: bool,
    /// What the session made and the catalogue cannot show yet.
    made: Made,
    /// What is being judged already, outermost first: functions, views and types, while one of them is judged.
    pub(super) trail: Vec<u32>,
    /// How much of the texts that functions run may still be inspected, while such a text is judged.
    pub(super) texts_left: Option<Arc<AtomicUsize>>,
}

/// What the meaning of a text depends on in a session's state. Two sessions of one basis read a text alike, unless it
/// names prepared statements or cursors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    standard_conforming_strings: Option<bool>,
    client_encoding_utf8: bool,
    search_path: SearchPath,
    role: Option<String>,
    server_major: Option<u32>,
    catalogue_missing: bool,
    made: Made,
}

/// What statements made since the catalogue was read, as far as it changes what a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Made {
    /// It cannot be told what.
    anything: bool,
    /// Names of whatever it is: functions, views, types, operators, tables that were changed.
    names: BTreeSet<String>,
    /// Names of tables without anything about them, and of views that only read.
    plain: BTreeSet<String>,
}

/// What a statement makes, as far as it changes what a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Makes {
    /// Nothing.
    #[default]
    Nothing,
    /// Relations that can be read without anything else happening.
    Plain(Vec<String>),
    /// Something of these names.
    Names(Vec<String>),
    /// Who knows.
    Anything,
}

/// Names that are kept in doubt one by one; beyond that all are.
const MAX_MADE: usize = 1024;

impl Default for SessionState {
    fn default() -> Self {
        Self::from_startup(&[])
    }
}

impl SessionState {
    /// What the meaning of a text depends on.
    pub fn basis(&self) -> Basis {
        Basis {
            standard_conforming_strings: self.standard_conforming_strings,
            client_encoding_utf8: self.client_encoding_utf8,
            search_path: self.search_path.clone(),
            role: self.role.clone(),
            server_major: self.server_major,
            catalogue_missing: self.catalogue_missing,
            made: self.made.clone(),
        }
    }

    /// Whether the meaning of texts is what it was on this basis.
    pub fn stands_on(&self, basis: &Basis) -> bool {
        // Without `..`: a new field has to be thought of here.
        let Self {
            standard_conforming_strings,
            client_encoding_utf8,
            search_path,
            role,
            server_major,
            catalogue_missing,
            made,
            // What the settings go back to says nothing of what they are.
            initial: _,
            at_commit: _,
            at_rollback: _,
            // Only what EXECUTE, FETCH and MOVE name.
            prepared: _,
            cursors: _,
            other_cursors: _,
            trail,
            texts_left: _,
        } = self;
        *standard_conforming_strings == basis.standard_conforming_strings
            && *client_encoding_utf8 == basis.client_encoding_utf8
            && *server_major == basis.server_major
            && *catalogue_missing == basis.catalogue_missing
            && *search_path == basis.search_path
            && *role == basis.role
            && *made == basis.made
            && trail.is_empty()
    }

    /// Where unqualified relation names are looked up.
    pub(crate) fn lookup(&self) -> Lookup {
        match &self.search_path {
            // The default of another role is not known, and "$user" is its name.
            SearchPath::Default if self.role.is_none() => Lookup::Default,
            SearchPath::Known(schemas) if !schemas.iter().any(|schema| schema == "$user") => {
                Lookup::Schemas(schemas.clone())
            }
            SearchPath::Default | SearchPath::Known(_) | SearchPath::Unknown => Lookup::Anywhere,
        }
    }

    /// The state that code of the database's own is judged in, wherever it is called: nothing of a session is known, nor
    /// which cursors it has.
    pub(super) fn of_code(trail: Vec<u32>) -> Self {
        Self { other_cursors: true, trail, ..Self::default() }
    }

    /// From the parameters of a StartupMessage (`client_encoding`, `search_path`, `options`, …).
    pub fn from_startup(parameters: &[(String, String)]) -> Self {
        let initial = Settings {
            standard_conforming_strings: None,
            client_encoding_utf8: true,
            search_path: SearchPath::Default,
            role: None,
        };
        let mut state = Self {
            standard_conforming_strings: None,
            client_encoding_utf8: true,
            search_path: SearchPath::Default,
            role: None,
            server_major: None,
            catalogue_missing: false,
            initial: initial.clone(),
            at_commit: None,
            at_rollback: None,
            prepared: HashMap::new(),
            cursors: HashMap::new(),
            other_cursors: false,
            made: Made::default(),
            trail: Vec::new(),
            texts_left: None,
        };
        for (name, value) in parameters {
            match name.as_str() {
                "options" => {
                    for (name, value) in startup_options(value) {
                        state.assign(&name, &Setting::Values(vec![value]));
                    }
                }
                _ => state.assign(&name.to_ascii_lowercase(), &Setting::Values(vec![value.clone()])),
            }
        }
        state.initial = state.settings();
        state
    }

    /// A statement ran and the server said that it succeeded.
    pub fn apply(&mut self, statement: &Statement) {
        self.make(&statement.makes);
        if statement.unsettles {
            // Code that nobody here knows may open cursors, and change where names are looked up.
            self.other_cursors = true;
            self.search_path = SearchPath::Unknown;
            if let Some(settings) = &mut self.at_commit {
                settings.search_path = SearchPath::Unknown;
            }
        }
        match &statement.control {
            Control::None | Control::Savepoint | Control::Fetch { .. } | Control::Execute { .. } => {}
            Control::Begin => {
                if self.at_rollback.is_none() {
                    self.at_rollback = Some(self.settings());
                    self.at_commit = self.at_rollback.clone();
                }
            }
            Control::Commit { chain } => {
                if let Some(settings) = self.at_commit.take() {
                    self.restore(settings);
                }
                self.end_transaction(*chain);
            }
            Control::Rollback { chain } => {
                if let Some(settings) = self.at_rollback.take() {
                    self.restore(settings);
                }
                self.end_transaction(*chain);
            }
            // Which settings were made after the savepoint is not kept: in doubt is unknown.
            Control::RollbackTo => self.doubt(),
            Control::Set { name, value, local } => {
                self.assign(name, value);
                if !local && self.at_commit.is_some() {
                    self.at_commit = Some(self.settings());
                }
            }
            Control::ResetAll | Control::DiscardAll => {
                self.restore(self.initial.clone());
                if self.at_commit.is_some() {
                    self.at_commit = Some(self.initial.clone());
                }
                if matches!(statement.control, Control::DiscardAll) {
                    self.prepared.clear();
                    self.cursors.clear();
                }
            }
            Control::Prepare { name, inner } => self.prepare(name, inner.clone()),
            Control::Deallocate { name: Some(name) } => self.forget_prepared(name),
            Control::Deallocate { name: None } => self.prepared.clear(),
            Control::Declare { name, inner } => self.open_cursor(name, inner.clone()),
            Control::Close { name: Some(name) } => self.close_cursor(name),
            Control::Close { name: None } => self.cursors.clear(),
            Control::Anything => self.doubt(),
        }
    }

    /// A statement was sent, and the next one is judged before the server has answered: whatever it could change is
    /// unknown from here on.
    pub fn sent(&mut self, statement: &Statement) {
        let before = self.settings();
        self.apply(statement);
        let after = self.settings();
        if before.standard_conforming_strings != after.standard_conforming_strings {
            self.standard_conforming_strings = None;
        }
        self.client_encoding_utf8 = before.client_encoding_utf8 && after.client_encoding_utf8;
        if before.search_path != after.search_path {
            self.search_path = SearchPath::Unknown;
        }
    }

    /// Code that nobody here knows has run, and the server has not said yet which settings it left: how a text is read
    /// is unknown. A text of ASCII alone reads the same in every encoding that a client may have.
    pub fn doubt_reading(&mut self, text: &str) {
        self.standard_conforming_strings = None;
        self.client_encoding_utf8 &= text.is_ascii();
    }

    /// Another statement of the same text comes after this one. The text was lexed before any of it ran, so only what
    /// names mean can change.
    pub(super) fn sent_within(&mut self, statement: &Statement) {
        let (lexing, encoding) = (self.standard_conforming_strings, self.client_encoding_utf8);
        self.apply(statement);
        self.standard_conforming_strings = lexing;
        self.client_encoding_utf8 = encoding;
    }

    /// The server reported a parameter.
    pub fn parameter_status(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_lowercase();
        if name == "server_version" {
            let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
            self.server_major = digits.parse().ok();
        }
        if matches!(name.as_str(), "standard_conforming_strings" | "client_encoding" | "search_path") {
            self.assign(&name, &Setting::Values(split_path_if(&name, value)));
            if self.at_rollback.is_none() {
                self.initial.standard_conforming_strings =
                    self.initial.standard_conforming_strings.or(self.standard_conforming_strings);
            }
        }
    }

    /// A statement was prepared under this name (by Parse, or by PREPARE).
    pub fn prepare(&mut self, name: &str, statement: Arc<Statement>) {
        remember(&mut self.prepared, name, statement);
    }

    /// A prepared statement was closed.
    pub fn forget_prepared(&mut self, name: &str) {
        self.prepared.remove(name);
    }

    /// A cursor or portal of this name reads this query.
    pub fn open_cursor(&mut self, name: &str, statement: Arc<Statement>) {
        self.other_cursors |= self.cursors.len() >= MAX_NAMES;
        remember(&mut self.cursors, name, statement);
    }

    /// A cursor or portal was closed.
    pub fn close_cursor(&mut self, name: &str) {
        self.cursors.remove(name);
    }

    /// What EXECUTE of this name runs, when known.
    pub fn prepared(&self, name: &str) -> Option<&Arc<Statement>> {
        self.prepared.get(name)
    }

    /// What FETCH of this name reads, when known.
    pub fn cursor(&self, name: &str) -> Option<&Arc<Statement>> {
        self.cursors.get(name)
    }

    fn end_transaction(&mut self, chain: bool) {
        // Cursors WITH HOLD survive a commit; a name that no longer exists makes FETCH fail, which harms nobody.
        let settings = chain.then(|| self.settings());
        self.at_commit.clone_from(&settings);
        self.at_rollback = settings;
    }

    fn doubt(&mut self) {
        self.standard_conforming_strings = None;
        self.search_path = SearchPath::Unknown;
        if let Some(settings) = &mut self.at_commit {
            settings.standard_conforming_strings = None;
            settings.search_path = SearchPath::Unknown;
        }
        self.other_cursors = true;
    }

    fn make(&mut self, makes: &Makes) {
        let (names, plain) = match makes {
            Makes::Nothing => return,
            Makes::Anything => {
                self.made.anything = true;
                return;
            }
            Makes::Plain(names) => (names, true),
            Makes::Names(names) => (names, false),
        };
        for name in names {
            if plain && !self.made.names.contains(name) {
                self.made.plain.insert(name.clone());
            } else {
                self.made.plain.remove(name);
                self.made.names.insert(name.clone());
            }
        }
        self.made.anything |= self.made.names.len() + self.made.plain.len() > MAX_MADE;
    }

    /// What the session made is in the catalogue now, or is gone: no transaction is open, and the catalogue is read anew.
    pub fn made_is_known(&mut self) {
        self.made = Made::default();
    }

    /// Whether anything is in doubt because of what the session made.
    pub fn makes_doubt(&self) -> bool {
        self.made != Made::default()
    }

    /// Whether this name may stand for something that the session just made.
    pub(super) fn in_doubt(&self, name: &str) -> bool {
        self.made.anything || self.made.names.contains(name)
    }

    /// Whether what the database's own code does may have changed by what the session made.
    pub(super) fn in_doubt_at_all(&self) -> bool {
        self.made.anything || !self.made.names.is_empty()
    }

    /// Whether the session made a relation of this name that only reads when it is read.
    pub(super) fn made_plain(&self, name: &str) -> bool {
        !self.made.anything && self.made.plain.contains(name)
    }

    /// Whether a cursor of a name that is not remembered may exist.
    pub(super) fn may_have_other_cursors(&self) -> bool {
        self.other_cursors
    }

    fn settings(&self) -> Settings {
        Settings {
            standard_conforming_strings: self.standard_conforming_strings,
            client_encoding_utf8: self.client_encoding_utf8,
            search_path: self.search_path.clone(),
            role: self.role.clone(),
        }
    }

    fn restore(&mut self, settings: Settings) {
        self.standard_conforming_strings = settings.standard_conforming_strings;
        self.client_encoding_utf8 = settings.client_encoding_utf8;
        self.search_path = settings.search_path;
        self.role = settings.role;
    }

    fn assign(&mut self, name: &str, value: &Setting) {
        let one = match value {
            Setting::Values(values) => values.first().map(String::as_str),
            Setting::Default | Setting::Unknown => None,
        };
        match name {
            "standard_conforming_strings" => {
                self.standard_conforming_strings = match value {
                    Setting::Default => self.initial.standard_conforming_strings,
                    Setting::Values(_) | Setting::Unknown => one.and_then(boolean),
                };
            }
            "client_encoding" | "names" => {
                self.client_encoding_utf8 = match value {
                    Setting::Default => self.initial.client_encoding_utf8,
                    Setting::Values(_) | Setting::Unknown => one.is_some_and(is_utf8),
                };
            }
            "search_path" => {
                self.search_path = match value {
                    Setting::Default => self.initial.search_path.clone(),
                    Setting::Unknown => SearchPath::Unknown,
                    Setting::Values(values) => SearchPath::Known(
                        // A value that came as one text (startup, ParameterStatus, set_config) is a list in itself.
                        match values.as_slice() {
                            [list] => split_path(list),
                            _ => values.clone(),
                        },
                    ),
                };
            }
            "role" | "session_authorization" => {
                self.role = match value {
                    Setting::Default => None,
                    Setting::Values(_) | Setting::Unknown => {
                        Some(one.unwrap_or("unknown").to_owned()).filter(|role| role != "none")
                    }
                };
            }
            _ => {}
        }
    }
}

fn remember(names: &mut HashMap<String, Arc<Statement>>, name: &str, statement: Arc<Statement>) {
    if names.len() < MAX_NAMES || names.contains_key(name) {
        names.insert(name.to_owned(), statement);
    }
}

fn split_path_if(name: &str, value: &str) -> Vec<String> {
    if name == "search_path" { split_path(value) } else { vec![value.to_owned()] }
}

/// `"$user", public` to its schemas, folding what is not quoted (SplitIdentifierString in varlena.c).
pub(super) fn split_path(list: &str) -> Vec<String> {
    let mut schemas = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    let mut characters = list.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                current.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => schemas.push(std::mem::take(&mut current)),
            c if !quoted && c.is_whitespace() => {}
            c if !quoted => current.extend(c.to_lowercase()),
            c => current.push(c),
        }
    }
    schemas.push(current);
    schemas.retain(|schema| !schema.is_empty());
    schemas
}

/// A boolean setting's value (parse_bool in bool.c: unique prefixes count).
fn boolean(value: &str) -> Option<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "tru" | "tr" | "t" | "yes" | "ye" | "y" | "1" => Some(true),
        "off" | "of" | "false" | "fals" | "fal" | "fa" | "f" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// Encoding names ignore case and everything but letters and digits (pg_char_to_encoding in encnames.c).
fn is_utf8(value: &str) -> bool {
    let name: String =
        value.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    matches!(name.as_str(), "utf8" | "unicode")
}

/// The settings in the startup parameter `options`: `-c name=value`, `-cname=value`, `--name=value`; a backslash keeps the
/// next character (pg_split_opts in postinit.c).
fn startup_options(options: &str) -> Vec<(String, String)> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = options.chars();
    let mut started = false;
    while let Some(c) = characters.next() {
        match c {
            '\\' => {
                started = true;
                word.extend(characters.next());
            }
            c if c.is_whitespace() => {
                if started {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            c => {
                started = true;
                word.push(c);
            }
        }
    }
    if started {
        words.push(word);
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") => words.next(),
            Some(rest) => Some(rest.to_owned()),
            None => None,
        };
        if let Some((name, value)) = setting.as_deref().and_then(|setting| setting.split_once('=')) {
            settings.push((name.trim().replace('-', "_").to_ascii_lowercase(), value.to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Inspector;

    fn run(state: &mut SessionState, sql: &str) {
        for statement in Inspector.script(sql, state, None).statements {
            state.apply(&statement);
        }
    }

    #[test]
    fn startup_options_are_split_as_the_server_splits_them() {
        for (options, expected) in [
            ("-c a=b", vec![("a", "b")]),
            ("-ca=b --c-d=e", vec![("a", "b"), ("c_d", "e")]),
            (r"-c a=b\ c -c d=\\e", vec![("a", "b c"), ("d", r"\e")]),
            ("-c", vec![]),
            ("-B 5 -c A=b", vec![("a", "b")]),
            ("", vec![]),
        ] {
            let got = startup_options(options);
            assert_eq!(
                got.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>(),
                expected,
                "{options}"
            );
        }
    }

    #[test]
    fn paths_are_split_as_the_server_splits_them() {
        for (list, expected) in [
            ("\"$user\", public", vec!["$user", "public"]),
            ("Evil,PG_CATALOG", vec!["evil", "pg_catalog"]),
            ("\"Evil, x\", \"a\"\"b\"", vec!["Evil, x", "a\"b"]),
            ("", vec![]),
        ] {
            assert_eq!(split_path(list), expected, "{list}");
        }
    }

    #[test]
    fn transactions_take_settings_back() {
        let known =
            |schemas: &[&str]| SearchPath::Known(schemas.iter().map(|schema| (*schema).to_owned()).collect());
        for (statements, expected) in [
            ("set search_path = a", known(&["a"])),
            ("begin; set search_path = a; rollback", SearchPath::Default),
            ("begin; set search_path = a; commit", known(&["a"])),
            ("begin; set local search_path = a; commit", SearchPath::Default),
            ("begin; set search_path = a; set local search_path = b; commit", known(&["a"])),
            ("set search_path = a; begin; set search_path = b; rollback", known(&["a"])),
            ("set search_path = a; reset search_path", SearchPath::Default),
            ("set search_path = a; reset all", SearchPath::Default),
            ("set search_path = a; discard all", SearchPath::Default),
            ("begin; savepoint x; set search_path = a; rollback to x", SearchPath::Unknown),
            ("do $$begin end$$", SearchPath::Unknown),
            (
                "begin; set search_path = a; rollback and chain; set search_path = b; rollback",
                SearchPath::Default,
            ),
        ] {
            let mut state = SessionState::default();
            for statement in statements.split("; ") {
                run(&mut state, statement);
            }
            assert_eq!(state.search_path, expected, "{statements}");
        }
    }

    #[test]
    fn what_was_sent_and_not_answered_is_in_doubt() {
        let mut state = SessionState::default();
        state.parameter_status("standard_conforming_strings", "on");
        state.parameter_status("server_version", "15.18 (Debian)");
        assert_eq!((state.standard_conforming_strings, state.server_major), (Some(true), Some(15)));
        for statement in Inspector.script("set standard_conforming_strings = off", &state, None).statements {
            state.sent(&statement);
        }
        assert_eq!(state.standard_conforming_strings, None);
        state.parameter_status("standard_conforming_strings", "off");
        assert_eq!(state.standard_conforming_strings, Some(false));
        for statement in Inspector.script("set client_encoding = 'GBK'", &state, None).statements {
            state.sent(&statement);
        }
        assert!(!state.client_encoding_utf8);
    }

    #[test]
    fn names_beyond_the_bound_are_not_known() {
        let mut state = SessionState::default();
        let one = Inspector.script("select 1", &state, None).statements.remove(0);
        for number in 0..=MAX_NAMES {
            state.prepare(&number.to_string(), one.clone());
        }
        assert!(state.prepared("0").is_some());
        assert!(state.prepared(&MAX_NAMES.to_string()).is_none());
        state.forget_prepared("0");
        state.prepare("late", one);
        assert!(state.prepared("late").is_some());
    }

    #[test]
    fn roles_make_the_default_path_unknown_for_relations() {
        let mut state = SessionState::default();
        assert_eq!(state.lookup(), Lookup::Default);
        run(&mut state, "set role bob");
        assert_eq!((state.role.as_deref(), state.lookup()), (Some("bob"), Lookup::Anywhere));
        run(&mut state, "reset role");
        assert_eq!((state.role.as_deref(), state.lookup()), (None, Lookup::Default));
    }
}
