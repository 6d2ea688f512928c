//! One load: a login, the queries in order, rows into [`CatalogueParts`].

use super::{CatalogueError, MAX_CATALOGUE_BYTES};
use super::{code::CodeQuery, query::CatalogueQuery, routine::Routine};
use crate::upstream::{
    Account, Connected, Credential, Endpoint, Housekeeping, SessionRequest, UpstreamError, connect,
};
use lockgate_inspect::sql::catalogue::{
    CatalogueParts, CatalogueSnapshot, FunctionCode, Relation, RelationColumn, RelationKind, TableSize,
    ViewDefinition,
};
use lockgate_wire::postgres::PgString;
use lockgate_wire::postgres::backend::{Backend, DataRow, Fields};
use lockgate_wire::postgres::frame::{FrameDecoder, Limits};
use std::{collections::HashMap, io};

/// Bytes asked for by one read.
const READ_CHUNK: usize = 64 * 1024;
/// lock_not_available (Appendix A): what a view reads is locked by somebody.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Reads all of it. Bounded in bytes here; the caller bounds the time.
pub(super) async fn load(
    endpoint: &Endpoint,
    credential: &Credential,
    database: &PgString,
) -> Result<(CatalogueSnapshot, String), CatalogueError> {
    let mut side = Side::open(endpoint, credential, database).await?;
    let mut reading = Reading::default();
    for query in [
        CatalogueQuery::SearchPath,
        CatalogueQuery::Begin,
        CatalogueQuery::Mark,
        CatalogueQuery::Relations,
        CatalogueQuery::Columns,
        CatalogueQuery::Parents,
        CatalogueQuery::Generated,
        CatalogueQuery::ViewColumns,
        CatalogueQuery::Functions,
        CatalogueQuery::Operators,
        CatalogueQuery::FunctionTexts,
        CatalogueQuery::Natives,
        CatalogueQuery::Aliases,
        CatalogueQuery::Defaults,
        CatalogueQuery::Wired,
        CatalogueQuery::ImplicitCasts,
        CatalogueQuery::Cascades,
        CatalogueQuery::Unreadable,
        CatalogueQuery::Owned,
        CatalogueQuery::TypeParts,
        CatalogueQuery::Triggers,
        CatalogueQuery::Rules,
        CatalogueQuery::Remote,
    ]
    .into_iter()
    .chain(CodeQuery::ALL.map(CatalogueQuery::Code))
    .chain([
        CatalogueQuery::ViewTexts,
        CatalogueQuery::Again,
        CatalogueQuery::GeneratedTexts,
        CatalogueQuery::Again,
        CatalogueQuery::Keys,
        CatalogueQuery::Sizes,
    ]) {
        match side.ask(query, |row| reading.take(query, row)).await {
            Ok(()) => {}
            // Without the texts a view counts by its dependencies, which is the stricter reading.
            Err(CatalogueError::Refused { query: _, sqlstate, .. })
                if matches!(query, CatalogueQuery::ViewTexts | CatalogueQuery::GeneratedTexts)
                    && sqlstate == LOCK_NOT_AVAILABLE =>
            {
                tracing::debug!("tables are locked: {} are left out of the catalogue", query.name());
            }
            // A size that is not known counts as large.
            Err(CatalogueError::Refused { query: _, sqlstate, message })
                if query == CatalogueQuery::Sizes =>
            {
                tracing::debug!(sqlstate, message, "table sizes are left out of the catalogue");
            }
            Err(error) => return Err(error),
        }
    }
    side.close().await;
    let mark = std::mem::take(&mut reading.mark);
    Ok((reading.finish(), mark))
}

/// Reads the mark alone.
pub(super) async fn mark(
    endpoint: &Endpoint,
    credential: &Credential,
    database: &PgString,
) -> Result<String, CatalogueError> {
    let mut side = Side::open(endpoint, credential, database).await?;
    let mut reading = Reading::default();
    for query in [CatalogueQuery::Begin, CatalogueQuery::Mark] {
        side.ask(query, |row| reading.take(query, row)).await?;
    }
    side.close().await;
    Ok(reading.mark)
}

