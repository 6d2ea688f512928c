//! The cases of the published lists of smuggling and framing tricks, and that cutting the bytes changes nothing.

use super::*;

/// Everything in one piece, or byte by byte; what passed, and the violation.
fn run(input: &[u8], step: usize) -> (Vec<u8>, Option<(Violation, bool)>) {
    let mut guard = Guard::default();
    let (mut waiting, mut passed) = (Vec::new(), Vec::new());
    for piece in input.chunks(step) {
        waiting.extend_from_slice(piece);
        loop {
            match guard.handle(&waiting) {
                Guarded::Pass(bytes) => {
                    assert!(bytes > 0 && bytes <= waiting.len());
                    passed.extend(waiting.drain(..bytes));
                }
                Guarded::More => break,
                Guarded::Refused(violation, in_head) => return (passed, Some((violation, in_head))),
            }
        }
    }
    (passed, None)
}

fn check(input: &str, expected: Option<Violation>) {
    for step in [input.len().max(1), 1, 3] {
        let (passed, got) = run(input.as_bytes(), step);
        assert_eq!(got.map(|(violation, _)| violation), expected, "{input:?} by {step}");
        if expected.is_none() {
            assert_eq!(passed, input.as_bytes(), "{input:?} by {step}");
        }
        if let Some((_, true)) = got {
            assert!(passed.is_empty() || passed.ends_with(b"\r\n") || passed.ends_with(b"x"), "{input:?}");
        }
    }
}

#[test]
fn requests_with_one_reading_pass() {
    for input in [
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a?b=c HTTP/1.1\r\nhost:h:8080\r\nX: \r\n\r\n",
        "GET http://h/ HTTP/1.1\r\nHost: H\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nA\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\nX-Sum: 7\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        check(input, None);
    }
}

