//! Security profiles: the grammar of API CreateSecurityProfile, as far as it can be evaluated here.

use std::fmt;

use serde_json::Value as Json;

use super::metric::{CustomTypes, Metric};

/// A security profile all of whose behaviors can be evaluated here.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) behaviors: Vec<Behavior>,
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
    pub(super) document: Json,
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

/// What datapoints are compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// `count` or `number`
    Number(f64),
    /// `statisticalThreshold`: that percentile of the things which share the profile.
    Percentile(Statistic),
}

/// One of AWS's percentiles, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statistic(pub(super) u16);

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
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// Why a profile cannot be evaluated here: everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ProfileError {
    /// The profile's name, where it has one.
    pub profile: Option<String>,
    /// All of it, never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
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
        let _ = (json, custom);
        Err(ProfileError {
            profile: None,
            problems: Vec::new(),
        })
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
    pub fn behaviors(&self) -> &[Behavior] {
        &self.behaviors
    }

    /// `alertTargets` as written. Nothing is sent to them from here.
    #[must_use]
    pub fn alert_targets(&self) -> Option<&Json> {
        self.alert_targets.as_ref()
    }
}
