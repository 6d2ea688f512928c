//! One module for each protocol: how its clients are greeted, decided, held, answered.

pub(crate) mod postgres;

use crate::settings::TargetSettings;
use lockgate_model::flow::Flow;
use std::sync::Arc;

/// A connection that belongs to a registered target.
pub(crate) struct Arrival {
    /// The connection, as the kernel saw it.
    pub(crate) flow: Flow,
    /// The target.
    pub(crate) target: Arc<TargetSettings>,
}
