//! From the configured profiles to what the engine evaluates.

use std::collections::BTreeSet;

use crate::config::{self, Config};
use crate::detect::{Assignment, CustomTypes, MetricType, OnAlarm, Parsed, Profile, Target};
use crate::model::CustomType;

/// The profiles of a configuration, all of which can be evaluated.
#[derive(Debug, Default)]
pub struct Profiles {
    /// In the order of the configuration.
    pub assignments: Vec<Assignment>,
    /// What will not do what its author may think, by place.
    pub warnings: Vec<String>,
}

/// Why profiles cannot be evaluated: everything that is wrong with them, by place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ProfilesError(pub Vec<String>);

/// The types of the configured custom metrics, as profiles are checked against them.
#[must_use]
pub fn custom_types(config: &Config) -> CustomTypes {
    let of = |kind| match kind {
        CustomType::Number => MetricType::Number,
        CustomType::NumberList => MetricType::NumberList,
        CustomType::StringList => MetricType::StringList,
        CustomType::IpAddressList => MetricType::IpAddressList,
    };
    let types = config.custom_types().into_iter();
    types.map(|(name, kind)| (name.to_owned(), of(kind))).collect()
}

/// Reads the profiles of a configuration.
///
/// # Errors
/// [`ProfilesError`] with everything that is wrong, when anything is.
pub fn load(config: &Config) -> Result<Profiles, ProfilesError> {
    let types = custom_types(config);
    let mut loaded = Profiles::default();
    let mut wrong = Vec::new();
    let mut names = BTreeSet::new();
    for (index, entry) in config.detect.profiles.iter().enumerate() {
        let name = entry
            .profile
            .get("securityProfileName")
            .and_then(serde_json::Value::as_str);
        let place = match name {
            Some(name) => format!(
                "detect.profiles[{index}] ({})",
                name.chars().take(128).collect::<String>()
            ),
            None => format!("detect.profiles[{index}]"),
        };
        match assignment(entry, &types) {
            Ok((assignment, warnings)) => {
                if !names.insert(assignment.profile().name().to_owned()) {
                    wrong.push(format!(
                        "{place}: a profile of that name stands before it; each name once"
                    ));
                }
                let said = warnings.into_iter().map(|words| format!("{place}: {words}"));
                loaded.warnings.extend(said);
                loaded.assignments.push(assignment);
            }
            Err(words) => wrong.extend(words.into_iter().map(|words| format!("{place}: {words}"))),
        }
    }
    if wrong.is_empty() {
        Ok(loaded)
    } else {
        Err(ProfilesError(wrong))
    }
}

/// One entry, and what is odd about it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn assignment(entry: &config::Profile, types: &CustomTypes) -> Result<(Assignment, Vec<String>), Vec<String>> {
    let Parsed { profile, warnings } = Profile::parse(&entry.profile, types)
        .map_err(|error| error.problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let targets = entry.targets.iter().map(|target| target.parse::<Target>());
    let targets = targets
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| vec![error.to_string()])?;
    let on_alarm = match entry.on_alarm {
        config::OnAlarm::Report => OnAlarm::Report,
        config::OnAlarm::Quarantine => OnAlarm::Quarantine,
    };
    let assignment = Assignment::new(profile, targets, on_alarm, entry.release_when_cleared, entry.force)
        .map_err(|error| vec![error.to_string()])?;
    Ok((assignment, warnings.iter().map(ToString::to_string).collect()))
}
