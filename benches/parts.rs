//! What the pure parts cost that no other benchmark measures: parsing what comes from outside, deciding who is cut off,
//! writing the rules.

#![allow(missing_docs, reason = "criterion_group! makes a function without documentation")]
#![allow(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use edge_warden::collect::{HostCollector, HostPaths, conntrack};
use edge_warden::detect::{CustomTypes, Profile};
use edge_warden::devices::leases::{self, LeaseFormat, LeaseRule};
use edge_warden::firewall::{self, Isolated, Lan, Policy};
use edge_warden::model::{MacAddress, Monotonic, Now, ThingName, UnixTime};
use edge_warden::quarantine::{EdgeCap, Event, Identity, Posture, Quarantine, Rails, ShadowReading, decide};

const NOW: Now = Now {
    wall: UnixTime(1_800_000_000_000),
    monotonic: Monotonic(Duration::from_secs(1)),
};

fn thing(number: u32) -> ThingName {
    format!("thing-{number}").parse().unwrap()
}

fn mac(number: u32) -> MacAddress {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddress([2, 0, a, b, c, d])
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a14_0000 | number)
}

/// Tables of `/proc/net` with 10,000 TCP sockets, a lease file of 1,000 lines, 10,000 tracked flows, a profile, a shadow.
fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");

    let root = tempfile::tempdir().unwrap();
    let net = root.path().join("net");
    std::fs::create_dir(&net).unwrap();
    let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    let mut tcp = header.to_owned();
    for n in 0..10_000 {
        let (local, remote) = (u32::from_be(u32::from(address(1))), u32::from_be(u32::from(address(n))));
        writeln!(
            tcp,
            "{n:4}: {local:08X}:22B3 {remote:08X}:{:04X} 01 00000000:00000000 00:00000000 00000000  1000        0 {n} 1 \
             0000000000000000 20 4 30 10 -1",
            32_768 + n % 20_000,
        )
        .unwrap();
    }
    std::fs::write(net.join("tcp"), tcp).unwrap();
    for other in ["tcp6", "udp", "udp6"] {
        std::fs::write(net.join(other), header).unwrap();
    }
    let mut collector = HostCollector::new(HostPaths::proc_only(root.path()));
    assert_eq!(collector.collect().sockets.tcp.unwrap().len(), 10_000);
    group.bench_function(BenchmarkId::new("proc-net-tcp", 10_000), |bencher| {
        bencher.iter(|| collector.collect());
    });

    let mut flows = String::new();
    for n in 0..10_000 {
        let (from, port) = (address(n % 250), 32_768 + n % 20_000);
        writeln!(
            flows,
            "ipv4     2 tcp      6 3599 ESTABLISHED src={from} dst=198.51.100.9 sport={port} dport=443 \
             src=198.51.100.9 dst=192.0.2.1 sport=443 dport={port} [ASSURED] mark=0 zone=0 use=2",
        )
        .unwrap();
    }
    let read = |each: &mut dyn FnMut()| conntrack::parse_table(flows.as_bytes(), |_| each()).unwrap();
    assert_eq!(read(&mut || {}).flows, 10_000);
    group.bench_function(BenchmarkId::new("proc-nf_conntrack", 10_000), |bencher| {
        bencher.iter(|| read(&mut || ()));
    });

    let mut file = String::new();
    for n in 0..1_000 {
        writeln!(file, "1800000000 {} {} cam-{n} *", mac(n), address(n)).unwrap();
    }
    let rule = LeaseRule::default();
    let leases = || leases::parse(LeaseFormat::Dnsmasq, file.as_bytes(), &rule);
    assert_eq!(leases().leases.len(), 1_000);
    group.bench_function(BenchmarkId::new("leases", 1_000), |bencher| bencher.iter(leases));

    let profile = include_str!("../tests/golden/detect/blog-child-processes/profile.json");
    let custom = CustomTypes::new();
    group.bench_function("profile", |bencher| {
        bencher.iter(|| Profile::parse(&serde_json::from_str(profile).unwrap(), &custom).is_ok());
    });

    let shadow = br#"{"state":{"desired":{"quarantine":{"mode":"remediate","until":1800000000,"reason":"x"}},
        "reported":{"quarantine":false}},"metadata":{"desired":{"quarantine":{"mode":{"timestamp":1799999999},
        "until":{"timestamp":1799999999},"reason":{"timestamp":1799999999}}}},"version":12,"timestamp":1799999999}"#;
    assert!(ShadowReading::parse(shadow).is_ok());
    group.bench_function("shadow", |bencher| {
        bencher.iter(|| ShadowReading::parse(black_box(shadow)))
    });
}

/// One more thing cut off and released beside so many others; and the decision about all of them.
fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for number in [250, 10_000] {
        let mut quarantine = Quarantine::new(None, Posture::Isolate, EdgeCap::Exactly(5), "boot", NOW);
        let add = |number| Event::OperatorAdd {
            thing: thing(number),
            posture: None,
            until: None,
            reason: None,
            who: "root".to_owned(),
        };
        let release = |number| Event::OperatorRelease {
            thing: thing(number),
            who: "root".to_owned(),
        };
        let identities: BTreeMap<ThingName, Identity> = (0..number)
            .map(|n| {
                let identity = Identity {
                    macs: [mac(n)].into(),
                    addresses: [IpAddr::from(address(n))].into(),
                    configured: true,
                    ..Identity::default()
                };
                (thing(n), identity)
            })
            .collect();
        for n in 1..number {
            quarantine.step(add(n), NOW);
        }
        group.bench_function(BenchmarkId::new("add-and-release", number), |bencher| {
            bencher.iter(|| {
                let added = quarantine.step(add(0), NOW).len();
                added + quarantine.step(release(0), NOW).len()
            });
        });
        let (rails, bound) = (Rails::default(), quarantine.bound());
        let all = || decide(&quarantine.causes(), &identities, &rails, &bound);
        assert_eq!(all().len(), usize::try_from(number).unwrap() - 1);
        group.bench_function(BenchmarkId::new("everybody", number), |bencher| bencher.iter(all));
    }
}

/// The tables with so many isolated devices as text: building them costs the same, the text comes on top.
fn rules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("render");
    for number in [250, 10_000] {
        let isolated = (0..number).map(|n| Isolated {
            label: format!("thing-{n}"),
            macs: [mac(n)].into(),
            v4: [address(n)].into(),
            v6: BTreeSet::new(),
            posture: firewall::Posture::Isolate,
            until: None,
        });
        let policy = Policy {
            lan: Lan {
                bridges: ["br0".to_owned()].into(),
                interfaces: ["eth1".to_owned()].into(),
                gateway_macs: [MacAddress([2, 1, 0, 0, 0, 1])].into(),
                gateway_addresses: [IpAddr::from(Ipv4Addr::new(10, 19, 0, 1))].into(),
                broker_ports: [8883].into(),
            },
            isolated: isolated.collect(),
            quiet_ports: None,
        };
        group.bench_function(BenchmarkId::new("nftables", number), |bencher| {
            bencher.iter(|| firewall::render(&policy, NOW.wall));
        });
    }
}

criterion_group!(benches, parse, decisions, rules);
criterion_main!(benches);
