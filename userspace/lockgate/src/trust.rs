//! How clients come to trust the CA that issues what lockgate shows them.
//!
//! Three ways, by how far they reach: the host's own store (`store`), variables for one job (`environment`), and a
//! container's files, covered from outside without changing its image (`container`). None of them touches a key: a CA's
//! certificate is all that leaves the configuration.

mod authority;
mod container;
mod environment;
mod store;

pub(crate) use authority::Authority;
pub(crate) use container::{Outcome, cover, uncover};
pub(crate) use environment::Environment;
pub(crate) use store::Store;

/// Where programs look for a bundle: Go's list (crypto/x509/root_linux.go), which has what OpenSSL, curl and git of the usual
/// distributions were built with.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where OpenSSL looks for a certificate by the hash of its subject.
const HASHED: &str = "/etc/ssl/certs";
/// Stands before what lockgate added to somebody's bundle.
const MARK: &str = "# Added by lockgate: ";

/// A bundle with what it lacks of these; None when it has them all.
fn completed(bundle: &[u8], authorities: &[Authority]) -> Option<Vec<u8>> {
    let missing: Vec<&Authority> = authorities.iter().filter(|authority| !authority.is_in(bundle)).collect();
    if missing.is_empty() {
        return None;
    }
    let mut whole = bundle.to_vec();
    if !whole.is_empty() && whole.last() != Some(&b'\n') {
        whole.push(b'\n');
    }
    for authority in missing {
        whole.extend_from_slice(format!("{MARK}{}\n{}", authority.fingerprint(), authority.pem()).as_bytes());
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::{Authority, authority::tests::PEM, completed};

    #[test]
    fn a_bundle_gets_what_it_lacks_once() {
        let authorities = Authority::all_of(PEM).unwrap();
        let whole = completed(b"# somebody else's", &authorities).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        assert!(text.starts_with("# somebody else's\n# Added by lockgate: d1617fe4"), "{text}");
        assert!(text.ends_with("-----END CERTIFICATE-----\n"));
        assert_eq!(completed(&whole, &authorities), None);
        // The same certificate, wrapped otherwise.
        let wrapped = PEM.replace("\nBAMMEGxv", "BAMMEGxv").replace("MIIB2D", "MIIB2D\r\n");
        assert_eq!(completed(wrapped.as_bytes(), &authorities), None);
    }
}
