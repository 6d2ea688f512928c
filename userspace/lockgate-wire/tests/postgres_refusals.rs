//! Bad input by the table: each kind of wrong bytes has an error of its own that names what was expected and what came.

use bytes::{Bytes, BytesMut};
use lockgate_wire::postgres::backend::{Backend, DataRowWriter, ReportFields, Severity, field};
use lockgate_wire::postgres::frame::{Frame, Limits};
use lockgate_wire::postgres::frontend::Frontend;
use lockgate_wire::postgres::startup::StartupDecoder;
use lockgate_wire::postgres::{PgString, WireError};

#[test]
fn what_cannot_be_a_startup_packet_is_told_from_its_first_bytes() {
    #[track_caller]
    fn check(bytes: &[u8], expected: Result<bool, &str>) {
        let got = StartupDecoder::new(Limits::CLIENT).next(&mut BytesMut::from(bytes));
        assert_eq!(got.map(|p| p.is_some()).map_err(|e| e.kind()), expected, "{bytes:x?}");
    }
    check(b"", Ok(false));
    check(b"\0\0", Ok(false));
    check(b"\0\0\0\x08\x04\xd2\x16", Ok(false));
    check(b"\0\0\0\x08\x04\xd2\x16\x2f", Ok(true));
    check(b"\0\0\0\x08\x04\xd2\x16\x30", Ok(true));
    check(b"\x16", Err("direct_tls"));
    check(b"\x16\x03\x01\x02\0\x01", Err("direct_tls"));
    check(b"GET / HTTP/1.1\r\n", Err("not_postgres"));
    check(b"SSH-2.0-x", Err("not_postgres"));
    check(b"\x40\0\0\0", Err("not_postgres"));
    check(b"\0\0\x27\x11", Err("length_too_large"));
    check(b"\0\0\x27\x10", Ok(false));
    check(b"\0\0\0\x07", Err("length_too_small"));
    check(b"\0\0\0\0", Err("length_too_small"));
    check(b"\0\0\0\x08\0\x02\0\0", Err("unsupported_protocol"));
    check(b"\0\0\0\x08\0\x03\0\0", Err("missing_nul"));
    check(b"\0\0\0\x09\0\x03\0\0\0", Ok(true));
    check(b"\0\0\0\x0a\0\x03\0\0\0\0", Err("trailing_bytes"));
    check(b"\0\0\0\x09\x04\xd2\x16\x2f\0", Err("trailing_bytes"));
    check(b"\0\0\0\x0f\x04\xd2\x16\x2e\0\0\0\x01abc", Err("length_too_small"));
    check(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd", Ok(true));
}

#[test]
fn bad_client_messages_have_errors_of_their_own() {
    #[track_caller]
    fn check(tag: u8, body: &[u8], expected: &str) {
        let error = Frontend::decode(&frame(tag, body)).expect_err("bad");
        assert_eq!(error.kind(), expected, "{error}");
    }
    check(b'Q', b"select 1", "missing_nul");
    check(b'Q', b"a\0b\0", "trailing_bytes");
    check(b'S', b"x", "trailing_bytes");
    check(b'P', b"\0select 1\0\xff\xff\0\0\0\x17", "truncated");
    check(b'B', b"\0\0\0\x01\0\x02\0\0\0\0", "bad_value");
    check(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0", "truncated");
    check(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0", "length_too_small");
    check(b'D', b"Xname\0", "bad_value");
    check(b'C', b"", "truncated");
    check(b'E', b"\0\0\0", "truncated");
}

#[test]
fn unknown_types_are_named() {
    let error = Frontend::decode(&frame(b'y', b"")).expect_err("unknown");
    assert_eq!(error.to_string(), "unknown client message type y (0x79)");
    let error = Backend::decode(&frame(0, b"")).expect_err("unknown");
    assert_eq!(error.to_string(), "unknown server message type ? (0x00)");
}

#[test]
fn bad_server_messages_have_errors_of_their_own() {
    #[track_caller]
    fn check(tag: u8, body: &[u8], expected: &str) {
        let error = Backend::decode(&frame(tag, body)).expect_err("bad");
        assert_eq!(error.kind(), expected, "{error}");
    }
    check(b'D', b"\0\x01\0\0\0\x02a", "truncated");
    check(b'D', b"\0\x01\xff\xff\xff\xfd", "length_too_small");
    check(b'D', b"\0\0x", "trailing_bytes");
    check(b'D', b"\xff\xff", "truncated");
    check(b'T', b"\xff\xff", "truncated");
    check(b'Z', b"Q", "bad_value");
    check(b'R', b"\0\0\0\x63", "bad_value");
    check(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0", "missing_nul");
    check(b'K', b"\0\0\0\x01abc", "length_too_small");
    check(b'v', b"\0\x03\0\0\x7f\xff\xff\xff", "truncated");
    check(b'E', b"SERROR\0", "truncated");
    check(b'E', b"SERROR", "missing_nul");
    check(b'G', b"\x02\0\0", "bad_value");
}

#[test]
fn a_row_that_cannot_be_written_leaves_the_output_as_it_was() {
    let mut out = BytesMut::from(&b"before"[..]);
    let mut writer = DataRowWriter::new(&mut out);
    for _ in 0..=usize::from(u16::MAX) {
        writer.field(None);
    }
    assert_eq!(writer.finish().map_err(|e| e.kind()), Err("too_many"));
    assert_eq!(&out[..], b"before");
    drop(DataRowWriter::new(&mut out));
    assert_eq!(&out[..], b"before");
}

#[test]
fn a_redacted_report_keeps_severity_and_sqlstate_only() {
    let report = ReportFields::new(Severity::Error, "23505", "duplicate key")
        .detail("Key (ssn)=(078-05-1120) already exists.")
        .hint("hint")
        .with(field::TABLE, "customers")
        .redacted("withheld");
    let kept: Vec<_> = report.iter().map(|(code, value)| (code, value.to_string_lossy())).collect();
    let expected = [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "23505"), (b'M', "withheld")];
    assert_eq!(kept, expected.map(|(code, text)| (code, text.into())));
    // RAISE … USING ERRCODE takes any five characters, a value's among them.
    for (raised, shown) in [("12345", "P0001"), ("SMITH", "P0001"), ("23514", "23514"), ("XX000", "XX000")] {
        let report = ReportFields::new(Severity::Error, raised, "no").redacted("withheld");
        assert_eq!(report.sqlstate(), shown.as_bytes());
    }
}

#[test]
fn a_string_of_ours_cannot_smuggle_a_zero_byte() {
    assert_eq!(PgString::new(&b"a\0b"[..]), Err(WireError::InteriorNul { what: "string", at: 1 }));
    assert!(PgString::lossy("a\0b") == "a\u{fffd}b");
}

fn frame(tag: u8, body: &[u8]) -> Frame {
    let length = u32::try_from(body.len() + 4).expect("small");
    let bytes: Bytes = [&[tag], &length.to_be_bytes()[..], body].concat().into();
    Frame::from_bytes(bytes).expect("one whole message")
}
