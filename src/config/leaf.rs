//! Single values: what is accepted as a number, a switch, a word, a list; anything else is noted as a problem.
//!
//! Greengrass may hand a number over as text or as a float (300.0) and a switch as text, so those are accepted.

use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::choice::Choice;
use super::problem::{Place, Problems};
use super::values::AutoOr;

/// The longest path the kernel takes (`PATH_MAX`, linux/limits.h), with its final NUL.
const PATH_MAX: usize = 4096;

/// The most entries of a list of interfaces.
const MAX_NAMES: usize = 256;

/// A whole number as written, or `None` when it is none. One too large for any key becomes the largest.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number
            .as_i64()
            .or_else(|| number.as_u64().map(|_| i64::MAX))
            .or_else(|| number.as_f64().and_then(whole_float)),
        Value::String(text) => {
            let text = text.trim();
            let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'));
            // Leaves out what f64 also reads: "inf", "nan", "1e3".
            if !plain || text.is_empty() {
                return None;
            }
            text.parse().ok().or_else(|| text.parse().ok().and_then(whole_float))
        }
        _ => None,
    }
}

fn whole_float(number: f64) -> Option<i64> {
    if !number.is_finite() || number.fract() != 0.0 {
        return None;
    }
    let limit = if number < 0.0 { i64::MIN } else { i64::MAX };
    Some(format!("{number:.0}").parse().unwrap_or(limit))
}

fn is_auto(value: &Value) -> bool {
    value.as_str() == Some("auto")
}

/// The integer types keys have.
pub(super) trait Integer: Copy + TryFrom<i64> + Into<i64> {}
impl Integer for u16 {}
impl Integer for u32 {}

impl Problems {
    /// A whole number within `range`; `None` (and a problem) otherwise.
    pub(super) fn integer<N: Integer>(&mut self, place: &Place, value: &Value, range: RangeInclusive<N>) -> Option<N> {
        self.integer_below(place, value, range, "", "use")
    }

    /// As [`Problems::integer`]; `below` says why there is a smallest number, `advice` starts what is allowed.
    pub(super) fn integer_below<N: Integer>(
        &mut self,
        place: &Place,
        value: &Value,
        range: RangeInclusive<N>,
        below: &str,
        advice: &str,
    ) -> Option<N> {
        let (min, max): (i64, i64) = ((*range.start()).into(), (*range.end()).into());
        let wrong = match whole(value) {
            None => "is not a whole number".to_owned(),
            Some(number) if number < min => format!("is below {min}{below}"),
            Some(number) if number > max => format!("is above {max}"),
            Some(number) => return N::try_from(number).ok(),
        };
        self.push(place.problem(value, wrong, format!("{advice} a whole number from {min} to {max}")));
        None
    }

    /// `auto` or a whole number within `range`.
    pub(super) fn auto_or_integer<N: Integer>(
        &mut self,
        place: &Place,
        value: &Value,
        range: RangeInclusive<N>,
    ) -> Option<AutoOr<N>> {
        if is_auto(value) {
            return Some(AutoOr::Auto);
        }
        self.integer_below(place, value, range, "", "use auto or")
            .map(AutoOr::Is)
    }

    /// `true` or `false`, also as text.
    pub(super) fn switch(&mut self, place: &Place, value: &Value) -> Option<bool> {
        match value {
            Value::Bool(on) => Some(*on),
            Value::String(text) if text == "true" => Some(true),
            Value::String(text) if text == "false" => Some(false),
            _ => {
                self.push(place.problem(value, "is neither true nor false", "use true or false"));
                None
            }
        }
    }

