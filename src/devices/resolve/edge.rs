//! What an alarm may cut off.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Resolution;
use crate::devices::identity::{Conflict, Source};
use crate::model::{MacAddress, ThingName};

impl<'e> Resolution<'e> {
    pub(super) fn note_gateway_claims(&mut self) {
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
    pub(super) fn back_edge_actions(&mut self) {
        let things: Vec<&'e ThingName> = self.drafts.keys().copied().collect();
        for thing in things {
            let connected = self.broker_macs(thing);
            if let Some(elsewhere) = connected.elsewhere {
                let conflict = Conflict::Broker { address: elsewhere };
                self.draft(thing).conflicts.insert(conflict);
            }
            let evidence = self.evidence;
            let monotonic = self.now.monotonic;
            let flapping = |mac: MacAddress| evidence.hosts.get(mac).is_some_and(|host| host.is_flapping(monotonic));
            let draft = self.draft(thing);
            let macs: Vec<MacAddress> = draft.macs.keys().copied().filter(|mac| flapping(*mac)).collect();
            draft
                .conflicts
                .extend(macs.into_iter().map(|mac| Conflict::Flapping { mac }));
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
                        Source::Configuration => !flapping(bound.mac),
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
}

#[derive(Debug, Default)]
struct BrokerView {
    /// The one device of the thing whose connection is the thing's.
    agreed: Option<MacAddress>,
    /// The broker names the thing on a connection from another device.
    elsewhere: Option<IpAddr>,
}
