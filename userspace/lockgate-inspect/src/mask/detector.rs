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
pub(crate) struct Detectors {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    pattern: Regex,
    label: &'static [u8],
    accept: Accept,
}

impl Detectors {
    pub(crate) fn new(wanted: &BTreeSet<Detector>) -> Self {
        // Secrets first: a token may hold what looks like a telephone number.
        let order = [Detector::Secret, Detector::Email, Detector::CardNumber, Detector::Ssn, Detector::Phone];
        let rules = order.into_iter().filter(|detector| wanted.contains(detector)).filter_map(rule).collect();
        Self { rules }
    }

    /// The same for a value of a certain shape.
    pub(super) fn redact_as(&self, shape: Shape, value: &[u8], out: &mut BytesMut) -> Found {
        match shape {
            Shape::Text => match self.redact(value, out) {
                true => Found::Written,
                false => Found::Nothing,
            },
            Shape::Json => match self.redact(value, out) {
                false => Found::Nothing,
                // A number, or a value too long to be searched whole: the label would not be JSON.
                true if !labels_stand_in_strings(out) => Found::Unwritable,
                true => Found::Written,
            },
            Shape::Array => self.redact_array(value, out),
        }
    }

    /// An array in its text form is searched as a text; in its binary form element by element (array_send in
    /// arrayfuncs.c): number of dimensions, flags, element type, length and lower bound of each dimension, and the elements
    /// with their lengths.
    fn redact_array(&self, value: &[u8], out: &mut BytesMut) -> Found {
        if value.first().is_some_and(|first| matches!(first, b'{' | b'[')) {
            return self.redact_as(Shape::Text, value, out);
        }
        let Some(header) = binary_header(value) else { return Found::Nothing };
        let (head, mut rest) = value.split_at(header);
        out.put_slice(head);
        let mut changed = false;
        while !rest.is_empty() {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { return Found::Unwritable };
            let Ok(bytes) = usize::try_from(i32::from_be_bytes(*length)) else {
                // NULL.
                out.put_slice(length);
                rest = after;
                continue;
            };
            let Some((element, after)) = after.split_at_checked(bytes) else { return Found::Unwritable };
            let mut redacted = BytesMut::new();
            let found = self.redact(element, &mut redacted);
            changed |= found;
            let element = if found { &redacted[..] } else { element };
            let Ok(length) = i32::try_from(element.len()) else { return Found::Unwritable };
            out.put_i32(length);
            out.put_slice(element);
            rest = after;
        }
        if changed { Found::Written } else { Found::Nothing }
    }

    /// Writes the value with its findings replaced; false when there are none, and then nothing is written.
    pub(crate) fn redact(&self, value: &[u8], out: &mut BytesMut) -> bool {
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

/// How a value's bytes hold its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// They are the text.
    Text,
    /// JSON, and jsonb with the version byte of its binary form.
    Json,
    /// An array of texts.
    Array,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: the value stands as it is, and what was written does not count.
    Nothing,
    /// Something: the value to show was written.
    Written,
    /// Something that cannot be replaced where it stands: the value must not be shown.
    Unwritable,
}

/// Where the elements of a binary array begin.
fn binary_header(value: &[u8]) -> Option<usize> {
    let dimensions = u32::from_be_bytes(*value.first_chunk::<4>()?);
    // MAXDIM in c.h.
    let dimensions = usize::try_from(dimensions).ok().filter(|dimensions| *dimensions <= 6)?;
    Some(12 + 8 * dimensions).filter(|header| *header <= value.len())
}

/// Whether every label of a redacted JSON text stands inside a string, and nothing was cut off.
fn labels_stand_in_strings(text: &[u8]) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b'[' if !inside && text.get(at..).is_some_and(|rest| rest.starts_with(b"[redacted")) => {
                return false;
            }
            _ => {}
        }
    }
    !inside
}

/// Digits inside a longer run of letters and digits are part of something else.
///
/// Numbers are also torn out where their groups go on behind a hyphen or a dot.
fn stands_alone(text: &[u8], start: usize, end: usize) -> bool {
    let byte = |at: Option<usize>| at.and_then(|at| text.get(at));
    let digit = |at: Option<usize>| byte(at).is_some_and(u8::is_ascii_digit);
    let dash = |at: Option<usize>| byte(at).is_some_and(|byte| matches!(byte, b'-' | b'.'));
    let goes_on_before = digit(Some(start)) && dash(start.checked_sub(1)) && digit(start.checked_sub(2));
    let goes_on_after = digit(end.checked_sub(1)) && dash(Some(end)) && digit(end.checked_add(1));
    // The user of a URL's authority is no mailbox.
    let authority = byte(start.checked_sub(1)) == Some(&b'/') && byte(start.checked_sub(2)) == Some(&b'/');
    if goes_on_before || goes_on_after || authority {
        return false;
    }
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
        Detector::CardNumber => (r"[2-6]\d(?:[ -]?\d){11,17}", b"[redacted:card_number]", is_card),
        Detector::Ssn => (r"\d{3}([- ])\d{2}[- ]\d{4}", b"[redacted:ssn]", is_ssn),
        Detector::Email => (
            r"[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.)+[A-Za-z]{2,24}",
            b"[redacted:email]",
            is_email,
        ),
        Detector::Phone => (
            r"(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}|0\d{2,4}[ -]\d{3,4}[ -]\d{4})",
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
        && is_issued(&digits)
}

/// Whether an issuer gives out numbers that begin so and are so long (ISO/IEC 7812 ranges as the networks publish them).
fn is_issued(digits: &[u8]) -> bool {
    let head =
        |count: usize| digits.iter().take(count).fold(0_u32, |number, digit| number * 10 + u32::from(*digit));
    let (two, three, four) = (head(2), head(3), head(4));
    match digits.len() {
        13 => two / 10 == 4,
        14 => matches!(two, 36 | 38 | 39) || matches!(three, 300..=305),
        15 => matches!(two, 34 | 37),
        16 => {
            matches!(two, 36 | 38 | 39 | 40..=49 | 50..=59 | 60 | 62..=65 | 67)
                || matches!(four, 2221..=2720 | 3528..=3589)
        }
        17 | 18 => matches!(two, 50 | 56..=58 | 62 | 63 | 67),
        19 => matches!(two, 40..=49 | 50 | 56..=58 | 62 | 63 | 67),
        _ => false,
    }
}

/// What looks like a mailbox and is something else: a file of a picture for dense screens, an account of a version control
/// system that everybody shares.
fn is_email(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    let file = [&b".png"[..], b".jpg", b".jpeg", b".gif", b".svg", b".webp", b".avif"];
    !lower.starts_with(b"git@") && !file.iter().any(|end| lower.ends_with(end))
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
