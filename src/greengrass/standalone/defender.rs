//! AWS IoT Device Defender's part: whether a report is one, and the answer to it. Pure.

use serde_json::{Value, json};

use crate::greengrass::topic::{MetricsFormat, MetricsStep};
use crate::model::{ThingName, UnixTime};

/// The answer AWS would give: `accepted` for anything that has a header with a report id and some metrics, under long
/// or short names, else `rejected`. The shape of both is AWS's.
pub(super) fn answer(thing: &ThingName, format: MetricsFormat, payload: &[u8], now: UnixTime) -> (MetricsStep, Value) {
    match report_id(format, payload) {
        Some(id) => {
            let answer = json!({"thingName": thing, "reportId": id, "status": "ACCEPTED", "timestamp": now.0});
            (MetricsStep::Accepted, answer)
        }
        None => {
            let details = json!({"ErrorCode": "InvalidPayload", "ErrorMessage": "Malformed metrics report"});
            let answer =
                json!({"thingName": thing, "status": "REJECTED", "statusDetails": details, "timestamp": now.0});
            (MetricsStep::Rejected, answer)
        }
    }
}

fn report_id(format: MetricsFormat, payload: &[u8]) -> Option<i64> {
    let report: Value = match format {
        MetricsFormat::Json => serde_json::from_slice(payload).ok()?,
        MetricsFormat::Cbor => ciborium::from_reader(payload).ok()?,
    };
    let either = |value: &Value, long: &str, short: &str| value.get(long).or_else(|| value.get(short)).cloned();
    let metrics = either(&report, "metrics", "met").or_else(|| either(&report, "custom_metrics", "cmet"))?;
    let header = either(&report, "header", "hed")?;
    either(&header, "version", "v")?.as_str()?;
    metrics.as_object()?;
    either(&header, "report_id", "rid")?.as_i64()
}

/// The answer's bytes, in the report's own format.
pub(super) fn encode(format: MetricsFormat, answer: &Value) -> Option<Vec<u8>> {
    match format {
        MetricsFormat::Json => Some(answer.to_string().into_bytes()),
        MetricsFormat::Cbor => {
            let mut bytes = Vec::new();
            ciborium::into_writer(answer, &mut bytes).ok()?;
            Some(bytes)
        }
    }
}
