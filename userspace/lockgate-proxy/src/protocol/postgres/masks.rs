//! The mask plans of one session: policy's masks worked out against the target's catalogue.
//!
//! Plans are shared by all sessions of a target's database, and made anew when the policy's masks or the catalogue
//! changed. Without a catalogue there is no plan, and what could return rows is refused: never raw.

use crate::catalogue::Routine;
use lockgate_inspect::{
    mask::{Exposure, MaskKeys, MaskPlan},
    sql::{Statement, catalogue::CatalogueSnapshot},
};
use lockgate_model::{event::EventKind, port::BoxFuture, sql::SqlEffect, verdict::MaskSpec};
use lockgate_wire::postgres::backend::Column;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Plans that are kept: one per database, catalogue and combination of matching mask rules. The oldest goes first.
const PLANS: usize = 64;

/// Relations in no catalogue that a session remembers having asked for; one more is not asked for.
const STRANGERS: usize = 256;

/// Where a database's catalogue comes from: the side connection, or a script in tests.
pub(crate) trait CatalogueSource: Send + Sync {
    /// The catalogue, loaded (again) when it is missing or out of date. None when it cannot be loaded; the reason is
    /// logged by the source.
    fn load(&self) -> BoxFuture<'_, Option<Arc<CatalogueSnapshot>>>;
    /// The catalogue when it is at hand and fresh: no wait.
    fn fresh(&self) -> Option<Arc<CatalogueSnapshot>>;
    /// The catalogue as it is at some moment after this was called, whatever is at hand. None when nobody can tell.
    fn confirm(&self) -> BoxFuture<'_, Option<Arc<CatalogueSnapshot>>>;
    /// Somebody changed the schema.
    fn outdated(&self);
    /// The function of an OID; None when there is none, or nobody can tell.
    fn routine(&self, oid: u32) -> BoxFuture<'_, Option<Routine>>;
}

/// One plan and what it was made of.
struct Made {
    spec: MaskSpec,
    catalogue: Arc<CatalogueSnapshot>,
    keys: usize,
    plan: Arc<MaskPlan>,
}

/// The plans of all databases, shared by their sessions.
#[derive(Default)]
pub(crate) struct PlanCache(Mutex<Vec<Made>>);

impl PlanCache {
    fn plan(
        &self,
        spec: &MaskSpec,
        catalogue: &Arc<CatalogueSnapshot>,
        keys: &Arc<MaskKeys>,
    ) -> Arc<MaskPlan> {
        let key_id = Arc::as_ptr(keys).addr();
        let find = |made: &&Made| {
            Arc::ptr_eq(&made.catalogue, catalogue) && made.keys == key_id && made.spec == *spec
        };
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = plans.iter().find(find) {
            return made.plan.clone();
        }
        let plan = Arc::new(MaskPlan::new(spec, catalogue.clone(), keys));
        if plans.len() >= PLANS {
            plans.remove(0);
        }
        plans.push(Made {
            spec: spec.clone(),
            catalogue: catalogue.clone(),
            keys: key_id,
            plan: plan.clone(),
        });
        plan
    }
}

/// One session's view of them.
pub(crate) struct Masks {
    source: Arc<dyn CatalogueSource>,
    plans: Arc<PlanCache>,
    catalogue: Option<Arc<CatalogueSnapshot>>,
    /// Relations that came up in results and are in no catalogue, temporary ones for example: each is asked for once.
    strangers: HashSet<u32>,
    /// Something ran in the open transaction that may have changed the schema: nobody but the target sees it yet.
    in_doubt: bool,
    /// The catalogue (its address) that was last told of in the record, and what was told.
    told: (usize, Option<Exposure>),
}

impl Masks {
    pub(crate) fn new(source: Arc<dyn CatalogueSource>, plans: Arc<PlanCache>) -> Self {
        Self { source, plans, catalogue: None, strangers: HashSet::new(), in_doubt: false, told: (0, None) }
    }

    /// The catalogue in force for this message.
    pub(crate) fn catalogue(&self) -> Option<&Arc<CatalogueSnapshot>> {
        self.catalogue.as_ref()
    }

    /// Takes a fresh catalogue that is at hand; false when it has to be loaded first.
    pub(crate) fn refresh(&mut self) -> bool {
        self.catalogue = self.source.fresh();
        self.catalogue.is_some()
    }

    /// The load, for the engine to wait for.
    pub(crate) fn source(&self) -> Arc<dyn CatalogueSource> {
        self.source.clone()
    }

    /// What was loaded.
    pub(crate) fn loaded(&mut self, catalogue: Option<Arc<CatalogueSnapshot>>) {
        self.catalogue = catalogue;
    }

    /// The schema changed.
    pub(crate) fn outdated(&self) {
        self.source.outdated();
    }

    /// Whether nothing is new since the record was told what the role may read.
    pub(crate) fn is_told(&self) -> bool {
        self.catalogue.as_ref().is_none_or(|catalogue| Arc::as_ptr(catalogue).addr() == self.told.0)
    }

    /// What the record is to say of the masked columns that the role may read by itself, where that is new.
    pub(crate) fn exposed(&mut self, spec: &MaskSpec, keys: &Arc<MaskKeys>) -> Option<EventKind> {
        let catalogue = self.catalogue.as_ref()?;
        self.told.0 = Arc::as_ptr(catalogue).addr();
        if spec.columns.is_empty() {
            return None;
        }
        let plan = self.plans.plan(spec, catalogue, keys);
        let exposure = plan.exposure();
        if self.told.1.as_ref() == Some(exposure) {
            return None;
        }
        let Exposure { masked, readable, first } = self.told.1.insert(exposure.clone()).clone();
        Some(EventKind::MaskedColumns { masked, readable, first })
    }

    /// A statement ran in the open transaction.
    pub(crate) fn ran(&mut self, statement: &Statement, changes_schema: bool) {
        let effects = &statement.sql().effects;
        self.in_doubt |= changes_schema
            || statement.unsettles
            || [SqlEffect::UnknownFunction, SqlEffect::DynamicSql]
                .iter()
                .any(|effect| effects.contains(effect));
    }

    /// The transaction is over.
    pub(crate) fn transaction_ended(&mut self) {
        self.in_doubt = false;
    }

    /// Whether tables may be other ones inside the open transaction than the catalogue has.
    pub(crate) fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// A result's columns come from these relations: one that is not known means that the catalogue is out of date.
    pub(crate) fn meet(&mut self, columns: &[Column]) {
        let Some(catalogue) = &self.catalogue else { return };
        for column in columns {
            let oid = column.table_oid;
            let known = oid == 0 || catalogue.relation(oid).is_some();
            if !known && self.strangers.len() < STRANGERS && self.strangers.insert(oid) {
                self.source.outdated();
            }
        }
    }

    /// The plan of these masks; None without a catalogue.
    pub(crate) fn plan(&self, spec: &MaskSpec, keys: &Arc<MaskKeys>) -> Option<Arc<MaskPlan>> {
        Some(self.plans.plan(spec, self.catalogue.as_ref()?, keys))
    }

    /// Whether no literal of the statement may rest in a record; unknown is yes.
    pub(crate) fn touches(
        &self,
        spec: Option<&MaskSpec>,
        keys: &Arc<MaskKeys>,
        statement: &Statement,
    ) -> bool {
        match spec {
            None => false,
            Some(spec) => self.plan(spec, keys).is_none_or(|plan| plan.touches(statement)),
        }
    }
}
