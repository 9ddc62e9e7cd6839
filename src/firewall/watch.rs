//! Noticing that somebody else changed our tables, or that links came and went. Netlink multicast; deciding is pure.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_bindings::rt_link::OpGetlinkDump;
use netlink_bindings::traits::NetlinkRequest;

use super::accounting::ACCT;
use super::build::TABLE;
use super::encode::SUBSYSTEM;
use super::table::Family;
use crate::netlink::route::{AF_BRIDGE, GROUP_LINK, RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::{NetlinkError, Notifications, Protocol, Received, attribute, text};

/// `NFNLGRP_NFTABLES` (7) as a mask (linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 1 << 6;
/// `NFT_MSG_NEWGEN`: the end of somebody's transaction.
const NEWGEN: u16 = SUBSYSTEM | 15;
/// The receive buffers: some thousand changes.
const BUFFER: usize = 4 << 20;
/// Datagrams read at a time, so that a flood cannot keep the reader.
const BITE: usize = 256;

/// Something that makes it necessary to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Another program changed this table of ours.
    Table {
        /// Its family.
        family: Family,
        /// Its name.
        table: String,
    },
    /// Messages were lost: anything may have changed.
    CompareAll,
    /// A link of that name appeared or changed.
    LinkPresent(String),
    /// The link of that name is gone.
    LinkGone(String),
}

/// What one reading of a watch gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noticed {
    /// What it means for us, each once, in the order they last came; often nothing.
    pub changes: Vec<Change>,
    /// There may be more to read at once.
    pub more: bool,
}

/// Notifications about nf_tables. Wait on its file descriptor, then call [`Watch::read`].
#[derive(Debug)]
pub struct Watch {
    notifications: Notifications,
    own_ports: BTreeSet<u32>,
}

impl Watch {
    /// Watches all our tables, in the network namespace of the calling thread. `own_ports`: see
    /// [`Watch::set_own_ports`].
    ///
    /// # Errors
    /// No netfilter socket, or no multicast.
    pub fn open(own_ports: impl IntoIterator<Item = u32>) -> Result<Self, NetlinkError> {
        Ok(Self {
            notifications: subscribe(Protocol::Netfilter, GROUP_NFTABLES)?,
            own_ports: own_ports.into_iter().collect(),
        })
    }

    /// The port ids of the sockets we change our tables with: mending one must not look like somebody breaking it.
    pub fn set_own_ports(&mut self, ports: impl IntoIterator<Item = u32>) {
        self.own_ports = ports.into_iter().collect();
    }

    /// What was notified since, without waiting.
    ///
    /// # Errors
    /// The socket is unusable.
    pub fn read(&mut self) -> io::Result<Noticed> {
        let own = &self.own_ports;
        read(&mut self.notifications, |message| judge(message, own))
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifications.as_fd()
    }
}

fn subscribe(protocol: Protocol, groups: u32) -> Result<Notifications, NetlinkError> {
    Notifications::open(protocol, groups, BUFFER).map_err(|source| NetlinkError::Open {
        protocol: protocol.name(),
        source,
    })
}

fn read(notifications: &mut Notifications, judge: impl Fn(Received<'_>) -> Option<Change>) -> io::Result<Noticed> {
    let mut changes = Vec::new();
    let drained = notifications.drain(BITE, |message| {
        if let Some(change) = judge(message) {
            // Each once, where it came last: a link that went and came back is there.
            changes.retain(|known| *known != change);
            changes.push(change);
        }
    })?;
    if drained.lost {
        changes.push(Change::CompareAll);
    }
    Ok(Noticed {
        changes,
        more: drained.more,
    })
}

/// Any message of any kind that names a table of ours counts: a removed chain breaks as much as a removed table.
fn judge(message: Received<'_>, own_ports: &BTreeSet<u32>) -> Option<Change> {
    if message.kind & 0xff00 != SUBSYSTEM || message.kind == NEWGEN || own_ports.contains(&message.port) {
        return None;
    }
    let number = *message.body.first()?;
    let family = [Family::Bridge, Family::Netdev, Family::Inet]
        .into_iter()
        .find(|family| family.number() == number)?;
    // In every nf_tables message the table's name is attribute 1.
    let table = attribute(message.body.get(4..)?, 1).map(text)?;
    [TABLE, ACCT]
        .contains(&table.as_str())
        .then_some(Change::Table { family, table })
}

/// Notifications about links, for plain LAN interfaces that are made anew.
#[derive(Debug)]
pub struct LinkWatch {
    notifications: Notifications,
}

impl LinkWatch {
    /// Watches the links of the network namespace of the calling thread.
    ///
    /// # Errors
    /// No route socket, or no multicast.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            notifications: subscribe(Protocol::Route, GROUP_LINK)?,
        })
    }

    /// What was notified since, without waiting.
    ///
    /// # Errors
    /// The socket is unusable.
    pub fn read(&mut self) -> io::Result<Noticed> {
        read(&mut self.notifications, judge_link)
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifications.as_fd()
    }
}

fn judge_link(message: Received<'_>) -> Option<Change> {
    let gone = match message.kind {
        RTM_NEWLINK => false,
        // The bridge family reports a port leaving its bridge as a deleted link; the link itself is still there.
        RTM_DELLINK => message.body.first() != Some(&AF_BRIDGE),
        _ => return None,
    };
    let (_, attributes) = OpGetlinkDump::decode_reply(message.body);
    let name = attributes.get_ifname().ok()?.to_string_lossy().into_owned();
    Some(if gone {
        Change::LinkGone(name)
    } else {
        Change::LinkPresent(name)
    })
}

/// For `fuzz/`: a datagram of notifications.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(datagram: &[u8]) {
    crate::netlink::fuzz(datagram, |message| {
        let _ = (judge(message, &BTreeSet::from([1])), judge_link(message));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Attributes;

    fn notification(kind: u16, family: u8, table: &str) -> (u16, Vec<u8>) {
        let mut body = Attributes::netfilter(family, 0);
        body.text(1, table);
        (10 << 8 | kind, body.0)
    }

    fn received(message: &(u16, Vec<u8>), port: u32) -> Received<'_> {
        Received {
            kind: message.0,
            flags: 0,
            sequence: 0,
            port,
            body: &message.1,
        }
    }

    #[test]
    fn any_foreign_message_naming_a_table_of_ours_counts() {
        for kind in [0, 2, 3, 5, 6, 8, 9, 11, 12, 14] {
            let message = notification(kind, 7, "edge_warden");
            let found = judge(received(&message, 77), &[1].into());
            assert_eq!(
                found,
                Some(Change::Table {
                    family: Family::Bridge,
                    table: "edge_warden".to_owned()
                }),
                "{kind}"
            );
        }
    }

    #[test]
    fn our_own_changes_and_other_tables_do_not() {
        let message = notification(2, 7, "edge_warden");
        assert_eq!(judge(received(&message, 1), &[1].into()), None);
        let foreign = notification(2, 7, "filter");
        assert_eq!(judge(received(&foreign, 77), &[1].into()), None);
        let generation = notification(15, 0, "edge_warden");
        assert_eq!(judge(received(&generation, 77), &[1].into()), None);
        let other_family = notification(2, 2, "edge_warden");
        assert_eq!(judge(received(&other_family, 77), &[1].into()), None);
    }

    #[test]
    fn truncated_notifications_are_nothing() {
        let message = notification(2, 7, "edge_warden");
        for length in 0..message.1.len() {
            let cut = (message.0, message.1[..length].to_vec());
            let _ = judge(received(&cut, 77), &BTreeSet::new());
            let _ = judge_link(received(&cut, 77));
        }
    }
}
