//! What a policy's masks mean for one statement: refused, or answered with these fields masked.
//!
//! Two locks. The lineage says where each output comes from; the server's own RowDescription says it again with the rows.
//! A field passes as it is only where neither objects: its origin is a known column without a mask, or the lineage shows
//! that nothing masked is in it.
//!
//! What stays open: a statement that computes with a masked column in its output can fail or not fail depending on the
//! value, which is one bit an attempt. An upstream role without SELECT on masked columns closes that too.

use super::{
    cover::{Cover, glob},
    detector::{Detectors, Shape},
    grants::Exposure,
    judge::{Judge, Misuse},
    method::{MaskKeys, Method},
    planned::{CopyPlan, copies},
    row::{Field, RowMask},
    scope::Scope,
    taint::{Columns, Origin, Taint},
};
use crate::sql::{
    Statement,
    catalogue::{CatalogueSnapshot, Resolution},
    is_builtin_function, is_builtin_operator,
    usage::{ColumnUsage, Defined, Lineage, Place},
};
use lockgate_model::{
    id::RuleId,
    sql::{RelationName, SqlClass},
    verdict::{Denial, DenialCause, InExpression, InPredicate, MaskSpec, UnknownLineage},
};
use lockgate_wire::postgres::backend::Column;
use std::sync::{Arc, OnceLock};

/// The masks that apply to a session, worked out against one catalogue. Build a new one when either changes; it is cheap
/// to share.
#[derive(Clone, Debug)]
pub struct MaskPlan {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) spec: MaskSpec,
    pub(super) catalogue: Arc<CatalogueSnapshot>,
    pub(super) cover: Cover,
    detectors: Option<Arc<Detectors>>,
    exposure: OnceLock<Exposure>,
}

/// A statement uses a masked column where it may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct MaskViolation {
    /// One sentence, safe to show the client.
    pub reason: String,
    /// What to do instead.
    pub remedy: String,
    /// A rule that asked for the masks.
    pub rule: Option<RuleId>,
    /// Policy lets people decide about it: approved, [`MaskPlan::judge_approved`] says what holds.
    pub may_be_approved: bool,
}

impl MaskViolation {
    /// The refusal in policy's words.
    pub fn denial(&self) -> Denial {
        Denial {
            rule: self.rule.clone(),
            cause: DenialCause::Masking,
            reason: self.reason.clone(),
            remedy: Some(self.remedy.clone()),
        }
    }
}

impl MaskPlan {
    /// Works the masks out.
    pub fn new(spec: &MaskSpec, catalogue: Arc<CatalogueSnapshot>, keys: &MaskKeys) -> Self {
        let cover = Cover::new(spec, &catalogue, keys);
        let detectors = (!spec.detectors.is_empty()).then(|| Arc::new(Detectors::new(&spec.detectors)));
        Self {
            inner: Arc::new(Inner {
                spec: spec.clone(),
                catalogue,
                cover,
                detectors,
                exposure: OnceLock::new(),
            }),
        }
    }

    /// What is worked out of it at most once.
    pub(super) fn exposed(&self, make: impl FnOnce() -> Exposure) -> &Exposure {
        self.inner.exposure.get_or_init(make)
    }

    /// What it was made of and what it covers.
    pub(super) fn parts(&self) -> (&Cover, &CatalogueSnapshot) {
        (&self.inner.cover, &self.inner.catalogue)
    }

    /// Whether no literal and no bound value of the statement may rest in a record: it names a relation that has masked
    /// columns (or that is not known, by a column that a mask names), or it was not understood.
    pub fn touches(&self, statement: &Statement) -> bool {
        let inner = &self.inner;
        if inner.spec.columns.is_empty() {
            return false;
        }
        let facts = statement.sql();
        let usage = &statement.usage;
        facts.class == SqlClass::Opaque
            || usage.relations.iter().any(|name| match inner.resolve(usage, name) {
                Resolution::Unknown => inner.could_mask(name, &facts.columns),
                known => inner.covers(&known),
            })
            || matches!(&usage.lineage, Lineage::Define { body: Some(body), foreign, .. } if *foreign || inner.mentions(body))
    }

    /// What the masks mean for this statement: refused, or these masks for its rows.
    pub fn judge(&self, statement: &Statement) -> Result<StatementMask, MaskViolation> {
        self.judge_as(statement, false)
    }