/// Reads the functions by OID.
pub(super) async fn routines(
    endpoint: &Endpoint,
    credential: &Credential,
    database: &PgString,
) -> Result<HashMap<u32, Routine>, CatalogueError> {
    let mut side = Side::open(endpoint, credential, database).await?;
    side.ask(CatalogueQuery::Begin, |_| Ok(())).await?;
    let mut routines = HashMap::new();
    side.ask(CatalogueQuery::Routines, |row| {
        let routine = Routine::read(row)?;
        routines.insert(routine.oid, routine);
        Ok(())
    })
    .await?;
    side.close().await;
    Ok(routines)
}

/// The side connection.
struct Side {
    connected: Connected,
    /// Given back, if a vault made it, when this is over: its role must not be dropped before.
    _account: Account,
    budget: usize,
}

impl Side {
    async fn open(
        endpoint: &Endpoint,
        credential: &Credential,
        database: &PgString,
    ) -> Result<Self, CatalogueError> {
        let text = PgString::from_static;
        // Names are compared as UTF-8, whatever the database stores.
        let parameters = vec![
            (text("application_name"), text("lockgate catalogue")),
            (text("client_encoding"), text("UTF8")),
        ];
        let request =
            SessionRequest { database: database.clone(), parameters, session: None, replication: None };
        let account = credential.account().await.map_err(UpstreamError::from)?;
        let connected = connect(endpoint, &account, &request).await?;
        Ok(Self { connected, _account: account, budget: MAX_CATALOGUE_BYTES })
    }

    /// Runs one query to its ReadyForQuery, giving each row away as it comes.
    async fn ask(
        &mut self,
        query: CatalogueQuery,
        mut take: impl FnMut(&DataRow) -> Result<(), CatalogueError>,
    ) -> Result<(), CatalogueError> {
        let broken = |error: io::Error| CatalogueError::Io { query: query.name(), kind: error.kind() };
        self.connected.upstream.catalogue(query)?;
        self.connected.upstream.flush().await.map_err(broken)?;
        let decoder = FrameDecoder::new(Limits::SERVER);
        let mut refused = None;
        loop {
            while let Some(frame) = decoder.next(self.connected.reader.buffer())? {
                match Backend::decode(&frame)? {
                    Backend::DataRow(row) => take(&row)?,
                    Backend::ErrorResponse(report) => {
                        refused = Some(CatalogueError::Refused {
                            query: query.name(),
                            sqlstate: String::from_utf8_lossy(report.sqlstate()).into_owned(),
                            message: report.message().into_owned(),
                        });
                    }
                    Backend::ReadyForQuery(_) => return refused.map_or(Ok(()), Err),
                    // Row descriptions, completions, notices, parameters: the queries' own, known in advance.
                    _ => {}
                }
            }
            let read = self.connected.reader.fill(READ_CHUNK).await.map_err(broken)?;
            if read == 0 {
                return Err(refused.unwrap_or_else(|| broken(io::ErrorKind::UnexpectedEof.into())));
            }
            self.budget = self
                .budget
                .checked_sub(read)
                .ok_or(CatalogueError::TooLarge { limit: MAX_CATALOGUE_BYTES })?;
        }
    }

