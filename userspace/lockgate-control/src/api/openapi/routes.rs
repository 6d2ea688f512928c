//! Every operation, one entry each, in the order of the guide.

use super::{
    Operation, operation as op,
    shapes::{
        ApiToken, ApiTokenWish, Bootstrap, CallerToken, CallerTokenRequest, CastVote, Channel, Description,
        DoneReview, Ended, EndedLogin, Explanation, HoldRelease, HoldWish, Holds, Leaver, Left, LegalHold,
        Mentions, Need, OpenLogin, OwedReview, Placed, Record, Rehearsed, RetentionPlan, RetentionRun,
        RuleStage, SelfTest, SessionLine, SessionRecords, SlackAnswer, Status, TargetDefinition, Verified,
        Whoami,
    },
};
use crate::{
    api::{
        audit::Earlier,
        channels::Rehearsal,
        decision::Decision,
        glass,
        grants::{Shown as Grant, Word as Reason},
        host::Word,
        policy::Tested,
        verification::Verification,
        vote::{Counted, CountedBundle},
    },
    house::{ExplainQuery, Explained, Found, Governed, Killed, PolicyView, Proof, TargetView},
    view::shape::{Approval, ApprovalLine, Bundle, Glass},
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

fn need() -> Value {
    json!([{ "rule": "ddl-needs-dba", "have": 0, "need": 1, "any_of": ["dba"] }])
}

fn approval_line() -> Value {
    json!({
        "id": REQUEST, "state": "pending", "created_at": AT, "expires_at": AT, "resolved_at": null, "command_digest": DIGEST,
        "statement": "ALTER TABLE orders ADD COLUMN note text", "statement_bytes": 39, "class": "ddl", "kind": "alter_table",
        "risk": "high", "target": "orders-db", "principal": "github_actions:acme/billing",
        "display": "acme/billing › deploy.yml", "assurance": "platform", "uid": 1001, "in_transaction": false,
        "rules": ["ddl-needs-dba"], "session_id": SESSION, "decision_id": "dec_01JD4Z0000000000000000000D",
        "need": need(), "left": false, "bundle_id": null,
    })
}

fn approval() -> Value {
    let operation = json!({
        "id": "op_01JD4Z0000000000000000000G", "statement": "ALTER TABLE orders ADD COLUMN note text",
        "statement_display": "ALTER TABLE orders ADD COLUMN note text", "statement_bytes": 39, "literals": "shown",
        "bound_values": [], "bound_value_count": 0, "opaque": false, "class": "ddl", "kind": "alter_table",
        "tables_read": [], "tables_written": ["public.orders"], "columns": ["note"], "functions": [], "bounded": null,
        "risk": "high", "effects": ["changes_schema"], "fingerprint": "50fde20626009aba", "opaque_reason": null,
        "second_opinion": null,
    });
    let identity = json!({
        "principal": "github_actions:acme/billing", "display": "acme/billing › deploy.yml", "kind": "ci_job",
        "assurance": "platform", "established_by": "the runner's job, as GitHub has it",
        "process": {
            "pid": 4711, "uid": 1001, "gid": 1001, "user": "runner", "exe": "/usr/bin/psql", "exe_sha256": null,
            "argv": ["psql"], "argv_count": 3, "cwd": "/work", "ancestry": [{ "pid": 4710, "name": "bash" }], "exited": false,
        },
        "cgroup": "/system.slice/actions.runner.service", "unit": null, "container": null, "pod": null, "ci": null,
        "capture": "transparent", "transparent": true,
        "tickets": [{
            "id": "OPS-42", "url": "https://tickets.example.com/browse/OPS-42", "source": "commit_message",
            "assurance": "claimed", "standing": "in the commit message; claimed, not confirmed",
        }],
        "client_claims": { "user": "app", "database": "shop", "application_name": "psql" },
    });
    json!({
        "id": REQUEST, "request_id": REQUEST, "state": "pending", "command_digest": DIGEST,
        "summary": "Alter table public.orders on orders-db (env production), asked by acme/billing › deploy.yml",
        "decision_url": "", "created_at": AT, "expires_at": AT, "resolved_at": null, "resolution": null,
        "operation": operation, "in_transaction": false, "database": "shop", "role": "app", "search_path": null,
        "target": { "name": "orders-db", "protocol": "postgres", "tags": { "env": "production" }, "mode": "enforce" },
        "identity": identity, "rehearsal": false, "session_id": SESSION,
        "decision_id": "dec_01JD4Z0000000000000000000D", "node": "build-7", "policy": "9f2c", "earlier": [],
        "rule": "ddl-needs-dba",
        "rules": [{
            "id": "ddl-needs-dba", "description": null, "stages": [{ "at": "0s", "any_of": ["dba"], "need": 1 }],
            "deny_votes": 1, "exclude": ["requester"], "require_reason": false, "longest_grant_seconds": 3600,
        }],
        "need": need(), "votes": [], "notifications": { "webhook:approvals": { "attempts": 1, "delivered": true } },
        "left": false, "takes_up": null, "bundle_id": null,
    })
}

fn bundle() -> Value {
    let line = json!({
        "request_id": REQUEST, "command_digest": DIGEST, "state": "pending",
        "summary": "Alter table public.orders on orders-db, asked by acme/billing › deploy.yml",
        "statement": "ALTER TABLE orders ADD COLUMN note text",
        "statement_display": "ALTER TABLE orders ADD COLUMN note text", "bound_value_count": 0, "class": "ddl",
        "kind": "alter_table", "risk": "high",
    });
    json!({
        "id": BUNDLE, "state": "pending", "command_digest": DIGEST, "decision_url": "", "notifications": {},
        "bundle": { "id": BUNDLE, "command_digest": DIGEST, "size": 1, "requests": [line] },
        "requests": [approval()],
    })
}

fn word() -> Value {
    json!({ "reason": "change 4711", "command_digest": DIGEST, "grant": { "for": "15m", "uses": 5 } })
}

fn counted() -> Value {
    json!({ "request_id": REQUEST, "status": "counted", "state": "approved", "need": need(), "expires_at": AT })
}

fn counted_bundle() -> Value {
    let each = json!([{ "request_id": REQUEST, "state": "approved" }]);
    json!({ "bundle_id": BUNDLE, "status": "counted", "counted": 1, "state": "approved", "requests": each, "need": [] })
}

fn signed() -> Value {
    json!({
        "type": "lockgate.decision", "timestamp": AT,
        "data": {
            "request_id": REQUEST, "command_digest": DIGEST, "decision": "deny", "reason": "not in a freeze",
            "decided_by": { "id": "ana@example.com", "groups": ["dba"] },
        },
    })
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
            .gives_page::<ApprovalLine>(approval_line())
            .names::<Need>(),
        op("GET", "/v1/approvals/{id}", "showApproval", tag, "One request with everything an approver needs")
            .asks("token", "string", "of a notification's link, for whoever has no login")
            .gives::<Approval>(200, approval())
            .names::<RuleStage>()
            .names::<CastVote>()
            .names::<Ended>(),
        op("POST", "/v1/approvals/{id}/approve", "approve", tag, "Vote for it")
            .takes::<Word>(word())
            .gives::<Counted>(200, counted()),
        op("POST", "/v1/approvals/{id}/deny", "deny", tag, "Vote against it")
            .takes::<Word>(json!({ "reason": "not in a freeze" }))
            .gives::<Counted>(200, counted()),
        signature(op(
            "POST",
            "/v1/approvals/{id}/decision",
            "decide",
            tag,
            "A decision of an integration, signed",
        ))
        .takes::<Decision>(signed())
        .gives::<Counted>(200, counted()),
        op("GET", "/v1/bundles/{id}", "showBundle", tag, "Requests that are decided together")
            .asks("token", "string", "of a notification's link, for whoever has no login")
            .gives::<Bundle>(200, bundle()),
        op("POST", "/v1/bundles/{id}/approve", "approveBundle", tag, "Vote for all of it")
            .takes::<Word>(word())
            .gives::<CountedBundle>(200, counted_bundle()),
        op("POST", "/v1/bundles/{id}/deny", "denyBundle", tag, "Vote against all of it")
            .takes::<Word>(json!({ "reason": "not in a freeze" }))
            .gives::<CountedBundle>(200, counted_bundle()),
        signature(op(
            "POST",
            "/v1/bundles/{id}/decision",
            "decideBundle",
            tag,
            "A decision on a bundle, signed",
        ))
        .takes::<Decision>(signed())
        .gives::<CountedBundle>(200, counted_bundle()),
    ]
}

