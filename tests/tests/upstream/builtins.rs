//! The list of built-in functions that change nothing, against a real server: what is on it exists there, and is volatile
//! only where somebody has looked at it.

use anyhow::{Result, ensure};
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use std::collections::BTreeSet;

const LIST: &str = include_str!("../../../userspace/lockgate-inspect/src/sql/builtins.txt");

/// Volatile, and on the list all the same: they return a value and change nothing.
const VOLATILE: &[&str] = &[
    "clock_timestamp",
    "timeofday",
    "random",
    "gen_random_uuid",
    "currval",
    "lastval",
    "current_query",
    "pg_database_size",
    "pg_indexes_size",
    "pg_relation_size",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pg_is_in_recovery",
    "pg_is_wal_replay_paused",
    "pg_get_wal_replay_pause_state",
    "pg_jit_available",
    "pg_blocking_pids",
    "pg_safe_snapshot_blocking_pids",
    "pg_current_wal_lsn",
    "pg_current_wal_flush_lsn",
    "pg_current_wal_insert_lsn",
    "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    "pg_partition_tree",
    "pg_partition_ancestors",
    "pg_collation_actual_version",
    "pg_database_collation_actual_version",
    "pg_notification_queue_usage",
    "pg_sequence_last_value",
    "pg_xact_commit_timestamp",
    "txid_status",
    "pg_xact_status",
    "pg_lock_status",
    "pg_prepared_xact",
    "pg_stat_have_stats",
    "pg_stat_get_xact_numscans",
    "pg_stat_get_xact_tuples_returned",
    "pg_stat_get_xact_tuples_fetched",
    "pg_stat_get_xact_tuples_inserted",
    "pg_stat_get_xact_tuples_updated",
    "pg_stat_get_xact_tuples_deleted",
    "pg_stat_get_xact_tuples_hot_updated",
    "pg_stat_get_xact_blocks_fetched",
    "pg_stat_get_xact_blocks_hit",
    "pg_stat_get_xact_function_calls",
    "pg_stat_get_xact_function_total_time",
    "pg_stat_get_xact_function_self_time",
];

#[test]
fn the_list_of_harmless_functions_is_the_server_s() -> Result<()> {
    let server = TestPostgres::start(PostgresOptions::new())?;
    let names = |query: &str| -> Result<BTreeSet<String>> {
        Ok(server.psql(query)?.lines().map(str::to_owned).collect())
    };
    let there =
        names("SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace")?;
    let volatile = names(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'v'",
    )?;
    let operators =
        names("SELECT DISTINCT oprname FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace")?;
    let major: u32 = server.psql("SHOW server_version_num")?.parse::<u32>()? / 10_000;
    for line in LIST.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split(' ');
        let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let since = words.find_map(|word| word.strip_prefix("since=")?.parse().ok()).unwrap_or(0);
        if since > major {
            continue;
        }
        match kind {
            "f" => {
                ensure!(there.contains(name), "{name} is on the list and not on PostgreSQL {major}");
                ensure!(!volatile.contains(name) || VOLATILE.contains(&name), "{name} is volatile");
            }
            "o" => ensure!(operators.contains(name), "the operator {name} is not on PostgreSQL {major}"),
            other => anyhow::bail!("{other:?} in {line:?}"),
        }
    }
    Ok(())
}
