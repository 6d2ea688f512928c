//! SAML 2.0, as a service provider that is told as little as possible: a request by redirect, an answer by POST, in it one
//! assertion that is signed itself (<https://docs.oasis-open.org/security/saml/v2.0/>).
//!
//! Only logins that were begun here are accepted, each assertion once. Encrypted assertions, artifacts, logout by SAML and
//! answers without a question are not spoken.

mod canonical;
mod signature;

use super::{
    oidc::{Arrived, Begun, LoginRefusal, refuse},
    person::{GROUPS_MAX, Person, fit_name},
    secret::{self, Hashed, NoRandomness},
    settings::SamlSettings,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::DeflateEncoder};
use lockgate_model::{Secret, Timestamp};
use parking_lot::Mutex;
use roxmltree::{Document, Node, ParsingOptions};
use signature::{DSIG, Key, only};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Write as _,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const PROTOCOL: &str = "urn:oasis:names:tc:SAML:2.0:protocol";
const ASSERTION: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
const SUCCESS: &str = "urn:oasis:names:tc:SAML:2.0:status:Success";
const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";
const POST: &str = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST";

/// Bytes of an answer, decoded, and its elements, attributes and texts.
const ANSWER_MAX: usize = 256 << 10;
const NODES_MAX: u32 = 20_000;

/// Assertions that are remembered until they are over; beyond, none is accepted until some are.
const SEEN_MAX: usize = 50_000;

/// Verified answers that wait for their browser, and for how long.
const WAITING_MAX: usize = 1_000;
const WAITS: Duration = Duration::from_secs(60);

/// A login that was asked for anew must have happened within this, besides skew.
const FRESH: i64 = 300;

/// An assertion that says longer is over by then all the same.
const LIFE_MAX: i64 = 24 * 3_600;

/// Whoever arrived, which attempt that answers, and since when they wait.
type Waiting = (Arrived, String, Instant);

/// One provider.
pub(crate) struct Saml {
    name: String,
    settings: SamlSettings,
    keys: Vec<Key>,
    /// Where answers are posted.
    acs: String,
    seen: Arc<Mutex<HashMap<Hashed, Timestamp>>>,
    waiting: Arc<Mutex<HashMap<Hashed, Waiting>>>,
}

impl Saml {
    pub(crate) fn new(name: &str, settings: SamlSettings, base: &str) -> Result<Self, String> {
        let keys: Result<Vec<Key>, String> = settings.certificates.iter().map(|der| Key::of(der)).collect();
        let keys = keys.map_err(|error| format!("certificate: {error}"))?;
        if keys.is_empty() {
            return Err(
                "certificate: expected at least one; it is what assertions are verified with".to_owned()
            );
        }
        let sso = reqwest::Url::parse(&settings.sso_url).map_err(|error| format!("sso_url: {error}"))?;
        if !matches!(sso.scheme(), "https" | "http") {
            return Err("sso_url: expected http or https".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            settings,
            keys,
            acs: format!("{base}/login/{name}/acs"),
            seen: Arc::default(),
            waiting: Arc::default(),
        })
    }

    /// Goes on from an earlier reading of the configuration: an assertion is good once, whatever was read meanwhile.
    pub(crate) fn go_on_from(&mut self, before: &Self) {
        self.seen = before.seen.clone();
        self.waiting = before.waiting.clone();
    }

