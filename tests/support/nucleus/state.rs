//! Everything the nucleus knows, and sending to the clients.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::access::AccessControl;
use super::defender::{Defender, Report};
use super::frame::{self, Frame};
use super::misbehave::Misbehave;
use super::operations::{Failure, MODEL};
use super::shadow::Shadows;
use super::{Kind, Settings, topic};

/// Where a message was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// AWS IoT Core.
    IotCore,
    /// Local publish/subscribe.
    Local,
}

/// A message the component published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where to.
    pub to: Destination,
    /// The topic.
    pub topic: String,
    /// The bytes; a local JSON message as its text.
    pub payload: Vec<u8>,
    /// As asked for; local messages have none.
    pub qos: Option<u8>,
    /// When the nucleus took it: epoch seconds on its clock.
    pub at: u64,
}

impl Published {
    /// The payload as JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.payload).ok()
    }
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With its response.
    Answered,
    /// With an error of this code.
    Refused(String),
    /// Not at all, because the test wanted it so.
    Unanswered,
}

/// A request of the component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Without `aws.greengrass#`.
    pub operation: String,
    /// As sent.
    pub body: Value,
    /// How it ended.
    pub outcome: Outcome,
}

/// What the nucleus has seen so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Clients let in so far.
    pub connections: usize,
    /// Clients connected now.
    pub connected: usize,
    /// Requests that have been dealt with, oldest first.
    pub requests: Vec<Request>,
    /// Messages published.
    pub published: Vec<Published>,
    /// Reports among them, judged.
    pub reports: Vec<Report>,
    /// States reported.
    pub states: Vec<String>,
    /// IoT Core filters subscribed now.
    pub iot_core_filters: Vec<String>,
    /// Local filters subscribed now.
    pub local_filters: Vec<String>,
    /// Subscriptions to the configuration now.
    pub configuration_watchers: usize,
    /// Subscriptions a client has ended by itself, its connection still open.
    pub ended_subscriptions: usize,
    /// Whatever a client did against the protocol.
    pub violations: Vec<String>,
}

/// For a connection's writer.
pub(super) enum Out {
    Bytes(Vec<u8>),
    Close,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    IotCore(String),
    Local { filter: String, from_others_only: bool },
    Configuration(Vec<String>),
}

#[derive(Debug)]
struct Subscription {
    connection: u64,
    stream: i32,
    to: Topic,
}

/// A local message.
#[derive(Debug, Clone)]
pub(super) struct Body {
    /// `jsonMessage` or `binaryMessage`.
    member: &'static str,
    message: Value,
}

impl Body {
    pub(super) fn binary(payload: &[u8]) -> Self {
        Self {
            member: "binaryMessage",
            message: BASE64_STANDARD.encode(payload).into(),
        }
    }

    pub(super) fn json(message: Value) -> Self {
        Self {
            member: "jsonMessage",
            message,
        }
    }
}

/// What follows a request once it is answered.
pub(super) enum Consequence {
    Cloud {
        topic: String,
        payload: Vec<u8>,
    },
    Local {
        topic: String,
        body: Body,
        payload: Vec<u8>,
    },
    /// Messages of the shadow service, each with its topic.
    Announce(Vec<(String, Value)>),
}

pub(super) struct State {
    pub(super) seen: Seen,
    pub(super) access: AccessControl,
    pub(super) configuration: Value,
    pub(super) shadows: Shadows,
    pub(super) rules: Vec<(Misbehave, Option<usize>)>,
    pub(super) defender: Defender,
    connections: BTreeMap<u64, Sender<Out>>,
    next_connection: u64,
    subscriptions: Vec<Subscription>,
}

