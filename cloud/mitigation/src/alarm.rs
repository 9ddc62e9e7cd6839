//! What arrives: violation events of Device Defender Detect or of an Edge Warden, in the envelope of SNS or bare from
//! the IoT rule.

use std::fmt;

use aws_lambda_events::event::sns::SnsEvent;
use serde::Deserialize;
use serde_json::Value;

use crate::names::is_thing_name;

/// One violation event, checked: what the decision needs of it and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The thing that violates the behavior; `[a-zA-Z0-9:_-]{1,128}`.
    pub thing: String,
    /// Whether the alarm began or ended.
    pub kind: Kind,
    /// The same from an alarm's beginning to its end; `[a-zA-Z0-9-]{1,128}` (API ViolationEvent).
    pub violation: String,
    /// `violationEventTime`, milliseconds since 1970.
    pub time: u64,
    /// The security profile.
    pub profile: String,
    /// The behavior in it.
    pub behavior: String,
}

/// `violationEventType` (API ViolationEvent).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The behavior is violated.
    InAlarm,
    /// It was conformed to again.
    AlarmCleared,
    /// Nothing was heard for too long to tell.
    AlarmInvalidated,
}

impl Kind {
    /// AWS's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InAlarm => "in-alarm",
            Self::AlarmCleared => "alarm-cleared",
            Self::AlarmInvalidated => "alarm-invalidated",
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, thing) = (self.kind.as_str(), &self.thing);
        write!(
            f,
            "{kind} of {thing} ({}/{}, violation {})",
            self.profile, self.behavior, self.violation
        )
    }
}

/// Why an event is no alarm we can act on. Sending it again would change nothing.
#[derive(Debug, thiserror::Error)]
pub enum AlarmError {
    /// Neither an SNS event nor a violation event.
    #[error("the event is neither one of SNS nor a violation event")]
    Envelope(#[source] serde_json::Error),
    /// An SNS event without records.
    #[error("the SNS event has no records")]
    Empty,
    /// The message is not JSON or lacks a field.
    #[error("the message is no violation event")]
    Message(#[source] serde_json::Error),
    /// A field has a value AWS never sends.
    #[error("{field} of the violation event is {value:?}")]
    Field {
        /// Its name in AWS's event.
        field: &'static str,
        /// What it says, cut short.
        value: String,
    },
}

/// The fields used of AWS's event; it has more, and may get more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAlarm {
    thing_name: String,
    violation_event_type: Kind,
    violation_id: String,
    violation_event_time: u64,
    security_profile_name: String,
    behavior: RawBehavior,
}

#[derive(Debug, Deserialize)]
struct RawBehavior {
    name: String,
}

/// The alarms in what Lambda was called with; one that cannot be understood does not hide the others.
///
/// # Errors
/// When the event as a whole is none of ours.
pub fn read(event: Value) -> Result<Vec<Result<Alarm, AlarmError>>, AlarmError> {
    if event.get("Records").is_none() {
        return Ok(vec![check(serde_json::from_value(event).map_err(AlarmError::Message)?)]);
    }
    let envelope: SnsEvent = serde_json::from_value(event).map_err(AlarmError::Envelope)?;
    if envelope.records.is_empty() {
        return Err(AlarmError::Empty);
    }
    let message = |text: String| check(serde_json::from_str(&text).map_err(AlarmError::Message)?);
    Ok(envelope
        .records
        .into_iter()
        .map(|record| message(record.sns.message))
        .collect())
}

fn check(raw: RawAlarm) -> Result<Alarm, AlarmError> {
    let id = |text: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=128).contains(&text.len()) && text.bytes().all(allowed)
    };
    let fields = [
        ("thingName", &raw.thing_name, is_thing_name(&raw.thing_name)),
        ("violationId", &raw.violation_id, id(&raw.violation_id)),
        // Examples of AWS have names with spaces where the API allows none; they only go into a text.
        (
            "securityProfileName",
            &raw.security_profile_name,
            is_text(&raw.security_profile_name),
        ),
        ("behavior.name", &raw.behavior.name, is_text(&raw.behavior.name)),
    ];
    for (field, value, good) in fields {
        if !good {
            let value = value.chars().take(64).collect();
            return Err(AlarmError::Field { field, value });
        }
    }
    Ok(Alarm {
        thing: raw.thing_name,
        kind: raw.violation_event_type,
        violation: raw.violation_id,
        time: raw.violation_event_time,
        profile: raw.security_profile_name,
        behavior: raw.behavior.name,
    })
}

