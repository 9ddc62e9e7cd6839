//! From causes, identities and rails to who is cut off: recomputed whole, never patched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use super::cause::{Cause, CauseKey, Posture};
use super::rails::{Identity, Protected, Rails};
use crate::model::{MacAddress, ThingName, UnixTime};

/// Whether decisions reach the kernel (configuration key `quarantine.enforcement`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// They do.
    Enforce,
    /// Everything is computed and reported, nothing is dropped.
    Observe,
}

/// Why a thing with causes is not cut off (or one of its addresses is not).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// It is the core itself.
    Core,
    /// A rail, in words naming the address.
    Rail(String),
    /// Its sources contradict each other.
    IdentityConflict,
    /// No device is known for it yet; it is cut as soon as one is.
    UnknownDevice,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Core => f.write_str("not supported"),
            Self::Rail(words) => write!(f, "refused: {words}"),
            Self::IdentityConflict => f.write_str(
                "refused: sources disagree about which device this thing is; configure its MAC address under devices",
            ),
            Self::UnknownDevice => {
                f.write_str("no device is known for this thing yet; it is cut off as soon as one is")
            }
        }
    }
}

/// A thing to be cut off, by all its uncontested addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its MAC addresses: the main key, at least one.
    pub macs: BTreeSet<MacAddress>,
    /// Its addresses that no rail protects.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of them that no configuration gives it: known only as long as somebody remembers them.
    pub learnt: BTreeSet<IpAddr>,
    /// The strictest posture of its causes.
    pub posture: Posture,
    /// When the last of its causes ends; `None` when one has no end.
    pub until: Option<UnixTime>,
}

/// What is decided about one thing that has causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Cut it off.
    Cut(Subject),
    /// Leave it, and say why.
    Refused(Refusal),
}

/// What is decided about every thing that has causes.
pub type Decision = BTreeMap<ThingName, Verdict>;

/// What a thing is cut off by, kept so that it stays cut off when nobody can say any more who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hold {
    /// Its MAC addresses.
    pub macs: BTreeSet<MacAddress>,
    /// The addresses last known as its own, without configured ones ([`Subject::learnt`]).
    pub addresses: BTreeSet<IpAddr>,
}

/// What things are cut off by already, by thing (see [`super::Quarantine::bound`]).
pub type Bound = BTreeMap<ThingName, Hold>;

/// Most MAC addresses of one thing: one that registers a new one every second cannot fill the kernel's set.
const MOST_MACS: usize = 32;
/// Most learnt addresses of one thing: one that leases a pool empty cannot fill the kernel's set either.
const MOST_LEARNT: usize = 32;

/// Decide about every thing in `causes` (things without a cause are not in the result).
///
/// A thing in `bound` was cut off before and stays so under those MAC addresses: nothing it does on the LAN (claim a
/// protected address, contradict its lease, fall silent until its lease is over) may let it out. Only its causes'
/// end does, a rail for the MAC address itself, or a configuration that gives the address to another thing.
///
/// It stays so under its last learnt IP addresses too, until it is seen with others of their kind, a rail covers them,
/// or another thing has or claims them. A device nobody names has no say: it may be the thing itself with a new MAC address.
#[must_use]
pub fn decide(
    causes: &BTreeMap<ThingName, BTreeMap<CauseKey, Cause>>,
    identities: &BTreeMap<ThingName, Identity>,
    rails: &Rails,
    bound: &Bound,
) -> Decision {
    let site = Site {
        rails,
        configured: identities
            .iter()
            .filter(|(_, identity)| identity.configured)
            .flat_map(|(thing, identity)| identity.macs.iter().map(move |mac| (*mac, thing)))
            .collect(),
        claimed: claimed(identities, bound),
    };
    let (unknown, unbound) = (Identity::default(), Hold::default());
    causes
        .iter()
        .filter_map(|(thing, causes)| {
            let posture = causes.values().map(|cause| cause.posture).max()?;
            let until = causes
                .values()
                .map(|cause| cause.until)
                .try_fold(UnixTime(0), |latest, until| until.map(|until| latest.max(until)));
            let identity = identities.get(thing).unwrap_or(&unknown);
            let verdict = match site.judge(thing, identity, bound.get(thing).unwrap_or(&unbound)) {
                Ok((macs, addresses)) => Verdict::Cut(Subject {
                    macs,
                    learnt: addresses.difference(&identity.fixed).copied().collect(),
                    addresses,
                    posture,
                    until,
                }),
                Err(refusal) => Verdict::Refused(refusal),
            };
            Some((thing.clone(), verdict))
        })
        .collect()
}

/// Cut off as `before` whoever in `released` would be let go of or held less strictly by `decision`: until the release is
/// on disk, the kernel must not have it.
pub fn held_until_kept(decision: &mut Decision, before: &Decision, released: &BTreeSet<ThingName>) {
    for thing in released {
        let Some(Verdict::Cut(held)) = before.get(thing) else {
            continue;
        };
        let as_strict = |subject: &Subject| {
            let as_long = match (held.until, subject.until) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(before), Some(after)) => after >= before,
            };
            as_long && subject.posture >= held.posture && subject.macs.is_superset(&held.macs)
        };
        match decision.get(thing) {
            Some(Verdict::Cut(subject)) if as_strict(subject) => {}
            _ => drop(decision.insert(thing.clone(), Verdict::Cut(held.clone()))),
        }
    }
}

