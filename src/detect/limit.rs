//! `criteria.value` and `criteria.statisticalThreshold`.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::fields::{Findings, present, shorten, shown};
use super::metric::Kind;
use super::profile::{Limit, Statistic};
use super::sets::{CidrSet, NumberSet};

/// The kinds of API MetricValue.
const VALUES: [&str; 6] = ["count", "cidrs", "ports", "number", "numbers", "strings"];
/// The longest element of `strings` we take; AWS documents no limit.
const LONGEST_STRING: usize = 1024;

/// How many elements a value counts for in AWS's limit per profile.
pub(super) fn elements(value: Option<&Json>) -> usize {
    let value = value.and_then(Json::as_object);
    value.map_or(0, |kinds| {
        kinds.values().map(|kind| kind.as_array().map_or(1, Vec::len)).sum()
    })
}

/// Reads `criteria.value` for a metric of this kind.
pub(super) fn value(value: &Json, kind: Kind, found: &mut Findings) -> Option<Limit> {
    const FIELD: &str = "criteria.value";
    let object = found.object(FIELD, value, &VALUES)?;
    let given: Vec<&str> = VALUES
        .into_iter()
        .filter(|key| present(object, key).is_some())
        .collect();
    let takes: &[&str] = match kind {
        Kind::Count => &["count"],
        // AWS's own agent documents count for a custom number
        Kind::Number => &["number", "count"],
        Kind::Ports => &["ports"],
        Kind::Addresses => &["cidrs"],
        Kind::Numbers => &["numbers"],
        Kind::Strings => &["strings"],
    };
    let [key] = given.as_slice() else {
        let reason = if given.is_empty() {
            "has no value".to_owned()
        } else {
            format!("has {}", given.join(" and "))
        };
        found.problem(
            FIELD,
            format!("{reason}; this metric takes {}, and only that", takes.join(" or ")),
        );
        return None;
    };
    if !takes.contains(key) {
        found.problem(
            &format!("{FIELD}.{key}"),
            format!("does not fit this metric, which takes {}", takes.join(" or ")),
        );
        return None;
    }
    let field = format!("{FIELD}.{key}");
    let value = present(object, key)?;
    match *key {
        "count" => count(&field, value, found).map(Limit::Number),
        "number" => number(&field, value, found).map(Limit::Number),
        "ports" => list(&field, value, found, port).map(Limit::Ports),
        "cidrs" => cidrs(&field, value, found),
        "numbers" => {
            let numbers: Vec<f64> = list(&field, value, found, number)?;
            Some(Limit::Numbers(NumberSet::new(numbers)))
        }
        _ => list(&field, value, found, string).map(Limit::Strings),
    }
}

/// Every element of a list, or `None` when one of them is wrong.
fn list<T, C: FromIterator<T>>(
    field: &str,
    value: &Json,
    found: &mut Findings,
    mut element: impl FnMut(&str, &Json, &mut Findings) -> Option<T>,
) -> Option<C> {
    let array = found.array(field, value)?;
    let read: Vec<Option<T>> = array
        .iter()
        .enumerate()
        .map(|(index, value)| element(&format!("{field}[{index}]"), value, found))
        .collect();
    read.into_iter().collect()
}

fn count(field: &str, value: &Json, found: &mut Findings) -> Option<f64> {
    let whole = value.as_u64().filter(|count| i64::try_from(*count).is_ok());
    if whole.is_none() {
        found.problem(field, format!("{} is no whole number from 0 to 2^63-1", shown(value)));
    }
    // exact up to 2^53: 9 petabytes in a window
    #[allow(
        clippy::cast_precision_loss,
        reason = "documented: numbers are compared as 64-bit floating point"
    )]
    whole.map(|count| count as f64)
}

fn number(field: &str, value: &Json, found: &mut Findings) -> Option<f64> {
    let number = value.as_f64().filter(|number| number.is_finite());
    if number.is_none() {
        found.problem(field, format!("{} is no number", shown(value)));
    }
    number
}

fn port(field: &str, value: &Json, found: &mut Findings) -> Option<u16> {
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
    if port.is_none() {
        found.problem(field, format!("{} is no port number (0 to 65535)", shown(value)));
    }
    port
}

fn string(field: &str, value: &Json, found: &mut Findings) -> Option<String> {
    let text = found.text(field, value)?;
    if text.len() > LONGEST_STRING {
        found.problem(field, format!("longer than {LONGEST_STRING} bytes"));
        return None;
    }
    Some(text.to_owned())
}

fn cidrs(field: &str, value: &Json, found: &mut Findings) -> Option<Limit> {
    let blocks: Vec<&str> = found.array(field, value)?.iter().filter_map(Json::as_str).collect();
    let checked: Option<Vec<()>> = list(field, value, found, |field, element, found| {
        let text = found.text(field, element)?;
        if CidrSet::new([text]).is_err() {
            found.problem(
                field,
                format!(
                    "{:?} is no address and no CIDR block such as 192.0.2.0/24",
                    shorten(text)
                ),
            );
            return None;
        }
        Some(())
    });
    checked?;
    CidrSet::new(blocks).ok().map(Limit::Cidrs)
}

/// Reads `criteria.statisticalThreshold`.
pub(super) fn statistic(threshold: &Json, kind: Option<Kind>, found: &mut Findings) -> Option<Statistic> {
    const FIELD: &str = "criteria.statisticalThreshold";
    let object: &Map<String, Json> = found.object(FIELD, threshold, &["statistic"])?;
    if kind.is_some_and(|kind| !kind.is_numeric()) {
        found.problem(FIELD, "not for metrics whose values are lists");
        return None;
    }
    let field = format!("{FIELD}.statistic");
    let Some(value) = present(object, "statistic") else {
        found.problem(&field, "missing");
        return None;
    };
    let statistic = found.text(&field, value).and_then(Statistic::named);
    if statistic.is_none() && value.is_string() {
        let known: BTreeSet<_> = Statistic::all().collect();
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        found.problem(&field, format!("{} is none of {}", shown(value), known.join(", ")));
    }
    statistic
}
