//! The shadows' side: what each document is answered.

use std::collections::BTreeMap;

use crate::agent::shadows::{Place, Shadows};
use crate::model::Now;
use crate::quarantine::Standing;

use super::Warden;

impl Warden {
    /// Answers to the shadows whose documents are known: to be sent by `shadows`.
    pub(in crate::agent) fn tell(&mut self, shadows: &mut Shadows, now: Now) {
        let none = BTreeMap::new();
        for thing in std::mem::take(&mut self.to_tell) {
            for place in shadows.places_of(&thing) {
                let Some(reading) = self.readings.get(&place) else {
                    continue;
                };
                let standing = Standing {
                    causes: self.quarantine.causes_of(&thing).unwrap_or(&none),
                    verdict: self.decision.get(&thing),
                    enforced: self.enforced.get(&thing),
                    enforcement: self.enforcement,
                    is_core: thing == self.core,
                    has_spoken: self.quarantine.has_spoken(&thing, &place.1),
                    shadow_failure: self.quarantine.shadow_failure(&thing, &place.1),
                };
                if let Some(update) = self
                    .reporter
                    .answer(&thing, &place.1, reading, &standing, now.monotonic)
                {
                    shadows.send(place, update);
                }
            }
        }
    }

    /// An answer did not get out; the document is read again, and answered then.
    pub(in crate::agent) fn not_told(&mut self, (thing, shadow): &Place) {
        self.reporter.not_sent(thing, shadow);
    }

    /// Answer every document anew, where that is news.
    pub(super) fn tell_all(&mut self) {
        self.to_tell
            .extend(self.readings.keys().map(|(thing, _)| thing.clone()));
        self.to_tell.extend(self.decision.keys().cloned());
    }
}
