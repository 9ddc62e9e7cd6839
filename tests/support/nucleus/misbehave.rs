//! What can go wrong on demand.

use std::time::Duration;

use super::frame::{APPLICATION_MESSAGE, Frame};
use super::state::State;

/// A rule. Operations are named without their prefix: `PublishToIoTCore`; `*` means every one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misbehave {
    /// Answer with this error, e.g. `ServiceError`, `UnauthorizedError`.
    Refuse {
        /// The operation.
        operation: String,
        /// The error code.
        code: String,
    },
    /// Carry it out and answer, but late.
    Delay {
        /// The operation.
        operation: String,
        /// How late.
        by: Duration,
    },
    /// Do nothing.
    NeverAnswer {
        /// The operation.
        operation: String,
    },
    /// Close the connection instead.
    Disconnect {
        /// The operation.
        operation: String,
    },
    /// Take the publish and lose it: no Defender answer, no shadow, nobody hears of it.
    LosePublish,
    /// Reject every report with this ErrorCode.
    RejectReports {
        /// `InvalidPayload`, `Throttled`, ...
        code: String,
    },
    /// Judge reports but let the answers disappear.
    SwallowReplies,
    /// Answer reports with bytes that are neither JSON nor CBOR.
    GarbageReplies,
}

impl Misbehave {
    fn operation(&self) -> Option<&str> {
        match self {
            Misbehave::Refuse { operation, .. }
            | Misbehave::Delay { operation, .. }
            | Misbehave::NeverAnswer { operation }
            | Misbehave::Disconnect { operation } => Some(operation),
            _ => None,
        }
    }
}

/// A message no client should get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Bytes that are no event-stream prelude.
    Garbage,
    /// A frame whose last checksum is wrong.
    WrongCrc,
    /// Half a frame, then the end of the connection.
    Truncated,
    /// A well-formed frame on a stream nobody opened.
    UnknownStream,
    /// A stream event that is not JSON.
    NotJson,
    /// A stream event that is JSON of another shape.
    WrongShape,
    /// A stream event whose payload is not base64.
    NotBase64,
    /// A stream event of 300 KB, more than AWS IoT Core can deliver.
    Oversized,
}

impl State {
    /// The first rule for an operation, spending one of its times.
    pub(super) fn rule_for_operation(&mut self, operation: &str) -> Option<Misbehave> {
        self.take_rule(|rule| rule.operation().is_some_and(|named| named == "*" || named == operation))
    }

    /// The first rule that `applies`, spending one of its times.
    pub(super) fn take_rule(&mut self, applies: impl Fn(&Misbehave) -> bool) -> Option<Misbehave> {
        let index = self.rules.iter().position(|(rule, _)| applies(rule))?;
        let (rule, times) = &mut self.rules[index];
        let rule = rule.clone();
        if let Some(times) = times {
            *times -= 1;
            if *times == 0 {
                self.rules.remove(index);
            }
        }
        Some(rule)
    }

    pub(super) fn send_malformed(&mut self, what: Malformed) {
        for id in self.connection_ids() {
            let stream = self.first_stream(id).unwrap_or(1);
            let event = |payload: Vec<u8>| Frame {
                message_type: APPLICATION_MESSAGE,
                flags: 0,
                stream,
                headers: vec![
                    (":content-type".to_owned(), "application/json".to_owned()),
                    (
                        "service-model-type".to_owned(),
                        "aws.greengrass#IoTCoreMessage".to_owned(),
                    ),
                ],
                payload,
            };
            let message = |payload: &str| format!(r#"{{"message":{{"topicName":"t","payload":"{payload}"}}}}"#);
            let good = event(message("e30=").into_bytes());
            let bytes = match what {
                Malformed::Garbage => b"this is no event-stream message at all, but long enough for one".to_vec(),
                Malformed::WrongCrc => {
                    let mut bytes = good.encode();
                    *bytes.last_mut().unwrap() ^= 0xff;
                    bytes
                }
                Malformed::Truncated => {
                    let bytes = good.encode();
                    bytes[..bytes.len() / 2].to_vec()
                }
                Malformed::UnknownStream => Frame {
                    stream: i32::MAX,
                    ..good
                }
                .encode(),
                Malformed::NotJson => event(b"{\"message\":".to_vec()).encode(),
                Malformed::WrongShape => event(b"{\"message\":[1,2]}".to_vec()).encode(),
                Malformed::NotBase64 => event(message("%%%").into_bytes()).encode(),
                Malformed::Oversized => event(message(&"A".repeat(300_000)).into_bytes()).encode(),
            };
            self.send_bytes(id, bytes);
            if what == Malformed::Truncated {
                self.close(id);
            }
        }
    }
}
