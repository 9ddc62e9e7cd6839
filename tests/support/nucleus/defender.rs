//! AWS IoT Device Defender's side of a report: it is judged, and accepted or rejected.
//!
//! Source: AWS IoT developer guide, "Device Defender troubleshooting" (the answers), "Sending metrics" (the rate).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::report::check_document;

/// Largest MQTT payload AWS IoT Core takes.
const MAX_BYTES: usize = 128 * 1024;
/// Least time between two reports of one thing.
const MIN_INTERVAL_SECONDS: u64 = 300;

/// The encoding, which is the last level of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.../defender/metrics/json`
    Json,
    /// `.../defender/metrics/cbor`
    Cbor,
}

/// Thing and format, if this is a topic reports are published to.
pub fn report_topic(topic: &str) -> Option<(&str, Format)> {
    let (thing, format) = topic.strip_prefix("$aws/things/")?.split_once("/defender/metrics/")?;
    match format {
        "json" if !thing.contains('/') => Some((thing, Format::Json)),
        "cbor" if !thing.contains('/') => Some((thing, Format::Cbor)),
        _ => None,
    }
}

/// A report as received, with the verdict.
#[derive(Debug, Clone)]
pub struct Report {
    /// The thing of the topic.
    pub thing: String,
    /// The format of the topic.
    pub format: Format,
    /// The document, if it could be decoded at all.
    pub document: Value,
    /// Its `report_id`, if it has one.
    pub report_id: Option<u64>,
    /// Size of the payload in bytes.
    pub bytes: usize,
    /// `Err((ErrorCode, why))` when rejected; the why is for the test, AWS answers less.
    pub verdict: Result<(), (String, String)>,
}

/// What Device Defender remembers of each thing.
#[derive(Debug, Default)]
pub struct Defender {
    last: BTreeMap<String, (u64, u64)>,
}

impl Defender {
    /// Judges one report. `now` is epoch seconds; `enforce_rate` rejects reports that come too fast; `force` rejects
    /// whatever comes with the given ErrorCode.
    pub fn judge(
        &mut self,
        (thing, format): (&str, Format),
        payload: &[u8],
        now: u64,
        enforce_rate: bool,
        force: Option<&str>,
    ) -> Report {
        let document = match format {
            Format::Json => serde_json::from_slice(payload).map_err(|error| format!("not JSON: {error}")),
            Format::Cbor => decode_cbor(payload),
        };
        let (document, checked) = match document {
            Ok(document) => {
                let checked = if payload.len() > MAX_BYTES {
                    Err(format!("{} bytes", payload.len()))
                } else {
                    check_document(&document)
                };
                (document, checked)
            }
            Err(problem) => (Value::Null, Err(problem)),
        };
        let verdict = self.verdict(thing, &checked, now, enforce_rate, force);
        Report {
            thing: thing.to_owned(),
            format,
            report_id: checked.ok(),
            document,
            bytes: payload.len(),
            verdict,
        }
    }

    fn verdict(
        &mut self,
        thing: &str,
        checked: &Result<u64, String>,
        now: u64,
        enforce_rate: bool,
        force: Option<&str>,
    ) -> Result<(), (String, String)> {
        if let Some(code) = force {
            return Err((code.to_owned(), "the test said so".to_owned()));
        }
        let invalid = |problem: String| ("InvalidPayload".to_owned(), problem);
        let report_id = checked.clone().map_err(invalid)?;
        let last = self.last.get(thing).copied();
        if let Some((_, at)) = last.filter(|(_, at)| enforce_rate && now.saturating_sub(*at) < MIN_INTERVAL_SECONDS) {
            return Err((
                "Throttled".to_owned(),
                format!("{} s after the last report", now.saturating_sub(at)),
            ));
        }
        if let Some((id, _)) = last.filter(|(id, _)| report_id <= *id) {
            return Err(invalid(format!("report_id {report_id} is not above {id}")));
        }
        self.last.insert(thing.to_owned(), (report_id, now));
        Ok(())
    }
}

