//! What is judged: the values of one thing in one sample.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::model::Now;
use crate::model::ThingName;

/// Whether a thing is the core device or stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The core device.
    Core,
    /// A local thing.
    Local,
}

/// Whose datapoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The thing.
    pub thing: &'a ThingName,
    /// Core or local.
    pub role: Role,
    /// True when our own quarantine cut the thing off at any time since its previous sample. What the cut changes is not
    /// judged then: it would clear alarms that nothing but the cut silenced, and raise alarms about silence that we made.
    pub cut_off: bool,
}

/// The value of one metric in one sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Value {
    /// What was added to a counter during the time `over` that ends with this sample. Not negative. The next delta is to
    /// begin where this one ended; a delta after a failed sample covers both. Of AWS's traffic metrics always, of custom
    /// `number` metrics where the number is per time.
    Delta {
        /// How much was added.
        amount: f64,
        /// The time it took; in recordings in milliseconds.
        #[serde(rename = "overMillis", with = "millis")]
        over: Duration,
    },
    /// A number as it is now: AWS's `aws:num-*` (the true total, also of a list that was cut), custom `number`.
    Gauge(f64),
    /// Port numbers.
    Ports(Vec<u16>),
    /// Addresses; IPv4 in IPv6 form is judged as IPv4.
    Addresses(Vec<IpAddr>),
    /// Numbers.
    Numbers(Vec<f64>),
    /// Strings.
    Strings(Vec<String>),
}

/// Everything measured about one thing in one sample, by metric name. What could not be measured is not in the map.
/// A value whose kind does not fit its metric, or a number that is not finite, is taken like one that was not measured.
pub type Datapoints = BTreeMap<String, Value>;

/// Durations as recordings write them.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
