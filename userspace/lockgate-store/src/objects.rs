//! Files in an object store: a directory, S3 and what speaks like it, Google's or Azure's. What is stored is not changed
//! and not deleted from here.
//!
//! Names are made of parts that are encoded one by one: none leads out of the prefix, whatever a part holds.
//!
//! To S3 every object, and every piece of a large one, goes with its SHA-256: a bucket with object lock takes no other, and
//! what arrives damaged is refused.

mod lock;

pub use lock::ObjectLock;

use futures_util::StreamExt as _;
use lockgate_model::Secret;
use object_store::{
    ClientOptions, Error, GetResultPayload, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload,
    RetryConfig, WriteMultipart,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    path::{Path as Name, PathPart},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::io::AsyncReadExt as _;

/// Larger files go in pieces of this size: S3's least is 5 MiB, and this much is held in memory.
const PIECE_BYTES: usize = 8 << 20;
/// Pieces on their way at the same time.
const PIECES_AT_ONCE: usize = 2;
/// One request; a piece goes over a slow line in that.
const REQUEST_WITHIN: Duration = Duration::from_secs(60);
/// The store's own retries; whoever stores tries again later.
const RETRIES: usize = 2;
const RETRY_WITHIN: Duration = Duration::from_secs(30);

/// Where objects go.
#[derive(Clone, Debug, Default)]
pub struct ObjectSettings {
    /// `/absolute/directory`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.
    pub to: String,
    /// S3: another service's address.
    pub endpoint: Option<String>,
    /// S3: the region.
    pub region: Option<String>,
    /// The access key (S3), the account (Azure). None: what the environment gives the agent.
    pub access_key: Option<String>,
    /// The secret key (S3), the access key (Azure), the service account's JSON (Google).
    pub secret_key: Option<Secret<String>>,
    /// S3: nothing is stored in a bucket that does not retain it by default.
    pub lock_required: bool,
}

/// Why an object is not stored.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The address.
    #[error("expected /a/directory, s3://, gs:// or az:// with a bucket, got {0:?}")]
    Address(String),
    /// The store's words.
    #[error("{0}")]
    Store(String),
    /// The configuration demands object lock.
    #[error(
        "expected a bucket that retains what is stored (`lock: required`), got {found} at {to}; give it object lock with a default retention"
    )]
    NotRetained {
        /// The address.
        to: String,
        /// What the store says.
        found: ObjectLock,
    },
    /// The file that was to be stored.
    #[error("cannot read what was to be stored: {0}")]
    File(#[from] std::io::Error),
}

impl From<Error> for ObjectError {
    fn from(error: Error) -> Self {
        // The whole chain: the reason stands at its end.
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::Store(text)
    }
}

/// An object store, below a prefix.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Name,
    to: String,
    /// Where it is S3, to ask about the bucket.
    s3: Option<(Arc<AmazonS3>, reqwest::Client)>,
    lock_required: bool,
}

