//! What the kernel says unasked: a netlink multicast socket, read without waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SocketFlags, sockopt};

use super::Protocol;
use super::message::{NLMSG_MIN_TYPE, Received, messages};

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
pub(crate) struct Notifications {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Notifications {
    /// Subscribes. `groups` is a bit mask, group 1 the lowest bit. The receive buffer is set past the system's limit
    /// where privileges allow it, to the limit where not.
    pub(crate) fn open(protocol: Protocol, groups: u32, receive_buffer: usize) -> io::Result<Self> {
        let socket = protocol.open(SocketFlags::NONBLOCK)?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, receive_buffer).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, receive_buffer)?;
        }
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        let buffer = vec![0; BUFFER];
        Ok(Self { socket, buffer })
    }

    /// Reads what is there, at most `limit` datagrams, and hands on the messages.
    pub(crate) fn drain(&mut self, limit: usize, mut each: impl FnMut(Received<'_>)) -> io::Result<Drained> {
        let mut drained = Drained::default();
        for _ in 0..limit {
            match rustix::net::recvfrom(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    // Only the kernel has port 0; anything else is another process talking to us.
                    let kernel = from
                        .and_then(|from| SocketAddrNetlink::try_from(from).ok())
                        .is_some_and(|from| from.pid() == 0);
                    if kernel {
                        let datagram = self.buffer.get(..length).unwrap_or_default();
                        for message in messages(datagram).map_while(Result::ok) {
                            if message.kind >= NLMSG_MIN_TYPE {
                                drained.messages += 1;
                                each(message);
                            }
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

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
