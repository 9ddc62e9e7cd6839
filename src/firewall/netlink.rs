//! One netlink socket: a transaction out, its answers in. Framing only; what the messages mean is told elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_bindings::utils::{chop_header, finalize_nested_header, push_header, push_nested_header};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// Largest message the kernel puts into one dump answer is 32 KiB; twice that leaves room for anything else.
const RECEIVE: usize = 64 * 1024;
const HEADER: usize = 16;

const NLM_F_REQUEST: u16 = 0x1;
/// Ask for an answer also when all went well.
pub(crate) const NLM_F_ACK: u16 = 0x4;
/// Create what does not exist.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// Behind the others, not before them.
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// What can go wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or set up.
    #[error("netlink protocol {protocol}: the socket cannot be opened")]
    Open {
        /// Netlink protocol number.
        protocol: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The request did not reach the kernel, or its answer not us.
    #[error("{request}: no answer from the kernel")]
    Transport {
        /// What was asked.
        request: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{request}: refused by the kernel at {message}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// Which of the messages in it.
        message: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The table kept changing while it was read.
    #[error("{request}: changed while it was read, {tries} times")]
    Unstable {
        /// What was asked.
        request: &'static str,
        /// How often.
        tries: u32,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// One netlink message in the making, or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    /// Family header and attributes.
    pub(crate) body: Vec<u8>,
    /// What it is, for errors.
    pub(crate) what: String,
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Port id of whoever caused it.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

/// A bound socket of one netlink protocol.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens and binds a socket; `groups` is a mask of multicast groups to join (bit n-1 is group n).
    pub(crate) fn open(protocol: Protocol, name: &'static str, groups: u32) -> Result<Self, NetlinkError> {
        Self::open_protocol(Some(protocol), name, groups)
    }

    /// A socket for links and routes: protocol 0, which has no name of its own in rustix.
    pub(crate) fn open_route(groups: u32) -> Result<Self, NetlinkError> {
        Self::open_protocol(None, "NETLINK_ROUTE", groups)
    }

    /// Whether the socket's network namespace has an interface of this name. When in doubt it has: the kernel says so.
    pub(crate) fn has_interface(&self, name: &str) -> bool {
        !matches!(rustix::net::netdevice::name_to_index(&self.fd, name), Err(Errno::NODEV))
    }

    fn open_protocol(protocol: Option<Protocol>, name: &'static str, groups: u32) -> Result<Self, NetlinkError> {
        let failed = |source: Errno| NetlinkError::Open {
            protocol: name,
            source: source.into(),
        };
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).map_err(failed)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(failed)?;
        let local = rustix::net::getsockname(&fd).map_err(failed)?;
        let port = SocketAddrNetlink::try_from(local).map_err(failed)?.pid();
        // A batch is one datagram: 10,000 devices are some megabytes. Refused without CAP_NET_ADMIN: then small ones work.
        let _ = sockopt::set_socket_send_buffer_size_force(&fd, 16 << 20);
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, 4 << 20);
        Ok(Self {
            fd,
            port,
            sequence: 1,
            buffer: vec![0; RECEIVE],
        })
    }

    /// A socket for nf_tables and ctnetlink.
    pub(crate) fn netfilter(groups: u32) -> Result<Self, NetlinkError> {
        let protocol = netlink::NETFILTER;
        Self::open(protocol, "NETLINK_NETFILTER", groups)
    }

    /// The port id by which the kernel names this socket in notifications.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends all messages as one datagram and collects the answers the kernel has ready when `send` returns: it works
    /// through a request before it returns. The first refusal is the result.
    pub(crate) fn transact(&mut self, request: &'static str, messages: &[Message]) -> Result<(), NetlinkError> {
        let first = self.sequence;
        let datagram = self.datagram(messages);
        self.send(request, &datagram)?;
        let mut acknowledged = false;
        let mut refused: Option<(u32, i32)> = None;
        let ended = self.receive(request, RecvFlags::DONTWAIT, |message| {
            if message.kind == NLMSG_ERROR && message.sequence.wrapping_sub(first) < 0x4000_0000 {
                match int(message.body.get(..4)) {
                    0 => acknowledged = true,
                    code => refused = refused.or_else(|| Some((message.sequence.wrapping_sub(first), code))),
                }
            }
            Next::More
        });
        match ended {
            Ok(()) => {}
            Err(Errno::AGAIN) => {}
            Err(source) => {
                return Err(NetlinkError::Transport {
                    request,
                    source: source.into(),
                });
            }
        }
        if let Some((index, code)) = refused {
            let message = usize::try_from(index).ok().and_then(|index| messages.get(index));
            return Err(NetlinkError::Refused {
                request,
                message: message.map_or_else(|| "the batch".to_owned(), |message| message.what.clone()),
                source: io::Error::from_raw_os_error(code.saturating_neg()),
            });
        }
        if acknowledged {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, "neither acknowledged nor refused");
        Err(NetlinkError::Transport { request, source })
    }

    /// Reads a whole dump; `each` gets every answer. Repeats when the kernel says that the dump is inconsistent,
    /// after calling `restart`.
    pub(crate) fn dump<T: Default>(
        &mut self,
        request: &'static str,
        message: &Message,
        mut each: impl FnMut(&mut T, Received<'_>),
    ) -> Result<T, NetlinkError> {
        const TRIES: u32 = 10;
        for _ in 0..TRIES {
            let mut message = message.clone();
            message.flags |= NLM_F_DUMP;
            let sequence = self.sequence;
            let datagram = self.datagram(std::slice::from_ref(&message));
            self.send(request, &datagram)?;
            let mut result = T::default();
            let mut interrupted = false;
            let mut code = 0;
            self.receive(request, RecvFlags::empty(), |answer| {
                if answer.sequence != sequence {
                    return Next::More;
                }
                interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
                match answer.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        code = int(answer.body.get(..4));
                        Next::Stop
                    }
                    _ => {
                        each(&mut result, answer);
                        Next::More
                    }
                }
            })
            .map_err(|source| NetlinkError::Transport {
                request,
                source: source.into(),
            })?;
            if code != 0 {
                let source = io::Error::from_raw_os_error(code.saturating_neg());
                return Err(NetlinkError::Refused {
                    request,
                    message: message.what,
                    source,
                });
            }
            if !interrupted {
                return Ok(result);
            }
        }
        Err(NetlinkError::Unstable { request, tries: TRIES })
    }

    /// Waits for one datagram and hands over its messages.
    pub(crate) fn listen(&mut self, mut each: impl FnMut(Received<'_>)) -> Result<(), Errno> {
        let (length, _) = rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty())?;
        each_message(self.buffer.get(..length).unwrap_or_default(), |message| {
            each(message);
            Next::More
        });
        Ok(())
    }

    fn datagram(&mut self, messages: &[Message]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(messages.iter().map(|m| m.body.len() + HEADER + 4).sum());
        for message in messages {
            let length = u32::try_from(message.body.len() + HEADER).unwrap_or(u32::MAX);
            datagram.extend(length.to_ne_bytes());
            datagram.extend(message.kind.to_ne_bytes());
            datagram.extend((message.flags | NLM_F_REQUEST).to_ne_bytes());
            datagram.extend(self.sequence.to_ne_bytes());
            datagram.extend(0_u32.to_ne_bytes());
            datagram.extend(&message.body);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
            self.sequence = self.sequence.wrapping_add(1);
        }
        datagram
    }

    fn send(&self, request: &'static str, datagram: &[u8]) -> Result<(), NetlinkError> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| rustix::net::sendto(&self.fd, datagram, SendFlags::empty(), &kernel))
            .map(|_| ())
            .map_err(|source| NetlinkError::Transport {
                request,
                source: source.into(),
            })
    }

    fn receive(
        &mut self,
        _request: &'static str,
        flags: RecvFlags,
        mut each: impl FnMut(Received<'_>) -> Next,
    ) -> Result<(), Errno> {
        loop {
            let (length, _) =
                rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), flags))?;
            if let Next::Stop = each_message(self.buffer.get(..length).unwrap_or_default(), &mut each) {
                return Ok(());
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    More,
    Stop,
}

