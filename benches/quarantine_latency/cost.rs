//! What isolated devices cost: those who are not isolated, per frame; the one who isolates, per transaction.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use edge_warden::firewall::{Firewall, Holding, Isolated, NftablesFirewall, Policy, Posture, TableOwnership};
use edge_warden::model::{MacAddress, UnixTime};
use rustix::time::{ClockId, clock_gettime};

use crate::support::site::{Host, Options, Site, Wire};
use crate::support::warden::now;

const NOW: UnixTime = UnixTime(1_800_000_000_000);
const PASSES: usize = 9;
const FRAMES: u32 = 20_000;
const SIZES: [u32; 3] = [0, 250, 10_000];

pub(crate) fn cost() {
    frames();
    transactions();
}

/// `number` devices with a hardware address, an IPv4 and an IPv6 address each.
fn policy(site: &Site, number: u32) -> Policy {
    let device = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        Isolated {
            label: format!("thing-{n}"),
            macs: [MacAddress([2, 0xbb, 0, a, b, c])].into(),
            v4: [Ipv4Addr::new(172, 20 + a, b, c)].into(),
            v6: [Ipv6Addr::new(
                0xfd99,
                0,
                0,
                0,
                0,
                0,
                u16::from(a),
                u16::from_be_bytes([b, c]),
            )]
            .into(),
            posture: Posture::Isolate,
            until: None,
        }
    };
    Policy {
        lan: site.lan(),
        // an address of only zeros behind the prefix is nobody's
        isolated: (1..=number).map(device).collect(),
        quiet_ports: None,
    }
}

/// Time of a sender's thread per frame: the sender's core does the receiving, too (net/core/dev.c, `netif_rx`).
pub(crate) fn frames() {
    let site = Site::build(Options::default());
    let mut firewall = site
        .gateway()
        .enter(|| NftablesFirewall::open(TableOwnership::Auto).unwrap());
    let (device, plain) = (site.device(1), site.device(3));
    let isolated = |number: u32| {
        let mut policy = policy(&site, number);
        let victim = site.device(0);
        policy.isolated.push(Isolated {
            label: "victim".to_owned(),
            macs: [victim.mac].into(),
            v4: [victim.v4].into(),
            v6: BTreeSet::new(),
            posture: Posture::Isolate,
            until: None,
        });
        policy
    };
    let ways: [(&str, &Host, &Host); 4] = [
        ("bridge, port to port", device, site.device(2)),
        ("plain interface, in", plain, site.routed_port()),
        ("plain interface, out", site.routed_port(), plain),
        ("bridge, isolated device, dropped", site.device(0), site.device(2)),
    ];
    let wires = ways.map(|(_, from, _)| from.wire_for(0x88b6));
    let mut times = vec![vec![Vec::new(); ways.len()]; SIZES.len() + 1];
    for _ in 0..PASSES {
        for (n, size) in [None].into_iter().chain(SIZES.map(Some)).enumerate() {
            match size {
                Some(size) => firewall.enforce(&isolated(size), NOW).unwrap(),
                None => firewall.purge().unwrap(),
            }
            for (way, (wire, (_, from, to))) in wires.iter().zip(&ways).enumerate() {
                times[n][way].push(per_frame(wire, from, to));
            }
        }
    }
    for (way, (what, ..)) in ways.iter().enumerate() {
        println!("{what}, {FRAMES} frames of 60 bytes, ns of processor time each:");
        let names = ["no tables".to_owned()]
            .into_iter()
            .chain(SIZES.map(|size| format!("{size} devices")));
        for (name, times) in names.zip(&mut times) {
            let times = &mut times[way];
            times.sort();
            println!("  {name}: median {} least {} (n={PASSES})", times[PASSES / 2], times[0]);
        }
    }
}

fn per_frame(wire: &Wire, from: &Host, to: &Host) -> u128 {
    let mut frame = [to.mac.0, from.mac.0].concat();
    // what is inside is an IPv4 header, so that every lookup there is has something to look up
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 1, 253, 0, 0]);
    frame.extend(from.v4.octets());
    frame.extend(to.v4.octets());
    frame.resize(60, 0);
    let spent = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    };
    let start = spent();
    for _ in 0..FRAMES {
        wire.try_send(&frame);
    }
    (spent() - start).as_nanos() / u128::from(FRAMES)
}

pub(crate) fn transactions() {
    let rounds = crate::runs(7);
    let site = Site::build(Options::default());
    for number in [1, 250, 10_000] {
        let all = policy(&site, number);
        let one_less = policy(&site, number - 1);
        let [mut whole, mut one, mut same, mut back, mut replaced] = [const { Vec::new() }; 5];
        let mut memory = Vec::new();
        for _ in 0..rounds {
            let open = || NftablesFirewall::open(TableOwnership::Auto).unwrap();
            let mut firewall = site.gateway().enter(open);
            firewall.enforce(&policy(&site, 0), NOW).unwrap();
            let before = kernel_memory();
            let timed = |times: &mut Vec<Duration>, work: &mut dyn FnMut()| {
                let start: Instant = now();
                work();
                times.push(start.elapsed());
            };
            timed(&mut whole, &mut || firewall.enforce(&all, NOW).unwrap());
            memory.push(kernel_memory().saturating_sub(before));
            timed(&mut same, &mut || firewall.enforce(&all, NOW).unwrap());
            firewall.enforce(&one_less, NOW).unwrap();
            timed(&mut one, &mut || firewall.enforce(&all, NOW).unwrap());
            let mut held = None;
            timed(&mut back, &mut || held = firewall.enforced().unwrap());
            let held = held.unwrap();
            assert!(
                all.isolated
                    .iter()
                    .all(|isolated| held.holds(isolated) == Holding::Whole)
            );
            firewall.distrust();
            timed(&mut replaced, &mut || firewall.enforce(&all, NOW).unwrap());
            firewall.purge().unwrap();
        }
        memory.sort();
        for (what, times) in [
            ("all at once", whole),
            ("one more", one),
            ("nothing new", same),
            ("reading all back and comparing", back),
            ("all tables written anew, counters kept", replaced),
        ] {
            crate::line(&format!("{number} devices, bridge and plain: {what}"), times);
        }
        println!(
            "{number} devices: {} KiB more of kernel memory (median)",
            memory[rounds / 2]
        );
    }
    println!("memory of this process, all of the above: {}", peak());
}

/// KiB the kernel has in slabs and per-core memory, of the whole machine.
fn kernel_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let lines = text.lines().filter(|line| {
        ["SUnreclaim:", "Percpu:", "VmallocUsed:"]
            .iter()
            .any(|key| line.starts_with(key))
    });
    lines
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum()
}

fn peak() -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    text.lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default()
        .to_owned()
}
