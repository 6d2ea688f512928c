//! From documents to rules: everything that can be wrong with a policy is found here, so that evaluating it
//! cannot fail. Reports every mistake it finds, not the first.

mod approval;
mod http;
mod login;
mod obligation;
mod scan;

pub(crate) use scan::is_kind;

use crate::{
    Diagnostic, SourceFile,
    approval::glass::GlassBlock,
    diagnostic::suggest,
    document::{Case, Document, Group, Rule as RuleBlock, RuleEffect, RuleMode},
    pattern::Strictness,
    rule::Rule,
    when::{self, When, WhenProblem, WhenSource},
    yaml::{self, Position, Spanned},
};
use jiff::tz::TimeZone;
use lockgate_model::{
    id::{GroupName, RuleId},
    workload::Assurance,
};
use std::collections::{BTreeMap, HashMap};

/// More files than this are a mistake in a directory's name.
const MAX_FILES: usize = 1000;
/// Together with the bounds of one file, this bounds what a reload may cost.
const MAX_RULES: usize = 10_000;

/// Everything a policy is made of.
pub(crate) struct Compiled {
    pub(crate) rules: Vec<Rule>,
    pub(crate) glass: Vec<GlassBlock>,
    pub(crate) groups: BTreeMap<GroupName, GroupEntry>,
    pub(crate) cases: Vec<(String, Spanned<Case>)>,
    pub(crate) warnings: Vec<Diagnostic>,
    /// Files with rules, for what is said of a file as a whole.
    pub(crate) files: Vec<FileEntry>,
}

/// One file, for what is said of it as a whole.
pub(crate) struct FileEntry {
    pub(crate) path: String,
    pub(crate) has_rules: bool,
    pub(crate) has_tests: bool,
}

/// A group and where it was first defined.
pub(crate) struct GroupEntry {
    pub(crate) group: Group,
    pub(crate) file: String,
    pub(crate) at: Position,
    pub(crate) used: bool,
}

/// Compiles files into one policy.
pub(crate) fn compile(files: &[SourceFile]) -> Result<Compiled, Vec<Diagnostic>> {
    let mut report = Report::default();
    if files.len() > MAX_FILES {
        let message = format!("{} policy files; at most {MAX_FILES} are read", files.len());
        return Err(vec![Position::default().diagnostic("policies", message, None)]);
    }
    let mut documents = Vec::with_capacity(files.len());
    for file in files {
        match yaml::parse::<Document>(&file.path, &file.text) {
            Ok(document) => documents.push((file, document)),
            Err(errors) => report.errors.extend(errors),
        }
    }
    // Names defined in a file that does not parse are not known, and blaming their users would be noise.
    let complete = report.errors.is_empty();
    let mut groups = Groups::default();
    for (file, document) in &documents {
        header(&mut report, file, document);
        groups.define(&mut report, file, document);
    }
    groups.complete = complete;
    let mut compiler = Compiler { report, groups, ids: HashMap::new() };
    let mut drafts = Vec::new();
    let mut glass = Vec::new();
    for (file, document) in &documents {
        let zone = compiler.zone(file, document);
        let most = compiler.most(file, document);
        for block in document.rules.iter().filter_map(|rule| rule.0.as_ref()) {
            let mut draft = compiler.draft(file, block, &zone);
            draft.rule.mode = most.weaker(draft.rule.mode);
            drafts.push(draft);
        }
        for block in document.break_glass.iter().filter_map(|block| block.0.as_ref()) {
            glass.push(compiler.break_glass(file, block));
        }
    }
    if drafts.len() > MAX_RULES {
        let message = format!("{} rules; at most {MAX_RULES}", drafts.len());
        compiler.report.errors.push(Position::default().diagnostic("policies", message, None));
    }
    let rules = compiler.finish(drafts);
    for (file, document) in &documents {
        for case in document.tests.iter().filter_map(|case| case.0.as_ref()) {
            compiler.case(file, case, complete);
        }
    }
    let Compiler { mut report, groups, .. } = compiler;
    report.errors.sort();
    report.errors.dedup();
    if !report.errors.is_empty() {
        return Err(report.errors);
    }
    let files = documents
        .iter()
        .map(|(file, document)| FileEntry {
            path: file.path.clone(),
            has_rules: !document.rules.is_empty(),
            has_tests: !document.tests.is_empty(),
        })
        .collect();
    let cases = documents
        .into_iter()
        .flat_map(|(file, document)| {
            let path = file.path.clone();
            document.tests.into_iter().filter_map(|case| case.0).map(move |case| (path.clone(), case))
        })
        .collect();
    Ok(Compiled { rules, glass, groups: groups.defined, cases, warnings: report.warnings, files })
}

