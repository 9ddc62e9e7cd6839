//! The registry's rules, one test each.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::leases::{LeaseFormat, LeaseRule, parse};
use super::*;
use crate::collect::neighbours::{BridgeEntry, Neighbour, NeighbourEvent, NeighbourState};
use crate::model::{MacAddress, Monotonic, Now, ThingName, UnixTime};

const GATEWAY: &str = "02:00:00:00:00:fe";
const CAM: &str = "02:aa:00:00:00:01";
const LAMP: &str = "02:aa:00:00:00:02";
const ROGUE: &str = "02:aa:00:00:00:66";

fn mac(text: &str) -> MacAddress {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> ThingName {
    text.parse().unwrap()
}

fn at(seconds: u64) -> Now {
    Now {
        wall: UnixTime::from_seconds(1_800_000_000 + seconds),
        monotonic: Monotonic(Duration::from_secs(seconds)),
    }
}

fn neighbour(of: &str, address: &str, state: NeighbourState) -> Neighbour {
    Neighbour {
        mac: mac(of),
        ip: ip(address),
        interface: "br0".into(),
        state,
    }
}

fn reachable(pairs: &[(&str, &str)]) -> Observation {
    let pairs = pairs
        .iter()
        .map(|(of, address)| neighbour(of, address, NeighbourState::Reachable));
    Observation::Neighbours(pairs.collect())
}

fn device(thing: &str, macs: &[&str], addresses: &[&str]) -> ConfiguredDevice {
    ConfiguredDevice {
        thing: name(thing),
        macs: macs.iter().map(|text| mac(text)).collect(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        report: true,
    }
}

fn leases(text: &str) -> Observation {
    let file = parse(LeaseFormat::Dnsmasq, text.as_bytes(), &LeaseRule::default());
    Observation::Leases {
        file: "leases".into(),
        leases: file.leases,
    }
}

fn registered(thing: &str, macs: &[&str]) -> Observation {
    Observation::Registered(Registration {
        thing: name(thing),
        macs: macs.iter().map(|text| mac(text)).collect(),
    })
}

fn peers(addresses: &[&str]) -> Observation {
    let peer = |text: &&str| BrokerPeer {
        address: ip(text),
        thing: None,
    };
    Observation::BrokerPeers(addresses.iter().map(peer).collect())
}

/// A registry on a bridge LAN, at second 0.
fn registry(observations: Vec<Observation>) -> Registry {
    let mut registry = Registry::new();
    registry.observe(
        Observation::LanInterfaces(BTreeSet::from(["br0".into(), "lan1".into(), "lan2".into()])),
        at(0),
    );
    let own = Observation::GatewayOwn {
        macs: BTreeSet::from([mac(GATEWAY)]),
        addresses: BTreeSet::from([ip("10.0.0.1"), ip("fd00::1")]),
    };
    registry.observe(own, at(0));
    tell(&mut registry, observations, 0);
    registry
}

fn tell(registry: &mut Registry, observations: Vec<Observation>, second: u64) -> Vec<String> {
    for observation in observations {
        registry.observe(observation, at(second));
    }
    registry.resolve(at(second)).iter().map(ToString::to_string).collect()
}

/// MAC addresses that an alarm of the thing may cut off.
fn edge_macs(thing: &Identity) -> impl Iterator<Item = MacAddress> {
    thing.macs.iter().filter(|m| m.backs_edge_action).map(|m| m.mac)
}

fn thing<'r>(registry: &'r Registry, text: &str) -> &'r Identity {
    registry
        .table()
        .get(&name(text))
        .unwrap_or_else(|| panic!("no {text} in {:?}", registry.table()))
}

fn usable(registry: &Registry, text: &str) -> Vec<String> {
    thing(registry, text)
        .usable_addresses()
        .map(|address| address.to_string())
        .collect()
}

