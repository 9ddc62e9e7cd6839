//! What this kernel lacks, found by transactions that are checked and never committed. Versions are not asked: vendors
//! leave parts out and backport others.

use std::collections::BTreeMap;
use std::fmt;

use super::encode::{self, OWNER, PERSIST};
use super::table::{At, Chain, Each, Elements, Family, Field, Hook, Key, Rule, Set, Table, Test, Then};
use crate::model::UnixTime;
use crate::netlink::{NetlinkError, Protocol, Socket};

const PROBE: &str = "edge_warden_probe";

/// Something enforcement or accounting is built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// nf_tables at all, with the right to use it.
    Nftables,
    /// The bridge family.
    Bridge,
    /// netdev ingress.
    Ingress,
    /// netdev egress.
    Egress,
    /// Counters in set elements.
    ElementCounters,
    /// Rate limits in set elements.
    ElementLimits,
    /// Sets filled by packets.
    DynamicSets,
    /// Elements that end by themselves.
    Timeouts,
    /// Tables only their owner may change, which stay when it ends.
    OwnedTables,
    /// Hooks that stay with the name of a link while it is away, and take hold again when it is back (Linux 6.16).
    HooksByName,
}

/// A feature that is not there, and what that costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What is missing.
    pub feature: Feature,
    /// What does not work therefore.
    pub consequence: &'static str,
    /// The kernel's answer.
    pub answer: String,
}

impl Feature {
    const ALL: [Feature; 10] = [
        Feature::Nftables,
        Feature::Bridge,
        Feature::Ingress,
        Feature::Egress,
        Feature::ElementCounters,
        Feature::ElementLimits,
        Feature::DynamicSets,
        Feature::Timeouts,
        Feature::OwnedTables,
        Feature::HooksByName,
    ];

    /// What a kernel without it means for the user.
    #[must_use]
    pub fn consequence(self) -> &'static str {
        match self {
            Feature::Nftables => "nothing can be enforced and no traffic counted",
            Feature::Bridge => "devices behind a bridge can be neither isolated nor counted",
            Feature::Ingress => "devices on plain interfaces can be neither isolated nor counted",
            Feature::Egress => "devices on plain interfaces can be neither isolated nor counted",
            Feature::ElementCounters => "no traffic is counted, and drops cannot be told apart: isolation is refused",
            Feature::ElementLimits => "allowances cannot be limited per device: isolation is refused",
            Feature::DynamicSets => "no traffic is counted",
            Feature::Timeouts => "the kernel would not end an isolation by itself: isolation is refused",
            Feature::OwnedTables => "other programs can remove the rules; the watch puts them back",
            Feature::HooksByName => "a plain interface that is made anew is open until the agent has seen it",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Feature::Nftables => "nf_tables",
            Feature::Bridge => "the bridge family of nf_tables",
            Feature::Ingress => "the ingress hook of interfaces",
            Feature::Egress => "the egress hook of interfaces",
            Feature::ElementCounters => "counters in set elements",
            Feature::ElementLimits => "rate limits in set elements",
            Feature::DynamicSets => "sets filled by packets",
            Feature::Timeouts => "set elements that end by themselves",
            Feature::OwnedTables => "owned tables that persist",
            Feature::HooksByName => "hooks that stay with an interface's name",
        })
    }
}

/// Tries every feature on the loopback link of the calling thread's network namespace. Leaves nothing behind.
///
/// # Errors
/// The socket failed; what the kernel refuses is the result, not an error.
pub fn probe() -> Result<Vec<Lack>, NetlinkError> {
    over(&mut Socket::open(Protocol::Netfilter)?)
}

/// As [`probe`], in the network namespace of the socket. Takes some milliseconds a feature: after each the kernel waits
/// until no core can see the rules it has just thrown away.
pub(crate) fn over(netlink: &mut Socket) -> Result<Vec<Lack>, NetlinkError> {
    let mut lacks = Vec::new();
    for feature in Feature::ALL {
        let (table, flags) = table_for(feature);
        match netlink.transact("probe", &encode::rehearsal(encode::create(&table, flags, UnixTime(0)))) {
            Ok(()) => {}
            // Out of memory, or not entitled: that says nothing about the kernel.
            Err(error) if matches!(error.refusal(), Some(libc::ENOMEM | libc::ENOBUFS | libc::EPERM)) => {
                return Err(error);
            }
            Err(error @ NetlinkError::Refused { .. }) => {
                let source = std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                lacks.push(Lack {
                    feature,
                    consequence: feature.consequence(),
                    answer: format!("{error}: {source}"),
                });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(lacks)
}

fn table_for(feature: Feature) -> (Table, u32) {
    let family = match feature {
        Feature::Bridge => Family::Bridge,
        _ => Family::Netdev,
    };
    let mut table = Table {
        family,
        name: PROBE,
        sets: Vec::new(),
        chains: Vec::new(),
    };
    let hook = |at, devices: &[&str]| Chain {
        name: "probe",
        hook: Some(Hook {
            at,
            priority: 0,
            devices: devices.iter().map(|name| (*name).to_owned()).collect(),
        }),
        rules: Vec::new(),
    };
    let set = |each, elements| Set {
        name: "probe",
        key: Key::Ether,
        each,
        elements,
    };
    let listed = || Elements::Listed(BTreeMap::new());
    let mut flags = 0;
    match feature {
        Feature::Nftables => {}
        Feature::Bridge => table.chains.push(hook(At::Forward, &[])),
        Feature::Ingress => table.chains.push(hook(At::Ingress, &["lo"])),
        Feature::Egress => table.chains.push(hook(At::Egress, &["lo"])),
        Feature::HooksByName => table.chains.push(hook(At::Ingress, &["ew-not-there"])),
        Feature::ElementCounters => table.sets.push(set(Each::Counter, listed())),
        Feature::ElementLimits => table.sets.push(set(
            Each::Limit {
                per_second: 1,
                burst: 1,
            },
            listed(),
        )),
        Feature::Timeouts => table.sets.push(set(Each::Timeout, listed())),
        Feature::DynamicSets => {
            table.sets.push(set(
                Each::Counter,
                Elements::Seen {
                    size: 16,
                    timeout_ms: 1000,
                },
            ));
            let when = vec![Test::Is(Field::EtherType, vec![8, 0])];
            let rules = vec![Rule {
                when,
                then: Then::Update(Field::EtherSource, "probe"),
            }];
            table.chains.push(Chain {
                name: "probe",
                hook: None,
                rules,
            });
        }
        Feature::OwnedTables => flags = OWNER | PERSIST,
    }
    (table, flags)
}
