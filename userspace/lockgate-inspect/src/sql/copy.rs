//! How a COPY … TO writes its rows: what its options say of the bytes that will come.
//!
//! It tells the form of a stream that goes to the client, and says of any other why it cannot be followed. An option that is
//! not known here is never passed over: whoever rewrites the stream must know all of it.

use pg_query::{
    NodeEnum,
    protobuf::{CopyStmt, DefElem},
};

/// Where a COPY … TO goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopySink {
    /// To the client, in this form.
    Client(Box<CopyForm>),
    /// Nobody here can follow it; why, to go on behind "COPY".
    Unseen(&'static str),
}

/// The form of a copy stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyForm {
    pub(crate) layout: CopyLayout,
    /// The first row holds names.
    pub(crate) header: bool,
    /// What the stream is encoded in, when that is not what the session's texts are in. Every one is a superset of ASCII.
    pub(crate) other_encoding: bool,
}

/// How rows and fields are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyLayout {
    /// `text`.
    Text { delimiter: u8, null: Vec<u8> },
    /// `csv`.
    Csv { delimiter: u8, null: Vec<u8>, quote: u8, escape: u8, forced: Forced },
    /// `binary`.
    Binary,
}

/// Which columns a CSV stream quotes always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Forced {
    /// These.
    Named(Vec<String>),
    /// All.
    All,
}

/// Encodings of which every byte below 128 is ASCII, folded as the server folds them (encnames.c): those that a server can
/// have. The others (SJIS, BIG5, GBK, UHC, GB18030, JOHAB, SHIFT_JIS_2004) are for clients only.
const ASCII_SUPERSETS: [&str; 64] = [
    "abc",
    "alt",
    "euccn",
    "eucjis2004",
    "eucjp",
    "euckr",
    "euctw",
    "iso88591",
    "iso885910",
    "iso885913",
    "iso885914",
    "iso885915",
    "iso885916",
    "iso88592",
    "iso88593",
    "iso88594",
    "iso88595",
    "iso88596",
    "iso88597",
    "iso88598",
    "iso88599",
    "koi8",
    "koi8r",
    "koi8u",
    "latin1",
    "latin10",
    "latin2",
    "latin3",
    "latin4",
    "latin5",
    "latin6",
    "latin7",
    "latin8",
    "latin9",
    "muleinternal",
    "sqlascii",
    "tcvn",
    "tcvn5712",
    "unicode",
    "utf8",
    "vscii",
    "win",
    "win1250",
    "win1251",
    "win1252",
    "win1253",
    "win1254",
    "win1255",
    "win1256",
    "win1257",
    "win1258",
    "win866",
    "win874",
    "windows1250",
    "windows1251",
    "windows1252",
    "windows1253",
    "windows1254",
    "windows1255",
    "windows1256",
    "windows1257",
    "windows1258",
    "windows866",
    "windows874",
];

impl CopySink {
    /// Where a COPY … TO goes.
    pub(crate) fn of(copy: &CopyStmt) -> Self {
        if copy.is_program || !copy.filename.is_empty() {
            return Self::Unseen("to a file or a program of the server's");
        }
        match form(copy) {
            Ok(form) => Self::Client(Box::new(form)),
            Err(why) => Self::Unseen(why),
        }
    }
}

fn form(copy: &CopyStmt) -> Result<CopyForm, &'static str> {
    const UNKNOWN: &str = "with an option that lockgate does not know";
    let mut options = Options::default();
    for option in &copy.options {
        let Some(NodeEnum::DefElem(option)) = &option.node else { return Err(UNKNOWN) };
        let slot = match option.defname.as_str() {
            "format" => &mut options.format,
            "delimiter" => &mut options.delimiter,
            "null" => &mut options.null,
            "header" => &mut options.header,
            "quote" => &mut options.quote,
            "escape" => &mut options.escape,
            "force_quote" => &mut options.force_quote,
            "encoding" => &mut options.encoding,
            _ => return Err(UNKNOWN),
        };
        if slot.replace(option).is_some() {
            return Err("with an option that it names twice");
        }
    }
    options.form()
}

#[derive(Default)]
struct Options<'a> {
    format: Option<&'a DefElem>,
    delimiter: Option<&'a DefElem>,
    null: Option<&'a DefElem>,
    header: Option<&'a DefElem>,
    quote: Option<&'a DefElem>,
    escape: Option<&'a DefElem>,
    force_quote: Option<&'a DefElem>,
    encoding: Option<&'a DefElem>,
}

