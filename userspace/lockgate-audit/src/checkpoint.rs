//! The signed head: how long the log is, the root of its tree and its last record's hash, as a C2SP signed note.
//!
//! ```text
//! lockgate-audit/build-7                                origin: names the log
//! 1042                                                  size: how many records it covers
//! q1Xw…=                                                base64 of the tree's root, see `tree`
//! chain 6Ho0…=                                          extension line: base64 of hash(1042), see `chain`
//! time 2026-11-21T09:00:00Z                             extension line: when it was signed
//!
//! — lockgate-audit/build-7 mX0f…=                       base64 of key id ‖ Ed25519 signature
//! ```
//!
//! It is a <https://c2sp.org/tlog-checkpoint> over <https://c2sp.org/signed-note>, so tools for transparency logs read it.
//! Keys have the note format as well (`name+keyid+base64`).
//!
//! Pure: the caller brings the seed and the time, and decides where a note rests.

use crate::{
    chain::{ChainHash, Tip},
    tree::Hash,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use lockgate_model::{Secret, Timestamp, id::NodeName};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// Signature algorithm byte of Ed25519 in note keys.
const ED25519: u8 = 0x01;
/// What the origin of every lockgate log begins with.
const ORIGIN_PREFIX: &str = "lockgate-audit/";
/// A note is a few hundred bytes; whatever is longer is not one.
const MAX_NOTE_BYTES: usize = 64 << 10;

/// What a signed head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Names the log.
    pub origin: String,
    /// The last record it covers.
    pub tip: Tip,
    /// The root of the tree of the records it covers.
    pub root: Hash,
    /// When it was signed.
    pub signed_at: Timestamp,
}

/// Why a note is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a note of this shape.
    #[error("expected a checkpoint (origin, size, base64 root, chain, time, blank line, signature): {0}")]
    Malformed(&'static str),
    /// None of its signatures is by the key.
    #[error("expected a signature by key {expected}, got signatures by {got}")]
    OtherKey {
        /// The trusted key.
        expected: String,
        /// The names and ids that signed.
        got: String,
    },
    /// The signature does not fit the text.
    #[error("the signature by {0} does not fit the text: the note was edited or the key is not the real one")]
    BadSignature(String),
    /// Signed by the key, for a log of another name.
    #[error("the note is of another log: {0}")]
    OtherLog(String),
    /// Not a key in note format.
    #[error("expected an Ed25519 key in note format (name+keyid+base64): {0}")]
    Key(&'static str),
}

/// The name of a node's log. Note names may hold neither white space nor `+`.
pub fn origin(node: &NodeName) -> String {
    let name = node.as_str().replace(|c: char| c.is_whitespace() || c.is_control() || c == '+', "-");
    format!("{ORIGIN_PREFIX}{name}")
}

/// Signs heads.
pub struct SigningKey {
    name: String,
    key: ed25519_dalek::SigningKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.name)
    }
}

impl SigningKey {
    /// A key from 32 random bytes.
    pub fn from_seed(name: String, seed: &Secret<[u8; 32]>) -> Self {
        Self { name, key: ed25519_dalek::SigningKey::from_bytes(seed.expose()) }
    }

    /// Reads `PRIVATE+KEY+name+keyid+base64`.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let rest = text
            .trim()
            .strip_prefix("PRIVATE+KEY+")
            .ok_or(NoteError::Key("it does not begin with PRIVATE+KEY+"))?;
        let (name, id, bytes) = split_key(rest)?;
        let key = Self::from_seed(name, &Secret::new(bytes));
        if key.public().id() == id { Ok(key) } else { Err(NoteError::Key("its id does not fit its bytes")) }
    }

    /// The text that [`Self::parse`] reads: a secret.
    pub fn to_text(&self) -> Secret<String> {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(self.key.as_bytes());
        let text = format!(
            "PRIVATE+KEY+{}+{}+{}",
            self.name,
            hex::encode(self.public().id()),
            BASE64.encode(&bytes)
        );
        drop(Secret::new(bytes));
        Secret::new(text)
    }

    /// The name of the log it signs for.
    pub fn origin(&self) -> &str {
        &self.name
    }

    /// What verifies its signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs a head; the note's text.
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.text();
        let mut signature = self.public().id().to_vec();
        signature.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n— {} {}\n", self.name, BASE64.encode(signature))
    }
}

/// Verifies heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// First four bytes of SHA-256(name ‖ newline ‖ algorithm ‖ key), by the note format.
    fn id(&self) -> [u8; 4] {
        let digest = Sha256::new()
            .chain_update(self.name.as_bytes())
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        let [a, b, c, d, ..]: [u8; 32] = digest.into();
        [a, b, c, d]
    }

    /// Reads a note and checks its signature by this key.
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let (text, signatures) = split_note(note)?;
        let mut signers = Vec::new();
        for (name, bytes) in signatures {
            let (id, signature) = bytes.split_at_checked(4).ok_or(NoteError::Malformed("signature"))?;
            if name != self.name || id != self.id() {
                signers.push(format!("{name}+{}", hex::encode(id)));
                continue;
            }
            let signature =
                Signature::from_slice(signature).map_err(|_| NoteError::Malformed("signature length"))?;
            return match self.key.verify_strict(text.as_bytes(), &signature) {
                Ok(()) => Checkpoint::parse(text).and_then(|checkpoint| {
                    if checkpoint.origin == self.name {
                        Ok(checkpoint)
                    } else {
                        Err(NoteError::OtherLog(checkpoint.origin))
                    }
                }),
                Err(_) => Err(NoteError::BadSignature(self.label())),
            };
        }
        Err(NoteError::OtherKey { expected: self.label(), got: signers.join(", ") })
    }

    fn label(&self) -> String {
        format!("{}+{}", self.name, hex::encode(self.id()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}", self.label(), BASE64.encode(bytes))
    }
}

