//! From JSON to a profile.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::fields::{Findings, present, shorten, shown};
use super::limit;
use super::metric::{CustomTypes, Kind, Metric};
use super::odd;
use super::profile::{Behavior, Criteria, Limit, Operator, Parsed, Profile, ProfileError};

/// The most behaviors of a profile (API CreateSecurityProfile).
const MOST_BEHAVIORS: usize = 100;
/// The most counts, addresses, ports, numbers and strings in the limits of a profile (AWS service limits).
const MOST_ELEMENTS: usize = 1000;
/// The longest `securityProfileDescription`.
const LONGEST_DESCRIPTION: usize = 1000;
/// The longest name of a profile, behavior or metric.
const LONGEST_NAME: usize = 128;
/// Every `durationSeconds` AWS takes.
const DURATIONS: [u32; 5] = [300, 600, 900, 1800, 3600];
/// Taken for traffic metrics without one: the time between two reports of a device, and so one datapoint of AWS's.
const DEFAULT_DURATION: u32 = 300;

const PROFILE: [&str; 12] = [
    "securityProfileName",
    "securityProfileDescription",
    "behaviors",
    "alertTargets",
    "additionalMetricsToRetain",
    "additionalMetricsToRetainV2",
    "metricsExportConfig",
    "tags",
    // what describe-security-profile adds
    "securityProfileArn",
    "version",
    "creationDate",
    "lastModifiedDate",
];
const BEHAVIOR: [&str; 6] = [
    "name",
    "metric",
    "metricDimension",
    "criteria",
    "suppressAlerts",
    "exportMetric",
];
const CRITERIA: [&str; 7] = [
    "comparisonOperator",
    "value",
    "durationSeconds",
    "consecutiveDatapointsToAlarm",
    "consecutiveDatapointsToClear",
    "statisticalThreshold",
    "mlDetectionConfig",
];
const RETAINED: [&str; 3] = ["metric", "metricDimension", "exportMetric"];

pub(super) fn parse(json: &Json, custom: &CustomTypes) -> Result<Parsed, ProfileError> {
    let mut found = Findings::default();
    let profile = profile(json, custom, &mut found);
    let name = json.get("securityProfileName").and_then(Json::as_str).map(shorten);
    let refused = |found: Findings| ProfileError {
        profile: name,
        problems: found.problems,
        further: found.further,
    };
    match profile {
        Some(profile) if found.problems.is_empty() => {
            odd::warn(&profile, &mut found);
            Ok(Parsed {
                profile,
                warnings: found.warnings,
            })
        }
        _ => Err(refused(found)),
    }
}

fn profile(json: &Json, custom: &CustomTypes, found: &mut Findings) -> Option<Profile> {
    if json.is_array() {
        found.problem(
            "profile",
            "a list, as --behaviors takes; put it under \"behaviors\" of an object with a \"securityProfileName\"",
        );
        return None;
    }
    let object = found.object("", json, &PROFILE)?;
    let name = match present(object, "securityProfileName") {
        Some(value) => name("securityProfileName", value, found),
        None => {
            found.problem("securityProfileName", "missing");
            None
        }
    };
    let description = present(object, "securityProfileDescription")
        .and_then(|value| found.text("securityProfileDescription", value))
        .map(str::to_owned);
    if description
        .as_ref()
        .is_some_and(|text| text.chars().count() > LONGEST_DESCRIPTION)
    {
        found.problem(
            "securityProfileDescription",
            format!("longer than {LONGEST_DESCRIPTION} characters"),
        );
    }
    let alert_targets = present(object, "alertTargets").cloned();
    if alert_targets.as_ref().is_some_and(|targets| !targets.is_object()) {
        found.problem("alertTargets", "no object");
    }
    retained(object, custom, found);
    if present(object, "metricsExportConfig").is_some() {
        found.warning("metricsExportConfig", "metrics are not exported from here");
    }
    let behaviors = behaviors(object, custom, found);
    Some(Profile {
        name: name?,
        description,
        behaviors,
        alert_targets,
    })
}

