//! Numbers of rtnetlink (linux/rtnetlink.h), for notifications: requests are encoded by `netlink-bindings`.

/// A link is there, or changed.
pub(crate) const RTM_NEWLINK: u16 = 16;
/// A link is gone.
pub(crate) const RTM_DELLINK: u16 = 17;
/// A neighbour is there, or changed.
pub(crate) const RTM_NEWNEIGH: u16 = 28;
/// A neighbour is gone.
pub(crate) const RTM_DELNEIGH: u16 = 29;

/// `RTNLGRP_LINK` (1) as a mask.
pub(crate) const GROUP_LINK: u32 = 1;
/// `RTNLGRP_NEIGH` (3) as a mask.
pub(crate) const GROUP_NEIGH: u32 = 1 << 2;

/// Family of what a bridge says about its ports and what it learnt.
pub(crate) const AF_BRIDGE: u8 = 7;
