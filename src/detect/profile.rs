//! Security profiles: the grammar of API CreateSecurityProfile, as far as it can be evaluated here.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

use super::metric::{CustomTypes, Kind, Metric};
use super::parse;
use super::sets::{CidrSet, NumberSet};

/// A security profile all of whose behaviors can be evaluated here.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) behaviors: Vec<Arc<Behavior>>,
    pub(super) alert_targets: Option<Json>,
}

/// What normal is, in one respect.
#[derive(Debug, Clone, PartialEq)]
pub struct Behavior {
    /// Unique in its profile.
    pub name: String,
    /// What is judged.
    pub metric: Metric,
    /// By what.
    pub criteria: Criteria,
    /// `suppressAlerts`: alarms are listed, but neither sent nor acted on.
    pub suppress_alerts: bool,
    /// The behavior as events repeat it: the keys that were written, in the order of AWS's events.
    pub(super) document: Arc<Json>,
}

impl Behavior {
    /// What is normal, in AWS's words: `less-than 35000`, `less-than-equals p90 (812)`, `in-port-set`.
    pub(super) fn normal(&self, threshold: Option<f64>) -> String {
        let operator = self.operator_name();
        match (&self.criteria.limit, threshold) {
            (Limit::Number(limit), _) => format!("{operator} {limit}"),
            (Limit::Percentile(statistic), Some(threshold)) => format!("{operator} {statistic} ({threshold})"),
            (Limit::Percentile(statistic), None) => format!("{operator} {statistic}"),
            (Limit::Ports(_) | Limit::Cidrs(_) | Limit::Numbers(_) | Limit::Strings(_), _) => operator.to_owned(),
        }
    }

    fn operator_name(&self) -> &'static str {
        let kind = self.metric.kind();
        let fits = |(_, operator, kinds): &&(&'static str, Operator, &[Kind])| {
            *operator == self.criteria.operator && kinds.contains(&kind)
        };
        OPERATORS.iter().find(fits).map_or("", |(name, ..)| name)
    }

    /// A number that changes when the metric or the criteria do: FNV-1a over their text, the same in every build.
    pub(super) fn fingerprint(&self) -> u64 {
        let criteria = self
            .document
            .get("criteria")
            .map(ToString::to_string)
            .unwrap_or_default();
        let kind = format!("{:?}", self.metric);
        let bytes = criteria.bytes().chain(kind.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// When a datapoint is normal, and how many of them decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Criteria {
    /// `comparisonOperator`
    pub operator: Operator,
    /// `value` or `statisticalThreshold`
    pub limit: Limit,
    /// `durationSeconds`: 300, 600, 900, 1800 or 3600. Traffic metrics always have one (300 when not written).
    pub duration_seconds: Option<u32>,
    /// `consecutiveDatapointsToAlarm`, 1 to 10.
    pub to_alarm: u8,
    /// `consecutiveDatapointsToClear`, 1 to 10.
    pub to_clear: u8,
}

/// `comparisonOperator`. A datapoint is normal when `datapoint operator limit` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `less-than`
    LessThan,
    /// `less-than-equals`
    LessThanEquals,
    /// `greater-than`
    GreaterThan,
    /// `greater-than-equals`
    GreaterThanEquals,
    /// `in-cidr-set`, `in-port-set`, `in-set`: every element is in the limit.
    In,
    /// `not-in-cidr-set`, `not-in-port-set`, `not-in-set`: no element is in the limit.
    NotIn,
}

const NUMERIC: &[Kind] = &[Kind::Count, Kind::Number];

/// Every operator as AWS spells it, with the kinds of metric it fits.
const OPERATORS: [(&str, Operator, &[Kind]); 10] = [
    ("less-than", Operator::LessThan, NUMERIC),
    ("less-than-equals", Operator::LessThanEquals, NUMERIC),
    ("greater-than", Operator::GreaterThan, NUMERIC),
    ("greater-than-equals", Operator::GreaterThanEquals, NUMERIC),
    ("in-cidr-set", Operator::In, &[Kind::Addresses]),
    ("not-in-cidr-set", Operator::NotIn, &[Kind::Addresses]),
    ("in-port-set", Operator::In, &[Kind::Ports]),
    ("not-in-port-set", Operator::NotIn, &[Kind::Ports]),
    ("in-set", Operator::In, &[Kind::Numbers, Kind::Strings]),
    ("not-in-set", Operator::NotIn, &[Kind::Numbers, Kind::Strings]),
];

impl Operator {
    /// The operator AWS spells `name`, and the kinds of metric it fits.
    pub(super) fn named(name: &str) -> Option<(Self, &'static [Kind])> {
        let (_, operator, kinds) = OPERATORS.iter().find(|(known, ..)| *known == name)?;
        Some((*operator, kinds))
    }

