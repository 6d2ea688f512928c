//! The encoder against `serde_json_canonicalizer`, the checker against the encoder, both against RFC 8785.

use super::{EncodeError, check, write};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<String, EncodeError> {
    let mut out = Vec::new();
    write(value, &mut out).map(|()| String::from_utf8(out).unwrap())
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Unit,
    Newtype(u8),
    Tuple(u8, bool),
    Struct { b: Option<u8>, a: char },
}

#[test]
fn every_serde_shape_has_its_json() {
    let table: &[(String, &str)] = &[
        (encode(&Shape::Unit).unwrap(), r#""unit""#),
        (encode(&Shape::Newtype(7)).unwrap(), r#"{"newtype":7}"#),
        (encode(&Shape::Tuple(7, true)).unwrap(), r#"{"tuple":[7,true]}"#),
        (encode(&Shape::Struct { b: None, a: '"' }).unwrap(), r#"{"struct":{"a":"\"","b":null}}"#),
        (encode(&()).unwrap(), "null"),
        (encode(&(1, "x", [0u8; 0])).unwrap(), r#"[1,"x",[]]"#),
        (encode(&BTreeMap::<String, u8>::new()).unwrap(), "{}"),
        (encode(&-9_007_199_254_740_991i64).unwrap(), "-9007199254740991"),
        (encode(&1e21).unwrap(), "1e+21"),
        (encode(&-0.0).unwrap(), "0"),
        // RFC 8785 §3.2.3: by UTF-16 code units, where U+1F600 (D83D …) comes before U+FB33.
        (
            encode(&json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7}))
                .unwrap(),
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}",
        ),
        // RFC 8785 §3.2.2.2.
        (encode("\u{20ac}$\u{f}\nA'B\"\\\\\"/").unwrap(), "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\""),
    ];
    for (got, expected) in table {
        assert_eq!(got, expected);
        assert_eq!(check(got.as_bytes()), Ok(()), "{got}");
    }
}

#[test]
fn what_would_lose_something_is_refused() {
    assert!(matches!(encode(&9_007_199_254_740_992u64), Err(EncodeError::NumberTooLarge(_))));
    assert!(matches!(encode(&i64::MIN), Err(EncodeError::NumberTooLarge(_))));
    assert_eq!(encode(&f64::NAN), Err(EncodeError::NotFinite));
    assert!(matches!(encode(&BTreeMap::from([(1, 2)])), Err(EncodeError::Member(_))));

    #[derive(Serialize)]
    struct Twice {
        name: u8,
        #[serde(flatten)]
        more: BTreeMap<&'static str, u8>,
    }
    assert!(matches!(
        encode(&Twice { name: 1, more: BTreeMap::from([("name", 2)]) }),
        Err(EncodeError::Member(_))
    ));
}

#[test]
fn what_is_not_canonical_is_named() {
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let table: &[(&str, &str)] = &[
        (" 1", "white space"),
        ("1 ", "after the value"),
        ("{\"a\": 1}", "white space"),
        ("{\"b\":1,\"a\":1}", "not sorted"),
        ("{\"a\":1,\"a\":1}", "not distinct"),
        ("{\"\u{fb33}\":1,\"\u{1f600}\":1}", "not sorted"),
        ("\"\\/\"", "escape"),
        ("\"\\u0041\"", "escape"),
        ("\"\\u000A\"", "escape"),
        ("\"\\u000a\"", "escape"),
        ("\"\t\"", "control"),
        ("\"a", "without an end"),
        ("01", "number"),
        ("1.0", "number"),
        ("1e2", "number"),
        ("-0", "number"),
        ("9007199254740993", "number"),
        ("+1", "expected a value"),
        ("nul", "expected a value"),
        ("[1,]", "expected a value"),
        ("[1", "expected , or ]"),
        ("{\"a\"}", "expected :"),
        ("", "expected a value"),
        (&deep, "too deeply"),
    ];
    for (text, expected) in table {
        let error = check(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    assert!(check(b"\"\xff\"").unwrap_err().to_string().contains("UTF-8"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let exact = lockgate_model::wide::MAX_EXACT.cast_signed();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-exact..=exact).prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON numbers are finite", |number| number.is_finite())
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\\x00-\\x1f\"\\\\/\u{7f}-\u{ff}\u{fb33}\u{1f600}]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn the_encoder_agrees_with_the_canonicalizer_and_the_checker(value in any_json()) {
        let encoded = encode(&value).unwrap();
        prop_assert_eq!(&encoded, &serde_json_canonicalizer::to_string(&value).unwrap());
        prop_assert_eq!(check(encoded.as_bytes()), Ok(()));
    }

    #[test]
    fn bytes_are_canonical_exactly_when_encoding_them_again_changes_nothing(
        value in any_json(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = encode(&value).unwrap().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let again = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|value| serde_json_canonicalizer::to_vec(&value).ok());
        prop_assert_eq!(check(&bytes).is_ok(), again.as_ref() == Some(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn the_checker_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&bytes);
    }
}
