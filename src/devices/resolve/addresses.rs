//! Which thing an IP address is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Resolution;
use crate::devices::identity::{BoundAddress, Conflict, Source};
use crate::devices::registry::KnownLease;
use crate::model::{MacAddress, ThingName};

impl<'e> Resolution<'e> {
    /// Devices with a say on an address now: those that answer for it, and the one that did just before somebody else took
    /// it.
    pub(super) fn holders(&self, address: IpAddr) -> BTreeSet<MacAddress> {
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

    pub(super) fn settle_addresses(&mut self) {
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
        let device = self.devices.get(thing).copied();
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
}
