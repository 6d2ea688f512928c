//! Tables over both automata: scripts of messages and what becomes of each.

use super::*;
use crate::postgres::startup::{CancelRequest, ProtocolVersion, StartupMessage, StartupPacket};
use crate::postgres::value::PgString;
use bytes::Bytes;

/// One line of a server-leg script.
enum On {
    Ask(Request),
    Copy(CopyInput, CopyFate),
    Answer(ReplyKind, ReplyRole),
    /// This many requests were discarded by now.
    Discarded(usize),
    /// The request is ignored by the server.
    Ignored(Request),
    RefusedAnswer(ReplyKind),
    RefusedRequest(Request),
    RefusedCopy(CopyInput),
}
use On::*;
use ReplyKind as R;
use ReplyRole::*;
use TransactionStatus::{Idle, InTransaction};

#[track_caller]
fn check(script: &[On]) -> ServerLeg {
    let mut leg = ServerLeg::new(Idle);
    for (line, on) in script.iter().enumerate() {
        match on {
            Ask(request) => {
                let fate = leg.handle_request(*request);
                assert!(matches!(fate, Ok(RequestFate::Answered(_))), "line {line}: {fate:?}");
            }
            Ignored(request) => {
                assert_eq!(leg.handle_request(*request), Ok(RequestFate::Ignored), "line {line}")
            }
            Copy(input, fate) => assert_eq!(leg.handle_copy(*input), Ok(*fate), "line {line}"),
            Answer(kind, role) => {
                let reply = leg.handle_reply(*kind);
                assert_eq!(reply.as_ref().map(|r| r.role), Ok(*role), "line {line}: {kind:?}");
            }
            Discarded(count) => {
                let discarded = std::iter::from_fn(|| leg.poll_discarded()).count();
                assert_eq!(discarded, *count, "line {line}");
            }
            RefusedAnswer(kind) => assert_blame(leg.handle_reply(*kind).map(drop), Side::Server, line),
            RefusedRequest(request) => {
                assert_blame(leg.handle_request(*request).map(drop), Side::Client, line)
            }
            RefusedCopy(input) => assert_blame(leg.handle_copy(*input).map(drop), Side::Client, line),
        }
    }
    leg
}

#[track_caller]
fn assert_blame(result: Result<(), WireError>, blamed: Side, line: usize) {
    assert!(
        matches!(&result, Err(WireError::Unexpected { side, .. }) if *side == blamed),
        "line {line}: {result:?}"
    );
}

#[test]
fn a_simple_query_may_have_many_results_and_ends_with_ready() {
    let leg = check(&[
        Ask(Request::Query),
        Answer(R::RowDescription, Part),
        Answer(R::DataRow, Part),
        Answer(R::NoticeResponse, Asynchronous),
        Answer(R::CommandComplete, Part),
        Answer(R::CommandComplete, Part),
        Answer(R::EmptyQueryResponse, Part),
        Answer(R::ReadyForQuery(InTransaction), Done),
    ]);
    assert!(leg.is_idle());
    assert_eq!(leg.status(), InTransaction);
}

#[test]
fn an_error_in_a_simple_query_leaves_only_ready() {
    let leg = check(&[
        Ask(Request::Query),
        Ask(Request::Query),
        Answer(R::RowDescription, Part),
        Answer(R::ErrorResponse, Failed),
        Discarded(0),
        RefusedAnswer(R::DataRow),
        RefusedAnswer(R::CommandComplete),
        Answer(R::ReadyForQuery(TransactionStatus::Failed), Done),
        Answer(R::CommandComplete, Part),
        Answer(R::ReadyForQuery(Idle), Done),
    ]);
    assert!(leg.is_idle());
}
#[test]
fn a_pipeline_is_answered_in_order() {
    let leg = check(&[
        Ask(Request::Parse),
        Ask(Request::DescribeStatement),
        Ask(Request::Bind),
        Ask(Request::DescribePortal),
        Ask(Request::Execute),
        Ask(Request::Close),
        Ask(Request::Sync),
        Answer(R::ParseComplete, Done),
        Answer(R::ParameterDescription, Part),
        Answer(R::NoData, Done),
        Answer(R::BindComplete, Done),
        Answer(R::ParameterStatus, Asynchronous),
        Answer(R::RowDescription, Done),
        Answer(R::DataRow, Part),
        Answer(R::DataRow, Part),
        Answer(R::PortalSuspended, Done),
        Answer(R::CloseComplete, Done),
        Answer(R::ReadyForQuery(Idle), Done),
    ]);
    assert!(leg.is_idle());
}

