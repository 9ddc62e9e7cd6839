//! Devices no source names, where the configuration wants them cut off (`discovery.unknownDevices: quarantine`).
//!
//! Each is an edge cause under the name a recovered device has too, `mac:02:aa:00:00:00:01`: so rails, cap, store, audit log
//! and the operator's release are those of every quarantine. Only the MAC address is cut; which IP addresses are a
//! stranger's own nobody can say. The demand ends when a source names the device, when it was not seen for a day, or when
//! the configuration no longer wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Warden;
use crate::devices::{IdentityTable, UnknownDevice};
use crate::model::{MacAddress, Monotonic, Now, ThingName};
use crate::quarantine::{Alarm, CauseKey, Enforcement, Event, Held, Identity, Rails, Verdict};

/// No security profile can be called so (a point is in no profile's name), and it says which key demands it.
const PROFILE: &str = "discovery.unknownDevices";
const BEHAVIOR: &str = "quarantine";
/// Between two looks.
const PACE: Duration = Duration::from_secs(1);
/// A device that comes is given this long to be named, as by its lease.
const SETTLE: Duration = Duration::from_secs(5);
/// One not seen for this long is let go of, so that devices of the past do not use up the cap.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// What is remembered of strangers, none of it beyond a restart: what matters is in the store.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    wanted: bool,
    next: Option<Monotonic>,
    /// Since when each has been without a name.
    since: BTreeMap<MacAddress, Monotonic>,
    /// Since when those demanded have not been seen.
    gone: BTreeMap<MacAddress, Monotonic>,
    /// Demanded since they came: one that the operator released is not cut off again.
    demanded: BTreeSet<MacAddress>,
    /// What a rail spares, and why.
    spared: BTreeMap<MacAddress, String>,
    /// For the decision: what each demanded one is cut by.
    pub(super) identities: BTreeMap<ThingName, Identity>,
}

impl Strangers {
    /// When there is something to look at.
    pub(super) fn next_wake(&self) -> Option<Monotonic> {
        self.next.filter(|_| self.wanted)
    }
}

impl Warden {
    /// Demands and ends what is to be for devices no source names. Cheap when it was just done.
    pub(in crate::agent) fn keep_strangers(&mut self, wanted: bool, table: &IdentityTable, known: usize, now: Now) {
        let time = now.monotonic;
        self.strangers.wanted = wanted;
        if self.strangers.next.is_some_and(|next| time < next) {
            return;
        }
        self.strangers.next = Some(time.after(PACE));
        let held = self.held_strangers();
        if !wanted && held.is_empty() {
            self.strangers = Strangers::default();
            return;
        }
        let unknown: BTreeSet<MacAddress> = table.unknown().iter().map(|device| device.mac).collect();
        self.strangers.forget(&unknown, &held);
        self.strangers.remember(&unknown, &held);
        self.end_strangers(wanted, table, &unknown, held, now);
        if wanted {
            self.demand_strangers(table.unknown(), known, now);
        }
        self.carry_out(now);
    }

    /// Those demanded at the moment, in force or waiting for room.
    fn held_strangers(&self) -> BTreeSet<MacAddress> {
        let causes = self.quarantine.causes();
        let in_force = causes.iter().filter(|(_, causes)| causes.contains_key(&key()));
        let waiting = self.quarantine.waiting().filter(|thing| self.waits(thing).is_some());
        in_force
            .map(|(thing, _)| thing)
            .chain(waiting)
            .filter_map(mac_of)
            .collect()
    }

    fn waits(&self, thing: &ThingName) -> Option<String> {
        let key = key();
        let why = self.quarantine.waiting_of(thing).find(|(waiting, _)| **waiting == key);
        why.map(|(_, why)| why.to_owned())
    }

    fn end_strangers(
        &mut self,
        wanted: bool,
        table: &IdentityTable,
        unknown: &BTreeSet<MacAddress>,
        held: BTreeSet<MacAddress>,
        now: Now,
    ) {
        let named: BTreeSet<MacAddress> = table
            .things()
            .flat_map(|identity| identity.macs.iter().map(|bound| bound.mac))
            .collect();
        for mac in held {
            if unknown.contains(&mac) {
                self.strangers.gone.remove(&mac);
            }
            let gone = *self.strangers.gone.entry(mac).or_insert(now.monotonic);
            let forgotten = !unknown.contains(&mac) && now.monotonic.since(gone) >= FORGOTTEN;
            let Some(thing) = name_of(mac).filter(|_| !wanted || named.contains(&mac) || forgotten) else {
                continue;
            };
            self.strangers.identities.remove(&thing);
            self.event(
                Event::AlarmCleared {
                    thing,
                    profile: PROFILE.to_owned(),
                    behavior: BEHAVIOR.to_owned(),
                    silenced: false,
                },
                now,
            );
        }
    }

