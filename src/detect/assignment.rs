//! Which things a profile is for, and what an alarm does.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::datapoint::Role;
use super::odd;
use super::profile::Profile;
use crate::model::ThingName;

/// Things a profile is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `all`: the core device and every local thing.
    All,
    /// `core`: the core device.
    Core,
    /// A thing name, in which `*` stands for any characters.
    Things(String),
}

/// Text that names no things.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no target (all, core, or a thing name in which * stands for any characters)")]
pub struct TargetError(pub String);

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => return Ok(Self::All),
            "core" => return Ok(Self::Core),
            _ => {}
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-' | b'*');
        if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
            return Err(TargetError(text.chars().take(140).collect()));
        }
        Ok(Self::Things(text.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Core => "core",
            Self::Things(pattern) => pattern,
        })
    }
}

impl Target {
    /// True when `thing` is meant.
    #[must_use]
    pub fn includes(&self, thing: &ThingName, role: Role) -> bool {
        match self {
            Self::All => true,
            Self::Core => role == Role::Core,
            Self::Things(pattern) => glob(pattern.as_bytes(), thing.as_str().as_bytes()),
        }
    }
}

/// Matches with `*` for any characters, going back to the last `*` only: no pattern takes more than the product of both
/// lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if text.get(t) == Some(byte) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                p = after + 1;
                t = from + 1;
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// `onAlarm`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAlarm {
    /// Publish the event.
    Report,
    /// Publish it and quarantine the thing.
    Quarantine,
}

/// A profile in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    profile: Arc<Profile>,
    targets: Arc<[Target]>,
    on_alarm: OnAlarm,
    release_when_cleared: bool,
}

/// A profile that may not quarantine, because things that send nothing violate it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a thing that sends nothing violates {}: onAlarm quarantine needs force: true",
    behaviors.join(", ")
)]
pub struct SilenceError {
    /// The behaviors silence violates.
    pub behaviors: Vec<String>,
}

impl Assignment {
    /// A profile for `targets`. Plain AWS JSON is for [`Target::All`] with [`OnAlarm::Report`].
    ///
    /// # Errors
    /// With [`OnAlarm::Quarantine`] and without `force`, a profile that a silent thing violates is refused.
    pub fn new(
        profile: Profile,
        targets: Vec<Target>,
        on_alarm: OnAlarm,
        release_when_cleared: bool,
        force: bool,
    ) -> Result<Self, SilenceError> {
        let violated = profile
            .behaviors()
            .iter()
            .filter(|behavior| odd::silence_violates(behavior));
        let behaviors: Vec<String> = violated.map(|behavior| behavior.name.clone()).collect();
        if on_alarm == OnAlarm::Quarantine && !force && !behaviors.is_empty() {
            return Err(SilenceError { behaviors });
        }
        Ok(Self {
            profile: Arc::new(profile),
            targets: targets.into(),
            on_alarm,
            release_when_cleared,
        })
    }

    /// The profile.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// `onAlarm`
    #[must_use]
    pub fn on_alarm(&self) -> OnAlarm {
        self.on_alarm
    }

    /// `releaseWhenCleared`
    #[must_use]
    pub fn release_when_cleared(&self) -> bool {
        self.release_when_cleared
    }

    /// True when the profile is for `thing`.
    #[must_use]
    pub fn includes(&self, thing: &ThingName, role: Role) -> bool {
        self.targets.iter().any(|target| target.includes(thing, role))
    }
}
