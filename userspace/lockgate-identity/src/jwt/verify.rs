//! The signatures of tokens, verified by *ring*, which rustls brings along: jsonwebtoken's own choices are a second
//! C library or a second set of curves. Signing is not offered.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature,
};
use ring::signature as rsig;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    // For deriving JWKs from private keys, of which there are none here.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes *ring* the verifier of this process. Once is enough; again is harmless.
pub(crate) fn install() {
    // Refused when it is installed already, which is what was wanted.
    let _ = PROVIDER.install_default();
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let scheme = Scheme::of(*algorithm).ok_or(ErrorKind::UnsupportedAlgorithm)?;
    if scheme.family() != key.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Verifier { algorithm: *algorithm, scheme, key: key.clone() }))
}

/// What *ring* calls it.
enum Scheme {
    Rsa(&'static rsig::RsaParameters),
    Curve(&'static dyn rsig::VerificationAlgorithm, AlgorithmFamily),
}

impl Scheme {
    /// RSA keys below 2048 bits are refused by these parameters; ECDSA signatures are `r || s` (RFC 7518, section 3.4).
    fn of(algorithm: Algorithm) -> Option<Self> {
        use Algorithm as A;
        Some(match algorithm {
            A::RS256 => Self::Rsa(&rsig::RSA_PKCS1_2048_8192_SHA256),
            A::RS384 => Self::Rsa(&rsig::RSA_PKCS1_2048_8192_SHA384),
            A::RS512 => Self::Rsa(&rsig::RSA_PKCS1_2048_8192_SHA512),
            A::PS256 => Self::Rsa(&rsig::RSA_PSS_2048_8192_SHA256),
            A::PS384 => Self::Rsa(&rsig::RSA_PSS_2048_8192_SHA384),
            A::PS512 => Self::Rsa(&rsig::RSA_PSS_2048_8192_SHA512),
            A::ES256 => Self::Curve(&rsig::ECDSA_P256_SHA256_FIXED, AlgorithmFamily::Ec),
            A::ES384 => Self::Curve(&rsig::ECDSA_P384_SHA384_FIXED, AlgorithmFamily::Ec),
            A::EdDSA => Self::Curve(&rsig::ED25519, AlgorithmFamily::Ed),
            _ => return None,
        })
    }

    fn family(&self) -> AlgorithmFamily {
        match self {
            Self::Rsa(_) => AlgorithmFamily::Rsa,
            Self::Curve(_, family) => *family,
        }
    }
}

struct Verifier {
    algorithm: Algorithm,
    scheme: Scheme,
    key: DecodingKey,
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (&self.scheme, self.key.kind()) {
            (Scheme::Rsa(scheme), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                rsig::RsaPublicKeyComponents { n, e }.verify(scheme, message, signed)
            }
            (Scheme::Curve(scheme, _), DecodingKeyKind::SecretOrDer(key)) => {
                rsig::UnparsedPublicKey::new(*scheme, key).verify(message, signed)
            }
            (Scheme::Rsa(_), DecodingKeyKind::SecretOrDer(_))
            | (Scheme::Curve(..), DecodingKeyKind::RsaModulusExponent { .. }) => {
                Err(ring::error::Unspecified)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}