#[test]
fn what_readers_frame_differently_is_refused() {
    use Violation::*;
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{body}");
    let table: Vec<(String, Violation)> = vec![
        // Lengths.
        (post("Content-Length: 1\r\nContent-Length: 2", "x"), ContentLength),
        (post("Content-Length: 1\r\nContent-Length: 1", "x"), ContentLength),
        (post("Content-Length: 1, 1", "x"), ContentLength),
        (post("Content-Length: +1", "x"), ContentLength),
        (post("Content-Length: -1", "x"), ContentLength),
        (post("Content-Length: 0x1", "x"), ContentLength),
        (post("Content-Length: 1 1", "x"), ContentLength),
        (post("Content-Length:", "x"), ContentLength),
        (post("Content-Length: 99999999999999999999", "x"), ContentLength),
        (post("Content_Length: 1", "x"), FieldName),
        // CL and TE, in both orders.
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), LengthAndChunked),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 1", "0\r\n\r\n"), LengthAndChunked),
        // TE that one reader takes for chunked and another does not.
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"), TransferEncoding),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), TransferEncoding),
        (post("Transfer-Encoding: identity", ""), TransferEncoding),
        (post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), TransferEncoding),
        (post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"), TransferEncoding),
        (post("Transfer-Encoding: xchunked", "0\r\n\r\n"), TransferEncoding),
        (post("Transfer-Encoding: \"chunked\"", "0\r\n\r\n"), TransferEncoding),
        (post("Transfer-Encoding: chunked;q=1", "0\r\n\r\n"), TransferEncoding),
        (post("Transfer-Encoding: \u{b}chunked", "0\r\n\r\n"), FieldValue),
        (post("Transfer-Encoding : chunked", "0\r\n\r\n"), FieldName),
        (post("Transfer_Encoding: chunked", "0\r\n\r\n"), FieldName),
        (post("X: y\r\n Transfer-Encoding: chunked", "0\r\n\r\n"), Folding),
        (post("X: y\r\n\tz", ""), Folding),
        (post("X: y\nTransfer-Encoding: chunked", "0\r\n\r\n"), BareLineEnd),
        (post("X: y\rTransfer-Encoding: chunked", "0\r\n\r\n"), BareLineEnd),
        (
            "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            TransferEncoding,
        ),
        // Chunks.
        (post("Transfer-Encoding: chunked", "0x1\r\nx\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", "1 \r\nx\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", " 1\r\nx\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", "1;a=b\r\nx\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", "1\nx\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", "1\rX"), Chunk),
        (post("Transfer-Encoding: chunked", "\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", "-1\r\nx\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", "1\r\nxy\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", "1\r\nx\n0\r\n\r\n"), Chunk),
        (post("Transfer-Encoding: chunked", "ffffffffffffffffff\r\nx"), Chunk),
        (post("Transfer-Encoding: chunked", "0\r\nContent-Length: 5\r\n\r\n"), Trailer),
        (post("Transfer-Encoding: chunked", "0\r\nAuthorization: x\r\n\r\n"), Trailer),
        (post("Transfer-Encoding: chunked", "0\r\nX : y\r\n\r\n"), FieldName),
        (post("Transfer-Encoding: chunked", "0\r\nX: y\n\r\n"), BareLineEnd),
        // Fields.
        (post("X y: z", ""), FieldName),
        (post(": z", ""), FieldName),
        (post("X", ""), FieldName),
        (post("X\u{0}: z", ""), FieldName),
        (post("X: a\u{0}b", ""), FieldValue),
        (post("X: a\u{7f}b", ""), FieldValue),
        // Host.
        ("GET / HTTP/1.1\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), Host),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), HostMismatch),
        ("GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n".into(), Target),
        ("GET http://a?/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Target),
        // Request lines.
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n".into(), RequestLine),
        ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n".into(), RequestLine),
        (" GET / HTTP/1.1\r\nHost: h\r\n\r\n".into(), RequestLine),
        ("GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n".into(), RequestLine),
        ("GET / HTTP/1.1\nHost: h\n\n".into(), BareLineEnd),
        ("GET /\r\n\r\n".into(), RequestLine),
        ("G{T / HTTP/1.1\r\nHost: h\r\n\r\n".into(), RequestLine),
        ("GET / HTTP/1.2\r\nHost: h\r\n\r\n".into(), Version),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".into(), Version),
        ("GET / http/1.1\r\nHost: h\r\n\r\n".into(), Version),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n".into(), Target),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n".into(), Target),
        ("GET /#x HTTP/1.1\r\nHost: h\r\n\r\n".into(), Target),
        ("GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n".into(), Target),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n".into(), Target),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n".into(), Connect),
        // Behind an innocent request.
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\nHost: h\n\n".into(), BareLineEnd),
        (post("Content-Length: 1", "xGPOST"), RequestLine),
    ];
    for (input, violation) in table {
        let input = if input.ends_with("xGPOST") { input + " / HTTP/9\r\n\r\n" } else { input };
        let violation =
            if violation == RequestLine && input.contains("HTTP/9") { Version } else { violation };
        check(&input, Some(violation));
    }
}

#[test]
fn heads_are_bounded() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(MAX_HEAD));
    assert_eq!(run(long.as_bytes(), 4096).1, Some((Violation::HeadTooLong, true)));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1));
    assert_eq!(run(many.as_bytes(), 4096).1, Some((Violation::HeadTooLong, true)));
    let trailers = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
        "X: yyyyyyyyyy\r\n".repeat(1000)
    );
    assert_eq!(run(trailers.as_bytes(), 4096).1, Some((Violation::HeadTooLong, false)));
}

proptest::proptest! {
    /// However bytes are cut, the same of them passes, with the same end.
    #[test]
    fn cutting_changes_nothing(input in "(GET|POST) /[a-z]{0,3} HTTP/1[.]1\r\nHost: h\r\n(Content-Length: [0-9]\r\n|Transfer-Encoding: chunked\r\n|X: [ -~]{0,5}\r\n){0,2}\r\n([0-9a]\r\n[a-z\r\n]{0,12}|[ -~]{0,9})(0\r\n\r\n)?", step in 1usize..20) {
        let whole = run(input.as_bytes(), input.len());
        let cut = run(input.as_bytes(), step);
        proptest::prop_assert_eq!(whole, cut);
    }

    #[test]
    fn no_bytes_panic(input in proptest::collection::vec(proptest::num::u8::ANY, 0..200), step in 1usize..50) {
        run(&input, step);
    }
}
