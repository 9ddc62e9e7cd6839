//! What the kernel holds, and how it differs from what was built.
//!
//! A rule is the same when every attribute we sent for it comes back with the same value; the kernel adds attributes
//! (handles, counters) but takes none away.

use std::collections::{BTreeMap, BTreeSet};

use super::encode::{self, OWNER, PERSIST};
use super::nftables::Ownership;
use super::table::{Elements, Family, Table, interface_text};
use super::{Enforced, Posture, build};
use crate::model::MacAddress;
use crate::netlink::{NetlinkError, Socket, attribute, attributes, be32, be64, text};

/// An element as the kernel has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Packets and bytes, where the element counts.
    pub(crate) counted: Option<(u64, u64)>,
    /// Milliseconds until the kernel drops it.
    pub(crate) expires_ms: Option<u64>,
}

/// A table as the kernel has it: raw attributes by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldTable {
    pub(crate) flags: u32,
    chains: BTreeMap<String, Vec<u8>>,
    /// Expressions of each rule, in order, by chain.
    rules: BTreeMap<String, Vec<Vec<u8>>>,
    sets: BTreeMap<String, Vec<u8>>,
    pub(crate) elements: BTreeMap<String, BTreeMap<Vec<u8>, Held>>,
}

/// The flags of our table of that family, or `None` when there is none.
pub(crate) fn table_flags(netlink: &mut Socket, family: Family, name: &str) -> Result<Option<u32>, NetlinkError> {
    let request = encode::dump(encode::GETTABLE, family, None, None);
    netlink.dump("read tables", &request, |found: &mut Option<u32>, answer| {
        let body = answer.body.get(4..).unwrap_or_default();
        let ours = answer.body.first() == Some(&family.number());
        if ours && attribute(body, 1).map(text).as_deref() == Some(name) {
            *found = attribute(body, 2).and_then(be32);
        }
    })
}

/// The elements of one set.
pub(crate) fn elements(
    netlink: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
) -> Result<BTreeMap<Vec<u8>, Held>, NetlinkError> {
    let request = encode::dump(encode::GETSETELEM, family, Some(table), Some(set));
    netlink.dump(
        "read elements",
        &request,
        |all: &mut BTreeMap<Vec<u8>, Held>, answer| add_elements(answer.body.get(4..).unwrap_or_default(), all),
    )
}

fn add_elements(body: &[u8], all: &mut BTreeMap<Vec<u8>, Held>) {
    for (_, element) in attributes(attribute(body, 3).unwrap_or_default()) {
        let key = attribute(element, 1).and_then(|key| attribute(key, 1));
        if let Some(key) = key {
            let held = Held {
                counted: counted(element),
                expires_ms: attribute(element, 5).and_then(be64),
            };
            all.insert(key.to_vec(), held);
        }
    }
}

/// Packets and bytes of the counter in an element's or rule's expression.
fn counted(element: &[u8]) -> Option<(u64, u64)> {
    let single = attribute(element, 7);
    let first_of_many = attribute(element, 11).and_then(|list| attribute(list, 1));
    counter_values(single.or(first_of_many)?)
}

fn counter_values(expression: &[u8]) -> Option<(u64, u64)> {
    if attribute(expression, 1).map(text).as_deref() != Some("counter") {
        return None;
    }
    let data = attribute(expression, 2)?;
    Some((attribute(data, 2).and_then(be64)?, attribute(data, 1).and_then(be64)?))
}

/// The sum of the counters that stand in rules of the table.
pub(crate) fn rule_counters(netlink: &mut Socket, family: Family, name: &str) -> Result<(u64, u64), NetlinkError> {
    let message = encode::dump(encode::GETRULE, family, Some(name), None);
    netlink.dump("read rule counters", &message, |sum: &mut (u64, u64), answer| {
        add_counters(answer.body.get(4..).unwrap_or_default(), sum);
    })
}

fn add_counters(body: &[u8], sum: &mut (u64, u64)) {
    for (_, expression) in attributes(attribute(body, 4).unwrap_or_default()) {
        if let (Some(_), Some((packets, bytes))) = (attribute(body, 1), counter_values(expression)) {
            *sum = (sum.0.saturating_add(packets), sum.1.saturating_add(bytes));
        }
    }
}

