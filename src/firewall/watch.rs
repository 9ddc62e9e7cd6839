//! Noticing that somebody else changed our tables, or that links came and went. Netlink multicast; deciding is pure.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::netlink::{Netlink, NetlinkError, Received, attribute, text};
use super::table::Family;

/// NFNLGRP_NFTABLES is group 7 (linux/netfilter/nfnetlink.h).
const NFTABLES_GROUP: u32 = 1 << 6;
/// RTNLGRP_LINK is group 1 (linux/rtnetlink.h).
const LINK_GROUP: u32 = 1;
const SUBSYSTEM: u16 = 10;
const NEWGEN: u8 = 15;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

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

/// Notifications about nf_tables. Wait on its file descriptor, then call [`Watch::read`].
#[derive(Debug)]
pub struct Watch {
    netlink: Netlink,
    tables: BTreeSet<String>,
    own_ports: BTreeSet<u32>,
}

impl Watch {
    /// Watches all our tables, in the network namespace of the calling thread. `own_ports` are the port ids of the
    /// sockets we change them with: mending a table must not look like somebody breaking it.
    ///
    /// # Errors
    /// No netfilter socket, or no multicast.
    pub fn open(own_ports: impl IntoIterator<Item = u32>) -> Result<Self, NetlinkError> {
        Ok(Self {
            netlink: Netlink::netfilter(NFTABLES_GROUP)?,
            tables: ["edge_warden".to_owned(), "edge_warden_acct".to_owned()].into(),
            own_ports: own_ports.into_iter().collect(),
        })
    }

    /// Never waits in [`Watch::read`] from now on: for event loops.
    ///
    /// # Errors
    /// The socket is unusable.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(self.netlink.as_fd(), true)?)
    }

    /// Waits for the next notifications and tells what they mean for us: often nothing, then the list is empty.
    ///
    /// # Errors
    /// The socket is unusable.
    pub fn read(&mut self) -> io::Result<Vec<Change>> {
        let mut changes: Vec<Change> = Vec::new();
        let (tables, own) = (&self.tables, &self.own_ports);
        let read = self.netlink.listen(|message| {
            if let Some(change) = judge(message, tables, own).filter(|change| !changes.contains(change)) {
                changes.push(change);
            }
        });
        match read {
            Ok(()) => Ok(changes),
            Err(Errno::NOBUFS) => Ok(vec![Change::CompareAll]),
            Err(Errno::INTR | Errno::AGAIN) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// Any message of any kind that names a table of ours counts: a removed chain breaks as much as a removed table.
fn judge(message: Received<'_>, tables: &BTreeSet<String>, own_ports: &BTreeSet<u32>) -> Option<Change> {
    let [kind, subsystem] = message.kind.to_le_bytes();
    if u16::from(subsystem) != SUBSYSTEM || kind == NEWGEN || own_ports.contains(&message.port) {
        return None;
    }
    let family = match message.body.first()? {
        7 => Family::Bridge,
        5 => Family::Netdev,
        1 => Family::Inet,
        _ => return None,
    };
    // In every nf_tables message the table's name is attribute 1.
    let table = attribute(message.body.get(4..)?, 1).map(text)?;
    tables.contains(&table).then_some(Change::Table { family, table })
}

/// Notifications about links, for plain LAN interfaces that are made anew.
#[derive(Debug)]
pub struct LinkWatch {
    netlink: Netlink,
}

impl LinkWatch {
    /// Watches the links of the network namespace of the calling thread.
    ///
    /// # Errors
    /// No route socket, or no multicast.
    pub fn open() -> Result<Self, NetlinkError> {
        // Protocol 0, NETLINK_ROUTE, is rustix's "default".
        let netlink = Netlink::open_route(LINK_GROUP)?;
        Ok(Self { netlink })
    }

    /// Waits for the next notifications.
    ///
    /// # Errors
    /// The socket is unusable.
    pub fn read(&mut self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        let read = self.netlink.listen(|message| changes.extend(judge_link(message)));
        match read {
            Ok(()) => Ok(changes),
            Err(Errno::NOBUFS) => Ok(vec![Change::CompareAll]),
            Err(Errno::INTR | Errno::AGAIN) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

fn judge_link(message: Received<'_>) -> Option<Change> {
    let name = attribute(message.body.get(LINK_HEADER..)?, IFLA_IFNAME).map(text)?;
    // The bridge family reports a port leaving its bridge as a deleted link; the link itself is still there.
    let bridge_port = message.body.first() == Some(&7);
    match message.kind {
        RTM_NEWLINK => Some(Change::LinkPresent(name)),
        RTM_DELLINK if bridge_port => Some(Change::LinkPresent(name)),
        RTM_DELLINK => Some(Change::LinkGone(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::netlink::Attributes;

    fn ours() -> BTreeSet<String> {
        ["edge_warden".to_owned()].into()
    }

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
            let found = judge(received(&message, 77), &ours(), &[1].into());
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
        assert_eq!(judge(received(&message, 1), &ours(), &[1].into()), None);
        let foreign = notification(2, 7, "filter");
        assert_eq!(judge(received(&foreign, 77), &ours(), &[1].into()), None);
        let generation = notification(15, 0, "edge_warden");
        assert_eq!(judge(received(&generation, 77), &ours(), &[1].into()), None);
        let other_family = notification(2, 2, "edge_warden");
        assert_eq!(judge(received(&other_family, 77), &ours(), &[1].into()), None);
    }

    #[test]
    fn truncated_notifications_are_nothing() {
        let message = notification(2, 7, "edge_warden");
        for length in 0..message.1.len() {
            let cut = (message.0, message.1[..length].to_vec());
            let _ = judge(received(&cut, 77), &ours(), &BTreeSet::new());
            let _ = judge_link(received(&cut, 77));
        }
    }
}
