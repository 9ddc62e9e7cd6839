//! What is asked for: events change the causes at once, and what follows from many of them is carried out together.

use std::collections::BTreeSet;

use crate::agent::shadows::Place;
use crate::model::{Now, ThingName};
use crate::quarantine::{AuditEntry, Effect, Event, ShadowReading};

use super::Warden;
use super::rules::{Counters, NOBODY};

/// What events have asked for and is not carried out yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Somebody is to be cut off: the kernel first.
    enforce: bool,
    persist: bool,
    /// Things of which a cause ended: let go of in the kernel once that is on disk.
    released: BTreeSet<ThingName>,
    notes: Vec<AuditEntry>,
}

impl Pending {
    pub(super) fn add(&mut self, effects: Vec<Effect>, to_tell: &mut BTreeSet<ThingName>) {
        let first = effects
            .iter()
            .find(|effect| matches!(effect, Effect::Enforce | Effect::Persist));
        let disk_first = first == Some(&Effect::Persist);
        let mut rules = false;
        for effect in effects {
            match effect {
                Effect::Enforce => rules = true,
                Effect::Persist => self.persist = true,
                Effect::ReportShadow(thing) => {
                    if rules && disk_first {
                        self.released.insert(thing.clone());
                    }
                    to_tell.insert(thing);
                }
                Effect::Audit(entry) => self.notes.push(entry),
            }
        }
        self.enforce |= rules && !disk_first;
    }
}

impl Warden {
    /// Let an event change who is quarantined. What follows waits for [`Warden::carry_out`].
    pub(in crate::agent) fn event(&mut self, event: Event, now: Now) {
        let effects = self.quarantine.step(event, now);
        self.pending.add(effects, &mut self.to_tell);
    }

    /// A document was read: it may change decisions, and it may have to be answered.
    pub(in crate::agent) fn document(&mut self, place: Place, reading: ShadowReading, now: Now) {
        let (thing, shadow) = place.clone();
        self.event(
            Event::Shadow {
                thing: thing.clone(),
                shadow,
                reading: reading.clone(),
            },
            now,
        );
        self.readings.insert(place, reading);
        self.to_tell.insert(thing);
    }

    /// Carry out what the events since the last call ask for: one transaction for all that is to be cut off, then the
    /// disk, then one transaction for all that is let go, one reading back, and the audit log.
    pub(in crate::agent) fn carry_out(&mut self, now: Now) {
        let pending = std::mem::take(&mut self.pending);
        if pending.enforce {
            self.write_rules(&pending.released, now);
        }
        if pending.persist || self.unsaved {
            self.persist();
        }
        if !pending.released.is_empty() {
            self.write_rules(&NOBODY, now);
        }
        if pending.enforce || !pending.released.is_empty() {
            self.read_back(Counters::OfLate(now.monotonic));
        }
        if self.unsaved {
            self.persist();
        }
        for entry in pending.notes {
            self.note(entry, now);
        }
    }
}
