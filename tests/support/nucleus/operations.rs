//! The IPC operations. Error codes and texts follow the Java nucleus; lite differs where its source differs.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::access::{MQTT_PROXY, PUBSUB, SHADOW_MANAGER};
use super::shadow::{self, ShadowError};
use super::state::{Body, Consequence, Destination, Published, State, Topic};
use super::{Kind, Settings, topic};

/// Prefix of operation and model names.
pub(super) const MODEL: &str = "aws.greengrass#";
/// Largest MQTT payload the classic nucleus takes.
const MAX_PUBLISH_BYTES: usize = 128 * 1024;

/// An error answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// `UnauthorizedError`, `ServiceError`, ...
    pub(super) code: String,
    /// For people.
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidArgumentsError", message)
    }
}

impl From<ShadowError> for Failure {
    fn from(error: ShadowError) -> Self {
        let code = match error.code {
            404 => "ResourceNotFoundError",
            409 => "ConflictError",
            _ => "InvalidArgumentsError",
        };
        Self::new(code, error.message)
    }
}

/// The response body and what follows it.
type Answer = Result<(Value, Option<Consequence>), Failure>;

impl State {
    /// Carries out one operation. `from` is connection and stream.
    pub(super) fn operation(
        &mut self,
        settings: &Settings,
        from: (u64, i32),
        operation: &str,
        body: &Value,
        now: u64,
    ) -> Answer {
        let request = Call {
            settings,
            operation,
            body,
            now,
        };
        match operation.strip_prefix(MODEL).unwrap_or(operation) {
            "PublishToIoTCore" => self.publish_to_iot_core(&request),
            "SubscribeToIoTCore" => self.subscribe_to_iot_core(&request, from),
            "PublishToTopic" => self.publish_to_topic(&request),
            "SubscribeToTopic" => self.subscribe_to_topic(&request, from),
            "GetConfiguration" => self.get_configuration(&request),
            "SubscribeToConfigurationUpdate" => self.subscribe_to_configuration(&request, from),
            "UpdateState" => self.update_state(&request),
            "GetThingShadow" | "UpdateThingShadow" | "DeleteThingShadow" | "ListNamedShadowsForThing"
                if settings.kind == Kind::Classic && settings.shadow_manager =>
            {
                self.shadow_operation(&request)
            }
            // The same code from both: lite knows no such operation, classic has nobody who serves it.
            _ => Err(Failure::new(
                "ServiceError",
                format!("Operation {operation} is not supported by Greengrass"),
            )),
        }
    }

    fn authorize(&mut self, request: &Call<'_>, service: &str, resource: &str) -> Result<(), Failure> {
        if self.access.allows(service, request.operation, resource) {
            return Ok(());
        }
        let who = &request.settings.component;
        let what = format!("{service}:{} on resource {resource}", request.operation);
        Err(Failure::new(
            "UnauthorizedError",
            format!("Principal {who} is not authorized to perform {what}"),
        ))
    }

    fn publish_to_iot_core(&mut self, request: &Call<'_>) -> Answer {
        let topic = request.text("topicName")?;
        let qos = request.qos()?;
        let payload = request.bytes(request.body.get("payload"))?;
        self.authorize(request, MQTT_PROXY, topic)?;
        if topic::has_wildcard(topic) || topic.is_empty() || topic.len() > 256 {
            return Err(Failure::new(
                "ServiceError",
                format!("Publish to topic {topic} failed: invalid topic"),
            ));
        }
        if payload.len() > MAX_PUBLISH_BYTES {
            return Err(Failure::new(
                "ServiceError",
                format!("Publish to topic {topic} failed: payload too large"),
            ));
        }
        self.seen.published.push(Published {
            to: Destination::IotCore,
            topic: topic.to_owned(),
            payload: payload.clone(),
            qos: Some(qos),
            at: request.now,
        });
        Ok((
            json!({}),
            Some(Consequence::Cloud {
                topic: topic.to_owned(),
                payload,
            }),
        ))
    }

