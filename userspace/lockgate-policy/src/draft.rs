//! From what was seen to a policy that allows just that: rules to read, narrow and edit.
//!
//! One rule for each identity, target, class and kind of statement, with the tables it touched. What a rule of that form would
//! allow more of than was seen (functions that are not known, settings that change meaning, statements that were not
//! understood) is allowed by its shape; what no rule can hold on to (code as text) is left out, and the draft says so. Texts
//! of statements never come into a draft: they may hold anything.
//!
//! Pure: reading logs and writing files is the caller's, who also replays the draft against what it was made of.

use lockgate_model::{
    event::RecordedOperation,
    observation::Observation,
    operation::Facts,
    session::Session,
    sql::{RelationName, SqlClass, SqlEffect, SqlFacts},
    workload::Assurance,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
};

/// Rules in a draft: more than this nobody reads.
const MAX_RULES: usize = 5_000;
/// Tables or shapes in one rule.
const MAX_WORDS: usize = 2_000;
/// Ports on which PostgreSQL and its poolers listen by default.
const POSTGRES_PORTS: [u16; 3] = [5432, 5433, 6432];

/// Collects what was seen.
#[derive(Debug, Default)]
pub struct Drafting {
    rules: BTreeMap<Subject, BTreeMap<Shape, Seen>>,
    left_out: BTreeMap<(String, String), u64>,
    connections: BTreeMap<(SocketAddr, String), Talk>,
    operations: u64,
    full: bool,
}

/// What a draft says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// A policy file.
    pub text: String,
    /// Rules in it.
    pub rules: usize,
    /// Operations it was made of.
    pub operations: u64,
    /// Operations that no rule of it allows.
    pub left_out: u64,
}

/// Whom a rule is about, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    target: String,
    principal: String,
    assurance: Assurance,
}