/// Which things have or claim the addresses that are held by memory.
fn claimed<'a>(
    identities: &'a BTreeMap<ThingName, Identity>,
    bound: &Bound,
) -> BTreeMap<IpAddr, BTreeSet<&'a ThingName>> {
    let held: BTreeSet<IpAddr> = bound.values().flat_map(|hold| hold.addresses.iter().copied()).collect();
    let mut claimed: BTreeMap<IpAddr, BTreeSet<&'a ThingName>> = BTreeMap::new();
    if held.is_empty() {
        return claimed;
    }
    for (thing, identity) in identities {
        let addresses = identity.addresses.iter().chain(&identity.contested);
        for address in addresses
            .map(IpAddr::to_canonical)
            .filter(|address| held.contains(address))
        {
            claimed.entry(address).or_default().insert(thing);
        }
    }
    claimed
}

/// Kinds of addresses: a device that shows others of one kind has moved on from those it had.
fn kind(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(address) if address.is_unicast_link_local() => 1,
        IpAddr::V6(_) => 2,
    }
}

struct Site<'a> {
    rails: &'a Rails,
    /// Whom the configuration gives each MAC address.
    configured: BTreeMap<MacAddress, &'a ThingName>,
    /// See [`claimed`].
    claimed: BTreeMap<IpAddr, BTreeSet<&'a ThingName>>,
}

impl Site<'_> {
    fn judge(
        &self,
        thing: &ThingName,
        identity: &Identity,
        bound: &Hold,
    ) -> Result<(BTreeSet<MacAddress>, BTreeSet<IpAddr>), Refusal> {
        if self.rails.core.as_ref() == Some(thing) {
            return Err(Refusal::Core);
        }
        if self.rails.protected.contains(&Protected::Thing(thing.clone())) {
            return Err(Refusal::Rail(format!("{thing} is listed in quarantine.protected")));
        }
        let elsewhere = |mac: &MacAddress| self.configured.get(mac).is_some_and(|owner| *owner != thing);
        let free = |mac: &&MacAddress| !elsewhere(mac) && self.rails.forbid_mac(**mac).is_none();
        if bound.macs.iter().any(|mac| free(&mac)) {
            // what contradicts itself proves nothing new; what it is held under was proven before
            let macs = if identity.in_conflict {
                BTreeSet::new()
            } else {
                identity.macs.clone()
            };
            let macs = macs.iter().chain(bound.macs.difference(&macs)).filter(free);
            return Ok((
                macs.take(MOST_MACS).copied().collect(),
                self.held_addresses(thing, identity, &bound.addresses),
            ));
        }
        // A rail refuses the whole thing: cutting "the rest" of it would leave a half-cut device nobody asked for.
        if let Some((mac, why)) = identity
            .macs
            .iter()
            .find_map(|mac| Some((mac, self.rails.forbid_mac(*mac)?)))
        {
            return Err(Refusal::Rail(format!("{mac}: {why}")));
        }
        if let Some((address, why)) = identity
            .addresses
            .iter()
            .find_map(|ip| Some((ip, self.rails.forbid_address(*ip)?)))
        {
            return Err(Refusal::Rail(format!("{address}: {why}")));
        }
        if identity.in_conflict || identity.macs.iter().any(elsewhere) {
            return Err(Refusal::IdentityConflict);
        }
        if identity.macs.is_empty() {
            return Err(Refusal::UnknownDevice);
        }
        Ok((
            identity.macs.iter().take(MOST_MACS).copied().collect(),
            identity.addresses.iter().map(IpAddr::to_canonical).collect(),
        ))
    }

    /// The addresses of a thing that is cut off already: its present ones, and those held by memory.
    fn held_addresses(&self, thing: &ThingName, identity: &Identity, held: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let present: BTreeSet<IpAddr> = if identity.in_conflict {
            BTreeSet::new()
        } else {
            identity.addresses.iter().map(IpAddr::to_canonical).collect()
        };
        // what another thing has or claims was the rogue's claim, or is its address no more
        let others = |address: &IpAddr| {
            let claimed = self.claimed.get(address);
            claimed.is_some_and(|claimed| claimed.iter().any(|other| *other != thing))
        };
        let moved_on = |address: &IpAddr| {
            let learnt = present.difference(&identity.fixed);
            let same_kind = learnt.filter(|known| kind(**known) == kind(*address)).count() > 0;
            same_kind && !identity.contested.contains(address)
        };
        let kept = held.difference(&present).filter(|a| !others(a) && !moved_on(a));
        let room = MOST_LEARNT.saturating_sub(present.len());
        let kept: Vec<IpAddr> = kept.take(room).copied().collect();
        let allowed = |address: &IpAddr| self.rails.forbid_address(*address).is_none();
        present.into_iter().chain(kept).filter(allowed).collect()
    }
}

#[cfg(test)]
mod tests;
