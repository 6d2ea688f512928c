//! Exclusive XML canonicalization without comments (<https://www.w3.org/TR/xml-exc-c14n/>), of one element.
//!
//! Nothing rests on this being right in every corner: what it writes is hashed, and only bytes whose hash was signed are
//! believed, as they were written here. Where it were wrong, a login would be refused.

use roxmltree::{Node, NodeType};
use std::collections::{BTreeMap, BTreeSet};

/// Elements within elements; an assertion has about ten.
const DEPTH_MAX: usize = 64;

/// Namespaces of the prefixes written so far; the default one is the prefix "".
type Written<'a> = BTreeMap<&'a str, &'a str>;

/// Writes an element without one of its descendants. `inclusive`: prefixes that are written wherever they are in scope.
pub(super) fn canonical(
    source: &str,
    node: Node<'_, '_>,
    without: Option<Node<'_, '_>>,
    inclusive: &BTreeSet<String>,
) -> Option<Vec<u8>> {
    let mut writer = Writer { source, without, inclusive, out: Vec::new() };
    writer.element(node, &Written::new(), 0)?;
    Some(writer.out)
}

struct Writer<'a, 'input> {
    source: &'a str,
    without: Option<Node<'a, 'input>>,
    inclusive: &'a BTreeSet<String>,
    out: Vec<u8>,
}

impl<'a, 'input: 'a> Writer<'a, 'input> {
    fn element<'n>(&mut self, node: Node<'n, 'input>, written: &Written<'n>, depth: usize) -> Option<()>
    where
        'a: 'n,
    {
        if depth > DEPTH_MAX {
            return None;
        }
        let name = self.name(node)?;
        let mut attributes = Vec::new();
        let mut used = BTreeSet::from([prefix(name)]);
        for attribute in node.attributes() {
            let qualified = self.source.get(attribute.range_qname())?;
            let prefix = prefix(qualified);
            if !prefix.is_empty() && prefix != "xml" {
                used.insert(prefix);
            }
            let order = (attribute.namespace().unwrap_or_default(), attribute.name());
            attributes.push((order, qualified, attribute.value()));
        }
        used.extend(self.inclusive.iter().map(String::as_str));
        let mut written = written.clone();
        self.out.push(b'<');
        self.out.extend_from_slice(name.as_bytes());
        for prefix in used {
            let uri = if prefix.is_empty() {
                Some(node.lookup_namespace_uri(None).unwrap_or_default())
            } else {
                node.lookup_namespace_uri(Some(prefix))
            };
            // An inclusive prefix may not be in scope; a used one always is.
            let Some(uri) = uri else { continue };
            if written.get(prefix).copied().unwrap_or_default() == uri {
                continue;
            }
            let uri: &'n str = uri;
            self.out.extend_from_slice(if prefix.is_empty() { b" xmlns" } else { b" xmlns:" });
            self.out.extend_from_slice(prefix.as_bytes());
            self.out.extend_from_slice(b"=\"");
            self.escaped(uri, true);
            self.out.push(b'"');
            written.insert(prefix, uri);
        }
        attributes.sort_by_key(|(order, _, _)| *order);
        for (_, qualified, value) in attributes {
            self.out.push(b' ');
            self.out.extend_from_slice(qualified.as_bytes());
            self.out.extend_from_slice(b"=\"");
            self.escaped(value, true);
            self.out.push(b'"');
        }
        self.out.push(b'>');
        for child in node.children() {
            match child.node_type() {
                NodeType::Element if self.without.is_some_and(|without| without == child) => {}
                NodeType::Element => self.element(child, &written, depth + 1)?,
                NodeType::Text => self.escaped(child.text().unwrap_or_default(), false),
                NodeType::Comment => {}
                NodeType::Root | NodeType::PI => return None,
            }
        }
        self.out.extend_from_slice(b"</");
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'>');
        Some(())
    }

    /// The name as it is written, with its prefix.
    fn name(&self, node: Node<'_, '_>) -> Option<&'a str> {
        let text = self.source.get(node.range())?.strip_prefix('<')?;
        text.split(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>')).next()
    }

    fn escaped(&mut self, text: &str, attribute: bool) {
        for byte in text.bytes() {
            match (byte, attribute) {
                (b'&', _) => self.out.extend_from_slice(b"&amp;"),
                (b'<', _) => self.out.extend_from_slice(b"&lt;"),
                (b'>', false) => self.out.extend_from_slice(b"&gt;"),
                (b'"', true) => self.out.extend_from_slice(b"&quot;"),
                (b'\t', true) => self.out.extend_from_slice(b"&#x9;"),
                (b'\n', true) => self.out.extend_from_slice(b"&#xA;"),
                (b'\r', _) => self.out.extend_from_slice(b"&#xD;"),
                (byte, _) => self.out.push(byte),
            }
        }
    }
}

fn prefix(name: &str) -> &str {
    name.split_once(':').map_or("", |(prefix, _)| prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, inclusive: &[&str], expected: &str) {
        let document = roxmltree::Document::parse(source).unwrap();
        let node = document.descendants().find(|node| node.has_attribute("ID")).unwrap();
        let inclusive = inclusive.iter().map(|prefix| (*prefix).to_owned()).collect();
        let written = canonical(source, node, None, &inclusive).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), expected, "{source}");
    }

    #[test]
    fn elements_are_written_as_the_recommendation_says() {
        // The recommendation's own example (section 2.2): only what is used is written.
        check(
            r#"<n0:pdu xmlns:n0="http://a.example" xmlns="d"><n1:elem2 ID="1" xmlns:n1="http://b.example"><n3:stuff xmlns:n3="ftp://example.org"/></n1:elem2></n0:pdu>"#,
            &[],
            r#"<n1:elem2 xmlns:n1="http://b.example" ID="1"><n3:stuff xmlns:n3="ftp://example.org"></n3:stuff></n1:elem2>"#,
        );
        check(
            "<a xmlns='u' xmlns:p='v' xmlns:z='w'><b ID='1' p:y='2' x = 'q'  c='&#9;&quot;&lt;'><p:c/><d xmlns=''/></b></a>",
            &[],
            "<b xmlns=\"u\" xmlns:p=\"v\" ID=\"1\" c=\"&#x9;&quot;&lt;\" x=\"q\" p:y=\"2\"><p:c></p:c><d xmlns=\"\"></d></b>",
        );
        check(
            "<a xmlns:xs='s'><b ID='1'><c/></b></a>",
            &["xs", "none"],
            "<b xmlns:xs=\"s\" ID=\"1\"><c></c></b>",
        );
        check(
            "<b ID='1'>a<!-- gone -->b<![CDATA[<&]]>&#13;&gt;</b>",
            &[],
            "<b ID=\"1\">ab&lt;&amp;&#xD;&gt;</b>",
        );
        check("<x xmlns='u'><b ID='1' xmlns=''/></x>", &[], "<b ID=\"1\"></b>");
    }

    #[test]
    fn what_is_too_deep_or_told_to_programs_is_not_written() {
        let deep = format!("<a ID='1'>{}{}</a>", "<b>".repeat(100), "</b>".repeat(100));
        for source in [deep.as_str(), "<a ID='1'><?php x?></a>"] {
            let document = roxmltree::Document::parse(source).unwrap();
            assert!(canonical(source, document.root_element(), None, &BTreeSet::new()).is_none());
        }
    }
}
