//! What alarms of security profiles may do, and how many of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::{Cause, CauseKey};
use super::event::{Alarm, Effect};
use super::state::{MOST_THINGS, Quarantine};
use super::stored::ThingState;
use crate::model::{Monotonic, Now, ThingName, UnixTime};

/// The window of the cap, milliseconds.
const HOUR: u64 = 3_600_000;
/// Alarms that may wait for room under the cap.
const MOST_WAITING: usize = 1024;

/// An alarm that found no room under the cap. It is acted on as soon as there is some, first come first served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Waiting {
    thing: ThingName,
    key: CauseKey,
    /// When it began to wait (the later of our clocks).
    since: UnixTime,
    violation_id: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    release_when_cleared: bool,
    /// [`Alarm::lasts`], milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lasts: Option<u64>,
    /// [`Alarm::known`].
    known: usize,
    /// Why there was no room.
    why: String,
}

/// What to do about an alarm.
enum Ruling {
    /// Quarantine.
    Act,
    /// This very violation holds the thing already.
    Known,
    /// Leave it, and say why.
    Refuse(String),
    /// Leave it until there is room, and say why.
    Wait(String),
}

impl Quarantine {
    pub(super) fn alarm(&mut self, alarm: Alarm, now: Now) -> Vec<Effect> {
        let key = alarm.key();
        let who = key.to_string();
        match self.rule(&alarm.thing, &key, &alarm.violation_id, alarm.trusted, alarm.known) {
            Ruling::Known => Vec::new(),
            Ruling::Refuse(why) => vec![self.note(&alarm.thing, who, format!("alarm not acted on: {why}"), now)],
            Ruling::Wait(why) => self.wait(alarm, key, why, now),
            Ruling::Act => {
                self.stop_waiting(|waiting| waiting.thing == alarm.thing && waiting.key == key);
                self.act(
                    &alarm.thing,
                    key,
                    alarm.violation_id,
                    alarm.release_when_cleared,
                    alarm.lasts,
                    now,
                )
            }
        }
    }

    fn act(
        &mut self,
        thing: &ThingName,
        key: CauseKey,
        violation_id: String,
        release_when_cleared: bool,
        lasts: Option<Duration>,
        now: Now,
    ) -> Vec<Effect> {
        let cause = Cause {
            posture: self.default_posture,
            since: self.clock.latest(),
            until: lasts.map(|lasts| UnixTime(self.clock.time().0.saturating_add(millis(lasts)))),
            reason: None,
            who: None,
            violation_id: Some(violation_id),
            release_when_cleared,
        };
        if !self.things.get(thing).is_some_and(by_alarm) {
            self.edge_cuts.insert(thing.clone(), self.clock.time());
        }
        let who = key.to_string();
        self.begin(thing, key, cause, who, now)
    }

    /// Keep the alarm for when there is room.
    fn wait(&mut self, alarm: Alarm, key: CauseKey, why: String, now: Now) -> Vec<Effect> {
        let who = key.to_string();
        let same = |waiting: &&mut Waiting| waiting.thing == alarm.thing && waiting.key == key;
        if let Some(waiting) = self.waiting.iter_mut().find(same) {
            (waiting.known, waiting.release_when_cleared) = (alarm.known, alarm.release_when_cleared);
            waiting.lasts = alarm.lasts.map(millis);
            if waiting.violation_id == alarm.violation_id {
                return Vec::new();
            }
            waiting.violation_id = alarm.violation_id;
            return vec![Effect::Persist];
        }
        if self.waiting.len() >= MOST_WAITING {
            let why = format!("alarm not acted on: {why}, and {MOST_WAITING} alarms wait already");
            return vec![self.note(&alarm.thing, who, why, now)];
        }
        let said = format!("alarm not acted on yet: {why}; it is as soon as there is room");
        let note = self.note(&alarm.thing, who, said, now);
        self.waiting.push(Waiting {
            thing: alarm.thing,
            key,
            since: self.clock.latest(),
            violation_id: alarm.violation_id,
            release_when_cleared: alarm.release_when_cleared,
            lasts: alarm.lasts.map(millis),
            known: alarm.known,
            why,
        });
        vec![note, Effect::Persist]
    }

