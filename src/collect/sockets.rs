//! TCP and UDP sockets, and what a Device Defender report says about them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::interfaces::Interface;
use crate::model::{Connection, ListeningPort, Measured};

/// The sockets of the host's network namespace, IPv4 and IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketTable {
    /// TCP sockets, established and listening ones only.
    pub tcp: Measured<Vec<Socket>>,
    /// UDP sockets, bound and unconnected ones only.
    pub udp: Measured<Vec<Socket>>,
}

/// One socket. Addresses `::ffff:a.b.c.d` are folded to IPv4. Sorts as connections are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// What it is there for.
    pub state: SocketState,
    /// The other end's address; unspecified unless established.
    pub remote: IpAddr,
    /// The other end's port; 0 unless established.
    pub remote_port: u16,
    /// The local port.
    pub local_port: u16,
    /// The local address; unspecified for a wildcard bind.
    pub local: IpAddr,
    /// Index of the interface it is bound to (`SO_BINDTODEVICE`, or the scope of a link-local address); 0 for none,
    /// and always 0 where `/proc` was read, which does not show it.
    pub bound_to: u32,
}

/// The states that matter to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketState {
    /// TCP ESTABLISHED; connections that open or close are not.
    Established,
    /// TCP LISTEN, or a UDP socket with a port and no peer.
    Listening,
}

/// The state numbers of include/net/tcp_states.h a report needs; UDP uses two of them.
pub(super) const TCP_ESTABLISHED: u8 = 1;
/// UDP sockets without a peer are in this state.
pub(super) const TCP_CLOSE: u8 = 7;
pub(super) const TCP_LISTEN: u8 = 10;

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// The socket, when it belongs in the table: the one place that decides this, for both sources.
    pub(super) fn admit(self, state: u8, local: SocketAddr, remote: SocketAddr, bound_to: u32) -> Option<Socket> {
        let state = match (self, state) {
            (Self::Tcp, TCP_ESTABLISHED) => SocketState::Established,
            (Self::Tcp, TCP_LISTEN) => SocketState::Listening,
            // A UDP socket with a peer is a client that waits for its answer, on a port nobody else can use.
            (Self::Udp, TCP_CLOSE) if remote.port() == 0 => SocketState::Listening,
            _ => return None,
        };
        (local.port() != 0).then(|| Socket {
            state,
            remote: remote.ip().to_canonical(),
            remote_port: remote.port(),
            local: local.ip().to_canonical(),
            local_port: local.port(),
            bound_to,
        })
    }
}

/// Finds the interface of a local address.
pub(super) struct Names<'a> {
    by_index: BTreeMap<u32, &'a str>,
    /// `None` for an address that more than one interface has.
    by_address: HashMap<IpAddr, Option<(u32, &'a str)>>,
    loopback: Option<(u32, &'a str)>,
}

impl<'a> Names<'a> {
    pub(super) fn new(interfaces: &'a [Interface]) -> Self {
        let mut names = Self {
            by_index: BTreeMap::new(),
            by_address: HashMap::new(),
            loopback: None,
        };
        for interface in interfaces {
            let this = (interface.index, interface.name.as_str());
            if interface.index != 0 {
                names.by_index.insert(this.0, this.1);
            }
            if interface.loopback {
                names.loopback = Some(this);
            }
            for own in interface.addresses.iter().flatten() {
                names
                    .by_address
                    .entry(own.address)
                    .and_modify(|known| *known = known.filter(|known| *known == this))
                    .or_insert(Some(this));
            }
        }
        names
    }

    /// Index and name of the interface `socket` is on; `None` for a wildcard bind and when it cannot be told.
    fn of(&self, socket: &Socket) -> Option<(u32, &'a str)> {
        if socket.bound_to != 0 {
            return self.by_index.get(&socket.bound_to).map(|name| (socket.bound_to, *name));
        }
        if socket.local.is_unspecified() {
            return None;
        }
        if socket.local.is_loopback() {
            return self.loopback;
        }
        self.by_address.get(&socket.local).copied().flatten()
    }
}

/// Established connections, each once, sorted.
pub(super) fn established(tcp: &[Socket], names: &Names<'_>) -> Vec<Connection> {
    distinct(tcp, SocketState::Established)
        .into_iter()
        .map(|socket| {
            let interface = names.of(&socket);
            let remote = match socket.remote {
                IpAddr::V6(ip) if is_link_local(ip) => {
                    // Such an address means nothing without its link: the socket's own, or that of its local address.
                    let scope = match socket.bound_to {
                        0 => interface.map_or(0, |(index, _)| index),
                        index => index,
                    };
                    SocketAddrV6::new(ip, socket.remote_port, 0, scope).into()
                }
                ip => SocketAddr::new(ip, socket.remote_port),
            };
            Connection {
                remote,
                local_port: socket.local_port,
                local_interface: interface.map(|(_, name)| name.to_owned()),
            }
        })
        .collect()
}

/// Listening ports, each (port, interface) once, sorted by port, the wildcard first.
pub(super) fn listening(sockets: &[Socket], names: &Names<'_>) -> Vec<ListeningPort> {
    let ports: BTreeSet<(u16, Option<&str>)> = sockets
        .iter()
        .filter(|socket| socket.state == SocketState::Listening)
        .map(|socket| (socket.local_port, names.of(socket).map(|(_, name)| name)))
        .collect();
    ports
        .into_iter()
        .map(|(port, interface)| ListeningPort {
            port,
            interface: interface.map(str::to_owned),
        })
        .collect()
}

/// Sorted, and each once: a dump that is read in pieces can show a socket of a changing table twice.
fn distinct(sockets: &[Socket], state: SocketState) -> Vec<Socket> {
    let mut wanted: Vec<Socket> = sockets.iter().filter(|socket| socket.state == state).copied().collect();
    // the derived order in numbers, which compare at once: addresses compare octet by octet through memcmp
    wanted.sort_unstable_by_key(|socket| {
        let (remote, local) = (number(socket.remote), number(socket.local));
        (remote, socket.remote_port, socket.local_port, local, socket.bound_to)
    });
    wanted.dedup();
    wanted
}

/// Sorts as the address does, IPv4 before IPv6.
fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (false, u32::from(v4).into()),
        IpAddr::V6(v6) => (true, v6.into()),
    }
}

