//! Which interfaces the local things are behind, and what the gateway itself is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::collect::{HostSample, Interface, Socket, SocketState};
use crate::config::{AutoOr, InterfaceName};
use crate::devices::BrokerPeer;
use crate::model::{MacAddress, Measured, Missing};

/// The LAN at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LanView {
    /// Bridges with LAN ports.
    pub bridges: BTreeSet<String>,
    /// LAN interfaces that are not ports of a bridge.
    pub interfaces: BTreeSet<String>,
    /// The ports of those bridges.
    pub ports: BTreeSet<String>,
    /// Bridges and interfaces with their index: an interface that is made anew differs.
    pub keys: BTreeSet<String>,
    /// The MAC addresses of all of the gateway's interfaces.
    pub own_macs: BTreeSet<MacAddress>,
    /// The IP addresses of all of the gateway's interfaces.
    pub own_addresses: BTreeSet<IpAddr>,
    /// The gateway's IP addresses on the LAN.
    pub lan_addresses: BTreeSet<IpAddr>,
    /// What a person should know: interfaces left out because nobody knows where they lead, names that do not exist.
    pub notes: BTreeSet<String>,
}

impl LanView {
    /// True when there is no LAN.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bridges.is_empty() && self.interfaces.is_empty()
    }

    /// Every LAN interface by name: bridges, their ports, and plain ones.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.bridges
            .iter()
            .chain(&self.ports)
            .chain(&self.interfaces)
            .cloned()
            .collect()
    }
}

/// The LAN among the gateway's interfaces.
///
/// `auto`: every interface that is up, has an Ethernet address and no default route, and does not carry one that has. A
/// bridge stands for all its ports and is LAN unless it or one of its ports has a default route; a port of anything else
/// is part of that. An interface of which nobody can say whether it has a default route is left out and noted.
///
/// Listed: these, whatever they are; a port means its bridge.
///
/// # Errors
/// The interfaces could not be read.
pub fn find(sample: &HostSample, wanted: &AutoOr<Vec<InterfaceName>>) -> Measured<LanView> {
    let all = sample.interfaces.as_deref().map_err(Missing::clone)?;
    let by_index: BTreeMap<u32, &Interface> = all.iter().filter(|i| i.index != 0).map(|i| (i.index, i)).collect();
    let master = |interface: &Interface| interface.master.and_then(|index| by_index.get(&index).copied());
    let mut view = LanView::default();
    let chosen: Vec<&Interface> = match wanted {
        AutoOr::Auto => automatic(all, &by_index, &mut view.notes),
        AutoOr::Is(names) => {
            let mut chosen = Vec::new();
            for name in names {
                match all.iter().find(|interface| interface.name == name.as_str()) {
                    Some(port) => chosen.push(master(port).filter(|m| is_bridge(m)).unwrap_or(port)),
                    None => {
                        view.notes
                            .insert(format!("lan.interfaces: there is no interface {}", name.as_str()));
                    }
                }
            }
            chosen
        }
    };
    for interface in chosen {
        view.keys.insert(interface.key());
        if is_bridge(interface) {
            view.bridges.insert(interface.name.clone());
            view.ports.extend(ports(all, interface).map(|port| port.name.clone()));
        } else {
            view.interfaces.insert(interface.name.clone());
        }
        let own = interface.addresses.iter().flatten();
        view.lan_addresses.extend(own.map(|own| own.address.to_canonical()));
    }
    for interface in all {
        view.own_macs.extend(interface.mac);
        let own = interface.addresses.iter().flatten();
        view.own_addresses.extend(own.map(|own| own.address.to_canonical()));
    }
    Ok(view)
}