fn permissions() -> Vec<Operation> {
    let tag = "permissions";
    let grant = json!({
        "id": "grt_01JD4Z0000000000000000000E", "request_id": REQUEST, "principal": "github_actions:acme/billing",
        "target": "orders-db", "pattern": DIGEST, "shape": "UPDATE orders SET state = $1 WHERE id = $2", "covers": "shape",
        "kinds": null, "risk": null, "rules": ["writes-ask"], "given_by": ["ana"], "made_at": AT, "expires_at": AT,
        "uses": 5, "used": 1, "left": 4,
    });
    let glass = json!({
        "id": "brk_01JD4Z0000000000000000000F", "rule": "on-call",
        "by": { "id": "oidc:corp:ana", "name": "ana", "via": "console" }, "login": "logged in by corp 12 s ago", "uid": null,
        "principal": "github_actions:acme/billing", "target": null, "reason": "orders are stuck", "ticket": "INC-7",
        "began_at": AT, "ends_at": AT, "ended_at": null, "notify": ["security"],
        "review": { "by": "security", "due": AT, "blocks_next_use": true }, "reviewed": null, "state": "in_force",
    });
    vec![
        op("GET", "/v1/grants", "listGrants", tag, "Grants in force").gives_page::<Grant>(grant.clone()),
        op("POST", "/v1/grants/{id}/revoke", "revokeGrant", tag, "Take a grant back, now")
            .takes::<Reason>(json!({ "reason": "done early" }))
            .gives::<Grant>(200, grant),
        op("GET", "/v1/breakglass", "listBreakglass", tag, "Emergency overrides")
            .gives_page::<Glass>(glass.clone())
            .names::<OwedReview>()
            .names::<DoneReview>(),
        op("POST", "/v1/breakglass", "breakGlass", tag, "Break the glass")
            .takes::<glass::Word>(
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
        .takes::<glass::Note>(json!({ "note": "needed, two statements" }))
        .gives::<Glass>(200, glass),
    ]
}

fn sessions() -> Vec<Operation> {
    let line = json!({
        "id": SESSION, "node": "build-7", "started": AT,
        "principal": { "kind": "service", "id": "uid:1001", "display": "uid 1001", "assurance": "kernel" },
        "target": "orders-db", "protocol": "postgres", "database": "shop", "upstream_user": "app", "operations": 3,
        "denied": 1, "held": 1, "bytes_from_client": 0, "bytes_to_client": 0, "first_seq": 1040, "last_seq": 1042,
    });
    let record = json!({
        "v": 1, "node": "build-7", "seq": 1042, "prev": DIGEST, "at": AT, "session": SESSION, "event": "session_started",
        "data": {},
    });
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
            .takes::<TargetDefinition>(definition.clone())
            .gives::<TargetView>(201, target.clone()),
        op("GET", "/v1/targets/{name}", "showTarget", tag, "One target")
            .asks("probe", "boolean", "ask it now whether it answers")
            .gives::<TargetView>(200, target.clone()),
        op("PUT", "/v1/targets/{name}", "changeTarget", tag, "Change a registered target")
            .header("If-Match", true, "its ETag, as you read it")
            .takes::<TargetDefinition>(definition)
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
    let explained = json!({
        "statement": "DROP TABLE orders", "effect": "deny",
        "explanation": { "verdict": {}, "rules": [{
            "rule": "no-drop", "file": "a.yaml", "line": 7, "effect": "deny", "mode": "enforce", "matched": true,
            "conditions": [{ "key": "match.sql.kinds", "wanted": "drop", "got": "drop_table", "holds": true }],
        }] },
    });
    let verified = json!({
        "integrity": "intact", "records": 1042, "last_seq": 1042, "last_hash": DIGEST, "checkpoints_met": 3,
        "findings": [], "findings_total": 0, "notes": [],
    });
    let verification = json!({
        "state": "running", "by": "ana", "began_at": AT, "ended_at": null, "records": 40_000, "bytes": 9_000_000,
        "bytes_total": 41_000_000, "report": null, "error": null,
    });
    let hold = json!({ "name": "hold_01JD4Z0000000000000000000H", "session": SESSION, "by": "local:0", "reason": "case 7", "at": AT });
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
        .gives_page::<Explained>(explained)
        .names::<Explanation>(),
        op("POST", "/v1/policy/test", "testPolicy", "policy", "Run the tests that the policy carries")
            .gives::<Tested>(200, tested),
        op("GET", "/v1/status", "showStatus", "audit", "How the node is doing").gives::<Status>(
            200,
            json!({
                "version": "0.1.0", "node": "build-7", "instance": "default", "pid": 812, "started_at": AT,
                "config": "/etc/lockgate/lockgate.yaml", "mode": "enforce", "store": "/var/lib/lockgate",
                "policy": { "version": "9f2c", "loaded_at": AT, "files": [], "warnings": [], "rejected": null },
                "governed": [], "targets": [], "listeners": ["127.0.0.1:15432"], "api": {}, "run": {}, "hooks": {},
                "pending_approvals": 1, "connections": 2, "evidence": {},
            }),
        ),
        op("GET", "/v1/audit/verify", "verifyAudit", "audit", "Read the whole log and check every link")
            .gives::<Verified>(200, verified),
        op("POST", "/v1/audit/verification", "beginVerification", "audit", "Begin to check the whole log; follow it with GET")
            .gives::<Verification>(202, verification.clone()),
        op("GET", "/v1/audit/verification", "showVerification", "audit", "How far the check is, or how the last one ended")
            .gives::<Verification>(200, verification.clone()),
        op("POST", "/v1/audit/verification/stop", "stopVerification", "audit", "Stop the check that is under way")
            .gives::<Verification>(200, verification),
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
        op("GET", "/v1/audit/mentions/{id}", "listMentions", "audit", "Records that mention an id")
            .gives::<Mentions>(200, json!({ "records": [1041, 1042] })),
        op("GET", "/v1/audit/holds", "listHolds", "audit", "Legal holds").gives::<Holds>(200, json!({ "holds": [hold.clone()] })),
        op("POST", "/v1/audit/holds", "placeHold", "audit", "Keep records from being removed")
            .takes::<HoldWish>(json!({ "session": SESSION, "reason": "case 7" }))
            .gives::<LegalHold>(201, hold),
        op("POST", "/v1/audit/holds/{name}/release", "releaseHold", "audit", "Release a legal hold")
            .takes::<HoldRelease>(json!({ "reason": "case 7 is closed" })),
        op("GET", "/v1/audit/retention", "showRetention", "audit", "What would be removed now")
            .gives::<RetentionPlan>(200, json!({ "remove": [1], "kept": { "4001": "a hold" }, "policy": "retention 90d" })),
        op("POST", "/v1/audit/retention", "applyRetention", "audit", "Remove now what is due")
            .gives::<RetentionRun>(200, json!({ "at": AT, "removed": 4000, "kept": {} })),
        op("GET", "/v1/channels", "listChannels", "channels", "Channels and how each is")
            .gives_page::<Channel>(
                json!({
                    "name": "webhook:approvals", "kind": "webhook", "state": "failing", "failing_since": AT, "failures": 3,
                    "last_error": "Connection refused", "attempted_at": AT, "delivered_at": AT, "delivered": 12,
                    "given_up": 0, "queued": 1, "under_way": 0, "next_attempt_at": AT,
                    "remedy": "nothing listens at that address and port: is the receiver running?",
                }),
            ),
        op(
            "POST",
            "/v1/channels/{name}/slack",
            "slackInteraction",
            "channels",
            "What Slack sends when a button is pressed, signed by it",
        )
        .gives::<SlackAnswer>(200, json!({})),
        op(
            "POST",
            "/v1/rehearsals",
            "rehearse",
            "channels",
            "Ask a rule's people for a denial of nothing, through every channel",
        )
        .takes::<Rehearsal>(json!({ "rule": "ddl-needs-dba" }))
        .gives::<Rehearsed>(201, json!({ "request_id": REQUEST })),
        op("GET", "/v1/openapi.json", "describe", "host", "This document").gives::<Description>(200, json!({ "openapi": "3.1.0" })),
    ]
}

