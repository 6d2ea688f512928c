//! What requests have in common: the parts that `reuse` and `coalesce` name, and the parsed shape that a grant is for.

use lockgate_model::{
    approval::ApprovalRequest,
    grant::{Ahead, AheadTerms, Same},
    http::HttpFacts,
    operation::{Digest, Facts, Operation},
};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// What a request says of each of these parts; None when it does not know one of them: what is not known is not the same.
pub fn parts(same: &BTreeSet<Same>, request: &ApprovalRequest) -> Option<Vec<(Same, String)>> {
    same.iter().map(|same| part(*same, request).map(|value| (*same, value))).collect()
}

fn part(same: Same, request: &ApprovalRequest) -> Option<String> {
    let session = &request.session;
    let ci = || session.workload.ci.as_ref();
    let joined = |parts: [Option<&str>; 3]| {
        let parts: Option<Vec<&str>> = parts.into_iter().collect();
        // A unit separator stands in none of these names, so that no two lists look alike.
        parts.map(|parts| parts.join("\u{1f}"))
    };
    match same {
        Same::Digest => Some(request.operation.digest.to_string()),
        Same::Target => Some(session.target.name.to_string()),
        Same::Rule => {
            let rules: Vec<&str> = request.spec.requirements.iter().map(|r| r.rule.as_str()).collect();
            Some(rules.join("\u{1f}"))
        }
        Same::Principal => Some(session.principal.id.clone()),
        Same::Session => Some(session.id.to_string()),
        Same::RunId => {
            let ci = ci()?;
            joined([
                Some(&ci.provider),
                Some(ci.repository.as_deref().unwrap_or_default()),
                ci.run_id.as_deref(),
            ])
        }
        Same::Repository => {
            let ci = ci()?;
            joined([Some(&ci.provider), ci.repository.as_deref(), Some("")])
        }
        Same::Workflow => {
            let ci = ci()?;
            joined([Some(&ci.provider), ci.repository.as_deref(), ci.workflow.as_deref()])
        }
        Same::Job => {
            let ci = ci()?;
            joined([Some(&ci.provider), ci.run_id.as_deref(), ci.job.as_deref().or(ci.job_id.as_deref())])
        }
    }
}

/// Whether a request is among those that a grant for the rest of a bundle lets pass. What was not understood never is.
pub fn is_ahead(ahead: &Ahead, request: &ApprovalRequest) -> bool {
    let operation = &request.operation;
    if operation.facts.is_opaque() {
        return false;
    }
    ahead.terms.kinds.contains(operation.facts.kind())
        && operation.facts.risk() <= ahead.terms.risk
        && operation.context.role == ahead.role
        && operation.context.database == ahead.database
        && super::bundle::common(request).is_some_and(|parts| parts == ahead.parts)
}

/// What a grant for the rest of a request's bundle is bound to; None where there is no such bundle.
pub fn ahead(terms: &AheadTerms, request: &ApprovalRequest) -> Option<Ahead> {
    let context = &request.operation.context;
    Some(Ahead {
        terms: terms.clone(),
        parts: super::bundle::common(request)?,
        role: context.role.to_string(),
        database: context.database.to_string(),
    })
}

/// SHA-256 over an operation's parsed shape: everything the inspector made of it, its statement with the literals
/// replaced, and where it would run. Two operations that differ in more than literals and bound values differ in it. None
/// for what was not understood: nobody can say what else has that shape.
pub fn pattern(operation: &Operation) -> Option<Digest> {
    if operation.facts.is_opaque() {
        return None;
    }
    let facts = match operation.facts.as_ref() {
        Facts::Sql(facts) => facts,
        Facts::Http(facts) => return Some(http_pattern(facts, &operation.context.role)),
    };
    let context = &operation.context;
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    put(b"lockgate shape 1");
    // Facts always serialise: they are recorded with every operation.
    put(&serde_json::to_vec(facts).ok()?);
    put(operation.normalized.as_bytes());
    put(context.role.as_bytes());
    put(context.database.as_bytes());
    match &context.search_path {
        Some(path) => put(path.as_bytes()),
        None => put(b"\0default"),
    }
    put(&operation.parameters.len().to_be_bytes());
    Some(Digest(hash.finalize().into()))
}

/// The shape of a request: everything but ids in its path, values of its query and its body.
fn http_pattern(facts: &HttpFacts, role: &str) -> Digest {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    put(b"lockgate http shape 1");
    let upgrade = facts.upgrade.as_deref().unwrap_or_default();
    for part in [&facts.method, &facts.scheme, &facts.host, &facts.route, upgrade, role, facts.class.as_str()]
    {
        put(part.as_bytes());
    }
    for field in &facts.query {
        put(field.name.as_bytes());
    }
    for header in &facts.headers {
        put(header.name.as_bytes());
        put(header.value.as_bytes());
    }
    Digest(hash.finalize().into())
}
