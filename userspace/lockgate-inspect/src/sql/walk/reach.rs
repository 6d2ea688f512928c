//! How far a statement reaches beyond what it names: put together when the walk is over.

use super::Gathered;
use crate::sql::{
    SessionState,
    behind::{self, Behind},
    catalogue::CatalogueSnapshot,
    extent,
    usage::Lineage,
};
use lockgate_model::sql::{Export, Extent, Reach, RowBound, SqlClass, SqlEffect};
use pg_query::NodeEnum;

/// Statements that run another one by name reach as far as that one.
fn inner<'a>(node: &NodeEnum, state: &'a SessionState) -> Option<&'a Reach> {
    let statement = match node {
        NodeEnum::ExecuteStmt(execute) => state.prepared(&execute.name),
        NodeEnum::FetchStmt(fetch) => state.cursor(&fetch.portalname),
        _ => None,
    };
    statement.map(|statement| &statement.sql().reach)
}

/// What the walk's findings come to.
pub(super) fn reach(
    node: &NodeEnum,
    lineage: &Lineage,
    gathered: &Gathered,
    state: &SessionState,
    catalogue: Option<&CatalogueSnapshot>,
) -> Reach {
    let lookup = state.lookup();
    let calls_own = gathered.calls.iter().any(|name| name != "set_config");
    let copies = gathered.effects.contains(&SqlEffect::Exports);
    let extent = match (node, inner(node, state)) {
        // Nothing comes out of it; what does is asked about when it runs.
        (NodeEnum::PrepareStmt(_), _) => None,
        (NodeEnum::FetchStmt(fetch), _) if fetch.ismove => None,
        (_, Some(inner)) => inner.extent.map(without_parameters),
        _ => extent::extent(&extent::Asked {
            node,
            lineage,
            lookup: &lookup,
            catalogue,
            anything: gathered.unknown_function || calls_own,
        }),
    };
    let mut exports = extent::exports(&gathered.functions, &gathered.read, copies);
    if extent.is_some() && !copies {
        exports.insert(Export::Select);
    }
    let named = gathered.named.iter().chain(&gathered.read).chain(&gathered.written).cloned().collect();
    let found = match catalogue {
        Some(catalogue) => behind::behind(
            &behind::Asked {
                named: &named,
                written: &gathered.written,
                calls: &gathered.calls,
                lookup: &lookup,
            },
            catalogue,
        ),
        None => Behind { unseen: calls_own, ..Behind::default() },
    };
    let unseen = found.unseen
        || gathered.unknown_function
        || matches!(gathered.class, SqlClass::Call | SqlClass::Opaque)
        || gathered.effects.contains(&SqlEffect::DynamicSql)
        || state.catalogue_missing && !named.is_empty();
    Reach { exports, extent, behind: found.relations.into_iter().collect(), unseen }
}

/// The values of EXECUTE are not those that are bound to the message.
fn without_parameters(extent: Extent) -> Extent {
    match extent.at_most {
        Some(RowBound::Parameter(_)) => Extent { at_most: None, ..extent },
        Some(RowBound::Rows(_)) | None => extent,
    }
}
