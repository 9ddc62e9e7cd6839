//! A device that is cut off changes its MAC address when nobody knows its IP addresses any more.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::json;

use crate::support::site::{Host, until};
use crate::support::warden::{Guarded, SOON, THINGS};
use crate::{add, release, why};

/// The addresses a thing is cut off by.
fn cut_by(guarded: &Guarded, thing: &str) -> BTreeSet<IpAddr> {
    let answer = guarded.answer(&why(thing));
    let addresses = answer["decision"]["cut"]["addresses"].as_array().cloned();
    let parse = |address: serde_json::Value| address.as_str().unwrap().parse().unwrap();
    addresses.unwrap_or_default().into_iter().map(parse).collect()
}

/// Another MAC address and the same IP addresses; nobody remembers who had them.
fn rename(guarded: &Guarded, device: &Host, mac: &str) {
    device.shell(&format!("ip link set eth0 address {mac}"));
    forget(guarded);
}

fn forget(guarded: &Guarded) {
    let site = &guarded.site;
    let hosts = (0..4).map(|n| site.device(n)).chain([site.gateway(), site.internet()]);
    hosts.for_each(|host| _ = host.shell("ip neigh flush all"));
}

#[test]
fn a_new_mac_address_alone_frees_nobody_after_a_reboot() {
    let mut guarded = Guarded::prepare();
    let (device, neighbour) = (guarded.site.device(0).clone(), guarded.site.device(1).clone());
    let leases = guarded.dir.with_file_name("leases");
    std::fs::write(&leases, "").unwrap();
    // addresses are learnt, none is configured
    let entry =
        |(n, thing): (usize, &&str)| json!({"thingName": thing, "macs": [guarded.site.device(n).mac.to_string()]});
    let devices: Vec<_> = THINGS.iter().enumerate().map(entry).collect();
    guarded.configure(&json!({"devices": devices, "discovery": {"leases": [{"path": leases}]}}));
    let (old, new) = (device.mac.to_string(), "02:77:00:00:00:01");
    for mac in [new, &old] {
        rename(&guarded, &device, mac);
        guarded.assert_open(0);
    }
    forget(&guarded);

    guarded.run();
    guarded.assert_open(0);
    guarded.answer(&add("cam-0"));
    let own: BTreeSet<IpAddr> = [device.v4.into(), device.v6.into()].into();
    let learnt = until(SOON, || cut_by(&guarded, "cam-0").is_superset(&own));
    assert!(learnt, "{:?}", cut_by(&guarded, "cam-0"));
    guarded.assert_cut(0);

    // A reboot without the boot unit: no rules, no neighbours. It is free until the agent is there, with either address.
    guarded.kill();
    guarded
        .site
        .gateway()
        .shell("nft delete table bridge edge_warden; nft delete table netdev edge_warden");
    rename(&guarded, &device, new);
    guarded.assert_open(0);
    forget(&guarded);
    guarded.run();
    assert_eq!(guarded.answer(&why("cam-0"))["enforced"], true);
    guarded.assert_cut(0);
    assert!(cut_by(&guarded, "cam-0").is_superset(&own));
    guarded.assert_open_but(2, &[0]);

    // The lease server gives the IPv4 address to another thing: it has moved, and that thing must not suffer for it.
    let v4 = device.v4;
    device.shell(&format!("ip addr del {v4}/24 dev eth0"));
    neighbour.shell(&format!("ip addr add {v4}/24 dev eth0"));
    let gateway = guarded.site.gateway().v4;
    let reaches = || {
        let ping = ["ping", "-c1", "-W1", "-I", &v4.to_string(), &gateway.to_string()];
        neighbour.run(&ping).status.success()
    };
    assert!(!reaches(), "without a lease it may be the device itself");
    std::fs::write(&leases, format!("4000000000 {} {v4} cam-1 *\n", neighbour.mac)).unwrap();
    assert!(until(SOON, reaches), "{}", guarded.log());
    assert!(!cut_by(&guarded, "cam-0").contains(&IpAddr::from(v4)));
    // What did not move is held, across one more restart.
    forget(&guarded);
    guarded.stop();
    guarded.run();
    assert!(!cut_by(&guarded, "cam-0").contains(&IpAddr::from(v4)));
    assert!(!device.ping(guarded.site.gateway().v6.into()));
    assert!(until(SOON, reaches), "{}", guarded.log());
    guarded.answer(&release("cam-0"));
    let open = until(SOON, || device.ping(guarded.site.gateway().v6.into()));
    assert!(open, "it was the quarantine that held it");
}
