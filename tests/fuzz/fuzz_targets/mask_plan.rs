//! Masks on any statement, against a fixed catalogue: no text panics, the same question has the same answer, a column that
//! the server says is masked comes out masked, and an output or a predicate over a masked column does not pass as it is.
//!
//! The last of these is judged by a second, simpler reading of the grammar's tree, for statements over one table only.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use lockgate_inspect::{
    mask::{MaskKeys, MaskPlan, StatementMask},
    sql::{
        Inspector, SessionState,
        catalogue::{
            CatalogueParts, CatalogueSnapshot, Relation, RelationColumn, RelationKind, ViewDefinition,
        },
    },
};
use lockgate_model::{
    sql::SqlClass,
    verdict::{ColumnMask, ColumnPattern, Detector, InPredicate, MaskMethod, MaskSpec, UnknownLineage},
};
use lockgate_wire::postgres::{
    Format, PgString,
    backend::{Column, DataRow, DataRowWriter},
};
use pg_query::{NodeEnum, protobuf::SelectStmt};
use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

const CUSTOMERS: u32 = 20_001;
const COLUMNS: [&str; 4] = ["id", "name", "ssn", "card"];
const RAW: &[u8] = b"RAW-VALUE-0000";
/// Longer texts find nothing new and cost a lot.
const LONGEST: usize = 4096;

static CATALOGUE: LazyLock<Arc<CatalogueSnapshot>> = LazyLock::new(|| {
    let table = |oid, name: &str, columns: &[&str], parents: Vec<u32>| Relation {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: RelationKind::Table,
        columns: (1..)
            .zip(columns)
            .map(|(attnum, name)| RelationColumn {
                attnum,
                name: (*name).into(),
                type_oid: 25,
                generated_from: Vec::new(),
            })
            .collect(),
        parents,
        view: None,
    };
    let mut view = table(20_004, "people", &["who", "number"], Vec::new());
    view.kind = RelationKind::View;
    view.view = Some(ViewDefinition {
        text: Some("SELECT c.name AS who, c.ssn AS number FROM public.customers c".into()),
        depends_on: vec![(CUSTOMERS, 2), (CUSTOMERS, 3)],
    });
    Arc::new(CatalogueSnapshot::new(CatalogueParts {
        relations: vec![
            table(CUSTOMERS, "customers", &COLUMNS, Vec::new()),
            table(20_002, "orders", &["id", "customer_id", "note"], Vec::new()),
            table(20_003, "customers_old", &COLUMNS, vec![CUSTOMERS]),
            view,
        ],
        functions: ["mine".to_owned()].into(),
        search_path: vec!["public".into()],
        ..CatalogueParts::default()
    }))
});

