//! One netlink dump at a time, in the calling thread's network namespace.
//!
//! Requests and replies are encoded and decoded by `netlink-bindings`. The socket is ours and not that of
//! `netlink-socket2`, because that one reports every refused socket(2) as `EPERM` (absent and denied would be one),
//! hides `NLM_F_DUMP_INTR` (an interface could be lost unnoticed) and keeps its sockets, so a thread that entered
//! another namespace would go on reading the old one.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_bindings::builtin::Nlmsghdr;
use netlink_bindings::traits::{NetlinkRequest, Protocol};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::error::CollectError;

/// The kernel fills at most 32 KiB of a dump at once (`netlink_recvmsg` in net/netlink/af_netlink.c).
const BUFFER_BYTES: usize = 64 * 1024;

/// How often a dump is begun again when the table changed under it.
const ATTEMPTS: u32 = 4;

/// A dump is answered at once, within the calls that ask for it; only a broken sandbox can stall it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads netlink tables; holds nothing but the receive buffer.
#[derive(Debug)]
pub(super) struct Netlink {
    buffer: Vec<u8>,
    sequence: u32,
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dump {
    /// The table as it stood.
    Steady,
    /// It changed during every attempt; the last one was kept.
    Interrupted,
}

/// What one received block means for the dump it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    done: bool,
    interrupted: bool,
}

impl Netlink {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES],
            sequence: 0,
        }
    }

    /// Sends the dump `request` for the table called `origin` and collects with `each` into a fresh `T`.
    pub(super) fn dump<R: NetlinkRequest, T: Default>(
        &mut self,
        origin: &str,
        request: &R,
        mut each: impl FnMut(&mut T, R::ReplyType<'_>),
    ) -> Result<(T, Dump), CollectError> {
        let Protocol::Raw { protonum, request_type } = request.protocol() else {
            return Err(CollectError::malformed(origin, "generic netlink is not read here"));
        };
        let socket = open(protonum).map_err(|e| CollectError::from_io(origin, e))?;
        let mut attempt = 1;
        loop {
            let mut found = T::default();
            let interrupted = self
                .dump_once(&socket, request_type, request, |reply| each(&mut found, reply))
                .map_err(|e| CollectError::from_io(origin, e))?;
            if !interrupted {
                return Ok((found, Dump::Steady));
            }
            if attempt == ATTEMPTS {
                return Ok((found, Dump::Interrupted));
            }
            attempt += 1;
        }
    }

    fn dump_once<R: NetlinkRequest>(
        &mut self,
        socket: &OwnedFd,
        request_type: u16,
        request: &R,
        mut each: impl FnMut(R::ReplyType<'_>),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let header = Nlmsghdr {
            len: u32::try_from(Nlmsghdr::len() + request.payload().len()).map_err(io::Error::other)?,
            r#type: request_type,
            flags: request.flags() | NLM_F_REQUEST,
            seq: self.sequence,
            pid: 0,
        };
        let message = [header.as_slice(), request.payload()].concat();
        let sent = rustix::io::retry_on_intr(|| send(socket, &message, SendFlags::empty()))?;
        if sent != message.len() {
            return Err(io::Error::other("the request was cut"));
        }
        let mut interrupted = false;
        loop {
            let (_, length) = rustix::io::retry_on_intr(|| recv(socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC))?;
            let block = self
                .buffer
                .get(..length)
                .ok_or_else(|| io::Error::other(format!("a reply of {length} bytes does not fit the buffer")))?;
            let progress = messages(block, self.sequence, |payload| each(R::decode_reply(payload)))?;
            interrupted |= progress.interrupted;
            if progress.done {
                return Ok(interrupted);
            }
        }
    }
}

// include/uapi/linux/netlink.h; in `libc` these are `c_int`.
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

fn open(protonum: u16) -> io::Result<OwnedFd> {
    // NETLINK_ROUTE is 0, which rustix writes as no protocol.
    let protocol = match i32::from(protonum) {
        libc::NETLINK_ROUTE => None,
        libc::NETLINK_SOCK_DIAG => Some(netlink::SOCK_DIAG),
        other => return Err(io::Error::other(format!("netlink protocol {other} is not read here"))),
    };
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// Walks the messages of one received block and hands out the payloads that answer `sequence`.
fn messages(block: &[u8], sequence: u32, mut each: impl FnMut(&[u8])) -> io::Result<Progress> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut");
    let mut rest = block;
    let mut progress = Progress {
        done: false,
        interrupted: false,
    };
    if rest.is_empty() {
        return Err(short());
    }
    while !rest.is_empty() {
        let header = rest
            .get(..Nlmsghdr::len())
            .and_then(Nlmsghdr::new_from_slice)
            .ok_or_else(short)?;
        let length = usize::try_from(header.len).map_err(io::Error::other)?;
        let payload = rest.get(Nlmsghdr::len()..length).ok_or_else(short)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if header.seq != sequence {
            continue;
        }
        progress.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match header.r#type {
            NLMSG_NOOP => {}
            NLMSG_OVERRUN => return Err(io::Error::other("the kernel lost part of the reply")),
            NLMSG_ERROR | NLMSG_DONE => {
                // Both begin with 0 or a negated errno; a dump that fails half-way says so in NLMSG_DONE.
                let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
                }
                progress.done = true;
            }
            _ => each(payload),
        }
    }
    Ok(progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
        let header = Nlmsghdr {
            len: u32::try_from(Nlmsghdr::len() + payload.len()).unwrap(),
            r#type: kind,
            flags,
            seq,
            pid: 0,
        };
        let mut bytes = [header.as_slice(), payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn walk(block: &[u8]) -> (io::Result<Progress>, Vec<Vec<u8>>) {
        let mut seen = Vec::new();
        let progress = messages(block, 7, |payload| seen.push(payload.to_vec()));
        (progress, seen)
    }

    #[test]
    fn hands_out_what_answers_the_request_and_nothing_else() {
        let block = [
            message(20, 2, 7, b"abcde"),
            message(20, 2, 6, b"late"),
            message(20, 2 | NLM_F_DUMP_INTR, 7, b"f"),
            message(NLMSG_DONE, 2, 7, &0_i32.to_ne_bytes()),
        ]
        .concat();
        let (progress, seen) = walk(&block);
        assert_eq!(seen, [b"abcde".to_vec(), b"f".to_vec()]);
        let progress = progress.unwrap();
        assert!(progress.done && progress.interrupted);
    }

    #[test]
    fn an_error_keeps_its_number_also_at_the_end_of_a_dump() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let (progress, _) = walk(&message(kind, 0, 7, &(-libc::EACCES).to_ne_bytes()));
            assert_eq!(progress.unwrap_err().raw_os_error(), Some(libc::EACCES));
        }
    }

    #[test]
    fn cut_and_senseless_lengths_are_errors_and_do_not_hang() {
        let whole = message(20, 2, 7, b"abcdefgh");
        for length in 0..whole.len() {
            assert!(walk(&whole[..length]).0.is_err(), "{length} bytes");
        }
        for length in [0_u32, 15, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(walk(&bytes).0.is_err(), "length {length}");
        }
    }
}
