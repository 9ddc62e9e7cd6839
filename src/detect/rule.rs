//! Behaviors as the engine applies them.

use std::sync::Arc;

use super::assignment::{Assignment, OnAlarm};
use super::metric::Metric;
use super::profile::{Behavior, Limit, Statistic};

/// Over what deltas are summed where a behavior has no `durationSeconds`.
const DEFAULT_WINDOW_SECONDS: u32 = 300;

/// One behavior of one assignment.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) assignment: usize,
    pub(super) profile: String,
    pub(super) behavior: Arc<Behavior>,
    pub(super) fingerprint: u64,
    pub(super) on_alarm: OnAlarm,
    pub(super) release_when_cleared: bool,
    /// Which of a thing's windows its sums come from.
    pub(super) window: usize,
    /// True when a cut by our own quarantine changes what is measured.
    pub(super) is_silenced_by_cut: bool,
}

impl Rule {
    /// `behavior` of the assignment with index `assignment`.
    pub(super) fn new(assignment: usize, of: &Assignment, behavior: &Arc<Behavior>) -> Self {
        Self {
            assignment,
            profile: of.profile().name().to_owned(),
            fingerprint: behavior.fingerprint(),
            behavior: Arc::clone(behavior),
            on_alarm: of.on_alarm(),
            release_when_cleared: of.release_when_cleared(),
            window: 0,
            is_silenced_by_cut: !counts_before_the_cut(behavior),
        }
    }

    pub(super) fn window_seconds(&self) -> u32 {
        self.behavior
            .criteria
            .duration_seconds
            .unwrap_or(DEFAULT_WINDOW_SECONDS)
    }

    pub(super) fn window_millis(&self) -> u64 {
        u64::from(self.window_seconds()).saturating_mul(1000)
    }

    pub(super) fn statistic(&self) -> Option<Statistic> {
        match self.behavior.criteria.limit {
            Limit::Percentile(statistic) => Some(statistic),
            _ => None,
        }
    }
}

/// What the windows of a thing are for: behaviors with the same key share one.
#[derive(Debug, PartialEq)]
pub(super) struct WindowKey {
    pub(super) metric: Metric,
    pub(super) duration: u64,
    pub(super) is_silenced_by_cut: bool,
}

impl WindowKey {
    pub(super) fn of(rule: &Rule) -> Self {
        Self {
            metric: rule.behavior.metric.clone(),
            duration: rule.window_millis(),
            is_silenced_by_cut: rule.is_silenced_by_cut,
        }
    }
}

/// True for what says something about a thing even while it is cut off: frames it sends are counted before they are
/// dropped, and a flood is a flood. That too little is sent is our own doing then.
fn counts_before_the_cut(behavior: &Behavior) -> bool {
    let is_static = matches!(behavior.criteria.limit, Limit::Number(_));
    let is_sent = matches!(behavior.metric, Metric::BytesOut | Metric::PacketsOut);
    is_static && is_sent && behavior.criteria.operator.is_upper()
}
