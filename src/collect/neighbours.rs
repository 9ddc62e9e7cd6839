//! Neighbours: which MAC address answers for an IP address, on which interface, and behind which bridge port.
//!
//! Sources: rtnetlink `RTM_GETNEIGH` (IPv4 and IPv6; `net/core/neighbour.c`), the same request for `AF_BRIDGE` (the
//! forwarding table, `net/bridge/br_fdb.c`), the multicast group `RTNLGRP_NEIGH` for changes, and `/proc/net/arp`
//! (`net/ipv4/arp.c`, IPv4 only) where netlink is closed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use netlink_bindings::rt_neigh::{self, IterableNeighbourAttrs, Ndmsg, NeighbourAttrs, OpGetneighDump};
use netlink_bindings::traits::NetlinkRequest;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice};

use crate::model::{MacAddress, Measured, Missing, Reason};
use crate::netlink::route::{AF_BRIDGE, GROUP_NEIGH, RTM_DELNEIGH, RTM_NEWNEIGH};
use crate::netlink::{Drained, Notifications, Protocol, dump_once};

/// Kernel times in `nda_cacheinfo` count 1/100 s (`USER_HZ`).
const USER_HZ_MILLIS: u64 = 10;
/// States of `linux/neighbour.h`.
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE: u16 = 0x04;
const NUD_DELAY: u16 = 0x08;
const NUD_PROBE: u16 = 0x10;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// The receive buffer of the watch: about 20,000 changes.
const WATCH_BUFFER: usize = 8 << 20;

/// How fresh the kernel's knowledge of a neighbour is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NeighbourState {
    /// Confirmed within the last half minute or so (`NUD_REACHABLE`).
    Reachable,
    /// Known from before, or being asked again (`NUD_STALE`, `NUD_DELAY`, `NUD_PROBE`): no proof that it is still there.
    Stale,
    /// Written by an administrator (`NUD_PERMANENT`): the kernel never asks.
    Permanent,
}

/// One IP address and the MAC address that answers for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// The hardware address, never zero and never a group address.
    pub mac: MacAddress,
    /// The address.
    pub ip: IpAddr,
    /// The interface it is behind (a bridge, not the port of the bridge).
    pub interface: String,
    /// How fresh it is.
    pub state: NeighbourState,
}

/// One MAC address learnt by a bridge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeEntry {
    /// The hardware address.
    pub mac: MacAddress,
    /// The bridge port it was last seen on.
    pub port: String,
    /// The bridge.
    pub bridge: String,
    /// The VLAN, where the bridge filters by VLAN.
    pub vlan: Option<u16>,
    /// An address of the gateway's own ports.
    pub own: bool,
    /// How long ago a frame from it was seen; `None` when the kernel does not say.
    pub idle: Option<Duration>,
}

/// A change in the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NeighbourEvent {
    /// The neighbour is there (new, or its MAC address or state changed).
    Present(Neighbour),
    /// The kernel dropped what it knew of the address, or could not reach it.
    Gone {
        /// The address.
        ip: IpAddr,
        /// The interface it was on.
        interface: String,
    },
    /// A bridge saw the MAC address on a port.
    Learnt(BridgeEntry),
}

/// The table in `/proc/net/arp`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArpTable {
    /// The usable rows.
    pub neighbours: Vec<Neighbour>,
    /// Rows that could not be read.
    pub skipped: usize,
}

/// All usable neighbours, IPv4 and IPv6, of the calling thread's network namespace.
///
/// # Errors
/// `NETLINK_ROUTE` cannot be opened, or answers with an error.
pub fn dump() -> Measured<Vec<Neighbour>> {
    let names = Names::open()?;
    let mut found = Vec::new();
    dump_family(0, |header, attributes| {
        if let Some(NeighbourEvent::Present(neighbour)) = decode(RTM_NEWNEIGH, header, attributes, &names) {
            found.push(neighbour);
        }
    })?;
    Ok(found)
}

