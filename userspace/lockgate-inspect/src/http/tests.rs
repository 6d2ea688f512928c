//! What requests mean, what makes them opaque, and what of responses is shown.

use super::*;
use bytes::BytesMut;
use lockgate_model::{
    OperationId,
    http::JsonMask,
    verdict::{Detector, InExpression, InPredicate, MaskMethod, MaskSpec, UnknownLineage},
};

fn given(request: &str) -> HttpFacts {
    Given { request, headers: &BTreeMap::new(), body: None }.facts(&BTreeSet::new(), &BTreeSet::new())
}

#[test]
fn what_origins_read_differently_is_opaque() {
    for (target, because) in [
        ("/v1/users", None),
        ("/v1/%75sers", None),
        ("/v1/caf%C3%A9", None),
        ("/v1/users?x=1&y=%20", None),
        ("/v1/../admin", Some("dot segment")),
        ("/v1/%2e%2e/admin", Some("dot segment")),
        ("/v1/.%2E/admin", Some("dot segment")),
        ("/v1/./admin", Some("dot segment")),
        ("/v1/..", Some("dot segment")),
        ("/v1/%2fadmin", Some("encoded slash")),
        ("/v1/%5cadmin", Some("encoded backslash")),
        ("/v1\\admin", Some("backslash")),
        ("/v1//admin", Some("empty segment")),
        ("//evil.example/x", Some("empty segment")),
        ("/v1/admin;x=1", Some("parameters")),
        ("/v1/..;/admin", Some("parameters")),
        ("/v1/%3b/admin", Some("encoded semicolon")),
        ("/v1/%252e%252e/admin", Some("encoded percent sign")),
        ("/v1/%00", Some("control character")),
        ("/v1/%0d%0aX:1", Some("control character")),
        ("/v1/%zz", Some("begins no encoding")),
        ("/v1/%4", Some("begins no encoding")),
        ("/v1/%ff", Some("not UTF-8")),
        ("/v1/%c0%ae%c0%ae/", Some("not UTF-8")),
        ("/v1/%EF%BC%8Fadmin", Some("fold to ASCII")),
        ("/v1/a%20/b", Some("white space")),
        ("/v1?a=1;b=2", Some("separator")),
        ("/v1?_method=DELETE", Some("_method")),
        ("/v1?a=%", Some("begins no encoding")),
    ] {
        let facts = given(&format!("GET http://shop.internal{target}"));
        match because {
            None => assert_eq!((facts.class, &facts.opaque_reason), (HttpClass::Read, &None), "{target}"),
            Some(words) => {
                assert_eq!(facts.class, HttpClass::Opaque, "{target}");
                let reason = facts.opaque_reason.unwrap();
                assert!(reason.contains(words), "{target}: {reason}");
            }
        }
    }
    for header in ["X-HTTP-Method-Override", "x-original-url", "X-Rewrite-URL"] {
        let headers = BTreeMap::from([(header.to_owned(), "DELETE".to_owned())]);
        let given = Given { request: "POST http://shop.internal/v1", headers: &headers, body: None };
        assert_eq!(given.facts(&BTreeSet::new(), &BTreeSet::new()).class, HttpClass::Opaque, "{header}");
    }
}

#[test]
fn methods_and_bodies_make_the_class() {
    for (request, body, class, risk) in [
        ("GET http://h/", None, HttpClass::Read, Risk::Low),
        ("HEAD http://h/", None, HttpClass::Read, Risk::Low),
        ("GET http://h/", Some("{}"), HttpClass::Write, Risk::Medium),
        ("POST http://h/", None, HttpClass::Write, Risk::Medium),
        ("DELETE http://h/", None, HttpClass::Write, Risk::High),
        ("BREW http://h/", None, HttpClass::Write, Risk::Medium),
        ("get http://h/", None, HttpClass::Opaque, Risk::Critical),
        ("GET ftp://h/", None, HttpClass::Opaque, Risk::Critical),
    ] {
        let facts =
            Given { request, headers: &BTreeMap::new(), body }.facts(&BTreeSet::new(), &BTreeSet::new());
        assert_eq!((facts.class, facts.risk), (class, risk), "{request}");
    }
    assert_eq!(given("GET http://Shop.Internal.:8080/v1/users/4711/x").host, "shop.internal");
    assert_eq!(given("GET http://h/v1/users/4711/x").route, "/v1/users/{id}/x");
    assert_eq!(given("GET http://h/v1/3f2504e0-4f89-11d3-9a0c-0305e82c3301").route, "/v1/{id}");
}

