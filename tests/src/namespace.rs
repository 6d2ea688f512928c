//! Whether this process was started apart from the machine, as suites are that make bridges, rules and mounts.

use std::{fs, io, path::Path};

/// Whether this process is in another namespace of that kind (`net`, `mnt`) than who started it.
///
/// # Errors
/// When /proc cannot be read.
pub fn is_apart(kind: &str) -> io::Result<bool> {
    let parent = std::os::unix::process::parent_id();
    let of = |process: &str| fs::read_link(Path::new("/proc").join(process).join("ns").join(kind));
    Ok(of("self")? != of(&parent.to_string())?)
}
