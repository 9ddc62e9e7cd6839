//! What alarms of security profiles may do, and how many of them.

use super::cause::{Cause, CauseKey};
use super::event::Effect;
use super::state::{MOST_THINGS, Quarantine};
use super::stored::ThingState;
use crate::model::{Now, ThingName};

/// The window of the cap, milliseconds.
const HOUR: u64 = 3_600_000;

/// What to do about an alarm.
enum Ruling {
    /// Quarantine.
    Act,
    /// This very violation holds the thing already.
    Known,
    /// Leave it, and say why.
    Refuse(String),
}

impl Quarantine {
    #[allow(clippy::too_many_arguments, reason = "the fields of Event::Alarm, taken apart once")]
    pub(super) fn alarm(
        &mut self,
        thing: &ThingName,
        key: CauseKey,
        violation_id: String,
        release_when_cleared: bool,
        trusted: bool,
        known: usize,
        now: Now,
    ) -> Vec<Effect> {
        let who = key.to_string();
        match self.rule(thing, &key, &violation_id, trusted, known) {
            Ruling::Known => return Vec::new(),
            Ruling::Refuse(why) => {
                return vec![self.note(thing, who, format!("alarm not acted on: {why}"), now)];
            }
            Ruling::Act => {}
        }
        let cause = Cause {
            posture: self.default_posture,
            since: self.clock.latest(),
            until: None,
            reason: None,
            violation_id: Some(violation_id),
            release_when_cleared,
        };
        if !self.things.get(thing).is_some_and(by_alarm) {
            self.edge_cuts.insert(thing.clone(), self.clock.time());
        }
        self.begin(thing, key, cause, who, now)
    }

    pub(super) fn alarm_cleared(&mut self, thing: &ThingName, key: &CauseKey, silenced: bool, now: Now) -> Vec<Effect> {
        let cause = self.things.get(thing).and_then(|state| state.causes.get(key));
        if !cause.is_some_and(|cause| cause.release_when_cleared) {
            return Vec::new();
        }
        if silenced {
            let why = "alarm cleared, but only because the thing is cut off: not released";
            return vec![self.note(thing, key.to_string(), why, now)];
        }
        self.end(thing, |k, _| k == key, key.to_string(), "alarm cleared", now)
    }

    fn rule(&mut self, thing: &ThingName, key: &CauseKey, violation_id: &str, trusted: bool, known: usize) -> Ruling {
        let state = self.things.get(thing);
        if let Some(cause) = state.and_then(|state| state.causes.get(key)) {
            // another violation of the same behavior: what was written before it does not end it
            let same = cause.violation_id.as_deref() == Some(violation_id);
            return if same { Ruling::Known } else { Ruling::Act };
        }
        if !trusted {
            return Ruling::Refuse("the thing's identity is not certain enough".to_owned());
        }
        if state.is_some_and(by_alarm) {
            return Ruling::Act; // one thing counts once, whatever it violates
        }
        if !self.has_room_for(thing) {
            return Ruling::Refuse(format!("{MOST_THINGS} things have state already"));
        }
        let present = self.clock.time();
        self.edge_cuts.retain(|_, cut| present.0.saturating_sub(cut.0) < HOUR);
        let cap = self.edge_cap.of(known);
        let held = self.things.values().filter(|state| by_alarm(state)).count();
        if held >= cap {
            return Ruling::Refuse(format!("{held} things are quarantined by alarms, the most is {cap}"));
        }
        if !self.edge_cuts.contains_key(thing) && self.edge_cuts.len() >= cap {
            return Ruling::Refuse(format!("alarms cut off {cap} things within the last hour, the most"));
        }
        Ruling::Act
    }
}

fn by_alarm(state: &ThingState) -> bool {
    state.causes.keys().any(|key| matches!(key, CauseKey::Edge { .. }))
}