fn automatic<'a>(
    all: &'a [Interface],
    by_index: &BTreeMap<u32, &'a Interface>,
    notes: &mut BTreeSet<String>,
) -> Vec<&'a Interface> {
    let has_default = |interface: &Interface| interface.default_route == Some(true);
    // A VLAN or the like with the default route makes the link below it an uplink.
    let carries_uplink = |interface: &Interface| {
        interface.index != 0
            && all
                .iter()
                .any(|above| has_default(above) && above.parent == Some(interface.index) && !is_kind(above, "veth"))
    };
    let mut chosen = Vec::new();
    for interface in all {
        let possible = !interface.loopback && interface.up != Some(false) && interface.mac.is_some();
        // What is a port of something stands or falls with that.
        let is_port = interface.master.is_some_and(|index| by_index.contains_key(&index));
        if !possible || is_port || is_kind(interface, "vrf") {
            continue;
        }
        let mut links: Vec<&Interface> = vec![interface];
        links.extend(ports(all, interface));
        if links.iter().any(|link| has_default(link) || carries_uplink(link)) {
            continue;
        }
        if interface.default_route.is_none() {
            notes.insert(format!(
                "{} is not taken for LAN: routes could not be read, so it may be the uplink (list it under lan.interfaces)",
                interface.name
            ));
            continue;
        }
        chosen.push(interface);
    }
    chosen
}

fn ports<'a>(all: &'a [Interface], of: &Interface) -> impl Iterator<Item = &'a Interface> {
    let index = Some(of.index).filter(|index| *index != 0);
    all.iter().filter(move |port| index.is_some() && port.master == index)
}

fn is_bridge(interface: &Interface) -> bool {
    is_kind(interface, "bridge")
}

fn is_kind(interface: &Interface, kind: &str) -> bool {
    interface.kind.as_deref() == Some(kind)
}