    /// The same when people agreed to what policy lets them decide about. Approval shows nothing that a mask hides.
    pub fn judge_approved(&self, statement: &Statement) -> Result<StatementMask, MaskViolation> {
        self.judge_as(statement, true)
    }

    fn judge_as(&self, statement: &Statement, approved: bool) -> Result<StatementMask, MaskViolation> {
        let inner = &self.inner;
        if inner.spec.columns.is_empty() {
            let outputs = Columns::unnamed(Taint::Clean);
            let copy = inner.copied(&statement.usage, &outputs).map(Arc::new);
            return Ok(StatementMask { plan: self.inner.clone(), outputs, copy, messages: Messages::Shown });
        }
        let usage = &statement.usage;
        let pass = inner.spec.on_unknown_lineage == UnknownLineage::Pass;
        if statement.class() == SqlClass::Opaque && !pass {
            return Err(inner.refuse(
                "the statement is not understood, so the masks that apply here cannot be applied to it"
                    .to_owned(),
                "write it in plainer SQL, or ask for a policy that passes what is of unknown lineage",
            ));
        }
        let mut judge = Judge::new(&inner.cover, &inner.catalogue, &usage.lookup);
        let outputs = inner.lineage(&mut judge, &usage.lineage, usage)?;
        // Code that nobody knows, and what writes, could stand between the plan and the stream.
        if let (Some(origin), true) = (outputs.all.origin(), copies(&usage.lineage))
            && statement.class() != SqlClass::CopyOut
        {
            return Err(inner.uncopied(&origin.label, "by a statement that does more than read"));
        }
        let copy = inner.copied(usage, &outputs).map(Arc::new);
        // What is forbidden for good goes before what people may decide.
        let mut undecided = None;
        for misuse in &judge.misuses {
            match inner.allowed(misuse) {
                Err(violation) if violation.may_be_approved => {
                    undecided.get_or_insert(violation);
                }
                outcome => outcome?,
            }
        }
        if let Taint::Derived(origin) = &outputs.all {
            match inner.spec.in_expression {
                InExpression::Redact => {}
                InExpression::Deny => return Err(inner.expression(origin)),
                InExpression::RequireApproval => {
                    undecided
                        .get_or_insert(MaskViolation { may_be_approved: true, ..inner.expression(origin) });
                }
            }
        }
        if !pass
            && wires(&statement.sql().kind)
            && inner.cover.reach().names_function(behind_or_replace(&statement.text))
        {
            return Err(inner.refuse(
                "a definition over a function that can read masked columns would carry their values on"
                    .to_owned(),
                "leave the function out, or have it done by somebody whose columns are not masked",
            ));
        }
        if !pass {
            for defined in &usage.defines {
                inner.defined(defined)?;
            }
        }
        let reach = inner.cover.reach();
        let unknown_function = usage.unknown_function || usage.calls.iter().any(|name| !reach.is_clean(name));
        let outputs = if unknown_function { outputs.or_unknown() } else { outputs };
        let unknown = judge.unknown_use || matches!(outputs.all, Taint::Unknown);
        if unknown && inner.spec.on_unknown_lineage == UnknownLineage::Deny {
            return Err(inner.refuse(
                "where the statement's values come from is not known, and masks apply here".to_owned(),
                "call no functions but built-in ones, and name only relations that exist before the statement",
            ));
        }
        if let Some(violation) = undecided.filter(|_| !approved) {
            return Err(violation);
        }
        let changes = !matches!(statement.class(), SqlClass::Read | SqlClass::CopyOut);
        // A rule's rows come between the statement's own, described in the same way.
        let ruled = changes && inner.is_wired(usage, |oid| inner.catalogue.is_ruled(oid));
        if !pass && changes && inner.is_wired(usage, |oid| inner.carries_by_rule(oid)) {
            return Err(inner.refuse(
                "a rule of a relation that it names reads masked columns and may keep their values elsewhere"
                    .to_owned(),
                "have it done by somebody whose columns are not masked, or make a trigger of the rule",
            ));
        }
        let outputs = if ruled { Columns::unnamed(Taint::Unknown) } else { outputs };
        let triggered = changes
            && inner.is_wired(usage, |oid| {
                inner.catalogue.triggers(oid).iter().any(|name| inner.cover.reach().function(name))
            });
        // A name that nobody knows is a misspelling, unless it is that of a relation that came meanwhile.
        let strange = matches!(usage.lineage, Lineage::Unknown)
            || usage.relations.iter().any(|name| inner.resolve(usage, name) == Resolution::Unknown);
        let runs_code = match &usage.lineage {
            // What it does stands in its text, and what it calls there.
            Lineage::Define { body: Some(body), .. } => reach.is_loud(body) || !inner.is_screened(statement),
            _ => usage.unknown_function,
        };
        let reads_masked = inner.masked(usage, &usage.relations).is_some()
            || matches!(statement.class(), SqlClass::Opaque)
            || matches!(usage.lineage, Lineage::Unknown)
            || runs_code
            || usage.calls.iter().any(|name| !reach.is_quiet(name))
            || ruled
            || triggered;
        let moves = statement.sql().kind != "insert";
        let near = inner.is_wired(usage, |oid| {
            inner.cover.reads_near(oid) || changes && inner.cover.writes_near(oid, moves)
        });
        let messages = if reads_masked {
            Messages::Withheld
        } else if self.touches(statement) || near || (unknown && strange) {
            Messages::OwnMistakes
        } else {
            Messages::Shown
        };
        Ok(StatementMask { plan: self.inner.clone(), outputs, copy, messages })
    }

