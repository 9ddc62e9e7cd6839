//! Traffic per device, counted by sets with one element per device, in a table of its own.
//!
//! The table stands before the quarantine on the way in (attempts count as sent) and behind it on the way out (only
//! what reached the device counts as received). Numbers are those the kernel sees: frames merged by GRO or not yet cut
//! by TSO count as one packet, so packets are exact only with offloads off; see `docs/quarantine-firewall.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::FirewallError;
use super::build::element_changes;
use super::encode::{self, OWNER, PERSIST};
use super::nftables::TableOwnership;
use super::readback;
use super::table::{
    At, Chain, Each, Element, Elements, Family, Field, Hook, Key, Rule, Set, Table, Test, Then, interface_text,
};
use crate::model::{Counters, MacAddress, UnixTime};
use crate::netlink::{NetlinkError, Protocol, Socket};

/// Name of our accounting tables.
pub(crate) const ACCT: &str = "edge_warden_acct";
const SENT: &str = "sent";
const RECEIVED: &str = "received";
const UNKNOWN: &str = "unknown";
const GROUP: &str = "group";
/// Unknown hardware addresses counted at a time; more are only counted in sum.
const UNKNOWN_SIZE: u32 = 4096;
const GROUP_SIZE: u32 = 1024;
const UNKNOWN_TIMEOUT_MS: u64 = 3_600_000;
/// Destination, source, type: what the kernel leaves out where it counts from the network header on.
const ETHERNET_HEADER: u64 = 14;
const FAMILIES: [Family; 2] = [Family::Bridge, Family::Netdev];
/// Where the rule stands that keeps connection tracking on.
const TRACKING_FAMILY: Family = Family::Inet;

/// Something that counts traffic per device.
pub trait Accounting {
    /// From now on counts exactly these devices. Devices that stay keep their counts.
    ///
    /// # Errors
    /// The kernel refused.
    fn track(&mut self, devices: &BTreeSet<MacAddress>) -> Result<(), FirewallError>;

    /// Raw counts, monotonic while [`Traffic::generation`] stays the same.
    ///
    /// # Errors
    /// Nothing is tracked, or the kernel could not be read: then nothing is known, not zero.
    fn read(&mut self) -> Result<Traffic, FirewallError>;
}

/// Everything that was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Per tracked device, from its own point of view. Group frames it may have received are not in it.
    pub devices: BTreeMap<MacAddress, Counters>,
    /// Sent by devices nobody tracks, at most 4,096 of them, each forgotten after an hour of silence.
    pub unknown: BTreeMap<MacAddress, Volume>,
    /// Sent by yet other devices while `unknown` was full.
    pub uncounted: Volume,
    /// Broadcast and multicast frames towards each LAN port.
    pub group: BTreeMap<String, Volume>,
    /// Differs whenever counters started over (table rebuilt).
    pub generation: u64,
}

/// Frames and their bytes, with the Ethernet header, without the frame check sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The links to count on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountingLan {
    /// Any bridge is counted when this is not empty.
    pub bridges: BTreeSet<String>,
    /// LAN interfaces that are not ports of a bridge.
    pub interfaces: BTreeSet<String>,
}

/// Accounting by nf_tables.
#[derive(Debug)]
pub struct NftablesAccounting {
    netlink: Socket,
    lan: AccountingLan,
    written: Option<Vec<Table>>,
    generation: u64,
    tracking: bool,
    ownership: TableOwnership,
}

impl NftablesAccounting {
    /// Opens the socket in the network namespace of the calling thread. Counts nothing yet.
    ///
    /// # Errors
    /// No netfilter socket to be had.
    pub fn open(lan: AccountingLan) -> Result<Self, FirewallError> {
        let netlink = Socket::open(Protocol::Netfilter).map_err(kernel)?;
        Ok(Self {
            netlink,
            lan,
            written: None,
            generation: 0,
            tracking: false,
            ownership: TableOwnership::Auto,
        })
    }

    /// Whether the kernel guards the tables from now on; when that changes they are made anew and counters start over.
    pub fn guard(&mut self, ownership: TableOwnership) {
        if self.ownership != ownership {
            self.ownership = ownership;
            self.distrust();
        }
    }

