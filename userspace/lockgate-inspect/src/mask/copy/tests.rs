//! Streams as PostgreSQL writes them, cut at every place, and streams as it never would.

use super::*;
use crate::{
    mask::detector::{Detectors, Shape},
    sql::copy::Forced,
};
use lockgate_model::{secret::Secret, verdict::Detector};
use proptest::prelude::*;
use std::{collections::BTreeSet, sync::Arc};

fn text(delimiter: u8, null: &str, header: bool) -> CopyForm {
    let layout = CopyLayout::Text { delimiter, null: null.into() };
    CopyForm { layout, header, other_encoding: false }
}

fn csv(delimiter: u8, null: &str, quote: u8, escape: u8, header: bool) -> CopyForm {
    let forced = Forced::Named(Vec::new());
    let layout = CopyLayout::Csv { delimiter, null: null.into(), quote, escape, forced };
    CopyForm { layout, header, other_encoding: false }
}

fn binary_form() -> CopyForm {
    CopyForm { layout: CopyLayout::Binary, header: false, other_encoding: false }
}

const PASS: Field = Field::Pass;
const REDACT: Field = Field::Mask(Method::Redact);
const NULL: Field = Field::Mask(Method::Null);
const LAST: Field = Field::Mask(Method::Partial { keep_last: 4 });

fn search() -> Field {
    let wanted = BTreeSet::from([Detector::Ssn, Detector::Email]);
    Field::Detect(Arc::new(Detectors::new(&wanted)), Shape::Text)
}

fn mask(form: &CopyForm, fields: &[Field]) -> CopyMask {
    CopyMask::new(form, fields.iter().map(|field| (field.clone(), false)).collect())
}

fn fed(mut mask: CopyMask, pieces: &[&[u8]]) -> Result<(Vec<u8>, Copied), CopyError> {
    let mut out = BytesMut::new();
    let mut all = Copied::default();
    for piece in pieces {
        let copied = mask.feed(piece, &mut out)?;
        all.rows += copied.rows;
        all.masked += copied.masked;
    }
    mask.finish()?;
    Ok((out.to_vec(), all))
}

/// However the stream is cut, what comes out is the same.
#[track_caller]
fn check(form: &CopyForm, fields: &[Field], stream: &[u8], expected: &[u8], rows: u64, masked: u64) {
    let expected = (expected.to_vec(), Copied { rows, masked });
    let make = || mask(form, fields);
    assert_eq!(fed(make(), &[stream]).as_ref(), Ok(&expected), "{}", String::from_utf8_lossy(stream));
    let single: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(fed(make(), &single).as_ref(), Ok(&expected), "byte by byte");
    for at in 0..stream.len() {
        let (head, tail) = stream.split_at(at);
        assert_eq!(fed(make(), &[head, b"", tail]).as_ref(), Ok(&expected), "cut at {at}");
    }
}

