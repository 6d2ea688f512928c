//! The API's description (OpenAPI 3.1), made from code: schemas from the types that are answered, roles from the table that
//! guards the routes, operations from [`routes`].
//!
//! Served at `/v1/openapi.json`, printed by `lockgate api openapi`, checked in as `userspace/docs/openapi.json`. Tests walk the
//! router and the table of roles both ways, so that neither has a route that is not described, nor the other way round.

mod routes;
mod shapes;
#[cfg(test)]
pub(crate) mod strict;

pub(crate) use shapes::{CastVote, DoneReview, Ended, Explanation, Need, OwedReview, RuleStage, Verified};

use crate::auth::rules::{self, Rule};
use axum::{Json, Router, http::Method, routing::get};
use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema::Schema},
};

pub(super) fn routes() -> Router {
    Router::new().route("/v1/openapi.json", get(async || Json(document())))
}

/// The whole description.
pub fn document() -> Value {
    let mut schemas = Map::new();
    let mut paths: Map<String, Value> = Map::new();
    for operation in routes::all() {
        let path = paths.entry(operation.path.to_owned()).or_insert_with(|| json!({}));
        path[operation.method.to_ascii_lowercase()] = operation.described();
        for (name, schema) in operation.schemas {
            schemas.insert(name, json!(schema));
        }
    }
    schemas.insert("Problem".to_owned(), json!(shapes::Problem::schema()));
    sorted(json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "lockgate",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Approvals, sessions, targets, policy and audit of one lockgate node",
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "the node: its unix socket, or api.listen" }],
        "security": [{ "token": [] }, { "login": [] }, { "socket": [] }],
        "tags": TAGS.iter().map(|(name, what)| json!({ "name": name, "description": what })).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": { "Problem": problem() },
            "parameters": {
                "IdempotencyKey": {
                    "name": "Idempotency-Key", "in": "header", "required": false,
                    "description": "Sent again with the same key and body, the request has its effect once and the same answer. Kept for 24 h.",
                    "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
                },
            },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "an API token, lgt_…" },
                "login": { "type": "apiKey", "in": "cookie", "name": "__Host-lockgate", "description": "a login of the console; unsafe methods need the header x-csrf-token as well" },
                "socket": { "type": "apiKey", "in": "header", "name": "host", "description": "the node's unix socket: the kernel says which user asks" },
            },
        },
    }))
}

/// With every object's fields in order: the same text whichever map serde_json was built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(fields.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

const ABOUT: &str = "\
Every error is a problem document (RFC 9457) with a stable `code`. Every listing takes `limit` and `before` and answers \
`items` and `next`. Every POST takes `Idempotency-Key`. Served on the node's unix socket and, once somebody can log in, on \
`api.listen`. `x-role` names the roles of which a caller needs one.";

const TAGS: &[(&str, &str)] = &[
    ("approvals", "Requests and bundles that wait for people, and decisions on them"),
    ("permissions", "Grants and emergency overrides"),
    ("sessions", "Who was connected where, what they did, and search over it"),
    ("events", "What happens, as it happens"),
    ("targets", "Targets and governed sets"),
    ("policy", "The policy in force"),
    ("audit", "The log and its proofs"),
    ("channels", "Where people are told"),
    ("people", "Who asks: logins and API tokens"),
    ("host", "What only processes of this host may ask"),
];

fn problem() -> Value {
    json!({
        "description": "what is wrong and what to do",
        "headers": { "Retry-After": { "description": "seconds, where it may go better later", "schema": { "type": "integer" } } },
        "content": { "application/problem+json": {
            "schema": { "$ref": "#/components/schemas/Problem" },
            "example": {
                "type": "urn:lockgate:problem:not_found", "title": "Not found", "status": 404,
                "detail": "there is no target \"orders\"", "code": "not_found",
            },
        } },
    })
}

/// One method of one path.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<(Value, Value)>,
    answer: (u16, &'static str, Option<Value>, Option<Value>),
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// Begins an operation that answers 204.
fn operation(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
) -> Operation {
    Operation {
        method,
        path,
        id,
        tag,
        summary,
        parameters: Vec::new(),
        body: None,
        answer: (204, "", None, None),
        schemas: Vec::new(),
    }
}

impl Operation {
    /// A field behind `?`.
    fn asks(mut self, name: &str, kind: &str, description: &str) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "query", "required": false, "description": description,
            "schema": { "type": kind },
        }));
        self
    }

    /// `limit` and `before`.
    fn pages(self) -> Self {
        self.asks("limit", "integer", "items in one answer; 100 by default, 1,000 at most").asks(
            "before",
            "string",
            "`next` of the answer before",
        )
    }

    fn header(mut self, name: &str, required: bool, description: &str) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "header", "required": required, "description": description,
            "schema": { "type": "string" },
        }));
        self
    }

    fn takes<T: ToSchema>(mut self, example: Value) -> Self {
        self.body = Some((self.reference::<T>(), example));
        self
    }

    fn gives<T: ToSchema>(mut self, status: u16, example: Value) -> Self {
        let schema = self.reference::<T>();
        self.answer = (status, "application/json", Some(schema), Some(example));
        self
    }

    /// An answer that is a page of these.
    fn gives_page<T: ToSchema>(mut self, example: Value) -> Self {
        let item = self.reference::<T>();
        let schema = json!({
            "type": "object", "required": ["items"],
            "properties": { "items": { "type": "array", "items": item }, "next": { "type": ["string", "null"] } },
        });
        let example = json!({ "items": [example], "next": null });
        self.answer = (200, "application/json", Some(schema), Some(example));
        self
    }

    fn gives_text(mut self, kind: &'static str, example: &str) -> Self {
        self.answer = (200, kind, Some(json!({ "type": "string" })), Some(json!(example)));
        self
    }

    /// Also describes this type, which stands inside what is answered.
    fn names<T: ToSchema>(mut self) -> Self {
        self.reference::<T>();
        self
    }

    fn reference<T: ToSchema>(&mut self) -> Value {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }

    fn described(&self) -> Value {
        let (status, kind, schema, example) = &self.answer;
        let mut answer = json!({ "description": match status { 201 => "made", 202 => "begun", 204 => "done", _ => "the answer" } });
        if let (Some(schema), Some(example)) = (schema, example) {
            answer["content"] = json!({ *kind: { "schema": schema, "example": example } });
        }
        let mut parameters: Vec<Value> = path_fields(self.path)
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        parameters.extend(self.parameters.iter().cloned());
        if self.method == "POST" {
            parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
        }
        let mut described = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "x-role": self.roles(),
            "parameters": parameters,
            "responses": { status.to_string(): answer, "default": { "$ref": "#/components/responses/Problem" } },
        });
        if let Some((schema, example)) = &self.body {
            described["requestBody"] = json!({
                "required": true,
                "content": { "application/json": { "schema": schema, "example": example } },
            });
        }
        if self.rule() == Some(Rule::Public) {
            described["security"] = json!([{}]);
        }
        described
    }

    fn rule(&self) -> Option<Rule> {
        let method = Method::from_bytes(self.method.as_bytes()).ok()?;
        rules::rule(&method, self.path)
    }

    fn roles(&self) -> Value {
        match self.rule() {
            Some(Rule::Any(roles)) => json!(roles.iter().map(|role| role.as_str()).collect::<Vec<_>>()),
            Some(Rule::Known) => json!("whoever is known; the answer depends on who asks"),
            Some(Rule::Public) => json!("anybody"),
            None => Value::Null,
        }
    }
}

/// The names in braces.
fn path_fields(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

#[cfg(test)]
pub(crate) mod tests;
