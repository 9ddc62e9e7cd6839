//! Network interfaces and which of their counters make up the host's traffic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::model::{Counters, MacAddress};

/// One network interface at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index, never used twice while the namespace lives; 0 when the source does not tell it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// True for the loopback interface.
    pub loopback: bool,
    /// Switched on by the administrator (`IFF_UP`); `None` when the source does not tell.
    pub up: Option<bool>,
    /// The bridge, bond, team or VRF it is a port of.
    pub master: Option<u32>,
    /// The interface below it (a VLAN's link) or, for a veth, its peer; only when it is in this namespace.
    pub parent: Option<u32>,
    /// What kind of virtual link it is (`bridge`, `vlan`, `veth`, ...; IFLA_INFO_KIND); `None` for hardware.
    pub kind: Option<String>,
    /// Its Ethernet address; `None` for none and for links of other hardware types.
    pub mac: Option<MacAddress>,
    /// Its own addresses; `None` when they could not be read.
    pub addresses: Option<Vec<InterfaceAddress>>,
    /// Whether a default route, IPv4 or IPv6, leaves by it; `None` when routes could not be read.
    pub default_route: Option<bool>,
    /// Everything it received and sent since it was made, as its driver counts.
    pub counters: Counters,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The host's own address.
    pub address: IpAddr,
    /// Length of the prefix that is on the link.
    pub prefix_length: u8,
}

impl Interface {
    /// `name#index`: an interface that is made anew under an old name has counters that start over, and another key.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}#{}", self.name, self.index)
    }
}

/// Whose counters make up the host's traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum InterfaceSelection {
    /// Every interface, each frame once: without loopback, without the ports of a bridge, bond or team, without VLANs
    /// and their like on an interface that is counted.
    #[default]
    Auto,
    /// Exactly the interfaces of these names, whatever they are. A name the host does not have counts nothing.
    Listed(BTreeSet<String>),
}

/// Links whose frames have been or will be counted on another link of this host under [`InterfaceSelection::Auto`]:
/// a VRF repeats its members, the others mirror.
const REPEATING: [&str; 3] = ["vrf", "ifb", "nlmon"];

/// Links that send and receive all their frames through the link below them.
const CARRIED: [&str; 6] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];

/// The counters `selection` picks, by [`Interface::key`].
pub(super) fn counters(interfaces: &[Interface], selection: &InterfaceSelection) -> BTreeMap<String, Counters> {
    let layers = Layers::new(interfaces);
    interfaces
        .iter()
        .filter(|interface| match selection {
            InterfaceSelection::Auto => layers.counts(interface, MAX_LAYERS),
            InterfaceSelection::Listed(names) => names.contains(&interface.name),
        })
        .map(|interface| (interface.key(), interface.counters))
        .collect()
}

/// The kernel nests at most 8 levels (`MAX_NEST_DEV` in include/linux/netdevice.h); the limit only keeps senseless
/// data from recursing for ever.
const MAX_LAYERS: u8 = 20;

/// Which interface lies on which.
struct Layers<'a> {
    by_index: HashMap<u32, &'a Interface>,
    /// Ports that are themselves carried by a link below, by master.
    carried_ports: HashMap<u32, Vec<&'a Interface>>,
}

impl<'a> Layers<'a> {
    fn new(interfaces: &'a [Interface]) -> Self {
        let by_index = interfaces
            .iter()
            .filter(|i| i.index != 0)
            .map(|i| (i.index, i))
            .collect();
        let mut carried_ports: HashMap<u32, Vec<&Interface>> = HashMap::new();
        for port in interfaces.iter().filter(|i| is(i, &CARRIED)) {
            if let Some(master) = port.master {
                carried_ports.entry(master).or_default().push(port);
            }
        }
        Self {
            by_index,
            carried_ports,
        }
    }

    fn get(&self, index: Option<u32>) -> Option<&'a Interface> {
        self.by_index.get(&index?).copied()
    }

    fn counts(&self, interface: &Interface, depth: u8) -> bool {
        let Some(depth) = depth.checked_sub(1) else {
            return true;
        };
        if interface.loopback || is(interface, &REPEATING) || self.is_counted_below(interface, depth) {
            return false;
        }
        match self.get(interface.master).filter(|master| !is(master, &REPEATING)) {
            Some(master) => self.is_split(master, depth),
            None => !self.is_split(interface, depth),
        }
    }

    /// Its frames are counted on a link it lies on.
    fn is_counted_below(&self, interface: &Interface, depth: u8) -> bool {
        let Some(depth) = depth.checked_sub(1) else {
            return false;
        };
        is(interface, &CARRIED)
            && self
                .get(interface.parent)
                .is_some_and(|parent| self.counts(parent, depth) || self.is_counted_below(parent, depth))
    }

    /// A bridge or bond with a port whose frames are counted below the port: its own counters would repeat those, so
    /// its other ports are counted in its place.
    fn is_split(&self, master: &Interface, depth: u8) -> bool {
        self.carried_ports
            .get(&master.index)
            .is_some_and(|ports| ports.iter().any(|port| self.is_counted_below(port, depth)))
    }
}

