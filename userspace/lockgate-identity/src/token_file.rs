//! A file with a token that somebody else renews.

use lockgate_model::Secret;
use std::path::PathBuf;
use tokio::io::AsyncReadExt as _;

/// More is another file.
const MAX_BYTES: u64 = 16 * 1024;

/// Read each time it is needed.
#[derive(Clone, Debug)]
pub(crate) struct TokenFile(PathBuf);

impl TokenFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) async fn read(&self) -> Result<Secret<String>, String> {
        let read = async {
            let mut text = String::new();
            tokio::fs::File::open(&self.0).await?.take(MAX_BYTES).read_to_string(&mut text).await?;
            let trimmed = text.trim().len();
            text.truncate(trimmed);
            Ok::<_, std::io::Error>(Secret::new(text))
        };
        read.await.map_err(|error| format!("{} cannot be read: {error}", self.0.display()))
    }
}