/// The whole table, or `None` when there is none.
pub(crate) fn read(netlink: &mut Socket, family: Family, name: &str) -> Result<Option<HeldTable>, NetlinkError> {
    let Some(flags) = table_flags(netlink, family, name)? else {
        return Ok(None);
    };
    let of_table = |body: &[u8]| attribute(body, 1).map(text).as_deref() == Some(name);
    let mut table = HeldTable {
        flags,
        ..HeldTable::default()
    };
    let by_name = |kind: u16, request: &'static str, named: u16, netlink: &mut Socket| {
        let message = encode::dump(kind, family, Some(name), None);
        netlink.dump(request, &message, |all: &mut BTreeMap<String, Vec<u8>>, answer| {
            let body = answer.body.get(4..).unwrap_or_default();
            if let (true, Some(found)) = (of_table(body), attribute(body, named)) {
                all.insert(text(found), body.to_vec());
            }
        })
    };
    table.chains = by_name(encode::GETCHAIN, "read chains", 3, netlink)?;
    table.sets = by_name(encode::GETSET, "read sets", 2, netlink)?;
    let message = encode::dump(encode::GETRULE, family, Some(name), None);
    table.rules = netlink.dump(
        "read rules",
        &message,
        |all: &mut BTreeMap<String, Vec<Vec<u8>>>, answer| {
            let body = answer.body.get(4..).unwrap_or_default();
            if let (true, Some(chain)) = (of_table(body), attribute(body, 2)) {
                all.entry(text(chain))
                    .or_default()
                    .push(attribute(body, 4).unwrap_or_default().to_vec());
            }
        },
    )?;
    let names: Vec<String> = table.sets.keys().cloned().collect();
    for set in names {
        let held = elements(netlink, family, name, &set)?;
        table.elements.insert(set, held);
    }
    Ok(Some(table))
}

impl HeldTable {
    /// Everything in which chains, rules and sets (not their elements) differ from `wanted`, in words.
    pub(crate) fn structural_differences(&self, wanted: &Table) -> Vec<String> {
        let mut differences = Vec::new();
        for set in &wanted.sets {
            let Some(held) = self.sets.get(set.name) else {
                differences.push(format!("set {} is missing", set.name));
                continue;
            };
            let length = attribute(held, 5).and_then(be32);
            // The kernel leaves the attribute out when no flag is set.
            let flags = attribute(held, 3).and_then(be32).unwrap_or(0);
            if length != Some(set.key.length()) || flags != encode::set_flags(set) {
                differences.push(format!("set {} is of another kind", set.name));
            }
        }
        for name in self.chains.keys() {
            if !wanted.chains.iter().any(|chain| chain.name == name) {
                differences.push(format!("chain {name} is not ours"));
            }
        }
        for chain in &wanted.chains {
            let Some(held) = self.chains.get(chain.name) else {
                differences.push(format!("chain {} is missing", chain.name));
                continue;
            };
            if let Some(hook) = &chain.hook {
                let found = attribute(held, 4).unwrap_or_default();
                let number = attribute(found, 1).and_then(be32);
                let priority = attribute(found, 2);
                let listed = attribute(found, 4).unwrap_or_default();
                let mut devices: Vec<String> = attributes(listed).map(|(_, device)| text(device)).collect();
                devices.extend(attribute(found, 3).filter(|_| listed.is_empty()).map(text));
                devices.sort();
                let same = number == Some(hook.at.number())
                    && priority == Some(hook.priority.to_be_bytes().as_slice())
                    && devices == hook.devices;
                if !same {
                    differences.push(format!("chain {} hangs elsewhere", chain.name));
                }
            } else if attribute(held, 4).is_some() {
                differences.push(format!("chain {} hangs at a hook", chain.name));
            }
            let rules = self.rules.get(chain.name).map(Vec::as_slice).unwrap_or_default();
            if rules.len() != chain.rules.len() {
                differences.push(format!(
                    "chain {} has {} rules instead of {}",
                    chain.name,
                    rules.len(),
                    chain.rules.len()
                ));
                continue;
            }
            for (rule, held) in chain.rules.iter().zip(rules) {
                let sent = encode::expressions(rule);
                if !contains(held, attribute(&sent, 4).unwrap_or_default(), 0) {
                    differences.push(format!("chain {} has another rule for: {rule}", chain.name));
                }
            }
        }
        differences
    }

    /// Differences of elements that come from us.
    pub(crate) fn element_differences(&self, wanted: &Table) -> Vec<String> {
        let mut differences = Vec::new();
        let nothing = BTreeMap::new();
        for set in &wanted.sets {
            let Elements::Listed(listed) = &set.elements else {
                continue;
            };
            let held = self.elements.get(set.name).unwrap_or(&nothing);
            let missing = listed.keys().filter(|key| !held.contains_key(*key)).count();
            let extra = held.keys().filter(|key| !listed.contains_key(*key)).count();
            if missing > 0 {
                differences.push(format!("set {} lacks {missing} of its elements", set.name));
            }
            if extra > 0 {
                differences.push(format!("set {} has {extra} elements nobody asked for", set.name));
            }
        }
        differences
    }
}

