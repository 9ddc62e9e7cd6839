//! Walking JSON that people wrote: every problem is kept with its place, and walking goes on.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use super::profile::Problem;

/// How many problems of one profile are kept; past that, the rest is only counted.
const MOST_PROBLEMS: usize = 50;

/// How many characters of a value are repeated in a message.
const SHOWN_CHARS: usize = 60;

/// What was found so far, and in which behavior the walk is.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) further: usize,
    pub(super) warnings: Vec<Problem>,
    pub(super) behavior: Option<String>,
}

impl Findings {
    /// Something that makes the profile unusable.
    pub(super) fn problem(&mut self, field: &str, reason: impl Into<String>) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(Problem {
                behavior: self.behavior.clone(),
                field: field.to_owned(),
                reason: reason.into(),
            });
        } else {
            self.further = self.further.saturating_add(1);
        }
    }

    /// Something its author should know.
    pub(super) fn warning(&mut self, field: &str, reason: impl Into<String>) {
        if self.warnings.len() < MOST_PROBLEMS {
            self.warnings.push(Problem {
                behavior: self.behavior.clone(),
                field: field.to_owned(),
                reason: reason.into(),
            });
        }
    }

    /// `value` as an object none of whose keys is unknown.
    pub(super) fn object<'a>(&mut self, field: &str, value: &'a Json, known: &[&str]) -> Option<&'a Map<String, Json>> {
        let Some(object) = value.as_object() else {
            self.problem(field, format!("{} is no object", shown(value)));
            return None;
        };
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            let place = if field.is_empty() {
                shorten(key)
            } else {
                format!("{field}.{}", shorten(key))
            };
            self.problem(&place, format!("unknown field; known here: {}", known.join(", ")));
        }
        Some(object)
    }

    /// `value` as an array.
    pub(super) fn array<'a>(&mut self, field: &str, value: &'a Json) -> Option<&'a [Json]> {
        let array = value.as_array();
        if array.is_none() {
            self.problem(field, format!("{} is no list", shown(value)));
        }
        array.map(Vec::as_slice)
    }

    /// `value` as text.
    pub(super) fn text<'a>(&mut self, field: &str, value: &'a Json) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            self.problem(field, format!("{} is no text", shown(value)));
        }
        text
    }

    /// The flag `key` of `object`, false when it is not there.
    pub(super) fn flag(&mut self, key: &str, object: &Map<String, Json>) -> bool {
        let Some(value) = present(object, key) else {
            return false;
        };
        value.as_bool().unwrap_or_else(|| {
            self.problem(key, format!("{} is neither true nor false", shown(value)));
            false
        })
    }
}

/// A key's value; `null` is what some tools write for a key that is not there.
pub(super) fn present<'a>(object: &'a Map<String, Json>, key: &str) -> Option<&'a Json> {
    object.get(key).filter(|value| !value.is_null())
}

/// A value as messages repeat it.
pub(super) fn shown(value: &Json) -> String {
    match value {
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "an object".to_owned(),
        Json::String(text) => format!("{:?}", shorten(text)),
        other => other.to_string(),
    }
}

/// Text as messages repeat it: without control characters, at most 60 characters.
pub(super) fn shorten(text: &str) -> String {
    let mut short = String::new();
    for character in text.chars().take(SHOWN_CHARS) {
        if character.is_control() {
            let _ = write!(short, "{}", character.escape_default());
        } else {
            short.push(character);
        }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        short.push_str("...");
    }
    short
}
