//! The settings, from the environment the template gives the function. cloud/template.yaml says what each means.

use std::num::NonZeroU64;

use crate::names::Patterns;

/// Settings that were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The named shadow to write (`SHADOW_NAME`); `None`: the classic one, as the workshop does.
    pub shadow: Option<String>,
    /// The thing group of quarantined things (`THING_GROUP`); `None`: none is changed.
    pub group: Option<String>,
    /// Release a thing when its last alarm clears (`RELEASE_WHEN_CLEARED`).
    pub release_when_cleared: bool,
    /// `mode` of the demand (`MODE`); `None` leaves it to the gateway.
    pub mode: Option<Mode>,
    /// How long a quarantine lasts (`QUARANTINE_SECONDS`); `None`: until somebody ends it.
    pub quarantine_seconds: Option<u64>,
    /// The things behind the core devices (`THINGS`).
    pub things: Patterns,
    /// The core devices (`CORES`).
    pub cores: Patterns,
    /// The alarms that lead to quarantine, as `Profile/Behavior` (`ALARMS`).
    pub alarms: Patterns,
}

/// What a quarantined thing may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Keep its address, nothing else.
    Isolate,
    /// Also reach the gateway's broker.
    Remediate,
}

impl Mode {
    /// The word in the shadow.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Isolate => "isolate",
            Self::Remediate => "remediate",
        }
    }
}

/// A setting that cannot be used: the function does not start.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name} is {value:?}; {expected}")]
pub struct SettingsError {
    name: &'static str,
    value: String,
    expected: &'static str,
}

impl Settings {
    /// Whether alarms of the thing are ours to act on.
    pub fn is_ours(&self, thing: &str) -> bool {
        self.things.matches(thing) || self.cores.matches(thing)
    }

    /// Whether the thing is a core device. Of two patterns that fit, the closer one says what it is.
    pub fn is_core(&self, thing: &str) -> bool {
        let core = self.cores.closeness(thing);
        core.is_some() && core >= self.things.closeness(thing)
    }

    /// Read them by `variable`, which gives the value of an environment variable.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let text = |name| variable(name).unwrap_or_default();
        let filled = |name| Some(text(name)).filter(|value| !value.is_empty());
        let wrong = |name, expected| SettingsError {
            name,
            value: text(name),
            expected,
        };
        let release_when_cleared = match text("RELEASE_WHEN_CLEARED").as_str() {
            "true" => true,
            "" | "false" => false,
            _ => return Err(wrong("RELEASE_WHEN_CLEARED", "write true or false")),
        };
        let mode = match text("MODE").as_str() {
            "" => None,
            "isolate" => Some(Mode::Isolate),
            "remediate" => Some(Mode::Remediate),
            _ => return Err(wrong("MODE", "write isolate, remediate or nothing")),
        };
        let quarantine_seconds = match filled("QUARANTINE_SECONDS") {
            None => None,
            Some(seconds) => seconds
                .parse::<u64>()
                .map(|seconds| NonZeroU64::new(seconds).map(NonZeroU64::get))
                .map_err(|_| wrong("QUARANTINE_SECONDS", "write a whole number of seconds, 0 for no end"))?,
        };
        let shadow = filled("SHADOW_NAME");
        if shadow
            .as_ref()
            .is_some_and(|name| name.len() > 64 || !crate::names::is_thing_name(name))
        {
            return Err(wrong("SHADOW_NAME", "write at most 64 of a-z A-Z 0-9 : _ -"));
        }
        if shadow.is_none() && (mode.is_some() || quarantine_seconds.is_some()) {
            let expected = "MODE and QUARANTINE_SECONDS need a named shadow";
            return Err(wrong("SHADOW_NAME", expected));
        }
        let patterns = |name| Patterns::parse(&text(name));
        let (things, alarms) = (patterns("THINGS"), patterns("ALARMS"));
        if things.is_empty() {
            return Err(wrong(
                "THINGS",
                "write the things whose alarms count, such as gateway-1*",
            ));
        }
        if alarms.is_empty() {
            return Err(wrong(
                "ALARMS",
                "write the alarms that quarantine, such as MyProfile/* or *",
            ));
        }
        Ok(Self {
            shadow,
            group: filled("THING_GROUP"),
            release_when_cleared,
            mode,
            quarantine_seconds,
            things,
            cores: patterns("CORES"),
            alarms,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let given = |name: &str| pairs.iter().rev().find(|(key, _)| *key == name);
        let defaults = [("THINGS", "gw*"), ("ALARMS", "*"), ("SHADOW_NAME", "quarantine")];
        let default = |name: &str| defaults.into_iter().find(|(key, _)| *key == name);
        Settings::read(|name| {
            given(name)
                .copied()
                .or_else(|| default(name))
                .map(|(_, value)| value.to_owned())
        })
    }

    #[test]
    fn what_is_not_said_is_the_careful_choice() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.shadow.as_deref(), Some("quarantine"));
        assert!(!settings.release_when_cleared);
        assert_eq!(
            (settings.mode, settings.quarantine_seconds, settings.group),
            (None, None, None)
        );
    }

    #[test]
    fn everything_can_be_said() {
        let settings = read(&[
            ("SHADOW_NAME", "q"),
            ("THING_GROUP", "Quarantine"),
            ("RELEASE_WHEN_CLEARED", "true"),
            ("MODE", "remediate"),
            ("QUARANTINE_SECONDS", "3600"),
            ("CORES", "gw-1"),
        ])
        .unwrap();
        assert_eq!(settings.group.as_deref(), Some("Quarantine"));
        assert_eq!(
            (settings.mode, settings.quarantine_seconds),
            (Some(Mode::Remediate), Some(3600))
        );
        assert!(settings.cores.matches("gw-1"));
        assert_eq!(read(&[("QUARANTINE_SECONDS", "0")]).unwrap().quarantine_seconds, None);
        assert_eq!(read(&[("SHADOW_NAME", "")]).unwrap().shadow, None, "the classic shadow");
    }

    #[test]
    fn the_closer_pattern_says_what_a_thing_is() {
        for (cores, things, thing, ours, core) in [
            ("gw-1", "gw-1-*", "gw-1", true, true),
            ("gw-1", "gw-1-*", "gw-1-cam", true, false),
            ("gw-*", "gw-1-*", "gw-1-cam", true, false),
            ("gw-*", "gw-1-*", "gw-1", true, true),
            ("site-core", "site-*", "site-core", true, true),
            ("site-*", "site-*", "site-cam", true, true),
            ("gw-1", "gw-1-*", "other", false, false),
        ] {
            let settings = read(&[("CORES", cores), ("THINGS", things)]).unwrap();
            assert_eq!(
                (settings.is_ours(thing), settings.is_core(thing)),
                (ours, core),
                "{cores} {things} {thing}"
            );
        }
    }

    #[test]
    fn what_cannot_be_used_stops_the_function_at_its_start() {
        for (name, value) in [
            ("RELEASE_WHEN_CLEARED", "yes"),
            ("MODE", "freeze"),
            ("QUARANTINE_SECONDS", "-1"),
            ("QUARANTINE_SECONDS", "1h"),
            ("SHADOW_NAME", "a/b"),
            ("THINGS", ""),
            ("ALARMS", " , "),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!((error.name, error.value.as_str()), (name, value));
        }
        let classic = read(&[("SHADOW_NAME", ""), ("MODE", "isolate")]).unwrap_err();
        assert_eq!(classic.name, "SHADOW_NAME");
    }
}
