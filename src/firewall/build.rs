//! From a policy to the tables that enforce it. Pure: the same policy gives the same tables.
//!
//! Identity is looked up in sets, never in a rule per device, so cost per packet does not grow with the number of
//! isolated devices. There is no connection tracking anywhere: an old flow dies with its next packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::policy::{Isolated, Policy, Posture};
use super::table::{
    At, Chain, Each, Element, Elements, Family, Field, Hook, Key, Rule, Set, Table, Test, Then, interface_key,
};
use crate::model::UnixTime;

/// Name of our tables, one per family.
pub(crate) const TABLE: &str = "edge_warden";

/// Set of isolated hardware addresses.
pub(crate) const MAC: &str = "mac";
/// Set of isolated IPv4 addresses.
pub(crate) const IP4: &str = "ip4";
/// Set of isolated IPv6 addresses.
pub(crate) const IP6: &str = "ip6";
/// The subset of [`MAC`] that may talk to the broker.
pub(crate) const REMEDIATE_MAC: &str = "remediate_mac";
/// The subset of [`IP4`] that may talk to the broker from behind an unlisted hardware address (a router).
pub(crate) const REMEDIATE_IP4: &str = "remediate_ip4";
/// The subset of [`IP6`] that may talk to the broker from behind an unlisted hardware address.
pub(crate) const REMEDIATE_IP6: &str = "remediate_ip6";
/// Ports whose devices are all isolated.
pub(crate) const QUIET_PORTS: &str = "quiet_ports";
/// Sets whose elements count what was dropped, with what their keys are.
pub(crate) const DROPS: [(&str, Key); 6] = [
    ("drop_from_mac", Key::Ether),
    ("drop_to_mac", Key::Ether),
    ("drop_from_ip4", Key::Ip4),
    ("drop_to_ip4", Key::Ip4),
    ("drop_from_ip6", Key::Ip6),
    ("drop_to_ip6", Key::Ip6),
];

const GATEWAY4: &str = "gateway4";
const GATEWAY6: &str = "gateway6";
const BROKER_PORTS: &str = "broker_ports";
const ARP_LIMIT: &str = "arp_limit";
const DHCP_LIMIT: &str = "dhcp_limit";
const ND_LIMIT: &str = "nd_limit";
const BROKER_LIMIT: &str = "broker_limit";

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The tables that enforce `policy` from `now` on: none when it names no LAN.
pub(crate) fn tables(policy: &Policy, now: UnixTime) -> Vec<Table> {
    let mut tables = Vec::new();
    if !policy.lan.bridges.is_empty() {
        tables.push(Table {
            family: Family::Bridge,
            name: TABLE,
            sets: sets(policy, now),
            chains: [bridge_chains(), common_chains()].concat(),
        });
    }
    if !policy.lan.interfaces.is_empty() {
        let devices: Vec<String> = policy.lan.interfaces.iter().cloned().collect();
        tables.push(Table {
            family: Family::Netdev,
            name: TABLE,
            sets: sets(policy, now),
            chains: [common_chains(), netdev_chains(&devices)].concat(),
        });
    }
    // A chain must exist before a rule can go to it: base chains last.
    for table in &mut tables {
        table.chains.sort_by_key(|chain| chain.hook.is_some());
    }
    tables
}

type Keys = BTreeMap<Vec<u8>, Element>;

