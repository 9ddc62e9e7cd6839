//! A small shadow service: the documents of AWS IoT Device Shadow and what it announces on every change.
//!
//! Source: AWS IoT developer guide, "Device Shadow service documents"; ShadowManager `UpdateThingShadowRequestHandler`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Largest `state` (desired and reported together) AWS stores.
const MAX_STATE_BYTES: usize = 8192;
/// Deepest nesting below `desired` or `reported`.
const MAX_DEPTH: usize = 6;

/// Thing and shadow name; `None` is the classic shadow.
pub type Key = (String, Option<String>);

/// An HTTP-like code and its text, as in `.../rejected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowError {
    /// 400, 404, 409 or 413.
    pub code: u16,
    /// AWS's words.
    pub message: String,
}

impl ShadowError {
    fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The payload of `.../rejected`.
    pub fn payload(&self, now: u64) -> Value {
        json!({"code": self.code, "message": self.message, "timestamp": now})
    }
}

#[derive(Debug, Clone, Default)]
struct Document {
    desired: Map<String, Value>,
    reported: Map<String, Value>,
    desired_metadata: Map<String, Value>,
    reported_metadata: Map<String, Value>,
    version: u64,
}

impl Document {
    fn sections(desired: &Map<String, Value>, reported: &Map<String, Value>) -> Map<String, Value> {
        let mut state = Map::new();
        for (name, section) in [("desired", desired), ("reported", reported)] {
            if !section.is_empty() {
                state.insert(name.to_owned(), Value::Object(section.clone()));
            }
        }
        state
    }

    fn parts(&self) -> Map<String, Value> {
        let mut parts = Map::new();
        parts.insert("state".to_owned(), Self::sections(&self.desired, &self.reported).into());
        parts.insert(
            "metadata".to_owned(),
            Self::sections(&self.desired_metadata, &self.reported_metadata).into(),
        );
        parts.insert("version".to_owned(), self.version.into());
        parts
    }

    fn full(&self, now: u64) -> Value {
        let mut full = self.parts();
        let delta = difference(&self.desired, &self.reported);
        if !delta.is_empty() {
            full["state"]["delta"] = delta.into();
        }
        full.insert("timestamp".to_owned(), now.into());
        full.into()
    }
}

/// The answer to an update and what else is announced: topic suffix and payload.
#[derive(Debug)]
pub struct Updated {
    /// For `.../update/accepted` and the IPC response.
    pub accepted: Value,
    /// `update/delta` if desired and reported differ, then `update/documents`.
    pub announcements: Vec<(&'static str, Value)>,
}

/// All shadows of an account.
#[derive(Debug, Default)]
pub struct Shadows {
    documents: BTreeMap<Key, Document>,
    /// Versions go on after a deletion.
    deleted: BTreeMap<Key, u64>,
}

impl Shadows {
    /// The whole document, with delta.
    pub fn get(&self, key: &Key, now: u64) -> Result<Value, ShadowError> {
        self.documents
            .get(key)
            .map(|document| document.full(now))
            .ok_or_else(|| not_found(key))
    }

