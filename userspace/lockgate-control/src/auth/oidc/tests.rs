use super::*;
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::json;

/// A provider that says whatever a test wants; its keys and tokens are made here.
struct Op {
    issuer: String,
    said: Arc<Mutex<Said>>,
    served: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Said {
    keys: Value,
    id_token: String,
    issuer: String,
    asked_for_keys: usize,
    form: String,
}

impl Drop for Op {
    fn drop(&mut self) {
        self.served.abort();
    }
}

struct SigningKey {
    pair: EcdsaKeyPair,
    id: &'static str,
}

impl SigningKey {
    fn new(id: &'static str) -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &SystemRandom::new());
        Self { pair: pair.unwrap(), id }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id,
                "x": encode(&point[1..33]), "y": encode(&point[33..65]) })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "kid": self.id, "typ": "JWT" })
    }
}

impl Op {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let said = Arc::new(Mutex::new(Said { issuer: issuer.clone(), ..Said::default() }));
        let base = issuer.clone();
        let metadata = async move |State(said): State<Arc<Mutex<Said>>>| {
            let issuer = said.lock().issuer.clone();
            Json(json!({
                "issuer": issuer, "authorization_endpoint": format!("{base}/auth"), "token_endpoint": format!("{base}/token"),
                "jwks_uri": format!("{base}/jwks"), "end_session_endpoint": format!("{base}/end"),
                "response_types_supported": ["code"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }))
        };
        let keys = async |State(said): State<Arc<Mutex<Said>>>| {
            let mut said = said.lock();
            said.asked_for_keys += 1;
            Json(said.keys.clone())
        };
        let token = async |State(said): State<Arc<Mutex<Said>>>, form: String| {
            let mut said = said.lock();
            said.form = form;
            Json(json!({ "access_token": "at", "token_type": "Bearer", "id_token": said.id_token.clone() }))
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(keys))
            .route("/token", post(token))
            .with_state(said.clone());
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { issuer, said, served }
    }

    fn client(&self) -> Oidc {
        let settings = OidcSettings {
            issuer: self.issuer.clone(),
            client_id: "lockgate".into(),
            client_secret: Some(Secret::new("s3cret".into())),
            scopes: vec!["email".into()],
            groups_claim: "groups".into(),
            ca_pem: None,
            skew: Duration::from_secs(30),
        };
        Oidc::new("corp", settings, "http://127.0.0.1:1").unwrap()
    }

    fn says(&self, keys: &[&SigningKey], token: String) {
        let mut said = self.said.lock();
        said.keys = json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() });
        said.id_token = token;
    }

    fn claims(&self) -> Value {
        let now = now().as_second();
        json!({ "iss": self.issuer, "aud": "lockgate", "sub": "ana", "exp": now + 300, "iat": now, "nonce": "n",
                "name": "Ana", "email": "ana@example.com", "email_verified": true, "groups": ["dba"], "auth_time": now - 10 })
    }

    async fn login(&self, client: &Oidc) -> Result<Arrived, LoginRefusal> {
        client.finish("code".into(), "n", &Secret::new("verifier".into()), false, now()).await
    }
}

fn now() -> Timestamp {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

#[tokio::test]
async fn a_code_becomes_a_person_with_pkce_and_with_the_provider_s_groups() {
    let (op, key) = (Op::new().await, SigningKey::new("k1"));
    op.says(&[&key], key.sign(&key.header(), &op.claims()));
    let client = op.client();
    let begun = client.begin(false).await.unwrap();
    for part in [
        "response_type=code",
        "code_challenge_method=S256",
        "code_challenge=",
        "scope=openid+email",
        "nonce=",
    ] {
        assert!(begun.url.contains(part), "{part} in {}", begun.url);
    }
    assert!(!begun.url.contains("prompt"));
    let fresh = client.begin(true).await.unwrap().url;
    assert!(fresh.contains("prompt=login") && fresh.contains("max_age=0"), "{fresh}");
    let arrived = op.login(&client).await.unwrap();
    assert_eq!((&*arrived.person.id, &*arrived.person.name), ("oidc:corp:ana", "Ana"));
    assert_eq!(arrived.person.groups["groups"], ["dba"]);
    assert_eq!(arrived.proved, Some(now() - jiff::SignedDuration::from_secs(10)));
    assert!(op.said.lock().form.contains("code_verifier=verifier"), "{}", op.said.lock().form);
    let end = client.logout(arrived.id_token.as_ref()).await.unwrap();
    assert!(
        end.contains("/end?") && end.contains("id_token_hint=") && end.contains("post_logout_redirect_uri=")
    );
}

#[tokio::test]
async fn every_token_that_is_not_for_us_now_and_signed_is_refused() {
    let (op, key, other) = (Op::new().await, SigningKey::new("k1"), SigningKey::new("k1"));
    let at = now().as_second();
    let with = |name: &str, value: Value| {
        let mut claims = op.claims();
        claims[name] = value;
        key.sign(&key.header(), &claims)
    };
    let public = key.jwk()["x"].as_str().unwrap().to_owned();
    let hmac = {
        use hmac::{Hmac, KeyInit, Mac};
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        move |secret: &str, claims: &Value| {
            let text = format!("{}.{}", encode(&json!({ "alg": "HS256", "kid": "k1" })), encode(claims));
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
            mac.update(text.as_bytes());
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
        }
    };
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        URL_SAFE_NO_PAD.encode(op.claims().to_string())
    );
    for (name, token, codes) in [
        ("audience", with("aud", json!("other")), &["bad_audience"][..]),
        ("two audiences", with("aud", json!(["lockgate", "other"])), &["bad_audience"]),
        ("party", with("azp", json!("other")), &["bad_audience"]),
        ("issuer", with("iss", json!("https://evil.example.com")), &["bad_issuer"]),
        ("nonce", with("nonce", json!("other")), &["bad_nonce"]),
        ("no nonce", with("nonce", Value::Null), &["bad_nonce"]),
        ("expired", with("exp", json!(at - 31)), &["expired"]),
        ("not yet", with("nbf", json!(at + 31)), &["not_yet_valid"]),
        ("odd not-before", with("nbf", json!("soon")), &["not_yet_valid"]),
        ("from the future", with("iat", json!(at + 31)), &["not_yet_valid"]),
        ("another key of that name", other.sign(&key.header(), &op.claims()), &["bad_signature"]),
        (
            "unknown key",
            other.sign(&json!({ "alg": "ES256", "kid": "k9" }), &op.claims()),
            &["bad_signature"],
        ),
        ("none", unsigned, &["bad_signature", "bad_token"]),
        ("HS256 with the public key", hmac(&public, &op.claims()), &["bad_signature"]),
        ("HS256 with the client's secret", hmac("s3cret", &op.claims()), &["bad_signature"]),
        ("odd groups", with("groups", json!({ "dba": true })), &["bad_groups"]),
        ("hidden subject", with("sub", json!("a\u{202e}b")), &["bad_subject"]),
        ("padded subject", with("sub", json!(" ana")), &["bad_subject"]),
        ("another access token", with("at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA")), &["bad_access_token"]),
        ("no token", String::new(), &["bad_token", "no_id_token"]),
        ("rubbish", "a.b.c".to_owned(), &["bad_token"]),
    ] {
        op.says(&[&key], token);
        let refusal = op.login(&op.client()).await.unwrap_err();
        assert!(codes.contains(&refusal.code), "{name}: {refusal:?}");
    }
    for (name, token) in [
        ("within the skew", with("exp", json!(at - 29))),
        ("clock ahead", with("iat", json!(at + 29))),
        ("own party", with("azp", json!("lockgate"))),
    ] {
        op.says(&[&key], token);
        op.login(&op.client()).await.unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
    }
}