fn sets(policy: &Policy, now: UnixTime) -> Vec<Set> {
    let live: Vec<&Isolated> = policy
        .isolated
        .iter()
        .filter(|i| i.until.is_none_or(|until| until > now))
        .collect();
    let macs = keys(&live, |i| i.macs.iter().map(|mac| mac.0.to_vec()).collect());
    let ip4 = keys(&live, |i| i.v4.iter().map(|a| a.octets().to_vec()).collect());
    let ip6 = keys(&live, |i| i.v6.iter().map(|a| a.octets().to_vec()).collect());
    let gateway4 = policy.lan.gateway_addresses.iter().filter_map(|a| match a {
        IpAddr::V4(v4) => Some(v4.octets().to_vec()),
        IpAddr::V6(_) => None,
    });
    let gateway6 = policy.lan.gateway_addresses.iter().filter_map(|a| match a {
        IpAddr::V6(v6) => Some(v6.octets().to_vec()),
        IpAddr::V4(_) => None,
    });
    let ports = policy.lan.broker_ports.iter().map(|port| port.to_be_bytes().to_vec());
    let quiet = policy.quiet_ports.iter().flatten().map(|name| interface_key(name));
    let limit = |per_second, burst| Each::Limit { per_second, burst };
    let listed = |name, key, each, elements| Set {
        name,
        key,
        each,
        elements: Elements::Listed(elements),
    };

    let mut sets = vec![
        listed(GATEWAY4, Key::Ip4, Each::Nothing, fixed(gateway4)),
        listed(GATEWAY6, Key::Ip6, Each::Nothing, fixed(gateway6)),
        listed(BROKER_PORTS, Key::Service, Each::Nothing, fixed(ports)),
        listed(QUIET_PORTS, Key::Interface, Each::Nothing, fixed(quiet)),
        listed(ARP_LIMIT, Key::Ether, limit(20, 20), forever(&macs.all)),
        listed(ND_LIMIT, Key::Ether, limit(20, 20), forever(&macs.all)),
        listed(DHCP_LIMIT, Key::Ether, limit(5, 10), forever(&macs.all)),
        listed(BROKER_LIMIT, Key::Ether, limit(1000, 1000), forever(&macs.remediate)),
        listed(REMEDIATE_MAC, Key::Ether, Each::Nothing, forever(&macs.remediate)),
        listed(REMEDIATE_IP4, Key::Ip4, Each::Nothing, forever(&ip4.remediate)),
        listed(REMEDIATE_IP6, Key::Ip6, Each::Nothing, forever(&ip6.remediate)),
    ];
    for (name, key) in DROPS {
        let elements = match key {
            Key::Ip4 => forever(&ip4.all),
            Key::Ip6 => forever(&ip6.all),
            _ => forever(&macs.all),
        };
        sets.push(listed(name, key, Each::Counter, elements));
    }
    sets.push(listed(MAC, Key::Ether, Each::Timeout, macs.all));
    sets.push(listed(IP4, Key::Ip4, Each::Timeout, ip4.all));
    sets.push(listed(IP6, Key::Ip6, Each::Timeout, ip6.all));
    sets
}

/// Keys of one kind: all of them, and those that may remediate.
struct Identities {
    all: Keys,
    remediate: BTreeSet<Vec<u8>>,
}

/// Two things that share an identity: the stricter posture and the later end hold for it.
fn keys(isolated: &[&Isolated], of: impl Fn(&Isolated) -> Vec<Vec<u8>>) -> Identities {
    let mut all = Keys::new();
    let mut strict = BTreeSet::new();
    for isolated in isolated {
        for key in of(isolated) {
            if isolated.posture == Posture::Isolate {
                strict.insert(key.clone());
            }
            let until = match (all.get(&key), isolated.until) {
                (None, until) => until,
                (
                    Some(Element {
                        until: Some(earlier), ..
                    }),
                    Some(until),
                ) => Some(until.max(*earlier)),
                (Some(_), _) => None,
            };
            all.insert(key, Element { until, counted: None });
        }
    }
    let remediate = all.keys().filter(|key| !strict.contains(*key)).cloned().collect();
    Identities { all, remediate }
}

fn fixed(keys: impl Iterator<Item = Vec<u8>>) -> Keys {
    keys.map(|key| (key, Element::default())).collect()
}

fn forever<'a>(keys: impl IntoIterator<Item = impl KeyOf<'a>>) -> Keys {
    keys.into_iter()
        .map(|key| (key.key().to_vec(), Element::default()))
        .collect()
}

