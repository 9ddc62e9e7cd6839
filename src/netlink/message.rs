//! Messages and the datagrams they travel in (`struct nlmsghdr` of linux/netlink.h).

use std::io;

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

const NLM_F_REQUEST: u16 = 0x1;
/// Ask for an answer also when all went well.
pub(crate) const NLM_F_ACK: u16 = 0x4;
/// Create what does not exist.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// Behind the others, not before them.
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;

pub(super) const NLMSG_NOOP: u16 = 1;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLMSG_OVERRUN: u16 = 4;
/// Message types below this belong to netlink itself.
pub(super) const NLMSG_MIN_TYPE: u16 = 16;

/// One netlink message in the making.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Port id of whoever caused it.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl Received<'_> {
    /// What `NLMSG_ERROR` and `NLMSG_DONE` begin with: 0 or an error number. A dump that fails half-way says so in
    /// `NLMSG_DONE`.
    pub(super) fn outcome(&self) -> i32 {
        let code = self.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        code.saturating_neg()
    }
}

/// A message does not end within its datagram, or says so little of itself that the next cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut;

impl From<Cut> for io::Error {
    fn from(_: Cut) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut")
    }
}

/// The messages of one datagram, up to the first one that is cut.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Result<Received<'_>, Cut>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let message = split(datagram);
        datagram = message.map_or(&[], |(_, rest)| rest);
        Some(message.map(|(message, _)| message).ok_or(Cut))
    })
}

fn split(datagram: &[u8]) -> Option<(Received<'_>, &[u8])> {
    let word = |at: usize| Some(u32::from_ne_bytes(datagram.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(datagram.get(at..at + 2)?.try_into().ok()?));
    let length = usize::try_from(word(0)?).ok()?;
    let message = Received {
        kind: half(4)?,
        flags: half(6)?,
        sequence: word(8)?,
        port: word(12)?,
        body: datagram.get(HEADER..length)?,
    };
    let rest = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((message, rest))
}

/// `messages` as one datagram, numbered from `sequence` on.
pub(super) fn datagram(messages: &[Message], sequence: u32) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(messages.iter().map(|m| m.body.len() + HEADER + 4).sum());
    let mut number = sequence;
    for message in messages {
        let length = u32::try_from(message.body.len() + HEADER).unwrap_or(u32::MAX);
        datagram.extend(length.to_ne_bytes());
        datagram.extend(message.kind.to_ne_bytes());
        datagram.extend((message.flags | NLM_F_REQUEST).to_ne_bytes());
        datagram.extend(number.to_ne_bytes());
        datagram.extend(0_u32.to_ne_bytes());
        datagram.extend(&message.body);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        number = number.wrapping_add(1);
    }
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, body: &[u8]) -> Message {
        Message {
            kind,
            flags: 2,
            body: body.to_vec(),
            what: String::new(),
        }
    }

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        let bytes = datagram(&[message(20, b"abcde"), message(21, b""), message(3, &[0; 4])], 7);
        let read: Result<Vec<_>, Cut> = messages(&bytes).collect();
        let read: Vec<_> = read
            .unwrap()
            .into_iter()
            .map(|m| (m.kind, m.sequence, m.body))
            .collect();
        assert_eq!(
            read,
            [
                (20, 7, b"abcde".as_slice()),
                (21, 8, b"".as_slice()),
                (3, 9, [0; 4].as_slice())
            ]
        );
    }

    #[test]
    fn cut_and_senseless_lengths_are_said_once() {
        let whole = datagram(&[message(20, b"abcdefgh")], 7);
        for length in 1..whole.len() {
            assert_eq!(
                messages(&whole[..length]).collect::<Vec<_>>(),
                [Err(Cut)],
                "{length} bytes"
            );
        }
        for length in [0_u32, 15, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&bytes).collect::<Vec<_>>(), [Err(Cut)], "length {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER + 1);
        }
    }
}
