use super::*;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use sha2::{Digest, Sha256};

const ACS: &str = "https://gate.example.com/login/adfs/acs";
const EXCLUSIVE: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";

/// An identity provider of its own, with a signer that shares nothing with the verifier: it writes canonical text by hand.
struct Idp {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
}

impl Idp {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(vec!["idp.example.com".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.serialize_der(),
            &SystemRandom::new(),
        );
        Self { key: key.unwrap(), certificate }
    }

    fn provider(&self) -> Saml {
        let settings = SamlSettings {
            entity_id: "urn:idp".into(),
            sso_url: "https://idp.example.com/sso?x=1".into(),
            certificates: vec![self.certificate.clone()],
            audience: "urn:lockgate".into(),
            groups_attribute: "groups".into(),
            email_attribute: Some("mail".into()),
            name_attribute: Some("name".into()),
            skew: Duration::from_secs(30),
        };
        Saml::new("adfs", settings, "https://gate.example.com").unwrap()
    }

    fn sign(&self, text: &str) -> String {
        STANDARD.encode(self.key.sign(&SystemRandom::new(), text.as_bytes()).unwrap())
    }

    /// A ds:Signature over an assertion written without one.
    fn signature(&self, of: &str, id: &str, change: impl Fn(String) -> String) -> String {
        let digest = STANDARD.encode(Sha256::digest(of));
        let info = change(format!(
            "<ds:CanonicalizationMethod Algorithm=\"{EXCLUSIVE}\"></ds:CanonicalizationMethod>\
             <ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256\"></ds:SignatureMethod>\
             <ds:Reference URI=\"#{id}\"><ds:Transforms>\
             <ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"></ds:Transform>\
             <ds:Transform Algorithm=\"{EXCLUSIVE}\"></ds:Transform></ds:Transforms>\
             <ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"></ds:DigestMethod>\
             <ds:DigestValue>{digest}</ds:DigestValue></ds:Reference>"
        ));
        let signed = self.sign(&format!("<ds:SignedInfo xmlns:ds=\"{DSIG}\">{info}</ds:SignedInfo>"));
        format!(
            "<ds:Signature xmlns:ds=\"{DSIG}\"><ds:SignedInfo>{info}</ds:SignedInfo>\
             <ds:SignatureValue>{signed}</ds:SignatureValue></ds:Signature>"
        )
    }
}