/// What was found.
#[derive(Default)]
struct Report {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Report {
    fn error(&mut self, file: &SourceFile, at: Position, message: impl Into<String>, help: Option<String>) {
        self.errors.push(at.diagnostic(&file.path, message, help));
    }

    fn warn(&mut self, file: &SourceFile, at: Position, message: impl Into<String>) {
        self.warnings.push(at.diagnostic(&file.path, message, None));
    }
}

fn header(report: &mut Report, file: &SourceFile, document: &Document) {
    for (got, expected) in [(&document.api_version, "lockgate.dev/v1"), (&document.kind, "Policy")] {
        if got.value != expected {
            report.error(file, got.at, format!("expected `{expected}`, got `{}`", got.value), None);
        }
    }
    if document.metadata.name.trim().is_empty() {
        report.error(file, document.metadata.name.at, "a policy needs a name", None);
    }
}

/// `place:name`, without patterns: who sees raw values is spelled out.
fn is_principal(text: &str) -> bool {
    text.split_once(':').is_some_and(|(place, name)| !place.is_empty() && !name.is_empty())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '*' | '?'))
}

/// The groups of all files.
#[derive(Default)]
struct Groups {
    defined: BTreeMap<GroupName, GroupEntry>,
    complete: bool,
}

impl Groups {
    fn define(&mut self, report: &mut Report, file: &SourceFile, document: &Document) {
        for (name, group) in &document.groups {
            let at = group.at;
            let group = group.value.clone().unwrap_or_default();
            if let Some(odd) = group.members.iter().find(|member| !is_principal(member)) {
                let message = format!("`{odd}` is no principal, so nobody's session is it");
                let help =
                    "write it as `lockgate sessions list` shows it: github_actions:acme/billing, uid:1001";
                report.error(file, at, message, Some(help.to_owned()));
            }
            if name.trim() != name || name.is_empty() {
                report.error(file, at, format!("`{name}` is not a group name"), None);
            }
            match self.defined.get(&GroupName::from(name.as_str())) {
                None => {
                    let entry = GroupEntry { group, file: file.path.clone(), at, used: false };
                    self.defined.insert(name.as_str().into(), entry);
                }
                Some(earlier) if earlier.group == group => {}
                Some(earlier) => {
                    let message = format!(
                        "group `{name}` is defined differently at {}:{}",
                        earlier.file, earlier.at.line
                    );
                    report.error(file, at, message, Some("define it once, or the same way".to_owned()));
                }
            }
        }
    }

    /// The group of that name, which must be defined.
    fn resolve(&mut self, report: &mut Report, file: &SourceFile, name: &Spanned<String>) -> GroupName {
        let group = GroupName::from(name.value.as_str());
        match self.defined.get_mut(&group) {
            Some(entry) => entry.used = true,
            None if !self.complete => {}
            None => {
                let help = suggest(&name.value, self.defined.keys().map(GroupName::as_str))
                    .or_else(|| Some("define it under `groups:`".to_owned()));
                report.error(file, name.at, format!("group `{}` is not defined", name.value), help);
            }
        }
        group
    }
}

