//! Files: text to values, and what `include` names.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::effective::Config;
use super::problem::{ConfigError, Place};
use super::raw::{Included, RawConfig};
use super::sections::read_included;
use super::values::Mode;

/// The most bytes a configuration file may have: 10,000 devices need about 1 MiB.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The most files `include` may name.
pub const MAX_INCLUDES: usize = 64;

/// How often YAML aliases may be replaced by what they stand for, in parser events: room for a few shared blocks, none
/// for a bomb.
const MAX_ALIAS_EVENTS: usize = 10_000;

/// Reads the configuration of a file (YAML, or JSON when it ends in `.json`) with all it includes.
///
/// # Errors
/// [`ConfigError`]; for included files within [`ConfigError::Invalid`].
pub fn load_file(path: &Path, mode: Mode) -> Result<Config, ConfigError> {
    let bytes = read_limited(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let base_dir = path.parent().unwrap_or_else(|| Path::new(""));
    RawConfig::from_bytes(path, &bytes)?
        .resolve_includes(base_dir, &read_limited)
        .check(mode)
}

/// Reads a component configuration, as `GetConfiguration` answers it, with all it includes; `base_dir` is where
/// relative `include` paths start.
///
/// # Errors
/// [`ConfigError::Invalid`].
pub fn load_component(configuration: Value, base_dir: &Path, mode: Mode) -> Result<Config, ConfigError> {
    RawConfig::from_value(configuration)
        .resolve_includes(base_dir, &read_limited)
        .check(mode)
}

/// The files a component configuration names: what it includes and files with profiles, whether or not they can be read
/// or it is valid.
#[must_use]
pub fn named_files(configuration: Value, base_dir: &Path) -> Vec<PathBuf> {
    let named = RefCell::new(Vec::new());
    let reader = |path: &Path| {
        named.borrow_mut().push(path.to_owned());
        read_limited(path)
    };
    drop(RawConfig::from_value(configuration).resolve_includes(base_dir, &reader));
    named.into_inner()
}

/// The bytes of a file, at most one more than [`MAX_FILE_BYTES`], so that a larger one is seen without reading it all.
///
/// # Errors
/// Whatever opening and reading it gives; a folder, device or pipe is [`io::ErrorKind::InvalidInput`].
pub fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    // Before opening: opening a pipe would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl RawConfig {
    /// Reads the files named by `include` and by profiles with `reader`; the lists of included ones are appended. What is wrong with them is reported
    /// by [`RawConfig::check`] with everything else.
    #[must_use]
    pub fn resolve_includes(mut self, base_dir: &Path, reader: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Self {
        let place = Place::document(None).child("include");
        let items = self.problems.items(&place, self.include.clone());
        if items.len() > MAX_INCLUDES {
            self.problems.push(place.key_problem(
                format!("names {} files, more than {MAX_INCLUDES}", items.len()),
                "put more into each file",
            ));
            self.read_profiles(base_dir, reader);
            return self;
        }
        let mut seen: Vec<PathBuf> = Vec::new();
        for (place, item) in items {
            let expected = format!(
                "write the path of a YAML or JSON file, absolute or relative to {}",
                if base_dir.as_os_str().is_empty() {
                    Path::new(".").display()
                } else {
                    base_dir.display()
                }
            );
            let Some(path) = self.problems.text(&place, &item, &expected, |text| {
                if text.is_empty() || text.contains('\0') {
                    return Err("is not a path".to_owned());
                }
                // Compared by components, so that a.yaml and ./a.yaml are the same.
                let path: PathBuf = base_dir.join(text).components().collect();
                if seen.contains(&path) {
                    return Err("is already included".to_owned());
                }
                Ok(path)
            }) else {
                continue;
            };
            seen.push(path.clone());
            let value = match reader(&path) {
                Ok(bytes) => parse(&path, &bytes)
                    .map_err(|error| (format!("cannot be used: {error}"), "correct that file".to_owned())),
                Err(error) => Err((format!("cannot be read: {error}"), expected)),
            };
            match value {
                Ok(value) => {
                    let file = item.as_str().unwrap_or_default().to_owned();
                    if let Some(lists) = read_included(&file, value, &mut self.problems) {
                        self.included.push(Included { file, lists });
                    }
                }
                Err((wrong, expected)) => self.problems.push(place.problem(&item, wrong, expected)),
            }
        }
        self.read_profiles(base_dir, reader);
        self
    }
}

/// The value in the bytes of a file: JSON when `path` ends in `.json`, else YAML 1.2 (of which JSON is a part).
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Value, ConfigError> {
    if u64::try_from(bytes.len()).map_or(true, |length| length > MAX_FILE_BYTES) {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            limit: MAX_FILE_BYTES,
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let (line, column) = position(&String::from_utf8_lossy(valid));
        ConfigError::NotUtf8 {
            path: path.to_owned(),
            line,
            column,
        }
    })?;
    // Editors on some systems start a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_json = path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("json"));
    if is_json { json(path, text) } else { yaml(path, text) }
}

/// Line and column, both from 1, of what follows `text`.
fn position(text: &str) -> (u64, u64) {
    let line = text.split('\n').count();
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count();
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    (number(line), number(column).saturating_add(1))
}

fn json(path: &Path, text: &str) -> Result<Value, ConfigError> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str::<NoDuplicates>(text)
        .map(|NoDuplicates(value)| value)
        .map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let message = error.to_string();
            // serde_json repeats the position at the end of its message.
            let position = format!(" at line {line} column {column}");
            ConfigError::Syntax {
                path: path.to_owned(),
                line: u64::try_from(line).unwrap_or(0),
                column: u64::try_from(column).unwrap_or(0),
                message: message.strip_suffix(&position).unwrap_or(&message).to_owned(),
            }
        })
}

fn yaml(path: &Path, text: &str) -> Result<Value, ConfigError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // off and no are words, as YAML 1.2 has it.
        strict_booleans: true,
        // A thing or interface called 007 stays what it is, and the error says to quote 7.
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIAS_EVENTS },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error
            .location()
            .map_or((0, 0), |location| (location.line(), location.column()));
        ConfigError::Syntax {
            path: path.to_owned(),
            line,
            column,
            message: yaml_message(&error, &format!(" at line {line}, column {column}")),
        }
    })
}

/// What is wrong with a YAML text, for people rather than callers of the parser; `position` is left out where the
/// parser repeats it at the end.
fn yaml_message(error: &serde_saphyr::Error, position: &str) -> String {
    use serde_saphyr::Error;
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            let key: String = key.chars().take(60).collect();
            format!("the key {key:?} stands here twice")
        }
        Error::MultipleDocuments { .. } => "a second document starts here; write one document in a file".to_owned(),
        // Past the limit the parser wraps the reason in where the alias was used.
        Error::AliasReplayLimitExceeded { .. } | Error::AliasError { .. } => {
            "aliases (*name) stand for too much here; write the values out".to_owned()
        }
        Error::NonFiniteFloat { value, .. } => format!("{value} is not a number that any key takes"),
        _ => {
            let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            message.strip_suffix(position).unwrap_or(&message).to_owned()
        }
    }
}

/// A JSON value in which no key stands twice: serde_json would keep the last and say nothing.
struct NoDuplicates(Value);

impl<'de> Deserialize<'de> for NoDuplicates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NoDuplicatesVisitor).map(Self)
    }
}

struct NoDuplicatesVisitor;

impl<'de> Visitor<'de> for NoDuplicatesVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(NoDuplicates(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown: String = key.chars().take(60).collect();
                return Err(serde::de::Error::custom(format!("the key {shown:?} stands here twice")));
            }
            let NoDuplicates(value) = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