#[test]
fn text_fields_are_found_by_delimiters_that_are_not_escaped() {
    for (form, fields, stream, expected, rows, masked) in [
        (
            text(b'\t', "\\N", false),
            [PASS, REDACT, PASS],
            "1\tabc\tx\n2\t\\N\ty\n",
            "1\t[redacted]\tx\n2\t\\N\ty\n",
            2,
            1,
        ),
        // A value that is spelled \N, or holds whatever tells fields and rows apart.
        (
            text(b'\t', "\\N", false),
            [PASS, REDACT, PASS],
            "\\\\N\t\\\\N\t\\\\N\n",
            "\\\\N\t[redacted]\t\\\\N\n",
            1,
            1,
        ),
        (
            text(b'\t', "\\N", false),
            [PASS, LAST, PASS],
            "a\\tb\t12\\n345678\\\\\tc\\nd\\\\\n",
            "a\\tb\t******678\\\\\tc\\nd\\\\\n",
            1,
            1,
        ),
        (
            text(b'|', "\\N", false),
            [PASS, REDACT, PASS],
            "a\\|b|c\\|d|\\\\\n",
            "a\\|b|[redacted]|\\\\\n",
            1,
            1,
        ),
        (text(b'|', "\\N", false), [PASS, LAST, PASS], "|a\\|bc\\|d|\n", "|***c\\|d|\n", 1, 1),
        // The mask itself is escaped.
        (text(b'[', "\\N", false), [PASS, REDACT, PASS], "a[b[c\n", "a[\\[redacted][c\n", 1, 1),
        (text(b'*', "\\N", false), [PASS, LAST, PASS], "a*12345678*c\n", "a*\\*\\*\\*\\*5678*c\n", 1, 1),
        // Names stay, and a header is no row.
        (
            text(b'\t', "\\N", true),
            [REDACT, REDACT, PASS],
            "id\ts\\tsn\tx\n1\t2\t3\n",
            "id\ts\\tsn\tx\n[redacted]\t[redacted]\t3\n",
            1,
            2,
        ),
        // Empty fields, the last one too.
        (text(b'\t', "", false), [PASS, REDACT, REDACT], "\t\t\n1\ta\t\n", "\t\t\n1\t[redacted]\t\n", 2, 1),
        (
            text(b'\t', "\\N", false),
            [REDACT, REDACT, REDACT],
            "\t\t\n",
            "[redacted]\t[redacted]\t[redacted]\n",
            1,
            3,
        ),
        (text(b'\t', "\\N", false), [PASS, NULL, PASS], "1\ta\t2\n", "1\t\\N\t2\n", 1, 1),
        (text(b'\t', "-", false), [PASS, NULL, PASS], "1\ta\t2\n", "1\t-\t2\n", 1, 1),
        // A line that looks like the old end of a copy is a value.
        (text(b'\t', "\\N", false), [PASS, REDACT, PASS], "\\\\.\t\\\\.\t\n", "\\\\.\t[redacted]\t\n", 1, 1),
        // Of a value of several lines nothing is left.
        (
            text(b'\t', "\\N", false),
            [PASS, REDACT, PASS],
            "1\ta\\nb\\r\\n\\v\\f\\b\t\\r\n",
            "1\t[redacted]\t\\r\n",
            1,
            1,
        ),
    ] {
        check(&form, &fields, stream.as_bytes(), expected.as_bytes(), rows, masked);
    }
}

#[test]
fn a_null_string_tells_of_no_value_that_is_spelled_like_it() {
    // COPY … (NULL '123-45-6789') would show which rows have that value.
    let form = text(b'\t', "123-45-6789", false);
    check(&form, &[PASS, REDACT], b"1\t123-45-6789\n2\tx\n", b"1\t[redacted]\n2\t[redacted]\n", 2, 2);
    // In a column without a mask it stays.
    check(&form, &[PASS, REDACT], b"123-45-6789\tx\n", b"123-45-6789\t[redacted]\n", 1, 1);
    // Usual ones stand for NULL.
    let form = text(b'\t', "NULL", false);
    check(&form, &[PASS, REDACT], b"1\tNULL\n", b"1\tNULL\n", 1, 0);
    // In csv the server quotes such a value, so nothing is in doubt.
    let form = csv(b',', "123-45-6789", b'"', b'"', false);
    check(
        &form,
        &[PASS, REDACT],
        b"1,123-45-6789\n2,\"123-45-6789\"\n",
        b"1,123-45-6789\n2,[redacted]\n",
        2,
        1,
    );
}

