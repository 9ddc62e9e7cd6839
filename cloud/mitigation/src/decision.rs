//! What an alarm changes in a thing's shadow. No clock, no network: the document and the time are arguments.
//!
//! The shadow itself is the memory. Under `reported.mitigation` stand the violations that are in alarm (`active`), the
//! latest that ended (`ended`), each with the time of its last event, and `hold` when only a person may release. So an
//! event delivered twice, late or out of order changes nothing, whichever instance of the Lambda gets it. It stands
//! under `reported` because a key under `desired` that no device answers would be a delta for ever.

use std::collections::BTreeMap;

use aws_sdk_iotdataplane::primitives::{DateTime, DateTimeFormat};
use serde_json::{Map, Value, json};

use crate::alarm::{Alarm, Kind};
use crate::settings::Settings;

/// The most violations remembered on either list. A document with them stays below the 4,900 bytes that nucleus lite
/// can receive (with violation ids of 32 characters, as AWS makes them).
const MAX_VIOLATIONS: usize = 10;

/// The key of the memory.
const MEMORY: &str = "mitigation";

/// What counts of a shadow document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shadow {
    /// The document's version, for an update that must not overtake another; `None`: there is no document.
    version: Option<u64>,
    /// `state.desired.quarantine`.
    desired: Option<Value>,
    memory: Memory,
}

/// `state.reported.mitigation`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Memory {
    active: BTreeMap<String, u64>,
    ended: BTreeMap<String, u64>,
    hold: bool,
}

/// What to do about an alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The body of UpdateThingShadow; `None` when the document already says it.
    pub update: Option<Value>,
    /// Whether the document, after the update, asks for quarantine.
    pub quarantined: bool,
    /// What becomes of the thing's membership in the quarantine group.
    pub group: Membership,
    /// In a word, for the log.
    pub outcome: &'static str,
}

/// The thing's place in the quarantine group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// Make sure it is in.
    Add,
    /// Make sure it is out.
    Remove,
    /// Not ours to change.
    Leave,
}