/// Items of a map or of a set of keys.
trait KeyOf<'a> {
    fn key(&self) -> &'a [u8];
}
impl<'a> KeyOf<'a> for &'a Vec<u8> {
    fn key(&self) -> &'a [u8] {
        self
    }
}
impl<'a, T> KeyOf<'a> for (&'a Vec<u8>, T) {
    fn key(&self) -> &'a [u8] {
        self.0
    }
}

fn rule(when: impl IntoIterator<Item = Test>, then: Then) -> Rule {
    Rule {
        when: when.into_iter().collect(),
        then,
    }
}

fn is(field: Field, value: impl AsRef<[u8]>) -> Test {
    Test::Is(field, value.as_ref().to_vec())
}

fn within(field: Field, set: &'static str) -> Test {
    Test::In(field, set)
}

fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: None,
        rules,
    }
}

fn base(name: &'static str, at: At, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            at,
            priority,
            devices: Vec::new(),
        }),
        rules,
    }
}

/// IPv4 without fragments; a fragment is dropped rather than judged by a header it may not carry.
fn ip4(protocol: u8) -> Vec<Test> {
    vec![is(Field::EtherType, IPV4), is(Field::Ip4Protocol, [protocol])]
}

/// IPv6 whose upper-layer header follows directly: extension headers and fragments do not match.
fn ip6(protocol: u8) -> Vec<Test> {
    vec![is(Field::EtherType, IPV6), is(Field::Ip6Next, [protocol])]
}

fn ports(source: u16, destination: u16) -> Vec<Test> {
    vec![
        is(Field::SourcePort, source.to_be_bytes()),
        is(Field::DestinationPort, destination.to_be_bytes()),
    ]
}

fn accept(parts: impl IntoIterator<Item = Vec<Test>>) -> Rule {
    rule(parts.into_iter().flatten(), Then::Accept)
}

fn no_fragments(to: &'static str) -> Rule {
    rule(
        [
            is(Field::EtherType, IPV4),
            Test::AnyBit(Field::Ip4Fragment, vec![0x3f, 0xff]),
        ],
        Then::Goto(to),
    )
}

/// What an isolated device may say to the gateway. Its own claims (sender addresses, targets, chaddr) must be the
/// identities it is isolated by, so that an allowance cannot be used to take over somebody else's address.
fn from_device() -> Chain {
    let limited = |limit| within(Field::EtherSource, limit);
    let dhcp = |destination: Test| {
        accept([
            ip4(UDP),
            ports(68, 67),
            vec![destination, within(Field::DhcpHardware, MAC), limited(DHCP_LIMIT)],
        ])
    };
    let dhcp6 = |destination: Test| accept([ip6(UDP), ports(546, 547), vec![destination, limited(DHCP_LIMIT)]]);
    let nd = |kind: u8, claims: Vec<Test>| {
        let source = vec![is(Field::Icmp6Type, [kind]), within(Field::Ip6Source, IP6)];
        accept([ip6(ICMPV6), source, claims, vec![limited(ND_LIMIT)]])
    };
    let all_dhcp_servers = "ff02::1:2".parse().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
    let all_routers = "ff02::2".parse().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
    chain(
        "from_device",
        vec![
            rule(
                [
                    is(Field::EtherType, ARP),
                    is(Field::ArpKind, ARP_KIND),
                    within(Field::ArpSenderMac, MAC),
                    within(Field::ArpSender, IP4),
                    within(Field::ArpTarget, GATEWAY4),
                    limited(ARP_LIMIT),
                ],
                Then::Accept,
            ),
            no_fragments("drop_from"),
            dhcp(is(Field::Ip4Destination, [255; 4])),
            dhcp(within(Field::Ip4Destination, GATEWAY4)),
            dhcp6(is(Field::Ip6Destination, all_dhcp_servers.octets())),
            dhcp6(within(Field::Ip6Destination, GATEWAY6)),
            nd(135, vec![within(Field::NdTarget, GATEWAY6)]),
            nd(
                136,
                vec![within(Field::NdTarget, IP6), within(Field::Ip6Destination, GATEWAY6)],
            ),
            nd(133, vec![is(Field::Ip6Destination, all_routers.octets())]),
            accept([
                ip4(TCP),
                vec![
                    within(Field::Ip4Source, IP4),
                    within(Field::Ip4Destination, GATEWAY4),
                    within(Field::DestinationPort, BROKER_PORTS),
                    limited(BROKER_LIMIT),
                ],
            ]),
            accept([
                ip6(TCP),
                vec![
                    within(Field::Ip6Source, IP6),
                    within(Field::Ip6Destination, GATEWAY6),
                    within(Field::DestinationPort, BROKER_PORTS),
                    limited(BROKER_LIMIT),
                ],
            ]),
            rule([], Then::Goto("drop_from")),
        ],
    )
}

