//! Names of users, from /etc/passwd alone: name services may block, and a label is not worth that.

use std::{fs, io::Read as _};

/// A larger file is not read for a label.
const MAX_BYTES: u64 = 1 << 20;

/// The name of a uid on this host.
pub(super) fn name_of(uid: u32) -> Option<String> {
    let mut text = String::new();
    fs::File::open("/etc/passwd").ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    find(&text, uid)
}

fn find(text: &str, uid: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_the_third_field() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\napp:x:1001:1001::/home/app:/bin/sh\n";
        assert_eq!(find(text, 0).as_deref(), Some("root"));
        assert_eq!(find(text, 1001).as_deref(), Some("app"));
        assert_eq!(find(text, 5), None);
    }
}
