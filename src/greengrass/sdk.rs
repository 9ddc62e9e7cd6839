//! The real nucleus, over AWS's own SDK: the only module that names `gg_sdk`; `raw` holds the only `unsafe`.
//!
//! The SDK offers typed wrappers and, beneath them, the raw calls of its public header `gg/ipc/client_raw.h`. This file
//! uses the raw ones, for four reasons found in the SDK's source (1.1.0):
//! - a typed subscription is *closed for good, silently*, by one message its wrapper cannot read (`client.c`,
//!   `dispatch_incoming_packet`): one oversized MQTT message from a hostile device would end it. A raw callback decides
//!   itself, and here never ends a subscription;
//! - the typed calls throw the nucleus' error code and message away; operators need them;
//! - the crate's generic `Sdk::call` and `Sdk::subscribe` make a slice from a null pointer when the answer is `{}`, the
//!   usual answer to a publish, which is undefined behaviour;
//! - a failed `Sdk::connect` can never be tried again.
//!
//! When the connection to the nucleus is lost the SDK ends the process with `_Exit(1)`, from a thread of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gg_sdk::{Kv, Object};
use serde_json::Value;

use super::{ComponentState, Destination, IncomingSender, Nucleus, NucleusError, NucleusKind, SubscriptionId};
use crate::model::ThingName;

mod raw;
mod read;

use raw::{Sink, Subscription, describe, raw_call, raw_connect, raw_subscribe, start_receiving};
#[cfg(any(test, fuzzing))]
pub(crate) use read::fuzz;
use read::{Source, find, text, to_value};

/// Longest string the SDK's objects can hold: their length is a `u16` (`csrc/object.c`, `gg_obj_buf`).
const MAX_STRING_BYTES: usize = u16::MAX as usize;
/// Largest IPC packet nucleus lite takes (`ipc_server.h`); a larger one makes it close the connection.
const LITE_MAX_PACKET_BYTES: usize = 10_000;
/// What a packet holds beside its payload and names: prelude, headers, JSON keys. At most 260 bytes, rounded up.
const PACKET_OVERHEAD_BYTES: usize = 400;

/// The limits the SDK's C part was compiled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpcLimits {
    /// `GG_IPC_MAX_MSG_LEN`: bytes of one packet, in either direction. A longer incoming one ends the process.
    pub max_message_bytes: usize,
    /// `GG_IPC_MAX_STREAMS`: subscriptions plus calls in flight.
    pub max_streams: usize,
}

/// The limits this binary was built with: those in `CFLAGS` (`.cargo/config.toml`), which the SDK's build script reads,
/// else the SDK's defaults.
#[must_use]
pub fn ipc_limits() -> IpcLimits {
    let flags = option_env!("CFLAGS").unwrap_or_default();
    let value = |name: &str| {
        flags
            .split_whitespace()
            .find_map(|flag| flag.strip_prefix(name)?.parse().ok())
    };
    IpcLimits {
        max_message_bytes: value("-DGG_IPC_MAX_MSG_LEN=").unwrap_or(LITE_MAX_PACKET_BYTES),
        max_streams: value("-DGG_IPC_MAX_STREAMS=").unwrap_or(16),
    }
}

/// The largest payload in bytes that fits one publish, or `None` without such a limit. On the classic nucleus it is
/// 49,149: base64 of it is the longest string the SDK can carry, less than the 128 KB AWS IoT takes.
#[must_use]
pub fn max_payload_bytes(kind: NucleusKind) -> Option<usize> {
    match kind {
        NucleusKind::Classic => Some(MAX_STRING_BYTES / 4 * 3),
        // The longest topic AWS IoT knows has 256 bytes.
        NucleusKind::Lite => Some((LITE_MAX_PACKET_BYTES - PACKET_OVERHEAD_BYTES - 256) / 4 * 3),
        NucleusKind::Standalone => None,
    }
}