/// Ethernet, IPv4, and their address lengths: the only ARP whose fields lie where we read them (RFC 826).
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What the gateway may say to an isolated device (or to a port with only such devices).
fn to_device() -> Chain {
    let nd = |kind: u8| {
        accept([
            ip6(ICMPV6),
            vec![is(Field::Icmp6Type, [kind]), within(Field::Ip6Source, GATEWAY6)],
        ])
    };
    chain(
        "to_device",
        vec![
            rule(
                [
                    is(Field::EtherType, ARP),
                    is(Field::ArpKind, ARP_KIND),
                    within(Field::ArpSender, GATEWAY4),
                ],
                Then::Accept,
            ),
            no_fragments("drop_to"),
            accept([ip4(UDP), ports(67, 68), vec![within(Field::Ip4Source, GATEWAY4)]]),
            accept([ip6(UDP), ports(547, 546), vec![within(Field::Ip6Source, GATEWAY6)]]),
            nd(134),
            nd(135),
            nd(136),
            accept([
                ip4(TCP),
                vec![
                    within(Field::Ip4Source, GATEWAY4),
                    within(Field::SourcePort, BROKER_PORTS),
                    within(Field::EtherDestination, REMEDIATE_MAC),
                ],
            ]),
            accept([
                ip6(TCP),
                vec![
                    within(Field::Ip6Source, GATEWAY6),
                    within(Field::SourcePort, BROKER_PORTS),
                    within(Field::EtherDestination, REMEDIATE_MAC),
                ],
            ]),
            rule([], Then::Goto("drop_to")),
        ],
    )
}

/// Frames known by their IP address only: the device took another hardware address, or stands behind a router.
fn address_chains() -> Vec<Chain> {
    let fragment = |to| rule([Test::AnyBit(Field::Ip4Fragment, vec![0x3f, 0xff])], Then::Goto(to));
    let broker =
        |protocol: Test, ours: Test, port: Test, theirs: Test| rule([protocol, ours, port, theirs], Then::Accept);
    let end = |to| rule([], Then::Goto(to));
    let tcp4 = || is(Field::Ip4Protocol, [TCP]);
    let tcp6 = || is(Field::Ip6Next, [TCP]);
    vec![
        chain(
            "from_ip4",
            vec![
                fragment("drop_from_ip4"),
                broker(
                    tcp4(),
                    within(Field::Ip4Destination, GATEWAY4),
                    within(Field::DestinationPort, BROKER_PORTS),
                    within(Field::Ip4Source, REMEDIATE_IP4),
                ),
                end("drop_from_ip4"),
            ],
        ),
        chain(
            "to_ip4",
            vec![
                fragment("drop_to_ip4"),
                broker(
                    tcp4(),
                    within(Field::Ip4Source, GATEWAY4),
                    within(Field::SourcePort, BROKER_PORTS),
                    within(Field::Ip4Destination, REMEDIATE_IP4),
                ),
                end("drop_to_ip4"),
            ],
        ),
        chain(
            "from_ip6",
            vec![
                broker(
                    tcp6(),
                    within(Field::Ip6Destination, GATEWAY6),
                    within(Field::DestinationPort, BROKER_PORTS),
                    within(Field::Ip6Source, REMEDIATE_IP6),
                ),
                end("drop_from_ip6"),
            ],
        ),
        chain(
            "to_ip6",
            vec![
                broker(
                    tcp6(),
                    within(Field::Ip6Source, GATEWAY6),
                    within(Field::SourcePort, BROKER_PORTS),
                    within(Field::Ip6Destination, REMEDIATE_IP6),
                ),
                end("drop_to_ip6"),
            ],
        ),
    ]
}

