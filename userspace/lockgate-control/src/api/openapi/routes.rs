//! Every operation, one entry each, in the order of the guide.

use super::{
    Operation, operation as op,
    shapes::{
        Approval, ApprovalLine, BreakGlass, Bundle, CallerToken, CallerTokenRequest, Channel, Counted,
        CountedBundle, Document, Glass, Grant, Placed, Reason, Record, Rehearsed, Review, SelfTest,
        SessionLine, SessionRecords, SignedDecision, Status, Verification, Whoami, Word,
    },
};
use crate::{
    api::{audit::Earlier, channels::Rehearsal, policy::Tested},
    house::{ExplainQuery, Explained, Found, Governed, Killed, PolicyView, Proof, TargetView},
};
use serde_json::{Value, json};

pub(super) fn all() -> Vec<Operation> {
    let mut all = approvals();
    all.extend(permissions());
    all.extend(sessions());
    all.extend(targets());
    all.extend(rest());
    all.extend(people());
    all
}

const REQUEST: &str = "req_01JD4Z0000000000000000000A";
const SESSION: &str = "ses_01JD4Z0000000000000000000B";
const BUNDLE: &str = "bnd_01JD4Z0000000000000000000C";
const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const AT: &str = "2026-11-21T10:00:00Z";

fn approval_line() -> Value {
    json!({
        "id": REQUEST, "state": "pending", "created_at": AT, "expires_at": AT, "command_digest": DIGEST,
        "statement": "ALTER TABLE orders ADD COLUMN note text", "target": "orders-db",
        "principal": "github_actions:acme/billing", "display": "acme/billing › deploy.yml",
        "rules": ["ddl-needs-dba"], "session_id": SESSION, "decision_id": "dec_01JD4Z0000000000000000000D",
        "need": [], "bundle_id": null,
    })
}

fn approval() -> Value {
    json!({
        "id": REQUEST, "state": "pending", "summary": "Alter table orders on orders-db, asked by acme/billing › deploy.yml",
        "command_digest": DIGEST, "expires_at": AT, "operation": {}, "identity": {}, "target": {}, "rules": [],
        "votes": [], "notifications": {},
    })
}

fn word() -> Value {
    json!({ "reason": "change 4711", "command_digest": DIGEST, "grant": { "for": "15m", "uses": 5 } })
}

fn counted() -> Value {
    json!({ "request_id": REQUEST, "status": "counted", "state": "approved", "need": [] })
}

fn counted_bundle() -> Value {
    json!({ "bundle_id": BUNDLE, "status": "counted", "counted": 2, "state": "approved", "requests": [] })
}

fn signed() -> Value {
    json!({ "type": "lockgate.decision", "data": { "request_id": REQUEST, "decision": "deny", "command_digest": DIGEST } })
}

