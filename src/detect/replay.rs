//! Recorded samples, evaluated as if they came in now.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::assignment::Assignment;
use super::datapoint::{Datapoints, Now, Role, Subject};
use super::engine::Engine;
use super::event::{Alarm, Violation};
use crate::model::{Monotonic, ThingName, UnixTime};

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

impl Sample {
    fn now(&self) -> Now {
        Now {
            monotonic: Monotonic(Duration::from_millis(self.monotonic)),
            wall: self.time,
        }
    }
}

/// Evaluates recorded samples, in the order they were recorded. The same recording gives the same violation ids.
#[must_use]
pub fn replay(assignments: &[Assignment], samples: impl IntoIterator<Item = Sample>) -> Replayed {
    let mut events = Vec::new();
    let mut running: Option<(Engine, Now)> = None;
    for sample in samples {
        let now = sample.now();
        let (mut engine, before) = match running.take() {
            Some(running) => running,
            None => (Engine::new(assignments.to_vec(), None, 0, now).0, now),
        };
        if now.monotonic != before.monotonic {
            events.extend(engine.tick(before));
        }
        if now.monotonic < before.monotonic {
            let saved = engine.save(before);
            // ids stay apart: another boot, another seed
            let seed = u128::from(now.wall.0);
            let (resumed, more) = Engine::new(assignments.to_vec(), Some(saved), seed, now);
            engine = resumed;
            events.extend(more);
        }
        let subject = Subject {
            thing: &sample.thing,
            role: sample.role,
            cut_off: sample.cut_off,
        };
        events.extend(engine.observe(subject, &sample.datapoints, now));
        running = Some((engine, now));
    }
    let alarms = running.map_or_else(Vec::new, |(mut engine, now)| {
        events.extend(engine.tick(now));
        engine.alarms()
    });
    Replayed { events, alarms }
}
