//! Links, addresses and default routes from rtnetlink (rtnetlink(7)).

use std::collections::{BTreeMap, BTreeSet};

use netlink_bindings::utils::ErrorContext;
use netlink_bindings::{rt_addr, rt_link, rt_route};

use super::error::{CollectError, Note, Skipped};
use super::interfaces::{Interface, InterfaceAddress};
use super::netlink::dump;
use crate::model::{Counters, MacAddress, Missing};
use crate::netlink::Dump;

const LINKS: &str = "rtnetlink links";
const ADDRESSES: &str = "rtnetlink addresses";
const ROUTES: &str = "rtnetlink routes";

/// Every interface of the caller's network namespace, by index.
///
/// Links are needed; addresses or routes that cannot be read are left unknown, with a note.
pub(super) fn read(notes: &mut Vec<Note>) -> Result<Vec<Interface>, CollectError> {
    let mut interfaces = links(notes)?;
    match addresses(notes) {
        Ok(mut found) => {
            for interface in interfaces.values_mut() {
                let mut own = found.remove(&interface.index).unwrap_or_default();
                own.sort_unstable();
                own.dedup();
                interface.addresses = Some(own);
            }
        }
        Err(error) => notes.push(Note::Unknown(Missing::from(error))),
    }
    match default_routes(notes) {
        Ok(found) => {
            for interface in interfaces.values_mut() {
                interface.default_route = Some(found.contains(&interface.index));
            }
        }
        Err(error) => notes.push(Note::Unknown(Missing::from(error))),
    }
    Ok(interfaces.into_values().collect())
}

fn settle(origin: &str, end: Dump, notes: &mut Vec<Note>) {
    if end == Dump::Interrupted {
        notes.push(Note::Unsteady(origin.to_owned()));
    }
}

fn links(notes: &mut Vec<Note>) -> Result<BTreeMap<u32, Interface>, CollectError> {
    type Found = (BTreeMap<u32, Interface>, Skipped);
    let request = rt_link::Request::new().op_getlink_dump(&rt_link::Ifinfomsg::default());
    let ((found, skipped), end) = dump(LINKS, &request, |found: &mut Found, (header, attributes)| {
        match link(&header, &attributes) {
            Ok(interface) => {
                found.0.insert(interface.index, interface);
            }
            Err(why) => found.1.add(why),
        }
    })?;
    skipped.note(LINKS, notes);
    settle(LINKS, end, notes);
    Ok(found)
}

// linux/if.h and linux/if_arp.h; `libc` has them as `c_int`.
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const ARPHRD_ETHER: u16 = 1;

fn link(header: &rt_link::Ifinfomsg, attributes: &rt_link::IterableLinkAttrs<'_>) -> Result<Interface, String> {
    let index = u32::try_from(header.ifi_index).unwrap_or_default();
    let name = attributes.get_ifname().map_err(|e| format!("link {index}: {e}"))?;
    let stats = attributes.get_stats64().map_err(|e| format!("link {index}: {e}"))?;
    if index == 0 {
        return Err("a link without an index".to_owned());
    }
    // A link below that is in another namespace is named by that namespace's numbers.
    let elsewhere = attributes.get_link_netnsid().is_ok();
    let kind = attributes.get_linkinfo().ok().and_then(|info| info.get_kind().ok());
    let mac = attributes
        .get_address()
        .ok()
        .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
        .map(MacAddress);
    Ok(Interface {
        index,
        // The kernel allows any byte but '/', ':' and white space in a name (dev_valid_name in net/core/dev.c).
        name: name.to_string_lossy().into_owned(),
        loopback: header.ifi_flags & IFF_LOOPBACK != 0,
        up: Some(header.ifi_flags & IFF_UP != 0),
        master: attributes.get_master().ok().filter(|index| *index != 0),
        parent: attributes.get_link().ok().filter(|index| *index != 0 && !elsewhere),
        kind: kind.map(|kind| kind.to_string_lossy().into_owned()),
        mac: mac.filter(|mac| header.ifi_type == ARPHRD_ETHER && !mac.is_zero()),
        addresses: None,
        default_route: None,
        counters: Counters {
            bytes_in: stats.rx_bytes,
            bytes_out: stats.tx_bytes,
            packets_in: stats.rx_packets,
            packets_out: stats.tx_packets,
        },
    })
}

