//! What a container trusts, changed from outside: its bundles and OpenSSL's directory are covered with copies that have
//! lockgate's CA as well. The image stays as it is, and the covers go with the container.
//!
//! What a program brings along itself (Node's built-in list, Python's certifi, a Java store in its own place) does not look
//! there: those read variables.

use super::{Authority, BUNDLES, HASHED, MARK, completed};
use lockgate_intercept::{Entry, MountNamespace};
use serde::Serialize;
use std::{io, path::Path};

/// What became of one path.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) path: &'static str,
    #[serde(flatten)]
    pub(crate) done: Done,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Done {
    /// It was changed.
    Changed,
    /// It was as it should be.
    Already,
    /// It could not be changed.
    Failed { error: String },
}

impl Outcome {
    /// In a word.
    pub(crate) fn state(&self) -> &'static str {
        match self.done {
            Done::Changed => "changed",
            Done::Already => "as it should be",
            Done::Failed { .. } => "failed",
        }
    }

    /// Why it could not be changed.
    pub(crate) fn error(&self) -> Option<&str> {
        match &self.done {
            Done::Failed { error } => Some(error),
            Done::Changed | Done::Already => None,
        }
    }
}

/// Has a container trust these. Nothing is said of paths that it does not have.
pub(crate) fn cover(namespace: &MountNamespace, authorities: &[Authority]) -> Vec<Outcome> {
    let directory = outcome(HASHED, cover_directory(namespace, authorities));
    let files = BUNDLES.iter().filter_map(|path| outcome(path, cover_file(namespace, path, authorities)));
    // The directory holds the first of the files.
    directory.into_iter().chain(files).collect()
}

/// Covers that may lie over one another, one for each time that something was missing: CAs come and go.
const MAX_LAYERS: usize = 64;

/// Takes the covers away again, all that lie over one another.
pub(crate) fn uncover(namespace: &MountNamespace) -> Vec<Outcome> {
    let mut all: Vec<Outcome> = Vec::new();
    for _ in 0..MAX_LAYERS {
        let layer = uncover_layer(namespace);
        let is_last = !layer.iter().any(|outcome| matches!(outcome.done, Done::Changed));
        for outcome in layer {
            // What became of a path in the end counts.
            match all.iter_mut().find(|known| known.path == outcome.path) {
                Some(known) => *known = outcome,
                None => all.push(outcome),
            }
        }
        if is_last {
            break;
        }
    }
    all
}

fn uncover_layer(namespace: &MountNamespace) -> Vec<Outcome> {
    let files = BUNDLES.iter().rev().filter_map(|path| outcome(path, uncover_file(namespace, path)));
    let mut all: Vec<Outcome> = files.collect();
    all.extend(outcome(HASHED, uncover_directory(namespace)));
    all
}

fn outcome(path: &'static str, done: io::Result<Option<Done>>) -> Option<Outcome> {
    let done = match done {
        Ok(done) => done?,
        Err(error) => Done::Failed { error: error.to_string() },
    };
    Some(Outcome { path, done })
}

fn cover_directory(namespace: &MountNamespace, authorities: &[Authority]) -> io::Result<Option<Done>> {
    let path = Path::new(HASHED);
    let Some(mut entries) = namespace.list(path)? else { return Ok(None) };
    let missing: Vec<_> =
        authorities.iter().filter(|authority| !entries.contains_key(&*file_of(authority))).collect();
    if missing.is_empty() {
        return Ok(Some(Done::Already));
    }
    for authority in missing {
        let file = file_of(authority);
        let link = (0..).map(|number| std::ffi::OsString::from(format!("{}.{number}", authority.hash())));
        if let Some(link) = link.take(entries.len() + 1).find(|link| !entries.contains_key(link)) {
            entries.insert(link, Entry::Link((&*file).into()));
        }
        entries.insert(file, Entry::File(authority.pem().as_bytes().to_vec()));
    }
    for entry in entries.values_mut() {
        if let Entry::File(content) = entry
            && is_bundle(content)
            && let Some(whole) = completed(content, authorities)
        {
            *content = whole;
        }
    }
    namespace.cover_directory(path, &entries)?;
    Ok(Some(Done::Changed))
}

fn file_of(authority: &Authority) -> std::ffi::OsString {
    format!("{}.pem", authority.file_stem()).into()
}

/// Several certificates: a file of one is the one that it is called after.
fn is_bundle(content: &[u8]) -> bool {
    let begin = b"-----BEGIN CERTIFICATE-----";
    content.windows(begin.len()).filter(|text| text == begin).take(2).count() == 2
}

fn cover_file(namespace: &MountNamespace, path: &str, authorities: &[Authority]) -> io::Result<Option<Done>> {
    let path = Path::new(path);
    let Some(bundle) = namespace.read(path)? else { return Ok(None) };
    match completed(&bundle, authorities) {
        None => Ok(Some(Done::Already)),
        Some(whole) => namespace.cover_file(path, &whole).map(|()| Some(Done::Changed)),
    }
}

fn uncover_file(namespace: &MountNamespace, path: &str) -> io::Result<Option<Done>> {
    let path = Path::new(path);
    let Some(bundle) = namespace.read(path)? else { return Ok(None) };
    if !bundle.windows(MARK.len()).any(|text| text == MARK.as_bytes()) {
        return Ok(None);
    }
    match namespace.uncover(path) {
        Ok(()) => Ok(Some(Done::Changed)),
        // It lies in the covered directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

fn uncover_directory(namespace: &MountNamespace) -> io::Result<Option<Done>> {
    let path = Path::new(HASHED);
    let Some(entries) = namespace.list(path)? else { return Ok(None) };
    let ours = entries
        .keys()
        .filter_map(|name| name.to_str())
        .any(|name| name.strip_prefix("lockgate-").is_some_and(|rest| rest.ends_with(".pem")));
    if !ours {
        return Ok(None);
    }
    namespace.uncover(path).map(|()| Some(Done::Changed))
}
