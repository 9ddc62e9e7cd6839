//! What AWS IoT's shadow service does with a document: merge, versions, metadata, delta. Pure.
//!
//! Source: AWS IoT developer guide, "Device Shadow service documents", "Device Shadow error messages" and the service's
//! quotas (8 KB of state, 6 levels within a section).

use serde_json::{Map, Value, json};

/// Most bytes of state (desired and reported together, without metadata) in one document.
pub const MAX_STATE_BYTES: usize = 8_192;
/// Most levels of objects and arrays within `desired` or `reported`, the section itself being the first.
pub const MAX_LEVELS: usize = 6;
/// Most bytes of a `clientToken`.
pub const MAX_CLIENT_TOKEN_BYTES: usize = 64;

/// One section of a shadow, with the time of change of every value in the same shape. No members: no section.
#[derive(Debug, Clone, Default, PartialEq)]
struct Section {
    state: Map<String, Value>,
    metadata: Map<String, Value>,
}

/// A shadow at one version. [`ShadowDocument::default`] is a shadow that never existed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShadowDocument {
    desired: Section,
    reported: Section,
    version: u64,
    timestamp: u64,
    exists: bool,
}

/// A refused request, in the service's terms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Rejection {
    /// HTTP-like code: 400, 404, 409, 413, 500.
    pub code: u16,
    /// What is wrong.
    pub message: String,
    /// From the request, when it could be read.
    pub client_token: Option<String>,
}

impl Rejection {
    /// A rejection without a client token.
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            client_token: None,
        }
    }

    /// The payload of a `.../rejected` message; `now` in seconds.
    #[must_use]
    pub fn message(&self, now: u64) -> Value {
        let message = json!({"code": self.code, "message": self.message, "timestamp": now});
        with_token(message, self.client_token.as_deref())
    }
}

/// An accepted update: the new document, and what the service announces.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The document from now on.
    pub document: ShadowDocument,
    /// Payload of `update/accepted`.
    pub accepted: Value,
    /// Payload of `update/delta`, when desired differs from reported.
    pub delta: Option<Value>,
    /// Payload of `update/documents`.
    pub documents: Value,
}

/// What a stored document is not.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON.
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    /// JSON, but not a shadow document.
    #[error("{0:?} is missing or has the wrong type")]
    Shape(&'static str),
}