    /// These alarms wait no longer. True when there was one.
    pub(super) fn stop_waiting(&mut self, which: impl Fn(&Waiting) -> bool) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !which(waiting));
        self.waiting.len() != before
    }

    /// The alarms about `thing` that wait for room under the cap: the cause each would be, and why there was none.
    pub fn waiting_of<'a>(&'a self, thing: &'a ThingName) -> impl Iterator<Item = (&'a CauseKey, &'a str)> {
        let of_thing = self.waiting.iter().filter(move |waiting| waiting.thing == *thing);
        of_thing.map(|waiting| (&waiting.key, waiting.why.as_str()))
    }

    /// The things with alarms that wait for room under the cap.
    pub fn waiting(&self) -> impl Iterator<Item = &ThingName> {
        self.waiting.iter().map(|waiting| &waiting.thing)
    }

    /// Act on those alarms that wait for which there is room now.
    pub(super) fn retry(&mut self, now: Now) -> Vec<Effect> {
        self.room = false;
        let mut effects = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            match self.rule(&waiting.thing, &waiting.key, &waiting.violation_id, true, waiting.known) {
                Ruling::Act => {
                    let lasts = waiting.lasts.map(Duration::from_millis);
                    effects.extend(self.act(
                        &waiting.thing,
                        waiting.key,
                        waiting.violation_id,
                        waiting.release_when_cleared,
                        lasts,
                        now,
                    ));
                }
                Ruling::Wait(why) => {
                    waiting.why = why;
                    self.waiting.push(waiting);
                }
                Ruling::Known => {}
                Ruling::Refuse(why) => {
                    let why = format!("alarm not acted on: {why}");
                    effects.push(self.note(&waiting.thing, waiting.key.to_string(), why, now));
                }
            }
        }
        effects
    }

    /// When alarms that wait are worth another look: at once when something ended, or when the hour of a cut is over.
    pub(super) fn next_retry(&self) -> Option<Monotonic> {
        if self.waiting.is_empty() {
            return None;
        }
        let oldest = self.edge_cuts.values().min();
        let over = oldest.map(|cut| self.clock.reaches(UnixTime(cut.0.saturating_add(HOUR))));
        if self.room { Some(self.clock.seen()) } else { over }
    }

    pub(super) fn alarm_cleared(&mut self, thing: &ThingName, key: &CauseKey, silenced: bool, now: Now) -> Vec<Effect> {
        let waited = self.stop_waiting(|waiting| waiting.thing == *thing && waiting.key == *key);
        let cause = self.things.get(thing).and_then(|state| state.causes.get(key));
        if !cause.is_some_and(|cause| cause.release_when_cleared) {
            return if waited { vec![Effect::Persist] } else { Vec::new() };
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
        let alike = |other: &ThingName| is_device(other) == is_device(thing);
        let held = self
            .things
            .iter()
            .filter(|(other, state)| alike(other) && by_alarm(state));
        let held = held.count();
        if held >= cap {
            return Ruling::Wait(format!("{held} things are quarantined by alarms, the most is {cap}"));
        }
        let cut = self.edge_cuts.keys().filter(|other| alike(other)).count();
        if !self.edge_cuts.contains_key(thing) && cut >= cap {
            return Ruling::Wait(format!("alarms cut off {cap} things within the last hour, the most"));
        }
        Ruling::Act
    }
}

impl Waiting {
    /// About whom it is, and when it began to wait.
    pub(super) fn began(&self) -> (&ThingName, UnixTime) {
        (&self.thing, self.since)
    }
}

/// Devices nobody can name (`mac:02:aa:00:00:00:01`) and things have the cap each for themselves: made-up MAC addresses must
/// not use up the one that alarms about things need.
fn is_device(thing: &ThingName) -> bool {
    thing.as_str().starts_with("mac:")
}

fn by_alarm(state: &ThingState) -> bool {
    state.causes.keys().any(|key| matches!(key, CauseKey::Edge { .. }))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