fn drop_chain(name: &'static str, by: Field, counted_in: &'static str) -> Chain {
    chain(
        name,
        vec![rule([within(by, counted_in)], Then::Continue), rule([], Then::Drop)],
    )
}

fn common_chains() -> Vec<Chain> {
    let mut chains = vec![
        drop_chain("drop_from", Field::EtherSource, "drop_from_mac"),
        drop_chain("drop_to", Field::EtherDestination, "drop_to_mac"),
        drop_chain("drop_from_ip4", Field::Ip4Source, "drop_from_ip4"),
        drop_chain("drop_to_ip4", Field::Ip4Destination, "drop_to_ip4"),
        drop_chain("drop_from_ip6", Field::Ip6Source, "drop_from_ip6"),
        drop_chain("drop_to_ip6", Field::Ip6Destination, "drop_to_ip6"),
        drop_chain("drop_arp_from", Field::ArpSender, "drop_from_ip4"),
        drop_chain("drop_arp_to", Field::ArpTarget, "drop_to_ip4"),
    ];
    chains.extend([from_device(), to_device()]);
    chains.extend(address_chains());
    chains
}

/// The protocol seen behind a tag, so that an address is also recognised in a tagged frame from a new hardware address.
fn by_address(protocol: [u8; 2], field: Field, set: &'static str, to: &'static str) -> Rule {
    rule([is(Field::Protocol, protocol), within(field, set)], Then::Goto(to))
}

fn from_rules() -> Vec<Rule> {
    vec![
        rule([within(Field::EtherSource, MAC)], Then::Goto("from_device")),
        by_address(IPV4, Field::Ip4Source, IP4, "from_ip4"),
        by_address(IPV6, Field::Ip6Source, IP6, "from_ip6"),
        by_address(ARP, Field::ArpSender, IP4, "drop_arp_from"),
    ]
}

fn to_rules() -> Vec<Rule> {
    vec![
        rule([within(Field::EtherDestination, MAC)], Then::Goto("to_device")),
        by_address(IPV4, Field::Ip4Destination, IP4, "to_ip4"),
        by_address(IPV6, Field::Ip6Destination, IP6, "to_ip6"),
        rule(
            [group(), within(Field::OutInterface, QUIET_PORTS)],
            Then::Goto("to_device"),
        ),
    ]
}

fn group() -> Test {
    Test::Masked(Field::EtherDestination, vec![1, 0, 0, 0, 0, 0], vec![1, 0, 0, 0, 0, 0])
}

/// On a bridge the gateway is reached through input and left through output; whatever passes forward goes to a
/// neighbour, and there nothing from or to an isolated device has any business.
fn bridge_chains() -> Vec<Chain> {
    let link_local = Test::Masked(
        Field::EtherDestination,
        vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xf0],
        vec![0x01, 0x80, 0xc2, 0, 0, 0],
    );
    vec![
        base("from_ports", At::Prerouting, -300, from_rules()),
        // 01:80:c2:00:00:0x enters here without passing prerouting (br_handle_frame in net/bridge/br_input.c).
        base(
            "link_local",
            At::Input,
            -300,
            vec![rule(
                [link_local, within(Field::EtherSource, MAC)],
                Then::Goto("drop_from"),
            )],
        ),
        base(
            "between_ports",
            At::Forward,
            -300,
            vec![
                rule([within(Field::EtherSource, MAC)], Then::Goto("drop_from")),
                rule([within(Field::EtherDestination, MAC)], Then::Goto("drop_to")),
                by_address(IPV4, Field::Ip4Source, IP4, "drop_from_ip4"),
                by_address(IPV4, Field::Ip4Destination, IP4, "drop_to_ip4"),
                by_address(IPV6, Field::Ip6Source, IP6, "drop_from_ip6"),
                by_address(IPV6, Field::Ip6Destination, IP6, "drop_to_ip6"),
                by_address(ARP, Field::ArpSender, IP4, "drop_arp_from"),
                by_address(ARP, Field::ArpTarget, IP4, "drop_arp_to"),
                // A neighbour asking for an isolated IPv6 address: it would learn that the device is there.
                rule(
                    [
                        is(Field::Protocol, IPV6),
                        is(Field::Ip6Next, [ICMPV6]),
                        is(Field::Icmp6Type, [135]),
                        within(Field::NdTarget, IP6),
                    ],
                    Then::Drop,
                ),
                rule([within(Field::OutInterface, QUIET_PORTS)], Then::Drop),
            ],
        ),
        base("to_ports", At::Postrouting, 300, to_rules()),
    ]
}