/// What a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// Statements of one kind on tables: all that were read, or the one that was written.
    Tables { class: &'static str, kind: String, bounded: Option<bool>, written: BTreeSet<String>, none: bool },
    /// Statements of these shapes.
    Exact { class: &'static str, kind: String, sets_role: bool },
    /// Statements that were not understood, of these shapes.
    Opaque,
}

#[derive(Debug, Default)]
struct Seen {
    times: u64,
    /// Tables, or fingerprints.
    words: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Talk {
    target: Option<String>,
    name: Option<String>,
    principals: BTreeSet<String>,
    connections: u64,
    bytes: u64,
}

impl Drafting {
    /// Takes in an operation that was let pass.
    pub fn operation(&mut self, session: &Session, recorded: &RecordedOperation) {
        self.operations += 1;
        // What is drafted is SQL; requests over HTTP are counted and left to people.
        let Facts::Sql(facts) = recorded.facts.as_ref() else { return };
        let subject = Subject {
            target: session.target.name.to_string(),
            principal: session.principal.id.clone(),
            assurance: session.principal.assurance,
        };
        let Some((shape, words)) = shape(facts) else { return self.leave_out(subject, facts) };
        let rules: usize = self.rules.values().map(BTreeMap::len).sum();
        let known = self.rules.get(&subject).is_some_and(|shapes| shapes.contains_key(&shape));
        if !known && rules >= MAX_RULES {
            self.full = true;
            return self.leave_out(subject, facts);
        }
        let seen = self.rules.entry(subject.clone()).or_default().entry(shape).or_default();
        if seen.words.union(&words).count() > MAX_WORDS {
            self.full = true;
            return self.leave_out(subject, facts);
        }
        seen.times += 1;
        seen.words.extend(words);
    }

    /// Takes in connections that were seen and not redirected.
    pub fn observation(&mut self, observation: &Observation) {
        let key = (observation.destination, observation.protocol.clone());
        if !self.connections.contains_key(&key) && self.connections.len() >= MAX_RULES {
            self.full = true;
            return;
        }
        let talk = self.connections.entry(key).or_default();
        talk.target = observation.target.as_ref().map(ToString::to_string).or(talk.target.take());
        talk.name = observation.name.clone().or(talk.name.take());
        if talk.principals.len() < MAX_WORDS {
            talk.principals.insert(observation.principal.id.clone());
        }
        talk.connections = talk.connections.saturating_add(observation.connections);
        let bytes = observation.bytes_sent.saturating_add(observation.bytes_received);
        talk.bytes = talk.bytes.saturating_add(bytes);
    }

    fn leave_out(&mut self, subject: Subject, facts: &SqlFacts) {
        let what = format!("{} ({}) on {}", facts.kind, facts.class, subject.target);
        *self.left_out.entry((subject.principal, what)).or_default() += 1;
    }

    /// The draft. `period` says in words what it was made of.
    pub fn finish(self, period: &str) -> Draft {
        let left_out: u64 = self.left_out.values().sum();
        let mut text = String::new();
        let out = &mut text;
        let _ = writeln!(out, "# Drafted by `lockgate policy draft` from {}.", comment(period));
        let _ = writeln!(
            out,
            "# {} operations were seen; {left_out} of them no rule below allows.",
            self.operations
        );
        out.push_str(
            "# It allows what was seen and nothing else: read it, narrow it, take out what should ask people or be denied.\n\
             # What no rule matches is left to the target's `default`, which is deny.\n\
             #   lockgate policy check FILE\n\
             #   lockgate policy diff --replay OLD FILE       what it would have decided\n",
        );
        if self.full {
            out.push_str("# There was more than a draft holds: what is left out is counted above.\n");
        }
        targets(out, &self.connections);
        if !self.left_out.is_empty() {
            out.push_str("#\n# Left out, since no rule can tell one such statement from another:\n");
            for ((principal, what), times) in &self.left_out {
                let _ = writeln!(out, "#   {times} × {} by {}", comment(what), comment(principal));
            }
        }
        out.push_str("apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: { name: draft }\n");
        out.push_str(if self.rules.is_empty() { "rules: []\n" } else { "rules:\n" });
        let mut number = 0;
        for (subject, shapes) in &self.rules {
            let _ = writeln!(out, "\n# {} on {}", comment(&subject.principal), comment(&subject.target));
            for (shape, seen) in shapes {
                number += 1;
                rule(out, number, subject, shape, seen);
            }
        }
        if number > 0 {
            text.push_str(
                "\ntests:\n- name: what nobody was seen to do is denied\n  given: { target: { name: \"not seen\" }, \
                 protocol: postgres, statement: \"DROP TABLE t\" }\n  expect: { effect: deny }\n",
            );
        }
        Draft { text, rules: number, operations: self.operations, left_out }
    }
}

/// The rule that allows a statement, and what it adds to the rule's list; None when none can.
fn shape(facts: &SqlFacts) -> Option<(Shape, BTreeSet<String>)> {
    let fingerprint = || BTreeSet::from([facts.fingerprint.clone()]);
    let is_shape = !facts.fingerprint.is_empty()
        && facts.fingerprint.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if facts.class == SqlClass::Opaque {
        return is_shape.then(|| (Shape::Opaque, fingerprint()));
    }
    // Texts that run are literals to a fingerprint.
    if facts.effects.contains(&SqlEffect::DynamicSql) || facts.class == SqlClass::Call {
        return None;
    }
    if !crate::compile::is_kind(&facts.kind) {
        return None;
    }
    let class = facts.class.as_str();
    let plain = facts.effects.iter().all(|effect| match effect {
        SqlEffect::WritesRows
        | SqlEffect::ChangesSchema
        | SqlEffect::Locks
        | SqlEffect::Exports
        | SqlEffect::Imports => true,
        SqlEffect::UnknownFunction
        | SqlEffect::ServerFile
        | SqlEffect::SetsRole
        | SqlEffect::ChangesMeaning
        | SqlEffect::DynamicSql
        | SqlEffect::ChangesPrivileges
        | SqlEffect::Notifies => false,
    });
    let read: Option<BTreeSet<String>> = facts.tables_read.iter().map(glob).collect();
    let written: Option<BTreeSet<String>> = facts.tables_written.iter().map(glob).collect();
    // What is administered is not a table, and a schema change names what it changes by its text.
    let by_table = plain && !facts.reach.unseen && facts.class != SqlClass::Admin;
    let tables = read.zip(written).filter(|(read, written)| {
        // Reading a and reading b is reading both; writing a from b is not writing b, which a list of tables cannot say.
        // Whether a table is read or written, a rule tells by class and kind alone.
        let reads = matches!(
            facts.class,
            SqlClass::Read | SqlClass::CopyOut | SqlClass::Session | SqlClass::Transaction
        );
        let one = match (reads, written.is_empty()) {
            (true, only_reads) => only_reads,
            (false, true) => read.is_empty(),
            (false, false) => read.union(written).count() == 1 && facts.kind != "select",
        };
        by_table && one
    });
    match tables {
        Some((read, written)) => {
            let all: BTreeSet<String> = read.union(&written).cloned().collect();
            let (bounded, none) = (facts.bounded, all.is_empty());
            Some((Shape::Tables { class, kind: facts.kind.clone(), bounded, written, none }, all))
        }
        None => {
            let sets_role = facts.effects.contains(&SqlEffect::SetsRole);
            is_shape.then(|| (Shape::Exact { class, kind: facts.kind.clone(), sets_role }, fingerprint()))
        }
    }
}

/// A relation as a pattern that matches it alone; None for a name that no pattern can be written for.
fn glob(name: &RelationName) -> Option<String> {
    let schema = match &name.schema {
        // A pattern's first dot ends the schema.
        Some(schema) if schema.contains('.') => return None,
        Some(schema) => Some(escaped(schema)?),
        // Without a schema the name could be in any, and a pattern with a dot in it would be read as one.
        None if name.name.contains('.') => return None,
        None => None,
    };
    let table = escaped(&name.name)?;
    Some(schema.map_or_else(|| table.clone(), |schema| format!("{schema}.{table}")))
}

/// A text that a glob matches only itself by. None for the empty one.
fn escaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    (!text.is_empty()).then_some(out)
}

/// Text of others in a comment: one line, nothing that moves a cursor.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || !c.is_ascii() && !c.is_alphanumeric() { '?' } else { c })
        .collect()
}

