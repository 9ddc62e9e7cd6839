//! What a thing's shadow documents are told: how things stand in the kernel, not what was asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::cause::{Cause, CauseKey, ShadowRef};
use super::decision::{Enforcement, Refusal, Verdict};
use super::shadow::{DesiredQuarantine, ShadowReading, rfc3339, shorten};
use crate::model::{Monotonic, ThingName, UnixTime};

/// The one key of the status that changes by itself.
const COUNTER: &str = "droppedPackets";
/// Counters alone are told at most this often.
const COUNTER_INTERVAL: Duration = Duration::from_secs(300);
/// The same answer is not sent again sooner: the document read meanwhile may be older than it.
const RESEND_INTERVAL: Duration = Duration::from_secs(10);
/// Causes named in a status; messages over about 4,900 bytes never arrive on nucleus lite.
const MOST_CAUSES: usize = 8;
/// Characters of one cause or failure told.
const MOST_TEXT: usize = 256;

/// What the kernel holds for one thing, by reading it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// All of it.
    Full,
    /// All of it, and frames can still pass beside us; why.
    Partial(String),
    /// Nothing or not all of it; why.
    No(String),
}

/// What the read-back says about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforced {
    /// Whether it is cut off.
    pub held: Held,
    /// Packets from and to it dropped so far; `None` when they are not counted.
    pub dropped_packets: Option<u64>,
    /// Group frames still reach it, as other devices share its port; `None` when that is not known.
    pub group_traffic_passes: Option<bool>,
}

/// How one thing stands: everything an answer to its shadows is made from.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Its causes in force.
    pub causes: &'a BTreeMap<CauseKey, Cause>,
    /// What was decided; `None` without causes.
    pub verdict: Option<&'a Verdict>,
    /// What the kernel holds; `None` when it holds nothing for this thing.
    pub enforced: Option<&'a Enforced>,
    /// Whether decisions reach the kernel at all.
    pub enforcement: Enforcement,
    /// It is the core's own thing.
    pub is_core: bool,
    /// This document spoke of quarantine before ([`super::Quarantine::has_spoken`]).
    pub has_spoken: bool,
    /// What was wrong with its demand ([`super::Quarantine::shadow_failure`]).
    pub shadow_failure: Option<&'a str>,
}

/// What one document should report.
#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    /// `reported.quarantine`; `None`: no such key.
    quarantine: Option<Value>,
    /// `reported.quarantineStatus`; `None`: no such key.
    status: Option<Map<String, Value>>,
}

/// Remembers what was sent, so that each document is told once.
#[derive(Debug, Default)]
pub struct StatusReporter {
    sent: BTreeMap<(ThingName, ShadowRef), (Answer, Monotonic)>,
}

impl StatusReporter {
    /// The update to send to this document (as `update` and UpdateThingShadow take it), if it does not say already how
    /// things stand. The document must be the latest read.
    pub fn answer(
        &mut self,
        thing: &ThingName,
        shadow: &ShadowRef,
        reading: &ShadowReading,
        standing: &Standing<'_>,
        now: Monotonic,
    ) -> Option<Value> {
        let ShadowReading::Present(document) = reading else {
            return None; // a report would bring a deleted document back
        };
        let said = (document.reported_value.as_ref(), document.reported_status.as_ref());
        let answer = match (&document.desired, standing.causes.is_empty()) {
            _ if !standing.has_spoken && document.reported_status.is_none() => return None,
            (DesiredQuarantine::Absent, true) if !still_held(standing) => Answer::default(),
            (desired, _) => standing.answer(desired, document.desired_value.as_ref()),
        };
        let place = (thing.clone(), shadow.clone());
        if answer.is_said_by(said) {
            return None;
        }
        if let Some((sent, at)) = self.sent.get(&place) {
            let essence = answer.without_counters();
            let wait = if essence.is_said_by((said.0, said.1.map(without_counters).as_ref())) {
                COUNTER_INTERVAL
            } else if sent.without_counters() == essence {
                RESEND_INTERVAL
            } else {
                Duration::ZERO
            };
            if now.since(*at) < wait {
                return None;
            }
        }
        let update = answer.update(said);
        self.sent.insert(place, (answer, now));
        Some(update)
    }

    /// The last update to this document did not get out (or was rejected): the next one is not held back.
    pub fn not_sent(&mut self, thing: &ThingName, shadow: &ShadowRef) {
        self.sent.remove(&(thing.clone(), shadow.clone()));
    }

    /// Forget things that are not behind this gateway any more.
    pub fn retain(&mut self, local: impl Fn(&ThingName) -> bool) {
        self.sent.retain(|(thing, _), _| local(thing));
    }
}

fn still_held(standing: &Standing<'_>) -> bool {
    matches!(
        standing.enforced,
        Some(Enforced {
            held: Held::Full | Held::Partial(_),
            ..
        })
    )
}

