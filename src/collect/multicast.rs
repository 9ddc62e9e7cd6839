//! What the kernel says unasked: a netlink multicast socket, read without blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, sockopt};

/// Bytes of `struct nlmsghdr` (`linux/netlink.h`).
const HEADER: usize = 16;
/// Message types below this belong to netlink itself (`NLMSG_MIN_TYPE`).
const FIRST_TYPE: u16 = 16;
/// One datagram of notifications; the kernel packs no more than a page or two into one.
const BUFFER: usize = 64 * 1024;

/// What one round of reading gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Messages handed on.
    pub messages: usize,
    /// The kernel dropped messages because the socket was full (`ENOBUFS`): what is known must be read anew.
    pub lost: bool,
    /// The limit was reached with more to read; the descriptor is still readable.
    pub more: bool,
}

/// A subscription to multicast groups of one netlink protocol, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Multicast {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Multicast {
    /// Subscribes. `protocol` is `None` for rtnetlink; `groups` is a bit mask, group 1 the lowest bit. The receive buffer
    /// is set past the system's limit where privileges allow it, to the limit where not.
    pub(crate) fn open(protocol: Option<Protocol>, groups: u32, receive_buffer: usize) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, receive_buffer).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, receive_buffer)?;
        }
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        let buffer = vec![0; BUFFER];
        Ok(Self { socket, buffer })
    }

    /// Reads what is there, at most `limit` datagrams, and hands on (message type, payload).
    pub(crate) fn drain(&mut self, limit: usize, mut each: impl FnMut(u16, &[u8])) -> io::Result<Drained> {
        let mut drained = Drained::default();
        for _ in 0..limit {
            match rustix::net::recvfrom(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    // Only the kernel has port 0; anything else is another process talking to us.
                    let kernel = from
                        .and_then(|from| SocketAddrNetlink::try_from(from).ok())
                        .is_some_and(|from| from.pid() == 0);
                    if kernel {
                        for (kind, payload) in messages(self.buffer.get(..length).unwrap_or_default()) {
                            drained.messages += 1;
                            each(kind, payload);
                        }
                    }
                }
                Err(Errno::AGAIN) => return Ok(drained),
                Err(Errno::NOBUFS) => drained.lost = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        drained.more = true;
        Ok(drained)
    }
}

impl AsFd for Multicast {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The messages in a datagram: (type, payload). Ends at the first one that is cut off.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let header: &[u8; HEADER] = bytes.first_chunk()?;
            let [a, b, c, d, kind_low, kind_high, ..] = *header;
            let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
            let payload = bytes.get(HEADER..length)?;
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            let kind = u16::from_ne_bytes([kind_low, kind_high]);
            if kind >= FIRST_TYPE {
                return Some((kind, payload));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn splits_a_datagram_and_stops_at_a_cut_off_message() {
        let mut bytes = message(28, b"abc");
        bytes.extend(message(3, b""));
        bytes.extend(message(29, b"defg"));
        let whole: Vec<_> = messages(&bytes).collect();
        assert_eq!(whole, [(28, b"abc".as_slice()), (29, b"defg".as_slice())]);
        assert_eq!(messages(&bytes[..bytes.len() - 1]).count(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
        }
    }
}
