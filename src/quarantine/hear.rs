//! What a shadow document changes: news told from echoes, replays and documents that took another's place.

use super::cause::{Cause, CauseKey, ShadowRef};
use super::event::Effect;
use super::shadow::{DesiredQuarantine, ShadowDocument, ShadowReading};
use super::state::Quarantine;
use super::stored::Heard;
use crate::model::{Now, ThingName, UnixTime};

/// How a document relates to what was last heard from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Novelty {
    /// A replay, or a stale copy from another source: as if it never came.
    Stale,
    /// Nothing new about quarantine: our own report, or somebody's other keys.
    Echo,
    /// Another document stands in the place of a deleted one and never had the key: no removal.
    Replaced,
    /// To be acted on.
    News,
}

fn novelty(
    last: &Heard,
    version: u64,
    asked: &DesiredQuarantine,
    written: Option<UnixTime>,
    document_time: UnixTime,
) -> Novelty {
    let newer = version > last.version;
    // no document of this version can be written later than what was heard, unless it was deleted and begun anew
    let begun_anew = !newer && written.unwrap_or(document_time) > last.written;
    // no document that follows what was heard is older than the writing of it; one that is comes from before a deletion
    // (versions may begin anew at 1) or from a source that lags
    if document_time != UnixTime(0) && document_time < last.written {
        return Novelty::Stale;
    }
    match asked {
        DesiredQuarantine::Absent => match (newer, last.deleted || last.asked == DesiredQuarantine::Absent) {
            (false, _) if begun_anew => Novelty::Replaced,
            (false, _) => Novelty::Stale,
            (true, true) => Novelty::Replaced,
            (true, false) => Novelty::News, // the key was removed
        },
        // without metadata the version alone says which is newer, and the document's time moves with every echo
        _ if !newer && (written.is_none() || !begun_anew) => Novelty::Stale,
        _ if begun_anew => Novelty::News,
        // a newer version of another source (ShadowManager counts by itself) with an older release
        DesiredQuarantine::Release if written.is_some_and(|written| written < last.written) => Novelty::Stale,
        _ if *asked != last.asked || written.is_some_and(|written| written > last.written) => Novelty::News,
        _ if last.deleted && written.is_none() => Novelty::News,
        _ => Novelty::Echo,
    }
}

