//! What an isolated device and the gateway may still say to each other.

use super::names::{
    ARP_LIMIT, BROKER_LIMIT, BROKER_PORTS, DHCP_LIMIT, GATEWAY4, GATEWAY6, IP4, IP6, MAC, ND_LIMIT, REMEDIATE_IP4,
    REMEDIATE_IP6, REMEDIATE_MAC,
};
use super::rules::{ARP, ICMPV6, TCP, UDP, accept, chain, ip4, ip6, is, no_fragments, ports, rule, within};
use crate::firewall::table::{Chain, Field, Test, Then};

/// What an isolated device may say to the gateway. Its own claims (sender addresses, targets, chaddr) must be the
/// identities it is isolated by, so that an allowance cannot be used to take over somebody else's address.
pub(super) fn from_device() -> Chain {
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
pub(super) fn to_device() -> Chain {
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
pub(super) fn address_chains() -> Vec<Chain> {
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
