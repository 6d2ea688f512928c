//! The list of built-in functions that change nothing is what a server of the kind at hand says, by the rules of
//! `lockgate_tests::builtins`.

use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    builtins::{self, Entry, List},
    postgres::{PostgresOptions, TestPostgres},
};
use std::collections::BTreeMap;

const LIST: &str = include_str!("../../../userspace/lockgate-inspect/src/sql/builtins.txt");

#[test]
fn the_list_of_harmless_functions_is_the_server_s() -> Result<()> {
    let server = TestPostgres::start(PostgresOptions::new())?;
    let (major, names) = builtins::names(&server)?;
    let here = builtins::merged(&BTreeMap::from([(major, names.clone())]))?;
    let list = builtins::read(LIST)?;
    let of_this_major = |entry: &Entry| {
        entry.since.is_none_or(|since| since <= major) && entry.until.is_none_or(|until| until >= major)
    };
    let listed: List =
        list.iter().filter(|(_, entry)| of_this_major(entry)).map(|(k, e)| (k.clone(), *e)).collect();
    for (key, entry) in &listed {
        let found =
            here.get(key).with_context(|| format!("{key:?} is on the list, and not harmless here"))?;
        ensure!(entry.values == found.values && (entry.rows || !found.rows), "{key:?}: {entry:?}, {found:?}");
    }
    // What is harmless here and missing must be harmful on a newer server.
    for key in here.keys().filter(|key| !listed.contains_key(*key)) {
        ensure!(["interval_avg"].contains(&key.1.as_str()), "{key:?} is harmless here and not on the list");
    }
    ensure!(listed.len() > 1_500 && listed.len() < list.len(), "{} of {}", listed.len(), list.len());
    let unread = builtins::VOLATILE.iter().filter(|name| !list.contains_key(&('f', (**name).to_owned())));
    ensure!(unread.count() == 0, "a name that somebody looked at is on no server");
    Ok(())
}