fn approvals() -> Vec<Operation> {
    let signature = |operation: Operation| {
        operation
            .header("webhook-id", true, "names the message; a second one has no effect")
            .header("webhook-timestamp", true, "seconds; five minutes off at most")
            .header("webhook-signature", true, "as Standard Webhooks 1.0 say")
    };
    let tag = "approvals";
    vec![
        op("GET", "/v1/approvals", "listApprovals", tag, "Requests, the newest first")
            .asks("state", "string", "pending, resolved, approved, denied, expired, cancelled or all")
            .pages()
            .gives_page::<ApprovalLine>(approval_line()),
        op("GET", "/v1/approvals/{id}", "showApproval", tag, "One request with everything an approver needs")
            .asks("token", "string", "of a notification's link, for whoever has no login")
            .gives::<Approval>(200, approval()),
        op("POST", "/v1/approvals/{id}/approve", "approve", tag, "Vote for it")
            .takes::<Word>(word())
            .gives::<Counted>(200, counted()),
        op("POST", "/v1/approvals/{id}/deny", "deny", tag, "Vote against it")
            .takes::<Word>(json!({ "reason": "not in a freeze" }))
            .gives::<Counted>(200, counted()),
        signature(op("POST", "/v1/approvals/{id}/decision", "decide", tag, "A decision of an integration, signed"))
            .takes::<SignedDecision>(signed())
            .gives::<Counted>(200, counted()),
        op("GET", "/v1/bundles/{id}", "showBundle", tag, "Requests that are decided together")
            .asks("token", "string", "of a notification's link, for whoever has no login")
            .gives::<Bundle>(
                200,
                json!({ "id": BUNDLE, "state": "pending", "command_digest": DIGEST, "requests": [approval()] }),
            ),
        op("POST", "/v1/bundles/{id}/approve", "approveBundle", tag, "Vote for all of it")
            .takes::<Word>(word())
            .gives::<CountedBundle>(200, counted_bundle()),
        op("POST", "/v1/bundles/{id}/deny", "denyBundle", tag, "Vote against all of it")
            .takes::<Word>(json!({ "reason": "not in a freeze" }))
            .gives::<CountedBundle>(200, counted_bundle()),
        signature(op("POST", "/v1/bundles/{id}/decision", "decideBundle", tag, "A decision on a bundle, signed"))
            .takes::<SignedDecision>(signed())
            .gives::<CountedBundle>(200, counted_bundle()),
    ]
}

fn permissions() -> Vec<Operation> {
    let tag = "permissions";
    let grant = json!({
        "id": "grt_01JD4Z0000000000000000000E", "request_id": REQUEST, "principal": "github_actions:acme/billing",
        "target": "orders-db", "shape": "UPDATE orders SET state = $1 WHERE id = $2", "given_by": ["ana"],
        "expires_at": AT, "uses": 5, "used": 1,
    });
    let glass = json!({
        "id": "brk_01JD4Z0000000000000000000F", "rule": "on-call", "by": { "id": "oidc:corp:ana" },
        "reason": "orders are stuck", "ticket": "INC-7", "ends_at": AT,
    });
    vec![
        op("GET", "/v1/grants", "listGrants", tag, "Grants in force").gives_page::<Grant>(grant.clone()),
        op("POST", "/v1/grants/{id}/revoke", "revokeGrant", tag, "Take a grant back, now")
            .takes::<Reason>(json!({ "reason": "done early" }))
            .gives::<Grant>(200, grant),
        op("GET", "/v1/breakglass", "listBreakglass", tag, "Emergency overrides")
            .gives_page::<Glass>(glass.clone()),
        op("POST", "/v1/breakglass", "breakGlass", tag, "Break the glass")
            .takes::<BreakGlass>(
                json!({ "rule": "on-call", "reason": "orders are stuck", "ticket": "INC-7", "for": "30m" }),
            )
            .gives::<Glass>(200, glass.clone()),
        op("POST", "/v1/breakglass/{id}/end", "endBreakglass", tag, "End an override before its time")
            .gives::<Glass>(200, glass.clone()),
        op(
            "POST",
            "/v1/breakglass/{id}/review",
            "reviewBreakglass",
            tag,
            "Look at an override; the next needs it",
        )
        .takes::<Review>(json!({ "note": "needed, two statements" }))
        .gives::<Glass>(200, glass),
    ]
}

