//! Emergency overrides that the log knows of and the shelf does not: whoever loses or edits the shelf does not lose the
//! review that is owed.
//!
//! The log is read whole for this, and only when something on the shelf is not as the log says.

use lockgate_model::{GlassId, event::EventKind, grant::GlassUse, operation::Digest, port::Shelf as _};
use lockgate_store::{Log, Shelf};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Those that must rest on the shelf and do not rest there as they were.
pub(super) fn overrides(log: &Log, shelf: &Shelf) -> anyhow::Result<Vec<GlassUse>> {
    let rest: BTreeMap<String, Digest> =
        shelf.all()?.into_iter().map(|(name, value)| (name, Digest(Sha256::digest(&value).into()))).collect();
    let changed = |(name, digest): (&String, &Digest)| {
        name.parse::<GlassId>().ok().filter(|_| rest.get(name) != Some(digest))
    };
    let missing: BTreeSet<GlassId> = log.shelved().iter().filter_map(changed).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let mut owed: BTreeMap<GlassId, GlassUse> = BTreeMap::new();
    for record in log.reader().records() {
        let event = record?.event;
        match event.kind {
            EventKind::GlassBroken(glass) if missing.contains(&glass.id) => {
                owed.insert(glass.id, *glass);
            }
            EventKind::GlassEnded { glass, .. } => {
                if let Some(glass) = owed.get_mut(&glass) {
                    glass.ended_at = Some(event.at);
                }
            }
            EventKind::GlassReviewed { glass, .. } => drop(owed.remove(&glass)),
            _ => {}
        }
    }
    Ok(owed.into_values().collect())
}
