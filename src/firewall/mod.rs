//! Enforcement: a [`Policy`] in, packets dropped, and what the kernel really holds read back.
//!
//! ```text
//!  Policy ──build──▶ tables (values, golden-tested) ──encode──▶ one netlink transaction ──▶ kernel
//!                        └──────────── compared with ◀──readback── dumps ◀──────────────────┘
//! ```
//!
//! What passes and what does not is told in `docs/quarantine-firewall.md`; `build.rs` is written from it.

mod accounting;
mod build;
mod encode;
mod nftables;
mod observe;
mod policy;
mod probe;
mod readback;
mod sever;
mod table;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

pub use accounting::{Accounting, AccountingLan, NftablesAccounting, Traffic, Volume};
pub use nftables::{NftablesFirewall, Ownership, TableOwnership, render};
pub use observe::ObserveOnly;
pub use policy::{Isolated, Lan, Policy, PolicyError, Posture};
pub use probe::{Feature, Lack, probe};
#[cfg(any(test, fuzzing))]
pub(crate) use sever::fuzz as fuzz_sever;
pub use sever::{Severed, sever};
pub use table::Family;
pub use watch::{Change, LinkWatch, Noticed, Watch};

use crate::model::{MacAddress, UnixTime};
pub use crate::netlink::NetlinkError;

/// For `fuzz/`: a datagram of nf_tables' messages, against the tables of a small site.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_nftables(datagram: &[u8]) {
    use std::sync::LazyLock;
    static WANTED: LazyLock<Vec<table::Table>> = LazyLock::new(|| {
        let policy = Policy {
            lan: Lan {
                bridges: ["br0".to_owned()].into(),
                interfaces: ["eth1".to_owned()].into(),
                ..Lan::default()
            },
            ..Policy::default()
        };
        build::tables(&policy, UnixTime::from_seconds(1_795_370_400))
    });
    readback::fuzz(datagram, &WANTED);
    watch::fuzz(datagram);
}

/// Something that can cut devices off.
pub trait Firewall {
    /// Makes `policy` the whole of what is enforced: one transaction, without a gap for who was and stays isolated.
    /// Doing it twice is the same as doing it once.
    ///
    /// # Errors
    /// The policy is forbidden, or the kernel refused; what was enforced before still is. Where the kernel is not able
    /// to ([`FirewallError::Lacking`]) the rest is enforced.
    fn enforce(&mut self, policy: &Policy, now: UnixTime) -> Result<(), FirewallError>;

    /// What is really enforced, read from the kernel; `None` when nothing of ours is there.
    ///
    /// # Errors
    /// The kernel could not be read.
    fn enforced(&mut self) -> Result<Option<Enforced>, FirewallError>;

    /// What was dropped so far, by the labels of the last policy. A thing keeps its count while it stays isolated.
    ///
    /// # Errors
    /// The kernel could not be read.
    fn dropped(&mut self) -> Result<BTreeMap<String, Dropped>, FirewallError>;

    /// Removes everything of ours, and nothing else.
    ///
    /// # Errors
    /// The kernel refused.
    fn purge(&mut self) -> Result<(), FirewallError>;
}

/// Why something is not enforced, or not known.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The policy must not be enforced.
    #[error("the policy is refused")]
    Policy(#[from] PolicyError),
    /// The kernel is not able to. What it is able to of the same policy is enforced.
    #[error("{what} cannot be isolated: this kernel lacks {feature} ({answer})")]
    Lacking {
        /// Which devices.
        what: String,
        /// What is missing.
        feature: Feature,
        /// How the kernel said so.
        answer: String,
    },
    /// The kernel was asked in vain.
    #[error("table {table}")]
    Kernel {
        /// Which of our tables.
        table: &'static str,
        /// What happened.
        #[source]
        source: NetlinkError,
    },
}

/// What the kernel holds of a quarantine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Isolated hardware addresses, with their posture.
    pub macs: BTreeMap<MacAddress, Posture>,
    /// Isolated IPv4 addresses.
    pub v4: BTreeSet<Ipv4Addr>,
    /// Isolated IPv6 addresses.
    pub v6: BTreeSet<Ipv6Addr>,
    /// Ports towards which group frames are dropped.
    pub quiet_ports: BTreeSet<String>,
    /// Whether the tables are protected from others (see [`Ownership`]).
    pub ownership: Option<Ownership>,
    /// In which way the chains, rules and sets are not those that were written. Empty: every rule is in its place.
    /// When this process has not enforced a policy yet, there is nothing to compare with and it says so.
    pub differences: Vec<String>,
}

/// How far one device's isolation is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Every identity of it, in rules that are complete.
    Whole,
    /// Some of its identities, or rules that were changed.
    Partial,
    /// Nothing of it.
    Absent,
}

impl Enforced {
    /// How much of `isolated` is in force.
    #[must_use]
    pub fn holds(&self, isolated: &Isolated) -> Holding {
        let mut found = isolated
            .macs
            .iter()
            .map(|mac| self.macs.contains_key(mac))
            .collect::<Vec<_>>();
        found.extend(isolated.v4.iter().map(|address| self.v4.contains(address)));
        found.extend(isolated.v6.iter().map(|address| self.v6.contains(address)));
        let looser = isolated.posture == Posture::Isolate
            && isolated
                .macs
                .iter()
                .any(|mac| self.macs.get(mac) == Some(&Posture::Remediate));
        if !found.contains(&true) {
            Holding::Absent
        } else if found.contains(&false) || looser || !self.differences.is_empty() {
            Holding::Partial
        } else {
            Holding::Whole
        }
    }
}

/// Packets and bytes that were stopped. Bytes are those of the network layer, without the Ethernet header, except on
/// the way out of a plain interface, where the kernel counts the header too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Packets sent by the device.
    pub packets_from: u64,
    /// Bytes of them.
    pub bytes_from: u64,
    /// Packets on their way to the device.
    pub packets_to: u64,
    /// Bytes of them.
    pub bytes_to: u64,
}