/// Hands every entry of all bridges' forwarding tables to `each`, so that a table flooded with addresses is never held.
///
/// # Errors
/// `NETLINK_ROUTE` cannot be opened, or answers with an error.
pub fn visit_bridge_entries(mut each: impl FnMut(BridgeEntry)) -> Measured<()> {
    let names = Names::open()?;
    dump_family(AF_BRIDGE, |header, attributes| {
        if let Some(NeighbourEvent::Learnt(entry)) = decode(RTM_NEWNEIGH, header, attributes, &names) {
            each(entry);
        }
    })
}

fn dump_family(family: u8, mut each: impl FnMut(&Ndmsg, &IterableNeighbourAttrs<'_>)) -> Measured<()> {
    const SOURCE: &str = "netlink neighbour table";
    let mut header = Ndmsg::new();
    header.ndm_family = family;
    let request = rt_neigh::Request::new().op_getneigh_dump(&header);
    // A table that changed meanwhile is good enough: what changed is notified, or seen the next time.
    dump_once(&request, |(header, attributes)| each(&header, &attributes))
        .map(|_| ())
        .map_err(|error| Missing::from_io(SOURCE, &error))
}

/// A subscription to changes of the neighbour tables (addresses and bridges).
#[derive(Debug)]
pub struct NeighbourWatch {
    notifications: Notifications,
    names: Names,
}

impl NeighbourWatch {
    /// Subscribes in the calling thread's network namespace. Subscribe first, then [`dump`]: nothing falls between.
    ///
    /// # Errors
    /// The socket cannot be opened or bound.
    pub fn open() -> Measured<Self> {
        let notifications = Notifications::open(Protocol::Route, GROUP_NEIGH, WATCH_BUFFER)
            .map_err(|error| Missing::from_io("netlink group RTNLGRP_NEIGH", &error))?;
        let names = Names::open()?;
        Ok(Self { notifications, names })
    }

    /// Reads what is there, at most `limit` datagrams, without waiting. After [`Drained::lost`] the tables must be dumped.
    ///
    /// # Errors
    /// The socket failed.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(NeighbourEvent)) -> io::Result<Drained> {
        let names = &self.names;
        self.notifications.drain(limit, |message| {
            let (header, attributes) = OpGetneighDump::decode_reply(message.body);
            if let Some(event) = decode(message.kind, &header, &attributes, names) {
                each(event);
            }
        })
    }
}

impl AsFd for NeighbourWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifications.as_fd()
    }
}

/// Interface names by number, asked in the namespace the socket was opened in.
#[derive(Debug)]
struct Names {
    socket: OwnedFd,
}

impl Names {
    fn open() -> Measured<Self> {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| Missing::from_io("socket for interface names", &error.into()))?;
        Ok(Self { socket })
    }
}

trait InterfaceNames {
    fn name(&self, index: u32) -> Option<String>;
}

impl InterfaceNames for Names {
    fn name(&self, index: u32) -> Option<String> {
        let name = netdevice::index_to_name_inlined(&self.socket, index).ok()?;
        Some(name.as_str().to_owned())
    }
}

impl InterfaceNames for HashMap<u32, String> {
    fn name(&self, index: u32) -> Option<String> {
        self.get(&index).cloned()
    }
}