#[test]
fn a_configured_device_gathers_its_addresses() {
    let registry = registry(vec![
        Observation::Configured(vec![device("cam", &[CAM], &["10.0.0.5"])]),
        reachable(&[(CAM, "10.0.0.5"), (CAM, "fe80::1"), (CAM, "fd00::5")]),
    ]);
    let cam = thing(&registry, "cam");
    assert_eq!(
        (cam.source, cam.backs_edge_action, cam.conflicts.len()),
        (Source::Configuration, true, 0)
    );
    assert_eq!(usable(&registry, "cam"), ["10.0.0.5", "fd00::5", "fe80::1"]);
    assert!(cam.has_randomised_mac());
    assert_eq!(registry.table().thing_of_mac(mac(CAM)), Some(&name("cam")));
    assert_eq!(registry.table().thing_of_ip(ip("::ffff:10.0.0.5")), Some(&name("cam")));
}

#[test]
fn configuration_beats_registration_beats_lease_and_each_contradiction_is_a_conflict() {
    let lease = "0 02:aa:00:00:00:01 10.0.0.5 lease-name *\n";
    let mut registry = registry(vec![reachable(&[(CAM, "10.0.0.5")]), leases(lease)]);
    assert_eq!(thing(&registry, "lease-name").source, Source::Lease);
    assert!(thing(&registry, "lease-name").backs_edge_action);

    tell(
        &mut registry,
        vec![registered("reg-name", &[CAM]), peers(&["10.0.0.5"])],
        1,
    );
    let named = thing(&registry, "reg-name");
    assert_eq!(named.source, Source::Registration);
    assert!(!named.conflicts.is_empty() && !named.backs_edge_action);
    assert_eq!(registry.table().thing_of_mac(mac(CAM)), Some(&name("reg-name")));
    assert!(
        registry.table().get(&name("lease-name")).is_none(),
        "it has no device left"
    );

    tell(
        &mut registry,
        vec![Observation::Configured(vec![device("cam", &[CAM], &[])])],
        2,
    );
    let cam = thing(&registry, "cam");
    assert!(!cam.conflicts.is_empty() && cam.backs_edge_action);
    assert_eq!(registry.table().thing_of_ip(ip("10.0.0.5")), Some(&name("cam")));
}

#[test]
fn two_leases_for_one_address_make_it_nobodys() {
    let text = "0 02:aa:00:00:00:01 10.0.0.5 cam *\n0 02:aa:00:00:00:02 10.0.0.5 lamp *\n";
    let registry = registry(vec![leases(text)]);
    assert_eq!(registry.table().thing_of_ip(ip("10.0.0.5")), None);
    for text in ["cam", "lamp"] {
        assert!(usable(&registry, text).is_empty());
        assert_eq!(thing(&registry, text).conflicts.len(), 1);
        // Who the devices are is not in doubt, only whose address it is.
        assert!(thing(&registry, text).backs_edge_action);
    }
}

#[test]
fn a_renewal_with_a_new_address_releases_the_old_one() {
    let mut registry = registry(vec![
        leases("0 02:aa:00:00:00:01 10.0.0.5 cam *\n"),
        reachable(&[(CAM, "10.0.0.5")]),
    ]);
    assert_eq!(usable(&registry, "cam"), ["10.0.0.5"]);
    let lingering = Observation::Neighbours(vec![
        neighbour(CAM, "10.0.0.5", NeighbourState::Stale),
        neighbour(CAM, "10.0.0.9", NeighbourState::Reachable),
    ]);
    let changes = tell(
        &mut registry,
        vec![leases("0 02:aa:00:00:00:01 10.0.0.9 cam *\n"), lingering],
        60,
    );
    assert_eq!(
        changes,
        ["cam no longer has address 10.0.0.5", "cam has address 10.0.0.9"]
    );
    // The address goes to the next device, although the neighbour table still names the first one.
    let next = leases("0 02:aa:00:00:00:01 10.0.0.9 cam *\n0 02:aa:00:00:00:02 10.0.0.5 lamp *\n");
    tell(&mut registry, vec![next], 120);
    assert_eq!(registry.table().thing_of_ip(ip("10.0.0.5")), Some(&name("lamp")));
    assert!(thing(&registry, "lamp").conflicts.is_empty());
}

