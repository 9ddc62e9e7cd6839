//! From causes, identities and rails to who is cut off: recomputed whole, never patched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use super::cause::{Cause, CauseKey, Posture};
use super::rails::{Identity, Rails};
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
            Self::Core => f.write_str("not supported: quarantine of the core itself"),
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

/// Decide about every thing in `causes` (things without a cause are not in the result).
#[must_use]
pub fn decide(
    causes: &BTreeMap<ThingName, BTreeMap<CauseKey, Cause>>,
    identities: &BTreeMap<ThingName, Identity>,
    rails: &Rails,
) -> Decision {
    let unknown = Identity::default();
    causes
        .iter()
        .filter_map(|(thing, causes)| {
            let posture = causes.values().map(|cause| cause.posture).max()?;
            let until = causes
                .values()
                .map(|cause| cause.until)
                .try_fold(UnixTime(0), |latest, until| until.map(|until| latest.max(until)));
            let identity = identities.get(thing).unwrap_or(&unknown);
            Some((thing.clone(), judge(thing, identity, rails, posture, until)))
        })
        .collect()
}

fn judge(thing: &ThingName, identity: &Identity, rails: &Rails, posture: Posture, until: Option<UnixTime>) -> Verdict {
    if rails.core.as_ref() == Some(thing) {
        return Verdict::Refused(Refusal::Core);
    }
    if rails
        .protected
        .iter()
        .any(|entry| matches!(entry, super::Protected::Thing(name) if name == thing))
    {
        return Verdict::Refused(Refusal::Rail(format!("{thing} is listed in quarantine.protected")));
    }
    // A MAC of a rail refuses the whole thing: cutting "the rest" of it would leave a half-cut device nobody asked for.
    if let Some((mac, why)) = identity
        .macs
        .iter()
        .find_map(|mac| Some((mac, rails.forbid_mac(*mac)?)))
    {
        return Verdict::Refused(Refusal::Rail(format!("{mac}: {why}")));
    }
    if let Some((address, why)) = identity
        .addresses
        .iter()
        .find_map(|ip| Some((ip, rails.forbid_address(*ip)?)))
    {
        return Verdict::Refused(Refusal::Rail(format!("{address}: {why}")));
    }
    if identity.in_conflict {
        return Verdict::Refused(Refusal::IdentityConflict);
    }
    if identity.macs.is_empty() {
        return Verdict::Refused(Refusal::UnknownDevice);
    }
    Verdict::Cut(Subject {
        macs: identity.macs.clone(),
        addresses: identity.addresses.clone(),
        posture,
        until,
    })
}
