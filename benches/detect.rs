//! What detection costs: one sample of a whole site against 20 behaviors, at three sizes; and how much memory it holds
//! after a day of samples.

#![allow(missing_docs, reason = "criterion_group! makes a function without documentation")]
#![allow(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use edge_warden::detect::{
    Assignment, CustomTypes, Datapoints, Engine, MetricType, Now, OnAlarm, Profile, Role, Subject, Target, Value,
};
use edge_warden::model::{Monotonic, ThingName, UnixTime};
use serde_json::{Value as Json, json};

const SAMPLE_SECONDS: u64 = 10;

/// 20 behaviors: each traffic metric over 5 minutes and over an hour, the counts, a percentile of each kind, ports,
/// 100 CIDR blocks, and the four types of custom metrics.
fn behaviors() -> Vec<Json> {
    let mut behaviors = Vec::new();
    let mut add = |metric: &str, operator: &str, key: &str, limit: Json, duration: Option<u32>| {
        let mut criteria = json!({ "comparisonOperator": operator, key: limit, "consecutiveDatapointsToAlarm": 2 });
        if let (Some(duration), Some(criteria)) = (duration, criteria.as_object_mut()) {
            criteria.insert("durationSeconds".to_owned(), json!(duration));
        }
        let name = format!("B{}", behaviors.len());
        behaviors.push(json!({ "name": name, "metric": metric, "criteria": criteria }));
    };
    for metric in [
        "aws:all-bytes-in",
        "aws:all-bytes-out",
        "aws:all-packets-in",
        "aws:all-packets-out",
    ] {
        for duration in [300, 3600] {
            add(
                metric,
                "less-than",
                "value",
                json!({ "count": 1_000_000_000 }),
                Some(duration),
            );
        }
    }
    for metric in ["tcp-connections", "tcp-ports", "udp-ports"] {
        let kind = if metric == "tcp-connections" {
            "established"
        } else {
            "listening"
        };
        add(
            &format!("aws:num-{kind}-{metric}"),
            "less-than-equals",
            "value",
            json!({ "count": 100 }),
            None,
        );
    }
    let percentile = json!({ "statistic": "p100" });
    add(
        "aws:all-bytes-out",
        "less-than-equals",
        "statisticalThreshold",
        percentile.clone(),
        Some(900),
    );
    add(
        "aws:num-established-tcp-connections",
        "less-than-equals",
        "statisticalThreshold",
        percentile,
        None,
    );
    let ports: Vec<u16> = (0..50).collect();
    add(
        "aws:listening-tcp-ports",
        "in-port-set",
        "value",
        json!({ "ports": ports }),
        None,
    );
    add(
        "aws:listening-udp-ports",
        "not-in-port-set",
        "value",
        json!({ "ports": [53, 67] }),
        None,
    );
    let blocks: Vec<String> = (0..100).map(|number| format!("10.{number}.0.0/16")).collect();
    add(
        "aws:destination-ip-addresses",
        "in-cidr-set",
        "value",
        json!({ "cidrs": blocks }),
        None,
    );
    add("number", "less-than", "value", json!({ "number": 5.5 }), None);
    add("numbers", "not-in-set", "value", json!({ "numbers": [1, 2, 3] }), None);
    add(
        "strings",
        "in-set",
        "value",
        json!({ "strings": ["sshd", "myapp"] }),
        None,
    );
    add(
        "addresses",
        "not-in-cidr-set",
        "value",
        json!({ "cidrs": ["192.0.2.0/24", "2001:db8::/32"] }),
        None,
    );
    behaviors
}

fn assignments() -> Vec<Assignment> {
    let custom = CustomTypes::from([
        ("number".to_owned(), MetricType::Number),
        ("numbers".to_owned(), MetricType::NumberList),
        ("strings".to_owned(), MetricType::StringList),
        ("addresses".to_owned(), MetricType::IpAddressList),
    ]);
    let behaviors = behaviors();
    assert_eq!(behaviors.len(), 20);
    let json = json!({ "securityProfileName": "Bench", "behaviors": behaviors });
    let profile = Profile::parse(&json, &custom).unwrap().profile;
    vec![Assignment::new(profile, vec![Target::All], OnAlarm::Report, false, false).unwrap()]
}

/// A device with 20 connections and five listening ports of each kind.
fn datapoints() -> Datapoints {
    let over = Duration::from_secs(SAMPLE_SECONDS);
    let delta = |amount| Value::Delta { amount, over };
    let address = |number: u8| IpAddr::V4(Ipv4Addr::new(10, number, 0, 1));
    let values = [
        ("aws:all-bytes-in", delta(1500.0)),
        ("aws:all-bytes-out", delta(900.0)),
        ("aws:all-packets-in", delta(12.0)),
        ("aws:all-packets-out", delta(9.0)),
        ("aws:num-established-tcp-connections", Value::Gauge(20.0)),
        ("aws:num-listening-tcp-ports", Value::Gauge(5.0)),
        ("aws:num-listening-udp-ports", Value::Gauge(5.0)),
        ("aws:listening-tcp-ports", Value::Ports(vec![1, 2, 3, 4, 5])),
        ("aws:listening-udp-ports", Value::Ports(vec![1, 2, 3, 4, 5])),
        (
            "aws:destination-ip-addresses",
            Value::Addresses((0..20).map(address).collect()),
        ),
        ("number", Value::Gauge(3.0)),
        ("numbers", Value::Numbers(vec![7.0, 8.0, 9.0])),
        ("strings", Value::Strings(vec!["sshd".to_owned(), "myapp".to_owned()])),
        ("addresses", Value::Addresses((0..5).map(address).collect())),
    ];
    values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A site that goes on sample by sample.
struct Site {
    engine: Engine,
    things: BTreeMap<ThingName, Datapoints>,
    samples: u64,
}

impl Site {
    fn new(things: usize) -> Self {
        let name = |number: usize| format!("device-{number:04}").parse().unwrap();
        let mut site = Self {
            engine: Engine::new(assignments(), None, 0, now(0)).0,
            things: (0..things).map(|number| (name(number), datapoints())).collect(),
            samples: 0,
        };
        // an hour and a quarter: every window is full
        for _ in 0..450 {
            site.sample();
        }
        assert!(site.engine.alarms().is_empty() && site.engine.unwatched() == 0);
        site
    }

    fn sample(&mut self) -> usize {
        self.samples += 1;
        let now = now(self.samples * SAMPLE_SECONDS);
        let mut events = 0;
        for (thing, datapoints) in &self.things {
            let subject = Subject {
                thing,
                role: Role::Local,
                cut_off: false,
            };
            events += self.engine.observe(subject, datapoints, now).len();
        }
        events + self.engine.tick(now).len()
    }
}

fn now(seconds: u64) -> Now {
    Now {
        monotonic: Monotonic(Duration::from_secs(seconds)),
        wall: UnixTime::from_seconds(1_795_000_000 + seconds),
    }
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn detect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("detect/sample");
    for things in [50, 250, 1000] {
        let empty = resident();
        let mut site = Site::new(things);
        let inputs = site.things.len();
        println!(
            "{things} things x 20 behaviors: state {} KiB, resident {} KiB more (with {inputs} inputs)",
            site.engine.state_bytes() / 1024,
            resident().saturating_sub(empty)
        );
        group.bench_function(BenchmarkId::new("things", things), |bencher| {
            bencher.iter(|| site.sample())
        });
    }
}

criterion_group!(benches, detect);
criterion_main!(benches);
