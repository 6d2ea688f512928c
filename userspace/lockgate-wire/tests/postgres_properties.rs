//! Properties of the PostgreSQL codec: what is encoded decodes to itself, what decodes encodes to the same bytes, and no
//! bytes panic or allocate beyond their own size.

use bytes::{Bytes, BytesMut};
use lockgate_wire::postgres::automaton::{ReplyKind, Request, ServerLeg};
use lockgate_wire::postgres::backend::{
    Authentication, Backend, BackendKeyData, Column, CopyResponse, DataRow, DataRowWriter,
    NegotiateProtocolVersion, Notification, ReportFields, Severity,
};
use lockgate_wire::postgres::frame::{Frame, FrameDecoder, Limits};
use lockgate_wire::postgres::frontend::{Bind, Execute, Frontend, FunctionCall, Parse, PasswordFamily};
use lockgate_wire::postgres::startup::{
    CancelRequest, ProtocolVersion, StartupDecoder, StartupMessage, StartupPacket,
};
use lockgate_wire::postgres::{Format, PgString, Target, TransactionStatus};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn string() -> impl Strategy<Value = PgString> {
    vec(1u8..=255, 0..20).prop_map(|bytes| PgString::new(bytes).expect("no zero byte"))
}

fn name() -> impl Strategy<Value = PgString> {
    vec(1u8..=255, 1..20).prop_map(|bytes| PgString::new(bytes).expect("no zero byte"))
}

fn data() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Text), Just(Format::Binary)]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![string().prop_map(Target::Statement), string().prop_map(Target::Portal)]
}

fn key() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 4..=256).prop_map(Bytes::from)
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let values = || vec(option::of(data()), 0..6);
    let formats = || vec(format(), 0..6);
    prop_oneof![
        (string(), string(), formats(), values(), formats()).prop_map(
            |(portal, statement, parameter_formats, parameters, result_formats)| {
                Frontend::Bind(Bind { portal, statement, parameter_formats, parameters, result_formats })
            }
        ),
        target().prop_map(Frontend::Close),
        data().prop_map(Frontend::CopyData),
        Just(Frontend::CopyDone),
        string().prop_map(Frontend::CopyFail),
        target().prop_map(Frontend::Describe),
        (string(), any::<i32>())
            .prop_map(|(portal, max_rows)| Frontend::Execute(Execute { portal, max_rows })),
        Just(Frontend::Flush),
        (any::<u32>(), formats(), values(), format()).prop_map(
            |(function, argument_formats, arguments, result_format)| {
                Frontend::FunctionCall(FunctionCall { function, argument_formats, arguments, result_format })
            }
        ),
        (string(), string(), vec(any::<u32>(), 0..6)).prop_map(|(statement, sql, parameter_types)| {
            Frontend::Parse(Parse { statement, sql, parameter_types })
        }),
        data().prop_map(|body| Frontend::Password(PasswordFamily::raw(body))),
        string().prop_map(Frontend::Query),
        Just(Frontend::Sync),
        Just(Frontend::Terminate),
    ]
}

fn authentication() -> impl Strategy<Value = Authentication> {
    prop_oneof![
        Just(Authentication::Ok),
        Just(Authentication::KerberosV5),
        Just(Authentication::CleartextPassword),
        any::<[u8; 4]>().prop_map(|salt| Authentication::Md5Password { salt }),
        Just(Authentication::Gss),
        data().prop_map(Authentication::GssContinue),
        Just(Authentication::Sspi),
        vec(name(), 0..4).prop_map(Authentication::Sasl),
        data().prop_map(Authentication::SaslContinue),
        data().prop_map(Authentication::SaslFinal),
    ]
}

fn column() -> impl Strategy<Value = Column> {
    (string(), any::<u32>(), any::<i16>(), any::<u32>(), any::<i16>(), any::<i32>(), format()).prop_map(
        |(name, table_oid, attnum, type_oid, type_size, type_modifier, format)| Column {
            name,
            table_oid,
            attnum,
            type_oid,
            type_size,
            type_modifier,
            format,
        },
    )
}