fn sessions() -> Vec<Operation> {
    let line = json!({
        "id": SESSION, "started": AT, "ended": null, "closing": null, "principal": { "id": "uid:1001" },
        "target": "orders-db", "database": "shop", "operations": 3, "denied": 1, "held": 1,
    });
    let record = json!({ "seq": 1042, "at": AT, "event": "session_started", "data": {} });
    vec![
        op("GET", "/v1/sessions", "listSessions", "sessions", "Sessions, the newest first")
            .asks("since", "string", "begun at this time or later")
            .asks("until", "string", "begun before this time")
            .asks("target", "string", "on this target")
            .asks("principal", "string", "text in the principal's id or name")
            .asks("open", "boolean", "only running or only ended ones")
            .pages()
            .gives_page::<SessionLine>(line.clone()),
        op("GET", "/v1/sessions/{id}", "showSession", "sessions", "One session with its records, by its id or a request's")
            .asks("after", "integer", "records after this number")
            .asks("limit", "integer", "records in one answer; 1,000 at most")
            .gives::<SessionRecords>(200, json!({ "session": line, "records": [record.clone()], "more": false })),
        op("POST", "/v1/sessions/{id}/kill", "killSession", "sessions", "End a live session; its client is told why")
            .takes::<Reason>(json!({ "reason": "runaway job" }))
            .gives::<Killed>(200, json!({ "session": SESSION, "decision_id": "dec_01JD4Z0000000000000000000D" })),
        search(),
        op("GET", "/v1/events", "watch", "events", "Server-sent events: records as they are written")
            .asks("topic", "string", "approvals, sessions, permissions, system; several with commas")
            .asks("session", "string", "of this session")
            .asks("request", "string", "of this request for approval")
            .asks("target", "string", "of sessions on this target that begin while you watch")
            .asks("after", "integer", "behind this record, where Last-Event-ID cannot be sent")
            .header("Last-Event-ID", false, "go on behind this event")
            .gives_text(
                "text/event-stream",
                "event: approval_requested\nid: 1042\ndata: {\"seq\":1042,\"at\":\"2026-11-21T10:00:00Z\",\"event\":\"approval_requested\",\"data\":{}}\n\n",
            )
            .names::<Record>(),
    ]
}

fn search() -> Operation {
    let fields = [
        ("text", "words of statements, reasons and names; viewers may not"),
        ("identity", "the principal's id or display name"),
        ("repository", "acme/billing"),
        ("target", "the target's name"),
        ("table", "public.customers, or its last part"),
        ("class", "read, write, ddl, …"),
        ("decision", "allowed, denied, held, approved, rejected, expired or cancelled"),
        ("approver", "who voted"),
        ("event", "the kind of record"),
        ("session", "ses_…"),
        ("request", "req_…"),
        ("rule", "the rule that decided"),
        ("digest", "sha256:…; viewers may not"),
        ("since", "at this time or later"),
        ("until", "before this time"),
    ];
    let hit = json!({
        "seq": 1042, "at": AT, "event": "operation_decided", "session": SESSION, "request": null,
        "identity": "uid:1001", "display": "uid 1001", "repository": null, "target": "orders-db", "class": "read",
        "tables": ["public.customers"], "decision": "denied", "approvers": [], "rules": ["no-customers"],
        "digest": DIGEST, "text": "SELECT * FROM customers",
    });
    let begin = op(
        "GET",
        "/v1/search",
        "search",
        "sessions",
        "Search everything that was recorded, the newest first",
    );
    let asks = fields.iter().fold(begin, |operation, (name, what)| operation.asks(name, "string", what));
    asks.pages().gives::<Found>(
        200,
        json!({ "items": [hit], "next": "1041", "complete": true, "elapsed_micros": 900 }),
    )
}

