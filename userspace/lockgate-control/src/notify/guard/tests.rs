use super::*;
use crate::{
    notify::http::Http,
    testing::{Clock, Receiver},
};
use parking_lot::Mutex;
use std::time::Duration;

/// Everything that a request forger would like to reach, and where a receiver may be.
const ADDRESSES: [(&str, Kind); 46] = [
    ("93.184.216.34", Kind::Public),
    ("2606:2800:220:1::1", Kind::Public),
    ("64:ff9b::808:808", Kind::Public),
    ("2002:808:808::1", Kind::Public),
    ("127.0.0.1", Kind::Private),
    ("127.255.255.254", Kind::Private),
    ("::1", Kind::Private),
    ("10.0.0.1", Kind::Private),
    ("172.16.0.1", Kind::Private),
    ("172.31.255.255", Kind::Private),
    ("192.168.1.1", Kind::Private),
    ("100.64.0.1", Kind::Private),
    ("192.0.2.1", Kind::Private),
    ("198.18.0.1", Kind::Private),
    ("192.88.99.1", Kind::Private),
    ("240.0.0.1", Kind::Private),
    ("::ffff:10.0.0.1", Kind::Private),
    ("::ffff:127.0.0.1", Kind::Private),
    ("::7f00:1", Kind::Private),
    ("::ffff:0:127.0.0.1", Kind::Private),
    ("64:ff9b::a00:1", Kind::Private),
    ("64:ff9b:1::1", Kind::Private),
    ("2002:a00:1::", Kind::Private),
    ("2002:7f00:1::", Kind::Private),
    ("2001:0:1:2::3", Kind::Private),
    ("2001:db8::1", Kind::Private),
    ("3fff::1", Kind::Private),
    ("fd00::1", Kind::Private),
    ("fc00::1", Kind::Private),
    ("fec0::1", Kind::Private),
    ("100::1", Kind::Private),
    ("5f00::1", Kind::Private),
    ("2606:4700::5efe:a00:1", Kind::Private),
    ("169.254.169.254", Kind::Forbidden),
    ("169.254.0.1", Kind::Forbidden),
    ("::ffff:169.254.169.254", Kind::Forbidden),
    ("64:ff9b::a9fe:a9fe", Kind::Forbidden),
    ("2002:a9fe:a9fe::", Kind::Forbidden),
    ("fd00:ec2::254", Kind::Forbidden),
    ("fd20:ce::254", Kind::Forbidden),
    ("100.100.100.200", Kind::Forbidden),
    ("192.0.0.192", Kind::Forbidden),
    ("fe80::1", Kind::Forbidden),
    ("0.0.0.0", Kind::Forbidden),
    ("::", Kind::Forbidden),
    ("ff02::1", Kind::Forbidden),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Anybody's.
    Public,
    /// A literal is meant; a name needs `allow_private`.
    Private,
    /// A literal needs `allow_private`; a name never leads there.
    Forbidden,
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 0)
}

#[test]
fn names_do_not_lead_inside_unless_configuration_says_so() {
    for (address, kind) in ADDRESSES {
        let leads =
            |allow_private| admit("hooks.example.com", vec![at(address)], allow_private).map(|all| all.len());
        assert_eq!(leads(false).is_ok(), kind == Kind::Public, "{address}: {:?}", leads(false));
        assert_eq!(leads(true).is_ok(), kind != Kind::Forbidden, "{address}: {:?}", leads(true));
    }
    for (host, address, admitted) in [
        ("localhost", "127.0.0.1", true),
        ("LOCALHOST.", "::1", true),
        ("a.localhost", "127.0.0.1", true),
        ("localhost", "10.0.0.1", false),
        ("localhost", "169.254.169.254", false),
        ("localhost.example.com", "127.0.0.1", false),
    ] {
        assert_eq!(admit(host, vec![at(address)], false).is_ok(), admitted, "{host} {address}");
    }
    let mixed = ["10.0.0.1", "8.8.8.8", "169.254.169.254"].map(at).to_vec();
    assert_eq!(admit("x", mixed, false).unwrap(), [at("8.8.8.8")]);
    assert!(admit("x", Vec::new(), true).is_err());
}

