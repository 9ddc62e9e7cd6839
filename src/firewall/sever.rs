//! After the cut: the gateway's own sockets with the device are closed and its tracked flows forgotten, so that
//! programs notice at once instead of retransmitting into nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{Attributes, Message, NLM_F_ACK, NetlinkError, Protocol, Socket, attribute, be32};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// `struct inet_diag_sockid`.
const SOCKET_ID: usize = 48;
/// Every state but LISTEN (bit 10) and TIME_WAIT (bit 6): those have no peer to lose.
const STATES: u32 = 0xfff & !(1 << 10) & !(1 << 6);

/// What was cut, and what this kernel cannot cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Severed {
    /// Sockets of the gateway that were closed.
    pub sockets: u32,
    /// Tracked flows that were forgotten.
    pub flows: u32,
    /// What could not be done, in words.
    pub unsupported: Vec<String>,
}

/// Closes the gateway's sockets with these addresses and deletes their conntrack entries, in the network namespace of
/// the calling thread. An IPv4 address is also looked for in its v4-mapped IPv6 form.
///
/// # Errors
/// A socket to the kernel could not be opened. What the kernel does not support is in the result.
pub fn sever(addresses: &BTreeSet<IpAddr>) -> Result<Severed, NetlinkError> {
    let mut severed = Severed::default();
    if addresses.is_empty() {
        return Ok(severed);
    }
    let mut diag = Socket::open(Protocol::SockDiag)?;
    for family in [AF_INET, AF_INET6] {
        for protocol in [TCP, UDP] {
            if let Err(error) = close_sockets(&mut diag, family, protocol, addresses, &mut severed.sockets) {
                note(
                    &mut severed.unsupported,
                    "closing sockets (CONFIG_INET_DIAG_DESTROY)",
                    &error,
                );
            }
        }
    }
    let mut conntrack = Socket::open(Protocol::Netfilter)?;
    for family in [AF_INET, AF_INET6] {
        if let Err(error) = forget_flows(&mut conntrack, family, addresses, &mut severed.flows) {
            note(
                &mut severed.unsupported,
                "deleting flows (CONFIG_NF_CT_NETLINK)",
                &error,
            );
        }
    }
    Ok(severed)
}

fn note(unsupported: &mut Vec<String>, what: &str, error: &NetlinkError) {
    let source = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    let text = format!("{what}: {source}");
    if !unsupported.contains(&text) {
        unsupported.push(text);
    }
}

fn close_sockets(
    diag: &mut Socket,
    family: u8,
    protocol: u8,
    addresses: &BTreeSet<IpAddr>,
    closed: &mut u32,
) -> Result<(), NetlinkError> {
    let request = diag_request(SOCK_DIAG_BY_FAMILY, family, protocol, &[0; SOCKET_ID]);
    let ids = diag.dump("list sockets", &request, |ids: &mut Vec<Vec<u8>>, answer| {
        ids.extend(socket_with(family, addresses, answer.body).map(<[u8]>::to_vec));
    })?;
    for id in ids {
        let mut message = diag_request(SOCK_DESTROY, family, protocol, &id);
        message.flags |= NLM_F_ACK;
        match diag.transact("close a socket", &[message]) {
            Ok(()) => *closed = closed.saturating_add(1),
            // Closed by its owner in between.
            Err(error) if error.refusal() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The id of the socket, when it is with one of these addresses.
fn socket_with<'a>(family: u8, addresses: &BTreeSet<IpAddr>, body: &'a [u8]) -> Option<&'a [u8]> {
    // struct inet_diag_msg: family, state, timer, retrans, then the socket id.
    let id = body.get(4..4 + SOCKET_ID)?;
    let peer = peer(family, id.get(20..36)?)?;
    addresses.contains(&peer).then_some(id)
}

/// `struct inet_diag_req_v2`.
fn diag_request(kind: u16, family: u8, protocol: u8, id: &[u8]) -> Message {
    let mut body = vec![family, protocol, 0, 0];
    body.extend(STATES.to_ne_bytes());
    body.extend(id);
    Message {
        kind,
        flags: 0,
        body,
        what: "sock_diag".to_owned(),
    }
}

fn peer(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if family == AF_INET {
        let four: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen: [u8; 16] = bytes.try_into().ok()?;
    Some(Ipv6Addr::from(sixteen).to_canonical())
}

fn forget_flows(
    conntrack: &mut Socket,
    family: u8,
    addresses: &BTreeSet<IpAddr>,
    forgotten: &mut u32,
) -> Result<(), NetlinkError> {
    let body = Attributes::netfilter(family, 0).0;
    let request = Message {
        kind: CT_GET,
        flags: 0,
        body,
        what: "list flows".to_owned(),
    };
    let flows = conntrack.dump("list flows", &request, |flows: &mut Vec<Vec<u8>>, answer| {
        flows.extend(deletion(family, addresses, answer.body.get(4..).unwrap_or_default()));
    })?;
    for body in flows {
        let message = Message {
            kind: CT_DELETE,
            flags: NLM_F_ACK,
            body,
            what: "delete a flow".to_owned(),
        };
        match conntrack.transact("delete a flow", &[message]) {
            Ok(()) => *forgotten = forgotten.saturating_add(1),
            Err(error) if error.refusal() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The order to delete this flow, when it is with one of these addresses.
fn deletion(family: u8, addresses: &BTreeSet<IpAddr>, body: &[u8]) -> Option<Vec<u8>> {
    let (original, reply) = (attribute(body, 1), attribute(body, 2));
    let mut named = [original, reply].into_iter().flatten().flat_map(tuple_addresses);
    if !named.any(|address| addresses.contains(&address)) {
        return None;
    }
    let mut delete = Attributes::netfilter(family, 0);
    if let Some(original) = original {
        delete.nest(1, |tuple| tuple.0.extend(original));
    }
    // With the id, a new flow of the same addresses and ports is not hit.
    if let Some(id) = attribute(body, 12).and_then(be32) {
        delete.be32(12, id);
    }
    Some(delete.0)
}

/// For `fuzz/`: rows of sockets and flows; those with the address named here are closed.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(body: &[u8]) {
    let addresses = BTreeSet::from([IpAddr::from([10, 0, 0, 5]), IpAddr::from([0_u16; 8])]);
    for family in [AF_INET, AF_INET6] {
        let _ = socket_with(family, &addresses, body);
        let _ = deletion(family, &addresses, body.get(4..).unwrap_or_default());
    }
}

/// Source and destination in a `CTA_TUPLE_*` attribute.
fn tuple_addresses(tuple: &[u8]) -> Vec<IpAddr> {
    let ip = attribute(tuple, 1).unwrap_or_default();
    let four = [1, 2].into_iter().filter_map(|kind| {
        let bytes: [u8; 4] = attribute(ip, kind)?.try_into().ok()?;
        Some(IpAddr::from(bytes))
    });
    let sixteen = [3, 4].into_iter().filter_map(|kind| {
        let bytes: [u8; 16] = attribute(ip, kind)?.try_into().ok()?;
        Some(IpAddr::from(bytes))
    });
    four.chain(sixteen).collect()
}
