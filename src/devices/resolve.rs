//! From evidence to identities: precedence, conflicts, and what may back a quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::hosts::Host;
use super::identity::{BoundAddress, BoundMac, Conflict, Identity, IdentityTable, Skipped, Source, UnknownDevice};
use super::observation::{ConfiguredDevice, Now};
use super::registry::{Evidence, KnownLease};
use crate::model::{MacAddress, ThingName};

/// A thing while it is put together.
#[derive(Debug, Default)]
struct Draft {
    macs: BTreeMap<MacAddress, BoundMac>,
    addresses: BTreeMap<IpAddr, BoundAddress>,
    conflicts: BTreeSet<Conflict>,
}

struct Resolution<'e> {
    evidence: &'e Evidence,
    now: Now,
    configured: &'e [ConfiguredDevice],
    leases: Vec<&'e KnownLease>,
    claims: BTreeMap<MacAddress, BTreeSet<(Source, &'e ThingName)>>,
    owners: BTreeMap<MacAddress, &'e ThingName>,
    drafts: BTreeMap<&'e ThingName, Draft>,
    by_address: BTreeMap<IpAddr, &'e ThingName>,
}

pub(super) fn resolve(evidence: &Evidence, now: Now) -> IdentityTable {
    let mut skipped = evidence.refused.clone();
    let configured = evidence.usable_configured(&mut skipped);
    let leases = evidence
        .leases
        .values()
        .flatten()
        .filter(|known| known.is_valid(now))
        .collect();
    let mut resolution = Resolution {
        evidence,
        now,
        configured: &configured,
        leases,
        claims: BTreeMap::new(),
        owners: BTreeMap::new(),
        drafts: BTreeMap::new(),
        by_address: BTreeMap::new(),
    };
    resolution.claim_by_configuration();
    resolution.claim_by_registration(&mut skipped);
    resolution.claim_by_lease();
    resolution.settle_macs();
    resolution.settle_addresses();
    resolution.note_gateway_claims();
    resolution.back_edge_actions();
    resolution.finish(skipped)
}

impl<'e> Resolution<'e> {
    fn draft(&mut self, thing: &'e ThingName) -> &mut Draft {
        self.drafts.entry(thing).or_default()
    }

    fn claim(&mut self, mac: MacAddress, source: Source, thing: &'e ThingName) {
        let claims = self.claims.entry(mac).or_default();
        // A thing claims a MAC address by its strongest source only.
        if !claims.iter().any(|(stronger, by)| *by == thing && *stronger <= source) {
            claims.retain(|(_, by)| *by != thing);
            claims.insert((source, thing));
        }
    }

    fn claim_by_configuration(&mut self) {
        let configured = self.configured;
        for device in configured {
            self.draft(&device.thing);
            for mac in &device.macs {
                self.claim(*mac, Source::Configuration, &device.thing);
            }
            // A thing configured by address alone is whoever holds the address.
            if device.macs.is_empty() {
                for address in &device.addresses {
                    for mac in self.holders(*address) {
                        self.claim(mac, Source::Learnt, &device.thing);
                    }
                }
            }
        }
    }

    fn claim_by_registration(&mut self, skipped: &mut BTreeSet<Skipped>) {
        let evidence = self.evidence;
        for (thing, macs) in &evidence.registered {
            for (mac, seen) in macs {
                if *seen {
                    self.claim(*mac, Source::Registration, thing);
                } else {
                    let reason = if evidence.own_macs.contains(mac) {
                        "the MAC address is the gateway's own"
                    } else {
                        "no neighbour on the LAN has this MAC address"
                    };
                    skipped.insert(Skipped {
                        what: format!("registration of {thing}: {mac}"),
                        reason: reason.to_owned(),
                    });
                }
            }
        }
    }