#[test]
fn literals_are_meant_when_they_are_written_plainly() {
    for (address, kind) in ADDRESSES {
        let url = match address.contains(':') {
            true => format!("https://[{address}]:8443/hook"),
            false => format!("https://{address}:8443/hook"),
        };
        assert_eq!(parse_url(&url, false).is_ok(), kind != Kind::Forbidden, "{url}");
        assert!(parse_url(&url, true).is_ok(), "{url}");
    }
    // All of them are addresses to a URL parser; a reader sees something else.
    for disguise in [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.1:9000/hook",
        "http://017700000001/",
        "http://2852039166/latest/meta-data/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://１２７.0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://127。0。0。1/",
        "http://127.0.0.1./",
        "http://\t127.1/",
    ] {
        for allow_private in [false, true] {
            let refused = parse_url(disguise, allow_private).unwrap_err();
            assert!(refused.contains("write it so"), "{disguise}: {refused}");
        }
    }
}

#[test]
fn urls_that_cannot_be_meant_are_refused() {
    for (text, fits) in [
        ("http://127.0.0.1:9000/hook", true),
        ("http://127.0.0.1?x", true),
        ("https://hooks.example.com", true),
        ("http://[::1]:9000/", true),
        ("ftp://x/", false),
        ("file:///etc/passwd", false),
        ("gopher://127.0.0.1:6379/_SET", false),
        ("hooks.example.com/x", false),
        ("http://ana:pw@x/", false),
        ("http://hooks.example.com@127.0.0.1/", false),
        ("http:///", false),
        ("", false),
    ] {
        assert_eq!(parse_url(text, false).is_ok(), fits, "{text}");
    }
}

/// A name server that changes its mind, between a receiver that is meant (this host's) and a metadata service: every
/// connection is judged by the answer it is made with.
#[tokio::test]
async fn a_name_that_is_rebound_never_leads_elsewhere() {
    let receiver = Receiver::new(|_| 200).await;
    let meant = Url::parse(&receiver.url()).unwrap();
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let lookup: Lookup = Arc::new(move |_| {
        let mut asked = count.lock();
        *asked += 1;
        let answer = if *asked % 2 == 1 { at("127.0.0.1") } else { at("169.254.169.254") };
        Box::pin(async move { Ok(vec![answer]) })
    });
    let mut url = meant.clone();
    url.set_host(Some("rebind.localhost")).unwrap();
    for round in 1..=4 {
        // A client of its own each time: a kept connection leads where it led before.
        let http = Http::over("rebound", None, false, lookup.clone()).unwrap();
        let clock = Clock::new();
        let post = http.post(&url, Default::default(), b"{}".to_vec(), &clock);
        let answer = tokio::time::timeout(Duration::from_secs(20), post).await.unwrap();
        let answer = format!("{answer:?}");
        match round % 2 {
            1 => assert!(answer.contains("200"), "{round}: {answer}"),
            _ => assert!(answer.contains("no name may lead there"), "{round}: {answer}"),
        }
        assert_eq!(*asked.lock(), round, "asked once for one connection");
    }
    receiver.next().await;
    receiver.next().await;
    assert!(receiver.is_untouched());
}

/// The look-up's answer is dialled and nothing else: here it is let through, to show that the probe works.
#[tokio::test]
async fn what_was_looked_up_is_what_is_dialled() {
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let lookup: Lookup = Arc::new(move |_| {
        *count.lock() += 1;
        Box::pin(async { Ok(vec![at("127.0.0.1")]) })
    });
    let http = Http::over("named", None, true, lookup).unwrap();
    let url = Url::parse(&format!("http://inside.example.com:{port}/hook")).unwrap();
    let clock = Clock::new();
    let post = http.post(&url, Default::default(), b"{}".to_vec(), &clock);
    tokio::select! {
        accepted = inside.accept() => drop(accepted.unwrap()),
        answer = post => panic!("{answer:?}"),
    }
    assert_eq!(*asked.lock(), 1, "asked once");
}
