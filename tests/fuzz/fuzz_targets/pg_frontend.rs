//! Client messages: no bytes panic, what decodes encodes to the same bytes, and no order of messages breaks the automata.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use lockgate_wire::postgres::TransactionStatus;
use lockgate_wire::postgres::automaton::{ClientLeg, ClientStep, ServerLeg};
use lockgate_wire::postgres::frame::{FrameDecoder, Limits};
use lockgate_wire::postgres::frontend::Frontend;
use lockgate_wire::postgres::startup::{ProtocolVersion, StartupMessage, StartupPacket};

fuzz_target!(|data: &[u8]| {
    let decoder = FrameDecoder::new(Limits::CLIENT);
    let mut client = opened();
    let mut server = ServerLeg::new(TransactionStatus::Idle);
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = decoder.next(&mut buffer) {
        let Ok(message) = Frontend::decode(&frame) else { continue };
        assert_eq!(&message.to_bytes().expect("what was decoded can be encoded"), frame.bytes());
        match client.handle_frontend(&message) {
            Ok(ClientStep::Request(request)) => drop(server.handle_request(request)),
            Ok(ClientStep::Copy(input) | ClientStep::StrayCopy(input)) => drop(server.handle_copy(input)),
            Ok(ClientStep::Flush | ClientStep::Skip | ClientStep::Password) | Err(_) => {}
            Ok(ClientStep::Terminate) => return,
        }
    }
});

fn opened() -> ClientLeg {
    let mut leg = ClientLeg::new();
    let startup = StartupMessage { version: ProtocolVersion::V3_0, parameters: Vec::new() };
    leg.handle_startup(&StartupPacket::Startup(startup)).expect("the first packet");
    leg.handle_opened();
    leg
}
