//! What no quarantine may ever touch, and how many an alarm may cause.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::model::{MacAddress, ThingName};

/// Who a thing is on the LAN, as far as a decision needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its MAC addresses from sources that are not in conflict, or from the configuration.
    pub macs: BTreeSet<MacAddress>,
    /// Its uncontested addresses; one that another device claims too must not be here.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of `addresses` that the configuration gives it.
    pub fixed: BTreeSet<IpAddr>,
    /// Its addresses that another device claims too, or did within the last minutes.
    pub contested: BTreeSet<IpAddr>,
    /// Sources contradict each other about this thing and none of them is the configuration.
    pub in_conflict: bool,
    /// The identity is good enough for an alarm to act on (configured, or a registration its broker connection backs).
    pub backs_edge_action: bool,
    /// The configuration names its MAC addresses: no other source can take one of them away.
    pub configured: bool,
}

/// An address or thing that must never be cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protected {
    /// A MAC address.
    Mac(MacAddress),
    /// Every address in the network (a single one has the full prefix length).
    Network {
        /// Any address in it.
        address: IpAddr,
        /// Its prefix length.
        prefix: u8,
    },
    /// A thing by name.
    Thing(ThingName),
}

impl Protected {
    /// True when `address` is in this network.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        let Self::Network {
            address: network,
            prefix,
        } = self
        else {
            return false;
        };
        let same = |a: u128, b: u128, bits: u32, prefix: u32| {
            let shift = bits.saturating_sub(prefix);
            a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
        };
        match (network, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32, u32::from(*prefix))
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128, u32::from(*prefix)),
            _ => false,
        }
    }
}

/// The limits of every decision on this host, read when the policy is built. Rails that could not be read are no empty
/// rails: without them no policy may be built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rails {
    /// The core's own MAC addresses, on every interface.
    pub own_macs: BTreeSet<MacAddress>,
    /// The core's own addresses.
    pub own_addresses: BTreeSet<IpAddr>,
    /// MAC addresses of the core's own gateways.
    pub gateway_macs: BTreeSet<MacAddress>,
    /// Addresses of the core's own gateways.
    pub gateway_addresses: BTreeSet<IpAddr>,
    /// DNS servers in use.
    pub dns_servers: BTreeSet<IpAddr>,
    /// What the configuration protects.
    pub protected: Vec<Protected>,
    /// The core's own thing.
    pub core: Option<ThingName>,
}

impl Rails {
    /// Why `mac` may not be cut, if so.
    #[must_use]
    pub fn forbid_mac(&self, mac: MacAddress) -> Option<&'static str> {
        if self.own_macs.contains(&mac) {
            Some("it is a MAC address of the gateway itself")
        } else if self.gateway_macs.contains(&mac) {
            Some("it is the MAC address of the gateway's own uplink router")
        } else if mac.is_group() || mac.is_zero() {
            Some("it is no device's MAC address")
        } else if self.protected.contains(&Protected::Mac(mac)) {
            Some("it is listed in quarantine.protected")
        } else {
            None
        }
    }

    /// Why `address` may not be cut, if so.
    #[must_use]
    pub fn forbid_address(&self, address: IpAddr) -> Option<&'static str> {
        let address = address.to_canonical(); // ::ffff:10.0.0.1 is 10.0.0.1
        if self.own_addresses.contains(&address) {
            Some("it is an address of the gateway itself")
        } else if self.gateway_addresses.contains(&address) {
            Some("it is the address of the gateway's own uplink router")
        } else if self.dns_servers.contains(&address) {
            Some("it is a DNS server in use")
        } else if address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address == IpAddr::V4(Ipv4Addr::BROADCAST)
        {
            Some("it is no device's address")
        } else if self.protected.iter().any(|entry| entry.covers(address)) {
            Some("it is in quarantine.protected")
        } else {
            None
        }
    }
}

/// How many things alarms may hold in quarantine at once, and newly cut in one hour. Shadows and the operator are not
/// bound by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeCap {
    /// `min(max(5, 20 %), half)` of the known devices, at least 1.
    Auto,
    /// As configured.
    Exactly(usize),
}

impl EdgeCap {
    /// The number for a site of `known` devices.
    #[must_use]
    pub fn of(self, known: usize) -> usize {
        match self {
            Self::Auto => (known / 5).max(5).min(known / 2).max(1),
            Self::Exactly(number) => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_cover_their_addresses() {
        let network = |text: &str, prefix| Protected::Network {
            address: text.parse().unwrap(),
            prefix,
        };
        assert!(network("10.0.0.0", 8).covers("10.9.8.7".parse().unwrap()));
        assert!(!network("10.0.0.0", 8).covers("11.0.0.1".parse().unwrap()));
        assert!(network("0.0.0.0", 0).covers("11.0.0.1".parse().unwrap()));
        assert!(!network("0.0.0.0", 0).covers("fd00::1".parse().unwrap()));
        assert!(network("fd00::", 64).covers("fd00::9".parse().unwrap()));
        assert!(!network("fd00::1", 128).covers("fd00::2".parse().unwrap()));
        assert!(network("::", 0).covers("fd00::2".parse().unwrap()));
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        let rails = Rails {
            own_addresses: ["10.0.0.1".parse().unwrap()].into(),
            ..Rails::default()
        };
        assert!(rails.forbid_address("::ffff:10.0.0.1".parse().unwrap()).is_some());
        assert!(rails.forbid_address("255.255.255.255".parse().unwrap()).is_some());
        assert!(rails.forbid_address("10.0.0.2".parse().unwrap()).is_none());
    }

    #[test]
    fn the_cap_leaves_half_of_a_small_site_alone() {
        let caps: Vec<usize> = [0, 1, 2, 5, 10, 25, 100, 1000]
            .map(|known| EdgeCap::Auto.of(known))
            .to_vec();
        assert_eq!(caps, [1, 1, 1, 2, 5, 5, 20, 200]);
        assert_eq!(EdgeCap::Exactly(3).of(1000), 3);
    }
}
