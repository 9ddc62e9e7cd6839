//! Counting traffic per device.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::IpAddr;

use edge_warden::firewall::{Accounting, AccountingLan, NftablesAccounting, Traffic};

use crate::support::site::{LinkCounters, Options, Site, until};
use crate::{SOON, reaches};

#[test]
fn traffic_is_counted_exactly_as_the_links_saw_it() {
    let site = Site::build(Options::default());
    // Otherwise conntrack puts bridged fragments together before the place where we count.
    site.gateway()
        .shell("for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do echo 0 > $f; done");
    let _echoes = [
        site.gateway().echo(7000),
        site.internet().echo(7000),
        site.device(1).echo(7000),
    ];
    let tracked: BTreeSet<_> = (0..4).filter(|n| *n != 2).map(|n| site.device(n).mac).collect();
    let lan = AccountingLan {
        bridges: ["br0".to_owned()].into(),
        interfaces: ["lan3".to_owned()].into(),
    };
    let mut accounting = site.gateway().enter(|| NftablesAccounting::open(lan).unwrap());
    accounting.track(&tracked).unwrap();
    // Both baselines of the same instant: no frame (MLD, router solicitation) on its way between the one counter and the
    // other. Taking an interface away waits until every core has left its receive path, so what was under way is over.
    let mut settle = || {
        site.gateway()
            .shell("ip link add settle type veth peer name settled && ip link del settle");
        let counted = accounting.read().unwrap();
        (
            (0..4).map(|n| site.device(n).link_counters("eth0")).collect::<Vec<_>>(),
            counted,
        )
    };
    let (mut link, mut first) = settle();
    let quiet = until(SOON, || {
        let (links, counted) = settle();
        let same = links == link && counted == first;
        (link, first) = (links, counted);
        same
    });
    assert!(quiet, "the site never stops talking");
    for n in [0, 3] {
        let device = site.device(n);
        let gateway = if n == 3 { site.routed_port() } else { site.gateway() };
        let targets = [
            IpAddr::from(site.internet().v4),
            site.internet().v6.into(),
            gateway.v4.into(),
            site.device(1).v4.into(),
        ];
        for to in targets {
            // The gateway's own TCP is cut into frames behind netdev egress, so there the count is lower: see the docs.
            if to != IpAddr::from(site.routed_port().v4) {
                let mut stream = device.connect(to, 7000, SOON).unwrap();
                let mut received = vec![0; 40_000];
                stream.write_all(&received).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                stream.read_exact(&mut received).unwrap();
            }
            assert!(device.udp(to, 7000, 900, SOON) && device.udp(to, 7000, 4000, SOON) && device.ping(to));
        }
    }
    assert!(site.device(2).ping(site.gateway().v4.into()));
    // Frames may still be under way (closing connections): both sides must come to agree, in all four numbers.
    for n in [0, 1, 3] {
        let (mac, port) = (site.device(n).mac, format!("lan{n}"));
        let mut seen = String::new();
        let exact = until(SOON, || {
            let traffic = accounting.read().unwrap();
            let now = site.device(n).link_counters("eth0");
            let counted = traffic.devices[&mac].since(first.devices[&mac]).unwrap();
            let group = |t: &Traffic| {
                t.group
                    .get(&port)
                    .map_or((0, 0), |volume| (volume.packets, volume.bytes))
            };
            let (before, after) = (group(&first), group(&traffic));
            let counted = LinkCounters {
                packets_in: counted.packets_in + after.0 - before.0,
                bytes_in: counted.bytes_in + after.1 - before.1,
                packets_out: counted.packets_out,
                bytes_out: counted.bytes_out,
            };
            let truth = LinkCounters {
                packets_in: now.packets_in - link[n].packets_in,
                bytes_in: now.bytes_in - link[n].bytes_in,
                packets_out: now.packets_out - link[n].packets_out,
                bytes_out: now.bytes_out - link[n].bytes_out,
            };
            seen = format!("device {n}: counted {counted:?}, on the link {truth:?}");
            counted == truth && truth.packets_in > 50 && truth.packets_out > 50
        });
        assert!(exact, "{seen}");
    }
    let traffic = accounting.read().unwrap();
    assert!(
        traffic.unknown[&site.device(2).mac].packets >= 1,
        "an untracked device is seen"
    );
    assert_eq!(traffic.uncounted.packets, 0);
    // One more device, and who stays keeps the counts.
    let everybody = (0..4).map(|n| site.device(n).mac).collect();
    accounting.track(&everybody).unwrap();
    let later = accounting.read().unwrap();
    assert_eq!(later.generation, traffic.generation);
    let mac = site.device(0).mac;
    assert!(later.devices[&mac].since(traffic.devices[&mac]).is_some());
}

#[test]
fn a_flood_of_random_addresses_is_bounded_and_said() {
    let site = Site::build(Options::default());
    let device = site.device(0);
    let lan = AccountingLan {
        bridges: ["br0".to_owned()].into(),
        ..AccountingLan::default()
    };
    let mut accounting = site.gateway().enter(|| NftablesAccounting::open(lan).unwrap());
    accounting.track(&[device.mac].into()).unwrap();
    let wire = device.wire();
    for n in 0..6000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let mut frame = site.gateway().mac.0.to_vec();
        frame.extend([2, 0xee, 0, a, b, c, 0x88, 0xb5]);
        frame.resize(60, 0);
        wire.send(&frame);
    }
    let sum = |traffic: &Traffic| traffic.unknown.values().map(|v| v.packets).sum::<u64>() + traffic.uncounted.packets;
    assert!(until(SOON, || sum(&accounting.read().unwrap()) >= 6000));
    let traffic = accounting.read().unwrap();
    assert_eq!(traffic.unknown.len(), 4096);
    assert!(traffic.uncounted.packets >= 1904, "{:?}", traffic.uncounted);
    let before = traffic.devices[&device.mac].packets_out;
    assert!(reaches(device, site.gateway().v4));
    assert!(
        accounting.read().unwrap().devices[&device.mac].packets_out > before,
        "the known device is still counted"
    );
}