struct Compiler {
    report: Report,
    groups: Groups,
    ids: HashMap<String, (String, u64)>,
}

/// A rule but for its expression.
struct Draft<'d> {
    file: &'d SourceFile,
    when: Option<&'d Spanned<String>>,
    rule: Rule,
}

impl Compiler {
    /// The most that rules of a file do; less than everything is said aloud.
    fn most(&mut self, file: &SourceFile, document: &Document) -> RuleMode {
        let Some(mode) = &document.mode else { return RuleMode::Enforce };
        let what = match mode.value {
            RuleMode::Enforce => return RuleMode::Enforce,
            RuleMode::Shadow => "the rules of this file are in shadow: they refuse, hold and mask nothing",
            RuleMode::Off => "the rules of this file are off and do nothing",
        };
        self.report.warn(file, mode.at, what);
        mode.value
    }

    fn zone(&mut self, file: &SourceFile, document: &Document) -> TimeZone {
        let Some(name) = &document.timezone else { return TimeZone::UTC };
        // The bundled database: which zones exist does not depend on the machine.
        match jiff::tz::TimeZoneDatabase::bundled().get(&name.value) {
            Ok(zone) => zone,
            Err(_) => {
                let database = jiff::tz::TimeZoneDatabase::bundled();
                let known: Vec<String> = database.available().map(|name| name.as_str().to_owned()).collect();
                let help = suggest(&name.value, known.iter().map(String::as_str));
                self.report.error(file, name.at, format!("there is no time zone `{}`", name.value), help);
                TimeZone::UTC
            }
        }
    }