    fn demand_strangers(&mut self, unknown: &[UnknownDevice], known: usize, now: Now) {
        let mut oldest: Vec<&UnknownDevice> = unknown.iter().collect();
        oldest.sort_by_key(|device| (device.first_seen, device.mac));
        for device in oldest {
            let since = *self.strangers.since.entry(device.mac).or_insert(now.monotonic);
            let is_new = !self.strangers.demanded.contains(&device.mac);
            if !is_new || now.monotonic.since(since) < SETTLE {
                continue;
            }
            // One waits for room and the others behind it here: the queue is for things, too.
            if self.first_waiting().is_some() {
                return;
            }
            let _ = self.read_rails(now);
            let spared = match self.rails.known() {
                Ok(rails) => forbidden(rails, device),
                Err(why) => Some(format!("what must be spared cannot be read: {why}")),
            };
            if let Some(why) = spared {
                self.strangers.spared.insert(device.mac, why);
                continue;
            }
            self.strangers.spared.remove(&device.mac);
            let Some(thing) = name_of(device.mac).filter(|thing| !self.identities.contains_key(thing)) else {
                continue;
            };
            self.strangers.demanded.insert(device.mac);
            self.strangers.identities.insert(thing.clone(), identity(device.mac));
            self.identities.insert(thing.clone(), identity(device.mac));
            self.event(
                Event::Alarm(Alarm {
                    thing,
                    profile: PROFILE.to_owned(),
                    behavior: BEHAVIOR.to_owned(),
                    violation_id: device.mac.to_string(),
                    release_when_cleared: true,
                    lasts: None,
                    trusted: true,
                    known,
                }),
                now,
            );
        }
    }

    /// Why the first stranger in the queue waits.
    fn first_waiting(&self) -> Option<String> {
        self.quarantine.waiting().find_map(|thing| self.waits(thing))
    }

    /// How a device no source names stands, in words; `None` where nothing is demanded of it.
    pub(in crate::agent) fn stranger(&self, mac: MacAddress) -> Option<String> {
        let thing = name_of(mac)?;
        let held = self.enforced.get(&thing).map(|enforced| &enforced.held);
        let words = match (self.decision.get(&thing), held) {
            (Some(Verdict::Refused(refusal)), _) => format!("not cut off: {refusal}"),
            (Some(Verdict::Cut(_)), _) if self.enforcement == Enforcement::Observe => {
                "would be cut off: enforcement is observe".to_owned()
            }
            (Some(Verdict::Cut(_)), Some(Held::Full)) => "cut off".to_owned(),
            (Some(Verdict::Cut(_)), Some(Held::Partial(why))) => format!("partly cut off: {why}"),
            (Some(Verdict::Cut(_)), Some(Held::No(why))) => format!("not cut off: {why}"),
            (Some(Verdict::Cut(_)), None) => "not cut off".to_owned(),
            (None, _) if !self.strangers.wanted => return None,
            (None, _) => match (self.strangers.spared.get(&mac), self.first_waiting()) {
                (Some(why), _) => format!("not cut off: {why}"),
                (None, _) if self.strangers.demanded.contains(&mac) && self.waits(&thing).is_none() => {
                    "not cut off: released by the operator".to_owned()
                }
                (None, Some(why)) => format!("not cut off yet: {why}"),
                (None, None) => "to be cut off unless it is named".to_owned(),
            },
        };
        Some(words)
    }
}

impl Strangers {
    /// What the store knows of before a restart is demanded still.
    fn remember(&mut self, unknown: &BTreeSet<MacAddress>, held: &BTreeSet<MacAddress>) {
        self.demanded.extend(held);
        for mac in held.intersection(unknown) {
            if let Some(thing) = name_of(*mac) {
                self.identities.entry(thing).or_insert_with(|| identity(*mac));
            }
        }
    }

    fn forget(&mut self, unknown: &BTreeSet<MacAddress>, held: &BTreeSet<MacAddress>) {
        let known = |mac: &MacAddress| unknown.contains(mac) || held.contains(mac);
        self.since.retain(|mac, _| known(mac));
        self.gone.retain(|mac, _| held.contains(mac));
        self.demanded.retain(known);
        self.spared.retain(|mac, _| unknown.contains(mac));
        self.identities
            .retain(|thing, _| mac_of(thing).is_some_and(|mac| held.contains(&mac)));
    }
}

/// What a rail says against cutting the device off, by any of its addresses: a DNS server on the LAN is one although no
/// source names it.
fn forbidden(rails: &Rails, device: &UnknownDevice) -> Option<String> {
    let mac = rails.forbid_mac(device.mac).map(|why| format!("{}: {why}", device.mac));
    mac.or_else(|| {
        let mut addresses = device.addresses.iter();
        addresses.find_map(|address| Some(format!("{address}: {}", rails.forbid_address(*address)?)))
    })
}

fn key() -> CauseKey {
    CauseKey::Edge {
        profile: PROFILE.to_owned(),
        behavior: BEHAVIOR.to_owned(),
    }
}

fn identity(mac: MacAddress) -> Identity {
    Identity {
        macs: [mac].into(),
        backs_edge_action: true,
        ..Identity::default()
    }
}

fn name_of(mac: MacAddress) -> Option<ThingName> {
    format!("mac:{mac}").parse().ok()
}

fn mac_of(thing: &ThingName) -> Option<MacAddress> {
    thing.as_str().strip_prefix("mac:")?.parse().ok()
}
