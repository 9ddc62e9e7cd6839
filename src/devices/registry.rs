//! The registry: remembers what it was told, and says who is who.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::changes::{Change, changes};
use super::hosts::{Hosts, Named};
use super::identity::{IdentityTable, Skipped};
use super::leases::Lease;
use super::observation::{BrokerPeer, ConfiguredDevice, Observation, Registration};
use super::resolve::resolve;
use crate::collect::neighbours::{Neighbour, NeighbourEvent};
use crate::model::{MacAddress, Monotonic, Now, ThingName};

/// The most things that may be registered; each needs a certificate, so this is far away.
const MAX_REGISTERED: usize = 4_096;
/// The most claims on the gateway's addresses that are kept.
const MAX_GATEWAY_CLAIMS: usize = 64;
/// Refused registrations that are kept.
const MAX_REFUSED: usize = 64;
/// A lease counts this much longer than it says: servers tidy up late.
const LEASE_GRACE_MILLIS: u64 = 60_000;

/// A lease and when it was first seen.
#[derive(Debug, Clone)]
pub(super) struct KnownLease {
    pub(super) lease: Lease,
    pub(super) since: Monotonic,
}

impl KnownLease {
    pub(super) fn is_valid(&self, now: Now) -> bool {
        let expires = self.lease.expires;
        expires.is_none_or(|at| now.wall.0 <= at.0.saturating_add(LEASE_GRACE_MILLIS))
    }
}

/// Everything known, from which [`resolve`] makes the table.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub(super) configured: Vec<ConfiguredDevice>,
    /// Registered MAC addresses, and whether each was seen on the LAN.
    pub(super) registered: BTreeMap<ThingName, BTreeMap<MacAddress, bool>>,
    pub(super) leases: BTreeMap<String, Vec<KnownLease>>,
    pub(super) hosts: Hosts,
    pub(super) own_macs: BTreeSet<MacAddress>,
    pub(super) own_addresses: BTreeSet<IpAddr>,
    pub(super) lan: BTreeSet<String>,
    pub(super) peers: BTreeSet<BrokerPeer>,
    pub(super) gateway_claims: BTreeSet<(IpAddr, MacAddress)>,
    pub(super) refused: BTreeSet<Skipped>,
}

impl Evidence {
    fn is_lan(&self, interface: &str) -> bool {
        self.lan.contains(interface)
    }

    /// True for an address that can be one device's.
    fn is_device_address(&self, address: IpAddr) -> bool {
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        !(broadcast
            || address.is_unspecified()
            || address.is_multicast()
            || address.is_loopback()
            || self.own_addresses.contains(&address))
    }

    /// The configured devices as far as they are possible: without the gateway's own addresses.
    pub(super) fn usable_configured(&self, skipped: &mut BTreeSet<Skipped>) -> Vec<ConfiguredDevice> {
        let mut devices = self.configured.clone();
        for device in &mut devices {
            let thing = device.thing.clone();
            let mut skip = |what: String, reason: &str| {
                let what = format!("{thing}: {what}");
                let reason = reason.to_owned();
                skipped.insert(Skipped { what, reason });
            };
            device.macs.retain(|mac| {
                let reason = if self.own_macs.contains(mac) {
                    "the MAC address is the gateway's own"
                } else if mac.is_group() || mac.is_zero() {
                    "no device has this MAC address"
                } else {
                    return true;
                };
                skip(mac.to_string(), reason);
                false
            });
            for address in &mut device.addresses {
                *address = address.to_canonical();
            }
            device.addresses.retain(|address| {
                let possible = self.is_device_address(*address);
                if !possible {
                    skip(
                        address.to_string(),
                        "the address is the gateway's own, or no device can have it",
                    );
                }
                possible
            });
        }
        devices
    }

    /// A neighbour that can be a device; claims on the gateway's own addresses are noted.
    fn device(&mut self, mut neighbour: Neighbour) -> Option<Neighbour> {
        if !self.is_lan(&neighbour.interface) || self.own_macs.contains(&neighbour.mac) {
            return None;
        }
        neighbour.ip = neighbour.ip.to_canonical();
        if self.own_addresses.contains(&neighbour.ip) {
            if self.gateway_claims.len() < MAX_GATEWAY_CLAIMS {
                self.gateway_claims.insert((neighbour.ip, neighbour.mac));
            }
            return None;
        }
        self.is_device_address(neighbour.ip).then_some(neighbour)
    }

    fn named(&self) -> Named {
        let mut named = Named::default();
        for device in &self.configured {
            named.macs.extend(&device.macs);
            named
                .addresses
                .extend(device.addresses.iter().map(|address| address.to_canonical()));
        }
        named.macs.extend(self.registered.values().flat_map(BTreeMap::keys));
        for known in self
            .leases
            .values()
            .flatten()
            .filter(|known| known.lease.thing.is_some())
        {
            named.macs.extend(known.lease.mac);
            named.addresses.insert(known.lease.address);
        }
        named.macs.retain(|mac| !self.own_macs.contains(mac));
        named
    }
}

