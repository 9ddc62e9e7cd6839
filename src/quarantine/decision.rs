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

/// The MAC addresses under which things are cut off already, by thing (see [`super::Quarantine::bound`]).
pub type Bound = BTreeMap<ThingName, BTreeSet<MacAddress>>;

/// Most MAC addresses of one thing: one that registers a new one every second cannot fill the kernel's set.
const MOST_MACS: usize = 32;

/// Decide about every thing in `causes` (things without a cause are not in the result).
///
/// A thing in `bound` was cut off before and stays so under those MAC addresses: nothing it does on the LAN (claim a
/// protected address, contradict its lease, fall silent until its lease is over) may let it out. Only its causes'
/// end does, a rail for the MAC address itself, or a configuration that gives the address to another thing.
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
    };
    let (unknown, unbound) = (Identity::default(), BTreeSet::new());
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

struct Site<'a> {
    rails: &'a Rails,
    /// Whom the configuration gives each MAC address.
    configured: BTreeMap<MacAddress, &'a ThingName>,
}

impl Site<'_> {
    fn judge(
        &self,
        thing: &ThingName,
        identity: &Identity,
        bound: &BTreeSet<MacAddress>,
    ) -> Result<(BTreeSet<MacAddress>, BTreeSet<IpAddr>), Refusal> {
        if self.rails.core.as_ref() == Some(thing) {
            return Err(Refusal::Core);
        }
        if self.rails.protected.contains(&Protected::Thing(thing.clone())) {
            return Err(Refusal::Rail(format!("{thing} is listed in quarantine.protected")));
        }
        let elsewhere = |mac: &MacAddress| self.configured.get(mac).is_some_and(|owner| *owner != thing);
        let free = |mac: &&MacAddress| !elsewhere(mac) && self.rails.forbid_mac(**mac).is_none();
        if bound.iter().any(|mac| free(&mac)) {
            // what contradicts itself proves nothing new; the addresses it is held under were proven before
            let (macs, addresses) = if identity.in_conflict {
                (BTreeSet::new(), BTreeSet::new())
            } else {
                (identity.macs.clone(), identity.addresses.clone())
            };
            let macs = macs.iter().chain(bound.difference(&macs)).filter(free);
            let free_address = |address: &IpAddr| self.rails.forbid_address(*address).is_none();
            return Ok((
                macs.take(MOST_MACS).copied().collect(),
                addresses
                    .into_iter()
                    .map(|a| a.to_canonical())
                    .filter(free_address)
                    .collect(),
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quarantine::CauseKey;

    fn thing(name: &str) -> ThingName {
        name.parse().unwrap()
    }

    fn mac(last: u8) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, last])
    }

    fn identity(macs: &[u8], addresses: &[&str]) -> Identity {
        Identity {
            macs: macs.iter().map(|last| mac(*last)).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..Identity::default()
        }
    }

    fn rails() -> Rails {
        Rails {
            own_macs: [mac(0xfe)].into(),
            own_addresses: ["10.0.0.1".parse().unwrap()].into(),
            gateway_macs: [mac(0xfd)].into(),
            gateway_addresses: ["192.168.1.1".parse().unwrap()].into(),
            dns_servers: ["10.0.0.53".parse().unwrap()].into(),
            protected: vec![
                Protected::Mac(mac(0xfc)),
                Protected::Thing(thing("plc")),
                Protected::Network {
                    address: "10.0.0.128".parse().unwrap(),
                    prefix: 25,
                },
            ],
            core: Some(thing("core")),
        }
    }

    fn verdict(name: &str, identities: &[(&str, Identity)], bound: &[u8]) -> Verdict {
        let cause = Cause {
            posture: Posture::Isolate,
            since: UnixTime(1),
            until: None,
            reason: None,
            who: None,
            violation_id: None,
            release_when_cleared: false,
        };
        let causes = [(thing(name), [(CauseKey::Operator, cause)].into())].into();
        let identities = identities.iter().map(|(n, i)| (thing(n), i.clone())).collect();
        let bound = [(thing(name), bound.iter().map(|last| mac(*last)).collect())].into();
        decide(&causes, &identities, &rails(), &bound)
            .remove(&thing(name))
            .unwrap()
    }

    fn cut(verdict: Verdict) -> (Vec<MacAddress>, Vec<IpAddr>) {
        match verdict {
            Verdict::Cut(subject) => (
                subject.macs.into_iter().collect(),
                subject.addresses.into_iter().collect(),
            ),
            Verdict::Refused(why) => panic!("{why}"),
        }
    }

    #[test]
    fn every_forbidden_target_is_refused_with_its_reason() {
        for (name, macs, addresses, words) in [
            ("core", &[1][..], &[][..], "not supported"),
            ("plc", &[1], &[], "plc is listed"),
            ("a", &[0xfe], &[], "the gateway itself"),
            ("a", &[1, 0xfd], &[], "uplink router"),
            ("a", &[0xfc], &[], "is listed in quarantine.protected"),
            ("a", &[1], &["10.0.0.1"], "the gateway itself"),
            ("a", &[1], &["::ffff:10.0.0.1"], "the gateway itself"),
            ("a", &[1], &["192.168.1.1"], "uplink router"),
            ("a", &[1], &["10.0.0.7", "10.0.0.53"], "DNS server"),
            ("a", &[1], &["10.0.0.200"], "in quarantine.protected"),
            ("a", &[], &[], "no device is known"),
        ] {
            let Verdict::Refused(refusal) = verdict(name, &[(name, identity(macs, addresses))], &[]) else {
                panic!("{name} {macs:?} {addresses:?} was cut");
            };
            assert!(refusal.to_string().contains(words), "{refusal}");
        }
        let group = Identity {
            macs: [MacAddress([0xff; 6])].into(),
            ..Identity::default()
        };
        assert!(matches!(
            verdict("a", &[("a", group)], &[]),
            Verdict::Refused(Refusal::Rail(_))
        ));
    }

    #[test]
    fn a_conflict_cuts_nobody_new() {
        let conflict = Identity {
            in_conflict: true,
            ..identity(&[1], &["10.0.0.7"])
        };
        assert_eq!(
            verdict("a", &[("a", conflict)], &[]),
            Verdict::Refused(Refusal::IdentityConflict)
        );
        // it claims the MAC address that the configuration gives to another
        let owner = Identity {
            configured: true,
            ..identity(&[1], &[])
        };
        assert_eq!(
            verdict("a", &[("a", identity(&[1], &[])), ("b", owner)], &[]),
            Verdict::Refused(Refusal::IdentityConflict)
        );
    }

    #[test]
    fn what_is_held_stays_held_whatever_it_claims() {
        let claims = identity(&[1], &["10.0.0.7", "10.0.0.53", "10.0.0.200"]);
        assert_eq!(
            cut(verdict("a", &[("a", claims)], &[1])),
            (vec![mac(1)], vec!["10.0.0.7".parse().unwrap()])
        );
        let conflict = Identity {
            in_conflict: true,
            ..identity(&[1, 9], &["10.0.0.9"])
        };
        assert_eq!(cut(verdict("a", &[("a", conflict)], &[1])), (vec![mac(1)], vec![]));
        assert_eq!(
            cut(verdict("a", &[], &[1])),
            (vec![mac(1)], vec![]),
            "nobody knows it any more"
        );
        // a new MAC address is cut too, and the old one stays
        let moved = identity(&[2, 0xfe], &[]);
        assert_eq!(cut(verdict("a", &[("a", moved)], &[1])), (vec![mac(1), mac(2)], vec![]));
        // another thing's lease says otherwise: no proof
        assert_eq!(
            cut(verdict("a", &[("b", identity(&[1], &[]))], &[1])),
            (vec![mac(1)], vec![])
        );
        // the configuration says otherwise: it counts
        let owner = Identity {
            configured: true,
            ..identity(&[1], &[])
        };
        assert_eq!(
            verdict("a", &[("b", owner)], &[1]),
            Verdict::Refused(Refusal::UnknownDevice)
        );
        // no rail gives way to what was held
        assert!(matches!(
            verdict("a", &[("a", identity(&[0xfe], &[]))], &[0xfe]),
            Verdict::Refused(_)
        ));
    }

    #[test]
    fn who_is_released_stays_cut_off_until_that_is_on_disk() {
        let subject = |posture, until: Option<u64>| {
            Verdict::Cut(Subject {
                macs: [mac(1)].into(),
                addresses: BTreeSet::new(),
                posture,
                until: until.map(UnixTime),
            })
        };
        let (isolate, remediate) = (Posture::Isolate, Posture::Remediate);
        let held = |after: Option<Verdict>, before: Option<Verdict>| {
            let name = thing("a");
            let decision =
                |verdict: Option<Verdict>| verdict.map(|verdict| (name.clone(), verdict)).into_iter().collect();
            let (mut after, before): (Decision, Decision) = (decision(after), decision(before));
            held_until_kept(&mut after, &before, &[name.clone()].into());
            after.remove(&name)
        };
        let whole = subject(isolate, None);
        for weaker in [
            None,
            Some(Verdict::Refused(Refusal::UnknownDevice)),
            Some(subject(remediate, None)),
            Some(subject(isolate, Some(9))),
        ] {
            assert_eq!(held(weaker, Some(whole.clone())), Some(whole.clone()));
        }
        // what is as strict or stricter takes effect at once, and nobody is cut off who was not
        assert_eq!(
            held(Some(whole.clone()), Some(subject(remediate, Some(9)))),
            Some(whole.clone())
        );
        assert_eq!(held(None, None), None);
        assert_eq!(held(None, Some(Verdict::Refused(Refusal::Core))), None);
    }

    #[test]
    fn the_number_of_addresses_held_is_bounded_and_the_present_ones_come_first() {
        let held: Vec<u8> = (100..180).collect();
        let (macs, _) = cut(verdict("a", &[("a", identity(&[200], &[]))], &held));
        assert_eq!(macs.len(), MOST_MACS);
        assert!(macs.contains(&mac(200)));
    }
}
