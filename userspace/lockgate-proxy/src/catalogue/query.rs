//! The side connection's statements: constants, every name and operator in them qualified, so that nothing in the target's
//! schemas can stand in for a built-in.

use super::code::CodeQuery;

/// What the side connection asks, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CatalogueQuery {
    /// The search path of a fresh session of the role, before it is emptied.
    SearchPath,
    /// Bounds, an empty search path, and one snapshot for all that follows.
    Begin,
    /// A mark that changes with every definition that masks depend on.
    Mark,
    /// Relations.
    Relations,
    /// Their columns.
    Columns,
    /// What inherits from what; partitions are children too.
    Parents,
    /// Which columns a generated column is made of; 0 where of none.
    Generated,
    /// Which columns a view's rule needs.
    ViewColumns,
    /// Names of functions that are not built in.
    Functions,
    /// Names of operators that are not built in.
    Operators,
    /// Texts of functions that are written in the database.
    FunctionTexts,
    /// Names of functions that are not written in the database, with their extensions.
    Natives,
    /// What runs functions under other names: operators, aggregates, casts, checks of domains.
    Aliases,
    /// Expressions of defaults and generated columns.
    Defaults,
    /// Expressions of generated columns. They name columns, and that takes a look at the table, which may be locked.
    GeneratedTexts,
    /// Which functions a relation hands its values to.
    Wired,
    /// Functions in the database behind implicit casts.
    ImplicitCasts,
    /// Foreign keys that change rows.
    Cascades,
    /// Columns that this role may not read.
    Unreadable,
    /// Relations of its own.
    Owned,
    /// What the database's own types are made of.
    TypeParts,
    /// The code that reading can run.
    Code(CodeQuery),
    /// Which functions a relation's triggers run.
    Triggers,
    /// Which relations have rules, and what these read and write.
    Rules,
    /// What the columns of foreign tables are called where they are.
    Remote,
    /// A new snapshot, in which a failure of the one before is forgotten.
    Again,
    /// Unique keys that hold for every row.
    Keys,
    /// How large relations are. It looks at each relation's files, so one that is locked is left out.
    Sizes,
    /// The texts of views. Last but for sizes, as it is the one that may wait for a lock: a failure leaves the rest.
    ViewTexts,
    /// Functions by OID; asked alone, when one is called by its OID.
    Routines,
}