    /// Sends a browser there (bindings, 3.4.4.1). `fresh`: the person must prove anew who they are.
    pub(crate) fn begin(&self, fresh: bool, now: Timestamp) -> Result<Begun, NoRandomness> {
        let id = format!("_{}{}", secret::id("")?, secret::id("")?);
        let (at, acs) = (self.instant(now), escaped(&self.acs));
        let (to, issuer) = (escaped(&self.settings.sso_url), escaped(&self.settings.audience));
        let anew = if fresh { " ForceAuthn=\"true\"" } else { "" };
        let request = format!(
            "<samlp:AuthnRequest xmlns:samlp=\"{PROTOCOL}\" xmlns:saml=\"{ASSERTION}\" ID=\"{id}\" Version=\"2.0\" \
             IssueInstant=\"{at}\" Destination=\"{to}\"{anew} AssertionConsumerServiceURL=\"{acs}\" \
             ProtocolBinding=\"{POST}\"><saml:Issuer>{issuer}</saml:Issuer></samlp:AuthnRequest>"
        );
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail; were it to, the provider would refuse what is left.
        let deflated =
            deflate.write_all(request.as_bytes()).and_then(|()| deflate.finish()).unwrap_or_default();
        let request: String = form_urlencoded::byte_serialize(STANDARD.encode(deflated).as_bytes()).collect();
        let separator = if self.settings.sso_url.contains('?') { '&' } else { '?' };
        Ok(Begun {
            url: format!("{}{separator}SAMLRequest={request}", self.settings.sso_url),
            state: id,
            nonce: String::new(),
            verifier: Secret::new(String::new()),
        })
    }