#[test]
fn csv_fields_end_outside_quotes() {
    let usual = || csv(b',', "", b'"', b'"', false);
    for (form, fields, stream, expected, rows, masked) in [
        (
            usual(),
            [PASS, REDACT, PASS],
            "1,abc,x\n2,,y\n3,\"\",z\n",
            "1,[redacted],x\n2,,y\n3,[redacted],z\n",
            3,
            2,
        ),
        (
            usual(),
            [PASS, REDACT, PASS],
            "\"a,b\",\"c,\nd\",\"e\nf\"\n",
            "\"a,b\",[redacted],\"e\nf\"\n",
            1,
            1,
        ),
        (
            usual(),
            [PASS, LAST, PASS],
            "\"\"\"\",\"1234\"\"678\",\"\"\"\"\"\"\n",
            "\"\"\"\",\"****\"\"678\",\"\"\"\"\"\"\n",
            1,
            1,
        ),
        (
            usual(),
            [REDACT, REDACT, REDACT],
            ",,\n\"\",\"\",\"\"\n",
            ",,\n[redacted],[redacted],[redacted]\n",
            2,
            3,
        ),
        (
            csv(b';', "x", b'\'', b'\\', false),
            [PASS, LAST, PASS],
            "'a;\\'\\\\';'1234\\'678';\\\\\n",
            "'a;\\'\\\\';'****\\'678';\\\\\n",
            1,
            1,
        ),
        (
            csv(b';', "x", b'\'', b'\\', false),
            [PASS, REDACT, PASS],
            "x;x;'x'\nx;'x';x\n",
            "x;x;'x'\nx;[redacted];x\n",
            2,
            1,
        ),
        (csv(b'[', "", b'"', b'"', false), [PASS, REDACT, PASS], "a[b[c\n", "a[\"[redacted]\"[c\n", 1, 1),
        (
            csv(b',', "", b'*', b'*', false),
            [PASS, LAST, PASS],
            "1,12345678,2\n",
            "1,***********5678*,2\n".replace("***********5678*", "*********5678*").as_str(),
            1,
            1,
        ),
        (
            csv(b',', "", b'"', b'"', true),
            [PASS, REDACT, REDACT],
            "id,\"a\n,\"\"b\",c\n1,2,3\n",
            "id,\"a\n,\"\"b\",c\n1,[redacted],[redacted]\n",
            1,
            2,
        ),
        (
            csv(b',', "[redacted]", b'"', b'"', false),
            [PASS, REDACT, NULL],
            "1,2,3\n",
            "1,\"[redacted]\",[redacted]\n",
            1,
            2,
        ),
        // A quoted value tells by its quotes that it holds something; its mask does not.
        (usual(), [PASS, REDACT, PASS], "1,\"a,b\",2\n1,ab,2\n", "1,[redacted],2\n1,[redacted],2\n", 2, 2),
        (usual(), [PASS, REDACT, PASS], "\\.,\\.,\\.\n", "\\.,[redacted],\\.\n", 1, 1),
    ] {
        check(&form, &fields, stream.as_bytes(), expected.as_bytes(), rows, masked);
    }
    // FORCE_QUOTE is kept, since NULL alone stays without quotes.
    let fields = vec![(PASS, true), (REDACT, true)];
    let (out, _) = fed(CopyMask::new(&usual(), fields), &[b"\"1\",\"a\"\n\"2\",\n"]).unwrap();
    assert_eq!(out, b"\"1\",\"[redacted]\"\n\"2\",\n");
}

fn row(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_i16(fields.len().try_into().unwrap());
    for field in fields {
        match field {
            None => out.put_i32(-1),
            Some(value) => {
                out.put_i32(value.len().try_into().unwrap());
                out.put_slice(value);
            }
        }
    }
    out.to_vec()
}

fn binary_stream(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    rows.iter().for_each(|row| out.extend(row));
    out.extend(b"\xff\xff");
    out
}

#[test]
fn binary_fields_are_found_by_their_lengths() {
    let stream = binary_stream(&[
        row(&[Some(b"\0\0\0\x01"), Some(b"123-45-6789"), Some(b"")]),
        row(&[None, None, Some(b"\xff\xff")]),
        row(&[Some(b""), Some(b""), Some(b"x")]),
    ]);
    let expected = binary_stream(&[
        row(&[Some(b"\0\0\0\x01"), Some(b"[redacted]"), Some(b"")]),
        row(&[None, None, Some(b"\xff\xff")]),
        row(&[Some(b""), Some(b"[redacted]"), Some(b"x")]),
    ]);
    check(&binary_form(), &[PASS, REDACT, PASS], &stream, &expected, 3, 2);
    let stream = binary_stream(&[row(&[Some(b"a"), Some(b"1234567890"), Some(b"\0\x01")])]);
    let expected = binary_stream(&[row(&[Some(b"a"), Some(b"******7890"), None])]);
    check(&binary_form(), &[PASS, LAST, NULL], &stream, &expected, 1, 2);
}