    /// The port id under which the kernel reports our own changes.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.netlink.port()
    }

    /// Told that somebody else touched the table: the next [`Accounting::track`] makes it anew.
    pub fn distrust(&mut self) {
        self.written = None;
        self.tracking = false;
    }

    /// Keeps connection tracking on for IPv4 and IPv6: the kernel attaches the tracker to a family only while a rule
    /// needs it (`nft_ct_get_init` in net/netfilter/nft_ct.c). Ours is in a chain without a hook, so that no packet ever
    /// passes it. In a table of its own: a kernel without connection tracking refuses this and still counts traffic.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn track_connections(&mut self) -> Result<(), FirewallError> {
        if self.tracking {
            return Ok(());
        }
        let rule = Rule {
            when: vec![Test::Is(Field::ConnectionState, vec![0; 4])],
            then: Then::Continue,
        };
        let wanted = Table {
            family: TRACKING_FAMILY,
            name: ACCT,
            sets: Vec::new(),
            chains: vec![Chain {
                name: "keep_tracking",
                hook: None,
                rules: vec![rule],
            }],
        };
        self.replace(&[TRACKING_FAMILY], &[wanted]).map_err(kernel)?;
        self.tracking = true;
        Ok(())
    }

    /// Counts on other links from now on; counters start over.
    pub fn move_to(&mut self, lan: AccountingLan) {
        if self.lan != lan {
            self.lan = lan;
            self.written = None;
        }
    }

    /// Removes the accounting table.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn purge(&mut self) -> Result<(), FirewallError> {
        let mut operations = Vec::new();
        for family in FAMILIES.into_iter().chain([TRACKING_FAMILY]) {
            if readback::table_flags(&mut self.netlink, family, ACCT)
                .map_err(kernel)?
                .is_some()
            {
                operations.push(encode::delete_table(family, ACCT));
            }
        }
        self.distrust();
        if operations.is_empty() {
            return Ok(());
        }
        self.netlink
            .transact("remove accounting", &encode::batch(operations))
            .map_err(kernel)
    }

    fn step(&mut self, wanted: &[Table]) -> Option<Result<(), NetlinkError>> {
        let written = self.written.as_ref()?;
        let mut operations = Vec::new();
        for (old, new) in written.iter().zip(wanted) {
            for change in element_changes(old, new)? {
                operations.extend(encode::change(new, &change, UnixTime(0)));
            }
        }
        if operations.is_empty() {
            return Some(Ok(()));
        }
        Some(self.netlink.transact("track devices", &encode::batch(operations)))
    }

    /// Puts `wanted` in the place of whatever our tables of these families hold.
    fn replace(&mut self, families: &[Family], wanted: &[Table]) -> Result<(), NetlinkError> {
        let attempt = |netlink: &mut Socket, flags| {
            let mut operations = Vec::new();
            for &family in families {
                if readback::table_flags(netlink, family, ACCT)?.is_some() {
                    operations.push(encode::delete_table(family, ACCT));
                }
            }
            for table in wanted {
                operations.extend(encode::create(table, flags, UnixTime(0)));
            }
            if operations.is_empty() {
                return Ok(());
            }
            netlink.transact("set up accounting", &encode::batch(operations))
        };
        let flags = match self.ownership {
            TableOwnership::Auto => OWNER | PERSIST,
            TableOwnership::Off => 0,
        };
        match attempt(&mut self.netlink, flags) {
            Err(error) if flags != 0 && matches!(error.refusal(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                attempt(&mut self.netlink, 0)
            }
            result => result,
        }
    }
}

fn kernel(source: NetlinkError) -> FirewallError {
    FirewallError::Kernel { table: ACCT, source }
}

impl Accounting for NftablesAccounting {
    fn track(&mut self, devices: &BTreeSet<MacAddress>) -> Result<(), FirewallError> {
        let wanted = tables(&self.lan, devices);
        match self.step(&wanted) {
            Some(Ok(())) => {}
            Some(Err(_)) | None => {
                self.written = None;
                self.generation = self.generation.wrapping_add(1);
                self.replace(&FAMILIES, &wanted).map_err(kernel)?;
            }
        }
        self.written = Some(wanted);
        Ok(())
    }

