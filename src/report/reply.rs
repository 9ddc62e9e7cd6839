//! What the service answers on `.../accepted` and `.../rejected`.

use std::fmt::Write as _;

use serde::Deserialize;

use super::Format;
use crate::model::UnixTime;

/// Longest text kept of a reply, in characters: an error message goes into logs and `status`.
const TEXT_LIMIT: usize = 300;
/// Most bytes of an unreadable reply quoted in an error.
const EXCERPT_BYTES: usize = 80;

/// A reply to a report. "Accepted" means that the report could be parsed, no more (developer guide, "Device Defender
/// troubleshooting").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `thingName` as the service sent it.
    pub thing: Option<String>,
    /// `reportId`; AWS's example of a rejection has none.
    pub report_id: Option<u64>,
    /// Accepted or rejected.
    pub outcome: Outcome,
    /// `timestamp`, by the service's clock.
    pub timestamp: Option<UnixTime>,
}

/// What became of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Status `ACCEPTED`.
    Accepted,
    /// Status `REJECTED`.
    Rejected(Rejection),
}

/// `statusDetails` of a rejection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejection {
    /// `ErrorCode`: any text, since AWS documents only `InvalidPayload` and sends others.
    pub code: Option<String>,
    /// `ErrorMessage`.
    pub message: Option<String>,
}

impl Rejection {
    /// True when the service asks for fewer reports.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.code.as_deref() == Some("Throttled")
    }
}

/// A reply that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// No JSON, or not the reply's fields.
    #[error("not a Device Defender reply in JSON: {excerpt}")]
    Json {
        /// The beginning of what came, made printable.
        excerpt: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// No CBOR, or not the reply's fields.
    #[error("not a Device Defender reply in CBOR: {excerpt}")]
    Cbor {
        /// The beginning of what came, in hexadecimal.
        excerpt: String,
        /// What the parser says.
        #[source]
        source: ciborium::de::Error<std::io::Error>,
    },
    /// Bytes after the end of the CBOR item.
    #[error("Device Defender reply in CBOR: {extra} more bytes after its end: {excerpt}")]
    Trailing {
        /// How many.
        extra: usize,
        /// The beginning of what came, in hexadecimal.
        excerpt: String,
    },
    /// Neither accepted nor rejected.
    #[error("Device Defender reply with status {status:?} (expected ACCEPTED or REJECTED)")]
    Status {
        /// The status sent, shortened.
        status: String,
    },
}

/// The reply on the wire. Fields we do not know are none of our business.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    thing_name: Option<String>,
    report_id: Option<u64>,
    status: String,
    status_details: Option<WireDetails>,
    timestamp: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireDetails {
    error_code: Option<String>,
    error_message: Option<String>,
}

impl Reply {
    /// Reads a reply; `format` is that of the topic it came on.
    ///
    /// # Errors
    /// Any [`ReplyError`], quoting no more than the beginning of `bytes`.
    pub fn parse(bytes: &[u8], format: Format) -> Result<Self, ReplyError> {
        let wire: Wire = match format {
            Format::Json => serde_json::from_slice(bytes).map_err(|source| ReplyError::Json {
                excerpt: printable(bytes),
                source,
            })?,
            Format::Cbor => {
                let mut rest = bytes;
                let wire = ciborium::from_reader(&mut rest).map_err(|source| ReplyError::Cbor {
                    excerpt: hexadecimal(bytes),
                    source,
                })?;
                if !rest.is_empty() {
                    return Err(ReplyError::Trailing {
                        extra: rest.len(),
                        excerpt: hexadecimal(bytes),
                    });
                }
                wire
            }
        };
        let outcome = match wire.status.as_str() {
            "ACCEPTED" => Outcome::Accepted,
            "REJECTED" => Outcome::Rejected(
                wire.status_details
                    .map_or_else(Rejection::default, |details| Rejection {
                        code: details.error_code.as_deref().map(shortened),
                        message: details.error_message.as_deref().map(shortened),
                    }),
            ),
            other => {
                return Err(ReplyError::Status {
                    status: shortened(other),
                });
            }
        };
        Ok(Self {
            thing: wire.thing_name.as_deref().map(shortened),
            report_id: wire.report_id,
            outcome,
            timestamp: wire.timestamp.map(UnixTime),
        })
    }
}

pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_LIMIT) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn head(bytes: &[u8]) -> (&[u8], &'static str) {
    match bytes.get(..EXCERPT_BYTES) {
        Some(head) if head.len() < bytes.len() => (head, "..."),
        _ => (bytes, ""),
    }
}