fn targets() -> Vec<Operation> {
    let definition = json!({
        "name": "orders-db", "protocol": "postgres", "addresses": ["10.20.0.5:5432"],
        "upstream": { "tls": "verify-full", "credential": { "user": "app", "password": { "file": "/etc/lockgate/orders.password" } } },
    });
    let target = json!({
        "name": "orders-db", "protocol": "postgres", "mode": "enforce", "default": "deny", "tags": { "env": "production" },
        "addresses": ["10.20.0.5:5432"], "resolved": {}, "listen": null, "origin": "registered",
        "etag": "9f86d081884c7d65", "definition": definition, "health": null, "open_sessions": 2,
    });
    let tag = "targets";
    vec![
        op("GET", "/v1/targets", "listTargets", tag, "Targets, those of the configuration first")
            .asks("probe", "boolean", "ask each now whether it answers")
            .gives_page::<TargetView>(target.clone()),
        op("POST", "/v1/targets", "registerTarget", tag, "Register a target; in force with the answer")
            .takes::<Document>(definition.clone())
            .gives::<TargetView>(201, target.clone()),
        op("GET", "/v1/targets/{name}", "showTarget", tag, "One target")
            .asks("probe", "boolean", "ask it now whether it answers")
            .gives::<TargetView>(200, target.clone()),
        op("PUT", "/v1/targets/{name}", "changeTarget", tag, "Change a registered target")
            .header("If-Match", true, "its ETag, as you read it")
            .takes::<Document>(definition)
            .gives::<TargetView>(200, target),
        op("DELETE", "/v1/targets/{name}", "removeTarget", tag, "Take a registered target away")
            .header("If-Match", false, "its ETag, as you read it"),
        op("GET", "/v1/governed", "listGoverned", tag, "Whose connections are redirected, and whether all are").gives::<Governed>(
            200,
            json!({
                "items": [{ "by": "cgroup", "value": "/lockgate/run", "mode": "enforce", "unregistered": "allow" }],
                "coverage": {}, "whole": true,
            }),
        ),
    ]
}

fn rest() -> Vec<Operation> {
    let proof = json!({ "text": "build-7/lockgate\n1042\n…", "public_key": "build-7/lockgate+…" });
    let explained = json!({ "statement": "DROP TABLE orders", "effect": "deny", "explanation": {} });
    let policy = json!({
        "version": "9f2c", "loaded_at": AT, "files": [{ "path": "/etc/lockgate/policies/a.yaml", "text": "rules: []" }],
        "rules": ["no-customers"], "warnings": [], "rejected": [],
    });
    let tested = json!({ "ok": true, "items": [{ "name": "reads pass", "file": "a.yaml", "line": 3, "passed": true, "failures": [] }] });
    vec![
        op("GET", "/v1/policy", "showPolicy", "policy", "The policy in force, with its source")
            .gives::<PolicyView>(200, policy),
        op(
            "POST",
            "/v1/policy/explain",
            "explainPolicy",
            "policy",
            "What the policy makes of an operation, and why",
        )
        .takes::<ExplainQuery>(json!({ "given": { "statement": "DROP TABLE orders" } }))
        .gives_page::<Explained>(explained),
        op("POST", "/v1/policy/test", "testPolicy", "policy", "Run the tests that the policy carries")
            .gives::<Tested>(200, tested),
        op("GET", "/v1/status", "showStatus", "audit", "How the node is doing").gives::<Status>(
            200,
            json!({
                "version": "0.1.0", "node": "build-7", "started_at": AT, "policy": {}, "hooks": {},
                "pending_approvals": 1, "connections": 2,
            }),
        ),
        op("GET", "/v1/audit/verify", "verifyAudit", "audit", "Read the whole log and check every link")
            .gives::<Verification>(
            200,
            json!({ "integrity": "intact", "records": 1042, "last_seq": 1042, "findings": [] }),
        ),
        op("GET", "/v1/audit/checkpoint", "showCheckpoint", "audit", "The newest signed head (C2SP)")
            .gives::<Proof>(200, proof.clone()),
        op("GET", "/v1/audit/proofs/{seq}", "proveRecord", "audit", "Proof that a record is in the log")
            .gives::<Proof>(200, proof.clone()),
        op(
            "POST",
            "/v1/audit/growth",
            "proveGrowth",
            "audit",
            "Proof that the log goes on from an earlier head",
        )
        .takes::<Earlier>(json!({ "checkpoint": "build-7/lockgate\n1000\n…" }))
        .gives::<Proof>(200, proof),
        op("GET", "/v1/audit/holds", "listHolds", "audit", "Legal holds").gives::<Document>(200, json!({})),
        op("POST", "/v1/audit/holds", "placeHold", "audit", "Keep records from being removed")
            .takes::<Document>(json!({ "name": "case-7" }))
            .gives::<Document>(200, json!({ "name": "case-7" })),
        op("POST", "/v1/audit/holds/{name}/release", "releaseHold", "audit", "Release a legal hold")
            .gives::<Document>(200, json!({})),
        op("GET", "/v1/audit/retention", "showRetention", "audit", "What is removed when")
            .gives::<Document>(200, json!({})),
        op("POST", "/v1/audit/retention", "applyRetention", "audit", "Remove now what is due")
            .gives::<Document>(200, json!({})),
        op("GET", "/v1/channels", "listChannels", "channels", "Channels and how each is")
            .gives_page::<Channel>(
                json!({ "name": "approvals", "kind": "webhook", "state": "ok", "queued": 0 }),
            ),
        op(
            "POST",
            "/v1/channels/{name}/slack",
            "slackInteraction",
            "channels",
            "What Slack sends when a button is pressed, signed by it",
        )
        .gives::<Document>(200, json!({})),
        op(
            "POST",
            "/v1/rehearsals",
            "rehearse",
            "channels",
            "Ask a rule's people for a denial of nothing, through every channel",
        )
        .takes::<Rehearsal>(json!({ "rule": "ddl-needs-dba" }))
        .gives::<Rehearsed>(201, json!({ "request_id": REQUEST })),
        op("GET", "/v1/openapi.json", "describe", "host", "This document").gives::<Document>(200, json!({})),
    ]
}

