//! The state machine: which causes hold, and what every event changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::alarm::Waiting;
use super::cause::{Cause, CauseKey, Posture, ShadowRef};
use super::clock::Clock;
use super::decision::{Bound, Decision, Hold, Verdict};
use super::event::{AuditEntry, Effect, Event};
use super::rails::EdgeCap;
use super::stored::{SCHEMA, Stored, ThingState};
use crate::model::{Monotonic, Now, ThingName, UnixTime};

/// Bound on things with state: a flood of shadow messages cannot grow it without end (local things are far fewer).
pub(super) const MOST_THINGS: usize = 20_000;

/// Everything that holds about quarantine.
#[derive(Debug, Clone, PartialEq)]
pub struct Quarantine {
    pub(super) things: BTreeMap<ThingName, ThingState>,
    /// When an alarm last cut each thing off, within the last hour. One that flaps counts once, so it cannot use up
    /// the cap for all others.
    pub(super) edge_cuts: BTreeMap<ThingName, UnixTime>,
    /// Alarms that wait for room under the cap, the first first.
    pub(super) waiting: Vec<Waiting>,
    /// Something ended since they were last looked at.
    pub(super) room: bool,
    /// What ends by itself, soonest first.
    ends: BTreeSet<(UnixTime, ThingName, CauseKey)>,
    pub(super) clock: Clock,
    pub(super) default_posture: Posture,
    pub(super) edge_cap: EdgeCap,
    /// The last sweep for room found none, and nothing ended since.
    full: bool,
}

impl Quarantine {
    /// Begin with what was stored, or with nobody. `boot` names this boot (`/proc/sys/kernel/random/boot_id`): within
    /// one boot the monotonic clock tells how long the restart took, whatever the wall clock says; so write
    /// [`Quarantine::stored`] once after every start.
    #[must_use]
    pub fn new(stored: Option<Stored>, default_posture: Posture, edge_cap: EdgeCap, boot: &str, now: Now) -> Self {
        let stored = stored.unwrap_or_else(Stored::nobody);
        let clock = Clock::start(boot, stored.clock.as_ref(), now);
        let ends = stored
            .things
            .iter()
            .flat_map(|(thing, state)| {
                let ends = |(key, cause): (&CauseKey, &Cause)| Some((cause.until?, thing.clone(), key.clone()));
                state.causes.iter().filter_map(ends)
            })
            .collect();
        let present = clock.time();
        let edge_cuts = stored
            .edge_cuts
            .into_iter()
            .map(|(thing, cut)| (thing, cut.min(present)));
        Self {
            things: stored.things,
            edge_cuts: edge_cuts.collect(),
            waiting: stored.waiting,
            room: true,
            ends,
            clock,
            default_posture,
            edge_cap,
            full: false,
        }
    }

    /// The configuration changed. Causes already in force stay, with the posture they began with: those of a shadow no
    /// longer read too, until the operator ends them.
    pub fn reconfigure(&mut self, default_posture: Posture, edge_cap: EdgeCap) {
        self.default_posture = default_posture;
        self.edge_cap = edge_cap;
        self.room = true;
    }

