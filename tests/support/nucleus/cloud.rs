//! What follows a message once it is published: Defender judges, shadows change, others hear of it.

use serde_json::Value;

use super::defender;
use super::misbehave::Misbehave;
use super::shadow::{self, Key, ShadowError, Updated};
use super::state::{Body, Consequence, Destination, State};
use super::{Kind, Settings};

impl State {
    /// What a published message sets in motion.
    pub(super) fn follow(&mut self, settings: &Settings, from: u64, consequence: Consequence, now: u64) {
        match consequence {
            Consequence::Cloud { topic, payload } => self.published_to_cloud(settings, &topic, &payload, now),
            Consequence::Local { topic, body, payload } => {
                self.local_message(settings, &topic, &body, Some(from));
                if let Some((key, request)) =
                    shadow::request_topic(&topic).filter(|_| settings.kind == Kind::Classic && settings.shadow_manager)
                {
                    self.shadow_request(settings, Destination::Local, &key, request, &payload, now);
                }
            }
            Consequence::Announce(messages) => self.announce(settings, messages),
        }
    }

    fn published_to_cloud(&mut self, settings: &Settings, topic: &str, payload: &[u8], now: u64) {
        if self.take_rule(|rule| *rule == Misbehave::LosePublish).is_some() {
            return;
        }
        if let Some(report) = defender::report_topic(topic) {
            self.report(settings, report, payload, now);
        } else if let Some((key, request)) = shadow::request_topic(topic) {
            self.shadow_request(settings, Destination::IotCore, &key, request, payload, now);
        } else if !topic.starts_with('$') {
            self.cloud_message(settings, topic, payload);
        }
    }

    fn report(&mut self, settings: &Settings, to: (&str, defender::Format), payload: &[u8], now: u64) {
        let force = match self.take_rule(|rule| matches!(rule, Misbehave::RejectReports { .. })) {
            Some(Misbehave::RejectReports { code }) => Some(code),
            _ => None,
        };
        let report = self
            .defender
            .judge(to, payload, now, settings.enforce_rate.is_some(), force.as_deref());
        let (topic, mut answer) = defender::answer(&report, now);
        self.seen.reports.push(report);
        if self.take_rule(|rule| *rule == Misbehave::SwallowReplies).is_some() || !settings.answer_reports {
            return;
        }
        if self.take_rule(|rule| *rule == Misbehave::GarbageReplies).is_some() {
            answer = b"\xff\xfe{not a document".to_vec();
        }
        self.cloud_message(settings, &topic, &answer);
    }

    /// A request over shadow topics, answered where it came from.
    fn shadow_request(
        &mut self,
        settings: &Settings,
        over: Destination,
        key: &Key,
        request: shadow::Request,
        payload: &[u8],
        now: u64,
    ) {
        let (verb, answer) = match request {
            shadow::Request::Get => ("get", self.shadows.get(key, now)),
            // Accepted updates and deletions are announced to everybody, which includes whoever asked.
            shadow::Request::Update => (
                "update",
                self.shadow_update(settings, key, payload, now).map(|_| Value::Null),
            ),
            shadow::Request::Delete => ("delete", self.shadow_delete(settings, key, now).map(|_| Value::Null)),
        };
        let (suffix, mut body) = match answer {
            Ok(Value::Null) => return,
            Ok(document) => ("accepted", document),
            Err(error) => ("rejected", error.payload(now)),
        };
        // AWS IoT developer guide, "Device Shadow service documents": answers repeat the token of a request it can read.
        let request: Value = serde_json::from_slice(payload).unwrap_or_default();
        if let Some(token) = request.get("clientToken") {
            body["clientToken"] = token.clone();
        }
        let topic = format!("{}/{verb}/{suffix}", shadow::prefix(key));
        let payload = body.to_string();
        match over {
            Destination::IotCore => self.cloud_message(settings, &topic, payload.as_bytes()),
            Destination::Local => self.local_message(settings, &topic, &Body::binary(payload.as_bytes()), None),
        };
    }

    /// Updates a shadow and announces it in the cloud and, with ShadowManager, locally.
    pub(super) fn shadow_update(
        &mut self,
        settings: &Settings,
        key: &Key,
        payload: &[u8],
        now: u64,
    ) -> Result<Value, ShadowError> {
        let (accepted, messages) = self.shadow_change(key, payload, now)?;
        self.announce(settings, messages);
        Ok(accepted)
    }

    /// The same without the announcements, which the caller sends later.
    pub(super) fn shadow_change(
        &mut self,
        key: &Key,
        payload: &[u8],
        now: u64,
    ) -> Result<(Value, Vec<(String, Value)>), ShadowError> {
        let Updated {
            accepted,
            announcements,
        } = self.shadows.update(key, payload, now)?;
        let prefix = shadow::prefix(key);
        let mut messages: Vec<_> = announcements
            .into_iter()
            .map(|(suffix, body)| (format!("{prefix}/{suffix}"), body))
            .collect();
        messages.push((format!("{prefix}/update/accepted"), accepted.clone()));
        Ok((accepted, messages))
    }

    pub(super) fn shadow_delete(&mut self, settings: &Settings, key: &Key, now: u64) -> Result<Value, ShadowError> {
        let deleted = self.shadows.delete(key, now)?;
        self.announce(
            settings,
            vec![(format!("{}/delete/accepted", shadow::prefix(key)), deleted.clone())],
        );
        Ok(deleted)
    }

    pub(super) fn announce(&mut self, settings: &Settings, messages: Vec<(String, Value)>) {
        for (topic, body) in messages {
            let payload = body.to_string();
            self.cloud_message(settings, &topic, payload.as_bytes());
            if settings.kind == Kind::Classic && settings.shadow_manager {
                self.local_message(settings, &topic, &Body::binary(payload.as_bytes()), None);
            }
        }
    }
}
