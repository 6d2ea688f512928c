//! Addresses of targets as they are written: `ip:port`, `cidr:port`, `host:port`.

use lockgate_intercept::EgressNet;
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// One address of a target, canonical: v4-mapped is IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// One address, or all of a prefix.
    Net {
        /// Its first address.
        ip: IpAddr,
        /// Leading bits that count.
        prefix: u8,
        /// The port.
        port: u16,
    },
    /// A name, resolved while the agent runs.
    Host {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("{0:?} has no port; expected ADDRESS:PORT, such as 10.0.0.1:5432")]
    NoPort(String),
    #[error("{0:?} is not a port; expected a number from 1 to 65535")]
    Port(String),
    #[error("write an IPv6 address in brackets: [{0}]:PORT")]
    Brackets(String),
    #[error("{0:?} is not an IPv6 address")]
    Ipv6(String),
    #[error("{0:?} is not a prefix length of that address")]
    Prefix(String),
    #[error("{0:?} is neither an address nor a host name")]
    Host(String),
    #[error("{0:?} is a name; write addresses here, or register a target under that name")]
    Name(String),
}

/// A destination that is let through: like an [`Address`], but never a name, and its port may be left out.
pub(super) fn egress(text: &str) -> Result<EgressNet, AddressError> {
    let behind = text.rsplit_once(']').map_or(text, |(_, rest)| rest);
    let address = match behind.contains(':') {
        true => text.parse()?,
        false => format!("{text}:1").parse()?,
    };
    match address {
        Address::Net { ip, prefix, port } => {
            let port = behind.contains(':').then_some(port);
            EgressNet::new(ip, prefix, port).ok_or_else(|| AddressError::Prefix(text.to_owned()))
        }
        Address::Host { name, .. } => Err(AddressError::Name(name)),
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (place, port) = text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(text.to_owned()))?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(AddressError::Port(port.to_owned())),
            Ok(port) => port,
        };
        let (place, prefix) = match place.split_once('/') {
            Some((place, prefix)) => (place, Some(prefix)),
            None => (place, None),
        };
        if let Ok(ip) = host_part(place)? {
            return net(ip, prefix, port);
        }
        match prefix {
            None if is_host_name(place) => Ok(Self::Host { name: place.to_ascii_lowercase(), port }),
            _ => Err(AddressError::Host(place.to_owned())),
        }
    }
}

/// The IP address in `place`, or `Err(())` within `Ok` when it may be a name.
fn host_part(place: &str) -> Result<Result<IpAddr, ()>, AddressError> {
    if let Some(inner) = place.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner
            .parse::<Ipv6Addr>()
            .map(|ip| Ok(IpAddr::V6(ip)))
            .map_err(|_| AddressError::Ipv6(inner.to_owned()));
    }
    match place.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => Err(AddressError::Brackets(place.to_owned())),
        Ok(ip) => Ok(Ok(ip)),
        Err(_) if place.contains(':') => Err(AddressError::Brackets(place.to_owned())),
        Err(_) => Ok(Err(())),
    }
}

fn net(ip: IpAddr, prefix: Option<&str>, port: u16) -> Result<Address, AddressError> {
    let longest: u8 = if ip.is_ipv4() { 32 } else { 128 };
    let bad = || AddressError::Prefix(prefix.unwrap_or_default().to_owned());
    let prefix = match prefix {
        Some(text) => text.parse().ok().filter(|bits| *bits <= longest).ok_or_else(bad)?,
        None => longest,
    };
    // A v4-mapped destination reaches the IPv4 address; the kernel hooks compare the canonical one.
    let (ip, prefix) = match (ip, ip.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(v4)) => (v4.into(), prefix.checked_sub(96).ok_or_else(bad)?),
        (_, ip) => (ip, prefix),
    };
    Ok(Address::Net { ip: first_of(ip, prefix), prefix, port })
}

/// The first address of a prefix, so that equal prefixes compare equal.
fn first_of(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into())
        }
    }
}

/// RFC 1123 names, with the underscore that internal zones use.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.len() <= 253 && !all_digits && text.trim_end_matches('.').split('.').all(label)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net { ip: IpAddr::V4(ip), prefix: 32, port } => write!(f, "{ip}:{port}"),
            Self::Net { ip: IpAddr::V6(ip), prefix: 128, port } => write!(f, "[{ip}]:{port}"),
            Self::Net { ip: IpAddr::V4(ip), prefix, port } => write!(f, "{ip}/{prefix}:{port}"),
            Self::Net { ip: IpAddr::V6(ip), prefix, port } => write!(f, "[{ip}]/{prefix}:{port}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_canonically() {
        for (text, expected) in [
            ("127.0.0.1:5432", "127.0.0.1:5432"),
            ("10.20.3.4/16:5432", "10.20.0.0/16:5432"),
            ("0.0.0.0/0:1", "0.0.0.0/0:1"),
            ("[::1]:5432", "[::1]:5432"),
            ("[2001:db8::]/32:5432", "[2001:db8::]/32:5432"),
            ("[::ffff:10.0.0.1]:1", "10.0.0.1:1"),
            ("[::ffff:10.0.0.0]/104:1", "10.0.0.0/8:1"),
            ("orders-db.internal:5432", "orders-db.internal:5432"),
            ("Orders_DB:5432", "orders_db:5432"),
            ("db.:5432", "db.:5432"),
        ] {
            assert_eq!(
                text.parse::<Address>().map(|address| address.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn destinations_that_are_let_through_may_leave_out_the_port() {
        for (text, ip, prefix, port) in [
            ("10.0.0.0/8", "10.0.0.0", 8, None),
            ("10.0.0.53:53", "10.0.0.53", 32, Some(53)),
            ("10.0.0.53", "10.0.0.53", 32, None),
            ("[2001:db8::]/32", "2001:db8::", 32, None),
            ("[2001:db8::1]:443", "2001:db8::1", 128, Some(443)),
            ("0.0.0.0/0:443", "0.0.0.0", 0, Some(443)),
        ] {
            let expected = EgressNet::new(ip.parse().unwrap(), prefix, port).unwrap();
            assert_eq!(egress(text), Ok(expected), "{text}");
        }
        for text in ["", "db", "db.internal:443", "10.0.0.0/33", "2001:db8::1", "10.0.0.1:0", "[::1"] {
            assert!(egress(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_apart() {
        for (text, expected) in [
            ("db", AddressError::NoPort("db".into())),
            ("db:0", AddressError::Port("0".into())),
            ("db:postgres", AddressError::Port("postgres".into())),
            ("::1:5432", AddressError::Brackets("::1".into())),
            ("2001:db8::/32:5432", AddressError::Brackets("2001:db8::".into())),
            ("[::g]:5432", AddressError::Ipv6("::g".into())),
            ("10.0.0.0/33:5432", AddressError::Prefix("33".into())),
            ("[::ffff:10.0.0.0]/64:1", AddressError::Prefix("64".into())),
            ("db/16:5432", AddressError::Host("db".into())),
            ("10.0.0.256:5432", AddressError::Host("10.0.0.256".into())),
            ("-db:5432", AddressError::Host("-db".into())),
            (":5432", AddressError::Host("".into())),
        ] {
            assert_eq!(text.parse::<Address>(), Err(expected), "{text}");
        }
    }
}