impl CatalogueQuery {
    /// For errors.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SearchPath => "the search path",
            Self::Begin => "the beginning",
            Self::Mark => "the mark of its definitions",
            Self::Relations => "relations",
            Self::Columns => "columns",
            Self::Parents => "inheritance",
            Self::Generated => "generated columns",
            Self::ViewColumns => "view dependencies",
            Self::Functions => "functions",
            Self::Operators => "operators",
            Self::FunctionTexts => "function texts",
            Self::Natives => "functions in C",
            Self::Aliases => "operators, aggregates and casts",
            Self::Defaults => "defaults",
            Self::GeneratedTexts => "generated columns' expressions",
            Self::Wired => "functions of checks and triggers",
            Self::ImplicitCasts => "implicit casts",
            Self::Cascades => "foreign keys",
            Self::Unreadable => "column privileges",
            Self::Owned => "owners",
            Self::TypeParts => "types of rows",
            Self::Code(query) => query.name(),
            Self::Triggers => "triggers",
            Self::Rules => "rules",
            Self::Remote => "foreign tables",
            Self::ViewTexts => "view definitions",
            Self::Routines => "functions by OID",
            Self::Again => "the second part",
            Self::Keys => "unique keys",
            Self::Sizes => "table sizes",
        }
    }

    /// The statement.
    pub(crate) const fn sql(self) -> &'static str {
        match self {
            Self::SearchPath => {
                "SELECT s FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS u(s, n) ORDER BY n"
            }
            // pg_get_viewdef locks what a view reads: a job that holds an exclusive lock must not be waited for.
            Self::Begin => {
                "SET search_path = ''; SET statement_timeout = '15s'; SET lock_timeout = '500ms'; \
                 BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            }
            // Every new version of a row bears the transaction that made it. Statistics are written in place and leave no
            // trace here, and temporary relations are their session's own.
            Self::Mark => {
                "SELECT pg_catalog.concat_ws(' ', \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(c.xmin::pg_catalog.text::pg_catalog.int8)) \
                 FROM pg_catalog.pg_class AS c WHERE c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog.\"char\"), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(a.xmin::pg_catalog.text::pg_catalog.int8)) \
                 FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.attrelid \
                 WHERE c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog.\"char\"), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(p.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_proc AS p), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(r.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_rewrite AS r), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(t.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_trigger AS t), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(i.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_inherits AS i), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(o.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_operator AS o), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(k.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_cast AS k), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(n.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_namespace AS n), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(f.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_attrdef AS f), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(y.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_policy AS y), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(q.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_constraint AS q), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(u.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_db_role_setting AS u), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(w.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_amproc AS w), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(z.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_amop AS z), \
                 (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(v.xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_foreign_table AS v))"
            }
            Self::Relations => {
                "SELECT c.oid, n.nspname, c.relname, c.relkind \
                 FROM pg_catalog.pg_class AS c \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
                 WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f', 'S', 't', 'c']::pg_catalog.\"char\"[])"
            }
            Self::Columns => {
                "SELECT a.attrelid, a.attnum, a.attname, a.atttypid \
                 FROM pg_catalog.pg_attribute AS a \
                 JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.attrelid \
                 WHERE a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped \
                 AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f', 'S', 't', 'c']::pg_catalog.\"char\"[]) \
                 ORDER BY a.attrelid, a.attnum"
            }
            Self::Parents => {
                "SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits AS i ORDER BY i.inhrelid, i.inhseqno"
            }
            // PostgreSQL 15 records the dependency for the expression (pg_attrdef), older servers for the column.
            Self::Generated => {
                "SELECT f.adrelid, f.adnum, COALESCE(d.refobjsubid, 0) \
                 FROM pg_catalog.pg_attrdef AS f \
                 JOIN pg_catalog.pg_attribute AS a \
                 ON a.attrelid OPERATOR(pg_catalog.=) f.adrelid AND a.attnum OPERATOR(pg_catalog.=) f.adnum \
                 LEFT JOIN pg_catalog.pg_depend AS d \
                 ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid \
                 AND d.refobjid OPERATOR(pg_catalog.=) f.adrelid \
                 AND d.refobjsubid OPERATOR(pg_catalog.>) 0 \
                 AND d.refobjsubid OPERATOR(pg_catalog.<>) f.adnum::pg_catalog.int4 \
                 AND ((d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid \
                 AND d.objid OPERATOR(pg_catalog.=) f.oid) \
                 OR (d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid \
                 AND d.objid OPERATOR(pg_catalog.=) f.adrelid \
                 AND d.objsubid OPERATOR(pg_catalog.=) f.adnum::pg_catalog.int4)) \
                 WHERE a.attgenerated OPERATOR(pg_catalog.<>) ''::pg_catalog.\"char\""
            }
            Self::ViewColumns => {
                "SELECT DISTINCT r.ev_class, d.refobjid, d.refobjsubid \
                 FROM pg_catalog.pg_rewrite AS r \
                 JOIN pg_catalog.pg_depend AS d \
                 ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass::pg_catalog.oid \
                 AND d.objid OPERATOR(pg_catalog.=) r.oid \
                 AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid \
                 WHERE r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog.\"char\" \
                 AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class"
            }
            Self::Routines => {
                "SELECT p.oid, n.nspname, p.proname, p.prorettype::pg_catalog.oid, p.proargtypes \
                 FROM pg_catalog.pg_proc AS p \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace"
            }
            Self::Functions => {
                "SELECT DISTINCT p.proname FROM pg_catalog.pg_proc AS p \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
                 WHERE n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'information_schema']::pg_catalog.name[])"
            }
            Self::Operators => {
                "SELECT DISTINCT o.oprname FROM pg_catalog.pg_operator AS o \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace \
                 WHERE n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.name"
            }
            // Functions in C are their extension's; internal ones are built-ins under another name.
            Self::FunctionTexts => {
                "SELECT p.proname, l.lanname, pg_catalog.concat(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc, ' ', \
                 pg_catalog.pg_get_expr(p.proargdefaults, 0)) \
                 FROM pg_catalog.pg_proc AS p \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
                 JOIN pg_catalog.pg_language AS l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
                 WHERE n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'information_schema']::pg_catalog.name[]) \
                 AND l.lanname OPERATOR(pg_catalog.<>) ALL (ARRAY['c', 'internal']::pg_catalog.name[])"
            }
            Self::Natives => {
                "SELECT DISTINCT p.proname, e.extname \
                 FROM pg_catalog.pg_proc AS p \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
                 JOIN pg_catalog.pg_language AS l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
                 LEFT JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) p.oid \
                 AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid \
                 AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid \
                 AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\" \
                 LEFT JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid \
                 WHERE n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'information_schema']::pg_catalog.name[]) \
                 AND l.lanname OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'internal']::pg_catalog.name[]) \
                 AND p.prokind OPERATOR(pg_catalog.<>) 'a'::pg_catalog.\"char\""
            }
            // An aggregate runs up to five functions; a domain's check runs whatever its expression calls.
            Self::Aliases => {
                "SELECT DISTINCT a.name, p.proname, n.nspname OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.name \
                 FROM (SELECT o.oprname::pg_catalog.text AS name, o.oprcode::pg_catalog.oid AS function \
                 FROM pg_catalog.pg_operator AS o \
                 WHERE o.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
                 UNION ALL \
                 SELECT q.proname::pg_catalog.text, f.function \
                 FROM pg_catalog.pg_aggregate AS g \
                 JOIN pg_catalog.pg_proc AS q ON q.oid OPERATOR(pg_catalog.=) g.aggfnoid::pg_catalog.oid \
                 CROSS JOIN LATERAL (VALUES (g.aggtransfn::pg_catalog.oid), (g.aggfinalfn::pg_catalog.oid), \
                 (g.aggcombinefn::pg_catalog.oid), (g.aggmtransfn::pg_catalog.oid), (g.aggmfinalfn::pg_catalog.oid)) AS f(function) \
                 WHERE q.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
                 UNION ALL \
                 SELECT pg_catalog.concat('::', t.typname), c.castfunc \
                 FROM pg_catalog.pg_cast AS c \
                 JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) c.casttarget \
                 WHERE c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
                 UNION ALL \
                 SELECT pg_catalog.concat('::', t.typname), d.refobjid \
                 FROM pg_catalog.pg_constraint AS k \
                 JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) k.contypid \
                 JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) k.oid \
                 AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid \
                 AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid) AS a \
                 JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) a.function \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace"
            }
            Self::Defaults => {
                "SELECT f.adrelid, f.adnum, pg_catalog.pg_get_expr(f.adbin, 0::pg_catalog.oid) FROM pg_catalog.pg_attrdef AS f \
                 JOIN pg_catalog.pg_attribute AS a \
                 ON a.attrelid OPERATOR(pg_catalog.=) f.adrelid AND a.attnum OPERATOR(pg_catalog.=) f.adnum \
                 WHERE a.attgenerated OPERATOR(pg_catalog.=) ''::pg_catalog.\"char\""
            }
            Self::GeneratedTexts => {
                "SELECT f.adrelid, f.adnum, pg_catalog.pg_get_expr(f.adbin, f.adrelid) FROM pg_catalog.pg_attrdef AS f \
                 JOIN pg_catalog.pg_attribute AS a \
                 ON a.attrelid OPERATOR(pg_catalog.=) f.adrelid AND a.attnum OPERATOR(pg_catalog.=) f.adnum \
                 WHERE a.attgenerated OPERATOR(pg_catalog.<>) ''::pg_catalog.\"char\""
            }
            // Built-in functions leave no dependency.
            Self::Wired => {
                "SELECT DISTINCT w.relation, p.proname \
                 FROM pg_catalog.pg_depend AS d \
                 JOIN (SELECT t.tableoid AS class, t.oid AS object, t.tgrelid AS relation FROM pg_catalog.pg_trigger AS t \
                 UNION ALL SELECT k.tableoid, k.oid, k.conrelid FROM pg_catalog.pg_constraint AS k \
                 UNION ALL SELECT f.tableoid, f.oid, f.adrelid FROM pg_catalog.pg_attrdef AS f \
                 UNION ALL SELECT c.tableoid, c.oid, i.indrelid FROM pg_catalog.pg_index AS i \
                 JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid \
                 UNION ALL SELECT o.tableoid, o.oid, o.polrelid FROM pg_catalog.pg_policy AS o \
                 UNION ALL SELECT r.tableoid, r.oid, r.ev_class FROM pg_catalog.pg_rewrite AS r \
                 UNION ALL SELECT s.tableoid, s.oid, s.stxrelid FROM pg_catalog.pg_statistic_ext AS s) AS w \
                 ON d.classid OPERATOR(pg_catalog.=) w.class AND d.objid OPERATOR(pg_catalog.=) w.object \
                 JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) d.refobjid \
                 WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid \
                 AND w.relation OPERATOR(pg_catalog.<>) 0::pg_catalog.oid"
            }
            Self::ImplicitCasts => {
                "SELECT DISTINCT p.proname FROM pg_catalog.pg_cast AS c \
                 JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) c.castfunc \
                 JOIN pg_catalog.pg_language AS l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
                 WHERE c.castcontext OPERATOR(pg_catalog.=) 'i'::pg_catalog.\"char\" \
                 AND l.lanname OPERATOR(pg_catalog.<>) ALL (ARRAY['c', 'internal']::pg_catalog.name[]) \
                 AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid"
            }
            Self::Unreadable => {
                "SELECT a.attrelid, a.attnum FROM pg_catalog.pg_attribute AS a \
                 JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.attrelid \
                 WHERE a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped \
                 AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
                 AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f']::pg_catalog.\"char\"[]) \
                 AND NOT pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT'::pg_catalog.text)"
            }
            Self::Owned => {
                "SELECT c.oid FROM pg_catalog.pg_class AS c \
                 WHERE c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
                 AND pg_catalog.pg_has_role(c.relowner, 'USAGE'::pg_catalog.text)"
            }
            Self::TypeParts => {
                "SELECT t.oid, CASE WHEN t.typelem OPERATOR(pg_catalog.<>) 0::pg_catalog.oid THEN t.typelem \
                 WHEN t.typbasetype OPERATOR(pg_catalog.<>) 0::pg_catalog.oid THEN t.typbasetype \
                 ELSE COALESCE(r.rngsubtype, 0::pg_catalog.oid) END, t.typrelid \
                 FROM pg_catalog.pg_type AS t \
                 LEFT JOIN pg_catalog.pg_range AS r ON r.rngtypid OPERATOR(pg_catalog.=) t.oid \
                 WHERE t.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
                 AND (t.typelem OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
                 OR t.typbasetype OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
                 OR t.typrelid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
                 OR r.rngsubtype IS NOT NULL)"
            }
            Self::Cascades => {
                "SELECT DISTINCT k.confrelid, k.conrelid FROM pg_catalog.pg_constraint AS k \
                 WHERE k.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog.\"char\" \
                 AND (k.confdeltype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'n', 'd']::pg_catalog.\"char\"[]) \
                 OR k.confupdtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'n', 'd']::pg_catalog.\"char\"[]))"
            }
            Self::Code(query) => query.sql(),
            Self::Triggers => {
                "SELECT DISTINCT t.tgrelid, p.proname FROM pg_catalog.pg_trigger AS t \
                 JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
                 WHERE NOT t.tgisinternal"
            }
            Self::Rules => {
                "SELECT DISTINCT r.ev_class, coalesce(d.refobjid, r.ev_class), coalesce(d.refobjsubid, 0) FROM pg_catalog.pg_rewrite AS r \
                 LEFT JOIN pg_catalog.pg_depend AS d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
                 AND d.objid OPERATOR(pg_catalog.=) r.oid AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
                 WHERE r.ev_type OPERATOR(pg_catalog.<>) '1'::pg_catalog.\"char\""
            }
            // Names as postgres_fdw's options have them; where an option is missing, the name is the same there.
            Self::Remote => {
                "SELECT a.attrelid, a.attnum, \
                 coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) AS o WHERE o.option_name = 'schema_name'), n.nspname), \
                 coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) AS o WHERE o.option_name = 'table_name'), c.relname), \
                 coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(a.attfdwoptions) AS o WHERE o.option_name = 'column_name'), a.attname) \
                 FROM pg_catalog.pg_foreign_table AS f \
                 JOIN pg_catalog.pg_class AS c ON c.oid = f.ftrelid \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
                 JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.ftrelid AND a.attnum > 0 AND NOT a.attisdropped"
            }
            Self::Again => {
                // The settings were made in the transaction that BEGIN opened, and went with it.
                "ROLLBACK; SET search_path = ''; SET statement_timeout = '15s'; SET lock_timeout = '500ms'; \
                 BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            }
            Self::Keys => {
                "SELECT i.indrelid, i.indnkeyatts, pg_catalog.array_to_string(i.indkey::pg_catalog.int2[], ',') \
                 FROM pg_catalog.pg_index AS i \
                 WHERE i.indisunique AND i.indimmediate AND i.indisvalid AND i.indislive \
                 AND i.indpred IS NULL AND i.indexprs IS NULL \
                 AND i.indrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid"
            }
            // As the planner counts (estimate_rel_size in plancat.c): the density that ANALYZE found, over the pages there
            // are now. Without an ANALYZE, as many rows as a page can hold (MaxHeapTuplesPerPage).
            Self::Sizes => {
                "SELECT s.oid, pg_catalog.pg_table_size(s.oid::pg_catalog.regclass), \
                 CASE WHEN s.reltuples OPERATOR(pg_catalog.>=) 0::pg_catalog.float4 \
                 AND s.relpages OPERATOR(pg_catalog.>) 0 \
                 THEN pg_catalog.ceil(s.reltuples::pg_catalog.float8 OPERATOR(pg_catalog./) s.relpages::pg_catalog.float8 \
                 OPERATOR(pg_catalog.*) s.pages)::pg_catalog.int8 \
                 ELSE pg_catalog.ceil(s.pages OPERATOR(pg_catalog.*) s.most)::pg_catalog.int8 END \
                 FROM (SELECT c.oid, c.reltuples, c.relpages, \
                 (pg_catalog.pg_relation_size(c.oid::pg_catalog.regclass))::pg_catalog.float8 OPERATOR(pg_catalog./) \
                 pg_catalog.current_setting('block_size')::pg_catalog.float8 AS pages, \
                 pg_catalog.floor((pg_catalog.current_setting('block_size')::pg_catalog.float8 OPERATOR(pg_catalog.-) \
                 24::pg_catalog.float8) OPERATOR(pg_catalog./) 28::pg_catalog.float8) AS most \
                 FROM pg_catalog.pg_class AS c \
                 WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'm', 't']::pg_catalog.\"char\"[]) \
                 AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks AS l \
                 WHERE l.relation OPERATOR(pg_catalog.=) c.oid \
                 AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'::pg_catalog.text)) AS s"
            }
            Self::ViewTexts => {
                "SELECT c.oid, pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class AS c \
                 WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['v', 'm']::pg_catalog.\"char\"[])"
            }
        }
    }
}