    /// Judges what was posted; a handle for the browser to fetch it by.
    pub(crate) fn receive(&self, answer: &str, now: Timestamp) -> Result<String, LoginRefusal> {
        let assertion = self.verified(answer, now)?;
        self.remember(&assertion.id, assertion.over, now)?;
        let handle = secret::random().map_err(|error| refuse("no_randomness", error.to_string()))?;
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (_, _, since)| since.elapsed() < WAITS);
        if waiting.len() >= WAITING_MAX {
            return Err(refuse("too_many", "too many logins at this moment; begin again"));
        }
        let arrived =
            Arrived { until: assertion.until, ..Arrived::plain(assertion.person, assertion.proved) };
        waiting.insert(Hashed::of(&handle), (arrived, assertion.in_response_to, Instant::now()));
        Ok(handle)
    }

    /// What waits under a handle, once: the person, and the attempt that it answers.
    pub(crate) fn collect(&self, handle: &str) -> Option<(Arrived, String)> {
        let (arrived, state, since) = self.waiting.lock().remove(&Hashed::of(handle))?;
        (since.elapsed() < WAITS).then_some((arrived, state))
    }

    /// Refuses an old proof where a new one was asked for.
    pub(crate) fn check_fresh(
        &self,
        arrived: &Arrived,
        fresh: bool,
        now: Timestamp,
    ) -> Result<(), LoginRefusal> {
        let age = arrived.proved.map(|proved| now.duration_since(proved).as_secs());
        if fresh && age.is_none_or(|age| age > FRESH + self.skew()) {
            return Err(refuse(
                "not_fresh",
                "the provider did not ask the person to prove anew who they are",
            ));
        }
        Ok(())
    }

    /// What an identity provider wants to know of us (metadata, 2.4.4).
    pub(crate) fn metadata(&self) -> String {
        let (us, acs) = (escaped(&self.settings.audience), escaped(&self.acs));
        format!(
            "<md:EntityDescriptor xmlns:md=\"urn:oasis:names:tc:SAML:2.0:metadata\" entityID=\"{us}\"><md:SPSSODescriptor \
             AuthnRequestsSigned=\"false\" WantAssertionsSigned=\"true\" protocolSupportEnumeration=\"{PROTOCOL}\">\
             <md:AssertionConsumerService Binding=\"{POST}\" Location=\"{acs}\" index=\"0\" isDefault=\"true\"/>\
             </md:SPSSODescriptor></md:EntityDescriptor>\n"
        )
    }

    fn skew(&self) -> i64 {
        i64::try_from(self.settings.skew.as_secs()).unwrap_or(0)
    }

    /// Whole seconds: some providers read no more.
    fn instant(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    /// An assertion is good once.
    fn remember(&self, id: &str, over: Timestamp, now: Timestamp) -> Result<(), LoginRefusal> {
        let mut seen = self.seen.lock();
        seen.retain(|_, over| *over > now);
        if seen.len() >= SEEN_MAX {
            return Err(refuse("too_many", "too many logins at this moment; begin again"));
        }
        match seen.insert(Hashed::of(id), over) {
            None => Ok(()),
            Some(_) => Err(refuse("replayed", "this assertion was used before; begin the login again")),
        }
    }

    fn verified(&self, answer: &str, now: Timestamp) -> Result<Assertion, LoginRefusal> {
        let bad = |detail: &str| refuse("malformed", detail);
        let answer: String = answer.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if answer.is_empty() || answer.len() > ANSWER_MAX * 4 / 3 {
            return Err(bad("expected SAMLResponse: base64 of at most 256 KiB"));
        }
        let answer = STANDARD.decode(answer).map_err(|_| bad("the SAMLResponse is not base64"))?;
        let source = std::str::from_utf8(&answer).map_err(|_| bad("the answer is not UTF-8"))?;
        let document = parse(source)?;
        let response = document.root_element();
        let assertion = self.one_assertion(response)?;
        let text = signature::signed(source, assertion, &self.keys)?;
        let text = std::str::from_utf8(&text).map_err(|_| bad("the assertion is not UTF-8"))?;
        let signed = parse(text)?;
        self.read(signed.root_element(), now)
    }

    /// The answer's one assertion, where an assertion has its place. Nothing of the answer itself is believed; but one that is
    /// arranged in any other way is not looked at further.
    fn one_assertion<'a, 'input>(
        &self,
        response: Node<'a, 'input>,
    ) -> Result<Node<'a, 'input>, LoginRefusal> {
        let odd = |detail: &str| refuse("wrapped", detail);
        if !response.has_tag_name((PROTOCOL, "Response")) {
            return Err(refuse("malformed", "expected a samlp:Response"));
        }
        let status =
            only(response, PROTOCOL, "Status").and_then(|status| only(status, PROTOCOL, "StatusCode"));
        if status.and_then(|code| code.attribute("Value")) != Some(SUCCESS) {
            return Err(refuse("provider_refused", "the provider says that the login failed"));
        }
        if response.attribute("Destination").is_some_and(|to| to != self.acs) {
            return Err(refuse(
                "bad_destination",
                format!("the answer was made for another address than {}", self.acs),
            ));
        }
        if response.descendants().any(|node| node.has_tag_name((ASSERTION, "EncryptedAssertion"))) {
            return Err(refuse(
                "encrypted",
                "the assertion is encrypted; turn encryption off at the provider, TLS protects it",
            ));
        }
        let mut assertions = response.descendants().filter(|node| node.tag_name().name() == "Assertion");
        let assertion = match (assertions.next(), assertions.next()) {
            (Some(one), None) => one,
            (None, _) => return Err(refuse("malformed", "the answer has no assertion")),
            (Some(_), Some(_)) => return Err(odd("the answer has more than one assertion")),
        };
        if !assertion.has_tag_name((ASSERTION, "Assertion")) || assertion.parent() != Some(response) {
            return Err(odd("the assertion does not stand in the answer itself"));
        }
        let stray = |node: &Node<'_, '_>| {
            node.tag_name().name() == "Signature"
                && node.parent() != Some(response)
                && node.parent() != Some(assertion)
        };
        if response.descendants().any(|node| stray(&node)) {
            return Err(odd("a signature stands where none belongs"));
        }
        let mut ids = BTreeSet::new();
        let named = response.descendants().flat_map(|node| node.attributes());
        let mut ids_of = named.filter(|attribute| attribute.name().eq_ignore_ascii_case("id"));
        if !ids_of.all(|attribute| ids.insert(attribute.value().to_owned())) {
            return Err(odd("two elements have the same ID"));
        }
        if assertion.children().filter(|node| node.has_tag_name((DSIG, "Signature"))).count() > 1 {
            return Err(odd("the assertion has more than one signature"));
        }
        Ok(assertion)
    }

    /// What the provider signed.
    fn read(&self, assertion: Node<'_, '_>, now: Timestamp) -> Result<Assertion, LoginRefusal> {
        let missing = |what: &str| refuse("malformed", format!("expected one {what} in the assertion"));
        if !assertion.has_tag_name((ASSERTION, "Assertion")) || assertion.attribute("Version") != Some("2.0")
        {
            return Err(refuse("malformed", "expected an assertion of SAML 2.0"));
        }
        let id = assertion.attribute("ID").ok_or_else(|| missing("ID"))?;
        let issuer = only(assertion, ASSERTION, "Issuer").and_then(|issuer| issuer.text());
        if issuer.map(str::trim) != Some(self.settings.entity_id.as_str()) {
            return Err(refuse(
                "bad_issuer",
                format!("expected an assertion of {}", self.settings.entity_id),
            ));
        }
        if self.time(assertion, "IssueInstant")?.is_none_or(|at| at > self.later(now)) {
            return Err(refuse("not_yet_valid", "the assertion is from the future; check the clocks"));
        }
        let over = self.conditions(
            only(assertion, ASSERTION, "Conditions").ok_or_else(|| missing("Conditions"))?,
            now,
        )?;
        let subject = only(assertion, ASSERTION, "Subject").ok_or_else(|| missing("Subject"))?;
        let name_id = only(subject, ASSERTION, "NameID").and_then(|name| name.text()).and_then(fit_name);
        let name_id = name_id
            .ok_or_else(|| refuse("bad_subject", "the NameID is missing, too long or not printable"))?;
        let in_response_to = self.confirmed(subject, now)?;
        let statement =
            only(assertion, ASSERTION, "AuthnStatement").ok_or_else(|| missing("AuthnStatement"))?;
        let until = self.time(statement, "SessionNotOnOrAfter")?;
        if until.is_some_and(|until| until <= self.earlier(now)) {
            return Err(refuse("expired", "the login at the provider is over"));
        }
        let proved = self.time(statement, "AuthnInstant")?.map(|proved| proved.min(now));
        let person = self.person(assertion, name_id)?;
        Ok(Assertion { id: id.to_owned(), in_response_to, over, proved, until, person })
    }

    /// When the assertion is good, and for whom; when it is over.
    fn conditions(&self, conditions: Node<'_, '_>, now: Timestamp) -> Result<Timestamp, LoginRefusal> {
        if self.time(conditions, "NotBefore")?.is_some_and(|from| from > self.later(now)) {
            return Err(refuse("not_yet_valid", "the assertion is not valid yet; check the clocks"));
        }
        let until = self.time(conditions, "NotOnOrAfter")?;
        let until = until.ok_or_else(|| refuse("malformed", "expected Conditions with NotOnOrAfter"))?;
        if until <= self.earlier(now) {
            return Err(refuse("expired", "the assertion is over; begin the login again"));
        }
        let mut restrictions = conditions
            .children()
            .filter(|node| node.has_tag_name((ASSERTION, "AudienceRestriction")))
            .peekable();
        let ours = |node: Node<'_, '_>| {
            node.children().any(|audience| {
                audience.has_tag_name((ASSERTION, "Audience"))
                    && audience.text().map(str::trim) == Some(self.settings.audience.as_str())
            })
        };
        if restrictions.peek().is_none() || !restrictions.all(ours) {
            return Err(refuse(
                "bad_audience",
                format!("the assertion is not for {}", self.settings.audience),
            ));
        }
        let longest = now.checked_add(jiff::SignedDuration::from_secs(LIFE_MAX)).unwrap_or(now);
        let over = until.checked_add(jiff::SignedDuration::from_secs(self.skew())).unwrap_or(until);
        if over > longest {
            return Err(refuse("malformed", "the assertion is good for longer than a day"));
        }
        Ok(over)
    }

    /// The attempt that a bearer of this assertion answers (profiles, 4.1.4.2).
    fn confirmed(&self, subject: Node<'_, '_>, now: Timestamp) -> Result<String, LoginRefusal> {
        let mut refusal = refuse("bad_confirmation", "expected a SubjectConfirmation for the bearer");
        let bearers = subject.children().filter(|node| {
            node.has_tag_name((ASSERTION, "SubjectConfirmation")) && node.attribute("Method") == Some(BEARER)
        });
        for bearer in bearers {
            let Some(data) = only(bearer, ASSERTION, "SubjectConfirmationData") else { continue };
            let until = self.time(data, "NotOnOrAfter")?;
            if data.attribute("Recipient") != Some(self.acs.as_str()) {
                refusal =
                    refuse("bad_recipient", format!("the assertion is not to be posted to {}", self.acs));
            } else if until.is_none_or(|until| until <= self.earlier(now)) {
                refusal =
                    refuse("expired", "the assertion may not be posted any more; begin the login again");
            } else if self.time(data, "NotBefore")?.is_some_and(|from| from > self.later(now)) {
                refusal = refuse("not_yet_valid", "the assertion may not be posted yet; check the clocks");
            } else if let Some(request) = data.attribute("InResponseTo").filter(|request| !request.is_empty())
            {
                return Ok(request.to_owned());
            } else {
                refusal = refuse("unasked", "nobody here asked for this login; begin it on lockgate's page");
            }
        }
        Err(refusal)
    }

    fn person(&self, assertion: Node<'_, '_>, name_id: String) -> Result<Person, LoginRefusal> {
        let mut attributes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let statements =
            assertion.children().filter(|node| node.has_tag_name((ASSERTION, "AttributeStatement")));
        for attribute in statements
            .flat_map(|node| node.children())
            .filter(|node| node.has_tag_name((ASSERTION, "Attribute")))
        {
            let Some(name) = attribute.attribute("Name") else { continue };
            let values = attribute.children().filter(|node| node.has_tag_name((ASSERTION, "AttributeValue")));
            let values = values.filter_map(|value| value.text()).map(|text| text.trim().to_owned());
            attributes.entry(name).or_default().extend(values);
        }
        let groups = attributes.get(self.settings.groups_attribute.as_str()).cloned().unwrap_or_default();
        if groups.len() > GROUPS_MAX {
            return Err(refuse("bad_groups", "the assertion names more than 2000 groups"));
        }
        let first = |name: &Option<String>| {
            let values = name.as_ref().and_then(|name| attributes.get(name.as_str()));
            values.and_then(|values| values.first()).and_then(|value| fit_name(value))
        };
        let email = first(&self.settings.email_attribute);
        let name = first(&self.settings.name_attribute).or_else(|| email.clone());
        Ok(Person {
            id: format!("saml:{}:{name_id}", self.name),
            provider: self.name.clone(),
            authority: self.settings.entity_id.clone(),
            name: name.unwrap_or_else(|| name_id.clone()),
            email,
            aliases: vec![name_id],
            // Under both names, so that a policy's `groups:dba` means the same as with OpenID.
            groups: BTreeMap::from([("groups".to_owned(), groups)]),
        })
    }

    fn time(&self, node: Node<'_, '_>, name: &str) -> Result<Option<Timestamp>, LoginRefusal> {
        let text = node.attribute(name);
        let parsed = text.map(str::parse).transpose();
        parsed.map_err(|_| refuse("malformed", format!("{name} is no time")))
    }

    fn later(&self, now: Timestamp) -> Timestamp {
        now.checked_add(jiff::SignedDuration::from_secs(self.skew())).unwrap_or(now)
    }

    fn earlier(&self, now: Timestamp) -> Timestamp {
        now.checked_sub(jiff::SignedDuration::from_secs(self.skew())).unwrap_or(now)
    }
}

/// What an assertion says.
struct Assertion {
    id: String,
    in_response_to: String,
    /// Until when its id is remembered.
    over: Timestamp,
    proved: Option<Timestamp>,
    /// When the login at the provider ends, where it says so.
    until: Option<Timestamp>,
    person: Person,
}

/// Reads a document that has nothing in it but elements and text. A text that a comment splits would be read differently by
/// others, and entities are nobody's friends.
fn parse(source: &str) -> Result<Document<'_>, LoginRefusal> {
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(source, options)
        .map_err(|error| refuse("malformed", format!("the answer cannot be read: {error}")))?;
    if document.descendants().any(|node| node.is_comment() || node.is_pi()) {
        return Err(refuse("malformed", "the answer has comments or instructions in it"));
    }
    Ok(document)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