impl Objects {
    /// Opens it; nothing is asked of a store yet, a directory is made.
    pub fn open(settings: &ObjectSettings) -> Result<Self, ObjectError> {
        let address = || ObjectError::Address(settings.to.clone());
        let mut s3 = None;
        let (store, prefix): (Arc<dyn ObjectStore>, &str) = if settings.to.starts_with('/') {
            std::fs::create_dir_all(&settings.to)?;
            (Arc::new(LocalFileSystem::new_with_prefix(Path::new(&settings.to))?.with_fsync(true)), "")
        } else {
            let (scheme, rest) = settings.to.split_once("://").ok_or_else(address)?;
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(address());
            }
            let store = match scheme {
                "s3" => {
                    let store = Arc::new(amazon(bucket, settings)?);
                    s3 = Some((store.clone(), asking()?));
                    store
                }
                _ => remote(scheme, bucket, settings)?.ok_or_else(address)?,
            };
            (store, prefix)
        };
        let (to, lock_required) = (settings.to.clone(), settings.lock_required);
        Ok(Self { store, prefix: Name::from(prefix), to, s3, lock_required })
    }

    /// Whether what is stored here is retained, as the store says now.
    pub async fn lock(&self) -> Result<ObjectLock, ObjectError> {
        match &self.s3 {
            Some((store, client)) => lock::ask(store, client).await,
            None => Ok(ObjectLock::NotSaid),
        }
    }

    /// Refuses a place that keeps nothing, where one that does is demanded. Asked each time: who may, can change a bucket.
    async fn is_retained(&self) -> Result<(), ObjectError> {
        if !self.lock_required {
            return Ok(());
        }
        match self.lock().await? {
            ObjectLock::Retains { .. } => Ok(()),
            found @ (ObjectLock::NoDefault | ObjectLock::Off | ObjectLock::NotSaid) => {
                Err(ObjectError::NotRetained { to: self.to.clone(), found })
            }
        }
    }

    /// As the configuration has it.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The name that parts make, below the prefix.
    pub fn name(&self, parts: &[&str]) -> String {
        // An empty part would be none.
        let parts = parts.iter().map(|part| if part.is_empty() { "_" } else { part });
        let name = parts.fold(self.prefix.clone(), |name, part| name.join(PathPart::from(part)));
        name.to_string()
    }

    /// Stores bytes under a name that nothing has.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), ObjectError> {
        self.is_retained().await?;
        self.put_whole(name, bytes).await
    }

    async fn put_whole(&self, name: &str, bytes: Vec<u8>) -> Result<(), ObjectError> {
        let name = Name::parse(name).map_err(|error| ObjectError::Store(error.to_string()))?;
        let length = bytes.len() as u64;
        match self.store.put_opts(&name, PutPayload::from(bytes), PutMode::Create.into()).await {
            Ok(_) => Ok(()),
            // Names tell what is in them: it is there from a try that was cut off after it was stored.
            Err(Error::AlreadyExists { .. }) => self.is_there(&name, length).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a file, in pieces when it is large: memory does not grow with it.
    pub async fn put_file(&self, name: &str, file: &Path) -> Result<(), ObjectError> {
        self.is_retained().await?;
        let mut file = tokio::fs::File::open(file).await?;
        let length = file.metadata().await?.len();
        let mut piece = Vec::with_capacity(PIECE_BYTES.min(usize::try_from(length).unwrap_or(PIECE_BYTES)));
        if length <= PIECE_BYTES as u64 {
            file.read_to_end(&mut piece).await?;
            return self.put_whole(name, piece).await;
        }
        let name = Name::parse(name).map_err(|error| ObjectError::Store(error.to_string()))?;
        if self.store.head(&name).await.is_ok_and(|meta| meta.size == length) {
            return Ok(());
        }
        let mut upload =
            WriteMultipart::new_with_chunk_size(self.store.put_multipart(&name).await?, PIECE_BYTES);
        let stored = async {
            loop {
                piece.clear();
                let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).await?;
                if read == 0 {
                    return Ok(());
                }
                upload.wait_for_capacity(PIECES_AT_ONCE).await?;
                upload.write(&piece);
            }
        };
        match stored.await {
            Ok(()) => upload.finish().await.map(drop).map_err(Into::into),
            Err(error) => {
                // What is half there is no object; the store's own rules clear it up when this fails as well.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    async fn is_there(&self, name: &Name, length: u64) -> Result<(), ObjectError> {
        match self.store.head(name).await?.size {
            size if size == length => Ok(()),
            size => {
                Err(ObjectError::Store(format!("{name} is there and has {size} bytes instead of {length}")))
            }
        }
    }

    /// Reads an object, piece by piece.
    pub async fn read(&self, name: &str, each: &mut (dyn FnMut(&[u8]) + Send)) -> Result<(), ObjectError> {
        let name = Name::parse(name).map_err(|error| ObjectError::Store(error.to_string()))?;
        let found = self.store.get(&name).await?;
        match found.payload {
            GetResultPayload::File(mut file, _) => {
                use std::io::Read as _;
                let mut piece = vec![0; 1 << 16];
                loop {
                    match file.read(&mut piece)? {
                        0 => return Ok(()),
                        read => each(piece.get(..read).unwrap_or_default()),
                    }
                }
            }
            GetResultPayload::Stream(mut stream) => {
                while let Some(piece) = stream.next().await {
                    each(&piece?);
                }
                Ok(())
            }
        }
    }
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_WITHIN, ..RetryConfig::default() }
}

fn options(settings: &ObjectSettings) -> ClientOptions {
    let plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    ClientOptions::new().with_timeout(REQUEST_WITHIN).with_allow_http(plain)
}

fn secret(settings: &ObjectSettings) -> Option<String> {
    settings.secret_key.as_ref().map(|secret| secret.expose().trim().to_owned())
}

/// What asks about a bucket; an answer that leads elsewhere is none.
fn asking() -> Result<reqwest::Client, ObjectError> {
    let client =
        reqwest::Client::builder().timeout(REQUEST_WITHIN).redirect(reqwest::redirect::Policy::none());
    client.build().map_err(|error| ObjectError::Store(error.to_string()))
}

fn amazon(bucket: &str, settings: &ObjectSettings) -> Result<AmazonS3, ObjectError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(options(settings))
        .with_retry(retry())
        .with_checksum_algorithm(Checksum::SHA256);
    let given = [
        (AmazonS3ConfigKey::Endpoint, settings.endpoint.clone()),
        (AmazonS3ConfigKey::Region, settings.region.clone()),
        (AmazonS3ConfigKey::AccessKeyId, settings.access_key.clone()),
        (AmazonS3ConfigKey::SecretAccessKey, secret(settings)),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder.build()?)
}

