//! Every kind of record in every format.

use super::*;
use lockgate_audit::{Chain, Encoded, Tip};
use lockgate_store::contract::sample;
use serde_json::Value;

/// The sample events, as they would rest.
fn records() -> Vec<(String, Record)> {
    let mut chain = Chain::resume(&"build-7".into(), Tip::EMPTY);
    let lines = sample::every_kind().into_iter().map(|event| {
        let mut line = Vec::new();
        chain.append(&Encoded::of(&event).unwrap(), &mut line);
        line.pop();
        let record = Record::decode(&line).unwrap();
        (String::from_utf8(line).unwrap(), record)
    });
    lines.collect()
}

fn exported(format: Format) -> String {
    let mut out = Vec::new();
    let mut sink = Sink::new(format, &mut out);
    let mut open = Open::default();
    for (_, record) in records() {
        open.begin(&record);
        sink.write(&record, &open.of(&record)).unwrap();
        open.end(&record);
    }
    sink.finish().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn json_lines_are_the_records_as_they_rest() {
    let lines: Vec<String> = records().into_iter().map(|(line, _)| line).collect();
    assert_eq!(exported(Format::Jsonl).lines().collect::<Vec<_>>(), lines);
}

#[test]
fn csv_has_a_row_a_record_with_who_and_where() {
    let text = exported(Format::Csv);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.len(), records().len());
    let answered = rows.iter().find(|row| &row[at("event")] == "responded").unwrap();
    for column in ["principal", "target", "operation", "class", "result", "rows"] {
        assert!(!answered[at(column)].is_empty(), "{column}: {answered:?}");
    }
}

#[test]
fn no_cell_is_a_formula() {
    for (text, expected) in
        [("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"), ("-1", "'-1"), ("select 1", "select 1")]
    {
        assert_eq!(cell(text), expected);
    }
}

#[test]
fn ocsf_events_are_whole() {
    let mut classes = std::collections::BTreeSet::new();
    for line in exported(Format::Ocsf).lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("{name}: {event:#}"));
        assert_eq!(number("type_uid"), number("class_uid") * 100 + number("activity_id"), "{event:#}");
        assert_eq!(number("category_uid"), number("class_uid") / 1000);
        assert!((1..=6).contains(&number("severity_id")) && number("time") > 1_600_000_000_000);
        assert_eq!(event["metadata"]["version"], "1.5.0");
        if number("class_uid") == 6005 {
            assert!(
                event["actor"]["user"]["uid"].is_string() && event["dst_endpoint"]["port"].is_u64(),
                "{event:#}"
            );
            assert!(
                event["src_endpoint"]["ip"].is_string() && event["database"]["name"].is_string(),
                "{event:#}"
            );
        }
        assert!(event["action_id"].is_u64() == event["disposition_id"].is_u64());
        classes.insert(number("class_uid"));
    }
    assert!([2004, 3003, 4001, 6005].iter().all(|class| classes.contains(class)), "{classes:?}");
}
