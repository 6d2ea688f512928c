//! One module for each protocol: how its clients are greeted, decided, held, answered.

pub(crate) mod http;
pub(crate) mod postgres;

use crate::settings::TargetSettings;
use lockgate_model::flow::Flow;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A connection that belongs to a registered target.
pub(crate) struct Arrival {
    /// The connection, as the kernel saw it.
    pub(crate) flow: Flow,
    /// The target.
    pub(crate) target: Arc<TargetSettings>,
    /// Of somebody who dialled lockgate itself and has not said who it is: given back when it has.
    pub(crate) stranger: Option<OwnedSemaphorePermit>,
}
