//! Netlink sockets (netlink(7)): requests and their answers, dumps, notifications. Framing only; what a message means is
//! told where it is used, by `collect` and `firewall`.
//!
//! The sockets are ours and not those of `netlink-socket2`, because that one reports every refused socket(2) as `EPERM`
//! (absent and denied would be one), hides `NLM_F_DUMP_INTR` (an interface could be lost unnoticed), has no transactions
//! and keeps its sockets, so a thread that entered another namespace would go on reading the old one.

mod attributes;
mod error;
mod message;
mod notifications;
pub(crate) mod route;
mod socket;

pub(crate) use attributes::{Attributes, attribute, attributes, be32, be64, text};
pub use error::NetlinkError;
pub(crate) use message::{Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, Received};
pub use notifications::Drained;
pub(crate) use notifications::Notifications;
pub(crate) use socket::{Dump, Socket, dump_once};

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};

/// For `fuzz/`: a datagram as it comes, as the answer to request 1 and as notifications.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(datagram: &[u8], mut each: impl FnMut(Received<'_>)) {
    socket::fuzz(datagram);
    for message in message::messages(datagram).map_while(Result::ok) {
        each(message);
    }
}

/// The parts of the kernel we talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Links, addresses, routes, neighbours (rtnetlink(7)).
    Route,
    /// Sockets (sock_diag(7)).
    SockDiag,
    /// nf_tables and connection tracking.
    Netfilter,
}

impl Protocol {
    /// Its name in netlink(7).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Route => "NETLINK_ROUTE",
            Self::SockDiag => "NETLINK_SOCK_DIAG",
            Self::Netfilter => "NETLINK_NETFILTER",
        }
    }

    /// A socket in the network namespace of the calling thread.
    fn open(self, flags: SocketFlags) -> io::Result<OwnedFd> {
        let protocol = match self {
            // 0, which rustix writes as no protocol.
            Self::Route => None,
            Self::SockDiag => Some(netlink::SOCK_DIAG),
            Self::Netfilter => Some(netlink::NETFILTER),
        };
        let flags = SocketFlags::CLOEXEC | flags;
        Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?)
    }

    /// The protocol of that number, if we talk to it.
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        match i32::from(number) {
            libc::NETLINK_ROUTE => Some(Self::Route),
            libc::NETLINK_SOCK_DIAG => Some(Self::SockDiag),
            libc::NETLINK_NETFILTER => Some(Self::Netfilter),
            _ => None,
        }
    }
}
