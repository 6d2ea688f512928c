//! Whether a bucket keeps what is put there: S3's object lock, as the service itself tells it.
//!
//! With a default retention every object is retained from the moment it is whole, however it came, and a version that is
//! retained is neither deleted nor overwritten. Without one, nothing that lockgate sends asks for it.

use super::ObjectError;
use futures_util::StreamExt as _;
use object_store::{
    aws::AmazonS3,
    path::Path as Name,
    signer::{Method, SignedUrlOptions, Signer as _},
};
use std::{fmt, time::Duration};

/// An answer is a few lines.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// The question is asked at once.
const SIGNED_FOR: Duration = Duration::from_secs(60);
/// What S3 answers for a bucket without it.
const NOT_FOUND: &str = "ObjectLockConfigurationNotFoundError";

/// What a store says of keeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectLock {
    /// Every object is retained by default.
    Retains {
        /// `COMPLIANCE` (nobody ends it) or `GOVERNANCE` (who has the right may).
        mode: String,
        /// Days, or years.
        period: String,
    },
    /// The bucket has object lock and no default retention: nothing that is put there is retained.
    NoDefault,
    /// The bucket has no object lock.
    Off,
    /// A directory, or another service than S3: there is nothing to ask.
    NotSaid,
}

impl ObjectLock {
    /// Whether what is put there stays.
    pub fn retains(&self) -> bool {
        match self {
            Self::Retains { .. } => true,
            Self::NoDefault | Self::Off | Self::NotSaid => false,
        }
    }
}

impl fmt::Display for ObjectLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retains { mode, period } => write!(f, "object lock, {mode} for {period}"),
            Self::NoDefault => f.write_str("object lock without a default retention"),
            Self::Off => f.write_str("no object lock"),
            Self::NotSaid => f.write_str("no bucket of S3"),
        }
    }
}

/// Asks `GetObjectLockConfiguration`.
pub(super) async fn ask(s3: &AmazonS3, client: &reqwest::Client) -> Result<ObjectLock, ObjectError> {
    let options = SignedUrlOptions::new().with_query([("object-lock", "")]);
    let url = s3.signed_url_opts(Method::GET, &Name::default(), SIGNED_FOR, &options).await?;
    let failed = |error: reqwest::Error| {
        // The address holds the signature.
        ObjectError::Store(format!("asked whether it has object lock: {}", chain(&error.without_url())))
    };
    let answer = client.get(url).send().await.map_err(failed)?;
    let status = answer.status();
    let mut body = Vec::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece.map_err(failed)?);
        if body.len() > MAX_ANSWER_BYTES {
            return Err(ObjectError::Store("its answer about object lock is too long".into()));
        }
    }
    let body = String::from_utf8_lossy(&body);
    if status.is_success() {
        return configuration(&body);
    }
    match text(&body, "Code") {
        Some(code) if code == NOT_FOUND => Ok(ObjectLock::Off),
        code => {
            let code = code.unwrap_or_else(|| status.to_string());
            Err(ObjectError::Store(format!(
                "asked whether it has object lock, it answered {code}; the key needs s3:GetBucketObjectLockConfiguration"
            )))
        }
    }
}

fn configuration(body: &str) -> Result<ObjectLock, ObjectError> {
    if text(body, "ObjectLockEnabled").is_none_or(|enabled| enabled != "Enabled") {
        return Ok(ObjectLock::Off);
    }
    let Some(mode) = text(body, "Mode") else { return Ok(ObjectLock::NoDefault) };
    let period = ["Days", "Years"].into_iter().find_map(|unit| {
        let number = text(body, unit)?.parse::<u32>().ok().filter(|number| *number > 0)?;
        Some(format!("{number} {}", unit.to_lowercase()))
    });
    // A mode this build knows nothing of may keep nothing.
    if mode != "COMPLIANCE" && mode != "GOVERNANCE" {
        return Err(ObjectError::Store(format!(
            "expected COMPLIANCE or GOVERNANCE as its mode of retention, got {mode:?}"
        )));
    }
    Ok(period.map_or(ObjectLock::NoDefault, |period| ObjectLock::Retains { mode, period }))
}

/// The text of the only element of a name.
fn text(body: &str, name: &str) -> Option<String> {
    let document = roxmltree::Document::parse(body).ok()?;
    let element = document.descendants().find(|node| node.tag_name().name() == name)?;
    Some(element.text()?.trim().to_owned())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_default_retention_retains() {
        const NAMESPACE: &str = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
        let rule = |inside: &str| {
            format!(
                "<?xml version=\"1.0\"?><ObjectLockConfiguration {NAMESPACE}><ObjectLockEnabled>Enabled</ObjectLockEnabled>{inside}</ObjectLockConfiguration>"
            )
        };
        let retains =
            |mode: &str, period: &str| ObjectLock::Retains { mode: mode.into(), period: period.into() };
        for (inside, expected) in [
            (
                "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>400</Days></DefaultRetention></Rule>",
                retains("COMPLIANCE", "400 days"),
            ),
            (
                "<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Years>2</Years></DefaultRetention></Rule>",
                retains("GOVERNANCE", "2 years"),
            ),
            ("", ObjectLock::NoDefault),
            ("<Rule/>", ObjectLock::NoDefault),
            (
                "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode></DefaultRetention></Rule>",
                ObjectLock::NoDefault,
            ),
            (
                "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>0</Days></DefaultRetention></Rule>",
                ObjectLock::NoDefault,
            ),
        ] {
            assert_eq!(configuration(&rule(inside)).unwrap(), expected, "{inside}");
        }
        assert!(
            configuration(&rule(
                "<Rule><DefaultRetention><Mode>NEW</Mode><Days>1</Days></DefaultRetention></Rule>"
            ))
            .is_err()
        );
        for nothing in
            ["", "<ObjectLockConfiguration/>", "not xml", "<a><ObjectLockEnabled>No</ObjectLockEnabled></a>"]
        {
            assert_eq!(configuration(nothing).unwrap(), ObjectLock::Off, "{nothing}");
        }
    }
}
