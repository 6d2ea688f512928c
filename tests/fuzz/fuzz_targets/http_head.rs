//! Any bytes as requests: the guard never panics, passes the same however they are cut, and what it passes as a head becomes
//! an operation that is opaque or has a path without dot segments.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockgate_inspect::http::Given;
use lockgate_model::http::HttpClass;
use lockgate_wire::http::{Guard, Guarded};
use std::collections::{BTreeMap, BTreeSet};

fn passed(input: &[u8], step: usize) -> Vec<u8> {
    let mut guard = Guard::default();
    let (mut waiting, mut passed) = (Vec::new(), Vec::new());
    for piece in input.chunks(step) {
        waiting.extend_from_slice(piece);
        loop {
            match guard.handle(&waiting) {
                Guarded::Pass(bytes) => passed.extend(waiting.drain(..bytes)),
                Guarded::More => break,
                Guarded::Refused(..) => return passed,
            }
        }
    }
    passed
}

fuzz_target!(|input: &[u8]| {
    let whole = passed(input, input.len().max(1));
    assert_eq!(whole, passed(input, 1));
    let line = whole.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return };
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return };
    let request = format!("{method} http://h{target}");
    let headers = BTreeMap::new();
    let facts =
        Given { request: &request, headers: &headers, body: None }.facts(&BTreeSet::new(), &BTreeSet::new());
    if facts.class != HttpClass::Opaque {
        assert!(!facts.path.split('/').any(|segment| segment == ".." || segment == "."), "{request}");
        assert!(!facts.path.contains("//") && !facts.path.contains('\\'), "{request}");
    }
});