/// How many messages arrived that could not be read (not base64, not UTF-8, longer than the SDK's strings).
#[must_use]
pub fn unreadable_messages() -> u64 {
    raw::UNREADABLE.load(Ordering::Relaxed)
}

/// What the nucleus puts into a component's environment.
#[derive(Clone, PartialEq, Eq)]
struct Environment {
    token: String,
    socket: String,
    thing_name: String,
}

impl Environment {
    fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, NucleusError> {
        let get = |name: &str| {
            let missing = || NucleusError::NotAComponent {
                what: format!("{name} is not set"),
            };
            lookup(name).filter(|value| !value.is_empty()).ok_or_else(missing)
        };
        Ok(Self {
            token: get("SVCUID")?,
            socket: get("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT")?,
            thing_name: get("AWS_IOT_THING_NAME")?,
        })
    }

    /// Both nuclei speak the same protocol; only the socket's name tells them apart.
    fn kind(&self) -> NucleusKind {
        match Path::new(&self.socket).file_name() {
            Some(name) if name == "gg-ipc.socket" => NucleusKind::Lite,
            _ => NucleusKind::Classic,
        }
    }

    fn thing(&self) -> Result<ThingName, NucleusError> {
        let wrong = |error| NucleusError::NotAComponent {
            what: format!("AWS_IOT_THING_NAME: {error}"),
        };
        self.thing_name.parse().map_err(wrong)
    }
}

/// A Greengrass nucleus, reached over IPC. There is one connection per process, and it is never closed.
pub struct SdkNucleus {
    kind: NucleusKind,
    thing_name: ThingName,
    incoming: IncomingSender,
    subscriptions: HashMap<SubscriptionId, Subscription>,
    next_id: u64,
    configuration_watch: Option<Subscription>,
}

/// The core device's thing name, if this process was started by a nucleus: cheap, and without side effects.
///
/// # Errors
/// [`NucleusError::NotAComponent`] naming the variable that is missing or wrong.
pub fn started_as_component() -> Result<ThingName, NucleusError> {
    Environment::read(|name| std::env::var(name).ok())?.thing()
}

/// The nucleus' socket, as it told this process.
#[must_use]
pub fn socket_path() -> Option<PathBuf> {
    let environment = Environment::read(|name| std::env::var(name).ok()).ok()?;
    Some(PathBuf::from(environment.socket))
}

impl SdkNucleus {
    /// Connect with what the environment says (`SVCUID`, `AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT`,
    /// `AWS_IOT_THING_NAME`). Blocks up to 20 s on a nucleus that stalls.
    ///
    /// # Errors
    /// [`NucleusError::NotAComponent`] naming the missing variable, [`NucleusError::NoConnection`] when the nucleus does
    /// not answer or refuses the token (it may be tried again), [`NucleusError::Failed`] when already connected.
    pub fn connect(incoming: IncomingSender) -> Result<Self, NucleusError> {
        Self::connect_to(&Environment::read(|name| std::env::var(name).ok())?, incoming)
    }

    fn connect_to(environment: &Environment, incoming: IncomingSender) -> Result<Self, NucleusError> {
        static CONNECTED: AtomicBool = AtomicBool::new(false);
        let thing_name = environment.thing()?;
        let what = format!("connect to {}", environment.socket);
        if environment.socket.len() > 107 {
            return Err(NucleusError::NoConnection {
                what,
                detail: "the path is longer than 107 bytes".to_owned(),
            });
        }
        if environment.token.len() > MAX_STRING_BYTES {
            return Err(NucleusError::NotAComponent {
                what: "SVCUID is not a token".to_owned(),
            });
        }
        if CONNECTED.swap(true, Ordering::AcqRel) {
            return Err(NucleusError::Failed {
                what,
                detail: "this process already has a connection".to_owned(),
            });
        }
        start_receiving();
        if let Err(code) = raw_connect(&environment.socket, &environment.token) {
            CONNECTED.store(false, Ordering::Release);
            return Err(NucleusError::NoConnection {
                what,
                detail: describe(code),
            });
        }
        Ok(Self {
            kind: environment.kind(),
            thing_name,
            incoming,
            subscriptions: HashMap::new(),
            next_id: 0,
            configuration_watch: None,
        })
    }

