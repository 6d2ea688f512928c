//! The `mask:` and `record:` blocks.

use super::Compiler;
use crate::{
    SourceFile,
    document::{Mask, MaskColumn, Method, Rule as RuleBlock, RuleMode},
    rule::RecordRule,
    yaml::Spanned,
};
use lockgate_model::{
    id::RuleId,
    verdict::{ColumnMask, ColumnPattern, InPredicate, MaskMethod, MaskSpec, ResultLimit, UnknownLineage},
};

/// A longer tail is not masking.
const MAX_KEEP_LAST: u32 = 16;
/// What `partial` keeps when it does not say.
const DEFAULT_KEEP_LAST: u32 = 4;

/// What a rule asks whatever its effect.
pub(super) struct Obligation {
    pub(super) mask: Option<MaskSpec>,
    pub(super) record: Option<RecordRule>,
    pub(super) limits: Vec<ResultLimit>,
}

impl Compiler {
    pub(super) fn obligation(&mut self, file: &SourceFile, block: &Spanned<RuleBlock>) -> Obligation {
        let mask = block.mask.as_ref().map(|mask| self.mask(file, &block.id.value, mask));
        let record = block.record.as_ref().map(|record| RecordRule {
            statements: record.statements.map(|statements| statements.0),
            results: record.results.map(|results| results.0),
            sync: record.sync,
            retain: record.retain.map(|retain| retain.value),
        });
        if let Some(retain) = block.record.as_ref().and_then(|record| record.retain) {
            let message = format!(
                "rule `{}`: `retain` is written into each record and not acted on by this version: nothing is deleted",
                block.id.value
            );
            self.report.warn(file, retain.at, message);
        }
        let limits = self.limits(file, block);
        let does_nothing = block.effect.value == crate::document::RuleEffect::None
            && mask.is_none()
            && record.is_none()
            && limits.is_empty()
            && block.login_as.is_none()
            && block.mode != RuleMode::Off;
        if does_nothing {
            let message = "`effect: none` without `mask:`, `record:` or `limits:` only marks what it matches in the record";
            self.report.warn(file, block.effect.at, message);
        }
        Obligation { mask, record, limits }
    }

    fn limits(&mut self, file: &SourceFile, block: &Spanned<RuleBlock>) -> Vec<ResultLimit> {
        let mut limits: Vec<ResultLimit> = Vec::new();
        for limit in block.limits.iter().flat_map(|limits| &limits.0) {
            if limit.rows.is_none() && limit.bytes.is_none() {
                let help = Some("write `rows:`, `bytes:` or both".to_owned());
                self.report.error(file, limit.at, "`limits:` limits nothing", help);
                continue;
            }
            let per = limit.per.map(|per| per.0).unwrap_or_default();
            if limits.iter().any(|known| known.per == per) {
                let message = format!("`limits:` has two blocks per {}; make one of them", per.as_str());
                self.report.error(file, limit.at, message, None);
                continue;
            }
            limits.push(ResultLimit {
                rule: RuleId::from(block.id.value.as_str()),
                per,
                rows: limit.rows,
                bytes: limit.bytes.map(|bytes| bytes.0),
                remedy: block
                    .message
                    .clone()
                    .or_else(|| block.remedy_url.as_ref().map(|url| format!("see {url}"))),
            });
        }
        limits
    }

    fn mask(&mut self, file: &SourceFile, id: &str, mask: &Spanned<Mask>) -> MaskSpec {
        if mask.columns.is_empty() && mask.detectors.is_empty() {
            self.report.error(file, mask.at, "`mask:` names neither columns nor detectors", None);
        }
        if let Some(from) = &mask.unmask_for {
            self.lenient_voters(file, from.at, &from.value);
            let message = format!(
                "rule `{id}`: `unmask_for` is not acted on by this version: no workload is in a group, so nothing \
                 is unmasked"
            );
            self.report.warn(file, from.at, message);
        }
        MaskSpec {
            columns: mask.columns.iter().filter_map(|column| self.column(file, column)).collect(),
            detectors: mask.detectors.iter().map(|detector| detector.0).collect(),
            on_unknown_lineage: mask.on_unknown_lineage.map_or(UnknownLineage::Redact, |lineage| lineage.0),
            in_predicate: mask.in_predicate.map_or(InPredicate::Deny, |predicate| predicate.0),
            in_expression: mask.in_expression.map(|expression| expression.0).unwrap_or_default(),
            approval: None,
            rules: vec![RuleId::from(id)],
        }
    }

    fn column(&mut self, file: &SourceFile, column: &Spanned<MaskColumn>) -> Option<ColumnMask> {
        let pattern = match column_pattern(&column.pattern.value) {
            Ok(pattern) => pattern,
            Err(message) => {
                let help = Some("write `schema.table.column`, each a glob of `*` and `?`".to_owned());
                self.report.error(file, column.pattern.at, message, help);
                return None;
            }
        };
        if let Some(keep) = column.keep_last {
            if column.method != Method::Partial {
                self.report.error(file, keep.at, "`keep_last` is for `method: partial`", None);
            } else if keep.value > MAX_KEEP_LAST {
                let message = format!("`keep_last` is at most {MAX_KEEP_LAST}, got {}", keep.value);
                self.report.error(file, keep.at, message, None);
            }
        }
        if let Some(key) = column.key.as_ref().filter(|_| column.method != Method::Hash) {
            self.report.error(file, key.at, "`key` is for `method: hash`", None);
        }
        let method = match (column.method, &column.key) {
            (Method::Redact, _) => MaskMethod::Redact,
            (Method::Null, _) => MaskMethod::Null,
            (Method::Partial, _) => MaskMethod::Partial {
                keep_last: column.keep_last.map_or(DEFAULT_KEEP_LAST, |keep| keep.value),
            },
            (Method::Hash, Some(key)) => MaskMethod::Hash { key: key.value.0.clone() },
            (Method::Hash, None) => {
                let help =
                    Some("a bare hash is reversed by trying all values; say `key: { file: … }`".to_owned());
                self.report.error(file, column.at, "`method: hash` needs a key", help);
                return None;
            }
        };
        Some(ColumnMask { pattern, method })
    }
}

fn column_pattern(text: &str) -> Result<ColumnPattern, String> {
    let parts: Vec<&str> = text.split('.').collect();
    let (schema, table, column) = match parts.as_slice() {
        [column] => ("*", "*", *column),
        [table, column] => ("*", *table, *column),
        [schema, table, column] => (*schema, *table, *column),
        _ => return Err(format!("`{text}` has {} parts, expected schema, table and column", parts.len())),
    };
    if [schema, table, column].iter().any(|part| part.is_empty()) {
        return Err(format!("`{text}` has an empty part"));
    }
    if text.contains(['[', ']', '{', '}', '\\']) {
        return Err(format!("`{text}`: only `*` and `?` are globs in a column pattern"));
    }
    Ok(ColumnPattern { schema: schema.to_owned(), table: table.to_owned(), column: column.to_owned() })
}
