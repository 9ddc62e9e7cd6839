//! The shadow vocabulary: `desired.quarantine` in, `reported.quarantine` and `reported.quarantineStatus` out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cause::Posture;
use crate::model::UnixTime;

/// The largest document read: ShadowManager allows 30 KiB when so configured, AWS IoT 8 KB of state.
const MAX_DOCUMENT: usize = 64 * 1024;
/// Characters of a reason kept; the rest of a longer one is cut off.
const MAX_REASON: usize = 256;

/// What reading a shadow gave.
#[derive(Debug, Clone, PartialEq)]
pub enum ShadowReading {
    /// The thing has no such shadow (or it was deleted): says nothing, changes nothing.
    NotFound,
    /// The document as it stands.
    Present(Box<ShadowDocument>),
}

/// What a shadow document says about quarantine, stripped of everything else.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowDocument {
    /// The document's version, growing with every update.
    pub version: u64,
    /// What is asked for.
    pub desired: DesiredQuarantine,
    /// When the key was last written (`metadata.desired.quarantine.timestamp`, seconds). `None` when the key or its
    /// metadata is not there; the document's own time is no substitute, as our own reports move it.
    pub written: Option<UnixTime>,
    /// When the document was last written by anybody (`timestamp`, seconds); 0 when it does not say.
    pub document_time: UnixTime,
    /// `state.desired.quarantine` as it stands, for an answer that leaves no delta.
    pub desired_value: Option<Value>,
    /// `state.reported.quarantine` as it stands.
    pub reported_value: Option<Value>,
    /// `state.reported.quarantineStatus` as it stands.
    pub reported_status: Option<Value>,
}

/// `desired.quarantine`, understood. Of bounded size whatever the document's was, so it can be remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesiredQuarantine {
    /// The key is not there.
    Absent,
    /// `false`, or `{"mode": "off"}`.
    Release,
    /// `true` or an object.
    Quarantine {
        /// `mode`; `None` leaves it to the configuration.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        posture: Option<Posture>,
        /// `until`, seconds since the epoch or an RFC 3339 time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<UnixTime>,
        /// `reason`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Something else; in words for the shadow's `failure`. Whatever was in force before stays.
    Invalid(String),
}

/// A message that is no shadow document at all. It changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum ShadowDocumentError {
    /// More than any shadow can be.
    #[error("a shadow document of {0} bytes (at most {MAX_DOCUMENT})")]
    TooLarge(usize),
    /// Not JSON.
    #[error("the shadow document is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// JSON of another shape.
    #[error("the shadow document's {0}")]
    Shape(&'static str),
}

impl ShadowReading {
    /// Read a full shadow document, as `get/accepted` or GetThingShadow give it.
    ///
    /// # Errors
    /// [`ShadowDocumentError`] when it is no such document; a wrong `desired.quarantine` is no error but
    /// [`DesiredQuarantine::Invalid`].
    pub fn parse(document: &[u8]) -> Result<Self, ShadowDocumentError> {
        if document.len() > MAX_DOCUMENT {
            return Err(ShadowDocumentError::TooLarge(document.len()));
        }
        let document: Value = serde_json::from_slice(document).map_err(ShadowDocumentError::NotJson)?;
        let document = document
            .as_object()
            .ok_or(ShadowDocumentError::Shape("outermost value is no object"))?;
        let version = document
            .get("version")
            .and_then(Value::as_u64)
            .ok_or(ShadowDocumentError::Shape("version is missing or no whole number"))?;
        let state = match document.get("state") {
            Some(Value::Object(state)) => state,
            _ => return Err(ShadowDocumentError::Shape("state is missing or no object")),
        };
        let section = |name| state.get(name).and_then(Value::as_object);
        let desired_value = section("desired")
            .and_then(|desired| desired.get("quarantine"))
            .filter(|value| !value.is_null()) // null deletes a key; a stand-in may show it before it is gone
            .cloned();
        let written = document
            .get("metadata")
            .filter(|_| desired_value.is_some())
            .and_then(|metadata| metadata.get("desired")?.get("quarantine"))
            .and_then(newest_timestamp);
        let document_time = document.get("timestamp").and_then(Value::as_u64).unwrap_or(0);
        Ok(Self::Present(Box::new(ShadowDocument {
            version,
            desired: desired_value
                .as_ref()
                .map_or(DesiredQuarantine::Absent, DesiredQuarantine::read),
            written: written.map(UnixTime::from_seconds),
            document_time: UnixTime::from_seconds(document_time),
            desired_value,
            reported_value: section("reported")
                .and_then(|reported| reported.get("quarantine"))
                .cloned(),
            reported_status: section("reported")
                .and_then(|reported| reported.get("quarantineStatus"))
                .cloned(),
        })))
    }
}

/// The newest `timestamp` in a metadata subtree: an object value has one per leaf.
fn newest_timestamp(metadata: &Value) -> Option<u64> {
    let mut newest = None;
    let mut open = vec![metadata];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                if let Some(timestamp) = map.get("timestamp").and_then(Value::as_u64) {
                    newest = newest.max(Some(timestamp));
                }
                open.extend(map.values());
            }
            Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
    newest
}