/// A YAML scalar, quoted as JSON is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(words: &BTreeSet<String>) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(", "))
}

fn rule(out: &mut String, number: usize, subject: &Subject, shape: &Shape, seen: &Seen) {
    let mut sql = Vec::new();
    let doubt = match shape {
        Shape::Tables { class, kind, bounded, written: _, none } => {
            sql.push(format!("class: {class}"));
            sql.push(format!("kinds: [{}]", quoted(kind)));
            sql.extend(bounded.map(|bounded| format!("bounded: {bounded}")));
            sql.push(if *none {
                "only_tables: []".to_owned()
            } else {
                format!("only_tables: {}", list(&seen.words))
            });
            match *bounded == Some(false) && *class != SqlClass::Read.as_str() {
                true => Some("without a WHERE: should this ask people?"),
                false => None,
            }
        }
        Shape::Exact { class, kind, sets_role } => {
            sql.push(format!("class: {class}"));
            sql.push(format!("kinds: [{}]", quoted(kind)));
            if *sets_role {
                sql.push("effects: [sets_role]".to_owned());
            }
            sql.push(format!("fingerprint: {}", list(&seen.words)));
            Some("just these shapes: what they call or set is not known to be harmless")
        }
        Shape::Opaque => {
            sql.push("opaque: true".to_owned());
            sql.push(format!("fingerprint: {}", list(&seen.words)));
            Some("not understood: just these texts; should they ask people?")
        }
    };
    let seen = format!("seen {} times", seen.times);
    let _ = writeln!(
        out,
        "- id: draft-{number}   # {seen}{}",
        doubt.map(|doubt| format!("; {doubt}")).unwrap_or_default()
    );
    let _ = writeln!(out, "  match:");
    let id = escaped(&subject.principal).unwrap_or_default();
    let _ =
        writeln!(out, "    identity: {{ id: {}, assurance: {} }}", quoted(&id), subject.assurance.as_str());
    let target = escaped(&subject.target).unwrap_or_default();
    let _ = writeln!(out, "    target: {{ name: {} }}", quoted(&target));
    let _ = writeln!(out, "    sql: {{ {} }}", sql.join(", "));
    let _ = writeln!(out, "  effect: allow");
}

