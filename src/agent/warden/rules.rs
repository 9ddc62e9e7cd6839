//! The kernel's side: rules from causes, what the kernel holds, and mending what others damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::firewall::{Change, Dropped, Enforced as KernelHolds, Firewall, FirewallError, Holding};
use crate::model::{MacAddress, Monotonic, Now, ThingName, UnixTime};
use crate::quarantine::{Decision, Enforced, Event, Held, Posture, Rails, Refusal, Verdict, decide, held_until_kept};

use super::backend::Backend;
use super::{Warden, chain, policy, rails};

/// Nobody is to be held on to.
pub(super) const NOBODY: BTreeSet<ThingName> = BTreeSet::new();

/// How fresh the counters of dropped packets have to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Counters {
    /// As of now.
    Fresh,
    /// It is this time, and some [`COUNT_EVERY`] ago will do: in a burst of decisions each would read all counters.
    OfLate(Monotonic),
}

/// See [`Counters::OfLate`].
const COUNT_EVERY: Duration = Duration::from_secs(1);

impl Warden {
    /// What the kernel holds although no stored cause explains it stays, as a cause of its own.
    pub(super) fn recover(&mut self, now: Now) {
        let Backend::Nftables(firewall) = &mut self.backend else {
            return;
        };
        let held = match firewall.enforced() {
            Ok(Some(held)) => held,
            Ok(None) => return,
            Err(error) => {
                let words = chain(&error);
                return self.say("firewall", Some(words));
            }
        };
        let causes = self.quarantine.causes();
        let bound = self.quarantine.bound();
        let explained = |mac: &MacAddress| {
            causes.keys().any(|thing| {
                bound.get(thing).is_some_and(|hold| hold.macs.contains(mac))
                    || self
                        .identities
                        .get(thing)
                        .is_some_and(|identity| identity.macs.contains(mac))
            })
        };
        let mut lost: BTreeMap<ThingName, (Posture, BTreeSet<MacAddress>)> = BTreeMap::new();
        for (mac, posture) in &held.macs {
            if explained(mac) {
                continue;
            }
            let owner = self
                .identities
                .iter()
                .find(|(_, identity)| identity.macs.contains(mac))
                .map(|(thing, _)| thing.clone());
            let Some(thing) = owner.or_else(|| format!("mac:{mac}").parse().ok()) else {
                continue;
            };
            let entry = lost.entry(thing).or_insert((Posture::Remediate, BTreeSet::new()));
            entry.0 = entry.0.max(policy::posture_from_kernel(*posture));
            entry.1.insert(*mac);
        }
        for (thing, (posture, macs)) in lost {
            tracing::warn!(%thing, "the kernel cuts it off and no stored cause says why; it stays cut off until the operator releases it");
            self.event(Event::Recovered { thing, posture, macs }, now);
        }
    }

    /// Make the kernel follow the causes as they are now.
    pub(super) fn enforce(&mut self, now: Now) {
        self.write_rules(&NOBODY, now);
        self.read_back(Counters::Fresh);
        if self.unsaved {
            self.persist();
        }
    }

    /// Read what must be spared; true when it changed.
    pub(super) fn read_rails(&mut self, now: Now) -> bool {
        let changed = self.rails.read(now.monotonic);
        self.say("rails", self.rails.trouble());
        changed
    }

    /// Who is to be cut off, by the causes as they are now.
    fn decide(&self) -> Decision {
        let (causes, bound) = (self.quarantine.causes(), self.quarantine.bound());
        match self.rails.known() {
            Ok(rails) => {
                let identities = rails::with_forbidden(&self.identities, &self.configured, rails);
                decide(&causes, &identities, rails, &bound)
            }
            // whoever was cut off before stays so; nobody new is cut without knowing what to spare
            Err(why) => {
                let unread = Rails {
                    core: Some(self.core.clone()),
                    ..Rails::default()
                };
                let decision = decide(&causes, &self.identities, &unread, &bound).into_iter();
                let refused = || Verdict::Refused(Refusal::Rail(format!("what must be spared cannot be read: {why}")));
                decision
                    .map(|(thing, verdict)| {
                        let verdict = if bound.contains_key(&thing) { verdict } else { refused() };
                        (thing, verdict)
                    })
                    .collect()
            }
        }
    }

    /// Write what the causes demand into the kernel, in one transaction. Things in `holding` are not let go of yet. What
    /// is news for the disk, and reading back, are left to the caller.
    pub(super) fn write_rules(&mut self, holding: &BTreeSet<ThingName>, now: Now) {
        if self.quarantine.is_idle() && self.policy.isolated.is_empty() && !self.holds_rules() {
            self.decision.clear();
            return;
        }
        self.read_rails(now);
        let before: BTreeSet<IpAddr> = policy::addresses(&self.policy);
        let mut decision = self.decide();
        held_until_kept(&mut decision, &self.decision, holding);
        self.decision = decision;
        let policy = policy::build(&self.decision, &self.lan, &self.ports, |until| {
            UnixTime(now.wall.0.saturating_add(millis(self.quarantine.left(until))))
        });
        let result = match &mut self.backend {
            Backend::Nftables(firewall) => firewall.enforce(&policy, now.wall),
            Backend::Observe(observe) => observe.enforce(&policy, now.wall),
            Backend::None(_) => Ok(()),
        };
        let failed = result.err().map(|error| chain(&error));
        if failed.is_none() {
            self.policy = policy;
            let newly: BTreeSet<IpAddr> = policy::addresses(&self.policy).difference(&before).copied().collect();
            if matches!(self.backend, Backend::Nftables(_)) {
                self.severing.begin(newly);
            }
        }
        let broken = match &self.backend {
            Backend::None(why) => Some(why.clone()),
            _ => failed,
        };
        self.say("firewall", broken);
        self.unsaved |= self.quarantine.bind(&self.decision);
    }

