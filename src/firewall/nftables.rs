//! Enforcement by nf_tables over netlink: our own tables, one transaction per change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::build::{self, TABLE};
use super::encode::{self, OWNER, PERSIST};
use super::probe::{self, Feature, Lack};
use super::readback::{self, HeldTable};
use super::table::{Elements, Family, Table};
use super::{Dropped, Enforced, Firewall, FirewallError, Policy};
use crate::model::UnixTime;
use crate::netlink::{Message, NetlinkError, Protocol, Socket};

const FAMILIES: [Family; 2] = [Family::Bridge, Family::Netdev];

/// Whether to protect the tables from other programs (configuration `quarantine.tableOwnership`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TableOwnership {
    /// Where the kernel can.
    #[default]
    Auto,
    /// Never: others may flush the tables, and the watch mends them.
    Off,
}

/// How the tables in the kernel are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Only this process may change them, and they stay when it ends (`NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`).
    Owned,
    /// They stay, but their owner is gone: anybody may change them until we take them over.
    Orphaned,
    /// Anybody may change them.
    Plain,
}

/// The nf_tables backend. Its socket owns the tables: keep it for as long as the process lives.
#[derive(Debug)]
pub struct NftablesFirewall {
    netlink: Socket,
    ownership: TableOwnership,
    /// What we wrote last, as far as we know that it is still there.
    written: Option<Vec<Table>>,
    /// The interfaces its rules are to hang on, as far as the kernel is able to.
    interfaces: BTreeSet<String>,
    /// Those they do hang on.
    covered: BTreeSet<String>,
    /// What this kernel is not able to, as far as that is known.
    lacks: Vec<Lack>,
    /// Why part of `policy` was not written.
    lacking: Option<String>,
    policy: Policy,
}

/// The text of what `policy` becomes, for people and golden tests.
#[must_use]
pub fn render(policy: &Policy, now: UnixTime) -> String {
    build::tables(policy, now)
        .iter()
        .fold(String::new(), |mut text, table| {
            let _ = write!(text, "{table}");
            text
        })
}

impl NftablesFirewall {
    /// Opens the socket in the network namespace of the calling thread. Changes nothing yet. What the kernel lacks is
    /// found out when it refuses something.
    ///
    /// # Errors
    /// No netfilter socket to be had.
    pub fn open(ownership: TableOwnership) -> Result<Self, FirewallError> {
        Self::open_on(ownership, Vec::new())
    }

    /// As [`NftablesFirewall::open`], on a kernel that is known to lack this.
    ///
    /// # Errors
    /// No netfilter socket to be had.
    pub fn open_on(ownership: TableOwnership, lacks: Vec<Lack>) -> Result<Self, FirewallError> {
        let netlink = Socket::open(Protocol::Netfilter).map_err(kernel)?;
        Ok(Self {
            netlink,
            ownership,
            written: None,
            interfaces: BTreeSet::new(),
            covered: BTreeSet::new(),
            lacks,
            lacking: None,
            policy: Policy::default(),
        })
    }

    /// The port id under which the kernel reports our own changes to a [`super::Watch`].
    #[must_use]
    pub fn port(&self) -> u32 {
        self.netlink.port()
    }

    /// Told that somebody else touched our tables: the next [`Firewall::enforce`] writes them anew.
    pub fn distrust(&mut self) {
        self.written = None;
    }

    fn flags(&self) -> u32 {
        match self.ownership {
            TableOwnership::Auto if self.lack(&[Feature::OwnedTables]).is_none() => OWNER | PERSIST,
            TableOwnership::Auto | TableOwnership::Off => 0,
        }
    }

    fn lack(&self, needed: &[Feature]) -> Option<&Lack> {
        self.lacks.iter().find(|lack| needed.contains(&lack.feature))
    }

    /// The part of the policy this kernel is able to hold, and why not all of it. A family is held as a whole or not at
    /// all: an isolation with a hole is none.
    fn possible(&self, policy: &Policy) -> (Policy, Option<FirewallError>) {
        const EVERYWHERE: [Feature; 4] = [
            Feature::Nftables,
            Feature::ElementCounters,
            Feature::ElementLimits,
            Feature::Timeouts,
        ];
        let mut possible = policy.clone();
        let mut lacking = None;
        let families = [
            (&mut possible.lan.bridges, "bridges", [Feature::Bridge].as_slice()),
            (
                &mut possible.lan.interfaces,
                "plain interfaces",
                [Feature::Ingress, Feature::Egress].as_slice(),
            ),
        ];
        for (links, what, needed) in families {
            let lack = self.lack(&EVERYWHERE).or_else(|| self.lack(needed));
            if let Some(lack) = lack.filter(|_| !links.is_empty()) {
                let names: Vec<String> = std::mem::take(links).into_iter().collect();
                lacking.get_or_insert_with(|| FirewallError::Lacking {
                    what: format!("devices behind {what} ({})", names.join(", ")),
                    feature: lack.feature,
                    answer: lack.answer.clone(),
                });
            }
        }
        // Where nobody is to be isolated nothing is missing.
        (possible, lacking.filter(|_| !policy.isolated.is_empty()))
    }

