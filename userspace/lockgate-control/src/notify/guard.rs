//! Where lockgate may be made to dial: what an address in the configuration may be, and what a host *name* may lead to.
//!
//! An address literal that stands in the configuration is meant, private or not, when it is written plainly. Link-local
//! addresses and clouds' metadata services are not, unless `allow_private: true` stands beside it: nobody receives
//! notifications there, and what answers there gives away credentials. A *name* is whoever's its name server is, so it leads to
//! public addresses alone, with `allow_private` to the inside of the network, and never to a metadata service.
//!
//! What is not known to be public is private: IPv6 is the global unicast range less what is embedded or reserved in it.

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

/// How a name is looked up.
pub(super) type Lookup =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync>;

/// The host's own resolver.
pub(super) fn system() -> Lookup {
    Arc::new(|host| Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), 0)).await?.collect()) }))
}

/// An address that can be meant: http or https, with a host, without a password, an address literal written as itself.
pub(super) fn parse_url(text: &str, allow_private: bool) -> Result<Url, String> {
    const EXPECTED: &str = "expected http(s)://host[:port]/path";
    let url = Url::parse(text).map_err(|_| EXPECTED.to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(EXPECTED.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("no user or password in it: requests are signed with `secret`".to_owned());
    }
    let Some(ip) = literal(&url) else { return Ok(url) };
    if let IpAddr::V4(ip) = ip
        && written_host(text) != Some(&ip.to_string())
    {
        return Err(format!("that spelling means {ip}; write it so, so that everybody sees where it leads"));
    }
    if is_forbidden(ip) && !allow_private {
        return Err(format!(
            "{ip} is no receiver's: it is link-local, unspecified, multicast or a cloud's metadata service; set \
             `allow_private: true` if it is meant"
        ));
    }
    Ok(url)
}

fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The host as it is written: numbers in other bases and with fewer dots are addresses, too (WHATWG URL, "IPv4 parser").
fn written_host(text: &str) -> Option<&str> {
    let (_, rest) = text.trim().split_once("://")?;
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    Some(authority.split(':').next().unwrap_or(authority))
}

/// Name look-up that refuses inside addresses. Address literals never come here: [`parse_url`] has judged them.
/// What it answers is what is dialled, so a name cannot lead elsewhere in between.
pub(super) struct Guard {
    pub(super) allow_private: bool,
    pub(super) lookup: Lookup,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let (allow_private, found) = (self.allow_private, (self.lookup)(host.clone()));
        Box::pin(async move {
            let admitted = admit(&host, found.await?, allow_private)?;
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// The addresses that may be dialled for a host name.
fn admit(host: &str, found: Vec<SocketAddr>, allow_private: bool) -> Result<Vec<SocketAddr>, String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let local_name = host == "localhost" || host.ends_with(".localhost");
    let admits = |ip: IpAddr| {
        !is_forbidden(ip)
            && (allow_private || !is_private(ip) || (local_name && ip.to_canonical().is_loopback()))
    };
    let admitted: Vec<SocketAddr> = found.iter().copied().filter(|address| admits(address.ip())).collect();
    match (admitted.is_empty(), found.first()) {
        (false, _) => Ok(admitted),
        (true, None) => Err(format!("{host} has no address")),
        (true, Some(address)) if is_forbidden(address.ip()) => Err(format!(
            "{host} leads to {}, which is link-local or a cloud's metadata service; no name may lead there",
            address.ip()
        )),
        (true, Some(address)) => Err(format!(
            "{host} leads to {}, a private address; write the address itself in `url`, or set `allow_private: true`",
            address.ip()
        )),
    }
}

/// Where no receiver is: link-local, unspecified, multicast, broadcast, and the metadata services of clouds (AWS and most
/// others 169.254.169.254 and fd00:ec2::254, Google fd20:ce::254, Alibaba 100.100.100.200, Oracle 192.0.0.192).
fn is_forbidden(ip: IpAddr) -> bool {
    let v4 = |ip: Ipv4Addr| {
        ip.is_link_local()
            || ip.octets()[0] == 0
            || ip.is_multicast()
            || ip.is_broadcast()
            || ip == Ipv4Addr::new(100, 100, 100, 200)
            || ip == Ipv4Addr::new(192, 0, 0, 192)
    };
    match ip.to_canonical() {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || (a, b) == (0xfd00, 0x0ec2)
                || (a, b) == (0xfd20, 0x00ce)
                || (!ip.is_loopback() && embedded(ip).is_some_and(v4))
        }
    }
}

/// Addresses that are not on the public internet (IANA special-purpose registries), v4 inside v6 included.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    if let Some(inside) = embedded(ip) {
        // Of these only NAT64 and 6to4 lead anywhere, and there they lead to what is embedded.
        let leads = a == 0x0064 || a == 0x2002;
        return !leads || is_private_v4(inside);
    }
    let global_unicast = a & 0xe000 == 0x2000;
    !global_unicast
        || (a == 0x2001 && b < 0x0200) // IETF protocol assignments: Teredo, ORCHID, benchmarking
        || (a == 0x2001 && b == 0x0db8) // documentation
        || (a == 0x3fff && b < 0x1000) // documentation
}

/// The IPv4 address that an IPv6 address stands for.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| {
        let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(w, x, y, z)
    };
    match (a, b, c, d, e, f) {
        (0x0064, 0xff9b, 0, 0, 0, 0) // NAT64 (RFC 6052)
        | (0, 0, 0, 0, 0, 0 | 0xffff) // IPv4-compatible, -mapped
        | (0, 0, 0, 0, 0xffff, 0) => Some(v4(g, h)), // IPv4-translated (RFC 2765)
        (0x2002, ..) => Some(v4(b, c)), // 6to4
        (_, _, _, _, 0 | 0x0200, 0x5efe) => Some(v4(g, h)), // ISATAP
        _ => None,
    }
}

#[cfg(test)]
mod tests;
