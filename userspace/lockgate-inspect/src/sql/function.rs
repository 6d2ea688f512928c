//! Which functions and operators change nothing. A name that is not on the list makes a statement at least a write: a
//! function can do anything, and neither text nor grammar says what.

use super::{SessionState, catalogue::CatalogueSnapshot};
use lockgate_model::sql::{SqlClass, SqlEffect};
use std::{collections::HashMap, sync::LazyLock};

/// The list, with how it was made in its head.
const BUILTINS: &str = include_str!("builtins.txt");

/// A server whose version nobody told is taken for the oldest that the list knows.
const OLDEST_MAJOR: u32 = 15;

/// What is known of a harmless function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Harmless {
    /// Returns a set: its arguments can decide how many rows come out.
    pub(super) rows: bool,
    /// Shows values of other statements or tables.
    pub(super) values: bool,
    /// Of the database's own making: it changes nothing, but can show what it likes.
    pub(super) own: bool,
    /// The majors that have it.
    since: u32,
    until: Option<u32>,
}

impl Harmless {
    /// Whether a server that is not older than this, and not newer, has it. None: nobody told which it is.
    fn is_on(self, major: Option<u32>) -> bool {
        self.since <= major.unwrap_or(OLDEST_MAJOR)
            && self.until.is_none_or(|until| major.is_some_and(|it| it <= until))
    }
}

struct Builtins {
    functions: HashMap<&'static str, Harmless>,
    operators: HashMap<&'static str, Harmless>,
}

static LIST: LazyLock<Builtins> = LazyLock::new(|| {
    let mut list = Builtins { functions: HashMap::new(), operators: HashMap::new() };
    for line in BUILTINS.lines() {
        let mut words = line.split(' ');
        let (Some(kind), Some(name)) = (words.next(), words.next()) else { continue };
        let mut harmless = Harmless::default();
        for flag in words {
            match flag.split_once('=') {
                None if flag == "rows" => harmless.rows = true,
                None if flag == "values" => harmless.values = true,
                Some(("until", number)) => harmless.until = Some(number.parse().unwrap_or(0)),
                // What is not understood is on no server.
                Some(("since", number)) => harmless.since = number.parse().unwrap_or(u32::MAX),
                _ => harmless.since = u32::MAX,
            }
        }
        match kind {
            "f" => drop(list.functions.insert(name, harmless)),
            "o" => drop(list.operators.insert(name, harmless)),
            _ => {}
        }
    }
    list
});

/// A function as called with so many arguments; None when it is not known to be harmless.
pub(super) fn harmless(
    schema: Option<&str>,
    name: &str,
    arguments: usize,
    state: &SessionState,
    catalogue: Option<&CatalogueSnapshot>,
) -> Option<Harmless> {
    match schema {
        // Its helpers are SQL functions over the catalogue (information_schema.sql); drivers call them.
        Some("information_schema") => {
            name.starts_with("_pg_").then_some(Harmless { rows: true, ..Harmless::default() })
        }
        Some("pg_catalog") => builtin(name, state),
        Some(schema) => own(catalogue, Some(schema), name, arguments, state)?.then_some(OWN),
        None if state.in_doubt(name) => None,
        None => {
            // `regtype('int4')`: a cast that looks like a call.
            let cast = || super::walk::is_builtin_type(name).then(Harmless::default);
            let builtin = builtin(name, state).or_else(cast);
            // A better match for the arguments' types wins wherever it is in the path (func_select_candidate), so
            // everything of that name counts.
            match own(catalogue, None, name, arguments, state) {
                // Where the catalogue knows of no other, it is the built-in one under every path.
                None if state.search_path.catalog_first() || catalogue.is_some() => builtin,
                None | Some(false) => None,
                Some(true) => match builtin {
                    Some(builtin) => Some(Harmless { own: true, ..builtin }),
                    None => {
                        (!catalogue.is_some_and(|catalogue| catalogue.shadows_builtin(name))).then_some(OWN)
                    }
                },
            }
        }
    }
}

/// What is known of a harmless function of the database's own: it may return many rows.
pub(super) const OWN: Harmless = Harmless { rows: true, values: false, own: true, since: 0, until: None };

