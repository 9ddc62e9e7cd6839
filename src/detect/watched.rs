//! One thing: its behaviors and its windows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::course::{Course, Open};
use super::datapoint::{Datapoints, Role, Value};
use super::judge;
use super::rule::{Rule, WindowKey};
use super::window::Window;
use crate::model::{Monotonic, ThingName};

/// Silence after which an alarm is invalid: two days (developer guide, "Detect concepts").
const SILENCE: Duration = Duration::from_hours(48);

/// One thing.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) role: Role,
    pub(super) cut_off: bool,
    pub(super) courses: Vec<Course>,
    pub(super) windows: BTreeMap<usize, Window>,
}

impl Watched {
    pub(super) fn new(role: Role, courses: Vec<Course>) -> Self {
        Self {
            role,
            cut_off: false,
            courses,
            windows: BTreeMap::new(),
        }
    }

    /// How many bytes it takes under `name`.
    pub(super) fn bytes(&self, name: &ThingName) -> usize {
        let window = |window: &Window| size_of::<(usize, Window)>().saturating_add(window.heap_bytes());
        let open = |course: &Course| course.alarm.as_ref().map_or(0, |_| size_of::<Open>());
        let courses = self.courses.capacity().saturating_mul(size_of::<Course>());
        let alarms: usize = self.courses.iter().map(open).sum();
        let windows: usize = self.windows.values().map(window).sum();
        size_of::<(ThingName, Self)>() + name.as_str().len() + courses + alarms + windows
    }

    /// True when none of its metrics was measured for two days, and not because it is cut off.
    pub(super) fn is_gone(&self, at: u64) -> bool {
        let silent = |course: &Course| course.alarm.is_none() && is_silent(course, at);
        !self.cut_off && self.courses.iter().all(silent)
    }

    /// Adds this sample's deltas to the windows; which of them moved.
    pub(super) fn move_windows(
        &mut self,
        rules: &[Rule],
        keys: &[WindowKey],
        datapoints: &Datapoints,
        at: u64,
    ) -> BTreeSet<usize> {
        let mut moved = BTreeSet::new();
        let used: BTreeSet<usize> = self
            .courses
            .iter()
            .filter_map(|course| rules.get(course.rule))
            .map(|rule| rule.window)
            .collect();
        for index in used {
            let Some(key) = keys.get(index) else { continue };
            if self.cut_off && key.is_silenced_by_cut {
                self.windows.remove(&index);
                continue;
            }
            let value = datapoints.get(key.metric.name());
            let Some(Value::Delta { amount, over }) = value.filter(|value| judge::fits(value, &key.metric)) else {
                continue;
            };
            let start = at.saturating_sub(duration_millis(*over));
            let window = self.windows.entry(index).or_default();
            if window.push(start, at, *amount, key.duration) {
                moved.insert(index);
            }
        }
        moved
    }
}

/// True when its metric was not measured for two days.
pub(super) fn is_silent(course: &Course, at: u64) -> bool {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    u128::from(at.saturating_sub(course.heard).unsigned_abs()) > SILENCE.as_millis()
}

pub(super) fn millis(at: Monotonic) -> u64 {
    duration_millis(at.0)
}

fn duration_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
