//! What one report costs: building and encoding it at three sizes, whole and cut to nucleus lite's limit.

#![allow(missing_docs, reason = "criterion_group! makes a function without documentation")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use edge_warden::model::{Connection, Counters, ListeningPort, ThingReading};
use edge_warden::report::{Format, Names, Report, encode};

/// The most nucleus lite takes.
const LITE: usize = 7_008;
/// More than any report here has.
const UNLIMITED: usize = 64 << 20;

fn reading(connections: u32) -> ThingReading {
    let connection = |number: u32| Connection {
        remote: SocketAddr::from((Ipv4Addr::from(0x0a00_0000 | number), 8883)),
        local_port: u16::try_from(number % 60_000).unwrap_or(0) + 1,
        local_interface: Some("eth0".to_owned()),
    };
    let port = |port| ListeningPort { port, interface: None };
    ThingReading {
        traffic: Ok(Counters::default()),
        established: Ok((0..connections).map(connection).collect()),
        established_unlisted: 0,
        listening_tcp: Ok((1..=50).map(port).collect()),
        listening_udp: Ok((1..=10).map(port).collect()),
        custom: BTreeMap::new(),
    }
}

fn report(criterion: &mut Criterion) {
    for (name, limit) in [("whole", UNLIMITED), ("cut", LITE)] {
        let mut group = criterion.benchmark_group(format!("encode/{name}"));
        for connections in [100, 10_000, 50_000] {
            let reading = reading(connections);
            for format in [Format::Json, Format::Cbor] {
                let id = BenchmarkId::new(format.as_str(), connections);
                group.bench_with_input(id, &reading, |bencher, reading| {
                    bencher.iter(|| {
                        let report = Report::between(Some(Counters::default()), black_box(reading), 1);
                        encode(&report, format, Names::Long, limit)
                    });
                });
            }
        }
    }
}

criterion_group!(benches, report);
criterion_main!(benches);
