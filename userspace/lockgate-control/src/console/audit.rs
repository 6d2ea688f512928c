//! The audit log: checking all of it, the newest signed head, proofs to take away.

use super::{
    Console,
    form::Fields,
    page::{Page, Refusal, Section, Visit},
    parts::{fact, marked, number, said, word},
};
use crate::{
    api::problem::Problem,
    auth::Role,
    house::{Proof, ProofQuery},
};
use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use serde_json::Value;
use std::sync::Arc;

pub(super) async fn show(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    visit.caller.require(Role::Auditor)?;
    let fields = Fields::of_address(&visit.query);
    let verified = match fields.text("verify") {
        Some("all") => {
            let report = console.house()?.verify().await?;
            Some(serde_json::to_value(&report).unwrap_or_default())
        }
        _ => None,
    };
    let head = console.house()?.prove(ProofQuery::Checkpoint).await;
    let record = fields.text("record").unwrap_or_default();
    let body = html! {
        div.head { h1 { "Audit log" } p { "Every step rests in a hash chain and a Merkle tree whose head is signed. What is proven here can be checked elsewhere, with the public key alone." } }
        section.card aria-labelledby="verify" {
            header { h2 #verify { "Is every record the one that was written?" } a.button href="/audit?verify=all#verify" { "Check the whole log" } }
            div.body { @match &verified {
                None => p.muted { "Reads the whole log back and checks every link; a large log takes a while, and leaving the page stops nothing." },
                Some(report) => (report_of(report)),
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
    Ok(Page::new("Audit log", Section::Audit, body))
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
    visit.caller.require(Role::Auditor)?;
    let fields = Fields::of_address(&visit.query);
    let Some(record) = fields.text("record") else {
        return Ok(("checkpoint.txt".to_owned(), console.house()?.prove(ProofQuery::Checkpoint).await?));
    };
    let number: u64 = record.parse().map_err(|_| Problem::malformed("expected the number of a record"))?;
    let proof = console.house()?.prove(ProofQuery::Record(number)).await?;
    Ok((format!("record-{number}.tlog-proof"), proof))
}
