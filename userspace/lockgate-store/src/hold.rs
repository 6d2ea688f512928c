//! Legal holds: what they name is kept whatever retention says. One small file each in `<dir>/holds/`, written whole.

use crate::{
    error::{During, StoreError},
    layout::Layout,
};
use lockgate_model::custody::Hold;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

/// The holds of a store.
#[derive(Clone)]
pub struct Holds {
    dir: PathBuf,
}

impl Holds {
    pub(crate) fn of(layout: &Layout) -> Self {
        Self { dir: layout.holds() }
    }

    /// Those in force, by name. One that cannot be read is an error: retention must not go on without it.
    pub fn all(&self) -> Result<Vec<Hold>, StoreError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).during("list", &self.dir),
        };
        let mut holds = Vec::new();
        for entry in entries {
            let path = entry.during("list", &self.dir)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read(&path).during("read", &path)?;
                let hold =
                    serde_json::from_slice(&text).map_err(io::Error::from).during("read the hold", &path)?;
                holds.push(hold);
            }
        }
        holds.sort_by(|one: &Hold, other| one.name.cmp(&other.name));
        Ok(holds)
    }

    /// Puts one in force, durably.
    pub fn place(&self, hold: &Hold) -> Result<(), StoreError> {
        let path = self.path(&hold.name)?;
        let temporary = path.with_extension("new");
        let write = || -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(hold)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().during("write", &path)
    }

    /// Takes one out of force; false when there is none of the name.
    pub fn release(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => {
                File::open(&self.dir).and_then(|dir| dir.sync_all()).during("sync", &self.dir).map(|()| true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).during("remove", path),
        }
    }

    /// Names come over the API: none may lead out of the directory.
    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            let why = format!("expected the name of a hold (hold_…), got {name:?}");
            return Err(StoreError::NotProven(why));
        }
        Ok(self.dir.join(format!("{name}.json")))
    }
}
