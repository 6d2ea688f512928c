//! Mail: one letter to everybody who decides, in text and HTML, and a reply to it for each turn. TLS is not negotiable:
//! STARTTLS before anything else, or TLS from the first byte, with the certificate verified. A letter decides nothing and
//! carries nothing that decides; its link opens the console, where one logs in.

mod letter;

pub(crate) use letter::Letter;
#[cfg(test)]
pub(in crate::notify) use letter::parts;

use super::{
    channel::Message,
    event,
    http::ATTEMPT_TIMEOUT,
    retry::Answer,
    settings::{EmailSettings, MailTls},
};
use crate::{
    desk::Desk,
    settings::ControlError,
    text::{clip, visible},
};
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    address::Envelope,
    message::Mailbox,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{Certificate, CertificateStore, Tls, TlsParameters},
        extension::ClientId,
    },
};
use lockgate_model::id::GroupName;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Recipients of one letter; beyond that a list's address is meant.
const RECIPIENTS_MAX: usize = 50;

/// Letters of which it is remembered who has got them already: as many as can wait for another attempt.
const UNDER_WAY_MAX: usize = 2 * crate::approvals::registry::PENDING_MAX;

/// Bytes of a server's words that are recorded.
const ERROR_MAX: usize = 300;

/// One mail server, and who is written to.
pub(crate) struct Email {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    group_to: BTreeMap<GroupName, Vec<Mailbox>>,
    reached: Mutex<Reached>,
}

/// Who has got which letter, while others have not.
#[derive(Default)]
struct Reached {
    by_message: BTreeMap<String, BTreeSet<Address>>,
    order: VecDeque<String>,
}

impl Email {
    pub(crate) fn new(settings: EmailSettings) -> Result<Self, ControlError> {
        let name = settings.name.clone();
        let bad =
            |key: &'static str, detail: String| ControlError::Channel { name: name.clone(), key, detail };
        let mailbox = |key, text: &String| {
            text.parse::<Mailbox>().map_err(|error| bad(key, format!("{text:?} is no address: {error}")))
        };
        let from = mailbox("from", &settings.from)?;
        let to = settings.to.iter().map(|text| mailbox("to", text)).collect::<Result<Vec<_>, _>>()?;
        let mut group_to = BTreeMap::new();
        for (group, texts) in &settings.group_to {
            let boxes = texts.iter().map(|text| mailbox("groups", text)).collect::<Result<Vec<_>, _>>()?;
            group_to.insert(group.clone(), boxes);
        }
        if to.is_empty() && group_to.values().all(Vec::is_empty) {
            return Err(bad("to", "nobody would get any mail; name recipients".to_owned()));
        }
        let transport = transport(&settings).map_err(|detail| bad("server", detail))?;
        Ok(Self { transport, from, to, group_to, reached: Mutex::default() })
    }

    pub(super) fn letter(&self, desk: &Desk, message: &Message) -> Result<Letter, String> {
        let event = event::value(desk, message);
        Letter::new(message, &event, &self.from, self.recipients(message))
    }

    /// Of the groups that have a say by now; everybody else's mail goes to `to`.
    fn recipients(&self, message: &Message) -> Vec<Mailbox> {
        let groups: BTreeSet<&GroupName> = message
            .progress
            .iter()
            .flat_map(|progress| &progress.requirements)
            .flat_map(|requirement| &requirement.any_of)
            .collect();
        let mut to: Vec<Mailbox> = Vec::new();
        for group in &groups {
            to.extend(self.group_to.get(*group).unwrap_or(&self.to).iter().cloned());
        }
        if groups.is_empty() || to.is_empty() {
            to.extend(self.to.iter().cloned());
        }
        let mut seen = BTreeSet::new();
        to.retain(|mailbox| seen.insert(mailbox.email.clone()));
        to.truncate(RECIPIENTS_MAX);
        to
    }

    /// One attempt to everybody who has not got it: one bad address keeps it from nobody else.
    pub(super) async fn send(&self, id: &str, letter: Letter) -> Answer {
        let mut trouble = None;
        for address in &letter.to {
            if self.reached.lock().has(id, address) {
                continue;
            }
            match self.deliver(address, &letter).await {
                Ok(()) => self.reached.lock().note(id, address),
                Err(why) => drop(trouble.get_or_insert(why)),
            }
        }
        match trouble {
            None => {
                self.reached.lock().forget(id);
                Answer::Status { code: 250, retry_after: None }
            }
            Some(why) => Answer::Failed(why),
        }
    }

    async fn deliver(&self, address: &Address, letter: &Letter) -> Result<(), String> {
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![address.clone()])
            .map_err(|error| error.to_string())?;
        match tokio::time::timeout(ATTEMPT_TIMEOUT, self.transport.send_raw(&envelope, &letter.bytes)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(words(&error)),
            Err(_) => Err(format!("the mail server did not answer within {} s", ATTEMPT_TIMEOUT.as_secs())),
        }
    }
}

impl Reached {
    fn has(&self, id: &str, address: &Address) -> bool {
        self.by_message.get(id).is_some_and(|reached| reached.contains(address))
    }

    fn note(&mut self, id: &str, address: &Address) {
        if !self.by_message.contains_key(id) {
            while self.order.len() >= UNDER_WAY_MAX {
                let Some(oldest) = self.order.pop_front() else { break };
                self.by_message.remove(&oldest);
            }
            self.order.push_back(id.to_owned());
        }
        self.by_message.entry(id.to_owned()).or_default().insert(address.clone());
    }

    fn forget(&mut self, id: &str) {
        if self.by_message.remove(id).is_some() {
            self.order.retain(|known| known != id);
        }
    }
}

fn transport(settings: &EmailSettings) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
    let mut tls = TlsParameters::builder(settings.host.clone());
    if let Some(pem) = &settings.ca_pem {
        tls = tls.certificate_store(CertificateStore::None);
        tls = tls.add_root_certificate(
            Certificate::from_pem(pem).map_err(|error| format!("ca: not a usable certificate: {error}"))?,
        );
    }
    let tls = tls.build_rustls().map_err(|error| format!("the TLS client cannot be made: {error}"))?;
    let (tls, port) = match settings.tls {
        MailTls::StartTls => (Tls::Required(tls), 587),
        MailTls::Implicit => (Tls::Wrapper(tls), 465),
    };
    // "Dangerous" is its default of no TLS, which is overruled here.
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(settings.host.clone())
        .port(settings.port.unwrap_or(port))
        .hello_name(ClientId::Domain("lockgate".to_owned()))
        .timeout(Some(ATTEMPT_TIMEOUT))
        .tls(tls);
    if let Some((user, password)) = &settings.login {
        builder = builder
            .credentials(Credentials::new(user.clone(), password.expose().trim_end().to_owned()))
            .authentication(vec![Mechanism::Plain, Mechanism::Login]);
    }
    Ok(builder.build())
}

/// The server's words and their causes, made visible: they are recorded and shown.
fn words(error: &lettre::transport::smtp::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    clip(&visible(&text).replace('\n', " "), ERROR_MAX).into_owned()
}
