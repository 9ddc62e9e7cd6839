//! What the firewall is asked to hold: where the LAN is, what the gateway itself is, and which devices are cut off.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{MacAddress, UnixTime};

/// The whole of what should be enforced at one time. A value: building and comparing policies touches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The links and addresses the rules are written for.
    pub lan: Lan,
    /// Who is cut off.
    pub isolated: Vec<Isolated>,
    /// Ports (bridge ports or plain interfaces) all of whose known devices are isolated: group frames towards them are
    /// dropped too. `None` when nobody knows which device is behind which port: then group frames pass.
    pub quiet_ports: Option<BTreeSet<String>>,
}

/// The gateway's side of the LAN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lan {
    /// Bridges with LAN ports. One is enough for the rules to hold on every port of every bridge of the host.
    pub bridges: BTreeSet<String>,
    /// LAN interfaces that are not ports of a bridge.
    pub interfaces: BTreeSet<String>,
    /// The gateway's own hardware addresses: never isolated.
    pub gateway_macs: BTreeSet<MacAddress>,
    /// The gateway's own addresses on the LAN, link-local ones too: the only addresses an allowance reaches.
    pub gateway_addresses: BTreeSet<IpAddr>,
    /// TCP ports of the gateway's own broker, open to devices in [`Posture::Remediate`].
    pub broker_ports: BTreeSet<u16>,
}

/// One thing (or unknown device) that is cut off, with every identity it is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolated {
    /// The thing's name, or any other name for a device without one. Never sent to the kernel.
    pub label: String,
    /// Its hardware addresses: the main key, and the only one allowances are given to.
    pub macs: BTreeSet<MacAddress>,
    /// Its IPv4 addresses. Only uncontested ones belong here.
    pub v4: BTreeSet<Ipv4Addr>,
    /// Its IPv6 addresses, link-local ones too. Only uncontested ones belong here.
    pub v6: BTreeSet<Ipv6Addr>,
    /// What it may still do.
    pub posture: Posture,
    /// When the kernel itself lets it go, should the agent be gone by then. `None`: never.
    pub until: Option<UnixTime>,
}

/// What an isolated device may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Posture {
    /// Keep its address: ARP, neighbour discovery and DHCP with the gateway.
    Isolate,
    /// As [`Posture::Isolate`], and TCP to the gateway's broker ports.
    Remediate,
}

/// A policy that must not be written into any kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The hardware address belongs to the gateway.
    #[error("{label}: {mac} is the gateway's own hardware address")]
    GatewayMac {
        /// The isolated device.
        label: String,
        /// The address.
        mac: MacAddress,
    },
    /// The address belongs to the gateway.
    #[error("{label}: {address} is the gateway's own address")]
    GatewayAddress {
        /// The isolated device.
        label: String,
        /// The address.
        address: IpAddr,
    },
    /// The address names no single device.
    #[error("{label}: {address} names no single device (group, broadcast, loopback or unspecified)")]
    NotADevice {
        /// The isolated device.
        label: String,
        /// The address as text.
        address: String,
    },
    /// Nothing identifies the device.
    #[error("{label}: neither a hardware address nor an IP address is known")]
    NoIdentity {
        /// The isolated device.
        label: String,
    },
    /// No link can be called that (`dev_valid_name` in net/core/dev.c).
    #[error("{0:?} is not an interface name")]
    InterfaceName(String),
}

impl Policy {
    /// Refuses what would cut the gateway off or name everybody at once. The full rails are the quarantine's; this is
    /// the last line before the kernel.
    ///
    /// # Errors
    /// The first entry that must not be enforced.
    pub fn check(&self) -> Result<(), PolicyError> {
        let ports = self.quiet_ports.iter().flatten();
        for name in self.lan.bridges.iter().chain(&self.lan.interfaces).chain(ports) {
            let valid = (1..=15).contains(&name.len())
                && name != "."
                && name != ".."
                && !name
                    .bytes()
                    .any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace());
            if !valid {
                return Err(PolicyError::InterfaceName(name.clone()));
            }
        }
        self.isolated.iter().try_for_each(|isolated| isolated.check(&self.lan))
    }
}

impl Isolated {
    fn check(&self, lan: &Lan) -> Result<(), PolicyError> {
        let label = || self.label.clone();
        if self.macs.is_empty() && self.v4.is_empty() && self.v6.is_empty() {
            return Err(PolicyError::NoIdentity { label: label() });
        }
        for mac in &self.macs {
            if lan.gateway_macs.contains(mac) {
                return Err(PolicyError::GatewayMac {
                    label: label(),
                    mac: *mac,
                });
            }
            if mac.is_group() || mac.is_zero() {
                return Err(PolicyError::NotADevice {
                    label: label(),
                    address: mac.to_string(),
                });
            }
        }
        let v4 = self.v4.iter().copied().map(IpAddr::V4);
        let v6 = self.v6.iter().copied().map(IpAddr::V6);
        for address in v4.chain(v6) {
            if lan.gateway_addresses.contains(&address) {
                return Err(PolicyError::GatewayAddress {
                    label: label(),
                    address,
                });
            }
            let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
            if broadcast || address.is_multicast() || address.is_unspecified() || address.is_loopback() {
                return Err(PolicyError::NotADevice {
                    label: label(),
                    address: address.to_string(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mac: &str, v4: &[&str]) -> Policy {
        Policy {
            lan: Lan {
                bridges: ["br0".to_owned()].into(),
                gateway_macs: ["02:00:00:00:00:fe".parse().unwrap()].into(),
                gateway_addresses: ["10.0.0.1".parse().unwrap()].into(),
                ..Lan::default()
            },
            isolated: vec![Isolated {
                label: "cam".to_owned(),
                macs: [mac.parse().unwrap()].into(),
                v4: v4.iter().map(|a| a.parse().unwrap()).collect(),
                v6: BTreeSet::new(),
                posture: Posture::Isolate,
                until: None,
            }],
            quiet_ports: None,
        }
    }

    #[test]
    fn refuses_the_gateway_and_whatever_names_everybody() {
        assert_eq!(policy("02:00:00:00:00:01", &["10.0.0.7"]).check(), Ok(()));
        assert!(matches!(
            policy("02:00:00:00:00:fe", &[]).check(),
            Err(PolicyError::GatewayMac { .. })
        ));
        assert!(matches!(
            policy("01:00:5e:00:00:01", &[]).check(),
            Err(PolicyError::NotADevice { .. })
        ));
        let gateway = policy("02:00:00:00:00:01", &["10.0.0.1"]).check();
        assert!(matches!(gateway, Err(PolicyError::GatewayAddress { .. })));
        for address in ["255.255.255.255", "0.0.0.0", "224.0.0.1", "127.0.0.1"] {
            let refused = policy("02:00:00:00:00:01", &[address]).check();
            assert!(matches!(refused, Err(PolicyError::NotADevice { .. })), "{address}");
        }
    }

    #[test]
    fn refuses_interface_names_no_link_can_have() {
        for name in ["", "a b", "a/b", "..", "a\"}; flush ruleset", "0123456789abcdef"] {
            let mut policy = policy("02:00:00:00:00:01", &[]);
            policy.lan.interfaces.insert(name.to_owned());
            assert_eq!(policy.check(), Err(PolicyError::InterfaceName(name.to_owned())));
        }
    }
}
