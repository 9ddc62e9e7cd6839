//! The state machine: which causes hold, and what every event changes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::{Cause, CauseKey, Posture, ShadowRef};
use super::rails::EdgeCap;
use super::shadow::{DesiredQuarantine, ShadowReading};
use crate::model::{Monotonic, ThingName, UnixTime};

/// The layout of [`Stored`]; a file of a newer one is refused rather than half understood.
pub(super) const SCHEMA: u32 = 1;
/// Bound on things with state: a flood of shadow messages cannot grow it without end (local things are far fewer).
const MOST_THINGS: usize = 20_000;
/// The window of the edge cap.
const HOUR: Duration = Duration::from_secs(3600);

/// Both clocks at one instant. Expiry needs both to agree, so a wall clock that jumps ahead releases nobody early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Never goes back.
    pub monotonic: Monotonic,
    /// May jump.
    pub wall: UnixTime,
}

/// Something that may change who is quarantined.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A shadow document was read.
    Shadow {
        /// Whose.
        thing: ThingName,
        /// Which.
        shadow: ShadowRef,
        /// What it says.
        reading: ShadowReading,
    },
    /// A security profile with `onAlarm: quarantine` went into alarm.
    Alarm {
        /// About whom.
        thing: ThingName,
        /// The profile.
        profile: String,
        /// The behavior.
        behavior: String,
        /// The violation.
        violation_id: String,
        /// Whether clearing releases.
        release_when_cleared: bool,
        /// Whether the thing's identity is good enough to act on.
        trusted: bool,
        /// How many devices are known, for the cap.
        known: usize,
    },
    /// That alarm cleared.
    AlarmCleared {
        /// About whom.
        thing: ThingName,
        /// The profile.
        profile: String,
        /// The behavior.
        behavior: String,
    },
    /// The operator asks for it.
    OperatorAdd {
        /// Whom.
        thing: ThingName,
        /// How hard; `None` as configured.
        posture: Option<Posture>,
        /// Until when; `None` until released.
        until: Option<UnixTime>,
        /// Why, in the operator's words.
        reason: Option<String>,
        /// Who (user name or uid of the asking process).
        who: String,
    },
    /// The operator ends every cause.
    OperatorRelease {
        /// Of whom.
        thing: ThingName,
        /// Who (user name or uid of the asking process).
        who: String,
    },
    /// The kernel holds entries for a thing that no stored cause explains.
    Recovered {
        /// For whom.
        thing: ThingName,
    },
    /// Time passed.
    Tick,
}

/// What the agent must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make the kernel follow the causes as they are now.
    Enforce,
    /// Write [`Quarantine::stored`] to disk.
    Persist,
    /// Tell the shadows of this thing how things stand.
    ReportShadow(ThingName),
    /// Append to the audit log.
    Audit(AuditEntry),
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// When, by the wall clock (milliseconds since 1970).
    pub time: UnixTime,
    /// About whom.
    pub thing: ThingName,
    /// Who or what caused it: a cause, or the operator's name.
    pub who: String,
    /// What happened, in words.
    pub what: String,
    /// The causes in force before.
    pub before: Vec<String>,
    /// The causes in force after.
    pub after: Vec<String>,
}

/// The last thing a shadow document said, to tell news from echoes and replays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Heard {
    version: u64,
    written: UnixTime,
    /// `desired.quarantine` as it stood; `None` when the key was not there.
    #[serde(default)]
    value: Option<serde_json::Value>,
    /// What was wrong with it, for `quarantineStatus.failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ThingState {
    #[serde(default, with = "pairs")]
    causes: BTreeMap<CauseKey, Cause>,
    #[serde(default, with = "pairs")]
    heard: BTreeMap<ShadowRef, Heard>,
}

/// What is written to disk, with everything a restart needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stored {
    /// [`SCHEMA`].
    pub schema_version: u32,
    things: BTreeMap<ThingName, ThingState>,
    /// When alarms cut things off within the last hour (wall clock).
    #[serde(default)]
    edge_cuts: VecDeque<UnixTime>,
}