impl State {
    pub(super) fn new(access: AccessControl, configuration: Value) -> Self {
        Self {
            seen: Seen::default(),
            access,
            configuration,
            shadows: Shadows::default(),
            rules: Vec::new(),
            defender: Defender::default(),
            connections: BTreeMap::new(),
            next_connection: 0,
            subscriptions: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self, out: Sender<Out>) -> u64 {
        self.next_connection += 1;
        self.connections.insert(self.next_connection, out);
        self.seen.connected = self.connections.len();
        self.next_connection
    }

    pub(super) fn gone(&mut self, id: u64) {
        self.connections.remove(&id);
        self.seen.connected = self.connections.len();
        self.retain_subscriptions(|subscription| subscription.connection != id);
    }

    /// The reader thread notices and tidies up.
    pub(super) fn close(&mut self, id: u64) {
        if let Some(out) = self.connections.get(&id) {
            drop(out.send(Out::Close));
        }
    }

    pub(super) fn disconnect_all(&mut self) {
        for id in self.connection_ids() {
            self.close(id);
        }
    }

    pub(super) fn connection_ids(&self) -> Vec<u64> {
        self.connections.keys().copied().collect()
    }

    pub(super) fn first_stream(&self, id: u64) -> Option<i32> {
        self.subscriptions
            .iter()
            .find(|subscription| subscription.connection == id)
            .map(|found| found.stream)
    }

    pub(super) fn subscribe(&mut self, (connection, stream): (u64, i32), to: Topic) {
        self.subscriptions.push(Subscription { connection, stream, to });
        self.retain_subscriptions(|_| true);
    }

    pub(super) fn end_stream(&mut self, connection: u64, stream: i32) {
        let before = self.subscriptions.len();
        self.retain_subscriptions(|kept| kept.connection != connection || kept.stream != stream);
        self.seen.ended_subscriptions += before - self.subscriptions.len();
    }

    pub(super) fn kill_subscriptions(&mut self) -> usize {
        let killed = self.subscriptions.len();
        self.retain_subscriptions(|_| false);
        killed
    }

    fn retain_subscriptions(&mut self, keep: impl Fn(&Subscription) -> bool) {
        self.subscriptions.retain(keep);
        self.seen.iot_core_filters.clear();
        self.seen.local_filters.clear();
        self.seen.configuration_watchers = 0;
        for subscription in &self.subscriptions {
            match &subscription.to {
                Topic::IotCore(filter) => self.seen.iot_core_filters.push(filter.clone()),
                Topic::Local { filter, .. } => self.seen.local_filters.push(filter.clone()),
                Topic::Configuration(_) => self.seen.configuration_watchers += 1,
            }
        }
    }

    pub(super) fn send_bytes(&mut self, id: u64, bytes: Vec<u8>) {
        if let Some(out) = self.connections.get(&id) {
            drop(out.send(Out::Bytes(bytes)));
        }
    }

    /// Sends a response or event of a modelled type; `false` if it does not fit through this nucleus.
    fn send(&mut self, settings: &Settings, (id, stream): (u64, i32), flags: i32, model: &str, body: &Value) -> bool {
        let bytes = message(frame::APPLICATION_MESSAGE, flags, stream, model, body).encode();
        let fits = settings.limits.message_bytes.is_none_or(|limit| bytes.len() <= limit);
        if fits {
            self.send_bytes(id, bytes);
        }
        fits
    }

    /// Classic ends the stream with the response unless it is a subscription's; lite leaves that to the client.
    pub(super) fn respond(&mut self, settings: &Settings, to: (u64, i32), operation: &str, body: &Value) {
        let ends = settings.kind == Kind::Classic && !operation.starts_with("SubscribeTo");
        let flags = if ends { frame::TERMINATE_STREAM } else { 0 };
        if !self.send(settings, to, flags, &format!("{operation}Response"), body) {
            self.respond_error(settings, to, &Failure::new("ServiceError", "Internal error."));
        }
    }

    /// The generated Java classes carry their own `message` beside the base class' fields; lite has only the latter.
    pub(super) fn respond_error(&mut self, settings: &Settings, (id, stream): (u64, i32), failure: &Failure) {
        let mut body = json!({"_message": failure.message, "_errorCode": failure.code});
        if settings.kind == Kind::Classic {
            body["_service"] = format!("{MODEL}GreengrassCoreIPC").into();
            body["message"] = failure.message.clone().into();
        }
        let frame = message(
            frame::APPLICATION_ERROR,
            frame::TERMINATE_STREAM,
            stream,
            &failure.code,
            &body,
        );
        self.send_bytes(id, frame.encode());
    }

    /// A message arriving from AWS IoT Core.
    pub(super) fn cloud_message(&mut self, settings: &Settings, topic: &str, payload: &[u8]) -> usize {
        // A PUBLISH packet: fixed header, topic length, topic, packet id, payload.
        let packet = 1 + 4 + 2 + topic.len() + 2 + payload.len();
        if settings.limits.inbound_bytes.is_some_and(|limit| packet > limit) {
            return 0;
        }
        let body = json!({"message": {"topicName": topic, "payload": BASE64_STANDARD.encode(payload)}});
        self.event(
            settings,
            "IoTCoreMessage",
            &body,
            |subscription| matches!(&subscription.to, Topic::IotCore(filter) if topic::matches(filter, topic)),
        )
    }

    /// A message on local publish/subscribe; `from` is the publishing connection, if it is the component's.
    pub(super) fn local_message(&mut self, settings: &Settings, topic: &str, body: &Body, from: Option<u64>) -> usize {
        let message = json!({body.member: {"message": &body.message, "context": {"topic": topic}}});
        self.event(
            settings,
            "SubscriptionResponseMessage",
            &message,
            |subscription| match &subscription.to {
                Topic::Local {
                    filter,
                    from_others_only,
                } => topic::matches_local(filter, topic) && !(*from_others_only && from.is_some()),
                _ => false,
            },
        )
    }

    /// One event per matching subscription, so overlapping filters give several.
    fn event(
        &mut self,
        settings: &Settings,
        model: &str,
        body: &Value,
        wanted: impl Fn(&Subscription) -> bool,
    ) -> usize {
        let receivers: Vec<(u64, i32)> = self
            .subscriptions
            .iter()
            .filter(|s| wanted(s))
            .map(|s| (s.connection, s.stream))
            .collect();
        receivers
            .into_iter()
            .filter(|to| self.send(settings, *to, 0, model, body))
            .count()
    }

    /// One event per changed top-level key, to whoever watches it or something around it.
    pub(super) fn set_configuration(&mut self, settings: &Settings, mut configuration: Value) {
        if let Some(access_control) = self.configuration.get("accessControl") {
            configuration["accessControl"] = access_control.clone();
        }
        let before = std::mem::replace(&mut self.configuration, configuration);
        let keys = |value: &Value| {
            value
                .as_object()
                .map(|map| map.keys().cloned().collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let mut all = keys(&before);
        all.extend(
            keys(&self.configuration)
                .into_iter()
                .filter(|key| before.get(key).is_none()),
        );
        for key in all
            .into_iter()
            .filter(|key| before.get(key) != self.configuration.get(key))
            .collect::<Vec<_>>()
        {
            let body = json!({"configurationUpdateEvent": {"componentName": settings.component, "keyPath": [key]}});
            self.event(settings, "ConfigurationUpdateEvents", &body, |subscription| {
                matches!(&subscription.to, Topic::Configuration(path) if path.first().is_none_or(|first| *first == key))
            });
        }
    }
}

fn message(message_type: i32, flags: i32, stream: i32, model: &str, body: &Value) -> Frame {
    Frame {
        message_type,
        flags,
        stream,
        headers: vec![
            (":content-type".to_owned(), "application/json".to_owned()),
            ("service-model-type".to_owned(), format!("{MODEL}{model}")),
        ],
        payload: body.to_string().into_bytes(),
    }
}
