//! What this kernel lacks, found by transactions that are checked and never committed. Versions are not asked: vendors
//! leave parts out and backport others.

use std::collections::BTreeMap;

use super::build::TABLE;
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
    const ALL: [Feature; 9] = [
        Feature::Nftables,
        Feature::Bridge,
        Feature::Ingress,
        Feature::Egress,
        Feature::ElementCounters,
        Feature::ElementLimits,
        Feature::DynamicSets,
        Feature::Timeouts,
        Feature::OwnedTables,
    ];

    /// What a kernel without it means for the user.
    #[must_use]
    pub fn consequence(self) -> &'static str {
        match self {
            Feature::Nftables => "nothing can be enforced and no traffic counted",
            Feature::Bridge => "devices behind a bridge can be neither isolated nor counted",
            Feature::Ingress => "devices on plain interfaces can be neither isolated nor counted",
            Feature::Egress => "frames to devices on plain interfaces are neither dropped nor counted",
            Feature::ElementCounters => "no counts per device, neither of traffic nor of drops",
            Feature::ElementLimits => "allowances cannot be limited per device: isolation is refused",
            Feature::DynamicSets => "unknown devices are not counted",
            Feature::Timeouts => "an expiry is only kept while the agent runs",
            Feature::OwnedTables => "other programs can remove the rules; the watch puts them back",
        }
    }
}

/// Tries every feature on the loopback link of the calling thread's network namespace. Leaves nothing behind.
///
/// # Errors
/// The socket failed; what the kernel refuses is the result, not an error.
pub fn probe() -> Result<Vec<Lack>, NetlinkError> {
    let mut netlink = Socket::open(Protocol::Netfilter)?;
    let mut lacks = Vec::new();
    for feature in Feature::ALL {
        let (table, flags) = table_for(feature);
        match netlink.transact("probe", &encode::rehearsal(encode::create(&table, flags, UnixTime(0)))) {
            Ok(()) => {}
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
    debug_assert_ne!(PROBE, TABLE);
    (table, flags)
}
