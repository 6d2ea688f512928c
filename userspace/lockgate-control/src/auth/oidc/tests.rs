use super::{backchannel::Ended, *};
use crate::auth::session::Session;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
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
    /// What `/userinfo` says, to whoever brings the access token; Null: there is none.
    userinfo: Value,
    /// What renewing a login gives: a status and a body; Null: like the first token.
    renewed: Value,
    /// Metadata says that answers name their issuer.
    names_itself: bool,
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
            let said = said.lock();
            let issuer = said.issuer.clone();
            let mut metadata = json!({
                "issuer": issuer, "authorization_endpoint": format!("{base}/auth"), "token_endpoint": format!("{base}/token"),
                "jwks_uri": format!("{base}/jwks"), "end_session_endpoint": format!("{base}/end"),
                "response_types_supported": ["code"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "authorization_response_iss_parameter_supported": said.names_itself,
            });
            if !said.userinfo.is_null() {
                metadata["userinfo_endpoint"] = json!(format!("{base}/userinfo"));
            }
            Json(metadata)
        };
        let keys = async |State(said): State<Arc<Mutex<Said>>>| {
            let mut said = said.lock();
            said.asked_for_keys += 1;
            Json(said.keys.clone())
        };
        let token = async |State(said): State<Arc<Mutex<Said>>>, form: String| {
            let mut said = said.lock();
            let renews = form.contains("grant_type=refresh_token");
            said.form = form;
            let first = json!({ "access_token": "at", "token_type": "Bearer", "id_token": said.id_token.clone(),
                                "refresh_token": "r1" });
            let (status, body) = match &said.renewed {
                Value::Array(told) if renews => (told[0].as_u64().unwrap(), told[1].clone()),
                _ => (200, first),
            };
            let status = StatusCode::from_u16(u16::try_from(status).unwrap()).unwrap();
            (status, Json(body))
        };
        let userinfo = async |State(said): State<Arc<Mutex<Said>>>, headers: HeaderMap| {
            let brought = headers["authorization"] == "Bearer at";
            (
                if brought { StatusCode::OK } else { StatusCode::UNAUTHORIZED },
                Json(said.lock().userinfo.clone()),
            )
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(keys))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
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
        client.finish("code".into(), None, "n", &Secret::new("verifier".into()), false, now()).await
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
        let arrived = client.finish("code".into(), None, "n", &verifier, true, now()).await;
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

fn session(of: Arrived) -> Session {
    let Arrived { person, proved, id_token, sid, nonce, refresh, until } = of;
    let (id, csrf, began) = ("lgn_1".to_owned(), String::new(), now());
    Session { id, person, csrf, began, proved, source: None, id_token, sid, nonce, refresh, until }
}

#[tokio::test]
async fn groups_that_the_token_does_not_hold_are_asked_for_at_the_provider_and_nowhere_else() {
    let (op, key) = (Op::new().await, SigningKey::new("k1"));
    let elsewhere = json!({ "groups": "src1" });
    let sources = json!({ "src1": { "endpoint": "http://169.254.169.254/latest", "access_token": "x" } });
    let of_ana = |groups: Value| json!({ "sub": "ana", "groups": groups });
    for (name, token_groups, distributed, userinfo, expected) in [
        ("none anywhere", Value::Null, false, Value::Null, Ok(&[][..])),
        ("in userinfo", Value::Null, false, of_ana(json!(["a", "b"])), Ok(&["a", "b"])),
        ("in the token, userinfo is not asked", json!(["t"]), false, of_ana(json!(["u"])), Ok(&["t"])),
        ("the token says elsewhere", json!(["old"]), true, of_ana(json!(["now"])), Ok(&["now"])),
        ("elsewhere, and userinfo has none", Value::Null, true, json!({ "sub": "ana" }), Ok(&[])),
        (
            "of somebody else",
            Value::Null,
            false,
            json!({ "sub": "bob", "groups": ["root"] }),
            Err("bad_subject"),
        ),
        ("of nobody", Value::Null, false, json!({ "groups": ["root"] }), Err("bad_subject")),
        ("odd", Value::Null, false, of_ana(json!({ "root": 1 })), Err("bad_groups")),
        ("no object", Value::Null, false, json!("x"), Err("provider_unreachable")),
    ] {
        let mut claims = op.claims();
        claims["groups"] = token_groups;
        if distributed {
            claims["_claim_names"] = elsewhere.clone();
            claims["_claim_sources"] = sources.clone();
        }
        op.says(&[&key], key.sign(&key.header(), &claims));
        op.said.lock().userinfo = userinfo;
        let arrived = op.login(&op.client()).await;
        let got = arrived
            .as_ref()
            .map(|arrived| arrived.person.groups["groups"].iter().map(String::as_str).collect());
        assert_eq!(got.map_err(|refusal| refusal.code), expected.map(<[&str]>::to_vec), "{name}");
    }
}

