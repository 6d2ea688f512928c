//! Conversations between real PostgreSQL programs, captured byte for byte (`tests/fixtures/postgres/README.md`): every
//! message decodes, encodes to the same bytes, and fits the automata.

use bytes::{Buf, Bytes, BytesMut};
use lockgate_wire::postgres::automaton::{
    ClientLeg, ClientStep, CopyFate, ReplyKind, RequestFate, ServerLeg, StartupStep,
};
use lockgate_wire::postgres::backend::{Authentication, Backend};
use lockgate_wire::postgres::frame::{Frame, FrameDecoder, Limits};
use lockgate_wire::postgres::frontend::Frontend;
use lockgate_wire::postgres::startup::{StartupDecoder, StartupMessage, StartupPacket};
use std::collections::VecDeque;

macro_rules! captured {
    ($name:literal) => {
        Conversation::read(
            include_bytes!(concat!("../../../tests/fixtures/postgres/", $name, ".client.bin")),
            include_bytes!(concat!("../../../tests/fixtures/postgres/", $name, ".server.bin")),
        )
    };
}

struct Conversation {
    leg: ClientLeg,
    startup: StartupMessage,
    client: VecDeque<Frontend>,
    /// Messages of authentication and session start, up to the first ReadyForQuery.
    opening: Vec<Backend>,
    server: VecDeque<Frame>,
}

impl Conversation {
    #[track_caller]
    fn read(client: &'static [u8], server: &'static [u8]) -> Self {
        let (mut client, mut server) = (BytesMut::from(client), BytesMut::from(server));
        let mut leg = ClientLeg::new();
        let startup = loop {
            let whole = client.clone();
            let packet =
                StartupDecoder::new(Limits::CLIENT).next(&mut client).expect("valid").expect("complete");
            let mut again = BytesMut::new();
            packet.encode(&mut again).expect("encodable");
            assert_eq!(again[..], whole[..whole.len() - client.len()]);
            match (leg.handle_startup(&packet).expect("in order"), packet) {
                // The server's answer is one byte.
                (StartupStep::AnswerSsl | StartupStep::AnswerGssEnc, _) => assert_eq!(server.get_u8(), b'N'),
                (StartupStep::Open, StartupPacket::Startup(message)) => break message,
                (step, packet) => panic!("{step:?} for {packet:?}"),
            }
        };
        let client =
            frames(client, Limits::CLIENT).map(|f| same(&f, Frontend::decode, Frontend::to_bytes)).collect();
        let mut server: VecDeque<Frame> = frames(server, Limits::SERVER).collect();
        for frame in &server {
            same(frame, Backend::decode, Backend::to_bytes);
        }
        let mut opening = Vec::new();
        while let Some(frame) = server.pop_front() {
            opening.push(Backend::decode(&frame).expect("decoded above"));
            if matches!(opening.last(), Some(Backend::ReadyForQuery(_))) {
                break;
            }
        }
        Conversation { leg, startup, client, opening, server }
    }

    /// Runs both automata over the conversation; answers how many requests the server discarded.
    #[track_caller]
    fn replay(mut self) -> usize {
        let Some(Backend::ReadyForQuery(status)) = self.opening.last() else {
            panic!("the session was not opened")
        };
        let mut server_leg = ServerLeg::new(*status);
        while matches!(self.client.front(), Some(Frontend::Password(_))) {
            self.leg.handle_password_asked();
            let answer = self.client.pop_front().expect("looked at");
            assert_eq!(self.leg.handle_frontend(&answer), Ok(ClientStep::Password));
        }
        self.leg.handle_opened();
        let mut discarded = 0;
        while let Some(message) = self.client.pop_front() {
            let waits = self.send(&mut server_leg, &message);
            while waits && !server_leg.is_idle() && !server_leg.takes_copy_data() {
                let frame = self.server.pop_front().expect("an answer to what was asked");
                let kind = ReplyKind::of(&frame).expect("known");
                server_leg.handle_reply(kind).expect("in order");
                match kind {
                    ReplyKind::CopyInResponse => self.leg.handle_copy_in(),
                    ReplyKind::ErrorResponse => self.leg.handle_failed(),
                    _ => {}
                }
            }
            discarded += std::iter::from_fn(|| server_leg.poll_discarded()).count();
        }
        assert!(server_leg.is_idle());
        for frame in self.server {
            // Notifications come when they come.
            let reply = server_leg.handle_reply(ReplyKind::of(&frame).expect("known")).expect("asynchronous");
            assert_eq!(reply.ticket, None);
        }
        discarded
    }

