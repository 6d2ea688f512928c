//! The audit log: checking all of it, the newest signed head, proofs to take away.

use super::{
    Console,
    form::Fields,
    page::{Page, Refusal, Section, Visit, csrf},
    parts::{fact, marked, number, said, time, word},
};
use crate::{
    api::{
        problem::Problem,
        verification::{KEEPERS, Verification},
    },
    house::{Proof, ProofQuery},
};
use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use lockgate_model::Timestamp;
use maud::{Markup, html};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// Without script, a page that shows how far something is comes anew this often.
const RELOAD: Duration = Duration::from_secs(2);

pub(super) async fn show(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    visit.caller.require_any(&KEEPERS)?;
    let fields = Fields::of_address(&visit.query);
    let last = console.desk.bounds.verifications.last();
    let head = console.house()?.prove(ProofQuery::Checkpoint).await;
    let record = fields.text("record").unwrap_or_default();
    let now = console.desk.ambient.now();
    let state = last.as_ref().map_or("", |last| last.state);
    let body = html! {
        div.head { h1 { "Audit log" } p { "Every step rests in a hash chain and a Merkle tree whose head is signed. What is proven here can be checked elsewhere, with the public key alone." } }
        section.card aria-labelledby="verify" {
            header {
                h2 #verify { "Is every record the one that was written?" }
                @if state != "running" {
                    form method="post" action="/audit/verify" { (csrf(&visit.caller)) button { @if last.is_some() { "Check it again" } @else { "Check the whole log" } } }
                }
            }
            div.body #verification data-live { @match &last {
                None => p.muted { "Reads the whole log back and checks every link. A large log takes a while: this page shows how far it is, and it can be stopped." },
                Some(last) => (verification(visit, last, now)),
            } }
        }
        section.card aria-labelledby="head" {
            h2 #head { "Newest signed head" }
            div.body { @match &head {
                Ok(proof) => (checkpoint(proof)),
                Err(error) => p.note.warn { (word(&error.to_string())) },
            } }
        }
        section.card aria-labelledby="prove" {
            h2 #prove { "Prove that a record is in the log" }
            div.body {
                form.row-actions method="get" action="/audit/proof" {
                    div.field { label for="record" { "Record number" } input #record name="record" type="number" min="1" required value=(record); }
                    button { "Download its proof" }
                }
                p.small.muted { "Check it elsewhere with " code { "lockgate audit check" } " and the public key." }
            }
        }
    };
    let page = Page::new("Audit log", Section::Audit, body);
    Ok(if state == "running" { page.live("/audit/live", state).reloading(RELOAD) } else { page })
}

/// How far it is, or what was found.
fn verification(visit: &Visit, last: &Verification, now: Timestamp) -> Markup {
    let percent = match last.bytes_total {
        0 => 0,
        total => (last.bytes.min(total).saturating_mul(100) / total).min(100),
    };
    let how_far = format!("{percent} %, {} records", number(last.records));
    html! {
        @match last.state {
            "running" => {
                p role="status" { strong { "Checking." } " " (how_far) }
                progress max="100" value=(percent) aria-label="How far the verification is" { (percent) " %" }
                form method="post" action="/audit/verify/stop" { (csrf(&visit.caller)) button.danger { "Stop it" } }
            }
            "stopped" => p.note.warn role="status" { strong { "Stopped" } " at " (how_far) ". What was not read is not known to be intact." },
            "failed" => p.note.bad role="alert" { strong { "It could not be finished: " } (word(last.error.as_deref().unwrap_or_default())) },
            _ => {
                @if let Some(report) = &last.report { (report_of(&serde_json::to_value(report).unwrap_or_default())) }
            }
        }
        p.small.muted {
            "Begun by " (word(&last.by)) " " (time(last.began_at, now))
            @if let Some(ended) = last.ended_at { ", ended " (time(ended, now)) }
            ". The same from a shell: " code { "lockgate audit verify" }
        }
    }
}

/// `POST /audit/verify`
pub(super) async fn begin(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let begun = console.post(&visit.caller, "/v1/audit/verification", &Value::Null).await;
    let done = begun.map(|_| ("/audit".to_owned(), "The whole log is being checked.".to_owned()));
    console.done(&visit, done)
}

/// `POST /audit/verify/stop`
pub(super) async fn stop(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let stopped = console.post(&visit.caller, "/v1/audit/verification/stop", &Value::Null).await;
    let done = stopped.map(|_| ("/audit".to_owned(), "The verification is told to stop.".to_owned()));
    console.done(&visit, done)
}

fn report_of(report: &Value) -> Markup {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let count = |name: &str| number(report[name].as_u64().unwrap_or(0));
    html! {
        @if report["integrity"] == "intact" {
            p.note.good role="status" { strong { "✓ Intact." } " " (count("records")) " records, each the one that was written." }
        } @else {
            p.note.bad role="alert" { strong { "✕ Broken." } " " (count("findings_total")) " findings in " (count("records")) " records." }
        }
        dl.facts {
            (fact("Last record", &count("last_seq")))
            (fact("Its hash", &said(&report["last_hash"])))
            (fact("Signed heads met", &count("checkpoints_met")))
            (fact("Trusted key", &said(&report["public_key"])))
        }
        @if !findings.is_empty() { ul.stack { @for finding in findings { li { code { (word(&finding.to_string())) } } } } }
        @for note in report["notes"].as_array().into_iter().flatten() { p.small.muted { (word(&said(note))) } }
    }
}

fn checkpoint(proof: &Proof) -> Markup {
    html! {
        pre tabindex="0" aria-label="Signed head" { code { (marked(&proof.text)) } }
        @if let Some(key) = &proof.public_key { dl.facts { dt { "Public key" } dd { code { (word(key)) } } } }
        p { a href="/audit/proof" download="checkpoint.txt" { "Download it" } }
    }
}

/// `GET /audit/proof[?record=N]`: text to take away.
pub(super) async fn proof(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    match prove(&console, &visit).await {
        Ok((name, proof)) => {
            let name = HeaderValue::from_str(&format!("attachment; filename=\"{name}\""))
                .unwrap_or_else(|_| HeaderValue::from_static("attachment"));
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
                (header::CONTENT_DISPOSITION, name),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            ];
            (headers, proof.text).into_response()
        }
        Err(refusal) => console.refuse(&visit, &refusal),
    }
}

async fn prove(console: &Console, visit: &Visit) -> Result<(String, Proof), Refusal> {
    visit.caller.require_any(&KEEPERS)?;
    let fields = Fields::of_address(&visit.query);
    let Some(record) = fields.text("record") else {
        return Ok(("checkpoint.txt".to_owned(), console.house()?.prove(ProofQuery::Checkpoint).await?));
    };
    let number: u64 = record.parse().map_err(|_| Problem::malformed("expected the number of a record"))?;
    let proof = console.house()?.prove(ProofQuery::Record(number)).await?;
    Ok((format!("record-{number}.tlog-proof"), proof))
}