    fn claim_by_lease(&mut self) {
        let configured = self.configured;
        let evidence = self.evidence;
        let own = |mac: &MacAddress| evidence.own_macs.contains(mac);
        let mut names: BTreeMap<&'e ThingName, BTreeMap<MacAddress, BTreeSet<IpAddr>>> = BTreeMap::new();
        for known in &self.leases {
            let lease = &known.lease;
            // A DHCPv6 lease names no MAC address; the neighbour table leads to the device.
            let mac = lease.mac.or_else(|| evidence.hosts.holder(lease.address));
            if let (Some(thing), Some(mac)) = (&lease.thing, mac.filter(|mac| !own(mac))) {
                names
                    .entry(thing)
                    .or_default()
                    .entry(mac)
                    .or_default()
                    .insert(lease.address);
            }
        }
        for (thing, macs) in names {
            let device = configured.iter().find(|device| device.thing == *thing);
            let registered: BTreeSet<MacAddress> = match evidence.registered.get(thing) {
                Some(macs) => macs.iter().filter(|(_, seen)| **seen).map(|(mac, _)| *mac).collect(),
                None => BTreeSet::new(),
            };
            let mut taken = BTreeSet::new();
            for (mac, addresses) in &macs {
                let fits = match device {
                    Some(device) if !device.macs.is_empty() => {
                        if device.macs.contains(mac) || registered.contains(mac) {
                            continue;
                        }
                        false
                    }
                    Some(device) if !device.addresses.is_empty() => {
                        device.addresses.iter().any(|address| addresses.contains(address))
                    }
                    _ if !registered.is_empty() => {
                        if registered.contains(mac) {
                            continue;
                        }
                        false
                    }
                    _ => true,
                };
                if fits {
                    taken.insert(*mac);
                } else {
                    self.draft(thing).conflicts.insert(Conflict::NameTaken { mac: *mac });
                }
            }
            for mac in &taken {
                self.claim(*mac, Source::Lease, thing);
            }
            if taken.len() > 1 {
                self.draft(thing).conflicts.insert(Conflict::NameShared { macs: taken });
            }
        }
    }

    /// The strongest claim to a MAC address wins; equal ones are nobody's; any second one is a conflict.
    fn settle_macs(&mut self) {
        for (mac, claims) in std::mem::take(&mut self.claims) {
            let Some((strongest, _)) = claims.first().copied() else {
                continue;
            };
            let first: Vec<&'e ThingName> = claims
                .iter()
                .filter(|(source, _)| *source == strongest)
                .map(|(_, thing)| *thing)
                .collect();
            let contested = claims.len() > 1;
            if let [owner] = first.as_slice() {
                self.owners.insert(mac, owner);
            }
            for thing in &first {
                let bound = BoundMac {
                    mac,
                    source: strongest,
                    contested,
                    backs_edge_action: false,
                };
                self.draft(thing).macs.insert(mac, bound);
            }
            if contested {
                let named = claims
                    .iter()
                    .map(|(source, thing)| (*source, (*thing).clone()))
                    .collect();
                let conflict = Conflict::Mac { mac, claims: named };
                for (_, thing) in &claims {
                    self.draft(thing).conflicts.insert(conflict.clone());
                }
            }
            self.claims.insert(mac, claims);
        }
    }

    /// Devices with a say on an address now: those that answer for it, and the one that did just before somebody else took
    /// it.
    fn holders(&self, address: IpAddr) -> BTreeSet<MacAddress> {
        let Some(holder) = self.evidence.hosts.holder(address) else {
            return BTreeSet::new();
        };
        let host = self.evidence.hosts.get(holder);
        let binding = host.and_then(|host| host.bindings.iter().find(|b| b.address == address));
        let challenger = binding.and_then(|binding| binding.challenger(self.now.monotonic));
        std::iter::once(holder).chain(challenger).collect()
    }