#[tokio::test]
async fn a_missing_groups_claim_is_no_group_and_an_unvouched_address_is_no_name() {
    let (op, key) = (Op::new().await, SigningKey::new("k1"));
    for (groups, expected) in
        [(Value::Null, &[][..]), (json!("one"), &["one"]), (json!([]), &[]), (json!(["a", "b"]), &["a", "b"])]
    {
        let mut claims = op.claims();
        claims["groups"] = groups;
        claims["email_verified"] = json!(false);
        op.says(&[&key], key.sign(&key.header(), &claims));
        let person = op.login(&op.client()).await.unwrap().person;
        assert_eq!(person.groups["groups"], expected);
        assert_eq!(person.email, None);
        assert!(person.aliases.contains(&"ana@example.com".to_owned()), "it may still exclude");
    }
}

#[tokio::test]
async fn keys_are_asked_for_again_when_they_changed_and_not_without_end() {
    let (op, old, new) = (Op::new().await, SigningKey::new("k1"), SigningKey::new("k2"));
    let client = op.client();
    op.says(&[&old], old.sign(&old.header(), &op.claims()));
    op.login(&client).await.unwrap();
    op.says(&[&new], new.sign(&new.header(), &op.claims()));
    // We asked a moment ago: nobody makes us ask again with every token.
    for _ in 0..5 {
        assert_eq!(op.login(&client).await.unwrap_err().code, "bad_signature");
    }
    assert_eq!(op.said.lock().asked_for_keys, 1);
    let metadata = client.known.lock().clone().unwrap().0;
    *client.known.lock() = Some((metadata, Instant::now() - KEYS_AGAIN));
    op.login(&client).await.unwrap();
    assert_eq!(op.said.lock().asked_for_keys, 2);
}

#[tokio::test]
async fn a_login_asked_for_anew_must_be_new() {
    let (op, key) = (Op::new().await, SigningKey::new("k1"));
    for (auth_time, fresh) in [(json!(-10), true), (json!(-331), false), (Value::Null, false)] {
        let mut claims = op.claims();
        claims["auth_time"] = auth_time.as_i64().map_or(Value::Null, |ago| json!(now().as_second() + ago));
        op.says(&[&key], key.sign(&key.header(), &claims));
        let client = op.client();
        let verifier = Secret::new("v".to_owned());
        let arrived = client.finish("code".into(), "n", &verifier, true, now()).await;
        assert_eq!(arrived.is_ok(), fresh, "{auth_time}");
    }
}

#[tokio::test]
async fn a_provider_that_says_it_is_another_is_not_asked_further() {
    let op = Op::new().await;
    op.said.lock().issuer = "https://evil.example.com".into();
    op.said.lock().keys = json!({ "keys": [] });
    assert_eq!(op.client().begin(false).await.unwrap_err().code, "provider_unreachable");
    let away = OidcSettings { issuer: "http://127.0.0.1:1".into(), ..op.client().settings };
    let away = Oidc::new("corp", away, "http://127.0.0.1:1").unwrap();
    assert_eq!(away.begin(false).await.unwrap_err().code, "provider_unreachable");
    for bad in ["http://idp.example.com", "ftp://x", "nonsense"] {
        let settings = OidcSettings { issuer: bad.into(), ..op.client().settings };
        assert!(Oidc::new("corp", settings, "http://127.0.0.1:1").is_err(), "{bad}");
    }
}
