//! Measures one sample of a site: time, CPU and memory for 1,000 configured devices and 100,000 tracked flows, and for two
//! smaller sizes. Makes a network namespace of its own; needs root, iproute2 and conntrack-tools.
//!
//! ```text
//! cargo run --release --example site_sample
//! ```
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a measurement reads clocks, and may stop at the first surprise"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use edge_warden::agent::site::source::{KernelSite, SiteAsk, SiteSource};
use edge_warden::collect::{HostCollector, HostPaths};
use edge_warden::config::AutoOr;
use edge_warden::devices::{ConfiguredDevice, Observation, Registry};
use edge_warden::model::{MacAddress, Monotonic, Now, UnixTime};
use nix::sched::{CloneFlags, unshare};

const ROUNDS: u32 = 5;

fn main() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
    run("ip", &["link", "add", "br0", "type", "bridge"]);
    run("ip", &["link", "set", "br0", "up"]);
    run("ip", &["addr", "add", "10.20.0.1/16", "dev", "br0"]);
    println!("devices    flows  site sample: wall ms  CPU ms  table of flows alone: ms  peak resident KiB");
    for (devices, flows) in [(100_u32, 10_000_u32), (300, 30_000), (1_000, 100_000)] {
        measure(devices, flows);
    }
}

fn address(device: u32) -> Ipv4Addr {
    let [_, _, high, low] = (device + 256).to_be_bytes();
    Ipv4Addr::new(10, 20, high, low)
}

fn measure(devices: u32, flows: u32) {
    let now = Now {
        wall: UnixTime(1_800_000_000_000),
        monotonic: Monotonic(Duration::from_secs(1)),
    };
    let configured: Vec<ConfiguredDevice> = (0..devices)
        .map(|n| {
            let [a, b, c, d] = n.to_be_bytes();
            ConfiguredDevice {
                thing: format!("thing-{n}").parse().unwrap(),
                macs: vec![MacAddress([2, 0, a, b, c, d])],
                addresses: vec![address(n).into()],
                report: true,
            }
        })
        .collect();
    let macs: BTreeSet<MacAddress> = configured.iter().flat_map(|device| device.macs.clone()).collect();
    let mut registry = Registry::new();
    registry.observe(Observation::LanInterfaces(["br0".to_owned()].into()), now);
    registry.observe(Observation::Configured(configured), now);
    let began = Instant::now();
    registry.resolve(now);
    let resolved = began.elapsed();

    let mut site = KernelSite::new("/proc");
    let mut host = HostCollector::new(HostPaths::default());
    let ask = |flows| SiteAsk {
        ownership: edge_warden::firewall::TableOwnership::Auto,
        lan: AutoOr::Auto,
        macs: macs.clone(),
        distrust: false,
        neighbours: true,
        flows,
        leases: Vec::new(),
    };
    // The first sample makes the accounting table, which also switches tracking on.
    let first = site.collect(&host.collect(), &ask(None));
    assert_eq!(first.traffic.expect("accounting").devices.len(), macs.len());
    first.tracking.expect("tracking");
    fill(devices, flows);

    let mut timed = |with_flows: bool| {
        let ask = ask(with_flows.then(|| registry.shared_table()));
        let (wall, cpu) = (Instant::now(), cpu_time());
        for _ in 0..ROUNDS {
            let sample = site.collect(&host.collect(), &ask);
            if with_flows {
                let table = sample.flows.expect("asked for").expect("readable");
                assert!(table.fallback.is_none());
                assert_eq!(table.connections.iter().count(), macs.len());
                assert!(table.connections.rows().v4 >= u64::from(flows));
            }
        }
        (wall.elapsed() / ROUNDS, (cpu_time() - cpu) / ROUNDS)
    };
    let (with, without) = (timed(true), timed(false));
    println!(
        "{devices:7} {flows:8}  {:20.1} {:7.1} {:25.1} {:18}   (who is who: {:.1} ms)",
        millis(with.0),
        millis(with.1),
        millis(with.0.saturating_sub(without.0)),
        peak_resident(),
        millis(resolved),
    );
}

/// Established TCP flows from the devices to the Internet.
fn fill(devices: u32, flows: u32) {
    let mut text = String::new();
    for n in 0..flows {
        let (device, nth) = (n % devices, n / devices);
        writeln!(
            text,
            "-I -s {} -d 198.51.{}.{} -p tcp --sport {} --dport 443 --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 3600",
            address(device),
            nth / 250,
            nth % 250 + 1,
            32_768 + nth,
        )
        .unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    run("conntrack", &["-F"]);
    run("conntrack", &["--load-file", file.path().to_str().unwrap()]);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// CPU time of the process, user and system.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// The most memory the process ever had resident.
fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