fn each_message(mut datagram: &[u8], mut each: impl FnMut(Received<'_>) -> Next) -> Next {
    while let (Some(length), Some(kind)) = (word(datagram, 0), half(datagram, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = datagram.get(HEADER..length) else {
            break;
        };
        let message = Received {
            kind,
            flags: half(datagram, 6).unwrap_or(0),
            sequence: word(datagram, 8).unwrap_or(0),
            port: word(datagram, 12).unwrap_or(0),
            body,
        };
        if each(message) == Next::Stop {
            return Next::Stop;
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Next::More
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn int(bytes: Option<&[u8]>) -> i32 {
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i32::from_ne_bytes)
}

/// Attributes being written.
#[derive(Debug, Default)]
pub(crate) struct Attributes(pub(crate) Vec<u8>);

impl Attributes {
    /// Attributes behind a family header (`nfgenmsg`: family, version 0, resource id).
    pub(crate) fn netfilter(family: u8, resource: u16) -> Self {
        let [high, low] = resource.to_be_bytes();
        Self(vec![family, 0, high, low])
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        push_header(&mut self.0, kind, u16::try_from(value.len()).unwrap_or(u16::MAX));
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A zero-terminated string, as nf_tables wants its names.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let at = push_nested_header(&mut self.0, kind);
        inner(self);
        finalize_nested_header(&mut self.0, at);
        self
    }
}

/// The attributes in `bytes`, as (type without flags, payload).
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut position = 0;
    std::iter::from_fn(move || {
        if position >= bytes.len() {
            return None;
        }
        chop_header(bytes, &mut position).map(|(header, value)| (header.r#type, value))
    })
}

/// The first attribute of that type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// A big-endian number.
pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// A big-endian number.
pub(crate) fn be64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// Text up to its zero byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