/// Checks a name as far as our own files and messages need it; AWS's own examples break the pattern of AWS's API.
fn name(field: &str, value: &Json, found: &mut Findings) -> Option<String> {
    let text = found.text(field, value)?;
    if text.is_empty() || text.chars().count() > LONGEST_NAME || text.chars().any(char::is_control) {
        found.problem(
            field,
            format!("{} is not 1 to {LONGEST_NAME} printable characters", shown(value)),
        );
        return None;
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
    if !text.bytes().all(allowed) {
        found.warning(field, format!("{text:?}: AWS's API takes only a-z A-Z 0-9 : _ - here"));
    }
    Some(text.to_owned())
}

/// Metrics to keep although nothing judges them: the service keeps what we report anyway, so there is nothing to do but
/// to see that the names mean something.
fn retained(object: &Map<String, Json>, custom: &CustomTypes, found: &mut Findings) {
    let v1 =
        present(object, "additionalMetricsToRetain").and_then(|list| found.array("additionalMetricsToRetain", list));
    for (index, entry) in v1.unwrap_or_default().iter().enumerate() {
        retain(&format!("additionalMetricsToRetain[{index}]"), entry, custom, found);
    }
    let key = "additionalMetricsToRetainV2";
    let v2 = present(object, key).and_then(|list| found.array(key, list));
    for (index, entry) in v2.unwrap_or_default().iter().enumerate() {
        let field = format!("{key}[{index}]");
        let Some(entry) = found.object(&field, entry, &RETAINED) else {
            continue;
        };
        match present(entry, "metric") {
            Some(metric) => retain(&format!("{field}.metric"), metric, custom, found),
            None => found.problem(&format!("{field}.metric"), "missing"),
        }
    }
}

fn retain(field: &str, value: &Json, custom: &CustomTypes, found: &mut Findings) {
    let Some(name) = found.text(field, value) else {
        return;
    };
    if Metric::device_side(name).is_none() && !custom.contains_key(name) {
        found.warning(field, format!("{:?} is not measured here", shorten(name)));
    }
}

fn behaviors(object: &Map<String, Json>, custom: &CustomTypes, found: &mut Findings) -> Vec<Arc<Behavior>> {
    let listed = present(object, "behaviors").and_then(|list| found.array("behaviors", list));
    let listed = listed.unwrap_or_default();
    if listed.len() > MOST_BEHAVIORS {
        found.problem(
            "behaviors",
            format!("{} of them, AWS takes at most {MOST_BEHAVIORS}", listed.len()),
        );
        return Vec::new();
    }
    let mut names = BTreeSet::new();
    let mut elements = 0_usize;
    let mut behaviors = Vec::new();
    for (index, entry) in listed.iter().enumerate() {
        let label = entry.get("name").and_then(Json::as_str).filter(|name| !name.is_empty());
        found.behavior = Some(label.map_or_else(|| format!("behaviors[{index}]"), shorten));
        elements = elements.saturating_add(limit::elements(entry.pointer("/criteria/value")));
        if let Some(behavior) = behavior(entry, custom, found) {
            if names.insert(behavior.name.clone()) {
                behaviors.push(Arc::new(behavior));
            } else {
                found.problem("name", "another behavior of this profile has the same");
            }
        }
    }
    found.behavior = None;
    if elements > MOST_ELEMENTS {
        found.problem(
            "behaviors",
            format!("{elements} elements in their values, AWS takes at most {MOST_ELEMENTS} in a profile"),
        );
    }
    behaviors
}

fn behavior(entry: &Json, custom: &CustomTypes, found: &mut Findings) -> Option<Behavior> {
    let object = found.object("", entry, &BEHAVIOR)?;
    let behavior_name = match present(object, "name") {
        Some(value) => name("name", value, found),
        None => {
            found.problem("name", "missing");
            None
        }
    };
    let metric = match present(object, "metric") {
        Some(value) => found.text("metric", value).and_then(|text| metric(text, custom, found)),
        None => {
            found.problem("metric", "missing");
            None
        }
    };
    if present(object, "metricDimension").is_some() && metric.is_some() {
        found.problem("metricDimension", "dimensions narrow cloud-side metrics only");
    }
    if found.flag("exportMetric", object) {
        found.warning("exportMetric", "metrics are not exported from here");
    }
    let suppress_alerts = found.flag("suppressAlerts", object);
    let criteria = match present(object, "criteria") {
        Some(value) => criteria(value, metric.as_ref(), found),
        None => {
            found.problem("criteria", "missing: there is nothing to judge by");
            None
        }
    };
    Some(Behavior {
        name: behavior_name?,
        metric: metric?,
        criteria: criteria?,
        suppress_alerts,
        document: Arc::new(document(object)),
    })
}

fn metric(name: &str, custom: &CustomTypes, found: &mut Findings) -> Option<Metric> {
    if let Some(metric) = Metric::device_side(name) {
        return Some(metric);
    }
    if let Some(kind) = custom.get(name).filter(|_| !name.starts_with("aws:")) {
        return Some(Metric::Custom(name.to_owned(), *kind));
    }
    let short = shorten(name);
    let reason = if Metric::is_cloud_side(name) {
        format!("{short:?} is a cloud-side metric: only AWS's broker can measure it")
    } else if name.starts_with("aws:") {
        let known: Vec<_> = Metric::device_side_names().collect();
        format!(
            "{short:?} is no device-side metric of AWS; those are {}",
            known.join(", ")
        )
    } else {
        format!("no custom metric {short:?} is configured")
    };
    found.problem("metric", reason);
    None
}

fn criteria(value: &Json, metric: Option<&Metric>, found: &mut Findings) -> Option<Criteria> {
    let object = found.object("criteria", value, &CRITERIA)?;
    if present(object, "mlDetectionConfig").is_some() {
        found.problem(
            "criteria.mlDetectionConfig",
            "ML Detect is not evaluated here; give a value or a statisticalThreshold",
        );
        return None;
    }
    let to_alarm = datapoints("consecutiveDatapointsToAlarm", object, found);
    let to_clear = datapoints("consecutiveDatapointsToClear", object, found);
    let duration = duration(object, metric, found);
    let kind = metric.map(Metric::kind);
    let operator = operator(object, metric, kind, found);
    let limit = match (present(object, "value"), present(object, "statisticalThreshold")) {
        (Some(_), Some(_)) => {
            found.problem(
                "criteria",
                "has a value and a statisticalThreshold; one of them decides, not both",
            );
            None
        }
        (None, None) => {
            found.problem("criteria", "has neither value nor statisticalThreshold");
            None
        }
        (Some(value), None) => kind.and_then(|kind| limit::value(value, kind, found)),
        (None, Some(threshold)) => limit::statistic(threshold, kind, found).map(Limit::Percentile),
    };
    Some(Criteria {
        operator: operator?,
        limit: limit?,
        duration_seconds: duration?,
        to_alarm: to_alarm?,
        to_clear: to_clear?,
    })
}

fn operator(
    object: &Map<String, Json>,
    metric: Option<&Metric>,
    kind: Option<Kind>,
    found: &mut Findings,
) -> Option<Operator> {
    const FIELD: &str = "criteria.comparisonOperator";
    let Some(value) = present(object, "comparisonOperator") else {
        found.problem(FIELD, "missing");
        return None;
    };
    let text = found.text(FIELD, value)?;
    let Some((operator, takes)) = Operator::named(text) else {
        let known: Vec<_> = Operator::names().collect();
        found.problem(FIELD, format!("{} is none of {}", shown(value), known.join(", ")));
        return None;
    };
    let (metric, kind) = (metric?, kind?);
    if !takes.contains(&kind) {
        let fitting: Vec<_> = Operator::names_for(kind).collect();
        found.problem(
            FIELD,
            format!(
                "{text} does not fit {}, which takes {}",
                shorten(metric.name()),
                fitting.join(", ")
            ),
        );
        return None;
    }
    Some(operator)
}

fn datapoints(key: &str, object: &Map<String, Json>, found: &mut Findings) -> Option<u8> {
    let Some(value) = present(object, key) else {
        return Some(1);
    };
    let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
    let number = number.filter(|number| (1..=10).contains(number));
    if number.is_none() {
        found.problem(
            &format!("criteria.{key}"),
            format!("{} is no whole number from 1 to 10", shown(value)),
        );
    }
    number
}

/// The outer `None` is a problem, the inner one no duration.
#[allow(clippy::option_option, reason = "refused and not given are two things")]
fn duration(object: &Map<String, Json>, metric: Option<&Metric>, found: &mut Findings) -> Option<Option<u32>> {
    const FIELD: &str = "criteria.durationSeconds";
    let Some(value) = present(object, "durationSeconds") else {
        if metric.is_some_and(Metric::is_traffic) {
            found.warning(FIELD, format!("missing; {DEFAULT_DURATION} is taken"));
            return Some(Some(DEFAULT_DURATION));
        }
        return Some(None);
    };
    if metric.is_some_and(|metric| !metric.kind().is_numeric()) {
        found.problem(FIELD, "not for metrics whose values are lists");
        return None;
    }
    let seconds = value.as_u64().and_then(|number| u32::try_from(number).ok());
    let seconds = seconds.filter(|seconds| DURATIONS.contains(seconds));
    if seconds.is_none() {
        found.problem(FIELD, format!("{} is none of 300, 600, 900, 1800, 3600", shown(value)));
    }
    seconds.map(Some)
}

/// The behavior as events repeat it. The order is that of AWS's events, which is none that JSON needs, but some who
/// read them with a pattern do.
fn document(behavior: &Map<String, Json>) -> Json {
    let pick = |from: &Map<String, Json>, keys: &[&str]| -> Map<String, Json> {
        let picked = keys
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), present(from, key)?.clone())));
        picked.collect()
    };
    let criteria = present(behavior, "criteria").and_then(Json::as_object);
    let criteria = criteria.map(|criteria| {
        let keys = [
            "consecutiveDatapointsToClear",
            "value",
            "statisticalThreshold",
            "durationSeconds",
            "consecutiveDatapointsToAlarm",
            "comparisonOperator",
        ];
        Json::Object(pick(criteria, &keys))
    });
    let mut document = Map::new();
    document.extend(criteria.map(|criteria| ("criteria".to_owned(), criteria)));
    document.extend(pick(behavior, &["name", "metric", "suppressAlerts"]));
    Json::Object(document)
}
