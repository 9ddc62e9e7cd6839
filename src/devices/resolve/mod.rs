//! From evidence to identities: precedence, conflicts, and what may back a quarantine.

mod addresses;
mod claims;
mod edge;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::devices::hosts::Host;
use crate::devices::identity::{
    BoundAddress, BoundMac, Conflict, Identity, IdentityTable, Skipped, Source, UnknownDevice,
};
use crate::devices::observation::ConfiguredDevice;
use crate::devices::registry::{Evidence, KnownLease};
use crate::model::{MacAddress, Now, ThingName};

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
    devices: BTreeMap<&'e ThingName, &'e ConfiguredDevice>,
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
        devices: configured.iter().map(|device| (&device.thing, device)).collect(),
        leases,
        claims: BTreeMap::new(),
        owners: BTreeMap::new(),
        drafts: BTreeMap::new(),
        by_address: BTreeMap::new(),
    };
    resolution.claim_by_configuration();
    resolution.claim_by_registration(&mut skipped);
    resolution.claim_by_lease(&mut skipped);
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
            let device = self.devices.get(thing).copied();
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