fn people() -> Vec<Operation> {
    let login = json!({
        "id": "lgn_1", "person": "oidc:corp:ana", "name": "Ana", "provider": "corp", "began_at": AT, "proved_at": AT,
        "idle_seconds": 4, "source": "10.0.0.9", "current": true,
    });
    let token = json!({
        "id": "tok_1", "name": "deploy bot", "owner": "oidc:corp:ana", "roles": ["viewer"], "groups": [], "made_at": AT,
        "made_by": "oidc:corp:ana", "expires_at": AT, "used_at": null,
    });
    let mut made = token.clone();
    made["token"] = json!("lgt_…");
    vec![
        op("GET", "/v1/whoami", "whoami", "people", "Who asks, with roles and groups").gives::<Whoami>(
            200,
            json!({
                "id": "local:0", "name": "root", "roles": ["viewer", "auditor", "admin"], "groups": [],
                "fresh_login": null, "csrf": null, "login": null, "warning": null,
            }),
        ),
        op("GET", "/v1/logins", "listLogins", "people", "Logins that are open").gives_page::<OpenLogin>(login),
        op("POST", "/v1/logins/{id}/end", "endLogin", "people", "End a login")
            .gives::<EndedLogin>(200, json!({ "id": "lgn_1", "state": "ended" })),
        op("POST", "/v1/people/end", "endPerson", "people", "End every login and token of a person")
            .takes::<Leaver>(json!({ "person": "oidc:corp:ana" }))
            .gives::<Left>(200, json!({ "person": "oidc:corp:ana", "logins_ended": ["lgn_1"], "tokens_revoked": [] })),
        op("GET", "/v1/api-tokens", "listApiTokens", "people", "API tokens").gives_page::<ApiToken>(token.clone()),
        op("POST", "/v1/api-tokens", "makeApiToken", "people", "Make an API token; it is shown once")
            .takes::<ApiTokenWish>(json!({ "name": "deploy bot", "roles": ["viewer"], "for": "30d" }))
            .gives::<ApiToken>(201, made),
        op("POST", "/v1/api-tokens/{id}/revoke", "revokeApiToken", "people", "Take an API token back").gives::<ApiToken>(200, token),
        op("POST", "/v1/bootstrap", "makeBootstrap", "people", "Make the one-time token of the bootstrap administrator")
            .gives::<Bootstrap>(200, json!({ "token": "lgb_…", "good_for_seconds": 900, "warning": "for a first look" })),
        op("POST", "/v1/run", "govern", "host", "Move the asking process into a governed cgroup")
            .gives::<Placed>(200, json!({ "cgroup": "/lockgate/run/1" })),
        op("POST", "/v1/tokens", "makeCallerToken", "host", "A token for somebody who dials lockgate itself; for root")
            .takes::<CallerTokenRequest>(json!({ "target": "orders-db", "caller": "bi", "kind": "service", "from": ["10.0.0.0/8"], "seconds": 3600 }))
            .gives::<CallerToken>(200, json!({ "id": "tok_1", "token": "lgc_…", "expires": AT })),
        op("POST", "/v1/self-test", "selfTest", "host", "Send a probe through the capture; for root")
            .gives::<SelfTest>(200, json!({ "ok": true, "error": null })),
    ]
}