    /// What to write to disk.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            schema_version: self.schema(),
            clock: Some(self.clock.saved()),
            things: self.things.clone(),
            edge_cuts: self.edge_cuts.clone(),
            waiting: self.waiting.clone(),
        }
    }

    /// The oldest layout that holds the state.
    fn schema(&self) -> u32 {
        if self.things.values().any(|state| !state.addresses.is_empty()) {
            return SCHEMA;
        }
        let mut causes = self.things.values().flat_map(|state| state.causes.values());
        if self.waiting.is_empty() && causes.all(|cause| cause.who.is_none()) {
            1
        } else {
            2
        }
    }

    /// The causes in force, of every thing that has any.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<ThingName, BTreeMap<CauseKey, Cause>> {
        let held = |(thing, state): (&ThingName, &ThingState)| {
            (!state.causes.is_empty()).then(|| (thing.clone(), state.causes.clone()))
        };
        self.things.iter().filter_map(held).collect()
    }

    /// The causes in force of one thing, if it has any.
    #[must_use]
    pub fn causes_of(&self, thing: &ThingName) -> Option<&BTreeMap<CauseKey, Cause>> {
        let causes = &self.things.get(thing)?.causes;
        (!causes.is_empty()).then_some(causes)
    }

    /// Whether no cause is in force for anybody.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.things.values().all(|state| state.causes.is_empty())
    }

    /// What things are cut off by already, for [`super::decide`].
    #[must_use]
    pub fn bound(&self) -> Bound {
        let bound = |(thing, state): (&ThingName, &ThingState)| {
            let hold = || Hold {
                macs: state.bound.clone(),
                addresses: state.addresses.clone(),
            };
            (!state.bound.is_empty()).then(|| (thing.clone(), hold()))
        };
        self.things.iter().filter_map(bound).collect()
    }

    /// Remember the addresses a decision cuts (to be called with every decision that is enforced). True when that
    /// is news and [`Quarantine::stored`] should be written.
    pub fn bind(&mut self, decision: &Decision) -> bool {
        let mut news = false;
        for (thing, verdict) in decision {
            let (Verdict::Cut(subject), Some(state)) = (verdict, self.things.get_mut(thing)) else {
                continue;
            };
            if !state.causes.is_empty() && (state.bound != subject.macs || state.addresses != subject.learnt) {
                state.bound.clone_from(&subject.macs);
                state.addresses.clone_from(&subject.learnt);
                news = true;
            }
        }
        news
    }

    /// Forget what shadows of things said that are not behind this gateway (any more) and that nothing quarantines.
    /// True when that is news and [`Quarantine::stored`] should be written.
    pub fn retain(&mut self, local: impl Fn(&ThingName) -> bool) -> bool {
        let before = self.things.len();
        self.things
            .retain(|thing, state| !state.causes.is_empty() || local(thing));
        self.full &= self.things.len() == before;
        self.things.len() != before
    }

    /// What was wrong with the `desired.quarantine` last heard from this shadow, if anything was.
    #[must_use]
    pub fn shadow_failure(&self, thing: &ThingName, shadow: &ShadowRef) -> Option<&str> {
        self.things.get(thing)?.heard.get(shadow)?.failure.as_deref()
    }

    /// Whether this shadow ever spoke of quarantine: only such documents are answered.
    #[must_use]
    pub fn has_spoken(&self, thing: &ThingName, shadow: &ShadowRef) -> bool {
        self.things
            .get(thing)
            .is_some_and(|state| state.heard.contains_key(shadow))
    }

    /// When to send the next [`Event::Tick`] at the latest, if anything ends by itself or waits for something to end.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Monotonic> {
        let ends = self.ends.first().map(|(until, ..)| self.clock.look_at(*until));
        [ends, self.next_retry()].into_iter().flatten().min()
    }

    /// How long until `until` by the more cautious of both clocks: for the kernel's own timeouts.
    #[must_use]
    pub fn left(&self, until: UnixTime) -> Duration {
        self.clock.left(until)
    }

    /// Let one event change the state; the effects are to be carried out in order.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        self.clock.look(now);
        match event {
            Event::Shadow { thing, shadow, reading } => self.hear(thing, &shadow, reading, now),
            Event::Alarm(alarm) => self.alarm(alarm, now),
            Event::AlarmCleared {
                thing,
                profile,
                behavior,
                silenced,
            } => self.alarm_cleared(&thing, &CauseKey::Edge { profile, behavior }, silenced, now),
            Event::OperatorAdd {
                thing,
                posture,
                until,
                reason,
                who,
            } => {
                if until.is_some_and(|until| self.clock.is_past(until)) {
                    return vec![self.note(&thing, who, "not quarantined: the end given is in the past", now)];
                }
                let posture = posture.unwrap_or(self.default_posture);
                let cause = Cause {
                    posture,
                    since: self.clock.latest(),
                    until,
                    reason,
                    who: Some(who.clone()),
                    violation_id: None,
                    release_when_cleared: false,
                };
                self.begin(&thing, CauseKey::Operator, cause, who, now)
            }
            Event::OperatorRelease { thing, who } => {
                // what waits would begin anew as soon as there is room
                let waited = self.stop_waiting(|waiting| *waiting.began().0 == thing);
                let effects = self.end(&thing, |_, _| true, who.clone(), "released by the operator", now);
                if effects.is_empty() && waited {
                    let why = "released by the operator: an alarm that waited for room is dropped";
                    return vec![self.note(&thing, who, why, now), Effect::Persist];
                }
                if effects.is_empty() {
                    return vec![self.note(&thing, who, "released by the operator: nothing was in force", now)];
                }
                effects
            }
            Event::Recovered { thing, posture, macs } => {
                if self.things.get(&thing).is_some_and(|state| !state.causes.is_empty()) {
                    return Vec::new(); // its causes explain the kernel's entries
                }
                let cause = Cause {
                    posture,
                    since: self.clock.latest(),
                    until: None,
                    reason: Some("found in the kernel without a stored cause".to_owned()),
                    who: None,
                    violation_id: None,
                    release_when_cleared: false,
                };
                self.things.entry(thing.clone()).or_default().bound = macs;
                self.begin(&thing, CauseKey::Recovered, cause, CauseKey::Recovered.to_string(), now)
            }
            Event::Tick => {
                let expired = self.expire(now);
                // one kind of change at a time: what may be cut off for it follows with the next tick
                if expired.is_empty() { self.retry(now) } else { expired }
            }
        }
    }

    /// Whether `thing` has state or may get some. Makes room by forgetting what demands nothing and holds nothing.
    pub(super) fn has_room_for(&mut self, thing: &ThingName) -> bool {
        if self.things.contains_key(thing) || self.things.len() < MOST_THINGS {
            return true;
        }
        if self.full {
            return false;
        }
        self.things
            .retain(|_, state| !state.causes.is_empty() || state.heard.values().any(|heard| heard.asked.is_demand()));
        self.full = self.things.len() >= MOST_THINGS;
        !self.full
    }

    /// Put a cause in force: the kernel first, then the disk, then the rest.
    pub(super) fn begin(
        &mut self,
        thing: &ThingName,
        key: CauseKey,
        cause: Cause,
        who: String,
        now: Now,
    ) -> Vec<Effect> {
        let before = self.labels(thing);
        let reason = cause
            .reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        let what = format!("quarantined ({}){reason}", cause.posture);
        let until = cause.until;
        let causes = &mut self.things.entry(thing.clone()).or_default().causes;
        let same = causes.get(&key) == Some(&cause);
        let old = causes.insert(key.clone(), cause);
        if same {
            return Vec::new();
        }
        if let Some(until) = old.and_then(|old| old.until) {
            self.ends.remove(&(until, thing.clone(), key.clone()));
        }
        if let Some(until) = until {
            self.ends.insert((until, thing.clone(), key));
        }
        let after = self.labels(thing);
        let entry = AuditEntry {
            time: now.wall,
            thing: thing.clone(),
            who,
            what,
            before,
            after,
        };
        vec![
            Effect::Enforce,
            Effect::Persist,
            Effect::Audit(entry),
            Effect::ReportShadow(thing.clone()),
        ]
    }

    /// End the causes `which` picks: the disk first, so that a crash in between leaves the thing cut off.
    pub(super) fn end(
        &mut self,
        thing: &ThingName,
        which: impl Fn(&CauseKey, &Cause) -> bool,
        who: String,
        what: &str,
        now: Now,
    ) -> Vec<Effect> {
        let before = self.labels(thing);
        let Some(state) = self.things.get_mut(thing) else {
            return Vec::new();
        };
        let ended: Vec<CauseKey> = state
            .causes
            .iter()
            .filter(|(key, cause)| which(key, cause))
            .map(|(key, _)| key.clone())
            .collect();
        if ended.is_empty() {
            return Vec::new();
        }
        for key in ended {
            let until = state.causes.remove(&key).and_then(|cause| cause.until);
            if let Some(until) = until {
                self.ends.remove(&(until, thing.clone(), key));
            }
        }
        if state.causes.is_empty() {
            state.bound.clear();
            state.addresses.clear();
            self.full = false;
        }
        self.room = true;
        let after = self.labels(thing);
        let what = what.to_owned();
        let entry = AuditEntry {
            time: now.wall,
            thing: thing.clone(),
            who,
            what,
            before,
            after,
        };
        vec![
            Effect::Persist,
            Effect::Enforce,
            Effect::Audit(entry),
            Effect::ReportShadow(thing.clone()),
        ]
    }

    fn expire(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((until, thing, key)) = self.ends.first().cloned() {
            if !self.clock.is_past(until) {
                break;
            }
            effects.extend(self.end(&thing, |k, _| *k == key, key.to_string(), "its time is over", now));
            self.ends.remove(&(until, thing, key));
        }
        effects
    }

    pub(super) fn labels(&self, thing: &ThingName) -> Vec<String> {
        self.things
            .get(thing)
            .map_or_else(Vec::new, |state| state.causes.keys().map(ToString::to_string).collect())
    }

    pub(super) fn note(&self, thing: &ThingName, who: String, what: impl Into<String>, now: Now) -> Effect {
        let causes = self.labels(thing);
        let (before, after) = (causes.clone(), causes);
        Effect::Audit(AuditEntry {
            time: now.wall,
            thing: thing.clone(),
            who,
            what: what.into(),
            before,
            after,
        })
    }
}
