//! Both sides against the RFC's example, against each other, and against what an attacker sends.

use super::*;

// RFC 7677 §3, password `pencil`.
const RFC_SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const RFC_CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const RFC_NONCE: &str = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

fn verifier(password: &str) -> Verifier {
    let salt = BASE64.decode(RFC_SALT).unwrap();
    let keys = Keys::derive(password.as_bytes(), &salt, 4096);
    let text = format!(
        "SCRAM-SHA-256$4096:{RFC_SALT}${}:{}",
        BASE64.encode(keys.stored()),
        BASE64.encode(keys.server)
    );
    text.parse().unwrap()
}

#[test]
fn the_keys_are_the_rfc_s() {
    // The RFC's client sends `n=user`; only the signed text differs from ours, so the keys are what is compared.
    let salt = BASE64.decode(RFC_SALT).unwrap();
    let keys = Keys::derive(b"pencil", &salt, 4096);
    let signed =
        format!("n=user,r={RFC_CLIENT_NONCE},r={RFC_NONCE},s={RFC_SALT},i=4096,c=biws,r={RFC_NONCE}");
    let mut proof = super::keys::hmac(&keys.stored(), &[signed.as_bytes()]);
    proof.iter_mut().zip(keys.client).for_each(|(byte, key)| *byte ^= key);
    assert_eq!(BASE64.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let signature = super::keys::hmac(&keys.server, &[signed.as_bytes()]);
    assert_eq!(BASE64.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

/// A whole exchange; what each side says of it in the end.
fn exchange(
    client: Binding,
    offer: Offer,
    mechanism: &str,
    password: &str,
    tamper: impl Fn(&mut String, &mut String),
) -> Result<(), ScramError> {
    let first = ClientFirst::new(client)?;
    let mut hello = first.message();
    let mut nothing = String::new();
    tamper(&mut hello, &mut nothing);
    let (answer, challenge) = begin(&verifier("pencil"), &offer, mechanism, hello.as_bytes())?;
    let asked = first.challenged(answer.as_bytes())?;
    let keys = Keys::derive(password.as_bytes(), &asked.salt, asked.iterations);
    let (proof, last) = asked.prove(&keys);
    let mut proof = proof.to_string();
    tamper(&mut nothing, &mut proof);
    last.verify(challenge.finish(proof.as_bytes())?.as_bytes())
}

#[test]
fn both_sides_understand_each_other_and_no_one_else() {
    let end_point = |byte| Binding::EndPoint(vec![byte; 32]);
    let plus = || Offer { binding: Some(vec![1; 32]) };
    let plain = Offer::default;
    let untouched = |_: &mut String, _: &mut String| {};
    let check = |client, offer, mechanism, password, expected: Result<(), &str>| {
        let got = exchange(client, offer, mechanism, password, untouched);
        let got = got.map_err(|error| error.to_string());
        match (&got, expected) {
            (Ok(()), Ok(())) => {}
            (Err(got), Err(expected)) => assert!(got.contains(expected), "{got}, expected {expected}"),
            _ => panic!("{got:?}, expected {expected:?}"),
        }
    };
    check(Binding::Unsupported, plain(), SCRAM_SHA_256, "pencil", Ok(()));
    check(Binding::NotOffered, plain(), SCRAM_SHA_256, "pencil", Ok(()));
    check(end_point(1), plus(), SCRAM_SHA_256_PLUS, "pencil", Ok(()));
    // A client that can't bind may use the plain mechanism of an offer with both.
    check(Binding::Unsupported, plus(), SCRAM_SHA_256, "pencil", Ok(()));
    // Wrong password; another certificate in between; an offer that was removed; mechanisms that do not fit.
    check(Binding::Unsupported, plain(), SCRAM_SHA_256, "pencil2", Err("does not know the password"));
    check(end_point(2), plus(), SCRAM_SHA_256_PLUS, "pencil", Err("another certificate"));
    check(Binding::NotOffered, plus(), SCRAM_SHA_256, "pencil", Err("removed the offer"));
    check(end_point(1), plus(), SCRAM_SHA_256, "pencil", Err("of another mechanism"));
    check(Binding::Unsupported, plus(), SCRAM_SHA_256_PLUS, "pencil", Err("of another mechanism"));
    check(end_point(1), plain(), SCRAM_SHA_256_PLUS, "pencil", Err("chose SCRAM-SHA-256-PLUS"));
    check(Binding::Unsupported, plain(), "OAUTHBEARER", "pencil", Err("chose OAUTHBEARER"));
}

#[test]
fn names_in_the_message_change_nothing_and_malformed_ones_are_told() {
    type Change = fn(&mut String, &mut String);
    let cases: [(Change, Option<&str>); 9] = [
        (|first, _| *first = first.replace("n=,", "n=we=2Cird=3D\"'user,"), Some("proof")),
        (|first, _| *first = first.replace("n,,", "n,a=admin,"), Some("authorization identity")),
        (|first, _| *first = first.replace("n=,r=", "n=,r=\u{7}"), Some("printable nonce")),
        (|first, _| *first = first.replace("n=,r=", "m=ext,n=,r="), Some("n=NAME")),
        (|first, _| first.clear(), None),
        (|_, proof| *proof = proof.replacen("r=", "r=x", 1), Some("replayed")),
        (|_, proof| *proof = proof.replace("c=biws", "c=eSws"), Some("bound to another")),
        (|_, proof| *proof = proof.replace(",p=", ",x="), Some("proof at its end")),
        (|_, proof| *proof = format!("{proof}!"), Some("base64")),
    ];
    for (tamper, expected) in cases {
        let got = exchange(Binding::Unsupported, Offer::default(), SCRAM_SHA_256, "pencil", |a, b| {
            // One of the two is empty: only the other is there to be changed.
            if a.is_empty() && b.is_empty() {
                return;
            }
            tamper(a, b);
        });
        let got = got.map_err(|error| error.to_string());
        match expected {
            Some(expected) => {
                assert!(got.as_ref().is_err_and(|text| text.contains(expected)), "{got:?}, {expected}")
            }
            None => assert!(got.is_err(), "{got:?}"),
        }
    }
}

#[test]
fn a_replayed_exchange_is_refused() {
    let verifier = verifier("pencil");
    let first = ClientFirst::with_nonce(Binding::Unsupported, RFC_CLIENT_NONCE);
    let hello = first.message();
    let (answer, challenge) = begin(&verifier, &Offer::default(), SCRAM_SHA_256, hello.as_bytes()).unwrap();
    let asked = first.challenged(answer.as_bytes()).unwrap();
    let keys = Keys::derive(b"pencil", &asked.salt, asked.iterations);
    let (proof, _) = asked.prove(&keys);
    assert!(challenge.finish(proof.as_bytes()).is_ok());
    let (_, again) = begin(&verifier, &Offer::default(), SCRAM_SHA_256, hello.as_bytes()).unwrap();
    assert_eq!(again.finish(proof.as_bytes()), Err(ScramError::Nonce));
}

#[test]
fn servers_that_lie_are_found_out() {
    for (answer, expected) in [
        (format!("r={RFC_NONCE},s={RFC_SALT},i=4096"), None),
        (format!("r={RFC_CLIENT_NONCE},s={RFC_SALT},i=4096"), Some("replayed")),
        (format!("r=other{RFC_NONCE},s={RFC_SALT},i=4096"), Some("replayed")),
        (format!("r={RFC_NONCE},s={RFC_SALT},i=0"), Some("rounds")),
        (format!("r={RFC_NONCE},s={RFC_SALT},i=2147483647"), Some("rounds")),
        (format!("r={RFC_NONCE},s={RFC_SALT},i=99999999999999999999"), Some("rounds")),
        (format!("r={RFC_NONCE},s={RFC_SALT},i=x"), Some("rounds")),
        (format!("r={RFC_NONCE},s=!,i=4096"), Some("base64")),
        (format!("r={RFC_NONCE},s=,i=4096"), Some("salt")),
        (format!("s={RFC_SALT},i=4096"), Some("r=NONCE")),
        ("e=other-error".to_owned(), Some("r=NONCE")),
        ("x".repeat(MAX_MESSAGE + 1), Some("malformed")),
    ] {
        let first = ClientFirst::with_nonce(Binding::Unsupported, RFC_CLIENT_NONCE);
        let got = first.challenged(answer.as_bytes()).map(drop).map_err(|error| error.to_string());
        match expected {
            None => assert_eq!(got, Ok(())),
            Some(expected) => {
                assert!(got.as_ref().is_err_and(|text| text.contains(expected)), "{answer:.80}: {got:?}")
            }
        }
    }
    let proved = || {
        let first = ClientFirst::with_nonce(Binding::Unsupported, RFC_CLIENT_NONCE);
        let asked = first.challenged(format!("r={RFC_NONCE},s={RFC_SALT},i=1").as_bytes()).unwrap();
        asked.prove(&Keys::derive(b"pencil", &[1], 1)).1
    };
    for (last, expected) in [
        ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", ScramError::ServerUnproved),
        ("v=", ScramError::ServerUnproved),
        ("e=invalid-proof", ScramError::Refused("invalid-proof".into())),
    ] {
        assert_eq!(proved().verify(last.as_bytes()), Err(expected));
    }
}

#[test]
fn a_text_is_a_verifier_or_is_told_why_not() {
    let key = BASE64.encode([7; 32]);
    for (text, expected) in [
        (format!("SCRAM-SHA-256$4096:{RFC_SALT}${key}:{key}"), None),
        (format!("SCRAM-SHA-256$4096:{RFC_SALT}${key}:{key}\n"), None),
        (format!("md5{}", "0".repeat(32)), Some("does not begin")),
        (format!("SCRAM-SHA-256$0:{RFC_SALT}${key}:{key}"), Some("iterations")),
        (format!("SCRAM-SHA-256$4096:?${key}:{key}"), Some("salt")),
        (format!("SCRAM-SHA-256$4096:{RFC_SALT}$AAAA:{key}"), Some("stored key")),
        (format!("SCRAM-SHA-256$4096:{RFC_SALT}${key}:AAAA"), Some("server key")),
        (format!("SCRAM-SHA-256$4096:{RFC_SALT}${key}"), Some("parts")),
        ("hunter2".to_owned(), Some("does not begin")),
    ] {
        let got = text.parse::<Verifier>().map(|verifier| format!("{verifier:?}")).map_err(|e| e.to_string());
        match expected {
            None => assert_eq!(got.as_deref(), Ok("Verifier(…)")),
            Some(expected) => {
                let got = got.unwrap_err();
                assert!(got.contains(expected) && !got.contains("hunter2"), "{got}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn derived_keys_are_few_and_forgotten() {
    let cache = std::sync::Arc::new(KeyCache::default());
    let first = cache.keys(b"one", b"salt", 2).await.unwrap();
    assert_eq!(cache.keys(b"one", b"salt", 2).await.unwrap().client, first.client);
    assert_eq!(cache.len(), 1);
    assert_ne!(cache.keys(b"two", b"salt", 2).await.unwrap().client, first.client);
    assert_ne!(cache.keys(b"one", b"pepper", 2).await.unwrap().client, first.client);
    assert_ne!(cache.keys(b"one", b"salt", 3).await.unwrap().client, first.client);
    assert_eq!(cache.len(), 4);
    for n in 0..200_u32 {
        cache.keys(&n.to_be_bytes(), b"salt", 1).await.unwrap();
    }
    assert_eq!(cache.len(), 64);
    tokio::time::sleep(super::cache::KEEP * 2).await;
    assert_eq!(cache.len(), 0);
    cache.keys(b"one", b"salt", 2).await.unwrap();
    assert_eq!(cache.len(), 1);
    tokio::time::sleep(super::cache::KEEP * 2).await;
    assert_eq!(cache.len(), 0);
}