#[test]
fn what_does_not_fit_the_plan_is_no_stream_to_pass_on() {
    let count = |expected| CopyError::FieldCount { expected };
    let usual = csv(b',', "", b'"', b'"', false);
    for (form, stream, error) in [
        (text(b'\t', "\\N", false), &b"1\t2\n"[..], count(3)),
        (text(b'\t', "\\N", false), b"1\t2\t3\t4\n", count(3)),
        (text(b'\t', "\\N", true), b"a\tb\n", count(3)),
        (text(b'\t', "\\N", false), b"1\t2\t3", CopyError::Unfinished),
        (text(b'\t', "\\N", false), b"1\t2\t", CopyError::Unfinished),
        (
            text(b'\t', "\\N", false),
            b"1\t2\\\n3\t4\n",
            CopyError::Malformed("no line break behind a backslash"),
        ),
        (usual.clone(), b"1,2\n", count(3)),
        (usual.clone(), b"1,2,3,4\n", count(3)),
        (usual.clone(), b"1,\"2\"x,3\n", CopyError::Malformed("the end of a field behind a closing quote")),
        (usual.clone(), b"1,x\"2\",3\n", CopyError::Malformed("no quote inside an unquoted field")),
        (usual, b"1,2,\"3\n", CopyError::Unfinished),
        (
            csv(b',', "", b'"', b'\\', false),
            b"1,\"\\x\",3\n",
            CopyError::Malformed("a quote or an escape behind an escape"),
        ),
        (
            binary_form(),
            b"PGCOPY\n\xff\r\n\x01\0\0\0\0\0\0\0\0",
            CopyError::Malformed("the header of a binary copy"),
        ),
        (
            binary_form(),
            b"PGCOPY\n\xff\r\n\0\0\x01\0\0\0\0\0\0",
            CopyError::Malformed("the header of a binary copy"),
        ),
        (
            binary_form(),
            b"PGCOPY\n\xff\r\n\0\0\0\0\0\xff\xff\xff\xff",
            CopyError::Malformed("a length of a header's extension"),
        ),
    ] {
        assert_eq!(fed(mask(&form, &[PASS, REDACT, PASS]), &[stream]), Err(error), "{stream:?}");
    }
    for (stream, error) in [
        (binary_stream(&[row(&[None, None])]), count(3)),
        (binary_stream(&[row(&[None, None, None, None])]), count(3)),
        ([binary_stream(&[]), b"x".to_vec()].concat(), CopyError::Malformed("nothing behind the trailer")),
        (
            b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x03\xff\xff\xff\xfe".to_vec(),
            CopyError::Malformed("a length"),
        ),
        (binary_stream(&[]).split_last().unwrap().1.to_vec(), CopyError::Unfinished),
    ] {
        assert_eq!(fed(mask(&binary_form(), &[PASS, REDACT, PASS]), &[&stream]), Err(error), "{stream:?}");
    }
}

#[test]
fn values_longer_than_memory_is_given_show_nothing_of_themselves() {
    let long = "9".repeat(3 * MAX_HELD);
    let stream = format!("1\t{long}\tx\n2\t{long}\ty\n");
    let mut mask = mask(&text(b'\t', "\\N", false), &[PASS, LAST, PASS]);
    let mut out = BytesMut::new();
    for piece in stream.as_bytes().chunks(10_000) {
        mask.feed(piece, &mut out).unwrap();
        assert!(mask.held.bytes.len() <= MAX_HELD);
    }
    mask.finish().unwrap();
    assert_eq!(&out[..], b"1\t[redacted]\tx\n2\t[redacted]\ty\n");
    // Whole it is masked as in a row.
    let whole = format!("1\t{long}\tx\n");
    let (out, _) =
        fed(super::tests::mask(&text(b'\t', "\\N", false), &[PASS, LAST, PASS]), &[whole.as_bytes()])
            .unwrap();
    assert_eq!(out.len(), whole.len());
    assert!(out.ends_with(b"**9999\tx\n"));
}

#[test]
fn detectors_search_what_values_are_not_how_they_are_written() {
    let form = text(b'-', "\\N", false);
    // Every hyphen of the number is escaped, since it is the delimiter.
    check(
        &form,
        &[PASS, search()],
        b"1-see 123\\-45\\-6789!\n2-no\\-thing\\n\n",
        b"1-see [redacted:ssn]!\n2-no\\-thing\\n\n",
        2,
        1,
    );
    let form = csv(b',', "", b'"', b'"', false);
    check(
        &form,
        &[search(), search()],
        b"\"a \"\"quoted\"\", ana@example.com\",123-45-6789\n",
        b"\"a \"\"quoted\"\", [redacted:email]\",[redacted:ssn]\n",
        1,
        2,
    );
    let stream = binary_stream(&[row(&[Some(b"ana@example.com"), Some(b"x")])]);
    let expected = binary_stream(&[row(&[Some(b"[redacted:email]"), Some(b"x")])]);
    check(&binary_form(), &[search(), search()], &stream, &expected, 1, 1);
}