/// Whether functions of this name, or a type that is called like one, are harmless; None when there is none. A call is a cast
/// with one argument alone (func_get_detail).
fn own(
    catalogue: Option<&CatalogueSnapshot>,
    schema: Option<&str>,
    name: &str,
    arguments: usize,
    state: &SessionState,
) -> Option<bool> {
    let catalogue = catalogue?;
    let types = (arguments == 1).then(|| catalogue.types_harmless(schema, name, state)).flatten();
    match (catalogue.routines_harmless(schema, name, state), types) {
        (None, types) => types,
        (routines, None) => routines,
        (Some(routines), Some(types)) => Some(routines && types),
    }
}

/// Whether a built-in function is on the list, whatever the server's version.
pub(super) fn is_listed(name: &str) -> bool {
    LIST.functions.get(name).is_some_and(|harmless| harmless.since <= OLDEST_MAJOR)
}

/// Whether a built-in function that is not volatile can be trusted where no statement calls it by name: inside an
/// aggregate, or under another name.
pub(super) fn is_inner(name: &str) -> bool {
    is_listed(name)
        || matches!(harm(name), Harm { class: SqlClass::Write, effects: [SqlEffect::UnknownFunction] })
}

/// The server's major version; the oldest that is known where nobody told.
pub(super) fn major_of(state: &SessionState) -> u32 {
    state.server_major.unwrap_or(OLDEST_MAJOR)
}

fn builtin(name: &str, state: &SessionState) -> Option<Harmless> {
    LIST.functions.get(name).copied().filter(|harmless| harmless.is_on(state.server_major))
}

/// Whether the built-in function or operator of this name returns what it is given, or what no table holds.
pub(crate) fn shows_nothing_stored(name: &str) -> bool {
    LIST.operators.contains_key(name)
        || name == "!="
        || name == "set_config"
        || RETURNS_NOTHING_STORED.contains(&name)
        || LIST.functions.get(name).is_some_and(|harmless| !harmless.values)
}

/// Whether the system has a function of this name, in any version that the list knows.
pub(crate) fn is_builtin_function(name: &str) -> bool {
    LIST.functions.contains_key(name)
}

/// Whether a built-in function that changes nothing returns one value for one row.
pub(super) fn returns_one_value(name: &str) -> bool {
    LIST.functions.get(name).is_some_and(|harmless| !harmless.rows)
}

/// The same for operators.
pub(crate) fn is_builtin_operator(name: &str) -> bool {
    LIST.operators.contains_key(name)
}

/// What an operator's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    /// A built-in one.
    Builtin,
    /// One of the database's own that changes nothing.
    Harmless,
    /// Anything.
    Unknown,
}

/// What an operator's name stands for.
pub(super) fn operator(
    schema: Option<&str>,
    name: &str,
    state: &SessionState,
    catalogue: Option<&CatalogueSnapshot>,
) -> Operator {
    // The grammar turns != into <> before names are looked up.
    let builtin =
        LIST.operators.get(name).is_some_and(|harmless| harmless.is_on(state.server_major)) || name == "!=";
    let own = |schema| catalogue.and_then(|catalogue| catalogue.operators_harmless(schema, name, state));
    let either = |known| if known { Operator::Builtin } else { Operator::Unknown };
    match schema {
        Some("pg_catalog") => either(builtin),
        Some(schema) => match own(Some(schema)) {
            Some(true) => Operator::Harmless,
            Some(false) | None => Operator::Unknown,
        },
        None if state.in_doubt(name) => Operator::Unknown,
        None => match own(None) {
            Some(true) => Operator::Harmless,
            Some(false) => Operator::Unknown,
            None => either(builtin && (state.search_path.catalog_first() || catalogue.is_some())),
        },
    }
}

/// Built-in functions that run the input function of a type that they are told by name.
pub(super) const READS_A_TYPE: [&str; 2] = ["pg_input_is_valid", "pg_input_error_info"];

