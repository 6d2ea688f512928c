//! Which functions and operators of `pg_catalog` change nothing: worked out on running servers of several majors, into the
//! list that lockgate-inspect carries (`builtins.txt`). `cargo xtask builtins` writes it; a test compares it with the
//! server at hand. The judgement on single functions stands here, with its reason; nothing is taken from a server's word
//! alone where somebody has to have looked.

use crate::postgres::TestPostgres;
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// Every function name with what its overloads have in common, and every operator name. Functions that only the server's
/// own machinery can call (they take or return what no statement can write) are no concern.
const QUERY: &str = "
    SELECT 'f', proname, bool_and(provolatile <> 'v'), bool_or(proretset),
        bool_or(EXISTS (SELECT FROM unnest(proargtypes::oid[] || prorettype) AS t WHERE t = ANY (
            '{internal,cstring,trigger,event_trigger,language_handler,fdw_handler,index_am_handler,tsm_handler,table_am_handler}'
            ::regtype[]::oid[])))
    FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY proname
    UNION ALL
    SELECT DISTINCT 'o', oprname, true, false, false FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace
    ORDER BY 1, 2";

/// Volatile, and harmless all the same: each returns a value and changes nothing. What is volatile and missing here does
/// something, reads files, or has not been looked at.
pub const VOLATILE: &[&str] = &[
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "currval",
    "current_query",
    "gen_random_uuid",
    "lastval",
    "pg_available_wal_summaries",
    "pg_blocking_pids",
    "pg_collation_actual_version",
    "pg_control_checkpoint",
    "pg_control_init",
    "pg_control_recovery",
    "pg_control_system",
    "pg_current_wal_flush_lsn",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_lsn",
    "pg_database_collation_actual_version",
    "pg_database_size",
    "pg_get_aios",
    "pg_get_backend_memory_contexts",
    "pg_get_loaded_modules",
    "pg_get_multixact_members",
    "pg_get_sequence_data",
    "pg_get_shmem_allocations",
    "pg_get_wait_events",
    "pg_get_wal_replay_pause_state",
    "pg_get_wal_resource_managers",
    "pg_get_wal_summarizer_state",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_is_wal_replay_paused",
    "pg_jit_available",
    "pg_last_committed_xact",
    "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    "pg_lock_status",
    "pg_notification_queue_usage",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_prepared_xact",
    "pg_relation_size",
    "pg_safe_snapshot_blocking_pids",
    "pg_sequence_last_value",
    "pg_show_replication_origin_status",
    "pg_stat_get_backend_io",
    "pg_stat_get_backend_wal",
    "pg_stat_get_io",
    "pg_stat_get_recovery_prefetch",
    "pg_stat_get_xact_blocks_fetched",
    "pg_stat_get_xact_blocks_hit",
    "pg_stat_get_xact_function_calls",
    "pg_stat_get_xact_function_self_time",
    "pg_stat_get_xact_function_total_time",
    "pg_stat_get_xact_numscans",
    "pg_stat_get_xact_tuples_deleted",
    "pg_stat_get_xact_tuples_fetched",
    "pg_stat_get_xact_tuples_hot_updated",
    "pg_stat_get_xact_tuples_inserted",
    "pg_stat_get_xact_tuples_newpage_updated",
    "pg_stat_get_xact_tuples_returned",
    "pg_stat_get_xact_tuples_updated",
    "pg_stat_have_stats",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pg_xact_commit_timestamp",
    "pg_xact_commit_timestamp_origin",
    "pg_xact_status",
    "random",
    "random_normal",
    "timeofday",
    "txid_status",
    "uuidv4",
    "uuidv7",
];

/// Said to be stable or immutable, and not harmless: they take a transaction id, or (by [`is_excluded`]) run queries.
const EXCLUDED: &[&str] = &["pg_current_xact_id", "txid_current"];

fn is_excluded(name: &str) -> bool {
    EXCLUDED.contains(&name)
        || name.contains("_to_xml")
        || name.starts_with("pg_event_trigger")
        || name.starts_with("binary_upgrade")
        || name.ends_with("_validator")
}

/// They show values of other statements or tables.
const VALUES: &[&str] = &[
    "current_query",
    "pg_cursor",
    "pg_mcv_list_items",
    "pg_prepared_statement",
    "pg_stat_get_activity",
    "pg_stat_get_backend_activity",
];