    /// Says farewell, so that the target's log does not complain; nothing depends on it.
    async fn close(mut self) {
        if self.connected.upstream.housekeeping(Housekeeping::Terminate).is_ok() {
            let _ = self.connected.upstream.shutdown().await;
        }
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    mark: String,
    parts: CatalogueParts,
    /// Where each relation is in `parts`.
    index: HashMap<u32, usize>,
}

impl Reading {
    fn take(&mut self, query: CatalogueQuery, row: &DataRow) -> Result<(), CatalogueError> {
        let mut row = Row { query: query.name(), fields: row.fields() };
        match query {
            CatalogueQuery::Begin | CatalogueQuery::Again | CatalogueQuery::Routines => {}
            CatalogueQuery::SearchPath => self.parts.search_path.push(row.text("schema")?),
            CatalogueQuery::Functions => {
                self.parts.functions.insert(row.text("name")?);
            }
            CatalogueQuery::Operators => {
                self.parts.operators.insert(row.text("name")?);
            }
            CatalogueQuery::FunctionTexts => self.parts.code.push(FunctionCode {
                name: row.text("name")?,
                language: row.text("language")?,
                text: row.text("text")?,
            }),
            CatalogueQuery::Mark => self.mark = row.text("mark")?,
            CatalogueQuery::Natives => {
                let (name, extension) = (row.text("name")?, row.optional_text("extension")?);
                self.parts.natives.push((name, extension.unwrap_or_default()));
            }
            CatalogueQuery::Aliases => {
                let (name, function) = (row.text("name")?, row.text("function")?);
                self.parts.aliases.push((name, function, row.text("system")? == "t"));
            }
            CatalogueQuery::Defaults | CatalogueQuery::GeneratedTexts => {
                let (relation, attnum) = (row.number("relation")?, row.number("attribute number")?);
                // NULL for a table that was dropped meanwhile.
                if let Some(text) = row.optional_text("expression")? {
                    self.parts.defaults.push((relation, attnum, text));
                }
            }
            CatalogueQuery::Wired => {
                let (relation, function) = (row.number("relation")?, row.text("function")?);
                self.parts.wired.entry(relation).or_default().push(function);
            }
            CatalogueQuery::ImplicitCasts => {
                self.parts.implicit_casts.insert(row.text("function")?);
            }
            CatalogueQuery::Cascades => {
                let (referred, referring) = (row.number("relation")?, row.number("referring relation")?);
                self.parts.cascades.entry(referred).or_default().push(referring);
            }
            CatalogueQuery::Code(query) => query.take(&mut row, &mut self.parts.objects)?,
            CatalogueQuery::Unreadable => {
                let column = (row.number("relation")?, row.number("attribute number")?);
                self.parts.unreadable.insert(column);
            }
            CatalogueQuery::Owned => {
                self.parts.owned.insert(row.number("relation")?);
            }
            CatalogueQuery::TypeParts => {
                let parts = (row.number("type")?, row.number("part")?, row.number("relation")?);
                self.parts.type_parts.push(parts);
            }
            CatalogueQuery::Triggers => {
                let (relation, function) = (row.number("relation")?, row.text("function")?);
                self.parts.triggers.entry(relation).or_default().push(function);
            }
            CatalogueQuery::Rules => {
                let relation = row.number("relation")?;
                let touched = (row.number("what it touches")?, row.number("attribute number")?);
                self.parts.ruled.entry(relation).or_default().push(touched);
            }
            CatalogueQuery::Remote => {
                let (relation, attnum) = (row.number("relation")?, row.number("attribute number")?);
                let (schema, table) = (row.text("schema there")?, row.text("table there")?);
                self.parts.remote.push((relation, attnum, [schema, table, row.text("column there")?]));
            }
            CatalogueQuery::Relations => self.relation(&mut row)?,
            CatalogueQuery::Columns => {
                let relation = row.number("relation")?;
                let column = RelationColumn {
                    attnum: row.number("attribute number")?,
                    name: row.text("name")?,
                    type_oid: row.number("type")?,
                    generated_from: Vec::new(),
                };
                self.with(relation, |relation| relation.columns.push(column));
            }
            CatalogueQuery::Parents => {
                let (child, parent) = (row.number("child")?, row.number("parent")?);
                self.with(child, |relation| relation.parents.push(parent));
            }
            CatalogueQuery::Generated => {
                let (relation, attnum): (u32, i16) =
                    (row.number("relation")?, row.number("attribute number")?);
                let source: i16 = row.number("source")?;
                self.with(relation, |relation| {
                    let column = relation.columns.iter_mut().find(|column| column.attnum == attnum);
                    if let Some(column) = column.filter(|column| !column.generated_from.contains(&source)) {
                        column.generated_from.push(source);
                    }
                });
            }
            CatalogueQuery::ViewColumns => {
                let view = row.number("view")?;
                let needed = (row.number("relation")?, row.number("attribute number")?);
                self.with(view, |relation| {
                    relation.view.get_or_insert_default().depends_on.push(needed);
                });
            }
            CatalogueQuery::Keys => {
                let relation = row.number("relation")?;
                // What INCLUDE adds stands behind the key and is no part of it.
                let length: usize = row.number("number of key columns")?;
                let columns = row.text("columns")?;
                let key: Result<Vec<i16>, _> = columns.split(',').take(length).map(str::parse).collect();
                let key = key.map_err(|_| row.wrong("columns", "attribute numbers", Some(columns)))?;
                self.parts.keys.entry(relation).or_default().push(key);
            }
            CatalogueQuery::Sizes => {
                let relation = row.number("relation")?;
                // NULL for one that was dropped meanwhile.
                if let (Some(bytes), Some(rows)) = (row.optional_text("bytes")?, row.optional_text("rows")?) {
                    let number = |text: String| text.parse().unwrap_or(u64::MAX);
                    let size = TableSize { rows: number(rows), bytes: number(bytes) };
                    self.parts.sizes.insert(relation, size);
                }
            }
            CatalogueQuery::ViewTexts => {
                let view = row.number("view")?;
                // NULL for a view that was dropped meanwhile.
                let text = row.optional_text("definition")?;
                self.with(view, |relation| relation.view.get_or_insert_default().text = text);
            }
        }
        Ok(())
    }