/// Built-in functions that do something, but return nothing that was read from a table: what they return can be shown and
/// stored as if they were harmless.
const RETURNS_NOTHING_STORED: [&str; 24] = [
    "nextval",
    "setval",
    "setseed",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_notify",
    "txid_current",
    "pg_current_xact_id",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_shared",
    "pg_advisory_unlock_all",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_cancel_backend",
    "pg_terminate_backend",
    "pg_reload_conf",
    "pg_export_snapshot",
];

/// Whether a function off the list of harmless ones is nevertheless one that shows no stored value.
pub(super) fn returns_nothing_stored(
    schema: Option<&str>,
    name: &str,
    state: &SessionState,
    catalogue: Option<&CatalogueSnapshot>,
) -> bool {
    let meant = match schema {
        Some(schema) => schema == "pg_catalog",
        None => {
            state.search_path.catalog_first()
                && !catalogue.is_some_and(|catalogue| catalogue.has_user_function(name))
        }
    };
    meant && RETURNS_NOTHING_STORED.contains(&name)
}

/// Functions of extensions that run text, read pages or open files; together with the built-in ones of [`harm`].
const EXTENSIONS_THAT_REVEAL: [&str; 14] = [
    "crosstab",
    "crosstab2",
    "crosstab3",
    "crosstab4",
    "crosstabn",
    "connectby",
    "xpath_table",
    "dblink_fetch",
    "dblink_get_result",
    "get_raw_page",
    "heap_page_items",
    "heap_page_item_attrs",
    "tuple_data_split",
    "bt_page_items",
];

/// Whether a function of this name runs text it is given or reads where no grammar sees, so that it can show anything.
pub(crate) fn reveals(name: &str) -> bool {
    EXTENSIONS_THAT_REVEAL.contains(&name)
        || name.starts_with("pg_logical_slot_")
        || harm(name)
            .effects
            .iter()
            .any(|effect| matches!(effect, SqlEffect::DynamicSql | SqlEffect::ServerFile))
}

/// What some functions off the list are known to do, beyond "anything".
pub(super) struct Harm {
    pub(super) class: SqlClass,
    pub(super) effects: &'static [SqlEffect],
}

