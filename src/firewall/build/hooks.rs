//! Where frames of and to isolated devices are caught, and where they end.

use super::allowances::{address_chains, from_device, to_device};
use super::names::{IP4, IP6, MAC, QUIET_PORTS};
use super::rules::{ARP, ICMPV6, IPV4, IPV6, base, chain, is, rule, within};
use crate::firewall::table::{At, Chain, Field, Hook, Rule, Test, Then};

fn drop_chain(name: &'static str, by: Field, counted_in: &'static str) -> Chain {
    chain(
        name,
        vec![rule([within(by, counted_in)], Then::Continue), rule([], Then::Drop)],
    )
}

pub(super) fn common_chains() -> Vec<Chain> {
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
pub(super) fn bridge_chains() -> Vec<Chain> {
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

pub(super) fn netdev_chains(devices: &[String]) -> Vec<Chain> {
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