/// The other ends of established connections to the broker on this core.
#[must_use]
pub fn broker_peers(sockets: &[Socket], ports: &BTreeSet<u16>, own: &BTreeSet<IpAddr>) -> BTreeSet<BrokerPeer> {
    sockets
        .iter()
        .filter(|socket| socket.state == SocketState::Established && ports.contains(&socket.local_port))
        .map(|socket| socket.remote.to_canonical())
        .filter(|remote| !remote.is_loopback() && !own.contains(remote))
        .map(|address| BrokerPeer { address, thing: None })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::{InterfaceAddress, SocketTable};
    use crate::model::{Counters, Reason};

    /// `name kind master parent route`: indexes by position from 1, `-` for none; route `default`, `none` or `?`.
    fn host(lines: &[&str]) -> HostSample {
        let names: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        let index = |name: &str| {
            let place = names.iter().position(|known| *known == name)?;
            u32::try_from(place + 1).ok()
        };
        let interfaces = lines
            .iter()
            .map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let place = index(fields[0]).unwrap();
                Interface {
                    index: place,
                    name: fields[0].to_owned(),
                    loopback: fields[0] == "lo",
                    up: Some(fields[0] != "down0"),
                    kind: (fields[1] != "-").then(|| fields[1].to_owned()),
                    master: index(fields[2]),
                    parent: index(fields[3]),
                    mac: (fields[1] != "tun").then_some(MacAddress([2, 0, 0, 0, 0, u8::try_from(place).unwrap()])),
                    addresses: Some(vec![InterfaceAddress {
                        address: format!("10.0.{place}.1").parse().unwrap(),
                        prefix_length: 24,
                    }]),
                    default_route: match fields[4] {
                        "default" => Some(true),
                        "none" => Some(false),
                        _ => None,
                    },
                    counters: Counters::default(),
                }
            })
            .collect();
        let none = || Err(Missing::new("test", Reason::NotCollected, ""));
        HostSample {
            interfaces: Ok(interfaces),
            sockets: SocketTable {
                tcp: none(),
                udp: none(),
            },
            boot_id: Err(Missing::new("test", Reason::NotCollected, "")),
            notes: Vec::new(),
        }
    }

    fn auto(lines: &[&str]) -> (Vec<String>, Vec<String>, usize) {
        let view = find(&host(lines), &AutoOr::Auto).unwrap();
        (
            view.bridges.into_iter().collect(),
            view.interfaces.into_iter().collect(),
            view.notes.len(),
        )
    }

    fn found(bridges: &[&str], interfaces: &[&str]) -> (Vec<String>, Vec<String>, usize) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        (owned(bridges), owned(interfaces), 0)
    }

    #[test]
    fn a_gateway_with_a_bridge_a_plain_port_and_an_uplink() {
        assert_eq!(
            auto(&[
                "lo - - - none",
                "br0 bridge - - none",
                "lan0 veth br0 - none",
                "lan1 veth br0 - none",
                "lan3 veth - - none",
                "wan0 veth - - default",
                "down0 - - - none",
                "tun0 tun - - none",
            ]),
            found(&["br0"], &["lan3"])
        );
    }

    #[test]
    fn a_flat_bridge_with_the_uplink_in_it_is_no_lan_unless_listed() {
        let flat = ["br0 bridge - - default", "eth0 - br0 - none", "eth1 - br0 - none"];
        assert_eq!(auto(&flat), found(&[], &[]));
        // The route can be on the port too.
        assert_eq!(auto(&["br0 bridge - - none", "eth0 - br0 - default"]), found(&[], &[]));
        // A port means its bridge.
        let listed = AutoOr::Is(vec!["eth1".parse().unwrap(), "gone0".parse().unwrap()]);
        let view = find(&host(&flat), &listed).unwrap();
        assert_eq!(view.names(), ["br0", "eth0", "eth1"].map(str::to_owned).into());
        assert_eq!(
            view.notes.len(),
            1,
            "the name that does not exist is said: {:?}",
            view.notes
        );
    }

    #[test]
    fn the_link_below_an_uplink_vlan_is_no_lan_and_a_bond_stands_for_its_ports() {
        assert_eq!(
            auto(&[
                "eth0 - - - none",
                "eth0.5 vlan - eth0 default",
                "eth0.6 vlan - eth0 none"
            ]),
            found(&[], &["eth0.6"])
        );
        assert_eq!(
            auto(&["bond0 bond - - none", "eth0 - bond0 - none", "eth1 - bond0 - none"]),
            found(&[], &["bond0"])
        );
    }

    #[test]
    fn unknown_routes_are_no_lan_and_said() {
        let (bridges, interfaces, notes) = auto(&["br0 bridge - - ?", "eth0 - - - ?"]);
        assert!(bridges.is_empty() && interfaces.is_empty());
        assert_eq!(notes, 2);
    }

    #[test]
    fn an_empty_list_is_no_lan_and_the_gateway_is_known_all_the_same() {
        let view = find(&host(&["br0 bridge - - none"]), &AutoOr::Is(Vec::new())).unwrap();
        assert!(view.is_empty());
        assert_eq!((view.own_macs.len(), view.own_addresses.len()), (1, 1));
        assert!(view.lan_addresses.is_empty());
    }

    #[test]
    fn broker_peers_are_the_far_ends_of_established_broker_connections() {
        let socket = |state, remote: &str, local_port| Socket {
            state,
            remote: remote.parse().unwrap(),
            remote_port: 40_000,
            local_port,
            local: "10.0.0.1".parse().unwrap(),
            bound_to: 0,
        };
        let sockets = [
            socket(SocketState::Established, "::ffff:10.0.0.5", 8883),
            socket(SocketState::Established, "10.0.0.6", 22),
            socket(SocketState::Established, "127.0.0.1", 8883),
            socket(SocketState::Established, "10.0.0.1", 8883),
            socket(SocketState::Listening, "0.0.0.0", 8883),
        ];
        let peers = broker_peers(&sockets, &[8883].into(), &["10.0.0.1".parse().unwrap()].into());
        let addresses: Vec<String> = peers.iter().map(|peer| peer.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.5"]);
    }
}