#[test]
fn leases_and_learnt_addresses_expire() {
    let mut registry = registry(vec![
        leases("1800000100 02:aa:00:00:00:01 10.0.0.5 cam *\n"),
        Observation::Configured(vec![device("lamp", &[LAMP], &[])]),
        reachable(&[(LAMP, "10.0.0.6")]),
    ]);
    assert_eq!(usable(&registry, "lamp"), ["10.0.0.6"]);
    tell(&mut registry, vec![reachable(&[])], 161);
    assert!(registry.table().get(&name("cam")).is_none());
    assert_eq!(usable(&registry, "lamp"), ["10.0.0.6"], "kept for ten minutes");
    tell(&mut registry, vec![], 700);
    assert!(usable(&registry, "lamp").is_empty());
    assert_eq!(registry.table().thing_of_ip(ip("10.0.0.6")), None);
}

#[test]
fn a_rogue_that_takes_an_address_gets_nothing_and_the_address_is_purged() {
    let mut registry = registry(vec![
        Observation::Configured(vec![device("cam", &[CAM], &[]), device("lamp", &[LAMP], &["10.0.0.6"])]),
        reachable(&[(CAM, "10.0.0.5"), (LAMP, "10.0.0.6")]),
    ]);
    for address in ["10.0.0.5", "10.0.0.6"] {
        let spoof = neighbour(ROGUE, address, NeighbourState::Reachable);
        tell(
            &mut registry,
            vec![Observation::Neighbour(NeighbourEvent::Present(spoof))],
            10,
        );
    }
    assert!(usable(&registry, "cam").is_empty());
    assert_eq!(registry.table().thing_of_ip(ip("10.0.0.5")), None);
    assert!(matches!(
        thing(&registry, "cam").conflicts.first(),
        Some(Conflict::Address { .. })
    ));
    // A configured address stays its thing's, in conflict.
    assert_eq!(usable(&registry, "lamp"), ["10.0.0.6"]);
    assert_eq!(registry.table().thing_of_ip(ip("10.0.0.6")), Some(&name("lamp")));
    assert_eq!(thing(&registry, "lamp").conflicts.len(), 1);
    // The victim answers again: after five quiet minutes the address is its own.
    tell(
        &mut registry,
        vec![reachable(&[(CAM, "10.0.0.5"), (LAMP, "10.0.0.6")])],
        20,
    );
    assert!(usable(&registry, "cam").is_empty());
    tell(
        &mut registry,
        vec![reachable(&[(CAM, "10.0.0.5"), (LAMP, "10.0.0.6")])],
        321,
    );
    assert_eq!(usable(&registry, "cam"), ["10.0.0.5"]);
    assert!(thing(&registry, "lamp").conflicts.is_empty());
}

#[test]
fn the_gateways_own_addresses_are_never_a_devices() {
    let registry = registry(vec![
        Observation::Configured(vec![device("cam", &[CAM, GATEWAY], &["10.0.0.1", "10.0.0.5"])]),
        reachable(&[(GATEWAY, "10.0.0.77"), (CAM, "10.0.0.1"), (ROGUE, "fd00::1")]),
        registered("evil", &[GATEWAY]),
        leases("0 02:00:00:00:00:fe 10.0.0.8 evil2 *\n0 02:aa:00:00:00:66 10.0.0.1 evil3 *\n"),
    ]);
    let table = registry.table();
    assert_eq!(table.thing_of_mac(mac(GATEWAY)), None);
    for address in ["10.0.0.1", "fd00::1", "10.0.0.77"] {
        assert_eq!(table.thing_of_ip(ip(address)), None, "{address}");
    }
    assert_eq!(usable(&registry, "cam"), ["10.0.0.5"]);
    assert!(
        table
            .things()
            .all(|thing| !thing.macs.iter().any(|bound| bound.mac == mac(GATEWAY)))
    );
    assert_eq!(table.gateway_claims().len(), 2);
    assert!(
        thing(&registry, "cam")
            .conflicts
            .iter()
            .any(|c| matches!(c, Conflict::Gateway { .. }))
    );
    assert_eq!(table.skipped().len(), 3, "{:?}", table.skipped());
}

