//! Any text has an answer, in every state, with and without a catalogue; what writes tables is never a read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockgate_inspect::sql::{Inspector, SessionState, catalogue::CatalogueSnapshot};
use lockgate_model::sql::SqlClass;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let catalogue = CatalogueSnapshot::default();
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
