//! Profiles in words.

use super::metric::Metric;
use super::odd;
use super::profile::{Behavior, Limit, Operator, Profile};

/// How many elements of a list are named.
const NAMED: usize = 5;

/// One sentence per behavior, in the order of the profile.
#[must_use]
pub fn explain(profile: &Profile) -> Vec<String> {
    profile.behaviors().iter().map(|behavior| sentence(behavior)).collect()
}

fn sentence(behavior: &Behavior) -> String {
    let criteria = &behavior.criteria;
    let metric = subject(behavior);
    let broken = broken(behavior);
    let unit = if behavior.metric.is_traffic() {
        "window"
    } else {
        "sample"
    };
    let alarm = match criteria.to_alarm {
        1 => String::new(),
        more => format!(" in {more} {unit}s in a row"),
    };
    let clear = match criteria.to_clear {
        1 => format!("the first normal {unit}"),
        more => format!("{more} normal {unit}s in a row"),
    };
    let mut text = format!(
        "{}: in alarm when {metric} {broken}{alarm}; cleared after {clear}",
        behavior.name
    );
    if odd::silence_violates(behavior) {
        text.push_str("; a thing that sends nothing is in alarm too");
    }
    if behavior.suppress_alerts {
        text.push_str("; only listed, not sent (suppressAlerts)");
    }
    text.push('.');
    text
}

fn subject(behavior: &Behavior) -> String {
    let (what, sum) = match &behavior.metric {
        Metric::BytesIn => ("the number of bytes received", true),
        Metric::BytesOut => ("the number of bytes sent", true),
        Metric::PacketsIn => ("the number of packets received", true),
        Metric::PacketsOut => ("the number of packets sent", true),
        Metric::ListeningTcpCount => ("the number of listening TCP ports", false),
        Metric::ListeningUdpCount => ("the number of listening UDP ports", false),
        Metric::EstablishedCount => ("the number of established TCP connections", false),
        Metric::ListeningTcp => ("a listening TCP port", false),
        Metric::ListeningUdp => ("a listening UDP port", false),
        Metric::Destinations => ("the remote address of an established TCP connection", false),
        Metric::Custom(name, _) => {
            let element = if behavior.metric.kind().is_numeric() {
                ""
            } else {
                "an element of "
            };
            return format!("{element}{name}");
        }
    };
    match behavior.criteria.duration_seconds {
        Some(seconds) if sum => format!("{what} in {} minutes", seconds / 60),
        _ => what.to_owned(),
    }
}

fn broken(behavior: &Behavior) -> String {
    let operator = behavior.criteria.operator;
    let relation = match operator {
        Operator::LessThan => "is at least",
        Operator::LessThanEquals => "is more than",
        Operator::GreaterThan => "is at most",
        Operator::GreaterThanEquals => "is less than",
        Operator::In => "is not among",
        Operator::NotIn => "is among",
    };
    match &behavior.criteria.limit {
        Limit::Number(limit) => format!("{relation} {limit}"),
        Limit::Percentile(statistic) => {
            format!("{relation} the {statistic} of all things that share the profile")
        }
        Limit::Ports(_) | Limit::Cidrs(_) | Limit::Numbers(_) | Limit::Strings(_) => {
            format!("{relation} {}", elements(behavior))
        }
    }
}

/// The elements of a list as written, the first few of them.
fn elements(behavior: &Behavior) -> String {
    let value = behavior
        .document
        .pointer("/criteria/value")
        .and_then(|value| value.as_object());
    let list = value.and_then(|kinds| kinds.values().find_map(|kind| kind.as_array()));
    let list = list.map(Vec::as_slice).unwrap_or_default();
    let named: Vec<String> = list
        .iter()
        .take(NAMED)
        .map(|element| element.to_string().replace('"', ""))
        .collect();
    match list.len() {
        0 => "the elements of an empty list".to_owned(),
        length if length > NAMED => format!("{} and {} more", named.join(", "), length - NAMED),
        _ => named.join(", "),
    }
}
