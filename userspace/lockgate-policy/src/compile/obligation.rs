//! The `mask:` and `record:` blocks.

use super::Compiler;
use crate::{
    SourceFile,
    document::{KeyRef, Mask, MaskColumn, MaskJson, Method, Rule as RuleBlock, RuleMode, StageFrom},
    rule::{RecordRule, Unmask},
    yaml::{Position, Spanned},
};
use lockgate_model::{
    http::{JsonMask, JsonPath},
    id::{GroupName, RuleId},
    verdict::{ColumnMask, ColumnPattern, InPredicate, MaskMethod, MaskSpec, ResultLimit, UnknownLineage},
    workload::Assurance,
};
use std::collections::BTreeSet;

/// A longer tail is not masking.
const MAX_KEEP_LAST: u32 = 16;
/// What `partial` keeps when it does not say.
const DEFAULT_KEEP_LAST: u32 = 4;

/// What a rule asks whatever its effect.
pub(super) struct Obligation {
    pub(super) mask: Option<MaskSpec>,
    pub(super) unmask: Option<Unmask>,
    pub(super) record: Option<RecordRule>,
    pub(super) limits: Vec<ResultLimit>,
}

impl Compiler {
    pub(super) fn obligation(&mut self, file: &SourceFile, block: &Spanned<RuleBlock>) -> Obligation {
        let mask = block.mask.as_ref().map(|mask| self.mask(file, &block.id.value, mask));
        let unmask = block.mask.as_ref().and_then(|mask| self.unmask(file, &mask.value));
        let record = block.record.as_ref().map(|record| RecordRule {
            statements: record.statements.map(|statements| statements.0),
            results: record.results.map(|results| results.0),
            sync: record.sync,
            retain: record.retain.map(|retain| retain.value),
        });
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
        Obligation { mask, unmask, record, limits }
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
        if mask.columns.is_empty() && mask.detectors.is_empty() && mask.json.is_empty() {
            self.report.error(
                file,
                mask.at,
                "`mask:` names neither columns nor JSON paths nor detectors",
                None,
            );
        }
        MaskSpec {
            columns: mask.columns.iter().filter_map(|column| self.column(file, column)).collect(),
            json: mask.json.iter().filter_map(|json| self.json(file, json)).collect(),
            detectors: mask.detectors.iter().map(|detector| detector.0).collect(),
            on_unknown_lineage: mask.on_unknown_lineage.map_or(UnknownLineage::Redact, |lineage| lineage.0),
            in_predicate: mask.in_predicate.map_or(InPredicate::Deny, |predicate| predicate.0),
            in_expression: mask.in_expression.map(|expression| expression.0).unwrap_or_default(),
            approval: None,
            rules: vec![RuleId::from(id)],
        }
    }

    /// Who sees what a rule masks: members that are spelled out, and nobody whose identity is only claimed.
    fn unmask(&mut self, file: &SourceFile, mask: &Mask) -> Option<Unmask> {
        let least = match mask.unmask_min_assurance.as_ref().map(|least| (least.at, least.value.0)) {
            Some((at, _)) if mask.unmask_for.is_none() => {
                self.report.error(file, at, "`unmask_min_assurance` is for a mask with `unmask_for`", None);
                return None;
            }
            Some((at, Assurance::Claimed)) => {
                let help = Some("write kernel, platform or attested".to_owned());
                self.report.error(file, at, "what a job says of itself never unmasks", help);
                return None;
            }
            Some((_, least)) => least,
            None => Assurance::Platform,
        };
        let from = mask.unmask_for.as_ref()?;
        self.lenient_voters(file, from.at, &from.value);
        let names: &[Spanned<String>] = match &from.value {
            StageFrom::Group(name) => std::slice::from_ref(name),
            StageFrom::AnyOf(names) => names,
        };
        let members: BTreeSet<String> = names
            .iter()
            .filter_map(|name| self.groups.defined.get(&GroupName::from(name.value.as_str())))
            .flat_map(|entry| entry.group.members.iter().cloned())
            .collect();
        if members.is_empty() {
            let message = "nobody's session is in this group: `unmask_for` goes by `members:` of `groups:`, which lists \
                           principals";
            self.report.warn(file, from.at, message);
        }
        Some(Unmask { members, least })
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
        let method = self.method(file, column.at, (column.method, column.keep_last, column.key.as_ref()))?;
        Some(ColumnMask { pattern, method })
    }

    fn json(&mut self, file: &SourceFile, json: &Spanned<MaskJson>) -> Option<JsonMask> {
        let path = match JsonPath::new(&json.path.value) {
            Ok(path) => path,
            Err(message) => {
                self.report.error(file, json.path.at, message, None);
                return None;
            }
        };
        let method = self.method(file, json.at, (json.method, json.keep_last, json.key.as_ref()))?;
        Some(JsonMask { path, method })
    }

    fn method(
        &mut self,
        file: &SourceFile,
        at: Position,
        (method, keep_last, key): (Method, Option<Spanned<u32>>, Option<&Spanned<KeyRef>>),
    ) -> Option<MaskMethod> {
        if let Some(keep) = keep_last {
            if method != Method::Partial {
                self.report.error(file, keep.at, "`keep_last` is for `method: partial`", None);
            } else if keep.value > MAX_KEEP_LAST {
                let message = format!("`keep_last` is at most {MAX_KEEP_LAST}, got {}", keep.value);
                self.report.error(file, keep.at, message, None);
            }
        }
        if let Some(key) = key.filter(|_| method != Method::Hash) {
            self.report.error(file, key.at, "`key` is for `method: hash`", None);
        }
        Some(match (method, key) {
            (Method::Redact, _) => MaskMethod::Redact,
            (Method::Null, _) => MaskMethod::Null,
            (Method::Partial, _) => {
                MaskMethod::Partial { keep_last: keep_last.map_or(DEFAULT_KEEP_LAST, |keep| keep.value) }
            }
            (Method::Hash, Some(key)) => MaskMethod::Hash { key: key.value.0.clone() },
            (Method::Hash, None) => {
                let help =
                    Some("a bare hash is reversed by trying all values; say `key: { file: … }`".to_owned());
                self.report.error(file, at, "`method: hash` needs a key", help);
                return None;
            }
        })
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
