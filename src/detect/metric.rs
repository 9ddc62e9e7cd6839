//! Which metrics there are, and what kind of value each has.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of a custom metric (API CreateCustomMetric, `metricType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricType {
    /// One number, may be negative.
    Number,
    /// Numbers.
    NumberList,
    /// Strings.
    StringList,
    /// IPv4 and IPv6 addresses.
    IpAddressList,
}

/// The custom metrics that are configured, by name. A profile may use no other.
pub type CustomTypes = BTreeMap<String, MetricType>;

/// A metric that is measured here: one of AWS's device-side metrics (developer guide, "Device-side metrics") or a custom
/// metric.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// `aws:all-bytes-in`: bytes received; a delta.
    BytesIn,
    /// `aws:all-bytes-out`: bytes sent; a delta.
    BytesOut,
    /// `aws:all-packets-in`: packets received; a delta.
    PacketsIn,
    /// `aws:all-packets-out`: packets sent; a delta.
    PacketsOut,
    /// `aws:num-listening-tcp-ports`: how many TCP ports are listened on; a gauge.
    ListeningTcpCount,
    /// `aws:num-listening-udp-ports`: how many UDP ports are listened on; a gauge.
    ListeningUdpCount,
    /// `aws:num-established-tcp-connections`: how many TCP connections are established; a gauge.
    EstablishedCount,
    /// `aws:listening-tcp-ports`: which TCP ports are listened on.
    ListeningTcp,
    /// `aws:listening-udp-ports`: which UDP ports are listened on.
    ListeningUdp,
    /// `aws:destination-ip-addresses`: the remote addresses of established TCP connections.
    Destinations,
    /// A custom metric.
    Custom(String, MetricType),
}

/// The device-side metrics with the names AWS gives them.
const DEVICE_SIDE: [(&str, Metric); 10] = [
    ("aws:all-bytes-in", Metric::BytesIn),
    ("aws:all-bytes-out", Metric::BytesOut),
    ("aws:all-packets-in", Metric::PacketsIn),
    ("aws:all-packets-out", Metric::PacketsOut),
    ("aws:num-listening-tcp-ports", Metric::ListeningTcpCount),
    ("aws:num-listening-udp-ports", Metric::ListeningUdpCount),
    ("aws:num-established-tcp-connections", Metric::EstablishedCount),
    ("aws:listening-tcp-ports", Metric::ListeningTcp),
    ("aws:listening-udp-ports", Metric::ListeningUdp),
    ("aws:destination-ip-addresses", Metric::Destinations),
];

/// Metrics of AWS's broker (developer guide, "Cloud-side metrics"), which nobody but the broker can measure. The last is
/// the one of the newer disconnect-duration metric, whose id is not documented; any id that begins so is meant.
const CLOUD_SIDE: [&str; 8] = [
    "aws:message-byte-size",
    "aws:num-messages-sent",
    "aws:num-messages-received",
    "aws:num-authorization-failures",
    "aws:num-connection-attempts",
    "aws:num-disconnects",
    "aws:source-ip-address",
    "aws:disconnect-duration",
];

/// What kind of values a metric has, and so which operators and limits fit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number from 0.
    Count,
    /// Any number.
    Number,
    /// Port numbers.
    Ports,
    /// Addresses, judged by CIDR blocks.
    Addresses,
    /// A list of numbers.
    Numbers,
    /// A list of strings.
    Strings,
}

impl Kind {
    /// True for numbers, false for lists.
    pub(super) fn is_numeric(self) -> bool {
        matches!(self, Self::Count | Self::Number)
    }
}

impl Metric {
    /// The device-side metric AWS calls `name`.
    #[must_use]
    pub fn device_side(name: &str) -> Option<Self> {
        let (_, metric) = DEVICE_SIDE.iter().find(|(known, _)| *known == name)?;
        Some(metric.clone())
    }

    /// True for the metrics only AWS's broker can measure.
    pub(super) fn is_cloud_side(name: &str) -> bool {
        CLOUD_SIDE.contains(&name)
    }

    /// The names of all device-side metrics.
    pub(super) fn device_side_names() -> impl Iterator<Item = &'static str> {
        DEVICE_SIDE.iter().map(|(name, _)| *name)
    }

    /// The name as in a profile.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::BytesIn => "aws:all-bytes-in",
            Self::BytesOut => "aws:all-bytes-out",
            Self::PacketsIn => "aws:all-packets-in",
            Self::PacketsOut => "aws:all-packets-out",
            Self::ListeningTcpCount => "aws:num-listening-tcp-ports",
            Self::ListeningUdpCount => "aws:num-listening-udp-ports",
            Self::EstablishedCount => "aws:num-established-tcp-connections",
            Self::ListeningTcp => "aws:listening-tcp-ports",
            Self::ListeningUdp => "aws:listening-udp-ports",
            Self::Destinations => "aws:destination-ip-addresses",
            Self::Custom(name, _) => name,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::BytesIn
            | Self::BytesOut
            | Self::PacketsIn
            | Self::PacketsOut
            | Self::ListeningTcpCount
            | Self::ListeningUdpCount
            | Self::EstablishedCount => Kind::Count,
            Self::ListeningTcp | Self::ListeningUdp => Kind::Ports,
            Self::Destinations | Self::Custom(_, MetricType::IpAddressList) => Kind::Addresses,
            Self::Custom(_, MetricType::Number) => Kind::Number,
            Self::Custom(_, MetricType::NumberList) => Kind::Numbers,
            Self::Custom(_, MetricType::StringList) => Kind::Strings,
        }
    }

    /// True for AWS's four traffic metrics, whose datapoints are sums over a time.
    pub(super) fn is_traffic(&self) -> bool {
        matches!(
            self,
            Self::BytesIn | Self::BytesOut | Self::PacketsIn | Self::PacketsOut
        )
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for MetricType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "number",
            Self::NumberList => "number-list",
            Self::StringList => "string-list",
            Self::IpAddressList => "ip-address-list",
        })
    }
}
