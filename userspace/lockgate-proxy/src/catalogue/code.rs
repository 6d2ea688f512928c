//! What the side connection asks about the code in a database: functions, operators, types, casts, policies. What it means
//! for a statement is `lockgate_inspect`'s business.
//!
//! These statements come after `search_path` was emptied: names and operators without a schema can only be pg_catalog's.

use super::{CatalogueError, load::Row};
use lockgate_inspect::sql::catalogue::{Argument, Code, Guard, Routine, UserCast, UserOperator, UserType};

/// Questions about code. Only what was not there when the cluster was made is asked for (FirstNormalObjectId, 16384).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeQuery {
    /// Functions, aggregates, procedures.
    Routines,
    /// Operators and their functions.
    Operators,
    /// Types, what they are made of, and what runs on their values.
    Types,
    /// Casts that run a function.
    Casts,
    /// What sorts, hashes and compares values of built-in types.
    Sorting,
    /// Expressions of row security policies.
    Policies,
    /// Functions that planning a query over a relation can run.
    Planned,
}

impl CodeQuery {
    /// In the order in which they are asked.
    pub(crate) const ALL: [Self; 7] = [
        Self::Routines,
        Self::Operators,
        Self::Types,
        Self::Casts,
        Self::Sorting,
        Self::Policies,
        Self::Planned,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Routines => "functions' code",
            Self::Operators => "operators' functions",
            Self::Types => "types",
            Self::Casts => "casts",
            Self::Sorting => "operator classes of built-in types",
            Self::Policies => "row security policies",
            Self::Planned => "functions in conditions",
        }
    }

    pub(crate) const fn sql(self) -> &'static str {
        match self {
            // Of an aggregate's functions, and of what an internal function is another name for, the built-in ones are
            // named; their volatility is told apart.
            Self::Routines => {
                "SELECT p.oid, n.nspname, p.proname, p.prokind, p.provolatile = 'v', l.lanname, \
                 coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc, ''), p.prosqlbody IS NOT NULL, \
                 coalesce(p.probin, ''), coalesce(pg_catalog.pg_get_expr(p.proargdefaults, 0), ''), \
                 pg_catalog.array_to_string(p.proconfig, E'\\x01'), \
                 (SELECT pg_catalog.string_agg(DISTINCT t::text, ' ') \
                  FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype) AS t WHERE t >= 16384), \
                 (SELECT pg_catalog.string_agg(s.oid::text, ' ') FROM pg_catalog.pg_proc AS s \
                  WHERE s.oid = ANY (inner_functions.oids) AND s.oid >= 16384), \
                 (SELECT pg_catalog.string_agg(s.proname, ' ') FROM pg_catalog.pg_proc AS s \
                  WHERE s.oid = ANY (inner_functions.oids) AND s.oid < 16384), \
                 (SELECT coalesce(pg_catalog.bool_or(s.provolatile = 'v'), false) FROM pg_catalog.pg_proc AS s \
                  WHERE s.oid = ANY (inner_functions.oids) AND s.oid < 16384), \
                 EXISTS (SELECT FROM pg_catalog.pg_proc AS s WHERE s.proname = p.proname AND s.oid < 16384), \
                 pg_catalog.array_to_string(coalesce(p.proallargtypes, p.proargtypes::oid[]), ' '), \
                 pg_catalog.array_to_string(p.proargmodes, ''), \
                 pg_catalog.array_to_string(p.proargnames, E'\\x01'), p.proisstrict, p.prosecdef \
                 FROM pg_catalog.pg_proc AS p \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace \
                 JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang \
                 CROSS JOIN LATERAL (SELECT CASE \
                  WHEN p.prokind = 'a' THEN (SELECT ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, \
                   a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[] \
                   FROM pg_catalog.pg_aggregate AS a WHERE a.aggfnoid = p.oid) \
                  WHEN l.lanname = 'internal' THEN ARRAY(SELECT b.oid FROM pg_catalog.pg_proc AS b \
                   WHERE b.oid < 16384 AND b.prolang = p.prolang AND b.prosrc = p.prosrc) \
                  ELSE ARRAY[]::oid[] END AS oids) AS inner_functions \
                 WHERE p.oid >= 16384"
            }
            Self::Operators => {
                "SELECT n.nspname, o.oprname, o.oprcode::oid, \
                 CASE WHEN o.oprcode::oid < 16384 THEN p.proname END \
                 FROM pg_catalog.pg_operator AS o \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace \
                 LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = o.oprcode \
                 WHERE o.oid >= 16384 AND o.oprcode <> 0"
            }
            // Sorting and comparing run what operator classes name.
            Self::Types => {
                "WITH of_class AS MATERIALIZED ( \
                 SELECT a.amproclefttype AS type, a.amproc::oid AS function FROM pg_catalog.pg_amproc AS a WHERE a.amproc::oid >= 16384 \
                 UNION SELECT a.amprocrighttype, a.amproc::oid FROM pg_catalog.pg_amproc AS a WHERE a.amproc::oid >= 16384 \
                 UNION SELECT a.amoplefttype, o.oprcode::oid FROM pg_catalog.pg_amop AS a \
                  JOIN pg_catalog.pg_operator AS o ON o.oid = a.amopopr WHERE o.oprcode::oid >= 16384 \
                 UNION SELECT a.amoprighttype, o.oprcode::oid FROM pg_catalog.pg_amop AS a \
                  JOIN pg_catalog.pg_operator AS o ON o.oid = a.amopopr WHERE o.oprcode::oid >= 16384) \
                 SELECT t.oid, n.nspname, t.typname, \
                 (SELECT pg_catalog.string_agg(DISTINCT part::text, ' ') FROM ( \
                  SELECT unnest(ARRAY[t.typelem, t.typbasetype]) AS part \
                  UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a \
                   WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
                  UNION ALL SELECT unnest(ARRAY[r.rngsubtype]) FROM pg_catalog.pg_range AS r WHERE r.rngtypid = t.oid \
                  UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range AS r WHERE r.rngmultitypid = t.oid) AS parts \
                  WHERE part >= 16384), \
                 (SELECT pg_catalog.string_agg(DISTINCT function::text, ' ') FROM ( \
                  SELECT unnest(ARRAY[t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout, \
                   t.typsubscript]::oid[]) AS function \
                  UNION ALL SELECT a.amproc::oid FROM pg_catalog.pg_range AS r JOIN pg_catalog.pg_opclass AS k ON k.oid = r.rngsubopc \
                   JOIN pg_catalog.pg_amproc AS a ON a.amprocfamily = k.opcfamily WHERE r.rngtypid = t.oid \
                  UNION ALL SELECT f.function FROM of_class AS f WHERE f.type = t.oid \
                  UNION ALL SELECT unnest(ARRAY[r.rngcanonical, r.rngsubdiff]::oid[]) \
                   FROM pg_catalog.pg_range AS r WHERE r.rngtypid = t.oid) AS functions WHERE function >= 16384), \
                 (SELECT pg_catalog.string_agg(coalesce(pg_catalog.pg_get_expr(k.conbin, 0), ''), E'\\x01') \
                  FROM pg_catalog.pg_constraint AS k WHERE k.contypid = t.oid AND k.contype = 'c') \
                 FROM pg_catalog.pg_type AS t \
                 JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace \
                 WHERE t.oid >= 16384"
            }
            Self::Casts => {
                "SELECT c.castsource, c.casttarget, c.castfunc, c.castcontext = 'i' FROM pg_catalog.pg_cast AS c \
                 WHERE c.oid >= 16384 AND c.castfunc <> 0"
            }
            // Some built-in types come without a default operator class (json, xml, point), and families of the system's can
            // be added to. Other classes sort where an index or a statement names them, by an operator of their own.
            Self::Sorting => {
                "WITH family AS MATERIALIZED (SELECT f.oid FROM pg_catalog.pg_opfamily AS f \
                 JOIN pg_catalog.pg_am AS m ON m.oid = f.opfmethod \
                 WHERE m.amname IN ('btree', 'hash') AND (f.oid < 16384 OR EXISTS (SELECT FROM pg_catalog.pg_opclass AS k \
                  WHERE k.opcfamily = f.oid AND k.opcdefault))) \
                 SELECT a.amproc::oid FROM pg_catalog.pg_amproc AS a JOIN family AS f ON f.oid = a.amprocfamily \
                 WHERE a.amproc::oid >= 16384 AND a.amproclefttype < 16384 AND a.amprocrighttype < 16384 \
                 UNION SELECT o.oprcode::oid FROM pg_catalog.pg_amop AS a JOIN family AS f ON f.oid = a.amopfamily \
                 JOIN pg_catalog.pg_operator AS o ON o.oid = a.amopopr \
                 WHERE o.oprcode::oid >= 16384 AND a.amoplefttype < 16384 AND a.amoprighttype < 16384"
            }
            // Their trees name every function, casts and operators included; deparsing them would wait for locks.
            Self::Policies => {
                "SELECT DISTINCT p.polrelid, f.oid, CASE WHEN f.oid < 16384 THEN f.proname END, NULL::oid, f.provolatile = 'v' \
                 FROM pg_catalog.pg_policy AS p \
                 JOIN pg_catalog.pg_class AS c ON c.oid = p.polrelid \
                 CROSS JOIN LATERAL pg_catalog.regexp_matches(pg_catalog.concat(p.polqual, p.polwithcheck), \
                  ':(?:funcid|opfuncid|aggfnoid|winfnoid|negfuncid|hashfuncid) ([0-9]+)', 'g') AS m \
                 JOIN pg_catalog.pg_proc AS f ON f.oid = m[1]::oid \
                 WHERE c.relrowsecurity \
                 UNION ALL SELECT p.polrelid, NULL, NULL, d.refobjid, false \
                 FROM pg_catalog.pg_policy AS p \
                 JOIN pg_catalog.pg_class AS c ON c.oid = p.polrelid \
                 JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid \
                 WHERE c.relrowsecurity AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> p.polrelid"
            }
            // Built-in functions leave no dependency; those that planning runs are immutable. Scanning an index, and finding the
            // partitions that a query needs, run what their operator classes name.
            Self::Planned => {
                "SELECT c.relation, a.amproc::oid FROM ( \
                 SELECT i.indrelid AS relation, unnest(i.indclass::oid[]) AS class FROM pg_catalog.pg_index AS i \
                 UNION ALL SELECT p.partrelid, unnest(p.partclass::oid[]) FROM pg_catalog.pg_partitioned_table AS p) AS c \
                 JOIN pg_catalog.pg_opclass AS k ON k.oid = c.class \
                 JOIN pg_catalog.pg_amproc AS a ON a.amprocfamily = k.opcfamily \
                 WHERE a.amproc::oid >= 16384 \
                 UNION SELECT c.relation, o.oprcode::oid FROM ( \
                 SELECT i.indrelid AS relation, unnest(i.indclass::oid[]) AS class FROM pg_catalog.pg_index AS i \
                 UNION ALL SELECT p.partrelid, unnest(p.partclass::oid[]) FROM pg_catalog.pg_partitioned_table AS p) AS c \
                 JOIN pg_catalog.pg_opclass AS k ON k.oid = c.class \
                 JOIN pg_catalog.pg_amop AS a ON a.amopfamily = k.opcfamily \
                 JOIN pg_catalog.pg_operator AS o ON o.oid = a.amopopr \
                 WHERE o.oprcode::oid >= 16384 \
                 UNION SELECT p.partrelid, d.refobjid FROM pg_catalog.pg_partitioned_table AS p \
                 JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = p.partrelid \
                 WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass AND d.refobjid >= 16384 \
                 UNION SELECT DISTINCT o.relation, d.refobjid FROM pg_catalog.pg_depend AS d \
                 JOIN (SELECT k.tableoid AS class, k.oid AS object, k.conrelid AS relation FROM pg_catalog.pg_constraint AS k \
                 UNION ALL SELECT c.tableoid, c.oid, i.indrelid FROM pg_catalog.pg_index AS i \
                 JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid \
                 UNION ALL SELECT s.tableoid, s.oid, s.stxrelid FROM pg_catalog.pg_statistic_ext AS s \
                 UNION ALL SELECT r.tableoid, r.oid, r.ev_class FROM pg_catalog.pg_rewrite AS r \
                 WHERE r.ev_type = '1') AS o \
                 ON d.classid = o.class AND d.objid = o.object \
                 WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass AND d.refobjid >= 16384 AND o.relation <> 0"
            }
        }
    }

    /// Takes one row.
    pub(super) fn take(self, row: &mut Row<'_>, code: &mut Code) -> Result<(), CatalogueError> {
        match self {
            Self::Routines => {
                let routine = Routine {
                    oid: row.number("OID")?,
                    schema: row.text("schema")?,
                    name: row.text("name")?,
                    kind: row.text("kind")?.chars().next().unwrap_or('p'),
                    volatile: row.text("volatility")? != "f",
                    language: row.text("language")?,
                    body: row.text("body")?,
                    bound: row.text("whether the body is bound")? == "t",
                    library: row.text("library")?,
                    defaults: row.text("defaults")?,
                    settings: texts(row, "settings")?,
                    types: numbers(row, "types")?,
                    support: numbers(row, "support functions")?,
                    builtin: row
                        .optional_text("built-in functions")?
                        .map(|names| names.split(' ').map(str::to_owned).collect())
                        .unwrap_or_default(),
                    builtin_volatile: row.text("volatility of built-in functions")? != "f",
                    shadows: row.text("whether it shadows")? != "f",
                    arguments: arguments(row)?,
                    strict: row.text("whether it is strict")? == "t",
                    definer: row.text("whether it runs as its owner")? != "f",
                };
                code.routines.push(routine);
            }
            Self::Operators => code.operators.push(UserOperator {
                schema: row.text("schema")?,
                name: row.text("name")?,
                function: row.number("function")?,
                builtin: row.optional_text("built-in function")?,
            }),
            Self::Types => code.types.push(UserType {
                oid: row.number("OID")?,
                schema: row.text("schema")?,
                name: row.text("name")?,
                parts: numbers(row, "parts")?,
                functions: numbers(row, "functions")?,
                checks: texts(row, "checks")?,
            }),
            Self::Casts => code.casts.push(UserCast {
                source: row.number("source")?,
                target: row.number("target")?,
                function: row.number("function")?,
                implicit: row.text("whether it is implicit")? != "f",
            }),
            Self::Sorting => code.sorting.push(row.number("function")?),
            Self::Policies => {
                let relation = row.number("relation")?;
                let function = numbers(row, "function")?.first().copied();
                let builtin = row.optional_text("built-in function")?;
                let other = numbers(row, "other relation")?.first().copied();
                let volatile = row.text("volatility")? != "f";
                let guard = match (builtin, function, other) {
                    (Some(name), ..) if volatile => Guard::Volatile(name),
                    (Some(name), ..) => Guard::Builtin(name),
                    (None, Some(oid), _) => Guard::Function(oid),
                    (None, None, Some(oid)) => Guard::Relation(oid),
                    (None, None, None) => return Ok(()),
                };
                code.policies.entry(relation).or_default().push(guard);
            }
            Self::Planned => {
                let relation = row.number("relation")?;
                code.planned.entry(relation).or_default().push(row.number("function")?);
            }
        }
        Ok(())
    }
}

