//! Reads one table of this machine, once or several times, and says what it took: the whole-process measurements of
//! `scripts/compare.py` use it where the shipped program has no verb of its own.
//!
//! ```text
//! cargo run --release --example collect -- sockets 20
//! ```
//! The tables: `sockets` (everything a report of the host needs, as the agent reads it), `sockets-proc` (the same from
//! `/proc` alone), `sockets-kernel` (the TCP sockets as sock_diag sends them, thrown away unread: what reading the kernel's
//! table takes), `flows` (the connection table summed up for 250 things, as a sample of the agent does it) and
//! `flows-kernel` (the table as ctnetlink sends it, thrown away unread).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement may stop at the first surprise"
)]

mod kernel;

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use edge_warden::agent::host::HostMeter;
use edge_warden::collect::conntrack::{Connections, table};
use edge_warden::collect::{HostCollector, HostPaths, InterfaceSelection};
use edge_warden::model::ThingName;
use edge_warden::report::{Format, Names, Report, encode};
use rustix::time::{ClockId, clock_gettime};

/// As many as AWS's classic nucleus takes.
const MAX_BYTES: usize = 128 * 1024;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let times: u32 = arguments
        .next()
        .map_or(1, |times| times.parse().expect("a number of times"));
    let mut read: Box<dyn FnMut() -> usize> = match what.as_str() {
        "sockets" => sockets(HostPaths::default()),
        "sockets-proc" => sockets(HostPaths::proc_only("/proc")),
        "sockets-kernel" => Box::new(kernel::sockets),
        "flows" => flows(),
        "flows-kernel" => Box::new(kernel::flows),
        other => panic!("{other:?} is none of sockets, sockets-proc, sockets-kernel, flows, flows-kernel"),
    };
    let (mut wall, mut cpu, mut rows) = (Vec::new(), Vec::new(), 0);
    for _ in 0..times {
        let (began, spent) = (clock(ClockId::Monotonic), clock(ClockId::ProcessCPUTime));
        rows = read();
        cpu.push(clock(ClockId::ProcessCPUTime).saturating_sub(spent));
        wall.push(clock(ClockId::Monotonic).saturating_sub(began));
    }
    println!(
        "{{\"rows\": {rows}, \"times\": {times}, \"wall_ms\": {:.3}, \"cpu_ms\": {:.3}}}",
        median(&mut wall),
        median(&mut cpu),
    );
}

/// A sample of the host and the report of it.
fn sockets(paths: HostPaths) -> Box<dyn FnMut() -> usize> {
    let mut collector = HostCollector::new(paths);
    let mut meter = HostMeter::new(InterfaceSelection::Auto);
    Box::new(move || {
        let reading = meter.read(&collector.collect());
        let report = Report::between(None, &reading, 1);
        black_box(encode(&report, Format::Json, Names::Long, MAX_BYTES).expect("a report"));
        reading.established.expect("TCP sockets").len()
    })
}

/// The table, summed up for the first 250 addresses of 10.20.1.0.
fn flows() -> Box<dyn FnMut() -> usize> {
    let things: HashMap<IpAddr, ThingName> = (0..250_u32)
        .map(|number| {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 20, 1, 0)) + number);
            (address.into(), format!("thing-{number}").parse().unwrap())
        })
        .collect();
    Box::new(move || {
        let mut connections = Connections::default();
        let rows = table(|flow| connections.add(flow, |address| things.get(&address))).expect("connection tracking");
        black_box(&connections);
        usize::try_from(rows.flows).unwrap()
    })
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// In milliseconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times
        .get(times.len() / 2)
        .map_or(0.0, |middle| middle.as_secs_f64() * 1000.0)
}
