//! The real nucleus, over AWS's own SDK: the only file that names `gg_sdk`, and the only one with `unsafe`.
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
#![allow(
    unsafe_code,
    reason = "the C calls of gg/ipc/client_raw.h; every block states why it is sound"
)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gg_sdk::{Kv, Map, Object, Sdk, UnpackedObject};
use serde_json::Value;

use super::{
    ComponentState, Destination, Incoming, IncomingSender, Nucleus, NucleusError, NucleusKind, SubscriptionId,
};
use crate::model::ThingName;

/// Longest string the SDK's objects can hold: their length is a `u16` (`csrc/object.c`, `gg_obj_buf`).
const MAX_STRING_BYTES: usize = u16::MAX as usize;
/// Largest IPC packet nucleus lite takes (`ipc_server.h`); a larger one makes it close the connection.
const LITE_MAX_PACKET_BYTES: usize = 10_000;
/// What a packet holds beside its payload and names: prelude, headers, JSON keys. At most 260 bytes, rounded up.
const PACKET_OVERHEAD_BYTES: usize = 400;
/// Objects nested deeper than this are refused; the SDK's own bound is 15.
const MAX_DEPTH: usize = 16;

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

static UNREADABLE: AtomicU64 = AtomicU64::new(0);

/// How many messages arrived that could not be read (not base64, not UTF-8, longer than the SDK's strings).
#[must_use]
pub fn unreadable_messages() -> u64 {
    UNREADABLE.load(Ordering::Relaxed)
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

impl SdkNucleus {
    /// Connect with what the environment says (`SVCUID`, `AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT`,
    /// `AWS_IOT_THING_NAME`). Blocks up to 20 s on a nucleus that stalls.
    ///
    /// # Errors
    /// [`NucleusError::NotAComponent`] naming the missing variable, [`NucleusError::NoConnection`] when the nucleus does
    /// not answer or refuses the token (it may be tried again), [`NucleusError::Failed`] when already connected.
    pub fn connect(incoming: IncomingSender) -> Result<Self, NucleusError> {
        static CONNECTED: AtomicBool = AtomicBool::new(false);
        let environment = Environment::read(|name| std::env::var(name).ok())?;
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

/// Which subscription a message belongs to, hence how to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    IotCore,
    Local,
    Configuration,
}

/// What the SDK's receiving thread is given for one subscription.
struct Sink {
    source: Source,
    incoming: IncomingSender,
}

impl Sink {
    /// Hand one event over. Runs on the SDK's receiving thread, holding its lock: it only copies and sends.
    fn take(&self, event: &[Kv<'_>]) {
        match read_event(self.source, event) {
            Some(incoming) => (self.incoming)(incoming),
            None => {
                UNREADABLE.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Read one subscription event (shapes: `subscribe_to_iot_core.c`, `subscribe_to_topic.c`).
fn read_event(source: Source, event: &[Kv<'_>]) -> Option<Incoming> {
    match source {
        Source::Configuration => Some(Incoming::ConfigurationChanged),
        Source::IotCore => {
            let message = find(event, "message").and_then(map)?;
            let topic = find(&message, "topicName").and_then(text)?.to_owned();
            // An MQTT message without payload may come without the key.
            let payload = match find(&message, "payload") {
                None => Vec::new(),
                Some(payload) => STANDARD.decode(text(payload)?).ok()?,
            };
            Some(Incoming::Message {
                from: Destination::IotCore,
                topic,
                payload,
            })
        }
        Source::Local => {
            let (message, payload) = if let Some(message) = find(event, "binaryMessage").and_then(map) {
                let payload = STANDARD.decode(find(&message, "message").and_then(text)?).ok()?;
                (message, payload)
            } else {
                let message = find(event, "jsonMessage").and_then(map)?;
                let payload = serde_json::to_vec(&to_value(find(&message, "message")?, 0)?).ok()?;
                (message, payload)
            };
            let context = find(&message, "context").and_then(map)?;
            let topic = find(&context, "topic").and_then(text)?.to_owned();
            Some(Incoming::Message {
                from: Destination::Local,
                topic,
                payload,
            })
        }
    }
}

fn find<'a, 'b>(pairs: &'a [Kv<'b>], key: &str) -> Option<&'a Object<'b>> {
    pairs.iter().find(|pair| pair.key() == key).map(Kv::val)
}

fn map<'a>(object: &'a Object<'_>) -> Option<Map<'a>> {
    match object.unpack() {
        UnpackedObject::Map(map) => Some(map),
        _ => None,
    }
}

/// The text of an object. The SDK takes UTF-8 for granted, but its JSON reader lets overlong forms and surrogates
/// through: look again before anything relies on it.
fn text<'a>(object: &'a Object<'_>) -> Option<&'a str> {
    match object.unpack() {
        UnpackedObject::Buf(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

/// A JSON value of an SDK object; `None` when it is nested too deeply, not UTF-8, or a number JSON does not have.
fn to_value(object: &Object<'_>, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match object.unpack() {
        UnpackedObject::Null => Value::Null,
        UnpackedObject::Bool(flag) => Value::Bool(flag),
        UnpackedObject::I64(number) => Value::from(number),
        UnpackedObject::F64(number) => number_value(number)?,
        UnpackedObject::Buf(_) => Value::String(text(object)?.to_owned()),
        UnpackedObject::List(list) => Value::Array(
            list.iter()
                .map(|item| to_value(item, depth + 1))
                .collect::<Option<_>>()?,
        ),
        UnpackedObject::Map(map) => {
            let mut members = serde_json::Map::new();
            for pair in map.iter() {
                let key = std::str::from_utf8(pair.key().as_bytes()).ok()?;
                members.insert(key.to_owned(), to_value(pair.val(), depth + 1)?);
            }
            Value::Object(members)
        }
    })
}

/// The classic nucleus turns `300` into `300.0` on its way through a deployment; a whole number becomes one again.
fn number_value(number: f64) -> Option<Value> {
    // 2^53: beyond it a double does not hold every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53, checked above")]
        return Some(Value::from(number as i64));
    }
    serde_json::Number::from_f64(number).map(Value::Number)
}

// ---------------------------------------------------------------------------------------------------------------------
// The raw calls. Layouts as in gg/types.h and gg/ipc/client_raw.h of the SDK version pinned in Cargo.toml.

/// `GgError`: a C enum without negative values, which the supported ABIs pass as `unsigned int`.
type Code = u32;
const OK: Code = 0;

#[repr(C)]
struct RawBuffer {
    data: *const u8,
    len: usize,
}

impl RawBuffer {
    fn of(text: &str) -> Self {
        Self {
            data: text.as_ptr(),
            len: text.len(),
        }
    }
}

/// `GgMap`; `Kv` is a transparent wrapper of `GgKV`, so a slice of them is its array.
#[repr(C)]
struct RawMap {
    pairs: *const c_void,
    len: usize,
}

impl RawMap {
    fn of(pairs: &[Kv<'_>]) -> Self {
        Self {
            pairs: pairs.as_ptr().cast(),
            len: pairs.len(),
        }
    }

    /// # Safety
    /// `pairs` is null, or points to `len` pairs that live and stay unchanged for as long as the result is used.
    unsafe fn pairs<'a>(&self) -> &'a [Kv<'a>] {
        if self.pairs.is_null() {
            return &[];
        }
        // SAFETY: not null (checked), and the caller vouches for length and lifetime; `GgKV` is an array of bytes, so
        // any address is aligned, and `Kv` is a transparent wrapper of it.
        unsafe { std::slice::from_raw_parts(self.pairs.cast::<Kv<'a>>(), self.len) }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawHandle {
    val: u32,
}

type ResultCallback = unsafe extern "C" fn(ctx: *mut c_void, result: RawMap) -> Code;
type ErrorCallback = unsafe extern "C" fn(ctx: *mut c_void, error_code: RawBuffer, message: RawBuffer) -> Code;
type EventCallback =
    unsafe extern "C" fn(ctx: *mut c_void, aux: *mut c_void, handle: RawHandle, model: RawBuffer, data: RawMap) -> Code;

unsafe extern "C" {
    fn ggipc_connect_with_token(socket_path: RawBuffer, auth_token: RawBuffer) -> Code;
    fn ggipc_subscribe(
        operation: RawBuffer,
        service_model_type: RawBuffer,
        params: RawMap,
        result_callback: Option<ResultCallback>,
        error_callback: Option<ErrorCallback>,
        response_ctx: *mut c_void,
        sub_callback: Option<EventCallback>,
        sub_callback_ctx: *mut c_void,
        sub_callback_aux_ctx: *mut c_void,
        sub_handle: *mut RawHandle,
    ) -> Code;
    fn ggipc_close_subscription(handle: RawHandle);
}

/// Start the SDK's receiving thread, once per process.
fn start_receiving() {
    static SDK: OnceLock<Sdk> = OnceLock::new();
    SDK.get_or_init(Sdk::init);
}

fn raw_connect(socket: &str, token: &str) -> Result<(), Code> {
    // SAFETY: both buffers point to live text for the whole call, which does not keep them (`client.c` copies the path
    // and encodes the token). The function asserts that there is no connection yet; the caller made sure.
    match unsafe { ggipc_connect_with_token(RawBuffer::of(socket), RawBuffer::of(token)) } {
        OK => Ok(()),
        code => Err(code),
    }
}

/// Reads the answer to one request; says whether it had the shape expected.
type Reader<'a> = &'a mut dyn FnMut(&[Kv<'_>]) -> bool;

/// What the callbacks of one request need; lives on the stack of the caller, who waits for the answer.
struct Pending<'a> {
    read: Option<Reader<'a>>,
    /// Error code and message of the nucleus.
    refusal: Option<(String, String)>,
}

/// # Safety
/// For the SDK only: `ctx` is the `Pending` of the request in progress, `result` lives for the call.
unsafe extern "C" fn on_result(ctx: *mut c_void, result: RawMap) -> Code {
    // SAFETY: `ctx` is the `&mut Pending` given to `ggipc_subscribe` by a thread that is blocked there until this
    // returns, so the reference is exclusive.
    let pending = unsafe { &mut *ctx.cast::<Pending<'_>>() };
    // SAFETY: the SDK's decoded answer stays in place while its callback runs (`pass_response_to_user_callback`).
    let answer = unsafe { result.pairs() };
    match pending.read.as_mut().is_none_or(|read| read(answer)) {
        true => OK,
        false => gg_sdk::Error::Invalid as Code,
    }
}

/// # Safety
/// For the SDK only: `ctx` is the `Pending` of the request in progress, the buffers live for the call.
unsafe extern "C" fn on_error(ctx: *mut c_void, error_code: RawBuffer, message: RawBuffer) -> Code {
    let copy = |buffer: RawBuffer| {
        if buffer.data.is_null() {
            return String::new();
        }
        // SAFETY: not null, and the SDK's buffer holds `len` bytes while its callback runs.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.data, buffer.len) };
        String::from_utf8_lossy(bytes).into_owned()
    };
    // SAFETY: as in `on_result`.
    let pending = unsafe { &mut *ctx.cast::<Pending<'_>>() };
    pending.refusal = Some((copy(error_code), copy(message)));
    gg_sdk::Error::Remote as Code
}

/// # Safety
/// For the SDK only: `ctx` is the `Sink` of the subscription, `data` lives for the call.
unsafe extern "C" fn on_event(
    ctx: *mut c_void,
    _aux: *mut c_void,
    _handle: RawHandle,
    _model: RawBuffer,
    data: RawMap,
) -> Code {
    // SAFETY: `ctx` points into the box that `Subscription` keeps until it has closed the subscription; the SDK holds
    // one lock while this runs and while it closes, so none of these calls outlives the box. It is only shared.
    let sink = unsafe { &*ctx.cast_const().cast::<Sink>() };
    // SAFETY: the SDK's decoded event stays in place while its callback runs (`call_sub_callback`).
    sink.take(unsafe { data.pairs() });
    // Anything else would make the SDK close the subscription.
    OK
}

fn raw_request(
    operation: &str,
    object: &str,
    params: &[Kv<'_>],
    bytes: usize,
    read: Option<Reader<'_>>,
    sink: Option<&Sink>,
) -> Result<RawHandle, NucleusError> {
    let name = format!("aws.greengrass#{operation}");
    let model = format!("{name}Request");
    let mut handle = RawHandle { val: 0 };
    // Without a reader any answer will do, even one that is no JSON object.
    let result_callback: Option<ResultCallback> = read.is_some().then_some(on_result as ResultCallback);
    let event_callback: Option<EventCallback> = sink.is_some().then_some(on_event as EventCallback);
    let mut pending = Pending { read, refusal: None };
    // SAFETY: buffers, parameters, `pending` and `handle` live until the call returns. The call waits for the answer or
    // gives up after 10 s, and gives the stream up under the lock its callbacks run under (`ggipc_subscribe`), so
    // `pending` is not used afterwards. `sink` is null, or outlives the subscription (see `Subscription`).
    let code = unsafe {
        ggipc_subscribe(
            RawBuffer::of(&name),
            RawBuffer::of(&model),
            RawMap::of(params),
            result_callback,
            Some(on_error),
            (&raw mut pending).cast(),
            event_callback,
            sink.map_or(std::ptr::null_mut(), |sink| std::ptr::from_ref(sink).cast_mut().cast()),
            std::ptr::null_mut(),
            &raw mut handle,
        )
    };
    match code {
        OK => Ok(handle),
        code => Err(failure(format!("{operation} {object}"), code, pending.refusal, bytes)),
    }
}

fn raw_call(
    operation: &str,
    object: &str,
    params: &[Kv<'_>],
    bytes: usize,
    read: Option<Reader<'_>>,
) -> Result<(), NucleusError> {
    raw_request(operation, object, params, bytes, read, None).map(|_| ())
}

/// An open subscription; closed when dropped.
struct Subscription {
    handle: RawHandle,
    /// Freed after the subscription was closed: fields are dropped after `drop`.
    _sink: Box<Sink>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the handle came from `ggipc_subscribe`; a stale one is noticed and ignored (`validate_handle`).
        unsafe { ggipc_close_subscription(self.handle) };
    }
}

fn raw_subscribe(
    operation: &str,
    object: &str,
    params: &[Kv<'_>],
    sink: Box<Sink>,
) -> Result<Subscription, NucleusError> {
    let handle = raw_request(operation, object, params, 0, None, Some(&sink))?;
    Ok(Subscription { handle, _sink: sink })
}

/// The SDK's word for an error code.
fn describe(code: Code) -> String {
    use gg_sdk::Error::{
        Busy, Config, Conflict, Expected, Failure, Fatal, Invalid, Nodata, Noentry, Nomem, Parse, Range, Remote, Retry,
        Timeout, Unauthorized, Unsupported,
    };
    let known = [
        Failure,
        Retry,
        Busy,
        Fatal,
        Invalid,
        Unsupported,
        Parse,
        Range,
        Nomem,
        gg_sdk::Error::Noconn,
        Nodata,
        Noentry,
        Config,
        Remote,
        Expected,
        Timeout,
        Unauthorized,
        Conflict,
    ];
    let found = known.into_iter().find(|error| *error as Code == code);
    found.map_or_else(|| format!("error {code}"), |error| error.to_string())
}

/// What went wrong, from the nucleus' own words where it gave any (`refusal`), else from the SDK's code.
fn failure(what: String, code: Code, refusal: Option<(String, String)>, bytes: usize) -> NucleusError {
    if let Some((error, message)) = refusal {
        return match error.as_str() {
            "UnauthorizedError" => NucleusError::Denied { what },
            "ResourceNotFoundError" => NucleusError::NotFound { what },
            "ConflictError" => NucleusError::Conflict { what },
            _ => NucleusError::Failed {
                what,
                detail: format!("{error}: {message}"),
            },
        };
    }
    let is = |error: gg_sdk::Error| code == error as Code;
    if is(gg_sdk::Error::Noconn) {
        NucleusError::NoConnection {
            what,
            detail: describe(code),
        }
    } else if is(gg_sdk::Error::Timeout) {
        NucleusError::TimedOut { what }
    } else if is(gg_sdk::Error::Nomem) {
        NucleusError::TooLarge { what, bytes }
    } else {
        NucleusError::Failed {
            what,
            detail: describe(code),
        }
    }
}

#[cfg(test)]
mod tests;
