//! What detection asks of the quarantine, and what it may know of it.

use crate::model::{Now, ThingName};
use crate::quarantine::{Alarm, CauseKey, Effect, Enforcement, Event, Verdict};

use super::Warden;

impl Warden {
    /// Let an alarm quarantine a thing; the words when it may not, or not yet. What follows waits for
    /// [`Warden::carry_out`].
    pub(in crate::agent) fn alarm(&mut self, alarm: Alarm, now: Now) -> Option<String> {
        let effects = self.quarantine.step(Event::Alarm(alarm), now);
        let refused = effects.iter().find_map(|effect| match effect {
            Effect::Audit(entry) if entry.before == entry.after => Some(entry.what.clone()),
            _ => None,
        });
        self.pending.add(effects, &mut self.to_tell);
        refused
    }

    /// The things that are cut off.
    pub(in crate::agent) fn cut_off(&self) -> impl Iterator<Item = &ThingName> {
        let enforcing = self.enforcement == Enforcement::Enforce;
        let cut = self.decision.iter();
        cut.filter(move |(_, verdict)| enforcing && matches!(verdict, Verdict::Cut(_)))
            .map(|(thing, _)| thing)
    }

    /// How the quarantine an alarm asked for stands, in words; `None` when it asks for none any more.
    pub(in crate::agent) fn edge_standing(&self, thing: &ThingName, profile: &str, behavior: &str) -> Option<String> {
        let key = CauseKey::Edge {
            profile: profile.to_owned(),
            behavior: behavior.to_owned(),
        };
        if let Some((_, why)) = self.quarantine.waiting_of(thing).find(|(waiting, _)| **waiting == key) {
            return Some(format!("not quarantined yet: {why}"));
        }
        self.quarantine.causes_of(thing)?.get(&key)?;
        Some(match self.decision.get(thing)? {
            Verdict::Cut(_) if self.enforcement == Enforcement::Observe => {
                "quarantined, but enforcement is observe".to_owned()
            }
            Verdict::Cut(_) => "quarantined".to_owned(),
            Verdict::Refused(refusal) => format!("not quarantined: {refusal}"),
        })
    }
}
