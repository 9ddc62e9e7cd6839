//! Violation events, as AWS sends them through SNS, and alarms as they are listed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::model::{ThingName, UnixTime};

/// `violationEventType`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventType {
    /// Enough consecutive datapoints violated the behavior.
    InAlarm,
    /// Enough consecutive datapoints conformed again.
    AlarmCleared,
    /// Nothing was measured for two days, or the behavior was changed or removed.
    AlarmInvalidated,
}

impl EventType {
    /// As in the event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InAlarm => "in-alarm",
            Self::AlarmCleared => "alarm-cleared",
            Self::AlarmInvalidated => "alarm-invalidated",
        }
    }
}

/// A measured value, spelled as in API MetricValue. Lists have each element once, the violating ones first, at most 50,
/// and 128 characters of a string.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MetricValue {
    /// Of AWS's own number metrics.
    Count(u64),
    /// Of custom `number` metrics. Whole numbers are written as such.
    Number(#[serde(serialize_with = "plain")] f64),
    /// Port numbers.
    Ports(Vec<u16>),
    /// Addresses.
    Cidrs(Vec<IpAddr>),
    /// Of custom `number-list` metrics.
    Numbers(#[serde(serialize_with = "plain_list")] Vec<f64>),
    /// Of custom `string-list` metrics.
    Strings(Vec<String>),
}

impl fmt::Display for MetricValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: ToString>(f: &mut fmt::Formatter<'_>, elements: &[T]) -> fmt::Result {
            let texts: Vec<String> = elements.iter().map(ToString::to_string).collect();
            f.write_str(&texts.join(" "))
        }
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Ports(ports) => list(f, ports),
            Self::Cidrs(addresses) => list(f, addresses),
            Self::Numbers(numbers) => list(f, numbers),
            Self::Strings(strings) => list(f, strings),
        }
    }
}

/// The largest number up to which every whole number has a 64-bit floating point form of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn whole(number: f64) -> Json {
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        return json!(number as i64);
    }
    json!(number)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
fn plain<S: serde::Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    whole(*number).serialize(serializer)
}

fn plain_list<S: serde::Serializer>(numbers: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(numbers.iter().map(|number| whole(*number)))
}

/// An alarm that began or ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// What happened.
    pub event: EventType,
    /// When, by the wall clock.
    pub time: UnixTime,
    /// About whom.
    pub thing: ThingName,
    /// The security profile.
    pub profile: String,
    /// The behavior's name.
    pub behavior: String,
    /// 32 hexadecimal digits, the same for all events of one alarm.
    pub violation_id: String,
    /// The datapoint that decided; the last violating one for [`EventType::AlarmInvalidated`].
    pub value: MetricValue,
    /// `suppressAlerts`: list it, but send and do nothing.
    pub suppressed: bool,
    /// True when the profile asks for quarantine on alarm, the thing is a local one and alerts are not suppressed.
    pub quarantine: bool,
    /// `releaseWhenCleared`
    pub release_when_cleared: bool,
    /// The behavior as events repeat it.
    pub(super) document: Arc<Json>,
}

impl Violation {
    /// The body AWS sends through SNS: same keys, same types, same order. Times are in milliseconds.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut body = Map::new();
        let mut put = |key: &str, value: Json| body.insert(key.to_owned(), value);
        put("violationEventTime", json!(self.time.0));
        put("thingName", json!(self.thing));
        put("behavior", Json::clone(&self.document));
        put("violationEventType", json!(self.event));
        put("metricValue", json!(self.value));
        put("violationId", json!(self.violation_id));
        put("securityProfileName", json!(self.profile));
        Json::Object(body).to_string()
    }
}

/// How an alarm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlarmState {
    /// It lasts.
    Active,
    /// It ended: the behavior is normal again.
    Cleared,
    /// It ended: nothing was measured for two days, or the behavior was changed or removed.
    Invalidated,
}

/// An alarm as it is listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Alarm {
    /// About whom.
    pub thing_name: ThingName,
    /// The security profile.
    pub security_profile_name: String,
    /// The behavior's name.
    pub behavior: String,
    /// The metric's name.
    pub metric: String,
    /// The violation.
    pub violation_id: String,
    /// How it stands.
    pub state: AlarmState,
    /// When it began.
    pub since: UnixTime,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// The last violating datapoint.
    pub last_value: MetricValue,
    /// When that was.
    pub last_violation: UnixTime,
    /// What it should have been, in words: `less-than 35000`; for a percentile with the number it was then.
    pub normal: String,
    /// The window in seconds, where the behavior has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<u32>,
    /// `suppressAlerts`
    pub suppressed: bool,
    /// True while our own quarantine keeps this alarm from being judged.
    pub held: bool,
}
