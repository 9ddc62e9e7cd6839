//! Reading what the SDK hands over: events and JSON-like objects. Pure, and free of panics on any content.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gg_sdk::{Kv, Map, Object, UnpackedObject};
use serde_json::Value;

use crate::greengrass::{Destination, Incoming};

/// Objects nested deeper than this are refused; the SDK's own bound is 15.
pub(super) const MAX_DEPTH: usize = 16;

/// Which subscription a message belongs to, hence how to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    IotCore,
    Local,
    Configuration,
}

/// Read one subscription event (shapes: `subscribe_to_iot_core.c`, `subscribe_to_topic.c`).
pub(super) fn read_event(source: Source, event: &[Kv<'_>]) -> Option<Incoming> {
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

pub(super) fn find<'a, 'b>(pairs: &'a [Kv<'b>], key: &str) -> Option<&'a Object<'b>> {
    pairs.iter().find(|pair| pair.key() == key).map(Kv::val)
}

pub(super) fn map<'a>(object: &'a Object<'_>) -> Option<Map<'a>> {
    match object.unpack() {
        UnpackedObject::Map(map) => Some(map),
        _ => None,
    }
}

/// The text of an object. The SDK takes UTF-8 for granted, but its JSON reader lets overlong forms and surrogates
/// through: look again before anything relies on it.
pub(super) fn text<'a>(object: &'a Object<'_>) -> Option<&'a str> {
    match object.unpack() {
        UnpackedObject::Buf(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

/// A JSON value of an SDK object; `None` when it is nested too deeply, not UTF-8, or a number JSON does not have.
pub(super) fn to_value(object: &Object<'_>, depth: usize) -> Option<Value> {
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
pub(super) fn number_value(number: f64) -> Option<Value> {
    // 2^53: beyond it a double does not hold every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53, checked above")]
        return Some(Value::from(number as i64));
    }
    serde_json::Number::from_f64(number).map(Value::Number)
}

/// For `fuzz/`: JSON as the SDK would hand it over, to everything that reads such.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(value: &Value) {
    /// What `value` is in the SDK's types lives only as long as `each` runs: they borrow their content.
    fn with(value: &Value, each: &mut dyn FnMut(Object<'_>)) {
        match value {
            Value::Null => each(Object::NULL),
            Value::Bool(flag) => each(Object::bool(*flag)),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => each(Object::i64(whole)),
                None => each(Object::f64(number.as_f64().unwrap_or(f64::NAN))),
            },
            Value::String(text) => each(Object::buf(text)),
            Value::Array(items) => list(items, Vec::new(), each),
            Value::Object(members) => {
                let members: Vec<(&String, &Value)> = members.iter().collect();
                map(&members, Vec::new(), &mut |pairs| each(Object::map(pairs)));
            }
        }
    }
    fn list(rest: &[Value], done: Vec<Object<'_>>, each: &mut dyn FnMut(Object<'_>)) {
        match rest.split_first() {
            None => each(Object::list(&done)),
            Some((first, rest)) => {
                let mut done = Some(done);
                with(first, &mut |object| {
                    let mut done = done.take().unwrap_or_default();
                    done.push(object);
                    list(rest, done, each);
                });
            }
        }
    }
    fn map(rest: &[(&String, &Value)], done: Vec<Kv<'_>>, each: &mut dyn FnMut(&[Kv<'_>])) {
        match rest.split_first() {
            None => each(&done),
            Some(((key, value), rest)) => {
                let mut done = Some(done);
                with(value, &mut |object| {
                    let mut done = done.take().unwrap_or_default();
                    done.push(Kv::new(key, object));
                    map(rest, done, each);
                });
            }
        }
    }
    with(value, &mut |object| drop(to_value(&object, 0)));
    if let Value::Object(members) = value {
        let members: Vec<(&String, &Value)> = members.iter().collect();
        map(&members, Vec::new(), &mut |pairs| {
            for source in [Source::IotCore, Source::Local] {
                if let Some(Incoming::Message { topic, .. }) = read_event(source, pairs) {
                    let _ = crate::greengrass::topic::parse(&topic);
                }
            }
        });
    }
}