    /// Merges `{"state":{"desired":..,"reported":..},"version":..,"clientToken":..}`.
    pub fn update(&mut self, key: &Key, payload: &[u8], now: u64) -> Result<Updated, ShadowError> {
        let request: Value =
            serde_json::from_slice(payload).map_err(|error| ShadowError::new(400, format!("Invalid JSON: {error}")))?;
        let state = request
            .get("state")
            .ok_or_else(|| ShadowError::new(400, "Missing required node: state"))?;
        let state = state
            .as_object()
            .ok_or_else(|| ShadowError::new(400, "State node must be an object"))?;
        if let Some(unknown) = state
            .keys()
            .find(|name| !["desired", "reported", "delta"].contains(&name.as_str()))
        {
            return Err(ShadowError::new(
                400,
                format!("State contains an invalid node: '{unknown}'"),
            ));
        }
        let token = request.get("clientToken");
        if token.is_some_and(|token| token.as_str().is_none_or(|text| text.len() > 64)) {
            return Err(ShadowError::new(400, "Invalid clientToken"));
        }
        let before = self.documents.get(key).cloned();
        let known = before
            .as_ref()
            .map(|document| document.version)
            .or_else(|| self.deleted.get(key).copied());
        if let Some(wanted) = request.get("version") {
            let wanted = wanted
                .as_u64()
                .ok_or_else(|| ShadowError::new(400, "Invalid version"))?;
            if wanted != known.unwrap_or(0) {
                return Err(ShadowError::new(409, "Version conflict"));
            }
        }
        let mut document = before.clone().unwrap_or_default();
        let mut changed = Map::new();
        for name in ["desired", "reported"] {
            let (section, metadata) = match name {
                "desired" => (&mut document.desired, &mut document.desired_metadata),
                _ => (&mut document.reported, &mut document.reported_metadata),
            };
            match state.get(name) {
                None => {}
                Some(Value::Null) => {
                    section.clear();
                    metadata.clear();
                }
                Some(Value::Object(patch)) => {
                    if depth(&Value::Object(patch.clone())) > MAX_DEPTH {
                        let message = "JSON contains too many levels of nesting; maximum is 6";
                        return Err(ShadowError::new(400, message));
                    }
                    merge(section, metadata, patch, now);
                    let touched: Map<String, Value> = patch
                        .keys()
                        .filter_map(|key| Some((key.clone(), metadata.get(key)?.clone())))
                        .collect();
                    changed.insert(name.to_owned(), touched.into());
                }
                Some(_) => return Err(ShadowError::new(400, format!("{name} must be an object"))),
            }
        }
        let size = json!([document.desired, document.reported]).to_string().len() - "[,]".len();
        if size > MAX_STATE_BYTES {
            return Err(ShadowError::new(413, "The payload exceeds the maximum size allowed"));
        }
        document.version = known.unwrap_or(0) + 1;
        let updated = Self::announce(before.as_ref(), &document, &request, &changed, now);
        self.deleted.remove(key);
        self.documents.insert(key.clone(), document);
        Ok(updated)
    }

    fn announce(
        before: Option<&Document>,
        after: &Document,
        request: &Value,
        changed: &Map<String, Value>,
        now: u64,
    ) -> Updated {
        let with_token = |mut message: Value| {
            if let Some(token) = request.get("clientToken") {
                message["clientToken"] = token.clone();
            }
            message
        };
        let accepted = with_token(json!({"state": request["state"], "metadata": changed,
                                         "version": after.version, "timestamp": now}));
        let mut announcements = Vec::new();
        let delta = difference(&after.desired, &after.reported);
        if !delta.is_empty() {
            let metadata: Map<String, Value> = delta
                .keys()
                .filter_map(|key| Some((key.clone(), after.desired_metadata.get(key)?.clone())))
                .collect();
            let message = json!({"version": after.version, "timestamp": now, "state": delta, "metadata": metadata});
            announcements.push(("update/delta", with_token(message)));
        }
        // A new document has `"previous": null` (ShadowManager's ResponseMessageBuilder).
        let previous = before.map(Document::parts);
        let documents = json!({"previous": previous, "current": after.parts(), "timestamp": now});
        announcements.push(("update/documents", with_token(documents)));
        Updated {
            accepted,
            announcements,
        }
    }

    /// Removes a document.
    pub fn delete(&mut self, key: &Key, now: u64) -> Result<Value, ShadowError> {
        let document = self.documents.remove(key).ok_or_else(|| not_found(key))?;
        self.deleted.insert(key.clone(), document.version + 1);
        Ok(json!({"version": document.version, "timestamp": now}))
    }

    /// The names of a thing's named shadows.
    pub fn names(&self, thing: &str) -> Vec<String> {
        self.documents
            .keys()
            .filter(|(owner, _)| owner == thing)
            .filter_map(|(_, name)| name.clone())
            .collect()
    }
}

fn not_found((thing, name): &Key) -> ShadowError {
    ShadowError::new(
        404,
        format!("No shadow exists with name: '{}'", name.as_ref().unwrap_or(thing)),
    )
}

/// Merge with `null` removing; every leaf written gets a time stamp.
fn merge(section: &mut Map<String, Value>, metadata: &mut Map<String, Value>, patch: &Map<String, Value>, now: u64) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                section.remove(key);
                metadata.remove(key);
            }
            Value::Object(inner) => {
                let below = object_at(section, key);
                let below_metadata = object_at(metadata, key);
                below_metadata.remove("timestamp");
                merge(below, below_metadata, inner, now);
            }
            leaf => {
                section.insert(key.clone(), leaf.clone());
                metadata.insert(key.clone(), json!({"timestamp": now}));
            }
        }
    }
}

fn object_at<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = map.entry(key.to_owned()).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().unwrap()
}