fuzz_target!(|data: &[u8]| {
    let [choice, text @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    if text.len() > LONGEST {
        return;
    }
    let spec = spec(*choice);
    let plan = MaskPlan::new(&spec, CATALOGUE.clone(), &MaskKeys::new());
    let mut state = SessionState::default();
    state.standard_conforming_strings = Some(true);
    let script = Inspector.script(text, &state, Some(&CATALOGUE));
    let alone = script.statements.len() == 1;
    for statement in &script.statements {
        let (one, other) = (plan.judge(statement), plan.judge(statement));
        assert_eq!(one.as_ref().err(), other.as_ref().err());
        let touched = plan.touches(statement);
        let read = (alone && statement.class() != SqlClass::Opaque).then(|| Reading::of(text)).flatten();
        let (Ok(mask), Ok(again)) = (one, other) else { continue };
        let columns = described();
        assert_eq!(shown(&mask, &columns), shown(&again, &columns));
        // The server says which column it is: the name, and what the lineage makes of it, do not matter.
        assert_ne!(shown(&mask, &columns)[2].as_deref(), Some(RAW));
        if let Some(read) = read {
            assert!(touched, "{text}: touches what is masked");
            assert!(
                !read.in_predicate || spec.in_predicate == InPredicate::Allow,
                "{text}: a masked column in a predicate"
            );
            // As the server describes expressions: without an origin.
            let anonymous = vec![column(0, 0); read.outputs.len()];
            for (output, value) in read.outputs.iter().zip(shown(&mask, &anonymous)) {
                assert!(!output || value.as_deref() != Some(RAW), "{text}: a masked column comes out");
            }
        }
    }
});

fn spec(choice: u8) -> MaskSpec {
    let mask = |table: &str, column: &str, method| ColumnMask {
        pattern: ColumnPattern { schema: "*".into(), table: table.into(), column: column.into() },
        method,
    };
    let method = match choice & 3 {
        0 => MaskMethod::Redact,
        1 => MaskMethod::Null,
        2 => MaskMethod::Partial { keep_last: 2 },
        _ => MaskMethod::Redact,
    };
    let mut columns = vec![mask("customers", "ssn", method)];
    if choice & 4 != 0 {
        columns.push(mask("*", "note", MaskMethod::Null));
    }
    let mut detectors = BTreeSet::new();
    if choice & 8 != 0 {
        detectors.extend([Detector::Ssn, Detector::CardNumber]);
    }
    MaskSpec {
        json: Vec::new(),
        columns,
        detectors,
        on_unknown_lineage: if choice & 16 != 0 { UnknownLineage::Deny } else { UnknownLineage::Redact },
        in_expression: Default::default(),
        approval: None,
        in_predicate: if choice & 32 != 0 { InPredicate::Allow } else { InPredicate::Deny },
        rules: Vec::new(),
    }
}

/// `SELECT … FROM customers [WHERE …]`, read the short way.
struct Reading {
    /// For each output whether it is made of the masked column.
    outputs: Vec<bool>,
    /// The masked column decides which rows come.
    in_predicate: bool,
}

impl Reading {
    fn of(text: &str) -> Option<Self> {
        let parsed = pg_query::parse(text, pg_query::ParserOptions::DEFAULT).ok()?;
        let [statement] = &parsed.protobuf.stmts[..] else { return None };
        let NodeEnum::SelectStmt(select) = statement.stmt.as_ref()?.node.as_ref()? else { return None };
        plain(select).then_some(())?;
        let mut outputs = Vec::new();
        let mut masked = false;
        for target in &select.target_list {
            let NodeEnum::ResTarget(target) = target.node.as_ref()? else { return None };
            let tree = format!("{:?}", target.val);
            if tree.contains("AStar") {
                // How many columns that is, only the catalogue knows.
                return None;
            }
            outputs.push(reads_ssn(&tree));
        }
        masked |= outputs.iter().any(|output| *output);
        let tree = format!("{:?}", select.where_clause);
        let in_predicate = reads_ssn(&tree);
        (masked || in_predicate).then_some(Self { outputs, in_predicate })
    }
}

/// One table under its own name, and nothing else that could give a name another meaning.
fn plain(select: &SelectStmt) -> bool {
    let from_customers = match &select.from_clause[..] {
        [one] => match &one.node {
            Some(NodeEnum::RangeVar(table)) => {
                table.relname == "customers"
                    && table.schemaname == "public"
                    && table.catalogname.is_empty()
                    && table.alias.is_none()
            }
            _ => false,
        },
        _ => false,
    };
    let bare = select.with_clause.is_none()
        && select.into_clause.is_none()
        && select.values_lists.is_empty()
        && select.larg.is_none()
        && select.group_clause.is_empty()
        && select.having_clause.is_none()
        && select.window_clause.is_empty()
        && select.sort_clause.is_empty()
        && select.distinct_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none();
    let tree = format!("{:?} {:?}", select.target_list, select.where_clause);
    from_customers && bare && !tree.contains("SubLink") && !tree.contains("FuncCall")
}

/// Whether a reference to a column called `ssn` is in this tree.
fn reads_ssn(tree: &str) -> bool {
    tree.split("ColumnRef {").skip(1).any(|rest| {
        let fields = rest.split("location:").next().unwrap_or_default();
        // `ssn` and `customers.ssn`; more parts, or a field of a column, mean something else.
        let parts: Vec<&str> = fields.split("sval: \"").skip(1).filter_map(|s| s.split('"').next()).collect();
        matches!(parts[..], ["ssn"] | ["customers", "ssn"])
    })
}

fn column(table_oid: u32, attnum: i16) -> Column {
    Column {
        name: PgString::from_static("c"),
        table_oid,
        attnum,
        type_oid: 25,
        type_size: -1,
        type_modifier: -1,
        format: Format::Text,
    }
}

/// As the server describes `TABLE customers`.
fn described() -> Vec<Column> {
    (1..=4).map(|attnum| column(CUSTOMERS, attnum)).collect()
}

fn shown(mask: &StatementMask, columns: &[Column]) -> Vec<Option<Vec<u8>>> {
    let mut out = BytesMut::new();
    let mut writer = DataRowWriter::new(&mut out);
    columns.iter().for_each(|_| writer.field(Some(RAW)));
    writer.finish().expect("a row");
    let row = DataRow::decode(out.freeze().slice(5..)).expect("a row");
    let mut masked = BytesMut::new();
    mask.rows(columns).apply(&row, &mut masked).expect("as many fields as were described");
    let after = DataRow::decode(masked.freeze().slice(5..)).expect("a whole message");
    after.fields().map(|field| field.map(<[u8]>::to_vec)).collect()
}