#[test]
fn in_another_encoding_no_mask_differs_from_the_one_in_rows() {
    let key = Field::Mask(Method::Hash { key: Arc::new(Secret::new(b"key".to_vec())) });
    let mut form = text(b'\t', "\\N", false);
    form.other_encoding = true;
    // ASCII is the same; "Müller" in LATIN1 would have another hash than in UTF-8.
    let (out, _) = fed(mask(&form, &[key, LAST]), &[b"M\xfcller\t12345678\n"]).unwrap();
    assert_eq!(out, b"[redacted]\t****5678\n");
}

/// What the server writes of a value (CopyAttributeOutText, CopyAttributeOutCSV).
fn written(form: &CopyForm, value: Option<&str>, out: &mut Vec<u8>) {
    match (&form.layout, value) {
        (CopyLayout::Binary, _) => unreachable!("not tried here"),
        (CopyLayout::Text { null, .. } | CopyLayout::Csv { null, .. }, None) => out.extend(null),
        (CopyLayout::Text { delimiter, .. }, Some(value)) => {
            for byte in value.bytes() {
                match b"\x08\x0c\n\r\t\x0b".iter().position(|special| *special == byte) {
                    Some(at) => out.extend([b'\\', b"bfnrtv"[at]]),
                    None if byte == *delimiter || byte == b'\\' => out.extend([b'\\', byte]),
                    None => out.push(byte),
                }
            }
        }
        (CopyLayout::Csv { delimiter, null, quote, escape, .. }, Some(value)) => {
            let special = |byte: u8| byte == *delimiter || byte == *quote || byte == b'\n' || byte == b'\r';
            if value.as_bytes() == null || value.bytes().any(special) {
                out.push(*quote);
                for byte in value.bytes() {
                    if byte == *quote || byte == *escape {
                        out.push(*escape);
                    }
                    out.push(byte);
                }
                out.push(*quote);
            } else {
                out.extend(value.bytes());
            }
        }
    }
}

proptest! {
    /// Whatever stands in the fields, and however the stream is cut: masked fields are masked as in rows, others are untouched.
    #[test]
    fn streams_are_masked_as_rows_are(
        rows in prop::collection::vec(
            prop::collection::vec(prop::option::of("[a-c,;|'\"\\\\\n\r\t.N\u{e9}]{0,12}"), 3),
            1..6,
        ),
        form in 0_usize..4,
        cuts in prop::collection::vec(0_usize..400, 0..8),
    ) {
        let forms = [
            text(b'\t', "\\N", false),
            text(b'|', "\\N", false),
            csv(b',', "", b'"', b'"', false),
            csv(b';', "N", b'\'', b'\\', false),
        ];
        let form = &forms[form];
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for row in &rows {
            for (at, value) in row.iter().enumerate() {
                let mut shown = BytesMut::new();
                let masked = match (at, value) {
                    (1, Some(value)) => {
                        Method::Partial { keep_last: 4 }.apply(value.as_bytes(), &mut shown);
                        Some(std::str::from_utf8(&shown).unwrap())
                    }
                    (2, Some(_)) => Some("[redacted]"),
                    (_, value) => value.as_deref(),
                };
                written(form, value.as_deref(), &mut stream);
                written(form, masked, &mut expected);
                let (CopyLayout::Text { delimiter, .. } | CopyLayout::Csv { delimiter, .. }) = &form.layout else {
                    unreachable!("not tried here")
                };
                let end = if at == 2 { b'\n' } else { *delimiter };
                stream.push(end);
                expected.push(end);
            }
        }
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (stream.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&stream[from..cut]);
            from = cut;
        }
        pieces.push(&stream[from..]);
        let (out, copied) = fed(mask(form, &[PASS, LAST, REDACT]), &pieces).unwrap();
        prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
        prop_assert_eq!(copied.rows, rows.len() as u64);
    }

    /// Nothing that a target can send makes it panic, and what does not fit is refused.
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), form in 0_usize..3) {
        let forms = [text(b'\t', "\\N", false), csv(b',', "", b'"', b'"', true), binary_form()];
        let _ = fed(mask(&forms[form], &[PASS, REDACT, search()]), &[&bytes]);
    }
}