impl Standing<'_> {
    fn answer(&self, desired: &DesiredQuarantine, desired_value: Option<&Value>) -> Answer {
        let (enforced, failure) = self.enforced(desired);
        let is_cut = matches!(&enforced, Value::Bool(true)) || enforced == json!("partial");
        // what was asked for and is so is said in the very words of the asking: then no delta stays
        let quarantine = match (desired, desired_value) {
            (DesiredQuarantine::Quarantine { .. }, Some(value)) if is_cut => value.clone(),
            (DesiredQuarantine::Release, Some(value)) if !is_cut => value.clone(),
            _ => Value::Bool(is_cut),
        };
        let mut status = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                status.insert(key.to_owned(), value);
            }
        };
        set("enforced", Some(enforced));
        set(
            "mode",
            self.causes
                .values()
                .map(|cause| cause.posture)
                .max()
                .map(|mode| mode.to_string().into()),
        );
        set("causes", Some(self.cause_names()));
        set(
            "since",
            self.causes
                .values()
                .map(|cause| cause.since)
                .min()
                .map(|time| rfc3339(time).into()),
        );
        let until: Option<Vec<UnixTime>> = self.causes.values().map(|cause| cause.until).collect();
        let until = until.and_then(|ends| ends.into_iter().max());
        set("until", until.map(|time| rfc3339(time).into()));
        set("failure", failure.map(|why| shorten(&why, MOST_TEXT).into()));
        if is_cut {
            let counted = self.enforced.and_then(|held| held.dropped_packets);
            set(COUNTER, counted.map(Value::from));
            let group = self.enforced.and_then(|held| held.group_traffic_passes);
            set(
                "groupTrafficIn",
                group.map(|passes| if passes { "passes" } else { "dropped" }.into()),
            );
        }
        Answer {
            quarantine: Some(quarantine),
            status: Some(status),
        }
    }

    /// `enforced` and `failure`.
    fn enforced(&self, desired: &DesiredQuarantine) -> (Value, Option<String>) {
        let said = self.shadow_failure.map(ToOwned::to_owned);
        if self.is_core {
            let failure = desired.is_demand().then(|| Refusal::Core.to_string());
            return (Value::Bool(false), failure.or(said));
        }
        if self.causes.is_empty() && still_held(self) {
            let failure = "no cause is left, but the kernel still holds it; trying again";
            return (Value::Bool(true), said.or_else(|| Some(failure.to_owned())));
        }
        let (enforced, failure) = match self.verdict {
            None if desired.is_demand() => {
                let over =
                    "not in force: ended by the operator or by its time; write desired.quarantine again to begin anew";
                (Value::Bool(false), Some(over.to_owned()))
            }
            None => (Value::Bool(false), None),
            Some(Verdict::Refused(refusal)) => (Value::Bool(false), Some(refusal.to_string())),
            Some(Verdict::Cut(_)) if self.enforcement == Enforcement::Observe => (json!("observed"), None),
            Some(Verdict::Cut(_)) => match self.enforced.map(|enforced| &enforced.held) {
                Some(Held::Full) => (Value::Bool(true), None),
                Some(Held::Partial(why)) => (json!("partial"), Some(why.clone())),
                Some(Held::No(why)) => (Value::Bool(false), Some(why.clone())),
                None => (Value::Bool(false), Some("the kernel does not hold it".to_owned())),
            },
        };
        // what was wrong with the demand matters more to its writer than how another cause fares
        (enforced, said.or(failure))
    }

    fn cause_names(&self) -> Value {
        let names = self
            .causes
            .keys()
            .take(MOST_CAUSES)
            .map(|key| shorten(&key.to_string(), MOST_TEXT));
        let mut names: Vec<String> = names.collect();
        if let Some(more) = self.causes.len().checked_sub(MOST_CAUSES).filter(|more| *more > 0) {
            names.push(format!("and {more} more"));
        }
        names.into()
    }
}

impl Answer {
    fn is_said_by(&self, (quarantine, status): (Option<&Value>, Option<&Value>)) -> bool {
        let status_said = match (&self.status, status) {
            (None, None) => true,
            (Some(mine), Some(Value::Object(said))) => mine == said,
            _ => false,
        };
        self.quarantine.as_ref() == quarantine && status_said
    }

    fn without_counters(&self) -> Self {
        let mut answer = self.clone();
        if let Some(status) = &mut answer.status {
            status.shift_remove(COUNTER);
        }
        answer
    }

    /// The update that turns what the document says into this.
    fn update(&self, (quarantine, status): (Option<&Value>, Option<&Value>)) -> Value {
        let status_value = self.status.clone().map(Value::Object);
        let reported = json!({
            "quarantine": merge(quarantine, self.quarantine.as_ref()),
            "quarantineStatus": merge(status, status_value.as_ref()),
        });
        json!({"state": {"reported": reported}})
    }
}

fn without_counters(status: &Value) -> Value {
    let mut status = status.clone();
    if let Value::Object(status) = &mut status {
        status.shift_remove(COUNTER);
    }
    status
}

/// The patch that turns `from` into `to` in a shadow document: objects are merged there, so keys that are to go must be
/// sent as null (AWS IoT Device Shadow, "Deleting data"; the rule of RFC 7396).
fn merge(from: Option<&Value>, to: Option<&Value>) -> Value {
    match (from, to) {
        (_, None) => Value::Null,
        (Some(Value::Object(from)), Some(Value::Object(to))) => {
            let gone = from.keys().filter(|key| !to.contains_key(*key));
            let gone = gone.map(|key| (key.clone(), Value::Null));
            let kept = to
                .iter()
                .map(|(key, value)| (key.clone(), merge(from.get(key), Some(value))));
            Value::Object(kept.chain(gone).collect())
        }
        (_, Some(to)) => to.clone(),
    }
}

#[cfg(test)]
mod tests;