/// One message as an event; `None` for what names no device: incomplete entries, group addresses, vanished interfaces.
fn decode(
    kind: u16,
    header: &Ndmsg,
    attributes: &IterableNeighbourAttrs<'_>,
    names: &impl InterfaceNames,
) -> Option<NeighbourEvent> {
    let index = u32::try_from(header.ndm_ifindex).ok()?;
    let (mut ip, mut mac, mut vlan, mut master, mut idle) = (None, None, None, None, None);
    for attribute in attributes.flatten() {
        match attribute {
            NeighbourAttrs::Dst(address) => ip = Some(address),
            NeighbourAttrs::Lladdr(bytes) => mac = <[u8; 6]>::try_from(bytes).ok().map(MacAddress),
            NeighbourAttrs::Vlan(tag) => vlan = Some(tag),
            NeighbourAttrs::Master(bridge) => master = Some(bridge),
            NeighbourAttrs::Cacheinfo(times) => {
                idle = Some(Duration::from_millis(u64::from(times.updated) * USER_HZ_MILLIS));
            }
            _ => {}
        }
    }
    let mac = mac.filter(|mac| !mac.is_group() && !mac.is_zero());
    if header.ndm_family == AF_BRIDGE {
        // Only a bridge has a master; the rest are the address filters of network cards. Ageing out is no event of ours.
        if kind != RTM_NEWNEIGH {
            return None;
        }
        return Some(NeighbourEvent::Learnt(BridgeEntry {
            mac: mac?,
            port: names.name(index)?,
            bridge: names.name(master?)?,
            vlan,
            own: header.ndm_state & NUD_PERMANENT != 0,
            idle,
        }));
    }
    let ip = ip?;
    let interface = names.name(index)?;
    let state = match header.ndm_state {
        state if state & NUD_PERMANENT != 0 => Some(NeighbourState::Permanent),
        state if state & NUD_REACHABLE != 0 => Some(NeighbourState::Reachable),
        state if state & (NUD_STALE | NUD_DELAY | NUD_PROBE) != 0 => Some(NeighbourState::Stale),
        // Loopback and group addresses, which need no resolution: no device.
        state if state & NUD_NOARP != 0 => return None,
        _ => None,
    };
    match (kind, state, mac) {
        (RTM_NEWNEIGH, Some(state), Some(mac)) => Some(NeighbourEvent::Present(Neighbour {
            mac,
            ip,
            interface,
            state,
        })),
        (RTM_NEWNEIGH | RTM_DELNEIGH, ..) => Some(NeighbourEvent::Gone { ip, interface }),
        _ => None,
    }
}

/// For `fuzz/`: one message of a dump or a notification.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(kind: u16, body: &[u8]) {
    let names: HashMap<u32, String> = (1..=4).map(|index| (index, format!("eth{index}"))).collect();
    let (header, attributes) = OpGetneighDump::decode_reply(body);
    let _ = decode(kind, &header, &attributes, &names);
}

/// Reads `/proc/net/arp` of the calling thread's network namespace, below `proc`. IPv4 only, and freshness is not told.
///
/// # Errors
/// The file is absent, denied or cannot be read.
pub fn read_arp(proc: &Path) -> Measured<ArpTable> {
    let path = proc.join("thread-self/net/arp");
    let bytes = fs::read(&path).map_err(|error| Missing::from_io(path.display().to_string(), &error))?;
    parse_arp(&bytes).ok_or_else(|| {
        Missing::new(
            path.display().to_string(),
            Reason::Malformed,
            "the heading is not the one of /proc/net/arp",
        )
    })
}

/// Parses `/proc/net/arp`; `None` when the heading is missing.
#[must_use]
pub fn parse_arp(bytes: &[u8]) -> Option<ArpTable> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    if !lines.next()?.starts_with(b"IP address") {
        return None;
    }
    let mut table = ArpTable::default();
    for line in lines.filter(|line| !line.is_empty()) {
        match std::str::from_utf8(line).ok().and_then(parse_arp_line) {
            Some(Some(neighbour)) => table.neighbours.push(neighbour),
            Some(None) => {}
            None => table.skipped += 1,
        }
    }
    Some(table)
}

