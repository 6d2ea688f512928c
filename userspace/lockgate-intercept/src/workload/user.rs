//! Names of users, from /etc/passwd alone: name services may block, and a label is not worth that.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, PoisonError},
};

const PASSWD: &str = "/etc/passwd";
/// A larger file is not read for a label.
const MAX_BYTES: u64 = 1 << 20;

/// The file as it was read last.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Inode and ctime of what was read.
    version: (u64, i64, i64),
    names: HashMap<u32, String>,
}

impl Users {
    /// The name of a uid on this host.
    pub(super) fn name_of(&self, uid: u32) -> Option<String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that cannot be read leaves the names that are known.
        if let Err(error) = known.refresh() {
            tracing::debug!(%error, "{PASSWD} cannot be read");
        }
        known.names.get(&uid).cloned()
    }
}

impl Known {
    fn refresh(&mut self) -> io::Result<()> {
        let data = std::fs::metadata(PASSWD)?;
        let version = (data.ino(), data.ctime(), data.ctime_nsec());
        if version != self.version {
            let mut text = String::new();
            File::open(PASSWD)?.take(MAX_BYTES).read_to_string(&mut text)?;
            self.names = parse(&text);
            self.version = version;
        }
        Ok(())
    }
}

fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse)) {
            // The first of several names is the one that getpwuid gives.
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_the_third_field() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\napp:x:1001:1001::/home/app:/bin/sh\nalias:x:1001:1::/:/bin/sh\n";
        let names = parse(text);
        assert_eq!(names.get(&0).map(String::as_str), Some("root"));
        assert_eq!(names.get(&1001).map(String::as_str), Some("app"));
        assert_eq!(names.get(&5), None);
    }
}