#[test]
fn fields_of_bodies_are_read_with_every_value_of_a_key_that_comes_twice() {
    let asked: BTreeSet<JsonPath> =
        ["a.b", "items.*.n", "**.password"].map(|path| JsonPath::new(path).unwrap()).into();
    let facts = |body| {
        Given { request: "POST http://h/", headers: &BTreeMap::new(), body: Some(body) }
            .facts(&BTreeSet::new(), &asked)
    };
    let read = facts(
        r#"{"a": {"b": 1, "B": true}, "items": [{"n": "x"}, {"n": null}], "x": {"passw\u006frd": "hunter2"}}"#,
    );
    assert_eq!(read.json["a.b"], ["1", "true"]);
    assert_eq!(read.json["items.*.n"], ["x", "null"]);
    assert_eq!(read.json["**.password"], [REDACTED]);
    for bad in ["{", "{} x", "a=1", "[1,]", "\u{feff}{}"] {
        assert_eq!(facts(bad).class, HttpClass::Opaque, "{bad}");
    }
}

#[test]
fn credentials_are_neither_facts_nor_text() {
    let headers = BTreeMap::from([("X-Api-Key".to_owned(), "s3cr3t".to_owned())]);
    let request = "POST http://h/v1?access_token=s3cr3t&user=ana&sig=s3cr3t";
    let body = r#"{"password": "s3cr3t", "name": "ana", "nested": {"client_secret": {"x": "s3cr3t"}}}"#;
    let given = Given { request, headers: &headers, body: Some(body) };
    let facts = given.facts(&BTreeSet::from(["x-api-key".to_owned()]), &BTreeSet::new());
    let fields = [("x-api-key", b"s3cr3t".as_slice())];
    let head = Head {
        method: "POST",
        scheme: "http",
        authority: "h",
        target: "/v1?access_token=s3cr3t&user=ana&sig=s3cr3t",
        headers: &fields,
        body: facts.body,
        upgrade: None,
    };
    let (text, shape) = head.text(&facts, Some(body.as_bytes()));
    for told in [serde_json::to_string(&facts).unwrap(), text.clone(), shape] {
        assert!(!told.contains("s3cr3t"), "{told}");
    }
    assert!(text.contains("ana"), "{text}");
}

#[test]
fn every_part_changes_the_digest() {
    let fields: [(&str, &[u8]); 1] = [("x-tenant", b"a")];
    let other: [(&str, &[u8]); 1] = [("x-tenant", b"b")];
    let id = OperationId::from_parts(1, 2);
    let parts = DigestParts {
        method: "POST",
        scheme: "http",
        authority: "h",
        target: "/a?b",
        headers: &fields,
        body: Ok(b"x"),
        role: "",
        registered: "shop",
        principal: "uid:1",
    };
    let all = [
        digest(&parts),
        digest(&DigestParts { method: "PUT", ..parts }),
        digest(&DigestParts { scheme: "https", ..parts }),
        digest(&DigestParts { authority: "h2", ..parts }),
        digest(&DigestParts { target: "/a?c", ..parts }),
        digest(&DigestParts { headers: &other, ..parts }),
        digest(&DigestParts { headers: &[], ..parts }),
        digest(&DigestParts { body: Ok(b"y"), ..parts }),
        digest(&DigestParts { body: Ok(b""), ..parts }),
        digest(&DigestParts { body: Err(id), ..parts }),
        digest(&DigestParts { body: Err(OperationId::from_parts(1, 3)), ..parts }),
        digest(&DigestParts { role: "x", ..parts }),
        digest(&DigestParts { registered: "x", ..parts }),
        digest(&DigestParts { principal: "x", ..parts }),
    ];
    for (i, a) in all.iter().enumerate() {
        for (j, b) in all.iter().enumerate() {
            assert_eq!(a == b, i == j, "{i} and {j}");
        }
    }
    let passing: [(&str, &[u8]); 2] = [("x-tenant", b"a"), ("x-request-id", b"7")];
    assert_eq!(digest(&parts), digest(&DigestParts { headers: &passing, ..parts }));
}

fn spec(paths: &[(&str, MaskMethod)], detectors: &[Detector]) -> MaskSpec {
    let json = paths
        .iter()
        .map(|(path, method)| JsonMask { path: JsonPath::new(path).unwrap(), method: method.clone() })
        .collect();
    MaskSpec {
        columns: Vec::new(),
        detectors: detectors.iter().copied().collect(),
        json,
        on_unknown_lineage: UnknownLineage::Redact,
        in_predicate: InPredicate::Deny,
        in_expression: InExpression::Redact,
        approval: None,
        rules: Vec::new(),
    }
}