fn addresses(notes: &mut Vec<Note>) -> Result<BTreeMap<u32, Vec<InterfaceAddress>>, CollectError> {
    type Found = (BTreeMap<u32, Vec<InterfaceAddress>>, Skipped);
    let request = rt_addr::Request::new().op_getaddr_dump(&rt_addr::Ifaddrmsg::default());
    let ((found, skipped), end) = dump(
        ADDRESSES,
        &request,
        |found: &mut Found, (header, attributes)| match address(&header, &attributes) {
            Ok(address) => found.0.entry(header.ifa_index).or_default().push(address),
            Err(why) => found.1.add(why),
        },
    )?;
    skipped.note(ADDRESSES, notes);
    settle(ADDRESSES, end, notes);
    Ok(found)
}

fn address(
    header: &rt_addr::Ifaddrmsg,
    attributes: &rt_addr::IterableAddrAttrs<'_>,
) -> Result<InterfaceAddress, ErrorContext> {
    // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL the host; else they are equal, and IPv6 sends
    // IFA_ADDRESS alone (linux/if_addr.h).
    Ok(InterfaceAddress {
        address: attributes.get_local().or_else(|_| attributes.get_address())?,
        prefix_length: header.ifa_prefixlen,
    })
}

/// The interfaces default routes leave by, in any routing table, both families.
fn default_routes(notes: &mut Vec<Note>) -> Result<BTreeSet<u32>, CollectError> {
    let request = rt_route::Request::new().op_getroute_dump(&rt_route::Rtmsg::default());
    let (found, end) = dump(ROUTES, &request, |found: &mut BTreeSet<u32>, (header, attributes)| {
        default_route(&header, &attributes, found);
    })?;
    settle(ROUTES, end, notes);
    Ok(found)
}

fn default_route(header: &rt_route::Rtmsg, attributes: &rt_route::IterableRouteAttrs<'_>, found: &mut BTreeSet<u32>) {
    // Routes that refuse (unreachable, blackhole, prohibit) lead nowhere.
    if header.rtm_dst_len != 0 || header.rtm_type != RTN_UNICAST || !is_ip(header.rtm_family) {
        return;
    }
    // IPv6 multicast routes of an interface are ff00::/8; a zero-length prefix with an address would be senseless.
    if attributes.get_dst().is_ok_and(|to| !to.is_unspecified()) {
        return;
    }
    found.extend(attributes.get_oif().ok());
    if let Ok(hops) = attributes.get_multipath() {
        next_hops(hops, found);
    }
}

const RTN_UNICAST: u8 = 1;

fn is_ip(family: u8) -> bool {
    matches!(i32::from(family), libc::AF_INET | libc::AF_INET6)
}

/// Walks `struct rtnexthop` (linux/rtnetlink.h): length u16, flags u8, hops u8, interface index i32, attributes.
fn next_hops(mut rest: &[u8], found: &mut BTreeSet<u32>) {
    while let Some([l0, l1, _, _, i0, i1, i2, i3]) = rest.first_chunk::<8>().copied() {
        found.insert(u32::from_ne_bytes([i0, i1, i2, i3]));
        let length = usize::from(u16::from_ne_bytes([l0, l1])).next_multiple_of(4).max(8);
        rest = rest.get(length..).unwrap_or_default();
    }
}

/// For `fuzz/`: one message of a dump, by its type (linux/rtnetlink.h).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(kind: u16, body: &[u8]) {
    use netlink_bindings::traits::NetlinkRequest;
    match kind {
        16 => {
            let (header, attributes) = rt_link::OpGetlinkDump::decode_reply(body);
            let _ = link(&header, &attributes);
        }
        20 => {
            let (header, attributes) = rt_addr::OpGetaddrDump::decode_reply(body);
            let _ = address(&header, &attributes);
        }
        24 => {
            let (header, attributes) = rt_route::OpGetrouteDump::decode_reply(body);
            default_route(&header, &attributes, &mut BTreeSet::new());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_of_any_bytes_end() {
        let mut hops = Vec::new();
        for index in [4_i32, 9] {
            hops.extend(12_u16.to_ne_bytes());
            hops.extend([0, 0]);
            hops.extend(index.to_ne_bytes());
            hops.extend([0; 4]);
        }
        let mut found = BTreeSet::new();
        next_hops(&hops, &mut found);
        assert_eq!(found, [4, 9].into());
        next_hops(&[0; 64], &mut found);
        next_hops(&[0xff; 9], &mut found);
        next_hops(&[1, 2, 3], &mut found);
    }
}
