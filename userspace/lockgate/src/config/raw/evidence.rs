//! `evidence:` and `telemetry:` as they are written.

use super::{DurationText, PathOrSecret, SecretText, Spanned};
use serde::Deserialize;

/// What becomes of the log besides being written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evidence {
    #[serde(default)]
    pub(crate) checkpoints: Option<Spanned<Checkpoints>>,
    #[serde(default)]
    pub(crate) recordings: Option<Spanned<Recordings>>,
    #[serde(default)]
    pub(crate) retention: Option<Spanned<Retention>>,
}

/// Signed heads that are sent off the host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checkpoints {
    #[serde(default)]
    pub(crate) every: Option<DurationText>,
    pub(crate) to: Vec<Spanned<Sink>>,
}

/// One place, by exactly one of the first three.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sink {
    #[serde(default)]
    pub(crate) file: Option<String>,
    #[serde(default)]
    pub(crate) url: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) objects: Option<Spanned<Objects>>,
    #[serde(default)]
    pub(crate) secret: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
}

/// An object store.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Objects {
    pub(crate) to: Spanned<String>,
    #[serde(default)]
    pub(crate) endpoint: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) region: Option<String>,
    #[serde(default)]
    pub(crate) access_key: Option<String>,
    #[serde(default)]
    pub(crate) secret_key: Option<Spanned<SecretText>>,
    /// S3: `required` stores nothing in a bucket that does not retain it.
    #[serde(default)]
    pub(crate) lock: Option<Spanned<Lock>>,
}

/// What is asked of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lock {
    Required,
}

/// Sessions as objects of their own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recordings {
    /// By default the directory `recordings` in the store.
    #[serde(default)]
    pub(crate) objects: Option<Spanned<Objects>>,
    /// `all`, or `required`: sessions on targets with the tag `record: required` alone.
    #[serde(default)]
    pub(crate) of: Option<Of>,
    #[serde(default)]
    pub(crate) refuse_after: Option<DurationText>,
}

/// Whose sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Of {
    #[default]
    All,
    Required,
}

/// How long records are kept.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    pub(crate) keep: DurationText,
    #[serde(default)]
    pub(crate) every: Option<DurationText>,
    /// Segments are removed whole: smaller ones go sooner.
    #[serde(default)]
    pub(crate) segment_bytes: Option<Spanned<u64>>,
    /// Where segments are copied to before they are removed.
    #[serde(default)]
    pub(crate) archive: Option<Spanned<Objects>>,
}

/// Traces and logs for others.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Telemetry {
    #[serde(default)]
    pub(crate) otlp: Option<Spanned<Otlp>>,
}

/// An OTLP receiver, http/protobuf.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Otlp {
    pub(crate) endpoint: Spanned<String>,
    /// A header's value, such as `Bearer …`, sent as `authorization`.
    #[serde(default)]
    pub(crate) authorization: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    /// How many of the sessions are traced, from 0 to 1.
    #[serde(default)]
    pub(crate) sample: Option<Spanned<f64>>,
}