    /// The masks for rows of a statement that nobody has seen (a cursor of unknown origin): everything that is not a known
    /// column without a mask is redacted.
    pub fn unknown_statement(&self) -> StatementMask {
        StatementMask {
            plan: self.inner.clone(),
            outputs: Columns::unnamed(Taint::Unknown),
            copy: None,
            messages: Messages::Withheld,
        }
    }
}

/// Whether statements of this kind make something that calls functions later, unseen: defaults, rules, operators, casts,
/// aggregates. What a view calls and a trigger runs is followed when it is used.
fn wires(kind: &str) -> bool {
    match kind {
        "create_view" | "create_materialized_view" | "create_trigger" => false,
        "alter_table" | "alter_domain" | "alter_type" | "alter_operator" => true,
        kind => kind.starts_with("create_"),
    }
}

impl Inner {
    pub(super) fn resolve(&self, usage: &ColumnUsage, name: &RelationName) -> Resolution<'_> {
        self.catalogue.resolve(name.schema.as_deref(), &name.name, &usage.lookup)
    }

    /// Whether a mask could be meant for a relation that is not in the catalogue.
    fn could_mask(&self, name: &RelationName, columns: &[String]) -> bool {
        self.spec.columns.iter().any(|mask| {
            let here = glob(&mask.pattern.table, &name.name)
                && name.schema.as_ref().is_none_or(|schema| glob(&mask.pattern.schema, schema));
            here && columns.iter().any(|column| {
                let column = column.rsplit('.').next().unwrap_or(column);
                column == "*" || glob(&mask.pattern.column, column)
            })
        })
    }

    fn runs_unknown(&self, usage: &ColumnUsage) -> bool {
        usage.unknown_function || usage.calls.iter().any(|name| !self.cover.reach().is_clean(name))
    }

    /// Whether a text was searched for what leads to masked columns, so that its messages tell nothing of them.
    fn is_screened(&self, statement: &Statement) -> bool {
        self.spec.on_unknown_lineage != UnknownLineage::Pass && statement.class() != SqlClass::Opaque
    }

    /// Code that others run without naming it must not come between a statement and the values it was judged to show.
    fn defined(&self, defined: &Defined) -> Result<(), MaskViolation> {
        let reach = self.cover.reach();
        let reason = match defined {
            Defined::Function(name) if is_builtin_function(name) => {
                format!("a function {name}() could stand in for the built-in one and be given masked values")
            }
            Defined::Function(name) if reach.is_fed(name) => {
                format!(
                    "{name}() is given masked values by the tables that it is wired to; another text could keep them"
                )
            }
            Defined::Function(name) if reach.function(name) => {
                format!("{name}() reads masked columns; under another name or text it would carry them on")
            }
            Defined::Operator(name) if is_builtin_operator(name) => {
                format!("an operator {name} could stand in for the built-in one and be given masked values")
            }
            Defined::Cast => "a cast could be given masked values that no statement hands to it".to_owned(),
            Defined::DomainCheck if self.cover.masks_own_type(&self.catalogue) => {
                "a domain's check could be given masked values that are stored already".to_owned()
            }
            Defined::Function(_) | Defined::Operator(_) | Defined::DomainCheck => return Ok(()),
        };
        Err(self.refuse(reason, "have it done by somebody whose columns are not masked"))
    }

    /// Whether a text that no grammar reads leads to masked columns.
    fn mentions(&self, body: &str) -> bool {
        self.cover.reach().mentions(body)
    }

    /// Whether a relation that the statement names runs code of its own that can show masked columns.
    fn is_wired(&self, usage: &ColumnUsage, test: impl Fn(u32) -> bool) -> bool {
        usage
            .relations
            .iter()
            .any(|name| self.resolve(usage, name).candidates().iter().any(|relation| test(relation.oid)))
    }

    /// Whether the rules of a relation read what is masked and touch a relation that holds nothing masked.
    fn carries_by_rule(&self, oid: u32) -> bool {
        let touched = self.catalogue.rules(oid);
        touched.iter().any(|(relation, attnum)| self.cover.column(*relation, *attnum).is_some())
            && touched.iter().any(|(relation, _)| *relation != oid && !self.cover.touches(*relation))
    }

    fn lineage(
        &self,
        judge: &mut Judge<'_>,
        lineage: &Lineage,
        usage: &ColumnUsage,
    ) -> Result<Columns, MaskViolation> {
        let root = Scope::root();
        Ok(match lineage {
            Lineage::Nothing => Columns::unnamed(Taint::Clean),
            Lineage::Rows(query) => judge.query(query, &root),
            Lineage::Plan(inner) => {
                // A plan is text of its own: what is computed can have been folded into it.
                let outputs = self.lineage(judge, inner, usage)?;
                let carried = match outputs.all {
                    Taint::Derived(origin) => Taint::Derived(origin),
                    Taint::Unknown if self.runs_unknown(usage) => Taint::Unknown,
                    Taint::Clean | Taint::Unknown | Taint::Masked(_) => Taint::Clean,
                };
                Columns::unnamed(carried)
            }
            Lineage::Change(change) => judge.change(change, &root),
            Lineage::Store(query) => {
                let columns = judge.query(query, &root);
                match columns.all.origin() {
                    Some(origin) => return Err(self.stored(origin)),
                    None => Columns::unnamed(Taint::Clean),
                }
            }
            Lineage::Define { what, body, query, foreign } => {
                // What shows clean columns alone has nothing to show under another name.
                let shows_clean =
                    query.as_ref().is_some_and(|query| matches!(judge.query(query, &root).all, Taint::Clean));
                if let Some(name) = self.masked(usage, &usage.relations).filter(|_| !shows_clean) {
                    return Err(self.refuse(
                        format!(
                            "{what} over {name}, which has masked columns, would show them under another name"
                        ),
                        "leave the relation out, or have it made by somebody whose columns are not masked",
                    ));
                }
                if *foreign || body.as_ref().is_some_and(|body| self.mentions(body)) {
                    return Err(self.refuse(
                        format!("{what} whose text names masked columns, or makes up statements, could copy them"),
                        "leave them and EXECUTE out, or have it made by somebody whose columns are not masked",
                    ));
                }
                Columns::unnamed(Taint::Clean)
            }
            Lineage::CopyOut { relation, columns, sink } => self.copy_out(relation, columns, sink, usage)?,
            Lineage::CopyQuery { rows, sink } => {
                let outputs = self.lineage(judge, rows, usage)?;
                match &outputs.all {
                    Taint::Clean => outputs,
                    Taint::Unknown => self.copy_unknown()?,
                    Taint::Masked(_) | Taint::Derived(_) => self.copy_rows(rows, outputs, sink)?,
                }
            }
            Lineage::Rename { what, relations, column } => {
                self.renamed(what, relations, column.as_deref(), usage)?;
                Columns::unnamed(Taint::Clean)
            }
            Lineage::Attach { relation, places } => {
                self.attached(judge, relation, places)?;
                Columns::unnamed(Taint::Clean)
            }
            Lineage::Many(all) => {
                for one in all {
                    self.lineage(judge, one, usage)?;
                }
                Columns::unnamed(Taint::Clean)
            }
            Lineage::Unknown => Columns::unnamed(Taint::Unknown),
        })
    }

    /// Nothing masked is in it; detectors still look.
    pub(super) fn open(&self) -> Field {
        match &self.detectors {
            Some(detectors) => Field::Detect(detectors.clone(), Shape::Text),
            None => Field::Pass,
        }
    }

    /// The first of these relations that has masked columns.
    fn masked(&self, usage: &ColumnUsage, relations: &[RelationName]) -> Option<RelationName> {
        relations.iter().find(|name| self.covers(&self.resolve(usage, name))).cloned()
    }

    fn covers(&self, resolution: &Resolution<'_>) -> bool {
        resolution.candidates().iter().any(|relation| self.cover.touches(relation.oid))
    }

    fn renamed(
        &self,
        what: &str,
        relations: &[RelationName],
        column: Option<&str>,
        usage: &ColumnUsage,
    ) -> Result<(), MaskViolation> {
        for name in relations {
            let masked = match (name.name.as_str(), &name.schema) {
                ("*", Some(schema)) => self
                    .catalogue
                    .relations()
                    .iter()
                    .any(|relation| relation.schema == *schema && self.cover.touches(relation.oid)),
                _ => self.resolve(usage, name).candidates().iter().any(|relation| match column {
                    Some(column) => relation
                        .column(column)
                        .is_some_and(|column| self.cover.column(relation.oid, column.attnum).is_some()),
                    None => self.cover.touches(relation.oid),
                }),
            };
            if masked {
                return Err(self.refuse(
                    format!("to {what} {name} would shake off the masks of its columns"),
                    "have it done by somebody whose columns are not masked, together with the policy's new names",
                ));
            }
        }
        Ok(())
    }

    fn attached(
        &self,
        judge: &mut Judge<'_>,
        relation: &RelationName,
        places: &[(Place, crate::sql::usage::Expr)],
    ) -> Result<(), MaskViolation> {
        let mut scope = Scope::root();
        judge.bring(relation, &mut scope);
        for (_, expr) in places {
            if let Some(origin) = judge.taint(expr, &scope).origin() {
                return Err(self.refuse(
                    format!("the masked column {} may not be used in a definition", origin.label),
                    "leave the column out, or have it done by somebody whose columns are not masked",
                ));
            }
        }
        Ok(())
    }

    fn allowed(&self, misuse: &Misuse) -> Result<(), MaskViolation> {
        match misuse {
            Misuse::Stored(origin) => Err(self.stored(origin)),
            Misuse::Runs(_) if self.spec.on_unknown_lineage == UnknownLineage::Pass => Ok(()),
            Misuse::Runs(name) => Err(self.refuse(
                format!("{name}() runs text or carries values where the masks that apply here cannot follow"),
                "write the statement itself, or ask for a policy that passes what is of unknown lineage",
            )),
            // What a function does with a value is nobody's to see: this is no predicate that policy could allow.
            Misuse::Place(place @ (Place::UnknownFunction | Place::Definition), origin) => {
                Err(self.placed(*place, origin))
            }
            Misuse::Place(place, origin) => match self.spec.in_predicate {
                InPredicate::Deny => Err(self.placed(*place, origin)),
                InPredicate::RequireApproval => {
                    Err(MaskViolation { may_be_approved: true, ..self.placed(*place, origin) })
                }
                InPredicate::Allow => Ok(()),
            },
        }
    }

    fn placed(&self, place: Place, origin: &Origin) -> MaskViolation {
        let remedy = match place {
            Place::SetOperation => "use UNION ALL, which compares no rows, or leave the column out",
            _ => {
                "leave the column out there, or ask for a policy that allows it (in_predicate: allow, or unmask_for)"
            }
        };
        self.refuse(
            format!("the masked column {} may not be used in {}", origin.label, place.as_str()),
            remedy,
        )
    }

    fn expression(&self, origin: &Origin) -> MaskViolation {
        self.refuse(
            format!("the masked column {} may stand in the output only as it is", origin.label),
            "select the column itself, or ask for a policy that redacts what is made of it (in_expression: redact)",
        )
    }

    fn stored(&self, origin: &Origin) -> MaskViolation {
        self.refuse(
            format!("the value of the masked column {} may not be copied into another place", origin.label),
            "leave the column out, or have it done by somebody whose columns are not masked",
        )
    }

    pub(super) fn refuse(&self, reason: String, remedy: &str) -> MaskViolation {
        MaskViolation {
            reason,
            remedy: remedy.to_owned(),
            rule: self.spec.rules.first().cloned(),
            may_be_approved: false,
        }
    }
}