fn people() -> Vec<Operation> {
    let login = json!({ "id": "lgn_1", "by": "oidc:corp:ana" });
    let token = json!({ "id": "tok_1", "name": "deploy bot" });
    vec![
        op("GET", "/v1/whoami", "whoami", "people", "Who asks, with roles and groups").gives::<Whoami>(
            200,
            json!({ "id": "local:0", "name": "root", "roles": ["viewer", "auditor", "admin"], "groups": [] }),
        ),
        op("GET", "/v1/logins", "listLogins", "people", "Logins that are open").gives_page::<Document>(login.clone()),
        op("POST", "/v1/logins/{id}/end", "endLogin", "people", "End a login").gives::<Document>(200, login),
        op("POST", "/v1/people/end", "endPerson", "people", "End every login and token of a person")
            .takes::<Document>(json!({ "id": "oidc:corp:ana" }))
            .gives::<Document>(200, json!({})),
        op("GET", "/v1/api-tokens", "listApiTokens", "people", "API tokens").gives_page::<Document>(token.clone()),
        op("POST", "/v1/api-tokens", "makeApiToken", "people", "Make an API token; it is shown once")
            .takes::<Document>(json!({ "name": "deploy bot", "roles": ["viewer"], "for": "30d" }))
            .gives::<Document>(200, token.clone()),
        op("POST", "/v1/api-tokens/{id}/revoke", "revokeApiToken", "people", "Take an API token back").gives::<Document>(200, token),
        op("POST", "/v1/bootstrap", "makeBootstrap", "people", "Make the one-time token of the bootstrap administrator")
            .gives::<Document>(200, json!({})),
        op("POST", "/v1/run", "govern", "host", "Move the asking process into a governed cgroup")
            .gives::<Placed>(200, json!({ "cgroup": "/lockgate/run/1" })),
        op("POST", "/v1/tokens", "makeCallerToken", "host", "A token for somebody who dials lockgate itself; for root")
            .takes::<CallerTokenRequest>(json!({ "target": "orders-db", "caller": "bi", "kind": "service", "from": ["10.0.0.0/8"], "seconds": 3600 }))
            .gives::<CallerToken>(200, json!({ "id": "tok_1", "token": "lgc_…", "expires": AT })),
        op("POST", "/v1/self-test", "selfTest", "host", "Send a probe through the capture; for root")
            .gives::<SelfTest>(200, json!({ "ok": true, "error": null })),
    ]
}
