//! What survives a restart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::course::Open;
use super::datapoint::{Now, Role};
use super::engine::Engine;
use super::event::{Alarm, Violation};
use super::rule::Rule;
use super::turn::{MOST_RECENT, invalidated};
use super::watched::millis;
use crate::model::ThingName;

/// The schema written and read.
const SCHEMA: u64 = 1;

/// The state of an [`Engine`] at rest: alarms, runs of violating datapoints, alarms that ended lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Saved {
    schema: u64,
    things: BTreeMap<ThingName, SavedThing>,
    recent: Vec<Alarm>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SavedThing {
    role: Role,
    behaviors: Vec<SavedBehavior>,
}

/// One behavior of one thing, if there is anything to say about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SavedBehavior {
    pub(super) profile: String,
    pub(super) behavior: String,
    /// Tells a behavior that was changed from one that is the same.
    fingerprint: u64,
    run: u8,
    violating: bool,
    quiet_millis: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) suppressed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) alarm: Option<Open>,
    /// The behavior as events repeat it, with an alarm: it may be gone from the profile when the alarm ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) document: Option<Json>,
}

/// Why saved state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is no JSON of ours.
    #[error("saved alarms: malformed")]
    Malformed(#[source] serde_json::Error),
    /// Another version wrote it.
    #[error("saved alarms: schema {found}, this version reads {SCHEMA}")]
    Schema {
        /// What it says.
        found: u64,
    },
}

impl Saved {
    /// Reads what [`Saved::to_json`] wrote.
    ///
    /// # Errors
    /// When it is malformed, or of another schema.
    pub fn from_json(text: &str) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u64,
        }
        let Schema { schema: found } = serde_json::from_str(text).map_err(LoadError::Malformed)?;
        if found != SCHEMA {
            return Err(LoadError::Schema { found });
        }
        serde_json::from_str(text).map_err(LoadError::Malformed)
    }

    /// As one JSON document with a schema number.
    ///
    /// # Errors
    /// Never for state an engine gave: no map of it has a key that is no text.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

impl Engine {
    /// What has to survive a restart. Changes only with an event, a run of violating datapoints or the latest value of an
    /// alarm.
    #[must_use]
    pub fn save(&self, now: Now) -> Saved {
        let at = i64::try_from(millis(now.monotonic)).unwrap_or(i64::MAX);
        let mut things = BTreeMap::new();
        for (thing, watched) in &self.things {
            let courses = watched.courses.iter().filter_map(|course| {
                let rule = self.rules.get(course.rule)?;
                let is_worth_it = course.alarm.is_some() || (course.violating && course.run > 0);
                let alarm = course.alarm.as_deref().cloned();
                is_worth_it.then(|| SavedBehavior {
                    profile: rule.profile.clone(),
                    behavior: rule.behavior.name.clone(),
                    fingerprint: rule.fingerprint,
                    run: course.run,
                    violating: course.violating,
                    quiet_millis: at.saturating_sub(course.heard).max(0).unsigned_abs(),
                    suppressed: rule.behavior.suppress_alerts,
                    document: alarm.as_ref().map(|_| Json::clone(&rule.behavior.document)),
                    alarm,
                })
            });
            let behaviors: Vec<SavedBehavior> = courses.collect();
            if !behaviors.is_empty() {
                let role = watched.role;
                things.insert(thing.clone(), SavedThing { role, behaviors });
            }
        }
        Saved {
            schema: SCHEMA,
            things,
            recent: self.recent.iter().cloned().collect(),
        }
    }

    /// Takes over what still has a behavior; the alarms of what has none are invalidated.
    pub(super) fn restore(&mut self, saved: Saved, now: Now) -> Vec<Violation> {
        let at = millis(now.monotonic);
        let skipped = saved.recent.len().saturating_sub(MOST_RECENT);
        self.recent = saved.recent.into_iter().skip(skipped).collect();
        let mut events = Vec::new();
        for (thing, saved) in saved.things {
            self.watch(&thing, saved.role, at, true);
            for behavior in saved.behaviors {
                if !self.resume(&thing, &behavior, at) {
                    events.extend(invalidated(&behavior, &thing, now, &mut self.recent));
                }
            }
        }
        events
    }

    /// False when the thing has no such behavior any more.
    fn resume(&mut self, thing: &ThingName, saved: &SavedBehavior, at: u64) -> bool {
        let is_it = |rule: &Rule| {
            rule.profile == saved.profile
                && rule.behavior.name == saved.behavior
                && rule.fingerprint == saved.fingerprint
        };
        let rule = self.rules.iter().position(is_it);
        let courses = self.things.get_mut(thing).map(|watched| &mut watched.courses);
        let mut courses = courses.into_iter().flatten();
        let Some(course) = courses.find(|course| Some(course.rule) == rule) else {
            return false;
        };
        course.run = saved.run.min(10);
        course.violating = saved.violating;
        // what was judged before the restart is not judged again: the next datapoint is a whole window from now
        course.last = Some((at, true));
        let quiet = i64::try_from(saved.quiet_millis).unwrap_or(i64::MAX);
        course.heard = i64::try_from(at).unwrap_or(i64::MAX).saturating_sub(quiet);
        course.alarm = saved.alarm.clone().map(Box::new);
        true
    }
}