/// The harm that a name off the list announces.
pub(super) fn harm(name: &str) -> Harm {
    use SqlEffect::{ChangesMeaning, DynamicSql, Locks, Notifies, ServerFile, UnknownFunction, WritesRows};
    let (class, effects): (_, &[SqlEffect]) = match name {
        "query_to_xml"
        | "query_to_xmlschema"
        | "query_to_xml_and_xmlschema"
        | "cursor_to_xml"
        | "cursor_to_xmlschema"
        | "table_to_xml"
        | "table_to_xmlschema"
        | "table_to_xml_and_xmlschema"
        | "schema_to_xml"
        | "schema_to_xmlschema"
        | "schema_to_xml_and_xmlschema"
        | "database_to_xml"
        | "database_to_xmlschema"
        | "database_to_xml_and_xmlschema"
        | "ts_stat"
        | "ts_rewrite"
        | "dblink"
        | "dblink_exec"
        | "dblink_send_query"
        | "dblink_open" => (SqlClass::Write, &[UnknownFunction, DynamicSql]),
        "nextval" | "setval" => (SqlClass::Write, &[UnknownFunction, WritesRows]),
        "set_config" => (SqlClass::Write, &[UnknownFunction, ChangesMeaning]),
        "pg_notify" => (SqlClass::Write, &[UnknownFunction, Notifies]),
        "lo_import"
        | "lo_export"
        | "pg_stat_file"
        | "pg_file_write"
        | "pg_file_read"
        | "pg_file_rename"
        | "pg_file_unlink"
        | "pg_file_sync"
        | "pg_logdir_ls"
        | "pg_current_logfile"
        | "pg_hba_file_rules"
        | "pg_ident_file_mappings"
        | "pg_show_all_file_settings" => (SqlClass::Admin, &[UnknownFunction, ServerFile]),
        name if name.starts_with("pg_read_") || name.starts_with("pg_ls_") => {
            (SqlClass::Admin, &[UnknownFunction, ServerFile])
        }
        "pg_terminate_backend"
        | "pg_cancel_backend"
        | "pg_reload_conf"
        | "pg_rotate_logfile"
        | "pg_switch_wal"
        | "pg_promote"
        | "pg_create_restore_point"
        | "pg_backup_start"
        | "pg_backup_stop"
        | "pg_start_backup"
        | "pg_stop_backup"
        | "pg_wal_replay_pause"
        | "pg_wal_replay_resume"
        | "pg_log_backend_memory_contexts"
        | "pg_drop_replication_slot"
        | "pg_replication_slot_advance"
        | "pg_import_system_collations"
        | "pg_extension_config_dump"
        | "pg_nextoid" => (SqlClass::Admin, &[UnknownFunction]),
        name if name.starts_with("pg_logical_")
            || name.starts_with("pg_create_")
            || name.starts_with("pg_copy_")
            || name.starts_with("pg_replication_origin_")
            || name.starts_with("pg_stat_reset")
            || name.starts_with("binary_upgrade_") =>
        {
            (SqlClass::Admin, &[UnknownFunction])
        }
        name if name.contains("advisory") => (SqlClass::Write, &[UnknownFunction, Locks]),
        name if name.starts_with("lo_") || name == "lowrite" => {
            (SqlClass::Write, &[UnknownFunction, WritesRows])
        }
        _ => (SqlClass::Write, &[UnknownFunction]),
    };
    Harm { class, effects }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::SearchPath;

    fn check(schema: Option<&str>, name: &str, path: &SearchPath) -> bool {
        let mut state = SessionState::default();
        state.search_path.clone_from(path);
        harmless(schema, name, 1, &state, None).is_some()
    }

    #[test]
    fn names_count_as_built_in_only_where_nothing_stands_before_pg_catalog() {
        let known = |schemas: &[&str]| SearchPath::Known(schemas.iter().map(|s| (*s).to_owned()).collect());
        let table = [
            (None, "lower", SearchPath::Default, true),
            (Some("pg_catalog"), "lower", SearchPath::Unknown, true),
            (Some("public"), "lower", SearchPath::Default, false),
            (None, "lower", SearchPath::Unknown, false),
            (None, "lower", known(&["evil", "pg_catalog"]), false),
            (None, "lower", known(&["pg_catalog", "evil"]), true),
            (None, "lower", known(&["evil"]), true),
            (None, "lower", known(&["pg_temp", "pg_catalog"]), true),
            (Some("information_schema"), "_pg_expandarray", SearchPath::Default, true),
            (None, "_pg_expandarray", SearchPath::Default, false),
            (None, "my_function", SearchPath::Default, false),
        ];
        for (schema, name, path, expected) in table {
            assert_eq!(check(schema, name, &path), expected, "{schema:?}.{name} with {path:?}");
        }
    }

    #[test]
    fn functions_that_do_something_are_not_on_the_list() {
        for name in [
            "set_config",
            "pg_sleep",
            "pg_sleep_for",
            "pg_terminate_backend",
            "pg_cancel_backend",
            "lo_import",
            "lo_export",
            "lo_get",
            "lo_create",
            "loread",
            "lowrite",
            "pg_read_file",
            "pg_read_binary_file",
            "pg_ls_dir",
            "pg_stat_file",
            "query_to_xml",
            "table_to_xml",
            "schema_to_xml",
            "database_to_xml",
            "cursor_to_xml",
            "ts_stat",
            "ts_rewrite",
            "nextval",
            "setval",
            "setseed",
            "pg_notify",
            "pg_advisory_lock",
            "pg_try_advisory_lock",
            "pg_advisory_unlock",
            "pg_logical_emit_message",
            "pg_logical_slot_get_changes",
            "pg_create_restore_point",
            "pg_drop_replication_slot",
            "txid_current",
            "pg_current_xact_id",
            "pg_export_snapshot",
            "pg_reload_conf",
            "pg_rotate_logfile",
            "pg_switch_wal",
            "pg_promote",
            "pg_stat_reset",
            "pg_import_system_collations",
            "dblink",
            "dblink_exec",
            "pg_replication_origin_create",
            "binary_upgrade_set_next_pg_type_oid",
            "pg_backup_start",
            "brin_summarize_range",
            "gin_clean_pending_list",
            "unique_key_recheck",
            "pg_event_trigger_ddl_commands",
            "pg_extension_config_dump",
            "currtid2",
            "textin",
            "plpgsql_call_handler",
        ] {
            assert!(!check(Some("pg_catalog"), name, &SearchPath::Default), "{name}");
            assert!(harm(name).class.strictness() >= SqlClass::Write.strictness(), "{name}");
        }
    }

    #[test]
    fn everyday_functions_are_on_the_list() {
        for name in [
            "count",
            "sum",
            "avg",
            "min",
            "max",
            "now",
            "lower",
            "upper",
            "coalesce_is_not_one",
            "random",
            "version",
            "gen_random_uuid",
            "current_setting",
            "has_table_privilege",
            "json_build_object",
            "jsonb_agg",
            "row_to_json",
            "date_trunc",
            "extract",
            "to_char",
            "generate_series",
            "unnest",
            "array_agg",
            "string_agg",
            "regexp_replace",
            "format_type",
            "pg_get_viewdef",
            "pg_table_is_visible",
            "obj_description",
            "pg_size_pretty",
            "pg_total_relation_size",
            "row_number",
            "lag",
            "substring",
            "length",
            "md5",
            "sha256",
            "timezone",
        ] {
            assert_eq!(check(None, name, &SearchPath::Default), name != "coalesce_is_not_one", "{name}");
        }
    }

    #[test]
    fn newer_constructs_are_calls_on_older_servers() {
        use crate::sql::Inspector;
        for (sql, since) in [
            ("select json_value('{}', '$')", 17),
            ("select json_query('{}', '$')", 17),
            ("select json_exists('{}', '$')", 17),
            ("select json_scalar('a')", 17),
            ("select json_serialize('{}')", 17),
            // A cast that looks like a call.
            ("select json('{}')", 15),
            ("select json_array(1, 2)", 16),
            ("select json_object()", 15),
            ("select merge_action()", 17),
            ("select json_arrayagg(1)", 16),
            ("select json_array(select 1), json_objectagg('a' value 1)", 15),
            ("select * from json_table('{}', '$' columns (a int))", 15),
            ("with a as (select json_value('{}', '$')) select 1 from a", 17),
        ] {
            for major in [None, Some(15), Some(16), Some(17), Some(18)] {
                let mut state = SessionState::default();
                state.server_major = major;
                let reads = Inspector.script(sql, &state, None).class() == SqlClass::Read;
                assert_eq!(reads, major.unwrap_or(OLDEST_MAJOR) >= since, "{sql} on {major:?}");
            }
        }
    }

    #[test]
    fn a_built_in_that_reads_values_of_a_type_is_as_harmless_as_the_type() {
        use crate::sql::{Inspector, catalogue::CatalogueSnapshot};
        let catalogue = CatalogueSnapshot::default();
        let mut state = SessionState::default();
        state.server_major = Some(16);
        for (sql, with, without) in [
            ("select pg_input_is_valid('1', 'int4')", true, false),
            ("select * from pg_input_error_info('1', 'timestamptz')", true, false),
            ("select pg_input_is_valid('1', 'guarded')", false, false),
            ("select pg_input_is_valid('1', 'public.int4')", false, false),
            ("select pg_input_is_valid('1', 'int4, guarded')", false, false),
            ("select pg_input_is_valid('1', a) from (values ('guarded')) v(a)", false, false),
        ] {
            let reads = |catalogue| Inspector.script(sql, &state, catalogue).class() == SqlClass::Read;
            assert_eq!((reads(Some(&catalogue)), reads(None)), (with, without), "{sql}");
        }
    }

    #[test]
    fn newer_built_ins_count_only_on_newer_servers() {
        let on = |server_major| {
            let mut state = SessionState::default();
            state.server_major = server_major;
            state
        };
        assert!(harmless(None, "uuidv7", 0, &on(None), None).is_none());
        assert!(harmless(None, "uuidv7", 0, &on(Some(17)), None).is_none());
        assert!(harmless(None, "uuidv7", 0, &on(Some(18)), None).is_some());
    }
}