    /// All spellings.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        OPERATORS.iter().map(|(name, ..)| *name)
    }

    /// The spellings that fit metrics of this kind.
    pub(super) fn names_for(kind: Kind) -> impl Iterator<Item = &'static str> {
        let fitting = OPERATORS.iter().filter(move |(.., kinds)| kinds.contains(&kind));
        fitting.map(|(name, ..)| *name)
    }

    /// True for `less-than` and `less-than-equals`: a sum that broke the limit once stays above it.
    pub(super) fn is_upper(self) -> bool {
        matches!(self, Self::LessThan | Self::LessThanEquals)
    }

    /// True when `value operator limit`; set operators hold for no number.
    pub(super) fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::LessThan => value < limit,
            Self::LessThanEquals => value <= limit,
            Self::GreaterThan => value > limit,
            Self::GreaterThanEquals => value >= limit,
            Self::In | Self::NotIn => false,
        }
    }
}

/// What datapoints are compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// `count` or `number`
    Number(f64),
    /// `statisticalThreshold`: that percentile of the things which share the profile.
    Percentile(Statistic),
    /// `ports`
    Ports(BTreeSet<u16>),
    /// `cidrs`
    Cidrs(CidrSet),
    /// `numbers`
    Numbers(NumberSet),
    /// `strings`
    Strings(BTreeSet<String>),
}

impl Limit {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Number(_) | Self::Percentile(_) => false,
            Self::Ports(set) => set.is_empty(),
            Self::Cidrs(set) => *set == CidrSet::default(),
            Self::Numbers(set) => *set == NumberSet::default(),
            Self::Strings(set) => set.is_empty(),
        }
    }

    pub(super) fn is_subset(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ports(a), Self::Ports(b)) => a.is_subset(b),
            (Self::Cidrs(a), Self::Cidrs(b)) => a.is_subset(b),
            (Self::Numbers(a), Self::Numbers(b)) => a.is_subset(b),
            (Self::Strings(a), Self::Strings(b)) => a.is_subset(b),
            _ => false,
        }
    }

    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ports(a), Self::Ports(b)) => a.is_disjoint(b),
            (Self::Cidrs(a), Self::Cidrs(b)) => a.is_disjoint(b),
            (Self::Numbers(a), Self::Numbers(b)) => a.is_disjoint(b),
            (Self::Strings(a), Self::Strings(b)) => a.is_disjoint(b),
            _ => false,
        }
    }
}

/// One of AWS's percentiles, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statistic(u16);

/// Every percentile of API StatisticalThreshold.
const STATISTICS: [(&str, u16); 11] = [
    ("p0", 0),
    ("p0.01", 1),
    ("p0.1", 10),
    ("p1", 100),
    ("p10", 1000),
    ("p50", 5000),
    ("p90", 9000),
    ("p99", 9900),
    ("p99.9", 9990),
    ("p99.99", 9999),
    ("p100", 10_000),
];

impl Statistic {
    /// `p0`: the smallest value.
    pub(super) const LOWEST: Self = Self(0);

    /// The percentile AWS spells `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (_, hundredths) = STATISTICS.iter().find(|(known, _)| *known == name)?;
        Some(Self(*hundredths))
    }

    /// All of AWS's percentiles, lowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        STATISTICS.iter().map(|(_, hundredths)| Self(*hundredths))
    }

    /// The percentile of `sorted` (ascending) by nearest rank: the smallest value that at least this part of all values
    /// does not exceed. `None` without values.
    pub(super) fn of(self, sorted: &[f64]) -> Option<f64> {
        let rank = sorted.len().saturating_mul(self.0.into()).div_ceil(10_000);
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = STATISTICS.iter().find(|(_, hundredths)| *hundredths == self.0);
        f.write_str(known.map_or("", |(name, _)| name))
    }
}

/// A profile and what is odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The profile.
    pub profile: Profile,
    /// What will not do what its author may think.
    pub warnings: Vec<Problem>,
}

/// Something about one field of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The behavior, by name, or `behaviors[3]` where it has none; `None` for the profile itself.
    pub behavior: Option<String>,
    /// The field, dotted: `criteria.value.count`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(behavior) = &self.behavior {
            write!(f, "behavior {behavior:?}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// Why a profile cannot be evaluated here: everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ProfileError {
    /// The profile's name, where it has one.
    pub profile: Option<String>,
    /// At most 50 of them, never empty.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub further: usize,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        if self.further > 0 {
            write!(f, "\nand {} further problems", self.further)?;
        }
        Ok(())
    }
}

impl Profile {
    /// Reads a profile as given to `aws iot create-security-profile --cli-input-json` or printed by
    /// `aws iot describe-security-profile`.
    ///
    /// # Errors
    /// Everything that is wrong with it at once, by behavior and field: unknown fields, metrics that cannot be measured
    /// here, operators and values that do not fit the metric, limits out of AWS's range.
    pub fn parse(json: &Json, custom: &CustomTypes) -> Result<Parsed, ProfileError> {
        parse::parse(json, custom)
    }

    /// `securityProfileName`
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `securityProfileDescription`
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// `behaviors`, in the order written.
    #[must_use]
    pub fn behaviors(&self) -> &[Arc<Behavior>] {
        &self.behaviors
    }

    /// `alertTargets` as written. Nothing is sent to them from here.
    #[must_use]
    pub fn alert_targets(&self) -> Option<&Json> {
        self.alert_targets.as_ref()
    }
}
