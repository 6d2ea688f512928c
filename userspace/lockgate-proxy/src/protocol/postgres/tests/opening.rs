//! The first bytes of a connection: garbage, halves, nothing, and a target that is away. Each ends in one closing record.

use super::super::{super::Arrival, serve};
use crate::{
    Proxy, Shared,
    limits::Limits,
    report::FlowReport,
    settings::ProxySettings,
    testing::{self, Outside},
};
use bytes::BytesMut;
use lockgate_model::{
    event::EventKind,
    outcome::{CloseReason, Closing},
};
use lockgate_wire::postgres::{
    PgString,
    startup::{CancelRequest, ProtocolVersion, StartupMessage, StartupPacket},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn shared(outside: &Outside) -> Arc<Shared> {
    let target = testing::target("orders-db", Vec::new());
    let limits = Limits::default();
    Proxy::new(ProxySettings { node: "test".into(), targets: vec![target], limits }, outside.ports.clone()).0
}

/// Sends `bytes`, optionally closes, and gives what came back and the closing record.
async fn talk(outside: &Outside, bytes: &[u8], close: bool) -> (Vec<u8>, Closing) {
    let shared = shared(outside);
    let (near, mut client) = tokio::io::duplex(64 * 1024);
    let arrival = Arrival {
        flow: testing::flow(),
        target: Arc::new(testing::target("orders-db", Vec::new())),
        stranger: None,
    };
    let mut report = FlowReport::new(outside.recorder.clone(), outside.ports.ambient.clone());
    report.flow_known(&arrival.flow);
    let task = tokio::spawn(serve(shared, near, arrival, report));
    client.write_all(bytes).await.unwrap();
    if close {
        client.shutdown().await.unwrap();
    }
    let mut back = Vec::new();
    client.read_to_end(&mut back).await.unwrap();
    task.await.unwrap();
    let closings = outside.recorder.closings();
    assert_eq!(closings.len(), 1, "{closings:?}");
    (back, closings.into_iter().next().unwrap())
}

fn packet(packet: &StartupPacket) -> Vec<u8> {
    let mut out = BytesMut::new();
    packet.encode(&mut out).unwrap();
    out.to_vec()
}

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let pair = |(name, value): &(&str, &str)| (PgString::lossy(name), PgString::lossy(value));
    packet(&StartupPacket::Startup(StartupMessage {
        version: ProtocolVersion::V3_0,
        parameters: parameters.iter().map(pair).collect(),
    }))
}

#[tokio::test(start_paused = true)]
async fn every_opening_ends_in_one_closing_record() {
    let whole = startup(&[("user", "job"), ("database", "orders")]);
    let cancel =
        packet(&StartupPacket::Cancel(CancelRequest { process_id: 1, key: vec![1, 2, 3, 4].into() }));
    let mut refused_then_half = packet(&StartupPacket::SslRequest);
    refused_then_half.extend_from_slice(&whole[..9]);
    for (name, bytes, close, begins, reason) in [
        ("nothing, then closed", &b""[..], true, &b""[..], CloseReason::ClientClosed),
        ("nothing at all", b"", false, b"", CloseReason::LimitReached),
        ("half a startup message", &whole[..9], true, b"", CloseReason::ClientProtocolError),
        ("half a startup message and silence", &whole[..9], false, b"", CloseReason::LimitReached),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n", false, b"", CloseReason::ClientProtocolError),
        // Answered by an alert that every TLS library has words for.
        ("direct TLS", b"\x16\x03\x01\x02\0", false, b"\x15\x03\x03", CloseReason::ClientProtocolError),
        (
            "TLS behind its refusal",
            &[packet(&StartupPacket::SslRequest), b"\x16\x03\x01\x02\0".to_vec()].concat(),
            false,
            b"N",
            CloseReason::ClientProtocolError,
        ),
        (
            "GSSAPI and then another protocol",
            &[packet(&StartupPacket::GssEncRequest), b"GET /".to_vec()].concat(),
            false,
            b"N",
            CloseReason::ClientProtocolError,
        ),
        ("a length of 1 GB", b"\0\x40\0\0\0\x03\0\0", false, b"E", CloseReason::LimitReached),
        ("a length of 3", b"\0\0\0\x03", false, b"E", CloseReason::ClientProtocolError),
        ("protocol 2", b"\0\0\0\x08\0\x02\0\0", false, b"E", CloseReason::ClientProtocolError),
        (
            "TLS refused, then half a message",
            &refused_then_half,
            true,
            b"N",
            CloseReason::ClientProtocolError,
        ),
        ("a cancellation with no such key", &cancel, false, b"", CloseReason::CancelRequest),
        ("no user", &startup(&[("database", "x")]), false, b"E", CloseReason::Refused),
        // One that is meant is decided by policy, in a session of its own.
        (
            "replication that is none",
            &startup(&[("user", "x"), ("replication", "maybe")]),
            false,
            b"E",
            CloseReason::Refused,
        ),
    ] {
        let outside = testing::outside(super::POLICY);
        let (back, closing) = talk(&outside, bytes, close).await;
        assert_eq!(closing.reason, reason, "{name}: {closing:?}");
        assert!(back.starts_with(begins) && (begins.is_empty() == back.is_empty()), "{name}: {back:?}");
        let sessions = outside.recorder.events();
        assert!(!sessions.iter().any(|event| matches!(event, EventKind::SessionStarted(_))), "{name}");
    }
}

#[tokio::test]
async fn a_target_that_is_away_ends_a_recorded_session() {
    let outside = testing::outside(super::POLICY);
    let (back, closing) = talk(&outside, &startup(&[("user", "job")]), false).await;
    assert_eq!(closing.reason, CloseReason::UpstreamUnavailable);
    assert!(String::from_utf8_lossy(&back).contains("cannot be reached"), "{back:?}");
    assert!(matches!(outside.recorder.events().first(), Some(EventKind::SessionStarted(_))));
}

#[tokio::test]
async fn a_session_that_cannot_be_recorded_is_refused() {
    let outside = testing::outside(super::POLICY);
    outside.recorder.broken.store(true, Ordering::SeqCst);
    let (back, closing) = talk(&outside, &startup(&[("user", "job")]), false).await;
    assert_eq!(closing.reason, CloseReason::Refused);
    assert!(String::from_utf8_lossy(&back).contains("cannot be recorded"), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_connection_task_still_leaves_its_record() {
    let outside = testing::outside(super::POLICY);
    let arrival = Arrival {
        flow: testing::flow(),
        target: Arc::new(testing::target("orders-db", Vec::new())),
        stranger: None,
    };
    let (near, client) = tokio::io::duplex(64);
    let report = FlowReport::new(outside.recorder.clone(), outside.ports.ambient.clone());
    let task = tokio::spawn(serve(shared(&outside), near, arrival, report));
    tokio::time::sleep(Duration::from_millis(1)).await;
    task.abort();
    let _ = task.await;
    drop(client);
    let closings = outside.recorder.closings();
    assert_eq!(closings.iter().map(|c| c.reason).collect::<Vec<_>>(), [CloseReason::Internal]);
}
