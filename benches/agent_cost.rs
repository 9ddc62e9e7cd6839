//! What the running agent costs at the size the specification names: 250 things and 1,000 TCP sockets at defaults; then
//! with a full connection table and a flood of random MAC addresses. Needs root and conntrack-tools.
//!
//! ```text
//! EDGE_WARDEN_BINARY=target/x86_64-unknown-linux-gnu/release/edge-warden cargo test --bench agent_cost
//! ```
//! measures that binary; without the variable, the one cargo builds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement may stop at the first surprise"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use edge_warden::control::Request;
use serde_json::json;

use support::site::until;
use support::warden::Guarded;

/// The agent's clocks: 10 s in a third of a second, a report in 10 s.
const FACTOR: u32 = 30;
const THINGS: usize = 250;
const SOCKETS: usize = 1_000;
/// Samples measured: three intervals of reports.
const MEASURED: u64 = 90;
/// Frames with a MAC and an IP address of their own each.
const STRANGERS: u32 = 200_000;

fn main() {
    let mut guarded = Guarded::prepare();
    guarded.factor = FACTOR;
    let device = |n: usize| {
        json!({"thingName": format!("thing-{n}"), "macs": [format!("02:00:00:01:{:02x}:{:02x}", n / 256, n % 256)],
            "addresses": [format!("10.20.1.{n}")]})
    };
    guarded.configure(&json!({
        "devices": (0..THINGS).map(device).collect::<Vec<_>>(),
        "quarantine": {"shadow": {"classic": false, "named": ""}},
        "log": {"level": "error"},
    }));
    let held = guarded.site.gateway().enter(sockets);
    guarded.run();
    println!("                                            CPU ms per sample  of one core at 10 s  resident");
    measure(&guarded, &format!("{THINGS} things, {SOCKETS} sockets"));

    let full = fill(&guarded);
    measure(&guarded, &format!("and {full} tracked connections"));

    let sender = guarded.site.device(0).clone();
    let flood = guarded.site.device(0).spawn(move || {
        let wire = sender.wire();
        for n in 0..STRANGERS {
            wire.try_send(&question(n));
            if n % 200 == 0 {
                // paces the load, nothing waits for it
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    measure(&guarded, &format!("and {STRANGERS} random MAC addresses"));
    flood.join().unwrap();
    drop(held);
    guarded.stop();
}

/// TCP connections of the gateway with itself, both ends of each.
fn sockets() -> Vec<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pairs = (0..SOCKETS / 2).flat_map(|_| [TcpStream::connect(address).unwrap(), listener.accept().unwrap().0]);
    pairs.collect()
}

/// As many connections of the things as the kernel takes.
fn fill(guarded: &Guarded) -> usize {
    let most = guarded
        .site
        .gateway()
        .shell("cat /proc/sys/net/netfilter/nf_conntrack_max");
    let most: usize = most.trim().parse().unwrap();
    let mut text = String::new();
    for n in 0..most - 1_000 {
        let (thing, nth) = (n % THINGS, n / THINGS);
        writeln!(
            text,
            "-I -s 10.20.1.{thing} -d 198.51.{}.{} -p tcp --sport {} --dport 443 --state ESTABLISHED \
             -u SEEN_REPLY,ASSURED -t 3600",
            nth / 250,
            nth % 250 + 1,
            32_768 + nth,
        )
        .unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    guarded
        .site
        .gateway()
        .shell(&format!("conntrack --load-file {}", file.path().display()));
    let count = guarded.site.gateway().shell("conntrack -C");
    count.trim().parse().unwrap()
}

/// Who has the gateway's address? asks a MAC address that nobody has seen, for an address of the LAN.
fn question(n: u32) -> Vec<u8> {
    let [a, b, c, d] = n.wrapping_mul(2_654_435_761).to_be_bytes();
    let mac = [2, 0x66, a, b, c, d];
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([10, 20, 0, 2 + d % 250]);
    frame.extend([0, 0, 0, 0, 0, 0, 10, 20, 0, 1]);
    frame.resize(60, 0);
    frame
}

fn measure(guarded: &Guarded, what: &str) {
    let samples = || guarded.answer(&Request::Status)["samples"].as_u64().unwrap();
    let (from, before) = (samples(), guarded.cpu_millis());
    let counted = until(Duration::from_secs(600), || {
        std::thread::sleep(Duration::from_millis(500)); // asking costs the agent CPU
        samples() >= from + MEASURED
    });
    assert!(counted, "{}", guarded.log());
    let (until, after) = (samples(), guarded.cpu_millis());
    let millis = (after - before) as f64 / (until - from) as f64;
    println!(
        "{what:43} {millis:18.2} {:19.3} %  {}",
        millis / 100.0,
        guarded.memory()
    );
}
