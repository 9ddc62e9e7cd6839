//! Which keys each mapping has, asked from the raw types themselves, and reading a mapping against that.

use serde::de::DeserializeOwned;
use serde::de::value::Error as FieldsError;
use serde_json::{Map, Value};

use super::problem::{Place, Problems, similar};
use super::raw::{
    RawConfig, RawCustomMetric, RawDetect, RawDetectLists, RawDevice, RawDiscovery, RawDiscoveryLists, RawLan,
    RawLeaseFile, RawLists, RawLog, RawProfile, RawQuarantine, RawQuarantineLists, RawReport, RawSandbox, RawShadow,
};

/// A mapping of the configuration: its dotted path ("" for the whole) and the names of its keys.
type Section = (&'static str, fn() -> &'static [&'static str]);

/// The mappings of [`RawConfig`], outer ones first.
const SECTIONS: &[Section] = &[
    ("", fields::<RawConfig>),
    ("report", fields::<RawReport>),
    ("lan", fields::<RawLan>),
    ("discovery", fields::<RawDiscovery>),
    ("detect", fields::<RawDetect>),
    ("quarantine", fields::<RawQuarantine>),
    ("quarantine.shadow", fields::<RawShadow>),
    ("log", fields::<RawLog>),
    ("sandbox", fields::<RawSandbox>),
];

/// The mappings that are items of a list, by the path of the list.
const ITEM_SECTIONS: &[Section] = &[
    ("devices", fields::<RawDevice>),
    ("customMetrics", fields::<RawCustomMetric>),
    ("discovery.leases", fields::<RawLeaseFile>),
    ("detect.profiles", fields::<RawProfile>),
];

/// The mappings of an included file.
const LIST_SECTIONS: &[Section] = &[
    ("", fields::<RawLists>),
    ("discovery", fields::<RawDiscoveryLists>),
    ("detect", fields::<RawDetectLists>),
    ("quarantine", fields::<RawQuarantineLists>),
];

/// Every key there is, as dotted paths in document order; keys of list items as `devices[].macs`.
#[must_use]
pub fn keys() -> Vec<String> {
    let mut all = Vec::new();
    let mut append = |section: &str, names: &[&str]| {
        for name in names {
            all.push(if section.is_empty() {
                (*name).to_owned()
            } else {
                format!("{section}.{name}")
            });
        }
    };
    for (section, names) in SECTIONS {
        append(section, names());
    }
    for (list, names) in ITEM_SECTIONS {
        append(&format!("{list}[]"), names());
    }
    all
}

/// The main configuration.
pub(super) fn read_main(value: Value, problems: &mut Problems) -> RawConfig {
    read_sections(value, &Place::document(None), SECTIONS, problems, &unknown_key).unwrap_or_default()
}

/// The lists of the included `file`.
pub(super) fn read_included(file: &str, value: Value, problems: &mut Problems) -> Option<RawLists> {
    let place = Place::document(Some(file));
    read_sections(value, &place, LIST_SECTIONS, problems, &|section, key, expected| {
        if section.is_empty() && key == "include" {
            return (
                "stands in an included file".to_owned(),
                "included files include no further files; name this one in the main configuration".to_owned(),
            );
        }
        let known = SECTIONS
            .iter()
            .any(|(path, names)| *path == section && names().contains(&key));
        if known {
            return (
                "does not belong in an included file".to_owned(),
                "write it in the main configuration; included files add to devices, customMetrics, discovery.leases, \
                 detect.profiles and quarantine.protected"
                    .to_owned(),
            );
        }
        unknown_key(section, key, expected)
    })
}

/// One item of a list of mappings.
pub(super) fn read_item<T: DeserializeOwned>(value: Value, place: &Place, problems: &mut Problems) -> Option<T> {
    let sections: &[Section] = &[("", fields::<T>)];
    if value.is_null() {
        // A null section means its defaults; a null item means nothing at all.
        problems.push(place.problem(
            &value,
            "is not a mapping",
            format!("write the keys {}", fields::<T>().join(", ")),
        ));
        return None;
    }
    read_sections(value, place, sections, problems, &|_, key, expected| {
        unknown_key(&list_of(place), key, expected)
    })
}

/// `devices` for `devices[3]`.
fn list_of(place: &Place) -> String {
    let text = place.key();
    text.split('[').next().unwrap_or(text).to_owned()
}

/// What to say about `key`, which `section` with the keys `expected` does not have.
fn unknown_key(section: &str, key: &str, expected: &[&str]) -> (String, String) {
    let wrong = "is not a key of this version".to_owned();
    let advice = if let Some(near) = similar(key, expected.iter().copied()) {
        format!("did you mean {near}?")
    } else if let Some(elsewhere) = keys()
        .iter()
        .find(|path| path.rsplit('.').next() == Some(key) && !path.contains('['))
    {
        format!("did you mean {elsewhere}?")
    } else if section.is_empty() {
        format!("the keys are {}", expected.join(", "))
    } else {
        format!("the keys of {section} are {}", expected.join(", "))
    };
    (wrong, advice)
}

/// Turns a section path, an unknown key and the known keys into what is wrong and what to do.
type Unknown<'a> = &'a dyn Fn(&str, &str, &[&str]) -> (String, String);

/// Reads `value` as `T` after taking out, as problems, what does not fit the sections. serde alone would stop at the
/// first, and would take a list for a mapping.
fn read_sections<T: DeserializeOwned>(
    mut value: Value,
    place: &Place,
    sections: &[Section],
    problems: &mut Problems,
    unknown: Unknown<'_>,
) -> Option<T> {
    if value.is_null() {
        value = Value::Object(Map::new());
    }
    for (section, names) in sections {
        let here = if section.is_empty() {
            place.clone()
        } else {
            place.child(section)
        };
        let Some(found) = descend(&mut value, section) else {
            continue;
        };
        let map = match found {
            Value::Object(map) => map,
            Value::Null => continue,
            other => {
                problems.push(here.problem(
                    other,
                    "is not a mapping",
                    format!("write the keys {}", names().join(", ")),
                ));
                *other = Value::Null;
                if section.is_empty() {
                    return None;
                }
                continue;
            }
        };
        let names = names();
        map.retain(|key, _| {
            let known = names.contains(&key.as_str());
            if !known && problems.is_full() {
                problems.count();
            } else if !known {
                let (wrong, expected) = unknown(section, key, names);
                problems.push(here.child(key).key_problem(wrong, expected));
            }
            known
        });
    }
    match serde_path_to_error::deserialize(value) {
        Ok(read) => Some(read),
        // Not reachable by the above, but outside data never decides about a panic.
        Err(error) => {
            let key = error.path().to_string();
            problems.push(
                place
                    .child(&key)
                    .key_problem(error.inner().to_string(), "see docs/configuration.md"),
            );
            None
        }
    }
}

/// The value at a dotted path of plain keys.
fn descend<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.')
        .filter(|part| !part.is_empty())
        .try_fold(value, |at, part| at.get_mut(part))
}

/// The names of the keys of `T`, asked from its own `Deserialize`.
fn fields<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut asked = AskFields(&[]);
    // Always an error: the asker holds no value.
    let _ = T::deserialize(&mut asked);
    asked.0
}

struct AskFields(&'static [&'static str]);

impl<'de> serde::Deserializer<'de> for &mut AskFields {
    type Error = FieldsError;

    fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, FieldsError> {
        Err(serde::de::Error::custom("only the names of the keys were asked for"))
    }

    fn deserialize_struct<V: serde::de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldsError> {
        self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
