//! What the registry says: who is who.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::model::{MacAddress, ThingName, UnixTime};

/// Where a name, a MAC address or an IP address comes from, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The configuration.
    Configuration,
    /// The thing itself, over the local broker.
    Registration,
    /// A DHCP lease.
    Lease,
    /// The neighbour table.
    Learnt,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Configuration => "configuration",
            Self::Registration => "registration",
            Self::Lease => "lease",
            Self::Learnt => "learnt",
        })
    }
}

/// Two sources that contradict each other. What is in a conflict is shown and never quarantined on an edge alarm, unless
/// the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Conflict {
    /// Several things claim one MAC address.
    Mac {
        /// The address.
        mac: MacAddress,
        /// Who claims it, and by which source.
        claims: BTreeSet<(Source, ThingName)>,
    },
    /// Several devices hold or were given one IP address, or did within the last minutes.
    Address {
        /// The address.
        address: IpAddr,
        /// The devices.
        macs: BTreeSet<MacAddress>,
    },
    /// Several things are configured with one IP address.
    Configured {
        /// The address.
        address: IpAddr,
        /// The things.
        things: BTreeSet<ThingName>,
    },
    /// A device's DHCP hostname gives it the name of a thing that a stronger source ties to other MAC addresses.
    NameTaken {
        /// The device that took the name. It is not taken for the thing.
        mac: MacAddress,
    },
    /// Several devices have the hostname of one thing that only leases name.
    NameShared {
        /// The devices.
        macs: BTreeSet<MacAddress>,
    },
    /// The MAC address goes to and fro between bridge ports or interfaces: two devices use it. Even a configured thing
    /// is not quarantined on an edge alarm then, for the traffic may be the other device's.
    Flapping {
        /// The address.
        mac: MacAddress,
    },
    /// The device answers for one of the gateway's own IP addresses.
    Gateway {
        /// The gateway's address.
        address: IpAddr,
        /// The device.
        mac: MacAddress,
    },
    /// The broker says that the thing is connected from a device that is not the thing's.
    Broker {
        /// Where the connection comes from.
        address: IpAddr,
    },
}

impl Conflict {
    /// True for contradictions about who a device is; the others are about an IP address only.
    #[must_use]
    pub fn is_about_identity(&self) -> bool {
        match self {
            Self::Mac { .. }
            | Self::NameTaken { .. }
            | Self::NameShared { .. }
            | Self::Flapping { .. }
            | Self::Broker { .. } => true,
            Self::Address { .. } | Self::Configured { .. } | Self::Gateway { .. } => false,
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
            let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
            items.join(", ")
        }
        match self {
            Self::Mac { mac, claims } => {
                let claims = claims.iter().map(|(source, thing)| format!("{thing} ({source})"));
                write!(f, "{mac} is claimed by {}", list(claims))
            }
            Self::Address { address, macs } => write!(f, "{address} is held by {}", list(macs)),
            Self::Configured { address, things } => write!(f, "{address} is configured for {}", list(things)),
            Self::NameTaken { mac } => write!(f, "{mac} took its name in a DHCP request"),
            Self::NameShared { macs } => write!(f, "its DHCP hostname is shared by {}", list(macs)),
            Self::Flapping { mac } => write!(f, "{mac} goes to and fro between ports: two devices use it"),
            Self::Gateway { address, mac } => write!(f, "{mac} answers for the gateway's address {address}"),
            Self::Broker { address } => write!(f, "its broker connection comes from {address}, another device"),
        }
    }
}

/// A MAC address of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundMac {
    /// The address.
    pub mac: MacAddress,
    /// Who says it is the thing's.
    pub source: Source,
    /// Another thing claims it too.
    pub contested: bool,
    /// An alarm of the thing may cut off this address.
    pub backs_edge_action: bool,
}

/// An IP address of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundAddress {
    /// The address.
    pub address: IpAddr,
    /// The strongest source that says so.
    pub source: Source,
    /// Another device holds, held or was given it too.
    pub contested: bool,
    /// It may be used to match the thing's packets: no one else has a claim on it, or the configuration gives it to this
    /// thing alone.
    pub usable: bool,
}

/// A MAC address seen on another interface or bridge port than before: a fact, not a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// The interface or port before.
    pub from: String,
    /// The interface or port now.
    pub to: String,
    /// When it was noticed.
    pub at: UnixTime,
}