/// Everything that holds about quarantine.
#[derive(Debug, Clone, PartialEq)]
pub struct Quarantine {
    things: BTreeMap<ThingName, ThingState>,
    edge_cuts: VecDeque<UnixTime>,
    /// When each expiring cause may end on the monotonic clock.
    deadlines: BTreeMap<(ThingName, CauseKey), Monotonic>,
    default_posture: Posture,
    edge_cap: EdgeCap,
}

impl Quarantine {
    /// Begin with what was stored, or with nobody.
    #[must_use]
    pub fn new(stored: Option<Stored>, default_posture: Posture, edge_cap: EdgeCap, now: Now) -> Self {
        let (things, edge_cuts) = stored.map_or_else(Default::default, |stored| (stored.things, stored.edge_cuts));
        let mut quarantine = Self {
            things,
            edge_cuts,
            deadlines: BTreeMap::new(),
            default_posture,
            edge_cap,
        };
        let expiring: Vec<_> = quarantine
            .things
            .iter()
            .flat_map(|(thing, state)| {
                state
                    .causes
                    .iter()
                    .filter_map(move |(key, cause)| Some((thing.clone(), key.clone(), cause.until?)))
            })
            .collect();
        for (thing, key, until) in expiring {
            quarantine.set_deadline(&thing, &key, Some(until), now);
        }
        quarantine
    }

    /// The configuration changed. Causes already in force keep the posture they began with.
    pub fn reconfigure(&mut self, default_posture: Posture, edge_cap: EdgeCap) {
        self.default_posture = default_posture;
        self.edge_cap = edge_cap;
    }

    /// What to write to disk.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            schema_version: SCHEMA,
            things: self.things.clone(),
            edge_cuts: self.edge_cuts.clone(),
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

    /// What was wrong with the `desired.quarantine` last heard from this shadow, if anything was.
    #[must_use]
    pub fn shadow_failure(&self, thing: &ThingName, shadow: &ShadowRef) -> Option<&str> {
        self.things.get(thing)?.heard.get(shadow)?.failure.as_deref()
    }

