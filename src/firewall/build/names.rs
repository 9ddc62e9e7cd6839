//! Names of our tables' sets.

use crate::firewall::table::Key;

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

/// The gateway's IPv4 addresses.
pub(super) const GATEWAY4: &str = "gateway4";
/// The gateway's IPv6 addresses.
pub(super) const GATEWAY6: &str = "gateway6";
/// The gateway's own broker.
pub(super) const BROKER_PORTS: &str = "broker_ports";
/// Budgets of each device.
pub(super) const ARP_LIMIT: &str = "arp_limit";
pub(super) const DHCP_LIMIT: &str = "dhcp_limit";
pub(super) const ND_LIMIT: &str = "nd_limit";
pub(super) const BROKER_LIMIT: &str = "broker_limit";