impl ShadowDocument {
    /// Read a stored document, as written by [`Self::stored`] or by hand: missing metadata is made up for.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value: Value = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        let number = |name: &'static str| {
            value
                .get(name)
                .and_then(Value::as_u64)
                .ok_or(DocumentError::Shape(name))
        };
        let (version, timestamp) = (number("version")?, number("timestamp")?);
        let Some(state) = value.get("state") else {
            return Ok(Self {
                version,
                timestamp,
                ..Self::default()
            });
        };
        let state = state.as_object().ok_or(DocumentError::Shape("state"))?;
        let section = |name: &'static str| -> Result<Section, DocumentError> {
            let state = match state.get(name) {
                None => return Ok(Section::default()),
                Some(state) => state.as_object().ok_or(DocumentError::Shape(name))?.clone(),
            };
            let known = value.get("metadata").and_then(|metadata| metadata.get(name));
            Ok(Section {
                metadata: metadata_of_members(&state, known, timestamp),
                state,
            })
        };
        Ok(Self {
            desired: section("desired")?,
            reported: section("reported")?,
            version,
            timestamp,
            exists: true,
        })
    }

    /// What to store: the document, or of a deleted one its version, so that a new one continues from it.
    #[must_use]
    pub fn stored(&self) -> Value {
        match self.exists {
            true => self.document(),
            false => json!({"version": self.version, "timestamp": self.timestamp}),
        }
    }

    /// Whether there is a document (not deleted, not absent).
    #[must_use]
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// The version; of a deleted document the last one it had.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The whole document as AWS shows it: state with delta, metadata, version, timestamp.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut state = self.state();
        if let Some((delta, _)) = self.delta() {
            state.insert("delta".to_owned(), Value::Object(delta));
        }
        json!({
            "state": state,
            "metadata": self.metadata(),
            "version": self.version,
            "timestamp": self.timestamp,
        })
    }

    /// The desired values that differ from the reported ones, and their metadata; `None` when there are none.
    #[must_use]
    pub fn delta(&self) -> Option<(Map<String, Value>, Map<String, Value>)> {
        let delta = difference(&self.desired.state, &self.reported.state);
        let metadata = metadata_of_members(
            &delta,
            Some(&Value::Object(self.desired.metadata.clone())),
            self.timestamp,
        );
        (!delta.is_empty()).then_some((delta, metadata))
    }

    /// Answer a `get` request (its payload may be empty or carry a client token): the payload of `get/accepted`.
    ///
    /// # Errors
    /// 404 when there is no document, 400 for a malformed request.
    pub fn get(&self, request: &[u8]) -> Result<Value, Rejection> {
        let (_, token) = read_request(request)?;
        if !self.exists {
            return Err(Rejection {
                client_token: token,
                ..not_found()
            });
        }
        Ok(with_token(self.document(), token.as_deref()))
    }

    /// Answer a `delete` request: what is left of the document, and the payload of `delete/accepted`.
    ///
    /// # Errors
    /// 404 when there is no document, 409 on a version conflict, 400 for a malformed request.
    pub fn delete(&self, request: &[u8], now: u64) -> Result<(Self, Value), Rejection> {
        let (request, token) = read_request(request)?;
        let refuse = |rejection: Rejection| Rejection {
            client_token: token.clone(),
            ..rejection
        };
        if !self.exists {
            return Err(refuse(not_found()));
        }
        self.check_version(&request).map_err(refuse)?;
        let left = Self {
            version: self.version,
            timestamp: now,
            ..Self::default()
        };
        Ok((
            left,
            with_token(json!({"version": self.version, "timestamp": now}), token.as_deref()),
        ))
    }

    /// Carry out an `update` request at `now` (seconds): members are merged, null deletes, the version grows by one.
    ///
    /// # Errors
    /// 400 for a malformed request, 409 on a version conflict, 413 when the state would be too large.
    pub fn update(&self, request: &[u8], now: u64) -> Result<Update, Rejection> {
        let (request, token) = read_request(request)?;
        self.updated(&request, token.as_deref(), now)
            .map_err(|rejection| Rejection {
                client_token: token.clone(),
                ..rejection
            })
    }

    fn updated(&self, request: &Map<String, Value>, token: Option<&str>, now: u64) -> Result<Update, Rejection> {
        let state = request
            .get("state")
            .ok_or_else(|| bad("missing required node: state"))?;
        let state = state
            .as_object()
            .ok_or_else(|| bad("the state node must be an object"))?;
        if let Some(name) = state
            .keys()
            .find(|name| !matches!(name.as_str(), "desired" | "reported"))
        {
            return Err(bad(format!("state contains an invalid node: {name:?}")));
        }
        self.check_version(request)?;
        let mut next = Self {
            version: self.version.saturating_add(1),
            timestamp: now,
            exists: true,
            desired: self.desired.clone(),
            reported: self.reported.clone(),
        };
        let mut changed = Map::new();
        for (name, section) in [("desired", &mut next.desired), ("reported", &mut next.reported)] {
            match state.get(name) {
                None => {}
                Some(Value::Null) => *section = Section::default(),
                Some(Value::Object(patch)) => {
                    if levels_of_members(patch) > MAX_LEVELS {
                        return Err(bad(format!("too many levels of nesting; at most {MAX_LEVELS}")));
                    }
                    merge(&mut section.state, &mut section.metadata, patch, now);
                    let metadata = metadata_of_members(&without_nulls(patch), None, now);
                    changed.insert(name.to_owned(), Value::Object(metadata));
                }
                Some(_) => return Err(bad(format!("the {name} node must be an object"))),
            }
        }
        let size = Value::Object(next.state()).to_string().len();
        if size > MAX_STATE_BYTES {
            return Err(Rejection::new(
                413,
                format!("the state has {size} bytes; at most {MAX_STATE_BYTES}"),
            ));
        }
        let accepted = json!({"state": state, "metadata": changed, "version": next.version, "timestamp": now});
        let delta = next.delta().map(|(state, metadata)| {
            let delta = json!({"version": next.version, "timestamp": now, "state": state, "metadata": metadata});
            with_token(delta, token)
        });
        let documents = json!({"previous": self.snapshot(), "current": next.snapshot(), "timestamp": now});
        Ok(Update {
            accepted: with_token(accepted, token),
            delta,
            documents: with_token(documents, token),
            document: next,
        })
    }

    fn check_version(&self, request: &Map<String, Value>) -> Result<(), Rejection> {
        let asked = match request.get("version") {
            None | Some(Value::Null) => return Ok(()),
            Some(version) => version.as_u64().ok_or_else(|| bad("invalid version"))?,
        };
        // A document that does not exist yet may be called version 0, or 1 as it will be.
        let fits = if self.exists { asked == self.version } else { asked <= 1 };
        if fits {
            Ok(())
        } else {
            Err(Rejection::new(409, "version conflict"))
        }
    }

    fn state(&self) -> Map<String, Value> {
        self.sections(|section| &section.state)
    }

    fn metadata(&self) -> Map<String, Value> {
        self.sections(|section| &section.metadata)
    }

    fn sections(&self, part: impl Fn(&Section) -> &Map<String, Value>) -> Map<String, Value> {
        [("desired", &self.desired), ("reported", &self.reported)]
            .into_iter()
            .filter(|(_, section)| !section.state.is_empty())
            .map(|(name, section)| (name.to_owned(), Value::Object(part(section).clone())))
            .collect()
    }

    fn snapshot(&self) -> Value {
        json!({"state": self.state(), "metadata": self.metadata(), "version": self.version})
    }
}

