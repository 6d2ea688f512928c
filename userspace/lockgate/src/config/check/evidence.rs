//! Where evidence goes besides the log: places that can be reached, times that make sense.

use super::{Checker, is_http, raw};
use crate::config::{
    CheckpointSink, Checkpoints, EvidenceConfig, ObjectsConfig, OtlpConfig, RecordingsConfig, RetentionConfig,
};
use lockgate_policy::yaml::{Position, Spanned};
use raw::evidence as given;
use std::{path::Path, time::Duration};

/// Heads are signed once a second at most; a day without one is no schedule.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
const DEFAULT_EVERY: Duration = Duration::from_secs(60);
/// How long sessions that must be recorded go on while recordings cannot be stored.
const REFUSE_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
const DEFAULT_REFUSE_AFTER: Duration = Duration::from_secs(600);
/// From a test to a century.
const KEEP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(100 * 366 * 24 * 3600));
const RETENTION_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));
const DEFAULT_RETENTION_EVERY: Duration = Duration::from_secs(3600);
/// A file each, and a few hundred of them are listed at a time.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;
/// What a place is, when it is not said once.
const ONE_PLACE: &str = "name one of `file:`, `url:` (with `secret:`) and `objects:` for each place";

impl Checker {
    pub(super) fn evidence(
        &mut self,
        raw: &given::Evidence,
        telemetry: &given::Telemetry,
        store: &Path,
    ) -> EvidenceConfig {
        EvidenceConfig {
            checkpoints: raw.checkpoints.as_ref().and_then(|given| self.checkpoints(given)),
            recordings: raw.recordings.as_ref().map(|given| self.recordings(&given.value, store)),
            retention: raw.retention.as_ref().and_then(|given| self.retention(&given.value)),
            otlp: telemetry.otlp.as_ref().map(|given| self.otlp(&given.value)),
        }
    }

    fn checkpoints(&mut self, spanned: &Spanned<given::Checkpoints>) -> Option<Checkpoints> {
        let raw = &spanned.value;
        if raw.to.is_empty() {
            self.error(spanned.at, "evidence.checkpoints.to names no place", Some(ONE_PLACE));
            return None;
        }
        let every =
            self.bounded("evidence.checkpoints.every", raw.every.as_ref(), EVERY).unwrap_or(DEFAULT_EVERY);
        let to = raw.to.iter().filter_map(|sink| self.sink(sink)).collect();
        Some(Checkpoints { every, to })
    }

    fn sink(&mut self, spanned: &Spanned<given::Sink>) -> Option<CheckpointSink> {
        let raw = &spanned.value;
        let secret = raw.secret.as_ref().and_then(|secret| self.secret("secret", secret));
        let ca = raw.ca.as_ref().and_then(|ca| self.file_or_secret(spanned.at, "ca", ca));
        match (&raw.file, &raw.url, &raw.objects) {
            (Some(file), None, None) => Some(CheckpointSink::File(self.resolve(file))),
            (None, Some(url), None) => {
                self.http_url("url", url);
                if raw.secret.is_none() {
                    self.error(
                        url.at,
                        "a receiver has to know that a head is ours",
                        Some("set `secret:`, as for a webhook"),
                    );
                }
                Some(CheckpointSink::Url { url: url.value.clone(), secret: secret?, ca })
            }
            (None, None, Some(objects)) => Some(CheckpointSink::Objects(self.objects(&objects.value))),
            _ => {
                self.error(spanned.at, "expected one place", Some(ONE_PLACE));
                None
            }
        }
    }

    fn recordings(&mut self, raw: &given::Recordings, store: &Path) -> RecordingsConfig {
        let objects = match &raw.objects {
            Some(objects) => self.objects(&objects.value),
            None => ObjectsConfig {
                to: store.join("recordings").display().to_string(),
                ..ObjectsConfig::default()
            },
        };
        let refuse_after = raw.refuse_after.as_ref();
        let refuse_after = self.bounded("evidence.recordings.refuse_after", refuse_after, REFUSE_AFTER);
        RecordingsConfig {
            objects,
            all: raw.of.unwrap_or_default() == given::Of::All,
            refuse_after: refuse_after.unwrap_or(DEFAULT_REFUSE_AFTER),
        }
    }

    fn retention(&mut self, raw: &given::Retention) -> Option<RetentionConfig> {
        let every = self.bounded("evidence.retention.every", raw.every.as_ref(), RETENTION_EVERY);
        if let Some(bytes) = raw.segment_bytes.as_ref().filter(|bytes| !SEGMENT_BYTES.contains(&bytes.value))
        {
            let message = format!(
                "expected evidence.retention.segment_bytes from 64 KiB to 1 GiB, got {}",
                bytes.value
            );
            self.error(bytes.at, message, None);
        }
        Some(RetentionConfig {
            segment_bytes: raw.segment_bytes.as_ref().map(|bytes| bytes.value),
            keep: self.bounded("evidence.retention.keep", Some(&raw.keep), KEEP)?,
            every: every.unwrap_or(DEFAULT_RETENTION_EVERY),
            archive: raw.archive.as_ref().map(|objects| self.objects(&objects.value)),
        })
    }

    fn objects(&mut self, raw: &given::Objects) -> ObjectsConfig {
        let to = &raw.to.value;
        let is_store = |scheme: &str| {
            to.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        };
        if !to.starts_with('/') && !["s3://", "gs://", "az://"].iter().any(|scheme| is_store(scheme)) {
            let message = format!("{to:?} is no object store");
            self.error(
                raw.to.at,
                message,
                Some("write an absolute directory, s3://BUCKET/PREFIX, gs:// or az://"),
            );
        }
        if let Some(endpoint) = &raw.endpoint {
            self.http_url("endpoint", endpoint);
        }
        if let Some(lock) = raw.lock.as_ref().filter(|_| !to.starts_with("s3://")) {
            self.error(lock.at, format!("{to:?} has no object lock"), Some("`lock: required` is for s3://"));
        }
        ObjectsConfig {
            lock_required: raw.lock.is_some(),
            to: to.clone(),
            endpoint: raw.endpoint.as_ref().map(|endpoint| endpoint.value.clone()),
            region: raw.region.clone(),
            access_key: raw.access_key.clone(),
            secret_key: raw.secret_key.as_ref().and_then(|secret| self.secret("secret_key", secret)),
        }
    }

    fn otlp(&mut self, raw: &given::Otlp) -> OtlpConfig {
        self.http_url("telemetry.otlp.endpoint", &raw.endpoint);
        let sample = raw.sample.as_ref().map_or(1.0, |sample| sample.value);
        if !(0.0..=1.0).contains(&sample) {
            let at = raw.sample.as_ref().map_or(raw.endpoint.at, |sample| sample.at);
            self.error(at, format!("expected telemetry.otlp.sample from 0 to 1, got {sample}"), None);
        }
        OtlpConfig {
            endpoint: raw.endpoint.value.trim_end_matches('/').to_owned(),
            authorization: raw.authorization.as_ref().and_then(|secret| self.secret("authorization", secret)),
            ca: raw.ca.as_ref().and_then(|ca| self.file_or_secret(raw.endpoint.at, "ca", ca)),
            sample,
        }
    }

    fn http_url(&mut self, key: &str, url: &Spanned<String>) {
        if !is_http(&url.value) {
            let Position { .. } = url.at;
            self.error(url.at, format!("{key}: {:?} is not an http:// or https:// URL", url.value), None);
        }
    }
}