fn row() -> impl Strategy<Value = DataRow> {
    vec(option::of(data()), 0..6).prop_map(|fields| {
        let mut out = BytesMut::new();
        let mut writer = DataRowWriter::new(&mut out);
        fields.iter().for_each(|field| writer.field(field.as_deref()));
        writer.finish().expect("small row");
        let row = DataRow::decode(out.freeze().slice(5..)).expect("as written");
        assert!(row.fields().eq(fields.iter().map(|field| field.as_deref())));
        row
    })
}

fn report() -> impl Strategy<Value = ReportFields> {
    (any::<[u8; 3]>(), "[^\0]{0,12}", "[^\0]{0,12}").prop_map(|(codes, message, extra)| {
        codes.iter().fold(
            ReportFields::new(Severity::Error, "42501", &message).detail("why").hint("what next"),
            |report, code| report.with(*code, &extra),
        )
    })
}

fn status() -> impl Strategy<Value = TransactionStatus> {
    prop_oneof![
        Just(TransactionStatus::Idle),
        Just(TransactionStatus::InTransaction),
        Just(TransactionStatus::Failed),
    ]
}

fn backend() -> impl Strategy<Value = Backend> {
    let copy =
        || (format(), vec(format(), 0..6)).prop_map(|(format, columns)| CopyResponse { format, columns });
    let session = prop_oneof![
        authentication().prop_map(Backend::Authentication),
        (any::<u32>(), key())
            .prop_map(|(process_id, key)| { Backend::BackendKeyData(BackendKeyData { process_id, key }) }),
        (any::<u32>(), vec(string(), 0..4)).prop_map(|(newest, unknown_options)| {
            Backend::NegotiateProtocolVersion(NegotiateProtocolVersion { newest, unknown_options })
        }),
        (string(), string()).prop_map(|(name, value)| Backend::ParameterStatus { name, value }),
        (any::<u32>(), string(), string()).prop_map(|(process_id, channel, payload)| {
            Backend::NotificationResponse(Notification { process_id, channel, payload })
        }),
        report().prop_map(Backend::ErrorResponse),
        report().prop_map(Backend::NoticeResponse),
        status().prop_map(Backend::ReadyForQuery),
    ];
    let result = prop_oneof![
        Just(Backend::BindComplete),
        Just(Backend::CloseComplete),
        string().prop_map(Backend::CommandComplete),
        copy().prop_map(Backend::CopyBothResponse),
        copy().prop_map(Backend::CopyInResponse),
        copy().prop_map(Backend::CopyOutResponse),
        data().prop_map(Backend::CopyData),
        Just(Backend::CopyDone),
        row().prop_map(Backend::DataRow),
        Just(Backend::EmptyQueryResponse),
        option::of(data()).prop_map(Backend::FunctionCallResponse),
        Just(Backend::NoData),
        vec(any::<u32>(), 0..6).prop_map(Backend::ParameterDescription),
        Just(Backend::ParseComplete),
        Just(Backend::PortalSuspended),
        vec(column(), 0..4).prop_map(Backend::RowDescription),
    ];
    prop_oneof![session, result]
}

fn startup() -> impl Strategy<Value = StartupPacket> {
    prop_oneof![
        Just(StartupPacket::SslRequest),
        Just(StartupPacket::GssEncRequest),
        (any::<u32>(), key())
            .prop_map(|(process_id, key)| StartupPacket::Cancel(CancelRequest { process_id, key })),
        (any::<u16>(), vec((name(), string()), 0..5)).prop_map(|(minor, parameters)| {
            StartupPacket::Startup(StartupMessage {
                version: ProtocolVersion { major: 3, minor },
                parameters,
            })
        }),
    ]
}

fn frame(bytes: &Bytes) -> Frame {
    Frame::from_bytes(bytes.clone()).expect("one whole message")
}