    fn subscribe_to_iot_core(&mut self, request: &Call<'_>, from: (u64, i32)) -> Answer {
        let filter = request.text("topicName")?;
        request.qos()?;
        self.authorize(request, MQTT_PROXY, filter)?;
        self.subscribe(from, Topic::IotCore(filter.to_owned()));
        Ok((json!({}), None))
    }

    fn publish_to_topic(&mut self, request: &Call<'_>) -> Answer {
        let topic = request.text("topic")?;
        let message = &request.body["publishMessage"];
        let (body, payload) = match (&message["jsonMessage"]["message"], &message["binaryMessage"]["message"]) {
            (Value::Null, binary @ Value::String(_)) => {
                let payload = request.bytes(Some(binary))?;
                (Body::binary(&payload), payload)
            }
            (json, Value::Null) if !json.is_null() => (Body::json(json.clone()), json.to_string().into_bytes()),
            _ => {
                return Err(Failure::invalid(
                    "publishMessage needs exactly one of jsonMessage and binaryMessage",
                ));
            }
        };
        self.authorize(request, PUBSUB, topic)?;
        if request.settings.kind == Kind::Classic && topic.contains(['+', '#', '*']) {
            return Err(Failure::invalid("Publish topic must not contain a wildcard."));
        }
        self.seen.published.push(Published {
            to: Destination::Local,
            topic: topic.to_owned(),
            payload: payload.clone(),
            qos: None,
            at: request.now,
        });
        Ok((
            json!({}),
            Some(Consequence::Local {
                topic: topic.to_owned(),
                body,
                payload,
            }),
        ))
    }

    fn subscribe_to_topic(&mut self, request: &Call<'_>, from: (u64, i32)) -> Answer {
        let filter = request.text("topic")?;
        self.authorize(request, PUBSUB, filter)?;
        // Lite knows no receive mode: everybody gets everything. Classic: with a wildcard, only others' messages.
        let from_others_only = request.settings.kind == Kind::Classic
            && match request.body.get("receiveMode").and_then(Value::as_str) {
                None => topic::has_wildcard(filter),
                Some(mode) => mode == "RECEIVE_MESSAGES_FROM_OTHERS",
            };
        self.subscribe(
            from,
            Topic::Local {
                filter: filter.to_owned(),
                from_others_only,
            },
        );
        Ok((json!({}), None))
    }

    /// The configuration at `keyPath`, which must exist, and the path.
    fn configuration_at(&self, request: &Call<'_>) -> Result<(Value, Vec<String>), Failure> {
        let component = request.body.get("componentName").and_then(Value::as_str);
        let missing = || Failure::new("ResourceNotFoundError", "Key not found");
        if component.is_some_and(|name| name != request.settings.component) {
            return Err(missing());
        }
        let path: Vec<String> = match request.body.get("keyPath") {
            None | Some(Value::Null) => Vec::new(),
            Some(path) => serde_json::from_value(path.clone()).map_err(|_| Failure::invalid("keyPath"))?,
        };
        let found = path.iter().try_fold(&self.configuration, |value, key| value.get(key));
        Ok((found.ok_or_else(missing)?.clone(), path))
    }

    fn get_configuration(&mut self, request: &Call<'_>) -> Answer {
        let (found, path) = self.configuration_at(request)?;
        // A leaf comes inside a map with its own name; a map comes as it is.
        let value = match (found, path.last()) {
            (map @ Value::Object(_), _) => map,
            (leaf, Some(name)) => json!({ name: leaf }),
            (_, None) => return Err(Failure::invalid("Key is not valid.")),
        };
        Ok((
            json!({"componentName": request.settings.component, "value": value}),
            None,
        ))
    }

    fn subscribe_to_configuration(&mut self, request: &Call<'_>, from: (u64, i32)) -> Answer {
        let (_, path) = self.configuration_at(request)?;
        self.subscribe(from, Topic::Configuration(path));
        Ok((json!({}), None))
    }