/// Types, modes and names of a function's arguments. Modes and names are NULL when all are plain, or none has a name.
fn arguments(row: &mut Row<'_>) -> Result<Vec<Argument>, CatalogueError> {
    let types = numbers(row, "argument types")?;
    let modes = row.optional_text("argument modes")?.unwrap_or_default();
    let names = row.optional_text("argument names")?.unwrap_or_default();
    let mut modes = modes.chars();
    // One without a name is an empty piece.
    let mut names = names.split('\u{1}');
    let argument = |type_oid| Argument {
        name: names.next().unwrap_or_default().to_owned(),
        mode: modes.next().unwrap_or('i'),
        type_oid,
    };
    Ok(types.into_iter().map(argument).collect())
}

/// OIDs with blanks between them; NULL is none.
fn numbers(row: &mut Row<'_>, column: &'static str) -> Result<Vec<u32>, CatalogueError> {
    let text = row.optional_text(column)?.unwrap_or_default();
    text.split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().map_err(|_| row.wrong(column, "OIDs", Some(text.clone()))))
        .collect()
}

/// Texts with 0x01 between them, which none of them holds; NULL is none.
fn texts(row: &mut Row<'_>, column: &'static str) -> Result<Vec<String>, CatalogueError> {
    let text = row.optional_text(column)?.unwrap_or_default();
    Ok(text.split('\u{1}').filter(|piece| !piece.is_empty()).map(str::to_owned).collect())
}