fn remote(
    scheme: &str,
    bucket: &str,
    settings: &ObjectSettings,
) -> Result<Option<Arc<dyn ObjectStore>>, ObjectError> {
    Ok(Some(match scheme {
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(bucket)
                .with_client_options(options(settings))
                .with_retry(retry());
            if let Some(secret) = secret(settings) {
                builder = builder.with_service_account_key(secret);
            }
            Arc::new(builder.build()?)
        }
        "az" => {
            let mut builder = MicrosoftAzureBuilder::from_env()
                .with_container_name(bucket)
                .with_client_options(options(settings))
                .with_retry(retry());
            if let Some(account) = &settings.access_key {
                builder = builder.with_account(account);
            }
            if let Some(secret) = secret(settings) {
                builder = builder.with_access_key(secret);
            }
            Arc::new(builder.build()?)
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_keeps_what_is_stored_and_no_name_leads_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("objects");
        let objects =
            Objects::open(&ObjectSettings { to: to.display().to_string(), ..Default::default() }).unwrap();
        for hostile in ["../../etc", "..", "a/b", "a\u{0}b", "%2e%2e", "\\..\\", "node 1", ""] {
            let name = objects.name(&["recordings", hostile, "x.jsonl"]);
            objects.put(&name, hostile.as_bytes().to_vec()).await.unwrap();
            let mut read = Vec::new();
            objects.read(&name, &mut |piece| read.extend_from_slice(piece)).await.unwrap();
            assert_eq!(read, hostile.as_bytes());
        }
        let outside = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(outside, 1, "nothing beside the directory");
        // What is there stays: the same again is no error, another length is one.
        let name = objects.name(&["one"]);
        objects.put(&name, b"first".to_vec()).await.unwrap();
        objects.put(&name, b"first".to_vec()).await.unwrap();
        assert!(objects.put(&name, b"another".to_vec()).await.is_err());
        let large = dir.path().join("large");
        std::fs::write(&large, vec![7; 3 * PIECE_BYTES + 5]).unwrap();
        let name = objects.name(&["large"]);
        objects.put_file(&name, &large).await.unwrap();
        let mut bytes = 0;
        objects.read(&name, &mut |piece| bytes += piece.len()).await.unwrap();
        assert_eq!(bytes, 3 * PIECE_BYTES + 5);
    }

    #[test]
    fn only_what_is_a_store_is_opened() {
        for bad in ["", "relative/dir", "ftp://host/x", "s3://", "s3:///prefix"] {
            let settings = ObjectSettings { to: bad.into(), ..Default::default() };
            assert!(matches!(Objects::open(&settings), Err(ObjectError::Address(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_must_be_retained_is_stored_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("objects").display().to_string();
        let objects =
            Objects::open(&ObjectSettings { to, lock_required: true, ..Default::default() }).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"bytes").unwrap();
        let name = objects.name(&["one"]);
        let refused = [objects.put(&name, b"bytes".to_vec()).await, objects.put_file(&name, &file).await];
        for refused in refused {
            assert!(matches!(refused, Err(ObjectError::NotRetained { .. })), "{refused:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("objects")).unwrap().count(), 0);
    }
}