#[test]
fn a_move_between_ports_is_noted_and_no_conflict() {
    let entry = |port: &str| {
        Observation::Port(BridgeEntry {
            mac: mac(CAM),
            port: port.into(),
            bridge: "br0".into(),
            vlan: None,
            own: false,
            idle: None,
        })
    };
    let mut registry = registry(vec![
        Observation::Configured(vec![device("cam", &[CAM], &[])]),
        reachable(&[(CAM, "10.0.0.5")]),
        entry("lan1"),
    ]);
    assert_eq!(
        tell(&mut registry, vec![entry("lan2")], 5),
        ["cam moved from lan1 to lan2"]
    );
    let cam = thing(&registry, "cam");
    assert_eq!(
        (cam.interface.as_deref(), cam.port.as_deref()),
        (Some("br0"), Some("lan2"))
    );
    assert!(cam.conflicts.is_empty() && cam.backs_edge_action);
}

#[test]
fn a_mac_that_goes_to_and_fro_is_two_devices_and_no_one_is_cut_off_for_it() {
    let entry = |port: &str| {
        Observation::Neighbour(NeighbourEvent::Learnt(BridgeEntry {
            mac: mac(CAM),
            port: port.into(),
            bridge: "br0".into(),
            vlan: None,
            own: false,
            idle: None,
        }))
    };
    let mut registry = registry(vec![
        Observation::Configured(vec![device("cam", &[CAM], &[])]),
        entry("lan1"),
    ]);
    tell(&mut registry, vec![entry("lan2"), entry("lan1")], 5);
    assert!(thing(&registry, "cam").backs_edge_action, "plugged over and back");
    tell(&mut registry, vec![entry("lan2")], 6);
    let cam = thing(&registry, "cam");
    assert!(!cam.backs_edge_action);
    assert_eq!(cam.conflicts, BTreeSet::from([Conflict::Flapping { mac: mac(CAM) }]));
    tell(&mut registry, vec![], 400);
    assert!(thing(&registry, "cam").backs_edge_action);
}

#[test]
fn a_flood_of_leases_makes_a_bounded_number_of_things_and_displaces_none() {
    let mut registry = registry(vec![leases("0 02:aa:00:00:00:01 10.0.0.5 zebra *\n")]);
    let mut text: String = (0..3000)
        .map(|n| format!("0 {} 10.2.{}.{} a{n} *\n", random_mac(n), n / 250, n % 250))
        .collect();
    text.push_str("0 02:aa:00:00:00:01 10.0.0.5 zebra *\n");
    tell(&mut registry, vec![leases(&text)], 9);
    assert_eq!(registry.table().things().count(), 1024);
    assert_eq!(usable(&registry, "zebra"), ["10.0.0.5"]);
    assert_eq!(registry.table().skipped().len(), 1);
}

#[test]
fn a_registration_counts_once_its_mac_is_seen_and_backs_actions_while_the_broker_agrees() {
    let mut registry = registry(vec![registered("cam", &[CAM, LAMP]), peers(&["10.0.0.5"])]);
    assert!(registry.table().get(&name("cam")).is_none());
    assert_eq!(registry.table().skipped().len(), 2);
    tell(
        &mut registry,
        vec![reachable(&[(CAM, "10.0.0.5"), (LAMP, "10.0.0.6")])],
        1,
    );
    let cam = thing(&registry, "cam");
    assert_eq!(cam.macs.len(), 2, "a second MAC address for one thing");
    // Only the device that is connected.
    assert_eq!(edge_macs(cam).collect::<Vec<_>>(), [mac(CAM)]);
    tell(&mut registry, vec![peers(&[])], 2);
    assert!(!thing(&registry, "cam").backs_edge_action);
}