/// One row; `Some(None)` for an incomplete one (flag `ATF_COM`, 2, not set) or one that names no device.
fn parse_arp_line(line: &str) -> Option<Option<Neighbour>> {
    let mut fields = line.split_ascii_whitespace();
    let ip: IpAddr = fields.next()?.parse().ok()?;
    let _hardware_type = fields.next()?;
    let flags = u32::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
    let mac: MacAddress = fields.next()?.parse().ok()?;
    let _mask = fields.next()?;
    let interface = fields.next()?.to_owned();
    let state = if flags & 0x4 != 0 {
        NeighbourState::Permanent
    } else {
        NeighbourState::Stale
    };
    let usable = flags & 0x2 != 0 && !mac.is_group() && !mac.is_zero();
    Some(usable.then_some(Neighbour {
        mac,
        ip,
        interface,
        state,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_arp_table_and_counts_bad_rows() {
        // Captured from a 6.18 kernel, plus one row cut off.
        let text = b"IP address       HW type     Flags       HW address            Mask     Device\n\
            10.0.0.5         0x1         0x2         02:aa:00:00:00:01     *        br0\n\
            10.0.0.6         0x1         0x0         00:00:00:00:00:00     *        br0\n\
            10.0.0.7         0x1         0x6         02:aa:00:00:00:07     *        lan1\n\
            10.0.0.8         0x1";
        let table = parse_arp(text).unwrap();
        assert_eq!(table.skipped, 1);
        let seen: Vec<_> = table.neighbours.iter().map(|n| (n.ip.to_string(), n.state)).collect();
        assert_eq!(
            seen,
            [
                ("10.0.0.5".into(), NeighbourState::Stale),
                ("10.0.0.7".into(), NeighbourState::Permanent)
            ]
        );
        assert_eq!(parse_arp(b"nonsense\n"), None);
    }

    fn row(family: u8, state: u16, mac: &[u8], ip: Option<&str>) -> (Ndmsg, Vec<u8>) {
        let mut header = Ndmsg::new();
        header.ndm_family = family;
        header.ndm_ifindex = 3;
        header.ndm_state = state;
        let mut bytes = Vec::new();
        let push = OpGetneighDump::encode_request(&mut bytes, &header).push_lladdr(mac);
        let push = match ip {
            Some(ip) => push.push_dst(ip.parse().unwrap()),
            None => push.push_master(9),
        };
        drop(push);
        (header, bytes)
    }

    fn read(kind: u16, row: &(Ndmsg, Vec<u8>)) -> Option<NeighbourEvent> {
        let names = HashMap::from([(3, "lan1".to_owned()), (9, "br0".to_owned())]);
        let (header, attributes) = OpGetneighDump::decode_reply(&row.1);
        decode(kind, &header, &attributes, &names)
    }

    #[test]
    fn decodes_presence_loss_and_bridge_learning() {
        let mac = [2, 0xaa, 0, 0, 0, 1];
        let present = read(RTM_NEWNEIGH, &row(2, NUD_REACHABLE, &mac, Some("10.0.0.5")));
        assert!(matches!(present, Some(NeighbourEvent::Present(n)) if n.interface == "lan1"));
        let failed = read(RTM_NEWNEIGH, &row(10, 0x20, &mac, Some("fd00::5")));
        assert!(matches!(failed, Some(NeighbourEvent::Gone { .. })));
        let gone = read(RTM_DELNEIGH, &row(2, NUD_STALE, &mac, Some("10.0.0.5")));
        assert!(matches!(gone, Some(NeighbourEvent::Gone { .. })));
        let learnt = read(RTM_NEWNEIGH, &row(AF_BRIDGE, NUD_REACHABLE, &mac, None));
        assert!(matches!(learnt, Some(NeighbourEvent::Learnt(e)) if e.port == "lan1" && e.bridge == "br0" && !e.own));
        let group = [0x33, 0x33, 0, 0, 0, 1];
        assert_eq!(read(RTM_NEWNEIGH, &row(AF_BRIDGE, NUD_REACHABLE, &group, None)), None);
        assert_eq!(read(RTM_NEWNEIGH, &row(10, NUD_NOARP, &group, Some("ff02::1"))), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 28_u16..30) {
            let names: HashMap<u32, String> = HashMap::new();
            let (header, attributes) = OpGetneighDump::decode_reply(&bytes);
            let _ = decode(kind, &header, &attributes, &names);
            let _ = parse_arp(&bytes);
            let mut headed = b"IP address\n".to_vec();
            headed.extend(&bytes);
            prop_assert!(parse_arp(&headed).is_some());
        }
    }
}
