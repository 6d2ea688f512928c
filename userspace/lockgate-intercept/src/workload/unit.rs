//! The invocation id of a unit of the system manager: which start of it this is.
//!
//! systemd also writes it to the unit's cgroup as an extended attribute, but where the cgroup is delegated
//! that is a file of the workload's own, which it may write. The link in /run is systemd's alone.

use std::{fs, path::Path};

/// Where the system manager keeps one link per running unit: `invocation:NAME` → the id
/// (systemd's src/core/unit.c, `unit_export_invocation_id`).
const UNITS: &str = "/run/systemd/units";

/// The id of the unit that runs under this name now. `None` where no systemd says so.
pub(super) fn invocation_id(unit: &str) -> Option<String> {
    read(Path::new(UNITS), unit)
}

fn read(directory: &Path, unit: &str) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let data = fs::symlink_metadata(directory).ok()?;
    let is_roots = data.uid() == 0 && data.mode() & 0o022 == 0;
    if !is_roots || !is_file_name(unit) {
        return None;
    }
    let id = fs::read_link(directory.join(format!("invocation:{unit}"))).ok()?;
    let id = id.to_str()?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

fn is_file_name(unit: &str) -> bool {
    !unit.is_empty() && !unit.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn an_id_is_believed_from_a_directory_of_roots_only() {
        const ID: &str = "0123456789abcdef0123456789abcdef";
        let directory = tempfile::tempdir().unwrap();
        symlink(ID, directory.path().join("invocation:backup.service")).unwrap();
        symlink("../../x", directory.path().join("invocation:odd.service")).unwrap();
        let mode = |mode| fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o755);
        // These tests may run as anybody; only root's directory is believed.
        let expected = rustix::process::geteuid().is_root().then_some(ID);
        assert_eq!(read(directory.path(), "backup.service").as_deref(), expected);
        for unit in ["odd.service", "none.service", "../backup.service", ""] {
            assert_eq!(read(directory.path(), unit), None, "{unit}");
        }
        mode(0o777);
        assert_eq!(read(directory.path(), "backup.service"), None);
    }
}