#[test]
fn a_thing_cannot_have_a_neighbour_cut_off_by_registering_its_mac() {
    let mut registry = registry(vec![
        reachable(&[(ROGUE, "10.0.0.66"), (CAM, "10.0.0.5")]),
        registered("rogue", &[CAM]),
        peers(&["10.0.0.66", "10.0.0.5"]),
    ]);
    assert!(
        !thing(&registry, "rogue").backs_edge_action,
        "its own connection may be the other one"
    );
    tell(&mut registry, vec![registered("rogue", &[CAM, ROGUE])], 1);
    assert!(
        !thing(&registry, "rogue").backs_edge_action,
        "a client id has one connection"
    );
    tell(&mut registry, vec![registered("cam", &[CAM])], 2);
    assert!(!edge_macs(thing(&registry, "rogue")).any(|m| m == mac(CAM)));
    assert!(!thing(&registry, "cam").backs_edge_action, "two claims of one strength");
    assert_eq!(registry.table().thing_of_mac(mac(CAM)), None);
    assert_eq!(registry.table().thing_of_ip(ip("10.0.0.5")), None);
}

#[test]
fn a_broker_that_names_things_settles_it() {
    let named = |address: &str, thing: &str| BrokerPeer {
        address: ip(address),
        thing: Some(name(thing)),
    };
    let mut registry = registry(vec![
        reachable(&[(ROGUE, "10.0.0.66"), (CAM, "10.0.0.5")]),
        registered("cam", &[CAM]),
        Observation::BrokerPeers(BTreeSet::from([named("10.0.0.5", "cam"), named("10.0.0.66", "x")])),
    ]);
    assert!(thing(&registry, "cam").backs_edge_action);
    let elsewhere = Observation::BrokerPeers(BTreeSet::from([named("10.0.0.66", "cam")]));
    tell(&mut registry, vec![elsewhere], 1);
    let cam = thing(&registry, "cam");
    assert!(!cam.backs_edge_action);
    assert!(matches!(cam.conflicts.first(), Some(Conflict::Broker { .. })));
}

#[test]
fn a_hostname_gives_no_one_another_things_name() {
    let registry = registry(vec![
        Observation::Configured(vec![device("cam", &[CAM], &[])]),
        reachable(&[(CAM, "10.0.0.5"), (ROGUE, "10.0.0.66")]),
        leases(
            "0 02:aa:00:00:00:66 10.0.0.66 cam *\n0 02:aa:00:00:00:02 10.0.0.6 twin *\n\
             0 02:aa:00:00:00:03 10.0.0.7 twin *\n",
        ),
    ]);
    let cam = thing(&registry, "cam");
    assert_eq!(cam.macs.len(), 1);
    assert!(cam.conflicts.contains(&Conflict::NameTaken { mac: mac(ROGUE) }) && cam.backs_edge_action);
    assert!(registry.table().unknown().iter().any(|device| device.mac == mac(ROGUE)));
    let twin = thing(&registry, "twin");
    assert_eq!(twin.macs.len(), 2);
    assert!(matches!(twin.conflicts.first(), Some(Conflict::NameShared { .. })) && !twin.backs_edge_action);
}

#[test]
fn a_thing_configured_by_address_is_whoever_holds_it_while_no_one_else_does() {
    let mut registry = registry(vec![
        Observation::Configured(vec![device("cam", &[], &["10.0.0.5"])]),
        reachable(&[(CAM, "10.0.0.5")]),
    ]);
    assert_eq!(edge_macs(thing(&registry, "cam")).collect::<Vec<_>>(), [mac(CAM)]);
    tell(&mut registry, vec![reachable(&[(ROGUE, "10.0.0.5")])], 10);
    assert!(!thing(&registry, "cam").backs_edge_action);
    assert_eq!(thing(&registry, "cam").conflicts.len(), 1);
}

#[test]
fn a_dhcpv6_lease_finds_its_device_in_the_neighbour_table() {
    let text = "duid 00:01:00:01:aa\n0 7 fd00::9 cam 00:01:00:01:bb\n";
    let mut registry = registry(vec![leases(text)]);
    assert!(registry.table().get(&name("cam")).is_none());
    tell(&mut registry, vec![reachable(&[(CAM, "fd00::9")])], 1);
    assert_eq!(usable(&registry, "cam"), ["fd00::9"]);
}

