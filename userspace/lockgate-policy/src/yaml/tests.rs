use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Shadow,
    Enforce,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Source {
    File(String),
    Env(String),
}

#[derive(Debug, Deserialize, PartialEq)]
struct Item {
    name: Spanned<String>,
    #[serde(default)]
    mode: Option<Mode>,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    secret: Option<Source>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Root {
    items: Vec<Lenient<Item>>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

fn errors(text: &str) -> Vec<String> {
    match parse::<Root>("f.yaml", text) {
        Ok(root) => panic!("expected errors, got {root:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn values_are_read_as_the_type_asks_and_keep_their_place() {
    let text = "items:\n- { name: a, mode: shadow, port: 5432, secret: { file: /x } }\n- name: 0x\ntags: { pci: true, v: 1.10, e: \"\" }\n";
    let root: Root = parse("f.yaml", text).unwrap();
    let first = root.items[0].0.as_ref().unwrap();
    assert_eq!(first.name.at, Position { line: 2, column: 11 });
    assert_eq!((&first.mode, first.port), (&Some(Mode::Shadow), 5432));
    assert_eq!(first.secret, Some(Source::File("/x".into())));
    let tags: Vec<_> = root.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(tags, [("e", ""), ("pci", "true"), ("v", "1.10")]);
}

#[test]
fn mistakes_name_place_and_nearest_word() {
    for (text, expected) in [
        ("items: []\ntag: {}\n", vec!["f.yaml:2:1: unknown key `tag`; did you mean `tags`?"]),
        (
            "items:\n- { name: a, mode: shaddow }\n",
            vec!["f.yaml:2:20: `shaddow` is not a word that is known here; did you mean `shadow`?"],
        ),
        ("items:\n- { mode: shadow }\n", vec!["f.yaml:2:3: the key `name` is missing here"]),
        ("items:\n- { name: a, port: x }\n", vec!["f.yaml:2:20: expected a whole number, got `x`"]),
        ("items:\n- { name: a, port: 70000 }\n", vec!["f.yaml:2:20: expected u16, got `70000`"]),
        ("items:\n- { name: [a] }\n", vec!["f.yaml:2:11: expected a string, got a list"]),
        ("items: x\n", vec!["f.yaml:1:8: expected a list (`[a, b]` or lines with `- `), got `x`"]),
        (
            "items: []\nitems: []\n",
            vec!["f.yaml:2:1: `items` stands here a second time, the first is on line 1; keep one of them"],
        ),
        (
            "items:\n- { name: a, secret: { fle: x } }\n",
            vec!["f.yaml:2:24: `fle` is not a word that is known here; did you mean `file`?"],
        ),
        ("items:\n- { name: a, secret: file }\n", vec!["f.yaml:2:22: `file` needs a value (`file: …`)"]),
        ("", vec!["f.yaml: the file is empty; a document was expected"]),
        (
            "items: []\n---\nitems: []\n",
            vec![
                "f.yaml:2:1: one document a file is read, here begins a second; put the second one into a file of its own",
            ],
        ),
        ("items: [\n", vec!["f.yaml:1:8: this is not YAML: unclosed bracket '['"]),
        ("items: !include x\n", vec!["f.yaml:1:17: the tag `!include` is not read; remove it"]),
    ] {
        assert_eq!(errors(text), expected, "{text}");
    }
}

#[test]
fn one_reading_reports_every_element() {
    let text = "items:\n- { nam: a }\n- { name: b, mode: off }\n- { name: c, port: no }\ntagz: {}\n";
    let all = errors(text);
    let lines: Vec<_> = all.iter().map(|error| error.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(lines, ["f.yaml:2:3", "f.yaml:2:5", "f.yaml:3:20", "f.yaml:4:20", "f.yaml:5:1"], "{all:#?}");
}

#[test]
fn bombs_are_refused() {
    let laughs = {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        text
    };
    let deep = format!("items: {}{}\n", "[".repeat(100), "]".repeat(100));
    let deep_blocks = (0..100).map(|depth| format!("{}- \n", "  ".repeat(depth))).collect::<String>();
    let wide = format!("items: [{}]\n", "a, ".repeat(150_000));
    let huge = format!("items: [] # {}\n", "x".repeat(MAX_BYTES));
    let own = "items: &a [*a]\n".to_owned();
    for text in [laughs, deep, deep_blocks, wide, huge, own] {
        assert_eq!(errors(&text).len(), 1, "{}", &text[..40.min(text.len())]);
    }
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(text in "[ a-c:{}\\[\\],&*!|>\"'#\\n\\t-]{0,200}") {
        let _ = parse::<Root>("f.yaml", &text);
        let _ = parse::<serde_json::Value>("f.yaml", &text);
    }
}
