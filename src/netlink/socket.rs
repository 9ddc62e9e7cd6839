//! A socket for requests: dumps, and transactions of many messages.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_bindings::traits::{self, NetlinkRequest};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::message::{
    Message, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, Received, datagram,
    messages,
};
use super::{NetlinkError, Protocol};

/// The kernel fills at most 32 KiB of a dump at once (`netlink_recvmsg` in net/netlink/af_netlink.c).
const RECEIVE: usize = 64 * 1024;

/// A dump is answered at once, within the calls that ask for it; only a broken sandbox can stall it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dump {
    /// The table as it stood.
    Steady,
    /// It changed while it was read: entries may be missing.
    Interrupted,
}

/// A bound socket of one netlink protocol.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens and binds a socket in the network namespace of the calling thread.
    pub(crate) fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let prepared = || -> io::Result<(OwnedFd, u32)> {
            let fd = protocol.open(SocketFlags::empty())?;
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
            sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
            let port = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?.pid();
            Ok((fd, port))
        };
        let (fd, port) = prepared().map_err(|source| NetlinkError::Open {
            protocol: protocol.name(),
            source,
        })?;
        if protocol == Protocol::Netfilter {
            // A batch is one datagram: 10,000 devices are some megabytes. Refused without CAP_NET_ADMIN: then small ones
            // work.
            let _ = sockopt::set_socket_send_buffer_size_force(&fd, 16 << 20);
            let _ = sockopt::set_socket_recv_buffer_size_force(&fd, 4 << 20);
        }
        Ok(Self {
            fd,
            port,
            sequence: 1,
            buffer: vec![0; RECEIVE],
        })
    }

    /// The port id by which the kernel names this socket in notifications.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// From now on there is hardly any room for answers.
    #[cfg(test)]
    pub(crate) fn starve(&self) {
        sockopt::set_socket_recv_buffer_size(&self.fd, 1).unwrap();
    }

    /// Whether the socket's network namespace has an interface of this name. When in doubt it has: the kernel says so.
    pub(crate) fn has_interface(&self, name: &str) -> bool {
        !matches!(rustix::net::netdevice::name_to_index(&self.fd, name), Err(Errno::NODEV))
    }

    /// Sends all messages as one datagram and collects the answers the kernel has ready when `send` returns: it works
    /// through a request before it returns. The first refusal is the result.
    pub(crate) fn transact(&mut self, request: &'static str, messages: &[Message]) -> Result<(), NetlinkError> {
        let transport = |source| NetlinkError::Transport { request, source };
        let first = self.sequence;
        self.send(messages).map_err(transport)?;
        let (mut acknowledged, mut refused) = (false, None);
        loop {
            let answers = match receive(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(answers) => answers,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(transport(error.into())),
            };
            for answer in self::messages(answers) {
                let answer = answer.map_err(|cut| transport(cut.into()))?;
                let index = answer.sequence.wrapping_sub(first);
                // What belongs to an earlier request nobody waits for any more has a number far behind.
                if answer.kind == NLMSG_ERROR && index < 0x4000_0000 {
                    match answer.outcome() {
                        0 => acknowledged = true,
                        code => refused = refused.or(Some((index, code))),
                    }
                }
            }
        }
        if let Some((index, code)) = refused {
            let message = usize::try_from(index).ok().and_then(|index| messages.get(index));
            return Err(NetlinkError::Refused {
                request,
                message: message.map_or_else(|| "the batch".to_owned(), |message| message.what.clone()),
                source: io::Error::from_raw_os_error(code),
            });
        }
        if acknowledged {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, "neither acknowledged nor refused");
        Err(transport(source))
    }

    /// Reads a whole dump into a fresh `T`; `each` gets every answer. Begins anew when the table changed meanwhile.
    pub(crate) fn dump<T: Default>(
        &mut self,
        request: &'static str,
        message: &Message,
        mut each: impl FnMut(&mut T, Received<'_>),
    ) -> Result<T, NetlinkError> {
        const TRIES: u32 = 10;
        let mut message = message.clone();
        message.flags |= NLM_F_DUMP;
        for _ in 0..TRIES {
            let mut found = T::default();
            match self.answers(std::slice::from_ref(&message), |answer| each(&mut found, answer)) {
                Ok(Dump::Steady) => return Ok(found),
                Ok(Dump::Interrupted) => {}
                Err(Failed::Refused(source)) => {
                    return Err(NetlinkError::Refused {
                        request,
                        message: message.what,
                        source,
                    });
                }
                Err(Failed::Transport(source)) => return Err(NetlinkError::Transport { request, source }),
            }
        }
        Err(NetlinkError::Unstable { request, tries: TRIES })
    }

    fn answers(&mut self, request: &[Message], mut each: impl FnMut(Received<'_>)) -> Result<Dump, Failed> {
        let sequence = self.sequence;
        self.send(request).map_err(Failed::Transport)?;
        let mut end = Dump::Steady;
        loop {
            let block = receive(&self.fd, &mut self.buffer, RecvFlags::empty())
                .map_err(|error| Failed::Transport(error.into()))?;
            if let Some(last) = walk(block, sequence, &mut end, &mut each)? {
                return Ok(last);
            }
        }
    }

    fn send(&mut self, messages: &[Message]) -> io::Result<()> {
        let datagram = datagram(messages, self.sequence);
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        self.sequence = self.sequence.wrapping_add(count);
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = retry_on_intr(|| rustix::net::sendto(&self.fd, &datagram, SendFlags::empty(), &kernel))?;
        if sent == datagram.len() {
            Ok(())
        } else {
            Err(io::Error::other("the request was cut"))
        }
    }
}

/// Sends one dump request that `netlink-bindings` encoded, over a socket of its own: in the namespace the calling thread
/// is in now. `each` gets every row as it comes; after [`Dump::Interrupted`] some may be missing.
pub(crate) fn dump_once<R: NetlinkRequest>(request: &R, mut each: impl FnMut(R::ReplyType<'_>)) -> io::Result<Dump> {
    let traits::Protocol::Raw { protonum, request_type } = request.protocol() else {
        return Err(io::Error::other("generic netlink is not read here"));
    };
    let protocol = Protocol::from_number(protonum)
        .ok_or_else(|| io::Error::other(format!("netlink protocol {protonum} is not read here")))?;
    let mut socket = Socket::open(protocol).map_err(|error| match error {
        NetlinkError::Open { source, .. } => source,
        other => io::Error::other(other),
    })?;
    let message = Message {
        kind: request_type,
        flags: request.flags(),
        body: request.payload().to_vec(),
        what: String::new(),
    };
    let answered = socket.answers(&[message], |answer| each(R::decode_reply(answer.body)));
    answered.map_err(|failed| match failed {
        Failed::Refused(source) | Failed::Transport(source) => source,
    })
}

/// Why a dump gave nothing: the kernel said no, or nothing.
#[derive(Debug)]
enum Failed {
    Refused(io::Error),
    Transport(io::Error),
}

fn receive<'a>(fd: &OwnedFd, buffer: &'a mut [u8], flags: RecvFlags) -> Result<&'a [u8], Errno> {
    let (length, whole) = retry_on_intr(|| rustix::net::recv(fd, &mut *buffer, flags | RecvFlags::TRUNC))?;
    if whole > length {
        return Err(Errno::MSGSIZE);
    }
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Walks the messages of one received block and hands out those that answer `sequence`; how the dump ended, if it did.
fn walk(
    block: &[u8],
    sequence: u32,
    end: &mut Dump,
    each: &mut impl FnMut(Received<'_>),
) -> Result<Option<Dump>, Failed> {
    if block.is_empty() {
        return Err(Failed::Transport(io::ErrorKind::UnexpectedEof.into()));
    }
    for message in messages(block) {
        let message = message.map_err(|cut| Failed::Transport(cut.into()))?;
        if message.sequence != sequence {
            continue;
        }
        if message.flags & NLM_F_DUMP_INTR != 0 {
            *end = Dump::Interrupted;
        }
        match message.kind {
            NLMSG_NOOP => {}
            NLMSG_OVERRUN => {
                let lost = io::Error::other("the kernel lost part of the reply");
                return Err(Failed::Transport(lost));
            }
            NLMSG_ERROR | NLMSG_DONE => {
                return match message.outcome() {
                    0 => Ok(Some(*end)),
                    code => Err(Failed::Refused(io::Error::from_raw_os_error(code))),
                };
            }
            _ => each(message),
        }
    }
    Ok(None)
}

/// For `fuzz/`: a block as the answer to request 1.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(block: &[u8]) {
    let _ = walk(block, 1, &mut Dump::Steady, &mut |_: Received<'_>| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(parts: &[(u16, u16, u32, &[u8])]) -> Vec<u8> {
        let one = |&(kind, flags, sequence, body): &(u16, u16, u32, &[u8])| {
            let message = Message {
                kind,
                flags,
                body: body.to_vec(),
                what: String::new(),
            };
            datagram(&[message], sequence)
        };
        parts.iter().flat_map(one).collect()
    }

    fn walked(block: &[u8]) -> (Result<Option<Dump>, Failed>, Vec<Vec<u8>>) {
        let mut seen = Vec::new();
        let ended = walk(block, 7, &mut Dump::Steady, &mut |message: Received<'_>| {
            seen.push(message.body.to_vec());
        });
        (ended, seen)
    }

    #[test]
    fn hands_out_what_answers_the_request_and_nothing_else() {
        let (ended, seen) = walked(&block(&[
            (20, 2, 7, b"abcde"),
            (20, 2, 6, b"late"),
            (20, 2 | NLM_F_DUMP_INTR, 7, b"f"),
            (NLMSG_DONE, 2, 7, &[0; 4]),
        ]));
        assert_eq!(seen, [b"abcde".to_vec(), b"f".to_vec()]);
        assert_eq!(ended.unwrap(), Some(Dump::Interrupted));
    }

    #[test]
    fn an_error_keeps_its_number_also_at_the_end_of_a_dump() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let (ended, _) = walked(&block(&[(kind, 0, 7, &(-libc::EACCES).to_ne_bytes())]));
            assert!(matches!(ended, Err(Failed::Refused(error)) if error.raw_os_error() == Some(libc::EACCES)));
        }
    }

    #[test]
    fn nothing_and_less_than_a_message_are_errors() {
        let whole = block(&[(20, 2, 7, b"abcdefgh")]);
        for length in 0..whole.len() {
            assert!(walked(&whole[..length]).0.is_err(), "{length} bytes");
        }
    }
}