    /// Element changes only; `None` when that does not lead to `wanted`.
    fn step(&mut self, wanted: &[Table], now: UnixTime) -> Option<Result<(), NetlinkError>> {
        let written = self.written.as_ref()?;
        if written.len() != wanted.len() {
            return None;
        }
        let mut operations = Vec::new();
        for (old, new) in written.iter().zip(wanted) {
            for change in build::element_changes(old, new)? {
                operations.extend(encode::change(new, &change, now));
            }
        }
        if operations.is_empty() {
            return Some(Ok(()));
        }
        Some(self.netlink.transact("change elements", &encode::batch(operations)))
    }

    /// All tables anew in one transaction, going on with the counters of the old ones.
    fn replace(&mut self, wanted: &[Table], now: UnixTime) -> Result<(), NetlinkError> {
        let flags = self.flags();
        let mut operations = Vec::new();
        for family in FAMILIES {
            let present = self.present(family)?;
            let table = wanted.iter().find(|table| table.family == family);
            if present {
                operations.push(encode::delete_table(family, TABLE));
            }
            if let Some(table) = table {
                let mut table = table.clone();
                if present {
                    self.carry_counters(&mut table)?;
                }
                operations.extend(encode::create(&table, flags, now));
            }
        }
        if operations.is_empty() {
            return Ok(());
        }
        self.netlink.transact("replace the tables", &encode::batch(operations))
    }

    /// A kernel without the family at all holds no table of it.
    fn present(&mut self, family: Family) -> Result<bool, NetlinkError> {
        Ok(readback::table_flags(&mut self.netlink, family, TABLE)?.is_some())
    }