    /// Answers whether the client now waits for the server.
    #[track_caller]
    fn send(&mut self, server_leg: &mut ServerLeg, message: &Frontend) -> bool {
        match self.leg.handle_frontend(message).expect("in order") {
            ClientStep::Request(request) => {
                let fate = server_leg.handle_request(request).expect("in order");
                assert!(matches!(fate, RequestFate::Answered(_)));
                !request.is_extended()
            }
            ClientStep::Copy(input) => {
                assert_eq!(server_leg.handle_copy(input), Ok(CopyFate::Forward));
                !server_leg.takes_copy_data()
            }
            ClientStep::Flush | ClientStep::Terminate => false,
            step @ (ClientStep::Skip | ClientStep::StrayCopy(_) | ClientStep::Password) => panic!("{step:?}"),
        }
    }
}

fn frames(mut bytes: BytesMut, limits: Limits) -> impl Iterator<Item = Frame> {
    let decoder = FrameDecoder::new(limits);
    std::iter::from_fn(move || {
        let frame = decoder.next(&mut bytes).expect("valid");
        assert!(frame.is_some() || bytes.is_empty(), "the capture ends inside a message");
        frame
    })
}

#[track_caller]
fn same<M, E: std::fmt::Debug>(
    frame: &Frame,
    decode: impl Fn(&Frame) -> Result<M, E>,
    encode: impl Fn(&M) -> Result<Bytes, E>,
) -> M {
    let message = decode(frame).expect("decodable");
    assert_eq!(&encode(&message).expect("encodable"), frame.bytes());
    message
}

#[test]
fn psql_runs_simple_queries() {
    let conversation = captured!("simple");
    assert!(conversation.startup.user().is_some_and(|user| *user == "app"));
    assert!(conversation.startup.parameter("application_name").is_some_and(|name| *name == "psql"));
    assert_eq!(conversation.replay(), 0);
}

#[test]
fn psql_copies_in_and_out() {
    assert_eq!(captured!("copy").replay(), 0);
}

#[test]
fn pgbench_speaks_the_extended_protocol() {
    assert_eq!(captured!("extended").replay(), 0);
    assert_eq!(captured!("prepared").replay(), 0);
}

#[test]
fn a_failed_pipeline_is_discarded_to_its_sync() {
    // Of [1, nope, 2], Parse of nope fails: its Bind, Describe, Execute and all four messages of the last are dropped.
    assert_eq!(captured!("pipeline").replay(), 7);
}

#[test]
fn a_driver_uses_named_portals_binary_formats_limits_and_function_calls() {
    let conversation = captured!("driver");
    let rows = conversation.server.iter().filter(|frame| frame.tag() == b'D').count();
    assert_eq!(rows, 2);
    assert_eq!(conversation.replay(), 0);
}

#[test]
fn authentication_exchanges_are_read_by_name() {
    let steps = |conversation: &Conversation| -> Vec<&'static str> {
        let names = conversation.opening.iter().filter(|m| matches!(m, Backend::Authentication(_)));
        names.map(Backend::name).collect()
    };
    let scram = captured!("scram");
    let expected =
        ["AuthenticationSASL", "AuthenticationSASLContinue", "AuthenticationSASLFinal", "AuthenticationOk"];
    assert_eq!(steps(&scram), expected);
    let Some(Frontend::Password(first)) = scram.client.front() else { panic!("{:?}", scram.client) };
    let (mechanism, response) = first.as_sasl_initial().expect("SASLInitialResponse");
    assert!(mechanism == "SCRAM-SHA-256" && response.is_some());
    scram.replay();

    let md5 = captured!("md5");
    assert!(matches!(md5.opening.first(), Some(Backend::Authentication(Authentication::Md5Password { .. }))));
    md5.replay();

    let cleartext = captured!("cleartext");
    let Some(Frontend::Password(answer)) = cleartext.client.front() else { panic!("{:?}", cleartext.client) };
    assert!(answer.as_password().expect("PasswordMessage") == "app-secret");
    cleartext.replay();
}

#[test]
fn a_wrong_password_is_a_fatal_error_with_its_sqlstate() {
    let conversation = captured!("wrong_password");
    let Some(Backend::ErrorResponse(report)) = conversation.opening.last() else { panic!("no error") };
    assert!(report.is_fatal());
    assert_eq!(report.sqlstate(), b"28P01");
    assert_eq!(report.message(), "password authentication failed for user \"scram\"");
}