    /// Base64 of `payload`, or `TooLarge` when the packet would not fit; sending it anyway would end the process.
    fn encode(&self, what: &str, names: usize, payload: &[u8]) -> Result<String, NucleusError> {
        let limit = match self.kind {
            NucleusKind::Lite => LITE_MAX_PACKET_BYTES.min(ipc_limits().max_message_bytes),
            NucleusKind::Classic | NucleusKind::Standalone => ipc_limits().max_message_bytes,
        };
        let encoded = payload.len().div_ceil(3).saturating_mul(4);
        let packet = encoded.saturating_add(names).saturating_add(PACKET_OVERHEAD_BYTES);
        if encoded > MAX_STRING_BYTES || packet > limit {
            return Err(NucleusError::TooLarge {
                what: what.to_owned(),
                bytes: payload.len(),
            });
        }
        Ok(STANDARD.encode(payload))
    }

    /// A nucleus without ShadowManager answers shadow operations with `ServiceError` (nucleus lite), or with an empty
    /// answer that has no payload.
    fn shadow_error(&self, error: NucleusError) -> NucleusError {
        match error {
            NucleusError::Failed { what, .. } if self.kind == NucleusKind::Lite => NucleusError::Unsupported { what },
            other => other,
        }
    }

    fn open(
        &self,
        operation: &str,
        object: &str,
        params: &[Kv<'_>],
        source: Source,
    ) -> Result<Subscription, NucleusError> {
        let used = self.subscriptions.len() + usize::from(self.configuration_watch.is_some());
        // One stream stays free, or no call could be made any more.
        if used + 1 >= ipc_limits().max_streams {
            let detail = format!("{used} subscriptions are as many as the SDK has streams for");
            return Err(NucleusError::Failed {
                what: format!("{operation} {object}"),
                detail,
            });
        }
        let sink = Box::new(Sink {
            source,
            incoming: self.incoming.clone(),
        });
        raw_subscribe(operation, object, params, sink)
    }
}

impl Nucleus for SdkNucleus {
    fn kind(&self) -> NucleusKind {
        self.kind
    }

    fn thing_name(&self) -> Result<ThingName, NucleusError> {
        Ok(self.thing_name.clone())
    }

    fn configuration(&mut self) -> Result<Value, NucleusError> {
        // An empty key path means everything; without a component name it is our own.
        let params = [Kv::new("keyPath", Object::list(&[]))];
        let mut value = None;
        let answer = raw_call(
            "GetConfiguration",
            "(own component)",
            &params,
            0,
            Some(&mut |answer| {
                value = find(answer, "value").and_then(|object| to_value(object, 0));
                value.is_some()
            }),
        );
        match answer {
            Ok(()) => Ok(value.unwrap_or_else(|| Value::Object(serde_json::Map::new()))),
            Err(NucleusError::NotFound { .. }) => Ok(Value::Object(serde_json::Map::new())),
            Err(NucleusError::TooLarge { what, .. }) => Err(NucleusError::Failed {
                what,
                detail: "the configuration has more values than one answer may hold (about 120); move lists to files \
                         named under `include`"
                    .to_owned(),
            }),
            Err(error) => Err(error),
        }
    }

    fn watch_configuration(&mut self) -> Result<(), NucleusError> {
        self.configuration_watch = None;
        let params = [Kv::new("keyPath", Object::list(&[]))];
        let watch = self.open(
            "SubscribeToConfigurationUpdate",
            "(own component)",
            &params,
            Source::Configuration,
        )?;
        self.configuration_watch = Some(watch);
        Ok(())
    }