#[test]
fn configured_devices_that_do_not_exist_are_listed_as_never_seen() {
    let devices: Vec<_> = (0..1000)
        .map(|n| {
            device(
                &format!("ghost-{n}"),
                &[&format!("02:bb:00:00:{:02x}:{:02x}", n / 256, n % 256)],
                &[],
            )
        })
        .collect();
    let registry = registry(vec![Observation::Configured(devices)]);
    let view = DevicesView::of(registry.table());
    assert_eq!(view.things.len(), 1000);
    assert!(
        view.things
            .iter()
            .all(|row| row.marks.contains("never-seen") && row.conflicts.is_empty())
    );
}

fn random_mac(number: u32) -> MacAddress {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddress([0x06, 0, a, b, c, d])
}

#[test]
fn ten_thousand_random_macs_cost_a_fixed_amount_and_hide_no_one() {
    let mut registry = registry(vec![Observation::Configured(vec![device("cam", &[CAM], &[])])]);
    for number in 0..10_000_u32 {
        let flood = Neighbour {
            mac: random_mac(number),
            ip: IpAddr::from(std::net::Ipv4Addr::from(0x0a01_0000 + number)),
            interface: "br0".into(),
            state: NeighbourState::Reachable,
        };
        registry.observe(Observation::Neighbour(NeighbourEvent::Present(flood)), at(1));
    }
    tell(
        &mut registry,
        vec![Observation::Neighbour(NeighbourEvent::Present(neighbour(
            CAM,
            "10.0.0.5",
            NeighbourState::Reachable,
        )))],
        2,
    );
    assert_eq!(registry.table().unknown().len(), 1024);
    let more = registry.table().more_unknown();
    assert!((8_796..=9_156).contains(&more), "{more}");
    assert_eq!(usable(&registry, "cam"), ["10.0.0.5"]);
    // Ten minutes on, a real newcomer gets a place.
    let newcomer = neighbour(LAMP, "10.0.0.6", NeighbourState::Reachable);
    tell(
        &mut registry,
        vec![Observation::Neighbour(NeighbourEvent::Present(newcomer))],
        700,
    );
    assert!(registry.table().unknown().iter().any(|device| device.mac == mac(LAMP)));
}

#[test]
fn a_flood_over_a_configured_address_is_bounded_too_and_is_a_conflict() {
    let mut registry = registry(vec![Observation::Configured(vec![device(
        "cam",
        &[CAM],
        &["10.0.0.5"],
    )])]);
    tell(&mut registry, vec![reachable(&[(CAM, "10.0.0.5")])], 0);
    for number in 0..10_000_u32 {
        let mut spoof = neighbour(ROGUE, "10.0.0.5", NeighbourState::Reachable);
        spoof.mac = random_mac(number);
        registry.observe(Observation::Neighbour(NeighbourEvent::Present(spoof)), at(1));
    }
    registry.resolve(at(1));
    assert!(registry.table().unknown().len() <= 2048);
    assert!(!thing(&registry, "cam").conflicts.is_empty());
    assert_eq!(registry.table().thing_of_ip(ip("10.0.0.5")), Some(&name("cam")));
}

#[test]
fn the_view_is_plain_json() {
    let registry = registry(vec![
        Observation::Configured(vec![device("cam", &[CAM], &[])]),
        reachable(&[(CAM, "10.0.0.5"), (LAMP, "10.0.0.6")]),
    ]);
    let view = DevicesView::of(registry.table());
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "things": [{
                "thing": "cam", "source": "configuration", "report": true, "macs": [CAM], "addresses": ["10.0.0.5"],
                "interface": "br0", "firstSeen": 1_800_000_000_000_u64, "lastSeen": 1_800_000_000_000_u64,
                "marks": ["randomised-mac"], "backsEdgeAction": true
            }],
            "unknown": [{
                "mac": LAMP, "addresses": ["10.0.0.6"], "interface": "br0", "firstSeen": 1_800_000_000_000_u64,
                "lastSeen": 1_800_000_000_000_u64, "marks": ["randomised-mac"]
            }],
            "moreUnknown": 0,
            "skipped": []
        })
    );
    assert_eq!(
        view.things[0].cells(),
        ["cam", "configuration", CAM, "10.0.0.5", "br0", "randomised-mac"]
    );
}

