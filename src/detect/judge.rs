//! One datapoint against one behavior.

use super::datapoint::Value;
use super::event::MetricValue;
use super::metric::{Kind, Metric};
use super::profile::{Behavior, Limit, Operator};

/// The most elements of a list that events and alarms repeat.
const SHOWN_ELEMENTS: usize = 50;
/// The most characters of a string that events and alarms repeat.
const SHOWN_CHARS: usize = 128;

/// True when `value` is what `metric` can have. Anything else is taken as not measured.
pub(super) fn fits(value: &Value, metric: &Metric) -> bool {
    match (value, metric.kind()) {
        (Value::Delta { amount, .. }, kind) => {
            amount.is_finite() && *amount >= 0.0 && (metric.is_traffic() || kind == Kind::Number)
        }
        (Value::Gauge(number), Kind::Number) => number.is_finite(),
        (Value::Gauge(number), Kind::Count) => number.is_finite() && *number >= 0.0 && !metric.is_traffic(),
        (Value::Numbers(list), Kind::Numbers) => list.iter().all(|number| number.is_finite()),
        (Value::Ports(_), Kind::Ports)
        | (Value::Addresses(_), Kind::Addresses)
        | (Value::Strings(_), Kind::Strings) => true,
        _ => false,
    }
}

/// True when a list breaks the behavior: an element outside an `in` set, or inside a `not-in` set. An empty list never
/// does. Numbers are not judged here.
pub(super) fn breaks(value: &Value, behavior: &Behavior) -> bool {
    let operator = behavior.criteria.operator;
    match (value, &behavior.criteria.limit) {
        (Value::Ports(list), Limit::Ports(set)) => list.iter().any(|port| is_foul(operator, set.contains(port))),
        (Value::Addresses(list), Limit::Cidrs(set)) => list.iter().any(|ip| is_foul(operator, set.contains(*ip))),
        (Value::Numbers(list), Limit::Numbers(set)) => list.iter().any(|n| is_foul(operator, set.contains(*n))),
        (Value::Strings(list), Limit::Strings(set)) => list.iter().any(|text| is_foul(operator, set.contains(text))),
        _ => false,
    }
}

fn is_foul(operator: Operator, is_inside: bool) -> bool {
    match operator {
        Operator::In => !is_inside,
        _ => is_inside,
    }
}

/// A list as events repeat it: each element once, the foul ones first.
pub(super) fn shown_list(value: &Value, behavior: &Behavior) -> MetricValue {
    let operator = behavior.criteria.operator;
    match (value, &behavior.criteria.limit) {
        (Value::Ports(list), Limit::Ports(set)) => MetricValue::Ports(foul_first(list.iter().copied(), |port| {
            is_foul(operator, set.contains(port))
        })),
        (Value::Addresses(list), Limit::Cidrs(set)) => {
            let canonical = list.iter().map(std::net::IpAddr::to_canonical);
            MetricValue::Cidrs(foul_first(canonical, |ip| is_foul(operator, set.contains(*ip))))
        }
        (Value::Numbers(list), Limit::Numbers(set)) => MetricValue::Numbers(foul_first(list.iter().copied(), |n| {
            is_foul(operator, set.contains(*n))
        })),
        (Value::Strings(list), Limit::Strings(set)) => {
            let shown = foul_first(list.iter().map(String::as_str), |text| {
                is_foul(operator, set.contains(*text))
            });
            MetricValue::Strings(
                shown
                    .into_iter()
                    .map(|text| text.chars().take(SHOWN_CHARS).collect())
                    .collect(),
            )
        }
        _ => MetricValue::Strings(Vec::new()), // not reached: the value fits the metric, the limit was read for it
    }
}

fn foul_first<T: PartialEq>(list: impl Iterator<Item = T> + Clone, is_foul: impl Fn(&T) -> bool) -> Vec<T> {
    let mut shown: Vec<T> = Vec::new();
    let foul = list.clone().filter(|element| is_foul(element));
    let clean = list.filter(|element| !is_foul(element));
    for element in foul.chain(clean) {
        if shown.len() >= SHOWN_ELEMENTS {
            break;
        }
        if !shown.contains(&element) {
            shown.push(element);
        }
    }
    shown
}

/// A number as events repeat it.
pub(super) fn shown_number(number: f64, metric: &Metric) -> MetricValue {
    if metric.kind() == Kind::Count {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts are whole and not negative, and the cast saturates"
        )]
        return MetricValue::Count(number.round() as u64);
    }
    MetricValue::Number(number)
}