impl Options<'_> {
    fn form(&self) -> Result<CopyForm, &'static str> {
        let format = self.format.map(text).transpose()?.unwrap_or("text");
        let header = self.header.map_or(Ok(false), boolean)?;
        let other_encoding = match self.encoding.map(text).transpose()? {
            None => false,
            Some(name) => {
                let folded = folded(name);
                if !ASCII_SUPERSETS.contains(&folded.as_str()) {
                    return Err("in an encoding of which not every byte below 128 is ASCII");
                }
                !matches!(folded.as_str(), "utf8" | "unicode")
            }
        };
        let byte = |option: Option<&DefElem>, usual: u8| match option.map(text).transpose()? {
            None => Ok(usual),
            Some(text) => match text.as_bytes() {
                [byte] if byte.is_ascii() && !matches!(byte, 0 | b'\n' | b'\r') => Ok(*byte),
                _ => Err("with a delimiter, quote or escape that is not one ASCII character"),
            },
        };
        let null = |usual: &str| -> Result<Vec<u8>, &'static str> {
            Ok(self.null.map(text).transpose()?.unwrap_or(usual).as_bytes().to_vec())
        };
        let layout = match format {
            "text" => {
                if self.quote.or(self.escape).or(self.force_quote).is_some() {
                    return Err("with an option of another format");
                }
                CopyLayout::Text { delimiter: byte(self.delimiter, b'\t')?, null: null("\\N")? }
            }
            "csv" => {
                let quote = byte(self.quote, b'"')?;
                CopyLayout::Csv {
                    delimiter: byte(self.delimiter, b',')?,
                    null: null("")?,
                    quote,
                    escape: byte(self.escape, quote)?,
                    forced: self.force_quote.map_or(Ok(Forced::Named(Vec::new())), forced)?,
                }
            }
            "binary" => {
                let others =
                    [self.delimiter, self.null, self.header, self.quote, self.escape, self.force_quote];
                if others.iter().any(Option::is_some) {
                    return Err("with an option of another format");
                }
                CopyLayout::Binary
            }
            _ => return Err("in a format that lockgate does not know"),
        };
        layout.check()?;
        Ok(CopyForm { layout, header, other_encoding })
    }
}

impl CopyLayout {
    /// What the server refuses (ProcessCopyOptions in copy.c): then no stream comes, and a reader need not know it.
    fn check(&self) -> Result<(), &'static str> {
        const AMBIGUOUS: &str = "with delimiters, quotes and NULL strings that cannot be told apart";
        let fits = match self {
            Self::Binary => true,
            Self::Text { delimiter, null } => {
                let own = delimiter.is_ascii_lowercase() || delimiter.is_ascii_digit();
                // A backslash in it could be read as the beginning of an escape.
                let plain = null == b"\\N" || !null.contains(&b'\\');
                !own && !b"\\.".contains(delimiter) && plain && is_line(null) && !null.contains(delimiter)
            }
            Self::Csv { delimiter, null, quote, escape, .. } => {
                delimiter != quote
                    && delimiter != escape
                    && is_line(null)
                    && !null.contains(delimiter)
                    && !null.contains(quote)
            }
        };
        if fits { Ok(()) } else { Err(AMBIGUOUS) }
    }
}

fn is_line(text: &[u8]) -> bool {
    !text.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r'))
}

/// An option's word (defGetString in define.c), where it is one.
fn text(option: &DefElem) -> Result<&str, &'static str> {
    match option.arg.as_ref().and_then(|arg| arg.node.as_ref()) {
        Some(NodeEnum::String(text)) => Ok(&text.sval),
        _ => Err("with an option whose value is not a word"),
    }
}

/// An option that is on or off (defGetCopyHeaderOption in copy.c); by itself it is on.
fn boolean(option: &DefElem) -> Result<bool, &'static str> {
    const NEITHER: &str = "with a header that is neither on nor off";
    match option.arg.as_ref().map(|arg| arg.node.as_ref()) {
        None => Ok(true),
        Some(Some(NodeEnum::Boolean(value))) => Ok(value.boolval),
        Some(Some(NodeEnum::Integer(value))) => match value.ival {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(NEITHER),
        },
        Some(Some(NodeEnum::String(text))) => match text.sval.to_ascii_lowercase().as_str() {
            "true" | "on" => Ok(true),
            "false" | "off" => Ok(false),
            _ => Err(NEITHER),
        },
        Some(_) => Err(NEITHER),
    }
}

