//! The parts rules are put together from.

use crate::firewall::table::{At, Chain, Field, Hook, Rule, Test, Then};

pub(super) const ARP: [u8; 2] = [0x08, 0x06];
pub(super) const IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const IPV6: [u8; 2] = [0x86, 0xdd];
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

pub(super) fn rule(when: impl IntoIterator<Item = Test>, then: Then) -> Rule {
    Rule {
        when: when.into_iter().collect(),
        then,
    }
}

pub(super) fn is(field: Field, value: impl AsRef<[u8]>) -> Test {
    Test::Is(field, value.as_ref().to_vec())
}

pub(super) fn within(field: Field, set: &'static str) -> Test {
    Test::In(field, set)
}

pub(super) fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: None,
        rules,
    }
}

pub(super) fn base(name: &'static str, at: At, priority: i32, rules: Vec<Rule>) -> Chain {
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
pub(super) fn ip4(protocol: u8) -> Vec<Test> {
    vec![is(Field::EtherType, IPV4), is(Field::Ip4Protocol, [protocol])]
}

/// IPv6 whose upper-layer header follows directly: extension headers and fragments do not match.
pub(super) fn ip6(protocol: u8) -> Vec<Test> {
    vec![is(Field::EtherType, IPV6), is(Field::Ip6Next, [protocol])]
}

pub(super) fn ports(source: u16, destination: u16) -> Vec<Test> {
    vec![
        is(Field::SourcePort, source.to_be_bytes()),
        is(Field::DestinationPort, destination.to_be_bytes()),
    ]
}

pub(super) fn accept(parts: impl IntoIterator<Item = Vec<Test>>) -> Rule {
    rule(parts.into_iter().flatten(), Then::Accept)
}

pub(super) fn no_fragments(to: &'static str) -> Rule {
    rule(
        [
            is(Field::EtherType, IPV4),
            Test::AnyBit(Field::Ip4Fragment, vec![0x3f, 0xff]),
        ],
        Then::Goto(to),
    )
}