fn is(interface: &Interface, kinds: &[&str]) -> bool {
    interface.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name kind master parent`, indexes by position from 1, `-` for none.
    fn host(lines: &[&str]) -> Vec<Interface> {
        let names: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        let index = |name: &str| {
            let position = names.iter().position(|n| *n == name)?;
            u32::try_from(position + 1).ok()
        };
        lines
            .iter()
            .map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let index_of_self = index(fields[0]).unwrap();
                Interface {
                    index: index_of_self,
                    name: fields[0].to_owned(),
                    loopback: fields[0] == "lo",
                    up: Some(true),
                    master: index(fields[2]),
                    parent: index(fields[3]),
                    kind: (fields[1] != "-").then(|| fields[1].to_owned()),
                    mac: None,
                    addresses: Some(Vec::new()),
                    default_route: Some(false),
                    counters: Counters {
                        bytes_in: u64::from(index_of_self),
                        ..Counters::default()
                    },
                }
            })
            .collect()
    }

    fn auto(lines: &[&str]) -> Vec<String> {
        let mut names: Vec<String> = counters(&host(lines), &InterfaceSelection::Auto)
            .into_keys()
            .map(|key| key.split('#').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn each_frame_is_counted_once() {
        // Loopback never; hardware, veth and tunnels are ordinary.
        assert_eq!(
            auto(&[
                "lo - - -",
                "eth0 - - -",
                "veth1 veth - veth2",
                "veth2 veth - veth1",
                "wg0 wireguard - -"
            ]),
            ["eth0", "veth1", "veth2", "wg0"]
        );
        // A bridge for its ports, a bond for its members.
        assert_eq!(
            auto(&[
                "eth0 - br0 -",
                "eth1 - br0 -",
                "br0 bridge - -",
                "veth1 veth docker0 -",
                "docker0 bridge - -"
            ]),
            ["br0", "docker0"]
        );
        assert_eq!(auto(&["eth0 - bond0 -", "eth1 - bond0 -", "bond0 bond - -"]), ["bond0"]);
        // The parent for its VLANs, through every layer.
        assert_eq!(
            auto(&["eth0 - - -", "eth0.5 vlan - eth0", "eth0.5.7 vlan - eth0.5"]),
            ["eth0"]
        );
        assert_eq!(auto(&["br0 bridge - -", "eth0 - br0 -", "br0.5 vlan - br0"]), ["br0"]);
        assert_eq!(
            auto(&["eth0 - bond0 -", "bond0 bond - -", "bond0.5 vlan - bond0"]),
            ["bond0"]
        );
        assert_eq!(auto(&["eth0 - - -", "mv0 macvlan - eth0"]), ["eth0"]);
        // A VLAN whose parent's own counters are left out is counted: it takes its frames before the bridge does.
        assert_eq!(
            auto(&["eth0 - br0 -", "br0 bridge - -", "eth0.5 vlan - eth0"]),
            ["br0", "eth0.5"]
        );
        // A VLAN whose parent is in another namespace is counted here.
        assert_eq!(auto(&["eth0.5 vlan - -"]), ["eth0.5"]);
        // A bridge over a VLAN of a counted interface would repeat it: its other ports stand for it.
        assert_eq!(
            auto(&["eth0 - - -", "eth0.5 vlan br5 eth0", "wlan0 - br5 -", "br5 bridge - -"]),
            ["eth0", "wlan0"]
        );
        // A VRF repeats its members.
        assert_eq!(auto(&["eth0 - red -", "red vrf - -"]), ["eth0"]);
    }

    #[test]
    fn a_listed_interface_counts_whatever_it_is() {
        let interfaces = host(&["lo - - -", "eth0 - br0 -", "br0 bridge - -"]);
        let names = ["lo", "eth0", "gone"].map(str::to_owned).into();
        let counted = counters(&interfaces, &InterfaceSelection::Listed(names));
        assert_eq!(counted.keys().collect::<Vec<_>>(), ["eth0#2", "lo#1"]);
        assert_eq!(counted["eth0#2"].bytes_in, 2);
    }

    #[test]
    fn senseless_layers_do_not_recurse_for_ever() {
        // What a circle counts has no right answer; that the sound interface beside it is counted has.
        for circle in [
            ["eth0 - - -", "a vlan b b", "b vlan a a"],
            ["eth0 - - -", "a vlan a a", "b bridge b b"],
        ] {
            assert!(auto(&circle).contains(&"eth0".to_owned()));
        }
    }
}