/// fe80::/10 (RFC 4291, 2.5.6).
fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::super::interfaces::InterfaceAddress;
    use super::*;
    use crate::model::Counters;

    fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            loopback: name == "lo",
            up: Some(true),
            master: None,
            parent: None,
            kind: None,
            mac: None,
            addresses: Some(
                addresses
                    .iter()
                    .map(|text| InterfaceAddress {
                        address: text.parse().unwrap(),
                        prefix_length: 24,
                    })
                    .collect(),
            ),
            default_route: Some(false),
            counters: Counters::default(),
        }
    }

    fn host() -> Vec<Interface> {
        vec![
            interface(1, "lo", &["127.0.0.1", "::1"]),
            interface(
                2,
                "eth0",
                &["192.0.2.1", "2001:db8::1", "fe80::1", "fe80::2", "198.51.100.7"],
            ),
            interface(3, "eth1", &["203.0.113.1", "fe80::1", "198.51.100.7"]),
        ]
    }

    fn tcp(state: u8, local: &str, remote: &str, bound_to: u32) -> Socket {
        Transport::Tcp
            .admit(state, local.parse().unwrap(), remote.parse().unwrap(), bound_to)
            .unwrap()
    }

    fn shown(sockets: &[Socket]) -> Vec<(u16, Option<String>)> {
        let interfaces = host();
        listening(sockets, &Names::new(&interfaces))
            .into_iter()
            .map(|l| (l.port, l.interface))
            .collect()
    }

    fn on(port: u16, name: &str) -> (u16, Option<String>) {
        (port, Some(name.to_owned()))
    }

    #[test]
    fn a_port_is_listed_once_per_interface_and_a_wildcard_apart() {
        let same = tcp(10, "0.0.0.0:80", "0.0.0.0:0", 0);
        let sockets = [
            tcp(10, "192.0.2.1:443", "0.0.0.0:0", 0),
            same,
            same,
            same,
            tcp(10, "[::]:80", "[::]:0", 0),
            tcp(10, "[::ffff:0.0.0.0]:80", "[::]:0", 0),
            tcp(10, "[2001:db8::1]:443", "[::]:0", 0),
            tcp(10, "127.0.0.1:80", "0.0.0.0:0", 0),
            tcp(10, "127.9.9.9:80", "0.0.0.0:0", 0),
            tcp(10, "[::1]:80", "[::]:0", 0),
            tcp(10, "[::ffff:127.0.0.1]:80", "[::]:0", 0),
        ];
        assert_eq!(shown(&sockets), [(80, None), on(80, "lo"), on(443, "eth0")]);
    }

    #[test]
    fn the_bound_interface_wins_and_what_cannot_be_told_is_none() {
        // SO_BINDTODEVICE on a wildcard; a link-local address two interfaces have, with and without its scope; one
        // that only eth0 has; an address of two interfaces; one of none; an interface that is gone.
        assert_eq!(shown(&[tcp(10, "0.0.0.0:1", "0.0.0.0:0", 3)]), [on(1, "eth1")]);
        assert_eq!(shown(&[tcp(10, "[fe80::1]:2", "[::]:0", 3)]), [on(2, "eth1")]);
        assert_eq!(shown(&[tcp(10, "[fe80::1]:3", "[::]:0", 0)]), [(3, None)]);
        assert_eq!(shown(&[tcp(10, "[fe80::2]:4", "[::]:0", 0)]), [on(4, "eth0")]);
        assert_eq!(shown(&[tcp(10, "198.51.100.7:5", "0.0.0.0:0", 0)]), [(5, None)]);
        assert_eq!(shown(&[tcp(10, "233.252.0.1:6", "0.0.0.0:0", 0)]), [(6, None)]);
        assert_eq!(shown(&[tcp(10, "192.0.2.1:7", "0.0.0.0:0", 9)]), [(7, None)]);
    }

    #[test]
    fn only_established_listening_and_unconnected_sockets_are_admitted() {
        let (local, remote) = ("192.0.2.1:5000".parse().unwrap(), "192.0.2.9:9".parse().unwrap());
        let nobody = "0.0.0.0:0".parse().unwrap();
        for state in 0..=255 {
            let admitted = Transport::Tcp.admit(state, local, remote, 0).map(|s| s.state);
            let wanted = match state {
                1 => Some(SocketState::Established),
                10 => Some(SocketState::Listening),
                _ => None,
            };
            assert_eq!(admitted, wanted, "TCP state {state}");
            assert_eq!(
                Transport::Udp.admit(state, local, nobody, 0).is_some(),
                state == 7,
                "UDP state {state}"
            );
            assert_eq!(
                Transport::Udp.admit(state, local, remote, 0),
                None,
                "connected UDP, state {state}"
            );
        }
        assert_eq!(Transport::Udp.admit(7, nobody, nobody, 0), None, "unbound");
    }

    #[test]
    fn sockets_are_sorted_in_their_derived_order() {
        let ends = [
            "0.0.0.0:1",
            "1.2.3.4:2",
            "1.2.3.4:1",
            "255.0.0.1:9",
            "0.0.1.0:9",
            "[::]:3",
            "[::1]:1",
            "[fe80::1]:7",
            "[2001:db8::ff00]:7",
            "[::ffff:0:1]:1",
        ];
        let mut sockets: Vec<Socket> = Vec::new();
        for (local, remote) in ends.iter().flat_map(|local| ends.map(|remote| (local, remote))) {
            sockets.extend([tcp(1, local, remote, 0), tcp(1, local, remote, 3)]);
        }
        sockets.reverse();
        let sorted = distinct(&sockets, SocketState::Established);
        sockets.sort();
        assert_eq!(sorted, sockets);
    }

    #[test]
    fn connections_are_folded_scoped_sorted_and_each_once() {
        let mapped = tcp(1, "[::ffff:192.0.2.1]:443", "[::ffff:192.0.2.9]:50000", 0);
        let sockets = [
            tcp(1, "[fe80::1]:22", "[fe80::9]:40001", 3),
            tcp(1, "[fe80::2]:22", "[fe80::9]:40002", 0),
            tcp(1, "[fe80::1]:22", "[fe80::9]:40003", 0),
            tcp(10, "192.0.2.1:443", "0.0.0.0:0", 0),
            mapped,
            mapped,
            tcp(1, "127.0.0.1:8883", "127.0.0.1:40000", 0),
        ];
        let interfaces = host();
        let seen: Vec<_> = established(&sockets, &Names::new(&interfaces))
            .into_iter()
            .map(|c| (c.remote, c.local_port, c.local_interface.unwrap_or_default()))
            .collect();
        let link_local = |port, scope| SocketAddr::from(SocketAddrV6::new("fe80::9".parse().unwrap(), port, 0, scope));
        assert_eq!(
            seen,
            [
                ("127.0.0.1:40000".parse().unwrap(), 8883, "lo".to_owned()),
                ("192.0.2.9:50000".parse().unwrap(), 443, "eth0".to_owned()),
                (link_local(40001, 3), 22, "eth1".to_owned()),
                (link_local(40002, 2), 22, "eth0".to_owned()),
                (link_local(40003, 0), 22, String::new()),
            ]
        );
    }
}
