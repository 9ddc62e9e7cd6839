//! Recorded samples, evaluated as if they came in now.

use serde::{Deserialize, Serialize};

use super::assignment::Assignment;
use super::datapoint::{Datapoints, Now, Role, Subject};
use super::engine::{Alarm, Engine};
use super::event::Violation;
use crate::model::{ThingName, UnixTime};

/// One sample of one thing as a recording keeps it: one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sample {
    /// The wall clock, milliseconds since 1970.
    pub time: UnixTime,
    /// The monotonic clock in milliseconds. The lines of one sample have the same; one that is smaller than that of the
    /// line before is another boot.
    pub monotonic: u64,
    /// Whose.
    pub thing: ThingName,
    /// Core or local.
    pub role: Role,
    /// See [`Subject::cut_off`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
    /// What was measured.
    pub datapoints: Datapoints,
}

/// What would have happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Every event, in order.
    pub events: Vec<Violation>,
    /// The alarms at the end.
    pub alarms: Vec<Alarm>,
}

/// Evaluates recorded samples, in the order they were recorded.
#[must_use]
pub fn replay(assignments: &[Assignment], samples: impl IntoIterator<Item = Sample>) -> Replayed {
    let _ = (assignments, samples.into_iter().count());
    Replayed {
        events: Vec::new(),
        alarms: Vec::new(),
    }
}
#[allow(dead_code, reason = "API first")]
fn uses(_: Now, _: Subject<'_>, _: Engine) {}