/// Which thing is behind which MAC and IP address. Takes observations, gives an [`IdentityTable`]; reads no clock, file or
/// socket.
#[derive(Debug, Default)]
pub struct Registry {
    evidence: Evidence,
    table: Arc<IdentityTable>,
}

impl Registry {
    /// An empty registry. Until [`Observation::LanInterfaces`] is told, no neighbour is a device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of one observation. The table changes with the next [`Registry::resolve`].
    pub fn observe(&mut self, observation: Observation, now: Now) {
        let evidence = &mut self.evidence;
        match observation {
            Observation::Configured(devices) => evidence.configured = devices,
            Observation::Registered(registration) => self.register(registration),
            Observation::Leases { file, leases } => self.leases(file, leases, now),
            Observation::Neighbours(neighbours) => {
                evidence.gateway_claims.clear();
                let devices: Vec<_> = neighbours.into_iter().filter_map(|n| evidence.device(n)).collect();
                return evidence.hosts.replace(devices, now);
            }
            Observation::Neighbour(NeighbourEvent::Present(neighbour)) => {
                if let Some(neighbour) = evidence.device(neighbour) {
                    evidence.hosts.present(neighbour, now);
                }
                return;
            }
            Observation::Neighbour(NeighbourEvent::Gone { ip, .. }) => return evidence.hosts.gone(ip.to_canonical()),
            Observation::Neighbour(NeighbourEvent::Learnt(entry)) | Observation::Port(entry) => {
                let lan = evidence.is_lan(&entry.bridge) || evidence.is_lan(&entry.port);
                if lan && !entry.own && !evidence.own_macs.contains(&entry.mac) {
                    evidence.hosts.at_port(entry, now);
                }
                return;
            }
            Observation::GatewayOwn { macs, addresses } => {
                evidence.own_macs = macs;
                evidence.own_addresses = addresses.iter().map(IpAddr::to_canonical).collect();
            }
            Observation::LanInterfaces(interfaces) => {
                evidence.lan = interfaces;
                let lan = &evidence.lan;
                evidence
                    .hosts
                    .expire(now.monotonic, |interface| lan.contains(interface));
            }
            Observation::BrokerPeers(peers) => {
                evidence.peers = peers;
                return;
            }
        }
        let named = self.evidence.named();
        self.evidence.hosts.set_named(named);
    }

    fn register(&mut self, registration: Registration) {
        let Registration { thing, macs } = registration;
        let evidence = &mut self.evidence;
        if evidence.registered.len() >= MAX_REGISTERED && !evidence.registered.contains_key(&thing) {
            if evidence.refused.len() < MAX_REFUSED {
                evidence.refused.insert(Skipped {
                    what: format!("registration of {thing}"),
                    reason: format!("{MAX_REGISTERED} things are registered already"),
                });
            }
            return;
        }
        let before = evidence.registered.remove(&thing).unwrap_or_default();
        let seen = |mac: &MacAddress| before.get(mac).copied().unwrap_or(false);
        let macs: BTreeMap<MacAddress, bool> = macs.into_iter().map(|mac| (mac, seen(&mac))).collect();
        if !macs.is_empty() {
            evidence.registered.insert(thing, macs);
        }
    }

    fn leases(&mut self, file: String, leases: Vec<Lease>, now: Now) {
        let before = self.evidence.leases.remove(&file).unwrap_or_default();
        let before: BTreeMap<_, _> = before
            .iter()
            .map(|known| ((known.lease.mac, known.lease.address), known.since))
            .collect();
        let known = |lease: Lease| KnownLease {
            since: before
                .get(&(lease.mac, lease.address))
                .copied()
                .unwrap_or(now.monotonic),
            lease,
        };
        let known = leases
            .into_iter()
            .filter(|l| self.evidence.is_device_address(l.address))
            .map(known);
        let known: Vec<KnownLease> = known.collect();
        if !known.is_empty() {
            self.evidence.leases.insert(file, known);
        }
    }

    /// Makes the table anew, and tells what changed since the last time.
    pub fn resolve(&mut self, now: Now) -> Vec<Change> {
        let evidence = &mut self.evidence;
        let lan = &evidence.lan;
        evidence
            .hosts
            .expire(now.monotonic, |interface| lan.contains(interface));
        // A registered MAC address counts from the moment the neighbour table shows it on the LAN.
        for (mac, seen) in evidence.registered.values_mut().flatten() {
            let host = evidence.hosts.get(*mac).filter(|_| !evidence.own_macs.contains(mac));
            *seen = *seen || host.is_some_and(|host| host.bindings.iter().any(|b| b.present));
        }
        let table = resolve(evidence, now);
        let changes = changes(&self.table, &table);
        self.table = Arc::new(table);
        changes
    }

    /// Who is who, as of the last [`Registry::resolve`].
    #[must_use]
    pub fn table(&self) -> &IdentityTable {
        &self.table
    }

    /// The same, to be handed to another thread.
    #[must_use]
    pub fn shared_table(&self) -> Arc<IdentityTable> {
        Arc::clone(&self.table)
    }
}