fn bad(message: impl Into<String>) -> Rejection {
    Rejection::new(400, message)
}

fn not_found() -> Rejection {
    Rejection::new(404, "there is no such shadow")
}

fn with_token(mut message: Value, token: Option<&str>) -> Value {
    if let (Some(members), Some(token)) = (message.as_object_mut(), token) {
        members.insert("clientToken".to_owned(), Value::from(token));
    }
    message
}

/// The members of a request and its client token. An empty payload is an empty request.
fn read_request(payload: &[u8]) -> Result<(Map<String, Value>, Option<String>), Rejection> {
    if payload.is_empty() {
        return Ok((Map::new(), None));
    }
    let Ok(Value::Object(request)) = serde_json::from_slice(payload) else {
        return Err(bad("invalid JSON"));
    };
    let token = match request.get("clientToken") {
        None | Some(Value::Null) => None,
        Some(Value::String(token)) if token.len() <= MAX_CLIENT_TOKEN_BYTES => Some(token.clone()),
        Some(_) => return Err(bad("invalid clientToken")),
    };
    Ok((request, token))
}

/// The client token of a request, if it has one that can be read.
#[must_use]
pub fn client_token(payload: &[u8]) -> Option<String> {
    read_request(payload).ok()?.1
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Object(members) => levels_of_members(members),
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

fn levels_of_members(members: &Map<String, Value>) -> usize {
    1 + members.values().map(levels).max().unwrap_or(0)
}

/// Merge a patch into a section; objects member by member, anything else as a whole.
fn merge(state: &mut Map<String, Value>, metadata: &mut Map<String, Value>, patch: &Map<String, Value>, now: u64) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                state.shift_remove(name);
                metadata.shift_remove(name);
            }
            Value::Object(patch) => {
                if let (Some(Value::Object(state)), Some(Value::Object(metadata))) =
                    (state.get_mut(name), metadata.get_mut(name))
                {
                    merge(state, metadata, patch, now);
                } else {
                    let members = without_nulls(patch);
                    metadata.insert(name.clone(), Value::Object(metadata_of_members(&members, None, now)));
                    state.insert(name.clone(), Value::Object(members));
                }
            }
            other => {
                metadata.insert(name.clone(), metadata_of(other, None, now));
                state.insert(name.clone(), other.clone());
            }
        }
    }
}

fn without_nulls(members: &Map<String, Value>) -> Map<String, Value> {
    let kept = members.iter().filter(|(_, value)| !value.is_null());
    kept.map(|(name, value)| match value {
        Value::Object(members) => (name.clone(), Value::Object(without_nulls(members))),
        other => (name.clone(), other.clone()),
    })
    .collect()
}

/// Metadata in the shape of `value`: known timestamps where there are any, else `otherwise`.
fn metadata_of(value: &Value, known: Option<&Value>, otherwise: u64) -> Value {
    match value {
        Value::Object(members) => Value::Object(metadata_of_members(members, known, otherwise)),
        Value::Array(items) => {
            let known = |index: usize| known.and_then(|known| known.get(index));
            let items = items.iter().enumerate();
            Value::Array(
                items
                    .map(|(index, item)| metadata_of(item, known(index), otherwise))
                    .collect(),
            )
        }
        _ => {
            let timestamp = known.and_then(|known| known.get("timestamp")).and_then(Value::as_u64);
            json!({"timestamp": timestamp.unwrap_or(otherwise)})
        }
    }
}

fn metadata_of_members(members: &Map<String, Value>, known: Option<&Value>, otherwise: u64) -> Map<String, Value> {
    let known = |name: &str| known.and_then(|known| known.get(name));
    let pairs = members.iter();
    pairs
        .map(|(name, value)| (name.clone(), metadata_of(value, known(name), otherwise)))
        .collect()
}

/// What of `desired` differs from `reported`: objects member by member, arrays as a whole.
fn difference(desired: &Map<String, Value>, reported: &Map<String, Value>) -> Map<String, Value> {
    let mut differing = Map::new();
    for (name, wanted) in desired {
        match (wanted, reported.get(name)) {
            (Value::Object(wanted), Some(Value::Object(is))) => {
                let inner = difference(wanted, is);
                if !inner.is_empty() {
                    differing.insert(name.clone(), Value::Object(inner));
                }
            }
            (wanted, Some(is)) if same(wanted, is) => {}
            _ => {
                differing.insert(name.clone(), wanted.clone());
            }
        }
    }
    differing
}

/// Equality of JSON values in which `1` and `1.0` are the same number.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            let found = |(name, value): (&String, &Value)| right.get(name).is_some_and(|other| same(value, other));
            left.len() == right.len() && left.iter().all(found)
        }
        _ => left == right,
    }
}

#[cfg(test)]
mod tests;
