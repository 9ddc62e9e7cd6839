//! From a DHCP hostname to a thing name.

use std::str::FromStr;

use crate::model::{ThingName, ThingNameError};

const PLACEHOLDER: &str = "{hostname}";

/// A rule that makes a thing name of a hostname: text with `{hostname}` in it once, such as `{hostname}` or
/// `site7-{hostname}`. The hostname is taken as it is, upper and lower case kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRule {
    before: String,
    after: String,
}

/// Text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRuleError {
    /// Every device would get the same name, or none.
    #[error("{0:?} must hold {{hostname}} exactly once")]
    Placeholder(String),
    /// The text around it can be in no thing name.
    #[error("{template:?} can make no thing name")]
    Name {
        /// The rule as written.
        template: String,
        /// What is wrong with a name made by it.
        #[source]
        source: ThingNameError,
    },
}

impl LeaseRule {
    /// The thing a hostname stands for.
    ///
    /// # Errors
    /// No thing can have that name.
    pub fn thing(&self, hostname: &str) -> Result<ThingName, ThingNameError> {
        format!("{}{hostname}{}", self.before, self.after).parse()
    }
}

impl Default for LeaseRule {
    /// The hostname itself.
    fn default() -> Self {
        Self {
            before: String::new(),
            after: String::new(),
        }
    }
}

impl FromStr for LeaseRule {
    type Err = LeaseRuleError;

    fn from_str(template: &str) -> Result<Self, Self::Err> {
        let wrong = || LeaseRuleError::Placeholder(template.chars().take(200).collect());
        let (before, after) = template.split_once(PLACEHOLDER).ok_or_else(wrong)?;
        if after.contains(PLACEHOLDER) {
            return Err(wrong());
        }
        let rule = Self {
            before: before.to_owned(),
            after: after.to_owned(),
        };
        rule.thing("x").map_err(|source| LeaseRuleError::Name {
            template: template.chars().take(200).collect(),
            source,
        })?;
        Ok(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_refuses() {
        let rule: LeaseRule = "site7-{hostname}".parse().unwrap();
        assert_eq!(rule.thing("Cam-1").unwrap().as_str(), "site7-Cam-1");
        assert!(rule.thing("../etc/passwd").is_err());
        for template in ["", "cam", "{hostname}{hostname}", "{hostname}/x", "{host}"] {
            assert!(template.parse::<LeaseRule>().is_err(), "{template}");
        }
    }
}