/// The identities that are in every one of the tables: one that is missing in either gets past there.
pub(crate) fn summary(held: &[(Family, HeldTable)]) -> Enforced {
    let keys = |name: &str| {
        let mut common: Option<BTreeSet<Vec<u8>>> = None;
        for (_, table) in held {
            let here: BTreeSet<Vec<u8>> = table
                .elements
                .get(name)
                .into_iter()
                .flatten()
                .map(|(key, _)| key.clone())
                .collect();
            common = Some(match common {
                None => here,
                Some(before) => before.intersection(&here).cloned().collect(),
            });
        }
        common.unwrap_or_default()
    };
    let remediate: BTreeSet<Vec<u8>> = held
        .iter()
        .filter_map(|(_, table)| table.elements.get(build::REMEDIATE_MAC))
        .flat_map(|elements| elements.keys().cloned())
        .collect();
    let posture = |key: &[u8]| {
        if remediate.contains(key) {
            Posture::Remediate
        } else {
            Posture::Isolate
        }
    };
    let ownership = held.iter().map(|(_, table)| match table.flags & (OWNER | PERSIST) {
        flags if flags & OWNER != 0 => Ownership::Owned,
        PERSIST => Ownership::Orphaned,
        _ => Ownership::Plain,
    });
    Enforced {
        macs: keys(build::MAC)
            .into_iter()
            .filter_map(|key| Some((MacAddress(key.as_slice().try_into().ok()?), posture(&key))))
            .collect(),
        v4: keys(build::IP4)
            .into_iter()
            .filter_map(|key| Some(<[u8; 4]>::try_from(key).ok()?.into()))
            .collect(),
        v6: keys(build::IP6)
            .into_iter()
            .filter_map(|key| Some(<[u8; 16]>::try_from(key).ok()?.into()))
            .collect(),
        quiet_ports: keys(build::QUIET_PORTS).iter().map(|key| interface_text(key)).collect(),
        // The weaker of two tables is what counts.
        ownership: ownership.max_by_key(|ownership| match ownership {
            Ownership::Owned => 0,
            Ownership::Orphaned => 1,
            Ownership::Plain => 2,
        }),
        differences: Vec::new(),
    }
}

/// Whether every attribute of `sent` is in `held`: same order, same values, nested ones by the same rule.
fn contains(held: &[u8], sent: &[u8], depth: u32) -> bool {
    // Expression lists are lists: the n-th of ours is the n-th of theirs, and there are no more.
    if depth == 0 {
        let (theirs, ours) = (attributes(held).count(), attributes(sent).count());
        return theirs == ours
            && attributes(held)
                .zip(attributes(sent))
                .all(|((_, held), (_, sent))| contains(held, sent, 1));
    }
    attributes(sent).all(|(kind, value)| {
        let Some(found) = attribute(held, kind) else {
            return value.is_empty();
        };
        found == value || (depth < 6 && is_nest(value) && is_nest(found) && contains(found, value, depth + 1))
    })
}

/// Whether the bytes are a whole number of attributes and nothing else.
fn is_nest(bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some(length) = rest.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes) else {
            return false;
        };
        let length = usize::from(length);
        if length < 4 || length > rest.len() {
            return false;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// For `fuzz/`: a dump of tables, chains, sets, elements and rules, whatever they are called, read and compared as the
/// agent does; `wanted` is what it would have written.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(datagram: &[u8], wanted: &[Table]) {
    let mut held = HeldTable::default();
    crate::netlink::fuzz(datagram, |message| {
        let body = message.body.get(4..).unwrap_or_default();
        match message.kind & 0xff {
            // NFT_MSG_NEWTABLE, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM (linux/netfilter/nf_tables.h)
            0 => held.flags = attribute(body, 2).and_then(be32).unwrap_or_default(),
            3 => {
                let name = attribute(body, 3).map(text).unwrap_or_default();
                held.chains.insert(name, body.to_vec());
            }
            6 => {
                let chain = attribute(body, 2).map(text).unwrap_or_default();
                let expressions = attribute(body, 4).unwrap_or_default().to_vec();
                held.rules.entry(chain).or_default().push(expressions);
                add_counters(body, &mut (0, 0));
            }
            9 => {
                let name = attribute(body, 2).map(text).unwrap_or_default();
                held.sets.insert(name, body.to_vec());
            }
            12 => {
                let set = attribute(body, 2).map(text).unwrap_or_default();
                add_elements(body, held.elements.entry(set).or_default());
            }
            _ => {}
        }
    });
    for table in wanted {
        let _ = (held.structural_differences(table), held.element_differences(table));
    }
    let _ = summary(&[(Family::Bridge, held)]);
}