impl FromStr for PublicKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, id, bytes) = split_key(text.trim())?;
        let key =
            VerifyingKey::from_bytes(&bytes).map_err(|_| NoteError::Key("its bytes are not a point"))?;
        let key = Self { name, key };
        if key.id() == id { Ok(key) } else { Err(NoteError::Key("its id does not fit its bytes")) }
    }
}

impl Checkpoint {
    /// How many records a note is about, by its own words: no signature is checked.
    ///
    /// # Errors
    /// When it is no note of a lockgate log.
    pub fn covers(note: &str) -> Result<u64, NoteError> {
        let (text, _) = split_note(note)?;
        Self::parse(text).map(|checkpoint| checkpoint.tip.seq)
    }

    fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\nchain {}\ntime {}\n",
            self.origin,
            self.tip.seq,
            BASE64.encode(self.root),
            BASE64.encode(self.tip.hash.0),
            self.signed_at
        )
    }

    fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.lines();
        let mut next = |what| lines.next().filter(|line| !line.is_empty()).ok_or(NoteError::Malformed(what));
        let origin = next("origin")?.to_owned();
        if !origin.starts_with(ORIGIN_PREFIX) {
            return Err(NoteError::Malformed("the origin is not that of a lockgate log"));
        }
        let seq = next("size")?.parse().map_err(|_| NoteError::Malformed("size"))?;
        let root = hash(next("root")?, "root")?;
        let chain = next("chain")?.strip_prefix("chain ").ok_or(NoteError::Malformed("chain"))?;
        let hash = ChainHash(hash(chain, "chain")?);
        let signed_at = next("time")?
            .strip_prefix("time ")
            .and_then(|time| time.parse().ok())
            .ok_or(NoteError::Malformed("time"))?;
        Ok(Self { origin, tip: Tip { seq, hash }, root, signed_at })
    }
}

fn hash(text: &str, what: &'static str) -> Result<Hash, NoteError> {
    let bytes = BASE64.decode(text).map_err(|_| NoteError::Malformed(what))?;
    bytes.try_into().map_err(|_| NoteError::Malformed(what))
}

/// The signed text (with its last newline) and the signatures: name, key id ‖ signature.
type SplitNote<'a> = (&'a str, Vec<(&'a str, Vec<u8>)>);

fn split_note(note: &str) -> Result<SplitNote<'_>, NoteError> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(NoteError::Malformed("it is longer than a note can be"));
    }
    let blank = note.rfind("\n\n").ok_or(NoteError::Malformed("no blank line"))?;
    let (text, block) = note.split_at(blank + 1);
    let block = block.strip_prefix('\n').unwrap_or(block);
    let block = block.strip_suffix('\n').ok_or(NoteError::Malformed("no newline at its end"))?;
    let signatures = block
        .split('\n')
        .map(|line| {
            let (name, bytes) = line.strip_prefix("— ")?.split_once(' ')?;
            Some((name, BASE64.decode(bytes).ok()?))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or(NoteError::Malformed("signature line"))?;
    Ok((text, signatures))
}

fn split_key(text: &str) -> Result<(String, [u8; 4], [u8; 32]), NoteError> {
    let mut parts = text.splitn(3, '+');
    let mut next = || parts.next().filter(|part| !part.is_empty()).ok_or(NoteError::Key("a part is missing"));
    let name = next()?.to_owned();
    let mut id = [0; 4];
    hex::decode_to_slice(next()?, &mut id)
        .map_err(|_| NoteError::Key("its id is not 8 hexadecimal digits"))?;
    let bytes = BASE64.decode(next()?).map_err(|_| NoteError::Key("it is not base64"))?;
    match bytes.split_first() {
        Some((&ED25519, key)) => {
            Ok((name, id, key.try_into().map_err(|_| NoteError::Key("it is not 32 bytes long"))?))
        }
        _ => Err(NoteError::Key("its algorithm is not Ed25519")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(origin(&"build 7+x".into()), &Secret::new([seed; 32]))
    }

    fn head() -> Checkpoint {
        Checkpoint {
            origin: origin(&"build 7+x".into()),
            tip: Tip { seq: 42, hash: ChainHash([7; 32]) },
            root: [8; 32],
            signed_at: "2026-11-21T09:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn notes_open_with_their_key_only() {
        let note = key(1).sign(&head());
        assert_eq!(key(1).public().open(&note), Ok(head()));
        assert!(matches!(key(2).public().open(&note), Err(NoteError::OtherKey { .. })));
        let edited = note.replacen("\n42\n", "\n43\n", 1);
        assert!(matches!(key(1).public().open(&edited), Err(NoteError::BadSignature(_))));
    }

    #[test]
    fn keys_read_back_and_broken_ones_are_refused() {
        let private = key(3);
        let public = private.public();
        assert_eq!(public.to_string().parse(), Ok(public.clone()));
        assert_eq!(SigningKey::parse(private.to_text().expose()).unwrap().public(), public);
        for bad in ["", "a+b", "a+00000000+AQ==", &public.to_string().replace("build", "other")] {
            assert!(matches!(bad.parse::<PublicKey>(), Err(NoteError::Key(_))), "{bad}");
        }
    }

    #[test]
    fn garbage_is_no_note() {
        for bad in ["", "\n\n", "a\n\n— b c", "a\n\n— b !!\n", "— x y\n", "a\n\nb\n"] {
            assert!(matches!(key(1).public().open(bad), Err(NoteError::Malformed(_))), "{bad:?}");
        }
    }
}