    fn relation(&mut self, row: &mut Row<'_>) -> Result<(), CatalogueError> {
        let oid = row.number("OID")?;
        let (schema, name, relkind) = (row.text("schema")?, row.text("name")?, row.text("kind")?);
        let Some(kind) = relkind.chars().next().and_then(RelationKind::from_relkind) else {
            return Err(row.wrong("kind", "a relation kind", Some(relkind)));
        };
        let shows = matches!(kind, RelationKind::View | RelationKind::MaterializedView);
        let view = shows.then(ViewDefinition::default);
        self.index.insert(oid, self.parts.relations.len());
        let (columns, parents) = (Vec::new(), Vec::new());
        self.parts.relations.push(Relation { oid, schema, name, kind, columns, parents, view });
        Ok(())
    }

    /// Kinds that are not read (indexes inherit too) have no place here.
    fn with(&mut self, oid: u32, change: impl FnOnce(&mut Relation)) {
        if let Some(relation) = self.index.get(&oid).and_then(|at| self.parts.relations.get_mut(*at)) {
            change(relation);
        }
    }

    fn finish(self) -> CatalogueSnapshot {
        CatalogueSnapshot::new(self.parts)
    }
}

/// The fields of a row, taken in order.
pub(super) struct Row<'a> {
    query: &'static str,
    fields: Fields<'a>,
}

impl<'a> Row<'a> {
    pub(super) fn new(query: CatalogueQuery, row: &'a DataRow) -> Self {
        Self { query: query.name(), fields: row.fields() }
    }
}

impl Row<'_> {
    pub(super) fn optional_text(&mut self, column: &'static str) -> Result<Option<String>, CatalogueError> {
        match self.fields.next() {
            None => Err(self.wrong(column, "a field", None)),
            Some(None) => Ok(None),
            Some(Some(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(self.wrong(column, "UTF-8", Some(String::from_utf8_lossy(bytes).into_owned()))),
            },
        }
    }

    pub(super) fn text(&mut self, column: &'static str) -> Result<String, CatalogueError> {
        self.optional_text(column)?.ok_or_else(|| self.wrong(column, "text", None))
    }

    pub(super) fn number<N: std::str::FromStr>(&mut self, column: &'static str) -> Result<N, CatalogueError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| self.wrong(column, "a number in range", Some(text)))
    }

    pub(super) fn wrong(
        &self,
        column: &'static str,
        expected: &'static str,
        got: Option<String>,
    ) -> CatalogueError {
        CatalogueError::Row { query: self.query, column, expected, got }
    }
}