#[tokio::test]
async fn a_login_is_renewed_with_the_groups_of_now_or_it_is_over() {
    let (op, key, other) = (Op::new().await, SigningKey::new("k1"), SigningKey::new("k1"));
    op.says(&[&key], key.sign(&key.header(), &op.claims()));
    let client = op.client();
    let was = session(op.login(&client).await.unwrap());
    assert_eq!(was.refresh.as_ref().unwrap().expose(), "r1");
    let with = |name: &str, value: Value| {
        let mut claims = op.claims();
        claims["nonce"] = Value::Null;
        claims["groups"] = json!(["sre"]);
        claims[name] = value;
        claims
    };
    let token = |claims: &Value| {
        json!([200, { "access_token": "at", "token_type": "Bearer", "refresh_token": "r2",
                                             "id_token": key.sign(&key.header(), claims) }])
    };
    let bare = json!([200, { "access_token": "at", "token_type": "Bearer" }]);
    let forged = json!([200, { "access_token": "at", "token_type": "Bearer",
                               "id_token": other.sign(&other.header(), &with("groups", json!(["root"]))) }]);
    let told = json!({ "sub": "ana", "groups": ["told"] });
    for (name, renewed, userinfo, expected) in [
        ("new groups", token(&with("x", json!(1))), Value::Null, Ok("sre")),
        ("the same nonce", token(&with("nonce", json!("n"))), Value::Null, Ok("sre")),
        ("no ID token", bare.clone(), told.clone(), Ok("told")),
        ("no ID token, no userinfo", bare.clone(), Value::Null, Err("over no_id_token")),
        ("userinfo of another", bare, json!({ "sub": "bob", "groups": ["root"] }), Err("over bad_subject")),
        ("another nonce", token(&with("nonce", json!("other"))), Value::Null, Err("over bad_nonce")),
        ("another person", token(&with("sub", json!("bob"))), Value::Null, Err("over bad_subject")),
        ("another client", token(&with("aud", json!("other"))), Value::Null, Err("over bad_audience")),
        ("forged", forged, Value::Null, Err("over bad_signature")),
        ("taken back", json!([400, { "error": "invalid_grant" }]), Value::Null, Err("over login_over")),
        (
            "busy",
            json!([503, { "error": "temporarily_unavailable" }]),
            Value::Null,
            Err("away provider_unreachable"),
        ),
        ("broken", json!([500, "x"]), Value::Null, Err("away provider_unreachable")),
    ] {
        op.said.lock().renewed = renewed;
        op.said.lock().userinfo = userinfo;
        // Whether there is userinfo stands in the metadata.
        *client.known.lock() = None;
        let got = client.renew(&was, now()).await;
        assert!(op.said.lock().form.contains("refresh_token=r1"), "{name}");
        let got = match &got {
            Ok(arrived) => Ok(arrived.person.groups["groups"][0].clone()),
            Err(NotRenewed::Over(refusal)) => Err(format!("over {}", refusal.code)),
            Err(NotRenewed::Away(refusal)) => Err(format!("away {}", refusal.code)),
        };
        assert_eq!(got.as_deref().map_err(String::as_str), expected, "{name}");
    }
    let without = Session { refresh: None, ..was };
    assert!(matches!(client.renew(&without, now()).await, Err(NotRenewed::Over(_))));
}

