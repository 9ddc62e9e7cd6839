//! The state of every behavior of every thing.

use serde::Serialize;

use super::assignment::Assignment;
use super::datapoint::{Datapoints, Now, Role, Subject};
use super::event::{MetricValue, Violation};
use super::metric::Metric;
use super::stored::Saved;
use crate::model::{ThingName, UnixTime};

/// How an alarm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlarmState {
    /// It lasts.
    Active,
    /// It ended: the behavior is normal again.
    Cleared,
    /// It ended: nothing was measured for two days, or the behavior was changed or removed.
    Invalidated,
}

/// An alarm as `alarms` lists it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alarm {
    /// About whom.
    pub thing_name: ThingName,
    /// The security profile.
    pub security_profile_name: String,
    /// The behavior's name.
    pub behavior: String,
    /// The metric's name.
    pub metric: String,
    /// The violation.
    pub violation_id: String,
    /// How it stands.
    pub state: AlarmState,
    /// When it began.
    pub since: UnixTime,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// The last violating datapoint.
    pub last_value: MetricValue,
    /// When that was.
    pub last_violation: UnixTime,
    /// What it should have been, in words: `less-than 35000`; for a percentile with the number it was then.
    pub normal: String,
    /// The window in seconds, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<u32>,
    /// `suppressAlerts`
    pub suppressed: bool,
    /// True while our own quarantine keeps this alarm from being judged.
    pub held: bool,
}

/// Evaluates profiles over the datapoints of things. Feed it with [`Engine::observe`] for every known thing in every
/// sample (also with empty datapoints), then [`Engine::tick`] once, all with the same `now`.
#[derive(Debug)]
pub struct Engine {
    assignments: Vec<Assignment>,
}

impl Engine {
    /// An engine for `assignments`, going on from what [`Engine::save`] gave. Windows begin anew, alarms go on. Alarms of
    /// behaviors that were changed or removed since are invalidated, which gives events.
    ///
    /// `seed` makes violation ids unique among engines: a random number, new for each engine. Of two assignments with
    /// the same profile name only the first counts.
    #[must_use]
    pub fn new(assignments: Vec<Assignment>, saved: Option<Saved>, seed: u128, now: Now) -> (Self, Vec<Violation>) {
        let _ = (saved, seed, now);
        (Self { assignments }, Vec::new())
    }

    /// The metrics that are judged for this thing, so that only these need be measured.
    #[must_use]
    pub fn metrics(&self, thing: &ThingName, role: Role) -> Vec<Metric> {
        let _ = (thing, role, &self.assignments);
        Vec::new()
    }

    /// Judges one sample of one thing.
    pub fn observe(&mut self, subject: Subject<'_>, datapoints: &Datapoints, now: Now) -> Vec<Violation> {
        let _ = (subject, datapoints, now);
        Vec::new()
    }

    /// Judges what needs all things of a sample: percentiles and silence. Once per sample, after the last
    /// [`Engine::observe`] of it.
    pub fn tick(&mut self, now: Now) -> Vec<Violation> {
        let _ = now;
        Vec::new()
    }

    /// Active alarms, then those that ended lately, newest first.
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        Vec::new()
    }

    /// What has to survive a restart.
    #[must_use]
    pub fn save(&self) -> Saved {
        Saved {}
    }
}