fn printable(bytes: &[u8]) -> String {
    let (head, more) = head(bytes);
    format!("\"{}\"{more}", head.escape_ascii())
}

fn hexadecimal(bytes: &[u8]) -> String {
    let (head, more) = head(bytes);
    let mut text = head.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    text.push_str(more);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn cbor(value: &serde_json::Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn d2_10_an_accepted_reply_is_read_in_both_formats() {
        let value = json!({"thingName": "DefenderWorkshopThing", "reportId": 1_542_697_506_u64, "status": "ACCEPTED",
                           "timestamp": 1_542_697_506_269_u64});
        let expected = Reply {
            thing: Some("DefenderWorkshopThing".into()),
            report_id: Some(1_542_697_506),
            outcome: Outcome::Accepted,
            timestamp: Some(UnixTime(1_542_697_506_269)),
        };
        assert_eq!(
            Reply::parse(value.to_string().as_bytes(), Format::Json).unwrap(),
            expected
        );
        assert_eq!(Reply::parse(&cbor(&value), Format::Cbor).unwrap(), expected);
    }

    #[test]
    fn a_rejection_needs_no_report_id_and_its_code_is_open() {
        let value = json!({"thingName": "myThing", "status": "REJECTED", "timestamp": 1_635_802_047_699_u64, "new": [1],
                           "statusDetails": {"ErrorCode": "SomethingNew", "ErrorMessage": "Malformed metrics report"}});
        for (bytes, format) in [
            (value.to_string().into_bytes(), Format::Json),
            (cbor(&value), Format::Cbor),
        ] {
            let reply = Reply::parse(&bytes, format).unwrap();
            assert_eq!(reply.report_id, None);
            let Outcome::Rejected(rejection) = reply.outcome else {
                panic!("rejected");
            };
            assert_eq!(rejection.code.as_deref(), Some("SomethingNew"));
            assert_eq!(rejection.message.as_deref(), Some("Malformed metrics report"));
            assert!(!rejection.is_throttled());
        }
        let bare = Reply::parse(br#"{"status":"REJECTED"}"#, Format::Json).unwrap();
        assert_eq!(bare.outcome, Outcome::Rejected(Rejection::default()));
    }

    #[test]
    fn throttled_is_recognised() {
        let bytes = br#"{"status":"REJECTED","statusDetails":{"ErrorCode":"Throttled"}}"#;
        let Outcome::Rejected(rejection) = Reply::parse(bytes, Format::Json).unwrap().outcome else {
            panic!("rejected");
        };
        assert!(rejection.is_throttled());
    }

    #[test]
    fn garbage_is_named_and_quoted_in_bounds() {
        let mut noise = b"<html>\x00\xff".to_vec();
        noise.resize(100_000, b'x');
        let error = Reply::parse(&noise, Format::Json).unwrap_err().to_string();
        assert!(error.contains(r#""<html>\x00\xff"#) && error.len() < 500, "{error}");
        let error = Reply::parse(&noise, Format::Cbor).unwrap_err().to_string();
        assert!(error.contains("3c68746d6c3e00ff") && error.len() < 500, "{error}");
        for bytes in [
            &b""[..],
            b"{}",
            b"null",
            b"[]",
            br#"{"status":1}"#,
            br#"{"status":"ACCEPTED"} x"#,
        ] {
            assert!(Reply::parse(bytes, Format::Json).is_err(), "{bytes:?}");
        }
        let mut doubled = cbor(&json!({"status": "ACCEPTED"}));
        doubled.push(0);
        assert!(matches!(
            Reply::parse(&doubled, Format::Cbor),
            Err(ReplyError::Trailing { extra: 1, .. })
        ));
        let maybe = Reply::parse(br#"{"status":"MAYBE"}"#, Format::Json)
            .unwrap_err()
            .to_string();
        assert!(maybe.contains("MAYBE"), "{maybe}");
    }

    #[test]
    fn a_long_message_is_shortened() {
        let value = json!({"status": "REJECTED", "statusDetails": {"ErrorMessage": "\u{fc}".repeat(10_000)}});
        let Outcome::Rejected(rejection) = Reply::parse(value.to_string().as_bytes(), Format::Json)
            .unwrap()
            .outcome
        else {
            panic!("rejected");
        };
        assert_eq!(rejection.message.unwrap().chars().count(), TEXT_LIMIT + 3);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            for format in [Format::Json, Format::Cbor] {
                if let Err(error) = Reply::parse(&bytes, format) {
                    prop_assert!(error.to_string().len() < 500);
                }
            }
        }
    }
}