impl DesiredQuarantine {
    /// It asks for a quarantine.
    #[must_use]
    pub fn is_demand(&self) -> bool {
        matches!(self, Self::Quarantine { .. })
    }

    fn read(value: &Value) -> Self {
        match value {
            Value::Bool(true) => Self::Quarantine {
                posture: None,
                until: None,
                reason: None,
            },
            Value::Bool(false) => Self::Release,
            Value::Object(object) => Self::read_object(object).unwrap_or_else(Self::Invalid),
            other => Self::Invalid(format!(
                "desired.quarantine is {}; it must be true, false or {{\"mode\", \"until\", \"reason\"}}",
                kind(other)
            )),
        }
    }

    fn read_object(object: &Map<String, Value>) -> Result<Self, String> {
        if object.is_empty() {
            // what is left when somebody deletes `mode` in a released document: no demand, and no release either
            return Err(
                "desired.quarantine is an empty object; it must say at least one of mode, until, reason".to_owned(),
            );
        }
        let (mut posture, mut off, mut until, mut reason) = (None, false, None, None);
        for (key, value) in object {
            match (key.as_str(), value) {
                ("mode", Value::String(mode)) => match mode.as_str() {
                    "isolate" => posture = Some(Posture::Isolate),
                    "remediate" => posture = Some(Posture::Remediate),
                    "off" => off = true,
                    other => {
                        return Err(format!(
                            "desired.quarantine.mode is {:?}; it must be isolate, remediate or off",
                            shorten(other, 40)
                        ));
                    }
                },
                ("until", Value::Null) | ("reason", Value::Null) => {}
                ("until", value) => until = Some(read_until(value)?),
                ("reason", Value::String(text)) => reason = Some(shorten(text, MAX_REASON)),
                ("mode" | "reason", other) => {
                    return Err(format!("desired.quarantine.{key} is {}; it must be text", kind(other)));
                }
                (other, _) => {
                    return Err(format!(
                        "desired.quarantine has the unknown key {:?}; it may have mode, until and reason",
                        shorten(other, 40)
                    ));
                }
            }
        }
        Ok(if off {
            Self::Release
        } else {
            Self::Quarantine { posture, until, reason }
        })
    }
}

fn read_until(value: &Value) -> Result<UnixTime, String> {
    let wrong = || {
        format!(
            "desired.quarantine.until is {}; it must be seconds since 1970 or a time such as 2026-11-22T18:00:00Z",
            shorten(&value.to_string(), 60)
        )
    };
    match value {
        // past year 9999 somebody meant milliseconds
        Value::Number(seconds) => seconds
            .as_u64()
            .map(UnixTime::from_seconds)
            .filter(|until| *until <= LAST_MOMENT)
            .ok_or_else(wrong),
        Value::String(text) => read_time(text).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// The end of year 9999: the last moment RFC 3339 can write.
const LAST_MOMENT: UnixTime = UnixTime(253_402_300_799_999);

/// An RFC 3339 time. The last day of year 9999, the usual way to write "for ever", is past what jiff's timestamps
/// hold (they leave room for every offset), so it is read by its parts.
fn read_time(text: &str) -> Option<UnixTime> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(time.as_millisecond()).ok().map(UnixTime);
    }
    let parts = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let dated = parts.to_numeric_offset().is_some() && parts.time().is_some();
    (dated && parts.date().year() == 9999).then_some(LAST_MOMENT)
}

