//! Whether what is stored as evidence is kept by where it is stored. Asks the buckets themselves, with the agent's keys;
//! stores nothing there.

use super::Findings;
use crate::{agent::evidence, config::Config};
use lockgate_intercept::Status;

const SECTION: &str = "evidence";
const REMEDY: &str = "give the bucket object lock with a default retention, and the key the right s3:GetBucketObjectLockConfiguration";

/// What each bucket says of object lock.
pub(super) fn buckets(config: &Config, findings: &mut Findings) {
    let places = config.evidence.objects().into_iter().filter(|(_, place)| place.to.starts_with("s3://"));
    let places: Vec<_> = places.collect();
    if places.is_empty() {
        return;
    }
    // As the agent does; a second one changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    for (key, place) in places {
        let told = runtime.block_on(async { anyhow::Ok(evidence::objects(place).await?.lock().await?) });
        let (status, detail) = match told {
            Ok(lock) if lock.retains() => (Status::Ok, lock.to_string()),
            Ok(lock) if place.lock_required => {
                (Status::Failed, format!("{lock}, and {key} says `lock: required`: nothing is stored there"))
            }
            Ok(lock) => (Status::Warning, format!("{lock}: whoever has its keys can delete what is there")),
            Err(error) if place.lock_required => (Status::Failed, format!("{error:#}")),
            Err(error) => (Status::Warning, format!("{error:#}")),
        };
        let detail = format!("{}: {detail}", place.to);
        findings.add(SECTION, status, "bucket", detail, (status != Status::Ok).then_some(REMEDY));
    }
}
