//! A small part of nftables as values: exactly the tables, sets and rules this component writes, and their text.
//!
//! The text follows `nft list ruleset` closely enough to be read by anyone who knows that; it is what golden tests and
//! `quarantine plan` show. The kernel is given [`super::encode`]'s bytes, never text.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::UnixTime;

/// Address family of a table (`enum nf_inet`-like numbers of `linux/netfilter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Frames on their way through any bridge of the host.
    Bridge,
    /// Frames at one named link.
    Netdev,
    /// IPv4 and IPv6 packets of the host and through it.
    Inet,
}

/// A table with everything in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
    /// In the order they are created: a rule may only name what exists.
    pub(crate) sets: Vec<Set>,
    pub(crate) chains: Vec<Chain>,
}

/// A named set with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: Key,
    pub(crate) each: Each,
    pub(crate) elements: Elements,
}

/// Where a set's elements come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Elements {
    /// From us: key to what is told with it.
    Listed(BTreeMap<Vec<u8>, Element>),
    /// From packets, at most `size` of them, each forgotten after `timeout_ms` without a packet (0: never).
    Seen { size: u32, timeout_ms: u64 },
}

/// What is told with an element.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// When the kernel is to drop the element.
    pub(crate) until: Option<UnixTime>,
    /// Where its counter starts: packets and bytes.
    pub(crate) counted: Option<(u64, u64)>,
}

/// What every element of a set carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Each {
    Nothing,
    /// Elements may end by themselves.
    Timeout,
    /// Packets and bytes of the lookups that hit it.
    Counter,
    /// A token bucket of its own: a lookup over the limit does not match.
    Limit {
        per_second: u64,
        burst: u32,
    },
}

/// Type of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Ether,
    Ip4,
    Ip6,
    Service,
    Interface,
}

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// `None`: only reached by goto.
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// Where a base chain hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) at: At,
    pub(crate) priority: i32,
    /// Links, for the netdev family.
    pub(crate) devices: Vec<String>,
}

/// The hooks in use (`enum nf_bridge_hooks` values and `enum nf_dev_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Prerouting,
    Input,
    Forward,
    Postrouting,
    Ingress,
    Egress,
}

/// Conditions that must all hold, then a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) when: Vec<Test>,
    pub(crate) then: Then,
}

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    Is(Field, Vec<u8>),
    /// All bits of the mask are zero in the field.
    AnyBit(Field, Vec<u8>),
    /// The bits under the mask have this value.
    Masked(Field, Vec<u8>, Vec<u8>),
    In(Field, &'static str),
}

/// What a rule does in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    Accept,
    Drop,
    /// Nothing: the rule is there for the counter of the element it hits.
    Continue,
    Goto(&'static str),
    /// Count in the rule itself.
    Count,
    /// Add or refresh an element with a counter in a set filled by packets, then accept; falls through when it is full.
    UpdateAndAccept(Field, &'static str),
    /// The same without a verdict.
    Update(Field, &'static str),
}

/// What can be looked at in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    EtherSource,
    EtherDestination,
    /// The two bytes behind the addresses: 0x8100 for a tagged frame, also when the tag was taken off by hardware.
    EtherType,
    /// The protocol the stack sees, behind at most one tag.
    Protocol,
    /// Hardware type, protocol type and lengths.
    ArpKind,
    ArpSenderMac,
    ArpSender,
    ArpTarget,
    Ip4Fragment,
    Ip4Protocol,
    Ip4Source,
    Ip4Destination,
    /// First next-header byte: a frame with extension headers or fragments does not compare equal.
    Ip6Next,
    Ip6Source,
    Ip6Destination,
    SourcePort,
    DestinationPort,
    Icmp6Type,
    /// Target of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4).
    NdTarget,
    /// `chaddr` of a BOOTP message behind its UDP header (RFC 2131, 2).
    DhcpHardware,
    OutInterface,
    /// State of the tracked connection, in the byte order of the host.
    ConnectionState,
}

/// Which header an offset counts from (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Link,
    Network,
    Transport,
}

/// How a field is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    Payload {
        from: Base,
        offset: u32,
        length: u32,
    },
    /// `enum nft_meta_keys` and length.
    Meta {
        key: u32,
        length: u32,
    },
    /// `enum nft_ct_keys`.
    Connection {
        key: u32,
    },
}