/// Any order of any observations over a small world, where collisions are likely.
fn observation() -> impl Strategy<Value = Observation> {
    let a_mac = prop_oneof![Just(mac(GATEWAY)), (1_u32..6).prop_map(random_mac)];
    let an_ip = prop_oneof![
        (1_u8..6).prop_map(|n| IpAddr::from([10, 0, 0, n])),
        (1_u8..4).prop_map(|n| ip(&format!("fd00::{n}")))
    ];
    let a_thing = (0_u8..4).prop_map(|n| name(&format!("thing-{n}")));
    let state = prop_oneof![Just(NeighbourState::Reachable), Just(NeighbourState::Stale)];
    let a_neighbour = (a_mac.clone(), an_ip.clone(), state).prop_map(|(mac, ip, state)| Neighbour {
        mac,
        ip,
        interface: "br0".into(),
        state,
    });
    let macs = || proptest::collection::vec(a_mac.clone(), 0..3);
    let a_device = (a_thing.clone(), macs(), proptest::collection::vec(an_ip.clone(), 0..3)).prop_map(
        |(thing, macs, addresses)| ConfiguredDevice {
            thing,
            macs,
            addresses,
            report: true,
        },
    );
    let a_lease =
        (a_mac.clone(), an_ip.clone(), proptest::option::of(a_thing.clone())).prop_map(|(mac, address, thing)| {
            leases::Lease {
                expires: None,
                mac: address.is_ipv4().then_some(mac),
                address,
                thing,
            }
        });
    let lease_file = proptest::collection::vec(a_lease, 0..4).prop_map(|leases| Observation::Leases {
        file: "leases".into(),
        leases,
    });
    let peer =
        (an_ip, proptest::option::of(a_thing.clone())).prop_map(|(address, thing)| BrokerPeer { address, thing });
    prop_oneof![
        proptest::collection::vec(a_device, 0..4).prop_map(Observation::Configured),
        (a_thing, macs()).prop_map(|(thing, macs)| Observation::Registered(Registration {
            thing,
            macs: macs.into_iter().collect()
        })),
        lease_file,
        proptest::collection::vec(a_neighbour.clone(), 0..5).prop_map(Observation::Neighbours),
        a_neighbour.prop_map(|n| Observation::Neighbour(NeighbourEvent::Present(n))),
        proptest::collection::btree_set(peer, 0..4).prop_map(Observation::BrokerPeers),
    ]
}

proptest! {
    #[test]
    fn whatever_is_told_the_rules_hold(told in proptest::collection::vec((observation(), 0_u64..200), 0..30)) {
        let mut registry = registry(vec![]);
        let mut second = 0;
        for (observation, later) in told {
            second += later;
            registry.observe(observation, at(second));
            registry.resolve(at(second));
            let table = registry.table();
            let mut taken = BTreeSet::new();
            for thing in table.things() {
                for address in thing.usable_addresses() {
                    prop_assert!(taken.insert(address), "{address} is usable for two things");
                    prop_assert_eq!(table.thing_of_ip(address), Some(&thing.thing));
                    prop_assert!(address != ip("10.0.0.1") && address != ip("fd00::1"));
                }
                for mac_address in thing.macs.iter().map(|bound| bound.mac) {
                    prop_assert!(mac_address != mac(GATEWAY));
                }
                for mac_address in edge_macs(thing) {
                    prop_assert_eq!(table.thing_of_mac(mac_address), Some(&thing.thing));
                }
                let doubt = thing.conflicts.iter().any(Conflict::is_about_identity);
                let weak = thing.macs.iter().any(|b| b.backs_edge_action && b.source != Source::Configuration);
                prop_assert!(!(doubt && weak), "{:?}", thing);
            }
            prop_assert_eq!(table.thing_of_mac(mac(GATEWAY)), None);
            for device in table.unknown() {
                prop_assert_eq!(table.thing_of_mac(device.mac), None);
            }
        }
    }
}
