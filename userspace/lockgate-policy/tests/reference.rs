//! The policy reference is what the code says: written by `lockgate policy reference`, compared here.
#![allow(clippy::disallowed_methods, reason = "tests compare a document with what the code says")]

use lockgate_policy::CompiledPolicy;
use std::{fs, path::Path};

#[test]
fn the_reference_is_what_the_code_says() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy-reference.md");
    let made = CompiledPolicy::reference();
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("policy-reference.md");
    fs::write(&fresh, &made).unwrap();
    let written = fs::read_to_string(&document).unwrap_or_default();
    assert!(
        written == made,
        "userspace/docs/policy-reference.md has drifted; `lockgate policy reference > userspace/docs/policy-reference.md`, \
         or copy {}",
        fresh.display()
    );
}

#[test]
fn every_block_and_key_has_words_and_every_link_leads_to_a_heading() {
    let made = CompiledPolicy::reference();
    let headings: Vec<String> = made
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| title.to_lowercase().replace(' ', "-"))
        .collect();
    assert!(headings.len() > 20, "{headings:?}");
    for target in made.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(headings.iter().any(|heading| heading == target), "#{target} is no heading");
    }
    for line in made.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert!(cells.len() == 3 && !cells[2].trim().is_empty(), "{line}");
    }
    for key in
        ["`coalesce`", "`unmask_for`", "`max_wait_in_transaction`", "`in_predicate`", "`blocks_next_use`"]
    {
        assert!(made.contains(key), "{key} is missing");
    }
}