fn forced(option: &DefElem) -> Result<Forced, &'static str> {
    match option.arg.as_ref().and_then(|arg| arg.node.as_ref()) {
        Some(NodeEnum::AStar(_)) => Ok(Forced::All),
        Some(NodeEnum::List(list)) => Ok(Forced::Named(super::walk::strings(&list.items))),
        _ => Err("with a list of columns that cannot be read"),
    }
}

fn folded(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Inspector, SessionState, usage::Lineage};

    fn sink(sql: &str) -> CopySink {
        let mut state = SessionState::default();
        state.standard_conforming_strings = Some(true);
        let script = Inspector.script(sql, &state, None);
        match &script.statements[0].usage.lineage {
            Lineage::CopyOut { sink, .. } | Lineage::CopyQuery { sink, .. } => sink.clone(),
            Lineage::Unknown => CopySink::Unseen("not understood"),
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn forms_are_what_the_options_say() {
        let text = |delimiter, null: &str| CopyLayout::Text { delimiter, null: null.into() };
        let csv = |delimiter, null: &str, quote, escape, forced| CopyLayout::Csv {
            delimiter,
            null: null.into(),
            quote,
            escape,
            forced,
        };
        let none = || Forced::Named(Vec::new());
        for (options, layout, header, other_encoding) in [
            ("", text(b'\t', "\\N"), false, false),
            ("(format text, delimiter '|', null '')", text(b'|', ""), false, false),
            ("using delimiters ';'", text(b';', "\\N"), false, false),
            ("csv", csv(b',', "", b'"', b'"', none()), false, false),
            (
                "with csv header delimiter ';' null 'x' quote '''' escape '\\'",
                csv(b';', "x", b'\'', b'\\', none()),
                true,
                false,
            ),
            (
                "(format csv, header 1, force_quote (a, \"B\"))",
                csv(b',', "", b'"', b'"', Forced::Named(vec!["a".into(), "B".into()])),
                true,
                false,
            ),
            ("(format csv, header off, force_quote *)", csv(b',', "", b'"', b'"', Forced::All), false, false),
            ("(format 'csv', header, encoding 'LATIN1')", csv(b',', "", b'"', b'"', none()), true, true),
            ("(encoding 'utf-8')", text(b'\t', "\\N"), false, false),
            ("(encoding 'EUC_JP')", text(b'\t', "\\N"), false, true),
            ("(format binary)", CopyLayout::Binary, false, false),
        ] {
            let expected = CopySink::Client(Box::new(CopyForm { layout, header, other_encoding }));
            assert_eq!(sink(&format!("copy t to stdout {options}")), expected, "{options}");
        }
        let CopySink::Client(form) = sink("copy binary t to stdout") else { panic!("the old syntax") };
        assert_eq!(form.layout, CopyLayout::Binary);
    }

    #[test]
    fn what_is_not_known_is_not_followed() {
        for options in [
            "(format json)",
            "(format 'CSV')",
            "(format csv, delimiter '||')",
            "(format csv, delimiter 'é')",
            "(format csv, quote ',')",
            "(format csv, null 'a\"b')",
            "(format csv, header match)",
            "(header, header)",
            "(new_option 1)",
            "(encoding 'SJIS')",
            "(encoding 'GB18030')",
            "(encoding 'who knows')",
            "(null '\\')",
            "(null 'x\\')",
            "(delimiter 'n')",
            "(delimiter '\\')",
            "(quote '\"')",
            "(format binary, null 'x')",
            "(delimiter 7)",
            "(force_null (a))",
            "(freeze)",
        ] {
            let sql = format!("copy t to stdout {options}");
            assert!(matches!(sink(&sql), CopySink::Unseen(_)), "{sql}: {:?}", sink(&sql));
        }
        for sql in ["copy t to '/tmp/x'", "copy (select 1) to program 'cat'"] {
            assert!(matches!(sink(sql), CopySink::Unseen(_)), "{sql}");
        }
    }
}