impl Field {
    /// Where the kernel finds it, and what nft calls it.
    pub(crate) fn load(self) -> (Load, &'static str) {
        use Base::{Link, Network, Transport};
        let payload = |from, offset, length| Load::Payload { from, offset, length };
        match self {
            Field::EtherDestination => (payload(Link, 0, 6), "ether daddr"),
            Field::EtherSource => (payload(Link, 6, 6), "ether saddr"),
            Field::EtherType => (payload(Link, 12, 2), "ether type"),
            Field::Protocol => (Load::Meta { key: 1, length: 2 }, "meta protocol"),
            Field::ArpKind => (payload(Network, 0, 6), "arp kind"),
            Field::ArpSenderMac => (payload(Network, 8, 6), "arp saddr ether"),
            Field::ArpSender => (payload(Network, 14, 4), "arp saddr ip"),
            Field::ArpTarget => (payload(Network, 24, 4), "arp daddr ip"),
            Field::Ip4Fragment => (payload(Network, 6, 2), "ip frag-off"),
            Field::Ip4Protocol => (payload(Network, 9, 1), "ip protocol"),
            Field::Ip4Source => (payload(Network, 12, 4), "ip saddr"),
            Field::Ip4Destination => (payload(Network, 16, 4), "ip daddr"),
            Field::Ip6Next => (payload(Network, 6, 1), "ip6 nexthdr"),
            Field::Ip6Source => (payload(Network, 8, 16), "ip6 saddr"),
            Field::Ip6Destination => (payload(Network, 24, 16), "ip6 daddr"),
            Field::SourcePort => (payload(Transport, 0, 2), "th sport"),
            Field::DestinationPort => (payload(Transport, 2, 2), "th dport"),
            Field::Icmp6Type => (payload(Transport, 0, 1), "icmpv6 type"),
            Field::NdTarget => (payload(Transport, 8, 16), "icmpv6 taddr"),
            Field::DhcpHardware => (payload(Transport, 36, 6), "dhcp chaddr"),
            Field::OutInterface => (Load::Meta { key: 7, length: 16 }, "oifname"),
            Field::ConnectionState => (Load::Connection { key: 0 }, "ct state"),
        }
    }

    fn value(self, bytes: &[u8]) -> String {
        let key = match self {
            Field::EtherSource | Field::EtherDestination | Field::ArpSenderMac | Field::DhcpHardware => Key::Ether,
            Field::ArpSender | Field::ArpTarget | Field::Ip4Source | Field::Ip4Destination => Key::Ip4,
            Field::Ip6Source | Field::Ip6Destination | Field::NdTarget => Key::Ip6,
            Field::SourcePort | Field::DestinationPort => Key::Service,
            Field::OutInterface => Key::Interface,
            Field::Ip4Protocol | Field::Ip6Next => {
                return match bytes {
                    [6] => "tcp".to_owned(),
                    [17] => "udp".to_owned(),
                    [58] => "ipv6-icmp".to_owned(),
                    other => hex(other),
                };
            }
            Field::EtherType | Field::Protocol => {
                return match bytes {
                    [0x08, 0x00] => "ip".to_owned(),
                    [0x08, 0x06] => "arp".to_owned(),
                    [0x86, 0xdd] => "ip6".to_owned(),
                    other => hex(other),
                };
            }
            Field::Icmp6Type => {
                return match bytes {
                    [133] => "nd-router-solicit".to_owned(),
                    [134] => "nd-router-advert".to_owned(),
                    [135] => "nd-neighbor-solicit".to_owned(),
                    [136] => "nd-neighbor-advert".to_owned(),
                    other => hex(other),
                };
            }
            Field::ArpKind | Field::Ip4Fragment | Field::ConnectionState => return hex(bytes),
        };
        key.text(bytes)
    }
}

impl Key {
    /// Length in bytes.
    pub(crate) fn length(self) -> u32 {
        match self {
            Key::Ether => 6,
            Key::Ip4 => 4,
            Key::Ip6 | Key::Interface => 16,
            Key::Service => 2,
        }
    }

    /// nft's own number for the type (`enum datatypes` of its datatype.h), so that `nft list` prints addresses.
    pub(crate) fn number(self) -> u32 {
        match self {
            Key::Ip4 => 7,
            Key::Ip6 => 8,
            Key::Ether => 9,
            Key::Service => 13,
            Key::Interface => 41,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Key::Ip4 => "ipv4_addr",
            Key::Ip6 => "ipv6_addr",
            Key::Ether => "ether_addr",
            Key::Service => "inet_service",
            Key::Interface => "ifname",
        }
    }

    fn text(self, bytes: &[u8]) -> String {
        match self {
            Key::Ether => bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
            Key::Ip4 => <[u8; 4]>::try_from(bytes).map_or_else(|_| hex(bytes), |b| Ipv4Addr::from(b).to_string()),
            Key::Ip6 => <[u8; 16]>::try_from(bytes).map_or_else(|_| hex(bytes), |b| Ipv6Addr::from(b).to_string()),
            Key::Service => {
                <[u8; 2]>::try_from(bytes).map_or_else(|_| hex(bytes), |b| u16::from_be_bytes(b).to_string())
            }
            Key::Interface => format!("\"{}\"", interface_text(bytes)),
        }
    }
}

