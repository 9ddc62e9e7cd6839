//! What detection costs the running agent: CPU per sample and resident memory at three sizes, 20 behaviors each, with and
//! without profiles. Needs root.
//!
//! ```text
//! EDGE_WARDEN_BINARY=target/x86_64-unknown-linux-gnu/release/edge-warden cargo bench --bench detect_cost
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

use edge_warden::control::Request;
use serde_json::{Value, json};

use support::site::until;
use support::warden::Guarded;

/// The agent's clocks: 10 s in 20 ms, so that an hour of samples passes while one waits.
const FACTOR: u32 = 500;
/// Samples of an hour: the longest window is full then.
const FILLED: u64 = 370;
/// Samples measured.
const MEASURED: u64 = 500;

fn main() {
    println!("things  profiles  CPU ms per sample  of one core at 10 s  resident KiB");
    for things in [25, 100, 250] {
        for profiles in [false, true] {
            measure(things, profiles);
        }
    }
}

/// Twenty behaviors of every kind, which idle things meet.
fn profile() -> Value {
    let mut behaviors = Vec::new();
    let mut add = |metric: &str, criteria: Value| {
        let name = format!("b{}", behaviors.len());
        behaviors.push(json!({"name": name, "metric": metric, "criteria": criteria}));
    };
    for metric in ["bytes-in", "bytes-out", "packets-in", "packets-out"] {
        for seconds in [300, 900, 3600] {
            let criteria = json!({"comparisonOperator": "less-than", "value": {"count": 1_000_000_000}, "durationSeconds": seconds});
            add(&format!("aws:all-{metric}"), criteria);
        }
    }
    for metric in [
        "listening-tcp-ports",
        "listening-udp-ports",
        "established-tcp-connections",
    ] {
        add(
            &format!("aws:num-{metric}"),
            json!({"comparisonOperator": "less-than", "value": {"count": 1000}}),
        );
    }
    for metric in ["tcp", "udp"] {
        let criteria = json!({"comparisonOperator": "not-in-port-set", "value": {"ports": [23, 2323]}});
        add(&format!("aws:listening-{metric}-ports"), criteria);
    }
    let cidrs =
        json!({"comparisonOperator": "not-in-cidr-set", "value": {"cidrs": ["192.0.2.0/24", "2001:db8:f::/48"]}});
    add("aws:destination-ip-addresses", cidrs);
    for statistic in ["p90", "p99.9"] {
        let criteria = json!({"comparisonOperator": "less-than-equals", "durationSeconds": 300,
            "statisticalThreshold": {"statistic": statistic}});
        add("aws:all-bytes-out", criteria);
    }
    assert_eq!(behaviors.len(), 20);
    json!({"securityProfileName": "Twenty", "behaviors": behaviors})
}

fn measure(things: usize, with_profile: bool) {
    let mut guarded = Guarded::prepare();
    guarded.factor = FACTOR;
    let device = |n: usize| {
        let mac = format!("02:00:00:01:{:02x}:{:02x}", n / 256, n % 256);
        json!({"thingName": format!("thing-{n}"), "macs": [mac], "report": false})
    };
    let profiles = if with_profile { json!([profile()]) } else { json!([]) };
    guarded.configure(&json!({
        "devices": (0..things).map(device).collect::<Vec<_>>(),
        "report": {"core": false},
        "quarantine": {"shadow": {"classic": false, "named": ""}},
        "detect": {"profiles": profiles},
        "log": {"level": "error"},
    }));
    guarded.run();
    let samples = || guarded.answer(&Request::Status)["samples"].as_u64().unwrap();
    let await_samples = |wanted: u64| {
        let within = std::time::Duration::from_secs(300);
        let counted = until(within, || {
            std::thread::sleep(std::time::Duration::from_millis(200)); // asking costs the agent CPU
            samples() >= wanted
        });
        assert!(counted, "{wanted} samples: {}", guarded.log());
    };
    await_samples(FILLED);
    let (from, before) = (samples(), guarded.cpu_millis());
    await_samples(from + MEASURED);
    let (until, after) = (samples(), guarded.cpu_millis());
    let millis = (after - before) as f64 / (until - from) as f64;
    println!(
        "{things:6}  {:8}  {millis:17.2}  {:18.3}%  {:12}",
        if with_profile { 1 } else { 0 },
        millis / 100.0,
        guarded.resident_kib()
    );
}
