//! What masks mean for a COPY … TO STDOUT: which of its columns are masked, planned with the statement and made into a mask
//! for the stream once the target says how many columns come.
//!
//! A copy has no RowDescription, so no second lock: the lineage has to be exact, or the copy is refused.

use super::{
    copy::{CopyError, CopyMask},
    method::Method,
    plan::{Inner, MaskViolation, StatementMask},
    row::Field,
    taint::{Columns, Taint},
};
use crate::sql::{
    catalogue::{CatalogueSnapshot, Relation, RelationColumn, RelationKind, Resolution},
    copy::{CopyForm, CopyLayout, CopySink, Forced},
    usage::{ColumnUsage, Lineage},
};
use lockgate_model::{
    sql::RelationName,
    verdict::{MaskSpec, UnknownLineage},
};
use lockgate_wire::postgres::Format;
use std::sync::Arc;

/// The plan of one COPY.
#[derive(Clone, Debug)]
pub(super) struct CopyPlan {
    sink: CopySink,
    /// Its columns in order, where they are known; where they are not, none is masked.
    columns: Option<Vec<Planned>>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    field: Field,
    /// A generated column: COPY of the whole table leaves it out, unless row-level security makes a query of it.
    generated: bool,
}

/// Whether rows leave in bulk.
pub(super) fn copies(lineage: &Lineage) -> bool {
    matches!(lineage, Lineage::CopyOut { .. } | Lineage::CopyQuery { .. })
}

impl Inner {
    /// What a COPY of a relation carries; refused where a masked column is in it that the stream could show.
    pub(super) fn copy_out(
        &self,
        name: &RelationName,
        columns: &[String],
        sink: &CopySink,
        usage: &ColumnUsage,
    ) -> Result<Columns, MaskViolation> {
        let resolution = self.resolve(usage, name);
        if resolution.candidates().is_empty() {
            return self.copy_unknown();
        }
        let masked = resolution.candidates().iter().find_map(|relation| {
            let column = relation
                .columns
                .iter()
                .filter(|column| columns.is_empty() || columns.contains(&column.name))
                .find(|column| self.cover.column(relation.oid, column.attnum).is_some())?;
            Some((relation, format!("{}.{}", relation.name, column.name)))
        });
        let Some((relation, label)) = masked else { return Ok(Columns::unnamed(Taint::Clean)) };
        if let CopySink::Unseen(why) = sink {
            return Err(self.uncopied(&label, why));
        }
        if !matches!(resolution, Resolution::Found(_)) {
            return Err(self.uncopied(&label, "by a name that could stand for several tables"));
        }
        match relation.kind {
            RelationKind::Table | RelationKind::MaterializedView => {}
            // The server refuses them.
            RelationKind::PartitionedTable
            | RelationKind::View
            | RelationKind::ForeignTable
            | RelationKind::Sequence
            | RelationKind::Toast
            | RelationKind::Composite => return Err(self.uncopied(&label, "of something that is no table")),
        }
        let origin = |method: &Method| super::taint::Origin {
            label: label.clone(),
            method: method.clone(),
            type_oid: None,
        };
        Ok(Columns::known(
            chosen(relation, columns)
                .map(|column| {
                    let taint = match self.cover.column(relation.oid, column.attnum) {
                        Some(method) => Taint::Masked(Arc::new(origin(method))),
                        None => Taint::Clean,
                    };
                    (column.name.clone(), taint)
                })
                .collect(),
        ))
    }

    /// The same of a query whose output holds masked columns.
    pub(super) fn copy_rows(
        &self,
        rows: &Lineage,
        outputs: Columns,
        sink: &CopySink,
    ) -> Result<Columns, MaskViolation> {
        let label = outputs.all.origin().map(|origin| origin.label.clone()).unwrap_or_default();
        if let CopySink::Unseen(why) = sink {
            return Err(self.uncopied(&label, why));
        }
        let Some(named) = outputs.named.as_ref().filter(|_| outputs.exact) else {
            return Err(self.uncopied(&label, "by a query whose columns cannot be told one from another"));
        };
        if !matches!(rows, Lineage::Rows(_)) {
            return Err(self.uncopied(&label, "by a statement that does more than read"));
        }
        for (_, taint) in named {
            match taint {
                Taint::Clean => {}
                Taint::Masked(origin) if origin.type_oid.is_some() => {}
                Taint::Unknown if self.spec.on_unknown_lineage == UnknownLineage::Pass => {}
                Taint::Unknown => return self.copy_unknown(),
                Taint::Masked(origin) | Taint::Derived(origin) => {
                    return Err(self.uncopied(&origin.label, "inside an expression"));
                }
            }
        }
        Ok(outputs)
    }

    pub(super) fn copy_unknown(&self) -> Result<Columns, MaskViolation> {
        match self.spec.on_unknown_lineage {
            UnknownLineage::Pass => Ok(Columns::unnamed(Taint::Clean)),
            UnknownLineage::Redact | UnknownLineage::Deny => Err(self.refuse(
                "COPY of something whose columns are not known, where masks apply".to_owned(),
                "use SELECT, whose rows can be masked",
            )),
        }
    }

    pub(super) fn uncopied(&self, column: &str, how: &str) -> MaskViolation {
        self.refuse(
            format!("COPY of the masked column {column} {how}: what comes out could not be masked"),
            "name the columns without masks, copy plain columns of a table to STDOUT, or use SELECT",
        )
    }