/// Destinations, as comments: targets stand in the agent's configuration, not in a policy.
fn targets(out: &mut String, connections: &BTreeMap<(SocketAddr, String), Talk>) {
    if connections.is_empty() {
        return;
    }
    out.push_str(
        "#\n# Connections that were seen and not redirected. Targets stand in the agent's configuration:\n",
    );
    for ((destination, protocol), talk) in connections {
        let who: Vec<String> = talk.principals.iter().take(5).map(|principal| comment(principal)).collect();
        let more = talk.principals.len().saturating_sub(who.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(
            out,
            "#   {destination}/{protocol}: {} connections, {} bytes, by {}{more}",
            talk.connections,
            talk.bytes,
            who.join(", ")
        );
        if let Some(target) = &talk.target {
            let _ = writeln!(
                out,
                "#     is the target {}: `mode: shadow` would show its operations",
                comment(target)
            );
        } else if protocol == "tcp" && POSTGRES_PORTS.contains(&destination.port()) {
            let place = talk
                .name
                .as_ref()
                .map_or_else(|| destination.to_string(), |name| format!("{name}:{}", destination.port()));
            let _ = writeln!(
                out,
                "#     - name: postgres-{}",
                destination.to_string().replace([':', '[', ']'], "-").trim_matches('-')
            );
            let _ = writeln!(out, "#       protocol: postgres");
            let _ = writeln!(out, "#       addresses: [{}]", quoted(&place));
            let _ = writeln!(out, "#       mode: shadow");
            let _ = writeln!(
                out,
                "#       upstream: {{ tls: verify-full, credential: {{ user: USER, password: {{ file: PATH }} }} }}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CompiledPolicy, SourceFile, fixture};
    use lockgate_model::{
        DecisionId, Timestamp,
        id::TargetName,
        sql::{Reach, Risk},
        verdict::{Effect, RecordStatements},
        workload::Workload,
    };
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};
    use std::sync::Arc;

    fn load(text: &str) -> CompiledPolicy {
        let file = SourceFile { path: "draft.yaml".to_owned(), text: text.to_owned() };
        let loaded = CompiledPolicy::load(vec![file]).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"));
        assert!(loaded.warnings.is_empty(), "{:#?}\n{text}", loaded.warnings);
        loaded.policy
    }

    fn session(uid: u32, target: &str) -> Session {
        let session = fixture::with_workload(&fixture::session(), |workload: &mut Workload| {
            workload.process.uid = uid;
            workload.process.user = None;
            workload.ci = None;
            workload.cgroup = None;
        });
        fixture::with_target(&session, |it| it.name = TargetName::from(target))
    }

    fn allows(policy: &CompiledPolicy, session: &Session, facts: &SqlFacts) -> bool {
        let operation = fixture::operation_of(facts.clone(), "x");
        let verdict =
            policy.evaluate(session, &operation, Timestamp::UNIX_EPOCH, DecisionId::from_parts(0, 0));
        verdict.effect == Effect::Allow
    }

    fn draft(seen: &[(Session, SqlFacts)]) -> Draft {
        let mut drafting = Drafting::default();
        for (session, facts) in seen {
            let operation = fixture::operation_of(facts.clone(), "x");
            drafting.operation(session, &RecordedOperation::of(&operation, RecordStatements::Full));
        }
        drafting.finish("a test")
    }

    #[test]
    fn what_was_seen_is_allowed_and_its_neighbours_are_not() {
        let of = |text: &str| fixture::facts(text).remove(0);
        let seen: Vec<_> =
            ["select * from public.a", "select * from public.b where x", "delete from public.a where x"]
                .iter()
                .map(|text| (session(1000, "orders-db"), of(text)))
                .collect();
        let draft = draft(&seen);
        assert_eq!((draft.operations, draft.left_out), (3, 0));
        let policy = load(&draft.text);
        for (session, facts) in &seen {
            assert!(allows(&policy, session, facts), "{facts:?}\n{}", draft.text);
        }
        for (uid, target, text) in [
            (1001, "orders-db", "select * from public.a"),
            (1000, "other-db", "select * from public.a"),
            (1000, "orders-db", "select * from public.c where x"),
            (1000, "orders-db", "delete from public.b where x"),
            (1000, "orders-db", "delete from public.a"),
            (1000, "orders-db", "update public.a where x"),
            (1000, "orders-db", "drop table public.a"),
            (1000, "orders-db", "what is this"),
        ] {
            assert!(
                !allows(&policy, &session(uid, target), &of(text)),
                "{uid} {target} {text}\n{}",
                draft.text
            );
        }
    }

    #[test]
    fn names_that_try_to_be_patterns_or_yaml_are_just_names() {
        let mut facts = fixture::facts("select * from x").remove(0);
        let odd = RelationName { schema: Some("s*{a,b}".to_owned()), name: "t]\"\n# - x: \\".to_owned() };
        facts.tables_read = vec![odd];
        let draft = draft(&[(session(1000, "orders-db"), facts.clone())]);
        let policy = load(&draft.text);
        assert!(allows(&policy, &session(1000, "orders-db"), &facts), "{}", draft.text);
        facts.tables_read = vec![RelationName { schema: Some("sa".to_owned()), name: "t".to_owned() }];
        assert!(!allows(&policy, &session(1000, "orders-db"), &facts));
    }

    #[test]
    fn connections_are_told_as_targets_to_add() {
        let mut drafting = Drafting::default();
        let who = session(1000, "x");
        drafting.observation(&Observation {
            principal: who.principal.clone(),
            workload: (*who.workload).clone(),
            destination: "10.0.0.7:5432".parse().unwrap(),
            protocol: "tcp".to_owned(),
            target: None,
            name: Some("orders.internal".to_owned()),
            connections: 3,
            bytes_sent: 1,
            bytes_received: 2,
            processes: 1,
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
        });
        let text = drafting.finish("x\ny").text;
        assert!(
            text.contains("addresses: [\"orders.internal:5432\"]") && text.contains("by uid:1000"),
            "{text}"
        );
        assert!(text.contains("from x?y."), "{text}");
        load(&text);
    }

    fn facts_strategy() -> impl Strategy<Value = SqlFacts> {
        let table = prop_oneof![
            "(public|s)\\.[a-c]",
            Just("we ird.t*{".to_owned()),
            Just("\u{e9}t\u{e9}.[x]".to_owned()),
            Just("S.Case".to_owned()),
        ];
        let tables = || prop::collection::vec(table.clone().prop_map(RelationName::from), 0..3);
        let what = prop::sample::select(vec![
            (SqlClass::Read, "select"),
            (SqlClass::Write, "select"),
            (SqlClass::Write, "insert"),
            (SqlClass::Write, "delete"),
            (SqlClass::Ddl, "drop_table"),
            (SqlClass::Ddl, "create_table"),
            (SqlClass::CopyOut, "copy_to"),
            (SqlClass::Session, "set"),
            (SqlClass::Transaction, "begin"),
            (SqlClass::Admin, "grant"),
            (SqlClass::Opaque, "opaque"),
            (SqlClass::Call, "do"),
        ]);
        let effects = prop::collection::btree_set(
            prop::sample::select(vec![
                SqlEffect::WritesRows,
                SqlEffect::UnknownFunction,
                SqlEffect::SetsRole,
                SqlEffect::ChangesMeaning,
                SqlEffect::DynamicSql,
            ]),
            0..2,
        );
        (what, tables(), tables(), any::<bool>(), effects, "[0-9a-f]{2}", any::<bool>()).prop_map(
            |((class, kind), mut tables_read, mut tables_written, bounded, effects, fingerprint, unseen)| {
                // What has a WHERE says so, and nothing else does.
                let bounded = matches!(kind, "select" | "delete").then_some(bounded);
                tables_read.sort();
                tables_written.sort();
                // What writes has a class that says so, and writes something.
                let reads = [SqlClass::Read, SqlClass::CopyOut, SqlClass::Session, SqlClass::Transaction];
                if reads.contains(&class) {
                    tables_written.clear();
                } else if tables_written.is_empty() {
                    tables_read.clear();
                }
                // One shape has one meaning.
                let shape =
                    (class, kind, &tables_read, &tables_written, bounded, &effects, unseen, fingerprint);
                let fingerprint = hex::encode(Sha256::digest(format!("{shape:?}")));
                SqlFacts {
                    class,
                    kind: kind.to_owned(),
                    tables_read,
                    tables_written,
                    columns: Vec::new(),
                    functions: Vec::new(),
                    bounded,
                    risk: Risk::Low,
                    fingerprint,
                    effects,
                    opaque_reason: None,
                    reach: Reach { unseen: unseen && class != SqlClass::Opaque, ..Reach::default() },
                    second_opinion: None,
                }
            },
        )
    }

    /// Whether some statement that was seen is one that the draft's grain cannot tell from this one.
    fn was_seen(seen: &[(Session, SqlFacts)], session: &Session, facts: &SqlFacts) -> bool {
        let Some((wanted, words)) = shape(facts) else { return false };
        let same = |(other, seen): &&(Session, SqlFacts)| {
            other.principal == session.principal
                && other.target.name == session.target.name
                && shape(seen).is_some()
        };
        let grain = seen.iter().filter(same).filter_map(|(_, seen)| shape(seen));
        let mut known = BTreeSet::new();
        for (shape, words) in grain {
            if shape == wanted {
                known.extend(words);
            }
        }
        let exact =
            seen.iter().filter(same).any(|(_, seen)| shape(seen) == Some((wanted.clone(), words.clone())));
        // A name without its schema is that name in every schema.
        let bare = |word: &String| word.rsplit_once('.').is_some_and(|(_, name)| known.contains(name));
        exact || (!words.is_empty() && words.iter().all(|word| known.contains(word) || bare(word)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn a_draft_allows_exactly_what_was_seen(
            seen in prop::collection::vec((0u32..3, 0usize..2, facts_strategy()), 1..12),
            others in prop::collection::vec((0u32..3, 0usize..2, facts_strategy()), 1..12),
        ) {
            let place = |(uid, target, facts): (u32, usize, SqlFacts)| (session(1000 + uid, ["orders-db", "o*"][target]), facts);
            let seen: Vec<_> = seen.into_iter().map(place).collect();
            let draft = draft(&seen);
            let policy = load(&draft.text);
            let mut left_out = 0;
            for (session, facts) in &seen {
                let expected = shape(facts).is_some();
                left_out += u64::from(shape(facts).is_none());
                let plain = SqlFacts { effects: BTreeSet::new(), ..facts.clone() };
                let expected = expected || (was_seen(&seen, session, &plain) && allows(&policy, session, facts));
                prop_assert_eq!(allows(&policy, session, facts), expected, "{:?}\n{}", facts, &draft.text);
            }
            prop_assert_eq!(draft.left_out, left_out);
            for (session, facts) in others.into_iter().map(place) {
                prop_assert!(
                    !allows(&policy, &session, &facts)
                        || was_seen(&seen, &session, &facts)
                        // What a function does beside it, a rule by tables cannot tell.
                        || was_seen(&seen, &session, &SqlFacts { effects: BTreeSet::new(), ..facts.clone() }),
                    "allowed, though never seen: {:?}\n{}", facts, &draft.text
                );
            }
        }
    }

    #[test]
    fn an_empty_draft_is_a_policy() {
        let draft = Drafting::default().finish("nothing");
        assert_eq!(draft.rules, 0);
        assert_eq!(Arc::new(load(&draft.text)).rules().count(), 0);
    }
}