    fn carry_counters(&mut self, table: &mut Table) -> Result<(), NetlinkError> {
        for (name, _) in build::DROPS {
            let held = match readback::elements(&mut self.netlink, table.family, TABLE, name) {
                Ok(held) => held,
                // Somebody removed the set; its counts are gone and the new table starts over.
                Err(error) if error.refusal().is_some() => continue,
                Err(error) => return Err(error),
            };
            let Some(set) = table.sets.iter_mut().find(|set| set.name == name) else {
                continue;
            };
            if let Elements::Listed(elements) = &mut set.elements {
                for (key, element) in elements {
                    element.counted = held.get(key).and_then(|held| held.counted);
                }
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Vec<(Family, HeldTable)>, NetlinkError> {
        let mut held = Vec::new();
        for family in FAMILIES {
            if let Some(table) = readback::read(&mut self.netlink, family, TABLE)? {
                held.push((family, table));
            }
        }
        Ok(held)
    }

    /// Those of the interfaces rules can hang on. Older kernels know no hook for an interface that is not there (yet, or
    /// any more), and one that is missing must not keep all others uncovered.
    fn coverable(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let by_name = self.lack(&[Feature::HooksByName]).is_none();
        let coverable = |name: &&String| by_name || self.netlink.has_interface(name);
        names.iter().filter(coverable).cloned().collect()
    }

    /// Makes the policy the whole of what the kernel holds, as far as the kernel is known to be able to.
    fn write(&mut self, policy: &Policy, now: UnixTime) -> Result<(), FirewallError> {
        let (mut possible, lacking) = self.possible(policy);
        let interfaces = possible.lan.interfaces;
        let covered = self.coverable(&interfaces);
        possible.lan.interfaces = covered.clone();
        let wanted = build::tables(&possible, now);
        let done = match self.step(&wanted, now) {
            Some(Ok(())) => Ok(()),
            // Not there any more, or not as we left it: write everything, still in one transaction.
            Some(Err(_)) | None => {
                self.written = None;
                self.replace(&wanted, now)
            }
        };
        done.map_err(kernel)?;
        self.written = Some(wanted);
        self.interfaces = interfaces;
        self.covered = covered;
        self.policy = policy.clone();
        self.lacking = lacking.as_ref().map(ToString::to_string);
        lacking.map_or(Ok(()), Err)
    }

    /// What the policy we were given last looks like now: elements that ended by themselves are not missed.
    fn wanted(&self) -> Option<Vec<Table>> {
        self.written.clone()
    }
}

fn kernel(source: NetlinkError) -> FirewallError {
    FirewallError::Kernel { table: TABLE, source }
}

impl Firewall for NftablesFirewall {
    fn enforce(&mut self, policy: &Policy, now: UnixTime) -> Result<(), FirewallError> {
        policy.check()?;
        let held_before = self.written.is_some();
        let written = self.write(policy, now);
        let Err(FirewallError::Kernel { source, .. }) = &written else {
            return written;
        };
        // A kernel that is not able to, or one that only will not?
        match source.refusal().map(|_| probe::over(&mut self.netlink)) {
            // one that took our tables before has nftables, whatever it answers now
            Some(Ok(lacks)) if held_before && lacks.iter().any(|lack| lack.feature == Feature::Nftables) => written,
            Some(Ok(lacks)) if lacks != self.lacks => {
                self.lacks = lacks;
                self.write(policy, now)
            }
            _ => written,
        }
    }

    fn enforced(&mut self) -> Result<Option<Enforced>, FirewallError> {
        let held = self.read().map_err(kernel)?;
        if held.is_empty() {
            return Ok(None);
        }
        let mut result = readback::summary(&held);
        result.differences.extend(self.lacking.clone());
        let coverable = self.coverable(&self.interfaces);
        let uncovered = coverable.difference(&self.covered);
        result
            .differences
            .extend(uncovered.map(|name| format!("table netdev: {name} is there and not covered")));
        match self.wanted() {
            None => result
                .differences
                .push("nothing was enforced by this process yet".to_owned()),
            Some(wanted) => {
                for table in &wanted {
                    match held.iter().find(|(family, _)| *family == table.family) {
                        None => result.differences.push(format!("table {} is missing", table.family)),
                        Some((family, held)) => {
                            let structural = held.structural_differences(table);
                            // What ended by its own timeout is no difference, so those sets are not compared here.
                            let fixed = held.element_differences(&without_timeouts(table));
                            let named = structural.into_iter().chain(fixed);
                            result
                                .differences
                                .extend(named.map(|text| format!("table {family}: {text}")));
                        }
                    }
                }
                for (family, _) in &held {
                    if !wanted.iter().any(|table| table.family == *family) {
                        result.differences.push(format!("table {family} should not be there"));
                    }
                }
            }
        }
        Ok(Some(result))
    }

    fn dropped(&mut self) -> Result<BTreeMap<String, Dropped>, FirewallError> {
        let mut counts: BTreeMap<(&str, Vec<u8>), (u64, u64)> = BTreeMap::new();
        for family in FAMILIES {
            if !self.present(family).map_err(kernel)? {
                continue;
            }
            for (name, _) in build::DROPS {
                let held = readback::elements(&mut self.netlink, family, TABLE, name).map_err(kernel)?;
                for (key, element) in held {
                    let (packets, bytes) = element.counted.unwrap_or_default();
                    let sum = counts.entry((name, key)).or_default();
                    *sum = (sum.0.saturating_add(packets), sum.1.saturating_add(bytes));
                }
            }
        }
        let mut dropped: BTreeMap<String, Dropped> = BTreeMap::new();
        for isolated in &self.policy.isolated {
            let macs = isolated
                .macs
                .iter()
                .map(|mac| (mac.0.to_vec(), "drop_from_mac", "drop_to_mac"));
            let v4 = isolated
                .v4
                .iter()
                .map(|a| (a.octets().to_vec(), "drop_from_ip4", "drop_to_ip4"));
            let v6 = isolated
                .v6
                .iter()
                .map(|a| (a.octets().to_vec(), "drop_from_ip6", "drop_to_ip6"));
            let sum = dropped.entry(isolated.label.clone()).or_default();
            for (key, from, to) in macs.chain(v4).chain(v6) {
                if let Some((packets, bytes)) = counts.get(&(from, key.clone())) {
                    sum.packets_from = sum.packets_from.saturating_add(*packets);
                    sum.bytes_from = sum.bytes_from.saturating_add(*bytes);
                }
                if let Some((packets, bytes)) = counts.get(&(to, key)) {
                    sum.packets_to = sum.packets_to.saturating_add(*packets);
                    sum.bytes_to = sum.bytes_to.saturating_add(*bytes);
                }
            }
        }
        Ok(dropped)
    }

    fn purge(&mut self) -> Result<(), FirewallError> {
        let mut operations: Vec<Message> = Vec::new();
        for family in FAMILIES {
            if self.present(family).map_err(kernel)? {
                operations.push(encode::delete_table(family, TABLE));
            }
        }
        if !operations.is_empty() {
            self.netlink
                .transact("remove the tables", &encode::batch(operations))
                .map_err(kernel)?;
        }
        self.written = None;
        self.interfaces.clear();
        self.covered.clear();
        self.lacking = None;
        self.policy = Policy::default();
        Ok(())
    }
}

fn without_timeouts(table: &Table) -> Table {
    let mut table = table.clone();
    table
        .sets
        .retain(|set| !matches!(set.each, super::table::Each::Timeout));
    table
}

#[cfg(test)]
mod tests;