    /// The plan of a COPY that was judged to carry these columns.
    pub(super) fn copied(&self, usage: &ColumnUsage, outputs: &Columns) -> Option<CopyPlan> {
        match &usage.lineage {
            Lineage::CopyOut { relation, columns, sink } => {
                let planned = match self.resolve(usage, relation) {
                    Resolution::Found(relation) => Some(self.of_relation(relation, columns, sink)),
                    Resolution::Several(_) | Resolution::Unknown => None,
                };
                Some(CopyPlan { sink: sink.clone(), columns: planned })
            }
            Lineage::CopyQuery { sink, .. } => {
                let named =
                    outputs.named.as_ref().filter(|_| outputs.exact && outputs.all.origin().is_some());
                let planned = named.map(|named| {
                    let plan = |(name, taint): &(String, Taint)| Planned {
                        name: name.clone(),
                        field: match taint {
                            Taint::Masked(origin) | Taint::Derived(origin) => {
                                Field::Mask(origin.method.clone())
                                    .typed(origin.type_oid.unwrap_or_default(), Format::Text)
                            }
                            Taint::Clean | Taint::Unknown => self.open(),
                        },
                        generated: false,
                    };
                    named.iter().map(plan).collect()
                });
                Some(CopyPlan { sink: sink.clone(), columns: planned })
            }
            _ => None,
        }
    }

    fn of_relation(&self, relation: &Relation, columns: &[String], sink: &CopySink) -> Vec<Planned> {
        let format = match sink {
            CopySink::Client(form) if form.layout == CopyLayout::Binary => Format::Binary,
            CopySink::Client(_) | CopySink::Unseen(_) => Format::Text,
        };
        chosen(relation, columns)
            .map(|column| {
                let field = match self.cover.column(relation.oid, column.attnum) {
                    Some(method) if !self.spec.columns.is_empty() => Field::Mask(method.clone()),
                    Some(_) | None => self.open(),
                };
                Planned {
                    name: column.name.clone(),
                    field: field.typed(column.type_oid, format),
                    generated: columns.is_empty() && !column.generated_from.is_empty(),
                }
            })
            .collect()
    }
}

/// The columns of a COPY: those of its list in the list's order, or all.
fn chosen<'a>(relation: &'a Relation, columns: &'a [String]) -> impl Iterator<Item = &'a RelationColumn> {
    let all = relation.columns.iter().filter(|_| columns.is_empty());
    all.chain(columns.iter().filter_map(|name| relation.column(name)))
}

impl CopyPlan {
    /// The fields of a stream of so many columns; None where the plan has another number.
    fn fields(&self, count: usize, open: impl Fn() -> Field) -> Option<Vec<(Field, bool)>> {
        let forced = |name: &str| match &self.sink {
            CopySink::Client(form) => form.forces(name),
            CopySink::Unseen(_) => false,
        };
        let Some(columns) = &self.columns else {
            return Some((0..count).map(|_| (open(), false)).collect());
        };
        let stored = || columns.iter().filter(|column| !column.generated);
        let all: Vec<&Planned> = if stored().count() == count {
            stored().collect()
        } else if columns.len() == count {
            columns.iter().collect()
        } else {
            return None;
        };
        Some(all.into_iter().map(|column| (column.field.clone(), forced(&column.name))).collect())
    }
}

impl CopyForm {
    fn forces(&self, name: &str) -> bool {
        match &self.layout {
            CopyLayout::Csv { forced: Forced::All, .. } => true,
            CopyLayout::Csv { forced: Forced::Named(names), .. } => names.iter().any(|forced| forced == name),
            CopyLayout::Text { .. } | CopyLayout::Binary => false,
        }
    }
}

impl StatementMask {
    /// Whether it was judged against this catalogue.
    pub fn stands_on(&self, catalogue: &Arc<CatalogueSnapshot>) -> bool {
        Arc::ptr_eq(&self.plan.catalogue, catalogue)
    }

    /// The masks that it was made of.
    pub fn spec(&self) -> &MaskSpec {
        &self.plan.spec
    }

    /// Whether columns of its COPY are masked, so that they have to stand where the plan has them.
    pub fn masks_copy(&self) -> bool {
        let columns = self.copy.as_ref().and_then(|plan| plan.columns.as_ref());
        columns.into_iter().flatten().any(|planned| matches!(planned.field, Field::Mask(_)))
    }

    /// Whether the rows of its COPY are looked at.
    pub fn reads_copy(&self) -> bool {
        match &self.copy {
            Some(plan) => {
                let searched = !matches!(self.plan.open(), Field::Pass);
                let masked = |planned: &Planned| !matches!(planned.field, Field::Pass);
                searched || plan.columns.iter().flatten().any(masked)
            }
            None => self.plan.spec.on_unknown_lineage != UnknownLineage::Pass,
        }
    }

    /// The mask for a copy stream of so many columns, in the binary format or not. None: it goes on as it is.
    pub fn copy(&self, columns: usize, binary: bool) -> Result<Option<CopyMask>, CopyError> {
        let Some(plan) = &self.copy else {
            return if self.reads_copy() { Err(CopyError::Unplanned) } else { Ok(None) };
        };
        let masked = self.masks_copy();
        let fields = match plan.fields(columns, || self.plan.open()) {
            Some(fields) => fields,
            None if masked => {
                let expected = plan.columns.as_ref().map_or(0, Vec::len);
                return Err(CopyError::ColumnCount { expected, got: columns });
            }
            // Nothing is masked: every column is searched.
            None => (0..columns).map(|_| (self.plan.open(), false)).collect(),
        };
        if fields.iter().all(|(field, _)| matches!(field, Field::Pass)) {
            return Ok(None);
        }
        let form = match &plan.sink {
            CopySink::Client(form) => form,
            CopySink::Unseen(why) => return Err(CopyError::Unseen(why)),
        };
        let expected = form.layout == CopyLayout::Binary;
        if expected != binary {
            return Err(CopyError::Format { expected });
        }
        Ok(Some(CopyMask::new(form, fields)))
    }
}