fn is_text(text: &str) -> bool {
    (1..=128).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test may stop at the first surprise"
    )]

    use serde_json::json;

    use super::*;

    fn violation() -> Value {
        json!({
            "violationEventTime": 1_573_786_800_000_u64, "thingName": "dev-IZWB", "violationEventType": "in-alarm",
            "behavior": {"name": "MessagesPub", "metric": "aws:num-messages-sent", "criteria": {"durationSeconds": 300}},
            "metricValue": {"count": 54}, "violationId": "37e18651d207bbc74236c13faf146127",
            "securityProfileName": "MySecProfile",
        })
    }

    fn sns(messages: &[&str]) -> Value {
        let record = |message: &&str| {
            json!({
                "EventSource": "aws:sns", "EventVersion": "1.0", "EventSubscriptionArn": "arn:aws:sns:r:1:t:s",
                "Sns": {
                    "Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:r:1:t", "Subject": null,
                    "Message": message, "Timestamp": "2019-11-15T03:00:36.527Z", "SignatureVersion": "1",
                    "Signature": "s", "SigningCertUrl": "https://example.com/a", "MessageAttributes": {},
                    "UnsubscribeUrl": "https://example.com/b",
                },
            })
        };
        json!({"Records": messages.iter().map(record).collect::<Vec<_>>()})
    }

    #[test]
    fn sns_and_the_rule_bring_the_same_alarm() {
        let bare = read(violation()).unwrap().remove(0).unwrap();
        assert_eq!(
            (bare.thing.as_str(), bare.kind, bare.time),
            ("dev-IZWB", Kind::InAlarm, 1_573_786_800_000)
        );
        assert_eq!(
            (bare.profile.as_str(), bare.behavior.as_str()),
            ("MySecProfile", "MessagesPub")
        );
        let wrapped = read(sns(&[&violation().to_string()])).unwrap().remove(0).unwrap();
        assert_eq!(wrapped, bare);
    }

    #[test]
    fn the_rule_may_add_the_core_to_it() {
        let mut event = violation();
        event["core"] = json!("gateway-1");
        assert!(read(event).unwrap()[0].is_ok());
    }

    #[test]
    fn a_record_that_makes_no_sense_hides_no_other() {
        let alarms = read(sns(&["{", &violation().to_string(), "[]"])).unwrap();
        assert_eq!(
            alarms.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [false, true, false]
        );
    }

    #[test]
    fn each_kind_has_its_word() {
        for kind in [Kind::InAlarm, Kind::AlarmCleared, Kind::AlarmInvalidated] {
            let mut event = violation();
            event["violationEventType"] = json!(kind.as_str());
            assert_eq!(read(event).unwrap()[0].as_ref().unwrap().kind, kind);
        }
    }

    #[test]
    fn what_aws_never_sends_is_refused_by_name() {
        for (field, value) in [
            ("thingName", json!("")),
            ("thingName", json!("a/b")),
            ("thingName", json!("+")),
            ("thingName", json!("x".repeat(129))),
            ("violationId", json!("a b")),
            ("violationId", json!("")),
            ("securityProfileName", json!("a\nb")),
        ] {
            let mut event = violation();
            event[field] = value;
            match &read(event).unwrap()[0] {
                Err(AlarmError::Field { field: named, .. }) => assert_eq!(*named, field),
                other => assert!(other.is_err(), "{other:?}"),
            }
        }
        for gone in [
            "thingName",
            "violationEventType",
            "violationId",
            "violationEventTime",
            "behavior",
        ] {
            let mut event = violation();
            event.as_object_mut().unwrap().remove(gone);
            let error = read(event).unwrap_err();
            assert!(matches!(error, AlarmError::Message(_)), "{gone}: {error}");
        }
        let mut event = violation();
        event["violationEventType"] = json!("alarm-of-tomorrow");
        assert!(matches!(read(event), Err(AlarmError::Message(_))));
    }

    #[test]
    fn envelopes_of_others_are_refused() {
        assert!(matches!(read(json!({"Records": []})), Err(AlarmError::Empty)));
        assert!(matches!(
            read(json!({"Records": [{"s3": {}}]})),
            Err(AlarmError::Envelope(_))
        ));
        assert!(matches!(read(json!([1, 2])), Err(AlarmError::Message(_))));
    }
}