/// What is said of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Returns a set.
    pub rows: bool,
    /// Shows values of other statements or tables.
    pub values: bool,
    /// The first of the majors that has it; None for those that the oldest has.
    pub since: Option<u32>,
    /// The last of the majors that has it; None for those that the newest has.
    pub until: Option<u32>,
}

/// The list: functions (`f`) and operators (`o`) by name.
pub type List = BTreeMap<(char, String), Entry>;

/// What one server has: of every name whether it is harmless, and whether it returns a set.
type Names = BTreeMap<(char, String), (bool, bool)>;

/// Asks one server.
pub fn names(server: &TestPostgres) -> Result<(u32, Names)> {
    let major = server.psql("SHOW server_version_num")?.parse::<u32>()? / 10_000;
    let mut names = Names::new();
    for line in server.psql(QUERY)?.lines() {
        // An operator may hold the separator.
        let mut fields = line.rsplitn(4, '|');
        let [plumbing, rows, stable] = std::array::from_fn(|_| fields.next() == Some("t"));
        let (kind, name) = fields.next().and_then(|rest| rest.split_once('|')).context("a row of five")?;
        let harmless = match kind {
            "o" => true,
            _ => !is_excluded(name) && (stable && !plumbing || VOLATILE.contains(&name)),
        };
        names.insert((if kind == "o" { 'o' } else { 'f' }, name.to_owned()), (harmless, rows));
    }
    ensure!(names.len() > 2_000, "PostgreSQL {major} named only {} functions and operators", names.len());
    Ok((major, names))
}

/// One list of what all these servers have: a name counts when it is harmless wherever it exists.
pub fn merged(servers: &BTreeMap<u32, Names>) -> Result<List> {
    let (Some(oldest), Some(newest)) = (servers.keys().next(), servers.keys().next_back()) else {
        bail!("no server was asked")
    };
    let all: BTreeSet<_> = servers.values().flat_map(BTreeMap::keys).collect();
    let mut list = List::new();
    for key in all {
        let there: Vec<_> =
            servers.iter().filter_map(|(major, names)| Some((*major, *names.get(key)?))).collect();
        let (Some(first), Some(last)) = (there.first(), there.last()) else { continue };
        if !there.iter().all(|(_, (harmless, _))| *harmless) {
            continue;
        }
        let entry = Entry {
            rows: there.iter().any(|(_, (_, rows))| *rows),
            values: key.0 == 'f' && VALUES.contains(&key.1.as_str()),
            since: (first.0 != *oldest).then_some(first.0),
            until: (last.0 != *newest).then_some(last.0),
        };
        list.insert(key.clone(), entry);
    }
    Ok(list)
}

/// The file.
pub fn written(list: &List, versions: &[String]) -> Result<String> {
    let mut out = format!(
        "# Functions (f) and operators (o) of pg_catalog that change nothing, by name: every overload of the name is harmless.\n\
         #   rows:    returns a set, so its arguments can decide how many rows come out\n\
         #   values:  shows values of other statements or tables\n\
         #   since=N: not a built-in before that major version\n\
         #   until=N: not a built-in after it\n\
         # Without since it is there from the oldest of the servers below on, without until to the newest.\n\
         #\n\
         # Written by `cargo xtask builtins` from PostgreSQL {}. Do not edit: the judgement on single\n\
         # functions stands in tests/src/builtins.rs.\n",
        versions.join(", ")
    );
    for ((kind, name), entry) in list {
        write!(out, "{kind} {name}")?;
        for (flag, word) in [(entry.rows, " rows"), (entry.values, " values")] {
            out.push_str(if flag { word } else { "" });
        }
        for (major, word) in [(entry.since, "since"), (entry.until, "until")] {
            if let Some(major) = major {
                write!(out, " {word}={major}")?;
            }
        }
        out.push('\n');
    }
    Ok(out)
}

/// The file, read.
pub fn read(text: &str) -> Result<List> {
    let mut list = List::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split(' ');
        let kind = match words.next() {
            Some("f") => 'f',
            Some("o") => 'o',
            _ => bail!("neither f nor o: {line}"),
        };
        let name = words.next().context("a name")?.to_owned();
        let mut entry = Entry::default();
        for word in words {
            match word.split_once('=') {
                None if word == "rows" => entry.rows = true,
                None if word == "values" => entry.values = true,
                Some(("since", major)) => entry.since = Some(major.parse()?),
                Some(("until", major)) => entry.until = Some(major.parse()?),
                _ => bail!("{word:?} in {line:?}"),
            }
        }
        ensure!(list.insert((kind, name), entry).is_none(), "twice: {line}");
    }
    Ok(list)
}