/// A document that is no shadow document.
#[derive(Debug, thiserror::Error)]
#[error("the shadow document is not JSON with a state and a version")]
pub struct ShadowError(#[source] Option<serde_json::Error>);

impl Shadow {
    /// Read the answer of GetThingShadow.
    ///
    /// # Errors
    /// When it is no shadow document.
    pub fn parse(document: &[u8]) -> Result<Self, ShadowError> {
        let document: Value = serde_json::from_slice(document).map_err(|error| ShadowError(Some(error)))?;
        let version = document
            .get("version")
            .and_then(Value::as_u64)
            .ok_or(ShadowError(None))?;
        let state = document
            .get("state")
            .and_then(Value::as_object)
            .ok_or(ShadowError(None))?;
        let section = |name| state.get(name).and_then(Value::as_object);
        let desired = section("desired").and_then(|desired| desired.get("quarantine"));
        let memory = section("reported").and_then(|reported| reported.get(MEMORY));
        Ok(Self {
            version: Some(version),
            desired: desired.filter(|value| !value.is_null()).cloned(),
            memory: memory.map_or_else(Memory::default, Memory::read),
        })
    }

    /// Whether the document asks for quarantine at `now` (seconds since 1970), as Edge Warden would understand it.
    pub fn demands(&self, now: u64) -> bool {
        demands(self.desired.as_ref(), now)
    }
}

impl Memory {
    /// What cannot be understood was written by others: nothing is known, and only a person may release.
    fn read(value: &Value) -> Self {
        let list = |name| {
            let entries = value.get(name).map_or(Some(Vec::new()), |list| {
                let entries = list.as_object()?.iter();
                entries.map(|(id, time)| Some((id.clone(), time.as_u64()?))).collect()
            });
            entries.map(|entries| entries.into_iter().collect::<BTreeMap<_, _>>())
        };
        let hold = value.get("hold").map_or(Some(false), Value::as_bool);
        match (list("active"), list("ended"), hold) {
            (Some(active), Some(ended), Some(hold)) => Self { active, ended, hold },
            _ => Self {
                hold: true,
                ..Self::default()
            },
        }
    }

    /// As a patch of what stood there before: null takes a key away (AWS IoT, "Device Shadow service documents").
    fn patch(&self, before: &Self) -> Value {
        let list = |old: &BTreeMap<String, u64>, new: &BTreeMap<String, u64>| {
            let gone = old
                .keys()
                .filter(|id| !new.contains_key(*id))
                .map(|id| (id.clone(), Value::Null));
            let kept = new.iter().map(|(id, time)| (id.clone(), json!(time)));
            Value::Object(gone.chain(kept).collect::<Map<_, _>>())
        };
        json!({
            "active": list(&before.active, &self.active),
            "ended": list(&before.ended, &self.ended),
            "hold": if self.hold { json!(true) } else { Value::Null },
        })
    }

    fn begin(&mut self, alarm: &Alarm) {
        self.ended.remove(&alarm.violation);
        self.active.insert(alarm.violation.clone(), alarm.time);
        if self.active.len() > MAX_VIOLATIONS {
            // One that is forgotten might still be in alarm when the others end.
            forget_oldest(&mut self.active);
            self.hold = true;
        }
    }

    fn end(&mut self, violation: &str, time: u64) {
        self.active.remove(violation);
        self.ended.insert(violation.to_owned(), time);
        if self.ended.len() > MAX_VIOLATIONS {
            forget_oldest(&mut self.ended);
        }
    }
}

fn forget_oldest(list: &mut BTreeMap<String, u64>) {
    let oldest = list.iter().min_by_key(|(_, time)| **time).map(|(id, _)| id.clone());
    if let Some(oldest) = oldest {
        list.remove(&oldest);
    }
}

/// Decide about an alarm.
///
/// `now`: seconds since 1970.
pub fn decide(alarm: &Alarm, shadow: &Shadow, settings: &Settings, now: u64) -> Decision {
    let before = &shadow.memory;
    let mut memory = before.clone();
    let demanded = shadow.demands(now);
    let violation = alarm.violation.as_str();
    let known = before.active.contains_key(violation) || before.ended.contains_key(violation);
    let (outcome, desired) = match alarm.kind {
        Kind::InAlarm if before.active.contains_key(violation) => ("already handled", None),
        Kind::InAlarm if before.ended.get(violation).is_some_and(|ended| *ended >= alarm.time) => {
            ("already over", None)
        }
        Kind::InAlarm => {
            if demanded && before.active.is_empty() {
                // Somebody else asked for it, so it is not ours to end.
                memory.hold = true;
            } else if !demanded {
                // Whoever released it dealt with what was in alarm then.
                for (violation, time) in &before.active {
                    memory.end(violation, *time);
                }
                memory.hold = false;
            }
            memory.begin(alarm);
            let others = demanded && memory.hold;
            let standing = shadow.desired.as_ref().filter(|_| demanded);
            ("quarantined", Some(demand(alarm, settings, standing, others, now)))
        }
        Kind::AlarmCleared | Kind::AlarmInvalidated => {
            let last = before.active.get(violation).or_else(|| before.ended.get(violation));
            let ended = before.ended.contains_key(violation);
            if last.is_some_and(|last| *last > alarm.time || (ended && *last == alarm.time)) {
                ("already handled", None)
            } else {
                let was_active = before.active.contains_key(violation);
                memory.end(violation, alarm.time);
                // Silence is no sign of recovery: it is what a cut device gives.
                memory.hold |= was_active && alarm.kind == Kind::AlarmInvalidated;
                let free = settings.release_when_cleared && was_active && memory.active.is_empty() && !memory.hold;
                if free && demanded {
                    ("released", Some(json!(false)))
                } else {
                    ("noted", None)
                }
            }
        }
    };
    let quarantined = match &desired {
        Some(desired) => demands(Some(desired), now),
        None => demanded,
    };
    let changed = desired.is_some() || memory != *before;
    let group = match alarm.kind {
        Kind::InAlarm if quarantined => Membership::Add,
        // Also when the release was written by an invocation that got no further.
        Kind::AlarmCleared if settings.release_when_cleared && known && !quarantined => Membership::Remove,
        _ => Membership::Leave,
    };
    Decision {
        update: changed.then(|| {
            let mut update = json!({"state": {"reported": {MEMORY: memory.patch(before)}}});
            if let (Some(desired), Some(Value::Object(state))) = (desired, update.get_mut("state")) {
                state.insert("desired".to_owned(), json!({"quarantine": desired}));
            }
            if let (Some(version), Some(update)) = (shadow.version, update.as_object_mut()) {
                update.insert("version".to_owned(), json!(version));
            }
            update
        }),
        quarantined,
        group,
        outcome,
    }
}

/// `desired.quarantine` for an alarm. The classic shadow gets what the workshop's Lambda writes, which other software
/// understands too; the named one says why. A `standing` demand is not made shorter, and one that is not `ours` keeps
/// its mode and its reason.
fn demand(alarm: &Alarm, settings: &Settings, standing: Option<&Value>, others: bool, now: u64) -> Value {
    if settings.shadow.is_none() {
        return json!(true);
    }
    let kept = |key| {
        standing
            .filter(|_| others)
            .and_then(|standing| standing.get(key))
            .cloned()
    };
    let until = settings.quarantine_seconds.map(|seconds| now.saturating_add(seconds));
    let until = match standing {
        None => until,
        Some(standing) => match (until, standing.get("until").and_then(read_until)) {
            (Some(until), Some(standing)) => Some(until.max(standing)),
            _ => None,
        },
    };
    let reason = format!(
        "{}/{} in alarm, violation {}",
        alarm.profile, alarm.behavior, alarm.violation
    );
    json!({
        "mode": kept("mode").or_else(|| settings.mode.map(|mode| json!(mode.as_str()))),
        "until": until,
        "reason": kept("reason").unwrap_or_else(|| json!(reason)),
    })
}

/// docs/quarantine.md, "What a shadow may say".
fn demands(desired: Option<&Value>, now: u64) -> bool {
    match desired {
        Some(Value::Bool(demanded)) => *demanded,
        Some(Value::Object(object)) => {
            let over = object
                .get("until")
                .and_then(read_until)
                .is_some_and(|until| until <= now);
            !object.is_empty() && !over && object.get("mode") != Some(&json!("off"))
        }
        _ => false,
    }
}

/// Seconds since 1970, or an RFC 3339 time. What is neither is no end.
fn read_until(until: &Value) -> Option<u64> {
    let text = |text| DateTime::from_str(text, DateTimeFormat::DateTimeWithOffset).ok();
    until
        .as_u64()
        .or_else(|| u64::try_from(text(until.as_str()?)?.secs()).ok())
}

#[cfg(test)]
mod tests;
