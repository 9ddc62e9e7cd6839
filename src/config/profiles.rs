//! `detect`: security profiles with what is added to them here. What a profile itself says is judged by `detect`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Number, Value};

use super::choice::OnAlarm;
use super::file::{parse, read_limited};
use super::problem::{ConfigError, Place, Problems};
use super::raw::{RawConfig, RawProfile};
use super::sections::read_item;
use super::values::Mode;

/// The most entries of `detect.profiles`.
pub const MAX_PROFILES: usize = 100;
/// The most entries of `detect.profiles[].targets`.
const MAX_TARGETS: usize = 1_000;
/// The default target.
const ALL: &str = "all";
/// Whole numbers up to this size are the same as floating-point and as integer numbers.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// An entry of `detect.profiles`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// The security profile as AWS writes it (API CreateSecurityProfile); a mapping, not judged yet.
    pub profile: Value,
    /// Whom it is for: `all`, `core`, thing names and patterns of them; not empty, read by `detect`.
    pub targets: Vec<String>,
    /// What an alarm of it does.
    pub on_alarm: OnAlarm,
    /// Whether a quarantine it caused ends when its alarm clears.
    pub release_when_cleared: bool,
    /// Whether it may quarantine although a silent thing violates it.
    pub force: bool,
}

/// Reads a file with one entry of `detect.profiles`: a security profile as AWS has it, or a mapping with `profile`.
///
/// # Errors
/// [`ConfigError`]; what the profile itself says is not judged yet.
pub fn load_profile(path: &Path) -> Result<Profile, ConfigError> {
    let bytes = read_limited(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let entry = parse(path, &bytes)?;
    // a text would be another file
    let entry = if entry.is_string() { Value::Null } else { entry };
    let mut raw = RawConfig::from_value(serde_json::json!({"detect": {"profiles": [entry]}}));
    raw.main_file = Some(path.to_owned());
    let base_dir = path.parent().unwrap_or_else(|| Path::new(""));
    let config = raw.resolve_includes(base_dir, &read_limited).check(Mode::Standalone)?;
    // exactly one was written
    let profile = config.detect.profiles.into_iter().next();
    profile.ok_or_else(|| ConfigError::Invalid {
        file: Some(path.to_owned()),
        problems: Problems::default(),
    })
}

/// What the files are that profiles were named by, or why they cannot be used.
pub(super) type ProfileFiles = BTreeMap<String, Result<Value, String>>;

impl RawConfig {
    /// Reads the files that entries of `detect.profiles` name.
    pub(super) fn read_profiles(&mut self, base_dir: &Path, reader: &dyn Fn(&Path) -> io::Result<Vec<u8>>) {
        let main = self.detect.as_ref().and_then(|detect| detect.profiles.as_ref());
        let included = self
            .included
            .iter()
            .filter_map(|file| file.lists.detect.as_ref()?.profiles.as_ref());
        let mut files = ProfileFiles::new();
        for item in main.into_iter().chain(included).filter_map(Value::as_array).flatten() {
            let named = item.get("profile").unwrap_or(item).as_str();
            if let Some(name) = named.filter(|_| files.len() < MAX_PROFILES)
                && !files.contains_key(name)
            {
                files.insert(name.to_owned(), read(name, base_dir, reader));
            }
        }
        self.profile_files = files;
    }
}

fn read(name: &str, base_dir: &Path, reader: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Value, String> {
    if name.is_empty() || name.contains('\0') {
        return Err("is not a path".to_owned());
    }
    let path: PathBuf = base_dir.join(name);
    let bytes = reader(&path).map_err(|error| format!("cannot be read: {error}"))?;
    parse(&path, &bytes).map_err(|error| format!("cannot be used: {error}"))
}

/// The entries as they are used.
pub(super) fn check(items: Vec<(Place, Value)>, files: &ProfileFiles, problems: &mut Problems) -> Vec<Profile> {
    if items.len() > MAX_PROFILES {
        problems.push(Place::document(None).child("detect.profiles").key_problem(
            format!("has {} entries, more than {MAX_PROFILES}", items.len()),
            "shorten the list",
        ));
        return Vec::new();
    }
    items
        .into_iter()
        .filter_map(|(place, item)| entry(&place, item, files, problems))
        .collect()
}

fn entry(place: &Place, item: Value, files: &ProfileFiles, problems: &mut Problems) -> Option<Profile> {
    let is_aws = |map: &serde_json::Map<String, Value>| {
        !map.contains_key("profile") && (map.contains_key("securityProfileName") || map.contains_key("behaviors"))
    };
    let (raw, profile_place) = match &item {
        Value::Object(map) if !is_aws(map) => (read_item::<RawProfile>(item, place, problems)?, place.child("profile")),
        _ => {
            let raw = RawProfile {
                profile: Some(item),
                ..RawProfile::default()
            };
            (raw, place.clone())
        }
    };
    let profile = match raw.profile {
        Some(written) => mapping(&profile_place, &written, files, problems),
        None => {
            problems.push(profile_place.key_problem(
                "is missing",
                "write a security profile as AWS has it, or the path of a file with one",
            ));
            None
        }
    };
    let targets = match raw.targets {
        None => vec![ALL.to_owned()],
        Some(value) => targets(&place.child("targets"), value, problems),
    };
    let on_alarm = raw
        .on_alarm
        .and_then(|value| problems.choice(&place.child("onAlarm"), &value))
        .unwrap_or_default();
    let mut switch = |name: &str, value: Option<Value>| {
        value
            .and_then(|value| problems.switch(&place.child(name), &value))
            .unwrap_or(false)
    };
    Some(Profile {
        release_when_cleared: switch("releaseWhenCleared", raw.release_when_cleared),
        force: switch("force", raw.force),
        profile: profile?,
        targets,
        on_alarm,
    })
}

/// The profile written here, or in the file named here.
fn mapping(place: &Place, written: &Value, files: &ProfileFiles, problems: &mut Problems) -> Option<Value> {
    const EXPECTED: &str = "write a security profile as AWS has it, or the path of a file with one";
    let found = match written.as_str() {
        None => Ok(written.clone()),
        Some(name) => match files.get(name) {
            Some(Ok(value)) if value.is_object() => Ok(value.clone()),
            Some(Ok(_)) => Err("holds no mapping".to_owned()),
            Some(Err(wrong)) => Err(wrong.clone()),
            None => Err("was not read".to_owned()),
        },
    };
    match found {
        Ok(Value::Object(map)) => Some(with_integers(Value::Object(map))),
        Ok(_) => {
            problems.push(place.problem(written, "is not a security profile", EXPECTED));
            None
        }
        Err(wrong) => {
            problems.push(place.problem(written, wrong, EXPECTED));
            None
        }
    }
}

fn targets(place: &Place, value: Value, problems: &mut Problems) -> Vec<String> {
    let items = problems.items(place, Some(value));
    if items.is_empty() || items.len() > MAX_TARGETS {
        problems.push(place.key_problem(
            format!("has {} entries", items.len()),
            format!("name 1 to {MAX_TARGETS} targets, or leave the key out for all"),
        ));
        return Vec::new();
    }
    const EXPECTED: &str = "write all, core, a thing name, or a pattern such as cam-*";
    let mut found = Vec::new();
    for (place, item) in items {
        if let Some(target) = problems.text(&place, &item, EXPECTED, target)
            && !found.contains(&target)
        {
            found.push(target);
        }
    }
    found
}

fn target(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-' | b'*');
    if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
        return Err("is neither a thing name nor a pattern".to_owned());
    }
    Ok(text.to_owned())
}

/// The same value with whole numbers as integers: Greengrass hands 300 over as 300.0, and the behavior is repeated in
/// every event.
fn with_integers(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number
                .as_f64()
                .filter(|float| float.fract() == 0.0 && float.abs() <= EXACT)
                .and_then(|float| format!("{float:.0}").parse::<i64>().ok());
            Value::Number(whole.map_or(number, Number::from))
        }
        Value::Array(items) => items.into_iter().map(with_integers).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, with_integers(value)))
            .collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_are_integers() {
        let value = with_integers(json!({"a": [300.0, 0.5, -2.0], "b": 7}));
        assert_eq!(value.to_string(), r#"{"a":[300,0.5,-2],"b":7}"#);
        let huge = with_integers(json!(1e300));
        assert_eq!(huge, json!(1e300), "larger than any integer");
    }
}
