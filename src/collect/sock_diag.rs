//! Sockets from the kernel's sock_diag tables (net/ipv4/inet_diag.c): the caller's network namespace only, no
//! privilege needed, half the time `/proc/net/tcp` takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_bindings::inet_diag::{Msg, ReqV2, Request};

use super::error::{CollectError, Note, Skipped};
use super::netlink::dump;
use super::sockets::{Socket, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, Transport};
use crate::model::Missing;
use crate::netlink::Dump;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// All sockets of `transport` a report needs, both families.
///
/// A kernel without IPv6 leaves a note; anything else that cannot be read is an error, because half a table would
/// pass for a whole one.
pub(super) fn read(transport: Transport, notes: &mut Vec<Note>) -> Result<Vec<Socket>, CollectError> {
    let mut sockets = family(transport, AF_INET, notes)?;
    match family(transport, AF_INET6, notes) {
        Ok(more) if sockets.is_empty() => sockets = more,
        Ok(more) => sockets.extend(more),
        Err(error) if error.is_absent() => notes.push(Note::FamilyAbsent(Missing::from(error))),
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

fn family(transport: Transport, family: u8, notes: &mut Vec<Note>) -> Result<Vec<Socket>, CollectError> {
    let version = if family == AF_INET { "" } else { "6" };
    let (name, protocol, states) = match transport {
        Transport::Tcp => ("tcp", libc::IPPROTO_TCP, 1 << TCP_ESTABLISHED | 1 << TCP_LISTEN),
        Transport::Udp => ("udp", libc::IPPROTO_UDP, 1 << TCP_CLOSE),
    };
    let origin = format!("sock_diag {name}{version}");
    let header = ReqV2 {
        family,
        protocol: u8::try_from(protocol).unwrap_or_default(),
        states,
        ..ReqV2::default()
    };
    // One request serves all protocols (SOCK_DIAG_BY_FAMILY): the header, not the name, says which.
    let request = Request::new().op_tcp_diag_dump(&header);
    let ((sockets, skipped), end) =
        dump(
            &origin,
            &request,
            |found: &mut (Vec<Socket>, Skipped), (message, _)| match socket(transport, family, &message) {
                Ok(admitted) => found.0.extend(admitted),
                Err(why) => found.1.add(why),
            },
        )?;
    skipped.note(&origin, notes);
    if end == Dump::Interrupted {
        notes.push(Note::Unsteady(origin));
    }
    Ok(sockets)
}

/// One row: a socket a report needs, or one it does not.
fn socket(transport: Transport, family: u8, message: &Msg) -> Result<Option<Socket>, String> {
    match ends(message) {
        Some((local, remote)) if message.family == family => {
            Ok(transport.admit(message.state, local, remote, message.sockid.r#if))
        }
        _ => Err(format!("a socket of family {}", message.family)),
    }
}

/// For `fuzz/`: one row as the kernel sends it.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(body: &[u8]) {
    use netlink_bindings::traits::NetlinkRequest;
    let (message, _) = netlink_bindings::inet_diag::OpTcpDiagDump::decode_reply(body);
    for transport in [Transport::Tcp, Transport::Udp] {
        let _ = (
            socket(transport, AF_INET, &message),
            socket(transport, AF_INET6, &message),
        );
    }
}

/// Local and remote end; `None` for a family that is not IP.
fn ends(message: &Msg) -> Option<(SocketAddr, SocketAddr)> {
    let id = &message.sockid;
    let (local, remote) = (address(message.family, id.src)?, address(message.family, id.dst)?);
    Some((SocketAddr::new(local, id.sport()), SocketAddr::new(remote, id.dport())))
}

fn address(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        AF_INET => Some(Ipv4Addr::new(a, b, c, d).into()),
        AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}