fn masked(
    mask: &ResponseMask,
    kind: &str,
    coding: Option<&str>,
    body: &[u8],
    step: usize,
) -> Result<String, Unmaskable> {
    let mut filter = mask.filter(200, Some(kind), coding)?.unwrap();
    let mut out = BytesMut::new();
    for piece in body.chunks(step) {
        filter.feed(piece, &mut out)?;
    }
    filter.finish(&mut out)?;
    Ok(String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn masks_follow_places_however_the_body_is_cut_and_packed() {
    use std::io::Write as _;
    let spec = spec(
        &[
            ("customer.ssn", MaskMethod::Redact),
            ("items.*.card", MaskMethod::Partial { keep_last: 4 }),
            ("**.token", MaskMethod::Null),
        ],
        &[Detector::Email],
    );
    let mask = ResponseMask::of(&spec, &crate::mask::MaskKeys::new()).unwrap();
    let body = r#"{"customer": {"s\u0073n": "123-45-6789", "SSN": {"deep": ["123-45-6789"]}, "ssn": 123456789, "n": 1.5e3},
        "items": [{"card": "4111111111111111"}, {"card": null}, []], "a": {"token": ["x", {"y": 1}], "b": true},
        "note": "write to ana@example.com, please", "uni": "\ud83d\ude00"}"#;
    let expected = r#"{"customer": {"s\u0073n": "[redacted]", "SSN": "[redacted]", "ssn": "[redacted]", "n": 1.5e3},
        "items": [{"card": "************1111"}, {"card": null}, []], "a": {"token": null, "b": true},
        "note": "write to [email], please", "uni": "\ud83d\ude00"}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    for step in [1, 2, 3, 7, 64, 10_000] {
        let plain = masked(&mask, "application/json", None, body.as_bytes(), step).unwrap();
        assert!(!plain.contains("6789") && !plain.contains("411111"), "{plain}");
        assert!(!plain.contains("ana@example.com"), "{plain}");
        let shape = |text: &str| text.split("write to").next().unwrap().to_owned();
        assert_eq!(shape(&plain), shape(expected), "{step}");
        let packed =
            masked(&mask, "application/problem+json; charset=utf-8", Some("gzip"), &gzip, step).unwrap();
        assert_eq!(packed, plain, "{step}");
    }
}

#[test]
fn what_cannot_be_masked_does_not_pass() {
    let mask = |paths: &[(&str, MaskMethod)], detectors: &[Detector]| {
        ResponseMask::of(&spec(paths, detectors), &crate::mask::MaskKeys::new()).unwrap()
    };
    let places = mask(&[("ssn", MaskMethod::Redact)], &[]);
    assert_eq!(places.filter(206, Some("application/json"), None).unwrap_err(), Unmaskable::Partial);
    for kind in [Some("text/plain"), Some("application/octet-stream"), None] {
        assert!(matches!(places.filter(200, kind, None), Err(Unmaskable::NotJson(_))), "{kind:?}");
    }
    for coding in ["br", "zstd", "gzip, br", "compress"] {
        let got = places.filter(200, Some("application/json"), Some(coding));
        assert!(matches!(got, Err(Unmaskable::Coding(_))), "{coding}");
    }
    for body in [
        "{\"ssn\": \"1",
        "{\"ssn\" 1}",
        "{ssn: 1}",
        "[1 2]",
        "{\"a\":1}}",
        "<html>",
        "{\"a\": 1,}",
        "[,1]",
        "tru",
    ] {
        let got = masked(&places, "application/json", None, body.as_bytes(), 3);
        assert!(matches!(got, Err(Unmaskable::Malformed(_))), "{body}: {got:?}");
    }
    assert!(masked(&places, "application/json", Some("gzip"), b"not gzip", 3).is_err());
    let emails = mask(&[], &[Detector::Email]);
    assert!(matches!(
        emails.filter(200, Some("text/plain; charset=utf-16"), None),
        Err(Unmaskable::Charset(_))
    ));
    assert!(emails.filter(200, Some("image/png"), None).unwrap().is_none());
    let text = masked(&emails, "text/event-stream", None, b"data: ana@example.com\n\ndata: x", 4).unwrap();
    assert!(!text.contains("ana@") && text.ends_with("data: x"), "{text}");
    let long = format!("{};ana@example.com", "x".repeat(70_000));
    assert!(!masked(&emails, "text/plain", None, long.as_bytes(), 1000).unwrap().contains("ana@"));
}

proptest::proptest! {
    /// Any text as a target: facts or a reason, never a panic; and what is understood has no dot segment.
    #[test]
    fn any_target_is_read_or_opaque(target in "/[ -~]{0,40}") {
        let facts = given(&format!("GET http://h{target}"));
        if facts.class != HttpClass::Opaque {
            proptest::prop_assert!(!facts.path.split('/').any(|segment| segment == ".." || segment == "."));
        }
    }

    /// Any JSON document comes out as it went in where nothing is masked, however it is cut.
    #[test]
    fn without_a_match_nothing_changes(text in "[\\[\\]{}\":,a-z0-9 ]{0,30}", step in 1usize..9) {
        let mask = ResponseMask::of(
            &spec(&[("nothing.is.here", MaskMethod::Redact)], &[]),
            &crate::mask::MaskKeys::new(),
        ).unwrap();
        if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
            proptest::prop_assert_eq!(masked(&mask, "application/json", None, text.as_bytes(), step).unwrap(), text);
        }
    }
}
