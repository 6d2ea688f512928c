//! The side connection's statements: constants, every name and operator in them qualified, so that nothing in the target's
//! schemas can stand in for a built-in.

/// What the side connection asks, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CatalogueQuery {
    /// The search path of a fresh session of the role, before it is emptied.
    SearchPath,
    /// Bounds, an empty search path, and one snapshot for all that follows.
    Begin,
    /// Relations.
    Relations,
    /// Their columns.
    Columns,
    /// What inherits from what; partitions are children too.
    Parents,
    /// Which columns a generated column is made of.
    Generated,
    /// Which columns a view's rule needs.
    ViewColumns,
    /// Names of functions that are not built in.
    Functions,
    /// Names of operators that are not built in.
    Operators,
    /// Texts of functions that are written in the database.
    FunctionTexts,
    /// Which functions a relation's triggers run.
    Triggers,
    /// Which relations have rules.
    Rules,
    /// The texts of views. Last, as it is the one that may wait for a lock: a failure leaves the rest.
    ViewTexts,
}

impl CatalogueQuery {
    /// For errors.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SearchPath => "the search path",
            Self::Begin => "the beginning",
            Self::Relations => "relations",
            Self::Columns => "columns",
            Self::Parents => "inheritance",
            Self::Generated => "generated columns",
            Self::ViewColumns => "view dependencies",
            Self::Functions => "functions",
            Self::Operators => "operators",
            Self::FunctionTexts => "function texts",
            Self::Triggers => "triggers",
            Self::Rules => "rules",
            Self::ViewTexts => "view definitions",
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
                "SELECT f.adrelid, f.adnum, d.refobjsubid \
                 FROM pg_catalog.pg_attrdef AS f \
                 JOIN pg_catalog.pg_attribute AS a \
                 ON a.attrelid OPERATOR(pg_catalog.=) f.adrelid AND a.attnum OPERATOR(pg_catalog.=) f.adnum \
                 JOIN pg_catalog.pg_depend AS d \
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
            Self::Triggers => {
                "SELECT DISTINCT t.tgrelid, p.proname FROM pg_catalog.pg_trigger AS t \
                 JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
                 WHERE NOT t.tgisinternal"
            }
            Self::Rules => {
                "SELECT DISTINCT r.ev_class FROM pg_catalog.pg_rewrite AS r \
                 WHERE r.ev_type OPERATOR(pg_catalog.<>) '1'::pg_catalog.\"char\""
            }
            Self::ViewTexts => {
                "SELECT c.oid, pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class AS c \
                 WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['v', 'm']::pg_catalog.\"char\"[])"
            }
        }
    }
}