/// The desired keys whose values `reported` does not have.
fn difference(desired: &Map<String, Value>, reported: &Map<String, Value>) -> Map<String, Value> {
    let mut differing = Map::new();
    for (key, wanted) in desired {
        match (wanted, reported.get(key)) {
            (Value::Object(wanted), Some(Value::Object(has))) => {
                let inner = difference(wanted, has);
                if !inner.is_empty() {
                    differing.insert(key.clone(), inner.into());
                }
            }
            (wanted, Some(has)) if wanted == has => {}
            (wanted, _) => {
                differing.insert(key.clone(), wanted.clone());
            }
        }
    }
    differing
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A request published to a shadow topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `.../get`
    Get,
    /// `.../update`
    Update,
    /// `.../delete`
    Delete,
}

/// Which shadow a request topic names.
pub fn request_topic(topic: &str) -> Option<(Key, Request)> {
    let (thing, rest) = topic.strip_prefix("$aws/things/")?.split_once("/shadow/")?;
    let (name, verb) = match rest.strip_prefix("name/") {
        Some(named) => named
            .split_once('/')
            .map(|(name, verb)| (Some(name.to_owned()), verb))?,
        None => (None, rest),
    };
    let request = match verb {
        "get" => Request::Get,
        "update" => Request::Update,
        "delete" => Request::Delete,
        _ => return None,
    };
    Some(((thing.to_owned(), name), request))
}

/// `$aws/things/T/shadow` or `$aws/things/T/shadow/name/S`: the accessControl resource and the topic prefix.
pub fn prefix((thing, name): &Key) -> String {
    match name {
        Some(name) => format!("$aws/things/{thing}/shadow/name/{name}"),
        None => format!("$aws/things/{thing}/shadow"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Key, Shadows};

    fn key() -> Key {
        ("cam-1".to_owned(), None)
    }

    fn update(shadows: &mut Shadows, document: &Value, now: u64) -> Result<super::Updated, super::ShadowError> {
        shadows.update(&key(), document.to_string().as_bytes(), now)
    }

    #[test]
    fn desired_makes_a_delta_until_reported() {
        let mut shadows = Shadows::default();
        let updated = update(&mut shadows, &json!({"state": {"desired": {"quarantine": true}}}), 5).unwrap();
        assert_eq!(updated.announcements.len(), 2);
        assert_eq!(
            updated.announcements[0],
            (
                "update/delta",
                json!({"version": 1, "timestamp": 5, "state": {"quarantine": true},
                                    "metadata": {"quarantine": {"timestamp": 5}}})
            )
        );
        assert_eq!(updated.announcements[1].1.get("previous"), Some(&Value::Null));
        assert_eq!(updated.announcements[1].1["current"]["version"], 1);
        let updated = update(&mut shadows, &json!({"state": {"reported": {"quarantine": true}}}), 6).unwrap();
        assert_eq!(updated.announcements.len(), 1);
        assert_eq!(updated.announcements[0].1["previous"]["version"], 1);
        let full = shadows.get(&key(), 9).unwrap();
        assert_eq!(
            full,
            json!({"state": {"desired": {"quarantine": true}, "reported": {"quarantine": true}},
                   "metadata": {"desired": {"quarantine": {"timestamp": 5}}, "reported": {"quarantine": {"timestamp": 6}}},
                   "version": 2, "timestamp": 9})
        );
    }

    #[test]
    fn null_removes_and_versions_are_checked() {
        let mut shadows = Shadows::default();
        update(&mut shadows, &json!({"state": {"desired": {"a": {"b": 1, "c": 2}}}}), 1).unwrap();
        update(
            &mut shadows,
            &json!({"state": {"desired": {"a": {"b": null}}}, "version": 1}),
            2,
        )
        .unwrap();
        assert_eq!(
            shadows.get(&key(), 3).unwrap()["state"]["desired"],
            json!({"a": {"c": 2}})
        );
        let conflict = update(&mut shadows, &json!({"state": {}, "version": 1}), 4).unwrap_err();
        assert_eq!(conflict.code, 409);
        let large = json!({"state": {"desired": {"a": "x".repeat(9000)}}});
        assert_eq!(update(&mut shadows, &large, 5).unwrap_err().code, 413);
        assert_eq!(shadows.delete(&key(), 6).unwrap()["version"], 2);
        assert_eq!(shadows.get(&key(), 7).unwrap_err().code, 404);
        assert_eq!(
            update(&mut shadows, &json!({"state": {"desired": {}}}), 8)
                .unwrap()
                .accepted["version"],
            4
        );
    }
}