/// The name in a zero-padded interface key.
pub(crate) fn interface_text(bytes: &[u8]) -> String {
    let name: Vec<u8> = bytes.iter().copied().take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&name).into_owned()
}

/// The zero-padded key of an interface name (IFNAMSIZ bytes).
pub(crate) fn interface_key(name: &str) -> Vec<u8> {
    let mut key: Vec<u8> = name.bytes().take(15).collect();
    key.resize(16, 0);
    key
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, b| format!("{text}{b:02x}"))
}

impl Table {
    /// Whether the two differ in nothing but the elements we list: what stays while devices come and go.
    pub(crate) fn same_shape(&self, other: &Table) -> bool {
        let sets = self.sets.len() == other.sets.len()
            && self.sets.iter().zip(&other.sets).all(|(a, b)| {
                let filled_alike = match (&a.elements, &b.elements) {
                    (Elements::Listed(_), Elements::Listed(_)) => true,
                    (a, b) => a == b,
                };
                (a.name, a.key, a.each) == (b.name, b.key, b.each) && filled_alike
            });
        sets && self.family == other.family && self.name == other.name && self.chains == other.chains
    }

    /// The set of that name.
    pub(crate) fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

impl Set {
    /// Its elements, when they come from us.
    pub(crate) fn listed(&self) -> Option<&BTreeMap<Vec<u8>, Element>> {
        match &self.elements {
            Elements::Listed(elements) => Some(elements),
            Elements::Seen { .. } => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Bridge => "bridge",
            Family::Netdev => "netdev",
            Family::Inet => "inet",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {} {{", self.family, self.name)?;
        for set in &self.sets {
            write!(f, "{set}")?;
        }
        for chain in &self.chains {
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  set {} {{ type {};", self.name, self.key.name())?;
        match self.each {
            Each::Nothing => {}
            Each::Timeout => f.write_str(" flags timeout;")?,
            Each::Counter => f.write_str(" counter;")?,
            Each::Limit { per_second, burst } => {
                write!(f, " limit rate {per_second}/second burst {burst} packets;")?;
            }
        }
        match &self.elements {
            Elements::Seen { size, timeout_ms } => {
                write!(f, " flags dynamic; size {size}; timeout {}s;", timeout_ms / 1000)?;
            }
            Elements::Listed(elements) if elements.is_empty() => {}
            Elements::Listed(elements) => {
                let texts: Vec<String> = elements
                    .iter()
                    .map(|(key, element)| {
                        let until = element
                            .until
                            .map(|until| format!(" until {}", until.seconds()))
                            .unwrap_or_default();
                        format!("{}{until}", self.key.text(key))
                    })
                    .collect();
                write!(f, " elements = {{ {} }};", texts.join(", "))?;
            }
        }
        writeln!(f, " }}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  chain {} {{", self.name)?;
        if let Some(hook) = &self.hook {
            let at = format!("{:?}", hook.at).to_lowercase();
            let devices = match hook.devices.as_slice() {
                [] => String::new(),
                devices => format!(" devices = {{ {} }}", devices.join(", ")),
            };
            writeln!(
                f,
                "    type filter hook {at}{devices} priority {}; policy accept;",
                hook.priority
            )?;
        }
        for rule in &self.rules {
            writeln!(f, "    {rule}")?;
        }
        writeln!(f, "  }}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self
            .when
            .iter()
            .map(|test| match test {
                Test::Is(field, value) => format!("{} {}", field.load().1, field.value(value)),
                Test::AnyBit(field, mask) => format!("{} & {} != 0", field.load().1, hex(mask)),
                Test::Masked(field, mask, value) => {
                    format!("{} & {} == {}", field.load().1, hex(mask), field.value(value))
                }
                Test::In(field, set) => format!("{} @{set}", field.load().1),
            })
            .collect();
        match &self.then {
            Then::Accept => words.push("accept".to_owned()),
            Then::Drop => words.push("drop".to_owned()),
            Then::Continue => words.push("continue".to_owned()),
            Then::Goto(chain) => words.push(format!("goto {chain}")),
            Then::Count => words.push("counter".to_owned()),
            Then::Update(field, set) => words.push(format!("update @{set} {{ {} counter }}", field.load().1)),
            Then::UpdateAndAccept(field, set) => {
                words.push(format!("update @{set} {{ {} counter }} accept", field.load().1));
            }
        }
        f.write_str(&words.join(" "))
    }
}