#[tokio::test]
async fn a_provider_ends_logins_by_a_token_that_is_one_and_only_once() {
    let (op, key, other) = (Op::new().await, SigningKey::new("k1"), SigningKey::new("k1"));
    op.says(&[&key], String::new());
    let at = now().as_second();
    let good = json!({ "iss": op.issuer, "aud": "lockgate", "iat": at, "exp": at + 120, "jti": "j0", "sub": "ana", "sid": "s1",
                       "events": { "http://schemas.openid.net/event/backchannel-logout": {} } });
    let mut number = 0;
    let mut with = |name: &str, value: Value| {
        number += 1;
        let mut claims = good.clone();
        claims["jti"] = json!(format!("j{number}"));
        claims[name] = value;
        claims
    };
    let typed =
        |typ: &str, claims: &Value| key.sign(&json!({ "alg": "ES256", "kid": "k1", "typ": typ }), claims);
    let sign = |claims: &Value| key.sign(&key.header(), claims);
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        URL_SAFE_NO_PAD.encode(good.to_string())
    );
    let critical = key.sign(&json!({ "alg": "ES256", "kid": "k1", "crit": ["x"] }), &good);
    let client = op.client();
    let both = Ended { subject: Some("ana".into()), sid: Some("s1".into()) };
    for (name, token, expected) in [
        ("as it should be", typed("logout+jwt", &with("x", json!(1))), Ok(both.clone())),
        ("untyped", sign(&with("x", json!(1))), Ok(both.clone())),
        ("several audiences of ours", sign(&with("aud", json!(["lockgate"]))), Ok(both.clone())),
        (
            "only a login",
            sign(&with("sub", Value::Null)),
            Ok(Ended { subject: None, sid: Some("s1".into()) }),
        ),
        (
            "only a person",
            sign(&with("sid", Value::Null)),
            Ok(Ended { subject: Some("ana".into()), sid: None }),
        ),
        ("an ID token", sign(&op.claims()), Err("bad_token")),
        ("with a nonce", sign(&with("nonce", json!("n"))), Err("bad_token")),
        ("of another type", typed("at+jwt", &with("x", json!(1))), Err("bad_token")),
        ("with something critical", critical, Err("bad_token")),
        ("without the event", sign(&with("events", json!({ "other": {} }))), Err("bad_token")),
        (
            "with an odd event",
            sign(&with("events", json!({ "http://schemas.openid.net/event/backchannel-logout": true }))),
            Err("bad_token"),
        ),
        ("without time", sign(&with("exp", Value::Null)), Err("bad_token")),
        ("without its id", sign(&with("jti", Value::Null)), Err("bad_token")),
        ("over", sign(&with("exp", json!(at - 31))), Err("expired")),
        ("from the future", sign(&with("iat", json!(at + 31))), Err("not_yet_valid")),
        ("older than an hour", sign(&with("iat", json!(at - 3_700))), Err("expired")),
        ("another client's", sign(&with("aud", json!("other"))), Err("bad_audience")),
        ("another's too", sign(&with("aud", json!(["lockgate", "other"]))), Err("bad_audience")),
        ("another provider's", sign(&with("iss", json!("https://evil.example.com"))), Err("bad_issuer")),
        ("another key of that name", other.sign(&key.header(), &with("x", json!(1))), Err("bad_signature")),
        ("unsigned", unsigned, Err("bad_signature")),
        ("hidden", sign(&with("sub", json!("a\u{202e}b"))), Err("bad_subject")),
        ("too long", "a".repeat(20_000), Err("malformed")),
        ("rubbish", "a.b".into(), Err("malformed")),
        ("four parts", "a.b.c.d".into(), Err("malformed")),
    ] {
        let got = client.ended(&token, now()).await;
        assert_eq!(got.map_err(|refusal| refusal.code), expected, "{name}");
    }
    let nobody = {
        let mut claims = with("sub", Value::Null);
        claims["sid"] = Value::Null;
        sign(&claims)
    };
    assert_eq!(client.ended(&nobody, now()).await.unwrap_err().code, "bad_token");
    let once = sign(&with("x", json!(1)));
    client.ended(&once, now()).await.unwrap();
    assert_eq!(client.ended(&once, now()).await.unwrap_err().code, "replayed");
    // What was used once stays used when the configuration is read anew.
    let mut later = op.client();
    later.go_on_from(&client);
    assert_eq!(later.ended(&once, now()).await.unwrap_err().code, "replayed");
}

#[tokio::test]
async fn a_provider_that_always_names_itself_is_not_believed_without() {
    let (op, key) = (Op::new().await, SigningKey::new("k1"));
    op.says(&[&key], key.sign(&key.header(), &op.claims()));
    op.said.lock().names_itself = true;
    let client = op.client();
    assert_eq!(op.login(&client).await.unwrap_err().code, "bad_issuer");
    let verifier = Secret::new("v".to_owned());
    client.finish("code".into(), Some(&op.issuer), "n", &verifier, false, now()).await.unwrap();
}

#[test]
fn a_logout_ends_the_logins_that_it_names_and_no_others() {
    let login = |provider: &str, sub: &str, sid: Option<&str>| {
        let person = Person {
            id: format!("oidc:{provider}:{sub}"),
            ..crate::auth::person::tests::person(provider, &[])
        };
        session(Arrived { sid: sid.map(str::to_owned), ..Arrived::plain(person, None) })
    };
    let named = |subject: Option<&str>, sid: Option<&str>| Ended {
        subject: subject.map(str::to_owned),
        sid: sid.map(str::to_owned),
    };
    for (of, login, ends) in [
        (named(Some("ana"), None), login("corp", "ana", Some("s1")), true),
        (named(Some("ana"), None), login("corp", "ana", None), true),
        (named(Some("ana"), None), login("corp", "bob", Some("s1")), false),
        (named(Some("ana"), None), login("other", "ana", None), false),
        (named(Some("ana"), Some("s1")), login("corp", "ana", Some("s1")), true),
        (named(Some("ana"), Some("s1")), login("corp", "ana", Some("s2")), false),
        (named(Some("ana"), Some("s1")), login("corp", "ana", None), true),
        (named(Some("ana"), Some("s1")), login("corp", "bob", Some("s1")), false),
        (named(None, Some("s1")), login("corp", "ana", Some("s1")), true),
        (named(None, Some("s1")), login("corp", "ana", None), false),
        (named(None, Some("s1")), login("other", "ana", Some("s1")), false),
    ] {
        assert_eq!(of.is("corp", &login), ends, "{of:?} {}", login.person.id);
    }
}
