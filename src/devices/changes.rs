//! What changed between two tables, for the log and the audit trail.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::identity::{Conflict, Identity, IdentityTable, Move};
use crate::model::{MacAddress, ThingName};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The thing it is about.
    pub thing: ThingName,
    /// What happened.
    pub what: What,
}

/// What happened to a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It is known now.
    Appeared,
    /// No source names it any more.
    Vanished,
    /// It has one more MAC address.
    MacAdded(MacAddress),
    /// A MAC address is no longer its.
    MacRemoved(MacAddress),
    /// It has one more usable IP address.
    AddressAdded(IpAddr),
    /// An IP address is no longer its, or no longer usable.
    AddressReleased(IpAddr),
    /// Sources contradict each other.
    ConflictBegan(Conflict),
    /// They do no longer.
    ConflictEnded(Conflict),
    /// One of its MAC addresses is on another interface or port.
    Moved(Move),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thing = &self.thing;
        match &self.what {
            What::Appeared => write!(f, "{thing} is known now"),
            What::Vanished => write!(f, "{thing} is named by no source any more"),
            What::MacAdded(mac) => write!(f, "{thing} has MAC address {mac}"),
            What::MacRemoved(mac) => write!(f, "{thing} no longer has MAC address {mac}"),
            What::AddressAdded(address) => write!(f, "{thing} has address {address}"),
            What::AddressReleased(address) => write!(f, "{thing} no longer has address {address}"),
            What::ConflictBegan(conflict) => write!(f, "{thing}: identity conflict: {conflict}"),
            What::ConflictEnded(conflict) => write!(f, "{thing}: identity conflict over: {conflict}"),
            What::Moved(moved) => write!(f, "{thing} moved from {} to {}", moved.from, moved.to),
        }
    }
}

pub(super) fn changes(before: &IdentityTable, after: &IdentityTable) -> Vec<Change> {
    let mut changes = Vec::new();
    for now in after.things() {
        let was = before.get(&now.thing);
        let mut push = |what| {
            changes.push(Change {
                thing: now.thing.clone(),
                what,
            });
        };
        if was.is_none() {
            push(What::Appeared);
        }
        differences(was, Some(now), &mut push);
        let moved = now
            .last_move
            .as_ref()
            .filter(|moved| was.is_some_and(|was| was.last_move.as_ref() != Some(*moved)));
        if let Some(moved) = moved {
            push(What::Moved(moved.clone()));
        }
    }
    for was in before.things().filter(|was| after.get(&was.thing).is_none()) {
        let mut push = |what| {
            changes.push(Change {
                thing: was.thing.clone(),
                what,
            });
        };
        differences(Some(was), None, &mut push);
        push(What::Vanished);
    }
    changes
}

fn differences(was: Option<&Identity>, now: Option<&Identity>, push: &mut impl FnMut(What)) {
    let macs = |identity: Option<&Identity>| -> BTreeSet<MacAddress> {
        identity.iter().flat_map(|i| &i.macs).map(|bound| bound.mac).collect()
    };
    let addresses = |identity: Option<&Identity>| -> BTreeSet<IpAddr> {
        identity.iter().flat_map(|i| i.usable_addresses()).collect()
    };
    let conflicts = |identity: Option<&Identity>| -> BTreeSet<Conflict> {
        identity.map(|i| i.conflicts.clone()).unwrap_or_default()
    };
    let (old, new) = (macs(was), macs(now));
    old.difference(&new).for_each(|mac| push(What::MacRemoved(*mac)));
    new.difference(&old).for_each(|mac| push(What::MacAdded(*mac)));
    let (old, new) = (addresses(was), addresses(now));
    old.difference(&new)
        .for_each(|address| push(What::AddressReleased(*address)));
    new.difference(&old)
        .for_each(|address| push(What::AddressAdded(*address)));
    let (old, new) = (conflicts(was), conflicts(now));
    old.difference(&new)
        .for_each(|conflict| push(What::ConflictEnded(conflict.clone())));
    new.difference(&old)
        .for_each(|conflict| push(What::ConflictBegan(conflict.clone())));
}