    /// The earliest instant at which [`Event::Tick`] may change something.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Monotonic> {
        self.deadlines.values().min().copied()
    }

    /// Let one event change the state; the effects are to be carried out in order.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::Shadow { thing, shadow, reading } => self.hear(thing, shadow, reading, now),
            Event::Alarm {
                thing,
                profile,
                behavior,
                violation_id,
                release_when_cleared,
                trusted,
                known,
            } => {
                let key = CauseKey::Edge { profile, behavior };
                if let Some(why) = self.edge_refusal(&thing, &key, trusted, known, now) {
                    return vec![self.note(&thing, key.to_string(), why, now)];
                }
                let cause = Cause {
                    posture: self.default_posture,
                    since: now.wall,
                    until: None,
                    reason: None,
                    violation_id: Some(violation_id),
                    release_when_cleared,
                };
                if !self
                    .things
                    .get(&thing)
                    .is_some_and(|state| state.causes.contains_key(&key))
                {
                    self.edge_cuts.push_back(now.wall);
                }
                let who = key.to_string();
                self.begin(&thing, key, cause, who, now)
            }
            Event::AlarmCleared {
                thing,
                profile,
                behavior,
            } => {
                let key = CauseKey::Edge { profile, behavior };
                let ends = self
                    .things
                    .get(&thing)
                    .and_then(|state| state.causes.get(&key))
                    .is_some_and(|cause| cause.release_when_cleared);
                if ends {
                    self.end(&thing, |k, _| *k == key, key.to_string(), "alarm cleared", now)
                } else {
                    Vec::new()
                }
            }
            Event::OperatorAdd {
                thing,
                posture,
                until,
                reason,
                who,
            } => {
                if until.is_some_and(|until| until <= now.wall) {
                    return vec![self.note(&thing, who, "operator: the end given is in the past", now)];
                }
                let posture = posture.unwrap_or(self.default_posture);
                let cause = Cause {
                    posture,
                    since: now.wall,
                    until,
                    reason,
                    violation_id: None,
                    release_when_cleared: false,
                };
                self.begin(&thing, CauseKey::Operator, cause, who, now)
            }
            Event::OperatorRelease { thing, who } => {
                self.end(&thing, |_, _| true, who, "released by the operator", now)
            }
            Event::Recovered { thing } => {
                let cause = Cause {
                    posture: self.default_posture,
                    since: now.wall,
                    until: None,
                    reason: Some("found in the kernel without a stored cause".to_owned()),
                    violation_id: None,
                    release_when_cleared: false,
                };
                self.begin(&thing, CauseKey::Recovered, cause, CauseKey::Recovered.to_string(), now)
            }
            Event::Tick => self.expire(now),
        }
    }

    fn hear(&mut self, thing: ThingName, shadow: ShadowRef, reading: ShadowReading, now: Now) -> Vec<Effect> {
        let ShadowReading::Present {
            version,
            desired,
            written,
            desired_value,
            ..
        } = reading
        else {
            return Vec::new();
        };
        let heard = self.things.get(&thing).and_then(|state| state.heard.get(&shadow));
        if heard.is_none() && desired_value.is_none() {
            return Vec::new(); // a shadow that never spoke of quarantine: nothing to remember
        }
        if heard.is_none() && !self.things.contains_key(&thing) && self.things.len() >= MOST_THINGS {
            return Vec::new();
        }
        let news = match heard {
            None => true,
            // a newer version is news when it says something else, or says the same once more, later; our own
            // `reported` update gives a newer version too, and is neither
            Some(last) if version > last.version => last.value != desired_value || written > last.written,
            // an older version is a replay, unless the document was deleted and written anew since
            Some(last) => version < last.version && written > last.written,
        };
        let newer = heard.is_none_or(|last| version > last.version) || news;
        let failure = match &desired {
            DesiredQuarantine::Invalid(why) => Some(why.clone()),
            DesiredQuarantine::Quarantine { until: Some(until), .. } if *until <= now.wall => {
                Some("desired.quarantine.until is in the past".to_owned())
            }
            _ => None,
        };
        if newer {
            let written = if desired_value.is_none() {
                written.max(heard.map_or(UnixTime(0), |h| h.written))
            } else {
                written
            };
            let entry = Heard {
                version,
                written,
                value: desired_value,
                failure: failure.clone(),
            };
            self.things
                .entry(thing.clone())
                .or_default()
                .heard
                .insert(shadow.clone(), entry);
        }
        if !news {
            return Vec::new();
        }
        let key = CauseKey::Shadow(shadow.clone());
        let who = key.to_string();
        let mut effects = match (desired, failure) {
            (DesiredQuarantine::Invalid(_), failure) => {
                vec![
                    self.note(&thing, who, failure.unwrap_or_default(), now),
                    Effect::Persist,
                ]
            }
            // an end in the past is an end: whatever this shadow asked before is over
            (DesiredQuarantine::Quarantine { .. }, Some(failure)) => {
                let mut effects = self.end(&thing, |k, _| *k == key, who.clone(), &failure, now);
                if effects.is_empty() {
                    effects = vec![self.note(&thing, who, failure, now), Effect::Persist];
                }
                effects
            }
            (DesiredQuarantine::Quarantine { posture, until, reason }, None) => {
                let posture = posture.unwrap_or(self.default_posture);
                let cause = Cause {
                    posture,
                    since: written,
                    until,
                    reason,
                    violation_id: None,
                    release_when_cleared: false,
                };
                self.begin(&thing, key, cause, who, now)
            }
            (DesiredQuarantine::Release | DesiredQuarantine::Absent, _) => {
                // The named shadow is closed to devices, so its `false` may also end what alarms began before it.
                let closed = matches!(shadow, ShadowRef::Named(_));
                let ends = |k: &CauseKey, cause: &Cause| {
                    *k == key || (closed && matches!(k, CauseKey::Edge { .. }) && cause.since <= written)
                };
                let effects = self.end(&thing, ends, who, "released by the shadow", now);
                if effects.is_empty() {
                    vec![Effect::Persist]
                } else {
                    effects
                }
            }
        };
        if !effects.contains(&Effect::ReportShadow(thing.clone())) {
            effects.push(Effect::ReportShadow(thing));
        }
        effects
    }

    fn edge_refusal(
        &mut self,
        thing: &ThingName,
        key: &CauseKey,
        trusted: bool,
        known: usize,
        now: Now,
    ) -> Option<String> {
        let is_edge = |state: &ThingState| state.causes.keys().any(|key| matches!(key, CauseKey::Edge { .. }));
        if self
            .things
            .get(thing)
            .is_some_and(|state| state.causes.contains_key(key))
        {
            return None; // already counted
        }
        if !trusted {
            return Some("alarm not acted on: the thing's identity is not certain enough".to_owned());
        }
        let window = u64::try_from(HOUR.as_millis()).unwrap_or(u64::MAX);
        // entries from the future are from before the clock was set back: they count
        self.edge_cuts.retain(|cut| now.wall.0.saturating_sub(cut.0) < window);
        let cap = self.edge_cap.of(known);
        let held = self.things.values().filter(|state| is_edge(state)).count();
        let already_held = self.things.get(thing).is_some_and(is_edge);
        if !already_held && held >= cap {
            return Some(format!(
                "alarm not acted on: {held} things are quarantined by alarms, the most is {cap}"
            ));
        }
        if self.edge_cuts.len() >= cap {
            return Some(format!(
                "alarm not acted on: alarms cut off {cap} things within the last hour, the most"
            ));
        }
        None
    }

    /// Put a cause in force: the kernel first, then the disk, then the rest.
    fn begin(&mut self, thing: &ThingName, key: CauseKey, cause: Cause, who: String, now: Now) -> Vec<Effect> {
        let before = self.labels(thing);
        self.set_deadline(thing, &key, cause.until, now);
        let what = format!("quarantined ({})", cause.posture);
        let old = self
            .things
            .entry(thing.clone())
            .or_default()
            .causes
            .insert(key, cause.clone());
        if old.as_ref() == Some(&cause) {
            return Vec::new();
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
    fn end(
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
            state.causes.remove(&key);
            self.deadlines.remove(&(thing.clone(), key));
        }
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
        let due: Vec<(ThingName, CauseKey)> = self
            .deadlines
            .iter()
            .filter(|(_, deadline)| **deadline <= now.monotonic)
            .map(|(key, _)| key.clone())
            .collect();
        let mut effects = Vec::new();
        for (thing, key) in due {
            let until = self
                .things
                .get(&thing)
                .and_then(|state| state.causes.get(&key))
                .and_then(|cause| cause.until);
            match until {
                Some(until) if until > now.wall => {
                    // the wall clock was set back meanwhile; it has to get there too
                    self.set_deadline(&thing, &key, Some(until), now);
                }
                _ => effects.extend(self.end(&thing, |k, _| *k == key, key.to_string(), "its time is over", now)),
            }
        }
        effects
    }

    fn set_deadline(&mut self, thing: &ThingName, key: &CauseKey, until: Option<UnixTime>, now: Now) {
        let place = (thing.clone(), key.clone());
        match until {
            Some(until) => {
                let wait = Duration::from_millis(until.0.saturating_sub(now.wall.0));
                self.deadlines.insert(place, now.monotonic.after(wait));
            }
            None => {
                self.deadlines.remove(&place);
            }
        }
    }

    fn labels(&self, thing: &ThingName) -> Vec<String> {
        self.things
            .get(thing)
            .map_or_else(Vec::new, |state| state.causes.keys().map(ToString::to_string).collect())
    }

    fn note(&self, thing: &ThingName, who: String, what: impl Into<String>, now: Now) -> Effect {
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

/// JSON objects have text keys only; these maps are stored as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K: DeserializeOwned + Ord, V: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