    /// Who has a say on which address, by lease or by answering for it.
    fn address_claims(&self) -> BTreeMap<IpAddr, BTreeMap<MacAddress, Source>> {
        let mut leased: BTreeMap<IpAddr, Vec<(MacAddress, &KnownLease)>> = BTreeMap::new();
        let mut leases_of: BTreeMap<MacAddress, Vec<&KnownLease>> = BTreeMap::new();
        for known in &self.leases {
            if let Some(mac) = known.lease.mac.filter(|mac| !self.evidence.own_macs.contains(mac)) {
                leased.entry(known.lease.address).or_default().push((mac, known));
                leases_of.entry(mac).or_default().push(known);
            }
        }
        let mut claims: BTreeMap<IpAddr, BTreeMap<MacAddress, Source>> = BTreeMap::new();
        for (address, holders) in &leased {
            for (mac, _) in holders {
                claims.entry(*address).or_default().insert(*mac, Source::Lease);
            }
        }
        for (mac, host) in self.evidence.hosts.iter() {
            for binding in &host.bindings {
                let address = binding.address;
                let newer_than_answer =
                    |known: &KnownLease| !binding.permanent && binding.confirmed.is_none_or(|at| at < known.since);
                // After a renewal with a new address the old one lingers in the neighbour table without an answer.
                let moved_on = leases_of.get(&mac).is_some_and(|leases| {
                    let same_family = |known: &&&KnownLease| known.lease.address.is_ipv4() == address.is_ipv4();
                    !leases.iter().any(|known| known.lease.address == address)
                        && leases.iter().filter(same_family).any(|known| newer_than_answer(known))
                });
                // And the address may have been leased to the next device already.
                let passed_on = leased.get(&address).is_some_and(|holders| {
                    !holders.iter().any(|(holder, _)| *holder == mac)
                        && holders.iter().any(|(_, known)| newer_than_answer(known))
                });
                let disputed = binding.challenger(self.now.monotonic);
                let lost = !binding.present && self.evidence.hosts.holder(address).is_some() && disputed.is_none();
                if moved_on || passed_on || lost {
                    continue;
                }
                let of_address = claims.entry(address).or_default();
                of_address.entry(mac).or_insert(Source::Learnt);
                // The lease server confirms the change of hands: no dispute.
                let confirmed = leased
                    .get(&address)
                    .is_some_and(|holders| holders.iter().any(|(h, _)| *h == mac));
                if let Some(other) = disputed.filter(|_| !confirmed) {
                    of_address.entry(other).or_insert(Source::Learnt);
                }
            }
        }
        claims
    }

    fn settle_addresses(&mut self) {
        let mut claims = self.address_claims();
        let mut fixed: BTreeMap<IpAddr, BTreeSet<&'e ThingName>> = BTreeMap::new();
        for device in self.configured {
            for address in &device.addresses {
                fixed.entry(*address).or_default().insert(&device.thing);
            }
        }
        for (address, things) in fixed {
            let macs = claims.remove(&address).unwrap_or_default();
            self.settle_configured(address, &things, &macs.into_keys().collect());
        }
        for (address, macs) in claims {
            self.settle_learnt(address, &macs);
        }
    }

    /// A configured address is its thing's, whoever else answers for it.
    fn settle_configured(&mut self, address: IpAddr, things: &BTreeSet<&'e ThingName>, macs: &BTreeSet<MacAddress>) {
        let alone = things.len() == 1;
        for thing in things {
            let others = macs.iter().filter(|mac| self.owners.get(mac) != Some(thing)).count();
            let contested = !alone || others > 0 || macs.len() > 1 && self.is_by_address_alone(thing);
            let draft = self.draft(thing);
            let bound = BoundAddress {
                address,
                source: Source::Configuration,
                contested,
                usable: alone,
            };
            draft.addresses.insert(address, bound);
            if !alone {
                let things = things.iter().map(|thing| (*thing).clone()).collect();
                draft.conflicts.insert(Conflict::Configured { address, things });
            } else if contested {
                let macs = macs.clone();
                draft.conflicts.insert(Conflict::Address { address, macs });
            }
            if alone {
                self.by_address.insert(address, thing);
            }
        }
        // Others that answer for it are told apart, and do not get it.
        for mac in macs {
            let owner = self.owners.get(mac).copied();
            if let Some(owner) = owner.filter(|owner| !things.contains(owner)) {
                let macs = macs.clone();
                self.draft(owner).conflicts.insert(Conflict::Address { address, macs });
            }
        }
    }

