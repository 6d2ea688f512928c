//! Any order of requests and answers on the server's leg: it never panics, answers come in the order of the requests, and
//! what it says of the future (how many are outstanding, whether the server skips) is true.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockgate_wire::postgres::TransactionStatus;
use lockgate_wire::postgres::automaton::{
    CopyFate, CopyInput, ReplyKind, ReplyRole, Request, RequestFate, ServerLeg, Ticket,
};
use std::collections::VecDeque;

const REQUESTS: [Request; 9] = [
    Request::Query,
    Request::Parse,
    Request::Bind,
    Request::DescribeStatement,
    Request::DescribePortal,
    Request::Execute,
    Request::Close,
    Request::Sync,
    Request::FunctionCall,
];

const STATUS: [TransactionStatus; 3] =
    [TransactionStatus::Idle, TransactionStatus::InTransaction, TransactionStatus::Failed];

const REPLIES: [ReplyKind; 24] = [
    ReplyKind::ParseComplete,
    ReplyKind::BindComplete,
    ReplyKind::CloseComplete,
    ReplyKind::CommandComplete,
    ReplyKind::CopyBothResponse,
    ReplyKind::CopyData,
    ReplyKind::CopyDone,
    ReplyKind::CopyInResponse,
    ReplyKind::CopyOutResponse,
    ReplyKind::DataRow,
    ReplyKind::EmptyQueryResponse,
    ReplyKind::ErrorResponse,
    ReplyKind::FunctionCallResponse,
    ReplyKind::NoData,
    ReplyKind::NoticeResponse,
    ReplyKind::NotificationResponse,
    ReplyKind::ParameterDescription,
    ReplyKind::ParameterStatus,
    ReplyKind::PortalSuspended,
    ReplyKind::RowDescription,
    ReplyKind::Authentication,
    ReplyKind::BackendKeyData,
    ReplyKind::NegotiateProtocolVersion,
    ReplyKind::ErrorResponse,
];

fuzz_target!(|data: &[u8]| {
    let mut leg = ServerLeg::new(TransactionStatus::Idle);
    let mut waiting: VecDeque<(Ticket, Request)> = VecDeque::new();
    // Both sides stream (replication): the client's data goes on without being asked for.
    let mut both = false;
    for &byte in data {
        match byte {
            0..64 => ask(&mut leg, &mut waiting, REQUESTS[usize::from(byte) % REQUESTS.len()]),
            64..96 => feed(&mut leg, both, byte),
            96..112 => {
                let ready = ReplyKind::ReadyForQuery(STATUS[usize::from(byte) % STATUS.len()]);
                both &= !answer(&mut leg, &mut waiting, ready);
            }
            _ => {
                let kind = REPLIES[usize::from(byte) % REPLIES.len()];
                both |= answer(&mut leg, &mut waiting, kind) && kind == ReplyKind::CopyBothResponse;
            }
        }
        assert_eq!(leg.outstanding(), waiting.len());
        assert_eq!(leg.current(), waiting.front().copied());
        assert!(!leg.is_idle() || waiting.is_empty());
    }
});

fn ask(leg: &mut ServerLeg, waiting: &mut VecDeque<(Ticket, Request)>, request: Request) {
    let (taking, skipping) = (leg.takes_copy_data(), leg.is_skipping());
    match leg.handle_request(request) {
        Ok(RequestFate::Answered(ticket)) => {
            assert!(!taking, "nothing is answered while COPY data is taken");
            assert!(!skipping || request == Request::Sync, "only Sync ends skipping");
            assert!(waiting.back().is_none_or(|(last, _)| *last < ticket));
            waiting.push_back((ticket, request));
        }
        Ok(RequestFate::Ignored) => assert!(taking || skipping),
        Err(_) => {}
    }
}

fn feed(leg: &mut ServerLeg, both: bool, byte: u8) {
    let input = [CopyInput::Data, CopyInput::Done, CopyInput::Fail][usize::from(byte) % 3];
    let taking = leg.takes_copy_data();
    match leg.handle_copy(input) {
        Ok(CopyFate::Forward) => assert!(taking || both),
        Ok(CopyFate::Discard) | Err(_) => assert!(!taking),
    }
}

/// Whether the answer fits.
fn answer(leg: &mut ServerLeg, waiting: &mut VecDeque<(Ticket, Request)>, kind: ReplyKind) -> bool {
    let before = leg.outstanding();
    let Ok(reply) = leg.handle_reply(kind) else {
        assert_eq!(leg.outstanding(), before, "what is refused changes nothing");
        return false;
    };
    assert_eq!(reply.ticket, waiting.front().map(|(ticket, _)| *ticket));
    assert_eq!(reply.request, waiting.front().map(|(_, request)| *request));
    if reply.role == ReplyRole::Done {
        waiting.pop_front();
    }
    if reply.role == ReplyRole::Failed {
        let ends_with_ready = waiting.front().is_some_and(|(_, request)| {
            matches!(request, Request::Query | Request::FunctionCall | Request::Sync)
        });
        if !ends_with_ready {
            waiting.pop_front();
        }
    }
    while let Some(ticket) = leg.poll_discarded() {
        let at = waiting.iter().position(|(waits, _)| *waits == ticket);
        let at = at.expect("only what waits is discarded, and once");
        waiting.remove(at);
    }
    if let ReplyKind::ReadyForQuery(status) = kind {
        assert_eq!(leg.status(), status);
    }
    true
}