/// One local thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub thing: ThingName,
    /// The strongest source of the name.
    pub source: Source,
    /// Whether it gets a report (false: it sends its own).
    pub report: bool,
    /// Its MAC addresses, in order.
    pub macs: Vec<BoundMac>,
    /// Its IP addresses, in order.
    pub addresses: Vec<BoundAddress>,
    /// The LAN interface it was last seen on.
    pub interface: Option<String>,
    /// The bridge port it was last seen on.
    pub port: Option<String>,
    /// First seen since start, or since it was forgotten; `None` for a configured thing never seen.
    pub first_seen: Option<UnixTime>,
    /// Last time there was proof of it.
    pub last_seen: Option<UnixTime>,
    /// The last move of one of its MAC addresses.
    pub last_move: Option<Move>,
    /// What contradicts what.
    pub conflicts: BTreeSet<Conflict>,
    /// One of its MAC addresses backs an edge action.
    pub backs_edge_action: bool,
}

impl Identity {
    /// Addresses that may be used to match the thing's packets (see [`BoundAddress::usable`]).
    pub fn usable_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(|a| a.usable).map(|a| a.address)
    }

    /// True when one of its MAC addresses was made up by software, as devices do that hide: it may change any time.
    #[must_use]
    pub fn has_randomised_mac(&self) -> bool {
        self.macs.iter().any(|m| m.mac.is_locally_administered())
    }
}

/// A device that no source names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownDevice {
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its addresses, at most 16.
    pub addresses: BTreeSet<IpAddr>,
    /// The LAN interface it was last seen on.
    pub interface: Option<String>,
    /// The bridge port it was last seen on.
    pub port: Option<String>,
    /// First seen.
    pub first_seen: UnixTime,
    /// Last seen.
    pub last_seen: UnixTime,
    /// Its last move.
    pub last_move: Option<Move>,
}

/// Something told to the registry that it did not take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why not.
    pub reason: String,
}

/// Who is who at one instant.
#[derive(Debug, Clone, Default)]
pub struct IdentityTable {
    pub(super) things: BTreeMap<ThingName, Identity>,
    pub(super) unknown: Vec<UnknownDevice>,
    pub(super) more_unknown: u64,
    pub(super) gateway_claims: BTreeSet<(IpAddr, MacAddress)>,
    pub(super) skipped: BTreeSet<Skipped>,
    pub(super) by_mac: HashMap<MacAddress, ThingName>,
    pub(super) by_address: HashMap<IpAddr, ThingName>,
}

impl IdentityTable {
    /// Whose MAC address this is: the strongest claim wins, equal claims are nobody's.
    #[must_use]
    pub fn thing_of_mac(&self, mac: MacAddress) -> Option<&ThingName> {
        self.by_mac.get(&mac)
    }

    /// Whose IP address this is; `None` while several have a claim on it. `::ffff:a.b.c.d` means the IPv4 address.
    #[must_use]
    pub fn thing_of_ip(&self, address: IpAddr) -> Option<&ThingName> {
        self.by_address.get(&address.to_canonical())
    }

    /// One thing.
    #[must_use]
    pub fn get(&self, thing: &ThingName) -> Option<&Identity> {
        self.things.get(thing)
    }

    /// All local things by name; configured ones also when they were never seen.
    pub fn things(&self) -> impl Iterator<Item = &Identity> {
        self.things.values()
    }

    /// Devices no source names, by MAC address: at most 1,024, or 2,048 while addresses of things are being claimed.
    #[must_use]
    pub fn unknown(&self) -> &[UnknownDevice] {
        &self.unknown
    }

    /// How many more unknown devices went by since start without room in the list; an estimate past 256.
    #[must_use]
    pub fn more_unknown(&self) -> u64 {
        self.more_unknown
    }

    /// Devices, known or not, that answer for one of the gateway's own addresses.
    #[must_use]
    pub fn gateway_claims(&self) -> &BTreeSet<(IpAddr, MacAddress)> {
        &self.gateway_claims
    }

    /// What was told and not taken, with the reason.
    #[must_use]
    pub fn skipped(&self) -> &BTreeSet<Skipped> {
        &self.skipped
    }
}