    fn is_by_address_alone(&self, thing: &ThingName) -> bool {
        let device = self.configured.iter().find(|device| device.thing == *thing);
        device.is_some_and(|device| device.macs.is_empty())
    }

    /// Any other address is a thing's while all devices with a say on it are that thing's.
    fn settle_learnt(&mut self, address: IpAddr, macs: &BTreeMap<MacAddress, Source>) {
        let owners: BTreeSet<Option<&'e ThingName>> = macs.keys().map(|mac| self.owners.get(mac).copied()).collect();
        let mut parties: BTreeSet<&'e ThingName> = owners.iter().copied().flatten().collect();
        for mac in macs.keys().filter(|mac| !self.owners.contains_key(mac)) {
            if let Some(claims) = self.claims.get(mac) {
                parties.extend(claims.iter().map(|(_, thing)| *thing));
            }
        }
        let contested = macs.len() > 1 && owners.len() > 1 || parties.len() > 1 || {
            // One party that does not own the device: two things claim the device with the same right.
            parties.len() == 1 && owners.contains(&None)
        };
        for thing in &parties {
            let bound_to = |mac: &&MacAddress| self.drafts.get(thing).is_some_and(|d| d.macs.contains_key(mac));
            let source = macs
                .iter()
                .filter(|(mac, _)| bound_to(mac))
                .map(|(_, source)| *source)
                .min();
            let draft = self.draft(thing);
            if let Some(source) = source {
                let bound = BoundAddress {
                    address,
                    source,
                    contested,
                    usable: !contested,
                };
                draft.addresses.insert(address, bound);
            }
            if contested && macs.len() > 1 {
                let macs = macs.keys().copied().collect();
                draft.conflicts.insert(Conflict::Address { address, macs });
            }
        }
        if let (false, Some(thing)) = (contested, parties.first().copied()) {
            self.by_address.insert(address, thing);
        }
    }

    fn note_gateway_claims(&mut self) {
        for (address, mac) in &self.evidence.gateway_claims {
            if let Some(thing) = self.owners.get(mac).copied() {
                let conflict = Conflict::Gateway {
                    address: *address,
                    mac: *mac,
                };
                self.draft(thing).conflicts.insert(conflict);
            }
        }
    }

    /// Decides which MAC addresses an alarm may cut off.
    fn back_edge_actions(&mut self) {
        let things: Vec<&'e ThingName> = self.drafts.keys().copied().collect();
        for thing in things {
            let connected = self.broker_macs(thing);
            if let Some(elsewhere) = connected.elsewhere {
                let conflict = Conflict::Broker { address: elsewhere };
                self.draft(thing).conflicts.insert(conflict);
            }
            let owners = &self.owners;
            let Some(draft) = self.drafts.get_mut(thing) else {
                continue;
            };
            let doubt = draft.conflicts.iter().any(Conflict::is_about_identity);
            let address_doubt = draft.addresses.values().any(|bound| bound.contested);
            for bound in draft.macs.values_mut() {
                let owned = owners.get(&bound.mac) == Some(&thing);
                bound.backs_edge_action = owned
                    && match bound.source {
                        Source::Configuration => true,
                        Source::Registration => !doubt && connected.agreed == Some(bound.mac),
                        Source::Lease => !doubt,
                        // The device is the thing only because of the address.
                        Source::Learnt => !doubt && !address_doubt,
                    };
            }
        }
    }

