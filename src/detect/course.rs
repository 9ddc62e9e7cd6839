//! From verdicts to alarms: how one behavior of one thing goes on.

use serde::{Deserialize, Serialize};

use super::event::MetricValue;
use crate::model::UnixTime;

/// An alarm that lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Open {
    pub(super) violation_id: String,
    pub(super) since: UnixTime,
    pub(super) last_value: MetricValue,
    pub(super) last_violation: UnixTime,
    /// What a percentile was at the last violation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) threshold: Option<f64>,
}

/// A number that waits for the other things of its sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latest {
    pub(super) at: u64,
    pub(super) value: f64,
    /// A sum over the window, not a gauge.
    pub(super) is_sum: bool,
    /// Not judged yet.
    pub(super) is_new: bool,
}

/// One behavior of one thing. Times in milliseconds of the monotonic clock.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// Which rule of the engine.
    pub(super) rule: usize,
    /// How many datapoints in a row said the same as the last one, at most 10.
    pub(super) run: u8,
    /// What the last datapoint said.
    pub(super) violating: bool,
    /// When the last windowed datapoint was, and what it said.
    pub(super) last: Option<(u64, bool)>,
    /// When the metric was last measured. May lie before the clock's zero: silence goes on over a restart.
    pub(super) heard: i64,
    pub(super) latest: Option<Latest>,
    pub(super) alarm: Option<Box<Open>>,
}

/// What a datapoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Nothing,
    /// The alarm begins.
    Alarm,
    /// The alarm lasts, and this datapoint is its latest violation.
    Lasts,
    /// The alarm ends.
    Cleared,
}

impl Course {
    pub(super) fn new(rule: usize, now: u64) -> Self {
        Self {
            rule,
            run: 0,
            violating: false,
            last: None,
            heard: i64::try_from(now).unwrap_or(i64::MAX),
            latest: None,
            alarm: None,
        }
    }

    /// True when a verdict over a window that ends at `now` is a datapoint. Windows follow one another without overlap,
    /// except that a violation after a conforming window counts at once.
    pub(super) fn is_due(&self, now: u64, duration: u64, violates: bool) -> bool {
        match self.last {
            None => true,
            Some((_, false)) if violates => true,
            Some((at, _)) => now >= at.saturating_add(duration),
        }
    }

    /// Takes a datapoint.
    pub(super) fn take(&mut self, violates: bool, to_alarm: u8, to_clear: u8) -> Turn {
        self.run = if self.run > 0 && self.violating == violates {
            self.run.saturating_add(1).min(10)
        } else {
            1
        };
        self.violating = violates;
        match (self.alarm.is_some(), violates) {
            (true, true) => Turn::Lasts,
            (false, true) if self.run >= to_alarm => Turn::Alarm,
            (true, false) if self.run >= to_clear => Turn::Cleared,
            _ => Turn::Nothing,
        }
    }

    /// The thing is cut off: what is measured meanwhile decides nothing, and what was begun is begun anew.
    pub(super) fn hold(&mut self, now: u64) {
        self.run = 0;
        self.last = None;
        self.latest = None;
        self.heard = i64::try_from(now).unwrap_or(i64::MAX);
    }

    /// Back to a thing never seen, but for the time of silence.
    pub(super) fn reset(&mut self) {
        self.run = 0;
        self.violating = false;
        self.last = None;
        self.latest = None;
        self.alarm = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_behavior_of_one_thing_takes_at_most_80_bytes() {
        assert!(size_of::<Course>() <= 80, "{}", size_of::<Course>());
    }
}