#[test]
fn an_error_in_a_batch_discards_up_to_sync() {
    check(&[
        Ask(Request::Parse),
        Ask(Request::Bind),
        Ask(Request::Execute),
        Ask(Request::Sync),
        Ask(Request::Parse),
        Ask(Request::Sync),
        Answer(R::ParseComplete, Done),
        Answer(R::ErrorResponse, Failed),
        Discarded(1),
        RefusedAnswer(R::BindComplete),
        Answer(R::ReadyForQuery(Idle), Done),
        Answer(R::ParseComplete, Done),
        Answer(R::ReadyForQuery(Idle), Done),
        RefusedAnswer(R::ReadyForQuery(Idle)),
    ]);
}

#[test]
fn after_an_error_requests_are_ignored_until_a_sync_is_sent() {
    let leg = check(&[
        Ask(Request::Parse),
        Answer(R::ErrorResponse, Failed),
        Ignored(Request::Bind),
        Ignored(Request::Query),
        Ignored(Request::FunctionCall),
        Ask(Request::Sync),
        Answer(R::ReadyForQuery(Idle), Done),
        Ask(Request::Query),
        Answer(R::EmptyQueryResponse, Part),
        Answer(R::ReadyForQuery(Idle), Done),
    ]);
    assert!(leg.is_idle());
}

#[test]
fn a_commit_at_sync_may_fail() {
    check(&[Ask(Request::Sync), Answer(R::ErrorResponse, Failed), Answer(R::ReadyForQuery(Idle), Done)]);
}

#[test]
fn copy_in_swallows_syncs_and_refuses_other_requests() {
    check(&[
        Ask(Request::Execute),
        Ask(Request::Sync),
        RefusedCopy(CopyInput::Data),
        Answer(R::CopyInResponse, Part),
        Discarded(1),
        Copy(CopyInput::Data, CopyFate::Forward),
        Ignored(Request::Sync),
        RefusedRequest(Request::Query),
        RefusedAnswer(R::CommandComplete),
        Copy(CopyInput::Done, CopyFate::Forward),
        Ask(Request::Sync),
        RefusedCopy(CopyInput::Data),
        Answer(R::CommandComplete, Done),
        Answer(R::ReadyForQuery(Idle), Done),
    ]);
    check(&[Ask(Request::Query), Ask(Request::Query)])
        .handle_reply(R::CopyInResponse)
        .expect_err("a request behind a COPY FROM STDIN would be lost");
}

#[test]
fn copy_data_behind_a_failed_copy_is_discarded() {
    check(&[
        Ask(Request::Query),
        Answer(R::CopyInResponse, Part),
        Copy(CopyInput::Data, CopyFate::Forward),
        Answer(R::ErrorResponse, Failed),
        Copy(CopyInput::Data, CopyFate::Discard),
        Answer(R::ReadyForQuery(Idle), Done),
        Copy(CopyInput::Data, CopyFate::Discard),
        Copy(CopyInput::Done, CopyFate::Discard),
        RefusedCopy(CopyInput::Data),
    ]);
    check(&[
        Ask(Request::Query),
        Answer(R::CopyInResponse, Part),
        Copy(CopyInput::Fail, CopyFate::Forward),
        Answer(R::ErrorResponse, Failed),
        Answer(R::ReadyForQuery(Idle), Done),
        RefusedCopy(CopyInput::Data),
    ]);
}

#[test]
fn copy_out_has_data_done_and_completion() {
    check(&[
        Ask(Request::Query),
        Answer(R::CopyOutResponse, Part),
        Answer(R::CopyData, Part),
        RefusedAnswer(R::CommandComplete),
        Answer(R::CopyDone, Part),
        RefusedAnswer(R::CopyData),
        Answer(R::CommandComplete, Part),
        Answer(R::ReadyForQuery(Idle), Done),
    ]);
}

#[test]
fn a_server_that_speaks_unasked_is_refused() {
    for kind in [
        R::Authentication,
        R::BackendKeyData,
        R::BindComplete,
        R::CommandComplete,
        R::CopyData,
        R::CopyInResponse,
        R::DataRow,
        R::NegotiateProtocolVersion,
        R::ReadyForQuery(Idle),
        R::RowDescription,
    ] {
        check(&[RefusedAnswer(kind)]);
        check(&[Ask(Request::Parse), RefusedAnswer(kind)]);
    }
    check(&[Answer(R::ErrorResponse, Asynchronous), Answer(R::NotificationResponse, Asynchronous)]);
    check(&[Ask(Request::Query), RefusedAnswer(R::DataRow)]);
    check(&[
        Ask(Request::FunctionCall),
        Answer(R::FunctionCallResponse, Part),
        RefusedAnswer(R::FunctionCallResponse),
        Answer(R::ReadyForQuery(Idle), Done),
    ]);
}