    fn draft<'d>(
        &mut self,
        file: &'d SourceFile,
        block: &'d Spanned<RuleBlock>,
        zone: &TimeZone,
    ) -> Draft<'d> {
        let id = &block.id;
        if id.value.trim() != id.value || id.value.is_empty() {
            self.report.error(file, id.at, format!("`{}` is not a rule id", id.value), None);
        }
        match self.ids.get(&id.value) {
            Some((path, line)) => {
                let message =
                    format!("rule `{}` is defined a second time, the first is at {path}:{line}", id.value);
                self.report.error(file, id.at, message, Some("rename one of them".to_owned()));
            }
            None => {
                self.ids.insert(id.value.clone(), (file.path.clone(), id.at.line));
            }
        }
        let effect = block.effect.value;
        if let Some(is_final) = block.is_final.filter(|is_final| is_final.value && effect != RuleEffect::Deny)
        {
            let message = format!("`final` is for deny rules, this one says {}", effect.as_str());
            self.report.error(file, is_final.at, message, None);
        }
        // Another role is a permission: nothing that a job says of itself may lead to it.
        let permits = effect == RuleEffect::Allow || block.login_as.is_some();
        let strictness = if permits { Strictness::Permits } else { Strictness::Restricts };
        let login_as = self.login_as(file, block);
        let scanned = self.scan_match(file, block, strictness);
        let obligation = self.obligation(file, block);
        let requirement = self.requirement(file, block);
        let position = |at: Position| (file.path.clone(), at);
        let rule = Rule {
            id: RuleId::from(id.value.as_str()),
            effect,
            mode: block.mode,
            is_final: block.is_final.is_some_and(|is_final| is_final.value),
            description: block.description.clone(),
            message: block.message.clone(),
            remedy_url: block.remedy_url.clone(),
            trust: scanned.trust,
            session_tests: scanned.session,
            operation_tests: scanned.operation,
            has_sql: block.matches.sql.is_some(),
            has_http: block.matches.http.is_some(),
            names_opaque: scanned.names_opaque,
            names_replication: scanned.names_replication,
            when: None,
            requirement,
            mask: obligation.mask,
            unmask: obligation.unmask,
            record: obligation.record,
            limits: obligation.limits,
            login_as,
            zone: zone.clone(),
            place: position(id.at),
            written: serde_json::to_value(&block.matches).unwrap_or_default(),
        };
        if rule.mode == RuleMode::Off {
            self.report.warn(file, id.at, format!("rule `{}` is off and does nothing", id.value));
        }
        Draft { file, when: block.when.as_ref(), rule }
    }

    /// Compiles all expressions, on one thread, and puts them where they belong.
    fn finish(&mut self, drafts: Vec<Draft<'_>>) -> Vec<Rule> {
        let sources = drafts
            .iter()
            .filter_map(|draft| {
                let permits = draft.rule.effect == RuleEffect::Allow;
                draft.when.map(|when| WhenSource { text: when.value.clone(), permits })
            })
            .collect();
        let mut compiled = when::compile_all(sources).into_iter();
        drafts
            .into_iter()
            .map(|Draft { file, when, mut rule }| {
                if let Some(source) = when {
                    rule.when = self.expression(file, source, compiled.next());
                }
                rule
            })
            .collect()
    }

    fn expression(
        &mut self,
        file: &SourceFile,
        source: &Spanned<String>,
        compiled: Option<Result<When, Vec<WhenProblem>>>,
    ) -> Option<When> {
        match compiled {
            Some(Ok(when)) => Some(when),
            Some(Err(problems)) => {
                for problem in problems {
                    let at = place_within(&file.text, source, problem.offset);
                    self.report.error(file, at, format!("in `when`: {}", problem.message), problem.help);
                }
                None
            }
            None => {
                self.report.error(file, source.at, "in `when`: it was not compiled", None);
                None
            }
        }
    }

    fn case(&mut self, file: &SourceFile, case: &Spanned<Case>, complete: bool) {
        let expect = &case.expect;
        let mut names: Vec<&Spanned<String>> = expect.rule.iter().collect();
        names.extend(expect.rules.iter().flatten());
        for name in names {
            if complete && !self.ids.contains_key(&name.value) {
                let help = suggest(&name.value, self.ids.keys().map(String::as_str));
                self.report.error(file, name.at, format!("rule `{}` is not defined", name.value), help);
            }
        }
        if let Some(time) = &case.given.time
            && time.parse::<lockgate_model::Timestamp>().is_err()
        {
            let message = format!("expected a time such as 2026-01-07T12:00:00Z, got `{}`", time.value);
            self.report.error(file, time.at, message, None);
        }
        if let Some(need) = &expect.need {
            for group in need.keys() {
                let name = Spanned { value: group.clone(), at: case.at };
                let used =
                    self.groups.defined.get(&GroupName::from(group.as_str())).is_some_and(|entry| entry.used);
                self.groups.resolve(&mut self.report, file, &name);
                if let Some(entry) = self.groups.defined.get_mut(&GroupName::from(group.as_str())) {
                    // Being expected by a test is no use of a group.
                    entry.used = used;
                }
            }
        }
    }
}

/// Where the character `offset` of a scalar stands in its file, when its text stands there as it is read.
fn place_within(text: &str, scalar: &Spanned<String>, offset: usize) -> Position {
    let index = usize::try_from(scalar.at.line).unwrap_or(1).saturating_sub(1);
    let column = usize::try_from(scalar.at.column).unwrap_or(1).saturating_sub(1);
    let Some(line) = text.lines().nth(index) else { return scalar.at };
    let tail: String = line.chars().skip(column).collect();
    match tail.find(&scalar.value) {
        Some(bytes) => {
            let before = tail.get(..bytes).map_or(0, |before| before.chars().count());
            let column = column.saturating_add(before).saturating_add(offset).saturating_add(1);
            Position { line: scalar.at.line, column: u64::try_from(column).unwrap_or(u64::MAX) }
        }
        None => scalar.at,
    }
}

/// What a rule believes when it does not say: one that permits something no claim, any other everything.
fn default_assurance(strictness: Strictness) -> Assurance {
    match strictness {
        Strictness::Permits => Assurance::Kernel,
        Strictness::Restricts => Assurance::Claimed,
    }
}
