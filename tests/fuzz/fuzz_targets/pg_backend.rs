//! Server messages: no bytes panic, what decodes encodes to the same bytes, a rewritten row is the same row, and no order
//! of answers breaks the automaton.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use lockgate_wire::postgres::TransactionStatus;
use lockgate_wire::postgres::automaton::{ReplyKind, Request, ServerLeg};
use lockgate_wire::postgres::backend::{Backend, DataRowWriter};
use lockgate_wire::postgres::frame::{FrameDecoder, Limits};

fuzz_target!(|data: &[u8]| {
    let decoder = FrameDecoder::new(Limits::SERVER);
    let mut leg = ServerLeg::new(TransactionStatus::Idle);
    // One batch of everything: the answers decide how far it gets.
    for request in [
        Request::Parse,
        Request::DescribeStatement,
        Request::Bind,
        Request::DescribePortal,
        Request::Execute,
        Request::Close,
        Request::Sync,
        Request::Query,
        Request::FunctionCall,
    ] {
        leg.handle_request(request).expect("nothing was answered yet");
    }
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = decoder.next(&mut buffer) {
        if let Ok(kind) = ReplyKind::of(&frame) {
            let before = leg.outstanding();
            let reply = leg.handle_reply(kind);
            assert!(leg.outstanding() <= before && (reply.is_ok() || leg.outstanding() == before));
        }
        let Ok(message) = Backend::decode(&frame) else { continue };
        assert_eq!(&message.to_bytes().expect("what was decoded can be encoded"), frame.bytes());
        if let Backend::DataRow(row) = &message {
            let mut out = BytesMut::new();
            let mut writer = DataRowWriter::new(&mut out);
            row.fields().for_each(|field| writer.field(field));
            writer.finish().expect("as many fields as there were");
            assert_eq!(out[..], frame.bytes()[..]);
        }
    }
});
