//! Profiles that load, and yet will not do what their author may think.

use super::fields::Findings;
use super::metric::{Kind, Metric};
use super::profile::{Behavior, Limit, Operator, Profile, Statistic};

/// Adds a warning for each behavior that silence violates, that nothing or everything conforms to, and for each pair of
/// behaviors to which nothing conforms together.
pub(super) fn warn(profile: &Profile, found: &mut Findings) {
    for (index, behavior) in profile.behaviors().iter().enumerate() {
        found.behavior = Some(behavior.name.clone());
        if is_impossible(behavior) {
            found.warning("criteria", "no value conforms: it is always in alarm");
        } else if silence_violates(behavior) {
            found.warning(
                "criteria",
                "a thing that sends nothing violates it (a behavior says what is normal), so it cannot quarantine \
                 without force",
            );
        }
        if is_always_met(behavior) {
            found.warning("criteria", "every value conforms: it is never in alarm");
        }
        let rest = profile.behaviors().iter().skip(index + 1);
        for other in rest.filter(|other| contradict(behavior, other)) {
            found.warning(
                "criteria",
                format!("no value conforms to both this and behavior {:?}", other.name),
            );
        }
    }
    found.behavior = None;
}

/// True when a thing that sends nothing, listens on nothing and has no connections violates the behavior. Custom metrics
/// of a silent thing are not zero but missing, which violates nothing.
pub(super) fn silence_violates(behavior: &Behavior) -> bool {
    if matches!(behavior.metric, Metric::Custom(..)) {
        return false;
    }
    let operator = behavior.criteria.operator;
    match &behavior.criteria.limit {
        Limit::Number(limit) => !operator.holds(0.0, *limit),
        // Zero is below whatever the others send; when all are silent it is not below itself.
        Limit::Percentile(statistic) => match operator {
            Operator::GreaterThanEquals => *statistic != Statistic::LOWEST,
            Operator::LessThan | Operator::GreaterThan => true,
            Operator::LessThanEquals | Operator::In | Operator::NotIn => false,
        },
        Limit::Ports(_) | Limit::Cidrs(_) | Limit::Numbers(_) | Limit::Strings(_) => false, // empty lists conform
    }
}

fn is_impossible(behavior: &Behavior) -> bool {
    let below_zero = behavior.criteria.operator == Operator::LessThan && is_number(behavior, 0.0);
    behavior.metric.kind() == Kind::Count && below_zero
}

fn is_always_met(behavior: &Behavior) -> bool {
    let from_zero = behavior.criteria.operator == Operator::GreaterThanEquals && is_number(behavior, 0.0);
    let nothing_denied = behavior.criteria.operator == Operator::NotIn && behavior.criteria.limit.is_empty();
    nothing_denied || behavior.metric.kind() == Kind::Count && from_zero
}

fn is_number(behavior: &Behavior, number: f64) -> bool {
    behavior.criteria.limit == Limit::Number(number)
}

fn contradict(one: &Behavior, other: &Behavior) -> bool {
    if one.metric != other.metric || one.criteria.duration_seconds != other.criteria.duration_seconds {
        return false;
    }
    let (a, b) = (&one.criteria, &other.criteria);
    match (&a.limit, &b.limit) {
        (Limit::Number(x), Limit::Number(y)) if a.operator.is_upper() && !b.operator.is_upper() => {
            nothing_between(b.operator, *y, a.operator, *x, one.metric.kind())
        }
        (Limit::Number(x), Limit::Number(y)) if !a.operator.is_upper() && b.operator.is_upper() => {
            nothing_between(a.operator, *x, b.operator, *y, one.metric.kind())
        }
        (x, y) => match (a.operator, b.operator) {
            (Operator::In, Operator::In) => x.is_disjoint(y) && !x.is_empty() && !y.is_empty(),
            (Operator::In, Operator::NotIn) => x.is_subset(y) && !x.is_empty(),
            (Operator::NotIn, Operator::In) => y.is_subset(x) && !y.is_empty(),
            _ => false,
        },
    }
}

/// True when nothing is greater than (or equal to) `low` and less than (or equal to) `high`.
fn nothing_between(lower: Operator, low: f64, upper: Operator, high: f64, kind: Kind) -> bool {
    if kind == Kind::Count {
        let low = if lower == Operator::GreaterThan { low + 1.0 } else { low };
        let high = if upper == Operator::LessThan { high - 1.0 } else { high };
        return low > high;
    }
    let both_hold_at_equality = lower == Operator::GreaterThanEquals && upper == Operator::LessThanEquals;
    if both_hold_at_equality { low > high } else { low >= high }
}
