//! The path and the query of a request, decoded as every origin decodes them; what origins read differently is refused
//! with the reason, and makes the request opaque.

use lockgate_model::http::HttpField;

/// More parameters than this are a mistake or an attack.
const MAX_PARAMETERS: usize = 1000;

/// The path with its percent-encoding undone.
///
/// # Errors
/// Why origins differ on it, in words.
pub(super) fn decoded(raw: &str) -> Result<String, String> {
    if raw == "*" {
        return Ok(raw.to_owned());
    }
    if !raw.starts_with('/') {
        return Err("its path does not begin with `/`".to_owned());
    }
    let text = undone(raw, "path", false)?;
    // What was encoded and means something in a path: one origin decodes before it looks, another behind.
    for (encoded, what) in
        [("%2f", "slash"), ("%5c", "backslash"), ("%25", "percent sign"), ("%3b", "semicolon")]
    {
        if raw.to_ascii_lowercase().contains(encoded) {
            return Err(format!("its path has an encoded {what} ({encoded})"));
        }
    }
    if text.contains('\\') {
        return Err("its path has a backslash".to_owned());
    }
    if text.contains("//") {
        return Err("its path has an empty segment (`//`)".to_owned());
    }
    if text.contains(';') {
        return Err("its path has parameters (`;`), which some origins cut off".to_owned());
    }
    if text.split('/').any(|segment| matches!(segment.trim_end_matches([' ', '\t']), "." | "..")) {
        return Err("its path has a dot segment".to_owned());
    }
    if text.split('/').any(|segment| segment != segment.trim()) {
        return Err("a segment of its path begins or ends with white space".to_owned());
    }
    if let Some(odd) = text.chars().find(|c| folds_to_ascii(*c)) {
        return Err(format!("its path has U+{:04X}, which some origins fold to ASCII", u32::from(odd)));
    }
    Ok(text)
}

/// The parameters of a query, in order.
///
/// # Errors
/// Why origins differ on it, in words.
pub(super) fn query(raw: &str) -> Result<Vec<HttpField>, String> {
    if raw.contains(';') {
        return Err("its query has a `;`, which some origins take for a separator".to_owned());
    }
    let mut fields = Vec::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        if fields.len() >= MAX_PARAMETERS {
            return Err(format!("its query has more than {MAX_PARAMETERS} parameters"));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.push(HttpField { name: undone(name, "query", true)?, value: undone(value, "query", true)? });
    }
    Ok(fields)
}

/// Undoes percent-encoding (RFC 3986 §2.1); in a query `+` is a space.
fn undone(raw: &str, place: &str, plus: bool) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let nibble = |digit: Option<u8>| digit.and_then(|d| char::from(d).to_digit(16));
                let pair = (nibble(rest.next()), nibble(rest.next()));
                let (Some(high), Some(low)) = pair else {
                    return Err(format!("its {place} has a `%` that begins no encoding"));
                };
                u8::try_from(high * 16 + low).unwrap_or(0)
            }
            b'+' if plus => b' ',
            byte => byte,
        };
        if byte < 0x20 && !(plus && matches!(byte, b'\t' | b'\n' | b'\r')) || byte == 0x7f {
            return Err(format!("its {place} has a control character (%{byte:02X})"));
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| format!("its {place} is not UTF-8"))
}

/// Characters that compatibility normalisation (NFKC) makes `/`, `.`, `\`, `%` or a letter of.
fn folds_to_ascii(c: char) -> bool {
    matches!(u32::from(c), 0xFF00..=0xFFEF | 0x2024..=0x2026 | 0x2044 | 0x2215 | 0x2216 | 0x29F5 | 0x29F8 | 0x29F9 | 0xFE52 | 0xFE68 | 0xFE6A | 0x200B..=0x200F | 0xFEFF | 0x212A | 0x017F)
}

/// The path with what looks like an id replaced.
pub(super) fn route(path: &str) -> String {
    let shaped = path.split('/').map(|segment| if is_id(segment) { "{id}" } else { segment });
    shaped.collect::<Vec<_>>().join("/")
}

fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hex = segment.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    digits > 0
        && (digits == segment.len()
            || (hex && segment.len() >= 8)
            || (segment.len() >= 20 && !segment.contains('.'))
            || segment.contains('@'))
        || segment.contains('@') && !segment.starts_with('@')
}