fn netdev_chains(devices: &[String]) -> Vec<Chain> {
    let on = |name, at, priority, rules| Chain {
        name,
        hook: Some(Hook {
            at,
            priority,
            devices: devices.to_vec(),
        }),
        rules,
    };
    vec![
        on("from_links", At::Ingress, -500, from_rules()),
        on("to_links", At::Egress, 500, to_rules()),
    ]
}

/// One change of the elements of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ElementChange {
    pub(crate) set: &'static str,
    pub(crate) remove: Vec<Vec<u8>>,
    pub(crate) add: Keys,
}

/// What leads from `old` to `new` by elements alone; `None` when chains, sets or devices differ.
///
/// An element whose end changed is removed and added in the same transaction: packets never see it missing.
pub(crate) fn element_changes(old: &Table, new: &Table) -> Option<Vec<ElementChange>> {
    if !old.same_shape(new) {
        return None;
    }
    let mut changes = Vec::new();
    for (old, new) in old.sets.iter().zip(&new.sets) {
        let (Some(before), Some(after)) = (old.listed(), new.listed()) else {
            continue;
        };
        if before == after {
            continue;
        }
        let remove: Vec<_> = before
            .iter()
            .filter(|(key, element)| after.get(*key).is_none_or(|new| new.until != element.until))
            .map(|(key, _)| key.clone())
            .collect();
        let add: Keys = after
            .iter()
            .filter(|(key, element)| before.get(*key).is_none_or(|old| old.until != element.until))
            .map(|(key, element)| (key.clone(), *element))
            .collect();
        if !remove.is_empty() || !add.is_empty() {
            changes.push(ElementChange {
                set: new.name,
                remove,
                add,
            });
        }
    }
    Some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::policy::Lan;

    const NOW: UnixTime = UnixTime(1_800_000_000_000);

    fn isolated(label: &str, n: u8, posture: Posture, until: Option<UnixTime>) -> Isolated {
        Isolated {
            label: label.to_owned(),
            macs: [crate::model::MacAddress([2, 0, 0, 0, 0, n])].into(),
            v4: [[10, 20, 0, n].into()].into(),
            v6: [format!("fe80::{n}").parse().unwrap()].into(),
            posture,
            until,
        }
    }

    fn site(bridges: &[&str], interfaces: &[&str], isolated: Vec<Isolated>) -> Policy {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Policy {
            lan: Lan {
                bridges: owned(bridges),
                interfaces: owned(interfaces),
                gateway_macs: ["02:00:00:00:00:fe".parse().unwrap()].into(),
                gateway_addresses: ["10.20.0.1".parse().unwrap(), "fd20::1".parse().unwrap()].into(),
                broker_ports: [8883].into(),
            },
            isolated,
            quiet_ports: None,
        }
    }

    fn text(policy: &Policy) -> String {
        crate::firewall::render(policy, NOW)
    }

    /// Set `UPDATE_GOLDEN` to write the files anew, then read the difference.
    fn compare(case: &str, policy: &Policy) {
        let path = format!("{}/src/firewall/golden/{case}.nft", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text(policy)).unwrap();
        }
        assert_eq!(text(policy), std::fs::read_to_string(&path).unwrap(), "{path}");
    }

    #[test]
    fn a_policy_becomes_these_tables() {
        let until = Some(UnixTime(NOW.0 + 60_000));
        let two = vec![
            isolated("cam", 1, Posture::Isolate, None),
            isolated("plc", 2, Posture::Remediate, until),
            isolated("over", 3, Posture::Isolate, Some(NOW)),
        ];
        compare("no-lan", &site(&[], &[], two.clone()));
        compare("plain-interfaces", &site(&[], &["eth1", "wlan0"], vec![]));
        let mut bridged = site(&["br0"], &[], two);
        bridged.quiet_ports = Some(["lan1".to_owned()].into());
        compare("bridge", &bridged);
    }

    #[test]
    fn a_shared_identity_gets_the_stricter_posture_and_the_later_end() {
        let (soon, late) = (Some(UnixTime(NOW.0 + 1000)), Some(UnixTime(NOW.0 + 9000)));
        let table = |isolated| tables(&site(&["br0"], &[], isolated), NOW).remove(0);
        let both = table(vec![
            isolated("a", 1, Posture::Remediate, late),
            isolated("b", 1, Posture::Isolate, soon),
        ]);
        let macs = both.set(MAC).unwrap().listed().unwrap();
        assert_eq!(macs.values().map(|element| element.until).collect::<Vec<_>>(), [late]);
        assert!(both.set(REMEDIATE_MAC).unwrap().listed().unwrap().is_empty());
        let unbounded = table(vec![
            isolated("a", 1, Posture::Isolate, None),
            isolated("b", 1, Posture::Isolate, soon),
        ]);
        let macs = unbounded.set(MAC).unwrap().listed().unwrap();
        assert_eq!(macs.values().map(|element| element.until).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn who_comes_and_goes_is_a_change_of_elements_only() {
        let one = vec![isolated("a", 1, Posture::Isolate, None)];
        let mut policy = site(&["br0"], &["eth1"], one);
        let before = tables(&policy, NOW);
        policy.isolated.push(isolated("b", 2, Posture::Remediate, None));
        policy.lan.gateway_addresses.insert("10.20.0.2".parse().unwrap());
        let after = tables(&policy, NOW);
        for (old, new) in before.iter().zip(&after) {
            let changes = element_changes(old, new).unwrap();
            assert!(
                changes
                    .iter()
                    .all(|change| change.remove.is_empty() && !change.add.is_empty())
            );
            let back = element_changes(new, old).unwrap();
            assert!(
                back.iter()
                    .all(|change| !change.remove.is_empty() && change.add.is_empty())
            );
            assert_eq!(element_changes(new, new), Some(vec![]));
        }
        policy.lan.interfaces.insert("eth2".to_owned());
        let moved = tables(&policy, NOW);
        let netdev = |tables: &[Table]| tables.iter().find(|t| t.family == Family::Netdev).cloned().unwrap();
        assert_eq!(element_changes(&netdev(&after), &netdev(&moved)), None);
    }

    #[test]
    fn every_goto_leads_to_a_chain_and_every_lookup_to_a_set_that_exists() {
        for table in tables(&site(&["br0"], &["eth1"], vec![]), NOW) {
            for (position, chain) in table.chains.iter().enumerate() {
                for rule in &chain.rules {
                    for test in &rule.when {
                        if let Test::In(field, set) = test {
                            let set = table.set(set).unwrap();
                            let length = match field.load().0 {
                                crate::firewall::table::Load::Payload { length, .. }
                                | crate::firewall::table::Load::Meta { length, .. } => length,
                                crate::firewall::table::Load::Connection { .. } => 4,
                            };
                            assert_eq!(length, set.key.length(), "{rule}");
                        }
                    }
                    if let Then::Goto(target) = &rule.then {
                        assert!(
                            table.chains.iter().any(|c| c.name == *target && c.hook.is_none()),
                            "{rule}"
                        );
                    }
                }
                assert_eq!(
                    table.chains.iter().rposition(|c| c.name == chain.name),
                    Some(position),
                    "unique names"
                );
            }
        }
    }
}
