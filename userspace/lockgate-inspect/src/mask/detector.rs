//! The third lock: values that look like secrets in columns that nobody marked. Detectors see one form of a value only (not
//! its hash, not its reverse), so they add to column masks and never stand in for them.

use bytes::{BufMut, BytesMut};
use lockgate_model::verdict::Detector;
use regex::bytes::{Regex, RegexBuilder};
use std::collections::BTreeSet;

/// Longest value that is searched; the time for one row is bounded by it. What is longer is a document, of which the head
/// is searched and the rest is masked.
const MAX_VALUE_BYTES: usize = 256 * 1024;

/// The detectors that a policy asks for, compiled.
#[derive(Debug)]
pub(super) struct Detectors {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    pattern: Regex,
    label: &'static [u8],
    accept: Accept,
}

impl Detectors {
    pub(super) fn new(wanted: &BTreeSet<Detector>) -> Self {
        // Secrets first: a token may hold what looks like a telephone number.
        let order = [Detector::Secret, Detector::Email, Detector::CardNumber, Detector::Ssn, Detector::Phone];
        let rules = order.into_iter().filter(|detector| wanted.contains(detector)).filter_map(rule).collect();
        Self { rules }
    }

    /// Writes the value with its findings replaced; false when there are none, and then nothing is written.
    pub(super) fn redact(&self, value: &[u8], out: &mut BytesMut) -> bool {
        let (head, rest) = value.split_at(value.len().min(MAX_VALUE_BYTES));
        let mut findings: Vec<(usize, usize, &'static [u8])> = Vec::new();
        for rule in &self.rules {
            for found in rule.pattern.find_iter(head) {
                let free =
                    findings.iter().all(|(start, end, _)| found.end() <= *start || found.start() >= *end);
                if free && (rule.accept)(found.as_bytes()) && stands_alone(head, found.start(), found.end()) {
                    findings.push((found.start(), found.end(), rule.label));
                }
            }
        }
        if findings.is_empty() && rest.is_empty() {
            return false;
        }
        findings.sort_unstable_by_key(|(start, _, _)| *start);
        let mut copied = 0;
        for (start, end, label) in findings {
            out.put_slice(head.get(copied..start).unwrap_or_default());
            out.put_slice(label);
            copied = end;
        }
        out.put_slice(head.get(copied..).unwrap_or_default());
        if !rest.is_empty() {
            out.put_slice(super::method::REDACTED);
        }
        true
    }
}

/// Digits inside a longer run of letters and digits are part of something else.
fn stands_alone(text: &[u8], start: usize, end: usize) -> bool {
    let before = start.checked_sub(1).and_then(|at| text.get(at));
    let after = text.get(end);
    let joins = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let first = text.get(start).is_some_and(joins);
    let last = end.checked_sub(1).and_then(|at| text.get(at)).is_some_and(joins);
    let torn = first && before.is_some_and(joins) || last && after.is_some_and(joins);
    !torn
}

/// Whether what a pattern found is what it looks like.
type Accept = fn(&[u8]) -> bool;

fn rule(detector: Detector) -> Option<Rule> {
    let (pattern, label, accept): (&str, &'static [u8], Accept) = match detector {
        Detector::CardNumber => (r"[3-6]\d(?:[ -]?\d){11,17}", b"[redacted:card_number]", is_card),
        Detector::Ssn => (r"\d{3}([- ])\d{2}[- ]\d{4}", b"[redacted:ssn]", is_ssn),
        Detector::Email => (
            r"[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.)+[A-Za-z]{2,24}",
            b"[redacted:email]",
            |_| true,
        ),
        Detector::Phone => (
            r"(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})",
            b"[redacted:phone]",
            is_phone,
        ),
        Detector::Secret => (SECRETS, b"[redacted:secret]", |_| true),
    };
    RegexBuilder::new(pattern).unicode(false).build().ok().map(|pattern| Rule { pattern, label, accept })
}

/// Tokens that say what they are: private keys, JSON Web Tokens, and the prefixes that GitHub, GitLab, AWS, Slack, Stripe,
/// Google, npm, PyPI, OpenAI and HashiCorp give theirs; passwords in URLs.
const SECRETS: &str = concat!(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.)*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,64}",
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|xox[abeprs]-[A-Za-z0-9-]{10,250}",
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}|AIza[A-Za-z0-9_-]{35}",
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{32,512}|sk-[A-Za-z0-9_-]{20,255}|hv[sb]\.[A-Za-z0-9_-]{24,255}",
    r"|[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@]{1,128}:[^\s/@]{1,256}@",
);

/// Twelve to nineteen digits with a valid check digit (ISO/IEC 7812), not one digit over and over.
fn is_card(text: &[u8]) -> bool {
    let digits: Vec<u8> = text.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0').collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| match (index % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    (13..=19).contains(&digits.len())
        && sum.is_multiple_of(10)
        && digits.windows(2).any(|pair| pair[0] != pair[1])
}

/// Numbers that are given out: no group is all noughts, and the area is neither 666 nor 9xx (SSA, 2011).
fn is_ssn(text: &[u8]) -> bool {
    let (Some(area), Some(group), Some(serial)) = (text.get(..3), text.get(4..6), text.get(7..)) else {
        return false;
    };
    text.get(3) == text.get(6)
        && area != b"000"
        && area != b"666"
        && area.first() != Some(&b'9')
        && group != b"00"
        && serial != b"0000"
}

/// Eight to fifteen digits (ITU-T E.164).
fn is_phone(text: &[u8]) -> bool {
    (8..=15).contains(&text.iter().filter(|byte| byte.is_ascii_digit()).count())
}