/// The time as RFC 3339 text in UTC, to the second; later than that text can say is its last day.
#[must_use]
pub fn rfc3339(time: UnixTime) -> String {
    let seconds = i64::try_from(time.min(LAST_MOMENT).seconds()).unwrap_or(i64::MAX);
    let latest = jiff::Timestamp::MAX.as_second();
    let Ok(timestamp) = jiff::Timestamp::from_second(seconds.min(latest)) else {
        return String::new(); // not reached: it is between 1970 and the latest
    };
    // the last hours of year 9999 are past what jiff's timestamps hold, but not past its calendar
    match seconds.saturating_sub(latest) {
        ..=0 => timestamp.to_string(),
        past => {
            let last = timestamp.to_zoned(jiff::tz::TimeZone::UTC).datetime();
            let time = last.saturating_add(jiff::SignedDuration::from_secs(past));
            format!("{time}Z")
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// At most `most` characters, without control characters: such text ends up in logs and on terminals.
pub(super) fn shorten(text: &str, most: usize) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(text: &str) -> DesiredQuarantine {
        let document = format!(r#"{{"state":{{"desired":{{"quarantine":{text}}}}},"version":3,"timestamp":7}}"#);
        match ShadowReading::parse(document.as_bytes()).unwrap() {
            ShadowReading::Present(document) => document.desired,
            ShadowReading::NotFound => unreachable!(),
        }
    }

    #[test]
    fn reads_the_workshops_document() {
        let document =
            br#"{"state":{"desired":{"debug":"off","quarantine":true},"delta":{"debug":"off","quarantine":true}},
            "metadata":{"desired":{"debug":{"timestamp":1574251760},"quarantine":{"timestamp":1574254539}}},
            "version":2,"timestamp":1574256114}"#;
        let ShadowReading::Present(document) = ShadowReading::parse(document).unwrap() else {
            panic!("present");
        };
        assert_eq!(
            (document.version, document.written),
            (2, Some(UnixTime::from_seconds(1_574_254_539)))
        );
        assert_eq!(
            document.desired,
            DesiredQuarantine::Quarantine {
                posture: None,
                until: None,
                reason: None
            }
        );
    }

    #[test]
    fn reads_the_object_form() {
        assert_eq!(
            desired(r#"{"mode":"remediate","until":1800000000,"reason":"scan\u001b[2J"}"#),
            DesiredQuarantine::Quarantine {
                posture: Some(Posture::Remediate),
                until: Some(UnixTime::from_seconds(1_800_000_000)),
                reason: Some("scan [2J".to_owned()),
            }
        );
        assert_eq!(desired(r#"{"mode":"off"}"#), DesiredQuarantine::Release);
        for far in [
            "9999-12-30T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999+00:00",
        ] {
            let DesiredQuarantine::Quarantine { until, .. } = desired(&format!(r#"{{"until":"{far}"}}"#)) else {
                panic!("{far} is a time");
            };
            assert!(until.unwrap() > UnixTime::from_seconds(253_000_000_000), "{far}");
        }
        assert_eq!(desired("null"), DesiredQuarantine::Absent);
    }

    #[test]
    fn what_is_wrong_is_said_and_asks_for_nothing() {
        for (text, words) in [
            ("\"yes\"", "is text"),
            ("1", "is a number"),
            ("[true]", "is a list"),
            (r#"{"mode":"freeze"}"#, "mode is \"freeze\""),
            (r#"{"mode":7}"#, "mode is a number"),
            (r#"{"until":-1}"#, "until is -1"),
            (r#"{"until":1.5}"#, "until is 1.5"),
            (r#"{"until":"tomorrow"}"#, "until is \"tomorrow\""),
            (r#"{"until":"0001-01-01T00:00:00Z"}"#, "until is"),
            (r#"{"moed":"isolate"}"#, "unknown key \"moed\""),
            ("{}", "an empty object"),
            (r#"{"until":1800000000000}"#, "until is 1800000000000"),
            (r#"{"until":18446744073709551615}"#, "until is 1844"),
            (r#"{"until":"9999-12-31"}"#, "until is"),
        ] {
            let DesiredQuarantine::Invalid(why) = desired(text) else {
                panic!("{text} was accepted")
            };
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn the_newest_leaf_dates_an_object() {
        let document =
            br#"{"state":{"desired":{"quarantine":{"mode":"isolate","reason":"x"}}},"version":9,"timestamp":50,
            "metadata":{"desired":{"quarantine":{"mode":{"timestamp":10},"reason":{"timestamp":20}}}}}"#;
        let ShadowReading::Present(document) = ShadowReading::parse(document).unwrap() else {
            panic!("present")
        };
        assert_eq!(document.written, Some(UnixTime::from_seconds(20)));
    }

    #[test]
    fn a_document_without_metadata_has_no_time_of_the_key() {
        let document = br#"{"state":{"desired":{"quarantine":true}},"version":9,"timestamp":50}"#;
        let ShadowReading::Present(document) = ShadowReading::parse(document).unwrap() else {
            panic!("present")
        };
        assert_eq!(
            (document.written, document.document_time),
            (None, UnixTime::from_seconds(50))
        );
    }

    #[test]
    fn times_are_written_as_text_whatever_they_are() {
        assert_eq!(rfc3339(UnixTime::from_seconds(1_795_370_400)), "2026-11-22T18:00:00Z");
        for (time, text) in [
            (UnixTime(0), "1970-01-01T00:00:00Z"),
            (UnixTime::from_seconds(253_402_207_200), "9999-12-30T22:00:00Z"),
            (UnixTime::from_seconds(253_402_207_201), "9999-12-30T22:00:01Z"),
            (UnixTime::from_seconds(253_402_293_599), "9999-12-31T21:59:59Z"),
            (LAST_MOMENT, "9999-12-31T23:59:59Z"),
            (UnixTime(u64::MAX), "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(time), text);
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"version":1}"#,
            r#"{"version":"1","state":{}}"#,
            r#"{"version":1,"state":[]}"#,
        ] {
            assert!(ShadowReading::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(matches!(
            ShadowReading::parse(&vec![b' '; MAX_DOCUMENT + 1]),
            Err(ShadowDocumentError::TooLarge(_))
        ));
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        assert!(matches!(
            ShadowReading::parse(deep.as_bytes()),
            Err(ShadowDocumentError::NotJson(_))
        ));
    }
}
