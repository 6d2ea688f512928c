//! Any text has an answer, in every state, with and without a catalogue; what writes tables is never a read. Before a byte
//! 0x01 stands the body of a function f(q text) that the text can call; what f is given and runs has an answer too.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockgate_inspect::sql::{
    Inspector, SessionState,
    catalogue::{Argument, CatalogueParts, CatalogueSnapshot, Code, Routine},
};
use lockgate_model::sql::SqlClass;

fn catalogue(body: Option<&str>) -> CatalogueSnapshot {
    let Some(body) = body else { return CatalogueSnapshot::default() };
    let routine = Routine {
        oid: 20_000,
        schema: "public".into(),
        name: "f".into(),
        kind: 'f',
        language: "plpgsql".into(),
        body: body.into(),
        arguments: vec![Argument { name: "q".into(), mode: 'i', type_oid: 25 }],
        ..Routine::default()
    };
    CatalogueSnapshot::new(CatalogueParts {
        functions: ["f".to_owned()].into(),
        objects: Code { routines: vec![routine], ..Code::default() },
        ..CatalogueParts::default()
    })
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (body, text) = match text.split_once('\u{1}') {
        Some((body, text)) => (Some(body), text),
        None => (None, text),
    };
    let catalogue = catalogue(body);
    for standard_conforming_strings in [None, Some(true), Some(false)] {
        let mut state = SessionState::default();
        state.standard_conforming_strings = standard_conforming_strings;
        let script = Inspector.script(text, &state, Some(&catalogue));
        for statement in &script.statements {
            let facts = statement.sql();
            assert!(text.contains(&*statement.text));
            assert_eq!(facts.class == SqlClass::Opaque, facts.opaque_reason.is_some());
            assert!(facts.tables_written.is_empty() || facts.class != SqlClass::Read);
            state.apply(statement);
        }
    }
});