    fn publish(&mut self, to: Destination, topic: &str, payload: &[u8]) -> Result<(), NucleusError> {
        let operation = match to {
            Destination::IotCore => "PublishToIoTCore",
            Destination::Local => "PublishToTopic",
        };
        let encoded = self.encode(&format!("{operation} {topic}"), topic.len(), payload)?;
        let topic_value = Object::buf(topic);
        let payload_value = Object::buf(&encoded);
        match to {
            Destination::IotCore => {
                let params = [
                    Kv::new("topicName", topic_value),
                    Kv::new("payload", payload_value),
                    Kv::new("qos", Object::buf("1")),
                ];
                raw_call(operation, topic, &params, payload.len(), None)
            }
            Destination::Local => {
                let message = [Kv::new("message", payload_value)];
                let binary = [Kv::new("binaryMessage", Object::map(&message))];
                let params = [
                    Kv::new("topic", topic_value),
                    Kv::new("publishMessage", Object::map(&binary)),
                ];
                raw_call(operation, topic, &params, payload.len(), None)
            }
        }
    }

    fn subscribe(&mut self, from: Destination, filter: &str) -> Result<SubscriptionId, NucleusError> {
        let subscription = match from {
            Destination::IotCore => {
                let params = [
                    Kv::new("topicName", Object::buf(filter)),
                    Kv::new("qos", Object::buf("1")),
                ];
                self.open("SubscribeToIoTCore", filter, &params, Source::IotCore)?
            }
            Destination::Local => {
                let params = [Kv::new("topic", Object::buf(filter))];
                self.open("SubscribeToTopic", filter, &params, Source::Local)?
            }
        };
        self.next_id += 1;
        let id = SubscriptionId(self.next_id);
        self.subscriptions.insert(id, subscription);
        Ok(id)
    }

    fn unsubscribe(&mut self, id: SubscriptionId) {
        self.subscriptions.remove(&id);
    }

    fn update_state(&mut self, state: ComponentState) -> Result<(), NucleusError> {
        let state = match state {
            ComponentState::Running => "RUNNING",
            ComponentState::Errored => "ERRORED",
        };
        raw_call("UpdateState", state, &[Kv::new("state", Object::buf(state))], 0, None)
    }

    fn thing_shadow(&mut self, thing: &ThingName, shadow: Option<&str>) -> Result<Vec<u8>, NucleusError> {
        let mut params = vec![Kv::new("thingName", Object::buf(thing.as_str()))];
        params.extend(shadow.map(|name| Kv::new("shadowName", Object::buf(name))));
        let mut document = None;
        raw_call(
            "GetThingShadow",
            &shadow_object(thing, shadow),
            &params,
            0,
            Some(&mut |answer| {
                document = find(answer, "payload")
                    .and_then(text)
                    .and_then(|encoded| STANDARD.decode(encoded).ok());
                document.is_some()
            }),
        )
        .map_err(|error| self.shadow_error(error))?;
        Ok(document.unwrap_or_default())
    }

    fn update_thing_shadow(
        &mut self,
        thing: &ThingName,
        shadow: Option<&str>,
        document: &[u8],
    ) -> Result<(), NucleusError> {
        let object = shadow_object(thing, shadow);
        let names = thing.as_str().len() + shadow.map_or(0, str::len);
        let encoded = self.encode(&format!("UpdateThingShadow {object}"), names, document)?;
        let mut params = vec![Kv::new("thingName", Object::buf(thing.as_str()))];
        params.extend(shadow.map(|name| Kv::new("shadowName", Object::buf(name))));
        params.push(Kv::new("payload", Object::buf(&encoded)));
        // The updated document must come back: an answer without it is that of a nucleus without ShadowManager.
        raw_call(
            "UpdateThingShadow",
            &object,
            &params,
            document.len(),
            Some(&mut |answer| find(answer, "payload").is_some()),
        )
        .map_err(|error| self.shadow_error(error))
    }
}

fn shadow_object(thing: &ThingName, shadow: Option<&str>) -> String {
    match shadow {
        None => format!("{thing} (classic shadow)"),
        Some(name) => format!("{thing} (shadow {name})"),
    }
}

#[cfg(test)]
mod tests;