    /// One of the words of `C`.
    pub(super) fn choice<C: Choice>(&mut self, place: &Place, value: &Value) -> Option<C> {
        let word = match value {
            Value::String(text) => text.as_str(),
            // Tools that still read YAML 1.1 turn an unquoted off into false before we see it.
            Value::Bool(false) => "off",
            _ => "",
        };
        let found = C::ALL.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice);
        if found.is_none() {
            let words: Vec<&str> = C::ALL.iter().map(|(name, _)| *name).collect();
            self.push(place.problem(value, "is not allowed here", format!("use {}", words.join(" or "))));
        }
        found
    }

    /// Text that `parse` understands; `parse` says what is wrong, `expected` what to write instead.
    pub(super) fn text<T>(
        &mut self,
        place: &Place,
        value: &Value,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let wrong = match value {
            Value::String(text) => match parse(text) {
                Ok(parsed) => return Some(parsed),
                Err(wrong) => wrong,
            },
            Value::Number(_) | Value::Bool(_) => "is not text (put it in quotes)".to_owned(),
            _ => "is not text".to_owned(),
        };
        self.push(place.problem(value, wrong, expected));
        None
    }

    /// An absolute path without `..`.
    pub(super) fn absolute_path(&mut self, place: &Place, value: &Value) -> Option<PathBuf> {
        self.text(
            place,
            value,
            "write an absolute path without '..', such as /var/lib/edge-warden",
            |text| {
                let path = Path::new(text);
                if !path.is_absolute() {
                    return Err("is not an absolute path".to_owned());
                }
                if text.contains('\0') || text.len() >= PATH_MAX {
                    return Err("is not a path".to_owned());
                }
                if path.components().any(|part| part == Component::ParentDir) {
                    return Err("leads upwards".to_owned());
                }
                if path.file_name().is_none() {
                    return Err("is the root of the file system".to_owned());
                }
                Ok(path.to_owned())
            },
        )
    }

    /// The items of a list with their places; nothing when absent.
    pub(super) fn items(&mut self, place: &Place, value: Option<Value>) -> Vec<(Place, Value)> {
        match value {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| (place.item(index), item))
                .collect(),
            Some(other) => {
                self.push(place.problem(&other, "is not a list", "write a list, such as [] or [a, b]"));
                Vec::new()
            }
        }
    }

    /// `auto` or a list of text items, each once, that `parse` understands.
    pub(super) fn auto_or_list<T: PartialEq>(
        &mut self,
        place: &Place,
        value: Value,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<AutoOr<Vec<T>>> {
        if is_auto(&value) {
            return Some(AutoOr::Auto);
        }
        if !value.is_array() {
            self.push(place.problem(
                &value,
                "is neither auto nor a list",
                "use auto or a list such as [eth0]",
            ));
            return None;
        }
        let items = self.items(place, Some(value));
        if items.len() > MAX_NAMES {
            let count = items.len();
            self.push(place.key_problem(
                format!("has {count} entries, more than {MAX_NAMES}"),
                "shorten the list",
            ));
            return None;
        }
        let mut list = Vec::new();
        for (place, item) in items {
            if let Some(parsed) = self.text(&place, &item, expected, &parse)
                && !list.contains(&parsed)
            {
                list.push(parsed);
            }
        }
        Some(AutoOr::Is(list))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_however_a_nucleus_hands_them_over() {
        for value in [json!(300), json!(300.0), json!("300"), json!(" 300 "), json!("300.0")] {
            assert_eq!(whole(&value), Some(300), "{value}");
        }
        for value in [
            json!(300.5),
            json!("300.5"),
            json!("3e2"),
            json!("inf"),
            json!("nan"),
            json!(""),
            json!("-"),
            json!("3 00"),
            json!("+300"),
            json!(true),
            json!([300]),
            json!(null),
        ] {
            assert_eq!(whole(&value), None, "{value}");
        }
        assert_eq!(whole(&json!(1e300)), Some(i64::MAX));
        assert_eq!(whole(&json!(u64::MAX)), Some(i64::MAX));
        assert_eq!(whole(&json!("-99999999999999999999999")), Some(i64::MIN));
        assert_eq!(whole(&json!(-5)), Some(-5));
    }
}