impl Quarantine {
    pub(super) fn hear(
        &mut self,
        thing: ThingName,
        shadow: &ShadowRef,
        reading: ShadowReading,
        now: Now,
    ) -> Vec<Effect> {
        let read = self.clock.latest();
        let began = |(key, cause): (&CauseKey, &Cause)| matches!(key, CauseKey::Edge { .. }).then_some(cause.since);
        let state = self.things.get_mut(&thing);
        let last_alarm = state
            .as_ref()
            .and_then(|state| state.causes.iter().filter_map(began).max());
        let last = state.and_then(|state| state.heard.get_mut(shadow));
        let ShadowReading::Present(document) = reading else {
            return match last {
                Some(last) if !last.deleted => {
                    last.deleted = true;
                    vec![Effect::Persist]
                }
                _ => Vec::new(),
            };
        };
        let ShadowDocument {
            version,
            desired,
            written,
            document_time,
            ..
        } = *document;
        let acted_on = last.as_ref().map(|last| (last.written, last.read));
        if let Some(last) = last {
            match novelty(last, version, &desired, written, document_time) {
                Novelty::Stale => return Vec::new(),
                Novelty::Echo => {
                    // that the key was still there after an alarm decides what its removal may end
                    let worth_keeping = last.deleted || last_alarm.is_some_and(|began| began > last.read);
                    (last.version, last.read, last.deleted) = (version, read, false);
                    return if worth_keeping {
                        vec![Effect::Persist]
                    } else {
                        Vec::new()
                    };
                }
                Novelty::Replaced => {
                    last.written = last.written.max(document_time);
                    let worth_keeping = last.deleted || last.asked != DesiredQuarantine::Absent;
                    (last.version, last.asked, last.deleted) = (version, DesiredQuarantine::Absent, false);
                    return if worth_keeping {
                        vec![Effect::Persist]
                    } else {
                        Vec::new()
                    };
                }
                Novelty::News => {}
            }
        } else if desired == DesiredQuarantine::Absent {
            return Vec::new(); // a shadow that never spoke of quarantine: nothing to remember
        }
        let key = CauseKey::Shadow(shadow.clone());
        let who = key.to_string();
        if !self.has_room_for(&thing) {
            let why = "not acted on: too many things have state already; release some, or name fewer in the shadows";
            return vec![self.note(&thing, who, why, now)];
        }
        let failure = match &desired {
            DesiredQuarantine::Invalid(why) => Some(why.clone()),
            DesiredQuarantine::Quarantine { until: Some(until), .. } if self.clock.is_past(*until) => {
                Some("desired.quarantine.until is in the past".to_owned())
            }
            _ => None,
        };
        let (last_written, last_read) = acted_on.unwrap_or((UnixTime(0), UnixTime(0)));
        // an object's leaves are dated one by one: deleting the newest must not make older versions look newer
        // (what has no time of its own, as a removed key or an empty object, was written by the document's time at most)
        let newest = written.unwrap_or(document_time);
        let heard = Heard {
            version,
            written: last_written.max(newest),
            asked: desired.clone(),
            read,
            deleted: false,
            failure: failure.clone(),
        };
        let state = self.things.entry(thing.clone()).or_default();
        state.heard.insert(shadow.clone(), heard);

        let mut effects = match (desired, failure) {
            (DesiredQuarantine::Invalid(_), failure) => {
                let why = failure.unwrap_or_default();
                vec![self.note(&thing, who, why, now), Effect::Persist]
            }
            // an end in the past is an end: whatever this shadow asked before is over
            (DesiredQuarantine::Quarantine { .. }, Some(failure)) => {
                let mut effects = self.end(&thing, |k, _| *k == key, who.clone(), &failure, now);
                if effects.is_empty() {
                    effects = vec![self.note(&thing, who, failure, now), Effect::Persist];
                }
                effects
            }
            (DesiredQuarantine::Quarantine { posture, until, reason }, None) => {
                let posture = posture.unwrap_or(self.default_posture);
                let cause = Cause {
                    posture,
                    since: written.unwrap_or(document_time),
                    until,
                    reason,
                    who: None,
                    violation_id: None,
                    release_when_cleared: false,
                };
                self.begin(&thing, key, cause, who, now)
            }
            (DesiredQuarantine::Release | DesiredQuarantine::Absent, _) => {
                // The named shadow is closed to devices, so its `false` may also end what alarms began before it. A
                // removed key has no time of its own (the document's moves with our own reports); what is sure is
                // that it was there when last read.
                let closed = matches!(shadow, ShadowRef::Named(_));
                let before = |began: UnixTime| match written {
                    Some(written) => began.seconds() <= written.seconds(), // its own second included
                    None => began <= last_read,
                };
                let ends = |k: &CauseKey, cause: &Cause| {
                    *k == key || (closed && matches!(k, CauseKey::Edge { .. }) && before(cause.since))
                };
                // an alarm that waits for room, too
                self.stop_waiting(|waiting| closed && *waiting.began().0 == thing && before(waiting.began().1));
                let effects = self.end(&thing, ends, who.clone(), "released by the shadow", now);
                if !effects.is_empty() {
                    effects
                } else if self.labels(&thing).is_empty() {
                    vec![Effect::Persist]
                } else {
                    let why = "release asked for by the shadow; what others began stays";
                    vec![self.note(&thing, who, why, now), Effect::Persist]
                }
            }
        };
        if effects.is_empty() {
            effects.push(Effect::Persist); // the same demand once more: what was heard still counts
        }
        if !effects.contains(&Effect::ReportShadow(thing.clone())) {
            effects.push(Effect::ReportShadow(thing));
        }
        effects
    }
}
