//! Opening packets: no bytes panic, and what decodes encodes to the same bytes.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use lockgate_wire::postgres::automaton::ClientLeg;
use lockgate_wire::postgres::frame::Limits;
use lockgate_wire::postgres::startup::StartupDecoder;

fuzz_target!(|data: &[u8]| {
    let decoder = StartupDecoder::new(Limits::CLIENT);
    let mut leg = ClientLeg::new();
    let mut buffer = BytesMut::from(data);
    loop {
        let before = buffer.clone();
        let Ok(Some(packet)) = decoder.next(&mut buffer) else { return };
        let mut again = BytesMut::new();
        packet.encode(&mut again).expect("what was decoded can be encoded");
        assert_eq!(again[..], before[..before.len() - buffer.len()]);
        if leg.handle_startup(&packet).is_err() {
            return;
        }
    }
});