    fn read(&mut self) -> Result<Traffic, FirewallError> {
        let mut traffic = Traffic {
            generation: self.generation,
            ..Traffic::default()
        };
        for table in self.written.clone().unwrap_or_default() {
            let family = table.family;
            // Netdev egress is the only place that counts with the Ethernet header.
            let missing_out = ETHERNET_HEADER;
            let missing_in = if family == Family::Netdev { 0 } else { ETHERNET_HEADER };
            let mut elements = |set| readback::elements(&mut self.netlink, family, ACCT, set).map_err(kernel);
            for (key, held) in elements(SENT)? {
                let Ok(mac) = key.as_slice().try_into() else { continue };
                let sent = volume(held.counted, missing_out);
                let counters = traffic.devices.entry(MacAddress(mac)).or_default();
                *counters += Counters {
                    bytes_out: sent.bytes,
                    packets_out: sent.packets,
                    ..Counters::default()
                };
            }
            for (key, held) in elements(RECEIVED)? {
                let Ok(mac) = key.as_slice().try_into() else { continue };
                let received = volume(held.counted, missing_in);
                let counters = traffic.devices.entry(MacAddress(mac)).or_default();
                *counters += Counters {
                    bytes_in: received.bytes,
                    packets_in: received.packets,
                    ..Counters::default()
                };
            }
            for (key, held) in elements(UNKNOWN)? {
                let Ok(mac) = key.as_slice().try_into() else { continue };
                traffic
                    .unknown
                    .entry(MacAddress(mac))
                    .or_default()
                    .add(volume(held.counted, missing_out));
            }
            for (key, held) in elements(GROUP)? {
                traffic
                    .group
                    .entry(interface_text(&key))
                    .or_default()
                    .add(volume(held.counted, missing_in));
            }
            let uncounted = readback::rule_counters(&mut self.netlink, family, ACCT).map_err(kernel)?;
            traffic.uncounted.add(volume(Some(uncounted), missing_out));
        }
        Ok(traffic)
    }
}

impl Volume {
    fn add(&mut self, other: Volume) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

fn volume(counted: Option<(u64, u64)>, missing: u64) -> Volume {
    let (packets, bytes) = counted.unwrap_or_default();
    Volume {
        packets,
        bytes: bytes.saturating_add(packets.saturating_mul(missing)),
    }
}

/// The accounting tables for these links and devices.
fn tables(lan: &AccountingLan, devices: &BTreeSet<MacAddress>) -> Vec<Table> {
    let mut tables = Vec::new();
    if !lan.bridges.is_empty() {
        let chains = vec![
            base("from_ports", At::Prerouting, -510, &[], sent()),
            base("to_ports", At::Postrouting, 510, &[], received()),
        ];
        tables.push(Table {
            family: Family::Bridge,
            name: ACCT,
            sets: sets(devices),
            chains,
        });
    }
    if !lan.interfaces.is_empty() {
        let links: Vec<String> = lan.interfaces.iter().cloned().collect();
        let chains = vec![
            base("from_links", At::Ingress, -510, &links, sent()),
            base("to_links", At::Egress, 510, &links, received()),
        ];
        tables.push(Table {
            family: Family::Netdev,
            name: ACCT,
            sets: sets(devices),
            chains,
        });
    }
    tables
}

fn base(name: &'static str, at: At, priority: i32, devices: &[String], rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            at,
            priority,
            devices: devices.to_vec(),
        }),
        rules,
    }
}

/// `accept` ends only this chain: the quarantine comes later and decides.
fn sent() -> Vec<Rule> {
    vec![
        Rule {
            when: vec![Test::In(Field::EtherSource, SENT)],
            then: Then::Accept,
        },
        Rule {
            when: Vec::new(),
            then: Then::UpdateAndAccept(Field::EtherSource, UNKNOWN),
        },
        // Reached only when the set of unknown devices is full.
        Rule {
            when: Vec::new(),
            then: Then::Count,
        },
    ]
}

fn received() -> Vec<Rule> {
    let group = Test::Masked(Field::EtherDestination, vec![1, 0, 0, 0, 0, 0], vec![1, 0, 0, 0, 0, 0]);
    vec![
        Rule {
            when: vec![Test::In(Field::EtherDestination, RECEIVED)],
            then: Then::Accept,
        },
        Rule {
            when: vec![group],
            then: Then::Update(Field::OutInterface, GROUP),
        },
    ]
}

fn sets(devices: &BTreeSet<MacAddress>) -> Vec<Set> {
    let known: BTreeMap<Vec<u8>, Element> = devices.iter().map(|mac| (mac.0.to_vec(), Element::default())).collect();
    let listed = |name| Set {
        name,
        key: Key::Ether,
        each: Each::Counter,
        elements: Elements::Listed(known.clone()),
    };
    let seen = |name, key, size, timeout_ms| Set {
        name,
        key,
        each: Each::Counter,
        elements: Elements::Seen { size, timeout_ms },
    };
    vec![
        listed(SENT),
        listed(RECEIVED),
        seen(UNKNOWN, Key::Ether, UNKNOWN_SIZE, UNKNOWN_TIMEOUT_MS),
        seen(GROUP, Key::Interface, GROUP_SIZE, 0),
    ]
}
