//! Which thing a MAC address is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Resolution;
use crate::devices::identity::{BoundMac, Conflict, Skipped, Source};
use crate::model::{MacAddress, ThingName};

/// The most things that are named by leases: a device can ask for a lease under any name.
const MAX_LEASE_THINGS: usize = 1_024;

impl<'e> Resolution<'e> {
    pub(super) fn claim_by_configuration(&mut self) {
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

    pub(super) fn claim_by_registration(&mut self, skipped: &mut BTreeSet<Skipped>) {
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

    pub(super) fn claim_by_lease(&mut self, skipped: &mut BTreeSet<Skipped>) {
        let evidence = self.evidence;
        let own = |mac: &MacAddress| evidence.own_macs.contains(mac);
        let mut names: BTreeMap<&'e ThingName, BTreeMap<MacAddress, BTreeSet<IpAddr>>> = BTreeMap::new();
        // The oldest leases first, so that a flood of requests displaces nobody.
        self.leases.sort_by_key(|known| (known.since, known.lease.address));
        let mut too_many = false;
        for known in &self.leases {
            let lease = &known.lease;
            // A DHCPv6 lease names no MAC address; the neighbour table leads to the device.
            let mac = lease.mac.or_else(|| evidence.hosts.holder(lease.address));
            if let (Some(thing), Some(mac)) = (&lease.thing, mac.filter(|mac| !own(mac))) {
                if names.len() >= MAX_LEASE_THINGS && !names.contains_key(thing) {
                    too_many = true;
                    continue;
                }
                names
                    .entry(thing)
                    .or_default()
                    .entry(mac)
                    .or_default()
                    .insert(lease.address);
            }
        }
        if too_many {
            skipped.insert(Skipped {
                what: "leases".to_owned(),
                reason: format!("they name more than {MAX_LEASE_THINGS} things; the latest are left out"),
            });
        }
        for (thing, macs) in names {
            let device = self.devices.get(thing).copied();
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
    pub(super) fn settle_macs(&mut self) {
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
}