    /// Where the thing is connected to the broker from. Most brokers name no thing for a connection, so it is found by
    /// elimination: exactly one device of the thing is connected (a client id has one connection), and every other
    /// connection comes from a device that a configuration or registration gives to another thing. Else a thing could
    /// register a silent neighbour's address and have it cut off.
    fn broker_macs(&self, thing: &'e ThingName) -> BrokerView {
        let mut view = BrokerView::default();
        let (mut mine, mut unexplained) = (BTreeSet::new(), false);
        for peer in &self.evidence.peers {
            let address = peer.address.to_canonical();
            if address.is_loopback() || self.evidence.own_addresses.contains(&address) {
                continue;
            }
            let mac = self.evidence.hosts.holder(address);
            let owner = mac.and_then(|mac| self.owners.get(&mac).copied());
            match &peer.thing {
                Some(named) if named == thing => match mac.filter(|_| owner == Some(thing)) {
                    Some(mac) => _ = mine.insert(mac),
                    None => view.elsewhere = Some(address),
                },
                Some(_) => {}
                None if owner == Some(thing) => mine.extend(mac),
                None => {
                    let strong = |mac: MacAddress| {
                        let claims = self.claims.get(&mac);
                        claims
                            .and_then(BTreeSet::first)
                            .is_some_and(|(source, _)| *source <= Source::Registration)
                    };
                    unexplained |= owner.is_none() || !mac.is_some_and(strong);
                }
            }
        }
        if let (1, false, None) = (mine.len(), unexplained, view.elsewhere) {
            view.agreed = mine.first().copied();
        }
        view
    }

    fn finish(self, skipped: BTreeSet<Skipped>) -> IdentityTable {
        let mut table = IdentityTable {
            skipped,
            more_unknown: self.evidence.hosts.unlisted(),
            gateway_claims: self.evidence.gateway_claims.clone(),
            ..IdentityTable::default()
        };
        for (mac, host) in self.evidence.hosts.iter() {
            let own = self.evidence.own_macs.contains(&mac);
            if !own && !self.claims.contains_key(&mac) {
                table.unknown.push(unknown(mac, host));
            }
        }
        table.unknown.sort_by_key(|device| device.mac);
        table.by_mac = self
            .owners
            .iter()
            .map(|(mac, thing)| (*mac, (*thing).clone()))
            .collect();
        let addresses = self.by_address.iter();
        table.by_address = addresses.map(|(address, thing)| (*address, (*thing).clone())).collect();
        for (thing, draft) in self.drafts {
            let device = self.configured.iter().find(|device| device.thing == *thing);
            let configured = device.map(|_| Source::Configuration);
            let source = configured.or_else(|| draft.macs.values().map(|bound| bound.source).min());
            // Without a device it is but a claim that lost.
            let Some(source) = source else {
                continue;
            };
            let hosts: Vec<&Host> = draft
                .macs
                .keys()
                .filter_map(|mac| self.evidence.hosts.get(*mac))
                .collect();
            let latest = hosts.iter().max_by_key(|host| host.last_seen);
            table.things.insert(
                thing.clone(),
                Identity {
                    thing: thing.clone(),
                    source,
                    report: device.is_none_or(|device| device.report),
                    backs_edge_action: draft.macs.values().any(|bound| bound.backs_edge_action),
                    interface: latest.and_then(|host| host.interface.clone()),
                    port: latest.and_then(|host| host.port.clone()),
                    first_seen: hosts.iter().map(|host| host.first_seen).min(),
                    last_seen: latest.map(|host| host.last_seen),
                    last_move: hosts
                        .iter()
                        .filter_map(|host| host.last_move.clone())
                        .max_by_key(|m| m.at),
                    macs: draft.macs.into_values().collect(),
                    addresses: draft.addresses.into_values().collect(),
                    conflicts: draft.conflicts,
                },
            );
        }
        table
    }
}

#[derive(Debug, Default)]
struct BrokerView {
    /// The one device of the thing whose connection is the thing's.
    agreed: Option<MacAddress>,
    /// The broker names the thing on a connection from another device.
    elsewhere: Option<IpAddr>,
}

fn unknown(mac: MacAddress, host: &Host) -> UnknownDevice {
    UnknownDevice {
        mac,
        addresses: host.bindings.iter().map(|b| b.address).collect(),
        interface: host.interface.clone(),
        port: host.port.clone(),
        first_seen: host.first_seen,
        last_seen: host.last_seen,
        last_move: host.last_move.clone(),
    }
}