    fn holds_rules(&mut self) -> bool {
        match &mut self.backend {
            Backend::Nftables(firewall) => matches!(firewall.enforced(), Ok(Some(_))),
            Backend::Observe(_) | Backend::None(_) => false,
        }
    }

    /// Ask the kernel what it holds, for the shadows and for people.
    pub(super) fn read_back(&mut self, counters: Counters) {
        let held = match &mut self.backend {
            Backend::Nftables(firewall) => firewall.enforced(),
            Backend::Observe(_) | Backend::None(_) => Ok(None),
        };
        self.take_in(&held, counters);
    }

    /// What the kernel was found to hold is what the shadows and people are told.
    fn take_in(&mut self, held: &Result<Option<KernelHolds>, FirewallError>, counters: Counters) {
        let due = match counters {
            Counters::Fresh => true,
            Counters::OfLate(now) => {
                let due = self.counted_at.is_none_or(|at| now.since(at) >= COUNT_EVERY);
                self.counted_at = if due { Some(now) } else { self.counted_at };
                due
            }
        };
        let counted: Option<BTreeMap<String, Dropped>> = match &mut self.backend {
            Backend::Nftables(firewall) if due && !self.policy.isolated.is_empty() => {
                Some(firewall.dropped().unwrap_or_default())
            }
            _ => None,
        };
        let before = std::mem::take(&mut self.enforced);
        let failure = self.backend_failure();
        self.enforced = self
            .policy
            .isolated
            .iter()
            .filter_map(|isolated| {
                let thing: ThingName = isolated.label.parse().ok()?;
                let held = policy::held(held, isolated, failure.as_deref());
                let of_late = || before.get(&thing).and_then(|enforced| enforced.dropped_packets);
                let dropped_packets = match &counted {
                    Some(counted) => counted
                        .get(&isolated.label)
                        .map(|d| d.packets_from.saturating_add(d.packets_to)),
                    None => of_late(),
                };
                Some((
                    thing,
                    Enforced {
                        held,
                        dropped_packets,
                        group_traffic_passes: Some(!self.is_quiet(&isolated.macs)),
                    },
                ))
            })
            .collect();
        // What was decided and could not be written is not in that policy; the reason must not be lost.
        for thing in policy::cut(&self.decision) {
            let unwritten = || Enforced {
                held: Held::No(
                    failure
                        .clone()
                        .unwrap_or_else(|| "the kernel does not hold it".to_owned()),
                ),
                dropped_packets: None,
                group_traffic_passes: None,
            };
            self.enforced.entry(thing.clone()).or_insert_with(unwritten);
        }
        let without_counters = |map: &BTreeMap<ThingName, Enforced>| -> BTreeMap<ThingName, Held> {
            map.iter()
                .map(|(thing, enforced)| (thing.clone(), enforced.held.clone()))
                .collect()
        };
        if without_counters(&before) != without_counters(&self.enforced) {
            self.to_tell.extend(before.into_keys());
            self.to_tell.extend(self.enforced.keys().cloned());
        }
    }

    /// Whether group frames are dropped towards every port these devices are behind.
    fn is_quiet(&self, macs: &BTreeSet<MacAddress>) -> bool {
        let Some(quiet) = &self.policy.quiet_ports else {
            return false;
        };
        let mut behind = self
            .ports
            .iter()
            .filter(|(_, devices)| !devices.is_disjoint(macs))
            .peekable();
        behind.peek().is_some() && behind.all(|(port, _)| quiet.contains(port))
    }

    fn backend_failure(&self) -> Option<String> {
        match &self.backend {
            Backend::None(why) => Some(why.clone()),
            _ => self.trouble.get("firewall").cloned(),
        }
    }

    /// Somebody changed tables or links: compare at once.
    pub(in crate::agent) fn changed(&mut self, changes: &[Change], now: Now) {
        let ours = changes.iter().any(|change| match change {
            Change::Table { table, .. } => table == "edge_warden",
            Change::CompareAll => true,
            Change::LinkPresent(name) | Change::LinkGone(name) => self.policy.lan.interfaces.contains(name),
        });
        if ours {
            self.compare(now);
        }
    }

    /// Compare the kernel with what should be there, and mend it.
    pub(super) fn compare(&mut self, now: Now) {
        if self.policy.isolated.is_empty() && self.quarantine.is_idle() {
            return;
        }
        let Backend::Nftables(firewall) = &mut self.backend else {
            return self.read_back(Counters::Fresh);
        };
        let held = firewall.enforced();
        let intact = match &held {
            Ok(Some(held)) => {
                let whole = |isolated| held.holds(isolated) == Holding::Whole;
                held.differences.is_empty() && self.policy.isolated.iter().all(whole)
            }
            Ok(None) => self.policy.isolated.is_empty(),
            Err(_) => false,
        };
        if intact && !self.trouble.contains_key("firewall") {
            return self.take_in(&held, Counters::Fresh);
        }
        self.mended += 1;
        tracing::warn!(
            times = self.mended,
            "the rules are not as they were written; writing them again"
        );
        firewall.distrust();
        self.enforce(now);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
