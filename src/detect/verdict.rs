//! The verdict of one sample on one behavior: sums over windows, gauges, lists, percentiles.

use super::course::{Course, Latest};
use super::datapoint::Value;
use super::event::MetricValue;
use super::judge;
use super::profile::{Behavior, Limit};
use super::rule::Rule;
use super::window::Window;

/// A value that was judged, to be shown only when somebody wants to see it.
pub(super) enum Judged<'a> {
    Number(f64),
    List(&'a Value),
}

impl Judged<'_> {
    pub(super) fn shown(&self, behavior: &Behavior) -> MetricValue {
        match self {
            Self::Number(number) => judge::shown_number(*number, &behavior.metric),
            Self::List(value) => judge::shown_list(value, behavior),
        }
    }
}

/// The verdict of this sample on one behavior, where it gives one by itself. A value to be compared with a percentile is
/// kept for the tick. `window` is there when this sample moved it.
pub(super) fn judge_now<'a>(
    course: &mut Course,
    rule: &Rule,
    value: &'a Value,
    window: Option<&Window>,
    at: u64,
) -> Option<(bool, Judged<'a>)> {
    let criteria = &rule.behavior.criteria;
    let (number, is_full, is_sum) = match value {
        Value::Delta { .. } => {
            let Some(window) = window else {
                course.latest = None;
                return None;
            };
            (window.sum(), window.is_full(at, rule.window_millis()), true)
        }
        Value::Gauge(number) => (*number, true, false),
        list => return Some((judge::breaks(list, &rule.behavior), Judged::List(list))),
    };
    let Limit::Number(limit) = criteria.limit else {
        let latest = Latest {
            at,
            value: number,
            is_sum,
            is_new: true,
        };
        course.latest = is_full.then_some(latest);
        return None;
    };
    let violates = !criteria.operator.holds(number, limit);
    // a sum can only grow: an upper limit once broken stays so, everything else waits for the whole window
    let is_certain = is_full || (violates && criteria.operator.is_upper());
    if !is_certain || is_sum && !course.is_due(at, rule.window_millis(), violates) {
        return None;
    }
    if is_sum {
        course.last = Some((at, violates));
    }
    Some((violates, Judged::Number(number)))
}

/// The verdict on a value that waited for the percentile.
pub(super) fn judge_latest(course: &mut Course, rule: &Rule, threshold: Option<f64>, at: u64) -> Option<(bool, f64)> {
    let latest = course.latest.as_mut().filter(|latest| latest.is_new)?;
    latest.is_new = false;
    let (value, is_sum) = (latest.value, latest.is_sum);
    let violates = !rule.behavior.criteria.operator.holds(value, threshold?);
    if is_sum {
        if !course.is_due(at, rule.window_millis(), violates) {
            return None;
        }
        course.last = Some((at, violates));
    }
    Some((violates, value))
}
