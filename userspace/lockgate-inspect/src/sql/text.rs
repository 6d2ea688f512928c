//! The texts that are kept of a statement: without its literals, and as a fingerprint of its shape.

use super::parse::Reading;
use pg_query::{FingerprintOptions, protobuf::Token};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The statement with `$1`, `$2`, … for its literals (numbered after the parameters that it has) and without comments.
/// None when the scanner cannot tell where its literals are.
pub(super) fn normalize(text: &str, reading: Reading) -> Option<String> {
    // The scanner reads backslashes one way only.
    if reading == Reading::Escapes && text.contains('\\') {
        return None;
    }
    let tokens = super::parse::tokens(text).ok()?;
    let mut next = tokens.iter().filter_map(|token| parameter(text, token)).max().unwrap_or(0);
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for token in &tokens {
        let start = usize::try_from(token.start).ok()?;
        let end = usize::try_from(token.end).ok()?;
        let literal = match Token::try_from(token.token) {
            Ok(
                Token::Sconst
                | Token::Usconst
                | Token::Bconst
                | Token::Xconst
                | Token::Fconst
                | Token::Iconst,
            ) => true,
            Ok(Token::SqlComment | Token::CComment) => false,
            _ => continue,
        };
        out.push_str(text.get(copied..start)?);
        if literal {
            next += 1;
            write!(out, "${next}").ok()?;
        } else {
            out.push(' ');
        }
        copied = end;
    }
    out.push_str(text.get(copied..)?);
    Some(out.trim().to_owned())
}

fn parameter(text: &str, token: &pg_query::protobuf::ScanToken) -> Option<u32> {
    if token.token != Token::Param as i32 {
        return None;
    }
    text.get(usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?)?
        .strip_prefix('$')?
        .parse()
        .ok()
}

/// Equal for statements that differ only in literals; schemas and digits in names count.
pub(super) fn fingerprint(text: &str, reading: Reading) -> String {
    let options = FingerprintOptions::RANGEVAR_PG17_COMPAT | FingerprintOptions::FULL_RELNAME;
    pg_query::fingerprint(text, reading.options(), options)
        .map_or_else(|_| hash(text), |fingerprint| fingerprint.hex)
}

/// For a text that has no shape: the text itself is hashed.
pub(super) fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    hex::encode(digest.get(..8).unwrap_or_default())
}