proptest! {
    #[test]
    fn every_client_message_survives_the_round_trip(message in frontend()) {
        let bytes = message.to_bytes().expect("encodable");
        let decoded = Frontend::decode(&frame(&bytes)).expect("decodable");
        prop_assert_eq!(&decoded, &message);
        prop_assert_eq!(decoded.to_bytes().expect("encodable"), bytes);
    }

    #[test]
    fn every_server_message_survives_the_round_trip(message in backend()) {
        let bytes = message.to_bytes().expect("encodable");
        let decoded = Backend::decode(&frame(&bytes)).expect("decodable");
        prop_assert_eq!(&decoded, &message);
        prop_assert_eq!(decoded.to_bytes().expect("encodable"), bytes);
    }

    #[test]
    fn every_startup_packet_survives_the_round_trip(packet in startup()) {
        let mut bytes = BytesMut::new();
        packet.encode(&mut bytes).expect("encodable");
        let before = bytes.clone();
        let decoded = StartupDecoder::new(Limits::CLIENT).next(&mut bytes).expect("valid").expect("complete");
        prop_assert_eq!(&decoded, &packet);
        prop_assert!(bytes.is_empty());
        decoded.encode(&mut bytes).expect("encodable");
        prop_assert_eq!(bytes, before);
    }

    #[test]
    fn a_message_cut_short_or_lengthened_is_an_error_not_another_message(
        message in frontend(), cut in any::<prop::sample::Index>(),
    ) {
        let bytes = message.to_bytes().expect("encodable");
        let body_len = bytes.len() - 5;
        let shorter = cut.index(body_len + 1);
        let mut forged = BytesMut::from(&bytes[..5 + shorter]);
        let length = u32::try_from(shorter + 4).expect("small");
        forged[1..5].copy_from_slice(&length.to_be_bytes());
        if let Ok(decoded) = Frontend::decode(&frame(&forged.clone().freeze())) {
            prop_assert_eq!(decoded.to_bytes().expect("encodable"), forged.freeze());
        }
    }

    #[test]
    fn no_client_bytes_panic_and_what_decodes_encodes_to_itself(tag in any::<u8>(), body in vec(any::<u8>(), 0..200)) {
        let bytes = message(tag, &body);
        if let Ok(decoded) = Frontend::decode(&frame(&bytes)) {
            prop_assert_eq!(decoded.to_bytes().expect("encodable"), bytes);
        }
    }

    #[test]
    fn no_server_bytes_panic_and_what_decodes_encodes_to_itself(tag in any::<u8>(), body in vec(any::<u8>(), 0..200)) {
        let bytes = message(tag, &body);
        if let Ok(decoded) = Backend::decode(&frame(&bytes)) {
            prop_assert_eq!(decoded.to_bytes().expect("encodable"), bytes);
        }
    }

    #[test]
    fn no_opening_bytes_panic(bytes in vec(any::<u8>(), 0..100)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        if let Ok(Some(packet)) = StartupDecoder::new(Limits::CLIENT).next(&mut buffer) {
            let mut out = BytesMut::new();
            packet.encode(&mut out).expect("encodable");
            prop_assert_eq!(&out[..], &bytes[..bytes.len() - buffer.len()]);
        }
    }

    #[test]
    fn framing_does_not_depend_on_how_the_bytes_arrive(
        messages in vec(frontend(), 1..6), chunk in 1usize..30,
    ) {
        let mut stream = BytesMut::new();
        messages.iter().for_each(|m| m.encode(&mut stream).expect("encodable"));
        let decoder = FrameDecoder::new(Limits::CLIENT);
        let mut buffer = BytesMut::new();
        let mut got = Vec::new();
        for piece in stream.chunks(chunk) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut buffer).expect("valid") {
                got.push(Frontend::decode(&frame).expect("decodable"));
            }
        }
        prop_assert_eq!(got, messages);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn no_order_of_messages_panics_the_server_leg(steps in vec((any::<bool>(), any::<u8>(), backend()), 0..60)) {
        let mut leg = ServerLeg::new(TransactionStatus::Idle);
        let requests = [
            Request::Query, Request::Parse, Request::Bind, Request::DescribeStatement, Request::DescribePortal,
            Request::Execute, Request::Close, Request::Sync, Request::FunctionCall,
        ];
        for (ask, which, answer) in steps {
            if ask {
                let _ = leg.handle_request(requests[usize::from(which) % requests.len()]);
            } else {
                let kind = ReplyKind::of(&frame(&answer.to_bytes().expect("encodable"))).expect("known");
                let before = leg.outstanding();
                let reply = leg.handle_reply(kind);
                // An answer never adds requests, and a refused one never takes any.
                prop_assert!(leg.outstanding() <= before);
                prop_assert!(reply.is_ok() || leg.outstanding() == before);
            }
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len() + 4).expect("small");
    [&[tag], &length.to_be_bytes()[..], body].concat().into()
}