/// The masks for one statement's results.
#[derive(Clone, Debug)]
pub struct StatementMask {
    pub(super) plan: Arc<Inner>,
    outputs: Columns,
    /// What becomes of the rows of a COPY.
    pub(super) copy: Option<Arc<CopyPlan>>,
    messages: Messages,
}

/// Which of the target's messages the client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Messages {
    /// All.
    Shown,
    /// Errors that the server found in the statement's text before it read anything: the statement names relations that
    /// the catalogue does not know, most likely by mistake.
    OwnMistakes,
    /// None.
    Withheld,
}

impl StatementMask {
    /// The masks for rows of this description. A statement whose rows come without a description must be described first.
    pub fn rows(&self, columns: &[Column]) -> RowMask {
        let ordered = self.outputs.named.as_ref().filter(|_| self.outputs.exact);
        let aligned = ordered.filter(|named| named.len() == columns.len());
        let mut unknown = Vec::new();
        let fields = columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let lineage = aligned.and_then(|named| named.get(index)).map(|(_, taint)| taint);
                self.field(column, lineage, &mut unknown)
            })
            .collect();
        RowMask::new(columns, fields, unknown)
    }

    fn field(&self, column: &Column, lineage: Option<&Taint>, unknown: &mut Vec<u32>) -> Field {
        let plan = &self.plan;
        if plan.spec.columns.is_empty() {
            return self.open();
        }
        let covered =
            (column.table_oid != 0).then(|| plan.cover.column(column.table_oid, column.attnum)).flatten();
        if let Some(method) = covered {
            return Field::Mask(method.clone());
        }
        let known_relation = column.table_oid != 0 && plan.catalogue.relation(column.table_oid).is_some();
        let known_origin = known_relation && column.attnum != 0;
        if known_relation && column.attnum == 0 && plan.cover.touches(column.table_oid) {
            // The whole row.
            return Field::Mask(Method::Redact);
        }
        // Rows that do not line up with the statement's outputs are not what it asks for: a rule's, for example.
        let stray = lineage.is_none() && self.outputs.exact && self.outputs.named.is_some();
        let taint = match (lineage, known_origin) {
            // The server says that it is a column without a mask. The lineage, where it is exact, may still object.
            (Some(Taint::Clean | Taint::Unknown) | None, true) => return self.open(),
            (Some(taint), _) => taint,
            (None, false) if stray && self.outputs.all.origin().is_none() => &Taint::Unknown,
            (None, false) => &self.outputs.all,
        };
        let is_unknown_relation = column.table_oid != 0 && !known_relation;
        if is_unknown_relation {
            unknown.push(column.table_oid);
        }
        match taint {
            Taint::Clean if !is_unknown_relation => self.open(),
            Taint::Clean | Taint::Unknown => match plan.spec.on_unknown_lineage {
                UnknownLineage::Pass => self.open(),
                UnknownLineage::Redact | UnknownLineage::Deny => Field::Mask(Method::Redact),
            },
            Taint::Masked(_) | Taint::Derived(_) => Field::Mask(Method::Redact),
        }
    }

    fn open(&self) -> Field {
        self.plan.open()
    }

    /// Whether errors and notices of this statement keep only severity and SQLSTATE: their texts quote values.
    pub fn strip_messages(&self) -> bool {
        self.messages != Messages::Shown
    }

    /// Whether an error is nevertheless shown that the server found in the statement's own text, before it read anything:
    /// a relation that does not exist.
    pub fn shows_own_mistakes(&self) -> bool {
        self.messages != Messages::Withheld
    }
}

impl Columns {
    /// The same, with something unknown in every column that was clean.
    fn or_unknown(self) -> Self {
        // A column that the lineage follows stays what it is: unknown is only what a function returned, and that is marked
        // where it is called. The whole is in doubt nevertheless, for rows that do not line up with it.
        Self { all: self.all.or(Taint::Unknown), ..self }
    }
}

/// A definition without its CREATE OR REPLACE, whose last word is also the name of a function. Behind anything but white space
/// the word may be a call, and stays.
fn behind_or_replace(text: &str) -> &str {
    ["create", "or", "replace"]
        .iter()
        .try_fold(text, |rest, word| {
            let rest = rest.trim_start();
            let (head, tail) = rest.split_at_checked(word.len())?;
            let ends = tail.starts_with(|c: char| c.is_ascii_whitespace());
            (head.eq_ignore_ascii_case(word) && ends).then_some(tail)
        })
        .filter(|rest| !rest.trim_start().starts_with('('))
        .unwrap_or(text)
}