#[test]
fn unanswered_requests_are_bounded() {
    let mut leg = ServerLeg::new(Idle);
    for _ in 0..MAX_OUTSTANDING {
        leg.handle_request(Request::Bind).expect("within the bound");
    }
    assert_eq!(leg.handle_request(Request::Bind).map_err(|e| e.kind()), Err("too_many"));
}

fn startup() -> StartupPacket {
    StartupPacket::Startup(StartupMessage { version: ProtocolVersion::V3_0, parameters: Vec::new() })
}

fn query() -> Frontend {
    Frontend::Query(PgString::from_static("select 1"))
}

fn describe() -> Frontend {
    Frontend::Describe(Target::Portal(PgString::default()))
}

fn ready_client() -> ClientLeg {
    let mut leg = ClientLeg::new();
    leg.handle_startup(&startup()).expect("first packet");
    leg.handle_opened();
    leg
}

#[test]
fn encryption_is_asked_for_once_and_before_startup() {
    let mut leg = ClientLeg::new();
    assert_eq!(leg.handle_startup(&StartupPacket::GssEncRequest), Ok(StartupStep::AnswerGssEnc));
    assert_eq!(leg.handle_startup(&StartupPacket::SslRequest), Ok(StartupStep::AnswerSsl));
    leg.handle_startup(&StartupPacket::SslRequest).expect_err("twice");
    leg.handle_startup(&StartupPacket::GssEncRequest).expect_err("twice");
    assert_eq!(leg.handle_startup(&startup()), Ok(StartupStep::Open));
    leg.handle_startup(&startup()).expect_err("the session is opening");
    leg.handle_frontend(&query()).expect_err("before ReadyForQuery");

    let mut leg = ClientLeg::new();
    leg.handle_encrypted();
    leg.handle_startup(&StartupPacket::SslRequest).expect_err("inside TLS");

    let cancel = StartupPacket::Cancel(CancelRequest { process_id: 1, key: Bytes::from_static(b"abcd") });
    let mut leg = ClientLeg::new();
    assert_eq!(leg.handle_startup(&cancel), Ok(StartupStep::Cancel));
    assert_eq!(leg.phase(), ClientPhase::Closed);
}

#[test]
fn a_password_is_taken_only_when_asked_for() {
    let password = Frontend::Password(crate::postgres::frontend::PasswordFamily::raw(Bytes::new()));
    let mut leg = ClientLeg::new();
    leg.handle_startup(&startup()).expect("first packet");
    leg.handle_frontend(&password).expect_err("not asked");
    leg.handle_password_asked();
    assert_eq!(leg.handle_frontend(&password), Ok(ClientStep::Password));
    leg.handle_frontend(&password).expect_err("asked once");
    leg.handle_opened();
    leg.handle_frontend(&password).expect_err("the session is open");
}

#[test]
fn a_failed_batch_is_skipped_to_its_sync() {
    let mut leg = ready_client();
    assert_eq!(leg.handle_frontend(&describe()), Ok(ClientStep::Request(Request::DescribePortal)));
    leg.handle_failed();
    for message in [describe(), query(), Frontend::Flush, Frontend::CopyDone] {
        assert_eq!(leg.handle_frontend(&message), Ok(ClientStep::Skip));
    }
    assert_eq!(leg.handle_frontend(&Frontend::Sync), Ok(ClientStep::Request(Request::Sync)));
    assert_eq!(leg.handle_frontend(&query()), Ok(ClientStep::Request(Request::Query)));
    leg.handle_failed();
    assert_eq!(leg.phase(), ClientPhase::Ready, "a failed Query skips nothing");
}

#[test]
fn copy_data_is_named_stray_when_nobody_asked() {
    let mut leg = ready_client();
    let data = Frontend::CopyData(Bytes::from_static(b"1\n"));
    assert_eq!(leg.handle_frontend(&data), Ok(ClientStep::StrayCopy(CopyInput::Data)));
    leg.handle_copy_in();
    assert_eq!(leg.handle_frontend(&data), Ok(ClientStep::Copy(CopyInput::Data)));
    assert_eq!(leg.handle_frontend(&Frontend::Sync), Ok(ClientStep::Skip));
    leg.handle_frontend(&query()).expect_err("during COPY");
    assert_eq!(leg.handle_frontend(&Frontend::CopyDone), Ok(ClientStep::Copy(CopyInput::Done)));
    assert_eq!(leg.phase(), ClientPhase::Ready);
    assert_eq!(leg.handle_frontend(&Frontend::Terminate), Ok(ClientStep::Terminate));
    leg.handle_frontend(&query()).expect_err("after Terminate");
}