fn now() -> Timestamp {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

/// Written canonically, so that its hash is that of its canonical form.
fn assertion(id: &str, name: &str) -> String {
    format!(
        "<saml:Assertion xmlns:saml=\"{ASSERTION}\" ID=\"{id}\" IssueInstant=\"2026-11-21T10:00:00Z\" Version=\"2.0\">\
         <saml:Issuer>urn:idp</saml:Issuer><saml:Subject><saml:NameID>{name}</saml:NameID>\
         <saml:SubjectConfirmation Method=\"{BEARER}\"><saml:SubjectConfirmationData InResponseTo=\"_req\" \
         NotOnOrAfter=\"2026-11-21T10:05:00Z\" Recipient=\"{ACS}\"></saml:SubjectConfirmationData>\
         </saml:SubjectConfirmation></saml:Subject><saml:Conditions NotBefore=\"2026-11-21T09:59:00Z\" \
         NotOnOrAfter=\"2026-11-21T10:05:00Z\"><saml:AudienceRestriction><saml:Audience>urn:lockgate</saml:Audience>\
         </saml:AudienceRestriction></saml:Conditions><saml:AuthnStatement AuthnInstant=\"2026-11-21T09:58:00Z\">\
         </saml:AuthnStatement><saml:AttributeStatement><saml:Attribute Name=\"groups\">\
         <saml:AttributeValue>dba</saml:AttributeValue><saml:AttributeValue>staff</saml:AttributeValue></saml:Attribute>\
         <saml:Attribute Name=\"mail\"><saml:AttributeValue>ana@example.com</saml:AttributeValue></saml:Attribute>\
         </saml:AttributeStatement></saml:Assertion>"
    )
}

/// A signature's place is behind the issuer.
fn with_signature(assertion: &str, signature: &str) -> String {
    assertion.replacen("</saml:Issuer>", &format!("</saml:Issuer>{signature}"), 1)
}

fn response(inside: &str) -> String {
    format!(
        "<samlp:Response xmlns:samlp=\"{PROTOCOL}\" ID=\"_resp\" Version=\"2.0\" Destination=\"{ACS}\"><samlp:Status>\
         <samlp:StatusCode Value=\"{SUCCESS}\"/></samlp:Status>{inside}</samlp:Response>"
    )
}

fn signed(idp: &Idp, assertion: &str) -> String {
    let id = assertion.split("ID=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    with_signature(assertion, &idp.signature(assertion, id, |info| info))
}

fn verdict(saml: &Saml, answer: &str, at: Timestamp) -> Result<Arrived, &'static str> {
    let handle = saml.receive(&STANDARD.encode(answer), at).map_err(|refusal| refusal.code)?;
    let (arrived, state) = saml.collect(&handle).expect("it waits");
    assert_eq!(state, "_req");
    assert!(saml.collect(&handle).is_none(), "it waits once");
    Ok(arrived)
}

#[test]
fn a_signed_assertion_is_a_person() {
    let idp = Idp::new();
    let saml = idp.provider();
    let answer = response(&signed(&idp, &assertion("_a1", "ana")));
    let arrived = verdict(&saml, &answer, now()).unwrap();
    assert_eq!((&*arrived.person.id, &*arrived.person.name), ("saml:adfs:ana", "ana@example.com"));
    assert_eq!(arrived.person.email.as_deref(), Some("ana@example.com"));
    assert_eq!(arrived.person.groups["groups"], ["dba", "staff"]);
    assert_eq!(arrived.proved, Some("2026-11-21T09:58:00Z".parse().unwrap()));
    assert_eq!(verdict(&saml, &answer, now()).err(), Some("replayed"));
    // Forgotten when it is over, and refused for that.
    let later = now() + jiff::SignedDuration::from_secs(331);
    assert_eq!(verdict(&saml, &answer, later).err(), Some("expired"));
}

#[test]
fn whatever_a_provider_signed_that_is_not_for_us_or_not_now_is_refused() {
    let idp = Idp::new();
    for (from, to, code) in [
        ("urn:lockgate", "urn:other", "bad_audience"),
        (
            "<saml:AudienceRestriction><saml:Audience>urn:lockgate</saml:Audience></saml:AudienceRestriction>",
            "",
            "bad_audience",
        ),
        (
            "</saml:AudienceRestriction>",
            "</saml:AudienceRestriction><saml:AudienceRestriction><saml:Audience>urn:other</saml:Audience></saml:AudienceRestriction>",
            "bad_audience",
        ),
        (ACS, "https://gate.example.com/login/other/acs", "bad_recipient"),
        (ACS, "https://evil.example.com/login/adfs/acs", "bad_recipient"),
        ("<saml:Issuer>urn:idp", "<saml:Issuer>urn:other", "bad_issuer"),
        ("NotBefore=\"2026-11-21T09:59:00Z\"", "NotBefore=\"2026-11-21T10:01:00Z\"", "not_yet_valid"),
        ("IssueInstant=\"2026-11-21T10:00:00Z\"", "IssueInstant=\"2026-11-21T10:02:00Z\"", "not_yet_valid"),
        ("10:05:00Z\"><saml:Audience", "09:59:00Z\"><saml:Audience", "expired"),
        ("10:05:00Z\" Recipient", "09:59:00Z\" Recipient", "expired"),
        (" NotOnOrAfter=\"2026-11-21T10:05:00Z\" Recipient", " Recipient", "expired"),
        (" NotOnOrAfter=\"2026-11-21T10:05:00Z\"><saml:Audience", "><saml:Audience", "malformed"),
        ("10:05:00Z\"><saml:Audience", "soon\"><saml:Audience", "malformed"),
        ("2026-11-21T10:05:00Z\"><saml:Audience", "2027-11-21T10:05:00Z\"><saml:Audience", "malformed"),
        ("InResponseTo=\"_req\" ", "", "unasked"),
        (BEARER, "urn:oasis:names:tc:SAML:2.0:cm:sender-vouches", "bad_confirmation"),
        ("Version=\"2.0\"", "Version=\"1.1\"", "malformed"),
        ("<saml:NameID>ana</saml:NameID>", "", "bad_subject"),
        (">ana<", ">  <", "bad_subject"),
        (
            "AuthnInstant=\"2026-11-21T09:58:00Z\"",
            "AuthnInstant=\"2026-11-21T09:58:00Z\" SessionNotOnOrAfter=\"2026-11-21T09:59:00Z\"",
            "expired",
        ),
    ] {
        let plain = assertion("_a1", "ana");
        assert!(plain.contains(from), "{from}");
        let answer = response(&signed(&idp, &plain.replace(from, to)));
        let got = verdict(&idp.provider(), &answer, now()).err();
        assert_eq!(got, Some(code), "{from} → {to}");
    }
}

#[test]
fn what_nobody_signed_and_what_another_signed_is_refused() {
    let (idp, other) = (Idp::new(), Idp::new());
    let plain = assertion("_a1", "ana");
    let good = signed(&idp, &plain);
    let outer = response(&plain);
    let over_response = idp.signature(&outer, "_resp", |info| info);
    for (name, answer, code) in [
        ("unsigned", response(&plain), "unsigned"),
        (
            "only the answer is signed",
            outer.replacen("<samlp:Status>", &format!("{over_response}<samlp:Status>"), 1),
            "unsigned",
        ),
        ("another key", response(&signed(&other, &plain)), "bad_signature"),
        ("changed name", response(&good.replace(">ana<", ">root<")), "bad_signature"),
        ("changed group", response(&good.replace(">staff<", ">admin<")), "bad_signature"),
        ("no value", response(&good.replace("SignatureValue", "OtherValue")), "bad_signature"),
        ("a comment in the name", response(&good.replace(">ana<", ">an<!-- x -->a<")), "malformed"),
        ("instructions", response(&good.replace(">ana<", "><?x y?>ana<")), "malformed"),
        (
            "another address",
            response(&good).replacen(&format!("Destination=\"{ACS}\""), "Destination=\"https://x/\"", 1),
            "bad_destination",
        ),
        (
            "a failed login",
            response(&good).replace(SUCCESS, "urn:oasis:names:tc:SAML:2.0:status:Responder"),
            "provider_refused",
        ),
        (
            "encrypted",
            response(&format!("<saml:EncryptedAssertion xmlns:saml=\"{ASSERTION}\"/>")),
            "encrypted",
        ),
        ("nothing", response(""), "malformed"),
        ("not an answer", good.clone(), "malformed"),
        (
            "entities",
            format!("<!DOCTYPE r [<!ENTITY e \"ana\">]>{}", response(&good.replace(">ana<", ">&e;<"))),
            "malformed",
        ),
        ("a document type alone", format!("<!DOCTYPE r>{}", response(&good)), "malformed"),
    ] {
        assert_eq!(verdict(&idp.provider(), &answer, now()).err(), Some(code), "{name}");
    }
    for rubbish in ["", "%%%", "PA==", &STANDARD.encode("<a>"), &"A".repeat(400_000)] {
        assert_eq!(idp.provider().receive(rubbish, now()).unwrap_err().code, "malformed");
    }
}

/// One algorithm each way is accepted; a signature that is right by any other is none.
#[test]
fn other_algorithms_and_other_forms_are_refused() {
    let idp = Idp::new();
    let plain = assertion("_a1", "ana");
    for (from, to) in [
        ("xmldsig-more#ecdsa-sha256", "xmldsig-more#rsa-sha256"),
        ("http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", "http://www.w3.org/2000/09/xmldsig#rsa-sha1"),
        (
            "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256",
            "http://www.w3.org/2000/09/xmldsig#hmac-sha1",
        ),
        ("xmldsig-more#ecdsa-sha256", "xmldsig-more#hmac-sha256"),
        ("http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", "none"),
        ("http://www.w3.org/2001/04/xmlenc#sha256", "http://www.w3.org/2000/09/xmldsig#sha1"),
        (
            "http://www.w3.org/2000/09/xmldsig#enveloped-signature",
            "http://www.w3.org/TR/1999/REC-xslt-19991116",
        ),
        (EXCLUSIVE, "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"),
        (EXCLUSIVE, "http://www.w3.org/2001/10/xml-exc-c14n#WithComments"),
        ("URI=\"#_a1\"", "URI=\"\""),
        ("URI=\"#_a1\"", "URI=\"#_resp\""),
        ("URI=\"#_a1\"", "URI=\"http://evil.example.com/a\""),
        (
            "<ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"></ds:Transform>",
            "",
        ),
        ("<ds:Reference", "<ds:Reference URI=\"#_b\"></ds:Reference><ds:Reference"),
    ] {
        let signature = idp.signature(&plain, "_a1", |info| {
            assert!(info.contains(from), "{from}");
            info.replace(from, to)
        });
        let answer = response(&with_signature(&plain, &signature));
        let code = verdict(&idp.provider(), &answer, now()).err();
        assert!(matches!(code, Some("bad_algorithm" | "bad_signature")), "{from} → {to}: {code:?}");
    }
}

/// Signature wrapping as in Somorovsky et al., "On Breaking SAML" (2012), XSW 1 to 8: the signed assertion is there and right,
/// and another one is where a careless reader looks.
#[test]
fn a_wrapped_signature_is_refused_in_each_of_its_eight_forms() {
    let idp = Idp::new();
    let plain = assertion("_a1", "ana");
    let signature = idp.signature(&plain, "_a1", |info| info);
    let good = with_signature(&plain, &signature);
    let evil = assertion("_evil", "root");
    let same_id = assertion("_a1", "root");
    let inside =
        |outer: &str, inner: &str| outer.replacen("</ds:Signature>", &format!("{inner}</ds:Signature>"), 1);
    let object = |inner: &str| format!("<ds:Object xmlns:ds=\"{DSIG}\">{inner}</ds:Object>");
    let extensions = |inner: &str| format!("<samlp:Extensions>{inner}</samlp:Extensions>");
    let evil_with = |signature: &str| with_signature(&evil, signature);
    let whole = response(&good);
    for (name, answer) in [
        ("1: answer in the answer's signature", response(&format!("{}{evil}", inside(&signature, &whole)))),
        ("2: answer before", response(&format!("{whole}{evil}"))),
        ("3: evil before the good", response(&format!("{evil}{good}"))),
        ("3b: evil behind the good", response(&format!("{good}{evil}"))),
        (
            "4: good within evil",
            response(&evil.replacen("</saml:Issuer>", &format!("</saml:Issuer>{good}"), 1)),
        ),
        (
            "5: evil with the good signature, the good behind",
            response(&format!("{}{plain}", evil_with(&signature))),
        ),
        ("6: good within the signature of evil", response(&evil_with(&inside(&signature, &plain)))),
        ("7: evil in extensions", response(&format!("{}{good}", extensions(&evil)))),
        (
            "8: good in an object of evil's signature",
            response(&evil_with(&inside(&signature, &object(&plain)))),
        ),
        ("the same id twice", response(&format!("{same_id}{good}"))),
        ("evil alone with the good signature", response(&evil_with(&signature))),
        ("evil of that id alone with the good signature", response(&with_signature(&same_id, &signature))),
        ("good in extensions alone", response(&extensions(&good))),
        ("two signatures", response(&with_signature(&good, &signature))),
        ("another namespace's assertion", response(&format!("<x:Assertion xmlns:x=\"urn:x\"/>{good}"))),
        (
            "a signature further in",
            response(&good.replacen("<saml:Subject>", &format!("<saml:Subject>{signature}"), 1)),
        ),
    ] {
        let code = verdict(&idp.provider(), &answer, now()).err();
        assert!(
            matches!(code, Some("wrapped" | "bad_signature" | "unsigned" | "malformed")),
            "{name}: {code:?}"
        );
    }
    assert!(verdict(&idp.provider(), &whole, now()).is_ok(), "the good one passes");
}

#[test]
fn every_byte_that_is_changed_spoils_it_or_changes_nothing() {
    let idp = Idp::new();
    let answer = response(&signed(&idp, &assertion("_a1", "ana"))).into_bytes();
    for place in 0..answer.len() {
        let mut changed = answer.clone();
        changed[place] = if changed[place] == b'x' { b'y' } else { b'x' };
        let Ok(handle) = idp.provider().receive(&STANDARD.encode(&changed), now()) else { continue };
        drop(handle);
        // Only the unsigned frame (the answer's own id, for one) may differ.
        let text = String::from_utf8(changed).unwrap();
        let (start, end) = (text.find("<saml:Assertion").unwrap(), text.find("</saml:Assertion>").unwrap());
        assert!(place < start || place > end, "byte {place} of a signed assertion");
    }
}

#[test]
fn a_request_says_who_asks_and_where_to_answer_and_asks_anew_when_told() {
    use std::io::Read as _;
    let saml = Idp::new().provider();
    for fresh in [false, true] {
        let begun = saml.begin(fresh, now()).unwrap();
        let request = begun.url.strip_prefix("https://idp.example.com/sso?x=1&SAMLRequest=").unwrap();
        let request =
            form_urlencoded::parse(format!("r={request}").as_bytes()).next().unwrap().1.into_owned();
        let mut text = String::new();
        let deflated = STANDARD.decode(request).unwrap();
        flate2::read::DeflateDecoder::new(&deflated[..]).read_to_string(&mut text).unwrap();
        let document = Document::parse(&text).unwrap();
        let root = document.root_element();
        assert_eq!(root.attribute("ID"), Some(&*begun.state));
        assert_eq!(root.attribute("AssertionConsumerServiceURL"), Some(ACS));
        assert_eq!(root.attribute("ForceAuthn").is_some(), fresh);
        assert_eq!(only(root, ASSERTION, "Issuer").unwrap().text(), Some("urn:lockgate"));
    }
    assert!(Document::parse(&saml.metadata()).is_ok());
    let old = Arrived { proved: Some(now() - jiff::SignedDuration::from_secs(600)), ..some_arrived() };
    assert_eq!(saml.check_fresh(&old, true, now()).unwrap_err().code, "not_fresh");
    assert!(saml.check_fresh(&old, false, now()).is_ok());
    assert_eq!(saml.check_fresh(&some_arrived(), true, now()).unwrap_err().code, "not_fresh");
}

fn some_arrived() -> Arrived {
    Arrived::plain(crate::auth::person::tests::person("adfs", &[]), None)
}

#[test]
fn certificates_must_be_of_keys_that_hold() {
    let weak = SamlSettings { certificates: vec![vec![1, 2, 3]], ..Idp::new().provider().settings };
    assert!(Saml::new("adfs", weak.clone(), "https://x").is_err());
    assert!(Saml::new("adfs", SamlSettings { certificates: Vec::new(), ..weak }, "https://x").is_err());
}