/// Topic and payload of AWS's answer.
pub fn answer(report: &Report, now: u64) -> (String, Vec<u8>) {
    let timestamp = now * 1000;
    let (suffix, body) = match &report.verdict {
        Ok(()) => (
            "accepted",
            json!({"thingName": report.thing, "reportId": report.report_id, "status": "ACCEPTED",
                   "timestamp": timestamp}),
        ),
        Err((code, _)) => (
            "rejected",
            json!({"thingName": report.thing, "status": "REJECTED",
                   "statusDetails": {"ErrorCode": code, "ErrorMessage": error_message(code)}, "timestamp": timestamp}),
        ),
    };
    let (format, payload) = match report.format {
        Format::Json => ("json", body.to_string().into_bytes()),
        Format::Cbor => {
            let mut bytes = Vec::new();
            ciborium::into_writer(&body, &mut bytes).unwrap();
            ("cbor", bytes)
        }
    };
    (
        format!("$aws/things/{}/defender/metrics/{format}/{suffix}", report.thing),
        payload,
    )
}

fn error_message(code: &str) -> &'static str {
    match code {
        "InvalidPayload" => "Malformed metrics report",
        "Throttled" => "Too many reports",
        _ => "Rejected",
    }
}

/// CBOR with text keys and no tags, as the JSON value it stands for.
fn decode_cbor(payload: &[u8]) -> Result<Value, String> {
    let mut rest = payload;
    let value: ciborium::Value = ciborium::from_reader(&mut rest).map_err(|error| format!("not CBOR: {error}"))?;
    if !rest.is_empty() {
        return Err(format!("{} bytes after the CBOR document", rest.len()));
    }
    cbor_to_json(value)
}

fn cbor_to_json(value: ciborium::Value) -> Result<Value, String> {
    Ok(match value {
        ciborium::Value::Integer(integer) => {
            let wide = i128::from(integer);
            u64::try_from(wide)
                .map(Value::from)
                .or_else(|_| i64::try_from(wide).map(Value::from))
                .map_err(|_| format!("integer {wide} out of range"))?
        }
        ciborium::Value::Float(float) => serde_json::Number::from_f64(float)
            .map(Value::Number)
            .ok_or_else(|| format!("number {float}"))?,
        ciborium::Value::Text(text) => Value::String(text),
        ciborium::Value::Bool(value) => Value::Bool(value),
        ciborium::Value::Null => Value::Null,
        ciborium::Value::Array(items) => Value::Array(items.into_iter().map(cbor_to_json).collect::<Result<_, _>>()?),
        ciborium::Value::Map(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                let key = key.into_text().map_err(|key| format!("key {key:?} is not text"))?;
                if object.insert(key.clone(), cbor_to_json(value)?).is_some() {
                    return Err(format!("key {key} twice"));
                }
            }
            Value::Object(object)
        }
        other => return Err(format!("CBOR item {other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Defender, Format, answer, report_topic};

    #[test]
    fn report_ids_increase_and_reports_are_spaced() {
        let mut defender = Defender::default();
        let mut judge = |id: u64, now: u64, thing: &str| {
            let report = json!({"header": {"report_id": id, "version": "1.0"},
                                "metrics": {"network_stats": {"bytes_in": 1}}});
            defender
                .judge((thing, Format::Json), report.to_string().as_bytes(), now, true, None)
                .verdict
                .map_err(|e| e.0)
        };
        assert_eq!(judge(10, 1000, "a"), Ok(()));
        assert_eq!(judge(11, 1299, "a"), Err("Throttled".to_owned()));
        assert_eq!(judge(11, 1299, "b"), Ok(()));
        assert_eq!(judge(10, 1300, "a"), Err("InvalidPayload".to_owned()));
        assert_eq!(judge(12, 1300, "a"), Ok(()));
    }

    #[test]
    fn cbor_is_read_and_answered_in_cbor() {
        let mut payload = Vec::new();
        let document = json!({"hed": {"rid": 1, "v": "1.0"}, "met": {"ns": {"bi": 1}}});
        ciborium::into_writer(&document, &mut payload).unwrap();
        let topic = report_topic("$aws/things/t/defender/metrics/cbor").unwrap();
        let report = Defender::default().judge(topic, &payload, 1, false, None);
        assert_eq!(report.verdict, Ok(()));
        let (topic, payload) = answer(&report, 7);
        assert_eq!(topic, "$aws/things/t/defender/metrics/cbor/accepted");
        let body: Value = ciborium::from_reader(payload.as_slice()).unwrap();
        assert_eq!(
            body,
            json!({"thingName": "t", "reportId": 1, "status": "ACCEPTED", "timestamp": 7000})
        );
        let report = Defender::default().judge(("t", Format::Cbor), b"\xff", 1, false, None);
        assert_eq!(
            report.verdict.map_err(|error| error.0),
            Err("InvalidPayload".to_owned())
        );
        assert!(report_topic("$aws/things/t/defender/metrics/json/accepted").is_none());
    }
}
