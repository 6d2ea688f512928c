//! Decoding: messages of a captured extended-protocol conversation, and rows by header alone.

use bytes::{BufMut, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lockgate_wire::postgres::{
    backend::Backend,
    frame::{FrameDecoder, FrameHeader, Limits},
    frontend::Frontend,
};
use std::hint::black_box;

/// One parameterised statement as drivers send it: Parse, Bind, Describe, Execute, Sync.
fn extended_round() -> BytesMut {
    let mut out = BytesMut::new();
    let mut put = |tag: u8, body: &[u8]| {
        out.put_u8(tag);
        out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        out.put_slice(body);
    };
    put(b'P', b"\0SELECT abalance FROM pgbench_accounts WHERE aid = $1\0\0\x01\0\0\0\x17");
    put(b'B', b"\0\0\0\0\0\x01\0\0\0\x0512345\0\0");
    put(b'D', b"P\0");
    put(b'E', b"\0\0\0\0\0");
    put(b'S', b"");
    out
}

/// Rows of three columns.
fn rows(count: usize) -> BytesMut {
    let mut out = BytesMut::new();
    for number in 0..count {
        let mut body = BytesMut::new();
        body.put_u16(3);
        for field in [format!("{number}"), format!("name of {number}"), "constant text".to_owned()] {
            body.put_u32(u32::try_from(field.len()).unwrap_or(0));
            body.put_slice(field.as_bytes());
        }
        out.put_u8(b'D');
        out.put_u32(u32::try_from(body.len() + 4).unwrap_or(0));
        out.put_slice(&body);
    }
    out
}

fn decode(criterion: &mut Criterion) {
    let decoder = FrameDecoder::new(Limits::CLIENT);
    let mut group = criterion.benchmark_group("decode");
    let round = extended_round();
    group.throughput(Throughput::Elements(5));
    group.bench_function("frontend: parse, bind, describe, execute, sync", |bencher| {
        bencher.iter(|| {
            let mut buffer = round.clone();
            while let Ok(Some(frame)) = decoder.next(&mut buffer) {
                black_box(Frontend::decode(&frame).is_ok());
            }
        });
    });
    let rows = rows(1000);
    group.throughput(Throughput::Elements(1000));
    group.bench_function("backend: 1000 rows, decoded", |bencher| {
        bencher.iter(|| {
            let mut buffer = rows.clone();
            while let Ok(Some(frame)) = decoder.next(&mut buffer) {
                black_box(Backend::decode(&frame).is_ok());
            }
        });
    });
    group.bench_function("backend: 1000 rows, by header", |bencher| {
        bencher.iter(|| {
            let mut rest: &[u8] = &rows;
            while let Ok(Some(header)) = FrameHeader::decode(rest) {
                rest = rest.get(black_box(header).total_len()..).unwrap_or_default();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
