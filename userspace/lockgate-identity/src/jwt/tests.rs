//! Every way in which a token can be wrong, each refused for its own reason.

use super::{
    keys::{KeySet, Source},
    testing::{Signer, encode, hmac_token},
    *,
};
use crate::{
    http::Http,
    testing::{StandIn, StandInUrl as _},
};
use serde_json::json;
use std::time::Duration;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://ci.example.com";

fn expected() -> Expected<'static> {
    Expected { issuer: ISSUER, audience: "lockgate", skew: 30, max_lifetime: 3600, now: NOW }
}

fn good() -> Value {
    json!({ "iss": ISSUER, "aud": "lockgate", "sub": "x", "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 600 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// What the issuer's key set makes of a token.
async fn judge(keys: &KeySet, token: &str) -> Result<Claims, TokenError> {
    let head = head(token)?;
    let key = keys.key(&head.kid).await?;
    check(token, &key, expected())
}

async fn key_set(jwks: Value) -> (StandIn, KeySet) {
    let server = StandIn::start().await;
    server.serve("/jwks", jwks);
    let keys = KeySet::new(Http::new(None).unwrap(), Source::At(server.url("/jwks")), None);
    (server, keys)
}

#[tokio::test]
async fn good_tokens_of_every_family_are_taken() {
    let signers = [Signer::ec("e"), Signer::ed("d"), Signer::rsa("r")];
    let jwks: Vec<Value> = signers.iter().map(Signer::jwk).collect();
    let (_server, keys) = key_set(json!({ "keys": jwks })).await;
    for signer in &signers {
        for claims in [
            good(),
            with("aud", json!(["other", "lockgate"])),
            without("nbf"),
            with("exp", json!(NOW - 29)),
            with("nbf", json!(NOW + 29)),
            with("iat", json!(NOW + 29)),
            with("exp", json!(NOW as f64 + 0.5)),
        ] {
            let judged = judge(&keys, &signer.token(&claims)).await;
            assert!(judged.is_ok(), "{} {claims}: {judged:?}", signer.kid);
        }
    }
}

#[tokio::test]
async fn every_flaw_is_refused_for_its_own_reason() {
    let (ec, rsa, other) = (Signer::ec("e"), Signer::rsa("r"), Signer::ec("e"));
    let mut for_encryption = Signer::ec("x").jwk();
    for_encryption["use"] = json!("enc");
    let symmetric = json!({ "kty": "oct", "kid": "s", "k": encode("secret"), "alg": "HS256" });
    let (_server, keys) = key_set(json!({ "keys": [ec.jwk(), rsa.jwk(), for_encryption, symmetric] })).await;
    let header = |alg: &str, kid: &str| json!({ "typ": "JWT", "alg": alg, "kid": kid });
    let public = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let token = ec.token(&good());
    let (signed, _) = token.rsplit_once('.').unwrap();
    let (head, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let swapped = format!("{head}.{}.{signature}", encode(with("sub", json!("admin")).to_string()));
    let mut crit = header("ES256", "e");
    crit["crit"] = json!(["exp"]);
    let own_key = {
        let mut header = header("ES256", "mine");
        header["jwk"] = other.jwk();
        header
    };
    let none =
        |alg: &str| format!("{}.{}.", encode(header(alg, "e").to_string()), encode(good().to_string()));
    for (flaw, token, why) in [
        ("expired", ec.token(&with("exp", json!(NOW - 31))), "it expired 31 s ago"),
        ("not valid yet", ec.token(&with("nbf", json!(NOW + 31))), "not valid for another 31 s"),
        ("from the future", ec.token(&with("iat", json!(NOW + 31))), "issued 31 s in the future"),
        (
            "lives too long",
            ec.token(&with("exp", json!(NOW + 3600))),
            "valid for 3610 s, expected at most 3600 s",
        ),
        ("never ends", ec.token(&without("exp")), "claim exp"),
        ("no issue time", ec.token(&without("iat")), "claim iat"),
        ("odd times", ec.token(&with("exp", json!("tomorrow"))), "claim exp"),
        ("negative times", ec.token(&with("exp", json!(-5))), "claim exp"),
        ("another issuer", ec.token(&with("iss", json!("https://evil.example.com"))), "its issuer is"),
        ("nearly the issuer", ec.token(&with("iss", json!("https://ci.example.com/"))), "its issuer is"),
        ("no issuer", ec.token(&without("iss")), "its issuer is"),
        ("another audience", ec.token(&with("aud", json!("vault"))), "it is for \"vault\""),
        ("no audience", ec.token(&without("aud")), "it is for"),
        ("an audience of another type", ec.token(&with("aud", json!({ "lockgate": true }))), "it is for"),
        ("alg none", none("none"), "its algorithm is none"),
        ("alg NoNe", none("NoNe"), "its algorithm is NoNe"),
        ("alg missing", format!("{}.{rest}", encode("{\"kid\":\"e\"}")), "its algorithm is missing"),
        ("HMAC with the public key", hmac_token(public.as_bytes(), "r", &good()), "its algorithm is HS256"),
        ("HMAC with a published secret", hmac_token(b"secret", "s", &good()), "its algorithm is HS256"),
        ("no signature", format!("{signed}."), "signature"),
        ("another's signature, same kid", other.token(&good()), "signature is not the issuer's"),
        ("claims swapped", swapped, "signature is not the issuer's"),
        ("an unknown key", Signer::ec("new").token(&good()), "publishes no key \"new\""),
        ("a key of its own", other.token_with(own_key, &good()), "publishes no key \"mine\""),
        ("a key for encryption", Signer::ec("x").token(&good()), "publishes no key \"x\""),
        (
            "RSA said, curve signed",
            ec.token_with(header("RS256", "e"), &good()),
            "is for ES256, the token says RS256",
        ),
        (
            "curve said, RSA key",
            ec.token_with(header("ES256", "r"), &good()),
            "is for RS256, the token says ES256",
        ),
        (
            "PSS said, PKCS1 key",
            rsa.token_with(header("PS256", "r"), &good()),
            "is for RS256, the token says PS256",
        ),
        ("no kid", ec.token_with(json!({ "alg": "ES256" }), &good()), "names no key"),
        ("critical extension", ec.token_with(crit, &good()), "critical"),
        ("two parts", signed.to_owned(), "three parts"),
        ("five parts", format!("{token}.a.b"), "three parts"),
        ("empty", String::new(), "three parts"),
        ("no JSON", "YQ.YQ.YQ".to_owned(), "no JSON object"),
        ("no base64", "!.!.!".to_owned(), "not base64url"),
        ("huge", "a".repeat(MAX_TOKEN + 1), "longer than"),
    ] {
        let error = judge(&keys, &token).await.expect_err(flaw).to_string();
        assert!(error.contains(why), "{flaw}: {error:?}, expected {why:?}");
    }
}

#[tokio::test]
async fn keys_rotate_and_withdrawn_ones_end() {
    let (old, new) = (Signer::ec("2026-01"), Signer::ec("2026-02"));
    let (server, keys) = key_set(json!({ "keys": [old.jwk()] })).await;
    assert!(judge(&keys, &old.token(&good())).await.is_ok());
    assert_eq!(server.hits("/jwks"), 1);
    server.serve("/jwks", json!({ "keys": [new.jwk()] }));
    // Not before the pause between two fetches is over, however many ask.
    for _ in 0..50 {
        assert!(judge(&keys, &new.token(&good())).await.is_err());
    }
    assert_eq!(server.hits("/jwks"), 1);
    pass(Duration::from_secs(11)).await;
    assert!(judge(&keys, &new.token(&good())).await.is_ok());
    assert_eq!(server.hits("/jwks"), 2);
    assert!(judge(&keys, &old.token(&good())).await.is_err(), "withdrawn");
    assert!(judge(&keys, &new.token(&good())).await.is_ok());
    assert_eq!(server.hits("/jwks"), 2, "known keys are not fetched again");
}

#[tokio::test]
async fn known_keys_outlive_a_short_outage_and_not_a_long_one() {
    let signer = Signer::ec("k");
    let (server, keys) = key_set(json!({ "keys": [signer.jwk()] })).await;
    assert!(judge(&keys, &signer.token(&good())).await.is_ok());
    server.fail("/jwks", 503);
    pass(Duration::from_secs(1200)).await;
    assert!(judge(&keys, &signer.token(&good())).await.is_ok());
    assert_eq!(server.hits("/jwks"), 2, "it was tried");
    pass(Duration::from_secs(3000)).await;
    let error = judge(&keys, &signer.token(&good())).await.unwrap_err();
    assert!(error.to_string().contains("answers 503"), "{error}");
}

#[tokio::test]
async fn a_discovery_document_must_name_its_own_issuer() {
    let signer = Signer::ec("k");
    let server = StandIn::start().await;
    server.serve("/jwks", json!({ "keys": [signer.jwk()] }));
    let issuer = server.base();
    let discover = |said: &str| {
        let document = json!({ "issuer": said, "jwks_uri": server.url("/jwks").as_str() });
        server.serve("/.well-known/openid-configuration", document);
        KeySet::new(Http::new(None).unwrap(), Source::Discovery(issuer.clone()), None)
    };
    let error = discover("https://evil.example.com").key("k").await.unwrap_err();
    assert!(error.to_string().contains("calls itself"), "{error}");
    assert!(discover(&issuer).key("k").await.is_ok());
}

#[tokio::test]
async fn a_key_list_of_any_shape_is_survived() {
    for jwks in [
        json!({}),
        json!([]),
        json!({ "keys": "x" }),
        json!({ "keys": [1, null, {}, { "kid": "k" }, { "kid": "k", "kty": "EC", "crv": "P-256", "x": "", "y": "" }] }),
        json!({ "keys": [{ "kid": "k", "kty": "RSA", "n": "AQAB", "e": "AQAB" }] }),
        json!({ "keys": vec![json!({ "kid": "other", "kty": "RSA", "n": "AQAB", "e": "AQAB" }); 5000] }),
    ] {
        let (_server, keys) = key_set(jwks.clone()).await;
        let signer = Signer::ec("k");
        assert!(judge(&keys, &signer.token(&good())).await.is_err(), "{jwks:.80}");
    }
}

/// Lets time pass for what measures it, without letting timeouts of real sockets fire.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_header_reader_panic(text in "[A-Za-z0-9_.=-]{0,200}") {
        let _ = head(&text);
    }
}