    fn update_state(&mut self, request: &Call<'_>) -> Answer {
        let state = request.text("state")?;
        if !["RUNNING", "ERRORED"].contains(&state) {
            return Err(Failure::invalid(format!("Invalid lifecycle state: {state}")));
        }
        self.seen.states.push(state.to_owned());
        Ok((json!({}), None))
    }

    fn shadow_operation(&mut self, request: &Call<'_>) -> Answer {
        let legal = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b))
        };
        let thing = request.text("thingName")?;
        // The nucleus takes an empty name for the classic shadow.
        let name = request
            .body
            .get("shadowName")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty());
        if !legal(thing, 128) || name.is_some_and(|name| !legal(name, 64)) {
            return Err(Failure::invalid("ThingName or ShadowName invalid"));
        }
        let key = (thing.to_owned(), name.map(str::to_owned));
        let listing = request.operation.ends_with("ListNamedShadowsForThing");
        let resource = if listing {
            thing.to_owned()
        } else {
            shadow::prefix(&key)
        };
        self.authorize(request, SHADOW_MANAGER, &resource)?;
        let now = request.now;
        if listing {
            return Ok((json!({"results": self.shadows.names(thing), "timestamp": now}), None));
        }
        let prefix = shadow::prefix(&key);
        let (document, announcements) = match request.operation.strip_prefix(MODEL) {
            Some("GetThingShadow") => {
                let document = self.shadows.get(&key, now)?;
                (document.clone(), vec![(format!("{prefix}/get/accepted"), document)])
            }
            Some("DeleteThingShadow") => {
                let deleted = self.shadows.delete(&key, now)?;
                (deleted.clone(), vec![(format!("{prefix}/delete/accepted"), deleted)])
            }
            _ => {
                let payload = request.bytes(request.body.get("payload"))?;
                self.shadow_change(&key, &payload, now)?
            }
        };
        let body = json!({"payload": BASE64_STANDARD.encode(document.to_string())});
        Ok((body, Some(Consequence::Announce(announcements))))
    }
}

/// A request being read.
struct Call<'a> {
    settings: &'a Settings,
    operation: &'a str,
    body: &'a Value,
    /// Epoch seconds.
    now: u64,
}

impl<'a> Call<'a> {
    /// Lite answers a malformed request with ServiceError, classic with InvalidArgumentsError.
    fn malformed(&self, message: String) -> Failure {
        match self.settings.kind {
            Kind::Classic => Failure::invalid(message),
            Kind::Lite => Failure::new("ServiceError", "Received invalid parameters."),
        }
    }

    fn text(&self, name: &str) -> Result<&'a str, Failure> {
        let text = self.body.get(name).and_then(Value::as_str);
        text.ok_or_else(|| self.malformed(format!("{name} is missing")))
    }

    fn bytes(&self, value: Option<&Value>) -> Result<Vec<u8>, Failure> {
        let text = value.and_then(Value::as_str);
        let bytes = text.and_then(|text| BASE64_STANDARD.decode(text).ok());
        bytes.ok_or_else(|| self.malformed("payload is missing or not base64".to_owned()))
    }

    /// Classic takes only `"0"` and `"1"`; lite also numbers, 2, and none.
    fn qos(&self) -> Result<u8, Failure> {
        let qos = self.body.get("qos").filter(|value| !value.is_null());
        let number = match (self.settings.kind, qos) {
            (Kind::Lite, None) => Some(0),
            (Kind::Lite, Some(value)) if value.is_u64() => value.as_u64().and_then(|n| u8::try_from(n).ok()),
            (_, value) => value.and_then(Value::as_str).and_then(|text| text.parse().ok()),
        };
        let most = if self.settings.kind == Kind::Lite { 2 } else { 1 };
        number
            .filter(|number| *number <= most)
            .ok_or_else(|| self.malformed(format!("invalid qos {qos:?}")))
    }
}
