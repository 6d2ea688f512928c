//! What the data plane asks of its surroundings, in one place that every session shares.

use arc_swap::ArcSwap;
use lockgate_inspect::mask::MaskKeys;
use lockgate_model::port::{Ambient, Approvals, Attributor, Confirmer, Recorder};
use lockgate_policy::CompiledPolicy;
use std::sync::Arc;

/// The surroundings.
#[derive(Clone)]
pub struct Ports {
    /// The audit log.
    pub recorder: Arc<dyn Recorder>,
    /// Who asks people.
    pub approvals: Arc<dyn Approvals>,
    /// Who knows where a connection comes from.
    pub attributor: Arc<dyn Attributor>,
    /// Who asks platforms and issuers about it, when any are configured.
    pub confirmer: Option<Arc<dyn Confirmer>>,
    /// Clock and randomness.
    pub ambient: Arc<dyn Ambient>,
    /// The policy in force; replaced as a whole.
    pub policy: Arc<ArcSwap<CompiledPolicy>>,
    /// Keys of hash masks; replaced together with the policy that names them.
    pub mask_keys: Arc<ArcSwap<MaskKeys>>,
}
